//! The descriptor: the text that says what a disk is made of.
//!
//! ```text
//!   # Disk DescriptorFile
//!   version=1                          header: identity (CID), parent, kind
//!   CID=123a4b5c
//!   parentCID=ffffffff
//!   createType="monolithicSparse"
//!
//!   # Extent description
//!   RW 20480 SPARSE "disk.vmdk"        extents, in the order of the disk
//!
//!   # The Disk Data Base
//!   #DDB
//!   ddb.adapterType = "lsilogic"       disk database: geometry, adapter, uuid, whatever else its makers put there
//! ```
//!
//! "Virtual Disk Format 5.0", section "Layout Basics: The Descriptor". Lines that are not understood, their order, spacing and ends
//! stay as they were: a descriptor that is parsed and printed again is the same text, and a change of a value changes nothing else.

mod extent;
mod parse;
mod text;

#[cfg(test)]
mod tests;

pub use self::extent::{ExtentAccess, ExtentKind, ExtentLine};
pub use self::parse::looks_like_descriptor;
pub use self::text::Encoding;

use crate::image::Malformed;

/// Longest descriptor that is read; real ones have one or two kilobytes.
pub const MAX_DESCRIPTOR_BYTES: usize = 1 << 20;
/// Longest line; the text in it is a path at most.
const MAX_LINE_BYTES: usize = 8192;
/// Most extents: each is a file that is kept open.
pub const MAX_EXTENTS: usize = 4096;

/// Name of the structure in messages.
const DESCRIPTOR: &str = "VMDK descriptor";

/// The content of a disk, by number: changes when the disk is written after it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentId(u32);

impl ContentId {
    /// What stands for no content: as parentCID, there is no parent.
    pub const NONE: Self = Self(0xffff_ffff);

    /// The identity `number`.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// As a number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Whether it tells contents from each other: two values have meanings of their own (none; never written).
    pub const fn is_distinct(self) -> bool {
        self.0 < 0xffff_fffe
    }
}

impl std::fmt::Display for ContentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The kind of a disk, as `createType` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CreateType {
    /// One sparse extent with the descriptor in it.
    MonolithicSparse,
    /// A descriptor and one flat extent.
    MonolithicFlat,
    /// A descriptor and sparse extents of at most 2 GB.
    TwoGbMaxExtentSparse,
    /// A descriptor and flat extents of at most 2 GB.
    TwoGbMaxExtentFlat,
    /// One packed extent with the descriptor in it, for streams.
    StreamOptimized,
    /// A descriptor and a flat extent on VMFS: what ESX boots.
    Vmfs,
    /// A descriptor and an ESX sparse extent.
    VmfsSparse,
    /// A descriptor and a space-efficient sparse extent.
    SeSparse,
    /// Anything else; what matters are the extents.
    Other(String),
}

impl CreateType {
    const NAMES: [(Self, &'static str); 8] = [
        (Self::MonolithicSparse, "monolithicSparse"),
        (Self::MonolithicFlat, "monolithicFlat"),
        (Self::TwoGbMaxExtentSparse, "twoGbMaxExtentSparse"),
        (Self::TwoGbMaxExtentFlat, "twoGbMaxExtentFlat"),
        (Self::StreamOptimized, "streamOptimized"),
        (Self::Vmfs, "vmfs"),
        (Self::VmfsSparse, "vmfsSparse"),
        (Self::SeSparse, "seSparse"),
    ];

    fn parse(text: &str) -> Self {
        let known = Self::NAMES.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        match (known, text) {
            (Some((kind, _)), _) => kind,
            // The names of the first version of the format.
            (None, "2GbMaxExtentSparse") => Self::TwoGbMaxExtentSparse,
            (None, "2GbMaxExtentFlat") => Self::TwoGbMaxExtentFlat,
            (None, other) => Self::Other(other.to_owned()),
        }
    }

    /// As it stands in a descriptor.
    pub fn name(&self) -> &str {
        if let Self::Other(name) = self {
            return name;
        }
        let mut known = Self::NAMES.iter();
        known.find(|(kind, _)| kind == self).map_or("", |(_, name)| *name)
    }
}

/// A line, and what it means.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    /// Without its end.
    text: String,
    /// Its end: `\n`, `\r\n` or nothing.
    end: &'static str,
    meaning: Meaning,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Meaning {
    /// A comment, nothing, or nothing that is understood.
    None,
    /// `key=value`, with what is between the quotes if there are any.
    Setting {
        key: String,
        value: String,
    },
    Extent(ExtentLine),
}

/// A descriptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    lines: Vec<Line>,
    encoding: Encoding,
    cid: ContentId,
    parent_cid: ContentId,
    create_type: CreateType,
}

impl Descriptor {
    /// Identity of the content.
    pub fn cid(&self) -> ContentId {
        self.cid
    }

    /// Identity that the parent had; [`ContentId::NONE`] without a parent.
    pub fn parent_cid(&self) -> ContentId {
        self.parent_cid
    }

