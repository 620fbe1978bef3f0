//! The client against the server's session, in memory, and against servers that break the rules.

use super::*;
use crate::nbd::export::OpenError;
use crate::nbd::session::{
    Access, Answer, Batch, ContextId, End, ExportFacts, Failure, Handshake, Piece, Replies,
    StatusExtent, Step, TlsMode,
};
use crate::nbd::wire::transmission::{
    ChunkHeader, ChunkKind, Command, CommandFlags, Cookie, Request, SimpleReply,
};
use landfall_disks::{Buffer, ByteOffset, Content, MappedRange};
use proptest::prelude::*;
use zerocopy::IntoBytes;

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(start), length).expect("small")
}

fn asked(command: Command, cookie: Cookie) -> Request {
    Request { command, flags: CommandFlags::NONE, cookie, offset: 0, length: 0 }
}

/// Runs both negotiations against each other.
fn negotiate_in_memory(name: &str) -> Result<(RemoteExport, End), ClientError> {
    let (mut client, mut server) = (Negotiation::new(name), Handshake::new(TlsMode::Off));
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    loop {
        to_client.extend(server.take_output());
        to_server.extend(client.take_output());
        if let ClientStep::Receive(wanted) = client.step()
            && wanted <= to_client.len()
        {
            let data: Vec<_> = to_client.drain(..wanted).collect();
            client.received(&data)?;
            continue;
        }
        match server.step() {
            Step::Receive(wanted) if wanted <= to_server.len() => {
                let data: Vec<_> = to_server.drain(..wanted).collect();
                server.received(&data);
            }
            Step::Open(name) if name == "disk" => server.opened(Ok(&ExportFacts {
                name: "disk@9".into(),
                description: "nine".into(),
                size_bytes: 1 << 20,
                access: Access::ReadOnly,
                multi_conn: false,
                preferred_block: 4096,
            })),
            Step::Open(name) => server.opened(Err(&OpenError::Unknown(format!("no {name}")))),
            Step::End(end) => match client.step() {
                ClientStep::Ready(export) => return Ok((export, end)),
                ClientStep::Receive(_) => panic!("{end:?}, and the client waits"),
            },
            other => panic!("both sides wait: {other:?}"),
        }
    }
}

#[test]
fn both_sides_agree_on_what_was_negotiated() {
    let (export, end) = negotiate_in_memory("disk").expect("negotiated");
    let End::Transmission(negotiated) = end else { panic!("{end:?}") };
    assert_eq!((export.name.as_str(), export.description.as_str()), ("disk@9", "nine"));
    assert_eq!(export.size_bytes, negotiated.transmission.size_bytes);
    assert_eq!(export.replies, Replies::Structured);
    let (id, _) = negotiated.transmission.contexts[0];
    assert_eq!(export.allocation, Some(id));
}

