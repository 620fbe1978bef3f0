//! What a request means, or why it is refused: one error per rule, in order.
//!
//! ```text
//!   1  command unknown                         EINVAL
//!   2  flag unknown, or not of this command    EINVAL      a payload where none belongs, too
//!   3  offset or length where none belongs     EINVAL      flush
//!   4  writing to a read-only export           EPERM
//!   5  past the end of the export              ENOSPC      write, write zeroes;  EINVAL  the others
//!   6  longer than the maximum payload         EOVERFLOW   structured read;  EINVAL  simple read, write
//!   7  block status without context, or empty  EINVAL
//!   8  fast zeroes that would not be fast      ENOTSUP
//!   9  contexts not selected, named twice, none  EINVAL    block status with a payload
//! ```
//!
//! QEMU (seen with version 10) negotiates extended headers and then writes without `NBD_CMD_FLAG_PAYLOAD_LEN`, the payload
//! behind it all the same. The specification has clients set it; a write without is taken as one with it, as QEMU's own
//! server does, since a client that left the payload out would have nothing to write.
//!
//! Requests of length zero, whose behaviour the specification leaves open, succeed and do nothing, but for a block
//! status, whose reply cannot be empty.

use super::terms::{Access, Context, ContextId, ContextSet, Replies};
use crate::nbd::wire::extended::{MAX_STATUS_FILTER, StatusFilter};
use crate::nbd::wire::transmission::{Command, CommandFlags, ErrorCode, Request};
use crate::nbd::wire::{MAX_REQUEST, MAX_SKIPPED_PAYLOAD};
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange, Durability, ZeroMode};

/// Whether the reply to a read may come in several pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragments {
    /// Data and holes, as many as fit.
    Allowed,
    /// One piece of data.
    Forbidden,
}

/// How many descriptors the reply to a block status has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extents {
    /// One.
    One,
    /// As many as there are.
    Many,
}

/// A request that passed every check. Ranges lie within the export and may be empty but for `BlockStatus`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send the bytes.
    Read {
        /// Where; at most [`MAX_REQUEST`] long.
        range: ByteRange,
        /// How.
        fragments: Fragments,
    },
    /// Store the payload.
    Write {
        /// Where; at most [`MAX_REQUEST`] long.
        range: ByteRange,
        /// How safely.
        durability: Durability,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Where.
        range: ByteRange,
        /// Whether space may be given back.
        mode: ZeroMode,
        /// How safely.
        durability: Durability,
    },
    /// The content is no longer needed.
    Trim {
        /// Where.
        range: ByteRange,
        /// How safely.
        durability: Durability,
    },
    /// Make completed writes durable.
    Flush,
    /// The range will be wanted soon.
    Cache {
        /// Where.
        range: ByteRange,
    },
    /// Describe the range.
    BlockStatus {
        /// Where; not empty.
        range: ByteRange,
        /// In how many pieces.
        extents: Extents,
        /// In which contexts.
        contexts: ContextSet,
    },
    /// Describe a range that the payload names: hand it to [`Transmission::decide_filtered`].
    FilteredStatus,
    /// End the connection after the requests before this one.
    Disconnect,
}

/// Why a request was refused. The text goes to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// Before any rule.
    #[error("the server is being shut down")]
    Stopping,
    /// Rule 1.
    #[error("command {0} is not known")]
    UnknownCommand(u16),
    /// Rule 2.
    #[error("flags {flags:#x} are not allowed with {command:?}")]
    Flags {
        /// The command.
        command: Command,
        /// Those that are too many.
        flags: u16,
    },
    /// Rule 3.
    #[error("{0:?} takes neither offset nor length")]
    ReservedField(Command),
    /// Rule 4.
    #[error("the export is read-only")]
    ReadOnly,
    /// Rule 5.
    #[error("{length} bytes at {offset} reach past the end of the export ({size_bytes} bytes)")]
    PastEnd {
        /// The command.
        command: Command,
        /// Where it starts.
        offset: u64,
        /// How far it reaches.
        length: u64,
        /// Where the export ends.
        size_bytes: u64,
    },
    /// Rule 6.
    #[error("{length} bytes are more than the maximum payload of {MAX_REQUEST}")]
    TooLong {
        /// The command.
        command: Command,
        /// The error this gives.
        code: ErrorCode,
        /// Its length.
        length: u64,
    },
    /// Rule 7.
    #[error("no metadata context was selected for this export")]
    NoContext,
    /// Rule 7.
    #[error("the block status of no bytes has no answer")]
    EmptyStatus,
    /// Rule 8.
    #[error("zeroes at {0} are not whole blocks, so they are not faster than a write")]
    SlowZeroes(ByteRange),
    /// Rule 9.
    #[error("a payload of {0} bytes is no list of contexts")]
    FilterLength(u64),
    /// Rule 9.
    #[error("context {0} was not selected, or is named twice")]
    FilterContext(u32),
    /// Rule 9: a chunk is due for each context, so there would be nothing to answer.
    #[error("the list of contexts is empty")]
    EmptyFilter,
}

