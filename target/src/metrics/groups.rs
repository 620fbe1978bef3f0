//! Groups as metrics: how old what their machines have in common is, and what became of barriers.

use super::{Page, Written, float};
use crate::service::Target;

pub(super) fn write(page: &Page, target: &Target) -> Written {
    let label = &["group"];
    let machines = page.gauges("landfall_group_machines", "Machines of a group.", label)?;
    let late = page.gauges(
        "landfall_group_late_machines",
        "Machines of a group that no barrier could be made of now.",
        label,
    )?;
    let points =
        page.gauges("landfall_group_common_points", "Common points that a group has.", label)?;
    let age = page.gauges(
        "landfall_group_common_point_age_seconds",
        "Age of the newest moment that all machines of a group have in common. Absent before the first.",
        label,
    )?;
    let held = page.gauges(
        "landfall_group_barrier_held_seconds",
        "For how long the last barrier of a group held writes back.",
        label,
    )?;
    let barriers = page.counters(
        "landfall_group_barriers_total",
        "Barriers of a group, by what they came to: made, unchanged (nothing was written), failed.",
        &["group", "outcome"],
    )?;
    let counters = target.barriers.counters();
    for group in target.retention.groups() {
        let name = group.name.as_str();
        let count = |number: usize| float(number as u64);
        machines.with_label_values(&[name]).set(count(group.members.len()));
        let are_late = group.members.iter().filter(|(_, late)| late.is_some()).count();
        late.with_label_values(&[name]).set(count(are_late));
        points.with_label_values(&[name]).set(count(group.points));
        if let Some(since) = target.barriers.age(&group) {
            age.with_label_values(&[name]).set(since.as_secs_f64());
        }
        let Some(of) = counters.get(&group.name) else { continue };
        if let Some(time) = of.held {
            held.with_label_values(&[name]).set(time.as_secs_f64());
        }
        let outcomes = [("made", of.made), ("unchanged", of.unchanged), ("failed", of.failed)];
        for (outcome, number) in outcomes {
            barriers.with_label_values(&[name, outcome]).inc_by(float(number));
        }
    }
    Ok(())
}
