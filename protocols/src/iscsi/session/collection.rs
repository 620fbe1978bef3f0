//! The data of a command on its way here (sections 4.2.5.2, 11.7 and 11.8).
//!
//! ```text
//!   0 ──── immediate ──── unsolicited ──── first R2T ──── second R2T ──── needed ─ ─ ─ announced
//!                                          └ at most max_burst each, some at a time ┘  thrown away
//! ```
//!
//! PDUs and sequences come in order, as was agreed (`DataPDUInOrder`, `DataSequenceInOrder`), so
//! what comes next has one place. Data that is spoilt ends its command, once everything that was
//! asked for has come (section 7.8): a sequence that goes on would otherwise hit whatever has the
//! same tag next.
//!
//! **Invariant:** memory is taken for what is needed, not for what is announced; and for what comes
//! by itself no more than that may be, until the rest was asked for: whoever asks has room for it.

use super::terms::Terms;
use crate::iscsi::wire::data::DataOut;
use crate::iscsi::wire::number::{DataSn, TargetTransferTag};
use landfall_disks::Buffer;
use std::collections::VecDeque;

/// What is wrong with the data of a command (section 11.4.7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A digest is wrong, or a PDU is missing.
    #[error("data is missing or damaged")]
    Damaged,
    /// More came than was allowed without being asked for.
    #[error("unexpected unsolicited data")]
    Unexpected,
    /// A sequence has another length than it must have.
    #[error("incorrect amount of data")]
    Amount,
}

/// A request for data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Its name.
    pub tag: TargetTransferTag,
    /// Its place among those of the command.
    pub number: DataSn,
    /// From where.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

/// A sequence of Data-Out PDUs that was asked for, or came by itself.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    /// Reserved, if it came by itself.
    tag: TargetTransferTag,
    /// Where it ends, if that is known.
    end: u32,
    next: DataSn,
}

/// The data of one command.
#[derive(Debug)]
pub struct Collection {
    /// Bytes that the command takes, from its first.
    needed: u32,
    /// Bytes that the initiator has.
    announced: u32,
    /// Bytes that came.
    received: u32,
    /// Bytes that came or were asked for.
    asked: u32,
    /// Sequences that have not ended, in the order in which they come.
    open: VecDeque<Sequence>,
    requests: DataSn,
    fault: Option<Fault>,
    /// Most bytes that come by themselves.
    unasked: usize,
    /// What came, from the first byte, with room for what may come next.
    whole: Option<Buffer>,
    filled: usize,
}

impl Collection {
    /// A command that takes `needed` of the `announced` bytes, of which `immediate` came along;
    /// unsolicited data follows unless `is_final`.
    pub fn new(
        terms: &Terms,
        (needed, announced): (u32, u32),
        immediate: Buffer,
        is_final: bool,
    ) -> Self {
        assert!(needed <= announced, "nothing beyond what is announced can come");
        let allowed = terms.first_burst.min(announced);
        let mut collection = Self {
            needed,
            announced,
            received: 0,
            asked: 0,
            open: VecDeque::new(),
            requests: DataSn::default(),
            fault: None,
            unasked: usize::try_from(allowed.min(needed)).expect("32 bits fit a usize"),
            whole: None,
            filled: 0,
        };
        let length = u32::try_from(immediate.len()).unwrap_or(u32::MAX);
        if length > allowed || (length > 0 && !terms.immediate_data) {
            collection.fault = Some(Fault::Unexpected);
        } else {
            collection.place(immediate, true);
        }
        if !is_final {
            let (tag, next) = (TargetTransferTag::RESERVED, DataSn::default());
            collection.open.push_back(Sequence { tag, end: allowed, next });
            if terms.initial_r2t {
                collection.fault = Some(Fault::Unexpected);
            }
        }
        collection.asked = collection.received;
        collection
    }

    /// What is to be asked for next. `tag` names it.
    pub fn ask(&mut self, terms: &Terms, tag: TargetTransferTag) -> Option<Wanted> {
        let by_itself = self.open.iter().any(|one| one.tag == TargetTransferTag::RESERVED);
        let full = self.open.len() >= usize::from(terms.max_outstanding_r2t);
        if by_itself || full || self.fault.is_some() || self.asked >= self.needed {
            return None;
        }
        let (offset, length) = (self.asked, terms.max_burst.min(self.needed - self.asked));
        self.asked += length;
        self.open.push_back(Sequence { tag, end: self.asked, next: DataSn::default() });
        let number = self.requests;
        self.requests = number.next();
        Some(Wanted { tag, number, offset, length })
    }

