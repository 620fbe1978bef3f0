//! Requests of an NBD connection, several at a time, and the replies to them, which leave together.
//!
//! Oracle: the rules of the specification, restated as one list, say which error a request gets; a client that knows nothing
//! but the wire and what it wrote itself puts the reply to a read or a block status together again, and finds the bytes
//! that must be there; what is refused changes nothing.

#![no_main]

use arbitrary::Arbitrary;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Content, MappedRange, ZeroMode};
use landfall_protocols::nbd::Described;
use landfall_protocols::nbd::session::{
    Access, Action, Answer, Batch, Chunk, Context, ContextId, Failure, Fragments, Piece, Replies,
    Share, StatusList, Transmission, allocation, plan_read,
};
use landfall_protocols::nbd::wire::extended::StatusFilter;
use landfall_protocols::nbd::wire::transmission::{Command, CommandFlags, Cookie, Request};
use libfuzzer_sys::fuzz_target;

/// Not whole blocks, so that the end of the disk cuts one.
const SIZE: u64 = 96 * 1024 + 512;
/// Of `base:allocation`.
const CONTEXT: u32 = 1;
/// Of a context of the export, which says of each sector a number that may need all of 32 bits.
const SECTORS: u32 = 2;

const MAX: u64 = 32 << 20;

#[derive(Arbitrary, Debug)]
struct Input {
    writable: bool,
    replies: Form,
    contexts: u8,
    /// Stretches of the disk: units of 1 KiB and what they hold.
    map: Vec<(u8, u8)>,
    requests: Vec<Ask>,
}

#[derive(Arbitrary, Debug)]
enum Form {
    Simple,
    Structured,
    Extended,
}

#[derive(Arbitrary, Debug)]
struct Ask {
    command: u8,
    flags: u16,
    cookie: u64,
    offset: Number,
    length: Number,
    /// Contexts a block status with a payload names.
    named: Vec<u8>,
    /// Bytes of its payload that are cut off.
    cut: u8,
    /// What a write writes.
    byte: u8,
    /// Whether its reply waits for that of the next one.
    stays: bool,
}

#[derive(Arbitrary, Debug)]
enum Number {
    Small(u32),
    Sectors(u16),
    Any(u64),
}

impl Number {
    fn value(&self) -> u64 {
        match self {
            Self::Small(number) => u64::from(*number) % (SIZE + 2),
            Self::Sectors(number) => u64::from(*number) * 512 % (SIZE + 512),
            Self::Any(number) => *number,
        }
    }
}

/// The disk: what every byte is, and what is said of it.
#[derive(Clone)]
struct Disk {
    bytes: Vec<u8>,
    contents: Vec<Content>,
}

impl Disk {
    fn new(stretches: &[(u8, u8)]) -> Self {
        let size = usize::try_from(SIZE).expect("small");
        let mut disk = Self { bytes: vec![0; size], contents: vec![Content::Data; size] };
        let mut at = 0;
        for (units, holds) in stretches.iter().chain(std::iter::repeat(&(255, 1))) {
            let length = (u64::from(*units) + 1) * 1024;
            let end = (at + length).min(SIZE);
            let range = ByteRange::new(ByteOffset::new(at), ByteOffset::new(end)).expect("grows");
            match holds % 3 {
                0 => disk.zero(range, Content::Zero),
                1 => {
                    for (index, byte) in disk.bytes[slice(range)].iter_mut().enumerate() {
                        *byte = u8::try_from((index + usize::from(*holds)) % 251).expect("small");
                    }
                }
                _ => disk.zero(range, Content::Hole),
            }
            at = end;
            if at == SIZE {
                break;
            }
        }
        disk
    }

    fn zero(&mut self, range: ByteRange, content: Content) {
        self.bytes[slice(range)].fill(0);
        self.contents[slice(range)].fill(content);
    }

    fn write(&mut self, range: ByteRange, byte: u8) {
        self.bytes[slice(range)].fill(byte);
        self.contents[slice(range)].fill(Content::Data);
    }

    fn mapped(&self, range: ByteRange) -> Vec<MappedRange> {
        let mut at = range.start();
        let runs = self.contents[slice(range)].chunk_by(|one, next| one == next);
        runs.map(|run| {
            let range = ByteRange::at(at, run.len() as u64).expect("within the disk");
            at = range.end();
            MappedRange { range, content: run[0] }
        })
        .collect()
    }
}

