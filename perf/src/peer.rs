//! Peers: qemu-nbd on a raw file, nbdcopy into it, fio on either side.

use crate::process::{Server, output, timed};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What qemu-nbd promises of an acknowledged write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writes {
    /// Durable after a flush: `--cache=none`.
    Cached,
    /// Durable at once, as landfall's are: `--cache=directsync`.
    Durable,
}

/// qemu-nbd serving a raw file past the page cache.
pub(crate) struct QemuNbd {
    socket: PathBuf,
    aio: &'static str,
    _server: Server,
}

impl QemuNbd {
    /// Serves the raw `file` on the socket `socket`.
    pub(crate) fn start(file: &Path, socket: &Path, writes: Writes) -> anyhow::Result<Self> {
        Self::start_with(&["--format=raw"], file, socket, writes)
    }

    /// Serves a file as `arguments` say. io_uring if this qemu-nbd and kernel have it, threads otherwise.
    pub(crate) fn start_with(
        arguments: &[&str],
        file: &Path,
        socket: &Path,
        writes: Writes,
    ) -> anyhow::Result<Self> {
        let cache = match writes {
            Writes::Cached => "none",
            Writes::Durable => "directsync",
        };
        let log = socket.with_extension("log");
        let mut refused = None;
        for aio in ["io_uring", "threads"] {
            let mut command = Command::new("qemu-nbd");
            // Several connections are what nbdcopy likes best, and MULTI_CONN is offered only with them.
            command.args(["--persistent", "--shared=4"]).args(arguments);
            command.args([format!("--cache={cache}"), format!("--aio={aio}")]);
            command.arg("--socket").arg(socket).arg(file);
            match Server::start(&mut command, socket, &log) {
                Ok(server) => return Ok(Self { socket: socket.to_owned(), aio, _server: server }),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.context("two ways were tried")?)
    }

    /// `qemu-nbd` with what matters of its arguments.
    pub(crate) fn name(&self, cache: &str) -> String {
        format!("qemu-nbd, raw, cache={cache}, aio={}", self.aio)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The URI of its only export.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

/// Copies a file into an NBD export and flushes it; the time of the whole command.
pub(crate) fn nbdcopy(from: &Path, uri: &str) -> anyhow::Result<Duration> {
    timed(Command::new("nbdcopy").arg("--flush").arg(from).arg(uri))
}

/// What fio does to an export, or to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Load {
    pub(crate) access: Access,
    /// Bytes of a request.
    pub(crate) block_bytes: u64,
    /// Requests under way at once, on each connection.
    pub(crate) depth: u32,
    pub(crate) connections: u32,
}

/// Which requests fio makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Random reads.
    Read,
    /// Random writes.
    Write,
    /// Reads from the start to the end, and again.
    ReadThrough,
    /// Writes likewise.
    WriteThrough,
}

impl Load {
    /// 4 KiB at random, 32 at a time over one connection.
    pub(crate) fn random(access: Access) -> Self {
        Self { access, block_bytes: 4096, depth: 32, connections: 1 }
    }

    /// 1 MiB after the other, 8 at a time over one connection.
    pub(crate) fn sequential(access: Access) -> Self {
        Self { access, block_bytes: 1 << 20, depth: 8, connections: 1 }
    }
}

/// What of fio's answer matters.
#[derive(Deserialize)]
struct Answer {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    iops: f64,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

impl Job {
    /// Requests per second.
    fn rate(&self, load: Load) -> f64 {
        match load.access {
            Access::Read | Access::ReadThrough => self.read.iops,
            Access::Write | Access::WriteThrough => self.write.iops,
        }
    }
}

/// Requests per second under `load`.
pub(crate) fn fio(uri: &str, size_bytes: u64, load: Load, seconds: u32) -> anyhow::Result<f64> {
    let job = fio_job(&export(uri), size_bytes, load, seconds)?;
    Ok(job.rate(load))
}

/// The same on `file` itself, past the page cache: what the device does with nobody between.
pub(crate) fn fio_file(
    file: &Path,
    size_bytes: u64,
    load: Load,
    seconds: u32,
) -> anyhow::Result<f64> {
    let name = format!("--filename={}", file.display());
    let engine = ["--ioengine=io_uring", "--direct=1", &name].map(str::to_owned);
    let job = fio_job(&engine, size_bytes, load, seconds)?;
    Ok(job.rate(load))
}

fn export(uri: &str) -> [String; 2] {
    ["--ioengine=nbd".to_owned(), format!("--uri={uri}")]
}

/// Random writes; the median of the seconds from sending one to its answer.
pub(crate) fn fio_write_latency(uri: &str, size_bytes: u64, seconds: u32) -> anyhow::Result<f64> {
    let job = fio_job(&export(uri), size_bytes, Load::random(Access::Write), seconds)?;
    let median = job.write.clat_ns.percentile.get("50.000000").context("fio gave no median")?;
    Ok(median / 1e9)
}

fn fio_job(on: &[String], size_bytes: u64, load: Load, seconds: u32) -> anyhow::Result<Job> {
    let rw = match load.access {
        Access::Read => "randread",
        Access::Write => "randwrite",
        Access::ReadThrough => "read",
        Access::WriteThrough => "write",
    };
    let mut command = Command::new("fio");
    command.args(["--name=perf", "--time_based", "--thread"]).args(on);
    command.args(["--ramp_time=1", "--output-format=json", "--randrepeat=0", "--group_reporting"]);
    command.args([format!("--rw={rw}"), format!("--size={size_bytes}")]);
    command.args([format!("--bs={}", load.block_bytes), format!("--iodepth={}", load.depth)]);
    command.args([format!("--numjobs={}", load.connections)]);
    command.arg(format!("--runtime={seconds}"));
    let text = output(&mut command)?;
    // Its nbd engine prints a line before the answer.
    let json = text.find('{').map_or("", |start| &text[start..]);
    let answer: Answer = serde_json::from_str(json).context("what fio printed")?;
    let count = answer.jobs.len();
    let job = answer.jobs.into_iter().next().filter(|_| count == 1);
    let job = job.with_context(|| format!("fio ran {count} jobs"))?;
    if job.error != 0 {
        bail!("fio {on:?} ended with error {}", job.error);
    }
    Ok(job)
}
