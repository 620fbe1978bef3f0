//! The table of commands: what exists, which bits of its CDB mean something, and what has to hold
//! before it is looked at.
//!
//! Decoding, REPORT SUPPORTED OPERATION CODES and the page `docs/interop-iscsi.md` are all made
//! from it. A CDB that sets a bit that is neither used nor ignored is refused with INVALID FIELD IN
//! CDB and a pointer to that bit.
//!
//! **Invariants:** one entry per operation code and service action; the first byte of its usage map
//! is the operation code, and the service action stands in the second one; the map is as long as
//! the CDB.

use super::cdb::Cdb;
use super::sense::{Additional, Sense};

/// Whether a pending unit attention is told instead of doing the command (SAM-5 5.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attentions {
    /// It is.
    Told,
    /// Not with this command.
    Kept,
}

/// What a command does with the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Medium {
    /// Nothing: it works without one.
    Unneeded,
    /// It has to be there.
    Needed,
    /// It has to be there, and not protected.
    Written,
}

/// An entry of the table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) command: Command,
    pub(super) name: &'static str,
    /// Second byte, low five bits, if the operation code is shared.
    pub(super) service_action: Option<u8>,
    pub(super) attentions: Attentions,
    pub(super) medium: Medium,
    /// CDB USAGE DATA, SPC-4 6.35.3.
    pub(super) usage: &'static [u8],
    /// Bits that may be set and mean nothing here: obsolete ones, group numbers and hints.
    pub(super) ignored: &'static [u8],
}

/// Low five bits of the second byte.
const SERVICE_ACTION: u8 = 0x1f;

impl Entry {
    pub(super) const fn operation_code(&self) -> u8 {
        self.usage[0]
    }

    /// What it needs that `cdb` does not keep to: it is long enough, and no bit is set that means
    /// nothing.
    fn check(&self, cdb: &[u8]) -> Result<(), Sense> {
        let Some(cdb) = cdb.get(..self.usage.len()) else {
            return Err(Sense::illegal(Additional::INVALID_FIELD_IN_CDB));
        };
        for (at, byte) in cdb.iter().enumerate().skip(1) {
            let action = match (at, self.service_action) {
                (1, Some(_)) => SERVICE_ACTION,
                _ => 0,
            };
            let known = self.usage[at] | action | self.ignored.get(at).copied().unwrap_or(0);
            let strange = byte & !known;
            if strange != 0 {
                let bit = 7 - u8::try_from(strange.leading_zeros()).expect("at most seven");
                return Err(Sense::invalid_field(u16::try_from(at).expect("short"), bit));
            }
        }
        Ok(())
    }
}

/// Finds the entry of `cdb`, whose bits may still be wrong.
pub(super) fn find(cdb: &[u8]) -> Result<&'static Entry, Sense> {
    let Some(operation_code) = cdb.first() else {
        return Err(Sense::illegal(Additional::INVALID_OPERATION_CODE));
    };
    let action = cdb.get(1).copied().unwrap_or(0) & SERVICE_ACTION;
    let mut alike = TABLE.iter().filter(|entry| entry.operation_code() == *operation_code);
    let Some(first) = alike.clone().next() else {
        return Err(Sense::illegal(Additional::INVALID_OPERATION_CODE));
    };
    match first.service_action {
        None => Ok(first),
        // SPC-4 4.3.4.1: an unknown service action is a wrong field.
        Some(_) => {
            alike.find(|e| e.service_action == Some(action)).ok_or(Sense::invalid_field(1, 4))
        }
    }
}

/// `cdb` as `entry` has it, if its bits are right.
pub(super) fn checked(entry: &Entry, cdb: &[u8]) -> Result<Cdb, Sense> {
    entry.check(cdb)?;
    Ok(Cdb::new(&cdb[..entry.usage.len()]))
}

