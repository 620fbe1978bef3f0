//! The footer: what kind of disk this is and how large; the last sector of the file ("Hard Disk Footer Format").
//!
//! Dynamic and differencing disks have a copy of it in their first sector. A fixed disk has this one alone.

use super::{Chs, MAX_DISK_BYTES, SECTOR_BYTES, Structure, checksum, quoted};
use crate::image::Malformed;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a footer.
pub const FOOTER_BYTES: usize = 512;

/// Versions before Virtual PC 2004 wrote footers of one byte less; the byte that is missing is reserved.
pub const OLD_FOOTER_BYTES: usize = 511;

const COOKIE: [u8; 8] = *b"conectix";
const VERSION: u32 = 0x0001_0000;
/// "Reserved. This bit must always be set to 1."
const FEATURES: u32 = 0x0000_0002;
/// Where no further structure follows.
const NOWHERE: u64 = u64::MAX;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Raw {
    cookie: [u8; 8],
    features: U32,
    version: U32,
    data_offset: U64,
    timestamp: U32,
    creator_application: [u8; 4],
    creator_version: U32,
    creator_host: [u8; 4],
    original_size: U64,
    current_size: U64,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    kind: U32,
    checksum: U32,
    unique_id: [u8; 16],
    saved_state: u8,
    reserved: [u8; 427],
}

// 8 + 4 + 4 + 8 + 4 + 4 + 4 + 4 + 8 + 8 + 4 + 4 + 4 + 16 + 1 + 427
const _: () = assert!(size_of::<Raw>() == FOOTER_BYTES);
const CHECKSUM: std::ops::Range<usize> = 64..68;
const _: () = assert!(std::mem::offset_of!(Raw, checksum) == CHECKSUM.start);

/// Which disk this is; a child names its parent by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UniqueId(pub [u8; 16]);

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Seconds since the start of 2000, in UTC ("Time Stamp").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timestamp(pub u32);

impl Timestamp {
    const EPOCH: Duration = Duration::from_secs(946_684_800);

    /// The nearest time that the format can say.
    pub fn of(time: SystemTime) -> Self {
        let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since_1970.saturating_sub(Self::EPOCH).as_secs();
        Self(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

/// The program that made the image ("Creator Application").
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Creator(pub [u8; 4]);

impl Creator {
    /// Hyper-V. What is made here says so too: the field decides how others compute the size, and this is the value of
    /// which every program takes the current size.
    pub const HYPER_V: Self = Self(*b"win ");

    /// Whether the size of the disk is what its geometry says, rounded down to a cylinder. So it is for Virtual PC and for
    /// QEMU, unless QEMU was asked for the exact size and says "qem2".
    pub fn counts_cylinders(self) -> bool {
        matches!(&self.0, b"vpc " | b"qemu")
    }
}

impl fmt::Display for Creator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.0))
    }
}

impl fmt::Debug for Creator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of disk the image is ("Disk Type").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// All bytes of the disk in order.
    Fixed,
    /// Blocks as they were written.
    Dynamic,
    /// Sectors that differ from those of a parent.
    Differencing,
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        })
    }
}

/// A footer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Bits of no meaning for the content ("Features").
    pub features: u32,
    /// Where the dynamic header is; `None` for a fixed disk ("Data Offset").
    pub header_offset: Option<u64>,
    /// When the image was made.
    pub timestamp: Timestamp,
    /// By which program.
    pub creator: Creator,
    /// In which version.
    pub creator_version: u32,
    /// On which system ("Creator Host OS").
    pub creator_host: [u8; 4],
    /// Size of the disk when it was made, in bytes. Of a fixed disk that grew here it is where the footer was before.
    pub original_bytes: u64,
    /// Size of the disk, in bytes.
    pub current_bytes: u64,
    /// Size of the disk, in cylinders.
    pub geometry: Chs,
    /// What follows.
    pub kind: Kind,
    /// Which disk this is.
    pub unique_id: UniqueId,
    /// A machine is suspended on this disk ("Saved State").
    pub saved_state: bool,
    /// Not ours to interpret; some programs keep things here.
    reserved: [u8; 427],
}

impl Footer {
    /// The footer of a new disk.
    pub fn new(
        kind: Kind,
        size_bytes: u64,
        unique_id: UniqueId,
        timestamp: Timestamp,
        header_offset: Option<u64>,
    ) -> Self {
        Self {
            features: FEATURES,
            header_offset,
            timestamp,
            creator: Creator::HYPER_V,
            creator_version: 0x000a_0000,
            creator_host: *b"Wi2k",
            original_bytes: size_bytes,
            current_bytes: size_bytes,
            geometry: Chs::of(size_bytes),
            kind,
            unique_id,
            saved_state: false,
            reserved: [0; 427],
        }
    }

