//! A journal whose file system takes no writes for a while: aborts over iSCSI are answered at once, and what was aborted is never there.

use super::text;
use landfall_protocols::iscsi::wire::task::{Function, TaskAnswer};
use landfall_tests::harness::{Initiator, MIB, Mount, Settings, Source, Target, run};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const SIZE: u64 = 16 * MIB;
/// How long the journal stalls.
const STALL: Duration = Duration::from_secs(30);
/// What task management and what needs no write may take meanwhile.
const AT_ONCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// A write of several records of the journal.
const LONG: usize = 4 << 20;

/// What `act` gives, at once.
#[track_caller]
fn at_once<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let value = act();
    assert!(begun.elapsed() < AT_ONCE, "{what} took {:?}", begun.elapsed());
    value
}

/// What the disk of the branch has to hold.
pub(super) struct Expected(Vec<u8>);

impl Expected {
    pub(super) fn of(source: &Source, folder: &Path) -> Self {
        let copy = folder.join("source-as-it-was.raw");
        source.keep(&copy);
        Self(fs::read(copy).expect("the copy"))
    }

    pub(super) fn write(&mut self, lba: u32, data: &[u8]) {
        self.0[lba as usize * 512..][..data.len()].copy_from_slice(data);
    }

    pub(super) fn at(&self, lba: u32, bytes: usize) -> Vec<u8> {
        self.0[lba as usize * 512..][..bytes].to_vec()
    }

    /// That the head of the branch is this.
    #[track_caller]
    pub(super) fn check(&self, target: &Target) {
        let file = target.folder().join("expected.raw");
        fs::write(&file, &self.0).expect("written");
        let uri = target.uri("web~b/os");
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&file), &uri]);
    }
}

