//! Where images are, and which formats there are: what retention asks for when it makes or opens one.
//!
//! ```text
//!   web/os.vmdk            inside the images folder, which may be moved with everything in it
//!   /srv/vm/web-os.vhdx    a path that was given; this very file, and what lies beside it if it names that
//! ```
//!
//! **Invariants**
//! - Only a file that the manifest names is ever opened, and what such a file names in its own folder. A path inside the
//!   images folder cannot lead out of it, not even through a symbolic link.
//! - A format is never guessed where the manifest has one: a guest can write anything into a raw image.

mod adopt;
pub(crate) mod create;
mod standby;

pub(crate) use standby::StandbyFolders;

use create::Kind;
use futures_util::future::LocalBoxFuture;
use landfall_disks::file::FileError;
use landfall_disks::image::{
    self, Access, BesideTheImage, Format, Image, ImageError, Location, Opener,
};
use landfall_disks::uring::{self, Directory};
use landfall_disks::{Disk, DiskError, vhd};
use landfall_retention::ids::DiskIdentity;
use landfall_retention::{ImageSpec, ImageStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

    /// Where an image is.
    fn place(&self, path: &str) -> Result<Location, FileError> {
        let path = Path::new(path);
        if path.is_relative() {
            return Ok(Location { folder: Arc::new(self.root.clone()), path: path.to_owned() });
        }
        let outside = || FileError::Outside { path: path.to_owned() };
        let name = path.file_name().ok_or_else(outside)?;
        let parent = path.parent().ok_or_else(outside)?;
        Ok(Location { folder: Arc::new(Directory::open(parent)?), path: name.into() })
    }
}

/// Opens an image for writing; one that is in use is waited for until `patient_until`.
pub(crate) async fn open_free(
    location: &Location,
    format: Format,
    patient_until: Instant,
) -> Result<Image, ImageError> {
    loop {
        let mut opener = Opener::new(&BesideTheImage);
        let opened = opener.open(location, Some(format), Access::Write).await;
        let locked = opened.as_ref().is_err_and(is_locked);
        if !locked || Instant::now() >= patient_until {
            return opened;
        }
        uring::sleep(TRY_EVERY).await;
    }
}

fn is_locked(error: &ImageError) -> bool {
    let (ImageError::File(error) | ImageError::Disk(DiskError::File(error))) = error else {
        return false;
    };
    matches!(error, FileError::Locked { .. })
}

/// Where the image of a disk is unless a path was given, relative to the images folder.
pub(crate) fn default_path(machine: &str, disk: &str, format: Format) -> String {
    format!("{machine}/{disk}.{format}")
}

/// Format of a new image at `path`, if nobody said which.
pub(crate) fn default_format(path: Option<&Path>) -> Format {
    let extension = path.and_then(Path::extension).and_then(std::ffi::OsStr::to_str);
    let named = extension.and_then(|text| text.to_ascii_lowercase().parse().ok());
    named.unwrap_or(Format::Raw)
}

impl ImageStore for Images {
    fn create<'a>(
        &'a self,
        spec: &'a ImageSpec,
        identity: DiskIdentity,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>> {
        Box::pin(async move {
            let format = format_of(spec)?;
            let location = self.place(&spec.path)?;
            if let Some(parent) = location.path.parent() {
                location.folder.create_folder(parent).await?;
            }
            let wishes = create::wishes(format, &Kind::usual(format), spec.size_bytes, identity);
            image::create(&location, &wishes, None, &BesideTheImage).await?;
            // Whoever made it may not have let go of it yet.
            let patient_until = Instant::now() + PATIENCE;
            usable(open_free(&location, format, patient_until).await?, spec)
        })
    }

    fn open<'a>(
        &'a self,
        spec: &'a ImageSpec,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>> {
        Box::pin(async move {
            let format = format_of(spec)?;
            let location = self.place(&spec.path)?;
            usable(open_free(&location, format, self.patient_until).await?, spec)
        })
    }

    fn check_growth(&self, spec: &ImageSpec, size_bytes: u64) -> Result<(), ImageError> {
        if format_of(spec)? == Format::Vhd && size_bytes > vhd::format::MAX_DISK_BYTES {
            let most = vhd::format::MAX_DISK_BYTES;
            let why = format!("a disk in a VHD has at most {most} bytes, not {size_bytes}");
            return Err(ImageError::CannotCreate { path: PathBuf::from(&spec.path), why });
        }
        Ok(())
    }
}

