//! Long blocks of memory, cut from one mapping per length that stays for good.
//!
//! ```text
//!   mapping   [ block ][ block ] … [ block ]│ never used yet        huge pages of 2 MiB, where the kernel has them
//!   unused    blocks that were given back, the last one first
//! ```
//!
//! In ordinary pages, a mebibyte lies in 256 places: that many to pin and to list for the device, which may take fewer at a
//! time. In a huge page it lies in one.
//!
//! **Invariant:** a block is unused, or has one owner, or was never cut. Cut blocks are initialised.

use std::ptr::NonNull;

/// Size of a region: memory that is kept of one length. What is in use beyond that comes from the allocator.
pub(super) const REGION_BYTES: usize = 16 << 20;
/// What huge pages are aligned to, on all machines that run this.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The blocks of one length.
pub(super) struct Region {
    unused: Vec<Block>,
    start: Option<Block>,
    /// Bytes that blocks were cut from.
    cut: usize,
}

/// Start of memory of the region.
#[derive(Clone, Copy)]
struct Block(NonNull<u8>);

// SAFETY: plain memory; whoever takes a block is its only owner.
unsafe impl Send for Block {}

impl Region {
    pub(super) const EMPTY: Self = Self { unused: Vec::new(), start: None, cut: 0 };

    /// A block of `size` bytes, the same in every call, and whether somebody has used it before; fresh ones are zero. None if all
    /// are in use.
    pub(super) fn take(&mut self, size: usize) -> Option<(NonNull<u8>, bool)> {
        if let Some(block) = self.unused.pop() {
            return Some((block.0, true));
        }
        if self.cut + size > REGION_BYTES {
            return None;
        }
        let start = match self.start {
            Some(start) => start,
            None => *self.start.insert(Block(map()?)),
        };
        // SAFETY: the mapping has REGION_BYTES bytes from `start`, of which `cut + size` are not more.
        let block = unsafe { start.0.add(self.cut) };
        self.cut += size;
        Some((block, false))
    }

    /// Takes back a block that [`Region::take`] gave.
    pub(super) fn give_back(&mut self, block: NonNull<u8>) {
        self.unused.push(Block(block));
    }
}

/// Maps a region of zeroes that starts where a huge page may.
fn map() -> Option<NonNull<u8>> {
    // SAFETY: a new private mapping, which touches nothing that is there.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            REGION_BYTES + HUGE_PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    let start = mapped.cast::<u8>();
    // SAFETY: less than a huge page further, and the mapping is longer than the region by one.
    let start = unsafe { start.add(start.align_offset(HUGE_PAGE_BYTES)) };
    // A kernel without huge pages refuses; ordinary ones do, more slowly.
    // SAFETY: advice on memory that was just mapped and that nobody else knows.
    let _ = unsafe { libc::madvise(start.cast(), REGION_BYTES, libc::MADV_HUGEPAGE) };
    NonNull::new(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_once_given_out_again_and_come_to_an_end() {
        let size = 1 << 20;
        let mut region = Region::EMPTY;
        let mut taken = Vec::new();
        while let Some((block, used)) = region.take(size) {
            assert!(!used && block.addr().get().is_multiple_of(size));
            // SAFETY: the block is as long and nobody else has it.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), size) };
            assert!(bytes.iter().all(|byte| *byte == 0), "it is fresh and overlaps none before");
            bytes.fill(0xFF);
            taken.push(block);
        }
        assert_eq!(taken.len(), REGION_BYTES / size);
        for block in [taken[3], taken[7]] {
            region.give_back(block);
        }
        assert_eq!(region.take(size), Some((taken[7], true)));
        assert_eq!(region.take(size), Some((taken[3], true)));
        assert_eq!(region.take(size), None);
    }
}
