//! Writes to a branch over NBD while the target is killed, and remembers what was acknowledged.
//!
//! The one write that was under way at a kill may have happened or not, block by block; which it was is read back as soon
//! as the target answers again, and has to stay so.

use landfall_disks::faults::Seed;
use landfall_tests::harness::legacy::Legacy;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const BLOCK: usize = 4096;

/// A write that was sent and not answered.
struct Doubtful {
    at: usize,
    bytes: Vec<u8>,
}

/// The writer and what the branch has to hold.
pub(crate) struct Writer {
    socket: PathBuf,
    name: String,
    random: Seed,
    model: Vec<u8>,
    doubtful: Option<Doubtful>,
}

impl Writer {
    /// A writer to `name`, which holds `content`.
    pub(crate) fn new(socket: PathBuf, name: &str, content: Vec<u8>, random: Seed) -> Self {
        Self { socket, name: name.to_owned(), random, model: content, doubtful: None }
    }

    /// What the branch has to hold. Nothing is in doubt once [`Writer::settle`] was called.
    pub(crate) fn model(&self) -> &[u8] {
        assert!(self.doubtful.is_none(), "settle first");
        &self.model
    }

    /// Writes until `done`, over one connection after another.
    pub(crate) fn run(&mut self, done: &AtomicBool, acknowledged: &AtomicUsize) {
        while !done.load(Ordering::Relaxed) {
            match Legacy::open(&self.socket, &self.name) {
                // It is being killed or started.
                Err(_) => thread::sleep(Duration::from_millis(5)),
                Ok(mut export) => self.write_until_broken(&mut export, done, acknowledged),
            }
        }
    }

    fn write_until_broken(
        &mut self,
        export: &mut Legacy,
        done: &AtomicBool,
        acknowledged: &AtomicUsize,
    ) {
        if !self.settle_with(export) {
            return;
        }
        while !done.load(Ordering::Relaxed) {
            let (at, bytes) = self.next_write();
            if export.write(at as u64, &bytes).is_err() {
                self.doubtful = Some(Doubtful { at, bytes });
                return;
            }
            self.model[at..at + bytes.len()].copy_from_slice(&bytes);
            acknowledged.fetch_add(1, Ordering::Relaxed);
            // Leaves some of the journal to the stream.
            thread::sleep(Duration::from_micros(self.random.below(3000)));
        }
    }

    fn next_write(&mut self) -> (usize, Vec<u8>) {
        let sector = 512;
        let mut bytes = vec![0; sector * (1 + self.random.index(64))];
        self.random.fill(&mut bytes);
        let at = sector * self.random.index((self.model.len() - bytes.len()) / sector);
        (at, bytes)
    }

    /// Finds out what became of the write in doubt. The target must be running.
    pub(crate) fn settle(&mut self) {
        let mut export = Legacy::open(&self.socket, &self.name).expect("the branch opens");
        assert!(self.settle_with(&mut export), "the branch cannot be read");
    }

    /// Returns false if the connection broke meanwhile.
    fn settle_with(&mut self, export: &mut Legacy) -> bool {
        let Some(Doubtful { at, bytes }) = &self.doubtful else { return true };
        let Ok(found) = export.read(*at as u64, bytes.len()) else { return false };
        let mut offset = 0;
        while offset < bytes.len() {
            // Up to the next boundary of a block of the disk.
            let end = (offset + BLOCK - (at + offset) % BLOCK).min(bytes.len());
            let (old, new) = (&self.model[at + offset..at + end], &bytes[offset..end]);
            let here = &found[offset..end];
            let place = at + offset;
            assert!(here == old || here == new, "{}: block at {place} is neither", self.name);
            offset = end;
        }
        self.model[*at..*at + found.len()].copy_from_slice(&found);
        self.doubtful = None;
        true
    }
}
