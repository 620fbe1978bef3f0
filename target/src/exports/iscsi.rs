//! What iSCSI initiators can have: the exports that were set up for it, a target each, a unit for
//! each disk.
//!
//! ```text
//!   landfall export add web@latest --iscsi --writable
//!     iqn.2026-11.internal.landfall:web:3    unit 0: os, unit 1: data
//! ```
//!
//! **Invariants**
//! - Whoever an access list does not name is told no more of a target than of one that is not
//!   there.
//! - All sessions of a target share one device, so what one of them resets the others see; it lives
//!   as long as a session does, and what it shows with it. What they set lives as long as the
//!   export does, and this process.
//! - Commands that read in order to write are alone with their blocks, whoever else has the branch
//!   open: the locks are the branch's, of all its targets and of NBD.
//! - Units with one name are one unit to whoever has them (`clash`): a branch has the serial number
//!   and name of the machine's disk, and the physical blocks that guests know of disks in its
//!   image's format, so that a guest finds the disk it knows. A moment has names of its own, and no
//!   initiator has two writable targets of a machine at a time.
//! - A target that is withdrawn has no units, whenever it was opened.
//!
//! **Lock order:** `entering`, then `offered`, then what the manifest, devices and their units
//! lock. Nobody waits while holding either.

use super::clash::{clashing, serial_of};
use super::space::Levels;
use super::{RetentionExports, machine_of};
use futures_util::future::LocalBoxFuture;
use landfall_disks::{Disk, RangeLocks};
use landfall_protocols::iscsi::name::Name as IscsiName;
use landfall_protocols::iscsi::scsi::{
    Device, Identity, InitiatorPort, LunNumber, Naming, Nexus, Settings, Unit,
};
use landfall_protocols::iscsi::session::chap::{Chap, Credential, Secret};
use landfall_protocols::iscsi::session::login::{Demand, Want};
use landfall_protocols::iscsi::{OpenError, Targets, Visitor};
use landfall_retention::ids::{DiskIdentity, ExportId, Sequence};
use landfall_retention::manifest::iscsi::{ChapAccount, IscsiAccess};
use landfall_retention::name::{MomentName, Name};
use landfall_retention::{DiskStatus, ExportStatus, ResolveError, Retention};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

/// Most targets in an answer to SendTargets.
const LISTED: usize = 2000;

/// Bytes of a physical block of disks in `format`, as a hypervisor shows them to its guests:
/// Hyper-V says of a VHDX what is in it, which is 4096 in all that it makes and in all that are
/// made here; ESXi and QEMU know of nothing but 512.
fn physical_block(format: &str) -> u32 {
    if format == "vhdx" { 4096 } else { 512 }
}

/// The targets of a retention.
pub(crate) struct RetentionTargets {
    exports: Arc<RetentionExports>,
    /// How much space is left for what is written.
    levels: Arc<Levels>,
    settings: TargetSettings,
    /// Those that somebody has open, or had: a target is offered for as long as its export is
    /// there.
    offered: Mutex<HashMap<ExportId, Offered>>,
    /// Held from the look at which targets an initiator has until it has one more.
    entering: Mutex<()>,
}

/// A target that somebody has open, or had.
struct Offered {
    device: Weak<Device>,
    settings: SettingsOfDisks,
}

/// What initiators have set of the disks of a target.
type SettingsOfDisks = HashMap<DiskIdentity, Settings>;

/// What all targets have in common.
#[derive(Clone, Debug)]
pub(crate) struct TargetSettings {
    /// What their names begin with.
    pub(crate) prefix: String,
    /// What world wide names of disks are made of.
    pub(crate) naming: Naming,
    /// Only exports that say who may have them are offered.
    pub(crate) guarded: bool,
}

/// The name of the target that an export is. It begins with `prefix`.
pub(crate) fn target_name(prefix: &str, export: &ExportStatus) -> String {
    format!("{prefix}{}:{}", machine_of(&export.name), export.id)
}

impl RetentionTargets {
    /// The targets of `exports`, whose units know from `levels` how much space is left.
    pub(crate) fn new(
        exports: Arc<RetentionExports>,
        levels: Arc<Levels>,
        settings: TargetSettings,
    ) -> Self {
        Self { exports, levels, settings, offered: Mutex::default(), entering: Mutex::default() }
    }

    /// Whether exports have to say who may have them.
    pub(crate) fn is_guarded(&self) -> bool {
        self.settings.guarded
    }

    fn retention(&self) -> &Arc<Retention> {
        &self.exports.retention
    }

