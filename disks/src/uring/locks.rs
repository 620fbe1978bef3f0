//! Locks on files that QEMU sees, and that see QEMU's.
//!
//! QEMU puts read locks on single bytes of an image, whose numbers say what it does and what it suffers:
//!
//! ```text
//!   100 + i   uses permission i                     i = 0  reads consistent content    1  writes
//!   200 + i   does not share permission i               2  writes without change       3  resizes
//!
//!   reader here   read locks on 100, 201, 203; then nobody else may have 101, 103 or 200
//!   writer here   a write lock on every byte: collides with all of the above, and with other writers and readers here
//! ```
//!
//! All are open-file-description locks: they go with the last copy of the descriptor, also when the process is killed,
//! and closing another descriptor of the same file leaves them alone.
//!
//! A reader looks after it has locked, as QEMU does: of a reader and a writer that start at the same moment one or both
//! are refused, never none.

use super::descriptor::Descriptor;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Whoever holds it reads.
const READS: i64 = 100;
/// Whoever holds it writes.
const WRITES: i64 = 101;
/// Whoever holds it changes the length.
const RESIZES: i64 = 103;
/// Whoever holds it suffers no readers.
const NO_READERS: i64 = 200;
/// Whoever holds it suffers no writers.
const NO_WRITERS: i64 = 201;
/// Whoever holds it suffers no change of the length.
const NO_RESIZERS: i64 = 203;

const READER_HOLDS: [i64; 3] = [READS, NO_WRITERS, NO_RESIZERS];
const READER_REFUSES: [i64; 3] = [WRITES, RESIZES, NO_READERS];

/// Takes the whole file for one handle.
pub(super) fn lock_exclusive(descriptor: &Descriptor) -> io::Result<()> {
    call(descriptor, libc::F_OFD_SETLK, &mut whole(libc::F_WRLCK))
}

/// Keeps writers away, and is refused while there is one.
pub(super) fn lock_shared(descriptor: &Descriptor) -> io::Result<()> {
    let locked = READER_HOLDS
        .into_iter()
        .try_for_each(|at| call(descriptor, libc::F_OFD_SETLK, &mut byte(libc::F_RDLCK, at)))
        .and_then(|()| READER_REFUSES.into_iter().try_for_each(|at| refuse(descriptor, at)));
    if locked.is_err() {
        // Left in place, they would keep writers away from a file that nobody reads.
        call(descriptor, libc::F_OFD_SETLK, &mut whole(libc::F_UNLCK))?;
    }
    locked
}

/// Fails as a lock would if another handle, of any process, holds the byte in any way.
fn refuse(descriptor: &Descriptor, at: i64) -> io::Result<()> {
    let mut found = byte(libc::F_WRLCK, at);
    call(descriptor, libc::F_OFD_GETLK, &mut found)?;
    if c_int::from(found.l_type) == libc::F_UNLCK {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }
}

fn byte(kind: c_int, at: i64) -> libc::flock {
    libc::flock { l_start: at, l_len: 1, ..whole(kind) }
}

/// Start 0 and length 0: the whole file, however long it becomes.
fn whole(kind: c_int) -> libc::flock {
    libc::flock {
        l_type: kind.try_into().expect("a small constant"),
        l_whence: libc::SEEK_SET.try_into().expect("a small constant"),
        l_start: 0,
        l_len: 0,
        // The kernel requires it of locks of this kind.
        l_pid: 0,
    }
}

