//! Blocks of memory behind buffers, kept and used again.
//!
//! ```text
//!              4 … 32 KiB                    64 KiB … 1 MiB                any other length
//!   take   shelf of this thread ─empty─┐     region ─all in use─┐                │
//!                                      ▼                        ▼                ▼
//!   give   shelf of this thread ─full─▶ allocator               allocator        allocator
//! ```
//!
//! A fresh mebibyte costs more in page faults than reading it from a fast device does. Short blocks live and die on
//! one I/O core, so their shelf needs no lock; long ones are often filled on one thread and dropped on another (content
//! is hashed off the cores), so a shelf per thread would be full on one side and empty on the other. Their [`Region`] is of the
//! process.
//!
//! **Invariants**
//! - Memory on a shelf is initialised and belongs to nobody: it is given back by the drop of its only owner.
//! - No shelf holds more than its limit; blocks of a region go back to it, and others never do.
//! - Bytes of an earlier owner are seen only through [`Memory::unspecified`], and then only if that block is read before it is
//!   written.

use super::region::Region;
use parking_lot::Mutex;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

/// Alignment of a block of at least as many bytes; enough for `O_DIRECT` on any device.
pub(super) const BLOCK_ALIGNMENT: usize = 4096;

/// Alignment of shorter ones. No direct transfer is shorter than a block, and an aligned block for every header would
/// cost more than the header's system call.
const SHORT_ALIGNMENT: usize = 64;

/// Shortest block that is kept.
const SMALLEST_KEPT: usize = 4 << 10;
/// Longest.
const LARGEST_KEPT: usize = 1 << 20;
/// Blocks below this length stay with their thread.
const SHARED_FROM: usize = 64 << 10;

/// Bytes kept of each length, per thread.
const KEPT_PER_THREAD: usize = 512 << 10;

/// A length that is kept: a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Class(usize);

impl Class {
    const THREAD: usize = SHARED_FROM.ilog2() as usize - SMALLEST_KEPT.ilog2() as usize;
    const SHARED: usize = LARGEST_KEPT.ilog2() as usize - SHARED_FROM.ilog2() as usize + 1;

    /// The class for `length` bytes; none if such blocks are not kept.
    fn of(length: usize) -> Option<Self> {
        let size = length.checked_next_power_of_two()?;
        (length >= SMALLEST_KEPT && size <= LARGEST_KEPT)
            .then(|| Self((size.ilog2() - SMALLEST_KEPT.ilog2()) as usize))
    }

    fn size(self) -> usize {
        SMALLEST_KEPT << self.0
    }
}

/// Unused blocks of one length, of a thread.
struct Shelf {
    blocks: Vec<Unused>,
}

/// An initialised block of the shelf's length that nobody owns.
struct Unused(NonNull<u8>);

// SAFETY: plain memory that nobody refers to; whoever takes it from the shelf is its only owner.
unsafe impl Send for Unused {}

impl Shelf {
    const EMPTY: Self = Self { blocks: Vec::new() };

    fn take(&mut self) -> Option<NonNull<u8>> {
        self.blocks.pop().map(|block| block.0)
    }

    /// Keeps a block unless there are `most`; whether it did.
    fn keep(&mut self, block: NonNull<u8>, most: usize) -> bool {
        let room = self.blocks.len() < most;
        if room {
            self.blocks.push(Unused(block));
        }
        room
    }
}

static SHARED: [Mutex<Region>; Class::SHARED] =
    [const { Mutex::new(Region::EMPTY) }; Class::SHARED];

thread_local! {
    static LOCAL: RefCell<Local> = const { RefCell::new(Local([Shelf::EMPTY; Class::THREAD])) };
}

/// The shelves of a thread; their blocks go back to the allocator with it.
struct Local([Shelf; Class::THREAD]);

impl Drop for Local {
    fn drop(&mut self) {
        for (index, shelf) in self.0.iter_mut().enumerate() {
            while let Some(block) = shelf.take() {
                // SAFETY: the blocks of this shelf came from the allocator with this layout, and nobody owns them.
                unsafe { dealloc(block.as_ptr(), layout(Class(index).size())) }
            }
        }
    }
}

impl Class {
    /// The region of blocks that all threads share; none for blocks that stay with their thread.
    fn region(self) -> Option<&'static Mutex<Region>> {
        self.0.checked_sub(Self::THREAD).map(|shared| &SHARED[shared])
    }
}

/// Where a block came from, and goes.
#[derive(Clone, Copy)]
enum Home {
    Allocator,
    /// The allocator, by way of the shelf of a thread.
    Shelf(Class),
    Region(&'static Mutex<Region>),
}

fn layout(size: usize) -> Layout {
    let alignment = if size < BLOCK_ALIGNMENT { SHORT_ALIGNMENT } else { BLOCK_ALIGNMENT };
    Layout::from_size_align(size, alignment).expect("a buffer is far below isize::MAX bytes")
}

/// An owned block of initialised memory; put on a shelf when dropped.
pub(super) struct Memory {
    start: NonNull<u8>,
    size: usize,
    home: Home,
}

// SAFETY: plain memory; access to its bytes goes through `Buffer`s, whose windows are disjoint.
unsafe impl Send for Memory {}
// SAFETY: as above: shared references to a `Memory` give no access to its bytes.
unsafe impl Sync for Memory {}

impl Memory {
    /// At least `length` bytes, the first `length` of them zero.
    pub(super) fn zeroed(length: usize) -> Self {
        let (memory, used) = Self::new(length);
        if used {
            // SAFETY: the block has at least `length` bytes and is this value's alone.
            unsafe { memory.start.write_bytes(0, length) }
        }
        memory
    }

