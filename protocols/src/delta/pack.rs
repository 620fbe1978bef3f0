//! Content of batches: hashed and compressed on the sending side, checked and decompressed on the receiving one.
//!
//! Everything here costs time in proportion to its bytes and does no I/O: both sides run it on a pool for such
//! work, never where sockets are served.
//!
//! **Invariant:** what [`unpack`] returns has the hash that came with it, and never needs more memory than the limit its
//! frame was parsed with.

use super::identity::{DiskSlot, Position, Timestamp};
use super::refusal::Refusal;
use super::replicas::{Batch, Extent, ExtentContent};
use super::wire::{
    BatchFrame, Codec, ExtentEntry, ExtentKind, HASH_BYTES, begin_batch, finish_batch, set_position,
};
use landfall_disks::{BLOCK_BYTES, Buffer, ByteRange};

/// Content that is to be sent.
#[derive(Clone, Copy, Debug)]
pub enum PlainContent<'a> {
    /// As many bytes as the extent is long.
    Data(&'a [u8]),
    /// Zeroes.
    Zero,
}

/// Whether content is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As it is.
    Off,
    /// LZ4 for extents that get at least an eighth smaller.
    Lz4,
}

/// A batch ready to send, but for its position.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedBatch {
    frame: Vec<u8>,
    plain_bytes: u64,
    compressed: bool,
}

impl std::fmt::Debug for PackedBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedBatch({} bytes)", self.frame.len())
    }
}

impl PackedBatch {
    /// Bytes of its frame: what it costs in credit.
    pub fn cost_bytes(&self) -> u64 {
        self.frame.len() as u64
    }

    /// Bytes of plain content.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Whether an extent of it is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// The frame with its place in the stream.
    pub(super) fn into_frame(mut self, position: Position) -> Vec<u8> {
        set_position(&mut self.frame, position);
        self.frame
    }
}

/// A sample of this many bytes tells whether compressing an extent is worth trying.
const SAMPLE_BYTES: usize = 16 * 1024;

