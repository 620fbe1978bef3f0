//! A branch becomes the trunk: what changes hands in the state.
//!
//! **Invariant:** what is kept of a history (pins, locks, dropped moments, ordered stretches) goes with the stretch it is of;
//! nothing of it is there twice, and nothing is lost.

use super::Inherited;
use crate::ids::{Generation, LineId, MachineId, Sequence, StreamId};
use crate::manifest::dropped::Dropped;
use crate::manifest::state::{ExportEntry, LineEntry, ManifestState, Misfit};
use crate::manifest::streams::StreamEntry;
use crate::name::Name;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is kept of a history, as far as one line hands it to another.
#[derive(Default)]
struct Kept {
    pins: BTreeSet<Sequence>,
    locks: BTreeMap<Sequence, Timestamp>,
    dropped: Dropped,
    ordered: Vec<Ordered>,
}

type Ordered = crate::ordered::Stretch;

impl Kept {
    /// Takes what lies above `above` and up to `up_to` from a line.
    fn take(&mut self, entry: &mut LineEntry, above: Sequence, up_to: Sequence) {
        self.take_ordered(entry, above, up_to);
        let after = up_to.next();
        let later = entry.pins.split_off(&after);
        self.pins.append(&mut std::mem::replace(&mut entry.pins, later));
        let later = entry.locks.split_off(&after);
        let locks = std::mem::replace(&mut entry.locks, later);
        self.take_locks(locks);
        self.dropped.add(&entry.dropped.clip(above, up_to));
        entry.dropped = Arc::new(entry.dropped.clip(up_to, Sequence::new(u64::MAX)));
    }

    /// Takes all that is left above `above`.
    fn take_rest(&mut self, entry: &mut LineEntry, above: Sequence) {
        self.pins.append(&mut entry.pins);
        self.take_locks(std::mem::take(&mut entry.locks));
        self.dropped.add(&entry.dropped.clip(above, Sequence::MAX));
    }

    /// All that a branch wrote is in order.
    fn take_ordered(&mut self, entry: &mut LineEntry, above: Sequence, up_to: Sequence) {
        if entry.origin.is_some() && !entry.sealed {
            let whole = Ordered { first: above.next(), last: up_to };
            self.ordered.extend((whole.first <= whole.last).then_some(whole));
            return;
        }
        let ordered = &entry.stream_entry.ordered;
        self.ordered.extend(ordered.clip(above, up_to));
        let later = ordered.clip(up_to, Sequence::MAX);
        entry.stream_entry.ordered = Arc::new(crate::ordered::Ordered::of(later.collect()));
    }

    fn take_locks(&mut self, locks: BTreeMap<Sequence, Timestamp>) {
        for (at, until) in locks {
            let lock = self.locks.entry(at).or_default();
            *lock = until.max(*lock);
        }
    }
}

impl ManifestState {
    pub(super) fn promote(
        &mut self,
        line: LineId,
        old: &Name,
        instants: Sequence,
        generation: Generation,
    ) -> Result<(), Misfit> {
        let misfit = |what: String| Misfit { record: "BranchPromoted", what };
        let way = self.way_down(line);
        let mut branch = self.line_mut(line, "BranchPromoted")?.clone();
        let machine = branch.machine;
        let trunk = self.machines.get(&machine).map(|machine| machine.trunk);
        let (Some(trunk), Some((last, left))) = (trunk, way.last().copied()) else {
            return Err(misfit(format!("{line:?} is no branch")));
        };
        if last != trunk {
            return Err(misfit(format!("{line:?} does not start from {trunk:?}")));
        }
        let lines = way.iter().map(|(line, _)| *line).chain([line]);
        for entry in lines.filter_map(|line| self.lines.get(&line)) {
            if entry.origin.is_some_and(|(_, origin)| origin != entry.base) {
                return Err(misfit(format!("{:?} does not go on from its origin", entry.id)));
            }
            if entry.stream_entry.ordered.open_since().is_some() {
                return Err(misfit(format!("{:?} is being written in order", entry.id)));
            }
            if entry.generation >= generation {
                return Err(misfit(format!("{:?} is at {:?}", entry.id, entry.generation)));
            }
        }
        let taken = self.branch_named(machine, old).is_some_and(|other| other.id != line);
        if taken || self.exports.values().any(|export| export.line == line && export.writable) {
            return Err(misfit(format!("{line:?} is exported, or a branch is called {old}")));
        }
        self.promote_disks(machine, line, &way, left)?;
        let mut kept = Kept::default();
        let mut inherited = Vec::new();
        let mut born = branch.born;
        for (number, (ancestor, left)) in way.iter().enumerate().rev() {
            let entry = self.line_mut(*ancestor, "BranchPromoted")?;
            let base = entry.base;
            kept.take(entry, base, *left);
            inherited.extend(entry.give_up_to(*left));
            if *ancestor == trunk {
                (entry.branch, entry.sealed) = (Some(old.clone()), true);
                entry.stream_entry.state = None;
                branch.start = entry.start.take();
            }
            entry.origin = Some((line, *left));
            entry.forget_stretches();
            let next = number.checked_sub(1).and_then(|next| way.get(next));
            let next = next.map_or(Some(branch.born), |(next, _)| {
                self.lines.get(next).map(|entry| entry.born)
            });
            born = next.unwrap_or(born);
            self.line_mut(*ancestor, "BranchPromoted")?.born = born;
        }
        let base = branch.base;
        kept.take_ordered(&mut branch, base, instants);
        kept.take_rest(&mut branch, base);
        inherited.append(&mut branch.inherited);
        branch.inherited = joined(inherited);
        // What was the trunk before goes on where it was left.
        branch.inherited.pop_if(|last| last.from == line);
        (branch.pins, branch.locks) = (kept.pins, kept.locks);
        branch.dropped = Arc::new(kept.dropped);
        let ordered = Arc::new(crate::ordered::Ordered::of(kept.ordered));
        branch.stream_entry = StreamEntry { state: None, ordered };
        (branch.branch, branch.origin, branch.sealed) = (None, None, false);
        branch.base = Sequence::default();
        (branch.generation, branch.oldest_welcome) = (generation, generation);
        branch.stream = StreamId::NONE;
        branch.forget_stretches();
        self.lines.insert(line, branch);
        self.machines.entry(machine).and_modify(|machine| machine.trunk = line);
        self.ingests.remove(&machine);
        self.hang_anew(line, &way);
        self.promote_common_points(line, &way);
        self.name_exports_anew(machine, line, (trunk, &way));
        Ok(())
    }

