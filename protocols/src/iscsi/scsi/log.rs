//! LOG SENSE (SPC-4 6.8): how much space there is (SBC-4 6.4.5), for whoever asked for a unit that
//! says so.

use super::decide::{Request, Step};
use super::sense::Sense;
use super::unit::SpaceLeft;
use super::vpd::THRESHOLD_EXPONENT;

const PAGE_CODE: u8 = 0x3f;
/// Supported log pages; the same with subpages, of which there are none but this list.
const SUPPORTED: u8 = 0x00;
const PROVISIONING: u8 = 0x0c;
const ALL_SUBPAGES: u8 = 0xff;
/// DS, and SPF for a page with a subpage code.
const NOT_SAVED: u8 = 0x80;
const SUBPAGE_FORMAT: u8 = 0x40;

/// Available and used LBA mapping resources.
const AVAILABLE: u16 = 1;
const USED: u16 = 2;

pub(super) fn sense(request: &Request<'_>) -> Result<Step, Sense> {
    let cdb = &request.cdb;
    let space = request.unit.unit.space.as_ref();
    let pages = if space.is_some() { vec![SUPPORTED, PROVISIONING] } else { vec![SUPPORTED] };
    let pointer = cdb.u16(5);
    let (header, body) = match (cdb.byte(2) & PAGE_CODE, cdb.byte(3)) {
        (SUPPORTED, 0) => ([SUPPORTED, 0], pages),
        (SUPPORTED, ALL_SUBPAGES) => {
            let pairs = pages.iter().flat_map(|page| [*page, 0]);
            let list = [SUPPORTED, ALL_SUBPAGES].into_iter();
            // In ascending order: the list of lists follows the list.
            let body = pairs.clone().take(2).chain(list).chain(pairs.skip(2)).collect();
            ([SUBPAGE_FORMAT | SUPPORTED, ALL_SUBPAGES], body)
        }
        (PROVISIONING, 0) if let Some(space) = space => {
            let block = u64::from(request.geometry.logical_sector);
            ([NOT_SAVED | PROVISIONING, 0], parameters(space.left().as_ref(), block, pointer)?)
        }
        (SUPPORTED, _) => return Err(Sense::invalid_field(3, 7)),
        (PROVISIONING, _) if space.is_some() => return Err(Sense::invalid_field(3, 7)),
        _ => return Err(Sense::invalid_field(2, 5)),
    };
    if body_has_no_parameters(header[0]) && pointer != 0 {
        return Err(Sense::invalid_field(5, 7));
    }
    let length = u16::try_from(body.len()).expect("every page is short").to_be_bytes();
    let bytes = [&header[..], &length, &body].concat();
    Ok(Step::bytes(bytes, cdb.length(7, 2)))
}

fn body_has_no_parameters(header: u8) -> bool {
    header & PAGE_CODE == SUPPORTED
}

/// The parameters from number `pointer` on; none as long as nothing is known.
fn parameters(left: Option<&SpaceLeft>, block: u64, pointer: u16) -> Result<Vec<u8>, Sense> {
    if pointer > USED {
        return Err(Sense::invalid_field(5, 7));
    }
    let of = |left: &SpaceLeft| [(AVAILABLE, left.available_bytes), (USED, left.used_bytes)];
    let from = left.map(of).into_iter().flatten().filter(|(code, _)| *code >= pointer);
    Ok(from.flat_map(|(code, bytes)| parameter(code, threshold_sets(bytes, block))).collect())
}

/// How many threshold sets of `block` bytes to a block `bytes` are.
pub(super) fn threshold_sets(bytes: u64, block: u64) -> u32 {
    u32::try_from(bytes / (block << THRESHOLD_EXPONENT)).unwrap_or(u32::MAX)
}

fn parameter(code: u16, count: u32) -> Vec<u8> {
    let mut bytes = code.to_be_bytes().to_vec();
    // FORMAT AND LINKING 11b, a list in binary, DU being zero; eight bytes follow.
    bytes.extend([0x03, 8]);
    bytes.extend(count.to_be_bytes());
    // Scope: not dedicated to this unit alone.
    bytes.extend([0x02, 0, 0, 0]);
    bytes
}
