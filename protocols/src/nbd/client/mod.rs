//! An NBD client: reads, writes and describes an export of any server.
//!
//! ```text
//!   Negotiation    greeting, structured replies, base:allocation, GO            no I/O
//!   Transactions   requests in flight, replies put together                     no I/O
//!   Connection     both over one tokio stream; runs beside the callers
//!   Client         a handle; clones share the connection, every call is a request in flight
//! ```
//!
//! Not here: connecting, reconnecting, TLS. The stream is handed in, so it may be a Unix socket, TCP, or memory.

mod connection;
mod negotiation;
#[cfg(test)]
mod tests;
mod transactions;

pub use connection::{Client, Connection, negotiate};
pub use negotiation::{ClientStep, Negotiation, RemoteExport};
pub use transactions::{Finished, Outcome, Query, Transactions};

use super::wire::option::OptionError;
use super::wire::reply::Refusal;
use super::wire::transmission::ErrorCode;
use landfall_disks::ByteRange;
use std::io;

/// Why the client cannot go on, or a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other side is no NBD server of the newstyle kind.
    #[error("not a newstyle NBD server: it starts with {magic:#018x} {option_magic:#018x}")]
    NotNbd {
        /// First eight bytes.
        magic: u64,
        /// Next eight bytes.
        option_magic: u64,
    },
    /// The server knows nothing of options beyond the export's name.
    #[error("the server does not speak fixed newstyle")]
    NotFixed,
    /// The server refused an option it could not refuse if all were well.
    #[error("the server refuses the export: {message} ({refusal:?})")]
    Refused {
        /// For programs.
        refusal: Refusal,
        /// In the server's words.
        message: String,
    },
    /// An option reply that cannot be parsed.
    #[error("malformed option reply: {0}")]
    Reply(#[from] OptionError),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Breach(Breach),
    /// The request failed; the connection goes on.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The connection ended before the request was answered.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// The server does not offer `base:allocation`.
    #[error("the server does not tell which blocks are allocated")]
    NoBlockStatus,
    /// A request that the server is not asked.
    #[error("{length} bytes at once; the server takes {maximum}")]
    TooLong {
        /// Asked for.
        length: u64,
        /// What the server announced.
        maximum: u64,
    },
}

/// What a server must not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Breach {
    /// A reply that answers another option.
    #[error("a reply to option {0} that was not asked")]
    Option(u32),
    /// A reply out of place.
    #[error("an option reply out of place")]
    OptionReply,
    /// Success without telling what was asked for.
    #[error("the export was accepted without its size")]
    NoExport,
    /// A reply with another magic number than any there is.
    #[error("a reply that starts with {0:#x}")]
    Magic(u64),
    /// A reply longer than is looked at.
    #[error("a reply of {0} bytes")]
    Length(u32),
    /// A cookie that names no request in flight.
    #[error("a reply to request {0}, which is not in flight")]
    Cookie(u64),
    /// A chunk that does not belong to this kind of request, or of a kind that is not known.
    #[error("a chunk of type {0} out of place")]
    Chunk(u16),
    /// Content outside the request, or twice.
    #[error("content outside of what was asked for or twice, at {0}")]
    Content(ByteRange),
    /// A reply that ended too early.
    #[error("a reply ended without all that was asked for")]
    Incomplete,
}

/// The server's answer to a request that failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message} ({code:?}{})", at.map(|at| format!(" at {at}")).unwrap_or_default())]
pub struct ServerError {
    /// For programs.
    pub code: ErrorCode,
    /// In the server's words; empty if it said nothing.
    pub message: String,
    /// First byte concerned, if the server said so.
    pub at: Option<u64>,
}
