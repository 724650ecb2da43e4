//! Decides how many requests start per second, and lets them start.
//!
//! Every attempt of every request to the gateway takes a permit here and reports its outcome.
//!
//! # The rate
//!
//! 1. The rate starts at 20 per second and doubles every second until the first refusal or the
//!    cap. (Without a cap it rises by half with each round trip: when a request is answered that
//!    started after the last rise and that the rate had delayed.)
//! 2. A refusal pauses all requests for 0.3 s, or for the time in `Retry-After`. After that the rate
//!    is 85 % of the requests answered per second in the last two seconds, but at least half of the
//!    previous rate. (Without a cap the first refusal lowers it further, to no less than 20 per second.)
//! 3. From there it rises by 2 % per second; after ten seconds without a refusal, by 10 %.
//!
//! A quoted limit replaces the second step: the rate is 97 % of it for two minutes, and rises by
//! the third step after that. If the first request after a pause is refused, the gateway currently
//! refuses everything, independent of the rate: the rate stays, and the pause doubles.
//!
//! Slow answers never lower the rate; the maximum number of concurrent requests limits the load. A
//! rate that is not used does not rise, because it rises with each start that it delayed; and it
//! never falls by more than half, even if there was little to send.
//!
//! # Waiting
//!
//! A turn is never assigned to a waiting future: if its owner did not poll it, no other request
//! could start. Instead, each waiter starts by itself when it is polled and its turn has come,
//! which it computes from its place in the queue. An unpolled waiter delays the others by
//!
//! - one turn, once: the next one starts an interval later and removes all before it from the
//!   queue (they get their old places back as soon as they are polled);
//! - up to [`RECHECK`], once: if the maximum number of requests is in flight, the end of one wakes
//!   one waiter; while that one is not polled, the others only notice when they check again.
//!
//! A waiter that finds the maximum in flight keeps its place: when a request ends, the first in the
//! queue has the turn, and those that come later wait for one.
//!
//! A permit that was given counts as in flight until it is dropped, polled or not.

use std::collections::VecDeque;
use std::f64::consts::LN_2;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

const INITIAL_RATE: f64 = 20.0;
/// One request per minute is enough to notice that a limit was raised.
const MIN_RATE: f64 = 1.0 / 60.0;
/// More requests than one process can send. Keeps the arithmetic finite if there is no cap.
const MAX_RATE: f64 = 100_000.0;

/// What a start adds to the rate. If the rate is fully used, this is the growth per second, as a share.
const GROWTH: f64 = 0.02;
const GROWTH_WHEN_CALM: f64 = 0.1;
const CALM_AFTER: Duration = Duration::from_secs(10);

/// Growth per round trip at the start, without a cap.
const RISE_PER_ROUND_TRIP: f64 = 1.5;
/// Shorter round trips count as this long: otherwise too many requests are refused until the limit
/// is found.
const LEAST_ROUND_TRIP: Duration = Duration::from_millis(20);

const PAUSE: Duration = Duration::from_millis(300);
const SHARE_OF_ANSWERED: f64 = 0.85;
const ANSWERS_COUNT_FOR: Duration = Duration::from_secs(2);
const SHARE_OF_QUOTED: f64 = 0.97;
const QUOTE_HOLDS: Duration = Duration::from_secs(120);

/// Up to this much of a missed turn's delay is made up, because timers are late on a busy machine and
/// in a container with little CPU time.
const CATCH_UP: Duration = Duration::from_millis(50);
/// How long a waiter relies on its last view of the queue.
const RECHECK: Duration = Duration::from_secs(1);

/// The pace of all requests to one gateway.
#[derive(Debug)]
pub(crate) struct Pace {
    max_rate: f64,
    /// Seconds in which the rate doubles at the start; `None` if it rises with each round trip.
    doubling: Option<f64>,
    max_in_flight: usize,
    max_pause: Duration,
    state: Mutex<State>,
    last_ticket: AtomicU64,
    ended: Notify,
    risen: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Starts per second.
    rate: f64,
    /// When the next request may start; `None` before the first.
    not_before: Option<Instant>,
    in_flight: usize,
    /// The tickets of the waiters, in ascending order.
    queue: VecDeque<(u8, u64)>,
    /// When the answers of the last two seconds arrived.
    answers: VecDeque<Instant>,
    starts: u64,
    starts_before_rise: u64,
    risen_at: Option<Instant>,
    starts_before_pause: u64,
    paused_at: Option<Instant>,
    pauses: u64,
    /// Consecutive pauses between which no request was accepted.
    blocked_pauses: u32,
    /// A quoted limit, and until when it is used.
    quoted: Option<(f64, Instant)>,
}

