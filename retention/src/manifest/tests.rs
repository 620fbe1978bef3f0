//! The manifest against power cuts, torn frames, damage, full disks and failing flushes.

use super::format::encode_frame;
use super::*;
use crate::change::{MAX_DISKS, MAX_PATH_BYTES, MAX_TEXT_BYTES};
use crate::ids::{
    ContentId, DiskId, ExportId, Generation, GroupId, KeyId, LaneId, LaneSequence, LineId,
    MachineId, SegmentId, Sequence, StreamId,
};
use crate::index::tail_key::LineTail;
use crate::journal::format::Chain;
use crate::manifest::history::HistoryStart;
use crate::manifest::keys::KeyRecord;
use crate::manifest::released::ReleasedLine;
use crate::name::{Label, Name};
use crate::point::PointKind;
use crate::sealing::{KekId, WRAPPED_BYTES, WrappedKey};
use crate::time::Timestamp;
use landfall_disks::faults::{Fault, FaultFolder, Seed, run};

const FOLDER_ID: [u8; 16] = [7; 16];
/// So little that a few records call for a snapshot.
const SOON: u64 = 256;
const LATE: u64 = 1 << 20;

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

/// A machine that is its own group, and has a trunk of its number.
pub(super) fn machine(number: u32) -> ManifestRecord {
    ManifestRecord::MachineAdded {
        machine: MachineId::new(number),
        name: name(&format!("m{number}")),
        display_name: String::new(),
        group: GroupId::new(number),
        trunk: LineId::new(number),
        lane: LaneId::new(0),
    }
}

fn disk(number: u32, machine: u32) -> ManifestRecord {
    ManifestRecord::DiskAdded {
        disk: DiskId::new(number),
        machine: MachineId::new(machine),
        name: name(&format!("d{number}")),
        size_bytes: 4096,
        format: "raw".into(),
        image: format!("m{machine}/d{number}.raw"),
    }
}

fn begins(line: u32, sequence: u64) -> ManifestRecord {
    let start = HistoryStart {
        sequence: Sequence::new(sequence),
        commit_time: Timestamp::from_nanoseconds(8),
        source_time: Timestamp::from_nanoseconds(7),
        kind: Some(PointKind::App),
        label: Some(Label::parse("before").expect("a label")),
    };
    ManifestRecord::FoldStarted { line: LineId::new(line), start }
}

fn segment(number: u32, first: u64, next: u64) -> Vec<ManifestRecord> {
    let (segment, first) = (SegmentId::new(number), LaneSequence::new(first));
    let (lane, size_bytes) = (LaneId::new(0), 1 << 20);
    let next = LaneSequence::new(next);
    vec![
        ManifestRecord::SegmentBorn { segment, lane, salt: 7, first, size_bytes },
        ManifestRecord::SegmentEnded { segment, end: 8192, next },
    ]
}

fn line_released(line: u32, at: u64) -> ManifestRecord {
    let tail = LineTail { sequence: Sequence::new(at), ..LineTail::default() };
    let released = ReleasedLine { first: Sequence::new(at), chain_before: Chain::default(), tail };
    let (lane, at) = (LaneId::new(0), LaneSequence::new(at));
    ManifestRecord::LineReleased { lane, at, line: LineId::new(line), released }
}

fn records_released(first: u64, next: u64) -> ManifestRecord {
    let (first, next) = (LaneSequence::new(first), LaneSequence::new(next));
    ManifestRecord::RecordsReleased { lane: LaneId::new(0), first, next }
}

fn released(number: u32, first: u64, next: u64) -> Vec<ManifestRecord> {
    let gone = ManifestRecord::SegmentReleased { segment: SegmentId::new(number) };
    vec![records_released(first, next), line_released(1, first), gone]
}

fn key_added(machine: u32) -> ManifestRecord {
    let (key, machine) = (KeyId::new(machine), MachineId::new(machine));
    let (kek, nonce) = (KekId::new([1; 8]), [2; 12]);
    let wrapped = WrappedKey { kek, nonce, wrapped: [3; WRAPPED_BYTES] };
    ManifestRecord::Key(KeyRecord::Added { key, machine, at: Timestamp::default(), wrapped })
}

