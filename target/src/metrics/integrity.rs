//! Scrub, as metrics: what was found and healed, how far a round is, and when what was last looked at.

use super::{Page, Written, float};
use crate::service::Target;
use landfall_retention::time::Timestamp;

pub(super) fn write(page: &Page, target: &Target) -> Written {
    counters(page, target)?;
    let entry = target.retention.scrubbed();
    let damaged = entry.damage.len() as u64 + entry.unlisted;
    page.gauge("landfall_damaged_places", "Places known to be damaged.", float(damaged))?;
    let (running, _) = target.scrubber.look();
    let help = "1 while a scrub or verification runs.";
    page.gauge("landfall_scrub_running", help, float(u64::from(running.is_some())))?;
    let progress = running.and_then(|running| running.progress);
    let (done, total) = progress.map_or((0, 0), |one| (one.done_bytes, one.total_bytes));
    let help = "Bytes that the scrub or verification under way has looked at.";
    page.gauge("landfall_scrub_done_bytes", help, float(done))?;
    let help = "Bytes that the scrub or verification under way is to look at.";
    page.gauge("landfall_scrub_total_bytes", help, float(total))?;
    let help = "When a scrub of everything last came to its end; 0: never.";
    page.gauge("landfall_scrub_last_end_timestamp_seconds", help, seconds(entry.ended))?;
    let machines = page.gauges(
        "landfall_machine_scrub_last_end_timestamp_seconds",
        "When everything of a machine was last looked at. Absent if it never was.",
        &["machine"],
    )?;
    for (machine, ended) in target.retention.machines_scrubbed() {
        machines.with_label_values(&[machine.as_str()]).set(seconds(ended));
    }
    Ok(())
}

fn seconds(time: Timestamp) -> f64 {
    float(time.nanoseconds() / 1_000_000_000)
}

fn counters(page: &Page, target: &Target) -> Written {
    let counters = target.scrubber.counters();
    page.totals(&[
        ("landfall_scrub_rounds_total", "Scrubs that came to their end.", &counters.rounds),
        ("landfall_scrub_failures_total", "Scrubs that could not go on.", &counters.failures),
        (
            "landfall_scrub_journal_bytes_total",
            "Bytes of the journal read by scrubs.",
            &counters.journal_bytes,
        ),
        (
            "landfall_scrub_image_bytes_total",
            "Bytes of images read by scrubs.",
            &counters.image_bytes,
        ),
        (
            "landfall_scrub_damage_found_total",
            "Damaged places that scrubs found and that were not known before, healed or not.",
            &counters.found,
        ),
        (
            "landfall_scrub_healed_total",
            "Damaged places that scrubs wrote anew, or found written anew.",
            &counters.healed,
        ),
    ])
}
