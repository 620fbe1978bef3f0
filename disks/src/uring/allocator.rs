//! How the process's allocator treats freed memory.
//!
//! By default the C library gives every freed block of more than some hundred kilobytes back to the kernel and asks for it again
//! with the next one: a page fault per 4 KiB. Frames and batches of a mebibyte come by the thousand, so that cost more than
//! hashing and encrypting them.

/// Longest allocation that is taken from the heap, not from the kernel: the most the C library allows.
const HEAP_UP_TO: i32 = 32 << 20;
/// Free bytes at the end of a heap that are kept.
const KEEP: i32 = 64 << 20;

/// Tells the allocator to keep a moderate amount of freed memory. For `main`, before other threads start; does nothing where
/// the C library has no such setting.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [(libc::M_MMAP_THRESHOLD, HEAP_UP_TO), (libc::M_TRIM_THRESHOLD, KEEP)] {
        // SAFETY: mallopt takes two integers and changes a setting of the allocator under the allocator's own lock.
        let taken = unsafe { libc::mallopt(setting, value) };
        // Slower, and nothing else.
        if taken != 1 {
            tracing::debug!(setting, value, "the allocator refuses a setting");
        }
    }
}
