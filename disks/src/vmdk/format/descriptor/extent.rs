//! Lines that describe an extent.
//!
//! ```text
//!   RW 4192256 SPARSE "disk-s001.vmdk"
//!   RW 20971520 FLAT "disk-flat.vmdk" 0        the offset in the file, in sectors
//!   RW 63 ZERO                                 reads as zeroes; no file
//! ```

use super::super::malformed;
use super::DESCRIPTOR;
use crate::block::MAX_DISK_SIZE;
use crate::image::Malformed;
use crate::vmdk::format::SECTOR_BYTES;
use std::fmt;

/// What a disk may do with an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentAccess {
    /// `RW`
    ReadWrite,
    /// `RDONLY`
    ReadOnly,
    /// `NOACCESS`
    None,
}

/// What an extent is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExtentKind {
    /// Plain bytes in a file.
    Flat,
    /// Plain bytes in a file on VMFS.
    Vmfs,
    /// Hosted sparse extent.
    Sparse,
    /// ESX sparse extent.
    VmfsSparse,
    /// Space-efficient sparse extent.
    SeSparse,
    /// Zeroes.
    Zero,
    /// Raw devices (`VMFSRDM`, `VMFSRAW`), and kinds nobody knows.
    Other(String),
}

impl ExtentKind {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Flat, "FLAT"),
        (Self::Vmfs, "VMFS"),
        (Self::Sparse, "SPARSE"),
        (Self::VmfsSparse, "VMFSSPARSE"),
        (Self::SeSparse, "SESPARSE"),
        (Self::Zero, "ZERO"),
    ];

    /// As it stands in a descriptor.
    pub fn name(&self) -> &str {
        if let Self::Other(name) = self {
            return name;
        }
        let mut known = Self::NAMES.iter();
        known.find(|(kind, _)| kind == self).map_or("", |(_, name)| *name)
    }
}

/// What a line says of an extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentLine {
    /// What may be done with it.
    pub access: ExtentAccess,
    /// Its size, in sectors.
    pub sectors: u64,
    /// What it is.
    pub kind: ExtentKind,
    /// The file, as the descriptor names it; empty for zeroes.
    pub file: String,
    /// Where in the file it starts, in sectors; of flat extents only.
    pub start: u64,
    /// What stands behind, for devices.
    pub rest: String,
}

impl ExtentLine {
    /// Reads a line that starts `offset` bytes into its file; `None` if it describes no extent.
    pub(super) fn parse(line: &str, offset: u64) -> Result<Option<Self>, Malformed> {
        let fail = |field, value: &str, expected: &'static str| {
            Err(malformed(DESCRIPTOR, offset, field, value, expected))
        };
        let (word, rest) = next_word(line);
        let access = match word {
            "RW" => ExtentAccess::ReadWrite,
            "RDONLY" => ExtentAccess::ReadOnly,
            "NOACCESS" => ExtentAccess::None,
            _ => return Ok(None),
        };
        let (count, rest) = next_word(rest);
        let sectors = match count.parse::<u64>() {
            Ok(sectors) if sectors > 0 && sectors <= MAX_DISK_SIZE / SECTOR_BYTES => sectors,
            _ => return fail("size of an extent", count, "1 sector to 64 TiB of them"),
        };
        let (name, rest) = next_word(rest);
        let known = ExtentKind::NAMES.into_iter().find(|(_, known)| *known == name);
        let kind = match known {
            Some((kind, _)) => kind,
            None if name.is_empty() => return fail("kind of an extent", name, "a name"),
            None => ExtentKind::Other(name.to_owned()),
        };
        let mut extent =
            Self { access, sectors, kind, file: String::new(), start: 0, rest: String::new() };
        if extent.kind == ExtentKind::Zero {
            rest.trim().clone_into(&mut extent.rest);
            return Ok(Some(extent));
        }
        let quoted = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let Some((file, rest)) = quoted else {
            return fail("file of an extent", rest.trim(), "a name in quotes");
        };
        if file.is_empty() {
            return fail("file of an extent", file, "a name in quotes");
        }
        file.clone_into(&mut extent.file);
        let (start, behind) = next_word(rest);
        if !start.is_empty() {
            extent.start = match start.parse::<u64>() {
                Ok(start) if start <= MAX_DISK_SIZE / SECTOR_BYTES => start,
                _ => return fail("offset of an extent", start, "a number of sectors"),
            };
            behind.trim().clone_into(&mut extent.rest);
        }
        let flat = matches!(extent.kind, ExtentKind::Flat | ExtentKind::Vmfs);
        if extent.start != 0 && !flat && !matches!(extent.kind, ExtentKind::Other(_)) {
            return fail("offset of an extent", start, "none, or 0, unless the extent is flat");
        }
        Ok(Some(extent))
    }
}

impl fmt::Display for ExtentLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            ExtentAccess::ReadWrite => "RW",
            ExtentAccess::ReadOnly => "RDONLY",
            ExtentAccess::None => "NOACCESS",
        };
        write!(f, "{access} {} {}", self.sectors, self.kind.name())?;
        if self.kind != ExtentKind::Zero {
            write!(f, " \"{}\"", self.file)?;
        }
        // Everybody writes the offset of a flat extent, and nobody that of one on VMFS: qemu insists on both.
        if self.kind == ExtentKind::Flat
            || self.start != 0
            || !self.rest.is_empty() && !self.file.is_empty()
        {
            write!(f, " {}", self.start)?;
        }
        if !self.rest.is_empty() {
            write!(f, " {}", self.rest)?;
        }
        Ok(())
    }
}

/// The first word of a line, and what follows it.
fn next_word(line: &str) -> (&str, &str) {
    let line = line.trim_start();
    line.split_at(line.find(char::is_whitespace).unwrap_or(line.len()))
}
