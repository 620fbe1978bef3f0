//! What the stream needs from whoever keeps the disks: the seam between protocol and retention.

use super::identity::{ContentId, DiskSlot, Generation, Name, Position, StreamId, Timestamp};
use super::refusal::Refusal;
use super::wire::{BlockHash, DiskEntry, DiskState, HashRequest, Mark, Marked, PassBegin};
use futures_util::future::LocalBoxFuture;
use landfall_disks::{Buffer, ByteRange};
use std::fmt;

/// Who is at the other end, as its certificate and the socket tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// Name in the certificate.
    pub name: String,
    /// BLAKE3 of the certificate: tells two of the same name apart.
    pub fingerprint: [u8; 32],
    /// Where the connection comes from.
    pub address: String,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// What a source asks for when it connects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamHello {
    /// Which stream.
    pub stream: StreamId,
    /// Generation of the positions it holds, if it holds any.
    pub generation: Option<Generation>,
    /// The machine.
    pub machine: Name,
    /// Its disks; the order gives the slots.
    pub disks: Vec<DiskEntry>,
}

/// A disk as it stands at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamDisk {
    /// Size in bytes, the one announced.
    pub size_bytes: u64,
    /// What is there.
    pub state: DiskState,
    /// What the source called the content at its last mark, if the disk still holds just that.
    pub content: Option<ContentId>,
}

/// A stream that may go on.
pub struct OpenedStream {
    /// Generation of its positions.
    pub generation: Generation,
    /// Highest position of this stream in this generation that is durable; zero for a new stream.
    pub position: Position,
    /// The last mark of this stream and generation that became a point.
    pub last_mark: Option<Marked>,
    /// The disks, in the order of the hello.
    pub disks: Vec<StreamDisk>,
    /// Takes what the stream brings.
    pub sink: Box<dyn ReplicaSink>,
}

impl fmt::Debug for OpenedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedStream")
            .field("generation", &self.generation)
            .field("position", &self.position)
            .field("disks", &self.disks)
            .finish_non_exhaustive()
    }
}

/// The machines that can be replicated to.
pub trait Replicas: Send + Sync + 'static {
    /// Admits a stream, or says why not.
    ///
    /// When it is called no other connection feeds the machine: a connection of the same stream that was still open
    /// has ended and its last `apply` has returned. So the position it answers is settled.
    ///
    /// A hello with a generation that is not current is refused with [`Refusal::OldGeneration`]; one without may be
    /// given a new generation or the current one, as the target can vouch for it.
    fn open<'a>(
        &'a self,
        hello: StreamHello,
        peer: PeerIdentity,
    ) -> LocalBoxFuture<'a, Result<OpenedStream, Refusal>>;
}

/// Content of an extent, checked and decompressed.
#[derive(Debug)]
pub enum ExtentContent {
    /// As many bytes as the extent is long, aligned to 4 KiB in memory, with the BLAKE3 that was checked.
    Data {
        /// The bytes.
        bytes: Buffer,
        /// Their hash.
        hash: [u8; 32],
    },
    /// Zeroes.
    Zero,
}

/// One changed stretch of a disk: whole 4 KiB blocks, but for a last one that ends with the disk.
#[derive(Debug)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// What.
    pub content: ExtentContent,
}

/// Changed blocks of one disk.
#[derive(Debug)]
pub struct Batch {
    /// The disk.
    pub disk: DiskSlot,
    /// When the source read them, by its clock.
    pub source_time: Timestamp,
    /// The extents: ascending, apart from each other, within the disk.
    pub extents: Vec<Extent>,
}

/// How an [`ReplicaSink::apply`] ended.
pub type Applied = Result<(), Refusal>;

/// Takes what one connection brings. Calls come on one I/O core, in order of position, none twice.
///
/// Several `apply` futures are alive at once. Each is polled once before the next call is made, so an implementation
/// that takes its place in line before it first waits sees the order by itself. After one has failed every other one of
/// the same sink has to fail too, those called before the failure was noticed included: a position must never be
/// applied when an earlier one was not.
pub trait ReplicaSink {
    /// Accepts a batch; durable when it returns. In a failed one nothing, or all, may have become durable.
    fn apply(&self, position: Position, batch: Batch) -> LocalBoxFuture<'_, Applied>;

    /// Makes a point of everything up to here; durable when it returns. Called when every earlier `apply` has returned;
    /// no `apply`, `mark` or `pass_begin` is called before it returns.
    fn mark(&self, mark: Mark) -> LocalBoxFuture<'_, Result<Marked, Refusal>>;

    /// What the target holds of `request.count` blocks. Reflects at least every batch that was acknowledged when the
    /// request came, and nothing that a crash could take back but unacknowledged batches of this very stream: the
    /// source does not send what is there already.
    fn hashes(&self, request: HashRequest) -> LocalBoxFuture<'_, Result<Vec<BlockHash>, Refusal>>;

    /// A pass begins: order, if a mark began it, has ended. May be told twice. Called alone, like [`ReplicaSink::mark`].
    fn pass_begin(&self, pass: PassBegin) -> LocalBoxFuture<'_, Applied>;

    /// The connection is over; every future has ended. The last call.
    fn closed(&self, why: Closed) -> LocalBoxFuture<'_, ()>;
}

/// How a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The source left in good order.
    Finished,
    /// The connection broke.
    Lost(String),
    /// The same stream came again on another connection.
    TakenOver,
    /// The stream was refused.
    Refused(Refusal),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Lost(why) => write!(f, "lost: {why}"),
            Self::TakenOver => f.write_str("taken over by a newer connection"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
        }
    }
}
