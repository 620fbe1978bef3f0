//! Task management (section 11.5), without waiting for anything.
//!
//! What the aborted tasks were asked for and still comes is thrown away when it does; nobody waits
//! for it (the standard would have the target wait for data it has asked for, section 4.2.3.3, and
//! an initiator that hangs would keep its own reset from being answered).

use super::task::{Held, State};
use super::{Effect, Logical, MAX_IMMEDIATE, Management, Scope, Session, TaskKey, Waiting};
use crate::iscsi::session::window::Turn;
use crate::iscsi::wire::number::{CmdSn, InitiatorTaskTag, LunField};
use crate::iscsi::wire::pdu::Request;
use crate::iscsi::wire::task::{Function, TaskAnswer, TaskRequest};

impl<T> Session<T> {
    /// A request for task management whose turn it is.
    pub(super) fn manage<L>(&mut self, request: &TaskRequest, logical: &L)
    where
        L: Logical<Task = T>,
    {
        let tag = request.task_tag;
        let answer = match request.function {
            Function::AbortTask => self.abort_one(request),
            Function::TargetWarmReset | Function::TargetColdReset => {
                self.abort_early(Scope::All, request.cmd_sn, logical);
                self.abort_scope(Scope::All);
                return self.let_others_know(tag, request.function, request.lun);
            }
            Function::AbortTaskSet | Function::ClearTaskSet | Function::LogicalUnitReset => {
                match logical.unit(request.lun) {
                    None => TaskAnswer::NoSuchUnit,
                    Some(lun) => {
                        self.abort_early(Scope::Unit(lun), request.cmd_sn, logical);
                        self.abort_scope(Scope::Unit(lun));
                        if request.function != Function::AbortTaskSet {
                            return self.let_others_know(tag, request.function, lun);
                        }
                        TaskAnswer::Complete
                    }
                }
            }
            Function::TaskReassign => TaskAnswer::ReassignmentNotSupported,
            Function::ClearAca | Function::Unknown(_) => TaskAnswer::NotSupported,
        };
        self.answer_task(tag, answer);
    }

    fn let_others_know(&mut self, tag: InitiatorTaskTag, function: Function, lun: LunField) {
        if self.managing >= MAX_IMMEDIATE {
            // Its own tasks are gone; whoever floods others with resets gets no more of them.
            return self.answer_task(tag, TaskAnswer::Rejected);
        }
        self.managing += 1;
        self.effects.push_back(Effect::Manage(Management { tag, function, lun }));
    }

    /// `ABORT TASK` (section 11.5.5 says what a task that is not there means).
    fn abort_one(&mut self, request: &TaskRequest) -> TaskAnswer {
        if self.tasks.contains_key(&request.referenced_tag) {
            self.abort_tasks(&[request.referenced_tag]);
            return TaskAnswer::Complete;
        }
        let number = request.referenced_cmd_sn;
        match self.window.turn(number) {
            Turn::Outside => TaskAnswer::NoSuchTask,
            // What was not sent before the request cannot be meant (section 11.6.1).
            _ if !number.precedes(request.cmd_sn) => TaskAnswer::NoSuchTask,
            Turn::Next | Turn::Later => {
                let other = matches!(
                    self.early.get(&number),
                    Some(Waiting::Pdu(early)) if !early.is_command(request.referenced_tag)
                );
                if other {
                    return TaskAnswer::NoSuchTask;
                }
                // It has not come, or not had its turn: it counts as having come (section 11.6.1).
                self.early.insert(number, Waiting::Aborted);
                while let Some(Waiting::Aborted) = self.early.get(&self.window.expected()) {
                    self.early.remove(&self.window.expected());
                    self.window.pass();
                }
                TaskAnswer::Complete
            }
        }
    }

    /// Commands of a scope that came early are aborted, too, if they were sent before the request
    /// of number `before` (section 4.2.3.3).
    fn abort_early<L>(&mut self, scope: Scope, before: CmdSn, logical: &L)
    where
        L: Logical<Task = T>,
    {
        for (number, waiting) in &mut self.early {
            let Waiting::Pdu(early) = waiting else { continue };
            let Request::Command(command) = &early.request else { continue };
            let of_scope = match scope {
                Scope::All => true,
                Scope::Unit(lun) => logical.unit(command.lun) == Some(lun),
            };
            if of_scope && number.precedes(before) {
                *waiting = Waiting::Aborted;
            }
        }
    }

    /// Aborts all tasks of a scope, as somebody else wants it; whether there were any.
    pub fn abort(&mut self, scope: Scope) -> bool {
        let closed = self.window.is_closed();
        let any = self.abort_scope(scope);
        self.tell_of_window(closed);
        any
    }

    /// The unit that a command which runs is for, unless it was aborted.
    pub fn unit_of(&self, key: TaskKey) -> Option<LunField> {
        let held = self.tasks.get(self.keys.get(&key)?)?;
        Some(held.lun)
    }

    pub(super) fn abort_scope(&mut self, scope: Scope) -> bool {
        let of_scope = |held: &Held<T>| scope.covers(held.lun);
        let tags: Vec<_> = self.tasks.iter().filter(|(_, held)| of_scope(held)).collect();
        let tags: Vec<_> = tags.into_iter().map(|(tag, _)| *tag).collect();
        self.abort_tasks(&tags);
        !tags.is_empty()
    }

    /// All of them are gone before what they held is given to those who stand in line.
    fn abort_tasks(&mut self, tags: &[InitiatorTaskTag]) {
        let mut freed = 0;
        for tag in tags {
            let held = self.tasks.remove(tag).expect("the caller has looked");
            let charge = held.charge();
            self.in_line.retain(|waiting| waiting != tag);
            match held.state {
                State::Running(key) => {
                    self.keys.remove(&key);
                    self.add_ghost(key, !held.immediate, charge);
                    self.effects.push_back(Effect::Abort(key));
                }
                State::Collecting { .. } | State::InLine(..) | State::Moving => {
                    self.free_slot(!held.immediate);
                    freed += charge;
                }
            }
        }
        self.release(freed);
    }
}
