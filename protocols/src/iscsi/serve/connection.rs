//! One connection, from its first byte to its last.
//!
//! ```text
//!   login ─▶ receive, pump, orders, watch ─▶ last words ─▶ closed
//!     │         └── logged out, closed, breach, silent, replaced, reset, server stopped
//!     └── refused, time over, cut off, server stopped
//! ```

mod discover;

use super::incoming::{Incoming, Shape};
use super::login::{self, Failure, login};
use super::seats::Order;
use super::units::{Units, is_good, outcome};
use super::{Ended, FAREWELL, ORDER_TIME, Service};
use crate::admission::Place;
use crate::iscsi::counters::{Counters, add, count};
use crate::iscsi::name::Name;
use crate::iscsi::scsi::{Lun, ResetScope, Task};
use crate::iscsi::session::full::{Closing, Effect, Management, Scope, Session, TaskKey};
use crate::iscsi::session::login::{Entered, Want};
use crate::iscsi::targets::Visitor;
use crate::iscsi::wire::number::Tsih;
use crate::iscsi::wire::task::{Function, TaskAnswer};
use futures_util::future::{Either, join_all, select};
use landfall_disks::uring::net::{Peer, Sender, Stream};
use landfall_disks::uring::{sleep, spawn, timeout};
use landfall_disks::{Buffer, Ticket};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
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
    let connection = Connection::new(&entered, visitor, units, portal, &service);
    service.counters.sessions_open.fetch_add(1, Relaxed);
    let mut seat = seat;
    let (ended, left) = connection.serve(&mut incoming, &mut sender, &mut seat.orders).await;
    tracing::debug!(visitor = %connection.visitor, %ended, "iSCSI session ended");
    service.counters.sessions_open.fetch_sub(1, Relaxed);
    sender.shutdown();
    // Whoever waits for its place has it now.
    drop((seat, left));
}

/// Bytes that are sent at a time: whoever takes them slowly is there as long as it takes some.
const PIECE: usize = 4 << 20;

