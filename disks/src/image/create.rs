//! Making an image of any format: one set of wishes, of which each format takes what it knows and refuses the rest.

use super::Access;
use super::copy::{copy, share};
use super::error::ImageError;
use super::format::Format;
use super::gate::{Gate, Location};
use super::open::Opener;
use crate::disk::Disk;
use crate::vhd::format::{Timestamp, UniqueId};
use crate::vhdx::Guid;
use crate::vmdk::{Adapter, DiskUuid, ParentLink};
use crate::{raw, vhd, vhdx, vmdk};
use std::time::SystemTime;

/// What a new image shall be. What is `None` is as the format's own tools have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wishes {
    /// Which format.
    pub format: Format,
    /// Which kind of it, in the words of its tools: `vmfs`, `fixed`.
    pub kind: Option<String>,
    /// Size of the disk, in bytes.
    pub size_bytes: u64,
    /// Bytes of the units in which it takes space.
    pub block_bytes: Option<u64>,
    /// Bytes of the guest's sectors.
    pub logical_sector: Option<u32>,
    /// Bytes of the medium's sectors, as the guest is told.
    pub physical_sector: Option<u32>,
    /// Identity of the disk, which guests may see. A new one otherwise.
    pub disk_id: Option<[u8; 16]>,
    /// The controller a VMDK is made for.
    pub adapter: Option<Adapter>,
    /// Whether blocks of a source may become blocks of the image, too, where both are plain files and the file system can do
    /// that. It takes no time and no space, and zeroes that take space in the source do in the image.
    pub share: bool,
}

/// How an image got its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// It was written.
    Written,
    /// It has the blocks of its source until one of the two is written.
    Shared,
}

/// What a new image stands on.
#[derive(Clone)]
pub struct Parent {
    /// Where it is now.
    pub location: Location,
    /// Its name, as the new image is to have it: relative to its own folder.
    pub name: String,
}

impl Wishes {
    /// A disk of `size_bytes`, otherwise as the format's tools make it.
    pub fn new(format: Format, size_bytes: u64) -> Self {
        Self {
            format,
            kind: None,
            size_bytes,
            block_bytes: None,
            logical_sector: None,
            physical_sector: None,
            disk_id: None,
            adapter: None,
            share: true,
        }
    }

    /// Whether the kind can only be written from front to end, when it is made.
    pub fn is_export(&self) -> bool {
        self.format == Format::Vmdk && self.kind.as_deref() == Some("streamOptimized")
    }
}

/// Makes an image, durably. It is all zeroes, or all its parent's; the parent is opened through `gate`.
pub async fn create(
    location: &Location,
    wishes: &Wishes,
    parent: Option<&Parent>,
    gate: &dyn Gate,
) -> Result<(), ImageError> {
    let refuse = |why: String| Err(ImageError::cannot_create(location.display(), why));
    if let Some(wish) = wishes.impossible() {
        return refuse(format!("{} images {wish}", wishes.format));
    }
    match (wishes.format, parent) {
        (Format::Raw, None) => raw(location, wishes).await,
        (Format::Vhd, None) => vhd(location, wishes).await,
        (Format::Vhdx, parent) => vhdx(location, wishes, parent).await,
        (Format::Vmdk, parent) => {
            let recipe = vmdk_recipe(location, wishes)?;
            let parent = match parent {
                Some(parent) => Some(vmdk_parent(location, parent, gate).await?),
                None => None,
            };
            vmdk::create(location, &vmdk::Recipe { parent, ..recipe }).await
        }
        (format @ (Format::Raw | Format::Vhd), Some(_)) => {
            refuse(format!("{format} images with a parent are not made"))
        }
    }
}

/// Makes an image with the content of `source`, durably, and opens it no more. `progress` is told how many bytes are done.
pub async fn create_from(
    source: &dyn Disk,
    location: &Location,
    wishes: &Wishes,
    gate: &dyn Gate,
    progress: &dyn Fn(u64),
) -> Result<Filled, ImageError> {
    if wishes.is_export() {
        let recipe = vmdk_recipe(location, wishes)?;
        let level = vmdk::format::stream::Level::DEFAULT;
        let mut before = 0;
        // An export tells how far it is; here it is told how much was done since.
        let tell = |done: u64| progress(done - std::mem::replace(&mut before, done));
        vmdk::export(source, location, &recipe, level, tell).await?;
        return Ok(Filled::Written);
    }
    create(location, wishes, None, gate).await?;
    let mut opener = Opener::new(gate);
    let target = opener.open(location, Some(wishes.format), Access::Write).await?;
    if wishes.share && share(source, &*target.disk).await? {
        progress(source.geometry().size_bytes);
        return Ok(Filled::Shared);
    }
    copy(source, &*target.disk, progress).await?;
    Ok(Filled::Written)
}

