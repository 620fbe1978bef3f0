//! Which blocks of a write differ from what a disk holds: a mirror that begins anew writes everything again, and most of
//! it is there.
//!
//! ```text
//!   block of the write ─▶ CRC32C as that of what is there?  no ─▶ differs
//!                                                           yes ─▶ read, and compared byte for byte
//! ```
//!
//! So a block that differs costs a look-up and no read. **Invariants:** only a block that was read, with its checksum
//! proven, and is the same byte for byte counts as the same. What cannot be read differs: writing it heals it.

use crate::runs::Run;
use crate::view::View;
use landfall_disks::{
    BLOCK_BYTES, BLOCK_SIZE, ByteOffset, ByteRange, Content, Disk, DiskError, is_zero,
};

/// Parts that a disk is asked for, to find that a range is zero already.
const ZERO_LOOKS: usize = 64;

impl View {
    /// The parts of `range` that `data` changes, in order and apart from each other. The range begins at a block, and
    /// ends at one or with the disk.
    pub(crate) async fn differing(
        &self,
        range: ByteRange,
        data: &[u8],
    ) -> Result<Vec<ByteRange>, DiskError> {
        let mut parts: Vec<(ByteRange, bool)> = Vec::new();
        for (at, run) in self.runs_of(range.widen(BLOCK_SIZE)).await? {
            for (nth, block) in at.chunks(BLOCK_SIZE).enumerate() {
                let inside = block.intersection(range);
                let may_be_same = self.may_be(&run, nth, inside, of_range(range, data, inside));
                push(&mut parts, inside, may_be_same.await);
            }
        }
        let mut differing = Vec::new();
        for (part, may_be_same) in parts {
            if !may_be_same {
                add(&mut differing, part);
                continue;
            }
            let held = match self.read(part).await {
                Ok(held) => Some(held),
                Err(DiskError::Damaged { .. } | DiskError::Unknown { .. }) => None,
                Err(error) => return Err(error),
            };
            for block in part.chunks(BLOCK_SIZE) {
                let same = held.as_ref().is_some_and(|held| {
                    of_range(part, held, block) == of_range(range, data, block)
                });
                if !same {
                    add(&mut differing, block);
                }
            }
        }
        Ok(differing)
    }

    /// Whether `block`, the `nth` of `run`, may be `data`, as far as checksums tell.
    async fn may_be(&self, run: &Run, nth: usize, block: ByteRange, data: &[u8]) -> bool {
        match run {
            Run::Lost => false,
            Run::Zero => is_zero(data),
            // The checksum of what is sealed says nothing of what it was.
            Run::Journal { seals, .. } if !seals.is_empty() => true,
            Run::Journal { checksums, .. } => checksums[nth] == padded_checksum(data),
            Run::Image => match self.disk().checked_by() {
                Some(hashes) => hashes.mismatch(block, data).await.is_none(),
                None => true,
            },
        }
    }

    /// Whether `range` is known to be zero without reading it.
    pub(crate) async fn is_known_zero(&self, range: ByteRange) -> Result<bool, DiskError> {
        let mut rest = range;
        for _ in 0..ZERO_LOOKS {
            let mapped = self.map(rest).await?;
            let end = mapped.last().map_or(rest.start(), |last| last.range.end());
            let has_data = mapped.iter().any(|part| part.content == Content::Data);
            if has_data || end <= rest.start() {
                return Ok(false);
            }
            rest = rest.split_at(end.min(rest.end())).1;
            if rest.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What `part` of `range` has in `data`, which is that of the range.
fn of_range(range: ByteRange, data: &[u8], part: ByteRange) -> &[u8] {
    let at = |offset: ByteOffset| {
        usize::try_from(offset.bytes() - range.start().bytes()).expect("within a request")
    };
    &data[at(part.start())..at(part.end())]
}

/// The checksum of a block; one that the disk's end cuts is kept with zeroes behind it.
fn padded_checksum(data: &[u8]) -> u32 {
    if data.len() == BLOCK_BYTES {
        return crc32c::crc32c(data);
    }
    let mut block = [0; BLOCK_BYTES];
    block[..data.len()].copy_from_slice(data);
    crc32c::crc32c(&block)
}

fn push(parts: &mut Vec<(ByteRange, bool)>, block: ByteRange, may_be_same: bool) {
    match parts.last_mut() {
        Some((last, same)) if *same == may_be_same && last.end() == block.start() => {
            *last = ByteRange::new(last.start(), block.end()).expect("in order");
        }
        _ => parts.push((block, may_be_same)),
    }
}

fn add(ranges: &mut Vec<ByteRange>, part: ByteRange) {
    match ranges.last_mut() {
        Some(last) if last.end() == part.start() => {
            *last = ByteRange::new(last.start(), part.end()).expect("in order");
        }
        _ => ranges.push(part),
    }
}
