//! Finds the gateway's limit and stays just under it: the rules, without clock or I/O.
//!
//! The controller is told the time, what started and what came of it, and says when the next
//! request may start. What it knows of the gateway is that it lets a certain rate through, and
//! for a while more than that (a *token bucket* of unknown size, or a count per second), and
//! then refuses; or that its answers begin to take longer.
//!
//! ```text
//! slow start ──first refusal──▶ search ──bounds agree──▶ probe ◀──refusal: a little lower
//! doubles every few              from below what was      creeps up to the limit found, stays
//! round trips                    counted to above it      there, and looks beyond after a while
//! ```
//!
//! - **One event for each pause.** A bucket that is empty refuses in a cluster. All refusals of
//!   requests that had started before a pause belong to that pause.
//! - **Counting gives the limit.** At two refusals the bucket was empty. So what was let through
//!   between them, over the time between them, is at most the limit; and it is the limit
//!   exactly if the bucket was never full meanwhile. The rate at which the refusal came is at
//!   least the limit. Once the two bounds are close, or the lower one no longer rises, the limit
//!   is known. A large cluster tells it at once: by the share that was let through.
//! - **Approach as CUBIC does.** From 97 % of the limit the rate rises quickly at first, is flat
//!   around the limit, and steepens after it. A probe costs one or two refusals and comes every
//!   quarter of a minute at most, and less often where a pause or a refusal weighs more.
//! - **What the gateway says counts more.** `Retry-After` prolongs the pause; a limit quoted in
//!   the message is a ceiling for two minutes, before it is tried whether it was raised.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::time::Duration;

use tokio::time::Instant;

use crate::run::RequestKind;

/// Where slow start begins, in requests per second.
const INITIAL_RATE: f64 = 20.0;
/// No back-off goes below this, and no quoted limit either: one request a minute still asks.
const MIN_RATE: f64 = 1.0 / 60.0;
/// More than one process can send; keeps the arithmetic finite where there is no cap.
const MAX_RATE: f64 = 100_000.0;
/// How far under a limit is just under it.
const UNDER: f64 = 0.97;
/// How far over the limit found a probe has gone when a refusal is due.
const OVER: f64 = 0.03;
/// Beyond this multiple of the limit found, the limit must have been raised.
const RAISED: f64 = 1.2;
/// Starts that are late by less are made up for: timers are no more exact than this.
const LATENESS: Duration = Duration::from_millis(10);
/// Fewer requests say little about a rate.
const FEWEST_COUNTED: u64 = 10;
/// Refusals in one cluster from which the share let through is taken for the limit.
const LARGE_CLUSTER: u64 = 8;
/// Bounds closer than this factor have found the limit.
const CLOSE: f64 = 1.2;
/// The pause after a refusal. The first one is longer, for what is counted up to the second
/// refusal to be worth something.
const PAUSE: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Shortest time from one probe for more to the next, in seconds.
const PROBE_PERIOD: f64 = 15.0;
/// How long a quoted limit is taken at its word.
const QUOTE_HOLDS: Duration = Duration::from_secs(120);
/// Requests on their way which are always allowed.
const FEWEST_IN_FLIGHT: usize = 8;

/// When a request that wants to start may do so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// Now, and it counts as started.
    Start(Start),
    /// Not before this time.
    NotBefore(Instant),
    /// Not before another request has ended.
    AfterAnother,
}

/// A started request, for [`RateController::end`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    sequence: u64,
    at: Instant,
}

/// What came of a request, as far as the rate is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    /// A success; how long it took tells how busy the gateway is.
    Answered(RequestKind),
    /// Too many requests.
    Refused {
        /// How long the gateway asks to wait.
        retry_after: Option<Duration>,
        /// The limit its message quotes, in requests per second.
        quoted_limit: Option<f64>,
    },
    /// Anything else: another error, no answer, given up.
    Other,
}

/// The pace at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceNow {
    /// Requests that may start per second.
    pub requests_per_second: f64,
    /// The limit the gateway quoted, in requests per second, while it is taken at its word.
    pub quoted_limit: Option<f64>,
    /// Whether the gateway has shown a limit: by a refusal, or by slower answers.
    pub has_met_limit: bool,
    /// Requests on their way.
    pub in_flight: usize,
    /// How often all requests were paused because one was refused.
    pub pauses: u64,
}

/// Decides when requests start; one for each gateway.
#[derive(Debug)]
pub(super) struct RateController {
    max_rate: f64,
    max_in_flight: usize,
    max_pause: Duration,

