//! Commands under way.
//!
//! ```text
//!   command ─▶ Collecting ─▶ InLine ─▶ Running ─▶ answered
//!                  │            │         └─▶ aborted: ghost ─▶ forgotten
//!                  └────────────┴───────────▶ aborted: forgotten
//! ```
//!
//! Whoever collects data that it has to ask for stands in line first: it is asked for when there is
//! room. Whoever holds bytes when it is done starts when there is room, whatever the flags of its
//! PDU say of a direction.

use super::{Effect, Logical, MAX_IMMEDIATE, Outcome, Session, TaskKey, Verdict, Waiting, Work};
use crate::iscsi::session::collection::{Collection, Fault};
use crate::iscsi::wire::HeaderBytes;
use crate::iscsi::wire::command::ScsiCommand;
use crate::iscsi::wire::data::DataOut;
use crate::iscsi::wire::notice::RejectReason;
use crate::iscsi::wire::number::{InitiatorTaskTag, LunField, TargetTransferTag};
use landfall_disks::Buffer;

/// Length of a Data-Out, in bytes, below which there are too many of them in a burst for all to be
/// kept out of turn.
const SHORT_PDU: usize = 512;

/// What becomes of a command when its data is here.
pub(super) enum Then<T> {
    Do(T),
    Answer(Outcome),
}

pub(super) enum State<T> {
    /// Its data comes.
    Collecting { collection: Collection, then: Then<T> },
    /// Its data is here, and there is no room for what it holds while it is done.
    InLine(T, Buffer),
    /// It is being done.
    Running(TaskKey),
    /// Between two of these.
    Moving,
}

/// A command under way.
pub(super) struct Held<T> {
    /// As [`Logical::unit`] has it, if the unit is there.
    pub(super) lun: LunField,
    /// As the initiator wrote it: requests for data repeat it (section 11.8).
    written: LunField,
    /// It stands outside the window.
    pub(super) immediate: bool,
    /// Bytes that the initiator expects to be transferred.
    pub(super) expected: u32,
    pub(super) reads: bool,
    pub(super) writes: bool,
    /// Bytes it would take if there were as many.
    pub(super) wanted: u64,
    /// R2Ts that were sent.
    pub(super) requests: u32,
    /// Bytes it has to have room for.
    cost: u64,
    /// They are counted.
    pub(super) charged: bool,
    pub(super) state: State<T>,
}

impl<T> Held<T> {
    /// Bytes that are counted for it.
    pub(super) fn charge(&self) -> u64 {
        if self.charged { self.cost } else { 0 }
    }
}

impl<T> Session<T> {
    /// A SCSI command whose turn it is.
    pub(super) fn command<L>(
        &mut self,
        command: &ScsiCommand,
        header: &HeaderBytes,
        data: Buffer,
        logical: &L,
    ) where
        L: Logical<Task = T>,
    {
        let tag = command.task_tag;
        let refused = if tag == InitiatorTaskTag::RESERVED {
            Some(RejectReason::InvalidField)
        } else if self.tasks.contains_key(&tag) {
            Some(RejectReason::TaskInProgress)
        } else if command.immediate && self.immediate >= MAX_IMMEDIATE {
            Some(RejectReason::TooManyImmediate)
        } else {
            None
        };
        if let Some(reason) = refused {
            return self.reject(reason, header);
        }
        if command.immediate {
            self.immediate += 1;
        } else {
            self.window.occupy();
        }
        let announced = if command.writes { command.expected_length } else { 0 };
        let mut held = Held {
            lun: logical.unit(command.lun).unwrap_or(command.lun),
            written: command.lun,
            immediate: command.immediate,
            expected: command.expected_length,
            reads: command.reads,
            writes: command.writes,
            wanted: 0,
            requests: 0,
            cost: 0,
            charged: false,
            state: State::Moving,
        };
        let (needed, then) = match logical.decide(command.lun, &command.cdb, announced) {
            Verdict::Answer(outcome) => (0, Then::Answer(outcome)),
            Verdict::Do(Work { task, needed, wanted, data_in }) => {
                held.wanted = wanted;
                held.cost = u64::from(needed).max(data_in);
                (needed, Then::Do(task))
            }
        };
        let is_final = command.is_final || !command.writes;
        let amounts = (needed.min(announced), announced);
        let collection = Collection::new(&self.terms, amounts, data, is_final);
        held.state = State::Collecting { collection, then };
        self.tasks.insert(tag, held);
        self.advance(tag, logical);
    }