impl Wishes {
    /// What the format cannot be wished for.
    fn impossible(&self) -> Option<&'static str> {
        let sectors = self.logical_sector.is_some() || self.physical_sector.is_some();
        match self.format {
            Format::Raw if self.block_bytes.is_some() => Some("have no blocks"),
            Format::Vmdk if self.block_bytes.is_some() => Some("have grains of 64 KiB"),
            Format::Raw if sectors => Some("do not tell their sectors: say them when it is opened"),
            Format::Vmdk | Format::Vhd if self.logical_sector.is_some_and(|bytes| bytes != 512) => {
                Some("have sectors of 512 bytes")
            }
            Format::Raw | Format::Vhd | Format::Vhdx if self.adapter.is_some() => {
                Some("name no adapter")
            }
            _ => None,
        }
    }

    /// The kind that is wished for, or the first of those there are.
    fn kind_of(&self, location: &Location, kinds: &[&str]) -> Result<usize, ImageError> {
        let Some(wish) = &self.kind else { return Ok(0) };
        kinds.iter().position(|kind| *kind == wish).ok_or_else(|| {
            let kinds = kinds.join(", ");
            let why =
                format!("{wish:?} is no kind of {} that is made; there are {kinds}", self.format);
            ImageError::cannot_create(location.display(), why)
        })
    }

    fn block_bytes(&self, location: &Location, usual: u32) -> Result<u32, ImageError> {
        let Some(bytes) = self.block_bytes else { return Ok(usual) };
        u32::try_from(bytes).map_err(|_| {
            ImageError::cannot_create(location.display(), format!("blocks of {bytes} bytes"))
        })
    }
}

async fn raw(location: &Location, wishes: &Wishes) -> Result<(), ImageError> {
    wishes.kind_of(location, &["raw"])?;
    raw::RawDisk::create(&*location.folder, &location.path, wishes.size_bytes).await?;
    Ok(())
}

async fn vhd(location: &Location, wishes: &Wishes) -> Result<(), ImageError> {
    let kind = match wishes.kind_of(location, &["dynamic", "fixed"])? {
        0 => {
            let block_bytes = wishes.block_bytes(location, vhd::format::DEFAULT_BLOCK_BYTES)?;
            vhd::NewKind::Dynamic { block_bytes }
        }
        _ => vhd::NewKind::Fixed,
    };
    let recipe = vhd::Recipe {
        kind,
        size_bytes: wishes.size_bytes,
        unique_id: UniqueId(wishes.disk_id.unwrap_or_else(random)),
        timestamp: Timestamp::of(SystemTime::now()),
    };
    vhd::create(location, &recipe).await
}

async fn vhdx(
    location: &Location,
    wishes: &Wishes,
    parent: Option<&Parent>,
) -> Result<(), ImageError> {
    let size = wishes.size_bytes;
    let mut options = match parent {
        None if wishes.kind_of(location, &["dynamic", "fixed"])? == 0 => {
            vhdx::CreateOptions::dynamic(size)
        }
        None => vhdx::CreateOptions::fixed(size),
        Some(parent) => {
            wishes.kind_of(location, &["differencing"])?;
            let name = format!(".\\{}", parent.name.replace('/', "\\"));
            let of = vhdx::info(&parent.location).await?;
            vhdx::CreateOptions { disk_bytes: size, ..vhdx::CreateOptions::child_of(&of, &name) }
        }
    };
    options.block_bytes = wishes.block_bytes(location, options.block_bytes)?;
    options.logical_sector = wishes.logical_sector.unwrap_or(options.logical_sector);
    options.physical_sector = wishes.physical_sector.unwrap_or(options.physical_sector);
    options.disk_id = wishes.disk_id.map(Guid::from_random).or(options.disk_id);
    let guids = vhdx::kernel_guids();
    vhdx::create(&*location.folder, &location.path, &options, &guids).await
}

