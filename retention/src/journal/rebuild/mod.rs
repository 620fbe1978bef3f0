//! A lane's journal read backwards into an index that has lost it: the newest segment first, a piece at a time.
//!
//! ```text
//!   pieces, by the last record of each:   … compacted 12 │ segment 4 │ released │ segment 7 │ compacted 9 │ segment 8
//!                                                                             one step ─▶ index ◀┘
//! ```
//!
//! Between two steps the lane goes on behind it all. What it may rely on is what [`Lines`] knows.
//!
//! **Invariant:** until everything was read, the index says of the lane what it said before: how far it is, tails, compacted
//! segments, bytes. So a crash in between leaves an index that lacks everything from there on, part of which is there, and whoever opens it
//! begins again; entries that are put twice are the same. All of that is put in one write ([`Ending`]), by the lane.

mod lines;
mod segment;
#[cfg(test)]
mod tests;

use self::lines::Lines;
use self::segment::{Indexed, index_segment};
use super::compacted::{lost_with, read_table};
use super::format::UNIT;
use super::indexing::index_kept;
use super::recovery::{Damage, examine};
use super::replay::{ENTRIES_PER_WRITE, LaneReplay, ReplayError};
use super::segment::Segments;
use crate::fold::Pace;
use crate::ids::{LaneId, LaneSequence, LineId, SegmentId, Sequence};
use crate::index::gap_key::Lost;
use crate::index::tail_key::{LineTail, put_moved, put_tail, read_moved, read_progress, read_tail};
use crate::index::usage_key::{Sampler, Taken};
use crate::index::{IndexBatch, IndexError, IndexStore};
use crate::manifest::Manifest;
use crate::manifest::compacted::CompactedEntry;
use crate::manifest::lineage::Owned;
use crate::manifest::record::ManifestRecord;
use crate::manifest::released::ReleasedRun;
use crate::manifest::state::{ManifestState, SegmentEntry};
use landfall_disks::Buffer;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes that are read in one go.
const READ_BYTES: usize = 4 << 20;

/// A stretch of a lane that is to be read.
#[derive(Clone)]
enum Piece {
    /// What the lane wrote, and is there.
    Segment(SegmentEntry),
    /// What is gone; the first of it.
    Released(LaneSequence, ReleasedRun),
    /// What was kept of what is gone.
    Compacted(CompactedEntry),
}

impl Piece {
    /// Its last record; of an open segment that is not known, and nothing comes behind it.
    fn end(&self) -> LaneSequence {
        match self {
            Self::Segment(entry) => {
                entry.ended.map_or(LaneSequence::new(u64::MAX), |(_, next)| next.previous())
            }
            Self::Released(_, run) => run.next.previous(),
            Self::Compacted(entry) => entry.through,
        }
    }

    /// Of pieces that end together, what was kept is read first, and released records after it.
    fn order(&self) -> (u8, SegmentId) {
        match self {
            Self::Released(..) => (0, SegmentId::default()),
            Self::Segment(entry) => (1, entry.id),
            Self::Compacted(entry) => (2, entry.id),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Segment(entry) if entry.ended.is_none())
    }

    fn is_file(&self) -> bool {
        !matches!(self, Self::Released(..))
    }
}

/// Reads the journal of a lane backwards.
pub(crate) struct LaneRebuild {
    lane: LaneId,
    segments: Arc<Segments>,
    index: Arc<dyn IndexStore>,
    progress: LaneSequence,
    /// The newest compacted segment that the index will lead into.
    moved: SegmentId,
    /// Those that are left, the newest last.
    pieces: Vec<Piece>,
    /// All that is gone of the lane, and whose the sequences of its lines are.
    released: Vec<(LaneSequence, ReleasedRun)>,
    written: BTreeMap<LineId, Vec<Owned>>,
    lines: Lines,
    next: LaneSequence,
    replayed: u64,
    damage: Vec<(SegmentId, Damage)>,
    gaps: Vec<Lost>,
    /// Those that the index has not yet.
    new_gaps: Vec<Lost>,
    /// Of each segment, the newest first.
    taken: Vec<Vec<Taken>>,
    done: bool,
}

