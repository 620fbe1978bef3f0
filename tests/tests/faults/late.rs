//! ABORT TASK that comes too late: the command was answered, or some of it is there. What is there stays, and nothing more comes.

use super::stalled::{Expected, login, until};
use landfall_protocols::iscsi::wire::task::{Function, TaskAnswer};
use landfall_tests::harness::{Initiator, MIB, Target};
use std::fs;

const SIZE: u64 = 32 * MIB;
/// Bytes of a record of the journal at most: what a long write comes to be in.
const RECORD: usize = 1 << 20;
/// Records of a long write.
const RECORDS: usize = 12;
/// Writes that are aborted until one was too late.
const ATTEMPTS: u8 = 60;

const TOO_LATE: &str = "landfall_iscsi_aborts_too_late_total";

/// RFC 7143, 11.5.1 and 11.6.1: a command that was answered is a task that is not there, and one that is under way has its abort
/// answered as complete, whatever comes of it.
#[test]
fn what_is_aborted_too_late_is_there_and_no_more_of_it_comes() {
    let mut target = Target::start();
    let source = super::machine(&target, SIZE);
    super::replicate(&target, &source);
    let mut expected = Expected::of(&source, target.folder());
    let add = ["export", "add", "web@latest", "--iscsi", "--writable", "--branch", "b", "--json"];
    let export = target.json(&add);
    let mut one = login(&export, 1);
    let first = one.write(40_960, &[0x11; 8192]);
    assert_eq!(one.finish(&first).0, 0);
    expected.write(40_960, &[0x11; 8192]);
    let answer = one.manage(Function::AbortTask, Some(&first));
    assert_eq!(answer, TaskAnswer::NoSuchTask, "it was answered");

    let attempt = (1..=ATTEMPTS).find(|byte| abort_long(&target, &mut one, *byte, &mut expected));
    println!("attempt {attempt:?} was aborted too late");
    assert!(attempt.is_some(), "none of {ATTEMPTS} was aborted too late");
    let again = one.read(40_960, 8192);
    let (status, read) = one.finish(&again);
    assert!(status == 0 && read == [0x11; 8192], "the session lives");
    one.logout();
    expected.check(&target);
    target.kill();
    target.start_again();
    expected.check(&target);
    target.stop();
    fs::remove_dir_all(target.data().join("index")).expect("there was one");
    target.log().expect("index");
    target.start_again();
    expected.check(&target);
    target.stop();
}

/// Aborts a long write of `byte` once a record of it was written; whether that was too late, and came before its end.
fn abort_long(target: &Target, one: &mut Initiator, byte: u8, expected: &mut Expected) -> bool {
    let data = vec![byte; RECORDS * RECORD];
    let before = target.metrics();
    let long = one.write(0, &data);
    one.give_all(&long);
    until(target, "landfall_lane_records_total", before.sum("landfall_lane_records_total") + 1.0);
    let (status, answer) = one.abort(&long);
    let late = target.metrics().sum(TOO_LATE) > before.sum(TOO_LATE);

    let read = one.read(0, data.len());
    let (read_status, read) = one.finish(&read);
    assert_eq!(read_status, 0);
    let there = read.chunks(RECORD).take_while(|record| **record == data[..RECORD]).count();
    match (status, answer) {
        // It had ended by then.
        (Some(status), TaskAnswer::NoSuchTask) => assert!(status == 0 && !late && there == RECORDS),
        (None, TaskAnswer::Complete) if late => assert!(there > 0, "it was decided"),
        (None, TaskAnswer::Complete) => assert_eq!(there, 0, "it was aborted in time"),
        other => panic!("{other:?}"),
    }
    expected.write(0, &data[..there * RECORD]);
    assert!(read == expected.at(0, data.len()), "{there} records from its start, and nothing else");
    // Nothing of it comes over what is written now.
    let last = u32::try_from((RECORDS - 1) * RECORD / 512).expect("small");
    let next = one.write(last, &[0x77; 4096]);
    assert_eq!(one.finish(&next).0, 0);
    expected.write(last, &[0x77; 4096]);
    late
}
