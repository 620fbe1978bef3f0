//! Figures: what was measured, round by round, and the report they make.
//!
//! The JSON form is a report, with every round of every figure, so that any statistic can be had later.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the JSON form.
const VERSION: u32 = 2;

/// All figures of one run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Of this form.
    version: u32,
    /// What it was measured on.
    pub(crate) host: Host,
    /// In the order in which they were measured.
    pub(crate) figures: Vec<Figure>,
}

/// The machine, and how busy it was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Processors this process may use.
    pub(crate) processors: usize,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Folder that was measured in.
    pub(crate) folder: String,
    /// Load of the last minute, before the first round.
    pub(crate) load_before: f64,
    /// And after the last one, which the measurement itself caused in part.
    pub(crate) load_after: f64,
}

/// One thing that was measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Short, stable: how `compare` finds it again.
    pub(crate) name: String,
    /// What was done, in a sentence.
    pub(crate) what: String,
    /// Of all values.
    pub(crate) unit: Unit,
    /// Landfall's rounds.
    pub(crate) landfall: Series,
    /// The rounds of those who took turns with it; the first is who it is compared with.
    pub(crate) peers: Vec<Peer>,
}

/// Who landfall is measured beside.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Program and what matters of its arguments.
    pub(crate) name: String,
    /// Its rounds.
    pub(crate) series: Series,
}

/// Of values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Less is better.
    Seconds,
    /// More is better.
    RequestsPerSecond,
    /// More is better.
    MebibytesPerSecond,
    /// Less is better.
    Bytes,
    /// Less is better.
    Count,
    /// So many times something else; less is better.
    Factor,
}

/// One value per round, at least one.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    /// Adds a round.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Half of the rounds lie at or below it.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        } else {
            sorted[middle]
        }
    }

    /// `parts` of a hundred values lie at or below it: 99 is the 99th percentile.
    pub(crate) fn percentile(&self, parts: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len() * parts).div_ceil(100).max(1) - 1;
        sorted[place.min(sorted.len() - 1)]
    }

    /// Lowest and highest round.
    pub(crate) fn range(&self) -> (f64, f64) {
        let fold = |pick: fn(f64, f64) -> f64, start| self.0.iter().copied().fold(start, pick);
        (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
    }

    /// Number of rounds.
    pub(crate) fn rounds(&self) -> usize {
        self.0.len()
    }

    fn is_usable(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|value| value.is_finite() && *value >= 0.0)
    }
}

impl Figure {
    /// Landfall's median divided by the first peer's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.ratio_to(self.peers.first()?)
    }

    /// Landfall's median divided by that of `peer`.
    pub(crate) fn ratio_to(&self, peer: &Peer) -> Option<f64> {
        let peer = peer.series.median();
        (peer > 0.0).then(|| self.landfall.median() / peer)
    }
}

impl Report {
    /// Of figures measured on `host`.
    pub(crate) fn new(host: Host, figures: Vec<Figure>) -> Self {
        Self { version: VERSION, host, figures }
    }

    /// Reads what [`Report::save`] wrote.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        let report: Self = serde_json::from_str(&text).with_context(named)?;
        ensure!(
            report.version == VERSION,
            "{}: version {} of the report, only {VERSION} is known",
            path.display(),
            report.version
        );
        for figure in &report.figures {
            let peers = figure.peers.iter().all(|peer| peer.series.is_usable());
            ensure!(
                figure.landfall.is_usable() && peers,
                "{}: figure {} has no rounds, or a value that is no number",
                path.display(),
                figure.name
            );
        }
        Ok(report)
    }

    /// Writes the JSON form.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("encoding the report")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn series(values: &[f64]) -> Series {
        Series(values.to_vec())
    }

    pub(crate) fn report(copy: &[f64], reads: &[f64]) -> Report {
        let host = Host {
            processors: 2,
            kernel: "6.1".into(),
            folder: "/tmp".into(),
            load_before: 0.1,
            load_after: 1.9,
        };
        let peer = Peer { name: "nbdcopy".into(), series: series(&[1.0, 2.0, 3.0]) };
        let copy = Figure {
            name: "first-copy".into(),
            what: "a copy".into(),
            unit: Unit::Seconds,
            landfall: series(copy),
            peers: vec![peer],
        };
        let reads = Figure {
            name: "read".into(),
            what: "reads".into(),
            unit: Unit::RequestsPerSecond,
            landfall: series(reads),
            peers: Vec::new(),
        };
        Report::new(host, vec![copy, reads])
    }

    #[test]
    fn medians_and_ranges() {
        assert_eq!(series(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(series(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(series(&[3.0, 1.0, 2.0]).range(), (1.0, 3.0));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(series(&hundred).percentile(99), 99.0);
        assert_eq!(series(&[7.0]).percentile(99), 7.0);
        assert_eq!(series(&[3.0, 1.0, 2.0]).percentile(100), 3.0);
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let report = report(&[9.0, 3.0, 1.0], &[5.0]);
        assert_eq!(report.figures[0].ratio(), Some(1.5));
        assert_eq!(report.figures[1].ratio(), None);
    }

    #[test]
    fn a_report_comes_back_as_it_was_saved_and_a_damaged_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.json");
        let report = report(&[1.0, 2.0], &[5.0]);
        report.save(&path).expect("saved");
        assert_eq!(Report::load(&path).expect("loaded"), report);

        let text = std::fs::read_to_string(&path).expect("read");
        for (from, to) in [("\"version\": 2", "\"version\": 1"), ("5.0", "-5.0")] {
            assert!(text.contains(from), "{from} in {text}");
            std::fs::write(&path, text.replace(from, to)).expect("written");
            Report::load(&path).expect_err(to);
        }
    }
}
