//! Metadata contexts of exports beside `base:allocation`: what an export can tell of its blocks, block by block.
//!
//! ```text
//!   NBD_OPT_LIST_META_CONTEXT ─▶ Contexts::list ─▶ names
//!   NBD_OPT_SET_META_CONTEXT  ─▶ Contexts::open ─▶ BlockContext ──┐ kept as long as the connection
//!   NBD_CMD_BLOCK_STATUS      ─▶ BlockContext::describe ◀─────────┘
//! ```
//!
//! Nothing of points is known here: whoever implements [`Contexts`] says which names there are and what they mean.

use futures_util::future::LocalBoxFuture;
use landfall_disks::{ByteRange, IoFuture};
use std::sync::Arc;

/// The contexts of one export. Namespaces are its own; `base:` is the server's.
pub trait Contexts: Send + Sync + 'static {
    /// Names of contexts that open, as `NBD_OPT_LIST_META_CONTEXT` shows them: those that any of `queries` asks for by name
    /// or by a prefix that ends with a colon, or, if there are no queries, all. The list is capped by the implementation.
    fn list<'a>(&'a self, queries: &'a [String]) -> LocalBoxFuture<'a, Vec<String>>;

    /// Opens the context of exactly this name; `None` if there is none, or it cannot be had. What it means does not change
    /// as long as it is open, and what is held for it is released when its last clone goes.
    fn open<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Option<Arc<dyn BlockContext>>>;
}

/// A context that was opened.
pub trait BlockContext: Send + Sync + 'static {
    /// Describes a prefix of `range`, which is not empty and lies within the export. What one call costs is bounded by some
    /// hundredths of a second: where that is not enough for all of it the answer ends early, but it is never empty.
    fn describe(&self, range: ByteRange) -> IoFuture<'_, Vec<Described>>;
}

/// What a context says of some bytes. Answers are made of these, in order and without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    /// Which bytes; not empty.
    pub range: ByteRange,
    /// Meaning by context. A context that needed 64 bits for it would have to be withheld from clients with compact headers
    /// (`NBD_OPT_SET_META_CONTEXT`), so there are none.
    pub status: u32,
}

/// No contexts but `base:allocation`.
pub struct NoContexts;

impl Contexts for NoContexts {
    fn list<'a>(&'a self, _queries: &'a [String]) -> LocalBoxFuture<'a, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn open<'a>(&'a self, _name: &'a str) -> LocalBoxFuture<'a, Option<Arc<dyn BlockContext>>> {
        Box::pin(std::future::ready(None))
    }
}
