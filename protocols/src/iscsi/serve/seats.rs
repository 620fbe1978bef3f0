//! The sessions of a server: their names, and how they reach each other.
//!
//! ```text
//!   a session ──orders──▶ those of the same target      task management that concerns all of them:
//!                                                       what runs is aborted at once, the rest is
//!                                                       theirs
//!   a login   ──End─────▶ the session that it replaces  section 6.3.5: same initiator, ISID and
//!                                                       target
//!             ──Ping────▶ those that keep it out        same initiator, another target
//! ```
//!
//! Sessions of targets and of discovery have places of their own: whoever discovers has proved
//! nothing, and keeps nobody out.
//!
//! **Invariant:** two sessions never have the same name, nor the same initiator port at a target.
//! Whoever comes again takes the place that it had, also when there is no other.

use super::Ended;
use super::running::Running;
use crate::iscsi::name::Name;
use crate::iscsi::session::full::Scope;
use crate::iscsi::wire::login::LoginStatus;
use crate::iscsi::wire::number::{Cid, Isid, Tsih};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Who a session belongs to: what tells it apart from all others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Port {
    /// None for discovery.
    pub(super) target: Option<Name>,
    pub(super) initiator: Name,
    pub(super) isid: Isid,
}

/// What a session is told by others.
pub(super) enum Order {
    /// To end. What is here is dropped when it has.
    End(Ended, oneshot::Sender<()>),
    /// To request a logout of its initiator, and to end when none comes: the target is no more.
    RequestLogout,
    /// To ask its initiator whether it is there. That it is, is said here; what is here is dropped
    /// when the session has ended.
    Ping(oneshot::Sender<()>),
    /// To abort its tasks. What is here is dropped when it has.
    Abort {
        scope: Scope,
        /// By another initiator's CLEAR TASK SET: its own is told (SAM-5, 5.14).
        cleared: bool,
        _done: oneshot::Sender<()>,
    },
}

/// How many sessions there may be at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    /// Of targets.
    pub(super) sessions: u64,
    /// Of discovery.
    pub(super) discoveries: u64,
}

/// Sessions by their names.
pub(super) struct Seats {
    capacity: Capacity,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    sessions: BTreeMap<u16, Record>,
    /// The name that was given last: they are given again as late as possible.
    last: u16,
}

struct Record {
    port: Port,
    cid: Cid,
    orders: mpsc::UnboundedSender<Order>,
    running: Arc<Running>,
}

/// The place of a session, given up when it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    tsih: Tsih,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    own: mpsc::UnboundedSender<Order>,
    /// Its commands, which others may abort.
    pub(super) running: Arc<Running>,
}

/// A session that has to make way.
pub(super) struct Replaced(pub(super) oneshot::Receiver<()>);

