//! HTTP: the control API on a Unix socket, metrics on loopback, and the command line's client of the former.
//!
//! ```text
//!   <data>/landfall.sock  (0600)    /v1/…                everything a target can be told to do
//!   127.0.0.1:9440                  /metrics /healthz    read-only; nothing else until it has authentication
//! ```
//!
//! Runs on ordinary tokio threads; what reaches disks or the journal is handed to an I/O core.

mod answers;
mod changes;
pub(crate) mod client;
pub(crate) mod control;
mod disks;
mod groups;
mod ingest;
pub(crate) mod integrity;
mod keys;
pub(crate) mod messages;
mod points;
mod policy;
mod problem;
mod promote;
mod standby;
mod streams;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections of one listener at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Time to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Life of a connection, whatever happens on it.
const CONNECTION_TIME: Duration = Duration::from_secs(600);
/// Time that requests under way get when the target stops.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;

/// A Unix socket at `path` that only its owner may use, from the moment it exists.
///
/// What is at `path` is replaced if it is a socket: whoever holds the data folder knows that nobody listens there.
pub(crate) fn bind_private(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The name inherits the socket's permissions.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Serves `router` on `listener` until `stop` says so; requests under way are finished.
pub(crate) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
            (permit, listener.accept().await.0)
        };
        let (permit, stream) = tokio::select! {
            next = next => next,
            () = stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        let mut stop = stop.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let finished = tokio::select! {
                finished = tokio::time::timeout(CONNECTION_TIME, connection.as_mut()) => finished,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(DRAIN_TIME, connection.as_mut()).await
                }
            };
            if let Ok(Err(error)) = finished {
                tracing::debug!(%error, "HTTP connection");
            }
            drop(permit);
        });
    }
    while connections.join_next().await.is_some() {}
}

/// Ends when the target is to stop, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can say so any more, which is as final.
    let _ = stop.wait_for(|stop| *stop).await;
}
