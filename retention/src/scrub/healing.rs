//! Healing of the journal: bytes of a body are written anew where they belong if its hash proves them.
//!
//! ```text
//!   bad blocks ─▶ per block, by its checksum: zeroes? the image? another version in the journal?
//!              ─▶ the body with them has its BLAKE3 ─▶ written, flushed, read back
//! ```
//!
//! A power cut leaves of such a write what was there or what belongs there, sector by sector: no block that was good is written.

use super::round::Round;
use super::{HealedFrom, ScrubError};
use crate::ids::{DiskId, LineId, SegmentId, Sequence};
use crate::image_hashes::zero_checksum;
use crate::index::block_key::{BlockVersion, versions_of};
use crate::journal::indexing::unit_of;
use crate::manifest::integrity::DamagedPlace;
use crate::replica::{Image, ReplicaDisk};
use crate::sealing::BlockSeal;
use landfall_disks::file::{FileError, FileIo};
use landfall_disks::uring::offload;
use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Buffer, ByteOffset, ByteRange};
use std::sync::Arc;

/// Versions of a block that are looked through for its content, of each size class.
const VERSIONS_TRIED: usize = 1024;
/// Versions that are sealed, and so have to be read and opened to be compared.
const SEALED_TRIED: usize = 64;

/// A body, or what is kept of one, that does not match its hash.
pub(super) struct BadBody {
    pub(super) segment: SegmentId,
    /// Where it starts in the segment.
    pub(super) offset: u64,
    pub(super) version: (LineId, DiskId, Sequence),
    pub(super) range: ByteRange,
    pub(super) hash: [u8; 32],
    /// What is there; nothing where the file is too short.
    pub(super) bytes: Option<Vec<u8>>,
    /// CRC32C of each block, where it is known.
    pub(super) known: Vec<Option<u32>>,
}

/// What became of it.
pub(super) enum Body {
    /// It is these bytes again.
    Healed(Vec<u8>),
    /// These places of it are damaged still.
    Still(Vec<DamagedPlace>),
}

/// A block of a body that is not what it was.
#[derive(Clone, Copy)]
struct BadBlock {
    range: ByteRange,
    known: Option<u32>,
}

impl BadBody {
    /// Blocks of the disk, as a place.
    fn place(&self, range: ByteRange) -> DamagedPlace {
        let (line, disk, sequence) = self.version;
        DamagedPlace::Version {
            line,
            sequence,
            disk,
            start: range.start(),
            length: range.length(),
            segment: self.segment,
            unit: unit_of(self.offset + self.skip(range)),
        }
    }

    fn skip(&self, range: ByteRange) -> u64 {
        range.start().bytes() - self.range.start().bytes()
    }

    fn at(&self, range: ByteRange) -> std::ops::Range<usize> {
        let at = |bytes: u64| usize::try_from(bytes).expect("a body is at most 8 MiB");
        let start = at(self.skip(range));
        start..start + at(range.length())
    }

    /// Blocks that are not what is known of them; all of them if it is not known which.
    fn bad_blocks(&self, bytes: &[u8]) -> Vec<BadBlock> {
        let blocks = || {
            let ranges = self.range.chunks(BLOCK_SIZE);
            ranges.zip(&self.known).map(|(range, known)| BadBlock { range, known: *known })
        };
        let sum = |block: &BadBlock| crc32c::crc32c(&bytes[self.at(block.range)]);
        let found: Vec<_> =
            blocks().filter(|block| block.known.is_none_or(|known| sum(block) != known)).collect();
        if found.is_empty() {
            // What the index says of them was made when they were damaged already.
            return blocks().map(|block| BadBlock { known: None, ..block }).collect();
        }
        found
    }
}

