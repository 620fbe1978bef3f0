//! What the disk must hold, and what each request must get: the rules of the specification stated once more.

use super::wire::{Form, Request};
use crate::memory::MemoryDisk;
use std::ops::Range;

/// Not whole blocks, so that the end of the disk cuts one.
pub(super) const SIZE: u64 = 300 * 4096 + 512;
pub(super) const BLOCK: u64 = 4096;

pub(super) const READ: u16 = 0;
pub(super) const WRITE: u16 = 1;
pub(super) const FLUSH: u16 = 3;
pub(super) const TRIM: u16 = 4;
pub(super) const CACHE: u16 = 5;
pub(super) const WRITE_ZEROES: u16 = 6;
pub(super) const BLOCK_STATUS: u16 = 7;

pub(super) const FUA: u16 = 1;
pub(super) const NO_HOLE: u16 = 1 << 1;
pub(super) const DF: u16 = 1 << 2;
pub(super) const REQ_ONE: u16 = 1 << 3;
pub(super) const FAST_ZERO: u16 = 1 << 4;
pub(super) const PAYLOAD: u16 = 1 << 5;

/// The disk as its clients know it.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) bytes: Vec<u8>,
    /// Whether a block is held, for each of them.
    pub(super) held: Vec<bool>,
    /// Reads of it fail.
    pub(super) damaged: Option<Range<u64>>,
    /// Nothing more can be written.
    pub(super) full: bool,
    /// How often something was made durable.
    pub(super) flushes: u64,
}

/// What a request found where it changed something.
pub(super) struct Before {
    range: Range<u64>,
    bytes: Vec<u8>,
    held: Vec<bool>,
}

/// The blocks that `range` touches.
pub(super) fn blocks(range: &Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> + use<> {
    let Range { start, end } = *range;
    let last = if start == end { start / BLOCK } else { end.div_ceil(BLOCK) };
    (start / BLOCK..last).map(move |block| {
        let part = (block * BLOCK).max(start)..((block + 1) * BLOCK).min(end);
        (usize::try_from(block).expect("small"), part)
    })
}

pub(super) fn slice(range: &Range<u64>) -> Range<usize> {
    let at = |byte: u64| usize::try_from(byte).expect("small");
    at(range.start)..at(range.end)
}

impl Model {
    pub(super) fn new() -> Self {
        let blocks = usize::try_from(SIZE.div_ceil(BLOCK)).expect("small");
        Self {
            bytes: vec![0; usize::try_from(SIZE).expect("small")],
            held: vec![false; blocks],
            damaged: None,
            full: false,
            flushes: 0,
        }
    }

    /// What a request does that is in order; what was there before, if it changes anything.
    pub(super) fn apply(&mut self, request: &Request, data: &[u8]) -> Option<Before> {
        let writes = matches!(request.command, WRITE | WRITE_ZEROES | TRIM);
        // A write of no bytes asks nothing of the disk; a trim of none is as durable as any other.
        let reaches = request.length > 0 || request.command == TRIM;
        if request.command == FLUSH || writes && reaches && request.flags & FUA != 0 {
            self.flushes += 1;
        }
        if !writes {
            return None;
        }
        let range = request.range();
        let bytes = self.bytes[slice(&range)].to_vec();
        let held = blocks(&range).map(|(block, _)| self.held[block]).collect();
        let keeps = request.command == WRITE || request.flags & NO_HOLE != 0;
        for (block, part) in blocks(&range) {
            self.held[block] = keeps || part.end - part.start < BLOCK;
        }
        match request.command {
            WRITE => self.bytes[slice(&range)].copy_from_slice(data),
            _ => self.bytes[slice(&range)].fill(0),
        }
        Some(Before { range, bytes, held })
    }

    /// Of a request that was cut off: it may have been done, or not, block by block. Takes over what there is.
    pub(super) fn settle(&mut self, before: &Before, disk: &MemoryDisk) {
        let there = disk.content();
        for ((block, part), was_held) in blocks(&before.range).zip(&before.held) {
            let found = &there[slice(&part)];
            let inside = part.start - before.range.start..part.end - before.range.start;
            let known = [&self.bytes[slice(&part)], &before.bytes[slice(&inside)]];
            assert!(known.contains(&found), "{part:?} holds what nobody wrote");
            let held = disk.holds(block as u64);
            assert!(held == self.held[block] || held == *was_held, "block {block}");
            self.bytes[slice(&part)].copy_from_slice(found);
            self.held[block] = held;
        }
    }

    /// The disk holds this, and nothing else.
    pub(super) fn check(&self, disk: &MemoryDisk) {
        assert!(disk.content() == self.bytes, "the disk holds something else");
        for (block, held) in self.held.iter().enumerate() {
            assert_eq!(disk.holds(block as u64), *held, "block {block}");
        }
    }

    /// The meaning of `byte` in the context numbered `context`.
    pub(super) fn status(&self, context: u32, byte: u64) -> u64 {
        let block = byte / BLOCK;
        match context {
            1 if self.held[usize::try_from(block).expect("small")] => 0,
            1 => 3,
            _ => block / 3,
        }
    }

    /// The error a request gets: the first rule it breaks, or what the disk says.
    pub(super) fn error(&self, form: Form, writable: bool, request: &Request) -> Option<u32> {
        let Request { flags, command, offset, length } = *request;
        let extended = form == Form::Extended;
        let allowed = FUA
            | match command {
                READ if form != Form::Simple => DF,
                WRITE if extended => PAYLOAD,
                WRITE_ZEROES => NO_HOLE | FAST_ZERO,
                BLOCK_STATUS if extended => REQ_ONE | PAYLOAD,
                BLOCK_STATUS => REQ_ONE,
                _ => 0,
            };
        let end = offset.checked_add(length).filter(|end| *end <= SIZE);
        let writes = matches!(command, WRITE | WRITE_ZEROES | TRIM);
        let code = match command {
            8.. => 22,
            _ if flags & !allowed != 0 => 22,
            FLUSH if offset != 0 || length != 0 => 22,
            FLUSH => 0,
            _ if writes && !writable => 1,
            WRITE | WRITE_ZEROES if end.is_none() => 28,
            _ if end.is_none() => 22,
            BLOCK_STATUS if form == Form::Simple || length == 0 => 22,
            WRITE_ZEROES if flags & FAST_ZERO != 0 && !is_whole(offset, length) => 95,
            WRITE if self.full && length > 0 => 28,
            READ if self.damages(&(offset..offset + length)).is_some() => 5,
            _ => 0,
        };
        (code != 0).then_some(code)
    }

    /// The first byte of `range` that cannot be read.
    pub(super) fn damages(&self, range: &Range<u64>) -> Option<u64> {
        let damaged = self.damaged.as_ref()?;
        let first = damaged.start.max(range.start);
        (first < damaged.end.min(range.end)).then_some(first)
    }
}

fn is_whole(offset: u64, length: u64) -> bool {
    let end = offset + length;
    offset.is_multiple_of(BLOCK) && (end.is_multiple_of(BLOCK) || end == SIZE)
}