/// The disk of an image, which has to hold all of it alone and be writable.
fn usable(image: Image, spec: &ImageSpec) -> Result<Arc<dyn Disk>, ImageError> {
    let geometry = image.disk.geometry();
    let path = || image.files.first().cloned().unwrap_or_else(|| PathBuf::from(&spec.path));
    if let Some(parent) = &image.parent {
        return Err(adopt::is_child(path(), parent));
    }
    if geometry.read_only {
        let what = format!("{} images are only read", image.kind);
        return Err(ImageError::unsupported(path(), what));
    }
    if geometry.size_bytes != spec.size_bytes {
        let (found_bytes, expected_bytes) = (geometry.size_bytes, spec.size_bytes);
        return Err(DiskError::WrongSize { found_bytes, expected_bytes }.into());
    }
    Ok(image.disk)
}

/// Machines are only added with known formats; a newer version may have written the manifest.
fn format_of(spec: &ImageSpec) -> Result<Format, ImageError> {
    spec.format.parse().map_err(|_| {
        let os = std::io::Error::new(
            std::io::ErrorKind::Unsupported,
            format!("images of format {:?} are not known to this version", spec.format),
        );
        ImageError::File(FileError::Os {
            path: PathBuf::from(&spec.path),
            operation: "opening the image",
            source: Arc::new(os),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::uring::{Engine, EngineSettings};
    use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};

    fn spec(path: &str) -> ImageSpec {
        let format = default_format(Some(Path::new(path))).name().to_owned();
        ImageSpec { format, path: path.to_owned(), size_bytes: 1 << 20 }
    }

    const IDENTITY: DiskIdentity = DiskIdentity::new([7; 16]);

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
                let disk = images.create(&spec(path), IDENTITY).await.expect("a new image");
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
            let held = images.create(&spec("os.raw"), IDENTITY).await.expect("a new image");
            uring::spawn(async move {
                uring::sleep(Duration::from_millis(200)).await;
                drop(held);
            });
            let begun = Instant::now();
            let held = images.open(&spec("os.raw")).await.expect("it is let go");
            assert!(begun.elapsed() >= Duration::from_millis(150));
            images.patient_until = Instant::now();
            let refused = images.open(&spec("os.raw")).await.err();
            assert!(refused.is_some_and(|error| is_locked(&error)));
            drop(held);
        });
    }

    #[test]
    fn a_disk_grows_no_larger_than_its_format_can() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::open(folder.path()).expect("the folder exists");
        let limit = 2040 << 30;
        images.check_growth(&spec("os.vhd"), limit).expect("it can");
        let refused = images.check_growth(&spec("os.vhd"), limit + 512).expect_err("too large");
        assert!(refused.to_string().contains("at most 2190433320960 bytes"), "{refused}");
        images.check_growth(&spec("os.raw"), limit + 512).expect("it can");
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("short.raw"), [0; 512]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link.raw")).unwrap();
        run(folder.path(), async move |images| {
            let missing = images.open(&spec("web/os.raw")).await.err();
            assert!(matches!(missing, Some(ImageError::File(FileError::NotFound { .. }))));
            let short = images.open(&spec("short.raw")).await.err();
            let wrong = matches!(short, Some(ImageError::Disk(DiskError::WrongSize { .. })));
            assert!(wrong, "{short:?}");
            let link = images.open(&spec("link.raw")).await.err();
            assert!(matches!(link, Some(ImageError::File(FileError::Outside { .. }))), "{link:?}");
            let format = ImageSpec { format: "qed".to_owned(), ..spec("short.raw") };
            let refused = images.open(&format).await.err().expect("no such format");
            assert!(refused.to_string().contains("qed"), "{refused}");
        });
    }
}
