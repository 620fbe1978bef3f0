//! Finding what is to be replayed (section 2.3.3): the newest whole sequence of entries.

use super::entry::{LOG_SECTOR_BYTES, LogEntry, LogEntryHeader, parse_header};
use super::replay::Replay;
use crate::Guid;
use crate::error::{At, Malformed};
use crate::header::Header;
use std::collections::VecDeque;

/// Bytes that may be checksummed while looking for a sequence, besides four times the log. Honest
/// logs need twice their length;
/// entries made to overlap each other would need its square.
const SEARCH_BUDGET: u64 = 64 << 20;

/// The bytes of a whole log, as a ring.
#[derive(Clone, Copy, Debug)]
pub struct LogRing<'a> {
    bytes: &'a [u8],
    offset: u64,
    log_guid: Guid,
}

/// The entries that are to be replayed, oldest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActiveLog {
    pub(super) entries: Vec<LogEntry>,
    /// Where the ring goes on after the newest entry, in bytes from its start.
    pub(super) end: u32,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl ActiveLog {
    /// The entries, oldest first.
    pub fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    /// Header of the newest entry.
    pub fn head(&self) -> &LogEntryHeader {
        &self.entries.last().expect("a sequence is not empty").header
    }

    /// Where the next entry would be written, in bytes from the start of the log.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// What the entries do to a file of `file_bytes`.
    pub fn replay(&self, file_bytes: u64) -> Result<Replay, Malformed> {
        Replay::of(self, file_bytes)
    }
}

/// Header and place of a valid entry.
#[derive(Clone, Copy)]
struct Found {
    header: LogEntryHeader,
    place: u32,
}

impl<'a> LogRing<'a> {
    /// The log that `header` names; `bytes` is all of it.
    ///
    /// # Panics
    ///
    /// If `bytes` is not as long as the header says.
    pub fn new(bytes: &'a [u8], header: &Header) -> Self {
        assert_eq!(u32::try_from(bytes.len()), Ok(header.log_length), "the whole log is needed");
        Self { bytes, offset: header.log_offset, log_guid: header.log_guid }
    }

    /// The newest sequence of valid entries whose head names a tail within it.
    ///
    /// `None` if there is nothing to be replayed: the header says that the log is empty, or not even the
    /// first entry was completed. The specification calls the latter corrupt, but QEMU leaves that when
    /// the power goes between its update of the header and that entry, before anything depended on it.
    /// Any other log without such a sequence makes the file corrupt.
    pub fn active(&self) -> Result<Option<ActiveLog>, Malformed> {
        if self.log_guid.is_zero() {
            return Ok(None);
        }
        let at = At::new("VHDX log", self.offset);
        let mut budget = SEARCH_BUDGET + 4 * self.bytes.len() as u64;
        let mut candidate: Option<VecDeque<Found>> = None;
        let mut tail = 0;
        // Entries may reach over the end of the ring, but no search needs to start there twice.
        while tail < self.length() {
            let sequence = self.sequence_from(tail, &mut budget)?;
            let next = sequence
                .back()
                .map(|last| u64::from(last.place) + u64::from(last.header.entry_length));
            if let Some(whole) = self.valid(sequence) {
                let newer =
                    |found: &VecDeque<Found>| sequence_number(found) < sequence_number(&whole);
                if candidate.as_ref().is_none_or(newer) {
                    candidate = Some(whole);
                }
                // What follows a whole sequence, unless that reached over the end.
                let next = next.expect("it is not empty");
                let Ok(next) = u32::try_from(next) else { break };
                if next <= tail {
                    break;
                }
                tail = next;
            } else {
                tail += SECTOR;
            }
        }
        let Some(candidate) = candidate else {
            return at
                .expect(
                    self.is_unbegun(),
                    "LogGuid",
                    self.log_guid,
                    "a log with at least one whole sequence of entries",
                )
                .map(|()| None);
        };
        self.load(candidate).map(Some)
    }

    /// Whether nothing in the ring claims to be an entry of this log, but for a torn one that says it is the first.
    fn is_unbegun(&self) -> bool {
        let sectors = (0..self.length()).step_by(LOG_SECTOR_BYTES);
        let mut claims = sectors.filter_map(|place| Some((place, self.header_at(place)?)));
        let first = claims.next();
        first.is_none_or(|(place, header)| header.tail == place) && claims.next().is_none()
    }

    fn length(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("checked when it was made")
    }

    /// `length` bytes from `place`, over the end of the ring if need be.
    fn copy(&self, place: u32, length: u32) -> Vec<u8> {
        let [place, length] = [place, length].map(|n| usize::try_from(n).expect("within memory"));
        let before = length.min(self.bytes.len() - place);
        [&self.bytes[place..place + before], &self.bytes[..length - before]].concat()
    }

