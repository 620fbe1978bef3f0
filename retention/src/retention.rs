//! The store of all machines: opened from what it is given, closed when its last handle goes.
//!
//! ```text
//!   open: MANIFEST ─▶ lanes replayed into the index ─▶ lines with their tails ─▶ images opened ─▶ lane tasks
//!                     └ of many segments the newest; the others beside everything else (rebuild.rs)
//! ```
//!
//! Lock order: `machines` (the maps of lines and disks) before any line's state; neither is held across an await.
//! Changes of machines, branches and exports go through [`Manifest::change`], which lets one at a time decide.

use crate::compact::Summaries;
use crate::doubts::BranchBlocks;
use crate::groups::OfGroup;
use crate::ids::{DiskId, Generation, GroupId, LaneId, LineId, MachineId, Sequence};
use crate::image_hashes::PageCache;
use crate::index::forgotten::Forgotten;
use crate::index::gap_key::read_gaps;
use crate::index::moment_key::read_points;
use crate::index::owner_key::check_owner;
use crate::index::tail_key::{read_progress, read_tail};
use crate::index::{IndexError, IndexStore};
use crate::ingest::Feed;
use crate::journal::lane::{JournalSettings, LaneHandle, LaneParts, LaneTask};
use crate::journal::rebuild::LaneRebuild;
use crate::journal::replay::{LaneReplay, ReplayError, replay_lane};
use crate::journal::segment::Segments;
use crate::keys::open_keys;
use crate::line::{Line, LineState};
use crate::manifest::state::{LineEntry, Machine, ManifestState};
use crate::manifest::{Manifest, ManifestError};
use crate::policy::Policy;
use crate::reading::{Reading, ReadingMemory};
use crate::rebuild::{Indexing, Lacking, damage_in_words, is_indexed, known_tail};
use crate::replica::opening::open_disks;
use crate::replica::{ImageStore, ReplicaDisk};
use crate::sealing::Encryption;
use crate::standby::UnderWay;
use crate::stream::StreamSlot;
use crate::thinning::{Thinning, instants};
use crate::time::Clock;
use landfall_disks::file::Folder;
use landfall_disks::image::ImageError;
use landfall_disks::uring::offload;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where random numbers come from.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// Everything of the world outside that retention touches.
#[derive(Clone)]
pub struct Surroundings {
    /// Holds `MANIFEST`.
    pub data: Arc<dyn Folder>,
    /// Holds the segments.
    pub journal: Arc<dyn Folder>,
    /// Makes and opens images.
    pub images: Arc<dyn ImageStore>,
    /// Where versions lie.
    pub index: Arc<dyn IndexStore>,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Salts and ids.
    pub random: Arc<dyn Random>,
}

/// Limits, sizes and defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the journal.
    pub journal: JournalSettings,
    /// Memory for the leaves of views, in bytes.
    pub leaf_cache_bytes: usize,
    /// Memory for blocks that were read, in bytes; 0: none is kept.
    pub read_cache_bytes: usize,
    /// Memory for the block hashes of images, in bytes: 1 MiB checks reads of about a gigabyte of images.
    pub hash_cache_bytes: usize,
    /// Lanes that new groups are spread over; one per I/O core.
    pub lanes: u16,
    /// How long and how densely points of groups are kept that were given no policy.
    pub default_policy: Policy,
    /// How history is encrypted.
    pub encryption: Encryption,
    /// Segments of a lane that the index may lack for all of them to be read before the store is open; of more, that many are, and
    /// the rest by [`Retention::index_more`].
    pub index_at_once: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            journal: JournalSettings::default(),
            leaf_cache_bytes: 64 << 20,
            read_cache_bytes: 64 << 20,
            hash_cache_bytes: 64 << 20,
            lanes: 1,
            default_policy: Policy::default(),
            encryption: Encryption::default(),
            index_at_once: 16,
        }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The journal.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// An image that is there cannot be opened.
    #[error("image {path}: {source}")]
    Image {
        /// Which.
        path: String,
        /// Why.
        source: Box<ImageError>,
    },
}

/// An opened store.
pub struct Opened {
    /// The store.
    pub retention: Arc<Retention>,
    /// One task per lane: each is to be run on the I/O core of its lane.
    pub lanes: Vec<LaneTask>,
    /// What opening found.
    pub report: OpenReport,
}

/// What opening found.
#[derive(Debug, Default, Clone)]
pub struct OpenReport {
    /// Records of the journal that the index did not have.
    pub records_replayed: u64,
    /// Whether the index was empty although the journal is not.
    pub index_rebuilt: bool,
    /// Segments that are left for [`Retention::index_more`].
    pub index_left: usize,
    /// Damaged places of the journal, one line each.
    pub damage: Vec<String>,
    /// Images that are gone, one line each.
    pub images_lost: Vec<String>,
}

