//! A qcow2 file on xfs, served by QEMU's storage daemon, with an internal snapshot per point.

use super::load::{Done, Load, Next, Pace};
use super::volume::Volume;
use crate::image::Image;
use crate::peer::{QemuNbd, Writes};
use crate::process::{Server, output};
use anyhow::{Context, ensure};
use futures_util::future::{join, try_join_all};
use landfall_disks::Durability;
use landfall_protocols::nbd::client::{Client, negotiate};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image.
pub(super) struct Qcow2 {
    file: PathBuf,
    folder: PathBuf,
}

impl Qcow2 {
    /// Puts a copy of `image` there; its server lives as long as a run.
    pub(super) fn make(volume: &Volume, folder: &Path, image: &Image) -> anyhow::Result<Self> {
        let file = volume.at().join("disk.qcow2");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-t", "none", "-f", "raw", "-O", "qcow2"]);
        output(convert.arg(image.path()).arg(&file))?;
        Ok(Self { file, folder: folder.to_owned() })
    }

    /// Runs the load against the image.
    pub(super) fn run(&self, load: Load, seconds: u32) -> anyhow::Result<Done> {
        let (nbd, monitor) = (self.folder.join("q.sock"), self.folder.join("m.sock"));
        let file = self.file.display();
        let mut daemon = Command::new("qemu-storage-daemon");
        daemon.arg("--chardev");
        daemon.arg(format!("socket,path={},server=on,wait=off,id=m", monitor.display()));
        daemon.args(["--monitor", "chardev=m", "--blockdev"]);
        daemon.arg(format!(
            "driver=file,filename={file},node-name=file,cache.direct=on,aio=io_uring"
        ));
        daemon.args(["--blockdev", "driver=qcow2,file=file,node-name=disk,cache.direct=on"]);
        daemon.arg("--nbd-server").arg(format!("addr.type=unix,addr.path={}", nbd.display()));
        daemon.args(["--export", "type=nbd,id=e,node-name=disk,writable=on,name=disk"]);
        let _server = Server::start(&mut daemon, &monitor, &self.folder.join("daemon.log"))?;
        // It answers when everything it was told to set up is there.
        let mut monitor = Monitor::connect(&monitor)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(&nbd).await?;
            let (client, connection) = negotiate(stream, "disk").await?;
            let (done, ran) =
                join(drive(client, load, seconds, &mut monitor), connection.run()).await;
            ran?;
            done
        })?;
        // A daemon that is killed leaves nothing behind that was flushed; this one is asked to end, and closes its image.
        monitor.ask(r#"{"execute":"quit"}"#)?;
        Ok(done)
    }

    /// A server of a point.
    pub(super) fn serve(&self, number: u32, socket: &Path) -> anyhow::Result<QemuNbd> {
        let snapshot = format!("--load-snapshot=snapshot.name=point-{number:04}");
        let arguments = ["--format=qcow2", "--read-only", &snapshot];
        QemuNbd::start_with(&arguments, &self.file, socket, Writes::Cached)
    }
}

async fn drive(
    client: Client,
    mut load: Load,
    seconds: u32,
    monitor: &mut Monitor,
) -> anyhow::Result<Done> {
    let mut pace = Pace::begin(seconds);
    loop {
        match pace.next() {
            Next::Group => {
                let writes = load.group().into_iter();
                let writes = writes.map(|(at, data)| client.write(at, data, Durability::Cached));
                try_join_all(writes).await?;
                client.flush().await?;
            }
            Next::Point(number) => {
                let arguments = format!(r#"{{"device":"disk","name":"point-{number:04}"}}"#);
                let command = "blockdev-snapshot-internal-sync";
                monitor.ask(&format!(r#"{{"execute":"{command}","arguments":{arguments}}}"#))?;
            }
            Next::End => return Ok(pace.done()),
        }
    }
}

/// The control socket of the daemon.
struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(socket: &Path) -> anyhow::Result<Self> {
        let mut monitor = Self { reader: BufReader::new(UnixStream::connect(socket)?) };
        monitor.line().context("the daemon says no word")?;
        monitor.ask(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(monitor)
    }

    fn line(&mut self) -> anyhow::Result<serde_json::Value> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Sends a command and waits for its answer, over whatever else is told meanwhile.
    fn ask(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.reader.get_mut(), "{command}")?;
        loop {
            let said = self.line()?;
            ensure!(said.get("error").is_none(), "{command}: {said}");
            if said.get("return").is_some() {
                return Ok(());
            }
        }
    }
}
