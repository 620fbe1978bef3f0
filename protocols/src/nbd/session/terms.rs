//! What was negotiated, and in which words the rest of the session speaks of it.

use crate::nbd::wire::MAX_QUERIES;
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

/// A metadata context this server has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// `base:allocation`
    BaseAllocation,
}

impl Context {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::BaseAllocation];

    /// As negotiated.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseAllocation => "base:allocation",
        }
    }

    /// Whether `query` of `NBD_OPT_LIST_META_CONTEXT` asks for it: by name, or by its namespace alone.
    pub fn is_listed_by(self, query: &str) -> bool {
        let name = self.name();
        query == name || (query.ends_with(':') && name.starts_with(query))
    }
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
pub struct ContextSet(u128);

// A selection has at most a context for every query, and each has a bit.
const _: () = assert!(MAX_QUERIES <= u128::BITS);

impl ContextSet {
    /// Every one of them.
    pub const ALL: Self = Self(u128::MAX);
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
        let context = Context::BaseAllocation;
        for query in ["base:", "base:allocation"] {
            assert!(context.is_listed_by(query), "{query}");
        }
        for query in ["base:alloc", "qemu:", "base:allocation:", "b:"] {
            assert!(!context.is_listed_by(query), "{query}");
        }
    }

    #[test]
    fn a_context_is_in_a_set_once() {
        let last = usize::try_from(MAX_QUERIES).expect("small") - 1;
        let set = ContextSet::NONE.and(0).and_then(|set| set.and(last)).expect("two of them");
        assert!(set.has(0) && set.has(last) && !set.has(1));
        assert_eq!(set.and(last), None);
        assert!(ContextSet::ALL.has(last));
    }
}
