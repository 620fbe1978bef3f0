//! Groups of several machines on a store: barriers hold one moment of all of them, whatever depends on what; members that are
//! late fail them; what was in common stays so through thinning, promotions and power cuts.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use landfall_disks::faults::{Seed, Spawner, run};
use landfall_disks::{ByteOffset, ByteRange};
use landfall_retention::groups::{
    BarrierMade, CommonMoment, DEFAULT_BARRIERS, GroupError, GroupStatus, Lateness,
};
use landfall_retention::ids::{Generation, Position, StreamId};
use landfall_retention::manifest::groups::{Barriers, CommonPoint};
use landfall_retention::name::{Label, Name, When};
use landfall_retention::point::{PointKind, PointQuery};
use landfall_retention::time::Timestamp;
use landfall_retention::{
    ChangeError, ImageSpec, NewDisk, NewMachine, Opened, Retention, Stream, StreamContent,
    StreamError, StreamExtent, StreamRequest, Surroundings, WriteOrder,
};
use landfall_tests::web::with_store;
use landfall_tests::world::{World, moment, name, yield_now};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

const MACHINES: [&str; 3] = ["web", "db", "queue"];
const SIZE: u64 = 64 << 10;
const BLOCK: u64 = 4096;
/// Several times what a lane takes until whoever comes has to wait.
const CROWD: usize = 1500;

async fn add_machine(store: &Retention, machine: &str) {
    let image =
        ImageSpec { format: "raw".into(), path: format!("{machine}.raw"), size_bytes: SIZE };
    let disks = vec![NewDisk { name: name("os"), image, adopt: false }];
    let machine = NewMachine { name: name(machine), display_name: String::new(), disks };
    store.add_machine(machine).await.expect("a new machine");
}

async fn open(store: &Retention, machine: &str) -> Stream {
    let request = StreamRequest {
        machine: name(machine),
        stream: StreamId::new([1; 16]),
        generation: Generation::default(),
        disks: vec![(name("os"), SIZE)],
        peer: "source".into(),
    };
    store.open_stream(request).await.expect("nobody streams")
}

/// A source that counts its own positions.
struct Source {
    stream: Stream,
    next: Cell<Position>,
}

impl Source {
    fn new(stream: Stream) -> Self {
        let next = Cell::new(stream.applied().next());
        Self { stream, next }
    }

    fn position(&self) -> Position {
        self.next.replace(self.next.get().next())
    }

    async fn write(&self, block: u64, token: u64) -> Result<(), StreamError> {
        let data = token.to_le_bytes().repeat(512);
        let hash = *blake3::hash(&data).as_bytes();
        let bytes = landfall_disks::Buffer::copy_of(&data);
        let content = StreamContent::Data { bytes, hash };
        let range = ByteRange::at(ByteOffset::new(block * BLOCK), BLOCK).expect("a block");
        let disk = self.stream.disks()[0].id;
        let extents = vec![StreamExtent { range, content }];
        self.stream.apply(self.position(), disk, Timestamp::default(), extents).await
    }

    /// Makes a point; the sequence it has.
    async fn mark(&self, kind: PointKind) -> u64 {
        let marked = self.stream.mark(self.position(), kind, None, Timestamp::default());
        marked.await.expect("a point").sequence.number()
    }

    async fn order(&self, order: WriteOrder) {
        let (position, kind) = (self.position(), PointKind::Crash);
        let marked = self.stream.mark_in_order(position, kind, None, Timestamp::default(), order);
        marked.await.expect("a point");
    }
}

/// The machines in the group `shop`, each fed by a synchronous source.
async fn shop(store: &Retention) -> Vec<Rc<Source>> {
    store.add_group(&name("shop"), DEFAULT_BARRIERS).await.expect("a new group");
    let mut sources = Vec::new();
    for machine in MACHINES {
        add_machine(store, machine).await;
        store.join_group(&name("shop"), &name(machine)).await.expect("it is alone");
        let source = Source::new(open(store, machine).await);
        source.order(WriteOrder::Synchronous).await;
        sources.push(Rc::new(source));
    }
    sources
}

