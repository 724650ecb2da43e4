//! Counts requests as they end.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::run::{RequestCounts, RequestKind};

/// Counts requests; shared by whoever sends them and whoever shows them.
#[derive(Debug, Default)]
pub struct RequestMeter(Mutex<RequestCounts>);

impl RequestMeter {
    /// What was counted so far.
    pub fn counts(&self) -> RequestCounts {
        self.lock().clone()
    }

    pub(super) fn answered(&self, kind: RequestKind, status: Option<u16>) {
        *self
            .lock()
            .by_kind_and_status
            .entry((kind, status))
            .or_default() += 1;
    }

    pub(super) fn retried(&self) {
        self.lock().retries += 1;
    }

    fn lock(&self) -> MutexGuard<'_, RequestCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
