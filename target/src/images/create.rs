//! Making images: the kinds there are of each format, and the one that serves best as the image of a machine.
//!
//! | format | usual kind | why |
//! |---|---|---|
//! | raw  | sparse file | |
//! | VMDK | `vmfs`: a descriptor and a flat extent | ESXi boots it as it is, it may be larger than 2 TiB, and a flush has no tables to write |
//! | VHDX | dynamic | Hyper-V's own default; small until it is written |
//! | VHD  | dynamic | as VHDX; at most 2040 GiB |

use landfall_disks::image::{Format, ImageError, Location};
use landfall_disks::raw::RawDisk;
use landfall_disks::vhd::format::{Timestamp, UniqueId};
use landfall_disks::vhd::{self, NewKind};
use landfall_disks::vhdx::{self, CreateOptions, Guid};
use landfall_disks::vmdk::format::descriptor::CreateType;
use landfall_disks::vmdk::{self, DiskUuid};
use landfall_retention::ids::DiskIdentity;
use std::time::SystemTime;

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

/// How a VMDK of a disk is made, that guests know as `identity`.
pub(crate) fn vmdk_recipe(
    kind: CreateType,
    size_bytes: u64,
    identity: DiskIdentity,
) -> vmdk::Recipe {
    let uuid = Some(DiskUuid::from_seed(identity.bytes()));
    vmdk::Recipe { uuid, ..vmdk::Recipe::new(kind, size_bytes) }
}

/// Makes an image that reads as zeroes; it is durable on return. `identity` is what guests know the disk by.
pub(crate) async fn create(
    location: &Location,
    kind: &Kind,
    size_bytes: u64,
    identity: DiskIdentity,
) -> Result<(), ImageError> {
    match kind {
        Kind::Raw => {
            RawDisk::create(&*location.folder, &location.path, size_bytes).await?;
            Ok(())
        }
        Kind::Vmdk(kind) => {
            vmdk::create(location, &vmdk_recipe(kind.clone(), size_bytes, identity)).await
        }
        Kind::Vhdx { fixed } => {
            let usual = if *fixed { CreateOptions::fixed } else { CreateOptions::dynamic };
            let disk_id = Some(Guid::from_random(identity.bytes()));
            let options = CreateOptions { disk_id, ..usual(size_bytes) };
            vhdx::create(&*location.folder, &location.path, &options, &vhdx::kernel_guids()).await
        }
        Kind::Vhd { fixed } => {
            let recipe = vhd::Recipe {
                kind: if *fixed { NewKind::Fixed } else { NewKind::DYNAMIC },
                size_bytes,
                unique_id: UniqueId(identity.bytes()),
                timestamp: Timestamp::of(SystemTime::now()),
            };
            vhd::create(location, &recipe).await
        }
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
