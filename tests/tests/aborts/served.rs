//! The same over iSCSI, with the disk below the journal standing still: it answers neither writes nor flushes, for as long as a test
//! likes, and nobody waits for a clock.

use super::{branched, range, reopened, settings};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::{FaultFolder, Seed, Stall};
use landfall_disks::uring::net::{Listener, Peer};
use landfall_disks::uring::{Engine, EngineSettings};
use landfall_protocols::iscsi::name::Name;
use landfall_protocols::iscsi::scsi::{Device, Identity, InitiatorPort, LunNumber, Nexus, Unit};
use landfall_protocols::iscsi::serve::{Service, Settings, serve};
use landfall_protocols::iscsi::session::login::{Demand, Want};
use landfall_protocols::iscsi::wire::task::{Function, TaskAnswer};
use landfall_protocols::iscsi::{OpenError, Targets, Visitor};
use landfall_retention::{LaneStatus, Opened, Retention};
use landfall_tests::harness::{Initiator, Sent};
use landfall_tests::world::{World, name};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const TARGET: &str = "iqn.2026-11.example:web";
/// What task management and what needs no write may take, whatever the disk does.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of the disk.
const BYTES: usize = 4 << 20;
const MIB: usize = 1 << 20;

/// How the disk comes to stand still: with the bytes of a group written, not answered; or answered, and not flushed.
const STALLS: [fn(&FaultFolder) -> Stall; 2] =
    [FaultFolder::stall, |folder| folder.stall_after_flushes(0)];

/// One target, for everybody.
struct One(Arc<Device>);

impl Targets for One {
    fn list<'a>(&'a self, _: &'a Visitor) -> LocalBoxFuture<'a, Vec<Name>> {
        async { vec![Name::parse(TARGET).expect("a name")] }.boxed_local()
    }

    fn demand<'a>(
        &'a self,
        _: &'a Want,
        _: &'a Visitor,
    ) -> LocalBoxFuture<'a, Result<Demand, OpenError>> {
        async { Ok(Demand::Nothing) }.boxed_local()
    }

    fn open<'a>(
        &'a self,
        _: &'a Name,
        _: &'a Visitor,
        port: InitiatorPort,
    ) -> LocalBoxFuture<'a, Result<Nexus, OpenError>> {
        async { Ok(self.0.nexus(port)) }.boxed_local()
    }
}

/// The branch of a [`branched`] world as a target on loopback.
struct Served {
    store: Arc<Retention>,
    service: Arc<Service>,
    addresses: [SocketAddr; 2],
    ended: mpsc::Receiver<()>,
    engine: Engine,
}

impl Served {
    fn start(world: &World) -> Self {
        let sizes = EngineSettings { cores: 2, ring_entries: 64, blocking_threads: 2 };
        let engine = Engine::start(sizes).expect("an engine");
        let surroundings = world.surroundings();
        let opened = engine.cores()[0]
            .block_on(move || async move { Retention::open(surroundings, settings()).await });
        let Opened { retention: store, lanes, .. } = opened.expect("it runs").expect("it opens");
        let home = engine.cores()[0].clone();
        for lane in lanes {
            home.spawn(move || lane.run());
        }
        let (disk, locks) = store
            .branch_disk_to_lock(&name("web"), &name("b"), &name("os"))
            .expect("there is a branch");
        let device = Device::new(TARGET);
        let unit = Unit { locks, volatile_cache: false, ..Unit::new(disk, Identity::new("os")) };
        device.attach(LunNumber::default(), unit).expect("it is the first");
        let brisk = Settings { parting_time: Duration::from_millis(50), ..Settings::default() };
        let service = Arc::new(Service::new(Arc::new(One(device)), brisk));
        let (tell, ended) = mpsc::channel();
        let addresses = [0, 1].map(|number| {
            let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address"));
            let listener = listener.expect("bound");
            let Peer::Tcp(address) = listener.local() else { panic!("TCP") };
            let (serving, tell) = (Arc::clone(&service), tell.clone());
            let core = engine.cores()[number].clone();
            home.spawn(move || async move {
                serve(listener, serving, &[core]).await;
                tell.send(()).expect("the test waits");
            });
            address
        });
        Self { store, service, addresses, ended, engine }
    }

    /// Logs in, to a session on the core of the lanes.
    fn login(&self, number: u8) -> Initiator {
        Initiator::login(self.addresses[0], TARGET, number)
    }

    /// The same, on a core of its own.
    fn login_elsewhere(&self, number: u8) -> Initiator {
        Initiator::login(self.addresses[1], TARGET, number)
    }

    /// Keeps that core busy until what this gives is dropped.
    fn block_elsewhere(&self) -> mpsc::Sender<()> {
        let (begun, begins) = mpsc::channel();
        let (release, released) = mpsc::channel();
        self.engine.cores()[1].spawn(move || async move {
            begun.send(()).expect("the test waits");
            // An error is what it waits for, in a way that no task of an I/O core should.
            let _ = released.recv();
        });
        begins.recv_timeout(PATIENCE).expect("it runs");
        release
    }

