//! Recovery points: the sequences at which all disks of a group are consistent.
//!
//! A point is born with a mark record of the journal and kept in the index; this module says what it is, and the
//! [`Catalogue`] answers which one a [`When`](crate::name::When) names. It holds the marked points of one line in memory; boundaries that
//! nobody marked (every write of a branch is one) are looked up in the index.
//!
//! **Invariant:** commit times grow along a line, by a nanosecond at least, so a time names one sequence, and the newest
//! point at or before a time is also the one with the highest sequence.

use crate::ids::Sequence;
use crate::name::Label;
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// What a point promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PointKind {
    /// The source quiesced its applications.
    App,
    /// What a power cut at that moment would have left.
    Crash,
    /// A scan of something that was changing; kept and marked, never chosen by `latest`.
    Fuzzy,
}

impl PointKind {
    /// The word for listings and formats.
    pub const fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Crash => "crash",
            Self::Fuzzy => "fuzzy",
        }
    }

    /// Whether all disks are one moment: what `latest` and a bare time may choose.
    pub const fn is_consistent(self) -> bool {
        !matches!(self, Self::Fuzzy)
    }
}

impl std::fmt::Display for PointKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

/// A marked recovery point of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Point {
    /// Where in its line.
    pub sequence: Sequence,
    /// When the target committed it; later than that of the sequence before.
    pub commit_time: Timestamp,
    /// When the source says it was.
    pub source_time: Timestamp,
    /// What it promises.
    pub kind: PointKind,
    /// A name somebody gave it.
    pub label: Option<Label>,
}

/// The marked points of one line, by sequence.
#[derive(Debug, Default, Clone)]
pub struct Catalogue {
    points: BTreeMap<Sequence, Point>,
}

impl Catalogue {
    /// Adds a point; a point that is there already stays as it was.
    pub fn insert(&mut self, point: Point) {
        self.points.entry(point.sequence).or_insert(point);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.points.values()
    }

    /// The point at exactly this sequence.
    pub fn at(&self, sequence: Sequence) -> Option<&Point> {
        self.points.get(&sequence)
    }

    /// The newest consistent point.
    pub fn latest(&self) -> Option<&Point> {
        self.iter().rev().find(|point| point.kind.is_consistent())
    }

    /// The newest app point.
    pub fn app(&self) -> Option<&Point> {
        self.iter().rev().find(|point| point.kind == PointKind::App)
    }

    /// The newest point committed at or before `time`. A fuzzy point is chosen only if that is its very time.
    pub fn at_or_before(&self, time: Timestamp) -> Option<&Point> {
        let mut earlier = self.iter().rev().skip_while(|point| point.commit_time > time);
        earlier.find(|point| point.kind.is_consistent() || point.commit_time == time)
    }

    /// The newest point with this label.
    pub fn labelled(&self, label: &Label) -> Option<&Point> {
        self.iter().rev().find(|point| point.label.as_ref() == Some(label))
    }

    /// The oldest point.
    pub fn oldest(&self) -> Option<&Point> {
        self.points.values().next()
    }

    /// The newest point of any kind.
    pub fn newest(&self) -> Option<&Point> {
        self.points.values().next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(sequence: u64, seconds: u64, kind: PointKind) -> Point {
        Point {
            sequence: Sequence::new(sequence),
            commit_time: Timestamp::from_nanoseconds(seconds * 1_000_000_000),
            source_time: Timestamp::default(),
            kind,
            label: sequence.is_multiple_of(2).then(|| Label::parse("even").unwrap()),
        }
    }

    fn catalogue() -> Catalogue {
        let mut catalogue = Catalogue::default();
        for (sequence, seconds, kind) in
            [(1, 10, PointKind::App), (4, 20, PointKind::Crash), (6, 30, PointKind::Fuzzy)]
        {
            catalogue.insert(point(sequence, seconds, kind));
        }
        catalogue
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanoseconds(seconds * 1_000_000_000)
    }

    #[test]
    fn fuzzy_points_are_kept_but_not_chosen() {
        let catalogue = catalogue();
        assert_eq!(catalogue.latest().map(|p| p.sequence.number()), Some(4));
        assert_eq!(catalogue.at_or_before(at(35)).map(|p| p.sequence.number()), Some(4));
        assert_eq!(catalogue.at_or_before(at(30)).map(|p| p.sequence.number()), Some(6));
        assert_eq!(catalogue.newest().map(|p| p.sequence.number()), Some(6));
    }

    #[test]
    fn times_and_labels_choose_the_newest() {
        let catalogue = catalogue();
        assert_eq!(catalogue.app().map(|p| p.sequence.number()), Some(1));
        assert_eq!(catalogue.at_or_before(at(9)), None);
        assert_eq!(catalogue.at_or_before(at(19)).map(|p| p.sequence.number()), Some(1));
        let label = Label::parse("even").unwrap();
        assert_eq!(catalogue.labelled(&label).map(|p| p.sequence.number()), Some(6));
    }
}
