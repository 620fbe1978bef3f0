//! How much space is left for what initiators write: as it was seen last, for each machine.
//!
//! ```text
//!   folding ─ look ─▶ note ─▶ left, used, threshold of each machine ─▶ LOG SENSE, mode pages
//!                       └ falls to the threshold ─▶ unit attention, once, at all its targets
//! ```
//!
//! A machine has what is least: of its quota, or of the volume that the journal is on; and it is
//! little if either is. **Invariant:** that it has become little is told once, and again only after
//! it was more; those who come while it is are told as they come.

use landfall_protocols::iscsi::scsi::{Device, Space, SpaceLeft};
use landfall_retention::GroupSpace;
use landfall_retention::name::Name;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// The threshold is this part of all there is, as where a quota begins to shorten history.
const SPARE: u64 = 16;

/// The volume that the journal is on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    /// Bytes by which the journal can grow.
    pub(crate) left_bytes: u64,
    /// Bytes it has.
    pub(crate) taken_bytes: u64,
}

/// What is left for `space`, in that volume.
pub(crate) fn left(space: &GroupSpace, volume: Volume) -> SpaceLeft {
    let Volume { left_bytes, taken_bytes } = volume;
    let used_bytes = space.used_bytes;
    let of = |(available_bytes, threshold_bytes)| SpaceLeft {
        available_bytes,
        used_bytes,
        threshold_bytes,
    };
    let of_volume = of((left_bytes, left_bytes.saturating_add(taken_bytes) / SPARE));
    let quota = space.policy.space().map(|quota| quota.bytes / SPARE);
    let Some(of_quota) = space.left_bytes().zip(quota).map(of) else { return of_volume };
    let both = [of_volume, of_quota];
    let least = both.into_iter().min_by_key(|one| one.available_bytes).expect("two");
    // Little of the one is not hidden by less of the other, of which that is still enough.
    let little = both.into_iter().filter(|one| one.is_little());
    let threshold_bytes =
        little.map(|one| one.threshold_bytes).max().unwrap_or(least.threshold_bytes);
    SpaceLeft { threshold_bytes, ..least }
}

/// What is left, of every machine that was looked at.
#[derive(Default)]
pub(crate) struct Levels(Mutex<HashMap<Name, Level>>);

#[derive(Default)]
struct Level {
    left: Option<SpaceLeft>,
    /// That it is little has been told.
    told: bool,
    /// The targets whose initiators are to be told.
    devices: Vec<Weak<Device>>,
}

impl Levels {
    /// Takes over what was found of all machines that there are, and tells initiators where it has
    /// become little.
    pub(crate) fn note(&self, found: impl IntoIterator<Item = (Name, SpaceLeft)>) {
        let found: HashMap<Name, SpaceLeft> = found.into_iter().collect();
        let mut told = Vec::new();
        {
            let mut levels = self.0.lock();
            // What is not there any more may come again, with a level of its own.
            levels.retain(|machine, level| found.contains_key(machine) || level.is_watched());
            for (machine, left) in found {
                told.extend(levels.entry(machine).or_default().note(left));
            }
        }
        for device in told {
            device.soft_threshold_reached();
        }
    }

    /// Initiators of `device`, which is a target of `machine`, are told from now on.
    pub(super) fn watch(&self, machine: &Name, device: &Arc<Device>) {
        let mut levels = self.0.lock();
        let devices = &mut levels.entry(machine.clone()).or_default().devices;
        devices.retain(|device| device.strong_count() > 0);
        devices.push(Arc::downgrade(device));
    }

    /// What units of `machine` know of it.
    pub(super) fn of(self: &Arc<Self>, machine: &Name) -> Arc<dyn Space> {
        Arc::new(OfMachine { levels: Arc::clone(self), machine: machine.clone() })
    }
}

impl Level {
    fn is_watched(&self) -> bool {
        self.devices.iter().any(|device| device.strong_count() > 0)
    }

    /// The targets that are to be told of it.
    fn note(&mut self, left: SpaceLeft) -> Vec<Arc<Device>> {
        let little = left.is_little();
        let news = little && !self.told;
        self.told = little;
        self.left = Some(left);
        if !news {
            return Vec::new();
        }
        self.devices.iter().filter_map(Weak::upgrade).collect()
    }
}

struct OfMachine {
    levels: Arc<Levels>,
    machine: Name,
}