    /// Requests that were made.
    pub fn requests(&self) -> DataSn {
        self.requests
    }

    /// Bytes of memory that it has taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.whole.as_ref().map_or(0, |whole| whole.len())
    }

    /// Whether something is to be asked for, or has still to come.
    pub fn is_complete(&self) -> bool {
        let all = self.fault.is_some() || self.received >= self.needed;
        all && self.open.is_empty()
    }

    /// What is wrong, if something is.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether a PDU with this tag belongs to it.
    pub fn expects(&self, tag: TargetTransferTag) -> bool {
        self.open.iter().any(|one| one.tag == tag)
    }

    /// Data came, that belongs here. `data` is `None` if its digest was wrong.
    pub fn add(&mut self, pdu: &DataOut, data: Option<Buffer>) {
        let index = self.open.iter().position(|one| one.tag == pdu.transfer_tag);
        let index = index.expect("the caller has looked whether it belongs here");
        // Sequences come in the order in which they were asked for.
        if index != 0 {
            self.fault.get_or_insert(Fault::Damaged);
        }
        let sequence = &mut self.open[index];
        let Sequence { end, next, .. } = *sequence;
        sequence.next = next.next();
        if pdu.is_final {
            self.open.remove(index);
        }
        let Some(data) = data else {
            self.fault.get_or_insert(Fault::Damaged);
            return;
        };
        if self.fault.is_some() {
            return;
        }
        let by_itself = pdu.transfer_tag == TargetTransferTag::RESERVED;
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let after = pdu.offset.checked_add(length);
        self.fault = match after {
            // A PDU before it is missing.
            _ if pdu.data_sn != next || pdu.offset != self.received => Some(Fault::Damaged),
            Some(after) if after > end => {
                Some(if by_itself { Fault::Unexpected } else { Fault::Amount })
            }
            // What was asked for comes whole; what comes by itself may end when it likes.
            Some(after) if !by_itself && pdu.is_final != (after == end) => Some(Fault::Amount),
            Some(_) => None,
            None => Some(Fault::Amount),
        };
        if self.fault.is_none() {
            self.place(data, by_itself);
            self.asked = self.asked.max(self.received);
        }
    }

    /// Puts bytes where they belong, as far as they are needed.
    fn place(&mut self, mut data: Buffer, by_itself: bool) {
        let length = u32::try_from(data.len()).expect("a segment has at most 24 bits");
        self.received += length;
        assert!(self.received <= self.announced, "the caller has looked how much there may be");
        let needed = usize::try_from(self.needed).expect("32 bits fit a usize");
        let wanted = data.len().min(needed - self.filled);
        if wanted == 0 {
            return;
        }
        data.narrow(0..wanted);
        if wanted == needed {
            self.whole = Some(data);
        } else {
            let room = if by_itself { self.unasked } else { needed };
            let before = self.whole.take().unwrap_or_else(|| Buffer::zeroed(0));
            let whole = self.whole.insert(grown(before, self.filled, room));
            whole[self.filled..self.filled + wanted].copy_from_slice(&data);
        }
        self.filled += wanted;
    }

    /// All that is needed; panics if it has not come.
    pub fn into_data(self) -> Buffer {
        assert!(
            self.fault.is_none() && self.filled == usize::try_from(self.needed).unwrap_or(0),
            "the data of a command was used before it was there"
        );
        self.whole.unwrap_or_else(|| Buffer::zeroed(0))
    }
}