    /// Data of a command. `None`: its digest was wrong.
    pub(super) fn data_out<L>(
        &mut self,
        pdu: &DataOut,
        header: &HeaderBytes,
        data: Option<Buffer>,
        logical: &L,
    ) where
        L: Logical<Task = T>,
    {
        if data.is_none() {
            self.reject(RejectReason::DataDigest, header);
        }
        match self.tasks.get_mut(&pdu.task_tag) {
            Some(Held { state: State::Collecting { collection, .. }, .. })
                if collection.expects(pdu.transfer_tag) =>
            {
                collection.add(pdu, data);
                self.advance(pdu.task_tag, logical);
            }
            Some(_) => self.reject(RejectReason::InvalidField, header),
            // Of a command that waits for its turn, that was aborted or ended before its data had
            // come, or that was ignored.
            None => self.keep_early(pdu, data),
        }
    }

    fn keep_early(&mut self, pdu: &DataOut, data: Option<Buffer>) {
        let first_burst = usize::try_from(self.terms.first_burst).expect("32 bits fit a usize");
        let of_it = self.early.values_mut().find_map(|waiting| match waiting {
            Waiting::Pdu(early) => Some(early).filter(|early| early.is_command(pdu.task_tag)),
            Waiting::Aborted => None,
        });
        let Some(early) = of_it.filter(|early| !early.is_over) else { return };
        // Beyond that it is spoilt anyway, and no data spoils it as well.
        let data = data.filter(|data| early.kept + data.len() <= first_burst);
        early.is_over = pdu.is_final;
        if early.following.len() <= first_burst / SHORT_PDU || pdu.is_final {
            early.kept += data.as_ref().map_or(0, |data| data.len());
            early.following.push((*pdu, data));
        }
    }

    /// Moves a command on whose data may be complete.
    fn advance<L>(&mut self, tag: InitiatorTaskTag, logical: &L)
    where
        L: Logical<Task = T>,
    {
        let Some(held) = self.tasks.get_mut(&tag) else { return };
        let State::Collecting { collection, .. } = &held.state else { return };
        if !collection.is_complete() {
            return self.ask(tag);
        }
        let State::Collecting { collection, then } =
            std::mem::replace(&mut held.state, State::Moving)
        else {
            unreachable!("it was looked at just now")
        };
        match (collection.fault(), then) {
            (Some(fault), _) => self.spoil(tag, fault, logical),
            (None, Then::Answer(outcome)) => self.finish(tag, outcome),
            (None, Then::Do(task)) => {
                let data = collection.into_data();
                if self.has_turn(tag) {
                    return self.start(tag, task, data);
                }
                self.tasks.get_mut(&tag).expect("it is under way").state =
                    State::InLine(task, data);
                self.wait(tag);
            }
        }
    }

    fn spoil<L>(&mut self, tag: InitiatorTaskTag, fault: Fault, logical: &L)
    where
        L: Logical<Task = T>,
    {
        let lun = self.tasks[&tag].lun;
        self.finish(tag, logical.spoilt(lun, fault));
    }

    /// Whether a command may hold what it has to: behind those who stand in line, however little it
    /// is. Otherwise a large one would never have its turn beside many small ones.
    fn has_turn(&self, tag: InitiatorTaskTag) -> bool {
        let held = &self.tasks[&tag];
        let has_room = || self.in_line.is_empty() && self.budget.has_room(held.cost);
        held.charged || held.cost == 0 || has_room()
    }

    fn wait(&mut self, tag: InitiatorTaskTag) {
        if !self.in_line.contains(&tag) {
            self.in_line.push_back(tag);
        }
    }

