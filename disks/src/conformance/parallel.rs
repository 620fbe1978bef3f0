//! Several requests at once, and requests that are given up.

use super::model::{Model, indices, length};
use super::range;
use crate::block::ByteRange;
use crate::disk::{Disk, Durability, ZeroMode};
use crate::faults::Seed;
use crate::uring::buffer::Buffer;
use futures_util::future::{join, join_all};
use std::sync::Arc;

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

/// Pieces of a block, written at the same time beside whole blocks and zeroes, are all there afterwards.
pub(super) async fn writes_into_one_block_keep_all_bytes(
    disk: &Arc<dyn Disk>,
    model: &mut Model,
    seed: &mut Seed,
) {
    let size = disk.geometry().size_bytes;
    for round in 0..20u8 {
        let start = seed.below(size);
        let mut at = start;
        let mut writes = Vec::new();
        let mut number = round;
        while at < size && writes.len() < 12 {
            let part = range(at, (1 + seed.below(2000)).min(size - at));
            at = part.end().bytes();
            number = number.wrapping_add(17);
            let zeroes = seed.chance(1, 4);
            model.set(part, &vec![if zeroes { 0 } else { number }; length(part)]);
            let data = filled(length(part), number);
            writes.push(async move {
                if zeroes {
                    disk.write_zeroes(part, ZeroMode::Unmap, Durability::Cached).await
                } else {
                    disk.write(part.start(), data, Durability::Cached).await
                }
            });
        }
        for written in join_all(writes).await {
            written.expect("written");
        }
        let touched = range(start, at - start);
        let around = touched.widen(4096).intersection(disk.geometry().whole());
        model.compare_range(&**disk, around).await;
    }
}

/// Where writes overlap, every byte is of one of them.
pub(super) async fn overlapping_writes_leave_bytes_of_one(
    disk: &Arc<dyn Disk>,
    model: &mut Model,
    seed: &mut Seed,
) {
    for _ in 0..10 {
        let ranges: Vec<ByteRange> = (0..6).map(|_| model.any_range(seed)).collect();
        let byte = |number: usize| u8::try_from(number + 1).expect("six writes");
        let writes = ranges.iter().enumerate().map(|(number, range)| {
            let data = filled(length(*range), byte(number));
            disk.write(range.start(), data, Durability::Cached)
        });
        for written in join_all(writes).await {
            written.expect("written");
        }
        let whole = disk.geometry().whole();
        let found = disk.read(whole).await.expect("read");
        // One bit per write.
        let mut allowed = vec![0u8; found.len()];
        for (number, range) in ranges.iter().enumerate() {
            allowed[indices(*range)].iter_mut().for_each(|place| *place |= 1 << number);
        }
        for (place, (byte, allowed)) in found.iter().zip(allowed).enumerate() {
            let fits = match allowed {
                0 => *byte == model.bytes()[place],
                writes => (1..=6).contains(byte) && writes & (1 << (byte - 1)) != 0,
            };
            assert!(fits, "byte {place} is {byte}, writes {allowed:#b} went there");
        }
        model.set(whole, &found);
    }
}

/// A read beside a write sees old and new bytes, nothing else; a read after it only new ones.
pub(super) async fn reads_see_old_or_new(disk: &Arc<dyn Disk>, model: &mut Model, seed: &mut Seed) {
    for _ in 0..20 {
        let range = model.any_range(seed);
        let new = seed.next_u64().to_le_bytes()[0];
        let write = disk.write(range.start(), filled(length(range), new), Durability::Cached);
        let (found, written) = join(disk.read(range), write).await;
        written.expect("written");
        let old = &model.bytes()[indices(range)];
        let fits =
            found.expect("read").iter().zip(old).all(|(byte, old)| byte == old || *byte == new);
        assert!(fits, "a byte of {range} was never written");
        model.set(range, &vec![new; length(range)]);
        model.compare_range(&**disk, range).await;
    }
}

/// A write given up after some polls leaves each byte old or new, and the disk as usable as before.
pub(super) async fn dropped_writes_leave_old_or_new(
    disk: &Arc<dyn Disk>,
    model: &mut Model,
    seed: &mut Seed,
) {
    for _ in 0..20 {
        let range = model.any_range(seed);
        let new = seed.next_u64().to_le_bytes()[0];
        let data = filled(length(range), new);
        let mut write = disk.write(range.start(), data, Durability::Cached);
        for _ in 0..seed.below(4) {
            if futures_util::poll!(&mut write).is_ready() {
                break;
            }
        }
        drop(write);
        let found = disk.read(range).await.expect("read");
        let old = &model.bytes()[indices(range)];
        let fits = found.iter().zip(old).all(|(byte, old)| byte == old || *byte == new);
        assert!(fits, "a byte of {range} was never written");
        model.set(range, &found);
        // What was given up must not come late.
        model.write(&**disk, range, seed).await;
        model.compare(&**disk).await;
    }
}

/// Requests while the disk grows keep what they were told; what is written behind the old end as soon as the growth is done stays,
/// whatever was asked of the last block before.
pub(super) async fn requests_beside_a_growth_are_kept(
    disk: &Arc<dyn Disk>,
    model: &mut Model,
    seed: &mut Seed,
    sector: u64,
) {
    for round in 0..8u8 {
        let old = disk.geometry().size_bytes;
        let new = old + sector * (1 + seed.below(40));
        let number = seed.next_u64().to_le_bytes()[0] | 1;
        let mut requests = Vec::new();
        let mut at = old.saturating_sub(seed.below(40_000));
        while at < old {
            let part = range(at, (1 + seed.below(6000)).min(old - at));
            at = part.end().bytes();
            let kind = seed.below(4);
            let byte = if kind < 2 { number.wrapping_add(round) } else { 0 };
            model.set(part, &vec![byte; length(part)]);
            let flush = seed.chance(1, 4);
            requests.push(async move {
                match kind {
                    0..2 => {
                        disk.write(part.start(), filled(length(part), byte), Durability::Cached)
                            .await
                    }
                    2 => disk.write_zeroes(part, ZeroMode::Unmap, Durability::Cached).await,
                    _ => disk.write_zeroes(part, ZeroMode::Allocate, Durability::Cached).await,
                }?;
                if flush { disk.flush().await } else { Ok(()) }
            });
        }
        let behind = range(old, new - old);
        let grow = async {
            disk.resize(new).await?;
            disk.write(behind.start(), filled(length(behind), number), Durability::Cached).await
        };
        let (written, grown) = join(join_all(requests), grow).await;
        written.into_iter().for_each(|written| written.expect("written"));
        grown.expect("grown and written");
        model.grow(new);
        model.set(behind, &vec![number; length(behind)]);
        model.compare(&**disk).await;
    }
}
