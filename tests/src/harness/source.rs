//! The disk that is replicated: an image file that changes, and what a test remembers of it.

use super::length;
use landfall_disks::faults::Seed;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An image file with what has to be in it.
pub struct Source {
    path: PathBuf,
    file: File,
    content: Vec<u8>,
    random: Seed,
}

impl Source {
    /// `size` bytes of noise, with a hole in the middle half.
    pub fn create(folder: &Path, name: &str, size: u64, seed: u64) -> Self {
        let mut source = Self::empty(folder, name, size, seed);
        let quarter = size / 4;
        source.write_noise(0, quarter);
        source.write_noise(size - quarter, quarter);
        source
    }

    /// `size` bytes that are one hole.
    pub fn empty(folder: &Path, name: &str, size: u64, seed: u64) -> Self {
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).expect("a new file");
        file.set_len(size).expect("as long as asked for");
        Self { path, file, content: vec![0; length(size)], random: Seed::new(seed) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `NAME=PATH` for `landfall replicate --disk`.
    pub fn as_disk(&self, name: &str) -> String {
        format!("{name}={}", self.path.display())
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.content.len() as u64
    }

    /// What is in it.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).expect("written");
        self.content[length(offset)..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Writes `count` bytes that no codec makes smaller.
    pub fn write_noise(&mut self, offset: u64, count: u64) {
        let mut bytes = vec![0; length(count)];
        self.random.fill(&mut bytes);
        self.write(offset, &bytes);
    }

    /// Makes it larger: a hole at its end.
    pub fn grow(&mut self, size: u64) {
        self.file.set_len(size).expect("as long as asked for");
        self.content.resize(length(size), 0);
    }

    /// Makes a hole.
    pub fn punch(&mut self, offset: u64, count: u64) {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, offset, count).expect("punched");
        self.content[length(offset)..][..length(count)].fill(0);
    }

    /// Changes it as a running machine would: writes of many sizes, zeroes, holes; `count` of them.
    pub fn change(&mut self, count: u64) {
        for _ in 0..count {
            // Small and unaligned ones are as frequent as large ones.
            let most = 1u64 << (9 + self.random.below(10));
            let span = 1 + self.random.below(most.min(self.size()));
            let at = self.random.below(self.size() - span + 1);
            match self.random.below(6) {
                0 => self.punch(at, span),
                1 => self.write(at, &vec![0; length(span)]),
                2 => self.write(at, &vec![0x5a; length(span)]),
                _ => self.write_noise(at, span),
            }
        }
    }

    /// An independent copy of the file as it is now.
    pub fn keep(&self, copy: &Path) {
        std::fs::copy(&self.path, copy).expect("copied");
    }
}