/// The machines, their lines and disks.
#[derive(Default)]
pub(crate) struct Machines {
    pub(crate) lines: BTreeMap<LineId, Arc<Line>>,
    pub(crate) disks: BTreeMap<DiskId, Arc<ReplicaDisk>>,
    pub(crate) streams: BTreeMap<MachineId, Arc<StreamSlot>>,
}

type BlocksOfBranches = HashMap<(LineId, DiskId), Arc<BranchBlocks>>;

/// The store.
pub struct Retention {
    pub(crate) surroundings: Surroundings,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) reading: Arc<Reading>,
    pub(crate) lanes: Vec<LaneHandle>,
    pub(crate) machines: RwLock<Machines>,
    pub(crate) branch_blocks: Mutex<BlocksOfBranches>,
    /// Held by the one pass there may be.
    pub(crate) thinning: tokio::sync::Mutex<Thinning>,
    /// Of groups that were given none.
    pub(crate) default_policy: Policy,
    /// Held by the one scrub there may be.
    pub(crate) scrubbing: tokio::sync::Mutex<()>,
    /// Machines whose standby files are being written.
    pub(crate) standbys: UnderWay,
    /// Machines that are or were fed through their disks.
    pub(crate) feeds: Mutex<BTreeMap<MachineId, Arc<Feed>>>,
    /// What barriers of the same group share.
    pub(crate) barriers: Mutex<BTreeMap<GroupId, Arc<OfGroup>>>,
    /// Block hashes of images that were asked for.
    pub(crate) hash_cache: Arc<PageCache>,
    /// Which lines need which segments; held by the one look for free segments there may be.
    pub(crate) summaries: tokio::sync::Mutex<Summaries>,
    /// Of the lanes.
    pub(crate) journal: JournalSettings,
    /// What data keys are wrapped with.
    pub(crate) encryption: Encryption,
    /// How much the index lacks.
    pub(crate) indexing: Arc<Indexing>,
    /// What puts that into it; held by the one step there may be.
    pub(crate) rebuilds: tokio::sync::Mutex<Vec<LaneRebuild>>,
}

impl Retention {
    /// Opens the store: replays the journal into the index, opens images, gives the lane tasks to be run.
    pub async fn open(surroundings: Surroundings, settings: Settings) -> Result<Opened, OpenError> {
        let mut folder_id = [0; 16];
        surroundings.random.fill(&mut folder_id);
        let manifest = Arc::new(Manifest::open(Arc::clone(&surroundings.data), folder_id).await?);
        let state = manifest.state().clone();
        check_owner(&*surroundings.index, manifest.folder_id())?;
        let journal = Arc::clone(&surroundings.journal);
        let segments = Arc::new(Segments::new(journal, &state));
        let keys = open_keys(&manifest, &settings.encryption, &*surroundings.random).await?;
        let keys = Arc::new(keys);
        surroundings.index.set_forgotten(Forgotten::of(&state));
        let mut report = OpenReport::default();
        let indexing = Arc::<Indexing>::default();
        let mut rebuilds = Vec::new();
        let mut lanes = Vec::new();
        let mut handles = Vec::new();
        for lane in 0..lane_count(&state, settings.lanes) {
            let lane = LaneId::new(lane);
            segments.remove_unknown(lane, state.given.segment).await.map_err(ReplayError::File)?;
            let bringing =
                Bringing { manifest: &manifest, segments: &segments, indexing: &indexing };
            let at_once = settings.index_at_once;
            let (replay, rebuild) =
                bringing.bring(lane, &surroundings, at_once, &mut report).await?;
            let behind = rebuild.is_some();
            rebuilds.extend(rebuild);
            let random = Arc::clone(&surroundings.random);
            let (task, handle) = LaneTask::new(LaneParts {
                lane,
                next: replay.next,
                segments: Arc::clone(&segments),
                manifest: Arc::clone(&manifest),
                index: Arc::clone(&surroundings.index),
                clock: Arc::clone(&surroundings.clock),
                settings: settings.journal.checked(),
                keys: Arc::clone(&keys),
                salts: Box::new(move || {
                    let mut salt = [0; 8];
                    random.fill(&mut salt);
                    u64::from_le_bytes(salt)
                }),
                behind,
            });
            lanes.push(task);
            handles.push(handle);
        }
        report.index_left = rebuilds.iter().map(LaneRebuild::left).sum();
        indexing.note_left(report.index_left);
        if !report.damage.is_empty() {
            indexing.note_damage();
        }
        let lines = load_lines(&state, &surroundings, &rebuilds, &indexing).await?;
        let hash_cache = Arc::new(PageCache::new(settings.hash_cache_bytes));
        let (disks, lost) = open_disks(&manifest, &surroundings, &hash_cache).await?;
        report.images_lost = lost;
        let streams = state.machines.keys().map(|id| (*id, Arc::default())).collect();
        let index = Arc::clone(&surroundings.index);
        let Settings { leaf_cache_bytes, read_cache_bytes, .. } = settings;
        let memory = ReadingMemory { leaf_cache_bytes, read_cache_bytes };
        let reading = Reading::new(index, segments, keys, memory);
        let newest_commit = lines.values().map(|line| line.tail().commit_time).max();
        let newest_commit = newest_commit.unwrap_or_default();
        let thinning = Thinning::new(&state, newest_commit, &*surroundings.clock);
        let retention = Self {
            surroundings,
            manifest,
            reading: Arc::new(reading),
            lanes: handles,
            machines: RwLock::new(Machines { lines, disks, streams }),
            branch_blocks: Mutex::default(),
            thinning: tokio::sync::Mutex::new(thinning),
            default_policy: settings.default_policy,
            scrubbing: tokio::sync::Mutex::default(),
            standbys: UnderWay::default(),
            feeds: Mutex::default(),
            barriers: Mutex::default(),
            hash_cache,
            summaries: tokio::sync::Mutex::default(),
            journal: settings.journal.checked(),
            encryption: settings.encryption,
            indexing,
            rebuilds: tokio::sync::Mutex::new(rebuilds),
        };
        retention.settle_streams();
        retention.settle_orders().await?;
        retention.refresh_forgotten();
        Ok(Opened { retention: Arc::new(retention), lanes, report })
    }

