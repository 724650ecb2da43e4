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
        let doubling = (4.0 * self.answer_time.unwrap_or(0.0)).max(1.0);
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
        let limit = answers_per_second.clamp(rate / 10.0, rate);
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
        let slow = self.slow();
        let baseline = self.baseline.get_or_insert(median);
        if slow.is_none_or(|slow| median <= slow) {
            *baseline = baseline.min(median);
            return None;
        }
        let excess = median - *baseline;
        // If it was a queue of ours, the baseline falls as the queue does. If the service has
        // become slower by itself, it is accepted after an event or two.
        *baseline += excess / 2.0;
        Some(Queue {
            answers_per_second: f64::from(answers - 1) / span.as_secs_f64(),
            excess,
        })
    }
}