fn slice(range: ByteRange) -> std::ops::Range<usize> {
    let at = |offset: ByteOffset| usize::try_from(offset.bytes()).expect("small");
    at(range.start())..at(range.end())
}

/// The error a request gets: the first rule it breaks.
fn error(rules: &Transmission, request: &Request) -> Option<u32> {
    let structured = rules.replies != Replies::Simple;
    let extended = rules.replies == Replies::Extended;
    let (command, flags) = (request.command.number(), request.flags.bits());
    let (offset, length) = (request.offset, request.length);
    let allowed = 1 | match command {
        0 if structured => 4,
        1 if extended => 32,
        7 if extended && !rules.contexts.is_empty() => 8 | 32,
        6 => 2 | 16,
        7 => 8,
        _ => 0,
    };
    let past_end = offset.checked_add(length).is_none_or(|end| end > rules.size_bytes);
    match command {
        8.. => Some(22),
        2 => None,
        _ if flags & !allowed != 0 => Some(22),
        3 => (offset != 0 || length != 0).then_some(22),
        7 if flags & 32 != 0 && length > 0 => (length > 8 + 4 * 128).then_some(22),
        1 | 4 | 6 if rules.access == Access::ReadOnly => Some(1),
        1 | 6 if past_end => Some(28),
        _ if past_end => Some(22),
        0 if length > MAX => Some(if structured { 75 } else { 22 }),
        1 if length > MAX => Some(22),
        7 if rules.contexts.is_empty() || length == 0 => Some(22),
        6 if flags & 16 != 0 && !is_whole(offset, length) => Some(95),
        _ => None,
    }
}

/// Whether these are whole blocks, of which the end of the disk may cut the last one.
fn is_whole(offset: u64, length: u64) -> bool {
    offset % 4096 == 0 && ((offset + length) % 4096 == 0 || offset + length == SIZE)
}

/// The error a block status with this payload gets.
fn filter_error(
    rules: &Transmission,
    filter: &StatusFilter,
    payload: &[u8],
    request: &Request,
) -> Option<u32> {
    // Cut off by whole numbers it is a shorter filter.
    let numbers = match payload.len().checked_sub(8) {
        Some(bytes) if bytes % 4 == 0 => &filter.contexts[..bytes / 4],
        _ => return Some(22),
    };
    let selected = |number: &u32| rules.contexts.iter().any(|(id, _)| id.number() == *number);
    let wrong = |at: usize| !selected(&numbers[at]) || numbers[..at].contains(&numbers[at]);
    let past_end = request.offset.checked_add(filter.length).is_none_or(|end| end > SIZE);
    let wrong = (0..numbers.len()).any(wrong);
    (wrong || past_end || filter.length == 0 || numbers.is_empty()).then_some(22)
}

/// A client's view of one reply.
#[derive(Default)]
struct Reply {
    content: Vec<(u64, Vec<u8>)>,
    chunks: usize,
    /// By context.
    status: Vec<(u32, Vec<(u64, u64)>)>,
    error: Option<u32>,
}

