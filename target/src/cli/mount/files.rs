//! Which files there are of a disk, and what is in them.

use super::super::restore::link::{Server, connect as open};
use super::super::restore::remote::RemoteDisk;
use crate::http::messages::MomentDisk;
use anyhow::Context;
use landfall_disks::image::Format;
use landfall_disks::partitions::{self, Partition, Scheme};
use landfall_disks::synthetic::{Layout, Recipe, SyntheticImage};
use landfall_disks::{Disk, Window};
use landfall_retention::ids::DiskIdentity;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

/// A file.
pub(super) struct File {
    /// Its name.
    pub(super) name: String,
    /// Its length.
    pub(super) size_bytes: u64,
    /// What is in it.
    pub(super) content: Arc<dyn Disk>,
    /// What else there is to say of it.
    pub(super) note: String,
}

impl File {
    fn new(name: String, content: Arc<dyn Disk>, note: String) -> Self {
        Self { name, size_bytes: content.geometry().size_bytes, content, note }
    }
}

/// Opens a disk. Its connection runs on this thread for as long as the disk is there; `lost` is told why it ended before.
pub(super) async fn connect(
    server: &Server,
    disk: &MomentDisk,
    lost: UnboundedSender<String>,
) -> anyhow::Result<(Arc<dyn Disk>, JoinHandle<()>)> {
    let (client, moving) = open(server, disk).await?;
    let name = disk.name.clone();
    let connection = tokio::task::spawn_local(async move {
        if let Err(error) = moving.await {
            // Nobody listens any more when all of it ends.
            let _ = lost.send(format!("disk {name}: {error}"));
        }
    });
    Ok((Arc::new(RemoteDisk::new(client)), connection))
}

/// The files of a disk; `format` is that of the image beside the raw one, if it is not to be the machine's.
pub(super) async fn of_disk(
    disk: &MomentDisk,
    content: Arc<dyn Disk>,
    format: Option<Format>,
    time: SystemTime,
) -> anyhow::Result<Vec<File>> {
    let raw_name = format!("{}.raw", disk.name);
    let mut files = vec![File::new(raw_name.clone(), Arc::clone(&content), String::new())];
    // An older target does not say which format the machine's image has.
    let own = disk.format.parse().unwrap_or(Format::Raw);
    let format = format.unwrap_or(own);
    if format != Format::Raw {
        let recipe = Recipe {
            format,
            size_bytes: disk.size_bytes,
            file_name: format!("{}.{format}", disk.name),
            raw_name,
            disk_id: disk.identity.parse::<DiskIdentity>().context("the disk's identity")?.bytes(),
            content_id: content_id(disk),
            time,
        };
        let layout = Layout::of(&recipe)?;
        let image = SyntheticImage::new(layout, Arc::clone(&content));
        files.push(File::new(recipe.file_name, Arc::new(image), String::new()));
    }
    match partitions::find(&*content).await {
        Ok(found) => {
            if found.scheme == Scheme::BadGpt {
                tracing::warn!(disk = disk.name, "no partitions: neither copy of its GPT is sound");
            } else if found.left_out > 0 {
                let left_out = found.left_out;
                tracing::warn!(
                    disk = disk.name,
                    left_out,
                    "partitions that are not all on the disk"
                );
            }
            for Partition { number, range, name } in found.partitions {
                let part = Arc::new(Window::new(Arc::clone(&content), range));
                let name = name.unwrap_or_default();
                files.push(File::new(format!("{}.p{number}", disk.name), part, name));
            }
        }
        Err(error) => tracing::warn!(disk = disk.name, %error, "its partitions cannot be read"),
    }
    Ok(files)
}

/// What tells the content from that of any other moment and disk.
fn content_id(disk: &MomentDisk) -> [u8; 16] {
    let hash = blake3::hash(format!("{} {}", disk.identity, disk.nbd_name).as_bytes());
    *hash.as_bytes().first_chunk().expect("it has 32 bytes")
}
