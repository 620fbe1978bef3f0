//! Carries an [`Action`] out on a disk.

use crate::nbd::contexts::{BlockContext, Described};
use crate::nbd::session::{
    Action, Answer, Chunk, ContextSet, Extents, Failure, Fragments, Piece, Share, StatusList,
    Transmission, allocation, plan_read,
};
use crate::nbd::wire::transmission::ErrorCode;
use futures_util::future::try_join_all;
use landfall_disks::file::FileError;
use landfall_disks::{Buffer, ByteRange, Content, Disk, DiskError, Durability, MappedRange};
use std::cell::Cell;
use std::sync::Arc;

/// Shortest read, in bytes, for which the disk is asked where its holes are.
const ASK_FOR_HOLES: u64 = 64 << 10;

/// Most reads that go by without asking for holes again.
const MAX_PATIENCE: u32 = 63;

/// Whether it is worth asking a disk for holes, learnt from its last answers: a disk without holes is asked ever more
/// rarely, since the question costs a part of a read.
#[derive(Default)]
pub(super) struct HoleSense {
    /// Reads until the next question.
    wait: Cell<u32>,
    /// Reads between questions.
    patience: Cell<u32>,
}

impl HoleSense {
    fn ask(&self, range: ByteRange) -> bool {
        if range.length() < ASK_FOR_HOLES {
            return false;
        }
        let wait = self.wait.get();
        self.wait.set(wait.saturating_sub(1));
        wait == 0
    }

    fn learn(&self, found: bool) {
        let patience = if found { 0 } else { (self.patience.get() * 2 + 1).min(MAX_PATIENCE) };
        self.patience.set(patience);
        self.wait.set(patience);
    }
}

/// Does what was decided and says what it came to. `payload` belongs to a write and has its length.
pub(super) async fn execute(
    of: &Served<'_>,
    action: Action,
    payload: Option<Buffer>,
) -> Result<Answer, DiskError> {
    let (disk, holes) = (of.disk, of.holes);
    match action {
        Action::Read { range, .. } if range.is_empty() => return Ok(Answer::Data(Vec::new())),
        Action::Read { range, fragments: Fragments::Allowed } if holes.ask(range) => {
            return sparse_read(disk, holes, range).await;
        }
        Action::Read { range, .. } => {
            let bytes = disk.read(range).await?;
            return Ok(Answer::Data(vec![Piece::Data { at: range.start(), bytes }]));
        }
        Action::BlockStatus { range, extents, contexts } => {
            return block_status(of, range, extents, contexts).await;
        }
        Action::Flush => disk.flush().await?,
        Action::Write { range, durability } => {
            let payload = payload.expect("a write comes with its payload");
            if !range.is_empty() {
                disk.write(range.start(), payload, durability).await?;
            }
        }
        Action::WriteZeroes { range, mode, durability } => {
            if !range.is_empty() {
                disk.write_zeroes(range, mode, durability).await?;
            }
        }
        Action::Trim { range, durability } => {
            if !range.is_empty() {
                disk.discard(range).await?;
            }
            if durability == Durability::Durable {
                disk.flush().await?;
            }
        }
        // A hint. Disks keep what they have learnt by themselves; there is nothing to warm from here.
        Action::Cache { .. } => {}
        Action::FilteredStatus => unreachable!("decided when its payload was there"),
        Action::Disconnect => unreachable!("a disconnect ends the receive loop"),
    }
    Ok(Answer::Done)
}

async fn sparse_read(
    disk: &dyn Disk,
    holes: &HoleSense,
    range: ByteRange,
) -> Result<Answer, DiskError> {
    let map = map_all(disk, range).await?;
    holes.learn(map.iter().any(|mapped| mapped.content != Content::Data));
    let pieces = plan_read(range, &map).into_iter().map(|chunk| async move {
        match chunk {
            Chunk::Hole(hole) => Ok(Piece::Hole(hole)),
            Chunk::Data(part) => {
                let bytes = disk.read(part).await?;
                Ok(Piece::Data { at: part.start(), bytes })
            }
        }
    });
    try_join_all(pieces).await.map(Answer::Data)
}

/// The map of all of `range`, however often the disk stops early.
async fn map_all(disk: &dyn Disk, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
    let mut map = Vec::new();
    let mut rest = range;
    while !rest.is_empty() {
        let part = disk.map(rest).await?;
        let end = part.last().map_or(rest.start(), |last| last.range.end().min(rest.end()));
        if end <= rest.start() {
            // No progress: what is not described is read.
            break;
        }
        map.extend(part);
        (_, rest) = rest.split_at(end);
    }
    Ok(map)
}

/// Who describes blocks for a selected context.
pub(super) enum Source {
    /// The map of the disk: `base:allocation`.
    Map,
    /// A context of the export.
    Context(Arc<dyn BlockContext>),
}

