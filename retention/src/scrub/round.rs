//! A round: what is to be looked at, in which order, how fast, and what is remembered meanwhile.

use super::chain::{HeadVerdict, LineChain};
use super::{ChainReport, Healed, HealedFrom, ScrubError, ScrubOrder, ScrubProgress, ScrubReport};
use crate::compact::Source;
use crate::fold::Pace;
use crate::ids::{DiskId, LineId, MachineId, SegmentId, Sequence};
use crate::manifest::ManifestError;
use crate::manifest::integrity::{Damage, DamagedPlace, MAX_DAMAGE, ScrubEntry, ScrubPosition};
use crate::manifest::record::ManifestRecord;
use crate::manifest::released::ReleasedLine;
use crate::manifest::state::{LineEntry, ManifestState};
use crate::replica::{Image, ReplicaDisk};
use crate::retention::Retention;
use crate::time::Timestamp;
use landfall_disks::ByteOffset;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often the position is remembered: as much is looked at again after a crash.
const REMEMBER_EVERY: Duration = Duration::from_secs(30);

impl Retention {
    /// Looks at everything that `order` names; goes on with a round over everything that was stopped. `watch` is told how
    /// far it is, and stops it by `false`. Streams, readers and folds go on meanwhile.
    pub async fn scrub(
        self: &Arc<Self>,
        order: &ScrubOrder,
        pace: &dyn Pace,
        watch: &dyn Fn(&ScrubProgress) -> bool,
    ) -> Result<ScrubReport, ScrubError> {
        let _alone = self.scrubbing.try_lock().map_err(|_| ScrubError::UnderWay)?;
        self.indexing.check()?;
        let mut round = Round::new(self, order, pace, watch)?;
        let ended = round.run().await;
        if order.heal {
            // Also where it failed: what was found is to be remembered.
            let remembered = round.remember().await;
            ended?;
            remembered?;
            round.note_machines().await?;
        } else {
            ended?;
        }
        Ok(round.report())
    }
}

/// Bytes that are waited for in one go.
const PAID_AT_ONCE: u64 = 256 << 10;
/// Places that one round keeps in memory; of more only the number.
const MAX_TRACKED: usize = 65_536;

/// Where the chain of a line ends.
#[derive(Clone, Copy)]
enum ChainEnd {
    /// At its last record.
    Tail(Sequence),
    /// Where another line goes on from it: what it wrote later was discarded.
    Cut(Sequence),
}

/// The work of one call.
pub(super) struct Round<'a> {
    pub(super) retention: &'a Arc<Retention>,
    pub(super) order: &'a ScrubOrder,
    pace: &'a dyn Pace,
    watch: &'a dyn Fn(&ScrubProgress) -> bool,
    pub(super) only: Option<MachineId>,
    pub(super) found: ScrubReport,
    pub(super) chains: BTreeMap<LineId, LineChain>,
    /// Where what each line wrote ended when the round began, as far as it is somebody's.
    ends: BTreeMap<LineId, ChainEnd>,
    /// The newest segment there was when the round began.
    pub(super) newest_segment: SegmentId,
    /// Whether the chains are those of the whole journal.
    from_start: bool,
    progress: ScrubProgress,
    entry: ScrubEntry,
    pub(super) damage: BTreeMap<DamagedPlace, Timestamp>,
    /// Versions that the index names and that lie nowhere, as far as they were remembered or found.
    pub(super) nowhere: BTreeSet<DamagedPlace>,
    dirty: bool,
    remembered: Duration,
}

/// The round goes on, or was stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    On,
    Stopped,
}

