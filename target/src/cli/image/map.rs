//! `landfall image map`: what an image has where.

use super::on_a_core;
use super::place::Source;
use crate::cli::Format;
use crate::cli::table::Table;
use landfall_disks::image::Image;
use landfall_disks::mapped::OwnRange;
use landfall_disks::{ByteRange, Content, Disk, MappedRange};
use serde::Serialize;

/// Show which stretches of the disk hold data, zeroes or nothing
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall image map web.vmdk
  landfall image map --own snapshot.avhdx --json    # only what the snapshot itself changes")]
pub(in crate::cli) struct Map {
    #[command(flatten)]
    source: Source,
    /// Only what the image itself holds, not what it reads from its parents
    #[arg(long)]
    own: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Shown {
    ranges: Vec<ShownRange>,
}

#[derive(Clone, Serialize)]
struct ShownRange {
    offset: u64,
    length: u64,
    content: &'static str,
}

impl Map {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { source, own, format } = self;
        let shown = on_a_core(async move || {
            let image = source.open().await?;
            let ranges = if own { own_ranges(&image).await? } else { ranges(&*image.disk).await? };
            Ok(Shown { ranges })
        })?;
        format.print(&shown, Shown::text);
        Ok(())
    }
}

impl Shown {
    fn text(&self) -> String {
        let mut table = Table::new(&[">OFFSET", ">LENGTH", "CONTENT"]);
        for range in &self.ranges {
            table.row(vec![
                range.offset.to_string(),
                range.length.to_string(),
                range.content.to_owned(),
            ]);
        }
        table.text()
    }
}

async fn ranges(disk: &dyn Disk) -> anyhow::Result<Vec<ShownRange>> {
    let mut found = Vec::new();
    let mut rest = disk.geometry().whole();
    while !rest.is_empty() {
        for MappedRange { range, content } in disk.map(rest).await? {
            push(&mut found, range, name(content));
            rest = rest.split_at(range.end()).1;
        }
    }
    Ok(found)
}

async fn own_ranges(image: &Image) -> anyhow::Result<Vec<ShownRange>> {
    let mut found = Vec::new();
    let mut rest = image.disk.geometry().whole();
    while !rest.is_empty() {
        for OwnRange { range, content } in image.disk.own(rest).await? {
            if let Some(content) = content {
                push(&mut found, range, name(content));
            }
            rest = rest.split_at(range.end()).1;
        }
    }
    Ok(found)
}

/// Adds a range, joined with the last one where it goes on from it.
fn push(found: &mut Vec<ShownRange>, range: ByteRange, content: &'static str) {
    if let Some(last) = found.last_mut()
        && last.content == content
        && last.offset + last.length == range.start().bytes()
    {
        last.length += range.length();
        return;
    }
    found.push(ShownRange { offset: range.start().bytes(), length: range.length(), content });
}

fn name(content: Content) -> &'static str {
    match content {
        Content::Data => "data",
        Content::Zero => "zero",
        Content::Hole => "hole",
    }
}
