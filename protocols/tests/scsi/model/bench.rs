//! A unit and its model side by side: whatever happens to one happens to the other, and they must agree.

use super::disk::{BLOCK, Blocks, MemoryDisk};
use super::{Expected, Model, SPACE};
use landfall_disks::faults::{Seed, run};
use landfall_disks::{Buffer, Disk};
use landfall_protocols::iscsi::scsi::{
    Additional, Completion, Decision, Device, Identity, InitiatorPort, Lun, LunNumber, Nexus,
    ResetScope, Sense, Space, SpaceLeft, Status, Unit,
};
use std::sync::Arc;

/// Initiators there are.
pub const NEXUSES: usize = 2;

/// What kind of unit it is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub removable: bool,
    pub write_protected: bool,
    pub volatile_cache: bool,
    pub knows_space: bool,
}

/// The space of the model.
struct Known;

impl Space for Known {
    fn left(&self) -> Option<SpaceLeft> {
        let [available_bytes, used_bytes, threshold_bytes] =
            SPACE.map(|sets| u64::from(sets) * 2048 * BLOCK as u64);
        Some(SpaceLeft { available_bytes, used_bytes, threshold_bytes })
    }
}

pub struct Bench {
    device: Arc<Device>,
    nexuses: Vec<Nexus>,
    disk: Arc<MemoryDisk>,
    pub model: Model,
    /// How often each status came, and how often each sense code.
    pub seen: Vec<Sense>,
}

/// Something that happens beside commands.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A reset of the unit, or of the target.
    UnitReset,
    TargetReset,
    /// A session ends and begins anew; or is replaced before it ended.
    Relogin(usize),
    Reinstate(usize),
    /// The disk grows by so many blocks.
    Grow(usize),
    /// A block is damaged.
    Damage(usize),
    /// So many blocks may be mapped from now on.
    Room(usize),
    SoftThreshold,
    /// Another unit comes, or goes.
    Neighbour(u8),
    /// Another initiator clears the commands of this one.
    Cleared(usize),
}

fn port(who: usize) -> InitiatorPort {
    let isid = [0x80, 0, 0, 0, 0, who as u8];
    InitiatorPort { name: format!("iqn.2026-11.internal.test:{who}"), isid }
}

fn number(unit: u8) -> LunNumber {
    LunNumber::new(u16::from(unit)).expect("small")
}

impl Bench {
    /// A unit with `blocks`, which are as they are given.
    pub fn new(blocks: Blocks, kind: Kind) -> Self {
        let disk = Arc::new(MemoryDisk::new(blocks.clone()));
        let device = Device::new("iqn.2026-11.internal.landfall:test");
        let mut unit = Unit::new(Arc::clone(&disk) as Arc<dyn Disk>, Identity::new("test/disk"));
        unit.removable = kind.removable;
        unit.write_protected = kind.write_protected;
        unit.volatile_cache = kind.volatile_cache;
        unit.space = kind.knows_space.then(|| Arc::new(Known) as Arc<dyn Space>);
        device.attach(number(0), unit).expect("it is free");
        let nexuses = (0..NEXUSES).map(|who| device.nexus(port(who))).collect();
        let mut model = Model::new(blocks, kind.volatile_cache, NEXUSES);
        model.removable = kind.removable;
        model.knows_space = kind.knows_space;
        model.write_protected = kind.write_protected;
        Self { device, nexuses, disk, model, seen: Vec::new() }
    }

