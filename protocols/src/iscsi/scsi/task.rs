//! A command between its decision and its end.

use super::command::Command;
use super::device::LogicalUnit;
use super::operation::Operation;
use super::sense::{Sense, SenseFormat};
use super::status::Status;
use landfall_disks::{Buffer, Ticket};
use std::sync::Arc;

/// What becomes of a command.
#[derive(Debug)]
pub enum Decision {
    /// It is answered; nothing is to be done, no data-out is wanted.
    Answer(Completion),
    /// It has to be executed, with its data-out if there is some.
    Do(Task),
}

/// A command that was found right and waits for its data or its disk.
///
/// A task that is aborted is answered at once by whoever serves the session, and its future goes
/// on: dropping it would leave bytes old or new in the middle of a disk operation. It is told by
/// [`Task::ticket`] instead, which goes with every change of the disk: the disk decides, once for
/// all of them, whether the abort came in time. Then the task ends with [`Status::TaskAborted`] and
/// nobody ever sees anything of it; else it ends as if nobody had aborted it.
#[derive(Debug)]
pub struct Task {
    pub(super) command: Command,
    pub(super) unit: Arc<LogicalUnit>,
    pub(super) operation: Operation,
    /// Bytes of data-out the initiator has.
    pub(super) announced: usize,
    pub(super) ticket: Ticket,
}

impl Task {
    /// Which command it is, for counters and logs.
    pub fn command(&self) -> Command {
        self.command
    }

    /// Bytes of data-out that are needed before it is executed: no more than were announced. What
    /// was announced beyond them is thrown away.
    pub fn data_out(&self) -> usize {
        self.data_out_wanted().min(self.announced)
    }

    /// Bytes of data-out the command asks for, which may be more than were announced: what residual
    /// counts are made of.
    pub fn data_out_wanted(&self) -> usize {
        self.operation.data_out(self.unit.block_length())
    }

    /// Most bytes of data-in its completion can have: exactly as many for READ that succeeds.
    pub fn data_in_limit(&self) -> usize {
        self.operation.data_in_limit()
    }

    /// By which it is aborted.
    pub fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }
}

/// How a command ended: what goes into its response, and before it.
#[derive(Debug)]
pub struct Completion {
    /// The status.
    pub status: Status,
    /// Why, with CHECK CONDITION.
    pub sense: Option<Sense>,
    /// How the sense data is to be sent.
    pub format: SenseFormat,
    /// What the initiator reads. The transport cuts it where the initiator wants less.
    pub data_in: DataIn,
}

impl Completion {
    /// Done, nothing to send.
    pub const GOOD: Self = Self::with_status(Status::Good);

    /// A status that needs no words.
    pub const fn with_status(status: Status) -> Self {
        Self { status, sense: None, format: SenseFormat::Fixed, data_in: DataIn::Nothing }
    }

    /// CHECK CONDITION.
    pub const fn check(sense: Sense, format: SenseFormat) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: Some(sense),
            format,
            data_in: DataIn::Nothing,
        }
    }

    /// Done, with these bytes.
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self { data_in: DataIn::Bytes(bytes), ..Self::GOOD }
    }

    /// The sense data as it is sent, without its length; nothing if there is none.
    pub fn sense_bytes(&self) -> Vec<u8> {
        self.sense.map_or_else(Vec::new, |sense| sense.encode(self.format))
    }
}

/// Bytes for the initiator.
#[derive(Debug, Default)]
pub enum DataIn {
    /// None.
    #[default]
    Nothing,
    /// Some that were put together.
    Bytes(Vec<u8>),
    /// Blocks as the disk gave them.
    Blocks(Buffer),
}

impl DataIn {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Bytes(bytes) => bytes,
            Self::Blocks(buffer) => buffer,
        }
    }
}
