//! Memory that I/O reads into and writes from: aligned, owned, and divisible without copying.
//!
//! ```text
//!   allocation  ├─────────────── aligned to 4 KiB ─────────────────┤      (to 64 bytes if shorter than that)
//!   one Buffer  ├──────────────────────────────────────────────────┤
//!   split_off   ├───────── Buffer ────────┤├──────── Buffer ───────┤   both alive, written at the same time
//!   narrow             ├──── window ────┤                              what `Deref` shows
//! ```
//!
//! The kernel writes into a buffer while the operation is in flight, so an operation owns its `Buffer` until it
//! completes. A `Buffer` may be divided into disjoint ones that share the allocation, filled by several operations at
//! once, and put together again.
//!
//! **Invariant:** the windows of all live `Buffer`s of one allocation are disjoint, except that bytes cut away by
//! [`Buffer::narrow`] belong to none. That alone makes the `unsafe` below sound.

use super::memory::{BLOCK_ALIGNMENT, Memory};
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// Alignment of an allocation of at least as many bytes; enough for `O_DIRECT` on any device.
pub const BUFFER_ALIGNMENT: usize = BLOCK_ALIGNMENT;

/// An owned window into aligned memory.
pub struct Buffer {
    allocation: Arc<Memory>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// `length` zero bytes, at an address aligned to [`BUFFER_ALIGNMENT`] if there are as many.
    pub fn zeroed(length: usize) -> Self {
        Self { allocation: Arc::new(Memory::zeroed(length)), start: 0, end: length }
    }

    /// `length` bytes to be overwritten, aligned as by [`Buffer::zeroed`]: zeroes, or what an earlier buffer of this process
    /// held.
    ///
    /// Only for a caller that overwrites every byte before anybody can see it, or drops the buffer; reading a file does, as
    /// [`FileIo::read_at`](crate::file::FileIo::read_at) fills a buffer or keeps it. Bytes of one tenant must never reach another.
    pub fn for_overwriting(length: usize) -> Self {
        Self { allocation: Arc::new(Memory::unspecified(length)), start: 0, end: length }
    }

    /// A copy of `bytes`, aligned as by [`Buffer::zeroed`].
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::for_overwriting(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Keeps only `window`, relative to the present one; the rest of the memory is out of reach from now on.
    pub fn narrow(&mut self, window: Range<usize>) {
        assert!(
            window.start <= window.end && window.end <= self.len(),
            "{window:?} outside a buffer of {}",
            self.len()
        );
        self.end = self.start + window.end;
        self.start += window.start;
    }

    /// Divides at `at`: this buffer keeps the bytes before it, the returned one has the rest.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len(), "cannot divide a buffer of {} at {at}", self.len());
        let middle = self.start + at;
        let tail = Self { allocation: Arc::clone(&self.allocation), start: middle, end: self.end };
        self.end = middle;
        tail
    }

    /// Puts back what [`Buffer::split_off`] divided: `tail` must follow directly in the same allocation.
    pub fn unsplit(&mut self, tail: Self) {
        assert!(
            Arc::ptr_eq(&self.allocation, &tail.allocation) && self.end == tail.start,
            "only the two halves of one division can be put together"
        );
        self.end = tail.end;
    }

    /// Whether the first byte lies at a multiple of `alignment` (a power of two).
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.as_ptr().addr() & (alignment - 1) == 0
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the window lies within the allocation, its bytes are initialised (`Memory` always is), and no other
        // buffer reaches them (invariant of the module), so nothing writes them while `self` is borrowed.
        unsafe {
            std::slice::from_raw_parts(
                self.allocation.start().as_ptr().add(self.start),
                self.end - self.start,
            )
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; `self` is borrowed mutably and the window is this buffer's alone.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.allocation.start().as_ptr().add(self.start),
                self.end - self.start,
            )
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_zeroed_and_aligned() {
        let buffer = Buffer::zeroed(5000);
        assert_eq!(buffer.len(), 5000);
        assert!(buffer.is_aligned(BUFFER_ALIGNMENT));
        assert!(buffer.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn halves_are_disjoint_and_come_together_again() {
        let mut head = Buffer::zeroed(8192);
        let mut tail = head.split_off(4096);
        head.fill(1);
        tail.fill(2);
        head.unsplit(tail);
        assert_eq!(head.len(), 8192);
        assert_eq!((head[4095], head[4096]), (1, 2));
    }

    #[test]
    fn memory_that_was_used_is_not_seen_again_through_a_zeroed_buffer() {
        for length in [4096, 65_536, 1 << 20] {
            Buffer::zeroed(length).fill(7);
            assert!(Buffer::zeroed(length - 1).iter().all(|byte| *byte == 0));
            assert_eq!(&*Buffer::copy_of(&vec![9; length]), &vec![9; length]);
        }
    }

    #[test]
    fn memory_is_not_used_again_while_a_part_of_it_is_alive() {
        let mut head = Buffer::zeroed(256 << 10);
        let mut tail = head.split_off(4096);
        tail.fill(3);
        drop(head);
        let mut other = Buffer::for_overwriting(256 << 10);
        other.fill(4);
        assert!(tail.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn narrowing_moves_the_window() {
        let mut buffer = Buffer::copy_of(b"abcdef");
        buffer.narrow(1..4);
        assert_eq!(&*buffer, b"bcd");
    }

    #[test]
    #[should_panic(expected = "two halves")]
    fn strangers_are_not_put_together() {
        let mut one = Buffer::zeroed(10);
        one.unsplit(Buffer::zeroed(10));
    }
}
