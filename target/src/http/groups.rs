//! The part of the control API about groups: their machines, barriers, common points, and branches of all of them.

use super::answers::branch as branch_of;
use super::control::{Answer, Asked, Body};
use super::messages::{
    BarriersGiven, CommonPoint, CommonPoints, Group, GroupAdd, GroupBranch, GroupBranched,
    GroupMachine, GroupMark, GroupMarked, GroupMember, GroupSet, Groups, Nothing,
};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use landfall_disks::uring::sleep;
use landfall_retention::groups::{
    BarrierMade, CommonMoment, DEFAULT_BARRIERS, GroupError, GroupStatus, Lateness,
};
use landfall_retention::manifest::groups::Barriers;
use landfall_retention::name::{Label, MomentName, Name};
use landfall_retention::point::PointKind;
use serde::Deserialize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Common points in an answer, unless fewer are asked for.
const POINTS_SHOWN: usize = 1000;

/// Everything under `/v1/groups`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new()
        .route("/v1/groups", get(list).post(add).delete(remove))
        .route("/v1/groups/{name}", get(show))
        .route("/v1/groups/{name}/points", get(points))
        .route("/v1/groups/set", post(set))
        .route("/v1/groups/join", post(join))
        .route("/v1/groups/leave", post(leave))
        .route("/v1/groups/mark", post(mark))
        .route("/v1/groups/branch", post(branch))
}

async fn list(State(target): State<Arc<Target>>) -> Answer<Groups> {
    let groups = target.retention.groups();
    let groups = groups.iter().map(|status| target.group_answer(status)).collect();
    Ok(Json(Groups { groups }))
}

async fn show(State(target): State<Arc<Target>>, Path(name): Path<String>) -> Answer<Group> {
    Ok(Json(target.group_named(&Name::parse(&name)?)?))
}

async fn add(State(target): State<Arc<Target>>, Body(wanted): Body<GroupAdd>) -> Answer<Group> {
    let name = Name::parse(&wanted.name)?;
    let machines = wanted.machines.iter().map(|machine| Name::parse(machine));
    let machines = machines.collect::<Result<Vec<_>, _>>()?;
    // Nothing is made where one of them is missing or in a group.
    for machine in &machines {
        target.machine_named(machine)?;
        if let Some(group) = target.retention.group_of_machine(machine) {
            let machine = machine.clone();
            return Err(GroupError::InGroup { machine, group }.into());
        }
    }
    let barriers = given(wanted.barriers, DEFAULT_BARRIERS);
    let group = name.clone();
    target
        .on_core(move |retention| async move {
            retention.add_group(&group, barriers).await?;
            for machine in &machines {
                retention.join_group(&group, machine).await?;
            }
            Ok::<_, GroupError>(())
        })
        .await?;
    tracing::info!(group = %name, machines = wanted.machines.join(" "), "group added");
    Ok(Json(target.group_named(&name)?))
}

async fn remove(State(target): State<Arc<Target>>, Asked(name): Asked) -> Answer<Nothing> {
    let name = Name::parse(&name)?;
    let group = name.clone();
    target.on_core(move |retention| async move { retention.remove_group(&group).await }).await?;
    tracing::info!(group = %name, "group removed");
    Ok(Json(Nothing {}))
}

async fn set(State(target): State<Arc<Target>>, Body(wanted): Body<GroupSet>) -> Answer<Group> {
    let name = Name::parse(&wanted.name)?;
    let barriers = given(wanted.barriers, target.retention.group(&name)?.barriers);
    let group = name.clone();
    target
        .on_core(move |retention| async move { retention.set_barriers(&group, barriers).await })
        .await?;
    Ok(Json(target.group_named(&name)?))
}

async fn join(State(target): State<Arc<Target>>, Body(wanted): Body<GroupMember>) -> Answer<Group> {
    let (group, machine) = (Name::parse(&wanted.name)?, Name::parse(&wanted.machine)?);
    let name = group.clone();
    target
        .on_core(move |retention| async move { retention.join_group(&group, &machine).await })
        .await?;
    tracing::info!(group = %name, machine = wanted.machine, "machine joined a group");
    Ok(Json(target.group_named(&name)?))
}

async fn leave(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<GroupMember>,
) -> Answer<Group> {
    let (group, machine) = (Name::parse(&wanted.name)?, Name::parse(&wanted.machine)?);
    let name = group.clone();
    target
        .on_core(move |retention| async move { retention.leave_group(&group, &machine).await })
        .await?;
    tracing::info!(group = %name, machine = wanted.machine, "machine left a group");
    Ok(Json(target.group_named(&name)?))
}

/// `?limit=`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    limit: Option<usize>,
}

