//! Counters of a run in progress.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use crate::build_history::{HistoryAnswer, HistoryOutcome};
use crate::registry::RequestMeter;
use crate::run::{RunCounters, with_counters};
use crate::store;

macro_rules! define_progress {
    ($($metric:ident $(by $label:ident)?: $help:literal [$($name:ident)+])+) => {
        /// The progress of a run. The run writes it, and what displays progress reads it.
        #[derive(Debug, Default)]
        pub struct Progress {
            /// 0 before the run has a row.
            pub(super) run_id: AtomicI64,
            pub(super) phase: AtomicU8,
            pub(super) histories_wanted: AtomicU64,
            /// The catalog's count; 0 if it has none.
            pub(super) artifacts_expected: AtomicU64,
            $($(pub(super) $name: AtomicU64,)+)+
        }

        impl Progress {
            /// The counters so far. Those that only publish can count are 0.
            pub fn counters(&self, meter: &RequestMeter) -> RunCounters {
                RunCounters {
                    requests: meter.counts(),
                    $($($name: self.$name.load(Ordering::Relaxed),)+)+
                }
            }
        }
    };
}
with_counters!(define_progress);

/// The phases of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connecting, taking the lock.
    Starting = 0,
    /// Waiting for the end of another run over the instance.
    Waiting = 1,
    /// Reading namespaces and repositories.
    Catalog = 2,
    /// Listing artifacts, and fetching build histories concurrently.
    Listing = 3,
    /// The listing is complete; build histories are still being fetched.
    Histories = 4,
    /// The one transaction.
    Publishing = 5,
}

impl Progress {
    /// What the run is doing now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Waiting,
            2 => Phase::Catalog,
            3 => Phase::Listing,
            4 => Phase::Histories,
            _ => Phase::Publishing,
        }
    }

    /// Number of build histories that have to be requested, as far as known.
    pub fn histories_wanted(&self) -> u64 {
        self.histories_wanted.load(Ordering::Relaxed)
    }

    /// Artifacts of the registry as the catalog counts them; 0 before it is read, or if it does not.
    pub fn artifacts_expected(&self) -> u64 {
        self.artifacts_expected.load(Ordering::Relaxed)
    }

    /// The number of the run; `None` before it has a row.
    pub fn run_id(&self) -> Option<i64> {
        Some(self.run_id.load(Ordering::Relaxed)).filter(|run_id| *run_id != 0)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        tracing::debug!(?phase, "phase");
    }

    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn note(&self, answers: &[HistoryAnswer], writes: store::HistoryWrites) {
        for answer in answers {
            let counter = match answer.outcome {
                HistoryOutcome::Stored(_) | HistoryOutcome::Empty(_) => &self.histories_fetched,
                HistoryOutcome::Unsupported(_) => &self.histories_unsupported,
                HistoryOutcome::Gone(_) => &self.histories_gone,
                HistoryOutcome::Forbidden(_) | HistoryOutcome::Failed(_) => &self.histories_failed,
            };
            Progress::add(counter, 1);
        }
        Progress::add(&self.rows_written, writes.rows);
        Progress::add(&self.data_issues, writes.data_issues);
    }
}