impl RequestError {
    /// The number the client gets.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Stopping => ErrorCode::Shutdown,
            Self::ReadOnly => ErrorCode::NotPermitted,
            Self::PastEnd { command: Command::Write | Command::WriteZeroes, .. } => {
                ErrorCode::NoSpace
            }
            Self::TooLong { code, .. } => *code,
            Self::SlowZeroes(_) => ErrorCode::NotSupported,
            Self::UnknownCommand(_)
            | Self::Flags { .. }
            | Self::ReservedField(_)
            | Self::PastEnd { .. }
            | Self::NoContext
            | Self::EmptyStatus
            | Self::FilterLength(_)
            | Self::FilterContext(_)
            | Self::EmptyFilter => ErrorCode::Invalid,
        }
    }
}

/// The rules of one connection after negotiation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmission {
    /// Size of the export as it was announced.
    pub size_bytes: u64,
    /// Whether it can be written.
    pub access: Access,
    /// How replies look.
    pub replies: Replies,
    /// Selected contexts with the numbers the client was given.
    pub contexts: Vec<(ContextId, Context)>,
}

impl Transmission {
    /// Bytes of payload that follow `request`, whether it is refused or not.
    pub fn payload(&self, request: &Request) -> u64 {
        let flagged = self.replies == Replies::Extended
            && request.flags.contains(CommandFlags::PAYLOAD_LENGTH);
        if flagged || request.command == Command::Write { request.length } else { 0 }
    }

    /// Longest payload, in bytes, that is thrown away to answer a refused request. Beyond it the client is cut off: with
    /// extended headers as soon as the announced maximum is exceeded, as the specification asks.
    pub fn longest_unwanted_payload(&self) -> u64 {
        u64::from(match self.replies {
            Replies::Simple | Replies::Structured => MAX_SKIPPED_PAYLOAD,
            Replies::Extended => MAX_REQUEST,
        })
    }

    /// What to do for `request`, or why it is refused. A refused request still has its payload behind it.
    pub fn decide(&self, request: &Request) -> Result<Action, RequestError> {
        let command = request.command;
        self.check_flags(request)?;
        match command {
            Command::Disconnect => return Ok(Action::Disconnect),
            Command::Flush if request.offset != 0 || request.length != 0 => {
                return Err(RequestError::ReservedField(command));
            }
            Command::Flush => return Ok(Action::Flush),
            Command::BlockStatus if self.payload(request) > 0 => {
                return match request.length {
                    ..=MAX_STATUS_FILTER => Ok(Action::FilteredStatus),
                    length => Err(RequestError::FilterLength(length)),
                };
            }
            _ => {}
        }
        let writes = matches!(command, Command::Write | Command::WriteZeroes | Command::Trim);
        if writes && self.access == Access::ReadOnly {
            return Err(RequestError::ReadOnly);
        }
        let range = self.range(request)?;
        self.check_payload(request)?;
        let durability = if request.flags.contains(CommandFlags::FUA) {
            Durability::Durable
        } else {
            Durability::Cached
        };
        match command {
            Command::Read if request.flags.contains(CommandFlags::DF) => {
                Ok(Action::Read { range, fragments: Fragments::Forbidden })
            }
            Command::Read => Ok(Action::Read { range, fragments: self.fragments() }),
            Command::Write => Ok(Action::Write { range, durability }),
            Command::Trim => Ok(Action::Trim { range, durability }),
            Command::Cache => Ok(Action::Cache { range }),
            Command::WriteZeroes => self.zeroes(request, range, durability),
            Command::BlockStatus => self.block_status(request, range, ContextSet::ALL),
            Command::Disconnect | Command::Flush => unreachable!("returned above"),
            Command::Unknown(number) => Err(RequestError::UnknownCommand(number)),
        }
    }

