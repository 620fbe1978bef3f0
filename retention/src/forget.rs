//! Forget: segments of the journal that nobody needs any more are released, and their space comes back.
//!
//! ```text
//!   examine ─▶ every line's last record in it ≤ its floors, or the line is gone?
//!      ─▶ RecordsReleased, LineReleased …, SegmentReleased (one frame) ─▶ reads begun before end ─▶ leaves dropped
//!      ─▶ reads begun before end ─▶ unlink
//! ```
//!
//! **Invariants:** a segment is released only when no line that is left has a record in it above the floors of all its
//! disks, so nothing that can be opened reads from it. What the manifest keeps of it goes before the file does: a crash in
//! between leaves a file that nobody asks for, removed at the next start. A segment in which heads of records are damaged is
//! kept: what it held is not known.

use crate::compact::{Source, Summaries, Summary};
use crate::fold::Pace;
use crate::ids::{LaneId, LineId, SegmentId, Sequence};
use crate::index::IndexError;
use crate::journal::compacted::CompactedError;
use crate::manifest::ManifestError;
use crate::manifest::lineage::Owned;
use crate::manifest::record::ManifestRecord;
use crate::replica::{Image, ReplicaDisk};
use crate::retention::Retention;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Segments that are released together: one wait for the reads under way, one look through the leaves.
const RELEASED_TOGETHER: usize = 32;
/// Segments that one call reads; the next call goes on with the others.
const EXAMINED_AT_ONCE: usize = 64;

/// Why segments cannot be released. What was released before stays released.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// A segment cannot be read or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A compacted segment cannot be read.
    #[error(transparent)]
    Compacted(#[from] CompactedError),
}

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForgetReport {
    /// Segments that are gone.
    pub segments: usize,
    /// Bytes their files had.
    pub bytes: u64,
    /// Segments that were read to see who needs them. What was seen is remembered until the next start.
    pub examined: usize,
    /// Segments that the next call will look at.
    pub left: usize,
    /// Segments that stay because they are damaged.
    pub damaged: usize,
    /// Nothing was done: the index still has to be built from them.
    pub waits_for_index: bool,
}

/// What is gone of some segments that were to go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Released {
    pub(crate) segments: usize,
    pub(crate) bytes: u64,
}

/// What is needed of what a line wrote: above one sequence and up to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needed {
    pub(crate) above: Sequence,
    pub(crate) up_to: Sequence,
}

/// Up to where the journal need not hold what a disk was. One whose first copy is under way has nothing in the journal.
pub(crate) fn journal_floor(disk: &ReplicaDisk) -> Option<Sequence> {
    match (disk.floor(), disk.image()) {
        (Some(floor), _) => Some(floor),
        (None, Image::Lost(_)) => Some(Sequence::default()),
        (None, Image::Present(_)) => None,
    }
}

impl Retention {
    /// Gives back the segments that nobody needs any more. Goes on while streams and readers do.
    pub async fn forget(&self, pace: &dyn Pace) -> Result<ForgetReport, ForgetError> {
        let mut summaries = self.summaries.lock().await;
        let mut report = ForgetReport::default();
        if self.indexing.check().is_err() {
            return Ok(ForgetReport { waits_for_index: true, ..report });
        }
        for lane in 0..self.lanes.len() {
            let lane = LaneId::new(u16::try_from(lane).expect("a lane per core"));
            self.forget_lane(lane, pace, &mut summaries, &mut report).await?;
        }
        Ok(report)
    }

    async fn forget_lane(
        &self,
        lane: LaneId,
        pace: &dyn Pace,
        summaries: &mut Summaries,
        report: &mut ForgetReport,
    ) -> Result<(), ForgetError> {
        let bounds = self.bounds(lane);
        let mut free = Vec::new();
        let settled = Source::settled(&self.manifest.state(), lane);
        for source in settled {
            if !summaries.contains_key(&source.id()) {
                if report.examined >= EXAMINED_AT_ONCE {
                    report.left += 1;
                    continue;
                }
                report.examined += 1;
            }
            let summary = self.summary(&source, pace, summaries).await?;
            if summary.is_known() && !summary.is_needed(&bounds) {
                free.push((source, summary));
            } else if !summary.is_whole() {
                report.damaged += 1;
            }
        }
        for some in free.chunks(RELEASED_TOGETHER) {
            let mut released = Released::default();
            let ended = self.release(some, &mut released).await;
            report.segments += released.segments;
            report.bytes += released.bytes;
            ended?;
            some.iter().for_each(|(source, _)| {
                summaries.remove(&source.id());
            });
        }
        Ok(())
    }

    /// Up to where records of each line of a lane are needed by nobody, for each stretch that is somebody's.
    fn bounds(&self, lane: LaneId) -> BTreeMap<LineId, Vec<Needed>> {
        let state = self.manifest.state();
        let machines = self.machines.read();
        let bound = |line: &crate::manifest::state::LineEntry| {
            let Some(start) = line.start.as_ref().filter(|_| line.origin.is_none()) else {
                return Sequence::default();
            };
            let disks = state.disks.values().filter(|disk| disk.machine == line.machine);
            // In memory a floor is never ahead of what readers go by.
            let floors = disks.filter_map(|disk| journal_floor(machines.disks.get(&disk.id)?));
            floors.fold(start.sequence, Ord::min)
        };
        let needed = |one: &Owned| {
            let above = state.lines.get(&one.owner).map(bound).unwrap_or_default().max(one.above);
            Needed { above, up_to: one.up_to }
        };
        let written = state.written(Some(lane)).into_iter();
        written.map(|(line, owned)| (line, owned.iter().map(needed).collect())).collect()
    }

    /// Releases segments: on record first, then whoever may still read them is waited for, then their files go.
    pub(crate) async fn release(
        &self,
        free: &[(Source, Arc<Summary>)],
        released: &mut Released,
    ) -> Result<(), ForgetError> {
        if free.is_empty() {
            return Ok(());
        }
        for (source, summary) in free {
            let left = self.manifest.change(|state| {
                // Lines that are gone are not to be kept; a machine may have been removed meanwhile.
                let mut records = summary.records(source);
                records.retain(|record| match record {
                    ManifestRecord::LineReleased { line, .. } => state.is_written_as(*line),
                    _ => true,
                });
                Ok::<_, ManifestError>((records, ()))
            });
            left.await?;
        }
        // Leaves resolved from here on name none of them: floors cover what is in there, the index points elsewhere, or a
        // newer version comes before it. Those that were being resolved before are kept when this wait ends, and no such leaf
        // comes after them.
        let gone: BTreeSet<SegmentId> = free.iter().map(|(source, _)| source.id()).collect();
        self.reading.turns.ended().await;
        let lines: Vec<_> = self.machines.read().lines.values().cloned().collect();
        let reading = Arc::clone(&self.reading);
        let named = gone.clone();
        offload(move || {
            reading.drop_leaves_naming(&named);
            lines.iter().for_each(|line| line.head.drop_naming(&named));
        })
        .await;
        // Reads that found such a leaf before it was dropped.
        self.reading.turns.ended().await;
        for (source, _) in free {
            self.reading.segments.remove(source.lane(), source.id()).await?;
            released.segments += 1;
            released.bytes += source.size_bytes();
        }
        Ok(())
    }
}
