//! Which other files an image may open.
//!
//! A descriptor names its extents, a child its parent, as text that somebody else wrote: `/etc/shadow` as a flat extent would
//! put that file on a disk. So a format never opens a name itself. It shows the name to a [`Gate`], and opens what the gate
//! gives it.
//!
//! ```text
//!   "C:\vms\base.vhdx"  ──▶ Gate ──▶ [ folder of the image / base.vhdx ]     identity is checked by who opens it
//!   "../other/disk.raw" ──▶ Gate ──▶ refused
//! ```

use super::error::ImageError;
use crate::file::Folder;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// What an image wants another file for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// It holds a part of the image. Nothing in it proves that it is the right one.
    Extent,
    /// It holds what the image does not. Its identity is checked against the image.
    Parent,
}

/// A location at which a file may be opened.
#[derive(Clone)]
pub struct Location {
    /// The folder that keeps the path inside.
    pub folder: Arc<dyn Folder>,
    /// Where in the folder.
    pub path: PathBuf,
}

impl Location {
    /// The place as a person would name it.
    pub fn display(&self) -> PathBuf {
        self.folder.display().join(&self.path)
    }
}

/// Decides which files an image may open by naming them.
pub trait Gate: Send + Sync {
    /// Where `reference`, found in the image at `from`, may be opened: the best place first, at least one.
    fn admit(
        &self,
        from: &Location,
        reference: &str,
        purpose: Purpose,
    ) -> Result<Vec<Location>, ImageError>;
}

/// The default gate: only files at or below the folder of the image that names them.
///
/// Relative names are followed from there. Absolute ones, of any operating system, were true where the image was made; of
/// those of a parent the last component is looked for beside the image, and those of an extent are refused.
#[derive(Clone, Copy, Default, Debug)]
pub struct BesideTheImage;

impl Gate for BesideTheImage {
    fn admit(
        &self,
        from: &Location,
        reference: &str,
        purpose: Purpose,
    ) -> Result<Vec<Location>, ImageError> {
        let refuse = |why: &'static str| ImageError::Refused {
            path: from.display(),
            reference: reference.to_owned(),
            why: why.into(),
        };
        let beside = |path: &str| Location {
            folder: Arc::clone(&from.folder),
            path: from.path.parent().unwrap_or(Path::new("")).join(path),
        };
        // Windows names come with backslashes, and a drive, a server or a device in front.
        let plain = reference.strip_prefix("file://").unwrap_or(reference).replace('\\', "/");
        let parts: Vec<&str> =
            plain.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let Some(last) = parts.last() else { return Err(refuse("it names no file")) };
        if parts.contains(&"..") || !is_name(last) {
            return Err(refuse("it leaves the folder of the image"));
        }
        let absolute = plain.starts_with('/') || has_drive(&plain);
        match (absolute, purpose) {
            (false, _) => Ok(vec![beside(&parts.join("/"))]),
            (true, Purpose::Parent) => Ok(vec![beside(last)]),
            (true, Purpose::Extent) => {
                Err(refuse("an absolute path leaves the folder of the image"))
            }
        }
    }
}

fn has_drive(path: &str) -> bool {
    let mut letters = path.chars();
    letters.next().is_some_and(|letter| letter.is_ascii_alphabetic()) && letters.next() == Some(':')
}

fn is_name(text: &str) -> bool {
    let mut parts = Path::new(text).components();
    let plain = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
    plain && !text.contains(['\0', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{FaultFolder, Seed};
    use proptest::prelude::*;

    fn admit(reference: &str, purpose: Purpose) -> Result<Vec<PathBuf>, String> {
        let folder: Arc<dyn Folder> = Arc::new(FaultFolder::new(Seed::new(1)));
        let from = Location { folder, path: PathBuf::from("vms/web/os.vmdk") };
        match BesideTheImage.admit(&from, reference, purpose) {
            Ok(places) => Ok(places.into_iter().map(|place| place.path).collect()),
            Err(ImageError::Refused { why, .. }) => Err(why.into_owned()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_lies_beside_the_image_is_admitted() {
        for (reference, place) in [
            ("os-flat.vmdk", "vms/web/os-flat.vmdk"),
            (".\\base.vhdx", "vms/web/base.vhdx"),
            ("snapshots/base.vhdx", "vms/web/snapshots/base.vhdx"),
        ] {
            for purpose in [Purpose::Extent, Purpose::Parent] {
                assert_eq!(admit(reference, purpose), Ok(vec![PathBuf::from(place)]));
            }
        }
    }

    #[test]
    fn absolute_names_of_parents_are_looked_for_beside_the_image() {
        for reference in [
            "/vmfs/volumes/5f-aa/web/base.vmdk",
            "C:\\vms\\base.vmdk",
            "\\\\server\\share\\base.vmdk",
            "\\\\?\\Volume{26a2}\\vms\\base.vmdk",
            "file:///vms/base.vmdk",
        ] {
            let beside = PathBuf::from("vms/web/base.vmdk");
            assert_eq!(admit(reference, Purpose::Parent), Ok(vec![beside]), "{reference}");
            admit(reference, Purpose::Extent).expect_err("an extent proves nothing");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for reference in
            ["", "/", "..", "../other.raw", "a/../../b", "..\\other.raw", "C:\\..\\b", "C:", "a\0b"]
        {
            for purpose in [Purpose::Extent, Purpose::Parent] {
                admit(reference, purpose).expect_err(reference);
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_leads_out(reference in "[a./\\\\:C ]{0,12}") {
            for purpose in [Purpose::Extent, Purpose::Parent] {
                for path in admit(&reference, purpose).unwrap_or_default() {
                    let stays = path.components().all(|part| matches!(part, Component::Normal(_)));
                    prop_assert!(stays && path.starts_with("vms/web"), "{}", path.display());
                }
            }
        }
    }
}
