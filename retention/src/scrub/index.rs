//! The index: every entry leads to a place that is there. Whether it is the right one is known from the journal.
//!
//! An entry may name a segment that is gone: one of 64 KiB of which a part was moved when that was compacted, and what was moved
//! has entries of 4 KiB that come first. So an entry alone says nothing: what counts is where a look for a block that somebody
//! sees ends.
//!
//! Where heads of records cannot be read any more, the index is what knows what lies behind them: those blocks are read.

use super::ScrubError;
use super::compare::found_of;
use super::journal::Scope;
use super::round::{Going, Round};
use crate::compact::Sight;
use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::index::block_key::{KIND_RANGE, Place, SizeClass, Version, parse};
use crate::index::{Cursor, IndexError, damaged};
use crate::journal::format::UNIT;
use crate::manifest::integrity::DamagedPlace;
use crate::manifest::state::ManifestState;
use crate::retention::Retention;
use landfall_disks::uring::offload;
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Buffer, ByteRange};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Entries that are looked at in one go.
const ENTRIES_AT_ONCE: u64 = 20_000;
/// What an entry counts towards the rate, in bytes.
const ENTRY_BYTES: u64 = 64;

/// Entries of a piece of the index.
struct Piece {
    entries: u64,
    /// Blocks that somebody sees, and that lie nowhere.
    dangling: Vec<DamagedPlace>,
    /// Blocks that somebody sees, where heads of records are lost, and their checksums.
    headless: Vec<(DamagedPlace, u32)>,
    /// Where to go on.
    next: Option<Vec<u8>>,
}

impl Round<'_> {
    pub(super) async fn index(&mut self) -> Result<Going, ScrubError> {
        let mut next = Some(KIND_RANGE.0.to_vec());
        let mut still = BTreeSet::new();
        let lost = Arc::new(LostHeads::of(self.damage.keys()));
        while let Some(from) = next {
            let piece = {
                // What is named and there stays there meanwhile, even if it is released.
                let _turn = self.retention.reading.turns.begin();
                let (retention, scope) = (Arc::clone(self.retention), self.scope());
                let lost = Arc::clone(&lost);
                let piece = offload(move || look_at(&retention, &from, &scope, &lost)).await?;
                still.extend(self.headless(&piece.headless).await?);
                piece
            };
            self.found.index_entries += piece.entries;
            self.found.index_dangling += piece.dangling.len() as u64;
            still.extend(piece.dangling);
            next = piece.next;
            let paid = self.pay(piece.entries * ENTRY_BYTES, &|| 0).await;
            if paid == Going::Stopped
                || self.step("the index".to_owned(), 0).await? == Going::Stopped
            {
                return Ok(Going::Stopped);
            }
        }
        let still = joined(still);
        let there: BTreeSet<SegmentId> =
            ends(&self.retention.manifest.state()).into_keys().collect();
        let scope = self.scope();
        let looked_at = |place: &DamagedPlace| match place {
            DamagedPlace::Version { segment, unit, .. } => {
                scope.holds(place) && (!there.contains(segment) || lost.hold(*segment, *unit))
            }
            _ => false,
        };
        self.look_again(looked_at, &still);
        self.nowhere.clone_from(&still);
        still.into_iter().for_each(|place| self.damaged(place));
        Ok(Going::On)
    }

    /// Those of some blocks that are damaged.
    async fn headless(
        &self,
        blocks: &[(DamagedPlace, u32)],
    ) -> Result<Vec<DamagedPlace>, ScrubError> {
        let mut bad = Vec::new();
        for (place, checksum) in blocks {
            let (DamagedPlace::Version { disk, segment, unit, .. }, Some(range)) =
                (place, place.range())
            else {
                continue;
            };
            let into = Buffer::for_overwriting(BLOCK_BYTES);
            let at = (*segment, *unit);
            let reading = &self.retention.reading;
            // As it is stored: no key is needed to know whether it is what was written.
            let read = reading.read_journal((*disk, range), at, &[*checksum], &[], into).await;
            if read.is_err() {
                bad.push(*place);
            }
        }
        Ok(bad)
    }
}

/// Bytes of segments in which records began that cannot be read.
#[derive(Default)]
pub(super) struct LostHeads(BTreeMap<SegmentId, Vec<Range<u64>>>);

impl LostHeads {
    /// Those that some places say.
    pub(super) fn of<'a>(places: impl IntoIterator<Item = &'a DamagedPlace>) -> Self {
        let mut lost = Self::default();
        for place in places {
            if let DamagedPlace::Records { segment, start, end } = place {
                lost.0.entry(*segment).or_default().push(*start..*end);
            }
        }
        lost
    }

    /// Whether a unit of a segment lies there.
    pub(super) fn hold(&self, segment: SegmentId, unit: u32) -> bool {
        let at = u64::from(unit) * UNIT;
        self.0.get(&segment).is_some_and(|some| some.iter().any(|bytes| bytes.contains(&at)))
    }

    /// Whether something of an entry may lie there.
    fn touch(&self, place: Place, class: SizeClass) -> bool {
        let Place::Journal { segment, unit } = place else { return false };
        let start = u64::from(unit) * UNIT;
        let end = start + class.blocks() * BLOCK_SIZE;
        let overlap = |bytes: &Range<u64>| bytes.start < end && start < bytes.end;
        self.0.get(&segment).is_some_and(|some| some.iter().any(overlap))
    }
}

