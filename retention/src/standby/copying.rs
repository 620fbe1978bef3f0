//! Making a file read as a disk at a moment: only what changed, or, where what it holds is not known, whatever differs.
//!
//! ```text
//!   changes ─▶ ranges ─▶ zero: a hole │ data: read ─▶ written                 the file is not read
//!   all of it ─▶ both zero: nothing │ zero, data: a hole │ data, zero: filled │ data, data: compared, what differs written
//! ```
//!
//! Work is done in turns of a few MiB, each of which is asked for ([`Pace`]). Whole stretches of zeroes become holes.

use crate::changes::{Changes, ChangesError};
use crate::fold::Pace;
use futures_util::{StreamExt, TryStreamExt, stream};
use landfall_disks::{
    BLOCK_BYTES, BLOCK_SIZE, Buffer, ByteOffset, ByteRange, Content, Disk, DiskError, Durability,
    MappedRange, ZeroMode, is_zero,
};
use std::cell::Cell;
use std::ops::Range;

/// Changed ranges that are asked for at once.
const RANGES_AT_ONCE: usize = 1000;
/// Bytes that are read and written at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// Bytes of a turn, about, and operations of one.
const TURN_BYTES: u64 = 4 << 20;
const TURN_OPERATIONS: usize = 1024;
/// Operations under way.
const AT_ONCE: usize = 16;
/// Zeroes that are made with one operation.
const ZEROES_AT_ONCE: u64 = 1 << 30;
/// How much is mapped at once.
const LOOK_AHEAD_BYTES: u64 = 256 << 20;
/// Shorter stretches of zeroes between data are written with it: two operations cost more than they save.
const WORTH_A_HOLE: usize = 64 << 10;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// What changed cannot be told.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// The disk cannot be read at the moment.
    #[error(transparent)]
    Read(DiskError),
    /// The file cannot be written, or not be read.
    #[error(transparent)]
    Write(DiskError),
}

/// What was moved so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Moved {
    /// Bytes of data that were written.
    pub(super) written_bytes: u64,
    /// Bytes that were made zero.
    pub(super) zeroed_bytes: u64,
}

/// A file that is being made to read as a disk.
pub(super) struct Copying<'a> {
    /// The disk at the moment.
    pub(super) view: &'a dyn Disk,
    /// The file; as large as the disk.
    pub(super) file: &'a dyn Disk,
    pub(super) pace: &'a dyn Pace,
    /// Writes that wait for the lane of the machine.
    pub(super) waiting: &'a dyn Fn() -> usize,
    /// Told how far it is along the disk, after each turn.
    pub(super) watch: &'a dyn Fn(ByteOffset, Moved),
    pub(super) moved: Cell<Moved>,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// It is zero.
    Zero(ByteRange),
    /// It is written, whatever the file has.
    Copy(ByteRange),
    /// It is written where it is not zero, which the file is.
    Fill(ByteRange),
    /// It is written where it differs.
    Compare(ByteRange),
}

impl Operation {
    fn range(self) -> ByteRange {
        match self {
            Self::Zero(range) | Self::Copy(range) | Self::Fill(range) | Self::Compare(range) => {
                range
            }
        }
    }

    fn bytes(self) -> u64 {
        if matches!(self, Self::Zero(_)) { 0 } else { self.range().length() }
    }
}

