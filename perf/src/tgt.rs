//! tgt, the target in user space of Linux, and iscsi-perf, which reads from any target.

use crate::peer::{Access, Load};
use crate::process::{Server, output};
use anyhow::{Context, ensure};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "iqn.2026-11.internal.landfall:perf";

/// Whether tgtd reads through the page cache, as it does by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Store {
    /// `--bstype rdwr`.
    Cached,
    /// `--bstype rdwr --bsoflags direct`.
    Direct,
}

/// A tgtd with one raw file as unit 1.
pub(crate) struct Tgt {
    portal: String,
    store: Store,
    _server: Server,
}

impl Tgt {
    /// Serves the raw `file`, with what it needs in `folder`.
    pub(crate) fn start(file: &Path, folder: &Path, store: Store) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let control = folder.join("control");
        // It does not say which port it was given, so it is given one that was free a moment ago.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let portal = format!("127.0.0.1:{port}");
        let mut tgtd = Command::new("tgtd");
        tgtd.env("TGT_IPC_SOCKET", &control).args(["--foreground", "--control-port", "0"]);
        tgtd.args(["--iscsi", &format!("portal={portal}")]);
        let socket = PathBuf::from(format!("{}.0", control.display()));
        let server = Server::start(&mut tgtd, &socket, &folder.join("log"))?;
        let admin = |arguments: &[&str]| {
            let mut command = Command::new("tgtadm");
            command.env("TGT_IPC_SOCKET", &control).args(["--lld", "iscsi"]);
            output(command.args(arguments)).map(drop)
        };
        let new_target = ["--op", "new", "--mode", "target", "--tid", "1", "--targetname", TARGET];
        admin(&new_target)?;
        let file = file.to_str().context("a path of UTF-8")?;
        let unit = ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        let flags: &[&str] = match store {
            Store::Cached => &[],
            Store::Direct => &["--bsoflags", "direct"],
        };
        admin(&[&unit, &["--bstype", "rdwr", "--backing-store", file][..], flags].concat())?;
        admin(&["--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL"])?;
        Ok(Self { portal, store, _server: server })
    }

    /// With what matters of its arguments.
    pub(crate) fn name(&self) -> &'static str {
        match self.store {
            Store::Cached => "tgt, rdwr, through the page cache",
            Store::Direct => "tgt, rdwr, direct",
        }
    }

    /// Of its only unit.
    pub(crate) fn uri(&self) -> String {
        format!("iscsi://{}/{TARGET}/1", self.portal)
    }
}

/// What iscsi-perf reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reads {
    /// 4 KiB at random, 32 at a time.
    Random,
    /// 1 MiB after the other, 32 at a time.
    Sequential,
}

impl Reads {
    /// The same for fio.
    pub(crate) fn load(self) -> Load {
        match self {
            Self::Random => Load::random(Access::Read),
            Self::Sequential => Load { depth: 32, ..Load::sequential(Access::ReadThrough) },
        }
    }
}

/// Reads per second of `seconds`.
pub(crate) fn iscsi_perf(uri: &str, reads: Reads, seconds: u32) -> anyhow::Result<f64> {
    let how = match reads {
        Reads::Random => &["-r", "-b", "8", "-m", "32"][..],
        Reads::Sequential => &["-b", "2048", "-m", "32"][..],
    };
    run(uri, how, seconds)
}

/// Reads 64 KiB here and there, as many times as have read all of it: what is read in order, caches leave to read-ahead.
pub(crate) fn warm(uri: &str, seconds: u32) -> anyhow::Result<()> {
    run(uri, &["-r", "-b", "128", "-m", "32"], seconds).map(drop)
}

fn run(uri: &str, how: &[&str], seconds: u32) -> anyhow::Result<f64> {
    let mut command = Command::new("iscsi-perf");
    command.args(["-t", &seconds.to_string()]).args(how);
    average(&output(command.arg(uri))?)
}

/// The last of the averages it prints, line over line.
fn average(printed: &str) -> anyhow::Result<f64> {
    let last = printed.rsplit("iops average ").next().unwrap_or_default();
    let number = last.split_whitespace().next().unwrap_or_default();
    let rate: f64 = number.parse().with_context(|| format!("iscsi-perf printed: {printed}"))?;
    ensure!(rate > 0.0, "iscsi-perf read nothing");
    Ok(rate)
}
