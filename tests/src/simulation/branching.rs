//! Branches: nested, many, written at any alignment, also while the power goes.

use super::life::{Alive, Life, disk_name, machine, pick};
use super::model::{Branch, SIZES, bytes};
use crate::world::moment;
use futures_util::future::join_all;
use landfall_disks::{Buffer, ByteOffset, ByteRange, Durability, ZeroMode};
use landfall_retention::name::Name;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A write to a branch: which disk, where, and what.
pub(super) type BranchWrite = (usize, ByteOffset, Vec<u8>);

impl Life<'_> {
    pub(super) async fn add_branch(&mut self) -> Alive<()> {
        let mut parent = None;
        let mut moments = self.model.moments();
        if let Some((name, branch)) = pick(&self.model.branches, self.choices)
            && self.choices.chance(1, 3)
        {
            (parent, moments) = (Some(name), branch.moments);
        }
        let Some((sequence, snapshot)) = pick(&moments, self.choices) else {
            return Ok(());
        };
        let name = format!("b{}", self.model.branches_made);
        self.model.branches_made += 1;
        let of = parent.as_ref().map_or("m".to_owned(), |parent| format!("m~{parent}"));
        let moment = self.retention.resolve(&moment(&format!("{of}@seq:{sequence}"))).await;
        let moment = self.alive(moment, "resolve")?;
        let branch = self.retention.add_branch(&moment, Name::parse(&name).expect("a name")).await;
        self.alive(branch, "add branch")?;
        let content = (*snapshot).clone();
        let moments = BTreeMap::from([(sequence, snapshot)]);
        let (uncertain, marked, sealed) = (Vec::new(), BTreeSet::new(), false);
        self.model.say(format!("branch {name} from {of}@seq:{sequence}"));
        let origin = sequence;
        let branch = Branch { content, moments, uncertain, parent, origin, marked, sealed };
        self.model.branches.insert(name, branch);
        Ok(())
    }

    /// A few writes to a branch at once, apart from each other, of any alignment.
    pub(super) async fn write_branches(&mut self) -> Alive<()> {
        let Some((name, mut branch)) = pick(&self.model.branches, self.choices) else {
            return Ok(());
        };
        if branch.sealed {
            return self.write_sealed(&name).await;
        }
        let writes = self.writes_apart(&branch.content, 3);
        branch.uncertain = writes.clone();
        self.model.branches.insert(name.clone(), branch.clone());
        let branch_name = Name::parse(&name).expect("a name");
        let mut disks = Vec::new();
        for index in 0..SIZES.len() {
            let disk = self.retention.branch_disk(&machine(), &branch_name, &disk_name(index));
            disks.push(self.alive(disk, "branch disk")?);
        }
        let zero = |data: &[u8]| data.iter().all(|byte| *byte == 0);
        let requests = writes.iter().map(|(disk, at, data)| {
            let disk = &disks[*disk];
            let range = ByteRange::at(*at, data.len() as u64).expect("on the disk");
            match zero(data) {
                true => disk.write_zeroes(range, ZeroMode::Unmap, Durability::Durable),
                false => disk.write(*at, Buffer::copy_of(data), Durability::Durable),
            }
        });
        for written in join_all(requests).await {
            self.alive(written, "branch write")?;
        }
        for (disk, at, data) in &writes {
            lay(&mut branch.content, *disk, *at, data);
        }
        branch.uncertain.clear();
        let head = self.branch_head(&name);
        branch.moments.insert(head, Arc::new(branch.content.clone()));
        self.model.say(format!("{} writes to {name}, head seq:{head}", writes.len()));
        self.model.branches.insert(name, branch);
        Ok(())
    }

    async fn write_sealed(&mut self, name: &str) -> Alive<()> {
        let branch = Name::parse(name).expect("a name");
        let disk = self.retention.branch_disk(&machine(), &branch, &disk_name(0));
        let disk = self.alive(disk, "branch disk")?;
        let at = ByteOffset::new(0);
        let written = disk.write(at, Buffer::zeroed(4096), Durability::Durable).await;
        assert!(written.is_err(), "{name} is sealed");
        Ok(())
    }

    /// Up to `most` writes, none of which touches a byte of another.
    pub(super) fn writes_apart(&mut self, content: &[Vec<u8>], most: u64) -> Vec<BranchWrite> {
        let mut writes: Vec<BranchWrite> = Vec::new();
        for _ in 0..=self.choices.below(most) {
            let write = self.random_write(content);
            let range = |(_, at, data): &BranchWrite| {
                ByteRange::at(*at, data.len() as u64).expect("on the disk")
            };
            let apart =
                |other: &BranchWrite| other.0 != write.0 || !range(other).overlaps(range(&write));
            if writes.iter().all(apart) {
                writes.push(write);
            }
        }
        writes
    }

    fn random_write(&mut self, content: &[Vec<u8>]) -> BranchWrite {
        let disk = self.choices.index(SIZES.len());
        let unit = *self.choices.pick(&[1, 512, 4096]);
        let size = content[disk].len() as u64;
        let at = self.choices.below(size / unit) * unit;
        let longest = (size - at).min(if self.choices.chance(1, 5) { 70_000 } else { 9000 });
        let length = (1 + self.choices.below(longest)).next_multiple_of(unit).min(size - at);
        let mut data = vec![0; usize::try_from(length).expect("small")];
        if self.choices.chance(4, 5) {
            self.choices.fill(&mut data);
        }
        (disk, ByteOffset::new(at), data)
    }

    pub(super) fn branch_head(&self, name: &str) -> u64 {
        let machines = self.retention.machines();
        let branch = machines[0].branches.iter().find(|branch| branch.name.as_str() == name);
        branch.expect("an acknowledged branch is there").head.number()
    }

    /// Finds out which of the writes that were under way happened.
    pub(super) async fn settle_branches(&mut self) -> Alive<()> {
        for (name, mut branch) in self.model.branches.clone() {
            if branch.uncertain.is_empty() {
                continue;
            }
            let mut happened = 0;
            for (disk, at, data) in std::mem::take(&mut branch.uncertain) {
                let found = self.read_branch(&name, disk).await?;
                let range = bytes(ByteRange::at(at, data.len() as u64).expect("on the disk"));
                if found[range.clone()] == data[..] {
                    happened += 1;
                    lay(&mut branch.content, disk, at, &data);
                } else {
                    let old = &branch.content[disk][range.clone()];
                    assert!(found[range] == *old, "a torn write of {name} at {at}");
                }
            }
            let head = self.branch_head(&name);
            branch.moments.insert(head, Arc::new(branch.content.clone()));
            self.model.say(format!("{happened} writes to {name} had happened"));
            self.model.branches.insert(name, branch);
        }
        Ok(())
    }

    pub(super) async fn read_branch(&self, name: &str, disk: usize) -> Alive<Vec<u8>> {
        let name = Name::parse(name).expect("a name");
        let disk = self.retention.branch_disk(&machine(), &name, &disk_name(disk));
        let disk = self.alive(disk, "branch disk")?;
        let whole = disk.geometry().whole();
        let read = disk.read(whole).await;
        Ok(self.alive(read, "read branch")?.to_vec())
    }
}

pub(super) fn lay(disks: &mut [Vec<u8>], disk: usize, at: ByteOffset, data: &[u8]) {
    let range = bytes(ByteRange::at(at, data.len() as u64).expect("on the disk"));
    disks[disk][range].copy_from_slice(data);
}
