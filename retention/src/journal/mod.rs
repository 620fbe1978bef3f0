//! The journal: every accepted change, in the order it was accepted, append-only.
//!
//! ```text
//!   drafts ──▶ plan (pure: sequences, records) ──▶ lane (write, flush) ──▶ indexing ──▶ acknowledge
//!   start:  segment bytes ──▶ recovery (pure: where does the truth end) ──▶ replay ──▶ index
//!           more than a few of them ──▶ the newest ──▶ the lane goes on ──▶ rebuild: the others, the newest first
//! ```
//!
//! A lane is one append-only history on one I/O core; a group is bound to a lane. **Invariants:** a record is indexed
//! and acknowledged only when it and every earlier record of its lane are durable; bytes at or beyond a logged end of
//! a segment are never parsed again; a record that a later one vouches for is never cut off as a torn tail.

pub(crate) mod aborts;
pub mod compacted;
mod deciding;
pub(crate) mod draft;
pub mod format;
pub(crate) mod indexing;
pub mod lane;
mod plan;
pub(crate) mod rebuild;
pub mod recovery;
pub(crate) mod replay;
mod sealed;
pub mod segment;
