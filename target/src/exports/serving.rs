//! What stands between a client and the disk that it opened: what it may use, what is foreseen of
//! it.
//!
//! ```text
//!   connection ─▶ limit of the disk, shared by all who read any moment of it
//!              ─▶ boot set ─▶ read-ahead, both of this connection ─▶ view │ branch
//! ```
//!
//! **Invariant:** a disk has one limit, however many moments of it are open and over however many
//! connections: what is to be protected is what lies behind all of them.

use super::boot_set::BootSets;
use super::warm::{WarmDisk, Warmth};
use crate::config::NbdConfig;
use landfall_disks::Disk;
use landfall_disks::read_ahead::ReadAhead;
use landfall_disks::throttle::{Throttle, Throttled};
use landfall_disks::uring::Core;
use landfall_retention::name::Name;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// What was done between clients and disks.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServingCounters {
    /// Nanoseconds that requests have waited for their limits.
    pub(crate) waited: Arc<AtomicU64>,
    /// Reads of booting machines that were served from memory.
    pub(crate) boot_reads: Arc<AtomicU64>,
}

/// What disks that are open share.
pub(super) struct Serving {
    config: NbdConfig,
    /// Of disks that are open, or were until just now: who connects anew gets no new limit.
    throttles: Mutex<HashMap<(Name, Name), Arc<Throttle>>>,
    warmth: Arc<Warmth>,
    counters: ServingCounters,
}

impl Serving {
    /// With boot sets in the folder `boots`, where those of others than `machines` are removed, and
    /// which `core` writes. Blocks.
    pub(super) fn new(
        config: &NbdConfig,
        boots: PathBuf,
        machines: &HashSet<String>,
        core: Core,
    ) -> Self {
        let counters = ServingCounters::default();
        let hits = Arc::clone(&counters.boot_reads);
        let sets = BootSets::new(boots);
        if let Err(error) = sets.keep_only(machines) {
            tracing::warn!(%error, "cannot tidy up what machines read when they boot");
        }
        let warmth = Arc::new(Warmth::new(sets, hits, core));
        Self { config: config.clone(), throttles: Mutex::default(), warmth, counters }
    }

    /// What was done so far.
    pub(super) fn counters(&self) -> &ServingCounters {
        &self.counters
    }

    /// A moment or branch of `disk` of `machine`, as a connection gets it.
    pub(super) fn wrap(
        &self,
        machine: &Name,
        disk: &Name,
        content: Arc<dyn Disk>,
    ) -> Arc<dyn Disk> {
        let content = Arc::new(ReadAhead::new(content));
        let warmth = Arc::clone(&self.warmth);
        let content: Arc<dyn Disk> = Arc::new(WarmDisk::new(content, (machine, disk), warmth));
        let limits = self.config.limits_of(machine.as_str());
        if limits.is_unlimited() {
            return content;
        }
        let throttle = {
            let (mut throttles, now) = (self.throttles.lock(), Instant::now());
            throttles.retain(|_, one| Arc::strong_count(one) > 1 || !one.is_idle(now));
            let waited = &self.counters.waited;
            let new = || Arc::new(Throttle::new(limits, Arc::clone(waited)));
            let key = (machine.clone(), disk.clone());
            Arc::clone(throttles.entry(key).or_insert_with(new))
        };
        Arc::new(Throttled::new(content, throttle))
    }
}
