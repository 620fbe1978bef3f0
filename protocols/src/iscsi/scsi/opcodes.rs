//! REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.35,
//! 6.36), from the table.

use super::command::{Entry, TABLE};
use super::decide::{Request, Step};
use super::sense::Sense;

/// REPORTING OPTIONS, the low three bits of byte 2.
const OPTIONS: u8 = 0x07;
/// RCTD, and REPD: also tell how long it may take.
const TIMEOUTS: u8 = 0x80;

/// A command timeouts descriptor (SPC-4 6.35.4) that says nothing is known.
const TIMEOUTS_DESCRIPTOR: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// SUPPORT: not supported; supported as the standard says.
const NOT_SUPPORTED: u8 = 0x01;
const SUPPORTED: u8 = 0x03;
/// CTDP of the two formats, and SERVACTV.
const ONE_TIMEOUTS: u8 = 0x80;
const ALL_TIMEOUTS: u8 = 0x02;
const SERVICE_ACTION_VALID: u8 = 0x01;

pub(super) fn report(request: &Request<'_>) -> Result<Step, Sense> {
    let cdb = &request.cdb;
    let timeouts = cdb.has(2, TIMEOUTS);
    let (code, action) = (cdb.byte(3), cdb.u16(4));
    let alike = || TABLE.iter().filter(|entry| entry.operation_code() == code);
    let shared = alike().any(|entry| entry.service_action.is_some());
    let known = alike().next().is_some();
    let acting = || alike().find(|entry| entry.service_action.map(u16::from) == Some(action));
    let bytes = match cdb.byte(2) & OPTIONS {
        0 => all(timeouts),
        // By its code, which must not be shared.
        1 if shared => return Err(Sense::invalid_field(3, 7)),
        1 => one(alike().next(), timeouts),
        // By code and action, which the code must have.
        2 if known && !shared => return Err(Sense::invalid_field(4, 7)),
        2 => one(acting(), timeouts),
        // By both, with no action where there are none.
        3 if shared => one(acting(), timeouts),
        3 if action == 0 => one(alike().next(), timeouts),
        3 => one(None, timeouts),
        _ => return Err(Sense::invalid_field(2, 2)),
    };
    Ok(Step::bytes(bytes, cdb.length(6, 4)))
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for entry in TABLE {
        let action = u16::from(entry.service_action.unwrap_or(0)).to_be_bytes();
        let mut flags = if timeouts { ALL_TIMEOUTS } else { 0 };
        if entry.service_action.is_some() {
            flags |= SERVICE_ACTION_VALID;
        }
        let [high, low] = cdb_length(entry);
        bytes.extend([entry.operation_code(), 0, action[0], action[1], 0, flags, high, low]);
        if timeouts {
            bytes.extend(TIMEOUTS_DESCRIPTOR);
        }
    }
    let length = u32::try_from(bytes.len() - 4).expect("short");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn one(entry: Option<&Entry>, timeouts: bool) -> Vec<u8> {
    let Some(entry) = entry else { return vec![0, NOT_SUPPORTED, 0, 0] };
    let [high, low] = cdb_length(entry);
    let flags = if timeouts { SUPPORTED | ONE_TIMEOUTS } else { SUPPORTED };
    let mut bytes = vec![0, flags, high, low];
    bytes.extend(entry.usage);
    if timeouts {
        bytes.extend(TIMEOUTS_DESCRIPTOR);
    }
    bytes
}

fn cdb_length(entry: &Entry) -> [u8; 2] {
    u16::try_from(entry.usage.len()).expect("short").to_be_bytes()
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
const FUNCTIONS: u8 = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;
/// What follows the first four bytes of the extended format.
const EXTENDED_BYTES: u8 = 12;

pub(super) fn task_management(request: &Request<'_>) -> Result<Step, Sense> {
    let allocation = request.cdb.length(6, 4);
    if allocation < 4 {
        return Err(Sense::invalid_field(6, 7));
    }
    let mut bytes = vec![FUNCTIONS, 0, 0, 0];
    if request.cdb.has(2, TIMEOUTS) {
        bytes[3] = EXTENDED_BYTES;
        bytes.extend([0; EXTENDED_BYTES as usize]);
    }
    Ok(Step::bytes(bytes, allocation))
}
