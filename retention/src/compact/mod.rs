//! Compaction: what is still needed of half-dead segments moves together, and their space comes back.
//!
//! ```text
//!   estimate ─▶ victims ─▶ read, what of each block does somebody see? ─▶ copy ─▶ flush ─▶ read back ─▶ SegmentCompacted
//!      ─▶ index points into the copy ─▶ index flushed ─▶ victims released, as any segment that nobody needs
//! ```
//!
//! **Invariants:** nothing rests on a copy before it is durable, was read back, and is on record; no victim is released before
//! the index that points into the copy is durable. In between both have what is needed, and either place is right: a crash
//! leaves the rest to the next call, which may point the index anew any number of times. What nobody sees when a copy is made
//! is seen by nobody later, so nothing is missed that is not in it. Entries of the index are put, never taken away: of a
//! version that was kept in part, entries of the smaller class lie before the one that named the victim.

mod copy;
mod finish;
mod live;
mod plan;
mod source;
mod summary;

pub(crate) use live::{LineSight, Sight};
pub(crate) use source::Source;
pub(crate) use summary::{Summaries, Summary};

use crate::fold::Pace;
use crate::forget::{ForgetError, journal_floor};
use crate::ids::LaneId;
use crate::index::IndexError;
use crate::journal::compacted::CompactedError;
use crate::manifest::ManifestError;
use crate::manifest::lineage::Owned;
use crate::retention::Retention;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use std::sync::Arc;

/// Segments of a lane that one call compacts into one.
const VICTIMS_AT_ONCE: usize = 16;
/// Segments that one call reads for the first time.
const SUMMARIZED_AT_ONCE: usize = 64;
/// Segments whose samples one call looks at.
const ESTIMATED_AT_ONCE: usize = 256;
/// A segment is a victim if a copy would take at most this part of it, in percent: what is written anew is then never more
/// than what is given back, and dead bytes are never more than live ones for long.
const COPY_PERCENT: u64 = 50;
/// A victim that turns out to need more of itself than this stays.
const KEEP_PERCENT: u64 = 75;

/// Why compaction stopped. Nothing is lost by it, and the next call goes on.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// A segment cannot be read, written or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A compacted segment cannot be written or read.
    #[error(transparent)]
    Compacted(#[from] CompactedError),
    /// The manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A segment that was compacted cannot be released.
    #[error(transparent)]
    Release(#[from] ForgetError),
}

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that are gone.
    pub segments: usize,
    /// Bytes of the files that what was needed of them is in now.
    pub bytes_moved: u64,
    /// Bytes of the files that are gone.
    pub bytes_freed: u64,
    /// Segments that were read to see what they have, victims not counted.
    pub examined: usize,
    /// Segments that the next call may compact or will look at.
    pub left: usize,
    /// Segments that stay because they are damaged.
    pub damaged: usize,
    /// Whether there was no space for a copy, not even in the reserve.
    pub short_of_space: bool,
    /// Nothing was done: the index lacks part of the journal, and what is needed of it is asked there.
    pub waits_for_index: bool,
}

impl Retention {
    /// Moves together what is needed of segments that are needed in part, at most one segment's worth a lane. Goes on while
    /// streams and readers do, out of the reserve that new segments leave alone.
    pub async fn compact(&self, pace: &dyn Pace) -> Result<Compacted, CompactError> {
        let mut summaries = self.summaries.lock().await;
        let mut report = Compacted::default();
        if self.indexing.check().is_err() {
            return Ok(Compacted { waits_for_index: true, ..report });
        }
        self.refresh_forgotten();
        for lane in 0..self.lanes.len() {
            let lane = LaneId::new(u16::try_from(lane).expect("a lane per core"));
            self.finish_compactions(lane, pace, &mut summaries, &mut report).await?;
            self.compact_lane(lane, pace, &mut summaries, &mut report).await?;
        }
        Ok(report)
    }

