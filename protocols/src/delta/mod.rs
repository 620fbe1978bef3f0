//! The delta stream: how a source sends the changed blocks of a machine's disks to the target.
//!
//! ```text
//!   wire      frames: bytes to meaning and back; checked against limits before anything is allocated
//!   pack      extents of a batch: hash and compress on one side, check and decompress on the other
//!   session   two state machines without I/O: who may say what when, credits, positions, exact resume
//!   tls       TLS 1.3 with certificates on both sides
//!   serve     the target's end: the server session on the I/O cores, over whatever implements `Replicas`
//!   client    the source's end: the client session on tokio, reconnecting by itself
//! ```
//!
//! The bytes and rules are described in `docs/formats/delta-stream.md`, well enough to write a client from it.
//!
//! **Invariants**
//! - *Acknowledged means durable*: a position is acknowledged only after everything up to it is on stable storage.
//! - Positions of a generation grow by one. A skipped one is refused, one seen before is acknowledged again and not
//!   applied again.
//! - Nothing is allocated for a peer before its length has been checked against a limit of [`wire`].

mod client;
mod counters;
mod identity;
pub mod pack;
mod refusal;
mod replicas;
mod serve;
pub mod session;
pub mod tls;
pub mod wire;

pub use client::{Client, ClientError, ClientEvent, ClientSettings, Observer, Pass};
pub use counters::{CounterValues, Counters};
pub use identity::{
    ContentId, DiskSlot, Generation, Name, NameError, Position, StreamId, Timestamp,
};
pub use refusal::{Refusal, RefusalCode, Retry};
pub use replicas::{
    Applied, Batch, Closed, Extent, ExtentContent, OpenedStream, PeerIdentity, ReplicaSink,
    Replicas, StreamDisk, StreamHello,
};
pub use serve::{Server, ServerSettings};

/// Bytes covered by one hash of the hash exchange. The last block of a disk may be shorter.
pub const HASH_BLOCK_SIZE: u64 = 64 * 1024;

/// Port the target listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 9443;
