//! REQUEST SENSE (SPC-4 6.39): sense data as data, with GOOD.

use super::cdb::Cdb;
use super::decide::{Request, Step};
use super::sense::{Additional, Sense, SenseFormat, SenseKey};
use super::task::DataIn;

/// What would be told with the next command; a unit attention is told by it.
pub(super) fn request_sense(request: &Request<'_>) -> Step {
    let mut state = request.unit.state();
    let sense = match state.take_attention(request.nexus) {
        Some(attention) => attention.sense(),
        None if state.is_ejected() => Sense::new(SenseKey::NotReady, Additional::NO_MEDIUM),
        None => Sense::NONE,
    };
    Step::Done(encode(sense, &request.cdb))
}

/// As `cdb` wants it.
pub(super) fn encode(sense: Sense, cdb: &Cdb) -> DataIn {
    let format = if cdb.has(1, 0x01) { SenseFormat::Descriptor } else { SenseFormat::Fixed };
    let mut bytes = sense.encode(format);
    bytes.truncate(cdb.length(4, 1));
    DataIn::Bytes(bytes)
}
