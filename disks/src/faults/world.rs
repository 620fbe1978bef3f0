//! One file system of the fault-injecting kind: its files, names, faults and its clock of flushes.

use super::content::{Change, Content};
use super::{Seed, content};
use crate::file::FileError;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// What shall go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The next read of a file answers `EIO`.
    Read,
    /// The next write to a file answers `EIO`; some of its sectors may be written all the same.
    Write,
    /// The next write to a file answers `ENOSPC`; some of its sectors may be written all the same.
    Full,
    /// The next flush of a file answers `EIO`; what it was to make durable may be lost, though reads still see it.
    Flush,
}

/// What a power cut takes of that which was not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    /// Any of it, by the sector.
    Any,
    /// One write.
    One,
}

/// A change of a file that is visible but not durable.
struct Pending {
    number: u64,
    change: Change,
    /// Its caller has been told that it is done, so the next flush must make it durable.
    completed: bool,
}

/// Nothing that is to change something gets an answer.
struct Stalling {
    /// Told when it goes on.
    over: Arc<Notify>,
    /// Flushes that are still answered; what is no flush is, too. Without a number nothing is.
    flushes: Option<u64>,
    /// What was not answered so far.
    held: u64,
}

/// A file, whatever its names.
#[derive(Default)]
pub(super) struct Inode {
    pub(super) volatile: Content,
    durable: Content,
    pending: Vec<Pending>,
    pub(super) locks: Locks,
}

/// Which handles of a file hold its lock: one that has it alone, or any number that share it.
#[derive(Default)]
pub(super) struct Locks {
    alone: Option<u64>,
    shared: BTreeSet<u64>,
}

impl Locks {
    /// Whether `handle` now has the file for itself.
    pub(super) fn take_exclusive(&mut self, handle: u64) -> bool {
        let others = self.alone.iter().chain(&self.shared).any(|other| *other != handle);
        if !others {
            self.alone = Some(handle);
            self.shared.clear();
        }
        !others
    }

    /// Whether `handle` now shares the file.
    pub(super) fn take_shared(&mut self, handle: u64) -> bool {
        assert!(self.alone != Some(handle), "a handle that has a file for itself asks to share it");
        if self.alone.is_none() {
            self.shared.insert(handle);
        }
        self.alone.is_none()
    }

    /// The handle is gone.
    pub(super) fn release(&mut self, handle: u64) {
        self.alone.take_if(|holder| *holder == handle);
        self.shared.remove(&handle);
    }
}

/// A change of names that is visible but not durable.
#[derive(Clone)]
enum Naming {
    Link { path: PathBuf, inode: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, inode: u64 },
}