    fn stop(self) {
        self.service.stop();
        for _ in self.addresses {
            self.ended.recv_timeout(PATIENCE).expect("it ends");
        }
        self.engine.stop();
    }

    /// Waits until `what` holds.
    #[track_caller]
    fn until(&self, what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.service.counters());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a write with all its data, and sees it begin.
    #[track_caller]
    fn begin(&self, initiator: &mut Initiator, lba: u32, data: &[u8]) -> Sent {
        let commands = &self.service.counters().commands;
        let before = commands.load(Relaxed);
        let sent = initiator.write(lba, data);
        initiator.give_all(&sent);
        self.until(|| commands.load(Relaxed) > before);
        sent
    }

    /// Aborts that came too late.
    fn too_late(&self) -> u64 {
        self.service.counters().aborts_too_late.load(Relaxed)
    }

    /// What the lanes have done.
    fn lanes(&self) -> Vec<LaneStatus> {
        let store = Arc::clone(&self.store);
        let journal = self.engine.cores()[0].block_on(move || async move { store.journal().await });
        journal.expect("it runs").expect("its status").lanes
    }

    /// Records of the journal that abort others.
    fn abort_records(&self) -> u64 {
        self.lanes().iter().map(|lane| lane.aborts).sum()
    }

    /// All of them.
    fn records(&self) -> u64 {
        self.lanes().iter().map(|lane| lane.records).sum()
    }
}

/// What `act` gives, at once.
#[track_caller]
fn at_once<T>(act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let value = act();
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}", begun.elapsed());
    value
}

#[track_caller]
fn abort(initiator: &mut Initiator, sent: &Sent) {
    let answer = at_once(|| initiator.manage(Function::AbortTask, Some(sent)));
    assert_eq!(answer, TaskAnswer::Complete);
}

/// Writes, and waits for it.
#[track_caller]
fn write(initiator: &mut Initiator, lba: u32, data: &[u8], expected: &mut [u8]) {
    let sent = initiator.write(lba, data);
    assert_eq!(initiator.finish(&sent).0, 0);
    lay(expected, lba, data);
}

fn lay(expected: &mut [u8], lba: u32, data: &[u8]) {
    expected[lba as usize * 512..][..data.len()].copy_from_slice(data);
}

/// That the whole disk is as expected.
#[track_caller]
fn check(initiator: &mut Initiator, expected: &[u8]) {
    let read = initiator.read(0, BYTES);
    let (status, read) = initiator.finish(&read);
    assert_eq!(status, 0);
    let other = read.chunks(4096).zip(expected.chunks(4096)).position(|(read, due)| read != due);
    assert_eq!(other, None, "the first block that is not what it should be");
}

/// That it is so after a power cut, too, also if that takes the index.
#[track_caller]
fn check_after(world: World, expected: &[u8]) {
    let world = world.crash(&mut Seed::new(1));
    assert!(reopened(&world, range(0, super::SIZE)) == expected, "after a power cut");
    assert!(reopened(&world.without_index(), range(0, super::SIZE)) == expected, "rebuilt");
}

#[test]
fn what_is_aborted_while_the_disk_stalls_is_answered_at_once_and_never_there() {
    for (seed, stall) in (3..).zip(STALLS) {
        let world = branched(seed);
        let served = Served::start(&world);
        let mut expected = vec![1; BYTES];
        let (mut one, mut two) = (served.login(1), served.login(2));
        write(&mut one, 0, &[3; 8192], &mut expected);
        abort_tasks(&served, stall(&world.folder), &mut one, &mut expected);
        reset_unit(&served, stall(&world.folder), [&mut one, &mut two], &expected);
        assert!(served.abort_records() >= 2, "each stall held something that was aborted");
        assert_eq!(served.too_late(), 0);
        served.stop();
        check_after(world, &expected);
    }
}

/// ABORT TASK of a write that is on its way to the disk, and of a long one that waits behind it; beside one that nobody aborts.
fn abort_tasks(served: &Served, stall: Stall, one: &mut Initiator, expected: &mut [u8]) {
    let on_its_way = served.begin(one, 2048, &[2; 65_536]);
    served.until(|| stall.held() > 0);
    let long = served.begin(one, 4096, &[2; MIB + 8192]);
    let kept = served.begin(one, 1024, &[4; 4096]);
    for write in [&on_its_way, &long] {
        abort(one, write);
    }
    assert_eq!(at_once(|| one.test_unit_ready()), 0, "the session lives");
    let elsewhere = one.read(0, 8192);
    let (status, read) = at_once(|| one.finish(&elsewhere));
    assert!(status == 0 && read == [3; 8192]);
    let there = one.read(2050, 4096);
    assert!(one.hears_nothing(Duration::from_millis(200)), "nobody can say yet what is there");
    drop(stall);
    let found = one.finish_all(&[&kept, &there]);
    assert_eq!(found.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [0, 0]);
    assert!(found[1].1 == [1; 4096], "it was aborted");
    lay(expected, 1024, &[4; 4096]);
    check(one, expected);
}