/// A store with the shop, whose lanes run.
async fn open_shop(
    surroundings: Surroundings,
    spawner: &Spawner,
) -> (Arc<Retention>, Vec<Rc<Source>>) {
    let opened = Retention::open(surroundings, World::settings()).await;
    let Opened { retention, lanes, .. } = opened.expect("the store opens");
    lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
    let sources = shop(&retention).await;
    (retention, sources)
}

async fn barrier(store: &Retention) -> Result<BarrierMade, GroupError> {
    let forever = pin!(std::future::pending());
    store.make_barrier(&name("shop"), PointKind::Crash, None, forever).await
}

fn group(store: &Retention) -> GroupStatus {
    store.group(&name("shop")).expect("it is there")
}

/// Who failed a barrier, and why.
fn late(made: Result<BarrierMade, GroupError>) -> Vec<(String, Lateness)> {
    match made {
        Err(GroupError::Late { late, .. }) => {
            late.into_iter().map(|late| (late.machine.to_string(), late.why)).collect()
        }
        other => panic!("nobody was late: {other:?}"),
    }
}

/// The token in `block` of a machine at a moment.
async fn token(store: &Retention, at: &str, block: u64) -> u64 {
    let found = store.resolve(&moment(at)).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let view = store.view(&found, &name("os")).expect(at);
    let range = ByteRange::at(ByteOffset::new(block * BLOCK), 8).expect("a block");
    let bytes = view.read(range).await.expect(at).to_vec();
    u64::from_le_bytes(bytes.try_into().expect("eight"))
}

/// The machine that number `n` of the chain in `block` goes to: some go round one way, some the other.
fn machine_of(block: u64, n: u64) -> usize {
    usize::try_from(n * (1 + block % 2) % MACHINES.len() as u64).expect("one of three")
}

/// Writes that follow from each other go from machine to machine, each after the one before it was acknowledged. Ends with
/// the power, or when it is told to.
async fn chain(sources: Vec<Rc<Source>>, block: u64, stop: Rc<Cell<bool>>, ended: Rc<Cell<u64>>) {
    let mut token = 1;
    while !stop.get() {
        if sources[machine_of(block, token)].write(block, token).await.is_err() {
            break;
        }
        token += 1;
        yield_now().await;
    }
    ended.set(ended.get() + 1);
}

/// That a common point holds one moment: what the newest number of a chain follows from is there, on whatever machine.
async fn check_moment(store: &Retention, common: &CommonMoment, chains: u64) {
    for block in 0..chains {
        let mut tokens = Vec::new();
        for machine in MACHINES {
            let of = |one: &&landfall_retention::name::MomentName| one.machine.as_str() == machine;
            let name = common.moments.iter().find(of).expect("each machine is in it");
            tokens.push(token(store, &name.to_string(), block).await);
        }
        let newest = tokens.iter().max().copied().expect("three");
        for (place, token) in tokens.iter().enumerate() {
            let here = (1..=newest).rev().find(|n| machine_of(block, *n) == place);
            let last = here.unwrap_or_default();
            assert_eq!(*token, last, "{:?}: {tokens:?} is no moment", common.point);
        }
    }
}

/// Writes that nobody waits for, as many as make lanes and streams wait: only then a barrier has anybody to wait for.
async fn crowd(source: Rc<Source>, stop: Rc<Cell<bool>>) {
    let zero = || async {
        let range = ByteRange::at(ByteOffset::new(SIZE - BLOCK), BLOCK).expect("a block");
        let extents = vec![StreamExtent { range, content: StreamContent::Zero }];
        let disk = source.stream.disks()[0].id;
        source.stream.apply(source.position(), disk, Timestamp::default(), extents).await
    };
    let mut under_way: FuturesUnordered<_> = (0..CROWD).map(|_| zero()).collect();
    while let Some(Ok(())) = under_way.next().await {
        if stop.get() {
            return;
        }
        under_way.push(zero());
    }
}

fn common(store: &Retention) -> Vec<CommonMoment> {
    store.common_points(&name("shop"), usize::MAX).expect("the group is there")
}

