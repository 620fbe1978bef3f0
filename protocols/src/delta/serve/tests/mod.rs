//! Server and client over loopback: real TLS, real sockets, connections that break, and peers that misbehave.

mod memory;
mod raw;
mod site;

use super::*;
use crate::delta::pack::{Compression, PackedBatch, PlainContent, pack};
use crate::delta::session::MIN_CREDIT_BYTES;
use crate::delta::wire::{
    Ack, BlockHash, Bye, DiskEntry, DiskState, Features, FrameKind, FrameReader, HashRequest,
    Hello, Mark, MarkKind, Marked, PassBegin, PassKind, RawFrame, Refused, StreamMode, Welcome,
};
use crate::delta::{
    Applied, Batch, Client, ClientError, ClientEvent, ClientSettings, Closed, DiskSlot,
    ExtentContent, Generation, HASH_BLOCK_SIZE, Name, OpenedStream, PeerIdentity, Position,
    Refusal, RefusalCode, ReplicaSink, StreamDisk, StreamHello, StreamId, Timestamp, tls,
};
use crate::pki::{Authority, Credentials, Validity};
use futures_util::future::{FutureExt, LocalBoxFuture};
use landfall_disks::uring::net::Peer;
use landfall_disks::uring::{Engine, EngineSettings};
use landfall_disks::{ByteOffset, ByteRange};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use memory::{DISK_BYTES, Machine, Memory, block, hash_of};
use site::{Site, breaking_proxy, compare, content, disks, packed, web, with_client};

#[test]
fn a_disk_is_copied_compared_and_marked() {
    let site = Site::start(ServerSettings::default());
    let (first, second) = (content(1), content(2));
    let (result, events) = with_client(site.settings(site.address), async |client| {
        let welcome = client.ready().await?;
        assert_eq!(welcome.disks[0].state, DiskState::Empty);
        let pass = client.begin_pass(PassKind::Copy, DISK_BYTES as u64).await?;
        for start in (0..DISK_BYTES / 2).step_by(1 << 18) {
            pass.send(packed(start, &first[start..start + (1 << 18)])).await?;
        }
        let marked = pass.mark(MarkKind::App, "first", Timestamp::default(), Vec::new()).await?;
        assert_eq!(marked.map(|marked| (marked.sequence, marked.kind)), Some((1, MarkKind::App)));
        compare(&client, &first).await?;
        compare(&client, &second).await?;
        client.leave(Bye::Done).await
    });
    assert_eq!(result, Ok(()));
    assert_eq!(events, [ClientEvent::Connected]);
    let machine = site.memory.0.lock();
    assert_eq!(machine.points.len(), 3);
    assert!(machine.points[0] == first && machine.points[1] == first);
    assert!(machine.points[2] == second);
    // 6 of the copy, none of the unchanged pass, 24 of the changed one, three marks.
    assert_eq!(machine.position, Position::new(6 + 24 + 3));
    drop(machine);
    let values = site.until(|values| values.connections_open == 0);
    assert_eq!((values.batches, values.marks, values.hash_blocks), (30, 3, 96));
    assert_eq!(values.plain_bytes, DISK_BYTES as u64);
    assert_eq!(site.memory.0.lock().closed, [Closed::Finished]);
}

#[test]
fn a_stream_survives_connections_that_break_anywhere() {
    let site = Site::start(ServerSettings::default());
    // Handshakes, greetings, tables, contents and marks are all hit by one of these.
    let cuts = [100, 1500, 2100, 2600, 3000, 20_000, 66_000, 70_001, 131_072, 300_000, 500_000];
    let proxy = breaking_proxy(site.address, cuts.to_vec());
    let source = content(3);
    let (result, events) = with_client(site.settings(proxy), async |client| {
        compare(&client, &source).await?;
        client.leave(Bye::Done).await
    });
    assert_eq!(result, Ok(()));
    let machine = site.memory.0.lock();
    assert!(machine.points.last() == Some(&source));
    let expected: Vec<Position> = (1..=24).map(Position::new).collect();
    assert_eq!(machine.applied, expected, "each block was applied once, in order");
    assert!(events.iter().any(|event| matches!(event, ClientEvent::Resumed { .. })), "{events:?}");
    assert!(events.iter().filter(|event| matches!(event, ClientEvent::Lost { .. })).count() >= 8);
}