    /// Sends a command with all the data-out there is, and compares what comes, and what is there afterwards.
    pub fn command(&mut self, who: usize, cdb: &[u8; 16], data: &[u8]) {
        let told = self.model.command(who, cdb, data);
        let lun = Lun::from(number(0));
        let announced = u32::try_from(data.len()).expect("little");
        let what = || format!("{cdb:02x?} with {} bytes of nexus {who}", data.len());
        let completion = match self.nexuses[who].decide(lun, cdb, announced) {
            Decision::Answer(completion) => {
                assert_eq!(told.wanted, None, "{} is answered at once", what());
                completion
            }
            Decision::Do(task) => {
                assert_eq!(told.wanted, Some(task.data_out_wanted()), "{}", what());
                assert_eq!(task.data_out(), task.data_out_wanted().min(data.len()));
                let data_out = Buffer::copy_of(&data[..task.data_out()]);
                let nexus = &self.nexuses[who];
                let completion = run(&mut Seed::new(0), |_| nexus.execute(&task, data_out));
                assert!(
                    completion.data_in.as_slice().len() <= task.data_in_limit(),
                    "{} gives more than it said",
                    what()
                );
                completion
            }
        };
        self.compare(&completion, &told.expected, &what());
        let held = self.disk.0.lock().expect("no panic before");
        assert!(*held == self.model.blocks, "{} leaves other blocks", what());
    }

    fn compare(&mut self, completion: &Completion, expected: &Expected, what: &str) {
        let data_in = completion.data_in.as_slice();
        match expected {
            Expected::Good(bytes) => {
                assert_eq!(completion.status, Status::Good, "{what}: {:?}", completion.sense);
                assert_eq!(data_in, bytes, "{what}");
            }
            Expected::Some(most) => {
                assert_eq!(completion.status, Status::Good, "{what}: {:?}", completion.sense);
                assert!(data_in.len() <= *most, "{what} gives {} bytes", data_in.len());
            }
            Expected::Check(sense) => {
                assert_eq!(completion.sense, Some(*sense), "{what}");
                assert_eq!(completion.status, Status::CheckCondition, "{what}");
                assert_eq!(completion.format, self.model.sense_format(), "{what}");
                assert!(data_in.is_empty());
                self.seen.push(*sense);
            }
        }
    }

    pub fn event(&mut self, event: Event) {
        match event {
            Event::UnitReset => {
                assert!(self.nexuses[0].reset(ResetScope::Unit(Lun::from(number(0)))));
                self.model.reset(Additional::UNIT_RESET);
            }
            Event::TargetReset => {
                assert!(self.nexuses[0].reset(ResetScope::Target));
                self.model.reset(Additional::TARGET_RESET);
            }
            Event::Relogin(who) => {
                let mut nexus = self.nexuses.remove(who);
                drop(nexus);
                nexus = self.device.nexus(port(who));
                self.nexuses.insert(who, nexus);
                self.model.renew(who, Additional::POWER_ON);
            }
            Event::Reinstate(who) => {
                self.nexuses[who] = self.device.nexus(port(who));
                self.model.renew(who, Additional::NEXUS_LOSS);
            }
            Event::Grow(blocks) => self.both(|held| held.grow(blocks)),
            Event::Damage(block) => self.both(|held| held.damaged[block] = true),
            Event::Room(blocks) => self.both(|held| held.room = blocks),
            Event::SoftThreshold => {
                self.device.soft_threshold_reached();
                if self.model.knows_space {
                    self.model.tell(Additional::SOFT_THRESHOLD, |_| true);
                }
            }
            Event::Neighbour(unit) => self.neighbour(unit.clamp(1, 9)),
            Event::Cleared(who) => {
                self.nexuses[who].cleared_by_another(Lun::from(number(0)));
                self.model.tell(Additional::COMMANDS_CLEARED, |nexus| nexus == who);
            }
        }
    }

    fn both(&mut self, change: impl Fn(&mut Blocks)) {
        change(&mut self.disk.0.lock().expect("no panic before"));
        change(&mut self.model.blocks);
    }

    fn neighbour(&mut self, unit: u8) {
        if self.model.units.remove(&unit) {
            self.device.detach(number(unit)).expect("it is there");
        } else {
            let disk = Arc::new(MemoryDisk::new(Blocks::new(8)));
            let other = Unit::new(disk, Identity::new(format!("test/{unit}")));
            self.device.attach(number(unit), other).expect("it is free");
            self.model.units.insert(unit);
        }
        self.model.tell(Additional::REPORTED_LUNS_CHANGED, |_| true);
    }
}
