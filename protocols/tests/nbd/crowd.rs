//! Many clients that behave badly: nothing of them stays, and others do not feel it.

use crate::memory::Server;
use crate::raw::Raw;
use crate::serve::wait_until;
use landfall_protocols::nbd::serve::Settings;
use landfall_protocols::nbd::tls::{Security, server_config};
use landfall_protocols::pki::{Authority, Validity};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a list of descriptors").count()
}

/// A server that offers TLS, so that its clients can fail at that, too.
fn server(settings: Settings) -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pki");
    let authority = Authority::create(&path, Validity::default()).expect("an authority");
    let config = server_config(authority.ensure_server(&[]).expect("issued")).expect("usable");
    Server::listening(64 * MIB, settings, Security::Offered(config))
}

/// Connects, gets as far as `how` says, and goes without a word.
fn misbehave(server: &Server, how: usize) {
    match how {
        0 => drop(Raw::connect(server)),
        1 => {
            let mut raw = Raw::connect(server);
            raw.receive(18);
            raw.send(b"\0\0\0\x03IHAVE");
        }
        2 => {
            let mut raw = Raw::connect(server);
            raw.receive(18);
            raw.send(b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\xff\xff half of it");
        }
        3 => {
            let mut raw = Raw::connect(server);
            raw.receive(18);
            raw.send(&3u32.to_be_bytes());
            raw.option(5, b"");
            raw.option_reply(5);
            raw.send(b"\x16\x03\x01\x02\x00\x01\x00");
        }
        4 => {
            let mut raw = Raw::entered(server, "disk");
            for cookie in 0..20 {
                raw.request(0, 0, cookie, 0, 1 << 20);
            }
        }
        5 => {
            // A write of which the payload never comes to its end.
            let mut raw = Raw::entered(server, "disk");
            raw.request(0, 1, 1, 0, 1 << 20);
            raw.send(&[7; 5000]);
        }
        _ => {
            let mut raw = Raw::entered(server, "disk");
            raw.request(0, 0, 1, 0, 100_000);
            raw.receive(20);
        }
    }
}

#[test]
fn ten_thousand_who_go_without_a_word_leave_nothing() {
    let server = server(Settings::default());
    server.disk.put(0, &vec![1; MIB as usize]);
    // Whatever is made once is made.
    (0..7).for_each(|how| misbehave(&server, how));
    let counters = server.service.counters();
    wait_until(|| counters.connections.open.load(SeqCst) == 0);
    let before = open_descriptors();
    for index in 0..10_000 {
        misbehave(&server, index % 7);
        if index % 100 == 99 {
            // One more than there may be would be closed at once, and not tried.
            wait_until(|| counters.connections.open.load(SeqCst) == 0);
        }
    }
    assert_eq!(counters.connections.refused.load(SeqCst), 0);
    assert!(counters.connections.accepted.load(SeqCst) >= 10_000);
    wait_until(|| open_descriptors() <= before);
    wait_until(|| Arc::strong_count(&server.disk) == 2);
    let mut raw = Raw::entered(&server, "disk");
    raw.request(0, 0, 1, 0, 1);
    assert_eq!(raw.error_of(1), 0);
    assert_eq!(raw.receive(1), [1]);
    server.stop();
}

#[test]
fn a_crowd_that_sends_a_byte_at_a_time_is_cut_off_and_holds_nobody_up() {
    let handshake_time = Duration::from_millis(500);
    let server = server(Settings { handshake_time, negotiating: 200, ..Settings::default() });
    server.disk.put(0, &[9; 4096]);
    let mut good = Raw::entered(&server, "disk");
    let mut crowd: Vec<Raw> = (0..100).map(|_| Raw::connect(&server)).collect();
    for one in &mut crowd {
        assert!(one.try_send(&3u32.to_be_bytes()));
    }
    let begun = Instant::now();
    // Nothing is wrong with what they send, but that it has no end.
    let mut dripped = b"IHAVEOPT\0\0\0\x03\0\0\0\0".iter().cycle();
    let mut slowest = Duration::ZERO;
    let mut served = 0u64;
    while begun.elapsed() < handshake_time * 3 {
        let byte = [*dripped.next().expect("a cycle")];
        crowd.retain_mut(|one| one.try_send(&byte));
        let asked = Instant::now();
        good.request(0, 0, served, 0, 4096);
        assert_eq!(good.error_of(served), 0);
        assert_eq!(good.receive(4096), [9; 4096]);
        slowest = slowest.max(asked.elapsed());
        served += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let counters = server.service.counters();
    wait_until(|| counters.connections.open.load(SeqCst) == 1);
    assert!(crowd.is_empty(), "{} are still there", crowd.len());
    assert_eq!(counters.handshakes_failed.load(SeqCst), 100);
    // Far above what a request takes, far below what a crowd could hold it up by.
    assert!(slowest < handshake_time, "a request took {slowest:?}");
    assert!(served > 10);
    drop(good);
    server.stop();
}

/// Whoever has nothing to show holds no place that somebody else needs, however many they are and however long they wait.
#[test]
fn a_crowd_that_says_nothing_makes_way_for_whoever_comes() {
    let server = server(Settings { negotiating: 8, connections: 8, ..Settings::default() });
    server.disk.put(0, &[9; 4096]);
    let mut crowd = Vec::new();
    for round in 0..10 {
        crowd.extend((0..20).map(|_| Raw::connect(&server)));
        let mut good = Raw::entered(&server, "disk");
        good.request(0, 0, round, 0, 4096);
        assert_eq!(good.error_of(round), 0);
        assert_eq!(good.receive(4096), [9; 4096]);
    }
    let counters = server.service.counters();
    assert_eq!(counters.connections.refused.load(SeqCst), 0);
    wait_until(|| counters.connections.open.load(SeqCst) <= 8);
    let cut_off = counters.handshakes_failed.load(SeqCst);
    assert!(cut_off >= 192, "{cut_off} of 200 were cut off");
    drop(crowd);
    server.stop();
}
