//! From journal to index at start: everything the index has not, or all of it when the index is gone.
//!
//! ```text
//!   per lane: segments in order ─▶ examine ─▶ records beyond the lane's progress ─▶ index, in writes of a bounded size
//!             open segments: the valid end is logged in the manifest; the lane goes on in a new segment
//! ```
//!
//! Records that were released lie at or below the floors of their lines: the index needs nothing of them but where each
//! line stood after them, which the manifest keeps.
//!
//! Where records are lost to media damage the line they belonged to may not be known. Each line of the lane whose next
//! record does not follow its last one without a gap has lost something; a line without any later record may have. Both
//! get a *gap*: what they held before it reads as damaged until it is written again. Nothing is invented.

use super::compacted::{CompactedError, KeptRecord, lost_with, read_table};
use super::format::{ExtentContent, RecordExtent};
use super::indexing::{block_checksums, index_kept, index_record, tail_after};
use super::recovery::{Damage, Examination, FoundRecord, body_bytes, examine};
use super::segment::Segments;
use crate::ids::{LaneId, LaneSequence, LineId, SegmentId, Sequence};
use crate::index::gap_key::Lost;
use crate::index::tail_key::{
    LineTail, put_moved, put_progress, put_tail, read_moved, read_progress, read_tail,
};
use crate::index::usage_key::Sampler;
use crate::index::{IndexBatch, IndexError, IndexStore};
use crate::manifest::compacted::CompactedEntry;
use crate::manifest::lineage::Owned;
use crate::manifest::record::ManifestRecord;
use crate::manifest::released::ReleasedRun;
use crate::manifest::state::SegmentEntry;
use crate::manifest::{Manifest, ManifestError};
use crate::time::Clock;
use landfall_disks::file::FileError;
use landfall_disks::{BLOCK_SIZE, Buffer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often somebody who waits is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Entries that are gathered before they are written to the index.
pub(super) const ENTRIES_PER_WRITE: usize = 20_000;

/// Why the journal cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A segment cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The index cannot be written.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What a compacted segment holds is not known, and the index that knew it is gone.
    #[error(transparent)]
    Compacted(#[from] CompactedError),
    /// The ends of open segments cannot be logged.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What replay found in one lane.
#[derive(Debug)]
pub(crate) struct LaneReplay {
    /// Lane sequence of the next record.
    pub(crate) next: LaneSequence,
    /// Records that were put into the index.
    pub(crate) replayed: u64,
    /// Damaged places.
    pub(crate) damage: Vec<(SegmentId, Damage)>,
    /// What lines lost, or may have.
    pub(crate) gaps: Vec<Lost>,
}

/// Brings the index up to the end of `lane` and logs the ends of its open segments.
pub(crate) async fn replay_lane(
    lane: LaneId,
    manifest: &Manifest,
    segments: &Segments,
    index: &Arc<dyn IndexStore>,
    clock: &dyn Clock,
) -> Result<LaneReplay, ReplayError> {
    let (entries, written, released, compacted) = {
        let state = manifest.state();
        let entries: Vec<SegmentEntry> =
            state.segments.values().filter(|entry| entry.lane == lane).copied().collect();
        let released: Vec<_> =
            state.released.of_lane(lane).map(|(first, run)| (first, run.clone())).collect();
        let compacted: Vec<_> =
            state.compacted.values().filter(|entry| entry.lane == lane).cloned().collect();
        (entries, state.written(Some(lane)), released, compacted)
    };
    // Each with the sequence that its first record follows.
    let first = |owned: &Vec<Owned>| owned.first().map_or(Sequence::default(), |one| one.above);
    let lines: Vec<_> = written.iter().map(|(line, owned)| (*line, first(owned))).collect();
    let mut replay = Replay::new(lane, &lines, Arc::clone(index))?;
    // Before any record of the lane: progress that is found later says that the index has all of these below it.
    let newest = compacted.last().map_or_else(SegmentId::default, |entry| entry.id);
    for entry in &compacted {
        if replay.lacks(entry) {
            match read_table(segments, entry).await {
                Ok(records) => replay.take_compacted(entry, records)?,
                Err(error) if error.is_loss() => {
                    let released = released.iter().map(|(first, run)| (*first, run));
                    replay.lose_compacted(entry, lost_with(entry, released, &written));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let mut ends = Vec::new();
    let mut telling = Telling { lane, segments: entries.len(), read: 0, told: clock.uptime() };
    for piece in in_order(entries, released) {
        let entry = match &piece {
            Piece::Segment(entry) => entry,
            Piece::Released(run) => {
                replay.take_released(run);
                continue;
            }
        };
        if let Some((_, next)) = entry.ended
            && next <= replay.progress.next()
        {
            replay.next = next;
            telling.segments -= 1;
            continue;
        }
        let bytes = match segments.read_whole(entry.id, entry.size_bytes).await {
            Err(FileError::NotFound { .. }) => Buffer::zeroed(0),
            read => read?,
        };
        let found = examine(entry, &bytes);
        if entry.ended.is_none() {
            let (segment, end, next) = (entry.id, found.end, found.next);
            ends.push(ManifestRecord::SegmentEnded { segment, end, next });
        }
        replay.take_segment(entry, found, &bytes)?;
        telling.one_more(clock.uptime());
    }
    replay.finish(newest)?;
    index.flush()?;
    manifest.append(ends).await?;
    Ok(replay.into_result())
}

/// How far it is, for whoever waits for the start.
struct Telling {
    lane: LaneId,
    /// Segments that the index has not; those it has come first.
    segments: usize,
    read: usize,
    told: Duration,
}

impl Telling {
    fn one_more(&mut self, now: Duration) {
        self.read += 1;
        if now.saturating_sub(self.told) >= TELL_EVERY {
            let Self { lane, segments, read, .. } = self;
            tracing::info!(%lane, "indexing the journal: {read} of {segments} segments");
            self.told = now;
        }
    }
}

/// A stretch of a lane.
enum Piece {
    Segment(SegmentEntry),
    Released(ReleasedRun),
}

/// What is left of a lane and what is gone, in the order in which it was written.
fn in_order(entries: Vec<SegmentEntry>, released: Vec<(LaneSequence, ReleasedRun)>) -> Vec<Piece> {
    let mut pieces: Vec<_> = entries.into_iter().map(|e| (e.first, Piece::Segment(e))).collect();
    pieces.extend(released.into_iter().map(|(first, run)| (first, Piece::Released(run))));
    pieces.sort_by_key(|(first, _)| *first);
    pieces.into_iter().map(|(_, piece)| piece).collect()
}

pub(super) struct Replay {
    lane: LaneId,
    index: Arc<dyn IndexStore>,
    progress: LaneSequence,
    /// The newest compacted segment it leads into; nothing if it is from before that was noted.
    moved: Option<SegmentId>,
    next: LaneSequence,
    tails: BTreeMap<LineId, LineTail>,
    /// Lines that may have lost records at the last damaged place and have shown none since.
    suspects: BTreeSet<LineId>,
    batch: IndexBatch,
    through: LaneSequence,
    replayed: u64,
    damage: Vec<(SegmentId, Damage)>,
    gaps: Vec<Lost>,
    usage: Sampler,
}

impl Replay {
    pub(super) fn new(
        lane: LaneId,
        lines: &[(LineId, Sequence)],
        index: Arc<dyn IndexStore>,
    ) -> Result<Self, ReplayError> {
        let progress = read_progress(&*index, lane)?;
        let moved = read_moved(&*index, lane)?;
        let mut tails = BTreeMap::new();
        for (line, base) in lines {
            let mut tail = read_tail(&*index, *line)?;
            tail.sequence = tail.sequence.max(*base);
            tails.insert(*line, tail);
        }
        Ok(Self {
            lane,
            index,
            progress,
            moved,
            next: progress.next(),
            tails,
            suspects: BTreeSet::new(),
            batch: IndexBatch::default(),
            through: progress,
            replayed: 0,
            damage: Vec::new(),
            gaps: Vec::new(),
            usage: Sampler::default(),
        })
    }

    pub(super) fn take_segment(
        &mut self,
        entry: &SegmentEntry,
        found: Examination,
        bytes: &[u8],
    ) -> Result<(), ReplayError> {
        let mut last = None;
        for record in &found.records {
            if record.after_loss && record.record.lane_sequence > self.progress.next() {
                self.suspect_all();
            }
            last = Some(record.record.lane_sequence);
            if record.record.lane_sequence > self.progress {
                self.take_record((entry.id, entry.salt), record, bytes)?;
            }
        }
        // Loss that reaches the end of the segment has no record after it that would tell.
        let after_last = last.map_or(entry.first, LaneSequence::next);
        if after_last < found.next && found.next > self.progress.next() {
            self.suspect_all();
        }
        self.damage.extend(found.damage.into_iter().map(|damage| (entry.id, damage)));
        self.next = found.next;
        Ok(())
    }

    /// Takes over where the lines stood after records that are gone. What somebody still needs of them is in compacted
    /// segments; what was lost before them is lost for what was kept, too.
    pub(super) fn take_released(&mut self, run: &ReleasedRun) {
        for (line, released) in &run.lines {
            self.suspects.remove(line);
            let Some(tail) = self.tails.get(line).copied() else { continue };
            if released.first > tail.sequence.next() {
                self.add_gap(*line, tail.sequence.next(), released.first);
            }
            if released.tail.sequence > tail.sequence {
                self.tails.insert(*line, released.tail_after(&tail));
            }
        }
        self.next = run.next;
    }

    /// Whether the index has not all of what was moved into a compacted segment.
    pub(super) fn lacks(&self, entry: &CompactedEntry) -> bool {
        entry.through > self.progress || self.leads_before(entry)
    }

    /// Whether the index is from before that compaction: of what was moved it still names the places that are gone.
    fn leads_before(&self, entry: &CompactedEntry) -> bool {
        self.moved.is_some_and(|moved| entry.id > moved)
    }

    /// Takes over what is kept of records that the index has not, or has elsewhere: where they lie now. Tails do not come from
    /// there.
    pub(super) fn take_compacted(
        &mut self,
        entry: &CompactedEntry,
        records: Vec<KeptRecord>,
    ) -> Result<(), ReplayError> {
        let (progress, all) = (self.progress, self.leads_before(entry));
        let lacking = |kept: &&KeptRecord| all || kept.record.lane_sequence > progress;
        for kept in records.iter().filter(lacking) {
            self.replayed += u64::from(kept.record.lane_sequence > progress);
            if self.tails.contains_key(&kept.record.line) {
                index_kept(&mut self.batch, kept, entry.id);
            }
            if self.batch.len() >= ENTRIES_PER_WRITE {
                self.write()?;
            }
        }
        Ok(())
    }

    /// It is not known what it held.
    pub(super) fn lose_compacted(&mut self, entry: &CompactedEntry, lost: Vec<Lost>) {
        lost.iter().for_each(|lost| lost.put(&mut self.batch));
        self.gaps.extend(lost);
        self.damage.push((entry.id, Damage::of_tables(entry)));
    }

    fn suspect_all(&mut self) {
        self.suspects = self.tails.keys().copied().collect();
    }

    fn take_record(
        &mut self,
        segment: (SegmentId, u64),
        found: &FoundRecord,
        bytes: &[u8],
    ) -> Result<(), ReplayError> {
        let record = &found.record;
        self.replayed += 1;
        self.through = record.lane_sequence;
        // A record of a line that is gone has nothing to say; one that vouches has no line.
        if let Some(tail) = self.tails.get(&record.line).copied() {
            if record.sequence > tail.sequence.next() {
                self.add_gap(record.line, tail.sequence.next(), record.sequence);
            }
            self.suspects.remove(&record.line);
            let checksums = checksums(found, bytes);
            index_record(&mut self.batch, record, segment, found.offset, &checksums);
            let (at, bytes) = ((record.line, record.sequence), record.length_bytes());
            self.usage.note(&*self.index, &mut self.batch, at, bytes)?;
            self.tails.insert(record.line, tail_after(&tail, record));
        }
        if self.batch.len() >= ENTRIES_PER_WRITE { self.write() } else { Ok(()) }
    }

    /// Of `line`, `first` and everything before `next` was lost.
    fn add_gap(&mut self, line: LineId, first: Sequence, next: Sequence) {
        let lost = Lost { line, first, last: next.previous() };
        lost.put(&mut self.batch);
        self.gaps.push(lost);
    }

    /// Lines that stayed suspect get a gap of one sequence at their end; their stream can no longer be vouched for.
    pub(super) fn finish(&mut self, newest: SegmentId) -> Result<(), ReplayError> {
        for line in std::mem::take(&mut self.suspects) {
            let tail = self.tails.entry(line).or_default();
            tail.sequence = tail.sequence.next();
            let lost = tail.sequence;
            self.add_gap(line, lost, lost.next());
        }
        if self.next.number() > 0 {
            self.through = self.through.max(LaneSequence::new(self.next.number() - 1));
        }
        let newest = self.moved.map_or(newest, |moved| moved.max(newest));
        put_moved(&mut self.batch, self.lane, newest);
        self.write()
    }

    fn write(&mut self) -> Result<(), ReplayError> {
        for (line, tail) in &self.tails {
            put_tail(&mut self.batch, *line, tail);
        }
        put_progress(&mut self.batch, self.lane, self.through);
        Ok(self.index.write(std::mem::take(&mut self.batch))?)
    }

    pub(super) fn into_result(self) -> LaneReplay {
        LaneReplay {
            next: self.next,
            replayed: self.replayed,
            damage: self.damage,
            gaps: self.gaps,
        }
    }
}

/// Checksums of the blocks of a record. Those of a damaged body are made not to match, so that no read returns it.
pub(super) fn checksums(found: &FoundRecord, bytes: &[u8]) -> Vec<Vec<u32>> {
    let of_extent = |(index, extent): (usize, &RecordExtent)| match extent.content {
        ExtentContent::Zero | ExtentContent::Abort { .. } | ExtentContent::Void { .. } => {
            Vec::new()
        }
        ExtentContent::Data { body, .. } => {
            let start = found.offset + u64::from(body);
            match body_bytes(bytes, start, extent.body_bytes()) {
                Some(body) if found.damaged_bodies.contains(&index) => {
                    block_checksums(body).into_iter().map(|checksum| !checksum).collect()
                }
                Some(body) => block_checksums(body),
                // The file ends inside the body: reads fail before any checksum is compared.
                None => vec![0; blocks(extent.body_bytes())],
            }
        }
    };
    found.record.extents.iter().enumerate().map(of_extent).collect()
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes / BLOCK_SIZE).expect("a body is at most 8 MiB")
}
