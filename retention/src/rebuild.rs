//! An index that lacks much of the journal: the store is opened all the same, and gets it piece by piece.
//!
//! ```text
//!   open ─▶ the newest segments of each lane ─▶ lanes go on ─▶ index_more … index_more ─▶ whole
//!                                                              │ line: its end is known    ─▶ its stream goes on
//!                                                              └ line: nothing lacks above the floors ─▶ its moments open
//! ```
//!
//! A look at a moment needs what was written to each block last, however long ago that was: everything above the floors of the
//! disks. So a line is shown as a whole or not at all. What lies at or below floors is in the images; who waits for it are
//! those that look at the index as a whole: compaction, the release of segments, scrub, quotas, checkpoints.
//!
//! **Invariant:** no moment is chosen, read, dropped or folded on a line of which the index lacks something above the floors
//! ([`Line::check_indexed`]). Which of it lacks is not written down: until a lane is whole the index says of it what it said before
//! (`journal/rebuild/`), so a crash begins again.

use crate::fold::Pace;
use crate::ids::{LaneId, LineId, SegmentId, Sequence, StreamId};
use crate::index::IndexError;
use crate::index::gap_key::Lost;
use crate::index::tail_key::LineTail;
use crate::journal::draft::AppendError;
use crate::journal::rebuild::{LaneRebuild, Windows};
use crate::journal::recovery::Damage;
use crate::journal::replay::ReplayError;
use crate::line::{Line, LineState};
use crate::manifest::ManifestError;
use crate::manifest::state::{LineEntry, Machine, ManifestState};
use crate::point::Point;
use crate::retention::{Retention, read_line};
use crate::stream::order::settle_order;
use crate::thinning::instants;
use landfall_disks::uring::offload;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The index lacks something of what is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the index is being built from the journal and has not come to it yet; {files} segments are left to be read"
)]
pub struct NotIndexed {
    /// Files of the journal that are left to be read, of all lanes.
    pub files: usize,
}

/// How far an index is that lacked much of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IndexStatus {
    /// Files of the journal that it lacked when the store was opened; zero if it had all but a few.
    pub files: usize,
    /// Files that are left.
    pub left: usize,
    /// Whether anything is left to be done.
    pub whole: bool,
    /// Why it does not go on, if the last step of a lane failed.
    pub failure: Option<String>,
    /// Damaged places of the journal that were found since the store was opened, and what was lost there; one line each.
    pub damage: Vec<String>,
}

/// What is shared with those who wait.
#[derive(Debug)]
pub(crate) struct Indexing {
    files: AtomicUsize,
    left: AtomicUsize,
    whole: AtomicBool,
    /// What was found damaged since the start.
    damage: Mutex<Vec<String>>,
    damaged: AtomicBool,
    /// Of each lane that cannot go on, why.
    failures: Mutex<BTreeMap<LaneId, String>>,
}

impl Default for Indexing {
    fn default() -> Self {
        Self {
            files: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            whole: AtomicBool::new(true),
            damage: Mutex::default(),
            damaged: AtomicBool::new(false),
            failures: Mutex::default(),
        }
    }
}

impl Indexing {
    /// A lane lacks `files`.
    pub(crate) fn begin(&self, files: usize) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.whole.store(false, Ordering::Release);
    }

    /// That nothing lacks.
    pub(crate) fn check(&self) -> Result<(), NotIndexed> {
        if self.whole.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(NotIndexed { files: self.left.load(Ordering::Relaxed) })
    }

    /// How many files are left.
    pub(crate) fn note_left(&self, left: usize) {
        self.left.store(left, Ordering::Relaxed);
    }

    /// Part of the journal is damaged: positions of streams are not vouched for.
    pub(crate) fn note_damage(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }
}

/// What a line lacks.
#[derive(Clone, Debug)]
pub(crate) struct Lacking {
    pub(crate) indexing: Arc<Indexing>,
    /// Whether it is known where the line ends.
    pub(crate) tail_known: bool,
}

impl Lacking {
    pub(crate) fn error(&self) -> NotIndexed {
        NotIndexed { files: self.indexing.left.load(Ordering::Relaxed) }
    }
}

/// Why the index does not get more. The next call begins with the same piece.
#[derive(Debug, thiserror::Error)]
pub enum IndexMoreError {
    /// A segment cannot be read, or the index not be written.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The lane failed, or stops.
    #[error(transparent)]
    Lane(#[from] AppendError),
}

impl Retention {
    /// How far the index is, if it lacked much of the journal.
    pub fn index_status(&self) -> IndexStatus {
        let indexing = &self.indexing;
        IndexStatus {
            files: indexing.files.load(Ordering::Relaxed),
            left: indexing.left.load(Ordering::Relaxed),
            whole: indexing.check().is_ok(),
            failure: indexing.failures.lock().values().next().cloned(),
            damage: indexing.damage.lock().clone(),
        }
    }

