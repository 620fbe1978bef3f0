use super::*;
use crate::ids::{DiskId, GroupId, LaneId, LineId, MachineId, SegmentId, Sequence};
use crate::index::block_key::{put_data, put_zeroes};
use crate::index::memory::MemoryIndex;
use crate::index::moment_key::{Boundary, boundary_at_or_before, put_boundary};
use crate::leaf::{BlockPlace, Layer, LeafIndex, resolve};
use crate::manifest::history::HistoryStart;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::ManifestState;
use crate::moments::Moments;
use crate::name::Name;
use crate::time::Timestamp;
use landfall_disks::faults::Seed;
use landfall_disks::{BLOCK_SIZE, Block, ByteOffset, ByteRange};

fn batch(keys: &[&[u8]]) -> IndexBatch {
    let mut batch = IndexBatch::default();
    for key in keys {
        batch.put(*key, b"v");
    }
    batch
}

#[test]
fn what_was_flushed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = RocksIndex::open(folder.path(), RocksSettings::default()).unwrap();
    store.write(batch(&[b"a", b"b", b"c"])).unwrap();
    let mut gone = IndexBatch::default();
    gone.remove_range(*b"b", *b"c");
    store.write(gone).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = RocksIndex::open(folder.path(), RocksSettings::default()).unwrap();
    assert!(store.get(b"a").unwrap().is_some());
    assert!(store.get(b"b").unwrap().is_none());
    let mut cursor = store.cursor();
    cursor.seek_back(b"bb").unwrap();
    assert_eq!(cursor.entry().map(|(key, _)| key.to_vec()), Some(b"a".to_vec()));
    cursor.seek(b"bb").unwrap();
    assert_eq!(cursor.entry().map(|(key, _)| key.to_vec()), Some(b"c".to_vec()));
    cursor.advance().unwrap();
    assert!(cursor.entry().is_none());
}

const LINE: LineId = LineId::new(1);
const DISK: DiskId = DiskId::new(2);

fn open(folder: &Path) -> RocksIndex {
    // So little memory that what is written goes through files and compactions.
    let settings = RocksSettings { cache_bytes: 8 << 20, write_buffer_bytes: 64 << 10 };
    RocksIndex::open(folder, settings).unwrap()
}

fn floor(at: u64) -> Forgotten {
    let mut state = ManifestState::default();
    let machine = MachineId::new(1);
    let name = |text: &str| Name::parse(text).unwrap();
    let start = HistoryStart {
        sequence: Sequence::new(at),
        commit_time: Timestamp::default(),
        source_time: Timestamp::default(),
        kind: None,
        label: None,
    };
    let records = [
        ManifestRecord::MachineAdded {
            machine,
            name: name("m"),
            display_name: String::new(),
            group: GroupId::new(1),
            trunk: LINE,
            lane: LaneId::new(0),
        },
        ManifestRecord::DiskAdded {
            disk: DISK,
            machine,
            name: name("d"),
            size_bytes: 1 << 30,
            format: "raw".into(),
            image: "d".into(),
        },
        ManifestRecord::SeedFinished { disk: DISK, floor: Sequence::new(0) },
        ManifestRecord::FoldStarted { line: LINE, start },
        ManifestRecord::FoldDone { disk: DISK, floor: Sequence::new(at) },
    ];
    records.iter().for_each(|record| state.apply(record).unwrap());
    Forgotten::of(&state)
}

/// The same, and of what lies above the floor nothing is looked at but these moments.
fn seen(at: u64, moments: &[u64], through: u64) -> Forgotten {
    let moments = moments.iter().copied().map(Sequence::new).collect();
    floor(at).seeing([(LINE, Moments::these(moments, Sequence::new(through)))])
}

fn layer(newest: u64) -> Layer {
    let (above, newest) = (Sequence::default(), Sequence::new(newest));
    Layer { line: LINE, above, newest, gap: None, folded: true }
}

