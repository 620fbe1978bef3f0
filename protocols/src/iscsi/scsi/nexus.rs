//! An initiator's relation to the device: where commands come in.
//!
//! ```text
//!   decide:   LUN ─▶ table ─▶ unit attention ─▶ bits of the CDB ─▶ medium ─▶ write protection
//!                 ─▶ fields and range
//!             each step may answer; nothing behind it has been looked at then
//! ```

use super::attention::Attention;
use super::device::{Audience, Device};
use super::lun::{Addressed, Lun};
use super::sense::{Sense, SenseFormat};
use super::task::{Completion, Decision, Task};
use landfall_disks::Buffer;
use std::sync::Arc;

/// An iSCSI initiator port: what tells two sessions of a target apart (RFC 7143 4.4.2, SAM-5
/// 4.6.4).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InitiatorPort {
    /// iSCSI name of the initiator.
    pub name: String,
    /// The initiator's part of the session identifier.
    pub isid: [u8; 6],
}

/// Tells nexuses apart, also two that follow each other with the same port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NexusId(u64);

impl NexusId {
    pub(super) const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// What a task management function resets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetScope {
    /// One logical unit (LOGICAL UNIT RESET).
    Unit(Lun),
    /// All units of the target (TARGET WARM RESET, TARGET COLD RESET).
    Target,
}

/// An I_T nexus: one initiator port and this device. It ends when it is dropped, if it has not
/// ended before.
#[derive(Debug)]
pub struct Nexus {
    device: Arc<Device>,
    id: NexusId,
}

impl Nexus {
    pub(super) fn new(device: Arc<Device>, id: NexusId) -> Self {
        Self { device, id }
    }

    /// The device it belongs to.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Ends it before it is dropped, for its initiator is gone: commands that still run keep it
    /// from being dropped.
    pub fn end(&self) {
        self.device.leave(self.id);
    }

    /// What becomes of the command `cdb` to `lun`. Waits for nothing, reads and writes no disk.
    ///
    /// Commands that need neither are done here and now; the others come back as a [`Task`]. A CDB
    /// is as long as its operation code says (SAM-5 5.2); bytes behind it, with which iSCSI fills
    /// its field of sixteen, are not looked at.
    ///
    /// `announced` is how many bytes of data-out the initiator says it has: commands that mean
    /// nothing with more or less than what they ask for (WRITE SAME, COMPARE AND WRITE) are refused
    /// then; the others take what they ask for, or what there is.
    pub fn decide(&self, lun: Lun, cdb: &[u8], announced: u32) -> Decision {
        super::decide::decide(&self.device, self.id, lun, cdb, announced)
    }

    /// Executes `task`, whose data-out is `data_out`: [`Task::data_out`] bytes, in one piece from
    /// their first to their last.
    ///
    /// The future is bound to the I/O core that polls it first. It should be polled to its end also
    /// when the task is aborted: see [`Task`].
    pub async fn execute(&self, task: &Task, data_out: Buffer) -> Completion {
        super::execute::execute(&self.device, self.id, task, data_out).await
    }

    /// Does what a reset does beside ending tasks, which whoever serves the sessions has done
    /// before: values that were set go back to their defaults, and every nexus of the units learns
    /// of it. `false` if there is no such unit.
    pub fn reset(&self, scope: ResetScope) -> bool {
        let (units, attention) = match scope {
            ResetScope::Target => (self.device.units(), Attention::TargetReset),
            ResetScope::Unit(lun) => {
                let Addressed::Unit(number) = lun.addressed() else { return false };
                let Some(unit) = self.device.unit(number) else { return false };
                (vec![unit], Attention::UnitReset)
            }
        };
        for unit in units {
            let mut state = unit.state();
            state.reset();
            state.tell(attention, Audience::All);
        }
        true
    }

    /// Tasks of this nexus at `lun` were aborted by another nexus (CLEAR TASK SET): it is told
    /// (SAM-5 5.14, TAS being zero).
    pub fn cleared_by_another(&self, lun: Lun) {
        if let Addressed::Unit(number) = lun.addressed()
            && let Some(unit) = self.device.unit(number)
        {
            unit.tell(Attention::CommandsCleared, Audience::Only(self.id));
        }
    }

    /// Whether `lun` addresses a unit that is there: what task management has to know.
    pub fn has_unit(&self, lun: Lun) -> bool {
        match lun.addressed() {
            Addressed::Unit(number) => self.device.unit(number).is_some(),
            Addressed::ReportLuns => true,
            Addressed::Nothing => false,
        }
    }

    /// CHECK CONDITION for what the transport found wrong with a command to `lun`, in the format
    /// its initiators want.
    pub fn check(&self, lun: Lun, sense: Sense) -> Completion {
        let unit = match lun.addressed() {
            Addressed::Unit(number) => self.device.unit(number),
            Addressed::ReportLuns | Addressed::Nothing => None,
        };
        let format = unit.map_or(SenseFormat::Fixed, |unit| unit.state().modes().sense_format());
        Completion::check(sense, format)
    }
}

impl Drop for Nexus {
    fn drop(&mut self) {
        self.end();
    }
}
