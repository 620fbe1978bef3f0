//! What is looked at before a target keeps anything on a volume, and refused with a reason and a way out.
//!
//! ```text
//!   folders ─▶ look (statfs, stat, a file written past the page cache) ─▶ judge (pure) ─▶ refusals, or go
//! ```
//!
//! Refused is what loses history without a word: file systems that keep nothing or have no permissions, folders that others
//! may write, and a journal that was given a place of its own which turns out to be the volume of the images (a volume that
//! is not mounted looks like that). `[volumes] allow` lets each of them pass. A journal that is full is not refused: its points
//! can be read; only a new one has to have room.

use crate::config::{Allowed, Config};
use crate::data_folder::LOCK_FILE;
use crate::units::ByteSize;
use rustix::fs::{Mode, OFlags, StatFs};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Name of the file that is written to see whether the page cache can be passed by; gone again at once.
const PROBE_FILE: &str = ".landfall-probe";
/// Bytes of it, and their alignment.
const PROBE_BYTES: usize = 4096;

/// What a folder of the target is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Data,
    Journal,
    Index,
    Images,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data folder",
            Self::Journal => "journal",
            Self::Index => "index",
            Self::Images => "images",
        })
    }
}

/// What was found about a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Facts {
    purpose: Purpose,
    path: PathBuf,
    /// Number of its file system.
    device: u64,
    /// Magic number of the kind of its file system.
    kind: u64,
    free_bytes: u64,
    owner: u32,
    mode: u32,
    direct: bool,
    /// Nothing is in it yet, but for our lock.
    is_empty: bool,
}

/// Why a folder is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It keeps nothing, or has no owners.
    #[error(
        "the {purpose} {path} lies on {kind}, {why}: put it on ext4 or XFS, or write \
         `allow = [\"any-file-system\"]` under [volumes] if nothing there has to last"
    )]
    Kind { purpose: String, path: PathBuf, kind: &'static str, why: &'static str },
    /// Every read and write would go through the page cache.
    #[error(
        "the {purpose} {path}: its file system does not allow O_DIRECT, so the page cache would take the memory of \
         the host: put it on ext4 or XFS, or write `allow = [\"page-cache\"]` under [volumes]"
    )]
    NoDirect { purpose: String, path: PathBuf },
    /// A place of its own that is none.
    #[error(
        "the journal was given a place of its own, {journal}, and lies on the same volume as the images ({images}): \
         mount the volume that is meant for it, or write `allow = [\"journal-beside-images\"]` under [volumes]"
    )]
    Shared { journal: PathBuf, images: PathBuf },
    /// Somebody else owns it.
    #[error(
        "the {purpose} {path} belongs to user {owner}, and this process is user {own}: run it as that user, or \
         chown the folder"
    )]
    Owner { purpose: String, path: PathBuf, owner: u32, own: u32 },
    /// Others may write into it.
    #[error(
        "the {purpose} {path} may be written by others (mode {mode:o}): whoever replaces files there changes history: \
         chmod go-w {path}, or write `allow = [\"others-may-write\"]` under [volumes]"
    )]
    Writable { purpose: String, path: PathBuf, mode: u32 },
    /// There is no room for a first segment.
    #[error(
        "the journal {path} has {free} free and needs {needed} to begin with: free some, or make `segment` or \
         `reserve` under [journal] smaller"
    )]
    Space { path: PathBuf, free: ByteSize, needed: ByteSize },
    /// It cannot be looked at.
    #[error("the {purpose} {path}: {operation} failed: {reason}")]
    Unreadable { purpose: String, path: PathBuf, operation: &'static str, reason: String },
}

/// All reasons, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub(crate) struct Refused(Vec<Refusal>);

/// Looks at the folders of a target, which must be there, and refuses those that history cannot be trusted to.
pub(crate) fn check(config: &Config) -> Result<(), Refused> {
    let folders = [
        (Purpose::Data, &config.data),
        (Purpose::Journal, &config.journal),
        (Purpose::Index, &config.index),
        (Purpose::Images, &config.images),
    ];
    let found: Result<Vec<Facts>, Refusal> =
        folders.into_iter().map(|(purpose, path)| look(purpose, path)).collect();
    let found = found.map_err(|refusal| Refused(vec![refusal]))?;
    let apart = !config.journal.starts_with(&config.data);
    let needed = config.segment_bytes.saturating_add(config.reserve_bytes);
    let own = rustix::process::geteuid().as_raw();
    let refusals = judge(&found, &config.allowed, apart, needed, own);
    if refusals.is_empty() { Ok(()) } else { Err(Refused(refusals)) }
}

