//! What an earlier boot of a machine read, so that the next one finds it in memory.
//!
//! ```text
//!   <data>/boots/web/os.boot     8  "LFBOOT01"
//!                                4  number of pieces          little endian, as all of it
//!                                4  each piece: a multiple of 64 KiB of the disk, in the order in
//!                                   which they were read
//!                                4  CRC32C of all before it
//! ```
//!
//! A boot begins with a short read of the first sector, and it writes. What is read in the two
//! minutes after its start is remembered, unless that is more than 256 MiB: then it was something
//! else.
//!
//! **Invariant:** a set is a hint. One that is missing, damaged or of another machine costs some
//! reads and nothing else, so nothing waits for it to be durable.

use landfall_disks::{ByteOffset, ByteRange};
use landfall_retention::name::Name;
use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a piece.
pub(super) const PIECE_BYTES: u64 = 64 << 10;
/// Most pieces of a set, and fewest: what reads less is no boot.
const MOST_PIECES: usize = 4096;
const FEWEST_PIECES: usize = 16;
/// How long a boot takes, at most.
pub(super) const BOOT: Duration = Duration::from_secs(120);
/// Longest first read. Firmware reads sectors; whoever copies a disk begins with more.
const FIRST_READ: u64 = 64 << 10;

const MAGIC: &[u8; 8] = b"LFBOOT01";

/// A multiple of [`PIECE_BYTES`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Piece(u32);

impl Piece {
    /// The pieces that `range` touches.
    pub(super) fn of(range: ByteRange) -> impl Iterator<Item = Self> {
        let first = range.start().bytes() / PIECE_BYTES;
        let end = range.end().bytes().div_ceil(PIECE_BYTES);
        (first..end).filter_map(|piece| u32::try_from(piece).ok().map(Self))
    }

    /// What it covers of a disk.
    pub(super) fn range(self, size_bytes: u64) -> ByteRange {
        let whole = ByteRange::at(ByteOffset::new(u64::from(self.0) * PIECE_BYTES), PIECE_BYTES);
        whole.expect("disks end far below").intersection(ByteRange::up_to(size_bytes))
    }
}

/// Whether a read is what a boot begins with.
pub(super) fn begins(range: ByteRange) -> bool {
    range.start().bytes() == 0 && range.length() <= FIRST_READ
}

/// The sets of all disks.
#[derive(Clone, Debug)]
pub(super) struct BootSets {
    folder: PathBuf,
}

impl BootSets {
    /// Those in `folder`, which is made when there is one to keep.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, machine: &Name, disk: &Name) -> PathBuf {
        self.folder.join(machine.as_str()).join(format!("{disk}.boot"))
    }

    /// What the last boot read, in order; nothing if that is not known. Blocks.
    pub(super) fn load(&self, machine: &Name, disk: &Name) -> Vec<Piece> {
        let path = self.path(machine, disk);
        match fs::read(&path).map(|bytes| parse(&bytes)) {
            Ok(Some(pieces)) => pieces,
            Ok(None) => {
                tracing::debug!(path = %path.display(), "not a boot set; the next boot makes one");
                Vec::new()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read a boot set");
                Vec::new()
            }
        }
    }

    /// Keeps what a boot read, in the place of what was known. Blocks.
    pub(super) fn save(&self, machine: &Name, disk: &Name, pieces: &[Piece]) -> io::Result<()> {
        let path = self.path(machine, disk);
        let folder = path.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(folder)?;
        let new = path.with_extension("new");
        fs::write(&new, encode(pieces))?;
        fs::rename(&new, &path)
    }

    /// Removes the sets of machines that are not among `machines`. Blocks.
    pub(super) fn keep_only(&self, machines: &HashSet<String>) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| machines.contains(name)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let count = u32::try_from(pieces.len()).expect("a set has a limit");
    let mut bytes = MAGIC.to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(pieces.iter().flat_map(|piece| piece.0.to_le_bytes()));
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<Vec<Piece>> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    let rest = body.strip_prefix(MAGIC)?;
    let (count, pieces) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (pieces, odd) = pieces.as_chunks::<4>();
    let whole = odd.is_empty() && pieces.len() == count && count <= MOST_PIECES;
    let proven = crc32c::crc32c(body) == u32::from_le_bytes(*checksum);
    (whole && proven)
        .then(|| pieces.iter().map(|piece| Piece(u32::from_le_bytes(*piece))).collect())
}

/// Watches what a connection does, to know a boot when it sees one.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    state: Recording,
}

