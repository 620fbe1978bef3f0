//! The bytes of a file, as pages that are shared by copies of it: images are mostly holes, and copied often.

use std::collections::BTreeMap;
use std::rc::Rc;

const PAGE: u64 = 4096;

type Page = [u8; 4096];

/// The bytes of a file. Pages that are absent are zeroes.
#[derive(Clone, Default)]
pub(crate) struct Bytes {
    length: u64,
    pages: BTreeMap<u64, Rc<Page>>,
}

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

/// A range cut at pages: number of the page, and the part within it.
fn pages_of(at: u64, length: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let end = at + length;
    (at / PAGE..end.div_ceil(PAGE)).map(move |page| {
        let start = page * PAGE;
        (page, small(at.max(start) - start)..small(end.min(start + PAGE) - start))
    })
}

impl Bytes {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Makes the file as long as this.
    pub(crate) fn set_length(&mut self, length: u64) {
        if length < self.length {
            let rest = length.next_multiple_of(PAGE) - length;
            self.pages.split_off(&length.div_ceil(PAGE));
            self.zero(length, rest);
        }
        self.length = length;
    }

    /// `None` if they are not all in the file.
    pub(crate) fn read(&self, at: u64, length: u64) -> Option<Vec<u8>> {
        at.checked_add(length).filter(|end| *end <= self.length)?;
        let mut bytes = Vec::with_capacity(small(length));
        for (page, part) in pages_of(at, length) {
            match self.pages.get(&page) {
                Some(page) => bytes.extend_from_slice(&page[part]),
                None => bytes.resize(bytes.len() + part.len(), 0),
            }
        }
        Some(bytes)
    }

    /// Writes what lies in the file or makes it longer.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for (page, part) in pages_of(at, bytes.len() as u64) {
            let (piece, others) = rest.split_at(part.len());
            let page = self.pages.entry(page).or_insert_with(|| Rc::new([0; 4096]));
            Rc::make_mut(page)[part].copy_from_slice(piece);
            rest = others;
        }
        self.length = self.length.max(at + bytes.len() as u64);
    }

    /// Zeroes, in the file or behind it, which does not make it longer.
    pub(crate) fn zero(&mut self, at: u64, length: u64) {
        for (page, part) in pages_of(at, length) {
            if part.len() as u64 == PAGE {
                self.pages.remove(&page);
            } else if let Some(page) = self.pages.get_mut(&page) {
                Rc::make_mut(page)[part].fill(0);
            }
        }
    }

    /// The stretches that have content, in whole pages: the last may reach behind the end.
    pub(crate) fn content(&self) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (page, bytes) in &self.pages {
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == page * PAGE => {
                    run.extend(&**bytes)
                }
                _ => runs.push((page * PAGE, bytes.to_vec())),
            }
        }
        runs
    }
}
