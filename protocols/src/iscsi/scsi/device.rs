//! The SCSI target device: its logical units, and the nexuses that have to be told about them.
//!
//! ```text
//!   Device ── inventory ─┬─ units:   number → LogicalUnit ── state: mode pages, size last seen,
//!                        │                                          attentions of each nexus
//!                        └─ nexuses: id → initiator port
//! ```
//!
//! **Lock order:** the inventory before the state of a unit; never two units at once. Nobody waits
//! while holding either.

use super::attention::{Attention, Pending};
use super::log::threshold_sets;
use super::lun::LunNumber;
use super::mode::{Modes, Threshold};
use super::nexus::{InitiatorPort, Nexus, NexusId};
use super::unit::{Kept, Settings, SpaceLeft, Unit};
use landfall_disks::Geometry;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A target, as its initiators see it; shared by all its sessions, on every core.
#[derive(Debug)]
pub struct Device {
    /// iSCSI name of the target.
    name: String,
    inventory: RwLock<Inventory>,
}

#[derive(Debug, Default)]
struct Inventory {
    units: BTreeMap<LunNumber, Arc<LogicalUnit>>,
    nexuses: BTreeMap<NexusId, InitiatorPort>,
    /// How many nexuses there ever were.
    arrivals: u64,
}

/// There is a unit of that number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("logical unit {0} is taken")]
pub struct Occupied(pub LunNumber);

/// There is no unit of that number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no logical unit {0}")]
pub struct NoUnit(pub LunNumber);

impl Device {
    /// A target named `name` (RFC 7143 4.2.7) without units.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), inventory: RwLock::default() })
    }

    /// Its iSCSI name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Offers `unit` as number `number`. Every nexus learns that the inventory has changed.
    pub fn attach(&self, number: LunNumber, unit: Unit) -> Result<(), Occupied> {
        let mut inventory = self.inventory.write();
        if inventory.units.contains_key(&number) {
            return Err(Occupied(number));
        }
        let unit = LogicalUnit::new(number, unit);
        for nexus in inventory.nexuses.keys() {
            unit.enter(*nexus, Attention::PowerOn);
        }
        inventory.tell(Attention::ReportedLunsChanged);
        inventory.units.insert(number, Arc::new(unit));
        Ok(())
    }

    /// Takes number `number` away. What the disk is doing ends as it would have, and commands go no
    /// further; every nexus learns that the inventory has changed.
    pub fn detach(&self, number: LunNumber) -> Result<Unit, NoUnit> {
        let mut inventory = self.inventory.write();
        let gone = inventory.take(number).ok_or(NoUnit(number))?;
        Ok(gone.unit.clone())
    }

    /// Takes all units away: the target is no more. What has not begun by now does nothing.
    pub fn detach_all(&self) {
        let mut inventory = self.inventory.write();
        let numbers: Vec<_> = inventory.units.keys().copied().collect();
        let gone: Vec<_> = numbers.into_iter().map(|number| inventory.take(number)).collect();
        drop(inventory);
        // What their disks hold is let go when nobody waits for it.
        drop(gone);
    }

    /// The disk of `unit` is no more; so is the unit, unless another one has its number by now.
    pub(super) fn lose(&self, unit: &Arc<LogicalUnit>) {
        let mut inventory = self.inventory.write();
        if inventory.units.get(&unit.number).is_some_and(|there| Arc::ptr_eq(there, unit)) {
            tracing::info!(target = self.name, lun = %unit.number, "the disk of a unit is gone");
            // Its caller has it still: nothing is let go here.
            inventory.take(unit.number);
        }
    }

    /// Tells every nexus that the space of the units, which they have in common, has become little.
    /// Units of which nobody knows how much space is left have none to tell of.
    pub fn soft_threshold_reached(&self) {
        for unit in self.units().iter().filter(|unit| unit.unit.space.is_some()) {
            unit.tell(Attention::SoftThreshold, Audience::All);
        }
    }

    /// Whether an initiator of that name has a nexus.
    pub fn has_initiator(&self, name: &str) -> bool {
        self.inventory.read().nexuses.values().any(|port| port.name == name)
    }

    /// A new nexus with `port`, which learns that it is new with its first command to each unit.
    /// One that exists for the same port is being replaced: the session is reinstated (RFC 7143
    /// 6.3.5), which is a loss of the nexus.
    pub fn nexus(self: &Arc<Self>, port: InitiatorPort) -> Nexus {
        let mut inventory = self.inventory.write();
        let lost = inventory.nexuses.values().any(|known| *known == port);
        let attention = if lost { Attention::NexusLoss } else { Attention::PowerOn };
        inventory.arrivals += 1;
        let id = NexusId::new(inventory.arrivals);
        for unit in inventory.units.values() {
            unit.enter(id, attention);
        }
        inventory.nexuses.insert(id, port);
        Nexus::new(Arc::clone(self), id)
    }

    /// The nexus is gone, and what was kept for it; also if that is said twice.
    pub(super) fn leave(&self, nexus: NexusId) {
        let mut inventory = self.inventory.write();
        inventory.nexuses.remove(&nexus);
        for unit in inventory.units.values() {
            unit.leave(nexus);
        }
    }

    pub(super) fn unit(&self, number: LunNumber) -> Option<Arc<LogicalUnit>> {
        self.inventory.read().units.get(&number).cloned()
    }

    pub(super) fn units(&self) -> Vec<Arc<LogicalUnit>> {
        self.inventory.read().units.values().cloned().collect()
    }

    /// The initiator was given the list of units: it knows of changes.
    pub(super) fn list_reported(&self, nexus: NexusId) {
        for unit in self.inventory.read().units.values() {
            unit.forget(nexus, Attention::ReportedLunsChanged);
        }
    }
}

