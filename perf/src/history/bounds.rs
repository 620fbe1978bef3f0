//! What is promised of a long history, and whether it was kept.

use super::measure::count_of;
use super::{CACHE_BYTES, Findings};
use crate::figure::Series;
use anyhow::bail;
use std::fmt;

/// Any point opens within this, 99 times of 100.
const OPEN_SECONDS: f64 = 0.1;
/// A read of 4 KiB resolves 1 MiB: in each of four size classes a seek to begin with, and for each of the 256, 16, 1 and
/// 1 places at most a seek past newer versions, a step, and a seek past older ones.
const ASKED: f64 = 4.0 + 3.0 * (256.0 + 16.0 + 1.0 + 1.0);
/// Ingest beside an empty history.
const INGEST_RATIO: f64 = 0.9;
/// Memory of a point in the catalogue, of the one segment that may be looked through, and of everything else that history
/// may grow by.
const POINT_BYTES: u64 = 24;
const SEGMENT_BYTES: u64 = 64 << 20;
const SLACK_BYTES: u64 = 48 << 20;

/// Ingest into a long history beside an empty one: of the better rounds, since what else a machine does only slows.
fn ingest_ratio((long, empty): (&Series, &Series)) -> f64 {
    long.percentile(75) / empty.percentile(75)
}

/// Whether it is as fast as it was promised to be.
pub(super) fn ingest_is_kept(long: &Series, empty: &Series) -> bool {
    ingest_ratio((long, empty)) >= INGEST_RATIO
}

/// Each bound with what was found.
pub(super) struct Bounds(Vec<Bound>);

struct Bound {
    what: &'static str,
    found: f64,
    limit: f64,
    /// Whether more than the limit is what was promised.
    at_least: bool,
}

impl Bound {
    fn is_kept(&self) -> bool {
        if self.at_least { self.found >= self.limit } else { self.found <= self.limit }
    }
}

impl Bounds {
    pub(super) fn of(findings: &Findings) -> Self {
        let points = POINT_BYTES * findings.shape.points;
        let memory = 2 * CACHE_BYTES + points + SEGMENT_BYTES + SLACK_BYTES;
        let grown = findings.resident.0.median() - findings.resident.1.median();
        let at_most = |what, found, limit| Bound { what, found, limit, at_least: false };
        Self(vec![
            at_most("open, 99th percentile, s", findings.open.percentile(99), OPEN_SECONDS),
            at_most("index asked for a cold read", findings.cold.asked.range().1, ASKED),
            Bound {
                what: "ingest beside an empty history",
                found: ingest_ratio((&findings.ingest.0, &findings.ingest.1)),
                limit: INGEST_RATIO,
                at_least: true,
            },
            at_most("memory beside an empty history, bytes", grown, count_of(memory)),
        ])
    }

    /// Refuses what is not kept.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let broken: Vec<_> = self.0.iter().filter(|bound| !bound.is_kept()).collect();
        if broken.is_empty() {
            return Ok(());
        }
        let words = |bound: &&Bound| format!("{}: {}", bound.what, bound.found);
        bail!("not kept: {}", broken.iter().map(words).collect::<Vec<_>>().join("; "))
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bound in &self.0 {
            let (kept, than) = match (bound.is_kept(), bound.at_least) {
                (true, true) => ("kept", "≥"),
                (true, false) => ("kept", "≤"),
                (false, true) => ("BROKEN", "<"),
                (false, false) => ("BROKEN", ">"),
            };
            writeln!(
                f,
                "{kept:<7} {:<40} {:.3} {than} {:.3}",
                bound.what, bound.found, bound.limit
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_not_kept_is_named() {
        let bound = |found, at_least| Bound { what: "it", found, limit: 1.0, at_least };
        assert!(Bounds(vec![bound(1.0, true), bound(1.0, false)]).check().is_ok());
        for broken in [bound(0.9, true), bound(1.1, false)] {
            let said = Bounds(vec![broken]).check().unwrap_err().to_string();
            assert!(said.contains("it"), "{said}");
        }
    }
}
