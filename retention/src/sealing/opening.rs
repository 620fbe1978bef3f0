//! Opening of blocks that were read.

use super::{BlockIdentity, BlockSeal, Keyring, SealError, SegmentCipher};
use crate::ids::DiskId;
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Block, ByteRange, DiskError};

/// Bytes that are opened where they were read; more of them are opened off the I/O core.
pub(crate) const OPEN_INLINE_BYTES: usize = 64 << 10;

/// Opens consecutive blocks of a disk, each by its own seal. Nothing of `bytes` may be used after a failure.
pub(crate) fn open_blocks(
    keys: &Keyring,
    disk: DiskId,
    first: Block,
    seals: &[BlockSeal],
    bytes: &mut [u8],
) -> Result<(), DiskError> {
    let mut cipher = None;
    for (at, (seal, bytes)) in
        (first.index()..).zip(seals.iter().zip(bytes.chunks_mut(BLOCK_BYTES)))
    {
        let (BlockSeal { origin, line, sequence, tag }, block) = (*seal, Block::new(at));
        let range = || ByteRange::at(block.offset(), BLOCK_SIZE).expect("on the disk");
        let of = (origin.key, origin.segment, origin.salt);
        let opened = match &cipher {
            Some((known, opened)) if *known == of => opened,
            _ => {
                let key = keys.reading(origin.key).map_err(|error| sealed(range(), &error))?;
                let made = SegmentCipher::new(&key, origin.segment, origin.salt);
                &cipher.insert((of, made)).1
            }
        };
        let identity = BlockIdentity { line, sequence, disk, block };
        opened.open(origin.unit, &identity, tag, bytes).map_err(|_| DiskError::Damaged {
            range: range(),
            what: format!("its tag does not prove it by data {:?}", origin.key),
        })?;
    }
    Ok(())
}

fn sealed(range: ByteRange, error: &SealError) -> DiskError {
    DiskError::Sealed { range, what: error.to_string() }
}
