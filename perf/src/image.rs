//! The image that is replicated: random, so that nothing can be skipped or compressed, and in the page cache, so that the
//! source's device is not what is measured.

use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// A fully allocated file of random bytes.
pub(crate) struct Image {
    path: PathBuf,
    size_bytes: u64,
}

impl Image {
    /// Makes it, durably.
    pub(crate) fn make(path: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let mut file = File::create_new(path).with_context(named)?;
        let mut random = blake3::Hasher::new().update(b"landfall-perf image").finalize_xof();
        let mut piece = vec![0; usize::try_from(MIB).expect("small")];
        for _ in 0..size_bytes / MIB {
            random.fill(&mut piece);
            file.write_all(&piece).with_context(named)?;
        }
        file.sync_all().with_context(named)?;
        Ok(Self { path: path.to_owned(), size_bytes })
    }

    /// A durable copy, fully allocated.
    pub(crate) fn copy_to(&self, path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let mut from = File::open(&self.path).with_context(|| self.path.display().to_string())?;
        let mut to = File::create_new(path).with_context(named)?;
        from.seek(SeekFrom::Start(0)).with_context(named)?;
        std::io::copy(&mut from, &mut to).with_context(named)?;
        to.sync_all().with_context(named)?;
        Ok(Self { path: path.to_owned(), size_bytes: self.size_bytes })
    }

    /// Changes 4 KiB of every MiB, in the 64 KiB block number `block` of 16.
    pub(crate) fn change(&self, block: u64) -> anyhow::Result<()> {
        let named = || self.path.display().to_string();
        let file = OpenOptions::new().write(true).open(&self.path).with_context(named)?;
        let mut random = blake3::Hasher::new().update(&block.to_le_bytes()).finalize_xof();
        let mut piece = [0; 4096];
        for mib in 0..self.size_bytes / MIB {
            random.fill(&mut piece);
            let at = mib * MIB + (block % 16) * (64 << 10);
            file.write_all_at(&piece, at).with_context(named)?;
        }
        file.sync_all().with_context(named)
    }

    /// Changes all of it, durably; different content for every `round`.
    pub(crate) fn rewrite(&self, round: u64) -> anyhow::Result<()> {
        let named = || self.path.display().to_string();
        let mut file = OpenOptions::new().write(true).open(&self.path).with_context(named)?;
        let mut random =
            blake3::Hasher::new().update(b"rewrite").update(&round.to_le_bytes()).finalize_xof();
        let mut piece = vec![0; usize::try_from(MIB).expect("small")];
        for _ in 0..self.size_bytes / MIB {
            random.fill(&mut piece);
            file.write_all(&piece).with_context(named)?;
        }
        file.sync_all().with_context(named)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}
