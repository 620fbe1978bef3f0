//! What the index says of versions that the journal has: each block that somebody still sees is to be found, with the
//! checksum that its bytes have.
//!
//! ```text
//!   entry as it was put first? ─▶ good
//!   else, block by block ─▶ nobody sees it ─▶ good       what went, went rightly
//!                        ─▶ the version lies elsewhere, in a segment there is, with the same checksum ─▶ good
//!                        ─▶ anything else: it is put there again
//! ```
//!
//! **Invariant:** what can be looked at is taken after the cursor was opened. It only ever becomes less, and the index loses
//! nothing but what nobody sees: so what an older cursor misses and a later sight has was lost.

use crate::compact::Sight;
use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::index::block_key::{
    Place, SizeClass, entries_of_data, entries_of_zeroes, newest_versions, put_stored,
};
use crate::index::{Cursor, IndexBatch, IndexError, IndexStore};
use crate::sealing::{BlockSeal, SealOrigin, Tag};
use landfall_disks::{BLOCK_SIZE, ByteRange};
use std::collections::BTreeSet;

/// A version that the journal has.
pub(super) struct Written {
    pub(super) version: (LineId, DiskId, Sequence),
    pub(super) range: ByteRange,
    /// None if it is zeroes.
    pub(super) data: Option<Data>,
}

/// Bytes of a version, as they are stored.
pub(super) struct Data {
    pub(super) segment: SegmentId,
    /// Of the first block.
    pub(super) unit: u32,
    /// CRC32C of each block.
    pub(super) sums: Vec<u32>,
    /// How they are sealed, if they are.
    pub(super) seal: Option<(SealOrigin, Vec<Tag>)>,
}

impl Data {
    fn seal(&self) -> Option<(SealOrigin, &[Tag])> {
        self.seal.as_ref().map(|(origin, tags)| (*origin, &tags[..]))
    }

    /// How a block of it is sealed.
    fn block_seal(&self, at: u64, (line, sequence): (LineId, Sequence)) -> Option<BlockSeal> {
        let (origin, tags) = self.seal()?;
        let origin = origin.skip(u32::try_from(at).expect("within a body"));
        let tag = *tags.get(usize::try_from(at).expect("within a body"))?;
        Some(BlockSeal { origin, line, sequence, tag })
    }
}

/// What the index has not, or has wrongly.
#[derive(Default)]
pub(super) struct Difference {
    /// Entries that were looked at.
    pub(super) entries: u64,
    /// What puts it right.
    pub(super) batch: IndexBatch,
}

/// Where the index has a block of exactly one version.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) class: SizeClass,
    pub(super) place: Place,
    pub(super) checksum: Option<u32>,
    seal: Option<BlockSeal>,
}

/// Holds the index against versions. `sight` and `known` are asked for once, after the cursor was opened: what can be
/// looked at, and which segments there are. Blocks, so it runs off the I/O core.
pub(super) fn compare(
    index: &dyn IndexStore,
    versions: &[Written],
    sight: impl FnOnce() -> (Sight, BTreeSet<SegmentId>),
) -> Result<Difference, IndexError> {
    let mut cursor = index.cursor();
    let (sight, known) = sight();
    let mut comparing = Comparing { cursor: &mut *cursor, sight, known };
    let mut difference = Difference::default();
    for written in versions {
        comparing.version(written, &mut difference)?;
    }
    Ok(difference)
}

struct Comparing<'a> {
    cursor: &'a mut dyn Cursor,
    sight: Sight,
    known: BTreeSet<SegmentId>,
}

