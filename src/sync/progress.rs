//! What a run has done so far, counted as it goes.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use crate::build_history::{HistoryAnswer, HistoryOutcome};
use crate::registry::RequestMeter;
use crate::run::RunCounters;
use crate::store;

/// What a run is doing; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// 0 before the run has a row.
    pub(super) run_id: AtomicI64,
    pub(super) phase: AtomicU8,
    pub(super) catalog_pages: AtomicU64,
    pub(super) pages: AtomicU64,
    pub(super) artifacts_listed: AtomicU64,
    pub(super) histories_wanted: AtomicU64,
    pub(super) histories_reused: AtomicU64,
    pub(super) histories_fetched: AtomicU64,
    pub(super) histories_unsupported: AtomicU64,
    pub(super) histories_gone: AtomicU64,
    pub(super) histories_failed: AtomicU64,
    pub(super) histories_skipped: AtomicU64,
    pub(super) data_issues: AtomicU64,
    pub(super) rows_written: AtomicU64,
}

/// The phases of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connecting, taking the lock.
    Starting = 0,
    /// Another run over the instance is going on; its end is waited for.
    Waiting = 1,
    /// Reading namespaces and repositories.
    Catalog = 2,
    /// Listing artifacts, and fetching build histories beside it.
    Listing = 3,
    /// The listing is complete; build histories are still coming.
    Histories = 4,
    /// The one transaction.
    Publishing = 5,
}

/// A moment of [`Progress`].
#[derive(Debug, Clone, Copy)]
#[expect(
    missing_docs,
    reason = "each is described at its column of swr.sync_run"
)]
pub struct ProgressNow {
    pub phase: Phase,
    pub pages: u64,
    pub artifacts_listed: u64,
    /// Requests for histories that were found necessary so far.
    pub histories_wanted: u64,
    /// Of these, how many have their answer stored.
    pub histories_done: u64,
    pub histories_failed: u64,
    /// Of those wanted, how many are not asked for in this run.
    pub histories_skipped: u64,
}

impl Progress {
    /// What the run is doing now.
    pub fn now(&self) -> ProgressNow {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let failed = read(&self.histories_failed);
        ProgressNow {
            phase: match self.phase.load(Ordering::Relaxed) {
                0 => Phase::Starting,
                1 => Phase::Waiting,
                2 => Phase::Catalog,
                3 => Phase::Listing,
                4 => Phase::Histories,
                _ => Phase::Publishing,
            },
            pages: read(&self.pages),
            artifacts_listed: read(&self.artifacts_listed),
            histories_wanted: read(&self.histories_wanted),
            histories_done: read(&self.histories_fetched)
                + read(&self.histories_unsupported)
                + read(&self.histories_gone)
                + failed,
            histories_failed: failed,
            histories_skipped: read(&self.histories_skipped),
        }
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

    /// What was counted so far. What only publish can tell is 0.
    pub fn counters(&self, meter: &RequestMeter) -> RunCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RunCounters {
            requests: meter.counts(),
            catalog_pages: read(&self.catalog_pages),
            pages: read(&self.pages),
            artifacts_listed: read(&self.artifacts_listed),
            histories_fetched: read(&self.histories_fetched),
            histories_reused: read(&self.histories_reused),
            histories_unsupported: read(&self.histories_unsupported),
            histories_gone: read(&self.histories_gone),
            histories_failed: read(&self.histories_failed),
            histories_skipped: read(&self.histories_skipped),
            data_issues: read(&self.data_issues),
            rows_written: read(&self.rows_written),
            ..RunCounters::default()
        }
    }
}
