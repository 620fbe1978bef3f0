//! What a request means, or why it is refused: one error per rule, in order.
//!
//! ```text
//!   1  command unknown                         EINVAL
//!   2  flag unknown, or not of this command    EINVAL
//!   3  offset or length where none belongs     EINVAL      flush
//!   4  writing to a read-only export           EPERM
//!   5  past the end of the export              ENOSPC      write, write zeroes;  EINVAL  the others
//!   6  longer than the maximum payload         EOVERFLOW   structured read;  EINVAL  simple read, write
//!   7  block status without context, or empty  EINVAL
//!   8  fast zeroes that would not be fast      ENOTSUP
//! ```
//!
//! Requests of length zero, whose behaviour the specification leaves open, succeed and do nothing, but for a block
//! status, whose reply cannot be empty.

use crate::nbd::wire::MAX_REQUEST;
use crate::nbd::wire::transmission::{Command, CommandFlags, ErrorCode, Request};
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange, Durability, ZeroMode};

/// Whether an export can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Writes are refused.
    ReadOnly,
    /// Writes are accepted.
    Writable,
}

/// Which kind of replies was negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replies {
    /// Simple ones only.
    Simple,
    /// Structured ones for reads, block status and errors.
    Structured,
}

/// A metadata context this server has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// `base:allocation`
    BaseAllocation,
}

impl Context {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::BaseAllocation];

    /// As negotiated.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseAllocation => "base:allocation",
        }
    }

    /// Whether `query` of `NBD_OPT_LIST_META_CONTEXT` asks for it: by name, or by its namespace alone.
    pub fn is_listed_by(self, query: &str) -> bool {
        let name = self.name();
        query == name || (query.ends_with(':') && name.starts_with(query))
    }
}

/// Number of a selected context in block status replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextId(u32);

impl ContextId {
    /// The context number `number`.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// As on the wire.
    pub const fn number(self) -> u32 {
        self.0
    }
}

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
    },
    /// End the connection after the requests before this one.
    Disconnect,
}

/// Why a request was refused. The text goes to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
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
}

