//! REPORT TARGET PORT GROUPS (SPC-4 6.37): one group with one port, active and optimized.

use super::decide::{Request, Step};
use super::sense::Sense;

/// The group, and the port's relative number: there is one of each.
pub(super) const GROUP: u16 = 1;
pub(super) const RELATIVE_PORT: u16 = 1;

/// Active/optimized is all a group can be (AO_SUP).
const ACTIVE_OPTIMIZED_SUPPORTED: u8 = 0x01;

pub(super) fn report(request: &Request<'_>) -> Result<Step, Sense> {
    let mut header = match request.cdb.byte(1) >> 5 {
        0 => vec![0; 4],
        // With the extended header: its format, and no time for implicit transitions.
        1 => vec![0, 0, 0, 0, 0x10, 0, 0, 0],
        _ => return Err(Sense::invalid_field(1, 7)),
    };
    let group = GROUP.to_be_bytes();
    let port = RELATIVE_PORT.to_be_bytes();
    header.extend([0, ACTIVE_OPTIMIZED_SUPPORTED, group[0], group[1], 0, 0, 0, 1]);
    header.extend([0, 0, port[0], port[1]]);
    let length = u32::try_from(header.len() - 4).expect("short");
    header[..4].copy_from_slice(&length.to_be_bytes());
    Ok(Step::bytes(header, request.cdb.length(6, 4)))
}