    /// What to do for a request that was decided to be [`Action::FilteredStatus`], once its payload is there.
    pub fn decide_filtered(
        &self,
        request: &Request,
        payload: &[u8],
    ) -> Result<Action, RequestError> {
        let filter =
            StatusFilter::parse(payload).ok_or(RequestError::FilterLength(request.length))?;
        if filter.contexts.is_empty() {
            return Err(RequestError::EmptyFilter);
        }
        let mut chosen = ContextSet::NONE;
        for number in filter.contexts {
            let place = self.contexts.iter().position(|(id, _)| id.number() == number);
            let more = place.and_then(|place| chosen.and(place));
            chosen = more.ok_or(RequestError::FilterContext(number))?;
        }
        let asked = Request { length: filter.length, ..*request };
        self.block_status(&asked, self.range(&asked)?, chosen)
    }

    fn check_flags(&self, request: &Request) -> Result<(), RequestError> {
        // FUA is valid with every command once it was offered; existing clients do send it everywhere.
        let allowed = CommandFlags::FUA.with(match request.command {
            Command::Read if self.replies != Replies::Simple => CommandFlags::DF,
            Command::Write if self.replies == Replies::Extended => CommandFlags::PAYLOAD_LENGTH,
            Command::WriteZeroes => CommandFlags::NO_HOLE.with(CommandFlags::FAST_ZERO),
            Command::BlockStatus if self.takes_filters() => {
                CommandFlags::REQ_ONE.with(CommandFlags::PAYLOAD_LENGTH)
            }
            Command::BlockStatus => CommandFlags::REQ_ONE,
            Command::Unknown(number) => return Err(RequestError::UnknownCommand(number)),
            _ => CommandFlags::NONE,
        });
        let flags = request.flags.without(allowed).bits();
        // Nothing can be answered to a disconnect, so its flags do not matter either.
        if flags != 0 && request.command != Command::Disconnect {
            return Err(RequestError::Flags { command: request.command, flags });
        }
        Ok(())
    }

    /// Whether a block status may say for which contexts, which is announced where there are any.
    fn takes_filters(&self) -> bool {
        self.replies == Replies::Extended && !self.contexts.is_empty()
    }

    fn range(&self, request: &Request) -> Result<ByteRange, RequestError> {
        ByteRange::at(ByteOffset::new(request.offset), request.length)
            .filter(|range| ByteRange::up_to(self.size_bytes).contains(*range))
            .ok_or(RequestError::PastEnd {
                command: request.command,
                offset: request.offset,
                length: request.length,
                size_bytes: self.size_bytes,
            })
    }

    fn check_payload(&self, request: &Request) -> Result<(), RequestError> {
        let (command, length) = (request.command, request.length);
        let code = match (command, self.replies) {
            (Command::Read, Replies::Simple) | (Command::Write, _) => ErrorCode::Invalid,
            (Command::Read, Replies::Structured | Replies::Extended) => ErrorCode::Overflow,
            _ => return Ok(()),
        };
        if length > u64::from(MAX_REQUEST) {
            return Err(RequestError::TooLong { command, code, length });
        }
        Ok(())
    }

    fn zeroes(
        &self,
        request: &Request,
        range: ByteRange,
        durability: Durability,
    ) -> Result<Action, RequestError> {
        // Whole blocks are zeroed without writing them out; the edges of others have to be. The last block may be cut by the end
        // of the export, and is whole all the same.
        let ends_whole = range.end().bytes() == self.size_bytes
            || range.end().bytes().is_multiple_of(BLOCK_SIZE);
        let whole = range.start().bytes().is_multiple_of(BLOCK_SIZE) && ends_whole;
        if request.flags.contains(CommandFlags::FAST_ZERO) && !whole {
            return Err(RequestError::SlowZeroes(range));
        }
        let mode = if request.flags.contains(CommandFlags::NO_HOLE) {
            ZeroMode::Allocate
        } else {
            ZeroMode::Unmap
        };
        Ok(Action::WriteZeroes { range, mode, durability })
    }

    fn fragments(&self) -> Fragments {
        match self.replies {
            Replies::Simple => Fragments::Forbidden,
            Replies::Structured | Replies::Extended => Fragments::Allowed,
        }
    }

    fn block_status(
        &self,
        request: &Request,
        range: ByteRange,
        contexts: ContextSet,
    ) -> Result<Action, RequestError> {
        if self.contexts.is_empty() {
            return Err(RequestError::NoContext);
        }
        if range.is_empty() {
            return Err(RequestError::EmptyStatus);
        }
        let one = request.flags.contains(CommandFlags::REQ_ONE);
        let extents = if one { Extents::One } else { Extents::Many };
        Ok(Action::BlockStatus { range, extents, contexts })
    }
}

#[cfg(test)]
mod tests;
