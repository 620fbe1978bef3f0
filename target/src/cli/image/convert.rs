//! `landfall image convert`: the content of one image in another format.
//!
//! ```text
//!   source ─▶ NAME.partial/ (descriptor and extents) ─▶ durable ─▶ renamed, the descriptor last ─▶ NAME
//! ```
//!
//! Runs on the I/O engine, which knows formats.
//!
//! **Invariant:** an image under its final name is complete and durable; what was there is replaced only with `--force`, and only
//! once the new one is complete.

use super::create::Shape;
use super::place::{Source, explain, locate};
use super::run_until_signal;
use crate::cli::progress::Progress;
use crate::cli::restore::partial::Partial;
use crate::cli::say;
use crate::units::ByteSize;
use anyhow::ensure;
use landfall_disks::image::{BesideTheImage, Filled, Format, Wishes, create_from};
use std::path::PathBuf;
use std::time::Instant;

/// Write the content of an image into a new one of any format
///
/// What is zeroes takes no space in the new image. Parents of the source are read through, so the new image stands alone.
/// It has its name when it is complete and durable.
///
/// A raw file made of a raw file shares its blocks where the file system can do that (xfs, btrfs): it is made at once and takes
/// space only for what is written later, to either of them. Zeroes that take space in the source are shared with the rest.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall image convert web.vmdk web.vhdx
  landfall image convert web.vhdx web.vmdk --kind vmfs --adapter pvscsi      # what ESXi boots
  landfall image convert web.raw web-disk1.vmdk --kind streamOptimized       # for an OVA
  landfall image convert snapshot.avhdx whole.raw")]
pub(in crate::cli) struct Convert {
    #[command(flatten)]
    source: Source,
    /// The new image; its extension tells the format unless --format does
    destination: PathBuf,
    #[command(flatten)]
    shape: Shape,
    /// Write blocks of its own, without zeroes, also where they could be shared with the source
    #[arg(long)]
    no_share: bool,
    /// Replace an image that exists
    #[arg(long)]
    force: bool,
}

/// What was made.
struct Made {
    size_bytes: u64,
    format: Format,
    filled: Filled,
}

impl Convert {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let partial = Partial::create(&self.destination)?;
        let written = self.write(partial.main());
        match written.and_then(|made| partial.check(self.force).map(|()| made)) {
            Ok(Made { size_bytes, format, filled }) => {
                let used_bytes = partial.allocated_bytes()?;
                partial.finish(self.force)?;
                let whose = match filled {
                    Filled::Written => String::new(),
                    Filled::Shared => format!(" shared with {}", self.source.path().display()),
                };
                say(&format!(
                    "{} written: {format}, {}, {} on disk{whose}, {:.1} s",
                    self.destination.display(),
                    ByteSize::new(size_bytes),
                    ByteSize::new(used_bytes),
                    begun.elapsed().as_secs_f64()
                ));
                Ok(())
            }
            Err(error) => {
                partial.discard();
                Err(error)
            }
        }
    }

    /// Writes the new image to `path`.
    fn write(&self, path: PathBuf) -> anyhow::Result<Made> {
        ensure!(
            self.force || !self.destination.exists(),
            "{} exists already; --force replaces it",
            self.destination.display()
        );
        let (source, shape, share) = (self.source.clone(), self.shape.clone(), !self.no_share);
        run_until_signal(async move || {
            let image = source.open().await?;
            let size_bytes = image.disk.geometry().size_bytes;
            let wishes = Wishes { share, ..shape.wishes(&path, size_bytes)? };
            let progress = Progress::new(&source.path().display().to_string(), size_bytes);
            let location = locate(&path)?;
            let add = |bytes| progress.add(bytes);
            let made = create_from(&*image.disk, &location, &wishes, &BesideTheImage, &add).await;
            progress.clear();
            let filled = made.map_err(explain)?;
            Ok(Made { size_bytes, format: wishes.format, filled })
        })
    }
}
