//! The portal: where iSCSI initiators find the targets, opened when there is the first of them.
//!
//! A host may have an iSCSI target of another make on the usual port, and a target that exports nothing over iSCSI has no
//! business there. One that does goes on without it while somebody else has the port: replication and NBD do not need it, and
//! `status` says so. **Invariant:** once opened it stays open until the target stops.

use anyhow::Context;
use landfall_disks::uring::Core;
use landfall_disks::uring::net::{Listener, Peer};
use landfall_protocols::iscsi::name::Name;
use landfall_protocols::iscsi::serve::{Service, serve};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long until a port that somebody else has is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// What serves iSCSI.
pub(crate) struct Portal {
    service: Arc<Service>,
    /// Where, as it was configured; nowhere if it is off.
    wanted: Option<SocketAddr>,
    cores: Vec<Core>,
    open: Mutex<Option<Open>>,
    /// Why it is not open though there are exports that need it.
    trouble: Mutex<Option<String>>,
}

struct Open {
    address: SocketAddr,
    ended: oneshot::Receiver<()>,
}

impl Portal {
    /// A portal at `wanted` that is not open yet.
    pub(crate) fn new(service: Arc<Service>, wanted: Option<SocketAddr>, cores: &[Core]) -> Self {
        let (open, trouble) = (Mutex::new(None), Mutex::new(None));
        Self { service, wanted, cores: cores.to_vec(), open, trouble }
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
        *self.trouble.lock() = None;
        Ok(address)
    }

    /// Opens it for exports that are there when the target starts; whether that worked. Why it did not is logged, and kept.
    pub(super) fn open_for_exports(&self) -> bool {
        let Err(error) = self.open() else { return true };
        let why = format!("{error:#}");
        let before = self.trouble.lock().replace(why.clone());
        if before.as_ref() != Some(&why) {
            tracing::error!("exports over iSCSI cannot be reached: {why}");
        }
        false
    }

    /// Tries that `again` and again until it works; at once over if it is off.
    pub(super) async fn keep_opening(&self, again: Duration) {
        while self.wanted.is_some() {
            tokio::time::sleep(again).await;
            if self.open_for_exports() {
                return;
            }
        }
    }

    /// Why exports over iSCSI cannot be reached.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Ends the sessions of a target that is no more.
    pub(crate) fn dismiss(&self, target: &str) {
        // A name that is none has no sessions.
        if let Ok(name) = Name::parse(target) {
            self.service.dismiss(&name);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::LocalBoxFuture;
    use landfall_disks::uring::{Engine, EngineSettings};
    use landfall_protocols::iscsi::scsi::{InitiatorPort, Nexus};
    use landfall_protocols::iscsi::serve::Settings;
    use landfall_protocols::iscsi::session::login::{Demand, Want};
    use landfall_protocols::iscsi::{OpenError, Targets, Visitor};
    use std::net::TcpListener;

    struct Nothing;

    impl Targets for Nothing {
        fn list<'a>(&'a self, _: &'a Visitor) -> LocalBoxFuture<'a, Vec<Name>> {
            Box::pin(std::future::ready(Vec::new()))
        }

        fn demand<'a>(
            &'a self,
            _: &'a Want,
            _: &'a Visitor,
        ) -> LocalBoxFuture<'a, Result<Demand, OpenError>> {
            Box::pin(std::future::ready(Ok(Demand::Nothing)))
        }

        fn open<'a>(
            &'a self,
            _: &'a Name,
            _: &'a Visitor,
            _: InitiatorPort,
        ) -> LocalBoxFuture<'a, Result<Nexus, OpenError>> {
            Box::pin(std::future::ready(Err(OpenError::Unknown)))
        }
    }

    fn portal(engine: &Engine, wanted: Option<SocketAddr>) -> Portal {
        let service = Service::new(Arc::new(Nothing), Settings::default());
        Portal::new(Arc::new(service), wanted, engine.cores())
    }

    #[tokio::test]
    async fn a_port_that_somebody_else_has_is_tried_again() {
        let sizes = EngineSettings { cores: 1, ring_entries: 16, blocking_threads: 1 };
        let engine = Engine::start(sizes).expect("an engine");
        let other = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = other.local_addr().expect("bound");
        let portal = portal(&engine, Some(address));
        assert!(!portal.open_for_exports());
        let trouble = portal.trouble().expect("it is told");
        assert!(trouble.contains(&address.to_string()) && trouble.contains("listen.iscsi"));
        let again = Duration::from_millis(1);
        let stuck = tokio::time::timeout(again * 50, portal.keep_opening(again)).await;
        assert!(stuck.is_err() && portal.address().is_none(), "it is still there");
        drop(other);
        portal.keep_opening(again).await;
        assert_eq!((portal.address(), portal.trouble()), (Some(address), None));
        portal.stop().await;
        engine.stop();
    }

    #[tokio::test]
    async fn a_portal_that_is_off_says_so() {
        let sizes = EngineSettings { cores: 1, ring_entries: 16, blocking_threads: 1 };
        let engine = Engine::start(sizes).expect("an engine");
        let portal = portal(&engine, None);
        assert!(!portal.open_for_exports());
        assert!(portal.trouble().is_some_and(|why| why.contains("iSCSI is off")));
        portal.keep_opening(RETRY).await;
        engine.stop();
    }
}
