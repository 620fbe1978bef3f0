//! Which format a file has, by its content.
//!
//! ```text
//!   VHDX   "vhdxfile" at 0
//!   VMDK   "KDMV", "COWD" or a seSparse header at 0, or a descriptor as text
//!   VHD    "conectix" at 0 (dynamic, differencing) or 512 bytes before the end (fixed)
//!   raw    anything else
//! ```
//!
//! A guest can write any of this into a raw image, so an image that is known to be raw must be opened as raw.

use super::error::ImageError;
use super::file::ImageFile;
use crate::block::{ByteOffset, ByteRange};

/// Family of image formats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Format {
    /// The bytes of the disk, and nothing else.
    Raw,
    /// VMware's virtual disks of all kinds.
    Vmdk,
    /// Hyper-V's format since 2012.
    Vhdx,
    /// Its predecessor, "VPC".
    Vhd,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Vmdk, Self::Vhdx, Self::Vhd];

    /// The name in commands, listings and the manifest; also the usual extension of the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is none of a format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no image format; there are raw, vmdk, vhdx and vhd")]
pub struct UnknownFormat(pub String);

impl std::str::FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let named = Self::ALL.into_iter().find(|format| format.name() == text);
        named.ok_or_else(|| UnknownFormat(text.to_owned()))
    }
}

/// How much of both ends of a file tells its format.
const LOOK_BYTES: u64 = 512;

/// Tells the format of a file.
pub async fn probe(file: &ImageFile) -> Result<Format, ImageError> {
    let length = file.length();
    let look = LOOK_BYTES.min(length);
    let head = file.read(ByteRange::up_to(look)).await?;
    let tail = ByteRange::at(ByteOffset::new(length - look), look).expect("within the file");
    let tail = file.read(tail).await?;
    Ok(probe_bytes(&head, &tail))
}

/// Tells the format by the first and the last 512 bytes of a file.
pub fn probe_bytes(head: &[u8], tail: &[u8]) -> Format {
    let vmdk: [&[u8]; 3] = [b"KDMV", b"COWD", &0xcafe_babe_u64.to_le_bytes()];
    if head.starts_with(b"vhdxfile") {
        Format::Vhdx
    } else if vmdk.iter().any(|magic| head.starts_with(magic)) || is_descriptor(head) {
        Format::Vmdk
    } else if head.starts_with(b"conectix") || tail.starts_with(b"conectix") {
        Format::Vhd
    } else {
        Format::Raw
    }
}

/// A VMDK descriptor is text that starts with a comment of this name, maybe after empty lines or other comments.
fn is_descriptor(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    text.lines()
        .map(str::trim)
        .take_while(|line| line.is_empty() || line.starts_with('#'))
        .any(|line| line.to_ascii_lowercase().replace(' ', "") == "#diskdescriptorfile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_signatures() {
        let sector = |start: &[u8]| [start, &vec![0; 512 - start.len()]].concat();
        let plain = sector(b"");
        let mut sesparse = sector(&0xcafe_babe_u64.to_le_bytes());
        sesparse[8] = 1;
        for (head, tail, format) in [
            (sector(b"vhdxfile"), &plain, Format::Vhdx),
            (sector(b"KDMV"), &plain, Format::Vmdk),
            (sector(b"COWD"), &plain, Format::Vmdk),
            (sesparse, &plain, Format::Vmdk),
            (sector(b"# Disk DescriptorFile\nversion=1\n"), &plain, Format::Vmdk),
            (sector(b"\r\n#disk descriptorfile\r\n"), &plain, Format::Vmdk),
            (sector(b"version=1\n# Disk DescriptorFile\n"), &plain, Format::Raw),
            (sector(b"conectix"), &plain, Format::Vhd),
            (plain.clone(), &sector(b"conectix"), Format::Vhd),
            (plain.clone(), &plain, Format::Raw),
        ] {
            assert_eq!(probe_bytes(&head, tail), format, "{:?}", head.escape_ascii().to_string());
        }
        assert_eq!(probe_bytes(b"", b""), Format::Raw);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
        }
        let unknown = "qcow2".parse::<Format>().expect_err("there is none");
        assert!(unknown.to_string().contains("vhdx"), "{unknown}");
    }
}