impl Copying<'_> {
    /// Writes what changed.
    pub(super) async fn changes(&self, changes: &Changes) -> Result<(), CopyError> {
        let whole = self.view.geometry().whole();
        let mut next = Some(ByteOffset::new(0));
        while let Some(from) = next {
            let page = changes.page(from, RANGES_AT_ONCE).await?;
            let mut turn = Turn::default();
            for changed in page.ranges {
                for part in self.parts(whole.intersection(changed.range)).await? {
                    let zero = part.content != Content::Data;
                    let operation = if zero { Operation::Zero } else { Operation::Copy };
                    self.take(&mut turn, part.range, operation).await?;
                }
            }
            self.work(&mut turn).await?;
            next = page.next;
            (self.watch)(next.unwrap_or(whole.end()), self.moved.get());
        }
        Ok(())
    }

    /// Writes whatever differs, looking at all of it.
    pub(super) async fn all(&self) -> Result<(), CopyError> {
        let whole = self.view.geometry().whole();
        let mut turn = Turn::default();
        for stretch in whole.chunks(LOOK_AHEAD_BYTES) {
            let wanted = self.parts(stretch).await?;
            let there = parts(self.file, stretch).await.map_err(CopyError::Write)?;
            for (range, wanted, there) in overlay(&wanted, &there) {
                let operation = match (wanted == Content::Data, there == Content::Data) {
                    (false, false) => continue,
                    (false, true) => Operation::Zero,
                    (true, false) => Operation::Fill,
                    (true, true) => Operation::Compare,
                };
                self.take(&mut turn, range, operation).await?;
            }
            self.work(&mut turn).await?;
            (self.watch)(stretch.end(), self.moved.get());
        }
        Ok(())
    }

    async fn parts(&self, range: ByteRange) -> Result<Vec<MappedRange>, CopyError> {
        parts(self.view, range).await.map_err(CopyError::Read)
    }

    /// Adds an operation on `range` to a turn, in pieces; works where that is full.
    async fn take(
        &self,
        turn: &mut Turn,
        range: ByteRange,
        operation: fn(ByteRange) -> Operation,
    ) -> Result<(), CopyError> {
        let zero = matches!(operation(range), Operation::Zero(_));
        for piece in range.chunks(if zero { ZEROES_AT_ONCE } else { WINDOW_BYTES }) {
            turn.operations.push(operation(piece));
            turn.bytes += operation(piece).bytes();
            if turn.bytes >= TURN_BYTES || turn.operations.len() >= TURN_OPERATIONS {
                self.work(turn).await?;
            }
        }
        Ok(())
    }

    async fn work(&self, turn: &mut Turn) -> Result<(), CopyError> {
        let Turn { operations, bytes } = std::mem::take(turn);
        let Some(last) = operations.last().copied() else { return Ok(()) };
        self.pace.admit(bytes, self.waiting).await;
        let done = stream::iter(operations).map(|operation| self.operate(operation));
        done.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        (self.watch)(last.range().end(), self.moved.get());
        Ok(())
    }

    async fn operate(&self, operation: Operation) -> Result<(), CopyError> {
        let range = operation.range();
        let bytes = match operation {
            Operation::Zero(range) => return self.zero(range).await,
            _ => self.view.read(range).await.map_err(CopyError::Read)?,
        };
        let runs = match operation {
            Operation::Compare(range) => {
                let there = self.file.read(range).await.map_err(CopyError::Write)?;
                runs(range, |at| kind_where(&bytes[at.clone()], Some(&there[at])))
            }
            Operation::Fill(_) => runs(range, |at| match kind_where(&bytes[at], None) {
                RunKind::Zero => RunKind::Same,
                kind => kind,
            }),
            _ => runs(range, |at| kind_where(&bytes[at], None)),
        };
        self.write(range.start(), bytes, &without_small_holes(runs)).await
    }

    /// Writes the runs of `bytes`, which are those at `start`.
    async fn write(
        &self,
        start: ByteOffset,
        mut bytes: Buffer,
        runs: &[(Range<usize>, RunKind)],
    ) -> Result<(), CopyError> {
        let mut done = 0;
        for (run, kind) in runs {
            let mut piece = bytes.split_off(run.start - done);
            bytes = piece.split_off(run.len());
            done = run.end;
            let at = ByteOffset::new(start.bytes() + run.start as u64);
            match kind {
                RunKind::Same => {}
                RunKind::Zero => {
                    let range = ByteRange::at(at, run.len() as u64).expect("on the disk");
                    self.zero(range).await?;
                }
                RunKind::Data => {
                    let written = self.file.write(at, piece, Durability::Cached).await;
                    written.map_err(CopyError::Write)?;
                    let mut moved = self.moved.get();
                    moved.written_bytes += run.len() as u64;
                    self.moved.set(moved);
                }
            }
        }
        Ok(())
    }

    async fn zero(&self, range: ByteRange) -> Result<(), CopyError> {
        let zeroed = self.file.write_zeroes(range, ZeroMode::Unmap, Durability::Cached).await;
        zeroed.map_err(CopyError::Write)?;
        let mut moved = self.moved.get();
        moved.zeroed_bytes += range.length();
        self.moved.set(moved);
        Ok(())
    }
}

#[derive(Default)]
struct Turn {
    operations: Vec<Operation>,
    bytes: u64,
}

/// What is to be done with a run of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RunKind {
    Same,
    Zero,
    Data,
}

fn kind_where(wanted: &[u8], there: Option<&[u8]>) -> RunKind {
    if there == Some(wanted) {
        RunKind::Same
    } else if is_zero(wanted) {
        RunKind::Zero
    } else {
        RunKind::Data
    }
}