    /// What kind of disk it is.
    pub fn create_type(&self) -> &CreateType {
        &self.create_type
    }

    /// Where the parent was; only in the descriptor of a child.
    pub fn parent_hint(&self) -> Option<&str> {
        self.setting("parentFileNameHint")
    }

    /// The file that tracks changed blocks for backups; who writes without telling it breaks it.
    pub fn change_track_path(&self) -> Option<&str> {
        self.setting("changeTrackPath")
    }

    /// The parts of the disk, in order.
    pub fn extents(&self) -> impl Iterator<Item = &ExtentLine> {
        self.lines.iter().filter_map(|line| match &line.meaning {
            Meaning::Extent(extent) => Some(extent),
            _ => None,
        })
    }

    /// Size of the disk, in sectors.
    pub fn sectors(&self) -> u64 {
        self.extents().map(|extent| extent.sectors).sum()
    }

    /// The value of a line `key=value`, of the header or the disk database (`ddb.uuid`).
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings().find(|(found, _)| found.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }

    /// All lines `key=value`.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| match &line.meaning {
            Meaning::Setting { key, value } => Some((key.as_str(), value.as_str())),
            _ => None,
        })
    }

    /// Gives the content a new identity, in the lines `CID` and `ddb.longContentID`.
    ///
    /// Both keep their lengths, so that the change of a descriptor in place stays within the bytes of the numbers: a number of
    /// fewer than eight digits, as qemu writes some, is replaced by one that fits. `random` gives what distinguishes it.
    pub fn renew_cid(&mut self, mut random: impl FnMut() -> u32) {
        let digits = self.setting("CID").map_or(8, str::len).clamp(1, 8);
        let mask = u32::MAX >> (32 - 4 * digits);
        let mut next = ContentId(random() & mask);
        while !next.is_distinct() || next == self.cid || next.0 == 0 {
            next = ContentId(next.0.wrapping_add(1) & mask);
        }
        self.replace_value("CID", &format!("{:0digits$x}", next.0));
        self.cid = next;
        // The long identity ends in the short one.
        let long = self.setting("ddb.longContentID").filter(|long| long.len() == 32);
        if let Some(long) = long.and_then(|long| long.get(..24)) {
            let long = format!("{long}{next}");
            self.replace_value("ddb.longContentID", &long);
        }
    }

    /// Sets a value that is there, or adds it to the disk database.
    pub fn set(&mut self, key: &str, value: &str) {
        if !self.replace_value(key, value) {
            let end = self.line_end();
            if let Some(last) = self.lines.last_mut() {
                last.end = end;
            }
            let text = format!("{key} = \"{value}\"");
            let meaning = Meaning::Setting { key: key.to_owned(), value: value.to_owned() };
            self.lines.push(Line { text, end, meaning });
        }
    }

    /// Gives extent `index` another size.
    pub fn set_extent_sectors(&mut self, index: usize, sectors: u64) {
        let lines = self.lines.iter_mut().filter_map(|line| match &mut line.meaning {
            Meaning::Extent(extent) => Some((&mut line.text, extent)),
            _ => None,
        });
        if let Some((text, extent)) = lines.into_iter().nth(index) {
            extent.sectors = sectors;
            *text = extent.to_string();
        }
    }

    /// Adds an extent behind the last one.
    pub fn push_extent(&mut self, extent: ExtentLine) {
        let end = self.line_end();
        let is_extent = |line: &Line| matches!(line.meaning, Meaning::Extent(_));
        let place =
            self.lines.iter().rposition(is_extent).map_or(self.lines.len(), |last| last + 1);
        if let Some(before) = place.checked_sub(1) {
            self.lines[before].end = end;
        }
        let line = Line { text: extent.to_string(), end, meaning: Meaning::Extent(extent) };
        self.lines.insert(place, line);
    }

    /// Changes what stands behind the key of a line, within the quotes if there are any.
    fn replace_value(&mut self, key: &str, new: &str) -> bool {
        for line in &mut self.lines {
            let Meaning::Setting { key: found, value } = &mut line.meaning else { continue };
            if !found.eq_ignore_ascii_case(key) {
                continue;
            }
            let behind = line.text.find('=').map_or(line.text.len(), |equals| equals + 1);
            let (before, after) = line.text.split_at(behind);
            line.text = if value.is_empty() {
                format!("{before}\"{new}\"")
            } else {
                format!("{before}{}", after.replacen(value.as_str(), new, 1))
            };
            new.clone_into(value);
            return true;
        }
        false
    }

    fn line_end(&self) -> &'static str {
        self.lines.iter().map(|line| line.end).find(|end| !end.is_empty()).unwrap_or("\n")
    }

    /// The text, in its encoding.
    pub fn print(&self) -> Result<Vec<u8>, Malformed> {
        let text: String =
            self.lines.iter().flat_map(|line| [line.text.as_str(), line.end]).collect();
        self.encoding.encode(&text)
    }
}
