//! Sparse bytes of one file, and the changes that lead from one state to the next.

use super::Seed;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Unit of allocation, in bytes.
pub(super) const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

/// What a disk writes whole or not at all, usually.
pub(super) const SECTOR: u64 = 512;

/// A page: bytes, or space that was reserved and reads as zeroes.
type Page = Option<Arc<[u8; PAGE_BYTES]>>;

/// The bytes of a file. Pages that are absent are holes.
#[derive(Clone, Default)]
pub(super) struct Content {
    length: u64,
    pages: BTreeMap<u64, Page>,
}

/// One change that is visible but perhaps not durable yet.
#[derive(Clone)]
pub(super) enum Change {
    /// Bytes; does not change the length.
    Write { offset: u64, data: Arc<[u8]> },
    /// Zeroes; whole pages are kept allocated or become holes.
    Zero { offset: u64, length: u64, keep: bool },
    /// Space; does not change the length.
    Reserve { offset: u64, length: u64 },
    /// The length became at least this.
    Grow(u64),
    /// The length became this.
    Length(u64),
}

impl Change {
    /// Whether it is about bytes, and not about length or space.
    pub(super) fn is_content(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. })
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).expect("a test file fits memory")
}

impl Content {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of space taken.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Bytes of space that a change of this range would newly take.
    pub(super) fn missing(&self, offset: u64, length: u64) -> u64 {
        if length == 0 {
            return 0;
        }
        let pages = offset / PAGE..=(offset + length - 1) / PAGE;
        let wanted = pages.end() - pages.start() + 1;
        (wanted - self.pages.range(pages).count() as u64) * PAGE
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        for (page, within, part) in parts(offset, into.len() as u64) {
            let target = &mut into[part];
            match self.pages.get(&page) {
                Some(Some(bytes)) => target.copy_from_slice(&bytes[within..within + target.len()]),
                _ => target.fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, within, part) in parts(offset, data.len() as u64) {
            let source = &data[part];
            self.page(page)[within..within + source.len()].copy_from_slice(source);
        }
    }

    fn page(&mut self, page: u64) -> &mut [u8; PAGE_BYTES] {
        let page = self.pages.entry(page).or_default();
        Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }

    fn zero(&mut self, offset: u64, length: u64, keep: bool) {
        for (page, within, part) in parts(offset, length) {
            if part.len() == PAGE_BYTES {
                if keep {
                    self.pages.insert(page, None);
                } else {
                    self.pages.remove(&page);
                }
            } else if matches!(self.pages.get(&page), Some(Some(_))) {
                self.page(page)[within..within + part.len()].fill(0);
            } else if keep {
                self.pages.entry(page).or_default();
            }
        }
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.cut(length);
        }
        self.length = length;
    }

    fn cut(&mut self, length: u64) {
        let whole = length.next_multiple_of(PAGE);
        self.pages.split_off(&(whole / PAGE));
        self.zero(length, whole - length, true);
    }

    /// Takes away what lies beyond the end.
    pub(super) fn trim(&mut self) {
        self.cut(self.length);
    }

    /// The next stretch of data at or after `offset`.
    pub(super) fn next_data(&self, offset: u64) -> Option<(u64, u64)> {
        let mut found: Option<(u64, u64)> = None;
        for (page, bytes) in self.pages.range(offset / PAGE..) {
            let start = page * PAGE;
            if start >= self.length {
                break;
            }
            match (&mut found, bytes) {
                (None, None) => {}
                (None, Some(_)) => found = Some((start.max(offset), start + PAGE)),
                (Some((_, end)), Some(_)) if *end == start => *end = start + PAGE,
                (Some(_), _) => break,
            }
        }
        let (start, end) = found?;
        (start < self.length).then(|| (start, end.min(self.length)))
    }

    /// Makes `change` in full.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(*offset, data),
            Change::Zero { offset, length, keep } => self.zero(*offset, *length, *keep),
            Change::Reserve { offset, length } => {
                for (page, _, _) in parts(*offset, *length) {
                    self.pages.entry(page).or_default();
                }
            }
            Change::Grow(length) => self.length = self.length.max(*length),
            Change::Length(length) => self.set_length(*length),
        }
    }

    /// Makes of `change` what a power cut leaves of it, `kept` times out of eight.
    pub(super) fn apply_some(
        &mut self,
        change: &Change,
        kept: u64,
        tears_sectors: bool,
        seed: &mut Seed,
    ) {
        match change {
            Change::Write { offset, data } => {
                for (start, part) in sectors(*offset, data.len() as u64) {
                    let source = &data[part];
                    if seed.chance(kept, 8) {
                        self.write(start, source);
                    } else if tears_sectors && kept > 0 && seed.chance(1, 8) {
                        let torn = seed.index(source.len());
                        self.write(start, &source[..torn]);
                    }
                }
            }
            Change::Zero { offset, length, keep } => {
                for (page, within, part) in parts(*offset, *length) {
                    if seed.chance(kept, 8) {
                        self.zero(page * PAGE + within as u64, part.len() as u64, *keep);
                    }
                }
            }
            whole => {
                if seed.chance(kept, 8) {
                    self.apply(whole);
                }
            }
        }
    }

    /// Flips every bit of a range.
    pub(super) fn invert(&mut self, offset: u64, length: u64) {
        for (page, within, part) in parts(offset, length) {
            for byte in &mut self.page(page)[within..within + part.len()] {
                *byte = !*byte;
            }
        }
    }
}

/// A range cut at pages: page, start within it, and where the part lies in the range.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    pieces(offset, length, PAGE).map(|(start, part)| (start / PAGE, size(start % PAGE), part))
}

/// A range cut at sectors: start, and where the part lies in the range.
fn sectors(offset: u64, length: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    pieces(offset, length, SECTOR)
}

fn pieces(
    offset: u64,
    length: u64,
    unit: u64,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let start = at;
            at = ((start / unit + 1) * unit).min(end);
            (start, size(start - offset)..size(at - offset))
        })
    })
}
