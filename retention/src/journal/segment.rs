//! Segment files: `<journal>/<lane>/<segment>.seg`, made at full length, written from the front, read at random.

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader, UNIT};
use crate::ids::{LaneId, LaneSequence, SegmentId};
use crate::manifest::state::{ManifestState, SegmentEntry};
use crate::time::Timestamp;
use landfall_disks::Buffer;
use landfall_disks::file::{Caching, FileError, FileIo, Folder, OpenMode};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The segment files of all lanes, opened when first needed and then kept open.
pub struct Segments {
    folder: Arc<dyn Folder>,
    known: Mutex<HashMap<SegmentId, Known>>,
}

struct Known {
    lane: LaneId,
    size_bytes: u64,
    file: Option<Arc<dyn FileIo>>,
}

impl Segments {
    /// The segments the manifest knows, in the journal folder.
    pub fn new(folder: Arc<dyn Folder>, state: &ManifestState) -> Self {
        let segments = state.segments.values().map(|e| (e.id, e.lane, e.size_bytes));
        let compacted = state.compacted.values().map(|e| (e.id, e.lane, e.size_bytes));
        let known = segments
            .chain(compacted)
            .map(|(id, lane, size_bytes)| (id, Known { lane, size_bytes, file: None }))
            .collect();
        Self { folder, known: Mutex::new(known) }
    }

    /// A segment whose file was just made.
    pub(super) fn know(
        &self,
        segment: SegmentId,
        lane: LaneId,
        size_bytes: u64,
        file: Arc<dyn FileIo>,
    ) {
        self.known.lock().insert(segment, Known { lane, size_bytes, file: Some(file) });
    }

    /// The journal folder.
    pub fn folder(&self) -> &Arc<dyn Folder> {
        &self.folder
    }

    /// Bytes all segment files take.
    pub fn size_bytes(&self) -> u64 {
        self.known.lock().values().map(|known| known.size_bytes).sum()
    }

    /// Makes the file of a new segment at full length, so that a write into it cannot run out of space, and writes its
    /// header. Everything is durable on return. A file of that name left by a crash is replaced.
    pub async fn create(
        &self,
        entry: &SegmentEntry,
        created: Timestamp,
    ) -> Result<Arc<dyn FileIo>, FileError> {
        let path = path(entry.lane, entry.id);
        let parent = PathBuf::from(entry.lane.to_string());
        self.folder.create_folder(&parent).await?;
        match self.folder.remove(&path).await {
            Ok(()) | Err(FileError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let file = self.folder.open(&path, OpenMode::CreateNew, Caching::Direct).await?;
        let made = self.fill_new(&*file, entry, created).await;
        if let Err(error) = made {
            // Half a segment is of no use and its space may be what others wait for.
            drop(file);
            self.folder.remove(&path).await?;
            return Err(error);
        }
        self.folder.sync(&parent).await?;
        let known =
            Known { lane: entry.lane, size_bytes: entry.size_bytes, file: Some(Arc::clone(&file)) };
        self.known.lock().insert(entry.id, known);
        Ok(file)
    }

    async fn fill_new(
        &self,
        file: &dyn FileIo,
        entry: &SegmentEntry,
        created: Timestamp,
    ) -> Result<(), FileError> {
        file.allocate(0, entry.size_bytes).await?;
        let header = SegmentHeader {
            lane: entry.lane,
            segment: entry.id,
            salt: entry.salt,
            first: entry.first,
            size_bytes: entry.size_bytes,
            created,
        };
        let mut block = Buffer::zeroed(HEADER_LENGTH);
        header.encode(&mut block);
        file.write_at(0, block).await?;
        file.flush().await
    }

    /// The open file of a segment.
    pub async fn file(&self, segment: SegmentId) -> Result<Arc<dyn FileIo>, FileError> {
        let lane = {
            let known = self.known.lock();
            let Some(entry) = known.get(&segment) else {
                return Err(FileError::NotFound { path: PathBuf::from(format!("{segment}.seg")) });
            };
            if let Some(file) = &entry.file {
                return Ok(Arc::clone(file));
            }
            entry.lane
        };
        let path = path(lane, segment);
        let file = self.folder.open(&path, OpenMode::ReadWrite, Caching::Direct).await?;
        if let Some(entry) = self.known.lock().get_mut(&segment) {
            entry.file = Some(Arc::clone(&file));
        }
        Ok(file)
    }

    /// Removes the file of a segment, durably. Whoever still has it open reads on.
    pub async fn remove(&self, lane: LaneId, segment: SegmentId) -> Result<(), FileError> {
        self.known.lock().remove(&segment);
        match self.folder.remove(&path(lane, segment)).await {
            Ok(()) | Err(FileError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.folder.sync(&PathBuf::from(lane.to_string())).await {
            // A crash came after the birth of the lane's first segment and before its folder: there is no file to go.
            Err(FileError::NotFound { .. }) => Ok(()),
            synced => synced,
        }
    }

    /// Removes files of segments up to `newest` that nobody knows: they were released, and a crash came before the file
    /// went. How many there were.
    pub async fn remove_unknown(
        &self,
        lane: LaneId,
        newest: SegmentId,
    ) -> Result<usize, FileError> {
        let names = match self.folder.list(&PathBuf::from(lane.to_string())).await {
            Err(FileError::NotFound { .. }) => return Ok(0),
            names => names?,
        };
        let unknown =
            |segment: &SegmentId| *segment <= newest && !self.known.lock().contains_key(segment);
        let segments: Vec<_> = names.iter().filter_map(|n| segment_of(n)).filter(unknown).collect();
        for segment in &segments {
            self.remove(lane, *segment).await?;
        }
        Ok(segments.len())
    }

    /// Reads all of a segment up to `end`, or as much of it as its file has.
    pub async fn read_whole(&self, segment: SegmentId, end: u64) -> Result<Buffer, FileError> {
        let file = self.file(segment).await?;
        let length = file.length().await?.min(end) / UNIT * UNIT;
        let mut whole = Buffer::zeroed(usize::try_from(length).expect("segments are small"));
        let mut rest = whole.split_off(0);
        let mut at = 0;
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(READ_BYTES));
            let piece = file.read_at(at, rest).await?;
            at += piece.len() as u64;
            whole.unsplit(piece);
            rest = tail;
        }
        Ok(whole)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const HEADER_LENGTH: usize = SEGMENT_HEADER_BYTES as usize;
/// Recovery reads segments in pieces of this many bytes.
const READ_BYTES: usize = 1 << 20;

pub(super) fn path(lane: LaneId, segment: SegmentId) -> PathBuf {
    PathBuf::from(format!("{lane}/{:010}.seg", segment.number()))
}

/// The segment of a file name.
fn segment_of(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 10)?;
    digits.parse().ok().map(SegmentId::new)
}

/// What the manifest will say of a segment that is about to be made.
pub(super) fn new_entry(
    id: SegmentId,
    lane: LaneId,
    first: LaneSequence,
    size_bytes: u64,
    salt: u64,
) -> SegmentEntry {
    SegmentEntry { id, lane, salt, first, size_bytes, ended: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_disks::faults::{FaultFolder, Seed, run};

    #[test]
    fn a_segment_whose_folder_was_never_made_is_gone_when_it_is_removed() {
        run(&mut Seed::new(1), |_| async {
            let folder = Arc::new(FaultFolder::new(Seed::new(1)));
            let segments = Segments::new(folder, &ManifestState::default());
            let removed = segments.remove(LaneId::new(1), SegmentId::new(4)).await;
            removed.expect("there is nothing to remove");
        });
    }
}