#[derive(Debug, Default)]
enum Recording {
    /// Nothing was read yet.
    #[default]
    Waiting,
    Boot {
        begun: Instant,
        seen: HashSet<Piece>,
        order: Vec<Piece>,
        wrote: bool,
    },
    /// It was something else, or has been told.
    Over,
}

impl Recorder {
    /// Takes note of a read. A boot that is over by now is told, once.
    pub(super) fn read(&mut self, range: ByteRange, now: Instant) -> Option<Vec<Piece>> {
        if matches!(self.state, Recording::Waiting) {
            let (seen, order) = (HashSet::new(), Vec::new());
            self.state = match begins(range) {
                true => Recording::Boot { begun: now, seen, order, wrote: false },
                false => Recording::Over,
            };
        }
        let Recording::Boot { begun, seen, order, .. } = &mut self.state else { return None };
        if now.saturating_duration_since(*begun) > BOOT {
            return self.finish();
        }
        order.extend(Piece::of(range).filter(|piece| seen.insert(*piece)));
        if order.len() > MOST_PIECES {
            self.state = Recording::Over;
        }
        None
    }

    /// Takes note of a write.
    pub(super) fn wrote(&mut self) {
        if let Recording::Boot { wrote, .. } = &mut self.state {
            *wrote = true;
        }
    }

    /// No more is watched: what the boot read, if it was one.
    pub(super) fn finish(&mut self) -> Option<Vec<Piece>> {
        match std::mem::replace(&mut self.state, Recording::Over) {
            Recording::Boot { order, wrote: true, .. } if order.len() >= FEWEST_PIECES => {
                Some(order)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, length: u64) -> ByteRange {
        ByteRange::at(ByteOffset::new(start), length).expect("small")
    }

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn a_set_comes_back_and_a_damaged_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let sets = BootSets::new(folder.path().join("boots"));
        let (web, os) = (name("web"), name("os"));
        assert_eq!(sets.load(&web, &os), []);
        let pieces = [3, 1, 70_000].map(Piece);
        sets.save(&web, &os, &pieces).expect("saved");
        assert_eq!(sets.load(&web, &os), pieces);
        assert_eq!(sets.load(&web, &name("data")), []);

        let path = folder.path().join("boots/web/os.boot");
        let good = fs::read(&path).expect("there");
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 4;
            assert_eq!(parse(&bad), None, "byte {index}");
            assert_eq!(parse(&good[..index]), None, "{index} bytes");
        }
        let everyone = HashSet::from(["web".to_owned()]);
        sets.keep_only(&everyone).expect("looked at");
        assert!(path.exists());
        sets.keep_only(&HashSet::new()).expect("looked at");
        assert!(!path.exists());
    }

    /// What a recorder tells of reads of 4 KiB, one in each of so many pieces.
    fn told(first: ByteRange, pieces: u64, writes: bool) -> Option<usize> {
        let (mut recorder, now) = (Recorder::default(), Instant::now());
        assert_eq!(recorder.read(first, now), None);
        for piece in 0..pieces {
            assert_eq!(recorder.read(range(piece * PIECE_BYTES, 4096), now), None);
        }
        if writes {
            recorder.wrote();
        }
        let told = recorder.finish().map(|pieces| pieces.len());
        assert_eq!(recorder.finish(), None, "once");
        told
    }

    #[test]
    fn a_boot_is_told_from_other_uses() {
        let sector = range(0, 512);
        assert_eq!(told(sector, 100, true), Some(100));
        assert_eq!(told(sector, 100, false), None, "it writes nothing");
        assert_eq!(told(range(0, 2 << 20), 100, true), None, "a copy begins with more");
        assert_eq!(told(range(4096, 512), 100, true), None, "it begins elsewhere");
        assert_eq!(told(sector, 4097, true), None, "it reads too much");
        assert_eq!(told(sector, 15, true), None, "it reads too little");
    }

    #[test]
    fn a_boot_ends_with_its_time() {
        let (mut recorder, now) = (Recorder::default(), Instant::now());
        assert_eq!(recorder.read(range(0, 512), now), None);
        assert_eq!(recorder.read(range(1 << 20, 1 << 20), now + BOOT), None);
        recorder.wrote();
        let told = recorder.read(range(8 << 20, 4096), now + BOOT + Duration::from_secs(1));
        let expected: Vec<Piece> = std::iter::once(0).chain(16..32).map(Piece).collect();
        assert_eq!(told, Some(expected), "in the order in which they were read");
    }
}