    /// Requests per second, before the caps.
    rate: f64,
    phase: Phase,
    quoted: Option<Quoted>,
    has_met_limit: bool,

    starts: u64,
    next_start: Option<Instant>,
    in_flight: usize,

    pause: Option<Pause>,
    pauses: u64,
    /// Pauses since the last answer that was no refusal.
    fruitless_pauses: u32,
    resumed_at: Option<Instant>,
    counted_from: Option<CountedFrom>,
    lower_bound: Option<f64>,

    /// Seconds to an answer: an average that follows within a few answers.
    answer_time: Option<f64>,
    latency: BTreeMap<RequestKind, Latency>,
    slowed_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Nothing is known of the limit.
    SlowStart,
    /// The limit is above the rate; by how much is not known. Grows by this exponent per second.
    Search { growth: f64 },
    /// The limit is known. The seconds count only while the rate holds requests back.
    Probe {
        limit: f64,
        depth: f64,
        period: f64,
        elapsed: f64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Quoted {
    limit: f64,
    until: Instant,
}

/// A pause of all starts, and what is known of its cause.
#[derive(Debug, Clone, Copy)]
struct Pause {
    began: Instant,
    until: Instant,
    /// The rate that was refused.
    rate: f64,
    /// The earliest start that was refused.
    first: Start,
    refused: u64,
}

/// A refusal since which starts are counted.
#[derive(Debug, Clone, Copy)]
struct CountedFrom {
    first: Start,
    refused: u64,
    /// Time in which starts came later than the rate allowed.
    idle: Duration,
}

impl RateController {
    pub(super) fn new(
        max_rate: Option<f64>,
        max_in_flight: usize,
        max_pause: Duration,
    ) -> RateController {
        RateController {
            max_rate: max_rate.unwrap_or(MAX_RATE).clamp(MIN_RATE, MAX_RATE),
            max_in_flight: max_in_flight.max(1),
            max_pause,
            rate: INITIAL_RATE,
            phase: Phase::SlowStart,
            quoted: None,
            has_met_limit: false,
            starts: 0,
            next_start: None,
            in_flight: 0,
            pause: None,
            pauses: 0,
            fruitless_pauses: 0,
            resumed_at: None,
            counted_from: None,
            lower_bound: None,
            answer_time: None,
            latency: BTreeMap::new(),
            slowed_at: None,
        }
    }

    /// Starts a request, or says what it has to wait for.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if let Some(pause) = self.pause {
            if now < pause.until {
                return Next::NotBefore(pause.until);
            }
            self.resume(pause, now);
        }
        if let Some(quoted) = self.quoted.filter(|quoted| now >= quoted.until) {
            let was_reached = self.rate >= quoted.limit * UNDER;
            self.quoted = None;
            if was_reached {
                self.probe(quoted.limit, 1.0 - UNDER, Duration::ZERO);
            }
        }
        if self.in_flight >= self.window() {
            return Next::AfterAnother;
        }
        let due = self.next_start.unwrap_or(now);
        if due > now {
            return Next::NotBefore(due);
        }
        self.schedule_next(due, now);
        self.starts += 1;
        self.in_flight += 1;
        Next::Start(Start {
            sequence: self.starts,
            at: now,
        })
    }

    /// Takes in what came of a request.
    pub(super) fn end(&mut self, start: Start, outcome: Outcome, now: Instant) {
        self.in_flight -= 1;
        match outcome {
            Outcome::Other => {}
            Outcome::Answered(kind) => self.answered(start, kind, now),
            Outcome::Refused {
                retry_after,
                quoted_limit,
            } => {
                self.refused(start, retry_after, now);
                if let Some(limit) = quoted_limit {
                    self.quoted = Some(Quoted {
                        limit,
                        until: now + QUOTE_HOLDS,
                    });
                }
            }
        }
    }

    pub(super) fn now(&self) -> PaceNow {
        PaceNow {
            requests_per_second: self.allowed(),
            quoted_limit: self.quoted.map(|quoted| quoted.limit),
            has_met_limit: self.has_met_limit,
            in_flight: self.in_flight,
            pauses: self.pauses,
        }
    }

    fn ceiling(&self) -> f64 {
        match self.quoted {
            Some(quoted) => self.max_rate.min(quoted.limit * UNDER),
            None => self.max_rate,
        }
    }

    fn allowed(&self) -> f64 {
        self.rate.min(self.ceiling()).max(MIN_RATE)
    }

