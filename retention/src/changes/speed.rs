//! How fast changes are told, measured on RocksDB: `cargo nextest run --run-ignored only -E 'test(changes_are_told)'`
//! with `--no-capture`. The figures stand in `docs/decisions/0012-changes.md`.

use super::page::{PageLimits, page};
use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::index::block_key::put_data;
use crate::index::rocks::{RocksIndex, RocksSettings};
use crate::index::written::SequenceWindow;
use crate::index::{IndexBatch, IndexStore};
use landfall_disks::faults::Seed;
use landfall_disks::{BLOCK_SIZE, Block, ByteOffset, ByteRange};
use std::time::Instant;

const LINE: LineId = LineId::new(1);
const DISK: DiskId = DiskId::new(2);
/// 64 GiB.
const BLOCKS: u64 = 1 << 24;
const VERSIONS: u64 = 4_000_000;
const HOT_VERSIONS: u64 = 1_000_000;

fn put(batch: &mut IndexBatch, sequence: u64, block: u64) {
    let range = ByteRange::at(Block::new(block).offset(), BLOCK_SIZE).expect("on the disk");
    put_data(batch, (LINE, DISK, Sequence::new(sequence)), range, (SegmentId::new(1), 1), &[7]);
}

/// Random blocks, a tenth of which are rewritten often; then one block a million times.
fn filled() -> (tempfile::TempDir, RocksIndex) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = RocksIndex::open(folder.path(), RocksSettings::default()).expect("a new one");
    let mut random = Seed::new(7);
    let mut batch = IndexBatch::default();
    for sequence in 1..=VERSIONS + HOT_VERSIONS {
        let hot = sequence > VERSIONS;
        let span = if random.chance(1, 2) { BLOCKS } else { BLOCKS / 100 };
        put(&mut batch, sequence, if hot { 77 } else { random.below(span) });
        if sequence % 1000 == 0 {
            store.write(std::mem::take(&mut batch)).expect("written");
        }
    }
    store.compact().expect("compacted");
    (folder, store)
}

fn all(store: &RocksIndex, (above, up_to): (u64, u64)) -> (u64, usize, f64) {
    let (above, up_to) = (Sequence::new(above), Sequence::new(up_to));
    let window = SequenceWindow { line: LINE, above, up_to };
    let begun = Instant::now();
    let (mut bytes, mut pages, mut next) = (0, 0, Some(ByteOffset::new(0)));
    while let Some(from) = next {
        let limits = PageLimits { from, ranges: 10_000, effort: super::PAGE_EFFORT };
        let found = page(store, &[window], (DISK, BLOCKS * BLOCK_SIZE), limits).expect("a page");
        bytes += found.ranges.iter().map(|range| range.length()).sum::<u64>();
        pages += 1;
        next = found.next;
    }
    (bytes / BLOCK_SIZE, pages, begun.elapsed().as_secs_f64())
}

#[test]
#[ignore = "a measurement of a minute"]
fn changes_are_told_at_the_speed_of_the_index() {
    let (_folder, store) = filled();
    let last = VERSIONS + HOT_VERSIONS;
    for (what, window) in [
        ("everything", (0, last)),
        ("everything, warm", (0, last)),
        ("the last hundredth before the hot block", (VERSIONS - VERSIONS / 100, VERSIONS)),
        ("a hundredth in the middle", (VERSIONS / 2, VERSIONS / 2 + VERSIONS / 100)),
        ("the hot block", (VERSIONS, last)),
    ] {
        let (blocks, pages, seconds) = all(&store, window);
        let rate = f64::from(u32::try_from(last).expect("few")) / seconds;
        println!(
            "{what}: {blocks} blocks, {pages} pages, {seconds:.3} s, {rate:.0} of all entries a second"
        );
    }
    // The one block alone: as little as if it had been written once.
    let begun = Instant::now();
    let window = SequenceWindow {
        line: LINE,
        above: Sequence::new(VERSIONS + HOT_VERSIONS / 2),
        up_to: Sequence::new(last - 1),
    };
    let limits = PageLimits { from: Block::new(77).offset(), ranges: 10, effort: u64::MAX };
    let found = page(&store, &[window], (DISK, 78 * BLOCK_SIZE), limits).expect("a page");
    println!("one block with {HOT_VERSIONS} versions: {:?}", begun.elapsed());
    assert_eq!(found.ranges.len(), 1);
}
