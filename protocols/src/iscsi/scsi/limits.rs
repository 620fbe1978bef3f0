//! What a command may ask for at most: told in VPD page B0h, and kept to here and nowhere else.

/// Most bytes that one command moves, or compares. `iscsi-test-cu` moves 65536 blocks at once where
/// that may be unmapped at once.
pub(super) const MAX_TRANSFER_BYTES: u64 = 32 << 20;

/// Bytes that are moved best.
pub(super) const OPTIMAL_TRANSFER_BYTES: u64 = 1 << 20;

/// Most blocks of COMPARE AND WRITE: all that its field can say.
pub(super) const MAX_COMPARE_BLOCKS: u8 = 255;

/// Most bytes that WRITE SAME writes, or zeroes: a single block of data-out becomes as many as
/// that. `iscsi-test-cu` unmaps 65536 blocks at once, which may have 4096 bytes.
pub(super) const MAX_WRITE_SAME_BYTES: u64 = 256 << 20;

/// Most descriptors of UNMAP.
pub(super) const MAX_UNMAP_DESCRIPTORS: u16 = 256;

/// Most bytes that are zeroed by one operation of the disk.
pub(super) const ZERO_STRIDE: u64 = 1 << 30;

/// Bytes that are written, or looked at, by one operation of the disk where nothing else cuts them.
pub(super) const STRIDE: u64 = 1 << 20;