/// Some of everything, so that snapshots have to carry it, and some that undoes it.
fn history() -> Vec<Vec<ManifestRecord>> {
    let (line, sequence) = (LineId::new(1), Sequence::new(4));
    let mut changes = vec![
        vec![machine(1), disk(1, 1), disk(2, 1)],
        vec![ManifestRecord::GenerationRaised {
            line,
            generation: Generation::new(1),
            oldest_welcome: Generation::new(1),
            stream: StreamId::new([3; 16]),
        }],
        vec![ManifestRecord::SeedFinished { disk: DiskId::new(1), floor: sequence }],
        vec![ManifestRecord::PointPinned { line, sequence }],
        vec![ManifestRecord::ContentNamed {
            disk: DiskId::new(1),
            sequence,
            content: ContentId::new([9; 32]),
        }],
        vec![ManifestRecord::ImageLost { disk: DiskId::new(2), reason: "gone".into() }],
        vec![ManifestRecord::PointUnpinned { line, sequence }],
        vec![begins(1, 6)],
        vec![ManifestRecord::FoldDone { disk: DiskId::new(1), floor: Sequence::new(6) }],
        segment(1, 1, 10),
        segment(2, 10, 20),
        released(2, 10, 20),
        released(1, 1, 10),
        vec![key_added(1)],
        vec![ManifestRecord::Key(KeyRecord::Destroyed {
            machine: MachineId::new(1),
            at: Timestamp::default(),
        })],
    ];
    for number in 2..8 {
        changes.push(vec![machine(number), disk(number + 1, number)]);
        if number % 2 == 0 {
            let machine = MachineId::new(number);
            changes.push(vec![key_added(number)]);
            changes.push(vec![ManifestRecord::MachineRemoved { machine }]);
        }
    }
    changes
}

/// The state before the first change and after each.
fn states() -> Vec<ManifestState> {
    let mut states = vec![ManifestState::default()];
    for records in history() {
        let mut state = states.last().expect("there is a first").clone();
        records.iter().for_each(|record| state.apply(record).expect("it fits"));
        states.push(state);
    }
    states
}

async fn open(folder: &FaultFolder, snapshot_from: u64) -> Result<Manifest, ManifestError> {
    Manifest::open_rewriting(Arc::new(folder.clone()), FOLDER_ID, snapshot_from).await
}

/// A folder with a manifest of these changes, a frame each, and its bytes.
async fn written(changes: &[Vec<ManifestRecord>]) -> (FaultFolder, Vec<u8>) {
    let folder = FaultFolder::new(Seed::new(5));
    let manifest = open(&folder, LATE).await.expect("a new manifest");
    for records in changes {
        manifest.append(records.clone()).await.expect("there is space");
    }
    let bytes = read(&folder).await;
    (folder, bytes)
}

async fn read(folder: &FaultFolder) -> Vec<u8> {
    let path = Path::new(FILE_NAME);
    let file = folder.open(path, OpenMode::Read, Caching::Buffered).await.expect("it is there");
    let length = usize::try_from(file.length().await.expect("a length")).expect("small");
    file.read_at(0, Buffer::zeroed(length)).await.expect("readable").to_vec()
}

async fn holding(bytes: &[u8]) -> FaultFolder {
    let folder = FaultFolder::new(Seed::new(6));
    let path = Path::new(FILE_NAME);
    let file = folder.open(path, OpenMode::CreateNew, Caching::Buffered).await.expect("new");
    file.write_at(0, Buffer::copy_of(bytes)).await.expect("there is space");
    folder
}

/// Where the frames of a manifest start; the last entry is its end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![HEADER_BYTES];
    let mut number = 0;
    while let Some(rest) = bytes.get(starts[starts.len() - 1]..).filter(|rest| !rest.is_empty()) {
        let (_, length) = format::parse_frame(rest, number).expect("a whole frame");
        starts.push(starts[starts.len() - 1] + length);
        number += 1;
    }
    starts
}

#[test]
fn changes_are_there_after_reopening() {
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        for (change, records) in history().into_iter().enumerate() {
            let manifest = open(&folder, SOON).await.expect("it opens");
            assert_eq!(*manifest.state(), states()[change]);
            assert_eq!(manifest.folder_id(), FOLDER_ID);
            manifest.append(records).await.expect("there is space");
        }
        let manifest = open(&folder, SOON).await.expect("it opens");
        assert_eq!(Some(&*manifest.state()), states().last());
        assert_eq!(folder.files(), [Path::new(FILE_NAME)], "no snapshot is left half-way");
    });
}

#[test]
fn a_snapshot_adds_up_to_the_state() {
    for state in states() {
        let (bytes, frames) = encode_snapshot(FOLDER_ID, &state);
        assert!(frames > 0);
        run(&mut Seed::new(1), |_| async {
            let folder = holding(&bytes).await;
            assert_eq!(*open(&folder, LATE).await.expect("it opens").state(), state);
        });
    }
}

