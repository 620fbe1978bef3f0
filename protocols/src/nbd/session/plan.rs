//! From what a disk knows of its content to what is told of it: holes of a read, descriptors of a block status.

use super::action::Extents;
use super::terms::{Context, Replies};
use crate::nbd::contexts::Described;
use crate::nbd::wire::transmission::{STATE_HOLE, STATE_ZERO};
use crate::nbd::wire::{MAX_DESCRIPTORS, MAX_REQUEST, MAX_SELECTED};
use landfall_disks::{BLOCK_SIZE, ByteOffset, ByteRange, Content, MappedRange};

/// Shortest run of zeroes that is worth a chunk of its own, in bytes. Below it, one read and one chunk for the
/// whole are cheaper than several.
const WORTHWHILE_HOLE: u64 = 32 << 10;

/// How far a disk is asked at first, in bytes, for the end of a single extent.
const FIRST_LOOK: u64 = 1 << 20;

/// How much of a disk is looked at in one go, in bytes: what a disk may say of more at once has no bound.
const LONGEST_LOOK: u64 = 4 << 30;

/// Most of an export that one reply describes, in bytes, so that a request has an end in good time. Whoever wants more
/// asks on, as after every reply that ends early.
const LONGEST_STATUS: u64 = 1 << 40;

/// How often a map is asked for one request; each answer may end early.
const LOOKS_AT_MAP: usize = 4096;

/// How often a context of the export is asked for one request, if it is the only one. An answer may take it far longer.
const LOOKS_AT_CONTEXT: usize = 64;

// All chunks of a block status together are no longer than the largest payload: 16 bytes a descriptor, 8 before them.
const _: () = assert!(16 * MAX_DESCRIPTORS + 8 * MAX_SELECTED <= MAX_REQUEST as usize);

/// One piece of the reply to a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk {
    /// Bytes to read and send.
    Data(ByteRange),
    /// Zeroes, told and not sent.
    Hole(ByteRange),
}

/// Divides a read of `range` by `map`, which describes a prefix of it; what lies behind the prefix is data. The chunks
/// tile the range; neighbours differ in kind.
pub fn plan_read(range: ByteRange, map: &[MappedRange]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    // Start of data that is not yet in a chunk, and of the run of zeroes that is being extended.
    let mut data = range.start();
    let mut zeroes = range.start();
    let mut at = range.start();
    let mut close = |data: &mut ByteOffset, zeroes: ByteOffset, end: ByteOffset| {
        let hole = ByteRange::new(zeroes, end).expect("zeroes start before they end");
        if hole.length() < WORTHWHILE_HOLE {
            return;
        }
        let before = ByteRange::new(*data, zeroes).expect("data ends where zeroes start");
        if !before.is_empty() {
            chunks.push(Chunk::Data(before));
        }
        chunks.push(Chunk::Hole(hole));
        *data = end;
    };
    for mapped in map {
        let stretch = mapped.range.intersection(range);
        if stretch.is_empty() || stretch.start() != at {
            // A map that does not go on where it ended is not relied upon.
            break;
        }
        at = stretch.end();
        if mapped.content == Content::Data {
            close(&mut data, zeroes, stretch.start());
            zeroes = at;
        }
    }
    close(&mut data, zeroes, at);
    let rest = ByteRange::new(data, range.end()).expect("chunks stay within the range");
    if !rest.is_empty() {
        chunks.push(Chunk::Data(rest));
    }
    chunks
}

/// One descriptor of a block status, before it is known how wide its numbers are on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    /// Bytes; not zero.
    pub length: u64,
    /// Meaning by context.
    pub status: u32,
}

/// What one context may take of what a request may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Descriptors.
    most: usize,
    /// How often somebody may be asked.
    looks: usize,
}

impl Share {
    /// For `context`, one of `contexts` that are asked for at once.
    pub fn of(context: &Context, contexts: usize) -> Self {
        let looks = match context {
            Context::BaseAllocation => LOOKS_AT_MAP,
            Context::OfExport(_) => LOOKS_AT_CONTEXT,
        };
        let share = |all: usize| (all / contexts.max(1)).max(1);
        Self { most: share(MAX_DESCRIPTORS), looks: share(looks) }
    }
}

/// Collects the descriptors of one context in a block status reply.
///
/// Their total never exceeds the request, so both the rule for many extents and the one for a single extent hold.
#[derive(Debug)]
pub struct StatusList {
    left: ByteRange,
    extents: Extents,
    /// Descriptors it may have.
    most: usize,
    /// How often somebody may still be asked.
    looks: usize,
    descriptors: Vec<StatusExtent>,
}

