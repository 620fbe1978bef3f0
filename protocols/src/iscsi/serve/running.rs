//! The commands of a session that run, where other sessions abort them at once, however late the session's own core is.
//!
//! ```text
//!   a reset ──abort_for──▶ Running of every other session    its commands come to nothing from here on
//!           ──Order::Abort──▶ the session                     drops them, when its core gets to it: `followed`
//! ```
//!
//! **Invariants:** what was aborted by an order is answered to nobody: what ends while orders are not followed yet waits for that. What
//! begins meanwhile is aborted as well: the order will not spare it.

use crate::iscsi::session::full::{Scope, TaskKey};
use crate::iscsi::wire::number::LunField;
use landfall_disks::Ticket;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};

/// Commands that run, by key.
#[derive(Default)]
pub(super) struct Running(Mutex<Commands>);

#[derive(Default)]
struct Commands {
    /// Of each its unit, unless its session has aborted it before it began.
    tickets: HashMap<TaskKey, (Option<LunField>, Ticket)>,
    /// Orders of others that were not followed yet, the oldest first.
    ordered: VecDeque<Scope>,
    /// The session has aborted everything, and nothing begins any more.
    over: bool,
}

impl Commands {
    fn is_ordered(&self, unit: Option<LunField>) -> bool {
        self.ordered.iter().any(|scope| unit.is_none_or(|unit| scope.covers(unit)))
    }
}

impl Running {
    /// A command begins.
    pub(super) fn begin(&self, key: TaskKey, unit: Option<LunField>, ticket: Ticket) {
        let mut commands = self.0.lock();
        if commands.is_ordered(unit) {
            ticket.abort();
        }
        commands.tickets.insert(key, (unit, ticket));
    }

    /// It has ended. False if an order is about to drop it: then it has not until that was followed.
    pub(super) fn end(&self, key: TaskKey) -> bool {
        let mut commands = self.0.lock();
        let ordered =
            commands.tickets.get(&key).is_some_and(|(unit, _)| commands.is_ordered(*unit));
        if !ordered {
            commands.tickets.remove(&key);
        }
        !ordered
    }

    /// Aborts one; whether that was in time, also if somebody else had done so before.
    pub(super) fn abort(&self, key: TaskKey) -> bool {
        self.0.lock().tickets.get(&key).is_none_or(|(_, ticket)| ticket.abort())
    }

    /// Aborts all of a scope for another session, and gives the order to do so meanwhile: what it does not spare has begun before.
    pub(super) fn abort_for(&self, scope: Scope, give_order: impl FnOnce()) {
        let mut commands = self.0.lock();
        give_order();
        if commands.over {
            return;
        }
        commands.ordered.push_back(scope);
        for (unit, ticket) in commands.tickets.values() {
            if unit.is_none_or(|unit| scope.covers(unit)) {
                ticket.abort();
            }
        }
    }

    /// The oldest order to abort was followed.
    pub(super) fn followed(&self) {
        self.0.lock().ordered.pop_front();
    }

    /// The session has aborted everything, whatever the orders.
    pub(super) fn over(&self) {
        let mut commands = self.0.lock();
        commands.over = true;
        commands.ordered.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: LunField = LunField([0; 8]);
    const OTHER: LunField = LunField([0, 1, 0, 0, 0, 0, 0, 0]);

    #[test]
    fn what_an_order_does_not_spare_is_aborted_at_once_and_waits_for_it() {
        let running = Running::default();
        let [one, other, late] = [0, 1, 2].map(TaskKey::new);
        let tickets = [(); 3].map(|()| Ticket::default());
        running.begin(one, Some(UNIT), tickets[0].clone());
        running.begin(other, Some(OTHER), tickets[1].clone());
        running.abort_for(Scope::Unit(UNIT), || assert!(!tickets[0].is_aborted(), "not yet"));
        running.begin(late, Some(UNIT), tickets[2].clone());
        assert!(tickets[0].is_aborted() && tickets[2].is_aborted() && !tickets[1].is_aborted());
        assert!(!running.end(one) && !running.end(late) && running.end(other));
        assert!(running.abort(one), "it was in time");
        running.followed();
        assert!(running.end(one) && running.end(late));
        assert!(running.abort(one), "there is nothing to be late for");
    }

    #[test]
    fn orders_are_followed_one_by_one_and_by_no_session_that_is_over() {
        let running = Running::default();
        let (key, ticket) = (TaskKey::new(0), Ticket::default());
        running.begin(key, Some(UNIT), ticket);
        for scope in [Scope::Unit(OTHER), Scope::All] {
            running.abort_for(scope, || {});
        }
        running.followed();
        assert!(!running.end(key));
        running.over();
        running.abort_for(Scope::All, || {});
        assert!(running.end(key), "nobody follows it");
    }
}