    /// To be called every second or so: idle lanes vouch for their last batch.
    pub async fn tick(&self) {
        for lane in &self.lanes {
            // A lane that cannot vouch has failed and said so.
            let _ = lane.vouch().await;
        }
    }

    /// Flushes the index, so that the next start has nothing to replay.
    pub async fn close(&self) -> Result<(), IndexError> {
        self.tick().await;
        let index = Arc::clone(&self.surroundings.index);
        offload(move || index.flush()).await
    }

    pub(crate) fn lane(&self, lane: LaneId) -> &LaneHandle {
        &self.lanes[usize::from(lane.number())]
    }

    pub(crate) fn line(&self, line: LineId) -> Option<Arc<Line>> {
        self.machines.read().lines.get(&line).cloned()
    }

    async fn settle_orders(&self) -> Result<(), OpenError> {
        let lines: Vec<_> = self.machines.read().lines.values().cloned().collect();
        for line in lines.iter().filter(|line| line.check_tail().is_ok()) {
            self.settle_order_of::<OpenError>(line).await?;
        }
        Ok(())
    }

    fn settle_streams(&self) {
        let state = self.manifest.state();
        state.machines.values().for_each(|machine| self.settle_stream(&state, machine));
    }

    /// Positions of a first copy are not in the journal, and damage may have taken some: such streams start over.
    pub(crate) fn settle_stream(&self, state: &ManifestState, machine: &Machine) {
        let machines = self.machines.read();
        let seeding = machine
            .disks
            .iter()
            .filter_map(|disk| machines.disks.get(disk))
            .any(|disk| disk.floor().is_none());
        let line = &machines.lines[&machine.trunk];
        let tail = line.tail();
        let entry = &state.lines[&machine.trunk];
        let known = tail.generation == entry.generation && tail.stream == entry.stream;
        if let Some(slot) = machines.streams.get(&machine.id)
            && known
            && !seeding
            && !self.indexing.is_damaged()
        {
            let mut slot = slot.inner.lock();
            slot.stream = tail.stream;
            slot.generation = tail.generation;
            slot.applied = tail.position;
        }
    }
}

/// Lanes there must be: those that lines are bound to or segments belong to, and those asked for.
fn lane_count(state: &ManifestState, wanted: u16) -> u16 {
    let bound = state.lines.values().map(|line| line.lane.number() + 1);
    let written = state.segments.values().map(|segment| segment.lane.number() + 1);
    let written = written.chain(state.compacted.values().map(|one| one.lane.number() + 1));
    let written = written.chain(state.released.lanes().map(|lane| lane.number() + 1));
    bound.chain(written).chain([wanted, 1]).max().unwrap_or(1)
}

/// Brings the index up to the end of the journal, or nearer to it.
struct Bringing<'a> {
    manifest: &'a Manifest,
    segments: &'a Arc<Segments>,
    indexing: &'a Indexing,
}