impl Seats {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self { capacity, taken: Mutex::default() }
    }

    /// A place for a session of `port`: a new one, or the one of a session that exists (`tsih`).
    /// Whoever is there makes way.
    pub(super) fn take(
        self: &Arc<Self>,
        port: Port,
        tsih: Tsih,
        cid: Cid,
    ) -> Result<(Seat, Option<Replaced>), LoginStatus> {
        let mut taken = self.taken.lock();
        let there = taken.sessions.iter().find(|(_, record)| record.port == port);
        let there = there.map(|(number, record)| (*number, record.cid));
        let number = match (tsih, there) {
            (Tsih::NEW, None) if self.is_full(&taken, &port) => {
                return Err(LoginStatus::OutOfResources);
            }
            (Tsih::NEW, _) => taken.free().ok_or(LoginStatus::OutOfResources)?,
            (tsih, Some((number, known))) if tsih.number() == number => {
                // Section 6.3.4: the same connection is made anew. Another one is one too many:
                // MaxConnections is 1.
                if cid != known {
                    return Err(LoginStatus::TooManyConnections);
                }
                number
            }
            (_, _) => return Err(LoginStatus::SessionDoesNotExist),
        };
        let replaced = there.and_then(|(number, _)| taken.sessions.remove(&number));
        let replaced = replaced.map(|record| {
            let (done, gone) = oneshot::channel();
            // Nobody's reset finds it from here on, however late its core is.
            record.running.abort_for(Scope::All, || {
                // If it has gone by itself, `done` is dropped, which says so.
                let _ = record.orders.send(Order::End(Ended::Replaced, done));
            });
            Replaced(gone)
        });
        let (own, orders) = mpsc::unbounded_channel();
        let running = Arc::<Running>::default();
        let record = Record { port, cid, orders: own.clone(), running: Arc::clone(&running) };
        taken.sessions.insert(number, record);
        let seat = Seat { seats: Arc::clone(self), tsih: Tsih::new(number), orders, own, running };
        Ok((seat, replaced))
    }

    /// Whether there is no place for one more of its kind.
    fn is_full(&self, taken: &Taken, port: &Port) -> bool {
        let Capacity { sessions, discoveries } = self.capacity;
        let most = if port.target.is_some() { sessions } else { discoveries };
        let kind = |record: &&Record| record.port.target.is_some() == port.target.is_some();
        let there = taken.sessions.values().filter(kind).count();
        u64::try_from(there).is_ok_and(|there| there >= most)
    }

    /// Gives an order to all sessions of `target` but `own`; to all, if that is no session's name.
    pub(super) fn tell(&self, target: &Name, own: Tsih, order: impl Fn() -> Order) {
        let of_target = |record: &Record| record.port.target.as_ref() == Some(target);
        for (number, record) in &self.taken.lock().sessions {
            if *number == own.number() || !of_target(record) {
                continue;
            }
            let order = order();
            let aborts = if let Order::Abort { scope, .. } = order { Some(scope) } else { None };
            let give = || {
                // Whoever has gone has no tasks any more.
                let _ = record.orders.send(order);
            };
            match aborts {
                Some(scope) => record.running.abort_for(scope, give),
                None => give(),
            }
        }
    }

    /// Asks the sessions that `initiator` has at `target` whether it is there: an answer for each.
    pub(super) fn ask(&self, target: &Name, initiator: &Name) -> Vec<oneshot::Receiver<()>> {
        let wanted = |record: &&Record| {
            record.port.target.as_ref() == Some(target) && record.port.initiator == *initiator
        };
        let ask = |record: &Record| {
            let (here, answer) = oneshot::channel();
            // Of one that has gone `here` is dropped, which says so.
            let _ = record.orders.send(Order::Ping(here));
            answer
        };
        self.taken.lock().sessions.values().filter(wanted).map(ask).collect()
    }
}

impl Taken {
    /// A name that nobody has.
    fn free(&mut self) -> Option<u16> {
        let after = (self.last..u16::MAX).map(|before| before + 1);
        let found = after.chain(1..=self.last).find(|one| !self.sessions.contains_key(one))?;
        self.last = found;
        Some(found)
    }
}

