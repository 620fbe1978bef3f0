//! Copying a disk into another one: the bulk of a conversion and of a restore.
//!
//! ```text
//!   map ─▶ stretches of data ─▶ windows of 1 MiB: read ─▶ cut zeroes out ─▶ write        sixteen at once
//! ```
//!
//! The target reads as zeroes before. What is known to be zeroes is not read, and what turns out to be is not written, so the
//! copy is as small as its format can make it.
//!
//! Where both are plain files of one file system that can do it, nothing is copied: they share their blocks.

use crate::block::{BLOCK_BYTES, ByteOffset, ByteRange, is_zero};
use crate::disk::{Content, Disk, DiskError, Durability};
use crate::uring::buffer::Buffer;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::cell::Cell;
use std::collections::VecDeque;

/// Bytes read and written at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// Windows under way.
const IN_FLIGHT: usize = 16;
/// Shorter stretches of zeroes between data are written with it: two operations cost more than they save.
const WORTH_SKIPPING: usize = 64 << 10;
/// How much of the source is mapped at once.
const LOOK_AHEAD_BYTES: u64 = 1 << 30;

/// What a copy moved.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Copied {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// A copy that is under way.
struct Copy<'a> {
    source: &'a dyn Disk,
    target: &'a dyn Disk,
    progress: &'a dyn Fn(u64),
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
}

/// Copies all of `source` to the start of `target`, which reads as zeroes and is at least as large, and flushes it.
///
/// `progress` is called with the number of bytes that are done, after each step.
pub async fn copy(
    source: &dyn Disk,
    target: &dyn Disk,
    progress: &dyn Fn(u64),
) -> Result<Copied, DiskError> {
    let copy =
        Copy { source, target, progress, read_bytes: Cell::new(0), written_bytes: Cell::new(0) };
    copy.run().await?;
    target.flush().await?;
    Ok(Copied { read_bytes: copy.read_bytes.get(), written_bytes: copy.written_bytes.get() })
}

/// Makes all of `source` the start of `target`, durably, by sharing the blocks of their files; `false`, and nothing is
/// changed, where that cannot be done. The source may be no larger than the target.
pub(super) async fn share(source: &dyn Disk, target: &dyn Disk) -> Result<bool, DiskError> {
    let (Some(from), Some(to)) = (source.file(), target.file()) else { return Ok(false) };
    let shared = to.share(from).await?;
    if shared {
        target.flush().await?;
    }
    Ok(shared)
}

impl Copy<'_> {
    async fn run(&self) -> Result<(), DiskError> {
        let mut rest = self.source.geometry().whole();
        let mut windows = VecDeque::new();
        let mut running = FuturesUnordered::new();
        loop {
            while windows.len() < IN_FLIGHT && !rest.is_empty() {
                rest = self.look_ahead(rest, &mut windows).await?;
            }
            while running.len() < IN_FLIGHT
                && let Some(window) = windows.pop_front()
            {
                running.push(self.window(window));
            }
            match running.next().await {
                Some(done) => done?,
                None if windows.is_empty() && rest.is_empty() => return Ok(()),
                None => {}
            }
        }
    }

    /// Takes what is known of the start of `rest` off it; data becomes windows.
    async fn look_ahead(
        &self,
        rest: ByteRange,
        windows: &mut VecDeque<ByteRange>,
    ) -> Result<ByteRange, DiskError> {
        let asked = ByteRange::at(rest.start(), rest.length().min(LOOK_AHEAD_BYTES));
        let mut end = rest.start();
        for part in self.source.map(asked.expect("part of a range")).await? {
            match part.content {
                Content::Data => windows.extend(part.range.chunks(WINDOW_BYTES)),
                Content::Zero | Content::Hole => (self.progress)(part.range.length()),
            }
            end = part.range.end();
        }
        Ok(rest.split_at(end).1)
    }

    async fn window(&self, window: ByteRange) -> Result<(), DiskError> {
        let mut rest = self.source.read(window).await?;
        self.read_bytes.set(self.read_bytes.get() + window.length());
        let mut writes = Vec::new();
        let mut done = 0;
        for run in data_runs(&rest, window.start()) {
            let mut run_and_rest = rest.split_off(run.start - done);
            rest = run_and_rest.split_off(run.len());
            done = run.end;
            self.written_bytes.set(self.written_bytes.get() + run.len() as u64);
            let at = ByteOffset::new(window.start().bytes() + run.start as u64);
            writes.push(self.target.write(at, run_and_rest, Durability::Cached));
        }
        for written in futures_util::future::join_all(writes).await {
            written?;
        }
        (self.progress)(window.length());
        Ok(())
    }
}

