//! Landfall's store on xfs: the changes come in as a stream's, and a point is a mark.
//!
//! Stream, lane and index run in this process, as the file of the others is written by this process; points are opened
//! from the daemon.

use super::load::{Done, Load, Next, Pace};
use crate::history::{MACHINE, Shape, Store, add_machine, data, disk_name, open_stream};
use crate::image::Image;
use crate::target::Target;
use anyhow::Context;
use futures_util::future::try_join_all;
use landfall_disks::{ByteOffset, ByteRange};
use landfall_retention::StreamExtent;
use landfall_retention::point::PointKind;
use landfall_retention::time::Timestamp;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Changes of a batch, of which several make a group.
const BATCH_CHANGES: usize = 64;
const MIB: u64 = 1 << 20;

/// The store.
pub(super) struct Ours {
    folder: PathBuf,
    shape: Shape,
}

impl Ours {
    /// Makes a machine with a first copy of `image`.
    pub(super) fn make(folder: &Path, image: &Image) -> anyhow::Result<Self> {
        let folder = folder.join("landfall");
        std::fs::create_dir_all(folder.join("data"))?;
        let shape = Shape {
            entries: 0,
            points: 0,
            disks: 1,
            disk_bytes: image.size_bytes(),
            body_every: 1,
        };
        let store = Store::open(&folder.join("data"))?;
        add_machine(&store, shape)?;
        let retention = Arc::clone(&store.retention);
        let file = File::open(image.path())?;
        let seeding = move || async move {
            let stream = open_stream(&retention, shape).await?;
            let disk = stream.disks().first().context("a disk")?.id;
            let mut position = stream.position();
            for mib in 0..shape.disk_bytes / MIB {
                position = position.next();
                let mut bytes = vec![0; usize::try_from(MIB)?];
                file.read_exact_at(&mut bytes, mib * MIB)?;
                let range =
                    ByteRange::at(ByteOffset::new(mib * MIB), MIB).context("on the disk")?;
                let extent = StreamExtent { range, content: data(&bytes) };
                stream.apply(position, disk, Timestamp::default(), vec![extent]).await?;
            }
            stream.mark(position.next(), PointKind::Crash, None, Timestamp::default()).await?;
            anyhow::Ok(())
        };
        store.core().block_on(seeding).context("the I/O core ended")??;
        store.close()?;
        Ok(Self { folder, shape })
    }

    /// Runs the load; names of the points it made.
    pub(super) fn run(&self, mut load: Load, seconds: u32) -> anyhow::Result<(Done, Vec<String>)> {
        let store = Store::open(&self.folder.join("data"))?;
        let (retention, shape) = (Arc::clone(&store.retention), self.shape);
        let running = move || async move {
            let stream = open_stream(&retention, shape).await?;
            let disk = stream.disks().first().context("a disk")?.id;
            let (mut position, mut points) = (stream.position(), Vec::new());
            let mut pace = Pace::begin(seconds);
            loop {
                match pace.next() {
                    Next::Group => {
                        let mut changes = load.group().into_iter().map(extent).peekable();
                        let mut under_way = Vec::new();
                        while changes.peek().is_some() {
                            position = position.next();
                            let batch = changes.by_ref().take(BATCH_CHANGES).collect();
                            let time = Timestamp::default();
                            under_way.push(stream.apply(position, disk, time, batch));
                        }
                        try_join_all(under_way).await?;
                    }
                    Next::Point(_) => {
                        position = position.next();
                        let time = Timestamp::default();
                        let point = stream.mark(position, PointKind::Crash, None, time).await?;
                        points.push(format!("{MACHINE}/{}@{}", disk_name(0), point.commit_time));
                    }
                    Next::End => return anyhow::Ok((pace.done(), points)),
                }
            }
        };
        let done = store.core().block_on(running).context("the I/O core ended")??;
        store.close()?;
        Ok(done)
    }

    /// The daemon on it.
    pub(super) fn serve(&self, landfall: &Path) -> anyhow::Result<Target> {
        Target::start(landfall, &self.folder)
    }
}

fn extent((at, bytes): (ByteOffset, landfall_disks::Buffer)) -> StreamExtent {
    let range = ByteRange::at(at, bytes.len() as u64).expect("on the disk");
    StreamExtent { range, content: data(&bytes) }
}
