//! Records of keys: that they make sense, and that no file keeps a key that was taken away.

use super::*;
use crate::ids::{GroupId, LaneId, LineId};
use crate::manifest::{FILE_NAME, Manifest, ManifestError, NEW_FILE_NAME};
use crate::name::Name;
use crate::sealing::WRAPPED_BYTES;
use landfall_disks::Buffer;
use landfall_disks::faults::{FaultFolder, Seed, run};
use landfall_disks::file::{Caching, FileError, Folder, OpenMode};
use std::path::Path;
use std::sync::Arc;

fn wrapped(byte: u8) -> WrappedKey {
    WrappedKey { kek: KekId::new([byte; 8]), nonce: [2; 12], wrapped: [3; WRAPPED_BYTES] }
}

fn machine(number: u32) -> ManifestRecord {
    ManifestRecord::MachineAdded {
        machine: MachineId::new(number),
        name: Name::parse(&format!("m{number}")).unwrap(),
        display_name: String::new(),
        group: GroupId::new(number),
        trunk: LineId::new(number),
        lane: LaneId::new(0),
    }
}

fn added(key: u32, machine: u32) -> ManifestRecord {
    let (key, machine) = (KeyId::new(key), MachineId::new(machine));
    let at = Timestamp::from_nanoseconds(5);
    ManifestRecord::Key(KeyRecord::Added { key, machine, at, wrapped: wrapped(1) })
}

fn rewrapped(key: u32) -> ManifestRecord {
    ManifestRecord::Key(KeyRecord::Rewrapped { key: KeyId::new(key), wrapped: wrapped(9) })
}

fn destroyed(machine: u32) -> ManifestRecord {
    let (machine, at) = (MachineId::new(machine), Timestamp::from_nanoseconds(7));
    ManifestRecord::Key(KeyRecord::Destroyed { machine, at })
}

fn state(records: &[ManifestRecord]) -> ManifestState {
    let mut state = ManifestState::default();
    records.iter().for_each(|record| state.apply(record).expect("it fits"));
    state
}

fn check_snapshot(before: &ManifestState) {
    assert_eq!(state(&before.records()), *before);
}

#[test]
fn a_destroyed_key_leaves_nothing_in_a_snapshot_but_that_there_was_one() {
    let mut state = state(&[machine(1), machine(2), added(1, 1), added(2, 2), added(3, 1)]);
    check_snapshot(&state);
    let (one, two) = (MachineId::new(1), MachineId::new(2));
    assert_eq!(state.keys.of_machine(one).next_back().map(|key| key.id), Some(KeyId::new(3)));
    state.apply(&destroyed(1)).expect("it has keys");
    check_snapshot(&state);
    assert_eq!(state.keys.destroyed(one), Some(Timestamp::from_nanoseconds(7)));
    assert_eq!(state.keys.destroyed(two), None);
    let of_one = |record: &&ManifestRecord| {
        matches!(record, ManifestRecord::Key(KeyRecord::Added { machine, .. })
            if *machine == one)
    };
    assert_eq!(state.records().iter().filter(of_one).count(), 0);
}

#[test]
fn no_id_of_a_key_is_given_twice() {
    let mut state = state(&[machine(1), added(1, 1), added(7, 1)]);
    state.apply(&ManifestRecord::MachineRemoved { machine: MachineId::new(1) }).expect("there");
    assert_eq!(state.keys.iter().count(), 0, "keys go with their machine");
    assert_eq!(state.keys.next(), KeyId::new(8));
    check_snapshot(&state);
    state.apply(&machine(2)).expect("it fits");
    assert!(state.apply(&added(7, 2)).is_err());
    state.apply(&added(8, 2)).expect("it is new");
}

#[test]
fn records_of_keys_that_make_no_sense_do_not_fit() {
    let state = state(&[machine(1), machine(2), added(1, 1), added(2, 2), destroyed(2)]);
    let gone = |key, machine| {
        let at = Timestamp::default();
        let (key, machine) = (KeyId::new(key), MachineId::new(machine));
        ManifestRecord::Key(KeyRecord::Gone { key, machine, at, destroyed: at })
    };
    for record in [
        added(2, 1),
        added(3, 9),
        added(3, 2),
        rewrapped(2),
        rewrapped(3),
        destroyed(2),
        destroyed(9),
        gone(3, 1),
        ManifestRecord::Key(KeyRecord::Given { key: KeyId::new(1) }),
    ] {
        let mut after = state.clone();
        assert!(after.apply(&record).is_err(), "{record:?}");
        assert_eq!(after, state, "{record:?} changed something");
    }
    let mut after = state.clone();
    after.apply(&rewrapped(1)).expect("it is there");
    let material = after.keys.iter().next().map(|key| key.material);
    assert_eq!(material, Some(KeyMaterial::Wrapped(wrapped(9))));
}

