//! Runs: consecutive blocks of a disk that lie together, so that they are read with one request.

use crate::ids::SegmentId;
use crate::leaf::BlockPlace;
use crate::sealing::BlockSeal;
use landfall_disks::{BLOCK_SIZE, Block, ByteRange};

/// Consecutive blocks that lie together; those of the journal are all sealed or all plain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Run {
    Image,
    Zero,
    Lost,
    /// Seals are of each block, or there are none.
    Journal {
        segment: SegmentId,
        unit: u32,
        checksums: Vec<u32>,
        seals: Vec<BlockSeal>,
    },
}

/// Adds the next block, in address order, to the run before it or as a new one.
pub(crate) fn add_block(
    runs: &mut Vec<(ByteRange, Run)>,
    block: Block,
    place: BlockPlace,
    seal: Option<BlockSeal>,
) {
    let range = ByteRange::at(block.offset(), BLOCK_SIZE).expect("on the disk");
    if let Some((whole, run)) = runs.last_mut() {
        let continues = match (&mut *run, place) {
            (Run::Image, BlockPlace::Image)
            | (Run::Zero, BlockPlace::Zero)
            | (Run::Lost, BlockPlace::Lost) => true,
            (
                Run::Journal { segment, unit, checksums, seals },
                BlockPlace::Journal { segment: next_segment, unit: next_unit, checksum },
            ) => {
                let due = *unit as usize + checksums.len();
                let alike = seals.is_empty() != seal.is_some();
                let follows = *segment == next_segment && next_unit as usize == due && alike;
                if follows {
                    checksums.push(checksum);
                    seals.extend(seal);
                }
                follows
            }
            _ => false,
        };
        if continues {
            *whole = ByteRange::new(whole.start(), range.end()).expect("blocks come in order");
            return;
        }
    }
    let run = match place {
        BlockPlace::Image => Run::Image,
        BlockPlace::Zero => Run::Zero,
        BlockPlace::Lost => Run::Lost,
        BlockPlace::Journal { segment, unit, checksum } => {
            let seals = seal.into_iter().collect();
            Run::Journal { segment, unit, checksums: vec![checksum], seals }
        }
    };
    runs.push((range, run));
}
