//! Branches that become the trunk, nested ones too, and what was the trunk, which may become it again.

use super::life::{Alive, Life, machine, pick};
use super::model::{Branch, Model, SIZES};
use landfall_retention::name::Name;
use landfall_retention::{ChangeError, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Model {
    /// `name` is the trunk from now on, and what was it is called `old`. `head` is the point that was made for that.
    pub(super) fn promote(&mut self, name: &str, old: &str, head: Option<u64>) {
        let mut branch = self.branches.remove(name).expect("it was there");
        let mut way = vec![(branch.parent.clone(), branch.origin)];
        while let Some((Some(parent), _)) = way.last() {
            let above = &self.branches[parent];
            way.push((above.parent.clone(), above.origin));
        }
        let left = way.last().expect("it starts somewhere").1;
        let mut trunk = self.take_trunk(old, left);
        // From the trunk up: what each has up to where it was left.
        for (of, left) in way[..way.len() - 1].iter().rev() {
            let of = of.clone().expect("a branch");
            let above = self.branches.get_mut(&of).expect("it is there");
            let later = above.moments.split_off(left);
            let marked = above.marked.split_off(left);
            let earlier = std::mem::replace(&mut above.moments, later);
            trunk.add(above, earlier);
            // The moment where it was left is the trunk's, and where the rest begins.
            if let Some(at) = above.moments.get(left).cloned() {
                if marked.contains(left) {
                    trunk.points.insert(*left, at);
                } else {
                    trunk.instants.insert(*left, at);
                }
            }
            trunk.windows.push((above.origin, *left));
            (above.marked, above.parent, above.origin) = (marked, None, *left);
        }
        let moments = branch.moments.split_off(&(branch.origin + 1));
        trunk.add(&branch, moments);
        trunk.windows.push((branch.origin, u64::MAX));
        (self.points, self.instants) = (trunk.points, trunk.instants);
        self.windows = trunk.windows;
        if let Some(head) = head {
            self.windows.last_mut().expect("its own").1 = head;
            self.instants.remove(&head);
            self.points.insert(head, Arc::new(branch.content.clone()));
        }
        let on_way: BTreeSet<_> = way.iter().map(|(of, _)| of.clone()).collect();
        let old_name = Some(old.to_owned());
        for (other, one) in &mut self.branches {
            let given_up =
                |(of, left): &(Option<String>, u64)| *of == one.parent && one.origin <= *left;
            if one.parent.as_deref() == Some(name) || way.iter().any(given_up) {
                one.parent = None;
            } else if one.parent.is_none() && !on_way.contains(&Some(other.clone())) {
                one.parent = old_name.clone();
            }
        }
        self.branches.get_mut(old).expect("just made").parent = None;
    }

    /// Makes a branch of what the trunk has above `left`; gives the rest.
    fn take_trunk(&mut self, old: &str, left: u64) -> Trunk {
        let mut trunk = Trunk {
            points: std::mem::take(&mut self.points),
            instants: std::mem::take(&mut self.instants),
            windows: Vec::new(),
        };
        self.between = self.between.iter().copied().filter(|at| *at <= left).collect();
        self.were_instants = self.were_instants.iter().copied().filter(|at| *at <= left).collect();
        let points = trunk.points.split_off(&(left + 1));
        let mut moments = trunk.instants.split_off(&(left + 1));
        let marked = points.keys().copied().collect();
        moments.extend(points);
        let at = trunk.points.get(&left).or(trunk.instants.get(&left)).cloned();
        moments.extend(at.map(|at| (left, at)));
        trunk.windows.extend(self.windows.iter().filter(|window| window.0 < left));
        let content = self.snapshot().to_vec();
        let (uncertain, parent, sealed) = (Vec::new(), None, true);
        let branch = Branch { content, moments, uncertain, parent, origin: left, marked, sealed };
        self.branches.insert(old.to_owned(), branch);
        trunk
    }
}

/// What the new trunk has.
struct Trunk {
    points: BTreeMap<u64, super::model::Snapshot>,
    instants: BTreeMap<u64, super::model::Snapshot>,
    windows: Vec<(u64, u64)>,
}

impl Trunk {
    fn add(&mut self, from: &Branch, moments: BTreeMap<u64, super::model::Snapshot>) {
        let own = moments.into_iter().filter(|(at, _)| *at > from.origin);
        let (marked, others): (Vec<_>, Vec<_>) = own.partition(|(at, _)| from.marked.contains(at));
        self.points.extend(marked);
        self.instants.extend(others);
    }
}

impl Life<'_> {
    /// Some branch becomes the trunk; the source goes on from there, or compares what it has.
    pub(super) async fn promote(&mut self, stream: Stream) -> Alive<Stream> {
        let Some((name, branch)) = pick(&self.model.branches, self.choices) else {
            return Ok(stream);
        };
        let branch_name = Name::parse(&name).expect("a name");
        let old = format!("old{}", self.model.branches_made);
        let old_name = Name::parse(&old).expect("a name");
        self.model.branches_made += 1;
        let promoted = self.retention.promote_branch(&machine(), &branch_name, &old_name).await;
        assert!(
            self.world.folder.is_dead() || matches!(promoted, Err(ChangeError::InUse { .. })),
            "{name} was promoted while the machine is fed"
        );
        drop(stream);
        self.model.maybe_promoted = Some((name.clone(), old.clone()));
        let promoted = self.retention.promote_branch(&machine(), &branch_name, &old_name).await;
        let promoted = self.alive(promoted, "promote")?;
        self.model.maybe_promoted = None;
        assert_eq!(promoted.origin.number(), branch.origin);
        self.promoted(&name, &old);
        self.model.in_order = false;
        self.verify_one().await?;
        self.resume().await
    }

    /// Whether a branch became the trunk before the power went.
    pub(super) fn settle_promotion(&mut self) {
        let Some((name, old)) = self.model.maybe_promoted.take() else { return };
        let machines = self.retention.machines();
        let there = |of: &str| machines[0].branches.iter().any(|one| one.name.as_str() == of);
        assert_ne!(there(&name), there(&old), "half a promotion");
        if there(&old) {
            self.promoted(&name, &old);
        }
    }

    fn promoted(&mut self, name: &str, old: &str) {
        let machines = self.retention.machines();
        let sealed = self.model.branches[name].sealed;
        let content = self.model.branches[name].content.clone();
        let head = (!sealed).then(|| machines[0].head.number());
        self.model.promote(name, old, head);
        self.model.say(format!("{name} is the trunk, which had been {old}, up to {head:?}"));
        // A machine that goes on where the branch was, or one with the disks of then and something else on them.
        if !sealed && self.choices.chance(1, 2) {
            self.model.source = content;
        }
        for index in 0..SIZES.len() {
            let size = machines[0].disks[index].size_bytes;
            self.model.source[index].resize(usize::try_from(size).expect("small"), 7);
        }
    }
}
