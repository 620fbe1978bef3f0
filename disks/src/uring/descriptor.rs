//! An open file or socket, shared by its handle and by every operation in flight on it.
//!
//! The kernel resolves a descriptor number when it takes a submission, which may be later than the drop of the handle
//! that queued it. Each operation therefore holds the descriptor open until it completes.

use io_uring::types;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A shared, owned descriptor. Closed when the handle and the last operation on it are gone.
#[derive(Clone, Debug)]
pub(super) struct Descriptor(Arc<OwnedFd>);

impl Descriptor {
    pub(super) fn new(owned: OwnedFd) -> Self {
        Self(Arc::new(owned))
    }

    /// The number, in the form submissions take.
    pub(super) fn for_ring(&self) -> types::Fd {
        types::Fd(self.0.as_raw_fd())
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