impl RequestError {
    /// The number the client gets.
    pub const fn code(&self) -> ErrorCode {
        match self {
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
            | Self::EmptyStatus => ErrorCode::Invalid,
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
    /// What to do for `request`, or why it is refused. A refused write still has its payload behind it.
    pub fn decide(&self, request: &Request) -> Result<Action, RequestError> {
        let command = request.command;
        self.check_flags(request)?;
        match command {
            Command::Disconnect => return Ok(Action::Disconnect),
            Command::Flush if request.offset != 0 || request.length != 0 => {
                return Err(RequestError::ReservedField(command));
            }
            Command::Flush => return Ok(Action::Flush),
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
            Command::WriteZeroes => zeroes(request, range, durability),
            Command::BlockStatus => self.block_status(request, range),
            Command::Disconnect | Command::Flush => unreachable!("returned above"),
            Command::Unknown(number) => Err(RequestError::UnknownCommand(number)),
        }
    }

    fn check_flags(&self, request: &Request) -> Result<(), RequestError> {
        // FUA is valid with every command once it was offered; existing clients do send it everywhere.
        let allowed = CommandFlags::FUA.with(match request.command {
            Command::Read if self.replies == Replies::Structured => CommandFlags::DF,
            Command::WriteZeroes => CommandFlags::NO_HOLE.with(CommandFlags::FAST_ZERO),
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
            (Command::Read, Replies::Structured) => ErrorCode::Overflow,
            (Command::Read, Replies::Simple) | (Command::Write, _) => ErrorCode::Invalid,
            _ => return Ok(()),
        };
        if length > u64::from(MAX_REQUEST) {
            return Err(RequestError::TooLong { command, code, length });
        }
        Ok(())
    }

    fn fragments(&self) -> Fragments {
        match self.replies {
            Replies::Simple => Fragments::Forbidden,
            Replies::Structured => Fragments::Allowed,
        }
    }

    fn block_status(&self, request: &Request, range: ByteRange) -> Result<Action, RequestError> {
        if self.contexts.is_empty() {
            return Err(RequestError::NoContext);
        }
        if range.is_empty() {
            return Err(RequestError::EmptyStatus);
        }
        let one = request.flags.contains(CommandFlags::REQ_ONE);
        let extents = if one { Extents::One } else { Extents::Many };
        Ok(Action::BlockStatus { range, extents })
    }
}

fn zeroes(
    request: &Request,
    range: ByteRange,
    durability: Durability,
) -> Result<Action, RequestError> {
    // Whole blocks are zeroed without writing them out; the edges of others have to be.
    if request.flags.contains(CommandFlags::FAST_ZERO) && !range.is_aligned(BLOCK_SIZE) {
        return Err(RequestError::SlowZeroes(range));
    }
    let mode = if request.flags.contains(CommandFlags::NO_HOLE) {
        ZeroMode::Allocate
    } else {
        ZeroMode::Unmap
    };
    Ok(Action::WriteZeroes { range, mode, durability })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::wire::transmission::Cookie;

    const SIZE: u64 = 64 << 20;

    fn rules() -> Transmission {
        Transmission {
            size_bytes: SIZE,
            access: Access::Writable,
            replies: Replies::Structured,
            contexts: vec![(ContextId::new(1), Context::BaseAllocation)],
        }
    }

    fn request(command: Command, flags: CommandFlags, offset: u64, length: u64) -> Request {
        Request { command, flags, cookie: Cookie::new(7), offset, length }
    }

    fn plain(command: Command, offset: u64, length: u64) -> Request {
        request(command, CommandFlags::NONE, offset, length)
    }

    fn code(rules: &Transmission, request: &Request) -> Option<ErrorCode> {
        rules.decide(request).err().map(|error| error.code())
    }

    #[test]
    fn each_rule_has_its_error() {
        let rules = rules();
        let read_only = Transmission { access: Access::ReadOnly, ..rules.clone() };
        let simple = Transmission { replies: Replies::Simple, ..rules.clone() };
        let no_context = Transmission { contexts: Vec::new(), ..rules.clone() };
        let invalid = Some(ErrorCode::Invalid);
        let no_space = Some(ErrorCode::NoSpace);
        let long = u64::from(MAX_REQUEST) + 1;

        assert_eq!(code(&rules, &plain(Command::Unknown(99), 0, 0)), invalid);
        assert_eq!(code(&rules, &request(Command::Write, CommandFlags::DF, 0, 1)), invalid);
        assert_eq!(code(&rules, &request(Command::Read, CommandFlags::NO_HOLE, 0, 1)), invalid);
        let unknown_flag = CommandFlags::from_bits(1 << 9);
        assert_eq!(code(&rules, &request(Command::Cache, unknown_flag, 0, 1)), invalid);
        assert_eq!(code(&simple, &request(Command::Read, CommandFlags::DF, 0, 1)), invalid);
        assert_eq!(code(&rules, &plain(Command::Flush, 0, 1)), invalid);
        assert_eq!(code(&rules, &plain(Command::Flush, 1, 0)), invalid);
        for command in [Command::Write, Command::WriteZeroes, Command::Trim] {
            let refused = code(&read_only, &plain(command, SIZE, 512));
            assert_eq!(refused, Some(ErrorCode::NotPermitted), "{command:?}");
        }
        for command in [Command::Read, Command::Trim, Command::Cache, Command::BlockStatus] {
            assert_eq!(code(&rules, &plain(command, SIZE - 1, 2)), invalid, "{command:?}");
            assert_eq!(code(&rules, &plain(command, u64::MAX, 2)), invalid, "{command:?}");
        }
        assert_eq!(code(&rules, &plain(Command::Write, SIZE - 1, 2)), no_space);
        assert_eq!(code(&rules, &plain(Command::WriteZeroes, SIZE, 1)), no_space);
        assert_eq!(code(&rules, &plain(Command::Read, 0, long)), Some(ErrorCode::Overflow));
        assert_eq!(code(&simple, &plain(Command::Read, 0, long)), invalid);
        assert_eq!(code(&rules, &plain(Command::Write, 0, long)), invalid);
        assert_eq!(code(&rules, &plain(Command::Trim, 0, long)), None);
        assert_eq!(code(&no_context, &plain(Command::BlockStatus, 0, 1)), invalid);
        assert_eq!(code(&rules, &plain(Command::BlockStatus, 0, 0)), invalid);
        let fast = request(Command::WriteZeroes, CommandFlags::FAST_ZERO, 512, 4096);
        assert_eq!(code(&rules, &fast), Some(ErrorCode::NotSupported));
    }

    #[test]
    fn flags_choose_the_action() {
        let rules = rules();
        let range = ByteRange::at(ByteOffset::new(4096), 8192).expect("small");
        let decide = |command, flags| rules.decide(&request(command, flags, 4096, 8192));
        assert_eq!(
            decide(Command::Read, CommandFlags::DF),
            Ok(Action::Read { range, fragments: Fragments::Forbidden })
        );
        assert_eq!(
            decide(Command::Read, CommandFlags::FUA),
            Ok(Action::Read { range, fragments: Fragments::Allowed })
        );
        assert_eq!(
            decide(Command::Write, CommandFlags::FUA),
            Ok(Action::Write { range, durability: Durability::Durable })
        );
        assert_eq!(
            decide(Command::WriteZeroes, CommandFlags::NO_HOLE.with(CommandFlags::FAST_ZERO)),
            Ok(Action::WriteZeroes {
                range,
                mode: ZeroMode::Allocate,
                durability: Durability::Cached
            })
        );
        assert_eq!(
            decide(Command::BlockStatus, CommandFlags::REQ_ONE),
            Ok(Action::BlockStatus { range, extents: Extents::One })
        );
        assert_eq!(decide(Command::Disconnect, CommandFlags::DF), Ok(Action::Disconnect));
    }

    #[test]
    fn without_structured_replies_reads_are_whole() {
        let simple = Transmission { replies: Replies::Simple, ..rules() };
        let decided = simple.decide(&plain(Command::Read, 0, 0));
        let range = ByteRange::up_to(0);
        assert_eq!(decided, Ok(Action::Read { range, fragments: Fragments::Forbidden }));
    }

    #[test]
    fn wildcards_list_their_namespace_only() {
        let context = Context::BaseAllocation;
        for query in ["base:", "base:allocation"] {
            assert!(context.is_listed_by(query), "{query}");
        }
        for query in ["base:alloc", "qemu:", "base:allocation:", "b:"] {
            assert!(!context.is_listed_by(query), "{query}");
        }
    }
}
