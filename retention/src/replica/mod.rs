//! The disk of a machine as retention holds it: its image, and how far the image goes.
//!
//! ```text
//!   Empty ──first block──▶ Seeding ──mark──▶ Ready ──image gone──▶ NeedsResync (history goes on in the journal)
//! ```
//!
//! **Invariants:** an image is written only while its disk has no floor, that is, no history, and by folds, which change no
//! block that anybody reads from it. A lost image is never replaced by an empty one that could pass for it.

pub(crate) mod opening;
pub(crate) mod span;
pub(crate) mod verdict;

use crate::ids::{DiskId, DiskIdentity, MachineId, Sequence};
use crate::image_hashes::ImageHashes;
use crate::manifest::state::DiskEntry;
use crate::name::Name;
use futures_util::future::LocalBoxFuture;
use landfall_disks::Disk;
use landfall_disks::image::ImageError;
use parking_lot::RwLock;
use span::{DiskSpan, Place};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What an image has to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageSpec {
    /// Format, as in `--disk format=`.
    pub format: String,
    /// Where it is.
    pub path: String,
    /// Size of its disk.
    pub size_bytes: u64,
}

/// Makes and opens images; the service knows formats and places.
pub trait ImageStore: Send + Sync {
    /// Makes a new image that reads as zeroes, of a disk that guests know as `identity` where the format tells them. It must
    /// not exist yet.
    fn create<'a>(
        &'a self,
        spec: &'a ImageSpec,
        identity: DiskIdentity,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>>;

    /// Opens an image for reading and writing. A missing file is `FileError::NotFound` inside the error.
    fn open<'a>(
        &'a self,
        spec: &'a ImageSpec,
    ) -> LocalBoxFuture<'a, Result<Arc<dyn Disk>, ImageError>>;

    /// Whether an image can be made as large as `size_bytes`, as far as its format says: a disk that grows is recorded before
    /// its image does.
    fn check_growth(&self, _spec: &ImageSpec, _size_bytes: u64) -> Result<(), ImageError> {
        Ok(())
    }
}

/// What a disk is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// A new image; nothing was copied yet.
    Empty,
    /// The first copy is under way, or an adopted file is to be compared.
    Seeding,
    /// The first copy is complete.
    Ready,
    /// The image is lost; a resync makes new points whole, older ones report damage where they need it.
    NeedsResync(String),
}

/// A disk of a machine.
pub(crate) struct ReplicaDisk {
    id: DiskId,
    machine: MachineId,
    name: Name,
    /// Format and place of its image; the size is that of the image when it was opened.
    spec: ImageSpec,
    /// What is known of the image's blocks.
    hashes: ImageHashes,
    /// Whether the image may hold bytes that no history tells of.
    touched: AtomicBool,
    state: RwLock<ReplicaState>,
}

struct ReplicaState {
    image: Image,
    floor: Option<Sequence>,
    span: DiskSpan,
}

/// The image, or why there is none.
#[derive(Clone)]
pub(crate) enum Image {
    Present(Arc<dyn Disk>),
    Lost(String),
}

impl ReplicaDisk {
    pub(crate) fn new(
        entry: &DiskEntry,
        image: Image,
        untouched: bool,
        hashes: ImageHashes,
    ) -> Self {
        Self {
            id: entry.id,
            machine: entry.machine,
            name: entry.name.clone(),
            spec: spec(entry),
            hashes,
            touched: AtomicBool::new(!untouched),
            state: RwLock::new(ReplicaState {
                image,
                floor: entry.floor,
                span: entry.span.clone(),
            }),
        }
    }

    pub(crate) fn id(&self) -> DiskId {
        self.id
    }

    pub(crate) fn machine(&self) -> MachineId {
        self.machine
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn spec(&self) -> &ImageSpec {
        &self.spec
    }

    /// Its size at the head of the trunk.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.state.read().span.newest_size()
    }

    /// Its size at a moment of the trunk.
    pub(crate) fn size_at(&self, moment: Sequence) -> u64 {
        self.state.read().span.size_at(moment)
    }

    /// Its size at a place.
    pub(crate) fn size_in(&self, place: &Place) -> u64 {
        self.state.read().span.size_in(place)
    }

    /// Where along the trunk it is there.
    pub(crate) fn span(&self) -> DiskSpan {
        self.state.read().span.clone()
    }

    /// The manifest durably says so.
    pub(crate) fn set_span(&self, span: DiskSpan) {
        self.state.write().span = span;
    }

    pub(crate) fn image(&self) -> Image {
        self.state.read().image.clone()
    }

    /// What is known of the image's blocks.
    pub(crate) fn hashes(&self) -> &ImageHashes {
        &self.hashes
    }

    /// What the image's blocks are checked by; nothing while its first copy is under way, which no history counts on.
    pub(crate) fn checked_by(&self) -> Option<&ImageHashes> {
        (self.floor().is_some() && self.hashes.is_there()).then_some(&self.hashes)
    }

    /// Versions of the trunk at or below it are in the image.
    pub(crate) fn floor(&self) -> Option<Sequence> {
        self.state.read().floor
    }

    /// The image durably holds everything up to `floor`, and the manifest says so.
    pub(crate) fn set_floor(&self, floor: Sequence) {
        let mut state = self.state.write();
        state.floor = Some(floor);
        state.span.settle(floor);
    }

    /// The image may hold something from now on.
    pub(crate) fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    pub(crate) fn condition(&self) -> DiskState {
        let state = self.state.read();
        match (&state.image, state.floor) {
            (Image::Lost(reason), _) => DiskState::NeedsResync(reason.clone()),
            (Image::Present(_), Some(_)) => DiskState::Ready,
            (Image::Present(_), None) if self.touched.load(Ordering::Acquire) => DiskState::Seeding,
            (Image::Present(_), None) => DiskState::Empty,
        }
    }
}

/// What the image of a disk has to be.
pub(crate) fn spec(entry: &DiskEntry) -> ImageSpec {
    ImageSpec {
        format: entry.format.clone(),
        path: entry.image.clone(),
        size_bytes: entry.span.first_bytes,
    }
}
