//! Units with one name are one unit: who may not have which exports at a time, and what disks of
//! moments are called.
//!
//! Hypervisors and multipathing take two units with one world wide name for two ways to one disk,
//! and read, write, reset and set modes by either. So what is another unit has another name, as
//! snapshots of an array have, or is not to be had beside the first
//! ([decision 0029](../../../docs/decisions/0029-one-name-one-content.md)):
//!
//! ```text
//!   two sessions of a target     one unit                   two ways to it, as with any array
//!   web~a, web~a again           one name, two targets      not for one initiator at a time
//!   web~a, web~b                 one name, two contents     not for one initiator at a time
//!   web@seq:7                    a name of its own
//! ```

use super::machine_of;
use landfall_retention::ExportStatus;
use landfall_retention::ids::{DiskIdentity, ExportId};

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

/// The one of `exports` by which an initiator that is `present` there has disks that are called as
/// those of `wanted`.
pub(super) fn clashing<'a>(
    wanted: &ExportStatus,
    exports: &'a [ExportStatus],
    present: impl Fn(ExportId) -> bool,
) -> Option<&'a ExportStatus> {
    let machine = machine_of(&wanted.name);
    let clashes = |other: &&ExportStatus| {
        let branches = wanted.writable && other.writable && other.iscsi.is_some();
        branches && other.id != wanted.id && machine_of(&other.name) == machine
    };
    exports.iter().filter(clashes).find(|other| present(other.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::ids::{DiskId, LineId, Sequence};
    use landfall_retention::manifest::iscsi::IscsiAccess;
    use std::sync::Arc;

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
    fn two_targets_of_branches_of_a_machine_are_not_for_one_initiator() {
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
        assert_eq!((clash(1, 1), clash(2, 2)), (None, None), "two ways to one unit");
        assert_eq!((clash(1, 2), clash(2, 1)), (Some(2), Some(1)), "modes and resets differ");
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
}
