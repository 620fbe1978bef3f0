//! The part of the control API about standby files.

use super::control::{Answer, Body};
use super::messages::{
    Named, Standby, StandbyAdd, StandbyBegun, StandbyFile, StandbyLast, StandbyList,
    StandbyRemoved, StandbySync, StandbyWriting,
};
use super::problem::{Problem, of_image};
use crate::images::StandbyFolders;
use crate::service::{StandbyEnded, StandbyLook, Target};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use landfall_disks::image::Format;
use landfall_retention as retention;
use landfall_retention::manifest::ManifestError;
use landfall_retention::manifest::standby::StandbyKept;
use landfall_retention::name::{MomentName, Name};
use landfall_retention::point::PointKind;
use landfall_retention::standby::sidecar::{HeldPoint, Holds, StampChange};
use landfall_retention::standby::{StandbyError, StandbyLag, StandbyStatus};
use serde::Deserialize;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Everything under `/v1/standbys`.
pub(super) fn router() -> Router<Arc<Target>> {
    Router::new()
        .route("/v1/standbys", get(list).post(add).delete(remove))
        .route("/v1/standbys/sync", post(sync))
        .route("/v1/standbys/pause", post(pause))
        .route("/v1/standbys/resume", post(resume))
        .route("/v1/standbys/{machine}", get(show))
}

impl From<StandbyError> for Problem {
    fn from(error: StandbyError) -> Self {
        let text = error.to_string();
        match error {
            StandbyError::Resolve(error) => error.into(),
            StandbyError::None { .. } => Self::unknown(text),
            StandbyError::Impossible(_) | StandbyError::WrongMoment(_) => Self::bad(text),
            StandbyError::Exists { .. }
            | StandbyError::UnderWay { .. }
            | StandbyError::NotOurs { .. }
            | StandbyError::Emptied { .. }
            | StandbyError::Shrinks { .. }
            | StandbyError::Gone
            | StandbyError::Manifest(ManifestError::Overtaken(_)) => Self::conflict(text),
            StandbyError::Image { source, .. } => of_image(&text, &source),
            StandbyError::Folder(_) => Self::bad(text),
            _ => Self::failed(text),
        }
    }
}

async fn list(State(target): State<Arc<Target>>) -> Answer<StandbyList> {
    let mut standbys = Vec::new();
    for status in target.retention.standbys() {
        standbys.push(target.standby(&status).await?);
    }
    Ok(Json(StandbyList { standbys }))
}

async fn show(State(target): State<Arc<Target>>, Path(machine): Path<String>) -> Answer<Standby> {
    Ok(Json(target.standby_named(&Name::parse(&machine)?).await?))
}

async fn add(State(target): State<Arc<Target>>, Body(wanted): Body<StandbyAdd>) -> Answer<Standby> {
    let machine = Name::parse(&wanted.machine)?;
    target.machine_named(&machine)?;
    let format: Format = wanted.format.parse().map_err(|_| {
        Problem::bad(format!("{:?}: standby files are raw, vmdk or vhdx", wanted.format))
    })?;
    let folder = take_folder(&target, &wanted)?;
    let every = Duration::from_secs(wanted.every_seconds);
    let kept = StandbyKept { folder, format, every, app_only: wanted.app_only };
    let of = machine.clone();
    target
        .on_core(
            move |retention| async move { retention.add_standby(&of, kept, &StandbyFolders).await },
        )
        .await?;
    target.standbys.take_up(&machine);
    tracing::info!(machine = %machine, folder = wanted.folder, "standby added");
    Ok(Json(target.standby_named(&machine).await?))
}

/// The folder of a standby in the form it is kept in; made if only that is missing.
fn take_folder(target: &Target, wanted: &StandbyAdd) -> Result<String, Problem> {
    let text = &wanted.folder;
    let given = FilePath::new(text);
    let plain = given.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    let (Some(parent), Some(name), true) =
        (given.parent(), given.file_name(), given.is_absolute() && plain)
    else {
        return Err(Problem::bad(format!("{text:?} is not an absolute path of a folder")));
    };
    let parent = parent.canonicalize().map_err(|error| {
        Problem::bad(format!("{}: {error}; make the folder first", parent.display()))
    })?;
    let folder = match parent.join(name).canonicalize() {
        Ok(folder) => folder,
        Err(_) => parent.join(name),
    };
    check_folder(target, &folder, wanted.beside_images)?;
    match std::fs::create_dir(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Problem::bad(format!("{}: {error}", folder.display()))),
    }
    if !folder.is_dir() {
        return Err(Problem::bad(format!("{} is no folder", folder.display())));
    }
    let kept = folder.to_str().ok_or_else(|| Problem::bad(format!("{text}: not UTF-8")))?;
    Ok(kept.to_owned())
}

