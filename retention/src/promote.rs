//! Promotion: a branch becomes the trunk of its machine.
//!
//! ```text
//!   nobody feeds or writes ─▶ a point at the branch's head ─▶ BranchPromoted ─▶ lines hang where the manifest says
//!                                                              └─ this one record is all: before it nothing, after it everything
//! ```
//!
//! Nothing is copied, the image and its floor stay. What the old trunk has above the branch's origin is a branch of the new
//! one, sealed, under a name that is asked for, until somebody discards it; so it holds history at the origin.
//! **Invariants:** every moment reads what it read. No record comes to either line between the last look at their ends and
//! the promotion: both lines are held back, and what was queued before is waited for.

use crate::change::ChangeError;
use crate::ids::{Generation, LineId, Sequence};
use crate::journal::draft::{Draft, DraftOrigin};
use crate::journal::format::RecordKind;
use crate::line::Line;
use crate::manifest::ManifestError;
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{LineEntry, ManifestState};
use crate::moment::{ResolveError, line_name};
use crate::name::Name;
use crate::point::PointKind;
use crate::retention::Retention;
use crate::status::BranchStatus;
use crate::stream::SlotState;
use crate::stream::order::settle_order;
use landfall_disks::file::FileError;
use landfall_disks::uring::offload;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a promotion did.
#[derive(Clone, Debug)]
pub struct Promoted {
    /// Where the branch started: up to there its history is that of the old trunk.
    pub origin: Sequence,
    /// The last moment of the branch, which is the newest of the machine now.
    pub head: Sequence,
    /// The generation of the new trunk.
    pub generation: Generation,
    /// What the old trunk had above the origin.
    pub old: BranchStatus,
}

/// Lets the lines go again, whatever became of the promotion.
struct HeldBack(Vec<Arc<Line>>);

impl HeldBack {
    fn new(lines: Vec<Arc<Line>>) -> Self {
        lines.iter().for_each(|line| line.hold_back(true));
        Self(lines)
    }
}

impl HeldBack {
    /// Which of them is the trunk is not known until the next start: neither takes anything more.
    fn for_good(mut self) {
        self.0.clear();
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.0.iter().for_each(|line| line.hold_back(false));
    }
}

impl Retention {
    /// Makes a branch the trunk of its machine; what the old trunk has above the branch's origin is a branch called `old`
    /// from then on. Durable on return. Refused while somebody feeds the machine or may write to the branch.
    pub async fn promote_branch(
        &self,
        machine: &Name,
        branch: &Name,
        old: &Name,
    ) -> Result<Promoted, ChangeError> {
        let id = self.machine_id(machine)?;
        self.check_not_destroyed(machine)?;
        let line = self.line_named(machine, Some(branch))?;
        let slot = self.machines.read().streams.get(&id).cloned();
        // It was removed since.
        let gone = || Self::unknown_machine(&self.manifest.state(), machine);
        let slot = slot.ok_or_else(gone)?;
        let _opening = slot.opening.lock().await;
        if let Some(holder) = self.stream_holder(id) {
            let by = format!("replication from {holder}; stop it first");
            return Err(ChangeError::InUse { what: format!("machine {machine}"), by });
        }
        // Marks by hand, disks that change, and thinning see the one trunk or the other.
        let _shape = line.shared().shape.write().await;
        let _thinning = self.thinning.lock().await;
        let way = self.way_down(&line);
        let trunk = way.last().map_or_else(|| Arc::clone(&line), |(trunk, _)| Arc::clone(trunk));
        let held = HeldBack::new(vec![Arc::clone(&line), Arc::clone(&trunk)]);
        self.lane(line.lane()).vouch().await?;
        let decide = |state: &ManifestState| check(state, &line, (machine, branch), old);
        decide(&self.manifest.state())?;
        // Whoever delivered in order is gone.
        let now = self.surroundings.clock.now();
        settle_order(&self.manifest, &trunk, Some(trunk.tail().sequence), now).await?;
        self.mark_head(&line, &trunk).await?;
        let origin = line.origin().map(|(_, origin)| origin).unwrap_or_default();
        let recorded = self
            .manifest
            .change(|state| {
                decide(state)?;
                let generation = next_generation(state, line.id());
                let record = ManifestRecord::BranchPromoted {
                    line: line.id(),
                    old: old.clone(),
                    instants: line.tail().sequence,
                    generation,
                };
                Ok::<_, ChangeError>((vec![record], generation))
            })
            .await;
        let generation = match recorded {
            Ok(generation) => generation,
            Err(error) => {
                if may_be_recorded(&error) {
                    held.for_good();
                }
                return Err(error);
            }
        };
        self.hang_anew(&line, &way);
        drop(held);
        *slot.inner.lock() = SlotState { generation, ..SlotState::default() };
        self.refresh_spans(id);
        self.refresh_forgotten();
        let head = line.tail().sequence;
        let old = BranchStatus::new(old.clone(), &trunk);
        Ok(Promoted { origin, head, generation, old })
    }

