//! The part of the control API that makes a branch the trunk of its machine.

use super::answers::{branch as branch_of, line_name};
use super::control::{Answer, Body, read_line};
use super::messages::{BranchPromote, BranchPromoted};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use landfall_retention::name::Name;
use landfall_retention::{ChangeError, Promoted, Retention};
use std::sync::Arc;

/// How often another name for the old trunk is tried when somebody was quicker.
const NAME_TRIES: u32 = 10_000;

pub(super) fn router() -> Router<Arc<Target>> {
    Router::new().route("/v1/branches/promote", post(promote))
}

async fn promote(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<BranchPromote>,
) -> Answer<BranchPromoted> {
    let (machine, branch) = read_line(&wanted.name)?;
    let Some(branch) = branch else {
        return Err(Problem::bad(format!(
            "{machine} is a machine; name a branch as {machine}~BRANCH, see `landfall branch list`"
        )));
    };
    let keep = wanted.keep.as_deref().map(Name::parse).transpose()?;
    let (of, name) = (machine.clone(), branch.clone());
    let promoted = target
        .on_core(move |retention| async move { promote_to(&retention, &of, &name, keep).await })
        .await?;
    let old = branch_of(&machine, &promoted.old);
    let was = line_name(&machine, Some(&branch));
    tracing::warn!(machine = %machine, branch = was, head = promoted.head.number(), old = old.name,
        "branch promoted: it is the trunk, and what the old trunk had is kept as a branch");
    Ok(Json(BranchPromoted {
        machine: machine.to_string(),
        branch: branch.to_string(),
        origin_sequence: promoted.origin.number(),
        head: promoted.head.number(),
        generation: promoted.generation.number(),
        old,
    }))
}

/// Promotes a branch; the old trunk is called `keep`, or gets the first free name.
async fn promote_to(
    retention: &Retention,
    machine: &Name,
    branch: &Name,
    keep: Option<Name>,
) -> Result<Promoted, ChangeError> {
    if let Some(keep) = keep {
        return retention.promote_branch(machine, branch, &keep).await;
    }
    let mut number = 1;
    loop {
        let keep = Name::parse(&format!("old-{number}")).expect("a valid name");
        match retention.promote_branch(machine, branch, &keep).await {
            Err(ChangeError::Exists { .. }) if number < NAME_TRIES => number += 1,
            done => return done,
        }
    }
}
