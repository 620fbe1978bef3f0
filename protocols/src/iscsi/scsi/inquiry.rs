//! INQUIRY, standard data and the choice of vital product data pages (SPC-4 6.6).

use super::cdb::Cdb;
use super::decide::{Request, Step};
use super::device::Device;
use super::sense::Sense;
use super::task::DataIn;
use super::unit::Unit;
use super::vpd;

/// Bytes of standard data, version descriptors included.
const STANDARD_BYTES: usize = 96;

/// Peripheral device types, and the qualifier that says that no unit can be here (SPC-4 tables 144
/// and 145).
pub(super) const DISK: u8 = 0x00;
pub(super) const WELL_KNOWN: u8 = 0x1e;
const NOTHING: u8 = 0x7f;

const EVPD: u8 = 0x01;
/// RMB.
const REMOVABLE: u8 = 0x80;
/// VERSION: SPC-4.
const SPC_4: u8 = 0x06;
/// HISUP, and response data format 2.
const FORMAT: u8 = 0x12;
/// TPGS: asymmetric access changes by itself only.
const IMPLICIT_PORT_GROUPS: u8 = 0x10;
/// CMDQUE.
const QUEUES: u8 = 0x02;
/// SAM-5, SPC-4, SBC-3 and iSCSI, without a version of theirs (SPC-4 table 151).
const VERSIONS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];

pub(super) fn inquiry(request: &Request<'_>) -> Result<Step, Sense> {
    let (cdb, unit) = (&request.cdb, &request.unit.unit);
    let bytes = if cdb.has(1, EVPD) {
        let page = vpd::page(request.device, unit, &request.geometry, cdb.byte(2));
        page.ok_or(Sense::invalid_field(2, 7))?
    } else {
        standard(unit, cdb)?
    };
    Ok(Step::bytes(bytes, cdb.length(3, 2)))
}

fn standard(unit: &Unit, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
    let mut bytes = header(DISK, cdb)?;
    if unit.removable {
        bytes[1] = REMOVABLE;
    }
    bytes[5] = IMPLICIT_PORT_GROUPS;
    bytes[7] = QUEUES;
    unit.identity.write_names(&mut bytes[8..36]);
    Ok(bytes)
}

/// What all standard data has; page codes are for vital product data only.
fn header(peripheral: u8, cdb: &Cdb) -> Result<Vec<u8>, Sense> {
    if cdb.byte(2) != 0 {
        return Err(Sense::invalid_field(2, 7));
    }
    let mut bytes = vec![0; STANDARD_BYTES];
    bytes[0] = peripheral;
    bytes[2] = SPC_4;
    bytes[3] = FORMAT;
    bytes[4] = u8::try_from(STANDARD_BYTES - 5).expect("short");
    bytes[8..36].fill(b' ');
    for (place, version) in VERSIONS.into_iter().enumerate() {
        bytes[58 + 2 * place..60 + 2 * place].copy_from_slice(&version.to_be_bytes());
    }
    Ok(bytes)
}

/// Where no disk is: the well known unit if `known`, else nothing.
pub(super) fn without_unit(device: &Device, known: bool, cdb: &Cdb) -> Result<DataIn, Sense> {
    let mut bytes = match (cdb.has(1, EVPD), known) {
        (false, _) => header(if known { WELL_KNOWN } else { NOTHING }, cdb)?,
        (true, true) => {
            let page = vpd::well_known_page(device, cdb.byte(2));
            page.ok_or(Sense::invalid_field(2, 7))?
        }
        (true, false) => return Err(Sense::invalid_field(1, 0)),
    };
    bytes.truncate(cdb.length(3, 2));
    Ok(DataIn::Bytes(bytes))
}