/// Makes a batch of `extents`, which ascend, do not overlap and stay within the limits of a batch.
pub fn pack(
    source_time: Timestamp,
    disk: DiskSlot,
    extents: &[(ByteRange, PlainContent<'_>)],
    compression: Compression,
) -> PackedBatch {
    let mut entries = Vec::with_capacity(extents.len());
    let data_bytes = extents.iter().map(|(_, what)| match what {
        PlainContent::Zero => 0,
        PlainContent::Data(bytes) => bytes.len(),
    });
    // Content goes straight to its place in the frame, which is long enough for all of it uncompressed.
    let mut frame = begin_batch(extents.len(), data_bytes.sum());
    let mut plain_bytes = 0;
    let mut compressed = false;
    for (range, what) in extents {
        let kind = match what {
            PlainContent::Zero => ExtentKind::Zero,
            PlainContent::Data(bytes) => {
                assert_eq!(bytes.len() as u64, range.length(), "content as long as its range");
                plain_bytes += range.length();
                let before = frame.len();
                let codec = store(bytes, compression, &mut frame);
                compressed |= codec == Codec::Lz4;
                ExtentKind::Data {
                    codec,
                    stored_bytes: u32::try_from(frame.len() - before).expect("at most 4 MiB"),
                    hash: *blake3::hash(bytes).as_bytes(),
                }
            }
        };
        entries.push(ExtentEntry { range: *range, kind });
    }
    finish_batch(&mut frame, source_time, disk, &entries);
    PackedBatch { frame, plain_bytes, compressed }
}

/// Appends `bytes` to `content`, compressed if that pays.
fn store(bytes: &[u8], compression: Compression, content: &mut Vec<u8>) -> Codec {
    let pays = |stored: usize, plain: usize| stored <= plain - plain / 8;
    if compression == Compression::Lz4 && bytes.len() >= 64 {
        let sample = &bytes[..bytes.len().min(SAMPLE_BYTES)];
        let tried = lz4_flex::block::compress(sample);
        if pays(tried.len(), sample.len()) {
            let whole =
                if sample.len() == bytes.len() { tried } else { lz4_flex::block::compress(bytes) };
            if pays(whole.len(), bytes.len()) {
                content.extend_from_slice(&whole);
                return Codec::Lz4;
            }
        }
    }
    content.extend_from_slice(bytes);
    Codec::None
}

/// Decompresses and checks the content of a batch. Every extent starts at an aligned address.
pub fn unpack(frame: &BatchFrame) -> Result<Batch, Refusal> {
    let places = frame.contents().map(|(entry, _)| match entry.kind {
        ExtentKind::Zero => 0,
        ExtentKind::Data { .. } => place_bytes(entry.range),
    });
    // `restore` overwrites an extent or refuses the batch, and what lies between extents is cut away.
    let mut memory = Buffer::for_overwriting(places.sum());
    let mut extents = Vec::with_capacity(frame.extents.len());
    for (entry, stored) in frame.contents() {
        let content = match entry.kind {
            ExtentKind::Zero => ExtentContent::Zero,
            ExtentKind::Data { codec, hash, .. } => {
                let length = usize::try_from(entry.range.length()).expect("within a batch");
                let mut bytes = take_front(&mut memory, length);
                restore(stored, codec, hash, &mut bytes)
                    .ok_or(Refusal::WrongHash { position: frame.position, range: entry.range })?;
                ExtentContent::Data { bytes, hash }
            }
        };
        extents.push(Extent { range: entry.range, content });
    }
    Ok(Batch { disk: frame.disk, source_time: frame.source_time, extents })
}

/// Bytes an extent takes in memory, so that the next one is aligned.
fn place_bytes(range: ByteRange) -> usize {
    usize::try_from(range.length()).expect("within a batch").next_multiple_of(BLOCK_BYTES)
}

/// `length` bytes from the front of `memory`, which then starts at the next whole block.
fn take_front(memory: &mut Buffer, length: usize) -> Buffer {
    let rest = memory.split_off(length.next_multiple_of(BLOCK_BYTES));
    let mut front = std::mem::replace(memory, rest);
    front.narrow(0..length);
    front
}

/// Puts the plain content into `bytes`; `None` unless it has exactly that length and hash.
fn restore(stored: &[u8], codec: Codec, hash: [u8; HASH_BYTES], bytes: &mut [u8]) -> Option<()> {
    match codec {
        Codec::None => bytes.copy_from_slice(stored),
        Codec::Lz4 => {
            let length = lz4_flex::block::decompress_into(stored, bytes).ok()?;
            (length == bytes.len()).then_some(())?;
        }
    }
    (*blake3::hash(bytes).as_bytes() == hash).then_some(())
}

#[cfg(test)]
mod tests {
    use super::super::wire::HEADER_BYTES;
    use super::*;
    use landfall_disks::ByteOffset;
    use proptest::prelude::*;

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    fn received(packed: PackedBatch) -> BatchFrame {
        let mut frame = packed.into_frame(Position::new(9));
        BatchFrame::parse(frame.split_off(HEADER_BYTES)).expect("well formed")
    }

    proptest! {
        #[test]
        fn content_comes_out_as_it_went_in(
            parts in prop::collection::vec((0u64..3, 1usize..40_000, any::<u8>(), 0u8..3), 1..6),
            lz4: bool,
        ) {
            let mut at = 0;
            let mut plain = Vec::new();
            for (gap, length, seed, kind) in parts {
                at += gap * 4096;
                let bytes: Option<Vec<u8>> = match kind {
                    0 => None,
                    1 => Some(vec![seed; length]),
                    _ => Some(blake3_stream(seed, length)),
                };
                plain.push((range(at, length as u64), bytes));
                at = (at + length as u64).next_multiple_of(4096);
            }
            let extents: Vec<_> = plain.iter().map(|(range, bytes)| (*range, match bytes {
                None => PlainContent::Zero,
                Some(bytes) => PlainContent::Data(bytes),
            })).collect();
            let how = if lz4 { Compression::Lz4 } else { Compression::Off };
            let packed = pack(Timestamp::default(), DiskSlot::new(3), &extents, how);
            let batch = unpack(&received(packed)).expect("hashes match");
            prop_assert_eq!(batch.extents.len(), plain.len());
            for (seen, (range, bytes)) in batch.extents.iter().zip(&plain) {
                prop_assert_eq!(seen.range, *range);
                match (&seen.content, bytes) {
                    (ExtentContent::Zero, None) => {}
                    (ExtentContent::Data { bytes: seen, hash }, Some(bytes)) => {
                        prop_assert_eq!(&**seen, &bytes[..]);
                        prop_assert_eq!(*hash, *blake3::hash(bytes).as_bytes());
                        prop_assert!(seen.is_aligned(4096));
                    }
                    _ => prop_assert!(false, "another kind came out"),
                }
            }
        }
    }

    /// Bytes that do not compress.
    fn blake3_stream(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn only_what_gets_smaller_is_compressed() {
        let whole = range(0, 65536);
        let size = |bytes: &[u8]| {
            let extents = [(whole, PlainContent::Data(bytes))];
            let packed = pack(Timestamp::default(), DiskSlot::new(0), &extents, Compression::Lz4);
            (packed.cost_bytes(), packed.is_compressed())
        };
        assert_eq!(size(&blake3_stream(1, 65536)), (65536 + 16 + 32 + 56, false));
        let (cost, compressed) = size(&[1; 65536]);
        assert!(compressed && cost < 1000, "{cost} bytes");
    }

    #[test]
    fn a_changed_byte_of_content_is_a_wrong_hash() {
        for bytes in [blake3_stream(1, 8192), vec![5; 8192]] {
            let extents = [(range(4096, 8192), PlainContent::Data(&bytes))];
            let packed = pack(Timestamp::default(), DiskSlot::new(0), &extents, Compression::Lz4);
            let mut frame = packed.into_frame(Position::new(9));
            *frame.last_mut().expect("not empty") ^= 1;
            let frame = BatchFrame::parse(frame.split_off(HEADER_BYTES)).expect("table untouched");
            assert_eq!(
                unpack(&frame).expect_err("refused"),
                Refusal::WrongHash { position: Position::new(9), range: range(4096, 8192) }
            );
        }
    }
}