/// Makes the enumeration and the table of one list.
macro_rules! commands {
    ($($command:ident, $name:literal, $action:expr, $attentions:ident, $medium:ident,
        $usage:expr, $ignored:expr;)*) => {
        /// A command, SPC-4 and SBC-4.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Command {
            $(#[doc = $name] $command,)*
        }

        /// All commands there are, by operation code and service action.
        pub(in crate::iscsi::scsi) static TABLE: &[Entry] = &[$(Entry {
            command: Command::$command,
            name: $name,
            service_action: $action,
            attentions: Attentions::$attentions,
            medium: Medium::$medium,
            usage: &$usage,
            ignored: &$ignored,
        },)*];
    };
}

/// All bits of a byte.
const A: u8 = 0xff;
/// Obsolete logical unit number in the second byte of a CDB of six bytes.
const LUN: [u8; 2] = [0, 0xe0];
/// FUA_NV (obsolete) and the group number of a CDB of ten bytes.
const TEN: [u8; 7] = [0, 0x02, 0, 0, 0, 0, 0x3f];
/// The same of twelve bytes.
const TWELVE: [u8; 11] = [0, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0x3f];
/// The same of sixteen bytes, with the duration limit hints around them.
const SIXTEEN: [u8; 15] = [0, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff];
/// READ has the rebuild assist bit beside it.
const READ_TEN: [u8; 7] = [0, 0x06, 0, 0, 0, 0, 0x3f];
const READ_TWELVE: [u8; 11] = [0, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0x3f];
const READ_SIXTEEN: [u8; 15] = [0, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff];
/// Only the group number.
const GROUP_TEN: [u8; 7] = [0, 0, 0, 0, 0, 0, 0x3f];
const GROUP_TWELVE: [u8; 11] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3f];
const GROUP_SIXTEEN: [u8; 15] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3f];
/// SYNC_NV (obsolete) beside it.
const SYNC_TEN: [u8; 7] = [0, 0x04, 0, 0, 0, 0, 0x3f];
const SYNC_SIXTEEN: [u8; 15] = [0, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3f];
const NONE: [u8; 0] = [];