    /// At least `length` bytes: zeroes, or what an earlier owner left.
    pub(super) fn unspecified(length: usize) -> Self {
        let (memory, _) = Self::new(length);
        if cfg!(test) {
            // So that tests see whoever relies on zeroes.
            // SAFETY: as in `zeroed`.
            unsafe { memory.start.write_bytes(0xA5, length) }
        }
        memory
    }

    /// At least `length` initialised bytes, and whether somebody has used them before: fresh ones are zero.
    fn new(length: usize) -> (Self, bool) {
        let class = Class::of(length);
        let granule = if length < BLOCK_ALIGNMENT { SHORT_ALIGNMENT } else { BLOCK_ALIGNMENT };
        let size = class.map_or_else(|| length.max(1).next_multiple_of(granule), Class::size);
        let mut home = Home::Allocator;
        if let Some(region) = class.and_then(Class::region) {
            if let Some((start, used)) = region.lock().take(size) {
                return (Self { start, size, home: Home::Region(region) }, used);
            }
        } else if let Some(class) = class {
            home = Home::Shelf(class);
            // A thread that is ending has no shelf any more.
            let kept = LOCAL.try_with(|local| local.borrow_mut().0[class.0].take());
            if let Ok(Some(start)) = kept {
                return (Self { start, size, home }, true);
            }
        }
        let layout = layout(size);
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(raw) else { handle_alloc_error(layout) };
        (Self { start, size, home }, false)
    }

    /// Its first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // From here on nobody else refers to the block: a `Memory` is dropped when its last `Buffer` is, and an operation in
        // flight owns its buffer.
        let kept = match self.home {
            Home::Allocator => false,
            Home::Shelf(class) => {
                let most = KEPT_PER_THREAD / class.size();
                let keep =
                    |local: &RefCell<Local>| local.borrow_mut().0[class.0].keep(self.start, most);
                LOCAL.try_with(keep).unwrap_or(false)
            }
            Home::Region(region) => {
                region.lock().give_back(self.start);
                true
            }
        };
        if !kept {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout, and no shelf has it.
            unsafe { dealloc(self.start.as_ptr(), layout(self.size)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(memory: &Memory, length: usize) -> &[u8] {
        // SAFETY: initialised memory of at least `length` bytes, and the test is its only user.
        unsafe { std::slice::from_raw_parts(memory.start().as_ptr(), length) }
    }

    fn fill(memory: &mut Memory) {
        // SAFETY: the block has `size` bytes and the test is its only user.
        unsafe { memory.start.write_bytes(0xFF, memory.size) }
    }

    #[test]
    fn lengths_fall_into_classes() {
        let size = |length| Class::of(length).map(Class::size);
        assert_eq!(size(4095), None);
        assert_eq!(size(4096), Some(4096));
        assert_eq!(size(4097), Some(8192));
        assert_eq!(size(1 << 20), Some(1 << 20));
        assert_eq!(size((1 << 20) + 1), None);
        assert_eq!(size(usize::MAX), None);
        assert_eq!(
            Class::of(LARGEST_KEPT).map(|class| class.0),
            Some(Class::THREAD + Class::SHARED - 1)
        );
        assert_eq!(Class::of(SHARED_FROM).map(|class| class.0), Some(Class::THREAD));
    }

    #[test]
    fn used_memory_comes_back_zeroed() {
        for length in [100, 4096, 20_000, 65_536, 1 << 20, 3 << 20] {
            for _ in 0..3 {
                let mut memory = Memory::zeroed(length);
                assert!(
                    memory
                        .start()
                        .addr()
                        .get()
                        .is_multiple_of(length.min(4096).next_power_of_two().min(64))
                );
                assert!(bytes(&memory, length).iter().all(|byte| *byte == 0), "{length} bytes");
                fill(&mut memory);
            }
        }
    }

    #[test]
    fn a_thread_uses_its_short_blocks_again_and_keeps_a_limited_number() {
        std::thread::spawn(|| {
            let start = Memory::zeroed(4096).start();
            assert_eq!(Memory::unspecified(4000 + 96).start(), start);
            let most = KEPT_PER_THREAD / 4096;
            let many: Vec<Memory> = (0..most + 10).map(|_| Memory::zeroed(4096)).collect();
            drop(many);
            let kept = LOCAL.with(|local| local.borrow().0[0].blocks.len());
            assert_eq!(kept, most);
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn long_blocks_cross_threads() {
        let length = 512 << 10;
        // Other tests use the same shelf and may come in between, but not every time.
        let crossed = (0..1000).any(|_| {
            let there = std::thread::spawn(move || Memory::zeroed(length).start().addr());
            let there = there.join().expect("no panic");
            Memory::unspecified(length).start().addr() == there
        });
        assert!(crossed);
    }

    #[test]
    fn a_shelf_keeps_a_limited_number() {
        let mut shelf = Shelf::EMPTY;
        let blocks: Vec<Memory> = (0..4).map(|_| Memory::zeroed(100)).collect();
        let kept: Vec<bool> = blocks.iter().map(|block| shelf.keep(block.start(), 3)).collect();
        assert_eq!(kept, [true, true, true, false]);
        // They still belong to `blocks`.
        while shelf.take().is_some() {}
    }
}