fn look(purpose: Purpose, path: &Path) -> Result<Facts, Refusal> {
    let unreadable = |operation| {
        move |error: std::io::Error| Refusal::Unreadable {
            purpose: purpose.to_string(),
            path: path.to_owned(),
            operation,
            reason: error.to_string(),
        }
    };
    let metadata = std::fs::metadata(path).map_err(unreadable("stat"))?;
    let volume = rustix::fs::statfs(path).map_err(|e| unreadable("statfs")(e.into()))?;
    let mut is_empty = true;
    for entry in std::fs::read_dir(path).map_err(unreadable("listing"))? {
        is_empty &= entry.map_err(unreadable("listing"))?.file_name() == LOCK_FILE;
    }
    Ok(Facts {
        purpose,
        path: path.to_owned(),
        device: metadata.dev(),
        kind: kind_of(&volume),
        free_bytes: free_bytes(&volume),
        owner: metadata.uid(),
        mode: metadata.mode() & 0o7777,
        direct: can_go_direct(path).map_err(unreadable("writing a file"))?,
        is_empty,
    })
}

/// The kernel has it as a signed number of the machine's width; the magic numbers are of 32 bits.
fn kind_of(volume: &StatFs) -> u64 {
    u64::try_from(i128::from(volume.f_type) & 0xffff_ffff).expect("32 bits")
}

/// Bytes free on the volume of a folder, for whoever is not root.
pub(crate) fn free_bytes_at(folder: &Path) -> std::io::Result<u64> {
    Ok(free_bytes(&rustix::fs::statfs(folder)?))
}

fn free_bytes(volume: &StatFs) -> u64 {
    volume.f_bavail.saturating_mul(u64::try_from(volume.f_bsize).unwrap_or(0))
}

/// Writes a block past the page cache. What the file system refuses is an answer, everything else an error.
fn can_go_direct(folder: &Path) -> std::io::Result<bool> {
    let path = folder.join(PROBE_FILE);
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600));
    let written = match opened {
        Ok(file) => {
            let block = landfall_disks::Buffer::zeroed(PROBE_BYTES);
            rustix::io::write(&file, &block)
        }
        Err(error) => Err(error),
    };
    // Some make the file before they refuse to open it.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match written {
        // A volume that is full says nothing about it.
        Ok(_) | Err(rustix::io::Errno::NOSPC) => Ok(true),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Kinds of file systems that history must not lie on, by the magic numbers of statfs(2), and why.
fn unfit(kind: u64) -> Option<(&'static str, &'static str)> {
    const IN_MEMORY: &str = "which is gone after a restart";
    const NO_OWNERS: &str = "which has no owners or permissions, and no files above 4 GiB";
    match kind {
        0x0102_1994 => Some(("tmpfs", IN_MEMORY)),
        0x8584_58f6 => Some(("ramfs", IN_MEMORY)),
        0x4d44 => Some(("FAT", NO_OWNERS)),
        0x2011_bab0 => Some(("exFAT", "which has no owners or permissions, and no journal")),
        _ => None,
    }
}

