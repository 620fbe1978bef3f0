//! Bringing the files of a machine to a moment: what is there is looked at, it is said what they are between, they are
//! written, and then it is said what they hold.
//!
//! ```text
//!   look, lock ─▶ on record: may hold … ─▶ sidecars: between ─▶ write ─▶ flush all ─▶ sidecars: whole
//!        nothing changed before │                          crash: what it was between is in the sidecar
//! ```
//!
//! **Invariant:** what is written is all that may differ from the moment. Where a file may have something of several moments of a
//! line, that is what was written between the oldest and the newest of them; where it holds one of another line, what was written
//! on the way from there; else it is all of the disk.

use super::StandbyError;
use super::copying::{CopyError, Copying, Moved};
use super::known::{FoundFile, Known, NotOurs, Owner, check_owner, judge};
use super::place::{Place, StandbyPlaces, file_name, parts};
use super::sidecar::{HeldPoint, Holds, Sidecar, SidecarFault};
use crate::changes::{Changes, ChangesError};
use crate::fold::Pace;
use crate::ids::{DiskIdentity, MachineId, Sequence};
use crate::line::Line;
use crate::manifest::record::ManifestRecord;
use crate::manifest::standby::{HeldMoment, StandbyEntry};
use crate::moment::{Moment, ResolveError};
use crate::name::Name;
use crate::retention::Retention;
use landfall_disks::image::{Image, ImageError};
use landfall_disks::{ByteOffset, Disk};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

/// What files are to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyOrder {
    /// The moment.
    pub to: Moment,
    /// Also where somebody else has written to a file: what that was is lost.
    pub overwrite: bool,
    /// All of each file is compared, whatever is known of it.
    pub compare: bool,
}

/// How far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyProgress {
    /// What the files are to hold.
    pub to: HeldPoint,
    /// The disk that is being written.
    pub disk: Name,
    /// Where on the disk.
    pub done_bytes: u64,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of data that were written to the files of all disks.
    pub written_bytes: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandbyReport {
    /// What all files hold now.
    pub to: HeldPoint,
    /// Disks whose files were written; none if all held it before.
    pub written: Vec<Name>,
    /// Those of them of which nothing was known: all of the file was compared.
    pub compared: Vec<Name>,
    /// Those that had no file.
    pub made: Vec<Name>,
    /// Bytes of data that were written.
    pub written_bytes: u64,
    /// Bytes that were made zero.
    pub zeroed_bytes: u64,
}

/// The files of a machine on their way.
struct Move<'a> {
    retention: &'a Retention,
    machine: &'a Name,
    id: MachineId,
    entry: StandbyEntry,
    order: &'a StandbyOrder,
    to: HeldPoint,
    place: Place<'a>,
    /// The line of the moment, whose writes go first.
    line: Arc<Line>,
    pace: &'a dyn Pace,
    watch: &'a dyn Fn(&StandbyProgress),
}

/// A file of a set.
struct SetFile {
    disk: Name,
    owner: Owner,
    name: String,
    /// The disk at the moment.
    view: Arc<dyn Disk>,
    known: Known,
    /// Whether a sidecar stands beside it.
    marked: bool,
    /// Open and locked, if it is there.
    image: Option<Image>,
}

impl Retention {
    /// The line whose moment that is now: a branch may have become the trunk since, and taken it over.
    pub(super) fn line_of_held(&self, id: MachineId, held: &HeldMoment) -> Option<Arc<Line>> {
        let mut line = self.line(held.line)?;
        if line.machine() != id || held.sequence > line.tail().sequence {
            return None;
        }
        while let Some(other) = line.whose(held.sequence) {
            line = other;
        }
        Some(line)
    }

    /// Brings the standby files of a machine to a moment of it. Dropped before its end it leaves them between two moments, and
    /// the next call goes on from there.
    pub async fn bring_standby(
        &self,
        machine: &Name,
        order: &StandbyOrder,
        places: &dyn StandbyPlaces,
        pace: &dyn Pace,
        watch: &dyn Fn(&StandbyProgress),
    ) -> Result<StandbyReport, StandbyError> {
        let (id, entry) = self.standby_of(machine)?;
        if order.to.machine != *machine {
            let text = format!("{} is no moment of {machine}", order.to.absolute_name(None));
            return Err(StandbyError::WrongMoment(text));
        }
        let under_way = || StandbyError::UnderWay { machine: machine.clone() };
        let _moves = self.standbys.begin(id).ok_or_else(under_way)?;
        let folder = entry.kept.folder.clone();
        let place = Place::open(places, &folder, entry.kept.format).await?;
        let (to, line) = (HeldPoint::of(&order.to), self.line_of(&order.to)?);
        let retention = self;
        Move { retention, machine, id, entry, order, to, place, line, pace, watch }.run().await
    }
}

