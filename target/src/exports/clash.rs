//! Units with one name have one content: who may not have which exports at a time, and what disks of moments are called.
//!
//! Hypervisors and multipathing take two units with one world wide name for two ways to one disk, and read and write by either.
//! So what has another content has another name, as snapshots of an array have, or is not to be had beside the first
//! ([decision 0029](../../../docs/decisions/0029-one-name-one-content.md)):
//!
//! ```text
//!   web~a, web~a again     one name, one content      two ways to it, as with any array
//!   web~a, web~b           one name, two contents     not for one initiator at a time
//!   web@seq:7              a name of its own
//! ```

use super::machine_of;
use landfall_protocols::iscsi::Visitor;
use landfall_protocols::iscsi::scsi::Device;
use landfall_retention::ExportStatus;
use landfall_retention::ids::{DiskIdentity, ExportId};
use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Initiators try again every few seconds: what is said once in so long is enough.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The serial number of a disk in an export: the disk's, or that of the disk at a moment.
pub(super) fn serial_of(export: &ExportStatus, disk: DiskIdentity) -> String {
    match (export.writable, export.sequence) {
        (true, _) => disk.to_string(),
        (false, Some(sequence)) => {
            format!("{disk}.{}.{}", export.line.number(), sequence.number())
        }
        // What it shows may be something else each time.
        (false, None) => format!("{disk}.export.{}", export.id.number()),
    }
}

/// The one of `exports` by which an initiator that is `present` there has the disks of `wanted` with another content.
pub(super) fn clashing<'a>(
    wanted: &ExportStatus,
    exports: &'a [ExportStatus],
    present: impl Fn(ExportId) -> bool,
) -> Option<&'a ExportStatus> {
    let machine = machine_of(&wanted.name);
    let clashes = |other: &&ExportStatus| {
        let branches = wanted.writable && other.writable && other.iscsi.is_some();
        branches && other.line != wanted.line && machine_of(&other.name) == machine
    };
    exports.iter().filter(clashes).find(|other| present(other.id))
}

/// Logins that were let in and are no sessions yet, and what was said of those that were not.
#[derive(Default)]
pub(super) struct Claims {
    coming: Mutex<Vec<Claim>>,
    warned: Mutex<Option<Instant>>,
}

/// A login that was let in, until the device has its nexus.
pub(super) struct Claim {
    initiator: String,
    device: Weak<Device>,
    arrivals: u64,
}

impl Claim {
    pub(super) fn new(initiator: &str, device: &Arc<Device>) -> Self {
        let (initiator, arrivals) = (initiator.to_owned(), device.arrivals());
        Self { initiator, device: Arc::downgrade(device), arrivals }
    }

    /// Whether it is one of `initiator` at `device`.
    pub(super) fn is(&self, initiator: &str, device: &Arc<Device>) -> bool {
        self.initiator == initiator && Weak::as_ptr(&self.device) == Arc::as_ptr(device)
    }

    fn is_pending(&self) -> bool {
        self.device.upgrade().is_some_and(|device| device.arrivals() == self.arrivals)
    }
}

impl Claims {
    /// Those that are pending. Nobody else is let in meanwhile.
    pub(super) fn coming(&self) -> MutexGuard<'_, Vec<Claim>> {
        let mut coming = self.coming.lock();
        coming.retain(Claim::is_pending);
        coming
    }

    /// Says that a login was refused, and why.
    pub(super) fn refused(
        &self,
        visitor: &Visitor,
        wanted: &ExportStatus,
        other: &ExportStatus,
        now: Instant,
    ) {
        let mut warned = self.warned.lock();
        let (asked, has) = (&wanted.name, &other.name);
        if warned.is_some_and(|before| now < before + WARN_EVERY) {
            tracing::debug!(%visitor, asked, has, "iSCSI login refused: other content");
            return;
        }
        *warned = Some(now);
        let (asked_id, has_id) = (wanted.id, other.id);
        tracing::warn!(
            "{visitor} has {has} (export {has_id}) and may not have {asked} (export {asked_id}) too: disks of the same names \
             with another content. Let it log out of the one, or name other initiators"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_protocols::iscsi::scsi::InitiatorPort;
    use landfall_retention::ids::{DiskId, LineId, Sequence};
    use landfall_retention::manifest::iscsi::IscsiAccess;

    fn export(id: u32, name: &str, line: u32, sequence: Option<u64>) -> ExportStatus {
        ExportStatus {
            id: ExportId::new(id),
            name: name.into(),
            line: LineId::new(line),
            sequence: sequence.map(Sequence::new),
            writable: sequence.is_none(),
            iscsi: Some(Arc::new(IscsiAccess::default())),
        }
    }

    #[test]
    fn two_branches_of_a_machine_are_not_for_one_initiator() {
        let mut nbd = export(6, "web~d", 12, None);
        nbd.iscsi = None;
        let exports = [
            export(1, "web~a", 7, None),
            export(2, "web~a", 7, None),
            export(3, "web~b", 8, None),
            export(4, "web@seq:9", 1, Some(9)),
            export(5, "db~a", 9, None),
            nbd,
        ];
        let clash = |wanted: usize, at: u32| {
            let present = |id: ExportId| id == ExportId::new(at);
            clashing(&exports[wanted - 1], &exports, present).map(|other| other.id.number())
        };
        assert_eq!((clash(1, 2), clash(2, 1)), (None, None), "two ways to one content");
        assert_eq!((clash(1, 3), clash(3, 1), clash(3, 2)), (Some(3), Some(1), Some(2)));
        assert_eq!((clash(4, 1), clash(1, 4)), (None, None), "a moment has its own name");
        assert_eq!((clash(5, 1), clash(1, 5)), (None, None), "another machine");
        assert_eq!((clash(1, 6), clash(1, 0)), (None, None), "nobody has it over iSCSI");
    }

    #[test]
    fn moments_have_names_of_their_own() {
        let [one, other] = [1, 2].map(|disk| DiskIdentity::of([7; 16], DiskId::new(disk)));
        let branch = export(1, "web~a", 7, None);
        assert_eq!(serial_of(&branch, one), one.to_string());
        let moment = |id, line, sequence| export(id, "web@seq:9", line, Some(sequence));
        let serial = serial_of(&moment(2, 1, 9), one);
        assert_eq!(serial, serial_of(&moment(3, 1, 9), one), "the same content");
        for others in [
            serial_of(&branch, one),
            serial_of(&moment(2, 1, 9), other),
            serial_of(&moment(2, 1, 10), one),
            serial_of(&moment(2, 2, 9), one),
        ] {
            assert_ne!(serial, others);
        }
        let longest = serial_of(&moment(2, u32::MAX, u64::MAX), one);
        assert!(longest.len() <= landfall_protocols::iscsi::scsi::Identity::MAX_SERIAL);
    }

    #[test]
    fn a_login_counts_until_it_is_a_session() {
        let claims = Claims::default();
        let [web, other] = ["web", "other"].map(Device::new);
        claims.coming().push(Claim::new("one", &web));
        let is_coming = |initiator: &str, device| {
            claims.coming().iter().any(|claim| claim.is(initiator, device))
        };
        assert!(is_coming("one", &web));
        assert!(!is_coming("two", &web) && !is_coming("one", &other));
        let nexus = web.nexus(InitiatorPort { name: "one".into(), isid: [1; 6] });
        assert!(!is_coming("one", &web) && web.has_initiator("one"));
        drop(nexus);
        assert!(!is_coming("one", &web) && !web.has_initiator("one"));
        claims.coming().push(Claim::new("one", &other));
        drop(other);
        assert!(claims.coming().is_empty());
    }
}
