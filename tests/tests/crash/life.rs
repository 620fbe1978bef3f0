//! The life of one target: passes, kills, branch writes, and the comparison of everything with what it has to be.

use crate::replicate::{Replicate, Told};
use crate::writer::Writer;
use landfall_disks::faults::Seed;
use landfall_tests::harness::{MIB, Settings, Source, Target, legacy};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Passes of one life, the first copy among them.
const PASSES: u64 = 5;
/// Most kills in one pass.
const KILLS: u64 = 3;
/// How long after the first batch a pass is still at work, more or less.
const AT_WORK: Duration = Duration::from_millis(10);
/// How long a pass may compare before it sends something.
const LONGEST_WAIT: Duration = Duration::from_millis(150);
/// How long a start takes, more or less.
const STARTING: Duration = Duration::from_millis(120);

/// How long an index that is built while the target runs may take.
const INDEXED: Duration = Duration::from_secs(60);

/// As many checkpoints of the index as there can be, and all of it is there when a start is over; the same with everything
/// sealed; and with as little of it as can be.
const CHECKPOINTS: &str = "[index]\ncheckpoint_every = '1s'\nsegments_at_start = 1000";
const SEALED: &str = "[index]\ncheckpoint_every = '1s'\nsegments_at_start = 1000\n\
     [encryption]\nkey = { command = ['/bin/echo', \
     '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f'] }";

const IN_PIECES: &str = "[index]\ncheckpoint_every = '1s'\nsegments_at_start = 1";

/// What happened, to see that a run was worth something.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Deeds {
    pub(crate) kills: usize,
    pub(crate) killed_recovering: usize,
    pub(crate) resumed: usize,
    pub(crate) begun_again: usize,
    pub(crate) points: usize,
    pub(crate) writes: usize,
    /// Lives whose history begins later than it did.
    pub(crate) folded: usize,
    /// Folds that a kill cut off.
    pub(crate) folds_cut_off: usize,
    /// Starts without an index, and those of them for which there was a checkpoint.
    pub(crate) indexes_lost: usize,
    pub(crate) indexes_restored: usize,
}

impl Deeds {
    pub(crate) fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.killed_recovering += other.killed_recovering;
        self.resumed += other.resumed;
        self.begun_again += other.begun_again;
        self.points += other.points;
        self.writes += other.writes;
        self.folded += other.folded;
        self.folds_cut_off += other.folds_cut_off;
        self.indexes_lost += other.indexes_lost;
        self.indexes_restored += other.indexes_restored;
    }
}

/// Lives one life; panics where something acknowledged is not there.
pub(crate) fn live(seed: u64) -> Deeds {
    let mut life = Life::begin(seed);
    life.pass();
    // A branch holds history back, so a life with folds has none before its last pass.
    let alone = if life.folds { PASSES - 1 } else { 1 };
    for _ in 1..alone {
        life.change();
        life.pass();
    }
    let origin = life.source.content().to_vec();
    life.target.landfall(&["export", "add", "web", "--writable", "--branch", "b"]).ok();
    let socket = life.target.socket();
    let mut writer = Writer::new(socket, "web~b/os", origin, life.random.fork());
    let (done, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let writing = scope.spawn(|| writer.run(&done, &writes));
        let passes = std::panic::AssertUnwindSafe(|| {
            for _ in alone..PASSES {
                life.change();
                life.pass();
            }
        });
        let passed = std::panic::catch_unwind(passes);
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = writing.join().and(passed) {
            std::panic::resume_unwind(panic);
        }
    });
    life.deeds.writes = writes.into_inner();
    for _ in 0..2 {
        life.indexed();
        writer.settle();
        life.compare_all();
        let branch = legacy::read_all(&life.target.socket(), "web~b/os").expect("the branch");
        assert!(
            branch == writer.model(),
            "seed {seed}: acknowledged writes to the branch are lost"
        );
        life.target.kill();
        life.target.start_again();
    }
    let shown = life.target.json(&["machine", "show", "web", "--json"]);
    life.deeds.folded += usize::from(!shown["history"]["begins"].is_null());
    life.deeds.folds_cut_off = life.target.log().count(&["that was cut off"]);
    life.deeds.indexes_restored = life.target.log().count(&["the index is gone: checkpoint"]);
    life.deeds
}

struct Life {
    target: Target,
    source: Source,
    random: Seed,
    /// Content of every point, by sequence.
    points: BTreeMap<u64, Vec<u8>>,
    /// Whether points are let go, and what lies below folded and released.
    folds: bool,
    deeds: Deeds,
}

