//! What is different about a block device that is opened as a file.
//!
//! ```text
//!                 file                        block device
//!   length        of the inode                where seeking to the end leads
//!   set_length    cuts or extends             refused, unless nothing changes
//!   next_data     as the file system knows    all of it is data: nobody can tell
//!   punch_hole    gives space back            the same where the device can; else the kernel writes zeroes
//! ```
//!
//! Everything else is the same calls. The kernel keeps `O_DIRECT` requests to the device's logical sector, which is
//! never more than [`DIRECT_ALIGNMENT`] for a device that is accepted here.

use super::descriptor::Descriptor;
use crate::file::{DIRECT_ALIGNMENT, Sectors};
use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// What a descriptor was opened on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A file of a file system, or whatever behaves like one.
    File,
    /// A block device.
    Device(Sectors),
}

impl Kind {
    /// Asks the kernel what `descriptor` is.
    pub(super) fn of(descriptor: impl AsFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&descriptor)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Ok(Self::File);
        }
        let logical = rustix::fs::ioctl_blksszget(&descriptor)?;
        let physical = rustix::fs::ioctl_blkpbszget(&descriptor)?;
        // Newer kernels have sectors larger than a page; nothing here is aligned to those.
        if !logical.is_power_of_two() || u64::from(logical) > DIRECT_ALIGNMENT {
            return Err(Errno::NOTSUP);
        }
        Ok(Self::Device(Sectors { logical, physical: physical.max(logical) }))
    }

    pub(super) fn is_device(self) -> bool {
        self != Self::File
    }
}

/// Length of a block device in bytes.
pub(super) fn length(descriptor: &Descriptor) -> Result<u64, Errno> {
    // The file position is moved, which nobody uses: every transfer names its offset.
    rustix::fs::seek(descriptor, SeekFrom::End(0))
}
