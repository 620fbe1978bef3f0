//! What a source asks for and sends, and why it is refused.

use crate::ids::{ContentId, DiskId, Generation, Position, StreamId};
use crate::journal::draft::AppendError;
use crate::manifest::ManifestError;
use crate::name::Name;
use crate::rebuild::NotIndexed;
use crate::replica::DiskState;
use crate::stream::state::IllegalTransition;
use landfall_disks::{Buffer, ByteRange, DiskError};

/// Who wants to stream what.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// The machine.
    pub machine: Name,
    /// The source's name for its stream.
    pub stream: StreamId,
    /// Generation the source holds positions of; zero if it holds none.
    pub generation: Generation,
    /// The disks and their sizes at the source.
    pub disks: Vec<(Name, u64)>,
    /// Who it is, for messages.
    pub peer: String,
}

/// A disk of an open stream.
#[derive(Clone, Debug)]
pub struct StreamDisk {
    /// Its id.
    pub id: DiskId,
    /// Its name.
    pub name: Name,
    /// Its size.
    pub size_bytes: u64,
    /// What is there of it.
    pub state: DiskState,
    /// What a source called the content at the last point, if the disk still holds just that.
    pub content: Option<ContentId>,
}

/// One change of a batch.
#[derive(Debug)]
pub struct StreamExtent {
    /// Whole blocks; the last one may end with the disk.
    pub range: ByteRange,
    /// What they become.
    pub content: StreamContent,
}

/// Content of an extent, whose hash was checked.
#[derive(Debug)]
pub enum StreamContent {
    /// Bytes with their BLAKE3.
    Data {
        /// As many as the range has.
        bytes: Buffer,
        /// Their hash.
        hash: [u8; 32],
    },
    /// Zeroes.
    Zero,
}

/// Why a stream is refused or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// No such machine.
    #[error("no machine {machine}")]
    UnknownMachine {
        /// What was asked for.
        machine: Name,
        /// What exists.
        known: Vec<Name>,
    },
    /// No such disk.
    #[error("machine {machine} has no disk {disk}")]
    UnknownDisk {
        /// The machine.
        machine: Name,
        /// What was asked for.
        disk: Name,
        /// What exists.
        known: Vec<Name>,
    },
    /// Sizes differ.
    #[error("disk {disk} has {ours} bytes here and {theirs} at the source")]
    SizeMismatch {
        /// The disk.
        disk: Name,
        /// Size here.
        ours: u64,
        /// Size at the source.
        theirs: u64,
    },
    /// The generation is over.
    #[error("{sent} is over, the machine is at {current}")]
    OldGeneration {
        /// What the source holds.
        sent: Generation,
        /// What counts.
        current: Generation,
    },
    /// A branch of the machine was promoted since.
    #[error(
        "a branch of {machine} was promoted since {sent} began; \
         start the source anew if the machine is to become what it has"
    )]
    FailedOver {
        /// The machine.
        machine: Name,
        /// What the source holds.
        sent: Generation,
    },
    /// Another stream is open.
    #[error("machine {machine} is being replicated by {peer}")]
    Busy {
        /// The machine.
        machine: Name,
        /// Who has it.
        peer: String,
    },
    /// The machine is fed through writable disks.
    #[error(
        "machine {machine} is fed over NBD; a stream is let in after: landfall ingest set {machine} off"
    )]
    FedByWrites {
        /// The machine.
        machine: Name,
    },
    /// The machine is not fed through writable disks, or no longer.
    #[error("machine {machine} is not fed over NBD")]
    NotFedByWrites {
        /// The machine.
        machine: Name,
    },
    /// A newer connection has the stream.
    #[error("the stream was taken over by a newer connection")]
    TakenOver,
    /// A position is not the next one.
    #[error("{sent} came where {expected} was due")]
    SkippedPosition {
        /// What was due.
        expected: Position,
        /// What came.
        sent: Position,
    },
    /// A range does not lie on the disk, or is not whole blocks.
    #[error("range {range} does not lie in whole blocks on disk {disk} of {size_bytes} bytes")]
    BadRange {
        /// The disk.
        disk: Name,
        /// The range.
        range: ByteRange,
        /// Where the disk ends.
        size_bytes: u64,
    },
    /// Order begins where the disks are consistent.
    #[error("a fuzzy point cannot begin order: the source was changing while it was read")]
    OrderAtFuzzy,
    /// A disk of the machine does not come with the stream: nobody knows what it held at an instant.
    #[error(
        "order needs every disk of the machine in one stream, and disk {disk} is not part of it"
    )]
    OrderWithout {
        /// Which disk.
        disk: Name,
    },
    /// The index lacks what is needed to go on, or to say what the target holds.
    #[error("machine {machine}: {source}")]
    NotIndexed {
        /// The machine.
        machine: Name,
        /// How much it lacks.
        source: NotIndexed,
    },
    /// The stream cannot be at that now.
    #[error(transparent)]
    State(#[from] IllegalTransition),
    /// An earlier call failed.
    #[error("the stream failed before: {0}")]
    Failed(String),
    /// The journal refused.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// An image failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}
