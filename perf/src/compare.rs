//! Two reports side by side.
//!
//! A change counts as noise when the new median lies between the lowest and the highest round of the old one, or the
//! other way round: no more can be said from a handful of rounds.

use crate::figure::{Figure, Report, Series, Unit};
use crate::table::value;
use std::fmt::Write;

/// A line per figure, and what is missing on either side.
pub(crate) fn compare(old: &Report, new: &Report) -> String {
    let mut text = format!(
        "{:<20} {:>12} {:>12} {:>9}  {:<28} beside the peer\n",
        "figure", "old", "new", "change", "verdict"
    );
    for figure in &new.figures {
        match old.figures.iter().find(|before| before.name == figure.name) {
            Some(before) if before.unit == figure.unit => text.push_str(&line(before, figure)),
            Some(_) => {
                let _ = writeln!(text, "{:<20} has another unit now", figure.name);
            }
            None => {
                let _ = writeln!(text, "{:<20} only in the new report", figure.name);
            }
        }
    }
    for gone in &old.figures {
        if !new.figures.iter().any(|figure| figure.name == gone.name) {
            let _ = writeln!(text, "{:<20} only in the old report", gone.name);
        }
    }
    if old.host.processors != new.host.processors || old.host.kernel != new.host.kernel {
        text.push_str(
            "The reports come from different machines: only the ratios to the peers compare.\n",
        );
    }
    text
}

fn line(old: &Figure, new: &Figure) -> String {
    let (before, after) = (old.landfall.median(), new.landfall.median());
    let change = if before > 0.0 {
        format!("{:+.1} %", (after / before - 1.0) * 100.0)
    } else {
        "-".to_owned()
    };
    let ratios = match (old.ratio(), new.ratio()) {
        (Some(before), Some(after)) => format!("{before:.2} × → {after:.2} ×"),
        _ => "-".to_owned(),
    };
    format!(
        "{:<20} {:>12} {:>12} {change:>9}  {:<28} {ratios}\n",
        new.name,
        value(before, old.unit),
        value(after, new.unit),
        verdict(&old.landfall, &new.landfall, new.unit),
    )
}

fn verdict(old: &Series, new: &Series, unit: Unit) -> &'static str {
    let within = |value: f64, (low, high): (f64, f64)| low <= value && value <= high;
    if within(new.median(), old.range()) || within(old.median(), new.range()) {
        return "within the noise";
    }
    let more = new.median() > old.median();
    match unit {
        Unit::Seconds | Unit::Bytes | Unit::Count | Unit::Factor if more => "worse",
        Unit::RequestsPerSecond | Unit::MebibytesPerSecond if !more => "worse",
        _ => "better",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::tests::report;

    #[test]
    fn a_change_beyond_the_rounds_is_called_better_or_worse_and_any_other_noise() {
        let old = report(&[1.0, 1.1, 1.2], &[100.0, 110.0, 120.0]);
        let of = |new: &Report| compare(&old, new).lines().map(str::to_owned).collect::<Vec<_>>();

        let same = of(&report(&[1.0, 1.15, 1.2], &[100.0, 105.0, 120.0]));
        assert!(same[1].contains("within the noise") && same[2].contains("within the noise"));
        let lower = of(&report(&[0.5, 0.55, 0.6], &[50.0, 55.0, 60.0]));
        assert!(lower[1].contains("better") && lower[1].contains("-50.0 %"), "{lower:?}");
        assert!(lower[1].contains("0.55 × → 0.28 ×"), "{lower:?}");
        assert!(lower[2].contains("worse"), "{lower:?}");
    }

    #[test]
    fn what_only_one_report_has_is_said() {
        let old = report(&[1.0], &[1.0]);
        let mut new = old.clone();
        new.figures[1].name = "write".into();
        let text = compare(&old, &new);
        assert!(text.contains("only in the new report") && text.contains("only in the old report"));
    }
}
