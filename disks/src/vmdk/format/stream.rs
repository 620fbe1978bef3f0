//! Stream-optimised extents: packed grains and markers, made and read without going back.
//!
//! ```text
//!   [header: gdOffset = at end][descriptor] pad to 128
//!   [marker: grain, lba, size | deflated grain] pad to a sector ... [marker: grain table][table] ...
//!   [marker: directory][directory][marker: footer][footer: the header with gdOffset][marker: end of stream]
//! ```
//!
//! "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents". A grain is deflated with the header of zlib (RFC
//! 1950). Grains come in the order of the disk; one of zeroes is left out, and a table of none as well.

use super::header::{Directory, SparseHeader, Stretch, Version};
use super::tables::{DESCRIPTOR_SECTORS, GRAIN_SECTORS, TABLE_ENTRIES, encode_directory};
use super::{SECTOR_BYTES, SECTOR_LENGTH, malformed};
use crate::image::Malformed;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Bytes of a grain marker before the packed grain.
pub const GRAIN_MARKER_BYTES: usize = 12;
/// The footer, with a marker on each side, ends the file.
pub const FOOTER_BYTES: u64 = 3 * SECTOR_BYTES;
/// Sectors before the first grain.
const OVERHEAD: u64 = 128;

const FOOTER: &str = "VMDK footer";
const GRAIN: &str = "VMDK grain marker";

/// What stands before metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Marker {
    EndOfStream = 0,
    GrainTable = 1,
    GrainDirectory = 2,
    Footer = 3,
}

impl Marker {
    /// The sector that says that `sectors` of this follow.
    fn encode(self, sectors: u64) -> [u8; SECTOR_LENGTH] {
        let mut bytes = [0; SECTOR_LENGTH];
        bytes[..8].copy_from_slice(&sectors.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self as u32).to_le_bytes());
        bytes
    }
}

/// Reads the last [`FOOTER_BYTES`] of a stream, which start at `offset`.
pub fn parse_footer(bytes: &[u8], offset: u64) -> Result<SparseHeader, Malformed> {
    let marker = |at: usize, wanted: Marker, field: &'static str| {
        let size = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four bytes"));
        let kind = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("four bytes"));
        if size == 0 && kind == wanted as u32 {
            return Ok(());
        }
        let expected = format!("size 0, type {}", wanted as u32);
        let value = format!("size {size}, type {kind}");
        Err(malformed(FOOTER, offset + at as u64, field, value, expected))
    };
    if bytes.len() as u64 != FOOTER_BYTES {
        let expected = format!("{FOOTER_BYTES} bytes");
        return Err(malformed(FOOTER, offset, "length", bytes.len(), expected));
    }
    marker(0, Marker::Footer, "footer marker")?;
    marker(2 * SECTOR_LENGTH, Marker::EndOfStream, "end-of-stream marker")?;
    let at = offset + SECTOR_BYTES;
    let footer = SparseHeader::parse(&bytes[SECTOR_LENGTH..2 * SECTOR_LENGTH], at)?;
    if footer.directory == Directory::InFooter {
        return Err(malformed(FOOTER, at, "gdOffset", "at end", "a sector"));
    }
    Ok(footer)
}

/// That header and footer of a stream describe the same disk.
pub fn check_footer(
    header: &SparseHeader,
    footer: &SparseHeader,
    offset: u64,
) -> Result<(), Malformed> {
    for (field, found, expected) in [
        ("capacity", footer.capacity, header.capacity),
        ("grainSize", footer.grain_sectors, header.grain_sectors),
        ("numGTEsPerGT", footer.table_entries.into(), header.table_entries.into()),
    ] {
        if found != expected {
            let expected = format!("{expected}, as in the header");
            return Err(malformed(FOOTER, offset, field, found, expected));
        }
    }
    Ok(())
}

/// Most bytes that a packed grain may take. Deflate adds little to what it cannot pack; others read twice the grain.
fn max_packed(header: &SparseHeader) -> u64 {
    header.grain_bytes() * 2
}

