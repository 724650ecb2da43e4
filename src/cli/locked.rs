//! What `sync` does if another run of the instance is already running.

use std::str::FromStr;
use std::time::Duration;

use super::settings::parse_time;

/// The value of `--if-locked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfLocked {
    /// Exit with an error.
    Fail,
    /// Skip the instance: the other run does the work.
    Skip,
    /// Wait for the other run, at most for this time; `None` waits without a limit.
    Wait(Option<Duration>),
}

impl IfLocked {
    /// How long to wait for the lock.
    pub(super) fn lock_timeout(self) -> Option<Duration> {
        match self {
            IfLocked::Fail | IfLocked::Skip => Some(Duration::ZERO),
            IfLocked::Wait(timeout) => timeout,
        }
    }
}

impl FromStr for IfLocked {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<IfLocked, &'static str> {
        const EXPECTED: &str = "expected fail, skip, wait or wait=TIME, as in wait=10m";
        match text.split_once('=') {
            None if text == "fail" => Ok(IfLocked::Fail),
            None if text == "skip" => Ok(IfLocked::Skip),
            None if text == "wait" => Ok(IfLocked::Wait(None)),
            Some(("wait", time)) => match parse_time(time) {
                Ok(timeout) => Ok(IfLocked::Wait(Some(*timeout))),
                Err(_) => Err(EXPECTED),
            },
            _ => Err(EXPECTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_a_time_or_none() {
        let parse = |text: &str| text.parse::<IfLocked>();
        assert_eq!(parse("fail"), Ok(IfLocked::Fail));
        assert_eq!(parse("skip"), Ok(IfLocked::Skip));
        assert_eq!(parse("wait"), Ok(IfLocked::Wait(None)));
        let ten_minutes = Duration::from_secs(600);
        assert_eq!(parse("wait=10m"), Ok(IfLocked::Wait(Some(ten_minutes))));
        for text in [
            "", "wait=", "wait=10", "wait=2y", "wait:10m", "skip=10m", "Skip",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