/// Barriers while chains of writes go on; the power may go at any flush.
fn barriers_and_a_power_cut(number: u64) {
    const CHAINS: u64 = 3;
    let mut random = Seed::new(number);
    let world = World::new(&mut random);
    let made: Rc<RefCell<Vec<Arc<CommonPoint>>>> = Rc::default();
    let cut = random.chance(1, 2).then(|| 30 + random.below(120));
    run(&mut random.fork(), |spawner| {
        let (surroundings, made, world) = (world.surroundings(), Rc::clone(&made), &world);
        let mut choices = random.fork();
        async move {
            let (retention, sources) = open_shop(surroundings, &spawner).await;
            cut.into_iter().for_each(|cut| world.folder.crash_after_flushes(cut));
            let (stop, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
            for block in 0..CHAINS {
                let (stop, ended) = (Rc::clone(&stop), Rc::clone(&ended));
                spawner.spawn(chain(sources.clone(), block, stop, ended));
            }
            // The second one that a barrier comes to: it waits there, and the others' lane is quick.
            spawner.spawn(crowd(Rc::clone(&sources[1]), Rc::clone(&stop)));
            for _ in 0..6 {
                for _ in 0..choices.below(60) {
                    yield_now().await;
                }
                match barrier(&retention).await {
                    Ok(one) => made.borrow_mut().push(one.point),
                    Err(_) if world.folder.is_dead() => return,
                    Err(error) => panic!("a barrier: {error}"),
                }
            }
            stop.set(true);
            while ended.get() < CHAINS {
                yield_now().await;
            }
            for one in common(&retention) {
                check_moment(&retention, &one, CHAINS).await;
            }
        }
    });
    let world = world.crash(&mut random);
    let world = if random.chance(1, 3) { world.without_index() } else { world };
    with_store(&world, |store, _| {
        let made = made.take();
        Box::pin(async move {
            let there = common(&store);
            assert!(there.len() <= made.len() + 1, "a common point that nobody made");
            for one in &made {
                let found = there.iter().find(|found| found.point == *one);
                assert!(found.is_some(), "{one:?} was acknowledged and is gone");
            }
            for one in &there {
                check_moment(&store, one, CHAINS).await;
            }
        })
    });
}

#[test]
fn a_common_point_is_one_moment_whatever_follows_from_what() {
    for number in 0..30 {
        barriers_and_a_power_cut(number);
    }
}

#[test]
fn who_is_late_fails_the_barrier_by_name_and_holds_nobody_back() {
    let world = World::new(&mut Seed::new(1));
    with_store(&world, |store, _| {
        Box::pin(async move {
            store.add_group(&name("shop"), DEFAULT_BARRIERS).await.expect("a new group");
            assert!(matches!(barrier(&store).await, Err(GroupError::Alone { .. })));
            for machine in MACHINES {
                add_machine(&store, machine).await;
                store.join_group(&name("shop"), &name(machine)).await.expect("it is alone");
            }
            let web = Source::new(open(&store, "web").await);
            web.order(WriteOrder::Synchronous).await;
            let db = Source::new(open(&store, "db").await);
            let expected = vec![
                ("db".to_owned(), Lateness::NotInOrder),
                ("queue".to_owned(), Lateness::NotFed),
            ];
            assert_eq!(late(barrier(&store).await), expected, "all of them are named");
            let queue = Source::new(open(&store, "queue").await);
            queue.order(WriteOrder::Synchronous).await;
            db.order(WriteOrder::Asynchronous).await;
            let asynchronous = vec![("db".to_owned(), Lateness::Asynchronous)];
            assert_eq!(late(barrier(&store).await), asynchronous);
            let of_group: Vec<_> = group(&store).members.into_iter().map(|(_, why)| why).collect();
            assert_eq!(of_group, [Some(Lateness::Asynchronous), None, None]);
            db.order(WriteOrder::Synchronous).await;
            // Patience that has ended already: nobody is waited for.
            let over = pin!(async {});
            let made = store.make_barrier(&name("shop"), PointKind::Crash, None, over).await;
            assert!(matches!(made, Err(GroupError::Late { .. })), "{made:?}");
            assert_eq!(common(&store).len(), 0);
            for (token, source) in (1..).zip([&web, &db, &queue]) {
                source.write(0, token).await.expect("nobody is held back");
            }
            let made = barrier(&store).await.expect("all are there");
            assert_eq!((made.point.number, made.unchanged), (1, false));
            let fuzzy = pin!(std::future::pending());
            let made = store.make_barrier(&name("shop"), PointKind::Fuzzy, None, fuzzy).await;
            assert!(matches!(made, Err(GroupError::Fuzzy)));
            drop(queue);
            assert_eq!(late(barrier(&store).await), [("queue".to_owned(), Lateness::NotFed)]);
        })
    });
}

/// Patience that has ended when it was asked for `polls` times.
fn ends_after(polls: usize) -> impl Future<Output = ()> {
    let mut left = polls;
    std::future::poll_fn(move |_| match left.checked_sub(1) {
        None => Poll::Ready(()),
        Some(fewer) => {
            left = fewer;
            Poll::Pending
        }
    })
}

fn points_of(store: &Retention, machine: &str) -> usize {
    store.points(&name(machine), None, &PointQuery::all(usize::MAX)).expect("it is there").len()
}

/// Whoever's mark is durable when patience ends is not called slow for the sake of those whose marks are not.
#[test]
fn slow_is_who_was_slow() {
    let world = World::new(&mut Seed::new(8));
    run(&mut Seed::new(9), |spawner| {
        let surroundings = world.surroundings();
        async move {
            let (store, sources) = open_shop(surroundings, &spawner).await;
            let stop = Rc::new(Cell::new(false));
            // Its lane has more to write than the others.
            spawner.spawn(crowd(Rc::clone(&sources[1]), Rc::clone(&stop)));
            let mut slow = BTreeSet::new();
            for polls in 0.. {
                assert!(polls < 10_000, "no patience is enough");
                sources[0].write(0, polls as u64).await.expect("taken");
                let before = MACHINES.map(|machine| points_of(&store, machine));
                let patience = pin!(ends_after(polls));
                let made =
                    store.make_barrier(&name("shop"), PointKind::Crash, None, patience).await;
                let after = MACHINES.map(|machine| points_of(&store, machine));
                let late = match made {
                    Ok(_) => break,
                    Err(GroupError::BarrierUnderWay { .. }) => continue,
                    Err(error) => late(Err(error)),
                };
                if late.iter().any(|(_, why)| *why != Lateness::Slow) {
                    continue;
                }
                let durable = |place: &usize| after[*place] > before[*place];
                let there: BTreeSet<_> = (0..3).filter(durable).map(|at| MACHINES[at]).collect();
                let named: BTreeSet<_> = late.iter().map(|(machine, _)| machine.as_str()).collect();
                let all: BTreeSet<_> = MACHINES.into_iter().collect();
                assert_eq!(all.difference(&named).copied().collect::<BTreeSet<_>>(), there);
                slow.insert(named.len());
            }
            stop.set(true);
            assert!(slow.iter().any(|count| *count < 3), "{slow:?} were slow at a time");
        }
    });
}

/// Whoever feeds a machine by a new connection was not held back by a barrier that waits for another one.
#[test]
fn who_comes_anew_while_a_barrier_is_made_fails_it() {
    let world = World::new(&mut Seed::new(9));
    run(&mut Seed::new(10), |spawner| {
        let surroundings = world.surroundings();
        async move {
            let (retention, sources) = open_shop(surroundings, &spawner).await;
            let stop = Rc::new(Cell::new(false));
            // The last one that a barrier comes to.
            spawner.spawn(crowd(Rc::clone(&sources[2]), Rc::clone(&stop)));
            for _ in 0..30 {
                yield_now().await;
            }
            let mut barrier = pin!(barrier(&retention));
            let first = futures_util::poll!(barrier.as_mut());
            assert!(first.is_pending(), "it waits for queue");
            let anew = Source::new(open(&retention, "web").await);
            let made = barrier.await;
            assert_eq!(late(made), [("web".to_owned(), Lateness::Reconnected)]);
            stop.set(true);
            anew.write(1, 1).await.expect("nobody is held back");
            assert_eq!(common(&retention).len(), 0);
        }
    });
}

#[test]
fn where_nothing_was_written_the_newest_common_point_holds_on() {
    let world = World::new(&mut Seed::new(2));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let sources = shop(&store).await;
            let first = barrier(&store).await.expect("all are there");
            let again = barrier(&store).await.expect("all are there");
            assert!(again.unchanged && again.point == first.point);
            assert!(group(&store).holds_until > Some(first.point.time));
            sources[1].write(0, 1).await.expect("taken");
            let next = barrier(&store).await.expect("all are there");
            assert!(!next.unchanged && next.point.number == 2);
            // A point that somebody marked by hand is news, too.
            store.mark(&name("web"), None, PointKind::Crash, None).await.expect("a point");
            let next = barrier(&store).await.expect("all are there");
            assert_eq!((next.unchanged, next.point.number), (false, 3));
            // A label is asked for, whatever was written.
            let label = Some(Label::parse("before").expect("a label"));
            let forever = pin!(std::future::pending());
            let kind = PointKind::App;
            let labelled = store.make_barrier(&name("shop"), kind, label, forever).await;
            assert_eq!(labelled.expect("all are there").point.number, 4);
            let found = |when: When| store.common_point(&name("shop"), &when).expect("there");
            let tag = When::Tag(Label::parse("before").expect("a label"));
            for when in
                [tag, When::App, When::Latest, When::At(Timestamp::from_nanoseconds(u64::MAX))]
            {
                assert_eq!(found(when).point.number, 4);
            }
            let first_time = When::At(first.point.time);
            assert_eq!(found(first_time).point.number, 1);
            let second = When::Sequence(landfall_retention::ids::Sequence::new(2));
            assert_eq!(found(second).point.number, 2);
            let before = When::At(Timestamp::from_nanoseconds(first.point.time.nanoseconds() - 1));
            let none = store.common_point(&name("shop"), &before);
            assert!(matches!(none, Err(GroupError::NoSuchPoint { .. })), "{none:?}");
        })
    });
}

