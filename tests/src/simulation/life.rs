//! One life of the store: from opening it to the next power cut.

use super::keys::check_nonces;
use super::model::{Branch, Change, Model, SIZES, Sent, Snapshot, bytes};
use crate::world::{World, moment};
use futures_util::future::{join, join_all};
use landfall_disks::faults::{Seed, run};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability, ZeroMode};
use landfall_retention::ids::{ContentId, Generation, Position, Sequence};
use landfall_retention::name::Name;
use landfall_retention::point::{PointKind, PointQuery};
use landfall_retention::time::Timestamp;
use landfall_retention::{
    BlockHash, HASH_BLOCK_BYTES, ImageSpec, NewDisk, NewMachine, Opened, ResolveError, Retention,
    Settings, Stream, StreamContent, StreamError, StreamExtent, StreamRequest, StreamState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What thinning is tried with: slots of about as much time as a few steps take.
const POLICIES: [&str; 3] =
    ["keep all for 1s, every 2s for 10s", "keep all for 0s, secondly for 1h", "keep all"];
/// Steps of a life, if no power cut ends it before.
const STEPS: u64 = 40;

/// The power was cut; what was under way is for the next life to find out.
pub(super) struct PowerCut;

pub(super) type Alive<T> = Result<T, PowerCut>;

/// Lives once. The last life ends without a power cut and verifies everything.
pub(super) fn live(world: World, model: &mut Model, random: &mut Seed, last: bool) -> World {
    if !last && random.chance(3, 4) {
        world.folder.crash_after_flushes(1 + random.below(60));
    }
    let mut order = random.fork();
    let mut choices = random.fork();
    let ended = run(&mut order, |spawner| {
        let (surroundings, world, model) = (world.surroundings(), &world, &mut *model);
        let choices = &mut choices;
        async move {
            super::scrubbing::mend(world, model).await;
            let encryption = model.encryption(choices);
            let index_at_once = *choices.pick(&[1, 1, 16]);
            let settings = Settings { encryption, index_at_once, ..World::settings() };
            let opened = Retention::open(surroundings, settings).await;
            let opened = match opened {
                Ok(opened) => opened,
                Err(_) if world.folder.is_dead() => return Err(PowerCut),
                Err(error) => panic!("the store does not open: {error}"),
            };
            let Opened { retention, lanes, report } = opened;
            assert_eq!(report.damage, Vec::<String>::new(), "torn tails are no damage");
            assert_eq!(report.images_lost, Vec::<String>::new());
            lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
            let life = Life { retention, world, model, choices };
            life.run(last).await
        }
    });
    match ended {
        Ok(()) => model.say("life ends in order".into()),
        Err(PowerCut) => model.say("power cut".into()),
    }
    if last {
        return world;
    }
    let world = world.crash(random);
    check_nonces(&world, model);
    match random.below(12) {
        0 | 1 => world.without_index(),
        2..=4 => world.with_index_of_checkpoint(),
        _ => world,
    }
}

pub(super) struct Life<'a> {
    pub(super) retention: Arc<Retention>,
    pub(super) world: &'a World,
    pub(super) model: &'a mut Model,
    pub(super) choices: &'a mut Seed,
}