impl Move<'_> {
    async fn run(&self) -> Result<StandbyReport, StandbyError> {
        let mut files = self.look().await?;
        let set: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        let mut report = StandbyReport {
            to: self.to.clone(),
            written: Vec::new(),
            compared: Vec::new(),
            made: Vec::new(),
            written_bytes: 0,
            zeroed_bytes: 0,
        };
        let may_hold = self.may_hold(&files);
        let emptied = files.iter().all(|file| file.known == Known::Nothing && !file.marked);
        if emptied && !self.entry.may_hold.is_empty() && !self.order.overwrite {
            let (machine, folder) = (self.machine.clone(), self.entry.kept.folder.clone());
            return Err(StandbyError::Emptied { machine, folder });
        }
        files.retain(|file| !matches!(&file.known, Known::Holds(held) if held.at == self.to.at));
        if files.is_empty() {
            return Ok(report);
        }
        let first = files.iter().all(|file| file.known == Known::Nothing);
        if !first {
            self.note(may_hold.clone()).await?;
        }
        for file in &files {
            self.put(file, &set, self.under_way(&file.known)).await?;
        }
        self.place.sync().await?;
        if first {
            // Only when something stands in the folder: else a crash in between would look as if it had been emptied.
            self.note(may_hold).await?;
        }
        for file in &mut files {
            self.write(file, &mut report).await?;
        }
        // What a format writes at the end of a flush, such as that its log is empty, is durable with the next one.
        for file in files.iter().chain(&files) {
            let image = file.image.as_ref().expect("it was written");
            image.disk.flush().await.map_err(|source| self.write_failed(file, source))?;
        }
        for file in &files {
            let image = file.image.as_ref().expect("it was written");
            let left = self.place.left(&file.name, image).await;
            let (content, stamps) = left.map_err(|source| self.image_failed(&file.name, source))?;
            let size_bytes = image.disk.geometry().size_bytes;
            let moment = self.to.clone();
            let holds = Holds::Moment { moment, size_bytes, content, files: stamps };
            self.put(file, &set, holds).await?;
        }
        self.place.sync().await?;
        Ok(report)
    }

    /// Looks at the files of all disks that the moment has, and locks those that are there.
    async fn look(&self) -> Result<Vec<SetFile>, StandbyError> {
        let mut files = Vec::new();
        for (disk, owner) in self.retention.standby_disks(self.id) {
            let view = match self.retention.view(&self.order.to, &disk) {
                Ok(view) => view,
                // It was not there yet, or no more.
                Err(ResolveError::NotSeeded { .. } | ResolveError::DiskRemoved { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let name = file_name(self.machine, &disk, self.place.format);
            let sidecar = self.place.sidecar(&name).await?;
            let marked = sidecar.is_some();
            let (mut known, image) = self.look_at(&name, &owner, sidecar).await?;
            if self.order.compare && image.is_some() {
                known = Known::Anything;
            }
            let (wanted, has) =
                (view.geometry(), image.as_ref().map(|image| image.disk.geometry()));
            if let Some(has) = has.filter(|has| has.size_bytes > wanted.size_bytes) {
                return Err(StandbyError::Shrinks {
                    path: self.place.path_of(&name),
                    has_bytes: has.size_bytes,
                    wanted_bytes: wanted.size_bytes,
                });
            }
            files.push(SetFile { disk, owner, name, view, known, marked, image });
        }
        if files.is_empty() {
            let text = format!("{} has no disks", self.order.to.absolute_name(None));
            return Err(StandbyError::WrongMoment(text));
        }
        Ok(files)
    }

    async fn look_at(
        &self,
        name: &str,
        owner: &Owner,
        sidecar: Option<Result<Sidecar, SidecarFault>>,
    ) -> Result<(Known, Option<Image>), StandbyError> {
        let refuse = |why| StandbyError::NotOurs { path: self.place.path_of(name), why };
        let there = self.place.exists(name).await?;
        self.check_before(&sidecar, there, owner).map_err(refuse)?;
        if !there {
            self.check_no_parts(name, sidecar.as_ref()).await?;
            return Ok((judge(owner, sidecar.as_ref(), None, &[]).map_err(refuse)?, None));
        }
        let opened = self.place.open_image(name).await;
        let image = opened.map_err(|source| self.image_failed(name, source))?;
        let stamps = self.place.stamps(&image).await;
        let found = FoundFile {
            size_bytes: image.disk.geometry().size_bytes,
            content: image.identity.as_ref().map(ToString::to_string),
            stamps: stamps.map_err(|source| self.image_failed(name, source))?,
        };
        let known = judge(owner, sidecar.as_ref(), Some(&found), &self.entry.may_hold);
        match known {
            Err(why) if self.order.overwrite && why.may_be_overwritten() => {
                Ok((Known::Anything, Some(image)))
            }
            known => Ok((known.map_err(refuse)?, Some(image))),
        }
    }

    /// That a file may be opened for writing at all, which for some formats is a change.
    fn check_before(
        &self,
        sidecar: &Option<Result<Sidecar, SidecarFault>>,
        there: bool,
        owner: &Owner,
    ) -> Result<(), NotOurs> {
        match sidecar {
            None if there => Err(NotOurs::Unmarked),
            Some(Err(fault)) if there && !self.order.overwrite => Err(fault.clone().into()),
            Some(Ok(sidecar)) => check_owner(owner, sidecar),
            None | Some(Err(_)) => Ok(()),
        }
    }

    /// Parts of an image without the file that names them are what a crash left while it was made, or somebody's.
    async fn check_no_parts(
        &self,
        name: &str,
        sidecar: Option<&Result<Sidecar, SidecarFault>>,
    ) -> Result<(), StandbyError> {
        let making = sidecar.is_some_and(|sidecar| {
            sidecar.as_ref().is_ok_and(|sidecar| matches!(sidecar.holds, Holds::Unknown { .. }))
        });
        for part in parts(name) {
            if !making && self.place.exists(&part).await? {
                let (path, why) = (self.place.path_of(&part), NotOurs::Unmarked);
                return Err(StandbyError::NotOurs { path, why });
            }
        }
        Ok(())
    }

    /// All that the files may hold from here on.
    fn may_hold(&self, files: &[SetFile]) -> Vec<HeldMoment> {
        let points = files.iter().flat_map(|file| match &file.known {
            Known::Nothing | Known::Anything => Vec::new(),
            Known::Holds(held) => vec![held.at],
            Known::Between(from, to) => vec![from.at, to.at],
        });
        let mut all: Vec<_> = points.chain([self.to.at]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    async fn note(&self, mut may_hold: Vec<HeldMoment>) -> Result<(), StandbyError> {
        if may_hold.len() > crate::manifest::standby::MAX_HELD {
            // Those that are left out are compared, should a crash come.
            may_hold = vec![self.to.at];
        }
        let machine = self.id;
        self.retention
            .manifest
            .change(|state| {
                let entry = state.standbys.get(&machine).ok_or(StandbyError::Gone)?;
                if entry.may_hold == may_hold {
                    return Ok((Vec::new(), ()));
                }
                Ok((vec![ManifestRecord::StandbyMoves { machine, may_hold }], ()))
            })
            .await
    }

    /// What a file holds while it is written.
    fn under_way(&self, known: &Known) -> Holds {
        let to = self.to.clone();
        let covers = |from: &HeldPoint, middle: &HeldPoint| {
            let (low, high) = (from.at.min(to.at), from.at.max(to.at));
            from.at.line == to.at.line && (low..=high).contains(&middle.at)
        };
        match known {
            Known::Holds(from) => Holds::Between { from: from.clone(), to },
            Known::Between(from, before) if covers(from, before) => {
                Holds::Between { from: from.clone(), to }
            }
            Known::Between(..) | Known::Nothing | Known::Anything => Holds::Unknown { to },
        }
    }

    async fn put(&self, file: &SetFile, set: &[String], holds: Holds) -> Result<(), StandbyError> {
        let sidecar = Sidecar {
            target: file.owner.target,
            machine: self.machine.clone(),
            machine_id: self.id,
            disk: file.disk.clone(),
            disk_id: file.owner.disk,
            format: self.place.format,
            set: set.to_vec(),
            written: self.retention.surroundings.clock.now(),
            holds,
        };
        Ok(self.place.put(&file.name, &sidecar).await?)
    }

    /// Writes one file.
    async fn write(
        &self,
        file: &mut SetFile,
        report: &mut StandbyReport,
    ) -> Result<(), StandbyError> {
        let size_bytes = file.view.geometry().size_bytes;
        if file.image.is_none() {
            let identity = DiskIdentity::of(file.owner.target, file.owner.disk);
            let made = self.place.make_image(&file.name, size_bytes, identity).await;
            file.image = Some(made.map_err(|source| self.image_failed(&file.name, source))?);
            report.made.push(file.disk.clone());
        }
        let file = &*file;
        let image = file.image.as_ref().expect("it was made");
        if image.disk.geometry().size_bytes < size_bytes {
            let grown = image.disk.resize(size_bytes).await;
            grown.map_err(|source| self.write_failed(file, source))?;
        }
        let changes = self.changes(file)?;
        let before = (report.written_bytes, report.zeroed_bytes);
        let lane = self.retention.lane(self.line.lane());
        let copying = Copying {
            view: &*file.view,
            file: &*image.disk,
            pace: self.pace,
            waiting: &|| lane.waiting(),
            watch: &|at, moved| self.tell(file, at, before.0 + moved.written_bytes),
            moved: Cell::new(Moved::default()),
        };
        let copied = match &changes {
            Some(changes) => copying.changes(changes).await,
            None => copying.all().await,
        };
        copied.map_err(|error| self.copy_failed(file, error))?;
        let moved = copying.moved.get();
        report.written_bytes = before.0 + moved.written_bytes;
        report.zeroed_bytes = before.1 + moved.zeroed_bytes;
        report.written.push(file.disk.clone());
        if changes.is_none() && file.known != Known::Nothing {
            report.compared.push(file.disk.clone());
        }
        Ok(())
    }

    fn tell(&self, file: &SetFile, at: ByteOffset, written_bytes: u64) {
        (self.watch)(&StandbyProgress {
            to: self.to.clone(),
            disk: file.disk.clone(),
            done_bytes: at.bytes(),
            size_bytes: file.view.geometry().size_bytes,
            written_bytes,
        });
    }

    /// What may differ between a file and the moment, if history can tell.
    fn changes(&self, file: &SetFile) -> Result<Option<Changes>, StandbyError> {
        let held = match &file.known {
            Known::Nothing | Known::Anything => return Ok(None),
            Known::Holds(from) => vec![from.at, self.to.at],
            Known::Between(from, to) => vec![from.at, to.at, self.to.at],
        };
        let moment = |sequence| Moment { sequence, ..self.order.to.clone() };
        let around = self.kept_around(&held).map(|(from, to)| (moment(from), moment(to)));
        let across = || Some((self.moment_elsewhere(&file.known)?, self.order.to.clone()));
        let Some((from, to)) = around.or_else(across) else { return Ok(None) };
        match self.retention.changes(from, to, &file.disk) {
            Ok(changes) => Ok(Some(changes)),
            // They went meanwhile, or the disk was not there.
            Err(ChangesError::Resolve(_) | ChangesError::NothingInCommon { .. }) => Ok(None),
            Err(error) => Err(StandbyError::Changes(error)),
        }
    }

    fn line_now(&self, held: &HeldMoment) -> Option<Arc<Line>> {
        self.retention.line_of_held(self.id, held)
    }

    /// The moment of another line that a file holds, all of it: what was the trunk until a branch took its place.
    fn moment_elsewhere(&self, known: &Known) -> Option<Moment> {
        let Known::Holds(HeldPoint { at, .. }) = known else { return None };
        let line = self.line_now(at)?.id();
        let HeldMoment { sequence, time: commit_time, .. } = *at;
        let moment = Moment { line, sequence, commit_time, ..self.order.to.clone() };
        (line != self.line.id()).then_some(moment)
    }

    /// Moments that history has, one at or before all of `held` and one at or after them; they are of one line.
    fn kept_around(&self, held: &[HeldMoment]) -> Option<(Sequence, Sequence)> {
        let line = &self.line;
        let sequences = || held.iter().map(|held| held.sequence);
        let (oldest, newest) = (sequences().min()?, sequences().max()?);
        let one_line =
            held.iter().all(|held| self.line_now(held).is_some_and(|now| now.id() == line.id()));
        let start = line.start().map(|start| start.sequence).unwrap_or_default();
        if !one_line || oldest < start || newest > line.tail().sequence {
            return None;
        }
        let dropped = line.dropped();
        let neighbours = |at| line.points(|points| points.neighbours(at));
        let oldest = match dropped.contains(oldest) {
            false => Some(oldest),
            true => neighbours(oldest).0.map(|point| point.sequence).filter(|at| *at >= start),
        };
        let newest = match dropped.contains(newest) {
            false => Some(newest),
            true => neighbours(newest).1.map(|point| point.sequence),
        };
        oldest.zip(newest)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path_of(name)
    }

    fn image_failed(&self, name: &str, source: ImageError) -> StandbyError {
        StandbyError::Image { path: self.path(name), source: Box::new(source) }
    }

    fn write_failed(&self, file: &SetFile, source: landfall_disks::DiskError) -> StandbyError {
        StandbyError::Write { path: self.path(&file.name), source }
    }

    fn copy_failed(&self, file: &SetFile, error: CopyError) -> StandbyError {
        match error {
            CopyError::Changes(ChangesError::Gone(_)) => StandbyError::Gone,
            CopyError::Changes(error) => StandbyError::Changes(error),
            CopyError::Write(source) => self.write_failed(file, source),
            CopyError::Read(source) => {
                let (disk, moment) = (file.disk.clone(), self.order.to.absolute_name(None));
                StandbyError::Read { disk, moment, source }
            }
        }
    }
}