    /// Puts one more segment of what it lacks into the index; whether there is more to do. To be called until there is not,
    /// beside everything else: who writes to the lane is waited for.
    pub async fn index_more(&self, pace: &dyn Pace) -> Result<bool, IndexMoreError> {
        let mut rebuilds = self.rebuilds.lock().await;
        let mut failed = None;
        // Lanes take turns; one that cannot go on holds no other up.
        for _ in 0..rebuilds.len() {
            let lane = rebuilds[0].lane();
            let done = self.index_one(&mut rebuilds[0], pace).await;
            match &done {
                Ok(_) => self.indexing.failures.lock().remove(&lane),
                Err(error) => self.indexing.failures.lock().insert(lane, error.to_string()),
            };
            match done {
                Ok(true) => {
                    rebuilds.remove(0);
                }
                Ok(false) => rebuilds.rotate_left(1),
                Err(error) => {
                    rebuilds.rotate_left(1);
                    failed = Some(error);
                    continue;
                }
            }
            failed = None;
            break;
        }
        self.indexing.note_left(rebuilds.iter().map(LaneRebuild::left).sum());
        if let Some(error) = failed {
            return Err(error);
        }
        if rebuilds.is_empty() {
            self.indexing.whole.store(true, Ordering::Release);
        }
        Ok(!rebuilds.is_empty())
    }

    /// One more segment of a lane; whether it was the last one, and the index has all of the lane.
    async fn index_one(
        &self,
        rebuild: &mut LaneRebuild,
        pace: &dyn Pace,
    ) -> Result<bool, IndexMoreError> {
        let lane = rebuild.lane();
        let (damage, gaps) = (rebuild.damage().len(), rebuild.gaps().len());
        let waiting = || self.lane(lane).waiting();
        let stepped = rebuild.step(&Windows { pace: Some(pace), waiting: &waiting }).await;
        for found in damage_in_words(lane, &rebuild.damage()[damage..], &rebuild.gaps()[gaps..]) {
            tracing::error!("the journal is damaged: {found}");
            self.indexing.damage.lock().push(found);
            self.indexing.note_damage();
        }
        stepped?;
        self.show_indexed(rebuild).await?;
        if !rebuild.is_done() {
            return Ok(false);
        }
        // All of this may be done again, should a part of it fail.
        self.lane(lane).indexed(rebuild.ending()).await?;
        let index = Arc::clone(&self.surroundings.index);
        offload(move || index.flush()).await?;
        Ok(true)
    }

    /// Lines of a lane learn what is known of them now.
    async fn show_indexed(&self, rebuild: &LaneRebuild) -> Result<(), IndexMoreError> {
        // Each after the one it starts from: whoever sees a branch sees what was lost of that.
        let lines: Vec<_> = {
            let state = self.manifest.state();
            let machines = self.machines.read();
            let of_lane = state.lines_in_order().into_iter();
            let of_lane = of_lane.filter(|entry| entry.lane == rebuild.lane());
            let there = of_lane.filter_map(|entry| machines.lines.get(&entry.id));
            there.filter(|line| !line.is_indexed()).cloned().collect()
        };
        let mut shown = false;
        for line in lines {
            // It may have gone meanwhile, and what it takes over may have changed.
            let (entry, tail, whole) = {
                let state = self.manifest.state();
                let Some(entry) = state.lines.get(&line.id()) else { continue };
                (entry.clone(), known_tail(entry, rebuild), is_indexed(&state, entry, rebuild))
            };
            let parent = entry.origin.and_then(|(parent, _)| self.line(parent));
            let whole = whole && parent.is_none_or(|parent| parent.is_indexed());
            if let Some(tail) = tail.filter(|_| line.check_tail().is_err()) {
                let mut found = self.read_line_of(&entry).await?;
                found.tail = tail;
                line.set_tail(&entry, found);
                // Whatever fails until here is done again with the next segment.
                self.settle_order_of::<IndexMoreError>(&line).await?;
                self.settle_stream_of(&entry);
                line.tail_is_known();
            }
            if whole && line.check_tail().is_ok() {
                let found = self.read_line_of(&entry).await?;
                let kept = self.kept_of(&line, &entry, &found).await?;
                line.set_indexed(&found);
                line.add_points(kept);
                shown = true;
            }
        }
        if shown {
            self.refresh_forgotten();
        }
        Ok(())
    }

