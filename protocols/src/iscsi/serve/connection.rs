//! One connection, from its first byte to its last: what its parts share, and how they take turns.
//!
//! ```text
//!   login ─▶ receive ─▶ session ─▶ act ─▶ task     commands to the disks and back, task management
//!     │                    │              discover SendTargets
//!     │                    └─▶ pump ─▶ socket
//!     │      beside them: keep_alive, follow (orders of other sessions), request_logout (the
//!     │                   server stops, the target is no more)
//!     │         └── whichever ends first ─▶ end ─▶ last words ─▶ closed
//!     └── refused, time over, cut off, server stopped
//! ```

mod discover;
mod ending;
mod keepalive;
mod orders;
mod outgoing;
mod task;

use self::ending::Remains;
use self::orders::{Left, disregard};
use super::incoming::{Incoming, Shape};
use super::login::{self, Failure, login};
use super::running::Running;
use super::seats::Order;
use super::units::Units;
use super::{Ended, FAREWELL, Service};
use crate::admission::Place;
use crate::iscsi::counters::count;
use crate::iscsi::name::Name;
use crate::iscsi::scsi::Task;
use crate::iscsi::session::full::{Effect, Session};
use crate::iscsi::session::login::{Entered, Want};
use crate::iscsi::targets::Visitor;
use crate::iscsi::wire::number::Tsih;
use futures_util::future::{Either, select};
use landfall_disks::uring::net::{Peer, Sender, Stream};
use landfall_disks::uring::{spawn, timeout};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::{Notify, mpsc, oneshot};

/// Serves the connection until it ends.
pub(super) async fn run(stream: Stream, peer: Peer, mut place: Place, service: Arc<Service>) {
    let portal = stream.local().ok();
    let (receiver, mut sender) = stream.split();
    let mut incoming = Incoming::new(receiver);
    let outcome = {
        let (stopped, cut_off) = (pin!(service.stopping.begun()), pin!(place.cut_off()));
        let work = login(&mut incoming, &mut sender, &service, &peer, &place);
        let limited = pin!(timeout(service.settings.login_time, work));
        match select(limited, select(stopped, cut_off)).await {
            Either::Left((Ok(outcome), _)) => outcome,
            Either::Left((Err(_elapsed), _)) => Err(Failure::TimedOut),
            Either::Right((Either::Left(_), _)) => return,
            Either::Right((Either::Right(_), _)) => Err(Failure::CutOff),
        }
    };
    let session = match outcome {
        Ok(session) => session,
        Err(error) => {
            count(&service.counters.logins_failed);
            tracing::debug!(%peer, %error, "iSCSI login failed");
            sender.shutdown();
            return;
        }
    };
    let login::Session { entered, visitor, units, seat, served: _served } = session;
    tracing::debug!(%visitor, want = ?entered.entering.want, "iSCSI session begun");
    let mut seat = seat;
    let running = Arc::clone(&seat.running);
    let connection = Connection::new(&entered, (visitor, units), portal, running, &service);
    service.counters.sessions_open.fetch_add(1, Relaxed);
    let (ended, left) = connection.serve(&mut incoming, &mut sender, &mut seat.orders).await;
    tracing::debug!(visitor = %connection.visitor, %ended, "iSCSI session ended");
    service.counters.sessions_open.fetch_sub(1, Relaxed);
    sender.shutdown();
    // Whoever waits for its place has it now.
    drop((seat, left));
}

/// What the parts of a session share.
struct Connection {
    session: RefCell<Session<Task>>,
    units: Units,
    tsih: Tsih,
    target: Option<Name>,
    visitor: Visitor,
    portal: Option<SocketAddr>,
    service: Arc<Service>,
    /// How commands that run are told that they were aborted.
    running: Arc<Running>,
    /// An order was followed, or none is any more.
    followed: Notify,
    /// PDUs that came and pieces that made room for others, in total.
    life: Cell<u64>,
    /// Who waits for the next of them.
    asked: RefCell<Vec<oneshot::Sender<()>>>,
    /// The initiator was asked whether it is there, before its time.
    pinged: Notify,
    /// The target is no more.
    dismissed: Notify,
    /// Counted as long as commands run on after the end.
    remains: RefCell<Option<Remains>>,
    ending: RefCell<Option<Ended>>,
    /// The session is over.
    ended: Cell<bool>,
    /// What is ready is sent, and nothing after it.
    closing: Cell<bool>,
    /// There is something to send, or the end has come.
    filled: Notify,
    /// Something was sent.
    room: Notify,
    /// No command is under way any more.
    idle: Notify,
    /// The end has come.
    over: Notify,
}

