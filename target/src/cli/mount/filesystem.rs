//! One folder with files that do not change, as the kernel asks for it.
//!
//! Numbers of files: 1 is the folder, the files follow from 2 on in their order. Errors of content are the business of whoever reads
//! it: questions for content are passed on with what answers them.

use super::files::File;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, Request,
};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::UnboundedSender;

/// How long the kernel may keep what it was told. Nothing ever changes.
const KEEP: Duration = Duration::from_secs(3600);

/// Reads ahead and the like that the kernel may have under way: beyond that readers wait for each other.
const MAX_BACKGROUND: u16 = 64;

/// A question for content.
pub(super) enum Question {
    /// Bytes of a file.
    Read { file: usize, offset: u64, length: u64, reply: ReplyData },
    /// Where data or a hole begins.
    Seek { file: usize, offset: u64, wanted: Wanted, reply: ReplyLseek },
}

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Data,
    Hole,
}

/// Whose everything is, and who may read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) others_may_read: bool,
}

/// What fuser asks.
pub(super) struct Folder {
    pub(super) files: Arc<Vec<File>>,
    pub(super) time: SystemTime,
    pub(super) owner: Owner,
    pub(super) questions: UnboundedSender<Question>,
    /// Dropped when the kernel has nothing more to ask.
    pub(super) ended: Option<tokio::sync::oneshot::Sender<()>>,
}

/// Where in the list the file with a number is.
fn place(number: INodeNo) -> Option<usize> {
    usize::try_from(u64::from(number).checked_sub(2)?).ok()
}

fn number(place: usize) -> INodeNo {
    INodeNo(place as u64 + 2)
}

impl Folder {
    fn file(&self, number: INodeNo) -> Option<(usize, &File)> {
        let place = place(number)?;
        Some((place, self.files.get(place)?))
    }

    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        let others = |all: u16, owner: u16| if self.owner.others_may_read { all } else { owner };
        let (kind, size, perm, nlink) = match self.file(number) {
            Some((_, file)) => (FileType::RegularFile, file.size_bytes, others(0o444, 0o400), 1),
            None if number == INodeNo::ROOT => (FileType::Directory, 0, others(0o555, 0o500), 2),
            None => return None,
        };
        Some(FileAttr {
            ino: number,
            size,
            blocks: allocated(size),
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            crtime: self.time,
            kind,
            perm,
            nlink,
            uid: self.owner.user,
            gid: self.owner.group,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn ask(&self, question: Question) {
        // Whoever takes them ends after the kernel has nothing more to ask; what is dropped is answered with EIO.
        let _ = self.questions.send(question);
    }
}

/// Units of 512 bytes that a file says to take. How many it does nobody counts, so it is a little less than all: `cp` and `tar` then ask
/// for holes, which are told exactly. None at all would be taken for a file without data.
fn allocated(size: u64) -> u64 {
    (size.div_ceil(512)).saturating_sub(8).max(1).min(size.div_ceil(512))
}

impl Filesystem for Folder {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config
            .set_max_background(MAX_BACKGROUND)
            .map_err(|nearest| io::Error::other(format!("the kernel takes {nearest} at once")))?;
        Ok(())
    }

    fn destroy(&mut self) {
        self.ended.take();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|file| name == file.name.as_str());
        let found = found.filter(|_| parent == INodeNo::ROOT);
        match found.and_then(|place| self.attributes(number(place))) {
            Some(attributes) => reply.entry(&KEEP, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.attributes(number) {
            Some(attributes) => reply.attr(&KEEP, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // What was read once need not be read again by whoever opens it next.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((place, file)) = self.file(number) else { return reply.error(Errno::EISDIR) };
        let length = file.size_bytes.saturating_sub(offset).min(size.into());
        if length == 0 {
            return reply.data(&[]);
        }
        self.ask(Question::Read { file: place, offset, length, reply });
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some((place, file)) = self.file(number) else { return reply.error(Errno::EINVAL) };
        // lseek(2): SEEK_DATA is 3, SEEK_HOLE is 4; the kernel does the others itself.
        let wanted = match whence {
            3 => Wanted::Data,
            4 => Wanted::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        match u64::try_from(offset) {
            Ok(offset) if offset < file.size_bytes => {
                self.ask(Question::Seek { file: place, offset, wanted, reply });
            }
            _ => reply.error(Errno::ENXIO),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        folder: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if folder != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let files = self.files.iter().enumerate();
        let files =
            files.map(|(place, file)| (number(place), FileType::RegularFile, file.name.as_str()));
        let entries = (1_u64..).zip(dots.into_iter().chain(files));
        for (next, (number, kind, name)) in entries.filter(|(next, _)| *next > offset) {
            if reply.add(number, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let bytes: u64 = self.files.iter().map(|file| file.size_bytes).sum();
        let files = self.files.len() as u64;
        reply.statfs(bytes.div_ceil(4096), 0, 0, files, 0, 4096, 255, 4096);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_never_takes_nothing_nor_more_than_it_has() {
        for (size, blocks) in [(512, 1), (4096, 1), (8192, 8), (1 << 30, (1 << 21) - 8)] {
            assert_eq!(allocated(size), blocks);
        }
    }
}
