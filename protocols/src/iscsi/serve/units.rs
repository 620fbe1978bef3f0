//! What the session asks of SCSI, answered by a nexus.

use crate::iscsi::scsi::Additional;
use crate::iscsi::scsi::{
    Addressed, Completion, DataIn, Decision, Lun, Nexus, Sense, SenseKey, Status, Task,
};
use crate::iscsi::session::collection::Fault;
use crate::iscsi::session::full::{Logical, Outcome, Verdict, Work};
use crate::iscsi::wire::CDB;
use crate::iscsi::wire::number::LunField;
use landfall_disks::Buffer;

/// The units of a nexus; none in a discovery session.
pub(super) struct Units(pub(super) Option<Nexus>);

impl Logical for Units {
    type Task = Task;

    fn decide(&self, lun: LunField, cdb: &[u8; CDB], announced: u32) -> Verdict<Task> {
        let nexus = self.0.as_ref().expect("a discovery session has no commands");
        match nexus.decide(Lun::from_bytes(lun.0), cdb, announced) {
            Decision::Answer(completion) => Verdict::Answer(outcome(completion)),
            Decision::Do(task) => Verdict::Do(Work {
                needed: u32::try_from(task.data_out()).expect("no more than was announced"),
                wanted: u64::try_from(task.data_out_wanted()).expect("a usize fits 64 bits"),
                data_in: u64::try_from(task.data_in_limit()).expect("a usize fits 64 bits"),
                task,
            }),
        }
    }

    fn unit(&self, lun: LunField) -> Option<LunField> {
        let nexus = self.0.as_ref()?;
        let lun = Lun::from_bytes(lun.0);
        if !nexus.has_unit(lun) {
            return None;
        }
        match lun.addressed() {
            Addressed::Unit(number) => Some(LunField(Lun::from(number).to_bytes())),
            Addressed::ReportLuns => Some(LunField(Lun::REPORT_LUNS.to_bytes())),
            Addressed::Nothing => None,
        }
    }

    fn spoilt(&self, lun: LunField, fault: Fault) -> Outcome {
        let nexus = self.0.as_ref().expect("a discovery session has no commands");
        let additional = match fault {
            Fault::Damaged => Additional::PROTOCOL_SERVICE_CRC,
            Fault::Unexpected => Additional::UNEXPECTED_UNSOLICITED_DATA,
            Fault::Amount => Additional::NOT_ENOUGH_UNSOLICITED_DATA,
        };
        let sense = Sense::new(SenseKey::AbortedCommand, additional);
        outcome(nexus.check(Lun::from_bytes(lun.0), sense))
    }
}

/// As the session has it.
pub(super) fn outcome(completion: Completion) -> Outcome {
    let (status, sense) = (completion.status.byte(), completion.sense_bytes());
    let data = match completion.data_in {
        DataIn::Nothing => Buffer::zeroed(0),
        DataIn::Bytes(bytes) => Buffer::copy_of(&bytes),
        DataIn::Blocks(buffer) => buffer,
    };
    Outcome { status, sense, data }
}

/// Whether a command ended as it should.
pub(super) fn is_good(outcome: &Outcome) -> bool {
    [Status::Good.byte(), Status::ConditionMet.byte()].contains(&outcome.status)
}
