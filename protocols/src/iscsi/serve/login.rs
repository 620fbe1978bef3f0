//! Login over a socket: moves PDUs for the [`Login`], asks who may have what, and finds the session
//! a seat.

use super::incoming::{Incoming, IncomingError, Shape};
use super::seats::{Port, Replaced, Seat};
use super::units::Units;
use super::{ORDER_TIME, PORTAL_GROUP, Service};
use crate::admission::{Place, Served};
use crate::iscsi::counters::count;
use crate::iscsi::name::Name;
use crate::iscsi::scsi::{InitiatorPort, Nexus};
use crate::iscsi::session::batch::{Batch, Digests};
use crate::iscsi::session::chap::{CHALLENGE, Challenge};
use crate::iscsi::session::login::{End, Entered, Entering, Knock, Login, LoginError, Step, Want};
use crate::iscsi::targets::{OpenError, Visitor};
use crate::iscsi::wire::DEFAULT_SEGMENT;
use crate::iscsi::wire::login::LoginStatus;
use futures_util::future::select_ok;
use landfall_disks::uring::net::{Peer, Sender};
use landfall_disks::uring::{sleep, timeout};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;
use std::time::{Duration, Instant};

/// How long the session that is replaced has to end.
const MAKE_WAY: Duration = Duration::from_secs(5);
const _: () = assert!(ORDER_TIME.as_millis() < MAKE_WAY.as_millis());

/// How long an initiator has to show that it is where it keeps itself out from elsewhere. ESXi
/// waits five seconds for an answer to its login.
pub(super) const PROOF_TIME: Duration = Duration::from_secs(3);

/// How soon a session that comes or goes is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a login led nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    #[error("sending failed: {0}")]
    Sending(io::Error),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("too many others came meanwhile")]
    CutOff,
    #[error("it took too long")]
    TimedOut,
    #[error("no random bytes: {0}")]
    Random(io::Error),
}

/// A session that begins.
pub(super) struct Session {
    pub(super) entered: Entered,
    pub(super) visitor: Visitor,
    pub(super) units: Units,
    pub(super) seat: Seat,
    pub(super) served: Served,
}

/// What was opened for one.
struct Opened {
    visitor: Visitor,
    units: Units,
    seat: Seat,
    served: Served,
}

/// Logs in.
pub(super) async fn login(
    incoming: &mut Incoming,
    sender: &mut Sender,
    service: &Service,
    peer: &Peer,
    place: &Place,
) -> Result<Session, Failure> {
    let mut login = Login::new(service.settings.offer, PORTAL_GROUP, challenge()?);
    let (mut opened, mut knocked) = (None, None);
    loop {
        if let Some((header, text)) = login.take_output() {
            let mut batch = Batch::default();
            batch.push(Digests::default(), &header, &text);
            sender.send(batch.into_parts()).await.map_err(Failure::Sending)?;
        }
        match login.step() {
            Step::Receive => {
                let pdu = incoming.receive(Shape::plain(DEFAULT_SEGMENT)).await?;
                let data = pdu.data.expect("there are no digests in a login");
                login.received(&pdu.header, &data);
            }
            Step::Knock(Knock { initiator, want }) => {
                let visitor = Visitor { peer: peer.clone(), initiator, user: None };
                let demand = service.targets.demand(&want, &visitor).await;
                login.answered(demand.map_err(|error| refusal(service, &visitor, &want, &error)));
                knocked = Some(visitor);
            }
            Step::Enter(entering) => {
                let outcome = open(&entering, service, peer, place).await;
                if outcome.as_ref().err() == Some(&LoginStatus::OutOfResources) {
                    count(&service.counters.connections.refused);
                }
                let tsih = outcome.as_ref().map(|opened| opened.seat.tsih());
                login.opened(tsih.map_err(|status| *status));
                opened = outcome.ok();
            }
            Step::End(End::Refused(error)) => {
                if let (LoginError::Unproven | LoginError::Chap(_), Some(visitor)) =
                    (&error, knocked)
                {
                    unproven(service, &visitor, &error);
                }
                return Err(error.into());
            }
            Step::End(End::Entered(entered)) => {
                let Opened { visitor, units, seat, served } =
                    opened.expect("it was opened just before");
                return Ok(Session { entered: *entered, visitor, units, seat, served });
            }
        }
    }
}

/// Fresh random bytes: a challenge is never used twice (RFC 1994, 2.3).
fn challenge() -> Result<Challenge, Failure> {
    let mut bytes = [0; CHALLENGE + 1];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty()).map_err(io::Error::from);
    if filled.map_err(Failure::Random)? != bytes.len() {
        return Err(Failure::Random(io::ErrorKind::UnexpectedEof.into()));
    }
    let [identifier, bytes @ ..] = bytes;
    Ok(Challenge { identifier, bytes })
}

