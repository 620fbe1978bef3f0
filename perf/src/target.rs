//! A landfall target of our own, and its command line.

use crate::image::Image;
use crate::process::{Server, output, timed};
use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Time a target on a small data folder has until it listens.
const START: Duration = Duration::from_secs(30);

/// Configuration of a target that keeps no block that it read: all reads go to the device.
pub(crate) const NO_READ_CACHE: &str = "\n[memory]\nread_cache = \"0B\"\n";

/// A running target, fresh, in a folder of its own.
pub(crate) struct Target {
    landfall: PathBuf,
    data: PathBuf,
    server: Server,
}

/// What `status --json` says that matters here.
#[derive(Deserialize)]
struct Status {
    listen: Listen,
    folding: Folding,
}

#[derive(Deserialize)]
struct Folding {
    folds: u64,
}

#[derive(Deserialize)]
struct Listen {
    delta: String,
}

/// What `point list --json` says that matters here.
#[derive(Deserialize)]
struct Points {
    points: Vec<Point>,
}

/// A point of a machine.
#[derive(Clone, Deserialize, Debug)]
pub(crate) struct Point {
    /// When it was committed, as a name takes it.
    pub(crate) time: String,
    /// Its disks over the Unix socket.
    pub(crate) uris: Vec<String>,
}

#[derive(Deserialize)]
struct Machine {
    history: LastFold,
}

/// What `machine show --json` says of a history that matters here.
#[derive(Deserialize)]
pub(crate) struct LastFold {
    #[serde(rename = "last_fold_milliseconds")]
    pub(crate) milliseconds: Option<u64>,
    #[serde(rename = "last_fold_bytes")]
    pub(crate) bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Export {
    uris: Vec<String>,
    iscsi: Option<IscsiTarget>,
}

#[derive(Deserialize)]
struct IscsiTarget {
    name: String,
    portal: Option<String>,
}

impl Target {
    /// Starts one that keeps everything in `folder`, and no block in memory.
    pub(crate) fn start(landfall: &Path, folder: &Path) -> anyhow::Result<Self> {
        Self::with_config(landfall, folder, NO_READ_CACHE)
    }

    /// Starts one with this text in its configuration.
    pub(crate) fn with_config(
        landfall: &Path,
        folder: &Path,
        config: &str,
    ) -> anyhow::Result<Self> {
        let data = folder.join("data");
        std::fs::create_dir_all(&data).context("the data folder")?;
        std::fs::write(data.join("landfall.toml"), config).context("the configuration")?;
        Self::start_within(landfall, folder, START)
    }

    /// Starts one on a data folder as it is, which may take longer.
    pub(crate) fn start_within(
        landfall: &Path,
        folder: &Path,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let data = folder.join("data");
        let mut serve = landfall_command(landfall, &data);
        serve.args(["serve", "--delta", "127.0.0.1:0", "--nbd", "off", "--http", "off"]);
        let log = folder.join("serve.log");
        let socket = data.join("landfall.sock");
        let server = Server::start_within(&mut serve, &socket, &log, patience)?;
        Ok(Self { landfall: landfall.to_owned(), data, server })
    }

    /// Memory it has in use.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.server.resident_bytes()
    }

    /// Its NBD socket.
    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.data.join("nbd.sock")
    }

    /// `landfall` with `args`, asked of this target.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = landfall_command(&self.landfall, &self.data);
        command.args(args);
        command
    }

    /// Adds a machine with one disk `os`.
    pub(crate) fn add_machine(&self, name: &str, size_bytes: u64) -> anyhow::Result<()> {
        let disk = format!("name=os,size={size_bytes}");
        output(&mut self.command(&["machine", "add", name, "--disk", &disk])).map(drop)
    }

    /// Replicates `image` once; the time of the whole command.
    pub(crate) fn replicate(&self, machine: &str, image: &Image) -> anyhow::Result<Duration> {
        let disk = format!("os={}", image.path().display());
        timed(&mut self.command(&["replicate", machine, "--disk", &disk, "--once"]))
    }

    /// Replicates `image` once, to the target behind `address`.
    pub(crate) fn replicate_to(
        &self,
        address: &str,
        machine: &str,
        image: &Image,
    ) -> anyhow::Result<()> {
        let disk = format!("os={}", image.path().display());
        let args = ["replicate", machine, "--disk", &disk, "--once", "--to", address];
        output(&mut self.command(&args)).map(drop)
    }

    /// Where it listens for delta streams.
    pub(crate) fn delta_address(&self) -> anyhow::Result<String> {
        Ok(self.ask::<Status>(&["status", "--json"])?.listen.delta)
    }

    /// The points of a machine, oldest first.
    pub(crate) fn points(&self, machine: &str) -> anyhow::Result<Vec<Point>> {
        let mut points = self.ask::<Points>(&["point", "list", machine, "--json"])?.points;
        points.sort_by(|a, b| a.time.cmp(&b.time));
        Ok(points)
    }

    /// Folds that have ended since it was started.
    pub(crate) fn folds(&self) -> anyhow::Result<u64> {
        Ok(self.ask::<Status>(&["status", "--json"])?.folding.folds)
    }

    /// What is known of the last fold of a machine.
    pub(crate) fn last_fold(&self, machine: &str) -> anyhow::Result<LastFold> {
        Ok(self.ask::<Machine>(&["machine", "show", machine, "--json"])?.history)
    }

    /// Lets go of every point of a machine but the newest, and has a fold begin.
    pub(crate) fn let_go(&self, machine: &str) -> anyhow::Result<()> {
        output(&mut self.command(&["policy", "set", machine, "keep all for 0s"])).map(drop)
    }

    /// Makes a branch at the newest point of `machine`; the URI of its disk.
    pub(crate) fn export_branch(&self, machine: &str) -> anyhow::Result<String> {
        let name = format!("{machine}@latest");
        let export: Export = self.ask(&["export", "add", &name, "--writable", "--json"])?;
        export.uris.into_iter().next().context("the export has no address")
    }

    /// Exports the moment `name` over iSCSI; the URI of its first disk.
    pub(crate) fn export_iscsi(&self, name: &str) -> anyhow::Result<String> {
        let export: Export = self.ask(&["export", "add", name, "--iscsi", "--json"])?;
        let IscsiTarget { name, portal } = export.iscsi.context("it is not over iSCSI")?;
        Ok(format!("iscsi://{}/{name}/0", portal.context("the portal is not open")?))
    }

    fn ask<T: DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<T> {
        let text = output(&mut self.command(args))?;
        serde_json::from_str(&text).with_context(|| format!("what landfall {args:?} printed"))
    }
}

/// `landfall` on the data folder `data`, whatever the environment says.
fn landfall_command(landfall: &Path, data: &Path) -> Command {
    let mut command = Command::new(landfall);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LANDFALL_") {
            command.env_remove(name);
        }
    }
    command.arg("--data").arg(data);
    command
}