    /// The entry at `place` if its header belongs to this log and is possible.
    fn header_at(&self, place: u32) -> Option<LogEntryHeader> {
        let start = usize::try_from(place).expect("within memory");
        let sector = &self.bytes[start..start + LOG_SECTOR_BYTES];
        // What is not valid is no damage: most of a log is stale.
        let (header, _) =
            parse_header(sector, self.offset + u64::from(place), self.length()).ok()?;
        (header.log_guid == self.log_guid).then_some(header)
    }

    /// All of the entry at `place`, if it is valid.
    fn entry_at(&self, place: u32) -> Option<LogEntry> {
        let header = self.header_at(place)?;
        let bytes = self.copy(place, header.entry_length);
        LogEntry::parse(&bytes, self.offset + u64::from(place), self.length()).ok()
    }

    /// The entries from `tail` on, as long as each is valid and its number follows.
    fn sequence_from(&self, tail: u32, budget: &mut u64) -> Result<VecDeque<Found>, Malformed> {
        let mut sequence: VecDeque<Found> = VecDeque::new();
        let mut place = tail;
        let mut total = 0u64;
        while let Some(header) = self.header_at(place) {
            let follows = sequence.back().is_none_or(|last| {
                last.header.sequence_number.checked_add(1) == Some(header.sequence_number)
            });
            total += u64::from(header.entry_length);
            // A ring cannot hold more than its length, whatever it says.
            if !follows || total > self.bytes.len() as u64 {
                break;
            }
            *budget = budget.checked_sub(header.entry_length.into()).ok_or_else(|| {
                At::new("VHDX log", self.offset).malformed(
                    "entries",
                    "a web of overlapping entries",
                    "entries beside each other",
                )
            })?;
            if self.entry_at(place).is_none() {
                break;
            }
            sequence.push_back(Found { header, place });
            place = self.advance(place, header.entry_length);
        }
        Ok(sequence)
    }

    fn advance(&self, place: u32, length: u32) -> u32 {
        let next = (u64::from(place) + u64::from(length)) % u64::from(self.length());
        u32::try_from(next).expect("within the log")
    }

    /// The part of `sequence` that its head says is active, if the head names a tail within it.
    fn valid(&self, mut sequence: VecDeque<Found>) -> Option<VecDeque<Found>> {
        let tail = sequence.back()?.header.tail;
        let first = sequence.iter().position(|found| found.place == tail)?;
        sequence.drain(..first);
        Some(sequence)
    }

    fn load(&self, sequence: VecDeque<Found>) -> Result<ActiveLog, Malformed> {
        let last = sequence.back().expect("a valid sequence is not empty");
        let end = self.advance(last.place, last.header.entry_length);
        let entries: Option<Vec<LogEntry>> =
            sequence.iter().map(|found| self.entry_at(found.place)).collect();
        Ok(ActiveLog {
            entries: entries.expect("they were valid a moment ago"),
            end,
            offset: self.offset,
            length: self.length(),
        })
    }
}

const SECTOR: u32 = 4096;

fn sequence_number(sequence: &VecDeque<Found>) -> u64 {
    sequence.back().map_or(0, |last| last.header.sequence_number)
}

#[cfg(test)]
mod tests {
    use super::super::entry::LogChange;
    use super::super::entry::tests::entry;
    use super::*;
    use proptest::prelude::*;

    const LOG: u32 = 1 << 20;

    fn header() -> Header {
        Header {
            sequence_number: 1,
            file_write_guid: Guid::ZERO,
            data_write_guid: Guid::ZERO,
            log_guid: Guid::from_random([7; 16]),
            log_offset: 1 << 20,
            log_length: LOG,
        }
    }

    fn zeroes(count: u64) -> Vec<LogChange> {
        (0..count).map(|n| LogChange::Zero { offset: (4 << 20) + n * 4096, length: 4096 }).collect()
    }

    /// Puts an entry into the ring and gives where the next one goes.
    fn put(log: &mut [u8], place: u32, entry: &LogEntry) -> u32 {
        let bytes = entry.encode();
        for (number, byte) in bytes.iter().enumerate() {
            let at = (usize::try_from(place).expect("small") + number) % log.len();
            log[at] = *byte;
        }
        (place + u32::try_from(bytes.len()).expect("small")) % LOG
    }

    fn numbers(log: &[u8]) -> Result<Vec<u64>, Malformed> {
        let found = LogRing::new(log, &header()).active()?;
        let found = found.expect("the header names a log");
        Ok(found.entries().iter().map(|entry| entry.header.sequence_number).collect())
    }

    fn empty() -> Vec<u8> {
        vec![0; usize::try_from(LOG).expect("small")]
    }

    #[test]
    fn the_head_names_its_tail() {
        let mut log = empty();
        let one = put(&mut log, 0, &entry(5, 0, zeroes(1)));
        let two = put(&mut log, one, &entry(6, 0, zeroes(200)));
        assert_eq!(numbers(&log), Ok(vec![5, 6]));
        put(&mut log, two, &entry(7, one, zeroes(1)));
        assert_eq!(numbers(&log), Ok(vec![6, 7]));
    }

