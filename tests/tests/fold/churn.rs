//! Random 4 KiB writes under a policy, for longer than it keeps anything: what compaction writes, and what space history takes
//! beside the bytes that somebody can still read.

use super::past::*;
use futures_util::FutureExt;
use landfall_disks::BLOCK_SIZE;
use landfall_disks::faults::Seed;
use landfall_retention::ids::Sequence;
use landfall_retention::point::PointQuery;
use landfall_retention::{FoldPace, Retention};
use std::collections::BTreeMap;
use std::time::Duration;

/// Writes between two points, and the time that goes by.
const WRITES: u64 = 6;
const POINT_EVERY: Duration = Duration::from_secs(10);

/// What a run comes to.
#[derive(Debug, Default)]
struct Churn {
    /// Bytes that lanes wrote once the window was full, and bytes of copies since then.
    written: u64,
    moved: u64,
    /// Bytes of segments at the end, and bytes of blocks that some point needs.
    held: u64,
    live: u64,
    segments: usize,
}

impl Churn {
    fn per_mille(part: u64, whole: u64) -> u64 {
        part * 1000 / whole.max(1)
    }
}

/// Blocks that some point from `start` on, or the head, finds in the journal.
fn live(writes: &BTreeMap<u64, Vec<u64>>, points: &[u64], start: u64) -> u64 {
    let seen = |versions: &Vec<u64>| {
        let newest = |at: u64| versions.iter().copied().rfind(|one| *one <= at);
        let mut found: Vec<u64> = points.iter().filter_map(|point| newest(*point)).collect();
        found.extend(versions.last());
        found.sort_unstable();
        found.dedup();
        found.iter().filter(|one| **one > start).count() as u64
    };
    writes.values().map(seen).sum::<u64>() * BLOCK_SIZE
}

async fn lane_bytes(store: &Retention) -> u64 {
    let journal = store.journal().await.expect("the folder answers");
    journal.lanes.iter().map(|lane| lane.bytes).sum()
}

/// Keeps house as a target does, once a minute.
async fn keep_house(
    store: &Retention,
    keeps: Duration,
    now: Duration,
    times: &[(Duration, u64)],
) -> u64 {
    let sleep = |_| std::future::ready(()).boxed_local();
    let pace = FoldPace { bytes_per_second: None, sleep: &sleep };
    store.thin().await.expect("nothing fails");
    if let Some(floor) = now.checked_sub(keeps) {
        let oldest = times.partition_point(|(at, _)| *at < floor);
        let left = store.points(&name("web"), None, &PointQuery::all(1 << 20)).expect("there");
        let wanted = times[oldest].1;
        let start = left.iter().rfind(|one| one.point.sequence.number() <= wanted);
        let start = start.map_or(Sequence::default(), |one| one.point.sequence);
        store.fold_to(trunk(store), start, &pace).await.expect("nobody holds anything");
    }
    store.forget(&pace).await.expect("nothing fails");
    let mut moved = 0;
    loop {
        let done = store.compact(&pace).await.expect("nothing fails");
        moved += done.bytes_moved;
        if done.left == 0 || done.segments == 0 {
            return moved;
        }
    }
}

fn churn(policy: &str, keeps: Duration, runs: Duration) -> Churn {
    let (world, _) = past(60, 0);
    let found = with_store(&world, async |store, _| {
        store.set_policy(&name("web"), policy.parse().expect("a policy")).await.expect("there");
        let mut random = Seed::new(60);
        let stream = open_stream(&store, 1).await;
        let mut position = stream.position().number();
        let (mut now, mut times) = (Duration::ZERO, Vec::new());
        let mut writes: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let (mut churn, mut before) = (Churn::default(), None);
        while now < runs {
            let mut batch = Vec::new();
            for _ in 0..WRITES {
                position += 1;
                let block = random.below(SIZES[0] / BLOCK_SIZE);
                let mut data = vec![0; 4096];
                random.fill(&mut data);
                apply(&stream, position, 0, vec![(block * BLOCK_SIZE, Some(data))]).await;
                batch.push(block);
            }
            position += 1;
            let point = mark(&stream, position, 0).await;
            for (block, sequence) in batch.into_iter().zip(point - WRITES..) {
                writes.entry(block).or_default().push(sequence);
            }
            world.clock.pass(POINT_EVERY);
            now += POINT_EVERY;
            times.push((now, point));
            if now.as_secs().is_multiple_of(60) {
                let moved = keep_house(&store, keeps, now, &times).await;
                if now > keeps {
                    before = before.or(Some(lane_bytes(&store).await));
                    churn.moved += moved;
                }
            }
        }
        churn.written = lane_bytes(&store).await - before.unwrap_or(0);
        let journal = store.journal().await.expect("the folder answers");
        (churn.held, churn.segments) = (journal.segment_bytes, journal.segments);
        let left = store.points(&name("web"), None, &PointQuery::all(1 << 20)).expect("there");
        let left: Vec<u64> = left.iter().map(|one| one.point.sequence.number()).collect();
        let start = store.history(&name("web")).expect("there").start;
        churn.live = live(&writes, &left, start.map_or(0, |start| start.sequence.number()));
        churn
    });
    found.expect("no power cut")
}

fn run(policy: &str, keeps: Duration, runs: Duration) -> (u64, u64) {
    let churn = churn(policy, keeps, runs);
    let rewritten = Churn::per_mille(churn.moved, churn.written);
    let space = Churn::per_mille(churn.held, churn.live);
    println!("{policy}: {churn:?}: {rewritten} ‰ written again, {space} ‰ of what is live");
    (rewritten, space)
}

/// A twelfth of the default policy.
#[test]
fn under_a_policy_space_stays_beside_what_is_live_and_little_is_written_again() {
    let hour = Duration::from_secs(3600);
    let (rewritten, space) = run("keep all for 10m, minutely for 2h", 2 * hour, 3 * hour);
    assert!(rewritten < 1000, "{rewritten} ‰ of what came was written again");
    assert!(space < 2500, "{space} ‰ of what is live");
}
