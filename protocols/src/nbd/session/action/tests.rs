//! Each rule with its error, each flag with its action.

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

/// Codes that are reserved for one command each.
#[test]
fn not_supported_is_for_fast_zeroes_and_overflow_for_reads_alone() {
    for replies in [Replies::Structured, Replies::Extended] {
        let rules = Transmission { replies, size_bytes: 1 << 40, ..rules() };
        let long = u64::from(MAX_REQUEST) + 1;
        for command in (0..10).map(Command::from) {
            for (offset, length) in [(0, long), (512, long), (0, 1 << 33), (1 << 40, 1)] {
                for bits in 0..1 << 6 {
                    let flags = CommandFlags::from_bits(bits);
                    let asked = request(command, flags, offset, length);
                    let code = code(&rules, &asked);
                    let fast = flags.contains(CommandFlags::FAST_ZERO);
                    let slow = code == Some(ErrorCode::NotSupported);
                    assert!(!slow || command == Command::WriteZeroes && fast, "{asked:?}");
                    let too_long = code == Some(ErrorCode::Overflow);
                    assert!(!too_long || command == Command::Read, "{asked:?}");
                }
            }
        }
        assert_eq!(code(&rules, &plain(Command::Read, 0, long)), Some(ErrorCode::Overflow));
        assert_eq!(code(&rules, &plain(Command::WriteZeroes, 512, 100)), None, "slow is allowed");
    }
}

#[test]
fn zeroes_of_whole_blocks_are_fast_and_the_end_cuts_none() {
    let rules = Transmission { size_bytes: SIZE + 512, ..rules() };
    let code = |offset, length| {
        code(&rules, &request(Command::WriteZeroes, CommandFlags::FAST_ZERO, offset, length))
    };
    for (offset, length) in [(0, SIZE + 512), (SIZE, 512), (SIZE - 4096, 4608), (4096, 8192)] {
        assert_eq!(code(offset, length), None, "{length} at {offset}");
    }
    for (offset, length) in [(512, SIZE), (SIZE + 256, 256), (0, SIZE + 511), (4096, 512)] {
        assert_eq!(code(offset, length), Some(ErrorCode::NotSupported), "{length} at {offset}");
    }
}

