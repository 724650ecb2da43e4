//! Why a run ended without publishing.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::activity::Stages;
use crate::database::DatabaseError;
use crate::exit::Exit;
use crate::registry::RegistryError;
use crate::run::RunOutcome;
use crate::stop::StopReason;
use crate::store::{Namesake, StoreError};

/// Why a run ended without publishing.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A request to the registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A statement failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database could not be reached, or has another schema.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The instance is too old.
    #[error("the instance has version {version}; the artifact list exists from 25.6.0 on")]
    UnsupportedVersion {
        /// The version from the API.
        version: String,
    },
    /// The database has the instance under another project.
    #[error(
        "instance {swr_instance_id} is in the database as one of project {stored}, not {given}"
    )]
    WrongInstance {
        swr_instance_id: String,
        /// The project in the database.
        stored: String,
        /// The project of this run.
        given: String,
    },
    /// The database has an instance of this name under another id.
    #[error(
        "instance {swr_instance_id} has the name `{name}`, as has instance {} of the same project, \
         which this database mirrors already ({})",
        namesake.swr_instance_id, LastPublished(namesake)
    )]
    SameName {
        swr_instance_id: String,
        name: String,
        /// The other instance.
        namesake: Box<Namesake>,
    },
    /// There is nothing to compare.
    #[error("the database has no published run of instance {swr_instance_id}")]
    NeverPublished { swr_instance_id: String },
    /// The listing has many times more rows than the catalog counts.
    #[error(
        "the artifact list does not end: it has returned {listed} rows, but the catalog counts {counted} artifacts"
    )]
    EndlessListing {
        /// Rows read so far.
        listed: u64,
        /// The catalog's count of all repositories together.
        counted: u64,
    },
    /// Work remained, and nothing happened for a long time: a bug of this program.
    #[error(
        "the run is stuck: work is left, but no request and no statement has started or ended for {} ({stages})",
        humantime::format_duration(*patience)
    )]
    Stalled {
        /// How long nothing happened.
        patience: Duration,
        /// What each stage was waiting for.
        stages: Stages,
    },
    /// The limit on threads or open files is too low.
    #[error("the thread that stores build histories could not start: {0}")]
    NoThread(#[source] io::Error),
    /// A signal, or the time limit.
    #[error("stopped by {0}; the data received so far is stored, nothing was published")]
    Stopped(StopReason),
    /// The same, but the database did not confirm that publish was cancelled.
    #[error("stopped by {0} while publishing, and the database did not confirm the result")]
    StoppedPublishing(StopReason),
}

impl SyncError {
    /// The exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            SyncError::Registry(error) if error.is_key_denied() => Exit::Denied,
            SyncError::Registry(error) => match error.status().map(|status| status.status) {
                Some(401 | 403) => Exit::Denied,
                Some(status @ 400..=499) if !matches!(status, 408 | 425 | 429) => Exit::Usage,
                _ => Exit::SourceUnavailable,
            },
            SyncError::Store(StoreError::Locked { .. }) => Exit::Locked,
            SyncError::Store(StoreError::MassRemoval(_)) => Exit::Refused,
            SyncError::Store(_) => Exit::Database,
            SyncError::Database(error) => error.exit(),
            SyncError::UnsupportedVersion { .. } | SyncError::NeverPublished { .. } => Exit::Usage,
            SyncError::EndlessListing { .. } => Exit::SourceUnavailable,
            SyncError::Stalled { .. } | SyncError::NoThread(_) => Exit::Unexpected,
            SyncError::WrongInstance { .. } | SyncError::SameName { .. } => Exit::Refused,
            SyncError::Stopped(reason) | SyncError::StoppedPublishing(reason) => reason.exit(),
        }
    }

    /// The outcome of a run that ends with this error.
    pub fn outcome(&self) -> RunOutcome {
        match self {
            SyncError::Stopped(_) | SyncError::StoppedPublishing(_) => RunOutcome::Stopped,
            _ => RunOutcome::Failed,
        }
    }
}

impl From<StopReason> for SyncError {
    fn from(reason: StopReason) -> SyncError {
        SyncError::Stopped(reason)
    }
}

struct LastPublished<'a>(&'a Namesake);

impl fmt::Display for LastPublished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.last_published_at {
            Some(at) => write!(f, "last published {}", at.format("%Y-%m-%d %H:%M UTC")),
            None => f.write_str("never published"),
        }
    }
}
