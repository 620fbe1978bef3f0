//! Exports that have to know who uses them: entered when requests follow, left with how they ended.

use crate::memory::{Seat, Server};
use crate::peers::run;
use crate::raw::Raw;
use crate::serve::wait_until;
use landfall_protocols::nbd::Leaving;
use std::time::Duration;

fn left(seat: &Seat, count: usize) -> Vec<Leaving> {
    wait_until(|| seat.left.lock().len() >= count);
    std::thread::sleep(Duration::from_millis(20));
    seat.left.lock().clone()
}

#[test]
fn whoever_only_asks_does_not_enter_and_who_is_refused_learns_why() {
    let server = Server::start(1 << 20);
    let script = r#"
one, two = nbd.NBD(), nbd.NBD()
one.connect_uri(uri)
two.set_opt_mode(True)
two.connect_uri(uri)
two.opt_info()
assert two.get_size() == 1 << 20
try:
    two.opt_go()
    raise SystemExit("a second one entered")
except nbd.Error:
    assert two.aio_is_negotiating()
two.opt_info()
one.pwrite(b"first", 0)
one.shutdown()
two.opt_go()
assert two.pread(5, 0) == b"first"
two.shutdown()
"#;
    let script = format!("import nbd\nuri = {:?}\n{script}", server.uri("seat"));
    run("/usr/bin/python3", &["-c", &script]);
    assert_eq!(left(&server.shelf.seat, 2), [Leaving::InOrder, Leaving::InOrder]);
    server.stop();
}

#[test]
fn who_goes_without_a_word_has_not_left_in_order() {
    let server = Server::start(1 << 20);
    let seat = &server.shelf.seat;
    drop(Raw::entered(&server, "seat"));
    let without_a_word = left(seat, 1);
    assert!(
        matches!(&without_a_word[0], Leaving::Broken(why) if why.contains("without")),
        "{without_a_word:?}"
    );
    let mut garbage = Raw::entered(&server, "seat");
    garbage.send(&[0x55; 28]);
    assert!(garbage.is_closed());
    assert!(matches!(left(seat, 2)[1], Leaving::Broken(_)));
    let mut polite = Raw::entered(&server, "seat");
    polite.request(0, 2, 2, 0, 0);
    assert!(polite.is_closed());
    assert_eq!(left(seat, 3)[2], Leaving::InOrder);
    let shelf = std::sync::Arc::clone(&server.shelf);
    let stays = Raw::entered(&server, "seat");
    server.stop();
    assert!(matches!(left(&shelf.seat, 4)[3], Leaving::Broken(_)));
    drop(stays);
}
