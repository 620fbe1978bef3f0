//! What the server is given to offer: targets, who may have them, and what they have to prove.
//!
//! Nothing of machines or points is known here: whoever implements [`Targets`] turns a name into a
//! device.

use super::name::Name;
use super::scsi::{InitiatorPort, Nexus};
use super::session::login::{Demand, Want};
use super::wire::login::LoginStatus;
use futures_util::future::LocalBoxFuture;
use landfall_disks::uring::net::Peer;
use std::fmt;

/// Who asks for targets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// The other end of the connection.
    pub peer: Peer,
    /// The initiator, as it says.
    pub initiator: Name,
    /// The user that it proved to be; none if it did not have to, or has not yet.
    pub user: Option<String>,
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{} ({}, {user})", self.initiator, self.peer),
            None => write!(f, "{} ({})", self.initiator, self.peer),
        }
    }
}

/// The targets of a server. Shared by all its connections, on every core.
pub trait Targets: Send + Sync + 'static {
    /// The targets this visitor may know of. The list is capped by the implementation.
    fn list<'a>(&'a self, visitor: &'a Visitor) -> LocalBoxFuture<'a, Vec<Name>>;

    /// What the visitor has to prove before it gets what it wants, or why it gets nothing. Whether
    /// a target is there should look the same to all who may not have it.
    fn demand<'a>(
        &'a self,
        want: &'a Want,
        visitor: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Demand, OpenError>>;

    /// Opens a target for a visitor who has proved what it had to, and who comes by `port`. What is
    /// held is released when the last nexus goes, and with it the last session.
    fn open<'a>(
        &'a self,
        target: &'a Name,
        visitor: &'a Visitor,
        port: InitiatorPort,
    ) -> LocalBoxFuture<'a, Result<Nexus, OpenError>>;
}

/// Why a target did not open. The initiator is told which of these, not the text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none of this name, or none that the visitor may know of.
    #[error("there is no such target")]
    Unknown,
    /// There is one, but not for this visitor.
    #[error("the initiator may not have this target")]
    NotAllowed,
    /// There is one, but not beside this other one, where the visitor's initiator has a nexus. It
    /// may be tried again when that has gone.
    #[error("the initiator has {0}, and may not have both")]
    Beside(Name),
    /// There was one, and it does not come back.
    #[error("the target was removed")]
    Removed,
    /// There is one, but it cannot be opened now; it may be tried again.
    #[error("not now: {0}")]
    Unavailable(String),
    /// It cannot be opened.
    #[error("{0}")]
    Failed(String),
}

impl OpenError {
    /// What the initiator is told.
    pub(super) fn status(&self) -> LoginStatus {
        match self {
            Self::Unknown => LoginStatus::NotFound,
            Self::NotAllowed | Self::Beside(_) => LoginStatus::AuthorizationFailure,
            Self::Removed => LoginStatus::TargetRemoved,
            Self::Unavailable(_) => LoginStatus::ServiceUnavailable,
            Self::Failed(_) => LoginStatus::TargetError,
        }
    }
}
