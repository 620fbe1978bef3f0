//! READ DEFECT DATA (SBC-4 5.17, 5.18): there are none to report, whichever list and format is
//! asked for.

use super::decide::{Request, Step};

/// The primary list, the grown list, and the format.
const ASKED: u8 = 0x1f;

pub(super) fn ten(request: &Request<'_>) -> Step {
    let header = vec![0, request.cdb.byte(2) & ASKED, 0, 0];
    Step::bytes(header, request.cdb.length(7, 2))
}

pub(super) fn twelve(request: &Request<'_>) -> Step {
    let header = vec![0, request.cdb.byte(1) & ASKED, 0, 0, 0, 0, 0, 0];
    Step::bytes(header, request.cdb.length(6, 4))
}
