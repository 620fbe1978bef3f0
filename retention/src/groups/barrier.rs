//! Barriers: a moment that the machines of a group have in common.
//!
//! ```text
//!   batches of web ──▶│ held ─────── mark │──▶        each member's batches wait from when it is reached
//!   batches of db ───────▶│ held ────── mark │──▶     until all are held and its mark is in its lane
//!                         └ all are held: from here on marks
//!                                    marks durable ─▶ CommonPointMade
//! ```
//!
//! **Why it is one moment.** Each member's source is synchronous: it tells whoever wrote that the write is done only after it
//! was acknowledged here. No mark is made before all members are held, and each is held until its own mark is in its lane. So
//! whoever made a write because of another one that lies behind a mark could not come in front of one, whatever the machine;
//! and what was acknowledged before lies in front of all. It need not wait until the marks are durable: what is queued in
//! front of them comes before them.
//!
//! Nobody waits longer than the barrier's patience: a member that is not there, is not in order, is not synchronous, or does
//! not let go of its last batch in time fails it, by name. Marks that were made then stay points of their machines.
//! A group whose sources cannot be held here has its points declared by whoever held them ([`Retention::declare_common`]).

use super::{GroupError, group_of, members_of, unknown};
use crate::ids::{GroupId, LineId, Sequence};
use crate::journal::draft::{AppendError, Committed, Draft, DraftOrigin};
use crate::journal::format::RecordKind;
use crate::line::Line;
use crate::manifest::groups::{CommonMember, CommonPoint};
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{Machine, ManifestState};
use crate::name::{Label, MomentName, Name};
use crate::point::PointKind;
use crate::retention::Retention;
use crate::stream::{Order, StreamSlot, WriteOrder};
use crate::time::Timestamp;
use futures_util::future::{Either, FutureExt, select};
use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

/// What a barrier came to.
#[derive(Clone, Debug)]
pub struct BarrierMade {
    /// The common point.
    pub point: Arc<CommonPoint>,
    /// Whether it was there: nothing was written since, so no other was made.
    pub unchanged: bool,
    /// For how long batches were held back, from the first member reached on.
    pub held: Duration,
}

/// A member that failed a barrier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LateMember {
    /// Which.
    pub machine: Name,
    /// Why.
    pub why: Lateness,
}

/// Why no barrier can be made of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Lateness {
    /// No source feeds it.
    NotFed,
    /// Its source does not deliver in order.
    NotInOrder,
    /// Its source delivers in order, and tells its writers that they are done before it is told so here.
    Asynchronous,
    /// It did not come to the barrier in time: a batch of it was still on its way into its lane.
    Busy,
    /// Its source came by a new connection while the barrier was made.
    Reconnected,
    /// Its mark did not become durable in time.
    Slow,
    /// Its mark was refused.
    Refused(AppendError),
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFed => f.write_str("is fed by no source"),
            Self::NotInOrder => f.write_str("is fed by a source that does not deliver in order"),
            Self::Asynchronous => f.write_str("is fed by a source that is not synchronous"),
            Self::Busy => f.write_str("did not come to the barrier in time"),
            Self::Reconnected => f.write_str("was connected anew meanwhile"),
            Self::Slow => f.write_str("did not make its mark durable in time"),
            Self::Refused(why) => write!(f, "refused the mark: {why}"),
        }
    }
}

/// A machine that a barrier is made of.
struct Member {
    name: Name,
    line: Arc<Line>,
    order: Arc<Mutex<Order>>,
}

/// A member whose batches wait.
struct Held {
    name: Name,
    line: Arc<Line>,
    order: OwnedMutexGuard<Order>,
}

/// What barriers of a group share.
#[derive(Default)]
pub(crate) struct OfGroup {
    /// Held by the one barrier of the group that there may be.
    turn: Mutex<()>,
    /// When one last found what the newest common point is.
    holds_until: parking_lot::Mutex<Option<Timestamp>>,
}