#[test]
fn a_branch_of_the_group_is_of_all_its_machines_or_of_none() {
    let world = World::new(&mut Seed::new(3));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let sources = shop(&store).await;
            for (token, source) in (1..).zip(&sources) {
                source.write(0, token).await.expect("taken");
            }
            barrier(&store).await.expect("all are there");
            sources[0].write(0, 9).await.expect("taken");
            let taken = store.resolve(&moment("db")).await.expect("a point");
            store.add_branch(&taken, name("test")).await.expect("a branch");
            let refused = store.branch_group(&name("shop"), &When::Latest, &name("test")).await;
            let exists = matches!(refused, Err(GroupError::Change(ChangeError::Exists { .. })));
            assert!(exists, "{refused:?}");
            let branches = |machine: &str| {
                let machines = store.machines().into_iter();
                let mut of = machines.filter(|one| one.name.as_str() == machine);
                of.next().expect("it is there").branches.len()
            };
            assert_eq!(MACHINES.map(branches), [0, 1, 0], "none of it was made");
            let made = store.branch_group(&name("shop"), &When::Latest, &name("drill")).await;
            assert_eq!(made.expect("the name is free").branches.len(), 3);
            for (token_there, machine) in (1..).zip(MACHINES) {
                assert_eq!(token(&store, &format!("{machine}~drill"), 0).await, token_there);
            }
        })
    });
}