/// Waits between windows of a few MiB.
pub(crate) struct Windows<'a> {
    /// Nobody has to be waited for if there is none.
    pub(crate) pace: Option<&'a dyn Pace>,
    /// Drafts that wait for the lane.
    pub(crate) waiting: &'a dyn Fn() -> usize,
}

impl Windows<'_> {
    async fn admit(&self, bytes: u64) {
        if let Some(pace) = self.pace {
            pace.admit(bytes, self.waiting).await;
        }
    }
}

/// What the index is told of a lane when it has all of it.
pub(crate) struct Ending {
    lane: LaneId,
    moved: SegmentId,
    tails: Vec<(LineId, LineTail)>,
    taken: Vec<Taken>,
}

impl Ending {
    /// All of it as entries, but for how far the lane is, with what the lane wrote meanwhile. Blocks.
    pub(crate) fn entries(
        &self,
        index: &dyn IndexStore,
        since: &[Taken],
    ) -> Result<(IndexBatch, Sampler), IndexError> {
        let mut batch = IndexBatch::default();
        put_moved(&mut batch, self.lane, self.moved);
        for (line, tail) in &self.tails {
            put_tail(&mut batch, *line, tail);
        }
        let mut sampler = Sampler::default();
        for (line, sequence, bytes) in self.taken.iter().chain(since) {
            sampler.note(index, &mut batch, (*line, *sequence), *bytes)?;
        }
        Ok((batch, sampler))
    }
}

impl LaneRebuild {
    /// For all that the index lacks of a lane, if that is more than `at_once` files. Blocks.
    pub(crate) fn of(
        lane: LaneId,
        state: &ManifestState,
        segments: &Arc<Segments>,
        index: &Arc<dyn IndexStore>,
        at_once: usize,
    ) -> Result<Option<Self>, IndexError> {
        let progress = read_progress(&**index, lane)?;
        let moved = read_moved(&**index, lane)?;
        let mut next = progress.next();
        let pieces = pieces(lane, state, progress, moved, &mut next);
        if pieces.iter().filter(|piece| piece.is_file()).count() <= at_once {
            return Ok(None);
        }
        let mut lines = Vec::new();
        let written = state.written(Some(lane));
        for (line, owned) in &written {
            let mut tail = read_tail(&**index, *line)?;
            let base = owned.first().map_or(Sequence::default(), |one| one.above);
            tail.sequence = tail.sequence.max(base);
            lines.push((*line, tail));
        }
        let released = state.released.of_lane(lane).map(|(first, run)| (first, run.clone()));
        let newest = state.compacted.values().filter(|entry| entry.lane == lane).map(|one| one.id);
        let newest = newest.max().unwrap_or_default();
        Ok(Some(Self {
            lane,
            segments: Arc::clone(segments),
            index: Arc::clone(index),
            progress,
            moved: moved.map_or(newest, |moved| moved.max(newest)),
            pieces,
            released: released.collect(),
            written,
            lines: Lines::new(lines),
            next,
            replayed: 0,
            damage: Vec::new(),
            gaps: Vec::new(),
            new_gaps: Vec::new(),
            taken: Vec::new(),
            done: false,
        }))
    }

    /// Reads what has to be read before the lane can go on: segments that were open, whose ends are logged, and `at_once`
    /// files at least.
    pub(crate) async fn begin(
        &mut self,
        manifest: &Manifest,
        at_once: usize,
    ) -> Result<LaneReplay, ReplayError> {
        let mut ends = Vec::new();
        let mut read = 0;
        while self.pieces.last().is_some_and(|piece| piece.is_open() || read < at_once) {
            read += usize::from(self.pieces.last().is_some_and(Piece::is_file));
            ends.extend(self.step(&Windows { pace: None, waiting: &|| 0 }).await?);
        }
        // In the order in which they were written.
        ends.reverse();
        manifest.append(ends).await?;
        Ok(LaneReplay {
            next: self.next,
            replayed: self.replayed,
            damage: self.damage.clone(),
            gaps: self.gaps.clone(),
        })
    }

