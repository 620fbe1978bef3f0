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
//! between leaves a file that nobody asks for, removed at the next start. A segment with damage is kept: what it held is
//! not known.

use crate::fold::Pace;
use crate::ids::{LaneId, LineId, SegmentId, Sequence};
use crate::index::IndexError;
use crate::index::tail_key::LineTail;
use crate::journal::format::RecordKind;
use crate::journal::indexing::tail_after;
use crate::journal::recovery::{Examination, examine};
use crate::manifest::ManifestError;
use crate::manifest::record::ManifestRecord;
use crate::manifest::released::ReleasedLine;
use crate::manifest::state::SegmentEntry;
use crate::replica::{Image, ReplicaDisk};
use crate::retention::Retention;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
}

/// Which records a segment has of which lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    lines: BTreeMap<LineId, ReleasedLine>,
    /// Every record of it was found and is good.
    whole: bool,
}

/// Summaries of segments that were looked at and stayed: a segment is read once, or twice.
pub(crate) type Summaries = HashMap<SegmentId, Arc<Summary>>;

impl Summary {
    fn of(entry: &SegmentEntry, found: &Examination) -> Self {
        let next = entry.ended.map(|(_, next)| next);
        let bodies = found.records.iter().all(|found| found.damaged_bodies.is_empty());
        let whole = found.damage.is_empty() && bodies && next == Some(found.next);
        let mut lines: BTreeMap<LineId, ReleasedLine> = BTreeMap::new();
        for record in found.records.iter().map(|found| &found.record) {
            if record.kind == RecordKind::Vouch {
                continue;
            }
            let line = lines.entry(record.line).or_insert(ReleasedLine {
                first: record.sequence,
                chain_before: record.previous_chain,
                tail: LineTail::default(),
            });
            line.tail = tail_after(&line.tail, record);
        }
        Self { lines, whole }
    }

    /// Whether a line has a record above what its floors cover; `bounds` has all lines that are left.
    fn is_needed(&self, bounds: &BTreeMap<LineId, Sequence>) -> bool {
        let above = |(line, released): (&LineId, &ReleasedLine)| {
            bounds.get(line).is_some_and(|bound| released.tail.sequence > *bound)
        };
        self.lines.iter().any(above)
    }

    /// What the manifest keeps of it, in one frame with the release.
    fn records(
        &self,
        entry: &SegmentEntry,
        bounds: &BTreeMap<LineId, Sequence>,
    ) -> Vec<ManifestRecord> {
        let (segment, lane, first) = (entry.id, entry.lane, entry.first);
        let next = entry.ended.map_or(first, |(_, next)| next);
        let mut records = Vec::new();
        if first < next {
            records.push(ManifestRecord::RecordsReleased { lane, first, next });
        }
        let left = self.lines.iter().filter(|(line, _)| bounds.contains_key(line));
        records.extend(left.map(|(line, released)| ManifestRecord::LineReleased {
            lane,
            at: first,
            line: *line,
            released: *released,
        }));
        records.push(ManifestRecord::SegmentReleased { segment });
        records
    }
}

/// Up to where the journal need not hold what a disk was. One whose first copy is under way has nothing in the journal.
fn journal_floor(disk: &ReplicaDisk) -> Option<Sequence> {
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
        for entry in self.ended_segments(lane) {
            let summary = match summaries.get(&entry.id) {
                Some(summary) => Arc::clone(summary),
                None if report.examined >= EXAMINED_AT_ONCE => {
                    report.left += 1;
                    continue;
                }
                None => {
                    report.examined += 1;
                    pace.admit(entry.size_bytes, &|| self.lane(lane).waiting()).await;
                    let summary = Arc::new(self.summarize(entry).await?);
                    summaries.insert(entry.id, Arc::clone(&summary));
                    summary
                }
            };
            if !summary.whole {
                report.damaged += 1;
                continue;
            }
            if !summary.is_needed(&bounds) {
                free.push((entry, summary));
            }
        }
        for some in free.chunks(RELEASED_TOGETHER) {
            self.release(some, &bounds, report).await?;
            some.iter().for_each(|(entry, _)| {
                summaries.remove(&entry.id);
            });
        }
        Ok(())
    }

    /// Up to where records of each line of a lane are needed by nobody.
    fn bounds(&self, lane: LaneId) -> BTreeMap<LineId, Sequence> {
        let state = self.manifest.state();
        let machines = self.machines.read();
        let of_lane = state.lines.values().filter(|line| line.lane == lane);
        let bound = |line: &crate::manifest::state::LineEntry| {
            let Some(start) = line.start.as_ref().filter(|_| line.origin.is_none()) else {
                return Sequence::default();
            };
            let disks = state.disks.values().filter(|disk| disk.machine == line.machine);
            // In memory a floor is never ahead of what readers go by.
            let floors = disks.filter_map(|disk| journal_floor(machines.disks.get(&disk.id)?));
            floors.fold(start.sequence, Ord::min)
        };
        of_lane.map(|line| (line.id, bound(line))).collect()
    }

    fn ended_segments(&self, lane: LaneId) -> Vec<SegmentEntry> {
        let state = self.manifest.state();
        let ended = |entry: &&SegmentEntry| entry.lane == lane && entry.ended.is_some();
        state.segments.values().filter(ended).copied().collect()
    }

    async fn summarize(&self, entry: SegmentEntry) -> Result<Summary, ForgetError> {
        let bytes = match self.reading.segments.read_whole(entry.id, entry.size_bytes).await {
            Err(FileError::NotFound { .. }) => landfall_disks::Buffer::zeroed(0),
            read => read?,
        };
        Ok(offload(move || Summary::of(&entry, &examine(&entry, &bytes))).await)
    }

    async fn release(
        &self,
        free: &[(SegmentEntry, Arc<Summary>)],
        bounds: &BTreeMap<LineId, Sequence>,
        report: &mut ForgetReport,
    ) -> Result<(), ForgetError> {
        let records =
            |(entry, summary): &(SegmentEntry, Arc<Summary>)| summary.records(entry, bounds);
        for one in free {
            let left = self.manifest.change(|state| {
                // A machine may have been removed meanwhile; its lines are not to be kept.
                let mut records = records(one);
                records.retain(|record| match record {
                    ManifestRecord::LineReleased { line, .. } => state.lines.contains_key(line),
                    _ => true,
                });
                Ok::<_, ManifestError>((records, ()))
            });
            left.await?;
        }
        // Leaves resolved from here on name none of them: the floors cover all that is in there. Those that were being
        // resolved by older floors are kept when this wait ends, and no such leaf comes after them.
        let gone: BTreeSet<SegmentId> = free.iter().map(|(entry, _)| entry.id).collect();
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
        for (entry, _) in free {
            self.reading.segments.remove(entry.lane, entry.id).await?;
            report.segments += 1;
            report.bytes += entry.size_bytes;
        }
        Ok(())
    }
}
