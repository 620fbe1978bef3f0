//! `landfall image info`: what an image is.

use super::on_a_core;
use super::place::Source;
use crate::cli::Format;
use crate::units::ByteSize;
use landfall_disks::image::Image;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Show what an image is: format, size, identity, the images it stands on
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall image info web.vmdk
  landfall image info --json snapshot.avhdx
  landfall image info --shared running.vhdx         # while a guest writes to it")]
pub(in crate::cli) struct Info {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    format: Format,
}

/// An image and its parents.
#[derive(Serialize)]
struct Shown {
    /// The image itself, then its parent, and so on.
    chain: Vec<ShownImage>,
}

#[derive(Serialize)]
struct ShownImage {
    format: &'static str,
    kind: String,
    size_bytes: u64,
    /// Bytes that its files take on their file systems.
    used_bytes: u64,
    logical_sector_bytes: u32,
    physical_sector_bytes: u32,
    block_bytes: Option<u64>,
    identity: Option<ShownIdentity>,
    files: Vec<PathBuf>,
    details: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct ShownIdentity {
    kind: &'static str,
    value: String,
}

impl Info {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { source, format } = self;
        let shown = on_a_core(async move || {
            let image = source.open().await?;
            let chain = image.chain().map(ShownImage::of).collect::<anyhow::Result<_>>()?;
            Ok(Shown { chain })
        })?;
        format.print(&shown, Shown::text);
        Ok(())
    }
}

impl ShownImage {
    fn of(image: &Image) -> anyhow::Result<Self> {
        let geometry = image.disk.geometry();
        let mut used_bytes = 0;
        for file in &image.files {
            let stat = rustix::fs::stat(file)?;
            used_bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        Ok(Self {
            format: image.format.name(),
            kind: image.kind.clone(),
            size_bytes: geometry.size_bytes,
            used_bytes,
            logical_sector_bytes: geometry.logical_sector,
            physical_sector_bytes: geometry.physical_sector,
            block_bytes: image.block_bytes,
            identity: image.identity.as_ref().map(|identity| ShownIdentity {
                kind: identity.kind,
                value: identity.value.clone(),
            }),
            files: image.files.clone(),
            details: image.details.iter().cloned().collect(),
        })
    }

    fn text(&self, title: &str) -> String {
        let kind =
            if self.kind == self.format { String::new() } else { format!(", {}", self.kind) };
        let mut lines = vec![
            (title, format!("{}{kind}", self.format)),
            ("size", format!("{} ({} bytes)", ByteSize::new(self.size_bytes), self.size_bytes)),
            ("on disk", ByteSize::new(self.used_bytes).to_string()),
            ("sectors", format!("{} / {}", self.logical_sector_bytes, self.physical_sector_bytes)),
        ];
        if let Some(bytes) = self.block_bytes {
            lines.push(("block", ByteSize::new(bytes).to_string()));
        }
        if let Some(identity) = &self.identity {
            lines.push((identity.kind, identity.value.clone()));
        }
        lines.extend(self.details.iter().map(|(name, value)| (*name, value.clone())));
        let mut title = "files";
        for file in &self.files {
            lines.push((title, file.display().to_string()));
            title = "";
        }
        let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
    }
}

impl Shown {
    fn text(&self) -> String {
        let mut text = String::new();
        for (depth, image) in self.chain.iter().enumerate() {
            if depth > 0 {
                text.push('\n');
            }
            text.push_str(&image.text(if depth == 0 { "format" } else { "parent" }));
        }
        text
    }
}
