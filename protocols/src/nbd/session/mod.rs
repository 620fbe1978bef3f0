//! The server's decisions, without I/O: what to answer during negotiation, what a request means, how its reply looks.
//!
//! ```text
//!   bytes ─▶ Handshake ─▶ Step (receive, TLS, list, open, contexts, end)   negotiation, one option at a time
//!   bytes ─▶ Request ─▶ Transmission::decide ─▶ Action | refusal    one error per rule, in order
//!   Answer ─▶ Batch ─▶ buffers to send                              many replies in one go, data not copied
//! ```
//!
//! **Invariants**
//! - Whatever the bytes are, no function panics or allocates more than its input and the limits of [`wire`](super::wire).
//! - A connection ends only where the specification allows a server to end it; everything else is answered.

mod action;
mod handshake;
mod plan;
mod reply;
mod terms;
#[cfg(test)]
mod tests;

pub use action::{Action, Extents, Fragments, RequestError, Transmission};
pub use handshake::{End, ExportFacts, Handshake, HandshakeError, Negotiated, Step, TlsMode};
pub use plan::{Chunk, Share, StatusExtent, StatusList, allocation, plan_read};
pub use reply::{Answer, Batch, Failure, Piece};
pub use terms::{Access, Context, ContextId, ContextSet, Replies, lists};
