//! `landfall image create`: a new image.

use super::on_a_core;
use super::place::{explain, locate};
use crate::cli::say;
use crate::units::ByteSize;
use anyhow::{Context, ensure};
use clap::ValueEnum;
use landfall_disks::image::{Access, BesideTheImage, Format, Opener, Parent, Wishes, create};
use landfall_disks::vmdk;
use std::path::{Path, PathBuf};

/// Make an image of zeroes, or one that stands on another
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall image create web.vhdx --size 40GiB
  landfall image create web.vmdk --size 40GiB --kind vmfs --adapter pvscsi
  landfall image create data.vhdx --size 10TiB --block-size 256MiB --sector 4096
  landfall image create test.avhdx --format vhdx --parent web.vhdx")]
pub(in crate::cli) struct Create {
    /// The new image; its extension tells the format unless --format does
    file: PathBuf,
    /// Size of the disk [default: that of the parent]
    #[arg(long, required_unless_present = "parent")]
    size: Option<ByteSize>,
    #[command(flatten)]
    shape: Shape,
    /// Image that holds what this one does not: VMDK and VHDX, in the same folder or below it
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
}

/// What an image shall be like.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Shape {
    /// Format: raw, vmdk, vhdx or vhd
    #[arg(long)]
    format: Option<Format>,
    /// Kind of the format
    ///
    /// vmdk: monolithicSparse (default), monolithicFlat, vmfs, twoGbMaxExtentSparse, twoGbMaxExtentFlat, streamOptimized (convert
    /// only). vhdx and vhd: dynamic (default), fixed.
    #[arg(long)]
    kind: Option<String>,
    /// Unit in which it takes space: VHDX 1MiB to 256MiB, VHD
    #[arg(long, value_name = "SIZE")]
    block_size: Option<ByteSize>,
    /// Sectors of the guest: 512 or, for VHDX, 4096
    #[arg(long, value_name = "BYTES")]
    sector: Option<u32>,
    /// Sectors of the medium as the guest is told: 512 or 4096, VHDX
    #[arg(long, value_name = "BYTES")]
    physical_sector: Option<u32>,
    /// Controller, VMDK
    #[arg(long, value_enum)]
    adapter: Option<Adapter>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Adapter {
    /// LSI Logic, parallel or SAS
    Lsilogic,
    /// VMware's own
    Pvscsi,
    /// IDE
    Ide,
}

impl Shape {
    /// The wishes for a disk of `size_bytes` in `file`.
    pub(super) fn wishes(&self, file: &Path, size_bytes: u64) -> anyhow::Result<Wishes> {
        let format = match self.format {
            Some(format) => format,
            None => by_extension(file).with_context(|| {
                format!("{}: the name tells no format: say --format", file.display())
            })?,
        };
        Ok(Wishes {
            kind: self.kind.clone(),
            block_bytes: self.block_size.map(ByteSize::bytes),
            logical_sector: self.sector,
            physical_sector: self.physical_sector,
            adapter: self.adapter.map(|adapter| match adapter {
                Adapter::Lsilogic => vmdk::Adapter::LsiLogic,
                Adapter::Pvscsi => vmdk::Adapter::PvScsi,
                Adapter::Ide => vmdk::Adapter::Ide,
            }),
            ..Wishes::new(format, size_bytes)
        })
    }
}

/// The format that a name promises.
pub(super) fn by_extension(file: &Path) -> Option<Format> {
    match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "raw" | "img" => Some(Format::Raw),
        "vmdk" => Some(Format::Vmdk),
        "vhdx" | "avhdx" => Some(Format::Vhdx),
        "vhd" | "avhd" | "vpc" => Some(Format::Vhd),
        _ => None,
    }
}

impl Create {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let made = on_a_core(async move || {
            let location = locate(&self.file)?;
            let parent = self.parent.as_deref().map(|path| beside(&self.file, path)).transpose()?;
            let size_bytes = match (self.size, &parent) {
                (Some(size), _) => size.bytes(),
                (None, Some(parent)) => {
                    let mut opener = Opener::new(&BesideTheImage);
                    let opened = opener.open(&parent.location, None, Access::Read).await;
                    opened.map_err(explain)?.disk.geometry().size_bytes
                }
                (None, None) => anyhow::bail!("a new disk needs a size: --size 40GiB"),
            };
            let wishes = self.shape.wishes(&self.file, size_bytes)?;
            ensure!(
                !wishes.is_export(),
                "a streamOptimized image is written in one go: use landfall image convert"
            );
            create(&location, &wishes, parent.as_ref(), &BesideTheImage).await.map_err(explain)?;
            Ok(format!(
                "{} created: {}, {}",
                self.file.display(),
                wishes.format,
                ByteSize::new(size_bytes)
            ))
        })?;
        say(&made);
        Ok(())
    }
}

/// The parent, and its name as seen from the folder of `file`.
fn beside(file: &Path, parent: &Path) -> anyhow::Result<Parent> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let found = parent.canonicalize().with_context(|| parent.display().to_string())?;
    let inside = found.strip_prefix(&folder).ok().and_then(Path::to_str);
    let name = inside
        .with_context(|| format!("{} is not in or below {}", parent.display(), folder.display()))?;
    Ok(Parent { location: locate(parent)?, name: name.to_owned() })
}
