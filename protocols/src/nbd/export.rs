//! What the server is given to offer: names, and the disks behind them.
//!
//! Nothing of points or machines is known here: whoever implements [`Exports`] turns a name into a disk and decides who
//! may have it.

use super::contexts::Contexts;
use crate::pki::Subject;
use futures_util::future::LocalBoxFuture;
use landfall_disks::Disk;
use landfall_disks::uring::net::Peer;
use std::sync::Arc;

/// Who asks for exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// The other end of the connection.
    pub peer: Peer,
    /// Whom the certificate names that was shown; none in the clear.
    pub certificate: Option<Subject>,
}

impl std::fmt::Display for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.certificate {
            Some(subject) => write!(f, "{} ({})", self.peer, subject.name),
            None => self.peer.fmt(f),
        }
    }
}

/// The exports of a server. Shared by all its connections, on every core.
pub trait Exports: Send + Sync + 'static {
    /// What `NBD_OPT_LIST` shows. The list is capped by the implementation; names beyond it still open.
    fn list<'a>(&'a self, visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<ExportEntry>>;

    /// Opens the export a client calls `name`, which is any text of at most 4096 bytes, or empty for the default export.
    ///
    /// A connection asks once per name, and once more after it went over to TLS, and keeps the answer, so that a name such as `web/os@latest` means one moment
    /// however often it is negotiated. What is held is released when the last clone of the disk goes.
    fn open<'a>(
        &'a self,
        name: &'a str,
        visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Export, OpenError>>;
}

/// One line of a list of exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportEntry {
    /// A name that opens.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// An export that was opened.
#[derive(Clone)]
pub struct Export {
    /// The blocks. Its geometry says whether they can be written.
    pub disk: Arc<dyn Disk>,
    /// The name that always means exactly this content.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Whether a client may spread requests over several connections: only where every connection that negotiates the
    /// same name reaches the same content, and a flush on one covers all.
    pub multi_conn: bool,
    /// What it can tell of its blocks beside `base:allocation`.
    pub contexts: Arc<dyn Contexts>,
    /// Who has to know when requests begin and how they end, if somebody has.
    pub usage: Option<Arc<dyn Usage>>,
}

/// Whoever has to know who uses an export, and how they leave: more than opening it, which asking for its size does too.
///
/// Whoever entered leaves once, unless the connection goes away in between; then the last clone of the export does too.
pub trait Usage: Send + Sync {
    /// Requests are about to begin. If refused, the client is told why and the negotiation goes on.
    fn enter(&self) -> LocalBoxFuture<'_, Result<(), OpenError>>;

    /// No more requests come, and none is under way. The connection is closed when it returns, so a client that waits
    /// for that finds done what is done here.
    fn leave(&self, how: Leaving) -> LocalBoxFuture<'_, ()>;
}

/// How a client left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// It said that it was done, and everything it had asked for was answered.
    InOrder,
    /// Without a word, in the middle of something, or because the server stops.
    Broken(String),
}

/// Why an export did not open. The text goes to the client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none of this name.
    #[error("{0}")]
    Unknown(String),
    /// There is one, but not for this client.
    #[error("{0}")]
    NotAllowed(String),
    /// There is one, but it cannot be opened now.
    #[error("{0}")]
    Failed(String),
}