/// Takes the first reply in `bytes` apart, and off.
fn read_reply(
    bytes: &mut &[u8],
    rules: &Transmission,
    request: &Request,
    simple_data: usize,
) -> Reply {
    let cookie = request.cookie.number();
    let mut reply = Reply::default();
    let mut take = |length: usize| {
        let (taken, rest) = bytes.split_at(length);
        *bytes = rest;
        taken
    };
    let u32_of = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four"));
    let u64_of = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight"));
    loop {
        match u32_of(take(4)) {
            0x6744_6698 => {
                assert!(rules.replies != Replies::Extended);
                let error = u32_of(take(4));
                assert_eq!(u64_of(take(8)), cookie);
                reply.error = (error != 0).then_some(error);
                if error == 0 && simple_data > 0 {
                    reply.content.push((0, take(simple_data).to_vec()));
                }
                break;
            }
            magic @ (0x668e_33ef | 0x6e8a_278c) => {
                let extended = magic == 0x6e8a_278c;
                assert_eq!(extended, rules.replies == Replies::Extended);
                let head = take(4).to_vec();
                assert_eq!(u64_of(take(8)), cookie);
                let payload = if extended {
                    assert_eq!(u64_of(take(8)), request.offset);
                    u64_of(take(8)) as usize
                } else {
                    u32_of(take(4)) as usize
                };
                let payload = take(payload);
                reply.chunks += 1;
                match [head[2], head[3]] {
                    [0, 0] => assert!(payload.is_empty()),
                    [0, 1] => {
                        let (at, data) = payload.split_at(8);
                        reply.content.push((u64_of(at), data.to_vec()));
                    }
                    [0, 2] => {
                        assert_eq!(payload.len(), 12);
                        let zeroes = vec![0; u32_of(&payload[8..]) as usize];
                        assert!(!zeroes.is_empty());
                        reply.content.push((u64_of(&payload[..8]), zeroes));
                    }
                    [0, 6] => {
                        assert!(extended);
                        assert_eq!(u32_of(&payload[4..8]) as usize * 16 + 8, payload.len());
                        let entry = |entry: &[u8]| (u64_of(&entry[..8]), u64_of(&entry[8..]));
                        let entries = payload[8..].chunks(16).map(entry).collect();
                        reply.status.push((u32_of(&payload[..4]), entries));
                    }
                    [0, 5] => {
                        assert!(!extended);
                        let entry =
                            |entry: &[u8]| (u32_of(&entry[..4]).into(), u32_of(&entry[4..]).into());
                        let entries = payload[4..].chunks(8).map(entry).collect();
                        reply.status.push((u32_of(&payload[..4]), entries));
                    }
                    [0x80, kind] => {
                        reply.error = Some(u32_of(&payload[..4]));
                        let message = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
                        let tail = if kind == 2 { 8 } else { 0 };
                        assert_eq!(payload.len(), 6 + message + tail);
                    }
                    other => panic!("chunk type {other:?}"),
                }
                if head[1] == 1 {
                    break;
                }
            }
            other => panic!("a reply starts with {other:#x}"),
        }
    }
    reply
}

/// What the server's side does for `action`; a write brings `byte` and nothing else.
fn carry_out(disk: &mut Disk, rules: &Transmission, action: Action, byte: u8) -> Answer {
    match action {
        Action::Read { range, .. } if range.is_empty() => Answer::Data(Vec::new()),
        Action::Read { range, fragments } => {
            let data = |part: ByteRange| Piece::Data {
                at: part.start(),
                bytes: Buffer::copy_of(&disk.bytes[slice(part)]),
            };
            Answer::Data(match fragments {
                Fragments::Forbidden => vec![data(range)],
                Fragments::Allowed => plan_read(range, &disk.mapped(range))
                    .into_iter()
                    .map(|chunk| match chunk {
                        Chunk::Data(part) => data(part),
                        Chunk::Hole(hole) => Piece::Hole(hole),
                    })
                    .collect(),
            })
        }
        Action::BlockStatus { range, extents, contexts } => {
            let asked = rules.contexts.iter().enumerate();
            let asked: Vec<_> = asked.filter(|(place, _)| contexts.has(*place)).collect();
            let describe = |(_, (id, context)): &(usize, (ContextId, Context))| {
                let share = Share::of(context, asked.len());
                let mut list = StatusList::new(range, extents, rules.replies, share);
                while let Some(next) = list.next() {
                    // One at a time, as whoever stops early would answer.
                    let answer = match context {
                        Context::BaseAllocation => allocation(next, &disk.mapped(next)[..1]),
                        Context::OfExport(_) => vec![first_sector(next)],
                    };
                    assert!(list.add(&answer));
                }
                (*id, list.into_descriptors())
            };
            let asked = asked.iter().map(|(place, context)| (*place, (*context).clone()));
            Answer::Status(asked.map(|one| describe(&one)).collect())
        }
        Action::Write { range, .. } => {
            disk.write(range, byte);
            Answer::Done
        }
        Action::WriteZeroes { range, mode, .. } => {
            let content = if mode == ZeroMode::Allocate { Content::Zero } else { Content::Hole };
            disk.zero(range, content);
            Answer::Done
        }
        Action::Trim { range, .. } => {
            disk.zero(range, Content::Hole);
            Answer::Done
        }
        Action::Flush | Action::Cache { .. } => Answer::Done,
        Action::FilteredStatus | Action::Disconnect => unreachable!("seen to before"),
    }
}

