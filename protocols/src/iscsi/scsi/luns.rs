//! REPORT LUNS (SPC-4 6.33).

use super::cdb::Cdb;
use super::device::Device;
use super::lun::{Addressed, Lun, LunNumber};
use super::nexus::NexusId;
use super::sense::Sense;
use super::task::DataIn;

/// Whether `lun` is number zero, where the list is to be had even if no unit is there.
pub(super) fn at_zero(lun: Lun) -> bool {
    lun.addressed() == Addressed::Unit(LunNumber::default())
}

/// The list that SELECT REPORT asks for.
pub(super) fn report(device: &Device, nexus: NexusId, cdb: &Cdb) -> Result<DataIn, Sense> {
    let units = || device.units().iter().map(|unit| Lun::from(unit.number)).collect::<Vec<_>>();
    let list = match cdb.byte(2) {
        // All but well known ones; the same without subsidiary ones, of which there are none.
        0x00 | 0x11 => units(),
        // Well known ones.
        0x01 => vec![Lun::REPORT_LUNS],
        0x02 => [units(), vec![Lun::REPORT_LUNS]].concat(),
        // Administrative ones.
        0x10 => Vec::new(),
        _ => return Err(Sense::invalid_field(2, 7)),
    };
    device.list_reported(nexus);
    let length = u32::try_from(8 * list.len()).expect("as many as 14 bits can number");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(list.iter().flat_map(|lun| lun.to_bytes()));
    bytes.truncate(cdb.length(6, 4));
    Ok(DataIn::Bytes(bytes))
}
