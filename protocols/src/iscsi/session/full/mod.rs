//! A session in its full feature phase, the target's side: what comes in, and what becomes of it.
//!
//! ```text
//!   receive ─┬─▶ numbers in order? ──┬─▶ command ─▶ data here? ─▶ room? ─▶ Effect::Start ─▶ …
//!            │   (window; those that │     … completed ─▶ response, or aborted: nobody is told
//!            │   come early wait)    ├─▶ task management ─▶ Effect::Abort, ::Manage ─▶ managed
//!            │                       ├─▶ text ─▶ Effect::Discover ─▶ discovered
//!            └─▶ Data-Out, SNACK     └─▶ NOP, logout
//! ```
//!
//! The caller hands over PDUs in the order in which they came, does what [`Session::effect`] says,
//! and sends [`Session::take_output`]. What SCSI means is asked of a [`Logical`].
//!
//! | what is limited | by |
//! |---|---|
//! | commands under way | the window, and `MAX_IMMEDIATE` |
//! | aborted commands that still run | as many again |
//! | bytes that commands hold while they are done, also aborted | the budget: what is more waits |
//! | bytes of commands that wait for turn, data or room | the window times `FirstBurstLength` |
//! | what waits to be sent, beside what was read | nothing comes in if [`Session::is_congested`] |
//! | text | `MAX_TEXT`, one negotiation at a time |
//! | resets that concern others | `MAX_IMMEDIATE` at a time |
//!
//! **Invariants**
//! - Task management is answered whatever the disks do: an aborted task that runs on is a ghost,
//!   which keeps its share of the budget until it ends, and is never told of.
//! - What was aborted does not keep others out: a ghost gives its slot back, unless there are as
//!   many as the window has slots.
//! - A task is answered once, and not after it was aborted.

mod answer;
mod manage;
mod task;
mod text;

#[cfg(test)]
mod tests;

use self::task::Held;
use self::text::Talk;
use super::batch::{Batch, Digests};
use super::collection::Fault;
use super::login::{Entered, Want};
use super::terms::{Offer, Terms};
use super::window::{Turn, Window};
use crate::iscsi::wire::control::{LogoutAnswer, LogoutReason, LogoutRequest, NopOut};
use crate::iscsi::wire::data::DataOut;
use crate::iscsi::wire::keys::MAX_TEXT;
use crate::iscsi::wire::notice::{Event, RejectReason};
use crate::iscsi::wire::number::{
    Cid, CmdSn, InitiatorTaskTag, LunField, StatSn, TargetTransferTag,
};
use crate::iscsi::wire::pdu::{HeaderError, Request};
use crate::iscsi::wire::task::{Function, TaskAnswer};
use crate::iscsi::wire::{CDB, HeaderBytes};
use landfall_disks::Buffer;
use std::collections::{HashMap, VecDeque};

/// Immediate commands that may be under way beside the window, and requests for task management
/// that concern others.
const MAX_IMMEDIATE: u32 = 16;

/// PDUs waiting to be sent beyond which nothing more should be received.
const MAX_WAITING: usize = 512;

/// Bytes of them that are in no budget, likewise. A PDU more has come by then, which has
/// `MaxRecvDataSegmentLength` at most.
const MAX_UNCHARGED: usize = 1 << 20;

/// What SCSI says of a command; the session asks it and knows nothing of it.
pub trait Logical {
    /// A command that was found right.
    type Task;

    /// What becomes of a command for which the initiator has `announced` bytes.
    fn decide(&self, lun: LunField, cdb: &[u8; CDB], announced: u32) -> Verdict<Self::Task>;

    /// How a logical unit is addressed that can be addressed in several ways; nothing if it is not
    /// there.
    fn unit(&self, lun: LunField) -> Option<LunField>;

    /// How a command ends whose data went wrong on its way.
    fn spoilt(&self, lun: LunField, fault: Fault) -> Outcome;
}

/// What becomes of a command.
#[derive(Debug)]
pub enum Verdict<T> {
    /// It is over.
    Answer(Outcome),
    /// It is to be done.
    Do(Work<T>),
}

/// A command that is to be done.
#[derive(Debug)]
pub struct Work<T> {
    /// Which.
    pub task: T,
    /// Bytes it takes before it starts: at most as many as were announced.
    pub needed: u32,
    /// Bytes it would take if there were as many.
    pub wanted: u64,
    /// Most bytes it gives.
    pub data_in: u64,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// SAM-5, 5.3.
    pub status: u8,
    /// Why, without its length in front.
    pub sense: Vec<u8>,
    /// What the initiator reads, uncut.
    pub data: Buffer,
}

/// A command that was started, also after it was aborted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskKey(u64);

