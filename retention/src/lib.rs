//! Retention: every accepted change in a journal, an index of where each version of each block lies, the points that
//! can be returned to, and disks that read as they were at any of them.
//!
//! ```text
//!   stream ─▶ batches ─▶ lane ─▶ journal ─▶ index ─▶ points          seed ─▶ image
//!                                                     │
//!   view  ◀── leaf: block ─▶ journal │ zero │ image ◀─┘               branch = line with an origin; writes go to its lane
//! ```
//!
//! Nothing here opens a socket or reads a clock: files, index store, clock and random numbers are passed in
//! ([`Surroundings`]), so the simulation runs this very code with faults.

mod ancestry;
mod boundaries;
mod branch;
mod change;
mod changes;
mod compact;
mod disks;
mod doubts;
mod fold;
mod forget;
pub mod groups;
mod growth;
pub mod ids;
pub mod image_hashes;
pub mod index;
mod ingest;
pub mod journal;
mod keeping;
mod keys;
mod leaf;
mod lease;
pub mod line;
pub mod manifest;
mod moment;
pub mod moments;
pub mod name;
mod opening;
pub mod ordered;
pub mod point;
pub mod policy;
mod promote;
mod provenance;
mod read_cache;
mod reading;
mod rebuild;
mod replica;
mod retention;
mod runs;
mod scrub;
pub mod sealing;
mod seen;
mod simulate;
mod space;
pub mod standby;
mod status;
mod stream;
mod thinning;
pub mod time;
mod turn;
mod view;

pub use change::{ChangeError, MAX_DISKS, NewDisk, NewExport, NewMachine};
pub use changes::{Change, ChangedRange, Changes, ChangesError, ChangesPage, ChangesSince};
pub use compact::{CompactError, Compacted};
pub use fold::{
    FoldError, FoldPace, FoldProgress, FoldReport, HistoryStatus, HistoryWanted, Pace, StartMoment,
    WantedStart,
};
pub use forget::{ForgetError, ForgetReport};
pub use growth::GrownDisk;
pub use ingest::{
    FedDisk, FedDiskStatus, FeedStatus, IngestError, IngestMode, Writer as FeedWriter,
};
pub use journal::draft::AppendError;
pub use journal::lane::{JournalSettings, LaneTask};
pub use keeping::PolicyStatus;
pub use keys::{KeyError, KeyState, KeyStatus};
pub use lease::Holder;
pub use moment::{Moment, ResolveError, existing};
pub use promote::Promoted;
pub use provenance::{Provenance, Shown};
pub use read_cache::ReadCacheStatus;
pub use rebuild::{IndexMoreError, IndexStatus, NotIndexed};
pub use replica::span::{BranchSpan, DiskSpan, Place};
pub use replica::{DiskState, ImageSpec, ImageStore};
pub use retention::{OpenError, OpenReport, Opened, Random, Retention, Settings, Surroundings};
pub use scrub::{
    ChainBreak, ChainReport, HeadVerdict, Healed, HealedFrom, LineHead, ScrubError, ScrubOrder,
    ScrubParts, ScrubProgress, ScrubReport, Touched,
};
pub use simulate::{Simulation, SpaceEstimate};
pub use space::GroupSpace;
pub use status::{
    BranchStatus, DiskStatus, ExportStatus, JournalStatus, LaneLoad, LaneStatus, MachineStatus,
    MachineWaits, PointStatus, StreamStatus,
};
pub use stream::{
    BlockHash, HASH_BLOCK_BYTES, Instants, Stream, StreamContent, StreamDisk, StreamError,
    StreamExtent, StreamReport, StreamRequest, StreamState, WriteOrder,
};
pub use thinning::{ThinError, ThinReport, ThinnedLine};
