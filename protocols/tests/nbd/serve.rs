//! The server against this project's client, and against raw bytes where a client would not send them.

use crate::memory::{PATIENCE, Server};
use crate::raw::Raw;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Content, Durability, MappedRange};
use landfall_protocols::nbd::client::{Client, ClientError, negotiate};
use landfall_protocols::nbd::serve::Settings;
use landfall_protocols::nbd::wire::transmission::{Command, ErrorCode};
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

fn pattern(length: u64, seed: u64) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(seed | 1) >> 3) as u8 | 1).collect()
}

/// Runs `talk` with a connected client, then disconnects politely.
fn with_client<T, F: Future<Output = T>>(
    server: &Server,
    export: &str,
    talk: impl FnOnce(Client) -> F,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stream = tokio::net::UnixStream::connect(server.socket()).await.expect("connected");
        let (client, connection) = negotiate(stream, export).await.expect("negotiated");
        let (outcome, ended) = tokio::join!(talk(client), connection.run());
        ended.expect("a polite end");
        outcome
    })
}

fn server_error(outcome: Result<impl std::fmt::Debug, ClientError>) -> (ErrorCode, String) {
    match outcome {
        Err(ClientError::Server(error)) => (error.code, error.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_in_any_size() {
    let server = Server::start(64 * MIB);
    with_client(&server, "disk", async |client| {
        for (at, length) in [(0, 1), (511, 1026), (4096, 4096), (70_001, 300_007), (MIB, 32 * MIB)]
        {
            let data = pattern(length, at + length);
            let durability = if at == 511 { Durability::Durable } else { Durability::Cached };
            client
                .write(ByteOffset::new(at), Buffer::copy_of(&data), durability)
                .await
                .expect("write");
            let read = client.read(range(at, length)).await.expect("read");
            assert!(*read == *data, "{length} bytes at {at}");
        }
        client.flush().await.expect("flush");
    });
    assert_eq!(server.disk.flushes.load(SeqCst), 2);
    let counters = server.service.counters();
    let written: u64 = 1 + 1026 + 4096 + 300_007 + 32 * MIB;
    assert_eq!(counters.bytes_written.load(SeqCst), written);
    assert_eq!(counters.bytes_read.load(SeqCst), written);
    server.stop();
}

#[test]
fn holes_are_told_not_sent() {
    let server = Server::start(64 * MIB);
    server.disk.put(MIB, &pattern(8192, 3));
    with_client(&server, "disk", async |client| {
        let read = client.read(range(0, 2 * MIB)).await.expect("read");
        let mut expected = vec![0; 2 * MIB as usize];
        expected[MIB as usize..][..8192].copy_from_slice(&pattern(8192, 3));
        assert!(*read == *expected);
        let mut status = Vec::new();
        let mut at = 0;
        while at < 64 * MIB {
            let part = client.block_status(range(at, 64 * MIB - at)).await.expect("status");
            at = part.last().expect("never empty").range.end().bytes();
            status.extend(part);
        }
        let mapped = |start, length, content| MappedRange { range: range(start, length), content };
        let expected = [
            mapped(0, MIB, Content::Hole),
            mapped(MIB, 8192, Content::Data),
            mapped(MIB + 8192, 63 * MIB - 8192, Content::Hole),
        ];
        assert_eq!(status, expected);
    });
    server.stop();
}

#[test]
fn many_requests_are_in_flight_at_once_and_answered_out_of_order() {
    let server = Server::start(MIB);
    server.disk.put(0, &pattern(MIB, 9));
    server.disk.gate.forget_permits(1_000_000);
    with_client(&server, "disk", async |client| {
        let reads = (0..200).map(|index| client.read(range(index * 4096, 4096)));
        let reads = futures_util::future::join_all(reads);
        // Nothing is read before the gate opens, and a flush overtakes it all.
        let flush = async {
            client.flush().await.expect("flush");
            server.disk.gate.add_permits(1);
        };
        let (reads, ()) = tokio::join!(reads, flush);
        for (index, read) in reads.into_iter().enumerate() {
            let read = read.expect("read");
            assert!(*read == pattern(MIB, 9)[index * 4096..][..4096], "block {index}");
        }
    });
    server.stop();
}

#[test]
fn disk_errors_have_a_number_and_words_and_the_connection_goes_on() {
    let server = Server::start(MIB);
    server.disk.room.store(0, SeqCst);
    with_client(&server, "disk", async |client| {
        *server.disk.damaged.lock() = Some(range(8192, 512));
        let damaged = client.read(range(4096, 8192)).await;
        match damaged {
            Err(ClientError::Server(error)) => {
                assert_eq!((error.code, error.at), (ErrorCode::Io, Some(8192)));
                assert!(error.message.contains("checksum"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        let full = client.write(ByteOffset::new(0), Buffer::zeroed(10), Durability::Cached).await;
        assert_eq!(server_error(full).0, ErrorCode::NoSpace);
        let past = client.read(range(MIB - 1, 2)).await;
        let (code, message) = server_error(past);
        assert_eq!(code, ErrorCode::Invalid);
        assert!(message.contains("past the end"), "{message}");
        let past = client.write(ByteOffset::new(MIB), Buffer::zeroed(1), Durability::Cached).await;
        assert_eq!(server_error(past).0, ErrorCode::NoSpace);
        assert!(client.read(range(0, 4096)).await.is_ok());
    });
    with_client(&server, "frozen", async |client| {
        assert!(client.is_read_only());
        let refused =
            client.write(ByteOffset::new(0), Buffer::zeroed(4096), Durability::Cached).await;
        assert_eq!(server_error(refused).0, ErrorCode::NotPermitted);
        assert!(client.read(range(0, 4096)).await.is_ok());
    });
    server.stop();
}

#[test]
fn a_defect_that_a_request_meets_is_an_error_of_that_request() {
    let server = Server::start(MIB);
    server.disk.put(0, &pattern(MIB, 7));
    *server.disk.cursed.lock() = Some(range(8192, 512));
    with_client(&server, "disk", async |client| {
        // More of them than may be in flight: what they held is given back.
        for _ in 0..2 * Settings::default().requests_in_flight {
            let met = tokio::time::timeout(PATIENCE, client.read(range(4096, 8192))).await;
            let (code, message) = server_error(met.expect("an answer"));
            assert_eq!(code, ErrorCode::Io);
            assert!(message.contains("defect"), "{message}");
        }
        let read = client.read(range(0, 8192)).await.expect("another request");
        assert!(*read == pattern(MIB, 7)[..8192]);
    });
    let failed = server.service.counters().of(Command::Read).failed.load(SeqCst);
    assert_eq!(failed, u64::from(2 * Settings::default().requests_in_flight));
    server.stop();
}

#[test]
fn a_name_is_resolved_once_per_connection() {
    let server = Server::start(MIB);
    for expected in ["disk@1", "disk@2"] {
        let name = with_client(&server, "disk", async |client| client.export().name.clone());
        assert_eq!(name, expected);
    }
    assert_eq!(server.shelf.opened.lock().as_slice(), ["disk", "disk"]);
    server.stop();
}

#[test]
fn an_unknown_name_is_told_what_exists() {
    let server = Server::start(MIB);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let stream = tokio::net::UnixStream::connect(server.socket()).await.expect("connected");
        match negotiate(stream, "nothing").await {
            Err(ClientError::Refused { message, .. }) => assert!(message.contains("there is disk")),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("opened"),
        }
    });
    server.stop();
}

#[test]
fn refused_requests_leave_the_next_one_readable() {
    let server = Server::start(64 * MIB);
    let mut raw = Raw::entered(&server, "disk");
    raw.request(0, 77, 1, 0, 0);
    assert_eq!(raw.error_of(1), 22);
    raw.request(1 << 2, 0, 2, 0, 512);
    assert_eq!(raw.error_of(2), 22, "DF without structured replies");
    // A write past the end, with its payload behind it.
    raw.request(0, 1, 3, 64 * MIB, 3);
    raw.send(b"abc");
    assert_eq!(raw.error_of(3), 28);
    // Longer than the maximum payload, and still skipped.
    let long = 33 * MIB;
    raw.request(0, 1, 4, 0, u32::try_from(long).expect("small"));
    let payload = vec![7; MIB as usize];
    for _ in 0..33 {
        raw.send(&payload);
    }
    assert_eq!(raw.error_of(4), 22);
    raw.request(0, 7, 5, 0, 512);
    assert_eq!(raw.error_of(5), 22, "block status without context");
    // Nothing asked, nothing done.
    for (cookie, command) in [(6, 0), (7, 1), (8, 4), (9, 6)] {
        raw.request(0, command, cookie, 0, 0);
        assert_eq!(raw.error_of(cookie), 0, "command {command}");
    }
    raw.request(1, 1, 10, 4096, 3);
    raw.send(b"abc");
    assert_eq!(raw.error_of(10), 0);
    raw.request(0, 0, 11, 4096, 3);
    assert_eq!(raw.error_of(11), 0);
    assert_eq!(raw.receive(3), b"abc");
    raw.request(0, 2, 12, 0, 0);
    assert!(raw.is_closed());
    server.stop();
}

#[test]
fn requests_before_a_disconnect_are_answered() {
    let server = Server::start(MIB);
    server.disk.put(0, b"before the end");
    server.disk.gate.forget_permits(1_000_000);
    let mut raw = Raw::entered(&server, "disk");
    raw.request(0, 0, 1, 0, 14);
    raw.request(0, 2, 2, 0, 0);
    wait_until(|| server.disk.arrived.load(SeqCst) == 1);
    server.disk.gate.add_permits(1);
    assert_eq!(raw.error_of(1), 0);
    assert_eq!(raw.receive(14), b"before the end");
    assert!(raw.is_closed());
    server.stop();
}

#[test]
fn breaches_close_the_connection_and_are_counted() {
    let server = Server::start(MIB);
    let mut garbage = Raw::entered(&server, "disk");
    garbage.send(&[0x55; 28]);
    assert!(garbage.is_closed());
    let mut huge = Raw::entered(&server, "disk");
    huge.request(0, 1, 1, 0, u32::MAX);
    assert!(huge.is_closed());
    let counters = server.service.counters();
    assert_eq!(counters.connections_broken.load(SeqCst), 2);
    let mut tls = Raw::connect(&server);
    tls.receive(18);
    tls.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert!(tls.is_closed());
    wait_until(|| counters.handshakes_failed.load(SeqCst) == 1);
    server.stop();
}

pub(crate) fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whoever_dawdles_over_the_handshake_is_cut_off() {
    let handshake_time = Duration::from_millis(100);
    let server = Server::with_settings(MIB, Settings { handshake_time, ..Settings::default() });
    let mut raw = Raw::connect(&server);
    raw.receive(18);
    let start = Instant::now();
    assert!(raw.is_closed());
    assert!(start.elapsed() >= Duration::from_millis(50));
    // Once negotiated, a connection may be idle.
    let mut idle = Raw::entered(&server, "disk");
    std::thread::sleep(Duration::from_millis(300));
    idle.request(0, 3, 1, 0, 0);
    assert_eq!(idle.error_of(1), 0);
    drop(idle);
    server.stop();
}

#[test]
fn one_connection_too_many_is_closed_and_room_comes_back() {
    let server = Server::with_settings(MIB, Settings { connections: 2, ..Settings::default() });
    // Whoever was answered is served, and no longer one who negotiates.
    let [one, _two] = [1, 2].map(|cookie| {
        let mut raw = Raw::entered(&server, "disk");
        raw.request(0, 3, cookie, 0, 0);
        assert_eq!(raw.error_of(cookie), 0);
        raw
    });
    let mut three = Raw::connect(&server);
    assert!(three.is_closed());
    drop(one);
    let counters = server.service.counters();
    wait_until(|| counters.connections.open.load(SeqCst) == 1);
    let _again = Raw::entered(&server, "disk");
    assert_eq!(counters.connections.refused.load(SeqCst), 1);
    server.stop();
}

#[test]
fn a_client_that_reads_no_replies_is_not_asked_more() {
    let settings = Settings { requests_in_flight: 4, ..Settings::default() };
    let server = Server::with_settings(64 * MIB, settings);
    server.disk.put(0, &pattern(MIB, 5));
    let mut raw = Raw::entered(&server, "disk");
    for cookie in 0..100 {
        raw.request(0, 0, cookie, 0, MIB as u32);
    }
    std::thread::sleep(Duration::from_millis(300));
    let reads = server.service.counters().bytes_read.load(SeqCst) / MIB;
    // A reply is larger than the socket's buffer, so none was sent whole and no permit came back.
    assert!(reads <= 4, "{reads} MiB were read for a client that takes none");
    // It takes them after all, and gets every one.
    for _ in 0..100 {
        let head = raw.receive(16);
        assert_eq!(head[4..8], [0; 4]);
        assert!(raw.receive(MIB as usize) == pattern(MIB, 5));
    }
    drop(raw);
    server.stop();
}

#[test]
fn an_abrupt_end_with_requests_in_flight_leaves_nothing_behind() {
    let server = Server::start(64 * MIB);
    server.disk.put(0, &pattern(MIB, 5));
    for round in 0..20 {
        let mut raw = Raw::entered(&server, "disk");
        for cookie in 0..50 {
            raw.request(0, 0, cookie, 0, MIB as u32);
        }
        if round % 2 == 0 {
            raw.receive(100);
        }
    }
    let counters = server.service.counters();
    wait_until(|| counters.connections.open.load(SeqCst) == 0);
    // Exports are released with their connections: the server's own are all that is left.
    wait_until(|| std::sync::Arc::strong_count(&server.disk) == 2);
    server.stop();
}

#[test]
fn stopping_answers_what_is_in_flight() {
    let server = Server::start(MIB);
    server.disk.put(0, b"still here");
    server.disk.gate.forget_permits(1_000_000);
    let mut raw = Raw::entered(&server, "disk");
    raw.request(0, 0, 1, 0, 10);
    wait_until(|| server.disk.arrived.load(SeqCst) == 1);
    server.service.stop();
    server.disk.gate.add_permits(1);
    assert_eq!(raw.error_of(1), 0);
    assert_eq!(raw.receive(10), b"still here");
    assert!(raw.is_closed());
    assert!(UnixStream::connect(server.socket()).is_err(), "nobody listens any more");
    server.stop();
}

#[test]
fn whoever_asks_while_the_server_stops_is_told_and_may_leave() {
    let settings = Settings { parting_time: PATIENCE, ..Settings::default() };
    let server = Server::with_settings(MIB, settings);
    server.disk.put(0, b"still here");
    server.disk.gate.forget_permits(1_000_000);
    let mut raw = Raw::entered(&server, "disk");
    let mut haggling = Raw::connect(&server);
    haggling.receive(18);
    haggling.send(&3u32.to_be_bytes());
    raw.request(0, 0, 1, 0, 10);
    wait_until(|| server.disk.arrived.load(SeqCst) == 1);
    server.service.stop();
    // Later requests are refused, their payload taken; the one in flight is served.
    raw.request(0, 1, 2, 0, 3);
    raw.send(b"abc");
    assert_eq!(raw.error_of(2), 108);
    raw.request(0, 0, 3, 0, 10);
    assert_eq!(raw.error_of(3), 108);
    server.disk.gate.add_permits(1);
    assert_eq!(raw.error_of(1), 0);
    assert_eq!(raw.receive(10), b"still here");
    raw.request(0, 2, 4, 0, 0);
    assert!(raw.is_closed());

    haggling.option(3, b"");
    assert_eq!(haggling.option_reply(3).0, 0x8000_0007);
    haggling.option(2, b"");
    assert_eq!(haggling.option_reply(2).0, 1);
    assert!(haggling.is_closed());
    // Everybody has left, so nothing is waited for.
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn whoever_leaves_need_not_wait_for_an_answer() {
    let server = Server::start(MIB);
    for _ in 0..50 {
        let mut raw = Raw::connect(&server);
        raw.receive(18);
        raw.send(&3u32.to_be_bytes());
        raw.option(2, b"farewell");
    }
    let counters = server.service.counters();
    wait_until(|| counters.connections.accepted.load(SeqCst) == 50);
    wait_until(|| counters.connections.open.load(SeqCst) == 0);
    assert_eq!(counters.handshakes_failed.load(SeqCst), 0);
    server.stop();
}