impl StatusList {
    /// An empty list for a request of `range`, which is not empty, to be sent as `replies`.
    pub fn new(range: ByteRange, extents: Extents, replies: Replies, share: Share) -> Self {
        assert!(!range.is_empty(), "an empty request is refused before");
        let longest = match replies {
            // A descriptor has 32 bits for its length.
            Replies::Simple | Replies::Structured => u64::from(u32::MAX) & !(BLOCK_SIZE - 1),
            Replies::Extended => LONGEST_STATUS,
        };
        let length = range.length().min(longest);
        let left = ByteRange::at(range.start(), length).expect("not longer than the range");
        let Share { most, looks } = share;
        Self { left, extents, most, looks, descriptors: Vec::new() }
    }

    /// What must be described and added next; `None` when the list is complete, or long enough.
    pub fn next(&self) -> Option<ByteRange> {
        let full = self.descriptors.len() >= self.most || self.looks == 0;
        // With one extent, a second descriptor has shown where the first one ends.
        let enough = self.extents == Extents::One && self.descriptors.len() > 1;
        (!self.left.is_empty() && !full && !enough).then(|| self.look_ahead())
    }

    /// Whoever wants one extent asks for all of the disk again and again: what lies behind its end is not worth a look. An
    /// extent that goes on is followed in steps as long as it is so far.
    fn look_ahead(&self) -> ByteRange {
        let known = self.descriptors.iter().map(|extent| extent.length).sum();
        let step = match self.extents {
            Extents::One => FIRST_LOOK.max(known),
            Extents::Many => LONGEST_LOOK,
        };
        let length = self.left.length().min(step).min(LONGEST_LOOK);
        ByteRange::at(self.left.start(), length).expect("not longer than what is left")
    }

    /// Adds what was said of the start of [`StatusList::next`]. Whether that brought it on: an answer that does not start
    /// there, or is empty, does not.
    #[must_use]
    pub fn add(&mut self, answer: &[Described]) -> bool {
        let before = self.left.start();
        self.looks = self.looks.saturating_sub(1);
        for described in answer {
            let stretch = described.range.intersection(self.left);
            if stretch.is_empty() || stretch.start() != self.left.start() {
                break;
            }
            self.push(stretch.length(), described.status);
            (_, self.left) = self.left.split_at(stretch.end());
        }
        self.left.start() > before
    }

    fn push(&mut self, length: u64, status: u32) {
        match self.descriptors.last_mut() {
            Some(last) if last.status == status => last.length += length,
            _ => self.descriptors.push(StatusExtent { length, status }),
        }
    }

    /// The descriptors; at least one if anything was added.
    pub fn into_descriptors(mut self) -> Vec<StatusExtent> {
        self.descriptors.truncate(match self.extents {
            Extents::One => 1,
            Extents::Many => self.most,
        });
        self.descriptors
    }
}

/// What `base:allocation` says of `asked`, of which `map` describes a prefix. Where it does not it is "data", which is always
/// true.
pub fn allocation(asked: ByteRange, map: &[MappedRange]) -> Vec<Described> {
    if map.first().is_none_or(|first| first.range.intersection(asked).start() != asked.start()) {
        return vec![Described { range: asked, status: status_of(Content::Data) }];
    }
    let described = |one: &MappedRange| (one.range, status_of(one.content));
    map.iter().map(described).map(|(range, status)| Described { range, status }).collect()
}