/// The stretches of `bytes`, which start at `at`, that have to be written: whole blocks of the disk that are not zeroes, joined
/// where only little lies between them.
fn data_runs(bytes: &Buffer, at: ByteOffset) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let to_boundary = BLOCK_BYTES - (within_block(at) + start) % BLOCK_BYTES;
        let end = (start + to_boundary).min(bytes.len());
        if !is_zero(&bytes[start..end]) {
            match runs.last_mut() {
                Some(last) if start - last.end < WORTH_SKIPPING => last.end = end,
                _ => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}

fn within_block(at: ByteOffset) -> usize {
    usize::try_from(at.bytes() % BLOCK_BYTES as u64).expect("less than a block")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultFolder, Seed, run};
    use crate::raw::RawDisk;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn a_copy_is_equal_and_holes_stay_holes() {
        let mut seed = Seed::new(3);
        let folder = FaultFolder::new(seed.fork());
        run(&mut seed, |_| async {
            let size = (40 << 20) + 512;
            let source = RawDisk::create(&folder, Path::new("a"), size).await.expect("created");
            let target =
                RawDisk::create(&folder, Path::new("b"), size + 4096).await.expect("created");
            for (at, length) in [(0, 512), (5 << 20, 3 << 20), ((40 << 20) - 100, 612)] {
                let mut data = Buffer::zeroed(length);
                data.fill(7);
                let at = ByteOffset::new(at);
                source.write(at, data, Durability::Cached).await.expect("written");
            }
            let zeroes = Buffer::zeroed(1 << 20);
            let at = ByteOffset::new(20 << 20);
            source.write(at, zeroes, Durability::Cached).await.expect("written");
            let done = Cell::new(0);
            let copied = copy(&source, &target, &|bytes| done.set(done.get() + bytes)).await;
            let copied = copied.expect("copied");
            assert_eq!(done.get(), size);
            assert!(copied.written_bytes < (3 << 20) + 32_768, "{copied:?}");
            let one = source.read(ByteRange::up_to(size)).await.expect("read");
            let other = target.read(ByteRange::up_to(size)).await.expect("read");
            assert!(*one == *other);
        });
    }

    proptest! {
        #[test]
        fn runs_hold_all_that_is_not_zero(
            marks in prop::collection::vec(0usize..300_000, 0..12),
            at in 0u64..10_000,
        ) {
            let mut bytes = Buffer::zeroed(300_000);
            for mark in &marks {
                bytes[*mark] = 1;
            }
            let runs = data_runs(&bytes, ByteOffset::new(at));
            for mark in &marks {
                prop_assert!(runs.iter().any(|run| run.contains(mark)), "{mark} of {runs:?}");
            }
            for run in &runs {
                let within = within_block(ByteOffset::new(at));
                let aligned = |offset: usize| (within + offset).is_multiple_of(BLOCK_BYTES);
                prop_assert!(run.start == 0 || aligned(run.start));
                prop_assert!(run.end == bytes.len() || aligned(run.end));
            }
            for pair in runs.windows(2) {
                prop_assert!(pair[0].end + WORTH_SKIPPING <= pair[1].start);
            }
        }
    }
}
