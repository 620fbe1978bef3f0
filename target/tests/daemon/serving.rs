//! How exports are served: what clients may use of them, and what is read ahead of them.

use crate::harness::{Target, metric, metrics, noise};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};
use landfall_protocols::nbd::client::Client;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

/// Time that 60 reads take over each of these connections.
async fn reads(clients: &[&[Client]]) -> Duration {
    let begun = Instant::now();
    let all = clients.iter().copied().flatten().flat_map(|client| {
        (0..60).map(move |index| async move {
            client.read(range(index * 4096, 4096)).await.expect("read");
        })
    });
    futures_util::future::join_all(all).await;
    begun.elapsed()
}

#[test]
fn all_who_read_a_disk_share_its_limit() {
    let config = "[nbd.limit]\nweb = { iops = 50 }\n'*' = { bandwidth = '1GiB' }\n";
    let target = Target::with_config(config).with_machine(&noise(1, MIB));
    let waited = |text: &str| {
        let name = "landfall_nbd_limit_wait_seconds_total ";
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.and_then(|value| value.parse::<f64>().ok()).expect("a metric")
    };
    assert_eq!(waited(&metrics(&target)), 0.0);
    // 120 requests at 50 a second, less the burst: from two connections, by two names of one moment.
    let sequence = format!("web/os@seq:{}", target.points()[0]["sequence"]);
    target.with_clients("web/os", 1, async |first| {
        let (second, connection) = target.connect(&sequence).await.expect("it opens");
        let connection = tokio::spawn(connection.run());
        let both = reads(&[first, std::slice::from_ref(&second)]).await;
        assert!(both > Duration::from_millis(2000), "120 reads took {both:?}");
        drop(second);
        connection.await.expect("no panic").expect("a good end");
    });
    assert!(waited(&metrics(&target)) > 60.0, "{}", waited(&metrics(&target)));
}

#[test]
fn a_machine_that_is_not_named_has_the_limit_of_all_others() {
    let config = "[nbd.limit]\ndb = { iops = 1 }\n'*' = { bandwidth = '2MiB' }\n";
    let target = Target::with_config(config).with_machine(&noise(1, 4 * MIB));
    let begun = Instant::now();
    target.read("web/os").expect("read");
    // One request is not cut in two: what it took is what the next one waits for.
    target.read("web/os").expect("read");
    assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
}

#[test]
fn who_reads_on_sees_every_write_that_was_answered() {
    let content = noise(1, 4 * MIB);
    let target = Target::start().with_machine(&content);
    target.run(&["branch", "add", "web", "--name", "test"]);
    target.run(&["export", "add", "web~test", "--writable"]);
    target.with_clients("web~test/os", 2, async |clients| {
        let [reader, writer] = clients else { panic!("two clients") };
        let mut model = content.clone();
        for (number, at) in (0..4 * MIB).step_by(8192).enumerate() {
            // Now and then, just ahead of the reader, over the other connection.
            if number % 7 == 3 {
                let fill = u8::try_from(number % 251).expect("a byte");
                let ahead = (at + 20_000).min(4 * MIB - 100);
                let bytes = Buffer::copy_of(&[fill; 100]);
                let offset = ByteOffset::new(ahead as u64);
                writer.write(offset, bytes, Durability::Durable).await.expect("written");
                model[ahead..ahead + 100].fill(fill);
            }
            let read = reader.read(range(at as u64, 8192)).await.expect("read");
            assert!(*read == model[at..at + 8192], "stale bytes at {at}");
        }
    });
}

#[test]
fn connections_beyond_the_configured_number_are_closed() {
    let target = Target::with_config("[nbd]\nconnections = 2\n").with_machine(&noise(1, MIB));
    target.with_clients("web/os", 2, async |clients| {
        clients[1].read(range(0, 4096)).await.expect("served");
        assert!(target.connect("web/os").await.is_err(), "a third one was served");
    });
}

#[test]
fn what_a_boot_has_read_is_in_memory_for_the_next_one() {
    let content = noise(1, 8 * MIB);
    let target = Target::start().with_machine(&content);
    let set = target.data().join("boots/web/os.boot");
    let branch = |name: &str| {
        target.run(&["branch", "add", "web", "--name", name]);
        target.run(&["export", "add", &format!("web~{name}"), "--writable"]);
        format!("web~{name}/os")
    };
    let boot = async |client: &Client| {
        client.read(range(0, 512)).await.expect("the first sector");
        for piece in (0..40).rev() {
            client.read(range(piece * 131_072, 4096)).await.expect("read");
        }
        client.write(ByteOffset::new(0), Buffer::copy_of(&[9; 512]), Durability::Durable).await
    };
    target.with_clients(&branch("first"), 1, async |clients| {
        boot(&clients[0]).await.expect("written");
    });
    wait_until("the boot is remembered", || set.exists());
    assert_eq!(metric(&target, BOOT_READS), 0);

    target.with_clients(&branch("second"), 1, async |clients| {
        let [client] = clients else { panic!("one client") };
        client.read(range(0, 512)).await.expect("the first sector");
        // A piece that the last boot has read; other bytes of it are asked for.
        let piece = range(70_000, 40_000);
        let begun = Instant::now();
        while metric(&target, BOOT_READS) == 0 {
            assert!(begun.elapsed() < PATIENCE, "nothing is served from memory");
            let read = client.read(range(39 * 131_072 + 8192, 4096)).await.expect("read");
            assert!(*read == content[39 * 131_072 + 8192..][..4096]);
        }
        // Other bytes of pieces that are there, and what was written to them meanwhile.
        let at = 38 * 131_072 + 30_000;
        let written = Buffer::copy_of(&[5; 100]);
        client.write(ByteOffset::new(at), written, Durability::Durable).await.expect("written");
        let read = client.read(range(at - 10, 120)).await.expect("read");
        let before = usize::try_from(at).expect("small") - 10;
        assert!(read[..10] == content[before..][..10] && read[10..110] == [5; 100]);
        assert!(read[110..] == content[before + 110..][..10]);
        assert!(*client.read(piece).await.expect("read") == content[70_000..110_000]);
    });

    // It is not kept for a machine that is gone.
    for name in ["1", "2"] {
        target.run(&["export", "remove", name]);
    }
    for name in ["web~first", "web~second"] {
        target.run(&["branch", "discard", name]);
    }
    target.run(&["machine", "remove", "web"]);
    let mut target = target;
    target.stop();
    target.resume();
    assert!(!set.exists());
}

/// Reads that were served from memory.
const BOOT_READS: &str = "landfall_nbd_boot_reads_total";
/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
