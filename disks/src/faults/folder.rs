//! A folder whose files lose what was not flushed.

use super::Seed;
use super::file::{FaultFile, pause, stalled};
use super::world::{Fault, Loss, World};
use crate::file::{Caching, FileError, FileFuture, FileIo, Folder, OpenMode};
use parking_lot::Mutex;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// As long as it is there, what changes a folder is not answered: it is neither done nor failed. Reads are.
#[must_use = "it goes on when this is dropped"]
pub struct Stall {
    world: Arc<Mutex<World>>,
}

impl Stall {
    /// Writes, flushes and the like that were held so far.
    pub fn held(&self) -> u64 {
        self.world.lock().held()
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.world.lock().go_on();
    }
}

/// An in-memory file system. Clones are the same one.
#[derive(Clone)]
pub struct FaultFolder {
    world: Arc<Mutex<World>>,
}

impl FaultFolder {
    /// An empty file system without limit of space, whose choices follow from `seed`.
    pub fn new(seed: Seed) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(seed))) }
    }

    /// Cuts the power: everything here fails from now on. What the new file system holds is what was found afterwards.
    #[must_use = "what is left is in the returned folder"]
    pub fn crash(&self, seed: &mut Seed) -> Self {
        let next = self.world.lock().crash(seed, Loss::Any);
        Self { world: Arc::new(Mutex::new(next)) }
    }

    /// The same of a power cut that takes one write alone, as if a drive had begun with all others: what a [crash](Self::crash) is
    /// unlikely to leave where many writes are on their way, and what shows a missing flush.
    #[must_use = "what is left is in the returned folder"]
    pub fn crash_losing_one(&self, seed: &mut Seed) -> Self {
        let next = self.world.lock().crash(seed, Loss::One);
        Self { world: Arc::new(Mutex::new(next)) }
    }

    /// Flushes of files and syncs of folders so far, failed ones included.
    pub fn flushes(&self) -> u64 {
        self.world.lock().flushes()
    }

    /// Cuts the power at the `flushes`-th flush or sync from now (1 is the next): it fails, and so does all that follows.
    pub fn crash_after_flushes(&self, flushes: u64) {
        self.world.lock().crash_after(flushes);
    }

    /// Whether the power is cut.
    pub fn is_dead(&self) -> bool {
        self.world.lock().is_dead()
    }

    /// Makes the next operation of a kind fail, whatever file it is on. Adds up.
    pub fn fail_next(&self, fault: Fault) {
        self.world.lock().order(fault);
    }

    /// Holds whatever is to change something from now on, until what this gives is dropped or the power is cut.
    pub fn stall(&self) -> Stall {
        self.stall_as(None)
    }

    /// Holds flushes of files and syncs of folders alone, once `flushes` of them were answered.
    pub fn stall_after_flushes(&self, flushes: u64) -> Stall {
        self.stall_as(Some(flushes))
    }

    fn stall_as(&self, flushes: Option<u64>) -> Stall {
        self.world.lock().stall(flushes);
        Stall { world: Arc::clone(&self.world) }
    }

    /// A power cut leaves each sector of 512 bytes old or new from now on, as drives promise and most image formats need. Survives
    /// a crash.
    pub fn keep_sectors_whole(&self) {
        self.world.lock().tears_sectors = false;
    }

    /// Limits the space of all files, in bytes; counted in pages of 4 KiB. Survives a crash.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// All files, by path.
    pub fn files(&self) -> Vec<PathBuf> {
        self.world.lock().files()
    }

    /// Flips every bit of a range of a file, as failing media might; panics if there is no such file.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: u64, length: u64) {
        let mut world = self.world.lock();
        let found = world.find(path.as_ref());
        let inode =
            found.unwrap_or_else(|| panic!("no file {} to damage", path.as_ref().display()));
        world.corrupt(inode, offset, length);
    }

    /// Calls `f` with the path made plain, after some yields.
    async fn with<T>(
        &self,
        path: &Path,
        operation: &'static str,
        f: impl FnOnce(&mut World, PathBuf) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        pause(&self.world).await;
        let mut world = self.world.lock();
        world.alive(path, operation)?;
        f(&mut world, plain(path)?)
    }
}

/// Without dots; refused if it leaves the folder.
fn plain(path: &Path) -> Result<PathBuf, FileError> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => return Err(FileError::Outside { path: path.to_path_buf() }),
        }
    }
    Ok(plain)
}

/// That the folder which is to hold `path` exists.
fn check_parent(world: &World, path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) if world.has_folder(parent) => Ok(()),
        Some(_) => Err(FileError::NotFound { path: path.to_path_buf() }),
        // The root itself is no file.
        None => Err(FileError::Outside { path: path.to_path_buf() }),
    }
}

fn find(world: &World, path: &Path) -> Result<u64, FileError> {
    check_parent(world, path)?;
    world.find(path).ok_or_else(|| FileError::NotFound { path: path.to_path_buf() })
}

impl Folder for FaultFolder {
    fn open<'a>(
        &'a self,
        path: &'a Path,
        mode: OpenMode,
        caching: Caching,
    ) -> FileFuture<'a, Arc<dyn FileIo>> {
        Box::pin(self.with(path, "opening", move |world, path| {
            let inode = match (mode, find(world, &path)) {
                (OpenMode::CreateNew, Ok(_)) => return Err(FileError::Exists { path }),
                (OpenMode::CreateNew, Err(FileError::NotFound { .. })) => {
                    check_parent(world, &path)?;
                    world.create(&path)
                }
                (_, found) => found?,
            };
            let handle = world.number();
            let world = Arc::clone(&self.world);
            let file = FaultFile { world, inode, path, mode, caching, handle };
            Ok(Arc::new(file) as Arc<dyn FileIo>)
        }))
    }

    fn list<'a>(&'a self, path: &'a Path) -> FileFuture<'a, Vec<String>> {
        Box::pin(self.with(path, "listing", |world, path| {
            if world.has_folder(&path) {
                Ok(world.list(&path))
            } else {
                Err(FileError::NotFound { path })
            }
        }))
    }

    fn create_folder<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()> {
        Box::pin(self.with(path, "creating", |world, path| {
            world.add_folder(&path);
            Ok(())
        }))
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> FileFuture<'a, ()> {
        Box::pin(self.with(from, "renaming", move |world, from| {
            let to = plain(to)?;
            check_parent(world, &to)?;
            let inode = find(world, &from)?;
            world.rename(&from, &to, inode);
            Ok(())
        }))
    }

    fn remove<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()> {
        Box::pin(self.with(path, "removing", |world, path| {
            find(world, &path)?;
            world.unlink(&path);
            Ok(())
        }))
    }

    fn sync<'a>(&'a self, path: &'a Path) -> FileFuture<'a, ()> {
        Box::pin(async move {
            stalled(&self.world, true).await;
            let synced = self.with(path, "syncing", |world, path| {
                if !world.has_folder(&path) {
                    return Err(FileError::NotFound { path });
                }
                world.count_flush();
                world.alive(&path, "syncing")?;
                world.sync(&path);
                Ok(())
            });
            synced.await?;
            pause(&self.world).await;
            self.world.lock().alive(path, "syncing")
        })
    }

    fn free_bytes(&self) -> FileFuture<'_, u64> {
        Box::pin(async move {
            let world = self.world.lock();
            world.alive(Path::new(""), "measuring free space")?;
            Ok(world.free())
        })
    }

    fn display(&self) -> PathBuf {
        PathBuf::from("(memory)")
    }
}
