//! What the history of each group takes of the journal, and what follows from its quota.
//!
//! ```text
//!   samples (index) ─▶ bytes of each line above the start of its history ─▶ used
//!   used, quota, points, holders ─▶ relieve (pure) ─▶ begin later: fold to there │ hold: nothing more is taken
//! ```
//!
//! A record counts for its group from its acknowledgement until history begins after it, in whatever file it lies, and as
//! long as no compaction has made the journal smaller than that: then all groups count for less, in proportion.
//! **Invariants:** what a quota gives up is the oldest of history, never what is held and never the newest consistent point.
//! A group whose quota is used up takes nothing more but marks, so that a pass that is under way can end in a point.

mod allowance;

pub(crate) use allowance::Allowance;

use crate::ids::{LineId, MachineId, Sequence};
use crate::index::usage_key::{bytes_at, bytes_between};
use crate::index::{IndexError, IndexStore};
use crate::lease::Holder;
use crate::line::Line;
use crate::name::Name;
use crate::point::PointHead;
use crate::policy::{Hold, Holds, Policy, Quota, Relief, Weighed, WhenFull, relieve};
use crate::retention::Retention;
use crate::thinning::{Shown, holds};
use crate::time::Timestamp;
use landfall_disks::uring::offload;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::sync::Notify;

/// Shortening begins when less than this part of a quota is left, so that streams need not wait for it.
const SPARE: u64 = 16;
/// Points that are weighed for one relief; more is for the next one.
const WEIGHED_AT_ONCE: usize = 4096;
/// Holders that are named in a refusal.
const NAMED: usize = 4;

/// What the history of a group takes.
#[derive(Clone, Debug)]
pub struct GroupSpace {
    /// The machine whose group it is; a machine is alone in its own.
    pub machine: Name,
    /// Its trunk.
    pub trunk: LineId,
    /// What applies.
    pub policy: Policy,
    /// Bytes of its records that are needed, branches included.
    pub used_bytes: u64,
    /// Of those, bytes of branches, by name.
    pub branch_bytes: Vec<(Name, u64)>,
    /// Bytes that it ever took, to a MiB: the difference of two looks is what came in between.
    pub appended_bytes: u64,
    /// When its oldest point was committed.
    pub oldest: Option<Timestamp>,
    /// Where history is to begin instead, because of the quota.
    pub begin_at: Option<Sequence>,
    /// Why nothing more is taken, if the quota is used up and nothing can go.
    pub held: Option<String>,
}

impl GroupSpace {
    /// Bytes that its quota leaves, if it has one.
    pub fn left_bytes(&self) -> Option<u64> {
        Some(self.policy.space()?.bytes.saturating_sub(self.used_bytes))
    }

    /// Whether so little is left that history is shortened, or nothing may be added soon.
    pub fn is_short(&self) -> bool {
        let quota = self.policy.space().map_or(u64::MAX, |quota| quota.bytes);
        self.left_bytes().is_some_and(|left| left <= quota / SPARE)
    }
}

/// What a line takes.
struct LineSpace {
    branch: Option<Name>,
    used: u64,
    appended: u64,
}

/// A group as it is looked at.
struct Subject {
    machine: Name,
    policy: Policy,
    trunk: Arc<Line>,
    branches: Vec<(Name, Arc<Line>)>,
    holds: Holds,
}

impl Retention {
    /// What the history of each group takes. Where a policy has a quota, says what has to go, and lets the group take no
    /// more than that from now on; `bell` is rung when little of it is left. Nothing is known of any while the index lacks part of
    /// the journal. To be called every minute or so.
    pub async fn look_at_space(&self, bell: &Arc<Notify>) -> Result<Vec<GroupSpace>, IndexError> {
        // Bytes are counted when the index has all of a lane.
        if self.indexing.check().is_err() {
            return Ok(Vec::new());
        }
        let subjects = self.space_subjects();
        let mut groups = Vec::new();
        for subject in subjects {
            let index = Arc::clone(&self.surroundings.index);
            let (subject, lines) = offload(move || {
                let lines = measure(&*index, &subject);
                lines.map(|lines| (subject, lines))
            })
            .await?;
            groups.push((subject, lines));
        }
        let needed: u64 = groups.iter().flat_map(|(_, lines)| lines).map(|line| line.used).sum();
        let there = self.reading.segments.size_bytes();
        let share = |bytes: u64| scaled(bytes, there, needed);
        let mut spaces = Vec::new();
        for (subject, mut lines) in groups {
            lines.iter_mut().for_each(|line| line.used = share(line.used));
            spaces.push(self.look_at_group(subject, &lines, bell).await?);
        }
        Ok(spaces)
    }