/// The same history in both stores, folded again and again, compacted here and losing entries at random there: every
/// leaf at every moment from the floor on is the same.
#[test]
fn both_stores_find_the_same_whatever_of_the_forgotten_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (rocks, memory) = (open(folder.path()), MemoryIndex::default());
    let mut random = Seed::new(3);
    let (mut forgotten, mut through, mut moments) = (0, 0, Vec::new());
    for sequence in 1..=600_u64 {
        let mut batch = IndexBatch::default();
        let blocks = 1 + random.below(40);
        let first = random.below(600 - blocks);
        let range = ByteRange::at(Block::new(first).offset(), blocks * BLOCK_SIZE).unwrap();
        let version = (LINE, DISK, Sequence::new(sequence));
        if random.chance(1, 4) {
            put_zeroes(&mut batch, version, range);
        } else {
            let unit = u32::try_from(sequence).unwrap();
            let sums: Vec<u32> = (0..blocks).map(|_| unit).collect();
            put_data(&mut batch, version, range, (SegmentId::new(unit / 50), unit), &sums);
        }
        put_boundary(
            &mut batch,
            LINE,
            Boundary {
                sequence: Sequence::new(sequence),
                commit_time: Timestamp::from_nanoseconds(sequence),
            },
        );
        rocks.write(batch.clone()).unwrap();
        memory.write(batch).unwrap();
        if sequence % 97 == 0 {
            forgotten = sequence - 40;
            through = sequence - 10;
            moments = (forgotten..=through).filter(|_| random.chance(1, 5)).collect();
            rocks.set_forgotten(seen(forgotten, &moments, through));
            memory.set_forgotten(seen(forgotten, &moments, through));
            memory.vanish(|_| random.chance(1, 2));
            rocks.compact().unwrap();
        }
        if sequence % 20 != 0 {
            continue;
        }
        let late = through.max(forgotten);
        let at = match random.chance(1, 2) {
            true if !moments.is_empty() => *random.pick(&moments),
            _ => late + random.below(sequence - late + 1),
        };
        let floor = || Sequence::new(forgotten);
        for leaf in [0, 1, 2].map(|leaf| LeafIndex::of(ByteOffset::new(leaf << 20))) {
            let of_rocks = resolve(&rocks, &[layer(at)], floor, DISK, leaf).unwrap();
            let of_memory = resolve(&memory, &[layer(at)], floor, DISK, leaf).unwrap();
            assert_eq!(of_rocks, of_memory, "at {at} of {sequence}, floor {forgotten}");
        }
        let time = Timestamp::from_nanoseconds(at);
        let boundary = |store: &dyn IndexStore| {
            boundary_at_or_before(store, LINE, Sequence::new(sequence), time)
        };
        let found = boundary(&rocks).unwrap().unwrap();
        assert_eq!((found.sequence.number(), Some(found)), (at, boundary(&memory).unwrap()));
    }
    let left = |store: &dyn IndexStore| {
        let mut cursor = store.cursor();
        cursor.seek(&[1]).unwrap();
        let mut left = 0;
        while cursor.entry().is_some() {
            left += 1;
            cursor.advance().unwrap();
        }
        left
    };
    rocks.compact().unwrap();
    memory.compact().unwrap();
    assert_eq!(left(&rocks), left(&memory));
}

/// Block 7 in versions 1 to `last`, each in the unit of its number.
fn rewrite(store: &RocksIndex, last: u32) {
    for sequence in 1..=last {
        let mut batch = IndexBatch::default();
        let range = ByteRange::at(Block::new(7).offset(), BLOCK_SIZE).unwrap();
        let place = (SegmentId::new(1), sequence);
        put_data(&mut batch, (LINE, DISK, Sequence::new(sequence.into())), range, place, &[1]);
        store.write(batch).unwrap();
    }
}

/// The versions that are left, newest first.
fn versions(store: &RocksIndex) -> Vec<u64> {
    let mut cursor = store.cursor();
    cursor.seek(&[1]).unwrap();
    let mut versions = Vec::new();
    while let Some((key, _)) = cursor.entry() {
        versions.push(super::super::block_key::parse_key(key).unwrap().sequence.number());
        cursor.advance().unwrap();
    }
    versions
}

/// A block with a hundred thousand versions, nearly all of them forgotten, costs as many steps as one with none.
#[test]
fn forgotten_versions_are_not_in_the_way_of_a_look_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let last = 100_000;
    rewrite(&store, last);
    store.flush().unwrap();
    let before = store.size_bytes();
    store.set_forgotten(floor(u64::from(last) - 10));
    store.compact().unwrap();
    assert!(store.size_bytes() * 20 < before, "{} of {before} bytes left", store.size_bytes());
    assert_eq!(versions(&store).len(), 10);
}

