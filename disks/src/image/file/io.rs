//! What each request does to the file: whole blocks straight, edges by reading around them, the tail on its own.

use super::transfer::{self, length};
use super::{ImageFile, MAX_MAP_ENTRIES};
use crate::block::{BLOCK_BYTES, BLOCK_SIZE, ByteOffset, ByteRange};
use crate::disk::{Content, DiskError, MappedRange, ZeroMode};
use crate::file::FileError;
use crate::range_locks::RangeGuard;
use crate::uring::buffer::Buffer;
use std::sync::atomic::{AtomicBool, Ordering};

impl ImageFile {
    /// Reads need no lock: writing back a block changes only the bytes that are being written anyway.
    pub(super) async fn read_range(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        if range.is_empty() {
            return Ok(Buffer::zeroed(0));
        }
        let (blocks, tail) = self.divide(range);
        if tail.is_empty() {
            return Ok(self.read_blocks(blocks).await?);
        }
        Box::pin(self.read_with_tail(range, blocks, tail)).await
    }

    async fn read_with_tail(
        &self,
        range: ByteRange,
        blocks: ByteRange,
        tail: ByteRange,
    ) -> Result<Buffer, DiskError> {
        // Blocks and tail together are the whole range.
        let mut whole = Buffer::for_overwriting(length(range));
        let part = Buffer::for_overwriting(length(tail));
        let read = self.buffered.read_at(tail.start().bytes(), part).await?;
        whole[length(blocks)..].copy_from_slice(&read);
        if !blocks.is_empty() {
            let read = self.read_blocks(blocks).await?;
            whole[..read.len()].copy_from_slice(&read);
        }
        Ok(whole)
    }

    /// Fills `into` from `at`, without a copy if both are aligned.
    pub(super) async fn read_exactly(
        &self,
        at: ByteOffset,
        mut into: Buffer,
    ) -> Result<Buffer, DiskError> {
        let range = ByteRange::at(at, into.len() as u64).expect("it was checked");
        let (_, tail) = self.divide(range);
        if tail.is_empty() && range.is_aligned(BLOCK_SIZE) && into.is_aligned(BLOCK_BYTES) {
            return Ok(transfer::read(&*self.direct, at.bytes(), into).await?);
        }
        let read = self.read_range(range).await?;
        into.copy_from_slice(&read);
        Ok(into)
    }

    async fn read_blocks(&self, range: ByteRange) -> Result<Buffer, FileError> {
        let around = range.widen(BLOCK_SIZE);
        let buffer = Buffer::for_overwriting(length(around));
        let mut read = transfer::read(&*self.direct, around.start().bytes(), buffer).await?;
        let skipped = within(around, range.start());
        read.narrow(skipped..skipped + length(range));
        Ok(read)
    }

    pub(super) async fn write_range(
        &self,
        range: ByteRange,
        data: Buffer,
    ) -> Result<(), DiskError> {
        if range.is_empty() {
            return Ok(());
        }
        if !range.is_aligned(BLOCK_SIZE) || !data.is_aligned(BLOCK_BYTES) {
            // Apart, so that the usual case does not carry its state about.
            return Box::pin(self.write_any(range, data)).await;
        }
        let _guard = self.locks.lock_shared(range).await;
        // Whole blocks within the length: there is no tail, and a growing file makes none of them.
        let written = transfer::write(&*self.direct, range.start().bytes(), data).await;
        self.judge(written)
    }

    async fn write_any(&self, range: ByteRange, mut data: Buffer) -> Result<(), DiskError> {
        let _guard = self.lock_write(range).await;
        // Divided under the lock: a resize may just have made blocks of the tail.
        let (blocks, tail) = self.divide(range);
        let end = data.split_off(length(blocks));
        if !blocks.is_empty() {
            let written = self.write_blocks(blocks, data).await;
            self.judge(written)?;
        }
        if !tail.is_empty() {
            let written = self.buffered.write_at(tail.start().bytes(), end).await;
            self.judge(written)?;
        }
        Ok(())
    }

    /// Exclusive if a block is covered in part, for then it is read before it is written.
    async fn lock_write(&self, range: ByteRange) -> RangeGuard {
        if range.is_aligned(BLOCK_SIZE) {
            self.locks.lock_shared(range).await
        } else {
            self.locks.lock_exclusive(range.widen(BLOCK_SIZE)).await
        }
    }

    /// Writes blocks whose lock is held.
    async fn write_blocks(&self, range: ByteRange, data: Buffer) -> Result<(), FileError> {
        let around = range.widen(BLOCK_SIZE);
        if around == range && data.is_aligned(BLOCK_BYTES) {
            return transfer::write(&*self.direct, range.start().bytes(), data).await;
        }
        let mut whole = Buffer::zeroed(length(around));
        for edge in edges(range) {
            let block = Buffer::for_overwriting(BLOCK_BYTES);
            let block = self.direct.read_at(edge.bytes(), block).await?;
            let start = within(around, edge);
            whole[start..start + BLOCK_BYTES].copy_from_slice(&block);
        }
        let start = within(around, range.start());
        whole[start..start + data.len()].copy_from_slice(&data);
        transfer::write(&*self.direct, around.start().bytes(), whole).await
    }