    fn space_subjects(&self) -> Vec<Subject> {
        let state = self.manifest.state();
        let machines = self.machines.read();
        let shown = Shown::of(&state);
        let mut branches: BTreeMap<MachineId, Vec<(Name, Arc<Line>)>> = BTreeMap::new();
        for entry in state.lines.values() {
            if let (Some(name), Some(line)) = (&entry.branch, machines.lines.get(&entry.id)) {
                branches.entry(entry.machine).or_default().push((name.clone(), Arc::clone(line)));
            }
        }
        let subject = |machine: &crate::manifest::state::Machine| {
            let entry = state.lines.get(&machine.trunk)?;
            let trunk = Arc::clone(machines.lines.get(&machine.trunk)?);
            let mut holds = holds(entry, &shown, &trunk, state.clock.seen);
            // That history begins there is no reason for it to stay there.
            if let Some(start) = &entry.start
                && holds.reasons(start.sequence).eq([Hold::Floor])
            {
                holds.let_go(start.sequence);
            }
            Some(Subject {
                machine: machine.name.clone(),
                policy: self.policy_of(&state, entry.group),
                branches: branches.get(&machine.id).cloned().unwrap_or_default(),
                trunk,
                holds,
            })
        };
        state.machines.values().filter_map(subject).collect()
    }

    async fn look_at_group(
        &self,
        subject: Subject,
        lines: &[LineSpace],
        bell: &Arc<Notify>,
    ) -> Result<GroupSpace, IndexError> {
        let used = lines.iter().map(|line| line.used).sum();
        let of_branch = |line: &LineSpace| Some((line.branch.clone()?, line.used));
        let trunk = Arc::clone(&subject.trunk);
        let mut space = GroupSpace {
            machine: subject.machine.clone(),
            trunk: trunk.id(),
            policy: subject.policy.clone(),
            used_bytes: used,
            branch_bytes: lines.iter().filter_map(of_branch).collect(),
            appended_bytes: lines.iter().map(|line| line.appended).sum(),
            oldest: trunk.points(|points| points.oldest().map(|oldest| oldest.commit_time)),
            begin_at: None,
            held: None,
        };
        let Some(quota) = subject.policy.space() else {
            trunk.lift_allowance();
            return Ok(space);
        };
        let index = Arc::clone(&self.surroundings.index);
        let decision = offload(move || decide(&*index, &subject, &quota, used)).await?;
        let (begin_at, freed) = decision.unwrap_or_default();
        space.begin_at = begin_at;
        let why = self.why_used_up(&space, &quota);
        let left = quota.bytes.saturating_sub(used);
        if left == 0 && (freed == 0 || quota.then == WhenFull::Hold) {
            space.held = Some(why.clone());
        }
        // Also where nothing is shortened: those who write are told before they are refused.
        let mark = quota.bytes / SPARE;
        let allowance =
            trunk.allowance().unwrap_or_else(|| Arc::new(Allowance::new(Arc::clone(bell))));
        // Below the mark the bell would ring for each record; whoever is relieved sets it anew.
        allowance.set(left, if left > mark { mark } else { 0 }, why);
        trunk.set_allowance(allowance);
        Ok(space)
    }

    /// For those who are refused: whose quota, and who keeps what would make room.
    fn why_used_up(&self, space: &GroupSpace, quota: &Quota) -> String {
        let machine = &space.machine;
        let mut text = format!(
            "the quota of {machine} is used up: {} of {} bytes of history",
            space.used_bytes, quota.bytes
        );
        let newest = self.line(space.trunk).and_then(|line| line.points(|points| points.latest()));
        let below = newest.map(|newest| newest.sequence).unwrap_or_default();
        let holders = self.holders_below(space.trunk, below);
        let named: Vec<String> = holders.iter().take(NAMED).map(Holder::to_string).collect();
        let branches = space.branch_bytes.iter().filter(|(_, bytes)| *bytes > 0);
        let takes = branches.map(|(name, bytes)| format!("branch {name} takes {bytes} bytes"));
        let held: Vec<String> = named.into_iter().chain(takes).collect();
        if !held.is_empty() {
            let _ = write!(text, "; {}", held.join(", "));
        }
        let _ = match quota.then {
            _ if space.begin_at.is_some() => write!(text, "; older history is being given up"),
            WhenFull::Hold => write!(text, "; its policy says to hold rather than to shorten"),
            WhenFull::Shorten => write!(text, "; nothing that may go makes room"),
        };
        text
    }
}