async fn points(
    State(target): State<Arc<Target>>,
    Path(name): Path<String>,
    asked: Result<Query<Shown>, QueryRejection>,
) -> Answer<CommonPoints> {
    let Query(asked) = asked.map_err(|error| Problem::bad(error.body_text()))?;
    let name = Name::parse(&name)?;
    let limit = asked.limit.unwrap_or(POINTS_SHOWN).min(POINTS_SHOWN);
    let total = target.retention.group(&name)?.points as u64;
    let points = target.retention.common_points(&name, limit)?;
    let points = points.iter().map(|point| common_point(&name, point)).collect();
    Ok(Json(CommonPoints { points, total }))
}

async fn mark(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<GroupMark>,
) -> Answer<GroupMarked> {
    let name = Name::parse(&wanted.name)?;
    let kind =
        PointKind::of_word(&wanted.kind).filter(|kind| kind.is_consistent()).ok_or_else(|| {
            Problem::bad(format!("{:?}: a common point is app or crash", wanted.kind))
        })?;
    let label = wanted.label.as_deref().map(Label::parse).transpose()?;
    let moments = wanted.moments.iter().map(|moment| MomentName::parse(moment));
    let moments = moments.collect::<Result<Vec<_>, _>>()?;
    let group = name.clone();
    let made = target
        .on_core(move |retention| async move {
            if moments.is_empty() {
                let mut patience = pin!(sleep(retention.group(&group)?.barriers.patience));
                return retention.make_barrier(&group, kind, label, patience.as_mut()).await;
            }
            let point = retention.declare_common(&group, kind, label, &moments).await?;
            Ok(BarrierMade { point, unchanged: false, held: Duration::ZERO })
        })
        .await?;
    let point = common_point(&name, &target.retention.common_moment(&made.point));
    tracing::info!(group = %name, number = point.number, moments = point.moments.join(" "),
        "common point");
    let held_us = u64::try_from(made.held.as_micros()).unwrap_or(u64::MAX);
    Ok(Json(GroupMarked { point, unchanged: made.unchanged, held_us }))
}

async fn branch(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<GroupBranch>,
) -> Answer<GroupBranched> {
    let origin = MomentName::parse(&wanted.origin)?;
    if origin.branch.is_some() || origin.disk.is_some() {
        return Err(Problem::bad(format!(
            "{:?} is not a group at a moment; name it GROUP or GROUP@WHEN",
            wanted.origin
        )));
    }
    let (group, when, name) = (origin.machine, origin.when, Name::parse(&wanted.name)?);
    let of = group.clone();
    let made = target
        .on_core(move |retention| async move { retention.branch_group(&of, &when, &name).await })
        .await?;
    let branches: Vec<_> =
        made.branches.iter().map(|(machine, status)| branch_of(machine, status)).collect();
    let names: Vec<&str> = branches.iter().map(|branch| branch.name.as_str()).collect();
    tracing::info!(group = %group, branches = names.join(" "), "branches of a group added");
    let point = common_point(&group, &target.retention.common_moment(&made.point));
    Ok(Json(GroupBranched { point, branches }))
}

/// What was given, and what was before.
fn given(given: BarriersGiven, before: Barriers) -> Barriers {
    let every = match given.every_ms.map(Duration::from_millis) {
        None => before.every,
        Some(every) => Some(every).filter(|every| !every.is_zero()),
    };
    let patience = given.patience_ms.map_or(before.patience, Duration::from_millis);
    Barriers { every, patience }
}

impl Target {
    fn group_named(&self, name: &Name) -> Result<Group, Problem> {
        Ok(self.group_answer(&self.retention.group(name)?))
    }

    fn group_answer(&self, status: &GroupStatus) -> Group {
        let name = &status.name;
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let point = |moment: &Option<CommonMoment>| {
            moment.as_ref().map(|moment| common_point(name, moment))
        };
        let machine = |(machine, late): &(Name, Option<Lateness>)| {
            let late = late.as_ref().map(ToString::to_string);
            GroupMachine { machine: machine.to_string(), late }
        };
        Group {
            name: name.to_string(),
            machines: status.members.iter().map(machine).collect(),
            every_ms: status.barriers.every.map_or(0, milliseconds),
            patience_ms: milliseconds(status.barriers.patience),
            points: status.points as u64,
            oldest: point(&status.oldest),
            newest: point(&status.newest),
            holds_until: status.holds_until.map(|until| until.to_string()),
            age_seconds: self.barriers.age(status).map(|age| age.as_secs()),
            error: self.barriers.failure(name),
        }
    }
}

fn common_point(group: &Name, moment: &CommonMoment) -> CommonPoint {
    let CommonMoment { point, moments } = moment;
    CommonPoint {
        name: format!("{group}@seq:{}", point.number),
        number: point.number,
        time: point.time.to_string(),
        kind: point.kind.word().to_owned(),
        label: point.label.as_ref().map(|label| label.as_str().to_owned()),
        moments: moments.iter().map(ToString::to_string).collect(),
    }
}