impl<'a> Round<'a> {
    fn new(
        retention: &'a Arc<Retention>,
        order: &'a ScrubOrder,
        pace: &'a dyn Pace,
        watch: &'a dyn Fn(&ScrubProgress) -> bool,
    ) -> Result<Self, ScrubError> {
        let only = order.machine.as_ref().map(|name| retention.machine_id(name)).transpose()?;
        let mut entry = (*retention.scrubbed()).clone();
        let whole = only.is_none() && order.heal;
        let mut position = entry.position;
        if !whole || position == ScrubPosition::Done {
            position = ScrubPosition::Journal(SegmentId::default());
        }
        if whole && position == ScrubPosition::Journal(SegmentId::default()) {
            entry.begun = retention.surroundings.clock.now();
            entry.newest_machine = retention.manifest.state().given.machine;
        }
        let nowhere = match position {
            // The index was looked at before the round was stopped.
            ScrubPosition::Image(..) => entry.damage.iter().map(|damage| damage.place).collect(),
            _ => BTreeSet::new(),
        };
        let damage = entry.damage.iter().map(|damage| (damage.place, damage.found)).collect();
        let progress = ScrubProgress { position, at: String::new(), done_bytes: 0, total_bytes: 0 };
        let mut round = Self {
            retention,
            order,
            pace,
            watch,
            only,
            found: ScrubReport::default(),
            chains: BTreeMap::new(),
            ends: BTreeMap::new(),
            newest_segment: SegmentId::default(),
            from_start: position == ScrubPosition::Journal(SegmentId::default()),
            progress,
            entry,
            damage,
            nowhere,
            dirty: false,
            remembered: retention.surroundings.clock.uptime(),
        };
        round.prepare();
        Ok(round)
    }

    /// What there is to look at, and what is kept of what is not there any more.
    fn prepare(&mut self) {
        let retention = self.retention;
        let state = retention.manifest.state();
        self.newest_segment = state.given.segment;
        let segments = self.journal_bytes(&state);
        let image_bytes = |disk: &Arc<ReplicaDisk>| match disk.image() {
            Image::Present(image) => image.geometry().size_bytes,
            Image::Lost(_) => 0,
        };
        let images: u64 = self.disks().iter().map(image_bytes).sum();
        let parts = self.order.parts;
        self.progress.total_bytes =
            if parts.journal { segments } else { 0 } + if parts.images { images } else { 0 };
        for (line, parts) in state.written(None) {
            // A line that hands out its beginning goes on for as long as there is it.
            let (Some(first), Some(last)) = (parts.first(), parts.last()) else { continue };
            let owner = state.lines.get(&last.owner);
            if self.only.is_some_and(|only| owner.is_none_or(|owner| owner.machine != only)) {
                continue;
            }
            let heads = self.order.heads.iter().filter(|(of, _, _)| *of == line);
            let chain = LineChain::new(first.above, heads.map(|(_, at, chain)| (*at, *chain)));
            self.chains.insert(line, chain);
            let end = match self.retention.line(line) {
                Some(line) => ChainEnd::Tail(line.tail().sequence),
                None => ChainEnd::Cut(last.up_to),
            };
            self.ends.insert(line, end);
        }
        self.released(&state, LineChain::take_released);
    }

    /// What the manifest kept of records that are gone.
    fn released(&mut self, state: &ManifestState, take: fn(&mut LineChain, &ReleasedLine)) {
        for lane in state.lines.values().map(|line| line.lane).collect::<BTreeSet<_>>() {
            for (_, run) in state.released.of_lane(lane) {
                for (line, released) in &run.lines {
                    if let Some(chain) = self.chains.get_mut(line) {
                        take(chain, released);
                    }
                }
            }
        }
    }

    async fn run(&mut self) -> Result<(), ScrubError> {
        let parts = self.order.parts;
        if let ScrubPosition::Journal(first) = self.progress.position {
            if parts.journal && self.journal(first).await? == Going::Stopped {
                return Ok(());
            }
            // What was released meanwhile, before it was read.
            let retention = self.retention;
            self.released(&retention.manifest.state(), LineChain::take_released_since);
            self.move_to(ScrubPosition::Index);
        } else if parts.journal {
            let state = self.retention.manifest.state();
            self.progress.done_bytes = self.journal_bytes(&state);
        }
        if self.progress.position == ScrubPosition::Index {
            if parts.index && self.index().await? == Going::Stopped {
                return Ok(());
            }
            self.move_to(ScrubPosition::Image(DiskId::default(), ByteOffset::new(0)));
        }
        if let ScrubPosition::Image(disk, from) = self.progress.position {
            if parts.images && self.images(disk, from).await? == Going::Stopped {
                return Ok(());
            }
            self.move_to(ScrubPosition::Done);
        }
        self.found.complete = true;
        self.forget_gone();
        if self.only.is_none() && self.order.heal {
            self.entry.ended = self.retention.surroundings.clock.now();
        }
        Ok(())
    }