// Every row is a CDB, byte by byte.
#[rustfmt::skip]
mod rows {
    use super::*;
    commands! {
        TestUnitReady, "TEST UNIT READY", None, Told, Needed,
            [0x00, 0, 0, 0, 0, 0], LUN;
        RequestSense, "REQUEST SENSE", None, Kept, Unneeded,
            [0x03, 0x01, 0, 0, A, 0], LUN;
        Read6, "READ (6)", None, Told, Needed,
            [0x08, 0x1f, A, A, A, 0], LUN;
        Write6, "WRITE (6)", None, Told, Written,
            [0x0a, 0x1f, A, A, A, 0], LUN;
        Inquiry, "INQUIRY", None, Kept, Unneeded,
            [0x12, 0x01, A, A, A, 0], LUN;
        ModeSelect6, "MODE SELECT (6)", None, Told, Unneeded,
            [0x15, 0x10, 0, 0, A, 0], LUN;
        ModeSense6, "MODE SENSE (6)", None, Told, Unneeded,
            [0x1a, 0x08, A, A, A, 0], LUN;
        StartStopUnit, "START STOP UNIT", None, Told, Unneeded,
            [0x1b, 0x01, 0, 0x0f, 0xf7, 0], LUN;
        PreventAllow, "PREVENT ALLOW MEDIUM REMOVAL", None, Told, Unneeded,
            [0x1e, 0, 0, 0, 0x03, 0], LUN;
        ReadCapacity10, "READ CAPACITY (10)", None, Told, Needed,
            [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], LUN;
        Read10, "READ (10)", None, Told, Needed,
            [0x28, 0x18, A, A, A, A, 0, A, A, 0], READ_TEN;
        Write10, "WRITE (10)", None, Told, Written,
            [0x2a, 0x18, A, A, A, A, 0, A, A, 0], TEN;
        WriteAndVerify10, "WRITE AND VERIFY (10)", None, Told, Written,
            [0x2e, 0x16, A, A, A, A, 0, A, A, 0], GROUP_TEN;
        Verify10, "VERIFY (10)", None, Told, Needed,
            [0x2f, 0x16, A, A, A, A, 0, A, A, 0], GROUP_TEN;
        PreFetch10, "PRE-FETCH (10)", None, Told, Needed,
            [0x34, 0x02, A, A, A, A, 0, A, A, 0], GROUP_TEN;
        SynchronizeCache10, "SYNCHRONIZE CACHE (10)", None, Told, Needed,
            [0x35, 0x02, A, A, A, A, 0, A, A, 0], SYNC_TEN;
        ReadDefectData10, "READ DEFECT DATA (10)", None, Told, Needed,
            [0x37, 0, 0x1f, 0, 0, 0, 0, A, A, 0], NONE;
        WriteSame10, "WRITE SAME (10)", None, Told, Written,
            [0x41, 0x08, A, A, A, A, 0, A, A, 0], GROUP_TEN;
        Unmap, "UNMAP", None, Told, Written,
            [0x42, 0, 0, 0, 0, 0, 0, A, A, 0], GROUP_TEN;
        LogSense, "LOG SENSE", None, Told, Unneeded,
            [0x4d, 0, A, A, 0, A, A, A, A, 0], NONE;
        ModeSelect10, "MODE SELECT (10)", None, Told, Unneeded,
            [0x55, 0x10, 0, 0, 0, 0, 0, A, A, 0], NONE;
        ModeSense10, "MODE SENSE (10)", None, Told, Unneeded,
            [0x5a, 0x18, A, A, 0, 0, 0, A, A, 0], NONE;
        Read16, "READ (16)", None, Told, Needed,
            [0x88, 0x18, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], READ_SIXTEEN;
        CompareAndWrite, "COMPARE AND WRITE", None, Told, Written,
            [0x89, 0x18, A, A, A, A, A, A, A, A, 0, 0, 0, A, 0, 0], SIXTEEN;
        Write16, "WRITE (16)", None, Told, Written,
            [0x8a, 0x18, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], SIXTEEN;
        OrWrite, "ORWRITE (16)", None, Told, Written,
            [0x8b, 0x18, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], SIXTEEN;
        WriteAndVerify16, "WRITE AND VERIFY (16)", None, Told, Written,
            [0x8e, 0x16, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], GROUP_SIXTEEN;
        Verify16, "VERIFY (16)", None, Told, Needed,
            [0x8f, 0x16, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], GROUP_SIXTEEN;
        PreFetch16, "PRE-FETCH (16)", None, Told, Needed,
            [0x90, 0x02, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], GROUP_SIXTEEN;
        SynchronizeCache16, "SYNCHRONIZE CACHE (16)", None, Told, Needed,
            [0x91, 0x02, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], SYNC_SIXTEEN;
        WriteSame16, "WRITE SAME (16)", None, Told, Written,
            [0x93, 0x09, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], GROUP_SIXTEEN;
        ReadCapacity16, "READ CAPACITY (16)", Some(0x10), Told, Needed,
            [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, A, A, A, A, 0, 0], NONE;
        GetLbaStatus, "GET LBA STATUS", Some(0x12), Told, Needed,
            [0x9e, 0x12, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], NONE;
        ReportLuns, "REPORT LUNS", None, Kept, Unneeded,
            [0xa0, 0, A, 0, 0, 0, A, A, A, A, 0, 0], NONE;
        ReportTargetPortGroups, "REPORT TARGET PORT GROUPS", Some(0x0a), Told, Unneeded,
            [0xa3, 0xea, 0, 0, 0, 0, A, A, A, A, 0, 0], NONE;
        ReportOperationCodes, "REPORT SUPPORTED OPERATION CODES", Some(0x0c), Told, Unneeded,
            [0xa3, 0x0c, 0x87, A, A, A, A, A, A, A, 0, 0], NONE;
        ReportTaskManagement, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", Some(0x0d), Told,
            Unneeded, [0xa3, 0x0d, 0x80, 0, 0, 0, A, A, A, A, 0, 0], NONE;
        Read12, "READ (12)", None, Told, Needed,
            [0xa8, 0x18, A, A, A, A, A, A, A, A, 0, 0], READ_TWELVE;
        Write12, "WRITE (12)", None, Told, Written,
            [0xaa, 0x18, A, A, A, A, A, A, A, A, 0, 0], TWELVE;
        WriteAndVerify12, "WRITE AND VERIFY (12)", None, Told, Written,
            [0xae, 0x16, A, A, A, A, A, A, A, A, 0, 0], GROUP_TWELVE;
        Verify12, "VERIFY (12)", None, Told, Needed,
            [0xaf, 0x16, A, A, A, A, A, A, A, A, 0, 0], GROUP_TWELVE;
        ReadDefectData12, "READ DEFECT DATA (12)", None, Told, Needed,
            [0xb7, 0x1f, A, A, A, A, A, A, A, A, 0, 0], NONE;
    }
}
pub use rows::Command;
pub(super) use rows::TABLE;