/// Power is cut at every flush and sync of the whole history, snapshots included.
#[test]
fn every_power_cut_leaves_the_last_change_or_the_one_under_way() {
    async fn live(folder: FaultFolder) -> usize {
        let Ok(manifest) = open(&folder, SOON).await else { return 0 };
        for (done, records) in history().into_iter().enumerate() {
            if manifest.append(records).await.is_err() {
                return done;
            }
        }
        history().len()
    }
    let states = states();
    let quiet = FaultFolder::new(Seed::new(0));
    assert_eq!(run(&mut Seed::new(0), |_| live(quiet.clone())), history().len());
    let alone = 2 + history().len() as u64;
    assert!(quiet.flushes() > alone, "no snapshot was written in {} flushes", quiet.flushes());
    for flush in 1..=quiet.flushes() {
        for seed in 0..24 {
            let mut seed = Seed::new(flush << 32 | seed);
            let folder = FaultFolder::new(seed.fork());
            folder.crash_after_flushes(flush);
            let done = run(&mut seed.fork(), |_| live(folder.clone()));
            assert!(folder.is_dead(), "flush {flush} never came");
            let folder = folder.crash(&mut seed);
            run(&mut seed, |_| async {
                let manifest = open(&folder, SOON).await.expect("a torn tail is no damage");
                let found = manifest.state().clone();
                let expected = &states[done..(done + 2).min(states.len())];
                assert!(expected.contains(&found), "flush {flush}: {done} changes were durable");
                manifest.append(vec![machine(100)]).await.expect("it goes on");
                let after = manifest.state().clone();
                drop(manifest);
                let again = open(&folder, SOON).await.expect("it opens again");
                assert_eq!(*again.state(), after);
            });
        }
    }
}

#[test]
fn a_torn_last_frame_is_cut_off_wherever_it_was_torn() {
    run(&mut Seed::new(1), |_| async {
        let (_, whole) = written(&history()[..3]).await;
        let starts = frames(&whole);
        let last = starts[starts.len() - 2];
        for cut in last..whole.len() {
            // Nothing behind the tear, or what a file system puts where nothing was written.
            let mut zeroes = whole.clone();
            zeroes[cut..].fill(0);
            if zeroes == whole {
                continue;
            }
            for torn in [&whole[..cut], &zeroes] {
                let folder = holding(torn).await;
                let manifest = open(&folder, LATE).await.expect("a torn tail is no damage");
                assert_eq!(*manifest.state(), states()[2], "torn at {cut}");
                assert_eq!(read(&folder).await.len(), last, "torn at {cut}");
                manifest.append(history()[2].clone()).await.expect("it goes on");
                drop(manifest);
                assert_eq!(read(&folder).await, whole);
            }
        }
    });
}

#[test]
fn a_damaged_frame_before_others_refuses_to_open_and_names_its_place() {
    run(&mut Seed::new(1), |_| async {
        let (_, whole) = written(&history()[..4]).await;
        let starts = frames(&whole);
        for (frame, start) in starts[..starts.len() - 2].iter().enumerate() {
            for at in [*start, start + 5, start + 9, start + 17] {
                let folder = holding(&whole).await;
                folder.corrupt(FILE_NAME, at as u64, 1);
                let before = read(&folder).await;
                match open(&folder, LATE).await.err() {
                    Some(ManifestError::Damaged { offset, .. }) => {
                        assert_eq!(offset, *start as u64, "frame {frame}, byte {at}");
                    }
                    other => panic!("frame {frame}, byte {at}: {other:?}"),
                }
                assert_eq!(read(&folder).await, before, "it was changed");
            }
        }
    });
}

#[test]
fn a_damaged_header_or_no_frame_at_all_refuses_to_open() {
    run(&mut Seed::new(1), |_| async {
        let (_, whole) = written(&history()[..2]).await;
        for at in 0..HEADER_BYTES {
            let folder = holding(&whole).await;
            folder.corrupt(FILE_NAME, at as u64, 1);
            let refused = open(&folder, LATE).await.err();
            assert!(
                matches!(refused, Some(ManifestError::Damaged { offset: 0, .. })),
                "byte {at}: {refused:?}"
            );
        }
        for length in [0, HEADER_BYTES - 1, HEADER_BYTES] {
            let folder = holding(&whole[..length]).await;
            let refused = open(&folder, LATE).await.err();
            assert!(
                matches!(refused, Some(ManifestError::Damaged { .. })),
                "{length} bytes: {refused:?}"
            );
        }
    });
}

