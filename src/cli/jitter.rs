//! A random delay before the work, so that jobs with the same schedule do not all start at
//! the same moment.

use std::time::Duration;

/// A random time from zero to `longest`, uniformly distributed.
pub(super) fn draw(longest: Duration, random: &mut fastrand::Rng) -> Duration {
    // In whole milliseconds: u64 covers half a billion years.
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.u64(0..=longest_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_up_to_the_longest_may_come() {
        let mut random = fastrand::Rng::with_seed(1);
        let longest = Duration::from_millis(3);
        let mut drawn: Vec<u128> = (0..200)
            .map(|_| draw(longest, &mut random).as_millis())
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [0, 1, 2, 3]);
        assert_eq!(draw(Duration::ZERO, &mut random), Duration::ZERO);
        draw(Duration::MAX, &mut random);
    }
}