/// Reads the marker of grain `number`, which starts at `offset`: how many bytes of packed grain follow it.
pub fn parse_grain_marker(
    header: &SparseHeader,
    number: u64,
    bytes: &[u8],
    offset: u64,
) -> Result<u64, Malformed> {
    let Some(marker) = bytes.get(..GRAIN_MARKER_BYTES) else {
        return Err(malformed(GRAIN, offset, "length", bytes.len(), "12 bytes"));
    };
    let (lba, size) = marker.split_at(8);
    let lba = u64::from_le_bytes(lba.try_into().expect("eight bytes"));
    let size = u32::from_le_bytes(size.try_into().expect("four bytes")).into();
    let expected = number * header.grain_sectors;
    if lba != expected {
        let expected = format!("{expected}, where the table has it");
        return Err(malformed(GRAIN, offset, "lba", lba, expected));
    }
    if size == 0 || size > max_packed(header) {
        let expected = format!("1 to {} bytes", max_packed(header));
        return Err(malformed(GRAIN, offset, "size", size, expected));
    }
    Ok(size)
}

/// Unpacks grain `number`, whose marker is at `offset`, into `into`, which is as long as the grain.
///
/// More bytes than a grain are an error, and never kept.
pub fn unpack_grain(
    header: &SparseHeader,
    number: u64,
    packed: &[u8],
    offset: u64,
    into: &mut [u8],
) -> Result<(), Malformed> {
    let fail = |value: String, expected: String| {
        Err(malformed("VMDK packed grain", offset, "deflated data", value, expected))
    };
    let grain = usize::try_from(header.grain_bytes()).expect("a grain fits memory");
    assert!(into.len() == grain, "{} bytes for a grain of {grain}", into.len());
    // One more than there may be: what would not fit is noticed, and the end of the data is always reached.
    let mut unpacked = vec![0; grain + 1];
    let status = Decompress::new(true).decompress_into(packed, &mut unpacked);
    let needed = (header.capacity - number * header.grain_sectors).min(header.grain_sectors);
    let needed = usize::try_from(needed * SECTOR_BYTES).expect("a grain fits memory");
    match status {
        Unpacked::Broken(why) => fail(why, "a zlib stream (RFC 1950)".to_owned()),
        Unpacked::Bytes(length) if length > grain => {
            fail(format!("more than {grain} bytes"), "one grain".to_owned())
        }
        Unpacked::Bytes(length) if length < needed => {
            fail(format!("{length} bytes"), format!("{needed} bytes"))
        }
        Unpacked::Bytes(length) => {
            into[..length].copy_from_slice(&unpacked[..length]);
            into[length..].fill(0);
            Ok(())
        }
    }
}

/// How unpacking ended.
enum Unpacked {
    Bytes(usize),
    Broken(String),
}

/// Unpacks at most as much as there is room.
trait DecompressInto {
    fn decompress_into(self, packed: &[u8], into: &mut [u8]) -> Unpacked;
}

impl DecompressInto for Decompress {
    fn decompress_into(mut self, packed: &[u8], into: &mut [u8]) -> Unpacked {
        let status = self.decompress(packed, into, FlushDecompress::Finish);
        let length = usize::try_from(self.total_out()).expect("no more than there is room");
        match status {
            Ok(Status::StreamEnd) => Unpacked::Bytes(length),
            // No room for the rest.
            Ok(_) if length == into.len() => Unpacked::Bytes(length),
            Ok(_) => Unpacked::Broken(format!("cut off after {length} bytes")),
            Err(error) => Unpacked::Broken(error.to_string()),
        }
    }
}

/// How hard grains are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Level(u32);

impl Level {
    /// What zlib calls its default.
    pub const DEFAULT: Self = Self(6);

    /// From 1, fast, to 9, small.
    pub fn new(level: u32) -> Option<Self> {
        (1..=9).contains(&level).then_some(Self(level))
    }
}

/// A packed grain with its marker, in whole sectors.
pub struct PackedGrain {
    number: u64,
    bytes: Vec<u8>,
}

