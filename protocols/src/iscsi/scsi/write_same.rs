//! WRITE SAME (SBC-4 5.43, 5.44).
//!
//! What is read afterwards is the block that came (SBC-3 3.1.83): a block of zeroes is not written
//! but zeroed, and with UNMAP unmapped; any other is written in strides, also with UNMAP. Strides
//! are held one at a time: others that want some of the blocks wait for one of them and not for
//! all. WRITE SAME (10) with UNMAP alone unmaps whatever comes: `WRITESAME10.UnmapUntilEnd` of
//! `iscsi-test-cu` sends ones and wants zeroes. No number of blocks means all to the end (WSNZ is
//! zero).

use super::cdb::block_range;
use super::decide::{Request, Step};
use super::execute::Run;
use super::failure::Failure;
use super::limits::{MAX_WRITE_SAME_BYTES, STRIDE};
use super::operation::Operation;
use super::sense::Sense;
use super::unmap::zero;
use super::verify::strides;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Change, ZeroMode, is_zero};

/// Where the block comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pattern {
    /// Nowhere: zeroes (NDOB).
    Zeroes,
    /// It is the data-out.
    Given,
    /// It is the data-out, which is taken for zeroes.
    Ignored,
}

const UNMAP: u8 = 0x08;
const NO_DATA_OUT: u8 = 0x01;

pub(super) fn write_same(request: &Request<'_>) -> Result<Step, Sense> {
    let extent = request.cdb.extent();
    let mut range = extent.range(&request.geometry)?;
    if extent.count == 0 {
        // The first block must be one of the disk.
        block_range(&request.geometry, extent.lba, 1)?;
        let end = ByteOffset::new(request.geometry.size_bytes);
        range = ByteRange::new(range.start(), end).expect("it starts within the disk");
    }
    if range.length() > MAX_WRITE_SAME_BYTES {
        return Err(extent.wrong_count());
    }
    let unmaps = request.cdb.has(1, UNMAP);
    let zero = if unmaps { ZeroMode::Unmap } else { ZeroMode::Allocate };
    // The CDB of ten bytes has no such bit: it was refused.
    let pattern = if request.cdb.has(1, NO_DATA_OUT) {
        Pattern::Zeroes
    } else {
        request.announced_exactly(request.unit.block_length())?;
        if unmaps && request.cdb.is_ten() { Pattern::Ignored } else { Pattern::Given }
    };
    Ok(Step::Do(Operation::WriteSame { range, pattern, zero }))
}

pub(super) async fn perform(
    run: &Run<'_>,
    range: ByteRange,
    block: &[u8],
    pattern: Pattern,
    mode: ZeroMode,
) -> Result<(), Failure> {
    if pattern != Pattern::Given || is_zero(block) {
        return zero(run, range, mode).await;
    }
    let durability = run.durability();
    for stride in strides(range, STRIDE) {
        let _held = run.shared(stride).await;
        let length = usize::try_from(stride.length()).expect("a stride is short");
        let mut bytes = Buffer::for_overwriting(length);
        for piece in bytes.chunks_mut(block.len()) {
            piece.copy_from_slice(&block[..piece.len()]);
        }
        run.change(Change::Write { at: stride.start(), data: bytes, durability }, stride).await?;
    }
    Ok(())
}