impl OfGroup {
    /// When a barrier last found that the newest common point is the state of all members.
    pub(crate) fn holds_until(&self) -> Option<Timestamp> {
        *self.holds_until.lock()
    }
}

/// The end of a barrier's patience.
type Patience<'a> = Pin<&'a mut dyn Future<Output = ()>>;

impl Retention {
    /// Makes a common point of a group by holding back what its machines are fed. `patience` ends when nobody is to be held
    /// back any longer.
    pub async fn make_barrier(
        &self,
        group: &Name,
        kind: PointKind,
        label: Option<Label>,
        mut patience: Patience<'_>,
    ) -> Result<BarrierMade, GroupError> {
        if !kind.is_consistent() {
            return Err(GroupError::Fuzzy);
        }
        let (id, members) = self.barrier_members(group)?;
        let of_group = Arc::clone(self.barriers.lock().entry(id).or_default());
        // The points of a group are numbered as they follow each other.
        let turn = select(Box::pin(of_group.turn.lock()), patience.as_mut()).await;
        let Either::Left((_turn, _)) = turn else {
            return Err(GroupError::BarrierUnderWay { group: group.clone() });
        };
        // A disk that grows or goes does so between two points.
        let lines: Vec<_> =
            members.iter().map(|one| (one.name.clone(), Arc::clone(&one.line))).collect();
        let mut shapes = Vec::new();
        for (name, line) in &lines {
            match select(Box::pin(line.shared().shape.read()), patience.as_mut()).await {
                Either::Left((shape, _)) => shapes.push(shape),
                Either::Right(_) => return Err(late(group, name, Lateness::Busy)),
            }
        }
        let begun = self.surroundings.clock.uptime();
        let held = hold(group, members, &mut patience).await?;
        let unchanged = self.unchanged(id, &held).filter(|point| point.kind == kind);
        if let Some(point) = unchanged.filter(|_| label.is_none()) {
            *of_group.holds_until.lock() = Some(self.surroundings.clock.now());
            let held = self.surroundings.clock.uptime().saturating_sub(begun);
            return Ok(BarrierMade { point, unchanged: true, held });
        }
        let time = self.surroundings.clock.now();
        let mut marks = Vec::new();
        for mut member in held {
            let mark = self.send_mark(&member.line, kind, label.clone());
            let answer = match select(Box::pin(mark), patience.as_mut()).await {
                Either::Left((Ok(answer), _)) => answer,
                Either::Left((Err(why), _)) => {
                    return Err(late(group, &member.name, Lateness::Refused(why)));
                }
                Either::Right(_) => return Err(late(group, &member.name, Lateness::Busy)),
            };
            if !self.is_still_fed(&member) {
                return Err(late(group, &member.name, Lateness::Reconnected));
            }
            member.order.since_barrier = false;
            marks.push((member.name, member.line, answer));
        }
        let held = self.surroundings.clock.uptime().saturating_sub(begun);
        let moments = decided(group, marks, patience).await?;
        let point = self.record_common(id, group, (kind, label, time), moments).await?;
        *of_group.holds_until.lock() = Some(time);
        Ok(BarrierMade { point, unchanged: false, held })
    }