/// LOGICAL UNIT RESET while two sessions have writes there.
fn reset_unit(served: &Served, stall: Stall, [one, two]: [&mut Initiator; 2], expected: &[u8]) {
    served.begin(one, 3072, &[5; 4096]);
    served.until(|| stall.held() > 0);
    served.begin(two, 3080, &[5; 4096]);
    served.begin(one, 0, &[5; 512]);
    let answer = at_once(|| one.manage(Function::LogicalUnitReset, None));
    assert_eq!(answer, TaskAnswer::Complete);
    for initiator in [&mut *one, &mut *two] {
        assert_eq!(at_once(|| initiator.test_unit_ready()), 2, "it is told");
        assert_eq!(at_once(|| initiator.test_unit_ready()), 0, "the session lives");
    }
    drop(stall);
    check(two, expected);
    check(one, expected);
}

/// Nothing that is answered waits for a core that does something else; nor may what runs there come to be behind the answer.
#[test]
fn a_reset_ends_what_a_session_has_whose_core_is_late() {
    let world = branched(3);
    let served = Served::start(&world);
    let mut expected = vec![1; BYTES];
    let (mut one, mut two) = (served.login(1), served.login_elsewhere(2));
    write(&mut one, 0, &[3; 8192], &mut expected);
    let stall = world.folder.stall();
    served.begin(&mut two, 2048, &[2; 65_536]);
    served.until(|| stall.held() > 0);
    let records = served.records();
    let busy = served.block_elsewhere();
    let answer = at_once(|| one.manage(Function::LogicalUnitReset, None));
    assert_eq!(answer, TaskAnswer::Complete);
    drop(stall);
    served.until(|| served.records() > records);
    assert_eq!(served.abort_records(), 1, "it was aborted before the lane decided");
    drop(busy);
    for initiator in [&mut one, &mut two] {
        assert_eq!(initiator.test_unit_ready(), 2, "it is told, and of nothing else");
        assert_eq!(initiator.test_unit_ready(), 0);
        check(initiator, &expected);
    }
    assert_eq!(served.too_late(), 0);
    served.stop();
    check_after(world, &expected);
}

/// RFC 7143, 11.5.1 and 11.6.1: a command that was answered is a task that is not there; one that is under way has its abort
/// answered as complete, and what was begun of it comes to be.
#[test]
fn an_abort_that_comes_too_late_is_answered_at_once_and_takes_nothing_back() {
    let world = branched(3);
    let served = Served::start(&world);
    let mut expected = vec![1; BYTES];
    let mut one = served.login(1);
    let first = one.write(0, &[3; 8192]);
    assert_eq!(one.finish(&first).0, 0);
    lay(&mut expected, 0, &[3; 8192]);
    let answer = one.manage(Function::AbortTask, Some(&first));
    assert_eq!(answer, TaskAnswer::NoSuchTask);

    // Of three records the first is decided, the second stands still, and the third is not begun.
    let stall = world.folder.stall_after_flushes(1);
    let long = served.begin(&mut one, 2048, &[2; 3 * MIB]);
    served.until(|| stall.held() > 0);
    abort(&mut one, &long);
    assert_eq!(served.too_late(), 1);
    assert_eq!(at_once(|| one.test_unit_ready()), 0, "the session lives");
    let again = at_once(|| one.manage(Function::AbortTask, Some(&long)));
    assert_eq!(again, TaskAnswer::NoSuchTask);
    drop(stall);
    lay(&mut expected, 2048, &[2; 2 * MIB]);
    check(&mut one, &expected);
    // Over the second and the third.
    for lba in [4096, 6144] {
        write(&mut one, lba, &[4; 4096], &mut expected);
    }
    check(&mut one, &expected);
    assert_eq!(served.abort_records(), 0, "nothing was taken back");
    served.stop();
    check_after(world, &expected);
}

/// Nothing durable can say that it was aborted while the disk takes no writes.
#[test]
fn a_power_cut_while_the_disk_stalls_leaves_an_aborted_write_wholly_or_not_at_all() {
    let mut seen = BTreeSet::new();
    for (seed, stall) in (0..12).flat_map(|seed| STALLS.map(|stall| (seed, stall))) {
        let world = branched(3);
        let served = Served::start(&world);
        let mut one = served.login(1);
        let mut expected = vec![1; BYTES];
        write(&mut one, 0, &[3; 8192], &mut expected);
        let stall = stall(&world.folder);
        let aborted = served.begin(&mut one, 2048, &[2; 65_536]);
        served.until(|| stall.held() > 0);
        abort(&mut one, &aborted);
        // With everything that is under way.
        served.engine.stop();
        let world = world.crash(&mut Seed::new(seed));
        let read = reopened(&world, range(0, super::SIZE));
        let there = read[MIB];
        lay(&mut expected, 2048, &[there; 65_536]);
        assert!(read == expected, "seed {seed}");
        let again = reopened(&world.without_index(), range(0, super::SIZE));
        assert!(again == read, "seed {seed}, rebuilt");
        seen.insert(there);
    }
    assert_eq!(seen, BTreeSet::from([1, 2]), "either");
}
