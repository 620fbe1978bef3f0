//! Serving over NBD: a raw image, and a point behind which lies a long history.
//!
//! ```text
//!   one raw file each   limit │ landfall image serve │ qemu-nbd │ nbdkit file │ qemu-nbd on a qcow2 with a backing file
//!   a data folder       landfall, newest point of a million changes of 4 KiB
//! ```
//!
//! All take turns within a round, and begin at another one in each. The limit (`limit.rs`) can do nothing but this; it is
//! no server. nbdkit goes through the page cache, which holds all of the file: it is there to be seen, not to be beaten.

use super::long_history::{self, CHANGES};
use super::{Settings, Stage, say};
use crate::figure::{Figure, Peer, Series, Unit};
use crate::peer::{Access, Load, QemuNbd, Writes, fio};
use crate::process::{Server, output};
use crate::target::{NO_READ_CACHE, Target};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server on its own copy of the image.
struct Contender {
    name: String,
    uri: String,
    _server: Running,
}

enum Running {
    Program { _server: Server },
    Qemu { _server: QemuNbd },
    Target { _target: Target },
}

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Figure>> {
    let (image, point) = (image_server(stage)?, point(stage)?);
    let (limit, qemu) = (limit(stage)?, qemu(stage)?);
    let (nbdkit, chain) = (nbdkit(stage)?, chain(stage)?);
    let all = [&image, &limit, &qemu, &nbdkit, &chain];
    let random = "4 KiB at random, 32 at a time, one connection";
    let sequential = "1 MiB after the other, 8 at a time, one connection";
    let one = "one at a time, one connection";
    let four = "4 KiB at random, 32 at a time on each of four connections";
    let (read, write) = (Load::random(Access::Read), Load::random(Access::Write));
    let measured = [
        figure(stage, "serve-raw-read", format!("reads of a raw image: {random}"), read, &all)?,
        figure(stage, "serve-raw-write", format!("writes to a raw image: {random}"), write, &all)?,
        figure(
            stage,
            "serve-point-read",
            format!(
                "reads of a point of {CHANGES} changes: {random}; the others serve a raw image"
            ),
            read,
            &[&point, &limit, &qemu, &chain],
        )?,
        figure(
            stage,
            "serve-point-read-one",
            format!("reads of that point: 4 KiB after the other, {one}"),
            Load { access: Access::ReadThrough, depth: 1, ..read },
            &[&point, &limit, &qemu],
        )?,
        figure(
            stage,
            "serve-raw-read-1m",
            format!("reads of a raw image: {sequential}"),
            Load::sequential(Access::ReadThrough),
            &[&image, &qemu, &nbdkit, &chain],
        )?,
        figure(
            stage,
            "serve-raw-write-1m",
            format!("writes to a raw image: {sequential}"),
            Load::sequential(Access::WriteThrough),
            &[&image, &qemu, &nbdkit, &chain],
        )?,
        figure(
            stage,
            "serve-raw-read-4",
            format!("reads of a raw image: {four}"),
            Load { connections: 4, ..read },
            &[&image, &limit, &qemu],
        )?,
    ];
    Ok(measured.into())
}

/// Rounds of all `contenders`, the first of which is landfall.
fn figure(
    stage: &Stage<'_>,
    name: &str,
    what: String,
    load: Load,
    contenders: &[&Contender],
) -> anyhow::Result<Figure> {
    let Settings { rounds, size_bytes, seconds, .. } = *stage.settings;
    let mut series = vec![Series::default(); contenders.len()];
    for round in 0..rounds {
        say(&format!("{name}, round {} of {rounds}", round + 1));
        for turn in 0..contenders.len() {
            let turn = (turn + round as usize) % contenders.len();
            let contender = contenders[turn];
            let rate = fio(&contender.uri, size_bytes, load, seconds);
            series[turn].push(rate.with_context(|| contender.name.clone())?);
        }
    }
    let mut series = series.into_iter();
    let landfall = series.next().context("nobody was measured")?;
    let peers = contenders[1..].iter().zip(series);
    let peers = peers.map(|(peer, series)| Peer { name: peer.name.clone(), series });
    let unit = Unit::RequestsPerSecond;
    Ok(Figure { name: name.into(), what, unit, landfall, peers: peers.collect() })
}

/// A copy of the image and a socket of that name.
fn place(stage: &Stage<'_>, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    let file = stage.scratch.join(format!("serve-{name}.raw"));
    stage.image.copy_to(&file)?;
    Ok((file, stage.scratch.join(format!("serve-{name}.sock"))))
}

/// A program that listens on `socket`.
fn program(name: &str, mut command: Command, socket: &Path) -> anyhow::Result<Contender> {
    let server = Server::start(&mut command, socket, &socket.with_extension("log"))?;
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    Ok(Contender { name: name.into(), uri, _server: Running::Program { _server: server } })
}

fn limit(stage: &Stage<'_>) -> anyhow::Result<Contender> {
    let (file, socket) = place(stage, "limit")?;
    let mut command = Command::new(std::env::current_exe().context("where this program lies")?);
    command.arg("limit").arg(file).arg(&socket);
    program("the limit: a bare io_uring loop", command, &socket)
}

fn image_server(stage: &Stage<'_>) -> anyhow::Result<Contender> {
    let (file, socket) = place(stage, "landfall")?;
    let mut command = stage.target.command(&["image", "serve", "--source-format", "raw"]);
    command.arg(file).arg("--socket").arg(&socket);
    program("landfall", command, &socket)
}

fn nbdkit(stage: &Stage<'_>) -> anyhow::Result<Contender> {
    let (file, socket) = place(stage, "nbdkit")?;
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--unix"]).arg(&socket).arg("file").arg(file);
    program("nbdkit file, through the page cache", command, &socket)
}

fn qemu(stage: &Stage<'_>) -> anyhow::Result<Contender> {
    let (file, socket) = place(stage, "qemu")?;
    let server = QemuNbd::start(&file, &socket, Writes::Cached)?;
    let (name, uri) = (server.name("none"), server.uri());
    Ok(Contender { name, uri, _server: Running::Qemu { _server: server } })
}

/// A qcow2 that half of the image has moved to, on the image.
fn chain(stage: &Stage<'_>) -> anyhow::Result<Contender> {
    let (file, socket) = place(stage, "chain")?;
    let top = stage.scratch.join("serve-chain.qcow2");
    let backing = file.display().to_string();
    let mut make = Command::new("qemu-img");
    output(make.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &backing]).arg(&top))?;
    let mut fill = Command::new("qemu-io");
    fill.args(["-f", "qcow2"]);
    for mib in (0..stage.size_mib()).step_by(2) {
        fill.args(["-c", &format!("write -P 5 {mib}M 1M")]);
    }
    output(fill.arg(&top))?;
    let server = QemuNbd::start_with(&["--format=qcow2"], &top, &socket, Writes::Cached)?;
    let (name, uri) = ("qemu-nbd, qcow2 on a raw backing file".to_owned(), server.uri());
    Ok(Contender { name, uri, _server: Running::Qemu { _server: server } })
}

/// The newest point of a long history.
fn point(stage: &Stage<'_>) -> anyhow::Result<Contender> {
    let (target, machine, disk) = long_history::start(stage, "serve-point", NO_READ_CACHE)?;
    let socket = target.nbd_socket();
    let uri = format!("nbd+unix:///{machine}/{disk}@latest?socket={}", socket.display());
    Ok(Contender { name: "landfall".into(), uri, _server: Running::Target { _target: target } })
}