#[cfg(test)]
impl TaskKey {
    /// For those who need one without a session.
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }
}

/// Task management that concerns others than this session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Management {
    /// The request's name.
    pub tag: InitiatorTaskTag,
    /// What is to be done beside what was done in this session.
    pub function: Function,
    /// To which unit.
    pub lun: LunField,
}

/// Whose tasks are aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All of the session.
    All,
    /// Those of one unit, as [`Logical::unit`] has it.
    Unit(LunField),
}

impl Scope {
    /// Whether tasks of `unit`, as [`Logical::unit`] has it, are among them.
    pub fn covers(self, unit: LunField) -> bool {
        match self {
            Self::All => true,
            Self::Unit(one) => one == unit,
        }
    }
}

/// Which targets somebody wants to know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// All that it may see.
    All,
    /// One, if it may see it.
    Named(String),
    /// That of the session.
    Own,
}

/// Why a session ends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Closing {
    /// The initiator logged out.
    #[error("the initiator logged out")]
    LoggedOut,
    /// Its login came again.
    #[error("a login came in the middle of the session")]
    Login,
}

/// What the caller has to do.
#[derive(Debug)]
pub enum Effect<T> {
    /// Do a command, and hand what came of it to [`Session::completed`].
    Start {
        /// Its name here.
        key: TaskKey,
        /// The command.
        task: T,
        /// Its data, all of it.
        data: Buffer,
    },
    /// Tell a command that it was aborted; it is still completed some time.
    Abort(TaskKey),
    /// Do task management, then call [`Session::managed`].
    Manage(Management),
    /// Look for targets, then call [`Session::discovered`].
    Discover(Which),
    /// Send the output, and close the connection.
    Close(Closing),
}

/// A PDU out of turn.
struct Early {
    request: Request,
    header: HeaderBytes,
    data: Buffer,
    /// Its unsolicited data, to the first PDU that says it is the last.
    following: Vec<(DataOut, Option<Buffer>)>,
    /// Bytes of data, those that came along among them.
    kept: usize,
    /// The last of its unsolicited data has come.
    is_over: bool,
}

impl Early {
    fn new(request: Request, header: HeaderBytes, data: Buffer) -> Self {
        let kept = data.len();
        Self { request, header, data, following: Vec::new(), kept, is_over: false }
    }

    fn is_command(&self, tag: InitiatorTaskTag) -> bool {
        matches!(&self.request, Request::Command(command) if command.task_tag == tag)
    }
}

/// What a number of the window stands for that is not its turn yet.
enum Waiting {
    Pdu(Box<Early>),
    /// It was aborted before it came.
    Aborted,
}

/// Bytes under way.
#[derive(Debug)]
struct Budget {
    limit: u64,
    held: u64,
}

impl Budget {
    /// Whether so many more fit. Alone, everything does.
    fn has_room(&self, bytes: u64) -> bool {
        bytes == 0 || self.held == 0 || self.held.saturating_add(bytes) <= self.limit
    }
}

/// A session.
pub struct Session<T> {
    want: Want,
    cid: Cid,
    offer: Offer,
    terms: Terms,
    window: Window,
    stat_sn: StatSn,
    early: HashMap<CmdSn, Waiting>,
    tasks: HashMap<InitiatorTaskTag, Held<T>>,
    keys: HashMap<TaskKey, InitiatorTaskTag>,
    /// Aborted commands that still run: whether they stood in the window, and their bytes.
    ghosts: HashMap<TaskKey, (bool, u64)>,
    /// How many of them did. Those beyond the window's length have slots.
    ghosts_of_window: u32,
    /// Those for whose bytes there is no room, the first come first.
    in_line: VecDeque<InitiatorTaskTag>,
    budget: Budget,
    immediate: u32,
    managing: u32,
    keys_given: u64,
    tags_given: u32,
    talk: Option<Talk>,
    ping: Option<TargetTransferTag>,
    closed: bool,
    output: Batch,
    effects: VecDeque<Effect<T>>,
}

impl<T> Session<T> {
    /// The session that a login led to. Commands may hold `budget` bytes at a time.
    pub fn new(entered: &Entered, offer: Offer, budget: u64) -> Self {
        let offer = offer.clamped();
        Self {
            want: entered.entering.want.clone(),
            cid: entered.entering.cid,
            offer,
            terms: entered.terms,
            window: Window::new(entered.cmd_sn, offer.window),
            stat_sn: entered.stat_sn,
            early: HashMap::new(),
            tasks: HashMap::new(),
            keys: HashMap::new(),
            ghosts: HashMap::new(),
            ghosts_of_window: 0,
            in_line: VecDeque::new(),
            budget: Budget { limit: budget, held: 0 },
            immediate: 0,
            managing: 0,
            keys_given: 0,
            tags_given: 0,
            talk: None,
            ping: None,
            closed: false,
            output: Batch::default(),
            effects: VecDeque::new(),
        }
    }

