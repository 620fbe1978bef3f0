//! A file system of a test's own, in a file: to be filled, or because others cannot do what it can. Mounting needs root.

use super::command::{attempt, run};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long an ended process may hold on to its files: the kernel takes its rings of io_uring apart a moment later.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mounted file system, unmounted when dropped.
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    /// An ext4 of `size` bytes in `folder`, with nothing kept back for root.
    #[track_caller]
    pub fn ext4(folder: &Path, size: u64) -> Self {
        Self::of(folder, size, &["mkfs.ext4", "-q", "-m", "0"])
    }

    /// An xfs of `size` bytes in `folder`, whose files can share blocks. There is none below 300 MiB.
    #[track_caller]
    pub fn xfs(folder: &Path, size: u64) -> Self {
        Self::of(folder, size, &["mkfs.xfs", "-q", "-m", "reflink=1"])
    }

    #[track_caller]
    fn of(folder: &Path, size: u64, make: &[&str]) -> Self {
        let (file, at) = (folder.join("file-system"), folder.join("mounted"));
        std::fs::File::create_new(&file).expect("made").set_len(size).expect("sized");
        std::fs::create_dir(&at).expect("made");
        run(make[0], &[&make[1..], &[text(&file)]].concat());
        run("mount", &["-o", "loop", text(&file), text(&at)]);
        Self { at }
    }

    /// Stops all writes to it: they wait until what this gives is dropped. Reads go on.
    #[track_caller]
    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze", text(&self.at)]);
        Frozen(self)
    }

    /// Its root.
    pub fn at(&self) -> &Path {
        &self.at
    }
}

/// A file system that takes no writes.
pub struct Frozen<'a>(&'a Mount);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let said = attempt("fsfreeze", &["--unfreeze", text(&self.0.at)]);
        // A second panic would hide the first.
        if !std::thread::panicking() {
            said.ok();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let begun = Instant::now();
        loop {
            let said = attempt("umount", &[text(&self.at)]);
            match said.code {
                Some(0) => return,
                _ if begun.elapsed() < PATIENCE => sleep(Duration::from_millis(20)),
                // A second panic would hide the first.
                _ if std::thread::panicking() => return,
                _ => drop(said.ok()),
            }
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the tests is text")
}
