//! Submission and completion of one ring, and the operations in flight on it.
//!
//! ```text
//!   start ──▶ Waiting ──completion──▶ Done ──take──▶ (gone)
//!                │                      │
//!              orphan (cancel asked)  orphan ──▶ (gone)
//!                ▼
//!             Orphaned ──completion──▶ (gone: buffer and descriptor are released here, not earlier)
//! ```
//!
//! Entries gather, and one system call at the end of a turn takes them all, but for transfers of files: what a device could do
//! meanwhile it does at once. When the submission queue is full, what does not fit waits in order in a backlog.
//!
//! **Invariant:** memory and descriptor a kernel operation refers to live in its `Flight` until its completion is seen.

use super::descriptor::Descriptor;
use super::op::Held;
use io_uring::{IoUring, opcode, squeue, types};
use slab::Slab;
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::task::Waker;
use std::time::Duration;

/// Names one operation of one ring. Places are reused, so a count tells the users of a place apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    place: u32,
    count: u32,
}

/// `user_data` of cancel requests, whose own completions tell nothing. No `Key` encodes to it: places stay below 2^32-1.
const CANCEL: u64 = u64::MAX;

impl Key {
    fn encode(self) -> u64 {
        u64::from(self.count) << 32 | u64::from(self.place)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    fn decode(data: u64) -> Self {
        Self { place: data as u32, count: (data >> 32) as u32 }
    }

    fn index(self) -> usize {
        self.place as usize
    }
}

enum Stage {
    Waiting(Option<Waker>),
    Done(i32),
    Orphaned,
}

/// An operation in flight, and what lives as long as it.
pub(super) struct Flight {
    count: u32,
    stage: Stage,
    held: Held,
    /// Keeps the number valid until the completion.
    _descriptor: Descriptor,
    /// Dropped with the completion of an abandoned operation: tells who waits for it.
    kept: Option<Token>,
}

/// Something whose drop says that an operation is over.
pub(super) type Token = Box<dyn Any + Send>;

/// Most entries that wait for others before the end of a turn, if a device is to have them.
const MOST_GATHERED: usize = 4;

/// Completions a turn takes up if there are more: these, or a quarter of them. What they cause, such as replies, is then on its way
/// while the rest is worked on. A client that gets all its replies at once asks for the next all at once: then client, core and
/// device take turns, which costs a fifth of the rate (iSCSI, 4 KiB, 32 under way).
const LEAST_REAPED: usize = 8;

/// Whether a turn may sleep.
pub(super) enum Wait {
    /// Hand over what there is and come back.
    No,
    /// Until a completion arrives.
    Forever,
    /// Until a completion arrives, at most this long.
    AtMost(Duration),
}

/// One io_uring with its operations in flight.
pub(super) struct Ring {
    io: IoUring,
    flights: Slab<Flight>,
    /// Flights whose completion has not been seen.
    in_kernel: usize,
    backlog: VecDeque<squeue::Entry>,
    count: u32,
    /// Entries that are handed over together, as things are in this turn.
    gather: usize,
}

impl Ring {
    pub(super) fn new(io: IoUring) -> Self {
        Self {
            io,
            flights: Slab::new(),
            in_kernel: 0,
            backlog: VecDeque::new(),
            count: 0,
            gather: 1,
        }
    }

    /// Queues the operation that `entry` makes of its descriptor and of what it holds.
    ///
    /// # Safety
    /// The entry may refer to memory only through pointers into what `held` owns on the heap, so that moving `held` does
    /// not move it and keeping `held` keeps it.
    pub(super) unsafe fn start(
        &mut self,
        descriptor: Descriptor,
        mut held: Held,
        entry: impl FnOnce(types::Fd, &mut Held) -> squeue::Entry,
    ) -> Key {
        self.count = self.count.wrapping_add(1);
        let place = self.flights.vacant_key();
        let place = u32::try_from(place).expect("fewer than 2^32 operations are in flight");
        let key = Key { place, count: self.count };
        let entry = entry(descriptor.for_ring(), &mut held).user_data(key.encode());
        let stage = Stage::Waiting(None);
        let flight = Flight { count: self.count, stage, held, _descriptor: descriptor, kept: None };
        self.flights.insert(flight);
        self.in_kernel += 1;
        self.push(entry);
        key
    }

    /// Hands over what is queued, before the end of the turn: the first of a turn at once, later ones in groups. A device that
    /// gets the transfers of a whole turn together stands still until then: for 4 KiB, 32 under way, that costs a quarter of
    /// the rate.
    pub(super) fn hand_over(&mut self) {
        if self.io.submission().len() < self.gather {
            return;
        }
        self.gather = (self.gather * 2).min(MOST_GATHERED);
        // What the kernel does not take now goes with the end of the turn, which also acts on errors.
        let _ = self.submit(&Wait::No);
    }

    /// The result and what the operation held, once it has completed; else `waker` is called when it has.
    pub(super) fn take(&mut self, key: Key, waker: &Waker) -> Option<(i32, Held)> {
        let flight = self.flights.get_mut(key.index()).expect("an operation is taken once");
        assert_eq!(flight.count, key.count, "an operation is taken once");
        match &mut flight.stage {
            Stage::Done(result) => {
                let result = *result;
                Some((result, self.flights.remove(key.index()).held))
            }
            Stage::Waiting(previous) => {
                match previous {
                    Some(previous) => previous.clone_from(waker),
                    None => *previous = Some(waker.clone()),
                }
                None
            }
            Stage::Orphaned => unreachable!("an orphaned operation has no future to poll it"),
        }
    }