impl Comparing<'_> {
    fn version(
        &mut self,
        written: &Written,
        difference: &mut Difference,
    ) -> Result<(), IndexError> {
        let entries = match &written.data {
            None => entries_of_zeroes(written.version, written.range).collect::<Vec<_>>(),
            Some(data) => {
                let place = (data.segment, data.unit);
                let (sums, seal) = (&data.sums, data.seal());
                entries_of_data(written.version, written.range, place, sums, seal).collect()
            }
        };
        difference.entries += entries.len() as u64;
        for (class, piece, key, value) in entries {
            self.cursor.seek(&key)?;
            if self.cursor.entry() == Some((&key[..], &value[..])) {
                continue;
            }
            let wrong = self.wrong_blocks(written, piece)?;
            if wrong.is_empty() {
                continue;
            }
            // Entries of the smallest class come first, whatever a larger one says.
            let hidden = class != SizeClass::Block && wrong.iter().any(|(_, hidden)| *hidden);
            match &written.data {
                Some(data) if hidden => {
                    for (block, _) in wrong {
                        let skip =
                            (block.start().bytes() - written.range.start().bytes()) / BLOCK_SIZE;
                        let blocks = u32::try_from(skip).expect("within a body");
                        let at = usize::try_from(skip).expect("within a body");
                        let place = (data.segment, data.unit + blocks);
                        let seal = data.seal();
                        let seal = seal.map(|(origin, tags)| (origin.skip(blocks), &tags[at..]));
                        let (batch, sums) = (&mut difference.batch, &data.sums[at..]);
                        put_stored(batch, written.version, block, place, sums, seal);
                    }
                }
                _ => difference.batch.put(key, value),
            }
        }
        Ok(())
    }

    /// Blocks of `piece` that somebody sees and the index would not lead to; and whether an entry of the smallest class is
    /// in the way.
    fn wrong_blocks(
        &mut self,
        written: &Written,
        piece: ByteRange,
    ) -> Result<Vec<(ByteRange, bool)>, IndexError> {
        let live = self.sight.live(self.cursor, written.version, piece)?;
        if !live.contains(&true) {
            return Ok(Vec::new());
        }
        let found = found_of(self.cursor, written.version, piece)?;
        let blocks = piece.chunks(BLOCK_SIZE).zip(live).zip(found);
        let wrong = blocks.filter(|((block, live), found)| {
            *live && !found.is_some_and(|found| self.is_good(written, *block, found))
        });
        let in_the_way =
            |found: Option<Found>| found.is_some_and(|found| found.class == SizeClass::Block);
        Ok(wrong.map(|((block, _), found)| (block, in_the_way(found))).collect())
    }

    fn is_good(&self, written: &Written, block: ByteRange, found: Found) -> bool {
        let at = (block.start().bytes() - written.range.start().bytes()) / BLOCK_SIZE;
        match (&written.data, found.place) {
            (None, Place::Zero) => true,
            (Some(data), Place::Journal { segment: there, unit: found_at }) => {
                let (line, _, sequence) = written.version;
                let same_seal = found.seal == data.block_seal(at, (line, sequence));
                let Data { segment, unit, sums, .. } = data;
                let same_sum =
                    found.checksum == sums.get(usize::try_from(at).expect("small")).copied();
                let same_place = there != *segment || u64::from(found_at) == u64::from(*unit) + at;
                same_sum && same_seal && same_place && self.known.contains(&there)
            }
            _ => false,
        }
    }
}

/// Where a look through the index finds each block of `range` of exactly this version: the smallest class comes first.
pub(super) fn found_of(
    cursor: &mut dyn Cursor,
    (line, disk, sequence): (LineId, DiskId, Sequence),
    range: ByteRange,
) -> Result<Vec<Option<Found>>, IndexError> {
    let first = range.start().block().index();
    let blocks = range.length().div_ceil(BLOCK_SIZE);
    let mut found = vec![None; usize::try_from(blocks).expect("at most 1 GiB")];
    for class in SizeClass::ALL {
        newest_versions(cursor, (line, disk, class), range, sequence, |version| {
            if version.sequence != sequence {
                return;
            }
            let start = version.block.index();
            for block in start.max(first)..(start + class.blocks()).min(first + blocks) {
                let within = block - start;
                let place = match version.place {
                    Place::Zero => Place::Zero,
                    Place::Journal { segment, unit } => {
                        let unit =
                            unit + u32::try_from(within).expect("an entry with places is small");
                        Place::Journal { segment, unit }
                    }
                };
                let within = usize::try_from(within).expect("as above");
                let checksum = version.checksums.get(within).copied();
                let slot = &mut found[usize::try_from(block - first).expect("within the range")];
                let seal = version.seal.as_ref().map(|seal| seal.block(within, line, sequence));
                slot.get_or_insert(Found { class, place, checksum, seal });
            }
        })?;
    }
    Ok(found)
}