#[test]
fn what_somebody_declares_names_each_machine_once() {
    let world = World::new(&mut Seed::new(4));
    with_store(&world, |store, _| {
        Box::pin(async move {
            shop(&store).await;
            let declare = async |moments: &[&str]| {
                let moments: Vec<_> = moments.iter().map(|one| moment(one)).collect();
                store.declare_common(&name("shop"), PointKind::App, None, &moments).await
            };
            for bad in
                [&["web", "db"][..], &["web", "db", "db"], &["web", "db", "queue", "db@seq:1"]]
            {
                let refused = declare(bad).await;
                assert!(matches!(refused, Err(GroupError::NotEachOnce { .. })), "{refused:?}");
            }
            let refused = declare(&["web", "db@seq:77", "queue"]).await;
            assert!(matches!(refused, Err(GroupError::Resolve(_))), "{refused:?}");
            let made = declare(&["web", "db@seq:1", "queue"]).await.expect("one moment, they say");
            assert_eq!((made.number, made.kind, made.members.len()), (1, PointKind::App, 3));
        })
    });
}

#[test]
fn what_somebody_declares_is_moments_of_machines_that_are_whole() {
    let world = World::new(&mut Seed::new(11));
    with_store(&world, |store, _| {
        Box::pin(async move {
            store.add_group(&name("shop"), DEFAULT_BARRIERS).await.expect("a new group");
            let mut sources = Vec::new();
            for machine in ["web", "db"] {
                add_machine(&store, machine).await;
                store.join_group(&name("shop"), &name(machine)).await.expect("it is alone");
                sources.push(Source::new(open(&store, machine).await));
            }
            let mut whole = Vec::new();
            for source in &sources {
                whole.push(source.mark(PointKind::Crash).await);
            }
            let fuzzy = sources[1].mark(PointKind::Fuzzy).await;
            let taken = store.resolve(&moment("db")).await.expect("a point");
            store.add_branch(&taken, name("test")).await.expect("a branch");
            let declare = async |db: &str| {
                let moments = [moment(&format!("web@seq:{}", whole[0])), moment(db)];
                store.declare_common(&name("shop"), PointKind::Crash, None, &moments).await
            };
            let refused = declare(&format!("db@seq:{fuzzy}")).await;
            assert!(matches!(refused, Err(GroupError::FuzzyMoment { .. })), "{refused:?}");
            for part in ["db/os", "db~test", "db~test/os@latest"] {
                let refused = declare(part).await;
                assert!(matches!(refused, Err(GroupError::NotAMachine { .. })), "{refused:?}");
            }
            declare(&format!("db@seq:{}", whole[1])).await.expect("one moment, they say");
        })
    });
}

