//! How many requests are on their way, and how many start each second.
//!
//! The one place to put a controller that finds the gateway's limit: every
//! attempt of every request takes a permit here and reports what came of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The caps on requests, shared by all requests to one gateway.
#[derive(Debug)]
pub(super) struct Pace {
    in_flight: Arc<Semaphore>,
    /// The time between two starts; zero without a cap.
    interval: Duration,
    starts: Mutex<Starts>,
}

#[derive(Debug, Default)]
struct Starts {
    next: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Pace {
    pub(super) fn new(max_in_flight: usize, max_requests_per_second: Option<f64>) -> Pace {
        let interval = max_requests_per_second
            .filter(|rate| *rate > 0.0)
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        Pace {
            in_flight: Arc::new(Semaphore::new(
                max_in_flight.clamp(1, Semaphore::MAX_PERMITS),
            )),
            interval,
            starts: Mutex::default(),
        }
    }

    /// Waits until one more request may start. The permit is held while it is on its way.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so there is always a permit in the end.
        let permit = Arc::clone(&self.in_flight).acquire_owned().await.ok();
        while let Some(pause) = self.pause_end() {
            tokio::time::sleep_until(pause).await;
        }
        if let Some(start) = self.reserve_start() {
            tokio::time::sleep_until(start).await;
        }
        // A pause that began while this request waited for its turn holds it too.
        while let Some(pause) = self.pause_end() {
            tokio::time::sleep_until(pause).await;
        }
        permit
    }

    /// Lets no request start before `delay` is over: a throttled answer slows every worker.
    pub(super) fn pause(&self, delay: Duration) {
        let until = Instant::now() + delay;
        let mut starts = self.starts();
        starts.paused_until = Some(starts.paused_until.map_or(until, |end| end.max(until)));
    }

    fn pause_end(&self) -> Option<Instant> {
        self.starts()
            .paused_until
            .filter(|end| *end > Instant::now())
    }

    fn reserve_start(&self) -> Option<Instant> {
        if self.interval.is_zero() {
            return None;
        }
        let mut starts = self.starts();
        let now = Instant::now();
        let start = starts.next.map_or(now, |next| next.max(now));
        starts.next = Some(start + self.interval);
        Some(start)
    }

    fn starts(&self) -> MutexGuard<'_, Starts> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn starts_are_spread_over_time() {
        let pace = Pace::new(100, Some(10.0));
        let begin = Instant::now();
        for _ in 0..11 {
            drop(pace.permit().await);
        }
        assert_eq!(begin.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_delays_everyone_capped_or_not() {
        for rate in [None, Some(1000.0)] {
            let pace = Pace::new(100, rate);
            let begin = Instant::now();
            pace.pause(Duration::from_secs(3));
            drop(pace.permit().await);
            assert_eq!(begin.elapsed().as_secs(), 3, "{rate:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_cap_are_on_their_way() {
        let pace = Pace::new(2, None);
        let first = pace.permit().await;
        let _second = pace.permit().await;
        let third = tokio::time::timeout(Duration::from_secs(60), pace.permit()).await;
        assert!(third.is_err(), "a third request started");
        drop(first);
        assert!(pace.permit().await.is_some());
    }
}
