//! Why a task did not end well, and what is said of a disk that failed.

use super::sense::{Additional, Sense, SenseKey};
use landfall_disks::file::FileError;
use landfall_disks::{ByteRange, DiskError};

/// Why a task did not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// It was told to stay invisible.
    Aborted,
    /// There is no such disk any more.
    Lost,
    /// CHECK CONDITION.
    Refused(Sense),
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Refused(sense)
    }
}

impl Failure {
    /// What `error` of an operation on `range` is called (SBC-4 4.18, SPC-4 4.5.6).
    pub(super) fn of_disk(error: &DiskError, range: ByteRange, block_bytes: u64) -> Self {
        let sense = match error {
            DiskError::Aborted => return Self::Aborted,
            DiskError::OutOfRange { .. } => Sense::illegal(Additional::LBA_OUT_OF_RANGE),
            DiskError::ReadOnly => Sense::new(SenseKey::DataProtect, Additional::WRITE_PROTECTED),
            // ESXi and others pause whoever wrote, and go on once there is space again.
            DiskError::NoSpace(_) | DiskError::File(FileError::NoSpace { .. }) => {
                Sense::new(SenseKey::DataProtect, Additional::SPACE_ALLOCATION_FAILED)
            }
            DiskError::Damaged { range: bad, .. }
            | DiskError::Unknown { range: bad, .. }
            | DiskError::Sealed { range: bad, .. } => {
                let first = if bad.overlaps(range) {
                    bad.intersection(range).start()
                } else {
                    range.start()
                };
                Sense::new(SenseKey::MediumError, Additional::UNRECOVERED_READ_ERROR)
                    .with_information(first.bytes() / block_bytes)
            }
            DiskError::Gone(_) => return Self::Lost,
            DiskError::Unavailable(_) => Sense::new(SenseKey::NotReady, Additional::NOT_READY),
            // Failed files, and whatever comes to be.
            _ => Sense::new(SenseKey::HardwareError, Additional::INTERNAL_FAILURE),
        };
        Self::Refused(sense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::ByteOffset;

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    #[test]
    fn each_error_has_its_sense() {
        let full = FileError::NoSpace { path: "f".into() };
        let out = DiskError::OutOfRange { range: range(0, 9), size_bytes: 8 };
        for (error, key, code, qualifier) in [
            (DiskError::ReadOnly, SenseKey::DataProtect, 0x27, 0),
            (DiskError::NoSpace("journal".into()), SenseKey::DataProtect, 0x27, 7),
            (DiskError::File(full), SenseKey::DataProtect, 0x27, 7),
            (DiskError::Failed("EIO".into()), SenseKey::HardwareError, 0x44, 0),
            (DiskError::Unavailable("stopping".into()), SenseKey::NotReady, 0x04, 0),
            (out, SenseKey::IllegalRequest, 0x21, 0),
        ] {
            let failure = Failure::of_disk(&error, range(0, 512), 512);
            let sense = Sense::new(key, Additional { code, qualifier });
            assert_eq!(failure, Failure::Refused(sense), "{error}");
        }
    }

    #[test]
    fn a_disk_that_is_no_more_is_lost() {
        let gone = DiskError::Gone("discarded".into());
        assert_eq!(Failure::of_disk(&gone, range(0, 512), 512), Failure::Lost);
    }

    #[test]
    fn the_first_bad_block_of_the_request_is_named() {
        for (bad, asked, lba) in [
            (range(4096, 4096), range(0, 8192), 8),
            (range(0, 8192), range(4096, 512), 8),
            (range(8 << 40, 512), range(512, 512), 1),
        ] {
            let damaged = DiskError::Damaged { range: bad, what: "crc".into() };
            let sense = Sense::new(SenseKey::MediumError, Additional::UNRECOVERED_READ_ERROR);
            let told = Failure::of_disk(&damaged, asked, 512);
            assert_eq!(told, Failure::Refused(sense.with_information(lba)));
        }
    }
}