/// Once `NBD_FLAG_SEND_FUA` was sent, the flag is valid with every command, and obeyed where something is written.
#[test]
fn fua_is_taken_with_any_command_and_obeyed_by_those_that_write() {
    for replies in [Replies::Simple, Replies::Structured, Replies::Extended] {
        let rules = Transmission { replies, ..rules() };
        for command in (0..8).map(Command::from) {
            let length = if command == Command::Flush { 0 } else { 4096 };
            let decide = |flags| {
                let decided = rules.decide(&request(command, flags, 0, length));
                decided.unwrap_or_else(|error| panic!("{command:?}: {error}"))
            };
            let durability = |action| match action {
                Action::Write { durability, .. }
                | Action::WriteZeroes { durability, .. }
                | Action::Trim { durability, .. } => Some(durability),
                _ => None,
            };
            let writes = matches!(command, Command::Write | Command::WriteZeroes | Command::Trim);
            let expected = |durability| writes.then_some(durability);
            assert_eq!(durability(decide(CommandFlags::FUA)), expected(Durability::Durable));
            assert_eq!(durability(decide(CommandFlags::NONE)), expected(Durability::Cached));
        }
    }
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
        Ok(Action::WriteZeroes { range, mode: ZeroMode::Allocate, durability: Durability::Cached })
    );
    assert_eq!(
        decide(Command::BlockStatus, CommandFlags::REQ_ONE),
        Ok(Action::BlockStatus { range, extents: Extents::One, contexts: ContextSet::ALL })
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

fn extended() -> Transmission {
    Transmission { replies: Replies::Extended, ..rules() }
}

const PAYLOAD: CommandFlags = CommandFlags::PAYLOAD_LENGTH;

#[test]
fn with_extended_headers_the_flag_says_whether_there_is_a_payload() {
    let (rules, compact) = (extended(), rules());
    for command in (0..10).map(Command::from) {
        let (plain, flagged) = (plain(command, 0, 77), request(command, PAYLOAD, 0, 77));
        // A write has a payload without it, too: some clients leave it out.
        let expected = if command == Command::Write { 77 } else { 0 };
        assert_eq!(rules.payload(&plain), expected, "{command:?}");
        assert_eq!(rules.payload(&flagged), 77, "{command:?}");
        assert_eq!(compact.payload(&plain), expected, "{command:?}");
        if command != Command::Disconnect {
            assert_eq!(code(&compact, &flagged), Some(ErrorCode::Invalid), "{command:?}");
        }
    }
    let invalid = Some(ErrorCode::Invalid);
    for flags in [PAYLOAD, CommandFlags::NONE] {
        assert_eq!(code(&rules, &request(Command::Write, flags, 0, 512)), None);
    }
    for command in [Command::Read, Command::Flush, Command::Trim, Command::Cache] {
        assert_eq!(code(&rules, &request(command, PAYLOAD, 0, 512)), invalid, "{command:?}");
    }
    let long = u64::from(MAX_REQUEST) + 1;
    assert_eq!(code(&rules, &request(Command::Write, PAYLOAD, 0, long)), invalid);
    assert!(rules.longest_unwanted_payload() < long);
    assert!(compact.longest_unwanted_payload() > long);
}

#[test]
fn effects_have_64_bits_and_payloads_do_not() {
    let rules = Transmission { size_bytes: 1 << 40, ..extended() };
    let length = 5 << 32;
    let range = ByteRange::at(ByteOffset::new(4096), length).expect("small");
    let decide = |command| rules.decide(&plain(command, 4096, length));
    let durability = Durability::Cached;
    assert_eq!(decide(Command::Trim), Ok(Action::Trim { range, durability }));
    assert_eq!(decide(Command::Cache), Ok(Action::Cache { range }));
    let mode = ZeroMode::Unmap;
    assert_eq!(decide(Command::WriteZeroes), Ok(Action::WriteZeroes { range, mode, durability }));
    let (extents, contexts) = (Extents::Many, ContextSet::ALL);
    assert_eq!(decide(Command::BlockStatus), Ok(Action::BlockStatus { range, extents, contexts }));
    assert_eq!(code(&rules, &plain(Command::Read, 0, length)), Some(ErrorCode::Overflow));
}

#[test]
fn a_filter_names_selected_contexts_once() {
    let one = (ContextId::new(1), Context::BaseAllocation);
    let rules = Transmission {
        contexts: vec![one, (ContextId::new(9), Context::BaseAllocation)],
        ..extended()
    };
    let decide = |offset, length, contexts: &[u32]| {
        let filter = StatusFilter { length, contexts: contexts.to_vec() }.encode();
        let flags = PAYLOAD.with(CommandFlags::REQ_ONE);
        let asked = request(Command::BlockStatus, flags, offset, filter.len() as u64);
        assert_eq!(rules.decide(&asked), Ok(Action::FilteredStatus));
        rules.decide_filtered(&asked, &filter)
    };
    let range = ByteRange::at(ByteOffset::new(512), 4096).expect("small");
    let second = ContextSet::NONE.and(1).expect("it was not there");
    let action = |contexts| Ok(Action::BlockStatus { range, extents: Extents::One, contexts });
    assert_eq!(decide(512, 4096, &[9]), action(second));
    assert_eq!(decide(512, 4096, &[9, 1]), action(second.and(0).expect("it was not there")));
    assert_eq!(decide(512, 4096, &[]), Err(RequestError::EmptyFilter));
    assert_eq!(decide(512, 4096, &[2]), Err(RequestError::FilterContext(2)));
    assert_eq!(decide(512, 4096, &[1, 1]), Err(RequestError::FilterContext(1)));
    assert_eq!(decide(512, 0, &[1]), Err(RequestError::EmptyStatus));
    assert!(matches!(decide(SIZE, 1, &[1]), Err(RequestError::PastEnd { .. })));
    let odd = request(Command::BlockStatus, PAYLOAD, 0, 9);
    assert_eq!(rules.decide_filtered(&odd, &[0; 9]), Err(RequestError::FilterLength(9)));
    let long = request(Command::BlockStatus, PAYLOAD, 0, MAX_STATUS_FILTER + 1);
    assert_eq!(rules.decide(&long), Err(RequestError::FilterLength(MAX_STATUS_FILTER + 1)));
    let no_context = Transmission { contexts: Vec::new(), ..extended() };
    let flagged = request(Command::BlockStatus, PAYLOAD, 0, 12);
    assert!(matches!(no_context.decide(&flagged), Err(RequestError::Flags { .. })));
}