    /// Branches of what the new trunk took over start from it.
    fn hang_anew(&mut self, line: LineId, way: &[(LineId, Sequence)]) {
        let on_way: Vec<LineId> = way.iter().map(|(line, _)| *line).collect();
        for entry in self.lines.values_mut().filter(|entry| !on_way.contains(&entry.id)) {
            let Some((parent, origin)) = entry.origin else { continue };
            if way.iter().any(|(ancestor, left)| *ancestor == parent && origin <= *left) {
                entry.origin = Some((line, origin));
            }
        }
    }

    /// Exports follow their moments, and are served under the names that those have now.
    fn name_exports_anew(
        &mut self,
        machine: MachineId,
        line: LineId,
        (trunk, way): (LineId, &[(LineId, Sequence)]),
    ) {
        let Some(name) = self.machines.get(&machine).map(|machine| machine.name.clone()) else {
            return;
        };
        let moved = |export: &ExportEntry| match export.sequence {
            None => export.line == trunk,
            Some(at) => way.iter().any(|(of, left)| *of == export.line && at <= *left),
        };
        for export in self.exports.values_mut() {
            let concerned = export.line == line || way.iter().any(|(of, _)| *of == export.line);
            if !concerned {
                continue;
            }
            if moved(export) {
                export.line = line;
            }
            let branch = self.lines.get(&export.line).and_then(|line| line.branch.as_ref());
            let of = crate::moment::line_name(&name, branch);
            export.name = match export.sequence {
                None => of,
                Some(at) => format!("{of}@seq:{at}"),
            };
        }
    }

    /// Sizes and ends of disks, which go along the trunk, go along the new one.
    fn promote_disks(
        &mut self,
        machine: MachineId,
        line: LineId,
        way: &[(LineId, Sequence)],
        left: Sequence,
    ) -> Result<(), Misfit> {
        for disk in self.disks.values_mut().filter(|disk| disk.machine == machine) {
            if disk.content.is_some_and(|(sequence, _)| sequence > left) {
                disk.content = None;
            }
            let joined_later = disk.span.since.is_some_and(|since| since >= left);
            if disk.floor.is_some_and(|floor| floor > left) && !joined_later {
                let what = format!("{:?} holds what came after {left:?}", disk.id);
                return Err(Misfit { record: "BranchPromoted", what });
            }
            disk.span.promote(line, way);
        }
        Ok(())
    }

    /// That it can be written as a snapshot.
    pub(super) fn check_snapshot(&self, record: &'static str) -> Result<(), Misfit> {
        let mut again = Self::default();
        for one in self.records() {
            again.apply(&one)?;
        }
        if again == *self {
            return Ok(());
        }
        Err(Misfit { record, what: "what becomes of it contradicts itself".to_owned() })
    }
}

/// Stretches of one line that follow each other are one.
fn joined(stretches: Vec<Inherited>) -> Vec<Inherited> {
    let mut joined: Vec<Inherited> = Vec::new();
    for one in stretches {
        match joined.last_mut() {
            Some(last) if last.from == one.from => *last = one,
            _ => joined.push(one),
        }
    }
    joined
}