/// Somebody may find out late that machines stood at one moment.
#[test]
fn what_is_declared_late_is_no_newer_for_that() {
    let world = World::new(&mut Seed::new(12));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let sources = shop(&store).await;
            let then: Vec<_> = MACHINES
                .iter()
                .map(|machine| async {
                    let found = store.resolve(&moment(machine)).await.expect("a point");
                    moment(&found.absolute_name(None))
                })
                .collect();
            let then = futures_util::future::join_all(then).await;
            sources[0].write(0, 1).await.expect("taken");
            let newest = barrier(&store).await.expect("all are there");
            let declared = store.declare_common(&name("shop"), PointKind::Crash, None, &then).await;
            let declared = declared.expect("one moment, they say");
            assert_eq!((newest.point.number, declared.number), (1, 2));
            assert!(declared.time < newest.point.time);
            let numbers = || common(&store).iter().map(|one| one.point.number).collect::<Vec<_>>();
            assert_eq!(numbers(), [1, 2], "the newest first");
            let of =
                |when: When| store.common_point(&name("shop"), &when).expect("there").point.number;
            assert_eq!(of(When::Latest), 1);
            assert_eq!(of(When::At(newest.point.time)), 1);
            assert_eq!(of(When::At(declared.time)), 2);
            let status = group(&store);
            let number = |one: &Option<CommonMoment>| one.as_ref().map(|one| one.point.number);
            assert_eq!((number(&status.oldest), number(&status.newest)), (Some(2), Some(1)));
            let again = barrier(&store).await.expect("all are there");
            assert!(again.unchanged && again.point.number == 1, "nothing was written since");
        })
    });
}

