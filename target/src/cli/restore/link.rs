//! The NBD connection that a disk is read over.

use crate::http::messages::{Moment, MomentDisk};
use anyhow::{Context, bail, ensure};
use landfall_protocols::nbd::client::{Client, ClientError, negotiate};
use std::path::PathBuf;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// Where the target serves NBD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) enum Server {
    /// A Unix socket.
    Socket(PathBuf),
    /// An address.
    Tcp(String),
}

impl Server {
    /// The better of the two that a target may have.
    pub(in crate::cli) fn of(moment: &Moment) -> anyhow::Result<Self> {
        match (&moment.nbd_socket, &moment.nbd) {
            (Some(path), _) => Ok(Self::Socket(path.into())),
            (None, Some(address)) => Ok(Self::Tcp(address.clone())),
            (None, None) => {
                bail!("this needs the target's NBD socket; set listen.nbd_socket in landfall.toml")
            }
        }
    }
}

/// What moves the bytes of a connection. Somebody has to run it.
pub(in crate::cli) type Moving = Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>;

/// Connects and opens a disk.
pub(in crate::cli) async fn connect(
    server: &Server,
    disk: &MomentDisk,
) -> anyhow::Result<(Client, Moving)> {
    let (client, moving) = match server {
        Server::Socket(path) => {
            let stream =
                UnixStream::connect(path).await.with_context(|| path.display().to_string())?;
            open(stream, disk).await?
        }
        Server::Tcp(address) => {
            let stream = TcpStream::connect(address).await.with_context(|| address.clone())?;
            open(stream, disk).await?
        }
    };
    ensure!(
        client.size_bytes() == disk.size_bytes,
        "{} has {} bytes over NBD and {} by the control socket",
        disk.nbd_name,
        client.size_bytes(),
        disk.size_bytes
    );
    Ok((client, moving))
}

async fn open<S>(stream: S, disk: &MomentDisk) -> anyhow::Result<(Client, Moving)>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (client, connection) = negotiate(stream, &disk.nbd_name).await?;
    Ok((client, Box::pin(connection.run())))
}

/// A disk at a moment, over a connection of its own that runs on this thread.
pub(super) struct Link {
    client: Client,
    connection: JoinHandle<Result<(), ClientError>>,
}

impl Link {
    /// Connects and opens the disk.
    pub(super) async fn open(server: &Server, disk: &MomentDisk) -> anyhow::Result<Self> {
        let (client, moving) = connect(server, disk).await?;
        Ok(Self { client, connection: tokio_uring::spawn(moving) })
    }

    /// The disk.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the connection in good order. Every other handle to the disk must be gone.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        drop(self.client);
        Ok(self.connection.await.context("the NBD connection")??)
    }
}
