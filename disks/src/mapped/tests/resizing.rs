//! Growing beside other requests, at moments that chance seldom finds.

use super::{KINDS, filled, in_memory, range, toy, write, zero_parent};
use crate::disk::{Disk, Durability, ZeroMode};
use futures_util::poll;
use std::path::Path;

const BLOCK: u64 = KINDS[0].block_bytes;

/// Zeroes for all of the last block, held up until the disk has grown and the rest of that block was written.
///
/// ```text
///   first    [last block, as far as the disk goes]         gives the block its home
///   second   [sector]                                      waits for the first, then holds the lock of the block
///   zeroes   [last block, as far as the disk goes]         wait for the second
///   grown                                         [rest]   needs no lock, as the block has its home
/// ```
#[test]
fn zeroes_up_to_the_old_end_leave_what_is_behind_it() {
    in_memory(1, async |folder| {
        let end = BLOCK + BLOCK / 2;
        let parent = zero_parent(folder, "child", end).await;
        let disk = toy::create(folder, Path::new("child"), KINDS[0], end, Some(parent)).await;
        disk.read(disk.geometry().whole()).await.expect("read");
        let half = usize::try_from(BLOCK / 2).expect("small");
        let mut first = Box::pin(write(&disk, BLOCK, filled(half, 1)));
        assert!(poll!(first.as_mut()).is_pending());
        let mut second = Box::pin(write(&disk, BLOCK, filled(512, 2)));
        assert!(poll!(second.as_mut()).is_pending());
        first.await.expect("written");
        let last = range(BLOCK, BLOCK / 2);
        let mut zeroes = disk.write_zeroes(last, ZeroMode::Unmap, Durability::Cached);
        assert!(poll!(zeroes.as_mut()).is_pending());
        let mut grown = Box::pin(async {
            disk.resize(2 * BLOCK).await.expect("grown");
            write(&disk, end, filled(half, 3)).await.expect("written");
        });
        let mut early = false;
        for _ in 0..10_000 {
            if poll!(grown.as_mut()).is_ready() {
                early = true;
                break;
            }
        }
        second.await.expect("written");
        zeroes.await.expect("zeroed");
        if !early {
            grown.await;
        }
        let found = disk.read(range(BLOCK, BLOCK)).await.expect("read");
        assert!(found[..half].iter().all(|byte| *byte == 0));
        assert!(found[half..].iter().all(|byte| *byte == 3), "what was written behind is gone");
    });
}
