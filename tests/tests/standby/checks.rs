//! Standby files that are held against the points that they hold: what a medium changed is found and written anew, and of what
//! nothing can be said nothing is said.

use super::keeping::*;
use super::past::*;
use super::put_file;
use futures_util::future::LocalBoxFuture;
use landfall_disks::Buffer;
use landfall_disks::file::{Caching, FileError, Folder, OpenMode};
use landfall_disks::image::{Format, Wishes};
use landfall_retention::ids::DiskIdentity;
use landfall_retention::standby::sidecar::FileStamp;
use landfall_retention::standby::{
    NotChecked, StandbyChecked, StandbyFound, StandbyOrder, StandbyPlaces,
};
use landfall_retention::{FoldPace, Retention};
use landfall_tests::standby::Places;
use landfall_tests::world::World;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Places where nobody sees that a file is not what it was: as when a medium changes it.
struct Unnoticed {
    places: Places,
    stamps: BTreeMap<String, FileStamp>,
}

impl Unnoticed {
    async fn of(world: &World, names: &[String]) -> Self {
        let places = Places::of(world);
        let mut stamps = BTreeMap::new();
        for name in names {
            if let Ok(stamp) = places.stamp("/standby", name).await {
                stamps.insert(name.clone(), stamp);
            }
        }
        Self { places, stamps }
    }
}

impl StandbyPlaces for Unnoticed {
    fn folder<'a>(
        &'a self,
        path: &'a str,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Folder>, FileError>> {
        self.places.folder(path)
    }

    fn stamp<'a>(
        &'a self,
        path: &'a str,
        name: &'a str,
    ) -> LocalBoxFuture<'a, Result<FileStamp, FileError>> {
        match self.stamps.get(name) {
            Some(stamp) => Box::pin(std::future::ready(Ok(stamp.clone()))),
            None => self.places.stamp(path, name),
        }
    }

    fn wishes(&self, format: Format, size_bytes: u64, identity: DiskIdentity) -> Wishes {
        self.places.wishes(format, size_bytes, identity)
    }
}

async fn check(store: &Retention, places: &dyn StandbyPlaces) -> Vec<StandbyChecked> {
    let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
    let checked = store.check_standby(&name("web"), places, &pace, &|_| {}).await;
    checked.expect("nothing is in the way")
}

fn found(checked: &[StandbyChecked]) -> Vec<&StandbyFound> {
    checked.iter().map(|file| &file.found).collect()
}

/// The files that a disk consists of.
fn files(disk: usize, format: Format) -> Vec<String> {
    let first = file(disk, format);
    let flat = first.strip_suffix(".vmdk").map(|stem| format!("{stem}-flat.vmdk"));
    [first].into_iter().chain(flat).collect()
}

/// Changes some bytes of a block of data, wherever its format keeps it; false if there is no such block.
async fn damage(world: &World, disk: usize, format: Format, content: &[u8]) -> bool {
    let block = content.chunks(4096).find(|block| block[..64].iter().any(|byte| *byte != 0));
    let Some(block) = block else { return false };
    for name in files(disk, format) {
        let path = Path::new(&name);
        let opened = world.folder.open(path, OpenMode::Read, Caching::Buffered).await;
        let Ok(file) = opened else { continue };
        let length = usize::try_from(file.length().await.expect("it has one")).expect("small");
        let bytes = file.read_at(0, Buffer::zeroed(length)).await.expect("readable");
        if let Some(at) = bytes.windows(64).position(|window| *window == block[..64]) {
            world.folder.corrupt(path, at as u64, 8);
            return true;
        }
    }
    false
}

#[test]
fn what_a_medium_changed_is_found_and_written_anew() {
    for format in FORMATS {
        let (world, points) = with_standby((11, 4), format);
        with_store(&world, async |store, _| {
            bring_to(&store, &world, points[2].0).await;
            let names: Vec<_> = (0..SIZES.len()).flat_map(|disk| files(disk, format)).collect();
            let places = Unnoticed::of(&world, &names).await;
            let whole = check(&store, &places).await;
            assert!(
                found(&whole).iter().all(|found| matches!(found, StandbyFound::Same(_))),
                "{format}: {whole:?}"
            );
            assert!(damage(&world, 0, format, &points[2].1[0]).await, "{format}: no data at all");
            let checked = check(&store, &places).await;
            let StandbyFound::Differs { held, ranges, bytes } = &checked[0].found else {
                panic!("{format}: {checked:?}")
            };
            assert_eq!((held.at.sequence.number(), ranges.len()), (points[2].0, 1));
            assert!((1..=65536).contains(bytes), "{bytes}");
            assert!(matches!(checked[1].found, StandbyFound::Same(_)), "{format}: {checked:?}");
            // Nothing else would have noticed.
            let again = bring_to_by(&store, &places, points[2].0).await;
            assert_eq!(again, 0);
            let order = StandbyOrder::repair(&store, &name("web"), held).expect("it has one");
            let order = order.expect("history has it");
            let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
            let written = store.bring_standby(&name("web"), &order, &places, &pace, &|_| {}).await;
            let written = written.expect("nothing is in the way");
            assert!(written.written_bytes > 0 && written.compared.len() == SIZES.len());
            check_at(&world, &points, 2, format).await;
            let checked = check(&store, &places).await;
            assert!(
                found(&checked).iter().all(|found| matches!(found, StandbyFound::Same(_))),
                "{format}: {checked:?}"
            );
        });
    }
}

/// How many bytes it takes to bring the files to a point, by what is known of them.
async fn bring_to_by(store: &Retention, places: &dyn StandbyPlaces, sequence: u64) -> u64 {
    let to = store.resolve(&moment(&format!("web@seq:{sequence}"))).await.expect("a point");
    let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
    let order = StandbyOrder { to, overwrite: false, compare: false };
    let report = store.bring_standby(&name("web"), &order, places, &pace, &|_| {}).await;
    let report = report.expect("nothing is in the way");
    report.written_bytes + report.zeroed_bytes
}

#[test]
fn of_what_nothing_can_be_said_nothing_is_said() {
    let (world, points) = past(12, 5);
    with_store(&world, async |store, _| {
        add(&store, &world, Format::Raw).await;
        let places = Places::of(&world);
        let not = |why| StandbyFound::NotChecked(why);
        let checked = check(&store, &places).await;
        assert!(checked.iter().all(|file| file.found == not(NotChecked::NoPoint)), "{checked:?}");
        bring_to(&store, &world, points[1].0).await;
        // A hypervisor wrote to it: that is somebody's, whatever it is.
        put_file(&world, &file(0, Format::Raw), 0, &[7; 512]).await;
        let checked = check(&store, &places).await;
        assert_eq!(checked[0].found, not(NotChecked::NotAsLeft));
        assert!(matches!(checked[1].found, StandbyFound::Same(_)), "{checked:?}");
        fold(&store, points[4].0).await.expect("a standby holds nothing");
        let checked = check(&store, &places).await;
        assert_eq!(checked[1].found, not(NotChecked::NotInHistory));
    });
}
