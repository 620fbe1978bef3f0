//! Policies on a store: what goes, what stays whatever the policy says, and what a clock that is moved cannot do.

use futures_util::future::LocalBoxFuture;
use landfall_disks::faults::{Seed, run};
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability};
use landfall_retention::ids::{Generation, StreamId};
use landfall_retention::point::{Point, PointKind, PointQuery};
use landfall_retention::time::{Clock, Timestamp};
use landfall_retention::{
    ChangeError, Moment, NewExport, Opened, ResolveError, Retention, Stream, StreamRequest,
};
use landfall_tests::web::{add_web, put, with_store};
use landfall_tests::world::{World, moment, name};
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 64 << 10;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn set_policy(store: &Retention, text: &str) {
    let policy = text.parse().expect("a policy");
    store.set_policy(&name("web"), policy).await.expect("it is recorded");
}

async fn open(store: &Retention, generation: u64) -> Stream {
    let request = StreamRequest {
        machine: name("web"),
        stream: StreamId::new([1; 16]),
        generation: Generation::new(generation),
        disks: vec![(name("os"), SIZE)],
        peer: "source".into(),
    };
    store.open_stream(request).await.expect("nobody streams")
}

/// Block 0 becomes `byte` in every block, and that is a point.
async fn pass(stream: &Stream, byte: u8, kind: PointKind) -> Point {
    let at = stream.applied().next();
    put(stream, at.number(), 0, vec![byte; 4096]).await.expect("it is applied");
    stream.mark(at.next(), kind, None, Timestamp::default()).await.expect("a point")
}

async fn first_byte(store: &Retention, at: &str) -> u8 {
    let found = store.resolve(&moment(at)).await.unwrap_or_else(|error| panic!("{at}: {error}"));
    let view = store.view(&found, &name("os")).expect(at);
    view.read(ByteRange::up_to(4096)).await.expect(at)[0]
}

fn listed(store: &Retention, branch: Option<&str>) -> Vec<u64> {
    let branch = branch.map(name);
    let all = PointQuery::all(usize::MAX);
    let points = store.points(&name("web"), branch.as_ref(), &all).expect("it is there");
    points.iter().map(|status| status.point.sequence.number()).collect()
}

/// A point every twenty seconds for three minutes, then ten minutes of nothing, then one.
fn thinnable() -> (World, Vec<Point>) {
    let world = World::new(&mut Seed::new(3));
    let clock = Arc::clone(&world.clock);
    let points = with_store(&world, |store, _| {
        Box::pin(async move {
            add_web(&store, SIZE).await.expect("a new machine");
            let stream = open(&store, 0).await;
            let mut points = Vec::new();
            for byte in 1..=9 {
                let kind = if byte == 6 { PointKind::App } else { PointKind::Crash };
                points.push(pass(&stream, byte, kind).await);
                clock.pass(Duration::from_secs(20));
            }
            clock.pass(10 * MINUTE);
            points.push(pass(&stream, 10, PointKind::Crash).await);
            points
        })
    });
    (world, points)
}

fn sequences(points: &[Point]) -> Vec<u64> {
    points.iter().map(|point| point.sequence.number()).collect()
}

/// The points that a rule of one per minute keeps of those: the app point of its minute, the first of the others.
fn minutely(points: &[Point]) -> Vec<Point> {
    let mut kept: Vec<Point> = Vec::new();
    for point in points {
        let minute = |point: &Point| point.commit_time.nanoseconds() / 60_000_000_000;
        match kept.last_mut() {
            Some(last) if minute(last) == minute(point) => {
                if point.kind < last.kind {
                    *last = point.clone();
                }
            }
            _ => kept.push(point.clone()),
        }
    }
    kept
}