    /// What holds in it.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What is to be done next, if something is.
    pub fn effect(&mut self) -> Option<Effect<T>> {
        self.effects.pop_front()
    }

    /// What is to be sent.
    pub fn take_output(&mut self) -> Batch {
        std::mem::take(&mut self.output)
    }

    /// PDUs that are to be sent.
    pub fn output_count(&self) -> usize {
        self.output.count()
    }

    /// Whether so much is to be sent that nothing more should be received before some of it was:
    /// pings that come back and rejected headers are in no budget.
    pub fn is_congested(&self) -> bool {
        self.output.count() > MAX_WAITING || self.output.uncharged() > MAX_UNCHARGED
    }

    /// Bytes that a batch held are free: it was sent.
    pub fn sent(&mut self, held: u64) {
        self.release(held);
    }

    /// Commands that are under way, ghosts among them.
    pub fn under_way(&self) -> usize {
        self.tasks.len() + self.ghosts.len()
    }

    /// A PDU came. `data` is nothing if its digest was wrong. Additional headers are not looked at.
    pub fn received<L>(&mut self, header: &HeaderBytes, data: Option<Buffer>, logical: &L)
    where
        L: Logical<Task = T>,
    {
        if self.closed {
            return;
        }
        let request = match Request::parse(header) {
            Ok(request) => request,
            Err(HeaderError::Opcode(_)) => return self.reject(RejectReason::NotSupported, header),
            Err(HeaderError::Field(_)) => return self.reject(RejectReason::InvalidField, header),
        };
        let discovers = self.want == Want::Discovery;
        match (request, data) {
            (Request::Data(pdu), data) if !discovers => self.data_out(&pdu, header, data, logical),
            // It may come again, under its own number (section 7.8).
            (_, None) => self.reject(RejectReason::DataDigest, header),
            (Request::Text(_) | Request::Logout(_), Some(data)) => {
                self.in_order(request, header, data, logical);
            }
            // Section 4.3: a discovery session has nothing else.
            (_, Some(_)) if discovers => self.reject(RejectReason::Protocol, header),
            (Request::Snack(_), Some(_)) => self.reject(RejectReason::Snack, header),
            (Request::Login(_), Some(_)) => {
                self.reject(RejectReason::Protocol, header);
                self.close(Closing::Login);
            }
            (_, Some(data)) => self.in_order(request, header, data, logical),
        }
    }

    /// Takes requests by their numbers.
    fn in_order<L>(&mut self, request: Request, header: &HeaderBytes, data: Buffer, logical: &L)
    where
        L: Logical<Task = T>,
    {
        let (immediate, number) = numbered(&request);
        match self.window.turn(number) {
            _ if immediate => {
                self.request(&request, header, data, logical);
                // It may have aborted what the others wait for.
                self.catch_up(logical);
            }
            Turn::Outside => {}
            Turn::Next => {
                self.request(&request, header, data, logical);
                self.catch_up(logical);
            }
            Turn::Later => {
                let burst = usize::try_from(self.terms.first_burst).expect("32 bits fit a usize");
                let is_command = matches!(request, Request::Command(_));
                let most = if is_command { burst } else { burst.max(MAX_TEXT) };
                // What is too long is refused in its turn, but for a ping: so much of it comes
                // back.
                let data = if data.len() > most { Buffer::copy_of(&data[..=most]) } else { data };
                let early = Early::new(request, *header, data);
                // What came first is what it is: a second one of its number is a duplicate.
                self.early.entry(number).or_insert_with(|| Waiting::Pdu(Box::new(early)));
            }
        }
    }

    /// Takes what came early and has its turn now. What is rejected in its turn leaves a gap, which
    /// the initiator has to fill.
    fn catch_up<L>(&mut self, logical: &L)
    where
        L: Logical<Task = T>,
    {
        while !self.closed {
            let turn = self.window.expected();
            match self.early.remove(&turn) {
                None => return,
                Some(Waiting::Aborted) => self.window.pass(),
                Some(Waiting::Pdu(early)) => {
                    let Early { request, header, data, following, .. } = *early;
                    self.request(&request, &header, data, logical);
                    // Data of one that was rejected is nobody's.
                    let taken = self.window.expected() != turn;
                    for (pdu, data) in following.into_iter().filter(|_| taken) {
                        self.data_out(&pdu, &header, data, logical);
                    }
                }
            }
        }
    }

