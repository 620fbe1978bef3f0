//! From a CDB to what becomes of it, without waiting for anything.
//!
//! The order of the checks is that of the picture in `nexus`: what is found first is answered.

use super::cdb::Cdb;
use super::command::{self, Attentions, Command, Entry, Medium};
use super::device::{Device, LogicalUnit};
use super::lun::{Addressed, Lun};
use super::nexus::NexusId;
use super::operation::Operation;
use super::sense::{Additional, Sense, SenseFormat, SenseKey};
use super::task::{Completion, DataIn, Decision, Task};
use super::{
    cache, capacity, compare, defects, inquiry, log, luns, medium, mode, opcodes, ports,
    provisioning, request_sense, transfer, unmap, verify, write_same,
};
use landfall_disks::{Geometry, Ticket};
use std::sync::Arc;

/// What a family of commands makes of a CDB.
#[derive(Debug)]
pub(super) enum Step {
    /// It is done.
    Done(DataIn),
    /// The disk or data-out is needed.
    Do(Operation),
}

impl Step {
    pub(super) const GOOD: Self = Self::Done(DataIn::Nothing);

    /// Done with `bytes`, of which no more than `allocation` are wanted (SPC-4 4.3.5.6).
    pub(super) fn bytes(mut bytes: Vec<u8>, allocation: usize) -> Self {
        bytes.truncate(allocation);
        Self::Done(DataIn::Bytes(bytes))
    }
}

/// What the families are given.
pub(super) struct Request<'a> {
    pub(super) device: &'a Device,
    pub(super) nexus: NexusId,
    pub(super) unit: &'a LogicalUnit,
    pub(super) geometry: Geometry,
    pub(super) cdb: Cdb,
    /// Bytes of data-out the initiator has.
    pub(super) announced: usize,
}

impl Request<'_> {
    /// That the initiator has exactly `bytes` of data-out: less or more would mean something else.
    pub(super) fn announced_exactly(&self, bytes: usize) -> Result<(), Sense> {
        if self.announced == bytes {
            return Ok(());
        }
        Err(Sense::illegal(Additional::INVALID_INFORMATION_UNIT))
    }
}

pub(super) fn decide(
    device: &Device,
    nexus: NexusId,
    lun: Lun,
    cdb: &[u8],
    announced: u32,
) -> Decision {
    let unit = match lun.addressed() {
        Addressed::Unit(number) => device.unit(number),
        Addressed::ReportLuns | Addressed::Nothing => None,
    };
    let Some(unit) = unit else {
        let outcome = without_unit(device, nexus, lun, cdb);
        return Decision::Answer(answer(outcome, SenseFormat::Fixed));
    };
    let geometry = unit.geometry();
    let found = command::find(cdb);
    let (format, ready) = {
        let mut state = unit.state();
        state.look_at_size(geometry.size_bytes);
        let told = found.as_ref().is_ok_and(|entry| entry.attentions == Attentions::Kept);
        let attention = if told { None } else { state.take_attention(nexus) };
        let format = state.modes().sense_format();
        if let Some(attention) = attention {
            return Decision::Answer(Completion::check(attention.sense(), format));
        }
        let protected = geometry.read_only || unit.unit.write_protected || state.modes().protects();
        (format, Ready { ejected: state.is_ejected(), protected })
    };
    let outcome = found.and_then(|entry| {
        let cdb = command::checked(entry, cdb)?;
        ready.check(entry)?;
        let announced = usize::try_from(announced).expect("32 bits fit");
        let request = Request { device, nexus, unit: &unit, geometry, cdb, announced };
        Ok((entry.command, step(entry.command, &request)?))
    });
    match outcome {
        Ok((command, Step::Do(operation))) => {
            let announced = usize::try_from(announced).expect("32 bits fit");
            Decision::Do(Task {
                command,
                unit: Arc::clone(&unit),
                operation,
                announced,
                ticket: Ticket::default(),
            })
        }
        Ok((_, Step::Done(data_in))) => Decision::Answer(answer(Ok(data_in), format)),
        Err(sense) => Decision::Answer(answer(Err(sense), format)),
    }
}

