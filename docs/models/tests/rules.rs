//! The model holds, and breaking any of its rules is found.
//!
//! The small worlds look at one thing each in full: everything at once would be too many states for a gate.

use landfall_models::{Retention, Rule};
use stateright::{Checker, HasDiscoveries, Model};

/// Writes in groups, torn flushes, two power cuts, also during a start.
const DURABLE: Retention = Retention {
    disks: 1,
    writes: 4,
    group: 2,
    crashes: 2,
    folds: 0,
    reads: 0,
    pins: 0,
    flush_before_release: false,
    broken: None,
};

/// Folds and releases between power cuts, of one disk with two blocks.
const FOLDED: Retention = Retention { writes: 3, group: 1, folds: 2, ..DURABLE };

/// The same of two disks with a block each: a fold can be done with one and not with the other.
const TWO_DISKS: Retention = Retention { disks: 2, crashes: 1, ..FOLDED };

/// Reads step by step, while history is folded and let go.
const READ: Retention = Retention { crashes: 0, reads: 2, ..FOLDED };

/// Pins and views hold what they have.
const HELD: Retention = Retention { crashes: 1, reads: 1, pins: 1, folds: 1, ..FOLDED };

const WORLDS: [(&str, Retention); 5] = [
    ("durable", DURABLE),
    ("folded", FOLDED),
    ("two disks", TWO_DISKS),
    ("read", READ),
    ("held", HELD),
];

const ALWAYS: [&str; 5] = [
    "acknowledged is in every later point",
    "a point reads as it did",
    "what is kept can be opened",
    "an image holds nothing newer than its floor",
    "what began gets done",
];

const SOMETIMES: [&str; 4] = [
    "a fold is repeated",
    "an older version outlives a newer one",
    "records are gone that the index never had",
    "everything was folded and let go",
];

/// What a check found: counterexamples, and examples of what must be possible. Ends with the states,
/// or when `until` is met.
fn found(world: &str, model: Retention, until: HasDiscoveries) -> Vec<&'static str> {
    // By one thread, so that a counterexample is a shortest one.
    let checker = model.checker().finish_when(until).spawn_bfs().join();
    println!("{world}: {} states, {} steps", checker.unique_state_count(), checker.max_depth());
    for name in ALWAYS {
        if let Some(path) = checker.discovery(name) {
            println!("not \"{name}\" after {:?}", path.into_actions());
        }
    }
    checker.discoveries().into_keys().collect()
}

#[test]
fn every_world_keeps_its_promises_and_every_example_is_met() {
    let mut met = Vec::new();
    for (name, model) in WORLDS {
        let found = found(name, model, HasDiscoveries::AnyFailures);
        assert!(ALWAYS.iter().all(|always| !found.contains(always)), "{name}: {found:?}");
        met.extend(found);
    }
    for example in SOMETIMES {
        assert!(met.contains(&example), "{example}: in no state of any world, so it says nothing");
    }
}

/// Breaks a rule; the checker must find the steps by which that breaks this property.
fn breaks(rule: Rule, world: Retention, property: &'static str) {
    let (name, model) = (format!("without {rule:?}"), Retention { broken: Some(rule), ..world });
    let found = found(&name, model, HasDiscoveries::AllOf([property].into()));
    assert!(found.contains(&property), "nothing comes of breaking {rule:?}");
}

const ACKNOWLEDGED: &str = ALWAYS[0];
const READS: &str = ALWAYS[1];
const KEPT: &str = ALWAYS[2];
const IMAGE: &str = ALWAYS[3];
const DONE: &str = ALWAYS[4];

#[test]
fn acknowledging_before_the_flush_loses_what_was_acknowledged() {
    breaks(Rule::FlushedBeforeAcknowledged, DURABLE, ACKNOWLEDGED);
}

#[test]
fn progress_ahead_of_its_entries_loses_versions() {
    breaks(Rule::ProgressWithItsEntries, DURABLE, READS);
}

#[test]
fn without_a_logged_end_a_dropped_record_comes_back() {
    breaks(Rule::EndLoggedBeforeGoingOn, DURABLE, ACKNOWLEDGED);
}

#[test]
fn a_fold_that_asks_nobody_takes_what_is_kept() {
    breaks(Rule::HoldersAskedFirst, HELD, KEPT);
}

#[test]
fn a_moment_below_a_fold_reads_newer_blocks() {
    breaks(Rule::DroppedBeforeFoldStarted, FOLDED, READS);
}

#[test]
fn an_image_written_before_the_fold_is_logged_is_newer_than_history() {
    breaks(Rule::FoldStartedBeforeImage, FOLDED, IMAGE);
    breaks(Rule::FoldStartedBeforeImage, FOLDED, READS);
}

#[test]
fn a_floor_logged_before_the_image_is_flushed_loses_blocks() {
    breaks(Rule::ImageFlushedBeforeFoldDone, FOLDED, READS);
}

#[test]
fn versions_that_vanish_before_the_fold_is_done_are_missing() {
    breaks(Rule::ForgottenAfterFoldDone, FOLDED, READS);
    breaks(Rule::ForgottenAfterFoldDone, TWO_DISKS, READS);
}

#[test]
fn a_fold_that_is_not_repeated_stays_half_done() {
    breaks(Rule::FoldRepeated, FOLDED, DONE);
    breaks(Rule::FoldRepeated, TWO_DISKS, DONE);
}

#[test]
fn a_floor_asked_for_before_the_cursor_uncovers_an_older_version() {
    breaks(Rule::FloorAfterCursor, READ, READS);
}

#[test]
fn a_segment_released_by_the_start_of_history_is_missed_by_the_fold() {
    breaks(Rule::ReleasedByFloors, FOLDED, READS);
    breaks(Rule::ReleasedByFloors, TWO_DISKS, READS);
}

#[test]
fn a_file_that_goes_before_the_manifest_knows_is_taken_for_damage() {
    breaks(Rule::LoggedBeforeUnlinked, FOLDED, ACKNOWLEDGED);
}

#[test]
fn without_the_tail_an_index_that_forgot_gives_sequences_again() {
    breaks(Rule::TailKept, FOLDED, ACKNOWLEDGED);
}

#[test]
fn leaves_resolved_before_a_release_name_what_is_gone() {
    breaks(Rule::ReadsEndedBeforeLeavesDropped, READ, READS);
    breaks(Rule::LeavesDropped, READ, READS);
    breaks(Rule::ReadsEndedBeforeUnlinked, READ, READS);
}

/// Decision 0008: a release need not wait for a flush of the index, since the manifest keeps the tail. Either would do.
#[test]
fn flushing_the_index_before_a_release_would_do_instead_of_the_tail() {
    let model = Retention { broken: Some(Rule::TailKept), flush_before_release: true, ..FOLDED };
    let found = found("flushed before release", model, HasDiscoveries::AnyFailures);
    assert!(ALWAYS.iter().all(|always| !found.contains(always)), "{found:?}");
}