    /// A line that is there, if its moments can be looked at.
    pub(crate) fn indexed(&self, line: LineId) -> Option<Arc<Line>> {
        self.line(line).filter(|line| line.is_indexed())
    }

    async fn read_line_of(&self, entry: &LineEntry) -> Result<LineState, IndexError> {
        let (index, of) = (Arc::clone(&self.surroundings.index), entry.clone());
        offload(move || read_line(&*index, &of)).await
    }

    /// Instants that thinning made points, and the point where history begins.
    async fn kept_of(
        &self,
        line: &Arc<Line>,
        entry: &LineEntry,
        found: &LineState,
    ) -> Result<Vec<Point>, IndexError> {
        let start = entry.start.as_ref().and_then(|start| start.point());
        let marked = |sequence: &Sequence| found.catalogue.at(*sequence).is_some();
        let kept = entry.dropped.kept_between().filter(|sequence| !marked(sequence));
        let kept: Vec<Sequence> = kept.collect();
        let (index, of) = (Arc::clone(&self.surroundings.index), Arc::clone(line));
        let found = offload(move || instants(&*index, &of, &kept)).await?;
        Ok(start.into_iter().chain(found).collect())
    }

    /// Whoever delivered in order when the target stopped is gone: what comes next is not known to follow.
    pub(crate) async fn settle_order_of<E>(&self, line: &Arc<Line>) -> Result<(), E>
    where
        E: From<IndexError> + From<ManifestError>,
    {
        if line.ordered().open_since().is_none() {
            return Ok(());
        }
        let (index, of) = (Arc::clone(&self.surroundings.index), Arc::clone(line));
        // Records that were lost behind it are no instants.
        let newest = offload(move || of.boundary_at_or_below(&*index, of.tail().sequence));
        let newest = newest.await?.map(|newest| newest.sequence);
        let now = self.surroundings.clock.now();
        Ok(settle_order(&self.manifest, line, newest, now).await?)
    }

    fn settle_stream_of(&self, entry: &LineEntry) {
        let state = self.manifest.state();
        let of_line = |machine: &&Machine| machine.trunk == entry.id;
        if let Some(machine) = state.machines.get(&entry.machine).filter(of_line) {
            self.settle_stream(&state, machine);
        }
    }
}

/// What was found damaged in a lane, and what lines lost by it.
pub(crate) fn damage_in_words(
    lane: LaneId,
    damage: &[(SegmentId, Damage)],
    gaps: &[Lost],
) -> Vec<String> {
    let place = |(segment, damage): &(SegmentId, Damage)| {
        let Damage { bytes, case } = damage;
        let (start, end) = (bytes.start, bytes.end);
        format!("segment {segment} of lane {lane}: bytes {start}..{end} are damaged (case {case})")
    };
    let lost = |lost: &Lost| {
        format!("{:?} lost records seq:{} to seq:{}, or may have", lost.line, lost.first, lost.last)
    };
    damage.iter().map(place).chain(gaps.iter().map(lost)).collect()
}

/// Where a line ends, if records that are there say so. How far its stream was is part of that, if it has one.
pub(crate) fn known_tail(entry: &LineEntry, rebuild: &LaneRebuild) -> Option<LineTail> {
    let streams = entry.stream != StreamId::NONE;
    rebuild.lines().tail(entry.id, streams)
}

/// Whether the index has all that a moment of a line may need: above the floors of the disks, whatever it was written as.
pub(crate) fn is_indexed(state: &ManifestState, entry: &LineEntry, rebuild: &LaneRebuild) -> bool {
    let floor = floor_of(state, entry);
    let own = entry.stretches().all(|stretch| {
        let needed = stretch.above.max(floor);
        needed >= stretch.up_to || rebuild.lines().indexed_above(stretch.line) <= needed
    });
    let parent = entry.origin.and_then(|(parent, _)| state.lines.get(&parent));
    own && parent.is_none_or(|parent| is_indexed(state, parent, rebuild))
}

/// Up to where the images have it all, and nothing older is opened; nothing of a branch is in images.
fn floor_of(state: &ManifestState, entry: &LineEntry) -> Sequence {
    let Some(start) = entry.start.as_ref().filter(|_| entry.origin.is_none()) else {
        return Sequence::default();
    };
    let disks = state.disks.values().filter(|disk| disk.machine == entry.machine);
    disks.filter_map(|disk| disk.floor).fold(start.sequence, Ord::min)
}
