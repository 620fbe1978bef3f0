//! The bytes of version 1, kept: every frame of the delta stream as it stands in `tests/fixtures/delta-v1.hex`.
//!
//! The fixture is never edited. A change that makes this fail breaks streams between versions.

use landfall_disks::{ByteOffset, ByteRange};
use landfall_protocols::delta::wire::{
    Ack, BatchFrame, BlockHash, Bye, Codec, DiskEntry, DiskState, ExtentEntry, ExtentKind,
    Features, FrameKind, FrameReader, HEADER_BYTES, HashRequest, Hashes, Hello, Mark, MarkKind,
    Marked, PassBegin, PassKind, Ping, RawFrame, Refused, StreamMode, Welcome, WelcomeDisk,
    WriteOrder, encode_batch, set_position,
};
use landfall_protocols::delta::{
    ContentId, DiskSlot, Generation, Name, Position, RefusalCode, Retry, StreamId, Timestamp,
};
use std::fmt::Write;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn hello() -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        features: Features { lz4: true, ..Features::NONE },
        mode: StreamMode::Passes,
        stream: StreamId::from_bytes(*b"0123456789abcdef"),
        generation: Generation::new(7),
        machine: name("web-1.example"),
        disks: vec![
            DiskEntry { name: name("os"), size_bytes: 40 << 30 },
            DiskEntry { name: name("data"), size_bytes: 512 },
        ],
    }
}

fn marked() -> Marked {
    Marked {
        position: Position::new(41),
        sequence: 1000,
        commit_time: Timestamp::from_nanoseconds(1_800_000_000_000_000_001),
        kind: MarkKind::App,
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        features: Features { lz4: true, ..Features::NONE },
        generation: Generation::new(7).expect("above zero"),
        position: Position::new(41),
        credit_bytes: 16 << 20,
        max_batch_bytes: 1 << 20,
        idle_ms: 30_000,
        last_mark: Some(marked()),
        disks: [
            DiskState::Empty,
            DiskState::Seeding,
            DiskState::Resync,
            DiskState::InSync,
            DiskState::NeedsResync,
        ]
        .map(|state| WelcomeDisk { size_bytes: 4096, state, content: None })
        .to_vec(),
    }
}

fn refused() -> Refused {
    let message = "unknown machine wbe; machines: web".to_owned();
    Refused { code: RefusalCode::UnknownMachine, retry: Retry::Never, message }
}

fn batch() -> Vec<u8> {
    let extent = |start, length, kind| ExtentEntry {
        range: ByteRange::at(ByteOffset::new(start), length).expect("small"),
        kind,
    };
    let plain = [0x5a; 4096];
    let hash = *blake3::hash(&plain).as_bytes();
    let data = |codec, stored_bytes| ExtentKind::Data { codec, stored_bytes, hash };
    let extents = [
        extent(8192, 4096, data(Codec::None, 4096)),
        extent(16384, 4096, data(Codec::Lz4, 30)),
        extent(1 << 20, 1 << 30, ExtentKind::Zero),
    ];
    // The codec's own bytes are its affair; the frame only carries them.
    let content = [&plain[..], &[0xc4; 30]].concat();
    let time = Timestamp::from_nanoseconds(1_800_000_000_000_000_000);
    let mut frame = encode_batch(time, DiskSlot::new(1), &extents, &content);
    set_position(&mut frame, Position::new(42));
    frame
}

fn mark() -> Mark {
    Mark {
        position: Position::new(43),
        source_time: Timestamp::from_nanoseconds(1_800_000_000_000_000_002),
        kind: MarkKind::Crash,
        label: "before the upgrade".to_owned(),
        contents: Vec::new(),
        order: None,
    }
}

fn hashes() -> Hashes {
    let request = HashRequest { disk: DiskSlot::new(1), first: 5, count: 3 };
    let blocks = vec![BlockHash::Unknown, BlockHash::Zero, BlockHash::Hash([0xab; 32])];
    Hashes { request, blocks }
}

fn pass() -> PassBegin {
    PassBegin { pass: 2, bytes_total: 40 << 30, kind: PassKind::Compare }
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("Hello", hello().encode()),
        ("Welcome", welcome().encode()),
        ("Refused", refused().encode()),
        ("PassBegin", pass().encode()),
        ("Batch", batch()),
        ("Ack", Ack { position: Position::new(42), credit_bytes: 4310 }.encode()),
        ("Mark", mark().encode()),
        ("Marked", marked().encode()),
        ("HashRequest", hashes().request.encode()),
        ("Hashes", hashes().encode()),
        ("Ping", Ping { token: 3 }.encode()),
        ("Pong", Ping { token: 3 }.encode_pong()),
        ("Bye", Bye::Stopping.encode()),
    ]
}

/// One line per frame: its name and its bytes.
fn written(frames: &[(&str, Vec<u8>)]) -> String {
    let mut text = String::new();
    for (name, bytes) in frames {
        write!(text, "{name} ").expect("a string");
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string"));
        text.push('\n');
    }
    text
}

fn kept() -> Vec<(String, Vec<u8>)> {
    read(include_str!("../../tests/fixtures/delta-v1.hex"))
}

/// Frames that differ where contents of disks are named.
fn kept_with_contents() -> Vec<(String, Vec<u8>)> {
    read(include_str!("../../tests/fixtures/delta-v1-contents.hex"))
}

