//! PostgreSQL: the lock, the run rows, staging, build histories, and publish.
//!
//! Statements take a connection; transactions are opened one level up. The store
//! never makes a request, and takes the time from its caller.

mod content;
mod history;
mod layering;
mod lock;
mod publish;
mod runs;
mod stage;

use std::fmt;

use chrono::{DateTime, Utc};

pub use history::{
    HistoryWriter, HistoryWrites, has_other_instances, histories_wanted, reuse_histories,
};
pub use lock::{InstanceLock, LockHolder};
pub use publish::{MassRemoval, PublishCounts, Publishing, RepositoryLoss, analyze, publish};
pub use runs::{
    Instance, ListingAge, Namesake, Run, RunEnd, describe_instance, find_namesake, listing_ages,
    note_listing, save_progress,
};
pub use stage::{Staged, stage_artifacts, stage_catalog};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("cannot {doing}")]
    Statement {
        /// What it was to do.
        doing: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// Too many artifacts would be marked as removed.
    #[error("{0}")]
    MassRemoval(Box<MassRemoval>),
    /// Another run over the same instance is going on.
    #[error("another run over this instance is going on{}", Holder(holder.as_deref()))]
    Locked {
        /// Who it is; `None` if it ended in this moment.
        holder: Option<Box<LockHolder>>,
    },
}

struct Holder<'a>(Option<&'a LockHolder>);

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(LockHolder {
            host,
            process_id,
            run_id,
            since,
        }) = self.0
        else {
            return Ok(());
        };
        write!(
            f,
            ": run {run_id} on {host}, process {process_id}, since {}",
            since.format("%Y-%m-%d %H:%M:%S UTC")
        )
    }
}

/// Names what a statement was to do, for the error.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Statement { doing, source })
    }
}

/// PostgreSQL keeps microseconds: cut off here, so that what is compared is what is stored.
fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}
