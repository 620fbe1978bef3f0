//! What a snapshot changed, by the images that hold it. Pure: what each image has of its own in, stretches to send out.
//!
//! ```text
//!   child of the child   ░░██░░░░░░      own: █
//!   child                ░░░██░░░00      own: █, 0 zeroes
//!   what was sent        ███░░███░█      found again by what its content is called
//!                        ──────────
//!   to send                ███   00      read through the topmost, nothing else is read
//! ```

use landfall_disks::mapped::OwnRange;
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange, Content};
use landfall_protocols::delta::ContentId;

/// What is known of the changes since the target was last brought up to date.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Changes {
    /// The source cannot know: a raw file, or an image that stands on nothing.
    NotAsked,
    /// The target does not hold what any image of the chain is.
    UnknownBase,
    /// All of them.
    Known(Vec<Change>),
}

/// A stretch that may differ: whole blocks of 4 KiB, but for one that ends with the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) range: ByteRange,
    /// It is known to read as zeroes.
    pub(super) zero: bool,
}

/// How many of the images, whose contents are called `contents` from the topmost down, lie above what is `held`.
pub(super) fn above(contents: &[Option<ContentId>], held: Option<ContentId>) -> Option<usize> {
    let held = held?;
    contents.iter().position(|content| *content == Some(held))
}

/// What `layers`, the topmost first, have of their own together. Each tells of the disk from its start without a gap, as far as
/// it reaches; beyond, it has nothing.
pub(super) fn changed(layers: &[Vec<OwnRange>], size_bytes: u64) -> Vec<Change> {
    let mut cuts: Vec<u64> = layers.iter().flatten().map(|own| own.range.end().bytes()).collect();
    cuts.push(size_bytes);
    cuts.retain(|cut| *cut <= size_bytes);
    cuts.sort_unstable();
    cuts.dedup();
    let mut next = vec![0; layers.len()];
    let mut changes = Vec::new();
    let mut start = 0;
    for end in cuts {
        let piece = ByteRange::new(ByteOffset::new(start), ByteOffset::new(end));
        let piece = piece.expect("cuts ascend");
        let mut content = None;
        for (layer, next) in layers.iter().zip(&mut next) {
            while layer.get(*next).is_some_and(|own| own.range.end() <= piece.start()) {
                *next += 1;
            }
            let own = layer.get(*next).and_then(|own| own.content);
            content = content.or(own);
        }
        if let Some(content) = content {
            widen(piece, content != Content::Data, size_bytes, &mut changes);
        }
        start = end;
    }
    changes
}

/// Adds `piece` in whole blocks. A block that is zeroes in part is one to be read.
fn widen(piece: ByteRange, zero: bool, size_bytes: u64, changes: &mut Vec<Change>) {
    let disk = ByteRange::up_to(size_bytes);
    let outer = piece.widen(BLOCK_SIZE).intersection(disk);
    if !zero {
        return push(Change { range: outer, zero }, changes);
    }
    let to_end = piece.end() == disk.end();
    let start = piece.start().bytes().next_multiple_of(BLOCK_SIZE);
    let end = if to_end { size_bytes } else { piece.end().bytes() / BLOCK_SIZE * BLOCK_SIZE };
    let Some(inner) = ByteRange::new(ByteOffset::new(start), ByteOffset::new(end))
        .filter(|inner| !inner.is_empty())
    else {
        return push(Change { range: outer, zero: false }, changes);
    };
    let (before, after) = (outer.split_at(inner.start()).0, outer.split_at(inner.end()).1);
    for (range, zero) in [(before, false), (inner, true), (after, false)] {
        if !range.is_empty() {
            push(Change { range, zero }, changes);
        }
    }
}

