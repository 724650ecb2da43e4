//! What a run is currently doing, so that a watchdog can distinguish a waiting run from a stuck one.
//!
//! Requests, statements and planned delays are registered here while they last, each with its
//! time limit. A run is stuck if it has work to do and nothing registered is within its limit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The activity of one run. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// When the latest request, statement or delay started or ended.
    last_change: Option<Instant>,
    /// The deadline of each request, statement or delay in progress.
    in_progress: HashMap<u64, Instant>,
    next_id: u64,
    /// What each stage waits for.
    stages: BTreeMap<&'static str, &'static str>,
}

/// A request, a statement or a delay in progress; dropping it ends it.
#[derive(Debug)]
pub struct InProgress {
    activity: Activity,
    id: u64,
    is_change: bool,
}

/// What each stage of a stuck run was waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stages(BTreeMap<&'static str, &'static str>);

impl Activity {
    /// Registers a request, statement or delay that ends within `limit`.
    pub fn begin(&self, limit: Duration) -> InProgress {
        self.register(limit, true)
    }

    /// As [`begin`](Activity::begin), for periodic work that does not depend on the progress of the
    /// run: it may take as long as `limit`, but its start and end do not count as progress.
    pub fn begin_heartbeat(&self, limit: Duration) -> InProgress {
        self.register(limit, false)
    }

    fn register(&self, limit: Duration, is_change: bool) -> InProgress {
        let now = Instant::now();
        let mut state = self.state();
        if is_change {
            state.last_change = Some(now);
        }
        let id = state.next_id;
        state.next_id += 1;
        // A deadline beyond the range of the clock is ignored: nothing takes that long.
        let end = now.checked_add(limit).unwrap_or(now);
        state.in_progress.insert(id, end);
        InProgress {
            activity: self.clone(),
            id,
            is_change,
        }
    }

    /// The latest time at which something started or ended, or the latest deadline; `None` before
    /// anything started.
    pub fn quiet_since(&self) -> Option<Instant> {
        let state = self.state();
        let ends = state.in_progress.values().copied();
        ends.chain(state.last_change).max()
    }

    /// Records what a stage waits for.
    pub fn waits(&self, stage: &'static str, what: &'static str) {
        self.state().stages.insert(stage, what);
    }

    /// Returns when nothing has started, ended or been within its deadline for `patience`.
    ///
    /// `external` returns the latest time until which something outside this run, such as a pause that
    /// instances share, delays it.
    pub async fn stalled(
        &self,
        patience: Duration,
        external: impl Fn() -> Option<Instant>,
    ) -> Stages {
        let begin = Instant::now();
        loop {
            let quiet_since = self
                .quiet_since()
                .max(external())
                .unwrap_or(begin)
                .max(begin);
            let (now, end) = (Instant::now(), quiet_since + patience);
            if now >= end {
                return Stages(self.state().stages.clone());
            }
            // Most things in progress end long before their deadline, so check again soon.
            tokio::time::sleep_until(end.min(now + patience / 4)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.in_progress.remove(&self.id);
        if self.is_change {
            state.last_change = Some(Instant::now());
        }
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (stage, what)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{stage}: waiting for {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn what_is_within_its_limit_is_not_stuck_and_what_is_beyond_it_is() {
        let activity = Activity::default();
        activity.waits("fetcher", "an answer");
        let begin = Instant::now();
        let statement = activity.begin(Duration::from_secs(600));
        let stages = activity.stalled(PATIENCE, || None).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(720));
        assert_eq!(stages.to_string(), "fetcher: waiting for an answer");
        drop(statement);

        let begin = Instant::now();
        activity.stalled(PATIENCE, || None).await;
        assert_eq!(begin.elapsed(), PATIENCE, "after the last thing ended");

        let begin = Instant::now();
        let end = begin + Duration::from_secs(30);
        activity.stalled(PATIENCE, || Some(end)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(150), "a pause outside");
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_early_does_not_hold_up_the_watchdog_until_its_limit() {
        let activity = Activity::default();
        let statement = activity.begin(Duration::from_secs(600));
        let begin = Instant::now();
        let ending = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            drop(statement);
        };
        tokio::join!(ending, activity.stalled(PATIENCE, || None));
        assert!(begin.elapsed() <= Duration::from_secs(10) + PATIENCE + PATIENCE / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_do_not_hide_that_a_run_is_stuck_but_a_slow_one_is_waited_for() {
        let activity = Activity::default();
        let stalled_after = async |length| {
            let begin = Instant::now();
            let beating = async {
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_secs(15)).await;
                    let _heartbeat = activity.begin_heartbeat(Duration::from_secs(600));
                    tokio::time::sleep(length).await;
                }
            };
            tokio::select! {
                () = beating => {}
                _ = activity.stalled(PATIENCE, || None) => {}
            }
            begin.elapsed()
        };
        let elapsed = stalled_after(Duration::from_millis(10)).await;
        assert!(elapsed <= PATIENCE + PATIENCE / 4, "{elapsed:?}");
        let slow = Duration::from_secs(500);
        let elapsed = stalled_after(slow).await;
        assert!(elapsed > slow, "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_keeps_starting_things_is_never_stuck() {
        let activity = Activity::default();
        let working = async {
            for _ in 0..100 {
                tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
                drop(activity.begin(Duration::from_secs(1)));
            }
        };
        tokio::select! {
            biased;
            () = working => {}
            _ = activity.stalled(PATIENCE, || None) => panic!("stuck"),
        }
    }
}
