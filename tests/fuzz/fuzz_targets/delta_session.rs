//! The target's session of the delta stream, fed frames that make sense and frames that do not.
//!
//! Oracle: batches and marks come out with positions one after another and ranges within their disk; nothing is
//! acknowledged before it was said to be durable; no more credit is given back than was spent; an error ends a session
//! that was alive with a `Refused` as its last frame.

#![no_main]

use std::collections::VecDeque;
use std::time::Instant;

use arbitrary::Arbitrary;
use landfall_disks::{ByteOffset, ByteRange};
use landfall_protocols::delta::session::{Request, ServerSession, SessionLimits};
use landfall_protocols::delta::wire::{
    Ack, BlockHash, Bye, DiskEntry, DiskState, ExtentEntry, ExtentKind, Features, FrameKind,
    FrameReader, HashRequest, Header, Hello, Mark, MarkKind, Marked, Ping, RawFrame, StreamMode,
    encode_batch, set_position,
};
use landfall_protocols::delta::{
    DiskSlot, Generation, Name, Position, StreamDisk, StreamId, Timestamp,
};
use libfuzzer_sys::fuzz_target;

const DISK_BYTES: u64 = 10 * 65536 + 512;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A frame of this kind with this body.
    Raw(u8, Vec<u8>),
    /// A zero extent, so far from the position that is due.
    Batch {
        ahead: i8,
        block: u8,
        blocks: u8,
    },
    Mark {
        ahead: i8,
    },
    Hashes {
        disk: u8,
        first: u8,
        count: u8,
    },
    Ping,
    Bye,
    /// The oldest request is carried out.
    Complete,
    /// What there is to send is looked at.
    Send,
}

struct Model {
    session: ServerSession,
    accepted: u64,
    durable: u64,
    spent: u64,
    returned: u64,
    waiting: VecDeque<Request>,
    refused: bool,
}

fn parsed(bytes: &[u8]) -> RawFrame {
    let mut rest = bytes;
    let frame = FrameReader::default().feed(&mut rest, usize::MAX).expect("our own frame");
    assert!(rest.is_empty());
    frame.expect("a whole frame")
}

impl Model {
    fn new() -> Self {
        let now = Instant::now();
        let mut session = ServerSession::new(SessionLimits::default(), now);
        let hello = Hello {
            min_version: 1,
            max_version: 1,
            features: Features::ALL,
            mode: StreamMode::Passes,
            stream: StreamId::from_bytes([1; 16]),
            generation: None,
            machine: Name::new("m").expect("a name"),
            disks: vec![DiskEntry {
                name: Name::new("d").expect("a name"),
                size_bytes: DISK_BYTES,
            }],
        };
        let opened = session.handle_frame(parsed(&hello.encode()));
        assert!(matches!(opened, Ok(Some(Request::Open(_)))));
        let disk = StreamDisk { size_bytes: DISK_BYTES, state: DiskState::InSync, content: None };
        let generation = Generation::new(1).expect("above zero");
        session.opened(generation, Position::default(), None, &[disk], now);
        let welcome = session.poll_transmit().expect("a welcome");
        assert_eq!(parsed(&welcome).header.kind, FrameKind::Welcome);
        Self {
            session,
            accepted: 0,
            durable: 0,
            spent: 0,
            returned: 0,
            waiting: VecDeque::new(),
            refused: false,
        }
    }

    fn handle(&mut self, frame: RawFrame) {
        let cost =
            if frame.header.kind == FrameKind::Batch { 16 + frame.body.len() as u64 } else { 0 };
        let was_over = self.session.is_over();
        match self.session.handle_frame(frame) {
            Err(_) => {
                assert!(self.session.is_over());
                // After a farewell there is nothing left to refuse.
                self.refused |= !was_over;
            }
            Ok(None) => {}
            Ok(Some(request)) => {
                self.spent += cost;
                match &request {
                    Request::Apply(batch) => {
                        self.accepted += 1;
                        assert_eq!(batch.position.number(), self.accepted);
                        let ends = batch.extents.iter().map(|extent| extent.range.end().bytes());
                        assert!(ends.max().is_some_and(|end| end <= DISK_BYTES));
                    }
                    Request::Mark(mark) => {
                        self.accepted += 1;
                        assert_eq!(mark.position.number(), self.accepted);
                    }
                    _ => {}
                }
                self.waiting.push_back(request);
            }
        }
    }

    fn complete(&mut self) {
        match self.waiting.pop_front() {
            Some(Request::Apply(batch)) => {
                self.durable = batch.position.number();
                self.session.durable(batch.position);
            }
            Some(Request::Mark(mark)) => {
                self.durable = mark.position.number();
                self.session.marked(Marked {
                    position: mark.position,
                    sequence: 1,
                    commit_time: Timestamp::default(),
                    kind: mark.kind,
                });
            }
            Some(Request::Hashes(request)) => {
                self.session.hashes(request, vec![BlockHash::Zero; request.count as usize]);
            }
            _ => {}
        }
    }

    fn send(&mut self) {
        let mut last = None;
        while let Some(bytes) = self.session.poll_transmit() {
            let frame = parsed(&bytes);
            if frame.header.kind == FrameKind::Ack {
                let ack = Ack::parse(&frame.body).expect("our own frame");
                assert!(ack.position.number() <= self.durable, "acknowledged before durable");
                self.returned += ack.credit_bytes;
                assert!(self.returned <= self.spent, "more credit back than was spent");
            }
            last = Some(frame.header.kind);
        }
        if std::mem::take(&mut self.refused) {
            assert_eq!(last, Some(FrameKind::Refused));
        }
    }

    fn due(&self, ahead: i8) -> Position {
        Position::new((self.accepted + 1).saturating_add_signed(ahead.into()))
    }
}

fn batch(position: Position, block: u8, blocks: u8) -> RawFrame {
    let start = ByteOffset::new(u64::from(block) * 4096);
    let range = ByteRange::at(start, (u64::from(blocks) + 1) * 4096).expect("small");
    let extents = [ExtentEntry { range, kind: ExtentKind::Zero }];
    let mut frame = encode_batch(Timestamp::default(), DiskSlot::new(0), &extents, &[]);
    set_position(&mut frame, position);
    parsed(&frame)
}

fuzz_target!(|steps: Vec<Step>| {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Raw(kind, body) => {
                let kind = FrameKind::ALL[usize::from(kind) % FrameKind::ALL.len()];
                model.handle(RawFrame {
                    header: Header { kind, version: 1, length: body.len() },
                    body,
                });
            }
            Step::Batch { ahead, block, blocks } => {
                model.handle(batch(model.due(ahead % 3), block, blocks));
            }
            Step::Mark { ahead } => {
                let mark = Mark {
                    position: model.due(ahead % 2),
                    source_time: Timestamp::default(),
                    kind: MarkKind::Crash,
                    label: String::new(),
                    contents: Vec::new(),
                    order: None,
                };
                model.handle(parsed(&mark.encode()));
            }
            Step::Hashes { disk, first, count } => {
                let disk = DiskSlot::new(u16::from(disk) % 2);
                let request = HashRequest { disk, first: first.into(), count: u32::from(count) };
                model.handle(parsed(&request.encode()));
            }
            Step::Ping => model.handle(parsed(&Ping { token: 1 }.encode())),
            Step::Bye => model.handle(parsed(&Bye::Done.encode())),
            Step::Complete => model.complete(),
            Step::Send => model.send(),
        }
    }
    model.send();
});
