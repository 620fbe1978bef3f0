//! A limit on how much of a disk somebody may use: requests a second and bytes a second.
//!
//! ```text
//!   request ─▶ reserve: when it may begin ─▶ sleep until then ─▶ disk
//! ```
//!
//! Each limit is a clock of its own that says when all that was let through would be done at exactly that rate. It may run
//! ahead of time by `BURST`, so that a pause can be made up for, but no further: what is saved up in an hour of silence is
//! not spent in a second. Requests begin in the order in which they came.

use crate::block::{ByteOffset, ByteRange, Geometry};
use crate::disk::{Disk, Durability, IoFuture, MappedRange, ZeroMode};
use crate::image::ImageFile;
use crate::ticket::{Change, Ticket};
use crate::uring::buffer::Buffer;
use crate::uring::sleep;
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What may be used at once after a pause.
const BURST: Duration = Duration::from_millis(200);

/// How much may be used. Nothing said is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Reads, writes, zeroings and discards a second.
    pub requests_per_second: Option<NonZeroU64>,
    /// Bytes read and written a second; what is zeroed or discarded moves none.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl Limits {
    /// Whether there is no limit at all.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// What is shared by all who use a limit together.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    clocks: Mutex<Clocks>,
    /// Nanoseconds that requests were made to wait.
    waited: Arc<AtomicU64>,
}

/// When all that was let through is done, by either limit.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    requests: Instant,
    bytes: Instant,
}

impl Throttle {
    /// Limits that nobody has used yet. What requests have to wait, in nanoseconds, is added to `waited`.
    pub fn new(limits: Limits, waited: Arc<AtomicU64>) -> Self {
        let now = Instant::now();
        Self { limits, clocks: Mutex::new(Clocks { requests: now, bytes: now }), waited }
    }

    /// Lets a request of so many bytes through; how long it has to wait before it begins.
    pub fn reserve(&self, now: Instant, bytes: u64) -> Duration {
        let mut clocks = self.clocks.lock();
        let requests = advance(&mut clocks.requests, now, self.limits.requests_per_second, 1);
        let bytes = advance(&mut clocks.bytes, now, self.limits.bytes_per_second, bytes);
        requests.max(bytes)
    }

    /// Whether all that was let through is done: a new limit would be no other.
    pub fn is_idle(&self, now: Instant) -> bool {
        let clocks = *self.clocks.lock();
        clocks.requests.max(clocks.bytes) <= now.checked_sub(BURST).unwrap_or(now)
    }

    async fn pass(&self, bytes: u64) {
        let wait = self.reserve(Instant::now(), bytes);
        if !wait.is_zero() {
            let nanoseconds = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
            self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
            sleep(wait).await;
        }
    }
}

/// Moves a clock on by what `amount` takes; how long the request has to wait for it.
fn advance(clock: &mut Instant, now: Instant, rate: Option<NonZeroU64>, amount: u64) -> Duration {
    let Some(rate) = rate else { return Duration::ZERO };
    let start = now.checked_sub(BURST).map_or(*clock, |earliest| (*clock).max(earliest));
    let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(rate.get());
    let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
    // A rate of one a second and a request of a petabyte: it waits for as long as clocks go.
    *clock = start.checked_add(takes).unwrap_or(start);
    start.saturating_duration_since(now)
}

/// A disk whose use is limited.
pub struct Throttled {
    disk: Arc<dyn Disk>,
    throttle: Arc<Throttle>,
}

impl Throttled {
    /// `disk`, used no more than `throttle` lets, together with whoever else has it.
    pub fn new(disk: Arc<dyn Disk>, throttle: Arc<Throttle>) -> Self {
        Self { disk, throttle }
    }
}

impl Disk for Throttled {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read(&self, range: ByteRange) -> IoFuture<'_, Buffer> {
        Box::pin(async move {
            self.throttle.pass(range.length()).await;
            self.disk.read(range).await
        })
    }

    fn write(&self, at: ByteOffset, data: Buffer, durability: Durability) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.throttle.pass(data.len() as u64).await;
            self.disk.write(at, data, durability).await
        })
    }

    fn write_zeroes(
        &self,
        range: ByteRange,
        mode: ZeroMode,
        durability: Durability,
    ) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.throttle.pass(0).await;
            self.disk.write_zeroes(range, mode, durability).await
        })
    }

    fn discard(&self, range: ByteRange) -> IoFuture<'_, ()> {
        Box::pin(async move {
            self.throttle.pass(0).await;
            self.disk.discard(range).await
        })
    }

    fn change<'a>(&'a self, change: Change, ticket: &Ticket) -> IoFuture<'a, ()> {
        let ticket = ticket.clone();
        Box::pin(async move {
            self.throttle.pass(change.data_bytes()).await;
            self.disk.change(change, &ticket).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.disk.flush()
    }

    fn map(&self, range: ByteRange) -> IoFuture<'_, Vec<MappedRange>> {
        self.disk.map(range)
    }

    fn resize(&self, size_bytes: u64) -> IoFuture<'_, ()> {
        self.disk.resize(size_bytes)
    }

    fn file(&self) -> Option<&ImageFile> {
        self.disk.file()
    }

    fn version(&self, range: ByteRange) -> Option<u64> {
        self.disk.version(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(requests: u64, bytes: u64) -> Throttle {
        let limits = Limits {
            requests_per_second: NonZeroU64::new(requests),
            bytes_per_second: NonZeroU64::new(bytes),
        };
        Throttle::new(limits, Arc::default())
    }

    /// When the last of `count` requests of `bytes` each begins, all asked for at once.
    fn last(throttle: &Throttle, now: Instant, count: u64, bytes: u64) -> f64 {
        let waits = (0..count).map(|_| throttle.reserve(now, bytes));
        waits.last().expect("some").as_secs_f64()
    }

    #[test]
    fn both_rates_hold_and_the_slower_one_counts() {
        let now = Instant::now() + Duration::from_secs(5);
        // 1001 requests at 100 a second: the last begins 10 s after the first, less what may be used at once.
        assert!((last(&throttle(100, 0), now, 1001, 1 << 20) - 9.8).abs() < 0.001);
        assert!((last(&throttle(0, 1 << 20), now, 11, 1 << 20) - 9.8).abs() < 0.001);
        assert!((last(&throttle(100, 1 << 20), now, 11, 1 << 20) - 9.8).abs() < 0.001);
        assert!((last(&throttle(1, 1 << 30), now, 11, 1 << 20) - 9.8).abs() < 0.001);
        assert_eq!(last(&throttle(0, 0), now, 100_000, 1 << 30), 0.0);
    }

    #[test]
    fn a_pause_is_made_up_for_by_no_more_than_a_burst() {
        let throttle = throttle(100, 0);
        let mut now = Instant::now() + Duration::from_secs(5);
        for _ in 0..3 {
            let at_once = (0..1000).take_while(|_| throttle.reserve(now, 0).is_zero()).count();
            assert_eq!(at_once, 21, "a burst of 20, and the one that is due");
            assert!(!throttle.is_idle(now));
            now += Duration::from_secs(3600);
            assert!(throttle.is_idle(now));
        }
    }
}
