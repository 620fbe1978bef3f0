//! VHD: the disks of Virtual PC, Virtual Server and Hyper-V before VHDX; QEMU calls it `vpc`.
//!
//! ```text
//!   format/    the structures: bytes in, meaning out
//!   found      the footer that counts, whatever a crash left
//!   fixed      the disk whose bytes are in order
//!   sparse ─ table ─ resize      the disks of blocks, dynamic and differencing, over `mapped`
//!   open, create, check          the doors
//! ```
//!
//! Fixed and dynamic disks are made, read, written, grown and repaired; differencing ones are read, with all they stand on.
//! The largest has 2040 GiB.

pub mod format;

mod check;
mod create;
mod fixed;
mod found;
mod open;
mod resize;
mod sparse;
mod synthetic;
mod table;

pub use check::check;
pub use create::{NewKind, Recipe, create};
pub use open::open;
pub(crate) use synthetic::synthetic;

#[cfg(test)]
mod tests;
