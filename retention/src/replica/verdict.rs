//! What it means for a disk that its image cannot be opened. Pure: an error in, a verdict out.
//!
//! ```text
//!                        without history          with history
//!   no file              a new image              lost
//!   another size         the start fails          lost
//!   an extent is gone    lost                     lost
//!   damaged              lost                     set aside
//!   anything else        the start fails          the start fails
//! ```
//!
//! *Lost* is recorded, for good. *Set aside* holds until the next start: an image that is set aside is not folded into, so one
//! that was repaired, or put back, still holds what it has to.

use landfall_disks::DiskError;
use landfall_disks::file::FileError;
use landfall_disks::image::ImageError;

/// What becomes of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Nothing counts on the image, and there is none: one is to be made.
    Missing,
    /// The image is gone for good.
    Lost(String),
    /// The image cannot be used as it is now.
    SetAside(String),
    /// It may work at the next attempt: nobody should go on without the image.
    Failed,
}

/// The verdict on an image that gave `error`; `has_history` says that points count on it.
pub(crate) fn judge(error: &ImageError, has_history: bool) -> Verdict {
    match error {
        ImageError::File(FileError::NotFound { path })
        | ImageError::Disk(DiskError::File(FileError::NotFound { path })) => {
            if has_history {
                Verdict::Lost(format!("{} is missing", path.display()))
            } else {
                Verdict::Missing
            }
        }
        ImageError::Missing { .. } => Verdict::Lost(error.to_string()),
        ImageError::Disk(DiskError::WrongSize { .. }) if has_history => {
            Verdict::Lost(error.to_string())
        }
        ImageError::Malformed { .. }
        | ImageError::Unsupported { .. }
        | ImageError::Refused { .. }
        | ImageError::ParentMismatch { .. }
        | ImageError::ChainLoop { .. }
        | ImageError::ChainTooLong { .. } => {
            if has_history {
                Verdict::SetAside(error.to_string())
            } else {
                Verdict::Lost(error.to_string())
            }
        }
        _ => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::image::Malformed;
    use std::path::PathBuf;

    fn path() -> PathBuf {
        PathBuf::from("web/os.vhdx")
    }

    #[test]
    fn what_is_not_there_is_made_anew_only_if_nothing_counts_on_it() {
        let missing = ImageError::File(FileError::NotFound { path: path() });
        assert_eq!(judge(&missing, false), Verdict::Missing);
        assert_eq!(judge(&missing, true), Verdict::Lost("web/os.vhdx is missing".to_owned()));
        let (reference, tried) = ("os-flat.vmdk".to_owned(), vec![path()]);
        let extent = ImageError::Missing { path: path(), reference, tried };
        for has_history in [false, true] {
            let verdict = judge(&extent, has_history);
            assert!(
                matches!(&verdict, Verdict::Lost(why) if why.contains("os-flat")),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn what_is_damaged_may_be_repaired() {
        let problem = Malformed {
            structure: "VHDX header",
            offset: 65536,
            field: "Checksum",
            value: "1".to_owned(),
            expected: "2".into(),
        };
        let damaged = ImageError::malformed(path(), problem);
        assert!(matches!(judge(&damaged, true), Verdict::SetAside(_)));
        assert!(matches!(judge(&damaged, false), Verdict::Lost(_)));
    }

    #[test]
    fn what_passes_stops_a_start() {
        let locked = ImageError::File(FileError::Locked { path: path() });
        let size = DiskError::WrongSize { found_bytes: 1, expected_bytes: 2 };
        let size = ImageError::Disk(size);
        for has_history in [false, true] {
            assert_eq!(judge(&locked, has_history), Verdict::Failed);
        }
        assert_eq!(judge(&size, false), Verdict::Failed);
        assert!(matches!(judge(&size, true), Verdict::Lost(_)));
    }
}
