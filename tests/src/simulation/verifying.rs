//! Whether moments, branches and the list of points are those of the model.

use super::life::{Alive, Life, disk_name, machine, pick};
use super::model::Snapshot;
use crate::world::moment;
use landfall_retention::point::PointQuery;

impl Life<'_> {
    /// Compares points and branches with the model: all of them, or some.
    pub(super) async fn verify(&mut self, all: bool) -> Alive<()> {
        self.verify_list().await?;
        if all {
            for (sequence, snapshot) in self.model.moments() {
                self.verify_moment(&format!("m@seq:{sequence}"), &snapshot).await?;
            }
            for (name, branch) in self.model.branches.clone() {
                for (sequence, snapshot) in &branch.moments {
                    self.verify_moment(&format!("m~{name}@seq:{sequence}"), snapshot).await?;
                }
            }
        } else {
            self.verify_one().await?;
        }
        for (name, branch) in self.model.branches.clone().into_iter().filter(|(_, b)| !b.sealed) {
            for (disk, content) in branch.content.iter().enumerate() {
                let found = self.read_branch(&name, disk).await?;
                assert!(found == *content, "head of branch {name} differs");
            }
        }
        Ok(())
    }

    /// Every acknowledged point is listed, and no others than one whose mark was under way.
    async fn verify_list(&mut self) -> Alive<()> {
        let all = PointQuery::all(usize::MAX);
        let listed = self.retention.points(&machine(), None, &all).unwrap_or_default();
        let listed: Vec<u64> = listed.iter().map(|p| p.point.sequence.number()).collect();
        for sequence in self.model.points.keys() {
            assert!(listed.contains(sequence), "point seq:{sequence} is gone");
        }
        let mut grown = self.model.grown_point.take();
        for sequence in listed {
            // Thinning makes points of instants.
            let instant = self.model.were_instants.contains(&sequence);
            let instant = instant
                || self.model.windows.iter().any(|one| one.0 < sequence && sequence <= one.1);
            if instant || self.model.points.contains_key(&sequence) {
                continue;
            }
            // Only the mark of an earlier generation can be unknown here, and it may have been seen before its time; or the
            // point that a disk left that had grown.
            let marked = || self.model.maybe_point.clone().map(|(_, snapshot)| snapshot);
            let Some(snapshot) = grown.take().or_else(marked) else {
                panic!("a point nobody marked: seq:{sequence}")
            };
            self.model.points.insert(sequence, snapshot);
        }
        Ok(())
    }

    pub(super) async fn verify_one(&mut self) -> Alive<()> {
        if let Some((sequence, snapshot)) = pick(&self.model.moments(), self.choices) {
            self.verify_moment(&format!("m@seq:{sequence}"), &snapshot).await?;
            self.model.say(format!("verified seq:{sequence}"));
        }
        Ok(())
    }

    pub(super) async fn verify_moment(&self, name: &str, snapshot: &Snapshot) -> Alive<()> {
        let found = self.alive(self.retention.resolve(&moment(name)).await, name)?;
        for (index, content) in snapshot.iter().enumerate() {
            let view = self.alive(self.retention.view(&found, &disk_name(index)), name)?;
            let read = view.read(view.geometry().whole()).await;
            let read = self.alive(read, name)?;
            assert_eq!(read.len(), content.len(), "disk {index} of {name} has another size");
            assert!(read[..] == content[..], "disk {index} of {name} differs");
        }
        Ok(())
    }
}
