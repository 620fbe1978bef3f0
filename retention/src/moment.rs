//! Which moment a name means: from a [`MomentName`] to a line and a sequence, or an error that names what exists.

use crate::ids::{LineId, Sequence};
use crate::index::moment_key::Boundary;
use crate::index::{IndexError, IndexStore};
use crate::line::Line;
use crate::manifest::history::HistoryStart;
use crate::name::{Label, MomentName, Name, When};
use crate::point::{Point, PointKind};
use crate::rebuild::NotIndexed;
use crate::time::Timestamp;
use std::fmt::Write as _;

/// A moment of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The machine.
    pub machine: Name,
    /// The branch, or the trunk.
    pub branch: Option<Name>,
    /// The line.
    pub line: LineId,
    /// Where in it.
    pub sequence: Sequence,
    /// When it was committed.
    pub commit_time: Timestamp,
    /// Kind of the point, if it is a marked one.
    pub kind: Option<PointKind>,
    /// Its label.
    pub label: Option<Label>,
}

/// Why a name means nothing here.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No such machine.
    #[error("no machine {machine}; {}", existing("machines", .known))]
    UnknownMachine {
        /// What was asked for.
        machine: Name,
        /// What exists.
        known: Vec<Name>,
    },
    /// Its keys were destroyed, and its history with them.
    #[error(
        "the history of machine {machine} was destroyed with its keys at {at}; \
         remove the machine, and add it anew to protect it again"
    )]
    Destroyed {
        /// The machine.
        machine: Name,
        /// When.
        at: Timestamp,
    },
    /// No such disk.
    #[error("machine {machine} has no disk {disk}; {}", existing("its disks", .known))]
    UnknownDisk {
        /// The machine.
        machine: Name,
        /// What was asked for.
        disk: Name,
        /// What exists.
        known: Vec<Name>,
    },
    /// No such branch.
    #[error("machine {machine} has no branch {branch}; {}", existing("its branches", .known))]
    UnknownBranch {
        /// The machine.
        machine: Name,
        /// What was asked for.
        branch: Name,
        /// What exists.
        known: Vec<Name>,
    },
    /// The line has no points at all.
    #[error("{line} has no points yet: the first copy must end first")]
    NoPoints {
        /// The machine, and branch if any.
        line: String,
    },
    /// No point answers to this WHEN.
    #[error("{line} has no point {when}; points go from {oldest} to {newest}")]
    NoSuchPoint {
        /// The machine, and branch if any.
        line: String,
        /// What was asked for.
        when: When,
        /// Oldest moment there is.
        oldest: Timestamp,
        /// Newest one.
        newest: Timestamp,
    },
    /// What lies before the start of history was folded into the images.
    #[error(
        "{line} has no point {when} any more: its history now begins at {begins_time} (seq:{begins})"
    )]
    BeforeHistory {
        /// The machine.
        line: String,
        /// What was asked for.
        when: When,
        /// The oldest moment there is.
        begins: Sequence,
        /// When that was committed.
        begins_time: Timestamp,
    },
    /// The sequence is not a boundary.
    #[error("{line}@seq:{sequence} is not a point: the disks are between two states there{}",
        nearest(.below, .above))]
    NotABoundary {
        /// The machine, and branch if any.
        line: String,
        /// What was asked for.
        sequence: Sequence,
        /// Nearest point below.
        below: Option<Sequence>,
        /// Nearest point above.
        above: Option<Sequence>,
    },
    /// The policy did not keep it.
    #[error("{line}@seq:{sequence} was dropped by the policy{}", kept(.below, .above))]
    Dropped {
        /// The machine, and branch if any.
        line: String,
        /// What was asked for.
        sequence: Sequence,
        /// Nearest kept point below, and when it was committed.
        below: Option<(Sequence, Timestamp)>,
        /// Nearest kept point above, and when it was committed.
        above: Option<(Sequence, Timestamp)>,
    },
    /// The disk had no complete copy at that moment.
    #[error("disk {disk} of {line} had no complete copy at seq:{sequence}")]
    NotSeeded {
        /// The disk.
        disk: Name,
        /// The machine, and branch if any.
        line: String,
        /// The moment.
        sequence: Sequence,
    },
    /// The disk had been removed by then.
    #[error("disk {disk} of {line} was removed at seq:{until}; moments up to there have it")]
    DiskRemoved {
        /// The disk.
        disk: Name,
        /// The machine, and branch if any.
        line: String,
        /// The last moment of the trunk that has it.
        until: Sequence,
    },
    /// The index lacks something that moments of the line may need.
    #[error("{line}: {source}")]
    NotIndexed {
        /// The machine, and branch if any.
        line: String,
        /// How much it lacks.
        source: NotIndexed,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Bytes of names that an error lists: NBD wants what people read to be short.
const LISTED_BYTES: usize = 200;

/// What there is of `what`, in words that go behind an error; of many names the first ones.
pub fn existing(what: &str, known: &[Name]) -> String {
    if known.is_empty() {
        return "there are none".into();
    }
    let mut text = format!("{what}:");
    for (listed, name) in known.iter().enumerate() {
        if listed > 0 && text.len() + 1 + name.as_str().len() > LISTED_BYTES {
            let _ = write!(text, " and {} more", known.len() - listed);
            break;
        }
        let _ = write!(text, " {name}");
    }
    text
}

fn nearest(below: &Option<Sequence>, above: &Option<Sequence>) -> String {
    match (below, above) {
        (None, None) => String::new(),
        (Some(below), None) => format!("; the nearest is seq:{below}"),
        (None, Some(above)) => format!("; the nearest is seq:{above}"),
        (Some(below), Some(above)) => format!("; the nearest are seq:{below} and seq:{above}"),
    }
}

type Near = Option<(Sequence, Timestamp)>;

fn kept(below: &Near, above: &Near) -> String {
    let near = |(sequence, time): &(Sequence, Timestamp)| format!("seq:{sequence} ({time})");
    match (below.as_ref().map(near), above.as_ref().map(near)) {
        (None, None) => "; no point is left".into(),
        (Some(one), None) | (None, Some(one)) => format!("; the nearest point left is {one}"),
        (Some(below), Some(above)) => format!("; the nearest points left are {below} and {above}"),
    }
}

impl Moment {
    /// The name that always means this very moment: `web/os@seq:12`, `web~test@seq:9`.
    pub fn absolute_name(&self, disk: Option<&Name>) -> String {
        let mut name = self.machine.to_string();
        if let Some(branch) = &self.branch {
            let _ = write!(name, "~{branch}");
        }
        if let Some(disk) = disk {
            let _ = write!(name, "/{disk}");
        }
        let _ = write!(name, "@seq:{}", self.sequence);
        name
    }
}

/// `web`, or `web~test`.
pub(crate) fn line_name(machine: &Name, branch: Option<&Name>) -> String {
    match branch {
        None => machine.to_string(),
        Some(branch) => format!("{machine}~{branch}"),
    }
}

/// The moment of `line` that `name` asks for, at the time `now`. Blocks.
pub(crate) fn resolve_on_line(
    index: &dyn IndexStore,
    line: &Line,
    name: &MomentName,
    now: Timestamp,
) -> Result<Moment, ResolveError> {
    let found = match &name.when {
        When::Latest if line.is_sealed() => Some(newest_of_sealed(index, line)?),
        When::Latest if line.is_branch() => Some(head_of_branch(line)),
        When::Latest if line.has_instants() => newest_of(index, line)?,
        When::Latest => line.points(|points| points.latest().map(Found::from)),
        When::App => line.points(|points| points.app().map(Found::from)),
        When::Tag(label) => line.points(|points| points.labelled(label).map(Found::from)),
        When::At(time) => newest_at(index, line, *time)?,
        When::Ago(ago) => newest_at(index, line, now.earlier(*ago))?,
        When::Sequence(sequence) => Some(exactly(index, line, name, *sequence)?),
    };
    let found = match line.start() {
        Some(start) => within_history(found, line, &start, (name, now))?,
        None => found,
    };
    let Some(found) = found else { return Err(nothing_found(line, name)) };
    Ok(Moment {
        machine: name.machine.clone(),
        branch: name.branch.clone(),
        line: line.id(),
        sequence: found.sequence,
        commit_time: found.commit_time,
        kind: found.kind,
        label: found.label,
    })
}

struct Found {
    sequence: Sequence,
    commit_time: Timestamp,
    kind: Option<PointKind>,
    label: Option<Label>,
}

impl From<&HistoryStart> for Found {
    fn from(start: &HistoryStart) -> Self {
        Self {
            sequence: start.sequence,
            commit_time: start.commit_time,
            kind: start.kind,
            label: start.label.clone(),
        }
    }
}

/// What was found, if history still reaches there. Its very start can be opened unless the policy
/// dropped it, whether or not its record is left.
fn within_history(
    found: Option<Found>,
    line: &Line,
    start: &HistoryStart,
    (name, now): (&MomentName, Timestamp),
) -> Result<Option<Found>, ResolveError> {
    if found.as_ref().is_some_and(|found| found.sequence >= start.sequence) {
        return Ok(found);
    }
    let time = match name.when {
        When::At(time) => time,
        When::Ago(ago) => now.earlier(ago),
        _ => return Ok(None),
    };
    if time < start.commit_time {
        let line = line_name(&name.machine, name.branch.as_ref());
        return Err(before_history(line, name.when.clone(), start));
    }
    let consistent = start.kind.is_none_or(PointKind::is_consistent);
    Ok((consistent && !line.dropped().contains(start.sequence)).then(|| Found::from(start)))
}

/// The error for what a policy did not keep: it says what is left nearest to it.
pub(crate) fn dropped(name: String, line: &Line, sequence: Sequence) -> ResolveError {
    let (below, above) = line.points(|points| points.neighbours(sequence));
    let near = |point: Point| (point.sequence, point.commit_time);
    ResolveError::Dropped { line: name, sequence, below: below.map(near), above: above.map(near) }
}

/// The error for what lies before the start of history.
pub(crate) fn before_history(line: String, when: When, start: &HistoryStart) -> ResolveError {
    let (begins, begins_time) = (start.sequence, start.commit_time);
    ResolveError::BeforeHistory { line, when, begins, begins_time }
}

impl From<Point> for Found {
    fn from(point: Point) -> Self {
        Self {
            sequence: point.sequence,
            commit_time: point.commit_time,
            kind: Some(point.kind),
            label: point.label,
        }
    }
}

/// Every sequence of a branch is a boundary, and so is its origin.
fn head_of_branch(line: &Line) -> Found {
    let tail = line.tail();
    let marked = line.points(|points| points.at(tail.sequence).map(Found::from));
    marked.unwrap_or(Found {
        sequence: tail.sequence,
        commit_time: tail.commit_time,
        kind: None,
        label: None,
    })
}

/// The newest moment of a trunk that has instants.
fn newest_of(index: &dyn IndexStore, line: &Line) -> Result<Option<Found>, IndexError> {
    let newest = line.boundary_at_or_below(index, line.tail().sequence)?;
    let newest = left_at_or_below(index, line, newest)?;
    let point = line.points(|points| points.latest().map(Found::from));
    Ok(newer(point, newest.map(|newest| (newest.sequence, newest.commit_time))))
}

/// What was a trunk may have ended between two moments.
fn newest_of_sealed(index: &dyn IndexStore, line: &Line) -> Result<Found, IndexError> {
    Ok(newest_of(index, line)?.unwrap_or_else(|| Found {
        sequence: line.base(),
        commit_time: line.born(),
        kind: None,
        label: None,
    }))
}

/// The newest boundary at or below `boundary` that was not dropped.
fn left_at_or_below(
    index: &dyn IndexStore,
    line: &Line,
    mut boundary: Option<Boundary>,
) -> Result<Option<Boundary>, IndexError> {
    let dropped = line.dropped();
    while let Some(gone) = boundary.filter(|boundary| dropped.contains(boundary.sequence)) {
        boundary = match dropped.below(gone.sequence) {
            Some(below) => line.boundary_at_or_below(index, below)?,
            None => None,
        };
    }
    Ok(boundary)
}

/// The newest point or boundary committed at or before `time`.
fn newest_at(
    index: &dyn IndexStore,
    line: &Line,
    time: Timestamp,
) -> Result<Option<Found>, IndexError> {
    let point = line.points(|points| points.at_or_before(time).map(Found::from));
    let tail = line.tail();
    let dropped = line.dropped();
    let boundary = line.boundary_at_or_before(index, tail.sequence, time)?;
    let boundary = left_at_or_below(index, line, boundary)?;
    let base = line.base();
    let origin_left = line.is_branch() && !dropped.contains(base);
    let at_origin = origin_left && line.born() <= time;
    let boundary = boundary.map(|b| (b.sequence, b.commit_time));
    let boundary = boundary.or(at_origin.then(|| (base, line.born())));
    Ok(newer(point, boundary))
}

/// The newer one of a point and a boundary; one that is both is a point.
fn newer(point: Option<Found>, boundary: Option<(Sequence, Timestamp)>) -> Option<Found> {
    match (point, boundary) {
        (Some(point), Some((sequence, _))) if point.sequence >= sequence => Some(point),
        (_, Some((sequence, commit_time))) => {
            Some(Found { sequence, commit_time, kind: None, label: None })
        }
        (point, None) => point,
    }
}

fn exactly(
    index: &dyn IndexStore,
    line: &Line,
    name: &MomentName,
    sequence: Sequence,
) -> Result<Found, ResolveError> {
    if let Some(point) = line.points(|points| points.at(sequence).map(Found::from)) {
        return Ok(point);
    }
    if let Some(start) = line.start() {
        if sequence == start.sequence && !line.dropped().contains(sequence) {
            return Ok(Found::from(&start));
        }
        if sequence < start.sequence {
            let line = line_name(&name.machine, name.branch.as_ref());
            return Err(before_history(line, name.when.clone(), &start));
        }
    }
    if line.dropped().contains(sequence) {
        let text = line_name(&name.machine, name.branch.as_ref());
        return Err(dropped(text, line, sequence));
    }
    let origin = line.is_branch() && sequence == line.base();
    let boundary = match line.boundary_at(index, sequence)? {
        Some(boundary) => Some(boundary.commit_time),
        None => origin.then(|| line.born()),
    };
    if let Some(commit_time) = boundary {
        return Ok(Found { sequence, commit_time, kind: None, label: None });
    }
    let (below, above) = line.points(|points| points.neighbours(sequence));
    let (below, above) = (below.map(|point| point.sequence), above.map(|point| point.sequence));
    let line = line_name(&name.machine, name.branch.as_ref());
    Err(ResolveError::NotABoundary { line, sequence, below, above })
}

fn nothing_found(line: &Line, name: &MomentName) -> ResolveError {
    let text = line_name(&name.machine, name.branch.as_ref());
    let ends = line.points(|points| {
        points.oldest().zip(points.newest()).map(|(old, new)| (old.commit_time, new.commit_time))
    });
    let ends = ends.or(line.is_branch().then(|| (line.born(), line.tail().commit_time)));
    match ends {
        None => ResolveError::NoPoints { line: text },
        Some((oldest, newest)) => {
            ResolveError::NoSuchPoint { line: text, when: name.when.clone(), oldest, newest }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_first_ones_are_listed() {
        let names = |count: usize| -> Vec<Name> {
            (0..count).map(|number| Name::parse(&format!("machine-{number:04}")).unwrap()).collect()
        };
        assert_eq!(existing("machines", &[]), "there are none");
        assert_eq!(existing("machines", &names(2)), "machines: machine-0000 machine-0001");
        let many = existing("machines", &names(500));
        assert!(many.len() <= LISTED_BYTES + " and 500 more".len(), "{} bytes", many.len());
        assert!(many.starts_with("machines: machine-0000 ") && many.ends_with(" more"), "{many}");
        let listed = many.matches("machine-").count();
        assert!(many.ends_with(&format!(" and {} more", 500 - listed)), "{many}");
        // However long it is, one name says more than none.
        let long = Name::parse(&"x".repeat(63)).unwrap();
        assert_eq!(
            existing("its branches", std::slice::from_ref(&long)),
            format!("its branches: {long}")
        );
    }
}