    /// The lane.
    pub(crate) fn lane(&self) -> LaneId {
        self.lane
    }

    /// Files that are left.
    pub(crate) fn left(&self) -> usize {
        self.pieces.iter().filter(|piece| piece.is_file()).count()
    }

    /// What is known of lines.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Damaged places that were found.
    pub(crate) fn damage(&self) -> &[(SegmentId, Damage)] {
        &self.damage
    }

    /// What lines were found to have lost.
    pub(crate) fn gaps(&self) -> &[Lost] {
        &self.gaps
    }

    /// Whether everything was read.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// What the index is to be told, once everything was read.
    pub(crate) fn ending(&self) -> Ending {
        Ending {
            lane: self.lane,
            moved: self.moved,
            tails: self.lines.tails().collect(),
            taken: self.taken.iter().rev().flatten().copied().collect(),
        }
    }

    /// Takes the next piece, and what follows from there being none. Of a segment that was open, gives where it ends. After an
    /// error, or where it was cut off, the same piece comes next.
    pub(crate) async fn step(
        &mut self,
        windows: &Windows<'_>,
    ) -> Result<Option<ManifestRecord>, ReplayError> {
        self.put_gaps().await?;
        let ended = match self.pieces.last().cloned() {
            Some(Piece::Segment(entry)) => self.take_segment(&entry, windows).await?,
            Some(Piece::Compacted(entry)) => self.take_compacted(&entry, windows).await?,
            Some(Piece::Released(first, run)) => {
                let gaps = self.lines.take_released(first, &run);
                self.took(gaps);
                None
            }
            None => None,
        };
        if self.pieces.is_empty() && !self.done {
            let gaps = self.lines.finish();
            self.note_gaps(gaps);
            self.done = true;
        }
        self.put_gaps().await?;
        Ok(ended)
    }

    /// The newest piece is in the index, and its lines are known.
    fn took(&mut self, gaps: Vec<Lost>) {
        self.note_gaps(gaps);
        self.pieces.pop();
        self.lines.goes_on_at(self.pieces.last().map(Piece::end));
    }

    fn note_gaps(&mut self, gaps: Vec<Lost>) {
        self.gaps.extend(gaps.iter().copied());
        self.new_gaps.extend(gaps);
    }

    async fn take_segment(
        &mut self,
        entry: &SegmentEntry,
        windows: &Windows<'_>,
    ) -> Result<Option<ManifestRecord>, ReplayError> {
        // Nothing is looked at beyond a logged end.
        let length = entry.ended.map_or(entry.size_bytes, |(end, _)| end.min(entry.size_bytes));
        let bytes = match self.read(entry.id, length, windows).await {
            Err(FileError::NotFound { .. }) => Buffer::zeroed(0),
            read => read?,
        };
        let (entry, progress) = (*entry, self.progress);
        let known: BTreeSet<LineId> = self.lines.all().collect();
        windows.admit(0).await;
        let indexed = offload(move || {
            let found = examine(&entry, &bytes);
            index_segment(&known, progress, &entry, found, &bytes)
        });
        let Indexed { batches, end, next, stretch, mut gaps, damage, records, taken } =
            indexed.await;
        self.put(batches, windows).await?;
        gaps.extend(self.lines.take_segment(&stretch));
        self.next = self.next.max(next);
        self.replayed += records;
        self.damage.extend(damage.into_iter().map(|damage| (entry.id, damage)));
        self.taken.push(taken);
        self.took(gaps);
        let ended = ManifestRecord::SegmentEnded { segment: entry.id, end, next };
        Ok(entry.ended.is_none().then_some(ended))
    }