impl Life<'_> {
    async fn run(mut self, last: bool) -> Alive<()> {
        self.settle_promotion();
        self.build_index(last).await?;
        self.settle_start().await?;
        self.settle_thinned().await?;
        self.settle_instants().await?;
        self.settle_growth();
        self.settle_branches().await?;
        self.settle_branch_growth().await?;
        self.check_standby().await?;
        self.add_machine().await?;
        let mut stream = self.resume().await?;
        self.verify(last).await?;
        for _ in 0..self.choices.below(STEPS) {
            match self.choices.below(57) {
                0..=6 => stream = self.send_batches(stream).await?,
                7..=10 => stream = self.send_mark(stream).await?,
                11..=14 => self.write_branches().await?,
                15 => self.add_branch().await?,
                16 => self.retention.tick().await,
                17 => self.verify_one().await?,
                19 => self.checkpoint_index(),
                20 | 21 => stream = self.fold(stream).await?,
                22 => stream = self.forget(stream).await?,
                23 => self.vanish(),
                24 => self.discard_branch().await?,
                18 if self.choices.chance(1, 2) => stream = self.send_while_full(stream).await?,
                18 => {
                    drop(stream);
                    stream = self.resume().await?;
                }
                25 | 31 => self.thin().await?,
                28 | 29 => self.verify_changes().await?,
                30 => self.damage_image().await?,
                32..=34 => stream = self.compact(stream).await?,
                35 => self.rotate_key().await?,
                49 => stream = self.scrub(stream).await?,
                36 => stream = self.grow(stream).await?,
                37..=40 => stream = self.begin_order(stream).await?,
                41 => stream = self.end_order(stream).await?,
                42..=44 => self.verify_instant().await?,
                45 => stream = self.send_batches(stream).await?,
                46..=48 => self.damage_and_scrub().await?,
                50 => stream = self.promote(stream).await?,
                51 => self.add_branch().await?,
                52..=55 => stream = self.stand_by(stream).await?,
                56 => self.grow_branch().await?,
                26 => self.world.clock.pass(Duration::from_millis(self.choices.below(3000))),
                _ => self.world.clock.set_back(self.choices.below(100_000_000)),
            }
        }
        self.verify(last).await?;
        if self.choices.chance(1, 2) {
            self.alive(self.retention.close().await, "close")?;
        }
        Ok(())
    }

    fn checkpoint_index(&mut self) {
        self.world.checkpoint_index();
        self.model.say("the index has a checkpoint".into());
    }

    /// A failure is expected once the power is cut, and at no other time.
    pub(super) fn alive<T, E: std::fmt::Display>(
        &self,
        result: Result<T, E>,
        what: &str,
    ) -> Alive<T> {
        match result {
            Ok(value) => Ok(value),
            Err(_) if self.world.folder.is_dead() => Err(PowerCut),
            Err(error) => panic!("{what}: {error}"),
        }
    }

    async fn add_machine(&mut self) -> Alive<()> {
        let there = !self.retention.machines().is_empty();
        assert!(there || !self.model.added, "an acknowledged machine is gone");
        if there {
            self.model.added = true;
            return Ok(());
        }
        let disk = |index: usize| NewDisk {
            name: disk_name(index),
            image: ImageSpec {
                format: "raw".into(),
                path: format!("disk-{index}.raw"),
                size_bytes: SIZES[index],
            },
            adopt: false,
        };
        let disks = (0..SIZES.len()).map(disk).collect();
        let machine = NewMachine { name: machine(), display_name: String::new(), disks };
        let added = self.retention.add_machine(machine).await;
        self.alive(added, "add machine")?;
        self.model.added = true;
        Ok(())
    }

    pub(super) fn request(&self, generation: Generation) -> StreamRequest {
        StreamRequest {
            machine: machine(),
            stream: self.model.stream,
            generation,
            disks: (0..SIZES.len()).map(|i| (disk_name(i), self.model.size(i))).collect(),
            peer: "simulation".into(),
        }
    }

    /// Opens the stream and brings the target to where the source is.
    pub(super) async fn resume(&mut self) -> Alive<Stream> {
        self.model.in_order = false;
        // Whoever was cut off while comparing has to begin again.
        let held = match self.model.comparing {
            true => Generation::default(),
            false => self.model.generation,
        };
        let stream = match self.retention.open_stream(self.request(held)).await {
            Ok(stream) if held != Generation::default() => {
                self.model.say(format!("resumed at {:?}", stream.position()));
                self.check_contents(&stream).await?;
                return self.resend(stream).await;
            }
            Err(StreamError::OldGeneration { .. } | StreamError::FailedOver { .. }) => {
                let anew = self.retention.open_stream(self.request(Generation::default())).await;
                self.alive(anew, "open stream anew")?
            }
            opened => self.alive(opened, "open stream")?,
        };
        self.model.generation = stream.generation();
        self.model.unacknowledged.clear();
        self.model.maybe_point = self.model.pending_mark.take().or(self.model.maybe_point.take());
        self.model.say(format!("compares in {:?}", stream.generation()));
        self.check_contents(&stream).await?;
        self.compare(stream).await
    }

    pub(super) async fn resend(&mut self, mut stream: Stream) -> Alive<Stream> {
        let position = stream.position();
        self.model.unacknowledged.retain(|sent, _| *sent > position);
        if let Some((at, snapshot)) = self.model.pending_mark.take() {
            if at <= position {
                let (marked, point) = stream.last_mark().expect("the mark was accepted");
                assert_eq!(marked, at);
                self.model.points.insert(point.sequence.number(), snapshot);
                self.model.seeded = true;
            } else {
                self.model.pending_mark = Some((at, snapshot));
            }
        }
        for (at, sent) in self.model.unacknowledged.clone() {
            self.apply(&stream, at, &sent).await?;
        }
        if let Some((at, snapshot)) = self.model.pending_mark.clone() {
            stream = self.mark_at(stream, at, snapshot, PointKind::Crash).await?;
        }
        Ok(stream)
    }

    /// A disk that is said to hold what the source once named holds just that.
    async fn check_contents(&mut self, stream: &Stream) -> Alive<()> {
        for disk in stream.disks() {
            let Some(content) = disk.content else { continue };
            let whole = ByteRange::up_to(disk.size_bytes);
            let hashes = self.alive(stream.hashes(disk.id, whole).await, "hashes")?;
            assert_eq!(content_of(hashes), content, "{:?} holds something else", disk.id);
            self.model.say(format!("{:?} holds what it is known by", disk.id));
        }
        Ok(())
    }

    /// Names what the disks hold at a point.
    async fn name_contents(&mut self, stream: &Stream, point: Sequence) -> Alive<()> {
        let hash = |block: &[u8]| match block.iter().all(|byte| *byte == 0) {
            true => BlockHash::Zero,
            false => BlockHash::Known(*blake3::hash(block).as_bytes()),
        };
        let block = usize::try_from(HASH_BLOCK_BYTES).expect("64 KiB");
        let snapshot = &self.model.points[&point.number()];
        let contents: Vec<_> = stream
            .disks()
            .iter()
            .map(|disk| disk.id)
            .zip(snapshot.iter().map(|content| content_of(content.chunks(block).map(hash))))
            .collect();
        let named = stream.name_contents(point, &contents).await;
        self.alive(named, "name contents")
    }

    /// Sends what differs, by the target's hashes.
    async fn compare(&mut self, stream: Stream) -> Alive<Stream> {
        self.model.comparing = true;
        let mut position = stream.position();
        for (index, disk) in stream.disks().iter().enumerate() {
            let whole = ByteRange::up_to(disk.size_bytes);
            let hashes = self.alive(stream.hashes(disk.id, whole).await, "hashes")?;
            for (block, hash) in whole.chunks(HASH_BLOCK_BYTES).zip(hashes) {
                let content = self.model.source[index][bytes(block)].to_vec();
                let zero = content.iter().all(|byte| *byte == 0);
                let same = match hash {
                    BlockHash::Zero => zero,
                    BlockHash::Known(hash) => *blake3::hash(&content).as_bytes() == hash,
                    BlockHash::Unknown => panic!("nothing was lost"),
                };
                if !same {
                    position = position.next();
                    let change = if zero { Change::Zero } else { Change::Data(content) };
                    let sent = Sent { disk: index, changes: vec![(block, change)] };
                    self.model.unacknowledged.insert(position, sent.clone());
                    self.apply(&stream, position, &sent).await?;
                }
            }
        }
        self.model.comparing = false;
        let snapshot = self.model.snapshot();
        self.mark_at(stream, position.next(), snapshot, PointKind::Crash).await
    }

    async fn apply(&mut self, stream: &Stream, position: Position, sent: &Sent) -> Alive<()> {
        let disk = stream.disks()[sent.disk].id;
        let now = Timestamp::from_nanoseconds(1);
        let applied = stream.apply(position, disk, now, extents(sent)).await;
        self.alive(applied, "apply")?;
        self.model.unacknowledged.remove(&position);
        Ok(())
    }

    pub(super) fn next_position(&self, stream: &Stream) -> Position {
        let sent = self.model.unacknowledged.keys().next_back().copied();
        sent.unwrap_or_else(|| stream.applied()).max(stream.applied()).next()
    }

    /// Several batches at once, acknowledged in any order.
    pub(super) async fn send_batches(&mut self, stream: Stream) -> Alive<Stream> {
        let first = self.next_position(&stream);
        let (mut sent, mut after, head) = (BTreeMap::new(), Vec::new(), self.head());
        let mut position = first;
        for _ in 0..=self.choices.below(4) {
            sent.insert(position, self.model.change_source(self.choices));
            after.push(self.model.snapshot());
            position = position.next();
        }
        self.expect_instants(head, &after);
        self.model.unacknowledged.extend(sent.clone());
        let now = Timestamp::from_nanoseconds(1);
        let disks = stream.disks();
        let applies = sent
            .iter()
            .map(|(at, sent)| stream.apply(*at, disks[sent.disk].id, now, extents(sent)));
        let applied = join_all(applies).await;
        for (at, applied) in sent.keys().zip(applied) {
            self.alive(applied, "apply")?;
            self.model.unacknowledged.remove(at);
        }
        self.note_instants(head, sent.len() as u64);
        self.model.say(format!("{} batches from {first:?}", sent.len()));
        Ok(stream)
    }

    /// Batches that come while the disk is full, which ends while some of them wait: those after a refused one must be
    /// refused too. Afterwards the source resumes and nothing is missing or applied twice.
    async fn send_while_full(&mut self, stream: Stream) -> Alive<Stream> {
        let first = self.next_position(&stream);
        let (mut sent, mut after, head) = (BTreeMap::new(), Vec::new(), self.head());
        let mut position = first;
        for _ in 0..8 {
            sent.insert(position, self.model.change_source(self.choices));
            after.push(self.model.snapshot());
            position = position.next();
        }
        self.expect_instants(head, &after);
        self.model.unacknowledged.extend(sent.clone());
        let now = Timestamp::from_nanoseconds(1);
        let disks = stream.disks();
        let applies = sent
            .iter()
            .map(|(at, sent)| stream.apply(*at, disks[sent.disk].id, now, extents(sent)));
        let (folder, turns) = (&self.world.folder, self.choices.below(200));
        folder.set_capacity(Some(0));
        let space_returns = async {
            for _ in 0..turns {
                yield_now().await;
            }
            folder.set_capacity(None);
        };
        let (applied, ()) = join(join_all(applies), space_returns).await;
        let mut refused = 0u64;
        for (at, applied) in sent.keys().zip(applied) {
            match applied {
                Ok(()) => {
                    assert_eq!(refused, 0, "{at:?} was accepted after one before it was refused");
                    self.model.unacknowledged.remove(at);
                }
                Err(_) if folder.is_dead() => return Err(PowerCut),
                Err(_) => refused += 1,
            }
        }
        self.note_instants(head, 8 - refused);
        self.model.say(format!("{refused} of 8 batches from {first:?} refused on a full disk"));
        drop(stream);
        self.resume().await
    }

    pub(super) async fn send_mark(&mut self, stream: Stream) -> Alive<Stream> {
        let position = self.next_position(&stream);
        let kind = *self.choices.pick(&[PointKind::Crash, PointKind::App, PointKind::Fuzzy]);
        let snapshot = self.model.snapshot();
        self.mark_at(stream, position, snapshot, kind).await
    }

    async fn mark_at(
        &mut self,
        stream: Stream,
        position: Position,
        snapshot: Snapshot,
        kind: PointKind,
    ) -> Alive<Stream> {
        self.model.pending_mark = Some((position, Arc::clone(&snapshot)));
        let marked = stream.mark(position, kind, None, Timestamp::from_nanoseconds(1)).await;
        let point = self.alive(marked, "mark")?;
        self.model.pending_mark = None;
        self.model.seeded = true;
        self.model.in_order &= kind.is_consistent();
        let ordered = stream.state() == Some(StreamState::Ordered);
        assert_eq!(ordered, self.model.in_order);
        self.model.points.insert(point.sequence.number(), snapshot);
        self.model.say(format!("{kind} point {:?} at {}", point.sequence, point.commit_time));
        if kind.is_consistent() && self.choices.chance(1, 2) {
            self.name_contents(&stream, point.sequence).await?;
        }
        Ok(stream)
    }

    async fn add_branch(&mut self) -> Alive<()> {
        let mut parent = None;
        let mut moments = self.model.moments();
        if let Some((name, branch)) = pick(&self.model.branches, self.choices)
            && self.choices.chance(1, 3)
        {
            (parent, moments) = (Some(name), branch.moments);
        }
        let Some((sequence, snapshot)) = pick(&moments, self.choices) else {
            return Ok(());
        };
        let name = format!("b{}", self.model.branches_made);
        self.model.branches_made += 1;
        let of = parent.as_ref().map_or("m".to_owned(), |parent| format!("m~{parent}"));
        let moment = self.retention.resolve(&moment(&format!("{of}@seq:{sequence}"))).await;
        let moment = self.alive(moment, "resolve")?;
        let branch = self.retention.add_branch(&moment, Name::parse(&name).expect("a name")).await;
        self.alive(branch, "add branch")?;
        let content = (*snapshot).clone();
        let moments = BTreeMap::from([(sequence, snapshot)]);
        let (uncertain, marked, sealed) = (Vec::new(), BTreeSet::new(), false);
        self.model.say(format!("branch {name} from {of}@seq:{sequence}"));
        let origin = sequence;
        let branch = Branch { content, moments, uncertain, parent, origin, marked, sealed };
        self.model.branches.insert(name, branch);
        Ok(())
    }

    /// A few writes to a branch at once, apart from each other, of any alignment.
    async fn write_branches(&mut self) -> Alive<()> {
        let Some((name, mut branch)) = pick(&self.model.branches, self.choices) else {
            return Ok(());
        };
        if branch.sealed {
            return self.write_sealed(&name).await;
        }
        let mut writes: Vec<(usize, ByteOffset, Vec<u8>)> = Vec::new();
        for _ in 0..=self.choices.below(3) {
            let write = self.random_write(&branch.content);
            let range = |(_, at, data): &(usize, ByteOffset, Vec<u8>)| {
                ByteRange::at(*at, data.len() as u64).expect("on the disk")
            };
            let apart = |other: &(usize, ByteOffset, Vec<u8>)| {
                other.0 != write.0 || !range(other).overlaps(range(&write))
            };
            if writes.iter().all(apart) {
                writes.push(write);
            }
        }
        branch.uncertain = writes.clone();
        self.model.branches.insert(name.clone(), branch.clone());
        let branch_name = Name::parse(&name).expect("a name");
        let mut disks = Vec::new();
        for index in 0..SIZES.len() {
            let disk = self.retention.branch_disk(&machine(), &branch_name, &disk_name(index));
            disks.push(self.alive(disk, "branch disk")?);
        }
        let zero = |data: &[u8]| data.iter().all(|byte| *byte == 0);
        let requests = writes.iter().map(|(disk, at, data)| {
            let disk = &disks[*disk];
            let range = ByteRange::at(*at, data.len() as u64).expect("on the disk");
            match zero(data) {
                true => disk.write_zeroes(range, ZeroMode::Unmap, Durability::Durable),
                false => disk.write(*at, Buffer::copy_of(data), Durability::Durable),
            }
        });
        for written in join_all(requests).await {
            self.alive(written, "branch write")?;
        }
        for (disk, at, data) in &writes {
            lay(&mut branch.content, *disk, *at, data);
        }
        branch.uncertain.clear();
        let head = self.branch_head(&name);
        branch.moments.insert(head, Arc::new(branch.content.clone()));
        self.model.say(format!("{} writes to {name}, head seq:{head}", writes.len()));
        self.model.branches.insert(name, branch);
        Ok(())
    }

    async fn write_sealed(&mut self, name: &str) -> Alive<()> {
        let branch = Name::parse(name).expect("a name");
        let disk = self.retention.branch_disk(&machine(), &branch, &disk_name(0));
        let disk = self.alive(disk, "branch disk")?;
        let at = ByteOffset::new(0);
        let written = disk.write(at, Buffer::zeroed(4096), Durability::Durable).await;
        assert!(written.is_err(), "{name} is sealed");
        Ok(())
    }

    fn random_write(&mut self, content: &[Vec<u8>]) -> (usize, ByteOffset, Vec<u8>) {
        let disk = self.choices.index(SIZES.len());
        let unit = *self.choices.pick(&[1, 512, 4096]);
        let size = content[disk].len() as u64;
        let at = self.choices.below(size / unit) * unit;
        let longest = (size - at).min(if self.choices.chance(1, 5) { 70_000 } else { 9000 });
        let length = (1 + self.choices.below(longest)).next_multiple_of(unit).min(size - at);
        let mut data = vec![0; usize::try_from(length).expect("small")];
        if self.choices.chance(4, 5) {
            self.choices.fill(&mut data);
        }
        (disk, ByteOffset::new(at), data)
    }

    fn branch_head(&self, name: &str) -> u64 {
        let machines = self.retention.machines();
        let branch = machines[0].branches.iter().find(|branch| branch.name.as_str() == name);
        branch.expect("an acknowledged branch is there").head.number()
    }

    /// Finds out which of the writes that were under way happened.
    async fn settle_branches(&mut self) -> Alive<()> {
        for (name, mut branch) in self.model.branches.clone() {
            if branch.uncertain.is_empty() {
                continue;
            }
            let mut happened = 0;
            for (disk, at, data) in std::mem::take(&mut branch.uncertain) {
                let found = self.read_branch(&name, disk).await?;
                let range = bytes(ByteRange::at(at, data.len() as u64).expect("on the disk"));
                if found[range.clone()] == data[..] {
                    happened += 1;
                    lay(&mut branch.content, disk, at, &data);
                } else {
                    let old = &branch.content[disk][range.clone()];
                    assert!(found[range] == *old, "a torn write of {name} at {at}");
                }
            }
            let head = self.branch_head(&name);
            branch.moments.insert(head, Arc::new(branch.content.clone()));
            self.model.say(format!("{happened} writes to {name} had happened"));
            self.model.branches.insert(name, branch);
        }
        Ok(())
    }

    async fn read_branch(&self, name: &str, disk: usize) -> Alive<Vec<u8>> {
        let name = Name::parse(name).expect("a name");
        let disk = self.retention.branch_disk(&machine(), &name, &disk_name(disk));
        let disk = self.alive(disk, "branch disk")?;
        let whole = disk.geometry().whole();
        let read = disk.read(whole).await;
        Ok(self.alive(read, "read branch")?.to_vec())
    }

    /// Compares points and branches with the model: all of them, or some.
    async fn verify(&mut self, all: bool) -> Alive<()> {
        self.verify_list().await?;
        if all {
            for (sequence, snapshot) in self.model.moments() {
                self.verify_moment(&format!("m@seq:{sequence}"), &snapshot).await?;
            }
            for (name, branch) in self.model.branches.clone() {
                for (sequence, snapshot) in &branch.moments {
                    self.verify_moment(&format!("m~{name}@seq:{sequence}"), snapshot).await?;
                }
            }
        } else {
            self.verify_one().await?;
        }
        for (name, branch) in self.model.branches.clone().into_iter().filter(|(_, b)| !b.sealed) {
            for (disk, content) in branch.content.iter().enumerate() {
                let found = self.read_branch(&name, disk).await?;
                assert!(found == *content, "head of branch {name} differs");
            }
        }
        Ok(())
    }

    /// Every acknowledged point is listed, and no others than one whose mark was under way.
    async fn verify_list(&mut self) -> Alive<()> {
        let all = PointQuery::all(usize::MAX);
        let listed = self.retention.points(&machine(), None, &all).unwrap_or_default();
        let listed: Vec<u64> = listed.iter().map(|p| p.point.sequence.number()).collect();
        for sequence in self.model.points.keys() {
            assert!(listed.contains(sequence), "point seq:{sequence} is gone");
        }
        let mut grown = self.model.grown_point.take();
        for sequence in listed {
            // Thinning makes points of instants.
            let instant = self.model.were_instants.contains(&sequence);
            let instant = instant
                || self.model.windows.iter().any(|one| one.0 < sequence && sequence <= one.1);
            if instant || self.model.points.contains_key(&sequence) {
                continue;
            }
            // Only the mark of an earlier generation can be unknown here, and it may have been seen before its time; or the
            // point that a disk left that had grown.
            let marked = || self.model.maybe_point.clone().map(|(_, snapshot)| snapshot);
            let Some(snapshot) = grown.take().or_else(marked) else {
                panic!("a point nobody marked: seq:{sequence}")
            };
            self.model.points.insert(sequence, snapshot);
        }
        Ok(())
    }

    /// Applies a policy of seconds, and takes note of what went.
    async fn thin(&mut self) -> Alive<()> {
        if !self.model.added {
            return Ok(());
        }
        let policy = *self.choices.pick(&POLICIES);
        let set = self.retention.set_policy(&machine(), policy.parse().expect("a policy")).await;
        self.alive(set, "set policy")?;
        self.model.thinning = true;
        let thinned = self.retention.thin().await;
        let report = self.alive(thinned, "thin")?;
        assert_eq!(report.suspended, None, "nobody moved the clock");
        let gone: u64 = report.lines.iter().map(|line| line.decision.dropped.points).sum();
        self.model.say(format!("{policy}: {gone} points went"));
        self.settle_thinned().await
    }

    /// Takes moments off the model that were dropped. It asks by name, so each of them is refused as dropped, and by nothing
    /// else; while no thinning was under way, none may be missing.
    async fn settle_thinned(&mut self) -> Alive<()> {
        if !std::mem::take(&mut self.model.thinning) {
            return Ok(());
        }
        for sequence in self.model.points.keys().copied().collect::<Vec<_>>() {
            if self.is_dropped(&format!("m@seq:{sequence}")).await? {
                self.model.points.remove(&sequence);
            }
        }
        for sequence in self.model.instants.keys().copied().collect::<Vec<_>>() {
            if self.is_dropped(&format!("m@seq:{sequence}")).await? {
                self.model.instants.remove(&sequence);
            }
        }
        for (name, mut branch) in self.model.branches.clone() {
            for sequence in branch.moments.keys().copied().collect::<Vec<_>>() {
                if self.is_dropped(&format!("m~{name}@seq:{sequence}")).await? {
                    branch.moments.remove(&sequence);
                }
            }
            self.model.branches.insert(name, branch);
        }
        Ok(())
    }

    async fn is_dropped(&mut self, text: &str) -> Alive<bool> {
        match self.retention.resolve(&moment(text)).await {
            Ok(_) => Ok(false),
            Err(ResolveError::Dropped { .. }) => Ok(true),
            Err(error) => self.alive(Err(error), text),
        }
    }

    pub(super) async fn verify_one(&mut self) -> Alive<()> {
        if let Some((sequence, snapshot)) = pick(&self.model.moments(), self.choices) {
            self.verify_moment(&format!("m@seq:{sequence}"), &snapshot).await?;
            self.model.say(format!("verified seq:{sequence}"));
        }
        Ok(())
    }

    pub(super) async fn verify_moment(&self, name: &str, snapshot: &Snapshot) -> Alive<()> {
        let found = self.alive(self.retention.resolve(&moment(name)).await, name)?;
        for (index, content) in snapshot.iter().enumerate() {
            let view = self.alive(self.retention.view(&found, &disk_name(index)), name)?;
            let read = view.read(view.geometry().whole()).await;
            let read = self.alive(read, name)?;
            assert_eq!(read.len(), content.len(), "disk {index} of {name} has another size");
            assert!(read[..] == content[..], "disk {index} of {name} differs");
        }
        Ok(())
    }
}

