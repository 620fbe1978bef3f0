//! Writes to branches that are aborted at any moment, beside others that are not, also while the power goes.
//!
//! ```text
//!   abort came in time ─▶ absent: for every read that begins afterwards, at every moment of the branch, for ever
//!                         (unless the power goes before the write has ended or a read has come back: then either)
//!   it was too late    ─▶ there: for every read that begins afterwards, for ever
//! ```

use super::branching::{BranchWrite, lay};
use super::life::{Alive, Life, PowerCut, disk_name, machine, pick};
use super::model::{Branch, bytes};
use crate::world::moment;
use futures_util::future::{join, join_all};
use landfall_disks::file::{Caching, Folder as _, OpenMode};
use landfall_disks::{
    Buffer, ByteRange, Change, Disk, DiskError, Durability, IoFuture, Ticket, ZeroMode,
};
use landfall_retention::manifest::format::{HEADER_BYTES, parse_frame};
use landfall_retention::manifest::record::ManifestRecord;
use landfall_retention::name::Name;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

/// What became of a write that somebody tried to abort.
struct Attempt {
    /// Whether that came in time.
    in_time: bool,
    /// Whether the write had ended by then: what failed before anybody aborted it may be there or not.
    ended: bool,
    written: Result<(), DiskError>,
    /// What a read found that was begun after the abort.
    read: Result<Buffer, DiskError>,
}

/// What a few of them have come to.
#[derive(Default)]
struct Found {
    /// What stood where nothing may have changed.
    absent: Vec<BranchWrite>,
    /// Aborts that came too late.
    late: usize,
    /// The power went meanwhile.
    cut: bool,
}