impl Inventory {
    /// Takes a unit away, of which those are told that have others.
    fn take(&mut self, number: LunNumber) -> Option<Arc<LogicalUnit>> {
        let gone = self.units.remove(&number)?;
        gone.detached.store(true, Ordering::Release);
        self.tell(Attention::ReportedLunsChanged);
        Some(gone)
    }

    fn tell(&self, attention: Attention) {
        for unit in self.units.values() {
            unit.tell(attention, Audience::All);
        }
    }
}

/// A unit of the device and what initiators have done to it.
#[derive(Debug)]
pub(super) struct LogicalUnit {
    pub(super) number: LunNumber,
    pub(super) unit: Unit,
    detached: AtomicBool,
    state: Mutex<UnitState>,
}

/// What a unit remembers between commands.
#[derive(Debug)]
pub(super) struct UnitState {
    kept: Kept,
    settings: Settings,
    /// Who prevents its removal.
    pub(super) preventing: BTreeSet<NexusId>,
    /// Size of the disk that initiators know of, in bytes.
    size_bytes: u64,
    pending: BTreeMap<NexusId, Pending>,
}

/// Who learns of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Audience {
    All,
    AllBut(NexusId),
    Only(NexusId),
}

impl Audience {
    fn includes(self, nexus: NexusId) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(other) => nexus != other,
            Self::Only(only) => nexus == only,
        }
    }
}

impl LogicalUnit {
    fn new(number: LunNumber, unit: Unit) -> Self {
        let size_bytes = unit.disk.geometry().size_bytes;
        let modes = Modes::new(unit.volatile_cache);
        let state = UnitState {
            kept: unit.settings.kept().unwrap_or(Kept { modes, ejected: false }),
            settings: unit.settings.clone(),
            preventing: BTreeSet::new(),
            size_bytes,
            pending: BTreeMap::new(),
        };
        Self { number, unit, detached: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// Whether it was taken away.
    pub(super) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// What the unit remembers. Never held while waiting.
    pub(super) fn state(&self) -> parking_lot::MutexGuard<'_, UnitState> {
        self.state.lock()
    }

    pub(super) fn geometry(&self) -> Geometry {
        Geometry { physical_sector: self.unit.physical_block, ..self.unit.disk.geometry() }
    }

    /// Whether, and where, initiators are told that space has become little.
    pub(super) fn threshold(&self) -> Threshold {
        let Some(space) = &self.unit.space else { return Threshold::None };
        let block = u64::from(self.geometry().logical_sector);
        let sets = |left: SpaceLeft| Threshold::At(threshold_sets(left.threshold_bytes, block));
        space.left().map_or(Threshold::Unknown, sets)
    }

    /// Bytes of a logical block.
    pub(super) fn block_length(&self) -> usize {
        usize::try_from(self.geometry().logical_sector).expect("512 or 4096")
    }

    /// A nexus comes: it is told that it is new, and what was told to those who were there before.
    fn enter(&self, nexus: NexusId, attention: Attention) {
        let mut pending = Pending::of(attention);
        let left = self.unit.space.as_ref().and_then(|space| space.left());
        if left.is_some_and(SpaceLeft::is_little) {
            pending.add(Attention::SoftThreshold);
        }
        self.state.lock().pending.insert(nexus, pending);
    }

    fn leave(&self, nexus: NexusId) {
        let mut state = self.state.lock();
        state.pending.remove(&nexus);
        state.preventing.remove(&nexus);
    }

    fn forget(&self, nexus: NexusId, attention: Attention) {
        if let Some(pending) = self.state.lock().pending.get_mut(&nexus) {
            pending.remove(attention);
        }
    }

    pub(super) fn tell(&self, attention: Attention, audience: Audience) {
        self.state.lock().tell(attention, audience);
    }
}

impl UnitState {
    pub(super) fn tell(&mut self, attention: Attention, audience: Audience) {
        for (nexus, pending) in &mut self.pending {
            if audience.includes(*nexus) {
                pending.add(attention);
            }
        }
    }

    /// Notices that the disk has another size than initiators know of.
    pub(super) fn look_at_size(&mut self, size_bytes: u64) {
        if self.size_bytes != size_bytes {
            self.size_bytes = size_bytes;
            self.tell(Attention::CapacityChanged, Audience::All);
        }
    }

    /// What `nexus` has to be told first; told by that.
    pub(super) fn take_attention(&mut self, nexus: NexusId) -> Option<Attention> {
        self.pending.get_mut(&nexus)?.take()
    }

    /// Mode pages.
    pub(super) fn modes(&self) -> Modes {
        self.kept.modes
    }

    pub(super) fn set_modes(&mut self, modes: Modes) {
        self.kept.modes = modes;
        self.settings.keep(self.kept);
    }

    /// Whether the medium was ejected.
    pub(super) fn is_ejected(&self) -> bool {
        self.kept.ejected
    }

    pub(super) fn set_ejected(&mut self, ejected: bool) {
        self.kept.ejected = ejected;
        self.settings.keep(self.kept);
    }

    /// Values are what they were to begin with, and nobody prevents anything; a medium that is out
    /// stays out.
    pub(super) fn reset(&mut self) {
        self.set_modes(self.modes().defaults());
        self.preventing.clear();
    }
}