    async fn compact_lane(
        &self,
        lane: LaneId,
        pace: &dyn Pace,
        summaries: &mut Summaries,
        report: &mut Compacted,
    ) -> Result<(), CompactError> {
        let sight = Arc::new(self.sight(lane));
        let mut victims = self.victims(lane, &sight, pace, summaries, report).await?;
        victims.sort_by_key(|(estimate, source)| (*estimate, source.id()));
        let mut room = self.journal.segment_bytes;
        let mut some = Vec::new();
        for (estimate, source) in victims {
            if some.len() < VICTIMS_AT_ONCE && estimate <= room {
                room -= estimate;
                some.push((estimate, source));
            } else {
                report.left += 1;
            }
        }
        // Half of the reserve is left to the manifest and the index, whatever comes.
        let free = self.reading.segments.folder().free_bytes().await?;
        let mut free = free.saturating_sub(self.journal.reserve_bytes / 2);
        let fits = |(estimate, _): &(u64, Source)| {
            // An estimate may be off; a copy that does not fit after all is given up.
            let needed = estimate + estimate / 8;
            let fits = needed <= free;
            free = free.saturating_sub(needed);
            fits
        };
        let wanted = some.len();
        let some: Vec<_> = some.into_iter().take_while(fits).map(|(_, source)| source).collect();
        report.short_of_space |= some.len() < wanted;
        if some.is_empty() {
            return Ok(());
        }
        self.copy(lane, some, &sight, pace, summaries, report).await
    }

    /// Segments of a lane of which little enough is needed, and about how many bytes a copy takes.
    async fn victims(
        &self,
        lane: LaneId,
        sight: &Arc<Sight>,
        pace: &dyn Pace,
        summaries: &mut Summaries,
        report: &mut Compacted,
    ) -> Result<Vec<(u64, Source)>, CompactError> {
        let mut victims = Vec::new();
        let mut estimated = 0;
        let settled = Source::settled(&self.manifest.state(), lane);
        for source in settled {
            let summary = match summaries.get(&source.id()) {
                Some(summary) => Arc::clone(summary),
                None if report.examined >= SUMMARIZED_AT_ONCE => {
                    report.left += 1;
                    continue;
                }
                None => {
                    report.examined += 1;
                    self.summary(&source, pace, summaries).await?
                }
            };
            if !summary.is_whole() {
                report.damaged += 1;
                continue;
            }
            let estimate = match summary.known_estimate(sight) {
                Some(known) => known,
                None if estimated >= ESTIMATED_AT_ONCE => {
                    report.left += 1;
                    continue;
                }
                None => {
                    estimated += 1;
                    let index = Arc::clone(&self.surroundings.index);
                    let sight = Arc::clone(sight);
                    offload(move || summary.estimate(&sight, &mut *index.cursor())).await?
                }
            };
            if estimate <= source.size_bytes() / 100 * COPY_PERCENT {
                victims.push((estimate, source));
            }
        }
        Ok(victims)
    }

    /// What a segment has, read and remembered.
    pub(crate) async fn summary(
        &self,
        source: &Source,
        pace: &dyn Pace,
        summaries: &mut Summaries,
    ) -> Result<Arc<Summary>, CompactedError> {
        if let Some(known) = summaries.get(&source.id()) {
            return Ok(Arc::clone(known));
        }
        pace.admit(source.summary_bytes(), &|| self.lane(source.lane()).waiting()).await;
        let summary = Arc::new(source.summarize(&self.reading.segments).await?);
        summaries.insert(source.id(), Arc::clone(&summary));
        Ok(summary)
    }

    /// What can be looked at of the lines of a lane.
    pub(crate) fn sight(&self, lane: LaneId) -> Sight {
        let moments = self.moments();
        let state = self.manifest.state();
        let machines = self.machines.read();
        let sight = |one: &Owned| {
            let line = state.lines.get(&one.owner)?;
            // What nobody can open any more is needed by nobody.
            if state.keys.destroyed(line.machine).is_some() {
                return None;
            }
            let disks = machines.disks.values().filter(|disk| disk.machine() == line.machine);
            let disks = disks.filter(|_| line.origin.is_none());
            // In memory a floor is never ahead of what readers go by.
            let floors = disks.filter_map(|disk| Some((disk.id(), journal_floor(disk)?)));
            let (floors, moments) = (floors.collect(), moments.get(&line.id)?.clone());
            Some(LineSight { above: one.above, up_to: one.up_to, moments, floors })
        };
        let written = state.written(Some(lane)).into_iter();
        let lines = written.map(|(line, all)| (line, all.iter().filter_map(sight).collect()));
        Sight { lines: lines.collect() }
    }
}
