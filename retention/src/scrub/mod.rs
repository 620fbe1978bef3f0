//! Scrub: everything that is kept is read and held against what it should be, before somebody needs it.
//!
//! ```text
//!   journal, segment by segment   headers, tables, BLAKE3 of bodies, the chain of each line, what the index says of each change
//!   index                         every entry that counts leads to a place that is there
//!   images, 1 MiB at a time       CRC32C of blocks, BLAKE3 of granules; what is not known becomes known
//! ```
//!
//! What is damaged is written anew where its content is still to be had and proves itself by its hash; the rest is
//! remembered in the manifest with the points it touches, and reads of it fail as before. A round can be stopped at any
//! time and goes on where it was, after a restart too.
//!
//! Standby files and keys are further things to look at: a part of their own each, behind [`ScrubParts`].
//!
//! **Invariants:** nothing is written but bytes whose hash is that of what was written there first. Whatever is taken away
//! meanwhile is no damage: segments stay while a turn of reading is held that began before they were looked up, and what can be
//! looked at is asked after the index was opened.

mod chain;
mod compacted;
mod compare;
mod healing;
mod images;
mod index;
mod journal;
mod reading;
mod round;
mod touched;

pub use chain::{ChainBreak, HeadVerdict};
pub use touched::Touched;

use crate::ids::{LineId, MachineId, Sequence};
use crate::index::IndexError;
use crate::journal::format::Chain;
use crate::manifest::ManifestError;
use crate::manifest::integrity::{Damage, DamagedPlace, ScrubEntry, ScrubPosition};
use crate::manifest::state::Machine;
use crate::moment::ResolveError;
use crate::name::Name;
use crate::rebuild::NotIndexed;
use crate::retention::Retention;
use crate::time::Timestamp;
use landfall_disks::file::FileError;
use std::sync::Arc;

/// What a round looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubParts {
    /// The journal, the chains of lines, and what the index says of changes.
    pub journal: bool,
    /// Places that the index names.
    pub index: bool,
    /// Images.
    pub images: bool,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct ScrubOrder {
    /// One machine; all if none is named. Only a round over everything is gone on with after it was stopped.
    pub machine: Option<Name>,
    /// What is looked at.
    pub parts: ScrubParts,
    /// Whether what is damaged is written anew, and what is found is remembered.
    pub heal: bool,
    /// Chains that lines had at some time, to be compared.
    pub heads: Vec<(LineId, Sequence, Chain)>,
}

impl ScrubOrder {
    /// Everything, with healing.
    pub fn all(machine: Option<Name>) -> Self {
        let parts = ScrubParts { journal: true, index: true, images: true };
        Self { machine, parts, heal: true, heads: Vec::new() }
    }

    /// The chains of lines, and nothing is changed.
    pub fn chains(machine: Option<Name>, heads: Vec<(LineId, Sequence, Chain)>) -> Self {
        let parts = ScrubParts { journal: true, index: false, images: false };
        Self { machine, parts, heal: false, heads }
    }
}

/// How far a round is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubProgress {
    /// Where.
    pub position: ScrubPosition,
    /// What it is at, for people.
    pub at: String,
    /// Bytes looked at, of those there are.
    pub done_bytes: u64,
    /// Bytes of journal and images when it began.
    pub total_bytes: u64,
}

/// Something that was damaged and is not any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Healed {
    /// What it was.
    pub place: DamagedPlace,
    /// Where the content was found.
    pub from: HealedFrom,
}

/// Where the content of a damaged place was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HealedFrom {
    /// A version in the journal with the same checksum.
    Journal,
    /// The image, which has the same bytes by their hash.
    Image,
    /// The other of two copies of a table.
    Copy,
    /// It was all zero.
    Zeroes,
    /// Somebody wrote it anew since: a source, by its next pass, or a fold.
    Rewritten,
}

/// The chain of a line, looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainReport {
    /// The line.
    pub line: LineId,
    /// Its machine.
    pub machine: Name,
    /// Its name, if it is a branch; that of the history it is part of, where it was discarded itself.
    pub branch: Option<Name>,
    /// What its first record follows.
    pub after: Sequence,
    /// Up to where it is part of a history, where it was discarded itself.
    pub last: Option<Sequence>,
    /// Where it is broken.
    pub breaks: Vec<ChainBreak>,
    /// What became of heads.
    pub heads: Vec<(Sequence, HeadVerdict)>,
}

