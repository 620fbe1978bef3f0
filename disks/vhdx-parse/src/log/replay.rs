//! What replaying the log does to the file (section 2.3.3), as a plan: nothing is read or written
//! here.

use super::active::ActiveLog;
use super::entry::{LOG_SECTOR_BYTES, LogChange};
use crate::error::{At, Malformed};
use crate::{MAX_FILE_BYTES, MIB, REGION_TABLE_1_OFFSET};
use std::collections::BTreeMap;

const SECTOR: u64 = 4096;

/// New content of a stretch of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Patch {
    /// One sector of 4 KiB.
    Data(Box<[u8; LOG_SECTOR_BYTES]>),
    /// Zeroes, of this many bytes.
    Zero(u64),
}

impl Patch {
    /// Bytes of the stretch.
    pub fn length(&self) -> u64 {
        match self {
            Self::Data(_) => SECTOR,
            Self::Zero(length) => *length,
        }
    }
}

/// All changes of a replay, each byte of the file at most once, so that they can be made in any
/// order, and again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replay {
    patches: BTreeMap<u64, Patch>,
    file_bytes: u64,
}

impl Replay {
    pub(super) fn of(log: &ActiveLog, file_bytes: u64) -> Result<Self, Malformed> {
        let at = At::new("VHDX log entry", log.offset);
        let head = log.head();
        let flushed = head.flushed_file_offset;
        at.expect(
            file_bytes >= flushed,
            "FlushedFileOffset",
            flushed,
            format!("at most {file_bytes}, the length of the file: it was cut"),
        )?;
        let last = head.last_file_offset;
        at.expect(
            last <= MAX_FILE_BYTES,
            "LastFileOffset",
            last,
            "an end within the largest file",
        )?;
        let mut replay = Self { patches: BTreeMap::new(), file_bytes: file_bytes.max(last) };
        for change in log.entries.iter().flat_map(|entry| &entry.changes) {
            check_target(log, change)?;
            replay.add(change);
        }
        replay.file_bytes = replay.file_bytes.next_multiple_of(if replay.file_bytes > file_bytes {
            // Only a file that grows; the length of others is theirs.
            MIB
        } else {
            1
        });
        Ok(replay)
    }

    /// The patches, by offset, apart from each other.
    pub fn patches(&self) -> impl Iterator<Item = (u64, &Patch)> {
        self.patches.iter().map(|(offset, patch)| (*offset, patch))
    }

    /// Length of the file afterwards: at least what it was.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Makes of `bytes`, read at `offset` of the file as it is, those of the file as it would be.
    pub fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        // The one before may reach into the range.
        let before = self.patches.range(..offset).next_back();
        for (start, patch) in before.into_iter().chain(self.patches.range(offset..end)) {
            let (from, to) = (offset.max(*start), end.min(start + patch.length()));
            if from >= to {
                continue;
            }
            let within = |from: u64, base: u64| usize::try_from(from - base).expect("in memory");
            let target = &mut bytes[within(from, offset)..within(to, offset)];
            match patch {
                Patch::Zero(_) => target.fill(0),
                Patch::Data(data) => {
                    target.copy_from_slice(&data[within(from, *start)..within(to, *start)]);
                }
            }
        }
    }

    fn add(&mut self, change: &LogChange) {
        let (offset, length) = change.range();
        if length == 0 {
            return;
        }
        let end = offset + length;
        self.clear(offset, end);
        let patch = match change {
            LogChange::Data { bytes, .. } => Patch::Data(bytes.clone()),
            LogChange::Zero { .. } => Patch::Zero(length),
        };
        self.patches.insert(offset, patch);
        self.file_bytes = self.file_bytes.max(end);
    }

    /// Takes out what lies in `offset..end`. Everything is whole sectors, so only zeroes are ever
    /// divided.
    fn clear(&mut self, offset: u64, end: u64) {
        let before = self.patches.range(..offset).next_back();
        if let Some((start, Patch::Zero(length))) = before.map(|(start, patch)| (*start, patch)) {
            let old_end = start + length;
            if old_end > offset {
                self.patches.insert(start, Patch::Zero(offset - start));
                if old_end > end {
                    self.patches.insert(end, Patch::Zero(old_end - end));
                }
            }
        }
        while let Some((start, patch)) = self.patches.range(offset..end).next() {
            let (start, old_end) = (*start, start + patch.length());
            self.patches.remove(&start);
            if old_end > end {
                self.patches.insert(end, Patch::Zero(old_end - end));
            }
        }
    }
}