/// That files in a folder are nobody's business but the standby's.
fn check_folder(target: &Target, folder: &FilePath, beside_images: bool) -> Result<(), Problem> {
    let config = &target.config;
    let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let images = canonical(&config.images);
    let in_images = folder.starts_with(&images);
    for own in [&config.data, &config.journal, &config.index] {
        if folder.starts_with(canonical(own)) && !in_images {
            return Err(Problem::bad(format!(
                "{}: that is the target's own; a standby is kept elsewhere, best on other disks than {}",
                folder.display(),
                own.display()
            )));
        }
    }
    if beside_images {
        return Ok(());
    }
    let beside = "the images of machines; a standby there is lost with them. \
                  Keep it on other disks, or say --beside-images";
    if in_images {
        return Err(Problem::bad(format!("{} is among {beside}", folder.display())));
    }
    for machine in target.retention.machines() {
        for disk in &machine.disks {
            let image = FilePath::new(&disk.image);
            if image.is_absolute() && image.parent() == Some(folder) {
                return Err(Problem::bad(format!(
                    "{} holds {}, one of {beside}",
                    folder.display(),
                    disk.image
                )));
            }
        }
    }
    Ok(())
}

/// `?machine=NAME&delete_files=true`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    machine: String,
    #[serde(default)]
    delete_files: bool,
}

async fn remove(
    State(target): State<Arc<Target>>,
    asked: Result<Query<Removal>, QueryRejection>,
) -> Answer<StandbyRemoved> {
    let Query(asked) = asked.map_err(|error| Problem::bad(error.body_text()))?;
    let machine = Name::parse(&asked.machine)?;
    let folder = target.standby_status(&machine)?.kept.folder;
    target.standbys.cancel(&machine).await;
    let of = machine.clone();
    let deleted = target
        .on_core(move |retention| async move {
            retention.remove_standby(&of, &StandbyFolders, asked.delete_files).await
        })
        .await?;
    tracing::info!(machine = %machine, folder, deleted = deleted.len(), "standby removed");
    let deleted = deleted.iter().map(|path| path.display().to_string()).collect();
    Ok(Json(StandbyRemoved { machine: machine.to_string(), folder, deleted }))
}

async fn sync(
    State(target): State<Arc<Target>>,
    Body(wanted): Body<StandbySync>,
) -> Answer<StandbyBegun> {
    let mut to = MomentName::parse(&wanted.name)?;
    let machine = to.machine.clone();
    target.standby_status(&machine)?;
    if to.disk.is_some() || to.branch.is_some() {
        return Err(Problem::bad(format!(
            "{:?}: a standby holds all disks of a machine; name {machine} or {machine}@WHEN",
            wanted.name
        )));
    }
    let chosen = wanted.name.contains('@');
    if chosen {
        let name = to.clone();
        let moment = target.on_core(move |r| async move { r.resolve(&name).await }).await?;
        if moment.kind == Some(PointKind::Fuzzy) && !wanted.fuzzy {
            return Err(Problem::bad(format!(
                "{} is fuzzy: the source changed while it was copied, it may not boot; --fuzzy takes it all the same",
                moment.absolute_name(None)
            )));
        }
        // What the name means now is what was asked for, whatever it means when it begins.
        to = MomentName::parse(&moment.absolute_name(None))?;
        set_paused(&target, &machine, true).await?;
    } else {
        to = target.retention.standby_wants(&machine)?;
    }
    let number = target.standbys.ask(&machine, to, wanted.overwrite);
    let standby = target.standby_named(&machine).await?;
    Ok(Json(StandbyBegun { number, standby }))
}

async fn pause(State(target): State<Arc<Target>>, Body(of): Body<Named>) -> Answer<Standby> {
    let machine = Name::parse(&of.name)?;
    set_paused(&target, &machine, true).await?;
    Ok(Json(target.standby_named(&machine).await?))
}

async fn resume(State(target): State<Arc<Target>>, Body(of): Body<Named>) -> Answer<Standby> {
    let machine = Name::parse(&of.name)?;
    set_paused(&target, &machine, false).await?;
    target.standbys.take_up(&machine);
    Ok(Json(target.standby_named(&machine).await?))
}

async fn set_paused(target: &Target, machine: &Name, paused: bool) -> Result<(), Problem> {
    let of = machine.clone();
    target.on_core(move |r| async move { r.pause_standby(&of, paused).await }).await?;
    tracing::info!(machine = %machine, paused, "standby");
    Ok(())
}

impl Target {
    fn standby_status(&self, machine: &Name) -> Result<StandbyStatus, Problem> {
        self.machine_named(machine)?;
        let mut all = self.retention.standbys().into_iter();
        let found = all.find(|status| status.machine == *machine);
        found.ok_or_else(|| StandbyError::None { machine: machine.clone() }.into())
    }