/// Waits until a counter has reached `least`.
#[track_caller]
pub(super) fn until(target: &Target, counter: &str, least: f64) {
    let begun = Instant::now();
    while target.metrics().sum(counter) < least {
        assert!(begun.elapsed() < PATIENCE, "{counter} does not reach {least}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn login(export: &Value, number: u8) -> Initiator {
    let (portal, name) = (&export["iscsi"]["portal"], &export["iscsi"]["name"]);
    let portal = portal.as_str().expect("open").parse().expect("an address");
    Initiator::login(portal, name.as_str().expect("a name"), number)
}

#[test]
fn what_is_aborted_while_the_journal_stalls_is_answered_at_once_and_never_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = Mount::ext4(folder.path(), 256 * MIB);
    let journal = small.at().join("journal");
    let mut target = Target::with(&Settings { journal: Some(journal), ..Settings::default() });
    let source = super::machine(&target, SIZE);
    super::replicate(&target, &source);
    let mut expected = Expected::of(&source, target.folder());
    let add = ["export", "add", "web@latest", "--iscsi", "--writable", "--branch", "b", "--json"];
    let export = target.json(&add);
    let mut one = login(&export, 1);
    let first = one.write(0, &[0x11; 8192]);
    assert_eq!(one.finish(&first).0, 0);
    expected.write(0, &[0x11; 8192]);

    abort_tasks(&target, &small, &mut one, &mut expected);
    reset_unit(&target, &small, &export, &mut one, &expected);

    let metrics = target.metrics();
    assert!(metrics.sum("landfall_lane_aborts_total") >= 2.0, "both stalls had one on its way");
    assert_eq!(metrics.sum("landfall_iscsi_commands_aborted_total"), 5.0);
    assert_eq!(metrics.sum("landfall_iscsi_aborts_too_late_total"), 0.0);
    expected.check(&target);
    target.kill();
    target.start_again();
    expected.check(&target);
    target.stop();
    fs::remove_dir_all(target.data().join("index")).expect("there was one");
    target.log().expect("index");
    target.start_again();
    expected.check(&target);
    target.landfall(&["scrub"]).ok();
    expected.check(&target);
    target.stop();
    drop(target);
    drop(small);
}

/// ABORT TASK of a write that is on its way to the journal, and of a long one that waits behind it; beside one that nobody aborts.
fn abort_tasks(target: &Target, small: &Mount, one: &mut Initiator, expected: &mut Expected) {
    let commands = target.metrics().sum("landfall_iscsi_commands_total");
    let frozen = small.freeze();
    let begun = Instant::now();
    let (on_its_way, data) = (one.write(2048, &[0x22; 65_536]), vec![0x33; LONG]);
    one.give_all(&on_its_way);
    until(target, "landfall_iscsi_commands_total", commands + 1.0);
    // What follows finds the lane busy.
    let long = one.write(4096, &data);
    one.give_all(&long);
    let kept = one.write(16_384, &[0x44; 4096]);
    one.give_all(&kept);
    let swap = one.compare_and_write(2048, &expected.at(2048, 512), &[0x55; 512]);
    one.give_all(&swap);
    until(target, "landfall_iscsi_commands_total", commands + 4.0);
    for write in [&on_its_way, &long] {
        let abort = || one.manage(Function::AbortTask, Some(write));
        assert_eq!(at_once("ABORT TASK", abort), TaskAnswer::Complete);
    }
    assert_eq!(at_once("TEST UNIT READY", || one.test_unit_ready()), 0, "the session lives");
    let elsewhere = one.read(0, 8192);
    let (status, read) = at_once("a read of something else", || one.finish(&elsewhere));
    assert!(status == 0 && read == [0x11; 8192]);
    let there = one.read(2050, 4096);
    assert!(one.hears_nothing(AT_ONCE), "nobody can say yet what is there");
    std::thread::sleep(STALL.saturating_sub(begun.elapsed()));
    drop(frozen);

    let mut found = one.finish_all(&[&kept, &swap, &there]);
    let (status, read) = found.pop().expect("three");
    assert!(status == 0 && read == expected.at(2050, 4096), "it was aborted");
    assert_eq!(found.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [0, 0]);
    expected.write(16_384, &[0x44; 4096]);
    expected.write(2048, &[0x55; 512]);
    let read = one.read(4096, LONG);
    assert!(one.finish(&read).1 == expected.at(4096, LONG), "nor any of the long one");
}

/// LOGICAL UNIT RESET while two sessions have writes there.
fn reset_unit(
    target: &Target,
    small: &Mount,
    export: &Value,
    one: &mut Initiator,
    expected: &Expected,
) {
    let mut two = login(export, 2);
    let commands = target.metrics().sum("landfall_iscsi_commands_total");
    let frozen = small.freeze();
    let begun = Instant::now();
    for (number, initiator) in (0u32..).zip([&mut *one, &mut two]) {
        let lba = 20_480 + 64 * number;
        let write = initiator.write(lba, &[0x66; 4096]);
        initiator.give_all(&write);
        until(target, "landfall_iscsi_commands_total", commands + 1.0 + f64::from(number));
    }
    let other = one.write(24_576, &[0x77; 512]);
    one.give_all(&other);
    until(target, "landfall_iscsi_commands_total", commands + 3.0);
    let reset = || one.manage(Function::LogicalUnitReset, None);
    assert_eq!(at_once("LOGICAL UNIT RESET", reset), TaskAnswer::Complete);
    for initiator in [&mut *one, &mut two] {
        assert_eq!(at_once("TEST UNIT READY", || initiator.test_unit_ready()), 2, "it is told");
        assert_eq!(at_once("TEST UNIT READY", || initiator.test_unit_ready()), 0);
    }
    std::thread::sleep(STALL.saturating_sub(begun.elapsed()));
    drop(frozen);
    for lba in [20_480, 20_544, 24_576] {
        let read = two.read(lba, 4096);
        assert!(two.finish(&read).1 == expected.at(lba, 4096), "nothing at {lba} came to be");
    }
}
