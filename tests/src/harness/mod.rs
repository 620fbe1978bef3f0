//! Runs the real binary: a target in a folder of its own, sources, and independent peers.
//!
//! ```text
//!   Target    `landfall serve` as a process: started, killed, restarted; its log is watched
//!   Log       what it says; a warning or an error that nobody expected fails the test
//!   Said      how a command ended and what it printed
//!   Mount     a file system of a test's own
//!   Mounted   `landfall mount` as a process
//!   Initiator an initiator of iSCSI that aborts when it is told to
//!   Qmp       QEMU's block layer, by its monitor
//!   Stretches how a file lies in its file system
//!   Source    an image file that changes, with independent copies of how it was
//!   legacy    an NBD client that is not ours
//! ```
//!
//! It knows the binary from outside only: command line, `--json`, metrics, sockets, files.
//!
//! **Invariants:** processes are ended by their own id; a target that ends by itself fails the test.

mod command;
mod initiator;
pub mod legacy;
mod log;
mod metrics;
mod mount;
mod mounted;
mod qmp;
mod source;
mod stretches;
mod target;

pub use command::{Said, attempt, newer, run};
pub use initiator::{Initiator, Sent};
pub use log::Log;
pub use metrics::Metrics;
pub use mount::{Frozen, Mount};
pub use mounted::{Farewell, Mounted, Unmounter, is_mounted};
pub use qmp::{Qmp, nbd_node};
pub use source::Source;
pub use stretches::Stretches;
pub use target::{Settings, Target, binary};

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;

/// A number of bytes as a length in memory.
pub fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what a test holds fits in memory")
}
