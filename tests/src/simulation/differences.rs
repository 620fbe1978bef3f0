//! Changes between any two moments that the model knows: nothing that differs is left out, whichever way one looks.

use super::life::{Alive, Life, disk_name};
use super::model::{SIZES, Snapshot, bytes};
use crate::world::moment;
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange};
use landfall_retention::name::When;
use landfall_retention::point::PointKind;
use landfall_retention::{Change, Changes, ChangesError, Shown};

impl Life<'_> {
    /// All moments that can be opened, with what they hold.
    fn moments(&self) -> Vec<(String, Snapshot)> {
        let points = self.model.points.iter().chain(&self.model.instants);
        let trunk = points.map(|(at, held)| (format!("m@seq:{at}"), held));
        let branches = self.model.branches.iter().flat_map(|(name, branch)| {
            branch.moments.iter().map(move |(at, held)| (format!("m~{name}@seq:{at}"), held))
        });
        trunk.chain(branches).map(|(name, held)| (name, held.clone())).collect()
    }

    /// Compares what is said to have changed between two moments with what differs in the model.
    pub(super) async fn verify_changes(&mut self) -> Alive<()> {
        let moments = self.moments();
        if moments.is_empty() {
            return Ok(());
        }
        let (from, old) = moments[self.choices.index(moments.len())].clone();
        let (to, new) = moments[self.choices.index(moments.len())].clone();
        let index = self.choices.index(SIZES.len());
        let there = self.changes(&from, &to, index).await?;
        let back = self.changes(&to, &from, index).await?;
        let most = *self.choices.pick(&[1, 3, 1000]);
        let changed = self.all(&there, most).await?;
        let (was, is) = (old[index].len(), new[index].len());
        assert_eq!(there.size_bytes(), is as u64, "{to}");
        let common = ByteRange::up_to(was.min(is) as u64);
        let backwards = self.all(&back, 1000).await?;
        assert_eq!(
            within(&changed, common),
            within(&backwards, common),
            "{from} to {to}, and back"
        );
        if from == to {
            assert_eq!(changed, Vec::new(), "{from}");
        }
        let mut before = old[index].clone();
        before.resize(is, 0);
        for block in ByteRange::up_to(is as u64).chunks(BLOCK_SIZE) {
            let differs = before[bytes(block)] != new[index][bytes(block)];
            let told = changed.iter().any(|range| range.contains(block));
            assert!(told || !differs, "{block:?} of disk {index} between {from} and {to}");
        }
        self.verify_since((&from, &to), index, (&changed, &new[index])).await?;
        let sum: u64 = changed.iter().map(|range| range.length()).sum();
        self.model.say(format!("{sum} bytes of disk {index} between {from} and {to}"));
        Ok(())
    }

    /// What is shown at `to` tells the same of its blocks since `from`, if that lies in its past; and no block is older than that
    /// if it changed since, nor younger if it did not.
    async fn verify_since(
        &self,
        (from, to): (&str, &str),
        index: usize,
        (changed, content): (&[ByteRange], &[u8]),
    ) -> Alive<()> {
        let disk = disk_name(index);
        let from = self.alive(self.retention.resolve(&moment(from)).await, "resolve")?;
        let to = self.alive(self.retention.resolve(&moment(to)).await, "resolve")?;
        let shown = Shown::Moment(to.clone());
        let when = When::Sequence(from.sequence);
        let since = match self.retention.changes_since(&shown, &when, &disk).await {
            Ok(since) => since,
            // Another line's, or later: of one line the earlier is the past of the later.
            Err(ChangesError::NotBefore { .. } | ChangesError::Resolve(_)) => {
                assert!(from.line != to.line || from.sequence > to.sequence, "{when} of {shown}");
                return Ok(());
            }
            Err(error) => return self.alive(Err(error), "changes since"),
        };
        if since.from() != &from {
            return Ok(());
        }
        let provenance = self.alive(self.retention.provenance(&shown, &disk), "provenance")?;
        let whole = ByteRange::up_to(content.len() as u64);
        let mut told = Vec::new();
        let mut rest = whole;
        while !rest.is_empty() {
            let parts = self.alive(since.within(rest).await, "changes since")?;
            let end = parts.last().expect("it gets on").0.end();
            told.extend(parts.into_iter().filter(|(_, change)| *change == Change::Written));
            rest = rest.split_at(end).1;
        }
        let told = join(told.into_iter().map(|(range, _)| range));
        assert_eq!(told, within(changed, whole), "{when} of {shown}");
        let apart = to.commit_time.since(from.commit_time).as_secs();
        let is_boundary = from.kind.is_none_or(PointKind::is_consistent);
        let mut rest = whole;
        while !rest.is_empty() {
            let parts = self.alive(provenance.ages(rest).await, "ages")?;
            for (part, age) in &parts {
                let age = age.map(|age| age.as_secs());
                for block in part.chunks(BLOCK_SIZE) {
                    if told.iter().any(|range| range.contains(block)) {
                        assert!(age.is_some_and(|age| age <= apart), "{block} is {age:?} old");
                    } else if is_boundary {
                        assert!(age.is_none_or(|age| age >= apart), "{block} is {age:?} old");
                    }
                }
            }
            rest = rest.split_at(parts.last().expect("it gets on").0.end()).1;
        }
        let mut rest = whole;
        while !rest.is_empty() {
            let parts = self.alive(provenance.depths(rest).await, "depths")?;
            for (part, depth) in &parts {
                let zero = content[bytes(*part)].iter().all(|byte| *byte == 0);
                assert!(*depth > 0 || zero, "{part} is nowhere");
            }
            rest = rest.split_at(parts.last().expect("it gets on").0.end()).1;
        }
        Ok(())
    }

    async fn changes(&self, from: &str, to: &str, index: usize) -> Alive<Changes> {
        let from = self.alive(self.retention.resolve(&moment(from)).await, "resolve")?;
        let to = self.alive(self.retention.resolve(&moment(to)).await, "resolve")?;
        self.alive(self.retention.changes(from, to, &disk_name(index)), "changes")
    }

    async fn all(&self, changes: &Changes, most: usize) -> Alive<Vec<ByteRange>> {
        let (mut all, mut next): (Vec<ByteRange>, _) = (Vec::new(), Some(ByteOffset::new(0)));
        while let Some(from) = next {
            let page = self.alive(changes.page(from, most).await, "a page of changes")?;
            for changed in page.ranges {
                assert!(changed.written, "nothing was lost");
                match all.last_mut() {
                    Some(last) if last.end() == changed.range.start() => {
                        let joined = ByteRange::new(last.start(), changed.range.end());
                        *last = joined.expect("in order");
                    }
                    _ => all.push(changed.range),
                }
            }
            next = page.next;
        }
        Ok(all)
    }
}

/// Ranges in order, those that touch joined.
fn join(ranges: impl Iterator<Item = ByteRange>) -> Vec<ByteRange> {
    let mut all: Vec<ByteRange> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end() == range.start() => {
                *last = ByteRange::new(last.start(), range.end()).expect("in order");
            }
            _ => all.push(range),
        }
    }
    all
}

fn within(ranges: &[ByteRange], part: ByteRange) -> Vec<ByteRange> {
    let cut = ranges.iter().filter(|range| range.overlaps(part));
    cut.map(|range| range.intersection(part)).collect()
}
