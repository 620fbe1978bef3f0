//! The least a comparison of an image can cost: reading the file and hashing it, and nothing else.
//!
//! Done as `landfall replicate` does it: tokio-uring, 1 MiB at a time, eight reads at once, BLAKE3 of each 64 KiB on other
//! threads.

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

const WINDOW_BYTES: usize = 1 << 20;
const HASH_BYTES: usize = 64 << 10;
const READS_AT_ONCE: usize = 8;

/// The hashes of all 64 KiB blocks of a file, folded into one so that none can be left out.
pub(crate) fn hash_file(path: &Path, size_bytes: u64) -> anyhow::Result<[u8; 32]> {
    tokio_uring::start(async {
        let file = tokio_uring::fs::File::open(path).await;
        let file = Rc::new(file.with_context(|| path.display().to_string())?);
        let spare = Rc::new(RefCell::new(Vec::<Vec<u8>>::new()));
        let windows = (0..size_bytes).step_by(WINDOW_BYTES).map(|offset| {
            let (file, spare) = (Rc::clone(&file), Rc::clone(&spare));
            async move {
                let length = usize::try_from(size_bytes - offset)?.min(WINDOW_BYTES);
                let mut memory = spare.borrow_mut().pop().unwrap_or_default();
                memory.resize(length, 0);
                let (read, bytes) = file.read_exact_at(memory, offset).await;
                read.with_context(|| format!("{length} bytes at {offset}"))?;
                let hashing = tokio::task::spawn_blocking(move || {
                    let hashes =
                        bytes.chunks(HASH_BYTES).map(|block| *blake3::hash(block).as_bytes());
                    (hashes.collect::<Vec<_>>(), bytes)
                });
                let (hashes, bytes) = hashing.await?;
                spare.borrow_mut().push(bytes);
                anyhow::Ok(hashes)
            }
        });
        let mut all = blake3::Hasher::new();
        let mut windows = std::pin::pin!(stream::iter(windows).buffered(READS_AT_ONCE));
        while let Some(hashes) = windows.try_next().await? {
            for hash in hashes {
                all.update(&hash);
            }
        }
        anyhow::Ok(*all.finalize().as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let mut bytes = vec![7; WINDOW_BYTES * 2 + 12345];
        let size = bytes.len() as u64;
        let mut seen = std::collections::BTreeSet::new();
        for at in [None, Some(0), Some(WINDOW_BYTES), Some(bytes.len() - 1)] {
            if let Some(at) = at {
                bytes[at] ^= 1;
            }
            std::fs::write(&path, &bytes).expect("written");
            seen.insert(hash_file(&path, size).expect("hashed"));
        }
        assert_eq!(seen.len(), 4);
    }
}