    /// Bytes of a segment, or as many as its file has.
    async fn read(
        &self,
        segment: SegmentId,
        length: u64,
        windows: &Windows<'_>,
    ) -> Result<Buffer, FileError> {
        let file = self.segments.file(segment).await?;
        let length = length.next_multiple_of(UNIT).min(file.length().await? / UNIT * UNIT);
        let mut whole = Buffer::zeroed(usize::try_from(length).expect("segments are small"));
        let mut rest = whole.split_off(0);
        let mut at = 0;
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(READ_BYTES));
            windows.admit(rest.len() as u64).await;
            let piece = file.read_at(at, rest).await?;
            at += piece.len() as u64;
            whole.unsplit(piece);
            rest = tail;
        }
        Ok(whole)
    }

    async fn put(&self, batches: Vec<IndexBatch>, windows: &Windows<'_>) -> Result<(), IndexError> {
        for batch in batches {
            windows.admit(0).await;
            let index = Arc::clone(&self.index);
            offload(move || index.write(batch)).await?;
        }
        Ok(())
    }

    async fn take_compacted(
        &mut self,
        entry: &CompactedEntry,
        windows: &Windows<'_>,
    ) -> Result<Option<ManifestRecord>, ReplayError> {
        windows.admit((entry.size_bytes - entry.table) / 2).await;
        let records = match read_table(&self.segments, entry).await {
            Ok(records) => records,
            Err(error) if error.is_loss() => {
                self.damage.push((entry.id, Damage::of_tables(entry)));
                let released = self.released.iter().map(|(first, run)| (*first, run));
                self.took(lost_with(entry, released, &self.written));
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let segment = entry.id;
        let known: BTreeSet<LineId> = self.lines.all().collect();
        let progress = self.progress;
        let (batches, replayed) = offload(move || {
            let (mut batches, mut batch) = (Vec::new(), IndexBatch::default());
            let mut replayed = 0;
            for kept in &records {
                replayed += u64::from(kept.record.lane_sequence > progress);
                if known.contains(&kept.record.line) {
                    index_kept(&mut batch, kept, segment);
                }
                if batch.len() >= ENTRIES_PER_WRITE {
                    batches.push(std::mem::take(&mut batch));
                }
            }
            batches.push(batch);
            (batches, replayed)
        })
        .await;
        self.put(batches, windows).await?;
        self.replayed += replayed;
        self.took(Vec::new());
        Ok(None)
    }

    /// What nobody shows a line without.
    async fn put_gaps(&mut self) -> Result<(), IndexError> {
        if self.new_gaps.is_empty() {
            return Ok(());
        }
        let mut batch = IndexBatch::default();
        self.new_gaps.iter().for_each(|lost| lost.put(&mut batch));
        let index = Arc::clone(&self.index);
        offload(move || index.write(batch)).await?;
        self.new_gaps.clear();
        Ok(())
    }
}

/// What the index lacks of a lane, the newest last; `next` becomes where the lane goes on, as far as the manifest says.
fn pieces(
    lane: LaneId,
    state: &ManifestState,
    progress: LaneSequence,
    moved: Option<SegmentId>,
    next: &mut LaneSequence,
) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for entry in state.segments.values().filter(|entry| entry.lane == lane) {
        let end = entry.ended.map(|(_, end)| end);
        // Read or not: no record that comes may have the number of one that was there.
        *next = (*next).max(end.unwrap_or_default());
        if end.is_none_or(|end| end > progress.next()) {
            pieces.push(Piece::Segment(*entry));
        }
    }
    for (first, run) in state.released.of_lane(lane) {
        *next = (*next).max(run.next);
        if run.next > progress.next() {
            pieces.push(Piece::Released(first, run.clone()));
        }
    }
    let lacks = |entry: &&CompactedEntry| {
        entry.lane == lane
            && (entry.through > progress || moved.is_some_and(|moved| entry.id > moved))
    };
    pieces.extend(state.compacted.values().filter(lacks).cloned().map(Piece::Compacted));
    newest_last(&mut pieces);
    pieces
}

fn newest_last(pieces: &mut [Piece]) {
    pieces.sort_by_key(|piece| (piece.end(), piece.order()));
}