impl PackedGrain {
    /// Packs grain `number`, at most [`GRAIN_SECTORS`] of it; `None` if it is all zeroes. Needs nothing but the grain, so many
    /// may be packed at once.
    pub fn pack(number: u64, grain: &[u8], level: Level) -> Option<Self> {
        let most = usize::try_from(GRAIN_SECTORS * SECTOR_BYTES).expect("a grain fits memory");
        assert!(grain.len() <= most, "{} bytes are more than a grain", grain.len());
        if grain.iter().all(|byte| *byte == 0) {
            return None;
        }
        // Deflate stores what it cannot pack in blocks with a header of five bytes; miniz and zlib both keep below this.
        let mut bytes = Vec::with_capacity(grain.len() + grain.len() / 64 + 256);
        bytes.extend_from_slice(&(number * GRAIN_SECTORS).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let mut deflate = Compress::new(Compression::new(level.0), true);
        let status = deflate.compress_vec(grain, &mut bytes, FlushCompress::Finish);
        assert!(
            matches!(status, Ok(Status::StreamEnd)),
            "no room for the packed grain: {status:?}"
        );
        let size = u32::try_from(bytes.len() - GRAIN_MARKER_BYTES).expect("about a grain");
        bytes[8..12].copy_from_slice(&size.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(SECTOR_LENGTH), 0);
        Some(Self { number, bytes })
    }

    /// Bytes in the stream.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }
}

/// That a stream would be longer than its entries can address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a stream ends at 2 TiB: entries of grain tables are sector numbers of 32 bits")]
pub struct StreamTooLong;

/// A stream that is being made: says which bytes come next.
pub struct StreamWriter {
    header: SparseHeader,
    /// Sectors so far.
    sectors: u64,
    /// Sector of each grain of the table that is being filled.
    table: Vec<u32>,
    table_number: u64,
    directory: Vec<u32>,
    /// No grain before this one may come any more.
    next_grain: u64,
}

impl StreamWriter {
    /// A stream of a disk of `capacity` sectors; `descriptor` has at most [`DESCRIPTOR_SECTORS`]. The bytes are its start.
    pub fn start(capacity: u64, descriptor: &[u8]) -> (Self, Vec<u8>) {
        let header = SparseHeader {
            // What VMware's own tools put into streams.
            version: Version::Three,
            newline_test: true,
            redundant: false,
            zeroed_grains: false,
            compressed: true,
            markers: true,
            other_flags: 0,
            capacity,
            grain_sectors: GRAIN_SECTORS,
            descriptor: Some(Stretch { start: 1, count: DESCRIPTOR_SECTORS }),
            table_entries: TABLE_ENTRIES,
            redundant_directory: None,
            directory: Directory::InFooter,
            overhead: OVERHEAD,
            unclean_shutdown: false,
        };
        let mut bytes = header.encode().to_vec();
        assert!(descriptor.len() as u64 <= DESCRIPTOR_SECTORS * SECTOR_BYTES, "a long descriptor");
        bytes.extend_from_slice(descriptor);
        bytes.resize(usize::try_from(OVERHEAD * SECTOR_BYTES).expect("small"), 0);
        let writer = Self {
            sectors: OVERHEAD,
            table: vec![0; TABLE_ENTRIES as usize],
            table_number: 0,
            directory: Vec::new(),
            next_grain: 0,
            header,
        };
        (writer, bytes)
    }

    /// Grains of the disk.
    pub fn grains(&self) -> u64 {
        self.header.grains()
    }

    /// Adds the bytes of the next grain to `out`. Grains that are left out are zero.
    pub fn push(&mut self, grain: &PackedGrain, out: &mut Vec<u8>) -> Result<(), StreamTooLong> {
        assert!(
            (self.next_grain..self.header.grains()).contains(&grain.number),
            "grain {} of {}, after {}",
            grain.number,
            self.header.grains(),
            self.next_grain
        );
        let table = grain.number / u64::from(TABLE_ENTRIES);
        if table != self.table_number {
            self.end_table(out)?;
            self.table_number = table;
        }
        let index = usize::try_from(grain.number % u64::from(TABLE_ENTRIES)).expect("in a table");
        self.table[index] = u32::try_from(self.sectors).map_err(|_| StreamTooLong)?;
        self.append(&grain.bytes, out);
        self.next_grain = grain.number + 1;
        Ok(())
    }