/// Lets other tasks run once.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

fn lay(disks: &mut [Vec<u8>], disk: usize, at: ByteOffset, data: &[u8]) {
    let range = bytes(ByteRange::at(at, data.len() as u64).expect("on the disk"));
    disks[disk][range].copy_from_slice(data);
}

pub(super) fn pick<K: Clone, V: Clone>(map: &BTreeMap<K, V>, choices: &mut Seed) -> Option<(K, V)> {
    let chosen = (!map.is_empty()).then(|| choices.index(map.len()))?;
    map.iter().nth(chosen).map(|(key, value)| (key.clone(), value.clone()))
}

fn extents(sent: &Sent) -> Vec<StreamExtent> {
    let extent = |(range, change): &(ByteRange, Change)| {
        let content = match change {
            Change::Zero => StreamContent::Zero,
            Change::Data(data) => {
                let hash = *blake3::hash(data).as_bytes();
                StreamContent::Data { bytes: Buffer::copy_of(data), hash }
            }
        };
        StreamExtent { range: *range, content }
    };
    sent.changes.iter().map(extent).collect()
}

pub(super) fn machine() -> Name {
    Name::parse("m").expect("a name")
}

pub(super) fn disk_name(index: usize) -> Name {
    Name::parse(&format!("d{index}")).expect("a name")
}

/// What the simulated source calls a content.
fn content_of(blocks: impl IntoIterator<Item = BlockHash>) -> ContentId {
    let mut hasher = blake3::Hasher::new();
    for block in blocks {
        match block {
            BlockHash::Known(hash) => hasher.update(&hash),
            BlockHash::Zero => hasher.update(&[0; 32]),
            BlockHash::Unknown => panic!("nothing was lost"),
        };
    }
    ContentId::new(*hasher.finalize().as_bytes())
}
