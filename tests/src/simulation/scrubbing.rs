//! Scrubs: beside whatever else goes on, where they must find nothing, and after a medium has damaged something, where they must
//! find all that reads refuse.

use super::folding::at_once;
use super::life::{Alive, Life, PowerCut, disk_name};
use super::model::{Damaged, Model, SIZES, bytes};
use crate::world::{World, moment};
use futures_util::future::join;
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::{BLOCK_SIZE, Buffer, ByteRange, DiskError};
use landfall_retention::ids::DiskId;
use landfall_retention::manifest::integrity::{Damage, ScrubPosition};
use landfall_retention::{
    ChainBreak, FoldPace, HeadVerdict, HealedFrom, ScrubOrder, ScrubProgress, ScrubReport, Stream,
};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Heads that are remembered.
const HEADS: usize = 12;

impl Life<'_> {
    /// Batches come; now and then everything is looked at meanwhile.
    pub(super) async fn send_meanwhile(&mut self, stream: Stream) -> Alive<Stream> {
        if self.choices.chance(1, 3) {
            self.scrub(stream).await
        } else {
            self.send_batches(stream).await
        }
    }

    /// Where nothing was damaged a scrub finds nothing, whatever was folded, released, cut off and begun again before, and
    /// while batches come and the index forgets. It may be stopped.
    pub(super) async fn scrub(&mut self, stream: Stream) -> Alive<Stream> {
        let retention = Arc::clone(&self.retention);
        let stops = self.choices.chance(1, 3).then(|| self.choices.below(30));
        let steps = Cell::new(stops);
        let (forgetting, index) =
            (RefCell::new(self.choices.fork()), Arc::clone(&self.world.index));
        let order = self.order();
        let scrub = async {
            let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
            let goes_on = |_: &ScrubProgress| {
                if forgetting.borrow_mut().chance(1, 16) {
                    index.vanish(|_| forgetting.borrow_mut().chance(1, 2));
                }
                steps.set(steps.get().map(|left| left.saturating_sub(1)));
                steps.get() != Some(0)
            };
            retention.scrub(&order, &pace, &goes_on).await
        };
        let (scrubbed, stream) = join(scrub, self.send_batches(stream)).await;
        let stream = stream?;
        let report = self.alive(scrubbed, "scrub")?;
        self.check_sound(&report);
        assert!(report.complete || stops.is_some());
        let (records, bytes) = (report.records, report.image_bytes);
        self.model.say(format!("scrubbed {records} records, {bytes} bytes of images"));
        self.note_heads()?;
        Ok(stream)
    }

    fn check_sound(&mut self, report: &ScrubReport) {
        assert_eq!((&report.damage, report.more_damage), (&vec![], 0), "a false alarm");
        let mended = std::mem::take(&mut self.model.mended);
        let noted = report.healed.iter().all(|one| one.from == HealedFrom::Rewritten);
        assert!(report.healed.is_empty() || (mended && noted), "{:?}", report.healed);
        self.model.mended = mended && !report.complete;
        assert_eq!((report.index_healed, report.index_dangling), (0, 0), "entries of the index");
        for chain in &report.chains {
            assert_eq!(chain.breaks, Vec::<ChainBreak>::new(), "the chain of {:?}", chain.line);
            for (at, verdict) in &chain.heads {
                let held = match verdict {
                    HeadVerdict::Same | HeadVerdict::Unknown { .. } => true,
                    // What came later was discarded.
                    HeadVerdict::Beyond { last } => chain.last == Some(*last) && at > last,
                    HeadVerdict::Differs => false,
                };
                assert!(held, "{:?} at {at:?}: {verdict:?}", chain.line);
            }
        }
    }

    /// Everything, with heads of lines of which something is there.
    fn order(&self) -> ScrubOrder {
        let known = |line| self.retention.has_written(line);
        let heads = self.model.heads.iter().filter(|(line, _, _)| known(*line)).copied();
        ScrubOrder { heads: heads.collect(), ..ScrubOrder::all(None) }
    }

    fn note_heads(&mut self) -> Alive<()> {
        let heads = self.alive(self.retention.heads(None), "heads")?;
        let heads = heads.into_iter().map(|head| (head.line, head.sequence, head.chain));
        self.model.heads.extend(heads);
        let old = self.model.heads.len().saturating_sub(HEADS);
        self.model.heads.drain(..old);
        Ok(())
    }

    async fn scrub_alone(&mut self) -> Alive<ScrubReport> {
        let pace = FoldPace { bytes_per_second: None, sleep: &at_once };
        let report = self.retention.scrub(&self.order(), &pace, &|_| true).await;
        let report = self.alive(report, "scrub")?;
        assert!(report.complete);
        Ok(report)
    }

    /// A medium damages an image or a segment. What a scrub does not heal it says, and what it does not say is read as ever.
    pub(super) async fn damage_and_scrub(&mut self) -> Alive<()> {
        if !self.model.seeded {
            return Ok(());
        }
        if self.retention.scrubbed().position != ScrubPosition::Done {
            // What was stopped goes on behind where the damage may be.
            let report = self.scrub_alone().await?;
            self.check_sound(&report);
        }
        let Some((path, at, before)) = self.choose_bytes().await? else { return Ok(()) };
        self.model.damaged = Some((path.clone(), at, before.clone()));
        self.world.folder.corrupt(&path, at, before.len() as u64);
        let report = self.scrub_alone().await?;
        let mut refused = 0;
        for (sequence, snapshot) in self.model.points.clone() {
            refused += self.verify_damaged(sequence, &snapshot, &report.damage).await?;
        }
        let (healed, damaged) = (report.healed.len(), report.damage.len());
        let path = path.display();
        self.model.say(format!(
            "{path} damaged at byte {at}: {healed} places healed, {damaged} said, {refused} blocks refused"
        ));
        assert!(report.index_healed == 0 && report.index_dangling == 0, "{report:?}");
        mend(self.world, self.model).await;
        let again = self.scrub_alone().await?;
        self.check_sound(&again);
        self.verify_one().await
    }

    /// Some bytes of an image or a segment.
    async fn choose_bytes(&mut self) -> Alive<Option<Damaged>> {
        let files = self.world.folder.files().into_iter();
        let segments: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect();
        let path = if segments.is_empty() || self.choices.chance(1, 3) {
            PathBuf::from(format!("disk-{}.raw", self.choices.index(SIZES.len())))
        } else {
            self.choices.pick(&segments).clone()
        };
        let Some(whole) = read_file(self.world, &path).await else { return Err(PowerCut) };
        let unit = usize::try_from(BLOCK_SIZE).expect("4096");
        // Half of a segment was never written.
        let used: Vec<_> = (0..whole.len().div_ceil(unit))
            .filter(|at| whole[at * unit..whole.len().min((at + 1) * unit)].iter().any(|b| *b != 0))
            .collect();
        if used.is_empty() {
            return Ok(None);
        }
        let start = *self.choices.pick(&used) * unit + self.choices.index(unit);
        let start = start.min(whole.len() - 1);
        let length = *self.choices.pick(&[1, 1, 700, 9000]);
        let before = whole[start..whole.len().min(start + length)].to_vec();
        Ok(Some((path, start as u64, before)))
    }

    /// Reads every block of a point by itself; gives how many of them were refused. Only what the scrub said may be.
    async fn verify_damaged(
        &self,
        sequence: u64,
        snapshot: &[Vec<u8>],
        damage: &[Damage],
    ) -> Alive<usize> {
        let name = format!("m@seq:{sequence}");
        let found = self.alive(self.retention.resolve(&moment(&name)).await, &name)?;
        let mut refused = 0;
        for (index, content) in snapshot.iter().enumerate() {
            let view = self.alive(self.retention.view(&found, &disk_name(index)), &name)?;
            let disk = DiskId::new(u32::try_from(index).expect("two") + 1);
            for block in view.geometry().whole().chunks(BLOCK_SIZE) {
                match view.read(block).await {
                    Ok(read) => {
                        assert!(read[..] == content[bytes(block)], "{block} of {name} is wrong");
                    }
                    Err(DiskError::Damaged { .. }) => {
                        let said = damage.iter().any(|one| {
                            let range = one.place.range();
                            one.place.disk() == Some(disk)
                                && range.is_some_and(|range: ByteRange| range.overlaps(block))
                        });
                        assert!(said, "{block} of disk {index} of {name} was refused: {damage:?}");
                        refused += 1;
                    }
                    Err(_) if self.world.folder.is_dead() => return Err(PowerCut),
                    Err(error) => panic!("{block} of {name}: {error}"),
                }
            }
        }
        Ok(refused)
    }
}

/// The medium is well again: what is still damaged of the last place is what it was.
pub(super) async fn mend(world: &World, model: &mut Model) {
    let Some((path, at, before)) = model.damaged.take() else { return };
    let Some(whole) = read_file(world, &path).await else {
        panic!("{} went while it was damaged", path.display())
    };
    let start = usize::try_from(at).expect("small");
    for (place, byte) in (at..).zip(&before) {
        if whole[start + usize::try_from(place - at).expect("small")] != *byte {
            world.folder.corrupt(&path, place, 1);
        }
    }
    model.mended = true;
}

async fn read_file(world: &World, path: &Path) -> Option<Vec<u8>> {
    let file = world.folder.open(path, OpenMode::Read, Caching::Buffered).await.ok()?;
    let length = usize::try_from(file.length().await.ok()?).expect("small");
    Some(file.read_at(0, Buffer::zeroed(length)).await.ok()?.to_vec())
}