#[test]
fn what_a_policy_does_not_keep_goes_and_the_rest_reads_as_before() {
    let (world, points) = thinnable();
    let kept = minutely(&points);
    assert!((4..=6).contains(&kept.len()), "{kept:?}");
    let (all, left) = (sequences(&points), sequences(&kept));
    let gone: Vec<Point> =
        points.iter().filter(|point| !left.contains(&point.sequence.number())).cloned().collect();
    let check = async |store: &Retention| {
        let left = sequences(&kept);
        assert_eq!(listed(store, None), left);
        for point in &kept {
            let byte =
                u8::try_from(all.iter().position(|s| *s == point.sequence.number()).unwrap() + 1);
            let by_time = format!("web@{}", point.commit_time);
            assert_eq!(first_byte(store, &by_time).await, byte.unwrap());
            assert_eq!(
                first_byte(store, &format!("web@seq:{}", point.sequence)).await,
                byte.unwrap()
            );
        }
        for point in &gone {
            let below = kept.iter().rev().find(|kept| kept.sequence < point.sequence);
            let above = kept.iter().find(|kept| kept.sequence > point.sequence);
            let near =
                |point: Option<&Point>| point.map(|point| (point.sequence, point.commit_time));
            let error = store.resolve(&moment(&format!("web@seq:{}", point.sequence))).await;
            match error.expect_err("it was dropped") {
                ResolveError::Dropped { below: found, above: next, .. } => {
                    assert_eq!((found, next), (near(below), near(above)));
                }
                other => panic!("{other}"),
            }
            // Its time means the newest point before it, as any other time does.
            let by_time = store.resolve(&moment(&format!("web@{}", point.commit_time))).await;
            assert_eq!(by_time.ok().map(|found| found.sequence), below.map(|point| point.sequence));
        }
    };
    run_checked(&world, &check, |store| {
        Box::pin(async move {
            set_policy(&store, "keep all for 5m, minutely for 24h").await;
            let report = store.thin().await.expect("it thins");
            assert_eq!(report.lines.len(), 1);
            assert_eq!(
                report.lines[0].decision.kept.points,
                10 - report.lines[0].decision.dropped.points
            );
            assert!(
                store.thin().await.expect("it thins").lines.is_empty(),
                "there was more to drop"
            );
        })
    });
    // After a restart, and with an index that is made anew from a journal that has them all.
    run_checked(&world, &check, |_| Box::pin(async {}));
    run_checked(&world.without_index(), &check, |_| Box::pin(async {}));
}

fn run_checked(
    world: &World,
    check: &dyn AsyncCheck,
    first: impl FnOnce(Arc<Retention>) -> LocalBoxFuture<'static, ()>,
) {
    run(&mut Seed::new(7), |spawner| async move {
        let opened = Retention::open(world.surroundings(), World::settings()).await;
        let Opened { retention, lanes, .. } = opened.expect("the store opens");
        lanes.into_iter().for_each(|lane| spawner.spawn(lane.run()));
        first(Arc::clone(&retention)).await;
        check.check(&retention).await;
    });
}

/// A check that borrows what the test knows.
trait AsyncCheck {
    fn check<'a>(&'a self, store: &'a Retention) -> LocalBoxFuture<'a, ()>;
}

impl<F: AsyncFn(&Retention)> AsyncCheck for F {
    fn check<'a>(&'a self, store: &'a Retention) -> LocalBoxFuture<'a, ()> {
        Box::pin(self(store))
    }
}

#[test]
fn pins_branches_and_exports_keep_their_points() {
    let (world, points) = thinnable();
    let clock = Arc::clone(&world.clock);
    let [pinned, branched, exported] = [1, 2, 4].map(|index| points[index].clone());
    let newest = points[9].clone();
    with_store(&world, |store, _| {
        Box::pin(async move {
            let at = |point: &Point| moment(&format!("web@seq:{}", point.sequence));
            store.pin(&at(&pinned)).await.expect("it is there");
            let origin = store.resolve(&at(&branched)).await.expect("it is there");
            store.add_branch(&origin, name("test")).await.expect("a branch");
            let export = NewExport {
                machine: name("web"),
                branch: None,
                sequence: Some(exported.sequence),
                writable: false,
                iscsi: None,
            };
            let export = store.add_export(export).await.expect("an export");
            set_policy(&store, "keep all for 5m").await;
            clock.pass(3 * HOUR);
            store.thin().await.expect("it thins");
            let left = [&pinned, &branched, &exported, &newest];
            assert_eq!(listed(&store, None), left.map(|point| point.sequence.number()));
            // Each goes once nobody holds it, and not all of them together.
            store.remove_export(export.id).await.expect("removed");
            store.thin().await.expect("it thins");
            let left = [&pinned, &branched, &newest];
            assert_eq!(listed(&store, None), left.map(|point| point.sequence.number()));
            store.unpin(&at(&pinned)).await.expect("unpinned");
            store.discard_branch(&name("web"), &name("test")).await.expect("discarded");
            store.thin().await.expect("it thins");
            assert_eq!(listed(&store, None), [newest.sequence.number()]);
            // What is gone cannot be held any more.
            for text in [format!("web@seq:{}", pinned.sequence), "web@seq:1".to_owned()] {
                store.pin(&moment(&text)).await.expect_err("it was dropped");
            }
            let moment = Moment { ..origin };
            let late = store.add_branch(&moment, name("late")).await;
            assert!(matches!(late, Err(ChangeError::Manifest(_))), "{late:?}");
        })
    });
}

