//! A target that keeps one machine in memory, and notices when the server breaks its promises.

use super::*;

pub(super) const DISK_BYTES: usize = 3 << 20;

/// A machine that is kept in memory.
pub(super) struct Machine {
    pub(super) generation: u64,
    pub(super) stream: Option<StreamId>,
    pub(super) position: Position,
    pub(super) last_mark: Option<Marked>,
    pub(super) disk: Vec<u8>,
    pub(super) applied: Vec<Position>,
    pub(super) points: Vec<Vec<u8>>,
    pub(super) closed: Vec<Closed>,
    /// The next batch is refused with this.
    pub(super) refuse: Option<Refusal>,
    /// Batches take so long.
    pub(super) pause: Option<Duration>,
    pub(super) applying: usize,
    /// Batches that were dropped before they were done.
    pub(super) abandoned: usize,
    /// The next opening is refused with this.
    pub(super) refuse_open: Option<Refusal>,
}

#[derive(Clone)]
pub(super) struct Memory(pub(super) Arc<Mutex<Machine>>);

impl Replicas for Memory {
    fn open<'a>(
        &'a self,
        hello: StreamHello,
        _peer: PeerIdentity,
    ) -> LocalBoxFuture<'a, Result<OpenedStream, Refusal>> {
        async move {
            let mut machine = self.0.lock();
            assert_eq!(machine.applying, 0, "opened before the last connection had settled");
            if let Some(refusal) = machine.refuse_open.take() {
                return Err(refusal);
            }
            if hello.machine.as_str() != "web" {
                let known = vec!["web".to_owned()];
                let machine = hello.machine.to_string();
                return Err(Refusal::UnknownMachine { machine, known });
            }
            if hello.disks[0].size_bytes != DISK_BYTES as u64 {
                let disk = hello.disks[0].name.to_string();
                let yours = hello.disks[0].size_bytes;
                return Err(Refusal::SizeMismatch { disk, ours: DISK_BYTES as u64, yours });
            }
            let current = Generation::new(machine.generation).expect("above zero");
            if let Some(got) = hello.generation.filter(|got| *got != current) {
                return Err(Refusal::OldGeneration { current, got });
            }
            if machine.stream.replace(hello.stream) != Some(hello.stream) {
                machine.position = Position::default();
                machine.last_mark = None;
            }
            let empty = machine.applied.is_empty();
            let state = if empty { DiskState::Empty } else { DiskState::InSync };
            Ok(OpenedStream {
                generation: current,
                position: machine.position,
                last_mark: machine.last_mark,
                disks: vec![StreamDisk { size_bytes: DISK_BYTES as u64, state, content: None }],
                sink: Box::new(MemorySink {
                    machine: Arc::clone(&self.0),
                    failed: Cell::new(false),
                }),
            })
        }
        .boxed_local()
    }
}

pub(super) struct MemorySink {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) failed: Cell<bool>,
}

/// A batch between the first poll of its future and its end.
pub(super) struct UnderWay {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) done: bool,
}

impl UnderWay {
    fn begin(machine: &Arc<Mutex<Machine>>) -> Self {
        machine.lock().applying += 1;
        Self { machine: Arc::clone(machine), done: false }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut machine = self.machine.lock();
        machine.applying -= 1;
        machine.abandoned += usize::from(!self.done);
    }
}

impl ReplicaSink for MemorySink {
    fn apply(&self, position: Position, batch: Batch) -> LocalBoxFuture<'_, Applied> {
        async move {
            let pause = {
                let mut machine = self.machine.lock();
                if let Some(refusal) = machine.refuse.take() {
                    self.failed.set(true);
                    return Err(refusal);
                }
                if self.failed.get() {
                    return Err(Refusal::Failed("after an earlier failure".to_owned()));
                }
                assert_eq!(Some(position), machine.position.next(), "applied in order");
                machine.position = position;
                machine.applied.push(position);
                for extent in &batch.extents {
                    let start = usize::try_from(extent.range.start().bytes()).expect("small");
                    let end = usize::try_from(extent.range.end().bytes()).expect("small");
                    match &extent.content {
                        ExtentContent::Zero => machine.disk[start..end].fill(0),
                        ExtentContent::Data { bytes, .. } => {
                            machine.disk[start..end].copy_from_slice(bytes);
                        }
                    }
                }
                // Later ones end before earlier ones: answers have to wait for each other.
                let short = Duration::from_millis(3 - position.number() % 3);
                machine.pause.unwrap_or(short)
            };
            let mut under_way = UnderWay::begin(&self.machine);
            uring::sleep(pause).await;
            under_way.done = true;
            Ok(())
        }
        .boxed_local()
    }

    fn mark(&self, mark: Mark) -> LocalBoxFuture<'_, Result<Marked, Refusal>> {
        async move {
            let mut machine = self.machine.lock();
            assert_eq!(Some(mark.position), machine.position.next(), "marked in order");
            machine.position = mark.position;
            let point = machine.disk.clone();
            machine.points.push(point);
            let marked = Marked {
                position: mark.position,
                sequence: machine.points.len() as u64,
                commit_time: Timestamp::from_nanoseconds(5),
                kind: mark.kind,
            };
            machine.last_mark = Some(marked);
            Ok(marked)
        }
        .boxed_local()
    }

    fn hashes(&self, request: HashRequest) -> LocalBoxFuture<'_, Result<Vec<BlockHash>, Refusal>> {
        async move {
            let machine = self.machine.lock();
            let blocks = request.first..request.first + u64::from(request.count);
            Ok(blocks.map(|index| hash_of(block(&machine.disk, index))).collect())
        }
        .boxed_local()
    }

    fn pass_begin(&self, _pass: PassBegin) -> LocalBoxFuture<'_, Applied> {
        async { Ok(()) }.boxed_local()
    }

    fn closed(&self, why: Closed) -> LocalBoxFuture<'_, ()> {
        let mut machine = self.machine.lock();
        assert_eq!((machine.applying, machine.abandoned), (0, 0), "closed before it had settled");
        machine.closed.push(why);
        async {}.boxed_local()
    }
}

pub(super) fn block(disk: &[u8], index: u64) -> &[u8] {
    let size = usize::try_from(HASH_BLOCK_SIZE).expect("64 KiB");
    let start = usize::try_from(index).expect("small") * size;
    &disk[start..(start + size).min(disk.len())]
}

pub(super) fn hash_of(bytes: &[u8]) -> BlockHash {
    if bytes.iter().all(|byte| *byte == 0) {
        BlockHash::Zero
    } else {
        BlockHash::Hash(*blake3::hash(bytes).as_bytes())
    }
}