impl Connection {
    fn new(
        entered: &Entered,
        (visitor, units): (Visitor, Units),
        portal: Option<SocketAddr>,
        running: Arc<Running>,
        service: &Arc<Service>,
    ) -> Rc<Self> {
        let settings = &service.settings;
        let target = match &entered.entering.want {
            Want::Discovery => None,
            Want::Target(name) => Some(name.clone()),
        };
        let session = Session::new(entered, settings.offer, settings.bytes_in_flight);
        Rc::new(Self {
            session: RefCell::new(session),
            units,
            tsih: entered.entering.tsih,
            target,
            visitor,
            portal,
            service: Arc::clone(service),
            running,
            followed: Notify::new(),
            life: Cell::new(0),
            asked: RefCell::default(),
            pinged: Notify::new(),
            dismissed: Notify::new(),
            remains: RefCell::default(),
            ending: RefCell::default(),
            ended: Cell::new(false),
            closing: Cell::new(false),
            filled: Notify::new(),
            room: Notify::new(),
            idle: Notify::new(),
            over: Notify::new(),
        })
    }

    /// Everything at once, until one of it ends; then the last words.
    async fn serve(
        self: &Rc<Self>,
        incoming: &mut Incoming,
        sender: &mut Sender,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> (Ended, Left) {
        let mut left = None;
        let mut pump = pin!(self.pump(sender));
        let ended = {
            let receive = pin!(self.receive(incoming));
            let (alive, logout) = (pin!(self.keep_alive()), pin!(self.request_logout()));
            let (follow, finished) = (pin!(self.follow(orders, &mut left)), pin!(self.finished()));
            let work = select(receive, select(select(alive, logout), select(follow, finished)));
            match select(work, pump.as_mut()).await {
                Either::Left((Either::Left((ended, _)), _)) => ended,
                Either::Left((Either::Right((either, _)), _)) => match either {
                    Either::Left((either, _)) => either.factor_first().0,
                    Either::Right((either, _)) => either.factor_first().0,
                },
                Either::Right((ended, _)) => ended,
            }
        };
        self.end(&ended);
        // What is half sent is sent to its end: the pump is never dropped in the middle of a PDU.
        let mut late = Vec::new();
        if !matches!(ended, Ended::Sending(_)) {
            let (farewell, rest) =
                (pin!(timeout(FAREWELL, pump)), pin!(disregard(orders, &mut late)));
            if let Either::Left((Err(_elapsed), _)) = select(farewell, rest).await {
                let visitor = &self.visitor;
                tracing::debug!(%visitor, "an iSCSI initiator did not take the last words");
            }
        }
        late.extend(left);
        (ended, late)
    }

    /// Takes PDUs off the socket until there are no more to be taken.
    async fn receive(self: &Rc<Self>, incoming: &mut Incoming) -> Ended {
        loop {
            let shape = Shape::of(self.session.borrow().terms());
            let pdu = match incoming.receive(shape).await {
                Ok(pdu) => pdu,
                Err(error) => return error.into(),
            };
            self.heard();
            self.session.borrow_mut().received(&pdu.header, pdu.data, &self.units);
            self.act();
            while self.session.borrow().is_congested() {
                self.room.notified().await;
            }
        }
    }

    /// Does what the session wants.
    fn act(self: &Rc<Self>) {
        loop {
            let effect = self.session.borrow_mut().effect();
            match effect {
                None => break,
                Some(Effect::Start { key, task, data }) => self.start(key, task, data),
                Some(Effect::Abort(key)) => self.abort(key),
                Some(Effect::Manage(management)) => {
                    let connection = Rc::clone(self);
                    spawn(async move { connection.manage(management).await });
                }
                Some(Effect::Discover(which)) => {
                    let connection = Rc::clone(self);
                    spawn(async move { connection.discover(which).await });
                }
                Some(Effect::Close(closing)) => {
                    // Before a logout is answered: who logs in elsewhere then is not here any more.
                    self.lose_nexus();
                    self.finish(Ended::Closing(closing));
                }
            }
        }
        if self.session.borrow().output_count() > 0 {
            self.filled.notify_one();
        }
    }
}