/// Somebody could not prove who it says it is. Whoever guesses does so often.
fn unproven(service: &Service, visitor: &Visitor, error: &LoginError) {
    count(&service.counters.authentications_failed);
    if let Some(left_out) = service.unproven.left_out_before(Instant::now()) {
        tracing::warn!(%visitor, %error, left_out, "an iSCSI initiator did not prove who it is");
    }
}

fn refusal(service: &Service, visitor: &Visitor, want: &Want, error: &OpenError) -> LoginStatus {
    let seldom = match error {
        OpenError::Failed(_) => Some(&service.not_opened),
        OpenError::Beside(_) => Some(&service.kept_out),
        _ => None,
    };
    match seldom.and_then(|seldom| seldom.left_out_before(Instant::now())) {
        Some(left_out) => {
            tracing::warn!(%visitor, ?want, %error, left_out, "iSCSI target not opened");
        }
        None => tracing::debug!(%visitor, ?want, %error, "iSCSI login refused"),
    }
    error.status()
}

/// Opens what is wanted. Whoever had the same initiator port has gone when this returns.
async fn open(
    entering: &Entering,
    service: &Service,
    peer: &Peer,
    place: &Place,
) -> Result<Opened, LoginStatus> {
    let Entering { initiator, user, want, isid, tsih, cid } = entering.clone();
    let visitor = Visitor { peer: peer.clone(), initiator: initiator.clone(), user };
    let (target, units) = match &want {
        Want::Discovery => (None, Units(None)),
        Want::Target(_) if service.is_haunted() => return Err(LoginStatus::OutOfResources),
        Want::Target(name) => {
            let nexus = nexus(name, entering, &visitor, service).await;
            let nexus = nexus.map_err(|error| refusal(service, &visitor, &want, &error))?;
            (Some(name.clone()), Units(Some(nexus)))
        }
    };
    let port = Port { target, initiator, isid };
    let (seat, replaced) = service.seats.take(port, tsih, cid)?;
    if let Some(Replaced(gone)) = replaced {
        count(&service.counters.sessions_replaced);
        // An error is what it waits for: the other end is let go.
        if timeout(MAKE_WAY, gone).await.is_err() {
            tracing::warn!(%visitor, "an iSCSI session does not make way");
            return Err(LoginStatus::ServiceUnavailable);
        }
    }
    if target_is_gone(service, &want, &visitor).await {
        return Err(LoginStatus::TargetRemoved);
    }
    // Before it is told that it is in: from here on nobody cuts it off.
    let served = place.serve().ok_or(LoginStatus::OutOfResources)?;
    Ok(Opened { visitor, units, seat, served })
}

/// Whether a target was removed while it was opened: its sessions were told, and this one had no
/// seat yet.
async fn target_is_gone(service: &Service, want: &Want, visitor: &Visitor) -> bool {
    service.targets.demand(want, visitor).await.is_err()
}

/// A nexus at `target`. It is made while the one it replaces is there: SCSI has to know that it was
/// lost.
///
/// Who has a target already that this one may not be had beside is asked there whether it is still
/// there: a host that lost its power is not, and need not wait until that session is found silent.
async fn nexus(
    target: &Name,
    entering: &Entering,
    visitor: &Visitor,
    service: &Service,
) -> Result<Nexus, OpenError> {
    let Entering { initiator, isid, .. } = entering;
    let port = InitiatorPort { name: initiator.as_str().to_owned(), isid: isid.0 };
    let mut until = None;
    loop {
        let other = match service.targets.open(target, visitor, port.clone()).await {
            Err(OpenError::Beside(other)) => other,
            opened => return opened,
        };
        let until = *until.get_or_insert_with(|| Instant::now() + PROOF_TIME);
        let left = until.saturating_duration_since(Instant::now());
        match timeout(left, is_there(service, &other, initiator)).await {
            Ok(true) => return Err(OpenError::Beside(other)),
            Ok(false) if !left.is_zero() => {}
            _ => {
                let what = format!("whether the initiator is still at {other} is not known yet");
                return Err(OpenError::Unavailable(what));
            }
        }
    }
}

/// Whether `initiator` has a session at `target` and is there; as soon as it shows, or its sessions
/// have ended.
async fn is_there(service: &Service, target: &Name, initiator: &Name) -> bool {
    let asked = service.seats.ask(target, initiator);
    if asked.is_empty() {
        // It comes at this moment, or goes.
        sleep(LOOK_AGAIN).await;
        return false;
    }
    select_ok(asked).await.is_ok()
}
