//! How many requests the gateway accepts, and how long the service behind it takes.

use std::f64::consts::TAU;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::Refusal;
use super::image::roll;
use super::settings::{Load, Stalls, Throttle};

/// The service behind the gateway.
#[derive(Debug)]
pub(super) struct Service {
    load: Load,
    pub(super) latency: Duration,
    started_at: Instant,
    /// When the serial worker will have finished all its requests.
    worker_is_free_at: Instant,
}

impl Service {
    pub(super) fn new(load: Load, latency: Duration) -> Service {
        let now = Instant::now();
        Service {
            load,
            latency,
            started_at: now,
            worker_is_free_at: now,
        }
    }

    /// The latency of the request with this number.
    pub(super) fn delay(&mut self, request: u64) -> Duration {
        let now = Instant::now();
        let Load {
            jitter,
            slow_tail,
            stalls,
            serial_worker,
            limit_swing: _,
        } = self.load;
        let mut delay = match slow_tail {
            Some(tail) if roll(request, 0) < tail.share => tail.latency,
            _ => self.latency.mul_f64((jitter * normal(request)).exp()),
        };
        if let Some(stalls) = stalls {
            delay += left_of_stall(stalls, now - self.started_at);
        }
        if let Some(answers_per_second) = serial_worker {
            let takes = Duration::from_secs(1) / answers_per_second;
            self.worker_is_free_at = self.worker_is_free_at.max(now) + takes;
            delay += self.worker_is_free_at - now;
        }
        delay
    }
}

/// A value of the standard normal distribution (Box-Muller).
fn normal(request: u64) -> f64 {
    let radius = (-2.0 * (1.0 - roll(request, 1)).ln()).sqrt();
    radius * (TAU * roll(request, 2)).cos()
}

fn left_of_stall(stalls: Stalls, elapsed: Duration) -> Duration {
    let Stalls { every, lasting } = stalls;
    let seconds = elapsed.as_secs_f64() % every.as_secs_f64();
    let left = every.saturating_sub(Duration::from_secs_f64(seconds));
    if left <= lasting {
        left
    } else {
        Duration::ZERO
    }
}

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    throttle: Throttle,
    load: Load,
    tokens: f64,
    started_at: Instant,
    filled_at: Instant,
}

impl Bucket {
    pub(super) fn full(throttle: Throttle, load: Load) -> Bucket {
        let now = Instant::now();
        Bucket {
            throttle,
            load,
            tokens: f64::from(throttle.burst),
            started_at: now,
            filled_at: now,
        }
    }

    pub(super) fn take(&mut self) -> Result<(), Refusal> {
        let Throttle {
            requests_per_second,
            burst,
            retry_after,
            quotes_limit,
        } = self.throttle;
        let now = Instant::now();
        let factor = self.load.limit_swing.map_or(1.0, |swing| {
            let turns = (now - self.started_at).as_secs_f64() / swing.period.as_secs_f64();
            1.0 + swing.share * (TAU * turns).sin()
        });
        let limit = factor * f64::from(requests_per_second);
        let refill = (now - self.filled_at).as_secs_f64() * limit;
        self.tokens = (self.tokens + refill).min(factor * f64::from(burst));
        self.filled_at = now;
        if self.tokens < 1.0 {
            let quoted = quotes_limit.then_some(limit as u32);
            return Err(Refusal::throttled(quoted, retry_after));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{SlowTail, Swing};
    use super::*;

    const SHORT: Duration = Duration::from_millis(40);

    fn service(load: Load) -> Service {
        Service::new(load, SHORT)
    }

    fn delays(load: Load) -> Vec<Duration> {
        let mut service = service(load);
        let mut delays: Vec<Duration> = (0..10_000).map(|number| service.delay(number)).collect();
        delays.sort();
        delays
    }

    #[tokio::test(start_paused = true)]
    async fn without_load_each_answer_takes_the_latency() {
        assert!(delays(Load::default()).iter().all(|delay| *delay == SHORT));
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_spreads_answers_around_the_latency() {
        let delays = delays(Load {
            jitter: 1.0,
            ..Load::default()
        });
        let quantile = |share: f64| delays[(share * 10_000.0) as usize].as_secs_f64() / 0.04;
        // Quantiles of the lognormal distribution are e to the power of those of the normal distribution.
        assert!((0.95..1.05).contains(&quantile(0.5)), "{}", quantile(0.5));
        assert!((9.0..11.5).contains(&quantile(0.99)), "{}", quantile(0.99));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_answers_takes_long() {
        let latency = Duration::from_secs(3);
        let slow_tail = Some(SlowTail {
            share: 0.1,
            latency,
        });
        let delays = delays(Load {
            slow_tail,
            ..Load::default()
        });
        let slow = delays.iter().filter(|delay| **delay == latency).count();
        assert!((900..1_100).contains(&slow), "{slow}");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_wait_for_the_end_of_a_stall() {
        let stalls = Some(Stalls {
            every: Duration::from_secs(18),
            lasting: Duration::from_secs(3),
        });
        let mut service = service(Load {
            stalls,
            ..Load::default()
        });
        let mut delays = Vec::new();
        for number in 0..20 {
            delays.push((service.delay(number) - SHORT).as_secs());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(delays[..15], [0; 15]);
        assert_eq!(delays[15..], [3, 2, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_serial_worker_answers_one_request_after_the_other() {
        let mut service = service(Load {
            serial_worker: Some(100),
            ..Load::default()
        });
        let mut delays = |count: u64| -> Vec<u128> {
            let waits = (0..count).map(|number| service.delay(number) - SHORT);
            waits.map(|wait| wait.as_millis()).collect()
        };
        assert_eq!(delays(3), [10, 20, 30]);
        tokio::time::advance(Duration::from_millis(20)).await;
        assert_eq!(delays(1), [20]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(delays(2), [10, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_swings_around_what_it_is_set_to() {
        let throttle = Throttle {
            requests_per_second: 100,
            burst: 100,
            retry_after: None,
            quotes_limit: false,
        };
        let limit_swing = Some(Swing {
            share: 0.6,
            period: Duration::from_secs(60),
        });
        let load = Load {
            limit_swing,
            ..Load::default()
        };
        let mut bucket = Bucket::full(throttle, load);
        let mut let_through = Vec::new();
        for _ in 0..60 {
            let_through.push((0..500).filter(|_| bucket.take().is_ok()).count());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(let_through[0], 100);
        assert!((155..=160).contains(&let_through[15]), "{let_through:?}");
        assert!((40..=45).contains(&let_through[45]), "{let_through:?}");
    }
}