    /// How many requests may be on their way: as many as the rate gives if answers take a little
    /// longer than they should. If they take much longer, no more of them are sent after.
    fn window(&self) -> usize {
        let slow = self.latency.values().filter_map(Latency::slow);
        let seconds = match slow.reduce(f64::max) {
            Some(seconds) => seconds,
            None => 2.0 * self.answer_time.unwrap_or(0.0),
        };
        let expected = 1.25 * self.allowed() * seconds;
        (FEWEST_IN_FLIGHT + expected as usize).min(self.max_in_flight)
    }

    /// Books the turn after this one. The rate grows only with starts that had to wait for it:
    /// what is not used proves nothing.
    fn schedule_next(&mut self, due: Instant, now: Instant) {
        let interval = Duration::from_secs_f64(1.0 / self.allowed());
        let late = now - due;
        if late <= LATENESS {
            self.next_start = Some(due + interval);
            self.grow(interval.as_secs_f64());
            return;
        }
        self.next_start = Some(now - LATENESS + interval);
        if let Some(counted_from) = &mut self.counted_from {
            counted_from.idle += late - LATENESS;
        }
    }

    fn grow(&mut self, seconds: f64) {
        if self.rate >= self.ceiling() {
            return;
        }
        match &mut self.phase {
            Phase::SlowStart => {
                // Several round trips for each doubling, so that few requests more than were let
                // through are on their way when the first is refused.
                let doubling = (8.0 * self.answer_time.unwrap_or(1.0)).clamp(0.01, 0.7);
                self.rate *= (LN_2 / doubling * seconds).exp();
            }
            Phase::Search { growth } => self.rate *= (*growth * seconds).exp(),
            Phase::Probe {
                limit,
                depth,
                period,
                elapsed,
            } => {
                *elapsed += seconds;
                let half = *period / 2.0;
                let from_middle = (*elapsed - half) / half;
                let scale = if from_middle < 0.0 { *depth } else { OVER };
                self.rate = *limit * (1.0 + scale * from_middle.powi(3));
                if self.rate > *limit * RAISED {
                    self.search_faster();
                }
            }
        }
    }

    fn search_faster(&mut self) {
        self.lower_bound = None;
        let doubling = (8.0 * self.answer_time.unwrap_or(0.0)).max(1.0);
        self.phase = Phase::Search {
            growth: LN_2 / doubling,
        };
    }

    fn probe(&mut self, limit: f64, depth: f64, pause: Duration) {
        let limit = limit.max(MIN_RATE);
        // Pauses cost a twentieth of the time at most, refusals one request in two hundred.
        let period = PROBE_PERIOD
            .max(20.0 * pause.as_secs_f64())
            .max(200.0 / limit);
        self.rate = limit * (1.0 - depth);
        self.phase = Phase::Probe {
            limit,
            depth,
            period,
            elapsed: 0.0,
        };
    }

    fn refused(&mut self, start: Start, retry_after: Option<Duration>, now: Instant) {
        self.has_met_limit = true;
        let asked = retry_after.unwrap_or_default().min(self.max_pause);
        if let Some(pause) = &mut self.pause {
            pause.refused += 1;
            pause.until = pause.until.max(now + asked);
            if start.sequence < pause.first.sequence {
                pause.first = start;
            }
            return;
        }
        if self.resumed_at.is_some_and(|resumed| start.at < resumed) {
            // A straggler of the pause before.
            if let Some(counted_from) = &mut self.counted_from {
                counted_from.refused += 1;
            }
            let next = self.next_start.unwrap_or(now);
            self.next_start = Some(next.max(now + asked));
            return;
        }
        // Long enough for the other refusals of the cluster to arrive, too.
        let round_trip = (now - start.at).mul_f64(1.2);
        let shortest = if self.pauses == 0 { FIRST_PAUSE } else { PAUSE };
        let doublings = 2_u32.saturating_pow(self.fruitless_pauses);
        let length = round_trip.max(shortest).saturating_mul(doublings);
        self.fruitless_pauses += 1;
        self.pauses += 1;
        self.pause = Some(Pause {
            began: now,
            until: now + length.max(asked).min(self.max_pause),
            rate: self.allowed(),
            first: start,
            refused: 1,
        });
    }

