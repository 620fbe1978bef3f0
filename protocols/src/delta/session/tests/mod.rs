//! Both sessions joined in memory: a source with disks, a target that keeps them, and a wire that breaks at any byte.

mod joined;
mod rules;

use super::*;
use crate::delta::HASH_BLOCK_SIZE;
use crate::delta::identity::{
    ContentId, DiskSlot, Generation, Name, Position, StreamId, Timestamp,
};
use crate::delta::pack::{Compression, PackedBatch, PlainContent, pack, unpack};
use crate::delta::refusal::{Refusal, RefusalCode, Retry};
use crate::delta::replicas::{ExtentContent, StreamDisk, StreamHello};
use crate::delta::wire::{
    Ack, BatchFrame, BlockHash, Bye, DiskEntry, DiskState, Features, FrameReader, HashRequest,
    Header, Hello, Mark, MarkKind, Marked, PassBegin, PassKind, RawFrame, StreamMode, Welcome,
    WriteOrder,
};
use landfall_disks::{ByteOffset, ByteRange};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use joined::{DISK_BYTES, Joined, Random, batch, block, block_hash, profile};

/// A source that brings the target's disk up to date by comparing, then marks; over a wire that breaks and a target that
/// now and then no longer vouches for positions.
fn replicate(seed: u64, break_percent: u64, renew_percent: u64) {
    let mut joined = Joined::new(seed);
    let mut source = vec![0; DISK_BYTES];
    let mut stale = joined.random.below(3);
    for _ in 0..3 {
        for _ in 0..joined.random.below(4) {
            let start = joined.random.below(DISK_BYTES / 4096) * 4096;
            let length = (joined.random.below(30_000) + 1).min(DISK_BYTES - start);
            let fill = [0, 7, 9][joined.random.below(3)];
            source[start..start + length].fill(fill);
        }
        pass(&mut joined, &source, break_percent, renew_percent);
        assert_eq!(joined.target.points.last(), Some(&source), "the point is not the source");
        stale = stale.saturating_sub(1);
    }
    let mut seen = joined.target.applied.clone();
    seen.dedup();
    assert_eq!(seen.len(), joined.target.applied.len(), "applied twice");
}

fn pass(joined: &mut Joined, source: &[u8], break_percent: u64, renew_percent: u64) {
    let blocks = u32::try_from(DISK_BYTES.div_ceil(64 * 1024)).expect("small");
    let mut begun = false;
    let mut asked = 0;
    let mut answered = 0;
    let mut to_send: VecDeque<u64> = VecDeque::new();
    let mut marked = false;
    for _ in 0..200_000 {
        if joined.random.next() % 1000 < break_percent * 10 && joined.random.chance(20) {
            joined.cut();
            if joined.random.chance(renew_percent) {
                joined.target.generation += 1;
                joined.target.position = Position::default();
                joined.target.last_mark = None;
            }
        }
        for event in joined.step() {
            match event {
                SessionEvent::Marked(answer) => {
                    let expected = joined.target.points.len() as u64;
                    assert_eq!(answer.map(|marked| marked.sequence), Some(expected));
                    return;
                }
                SessionEvent::Hashes(hashes) => {
                    answered += hashes.request.count;
                    for (index, theirs) in (hashes.request.first..).zip(hashes.blocks) {
                        if theirs != block_hash(block(source, index)) {
                            to_send.push_back(index);
                        }
                    }
                }
                SessionEvent::PositionLost(_) => {
                    (begun, asked, answered, marked) = (false, 0, 0, false);
                    to_send.clear();
                }
                SessionEvent::Refused(_) => joined.cut(),
                _ => {}
            }
        }
        if !joined.client.is_ready() {
            continue;
        }
        if !begun {
            begun = true;
            let bytes_total = DISK_BYTES as u64;
            joined.client.begin_pass(PassBegin { pass: 1, bytes_total, kind: PassKind::Compare });
        }
        if asked < blocks && joined.client.can_request() {
            let count =
                u32::try_from(1 + joined.random.below(3)).expect("small").min(blocks - asked);
            let disk = DiskSlot::new(0);
            joined.client.request_hashes(HashRequest { disk, first: asked.into(), count });
            asked += count;
        } else if let Some(index) = to_send.pop_front() {
            let bytes = block(source, index);
            let start = usize::try_from(index).expect("small") * 64 * 1024;
            let zero = block_hash(bytes) == BlockHash::Zero;
            joined.client.push_batch(batch(start, (!zero).then_some(bytes), bytes.len()));
        } else if answered == blocks && !marked && joined.client.can_mark() {
            joined.client.push_mark(MarkKind::Crash, "", Timestamp::default(), Vec::new());
            marked = true;
        }
    }
    panic!("the pass did not end");
}

proptest! {
    // A smaller seed is no simpler stream, so nothing is gained by shrinking.
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn an_unbroken_stream_arrives(seed: u64) {
        replicate(seed, 0, 0);
    }

    #[test]
    fn a_breaking_stream_arrives_once_and_in_order(seed: u64) {
        replicate(seed, 4, 0);
    }

    #[test]
    fn a_target_that_forgets_positions_is_compared(seed: u64) {
        replicate(seed, 3, 30);
    }

    #[test]
    fn no_frames_make_the_server_panic(seed: u64, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut random = Random(seed);
        let (mut session, _) = rules::streaming();
        for _ in 0..4 {
            let kind = crate::delta::wire::FrameKind::ALL[random.below(13)];
            let body = bytes[..random.below(bytes.len() + 1)].to_vec();
            let header = Header { kind, version: 1, length: body.len() };
            if let Ok(Some(Request::Hashes(request))) = session.handle_frame(RawFrame { header, body }) {
                session.hashes(request, vec![BlockHash::Zero; request.count as usize]);
            }
            while session.poll_transmit().is_some() {}
        }
    }
}
