//! PostgreSQL: connections, migrations, and the embedded server.

#[cfg(feature = "embedded-db")]
pub mod embedded;
pub mod grants;
pub mod reader;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::exit::Exit;

/// The migrations under `migrations/`. sqlx keeps its own table in the schema `swr` too.
pub static MIGRATOR: Migrator = Migrator {
    table_name: Cow::Borrowed("swr._sqlx_migrations"),
    create_schemas: Cow::Borrowed(&[Cow::Borrowed("swr")]),
    ..sqlx::migrate!()
};

/// Limit for a connection to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What can go wrong before the first statement.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be read. It is not repeated, since it may hold a password.
    #[error("the database URL is not valid: expected postgresql://user@host/name")]
    Url,
    /// No connection.
    #[error("cannot connect to the database {place}")]
    Unreachable {
        /// Host and database, without user or password.
        place: String,
        /// What came back.
        #[source]
        source: sqlx::Error,
    },
    /// No connection within the time-out.
    #[error("cannot connect to the database {place}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Host and database, without user or password.
        place: String,
    },
    /// The schema is not there, or older than the program.
    #[error("the database lacks {missing} of {known} migrations")]
    MigrationNeeded {
        /// Migrations to apply.
        missing: usize,
        /// Migrations the program knows.
        known: usize,
    },
    /// The schema was made by a newer program.
    #[error(
        "the database has the migration {version}, which this program does not know: it is newer"
    )]
    NewerSchema {
        /// The unknown migration.
        version: i64,
    },
    /// A migration failed.
    #[error("cannot migrate the database")]
    Migration(#[source] MigrateError),
    /// The migrations table cannot be read.
    #[error("cannot read the schema version")]
    Version(#[source] sqlx::Error),
}

impl DatabaseError {
    /// The exit code it asks for.
    pub fn exit(&self) -> Exit {
        match self {
            DatabaseError::Url => Exit::Usage,
            DatabaseError::NewerSchema { .. } => Exit::Refused,
            DatabaseError::Unreachable { .. }
            | DatabaseError::Timeout { .. }
            | DatabaseError::MigrationNeeded { .. }
            | DatabaseError::Migration(_)
            | DatabaseError::Version(_) => Exit::Database,
        }
    }
}

/// A database to connect to.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
    place: String,
}

/// Without the options, which would show the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Reads a URL such as `postgresql://user:password@host/name`; see libpq for its options.
    pub fn from_url(url: &str) -> Result<Database, DatabaseError> {
        if !is_unambiguous(url) {
            return Err(DatabaseError::Url);
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| DatabaseError::Url)?;
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let place = format!(
            "{} at {host}",
            options.get_database().unwrap_or("(default)")
        );
        let options = options
            .application_name(concat!("swr-sync ", env!("CARGO_PKG_VERSION")))
            .disable_statement_logging();
        Ok(Database { options, place })
    }

    /// Database and host, without user or password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        let place = self.place.clone();
        match tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(DatabaseError::Unreachable { place, source }),
            Err(_) => Err(DatabaseError::Timeout { place }),
        }
    }

    /// Applies the migrations that are missing, and gives their number.
    pub async fn migrate(&self) -> Result<usize, DatabaseError> {
        let missing = match self.check().await {
            Ok(()) => return Ok(0),
            Err(DatabaseError::MigrationNeeded { missing, .. }) => missing,
            Err(error) => return Err(error),
        };
        migrate(self.connect().await?)
            .await
            .map_err(|error| match error {
                MigrateError::VersionMissing(version) => DatabaseError::NewerSchema { version },
                error => DatabaseError::Migration(error),
            })?;
        Ok(missing)
    }

    /// Whether the schema is the one this program knows.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        let mut connection = self.connect().await?;
        let applied = applied_migrations(&mut connection)
            .await
            .map_err(DatabaseError::Version);
        // Nothing is pending on it.
        let _ = connection.close().await;
        let applied = applied?;
        if let Some(version) = applied
            .iter()
            .find(|version| !MIGRATOR.version_exists(**version))
        {
            return Err(DatabaseError::NewerSchema { version: *version });
        }
        let known = MIGRATOR.iter().count();
        match known - applied.len() {
            0 => Ok(()),
            missing => Err(DatabaseError::MigrationNeeded { missing, known }),
        }
    }
}

/// Whether a URL means what its writer meant. Without the scheme, the user would pass for it;
/// behind a slash that is not encoded, the rest of the password would. What is left would then
/// pass for the database's name, which messages show.
fn is_unambiguous(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let name = path.split(['?', '#']).next().unwrap_or_default();
    matches!(scheme, "postgresql" | "postgres") && !name.contains('@')
}

#[expect(
    clippy::disallowed_methods,
    reason = "the table is made by sqlx and unknown to query!"
)]
async fn applied_migrations(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("select to_regclass('swr._sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("select version from swr._sqlx_migrations where success order by version")
        .fetch_all(connection)
        .await
}

/// Applies the migrations that are missing, over a connection of its own.
///
/// A failed migration leaves sqlx's session lock held, so the connection must
/// not outlive the attempt: it is taken by value and always closed.
pub async fn migrate(mut connection: PgConnection) -> Result<(), MigrateError> {
    let result = MIGRATOR.run(&mut connection).await;
    // The server notices a lost connection by itself; nothing is pending on it.
    let _ = connection.close().await;
    result
}