/// Decides. `apart` says that the journal was given a place outside the data folder.
fn judge(
    found: &[Facts],
    allowed: &[Allowed],
    apart: bool,
    needed_bytes: u64,
    own: u32,
) -> Vec<Refusal> {
    let allows = |what| allowed.contains(&what);
    let mut refusals = Vec::new();
    for facts in found {
        let (purpose, path) = (facts.purpose.to_string(), facts.path.clone());
        if let Some((kind, why)) = unfit(facts.kind).filter(|_| !allows(Allowed::AnyFileSystem)) {
            refusals.push(Refusal::Kind { purpose, path, kind, why });
            continue;
        }
        let anything = allows(Allowed::PageCache) || allows(Allowed::AnyFileSystem);
        if !facts.direct && !anything && facts.purpose != Purpose::Index {
            refusals.push(Refusal::NoDirect { purpose: purpose.clone(), path: path.clone() });
        }
        if facts.owner != own && facts.owner != 0 {
            let (owner, purpose, path) = (facts.owner, purpose.clone(), path.clone());
            refusals.push(Refusal::Owner { purpose, path, owner, own });
        }
        if facts.mode & 0o022 != 0 && !allows(Allowed::OthersMayWrite) {
            refusals.push(Refusal::Writable { purpose, path, mode: facts.mode });
        }
    }
    let of = |purpose| found.iter().find(|facts| facts.purpose == purpose);
    if let (Some(journal), Some(images)) = (of(Purpose::Journal), of(Purpose::Images)) {
        let shared = journal.device == images.device;
        if apart && shared && !allows(Allowed::JournalBesideImages) {
            let (journal, images) = (journal.path.clone(), images.path.clone());
            refusals.push(Refusal::Shared { journal, images });
        }
        if journal.is_empty && journal.free_bytes < needed_bytes {
            refusals.push(Refusal::Space {
                path: journal.path.clone(),
                free: ByteSize::new(journal.free_bytes),
                needed: ByteSize::new(needed_bytes),
            });
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: u64 = 0xef53;
    const OWN: u32 = 1000;

    fn facts(purpose: Purpose) -> Facts {
        Facts {
            purpose,
            path: format!("/{purpose}").into(),
            device: 1,
            kind: EXT4,
            free_bytes: 1 << 30,
            owner: OWN,
            mode: 0o700,
            direct: true,
            is_empty: false,
        }
    }

    fn judged(change: impl Fn(&mut Facts), allowed: &[Allowed], apart: bool) -> Vec<String> {
        let all = [Purpose::Data, Purpose::Journal, Purpose::Index, Purpose::Images];
        let mut found: Vec<Facts> = all.into_iter().map(facts).collect();
        found.iter_mut().for_each(change);
        let refusals = judge(&found, allowed, apart, 1 << 20, OWN);
        refusals.iter().map(ToString::to_string).collect()
    }

    fn journal(change: impl Fn(&mut Facts)) -> impl Fn(&mut Facts) {
        move |facts| {
            if facts.purpose == Purpose::Journal {
                change(facts);
            }
        }
    }

    /// Refused with `part` in the reason, and not if it is allowed.
    fn refused(change: impl Fn(&mut Facts), apart: bool, part: &str, allowed: Option<Allowed>) {
        let said = judged(&change, &[], apart);
        assert!(said.len() == 1 && said[0].contains(part), "{part}: {said:?}");
        let Some(allowed) = allowed else { return };
        assert_eq!(judged(&change, &[allowed], apart), Vec::<String>::new(), "{part}");
    }

    #[test]
    fn one_folder_on_a_good_volume_is_all_it_takes() {
        assert_eq!(judged(|_| {}, &[], false), Vec::<String>::new());
    }

    #[test]
    fn what_loses_history_without_a_word_is_refused_unless_it_is_allowed() {
        for (kind, name) in [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs"), (0x4d44, "FAT")] {
            let change = journal(move |facts| facts.kind = kind);
            refused(change, false, name, Some(Allowed::AnyFileSystem));
        }
        let change = journal(|facts| facts.direct = false);
        refused(change, false, "O_DIRECT", Some(Allowed::PageCache));
        let change = journal(|facts| facts.mode = 0o770);
        refused(change, false, "chmod go-w /journal", Some(Allowed::OthersMayWrite));
        refused(journal(|facts| facts.owner = 7), false, "belongs to user 7", None);
        assert_eq!(judged(journal(|facts| facts.owner = 0), &[], false), Vec::<String>::new());
    }

    #[test]
    fn a_place_of_its_own_that_is_not_mounted_is_noticed() {
        refused(|_| {}, true, "mount the volume", Some(Allowed::JournalBesideImages));
        assert_eq!(judged(journal(|facts| facts.device = 2), &[], true), Vec::<String>::new());
    }

    #[test]
    fn a_new_journal_needs_room_and_an_old_one_is_opened_however_full() {
        let full = |facts: &mut Facts| facts.free_bytes = 4096;
        assert_eq!(judged(full, &[], false), Vec::<String>::new());
        let new = |facts: &mut Facts| (facts.free_bytes, facts.is_empty) = (4096, true);
        refused(new, false, "has 4 KiB free and needs 1 MiB", None);
    }

    #[test]
    fn a_real_folder_is_looked_at_and_left_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = look(Purpose::Data, folder.path()).expect("readable");
        assert_eq!(found.owner, rustix::process::geteuid().as_raw());
        assert!(found.is_empty && found.free_bytes > 0);
        assert_eq!(folder.path().read_dir().expect("a folder").count(), 0);
        let gone = look(Purpose::Images, &folder.path().join("x")).expect_err("not there");
        assert!(gone.to_string().contains("stat failed"), "{gone}");
    }
}
