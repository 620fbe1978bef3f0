//! Task management, also while the disk hangs.

use super::initiator::{Initiator, Opening};
use super::*;
use crate::iscsi::wire::command::ScsiCommand;
use crate::iscsi::wire::header::DataLength;
use crate::iscsi::wire::pdu::{Request, Response};
use crate::iscsi::wire::task::{Function, TaskAnswer};
use std::sync::atomic::Ordering::SeqCst;

/// What `act` gives, at once.
fn at_once<T>(act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let value = act();
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    value
}

/// The disk does nothing any more.
fn stall(server: &Server) {
    assert_eq!(server.disk.reads.forget_permits(disk::OPEN), disk::OPEN);
    assert_eq!(server.disk.writes.forget_permits(disk::OPEN), disk::OPEN);
}

fn go_on(server: &Server) {
    server.disk.reads.add_permits(disk::OPEN);
    server.disk.writes.add_permits(disk::OPEN);
}

/// Goes on, and shows what is in the first block once so many writes were decided.
fn after(server: &Server, writes: usize) -> Vec<u8> {
    go_on(server);
    server.until(|_| server.disk.decided.load(SeqCst) == writes);
    server.disk.content()[..512].to_vec()
}

/// A write of the first block that the disk does not take.
fn write(initiator: &mut Initiator) -> ScsiCommand {
    let command = initiator.write_command(0, 1);
    initiator.start(&command, &pattern(512, 9));
    command
}

fn other() -> Opening {
    Opening { isid: 2, ..Opening::default() }
}

/// COMPARE AND WRITE of the first block, from zeroes to `data`.
fn compare_and_write(initiator: &mut Initiator, data: &[u8]) -> ScsiCommand {
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x89, 1);
    let command = initiator.make(&cdb, 0, 1024);
    initiator.start(&command, &[&[0; 512], data].concat());
    command
}

#[test]
fn an_abort_is_answered_while_the_disk_hangs() {
    let server = Server::start(brisk());
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    stall(&server);
    let write = compare_and_write(&mut initiator, &pattern(512, 7));
    let read = initiator.read_command(100, 1);
    initiator.start(&read, &[]);
    server.until(|counters| counters.commands.load(Relaxed) == 2);
    for command in [&write, &read] {
        let answer = at_once(|| initiator.manage(Function::AbortTask, Some(command)));
        assert_eq!(answer, TaskAnswer::Complete);
    }
    let again = at_once(|| initiator.manage(Function::AbortTask, Some(&write)));
    assert_eq!(again, TaskAnswer::NoSuchTask);
    assert_eq!(at_once(|| initiator.attention()), None, "the session lives");
    go_on(&server);
    // Behind the lock of the aborted one: when this is done, that has ended.
    let next = compare_and_write(&mut initiator, &pattern(512, 9));
    assert_eq!(initiator.finish(&next, &[]).status, 0, "the block was still zero");
    assert_eq!(server.disk.content()[..512], pattern(512, 9));
    assert_eq!(server.service.counters.commands_aborted.load(Relaxed), 2);
    initiator.logout();
    server.stop();
}

#[test]
fn a_reset_of_the_unit_ends_what_all_have_there() {
    let server = Server::start(brisk());
    let mut one = Initiator::in_session(server.address, &Opening::default());
    let mut two = Initiator::in_session(server.address, &other());
    stall(&server);
    for initiator in [&mut one, &mut two] {
        write(initiator);
    }
    server.until(|counters| counters.commands.load(Relaxed) == 2);
    let answer = at_once(|| one.manage(Function::LogicalUnitReset, None));
    assert_eq!(answer, TaskAnswer::Complete);
    assert_eq!(server.service.counters.commands_aborted.load(Relaxed), 2);
    for initiator in [&mut one, &mut two] {
        assert_eq!(at_once(|| initiator.attention()), Some((6, 0x29)));
    }
    assert_eq!(after(&server, 2), [0; 512], "nothing came of what was aborted");
    for initiator in [&mut one, &mut two] {
        assert_eq!(initiator.read(0, 1), [0; 512]);
    }
    server.stop();
}