/// Whichever comes first: a moment is either held by whoever opened it, or cannot be opened.
#[test]
fn a_point_that_somebody_has_open_stays_until_it_is_closed() {
    let (world, points) = thinnable();
    let clock = Arc::clone(&world.clock);
    with_store(&world, |store, _| {
        Box::pin(async move {
            let (open, late, newest) = (points[1].clone(), points[2].clone(), points[9].clone());
            let at = |point: &Point| moment(&format!("web@seq:{}", point.sequence));
            let resolved = store.resolve(&at(&open)).await.expect("it is there");
            let view = store.view(&resolved, &name("os")).expect("it is there");
            let late = store.resolve(&at(&late)).await.expect("it is there");
            set_policy(&store, "keep all for 5m").await;
            clock.pass(HOUR);
            store.thin().await.expect("it thins");
            let held = [open.sequence.number(), newest.sequence.number()];
            assert_eq!(listed(&store, None), held);
            assert_eq!(view.read(ByteRange::up_to(4096)).await.expect("it is held")[0], 2);
            // It was found before it was dropped, and is opened after.
            let error = store.view(&late, &name("os")).err().expect("it was dropped");
            assert!(matches!(error, ResolveError::Dropped { .. }), "{error}");
            drop(view);
            clock.pass(MINUTE);
            store.thin().await.expect("it thins");
            assert_eq!(listed(&store, None), [newest.sequence.number()]);
        })
    });
}

#[test]
fn a_pause_before_the_start_is_believed_if_it_is_short() {
    for (pause, believed) in [(50 * MINUTE, true), (2 * HOUR, false)] {
        let (world, points) = thinnable();
        let all = sequences(&points);
        let clock = Arc::clone(&world.clock);
        with_store(&world, |store, _| {
            Box::pin(async move {
                set_policy(&store, "keep all for 24h").await;
                store.thin().await.expect("it thins");
            })
        });
        clock.pass(pause);
        with_store(&world, |store, _| {
            Box::pin(async move {
                set_policy(&store, "keep all for 10m").await;
                let report = store.thin().await.expect("it thins, or says why not");
                assert_eq!(report.suspended.is_none(), believed, "after {pause:?}");
                let left = if believed { &all[9..] } else { &all[..] };
                assert_eq!(listed(&store, None), left);
            })
        });
    }
}

#[test]
fn a_locked_point_stays_until_its_date_whoever_asks() {
    let (world, points) = thinnable();
    let clock = Arc::clone(&world.clock);
    let locked = points[1].clone();
    let at = moment(&format!("web@seq:{}", locked.sequence));
    let (newest, number) = (points[9].sequence.number(), locked.sequence.number());
    let until = with_store(&world, |store, _| {
        let (clock, at) = (Arc::clone(&clock), at.clone());
        Box::pin(async move {
            let now = clock.now();
            let until = |time: Duration| {
                let nanoseconds = u64::try_from(time.as_nanos()).unwrap();
                Timestamp::from_nanoseconds(now.nanoseconds() + nanoseconds)
            };
            let past = store.lock(&at, now).await;
            assert!(matches!(past, Err(ChangeError::LockInThePast { .. })), "{past:?}");
            store.lock(&at, until(2 * HOUR)).await.expect("it is there");
            let shorter = store.lock(&at, until(HOUR)).await;
            assert!(matches!(shorter, Err(ChangeError::Locked { .. })), "{shorter:?}");
            store.lock(&at, until(3 * HOUR)).await.expect("longer is allowed");
            set_policy(&store, "keep all for 5m").await;
            clock.pass(2 * HOUR);
            store.thin().await.expect("it thins");
            assert_eq!(listed(&store, None), [number, newest]);
            until(3 * HOUR)
        })
    });
    // A restart forgets nothing.
    with_store(&world, |store, _| {
        let (clock, at) = (Arc::clone(&clock), at.clone());
        Box::pin(async move {
            let unlocked = store.unlock(&at).await;
            assert!(
                matches!(unlocked, Err(ChangeError::Locked { until: found, .. }) if found == until)
            );
            let removed = store.remove_machine(&name("web")).await;
            assert!(matches!(removed, Err(ChangeError::Locked { .. })), "{removed:?}");
            // The clock is set: no lock ends by that, and nothing else goes either.
            store.thin().await.expect("it thins");
            clock.set_forward(1000 * HOUR);
            let report = store.thin().await.expect("it says why not");
            assert!(report.suspended.is_some());
            assert_eq!(listed(&store, None), [number, newest]);
            assert!(store.unlock(&at).await.is_err(), "a clock that was set ended a lock");
            clock.set_back(1000 * 3600 * 1_000_000_000);
            store.acknowledge_clock().await.expect("recorded");
            assert!(store.unlock(&at).await.is_err());
            clock.pass(30 * MINUTE);
            store.thin().await.expect("it thins");
            assert_eq!(listed(&store, None), [number, newest]);
            clock.pass(31 * MINUTE);
            store.thin().await.expect("it thins");
            assert_eq!(listed(&store, None), [newest]);
            store.remove_machine(&name("web")).await.expect("nothing is locked");
        })
    });
}

