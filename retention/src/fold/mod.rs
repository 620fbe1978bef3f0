//! Fold: what lies at or below a new floor moves from the journal into the images.
//!
//! ```text
//!   held below F? ─▶ FoldStarted (points below F are gone) ─▶ per disk: newest versions ≤ F ─▶ image ─▶ flush
//!                                                                       floor = F ◀── FoldDone ◀── its hashes, flush ◀─┘
//! ```
//!
//! **Invariants:** nothing at or below a floor is forgotten before `FoldDone` is durable, and that is logged only after the
//! image was flushed. The image holds nothing newer than the start of history, and no moment before the start can be
//! opened, so whoever reads a moment finds every block the fold touches in the journal, and reads from the image only
//! blocks that it leaves alone. A fold that is cut off at any place is repeated by the next one.

mod pace;
mod plan;
mod wanted;

pub use pace::{FoldPace, Pace};
pub use wanted::{HistoryWanted, StartMoment, WantedStart};

use crate::disks::ForgetDisksError;
use crate::ids::{LineId, Sequence};
use crate::image_hashes::Sums;
use crate::index::IndexError;
use crate::journal::indexing::block_checksums;
use crate::lease::{Holder, recorded_holders};
use crate::line::Line;
use crate::manifest::ManifestError;
use crate::manifest::history::HistoryStart;
use crate::manifest::record::ManifestRecord;
use crate::moment::ResolveError;
use crate::name::Name;
use crate::reading::Reading;
use crate::rebuild::NotIndexed;
use crate::replica::{Image, ReplicaDisk};
use crate::retention::Retention;
use crate::runs::Run;
use futures_util::future::try_join_all;
use landfall_disks::uring::offload;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Disk, DiskError, Durability, ZeroMode};
use plan::{PlanError, Source, Window, Write};
use std::fmt::Write as _;
use std::sync::Arc;

/// Writes to the image that are under way at once.
const WRITES_AT_ONCE: usize = 32;

/// Why a fold was refused or cut off. Whatever it was, every moment from the start of history on reads as before, and
/// the same fold can be asked for again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// No such line, or a branch.
    #[error("{0:?} is not the trunk of a machine; only trunks are folded")]
    NotATrunk(LineId),
    /// Another fold of the line is under way.
    #[error("a fold of this line is under way already")]
    UnderWay,
    /// Neither a point nor a boundary.
    #[error("seq:{0} is no moment of the line, so history cannot begin there")]
    NotAMoment(Sequence),
    /// The newest consistent point always stays.
    #[error("seq:{floor} lies above the newest point that can be returned to{}", at(.newest))]
    AboveNewest {
        /// What was asked for.
        floor: Sequence,
        /// The newest consistent point.
        newest: Option<Sequence>,
    },
    /// Somebody holds an older moment.
    #[error("history cannot begin at seq:{floor}: {}", list(.holders))]
    Held {
        /// What was asked for.
        floor: Sequence,
        /// Who.
        holders: Vec<Holder>,
    },
    /// Media damage took a record that may have changed this range, and nothing has been written there since.
    #[error(
        "disk {disk}: what {range} held at seq:{floor} was lost to media damage; only a later \
         point, after a resync, can be folded to"
    )]
    Lost {
        /// The disk.
        disk: Name,
        /// The range.
        range: ByteRange,
        /// The floor.
        floor: Sequence,
    },
    /// The journal could not be read.
    #[error("disk {disk}: cannot read what is to be folded: {source}")]
    Journal {
        /// The disk.
        disk: Name,
        /// Why.
        source: DiskError,
    },
    /// The image could not be written. After anything but a full disk it takes no more writes until it is opened again,
    /// at the next start.
    #[error("disk {disk}: cannot write the image: {source}")]
    Image {
        /// The disk.
        disk: Name,
        /// Why.
        source: DiskError,
    },
    /// What the image holds could not be noted.
    #[error("disk {disk}: cannot write the block hashes of the image: {source}")]
    Hashes {
        /// The disk.
        disk: Name,
        /// Why.
        source: DiskError,
    },
    /// The machine was removed meanwhile.
    #[error("the machine was removed")]
    Gone,
    /// What is to be folded is not known yet.
    #[error(transparent)]
    NotIndexed(#[from] NotIndexed),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl From<ForgetDisksError> for FoldError {
    fn from(error: ForgetDisksError) -> Self {
        match error {
            ForgetDisksError::Manifest(error) => error.into(),
            ForgetDisksError::Index(error) => error.into(),
        }
    }
}