/// What a round found.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    /// It came to its end.
    pub complete: bool,
    /// Bytes of segments that were read.
    pub journal_bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Entries of the index that were looked at.
    pub index_entries: u64,
    /// Entries that were missing or wrong, and were put right from the journal.
    pub index_healed: u64,
    /// Blocks that somebody sees and that the index has where nothing is.
    pub index_dangling: u64,
    /// Bytes of images that were compared with what is known of them.
    pub image_bytes: u64,
    /// Bytes of images of which nothing was known, and now is.
    pub noted_bytes: u64,
    /// Damaged places that were not known before, healed or not.
    pub found_damaged: u64,
    /// What was healed.
    pub healed: Vec<Healed>,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// How many more places are.
    pub more_damage: u64,
    /// The chains, if the whole journal was read in this round.
    pub chains: Vec<ChainReport>,
}

/// What a line had come to at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineHead {
    /// The line.
    pub line: LineId,
    /// Its machine.
    pub machine: Name,
    /// Its name, if it is a branch.
    pub branch: Option<Name>,
    /// Its last sequence.
    pub sequence: Sequence,
    /// The value of its chain there.
    pub chain: Chain,
    /// When that was committed.
    pub committed: Timestamp,
}

/// Why a round ended before its end. What it found and healed stays so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScrubError {
    /// There is one already.
    #[error("a scrub is under way already")]
    UnderWay,
    /// No such machine.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// What there should be is not known yet.
    #[error(transparent)]
    NotIndexed(#[from] NotIndexed),
    /// A file could not be read for want of something else than its content.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is known of an image could not be written.
    #[error("disk {disk}: {source}")]
    Disk {
        /// Its name.
        disk: Name,
        /// Why.
        source: landfall_disks::DiskError,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The manifest failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Retention {
    /// What is remembered of scrubbing.
    pub fn scrubbed(&self) -> Arc<ScrubEntry> {
        Arc::clone(&self.manifest.state().scrubbed)
    }

    /// When everything of a machine was last looked at, of those where it ever was.
    pub fn machines_scrubbed(&self) -> Vec<(Name, Timestamp)> {
        let state = self.manifest.state();
        let ended = |machine: &MachineId| state.machines_scrubbed.get(machine).copied();
        let of = |machine: &Machine| Some((machine.name.clone(), ended(&machine.id)?));
        state.machines.values().filter_map(of).collect()
    }

    /// Whether reads of some image are not checked yet, so that a scrub would make them safer.
    pub fn has_unknown_images(&self) -> bool {
        let machines = self.machines.read();
        let unknown =
            |hashes: &crate::image_hashes::ImageHashes| !hashes.is_complete() || hashes.lost_some();
        machines.disks.values().any(|disk| disk.checked_by().is_some_and(unknown))
    }

    /// Sixteen bytes by which this store is told from others.
    pub fn folder_id(&self) -> [u8; 16] {
        self.manifest.folder_id()
    }

    /// Whether a line wrote something that is part of a history still, so that its chain can be compared.
    pub fn has_written(&self, line: LineId) -> bool {
        self.manifest.state().is_written_as(line)
    }

    /// What the lines of a machine, or of all, have come to: what somebody keeps elsewhere to prove history by.
    pub fn heads(&self, machine: Option<&Name>) -> Result<Vec<LineHead>, ResolveError> {
        let only = machine.map(|machine| self.machine_id(machine)).transpose()?;
        let state = self.manifest.state();
        let machines = self.machines.read();
        for line in machines.lines.values().filter(|line| only.is_none_or(|m| line.machine() == m))
        {
            line.check_tail().map_err(|source| {
                let line = machine.map_or_else(|| "the heads".to_owned(), ToString::to_string);
                ResolveError::NotIndexed { line, source }
            })?;
        }
        let of = |line: &Arc<crate::line::Line>| {
            let entry = state.lines.get(&line.id())?;
            let tail = line.tail();
            Some(LineHead {
                line: line.id(),
                machine: state.machines.get(&line.machine())?.name.clone(),
                branch: entry.branch.clone(),
                sequence: tail.sequence,
                chain: tail.chain,
                committed: tail.commit_time,
            })
        };
        let lines = machines.lines.values();
        let lines = lines.filter(|line| only.is_none_or(|only| line.machine() == only));
        Ok(lines.filter_map(of).collect())
    }
}
