//! One life of the store: from opening it to the next power cut.

use super::keys::check_nonces;
use super::model::{Model, SIZES};
use crate::world::World;
use landfall_disks::faults::{Seed, run};
use landfall_retention::name::Name;
use landfall_retention::{ImageSpec, NewDisk, NewMachine, Opened, Retention, Settings};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
            // None, so that all comes from the medium, or one that is always full.
            let read_cache_bytes = *choices.pick(&[0, 256 << 10]);
            let settings =
                Settings { encryption, index_at_once, read_cache_bytes, ..World::settings() };
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
            match self.choices.below(60) {
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
                57..=59 => self.abort_branch_writes(last).await?,
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
}

pub(super) fn pick<K: Clone, V: Clone>(map: &BTreeMap<K, V>, choices: &mut Seed) -> Option<(K, V)> {
    let chosen = (!map.is_empty()).then(|| choices.index(map.len()))?;
    map.iter().nth(chosen).map(|(key, value)| (key.clone(), value.clone()))
}

pub(super) fn machine() -> Name {
    Name::parse("m").expect("a name")
}

pub(super) fn disk_name(index: usize) -> Name {
    Name::parse(&format!("d{index}")).expect("a name")
}
