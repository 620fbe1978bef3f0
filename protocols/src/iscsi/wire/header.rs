//! What every PDU begins with (section 11.2.1): what it is, and how long the rest of it is.
//!
//! ```text
//!   byte 0     . I opcode        I: immediate
//!        1-3   by opcode
//!        4     TotalAHSLength    words of 4 bytes
//!        5-7   DataSegmentLength bytes, without padding
//! ```

use super::{HEADER, HeaderBytes, LONGEST_SEGMENT, PADDING};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The I bit of a request.
pub const IMMEDIATE: u8 = 0x40;
/// The bits that are the opcode.
pub const OPCODE: u8 = 0x3f;
/// The F bit: the last PDU of a sequence.
pub const FINAL: u8 = 0x80;
/// The C bit of text and login: the text goes on in the next PDU.
pub const CONTINUE: u8 = 0x40;

/// The first eight bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Lead {
    /// Opcode and I bit.
    pub opcode: u8,
    /// Flags, by opcode.
    pub flags: u8,
    /// By opcode.
    pub specific: [u8; 2],
    /// Additional headers, in words of four bytes.
    pub additional_words: u8,
    /// Data segment, in bytes.
    pub data_length: [u8; 3],
}
const _: () = assert!(size_of::<Lead>() == 1 + 1 + 2 + 1 + 3);

impl Lead {
    /// That of a PDU with a data segment of this length and no additional headers.
    pub fn new(opcode: u8, flags: u8, data: DataLength) -> Self {
        let [_, length @ ..] = data.0.to_be_bytes();
        Self { opcode, flags, data_length: length, ..Self::default() }
    }

    /// Whether the I bit is set.
    pub fn immediate(&self) -> bool {
        self.opcode & IMMEDIATE != 0
    }

    /// Whether the F bit is set.
    pub fn is_final(&self) -> bool {
        self.flags & FINAL != 0
    }

    /// Whether the C bit of a text or login is set.
    pub fn continues(&self) -> bool {
        self.flags & CONTINUE != 0
    }
}

/// The opcode of a request, with its I bit.
pub fn request(opcode: u8, immediate: bool) -> u8 {
    if immediate { opcode | IMMEDIATE } else { opcode }
}

/// Length of a data segment, in bytes: at most what its field can say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct DataLength(u32);

impl DataLength {
    /// No data.
    pub const NONE: Self = Self(0);

    /// `bytes` of data; `None` if the field cannot say so much.
    pub fn new(bytes: usize) -> Option<Self> {
        u32::try_from(bytes).ok().filter(|bytes| *bytes <= LONGEST_SEGMENT).map(Self)
    }

    /// Bytes, without padding.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

/// What follows a basic header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lengths {
    /// Additional header segments, in bytes; a multiple of four.
    pub additional: usize,
    /// The data segment.
    pub data: DataLength,
}

impl Lengths {
    /// What follows this header.
    pub fn of(header: &HeaderBytes) -> Self {
        let [_, _, _, _, words, high, middle, low, ..] = *header;
        Self {
            additional: usize::from(words) * PADDING,
            data: DataLength(u32::from_be_bytes([0, high, middle, low])),
        }
    }
}

/// Bytes of padding behind a data segment of `length` bytes.
pub const fn padding(length: usize) -> usize {
    length.next_multiple_of(PADDING) - length
}

const _: () = assert!(HEADER.is_multiple_of(PADDING), "the data segment begins on a word");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segments_are_filled_up_to_words() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }

    #[test]
    fn a_length_beyond_24_bits_is_none() {
        assert_eq!(DataLength::new(1 << 24), None);
        assert_eq!(DataLength::new((1 << 24) - 1).map(DataLength::bytes), Some((1 << 24) - 1));
    }

    proptest! {
        #[test]
        fn lengths_are_those_that_were_written(length in 0usize..1 << 24, words: u8) {
            let data = DataLength::new(length).expect("24 bits");
            let lead = Lead { additional_words: words, ..Lead::new(0x45, 0x80, data) };
            let mut header = [0xff; HEADER];
            header[..size_of::<Lead>()].copy_from_slice(lead.as_bytes());
            prop_assert_eq!(Lengths::of(&header), Lengths { additional: usize::from(words) * 4, data });
        }
    }
}
