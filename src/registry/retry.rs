//! When to retry a request, and after which delay.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::error::StatusFailure;

/// The number of attempts, and the delays between them: capped exponential backoff with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Maximum number of attempts including the first; at least 1. Throttled attempts (429) do not count.
    pub max_attempts: u32,
    /// How long a throttled request is retried after its first 429.
    pub throttled_patience: Duration,
    /// Upper bound of the first delay. It doubles with each further delay.
    pub base_delay: Duration,
    /// Upper bound of every delay, including those that the gateway requests.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 8,
            throttled_patience: Duration::from_secs(15 * 60),
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// The delay after the given number of failed attempts. `chance` is a random number in 0..1. `asked` is
    /// the delay that the gateway requested: the result is never shorter, except by `max_delay`.
    pub fn delay(&self, failed_attempts: u32, chance: f64, asked: Option<Duration>) -> Duration {
        let doubled = 2_u32
            .checked_pow(failed_attempts.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let ceiling = self.base_delay.saturating_mul(doubled).min(self.max_delay);
        let jittered = ceiling.mul_f64(chance.clamp(0.0, 1.0));
        match asked {
            // Add jitter, so that many clients do not retry at the same time.
            Some(asked) => asked.min(self.max_delay) + jittered.min(self.base_delay),
            None => jittered,
        }
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = DateTime::parse_from_rfc2822(value).ok()?;
            (date.to_utc() - now).to_std().ok()
        }
    }
}

/// The limit that a throttled request's message quotes, in requests per second: "The throttling
/// threshold has been reached: policy user over ratelimit,limit:10,time:1 second" (APIGW.0308).
pub(super) fn quoted_limit(failure: &StatusFailure) -> Option<f64> {
    if failure.status != 429 {
        return None;
    }
    let (_, quote) = failure.message.split_once("limit:")?;
    let (requests, time) = quote.split_once(",time:")?;
    let requests: u32 = requests.trim().parse().ok()?;
    let mut time = time.split_whitespace();
    let count: u32 = time.next()?.parse().ok()?;
    let unit: String = time
        .next()?
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect();
    let seconds = match unit.to_ascii_lowercase().trim_end_matches('s') {
        "second" => 1,
        "minute" => 60,
        "hour" => 60 * 60,
        "day" => 24 * 60 * 60,
        _ => return None,
    };
    let limit = f64::from(requests) / (f64::from(count) * f64::from(seconds));
    (limit.is_finite() && limit > 0.0).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 5,
        throttled_patience: Duration::from_secs(60),
        base_delay: Duration::from_millis(100),
        max_delay: Duration::from_secs(2),
    };

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let ceilings: Vec<u128> = (1..=7)
            .map(|n| POLICY.delay(n, 1.0, None).as_millis())
            .collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(POLICY.delay(u32::MAX, 1.0, None), POLICY.max_delay);
    }

    #[test]
    fn full_jitter_reaches_down_to_zero() {
        assert_eq!(POLICY.delay(3, 0.0, None), Duration::ZERO);
        assert_eq!(POLICY.delay(3, 0.5, None), Duration::from_millis(200));
    }

    #[test]
    fn what_the_gateway_asks_for_is_waited_in_full_up_to_the_cap() {
        let asked = Some(Duration::from_secs(1));
        assert_eq!(POLICY.delay(1, 0.0, asked), Duration::from_secs(1));
        assert_eq!(POLICY.delay(1, 1.0, asked), Duration::from_millis(1100));
        assert_eq!(
            POLICY.delay(1, 0.0, Some(Duration::from_secs(3600))),
            POLICY.max_delay
        );
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2026-10-21T07:28:00Z".parse().unwrap();
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        let later = retry_after("Wed, 21 Oct 2026 07:28:30 GMT", now);
        assert_eq!(later, Some(Duration::from_secs(30)));
        assert_eq!(
            retry_after("Wed, 21 Oct 2026 07:27:00 GMT", now),
            None,
            "it is over"
        );
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn the_quoted_limit_is_read_in_every_unit() {
        let quoted = |status, policy: &str| {
            let body = format!(
                r#"{{"error_code":"APIGW.0308","error_msg":"The throttling threshold has been reached: policy user over ratelimit,{policy}"}}"#
            );
            quoted_limit(&StatusFailure::read(status, None, body.as_bytes(), &[]))
        };
        assert_eq!(quoted(429, "limit:10,time:1 second"), Some(10.0));
        assert_eq!(quoted(429, "limit:10,time:2 seconds"), Some(5.0));
        assert_eq!(quoted(429, "limit:600,time:1 minute."), Some(10.0));
        assert_eq!(
            quoted(429, "limit: 7200, time:1 hour"),
            None,
            "not the documented form"
        );
        assert_eq!(quoted(429, "limit:7200,time:1 hour"), Some(2.0));
        assert_eq!(quoted(429, "limit:86400,time:1 Day"), Some(1.0));
        assert_eq!(quoted(429, "limit:0,time:1 second"), None);
        assert_eq!(quoted(429, "limit:10,time:0 second"), None);
        assert_eq!(quoted(429, "limit:10,time:1 fortnight"), None);
        assert_eq!(quoted(503, "limit:10,time:1 second"), None);
    }
}