fn at(newest: &Option<Sequence>) -> String {
    newest.map_or(String::new(), |newest| format!(", seq:{newest}"))
}

fn list(holders: &[Holder]) -> String {
    let mut text = String::new();
    for (number, holder) in holders.iter().take(8).enumerate() {
        let _ = write!(text, "{}{holder}", if number == 0 { "" } else { ", " });
    }
    if holders.len() > 8 {
        let _ = write!(text, " and {} more", holders.len() - 8);
    }
    text
}

/// What a fold did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldReport {
    /// Where history begins now.
    pub start: Sequence,
    /// Disks that have this floor now.
    pub folded: Vec<Name>,
    /// Disks whose image is lost: they keep the floor they had, and the journal keeps what they need.
    pub skipped: Vec<Name>,
    /// Bytes written to images.
    pub data_bytes: u64,
    /// Bytes of images that became zero.
    pub zero_bytes: u64,
}

/// How far a fold that is under way is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldProgress {
    /// Its floor.
    pub floor: Sequence,
    /// The disk it is at.
    pub disk: Name,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Up to where it is done, in bytes.
    pub done_bytes: u64,
    /// Bytes written to images so far, of all disks.
    pub data_bytes: u64,
}

/// Where the history of a machine begins, and whether that is moving.
#[derive(Clone, Debug)]
pub struct HistoryStatus {
    /// The oldest moment, if anything older was folded.
    pub start: Option<HistoryStart>,
    /// The floor of each disk: its image holds everything up to there. None until the first copy is complete.
    pub floors: Vec<(Name, Option<Sequence>)>,
    /// A fold that is under way.
    pub folding: Option<FoldProgress>,
}

impl Retention {
    /// The trunk of a machine.
    pub fn trunk(&self, machine: &Name) -> Result<LineId, ResolveError> {
        self.line_there(machine, None).map(|line| line.id())
    }

    /// Where the history of a machine begins.
    pub fn history(&self, machine: &Name) -> Result<HistoryStatus, ResolveError> {
        let line = self.line_there(machine, None)?;
        let floor = |disk: Arc<ReplicaDisk>| (disk.name().clone(), disk.floor());
        Ok(HistoryStatus {
            start: line.start(),
            floors: self.disks_of(&line).into_iter().map(floor).collect(),
            folding: line.fold_progress(),
        })
    }

    /// Everybody who holds a moment of a trunk below `floor`.
    pub fn holders_below(&self, line: LineId, floor: Sequence) -> Vec<Holder> {
        let mut holders = {
            let state = self.manifest.state();
            state.lines.get(&line).map(|entry| recorded_holders(&state, entry, floor))
        }
        .unwrap_or_default();
        holders.extend(self.line(line).map(|line| line.readers_below(floor)).unwrap_or_default());
        holders
    }

    /// Trunks with a fold that was cut off, and its floor: to be folded to again.
    pub fn unfinished_folds(&self) -> Vec<(LineId, Sequence)> {
        let state = self.manifest.state();
        let unfinished = |line: &LineId, start: Sequence| {
            let line = self.line(*line).filter(|line| line.is_indexed())?;
            let open = self.disks_of(&line).iter().any(|disk| is_due(disk, start));
            open.then_some((line.id(), start))
        };
        let started = state.lines.values().filter_map(|line| Some((line.id, line.start.as_ref()?)));
        started.filter_map(|(line, start)| unfinished(&line, start.sequence)).collect()
    }

