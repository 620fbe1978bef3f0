//! A slow reader of VHDs: one sector at a time, straight from the bytes of the file, nothing shared with the reader it judges.
//!
//! It finds the footer by the rules of the format and of a crash, and believes everything behind it: what does not make sense
//! is for the other reader to refuse.

/// A big-endian number of `length` bytes at `at`; `None` past the end.
pub fn number(bytes: &[u8], at: u64, length: u64) -> Option<u64> {
    let start = usize::try_from(at).ok()?;
    let end = usize::try_from(at.checked_add(length)?).ok()?;
    let bytes = bytes.get(start..end)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn sum(bytes: &[u8], field: usize) -> u32 {
    let all = bytes.iter().enumerate().filter(|(at, _)| !(field..field + 4).contains(at));
    !all.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

/// Puts the checksum at `field` of a structure right.
pub fn seal(structure: &mut [u8], field: usize) {
    let sum = sum(structure, field);
    structure[field..field + 4].copy_from_slice(&sum.to_be_bytes());
}

/// What a footer says.
#[derive(Clone, PartialEq)]
struct Footer {
    kind: u64,
    header: u64,
    original: u64,
    size: u64,
    id: [u8; 16],
}

fn footer(bytes: &[u8]) -> Option<Footer> {
    let mut whole = bytes.to_vec();
    // The byte that old footers lack.
    whole.resize(512, 0);
    let field = |at, length| number(&whole, at, length).expect("within the footer");
    let sound = whole.starts_with(b"conectix")
        && u64::from(sum(&whole, 64)) == field(64, 4)
        && field(12, 2) == 1
        && (2..=4).contains(&field(60, 4));
    let geometry = [field(56, 2), field(58, 1), field(59, 1)];
    let creator = &whole[28..32];
    let by_geometry = (creator == b"vpc " || creator == b"qemu") && geometry != [65535, 16, 255];
    let size = if by_geometry { geometry.iter().product::<u64>() * 512 } else { field(48, 8) };
    let right = size > 0 && size % 512 == 0 && size <= 2040 << 30;
    (sound && right).then(|| Footer {
        kind: field(60, 4),
        header: field(16, 8),
        original: field(40, 8),
        size,
        id: whole[68..84].try_into().expect("16 bytes"),
    })
}

/// A file that was understood as far as its footer.
pub struct Reference<'a> {
    bytes: &'a [u8],
    parent: &'a [u8],
    footer: Footer,
}

impl<'a> Reference<'a> {
    /// Finds the footer. `parent` is the content of the disk that a child stands on.
    pub fn new(bytes: &'a [u8], parent: &'a [u8]) -> Option<Self> {
        let cut = if bytes.len() % 512 == 511 { 511 } else { 512 };
        let end = bytes.len().checked_sub(cut)?;
        let last =
            footer(&bytes[end..]).filter(|footer| footer.kind != 2 || footer.size <= end as u64);
        // A file that has room for no header is no dynamic disk.
        let copy = || {
            let there = bytes.get(..1536)?;
            footer(&there[..512]).filter(|footer| footer.kind != 2)
        };
        let early = || {
            let used = bytes.iter().rposition(|byte| *byte != 0)?;
            let at = used / 512 * 512;
            let found = footer(bytes.get(at..at + 512)?)?;
            (found.kind == 2 && found.size <= at as u64).then_some(found)
        };
        let footer = last.or_else(copy).or_else(early)?;
        Some(Self { bytes, parent, footer })
    }

    /// Size of the disk.
    pub fn size(&self) -> u64 {
        self.footer.size
    }

    /// Whether it stands on a parent.
    pub fn is_child(&self) -> bool {
        self.footer.kind == 4
    }

    /// The content of a sector; `None` if the file does not make sense there.
    pub fn sector(&self, sector: u64) -> Option<[u8; 512]> {
        let bytes = |at: u64| {
            let at = usize::try_from(at).ok()?;
            let bytes = self.bytes.get(at..at.checked_add(512)?)?;
            Some(<[u8; 512]>::try_from(bytes).expect("a sector"))
        };
        if self.footer.kind == 2 {
            return if self.is_stale(sector) { Some([0; 512]) } else { bytes(sector * 512) };
        }
        let field = |at, length| number(self.bytes, self.footer.header.checked_add(at)?, length);
        let (table, block) = (field(16, 8)?, field(32, 4)?);
        let sectors = block / 512;
        let entry = number(self.bytes, table.checked_add(sector / sectors * 4)?, 4)?;
        let absent = || {
            let at = usize::try_from(sector * 512).expect("small");
            let there = self.is_child().then(|| self.parent.get(at..at + 512)).flatten();
            there.map_or([0; 512], |bytes| bytes.try_into().expect("a sector"))
        };
        if entry == 0xffff_ffff {
            return Some(absent());
        }
        let within = sector % sectors;
        let bits = number(self.bytes, entry * 512 + within / 8, 1)?;
        if bits & 0x80 >> (within % 8) == 0 {
            return Some(absent());
        }
        let bitmap_sectors = sectors.div_ceil(8).div_ceil(512);
        bytes((entry + bitmap_sectors + within) * 512)
    }

    /// Whether a fixed disk had its footer here before it grew.
    fn is_stale(&self, sector: u64) -> bool {
        let at = self.footer.original;
        let inside = at.checked_add(512).is_some_and(|end| end <= self.footer.size);
        if at != sector * 512 || !inside {
            return false;
        }
        let start = usize::try_from(at).expect("within the file");
        footer(&self.bytes[start..start + 512])
            .is_some_and(|old| old.kind == 2 && old.id == self.footer.id && old.size <= at)
    }
}
