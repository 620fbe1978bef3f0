//! Listening sockets.
//!
//! Accepting waits for readiness and then takes a connection without blocking: a dropped `accept` loses none.

use super::{Credentials, Peer, Stream};
use crate::uring::descriptor::Descriptor;
use crate::uring::op::Op;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// A socket that accepts connections. May be made on any thread and moved into a core.
pub struct Listener {
    descriptor: Descriptor,
    local: Peer,
    /// Removes the name of a Unix socket.
    _path: Option<BoundPath>,
}

impl Listener {
    /// Listens on `address`; port 0 takes a free one, see [`Listener::local`].
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let local = Peer::Tcp(listener.local_addr()?);
        Ok(Self { descriptor: Descriptor::new(listener.into()), local, _path: None })
    }

    /// Listens on the Unix socket `path` with the permission bits `mode`, from the moment it exists.
    ///
    /// A socket there that nobody listens on is replaced; a live one is refused with `AddrInUse`, and so is anything
    /// that is no socket. The name is removed when the listener is dropped.
    pub fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The name inherits the socket's permissions, so at no moment is it wider than asked for.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
        let address = SocketAddrUnix::new(path)?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) if is_stale(path)? => {
                fs::remove_file(path)?;
                rustix::net::bind(&socket, &address)?;
            }
            bound => bound?,
        }
        let bound = BoundPath::new(path)?;
        // The umask may have taken bits away that were asked for.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            descriptor: Descriptor::new(socket),
            local: Peer::Unix(None),
            _path: Some(bound),
        })
    }

    /// The address listened on, with the port that was chosen.
    pub fn local(&self) -> Peer {
        self.local.clone()
    }

    /// The next connection. An error is that of one connection or of a shortage (`EMFILE`); the listener stays usable.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        loop {
            match rustix::net::acceptfrom_with(&self.descriptor, SocketFlags::CLOEXEC) {
                Ok((socket, address)) => return self.welcome(socket, address),
                Err(Errno::AGAIN) => {
                    Op::readable(&self.descriptor).await.0?;
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn welcome(
        &self,
        socket: OwnedFd,
        address: Option<rustix::net::SocketAddrAny>,
    ) -> io::Result<(Stream, Peer)> {
        let peer = match self.local {
            Peer::Tcp(_) => {
                // Replies are whole messages: waiting to fill a segment only delays them.
                sockopt::set_tcp_nodelay(&socket, true)?;
                let address = address.ok_or(io::ErrorKind::NotConnected)?;
                Peer::Tcp(SocketAddr::try_from(address)?)
            }
            Peer::Unix(_) => {
                let found = sockopt::socket_peercred(&socket)?;
                let pid = found.pid.as_raw_nonzero().get();
                Peer::Unix(Some(Credentials { pid, uid: found.uid.as_raw() }))
            }
        };
        Ok((Stream::new(socket), peer))
    }
}

/// Whether `path` is a socket that nobody listens on.
fn is_stale(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    match UnixStream::connect(path) {
        Err(error) => Ok(error.kind() == io::ErrorKind::ConnectionRefused),
        Ok(_) => Ok(false),
    }
}

/// The name of a Unix socket, removed on drop if it is still ours.
struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl BoundPath {
    fn new(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_path_buf(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        // Someone may have replaced it, or removed the folder: then it is not ours to remove.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}
