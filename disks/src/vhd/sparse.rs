//! What a dynamic or differencing disk consists of, read and examined before anything in it is believed.

use super::format::{
    DynamicHeader, HEADER_BYTES, Kind, Platform, SECTOR_BYTES, UNUSED_ENTRY, bitmap_bytes,
};
use super::found::{FOOTER, Found, Tail, stretch};
use super::table::BlockTable;
use crate::block::BLOCK_SIZE;
use crate::disk::DiskError;
use crate::image::{ImageError, ImageFile, Malformed};
use crate::mapped::{Conflict, Extent, Space, Usage, scan};
use std::sync::Arc;

/// First byte at which no block may start: there is no entry for its sector.
const SPACE_LIMIT: u64 = UNUSED_ENTRY as u64 * SECTOR_BYTES;

/// The structures of a file, without its blocks.
pub(super) struct Sparse {
    pub(super) file: Arc<ImageFile>,
    pub(super) found: Found,
    pub(super) header: DynamicHeader,
    pub(super) header_offset: u64,
    pub(super) entries: Vec<u32>,
}

impl Sparse {
    /// Reads header and BAT.
    pub(super) async fn read(file: Arc<ImageFile>, found: Found) -> Result<Self, ImageError> {
        let malformed = |problem| ImageError::malformed(file.path(), problem);
        let header_offset = found.footer.header_offset.expect("only a fixed disk has none");
        let length = file.length();
        let room = length.checked_sub(header_offset).is_some_and(|room| room >= 1024);
        if !room || !header_offset.is_multiple_of(SECTOR_BYTES) || header_offset == 0 {
            return Err(malformed(Malformed {
                structure: "VHD footer",
                offset: match found.tail {
                    Tail::There(at) | Tail::Early(at) => at,
                    Tail::Old => length - 511,
                    Tail::Missing => 0,
                },
                field: "data offset",
                value: header_offset.to_string(),
                expected: format!("a multiple of 512 within the file of {length}").into(),
            }));
        }
        let bytes = file.read(stretch(header_offset, HEADER_BYTES as u64)).await?;
        let bytes = bytes[..].try_into().expect("that many were read");
        let header = DynamicHeader::parse(bytes, header_offset, found.footer.size_bytes())
            .and_then(|header| header.check_place(header_offset, length).map(|()| header))
            .map_err(malformed)?;
        let table_bytes = u64::from(header.max_entries) * 4;
        let bytes = file.read(stretch(header.table_offset, table_bytes)).await?;
        let (entries, _) = bytes.as_chunks::<4>();
        let entries = entries.iter().map(|entry| u32::from_be_bytes(*entry)).collect();
        Ok(Self { file, found, header, header_offset, entries })
    }

    fn blocks(&self) -> u64 {
        self.found.footer.size_bytes().div_ceil(u64::from(self.header.block_bytes))
    }

    /// What the file holds besides blocks. What is at its end is not counted: it moves.
    fn structures(&self) -> Vec<(Extent, &'static str)> {
        let table = Extent { offset: self.header.table_offset, length: self.header.table_bytes() };
        let header = Extent { offset: self.header_offset, length: HEADER_BYTES as u64 };
        let mut structures = vec![
            (Extent { offset: 0, length: FOOTER }, "the copy of the footer"),
            (header, "the dynamic header"),
            (table, "the BAT"),
        ];
        if self.found.footer.kind == Kind::Differencing {
            for locator in self.header.locators {
                if locator.platform != Platform::None && locator.length > 0 {
                    let length = u64::from(locator.length);
                    structures
                        .push((Extent { offset: locator.offset, length }, "a parent locator"));
                }
            }
        }
        structures
    }

    /// Where the space for blocks ends.
    pub(super) fn data_end(&self) -> u64 {
        match self.found.tail {
            Tail::There(at) => at,
            Tail::Old => self.file.length() - 511,
            Tail::Missing | Tail::Early(_) => self.file.length(),
        }
    }

