//! Reads: where each part of a range is, and fetching it from there.

use super::disk::MappedDisk;
use super::table::Place;
use crate::block::{ByteOffset, ByteRange};
use crate::disk::{Content, DiskError, MappedRange};
use crate::uring::buffer::Buffer;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use std::sync::Arc;

/// Most parts of one answer of a map.
const MAX_MAP_ENTRIES: usize = 1024;

/// Where a part of a range is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Nowhere: zeroes.
    Zeroes,
    /// In the file, from this offset.
    File(u64),
    /// In the parent, at the same place.
    Parent,
    /// In a compressed block at this offset of the file.
    Packed(u64),
}

/// A part of a range that has one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) range: ByteRange,
    pub(super) source: Source,
}

impl Piece {
    /// Whether `next` goes on where this ends, on the disk and at the source.
    fn continues(&self, next: &Self) -> bool {
        let goes_on = match (self.source, next.source) {
            (Source::File(here), Source::File(there)) => here + self.range.length() == there,
            (Source::Packed(_), _) => false,
            (here, there) => here == there,
        };
        goes_on && self.range.end() == next.range.start()
    }
}

/// Adds a piece, joined with the last one where it goes on from it.
fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    if let Some(last) = pieces.last_mut()
        && last.continues(&piece)
    {
        last.range = ByteRange::new(last.range.start(), piece.range.end()).expect("in order");
        return;
    }
    pieces.push(piece);
}

/// Which sectors of a block are present.
pub(super) struct Presence {
    bits: Mutex<Vec<u8>>,
    sectors: u64,
}

impl Presence {
    pub(super) fn new(bits: Vec<u8>, sectors: u64) -> Self {
        Self { bits: Mutex::new(bits), sectors }
    }

    pub(super) fn none(sectors: u64) -> Self {
        let bytes =
            usize::try_from(sectors.div_ceil(8)).expect("the bits of a block are in memory");
        Self::new(vec![0; bytes], sectors)
    }

    pub(super) fn bits(&self) -> Vec<u8> {
        self.bits.lock().clone()
    }

    /// Marks sectors as present; whether all are now.
    pub(super) fn set(&self, sectors: std::ops::Range<u64>) -> bool {
        let mut bits = self.bits.lock();
        for sector in sectors {
            let byte = usize::try_from(sector / 8).expect("the bits of a block are in memory");
            bits[byte] |= 1 << (sector % 8);
        }
        (0..self.sectors).all(|sector| is_set(&bits, sector))
    }

    /// The runs of `sectors` that are all present or all absent, in order.
    fn runs(&self, sectors: std::ops::Range<u64>) -> Vec<(std::ops::Range<u64>, bool)> {
        let bits = self.bits.lock();
        let mut runs: Vec<(std::ops::Range<u64>, bool)> = Vec::new();
        for sector in sectors {
            let present = is_set(&bits, sector);
            match runs.last_mut() {
                Some((run, same)) if *same == present => run.end = sector + 1,
                _ => runs.push((sector..sector + 1, present)),
            }
        }
        runs
    }
}

fn is_set(bits: &[u8], sector: u64) -> bool {
    let byte = usize::try_from(sector / 8).ok().and_then(|byte| bits.get(byte));
    byte.is_some_and(|byte| byte >> (sector % 8) & 1 == 1)
}

impl MappedDisk {
    /// Where a prefix of `range` is: all of it, or its first `limit` pieces and maybe a few more.
    pub(super) async fn resolve(
        &self,
        range: ByteRange,
        limit: usize,
    ) -> Result<Vec<Piece>, DiskError> {
        let mut pieces = Vec::new();
        let (mut number, mut page) = (u64::MAX, None);
        for (count, chunk) in range.chunks(self.shape.block_bytes).enumerate() {
            if pieces.len() >= limit {
                break;
            }
            if count % 4096 == 4095 {
                // A map of a large disk must not hold up the core.
                tokio::task::yield_now().await;
            }
            let block = self.block_of(chunk.start());
            let (needed, index) = self.entry_of(block);
            if needed != number {
                page = Some(self.page(needed).await?);
                number = needed;
            }
            let place = page.as_ref().expect("it was just loaded").get(index);
            self.resolve_block(block, place, chunk, &mut pieces).await?;
        }
        Ok(pieces)
    }

    async fn resolve_block(
        &self,
        block: u64,
        place: Place,
        chunk: ByteRange,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), DiskError> {
        let source = match place {
            Place::Absent if self.parent.is_some() => Source::Parent,
            Place::Absent | Place::Zero => Source::Zeroes,
            Place::At(offset) => Source::File(offset + self.within_block(chunk.start())),
            Place::Packed(offset) => Source::Packed(offset),
            Place::Partial(offset) => {
                return self.resolve_sectors(block, offset, chunk, pieces).await;
            }
        };
        push(pieces, Piece { range: chunk, source });
        Ok(())
    }

