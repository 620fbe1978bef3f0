//! Files and folders on the ring.

use super::{engine, first};
use crate::Buffer;
use crate::file::{Caching, FileError, FileIo, Folder, OpenMode};
use crate::uring::{Core, Directory};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

/// Runs `test` on a core with an empty folder of a real file system.
fn in_folder<Fut: Future<Output = ()> + 'static>(
    test: impl FnOnce(Directory) -> Fut + Send + 'static,
) {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let root = Directory::open(folder.path()).expect("it exists");
    let engine = engine();
    first(&engine).block_on(move || test(root)).expect("running");
}

async fn create(root: &Directory, caching: Caching) -> Arc<dyn FileIo> {
    root.open(Path::new("file"), OpenMode::CreateNew, caching).await.expect("created")
}

#[test]
fn what_is_written_is_read() {
    for caching in [Caching::Direct, Caching::Buffered] {
        in_folder(move |root| async move {
            let file = create(&root, caching).await;
            let data: Vec<u8> = (0..100 * 4096u32).map(|n| n.to_le_bytes()[1] ^ 0x5a).collect();
            file.write_at(8192, Buffer::copy_of(&data)).await.expect("written");
            file.flush().await.expect("flushed");
            assert_eq!(file.length().await.expect("measured"), 8192 + 100 * 4096);
            let read = file.read_at(8192, Buffer::zeroed(data.len())).await.expect("read");
            assert!(*read == *data);
            let before = file.read_at(0, Buffer::zeroed(8192)).await.expect("read");
            assert!(before.iter().all(|byte| *byte == 0));
        });
    }
}

#[test]
fn many_operations_are_in_flight_at_once() {
    // More than the ring of the test engine has entries, so that submissions overflow into the backlog.
    in_folder(|root| async move {
        let file = create(&root, Caching::Direct).await;
        let writes = (0..1000u64).map(|number| {
            let mut buffer = Buffer::zeroed(4096);
            buffer[..8].copy_from_slice(&number.to_le_bytes());
            file.write_at(number * 4096, buffer)
        });
        for written in futures_util::future::join_all(writes).await {
            written.expect("written");
        }
        let reads = (0..1000u64).map(|number| file.read_at(number * 4096, Buffer::zeroed(4096)));
        for (number, read) in futures_util::future::join_all(reads).await.into_iter().enumerate() {
            assert_eq!(read.expect("read")[..8], (number as u64).to_le_bytes());
        }
    });
}

#[test]
fn the_end_of_a_file_is_told() {
    for caching in [Caching::Direct, Caching::Buffered] {
        in_folder(move |root| async move {
            let file = create(&root, caching).await;
            file.set_length(5000).await.expect("resized");
            let error = file.read_at(4096, Buffer::zeroed(8192)).await.expect_err("it ends");
            assert!(matches!(error, FileError::Ended { wanted: 8192, got: 904, .. }), "{error:?}");
        });
    }
}

#[test]
#[should_panic(expected = "is not aligned")]
fn misaligned_direct_io_is_a_bug() {
    in_folder(|root| async move {
        let file = create(&root, Caching::Direct).await;
        let _ = file.read_at(512, Buffer::zeroed(4096)).await;
    });
}

#[test]
fn holes_are_found_made_and_zeroed() {
    in_folder(|root| async move {
        let file = create(&root, Caching::Direct).await;
        file.set_length(1 << 20).await.expect("resized");
        assert_eq!(file.next_data(0).await.expect("sought"), None);
        let mut ones = Buffer::zeroed(3 * 65536);
        ones.fill(1);
        file.write_at(131_072, ones).await.expect("written");
        assert_eq!(file.next_data(0).await.expect("sought"), Some((131_072, 131_072 + 196_608)));
        file.punch_hole(131_072, 65536).await.expect("punched");
        assert_eq!(file.next_data(0).await.expect("sought"), Some((196_608, 131_072 + 196_608)));
        file.zero_range(196_608, 65536).await.expect("zeroed");
        let read = file.read_at(131_072, Buffer::zeroed(3 * 65536)).await.expect("read");
        assert!(read[..131_072].iter().all(|byte| *byte == 0));
        assert!(read[131_072..].iter().all(|byte| *byte == 1));
        file.allocate(1 << 20, 4096).await.expect("allocated");
        assert_eq!(file.length().await.expect("measured"), (1 << 20) + 4096);
    });
}

#[test]
fn a_full_file_system_is_told() {
    // A file cannot be longer than the file system allows; of ENOSPC the kernel's device always has plenty.
    let engine = engine();
    let error = first(&engine)
        .block_on(|| async {
            let root = Directory::open("/dev").expect("it exists");
            let full = root.open(Path::new("full"), OpenMode::ReadWrite, Caching::Buffered).await;
            full.expect("opened").write_at(0, Buffer::zeroed(4096)).await.map(drop)
        })
        .expect("running");
    assert!(matches!(error, Err(FileError::NoSpace { .. })), "{error:?}");
}

