//! What was negotiated, and in which words the rest of the session speaks of it.

use crate::nbd::wire::MAX_SELECTED;
use crate::nbd::wire::extended::EXTENDED_REQUEST_HEADER;
use crate::nbd::wire::transmission::{BadRequestMagic, REQUEST_HEADER, Request};

/// Whether an export can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Writes are refused.
    ReadOnly,
    /// Writes are accepted.
    Writable,
}

/// How requests and replies look, as it was negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replies {
    /// Compact requests, simple replies only.
    Simple,
    /// Compact requests, structured replies to reads, block status and errors.
    Structured,
    /// Extended requests, extended replies to everything.
    Extended,
}

impl Replies {
    /// Length of a request without its payload, in bytes.
    pub const fn request_header(self) -> usize {
        match self {
            Self::Simple | Self::Structured => REQUEST_HEADER,
            Self::Extended => EXTENDED_REQUEST_HEADER,
        }
    }

    /// Parses a request. Panics unless `bytes` are [`Replies::request_header`] many.
    pub fn parse_request(self, bytes: &[u8]) -> Result<Request, BadRequestMagic> {
        const WHOLE: &str = "exactly a header";
        match self {
            Self::Simple | Self::Structured => Request::parse(bytes.try_into().expect(WHOLE)),
            Self::Extended => Request::parse_extended(bytes.try_into().expect(WHOLE)),
        }
    }
}

/// A metadata context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Context {
    /// `base:allocation`, which every export has.
    BaseAllocation,
    /// One that the export has, by its name.
    OfExport(String),
}

impl Context {
    /// Name of the one that every export has.
    pub const BASE_ALLOCATION: &str = "base:allocation";

    /// As negotiated.
    pub fn name(&self) -> &str {
        match self {
            Self::BaseAllocation => Self::BASE_ALLOCATION,
            Self::OfExport(name) => name,
        }
    }
}

/// Whether a query belongs to the namespace of the specification, which is the server's own.
pub(super) fn is_base(query: &str) -> bool {
    query.starts_with("base:")
}

/// Whether `query` of `NBD_OPT_LIST_META_CONTEXT` asks for the context `name`: by name, or by the start of it up to a colon.
pub fn lists(query: &str, name: &str) -> bool {
    query == name || (query.ends_with(':') && name.starts_with(query))
}

/// Number of a selected context in block status replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextId(u32);

impl ContextId {
    /// The context number `number`.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// As on the wire.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Some of the selected contexts, by their place in [`Transmission::contexts`](super::Transmission::contexts).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextSet(u32);

// Each context of a selection has a bit.
const _: () = assert!(MAX_SELECTED <= u32::BITS as usize);

impl ContextSet {
    /// Every one of them.
    pub const ALL: Self = Self(u32::MAX);
    /// None.
    pub const NONE: Self = Self(0);

    /// These and the one at `place`; `None` if it is among them already.
    pub fn and(self, place: usize) -> Option<Self> {
        (!self.has(place)).then(|| Self(self.0 | 1 << place))
    }

    /// Whether the one at `place` is among them.
    pub fn has(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_list_their_namespace_only() {
        let name = "qemu:dirty-bitmap:seq:7";
        for query in ["qemu:", "qemu:dirty-bitmap:", "qemu:dirty-bitmap:seq:", name] {
            assert!(lists(query, name), "{query}");
        }
        for query in ["qemu:dirty", "base:", "qemu:dirty-bitmap:seq:7:", "q:", "qemu:dirty-bitmap"]
        {
            assert!(!lists(query, name), "{query}");
        }
    }

    #[test]
    fn a_context_is_in_a_set_once() {
        let last = MAX_SELECTED - 1;
        let set = ContextSet::NONE.and(0).and_then(|set| set.and(last)).expect("two of them");
        assert!(set.has(0) && set.has(last) && !set.has(1));
        assert_eq!(set.and(last), None);
        assert!(ContextSet::ALL.has(last));
    }
}
