//! PRE-FETCH and SYNCHRONIZE CACHE (SBC-4 5.10, 5.29).
//!
//! Disks learn by themselves what to keep in memory, so PRE-FETCH only checks its range; GOOD
//! instead of CONDITION MET says that not all blocks are in a cache. A cache is made durable as a
//! whole, whatever range is named, and IMMED does not hurry the answer: it comes when everything is
//! durable.

use super::decide::{Request, Step};
use super::operation::Operation;
use super::sense::Sense;

pub(super) fn pre_fetch(request: &Request<'_>) -> Result<Step, Sense> {
    request.cdb.extent().range(&request.geometry)?;
    Ok(Step::GOOD)
}

pub(super) fn synchronize(request: &Request<'_>) -> Result<Step, Sense> {
    request.cdb.extent().range(&request.geometry)?;
    Ok(Step::Do(Operation::Flush))
}
