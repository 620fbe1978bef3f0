//! Tasks: SCSI commands on their way to the disks and back, and task management where it concerns
//! more than this session.
//!
//! What it means for this session alone is decided without waiting (`session/full/manage.rs`).

use super::{Connection, Ended};
use crate::iscsi::counters::{add, count};
use crate::iscsi::scsi::{Lun, ResetScope, Task};
use crate::iscsi::serve::ORDER_TIME;
use crate::iscsi::serve::seats::Order;
use crate::iscsi::serve::units::{is_good, outcome};
use crate::iscsi::session::full::{Management, Scope, TaskKey};
use crate::iscsi::wire::task::{Function, TaskAnswer};
use futures_util::future::join_all;
use landfall_disks::Buffer;
use landfall_disks::uring::{spawn, timeout};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::oneshot;

impl Connection {
    /// Starts a command: on its way to the disk and back, which nothing else waits for.
    pub(super) fn start(self: &Rc<Self>, key: TaskKey, task: Task, data: Buffer) {
        let counters = &self.service.counters;
        count(&counters.commands);
        add(&counters.bytes_written, data.len());
        let unit = self.session.borrow().unit_of(key);
        self.running.begin(key, unit, task.ticket());
        let connection = Rc::clone(self);
        spawn(async move {
            let nexus = connection.units.0.as_ref().expect("commands have a nexus");
            let outcome = outcome(nexus.execute(&task, data).await);
            while !connection.running.end(key) {
                // It is no task any more once that was followed, and is not answered.
                connection.followed.notified().await;
            }
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

    /// Tells a command that runs that it was aborted.
    pub(super) fn abort(&self, key: TaskKey) {
        let counters = &self.service.counters;
        let in_time = self.running.abort(key);
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

    /// Task management that concerns other sessions and the units themselves.
    pub(super) async fn manage(self: &Rc<Self>, Management { tag, function, lun }: Management) {
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
            tracing::warn!(
                %visitor, ?function, left_out,
                "an iSCSI session is late to abort its tasks"
            );
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
            let end = || Order::End(Ended::Reset, oneshot::channel().0);
            self.service.seats.tell(target, self.tsih, end);
            self.finish(Ended::Reset);
        }
    }
}
