//! What the records of lineages do to the state, and those that add up to it in a snapshot.

use super::Inherited;
use crate::ids::{DiskId, LineId, Sequence};
use crate::manifest::record::ManifestRecord;
use crate::manifest::state::{DiskEntry, LineEntry, ManifestState, Misfit};
use crate::name::Name;
use crate::replica::span::BranchSpan;
use crate::time::Timestamp;

impl ManifestState {
    /// Applies the kinds of this module.
    pub(in crate::manifest) fn apply_lineage(
        &mut self,
        record: &ManifestRecord,
    ) -> Result<(), Misfit> {
        match record {
            ManifestRecord::BranchStarted { line, name, parent, origin, origin_time } => {
                let above = self.line_mut(*parent, "BranchStarted")?;
                above.check_begun(*origin, "BranchStarted")?;
                let at = (*parent, *origin, *origin_time);
                self.start_branch("BranchStarted", *line, name, at, *origin)
            }
            ManifestRecord::BranchPromoted { line, old, instants, generation } => {
                // All of it or nothing.
                let mut after = self.clone();
                after.promote(*line, old, *instants, *generation)?;
                after.check_snapshot("BranchPromoted")?;
                *self = after;
                Ok(())
            }
            ManifestRecord::LineInherits { line, stretch } => {
                let entry = self.line_mut(*line, "LineInherits")?;
                let follows = stretch.up_to > entry.own_above() && stretch.from != *line;
                if !follows || stretch.up_to.number() == u64::MAX {
                    let what = format!("{line:?} does not inherit {stretch:?}");
                    return Err(Misfit { record: "LineInherits", what });
                }
                entry.inherited.push(*stretch);
                Ok(())
            }
            ManifestRecord::LineSettled { line, sealed, born } => {
                let entry = self.line_mut(*line, "LineSettled")?;
                (entry.sealed, entry.born) = (*sealed, *born);
                Ok(())
            }
            ManifestRecord::BranchDiskGrown { line, disk, above, size_bytes } => {
                self.branch_of_disk(*line, *disk, "BranchDiskGrown")?
                    .check_begun(*above, "BranchDiskGrown")?;
                let span = &mut self.disk_mut(*disk, "BranchDiskGrown")?.span;
                let of_line = span.branches.entry(*line).or_default();
                if !of_line.may_grow(*above, *size_bytes) {
                    let what = format!("{disk:?} does not grow to {size_bytes} above {above:?}");
                    span.forget_empty(*line);
                    return Err(Misfit { record: "BranchDiskGrown", what });
                }
                of_line.grown.insert(*above, *size_bytes);
                Ok(())
            }
            ManifestRecord::BranchDiskEnds { line, disk, since, until } => {
                self.branch_of_disk(*line, *disk, "BranchDiskEnds")?;
                let span = &mut self.disk_mut(*disk, "BranchDiskEnds")?.span;
                let of_line = span.branches.entry(*line).or_default();
                (of_line.since, of_line.until) = (*since, *until);
                span.forget_empty(*line);
                Ok(())
            }
            other => unreachable!("{other:?} is applied elsewhere"),
        }
    }

    /// The branch `line`, of the machine that `disk` is of.
    fn branch_of_disk(
        &self,
        line: LineId,
        disk: DiskId,
        record: &'static str,
    ) -> Result<&LineEntry, Misfit> {
        let of = self.disks.get(&disk).map(|disk| disk.machine);
        let entry = self.lines.get(&line).filter(|line| line.origin.is_some());
        let found = entry.filter(|line| Some(line.machine) == of);
        found.ok_or_else(|| Misfit::missing(record, (line, disk)))
    }

    /// A new branch; its first record follows `base`.
    pub(in crate::manifest) fn start_branch(
        &mut self,
        record: &'static str,
        line: LineId,
        name: &Name,
        (parent, origin, born): (LineId, Sequence, Timestamp),
        base: Sequence,
    ) -> Result<(), Misfit> {
        let above = self.line_mut(parent, record)?.clone();
        above.check_within_history(record, origin)?;
        above.check_there(origin, record)?;
        Misfit::unless_new(!self.is_written_as(line), record, line)?;
        let entry = LineEntry {
            branch: Some(name.clone()),
            origin: Some((parent, origin)),
            base,
            born,
            ..LineEntry::new(line, above.machine, above.group, above.lane)
        };
        self.given.line = self.given.line.max(line);
        self.lines.insert(line, entry);
        Ok(())
    }

    /// Records of what inherits, was sealed or promoted.
    pub(in crate::manifest) fn lineage_records(
        &self,
        entry: &LineEntry,
        into: &mut Vec<ManifestRecord>,
    ) {
        let line = entry.id;
        let inherits =
            |stretch: &Inherited| ManifestRecord::LineInherits { line, stretch: *stretch };
        into.extend(entry.inherited.iter().map(inherits));
        let born_late = entry.origin.is_none() && entry.born != Timestamp::default();
        if entry.sealed || born_late {
            let LineEntry { sealed, born, .. } = *entry;
            into.push(ManifestRecord::LineSettled { line, sealed, born });
        }
    }
}

impl DiskEntry {
    /// Records of sizes and ends on branches; after those of the trunk.
    pub(in crate::manifest) fn branch_span_records(&self, into: &mut Vec<ManifestRecord>) {
        let disk = self.id;
        for (line, BranchSpan { grown, since, until }) in &self.span.branches {
            let line = *line;
            let grown = grown.iter().map(|(above, size_bytes)| ManifestRecord::BranchDiskGrown {
                line,
                disk,
                above: *above,
                size_bytes: *size_bytes,
            });
            into.extend(grown);
            if since.is_some() || until.is_some() {
                let (since, until) = (*since, *until);
                into.push(ManifestRecord::BranchDiskEnds { line, disk, since, until });
            }
        }
    }
}
