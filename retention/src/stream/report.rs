//! What streams are at, and which instants there are: the answers behind listings.
//!
//! A listing of points has those that were marked, and those that thinning left. Where every sequence is a moment it says
//! so as a range: *any instant from A to B*.

use super::state::StreamState;
use crate::ids::Sequence;
use crate::index::moment_key::{Boundary, boundary_at_or_above, boundary_at_or_below};
use crate::index::{IndexError, IndexStore};
use crate::line::Line;
use crate::manifest::streams::StreamChange;
use crate::moment::ResolveError;
use crate::name::Name;
use crate::retention::Retention;
use crate::status::StreamStatus;
use landfall_disks::uring::offload;
use std::sync::Arc;

/// The stream of a machine.
#[derive(Clone, Debug)]
pub struct StreamReport {
    /// The machine.
    pub machine: Name,
    /// What it is at, and since when; nothing before a source opened it for the first time.
    pub state: Option<StreamChange>,
    /// Who feeds it at the moment.
    pub open: Option<StreamStatus>,
}

/// Instants without a gap: any sequence, and any time, from one to the other can be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instants {
    /// The first one.
    pub from: Boundary,
    /// The last one.
    pub to: Boundary,
    /// Whether more come to be at its end.
    pub grows: bool,
}

impl Retention {
    /// The streams of all machines, by name.
    pub fn streams(&self) -> Vec<StreamReport> {
        let state = self.manifest.state();
        let machines = self.machines.read();
        let report = |machine: &crate::manifest::state::Machine| StreamReport {
            machine: machine.name.clone(),
            state: state.lines.get(&machine.trunk).and_then(|line| line.stream_entry.state),
            open: machines.streams.get(&machine.id).and_then(|slot| slot.status()),
        };
        let mut streams: Vec<_> = state.machines.values().map(report).collect();
        streams.sort_by(|a, b| a.machine.cmp(&b.machine));
        streams
    }

    /// Where any instant of a machine can be chosen, oldest first: where its source delivered in order, as far as the policy
    /// still keeps everything. What it left of older instants are points.
    pub async fn instants(&self, machine: &Name) -> Result<Vec<Instants>, ResolveError> {
        let line = self.line_named(machine, None)?;
        let fed = self.streams().into_iter().any(|stream| {
            let ordered = stream.state.is_some_and(|state| state.state == StreamState::Ordered);
            stream.machine == *machine && stream.open.is_some() && ordered
        });
        let index = Arc::clone(&self.surroundings.index);
        Ok(offload(move || instants_of(&*index, &line, fed)).await?)
    }
}

/// Blocks.
fn instants_of(
    index: &dyn IndexStore,
    line: &Line,
    fed: bool,
) -> Result<Vec<Instants>, IndexError> {
    let (ordered, dropped, tail) = (line.ordered(), line.dropped(), line.tail().sequence);
    let start = line.start().map(|start| start.sequence).unwrap_or_default();
    // Below it the policy decided, moment by moment.
    let decided = if dropped.is_empty() { Sequence::default() } else { dropped.through().next() };
    let lowest = start.max(decided);
    let mut found: Vec<Instants> = Vec::new();
    for stretch in ordered.stretches(tail) {
        let first = stretch.first.max(lowest);
        if first > stretch.last {
            continue;
        }
        let from = boundary_at_or_above(index, line.id(), first)?;
        let to = boundary_at_or_below(index, line.id(), stretch.last)?;
        let Some((from, to)) = from.zip(to).filter(|(from, to)| from.sequence <= to.sequence)
        else {
            continue;
        };
        let grows = fed && ordered.open_since() == Some(stretch.first);
        match found.last_mut() {
            // Order that ended and began again with nothing in between.
            Some(last) if last.to.sequence.next() == from.sequence => {
                (last.to, last.grows) = (to, grows);
            }
            _ => found.push(Instants { from, to, grows }),
        }
    }
    Ok(found)
}