impl Source {
    async fn describe(
        &self,
        disk: &dyn Disk,
        range: ByteRange,
    ) -> Result<Vec<Described>, DiskError> {
        match self {
            Self::Map => Ok(allocation(range, &disk.map(range).await?)),
            Self::Context(context) => context.describe(range).await,
        }
    }
}

/// What a connection serves requests from.
pub(super) struct Served<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) rules: &'a Transmission,
    /// One for each context of the rules.
    pub(super) sources: &'a [Source],
    pub(super) holes: &'a HoleSense,
}

async fn block_status(
    of: &Served<'_>,
    range: ByteRange,
    extents: Extents,
    contexts: ContextSet,
) -> Result<Answer, DiskError> {
    let asked = of.rules.contexts.iter().zip(of.sources).enumerate();
    let asked: Vec<_> = asked.filter(|(place, _)| contexts.has(*place)).collect();
    let mut status = Vec::with_capacity(asked.len());
    for (_, ((id, context), source)) in &asked {
        let share = Share::of(context, asked.len());
        let mut list = StatusList::new(range, extents, of.rules.replies, share);
        while let Some(next) = list.next() {
            if !list.add(&source.describe(of.disk, next).await?) {
                return Err(DiskError::Failed(format!(
                    "{} says nothing of {next}",
                    context.name()
                )));
            }
        }
        status.push((*id, list.into_descriptors()));
    }
    Ok(Answer::Status(status))
}

/// What the client is told of a failed action.
pub(super) fn failure(error: &DiskError, action: &Action) -> Failure {
    let code = match error {
        DiskError::OutOfRange { .. } => match action {
            Action::Write { .. } | Action::WriteZeroes { .. } => ErrorCode::NoSpace,
            _ => ErrorCode::Invalid,
        },
        DiskError::ReadOnly => ErrorCode::NotPermitted,
        DiskError::Resize { .. } => ErrorCode::Invalid,
        DiskError::NoSpace(_) | DiskError::File(FileError::NoSpace { .. }) => ErrorCode::NoSpace,
        DiskError::Gone(_) | DiskError::Unavailable(_) => ErrorCode::Shutdown,
        // Damage, unknown content, failed files, and whatever comes to be: the disk could not do it.
        _ => ErrorCode::Io,
    };
    let at = match (error, action) {
        (
            DiskError::Damaged { range: bad, .. }
            | DiskError::Unknown { range: bad, .. }
            | DiskError::Sealed { range: bad, .. },
            Action::Read { range, .. },
        ) if range.overlaps(*bad) => Some(range.intersection(*bad).start()),
        _ => None,
    };
    Failure { code, message: error.to_string(), at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::ByteOffset;

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    #[test]
    fn a_dense_disk_is_asked_ever_more_rarely() {
        let holes = HoleSense::default();
        let large = range(0, ASK_FOR_HOLES);
        assert!(!holes.ask(range(0, ASK_FOR_HOLES - 1)));
        let mut asked = 0;
        for _ in 0..1000 {
            if holes.ask(large) {
                asked += 1;
                holes.learn(false);
            }
        }
        assert!((15..30).contains(&asked), "{asked}");
        holes.learn(true);
        assert!(holes.ask(large));
    }

    #[test]
    fn each_error_has_its_number() {
        let read = Action::Read { range: range(4096, 8192), fragments: Fragments::Allowed };
        let write = Action::Write { range: range(0, 512), durability: Durability::Cached };
        let out_of_range = DiskError::OutOfRange { range: range(0, 9), size_bytes: 8 };
        let damaged = DiskError::Damaged { range: range(0, 8192), what: "crc".into() };
        let full = FileError::NoSpace { path: "f".into() };
        for (error, action, code) in [
            (&out_of_range, &read, ErrorCode::Invalid),
            (&out_of_range, &write, ErrorCode::NoSpace),
            (&DiskError::ReadOnly, &write, ErrorCode::NotPermitted),
            (&DiskError::NoSpace("journal".into()), &write, ErrorCode::NoSpace),
            (&DiskError::File(full), &write, ErrorCode::NoSpace),
            (&DiskError::Gone("discarded".into()), &read, ErrorCode::Shutdown),
            (&DiskError::Unavailable("stopping".into()), &read, ErrorCode::Shutdown),
            (&DiskError::Failed("EIO".into()), &write, ErrorCode::Io),
            (&damaged, &read, ErrorCode::Io),
        ] {
            assert_eq!(failure(error, action).code, code, "{error}");
        }
        let told = failure(&damaged, &read);
        assert_eq!(told.at, Some(ByteOffset::new(4096)), "within the request");
        assert!(told.message.contains("crc"));
    }
}