/// What is said of a sector.
fn sector_status(sector: u64) -> u32 {
    match sector / 3 % 4 {
        0 => u32::MAX - u32::try_from(sector).expect("few"),
        1 => u32::MAX,
        2 => 2,
        _ => 3,
    }
}

/// What is said of the first sector of `range`, as far as it lies in there.
fn first_sector(range: ByteRange) -> Described {
    let sector = range.start().bytes() / 512;
    let end = ((sector + 1) * 512).min(range.end().bytes());
    let range = ByteRange::new(range.start(), ByteOffset::new(end)).expect("in order");
    Described { range, status: sector_status(sector) }
}

fn check_reply(
    disk: &Disk,
    rules: &Transmission,
    request: &Request,
    filter: Option<&Vec<u8>>,
    reply: &Reply,
) {
    let range = ByteRange::at(ByteOffset::new(request.offset), request.length);
    match request.command {
        Command::Read => {
            let range = range.expect("it was within the disk");
            let simple = rules.replies == Replies::Simple;
            let mut at = request.offset;
            let mut whole = Vec::new();
            for (offset, bytes) in &reply.content {
                assert_eq!(if simple { at } else { *offset }, at, "pieces are in order");
                at += bytes.len() as u64;
                whole.extend_from_slice(bytes);
            }
            assert_eq!(whole, disk.bytes[slice(range)]);
            if request.flags.contains(CommandFlags::DF) {
                assert!(reply.chunks <= 1, "DF forbids pieces");
            }
        }
        Command::BlockStatus => {
            let range = range.expect("it was within the disk");
            let asked: Vec<u32> = match filter {
                None => rules.contexts.iter().map(|(id, _)| id.number()).collect(),
                Some(payload) => {
                    let named =
                        |id: &u32| payload[8..].chunks(4).any(|number| number == id.to_be_bytes());
                    rules.contexts.iter().map(|(id, _)| id.number()).filter(named).collect()
                }
            };
            let told: Vec<u32> = reply.status.iter().map(|(context, _)| *context).collect();
            assert_eq!(told, asked);
            for (context, descriptors) in &reply.status {
                check_status(disk, (request, range), *context, descriptors);
            }
        }
        _ => assert!(reply.content.is_empty() && reply.status.is_empty()),
    }
}