impl Round<'_> {
    /// Heals a body if its content is to be had; gives what of it stays damaged.
    pub(super) async fn heal_body(&mut self, bad: BadBody) -> Result<Body, ScrubError> {
        let Some(bytes) = &bad.bytes else { return Ok(Body::Still(vec![bad.place(bad.range)])) };
        let blocks = bad.bad_blocks(bytes);
        let ranges: Vec<_> = blocks.iter().map(|block| block.range).collect();
        let mut found = None;
        if self.order.heal {
            found = self.find_body(&bad, bytes, &blocks).await?;
            if found.is_none() {
                // An index that was built when the body was damaged already has sums of it that match nothing
                // (`journal/replay.rs`): then its hash alone has to tell.
                let unknown: Vec<_> =
                    blocks.iter().map(|block| BadBlock { known: None, ..*block }).collect();
                found = self.find_body(&bad, bytes, &unknown).await?;
            }
        }
        if let Some((whole, from)) = found
            && self.write_body(&bad, &whole, &runs(&ranges)).await?
        {
            for run in runs(&ranges) {
                self.healed(bad.place(run), from);
            }
            return Ok(Body::Healed(whole));
        }
        Ok(Body::Still(runs(&ranges).into_iter().map(|run| bad.place(run)).collect()))
    }

    /// The body as it was, put together from what is good of it and what is found elsewhere, proven by its hash.
    async fn find_body(
        &self,
        bad: &BadBody,
        bytes: &[u8],
        blocks: &[BadBlock],
    ) -> Result<Option<(Vec<u8>, HealedFrom)>, ScrubError> {
        let fits = |whole: &[u8]| *blake3::hash(whole).as_bytes() == bad.hash;
        let (mut whole, mut from) = (bytes.to_vec(), HealedFrom::Zeroes);
        for block in blocks {
            let Some((found, source)) = self.find_block(bad, block).await? else { return Ok(None) };
            whole[bad.at(block.range)].copy_from_slice(&found);
            if source != HealedFrom::Zeroes {
                from = source;
            }
        }
        if fits(&whole) {
            return Ok(Some((whole, from)));
        }
        // Of blocks of which nothing is known the image was believed. They may have been zero.
        for block in blocks.iter().filter(|block| block.known.is_none()) {
            whole[bad.at(block.range)].fill(0);
        }
        Ok(fits(&whole).then_some((whole, HealedFrom::Zeroes)))
    }

    async fn find_block(
        &self,
        bad: &BadBody,
        block: &BadBlock,
    ) -> Result<Option<(Vec<u8>, HealedFrom)>, ScrubError> {
        if block.known == Some(zero_checksum()) {
            return Ok(Some((vec![0; BLOCK_BYTES], HealedFrom::Zeroes)));
        }
        if let Some(found) = self.image_block(bad, block.range).await
            && block.known.is_none_or(|known| crc32c::crc32c(&found) == known)
        {
            return Ok(Some((found, HealedFrom::Image)));
        }
        let Some(known) = block.known else {
            return Ok(Some((vec![0; BLOCK_BYTES], HealedFrom::Zeroes)));
        };
        let (line, disk, _) = bad.version;
        let found = self.journal_block((line, disk), block.range, known).await?;
        Ok(found.map(|found| (found.to_vec(), HealedFrom::Journal)))
    }

    /// What the image has there. It may be another version: the hash will tell.
    async fn image_block(&self, bad: &BadBody, block: ByteRange) -> Option<Vec<u8>> {
        let (_, disk, _) = bad.version;
        let disk = self.retention.machines.read().disks.get(&disk).cloned()?;
        let Image::Present(image) = disk.image() else { return None };
        let inside = ByteRange::up_to(image.geometry().size_bytes).intersection(block);
        let mut found = vec![0; BLOCK_BYTES];
        if !inside.is_empty() {
            let read = image.read(inside).await.ok()?;
            found[..read.len()].copy_from_slice(&read);
        }
        Some(found)
    }

    /// What is stored of a version of a block with this checksum, wherever in the journal it lies; sealed, if it is.
    async fn journal_block(
        &self,
        (line, disk): (LineId, DiskId),
        block: ByteRange,
        checksum: u32,
    ) -> Result<Option<Buffer>, ScrubError> {
        // What the index names stays until it was read.
        let _turn = self.retention.reading.turns.begin();
        let versions = self.versions((line, disk), block).await?;
        for one in versions.into_iter().filter(|one| one.checksum == checksum) {
            if let Some(found) = self.stored(disk, block, &one, &[]).await {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A block of the disk as some version of the trunk has it, whichever line wrote that, whose plain bytes have this
    /// checksum.
    pub(super) async fn plain_block(
        &self,
        disk: &ReplicaDisk,
        block: ByteRange,
        checksum: u32,
    ) -> Result<Option<Buffer>, ScrubError> {
        let Some(trunk) = self.trunk_of(disk) else { return Ok(None) };
        let disk = disk.id();
        let _turn = self.retention.reading.turns.begin();
        let whole = ByteRange::at(block.start(), BLOCK_SIZE).expect("on the disk");
        let mut versions = Vec::new();
        // What an image holds came to it before what the trunk writes now.
        for stretch in trunk.ancestry().stretches {
            versions.append(&mut self.versions((stretch.line, disk), block).await?);
        }
        let mut opened = 0;
        for one in versions {
            // What is sealed shows only when it is opened.
            match one.seal {
                None if one.checksum != checksum => continue,
                Some(_) if opened >= SEALED_TRIED => continue,
                None => {}
                Some(_) => opened += 1,
            }
            if let Some(found) = self.stored(disk, whole, &one, one.seal.as_slice()).await
                && crc32c::crc32c(&found) == checksum
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A version of a block, opened by `seal` if that is given; nothing if it is damaged too.
    async fn stored(
        &self,
        disk: DiskId,
        block: ByteRange,
        one: &BlockVersion,
        seal: &[BlockSeal],
    ) -> Option<Buffer> {
        let (at, into) = ((one.segment, one.unit), Buffer::for_overwriting(BLOCK_BYTES));
        let reading = &self.retention.reading;
        reading.read_journal((disk, block), at, &[one.checksum], seal, into).await.ok()
    }

    async fn versions(
        &self,
        (line, disk): (LineId, DiskId),
        block: ByteRange,
    ) -> Result<Vec<BlockVersion>, ScrubError> {
        let index = Arc::clone(&self.retention.surroundings.index);
        let number = block.start().block();
        Ok(offload(move || versions_of(&*index, line, disk, number, VERSIONS_TRIED)).await?)
    }

    /// Writes the bad blocks of a body; whether they read back. Not if the segment is gone meanwhile.
    async fn write_body(
        &self,
        bad: &BadBody,
        whole: &[u8],
        runs: &[ByteRange],
    ) -> Result<bool, ScrubError> {
        let file = match self.retention.reading.segments.file(bad.segment).await {
            Err(FileError::NotFound { .. }) => return Ok(false),
            file => file?,
        };
        for run in runs {
            let at = bad.offset + bad.skip(*run);
            if !self.write_and_read_back(&*file, at, &whole[bad.at(*run)]).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes, durably; whether the medium gives back what it was given. One that fails the write is damaged still.
    pub(super) async fn write_and_read_back(
        &self,
        file: &dyn FileIo,
        at: u64,
        bytes: &[u8],
    ) -> Result<bool, ScrubError> {
        let write = async {
            file.write_at(at, Buffer::copy_of(bytes)).await?;
            file.flush().await?;
            file.read_at(at, Buffer::for_overwriting(bytes.len())).await
        };
        match write.await {
            Ok(read) => Ok(read[..] == *bytes),
            Err(error) if super::reading::is_medium(&error) => {
                tracing::error!(%error, "what is damaged cannot be written anew");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// CRC32C of the blocks of a version, where the index has them.
    pub(super) async fn checksums_of(
        &self,
        version: (LineId, DiskId, Sequence),
        range: ByteRange,
    ) -> Result<Vec<Option<u32>>, ScrubError> {
        let index = Arc::clone(&self.retention.surroundings.index);
        let found = offload(move || super::compare::found_of(&mut *index.cursor(), version, range));
        let found = found.await?;
        Ok(found.into_iter().map(|found| found.and_then(|found| found.checksum)).collect())
    }

    /// Leaves that were resolved when the index lacked something may say anything: all of them are resolved anew.
    pub(super) async fn resolve_anew(&self) {
        let lines: Vec<_> = self.retention.machines.read().lines.values().cloned().collect();
        let drop_all = || {
            self.retention.reading.drop_leaves();
            lines.iter().for_each(|line| line.head.drop_all());
        };
        drop_all();
        // Those that were being resolved meanwhile are kept when their read ends.
        self.retention.reading.turns.ended().await;
        drop_all();
    }
}

/// Blocks in order, neighbours as one.
pub(super) fn runs(blocks: &[ByteRange]) -> Vec<ByteRange> {
    let mut runs: Vec<ByteRange> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.end() == block.start() => {
                let start: ByteOffset = run.start();
                *run = ByteRange::new(start, block.end()).expect("in order");
            }
            _ => runs.push(*block),
        }
    }
    runs
}
