//! Common points by name, and branches of all machines of a group at one of them.

use super::{GroupError, group_of};
use crate::change::{ChangeError, check_start};
use crate::ids::LineId;
use crate::line::{Line, LineState};
use crate::manifest::groups::{CommonPoint, GroupEntry};
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::ManifestState;
use crate::moment::Moment;
use crate::name::{MomentName, Name, When};
use crate::point::PointKind;
use crate::retention::Retention;
use crate::status::BranchStatus;
use crate::time::Timestamp;
use std::sync::Arc;

/// A common point, and what it is called on each machine.
#[derive(Clone, Debug)]
pub struct CommonMoment {
    /// The point.
    pub point: Arc<CommonPoint>,
    /// The moment of each of its machines, by name.
    pub moments: Vec<MomentName>,
}

/// Branches of the machines of a group at one common point.
#[derive(Clone, Debug)]
pub struct GroupBranch {
    /// Where they start.
    pub point: Arc<CommonPoint>,
    /// Each machine and its branch.
    pub branches: Vec<(Name, BranchStatus)>,
}

impl Retention {
    /// Common points of a group, the newest first, `limit` at most.
    pub fn common_points(
        &self,
        group: &Name,
        limit: usize,
    ) -> Result<Vec<CommonMoment>, GroupError> {
        let state = self.manifest.state();
        let mut points: Vec<_> = group_of(&state, group)?.points.values().collect();
        points.sort_by_key(|point| std::cmp::Reverse(point.age()));
        Ok(points.into_iter().take(limit).map(|point| moment(&state, point)).collect())
    }

    /// What a common point is called on each machine.
    pub fn common_moment(&self, point: &Arc<CommonPoint>) -> CommonMoment {
        moment(&self.manifest.state(), point)
    }

    /// The common point of a group that `when` names; a sequence is its number.
    pub fn common_point(&self, group: &Name, when: &When) -> Result<CommonMoment, GroupError> {
        let state = self.manifest.state();
        let now = self.surroundings.clock.now();
        Ok(moment(&state, choose(group_of(&state, group)?, when, now)?))
    }

    /// Starts a branch of each machine of a common point, all of them or none.
    pub async fn branch_group(
        &self,
        group: &Name,
        when: &When,
        name: &Name,
    ) -> Result<GroupBranch, GroupError> {
        let CommonMoment { point, moments } = self.common_point(group, when)?;
        let mut found = Vec::with_capacity(moments.len());
        for moment in &moments {
            let moment = self.resolve(moment).await?;
            found.push((self.line_of(&moment)?, moment));
        }
        let branches = self.start_branches(&found, name).await?;
        let machines = found.into_iter().map(|(_, moment)| moment.machine);
        Ok(GroupBranch { point, branches: machines.zip(branches).collect() })
    }

    /// Starts a branch at each of these moments, which are of different machines: one record each, all or none.
    pub(crate) async fn start_branches(
        &self,
        moments: &[(Arc<Line>, Moment)],
        name: &Name,
    ) -> Result<Vec<BranchStatus>, ChangeError> {
        let ids = self
            .manifest
            .change(|state| {
                let (mut line, mut records, mut ids) = (state.given.line, Vec::new(), Vec::new());
                for (parent, moment) in moments {
                    if state.branch_named(parent.machine(), name).is_some() {
                        return Err(ChangeError::Exists { what: "branch", name: name.clone() });
                    }
                    check_start(state, moment)?;
                    line = line.next();
                    ids.push(line);
                    records.push(ManifestRecord::BranchStarted {
                        line,
                        name: name.clone(),
                        parent: parent.id(),
                        origin: moment.sequence,
                        origin_time: moment.commit_time,
                    });
                }
                Ok((records, ids))
            })
            .await?;
        Ok(self.show_branches(moments, &ids, name))
    }

    fn show_branches(
        &self,
        moments: &[(Arc<Line>, Moment)],
        ids: &[LineId],
        name: &Name,
    ) -> Vec<BranchStatus> {
        let state = self.manifest.state();
        let mut machines = self.machines.write();
        let show = |((parent, _), id): (&(Arc<Line>, Moment), &LineId)| {
            let line = Arc::new(Line::new(&state.lines[id], Some(parent), LineState::default()));
            machines.lines.insert(*id, Arc::clone(&line));
            BranchStatus::new(name.clone(), &line)
        };
        moments.iter().zip(ids).map(show).collect()
    }
}

/// What the members of a point are called.
pub(super) fn moment(state: &ManifestState, point: &Arc<CommonPoint>) -> CommonMoment {
    let name = |member: &crate::manifest::groups::CommonMember| {
        let line = state.lines.get(&member.line)?;
        let machine = state.machines.get(&line.machine)?.name.clone();
        let when = When::Sequence(member.sequence);
        Some(MomentName { machine, branch: line.branch.clone(), disk: None, when })
    };
    let mut moments: Vec<_> = point.members.iter().filter_map(name).collect();
    moments.sort_by(|a, b| a.machine.cmp(&b.machine));
    CommonMoment { point: Arc::clone(point), moments }
}

/// The common point of a group that `when` names at the time `now`.
fn choose<'a>(
    group: &'a GroupEntry,
    when: &When,
    now: Timestamp,
) -> Result<&'a Arc<CommonPoint>, GroupError> {
    let (Some(newest), Some(oldest)) = (group.newest(), group.oldest()) else {
        return Err(GroupError::NoPoints { group: group.name.clone() });
    };
    let newest_of = |is: &dyn Fn(&CommonPoint) -> bool| {
        group.points.values().filter(|point| is(point)).max_by_key(|point| point.age())
    };
    let found = match when {
        When::Latest => Some(newest),
        When::App => newest_of(&|point| point.kind == PointKind::App),
        When::Tag(label) => newest_of(&|point| point.label.as_ref() == Some(label)),
        When::At(time) => newest_of(&|point| point.time <= *time),
        When::Ago(ago) => newest_of(&|point| point.time <= now.earlier(*ago)),
        When::Sequence(number) => group.points.get(&number.number()),
    };
    found.ok_or_else(|| GroupError::NoSuchPoint {
        group: group.name.clone(),
        when: when.clone(),
        oldest: oldest.time,
        newest: newest.time,
    })
}