#[test]
fn a_clock_that_is_moved_drops_nothing_until_somebody_says_it_is_right() {
    for forward in [true, false] {
        let (world, points) = thinnable();
        let clock = Arc::clone(&world.clock);
        let all = sequences(&points);
        with_store(&world, |store, _| {
            let (clock, all) = (Arc::clone(&clock), all.clone());
            Box::pin(async move {
                set_policy(&store, "keep all for 24h").await;
                assert_eq!(store.thin().await.expect("it thins").suspended, None);
                if forward {
                    clock.set_forward(10_000 * HOUR);
                } else {
                    clock.set_back(61_000_000_000);
                }
                let report = store.thin().await.expect("it says why not");
                let alarm = report.suspended.expect("the clock was moved");
                assert_eq!(alarm.found > alarm.expected, forward);
                assert_eq!(listed(&store, None), all);
                assert_eq!(store.clock_alarm(), Some(alarm));
            })
        });
        // It stands after a restart, and when time goes on as if nothing had happened.
        with_store(&world, |store, _| {
            let clock = Arc::clone(&clock);
            Box::pin(async move {
                clock.pass(MINUTE);
                assert!(store.thin().await.expect("it says why not").suspended.is_some());
                assert_eq!(listed(&store, None), all);
                store.acknowledge_clock().await.expect("recorded");
                assert_eq!(store.clock_alarm(), None);
                assert_eq!(store.thin().await.expect("it thins").suspended, None);
                let left = if forward { &all[9..] } else { &all[..] };
                assert_eq!(listed(&store, None), left);
            })
        });
    }
}

#[test]
fn instants_of_a_branch_are_thinned_like_points() {
    let (world, _) = thinnable();
    let clock = Arc::clone(&world.clock);
    let kept = with_store(&world, |store, _| {
        Box::pin(async move {
            let origin = store.resolve(&moment("web@latest")).await.expect("there are points");
            store.add_branch(&origin, name("test")).await.expect("a branch");
            set_policy(&store, "keep all for 10m, minutely for 24h").await;
            let head = store.branch_disk(&name("web"), &name("test"), &name("os")).expect("a head");
            let mut writes = Vec::new();
            for byte in 1..=100 {
                let data = Buffer::copy_of(&[byte; 4096]);
                head.write(ByteOffset::new(0), data, Durability::Durable).await.expect("written");
                writes.push((u64::from(byte), clock.now()));
                clock.pass(Duration::from_secs(7));
            }
            assert_eq!(listed(&store, Some("test")), [0; 0]);
            store.thin().await.expect("it thins");
            clock.pass(20 * MINUTE);
            store.thin().await.expect("it thins");
            let kept = listed(&store, Some("test"));
            // The last of each minute. A branch counts on from where it starts.
            let origin = origin.sequence.number();
            writes.iter_mut().for_each(|write| write.0 += origin);
            let minute = |(_, at): &(u64, Timestamp)| at.nanoseconds() / 60_000_000_000;
            let last = |one: &(u64, Timestamp)| {
                !writes.iter().any(|w| w.0 > one.0 && minute(w) == minute(one))
            };
            let wanted: Vec<u64> = writes.iter().filter(|one| last(one)).map(|one| one.0).collect();
            assert_eq!(kept, wanted);
            check_instants(&store, origin, &kept).await;
            (origin, kept)
        })
    });
    let (origin, kept) = kept;
    let again = kept.clone();
    with_store(&world, |store, _| {
        Box::pin(async move { check_instants(&store, origin, &again).await })
    });
    let world = world.without_index();
    with_store(&world, |store, _| {
        Box::pin(async move { check_instants(&store, origin, &kept).await })
    });
}

async fn check_instants(store: &Retention, origin: u64, kept: &[u64]) {
    assert_eq!(listed(store, Some("test")), kept);
    for number in origin + 1..=origin + 100 {
        let at = format!("web~test@seq:{number}");
        if kept.contains(&number) {
            assert_eq!(u64::from(first_byte(store, &at).await), number - origin);
            continue;
        }
        let error = store.resolve(&moment(&at)).await.expect_err(&at);
        assert!(matches!(error, ResolveError::Dropped { .. }), "{error}");
    }
    let points =
        store.points(&name("web"), Some(&name("test")), &PointQuery::all(3)).expect("there");
    let between = points[1].point.commit_time.next();
    let found = store.resolve(&moment(&format!("web~test@{between}"))).await.expect("one before");
    assert_eq!(found.sequence, points[1].point.sequence);
}