fn check_status(
    disk: &Disk,
    (request, range): (&Request, ByteRange),
    context: u32,
    descriptors: &[(u64, u64)],
) {
    let one = request.flags.contains(CommandFlags::REQ_ONE);
    assert!(!descriptors.is_empty() && (!one || descriptors.len() == 1));
    assert!(descriptors.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours differ");
    let mut at = range.start().bytes();
    for (length, status) in descriptors {
        let part = ByteRange::at(ByteOffset::new(at), *length).expect("small");
        assert!(range.contains(part) && !part.is_empty());
        at = part.end().bytes();
        if context == SECTORS {
            for sector in part.start().bytes() / 512..at.div_ceil(512) {
                assert_eq!(*status, u64::from(sector_status(sector)), "sector {sector}");
            }
            continue;
        }
        for mapped in disk.mapped(part) {
            let expected = match mapped.content {
                Content::Data => 0,
                Content::Zero => 2,
                Content::Hole => 3,
            };
            assert_eq!(*status, expected, "{}", mapped.range);
        }
    }
    // A context of the export may be asked so often and no more.
    let sectors = (at - range.start().bytes()) / 512;
    let whole = at == range.end().bytes() || context == SECTORS && sectors >= 16;
    assert!(whole || one, "stops early");
}

fuzz_target!(|input: Input| {
    let mut disk = Disk::new(&input.map);
    // What a client knows by its own requests that the disk must hold.
    let mut known = disk.bytes.clone();
    let contexts = [
        (ContextId::new(CONTEXT), Context::BaseAllocation),
        (ContextId::new(SECTORS), Context::OfExport("fuzz:sectors".into())),
    ];
    let rules = Transmission {
        size_bytes: SIZE,
        access: if input.writable { Access::Writable } else { Access::ReadOnly },
        replies: match input.replies {
            Form::Simple => Replies::Simple,
            Form::Structured => Replies::Structured,
            Form::Extended => Replies::Extended,
        },
        contexts: contexts
            .into_iter()
            .take(if matches!(input.replies, Form::Simple) { 0 } else { input.contexts % 3 }.into())
            .collect(),
    };
    let (mut batch, mut waiting) = (Batch::default(), Vec::new());
    for ask in input.requests.iter().take(24) {
        let extended = rules.replies == Replies::Extended;
        let mask = if extended { u64::MAX } else { u64::from(u32::MAX) };
        let mut request = Request {
            command: Command::from(u16::from(ask.command % 10)),
            flags: CommandFlags::from_bits(ask.flags),
            cookie: Cookie::new(ask.cookie),
            offset: ask.offset.value(),
            length: ask.length.value() & mask,
        };
        // A block status with a payload, as often as not with one that makes sense.
        let numbers = ask.named.iter().take(140).map(|number| u32::from(number % 4)).collect();
        let filter = StatusFilter { length: request.length, contexts: numbers };
        let mut payload = filter.encode();
        payload.truncate(payload.len() - usize::from(ask.cut % 8));
        if request.command == Command::BlockStatus && rules.payload(&request) > 0 {
            request.length = payload.len() as u64;
        }
        let bytes = if extended {
            request.encode_extended().to_vec()
        } else {
            request.encode().expect("32 bits").to_vec()
        };
        assert_eq!(bytes.len(), rules.replies.request_header());
        assert_eq!(rules.replies.parse_request(&bytes), Ok(request));
        let has_payload = ask.command % 10 == 1 || (extended && ask.flags & 32 != 0);
        assert_eq!(rules.payload(&request), if has_payload { request.length } else { 0 });
        let mut decided = rules.decide(&request);
        let code = decided.as_ref().err().map(|error| error.code().number());
        assert_eq!(code, error(&rules, &request), "{request:?}");
        let filtered = decided == Ok(Action::FilteredStatus);
        let mut due = code;
        let mut asked = request;
        if filtered {
            decided = rules.decide_filtered(&request, &payload);
            due = filter_error(&rules, &filter, &payload, &request);
            assert_eq!(decided.as_ref().err().map(|error| error.code().number()), due);
            asked.length = filter.length;
        }
        let (answer, data) = match decided {
            Ok(Action::Disconnect) => continue,
            Ok(action) => {
                let simple = rules.replies == Replies::Simple && request.command == Command::Read;
                let data = if simple { usize::try_from(request.length).expect("small") } else { 0 };
                (carry_out(&mut disk, &rules, action, ask.byte), data)
            }
            Err(error) => {
                let (code, message) = (error.code(), error.to_string());
                (Answer::Failed(Failure { code, message, at: None }), 0)
            }
        };
        batch.push(rules.replies, &request, answer);
        if due.is_none() {
            let written = match request.command {
                Command::Write => Some(ask.byte),
                Command::WriteZeroes | Command::Trim => Some(0),
                _ => None,
            };
            if let Some(byte) = written {
                let start = usize::try_from(request.offset).expect("it was within the disk");
                let length = usize::try_from(request.length).expect("it was within the disk");
                known[start..start + length].fill(byte);
            }
        }
        assert!(disk.bytes == known, "{request:?} changed what it should not have");
        let filter = filtered.then_some(payload);
        waiting.push(Waiting { request, asked, filter, due, data, disk: disk.clone() });
        if !ask.stays {
            check_replies(std::mem::take(&mut batch), &rules, std::mem::take(&mut waiting));
        }
    }
    check_replies(batch, &rules, waiting);
});

/// A request that was answered, and the answer not sent.
struct Waiting {
    request: Request,
    /// The same with the length that the payload named.
    asked: Request,
    filter: Option<Vec<u8>>,
    /// The error that it gets.
    due: Option<u32>,
    /// Bytes that follow a simple reply.
    data: usize,
    /// As it was then.
    disk: Disk,
}

/// Replies that leave together are those that were due, one behind the other.
fn check_replies(batch: Batch, rules: &Transmission, waiting: Vec<Waiting>) {
    let sent: Vec<u8> = batch.into_parts().iter().flat_map(|part| part.to_vec()).collect();
    let mut rest = sent.as_slice();
    for Waiting { request, asked, filter, due, data, disk } in waiting {
        let reply = read_reply(&mut rest, rules, &request, data);
        assert_eq!(reply.error, due);
        if due.is_none() {
            check_reply(&disk, rules, &asked, filter.as_ref(), &reply);
        }
    }
    assert!(rest.is_empty(), "bytes follow the replies");
}
