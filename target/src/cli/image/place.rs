//! Where an image is, and how it is to be opened.

use anyhow::{Context, bail};
use landfall_disks::image::{
    Access, BesideTheImage, Format, Gate, Image, ImageError, Location, Opener, Purpose,
};
use landfall_disks::uring::Directory;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file and its format.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Source {
    /// The image: for a VMDK in several files its descriptor
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

/// How images are opened.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct How {
    /// What the file is taken for: raw, vmdk, vhdx or vhd [default: what it seems to be]
    ///
    /// A guest can write the signature of another format into a raw image: say raw for one whose guest you do not trust.
    // An id of its own: that of `--format` is the name of its field, and clap would take one for the other.
    #[arg(id = "source_format", long = "source-format", value_name = "FORMAT")]
    format: Option<Format>,
    /// Folder in which extents and parents may be, besides that of the image; may be given again
    #[arg(long = "allow", value_name = "DIR")]
    allowed: Vec<PathBuf>,
    /// Read although another process may write: what is read may not fit together
    #[arg(long)]
    shared: bool,
    /// Sectors of the guest, for a raw image: 512 or 4096
    #[arg(
        long = "raw-sector",
        value_name = "BYTES",
        default_value_t = 512,
        hide_default_value = true
    )]
    raw_sector: u32,
}

impl Source {
    /// The path as it was given.
    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// How it is read.
    pub(super) fn reading(&self) -> Access {
        if self.how.shared { Access::ReadShared } else { Access::Read }
    }

    /// Whether others may write to it meanwhile.
    pub(super) fn is_shared(&self) -> bool {
        self.how.shared
    }

    /// Opens the image for reading. Called on an I/O core.
    pub(super) async fn open(&self) -> anyhow::Result<Image> {
        self.open_for(self.reading()).await
    }

    /// Opens the image. Called on an I/O core.
    pub(super) async fn open_for(&self, access: Access) -> anyhow::Result<Image> {
        let location = locate(&self.file)?;
        let gate = self.how.gate()?;
        let mut opener = self.how.opener(&*gate);
        let opened = opener.open(&location, self.how.format, access).await;
        opened.map_err(explain).with_context(|| self.file.display().to_string())
    }

    /// The location and the gate, for a check.
    pub(super) fn parts(&self) -> anyhow::Result<(Location, Box<dyn Gate>, How)> {
        Ok((locate(&self.file)?, self.how.gate()?, self.how.clone()))
    }
}

impl How {
    fn gate(&self) -> anyhow::Result<Box<dyn Gate>> {
        if self.allowed.is_empty() {
            return Ok(Box::new(BesideTheImage));
        }
        let open = |path: &PathBuf| {
            let path = path.canonicalize().with_context(|| path.display().to_string())?;
            let folder: Arc<dyn landfall_disks::file::Folder> = Arc::new(Directory::open(&path)?);
            anyhow::Ok(Allowed { path, folder })
        };
        let folders = self.allowed.iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Box::new(AlsoAllowed { folders }))
    }

    pub(super) fn opener<'a>(&self, gate: &'a dyn Gate) -> Opener<'a> {
        Opener::new(gate).raw_sector(self.raw_sector)
    }

    pub(super) fn format(&self) -> Option<Format> {
        self.format
    }
}

/// The folder and name of a file that may not exist yet.
pub(super) fn locate(path: &Path) -> anyhow::Result<Location> {
    let Some(name) = path.file_name() else {
        bail!("{} names no file", path.display());
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = Directory::open(parent).with_context(|| parent.display().to_string())?;
    Ok(Location { folder: Arc::new(folder), path: name.into() })
}

struct Allowed {
    path: PathBuf,
    folder: Arc<dyn landfall_disks::file::Folder>,
}

/// The default gate, and after it the folders that were named on the command line.
struct AlsoAllowed {
    folders: Vec<Allowed>,
}

impl Gate for AlsoAllowed {
    fn admit(
        &self,
        from: &Location,
        reference: &str,
        purpose: Purpose,
    ) -> Result<Vec<Location>, ImageError> {
        let beside = BesideTheImage.admit(from, reference, purpose);
        let mut places = beside.as_ref().map_or_else(|_| Vec::new(), Clone::clone);
        for allowed in &self.folders {
            let path = Path::new(reference);
            let inside = path.strip_prefix(&allowed.path).ok().map(Path::to_owned);
            let name = || reference.rsplit(['/', '\\']).next().map(PathBuf::from);
            if let Some(path) = inside.or_else(name)
                && path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
                && path.components().next().is_some()
            {
                places.push(Location { folder: Arc::clone(&allowed.folder), path });
            }
        }
        if places.is_empty() { beside } else { Ok(places) }
    }
}

/// What to do about an error that has a remedy on this command line.
pub(super) fn explain(error: ImageError) -> anyhow::Error {
    let hint = match &error {
        ImageError::File(landfall_disks::file::FileError::Locked { .. }) => {
            "somebody has it open for writing; --shared reads it all the same"
        }
        ImageError::Refused { .. } | ImageError::Missing { .. } => {
            "--allow DIR lets it be looked for in another folder"
        }
        _ => return error.into(),
    };
    anyhow::anyhow!("{error} ({hint})")
}