/// What lies between kept points is forgotten too, and every point sees what it saw.
#[test]
fn versions_between_kept_points_are_not_in_the_way_either() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let last = 100_000;
    rewrite(&store, last);
    let kept = [25_000, 60_000, 99_000];
    store.set_forgotten(seen(1000, &kept, u64::from(last) - 1));
    store.compact().unwrap();
    let [newest, kept_back] = [last, last - 1].map(u64::from);
    assert_eq!(versions(&store), [newest, kept_back, 99_000, 60_000, 25_000]);
    for point in kept {
        let floor = || Sequence::new(1000);
        let leaf = resolve(&store, &[layer(point)], floor, DISK, LeafIndex::of(ByteOffset::new(0)));
        let unit = u32::try_from(point).unwrap();
        let place = BlockPlace::Journal { segment: SegmentId::new(1), unit, checksum: 1 };
        assert_eq!(leaf.unwrap().place(Block::new(7)), place);
    }
}

fn put(index: &RocksIndex, key: &[u8], value: &[u8]) {
    let mut batch = IndexBatch::default();
    batch.put(key, value);
    index.write(batch).unwrap();
}

/// An index with a value that changed between and after two checkpoints, closed.
fn checkpointed(folder: &Path) -> Checkpoints {
    let path = folder.join("index");
    let checkpoints = Checkpoints::of(&path);
    let (index, restored) = checkpoints.open(RocksSettings::default()).unwrap();
    assert!(matches!(restored, Restored::No), "{restored:?}");
    for round in [b"1", b"2", b"3"] {
        put(&index, b"round", round);
        // Nothing of it is flushed: a checkpoint has it all the same.
        checkpoints.make(&index).unwrap();
    }
    put(&index, b"round", b"4");
    index.flush().unwrap();
    checkpoints
}

fn only_file(folder: &Path, kind: &str) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|of| of == kind)).collect();
    found.last().expect("there is one").clone()
}

#[test]
fn an_index_that_is_gone_is_what_the_newest_checkpoint_was() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = checkpointed(folder.path());
    let there = std::fs::read_dir(checkpoints.folder()).unwrap().count();
    assert_eq!(there, 2, "the oldest went");
    let (index, restored) = checkpoints.open(RocksSettings::default()).unwrap();
    assert!(matches!(restored, Restored::No), "{restored:?}");
    assert_eq!(index.get(b"round").unwrap().as_deref(), Some(&b"4"[..]));
    drop(index);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (index, restored) = checkpoints.open(RocksSettings::default()).unwrap();
    assert!(matches!(restored, Restored::From { damage: None, .. }), "{restored:?}");
    assert_eq!(index.get(b"round").unwrap().as_deref(), Some(&b"3"[..]));
    // It is written to as ever, and the checkpoint stays what it was.
    put(&index, b"round", b"5");
    index.compact().unwrap();
    drop(index);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (index, _) = checkpoints.open(RocksSettings::default()).unwrap();
    assert_eq!(index.get(b"round").unwrap().as_deref(), Some(&b"3"[..]));
}

#[test]
fn a_corrupt_index_and_a_corrupt_checkpoint_give_way_to_what_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = checkpointed(folder.path());
    let newest = checkpoints.folder().join("0000000003");
    let table = only_file(&newest, "sst");
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[3] ^= 1;
    std::fs::remove_file(&table).unwrap();
    std::fs::write(&table, bytes).unwrap();
    std::fs::write(folder.path().join("index/CURRENT"), "nonsense").unwrap();
    let (index, restored) = checkpoints.open(RocksSettings::default()).unwrap();
    let Restored::From { checkpoint, damage: Some(_) } = &restored else { panic!("{restored:?}") };
    assert_eq!(checkpoint, &checkpoints.folder().join("0000000002"));
    assert_eq!(index.get(b"round").unwrap().as_deref(), Some(&b"2"[..]));
    drop(index);
    // With none that is good it begins with nothing.
    for one in [checkpoint.clone(), folder.path().join("index")] {
        std::fs::write(one.join("CURRENT"), "nonsense").unwrap();
    }
    let (index, restored) = checkpoints.open(RocksSettings::default()).unwrap();
    assert!(matches!(restored, Restored::Nothing { damage: Some(_) }), "{restored:?}");
    assert_eq!(index.get(b"round").unwrap(), None);
}
