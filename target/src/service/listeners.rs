//! Where a target listens: opened all together, or not at all, then served until they are told to stop.

use super::{Target, routers};
use crate::config::Listen;
use crate::http;
use crate::http::messages::Listening;
use anyhow::Context;
use landfall_disks::uring::Core;
use landfall_disks::uring::net::{Listener, Peer};
use landfall_protocols::nbd;
use landfall_protocols::nbd::tls::Security;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Open listeners.
pub(super) struct Listeners {
    delta: Option<Listener>,
    nbd: Option<Listener>,
    nbd_socket: Option<Listener>,
    /// Of NBD over TCP.
    nbd_security: Security,
    http: Option<TcpListener>,
    control: UnixListener,
}

/// Listeners that are being served.
pub(super) struct Running {
    http: Vec<JoinHandle<()>>,
    nbd: Vec<oneshot::Receiver<()>>,
    /// Removed when the target stops.
    control: PathBuf,
}

impl Listeners {
    /// Opens all of them.
    pub(super) fn open(listen: &Listen, nbd_security: Security) -> anyhow::Result<Self> {
        let tcp = |address: Option<SocketAddr>, key: &str| {
            address.map(Listener::tcp).transpose().with_context(|| at(address, key))
        };
        let socket = listen.nbd_socket.as_ref();
        let nbd_socket = socket.map(|path| Listener::unix(path, 0o600)).transpose();
        let control = &listen.control;
        Ok(Self {
            delta: tcp(listen.delta, "delta")?,
            nbd: tcp(listen.nbd, "nbd")?,
            nbd_security,
            nbd_socket: nbd_socket.with_context(|| format!("listening on {socket:?}"))?,
            http: http_listener(listen.http).with_context(|| at(listen.http, "http"))?,
            control: http::bind_private(control)
                .with_context(|| format!("listening on {}", control.display()))?,
        })
    }

    /// Whether there is one for streams.
    pub(super) fn has_delta(&self) -> bool {
        self.delta.is_some()
    }

    /// Where NBD clients of this machine reach it over TCP.
    pub(super) fn nbd_address(&self) -> Option<SocketAddr> {
        self.nbd.as_ref().and_then(address_of).map(on_this_machine)
    }

    /// Where they are, with the ports that were chosen.
    pub(super) fn in_words(&self, listen: &Listen) -> Listening {
        let tcp = |listener: &Option<Listener>| {
            listener.as_ref().and_then(address_of).map(|address| address.to_string())
        };
        let http = self.http.as_ref().and_then(|listener| listener.local_addr().ok());
        Listening {
            delta: tcp(&self.delta),
            nbd: tcp(&self.nbd),
            nbd_socket: listen.nbd_socket.as_ref().map(|path| path.display().to_string()),
            iscsi: None,
            http: http.map(|address| address.to_string()),
            control: listen.control.display().to_string(),
        }
    }

    /// Serves them, connections dealt out to `cores`, until `stop` says so.
    pub(super) fn start(
        self,
        target: &Arc<Target>,
        cores: &[Core],
        stop: watch::Receiver<bool>,
    ) -> Running {
        let (control, metrics) = routers(target);
        let mut http = vec![tokio::spawn(http::serve(self.control, control, stop.clone()))];
        if let Some(listener) = self.http {
            http.push(tokio::spawn(http::serve(listener, metrics, stop)));
        }
        let mut nbd = Vec::new();
        // The socket is for the owner of the target, whom nobody on the way can listen to.
        let both = [(self.nbd, self.nbd_security), (self.nbd_socket, Security::Plain)];
        for (listener, security) in both {
            let service = Arc::clone(&target.nbd);
            nbd.extend(listener.map(|listener| serve_nbd(listener, security, service, cores)));
        }
        if let (Some(listener), Some(server)) = (self.delta, &target.delta) {
            let (server, cores) = (Arc::clone(server), cores.to_vec());
            cores[0].clone().spawn(move || server.accept(listener, cores));
        }
        Running { http, nbd, control: target.config.listen.control.clone() }
    }
}

fn at(address: Option<SocketAddr>, key: &str) -> String {
    let address = address.map_or_else(String::new, |address| address.to_string());
    format!(
        "listening on {address} (listen.{key}; another one, port 0, or \"off\" in landfall.toml \
         or as --{key})"
    )
}

/// Where clients of this machine reach what listens at `address`: at a loopback address, where it listens at all there are.
pub(crate) fn on_this_machine(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn address_of(listener: &Listener) -> Option<SocketAddr> {
    match listener.local() {
        Peer::Tcp(address) => Some(address),
        Peer::Unix(_) => None,
    }
}

fn http_listener(address: Option<SocketAddr>) -> std::io::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Some)
}

/// Serves NBD on the first core; the receiver ends when the last connection has.
fn serve_nbd(
    listener: Listener,
    security: Security,
    service: Arc<nbd::serve::Service>,
    cores: &[Core],
) -> oneshot::Receiver<()> {
    let (ended, has_ended) = oneshot::channel::<()>();
    let cores = cores.to_vec();
    cores[0].clone().spawn(move || async move {
        nbd::serve::serve(listener, security, service, &cores).await;
        drop(ended);
    });
    has_ended
}

impl Running {
    /// Stops the protocols and waits until everything that was under way has ended.
    pub(super) async fn finished(self, target: &Target) {
        if let Err(error) = std::fs::remove_file(&self.control) {
            tracing::warn!(%error, "cannot remove the control socket");
        }
        target.nbd.stop();
        let delta = async {
            if let Some(server) = &target.delta {
                server.stop().await;
            }
        };
        let nbd = async {
            for ended in self.nbd {
                // The sender is only ever dropped.
                let _ = ended.await;
            }
        };
        let http = async {
            for task in self.http {
                if let Err(error) = task.await {
                    tracing::error!(%error, "an HTTP listener failed");
                }
            }
        };
        tokio::join!(delta, nbd, http, target.portal.stop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_connects_to_all_addresses_there_are() {
        for (listens, reached) in [
            ("0.0.0.0:3260", "127.0.0.1:3260"),
            ("[::]:3260", "[::1]:3260"),
            ("192.0.2.1:3260", "192.0.2.1:3260"),
        ] {
            let address = on_this_machine(listens.parse().expect("an address"));
            assert_eq!(address.to_string(), reached);
        }
    }
}
