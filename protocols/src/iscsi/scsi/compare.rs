//! What reads blocks in order to write them: COMPARE AND WRITE and ORWRITE (SBC-4 5.3, 5.9).
//!
//! The blocks are held exclusively from the read to the end of the write, so nothing on the unit
//! sees or does anything in between.

use super::decide::{Request, Step};
use super::execute::Run;
use super::failure::Failure;
use super::limits::{MAX_COMPARE_BLOCKS, MAX_TRANSFER_BYTES};
use super::operation::Operation;
use super::sense::{Additional, Sense};
use super::verify::{difference, miscompare};
use landfall_disks::{Buffer, ByteRange, Change, Durability};

/// How what is there and what came become what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Merge {
    /// The second half of data-out, if the first half is there.
    IfEqual,
    /// Bit by bit, one or the other.
    Or,
}

pub(super) fn compare_and_write(request: &Request<'_>) -> Result<Step, Sense> {
    let block_bytes = u64::from(request.geometry.logical_sector);
    let most = u64::from(MAX_COMPARE_BLOCKS) * block_bytes;
    let extent = request.cdb.short_extent();
    let range = extent.transfer(&request.geometry, most)?;
    // Data for no blocks is what is left of 256 blocks, one more than the field can say.
    if extent.count == 0 && request.announced != 0 {
        return Err(extent.wrong_count());
    }
    let operation =
        Operation::Merge { range, durability: request.durability(), merge: Merge::IfEqual };
    request.announced_exactly(operation.data_out(request.unit.block_length()))?;
    Ok(Step::Do(operation))
}

pub(super) fn or_write(request: &Request<'_>) -> Result<Step, Sense> {
    let range = request.cdb.extent().transfer(&request.geometry, MAX_TRANSFER_BYTES)?;
    let durability = request.durability();
    Ok(Step::Do(Operation::Merge { range, durability, merge: Merge::Or }))
}

pub(super) async fn perform(
    run: &Run<'_>,
    range: ByteRange,
    data_out: Buffer,
    durability: Durability,
    merge: Merge,
) -> Result<(), Failure> {
    let length = match merge {
        Merge::IfEqual => data_out.len() / 2,
        Merge::Or => data_out.len(),
    };
    if !length.is_multiple_of(run.unit.block_length()) {
        return Err(Sense::illegal(Additional::INVALID_INFORMATION_UNIT).into());
    }
    let length = u64::try_from(length).expect("transfers are limited");
    let range = ByteRange::at(range.start(), length).expect("within the range");
    if range.is_empty() {
        return Ok(());
    }
    let _held = run.exclusive(range).await;
    let mut found = run.disk().read(range).await.map_err(|error| run.failure(&error, range))?;
    let merged = match merge {
        Merge::IfEqual => {
            if let Some(byte) = difference(&found, &data_out[..found.len()]) {
                return Err(miscompare(byte).into());
            }
            // A copy, since its second half need not lie where a disk wants memory to begin.
            Buffer::copy_of(&data_out[found.len()..])
        }
        Merge::Or => {
            for (there, came) in found.iter_mut().zip(&*data_out) {
                *there |= came;
            }
            found
        }
    };
    run.change(Change::Write { at: range.start(), data: merged, durability }, range).await
}