    async fn standby_named(&self, machine: &Name) -> Result<Standby, Problem> {
        self.standby(&self.standby_status(machine)?).await
    }

    /// A standby with what its files are at this moment.
    async fn standby(&self, status: &StandbyStatus) -> Result<Standby, Problem> {
        let machine = status.machine.clone();
        let of = machine.clone();
        let retention = Arc::clone(&self.retention);
        let files = self
            .core
            .run(move || async move { retention.standby_files(&of, &StandbyFolders).await })
            .await?;
        let look = self.standbys.of(&machine);
        let (files, unreadable) = match files {
            Ok(files) => (files, None),
            Err(error @ StandbyError::Folder(_)) => (Vec::new(), Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let held = held_by_all(&files);
        let lag = self.retention.standby_lag(&machine, held.map(|held| held.at))?;
        let error = look.failure.clone().or(unreadable);
        let name = |held: &HeldPoint| format!("{machine}@seq:{}", held.at.sequence);
        Ok(Standby {
            machine: machine.to_string(),
            folder: status.kept.folder.clone(),
            format: status.kept.format.to_string(),
            every_seconds: status.kept.every.as_secs(),
            app_only: status.kept.app_only,
            paused: status.paused,
            state: state(&look, &error, held, &lag).to_owned(),
            holds: held.map(name),
            holds_time: held.map(|held| held.at.time.to_string()),
            holds_kind: held.map(|held| held.kind.map_or("instant", PointKind::word).to_owned()),
            lag_seconds: lag.time.as_secs(),
            lag_points: lag.points as u64,
            writing: writing(&look, &machine),
            error,
            last: look.last.as_ref().and_then(last),
            answered: look.answered.as_ref().map_or(0, |(number, _)| *number),
            answered_error: look.answered.and_then(|(_, outcome)| outcome.err()),
            files: files.iter().map(file).collect(),
        })
    }
}

/// The point that every file holds.
fn held_by_all(files: &[retention::standby::StandbyFile]) -> Option<&HeldPoint> {
    let held = files.first()?.moment()?;
    let same = |file: &retention::standby::StandbyFile| {
        file.moment().is_some_and(|other| other.at == held.at)
    };
    files.iter().all(same).then_some(held)
}

fn state(
    look: &StandbyLook,
    error: &Option<String>,
    held: Option<&HeldPoint>,
    lag: &StandbyLag,
) -> &'static str {
    let progress = look.running.as_ref().and_then(|running| running.progress.as_ref());
    match held {
        _ if progress.is_some() => "writing",
        _ if error.is_some() => "failing",
        None => "empty",
        Some(_) if lag.points > 0 || lag.time > Duration::ZERO => "behind",
        Some(_) => "current",
    }
}

fn writing(look: &StandbyLook, machine: &Name) -> Option<StandbyWriting> {
    let progress = look.running.as_ref()?.progress.as_ref()?;
    Some(StandbyWriting {
        to: format!("{machine}@seq:{}", progress.to.at.sequence),
        disk: progress.disk.to_string(),
        done_bytes: progress.done_bytes,
        size_bytes: progress.size_bytes,
        written_bytes: progress.written_bytes,
    })
}

fn last(ended: &StandbyEnded) -> Option<StandbyLast> {
    let report = ended.outcome.as_ref().ok()?.as_ref()?;
    let names = |names: &[Name]| names.iter().map(Name::to_string).collect();
    Some(StandbyLast {
        ended: ended.ended.to_string(),
        took_ms: u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
        written_bytes: report.written_bytes,
        zeroed_bytes: report.zeroed_bytes,
        compared: names(&report.compared),
        made: names(&report.made),
    })
}

fn file(file: &retention::standby::StandbyFile) -> StandbyFile {
    let (state, holds) = match &file.sidecar {
        None => ("none", None),
        Some(Err(fault)) => ("untrusted", Some(fault.to_string())),
        Some(Ok(sidecar)) => match &sidecar.holds {
            Holds::Moment { moment, .. } => ("whole", Some(moment.to_string())),
            Holds::Between { from, to } => ("between", Some(format!("between {from} and {to}"))),
            Holds::Unknown { to } => ("unknown", Some(format!("to become {to}"))),
        },
    };
    let whole = state == "whole";
    let altered = match file.change {
        Some(StampChange::None) => None,
        Some(StampChange::Moved) => Some("moved, copied or given to somebody since"),
        Some(StampChange::Written) => Some("written by somebody else since"),
        None if whole => Some("gone"),
        None => None,
    };
    StandbyFile {
        disk: file.disk.to_string(),
        path: file.path.display().to_string(),
        state: state.to_owned(),
        holds,
        altered: altered.map(str::to_owned),
    }
}