    /// Makes a common point of moments that somebody knows to be one: whoever held the sources, or stopped them. Each machine
    /// of the group is named once.
    pub async fn declare_common(
        &self,
        group: &Name,
        kind: PointKind,
        label: Option<Label>,
        moments: &[MomentName],
    ) -> Result<Arc<CommonPoint>, GroupError> {
        if !kind.is_consistent() {
            return Err(GroupError::Fuzzy);
        }
        let (id, members): (GroupId, BTreeSet<Name>) = {
            let state = self.manifest.state();
            let entry = group_of(&state, group)?;
            let members = members_of(&state, entry.id).into_iter();
            (entry.id, members.map(|machine| machine.name.clone()).collect())
        };
        let named: BTreeSet<Name> = moments.iter().map(|moment| moment.machine.clone()).collect();
        if named != members || named.len() != moments.len() || named.len() < 2 {
            let (group, members) = (group.clone(), members.into_iter().collect());
            return Err(GroupError::NotEachOnce { group, members });
        }
        let (mut found, mut time) = (Vec::new(), None);
        for name in moments {
            if name.disk.is_some() || name.branch.is_some() {
                return Err(GroupError::NotAMachine { name: name.clone() });
            }
            let moment = self.resolve(name).await?;
            if moment.kind.is_some_and(|kind| !kind.is_consistent()) {
                return Err(GroupError::FuzzyMoment { name: moment.absolute_name(None) });
            }
            time = time.max(Some(moment.commit_time));
            found.push((moment.line, moment.sequence));
        }
        let time = time.unwrap_or_default();
        self.record_common(id, group, (kind, label, time), found).await
    }

    async fn record_common(
        &self,
        id: GroupId,
        group: &Name,
        (kind, label, time): (PointKind, Option<Label>, Timestamp),
        moments: Vec<(LineId, Sequence)>,
    ) -> Result<Arc<CommonPoint>, GroupError> {
        let mut members: Vec<CommonMember> =
            moments.into_iter().map(|(line, sequence)| CommonMember { line, sequence }).collect();
        members.sort_unstable();
        self.manifest
            .change(|state| {
                let entry = state.groups.get(&id).ok_or_else(|| unknown(state, group))?;
                let number = entry.last + 1;
                let point = Arc::new(CommonPoint { number, time, kind, label, members });
                let made = Arc::clone(&point);
                Ok((vec![ManifestRecord::CommonPointMade { group: id, point }], made))
            })
            .await
    }

    /// The members, if a barrier can be made of each; else everybody of whom it cannot.
    fn barrier_members(&self, group: &Name) -> Result<(GroupId, Vec<Member>), GroupError> {
        let state = self.manifest.state();
        let id = group_of(&state, group)?.id;
        let machines = members_of(&state, id);
        if machines.len() < 2 {
            let members = machines.into_iter().map(|machine| machine.name.clone()).collect();
            return Err(GroupError::Alone { group: group.clone(), members });
        }
        let (mut members, mut late) = (Vec::new(), Vec::new());
        for machine in machines {
            match self.member(&state, machine) {
                Ok(member) => members.push(member),
                Err(why) => late.push(LateMember { machine: machine.name.clone(), why }),
            }
        }
        match late.is_empty() {
            true => Ok((id, members)),
            false => Err(GroupError::Late { group: group.clone(), late }),
        }
    }

    /// Whether nobody else feeds a member by now: whoever took it over was not held back.
    fn is_still_fed(&self, member: &Held) -> bool {
        let machines = self.machines.read();
        let slot = machines.streams.get(&member.line.machine());
        let holder = slot.and_then(|slot| slot.inner.lock().holder.clone());
        let of_held = OwnedMutexGuard::mutex(&member.order);
        holder.is_some_and(|holder| Arc::ptr_eq(&holder.order, of_held))
    }

    fn member(&self, state: &ManifestState, machine: &Machine) -> Result<Member, Lateness> {
        let machines = self.machines.read();
        let slot: Option<&Arc<StreamSlot>> = machines.streams.get(&machine.id);
        let holder = slot.and_then(|slot| slot.inner.lock().holder.clone());
        let order = holder.ok_or(Lateness::NotFed)?.order;
        let line = machines.lines.get(&machine.trunk).cloned().ok_or(Lateness::NotFed)?;
        let entry = state.lines.get(&machine.trunk);
        if entry.is_none_or(|entry| entry.stream_entry.ordered.open_since().is_none()) {
            return Err(Lateness::NotInOrder);
        }
        Ok(Member { name: machine.name.clone(), line, order })
    }

