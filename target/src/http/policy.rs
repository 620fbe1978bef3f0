//! The part of the control API that is about how long points are kept: policies, their simulation, the clock.

use super::control::{Answer, Asked, Body, read_line};
use super::messages::{
    GroupConcerned, Kept, KeptBy, Nothing, Policy, PolicyAsked, PolicySet, Simulation,
    SimulationSpace, Thinned,
};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use landfall_retention as retention;
use landfall_retention::manifest::ManifestError;
use landfall_retention::name::Name;
use landfall_retention::policy;
use std::sync::Arc;

/// Everything under `/v1/policy` and `/v1/clock`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new()
        .route("/v1/policy", get(show).post(set))
        .route("/v1/policy/simulate", get(simulate))
        .route("/v1/clock/acknowledge", post(acknowledge))
}

/// A machine, whose group the policy is of.
fn read_machine(text: &str) -> Result<Name, Problem> {
    match read_line(text)? {
        (machine, None) => Ok(machine),
        (machine, Some(_)) => Err(Problem::bad(format!(
            "{text:?}: a policy is of a machine and all its branches; name {machine}"
        ))),
    }
}

fn read_policy(text: &str) -> Result<policy::Policy, Problem> {
    text.parse().map_err(|error: policy::PolicyError| Problem::bad(error.to_string()))
}

async fn show(State(target): State<Arc<Target>>, Asked(name): Asked) -> Answer<Policy> {
    let machine = read_machine(&name)?;
    Ok(Json(target.policy(&machine)?))
}

impl Target {
    fn policy(&self, machine: &Name) -> Result<Policy, Problem> {
        let retention::PolicyStatus { policy, own } = self.retention.policy(machine)?;
        let group = self.retention.group_of_machine(machine);
        Ok(Policy {
            machine: machine.to_string(),
            policy: policy.to_string(),
            own,
            group: group.and_then(|group| self.group_concerned(&group)),
            rpo_seconds: self.config.policy.rpo.as_secs(),
            app_every_seconds: self.config.policy.app_every.as_secs(),
        })
    }

    /// Nothing if it was removed meanwhile.
    fn group_concerned(&self, group: &Name) -> Option<GroupConcerned> {
        let members = self.retention.group(group).ok()?.members;
        let machines = members.iter().map(|(machine, _)| machine.to_string()).collect();
        Some(GroupConcerned { name: group.to_string(), machines })
    }
}

async fn set(State(target): State<Arc<Target>>, Body(wanted): Body<PolicySet>) -> Answer<Thinned> {
    let machine = read_machine(&wanted.name)?;
    let policy = read_policy(&wanted.policy)?;
    let (of, set) = (machine.clone(), policy.clone());
    target.on_core(move |retention| async move { retention.set_policy(&of, set).await }).await?;
    tracing::info!(%machine, %policy, "policy set");
    let (retention, thinner) = (Arc::clone(&target.retention), Arc::clone(&target.thinner));
    let report = target.core.run(move || async move { thinner.pass(&retention).await }).await?;
    let own = report.lines.iter().filter(|line| line.machine == machine);
    Ok(Json(Thinned {
        policy: target.policy(&machine)?,
        dropped: own.map(|line| line.decision.dropped.points).sum(),
        suspended: report.suspended.is_some(),
    }))
}

async fn simulate(
    State(target): State<Arc<Target>>,
    asked: Result<Query<PolicyAsked>, QueryRejection>,
) -> Answer<Simulation> {
    let Query(asked) = asked.map_err(|error| Problem::bad(error.body_text()))?;
    let machine = read_machine(&asked.name)?;
    let policy = match &asked.policy {
        None => target.retention.policy(&machine)?.policy,
        Some(text) => read_policy(text)?,
    };
    let of = machine.clone();
    let simulated = target
        .on_core(move |retention| async move { retention.simulate(&of, policy).await })
        .await?;
    Ok(Json(in_words(&machine, &simulated)))
}

fn in_words(machine: &Name, simulated: &retention::Simulation) -> Simulation {
    let retention::Simulation { policy, decision, space, .. } = simulated;
    let kept = |tally: &policy::KeepTally| Kept {
        points: tally.points,
        oldest: tally.oldest.map(|oldest| oldest.to_string()),
    };
    let window = match policy.keep_all() {
        None => policy::Policy::new(None, Vec::new(), None),
        some => policy::Policy::new(some, Vec::new(), None),
    };
    let window = window.expect("the window of a policy is one").to_string();
    let mut by = vec![KeptBy { rule: window, kept: kept(&decision.window) }];
    for (rule, tally) in policy.rules().iter().zip(&decision.rules) {
        by.push(KeptBy { rule: rule.to_string(), kept: kept(tally) });
    }
    by.push(KeptBy { rule: "held".to_owned(), kept: kept(&decision.held) });
    Simulation {
        machine: machine.to_string(),
        policy: policy.to_string(),
        recorded: Kept {
            points: simulated.points,
            oldest: simulated.oldest.map(|oldest| oldest.to_string()),
        },
        kept: kept(&decision.kept),
        by,
        dropped: decision.dropped.points,
        space: SimulationSpace {
            needed_bytes: space.needed_bytes,
            recorded_bytes: space.recorded_bytes,
            entries: space.entries,
            complete: space.complete,
        },
        reach_seconds: policy.reach().map(|reach| reach.as_secs()),
        quota_bytes: policy.space().map(|quota| quota.bytes),
    }
}

async fn acknowledge(
    State(target): State<Arc<Target>>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<Nothing> {
    let time =
        target.on_core(|retention| async move { retention.acknowledge_clock().await }).await?;
    tracing::info!(%time, "the clock was acknowledged");
    Ok(Json(Nothing {}))
}

impl From<ManifestError> for Problem {
    fn from(error: ManifestError) -> Self {
        Self::failed(error.to_string())
    }
}