    /// Ends a pause with the rate to go on at.
    fn resume(&mut self, pause: Pause, now: Instant) {
        let Pause {
            began,
            until,
            rate,
            first,
            refused,
        } = pause;
        self.pause = None;
        self.resumed_at = Some(now);
        self.next_start = Some(now);
        let length = until - began;
        let counted = self.count_up_to(first, refused);
        let started = self.starts - first.sequence + 1;

        if refused >= LARGE_CLUSTER {
            let let_through = 1.0 - refused as f64 / started.max(refused) as f64;
            let limit = rate * let_through.max(0.1);
            self.lower_bound = Some(limit);
            self.probe(limit, 1.0 - UNDER, length);
        } else if let Some(lower) = counted {
            let lower = lower.min(rate);
            let gap = rate / lower;
            let no_longer_rises = self.lower_bound.is_some_and(|before| lower <= before * 1.1);
            self.lower_bound = Some(lower);
            if gap <= CLOSE || no_longer_rises {
                self.probe(lower * gap.powf(0.3), 1.0 - UNDER, length);
            } else {
                self.rate = lower * UNDER;
                self.phase = Phase::Search {
                    growth: gap.ln() / 4.0,
                };
            }
        } else {
            self.rate = rate / 2.0;
            self.phase = Phase::Search { growth: LN_2 / 2.0 };
        }
        // A quoted limit is better than any count, unless less than that was refused.
        if let Some(quoted) = self.quoted
            && rate > quoted.limit
        {
            self.probe(quoted.limit, 1.0 - UNDER, length);
        }
    }

    /// What was let through per second from the refusal before to this one, if it says enough:
    /// too few are counted on, up to the next refusal.
    fn count_up_to(&mut self, first: Start, refused: u64) -> Option<f64> {
        let next = CountedFrom {
            first,
            refused,
            idle: Duration::ZERO,
        };
        let Some(from) = &mut self.counted_from else {
            self.counted_from = Some(next);
            return None;
        };
        let started = first.sequence.saturating_sub(from.first.sequence);
        let let_through = started.saturating_sub(from.refused);
        if let_through < FEWEST_COUNTED {
            from.refused += refused;
            return None;
        }
        let span = first.at - from.first.at;
        let was_used = from.idle < span / 5;
        self.counted_from = Some(next);
        was_used.then(|| let_through as f64 / span.as_secs_f64())
    }

    fn answered(&mut self, start: Start, kind: RequestKind, now: Instant) {
        if self.resumed_at.is_none_or(|resumed| start.at >= resumed) {
            self.fruitless_pauses = 0;
        }
        let seconds = (now - start.at).as_secs_f64();
        let average = self.answer_time.get_or_insert(seconds);
        *average += (seconds - *average) / 8.0;
        // One event for each round trip: what started before the last one tells of the queue
        // that is known already.
        if self.slowed_at.is_some_and(|slowed| start.at < slowed) {
            return;
        }
        if let Some(queue) = self.latency.entry(kind).or_default().note(seconds, now) {
            self.drain(queue, now);
        }
    }

    /// Slows down until the queue at the gateway is gone, and then approaches the rate at which
    /// it gave answers.
    fn drain(&mut self, queue: Queue, now: Instant) {
        let Queue {
            answers_per_second,
            excess,
        } = queue;
        self.has_met_limit = true;
        self.slowed_at = Some(now);
        self.counted_from = None;
        let rate = self.allowed();
        let limit = answers_per_second.min(rate);
        // The first half of a probe's curve leaves an eighth of its depth and period unused.
        let depth = (excess * 8.0 / PROBE_PERIOD).clamp(0.1, 0.5);
        self.probe(limit, depth, Duration::ZERO);
    }
}

/// How long answers of one kind take.
#[derive(Debug, Default)]
struct Latency {
    began: Option<Instant>,
    answers: u32,
    /// Of the first answers since then.
    seconds: Vec<f64>,
    /// The lowest median so far.
    baseline: Option<f64>,
}

/// Answers take so long that they must have waited for each other.
struct Queue {
    answers_per_second: f64,
    /// Seconds more than usual.
    excess: f64,
}

impl Latency {
    const FEWEST: u32 = 16;
    const MOST_KEPT: usize = 255;
    const INTERVAL: Duration = Duration::from_secs(1);

    /// What is too slow to be chance: medians of many answers vary far less.
    fn slow(&self) -> Option<f64> {
        self.baseline.map(|baseline| 2.0 * baseline + 0.05)
    }

