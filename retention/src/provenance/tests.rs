//! Walks and ages against a model of lines as lists of writes.

use super::ages::{Ages, Spell};
use super::walk::{Look, Parts, Written, walk};
use crate::changes::model::{DISK, Model, SIZE_BYTES, id};
use crate::ids::{LineId, Sequence};
use crate::index::memory::MemoryIndex;
use crate::leaf::Layer;
use crate::line::Depth;
use crate::time::Timestamp;
use landfall_disks::faults::Seed;
use landfall_disks::{BLOCK_SIZE, Block, ByteOffset, ByteRange};

/// The lines that a look from a moment goes through, the newest first, each with the moment it is seen up to.
fn way(model: &Model, (line, newest): (usize, u64)) -> Vec<(usize, u64)> {
    let mut way = vec![(line, newest)];
    while let Some((parent, origin)) = model.lines[way.last().expect("one").0].parent {
        way.push((parent, origin));
    }
    way
}

fn depths(model: &Model, moment: (usize, u64)) -> Vec<Depth> {
    let layers = model.layers(moment.0, moment.1);
    let born = |line: usize| {
        let origin = model.lines[line].parent;
        origin.map(|(parent, at)| model.committed(parent, at)).unwrap_or_default()
    };
    let depth = |((line, _), layer)| Depth { layers: vec![layer], born: born(line) };
    way(model, moment).into_iter().zip(layers).map(depth).collect()
}

/// What a walk says, however often it stops.
fn walked(
    model: &Model,
    moment: (usize, u64),
    floor: Sequence,
    range: ByteRange,
) -> Vec<(ByteRange, (Option<Written>, u32))> {
    let look = Look::new(depths(model, moment));
    let (mut all, mut rest) = (Parts::default(), range);
    while !rest.is_empty() {
        let say = |written, depth| (written, depth);
        let some = walk(&model.store, &look, || floor, (DISK, rest), say).expect("in memory");
        assert_eq!(some.first().expect("it gets on").0.start(), rest.start());
        for (part, said) in some {
            assert_eq!(part.start(), rest.start(), "a gap");
            rest = rest.split_at(part.end()).1;
            all.push(part, said);
        }
    }
    all.into_inner()
}