    async fn resolve_sectors(
        &self,
        block: u64,
        offset: u64,
        chunk: ByteRange,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), DiskError> {
        let unit = self.presence_unit();
        let presence = self.presence(block).await?;
        let start = self.block_range(block).start().bytes();
        let around = chunk.widen(unit);
        let first = (around.start().bytes() - start) / unit;
        let last = (around.end().bytes() - start) / unit;
        for (sectors, present) in presence.runs(first..last) {
            let run = ByteRange::at(
                ByteOffset::new(start + sectors.start * unit),
                (sectors.end - sectors.start) * unit,
            );
            let range = chunk.intersection(run.expect("within the block"));
            let source = match (present, &self.parent) {
                (true, _) => Source::File(offset + self.within_block(range.start())),
                (false, Some(_)) => Source::Parent,
                (false, None) => Source::Zeroes,
            };
            push(pieces, Piece { range, source });
        }
        Ok(())
    }

    pub(super) fn presence_unit(&self) -> u64 {
        self.shape.presence_unit.expect("a table that has partly present blocks says of what")
    }

    /// The presence bits of a block that is partly present.
    pub(super) async fn presence(&self, block: u64) -> Result<Arc<Presence>, DiskError> {
        let sectors = self.shape.block_bytes / self.presence_unit();
        let load = async || {
            let bits = self.table.load_presence(block).await?;
            Ok(Presence::new(bits, sectors))
        };
        self.presence.get_or_load(block, load).await
    }

    pub(super) async fn read_range(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        let block = self.block_of(range.start());
        if self.block_range(block).contains(range)
            && let Some(Place::At(offset)) = self.known_place(block)
        {
            return self.file.read(self.in_file(offset, range)).await;
        }
        // Apart, so that the usual case does not carry its state about.
        Box::pin(self.read_pieces(range)).await
    }

    async fn read_pieces(&self, range: ByteRange) -> Result<Buffer, DiskError> {
        let pieces = self.resolve(range, usize::MAX).await?;
        if let [Piece { source: Source::File(offset), .. }] = pieces[..] {
            return self.file.read(file_range(offset, range.length())).await;
        }
        let mut rest = Buffer::for_overwriting(length(range));
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let tail = rest.split_off(length(piece.range));
            parts.push(self.fetch(piece, rest));
            rest = tail;
        }
        let mut filled = try_join_all(parts).await?.into_iter();
        let mut whole = filled.next().expect("the range is not empty");
        for part in filled {
            whole.unsplit(part);
        }
        whole.unsplit(rest);
        Ok(whole)
    }

    /// Fills `into` with the content of a piece.
    async fn fetch(&self, piece: Piece, mut into: Buffer) -> Result<Buffer, DiskError> {
        match piece.source {
            Source::Zeroes => into.fill(0),
            Source::File(offset) => {
                return self.file.read_into(ByteOffset::new(offset), into).await;
            }
            Source::Parent => {
                let parent = self.parent.as_ref().expect("it was resolved to the parent");
                // The parent may be shorter; what is past its end reads as zeroes.
                let there = piece.range.intersection(parent.geometry().whole());
                let known = length(there);
                if !there.is_empty() {
                    into[..known].copy_from_slice(&parent.read(there).await?);
                }
                into[known..].fill(0);
            }
            Source::Packed(offset) => {
                let block = self.block_of(piece.range.start());
                let content = self.table.unpack(block, offset).await?;
                let start = usize::try_from(self.within_block(piece.range.start()))
                    .expect("a compressed block is in memory");
                into.copy_from_slice(&content[start..start + length(piece.range)]);
            }
        }
        Ok(into)
    }

    /// Where `range`, inside one block whose data starts at `offset`, is in the file.
    pub(super) fn in_file(&self, offset: u64, range: ByteRange) -> ByteRange {
        file_range(offset + self.within_block(range.start()), range.length())
    }

    pub(super) async fn map_range(&self, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
        let mut found = Vec::new();
        for piece in self.resolve(range, MAX_MAP_ENTRIES).await? {
            if found.len() >= MAX_MAP_ENTRIES {
                break;
            }
            let mapped = self.map_piece(piece).await?;
            let end = mapped.last().map_or(piece.range.start(), |last| last.range.end());
            found.extend(mapped);
            if end != piece.range.end() {
                // The file or the parent stopped early, so this does too.
                break;
            }
        }
        Ok(found)
    }

    async fn map_piece(&self, piece: Piece) -> Result<Vec<MappedRange>, DiskError> {
        let range = piece.range;
        let one = |content| Ok(vec![MappedRange { range, content }]);
        match piece.source {
            Source::Zeroes => one(Content::Hole),
            Source::Packed(_) => one(Content::Data),
            Source::File(offset) => {
                let mapped = self.file.map(file_range(offset, range.length())).await?;
                let place = |part: MappedRange| MappedRange {
                    range: ByteRange::at(
                        ByteOffset::new(
                            part.range.start().bytes() - offset + range.start().bytes(),
                        ),
                        part.range.length(),
                    )
                    .expect("within the piece"),
                    content: match part.content {
                        // The block has its place; only the file system has nothing there.
                        Content::Hole => Content::Zero,
                        content => content,
                    },
                };
                Ok(mapped.into_iter().map(place).collect())
            }
            Source::Parent => {
                let parent = self.parent.as_ref().expect("it was resolved to the parent");
                let there = range.intersection(parent.geometry().whole());
                if there.is_empty() {
                    return one(Content::Hole);
                }
                parent.map(there).await
            }
        }
    }
}

fn file_range(offset: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(offset), length).expect("a file ends far below 2^64")
}

/// The length of a range that is held in memory.
pub(super) fn length(range: ByteRange) -> usize {
    usize::try_from(range.length()).expect("a length of 64 bits is an address on 64-bit machines")
}