    /// Adds the end of the stream to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), StreamTooLong> {
        self.end_table(out)?;
        let sectors = self.header.directory_sectors();
        self.directory.resize(usize::try_from(self.header.tables()).expect("limited"), 0);
        self.append(&Marker::GrainDirectory.encode(sectors), out);
        let mut footer = self.header.clone();
        footer.directory = Directory::At(self.sectors);
        let directory = encode_directory(&self.directory, sectors);
        self.append(&directory, out);
        self.append(&Marker::Footer.encode(1), out);
        self.append(&footer.encode(), out);
        self.append(&Marker::EndOfStream.encode(0), out);
        Ok(())
    }

    /// Writes the table that was being filled, if a grain is in it.
    fn end_table(&mut self, out: &mut Vec<u8>) -> Result<(), StreamTooLong> {
        if self.table.iter().all(|entry| *entry == 0) {
            return Ok(());
        }
        let sectors = self.header.table_sectors();
        self.append(&Marker::GrainTable.encode(sectors), out);
        let number = usize::try_from(self.table_number).expect("tables fit memory");
        self.directory.resize(number, 0);
        self.directory.push(u32::try_from(self.sectors).map_err(|_| StreamTooLong)?);
        let table = encode_directory(&self.table, sectors);
        self.append(&table, out);
        self.table.fill(0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(bytes);
        self.sectors += bytes.len() as u64 / SECTOR_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmdk::format::entry_u32;
    use proptest::prelude::*;

    /// A stream of these grains, by number.
    fn stream(capacity: u64, grains: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let (mut writer, mut bytes) = StreamWriter::start(capacity, b"descriptor");
        for (number, grain) in grains {
            if let Some(packed) = PackedGrain::pack(*number, grain, Level::DEFAULT) {
                writer.push(&packed, &mut bytes).expect("short");
            }
        }
        writer.finish(&mut bytes).expect("short");
        bytes
    }

    /// Reads grain `number` the way the footer leads.
    fn read(bytes: &[u8], number: u64) -> Option<Vec<u8>> {
        let offset = bytes.len() as u64 - FOOTER_BYTES;
        let start = usize::try_from(offset).expect("small");
        let footer = parse_footer(&bytes[start..], offset).expect("sound");
        let header = SparseHeader::parse(bytes, 0).expect("sound");
        check_footer(&header, &footer, offset).expect("the same");
        let Directory::At(directory) = footer.directory else { panic!("no directory") };
        let at = |sector: u64| &bytes[usize::try_from(sector * 512).expect("small")..];
        let entries = u64::from(footer.table_entries);
        let table = entry_u32(at(directory), usize::try_from(number / entries).expect("small"));
        if table == 0 {
            return None;
        }
        let index = usize::try_from(number % entries).expect("small");
        let grain = entry_u32(at(table.into()), index);
        if grain == 0 {
            return None;
        }
        let bytes = at(grain.into());
        let size = parse_grain_marker(&header, number, bytes, 0).expect("a marker");
        let packed = &bytes[12..12 + usize::try_from(size).expect("small")];
        let mut unpacked = vec![0xee; 65_536];
        unpack_grain(&header, number, packed, 0, &mut unpacked).expect("whole");
        Some(unpacked)
    }

    #[test]
    fn the_values_are_those_of_other_makers() {
        let bytes = stream(1000, &[(0, vec![7; 65_536])]);
        let header = SparseHeader::parse(&bytes, 0).expect("sound");
        assert_eq!(&bytes[4..12], [3, 0, 0, 0, 1, 0, 3, 0], "version 3, flags 0x30001");
        assert_eq!((header.overhead, header.grain_sectors, header.table_entries), (128, 128, 512));
        assert_eq!(header.directory, Directory::InFooter);
        assert_eq!(&bytes[512..522], b"descriptor");
        assert!(bytes.len().is_multiple_of(512));
        assert_eq!(bytes[bytes.len() - 512..], [0; 512]);
    }

    #[test]
    fn broken_ends_have_their_message() {
        let bytes = stream(1000, &[(0, vec![7; 65_536])]);
        let at = bytes.len() - 1536;
        for (place, message) in [
            (12, "footer marker is size 0, type 2; expected size 0, type 3"),
            (8, "footer marker is size 1, type 3; expected size 0, type 3"),
            (1024 + 12, "end-of-stream marker is size 0, type 1; expected size 0, type 0"),
        ] {
            let mut end = bytes[at..].to_vec();
            end[place] ^= 1;
            let found = parse_footer(&end, 1000).expect_err(message).to_string();
            let from = 1000 + place / 512 * 512;
            assert_eq!(found, format!("VMDK footer at {from}: {message}"));
        }
        let mut end = bytes[at..].to_vec();
        end[512 + 56..512 + 64].fill(0xff);
        let found = parse_footer(&end, 0).expect_err("no directory").to_string();
        assert_eq!(found, "VMDK footer at 512: gdOffset is at end; expected a sector");
        let header = SparseHeader::parse(&bytes, 0).expect("sound");
        let other = SparseHeader { capacity: 1001, ..header.clone() };
        let found = check_footer(&header, &other, 9).expect_err("differs").to_string();
        assert_eq!(found, "VMDK footer at 9: capacity is 1001; expected 1000, as in the header");
    }

    #[test]
    fn grains_that_are_not_what_they_say_have_their_message() {
        let (writer, _) = StreamWriter::start(300, b"");
        let header = &writer.header;
        let packed = PackedGrain::pack(1, &[5; 65_536], Level::DEFAULT).expect("not zero").bytes;
        let marker = |bytes: &[u8], number| parse_grain_marker(header, number, bytes, 7);
        assert!(marker(&packed, 1).is_ok());
        let found = marker(&packed, 0).expect_err("another grain").to_string();
        assert_eq!(found, "VMDK grain marker at 7: lba is 128; expected 0, where the table has it");
        let mut huge = packed.clone();
        huge[8..12].fill(0xff);
        let found = marker(&huge, 1).expect_err("huge").to_string();
        assert!(found.contains("size is 4294967295; expected 1 to 131072 bytes"), "{found}");
        let mut into = vec![0; 65_536];
        let mut unpack = |number, bytes: &[u8]| {
            let found = unpack_grain(header, number, bytes, 7, &mut into);
            found.expect_err("broken").to_string()
        };
        let found = unpack(1, &packed[12..30]);
        assert!(found.contains("deflated data is cut off after"), "{found}");
        let found = unpack(1, &packed[11..]);
        assert!(found.ends_with("expected a zlib stream (RFC 1950)"), "{found}");
        let bomb = deflate(&vec![0; 10 << 20]);
        assert!(bomb.len() < 20_000);
        let found = unpack(1, &bomb);
        assert!(found.contains("more than 65536 bytes; expected one grain"), "{found}");
        let found = unpack(1, &deflate(&[1; 65_535]));
        assert!(found.contains("65535 bytes; expected 65536 bytes"), "{found}");
        // The last grain of 300 sectors has 44.
        unpack_grain(header, 2, &deflate(&[1; 44 * 512]), 7, &mut into).expect("enough");
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(bytes.len() + 100);
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.compress_vec(bytes, &mut packed, FlushCompress::Finish).expect("packed");
        packed
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_put_in_comes_out(
            capacity in 1u64..200_000,
            numbers in prop::collection::btree_set(0u64..1600, 0..8),
            level in 1u32..10,
            noise in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let grains: Vec<(u64, Vec<u8>)> = numbers
                .into_iter()
                .filter(|number| number * 128 < capacity)
                .map(|number| {
                    let sectors = (capacity - number * 128).min(128);
                    let mut grain = vec![1; usize::try_from(sectors * 512).expect("small")];
                    if noise {
                        crate::faults::Seed::new(seed ^ number).fill(&mut grain);
                    }
                    (number, grain)
                })
                .collect();
            prop_assert!(Level::new(level).is_some());
            let bytes = stream(capacity, &grains);
            for number in 0..capacity.div_ceil(128) {
                let put = grains.iter().find(|(other, _)| *other == number);
                let put = put.map(|(_, grain)| {
                    let mut whole = grain.clone();
                    whole.resize(65_536, 0);
                    whole
                });
                prop_assert_eq!(read(&bytes, number), put);
            }
        }
    }
}
