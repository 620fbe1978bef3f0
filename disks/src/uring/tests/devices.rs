//! Block devices as files. They need loop devices, and so the rights of root.

use super::{engine, first};
use crate::Buffer;
use crate::file::{Caching, FileError, FileIo, Folder, OpenMode, Sectors};
use crate::uring::Directory;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// A loop device over a file of its own, until it is dropped.
pub(crate) struct LoopDevice {
    path: PathBuf,
    backing: NamedTempFile,
}

impl LoopDevice {
    /// Panics where there are none: a machine that tests this must have them.
    pub(crate) fn new(size_bytes: u64, logical_sector: u32) -> Self {
        let backing = NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        backing.as_file().set_len(size_bytes).expect("resized");
        let output = Command::new("losetup")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["--find", "--show", "--sector-size", &logical_sector.to_string()])
            .arg(backing.path())
            .output()
            .expect("this test needs losetup (util-linux)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "this test needs loop devices, and root: {said}");
        let path = String::from_utf8(output.stdout).expect("a path");
        Self { path: PathBuf::from(path.trim_end()), backing }
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> Directory {
        Directory::open("/dev").expect("it exists")
    }

    /// Its name there.
    pub(crate) fn name(&self) -> PathBuf {
        self.path.strip_prefix("/dev").expect("devices lie there").to_path_buf()
    }

    /// The file behind it.
    pub(crate) fn backing(&self) -> &Path {
        self.backing.path()
    }

    async fn open(&self, caching: Caching) -> Arc<dyn FileIo> {
        self.folder().open(&self.name(), OpenMode::ReadWrite, caching).await.expect("opened")
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let mut losetup = Command::new("losetup");
        losetup.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").arg("--detach").arg(&self.path);
        let detached = losetup.status().is_ok_and(|status| status.success());
        // A second panic would hide the first.
        assert!(detached || std::thread::panicking(), "{} stays", self.path.display());
    }
}

fn filled(length: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::zeroed(length);
    buffer.fill(byte);
    buffer
}

#[test]
fn a_device_tells_its_length_and_sectors_and_keeps_them() {
    for logical in [512, 4096] {
        let device = LoopDevice::new(1 << 20, logical);
        let test = async move || {
            let file = device.open(Caching::Direct).await;
            let Sectors { logical: told, physical } = file.sectors().expect("it is a device");
            assert!(told == logical && physical >= logical, "{told} and {physical}");
            assert_eq!(file.length().await.expect("measured"), 1 << 20);
            file.set_length(1 << 20).await.expect("nothing changes");
            file.allocate(4096, (1 << 20) - 4096).await.expect("it is there");
            for refused in [
                file.set_length(4096).await,
                file.set_length(2 << 20).await,
                file.allocate(4096, 1 << 20).await,
                file.zero_range(4096, 1 << 20).await,
            ] {
                assert!(
                    matches!(refused, Err(FileError::FixedLength { length_bytes: 0x10_0000, .. })),
                    "{refused:?}"
                );
            }
        };
        first(&engine()).block_on(test).expect("running");
    }
}

#[test]
fn a_device_is_read_written_zeroed_and_all_data() {
    for logical in [512, 4096] {
        let device = LoopDevice::new(1 << 20, logical);
        let test = async move || {
            let file = device.open(Caching::Direct).await;
            file.write_at(0, filled(4 << 16, 7)).await.expect("written");
            file.punch_hole(1 << 16, 1 << 16).await.expect("punched");
            file.zero_range(3 << 16, 1 << 16).await.expect("zeroed");
            file.flush().await.expect("flushed");
            let read = file.read_at(0, Buffer::zeroed(5 << 16)).await.expect("read");
            for (place, piece) in read.chunks(1 << 16).enumerate() {
                let expected = if place % 2 == 0 && place < 4 { 7 } else { 0 };
                assert!(piece.iter().all(|byte| *byte == expected), "piece {place}");
            }
            let behind = std::fs::read(device.backing()).expect("read");
            assert!(behind[..read.len()] == *read, "the flush reached what is behind");
            let all = Some((4096, 1 << 20));
            assert_eq!(file.next_data(4096).await.expect("sought"), all);
            assert_eq!(file.next_data(1 << 20).await.expect("sought"), None);
            let end = file.read_at(1 << 20, Buffer::zeroed(4096)).await;
            assert!(matches!(end, Err(FileError::Ended { got: 0, .. })), "{end:?}");
        };
        first(&engine()).block_on(test).expect("running");
    }
}

#[test]
fn a_device_is_locked_as_a_file_is() {
    let device = LoopDevice::new(1 << 20, 512);
    let test = async move || {
        let (one, two) = (device.open(Caching::Direct).await, device.open(Caching::Buffered).await);
        one.lock_shared().await.expect("free");
        let refused = two.lock_exclusive().await;
        assert!(matches!(refused, Err(FileError::Locked { .. })), "{refused:?}");
        drop(one);
        two.lock_exclusive().await.expect("free again");
    };
    first(&engine()).block_on(test).expect("running");
}
