//! Counts completed requests.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::run::{RequestCounts, RequestKind};

/// Counts requests. Shared by the code that sends requests and the code that displays the counts.
#[derive(Debug, Default)]
pub struct RequestMeter(Mutex<RequestCounts>);

impl RequestMeter {
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
