//! What one caller has taken of what a rule lets it have.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::policy::quota::{Bandwidth, Quota};

/// Bytes are counted in cells of so many: the limiter counts whole nanoseconds from one cell to the next, which would be
/// too few for single bytes.
const CELL: u64 = 256;

/// The count of one caller by one rule, over all of its connections.
#[derive(Debug)]
pub struct Meter {
    quota: Quota,
    rate: Option<DefaultDirectRateLimiter>,
    up: Option<Flow>,
    down: Option<Flow>,
    places: Option<Arc<Semaphore>>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// The bytes of one direction.
#[derive(Debug)]
struct Flow {
    cells: DefaultDirectRateLimiter,
    /// The streams of the caller stand in line here, so that all get as much and none overtakes another for ever.
    line: Mutex<()>,
}

impl Meter {
    pub(super) fn new(quota: Quota) -> Meter {
        let flow = || quota.bandwidth.and_then(Flow::new);
        let rate = quota.rate.and_then(|rate| {
            let quota = governor::Quota::with_period(rate.period)?;
            Some(RateLimiter::direct(quota.allow_burst(rate.burst)))
        });
        Meter {
            rate,
            up: flow(),
            down: flow(),
            places: quota
                .max_calls
                .map(|calls| Arc::new(Semaphore::new(calls.get() as usize))),
            quota,
        }
    }

    /// What the caller may take.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Counts a call.
    ///
    /// # Errors
    /// How long to wait for the next one, where there were too many.
    pub fn count(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check()
            .map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// A place for an open call, given back when dropped; `None` where there is no limit. Calls wait in the order in which
    /// they came.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(self.places.as_ref()?).acquire_owned().await.ok()
    }

    /// Waits until so many bytes may go; true when they had to wait.
    pub async fn pass(&self, direction: Direction, bytes: usize) -> bool {
        let flow = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        match flow {
            Some(flow) => flow.pass(bytes).await,
            None => false,
        }
    }
}

impl Flow {
    fn new(bandwidth: Bandwidth) -> Option<Flow> {
        let period = Duration::from_nanos(1_000_000_000 * CELL / bandwidth.per_second.max(1));
        let burst = u32::try_from(bandwidth.burst / CELL).ok().and_then(NonZeroU32::new)?;
        let quota = governor::Quota::with_period(period)?.allow_burst(burst);
        Some(Flow {
            cells: RateLimiter::direct(quota),
            line: Mutex::const_new(()),
        })
    }

    async fn pass(&self, bytes: usize) -> bool {
        let mut left = u32::try_from((bytes as u64).div_ceil(CELL)).unwrap_or(u32::MAX);
        let mut has_waited = false;
        let _turn = match self.line.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                has_waited = true;
                self.line.lock().await
            }
        };
        // More than the burst goes in parts: a frame is never more, but what was held back until the decision may be.
        while let Some(cells) = NonZeroU32::new(left.min(MOST_AT_ONCE)) {
            match self.cells.check_n(cells) {
                Ok(Ok(())) | Err(_) => left -= cells.get(),
                Ok(Err(until)) => {
                    has_waited = true;
                    tokio::time::sleep(until.wait_time_from(DefaultClock::default().now())).await;
                }
            }
        }
        has_waited
    }
}

/// Cells of the smallest burst that there can be.
const MOST_AT_ONCE: u32 = (crate::policy::quota::SMALLEST_BURST / CELL) as u32;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::time::Instant;

    use super::*;
    use crate::policy::quota::Rate;

    fn meter(bandwidth: &str) -> Meter {
        Meter::new(Quota {
            rate: Some(Rate::parse("2/h", None).unwrap()),
            bandwidth: Some(Bandwidth::parse(bandwidth, None).unwrap()),
            max_calls: NonZeroU32::new(1),
        })
    }

    #[test]
    fn calls_beyond_the_rate_are_told_when_to_come_again() {
        let meter = meter("1MiB/s");
        assert_eq!((meter.count(), meter.count()), (Ok(()), Ok(())));
        let wait = meter.count().unwrap_err();
        assert!(
            wait > Duration::from_secs(1700) && wait <= Duration::from_secs(1800),
            "{wait:?}"
        );
    }

    #[tokio::test]
    async fn bytes_take_the_time_that_they_may_and_each_direction_has_its_own() {
        let meter = meter("1MiB/s");
        let begun = Instant::now();
        assert!(!meter.pass(Direction::Up, 1 << 20).await);
        assert!(meter.pass(Direction::Up, 256 << 10).await);
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
        assert!(!meter.pass(Direction::Down, 1 << 20).await);
    }

    #[tokio::test]
    async fn who_stops_waiting_holds_up_nobody() {
        let meter = meter("16KiB/s");
        assert!(!meter.pass(Direction::Up, 64 << 10).await);
        let soon = Duration::from_millis(10);
        let long = tokio::time::timeout(soon, meter.pass(Direction::Up, 64 << 10));
        assert!(long.await.is_err());
        assert!(
            tokio::time::timeout(Duration::from_secs(10), meter.pass(Direction::Up, 256))
                .await
                .unwrap()
        );
        let place = meter.place().await.unwrap();
        assert!(tokio::time::timeout(soon, meter.place()).await.is_err());
        drop(place);
        assert!(meter.place().await.is_some());
    }
}