impl Command {
    /// The name of the standard.
    pub fn name(self) -> &'static str {
        let entry = TABLE.iter().find(|entry| entry.command == self);
        entry.expect("every command has an entry").name
    }
}

#[cfg(test)]
mod tests {
    use super::super::sense::{FieldPlace, FieldPointer};
    use super::*;

    #[test]
    fn the_table_is_sound_and_sorted() {
        for entry in TABLE {
            // SAM-5 5.2.2: the group code says how long a CDB is.
            let length = match entry.operation_code() >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("group {group}"),
            };
            assert_eq!(entry.usage.len(), length, "{}", entry.name);
            assert!(entry.ignored.len() <= length);
            if let Some(action) = entry.service_action {
                assert_eq!(entry.usage[1] & SERVICE_ACTION, action, "{}", entry.name);
            }
            for (used, ignored) in entry.usage.iter().zip(entry.ignored) {
                assert_eq!(used & ignored, 0, "{}: used and ignored", entry.name);
            }
        }
        let keys: Vec<_> =
            TABLE.iter().map(|entry| (entry.operation_code(), entry.service_action)).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "sorted, none twice");
        for pair in TABLE.windows(2) {
            let same = pair[0].operation_code() == pair[1].operation_code();
            assert!(!same || pair[0].service_action.is_some(), "{}", pair[0].name);
        }
    }

    #[test]
    fn strange_bits_are_pointed_at() {
        let entry = find(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).expect("READ (10)");
        assert_eq!(entry.command, Command::Read10);
        // RDPROTECT without protection information.
        let sense =
            checked(entry, &[0x28, 0x20, 0, 0, 0, 0, 0, 0, 0, 0]).expect_err("a strange bit");
        assert_eq!(
            sense.field,
            Some(FieldPointer { place: FieldPlace::Command, byte: 1, bit: Some(5) })
        );
        // NACA.
        let sense =
            checked(entry, &[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0x04]).expect_err("a strange bit");
        assert_eq!(
            sense.field,
            Some(FieldPointer { place: FieldPlace::Command, byte: 9, bit: Some(2) })
        );
        assert!(checked(entry, &[0x28, 0x1e, A, A, A, A, 0x3f, A, A, 0, 7, 7]).is_ok());
        assert!(checked(entry, &[0x28, 0, 0, 0]).is_err(), "cut short");
    }

    #[test]
    fn unknown_codes_and_actions_are_told_apart() {
        assert_eq!(
            find(&[0x5f; 16]).expect_err("PERSISTENT RESERVE OUT").additional,
            Additional::INVALID_OPERATION_CODE
        );
        assert_eq!(find(&[]).expect_err("nothing").additional, Additional::INVALID_OPERATION_CODE);
        let sense = find(&[0x9e, 0x11, 0, 0]).expect_err("READ LONG (16)");
        assert_eq!(sense, Sense::invalid_field(1, 4));
    }
}
