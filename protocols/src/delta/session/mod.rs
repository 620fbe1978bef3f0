//! The two ends of a stream as state machines without I/O.
//!
//! ```text
//!   source                                        target
//!   Apart ──connected──▶ Greeting ───Hello───▶ Greeting
//!     ▲                      │                    │ request: Open
//!     │                      │ ◀────Welcome─── Opening
//!     │disconnected          ▼                    ▼
//!     ├────────────────── Streaming ◀─────────▶ Streaming     PassBegin Batch Mark HashRequest ▶
//!     │                      │ leave              │           ◀ Ack Marked Hashes
//!     │                      ▼                    ▼ Bye
//!     └────────────────── Leaving ◀────Bye───── Leaving       when everything under way is durable
//! ```
//!
//! `handle_*` takes what happened, `poll_*` gives what is to be done, `now` is an argument. The drivers are `serve` and
//! `client`; the tests here join both ends in memory and break the connection at any byte.

mod client;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientSession, Profile, SessionError, SessionEvent};
pub use server::{Request, ServerSession, SessionLimits};

/// Most hash requests of a stream that may be unanswered at once.
pub const MAX_HASH_REQUESTS: usize = 8;

/// Least credit a target gives: two batches of the largest size, so that one can be under way while one is written.
pub const MIN_CREDIT_BYTES: u64 =
    2 * (super::wire::MAX_BATCH_BODY as u64 + super::wire::HEADER_BYTES as u64);

/// Least size of batches a target may ask for, in bytes of content.
pub const MIN_BATCH_BYTES: u32 = 64 * 1024;