/// Blocks of a version that follow each other, on the disk and in the segment, as one place.
fn joined(blocks: BTreeSet<DamagedPlace>) -> BTreeSet<DamagedPlace> {
    let mut places: Vec<DamagedPlace> = Vec::new();
    for block in blocks {
        if !places.last_mut().is_some_and(|last| continues(last, &block)) {
            places.push(block);
        }
    }
    places.into_iter().collect()
}

/// Makes `last` longer by `next` if that comes right behind it.
fn continues(last: &mut DamagedPlace, next: &DamagedPlace) -> bool {
    let (Some(before), Some(after)) = (last.range(), next.range()) else { return false };
    let blocks = before.length() / BLOCK_SIZE;
    let follows = match (&*last, next) {
        (
            DamagedPlace::Version { line, sequence, disk, segment, unit, .. },
            DamagedPlace::Version {
                line: other,
                sequence: later,
                disk: of,
                segment: there,
                unit: at,
                ..
            },
        ) => {
            (line, sequence, disk, segment) == (other, later, of, there)
                && u64::from(*unit) + blocks == u64::from(*at)
                && before.end() == after.start()
        }
        _ => false,
    };
    if let (true, DamagedPlace::Version { length, .. }) = (follows, last) {
        *length += after.length();
    }
    follows
}

/// Where the bytes of each segment end.
fn ends(state: &ManifestState) -> BTreeMap<SegmentId, u64> {
    let end = |entry: &crate::manifest::state::SegmentEntry| {
        entry.ended.map_or(entry.size_bytes, |(end, _)| end)
    };
    let segments = state.segments.values().map(|entry| (entry.id, end(entry)));
    let compacted = state.compacted.values().map(|entry| (entry.id, entry.table));
    segments.chain(compacted).collect()
}

fn look_at(
    retention: &Retention,
    from: &[u8],
    scope: &Scope,
    lost: &LostHeads,
) -> Result<Piece, IndexError> {
    let mut there = ends(&retention.manifest.state());
    let mut cursor = retention.surroundings.index.cursor();
    cursor.seek(from)?;
    // Segments that came to be before the cursor was opened.
    for (segment, end) in ends(&retention.manifest.state()) {
        let known = there.entry(segment).or_insert(end);
        *known = end.max(*known);
    }
    let mut piece = Piece { entries: 0, dangling: Vec::new(), headless: Vec::new(), next: None };
    let mut suspects = Vec::new();
    while let Some((key, value)) = cursor.entry().filter(|(key, _)| *key < &KIND_RANGE.1[..]) {
        if piece.entries >= ENTRIES_AT_ONCE {
            piece.next = Some(key.to_vec());
            break;
        }
        piece.entries += 1;
        let (line, disk, class, version) = parse(key, value).ok_or_else(|| damaged(key))?;
        let good = is_there(&version, class, &there) && !lost.touch(version.place, class);
        if !good && scope.wants((line, disk, version.sequence)) {
            suspects.push((line, disk, class, version));
        }
        cursor.advance()?;
    }
    let mut sights: BTreeMap<_, Sight> = BTreeMap::new();
    for (line, disk, class, version) in suspects {
        let Some(lane) = retention.manifest.state().lane_of(line) else { continue };
        // After the cursor: it cannot lack anything that somebody who looks now still sees.
        let sight = sights.entry(lane).or_insert_with(|| retention.sight(lane));
        let range = ByteRange::at(version.block.offset(), class.bytes()).expect("on the disk");
        let version = (line, disk, version.sequence);
        for (place, checksum) in seen_blocks(&mut *cursor, version, range, sight)? {
            let DamagedPlace::Version { segment, unit, .. } = place else { continue };
            let last = (u64::from(unit) + 1) * UNIT;
            if there.get(&segment).is_none_or(|end| last > *end) {
                piece.dangling.push(place);
            } else if lost.hold(segment, unit) {
                piece.headless.push((place, checksum));
            }
        }
    }
    Ok(piece)
}

fn is_there(version: &Version, class: SizeClass, ends: &BTreeMap<SegmentId, u64>) -> bool {
    match version.place {
        Place::Zero => true,
        Place::Journal { segment, unit } => {
            let last = u64::from(unit) * UNIT + class.blocks() * BLOCK_SIZE;
            ends.get(&segment).is_some_and(|end| last <= *end)
        }
    }
}

/// Blocks of a version that somebody sees in the journal, where a look for them ends, and their checksums.
fn seen_blocks(
    cursor: &mut dyn Cursor,
    version: (LineId, DiskId, Sequence),
    range: ByteRange,
    sight: &Sight,
) -> Result<Vec<(DamagedPlace, u32)>, IndexError> {
    let (line, disk, sequence) = version;
    let live = sight.live(cursor, version, range)?;
    let found = found_of(cursor, version, range)?;
    let blocks = range.chunks(BLOCK_SIZE).zip(live).zip(found);
    let seen = blocks.filter_map(|((block, live), found)| {
        let found = found.filter(|_| live)?;
        let Place::Journal { segment, unit } = found.place else { return None };
        let (start, length) = (block.start(), block.length());
        let place = DamagedPlace::Version { line, sequence, disk, start, length, segment, unit };
        Some((place, found.checksum?))
    });
    Ok(seen.collect())
}
