//! Drafts: changes that want to become records, and what is answered to them.

use super::format::{MAX_BODY_BYTES, MAX_EXTENTS, RecordKind};
use super::plan::{abort_bytes, record_bytes};
use crate::ids::{DiskId, Generation, Position, Sequence, StreamId};
use crate::line::Line;
use crate::sealing::SealError;
use crate::time::Timestamp;
use landfall_disks::{BLOCK_SIZE, Buffer, ByteRange, Ticket};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A change that wants to become part of a line.
pub(crate) struct Draft {
    pub(crate) line: Arc<Line>,
    pub(crate) origin: DraftOrigin,
    pub(crate) kind: RecordKind,
    pub(crate) boundary: bool,
    pub(crate) source_time: Timestamp,
    pub(crate) extents: Vec<DraftExtent>,
    /// By which it can be aborted until it is decided.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) reply: oneshot::Sender<Result<Committed, AppendError>>,
}

/// Where a draft comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DraftOrigin {
    /// A stream: everything here is checked against the line when the draft's turn comes.
    Stream(StreamOrigin),
    /// A branch's disk.
    Local,
    /// A mark somebody on this machine asked for: refused in the middle of a pass.
    Mark,
    /// The last record of a branch before it becomes the trunk.
    Promotion,
}

/// Which place in which stream a draft has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StreamOrigin {
    pub(crate) generation: Generation,
    pub(crate) stream: StreamId,
    pub(crate) position: Position,
    /// Position of the stream's last record before this one: if that failed, this one must not be accepted.
    pub(crate) previous: Position,
    /// Which opening of the stream it came by; an older one may still have drafts under way.
    pub(crate) epoch: u64,
}

/// One change of a draft: whole blocks.
pub(crate) struct DraftExtent {
    pub(crate) disk: DiskId,
    pub(crate) range: ByteRange,
    pub(crate) content: DraftContent,
}

/// What a range becomes.
pub(crate) enum DraftContent {
    /// These bytes, exactly as many as the range has, with their BLAKE3.
    Data { bytes: Buffer, hash: [u8; 32] },
    /// Zeroes.
    Zero,
}

/// What an acknowledged draft became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Committed {
    /// Its sequence in the line.
    pub(crate) sequence: Sequence,
    /// When it was committed.
    pub(crate) commit_time: Timestamp,
}

/// Why a draft was not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// The journal's file system is full; what is there stays readable, and writes go on when there is space.
    #[error(
        "the journal is full: {free_bytes} bytes free, {needed_bytes} needed; free space on the journal volume"
    )]
    JournalFull {
        /// Bytes there are.
        free_bytes: u64,
        /// Bytes the next segment needs, the reserve included.
        needed_bytes: u64,
    },
    /// The quota of the group is used up, and nothing that may go makes room.
    #[error("{0}")]
    QuotaUsedUp(String),
    /// The stream's generation is over.
    #[error("the stream has {sent}, the line is at {current}")]
    OldGeneration {
        /// What the stream has.
        sent: Generation,
        /// What the line has.
        current: Generation,
    },
    /// The batch does not follow the last accepted one: it was sent before, or one before it failed.
    #[error("{sent} does not follow the last accepted {last}")]
    OutOfOrder {
        /// What was sent.
        sent: Position,
        /// Last accepted one.
        last: Position,
    },
    /// A mark came in the middle of a pass: the disks are between two states.
    #[error("a pass is under way")]
    InPass,
    /// The stream was opened anew; this opening is over.
    #[error("the stream was taken over by a newer connection")]
    TakenOver,
    /// Extents overlap, are not whole blocks, or are too many.
    #[error(
        "a batch is at most {MAX_EXTENTS} extents of whole blocks and {MAX_BODY_BYTES} bytes, without overlap"
    )]
    Shape,
    /// What the machine seals its history by is not there.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// It was aborted before it was decided: nothing of it will ever be seen.
    #[error("the change was aborted")]
    Aborted,
    /// The line was discarded.
    #[error("the line was discarded")]
    LineGone,
    /// A branch was promoted, or is being promoted.
    #[error(
        "a branch of this machine was promoted: what was its trunk takes nothing more, and the new one no writes"
    )]
    Promoted,
    /// The lane failed before, or fails now.
    #[error("the journal failed and refuses writes until the service is restarted: {0}")]
    Failed(String),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

impl Draft {
    /// Checks the shape of the extents: whole blocks, no overlap, within the limits of a record.
    pub(crate) fn check_shape(extents: &[DraftExtent]) -> Result<(), AppendError> {
        let bodies: u64 = extents.iter().map(DraftExtent::body_bytes).sum();
        let whole = extents.iter().all(|extent| {
            let full = match &extent.content {
                DraftContent::Data { bytes, .. } => bytes.len() as u64 == extent.range.length(),
                DraftContent::Zero => true,
            };
            full && extent.range.is_aligned(BLOCK_SIZE) && !extent.range.is_empty()
        });
        let mut ranges: Vec<_> =
            extents.iter().map(|e| (e.disk, e.range.start(), e.range.end())).collect();
        ranges.sort_unstable();
        let apart = ranges.windows(2).all(|two| two[0].0 != two[1].0 || two[0].2 <= two[1].1);
        if whole && apart && extents.len() <= MAX_EXTENTS && bodies <= MAX_BODY_BYTES {
            Ok(())
        } else {
            Err(AppendError::Shape)
        }
    }

    /// Bytes of its record, sealed or not, and of one that aborts all of it.
    pub(super) fn room_bytes(&self, sealed: bool) -> u64 {
        let abort = self.ticket.as_ref().map_or(0, |_| abort_bytes(self.extents.len()));
        record_bytes(&self.kind, &self.extents, sealed) + abort
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_aborted)
    }

    /// Refuses it before it was written.
    pub(super) fn refuse(self, error: AppendError) {
        let answer = Err(if self.is_aborted() { AppendError::Aborted } else { error });
        // A sender that went away needs no answer.
        let _ = self.reply.send(answer);
    }
}

impl DraftExtent {
    pub(super) fn body_bytes(&self) -> u64 {
        match &self.content {
            DraftContent::Data { bytes, .. } => bytes.len() as u64,
            DraftContent::Zero => 0,
        }
    }
}
