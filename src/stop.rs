//! Stopping the program: by a signal, or at the time limit.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit::Exit;

/// Why the program stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The time limit was reached.
    TimeLimit(Duration),
}

impl StopReason {
    /// The exit code after a clean shutdown.
    pub fn exit(self) -> Exit {
        match self {
            StopReason::Interrupt => Exit::Interrupted,
            StopReason::Terminate => Exit::Terminated,
            StopReason::TimeLimit(_) => Exit::SourceUnavailable,
        }
    }
}

/// As in "stopped by …".
impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Interrupt | StopReason::Terminate => f.write_str("a signal"),
            StopReason::TimeLimit(limit) => {
                write!(
                    f,
                    "the time limit of {}",
                    humantime::format_duration(*limit)
                )
            }
        }
    }
}

/// The sending side of [`Stop`].
#[derive(Debug)]
pub struct Stopper(watch::Sender<Option<(StopReason, Instant)>>);

/// The receiving side: reports that the program must stop.
#[derive(Debug, Clone)]
pub struct Stop {
    asked: watch::Receiver<Option<(StopReason, Instant)>>,
    limit: Option<TimeLimit>,
}

#[derive(Debug, Clone, Copy)]
struct TimeLimit {
    limit: Duration,
    end: Instant,
}

/// Creates both sides.
pub fn channel() -> (Stopper, Stop) {
    let (sender, asked) = watch::channel(None);
    (Stopper(sender), Stop { asked, limit: None })
}

impl Stopper {
    /// Requests a stop. Only the first reason counts.
    pub fn stop(&self, reason: StopReason) {
        self.0.send_if_modified(|current| {
            let is_first = current.is_none();
            current.get_or_insert_with(|| (reason, Instant::now()));
            is_first
        });
    }
}

impl Stop {
    /// Also stops after the time limit. A limit beyond the range of the clock is ignored.
    pub fn with_time_limit(self, limit: Duration) -> Stop {
        let end = Instant::now().checked_add(limit);
        Stop {
            limit: end.map(|end| TimeLimit { limit, end }),
            ..self
        }
    }

    /// Waits for the request to stop; never returns if there can be none.
    pub async fn requested(&self) -> StopReason {
        let mut asked = self.asked.clone();
        let asking = async {
            match asked.wait_for(Option::is_some).await.map(|asked| *asked) {
                Ok(Some((reason, _))) => reason,
                _ => std::future::pending().await,
            }
        };
        let waiting = async {
            match self.limit {
                Some(TimeLimit { limit, end }) => {
                    tokio::time::sleep_until(end).await;
                    StopReason::TimeLimit(limit)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = asking => reason,
            reason = waiting => reason,
        }
    }

    /// Does work that may be cancelled at any point. Does not start it if a stop was requested.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, StopReason> {
        tokio::select! {
            biased;
            reason = self.requested() => Err(reason),
            done = work => Ok(done),
        }
    }

    /// When a signal was received; `None` without one.
    pub fn requested_at(&self) -> Option<Instant> {
        self.asked.borrow().map(|(_, since)| since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_ends_what_no_signal_has_ended() {
        let (_stopper, stop) = channel();
        let stop = stop.with_time_limit(HOUR);
        let begin = Instant::now();
        assert_eq!(stop.requested().await, StopReason::TimeLimit(HOUR));
        assert_eq!(begin.elapsed(), HOUR);
        assert_eq!(stop.or(async {}).await, Err(StopReason::TimeLimit(HOUR)));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_signal_and_a_limit_the_first_counts() {
        let (stopper, stop) = channel();
        let stop = stop.with_time_limit(HOUR);
        assert_eq!(stop.or(async { 1 }).await, Ok(1));
        stopper.stop(StopReason::Terminate);
        stopper.stop(StopReason::Interrupt);
        assert_eq!(stop.requested().await, StopReason::Terminate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_no_clock_reaches_is_none() {
        let (_stopper, stop) = channel();
        let stop = stop.with_time_limit(Duration::MAX);
        let requested = tokio::time::timeout(1_000 * HOUR, stop.requested());
        assert!(requested.await.is_err());
    }
}
