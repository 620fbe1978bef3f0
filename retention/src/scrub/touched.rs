//! What damage means: the machine and disk, and the points that cannot be read whole because of it.

use crate::ids::{LineId, Sequence};
use crate::index::IndexError;
use crate::leaf::{BlockPlace, LEAF_BYTES, Layer, LeafIndex, resolve};
use crate::line::Line;
use crate::manifest::integrity::DamagedPlace;
use crate::name::Name;
use crate::point::{Point, PointQuery};
use crate::replica::ReplicaDisk;
use crate::retention::Retention;
use landfall_disks::uring::offload;
use landfall_disks::{BLOCK_SIZE, Block, ByteRange};
use std::sync::Arc;

/// What a damaged place touches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Touched {
    /// The machine, if it is known and still there.
    pub machine: Option<Name>,
    /// The disk.
    pub disk: Option<Name>,
    /// The blocks.
    pub range: Option<ByteRange>,
    /// Points of the line that read them.
    pub points: usize,
    /// The oldest of them.
    pub oldest: Option<Point>,
    /// The newest of them.
    pub newest: Option<Point>,
    /// Whether whoever reads the head of the trunk reads them.
    pub head: bool,
    /// Branches whose head reads them.
    pub branches: Vec<Name>,
}

/// The blocks in question, as views find them.
struct Asked {
    retention: Arc<dyn crate::index::IndexStore>,
    disk: Arc<ReplicaDisk>,
    place: DamagedPlace,
    range: ByteRange,
}

impl Retention {
    /// What a damaged place touches now.
    pub async fn touched(&self, place: DamagedPlace) -> Result<Touched, IndexError> {
        let mut touched = Touched { range: place.range(), ..Touched::default() };
        let disk = place.disk().and_then(|disk| self.machines.read().disks.get(&disk).cloned());
        let (Some(disk), Some(range)) = (disk, place.range()) else { return Ok(touched) };
        let (trunk, branches) = {
            let state = self.manifest.state();
            let Some(machine) = state.machines.get(&disk.machine()) else { return Ok(touched) };
            touched.machine = Some(machine.name.clone());
            touched.disk = Some(disk.name().clone());
            let lines = state.lines.values().filter(|line| line.machine == machine.id);
            let branches: Vec<(LineId, Name)> =
                lines.filter_map(|line| Some((line.id, line.branch.clone()?))).collect();
            (machine.trunk, branches)
        };
        let of = match place {
            DamagedPlace::Version { line, sequence, .. } => {
                self.manifest.state().owner_of(line, sequence).map(|owner| owner.id)
            }
            _ => Some(trunk),
        };
        let asked =
            Arc::new(Asked { retention: Arc::clone(&self.surroundings.index), disk, place, range });
        if let Some(line) = of.and_then(|of| self.indexed(of)) {
            self.points_touched(&asked, &line, &mut touched).await?;
        }
        if let Some(trunk) = self.indexed(trunk) {
            touched.head = asked.is_read(trunk.layers(Sequence::new(u64::MAX))).await?;
        }
        for (id, name) in branches {
            if let Some(line) = self.indexed(id)
                && asked.is_read(line.layers(Sequence::new(u64::MAX))).await?
            {
                touched.branches.push(name);
            }
        }
        Ok(touched)
    }

    /// Points that read the place follow each other: from the one that wrote it, or the start, to the one that wrote over it.
    async fn points_touched(
        &self,
        asked: &Arc<Asked>,
        line: &Arc<Line>,
        touched: &mut Touched,
    ) -> Result<(), IndexError> {
        let first = match asked.place {
            DamagedPlace::Version { sequence, .. } => sequence,
            _ => Sequence::default(),
        };
        let points = line.points(|points| points.list(&PointQuery::all(usize::MAX)));
        let mut points: Vec<_> = points.into_iter().filter(|p| p.sequence >= first).collect();
        points.sort_by_key(|point| point.sequence);
        let (mut good, mut bad) = (points.len(), 0);
        while bad < good {
            let middle = bad + (good - bad) / 2;
            if asked.is_read(line.layers(points[middle].sequence)).await? {
                bad = middle + 1;
            } else {
                good = middle;
            }
        }
        touched.points = bad;
        touched.oldest = points.first().filter(|_| bad > 0).cloned();
        touched.newest = bad.checked_sub(1).map(|last| points[last].clone());
        Ok(())
    }
}

impl Asked {
    /// Whether a look through `layers` ends at some block of the place.
    async fn is_read(self: &Arc<Self>, layers: Vec<Layer>) -> Result<bool, IndexError> {
        let asked = Arc::clone(self);
        offload(move || {
            for piece in asked.range.chunks(LEAF_BYTES) {
                let (disk, leaf) = (&asked.disk, LeafIndex::of(piece.start()));
                let floor = || disk.floor().unwrap_or_default();
                let leaf = resolve(&*asked.retention, &layers, floor, disk.id(), leaf)?;
                let blocks = piece.chunks(BLOCK_SIZE).map(|block| block.start().block());
                if blocks.into_iter().any(|block| asked.is(block, leaf.place(block))) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    fn is(&self, block: Block, found: BlockPlace) -> bool {
        match (self.place, found) {
            (DamagedPlace::Image { .. }, BlockPlace::Image) => true,
            (
                DamagedPlace::Version { segment, unit, .. },
                BlockPlace::Journal { segment: there, unit: at, .. },
            ) => {
                let within = block.index() - self.range.start().block().index();
                segment == there && u64::from(unit) + within == u64::from(at)
            }
            _ => false,
        }
    }
}