    /// Gives up an operation whose future is dropped: asks for its cancellation, keeps what it holds, and `token`, until
    /// it completes. What is released now is given back, to be dropped where no ring is borrowed.
    pub(super) fn orphan(&mut self, key: Key, token: Option<Token>) -> Option<Flight> {
        let flight = self.flights.get_mut(key.index())?;
        if flight.count != key.count {
            return None;
        }
        flight.kept = token;
        match flight.stage {
            Stage::Done(_) => Some(self.flights.remove(key.index())),
            Stage::Orphaned => None,
            Stage::Waiting(_) => {
                flight.stage = Stage::Orphaned;
                self.cancel(key);
                None
            }
        }
    }

    fn cancel(&mut self, key: Key) {
        self.push(opcode::AsyncCancel::new(key.encode()).build().user_data(CANCEL));
    }

    /// Appends to the submission queue, in order.
    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        // A full queue is handed over; what the kernel does not take now goes with the next turn.
        if self.submit(&Wait::No).is_ok() {
            self.refill();
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: `start` demands that what the entry refers to lives in its flight, which stays until the completion;
        // a cancel request refers to no memory.
        unsafe { self.io.submission().push(entry) }.is_ok()
    }

    fn refill(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Hands over everything queued, waits if allowed, and collects the wakers of what has completed.
    pub(super) fn turn(&mut self, wait: &Wait, woken: &mut Vec<Waker>, freed: &mut Vec<Flight>) {
        self.refill();
        self.gather = 1;
        // Completions that are there already make waiting wrong, not merely slow: their tasks may be all there is.
        let wait = if self.io.completion().is_empty() { wait } else { &Wait::No };
        if let Err(error) = self.submit(wait) {
            match error.raw_os_error() {
                // A signal, or the end of the time: nothing is lost, the next turn goes on.
                Some(libc::EINTR | libc::ETIME) => {}
                // The completion queue is full: reaping below makes room.
                Some(libc::EBUSY) => {}
                // No memory for requests: entries stay queued. Not in a tight loop, memory has to come from somewhere.
                Some(libc::EAGAIN | libc::ENOMEM) => {
                    if self.io.completion().is_empty() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                _ => panic!("io_uring_enter failed in a way that only a bug explains: {error}"),
            }
        }
        self.reap(woken, freed);
    }

    fn submit(&mut self, wait: &Wait) -> io::Result<usize> {
        let idle = {
            let queue = self.io.submission();
            queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
        };
        match wait {
            Wait::No if idle => Ok(0),
            Wait::No => self.io.submit(),
            // Entries that did not fit may be what would complete: never sleep on them.
            _ if !self.backlog.is_empty() => self.io.submit(),
            Wait::Forever => self.io.submit_and_wait(1),
            Wait::AtMost(duration) => {
                let time = types::Timespec::from(*duration);
                let arguments = types::SubmitArgs::new().timespec(&time);
                self.io.submitter().submit_with_args(1, &arguments)
            }
        }
    }

    fn reap(&mut self, woken: &mut Vec<Waker>, freed: &mut Vec<Flight>) {
        let completions = self.io.completion();
        let most = (completions.len() / 4).max(LEAST_REAPED);
        for completion in completions.take(most) {
            if completion.user_data() == CANCEL {
                continue;
            }
            let key = Key::decode(completion.user_data());
            let flight = self.flights.get_mut(key.index()).expect("a flight waits for this");
            assert_eq!(flight.count, key.count, "a completion belongs to the flight in its place");
            self.in_kernel -= 1;
            match std::mem::replace(&mut flight.stage, Stage::Done(completion.result())) {
                Stage::Waiting(waker) => woken.extend(waker),
                Stage::Orphaned => freed.push(self.flights.remove(key.index())),
                Stage::Done(_) => unreachable!("an operation completes once"),
            }
        }
    }

    /// Asks for the cancellation of every operation; nobody awaits them any more.
    pub(super) fn orphan_all(&mut self, freed: &mut Vec<Flight>) {
        let keys: Vec<Key> = self
            .flights
            .iter()
            .filter(|(_, flight)| !matches!(flight.stage, Stage::Orphaned))
            .map(|(place, flight)| Key {
                place: u32::try_from(place).expect("a place is below 2^32"),
                count: flight.count,
            })
            .collect();
        freed.extend(keys.into_iter().filter_map(|key| self.orphan(key, None)));
    }

    /// Operations whose completion has not been seen.
    pub(super) fn in_kernel(&self) -> usize {
        self.in_kernel
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_kernel > 0 {
            // Only an unwinding core gets here. Going on would free memory that the kernel still writes to.
            tracing::error!(operations = self.in_kernel, "a ring died with operations in flight");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uring::probe;
    use std::fs::File;

    #[test]
    fn many_completions_are_taken_up_in_several_turns() {
        let mut ring = Ring::new(probe::open_ring(128).expect("a ring"));
        let file = Descriptor::new(File::open("/dev/null").expect("it is there").into());
        let start = |ring: &mut Ring| {
            // SAFETY: the entry refers to no memory.
            unsafe { ring.start(file.clone(), Held::Nothing, |_, _| opcode::Nop::new().build()) }
        };
        let keys: Vec<Key> = (0..100).map(|_| start(&mut ring)).collect();
        for key in &keys {
            assert!(ring.take(*key, Waker::noop()).is_none(), "nothing was handed over");
        }
        let mut each = Vec::new();
        while ring.in_kernel() > 0 {
            let (mut woken, mut freed) = (Vec::new(), Vec::new());
            ring.turn(&Wait::Forever, &mut woken, &mut freed);
            each.push(woken.len());
        }
        assert_eq!(each, [25, 18, 14, 10, 8, 8, 8, 8, 1]);
        for key in keys {
            assert!(ring.take(key, Waker::noop()).is_some_and(|(result, _)| result == 0));
        }
    }
}