    /// The exports that are targets and that `visitor` may know of.
    fn known(&self, visitor: &Visitor) -> Vec<(ExportStatus, Arc<IscsiAccess>)> {
        let exports = self.retention().exports().into_iter();
        let targets = exports.filter_map(|export| {
            let access = export.iscsi.clone()?;
            let initiator = visitor.initiator.as_str();
            let names = &access.initiators;
            let may = names.is_empty() || names.iter().any(|one| one == initiator);
            let open = access.chap.is_none() && names.is_empty();
            (may && !(open && self.settings.guarded)).then_some((export, access))
        });
        targets.collect()
    }

    fn find(
        &self,
        target: &IscsiName,
        visitor: &Visitor,
    ) -> Result<(ExportStatus, Arc<IscsiAccess>), OpenError> {
        let of_name = |(export, _): &(ExportStatus, _)| {
            target_name(&self.settings.prefix, export) == target.as_str()
        };
        self.known(visitor).into_iter().find(of_name).ok_or(OpenError::Unknown)
    }

    /// The target of the export by which the initiator of `visitor` has disks that are called as
    /// those of `export`.
    fn clash(&self, export: &ExportStatus, visitor: &Visitor) -> Option<IscsiName> {
        let present = |other: ExportId| {
            let device = self.offered.lock().get(&other).and_then(|there| there.device.upgrade());
            device.is_some_and(|device| device.has_initiator(visitor.initiator.as_str()))
        };
        let exports = self.retention().exports();
        let other = clashing(export, &exports, present)?;
        let name = target_name(&self.settings.prefix, other);
        Some(IscsiName::parse(&name).expect("it has a device, which was found by that name"))
    }

    async fn device(
        &self,
        export: &ExportStatus,
        access: &IscsiAccess,
    ) -> Result<Arc<Device>, OpenError> {
        let open = || self.offered.lock().get(&export.id)?.device.upgrade();
        if let Some(device) = open() {
            return Ok(device);
        }
        let (made, settings) = self.make(export, access).await?;
        let mut offered = self.offered.lock();
        // Exports that go after this look are withdrawn after this, too. Numbers are never given
        // twice.
        let exports = self.retention().exports().into_iter();
        let there: HashSet<ExportId> = exports.map(|export| export.id).collect();
        offered.retain(|export, _| there.contains(export));
        if !there.contains(&export.id) {
            return Err(OpenError::Removed);
        }
        // Somebody else may have been faster, and has it by now.
        if let Some(device) = offered.get(&export.id).and_then(|there| there.device.upgrade()) {
            return Ok(device);
        }
        offered.insert(export.id, Offered { device: Arc::downgrade(&made), settings });
        Ok(made)
    }

    /// A device for the export, and what initiators have set of its disks, or will.
    async fn make(
        &self,
        export: &ExportStatus,
        access: &IscsiAccess,
    ) -> Result<(Arc<Device>, SettingsOfDisks), OpenError> {
        let before = self.offered.lock().get(&export.id).map(|there| there.settings.clone());
        let mut settings = before.unwrap_or_default();
        let name = MomentName::parse(&export.name);
        let name = name.map_err(|error| OpenError::Failed(error.to_string()))?;
        let device = Device::new(target_name(&self.settings.prefix, export));
        let disks = self.disks(&name, export)?;
        for (number, disk) in (0..).zip(disks) {
            let (content, locks) = self.open_disk(&name, export, &disk.name).await?;
            let named = Identity::new(serial_of(export, disk.identity));
            let mut unit = Unit::new(content, Identity { naming: self.settings.naming, ..named });
            unit.physical_block = physical_block(&disk.format);
            unit.locks = locks;
            // What is written to a branch is durable when it is answered; to a moment nothing is.
            unit.volatile_cache = false;
            unit.settings = settings.entry(disk.identity).or_default().clone();
            unit.write_protected = !export.writable;
            unit.removable = access.removable;
            unit.space = export.writable.then(|| self.levels.of(&name.machine));
            let number = LunNumber::new(number).expect("a machine has fewer disks");
            device.attach(number, unit).expect("numbers are given once");
        }
        self.levels.watch(&name.machine, &device);
        Ok((device, settings))
    }

    /// Takes the units of an export that is no more from whoever has it open. What has not begun by
    /// now does nothing.
    pub(crate) fn withdraw(&self, export: ExportId) {
        let offered = self.offered.lock().remove(&export);
        if let Some(device) = offered.and_then(|offered| offered.device.upgrade()) {
            device.detach_all();
        }
    }

