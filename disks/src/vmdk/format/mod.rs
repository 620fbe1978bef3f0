//! The structures of VMDK, without I/O: bytes to meaning and back.
//!
//! ```text
//!   descriptor   text: identity, extents in order, disk database; a file of its own, or embedded in a sparse extent
//!   header       hosted sparse extent ("KDMV", versions 1 to 3), also the footer of a stream
//!   tables       grain directory and grain tables; where they lie in an extent that is made or grown
//!   stream       markers and packed grains of stream-optimised extents
//!   cowd         ESX sparse extent ("COWD"): deltas of older ESX
//!   sesparse     space-efficient sparse extent: deltas of newer ESX
//! ```
//!
//! Sources: VMware's "Virtual Disk Format 5.0" (and 1.1) for the descriptor, hosted and ESX sparse extents and streams. It does not
//! tell of space-efficient extents; what is known of them is what qemu's driver found, and is checked as strictly as there.
//!
//! **Invariants**
//! - Nothing here panics on bytes from outside, and nothing is allocated before its length was held against a limit named here.
//! - Everything is little-endian, and counted in sectors of 512 bytes unless a name says bytes.

pub mod cowd;
pub mod descriptor;
pub mod header;
pub mod sesparse;
pub mod stream;
pub mod tables;

use crate::image::Malformed;
use std::borrow::Cow;

/// Bytes of a sector, the unit of everything in a VMDK.
pub const SECTOR_BYTES: u64 = 512;

/// [`SECTOR_BYTES`] as a buffer length.
pub const SECTOR_LENGTH: usize = 512;

/// Most sectors a grain-table entry of 32 bits can tell apart: 2 TiB.
pub const MAX_SPARSE_SECTORS: u64 = 1 << 32;

/// A finding about `structure`, which starts `offset` bytes into its file.
pub(crate) fn malformed(
    structure: &'static str,
    offset: u64,
    field: &'static str,
    value: impl ToString,
    expected: impl Into<Cow<'static, str>>,
) -> Malformed {
    Malformed { structure, offset, field, value: value.to_string(), expected: expected.into() }
}

/// The 32-bit number at entry `index` of a table.
pub(crate) fn entry_u32(table: &[u8], index: usize) -> u32 {
    let at = index * 4;
    u32::from_le_bytes(table[at..at + 4].try_into().expect("four bytes"))
}

/// The 64-bit number at entry `index` of a table.
pub(crate) fn entry_u64(table: &[u8], index: usize) -> u64 {
    let at = index * 8;
    u64::from_le_bytes(table[at..at + 8].try_into().expect("eight bytes"))
}