    fn journal_bytes(&self, state: &ManifestState) -> u64 {
        self.sources(state).iter().map(Source::size_bytes).sum()
    }

    /// Disks whose images are looked at.
    pub(super) fn disks(&self) -> Vec<Arc<ReplicaDisk>> {
        let machines = self.retention.machines.read();
        let wanted = |disk: &&Arc<ReplicaDisk>| {
            self.only.is_none_or(|only| disk.machine() == only)
                && disk.floor().is_some()
                && matches!(disk.image(), Image::Present(_))
        };
        machines.disks.values().filter(wanted).cloned().collect()
    }

    pub(super) fn move_to(&mut self, position: ScrubPosition) {
        self.progress.position = position;
        self.dirty = true;
    }

    /// Tells how far it is; remembers it from time to time.
    pub(super) async fn step(&mut self, at: String, bytes: u64) -> Result<Going, ScrubError> {
        self.progress.at = at;
        self.progress.done_bytes += bytes;
        let uptime = self.retention.surroundings.clock.uptime();
        if self.order.heal && uptime.saturating_sub(self.remembered) >= REMEMBER_EVERY {
            self.remember().await?;
            self.remembered = uptime;
        }
        Ok(if (self.watch)(&self.progress) { Going::On } else { Going::Stopped })
    }

    /// Waits for as long as `bytes` that were read may take; in short pieces, so that it can be stopped meanwhile.
    pub(super) async fn pay(&mut self, bytes: u64, waiting: &dyn Fn() -> usize) -> Going {
        let mut rest = bytes;
        while rest > 0 {
            let piece = rest.min(PAID_AT_ONCE);
            self.pace.admit(piece, waiting).await;
            rest -= piece;
            if !(self.watch)(&self.progress) {
                return Going::Stopped;
            }
        }
        Going::On
    }

    /// Takes note of damage.
    pub(super) fn damaged(&mut self, place: DamagedPlace) {
        let now = self.retention.surroundings.clock.now();
        if self.damage.len() >= MAX_TRACKED && !self.damage.contains_key(&place) {
            self.found.more_damage += 1;
            return;
        }
        let found = *self.damage.entry(place).or_insert_with(|| {
            tracing::error!(?place, "scrub found damage");
            self.found.found_damaged += 1;
            self.dirty = true;
            now
        });
        self.found.damage.push(Damage { found, place });
    }

    /// Takes note of something that was damaged just now and is not any more.
    pub(super) fn healed(&mut self, place: DamagedPlace, from: HealedFrom) {
        tracing::warn!(?place, ?from, "scrub healed damage");
        let was_known = self.damage.contains_key(&place) || from == HealedFrom::Rewritten;
        self.found.found_damaged += u64::from(!was_known);
        if self.found.healed.len() < MAX_TRACKED {
            self.found.healed.push(Healed { place, from });
        }
    }

    /// Takes what was remembered of places that `looked_at` says were looked at just now; they are noted again where they are
    /// still damaged. What is left of it in `still` was damaged before.
    pub(super) fn look_again(
        &mut self,
        looked_at: impl Fn(&DamagedPlace) -> bool,
        still: &BTreeSet<DamagedPlace>,
    ) {
        let gone: Vec<_> = self
            .damage
            .keys()
            .filter(|place| looked_at(place) && !still.contains(place))
            .copied()
            .collect();
        for place in gone {
            self.damage.remove(&place);
            self.dirty = true;
            let noted = self.found.healed.iter().any(|healed| healed.place == place);
            if !noted {
                self.healed(place, HealedFrom::Rewritten);
            }
        }
    }