/// The blocks of `range` by what is to be done with them, as runs of bytes from its start.
fn runs(range: ByteRange, kind: impl Fn(Range<usize>) -> RunKind) -> Vec<(Range<usize>, RunKind)> {
    let mut runs: Vec<(Range<usize>, RunKind)> = Vec::new();
    let within = |at: ByteOffset| {
        usize::try_from(at.bytes() - range.start().bytes()).expect("a window is small")
    };
    for block in range.chunks(BLOCK_SIZE) {
        let at = within(block.start())..within(block.end());
        let kind = kind(at.clone());
        match runs.last_mut() {
            Some((last, same)) if *same == kind => last.end = at.end,
            _ => runs.push((at, kind)),
        }
    }
    runs
}

/// Zeroes between data that are not worth a hole are data, and so neighbours become one write.
fn without_small_holes(runs: Vec<(Range<usize>, RunKind)>) -> Vec<(Range<usize>, RunKind)> {
    let mut joined: Vec<(Range<usize>, RunKind)> = Vec::with_capacity(runs.len());
    let alone = runs.len() == 1;
    for (run, mut kind) in runs {
        if kind == RunKind::Zero && run.len() < WORTH_A_HOLE && !alone {
            kind = RunKind::Data;
        }
        match joined.last_mut() {
            Some((last, same)) if *same == kind => last.end = run.end,
            _ => joined.push((run, kind)),
        }
    }
    joined
}

/// What is known of all of `range` of a disk.
async fn parts(disk: &dyn Disk, range: ByteRange) -> Result<Vec<MappedRange>, DiskError> {
    let mut parts: Vec<MappedRange> = Vec::new();
    let mut rest = range;
    while !rest.is_empty() {
        for part in disk.map(rest).await? {
            rest = rest.split_at(part.range.end()).1;
            parts.push(part);
        }
    }
    Ok(parts)
}

/// Two maps of the same range as one.
fn overlay(one: &[MappedRange], other: &[MappedRange]) -> Vec<(ByteRange, Content, Content)> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut both = Vec::new();
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        let common = a.range.intersection(b.range);
        if !common.is_empty() {
            both.push((common, a.content, b.content));
        }
        let (a_end, b_end) = (a.range.end(), b.range.end());
        if a_end <= b_end {
            one.next();
        }
        if b_end <= a_end {
            other.next();
        }
    }
    both
}

const _: () = assert!(WORTH_A_HOLE.is_multiple_of(BLOCK_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    const B: usize = BLOCK_BYTES;

    fn mapped(start: u64, end: u64, content: Content) -> MappedRange {
        let range = ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("in order");
        MappedRange { range, content }
    }

    #[test]
    fn two_maps_are_laid_over_each_other() {
        let one = [mapped(0, 10, Content::Data), mapped(10, 30, Content::Hole)];
        let other = [
            mapped(0, 5, Content::Zero),
            mapped(5, 10, Content::Data),
            mapped(10, 30, Content::Data),
        ];
        let plain: Vec<_> = overlay(&one, &other)
            .into_iter()
            .map(|(range, a, b)| (range.start().bytes(), range.end().bytes(), a, b))
            .collect();
        assert_eq!(
            plain,
            [
                (0, 5, Content::Data, Content::Zero),
                (5, 10, Content::Data, Content::Data),
                (10, 30, Content::Hole, Content::Data),
            ]
        );
    }

    #[test]
    fn blocks_that_are_to_be_treated_alike_are_one_run() {
        let range = ByteRange::at(ByteOffset::new(512), 3 * BLOCK_SIZE).expect("small");
        let wanted = [vec![1; B - 512], vec![0; B], vec![2; B], vec![0; 512]].concat();
        let all = runs(range, |at| kind_where(&wanted[at], None));
        let (first, second, third) = (B - 512, 2 * B - 512, 3 * B - 512);
        assert_eq!(
            all,
            [
                (0..first, RunKind::Data),
                (first..second, RunKind::Zero),
                (second..third, RunKind::Data),
                (third..3 * B, RunKind::Zero),
            ]
        );
        let same = runs(range, |at| kind_where(&wanted[at.clone()], Some(&wanted[at])));
        assert_eq!(same, [(0..3 * B, RunKind::Same)]);
        assert_eq!(without_small_holes(all), [(0..3 * B, RunKind::Data)]);
    }

    #[test]
    fn holes_that_are_worth_it_stay_holes() {
        let hole = B..B + WORTH_A_HOLE;
        let runs = vec![
            (0..B, RunKind::Data),
            (hole.clone(), RunKind::Zero),
            (hole.end..hole.end + B, RunKind::Same),
        ];
        assert_eq!(without_small_holes(runs.clone()), runs);
        let alone = vec![(0..B, RunKind::Zero)];
        assert_eq!(without_small_holes(alone.clone()), alone);
    }
}
