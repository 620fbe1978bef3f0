//! A store whose machine has a standby, and what is to be found in its folder.

use super::past::*;
use futures_util::future::LocalBoxFuture;
use landfall_disks::image::Format;
use landfall_retention::manifest::standby::StandbyKept;
use landfall_retention::standby::sidecar::{Holds, Sidecar};
use landfall_retention::standby::{StandbyError, StandbyOrder, StandbyReport};
use landfall_retention::{FoldPace, Retention};
use landfall_tests::standby::{Places, content, sidecar};
use landfall_tests::world::World;
use std::time::Duration;

pub(crate) const FORMATS: [Format; 3] = [Format::Raw, Format::Vmdk, Format::Vhdx];

pub(crate) fn at_once(_: Duration) -> LocalBoxFuture<'static, ()> {
    Box::pin(std::future::ready(()))
}

pub(crate) fn kept(format: Format) -> StandbyKept {
    let every = Duration::from_secs(60);
    StandbyKept { folder: "/standby".into(), format, every, app_only: false }
}

pub(crate) async fn add(store: &Retention, world: &World, format: Format) {
    let added = store.add_standby(&name("web"), kept(format), &Places::of(world)).await;
    added.expect("nothing is in the way");
}

/// A past by seed and points, and a standby of it. Formats other than raw may be used: drives keep sectors whole.
pub(crate) fn with_standby((seed, points): (u64, usize), format: Format) -> (World, Points) {
    let (world, points) = past(seed, points);
    world.folder.keep_sectors_whole();
    with_store(&world, async |store, _| add(&store, &world, format).await);
    (world, points)
}

/// Brings the standby to a moment such as `web@seq:3`.
pub(crate) async fn bring(
    store: &Retention,
    world: &World,
    at: &str,
    overwrite: bool,
) -> Result<StandbyReport, StandbyError> {
    let to = store.resolve(&moment(at)).await?;
    let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
    let order = StandbyOrder { to, overwrite, compare: false };
    store.bring_standby(&name("web"), &order, &Places::of(world), &pace, &|_| {}).await
}

pub(crate) async fn bring_to(store: &Retention, world: &World, sequence: u64) -> StandbyReport {
    let brought = bring(store, world, &format!("web@seq:{sequence}"), false).await;
    brought.expect("nothing is in the way")
}

pub(crate) fn file(disk: usize, format: Format) -> String {
    format!("web-d{disk}.{format}")
}

/// What the sidecars say; whatever they say is true.
pub(crate) async fn truth(world: &World, points: &Points, format: Format) -> Vec<Option<Sidecar>> {
    let mut said = Vec::new();
    for disk in 0..SIZES.len() {
        let name = file(disk, format);
        let found = sidecar(&world.folder, &name).await.expect("readable");
        if let Some(Sidecar { holds: Holds::Moment { moment, size_bytes, .. }, set, .. }) = &found {
            let (_, expected) = points
                .iter()
                .find(|(sequence, _)| *sequence == moment.at.sequence.number())
                .expect("a point there is");
            let bytes = content(&world.folder, &name, format).await.expect("it may be booted");
            assert_eq!(bytes.len() as u64, *size_bytes);
            assert!(bytes == expected[disk], "{name} is not what it says: {moment}");
            assert_eq!(set.len(), SIZES.len());
        }
        said.push(found);
    }
    said
}

/// All files are there and hold `points[at]`.
pub(crate) async fn check_at(world: &World, points: &Points, at: usize, format: Format) {
    for found in truth(world, points, format).await {
        let found = found.expect("a sidecar");
        let held = found.moment().expect("it holds a moment").at.sequence.number();
        assert_eq!(held, points[at].0);
    }
}