/// Resets the unit while a session says its last words; whether it still did afterwards.
fn resets_beside_last_words() -> bool {
    let server = Server::start(brisk());
    let keys = Opening::with_keys("MaxRecvDataSegmentLength=16777215");
    let mut gone = Initiator::in_session(server.address, &keys);
    let mut there = Initiator::in_session(server.address, &other());
    // What it does not take holds up its end.
    for _ in 0..128 {
        let command = gone.read_command(0, 512);
        gone.start(&command, &[]);
    }
    server.until(|counters| counters.bytes_read.load(Relaxed) == 32 << 20);
    let command = gone.write_command(0, 1);
    let length = Settings::default().offer.max_receive_segment as usize + 1;
    let header = Request::Command(command).encode(DataLength::new(length).expect("24 bits"));
    gone.send_bytes(&header, b"", None);
    server.until(|counters| counters.sessions_broken.load(Relaxed) == 1);
    let answer = there.manage(Function::LogicalUnitReset, None);
    assert_eq!(answer, TaskAnswer::Complete);
    let was_there = server.service.counters.sessions_open.load(Relaxed) == 2;
    let late = server.service.late.left_out_before(Instant::now());
    assert_eq!(late, Some(0), "nobody was said to be late");
    drop(gone);
    server.stop();
    was_there
}

#[test]
fn nobody_waits_for_a_session_that_says_its_last_words() {
    // On a busy machine the second for last words may be over before the reset comes.
    assert!((0..5).any(|_| resets_beside_last_words()), "it was never there");
}

#[test]
fn a_task_set_that_is_cleared_is_told_to_others() {
    for (function, told) in
        [(Function::ClearTaskSet, Some((6, 0x2f))), (Function::AbortTaskSet, None)]
    {
        let server = Server::start(brisk());
        let mut one = Initiator::in_session(server.address, &Opening::default());
        let mut two = Initiator::in_session(server.address, &other());
        stall(&server);
        let [mine, theirs] = [&mut one, &mut two].map(write);
        server.until(|counters| counters.commands.load(Relaxed) == 2);
        assert_eq!(at_once(|| one.manage(function, None)), TaskAnswer::Complete);
        assert_eq!(at_once(|| one.attention()), None);
        assert_eq!(at_once(|| two.attention()), told, "{function:?}");
        let theirs_are_there = function == Function::AbortTaskSet;
        let expected = if theirs_are_there { pattern(512, 9) } else { vec![0; 512] };
        assert_eq!(after(&server, 2), expected, "{function:?}");
        let gone = one.manage(Function::AbortTask, Some(&mine));
        assert_eq!(gone, TaskAnswer::NoSuchTask);
        if theirs_are_there {
            assert_eq!(two.finish(&theirs, &[]).status, 0, "others go on");
        } else {
            assert_eq!(two.manage(Function::AbortTask, Some(&theirs)), TaskAnswer::NoSuchTask);
        }
        server.stop();
    }
}

#[test]
fn a_reset_of_the_target_is_warm_or_cold() {
    let server = Server::start(brisk());
    let mut one = Initiator::in_session(server.address, &Opening::default());
    let mut two = Initiator::in_session(server.address, &other());
    let begun = |commands| server.until(|counters| counters.commands.load(Relaxed) == commands);
    stall(&server);
    for initiator in [&mut one, &mut two] {
        write(initiator);
    }
    begun(2);
    assert_eq!(at_once(|| one.manage(Function::TargetWarmReset, None)), TaskAnswer::Complete);
    assert_eq!(after(&server, 2), [0; 512], "nothing came of what was aborted");
    for initiator in [&mut one, &mut two] {
        assert_eq!(initiator.attention(), Some((6, 0x29)));
        assert_eq!(initiator.attention(), None);
    }
    stall(&server);
    for initiator in [&mut one, &mut two] {
        write(initiator);
    }
    begun(4);
    assert_eq!(at_once(|| one.manage(Function::TargetColdReset, None)), TaskAnswer::Complete);
    for initiator in [&mut one, &mut two] {
        assert!(matches!(initiator.receive(), (Response::Async(_), _)));
        assert!(initiator.next_pdu().is_none(), "all connections are closed");
    }
    assert_eq!(after(&server, 4), [0; 512], "nothing came of what was aborted");
    let again = Initiator::in_session(server.address, &Opening::default());
    again.logout();
    server.stop();
}

#[test]
fn a_session_ends_while_its_disk_hangs() {
    let server = Server::start(brisk());
    let mut initiator = Initiator::in_session(server.address, &Opening::default());
    stall(&server);
    let command = initiator.read_command(0, 1);
    initiator.start(&command, &[]);
    server.until(|counters| counters.commands.load(Relaxed) == 1);
    at_once(|| initiator.logout());
    server.until(|counters| counters.sessions_open.load(Relaxed) == 0);
    let next = Initiator::logged_in(server.address, &Opening::default());
    at_once(|| next.logout());
    go_on(&server);
    server.stop();
}
