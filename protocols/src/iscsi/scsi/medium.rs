//! START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL (SBC-4 5.25, 6.13).
//!
//! A disk has no power conditions: to be stopped, idle or in standby makes durable what was
//! written, NO_FLUSH or not, and leaves the unit ready. Guests stop their disks when they shut
//! down; the next one, or its firmware, has to find them ready.

use super::attention::Attention;
use super::decide::{Request, Step};
use super::device::Audience;
use super::operation::Operation;
use super::sense::{Additional, Sense};

const START: u8 = 0x01;
const LOAD_EJECT: u8 = 0x02;
/// Low four bits of the fourth byte.
const MODIFIER: u8 = 0x0f;

/// What a POWER CONDITION and its modifier ask for (SBC-3 table 86).
fn power_condition(condition: u8, modifier: u8) -> Result<Step, Sense> {
    let (step, modifiers) = match condition {
        // ACTIVE, and LU_CONTROL: the unit's own timers, of which it has none.
        0x1 | 0x7 => (Step::GOOD, 1),
        // IDLE, and by force.
        0x2 | 0xa => (Step::Do(Operation::Flush), 3),
        // STANDBY, and by force.
        0x3 | 0xb => (Step::Do(Operation::Flush), 2),
        _ => return Err(Sense::invalid_field(4, 7)),
    };
    if modifier < modifiers { Ok(step) } else { Err(Sense::invalid_field(3, 3)) }
}

pub(super) fn start_stop(request: &Request<'_>) -> Result<Step, Sense> {
    let start = request.cdb.has(4, START);
    // With a power condition, START and LOEJ mean nothing.
    match request.cdb.byte(4) >> 4 {
        0 => {}
        condition => return power_condition(condition, request.cdb.byte(3) & MODIFIER),
    }
    if !request.cdb.has(4, LOAD_EJECT) {
        return Ok(if start { Step::GOOD } else { Step::Do(Operation::Flush) });
    }
    if !request.unit.unit.removable {
        return Err(Sense::invalid_field(4, 1));
    }
    let mut state = request.unit.state();
    if start && !state.is_ejected() {
        return Ok(Step::GOOD);
    }
    // Neither out nor in.
    if !state.preventing.is_empty() {
        return Err(Sense::illegal(Additional::REMOVAL_PREVENTED));
    }
    if start {
        state.set_ejected(false);
        state.tell(Attention::MediumChanged, Audience::AllBut(request.nexus));
        return Ok(Step::GOOD);
    }
    Ok(if state.is_ejected() { Step::GOOD } else { Step::Do(Operation::Eject) })
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