impl Bringing<'_> {
    /// All of a lane; where that is more than `at_once` segments, the newest, and what goes on from there.
    async fn bring(
        &self,
        lane: LaneId,
        Surroundings { index, clock, .. }: &Surroundings,
        at_once: usize,
        report: &mut OpenReport,
    ) -> Result<(LaneReplay, Option<LaneRebuild>), OpenError> {
        let Self { manifest, segments, indexing } = self;
        let was_empty = read_progress(&**index, lane)?.number() == 0;
        let mut rebuild =
            LaneRebuild::of(lane, &manifest.state(), segments, index, at_once.max(1))?;
        let replay = match &mut rebuild {
            None => replay_lane(lane, manifest, segments, index, &**clock).await?,
            Some(rebuild) => {
                indexing.begin(rebuild.left());
                rebuild.begin(manifest, at_once.max(1)).await?
            }
        };
        report.records_replayed += replay.replayed;
        let ended = manifest.state().segments.values().filter(|s| s.lane == lane).count();
        report.index_rebuilt |= was_empty && replay.replayed > 0 && ended > 1;
        report.damage.extend(damage_in_words(lane, &replay.damage, &replay.gaps));
        Ok((replay, rebuild))
    }
}

/// Lines as the index has them after replay.
async fn load_lines(
    state: &ManifestState,
    surroundings: &Surroundings,
    rebuilds: &[LaneRebuild],
    indexing: &Arc<Indexing>,
) -> Result<BTreeMap<LineId, Arc<Line>>, OpenError> {
    let mut lines: BTreeMap<LineId, Arc<Line>> = BTreeMap::new();
    for entry in state.lines_in_order() {
        let (index, of) = (Arc::clone(&surroundings.index), entry.clone());
        let mut line_state = offload(move || read_line(&*index, &of)).await?;
        if let Some(rebuild) = rebuilds.iter().find(|rebuild| rebuild.lane() == entry.lane) {
            let tail = known_tail(entry, rebuild);
            line_state.tail = tail.unwrap_or_default();
            if tail.is_none() || !is_indexed(state, entry, rebuild) {
                let (indexing, tail_known) = (Arc::clone(indexing), tail.is_some());
                line_state.lacking = Some(Lacking { indexing, tail_known });
            }
        }
        if let Some(start) = &entry.start {
            line_state.catalogue.drop_below(start.sequence);
            // Its record may lie in a segment that was released.
            let point = start.point().filter(|point| !entry.dropped.contains(point.sequence));
            point.into_iter().for_each(|point| line_state.catalogue.insert(point));
        }
        let parent = entry.origin.and_then(|(parent, _)| lines.get(&parent));
        let line = Line::new(entry, parent, line_state);
        // Instants that thinning made points, wherever in its history they were written.
        let kept: Vec<_> = entry.dropped.kept_between().collect();
        let (index, line) = (Arc::clone(&surroundings.index), Arc::new(line));
        let of = Arc::clone(&line);
        let found = offload(move || {
            let there = |sequence: &Sequence| of.points(|points| points.at(*sequence).is_some());
            let unmarked: Vec<_> = kept.into_iter().filter(|sequence| !there(sequence)).collect();
            instants(&*index, &of, &unmarked)
        });
        let start = entry.start.as_ref().map(|start| start.sequence).unwrap_or_default();
        let found = found.await?.into_iter().filter(|point| point.sequence >= start);
        line.add_points(found.collect());
        lines.insert(entry.id, line);
    }
    Ok(lines)
}

/// What the index has of a line: of each stretch of its history what was written there.
pub(crate) fn read_line(
    index: &dyn IndexStore,
    entry: &LineEntry,
) -> Result<LineState, IndexError> {
    let mut state = LineState {
        tail: read_tail(index, entry.id)?,
        dropped: Arc::clone(&entry.dropped),
        generation: entry.generation,
        start: entry.start.clone(),
        ordered: Arc::clone(&entry.stream_entry.ordered),
        ..LineState::default()
    };
    for stretch in entry.stretches() {
        let within = |sequence: Sequence| sequence > stretch.above && sequence <= stretch.up_to;
        let points = read_points(index, stretch.line)?;
        let there = points.iter().filter(|point| within(point.sequence));
        let there = there.filter(|point| !entry.dropped.contains(point.sequence));
        there.for_each(|point| state.catalogue.insert(point));
        let gaps = read_gaps(index, stretch.line)?;
        state.gaps.extend(gaps.into_iter().filter(|gap| within(*gap)));
    }
    Ok(state)
}

/// The generation a new holder of a stream gets.
pub(crate) fn next_generation(entry: &LineEntry) -> Generation {
    entry.generation.next()
}