impl Life<'_> {
    /// A few writes to a branch at once, most of which are aborted at some moment.
    pub(super) async fn abort_branch_writes(&mut self, last: bool) -> Alive<()> {
        let Some((name, mut branch)) = pick(&self.model.branches, self.choices) else {
            return Ok(());
        };
        if branch.sealed {
            return Ok(());
        }
        let writes = self.writes_apart(&branch.content, 4);
        branch.uncertain = writes.clone();
        self.model.branches.insert(name.clone(), branch.clone());
        let before = self.branch_head(&name);
        let records = self.abort_records().await?;
        // From before the lane has it to long after it is there.
        let longest = *self.choices.pick(&[3, 10, 30]);
        let pauses: Vec<Option<u64>> = writes
            .iter()
            .map(|_| self.choices.chance(3, 4).then(|| self.choices.below(longest)))
            .collect();
        let branch_name = Name::parse(&name).expect("a name");
        let mut disks = Vec::new();
        for (disk, ..) in &writes {
            let disk = self.retention.branch_disk(&machine(), &branch_name, &disk_name(*disk));
            disks.push(self.alive(disk, "branch disk")?);
        }
        if !last && self.choices.chance(1, 4) {
            // Before, between and after the group, what the manifest says, and the record that aborts.
            self.world.folder.crash_after_flushes(1 + self.choices.below(4));
        }
        let attempts =
            writes.iter().zip(&disks).zip(&pauses).map(|((write, disk), pauses)| async {
                match pauses {
                    Some(pauses) => Ok(attempt(disk, write, *pauses).await),
                    None => Err(change(disk, write, &Ticket::default()).await),
                }
            });
        let ended = join_all(attempts).await;

        let mut found = Found::default();
        branch.uncertain.clear();
        for (write, ended) in writes.iter().zip(ended) {
            self.judge(&name, &mut branch, write, ended, &mut found);
        }
        let Found { absent, late, cut } = found;
        self.model.branches.insert(name.clone(), branch.clone());
        if cut {
            self.model.say(format!("the power went beside {} aborts to {name}", absent.len()));
            return Err(PowerCut);
        }
        let head = self.branch_head(&name);
        branch.moments.insert(head, Arc::new(branch.content.clone()));
        self.model.branches.insert(name.clone(), branch);
        let records = self.abort_records().await? - records;
        let aborted = absent.len();
        self.model.say(format!(
            "aborts to {name}: {aborted} in time, {late} too late, {records} records, head seq:{head}"
        ));
        if records > 0 {
            self.check_manifest().await?;
        }
        for sequence in before + 1..=head {
            self.check_absent(&format!("m~{name}@seq:{sequence}"), &absent).await?;
        }
        Ok(())
    }

    /// Holds what became of a write against what must have, and lays it over the content of the branch if it is there.
    fn judge(
        &self,
        name: &str,
        branch: &mut Branch,
        write: &BranchWrite,
        ended: Result<Attempt, Result<(), DiskError>>,
        found: &mut Found,
    ) {
        let (disk, at, data) = write;
        let range = bytes(ByteRange::at(*at, data.len() as u64).expect("on the disk"));
        let old = branch.content[*disk][range].to_vec();
        match ended {
            Err(Ok(())) => lay(&mut branch.content, *disk, *at, data),
            Err(Err(error)) => {
                found.cut |= self.is_cut(&error, "branch write");
                branch.uncertain.push(write.clone());
            }
            Ok(Attempt { in_time: true, ended, written, read }) => {
                let seen = read.is_ok() && !ended;
                match read {
                    Ok(read) => assert!(read[..] == old[..], "{name} at {at}: it was aborted"),
                    Err(error) => found.cut |= self.is_cut(&error, "a read after an abort"),
                }
                match written {
                    Ok(()) => panic!("{name} at {at}: written, and aborted in time"),
                    Err(DiskError::Aborted) => {
                        assert!(!ended, "{name} at {at}: aborted before anybody asked for it");
                        found.absent.push((*disk, *at, old));
                    }
                    Err(error) => {
                        found.cut |= self.is_cut(&error, "an aborted write");
                        if seen {
                            found.absent.push((*disk, *at, old));
                        } else {
                            branch.uncertain.push(write.clone());
                        }
                    }
                }
            }
            // Failed before anybody aborted it: there or not, and what can be read from memory still does not tell.
            Ok(Attempt { in_time: false, ended: true, written: Err(error), .. }) => {
                found.cut |= self.is_cut(&error, "a write before it was aborted");
                branch.uncertain.push(write.clone());
            }
            Ok(Attempt { in_time: false, written, read, .. }) => {
                found.late += 1;
                match read {
                    Ok(read) => assert!(read[..] == data[..], "{name} at {at}: it was too late"),
                    Err(error) => found.cut |= self.is_cut(&error, "a read after an abort"),
                }
                if let Err(error) = written {
                    found.cut |= self.is_cut(&error, "a write aborted too late");
                }
                lay(&mut branch.content, *disk, *at, data);
            }
        }
    }

    /// Whether `error` is that the power was cut. Nothing else is expected.
    fn is_cut(&self, error: &DiskError, what: &str) -> bool {
        assert!(self.world.folder.is_dead(), "{what}: {error}");
        true
    }

    /// At a moment there is what was there before, where writes were aborted. They were apart from all others.
    async fn check_absent(&mut self, at: &str, absent: &[BranchWrite]) -> Alive<()> {
        for (disk, start, old) in absent {
            let range = ByteRange::at(*start, old.len() as u64).expect("on the disk");
            let found = self.alive(self.retention.resolve(&moment(at)).await, at)?;
            let view = self.alive(self.retention.view(&found, &disk_name(*disk)), at)?;
            let read = self.alive(view.read(range).await, at)?;
            assert!(read[..] == old[..], "{start} of {at} was aborted");
        }
        Ok(())
    }

    /// A program that does not know aborts refuses the store.
    async fn check_manifest(&self) -> Alive<()> {
        let (path, mode) = (Path::new("MANIFEST"), OpenMode::ReadWrite);
        let file =
            self.world.folder.open(path, mode, Caching::Buffered).await.expect("it is there");
        let length = usize::try_from(file.length().await.expect("a length")).expect("small");
        let bytes = file.read_at(0, Buffer::zeroed(length)).await.expect("its bytes");
        let (mut at, mut number) = (HEADER_BYTES, 0);
        let mut says = false;
        while let Ok((records, length)) = parse_frame(&bytes[at..], number) {
            says |= records.contains(&ManifestRecord::AbortsBegun);
            (at, number) = (at + length, number + 1);
        }
        assert!(says, "{number} frames, and none says that the journal has aborts");
        Ok(())
    }

    /// Records that abort something, since the store was opened.
    async fn abort_records(&self) -> Alive<u64> {
        let journal = self.alive(self.retention.journal().await, "status of the journal")?;
        Ok(journal.lanes.iter().map(|lane| lane.aborts).sum())
    }
}

fn change<'a>(
    disk: &'a Arc<dyn Disk>,
    (_, at, data): &BranchWrite,
    ticket: &Ticket,
) -> IoFuture<'a, ()> {
    let durability = Durability::Durable;
    let change = if data.iter().all(|byte| *byte == 0) {
        let range = ByteRange::at(*at, data.len() as u64).expect("on the disk");
        Change::WriteZeroes { range, mode: ZeroMode::Unmap, durability }
    } else {
        Change::Write { at: *at, data: Buffer::copy_of(data), durability }
    };
    disk.change(change, ticket)
}

/// Writes, aborts after a while, and reads.
async fn attempt(disk: &Arc<dyn Disk>, write: &BranchWrite, pauses: u64) -> Attempt {
    let ticket = Ticket::default();
    let range = ByteRange::at(write.1, write.2.len() as u64).expect("on the disk");
    let over = Cell::new(false);
    let written = async {
        let written = change(disk, write, &ticket).await;
        over.set(true);
        written
    };
    let abort = async {
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        let (in_time, ended) = (ticket.abort(), over.get());
        (in_time, ended, disk.read(range).await)
    };
    let (written, (in_time, ended, read)) = join(written, abort).await;
    Attempt { in_time, ended, written, read }
}
