//! Making images: the kinds there are of each format, and the one that serves best as the image of a machine.
//!
//! | format | usual kind | why |
//! |---|---|---|
//! | raw  | sparse file | |
//! | VMDK | `vmfs`: a descriptor and a flat extent | ESXi boots it as it is, it may be larger than 2 TiB, and a flush has no tables to write |
//! | VHDX | dynamic | Hyper-V's own default; small until it is written |
//! | VHD  | dynamic | as VHDX; at most 2040 GiB |

use landfall_disks::image::{Format, Wishes};
use landfall_disks::vmdk::format::descriptor::CreateType;
use landfall_retention::ids::DiskIdentity;

/// Which image of a format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The bytes of the disk.
    Raw,
    /// A VMDK.
    Vmdk(CreateType),
    /// A VHDX with all blocks in their places, or with those that were written.
    Vhdx { fixed: bool },
    /// The same as VHD.
    Vhd { fixed: bool },
}

impl Kind {
    /// The usual one.
    pub(crate) fn usual(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Vmdk => Self::Vmdk(CreateType::Vmfs),
            Format::Vhdx => Self::Vhdx { fixed: false },
            Format::Vhd => Self::Vhd { fixed: false },
        }
    }

    /// The one of this name; the names there are otherwise.
    pub(crate) fn named(format: Format, name: &str) -> Result<Self, String> {
        let kinds = Self::all(format);
        let found = kinds.iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
        found.cloned().ok_or_else(|| {
            let names: Vec<&str> = kinds.iter().map(Self::name).collect();
            format!("{name:?} is no kind of {format}; there are {}", names.join(", "))
        })
    }

    fn all(format: Format) -> Vec<Self> {
        match format {
            Format::Raw => vec![Self::Raw],
            Format::Vmdk => [
                CreateType::Vmfs,
                CreateType::MonolithicSparse,
                CreateType::MonolithicFlat,
                CreateType::TwoGbMaxExtentSparse,
                CreateType::TwoGbMaxExtentFlat,
                CreateType::StreamOptimized,
            ]
            .map(Self::Vmdk)
            .to_vec(),
            Format::Vhdx => [false, true].map(|fixed| Self::Vhdx { fixed }).to_vec(),
            Format::Vhd => [false, true].map(|fixed| Self::Vhd { fixed }).to_vec(),
        }
    }

    /// In the words of the format's tools.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Raw => "raw",
            Self::Vmdk(kind) => kind.name(),
            Self::Vhdx { fixed: true } | Self::Vhd { fixed: true } => "fixed",
            Self::Vhdx { fixed: false } | Self::Vhd { fixed: false } => "dynamic",
        }
    }
}

/// What an image of a disk is to be like, that guests know as `identity`.
pub(crate) fn wishes(
    format: Format,
    kind: &Kind,
    size_bytes: u64,
    identity: DiskIdentity,
) -> Wishes {
    Wishes {
        kind: Some(kind.name().to_owned()),
        disk_id: Some(identity.bytes()),
        ..Wishes::new(format, size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_the_names_of_their_tools() {
        for format in Format::ALL {
            for kind in Kind::all(format) {
                assert_eq!(Kind::named(format, kind.name()), Ok(kind));
            }
            assert_eq!(Kind::all(format)[0], Kind::usual(format), "the first is the usual one");
        }
        let error = Kind::named(Format::Vhdx, "thin").expect_err("there is none");
        assert!(error.contains("dynamic, fixed"), "{error}");
    }
}
