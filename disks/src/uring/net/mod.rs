//! Sockets on the ring: listeners, and connections divided into a receiving and a sending half.
//!
//! A [`Stream`] may be moved to another core as long as nothing has been received or sent on it: whoever accepts can deal
//! connections out. After that its halves stay on their core.

mod listener;
mod stream;

pub use self::listener::Listener;
pub use self::stream::{Receiver, Sender, Stream};

use std::fmt;
use std::net::SocketAddr;

/// The other end of a connection, or the address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address of TCP.
    Tcp(SocketAddr),
    /// A process of this machine, as the kernel saw it when it connected; `None` for a listener.
    Unix(Option<Credentials>),
}

/// Who connected to a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(Some(Credentials { pid, uid })) => write!(f, "unix:pid={pid},uid={uid}"),
            Self::Unix(None) => write!(f, "unix"),
        }
    }
}
