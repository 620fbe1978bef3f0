//! Disks whose blocks lie anywhere in a file: the part that sparse VMDK, VHDX and VHD have in common.
//!
//! ```text
//!   disk     │ block 0 │ block 1 │ block 2 │ block 3 │        a format's table says where each block is: a Place
//!                 │         │    (absent)       │
//!   file     [metadata] [block 1] [block 0] [block 3] ...
//!
//!   read     resolve (table in memory) ─▶ file, parent, zeroes         no lock, no copy where all is aligned
//!   write    find a home for each block (in memory) ─▶ file
//!   flush    data flushed ─▶ Table::commit(changed pages) ─▶ freed space may be used again
//! ```
//!
//! What is written lands in the file at once; where it is, only with the next flush. Until then a crash leaves the blocks as
//! they were at the last flush, which is all that [`Disk`](crate::Disk) promises. So allocation costs no I/O: space past the end of the file
//! reads as zeroes, and so does the block it is for.
//!
//! **Invariants**
//! - An entry that is committed points at space whose content was durable before: data first, table after.
//! - Space that was given up is used for something else only after the table without it is durable, and every request begun
//!   before that has ended (`generations.rs`).
//! - Space that may hold old bytes is zeroed, or wholly overwritten, before an entry points at it.
//! - A block gets its home by one compare-and-swap of its entry, under an exclusive lock on the block, which is held from
//!   before its content is merged with a parent's, if it has to be. Blocks that have their homes are written without it.
//! - While the disk grows, reads and writes go on: no place changes, and requests end at the old size until the new one is durable.
//!   Only what may give up the last block waits, as that block grows, too.
//! - One page of the table is in memory at most once, and stays while anybody holds it or it is not committed.

mod commit;
mod disk;
mod generations;
mod home;
mod layers;
mod resident;
mod resolve;
mod scan;
mod space;
mod table;
mod write;
mod zero;

#[cfg(test)]
mod tests;

pub use disk::{MappedDisk, Setup};
pub use layers::{Layer, OwnRange};
pub use scan::{Conflict, Usage, scan};
pub use space::{Extent, Space};
pub use table::{Changes, PageChange, Place, PresenceChange, Shape, Table};
