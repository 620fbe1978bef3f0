//! Whether standby files are still what stands beside them, block for block: what a scrub asks.
//!
//! ```text
//!   sidecar: whole, at P ─▶ file and history at P, side by side ─▶ the same │ differs ─▶ compared and written anew
//! ```
//!
//! A medium may change bytes without anybody writing them, and whoever boots from the file would be the first to notice. A
//! file is read without being opened for writing, so that the check itself leaves nothing behind. What somebody else wrote is
//! not looked at: that is theirs. Where history no longer has the point that a file holds, nothing can be said of it.

use super::StandbyError;
use super::copying::{CopyError, Copying, Moved};
use super::known::{Owner, check_owner};
use super::moving::{StandbyOrder, StandbyProgress};
use super::place::{Place, StandbyPlaces, file_name};
use super::sidecar::{HeldPoint, Holds, Sidecar, StampChange};
use super::status::change;
use crate::fold::Pace;
use crate::ids::MachineId;
use crate::manifest::standby::HeldMoment;
use crate::moment::{Moment, ResolveError};
use crate::name::Name;
use crate::retention::Retention;
use landfall_disks::{
    Buffer, ByteOffset, ByteRange, Disk, DiskError, Durability, Geometry, IoFuture, MappedRange,
    ZeroMode, is_zero,
};
use parking_lot::Mutex;
use std::cell::Cell;
use std::path::PathBuf;

/// Ranges of a file that are listed; more are counted.
const LISTED: usize = 64;

/// What a check found of a standby file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyChecked {
    /// The disk.
    pub disk: Name,
    /// Its file.
    pub path: PathBuf,
    /// What was found.
    pub found: StandbyFound,
}

/// What a file is, beside what it is said to be.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StandbyFound {
    /// It holds the point.
    Same(HeldPoint),
    /// It was the point, and a medium or somebody who left no trace changed it.
    Differs {
        /// The point.
        held: HeldPoint,
        /// Where, in whole runs of blocks; the first of them.
        ranges: Vec<ByteRange>,
        /// How many bytes all of them have.
        bytes: u64,
    },
    /// It was not looked at.
    NotChecked(NotChecked),
}

/// Why nothing can be said of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NotChecked {
    /// It holds no point: there is none yet, it is on its way to one, or what stands beside it says nothing.
    NoPoint,
    /// It is not as it was left: written by somebody else, or gone.
    NotAsLeft,
    /// History does not have the point that it holds any more.
    NotInHistory,
}

impl std::fmt::Display for NotChecked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoPoint => "it holds no point",
            Self::NotAsLeft => "it is not as it was left",
            Self::NotInHistory => "history no longer has the point that it holds",
        })
    }
}

impl Retention {
    /// Reads the standby files of a machine and holds them against the points that they hold.
    pub async fn check_standby(
        &self,
        machine: &Name,
        places: &dyn StandbyPlaces,
        pace: &dyn Pace,
        watch: &dyn Fn(&StandbyProgress),
    ) -> Result<Vec<StandbyChecked>, StandbyError> {
        let (id, entry) = self.standby_of(machine)?;
        let under_way = || StandbyError::UnderWay { machine: machine.clone() };
        let _still = self.standbys.begin(id).ok_or_else(under_way)?;
        let place = Place::open(places, &entry.kept.folder, entry.kept.format).await?;
        let mut checked = Vec::new();
        for (disk, owner) in self.standby_disks(id) {
            let name = file_name(machine, &disk, entry.kept.format);
            let of = Checking { retention: self, machine, id, place: &place, pace, watch };
            let found = of.file(&disk, &owner, &name).await?;
            checked.push(StandbyChecked { disk, path: place.path_of(&name), found });
        }
        Ok(checked)
    }

    /// The moment of a machine that a file holds, on the line whose history it is by now.
    fn moment_of_held(&self, machine: &Name, id: MachineId, held: &HeldPoint) -> Option<Moment> {
        let line = self.line_of_held(id, &held.at)?.id();
        let HeldMoment { sequence, time: commit_time, .. } = held.at;
        let HeldPoint { kind, label, .. } = held.clone();
        let (machine, branch) = (machine.clone(), None);
        Some(Moment { machine, branch, line, sequence, commit_time, kind, label })
    }
}

impl StandbyOrder {
    /// To the moment that a file holds, all of each compared; nothing if history does not have it any more.
    pub fn repair(
        retention: &Retention,
        machine: &Name,
        held: &HeldPoint,
    ) -> Result<Option<Self>, StandbyError> {
        let (id, _) = retention.standby_of(machine)?;
        let to = retention.moment_of_held(machine, id, held);
        Ok(to.map(|to| Self { to, overwrite: false, compare: true }))
    }
}

