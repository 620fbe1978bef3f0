//! A source, a target that keeps one disk, and the wire between them.

use super::*;

pub(super) const DISK_BYTES: usize = 5 * 64 * 1024 + 3 * 4096 + 512;

/// Small, fast and the same on every machine.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// The target: what is durable, and the proof that nothing was applied twice.
pub(super) struct Target {
    pub(super) generation: u64,
    pub(super) position: Position,
    pub(super) last_mark: Option<Marked>,
    pub(super) disk: Vec<u8>,
    pub(super) applied: Vec<(u64, Position)>,
    pub(super) points: Vec<Vec<u8>>,
}

impl Target {
    pub(super) fn new() -> Self {
        Self {
            generation: 1,
            position: Position::default(),
            last_mark: None,
            disk: vec![0; DISK_BYTES],
            applied: Vec::new(),
            points: Vec::new(),
        }
    }

    pub(super) fn carry_out(&mut self, request: Request, session: &mut ServerSession) {
        match request {
            Request::Apply(frame) => {
                let batch = unpack(&frame).expect("hashes match");
                for extent in batch.extents {
                    let start = usize::try_from(extent.range.start().bytes()).expect("small");
                    let end = usize::try_from(extent.range.end().bytes()).expect("small");
                    match extent.content {
                        ExtentContent::Zero => self.disk[start..end].fill(0),
                        ExtentContent::Data { bytes, .. } => {
                            self.disk[start..end].copy_from_slice(&bytes);
                        }
                    }
                }
                self.advance(frame.position);
                session.durable(frame.position);
            }
            Request::Mark(mark) => {
                self.advance(mark.position);
                self.points.push(self.disk.clone());
                let marked = Marked {
                    position: mark.position,
                    sequence: self.points.len() as u64,
                    commit_time: Timestamp::from_nanoseconds(1),
                    kind: mark.kind,
                };
                self.last_mark = Some(marked);
                session.marked(marked);
            }
            Request::Hashes(request) => {
                let blocks = (0..u64::from(request.count))
                    .map(|index| block_hash(block(&self.disk, request.first + index)))
                    .collect();
                session.hashes(request, blocks);
            }
            Request::PassBegin(_) | Request::Leave(_) => {}
            Request::Replayed => panic!("sent again although the welcome told it was durable"),
            Request::Open(_) => panic!("opened by the wire"),
        }
    }

    pub(super) fn advance(&mut self, position: Position) {
        assert_eq!(Some(position), self.position.next(), "positions come one by one");
        self.position = position;
        self.applied.push((self.generation, position));
    }
}

pub(super) fn block(disk: &[u8], index: u64) -> &[u8] {
    let size = usize::try_from(HASH_BLOCK_SIZE).expect("64 KiB");
    let start = usize::try_from(index).expect("small") * size;
    &disk[start..(start + size).min(disk.len())]
}

pub(super) fn block_hash(bytes: &[u8]) -> BlockHash {
    if bytes.iter().all(|byte| *byte == 0) {
        BlockHash::Zero
    } else {
        BlockHash::Hash(*blake3::hash(bytes).as_bytes())
    }
}

pub(super) fn profile() -> Profile {
    Profile {
        stream: StreamId::from_bytes([3; 16]),
        machine: Name::new("web").expect("a name"),
        disks: vec![DiskEntry {
            name: Name::new("os").expect("a name"),
            size_bytes: DISK_BYTES as u64,
        }],
        features: Features::ALL,
    }
}

pub(super) fn batch(start: usize, bytes: Option<&[u8]>, length: usize) -> PackedBatch {
    let range = ByteRange::at(ByteOffset::new(start as u64), length as u64).expect("small");
    let content = bytes.map_or(PlainContent::Zero, PlainContent::Data);
    pack(Timestamp::default(), DiskSlot::new(0), &[(range, content)], Compression::Lz4)
}

/// One connection as long as it lasts.
pub(super) struct Wire {
    pub(super) server: ServerSession,
    pub(super) server_reader: FrameReader,
    pub(super) client_reader: FrameReader,
    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    pub(super) waiting: VecDeque<Request>,
}

