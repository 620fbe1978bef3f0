//! What the index may lose: versions that images hold, and points that history no longer reaches. Pure.
//!
//! ```text
//!   version   line, disk, sequence ≤ floor of the disk       ─▶ may go
//!   boundary, point       sequence < start of the history    ─▶ may go
//!   gap       sequence ≤ lowest floor of the line's disks    ─▶ may go
//! ```
//!
//! Each entry may go or stay for itself, in any order: nobody who looks at or above the start of history takes anything at
//! or below a floor into account, so an older version that a newer one uncovers is not seen either.

use crate::ids::{DiskId, LineId, Sequence};
use crate::manifest::state::ManifestState;
use std::collections::HashMap;

/// Up to where things may go, per disk and per line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    floors: HashMap<(LineId, DiskId), Sequence>,
    starts: HashMap<LineId, Sequence>,
    lowest: HashMap<LineId, Sequence>,
}

impl Forgotten {
    /// What a manifest allows.
    pub fn of(state: &ManifestState) -> Self {
        let mut forgotten = Self::default();
        for machine in state.machines.values() {
            let Some(start) = state.lines.get(&machine.trunk).and_then(|line| line.start.as_ref())
            else {
                continue;
            };
            forgotten.starts.insert(machine.trunk, start.sequence);
            let mut lowest = start.sequence;
            for disk in machine.disks.iter().filter_map(|disk| state.disks.get(disk)) {
                let floor = disk.floor.unwrap_or_default();
                lowest = lowest.min(floor);
                forgotten.floors.insert((machine.trunk, disk.id), floor);
            }
            forgotten.lowest.insert(machine.trunk, lowest);
        }
        forgotten
    }

    /// Whether the entry at `key` may go. A key that does not parse stays, to be reported by whoever reads it.
    pub fn covers(&self, key: &[u8]) -> bool {
        match key.first() {
            Some(1) => self.covers_version(key).unwrap_or(false),
            Some(2 | 3) => {
                let at = moment(key);
                at.is_some_and(|(line, at)| self.starts.get(&line).is_some_and(|start| at < *start))
            }
            Some(6) => {
                let at = moment(key);
                at.is_some_and(|(line, at)| self.lowest.get(&line).is_some_and(|low| at <= *low))
            }
            _ => false,
        }
    }

    fn covers_version(&self, key: &[u8]) -> Option<bool> {
        let key: &[u8; 23] = key.try_into().ok()?;
        let line = LineId::new(u32::from_be_bytes(key[1..5].try_into().ok()?));
        let disk = DiskId::new(u32::from_be_bytes(key[5..9].try_into().ok()?));
        let sequence = Sequence::new(!u64::from_be_bytes(key[15..].try_into().ok()?));
        Some(sequence <= *self.floors.get(&(line, disk))?)
    }
}

/// Line and sequence of the keys of boundaries, points and gaps.
fn moment(key: &[u8]) -> Option<(LineId, Sequence)> {
    let key: &[u8; 13] = key.try_into().ok()?;
    let line = LineId::new(u32::from_be_bytes(key[1..5].try_into().ok()?));
    Some((line, Sequence::new(u64::from_be_bytes(key[5..].try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::super::IndexBatch;
    use super::super::block_key::{SizeClass, key};
    use super::super::gap_key::put_gap;
    use super::super::moment_key::{Boundary, put_boundary};
    use super::*;
    use crate::time::Timestamp;
    use landfall_disks::Block;

    fn forgotten() -> Forgotten {
        let line = LineId::new(1);
        let disk = |number, floor| ((line, DiskId::new(number)), Sequence::new(floor));
        Forgotten {
            floors: [disk(2, 9), disk(3, 5)].into(),
            starts: [(line, Sequence::new(9))].into(),
            lowest: [(line, Sequence::new(5))].into(),
        }
    }

    fn version(line: u32, disk: u32, sequence: u64) -> bool {
        let (line, disk) = (LineId::new(line), DiskId::new(disk));
        let key = key(line, disk, SizeClass::Block, Block::new(7), Sequence::new(sequence));
        forgotten().covers(&key)
    }

    #[test]
    fn versions_go_up_to_the_floor_of_their_disk_and_of_no_other_line() {
        assert!(version(1, 2, 9) && version(1, 2, 0) && !version(1, 2, 10));
        assert!(version(1, 3, 5) && !version(1, 3, 6));
        assert!(!version(2, 2, 1), "a branch has no floor");
        assert!(!version(1, 4, 0), "a disk without a floor keeps all");
    }

    #[test]
    fn the_start_itself_stays_and_gaps_go_with_the_lowest_floor() {
        let keys = |at: u64| {
            let mut batch = IndexBatch::default();
            let line = LineId::new(1);
            let (sequence, commit_time) = (Sequence::new(at), Timestamp::default());
            put_boundary(&mut batch, line, Boundary { sequence, commit_time });
            put_gap(&mut batch, line, sequence);
            [0, 1].map(|number| forgotten().covers(&batch.puts[number].0))
        };
        assert_eq!(keys(5), [true, true]);
        assert_eq!(keys(8), [true, false]);
        assert_eq!(keys(9), [false, false]);
        for other in [&b""[..], &[1], &[4, 0, 0, 0, 1], &[5, 0, 0], &[1; 22], &[2; 12]] {
            assert!(!forgotten().covers(other), "{other:?}");
        }
    }
}
