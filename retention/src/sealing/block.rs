//! Sealing of blocks, one by one, so that a small read opens nothing it was not asked for.

use super::key::{DataKey, cipher};
use crate::ids::{DiskId, KeyId, LineId, SegmentId, Sequence};
use landfall_disks::{BLOCK_BYTES, Block};
use ring::aead::{Aad, LessSafeKey, Nonce};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

const SEGMENT_CONTEXT: &str = "landfall 2026 blocks of a segment of the journal";

/// Proves a sealed block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag(pub [u8; TAG_BYTES]);

/// Where blocks were first written to, and by which key they are sealed: what their nonces are made of. It stays with them when
/// they are moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealOrigin {
    /// The data key.
    pub key: KeyId,
    /// The segment.
    pub segment: SegmentId,
    /// Of that life of the segment.
    pub salt: u64,
    /// The unit of the first block.
    pub unit: u32,
}

impl SealOrigin {
    /// Of the block that lies `blocks` further.
    pub fn skip(self, blocks: u32) -> Self {
        Self { unit: self.unit + blocks, ..self }
    }
}

/// Which version of which block it is: its tag proves that, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockIdentity {
    /// The line that wrote it.
    pub line: LineId,
    /// When in the line.
    pub sequence: Sequence,
    /// The disk.
    pub disk: DiskId,
    /// Where on the disk.
    pub block: Block,
}

impl BlockIdentity {
    fn bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&self.line.number().to_le_bytes());
        bytes[4..8].copy_from_slice(&self.disk.number().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.number().to_le_bytes());
        bytes[16..].copy_from_slice(&self.block.index().to_le_bytes());
        bytes
    }
}

/// All that opening a block takes, but for the key and what whoever asks for the block knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSeal {
    /// Of this very block.
    pub origin: SealOrigin,
    /// The line that wrote it.
    pub line: LineId,
    /// When in the line.
    pub sequence: Sequence,
    /// Its tag.
    pub tag: Tag,
}

/// A block's tag does not prove it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forged;

/// Seals and opens blocks of one life of a segment by one data key.
pub struct SegmentCipher(LessSafeKey);

impl SegmentCipher {
    /// For a segment in the life that `salt` tells from others.
    pub fn new(key: &DataKey, segment: SegmentId, salt: u64) -> Self {
        let mut material = [0; 12];
        material[..4].copy_from_slice(&segment.number().to_le_bytes());
        material[4..].copy_from_slice(&salt.to_le_bytes());
        Self(cipher(&key.derive(SEGMENT_CONTEXT, &material)))
    }

    /// Seals a block that is about to be written to `unit` for the first and only time.
    pub fn seal(&self, unit: u32, identity: &BlockIdentity, block: &mut [u8]) -> Tag {
        debug_assert_eq!(block.len(), BLOCK_BYTES);
        let aad = Aad::from(identity.bytes());
        let sealed = self.0.seal_in_place_separate_tag(nonce(unit), aad, block);
        let sealed = sealed.expect("a block is far below the limit of a message");
        let mut tag = Tag::default();
        tag.0.copy_from_slice(sealed.as_ref());
        tag
    }

    /// Opens a block that was first written to `unit`. What is in `block` after a failure is of no use.
    pub fn open(
        &self,
        unit: u32,
        identity: &BlockIdentity,
        tag: Tag,
        block: &mut [u8],
    ) -> Result<(), Forged> {
        let aad = Aad::from(identity.bytes());
        let tag = tag.0.into();
        let opened = self.0.open_in_place_separate_tag(nonce(unit), aad, tag, block, 0..);
        opened.map(|_| ()).map_err(|_| Forged)
    }
}

/// The unit, and zeroes: no unit of a segment's life is written twice.
fn nonce(unit: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&unit.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> DataKey {
        DataKey::from_random(|bytes| bytes.fill(byte))
    }

    fn cipher_of(byte: u8, segment: u32, salt: u64) -> SegmentCipher {
        SegmentCipher::new(&key(byte), SegmentId::new(segment), salt)
    }

    fn identity() -> BlockIdentity {
        BlockIdentity {
            line: LineId::new(1),
            sequence: Sequence::new(2),
            disk: DiskId::new(3),
            block: Block::new(4),
        }
    }

    /// What is on media must open in every later version. The values are those of another implementation, the `aes-gcm` crate.
    #[test]
    fn the_cipher_is_what_it_was() {
        let mut block = vec![0x5a; BLOCK_BYTES];
        let tag = cipher_of(7, 8, 9).seal(10, &identity(), &mut block);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&tag.0), "7dee1c602842a164ff516d074bc9c88c");
        assert_eq!(hex(&blake3::hash(&block).as_bytes()[..16]), "ac922db1808f918d2ba2dd5a1a429f2d");
    }

    #[test]
    fn a_block_opens_as_itself_and_as_nothing_else() {
        let plain: Vec<u8> = (0..BLOCK_BYTES).map(|at| at.to_le_bytes()[0]).collect();
        let mut sealed = plain.clone();
        let tag = cipher_of(7, 8, 9).seal(10, &identity(), &mut sealed);
        assert_ne!(sealed, plain);
        let opens = |cipher: &SegmentCipher, unit, identity: &BlockIdentity, tag, block: &[u8]| {
            let mut block = block.to_vec();
            cipher.open(unit, identity, tag, &mut block).is_ok_and(|()| block == plain)
        };
        let right = cipher_of(7, 8, 9);
        assert!(opens(&right, 10, &identity(), tag, &sealed));
        assert!(!opens(&right, 11, &identity(), tag, &sealed), "another unit");
        for other in [cipher_of(6, 8, 9), cipher_of(7, 7, 9), cipher_of(7, 8, 8)] {
            assert!(!opens(&other, 10, &identity(), tag, &sealed), "key, segment or life");
        }
        for other in [
            BlockIdentity { line: LineId::new(9), ..identity() },
            BlockIdentity { sequence: Sequence::new(9), ..identity() },
            BlockIdentity { disk: DiskId::new(9), ..identity() },
            BlockIdentity { block: Block::new(9), ..identity() },
        ] {
            assert!(!opens(&right, 10, &other, tag, &sealed), "{other:?}");
        }
        let mut forged = tag;
        forged.0[15] ^= 1;
        assert!(!opens(&right, 10, &identity(), forged, &sealed));
        let mut ruined = sealed.clone();
        ruined[4095] ^= 1;
        assert!(!opens(&right, 10, &identity(), tag, &ruined));
    }

    proptest! {
        /// Segment, life and unit each make another key stream: what differs in any of them shares none.
        #[test]
        fn no_two_places_share_a_key_stream(
            one in (0u32..4, 0u64..4, 0u32..4),
            other in (0u32..4, 0u64..4, 0u32..4),
        ) {
            let stream = |(segment, salt, unit): (u32, u64, u32)| {
                let mut zeroes = vec![0; BLOCK_BYTES];
                cipher_of(7, segment, salt).seal(unit, &identity(), &mut zeroes);
                zeroes
            };
            prop_assert_eq!(stream(one) == stream(other), one == other);
        }
    }
}
