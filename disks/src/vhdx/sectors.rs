//! Sectors of 4 KiB of BAT, bitmaps and metadata that are about to change: read once, changed in memory, then logged.

use crate::block::{ByteOffset, ByteRange};
use crate::disk::DiskError;
use crate::image::ImageFile;
use std::collections::BTreeMap;
use vhdx_parse::{LOG_SECTOR_BYTES, LogChange};

const SECTOR: u64 = 4096;

/// Changed sectors, by offset.
pub(super) struct Sectors<'a> {
    file: &'a ImageFile,
    changed: BTreeMap<u64, Box<[u8; LOG_SECTOR_BYTES]>>,
    /// Stretches that become zeroes before anything else; sectors of them are not read from the file.
    zeroed: Vec<ByteRange>,
}

impl<'a> Sectors<'a> {
    pub(super) fn new(file: &'a ImageFile) -> Self {
        Self { file, changed: BTreeMap::new(), zeroed: Vec::new() }
    }

    /// The stretch becomes zeroes. Called before sectors of it are changed.
    pub(super) fn zero(&mut self, range: ByteRange) {
        assert!(range.is_aligned(SECTOR), "{range} is not whole sectors");
        self.zeroed.push(range);
    }

    /// The sector at `offset` as it is to be; changes of it are kept.
    async fn sector(&mut self, offset: u64) -> Result<&mut [u8; LOG_SECTOR_BYTES], DiskError> {
        if !self.changed.contains_key(&offset) {
            let range = ByteRange::at(ByteOffset::new(offset), SECTOR).expect("within the file");
            let mut bytes = Box::new([0; LOG_SECTOR_BYTES]);
            if !self.zeroed.iter().any(|zeroed| zeroed.contains(range)) {
                bytes.copy_from_slice(&self.file.read(range).await?);
            }
            self.changed.insert(offset, bytes);
        }
        Ok(self.changed.get_mut(&offset).expect("it was put there"))
    }

    /// `bytes` go to `place`.
    pub(super) async fn write(&mut self, place: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let range = ByteRange::at(ByteOffset::new(place), bytes.len() as u64);
        let range = range.expect("within the file");
        let index = |offset: u64| usize::try_from(offset).expect("in memory");
        for part in range.chunks(SECTOR) {
            let start = part.start().bytes();
            let source = &bytes[index(start - place)..index(part.end().bytes() - place)];
            let within = index(start % SECTOR);
            let sector = self.sector(start / SECTOR * SECTOR).await?;
            sector[within..within + source.len()].copy_from_slice(source);
        }
        Ok(())
    }

    /// The eight bytes at `place`, a multiple of eight, as they are to be.
    pub(super) async fn read_u64(&mut self, place: u64) -> Result<u64, DiskError> {
        let within = usize::try_from(place % SECTOR).expect("within a sector");
        let sector = self.sector(place / SECTOR * SECTOR).await?;
        let bytes = sector[within..within + 8].try_into().expect("eight bytes");
        Ok(u64::from_le_bytes(bytes))
    }

    /// What is to be logged: zeroes first.
    pub(super) fn into_changes(self) -> Vec<LogChange> {
        let zeroes = self
            .zeroed
            .into_iter()
            .map(|range| LogChange::Zero { offset: range.start().bytes(), length: range.length() });
        let data =
            self.changed.into_iter().map(|(offset, bytes)| LogChange::Data { offset, bytes });
        zeroes.chain(data).collect()
    }
}
