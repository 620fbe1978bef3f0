//! The report for people.
//!
//! ```text
//!   first-copy      512 MiB of random data, replicated into an empty target …
//!     landfall                     1.02 s   (0.98 … 1.10, 5 rounds)
//!     nbdcopy into qemu-nbd        0.87 s   (0.86 … 0.91, 5 rounds)
//!     1.17 × the time
//! ```

use crate::figure::{Figure, Report, Series, Unit};
use std::fmt::Write;

/// Width of the column of names.
const NAME_WIDTH: usize = 60;

/// The whole report as text.
pub(crate) fn table(report: &Report) -> String {
    let host = &report.host;
    let mut text = format!(
        "{} processors, Linux {}, in {}; load {:.2} before, {:.2} after\n",
        host.processors, host.kernel, host.folder, host.load_before, host.load_after
    );
    for figure in &report.figures {
        text.push('\n');
        text.push_str(&block(figure));
    }
    text.push_str(
        "\nMedians (lowest … highest round). Landfall and its peer took turns on one machine that also ran the\n\
         client: the ratio says more than either number.\n",
    );
    text
}

fn block(figure: &Figure) -> String {
    let mut text = format!("{}: {}\n", figure.name, figure.what);
    text.push_str(&line("landfall", &figure.landfall, figure.unit));
    for peer in &figure.peers {
        text.push_str(&line(&peer.name, &peer.series, figure.unit));
    }
    for peer in &figure.peers {
        let Some(ratio) = figure.ratio_to(peer) else { continue };
        // With several, whose it is.
        let of = if figure.peers.len() == 1 { String::new() } else { format!(" of {}", peer.name) };
        let _ = writeln!(text, "  {}{of}", ratio_words(ratio, figure.unit));
    }
    text
}

fn line(name: &str, series: &Series, unit: Unit) -> String {
    let (low, high) = series.range();
    let rounds = series.rounds();
    let plural = if rounds == 1 { "" } else { "s" };
    format!(
        "  {name:<NAME_WIDTH$} {:>12}   ({} … {}, {rounds} round{plural})\n",
        value(series.median(), unit),
        bare(low, unit),
        bare(high, unit),
    )
}

/// A ratio with what it is one of.
pub(crate) fn ratio_words(ratio: f64, unit: Unit) -> String {
    let of = match unit {
        Unit::Seconds => "the time",
        Unit::RequestsPerSecond | Unit::MebibytesPerSecond => "the rate",
        Unit::Bytes => "the bytes",
        Unit::Count => "the number",
        Unit::Factor => "as much",
    };
    format!("{ratio:.2} × {of}")
}

/// A value with its unit.
pub(crate) fn value(value: f64, unit: Unit) -> String {
    let bare = bare(value, unit);
    match unit {
        Unit::Seconds if value < 0.1 => format!("{bare} ms"),
        Unit::Seconds => format!("{bare} s"),
        Unit::RequestsPerSecond => format!("{bare}/s"),
        Unit::MebibytesPerSecond => format!("{bare} MiB/s"),
        Unit::Bytes => format!("{bare} B"),
        Unit::Count => bare,
        Unit::Factor => format!("{bare} ×"),
    }
}

/// A value to three digits or so; seconds below a tenth as milliseconds.
fn bare(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds if value < 0.1 => format!("{:.2}", value * 1000.0),
        Unit::Seconds | Unit::Factor => format!("{value:.2}"),
        Unit::RequestsPerSecond | Unit::MebibytesPerSecond | Unit::Bytes | Unit::Count => {
            format!("{value:.0}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::tests::report;

    #[test]
    fn every_figure_has_its_median_its_range_and_its_ratio() {
        let text = table(&report(&[9.0, 3.0, 1.0], &[41234.6]));
        for part in [
            "2 processors, Linux 6.1, in /tmp; load 0.10 before, 1.90 after",
            "3.00 s   (1.00 … 9.00, 3 rounds)",
            "1.50 × the time",
            "41235/s   (41235 … 41235, 1 round)",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert_eq!(value(0.00123, Unit::Seconds), "1.23 ms");
    }
}