impl Space for OfMachine {
    fn left(&self) -> Option<SpaceLeft> {
        self.levels.0.lock().get(&self.machine)?.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::{Buffer, ByteRange, Disk, Geometry, IoFuture, MappedRange};
    use landfall_protocols::iscsi::scsi::{
        Additional, Completion, Decision, Identity, InitiatorPort, Lun, LunNumber, Nexus, Unit,
    };
    use landfall_retention::ids::LineId;

    const QUOTA: &str = "keep all for 2h, quota 16KiB hold";

    fn space(policy: &str, used_bytes: u64) -> GroupSpace {
        GroupSpace {
            machine: Name::parse("web").expect("a name"),
            trunk: LineId::new(1),
            policy: policy.parse().expect("a policy"),
            used_bytes,
            branch_bytes: Vec::new(),
            appended_bytes: 0,
            oldest: None,
            begin_at: None,
            held: None,
        }
    }

    /// A disk of which nothing is read here.
    struct Unread;

    impl Disk for Unread {
        fn geometry(&self) -> Geometry {
            let (logical_sector, physical_sector) = (512, 4096);
            Geometry { size_bytes: 4096, logical_sector, physical_sector, read_only: false }
        }

        fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
            unreachable!("{range}")
        }

        fn flush(&self) -> IoFuture<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
            unreachable!("{range}")
        }
    }

    fn ready(nexus: &Nexus) -> Completion {
        match nexus.decide(Lun::from_bytes([0; 8]), &[0; 6], 0) {
            Decision::Answer(completion) => completion,
            Decision::Do(task) => panic!("{task:?}"),
        }
    }

    #[test]
    fn the_least_counts() {
        let volume = |left_bytes| Volume { left_bytes, taken_bytes: 3200 };
        let found = left(&space(QUOTA, 700), volume(28_800));
        assert_eq!(
            (found.available_bytes, found.used_bytes, found.threshold_bytes),
            (15_684, 700, 1024)
        );
        let found = left(&space(QUOTA, 700), volume(0));
        assert_eq!((found.available_bytes, found.used_bytes, found.threshold_bytes), (0, 700, 200));
        // Less than a sixteenth of the volume, of which the quota lets less be used.
        let found = left(&space(QUOTA, 14_000), Volume { left_bytes: 3000, taken_bytes: 61_000 });
        assert_eq!((found.available_bytes, found.threshold_bytes), (2384, 4000));
        assert!(found.is_little());
        let found = left(&space("keep all for 2h", 700), volume(28_800));
        assert_eq!(
            (found.available_bytes, found.used_bytes, found.threshold_bytes),
            (28_800, 700, 2000)
        );
    }

    #[test]
    fn initiators_are_told_once_when_it_has_become_little() {
        let levels = Arc::new(Levels::default());
        let [web, db] = ["web", "db"].map(|name| Name::parse(name).expect("a name"));
        let target = |machine: &Name| {
            let device = Device::new("iqn.2026-11.internal.landfall:test");
            let mut unit = Unit::new(Arc::new(Unread), Identity::new("test"));
            unit.space = Some(levels.of(machine));
            device.attach(LunNumber::default(), unit).expect("it is free");
            levels.watch(machine, &device);
            let nexus = device.nexus(InitiatorPort { name: "iqn.test".into(), isid: [1; 6] });
            assert!(ready(&nexus).sense.is_some(), "it is new");
            nexus
        };
        let (one, other) = (target(&web), target(&db));
        assert!(levels.of(&web).left().is_none(), "nobody has looked");
        for (available_bytes, told) in
            [(101, false), (100, true), (99, false), (0, false), (101, false), (7, true)]
        {
            let left = SpaceLeft { available_bytes, used_bytes: 0, threshold_bytes: 100 };
            levels.note([(web.clone(), left)]);
            assert_eq!(levels.of(&web).left(), Some(left));
            let sense = ready(&one).sense;
            let expected = told.then_some(Additional::SOFT_THRESHOLD);
            assert_eq!(sense.map(|sense| sense.additional), expected, "{available_bytes} left");
            assert!(ready(&other).sense.is_none(), "that is another machine");
        }
        // Who comes now is told, too, and once.
        let device = Arc::clone(one.device());
        let port = InitiatorPort { name: "iqn.late".into(), isid: [1; 6] };
        let late = device.nexus(port);
        let told = || ready(&late).sense.map(|sense| sense.additional);
        let expected = [Some(Additional::POWER_ON), Some(Additional::SOFT_THRESHOLD), None];
        assert_eq!([told(), told(), told()], expected);
    }

    #[test]
    fn machines_that_are_gone_are_forgotten() {
        let levels = Arc::new(Levels::default());
        let [web, db] = ["web", "db"].map(|name| Name::parse(name).expect("a name"));
        let little = SpaceLeft { available_bytes: 1, used_bytes: 0, threshold_bytes: 100 };
        levels.note([(web.clone(), little), (db.clone(), little)]);
        let device = Device::new("iqn.2026-11.internal.landfall:test");
        levels.watch(&db, &device);
        levels.note([]);
        assert!(levels.of(&web).left().is_none());
        assert!(levels.of(&db).left().is_some(), "somebody has it");
        drop(device);
        levels.note([]);
        assert!(levels.of(&db).left().is_none());
    }
}
