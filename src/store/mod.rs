//! PostgreSQL: the lock, the run rows, staging, build histories, and publish.
//!
//! Statements use a session, which has a timeout for each statement; transactions begin one level up.
//! The store never makes a request, and takes the time from its caller.

mod content;
mod copy;
mod findings;
mod history;
mod layering;
mod lock;
mod names;
mod publish;
mod readiness;
mod removal;
mod runs;
mod session;
mod stage;
mod uncataloged;
mod verify;

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::build_history::Refusal;
use crate::database::SqlError;

pub use findings::{prepare_findings, update_findings};
pub use history::{
    HistoryWriter, HistoryWrites, has_other_instances, histories_wanted, reuse_histories,
};
pub use lock::{InstanceLock, LockAttempt, LockHolder};
pub use names::{
    InstanceName, RepositoryName, instance_names, known_digest, namespace_names, repository_names,
};
pub use publish::{MassRemoval, Publishing, RemovedKind, RepositoryLoss, analyze, publish};
pub use readiness::{
    InstanceState, ServerState, instance_state, is_public_open, missing_migration_rights,
    missing_run_rights, server_state,
};
pub use removal::{DoubtfulRemovals, doubtful_removals};
pub use runs::{
    Instance, InstanceStatus, ListingAge, Namesake, OtherClocks, Run, RunEnd, describe_instance,
    find_namesake, instance_statuses, listing_ages, note_listing, other_clocks, save_progress,
};
pub use session::Session;
pub use stage::{
    RowNumbers, repositories_listing, stage_artifacts, stage_namespaces, stage_repositories,
};
pub use verify::{
    Comparison, compare_histories, compare_listing, histories_to_verify, record_verification,
    verified_run,
};

/// Errors of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("cannot {doing}")]
    Statement {
        /// Completes "cannot …".
        doing: &'static str,
        source: SqlError,
    },
    /// Too many artifacts, or tags of artifacts that stay, are missing.
    #[error("{0}")]
    MassRemoval(Box<MassRemoval>),
    /// No answer before the timeout.
    #[error("cannot {doing}: no answer from the database within {}", humantime::format_duration(*limit))]
    Silent {
        /// Completes "cannot …".
        doing: &'static str,
        limit: Duration,
    },
    /// The connection was lost after the commit of publish was sent and before it was confirmed.
    #[error("cannot tell whether the new listing was published: no answer to its commit")]
    CommitUnknown(#[source] SqlError),
    /// The session for publish is not the one that took the lock.
    #[error("the lock of the instance is lost: the database session is not the one from the start")]
    LockLost,
    /// Another session holds the lock of the instance.
    #[error("{}", Locked(holder.as_deref(), *waited))]
    Locked {
        /// `None` if the lock was released in the meantime.
        holder: Option<Box<LockHolder>>,
        /// How long this run waited for it.
        waited: Option<Duration>,
    },
}

impl StoreError {
    /// Whether the database refused the values to be stored. Other values may succeed, because the cause is
    /// not the session, the privileges, or the state of the server.
    pub fn is_about_content(&self) -> bool {
        let StoreError::Statement { source, .. } = self else {
            return false;
        };
        match &source.0 {
            // Too long for the protocol.
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => true,
            sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                // Data exceptions, constraint violations, program limits (PostgreSQL, appendix A); and
                // a value that needs more memory than the server has or allows.
                ["22", "23", "54"].contains(&&code[..2.min(code.len())])
                    || matches!(&*code, "53200" | "XX000")
            }),
            _ => false,
        }
    }

    /// Whether a row to be inserted already exists.
    fn is_duplicate(&self) -> bool {
        let StoreError::Statement { source, .. } = self else {
            return false;
        };
        source
            .0
            .as_database_error()
            .is_some_and(|error| error.is_unique_violation())
    }

    /// The error of a commit of publish. If the server refused the commit, nothing was published; if its
    /// answer was lost, that is unknown.
    fn of_commit(self) -> StoreError {
        match self {
            StoreError::Statement { source, .. } if !is_refusal(&source) => {
                StoreError::CommitUnknown(source)
            }
            error => error,
        }
    }

    /// The error as the outcome of a build history.
    pub fn refusal_of_content(&self) -> Refusal {
        let code = match self {
            StoreError::Statement { source, .. } => {
                source.0.as_database_error().and_then(|error| error.code())
            }
            _ => None,
        };
        let code = code.map(|code| code.into_owned());
        let what = code.as_deref().unwrap_or("its size");
        Refusal {
            status: None,
            message: format!("the database refuses to store this build history ({what})"),
            code,
        }
    }
}

struct Locked<'a>(Option<&'a LockHolder>, Option<Duration>);

impl fmt::Display for Locked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Locked(holder, waited) = self;
        f.write_str(match holder.is_none_or(LockHolder::is_run) {
            true => "another sync of this instance is already running",
            false => "the lock of this instance is held by a session that is no run of swr-sync",
        })?;
        if let Some(waited) = waited {
            // Three digits are enough.
            let waited = match waited.as_secs() {
                0 => Duration::from_millis(waited.as_millis() as u64),
                seconds => Duration::from_secs(seconds),
            };
            write!(f, " (waited {})", humantime::format_duration(waited))?;
        }
        match holder {
            Some(holder) => write!(f, ": {holder}"),
            None => Ok(()),
        }
    }
}

/// Whether the server returned an error and did not just end the session.
fn is_refusal(error: &SqlError) -> bool {
    error
        .code()
        .is_some_and(|code| !code.starts_with("57P") && !code.starts_with("08"))
}

/// PostgreSQL stores microseconds. Truncated here, so that compared and stored times are equal.
fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}