#[test]
fn a_refusal_carries_the_words_of_the_server() {
    match negotiate_in_memory("nothing") {
        Err(ClientError::Refused { refusal: Refusal::Unknown, message }) => {
            assert_eq!(message, "no nothing");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_newstyle_server_is_recognised() {
    let mut negotiation = Negotiation::new("disk");
    let outcome = negotiation.received(b"SSH-2.0-OpenSSH_9.");
    assert!(matches!(outcome, Err(ClientError::NotNbd { .. })), "{outcome:?}");
}

/// Feeds bytes in portions of at most `portion`; what finished, or the first breach.
fn feed(
    transactions: &mut Transactions,
    bytes: &[u8],
    portion: usize,
) -> Result<Vec<Finished>, ClientError> {
    let mut finished = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let target = transactions.target();
        assert!(!target.is_empty());
        let count = target.len().min(portion).min(rest.len());
        target[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        finished.extend(transactions.advance(count)?);
    }
    Ok(finished)
}

fn sent(batch: Batch) -> Vec<u8> {
    batch.into_parts().iter().flat_map(|part| part.to_vec()).collect()
}

const COOKIE: Cookie = Cookie::new(5);
const CONTEXT: ContextId = ContextId::new(1);

proptest! {
    #[test]
    fn a_read_in_pieces_arrives_whole(
        start in 0u64..10_000,
        pieces in prop::collection::vec((1usize..3000, any::<bool>(), any::<u8>()), 1..8),
        simple in any::<bool>(),
        portion in 1usize..5000,
    ) {
        let mut expected = Vec::new();
        let mut sent_pieces = Vec::new();
        for (length, hole, byte) in pieces {
            let at = start + expected.len() as u64;
            if hole && !simple {
                expected.extend(vec![0; length]);
                sent_pieces.push(Piece::Hole(range(at, length as u64)));
            } else {
                expected.extend(vec![byte; length]);
                let bytes = Buffer::copy_of(&vec![byte; length]);
                sent_pieces.push(Piece::Data { at: ByteOffset::new(at), bytes });
            }
        }
        let replies = if simple { Replies::Simple } else { Replies::Structured };
        let mut batch = Batch::default();
        let other = Cookie::new(6);
        batch.push(replies, &asked(Command::Flush, other), Answer::Done);
        batch.push(replies, &asked(Command::Read, COOKIE), Answer::Data(sent_pieces));
        let mut transactions = Transactions::default();
        transactions.begin(COOKIE, Query::Read(range(start, expected.len() as u64)));
        transactions.begin(other, Query::Plain);
        let finished = feed(&mut transactions, &sent(batch), portion).expect("no breach");
        prop_assert!(transactions.is_idle());
        match finished.as_slice() {
            [(first, Ok(Outcome::Done)), (second, Ok(Outcome::Read(data)))] => {
                prop_assert_eq!((*first, *second), (other, COOKIE));
                prop_assert_eq!(&data[..], &expected[..]);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_bytes_leave_the_client_sound(
        head in prop_oneof![Just(0x6744_6698u32), Just(0x668e_33efu32), any::<u32>()],
        flags in 0u16..2,
        kind in prop_oneof![0u16..7, 0x8001u16..0x8004, any::<u16>()],
        cookie in 4u64..7,
        length in prop_oneof![0u32..40, any::<u32>()],
        rest in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut transactions = Transactions::default();
        transactions.begin(Cookie::new(4), Query::Plain);
        transactions.begin(COOKIE, Query::Read(range(0, 64)));
        transactions.begin(Cookie::new(6), Query::BlockStatus(range(0, 64), CONTEXT));
        let mut bytes = head.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(rest);
        match feed(&mut transactions, &bytes, 7) {
            Ok(finished) => prop_assert!(finished.len() <= 3),
            Err(error) => prop_assert!(matches!(error, ClientError::Breach(_)), "{error}"),
        }
    }
}

#[test]
fn block_status_and_errors_arrive_as_sent() {
    let descriptors = [(4096, 3), (512, 0), (1024, 2), (1024, 1)]
        .map(|(length, status)| StatusExtent { length, status });
    let failure =
        Failure { code: ErrorCode::Io, message: "checksum".into(), at: Some(ByteOffset::new(8)) };
    let mut batch = Batch::default();
    let status = Answer::Status(vec![(CONTEXT, descriptors.to_vec())]);
    batch.push(Replies::Structured, &asked(Command::BlockStatus, COOKIE), status);
    let failed = Answer::Failed(failure);
    batch.push(Replies::Structured, &asked(Command::Read, Cookie::new(6)), failed);
    let mut transactions = Transactions::default();
    transactions.begin(COOKIE, Query::BlockStatus(range(100, 6656), CONTEXT));
    transactions.begin(Cookie::new(6), Query::Read(range(0, 64)));
    let finished = feed(&mut transactions, &sent(batch), 1).expect("no breach");
    let mapped = |start, length, content| MappedRange { range: range(start, length), content };
    let expected = [
        mapped(100, 4096, Content::Hole),
        mapped(4196, 512, Content::Data),
        mapped(4708, 1024, Content::Zero),
        mapped(5732, 1024, Content::Data),
    ];
    match finished.as_slice() {
        [(_, Ok(Outcome::BlockStatus(status))), (_, Err(error))] => {
            assert_eq!(status, &expected);
            let message = "checksum".into();
            assert_eq!(error, &ServerError { code: ErrorCode::Io, message, at: Some(8) });
        }
        other => panic!("{other:?}"),
    }
}

fn chunk(cookie: u64, kind: ChunkKind, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small");
    let header = ChunkHeader::new(Cookie::new(cookie), kind, flags, length);
    [header.as_bytes(), payload].concat()
}

fn content(at: u64, bytes: &[u8], flags: u16) -> Vec<u8> {
    chunk(5, ChunkKind::OffsetData, flags, &[&at.to_be_bytes()[..], bytes].concat())
}

#[test]
fn each_breach_is_found() {
    let breach = |bytes: &[u8]| {
        let mut transactions = Transactions::default();
        transactions.begin(COOKIE, Query::Read(range(0, 8)));
        transactions.begin(Cookie::new(6), Query::BlockStatus(range(0, 8), CONTEXT));
        match feed(&mut transactions, bytes, 64) {
            Err(ClientError::Breach(breach)) => breach,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(breach(&[1; 16]), Breach::Magic(0x0101_0101));
    let stranger = SimpleReply::new(Cookie::new(77), None);
    assert_eq!(breach(stranger.as_bytes()), Breach::Cookie(77));
    assert_eq!(breach(&content(4, b"12345", 1)), Breach::Content(range(4, 5)));
    let twice = [content(0, b"12345678", 0), content(4, b"1234", 1)].concat();
    assert_eq!(breach(&twice), Breach::Content(range(4, 4)));
    assert_eq!(breach(&content(0, b"1234567", 1)), Breach::Incomplete);
    assert_eq!(breach(&chunk(5, ChunkKind::None, 1, b"")), Breach::Incomplete);
    assert_eq!(breach(&chunk(5, ChunkKind::Unknown(9), 1, b"")), Breach::Chunk(9));
    assert_eq!(breach(&chunk(6, ChunkKind::OffsetData, 1, b"123456789")), Breach::Chunk(1));
    assert_eq!(breach(&chunk(6, ChunkKind::None, 1, b"")), Breach::Incomplete);
    let other_context = [0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0];
    assert_eq!(breach(&chunk(6, ChunkKind::BlockStatus, 1, &other_context)), Breach::Chunk(5));
    let no_hole = [0; 12];
    assert_eq!(breach(&chunk(5, ChunkKind::OffsetHole, 1, &no_hole)), Breach::Chunk(2));
    let long_message = [0, 0, 0, 5, 0, 9, b'x'];
    assert_eq!(breach(&chunk(5, ChunkKind::Error, 1, &long_message)), Breach::Chunk(0x8001));
    let huge = ChunkHeader::new(COOKIE, ChunkKind::Error, 1, u32::MAX);
    assert_eq!(breach(huge.as_bytes()), Breach::Length(u32::MAX));
}

#[test]
fn a_simple_error_comes_without_data() {
    let mut transactions = Transactions::default();
    transactions.begin(COOKIE, Query::Read(range(0, 8)));
    let reply = SimpleReply::new(COOKIE, Some(ErrorCode::NoSpace));
    let finished = feed(&mut transactions, reply.as_bytes(), 64).expect("no breach");
    match finished.as_slice() {
        [(COOKIE, Err(error))] => assert_eq!(error.code, ErrorCode::NoSpace),
        other => panic!("{other:?}"),
    }
    assert!(transactions.is_idle());
}