    /// The lines between a branch and the trunk, nearest first, and where each was left.
    fn way_down(&self, line: &Arc<Line>) -> Vec<(Arc<Line>, Sequence)> {
        let origin = |of: &Arc<Line>| of.ancestry().origin;
        std::iter::successors(origin(line), |(parent, _)| origin(parent)).collect()
    }

    /// Makes the newest moment of a branch a point, so that it is the newest of the trunk, unless it is one already. What only
    /// thinning made one is not: the next start may leave it out of the list.
    async fn mark_head(&self, line: &Arc<Line>, trunk: &Arc<Line>) -> Result<(), ChangeError> {
        let tail = line.tail().sequence;
        let at_origin = line.origin() == Some((trunk.id(), tail));
        if line.is_sealed()
            || self.is_marked(line, tail).await?
            || (at_origin && self.is_marked(trunk, tail).await?)
        {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        let draft = Draft {
            line: Arc::clone(line),
            origin: DraftOrigin::Promotion,
            kind: RecordKind::Mark { kind: PointKind::Crash, label: None },
            boundary: true,
            source_time: self.surroundings.clock.now(),
            extents: Vec::new(),
            ticket: None,
            reply,
        };
        self.lane(line.lane()).append(draft, answer).await?;
        Ok(())
    }

    /// Whether `sequence` of a line is a consistent point, and a record says so.
    async fn is_marked(&self, line: &Arc<Line>, sequence: Sequence) -> Result<bool, ChangeError> {
        let point = line.points(|points| points.at(sequence));
        if point.is_none_or(|point| !point.kind.is_consistent()) {
            return Ok(false);
        }
        let (index, of) = (Arc::clone(&self.surroundings.index), Arc::clone(line));
        let marked = offload(move || of.is_marked(&*index, sequence)).await;
        Ok(marked.map_err(ResolveError::from)?)
    }

    /// Lines in memory follow the manifest.
    fn hang_anew(&self, line: &Arc<Line>, way: &[(Arc<Line>, Sequence)]) {
        let state = self.manifest.state();
        let entry = |of: &Arc<Line>| state.lines.get(&of.id());
        let from_trunk = way.iter().rev();
        let way: Vec<(Arc<Line>, Sequence, &LineEntry)> =
            from_trunk.filter_map(|(of, left)| Some((Arc::clone(of), *left, entry(of)?))).collect();
        if let Some(entry) = entry(line) {
            line.become_trunk(entry, &way);
        }
        let machines = self.machines.read();
        for other in machines.lines.values().filter(|other| other.machine() == line.machine()) {
            let Some(entry) = entry(other) else { continue };
            let parent = entry.origin.and_then(|(parent, _)| machines.lines.get(&parent));
            if parent.is_some() {
                other.hang(entry, parent);
            }
        }
    }
}

/// Whether a restart may find the promotion although it failed.
fn may_be_recorded(error: &ChangeError) -> bool {
    match error {
        ChangeError::Manifest(ManifestError::Overtaken(_)) => false,
        ChangeError::Manifest(ManifestError::File(FileError::NoSpace { .. })) => false,
        ChangeError::Manifest(_) => true,
        _ => false,
    }
}

/// Above that of every line whose stream there may have been.
fn next_generation(state: &ManifestState, line: LineId) -> Generation {
    let machine = state.lines.get(&line).map(|entry| entry.machine);
    let of_machine = state.lines.values().filter(|entry| Some(entry.machine) == machine);
    of_machine.map(|entry| entry.generation).max().unwrap_or_default().next()
}

/// That a branch can be promoted, as things stand.
fn check(
    state: &ManifestState,
    line: &Line,
    (machine, branch): (&Name, &Name),
    old: &Name,
) -> Result<(), ChangeError> {
    let what = || line_name(machine, Some(branch));
    let refuse = |why: &str| {
        let (branch, why) = (what(), why.to_owned());
        Err(ChangeError::NotPromotable { branch, why })
    };
    let mut at = state.lines.get(&line.id());
    if at.is_none_or(|entry| entry.origin.is_none()) {
        return refuse("it is gone, or the trunk already");
    }
    while let Some(entry) = at {
        if entry.origin.is_some_and(|(_, origin)| origin != entry.base) {
            return refuse(
                "it, or what it starts from, was made by a version that numbers the writes of a branch from 1; \
                 restore what it holds instead",
            );
        }
        at = entry.origin.and_then(|(parent, _)| state.lines.get(&parent));
    }
    let writable =
        |export: &&crate::manifest::state::ExportEntry| export.line == line.id() && export.writable;
    if let Some(export) = state.exports.values().find(writable) {
        let by = format!(
            "export {} ({}): stop whoever writes there, then landfall export remove {}",
            export.id, export.name, export.id
        );
        return Err(ChangeError::InUse { what: format!("branch {}", what()), by });
    }
    let taken = state.branch_named(line.machine(), old).filter(|other| other.id != line.id());
    if taken.is_some() {
        return Err(ChangeError::Exists { what: "branch", name: old.clone() });
    }
    Ok(())
}
