//! The part of the control API about disks that change while history goes on: they grow, join a machine, and leave it.

use super::answers::line_name;
use super::control::{Answer, Asked, Body, new_disk};
use super::messages::{DiskGrow, DiskGrown, DiskJoin, DiskLeft, Machine};
use super::problem::Problem;
use crate::service::Target;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use landfall_retention::name::{MomentName, Name};
use std::sync::Arc;

/// Everything under `/v1/disks`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new().route("/v1/disks", post(add).delete(remove)).route("/v1/disks/grow", post(grow))
}

/// A disk of a machine, or of one of its branches.
fn read_any(text: &str) -> Result<(Name, Option<Name>, Name), Problem> {
    let name = MomentName::parse(text)?;
    match (name.disk, text.contains('@')) {
        (Some(disk), false) => Ok((name.machine, name.branch, disk)),
        _ => Err(Problem::bad(format!("{text:?}: name a disk here, as MACHINE/DISK"))),
    }
}

/// A disk of the trunk of a machine.
fn read_disk(text: &str) -> Result<(Name, Name), Problem> {
    match read_any(text)? {
        (machine, None, disk) => Ok((machine, disk)),
        (_, Some(branch), _) => Err(Problem::bad(format!(
            "{text:?}: disks belong to the machine; branches such as {branch} have those of the moment they start at"
        ))),
    }
}

async fn add(State(target): State<Arc<Target>>, Body(wanted): Body<DiskJoin>) -> Answer<Machine> {
    let machine = Name::parse(&wanted.machine)?;
    target.machine_named(&machine)?;
    let new = new_disk(&target, &machine, &wanted.disk).await?;
    let (disk, of) = (new.name.clone(), machine.clone());
    target.on_core(move |retention| async move { retention.add_disk(&of, new).await }).await?;
    tracing::info!(machine = %machine, disk = %disk, "disk added");
    let status = target.machine_named(&machine)?;
    Ok(Json(target.machine(&status)))
}

async fn grow(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<DiskGrow>,
) -> Answer<DiskGrown> {
    let (machine, branch, disk) = read_any(&wanted.name)?;
    let line = line_name(&machine, branch.as_ref());
    let (name, size_bytes) = (disk.clone(), wanted.size_bytes);
    let grown = target
        .on_core(move |retention| async move {
            match branch {
                None => retention.grow_disk(&machine, &name, size_bytes).await,
                Some(branch) => {
                    retention.grow_branch_disk(&machine, &branch, &name, size_bytes).await
                }
            }
        })
        .await?;
    if grown.from_bytes != grown.to_bytes {
        let (from_bytes, to_bytes) = (grown.from_bytes, grown.to_bytes);
        tracing::info!(line, disk = %disk, from_bytes, to_bytes, "disk grown");
    }
    Ok(Json(DiskGrown {
        name: format!("{line}/{disk}"),
        from_bytes: grown.from_bytes,
        size_bytes: grown.to_bytes,
        point: grown.point.map(|point| format!("{line}@seq:{}", point.sequence)),
    }))
}

async fn remove(State(target): State<Arc<Target>>, Asked(name): Asked) -> Answer<DiskLeft> {
    let (machine, disk) = read_disk(&name)?;
    let (of, one) = (machine.clone(), disk.clone());
    let forgotten = target
        .on_core(move |retention| async move { retention.remove_disk(&of, &one).await })
        .await?;
    tracing::info!(machine = %machine, disk = %disk, forgotten, "disk removed");
    Ok(Json(DiskLeft { name: format!("{machine}/{disk}"), forgotten }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_by_their_machine() {
        let name = |text: &str| Name::parse(text).expect("a name");
        assert_eq!(read_disk("web/os").expect("a disk"), (name("web"), name("os")));
        for wrong in ["web", "web~b/os", "web/os@latest", "web/", ""] {
            assert!(read_disk(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read_any("web/os").expect("a disk"), (name("web"), None, name("os")));
        let of_branch = (name("web"), Some(name("b")), name("os"));
        assert_eq!(read_any("web~b/os").expect("a disk"), of_branch);
        for wrong in ["web", "web~b", "web~b/os@latest", ""] {
            assert!(read_any(wrong).is_err(), "{wrong}");
        }
    }
}
