//! What is said of folding: in the log, and in `landfall status`.

use super::forecast::Shrinking;
use crate::units::{ByteSize, Span, counted};
use landfall_retention::name::Name;
use landfall_retention::point::Point;
use landfall_retention::policy::{Policy, Quota, WhenFull};
use landfall_retention::{
    Compacted, FoldError, FoldReport, ForgetReport, Holder, StartMoment, WantedStart,
};
use std::time::Duration;

/// Holders that are named; the others are counted.
const NAMED: usize = 4;

/// How much further back history reaches than its policy wants, because somebody holds something.
pub(super) fn held_for(found: &WantedStart) -> Duration {
    if found.holders.is_empty() {
        return Duration::ZERO;
    }
    let start = found.start.as_ref().map(|start| start.commit_time);
    let oldest = found.reachable.map(|reachable| reachable.commit_time).or(start);
    oldest.map_or(Duration::ZERO, |oldest| found.wanted.commit_time.since(oldest))
}

/// `seq:3 is pinned, branch b starts at seq:5 and 2 more`.
pub(super) fn holders(holders: &[Holder]) -> String {
    let named: Vec<String> = holders.iter().take(NAMED).map(ToString::to_string).collect();
    let more = holders.len().saturating_sub(NAMED);
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

pub(super) fn held_back(found: &WantedStart) -> String {
    let WantedStart { machine, wanted, .. } = found;
    format!(
        "history of {machine} is held back: {}; its policy keeps nothing before {} (seq:{})",
        holders(&found.holders),
        wanted.commit_time,
        wanted.sequence
    )
}

pub(super) fn begins_later(
    machine: &Name,
    before: Option<StartMoment>,
    after: StartMoment,
    policy: &Policy,
    quota: Option<Quota>,
) -> String {
    let before = match before {
        Some(before) => format!("{} (seq:{})", before.commit_time, before.sequence),
        None => "its first copy".to_owned(),
    };
    let why = match quota {
        None => format!("its policy ({policy}) keeps nothing older"),
        Some(quota) => format!("its quota of {} has no room for more", ByteSize::new(quota.bytes)),
    };
    format!(
        "history of {machine} begins at {} (seq:{}) from now on, no longer at {before}: {why}",
        after.commit_time, after.sequence
    )
}

/// A point that its policy would have kept.
pub(super) fn given_up(machine: &Name, point: &Point, quota: Option<Quota>) -> String {
    let label = point.label.as_ref().map_or_else(String::new, |label| format!(" \"{label}\""));
    let quota = quota.map_or(0, |quota| quota.bytes);
    format!(
        "{machine}@seq:{} of {}, {}{label}, was given up before its time: the quota of {} is used up",
        point.sequence,
        point.commit_time,
        point.kind,
        ByteSize::new(quota)
    )
}

/// What a quota is about to do.
pub(crate) fn shrinks(machine: &Name, found: &Shrinking, quota: Option<Quota>) -> String {
    let quota = ByteSize::new(quota.map_or(0, |quota| quota.bytes));
    let wanted = match found.wanted {
        Some(wanted) => format!("its policy wants {}", Span(wanted)),
        None => "its policy keeps it for ever".to_owned(),
    };
    let then = match found.then {
        WhenFull::Shorten => "the oldest points go before their time",
        WhenFull::Hold => "its streams are held",
    };
    format!(
        "at the present rate the quota of {machine} ({quota}) is used up in {}: history reaches {} back then, {wanted}, \
         and {then}",
        Span(found.full_in),
        Span(found.reaches)
    )
}

/// The volume of the journal is about to be full.
pub(crate) fn volume_fills(full_in: Duration) -> String {
    format!(
        "at the present rate the volume of the journal is full in {}: streams are held then; grow it, or keep less history \
         (landfall policy simulate says what that takes)",
        Span(full_in)
    )
}

pub(super) fn folded(machine: &Name, report: &FoldReport, took: Duration) -> String {
    let skipped = match report.skipped.as_slice() {
        [] => String::new(),
        skipped => {
            let names: Vec<&str> = skipped.iter().map(Name::as_str).collect();
            format!("; the image of {} is lost and stays as it is", names.join(", "))
        }
    };
    format!(
        "folded {machine} to seq:{}: {} into the images of {} in {}{skipped}",
        report.start,
        ByteSize::new(report.data_bytes),
        counted(report.folded.len() as u64, "disk"),
        Span(took)
    )
}

pub(super) fn failed(machine: &Name, error: &FoldError, pause: Duration) -> String {
    format!(
        "cannot fold the history of {machine}: {error}; every point from its start on reads as before, its space is \
         not given back; the next try is in {}",
        Span(pause)
    )
}

pub(super) fn released(given: &ForgetReport, took: Duration) -> String {
    format!(
        "released {} of the journal, {}, in {}",
        counted(given.segments as u64, "segment"),
        ByteSize::new(given.bytes),
        Span(took)
    )
}

pub(super) fn compacted(sum: &Compacted, took: Duration) -> String {
    format!(
        "released {} of the journal, {}; what is still needed of them moved and takes {}, in {}",
        counted(sum.segments as u64, "segment"),
        ByteSize::new(sum.bytes_freed),
        ByteSize::new(sum.bytes_moved),
        Span(took)
    )
}

pub(super) fn not_released(error: &str, pause: Duration) -> String {
    format!("cannot release segments of the journal: {error}; the next try is in {}", Span(pause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_retention::ids::{LineId, Sequence};
    use landfall_retention::time::Timestamp;

    fn moment(at: u64) -> StartMoment {
        let commit_time = Timestamp::from_nanoseconds(at * 60_000_000_000);
        StartMoment { sequence: Sequence::new(at), commit_time }
    }

    #[test]
    fn what_history_was_given_up_is_said_with_the_policy() {
        let machine = Name::parse("web").expect("a name");
        let policy = Policy::default();
        assert_eq!(
            begins_later(&machine, Some(moment(1)), moment(2), &policy, None),
            "history of web begins at 1970-01-01T00:02:00Z (seq:2) from now on, no longer at \
             1970-01-01T00:01:00Z (seq:1): its policy (keep all for 2h, minutely for 24h) keeps nothing older"
        );
        let quota = Quota { bytes: 1 << 30, then: WhenFull::Shorten, floor_bytes: 0 };
        let text = begins_later(&machine, None, moment(2), &policy, Some(quota));
        assert!(text.contains("its first copy: its quota of 1 GiB has no room"), "{text}");
    }

    #[test]
    fn who_holds_it_back_is_named_and_for_how_long() {
        let pins = (1..=6).map(|at| Holder::Pin(Sequence::new(at))).collect();
        let found = WantedStart {
            machine: Name::parse("web").expect("a name"),
            line: LineId::new(1),
            start: None,
            wanted: moment(10),
            reachable: Some(moment(1)),
            holders: pins,
        };
        let text = held_back(&found);
        assert!(text.contains("seq:4 is pinned and 2 more"), "{text}");
        assert_eq!(held_for(&found), Duration::from_secs(9 * 60));
        assert_eq!(held_for(&WantedStart { holders: Vec::new(), ..found }), Duration::ZERO);
    }
}