struct Checking<'a> {
    retention: &'a Retention,
    machine: &'a Name,
    id: MachineId,
    place: &'a Place<'a>,
    pace: &'a dyn Pace,
    watch: &'a dyn Fn(&StandbyProgress),
}

impl Checking<'_> {
    async fn file(
        &self,
        disk: &Name,
        owner: &Owner,
        name: &str,
    ) -> Result<StandbyFound, StandbyError> {
        let not = |why| Ok(StandbyFound::NotChecked(why));
        let sidecar = match self.place.sidecar(name).await? {
            Some(Ok(sidecar))
                if check_owner(owner, &sidecar).is_ok() && sidecar.disk_id == owner.disk =>
            {
                sidecar
            }
            _ => return not(NotChecked::NoPoint),
        };
        let Sidecar { holds: Holds::Moment { moment: held, files, size_bytes, .. }, .. } = sidecar
        else {
            return not(NotChecked::NoPoint);
        };
        // One that was moved is not written to by that, and whoever moved it wants to know whether it is whole.
        let as_left = [Some(StampChange::None), Some(StampChange::Moved)];
        if !as_left.contains(&change(self.place, &files).await?) {
            return not(NotChecked::NotAsLeft);
        }
        let Some(moment) = self.retention.moment_of_held(self.machine, self.id, &held) else {
            return not(NotChecked::NotInHistory);
        };
        let view = match self.retention.view(&moment, disk) {
            Ok(view) => view,
            Err(ResolveError::Index(error)) => return Err(ResolveError::Index(error).into()),
            Err(_) => return not(NotChecked::NotInHistory),
        };
        if view.geometry().size_bytes != size_bytes {
            return not(NotChecked::NotInHistory);
        }
        let opened = self.place.open_to_read(name).await;
        let path = || self.place.path_of(name);
        let image = opened
            .map_err(|source| StandbyError::Image { path: path(), source: Box::new(source) })?;
        let lane = self.retention.line(moment.line).map(|line| line.lane());
        let lane = lane.map(|lane| self.retention.lane(lane));
        let differences = Differences { file: &*image.disk, found: Mutex::default() };
        let copying = Copying {
            view: &*view,
            file: &differences,
            pace: self.pace,
            waiting: &|| lane.map_or(0, |lane| lane.waiting()),
            watch: &|at, _: Moved| self.tell(&held, disk, at, size_bytes),
            moved: Cell::new(Moved::default()),
        };
        copying.all().await.map_err(|error| match error {
            CopyError::Changes(error) => StandbyError::Changes(error),
            CopyError::Write(source) => StandbyError::Write { path: path(), source },
            CopyError::Read(source) => {
                let moment = moment.absolute_name(None);
                StandbyError::Read { disk: disk.clone(), moment, source }
            }
        })?;
        let Found { ranges, bytes } = differences.found.into_inner();
        Ok(match bytes {
            0 => StandbyFound::Same(held),
            _ => StandbyFound::Differs { held, ranges, bytes },
        })
    }

    fn tell(&self, held: &HeldPoint, disk: &Name, at: ByteOffset, size_bytes: u64) {
        (self.watch)(&StandbyProgress {
            to: held.clone(),
            disk: disk.clone(),
            done_bytes: at.bytes(),
            size_bytes,
            written_bytes: 0,
        });
    }
}

/// A file that is not written to: it is noted where it would have been.
struct Differences<'a> {
    file: &'a dyn Disk,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    ranges: Vec<ByteRange>,
    bytes: u64,
}

impl Differences<'_> {
    fn note(&self, range: ByteRange) {
        let mut found = self.found.lock();
        found.bytes += range.length();
        if found.ranges.len() < LISTED {
            found.ranges.push(range);
        }
    }
}

impl Disk for Differences<'_> {
    fn geometry(&self) -> Geometry {
        self.file.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        self.file.read(range)
    }

    fn write(&self, at: ByteOffset, data: Buffer, _: Durability) -> IoFuture<'_, ()> {
        let range = ByteRange::at(at, data.len() as u64);
        range.into_iter().for_each(|range| self.note(range));
        Box::pin(std::future::ready(Ok(())))
    }

    /// Data of zeroes is as good as a hole.
    fn write_zeroes(&self, range: ByteRange, _: ZeroMode, _: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            for piece in range.chunks(1 << 20) {
                if !is_zero(&self.file.read(piece).await?) {
                    self.note(piece);
                }
            }
            Ok::<_, DiskError>(())
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.file.map(range)
    }
}
