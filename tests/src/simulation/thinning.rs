//! Policies of seconds, and what they drop.

use super::life::{Alive, Life, machine};
use crate::world::moment;
use landfall_retention::ResolveError;

/// What thinning is tried with: slots of about as much time as a few steps take.
const POLICIES: [&str; 3] =
    ["keep all for 1s, every 2s for 10s", "keep all for 0s, secondly for 1h", "keep all"];

impl Life<'_> {
    /// Applies a policy of seconds, and takes note of what went.
    pub(super) async fn thin(&mut self) -> Alive<()> {
        if !self.model.added {
            return Ok(());
        }
        let policy = *self.choices.pick(&POLICIES);
        let set = self.retention.set_policy(&machine(), policy.parse().expect("a policy")).await;
        self.alive(set, "set policy")?;
        self.model.thinning = true;
        let thinned = self.retention.thin().await;
        let report = self.alive(thinned, "thin")?;
        assert_eq!(report.suspended, None, "nobody moved the clock");
        let gone: u64 = report.lines.iter().map(|line| line.decision.dropped.points).sum();
        self.model.say(format!("{policy}: {gone} points went"));
        self.settle_thinned().await
    }

    /// Takes moments off the model that were dropped. It asks by name, so each of them is refused as dropped, and by nothing
    /// else; while no thinning was under way, none may be missing.
    pub(super) async fn settle_thinned(&mut self) -> Alive<()> {
        if !std::mem::take(&mut self.model.thinning) {
            return Ok(());
        }
        for sequence in self.model.points.keys().copied().collect::<Vec<_>>() {
            if self.is_dropped(&format!("m@seq:{sequence}")).await? {
                self.model.points.remove(&sequence);
            }
        }
        for sequence in self.model.instants.keys().copied().collect::<Vec<_>>() {
            if self.is_dropped(&format!("m@seq:{sequence}")).await? {
                self.model.instants.remove(&sequence);
            }
        }
        for (name, mut branch) in self.model.branches.clone() {
            for sequence in branch.moments.keys().copied().collect::<Vec<_>>() {
                if self.is_dropped(&format!("m~{name}@seq:{sequence}")).await? {
                    branch.moments.remove(&sequence);
                }
            }
            self.model.branches.insert(name, branch);
        }
        Ok(())
    }

    async fn is_dropped(&mut self, text: &str) -> Alive<bool> {
        match self.retention.resolve(&moment(text)).await {
            Ok(_) => Ok(false),
            Err(ResolveError::Dropped { .. }) => Ok(true),
            Err(error) => self.alive(Err(error), text),
        }
    }
}
