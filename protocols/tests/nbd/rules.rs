//! Rules of the specification that show only over a connection: what is answered when, and who is let in and let go.

use crate::memory::{PATIENCE, Server};
use crate::raw::Raw;
use crate::serve::wait_until;
use landfall_disks::{ByteOffset, ByteRange};
use landfall_protocols::nbd::Leaving;
use landfall_protocols::nbd::serve::Settings;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FUA: u16 = 1;

/// Greeted, and no more than that.
fn greeted(server: &Server) -> Raw {
    let mut raw = Raw::connect(server);
    raw.receive(18);
    raw.send(&3u32.to_be_bytes());
    raw
}

/// `NBD_OPT_GO`: the kind of its final reply, and its text if it is an error.
fn go(raw: &mut Raw, export: &str) -> (u32, String) {
    let name = u32::try_from(export.len()).expect("short").to_be_bytes();
    raw.option(7, &[&name, export.as_bytes(), &[0, 0]].concat());
    loop {
        match raw.option_reply(7) {
            (3, _) => {}
            (kind, text) => return (kind, String::from_utf8(text).expect("text")),
        }
    }
}

/// Sections "NBD_CMD_FLUSH" and "NBD_CMD_FLAG_FUA": the reply comes when what it promises is so.
#[test]
fn what_makes_durable_is_answered_when_it_is_durable() {
    for (flags, command, payload) in
        [(0, FLUSH, 0), (FUA, WRITE, 4096), (FUA, WRITE_ZEROES, 0), (FUA, TRIM, 0)]
    {
        let server = Server::start(MIB);
        server.disk.flush_gate.forget_permits(1_000_000);
        let mut raw = Raw::entered(&server, "disk");
        raw.request(flags, command, 1, 0, if command == FLUSH { 0 } else { 4096 });
        raw.send(&vec![7; payload]);
        raw.request(0, READ, 2, 8192, 3);
        assert_eq!(raw.error_of(2), 0, "a read overtakes it");
        assert_eq!(raw.receive(3), [0; 3]);
        assert!(raw.is_silent(), "command {command} was answered before it was done");
        assert_eq!(server.disk.flushes.load(SeqCst), 0);
        server.disk.flush_gate.add_permits(1);
        assert_eq!(raw.error_of(1), 0);
        assert_eq!(server.disk.flushes.load(SeqCst), 1);
        server.stop();
    }
}

/// What replies hold for a client that takes none is bounded by bytes, with the limits everybody has.
#[test]
fn no_more_is_read_than_may_be_in_flight() {
    let server = Server::start(64 * MIB);
    let mut raw = Raw::entered(&server, "disk");
    for cookie in 0..100 {
        raw.request(0, READ, cookie, 0, MIB as u32);
    }
    let read = || server.service.counters().bytes_read.load(SeqCst) / MIB;
    wait_until(|| read() >= 32);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(read(), 32, "MiB were read for a client that takes none");
    for cookie in 0..100 {
        assert_eq!(raw.error_of(cookie), 0);
        assert!(raw.receive(MIB as usize).iter().all(|byte| *byte == 0));
    }
    drop(raw);
    server.stop();
}

/// Section "Simple reply message": an error has no data behind it.
#[test]
fn a_simple_reply_with_an_error_is_nothing_but_that() {
    let server = Server::start(MIB);
    let damaged = ByteRange::at(ByteOffset::new(8192), 512).expect("small");
    *server.disk.damaged.lock() = Some(damaged);
    server.disk.put(0, b"sound");
    let mut raw = Raw::entered(&server, "disk");
    raw.request(0, READ, 1, 4096, 8192);
    assert_eq!(raw.error_of(1), 5);
    raw.request(0, READ, 2, 0, 5);
    assert_eq!(raw.error_of(2), 0);
    assert_eq!(raw.receive(5), b"sound");
    assert!(raw.is_silent());
    server.stop();
}

