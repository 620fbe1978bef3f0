//! From a CDB to what becomes of it.
use super::device::Device;
use super::lun::Lun;
use super::nexus::NexusId;
use super::sense::{Additional, Sense, SenseFormat};
use super::task::{Completion, Decision};

pub(super) fn decide(
    _device: &Device,
    _nexus: NexusId,
    _lun: Lun,
    _cdb: &[u8],
    _announced: u32,
) -> Decision {
    let sense = Sense::illegal(Additional::INVALID_OPERATION_CODE);
    Decision::Answer(Completion::check(sense, SenseFormat::Fixed))
}
