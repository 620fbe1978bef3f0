//! Segments as forgetting and compaction see them: written by a lane, or compacted.

use super::summary::Summary;
use crate::ids::{LaneId, SegmentId};
use crate::journal::compacted::{CompactedError, KeptRecord, read_table};
use crate::journal::recovery::{Examination, examine};
use crate::journal::segment::Segments;
use crate::manifest::compacted::CompactedEntry;
use crate::manifest::state::{ManifestState, SegmentEntry};
use landfall_disks::Buffer;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A segment that nobody writes to any more.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A lane wrote it.
    Written(SegmentEntry),
    /// It was compacted.
    Compacted(CompactedEntry),
}

impl Source {
    pub(crate) fn id(&self) -> SegmentId {
        match self {
            Self::Written(entry) => entry.id,
            Self::Compacted(entry) => entry.id,
        }
    }

    pub(crate) fn lane(&self) -> LaneId {
        match self {
            Self::Written(entry) => entry.lane,
            Self::Compacted(entry) => entry.lane,
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        match self {
            Self::Written(entry) => entry.size_bytes,
            Self::Compacted(entry) => entry.size_bytes,
        }
    }

    /// Bytes that have to be read to know what it has.
    pub(crate) fn summary_bytes(&self) -> u64 {
        match self {
            Self::Written(entry) => entry.size_bytes,
            Self::Compacted(entry) => (entry.size_bytes - entry.table) / 2,
        }
    }

    /// The segments of a lane that stand for themselves: not those that are just being compacted, nor what they become.
    pub(crate) fn settled(state: &ManifestState, lane: LaneId) -> Vec<Self> {
        let going: BTreeSet<SegmentId> =
            state.compacted.values().flat_map(|entry| entry.from.iter().copied()).collect();
        let ended = state.segments.values().filter(|entry| entry.ended.is_some());
        let whole = state.compacted.values().filter(|entry| entry.from.is_empty()).cloned();
        let all = ended.copied().map(Self::Written).chain(whole.map(Self::Compacted));
        all.filter(|one| one.lane() == lane && !going.contains(&one.id())).collect()
    }

    /// The segment of this number.
    pub(crate) fn named(state: &ManifestState, segment: SegmentId) -> Option<Self> {
        let written = state.segments.get(&segment).copied().map(Self::Written);
        written.or_else(|| state.compacted.get(&segment).cloned().map(Self::Compacted))
    }

    pub(crate) async fn summarize(&self, segments: &Segments) -> Result<Summary, CompactedError> {
        match self {
            Self::Written(entry) => {
                let (entry, bytes) = (*entry, read_written(segments, entry).await?);
                Ok(offload(move || Summary::of_written(&entry, &examine(&entry, &bytes))).await)
            }
            Self::Compacted(entry) => {
                let records = match read_table(segments, entry).await {
                    // It is no victim and is not released, and the others of its lane are.
                    Err(error) if error.is_loss() => return Ok(Summary::unknown()),
                    read => read?,
                };
                Ok(offload(move || Summary::of_compacted(&records)).await)
            }
        }
    }

    pub(crate) async fn contents(&self, segments: &Segments) -> Result<Contents, CompactedError> {
        match self {
            Self::Written(entry) => {
                let (entry, bytes) = (*entry, Arc::new(read_written(segments, entry).await?));
                let read = Arc::clone(&bytes);
                let found = offload(move || examine(&entry, &read)).await;
                Ok(Contents { bytes, records: Records::Written(found, entry.salt) })
            }
            Self::Compacted(entry) => {
                let records = read_table(segments, entry).await?;
                let bytes = Arc::new(segments.read_whole(entry.id, entry.table).await?);
                Ok(Contents { bytes, records: Records::Compacted(records) })
            }
        }
    }
}

/// A segment that was read whole.
pub(crate) struct Contents {
    pub(super) bytes: Arc<Buffer>,
    pub(super) records: Records,
}

pub(super) enum Records {
    /// What a lane wrote, and its salt. Every body was checked.
    Written(Examination, u64),
    /// What is kept of records. No body was checked yet.
    Compacted(Vec<KeptRecord>),
}

/// The bytes of a segment that a lane wrote; none if its file is gone.
async fn read_written(segments: &Segments, entry: &SegmentEntry) -> Result<Buffer, FileError> {
    match segments.read_whole(entry.id, entry.size_bytes).await {
        Err(FileError::NotFound { .. }) => Ok(Buffer::zeroed(0)),
        read => read,
    }
}