#[test]
fn records_that_contradict_each_other_name_their_place() {
    run(&mut Seed::new(1), |_| async {
        let (_, mut bytes) = written(&history()[..1]).await;
        let end = bytes.len() as u64;
        let number = frames(&bytes).len() as u64 - 1;
        encode_frame(number, &[disk(9, 55)], &mut bytes);
        let refused = open(&holding(&bytes).await, LATE).await.err();
        assert!(
            matches!(refused, Some(ManifestError::Misfit { offset, .. }) if offset == end),
            "{refused:?}"
        );
    });
}

/// Each of these would make a state that no snapshot can hold.
#[test]
fn records_that_no_sane_writer_writes_do_not_fit() {
    let line = LineId::new(1);
    let branch = |number, parent| ManifestRecord::BranchAdded {
        line: LineId::new(number),
        name: name("b"),
        parent: LineId::new(parent),
        origin: Sequence::new(1),
        origin_time: Timestamp::default(),
    };
    let born = ManifestRecord::SegmentBorn {
        segment: SegmentId::new(1),
        lane: LaneId::new(0),
        salt: 1,
        first: LaneSequence::new(1),
        size_bytes: 4096,
    };
    let generation = ManifestRecord::GenerationRaised {
        line,
        generation: Generation::new(1),
        oldest_welcome: Generation::new(1),
        stream: StreamId::NONE,
    };
    let discarded = |number| ManifestRecord::BranchDiscarded { line: LineId::new(number) };
    let mut state = ManifestState::default();
    let (id, floor) = (DiskId::new(1), Sequence::new);
    let seeded = ManifestRecord::SeedFinished { disk: id, floor: floor(0) };
    let folded = |disk, at| ManifestRecord::FoldDone { disk: DiskId::new(disk), floor: floor(at) };
    let pinned = |at| ManifestRecord::PointPinned { line, sequence: floor(at) };
    let exported = |export, at| ManifestRecord::ExportAdded {
        export: ExportId::new(export),
        name: "m1".into(),
        line,
        sequence: Some(floor(at)),
        writable: false,
    };
    let sane = [
        machine(1),
        disk(1, 1),
        disk(2, 1),
        branch(5, 1),
        branch(6, 5),
        born.clone(),
        generation.clone(),
        seeded,
        begins(1, 1),
        folded(1, 1),
        machine(2),
        exported(1, 4),
        machine(3),
        disk(3, 3),
        records_released(10, 20),
    ];
    sane.iter().for_each(|record| state.apply(record).expect("it fits"));
    for record in [
        machine(1),
        disk(1, 1),
        disk(2, 9),
        branch(5, 1),
        discarded(1),
        discarded(5),
        discarded(7),
        born,
        generation,
        begins(1, 1),
        begins(5, 2),
        begins(9, 2),
        // The branch, and once there is none, the export.
        begins(1, 2),
        begins(1, 5),
        folded(1, 1),
        folded(1, 2),
        folded(2, 1),
        folded(3, 1),
        folded(9, 1),
        pinned(0),
        exported(2, 0),
        records_released(19, 21),
        line_released(1, 20),
        line_released(9, 12),
        // Still being written, and not there.
        ManifestRecord::SegmentReleased { segment: SegmentId::new(1) },
        ManifestRecord::SegmentReleased { segment: SegmentId::new(9) },
    ] {
        let before = state.clone();
        let refused = state.apply(&record);
        assert!(refused.is_err(), "{record:?}");
        assert_eq!(state, before, "{record:?} changed something");
    }
}

#[test]
fn of_two_changes_that_exclude_each_other_the_second_is_refused() {
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        let manifest = open(&folder, LATE).await.expect("there is space");
        manifest.append(vec![machine(1)]).await.expect("there is space");
        let removed = ManifestRecord::MachineRemoved { machine: MachineId::new(1) };
        let pinned =
            ManifestRecord::PointPinned { line: LineId::new(1), sequence: Sequence::new(1) };
        manifest.append(vec![removed.clone()]).await.expect("it is there");
        for late in [removed, pinned] {
            let before = read(&folder).await;
            let refused = manifest.append(vec![late]).await;
            assert!(matches!(refused, Err(ManifestError::Overtaken(_))), "{refused:?}");
            assert_eq!(read(&folder).await, before, "it was written");
        }
        manifest.append(vec![machine(2)]).await.expect("it goes on");
    });
}

