//! READ and WRITE of all lengths (SBC-4 5.11 to 5.14 and 5.34 to 5.37).
//!
//! DPO is a hint that disks have no use for. FUA of a read asks for nothing more than a read gives:
//! completed writes are seen by every read, and what is read back is what will be durable. FUA of a
//! write makes it durable.

use super::cdb::Extent;
use super::decide::{Request, Step};
use super::execute::Run;
use super::failure::Failure;
use super::limits::MAX_TRANSFER_BYTES;
use super::operation::Operation;
use super::sense::Sense;
use super::task::DataIn;
use super::verify::WriteCheck;
use landfall_disks::{ByteRange, Durability};

/// Blocks that no transfer length means in the CDB of six bytes.
const SIX_DEFAULT: u64 = 256;

pub(super) fn read(request: &Request<'_>) -> Result<Step, Sense> {
    let range = extent(request).transfer(&request.geometry, MAX_TRANSFER_BYTES)?;
    Ok(Step::Do(Operation::Read(range)))
}

pub(super) fn write(request: &Request<'_>) -> Result<Step, Sense> {
    let range = extent(request).transfer(&request.geometry, MAX_TRANSFER_BYTES)?;
    let durability = request.durability();
    Ok(Step::Do(Operation::Write { range, durability, check: WriteCheck::None }))
}

fn extent(request: &Request<'_>) -> Extent {
    let mut extent = request.cdb.extent();
    if request.cdb.is_six() && extent.count == 0 {
        extent.count = SIX_DEFAULT;
    }
    extent
}

impl Request<'_> {
    /// How much has to be on stable storage when a write is answered: with the write cache switched
    /// off, all of it.
    pub(super) fn durability(&self) -> Durability {
        if self.unit.state().modes().caches_writes() {
            self.cdb.durability()
        } else {
            Durability::Durable
        }
    }
}

pub(super) async fn perform_read(run: &Run<'_>, range: ByteRange) -> Result<DataIn, Failure> {
    if range.is_empty() {
        return Ok(DataIn::Nothing);
    }
    let _held = run.shared(range).await;
    let bytes = run.disk().read(range).await.map_err(|error| run.failure(&error, range))?;
    Ok(DataIn::Blocks(bytes))
}
