//! The copy: what is needed of some segments, written anew, durable and read back before it is on record.

use super::plan::{Plan, PlanError};
use super::{CompactError, Compacted, KEEP_PERCENT, Sight, Source, Summaries};
use crate::fold::Pace;
use crate::ids::{LaneId, SegmentId};
use crate::journal::compacted::{CompactedError, CompactedFile};
use crate::manifest::ManifestError;
use crate::manifest::record::{GivenIds, ManifestRecord};
use crate::retention::Retention;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use std::sync::Arc;

/// Bytes of bodies between two looks at the pace.
const PACED_BYTES: usize = 1 << 20;

impl Retention {
    /// Copies what is needed of segments of a lane, and releases them.
    pub(super) async fn copy(
        &self,
        lane: LaneId,
        victims: Vec<Source>,
        sight: &Arc<Sight>,
        pace: &dyn Pace,
        summaries: &mut Summaries,
        report: &mut Compacted,
    ) -> Result<(), CompactError> {
        let segment = self.give_segment().await?;
        let salt = self.salt();
        let segments = &self.reading.segments;
        let mut file = match CompactedFile::create(segments, (segment, lane), salt).await {
            Err(FileError::NoSpace { .. }) => {
                report.short_of_space = true;
                return Ok(());
            }
            file => file?,
        };
        let copied = self.copy_all(&mut file, victims, sight, pace, summaries, report).await;
        let (from, empty) = match copied {
            Ok(copied) => copied,
            Err(error) => return self.give_up(file, error, report).await,
        };
        if from.is_empty() {
            file.abandon(segments).await?;
        } else {
            let ids = from.iter().map(Source::id).collect();
            let now = self.surroundings.clock.now();
            let entry = match file.finish(segments, now, ids).await {
                Ok(entry) => entry,
                // The next start removes what is left of it, or the next copy of that name.
                Err(CompactedError::File(FileError::NoSpace { .. })) => {
                    report.short_of_space = true;
                    segments.remove(lane, segment).await?;
                    return Ok(());
                }
                Err(error) => {
                    segments.remove(lane, segment).await?;
                    return Err(error.into());
                }
            };
            report.bytes_moved += entry.size_bytes;
            self.manifest.append(vec![ManifestRecord::SegmentCompacted(entry)]).await?;
        }
        self.release_victims(empty, pace, summaries, report).await?;
        self.finish_compactions(lane, pace, summaries, report).await
    }

    /// Adds victim after victim; gives those that the copy has something of, and those that nobody needs anything of.
    async fn copy_all(
        &self,
        file: &mut CompactedFile,
        victims: Vec<Source>,
        sight: &Arc<Sight>,
        pace: &dyn Pace,
        summaries: &mut Summaries,
        report: &mut Compacted,
    ) -> Result<(Vec<Source>, Vec<Source>), CompactError> {
        let (mut from, mut empty) = (Vec::new(), Vec::new());
        for source in victims {
            let waiting = || self.lane(source.lane()).waiting();
            pace.admit(source.size_bytes(), &waiting).await;
            let contents = Arc::new(source.contents(&self.reading.segments).await?);
            let (index, sight_too) = (Arc::clone(&self.surroundings.index), Arc::clone(sight));
            let read = Arc::clone(&contents);
            let plan = match offload(move || Plan::of(&read, &sight_too, &*index)).await {
                Ok(plan) => plan,
                Err(PlanError::Index(error)) => return Err(error.into()),
                Err(PlanError::Damaged) => {
                    // It was whole when it was summarized.
                    summaries.remove(&source.id());
                    report.damaged += 1;
                    continue;
                }
            };
            if let Some(summary) = summaries.get(&source.id()) {
                summary.correct(sight, plan.copy_bytes());
            }
            if plan.records.is_empty() {
                empty.push(source);
                continue;
            }
            let much = plan.copy_bytes() > source.size_bytes() / 100 * KEEP_PERCENT;
            if much || !file.has_room(plan.data_bytes, plan.table_bytes) {
                continue;
            }
            let mut since = 0;
            for (mut kept, places) in plan.records {
                for (piece, place) in kept.pieces.iter_mut().zip(places) {
                    piece.unit = file.next_unit();
                    since += place.len();
                    file.add_body(&contents.bytes[place]).await?;
                }
                file.add_record(kept);
                if since >= PACED_BYTES {
                    pace.admit(since as u64, &waiting).await;
                    since = 0;
                }
            }
            from.push(source);
        }
        from.sort_by_key(Source::id);
        Ok((from, empty))
    }

    /// A copy that failed is removed; one that found no space is for another time.
    async fn give_up(
        &self,
        file: CompactedFile,
        error: CompactError,
        report: &mut Compacted,
    ) -> Result<(), CompactError> {
        let removed = file.abandon(&self.reading.segments).await;
        match error {
            CompactError::File(FileError::NoSpace { .. }) => {
                report.short_of_space = true;
                Ok(removed?)
            }
            // That it could not be removed either follows from what went wrong first.
            error => Err(error),
        }
    }

    /// A number for a new segment, never to be used again.
    async fn give_segment(&self) -> Result<SegmentId, ManifestError> {
        let given = self.manifest.change(|state| {
            let segment = state.given.segment.next();
            let given = GivenIds { segment, ..state.given };
            Ok::<_, ManifestError>((vec![ManifestRecord::IdsGiven(given)], segment))
        });
        given.await
    }

    fn salt(&self) -> u64 {
        let mut salt = [0; 8];
        self.surroundings.random.fill(&mut salt);
        u64::from_le_bytes(salt)
    }
}