fn read(text: &str) -> Vec<(String, Vec<u8>)> {
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hexadecimal");
        u8::from_str_radix(pair, 16).expect("hexadecimal")
    };
    text.lines()
        .map(|line| {
            let (name, hex) = line.split_once(' ').expect("a name and its bytes");
            (name.to_owned(), hex.as_bytes().chunks(2).map(byte).collect())
        })
        .collect()
}

#[test]
fn frames_are_written_as_ever() {
    let frames = frames();
    let kept = kept();
    assert_eq!(kept.len(), frames.len(), "expected:\n{}", written(&frames));
    for ((name, bytes), (kept_name, kept_bytes)) in frames.iter().zip(&kept) {
        assert_eq!(name, kept_name);
        assert!(bytes == kept_bytes, "{name} is written differently");
    }
}

#[test]
fn frames_of_version_1_are_read() {
    let mut seen = Vec::new();
    for (name, bytes) in kept() {
        let mut rest = &bytes[..];
        let frame = FrameReader::default().feed(&mut rest, usize::MAX).expect("well formed");
        let RawFrame { header, body } = frame.expect("whole");
        assert!(rest.is_empty());
        assert_eq!(format!("{:?}", header.kind), name);
        seen.push(header.kind);
        match header.kind {
            FrameKind::Hello => assert_eq!(Hello::parse(&body), Ok(hello())),
            FrameKind::Welcome => assert_eq!(Welcome::parse(&body), Ok(welcome())),
            FrameKind::Refused => assert_eq!(Refused::parse(&body), Ok(refused())),
            FrameKind::PassBegin => assert_eq!(PassBegin::parse(&body), Ok(pass())),
            FrameKind::Batch => {
                let batch = BatchFrame::parse(body).expect("well formed");
                assert_eq!((batch.position, batch.extents.len()), (Position::new(42), 3));
                assert_eq!((batch.plain_bytes, batch.cost_bytes()), (8192, bytes.len() as u64));
            }
            FrameKind::Ack => assert_eq!(Ack::parse(&body).map(|ack| ack.credit_bytes), Ok(4310)),
            FrameKind::Mark => assert_eq!(Mark::parse(&body), Ok(mark())),
            FrameKind::Marked => assert_eq!(Marked::parse(&body), Ok(marked())),
            FrameKind::HashRequest => assert_eq!(HashRequest::parse(&body), Ok(hashes().request)),
            FrameKind::Hashes => assert_eq!(Hashes::parse(&body), Ok(hashes())),
            kind @ (FrameKind::Ping | FrameKind::Pong) => {
                assert_eq!(Ping::parse(kind, &body), Ok(Ping { token: 3 }));
            }
            FrameKind::Bye => assert_eq!(Bye::parse(&body), Ok(Bye::Stopping)),
        }
    }
    assert_eq!(seen, FrameKind::ALL);
}

#[test]
fn frames_with_contents_are_written_and_read_as_ever() {
    let features = Features { lz4: true, contents: true, ..Features::NONE };
    let content = ContentId::new([0xc0; 32]);
    let hello = Hello { features, ..hello() };
    let mut welcome = Welcome { features, ..welcome() };
    welcome.disks[3].content = content;
    let mark = Mark { contents: vec![content, None], ..mark() };
    let frames =
        [("Hello", hello.encode()), ("Welcome", welcome.encode()), ("Mark", mark.encode())];
    let kept = kept_with_contents();
    assert_eq!(kept.len(), frames.len(), "expected:\n{}", written(&frames));
    for ((name, bytes), (kept_name, kept_bytes)) in frames.iter().zip(&kept) {
        assert_eq!(name, kept_name);
        assert!(bytes == kept_bytes, "{name} is written differently");
    }
    let body = |index: usize| &kept[index].1[HEADER_BYTES..];
    assert_eq!(Hello::parse(body(0)), Ok(hello));
    assert_eq!(Welcome::parse(body(1)), Ok(welcome));
    assert_eq!(Mark::parse(body(2)), Ok(mark));
}

/// Order is a bit of what was reserved, in `Hello` and `Mark`; nothing else of them is another.
#[test]
fn a_mark_that_begins_order_differs_by_one_bit() {
    let bit = |plain: &[u8], ordered: &[u8]| {
        let differing = plain.iter().zip(ordered).enumerate().filter(|(_, (one, two))| one != two);
        differing.map(|(at, (one, two))| (at - HEADER_BYTES, one ^ two)).collect::<Vec<_>>()
    };
    let ordered = Mark { order: Some(WriteOrder::Asynchronous), ..mark() };
    assert_eq!(bit(&mark().encode(), &ordered.encode()), [(20, 1)]);
    assert_eq!(Mark::parse(&ordered.encode()[HEADER_BYTES..]), Ok(ordered));
    let features = Features { order: true, ..hello().features };
    assert_eq!(bit(&hello().encode(), &Hello { features, ..hello() }.encode()), [(4, 4)]);
    let synchronous = Mark { order: Some(WriteOrder::Synchronous), ..mark() };
    assert_eq!(bit(&mark().encode(), &synchronous.encode()), [(20, 3)]);
    assert_eq!(Mark::parse(&synchronous.encode()[HEADER_BYTES..]), Ok(synchronous));
    let features = Features { synchronous: true, ..hello().features };
    assert_eq!(bit(&hello().encode(), &Hello { features, ..hello() }.encode()), [(4, 8)]);
}
