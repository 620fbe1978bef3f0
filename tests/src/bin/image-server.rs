//! Opens an image for writing and serves it over NBD on a Unix socket until its input ends.
//!
//! ```text
//!   fio, nbdcopy, a VM ──NBD──▶ image-server FILE SOCKET ──▶ VMDK, VHDX, VHD, raw
//! ```
//!
//! The same server, engine and formats as the target's, without history between: what a peer writes is in the image, and
//! what it flushes is there for good. It says `open` once peers can connect; when its input ends it answers what it has
//! accepted, flushes and ends. The export is called `disk`, and is the default one.

use anyhow::Context;
use futures_util::future::LocalBoxFuture;
use landfall_disks::Disk;
use landfall_disks::uring::net::Listener;
use landfall_disks::uring::{Engine, EngineSettings};
use landfall_protocols::nbd::serve::{Service, Settings, serve};
use landfall_protocols::nbd::tls::Security;
use landfall_protocols::nbd::{Export, ExportEntry, Exports, NoContexts, OpenError, Visitor};
use landfall_tests::writable;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

/// What the export is called.
const NAME: &str = "disk";

/// The only export there is.
struct OneDisk(Arc<dyn Disk>);

impl Exports for OneDisk {
    fn list<'a>(&'a self, _visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<ExportEntry>> {
        let entry = ExportEntry { name: NAME.to_owned(), description: String::new() };
        Box::pin(std::future::ready(vec![entry]))
    }

    fn open<'a>(
        &'a self,
        name: &'a str,
        _visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Export, OpenError>> {
        let opened = match name {
            "" | NAME => Ok(Export {
                disk: Arc::clone(&self.0),
                name: NAME.to_owned(),
                description: String::new(),
                // One disk for all connections, and its flush covers what any of them wrote.
                multi_conn: true,
                contexts: Arc::new(NoContexts),
                usage: None,
            }),
            _ => Err(OpenError::Unknown(format!("there is only {NAME}"))),
        };
        Box::pin(std::future::ready(opened))
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut path =
        || arguments.next().map(PathBuf::from).context("usage: image-server FILE SOCKET");
    let (image, socket) = (path()?, path()?);
    let engine = Engine::start(EngineSettings { cores: 2, ..EngineSettings::default() })?;
    let served = run(&engine, image, &socket);
    engine.stop();
    served
}

fn run(engine: &Engine, image: PathBuf, socket: &Path) -> anyhow::Result<()> {
    let cores = engine.cores();
    let opened = cores[0].block_on(async move || writable::open(&image).await);
    let disk: Arc<dyn Disk> = opened.context("the core ended")??;
    let exports = Arc::new(OneDisk(Arc::clone(&disk)));
    let service = Arc::new(Service::new(exports, Settings::default()));
    let listener = Listener::unix(socket, 0o600).context("the socket")?;
    let (ended, has_ended) = mpsc::channel();
    let (accepting, all) = (Arc::clone(&service), cores.to_vec());
    cores[0].spawn(move || async move {
        serve(listener, Security::Plain, accepting, &all).await;
        // Nobody waits any more only if the process is about to end.
        let _ = ended.send(());
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "open")?;
    out.flush()?;
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    service.stop();
    has_ended.recv().context("serving failed")?;
    cores[0].block_on(async move || disk.flush().await).context("the core ended")??;
    Ok(())
}