#[test]
fn what_takes_a_key_away_is_known_to() {
    let state = state(&[machine(1), machine(2), added(1, 1)]);
    let removed = |machine| ManifestRecord::MachineRemoved { machine: MachineId::new(machine) };
    for erasing in [destroyed(1), rewrapped(1), removed(1)] {
        assert!(erasing.erases(&state), "{erasing:?}");
    }
    for other in [added(2, 1), removed(2), machine(3)] {
        assert!(!other.erases(&state), "{other:?}");
    }
}

/// A log that is rewritten only when it must be.
async fn open(folder: &FaultFolder) -> Result<Manifest, ManifestError> {
    Manifest::open_rewriting(Arc::new(folder.clone()), [7; 16], 1 << 20).await
}

/// How many wrapped keys there are in the files of the folder.
async fn wrapped_keys(folder: &FaultFolder) -> usize {
    let mut found = 0;
    for name in [FILE_NAME, NEW_FILE_NAME] {
        let file = match folder.open(Path::new(name), OpenMode::ReadWrite, Caching::Buffered).await
        {
            Err(FileError::NotFound { .. }) => continue,
            file => file.expect("it opens"),
        };
        let length = usize::try_from(file.length().await.expect("a length")).expect("small");
        let bytes = file.read_at(0, Buffer::zeroed(length)).await.expect("it reads");
        found += bytes.windows(WRAPPED_BYTES).filter(|some| *some == [3; WRAPPED_BYTES]).count();
    }
    found
}

#[test]
fn a_file_has_no_key_that_was_destroyed_rewrapped_or_removed() {
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        let manifest = open(&folder).await.expect("there is space");
        let all = vec![machine(1), machine(2), added(1, 1), added(2, 2), added(3, 2)];
        manifest.append(all).await.expect("there is space");
        manifest.append(vec![rewrapped(1)]).await.expect("there is space");
        assert_eq!(wrapped_keys(&folder).await, 3, "not once more for the one that was rewrapped");
        manifest.append(vec![destroyed(2)]).await.expect("there is space");
        assert_eq!(wrapped_keys(&folder).await, 1);
        let removed = ManifestRecord::MachineRemoved { machine: MachineId::new(1) };
        manifest.append(vec![removed]).await.expect("there is space");
        assert_eq!(wrapped_keys(&folder).await, 0);
        let state = manifest.state().clone();
        assert_eq!(*open(&folder).await.expect("it opens").state(), state);
    });
}

/// Power is cut at every flush of a destruction; whoever opens the folder then ends it.
#[test]
fn a_destruction_that_was_cut_off_is_ended_by_the_next_start() {
    let (mut undone, mut done) = (0, 0);
    for flush in 1..=6 {
        for seed in 0..16 {
            let mut seed = Seed::new(flush << 32 | seed);
            let folder = FaultFolder::new(seed.fork());
            run(&mut seed.fork(), |_| async {
                let manifest = open(&folder).await.expect("there is space");
                let all = vec![machine(1), added(1, 1), added(2, 1)];
                manifest.append(all).await.expect("there is space");
                folder.crash_after_flushes(flush);
                // Whether it got so far is for the next start to say.
                let _ = manifest.append(vec![destroyed(1)]).await;
            });
            let folder = folder.crash(&mut seed);
            run(&mut seed, |_| async {
                let manifest = open(&folder).await.expect("a torn tail is no damage");
                let gone = manifest.state().keys.destroyed(MachineId::new(1)).is_some();
                assert_eq!(wrapped_keys(&folder).await, if gone { 0 } else { 2 });
                *(if gone { &mut done } else { &mut undone }) += 1;
            });
        }
    }
    assert!(undone > 0 && done > 0, "{undone} times undone, {done} times done");
}

#[test]
fn without_space_to_end_it_a_destruction_says_so_and_the_next_start_ends_it() {
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        let manifest = open(&folder).await.expect("there is space");
        manifest.append((1..60).map(machine).collect()).await.expect("there is space");
        manifest.append(vec![added(1, 1)]).await.expect("there is space");
        // The folder gives space by 4 KiB: enough for the frame, not for a second file.
        let length = folder.open(Path::new(FILE_NAME), OpenMode::ReadWrite, Caching::Buffered);
        let length = length.await.expect("it opens").length().await.expect("a length");
        folder.set_capacity(Some(length + 256));
        let refused = manifest.append(vec![destroyed(1)]).await;
        assert!(matches!(refused, Err(ManifestError::NotErased { .. })), "{refused:?}");
        assert!(manifest.state().keys.destroyed(MachineId::new(1)).is_some(), "out of use");
        folder.set_capacity(None);
        drop(manifest);
        open(&folder).await.expect("it opens");
        assert_eq!(wrapped_keys(&folder).await, 0);
    });
}