fn answer(outcome: Result<DataIn, Sense>, format: SenseFormat) -> Completion {
    match outcome {
        Ok(data_in) => Completion { data_in, ..Completion::GOOD },
        Err(sense) => Completion::check(sense, format),
    }
}

/// Whether the medium can be used.
struct Ready {
    ejected: bool,
    protected: bool,
}

impl Ready {
    fn check(&self, entry: &Entry) -> Result<(), Sense> {
        if self.ejected && entry.medium != Medium::Unneeded {
            return Err(Sense::new(SenseKey::NotReady, Additional::NO_MEDIUM));
        }
        if self.protected && entry.medium == Medium::Written {
            return Err(Sense::new(SenseKey::DataProtect, Additional::WRITE_PROTECTED));
        }
        Ok(())
    }
}

/// Where there is no unit, three commands are answered all the same (SAM-5 4.6.4, SPC-4 6.6, 6.33
/// and 6.39), and the well known unit is ready.
fn without_unit(device: &Device, nexus: NexusId, lun: Lun, cdb: &[u8]) -> Result<DataIn, Sense> {
    let known = lun.addressed() == Addressed::ReportLuns;
    // That there is no unit comes before everything that may be wrong with the command.
    let refused = |sense| if known { sense } else { Sense::illegal(Additional::NOT_SUPPORTED_LUN) };
    let entry = command::find(cdb).map_err(refused)?;
    let checked = || command::checked(entry, cdb);
    match entry.command {
        Command::Inquiry => inquiry::without_unit(device, known, &checked()?),
        Command::ReportLuns if known || luns::at_zero(lun) => {
            luns::report(device, nexus, &checked()?)
        }
        Command::RequestSense => {
            let sense = refused(Sense::NONE);
            Ok(request_sense::encode(sense, &checked()?))
        }
        Command::TestUnitReady if known => checked().map(|_| DataIn::Nothing),
        _ => Err(refused(Sense::illegal(Additional::INVALID_OPERATION_CODE))),
    }
}

fn step(command: Command, request: &Request<'_>) -> Result<Step, Sense> {
    match command {
        Command::TestUnitReady => Ok(Step::GOOD),
        Command::RequestSense => Ok(request_sense::request_sense(request)),
        Command::Inquiry => inquiry::inquiry(request),
        Command::ReportLuns => {
            luns::report(request.device, request.nexus, &request.cdb).map(Step::Done)
        }
        Command::ModeSense6 => mode::sense6(request),
        Command::ModeSense10 => mode::sense10(request),
        Command::ModeSelect6 => Ok(mode::select6(request)),
        Command::ModeSelect10 => Ok(mode::select10(request)),
        Command::LogSense => log::sense(request),
        Command::StartStopUnit => medium::start_stop(request),
        Command::PreventAllow => medium::prevent_allow(request),
        Command::ReadCapacity10 => Ok(capacity::ten(request)),
        Command::ReadCapacity16 => Ok(capacity::sixteen(request)),
        Command::Read6 | Command::Read10 | Command::Read12 | Command::Read16 => {
            transfer::read(request)
        }
        Command::Write6 | Command::Write10 | Command::Write12 | Command::Write16 => {
            transfer::write(request)
        }
        Command::WriteAndVerify10 | Command::WriteAndVerify12 | Command::WriteAndVerify16 => {
            verify::write_and_verify(request)
        }
        Command::Verify10 | Command::Verify12 | Command::Verify16 => verify::verify(request),
        Command::PreFetch10 | Command::PreFetch16 => cache::pre_fetch(request),
        Command::SynchronizeCache10 | Command::SynchronizeCache16 => cache::synchronize(request),
        Command::WriteSame10 | Command::WriteSame16 => write_same::write_same(request),
        Command::Unmap => Ok(unmap::unmap(request)),
        Command::CompareAndWrite => compare::compare_and_write(request),
        Command::OrWrite => compare::or_write(request),
        Command::GetLbaStatus => provisioning::lba_status(request),
        Command::ReadDefectData10 => Ok(defects::ten(request)),
        Command::ReadDefectData12 => Ok(defects::twelve(request)),
        Command::ReportTargetPortGroups => ports::report(request),
        Command::ReportOperationCodes => opcodes::report(request),
        Command::ReportTaskManagement => opcodes::task_management(request),
    }
}
