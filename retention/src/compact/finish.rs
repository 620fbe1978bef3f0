//! The end of a compaction: the index is pointed into the copy, durably, and what was copied is released.

use super::{CompactError, Compacted, Source, Summaries};
use crate::fold::Pace;
use crate::forget::Released;
use crate::ids::LaneId;
use crate::index::IndexBatch;
use crate::index::tail_key::put_moved;
use crate::journal::compacted::read_table;
use crate::journal::indexing::index_kept_data;
use crate::manifest::compacted::CompactedEntry;
use crate::retention::Retention;
use landfall_disks::uring::offload;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Entries of the index that are written together.
const ENTRIES_PER_WRITE: usize = 20_000;

impl Retention {
    /// Ends every compaction of a lane that is on record and not ended: the one just made, or what a crash left.
    pub(super) async fn finish_compactions(
        &self,
        lane: LaneId,
        pace: &dyn Pace,
        summaries: &mut Summaries,
        report: &mut Compacted,
    ) -> Result<(), CompactError> {
        let unfinished: Vec<CompactedEntry> = {
            let state = self.manifest.state();
            let of_lane = state.compacted.values().filter(|entry| entry.lane == lane);
            of_lane.filter(|entry| !entry.from.is_empty()).cloned().collect()
        };
        for entry in unfinished {
            self.point_index_into(&entry, pace).await?;
            let victims = {
                let state = self.manifest.state();
                entry.from.iter().filter_map(|from| Source::named(&state, *from)).collect()
            };
            self.release_victims(victims, pace, summaries, report).await?;
        }
        Ok(())
    }

    /// Points the index to what a compacted segment holds, durably.
    async fn point_index_into(
        &self,
        entry: &CompactedEntry,
        pace: &dyn Pace,
    ) -> Result<(), CompactError> {
        let records = read_table(&self.reading.segments, entry).await?;
        let lines: BTreeSet<_> =
            self.manifest.state().written(Some(entry.lane)).into_keys().collect();
        let mut batch = IndexBatch::default();
        // Should a line go meanwhile, what is written of it goes with the next compaction of the index.
        for kept in records.iter().filter(|kept| lines.contains(&kept.record.line)) {
            index_kept_data(&mut batch, kept, entry.id);
            if batch.len() >= ENTRIES_PER_WRITE {
                pace.admit(0, &|| self.lane(entry.lane).waiting()).await;
                self.write_index(std::mem::take(&mut batch)).await?;
            }
        }
        // Compactions of a lane end in the order of their segments: it leads into all up to this one.
        put_moved(&mut batch, entry.lane, entry.id);
        self.write_index(batch).await?;
        let index = Arc::clone(&self.surroundings.index);
        offload(move || index.flush()).await?;
        Ok(())
    }

    async fn write_index(&self, batch: IndexBatch) -> Result<(), CompactError> {
        let index = Arc::clone(&self.surroundings.index);
        Ok(offload(move || index.write(batch)).await?)
    }

    /// Releases segments that nobody needs any more. One of which it is not known what it has stays, and what it became does,
    /// too.
    pub(super) async fn release_victims(
        &self,
        victims: Vec<Source>,
        pace: &dyn Pace,
        summaries: &mut Summaries,
        report: &mut Compacted,
    ) -> Result<(), CompactError> {
        let mut free = Vec::new();
        for source in victims {
            let summary = self.summary(&source, pace, summaries).await?;
            if summary.is_known() {
                free.push((source, summary));
            } else {
                report.damaged += 1;
            }
        }
        let mut released = Released::default();
        self.release(&free, &mut released).await?;
        free.iter().for_each(|(source, _)| {
            summaries.remove(&source.id());
        });
        report.segments += released.segments;
        report.bytes_freed += released.bytes;
        Ok(())
    }
}
