//! Standby files, as metrics: how far behind they are, and what was written.

use super::{Page, Written, float};
use crate::service::Target;

pub(super) fn write(page: &Page, target: &Target) -> Written {
    counters(page, target)?;
    let label = &["machine"];
    let lag = page.gauges(
        "landfall_standby_lag_seconds",
        "How much later the newest point is than what the standby of a machine holds. Absent while it holds none.",
        label,
    )?;
    let points = page.gauges(
        "landfall_standby_lag_points",
        "Points that come after what the standby of a machine holds.",
        label,
    )?;
    let whole = page.gauges(
        "landfall_standby_whole",
        "1 if all files of the standby hold the same point, as far as this run knows; 0 between two.",
        label,
    )?;
    let failing = page.gauges(
        "landfall_standby_failing",
        "1 while the standby of a machine cannot be brought forward.",
        label,
    )?;
    let paused = page.gauges(
        "landfall_standby_paused",
        "1 while the standby of a machine stays as it is because somebody said so.",
        label,
    )?;
    for status in target.retention.standbys() {
        let look = target.standbys.of(&status.machine);
        // It may have been removed since the list was made.
        let Ok(behind) = target.retention.standby_lag(&status.machine, look.held) else { continue };
        let machine = &[status.machine.as_str()];
        if look.held.is_some() {
            lag.with_label_values(machine).set(behind.time.as_secs_f64());
        }
        points.with_label_values(machine).set(float(behind.points as u64));
        whole.with_label_values(machine).set(float(u64::from(look.held.is_some())));
        failing.with_label_values(machine).set(float(u64::from(look.failure.is_some())));
        paused.with_label_values(machine).set(float(u64::from(status.paused)));
    }
    Ok(())
}

fn counters(page: &Page, target: &Target) -> Written {
    let counters = target.standbys.counters();
    page.totals(&[
        (
            "landfall_standby_moves_total",
            "Times that standby files were brought to another point.",
            &counters.moves,
        ),
        (
            "landfall_standby_failures_total",
            "Times that standby files could not be brought to a point.",
            &counters.failures,
        ),
        (
            "landfall_standby_compared_files_total",
            "Standby files that were compared as a whole, as it was not known what they held.",
            &counters.compared,
        ),
        (
            "landfall_standby_written_bytes_total",
            "Bytes of data written to standby files.",
            &counters.written_bytes,
        ),
        (
            "landfall_standby_zeroed_bytes_total",
            "Bytes of standby files that were made zero.",
            &counters.zeroed_bytes,
        ),
    ])
}