fn call(descriptor: &Descriptor, command: c_int, lock: &mut libc::flock) -> io::Result<()> {
    let fd = descriptor.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and both commands read and write a `flock` that lives through the call.
    let result = unsafe { libc::fcntl(fd, command, std::ptr::from_mut(lock)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use tempfile::NamedTempFile;

    /// Another handle of the file, as another process would have it.
    fn handle(file: &NamedTempFile) -> Descriptor {
        Descriptor::new(file.reopen().expect("it exists").into())
    }

    /// A handle that cannot write.
    fn reading_handle(file: &NamedTempFile) -> Descriptor {
        Descriptor::new(File::open(file.path()).expect("it exists").into())
    }

    /// What QEMU does with an image: the bytes it read-locks, then those it finds out about.
    struct Qemu {
        holds: &'static [i64],
        refuses: &'static [i64],
    }

    /// `qemu-img info` and `qemu-io -r` of a format that is not raw.
    const READER: Qemu = Qemu { holds: &[100, 201, 203], refuses: &[200, 101, 103] };
    /// `qemu-io -r` of a raw image.
    const RAW_READER: Qemu = Qemu { holds: &[100], refuses: &[200] };
    /// `qemu-io` of a format that is not raw.
    const WRITER: Qemu =
        Qemu { holds: &[100, 101, 103, 201, 203], refuses: &[200, 201, 203, 101, 103] };
    /// A machine with a raw disk.
    const RAW_WRITER: Qemu = Qemu { holds: &[100, 101, 201], refuses: &[200, 201, 101] };
    const ALL: [&Qemu; 4] = [&READER, &RAW_READER, &WRITER, &RAW_WRITER];

    impl Qemu {
        fn open(&self, file: &NamedTempFile) -> io::Result<Descriptor> {
            let image = handle(file);
            for at in self.holds {
                call(&image, libc::F_OFD_SETLK, &mut byte(libc::F_RDLCK, *at))?;
            }
            self.refuses.iter().try_for_each(|at| refuse(&image, *at))?;
            Ok(image)
        }
    }

    fn image() -> NamedTempFile {
        NamedTempFile::new().expect("a file")
    }

    fn assert_refused<T>(result: io::Result<T>) {
        let error = result.map(drop).expect_err("it must be refused");
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}");
    }

    #[test]
    fn readers_of_both_kinds_share_a_file() {
        let file = image();
        let (one, two) = (reading_handle(&file), handle(&file));
        lock_shared(&one).expect("free");
        lock_shared(&two).expect("a reader more");
        let _qemu = READER.open(&file).expect("a reader more");
        let _raw = RAW_READER.open(&file).expect("a reader more");
        lock_shared(&reading_handle(&file)).expect("a reader more");
    }

    #[test]
    fn a_reader_keeps_writers_away() {
        let file = image();
        let reader = reading_handle(&file);
        lock_shared(&reader).expect("free");
        assert_refused(lock_exclusive(&handle(&file)));
        assert_refused(WRITER.open(&file));
        assert_refused(RAW_WRITER.open(&file));
        drop(reader);
        WRITER.open(&file).expect("free again");
    }

    #[test]
    fn a_writer_of_qemu_keeps_both_away() {
        for writer in [&WRITER, &RAW_WRITER] {
            let file = image();
            let held = writer.open(&file).expect("free");
            let reader = reading_handle(&file);
            assert_refused(lock_shared(&reader));
            assert_refused(lock_exclusive(&handle(&file)));
            drop(held);
            // Nothing of the refused reader is left behind.
            lock_exclusive(&handle(&file)).expect("free again");
        }
    }

    #[test]
    fn a_reader_of_qemu_keeps_writers_away() {
        for reader in [&READER, &RAW_READER] {
            let file = image();
            let held = reader.open(&file).expect("free");
            assert_refused(lock_exclusive(&handle(&file)));
            lock_shared(&reading_handle(&file)).expect("a reader more");
            drop(held);
        }
    }

    #[test]
    fn a_writer_has_the_file_for_itself() {
        let file = image();
        let writer = handle(&file);
        lock_exclusive(&writer).expect("free");
        assert_refused(lock_shared(&reading_handle(&file)));
        for qemu in ALL {
            assert_refused(qemu.open(&file));
        }
        drop(writer);
        for qemu in ALL {
            qemu.open(&file).expect("free again");
        }
    }

    #[test]
    fn who_suffers_no_readers_has_none() {
        let file = image();
        let held = handle(&file);
        call(&held, libc::F_OFD_SETLK, &mut byte(libc::F_RDLCK, NO_READERS)).expect("free");
        assert_refused(lock_shared(&reading_handle(&file)));
    }
}