/// A request in flight. Dropped without a report, it does not influence the rate.
pub(crate) struct Permit<'a> {
    pace: &'a Pace,
    /// A class (0 starts before 1) and a number.
    ticket: (u8, u64),
    /// Its number among the started requests; `None` while it waits.
    start: Option<u64>,
    /// Whether its turn came while the maximum was in flight. If so, it is not the rate that delays it.
    waits_for_end: bool,
    /// Whether the rate delayed it.
    is_delayed: bool,
}

/// A snapshot of the pace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceNow {
    /// Requests that may start per second.
    pub requests_per_second: f64,
    /// The limit that the gateway quoted, in requests per second, while it is used.
    pub quoted_limit: Option<f64>,
    /// Requests that have started and not ended.
    pub in_flight: usize,
    /// How often all requests were paused because one was refused.
    pub pauses: u64,
    /// No request starts before this time, if it is in the future.
    pub not_before: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(
        max_requests_per_second: Option<f64>,
        max_in_flight: usize,
        max_pause: Duration,
    ) -> Pace {
        let max_rate = max_requests_per_second.unwrap_or(MAX_RATE);
        Pace {
            max_rate: max_rate.clamp(MIN_RATE, MAX_RATE),
            doubling: max_requests_per_second.map(|_| 1.0),
            max_in_flight: max_in_flight.max(1),
            max_pause,
            state: Mutex::new(State {
                rate: max_rate.clamp(MIN_RATE, INITIAL_RATE),
                ..State::default()
            }),
            last_ticket: AtomicU64::new(0),
            ended: Notify::new(),
            risen: Notify::new(),
        }
    }

    /// Waits until one more request may start. Requests start in the order of their calls. Dropping
    /// the future has no side effects.
    pub(crate) async fn permit(&self) -> Permit<'_> {
        self.wait(1).await
    }

    /// A permit with priority over all that wait for a [`Pace::permit`]: for list pages. There are few
    /// of them, and each leads to up to a hundred other requests.
    pub(crate) async fn permit_first(&self) -> Permit<'_> {
        self.wait(0).await
    }

    pub(crate) fn now(&self) -> PaceNow {
        let (state, now) = (self.state(), Instant::now());
        PaceNow {
            requests_per_second: state.rate,
            quoted_limit: state.quoted.map(|(limit, _)| limit),
            in_flight: state.in_flight,
            pauses: state.pauses,
            not_before: state.not_before.filter(|time| *time > now),
        }
    }

    async fn wait(&self, class: u8) -> Permit<'_> {
        let mut permit = Permit {
            pace: self,
            ticket: (class, self.last_ticket.fetch_add(1, Ordering::Relaxed)),
            start: None,
            waits_for_end: false,
            is_delayed: false,
        };
        loop {
            let mut risen = pin!(self.risen.notified());
            risen.as_mut().enable();
            match permit.start(Instant::now()) {
                Ok(()) => return permit,
                Err(Some(time)) => drop(timeout_at(time, risen).await),
                // `Notify` stores a notification that was sent since the check.
                Err(None) => drop(timeout(RECHECK, self.ended.notified()).await),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ceiling(&self, state: &State) -> f64 {
        let quoted = state.quoted.map_or(f64::INFINITY, |(limit, _)| limit);
        (SHARE_OF_QUOTED * quoted).clamp(MIN_RATE, self.max_rate)
    }
}

impl Permit<'_> {
    /// Returns an error if the request must wait: the time of the next attempt, or `None` to wait for
    /// the end of another request.
    fn start(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        let mut state = self.pace.state();
        let place = state.queue.binary_search(&self.ticket);
        self.is_delayed = place.is_ok() && !self.waits_for_end;
        let place = place.unwrap_or_else(|place| {
            state.queue.insert(place, self.ticket);
            place
        });
        let not_before = state.not_before.unwrap_or(now);
        let turn = not_before + Duration::from_secs_f64(place as f64 / state.rate);
        if now < turn {
            // The time of its turn if the rate doubles from now on, as at the start.
            let wait = self.pace.doubling.map_or(turn - now, |doubling| {
                let doublings = (1.0 + LN_2 * (turn - now).as_secs_f64() / doubling).log2();
                Duration::from_secs_f64(doublings * doubling)
            });
            let wait = wait.min(RECHECK);
            return Err(Some(not_before.max(now + wait)));
        }
        if state.in_flight >= self.pace.max_in_flight {
            self.waits_for_end = true;
            return Err(None);
        }
        state.queue.drain(..=place);
        state.in_flight += 1;
        state.starts += 1;
        self.start = Some(state.starts);
        state.quoted = state.quoted.filter(|(_, until)| now < *until);
        if self.is_delayed {
            let growth = match state.paused_at {
                None => self.pace.doubling.map_or(0.0, |doubling| LN_2 / doubling),
                Some(at) if now < at + CALM_AFTER => GROWTH,
                Some(_) => GROWTH_WHEN_CALM,
            };
            state.rate = (state.rate + growth).min(self.pace.ceiling(&state));
        }
        let late = (now - not_before).saturating_sub(CATCH_UP * u32::from(self.is_delayed));
        state.not_before = Some(not_before + late + Duration::from_secs_f64(1.0 / state.rate));
        Ok(())
    }

    /// The gateway forwarded the request, whatever the service answered.
    pub(crate) fn answered(self) {
        let (mut state, now) = (self.pace.state(), Instant::now());
        state.answers.push_back(now);
        let old = state
            .answers
            .partition_point(|at| now - *at > ANSWERS_COUNT_FOR);
        state.answers.drain(..old);
        let is_round_trip = self.start > Some(state.starts_before_rise)
            && state.risen_at.is_none_or(|at| now >= at + LEAST_ROUND_TRIP);
        if self.pace.doubling.is_none() && state.pauses == 0 && self.is_delayed && is_round_trip {
            state.rate = (RISE_PER_ROUND_TRIP * state.rate).min(self.pace.ceiling(&state));
            let next = now + Duration::from_secs_f64(1.0 / state.rate);
            state.not_before = state.not_before.map(|time| time.min(next));
            state.starts_before_rise = state.starts;
            state.risen_at = Some(now);
            self.pace.risen.notify_waiters();
        }
    }

    /// The gateway refused the request because of its rate limit: all requests slow down.
    pub(crate) fn refused(self, retry_after: Option<Duration>, quoted_limit: Option<f64>) {
        let (mut state, now) = (self.pace.state(), Instant::now());
        let quoted = quoted_limit.map(|limit| (limit, now + QUOTE_HOLDS));
        state.quoted = quoted.or(state.quoted);
        let ceiling = self.pace.ceiling(&state);
        let mut pause = retry_after.unwrap_or_default();
        // Refusals of requests that started before the last pause do not cause another one.
        if self.start > Some(state.starts_before_pause) {
            let is_blocked = state.pauses > 0 && self.start == Some(state.starts_before_pause + 1);
            state.blocked_pauses = (state.blocked_pauses + 1) * u32::from(is_blocked);
            if !is_blocked && state.rate <= ceiling {
                // A period shorter than a pause is too short for an estimate.
                let elapsed = state.answers.front().map_or(PAUSE, |first| now - *first);
                let answered = state.answers.len() as f64 / elapsed.max(PAUSE).as_secs_f64();
                let lower = SHARE_OF_ANSWERED * answered.min(state.rate);
                // Round trips can be so short that the rate rises far beyond the limit.
                let least = match (state.pauses, self.pace.doubling) {
                    (0, None) => INITIAL_RATE.min(state.rate / 2.0),
                    _ => state.rate / 2.0,
                };
                state.rate = lower.max(least).max(MIN_RATE);
            }
            pause = pause.max(PAUSE * 2_u32.saturating_pow(state.blocked_pauses));
            state.starts_before_pause = state.starts;
            state.paused_at = Some(now);
            state.pauses += 1;
        }
        state.rate = state.rate.min(ceiling);
        state.not_before = state
            .not_before
            .max(Some(now + pause.min(self.pace.max_pause)));
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.pace.state();
        match self.start {
            Some(_) => {
                if !state.queue.is_empty() && state.in_flight == self.pace.max_in_flight {
                    // The first waiter has the turn, not a request that arrives later.
                    state.not_before = state.not_before.max(Some(Instant::now()));
                }
                state.in_flight -= 1;
            }
            None => state.queue.retain(|ticket| *ticket != self.ticket),
        }
        // Also if it was waiting: it may have consumed the notification of an ended request.
        self.pace.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::f64::consts::TAU;

    use futures_util::{FutureExt, StreamExt, stream};

    use super::*;

    const MAX_PAUSE: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(40);

    /// The latency of a request that starts in this second.
    type Latency = dyn Fn(f64, &mut fastrand::Rng) -> Duration;

    /// How a gateway treats requests. Times are in seconds since the start.
    struct Gateway {
        /// Requests per second. The token bucket holds those of `burst_seconds`.
        limit: fn(f64) -> f64,
        burst_seconds: f64,
        retry_after: Option<Duration>,
        quotes_limit: bool,
        latency: Box<Latency>,
    }

    impl Gateway {
        /// A gateway that never refuses.
        fn answering_after(
            latency: impl Fn(f64, &mut fastrand::Rng) -> Duration + 'static,
        ) -> Gateway {
            Gateway {
                latency: Box::new(latency),
                ..Gateway::limited_to(|_| f64::INFINITY)
            }
        }

        /// A gateway that answers after 40 ms, and refuses after 5 ms.
        fn limited_to(limit: fn(f64) -> f64) -> Gateway {
            Gateway {
                limit,
                burst_seconds: 1.0,
                retry_after: None,
                quotes_limit: false,
                latency: Box::new(|_, _| SHORT),
            }
        }
    }

    #[derive(Default, Debug, Clone, Copy)]
    struct Tally {
        let_through: u64,
        refused: u64,
        peak_in_flight: usize,
    }

    impl Tally {
        fn refused_share(self) -> f64 {
            self.refused as f64 / (self.refused + self.let_through) as f64
        }
    }

    /// Clients that always have something to send, and a gateway.
    struct Simulation {
        clients: usize,
        pace: Pace,
        gateway: Gateway,
        begin: Instant,
        random: RefCell<fastrand::Rng>,
        tokens: Cell<f64>,
        filled_at: Cell<f64>,
        tally: Cell<Tally>,
    }

    impl Simulation {
        fn new(max_rate: f64, gateway: Gateway) -> Simulation {
            Simulation {
                // More than the maximum in flight.
                clients: 300,
                pace: Pace::new(Some(max_rate), 256, MAX_PAUSE),
                begin: Instant::now(),
                random: RefCell::new(fastrand::Rng::with_seed(1)),
                tokens: Cell::new((gateway.limit)(0.0) * gateway.burst_seconds),
                filled_at: Cell::new(0.0),
                tally: Cell::default(),
                gateway,
            }
        }

        fn seconds(&self) -> f64 {
            self.begin.elapsed().as_secs_f64()
        }

        /// Lets the clients send requests until this second, and counts them.
        async fn run_until(&self, second: u64) -> Tally {
            self.tally.take();
            let end = self.begin + Duration::from_secs(second);
            let clients = stream::repeat(()).for_each_concurrent(self.clients, |()| self.request());
            let _ = tokio::time::timeout_at(end, clients).await;
            self.tally.get()
        }

        async fn request(&self) {
            let permit = self.pace.permit().await;
            let mut tally = self.tally.get();
            tally.peak_in_flight = tally.peak_in_flight.max(self.pace.now().in_flight);
            let is_let_through = self.takes_token();
            if is_let_through {
                tally.let_through += 1;
            } else {
                tally.refused += 1;
            }
            self.tally.set(tally);
            let gateway = &self.gateway;
            if is_let_through {
                let latency = (gateway.latency)(self.seconds(), &mut self.random.borrow_mut());
                tokio::time::sleep(latency).await;
                permit.answered();
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let quoted = gateway
                    .quotes_limit
                    .then(|| (gateway.limit)(self.seconds()));
                permit.refused(gateway.retry_after, quoted);
            }
        }

        fn takes_token(&self) -> bool {
            let now = self.seconds();
            let limit = (self.gateway.limit)(now);
            if limit.is_infinite() {
                return true;
            }
            let refilled = self.tokens.get() + (now - self.filled_at.replace(now)) * limit;
            self.tokens
                .set(refilled.min(limit * self.gateway.burst_seconds));
            let has_token = self.tokens.get() >= 1.0;
            if has_token {
                self.tokens.set(self.tokens.get() - 1.0);
            }
            has_token
        }
    }

    /// Checks the share of the `possible` requests per second that a client with a cap of 200 sends to
    /// a gateway that refuses none, in a minute that begins after ten seconds.
    async fn check_share(
        possible: f64,
        at_least: f64,
        latency: impl Fn(f64, &mut fastrand::Rng) -> Duration + 'static,
    ) -> Tally {
        let simulation = Simulation::new(200.0, Gateway::answering_after(latency));
        simulation.run_until(10).await;
        let tally = simulation.run_until(70).await;
        let share = tally.let_through as f64 / 60.0 / possible;
        assert!(share >= at_least, "{share:.3} {tally:?}");
        tally
    }

    #[tokio::test(start_paused = true)]
    async fn an_even_latency_lets_the_cap_be_used_in_full() {
        let tally = check_share(200.0, 0.99, |_, _| SHORT).await;
        assert!(tally.peak_in_flight <= 10, "{tally:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_does_not_lower_the_rate() {
        // Lognormal: a median of 40 ms, and one in a hundred above 400 ms.
        check_share(200.0, 0.99, |_, random| {
            let normal = (-2.0 * random.f64().max(1e-9).ln()).sqrt() * (TAU * random.f64()).cos();
            SHORT.mul_f64(normal.exp())
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_tail_does_not_lower_the_rate() {
        check_share(200.0, 0.99, |_, random| match random.u32(0..10) {
            0 => Duration::from_secs(3),
            _ => SHORT,
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_bounded_by_the_number_of_requests_in_flight_and_costs_nothing_after_it() {
        // No answers in three of eighteen seconds, during which 256 requests are sent.
        let possible = (15.0 * 200.0 + 256.0) / 18.0;
        let tally = check_share(possible, 0.97, |second, _| {
            let stalled = (second % 18.0 - 15.0).max(0.0);
            SHORT + Duration::from_secs_f64(if stalled > 0.0 { 3.0 - stalled } else { 0.0 })
        })
        .await;
        assert_eq!(tally.peak_in_flight, 256);
    }

    #[tokio::test(start_paused = true)]
    async fn a_serial_worker_is_kept_busy_by_a_bounded_queue() {
        let busy_until = Cell::new(0.0_f64);
        let tally = check_share(100.0, 0.99, move |second, _| {
            busy_until.set(busy_until.get().max(second) + 0.01);
            Duration::from_secs_f64(busy_until.get() - second)
        })
        .await;
        assert_eq!(tally.peak_in_flight, 256);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_varies_is_followed() {
        let limit = |second: f64| 100.0 + 60.0 * (second / 11.0).sin() * (second / 29.0).cos();
        let simulation = Simulation::new(200.0, Gateway::limited_to(limit));
        simulation.run_until(10).await;
        let tally = simulation.run_until(310).await;
        let permitted: f64 = (10..310).map(|second| limit(f64::from(second) + 0.5)).sum();
        let share = tally.let_through as f64 / permitted;
        assert!(share >= 0.95, "{share:.3} {tally:?}");
        assert!(tally.refused_share() <= 0.005, "{tally:?}");
    }

    /// 30 s to find a limit, and 40 s at it.
    async fn check_that_the_limit_is_used(gateway: Gateway) {
        let limit = (gateway.limit)(0.0);
        let mut simulation = Simulation::new(1_000.0, gateway);
        // Without a cap, it overshoots most.
        simulation.pace = Pace::new(None, 1024, MAX_PAUSE);
        let found = simulation.run_until(30).await;
        let used = simulation.run_until(70).await;
        let share = used.let_through as f64 / 40.0 / limit;
        let Gateway {
            burst_seconds,
            retry_after,
            quotes_limit,
            ..
        } = simulation.gateway;
        let what = format!(
            "{limit}/s, burst {burst_seconds} s, {retry_after:?}, {quotes_limit}: {found:?} {used:?}"
        );
        assert!(share >= 0.92, "{share:.3} {what}");
        assert!(found.refused_share() <= 0.015, "{what}");
        assert!(used.refused_share() <= 0.01, "{what}");
    }

    async fn check_that_the_limit_is_used_at_each_latency(limit: fn(f64) -> f64) {
        let gateway = |latency| Gateway {
            latency: Box::new(move |_, _| Duration::from_millis(latency)),
            ..Gateway::limited_to(limit)
        };
        for latency in [5, 50, 500] {
            check_that_the_limit_is_used(gateway(latency)).await;
        }
        check_that_the_limit_is_used(Gateway {
            retry_after: Some(Duration::from_secs(1)),
            ..gateway(50)
        })
        .await;
        check_that_the_limit_is_used(Gateway {
            quotes_limit: true,
            ..gateway(50)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_20_is_found_and_used() {
        check_that_the_limit_is_used_at_each_latency(|_| 20.0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_100_is_found_and_used() {
        check_that_the_limit_is_used_at_each_latency(|_| 100.0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_of_400_is_found_and_used() {
        check_that_the_limit_is_used_at_each_latency(|_| 400.0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_falls_or_rises_is_found_within_forty_seconds() {
        let limits: [fn(f64) -> f64; 2] = [
            |second| if second < 45.0 { 100.0 } else { 25.0 },
            |second| if second < 45.0 { 25.0 } else { 100.0 },
        ];
        for limit in limits {
            let simulation = Simulation::new(200.0, Gateway::limited_to(limit));
            simulation.run_until(85).await;
            let tally = simulation.run_until(115).await;
            let share = tally.let_through as f64 / 30.0 / limit(100.0);
            assert!(share >= 0.95, "{share:.3} {tally:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quoted_limit_is_kept_for_two_minutes_and_then_tried_again() {
        let gateway = Gateway {
            quotes_limit: true,
            ..Gateway::limited_to(|second| if second < 20.0 { 50.0 } else { 150.0 })
        };
        let simulation = Simulation::new(200.0, gateway);
        let found = simulation.run_until(10).await;
        assert!((1..=3).contains(&found.refused), "{found:?}");
        let now = simulation.pace.now();
        assert_eq!(now.quoted_limit, Some(50.0));
        assert_eq!(now.requests_per_second, 0.97 * 50.0);
        let kept = simulation.run_until(110).await;
        assert!((4_840..=4_860).contains(&kept.let_through), "{kept:?}");
        assert_eq!(kept.refused, 0);
        simulation.run_until(150).await;
        let raised = simulation.run_until(180).await;
        assert!(raised.let_through > 30 * 140, "{raised:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_shares_a_quoted_limit_with_others_goes_below_it() {
        // The limit is 100; others use 60 of it.
        let simulation = Simulation::new(200.0, Gateway::limited_to(|_| 40.0));
        let permit = simulation.pace.permit().await;
        permit.refused(None, Some(100.0));
        simulation.run_until(30).await;
        let tally = simulation.run_until(90).await;
        assert!(tally.let_through > 60 * 38, "{tally:?}");
        assert!(tally.refused_share() < 0.01, "{tally:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_does_not_lower_the_rate_for_long() {
        // Refuses everything for ten seconds.
        let limit = |second: f64| {
            if (20.0..30.0).contains(&second) {
                0.0
            } else {
                1e6
            }
        };
        let simulation = Simulation::new(200.0, Gateway::limited_to(limit));
        let before = simulation.run_until(20).await;
        let meanwhile = simulation.run_until(30).await;
        assert!(meanwhile.refused <= 30, "{meanwhile:?}");
        simulation.run_until(45).await;
        let after = simulation.run_until(55).await;
        assert!(after.let_through > 10 * 190, "{before:?} {after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_begins_at_20_and_doubles_each_second() {
        let simulation = Simulation::new(1_000.0, Gateway::limited_to(|_| f64::INFINITY));
        let mut started = 0;
        for (second, rate, expected) in [
            (1, 40.0, 29),
            (2, 80.0, 87),
            (3, 160.0, 202),
            (5, 640.0, 895),
        ] {
            started += simulation.run_until(second).await.let_through;
            let reached = simulation.pace.now().requests_per_second;
            assert!(
                (0.9..1.1).contains(&(reached / rate)),
                "{reached} after {second} s"
            );
            let share = started as f64 / f64::from(expected);
            assert!((0.9..1.1).contains(&share), "{started} after {second} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_cap_the_rate_doubles_ten_times_as_fast() {
        let mut simulation = Simulation::new(1.0, Gateway::answering_after(|_, _| SHORT));
        simulation.pace = Pace::new(None, 256, MAX_PAUSE);
        let tally = simulation.run_until(1).await;
        assert!(tally.let_through > 1_500, "{tally:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_is_not_used_does_not_rise() {
        let pace = Pace::new(Some(200.0), 256, MAX_PAUSE);
        for _ in 0..100 {
            pace.permit().await.answered();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let rate = pace.now().requests_per_second;
        assert!(rate < 21.0, "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_the_maximum_in_flight_keeps_from_being_used_does_not_rise() {
        let mut simulation = Simulation::new(1.0, Gateway::answering_after(|_, _| SHORT * 25));
        simulation.pace = Pace::new(Some(200.0), 4, MAX_PAUSE);
        simulation.run_until(60).await;
        let rate = simulation.pace.now().requests_per_second;
        assert!(rate < 25.0, "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_never_takes_more_than_half_of_the_rate_however_little_was_sent() {
        let pace = Pace::new(Some(200.0), 256, MAX_PAUSE);
        pace.state().rate = 160.0;
        for _ in 0..10 {
            pace.permit().await.answered();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        pace.permit().await.refused(None, None);
        let rate = pace.now().requests_per_second;
        assert!((80.0..81.0).contains(&rate), "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_of_requests_that_started_before_a_pause_are_one_event() {
        let pace = Pace::new(Some(200.0), 256, MAX_PAUSE);
        let mut permits = Vec::new();
        for _ in 0..8 {
            permits.push(pace.permit().await);
        }
        let late = permits.pop().unwrap();
        let refused_at = Instant::now();
        for permit in permits {
            permit.refused(None, None);
        }
        let next = pace.permit().await;
        assert_eq!(refused_at.elapsed().as_millis(), 300);
        late.refused(None, None);
        assert_eq!(pace.now().pauses, 1);
        next.refused(None, None);
        assert_eq!(pace.now().pauses, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_obeyed_up_to_the_longest_pause() {
        for (asked, paused) in [(3, 3), (3600, 60)] {
            let pace = Pace::new(Some(200.0), 256, MAX_PAUSE);
            let permit = pace.permit().await;
            permit.refused(Some(Duration::from_secs(asked)), None);
            let refused_at = Instant::now();
            let pause_ends = refused_at + Duration::from_secs(paused);
            assert_eq!(pace.now().not_before, Some(pause_ends));
            let permit = pace.permit().await;
            assert_eq!(refused_at.elapsed().as_secs(), paused);
            permit.answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_between_which_nothing_is_accepted_double_up_to_the_longest() {
        let pace = Pace::new(Some(200.0), 256, MAX_PAUSE);
        pace.permit().await.answered();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pace.permit().await.refused(None, None);
            let pause_ends = pace.now().not_before.unwrap();
            pauses.push((pause_ends - Instant::now()).as_millis());
        }
        assert_eq!(pauses[..4], [300, 600, 1200, 2400]);
        assert_eq!(pauses[10..], [60_000, 60_000]);
        let rate = pace.now().requests_per_second;
        assert!(
            (10.0..12.0).contains(&rate),
            "it fell more than once: {rate}"
        );
        pace.permit().await.answered();
        pace.permit().await.refused(None, None);
        let pause = pace.now().not_before.unwrap() - Instant::now();
        assert_eq!(pause.as_millis(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn odd_quotes_and_caps_are_handled() {
        for odd in [0.0, f64::MIN_POSITIVE, f64::INFINITY, f64::MAX] {
            let pace = Pace::new(Some(odd), 0, MAX_PAUSE);
            pace.permit().await.refused(None, Some(odd));
            pace.permit().await.answered();
            assert!(pace.now().requests_per_second >= MIN_RATE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_start_evenly_and_in_order_from_the_first_on_and_after_a_pause() {
        let pace = Pace::new(Some(10.0), 100, MAX_PAUSE);
        let begin = Instant::now();
        let starts = RefCell::new(Vec::new());
        let refused = pace.permit().await;
        let worker = async |number: u32| {
            let permit = pace.permit().await;
            starts
                .borrow_mut()
                .push((number, begin.elapsed().as_millis()));
            permit.answered();
        };
        let refusing = async {
            tokio::time::sleep(Duration::from_millis(250)).await;
            refused.refused(Some(Duration::from_secs(3)), None);
        };
        tokio::join!(
            worker(1),
            worker(2),
            worker(3),
            worker(4),
            worker(5),
            refusing
        );
        let starts = starts.into_inner();
        let order: Vec<u32> = starts.iter().map(|(number, _)| *number).collect();
        assert_eq!(order, [1, 2, 3, 4, 5]);
        let times: Vec<u128> = starts.iter().map(|(_, at)| *at).collect();
        assert_eq!(times[..3], [100, 200, 3_250]);
        let gaps = [times[3] - times[2], times[4] - times[3]];
        assert!(gaps[0] > 100 && gaps[0].abs_diff(gaps[1]) <= 2, "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_page_goes_before_all_that_wait() {
        let pace = Pace::new(Some(10.0), 100, MAX_PAUSE);
        drop(pace.permit().await);
        let order = RefCell::new(Vec::new());
        let history = async |number: u32| {
            let _permit = pace.permit().await;
            order.borrow_mut().push(number);
        };
        let page = async {
            let _permit = pace.permit_first().await;
            order.borrow_mut().push(0);
        };
        tokio::join!(history(1), history(2), page);
        assert_eq!(order.into_inner(), [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_page_goes_before_all_that_wait_for_the_end_of_a_request_too() {
        // A worker that answers 50 requests a second, one after another.
        let pace = Pace::new(Some(200.0), 256, MAX_PAUSE);
        let begin = Instant::now();
        let (busy_until, answered) = (Cell::new(begin), Cell::new(0_u32));
        let work = async || {
            let end = busy_until.get().max(Instant::now()) + Duration::from_millis(20);
            busy_until.set(end);
            tokio::time::sleep_until(end).await;
            answered.set(answered.get() + 1);
        };
        let histories = stream::repeat(()).for_each_concurrent(300, async |()| {
            let permit = pace.permit().await;
            work().await;
            permit.answered();
        });
        let pages = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(pace.now().in_flight, 256);
            for _ in 0..10 {
                let first = timeout(Duration::from_secs(1), pace.permit_first()).await;
                let permit = first.expect("it waits less than a second");
                work().await;
                permit.answered();
            }
        };
        tokio::select! {
            () = histories => {}
            () = pages => {}
        }
        let possible = begin.elapsed().as_secs_f64() * 50.0;
        let share = f64::from(answered.get()) / possible;
        assert!(share >= 0.99, "{share:.3}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_maximum_in_flight_is_used_in_full() {
        for max_in_flight in [1, 2, 4, 16] {
            let mut simulation = Simulation::new(1.0, Gateway::answering_after(|_, _| SHORT));
            simulation.pace = Pace::new(Some(1_000.0), max_in_flight, MAX_PAUSE);
            simulation.run_until(10).await;
            let tally = simulation.run_until(70).await;
            let possible = max_in_flight as f64 / SHORT.as_secs_f64();
            let share = tally.let_through as f64 / 60.0 / possible;
            assert!(share >= 0.95, "{max_in_flight}: {share:.3} {tally:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_maximum_are_in_flight() {
        let pace = Pace::new(None, 2, MAX_PAUSE);
        let first = pace.permit().await;
        let _second = pace.permit().await;
        let third = timeout(Duration::from_secs(60), pace.permit()).await;
        assert!(third.is_err(), "a third request started");
        drop(first);
        assert!(pace.permit().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_dropped_leaves_no_permit_and_no_turn_behind() {
        let pace = Pace::new(Some(1.0), 1, MAX_PAUSE);
        drop(pace.permit().await);
        for _ in 0..3 {
            let waiting = async { tokio::join!(pace.permit(), pace.permit()) };
            let given_up = timeout(Duration::from_millis(100), waiting).await;
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
        drop(permit);
        assert_eq!(pace.now().in_flight, 0);
        assert_eq!(pace.state().queue, []);
        pace.permit().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_not_polled_holds_up_the_others_for_one_turn() {
        let pace = Pace::new(Some(10.0), 100, MAX_PAUSE);
        drop(pace.permit().await);
        let mut unpolled = Box::pin(pace.permit());
        assert!((&mut unpolled).now_or_never().is_none());
        let begin = Instant::now();
        let mut starts = Vec::new();
        for _ in 0..3 {
            drop(pace.permit().await);
            starts.push(begin.elapsed().as_millis());
        }
        // 50 ms of the missed turn are made up.
        assert_eq!(starts, [200, 250, 350]);
        drop(unpolled.await);
        assert_eq!(begin.elapsed().as_millis(), 450);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_woken_by_an_end_and_not_polled_holds_up_the_others_for_a_moment() {
        let pace = Pace::new(None, 1, MAX_PAUSE);
        let first = pace.permit().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut unpolled = Box::pin(pace.permit());
        assert!((&mut unpolled).now_or_never().is_none());
        let ending = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(first);
        };
        let begin = Instant::now();
        let (second, ()) = tokio::join!(pace.permit(), ending);
        assert!(begin.elapsed() <= RECHECK, "{:?}", begin.elapsed());
        drop(second);
        drop(unpolled.await);
    }
}