/// Machines that thinning would look at one by one keep the same common points, and points between them go.
#[test]
fn policies_keep_common_points_together() {
    let world = World::new(&mut Seed::new(5));
    let clock = Arc::clone(&world.clock);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let sources = shop(&store).await;
            let policy = "keep all for 10s, every 10s for 1h";
            let policy = policy.parse().expect("a policy");
            store.set_policy(&name("web"), policy).await.expect("web is there");
            for round in 0..40u64 {
                for (place, source) in sources.iter().enumerate() {
                    // The machines are busy at different times.
                    if !(round + place as u64).is_multiple_of(3) {
                        source.write(round % 8, round).await.expect("taken");
                        clock.pass(Duration::from_millis(300 * (place as u64 + 1)));
                    }
                }
                barrier(&store).await.expect("all are there");
                if round.is_multiple_of(2) {
                    // By itself, web would rather keep this one.
                    let marked = store.mark(&name("web"), None, PointKind::App, None).await;
                    marked.expect("a point");
                }
                clock.pass(Duration::from_millis(700));
            }
            let before = common(&store);
            clock.pass(Duration::from_secs(12));
            store.thin().await.expect("nothing fails");
            let after = common(&store);
            // One for each slot of ten seconds, and the newest.
            let slots = |points: &[CommonMoment]| {
                let slot = |one: &CommonMoment| one.point.time.nanoseconds() / 10_000_000_000;
                points.iter().map(slot).collect::<BTreeSet<_>>()
            };
            assert_eq!(slots(&after), slots(&before));
            assert!(slots(&after).len() >= 4 && after.len() <= slots(&after).len() + 1);
            for one in &after {
                for name in &one.moments {
                    store.resolve(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
                }
            }
            let query = PointQuery::all(usize::MAX);
            for machine in MACHINES {
                let points = store.points(&name(machine), None, &query).expect("it is there");
                assert!(points.len() < before.len(), "{machine} keeps {} points", points.len());
            }
            // The next pass finds nothing to do.
            store.thin().await.expect("nothing fails");
            assert_eq!(common(&store).len(), after.len());
        })
    });
}

#[test]
fn groups_have_rules_of_their_own() {
    let world = World::new(&mut Seed::new(6));
    with_store(&world, |store, _| {
        Box::pin(async move {
            let (shop, web): (Name, Name) = (name("shop"), name("web"));
            let bad = |every: u64, patience: u64| Barriers {
                every: Some(Duration::from_millis(every)),
                patience: Duration::from_millis(patience),
            };
            for barriers in [bad(500, 100), bad(90_000_000, 100), bad(5000, 0), bad(5000, 5000)] {
                let refused = store.add_group(&shop, barriers).await;
                assert!(matches!(refused, Err(GroupError::Barriers)), "{barriers:?}");
            }
            store.add_group(&shop, bad(5000, 100)).await.expect("a new group");
            let again = store.add_group(&shop, DEFAULT_BARRIERS).await;
            assert!(matches!(again, Err(GroupError::Change(ChangeError::Exists { .. }))));
            store.set_barriers(&shop, DEFAULT_BARRIERS).await.expect("it is there");
            assert_eq!(group(&store).barriers, DEFAULT_BARRIERS);
            add_machine(&store, "web").await;
            let unknown = store.join_group(&name("stop"), &web).await;
            assert!(matches!(unknown, Err(GroupError::Unknown { .. })), "{unknown:?}");
            let left = store.leave_group(&shop, &web).await;
            assert!(matches!(left, Err(GroupError::NotInGroup { .. })), "{left:?}");
            let unlimited = "keep all for 3h".parse().expect("a policy");
            store.join_group(&shop, &web).await.expect("it is alone");
            store.set_policy(&web, unlimited).await.expect("it is there");
            let again = store.join_group(&shop, &web).await;
            assert!(matches!(again, Err(GroupError::InGroup { .. })), "{again:?}");
            let removed = store.remove_group(&shop).await;
            assert!(matches!(removed, Err(GroupError::HasMachines { .. })), "{removed:?}");
            store.leave_group(&shop, &web).await.expect("it is in it");
            let policy = store.policy(&web).expect("it is there");
            assert!(policy.own && policy.policy.to_string() == "keep all for 3h");
            store.remove_group(&shop).await.expect("it is empty");
            assert!(store.groups().is_empty());
        })
    });
}