impl Naming {
    fn concerns(&self, folder: &Path) -> bool {
        let inside = |path: &PathBuf| path.parent() == Some(folder);
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => inside(path),
            Self::Rename { from, to, .. } => inside(from) || inside(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// All state of one file system.
pub(super) struct World {
    pub(super) seed: Seed,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<Naming>,
    folders: BTreeSet<PathBuf>,
    faults: VecDeque<Fault>,
    stalling: Option<Stalling>,
    flushes: u64,
    crash_at: Option<u64>,
    dead: bool,
    pub(super) capacity: Option<u64>,
    /// Whether a power cut may leave a part of a sector.
    pub(super) tears_sectors: bool,
    numbers: u64,
}

impl World {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            seed,
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            folders: BTreeSet::from([PathBuf::new()]),
            faults: VecDeque::new(),
            stalling: None,
            flushes: 0,
            crash_at: None,
            dead: false,
            capacity: None,
            tears_sectors: true,
            numbers: 0,
        }
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Fails when the power is cut.
    pub(super) fn alive(&self, path: &Path, operation: &'static str) -> Result<(), FileError> {
        if self.dead {
            Err(os_error(path, operation, io::Error::other("the power is cut")))
        } else {
            Ok(())
        }
    }

    /// Fails once if `fault` was ordered.
    pub(super) fn takes_fault(&mut self, fault: Fault) -> bool {
        let found = self.faults.iter().position(|ordered| *ordered == fault);
        found.is_some_and(|place| self.faults.remove(place).is_some())
    }

    pub(super) fn order(&mut self, fault: Fault) {
        self.faults.push_back(fault);
    }

    /// From now on nothing is answered; or no flush, once so many were.
    pub(super) fn stall(&mut self, flushes: Option<u64>) {
        assert!(self.stalling.is_none(), "it stalls already");
        self.stalling = Some(Stalling { over: Arc::default(), flushes, held: 0 });
    }

    /// What is held by a stall so far.
    pub(super) fn held(&self) -> u64 {
        self.stalling.as_ref().map_or(0, |stalling| stalling.held)
    }

    /// What an operation has to wait for before it is answered.
    pub(super) fn holds(&mut self, is_flush: bool) -> Option<Arc<Notify>> {
        let stalling = self.stalling.as_mut()?;
        match &mut stalling.flushes {
            Some(_) if !is_flush => return None,
            Some(0) | None => {}
            Some(left) => {
                *left -= 1;
                return None;
            }
        }
        stalling.held += 1;
        Some(Arc::clone(&stalling.over))
    }

    /// Whatever is held goes on.
    pub(super) fn go_on(&mut self) {
        if let Some(stalling) = self.stalling.take() {
            stalling.over.notify_waiters();
        }
    }

    pub(super) fn crash_after(&mut self, flushes: u64) {
        self.crash_at = Some(self.flushes + flushes);
    }

    pub(super) fn flushes(&self) -> u64 {
        self.flushes
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Counts a flush or sync; at the ordered one the power goes instead.
    pub(super) fn count_flush(&mut self) {
        self.flushes += 1;
        if self.crash_at == Some(self.flushes) {
            self.dead = true;
        }
    }

    // Files

    pub(super) fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("inodes of a file system are never freed")
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        named
            .iter()
            .filter_map(|inode| self.inodes.get(inode))
            .map(|i| i.volatile.allocated())
            .sum()
    }

    pub(super) fn free(&self) -> u64 {
        match self.capacity {
            Some(capacity) => capacity.saturating_sub(self.used()),
            None => 1 << 40,
        }
    }

    /// Whether space for a change of this range is there.
    pub(super) fn has_room(&self, inode: u64, offset: u64, length: u64) -> bool {
        let missing = self.inodes.get(&inode).map_or(0, |i| i.volatile.missing(offset, length));
        missing <= self.free()
    }

    /// Makes a change visible; the number names it until it is completed.
    pub(super) fn change(&mut self, inode: u64, change: Change) -> u64 {
        let number = self.number();
        let inode = self.inode(inode);
        inode.volatile.apply(&change);
        inode.pending.push(Pending { number, change, completed: false });
        number
    }

    /// The callers of these changes have been told.
    pub(super) fn complete(&mut self, inode: u64, numbers: &[u64]) {
        for pending in &mut self.inode(inode).pending {
            pending.completed |= numbers.contains(&pending.number);
        }
    }

    /// What a flush that starts now has to make durable.
    pub(super) fn completed(&mut self, inode: u64) -> BTreeSet<u64> {
        let pending = &self.inode(inode).pending;
        pending.iter().filter(|pending| pending.completed).map(|pending| pending.number).collect()
    }

    /// Makes the changes durable, in order.
    pub(super) fn settle(&mut self, inode: u64, numbers: &BTreeSet<u64>) {
        let Inode { durable, pending, .. } = self.inode(inode);
        pending.retain(|pending| {
            let settled = numbers.contains(&pending.number);
            if settled {
                durable.apply(&pending.change);
            }
            !settled
        });
    }

    /// What a failed flush does: each change is durable or forgotten for good, and nobody is told which.
    pub(super) fn lose(&mut self, inode: u64, numbers: &BTreeSet<u64>) {
        let mut seed = self.seed.fork();
        let kept: BTreeSet<u64> = numbers.iter().copied().filter(|_| seed.chance(1, 2)).collect();
        self.settle(inode, &kept);
        self.inode(inode).pending.retain(|pending| !numbers.contains(&pending.number));
    }

    // Names

    pub(super) fn has_folder(&self, path: &Path) -> bool {
        self.folders.contains(path)
    }

    pub(super) fn add_folder(&mut self, path: &Path) {
        self.folders.extend(path.ancestors().map(Path::to_path_buf));
    }

    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        self.names.get(path).copied()
    }

    pub(super) fn create(&mut self, path: &Path) -> u64 {
        let inode = self.number();
        self.inodes.insert(inode, Inode::default());
        self.name(Naming::Link { path: path.to_path_buf(), inode });
        inode
    }

    pub(super) fn unlink(&mut self, path: &Path) {
        self.name(Naming::Unlink { path: path.to_path_buf() });
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, inode: u64) {
        if from != to {
            self.name(Naming::Rename { from: from.to_path_buf(), to: to.to_path_buf(), inode });
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }

    pub(super) fn list(&self, folder: &Path) -> Vec<String> {
        let all = self.names.keys().chain(&self.folders);
        let inside = all.filter(|path| path.parent() == Some(folder));
        let names = inside.filter_map(|path| path.file_name());
        let mut names: Vec<String> =
            names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn sync(&mut self, folder: &Path) {
        let durable = &mut self.durable_names;
        self.pending_names.retain(|naming| {
            let settled = naming.concerns(folder);
            if settled {
                naming.apply(durable);
            }
            !settled
        });
    }

    // The end of the world, and the next one

    /// Cuts the power and gives what is found when it comes back.
    pub(super) fn crash(&mut self, seed: &mut Seed, loss: Loss) -> Self {
        self.dead = true;
        // To hear that the power is gone.
        self.go_on();
        let mut next = Self::new(seed.fork());
        next.folders.clone_from(&self.folders);
        next.capacity = self.capacity;
        next.tears_sectors = self.tears_sectors;
        next.numbers = self.numbers;
        next.names.clone_from(&self.durable_names);
        let lost = self.lost(seed, loss);
        let how_much = |seed: &mut Seed| if lost.is_some() { 8 } else { how_much(seed) };
        let kept = how_much(seed);
        for naming in &self.pending_names {
            if seed.chance(kept, 8) {
                naming.apply(&mut next.names);
            }
        }
        next.durable_names.clone_from(&next.names);
        for inode in next.names.values() {
            let old = self.inodes.get(inode).expect("a name names a file");
            let mut found = old.durable.clone();
            let kept = how_much(seed);
            for pending in old.pending.iter().filter(|pending| lost != Some(pending.number)) {
                found.apply_some(&pending.change, kept, self.tears_sectors, seed);
            }
            found.trim();
            let inode = *inode;
            let found = Inode { volatile: found.clone(), durable: found, ..Inode::default() };
            next.inodes.insert(inode, found);
        }
        next
    }

    /// The write that a power cut takes, if it takes one.
    fn lost(&self, seed: &mut Seed, loss: Loss) -> Option<u64> {
        let pending = self.inodes.values().flat_map(|inode| &inode.pending);
        let pending = pending.filter(|pending| pending.change.is_content());
        let numbers: Vec<u64> = pending.map(|pending| pending.number).collect();
        (loss == Loss::One && !numbers.is_empty()).then(|| *seed.pick(&numbers))
    }

    /// Damages a file in both copies.
    pub(super) fn corrupt(&mut self, inode: u64, offset: u64, length: u64) {
        let inode = self.inode(inode);
        inode.volatile.invert(offset, length);
        inode.durable.invert(offset, length);
    }
}

/// Of what was not flushed, how many eighths are kept: everything and nothing are as likely as something in between.
fn how_much(seed: &mut Seed) -> u64 {
    *seed.pick(&[0, 0, 1, 4, 4, 7, 8, 8])
}

pub(super) fn os_error(path: &Path, operation: &'static str, source: io::Error) -> FileError {
    FileError::Os { path: path.to_path_buf(), operation, source: Arc::new(source) }
}

pub(super) fn no_space(path: &Path) -> FileError {
    FileError::NoSpace { path: path.to_path_buf() }
}

pub(super) fn input_output(path: &Path, operation: &'static str) -> FileError {
    os_error(path, operation, io::Error::from_raw_os_error(libc::EIO))
}

const _: () = assert!(content::PAGE.is_multiple_of(content::SECTOR), "a page is whole sectors");