    fn wrong_entry(&self, block: u64, expected: String) -> Malformed {
        let index = usize::try_from(block).unwrap_or(usize::MAX);
        let entry = self.entries.get(index).copied().unwrap_or(UNUSED_ENTRY);
        Malformed {
            structure: "VHD BAT",
            offset: self.header.table_offset,
            field: "entry",
            value: format!("{entry:#010x} (of block {block})"),
            expected: expected.into(),
        }
    }

    fn describe(&self, conflict: &Conflict) -> Malformed {
        match conflict {
            Conflict::WithStructure { block, structure, .. } => self
                .wrong_entry(*block, format!("a block that does not share bytes with {structure}")),
            Conflict::BetweenBlocks { blocks: (one, other), .. } => self
                .wrong_entry(*other, format!("a block that does not share bytes with block {one}")),
            Conflict::PastTheEnd { block, .. } => {
                let end = self.data_end();
                self.wrong_entry(
                    *block,
                    format!("a block that ends within the {end} bytes of data"),
                )
            }
        }
    }

    /// Structures that share bytes, which no program makes.
    fn overlap(&self) -> Option<Malformed> {
        let mut structures = self.structures();
        structures.sort_unstable();
        let pair = structures.windows(2).find(|pair| pair[0].0.end() > pair[1].0.offset)?;
        Some(Malformed {
            structure: "VHD dynamic header",
            offset: self.header_offset,
            field: "place",
            value: format!("that of {} at {}", pair[1].1, pair[1].0.offset),
            expected: format!("bytes that {} does not have", pair[0].1).into(),
        })
    }

    /// Goes through the BAT. Gives the table, what it uses of the file, and what is wrong.
    pub(super) async fn examine(
        self,
    ) -> Result<(BlockTable, Usage, Vec<Malformed>, Vec<Malformed>), DiskError> {
        let aligned = u64::from(self.header.block_bytes).is_multiple_of(BLOCK_SIZE);
        let bitmap = bitmap_bytes(self.header.block_bytes);
        let in_place = |entry: &u32| {
            let data = u64::from(*entry) * SECTOR_BYTES + bitmap;
            *entry == UNUSED_ENTRY || data.is_multiple_of(BLOCK_SIZE)
        };
        let mut problems: Vec<Malformed> = self.overlap().into_iter().collect();
        if aligned && self.entries.iter().all(in_place) {
            // As those that are made here: a bitmap has a block of its own. Unless something else is in there, too.
            let table = self.table(bitmap.next_multiple_of(BLOCK_SIZE));
            let usage = self.usage(&table).await?;
            if usage.conflicts.is_empty() {
                return Ok((table, usage, problems, self.found.problems));
            }
        }
        let table = self.table(bitmap);
        let usage = self.usage(&table).await?;
        problems.extend(usage.conflicts.iter().map(|conflict| self.describe(conflict)));
        Ok((table, usage, problems, self.found.problems))
    }

    fn table(&self, lead_bytes: u64) -> BlockTable {
        let (footer, header) = (self.found.footer.clone(), self.header.clone());
        BlockTable::new(Arc::clone(&self.file), footer, header, self.entries.clone(), lead_bytes)
    }

    async fn usage(&self, table: &BlockTable) -> Result<Usage, DiskError> {
        scan(table, self.blocks(), self.data_end(), &self.structures()).await
    }
}

/// The free space of a file whose footer is at its end.
pub(super) fn space_of(usage: &Usage, footer_at: u64, lead_bytes: u64) -> Space {
    let alignment = if lead_bytes.is_multiple_of(BLOCK_SIZE) { BLOCK_SIZE } else { SECTOR_BYTES };
    let reason = "the blocks of a VHD start within the first 2 TiB of its file";
    usage.space(footer_at, alignment, SPACE_LIMIT, reason)
}
