//! MODE SENSE (SPC-4 6.13, 6.14).

use super::pages::{Contents, Page, Values};
use crate::iscsi::scsi::decide::{Request, Step};
use crate::iscsi::scsi::device::LogicalUnit;
use crate::iscsi::scsi::sense::{Additional, Sense};
use landfall_disks::Geometry;

/// Device-specific parameter of a disk (SBC-4 6.5.1): write protected; DPO and FUA are understood.
const WRITE_PROTECT: u8 = 0x80;
const DPO_FUA: u8 = 0x10;

const NO_BLOCK_DESCRIPTORS: u8 = 0x08;
const LONG_LBA_ACCEPTED: u8 = 0x10;
const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

pub(in crate::iscsi::scsi) fn sense6(request: &Request<'_>) -> Result<Step, Sense> {
    let pages = pages(request)?;
    let block = block_descriptor(request, false);
    let length = |bytes: usize| u8::try_from(bytes).expect("all pages are short");
    // The length does not count itself.
    let mut bytes = vec![length(3 + block.len() + pages.len()), 0, device_specific(request)];
    bytes.push(length(block.len()));
    bytes.extend(block);
    bytes.extend(pages);
    Ok(Step::bytes(bytes, request.cdb.length(4, 1)))
}

pub(in crate::iscsi::scsi) fn sense10(request: &Request<'_>) -> Result<Step, Sense> {
    let pages = pages(request)?;
    let long = request.cdb.has(1, LONG_LBA_ACCEPTED);
    let block = block_descriptor(request, long);
    let length = |bytes: usize| u16::try_from(bytes).expect("all pages are short").to_be_bytes();
    let mut bytes = length(6 + block.len() + pages.len()).to_vec();
    bytes.extend([0, device_specific(request), u8::from(block.len() == 16), 0]);
    bytes.extend(length(block.len()));
    bytes.extend(block);
    bytes.extend(pages);
    Ok(Step::bytes(bytes, request.cdb.length(7, 2)))
}

fn device_specific(request: &Request<'_>) -> u8 {
    let protected = request.geometry.read_only
        || request.unit.unit.write_protected
        || request.unit.state().modes().protects();
    if protected { DPO_FUA | WRITE_PROTECT } else { DPO_FUA }
}

fn block_descriptor(request: &Request<'_>, long: bool) -> Vec<u8> {
    if request.cdb.has(1, NO_BLOCK_DESCRIPTORS) {
        return Vec::new();
    }
    if long { long_descriptor(&request.geometry) } else { short_descriptor(&request.geometry) }
}

/// Number of blocks and their length, SBC-4 6.5.2.2.
pub(super) fn short_descriptor(geometry: &Geometry) -> Vec<u8> {
    let blocks = geometry.size_bytes / u64::from(geometry.logical_sector);
    let mut bytes = u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    // Three bytes; the one before them is reserved.
    bytes.extend(geometry.logical_sector.to_be_bytes());
    bytes
}

/// The same with 64 bits, SBC-4 6.5.2.3.
pub(super) fn long_descriptor(geometry: &Geometry) -> Vec<u8> {
    let blocks = geometry.size_bytes / u64::from(geometry.logical_sector);
    let mut bytes = blocks.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(geometry.logical_sector.to_be_bytes());
    bytes
}

fn pages(request: &Request<'_>) -> Result<Vec<u8>, Sense> {
    let values = match request.cdb.byte(2) >> 6 {
        0 => Values::Current,
        1 => Values::Changeable,
        2 => Values::Default,
        _ => return Err(Sense::illegal(Additional::SAVING_NOT_SUPPORTED)),
    };
    let contents = request.unit.contents();
    let (code, subpage) = (request.cdb.byte(2) & ALL_PAGES, request.cdb.byte(3));
    let mut of_code =
        contents.pages().filter(|page| code == ALL_PAGES || page.code() == code).peekable();
    of_code.peek().ok_or(Sense::invalid_field(2, 5))?;
    let wanted = |page: &Page| match subpage {
        ALL_SUBPAGES => true,
        0 => page.subpage() == 0,
        // There is no such thing as a subpage of all pages.
        _ => code != ALL_PAGES && page.subpage() == subpage,
    };
    let bytes: Vec<u8> =
        of_code.filter(wanted).flat_map(|page| contents.encode(page, values)).collect();
    // No page is empty.
    if bytes.is_empty() { Err(Sense::invalid_field(3, 7)) } else { Ok(bytes) }
}

impl LogicalUnit {
    /// What its pages are made of now.
    pub(super) fn contents(&self) -> Contents {
        let threshold = self.threshold();
        Contents { modes: self.state().modes(), threshold }
    }
}
