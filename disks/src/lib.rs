//! Disks: the block vocabulary, the [`Disk`] trait every image and view implements, and the io_uring engine that moves
//! their bytes.
//!
//! ```text
//!   Disk        what consumers read and write: raw images here, views and branches in `landfall-retention`
//!    │
//!   FileIo      one file, by offset: `uring::File` in production, `faults::FaultFile` in crash tests
//!    │
//!   uring       one ring and one executor per I/O core; files *and* sockets; the only `unsafe` code of the project
//! ```
//!
//! Futures of this crate belong to the I/O core they were created on and are not `Send`; handles (`File`, `Arc<dyn Disk>`)
//! may be used from any core.

pub mod block;
mod disk;
pub mod file;
pub mod image;
mod locked;
pub mod mapped;
pub mod partitions;
pub mod range_locks;
pub mod raw;
pub mod read_ahead;
pub mod synthetic;
pub mod throttle;
mod ticket;
pub mod uring;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod window;

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod faults;

pub use block::{
    BLOCK_BYTES, BLOCK_SIZE, Block, ByteOffset, ByteRange, Geometry, MAX_DISK_SIZE, is_zero,
};
pub use disk::{Content, Disk, DiskError, Durability, IoFuture, MappedRange, ZeroMode};
pub use locked::Locked;
pub use range_locks::{RangeGuard, RangeLocks};
pub use ticket::{Change, Ticket};
pub use uring::buffer::Buffer;
pub use window::Window;