impl Life {
    fn begin(seed: u64) -> Self {
        let mut random = Seed::new(seed);
        let segment = *random.pick(&["2MiB", "4MiB", "16MiB"]);
        let folds = random.chance(1, 2);
        let mut settings = Settings { segment, ..Settings::default() };
        if folds {
            // Slow enough to be hit by a kill. Policies are applied at every start.
            settings.keep = "keep all for 0s";
            settings.fold = "every = '1s'\nrate = '4MiB'";
        }
        settings.more = *random.pick(&[CHECKPOINTS, SEALED, IN_PIECES]);
        let target = Target::with(&settings);
        target.log().expect("the index is gone: checkpoint");
        // A first copy that was cut short, or a stream whose first batch did not arrive, compares anew.
        target.log().expect("code=\"old_generation\"");
        // Where the index is built behind the lanes, a source that has to compare is told to come again.
        target.log().expect("the index is being built from the journal");
        let size = MIB * (6 + random.below(8)) + 4096 * random.below(3);
        let source = Source::create(target.folder(), "web.raw", size, random.next_u64());
        target.landfall(&["machine", "add", "web", "--disk", &format!("name=os,size={size}")]).ok();
        let (points, deeds) = (BTreeMap::new(), Deeds::default());
        Self { target, source, random, points, folds, deeds }
    }

    fn change(&mut self) {
        let count = 1 + self.random.below(40);
        self.source.change(count);
        if self.random.chance(3, 4) {
            // Something that takes a while to be sent.
            let span = self.source.size() / 2;
            let at = self.random.below(self.source.size() - span);
            self.source.write_noise(at, span);
        }
    }

    /// One pass with its kills; the points it made hold what the source holds.
    fn pass(&mut self) {
        let mut kills = self.random.below(KILLS + 1);
        let replicate = Replicate::start(&self.target, &self.source);
        loop {
            match replicate.next() {
                Told::Ended => break,
                Told::Other => continue,
                Told::AtWork => {}
                Told::Resumed => self.deeds.resumed += 1,
                Told::BegunAgain => self.deeds.begun_again += 1,
            }
            if kills > 0 {
                kills -= 1;
                self.wait_for_work();
                self.pause(AT_WORK);
                self.crash();
            }
        }
        let sequence = replicate.point();
        self.indexed();
        let made = self.listed();
        let new: Vec<u64> = made.into_iter().filter(|s| !self.points.contains_key(s)).collect();
        assert!(!new.is_empty(), "the pass made no point");
        assert!(sequence.is_none_or(|s| new.last() == Some(&s)), "{sequence:?} is not in {new:?}");
        for sequence in new {
            self.points.insert(sequence, self.source.content().to_vec());
            self.compare(sequence);
            self.deeds.points += 1;
        }
    }

    /// Mostly until batches arrive: before, the target has nothing to lose and the source nothing to go on from.
    fn wait_for_work(&mut self) {
        if self.random.chance(1, 4) {
            return;
        }
        let applied = || self.target.metrics().get("landfall_delta_batches_total");
        let (before, begun) = (applied(), Instant::now());
        // A pass that has nothing to send, or is over, is not waited for.
        while begun.elapsed() < LONGEST_WAIT && applied() <= before {}
    }

    /// Some time up to twice `about`.
    fn pause(&mut self, about: Duration) {
        let most = u64::try_from(about.as_micros() * 2).expect("short");
        thread::sleep(Duration::from_micros(self.random.below(most)));
    }

    /// Kills the target and starts it again; sometimes kills it while it starts.
    fn crash(&mut self) {
        self.target.kill();
        self.deeds.kills += 1;
        if self.random.chance(1, 5) {
            std::fs::remove_dir_all(self.target.data().join("index")).expect("it was there");
            self.deeds.indexes_lost += 1;
        }
        while self.random.chance(1, 4) {
            // Nobody waits until it is ready.
            drop(self.target.begin_start());
            self.pause(STARTING / 2);
            self.target.kill_starting();
            self.deeds.killed_recovering += 1;
        }
        self.target.start_again();
    }

    /// Waits until nothing waits for the index.
    fn indexed(&self) {
        let begun = Instant::now();
        while !self.target.json(&["status", "--json"])["index"].is_null() {
            assert!(begun.elapsed() < INDEXED, "the index is not built");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn listed(&self) -> Vec<u64> {
        let listed = self.target.json(&["point", "list", "web", "--json"]);
        let points = listed["points"].as_array().expect("a list");
        points.iter().map(|point| point["sequence"].as_u64().expect("a number")).collect()
    }

    fn compare(&self, sequence: u64) {
        let name = format!("web/os@seq:{sequence}");
        match legacy::read_all(&self.target.socket(), &name) {
            Ok(read) => assert!(read == self.points[&sequence], "{name} differs"),
            Err(_) if self.folds && !self.listed().contains(&sequence) => {}
            Err(error) => panic!("{name} cannot be read: {error}"),
        }
    }

    fn compare_all(&self) {
        let listed = self.listed();
        if self.folds {
            assert_eq!(listed.last(), self.points.keys().last(), "the newest always stays");
            let unknown = listed.iter().find(|sequence| !self.points.contains_key(sequence));
            assert_eq!(unknown, None, "nobody made it");
        } else {
            assert_eq!(listed, self.points.keys().copied().collect::<Vec<_>>());
        }
        listed.iter().for_each(|sequence| self.compare(*sequence));
    }
}
