//! A disk of the target into an image of a format.
//!
//! ```text
//!   NBD ─▶ RemoteDisk ─▶ copy or export, on an I/O core ─▶ OUTPUT.partial/ ─sync, rename─▶ OUTPUT and its extents
//! ```
//!
//! The files come to be in a folder of their own, under the names they are going to have: a descriptor names its extents.

use super::link::{Link, Server};
use super::partial::Partial;
use super::remote::RemoteDisk;
use crate::cli::progress::Progress;
use crate::http::messages::MomentDisk;
use crate::images::create::{Kind, wishes};
use anyhow::Context;
use landfall_disks::Disk;
use landfall_disks::image::{self, BesideTheImage, Format, ImageError, Location};
use landfall_disks::uring::{Directory, Engine, EngineSettings};
use landfall_protocols::nbd::client::Client;
use landfall_retention::ids::DiskIdentity;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub(super) format: Format,
    pub(super) kind: Kind,
}

/// Writes a disk to an image that is to be `path`; how many bytes its files take.
pub(super) async fn run(
    server: &Server,
    disk: &MomentDisk,
    partial: &Partial,
    wanted: &Wanted,
    progress: &Progress,
) -> anyhow::Result<u64> {
    let identity = disk.identity.parse().context("the identity of the disk")?;
    let link = Link::open(server, disk).await?;
    // Dropped when this ends, however that is: what still ran on it has ended then.
    let engine = Engine::start(EngineSettings { cores: 1, ..EngineSettings::default() })?;
    let done = Arc::new(AtomicU64::new(0));
    let work = Work {
        client: link.client().clone(),
        path: partial.main(),
        wanted: wanted.clone(),
        identity,
        done: Arc::clone(&done),
    };
    let mut written = std::pin::pin!(engine.cores()[0].run(move || work.run()));
    let mut shown = 0;
    loop {
        tokio::select! {
            written = &mut written => {
                written??;
                break;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                let now = done.load(Ordering::Relaxed);
                progress.add(now - shown);
                shown = now;
            }
        }
    }
    link.close().await?;
    partial.allocated_bytes()
}

/// What runs on the core.
struct Work {
    client: Client,
    path: PathBuf,
    wanted: Wanted,
    identity: DiskIdentity,
    /// Bytes of the disk that are done.
    done: Arc<AtomicU64>,
}

impl Work {
    async fn run(self) -> Result<(), ImageError> {
        let source = RemoteDisk::new(self.client);
        let location = locate(&self.path)?;
        let size_bytes = source.geometry().size_bytes;
        let Wanted { format, kind } = &self.wanted;
        let wishes = wishes(*format, kind, size_bytes, self.identity);
        let progress = |bytes| {
            self.done.fetch_add(bytes, Ordering::Relaxed);
        };
        image::create_from(&source, &location, &wishes, &BesideTheImage, &progress).await?;
        Ok(())
    }
}

fn locate(path: &Path) -> Result<Location, ImageError> {
    let folder = path.parent().expect("in the folder of what is not complete");
    let name = path.file_name().expect("a file");
    Ok(Location { folder: Arc::new(Directory::open(folder)?), path: name.into() })
}