    #[test]
    fn entries_reach_over_the_end_of_the_ring() {
        let mut log = empty();
        let start = LOG - 4096;
        let next = put(&mut log, start, &entry(5, start, zeroes(300)));
        assert_eq!(next, 2 * 4096);
        put(&mut log, next, &entry(6, start, zeroes(1)));
        assert_eq!(numbers(&log), Ok(vec![5, 6]));
        let header = header();
        let ring = LogRing::new(&log, &header);
        assert_eq!(ring.active().expect("valid").expect("some").end(), 3 * 4096);
    }

    #[test]
    fn the_newest_sequence_wins_over_stale_ones() {
        let mut log = empty();
        put(&mut log, 40_960, &entry(900, 40_960, zeroes(1)));
        put(&mut log, 0, &entry(901, 0, zeroes(1)));
        assert_eq!(numbers(&log), Ok(vec![901]));
        // Its successor is torn: the head before it stands.
        put(&mut log, 4096, &entry(902, 0, zeroes(1)));
        log[5000] ^= 1;
        assert_eq!(numbers(&log), Ok(vec![901]));
    }

    #[test]
    fn a_log_in_use_has_a_sequence() {
        let mut log = empty();
        // A tail that is not there any more.
        put(&mut log, 0, &entry(5, 8192, zeroes(1)));
        let problem = numbers(&log).expect_err("no tail");
        assert_eq!((problem.structure, problem.field), ("VHDX log", "LogGuid"));
        let unused = Header { log_guid: Guid::ZERO, ..header() };
        assert_eq!(LogRing::new(&log, &unused).active(), Ok(None));
    }

    #[test]
    fn a_log_whose_first_entry_was_torn_is_empty() {
        let mut log = empty();
        assert_eq!(LogRing::new(&log, &header()).active(), Ok(None));
        put(&mut log, 8192, &entry(5, 8192, zeroes(1)));
        log[8292] ^= 1;
        assert_eq!(LogRing::new(&log, &header()).active(), Ok(None));
        // Entries of another log are void.
        let other = Header { log_guid: Guid::from_random([8; 16]), ..header() };
        assert_eq!(LogRing::new(&log, &other).active(), Ok(None));
        // After another entry, it was not the first.
        put(&mut log, 0, &entry(4, 4096, zeroes(1)));
        assert!(LogRing::new(&log, &header()).active().is_err());
    }

    #[test]
    fn a_web_of_entries_ends_the_search() {
        // Every sector starts an entry that is as long as the log; only the last sector differs
        // from a valid one.
        let mut log = empty();
        for sector in 0..LOG / 4096 {
            let mut bytes = entry(u64::from(sector) + 1, 0, Vec::new()).encode();
            bytes[8..12].copy_from_slice(&LOG.to_le_bytes());
            let start = usize::try_from(sector * 4096).expect("small");
            log[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        let problem = numbers(&log).expect_err("a web");
        assert_eq!(problem.value, "a web of overlapping entries");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A writer that goes round the ring, and a cut at a random place: what was completed
        /// before is found.
        #[test]
        fn what_was_written_is_found(
            sizes in proptest::collection::vec((1u64..400, 0u32..4), 1..120),
            torn in any::<Option<usize>>(),
        ) {
            let mut log = empty();
            let written = sizes.len();
            let mut live: VecDeque<(u64, u32, u32)> = VecDeque::new();
            let (mut place, mut used) = (0, 0u32);
            for ((count, keep), sequence) in sizes.into_iter().zip(1u64..) {
                while live.len() > usize::try_from(keep).expect("small") {
                    used -= live.pop_front().expect("not empty").2;
                }
                let changes = zeroes(count);
                let length = u32::try_from(LogEntry::encoded_length(&changes)).expect("small");
                let tail = live.front().map_or(place, |first| first.1);
                live.push_back((sequence, place, length));
                used += length;
                prop_assert!(used <= LOG);
                place = put(&mut log, place, &entry(sequence, tail, changes));
            }
            if let Some(torn) = torn {
                let (_, start, length) = *live.back().expect("not empty");
                let at = usize::try_from(start).expect("small") + torn % usize::try_from(length).expect("small");
                let length = log.len();
                log[at % length] ^= 0x55;
                live.pop_back();
            }
            if live.is_empty() {
                // Nothing has to be found, and of a log with that one entry nothing is.
                let found = LogRing::new(&log, &header()).active();
                prop_assert!(written > 1 || !matches!(found, Ok(Some(_))), "{found:?}");
                return Ok(());
            }
            // The tail a torn entry would have moved stays where the one before it had it.
            let found = numbers(&log).expect("a sequence");
            let last = live.back().expect("not empty").0;
            prop_assert_eq!(found.last(), Some(&last));
            prop_assert!(found.contains(&live.front().expect("not empty").0));
        }
    }
}