/// `bytes` in proportion, where what is there is less than what is needed of it.
fn scaled(bytes: u64, there: u64, needed: u64) -> u64 {
    if there >= needed {
        return bytes;
    }
    let scaled = u128::from(bytes) * u128::from(there) / u128::from(needed);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// What the lines of a group take. Blocks.
fn measure(index: &dyn IndexStore, subject: &Subject) -> Result<Vec<LineSpace>, IndexError> {
    let trunk = (None, Arc::clone(&subject.trunk));
    let branches =
        subject.branches.iter().map(|(name, line)| (Some(name.clone()), Arc::clone(line)));
    let measured = std::iter::once(trunk).chain(branches).map(|(branch, line)| {
        let start = line.start().map(|start| start.sequence).unwrap_or_default();
        let used = used_between(index, &line, start, Sequence::MAX)?;
        let mut appended = 0;
        for stretch in line.ancestry().stretches {
            let before = bytes_at(index, stretch.line, stretch.above)?;
            appended += bytes_at(index, stretch.line, stretch.up_to)?.saturating_sub(before);
        }
        Ok(LineSpace { branch, used, appended })
    });
    measured.collect()
}

/// Bytes that the records of a history above `after` and up to `through` took, whatever they were written as. Blocks.
fn used_between(
    index: &dyn IndexStore,
    line: &Line,
    after: Sequence,
    through: Sequence,
) -> Result<u64, IndexError> {
    let mut bytes = 0;
    for stretch in line.ancestry().down_from(through).filter(|stretch| stretch.up_to > after) {
        let after = after.max(stretch.above);
        bytes += bytes_between(index, stretch.line, after, stretch.up_to)?;
    }
    Ok(bytes)
}

/// Where history has to begin for the quota, and what that frees; nothing if it fits, or if nothing may go. Blocks.
fn decide(
    index: &dyn IndexStore,
    subject: &Subject,
    quota: &Quota,
    used: u64,
) -> Result<Option<(Option<Sequence>, u64)>, IndexError> {
    let Some(newest) = subject.trunk.points(|points| points.latest()) else { return Ok(None) };
    let mark = match quota.then {
        WhenFull::Hold => return Ok(None),
        WhenFull::Shorten => quota.bytes - quota.bytes / SPARE,
    };
    let over = used.saturating_sub(mark);
    if over == 0 {
        return Ok(None);
    }
    let end = Timestamp::from_nanoseconds(u64::MAX);
    let heads: Vec<PointHead> = subject.trunk.points(|points| {
        let known = |head: &PointHead| head.sequence <= newest.sequence;
        let heads = points.heads(Timestamp::default(), end).take_while(known);
        heads.take(WEIGHED_AT_ONCE).collect()
    });
    let mut points: Vec<Weighed> = Vec::new();
    let mut from = subject.trunk.start().map(|start| start.sequence).unwrap_or_default();
    let mut weighed = 0;
    for pair in heads.windows(2) {
        let [point, next] = pair else { continue };
        // Space comes back up to where the first point is that stays.
        // All of one kind, for this: a fuzzy point frees nothing before those before it have gone.
        let point = PointHead { kind: newest.kind, ..*point };
        if subject.holds.holds(point.sequence) || weighed >= over {
            points.push(Weighed { point, bytes: 0 });
            break;
        }
        let bytes = used_between(index, &subject.trunk, from, next.sequence)?;
        points.push(Weighed { point, bytes });
        weighed += bytes;
        from = next.sequence;
    }
    let last = heads.last().map(|last| Weighed { point: *last, bytes: 0 });
    points.extend(
        last.filter(|last| {
            points.last().is_none_or(|one| one.point.sequence < last.point.sequence)
        }),
    );
    let quota = Quota { bytes: mark, floor_bytes: quota.floor_bytes.min(mark), ..*quota };
    let (drop, freed) = match relieve(&points, &subject.holds, &quota, used) {
        Relief::Fits => return Ok(None),
        Relief::Shorten { drop, frees } => (drop, frees),
        Relief::Hold { drop, missing, .. } => (drop, (used - mark).saturating_sub(missing)),
    };
    let goes = |at: Sequence| drop.binary_search(&at).is_ok();
    let first = heads.iter().find(|head| !goes(head.sequence)).map(|head| head.sequence);
    Ok(Some((first.filter(|_| !drop.is_empty()), freed)))
}

#[cfg(test)]
mod tests;