impl Seat {
    pub(super) fn tsih(&self) -> Tsih {
        self.tsih
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let sessions = &mut self.seats.taken.lock().sessions;
        // It may have been given to somebody else meanwhile.
        let number = self.tsih.number();
        if sessions.get(&number).is_some_and(|record| record.orders.same_channel(&self.own)) {
            sessions.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::session::full::TaskKey;
    use landfall_disks::Ticket;

    fn port(target: &str, isid: u8) -> Port {
        let name = |own: &str| Name::under("iqn.2026-11.com.example:", own).expect("a name");
        Port { target: Some(name(target)), initiator: name("host"), isid: Isid([isid; 6]) }
    }

    fn seats() -> Arc<Seats> {
        Arc::new(Seats::new(Capacity { sessions: 4, discoveries: 1 }))
    }

    fn take(seats: &Arc<Seats>, port: Port) -> (Seat, Option<Replaced>) {
        seats.take(port, Tsih::NEW, Cid::new(1)).expect("there is room")
    }

    #[test]
    fn each_session_has_a_name_of_its_own() {
        let seats = seats();
        let (one, none) = take(&seats, port("a", 1));
        let (two, _) = take(&seats, port("a", 2));
        assert!(none.is_none() && one.tsih() != two.tsih() && one.tsih() != Tsih::NEW);
        drop(one);
        let (three, none) = take(&seats, port("b", 1));
        assert!(none.is_none() && three.tsih() != two.tsih());
        assert_eq!(three.tsih(), Tsih::new(3), "a name that was free for a while");
    }

    #[test]
    fn names_are_given_again_as_late_as_possible() {
        let seats = seats();
        seats.taken.lock().last = u16::MAX - 1;
        let numbers = [1, 2, 3].map(|isid| take(&seats, port("a", isid)));
        let numbers = numbers.each_ref().map(|(seat, _)| seat.tsih().number());
        assert_eq!(numbers, [u16::MAX, 1, 2], "zero is none");
    }

    #[test]
    fn a_full_house_has_places_for_those_who_come_again() {
        let seats = seats();
        let mut there: Vec<_> = (0..4).map(|isid| take(&seats, port("a", isid)).0).collect();
        let one_more = |port| seats.take(port, Tsih::NEW, Cid::new(1)).map(|(seat, _)| seat);
        let refused = one_more(port("b", 1)).err();
        assert_eq!(refused, Some(LoginStatus::OutOfResources));
        let again = one_more(port("a", 2)).expect("it takes its own place");
        // Whoever discovers has a place, and not two.
        let nowhere = |isid| Port { target: None, ..port("a", isid) };
        let discovers = one_more(nowhere(1)).expect("there is one");
        assert_eq!(one_more(nowhere(2)).err(), Some(LoginStatus::OutOfResources));
        drop(there.pop());
        assert!(one_more(port("b", 1)).is_ok());
        drop((again, discovers));
    }

    #[test]
    fn who_comes_again_replaces_itself() {
        let seats = seats();
        let (mut old, _) = take(&seats, port("a", 1));
        let ticket = Ticket::default();
        old.running.begin(TaskKey::new(0), None, ticket.clone());
        let (new, replaced) = take(&seats, port("a", 1));
        assert!(ticket.is_aborted(), "no reset finds it any more");
        let mut gone = replaced.expect("somebody was there").0;
        assert!(matches!(old.orders.try_recv(), Ok(Order::End(Ended::Replaced, _))));
        assert!(matches!(gone.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        drop(old);
        let (_, replaced) = take(&seats, port("a", 1));
        assert!(replaced.is_some(), "the new one is still there");
        drop(new);
    }

    #[test]
    fn a_session_is_joined_by_its_own_connection_only() {
        let seats = seats();
        let (old, _) = take(&seats, port("a", 1));
        let tsih = old.tsih();
        let join =
            |port, tsih, cid| seats.take(port, tsih, Cid::new(cid)).map(|(seat, _)| seat.tsih());
        let none = Err(LoginStatus::SessionDoesNotExist);
        assert_eq!(join(port("a", 1), Tsih::new(99), 1), none);
        assert_eq!(join(port("a", 2), tsih, 1), none);
        assert_eq!(join(port("b", 1), tsih, 1), none);
        assert_eq!(join(port("a", 1), tsih, 2), Err(LoginStatus::TooManyConnections));
        assert_eq!(join(port("a", 1), tsih, 1), Ok(tsih));
    }

    #[test]
    fn orders_reach_the_others_of_a_target() {
        let seats = seats();
        let (mut own, _) = take(&seats, port("a", 1));
        let (mut other, _) = take(&seats, port("a", 2));
        let (mut elsewhere, _) = take(&seats, port("b", 1));
        let target = port("a", 1).target.expect("a target");
        let tickets = [&own, &other, &elsewhere].map(|seat| {
            let ticket = Ticket::default();
            seat.running.begin(TaskKey::new(0), None, ticket.clone());
            ticket
        });
        seats.tell(&target, own.tsih(), || Order::Abort {
            scope: Scope::All,
            cleared: false,
            _done: oneshot::channel().0,
        });
        assert!(other.orders.try_recv().is_ok());
        assert!(own.orders.try_recv().is_err() && elsewhere.orders.try_recv().is_err());
        let aborted = tickets.map(|ticket| ticket.is_aborted());
        assert_eq!(aborted, [false, true, false], "at once, before anybody follows");
    }
}
