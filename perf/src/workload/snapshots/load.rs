//! The load that every contender gets: groups of 4 KiB changes at random places, a flush after each, a point every second.
//!
//! ```text
//!   group   512 changes of 4 KiB, all under way at once ─▶ flush ─▶ acknowledged
//!   point   between two groups, a second after the last one
//! ```

use landfall_disks::{BLOCK_BYTES, BLOCK_SIZE, Block, Buffer, ByteOffset};
use std::time::{Duration, Instant};

/// Changes that are made durable together.
pub(super) const GROUP_CHANGES: u64 = 512;
/// Between two points.
const POINT_EVERY: Duration = Duration::from_secs(1);

/// The changes of one run, in order.
pub(super) struct Load {
    random: blake3::OutputReader,
    blocks: u64,
}

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Done {
    pub(super) changes: u64,
    pub(super) points: u32,
    pub(super) seconds: f64,
}

impl Load {
    /// Of a disk of `size_bytes`. The same for every contender of a round.
    pub(super) fn new(size_bytes: u64, round: u32) -> Self {
        let random = blake3::Hasher::new().update(&round.to_le_bytes()).finalize_xof();
        Self { random, blocks: size_bytes / BLOCK_SIZE }
    }

    /// The next group: no place twice, so that the changes can be made in any order.
    pub(super) fn group(&mut self) -> Vec<(ByteOffset, Buffer)> {
        let stride = self.blocks / GROUP_CHANGES;
        let change = |number: u64| {
            let mut place = [0; 8];
            self.random.fill(&mut place);
            let block = number * stride + u64::from_le_bytes(place) % stride;
            let mut bytes = Buffer::zeroed(BLOCK_BYTES);
            self.random.fill(&mut bytes);
            (Block::new(block).offset(), bytes)
        };
        (0..GROUP_CHANGES).map(change).collect()
    }
}

/// Keeps the time of a run.
pub(super) struct Pace {
    begun: Instant,
    end: Duration,
    next_point: Duration,
    done: Done,
}

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    Group,
    Point(u32),
    End,
}

impl Pace {
    /// Begins a run of `seconds`.
    pub(super) fn begin(seconds: u32) -> Self {
        let end = Duration::from_secs(seconds.into());
        Self { begun: Instant::now(), end, next_point: POINT_EVERY, done: Done::default() }
    }

    /// Points come first: a contender that is slow has as many as a fast one, or falls behind.
    pub(super) fn next(&mut self) -> Next {
        let now = self.begun.elapsed();
        if now >= self.next_point {
            self.next_point += POINT_EVERY;
            self.done.points += 1;
            Next::Point(self.done.points)
        } else if now >= self.end {
            Next::End
        } else {
            self.done.changes += GROUP_CHANGES;
            Next::Group
        }
    }

    /// What was done until now.
    pub(super) fn done(self) -> Done {
        Done { seconds: self.begun.elapsed().as_secs_f64(), ..self.done }
    }
}