/// `parts` in pieces of at most [`PIECE`] bytes.
fn pieces(parts: Vec<Buffer>) -> Vec<Vec<Buffer>> {
    let (mut pieces, mut piece, mut length) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        let mut next = Some(part);
        while let Some(mut part) = next.take() {
            let room = PIECE - length;
            next = (part.len() > room).then(|| part.split_off(room));
            length += part.len();
            piece.push(part);
            if length == PIECE {
                pieces.push(std::mem::take(&mut piece));
                length = 0;
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// Held by those who wait for the end of this session.
type Left = Vec<oneshot::Sender<()>>;

/// What is wanted of a session whose tasks are all aborted is done already, but for its end, which `left` waits for.
async fn disregard(orders: &mut mpsc::UnboundedReceiver<Order>, left: &mut Left) {
    while let Some(order) = orders.recv().await {
        if let Order::Leave(_, waiting) = order {
            left.push(waiting);
        }
    }
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
    running: RefCell<HashMap<TaskKey, Ticket>>,
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

/// A session that is gone, with commands that still run: each of them keeps its [`Connection`].
struct Remains(Arc<Counters>);

impl Remains {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.sessions_lingering.fetch_add(1, Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.0.sessions_lingering.fetch_sub(1, Relaxed);
    }
}

impl Connection {
    fn new(
        entered: &Entered,
        visitor: Visitor,
        units: Units,
        portal: Option<SocketAddr>,
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
            running: RefCell::default(),
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
            let (watch, part) = (pin!(self.watch()), pin!(self.part()));
            let (follow, finished) = (pin!(self.follow(orders, &mut left)), pin!(self.finished()));
            let work = select(receive, select(select(watch, part), select(follow, finished)));
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
                tracing::debug!(visitor = %self.visitor, "an iSCSI initiator did not take the last words");
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
            self.lives();
            self.session.borrow_mut().received(&pdu.header, pdu.data, &self.units);
            self.act();
            while self.session.borrow().is_congested() {
                self.room.notified().await;
            }
        }
    }

    /// Sends what is ready, for as long as that works and the session has not ended.
    async fn pump(self: &Rc<Self>, sender: &mut Sender) -> Ended {
        loop {
            let batch = self.session.borrow_mut().take_output();
            if batch.is_empty() {
                if self.closing.get() {
                    return Ended::Closed;
                }
                self.filled.notified().await;
                continue;
            }
            let held = batch.held();
            let mut pieces = pieces(batch.into_parts()).into_iter().peekable();
            while let Some(piece) = pieces.next() {
                if let Err(error) = sender.send(piece).await {
                    return Ended::Sending(error);
                }
                // What fits into the socket proves nothing.
                if pieces.peek().is_some() {
                    self.lives();
                }
            }
            self.session.borrow_mut().sent(held);
            self.act();
            self.room.notify_one();
        }
    }

    /// The initiator has shown that it is there.
    fn lives(&self) {
        self.life.set(self.life.get() + 1);
        for waiting in self.asked.take() {
            // Whoever asked may have lost patience.
            let _ = waiting.send(());
        }
    }

    /// Asks an initiator that says nothing and takes nothing whether it is there. Discovery is not asked, and soon over.
    async fn watch(&self) -> Ended {
        if self.target.is_none() {
            sleep(self.service.settings.discovery_time).await;
            return Ended::Discovered;
        }
        loop {
            let before = self.life.get();
            let idle = pin!(sleep(self.service.settings.idle_time));
            if let Either::Right(_) = select(idle, pin!(self.pinged.notified())).await {
                // It has its time to answer from now on.
                continue;
            }
            if self.life.get() != before {
                // Also where a ping waits behind what it takes, or is one that it does not know.
                self.session.borrow_mut().is_there();
                continue;
            }
            if !self.session.borrow_mut().ping() {
                return Ended::Silent;
            }
            self.filled.notify_one();
        }
    }

    /// Once the server stops, or the target is no more: asks the initiator to leave, and waits for it, and for what is under way. At a
    /// target that is no more it has no units to do anything with, but it may log out and knows why it should.
    async fn part(&self) -> Ended {
        let (stopped, dismissed) =
            (pin!(self.service.stopping.begun()), pin!(self.dismissed.notified()));
        let why = match select(stopped, dismissed).await {
            Either::Left(_) => Ended::Stopped,
            Either::Right(_) => Ended::Removed,
        };
        let settings = &self.service.settings;
        if self.target.is_some() {
            let seconds = settings.parting_time.as_secs_f64().ceil();
            let within =
                if seconds < f64::from(u16::MAX) { settings.parting_time.as_secs() } else { 0 };
            let within = u16::try_from(within.max(1)).unwrap_or(u16::MAX);
            self.session.borrow_mut().ask_to_leave(within);
            self.filled.notify_one();
            sleep(settings.parting_time).await;
            let drained = async {
                while self.session.borrow().under_way() > 0 {
                    self.idle.notified().await;
                }
            };
            if timeout(settings.drain_time, drained).await.is_err() {
                tracing::debug!(visitor = %self.visitor, "iSCSI session dropped before all was answered");
            }
        }
        why
    }

    /// Does what other sessions want.
    async fn follow(
        self: &Rc<Self>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        left: &mut Option<oneshot::Sender<()>>,
    ) -> Ended {
        loop {
            match orders.recv().await {
                Some(Order::Leave(why, waiting)) => {
                    *left = Some(waiting);
                    return why;
                }
                Some(Order::Part) => self.dismissed.notify_one(),
                Some(Order::Answer(waiting)) => {
                    self.asked.borrow_mut().push(waiting);
                    // One that was asked before has its time already, whoever asks again.
                    if self.session.borrow_mut().ping() {
                        self.pinged.notify_one();
                        self.filled.notify_one();
                    }
                }
                Some(Order::Abort { scope, cleared, _done }) => {
                    let any = self.session.borrow_mut().abort(scope);
                    if let (true, true, Scope::Unit(lun), Some(nexus)) =
                        (cleared, any, scope, &self.units.0)
                    {
                        nexus.cleared_by_another(Lun::from_bytes(lun.0));
                    }
                    self.act();
                }
                None => unreachable!("a seat keeps its own end of the channel"),
            }
        }
    }

    /// Returns when the session itself is over.
    async fn finished(&self) -> Ended {
        loop {
            if let Some(ended) = self.ending.borrow_mut().take() {
                return ended;
            }
            self.over.notified().await;
        }
    }

    fn finish(&self, ended: Ended) {
        self.ending.borrow_mut().get_or_insert(ended);
        self.over.notify_one();
    }

    /// Does what the session wants.
    fn act(self: &Rc<Self>) {
        loop {
            let effect = self.session.borrow_mut().effect();
            match effect {
                None => break,
                Some(Effect::Start { key, task, data }) => self.begin(key, task, data),
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
                    self.leave();
                    self.finish(Ended::Closing(closing));
                }
            }
        }
        if self.session.borrow().output_count() > 0 {
            self.filled.notify_one();
        }
    }

    fn abort(&self, key: TaskKey) {
        let counters = &self.service.counters;
        let in_time = self.running.borrow().get(&key).is_none_or(Ticket::abort);
        // Nobody lost patience where a session ends with commands under way.
        if self.ended.get() {
            return count(&counters.commands_dropped);
        }
        count(&counters.commands_aborted);
        if !in_time {
            // It counts as done, of which its initiator hears no more.
            count(&counters.aborts_too_late);
        }
    }

    /// A command, on its way to the disk and back.
    fn begin(self: &Rc<Self>, key: TaskKey, task: Task, data: Buffer) {
        let counters = &self.service.counters;
        count(&counters.commands);
        add(&counters.bytes_written, data.len());
        self.running.borrow_mut().insert(key, task.ticket());
        let connection = Rc::clone(self);
        spawn(async move {
            let nexus = connection.units.0.as_ref().expect("commands have a nexus");
            let outcome = outcome(nexus.execute(&task, data).await);
            connection.running.borrow_mut().remove(&key);
            let counters = &connection.service.counters;
            add(&counters.bytes_read, outcome.data.len());
            if !is_good(&outcome) {
                count(&counters.commands_failed);
            }
            let under_way = {
                let mut session = connection.session.borrow_mut();
                session.completed(key, outcome);
                session.under_way()
            };
            connection.act();
            if under_way == 0 {
                connection.idle.notify_one();
            }
        });
    }

    /// Task management that concerns other sessions and the units themselves.
    async fn manage(self: &Rc<Self>, Management { tag, function, lun }: Management) {
        let (Some(target), Some(nexus)) = (&self.target, &self.units.0) else { return };
        let scope = match function {
            Function::ClearTaskSet | Function::LogicalUnitReset => Scope::Unit(lun),
            _ => Scope::All,
        };
        let cleared = function == Function::ClearTaskSet;
        let waiting = RefCell::new(Vec::new());
        self.service.seats.tell(target, self.tsih, || {
            let (_done, done) = oneshot::channel();
            waiting.borrow_mut().push(done);
            Order::Abort { scope, cleared, _done }
        });
        // An error is what it waits for: the other end is let go.
        if timeout(ORDER_TIME, join_all(waiting.into_inner())).await.is_err()
            && let Some(left_out) = self.service.late.left_out_before(Instant::now())
        {
            let visitor = &self.visitor;
            tracing::warn!(%visitor, ?function, left_out, "an iSCSI session is late to abort its tasks");
        }
        let reset = match function {
            Function::LogicalUnitReset => Some(ResetScope::Unit(Lun::from_bytes(lun.0))),
            Function::TargetWarmReset | Function::TargetColdReset => Some(ResetScope::Target),
            _ => None,
        };
        let found = reset.is_none_or(|scope| nexus.reset(scope));
        let answer = if found { TaskAnswer::Complete } else { TaskAnswer::NoSuchUnit };
        self.session.borrow_mut().managed(tag, answer);
        self.filled.notify_one();
        if function == Function::TargetColdReset {
            // Section 11.5.1: all connections to the target are closed.
            let leave = || Order::Leave(Ended::Reset, oneshot::channel().0);
            self.service.seats.tell(target, self.tsih, leave);
            self.finish(Ended::Reset);
        }
    }

    /// SCSI knows that the initiator is gone; commands that run on are nobody's.
    fn leave(&self) {
        if let Some(nexus) = &self.units.0 {
            nexus.end();
        }
    }

    /// The session is over; its last words are ready to be sent. Commands that run on are not waited for.
    fn end(self: &Rc<Self>, ended: &Ended) {
        self.ended.set(true);
        self.session.borrow_mut().abort(Scope::All);
        self.act();
        self.leave();
        self.asked.take();
        if self.session.borrow().under_way() > 0 {
            self.remains.replace(Some(Remains::new(&self.service.counters)));
        }
        match ended {
            Ended::Closing(Closing::LoggedOut) | Ended::Closed | Ended::Discovered => {}
            Ended::Stopped | Ended::Removed | Ended::Replaced | Ended::Reset => {
                if self.target.is_some() {
                    self.session.borrow_mut().say_dropped();
                }
            }
            Ended::Closing(Closing::Login)
            | Ended::Silent
            | Ended::Incoming(_)
            | Ended::Sending(_) => count(&self.service.counters.sessions_broken),
        }
        self.closing.set(true);
        self.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_cut_without_a_loss() {
        let lengths = [48, PIECE, 10, 3 * PIECE - 58, 48, PIECE - 48, 7];
        let parts: Vec<_> =
            (1..).zip(lengths).map(|(byte, length)| Buffer::copy_of(&vec![byte; length])).collect();
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let pieces = pieces(parts);
        let length = |piece: &Vec<Buffer>| piece.iter().map(|part| part.len()).sum::<usize>();
        let found: Vec<_> = pieces.iter().map(length).collect();
        assert_eq!(found, [PIECE, PIECE, PIECE, PIECE, PIECE, 7]);
        let sent: Vec<u8> = pieces.iter().flatten().flat_map(|part| part.to_vec()).collect();
        assert!(sent == whole);
        assert!(super::pieces(Vec::new()).is_empty());
    }
}