fn status_of(content: Content) -> u32 {
    match content {
        Content::Data => 0,
        Content::Zero => STATE_ZERO,
        Content::Hole => STATE_HOLE | STATE_ZERO,
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).expect("ordered")
    }

    fn mapped(start: u64, end: u64, content: Content) -> MappedRange {
        MappedRange { range: range(start, end), content }
    }

    const K: u64 = 1024;

    fn share(contexts: usize) -> Share {
        Share::of(&Context::OfExport("test:context".into()), contexts)
    }

    /// A list of `base:allocation`, the only context.
    struct Allocation(StatusList);

    impl Allocation {
        fn new(range: ByteRange, extents: Extents, replies: Replies) -> Self {
            Self(StatusList::new(range, extents, replies, Share::of(&Context::BaseAllocation, 1)))
        }

        fn add(&mut self, map: &[MappedRange]) {
            let next = self.0.next().expect("it is not complete");
            assert!(self.0.add(&allocation(next, map)));
        }
    }

    #[test]
    fn long_holes_are_told_and_short_ones_are_read() {
        let map = [
            mapped(0, 64 * K, Content::Hole),
            mapped(64 * K, 68 * K, Content::Data),
            mapped(68 * K, 72 * K, Content::Hole),
            mapped(72 * K, 80 * K, Content::Data),
            mapped(80 * K, 100 * K, Content::Zero),
            mapped(100 * K, 120 * K, Content::Hole),
        ];
        let expected = [
            Chunk::Hole(range(0, 64 * K)),
            Chunk::Data(range(64 * K, 80 * K)),
            Chunk::Hole(range(80 * K, 120 * K)),
            Chunk::Data(range(120 * K, 128 * K)),
        ];
        assert_eq!(plan_read(range(0, 128 * K), &map), expected);
    }

    #[test]
    fn without_a_map_everything_is_data() {
        assert_eq!(plan_read(range(3, 9), &[]), [Chunk::Data(range(3, 9))]);
        assert_eq!(plan_read(range(3, 3), &[]), []);
    }

    #[test]
    fn a_map_with_a_gap_is_not_relied_upon() {
        let map = [mapped(100 * K, 200 * K, Content::Hole)];
        assert_eq!(plan_read(range(0, 200 * K), &map), [Chunk::Data(range(0, 200 * K))]);
        let mut list = Allocation::new(range(0, 200 * K), Extents::Many, Replies::Structured);
        list.add(&map);
        assert_eq!(list.0.next(), None);
        let data = StatusExtent { length: 204_800, status: 0 };
        assert_eq!(list.0.into_descriptors(), [data]);
    }

    #[test]
    fn one_extent_is_one_descriptor_even_over_several_maps() {
        let mut list = Allocation::new(range(0, 100), Extents::One, Replies::Structured);
        list.add(&[mapped(0, 10, Content::Hole)]);
        assert_eq!(list.0.next(), Some(range(10, 100)));
        list.add(&[mapped(10, 30, Content::Hole), mapped(30, 40, Content::Data)]);
        assert_eq!(list.0.next(), None);
        let hole = StatusExtent { length: 30, status: 3 };
        assert_eq!(list.0.into_descriptors(), [hole]);
    }

    #[test]
    fn one_extent_is_looked_for_no_further_than_it_goes() {
        let mut list = Allocation::new(range(0, 1 << 30), Extents::One, Replies::Structured);
        let mut asked = Vec::new();
        while let Some(next) = list.0.next() {
            asked.push(next);
            let (hole, data) = next.split_at(ByteOffset::new(5 * FIRST_LOOK).min(next.end()));
            let parts = [(hole, Content::Hole), (data, Content::Data)];
            list.add(&parts.map(|(range, content)| MappedRange { range, content }));
        }
        // The first step is one look long, each later one as long as all before it.
        let steps = [(0, 1), (1, 2), (2, 4), (4, 8)];
        assert_eq!(asked, steps.map(|(from, to)| range(from * FIRST_LOOK, to * FIRST_LOOK)));
        let hole = StatusExtent { length: 5 << 20, status: 3 };
        assert_eq!(list.0.into_descriptors(), [hole]);
    }

    #[test]
    fn a_descriptor_needs_more_than_32_bits_only_where_it_has_them() {
        for (replies, told) in
            [(Replies::Structured, u64::from(u32::MAX) - 4095), (Replies::Extended, 1 << 40)]
        {
            let mut list = Allocation::new(ByteRange::up_to(3 << 40), Extents::Many, replies);
            while let Some(next) = list.0.next() {
                assert!(next.length() <= LONGEST_LOOK);
                list.add(&[MappedRange { range: next, content: Content::Hole }]);
            }
            assert_eq!(list.0.into_descriptors(), [StatusExtent { length: told, status: 3 }]);
        }
    }

    #[test]
    fn what_a_request_may_cost_is_shared_among_its_contexts() {
        for contexts in [1, 2, MAX_SELECTED] {
            let whole = ByteRange::up_to(1 << 40);
            let list = || StatusList::new(whole, Extents::Many, Replies::Extended, share(contexts));
            let mut alike = list();
            let mut looks = 0;
            while let Some(next) = alike.next() {
                looks += 1;
                let range = ByteRange::at(next.start(), 512).expect("small");
                assert!(alike.add(&[Described { range, status: 1 }]));
            }
            assert_eq!(looks, LOOKS_AT_CONTEXT / contexts);
            assert_eq!(
                alike.into_descriptors(),
                [StatusExtent { length: looks as u64 * 512, status: 1 }]
            );
            let (mut apart, most) = (list(), MAX_DESCRIPTORS / contexts);
            let said: Vec<_> = (0..2 * most as u64)
                .map(|at| Described { range: range(at, at + 1), status: at as u32 })
                .collect();
            assert!(apart.add(&said));
            assert_eq!(apart.next(), None);
            assert_eq!(apart.into_descriptors().len(), most);
        }
    }

    #[test]
    fn an_answer_from_elsewhere_brings_nothing_on() {
        let mut list =
            StatusList::new(range(0, 8192), Extents::Many, Replies::Structured, share(1));
        assert!(!list.add(&[]));
        assert!(!list.add(&[Described { range: range(4096, 8192), status: 1 }]));
        assert_eq!(list.next(), Some(range(0, 8192)));
    }

    /// A map of lengths, cut into answers, beside the content of every byte.
    fn maps() -> impl Strategy<Value = (Vec<MappedRange>, Vec<Content>)> {
        let content = prop_oneof![Just(Content::Data), Just(Content::Zero), Just(Content::Hole)];
        prop::collection::vec((1u64..80_000, content), 1..12).prop_map(|stretches| {
            let (mut map, mut contents, mut at) = (Vec::new(), Vec::new(), 0);
            for (length, content) in stretches {
                map.push(mapped(at, at + length, content));
                contents.extend((0..length).map(|_| content));
                at += length;
            }
            (map, contents)
        })
    }

    proptest! {
        #[test]
        fn chunks_tile_and_holes_hold_no_data((map, contents) in maps(), cut in 0usize..12) {
            let whole = ByteRange::up_to(contents.len() as u64);
            let mut at = whole.start();
            for chunk in plan_read(whole, &map[..cut.min(map.len())]) {
                let (Chunk::Data(part) | Chunk::Hole(part)) = chunk;
                prop_assert_eq!(part.start(), at);
                prop_assert!(!part.is_empty());
                at = part.end();
                if let Chunk::Hole(part) = chunk {
                    let bytes = part.start().bytes() as usize..part.end().bytes() as usize;
                    prop_assert!(contents[bytes].iter().all(|byte| *byte != Content::Data));
                }
            }
            prop_assert_eq!(at, whole.end());
        }

        #[test]
        fn descriptors_tell_what_was_said(
            statuses in prop::collection::vec(
                prop_oneof![0u32..3, Just(u32::MAX), any::<u32>()],
                1..40,
            ),
            at_once in 1usize..5,
            extended in any::<bool>(),
        ) {
            let replies = if extended { Replies::Extended } else { Replies::Structured };
            let whole = ByteRange::up_to(statuses.len() as u64 * 512);
            let said: Vec<_> = whole.chunks(512).zip(&statuses)
                .map(|(range, status)| Described { range, status: *status }).collect();
            let mut list = StatusList::new(whole, Extents::Many, replies, share(3));
            for some in said.chunks(at_once) {
                prop_assert!(list.add(some));
            }
            prop_assert_eq!(list.next(), None);
            let descriptors = list.into_descriptors();
            prop_assert!(descriptors.windows(2).all(|pair| pair[0].status != pair[1].status));
            let told = descriptors.iter().flat_map(|one| {
                std::iter::repeat_n(one.status, one.length as usize / 512)
            });
            prop_assert!(told.eq(statuses.iter().copied()));
        }

        #[test]
        fn descriptors_tell_the_content_of_every_byte((map, contents) in maps()) {
            let mut list = Allocation::new(ByteRange::up_to(contents.len() as u64), Extents::Many, Replies::Structured);
            // One mapped range at a time, as a disk that stops early would answer.
            for one in &map {
                list.add(std::slice::from_ref(one));
            }
            prop_assert_eq!(list.0.next(), None);
            let descriptors = list.0.into_descriptors();
            prop_assert!(descriptors.windows(2).all(|pair| pair[0].status != pair[1].status));
            let told = descriptors.iter().flat_map(|one| {
                std::iter::repeat_n(one.status, one.length as usize)
            });
            prop_assert!(told.eq(contents.iter().map(|content| status_of(*content))));
        }
    }
}
