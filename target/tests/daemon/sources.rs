//! Sources that speak the delta stream themselves, and deliver in order.

use crate::harness::Target;
use landfall_disks::ByteRange;
use landfall_protocols::delta::pack::{Compression, PackedBatch, PlainContent, pack};
use landfall_protocols::delta::wire::{Bye, DiskEntry, MarkKind, WriteOrder};
use landfall_protocols::delta::{Client, ClientSettings, DiskSlot, Name, Pass, Timestamp, tls};
use landfall_protocols::pki::{Credentials, client_folder};

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const BLOCK: usize = 4096;

/// The first block becomes `byte` all over.
pub(crate) fn write(byte: u8) -> PackedBatch {
    let extents = [(ByteRange::up_to(BLOCK as u64), PlainContent::Data(&[byte; BLOCK]))];
    pack(Timestamp::default(), DiskSlot::new(0), &extents, Compression::Lz4)
}

/// Runs `work` as the sources of disk `os` of these machines, which have a mebibyte each.
pub(crate) fn as_sources(target: &Target, machines: &[&str], work: impl AsyncFnOnce(&[Client])) {
    let status = target.json(&["status"]);
    let address = status["listen"]["delta"].as_str().expect("it listens").to_owned();
    let folder = client_folder(&target.data().join("pki"), "local");
    let settings = |machine: &str| {
        let credentials = Credentials::load_client(&folder).expect("credentials of this machine");
        let tls = tls::client_config(credentials).expect("they are good");
        let disk = DiskEntry { name: Name::new("os").expect("a name"), size_bytes: MIB as u64 };
        let machine = Name::new(machine).expect("a name");
        ClientSettings::new(address.clone(), tls, machine, vec![disk])
    };
    let settings: Vec<_> = machines.iter().map(|machine| settings(machine)).collect();
    tokio_uring::start(async {
        let (mut clients, mut drivers) = (Vec::new(), Vec::new());
        for settings in settings {
            let (client, driver) = Client::new(settings, Box::new(|_| ()));
            drivers.push(tokio_uring::spawn(driver));
            client.ready().await.expect("nobody else feeds the machine");
            clients.push(client);
        }
        work(&clients).await;
        for client in clients {
            // A target that was killed does not answer.
            let _ = client.leave(Bye::Stopping).await;
        }
        for driver in drivers {
            driver.await.expect("no panic");
        }
    });
}

/// Does what blocks beside the source, whose thread has a runtime already.
pub(crate) fn beside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join()).expect("no panic")
}

/// Order of a synchronous source begins. The sequence of the point.
pub(crate) async fn begin_order(pass: &Pass) -> u64 {
    let order = WriteOrder::Synchronous;
    let marked = pass.mark_in_order(MarkKind::Crash, "", Timestamp::default(), order).await;
    marked.expect("a point").expect("its answer came").sequence
}