#[test]
fn a_full_disk_refuses_a_change_and_takes_the_next_one() {
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        folder.set_capacity(Some(4096));
        let manifest = open(&folder, LATE).await.expect("there is space");
        let mut added = 0;
        let refused = loop {
            match manifest.append(vec![machine(added + 1)]).await {
                Ok(()) => added += 1,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(refused, ManifestError::File(FileError::NoSpace { .. })),
            "after {added}: {refused}"
        );
        assert_eq!(manifest.state().machines.len(), added as usize);
        let again = manifest.append(vec![machine(added + 1)]).await;
        assert!(matches!(again, Err(ManifestError::File(FileError::NoSpace { .. }))));
        folder.set_capacity(None);
        manifest.append(vec![machine(added + 1)]).await.expect("space came back");
        let state = manifest.state().clone();
        let folder = folder.crash(&mut Seed::new(3));
        assert_eq!(*open(&folder, LATE).await.expect("it opens").state(), state);
    });
}

#[test]
fn without_room_for_a_snapshot_the_log_goes_on() {
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        folder.set_capacity(Some(4096));
        let manifest = open(&folder, SOON).await.expect("there is space");
        for number in 1..20 {
            manifest.append(vec![machine(number)]).await.expect("the log has space");
            let record = ManifestRecord::MachineRemoved { machine: MachineId::new(number) };
            manifest.append(vec![record]).await.expect("the log has space");
        }
        let long = read(&folder).await.len();
        assert!(long as u64 > 4 * SOON, "{long} bytes call for no snapshot");
        folder.set_capacity(None);
        for number in 20..40 {
            manifest.append(vec![machine(number)]).await.expect("there is space");
            let record = ManifestRecord::MachineRemoved { machine: MachineId::new(number) };
            manifest.append(vec![record]).await.expect("there is space");
        }
        assert!(read(&folder).await.len() < long, "space came back and no snapshot was written");
        let state = manifest.state().clone();
        assert_eq!(*open(&folder, SOON).await.expect("it opens").state(), state);
    });
}

#[test]
fn restarts_do_not_let_the_log_grow() {
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        for number in 1..100 {
            let manifest = open(&folder, SOON).await.expect("it opens");
            manifest.append(vec![machine(number)]).await.expect("there is space");
            let record = ManifestRecord::MachineRemoved { machine: MachineId::new(number) };
            manifest.append(vec![record]).await.expect("there is space");
        }
        let length = read(&folder).await.len() as u64;
        assert!(length < 4 * SOON, "{length} bytes for no machine at all");
    });
}

#[test]
fn after_a_failed_write_or_flush_it_refuses_until_it_is_reopened() {
    for (fault, seed) in [Fault::Write, Fault::Flush].into_iter().zip(0..) {
        for seed in (0..16).map(|round| 2 * round + seed) {
            run(&mut Seed::new(seed), |_| async {
                let folder = FaultFolder::new(Seed::new(seed));
                let manifest = open(&folder, LATE).await.expect("there is space");
                manifest.append(vec![machine(1)]).await.expect("there is space");
                folder.fail_next(fault);
                let failed = manifest.append(vec![machine(2)]).await;
                assert!(matches!(failed, Err(ManifestError::File(_))), "{failed:?}");
                assert_eq!(manifest.state().machines.len(), 1);
                let refused = manifest.append(vec![machine(2)]).await;
                assert!(matches!(refused, Err(ManifestError::Poisoned)), "{refused:?}");
                let folder = folder.crash(&mut Seed::new(seed));
                let manifest = open(&folder, LATE).await.expect("at most the last frame is torn");
                let found = manifest.state().machines.len();
                assert!((1..=2).contains(&found), "{found} machines");
                manifest.append(vec![machine(3)]).await.expect("it goes on");
            });
        }
    }
}

#[test]
fn the_largest_machine_fits_a_frame_and_a_snapshot() {
    let path = |number: u32| format!("{number:0>MAX_PATH_BYTES$}");
    let mut records = vec![machine(1)];
    for number in 1..=u32::try_from(MAX_DISKS).expect("few") {
        records.push(ManifestRecord::DiskAdded {
            disk: DiskId::new(number),
            machine: MachineId::new(1),
            name: name(&format!("{number:0>63}")),
            size_bytes: 4096,
            format: "r".repeat(MAX_TEXT_BYTES),
            image: path(number),
        });
    }
    run(&mut Seed::new(1), |_| async {
        let folder = FaultFolder::new(Seed::new(2));
        let manifest = open(&folder, SOON).await.expect("there is space");
        manifest.append(records).await.expect("it fits");
        let lost = |number| ManifestRecord::ImageLost {
            disk: DiskId::new(number),
            reason: format!("{} is missing", path(number)),
        };
        manifest.append((1..=256).map(lost).collect()).await.expect("it fits");
        let state = manifest.state().clone();
        let (_, frames) = encode_snapshot(FOLDER_ID, &state);
        assert!(frames > 1, "one frame holds it all: the limit is not tried");
        assert_eq!(*open(&folder, SOON).await.expect("it opens").state(), state);
    });
}
