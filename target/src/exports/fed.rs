//! Disks that machines are fed through: `MACHINE/DISK` without a moment, where somebody said that
//! the machine is fed so.
//!
//! **Invariant:** writing to one feeds the machine, so whoever shows a certificate needs that
//! granted by itself: what may be read is in `[nbd.allow]`, what may be fed in `[nbd.feed]`.

use crate::config::Grant;
use futures_util::future::LocalBoxFuture;
use landfall_protocols::nbd::{ExportEntry, Leaving, OpenError, Usage};
use landfall_retention::name::Name;
use landfall_retention::{FedDisk, FeedStatus, IngestError, IngestMode, ResolveError, Retention};
use std::sync::Arc;

/// An open disk that a machine is fed through.
pub(super) struct Fed {
    pub(super) disk: Arc<FedDisk>,
    pub(super) name: String,
    pub(super) description: String,
}

/// Opens the disk for `visitor`, to whom `grant` lets machines be fed.
pub(super) fn open(
    retention: &Arc<Retention>,
    (machine, disk): (&Name, &Name),
    mode: IngestMode,
    visitor: String,
    grant: &Grant,
) -> Result<Fed, OpenError> {
    let name = format!("{machine}/{disk}");
    if !grant.covers(machine.as_str()) {
        return Err(OpenError::NotAllowed(format!(
            "{name} feeds {machine}, which the owner of this certificate may not; \
             {name}@latest is the newest point"
        )));
    }
    let opened = retention.fed_disk(machine, disk, visitor);
    let disk = opened.map_err(|error| match error {
        // Removed just now: what other machines there are is no business of whoever asks.
        IngestError::Resolve(ResolveError::UnknownMachine { machine, .. }) => {
            OpenError::Unknown(format!("no machine {machine}"))
        }
        other => OpenError::Unknown(other.to_string()),
    })?;
    Ok(Fed { disk, description: describe(machine, mode), name })
}

/// What a list shows of the disks of a machine.
pub(super) fn entries(machine: &Name, feed: &FeedStatus) -> Vec<ExportEntry> {
    let entry = |disk: &landfall_retention::FedDiskStatus| ExportEntry {
        name: format!("{machine}/{}", disk.name),
        description: describe(machine, feed.mode),
    };
    feed.disks.iter().map(entry).collect()
}

fn describe(machine: &Name, mode: IngestMode) -> String {
    format!("feeds {machine} ({mode}), writable, one client at a time")
}

/// Who feeds a machine, and how they leave.
pub(super) struct Feeder(pub(super) Arc<FedDisk>);

impl Usage for Feeder {
    fn enter(&self) -> LocalBoxFuture<'_, Result<(), OpenError>> {
        Box::pin(async {
            let entered = self.0.enter().await;
            entered.map_err(|error| OpenError::Failed(error.to_string()))
        })
    }

    fn leave(&self, how: Leaving) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let broken = match &how {
                Leaving::InOrder => None,
                Leaving::Broken(why) => Some(why.as_str()),
            };
            // What it came to is in the log, and in the status of the machine.
            let _ = self.0.leave(broken).await;
        })
    }
}
