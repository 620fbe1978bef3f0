//! What `NBD_OPT_LIST` shows: everything that opens, but of points the newest.
//!
//! **Invariants**
//! - Every machine that opens is there, however many there are: the limit is one of points, which
//!   come last and in turns.
//! - What is said of a name is what [`NBD_INFO_DESCRIPTION`](super::describe) says when it is
//!   opened.

use super::{
    LISTED_POINTS, RetentionExports, describe, describe_head, describe_moment, fed, machine_of,
    with_disk,
};
use crate::config::Grant;
use landfall_protocols::nbd::ExportEntry;
use landfall_retention::name::{MomentName, When};
use landfall_retention::point::{PointOrder, PointQuery};
use landfall_retention::{ExportStatus, MachineStatus};
use std::collections::BTreeSet;

/// Lines of a list beyond which no points are added.
const LISTED: usize = 2000;

impl RetentionExports {
    /// Whatever `grant` lets somebody read, and `feed` feed.
    pub(super) async fn entries(&self, grant: &Grant, feed: &Grant) -> Vec<ExportEntry> {
        let mut machines = self.retention.machines();
        let mut entries = Vec::new();
        for machine in machines.iter().filter(|machine| feed.covers(machine.name.as_str())) {
            let status = self.retention.feed_status(&machine.name);
            entries.extend(status.iter().flat_map(|status| fed::entries(&machine.name, status)));
        }
        machines.retain(|machine| grant.covers(machine.name.as_str()));
        for export in self.retention.exports() {
            let machine = machine_of(&export.name);
            if let Some(machine) = machines.iter().find(|one| one.name.as_str() == machine) {
                entries.extend(self.exported(&export, machine).await);
            }
        }
        for machine in &machines {
            entries.extend(self.newest(machine).await);
        }
        let disks: usize = machines.iter().map(|machine| machine.disks.len()).sum();
        let room = LISTED.saturating_sub(entries.len());
        let each = room.div_ceil(disks.max(1)).min(LISTED_POINTS);
        let points = machines.iter().flat_map(|machine| self.points_of(machine, each));
        entries.extend(in_turns(points.collect(), room));
        without_doubles(entries)
    }

    /// The disks of a machine under the name it is exported by.
    async fn exported(&self, export: &ExportStatus, machine: &MachineStatus) -> Vec<ExportEntry> {
        let Ok(name) = MomentName::parse(&export.name) else { return Vec::new() };
        let description = match (&name.branch, &name.when) {
            (Some(_), When::Latest) => describe_head(&export.name, export.writable),
            // It may be gone by now.
            _ => match self.retention.resolve(&name).await {
                Ok(moment) => describe_moment(&moment),
                Err(_) => return Vec::new(),
            },
        };
        let of = |disk| ExportEntry {
            name: with_disk(&export.name, disk),
            description: description.clone(),
        };
        machine.disks.iter().map(|disk| of(&disk.name)).collect()
    }

    /// The disks of a machine as they are at its newest moment, if it has one.
    async fn newest(&self, machine: &MachineStatus) -> Vec<ExportEntry> {
        let name = MomentName {
            machine: machine.name.clone(),
            branch: None,
            disk: None,
            when: When::Latest,
        };
        let Ok(newest) = self.retention.resolve(&name).await else { return Vec::new() };
        // Without a moment it is what feeds the machine.
        let is_fed = self.retention.ingest_mode(&machine.name).is_some();
        let when = if is_fed { "@latest" } else { "" };
        let there = machine.disks.iter().filter(|disk| disk.span.has(newest.sequence));
        let entry = |disk: &landfall_retention::DiskStatus| ExportEntry {
            name: format!("{}/{}{when}", machine.name, disk.name),
            description: describe_moment(&newest),
        };
        there.map(entry).collect()
    }

    /// The newest points of each disk of a machine, at most so many.
    fn points_of(&self, machine: &MachineStatus, most: usize) -> Vec<Vec<ExportEntry>> {
        if most == 0 {
            return Vec::new();
        }
        let order = PointOrder::NewestFirst;
        let query = PointQuery { order, ..PointQuery::all(most) };
        // A machine removed meanwhile has no points any more.
        let points = self.retention.points(&machine.name, None, &query).unwrap_or_default();
        let of_disk = |disk: &landfall_retention::DiskStatus| {
            let there = points.iter().map(|status| &status.point);
            let there = there.filter(|point| disk.span.has(point.sequence));
            let entry = |point: &landfall_retention::point::Point| ExportEntry {
                name: format!("{}/{}@seq:{}", machine.name, disk.name, point.sequence),
                description: describe(
                    Some(point.kind),
                    point.commit_time,
                    point.sequence,
                    point.label.as_ref(),
                ),
            };
            there.map(entry).collect()
        };
        machine.disks.iter().map(of_disk).collect()
    }
}

/// The first of each list, then the second of each, and so on, until there are `most`.
fn in_turns<T>(lists: Vec<Vec<T>>, most: usize) -> Vec<T> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    while all.len() < most {
        let before = all.len();
        all.extend(lists.iter_mut().filter_map(Iterator::next).take(most - before));
        if all.len() == before {
            break;
        }
    }
    all
}

/// Each name once: an exported moment may be a point, too.
fn without_doubles(mut entries: Vec<ExportEntry>) -> Vec<ExportEntry> {
    let mut seen = BTreeSet::new();
    entries.retain(|entry| seen.insert(entry.name.clone()));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_points_of_all_come_before_the_older_ones_of_any() {
        let lists = || vec![vec!["a1", "a2", "a3"], vec![], vec!["b1"], vec!["c1", "c2"]];
        assert_eq!(in_turns(lists(), 99), ["a1", "b1", "c1", "a2", "c2", "a3"]);
        assert_eq!(in_turns(lists(), 4), ["a1", "b1", "c1", "a2"]);
        assert_eq!(in_turns(lists(), 2), ["a1", "b1"]);
        assert!(in_turns(lists(), 0).is_empty() && in_turns::<u8>(Vec::new(), 5).is_empty());
    }

    #[test]
    fn a_name_is_listed_once_with_what_was_said_first() {
        let entry = |name: &str, description: &str| ExportEntry {
            name: name.to_owned(),
            description: description.to_owned(),
        };
        let listed = without_doubles(vec![entry("a", "1"), entry("b", "2"), entry("a", "3")]);
        assert_eq!(listed, [entry("a", "1"), entry("b", "2")]);
    }
}
