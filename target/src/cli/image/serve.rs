//! `landfall image serve`: an image over NBD, without a target.

use super::engine;
use super::place::Source;
use crate::cli::say;
use crate::config::NbdTls;
use crate::uri::{over_socket, over_tcp};
use anyhow::{Context, bail, ensure};
use futures_util::future::{LocalBoxFuture, join_all};
use landfall_disks::Disk;
use landfall_disks::image::Access;
use landfall_disks::uring::Core;
use landfall_disks::uring::net::{Listener, Peer};
use landfall_protocols::nbd::serve::{Service, Settings, serve};
use landfall_protocols::nbd::tls::Security;
use landfall_protocols::nbd::{Export, ExportEntry, Exports, NoContexts, OpenError, Visitor};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Serve an image over NBD until a signal ends it
///
/// The image is written in place: nothing keeps its history. What a client has flushed is in the file; SIGINT or SIGTERM
/// answer what is under way, flush and end.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  landfall image serve web.vhdx --socket /run/web.sock --read-only
  landfall image serve web.vmdk --listen 127.0.0.1:0         # prints the port it was given
  qemu-system-x86_64 -drive file='nbd+unix:///web?socket=/run/web.sock',format=raw,if=virtio …")]
pub(in crate::cli) struct Serve {
    #[command(flatten)]
    source: Source,
    /// Listen on this Unix socket, which is made and is for its owner only
    #[arg(long, value_name = "PATH", required_unless_present = "listen")]
    socket: Option<PathBuf>,
    /// Listen on this loopback address; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Refuse writes; needed for images that cannot be written, and for a --shared one
    #[arg(long)]
    read_only: bool,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if let Some(address) = self.listen
            && !address.ip().is_loopback()
        {
            bail!(
                "{address} is not loopback, and whoever reaches it could use the image: listen on \
                 127.0.0.1 or ::1 and let ssh carry it, or serve a point of a target, which has TLS"
            );
        }
        let access = match (self.read_only, self.source.is_shared()) {
            (false, true) => bail!("--shared is for reading: add --read-only"),
            (true, _) => self.source.reading(),
            (false, false) => Access::Write,
        };
        let engine = engine(std::thread::available_parallelism().map_or(1, usize::from))?;
        let waiting = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = waiting.block_on(self.serve(engine.cores(), access));
        engine.stop();
        served
    }

    async fn serve(self, cores: &[Core], access: Access) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
        let Self { source, socket, listen, .. } = self;
        let name = source.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let opening = move || async move { source.open_for(access).await };
        let image = cores[0].run(opening).await.context("the I/O core ended")??;
        let disk: Arc<dyn Disk> = image.disk;
        let read_only = access.is_read_only();
        ensure!(
            read_only || !disk.geometry().read_only,
            "{} images are only read: add --read-only",
            image.kind
        );
        let exports = OneDisk { disk: Arc::clone(&disk), name: name.clone() };
        let service = Arc::new(Service::new(Arc::new(exports), Settings::default()));
        let mut listeners = Vec::new();
        let mut uris = Vec::new();
        if let Some(path) = &socket {
            let path = std::path::absolute(path)?;
            uris.push(over_socket(&name, &path));
            let listener = Listener::unix(&path, 0o600);
            listeners.push(listener.with_context(|| path.display().to_string())?);
        }
        if let Some(address) = listen {
            let listener = Listener::tcp(address).with_context(|| address.to_string())?;
            let Peer::Tcp(address) = listener.local() else { bail!("{address} is no address") };
            uris.push(over_tcp(&name, address, NbdTls::Off));
            listeners.push(listener);
        }
        let ended = listeners.into_iter().map(|listener| accept(listener, &service, cores));
        let ended: Vec<_> = ended.collect();
        for uri in uris {
            say(&uri);
        }
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        service.stop();
        // The senders are only ever dropped, when the last connection has ended.
        join_all(ended).await;
        let flushing = move || async move { if read_only { Ok(()) } else { disk.flush().await } };
        Ok(cores[0].run(flushing).await.context("the I/O core ended")??)
    }
}

/// Serves on the first core, connections dealt out to all; the receiver ends when the last of them has.
fn accept(listener: Listener, service: &Arc<Service>, cores: &[Core]) -> oneshot::Receiver<()> {
    let (ended, has_ended) = oneshot::channel::<()>();
    let (service, all) = (Arc::clone(service), cores.to_vec());
    cores[0].spawn(move || async move {
        serve(listener, Security::Plain, service, &all).await;
        drop(ended);
    });
    has_ended
}

/// The only export there is, which is the default one, too.
struct OneDisk {
    disk: Arc<dyn Disk>,
    name: String,
}

impl Exports for OneDisk {
    fn list<'a>(&'a self, _visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<ExportEntry>> {
        let entry = ExportEntry { name: self.name.clone(), description: String::new() };
        Box::pin(std::future::ready(vec![entry]))
    }

    fn open<'a>(
        &'a self,
        name: &'a str,
        _visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Export, OpenError>> {
        let opened = if name.is_empty() || name == self.name {
            Ok(Export {
                disk: Arc::clone(&self.disk),
                name: self.name.clone(),
                description: String::new(),
                // One disk for all connections, and its flush covers what any of them wrote.
                multi_conn: true,
                contexts: Arc::new(NoContexts),
                usage: None,
            })
        } else {
            Err(OpenError::Unknown(format!("there is only {}", self.name)))
        };
        Box::pin(std::future::ready(opened))
    }
}
