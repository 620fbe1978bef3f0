//! A walk over part of a disk: which version each block reads from, and how deep it lies. Pure but for the index it asks.

use crate::ids::{DiskId, LineId, Sequence};
use crate::index::{IndexError, IndexStore};
use crate::leaf::{LEAF_BLOCKS, Layer, LeafIndex, next_written_leaf, seen_versions};
use crate::line::{Depth, joined};
use landfall_disks::{BLOCK_SIZE, ByteRange};

/// Leaves that one walk looks at: a hundredth of a second or so.
const LEAVES_AT_ONCE: usize = 64;

/// The version that a block reads from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Written {
    /// As which line it was written.
    pub(super) line: LineId,
    pub(super) sequence: Sequence,
    /// Its record was lost; whether it wrote the block is not known.
    pub(super) lost: bool,
}

/// What is looked through.
pub(super) struct Look {
    layers: Vec<Layer>,
    pub(super) depths: Vec<Depth>,
}

impl Look {
    /// A look through all of these lines.
    pub(super) fn new(depths: Vec<Depth>) -> Self {
        let layers = joined(depths.iter().flat_map(|depth| depth.layers.iter().cloned()).collect());
        Self { layers, depths }
    }

    /// How deep the image lies.
    pub(super) fn image_depth(&self) -> u32 {
        number(self.depths.len()) + 1
    }

    /// How deep a version lies.
    fn depth(&self, written: &Written) -> u32 {
        let wrote = |layer: &Layer| {
            let Written { line, sequence, .. } = *written;
            layer.line == line && layer.above < sequence && sequence <= layer.newest
        };
        let found = self.depths.iter().position(|depth| depth.layers.iter().any(wrote));
        number(found.unwrap_or(self.depths.len())) + 1
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("branches do not nest that deep")
}

/// Parts of a disk in address order, neighbours different.
pub(super) struct Parts<T>(Vec<(ByteRange, T)>);

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Parts<T> {
    /// Adds what lies right behind those that are there.
    pub(super) fn push(&mut self, range: ByteRange, what: T) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some((last, same)) if *same == what && last.end() == range.start() => {
                *last = ByteRange::new(last.start(), range.end()).expect("in order");
            }
            _ => self.0.push((range, what)),
        }
    }

    pub(super) fn into_inner(self) -> Vec<(ByteRange, T)> {
        self.0
    }
}

/// Says of a prefix of `range`, which is a part of a disk, what its blocks read from: `say` is asked with the version and how
/// deep it lies, with none for what only the image may have. Blocks, so it runs off the I/O core.
pub(super) fn walk<T: PartialEq>(
    index: &dyn IndexStore,
    look: &Look,
    floor: impl Fn() -> Sequence,
    (disk, range): (DiskId, ByteRange),
    say: impl Fn(Option<Written>, u32) -> T,
) -> Result<Vec<(ByteRange, T)>, IndexError> {
    let image = || say(None, look.image_depth());
    let mut parts = Parts::default();
    let mut rest = range;
    for _ in 0..LEAVES_AT_ONCE {
        if rest.is_empty() {
            break;
        }
        let first = LeafIndex::of(rest.start());
        let next = next_written_leaf(index, &look.layers, disk, first)?;
        let written = next.map_or(rest.end(), |next| next.range().start());
        let (untouched, after) = rest.split_at(written.clamp(rest.start(), rest.end()));
        parts.push(untouched, image());
        let Some(leaf) = next.filter(|_| !after.is_empty()) else { break };
        let mut versions: [Option<Written>; LEAF_BLOCKS] = [None; LEAF_BLOCKS];
        seen_versions(index, &look.layers, &floor, disk, leaf, |slot, seen| {
            let (line, sequence) = (look.layers[seen.layer].line, seen.sequence);
            versions[slot] = Some(Written { line, sequence, lost: seen.version.is_none() });
        })?;
        for (block, version) in leaf.range().chunks(BLOCK_SIZE).zip(versions) {
            let said = match version {
                Some(version) => say(Some(version), look.depth(&version)),
                None => image(),
            };
            parts.push(block.intersection(after), said);
        }
        rest = after.split_at(leaf.range().end().min(after.end())).1;
    }
    Ok(parts.into_inner())
}
