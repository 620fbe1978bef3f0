//! What stands where: the answers behind listings and metrics of standby files.

use super::StandbyError;
use super::place::{Place, StandbyPlaces, file_name};
use super::sidecar::{FileStamp, HeldPoint, Holds, Sidecar, SidecarFault, StampChange};
use crate::ids::MachineId;
use crate::manifest::standby::{HeldMoment, StandbyEntry, StandbyKept};
use crate::name::{MomentName, Name, When};
use crate::point::{KindSet, PointKind, PointQuery};
use crate::retention::Retention;
use crate::time::Timestamp;
use landfall_disks::file::FileError;
use std::path::PathBuf;
use std::time::Duration;

/// The standby of a machine as it is on record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyStatus {
    /// The machine.
    pub machine: Name,
    /// How it is kept.
    pub kept: StandbyKept,
    /// Whether it stays as it is.
    pub paused: bool,
}

/// A standby file, and what stands beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyFile {
    /// The disk.
    pub disk: Name,
    /// The file.
    pub path: PathBuf,
    /// What stands beside it; nothing if nothing does.
    pub sidecar: Option<Result<Sidecar, SidecarFault>>,
    /// Whether the files it consists of are as they were left; nothing if it is not known how, or if some are gone.
    pub change: Option<StampChange>,
}

/// By how much a standby is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StandbyLag {
    /// When the newest moment was committed that it may hold.
    pub newest: Option<Timestamp>,
    /// How much later that is than what it holds.
    pub time: Duration,
    /// Marked points that it may hold and that come after; counted up to [`StandbyLag::MOST_POINTS`].
    pub points: usize,
}

impl StandbyLag {
    /// More points are not counted.
    pub const MOST_POINTS: usize = 10_000;
}

impl StandbyFile {
    /// The moment that it durably holds, if it holds one.
    pub fn moment(&self) -> Option<&HeldPoint> {
        self.sidecar.as_ref()?.as_ref().ok()?.moment()
    }
}

impl Retention {
    /// All machines that have some, by name.
    pub fn standbys(&self) -> Vec<StandbyStatus> {
        let state = self.manifest.state();
        let status = |(id, entry): (&MachineId, &StandbyEntry)| {
            let machine = state.machines.get(id)?.name.clone();
            Some(StandbyStatus { machine, kept: entry.kept.clone(), paused: entry.paused })
        };
        let mut all: Vec<_> = state.standbys.iter().filter_map(status).collect();
        all.sort_by(|a, b| a.machine.cmp(&b.machine));
        all
    }

    /// The files of a machine, and what stands beside them.
    pub async fn standby_files(
        &self,
        machine: &Name,
        places: &dyn StandbyPlaces,
    ) -> Result<Vec<StandbyFile>, StandbyError> {
        let (id, entry) = self.standby_of(machine)?;
        let place = Place::open(places, &entry.kept.folder, entry.kept.format).await?;
        let mut files = Vec::new();
        for (disk, _) in self.standby_disks(id) {
            let name = file_name(machine, &disk, entry.kept.format);
            let sidecar = place.sidecar(&name).await?;
            let change = match &sidecar {
                Some(Ok(Sidecar { holds: Holds::Moment { files, .. }, .. })) => {
                    change(&place, files).await?
                }
                _ => None,
            };
            files.push(StandbyFile { disk, path: place.path_of(&name), sidecar, change });
        }
        Ok(files)
    }

    /// What `latest` is to a standby: the newest moment that it may hold.
    pub fn standby_wants(&self, machine: &Name) -> Result<MomentName, StandbyError> {
        let (_, entry) = self.standby_of(machine)?;
        let when = if entry.kept.app_only { When::App } else { When::Latest };
        Ok(MomentName { machine: machine.clone(), branch: None, disk: None, when })
    }

    /// By how much the standby of a machine is behind, if its files hold `held`. Costs no look at the index.
    pub fn standby_lag(
        &self,
        machine: &Name,
        held: Option<HeldMoment>,
    ) -> Result<StandbyLag, StandbyError> {
        let (_, entry) = self.standby_of(machine)?;
        let line = self.line_there(machine, None)?;
        let app = || line.points(|points| points.app().map(|point| point.commit_time));
        let newest = if entry.kept.app_only { app() } else { line.newest_moment() };
        // Of a trunk that is none any more, all points of the new one come after.
        let here = held.filter(|held| held.line == line.id());
        let kinds: &[PointKind] = if entry.kept.app_only {
            &[PointKind::App]
        } else {
            &[PointKind::App, PointKind::Crash]
        };
        let query = PointQuery {
            after: here.map(|held| held.sequence),
            kinds: kinds.iter().copied().collect::<KindSet>(),
            ..PointQuery::all(StandbyLag::MOST_POINTS)
        };
        let points = line.points(|points| points.list(&query).len());
        let since = |held: HeldMoment| newest.map(|newest| newest.since(held.time));
        Ok(StandbyLag { newest, time: held.and_then(since).unwrap_or_default(), points })
    }
}

/// How much of what was left is as it was.
pub(super) async fn change(
    place: &Place<'_>,
    files: &[FileStamp],
) -> Result<Option<StampChange>, FileError> {
    let mut worst = StampChange::None;
    for left in files {
        match place.places.stamp(place.path, &left.name).await {
            Ok(now) => worst = worst.max(left.compare(&now)),
            Err(FileError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(worst))
}