    /// Compares medians: a few slow answers are no queue, which delays all of them.
    fn note(&mut self, seconds: f64, now: Instant) -> Option<Queue> {
        let began = *self.began.get_or_insert(now);
        let span = now - began;
        // The very first answer is better than nothing; it is rather slow than fast.
        let baseline = *self.baseline.get_or_insert(seconds);
        self.answers += 1;
        if self.seconds.len() < Latency::MOST_KEPT {
            self.seconds.push(seconds);
        }
        if self.answers < Latency::FEWEST || span < Latency::INTERVAL {
            return None;
        }
        self.seconds.sort_by(f64::total_cmp);
        let median = self.seconds[self.seconds.len() / 2];
        let answers = self.answers;
        self.seconds.clear();
        self.answers = 0;
        self.began = None;
        if self.slow().is_none_or(|slow| median <= slow) {
            self.baseline = Some(baseline.min(median));
            return None;
        }
        let excess = median - baseline;
        // If it was a queue of ours, the baseline falls as the queue does. If the service has
        // become slower by itself, it is accepted after an event or two.
        self.baseline = Some(baseline + excess / 2.0);
        Some(Queue {
            answers_per_second: f64::from(answers - 1) / span.as_secs_f64(),
            excess,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, HashMap};

    use super::*;

    const KIND: RequestKind = RequestKind::BuildHistory;
    const MAX_PAUSE: Duration = Duration::from_secs(60);

    /// A gateway in virtual time. Its refusals come within 2 ms, its answers after the latency.
    #[derive(Debug, Clone, Copy)]
    struct Gateway {
        limit: f64,
        /// Requests a rested bucket lets through at once.
        burst: f64,
        latency: f64,
        retry_after: Option<Duration>,
        /// The limit in the message.
        quotes: Option<f64>,
        /// Requests beyond the limit wait for each other instead of being refused.
        queues: bool,
    }

    impl Gateway {
        fn new(limit: f64, latency: f64) -> Gateway {
            Gateway {
                limit,
                burst: limit,
                latency,
                retry_after: None,
                quotes: None,
                queues: false,
            }
        }
    }

    /// What happened between two times.
    #[derive(Debug, Default, Clone, Copy)]
    struct Tally {
        let_through: u64,
        refused: u64,
        peak_in_flight: usize,
    }

    /// A client that always has something to ask, and a gateway.
    struct Simulation {
        begin: Instant,
        now: Instant,
        controller: RateController,
        gateway: Gateway,
        tokens: f64,
        filled_at: f64,
        queue_ends: f64,
        on_their_way: BinaryHeap<Reverse<(Instant, u64)>>,
        outcomes: HashMap<u64, (Start, Outcome)>,
        random: fastrand::Rng,
    }

    impl Simulation {
        fn new(gateway: Gateway) -> Simulation {
            Simulation::capped(gateway, None, 1024)
        }

        fn capped(gateway: Gateway, max_rate: Option<f64>, max_in_flight: usize) -> Simulation {
            let begin = Instant::now();
            Simulation {
                begin,
                now: begin,
                controller: RateController::new(max_rate, max_in_flight, MAX_PAUSE),
                gateway,
                tokens: gateway.burst,
                filled_at: 0.0,
                queue_ends: 0.0,
                on_their_way: BinaryHeap::new(),
                outcomes: HashMap::new(),
                random: fastrand::Rng::with_seed(1),
            }
        }

        fn seconds(&self) -> f64 {
            (self.now - self.begin).as_secs_f64()
        }

        fn change(&mut self, gateway: Gateway) {
            self.gateway = gateway;
            self.tokens = gateway.burst;
            self.filled_at = self.seconds();
        }

        /// Goes on until this many seconds from the beginning.
        fn run_until(&mut self, end: f64) -> Tally {
            let mut tally = Tally::default();
            while self.seconds() < end {
                match self.controller.next(self.now) {
                    Next::Start(start) => self.send(start, &mut tally),
                    Next::NotBefore(time) => self.wait(Some(time)),
                    Next::AfterAnother => self.wait(None),
                }
            }
            tally
        }

        fn send(&mut self, start: Start, tally: &mut Tally) {
            let seconds = self.seconds();
            let Gateway {
                limit,
                burst,
                latency,
                retry_after,
                quotes,
                queues,
            } = self.gateway;
            self.tokens = (self.tokens + (seconds - self.filled_at) * limit).min(burst);
            self.filled_at = seconds;
            let (outcome, takes) = if queues {
                self.queue_ends = self.queue_ends.max(seconds) + 1.0 / limit;
                (Outcome::Answered(KIND), self.queue_ends - seconds + latency)
            } else if self.tokens >= 1.0 {
                self.tokens -= 1.0;
                (Outcome::Answered(KIND), latency)
            } else {
                let outcome = Outcome::Refused {
                    retry_after,
                    quoted_limit: quotes,
                };
                (outcome, 0.002)
            };
            match outcome {
                Outcome::Refused { .. } => tally.refused += 1,
                _ => tally.let_through += 1,
            }
            tally.peak_in_flight = tally.peak_in_flight.max(self.controller.in_flight);
            // No two answers take equally long.
            let takes = takes * (1.0 + 0.3 * self.random.f64());
            let ends = self.now + Duration::from_secs_f64(takes);
            self.on_their_way.push(Reverse((ends, start.sequence)));
            self.outcomes.insert(start.sequence, (start, outcome));
        }

        /// To the next answer, or to this time, as far as a timer of milliseconds hits it.
        fn wait(&mut self, until: Option<Instant>) {
            let until = until.map(|time| {
                let millis = (time - self.begin).as_secs_f64() * 1e3;
                self.begin + Duration::from_millis(millis.ceil() as u64)
            });
            let next_end = self.on_their_way.peek().map(|Reverse((ends, _))| *ends);
            match (next_end, until) {
                (Some(ends), Some(until)) if until < ends => self.now = self.now.max(until),
                (Some(ends), _) => {
                    self.now = self.now.max(ends);
                    let Some(Reverse((_, sequence))) = self.on_their_way.pop() else {
                        unreachable!("it was there a moment ago")
                    };
                    let (start, outcome) = self.outcomes.remove(&sequence).unwrap();
                    self.controller.end(start, outcome, self.now);
                }
                (None, Some(until)) => self.now = self.now.max(until),
                (None, None) => unreachable!("nothing to wait for"),
            }
        }
    }

    fn used(tally: Tally, gateway: Gateway, seconds: f64) -> f64 {
        tally.let_through as f64 / seconds / gateway.limit
    }

    fn refused_share(tallies: &[Tally]) -> f64 {
        let refused: u64 = tallies.iter().map(|tally| tally.refused).sum();
        let let_through: u64 = tallies.iter().map(|tally| tally.let_through).sum();
        refused as f64 / (refused + let_through) as f64
    }

    /// With and without a limit in the message, and a `Retry-After`.
    fn flavours(gateway: Gateway) -> [Gateway; 4] {
        let quotes = Some(gateway.limit);
        let retry_after = Some(Duration::from_secs(1));
        [
            (None, None),
            (None, retry_after),
            (quotes, None),
            (quotes, retry_after),
        ]
        .map(|(quotes, retry_after)| Gateway {
            quotes,
            retry_after,
            ..gateway
        })
    }

    fn check_that_the_limit_is_found(limit: f64, latency: f64) {
        for burst in [0.5 * limit, limit, 2.0 * limit] {
            for gateway in flavours(Gateway {
                burst,
                ..Gateway::new(limit, latency)
            }) {
                let mut simulation = Simulation::new(gateway);
                let start = simulation.run_until(20.0);
                let soon = simulation.run_until(30.0);
                let after = simulation.run_until(70.0);
                // From the very beginning on, slow start and the first pauses included.
                let from_start = (start.let_through + soon.let_through) as f64 / 30.0 / limit;
                assert!(from_start >= 0.84, "{from_start:.3} {gateway:?}");
                let soon_used = used(soon, gateway, 10.0);
                assert!(soon_used >= 0.9, "{soon_used:.3} {gateway:?}");
                let after_used = used(after, gateway, 40.0);
                assert!(after_used >= 0.95, "{after_used:.3} {gateway:?}");
                let refused = refused_share(&[start, soon, after]);
                assert!(refused < 0.01, "{refused:.4} {gateway:?}");
            }
        }
    }

    #[test]
    fn the_limit_is_found_within_thirty_seconds_at_a_latency_of_5_ms() {
        for limit in [20.0, 100.0, 400.0] {
            check_that_the_limit_is_found(limit, 0.005);
        }
    }

    #[test]
    fn the_limit_is_found_within_thirty_seconds_at_a_latency_of_50_ms() {
        for limit in [20.0, 100.0, 400.0] {
            check_that_the_limit_is_found(limit, 0.05);
        }
    }

    #[test]
    fn the_limit_is_found_within_thirty_seconds_at_a_latency_of_500_ms() {
        for limit in [20.0, 100.0, 400.0] {
            check_that_the_limit_is_found(limit, 0.5);
        }
    }

    #[test]
    fn a_limit_that_falls_or_rises_is_found_within_thirty_seconds() {
        for (limit, next_limit) in [
            (400.0, 100.0),
            (100.0, 25.0),
            (200.0, 150.0),
            (20.0, 100.0),
            (100.0, 400.0),
        ] {
            for latency in [0.005, 0.5] {
                let gateway = Gateway::new(limit, latency);
                let mut simulation = Simulation::new(gateway);
                let before = simulation.run_until(45.0);
                let changed = Gateway::new(next_limit, latency);
                simulation.change(changed);
                let meanwhile = simulation.run_until(75.0);
                let after = simulation.run_until(135.0);
                let after_used = used(after, changed, 60.0);
                assert!(
                    after_used >= 0.95,
                    "{after_used:.3} {gateway:?} -> {next_limit}"
                );
                let refused = refused_share(&[before, meanwhile, after]);
                assert!(refused < 0.01, "{refused:.4} {gateway:?} -> {next_limit}");
            }
        }
    }

    #[test]
    fn a_quoted_limit_is_kept_to_at_once_and_tried_again_after_two_minutes() {
        let gateway = Gateway {
            quotes: Some(100.0),
            ..Gateway::new(100.0, 0.05)
        };
        let mut simulation = Simulation::new(gateway);
        let found = simulation.run_until(10.0);
        assert!((1..=5).contains(&found.refused), "{found:?}");
        assert_eq!(simulation.controller.now().quoted_limit, Some(100.0));
        assert_eq!(simulation.controller.now().requests_per_second, 97.0);
        simulation.change(Gateway::new(300.0, 0.05));
        // A hundred seconds later it still is.
        let kept = simulation.run_until(110.0);
        assert!((9_690..=9_710).contains(&kept.let_through), "{kept:?}");
        assert_eq!(kept.refused, 0);
        simulation.run_until(160.0);
        assert_eq!(simulation.controller.now().quoted_limit, None);
        let raised = simulation.run_until(180.0);
        assert!(raised.let_through > 20 * 280, "{raised:?}");
    }

    #[test]
    fn whoever_shares_a_quoted_limit_with_others_goes_below_it() {
        let gateway = Gateway {
            quotes: Some(100.0),
            ..Gateway::new(40.0, 0.05)
        };
        let mut simulation = Simulation::new(gateway);
        let before = simulation.run_until(30.0);
        let after = simulation.run_until(90.0);
        assert!(used(after, gateway, 60.0) >= 0.95, "{after:?}");
        assert!(
            refused_share(&[before, after]) < 0.01,
            "{before:?} {after:?}"
        );
    }

    #[test]
    fn slow_start_doubles_up_to_the_cap_and_stays_there() {
        let unlimited = Gateway::new(1e6, 0.05);
        let mut simulation = Simulation::capped(unlimited, Some(200.0), 1024);
        let first = simulation.run_until(0.5);
        assert!((10..=20).contains(&first.let_through), "{first:?}");
        simulation.run_until(5.0);
        let capped = simulation.run_until(15.0);
        assert!((1_999..=2_001).contains(&capped.let_through), "{capped:?}");
        assert!(!simulation.controller.now().has_met_limit);
    }

    #[test]
    fn the_number_on_their_way_follows_rate_and_latency() {
        for (latency, expected) in [(0.005, 1..=3), (0.05, 10..=16), (0.5, 100..=130)] {
            let unlimited = Gateway::new(1e6, latency);
            let mut simulation = Simulation::capped(unlimited, Some(200.0), 1024);
            simulation.run_until(10.0);
            let peak = simulation.run_until(20.0).peak_in_flight;
            assert!(expected.contains(&peak), "{peak} at {latency} s");
        }
        let mut simulation = Simulation::capped(Gateway::new(1e6, 0.5), Some(200.0), 50);
        assert_eq!(simulation.run_until(20.0).peak_in_flight, 50);
    }

    #[test]
    fn a_gateway_that_no_longer_answers_gets_few_requests_more() {
        let mut simulation = Simulation::capped(Gateway::new(1e6, 0.05), Some(200.0), 1024);
        simulation.run_until(10.0);
        simulation.change(Gateway::new(1e6, 1e3));
        let silent = simulation.run_until(40.0);
        assert!(silent.let_through < 60, "{silent:?}");
    }

    #[test]
    fn a_rate_that_is_not_used_does_not_grow() {
        let mut controller = controller();
        let begin = Instant::now();
        for turn in 0..100 {
            let now = begin + Duration::from_secs(turn);
            let start = started(&mut controller, now);
            controller.end(
                start,
                Outcome::Answered(KIND),
                now + Duration::from_millis(1),
            );
        }
        assert!(controller.now().requests_per_second < 25.0);
    }

    #[test]
    fn refusals_in_a_cluster_are_one_event() {
        let mut controller = controller();
        let begin = Instant::now();
        let starts: Vec<Start> = (0..8)
            .map(|turn| started(&mut controller, begin + turn * Duration::from_millis(50)))
            .collect();
        let refused_rate = controller.now().requests_per_second;
        let now = begin + Duration::from_millis(500);
        for start in &starts[3..7] {
            controller.end(*start, refused(None), now);
        }
        let pause_ends = begin + Duration::from_millis(1000);
        assert_eq!(controller.next(now), Next::NotBefore(pause_ends));
        let next = started(&mut controller, pause_ends);
        // One that comes late belongs to them, too.
        controller.end(starts[7], refused(None), pause_ends);
        let PaceNow {
            requests_per_second,
            pauses,
            in_flight,
            ..
        } = controller.now();
        assert_eq!((pauses, in_flight), (1, 4));
        assert!((requests_per_second / refused_rate - 0.5).abs() < 0.02);
        // The next one does not.
        controller.end(next, refused(None), pause_ends + Duration::from_millis(10));
        assert_eq!(controller.now().pauses, 2);
    }

    #[test]
    fn retry_after_is_obeyed_up_to_the_longest_pause() {
        for (asked, paused) in [(3, 3), (3600, 60)] {
            let mut controller = controller();
            let begin = Instant::now();
            let start = started(&mut controller, begin);
            controller.end(start, refused(Some(Duration::from_secs(asked))), begin);
            let pause_ends = begin + Duration::from_secs(paused);
            assert_eq!(controller.next(begin), Next::NotBefore(pause_ends));
        }
    }

    #[test]
    fn pauses_without_an_answer_between_them_double_up_to_the_longest() {
        let mut controller = controller();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let start = started(&mut controller, now);
            controller.end(start, refused(None), now);
            let Next::NotBefore(pause_ends) = controller.next(now) else {
                panic!("no pause")
            };
            pauses.push((pause_ends - now).as_millis());
            now = pause_ends;
        }
        assert_eq!(pauses[..4], [500, 200, 400, 800]);
        assert_eq!(pauses[10..], [60_000, 60_000]);
        let start = started(&mut controller, now);
        controller.end(start, Outcome::Answered(KIND), now);
        now += Duration::from_secs(60);
        let start = started(&mut controller, now);
        controller.end(start, refused(None), now);
        assert_eq!(
            controller.next(now),
            Next::NotBefore(now + Duration::from_millis(100))
        );
    }

    #[test]
    fn a_gateway_that_queues_is_noticed_before_it_refuses() {
        for latency in [0.005, 0.05, 0.5] {
            for limit in [20.0, 100.0, 400.0] {
                let gateway = Gateway {
                    queues: true,
                    ..Gateway::new(limit, latency)
                };
                let mut simulation = Simulation::new(gateway);
                simulation.run_until(60.0);
                let after = simulation.run_until(120.0);
                let after_used = used(after, gateway, 60.0);
                assert!(
                    (0.8..1.05).contains(&after_used),
                    "{after_used:.3} {gateway:?}"
                );
                assert!(simulation.controller.now().has_met_limit);
                // The queue holds the requests of three seconds, at most.
                let usual = limit * latency;
                let peak = after.peak_in_flight as f64;
                assert!(peak < usual + 3.0 * limit + 10.0, "{peak} {gateway:?}");
            }
        }
    }

    #[test]
    fn a_service_that_becomes_slower_by_itself_is_accepted() {
        let mut simulation = Simulation::capped(Gateway::new(1e6, 0.05), Some(200.0), 1024);
        simulation.run_until(20.0);
        simulation.change(Gateway::new(1e6, 0.4));
        simulation.run_until(80.0);
        let accepted = simulation.run_until(90.0);
        assert!(
            (1_990..=2_010).contains(&accepted.let_through),
            "{accepted:?}"
        );
    }

    #[test]
    fn single_slow_answers_are_no_queue() {
        let mut controller = RateController::new(Some(200.0), 1024, MAX_PAUSE);
        let begin = Instant::now();
        for turn in 0..2_000 {
            let now = begin + turn * Duration::from_millis(50);
            let start = started(&mut controller, now);
            // A third of them takes twenty times as long.
            let takes = Duration::from_millis(if turn % 3 == 0 { 1_000 } else { 50 });
            controller.end(start, Outcome::Answered(KIND), now + takes);
        }
        assert!(!controller.now().has_met_limit);
    }

    fn started(controller: &mut RateController, now: Instant) -> Start {
        match controller.next(now) {
            Next::Start(start) => start,
            next => panic!("{next:?}"),
        }
    }

    fn controller() -> RateController {
        RateController::new(None, 1024, MAX_PAUSE)
    }

    fn refused(retry_after: Option<Duration>) -> Outcome {
        Outcome::Refused {
            retry_after,
            quoted_limit: None,
        }
    }
}