    /// A request whose turn it is. Every one but an immediate one moves the window on, if it is not
    /// rejected: the number of one that is has not come (section 7.3), and may come again.
    fn request<L>(&mut self, request: &Request, header: &HeaderBytes, data: Buffer, logical: &L)
    where
        L: Logical<Task = T>,
    {
        match request {
            Request::Nop(nop) => self.nop(nop, header, &data),
            Request::Task(task) => {
                self.take_number(task.immediate);
                self.manage(task, logical);
            }
            Request::Text(text) => self.text(text, header, &data),
            Request::Logout(logout) => self.logout(logout, header),
            Request::Command(command) => self.command(command, header, data, logical),
            Request::Login(_) | Request::Data(_) | Request::Snack(_) => {
                unreachable!("these were taken before")
            }
        }
    }

    /// A request is not rejected: its number has come.
    fn take_number(&mut self, immediate: bool) {
        if !immediate {
            self.window.pass();
        }
    }

    fn nop(&mut self, nop: &NopOut, header: &HeaderBytes, data: &[u8]) {
        if nop.task_tag != InitiatorTaskTag::RESERVED {
            self.take_number(nop.immediate);
            return self.echo(nop, data);
        }
        if !nop.immediate {
            // Section 11.18: without a tag the I bit must be set.
            return self.reject(RejectReason::Protocol, header);
        }
        if self.ping == Some(nop.transfer_tag) {
            self.ping = None;
        }
    }

    fn logout(&mut self, logout: &LogoutRequest, header: &HeaderBytes) {
        let answer = match logout.reason {
            LogoutReason::CloseSession => LogoutAnswer::Closed,
            LogoutReason::CloseConnection if logout.cid == self.cid => LogoutAnswer::Closed,
            LogoutReason::CloseConnection => LogoutAnswer::NoSuchConnection,
            LogoutReason::RemoveForRecovery => LogoutAnswer::RecoveryNotSupported,
            LogoutReason::Unknown(_) => return self.reject(RejectReason::InvalidField, header),
        };
        self.take_number(logout.immediate);
        if answer == LogoutAnswer::Closed {
            self.abort_scope(Scope::All);
        }
        self.logged_out(logout.task_tag, answer);
        if answer == LogoutAnswer::Closed {
            self.close(Closing::LoggedOut);
        }
    }

    fn close(&mut self, closing: Closing) {
        self.closed = true;
        self.effects.push_back(Effect::Close(closing));
    }

    /// Nothing came for a while: asks whether somebody is there. `false` if that was asked before
    /// and not answered.
    pub fn ping(&mut self) -> bool {
        if self.ping.is_some() || self.want == Want::Discovery {
            return false;
        }
        let tag = self.new_tag();
        self.ping = Some(tag);
        self.send_ping(tag);
        true
    }

    /// The initiator has shown that it is there, if not by an answer.
    pub fn is_there(&mut self) {
        self.ping = None;
    }

    /// Asks the initiator to log out within so many seconds.
    pub fn request_logout(&mut self, within: u16) {
        self.notify(Event::LogoutWanted { within });
    }

    /// Tells the initiator that its session ends now.
    pub fn say_dropped(&mut self) {
        let time_to_wait = self.terms.time_to_wait;
        self.notify(Event::SessionDropped { time_to_wait, time_to_retain: 0 });
    }

    /// Task management is done beside this session.
    pub fn managed(&mut self, tag: InitiatorTaskTag, answer: TaskAnswer) {
        self.managing = self.managing.checked_sub(1).expect("each request is managed once");
        self.answer_task(tag, answer);
    }

    fn new_tag(&mut self) -> TargetTransferTag {
        let tag = self.tags_given;
        // The last of all is reserved.
        self.tags_given = (tag + 1) % (u32::MAX - 1);
        TargetTransferTag::new(tag)
    }

    fn digests(&self) -> Digests {
        Digests { header: self.terms.header_digest, data: self.terms.data_digest }
    }
}

/// Whether a request stands outside the order of commands, and its number in it.
fn numbered(request: &Request) -> (bool, CmdSn) {
    match request {
        Request::Nop(pdu) => (pdu.immediate, pdu.cmd_sn),
        Request::Command(pdu) => (pdu.immediate, pdu.cmd_sn),
        Request::Task(pdu) => (pdu.immediate, pdu.cmd_sn),
        Request::Text(pdu) => (pdu.immediate, pdu.cmd_sn),
        Request::Logout(pdu) => (pdu.immediate, pdu.cmd_sn),
        Request::Login(pdu) => (true, pdu.cmd_sn),
        Request::Data(_) | Request::Snack(_) => (true, CmdSn::default()),
    }
}
