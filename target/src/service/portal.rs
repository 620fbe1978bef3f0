//! The portal: where iSCSI initiators find the targets, opened when there is the first of them.
//!
//! A host may have an iSCSI target of another make on the usual port, and a target that exports nothing over iSCSI has no
//! business there. **Invariant:** once opened it stays open until the target stops.

use anyhow::Context;
use landfall_disks::uring::Core;
use landfall_disks::uring::net::{Listener, Peer};
use landfall_protocols::iscsi::serve::{Service, serve};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What serves iSCSI.
pub(crate) struct Portal {
    service: Arc<Service>,
    /// Where, as it was configured; nowhere if it is off.
    wanted: Option<SocketAddr>,
    cores: Vec<Core>,
    open: Mutex<Option<Open>>,
}

struct Open {
    address: SocketAddr,
    ended: oneshot::Receiver<()>,
}

impl Portal {
    /// A portal at `wanted` that is not open yet.
    pub(crate) fn new(service: Arc<Service>, wanted: Option<SocketAddr>, cores: &[Core]) -> Self {
        Self { service, wanted, cores: cores.to_vec(), open: Mutex::new(None) }
    }

    /// What it has done so far.
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Where it is open.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.open.lock().as_ref().map(|open| open.address)
    }

    /// Opens it, unless it is; where.
    pub(crate) fn open(&self) -> anyhow::Result<SocketAddr> {
        let mut open = self.open.lock();
        if let Some(open) = &*open {
            return Ok(open.address);
        }
        let wanted = self.wanted.context("iSCSI is off (listen.iscsi in landfall.toml)")?;
        let listener = Listener::tcp(wanted)
            .with_context(|| format!("listening on {wanted} (listen.iscsi in landfall.toml)"))?;
        let Peer::Tcp(address) = listener.local() else { unreachable!("it is of TCP") };
        let (ending, ended) = oneshot::channel::<()>();
        let (service, cores) = (Arc::clone(&self.service), self.cores.clone());
        self.cores[0].spawn(move || async move {
            serve(listener, service, &cores).await;
            drop(ending);
        });
        tracing::info!(%address, "iSCSI targets can be reached");
        *open = Some(Open { address, ended });
        Ok(address)
    }

    /// Ends its sessions and waits until they have ended.
    pub(super) async fn stop(&self) {
        self.service.stop();
        let open = self.open.lock().take();
        if let Some(open) = open {
            // The sender is only ever dropped.
            let _ = open.ended.await;
        }
    }
}
