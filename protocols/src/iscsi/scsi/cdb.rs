//! A command descriptor block whose bits have been checked, and the fields that many commands
//! share.

use super::sense::Additional;
use super::sense::Sense;
use landfall_disks::{ByteOffset, ByteRange, Durability, Geometry};

/// Longest CDB of the table, in bytes.
const MAX_BYTES: usize = 16;

/// The bytes of a CDB, as many as its operation code says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cdb {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

/// Where a command of blocks says how many it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Count {
    byte: usize,
    bytes: usize,
}

/// The blocks a command means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// The first one.
    pub(super) lba: u64,
    /// How many.
    pub(super) count: u64,
    /// First byte of the field that says how many.
    field: u16,
}

impl Cdb {
    /// Of `bytes`, at most sixteen.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut all = [0; MAX_BYTES];
        all[..bytes.len()].copy_from_slice(bytes);
        Self { bytes: all, length: bytes.len() }
    }

    /// Whether it is one of six bytes.
    pub(super) fn is_six(&self) -> bool {
        self.length == 6
    }

    /// Whether it is one of ten bytes.
    pub(super) fn is_ten(&self) -> bool {
        self.length == 10
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    /// Whether a bit of `mask` is set in byte `at`.
    pub(super) fn has(&self, at: usize, mask: u8) -> bool {
        self.bytes[at] & mask != 0
    }

    /// Big-endian number of `bytes` bytes.
    fn number(&self, at: usize, bytes: usize) -> u64 {
        self.bytes[at..at + bytes].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        self.number(at, 8)
    }

    /// An allocation or parameter list length of `bytes` bytes.
    pub(super) fn length(&self, at: usize, bytes: usize) -> usize {
        usize::try_from(self.number(at, bytes)).expect("at most four bytes")
    }

    /// Starting LBA and number of blocks, wherever a CDB of this length has them (SBC-4 5).
    pub(super) fn extent(&self) -> Extent {
        let (lba, count) = match self.length {
            6 => (self.number(1, 3) & 0x1f_ffff, Count { byte: 4, bytes: 1 }),
            10 => (self.number(2, 4), Count { byte: 7, bytes: 2 }),
            12 => (self.number(2, 4), Count { byte: 6, bytes: 4 }),
            _ => (self.number(2, 8), Count { byte: 10, bytes: 4 }),
        };
        let field = u16::try_from(count.byte).expect("small");
        Extent { lba, count: self.number(count.byte, count.bytes), field }
    }

    /// As [`Cdb::extent`] for COMPARE AND WRITE, which has one byte for the number of blocks.
    pub(super) fn short_extent(&self) -> Extent {
        Extent { lba: self.u64(2), count: u64::from(self.bytes[13]), field: 13 }
    }

    /// What the FUA bit asks for.
    pub(super) fn durability(&self) -> Durability {
        if self.length > 6 && self.has(1, 0x08) { Durability::Durable } else { Durability::Cached }
    }
}

impl Extent {
    /// The bytes of it, if the disk has so many blocks; at its end there are none, which is no
    /// error.
    pub(super) fn range(self, geometry: &Geometry) -> Result<ByteRange, Sense> {
        block_range(geometry, self.lba, self.count)
    }

    /// As [`Extent::range`] for a command that moves all of the bytes, `most` at a time.
    pub(super) fn transfer(self, geometry: &Geometry, most: u64) -> Result<ByteRange, Sense> {
        let range = self.range(geometry)?;
        if range.length() > most { Err(self.wrong_count()) } else { Ok(range) }
    }

    /// That the field that says how many is wrong.
    pub(super) fn wrong_count(self) -> Sense {
        Sense::invalid_field(self.field, 7)
    }
}

/// The bytes of `count` blocks from `lba`.
pub(super) fn block_range(geometry: &Geometry, lba: u64, count: u64) -> Result<ByteRange, Sense> {
    let bytes = u64::from(geometry.logical_sector);
    let range = lba
        .checked_mul(bytes)
        .zip(count.checked_mul(bytes))
        .and_then(|(start, length)| ByteRange::at(ByteOffset::new(start), length))
        .filter(|range| geometry.whole().contains(*range));
    range.ok_or(Sense::illegal(Additional::LBA_OUT_OF_RANGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        size_bytes: 10 * 512,
        logical_sector: 512,
        physical_sector: 512,
        read_only: false,
    };

    #[test]
    fn each_length_has_its_fields() {
        let six = Cdb::new(&[0x08, 0x01, 2, 3, 4, 0]).extent();
        assert_eq!((six.lba, six.count), (0x1_0203, 4));
        let ten = Cdb::new(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]).extent();
        assert_eq!((ten.lba, ten.count, ten.field), (0x0102_0304, 0x0506, 7));
        let twelve = Cdb::new(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]).extent();
        assert_eq!((twelve.lba, twelve.count, twelve.field), (0x0102_0304, 0x0506_0708, 6));
        let sixteen = Cdb::new(&[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]).extent();
        assert_eq!(
            (sixteen.lba, sixteen.count, sixteen.field),
            (0x0102_0304_0506_0708, 0x090a_0b0c, 10)
        );
    }

    #[test]
    fn ranges_end_with_the_disk() {
        assert!(block_range(&GEOMETRY, 9, 1).is_ok());
        assert!(block_range(&GEOMETRY, 10, 0).is_ok());
        for (lba, count) in [(10, 1), (11, 0), (u64::MAX, 1), (u64::MAX / 512 + 1, 0), (1, 10)] {
            let sense = block_range(&GEOMETRY, lba, count).expect_err("behind the end");
            assert_eq!(sense.additional, Additional::LBA_OUT_OF_RANGE);
        }
        let long = Extent { lba: 0, count: 10, field: 7 };
        assert_eq!(long.transfer(&GEOMETRY, 4096), Err(Sense::invalid_field(7, 7)));
    }
}