    /// Reads a footer of 512 or 511 bytes that was found at `offset` of its file.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, Malformed> {
        let at = Structure { name: "VHD footer", offset };
        let mut whole = [0; FOOTER_BYTES];
        let length = bytes.len();
        let fits = matches!(length, OLD_FOOTER_BYTES | FOOTER_BYTES);
        at.check(fits, "length", length, "512 bytes")?;
        whole[..length].copy_from_slice(bytes);
        let raw = Raw::read_from_bytes(&whole).expect("it has that size");
        at.check(raw.cookie == COOKIE, "cookie", quoted(&raw.cookie), "\"conectix\"")?;
        let sum = checksum(&whole, CHECKSUM);
        if sum != raw.checksum.get() {
            let found = format!("{:#010x}", raw.checksum.get());
            return Err(at.wrong("checksum", found, format!("{sum:#010x}, as of its bytes")));
        }
        let version = raw.version.get();
        at.check(version >> 16 == 1, "file format version", format!("{version:#010x}"), "1.x")?;
        let kind = match raw.kind.get() {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => {
                return Err(at.wrong("disk type", other, "2 (fixed), 3 (dynamic) or 4"));
            }
        };
        let footer = Self {
            features: raw.features.get(),
            // A fixed disk has none, whatever it says: 2^64-1 as specified, 2^32-1 as some write.
            header_offset: (kind != Kind::Fixed).then(|| raw.data_offset.get()),
            timestamp: Timestamp(raw.timestamp.get()),
            creator: Creator(raw.creator_application),
            creator_version: raw.creator_version.get(),
            creator_host: raw.creator_host,
            original_bytes: raw.original_size.get(),
            current_bytes: raw.current_size.get(),
            geometry: Chs {
                cylinders: raw.cylinders.get(),
                heads: raw.heads,
                sectors: raw.sectors,
            },
            kind,
            unique_id: UniqueId(raw.unique_id),
            saved_state: raw.saved_state != 0,
            reserved: raw.reserved,
        };
        footer.check_size(at)?;
        Ok(footer)
    }

    fn check_size(&self, at: Structure) -> Result<(), Malformed> {
        let size = self.size_bytes();
        let (field, value) = if self.counts_cylinders() {
            ("disk geometry", self.geometry.to_string())
        } else {
            ("current size", size.to_string())
        };
        let whole = size > 0 && size.is_multiple_of(SECTOR_BYTES) && size <= MAX_DISK_BYTES;
        at.check(whole, field, value, "whole sectors, at least one and at most 2040 GiB of them")
    }

    fn counts_cylinders(&self) -> bool {
        // The largest geometry says nothing of a disk that is larger.
        self.creator.counts_cylinders() && self.geometry != Chs::LARGEST
    }

    /// Size of the disk in bytes, as the program that made it counts.
    pub fn size_bytes(&self) -> u64 {
        if self.counts_cylinders() { self.geometry.bytes() } else { self.current_bytes }
    }

    /// The footer of the same disk, grown to `size_bytes`. Its size is what is asked for, whoever made it.
    pub fn resized(&self, size_bytes: u64) -> Self {
        let creator = if self.creator.counts_cylinders() { Creator::HYPER_V } else { self.creator };
        Self { creator, current_bytes: size_bytes, geometry: Chs::of(size_bytes), ..self.clone() }
    }

    /// The bytes of the footer.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut raw = Raw {
            cookie: COOKIE,
            features: U32::new(self.features),
            version: U32::new(VERSION),
            data_offset: U64::new(self.header_offset.unwrap_or(NOWHERE)),
            timestamp: U32::new(self.timestamp.0),
            creator_application: self.creator.0,
            creator_version: U32::new(self.creator_version),
            creator_host: self.creator_host,
            original_size: U64::new(self.original_bytes),
            current_size: U64::new(self.current_bytes),
            cylinders: U16::new(self.geometry.cylinders),
            heads: self.geometry.heads,
            sectors: self.geometry.sectors,
            kind: U32::new(self.kind.code()),
            checksum: U32::new(0),
            unique_id: self.unique_id.0,
            saved_state: self.saved_state.into(),
            reserved: self.reserved,
        };
        raw.checksum = U32::new(checksum(raw.as_bytes(), CHECKSUM));
        let mut bytes = [0; FOOTER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn footers() -> impl Strategy<Value = Footer> {
        let kind = prop_oneof![Just(Kind::Fixed), Just(Kind::Dynamic), Just(Kind::Differencing)];
        let creator = prop_oneof![Just(*b"vpc "), Just(*b"qemu"), Just(*b"win "), any::<[u8; 4]>()];
        let rest = (any::<u32>(), any::<u32>(), any::<bool>(), any::<[u8; 16]>());
        (kind, creator, 8192u64..1 << 32, rest).prop_map(|(kind, creator, sectors, rest)| {
            let (timestamp, version, saved_state, id) = rest;
            let offset = (kind != Kind::Fixed).then_some(512);
            let size = (sectors * 512).min(MAX_DISK_BYTES);
            let mut footer = Footer::new(kind, size, UniqueId(id), Timestamp(timestamp), offset);
            footer.creator = Creator(creator);
            footer.creator_version = version;
            footer.saved_state = saved_state;
            footer
        })
    }

    fn dynamic() -> Footer {
        Footer::new(Kind::Dynamic, 10 << 20, UniqueId([7; 16]), Timestamp(1), Some(512))
    }

    /// `bytes` with a change and a checksum that fits it.
    fn changed(mut bytes: [u8; 512], change: impl FnOnce(&mut [u8; 512])) -> [u8; 512] {
        change(&mut bytes);
        let sum = checksum(&bytes, CHECKSUM);
        bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn the_size_is_what_the_creator_counts() {
        let mut footer = dynamic();
        footer.current_bytes = 20 << 20;
        footer.geometry = Chs { cylinders: 100, heads: 4, sectors: 17 };
        for (creator, size) in [
            (*b"vpc ", 100 * 4 * 17 * 512),
            (*b"qemu", 100 * 4 * 17 * 512),
            (*b"qem2", 20 << 20),
            (*b"win ", 20 << 20),
            (*b"d2v ", 20 << 20),
            (*b"tap\0", 20 << 20),
            (*b"vs  ", 20 << 20),
            (*b"vbox", 20 << 20),
        ] {
            footer.creator = Creator(creator);
            assert_eq!(footer.size_bytes(), size, "{}", footer.creator);
        }
        footer.creator = Creator(*b"vpc ");
        footer.geometry = Chs::LARGEST;
        assert_eq!(footer.size_bytes(), 20 << 20, "the largest geometry says nothing");
    }

    #[test]
    fn a_grown_disk_has_the_size_that_was_asked_for() {
        let mut footer = dynamic();
        footer.creator = Creator(*b"vpc ");
        assert_eq!(footer.resized((11 << 20) + 512).size_bytes(), (11 << 20) + 512);
    }

    #[test]
    fn an_old_footer_lacks_its_last_byte() {
        let bytes = dynamic().encode();
        assert_eq!(Footer::parse(&bytes[..511], 0), Ok(dynamic()));
    }

    #[test]
    fn what_others_keep_in_reserved_bytes_stays() {
        let bytes = changed(dynamic().encode(), |bytes| bytes[100..104].fill(9));
        assert_eq!(Footer::parse(&bytes, 0).expect("it is sound").encode(), bytes);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = dynamic().encode();
        let mut flipped = good;
        flipped[40] ^= 1;
        for (bytes, text) in [
            (changed(good, |b| b[3] = 0), "cookie is \"con\\x00ctix\"; expected \"conectix\""),
            (changed(good, |b| b[12..16].fill(0)), "file format version is 0x00000000"),
            (changed(good, |b| b[63] = 5), "disk type is 5; expected 2 (fixed)"),
            (changed(good, |b| b[48..56].fill(0)), "current size is 0; expected whole sectors"),
            (changed(good, |b| b[55] = 1), "current size is 10485761; expected whole sectors"),
            (changed(good, |b| b[48] = 1), "current size is 72057594048413696"),
            (
                changed(good, |b| {
                    b[28..32].copy_from_slice(b"vpc ");
                    b[58] = 0;
                }),
                "disk geometry is 301/0/17",
            ),
        ] {
            let error = Footer::parse(&bytes, 1024).expect_err(text).to_string();
            assert!(error.starts_with("VHD footer at 1024: "), "{error}");
            assert!(error.contains(text), "{error}");
        }
        let error = Footer::parse(&flipped, 0).expect_err("a bit is wrong").to_string();
        assert!(error.contains("checksum is 0x") && error.contains("expected 0x"), "{error}");
        assert!(Footer::parse(&good[..510], 0).is_err() && Footer::parse(&[], 0).is_err());
    }

    #[test]
    fn times_begin_with_2000() {
        let seconds = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(Timestamp::of(seconds(946_684_800)), Timestamp(0));
        assert_eq!(Timestamp::of(seconds(946_684_861)), Timestamp(61));
        assert_eq!(Timestamp::of(UNIX_EPOCH), Timestamp(0));
        assert_eq!(Timestamp::of(seconds(1 << 40)), Timestamp(u32::MAX));
    }

    proptest! {
        #[test]
        fn footers_are_read_as_they_were_written(footer in footers()) {
            prop_assert_eq!(Footer::parse(&footer.encode(), 0), Ok(footer));
        }

        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Footer::parse(&bytes, 0);
        }
    }
}
