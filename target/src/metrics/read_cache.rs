//! What the read cache did and holds.

use super::{Page, Written, float};
use crate::service::Target;

pub(super) fn write(page: &Page, target: &Target) -> Written {
    let status = target.retention.read_cache();
    page.counter(
        "landfall_read_cache_hits_total",
        "Reads of points and branches that were answered from memory.",
        status.hits,
    )?;
    page.counter(
        "landfall_read_cache_misses_total",
        "Reads of points and branches of which memory lacked something; those of more than 128 KiB are not looked up.",
        status.misses,
    )?;
    let help = "Blocks of points and branches in memory; at most read_cache of [memory].";
    page.gauge("landfall_read_cache_bytes", help, float(status.bytes))
}