#[test]
fn a_new_generation_is_met_by_comparing() {
    let site = Site::start(ServerSettings::default());
    let source = content(4);
    let memory = site.memory.clone();
    let (result, events) = with_client(site.settings(site.address), async |client| {
        compare(&client, &source).await?;
        {
            let mut machine = memory.0.lock();
            machine.generation = 2;
            machine.stream = None;
            machine.disk[..100_000].fill(9);
            machine.refuse = Some(Refusal::Failed("the journal was replaced".to_owned()));
        }
        let changed = content(5);
        assert_eq!(compare(&client, &changed).await, Err(ClientError::PositionLost));
        compare(&client, &changed).await
    });
    assert_eq!(result.map(|marked| marked.map(|marked| marked.sequence)), Ok(Some(2)));
    assert!(site.memory.0.lock().points[1] == content(5));
    let refused = |wanted| {
        events
            .iter()
            .any(|event| matches!(event, ClientEvent::Refused { code, .. } if *code == wanted))
    };
    assert!(refused(RefusalCode::Failed) && refused(RefusalCode::OldGeneration), "{events:?}");
    assert!(events.contains(&ClientEvent::PositionLost));
}

#[test]
fn a_full_journal_holds_the_stream_until_there_is_space() {
    let site = Site::start(ServerSettings::default());
    site.memory.0.lock().refuse = Some(Refusal::JournalFull("0 bytes left".to_owned()));
    let source = content(6);
    let (result, events) = with_client(site.settings(site.address), async |client| {
        compare(&client, &source).await?;
        client.leave(Bye::Done).await
    });
    assert_eq!(result, Ok(()));
    assert!(site.memory.0.lock().points[0] == source);
    assert!(matches!(
        &events[1],
        ClientEvent::Refused { code: RefusalCode::JournalFull, message, .. }
            if message == "the journal is full: 0 bytes left"
    ));
    assert!(matches!(events[2], ClientEvent::Resumed { .. }), "{events:?}");
}

#[test]
fn the_client_gives_up_only_on_what_cannot_change() {
    let site = Site::start(ServerSettings::default());
    let mut settings = site.settings(site.address);
    settings.machine = Name::new("wbe").expect("a name");
    let (result, _) = with_client(settings, async |client| client.ready().await.map(|_| ()));
    let message = "unknown machine wbe; machines: web".to_owned();
    assert_eq!(result, Err(ClientError::Refused { code: RefusalCode::UnknownMachine, message }));

    let other = Authority::create(&site.folder.path().join("other"), Validity::default());
    let folder = other.expect("made").ensure_client("eve").expect("issued");
    let mut credentials = Credentials::load_client(&folder).expect("complete");
    let untrusted_target = ClientSettings {
        tls: tls::client_config(credentials.clone()).expect("usable"),
        ..site.settings(site.address)
    };
    let (result, _) = with_client(untrusted_target, async |client| client.ready().await);
    assert!(matches!(result, Err(ClientError::Untrusted(_))), "{result:?}");
    // A stranger who trusts the target: it is the target that says no.
    let ours = Credentials::load_client(&site.authority.ensure_client("one").expect("issued"));
    credentials.authorities = ours.expect("complete").authorities;
    let stranger = ClientSettings {
        tls: tls::client_config(credentials).expect("usable"),
        ..site.settings(site.address)
    };
    let (result, _) = with_client(stranger, async |client| client.ready().await);
    assert!(matches!(result, Err(ClientError::Untrusted(_))), "{result:?}");
    assert_eq!(site.until(|values| values.tls_failures == 2).streams_open, 0);
}

#[test]
fn stopping_ends_a_client_that_has_no_connection() {
    let site = Site::start(ServerSettings::default());
    let settings = site.settings("127.0.0.1:1".parse().expect("an address"));
    let patient = ClientSettings { first_pause: Duration::from_secs(30), ..settings };
    let start = Instant::now();
    let (result, _) = with_client(patient, async |client| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.leave(Bye::Stopping).await
    });
    assert_eq!(result, Err(ClientError::Ended));
    assert!(start.elapsed() < Duration::from_secs(10));
}