    /// Lets the history of a trunk begin at `floor`, a point or boundary of it, and moves everything up to there into the
    /// images. Nothing older can be opened from the moment this is accepted. A floor at or below the start of history
    /// ends a fold that was cut off. Durable on return.
    pub async fn fold_to(
        &self,
        line: LineId,
        floor: Sequence,
        pace: &dyn Pace,
    ) -> Result<FoldReport, FoldError> {
        let found = self.line(line).filter(|line| !line.is_branch());
        let line = found.ok_or(FoldError::NotATrunk(line))?;
        line.check_indexed()?;
        let _alone = line.shared().folding.try_lock().map_err(|_| FoldError::UnderWay)?;
        let _progress = ProgressEnds(&line);
        let start = self.begin_history(&line, floor).await?;
        self.forget_disks(&line, start).await?;
        let mut report = FoldReport { start, ..FoldReport::default() };
        for disk in self.disks_of(&line) {
            match disk.image() {
                Image::Present(image) if is_due(&disk, start) => {
                    let fold = DiskFold { retention: self, line: &line, disk: &disk, image, start };
                    fold.run(pace, &mut report).await?;
                    report.folded.push(disk.name().clone());
                }
                Image::Lost(_) if disk.floor().is_some_and(|old| old < start) => {
                    report.skipped.push(disk.name().clone());
                }
                _ => {}
            }
        }
        Ok(report)
    }

    pub(super) fn disks_of(&self, line: &Line) -> Vec<Arc<ReplicaDisk>> {
        let machines = self.machines.read();
        machines.disks.values().filter(|disk| disk.machine() == line.machine()).cloned().collect()
    }

    /// Moves the start of history up to `floor`, durably; gives where it is.
    async fn begin_history(
        &self,
        line: &Arc<Line>,
        floor: Sequence,
    ) -> Result<Sequence, FoldError> {
        let present = {
            let state = self.manifest.state();
            let entry = state.lines.get(&line.id()).ok_or(FoldError::Gone)?;
            entry.start.as_ref().map(|start| start.sequence)
        };
        if let Some(present) = present.filter(|present| floor <= *present) {
            line.drop_folded_points();
            return Ok(present);
        }
        let start = self.moment_to_begin_at(line, floor).await?;
        let logged = self.manifest.change(|state| {
            let entry = state.lines.get(&line.id()).ok_or(FoldError::Gone)?;
            let holders = recorded_holders(state, entry, floor);
            if !holders.is_empty() {
                return Err(FoldError::Held { floor, holders });
            }
            let moved = line.move_start(start.clone());
            moved.map_err(|holders| FoldError::Held { floor, holders })?;
            Ok((vec![ManifestRecord::FoldStarted { line: line.id(), start: start.clone() }], ()))
        });
        if let Err(error) = logged.await {
            let state = self.manifest.state();
            line.reset_start(state.lines.get(&line.id()).and_then(|entry| entry.start.clone()));
            return Err(error);
        }
        line.drop_folded_points();
        Ok(floor)
    }

    /// What the manifest will keep of the moment at `floor`.
    async fn moment_to_begin_at(
        &self,
        line: &Arc<Line>,
        floor: Sequence,
    ) -> Result<HistoryStart, FoldError> {
        let newest = line.points(|points| points.latest().map(|point| point.sequence));
        if newest.is_none_or(|newest| floor > newest) {
            return Err(FoldError::AboveNewest { floor, newest });
        }
        let marked = line.points(|points| {
            points.at(floor).map(|point| HistoryStart {
                sequence: floor,
                commit_time: point.commit_time,
                source_time: point.source_time,
                kind: Some(point.kind),
                label: point.label.clone(),
            })
        });
        if let Some(start) = marked {
            return Ok(start);
        }
        if line.dropped().contains(floor) {
            return Err(FoldError::NotAMoment(floor));
        }
        let (index, line) = (Arc::clone(&self.surroundings.index), Arc::clone(line));
        let boundary = offload(move || line.boundary_at(&*index, floor)).await?;
        let boundary = boundary.ok_or(FoldError::NotAMoment(floor))?;
        Ok(HistoryStart {
            sequence: floor,
            commit_time: boundary.commit_time,
            source_time: crate::time::Timestamp::default(),
            kind: None,
            label: None,
        })
    }
}

