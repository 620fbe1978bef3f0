//! A target of its own, with a machine behind whose newest point lie a million changes.

use super::{Stage, say};
use crate::history::{self, MACHINE, Shape, Store, disk_name};
use crate::target::Target;
use anyhow::ensure;
use std::time::Duration;

/// Changes of 4 KiB in the history.
pub(super) const CHANGES: u64 = 1_000_000;
/// Points of that history: 200 changes for each.
const POINTS: u64 = CHANGES / 200;
/// Nothing is forgotten, and the index is read whole before anybody is served.
const CONFIG: &str = "[policy]\nkeep = \"keep all\"\n\n[index]\nsegments_at_start = 1000000\n";
/// Time such a target has until it listens.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts it in the folder `name`, with `config` beside what it needs. Its machine's name, and that of the disk.
pub(super) fn start(
    stage: &Stage<'_>,
    name: &str,
    config: &str,
) -> anyhow::Result<(Target, &'static str, String)> {
    let folder = stage.scratch.join(name);
    let data = folder.join("data");
    std::fs::create_dir_all(&data)?;
    std::fs::write(data.join("landfall.toml"), format!("{CONFIG}{config}"))?;
    let disk_bytes = stage.settings.size_bytes;
    let shape = Shape { entries: CHANGES, points: POINTS, disks: 1, disk_bytes, body_every: 1 };
    say(&format!("making a history of {CHANGES} changes"));
    let store = Store::open(&data)?;
    history::add_machine(&store, shape)?;
    history::fill(&store, shape, say)?;
    store.close()?;
    let target = Target::start_within(&stage.settings.landfall, &folder, PATIENCE)?;
    let points = target.points(MACHINE)?;
    ensure!(points.len() as u64 > POINTS, "only {} points are left", points.len());
    Ok((target, MACHINE, disk_name(0)))
}
