//! The index gets what it lacks of the journal while the target runs, in turns with folds.
//!
//! ```text
//!   start: the newest segments ─▶ listeners ─▶ one segment after the other, the newest first ─▶ whole ─▶ this ends
//!                                               └ fails ─▶ again in a minute, with the same one
//! ```

use super::folding::{Governor, InTurns};
use crate::units::counted;
use landfall_disks::uring::{Core, sleep};
use landfall_retention::Retention;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the log says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Before the same segment is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Builds an index that lacks much of the journal.
pub(crate) struct Indexer {
    stop: watch::Sender<bool>,
    running: watch::Sender<bool>,
}

impl Default for Indexer {
    fn default() -> Self {
        Self { stop: watch::Sender::new(false), running: watch::Sender::new(false) }
    }
}

impl Indexer {
    /// Starts the task, if there is anything to do.
    pub(super) fn start(&self, core: &Core, retention: &Arc<Retention>, governor: &Arc<Governor>) {
        let status = retention.index_status();
        if status.whole {
            return;
        }
        tracing::info!(
            "the index lacks {} of the journal: moments that need them wait, the newest segments come first",
            counted(status.left as u64, "segment")
        );
        self.running.send_replace(true);
        let (running, mut stop) = (self.running.clone(), self.stop.subscribe());
        let (weak, governor) = (Arc::downgrade(retention), Arc::clone(governor));
        core.spawn(move || async move {
            let stops = pin!(stop.wait_for(|stop| *stop));
            futures_util::future::select(stops, pin!(build(weak, &governor))).await;
            running.send_replace(false);
        });
    }

    /// Stops it and waits until nothing of it is left. The next start begins again.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        // An error would say that the sender is gone, and it is ours.
        let _ = self.running.subscribe().wait_for(|running| !*running).await;
    }
}

async fn build(retention: Weak<Retention>, governor: &Arc<Governor>) {
    let begun = Instant::now();
    let mut told = begun;
    let mut failure = String::new();
    while let Some(retention) = retention.upgrade() {
        let more = {
            let pace = InTurns::new(governor, &Arc::default());
            retention.index_more(&pace).await
        };
        let status = retention.index_status();
        match more {
            Ok(true) => failure.clear(),
            Ok(false) => {
                let (segments, took) = (counted(status.files as u64, "segment"), begun.elapsed());
                tracing::info!(
                    "the index has all of the journal: {segments} in {} s",
                    took.as_secs()
                );
                return;
            }
            Err(error) => {
                if failure != error.to_string() {
                    failure = error.to_string();
                    tracing::error!(
                        "the index cannot be built, moments that it lacks stay closed: {failure}"
                    );
                }
                drop(retention);
                sleep(TRY_AGAIN_AFTER).await;
                continue;
            }
        }
        if told.elapsed() >= TELL_EVERY {
            let (left, of) = (status.left, status.files);
            tracing::info!("indexing the journal: {left} of {of} segments are left");
            told = Instant::now();
        }
    }
}
