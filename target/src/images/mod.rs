//! Where images are, and which formats there are: what retention asks for when it makes or opens one.
//!
//! ```text
//!   web/os.raw             inside the images folder, which may be moved with everything in it
//!   /srv/vm/web-os.raw     a path that was given; this very file and no other
//! ```
//!
//! **Invariant:** only a file that the manifest names is ever opened, and a path inside the images folder cannot lead
//! out of it, not even through a symbolic link.

use futures_util::future::LocalBoxFuture;
use landfall_disks::file::{FileError, Folder};
use landfall_disks::raw::RawDisk;
use landfall_disks::uring::{self, Directory};
use landfall_disks::{Disk, DiskError};
use landfall_retention::{ImageSpec, ImageStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The one format there is so far.
pub(crate) const RAW: &str = "raw";

/// How long after a start an image that is in use is waited for. Requests that a killed target had with the kernel end
/// after the process did, and hold the lock of the image until then: a start must not fail for that, nor go on before.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried meanwhile.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Images below a folder, and at absolute paths.
pub(crate) struct Images {
    root: Directory,
    patient_until: Instant,
}

impl Images {
    /// Images below `folder`, which must exist.
    pub(crate) fn open(folder: &Path) -> Result<Self, FileError> {
        Ok(Self { root: Directory::open(folder)?, patient_until: Instant::now() + PATIENCE })
    }

    /// Opens an image, waiting for a killed target to let go of it.
    async fn open_free(
        &self,
        folder: &Directory,
        path: &Path,
        size_bytes: u64,
    ) -> Result<RawDisk, DiskError> {
        loop {
            let opened = RawDisk::open(folder, path, Some(size_bytes), false).await;
            let locked = matches!(opened, Err(DiskError::File(FileError::Locked { .. })));
            if !locked || Instant::now() >= self.patient_until {
                return opened;
            }
            uring::sleep(TRY_EVERY).await;
        }
    }

    /// The folder an image is resolved in, and its path there.
    fn place(&self, path: &str) -> Result<(Directory, PathBuf), FileError> {
        let path = Path::new(path);
        if path.is_relative() {
            return Ok((self.root.clone(), path.to_owned()));
        }
        let outside = || FileError::Outside { path: path.to_owned() };
        let name = path.file_name().ok_or_else(outside)?;
        let parent = path.parent().ok_or_else(outside)?;
        Ok((Directory::open(parent)?, name.into()))
    }
}

/// Where the image of a disk is unless a path was given, relative to the images folder.
pub(crate) fn default_path(machine: &str, disk: &str) -> String {
    format!("{machine}/{disk}.{RAW}")
}

impl ImageStore for Images {
    fn create<'a>(
        &'a self,
        spec: &'a ImageSpec,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, DiskError>> {
        Box::pin(async move {
            check_format(spec)?;
            let (folder, path) = self.place(&spec.path)?;
            if let Some(parent) = path.parent() {
                folder.create_folder(parent).await?;
            }
            let disk = RawDisk::create(&folder, &path, spec.size_bytes).await?;
            Ok(Arc::new(disk) as Arc<dyn Disk>)
        })
    }

    fn open<'a>(
        &'a self,
        spec: &'a ImageSpec,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, DiskError>> {
        Box::pin(async move {
            check_format(spec)?;
            let (folder, path) = self.place(&spec.path)?;
            let disk = self.open_free(&folder, &path, spec.size_bytes).await?;
            Ok(Arc::new(disk) as Arc<dyn Disk>)
        })
    }
}

/// Machines are only added with known formats; a newer version may have written the manifest.
fn check_format(spec: &ImageSpec) -> Result<(), DiskError> {
    if spec.format == RAW {
        return Ok(());
    }
    let reason = format!("images of format {:?} are not known to this version", spec.format);
    Err(DiskError::File(FileError::Os {
        path: PathBuf::from(&spec.path),
        operation: "opening the image",
        source: Arc::new(std::io::Error::new(std::io::ErrorKind::Unsupported, reason)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::uring::{Engine, EngineSettings};
    use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};

    fn spec(path: &str) -> ImageSpec {
        ImageSpec { format: RAW.to_owned(), path: path.to_owned(), size_bytes: 1 << 20 }
    }

    fn run<T: Send + 'static>(
        folder: &Path,
        work: impl AsyncFnOnce(Images) -> T + Send + 'static,
    ) -> T {
        let engine = Engine::start(EngineSettings { cores: 1, ..EngineSettings::default() })
            .expect("an engine");
        let images = Images::open(folder).expect("the folder exists");
        engine.cores()[0].block_on(move || work(images)).expect("the core runs")
    }

    #[test]
    fn an_image_is_where_its_path_says() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let given = elsewhere.path().join("given.raw");
        let given_text = given.to_str().unwrap().to_owned();
        run(folder.path(), async move |images| {
            for path in ["web/os.raw", &given_text] {
                let disk = images.create(&spec(path)).await.expect("a new image");
                let data = Buffer::copy_of(&[7; 4096]);
                disk.write(ByteOffset::new(0), data, Durability::Durable).await.unwrap();
                drop(disk);
                let disk = images.open(&spec(path)).await.expect("it is there");
                assert_eq!(*disk.read(ByteRange::up_to(4096)).await.unwrap(), [7; 4096]);
            }
        });
        assert!(folder.path().join("web/os.raw").exists());
        assert!(given.exists());
    }

    #[test]
    fn an_image_in_use_is_waited_for_after_a_start_only() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), async move |mut images| {
            let held = images.create(&spec("os.raw")).await.expect("a new image");
            uring::spawn(async move {
                uring::sleep(Duration::from_millis(200)).await;
                drop(held);
            });
            let begun = Instant::now();
            let held = images.open(&spec("os.raw")).await.expect("it is let go");
            assert!(begun.elapsed() >= Duration::from_millis(150));
            images.patient_until = Instant::now();
            let refused = images.open(&spec("os.raw")).await.err();
            assert!(matches!(refused, Some(DiskError::File(FileError::Locked { .. }))));
            drop(held);
        });
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("short.raw"), [0; 512]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link.raw")).unwrap();
        run(folder.path(), async move |images| {
            let missing = images.open(&spec("web/os.raw")).await.err();
            assert!(matches!(missing, Some(DiskError::File(FileError::NotFound { .. }))));
            let short = images.open(&spec("short.raw")).await.err();
            assert!(matches!(short, Some(DiskError::WrongSize { .. })), "{short:?}");
            let link = images.open(&spec("link.raw")).await.err();
            assert!(matches!(link, Some(DiskError::File(FileError::Outside { .. }))), "{link:?}");
            let format = ImageSpec { format: "vmdk".to_owned(), ..spec("short.raw") };
            let refused = images.open(&format).await.err().expect("no such format");
            assert!(refused.to_string().contains("vmdk"), "{refused}");
        });
    }
}
