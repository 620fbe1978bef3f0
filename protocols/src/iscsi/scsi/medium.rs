//! START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL (SBC-4 5.25, 6.13).
//!
//! A disk has no power conditions: whatever is asked for but ejecting and loading makes durable what was written and leaves the
//! unit ready. Guests stop their disks when they shut down; the next one, or its firmware, has to find them ready.

use super::attention::Attention;
use super::decide::{Request, Step};
use super::device::Audience;
use super::operation::Operation;
use super::sense::{Additional, Sense};

const START: u8 = 0x01;
const LOAD_EJECT: u8 = 0x02;
const POWER_CONDITION: u8 = 0xf0;

pub(super) fn start_stop(request: &Request<'_>) -> Result<Step, Sense> {
    let start = request.cdb.has(4, START);
    // SBC-4 table 84: with a power condition, START and LOEJ mean nothing.
    if request.cdb.has(4, POWER_CONDITION) {
        return Ok(Step::GOOD);
    }
    if !request.cdb.has(4, LOAD_EJECT) {
        return Ok(if start { Step::GOOD } else { Step::Do(Operation::Flush) });
    }
    if !request.unit.unit.removable {
        return Err(Sense::invalid_field(4, 1));
    }
    let mut state = request.unit.state();
    if start && !state.ejected {
        return Ok(Step::GOOD);
    }
    // Neither out nor in.
    if !state.preventing.is_empty() {
        return Err(Sense::illegal(Additional::REMOVAL_PREVENTED));
    }
    if start {
        state.ejected = false;
        state.tell(Attention::MediumChanged, Audience::AllBut(request.nexus));
        return Ok(Step::GOOD);
    }
    Ok(if state.ejected { Step::GOOD } else { Step::Do(Operation::Eject) })
}

pub(super) fn prevent_allow(request: &Request<'_>) -> Result<Step, Sense> {
    let mut state = request.unit.state();
    match request.cdb.byte(4) & 3 {
        0 => {
            state.preventing.remove(&request.nexus);
        }
        1 => {
            state.preventing.insert(request.nexus);
        }
        // Obsolete.
        _ => return Err(Sense::invalid_field(4, 1)),
    }
    Ok(Step::GOOD)
}