/// The first `filled` bytes of `buffer`, with room for `room` in all.
fn grown(buffer: Buffer, filled: usize, room: usize) -> Buffer {
    if buffer.len() >= room {
        return buffer;
    }
    let mut larger = Buffer::for_overwriting(room);
    larger[..filled].copy_from_slice(&buffer[..filled]);
    larger
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::wire::number::{InitiatorTaskTag, LunField, StatSn};
    use proptest::prelude::*;

    fn terms() -> Terms {
        Terms {
            max_burst: 100,
            first_burst: 60,
            initial_r2t: false,
            max_outstanding_r2t: 2,
            ..Terms::default()
        }
    }

    fn bytes(from: u32, length: u32) -> Buffer {
        let bytes: Vec<u8> = (from..from + length).map(|at| (at % 251) as u8).collect();
        Buffer::copy_of(&bytes)
    }

    fn pdu(tag: u32, data_sn: u32, offset: u32, is_final: bool) -> DataOut {
        DataOut {
            is_final,
            lun: LunField::default(),
            task_tag: InitiatorTaskTag::new(1),
            transfer_tag: TargetTransferTag::new(tag),
            exp_stat_sn: StatSn::new(0),
            data_sn: DataSn::new(data_sn),
            offset,
        }
    }

    const BY_ITSELF: u32 = u32::MAX;

    #[test]
    fn what_comes_along_is_all_there_is() {
        let collection = Collection::new(&terms(), (50, 50), bytes(0, 50), true);
        assert!(collection.is_complete());
        assert_eq!(*collection.into_data(), *bytes(0, 50));
    }

    #[test]
    fn data_comes_by_itself_and_then_is_asked_for() {
        let mut collection = Collection::new(&terms(), (300, 300), bytes(0, 20), false);
        let ask = |collection: &mut Collection, tag| {
            collection
                .ask(&terms(), TargetTransferTag::new(tag))
                .map(|wanted| (wanted.number.number(), wanted.offset, wanted.length))
        };
        assert_eq!(ask(&mut collection, 1), None, "it comes by itself so far");
        collection.add(&pdu(BY_ITSELF, 0, 20, false), Some(bytes(20, 20)));
        collection.add(&pdu(BY_ITSELF, 1, 40, true), Some(bytes(40, 20)));
        assert_eq!(ask(&mut collection, 1), Some((0, 60, 100)));
        assert_eq!(ask(&mut collection, 2), Some((1, 160, 100)));
        assert_eq!(ask(&mut collection, 3), None, "two at a time");
        collection.add(&pdu(1, 0, 60, false), Some(bytes(60, 70)));
        collection.add(&pdu(1, 1, 130, true), Some(bytes(130, 30)));
        assert_eq!(ask(&mut collection, 3), Some((2, 260, 40)));
        assert_eq!(ask(&mut collection, 4), None);
        collection.add(&pdu(2, 0, 160, true), Some(bytes(160, 100)));
        assert!(!collection.is_complete());
        collection.add(&pdu(3, 0, 260, true), Some(bytes(260, 40)));
        assert!(collection.is_complete());
        assert_eq!(collection.fault(), None);
        assert_eq!(*collection.into_data(), *bytes(0, 300));
    }

    #[test]
    fn memory_is_taken_for_the_rest_when_it_was_asked_for() {
        let mut collection = Collection::new(&terms(), (300, 300), bytes(0, 20), false);
        assert_eq!(collection.taken(), 60, "so much comes by itself");
        collection.add(&pdu(BY_ITSELF, 0, 20, true), Some(bytes(20, 40)));
        collection.ask(&terms(), TargetTransferTag::new(1)).expect("there is a need");
        assert_eq!(collection.taken(), 60);
        collection.add(&pdu(1, 0, 60, false), Some(bytes(60, 70)));
        assert_eq!(collection.taken(), 300);
        let whole = collection.whole.as_ref().expect("it has come");
        assert_eq!(whole[..130], bytes(0, 130)[..]);
    }

    #[test]
    fn more_than_is_needed_is_thrown_away_and_not_asked_for() {
        let mut collection = Collection::new(&terms(), (30, 1000), bytes(0, 20), false);
        collection.add(&pdu(BY_ITSELF, 0, 20, true), Some(bytes(20, 40)));
        assert_eq!(collection.ask(&terms(), TargetTransferTag::new(1)), None);
        assert!(collection.is_complete());
        assert_eq!(*collection.into_data(), *bytes(0, 30));
    }

    #[test]
    fn spoilt_data_ends_a_command_after_all_has_come() {
        type Spoil = fn(&mut Collection);
        let cases: [(Spoil, Fault); 7] = [
            (|it| it.add(&pdu(1, 0, 0, false), None), Fault::Damaged),
            (|it| it.add(&pdu(1, 1, 0, false), Some(bytes(0, 10))), Fault::Damaged),
            (|it| it.add(&pdu(1, u32::MAX, 0, false), Some(bytes(0, 10))), Fault::Damaged),
            (|it| it.add(&pdu(1, 0, 10, false), Some(bytes(0, 10))), Fault::Damaged),
            (|it| it.add(&pdu(1, 0, 0, false), Some(bytes(0, 101))), Fault::Amount),
            (|it| it.add(&pdu(1, 0, 0, false), Some(bytes(0, 100))), Fault::Amount),
            (|it| it.add(&pdu(2, 0, 0, false), Some(bytes(0, 10))), Fault::Damaged),
        ];
        for (spoil, fault) in cases {
            let mut collection = Collection::new(&terms(), (300, 300), bytes(0, 0), true);
            for tag in [1, 2] {
                collection.ask(&terms(), TargetTransferTag::new(tag)).expect("there is a need");
            }
            spoil(&mut collection);
            assert_eq!(collection.fault(), Some(fault));
            assert!(!collection.is_complete(), "both sequences still come");
            assert_eq!(collection.ask(&terms(), TargetTransferTag::new(3)), None);
            for tag in [1, 2] {
                assert!(collection.expects(TargetTransferTag::new(tag)));
                collection.add(&pdu(tag, 9, 0, true), Some(bytes(0, 1)));
            }
            assert!(collection.is_complete());
        }
        let mut short = Collection::new(&terms(), (300, 300), bytes(0, 0), true);
        short.ask(&terms(), TargetTransferTag::new(1));
        short.add(&pdu(1, 0, 0, true), Some(bytes(0, 99)));
        assert_eq!(short.fault(), Some(Fault::Amount));
    }

    #[test]
    fn nothing_comes_by_itself_that_was_not_agreed() {
        let none = Terms { immediate_data: false, initial_r2t: true, ..terms() };
        let along = Collection::new(&none, (50, 50), bytes(0, 50), true);
        assert_eq!((along.fault(), along.is_complete()), (Some(Fault::Unexpected), true));
        let mut follows = Collection::new(&none, (50, 50), bytes(0, 0), false);
        assert_eq!(follows.fault(), Some(Fault::Unexpected));
        assert!(!follows.is_complete(), "it comes all the same");
        follows.add(&pdu(BY_ITSELF, 0, 0, true), Some(bytes(0, 50)));
        assert!(follows.is_complete());
        let long = Collection::new(&terms(), (100, 100), bytes(0, 61), true);
        assert_eq!(long.fault(), Some(Fault::Unexpected));
        let beyond = Collection::new(&terms(), (10, 10), bytes(0, 11), true);
        assert_eq!(beyond.fault(), Some(Fault::Unexpected));
        let mut burst = Collection::new(&terms(), (100, 100), bytes(0, 20), false);
        burst.add(&pdu(BY_ITSELF, 0, 20, true), Some(bytes(20, 41)));
        assert_eq!(burst.fault(), Some(Fault::Unexpected));
    }

    proptest! {
        /// Whatever comes: no panic, an end as soon as all sequences have ended, and the right
        /// bytes if nothing was wrong.
        #[test]
        fn a_collection_ends_with_the_right_bytes_or_a_fault(
            needed in 0u32..400, more in 0u32..100, immediate in 0u32..100, is_final: bool,
            pdus in prop::collection::vec((0u32..4, 0u32..3, any::<bool>(), 0u32..120, any::<bool>()), 0..30),
        ) {
            let announced = needed + more;
            let mut collection =
                Collection::new(&terms(), (needed, announced), bytes(0, immediate), is_final);
            let mut tags = 0;
            let mut at = immediate;
            let mut sn = std::collections::BTreeMap::new();
            for (pick, skew, last, length, wrong) in pdus {
                while collection.ask(&terms(), TargetTransferTag::new(tags)).is_some() {
                    tags += 1;
                }
                let tag = if pick == 0 { BY_ITSELF } else { tags.saturating_sub(pick) };
                if !collection.expects(TargetTransferTag::new(tag)) {
                    continue;
                }
                let next: &mut u32 = sn.entry(tag).or_default();
                let skew = if wrong { skew } else { 0 };
                collection.add(&pdu(tag, *next + skew, at, last), Some(bytes(at, length)));
                *next += 1;
                at += length;
            }
            if collection.is_complete() && collection.fault().is_none() {
                let data = collection.into_data();
                prop_assert_eq!(&*data, &*bytes(0, needed));
            }
        }
    }
}