    /// Counts the bytes of a command.
    fn charge(&mut self, tag: InitiatorTaskTag) {
        let held = self.tasks.get_mut(&tag).expect("it is under way");
        if !held.charged {
            held.charged = true;
            self.budget.held += held.cost;
        }
    }

    fn start(&mut self, tag: InitiatorTaskTag, task: T, data: Buffer) {
        self.charge(tag);
        let key = TaskKey(self.keys_given);
        self.keys_given += 1;
        self.keys.insert(key, tag);
        self.tasks.get_mut(&tag).expect("it is under way").state = State::Running(key);
        self.effects.push_back(Effect::Start { key, task, data });
    }

    /// Asks for data of a command, if there is room for it.
    fn ask(&mut self, tag: InitiatorTaskTag) {
        if !self.has_turn(tag) {
            return self.wait(tag);
        }
        self.charge(tag);
        loop {
            let transfer_tag = self.new_tag();
            let held = self.tasks.get_mut(&tag).expect("it is under way");
            let State::Collecting { collection, .. } = &mut held.state else { return };
            let Some(wanted) = collection.ask(&self.terms, transfer_tag) else { return };
            held.requests = collection.requests().number();
            let lun = held.written;
            self.send_request(tag, lun, &wanted);
        }
    }

    /// `bytes` are free; those who stand in line come on.
    pub(super) fn release(&mut self, bytes: u64) {
        self.budget.held =
            self.budget.held.checked_sub(bytes).expect("no more is freed than was held");
        while let Some(tag) = self.in_line.front().copied() {
            let Some(held) = self.tasks.get_mut(&tag) else {
                self.in_line.pop_front();
                continue;
            };
            if !held.charged && !self.budget.has_room(held.cost) {
                return;
            }
            self.in_line.pop_front();
            match std::mem::replace(&mut held.state, State::Moving) {
                State::InLine(task, data) => self.start(tag, task, data),
                state => {
                    held.state = state;
                    self.charge(tag);
                    self.ask(tag);
                }
            }
        }
    }

    /// A command was done.
    pub fn completed(&mut self, key: TaskKey, outcome: Outcome) {
        if let Some((of_window, bytes)) = self.ghosts.remove(&key) {
            let closed = self.window.is_closed();
            self.lay_ghost(of_window);
            self.tell_of_window(closed);
            return self.release(bytes);
        }
        let tag = self.keys.remove(&key).expect("it was started here, and not completed yet");
        self.finish(tag, outcome);
    }

    /// Answers a command, and forgets it.
    fn finish(&mut self, tag: InitiatorTaskTag, outcome: Outcome) {
        let held = self.tasks.remove(&tag).expect("it is under way");
        self.in_line.retain(|waiting| *waiting != tag);
        self.free_slot(!held.immediate);
        let charge = held.charge();
        let was_running = matches!(held.state, State::Running(_));
        let sends = held.reads && !outcome.data.is_empty();
        self.answer_command(tag, &held, outcome);
        if sends && was_running {
            // Its bytes are in the output.
            self.output.hold(charge);
        } else {
            self.release(charge);
        }
    }

    /// A command that runs was aborted.
    pub(super) fn add_ghost(&mut self, key: TaskKey, of_window: bool, bytes: u64) {
        self.ghosts.insert(key, (of_window, bytes));
        if of_window {
            self.ghosts_of_window += 1;
            if self.ghosts_of_window <= self.offer.window {
                self.window.free();
            }
        }
    }

    /// A ghost has ended.
    fn lay_ghost(&mut self, of_window: bool) {
        if !of_window {
            return self.free_slot(false);
        }
        if self.ghosts_of_window > self.offer.window {
            self.window.free();
        }
        self.ghosts_of_window -= 1;
    }

    /// If the window was closed and is open now, and no answer says so, a NOP-In does (section
    /// 4.2.2.1): the initiator would wait for it for ever.
    pub(super) fn tell_of_window(&mut self, was_closed: bool) {
        if was_closed && !self.window.is_closed() {
            self.send_ping(TargetTransferTag::RESERVED);
        }
    }

    pub(super) fn free_slot(&mut self, of_window: bool) {
        if of_window {
            self.window.free();
        } else {
            self.immediate -= 1;
        }
    }
}
