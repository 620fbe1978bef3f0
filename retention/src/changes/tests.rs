//! Changes against a model of lines as lists of writes, and against what views would read.

use super::model::{BLOCKS, DISK, Model, SIZE_BYTES};
use super::page::{Page, PageLimits, page};
use super::windows::Between;
use super::{ChangedRange, with_lost};
use crate::ids::Sequence;
use crate::leaf::{LeafIndex, resolve};
use landfall_disks::faults::Seed;
use landfall_disks::{BLOCK_SIZE, Block, ByteOffset, ByteRange};
use std::collections::BTreeSet;

fn changes(model: &Model, between: &Between, ranges: usize, effort: u64) -> Vec<ByteRange> {
    let (mut all, mut from): (Vec<ByteRange>, _) = (Vec::new(), ByteOffset::new(0));
    loop {
        let limits = PageLimits { ranges, effort };
        let of = (DISK, ByteRange::up_to(SIZE_BYTES).split_at(from).1);
        let found = page(&model.store, &between.windows, of, limits).expect("in memory");
        assert!(found.ranges.len() <= ranges);
        for range in found.ranges {
            assert!(range.start() >= from && !range.is_empty());
            match all.last_mut() {
                Some(last) if last.end() == range.start() => {
                    *last = ByteRange::new(last.start(), range.end()).expect("in order");
                }
                _ => all.push(range),
            }
        }
        let Some(next) = found.next else { return all };
        assert!(next > from, "a page that gets nowhere");
        assert!(all.last().is_none_or(|last| last.end() <= next));
        from = next;
    }
}

fn blocks(ranges: &[ByteRange]) -> BTreeSet<u64> {
    let of =
        |range: &ByteRange| range.start().block().index()..range.end().bytes().div_ceil(BLOCK_SIZE);
    ranges.iter().flat_map(of).collect()
}

/// Between any two moments of any lines, forward and back, in pages of any size: exactly the blocks whose newest version
/// differs, and nothing beyond the end of the disk.
#[test]
fn exactly_the_blocks_whose_version_differs() {
    for number in 0..400 {
        let mut seed = Seed::new(number);
        let model = Model::grown(&mut seed);
        let (from, to) = (model.moment(&mut seed), model.moment(&mut seed));
        let (old, new) = (model.versions(from.0, from.1), model.versions(to.0, to.1));
        let differ = (0..BLOCKS).filter(|block| {
            let at = usize::try_from(*block).expect("few");
            old[at] != new[at]
        });
        let differ: BTreeSet<u64> = differ.collect();
        let layers = [model.layers(from.0, from.1), model.layers(to.0, to.1)];
        let between = Between::of(&layers[0], &layers[1]).expect("one trunk");
        let whole = changes(&model, &between, usize::MAX, u64::MAX);
        assert_eq!(blocks(&whole), differ, "seed {number}");
        assert!(whole.iter().all(|range| range.end().bytes() <= SIZE_BYTES));
        let cut = *seed.pick(&[1, 2, 7]);
        assert_eq!(changes(&model, &between, cut, u64::MAX), whole, "seed {number}, {cut} a page");
        let effort = seed.below(100);
        assert_eq!(
            changes(&model, &between, 1000, effort),
            whole,
            "seed {number}, effort {effort}"
        );
        let start = seed.below(SIZE_BYTES);
        let part = ByteRange::at(ByteOffset::new(start), 1 + seed.below(SIZE_BYTES - start));
        let part = part.expect("small");
        let limits = PageLimits { ranges: usize::MAX, effort: u64::MAX };
        let found = page(&model.store, &between.windows, (DISK, part), limits).expect("in memory");
        let cut = whole.iter().map(|range| range.intersection(part));
        let cut: Vec<_> = cut.filter(|range| !range.is_empty()).collect();
        assert_eq!((found.ranges, found.next), (cut, None), "seed {number}, {part}");
        let back = Between::of(&layers[1], &layers[0]).expect("one trunk");
        assert_eq!(changes(&model, &back, usize::MAX, u64::MAX), whole, "seed {number}, back");
    }
}

/// What is not among the changes lies in the same place at both moments, so it reads the same; also when the trunk was
/// folded up to the older of them and the index forgot what may go.
#[test]
fn what_did_not_change_is_read_from_the_same_place() {
    for number in 0..200 {
        let mut seed = Seed::new(1000 + number);
        let model = Model::grown(&mut seed);
        let (from, to) = (model.moment(&mut seed), model.moment(&mut seed));
        let layers = [model.layers(from.0, from.1), model.layers(to.0, to.1)];
        let lowest = layers.iter().filter_map(|layers| layers.last()).map(|l| l.newest).min();
        let floor = Sequence::new(seed.below(lowest.unwrap_or_default().number() + 1));
        let between = Between::of(&layers[0], &layers[1]).expect("one trunk");
        let changed = blocks(&changes(&model, &between, usize::MAX, u64::MAX));
        for leaf in (0..3).map(|leaf| LeafIndex::of(ByteOffset::new(leaf << 20))) {
            let [old, new] = layers
                .each_ref()
                .map(|layers| resolve(&model.store, layers, || floor, DISK, leaf).expect("whole"));
            let range = leaf.range();
            for block in range.start().block().index()..range.end().block().index().min(BLOCKS) {
                let same = old.place(Block::new(block)) == new.place(Block::new(block));
                assert!(same || changed.contains(&block), "seed {number}: block {block}");
            }
        }
    }
}

#[test]
fn where_records_were_lost_everything_may_have_changed() {
    let range = |first: u64, blocks: u64| {
        ByteRange::at(Block::new(first).offset(), blocks * BLOCK_SIZE).expect("small")
    };
    let changed = |range, written| ChangedRange { range, written };
    let page = Page { ranges: vec![range(2, 1), range(5, 2)], next: Some(range(9, 1).start()) };
    let whole = range(1, 20);
    let known = with_lost(page.clone(), whole, false);
    assert_eq!(known.ranges, vec![changed(range(2, 1), true), changed(range(5, 2), true)]);
    let lost = with_lost(page, whole, true);
    let expected = vec![
        changed(range(1, 1), false),
        changed(range(2, 1), true),
        changed(range(3, 2), false),
        changed(range(5, 2), true),
        changed(range(7, 2), false),
    ];
    assert_eq!((lost.ranges, lost.next), (expected, Some(range(9, 1).start())));
    let rest = with_lost(Page::default(), whole, true);
    assert_eq!(rest.ranges, vec![changed(whole, false)]);
}