fn vmdk_recipe(location: &Location, wishes: &Wishes) -> Result<vmdk::Recipe, ImageError> {
    use vmdk::format::descriptor::CreateType;
    let kinds = [
        CreateType::MonolithicSparse,
        CreateType::MonolithicFlat,
        CreateType::Vmfs,
        CreateType::TwoGbMaxExtentSparse,
        CreateType::TwoGbMaxExtentFlat,
        CreateType::StreamOptimized,
    ];
    let names = kinds.each_ref().map(CreateType::name);
    let kind = wishes.kind_of(location, &names)?;
    let [chosen, ..] = &kinds[kind..] else { unreachable!("it was found among them") };
    Ok(vmdk::Recipe {
        adapter: wishes.adapter.unwrap_or_default(),
        uuid: wishes.disk_id.map(DiskUuid::from_seed),
        ..vmdk::Recipe::new(chosen.clone(), wishes.size_bytes)
    })
}

/// The parent as a child names it: its CID is that of its content as it is now.
async fn vmdk_parent(
    location: &Location,
    parent: &Parent,
    gate: &dyn Gate,
) -> Result<ParentLink, ImageError> {
    let image = Opener::new(gate).open(&parent.location, Some(Format::Vmdk), Access::Read).await?;
    let Some(identity) = image.identity else {
        let why = format!("{} has no CID", parent.location.display().display());
        return Err(ImageError::cannot_create(location.display(), why));
    };
    Ok(ParentLink { hint: parent.name.clone(), cid: identity.value })
}

/// Random bytes of the kernel.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(bytes.len()), "the kernel gives so few random bytes at once");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Durability;
    use crate::faults::{FaultFolder, Seed, run};
    use crate::image::BesideTheImage;
    use crate::{Buffer, ByteOffset};
    use std::cell::Cell;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    const SIZE: u64 = 8 << 20;

    #[test]
    fn an_image_made_of_another_is_equal_and_progress_ends_at_its_size() {
        let mut seed = Seed::new(5);
        let folder = FaultFolder::new(seed.fork());
        run(&mut seed, |_| async {
            let source = raw::RawDisk::create(&folder, Path::new("source"), SIZE).await;
            let source = source.expect("created");
            for at in [0, 3 << 20, SIZE - 512] {
                let data = Buffer::copy_of(&[7; 512]);
                let written = source.write(ByteOffset::new(at), data, Durability::Cached).await;
                written.expect("written");
            }
            let expected = source.read(source.geometry().whole()).await.expect("read");
            for (format, kind) in [
                (Format::Raw, "raw"),
                (Format::Vhdx, "dynamic"),
                (Format::Vhdx, "fixed"),
                (Format::Vhd, "dynamic"),
                (Format::Vhd, "fixed"),
                (Format::Vmdk, "monolithicSparse"),
                (Format::Vmdk, "vmfs"),
                (Format::Vmdk, "streamOptimized"),
            ] {
                let path = PathBuf::from(format!("{kind}.{format}"));
                let location = Location { folder: Arc::new(folder.clone()), path };
                let wishes = Wishes { kind: Some(kind.to_owned()), ..Wishes::new(format, SIZE) };
                let done = Cell::new(0);
                let tell = |bytes| done.set(done.get() + bytes);
                let made = create_from(&source, &location, &wishes, &BesideTheImage, &tell).await;
                made.expect("made");
                assert_eq!(done.get(), SIZE, "{format} {kind}");
                let mut opener = Opener::new(&BesideTheImage);
                let image = opener.open(&location, None, Access::Read).await.expect("opened");
                let found = image.disk.read(image.disk.geometry().whole()).await.expect("read");
                assert!(*found == *expected, "{format} {kind}");
            }
        });
    }

    #[test]
    fn wishes_that_a_format_has_not_are_refused() {
        let mut seed = Seed::new(6);
        let folder = FaultFolder::new(seed.fork());
        run(&mut seed, |_| async {
            let plain = |format| Wishes::new(format, SIZE);
            for (wishes, said) in [
                (Wishes { block_bytes: Some(4096), ..plain(Format::Raw) }, "no blocks"),
                (Wishes { logical_sector: Some(4096), ..plain(Format::Vmdk) }, "512"),
                (Wishes { kind: Some("thin".into()), ..plain(Format::Vhdx) }, "dynamic, fixed"),
                (Wishes { adapter: Some(Adapter::Ide), ..plain(Format::Vhd) }, "adapter"),
            ] {
                let location =
                    Location { folder: Arc::new(folder.clone()), path: PathBuf::from("new") };
                let refused = create(&location, &wishes, None, &BesideTheImage).await;
                let refused = refused.expect_err(said).to_string();
                assert!(refused.contains(said), "{refused}");
            }
            assert!(folder.files().is_empty());
        });
    }
}