    /// What is not there any more needs no healing. A version whose segment is gone was found where somebody would look.
    fn forget_gone(&mut self) {
        let state = self.retention.manifest.state();
        let is_segment = |segment: &SegmentId| {
            state.segments.contains_key(segment) || state.compacted.contains_key(segment)
        };
        let nowhere = &self.nowhere;
        let looked_at = |line: &LineId| self.chains.contains_key(line);
        let there = |place: &DamagedPlace| match place {
            DamagedPlace::Image { disk, .. } => state.disks.contains_key(disk),
            DamagedPlace::Version { line, sequence, disk, segment, .. } => {
                state.owner_of(*line, *sequence).is_some()
                    && state.disks.contains_key(disk)
                    && (is_segment(segment) || nowhere.contains(place) || !looked_at(line))
            }
            DamagedPlace::Records { segment, .. } => is_segment(segment),
        };
        let before = self.damage.len();
        self.damage.retain(|place, _| there(place));
        self.dirty |= self.damage.len() != before;
    }

    /// Writes down how far it is and what is damaged.
    pub(super) async fn remember(&mut self) -> Result<(), ScrubError> {
        if self.only.is_none() {
            self.entry.position = self.progress.position;
        } else if !self.dirty {
            return Ok(());
        }
        let damage =
            self.damage.iter().map(|(place, found)| Damage { found: *found, place: *place });
        self.entry.damage = damage.take(MAX_DAMAGE).collect();
        let unlisted = self.damage.len() - self.entry.damage.len();
        self.entry.unlisted = unlisted as u64 + self.found.more_damage;
        let record = ManifestRecord::Scrubbed(Arc::new(self.entry.clone()));
        self.retention.manifest.append(vec![record]).await?;
        self.dirty = false;
        Ok(())
    }

    /// Notes of each machine that everything of it was looked at.
    async fn note_machines(&self) -> Result<(), ScrubError> {
        let parts = self.order.parts;
        if !(self.found.complete && parts.journal && parts.index && parts.images) {
            return Ok(());
        }
        let ended = self.retention.surroundings.clock.now();
        let noted = self.retention.manifest.change(|state| {
            let wanted = |machine: &MachineId| match self.only {
                Some(only) => *machine == only,
                None => *machine <= self.entry.newest_machine,
            };
            let machines = state.machines.keys().copied().filter(wanted);
            let record = |machine| ManifestRecord::MachineScrubbed { machine, ended };
            Ok::<_, ManifestError>((machines.map(record).collect(), ()))
        });
        Ok(noted.await?)
    }

    fn report(mut self) -> ScrubReport {
        if self.from_start && self.order.parts.journal && self.found.complete {
            self.found.chains = self.chain_reports();
        }
        self.found
    }

    fn chain_reports(&self) -> Vec<ChainReport> {
        let state = self.retention.manifest.state();
        let report = |(id, chain): (&LineId, &LineChain)| {
            let mut heads = chain.heads();
            let (breaks, last) = match self.ends.get(id)? {
                ChainEnd::Tail(last) => (chain.breaks(*last), None),
                ChainEnd::Cut(last) => {
                    let (last, beyond) = (*last, HeadVerdict::Beyond { last: *last });
                    let later = heads.iter_mut().filter(|(at, _)| *at > last);
                    later.for_each(|(_, verdict)| *verdict = beyond);
                    let breaks = chain.breaks(last).into_iter();
                    (breaks.filter(|one| one.first() <= last).collect(), Some(last))
                }
            };
            let wrote = |entry: &&LineEntry| entry.stretches().any(|of| of.line == *id);
            let entry = state.lines.get(id).or_else(|| state.lines.values().find(wrote))?;
            Some(ChainReport {
                line: *id,
                machine: state.machines.get(&entry.machine)?.name.clone(),
                branch: entry.branch.clone(),
                after: chain.base(),
                last,
                breaks,
                heads,
            })
        };
        self.chains.iter().filter_map(report).collect()
    }
}
