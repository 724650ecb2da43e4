//! Lets requests start when the [`RateController`] says so.
//!
//! Every attempt of every request to the gateway takes a permit here and reports what came of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turnstile, Notify};
use tokio::time::Instant;

use super::rate::{Next, Outcome, PaceNow, RateController, Start};
use crate::run::RequestKind;

/// The pace of all requests to one gateway.
#[derive(Debug)]
pub(crate) struct Pace {
    controller: Mutex<RateController>,
    /// Whoever is first in line holds it, so that requests start one by one, in the order in
    /// which they came, and each by the newest state: after a pause they do not start at once.
    turnstile: Turnstile<()>,
    /// For the first in line: a request ended.
    ended: Notify,
}

/// A request on its way. Dropped without a report, it says nothing about the rate.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    pace: &'a Pace,
    start: Start,
    outcome: Outcome,
}

impl Pace {
    pub(crate) fn new(
        max_requests_per_second: Option<f64>,
        max_in_flight: usize,
        max_pause: Duration,
    ) -> Pace {
        let controller = RateController::new(max_requests_per_second, max_in_flight, max_pause);
        Pace {
            controller: Mutex::new(controller),
            turnstile: Turnstile::default(),
            ended: Notify::new(),
        }
    }

    /// Waits until one more request may start. Nothing is booked before it does, so whoever
    /// gives up while waiting leaves nothing behind.
    pub(crate) async fn permit(&self) -> Permit<'_> {
        let _first_in_line = self.turnstile.lock().await;
        loop {
            let next = self.controller().next(Instant::now());
            match next {
                Next::Start(start) => {
                    return Permit {
                        pace: self,
                        start,
                        outcome: Outcome::Other,
                    };
                }
                Next::NotBefore(time) => tokio::time::sleep_until(time).await,
                // An end between the question and here is remembered.
                Next::AfterAnother => self.ended.notified().await,
            }
        }
    }

    pub(crate) fn now(&self) -> PaceNow {
        self.controller().now()
    }

    fn controller(&self) -> MutexGuard<'_, RateController> {
        self.controller
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The request had a success for an answer.
    pub(crate) fn answered(mut self, kind: RequestKind) {
        self.outcome = Outcome::Answered(kind);
    }

    /// The gateway had too many requests: every worker slows down.
    pub(crate) fn refused(mut self, retry_after: Option<Duration>, quoted_limit: Option<f64>) {
        self.outcome = Outcome::Refused {
            retry_after,
            quoted_limit,
        };
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        self.pace.controller().end(self.start, self.outcome, now);
        self.pace.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: RequestKind = RequestKind::BuildHistory;
    const MAX_PAUSE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn starts_are_spread_evenly_from_the_first_on() {
        let pace = Pace::new(Some(10.0), 100, MAX_PAUSE);
        let begin = Instant::now();
        for turn in 0..11 {
            pace.permit().await.answered(KIND);
            assert_eq!(begin.elapsed().as_millis(), turn * 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_pauses_everyone_and_they_go_on_in_order_and_evenly() {
        let pace = Pace::new(Some(10.0), 100, MAX_PAUSE);
        let begin = Instant::now();
        let refused = pace.permit().await;
        let order = Mutex::new(Vec::new());
        let worker = async |number: u32| {
            let permit = pace.permit().await;
            order.lock().unwrap().push((number, begin.elapsed()));
            permit.answered(KIND);
        };
        let refusing = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            refused.refused(Some(Duration::from_secs(3)), None);
        };
        tokio::join!(worker(1), worker(2), worker(3), refusing);
        let order = order.into_inner().unwrap();
        let numbers: Vec<u32> = order.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        // 3 s from the refusal on, and then at half the refused rate, and a little more each time.
        assert_eq!(order[0].1.as_millis(), 3050);
        let gap = order[1].1 - order[0].1;
        assert!((190..=200).contains(&gap.as_millis()), "{gap:?}");
        let gap = order[2].1 - order[1].1;
        assert!((170..=200).contains(&gap.as_millis()), "{gap:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_cap_are_on_their_way() {
        let pace = Pace::new(None, 2, MAX_PAUSE);
        let first = pace.permit().await;
        let _second = pace.permit().await;
        let third = tokio::time::timeout(Duration::from_secs(60), pace.permit()).await;
        assert!(third.is_err(), "a third request started");
        drop(first);
        pace.permit().await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_no_permit_and_no_turn_behind() {
        let pace = Pace::new(Some(1.0), 1, MAX_PAUSE);
        drop(pace.permit().await);
        // Gives up while first in line, waiting for its turn; and in second place behind it.
        for _ in 0..3 {
            let waiting = async { tokio::join!(pace.permit(), pace.permit()) };
            let given_up = tokio::time::timeout(Duration::from_millis(100), waiting).await;
            assert!(given_up.is_err());
        }
        let begin = Instant::now();
        let permit = pace.permit().await;
        assert_eq!(
            begin.elapsed().as_millis(),
            700,
            "its turn, not a later one"
        );
        assert_eq!(pace.now().in_flight, 1);
        // Given up while on its way.
        drop(permit);
        assert_eq!(pace.now().in_flight, 0);
        pace.permit().await;
    }
}