/// Section "Termination of the session": nobody is cut off who broke no rule, so a place is there before it is promised.
#[test]
fn whoever_finds_every_place_taken_is_told_so_and_enters_nothing() {
    let settings = Settings { connections: 1, ..Settings::default() };
    let server = Server::with_settings(MIB, settings);
    let (mut first, mut second) = (greeted(&server), greeted(&server));
    assert_eq!(go(&mut first, "disk").0, 1);
    let (refused, why) = go(&mut second, "seat");
    assert_eq!(refused, 0x8000_0006, "NBD_REP_ERR_UNKNOWN");
    assert!(why.contains("all 1 connections"), "{why}");
    assert!(server.shelf.seat.left.lock().is_empty(), "it did not enter");
    // It may still ask, and enters once there is room.
    second.option(3, b"");
    while second.option_reply(3).0 != 1 {}
    first.request(0, DISCONNECT, 0, 0, 0);
    assert!(first.is_closed());
    let begun = Instant::now();
    while go(&mut second, "seat").0 != 1 {
        assert!(begun.elapsed() < PATIENCE, "no place came back");
    }
    second.request(0, FLUSH, 1, 0, 0);
    assert_eq!(second.error_of(1), 0);
    second.request(0, DISCONNECT, 0, 0, 0);
    assert!(second.is_closed());
    wait_until(|| server.shelf.seat.left.lock().as_slice() == [Leaving::InOrder]);
    assert_eq!(server.service.counters().handshakes_failed.load(SeqCst), 0);
    server.stop();
}

/// Whoever is refused by an export gives its place back.
#[test]
fn whoever_an_export_refuses_holds_no_place() {
    let settings = Settings { connections: 2, ..Settings::default() };
    let server = Server::with_settings(MIB, settings);
    let (mut seated, mut refused, mut third) =
        (greeted(&server), greeted(&server), greeted(&server));
    assert_eq!(go(&mut seated, "seat").0, 1);
    for _ in 0..3 {
        let (kind, why) = go(&mut refused, "seat");
        assert_eq!((kind, why.as_str()), (0x8000_0006, "the seat is taken"));
    }
    assert_eq!(go(&mut third, "disk").0, 1);
    server.stop();
}

/// Section "NBD_CMD_DISC": everything that was asked for before is answered, to whoever takes it.
#[test]
fn whoever_leaves_gets_all_its_answers_however_slowly_it_takes_them() {
    let drain_time = Duration::from_millis(500);
    let server = Server::with_settings(64 * MIB, Settings { drain_time, ..Settings::default() });
    server.disk.put(0, &vec![7; 32 * MIB as usize]);
    let mut raw = Raw::entered(&server, "seat");
    for cookie in 0..8 {
        raw.request(0, READ, cookie, cookie * 4 * MIB, 4 * MIB as u32);
    }
    raw.request(0, DISCONNECT, 0, 0, 0);
    let begun = Instant::now();
    for _ in 0..8 {
        let head = raw.receive(16);
        assert_eq!(head[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(50));
            assert!(raw.receive(MIB as usize).iter().all(|byte| *byte == 7));
        }
    }
    assert!(begun.elapsed() > 2 * drain_time, "it was not slow");
    assert!(raw.is_closed());
    wait_until(|| server.shelf.seat.left.lock().as_slice() == [Leaving::InOrder]);
    server.stop();
}

/// The disk may take its time, too.
#[test]
fn whoever_leaves_is_answered_when_the_disk_is_slow() {
    let drain_time = Duration::from_millis(50);
    let server = Server::with_settings(MIB, Settings { drain_time, ..Settings::default() });
    server.disk.gate.forget_permits(1_000_000);
    let mut raw = Raw::entered(&server, "disk");
    raw.request(0, READ, 1, 0, 10);
    raw.request(0, DISCONNECT, 0, 0, 0);
    wait_until(|| server.disk.arrived.load(SeqCst) == 1);
    std::thread::sleep(5 * drain_time);
    server.disk.gate.add_permits(1);
    assert_eq!(raw.error_of(1), 0);
    assert_eq!(raw.receive(10), [0; 10]);
    assert!(raw.is_closed());
    server.stop();
}

#[test]
fn whoever_leaves_and_takes_nothing_is_let_go() {
    let drain_time = Duration::from_millis(200);
    let server = Server::with_settings(64 * MIB, Settings { drain_time, ..Settings::default() });
    let mut raw = Raw::entered(&server, "seat");
    for cookie in 0..8 {
        raw.request(0, READ, cookie, 0, 4 * MIB as u32);
    }
    raw.request(0, DISCONNECT, 0, 0, 0);
    let counters = server.service.counters();
    wait_until(|| counters.connections.open.load(SeqCst) == 0);
    wait_until(|| server.shelf.seat.left.lock().len() == 1);
    assert!(matches!(&server.shelf.seat.left.lock()[0], Leaving::Broken(_)));
    drop(raw);
    server.stop();
}