#[test]
fn a_file_is_usable_from_another_core() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let root = Directory::open(folder.path()).expect("it exists");
    let engine = engine();
    let [one, two] = engine.cores() else { panic!("two cores") };
    let file = one.block_on(move || async move { create(&root, Caching::Buffered).await });
    let file = file.expect("running");
    let write = |core: &Core, offset: u64| {
        let file = Arc::clone(&file);
        core.block_on(move || async move {
            file.write_at(offset, Buffer::copy_of(b"here")).await.map(drop)
        })
    };
    write(one, 0).expect("running").expect("written");
    write(two, 4).expect("running").expect("written");
    let read = one
        .block_on(move || async move { file.read_at(0, Buffer::zeroed(8)).await })
        .expect("running");
    assert_eq!(&*read.expect("read"), b"herehere");
}

#[test]
#[should_panic(expected = "reading a file needs an I/O core")]
fn off_core_a_file_says_what_it_needs() {
    let root = Directory::open("/dev").expect("it exists");
    let file = std::pin::pin!(root.open(Path::new("zero"), OpenMode::Read, Caching::Buffered));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Ok(file)) = file.get_mut().as_mut().poll(&mut context) else {
        panic!("off-core a folder answers at once")
    };
    let _ = file.read_at(0, Buffer::zeroed(1)).as_mut().poll(&mut context);
}

#[test]
fn folders_list_rename_and_remove() {
    in_folder(|root| async move {
        let (a, b) = (Path::new("x/y/a"), Path::new("x/b"));
        root.create_folder(Path::new("x/y")).await.expect("made");
        root.create_folder(Path::new("x/y")).await.expect("there already");
        let file = root.open(a, OpenMode::CreateNew, Caching::Buffered).await.expect("created");
        file.write_at(0, Buffer::copy_of(b"abc")).await.expect("written");
        let again = root.open(a, OpenMode::CreateNew, Caching::Buffered).await.map(drop);
        assert!(matches!(again, Err(FileError::Exists { .. })), "{again:?}");
        root.rename(a, b).await.expect("renamed");
        root.sync(Path::new("x")).await.expect("synced");
        assert_eq!(root.list(Path::new("x")).await.expect("listed"), ["b", "y"]);
        let gone = root.open(a, OpenMode::Read, Caching::Buffered).await.map(drop);
        assert!(matches!(gone, Err(FileError::NotFound { .. })), "{gone:?}");
        root.remove(b).await.expect("removed");
        assert_eq!(root.list(Path::new("x")).await.expect("listed"), ["y"]);
        assert!(root.free_bytes().await.expect("measured") > 0);
    });
}

#[test]
fn nothing_leads_out_of_a_folder() {
    in_folder(|root| async move {
        std::os::unix::fs::symlink("/etc", root.display().join("way-out")).expect("linked");
        for path in ["../x", "/etc/passwd", "a/../../x", "way-out/passwd"] {
            let opened = root.open(Path::new(path), OpenMode::Read, Caching::Buffered).await;
            let opened = opened.map(drop);
            assert!(matches!(opened, Err(FileError::Outside { .. })), "{path}: {opened:?}");
        }
    });
}

#[test]
fn a_locked_file_is_refused_to_others() {
    in_folder(|root| async move {
        let one = create(&root, Caching::Buffered).await;
        let path = Path::new("file");
        let two = root.open(path, OpenMode::ReadWrite, Caching::Buffered).await.expect("opened");
        one.lock_exclusive().await.expect("free");
        let refused = two.lock_exclusive().await;
        assert!(matches!(refused, Err(FileError::Locked { .. })), "{refused:?}");
        drop(one);
        two.lock_exclusive().await.expect("free again");
    });
}

#[test]
fn an_abandoned_write_never_overtakes_a_later_one() {
    in_folder(|root| async move {
        let file = create(&root, Caching::Direct).await;
        let filled = |byte| {
            let mut buffer = Buffer::zeroed(4 << 20);
            buffer.fill(byte);
            buffer
        };
        file.write_at(0, filled(0)).await.expect("written");
        for round in 1..=20u8 {
            // Large and first, so that it is still on its way when the small one starts.
            let mut abandoned = file.write_at(0, filled(100 + round));
            assert!(futures_util::poll!(&mut abandoned).is_pending());
            // Lets the ring take it.
            crate::uring::sleep(std::time::Duration::from_micros(200)).await;
            drop(abandoned);
            let mut last = Buffer::zeroed(4096);
            last.fill(round);
            file.write_at((4 << 20) - 4096, last).await.expect("written");
            file.flush().await.expect("flushed");
            let read = file.read_at((4 << 20) - 4096, Buffer::zeroed(4096)).await.expect("read");
            assert!(read.iter().all(|byte| *byte == round), "round {round}: {}", read[0]);
        }
    });
}