/// That a change touches neither what is not logged (identifier and headers) nor the log itself.
fn check_target(log: &ActiveLog, change: &LogChange) -> Result<(), Malformed> {
    let at = At::new("VHDX log descriptor", log.offset);
    let (offset, length) = change.range();
    at.expect(
        offset >= REGION_TABLE_1_OFFSET,
        "FileOffset",
        offset,
        "a place behind the headers, which are not logged",
    )?;
    let log_end = log.offset + u64::from(log.length);
    let apart = offset + length <= log.offset || log_end <= offset || length == 0;
    at.expect(apart, "FileOffset", offset, "a place outside the log")
}

#[cfg(test)]
mod tests {
    use super::super::entry::LogEntry;
    use super::super::entry::tests::{changes, entry};
    use super::*;
    use proptest::prelude::*;

    fn log(entries: Vec<LogEntry>) -> ActiveLog {
        let length = 1 << 20;
        // The log lies behind everything the generated changes touch.
        let active = |offset| crate::log::active_for_tests(entries.clone(), offset, length);
        active(64 << 20)
    }

    const FILE: usize = 5 << 20;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// One change after the other, on plain bytes, is the oracle.
        #[test]
        fn patches_do_what_the_entries_say(
            lists in proptest::collection::vec(changes(12), 1..6),
            range in (0usize..2 << 20, 0usize..40_000),
        ) {
            let entries: Vec<LogEntry> =
                lists.into_iter().zip(1u64..).map(|(list, number)| entry(number, 0, list)).collect();
            let base = vec![0xee; FILE];
            let mut expected = base.clone();
            for change in entries.iter().flat_map(|entry| &entry.changes) {
                let (offset, length) = change.range();
                let [offset, length] = [offset, length].map(|n| usize::try_from(n).expect("small"));
                match change {
                    LogChange::Data { bytes, .. } => expected[offset..offset + length].copy_from_slice(&**bytes),
                    LogChange::Zero { .. } => expected[offset..offset + length].fill(0),
                }
            }
            let replay = log(entries).replay(FILE as u64).expect("possible");
            let mut found = base.clone();
            replay.apply(0, &mut found);
            prop_assert!(found == expected);
            let (start, length) = range;
            let mut part = base[start..start + length].to_vec();
            replay.apply(start as u64, &mut part);
            prop_assert!(part == expected[start..start + length]);
            let mut end = 0;
            for (offset, patch) in replay.patches() {
                prop_assert!(offset >= end && patch.length() > 0);
                end = offset + patch.length();
            }
            prop_assert_eq!(replay.file_bytes(), FILE as u64);
        }
    }

    #[test]
    fn the_file_grows_to_what_is_in_use_and_is_never_cut() {
        let zero = LogChange::Zero { offset: 7 << 20, length: 4096 };
        let grown = log(vec![entry(1, 0, vec![zero])]).replay(4 << 20).expect("possible");
        assert_eq!(grown.file_bytes(), 8 << 20);
        let last = log(vec![entry(1, 0, Vec::new())]);
        assert_eq!(last.replay(4 << 20).expect("possible").file_bytes(), 5 << 20);
        assert_eq!(last.replay((9 << 20) + 7).expect("possible").file_bytes(), (9 << 20) + 7);
        let cut = last.replay((4 << 20) - 1).expect_err("shorter than it was durably");
        assert_eq!((cut.field, cut.value.as_str()), ("FlushedFileOffset", "4194304"));
    }

    #[test]
    fn headers_and_log_are_out_of_reach() {
        for offset in [0, 64 << 10, 64 << 20] {
            let zero = LogChange::Zero { offset, length: 4096 };
            let problem =
                log(vec![entry(1, 0, vec![zero])]).replay(99 << 20).expect_err("out of reach");
            assert_eq!(problem.field, "FileOffset");
        }
        // Over the log from below.
        let zero = LogChange::Zero { offset: 1 << 20, length: 64 << 20 };
        assert!(log(vec![entry(1, 0, vec![zero])]).replay(99 << 20).is_err());
    }
}