/// From any moment of any line, whatever of the trunk was folded: each block is told with the write it reads from, and how many
/// lines lie above it.
#[test]
fn every_block_is_told_with_what_wrote_it_and_how_deep_that_lies() {
    for number in 0..300 {
        let mut seed = Seed::new(number);
        let model = Model::grown(&mut seed);
        let moment = model.moment(&mut seed);
        let way = way(&model, moment);
        let floor = seed.below(way.last().expect("the trunk").1 + 1);
        let start = seed.below(SIZE_BYTES);
        let range = ByteRange::at(ByteOffset::new(start), 1 + seed.below(SIZE_BYTES - start));
        let range = range.expect("small");
        let told = walked(&model, moment, Sequence::new(floor), range);
        assert_eq!(told.first().map(|(part, _)| part.start()), Some(range.start()));
        assert_eq!(told.last().map(|(part, _)| part.end()), Some(range.end()));
        assert!(told.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours differ");
        let versions = model.versions(moment.0, moment.1);
        for (part, (written, depth)) in told {
            for block in part.start().block().index()..part.end().bytes().div_ceil(BLOCK_SIZE) {
                let (line, sequence) = versions[usize::try_from(block).expect("few")];
                let place = way.iter().position(|(on_way, _)| *on_way == line);
                let in_image = place.is_none() || line == 0 && sequence <= floor;
                let expected = (!in_image).then(|| Written {
                    line: id(line),
                    sequence: Sequence::new(sequence),
                    lost: false,
                });
                assert_eq!(written, expected, "seed {number}: block {block}");
                let deep = place.filter(|_| !in_image).unwrap_or(way.len()) + 1;
                assert_eq!(depth as usize, deep, "seed {number}: block {block}");
            }
        }
    }
}

/// The age of what a line wrote is that of the first boundary that has it and is seen, or of what is looked at itself.
#[test]
fn a_version_is_there_since_the_first_moment_that_has_it() {
    for number in 0..300 {
        let mut seed = Seed::new(number);
        let model = Model::grown(&mut seed);
        let moment = model.moment(&mut seed);
        let until = model.committed(moment.0, moment.1).next();
        let mut spells = Spell::of(&depths(&model, moment), until);
        if moment.1 == model.lines[moment.0].writes.len() as u64 && seed.chance(1, 2) {
            // As a head is looked at: whatever comes next counts as well.
            spells[0].newest = Sequence::MAX;
        }
        let mut ages = Ages::new(spells);
        let way = way(&model, moment);
        for (place, (line, newest)) in way.iter().copied().enumerate() {
            // Seen up to where each line on the way to it starts.
            let starts = way[..place].iter().map(|(below, _)| {
                let (parent, origin) = model.lines[*below].parent.expect("it has one");
                model.committed(parent, origin)
            });
            let until = starts.min().unwrap_or(until).min(until);
            let mut sequences: Vec<u64> = (1..=newest).collect();
            // In any order: what is known of one must not be taken for another.
            for at in (1..sequences.len()).rev() {
                sequences.swap(at, seed.index(at + 1));
            }
            for sequence in sequences {
                let moments = (sequence..=newest).map(|at| usize::try_from(at).expect("few") - 1);
                let mut moments = moments.map(|at| model.lines[line].committed[at]);
                let first = moments.find(|(_, boundary)| *boundary);
                let expected = first.map_or(until, |(time, _)| time.min(until));
                let told = ages.first_moment(&model.store, id(line), Sequence::new(sequence));
                assert_eq!(told.expect("in memory"), expected, "seed {number}: {line}, {sequence}");
            }
        }
    }
}

fn layer(line: u32, above: u64, newest: u64, gap: Option<u64>, folded: bool) -> Layer {
    let (above, newest) = (Sequence::new(above), Sequence::new(newest));
    Layer { line: LineId::new(line), above, newest, gap: gap.map(Sequence::new), folded }
}

/// What one line wrote lies as deep as that line, whichever lines it wrote it as; what it wrote before it became another's
/// lies deeper.
#[test]
fn stretches_of_a_line_are_one_depth() {
    let store = MemoryIndex::default();
    let depth = |layers: Vec<Layer>| Depth { layers, born: Timestamp::default() };
    // Line 1 was the trunk until line 2 was promoted at 5, and is looked at itself.
    let old = depth(vec![layer(1, 5, 9, Some(8), false)]);
    let trunk = depth(vec![layer(1, 0, 5, Some(3), true)]);
    let look = Look::new(vec![old, trunk]);
    let range = ByteRange::at(Block::new(3).offset(), 100).expect("small");
    let floor = Sequence::default;
    let said =
        |written: Option<Written>, depth| (written.map(|w| (w.sequence.number(), w.lost)), depth);
    let told = walk(&store, &look, floor, (DISK, range), said).expect("in memory");
    assert_eq!(told, [(range, (Some((8, true)), 1))]);
    assert_eq!(look.image_depth(), 3);
    let promoted = depth(vec![layer(2, 5, 9, None, true), layer(1, 0, 5, Some(3), true)]);
    let look = Look::new(vec![promoted]);
    let told = walk(&store, &look, floor, (DISK, range), said).expect("in memory");
    assert_eq!(told, [(range, (Some((3, true)), 1))]);
    assert_eq!(look.image_depth(), 2);
    // What was folded is in the image, lost or not.
    let told = walk(&store, &look, || Sequence::new(4), (DISK, range), said).expect("in memory");
    assert_eq!(told, [(range, (None, 2))]);
}
