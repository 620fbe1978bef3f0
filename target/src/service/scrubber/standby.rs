//! Standby files, at the end of a round: each is held against the point that it holds, and written anew where it differs.
//!
//! A standby is what is booted when this target is gone, so nobody would notice before that day.

use super::Scrubber;
use crate::images::StandbyFolders;
use futures_util::future::{Either, select};
use landfall_disks::uring::sleep;
use landfall_retention::manifest::integrity::ScrubPosition;
use landfall_retention::name::Name;
use landfall_retention::standby::sidecar::HeldPoint;
use landfall_retention::standby::{
    StandbyChecked, StandbyError, StandbyFound, StandbyOrder, StandbyProgress,
};
use landfall_retention::{FoldPace, Retention, ScrubProgress};
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How often it looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a round found of the standby files of a machine.
#[derive(Clone, Debug)]
pub(crate) struct StandbyScrubbed {
    /// The machine.
    pub(crate) machine: Name,
    /// Its files, or why they could not be looked at.
    pub(crate) files: Result<Vec<StandbyChecked>, String>,
    /// Bytes that were written because some differed, or why they could not be.
    pub(crate) written_anew: Option<Result<u64, String>>,
}

impl Scrubber {
    /// Looks at the standby files of one machine, or of all. Nothing, if it was stopped.
    pub(super) async fn standbys(
        &self,
        retention: &Retention,
        of: Option<&Name>,
        pace: &FoldPace<'_>,
    ) -> Option<Vec<StandbyScrubbed>> {
        let mut scrubbed = Vec::new();
        for status in retention.standbys() {
            if of.is_none_or(|of| *of == status.machine) {
                let one = self.standby(retention, status.machine, pace);
                scrubbed.push(self.unless_stopped(one).await?);
            }
        }
        Some(scrubbed)
    }

    async fn standby(
        &self,
        retention: &Retention,
        machine: Name,
        pace: &FoldPace<'_>,
    ) -> StandbyScrubbed {
        let watch = |progress: &StandbyProgress| self.tell(&machine, progress);
        let checked = retention.check_standby(&machine, &StandbyFolders, pace, &watch).await;
        let files = match checked {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!("the standby of {machine} was not looked at: {error}");
                let (files, written_anew) = (Err(error.to_string()), None);
                return StandbyScrubbed { machine, files, written_anew };
            }
        };
        let mut differs = None;
        for StandbyChecked { path, found, .. } in &files {
            if let StandbyFound::Differs { held, bytes, .. } = found {
                self.counters.found.fetch_add(1, Relaxed);
                let path = path.display();
                tracing::error!("{path} is not {held} any more: {bytes} bytes differ");
                differs = Some(held.clone());
            }
        }
        let written_anew = match differs {
            None => None,
            Some(held) => Some(self.write_anew(retention, &machine, &held, pace).await),
        };
        StandbyScrubbed { machine, files: Ok(files), written_anew }
    }

    async fn write_anew(
        &self,
        retention: &Retention,
        machine: &Name,
        held: &HeldPoint,
        pace: &FoldPace<'_>,
    ) -> Result<u64, String> {
        let watch = |progress: &StandbyProgress| self.tell(machine, progress);
        let brought = async {
            let Some(order) = StandbyOrder::repair(retention, machine, held)? else {
                return Err(StandbyError::WrongMoment(format!("{held} is gone")));
            };
            retention.bring_standby(machine, &order, &StandbyFolders, pace, &watch).await
        };
        match brought.await {
            Ok(report) => {
                self.counters.healed.fetch_add(1, Relaxed);
                tracing::warn!("{machine}: its standby was written anew where it differed");
                Ok(report.written_bytes + report.zeroed_bytes)
            }
            Err(error) => {
                tracing::error!("{machine}: its standby could not be written anew: {error}");
                Err(error.to_string())
            }
        }
    }

    fn tell(&self, machine: &Name, progress: &StandbyProgress) {
        if let Some(running) = &mut self.state.lock().running {
            running.progress = Some(ScrubProgress {
                // Everything that a round takes up again is behind it.
                position: ScrubPosition::Done,
                at: format!("standby file of {machine}/{}", progress.disk),
                done_bytes: progress.done_bytes,
                total_bytes: progress.size_bytes,
            });
        }
    }

    /// What `work` gives, or nothing if somebody stops the round before.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            match select(work.as_mut(), pin!(sleep(LOOK_EVERY))).await {
                Either::Left((done, _)) => return Some(done),
                Either::Right(_) => {
                    if self.state.lock().running.as_ref().is_none_or(|running| running.stop) {
                        return None;
                    }
                }
            }
        }
    }
}
