//! Making the image of a disk: one kind per format, the one that serves best as the image of a machine.
//!
//! | format | kind | why |
//! |---|---|---|
//! | raw  | sparse file | |
//! | VMDK | `vmfs`: a descriptor and a flat extent | ESXi boots it as it is, it may be larger than 2 TiB, and a flush has no tables to write |
//! | VHDX | dynamic | Hyper-V's own default; small until it is written |
//! | VHD  | dynamic | as VHDX; at most 2040 GiB |

use landfall_disks::image::{Format, ImageError, Location};
use landfall_disks::raw::RawDisk;
use landfall_disks::vhdx::{self, CreateOptions, Guid};
use landfall_retention::ids::DiskIdentity;

/// Makes an image that reads as zeroes; it is durable on return. `identity` is what guests know the disk by.
pub(super) async fn create(
    location: &Location,
    format: Format,
    size_bytes: u64,
    identity: DiskIdentity,
) -> Result<(), ImageError> {
    match format {
        Format::Raw => {
            RawDisk::create(&*location.folder, &location.path, size_bytes).await?;
            Ok(())
        }
        Format::Vhdx => {
            let disk_id = Some(Guid::from_random(identity.bytes()));
            let options = CreateOptions { disk_id, ..CreateOptions::dynamic(size_bytes) };
            vhdx::create(&*location.folder, &location.path, &options, &vhdx::kernel_guids()).await
        }
        format => Err(ImageError::cannot_create(location.display(), format!("{format} images"))),
    }
}
