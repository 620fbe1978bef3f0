//! The part of a look that is about space: what each group takes, what its quota says, what is going to happen. Each thing
//! that somebody should know is logged when it begins and when it ends.

use super::forecast::shrinking;
use super::{Folding, State, words};
use crate::exports::{Volume, space_left};
use landfall_retention::time::{Clock, SystemClock};
use landfall_retention::{GroupSpace, Retention};
use std::time::{Duration, Instant};

/// The volume is said to fill so long before it does.
const AHEAD: Duration = Duration::from_secs(24 * 3600);

impl Folding {
    /// Sees what each group takes, and has its quota applied.
    pub(super) async fn look_at_space(&self, retention: &Retention) {
        let spaces = match retention.look_at_space(&self.wake).await {
            Ok(spaces) => spaces,
            Err(error) => return self.cannot_look(&error),
        };
        let (free, taken_bytes) = match retention.journal().await {
            Ok(journal) => (journal.free_bytes, journal.segment_bytes),
            Err(error) => return self.cannot_look(&error),
        };
        let left = free.saturating_sub(self.settings.needed_bytes);
        let volume = Volume { left_bytes: left, taken_bytes };
        let of_space = |space: &GroupSpace| (space.machine.clone(), space_left(space, volume));
        self.levels.note(spaces.iter().map(of_space));
        let uptime = SystemClock.uptime();
        let mut state = self.state.lock();
        let State { trunks, growth, volume_fills, .. } = &mut *state;
        growth.note(uptime, spaces.iter().map(|space| space.appended_bytes).sum());
        let fills = growth.lasts(left).filter(|full_in| *full_in <= AHEAD);
        if let Some(full_in) = fills.filter(|_| !*volume_fills) {
            tracing::warn!("{}", words::volume_fills(full_in));
        }
        *volume_fills = fills.is_some();
        for space in spaces {
            let trunk = trunks.entry(space.trunk).or_default();
            trunk.growth.note(uptime, space.appended_bytes);
            note_held(&space, &mut trunk.held);
            let shrinks = shrinking(&space, &trunk.growth, SystemClock.now());
            if let Some(found) = shrinks.filter(|_| trunk.shrinks.is_none()) {
                let text = words::shrinks(&space.machine, &found, space.policy.space());
                tracing::warn!("{text}");
            }
            trunk.shrinks = shrinks;
            trunk.space = Some(space);
        }
    }

    fn cannot_look(&self, error: &dyn std::fmt::Display) {
        let (_, news) = self.state.lock().looking.failed(error.to_string(), Instant::now());
        if news {
            tracing::error!(%error, "cannot tell what histories take; trying again every minute");
        }
    }

    /// In how long the volume of the journal is full at the present rate, with so much free on it.
    pub(crate) fn volume_lasts(&self, free_bytes: u64) -> Option<Duration> {
        let left = free_bytes.saturating_sub(self.settings.needed_bytes);
        self.state.lock().growth.lasts(left)
    }
}

/// Says when a group begins to be held, and when that ends.
fn note_held(space: &GroupSpace, logged: &mut Option<String>) {
    match (&space.held, logged.is_some()) {
        (Some(why), false) => tracing::warn!("nothing more is taken of {}: {why}", space.machine),
        (None, true) => tracing::info!("{} has room in its quota again", space.machine),
        _ => {}
    }
    logged.clone_from(&space.held);
}
