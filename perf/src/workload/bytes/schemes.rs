//! Ways to say where versions lie, as RocksDB takes them: ours, and those that were tried beside it.
//!
//! ```text
//!   classes    a key per aligned 64 KiB that a change covers, and per 4 KiB of the rest      23 + 16 … 76 bytes
//!   per block  a key per 4 KiB                                                              23 + 16
//!   chains     a key per MiB and change: what changed in it, and where the one before is     23 + 8 + 13 for each 4 KiB
//! ```

use super::Change;
use landfall_disks::{BLOCK_SIZE, Block};
use landfall_retention::ids::{DiskId, LineId, SegmentId, Sequence};
use landfall_retention::index::block_key::{SizeClass, key, put_data};
use landfall_retention::index::rocks::{RocksIndex, RocksSettings};
use landfall_retention::index::{IndexBatch, IndexStore};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const LINE: LineId = LineId::new(1);
const DISK: DiskId = DiskId::new(1);
/// Blocks of a page that has a chain.
const PAGE_BLOCKS: u64 = 256;
const UNITS_PER_SEGMENT: u64 = (64 << 20) / BLOCK_SIZE;

/// A way to lay out keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    Classes,
    PerBlock,
    Chains,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::PerBlock => "per-block",
            Self::Chains => "chains",
        }
    }
}

/// Bytes that RocksDB takes for `changes`, compacted.
pub(super) fn bytes(scheme: Scheme, folder: &Path, changes: &[Change]) -> anyhow::Result<u64> {
    let index = RocksIndex::open(folder, RocksSettings::default())?;
    let mut places = Places { unit: 1, random: blake3::Hasher::new().finalize_xof() };
    let mut last_of_page: HashMap<u64, u64> = HashMap::new();
    for batch in changes.chunk_by(|a, b| a.batch == b.batch) {
        let mut writes = IndexBatch::default();
        places.unit += 1; // the head of the record
        let mut pages: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for change in batch {
            let sequence = Sequence::new(change.batch + 1);
            let blocks = change.range.length() / BLOCK_SIZE;
            let (segment, unit, checksums) = places.take(blocks);
            let first = change.range.start().block().index();
            match scheme {
                Scheme::Classes => {
                    let version = (LINE, DISK, sequence);
                    put_data(&mut writes, version, change.range, (segment, unit), &checksums);
                }
                Scheme::PerBlock => {
                    for (block, (unit, checksum)) in (first..).zip((unit..).zip(&checksums)) {
                        let key = key(LINE, DISK, SizeClass::Block, Block::new(block), sequence);
                        let mut value = vec![1, 0, 0, 0];
                        value.extend(segment.number().to_be_bytes());
                        value.extend(unit.to_be_bytes());
                        value.extend(checksum.to_be_bytes());
                        writes.put(key, value);
                    }
                }
                Scheme::Chains => {
                    for (block, (unit, checksum)) in (first..).zip((unit..).zip(&checksums)) {
                        let page = block / PAGE_BLOCKS;
                        let entry = pages.entry(page).or_insert_with(|| {
                            last_of_page.get(&page).unwrap_or(&0).to_be_bytes().to_vec()
                        });
                        entry.push(u8::try_from(block % PAGE_BLOCKS)?);
                        entry.extend(segment.number().to_be_bytes());
                        entry.extend(unit.to_be_bytes());
                        entry.extend(checksum.to_be_bytes());
                    }
                }
            }
        }
        for (page, value) in pages {
            let number = batch[0].batch + 1;
            let (block, sequence) = (Block::new(page * PAGE_BLOCKS), Sequence::new(number));
            writes.put(key(LINE, DISK, SizeClass::Block, block, sequence), value);
            last_of_page.insert(page, number);
        }
        index.write(writes)?;
    }
    index.compact()?;
    Ok(index.size_bytes())
}

/// Where bodies lie one behind the other, with checksums that compress as badly as real ones.
struct Places {
    unit: u64,
    random: blake3::OutputReader,
}

impl Places {
    fn take(&mut self, blocks: u64) -> (SegmentId, u32, Vec<u32>) {
        let segment = u32::try_from(self.unit / UNITS_PER_SEGMENT).expect("few segments");
        let unit = u32::try_from(self.unit % UNITS_PER_SEGMENT).expect("below a segment's");
        self.unit += blocks;
        let mut checksum = || {
            let mut bytes = [0; 4];
            self.random.fill(&mut bytes);
            u32::from_be_bytes(bytes)
        };
        (SegmentId::new(segment), unit, (0..blocks).map(|_| checksum()).collect())
    }
}