    /// Why no barrier can be made of a machine now, as far as can be told without holding it.
    pub(super) fn lateness(&self, state: &ManifestState, machine: &Machine) -> Option<Lateness> {
        let member = match self.member(state, machine) {
            Ok(member) => member,
            Err(why) => return Some(why),
        };
        // Whoever has it locked sends a batch.
        let order = member.order.try_lock().ok()?;
        not_synchronous(&order)
    }

    /// The newest common point, if no member has taken anything since.
    fn unchanged(&self, group: GroupId, held: &[Held]) -> Option<Arc<CommonPoint>> {
        let state = self.manifest.state();
        let newest = state.groups.get(&group)?.newest()?;
        let still = |member: &Held| {
            let (line, sequence) = (member.line.id(), member.line.tail().sequence);
            !member.order.since_barrier && newest.members.contains(&CommonMember { line, sequence })
        };
        let same = newest.members.len() == held.len() && held.iter().all(still);
        same.then(|| Arc::clone(newest))
    }

    /// Puts a mark behind what a line has taken.
    async fn send_mark(
        &self,
        line: &Arc<Line>,
        kind: PointKind,
        label: Option<Label>,
    ) -> Result<impl Future<Output = Result<Committed, AppendError>> + use<>, AppendError> {
        let (reply, answer) = oneshot::channel();
        let draft = Draft {
            line: Arc::clone(line),
            origin: DraftOrigin::Mark,
            kind: RecordKind::Mark { kind, label },
            boundary: true,
            source_time: self.surroundings.clock.now(),
            extents: Vec::new(),
            ticket: None,
            reply,
        };
        self.lane(line.lane()).enqueue(draft, answer).await
    }
}

/// Holds back the batches of all members.
async fn hold(
    group: &Name,
    members: Vec<Member>,
    patience: &mut Patience<'_>,
) -> Result<Vec<Held>, GroupError> {
    let mut held = Vec::with_capacity(members.len());
    for Member { name, line, order } in members {
        let order = match select(Box::pin(order.lock_owned()), patience.as_mut()).await {
            Either::Left((order, _)) => order,
            Either::Right(_) => return Err(late(group, &name, Lateness::Busy)),
        };
        if let Some(why) = not_synchronous(&order) {
            return Err(late(group, &name, why));
        }
        held.push(Held { name, line, order });
    }
    Ok(held)
}

/// Where the marks are, once they are durable; who is late if patience ends before.
async fn decided<F>(
    group: &Name,
    marks: Vec<(Name, Arc<Line>, F)>,
    mut patience: Patience<'_>,
) -> Result<Vec<(LineId, Sequence)>, GroupError>
where
    F: Future<Output = Result<Committed, AppendError>>,
{
    let (mut moments, mut late, mut over) = (Vec::new(), Vec::new(), false);
    for (machine, line, answer) in marks {
        let mut answer = Box::pin(answer);
        let decided = match over {
            // Those that are there are not late, whoever they had to wait for.
            true => answer.now_or_never(),
            false => match select(answer.as_mut(), patience.as_mut()).await {
                Either::Left((decided, _)) => Some(decided),
                Either::Right(_) => {
                    over = true;
                    None
                }
            },
        };
        match decided {
            Some(Ok(committed)) => moments.push((line.id(), committed.sequence)),
            Some(Err(why)) => late.push(LateMember { machine, why: Lateness::Refused(why) }),
            None => late.push(LateMember { machine, why: Lateness::Slow }),
        }
    }
    match late.is_empty() {
        true => Ok(moments),
        false => Err(GroupError::Late { group: group.clone(), late }),
    }
}

fn not_synchronous(order: &Order) -> Option<Lateness> {
    match order.in_order {
        Some(WriteOrder::Synchronous) => None,
        Some(WriteOrder::Asynchronous) => Some(Lateness::Asynchronous),
        None => Some(Lateness::NotInOrder),
    }
}

fn late(group: &Name, machine: &Name, why: Lateness) -> GroupError {
    let late = vec![LateMember { machine: machine.clone(), why }];
    GroupError::Late { group: group.clone(), late }
}