    /// The disks that the export has, in the order of the machine.
    fn disks(
        &self,
        name: &MomentName,
        export: &ExportStatus,
    ) -> Result<Vec<DiskStatus>, OpenError> {
        let machines = self.retention().machines();
        let machine = machines.into_iter().find(|machine| machine.name == name.machine);
        let machine = machine.ok_or(OpenError::Removed)?;
        let head = export.sequence.unwrap_or(Sequence::MAX);
        let place = self.retention().place(&name.machine, name.branch.as_ref(), head);
        let place = place.map_err(refused)?;
        Ok(machine.disks.into_iter().filter(|disk| disk.span.is_in(&place)).collect())
    }

    async fn open_disk(
        &self,
        name: &MomentName,
        export: &ExportStatus,
        disk: &Name,
    ) -> Result<(Arc<dyn Disk>, RangeLocks), OpenError> {
        let retention = self.retention();
        let (content, locks) = match &name.branch {
            Some(branch) if export.writable => {
                retention.branch_disk_to_lock(&name.machine, branch, disk).map_err(refused)?
            }
            _ => {
                let moment = retention.resolve(name).await.map_err(refused)?;
                (retention.view(&moment, disk).map_err(refused)?, RangeLocks::new())
            }
        };
        Ok((self.exports.serving.wrap(&name.machine, disk, content), locks))
    }
}

fn refused(error: ResolveError) -> OpenError {
    match error {
        // It comes right by itself: a rest of the journal is still being indexed.
        ResolveError::Index(_) | ResolveError::NotIndexed { .. } => {
            OpenError::Unavailable(error.to_string())
        }
        ResolveError::UnknownMachine { .. }
        | ResolveError::UnknownBranch { .. }
        | ResolveError::UnknownDisk { .. } => OpenError::Removed,
        other => OpenError::Failed(other.to_string()),
    }
}

fn credential(account: &ChapAccount) -> Credential {
    let secret = Secret::new(account.secret.as_bytes().to_vec());
    Credential { user: account.user.clone(), secret }
}

impl Targets for RetentionTargets {
    fn list<'a>(&'a self, visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<IscsiName>> {
        let name = |(export, _): (ExportStatus, _)| {
            IscsiName::parse(&target_name(&self.settings.prefix, &export)).ok()
        };
        let names = self.known(visitor).into_iter().filter_map(name).take(LISTED).collect();
        Box::pin(std::future::ready(names))
    }

    fn demand<'a>(
        &'a self,
        want: &'a Want,
        visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Demand, OpenError>> {
        let demand = match want {
            Want::Discovery => Ok(Demand::Nothing),
            Want::Target(target) => self.find(target, visitor).and_then(|(_, access)| {
                let Some(account) = &access.chap else { return Ok(Demand::Nothing) };
                let mutual = access.mutual.as_ref().map(credential);
                let chap = Chap::new(credential(account), mutual);
                chap.map(Demand::Chap).map_err(|error| OpenError::Failed(error.to_string()))
            }),
        };
        Box::pin(std::future::ready(demand))
    }

    fn open<'a>(
        &'a self,
        target: &'a IscsiName,
        visitor: &'a Visitor,
        port: InitiatorPort,
    ) -> LocalBoxFuture<'a, Result<Nexus, OpenError>> {
        Box::pin(async move {
            let (export, access) = self.find(target, visitor)?;
            // Who logs in without a demand being met is a defect of the server; the door stays shut
            // all the same.
            if access.chap.as_ref().is_some_and(|chap| visitor.user.as_ref() != Some(&chap.user)) {
                return Err(OpenError::NotAllowed);
            }
            let device = self.device(&export, &access).await?;
            let one_after_the_other = self.entering.lock();
            if let Some(other) = self.clash(&export, visitor) {
                return Err(OpenError::Beside(other));
            }
            let nexus = device.nexus(port);
            drop(one_after_the_other);
            tracing::debug!(%visitor, target = device.name(), "iSCSI open");
            Ok(nexus)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::NotIndexed;

    #[test]
    fn what_comes_right_by_itself_may_be_tried_again() {
        let name = |text: &str| Name::parse(text).expect("a name");
        let known = Vec::new();
        let gone = ResolveError::UnknownBranch { machine: name("web"), branch: name("b"), known };
        assert_eq!(refused(gone), OpenError::Removed);
        let source = NotIndexed { files: 1 };
        let early = ResolveError::NotIndexed { line: "web".into(), source };
        assert!(matches!(refused(early), OpenError::Unavailable(_)));
        let none = ResolveError::NoPoints { line: "web".into() };
        assert!(matches!(refused(none), OpenError::Failed(_)));
    }
}