pub(super) struct Joined {
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) client: ClientSession,
    pub(super) target: Target,
    pub(super) wire: Option<Wire>,
}

impl Joined {
    pub(super) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            random: Random(seed),
            client: ClientSession::new(profile(), now),
            target: Target::new(),
            wire: None,
        }
    }

    pub(super) fn connect(&mut self) {
        self.client.connected(self.now);
        self.wire = Some(Wire {
            server: ServerSession::new(SessionLimits::default(), self.now),
            server_reader: FrameReader::default(),
            client_reader: FrameReader::default(),
            to_server: Vec::new(),
            to_client: Vec::new(),
            waiting: VecDeque::new(),
        });
    }

    /// Breaks the connection: bytes under way are lost, of what the target was asked a part is still done.
    pub(super) fn cut(&mut self) {
        let Some(mut wire) = self.wire.take() else { return };
        let done = self.random.below(wire.waiting.len() + 1);
        for request in wire.waiting.drain(..done) {
            self.target.carry_out(request, &mut wire.server);
        }
        self.client.disconnected();
    }

    /// One random thing happens. Returns what the client has to say.
    pub(super) fn step(&mut self) -> Vec<SessionEvent> {
        let Some(wire) = &mut self.wire else {
            self.connect();
            return Vec::new();
        };
        match self.random.below(5) {
            0 => {
                if let Some(bytes) = self.client.poll_transmit() {
                    wire.to_server.extend_from_slice(&bytes);
                }
            }
            1 => {
                if let Some(bytes) = wire.server.poll_transmit() {
                    wire.to_client.extend_from_slice(&bytes);
                }
            }
            2 => self.deliver_to_server(),
            3 => {
                if let Some(request) = wire.waiting.pop_front() {
                    self.target.carry_out(request, &mut wire.server);
                }
            }
            _ => self.deliver_to_client(),
        }
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    fn deliver_to_server(&mut self) {
        let wire = self.wire.as_mut().expect("connected");
        let count = self.random.below(wire.to_server.len() + 1);
        let bytes: Vec<u8> = wire.to_server.drain(..count).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let limit = wire.server.body_limit();
            let frame = wire.server_reader.feed(&mut rest, limit).expect("well formed");
            let Some(frame) = frame else { continue };
            match wire.server.handle_frame(frame).expect("the client keeps the rules") {
                Some(Request::Open(hello)) => {
                    assert!(wire.waiting.is_empty(), "greeted first");
                    if hello.generation.is_some_and(|held| held.number() != self.target.generation)
                    {
                        wire.server.refuse(&Refusal::OldGeneration {
                            current: Generation::new(self.target.generation).expect("above zero"),
                            got: hello.generation.expect("checked"),
                        });
                        return;
                    }
                    wire.server.opened(
                        Generation::new(self.target.generation).expect("above zero"),
                        self.target.position,
                        self.target.last_mark,
                        &[StreamDisk {
                            size_bytes: DISK_BYTES as u64,
                            state: DiskState::NeedsResync,
                            content: None,
                        }],
                        self.now,
                    );
                }
                Some(request) => wire.waiting.push_back(request),
                None => {}
            }
        }
    }

    fn deliver_to_client(&mut self) {
        let wire = self.wire.as_mut().expect("connected");
        let count = self.random.below(wire.to_client.len() + 1);
        let bytes: Vec<u8> = wire.to_client.drain(..count).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let frame = wire.client_reader.feed(&mut rest, 1 << 20).expect("well formed");
            if let Some(frame) = frame {
                self.client.handle_frame(&frame, self.now).expect("the server keeps the rules");
            }
        }
    }

    /// Lets things happen until `wanted` does, over an unbroken wire.
    pub(super) fn until<T>(&mut self, mut wanted: impl FnMut(SessionEvent) -> Option<T>) -> T {
        for _ in 0..10_000 {
            for event in self.step() {
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        }
        panic!("did not happen");
    }
}