/// A fold that ends, however it does, shows no progress any more.
struct ProgressEnds<'a>(&'a Line);

impl Drop for ProgressEnds<'_> {
    fn drop(&mut self) {
        self.0.note_fold(None);
    }
}

/// Whether the image of a disk has to be brought up to `start`. One without a floor has no history yet.
fn is_due(disk: &ReplicaDisk, start: Sequence) -> bool {
    matches!(disk.image(), Image::Present(_)) && disk.floor().is_some_and(|floor| floor < start)
}

/// The fold of one disk.
struct DiskFold<'a> {
    retention: &'a Retention,
    line: &'a Arc<Line>,
    disk: &'a Arc<ReplicaDisk>,
    image: Arc<dyn Disk>,
    start: Sequence,
}

impl DiskFold<'_> {
    async fn run(&self, pace: &dyn Pace, report: &mut FoldReport) -> Result<(), FoldError> {
        self.grow_image().await?;
        let source = Arc::new(self.source());
        let mut next = Some(ByteOffset::new(0));
        while let Some(from) = next {
            let planned = self.window(&source, from).await?;
            let data = plan::data_bytes(&planned.writes);
            let lane = self.retention.lane(self.line.lane());
            pace.admit(data, &|| lane.waiting()).await;
            if self.line.is_closed() {
                return Err(FoldError::Gone);
            }
            // While it waited, segments may have been compacted. What is found in this turn stays until it was read.
            let _turn = self.retention.reading.turns.begin();
            let window = if data > 0 { self.window(&source, from).await? } else { planned };
            // Nobody compares the image with its hashes between the one and the other.
            let mut hashes = self.disk.hashes().update().await;
            for some in window.writes.chunks(WRITES_AT_ONCE) {
                let written = try_join_all(some.iter().map(|write| self.write(write))).await?;
                hashes.take(&written).await.map_err(|source| self.hashes_failed(source))?;
            }
            hashes.settle().await.map_err(|source| self.hashes_failed(source))?;
            drop(hashes);
            report.data_bytes += data;
            report.zero_bytes += zero_bytes(&window);
            next = window.next;
            self.note_progress(next, report);
        }
        self.image.flush().await.map_err(|source| self.image_failed(source))?;
        let (disk, floor) = (self.disk.id(), self.start);
        let mut hashes = self.disk.hashes().update().await;
        let noted = hashes.finish(floor, self.size_bytes()).await;
        noted.map_err(|source| self.hashes_failed(source))?;
        drop(hashes);
        let record = ManifestRecord::FoldDone { disk, floor };
        self.retention.manifest.append(vec![record]).await?;
        self.disk.set_floor(floor);
        // Only now may the index lose what the image has.
        self.retention.refresh_forgotten();
        Ok(())
    }

    /// The size of the disk at the new start: first of all, since everything else is written into that.
    async fn grow_image(&self) -> Result<(), FoldError> {
        let size_bytes = self.size_bytes();
        if self.image.geometry().size_bytes < size_bytes {
            let grown = self.image.resize(size_bytes).await;
            grown.map_err(|source| self.image_failed(source))?;
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.disk.size_at(self.start)
    }

    fn source(&self) -> Source {
        let floor = self.disk.floor().unwrap_or_default();
        let mut layers = self.line.layers(self.start);
        layers.retain(|layer| layer.newest > floor);
        layers.iter_mut().for_each(|layer| layer.gap = layer.gap.filter(|gap| *gap > floor));
        Source { layers, floor, disk: self.disk.id(), size_bytes: self.size_bytes() }
    }

    async fn window(&self, source: &Arc<Source>, from: ByteOffset) -> Result<Window, FoldError> {
        let (index, source) = (Arc::clone(&self.retention.surroundings.index), Arc::clone(source));
        let planned = offload(move || source.window(&*index, from)).await;
        planned.map_err(|error| match error {
            PlanError::Index(error) => error.into(),
            PlanError::Lost(range) => {
                FoldError::Lost { disk: self.disk.name().clone(), range, floor: self.start }
            }
        })
    }

    /// Writes to the image; gives what it holds there from now on.
    async fn write(&self, write: &Write) -> Result<Sums, FoldError> {
        let size_bytes = self.size_bytes();
        let inside = ByteRange::up_to(size_bytes).intersection(write.range());
        let (written, sums) = match write {
            Write::Zeroes(_) => {
                let written = self.image.write_zeroes(inside, ZeroMode::Unmap, Durability::Cached);
                (written.await, Sums::zeroes(inside, size_bytes))
            }
            Write::Data(range, pieces) => {
                let bytes = self.read(*range, pieces).await?;
                let checksums = checksums(pieces);
                let start = inside.start();
                let (mut bytes, sums) = offload(move || {
                    let checksums = checksums.unwrap_or_else(|| block_checksums(&bytes));
                    let sums = Sums::with_checksums(start, &bytes, checksums, size_bytes);
                    (bytes, sums)
                })
                .await;
                bytes.narrow(0..length(inside.length()));
                (self.image.write(start, bytes, Durability::Cached).await, sums)
            }
        };
        self.retention.reading.cache.image_changed(self.disk.id(), inside);
        written.map_err(|source| self.image_failed(source))?;
        Ok(sums)
    }

    /// The bytes of `range`, put together from its pieces in the journal.
    async fn read(
        &self,
        range: ByteRange,
        pieces: &[(ByteRange, Run)],
    ) -> Result<Buffer, FoldError> {
        let reading: &Reading = &self.retention.reading;
        let mut rest = Buffer::for_overwriting(length(range.length()));
        let mut reads = Vec::with_capacity(pieces.len());
        for (piece, run) in pieces {
            let tail = rest.split_off(length(piece.length()));
            let Run::Journal { segment, unit, checksums, seals } = run else {
                unreachable!("{run:?} is not data")
            };
            let (of, place) = ((self.disk.id(), *piece), (*segment, *unit));
            reads.push(reading.read_journal(of, place, checksums, seals, rest));
            rest = tail;
        }
        let mut whole: Option<Buffer> = None;
        let disk = || self.disk.name().clone();
        let parts = try_join_all(reads).await;
        for part in parts.map_err(|source| FoldError::Journal { disk: disk(), source })? {
            match &mut whole {
                Some(head) => head.unsplit(part),
                None => whole = Some(part),
            }
        }
        Ok(whole.unwrap_or(rest))
    }

    fn image_failed(&self, source: DiskError) -> FoldError {
        FoldError::Image { disk: self.disk.name().clone(), source }
    }

    fn hashes_failed(&self, source: DiskError) -> FoldError {
        FoldError::Hashes { disk: self.disk.name().clone(), source }
    }

    fn note_progress(&self, next: Option<ByteOffset>, report: &FoldReport) {
        let size_bytes = self.size_bytes();
        self.line.note_fold(Some(FoldProgress {
            floor: self.start,
            disk: self.disk.name().clone(),
            size_bytes,
            done_bytes: next.map_or(size_bytes, ByteOffset::bytes),
            data_bytes: report.data_bytes,
        }));
    }
}

/// CRC32C of the blocks of runs of the journal, which were checked when they were read; `None` if some were sealed, as theirs
/// are of what is stored.
fn checksums(pieces: &[(ByteRange, Run)]) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for (_, run) in pieces {
        match run {
            Run::Journal { checksums, seals, .. } if seals.is_empty() => all.extend(checksums),
            Run::Journal { .. } => return None,
            other => unreachable!("{other:?} is not data"),
        }
    }
    Some(all)
}

fn zero_bytes(window: &Window) -> u64 {
    let zeroes = window.writes.iter().filter(|write| matches!(write, Write::Zeroes(_)));
    zeroes.map(|write| write.range().length()).sum()
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("windows are a few MiB")
}
