//! Any writes, breaks, marks and power cuts, against the bytes that were answered.

use super::*;
use landfall_disks::faults::Seed;
use landfall_retention::point::PointKind;
use landfall_tests::web::with_store;
use landfall_tests::world::World;
use std::collections::{BTreeMap, BTreeSet};

/// What the disk has to hold, now and at each moment that can be chosen.
#[derive(Default)]
struct Model {
    content: Vec<u8>,
    moments: BTreeMap<u64, Vec<u8>>,
    /// Moments within one change, which nobody looked at.
    between: BTreeSet<u64>,
}

/// One write of a kind and place that the seed chooses, on the disk and in the model.
async fn change(disk: &FedDisk, content: &mut [u8], seed: &mut Seed) {
    // Small ones, and ones of some blocks; aligned and not; at the end of the disk, too.
    let most = *seed.pick(&[600, 5000, 20_000, 300_000]);
    let length = 1 + seed.below(most);
    let mut at = seed.below(SIZE - length + 1);
    if seed.chance(1, 2) {
        at = at / 4096 * 4096;
    }
    if seed.chance(1, 10) {
        at = SIZE - length;
    }
    let (start, end) = (at as usize, (at + length) as usize);
    match seed.below(5) {
        0 => {
            zero(disk, at, length).await.expect("taken");
            content[start..end].fill(0);
        }
        1 => {
            disk.discard(range(at, length)).await.expect("taken");
            let first = start.next_multiple_of(4096).min(end);
            let last = if end as u64 == SIZE { end } else { end / 4096 * 4096 };
            content[first..last.max(first)].fill(0);
        }
        2 => {
            // Much of what is there.
            let mut data = content[start..end].to_vec();
            let flipped = seed.index(data.len());
            data[flipped] ^= 1;
            write(disk, at, &data).await.expect("taken");
            content[start..end].copy_from_slice(&data);
        }
        _ => {
            let byte = u8::try_from(seed.below(4)).expect("small");
            write(disk, at, &vec![byte; end - start]).await.expect("taken");
            content[start..end].fill(byte);
        }
    }
}

async fn check(store: &Retention, model: &Model) {
    for (sequence, content) in &model.moments {
        let found = at(store, &format!("@seq:{sequence}"), "os").await;
        assert!(found == *content, "seq:{sequence} differs");
    }
    for sequence in 1..=head(store) {
        let known = model.moments.contains_key(&sequence) || model.between.contains(&sequence);
        let found = store.resolve(&moment(&format!("web@seq:{sequence}"))).await;
        assert!(known || found.is_err(), "seq:{sequence} is a moment");
    }
}

/// One life of a store. In one of a `first_copy` nobody makes a point.
async fn live(
    store: &Arc<Retention>,
    model: &mut Model,
    seed: &mut Seed,
    (ordered, first_copy): (bool, bool),
) {
    let mut disk: Option<Arc<FedDisk>> = None;
    let mut in_order = false;
    for _ in 0..30 {
        let step = if first_copy { 1 + 2 * seed.below(6) } else { seed.below(12) };
        match (&disk, step) {
            (None, _) => {
                disk = Some(enter(store, "os").await);
                assert!(
                    read(&**disk.as_ref().expect("just now")).await == model.content,
                    "the head"
                );
            }
            (Some(there), 0) => {
                let point = leave(there).await.expect("it leaves");
                let sequence = point.expect("one disk, in good order").sequence.number();
                model.moments.insert(sequence, model.content.clone());
                (disk, in_order) = (None, false);
            }
            (Some(there), 1) => {
                assert!(there.leave(Some("lost")).await.expect("it leaves").is_none());
                (disk, in_order) = (None, false);
            }
            (Some(_), 2) => {
                let marked = store.mark_fed(&name("web"), PointKind::Crash, None).await;
                let sequence = marked.expect("a point").sequence.number();
                model.moments.insert(sequence, model.content.clone());
                in_order = ordered;
            }
            (Some(there), _) => {
                let before = head(store);
                change(there, &mut model.content, seed).await;
                // A change of one record is a moment; of several, the last of them is.
                if in_order && head(store) > before {
                    model.between.extend(before + 1..head(store));
                    model.moments.insert(head(store), model.content.clone());
                }
            }
        }
    }
    check(store, model).await;
    if let Some(there) = disk {
        assert!(read(&*there).await == model.content, "the head");
        std::mem::forget(there);
    }
}

#[test]
fn what_was_answered_is_there_and_moments_stay_what_they_were() {
    for number in 0..24u64 {
        let mut seed = Seed::new(number);
        let ordered = number % 2 == 0;
        let mode = if ordered { IngestMode::Ordered } else { IngestMode::Sync };
        let mut world = World::new(&mut seed);
        let mut model = Model { content: vec![0; SIZE as usize], ..Model::default() };
        for life in 0..5 {
            let mut inner = seed.fork();
            model = with_store(&world, |store, _| {
                Box::pin(async move {
                    if life == 0 {
                        add_web(&store, &["os"], mode).await;
                    }
                    let first_copy = life == 0 && number % 3 == 0;
                    live(&store, &mut model, &mut inner, (ordered, first_copy)).await;
                    model
                })
            });
            world = world.crash(&mut seed);
        }
    }
}