/// Appends what is new of a change; where it overlaps the last, the block has to be read.
fn push(change: Change, changes: &mut Vec<Change>) {
    let Some(last) = changes.last_mut() else { return changes.push(change) };
    let start = last.range.end().max(change.range.start());
    let Some(fresh) = ByteRange::new(start, change.range.end()) else { return };
    if fresh.is_empty() {
        return;
    }
    if last.zero == change.zero && last.range.end() == fresh.start() {
        last.range = ByteRange::new(last.range.start(), fresh.end()).expect("changes ascend");
    } else {
        changes.push(Change { range: fresh, ..change });
    }
}

/// What `changes` come to, in words.
pub(super) fn in_words(changes: &[Change]) -> (u64, u64) {
    (changes.len() as u64, changes.iter().map(|change| change.range.length()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECTOR: u64 = 512;
    const SECTORS: usize = 61;

    fn id(byte: u8) -> Option<ContentId> {
        ContentId::new([byte; 32])
    }

    #[test]
    fn the_images_above_what_is_held_are_those_that_count() {
        let chain = [id(3), id(2), id(1)];
        assert_eq!(above(&chain, id(3)), Some(0), "nothing changed");
        assert_eq!(above(&chain, id(1)), Some(2));
        assert_eq!(above(&chain, id(9)), None, "the base is another one");
        assert_eq!(above(&chain, None), None);
        assert_eq!(above(&[id(3), None], None), None, "what has no name is not found");
    }

    /// What an image has of each sector.
    fn ranges(sectors: &[Option<Content>]) -> Vec<OwnRange> {
        let at = |index: usize| ByteOffset::new(index as u64 * SECTOR);
        let one = |(index, content): (usize, &Option<Content>)| OwnRange {
            range: ByteRange::new(at(index), at(index + 1)).expect("ordered"),
            content: *content,
        };
        sectors.iter().enumerate().map(one).collect()
    }

    fn sectors() -> impl Strategy<Value = Vec<Option<Content>>> {
        let content = prop_oneof![
            4 => Just(None),
            2 => Just(Some(Content::Data)),
            1 => Just(Some(Content::Zero)),
            1 => Just(Some(Content::Hole)),
        ];
        let runs = prop::collection::vec((content, 1usize..12), 1..20);
        (runs, 1..=SECTORS).prop_map(|(runs, length)| {
            let mut all: Vec<_> =
                runs.into_iter().flat_map(|(content, count)| vec![content; count]).collect();
            all.resize(SECTORS, None);
            all.truncate(length);
            all
        })
    }

    proptest! {
        #[test]
        fn every_owned_sector_is_in_a_change_and_no_block_without_one(
            layers in prop::collection::vec(sectors(), 0..4),
        ) {
            let size_bytes = SECTORS as u64 * SECTOR;
            let owned: Vec<_> = layers.iter().map(|layer| ranges(layer)).collect();
            let changes = changed(&owned, size_bytes);
            let top = |sector: usize| {
                layers.iter().find_map(|layer| layer.get(sector).copied().flatten())
            };
            let mut end = 0;
            for change in &changes {
                let (from, to) = (change.range.start().bytes(), change.range.end().bytes());
                prop_assert!(from >= end && from < to, "they ascend and hold something");
                prop_assert!(from.is_multiple_of(BLOCK_SIZE));
                prop_assert!(to.is_multiple_of(BLOCK_SIZE) || to == size_bytes);
                end = to;
            }
            for block in ByteRange::up_to(size_bytes).chunks(BLOCK_SIZE) {
                let of = |offset: u64| usize::try_from(offset / SECTOR).expect("small");
                let inside = of(block.start().bytes())..of(block.end().bytes());
                let owned = inside.clone().any(|sector| top(sector).is_some());
                let zero = inside.clone().all(|sector| {
                    matches!(top(sector), Some(Content::Zero | Content::Hole))
                });
                let found = changes.iter().find(|change| change.range.contains(block));
                prop_assert_eq!(found.is_some(), owned, "block {}", block);
                // Zeroes of several stretches may be read instead.
                prop_assert!(found.is_none_or(|change| !change.zero || zero), "block {}", block);
            }
        }
    }
}