    pub(super) async fn zero_range(
        &self,
        range: ByteRange,
        mode: ZeroMode,
    ) -> Result<(), DiskError> {
        if range.is_empty() {
            return Ok(());
        }
        let _guard = self.lock_write(range).await;
        let (blocks, tail) = self.divide(range);
        let (before, inner, after) = whole_blocks(blocks);
        for part in [before, after] {
            if !part.is_empty() {
                let written = self.write_blocks(part, Buffer::zeroed(length(part))).await;
                self.judge(written)?;
            }
        }
        if !inner.is_empty() {
            let zeroed = self.zero_blocks(inner, mode).await;
            self.judge(zeroed)?;
        }
        if !tail.is_empty() {
            let zeroes = Buffer::zeroed(length(tail));
            let written = self.buffered.write_at(tail.start().bytes(), zeroes).await;
            self.judge(written)?;
        }
        Ok(())
    }

    async fn zero_blocks(&self, range: ByteRange, mode: ZeroMode) -> Result<(), FileError> {
        let (start, length) = (range.start().bytes(), range.length());
        let done = match mode {
            ZeroMode::Unmap => {
                try_once(&self.cannot_punch, self.direct.punch_hole(start, length)).await?
            }
            ZeroMode::Allocate => {
                try_once(&self.cannot_zero, self.direct.zero_range(start, length)).await?
            }
        };
        if done { Ok(()) } else { transfer::write_zeroes(&*self.direct, range).await }
    }

    pub(super) async fn discard_range(&self, range: ByteRange) -> Result<(), DiskError> {
        let candidates = range.whole_blocks();
        if candidates.is_empty() {
            return Ok(());
        }
        let _guard = self.locks.lock_shared(candidates).await;
        let (inner, _) = self.divide(candidates);
        if inner.is_empty() {
            return Ok(());
        }
        let zeroed = self.zero_blocks(inner, ZeroMode::Unmap).await;
        self.judge(zeroed)
    }

    pub(super) async fn map_range(&self, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
        let mut found = Vec::new();
        let mut at = range.start();
        while at < range.end() && found.len() < MAX_MAP_ENTRIES {
            let data = self.direct.next_data(at.bytes()).await?;
            let (start, end) = data.unwrap_or((range.end().bytes(), range.end().bytes()));
            // A hole that was punched since may leave the end before the start; never step back.
            let start = ByteOffset::new(start).clamp(at, range.end());
            let end = ByteOffset::new(end).clamp(start, range.end());
            for (from, to, content) in [(at, start, Content::Hole), (start, end, Content::Data)] {
                let range = ByteRange::new(from, to).expect("clamped in order");
                if !range.is_empty() {
                    found.push(MappedRange { range, content });
                }
            }
            if end == at {
                // Changed under our eyes: what follows is to be read.
                let range = ByteRange::new(at, range.end()).expect("the loop ends at the end");
                found.push(MappedRange { range, content: Content::Data });
                break;
            }
            at = end;
        }
        Ok(found)
    }
}

/// Where `offset` lies in a buffer of `range`.
fn within(range: ByteRange, offset: ByteOffset) -> usize {
    length(ByteRange::new(range.start(), offset).expect("the offset lies in the range"))
}

/// The first and last block of `range`, as far as they are covered in part.
fn edges(range: ByteRange) -> impl Iterator<Item = ByteOffset> {
    let first = range.start().block().offset();
    let last = range.end().block().offset();
    let head = (range.start() != first).then_some(first);
    let tail = (range.end() != last && head != Some(last)).then_some(last);
    head.into_iter().chain(tail)
}

/// The part of `range` before its first whole block, its whole blocks, and the part after them.
fn whole_blocks(range: ByteRange) -> (ByteRange, ByteRange, ByteRange) {
    let inner = range.whole_blocks();
    let (before, rest) = range.split_at(inner.start());
    let (inner, after) = rest.split_at(inner.end());
    (before, inner, after)
}

/// Awaits `call` unless it is known to be unsupported; `false` if it is.
async fn try_once(
    unsupported: &AtomicBool,
    call: impl Future<Output = Result<(), FileError>>,
) -> Result<bool, FileError> {
    if unsupported.load(Ordering::Relaxed) {
        return Ok(false);
    }
    match call.await {
        Err(FileError::Os { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            unsupported.store(true, Ordering::Relaxed);
            Ok(false)
        }
        result => result.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_and_edges_fit_together(start in 0u64..20_000, length in 0u64..20_000) {
            let range = ByteRange::at(ByteOffset::new(start), length).expect("small");
            let (before, inner, after) = whole_blocks(range);
            prop_assert_eq!(before.start(), range.start());
            prop_assert_eq!(before.end(), inner.start());
            prop_assert_eq!(inner.end(), after.start());
            prop_assert_eq!(after.end(), range.end());
            prop_assert!(inner.is_empty() || inner.is_aligned(BLOCK_SIZE));
            prop_assert!(before.length() < BLOCK_SIZE && after.length() < BLOCK_SIZE);
            let partial: Vec<ByteOffset> = range
                .chunks(BLOCK_SIZE)
                .filter(|chunk| !chunk.is_aligned(BLOCK_SIZE))
                .map(|chunk| chunk.start().block().offset())
                .collect();
            if !range.is_empty() {
                prop_assert_eq!(edges(range).collect::<Vec<_>>(), partial);
            }
        }
    }
}
