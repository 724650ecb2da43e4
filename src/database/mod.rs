//! PostgreSQL: connections, migrations, and the embedded server.

#[cfg(feature = "embedded-db")]
pub mod embedded;
pub mod grants;
pub mod reader;

mod error;
mod hint;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::exit::Exit;
use crate::stop::{self, Stop, StopReason};

use reader::Reader;

pub use error::SqlError;
pub use hint::hint;

/// The migrations under `migrations/`. sqlx keeps its own table in the schema `swr` too.
pub static MIGRATOR: Migrator = Migrator {
    table_name: Cow::Borrowed("swr._sqlx_migrations"),
    create_schemas: Cow::Borrowed(&[Cow::Borrowed("swr")]),
    ..sqlx::migrate!()
};

/// What our sessions call themselves in `pg_stat_activity`, before the version.
pub(crate) const APPLICATION: &str = "swr-sync";

/// Limit for a connection to stand, the wait for a server that is starting up included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to wait before a server that is starting up is asked again.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);

/// What the wish to stop leaves to a migration that is cancelled.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Limit for one step on the database, unless [`Database::with_timeout`] sets another.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// What a step gets beyond the limit, for the server to say that it ended it.
const MARGIN: Duration = Duration::from_secs(2);

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
        source: SqlError,
    },
    /// No connection within the time-out.
    #[error("cannot connect to the database {place}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Host and database, without user or password.
        place: String,
    },
    /// No answer within the limit.
    #[error("cannot {doing}: no answer from the database within {}", humantime::format_duration(*limit))]
    Silent {
        /// What was asked of it.
        doing: &'static str,
        /// The limit.
        limit: Duration,
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
    #[error("cannot apply migration {version}")]
    Migration {
        /// Its number.
        version: i64,
        /// What came back.
        source: SqlError,
    },
    /// Something around the migrations failed, or the applied ones are not the program's.
    #[error("cannot migrate the database")]
    Migrations(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A signal, or the time limit, before all migrations were applied.
    #[error("stopped by {0} while migrating the database")]
    Stopped(StopReason),
    /// The migrations table cannot be read.
    #[error("cannot read the schema version")]
    Version(#[source] SqlError),
}

impl DatabaseError {
    /// The exit code it asks for.
    pub fn exit(&self) -> Exit {
        match self {
            DatabaseError::Url => Exit::Usage,
            DatabaseError::NewerSchema { .. } => Exit::Refused,
            DatabaseError::Stopped(reason) => reason.exit(),
            DatabaseError::Unreachable { .. }
            | DatabaseError::Timeout { .. }
            | DatabaseError::Silent { .. }
            | DatabaseError::MigrationNeeded { .. }
            | DatabaseError::Migration { .. }
            | DatabaseError::Migrations(_)
            | DatabaseError::Version(_) => Exit::Database,
        }
    }
}

/// A database to connect to.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
    place: String,
    timeout: Duration,
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
            .application_name(&format!("{APPLICATION} {}", env!("CARGO_PKG_VERSION")))
            // Poolers refuse what they do not know, and no table has a float.
            .extra_float_digits(None)
            .disable_statement_logging();
        Ok(Database {
            options,
            place,
            timeout: DEFAULT_TIMEOUT,
        })
    }

    /// Sets the limit for one step on the database, such as a statement, or publish as a whole.
    pub fn with_timeout(self, timeout: Duration) -> Database {
        Database { timeout, ..self }
    }

    /// The limit for one step on the database.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Database and host, without user or password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        let place = self.place.clone();
        let mut not_yet = None;
        let connecting = async {
            loop {
                match self.options.connect().await {
                    Err(error) if hint::is_starting_up(&error) => not_yet = Some(error),
                    result => return result,
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(unreachable(place, source)),
            Err(_) => Err(match not_yet {
                Some(source) => unreachable(place, source),
                None => DatabaseError::Timeout { place },
            }),
        }
    }

    /// Opens a connection for writing: the server ends its waits after the limit, and its
    /// session soon after we have gone, even without a word. So locks do not outlive their run.
    pub async fn connect_to_write(&self) -> Result<PgConnection, DatabaseError> {
        let mut connection = self.connect().await?;
        let limiting = limit_waits(&mut connection, self.timeout);
        let place = self.place.clone();
        match tokio::time::timeout(CONNECT_TIMEOUT, limiting).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(source)) => Err(unreachable(place, source)),
            Err(_) => Err(DatabaseError::Timeout { place }),
        }
    }

    /// Opens a connection for reading.
    pub async fn connect_to_read(&self) -> Result<Reader, DatabaseError> {
        Ok(Reader::new(self.connect().await?, self.timeout))
    }

    /// Applies the migrations that are missing, and gives their number.
    pub async fn migrate(&self) -> Result<usize, DatabaseError> {
        let (_stopper, never) = stop::channel();
        self.migrate_until(&never).await
    }

    /// The same, unless it is to stop. Each migration is applied as a whole or not at all, so what
    /// is left is done by the next attempt.
    pub async fn migrate_until(&self, stop: &Stop) -> Result<usize, DatabaseError> {
        let beginning = async {
            let missing = match self.check().await {
                Ok(()) => return Ok(None),
                Err(DatabaseError::MigrationNeeded { missing, .. }) => missing,
                Err(error) => return Err(error),
            };
            let mut connection = self.connect_to_write().await?;
            let asking = backend_process_id(&mut connection);
            let session = within(self.timeout, asking)
                .await
                .ok_or_else(|| self.silent("migrate the database"))?
                .map_err(|error| DatabaseError::Version(error.into()))?;
            Ok(Some((missing, connection, session)))
        };
        let begun = stop.or(beginning).await.map_err(DatabaseError::Stopped)?;
        let Some((missing, connection, session)) = begun? else {
            return Ok(0);
        };
        let mut migrating = std::pin::pin!(within(self.timeout, migrate(connection)));
        let migrated = tokio::select! {
            migrated = &mut migrating => migrated,
            reason = stop.requested() => {
                // Left alone, the session would go on for a while, and keep sqlx's lock.
                let ending = async { tokio::join!(self.cancel(session), migrating).1 };
                match tokio::time::timeout(STOP_GRACE, ending).await {
                    Ok(Some(Ok(()))) => return Ok(missing),
                    _ => return Err(DatabaseError::Stopped(reason)),
                }
            }
        };
        migrated
            .ok_or_else(|| self.silent("migrate the database"))?
            .map_err(|error| match error {
                MigrateError::VersionMissing(version) => DatabaseError::NewerSchema { version },
                MigrateError::ExecuteMigration(source, version) => DatabaseError::Migration {
                    version,
                    source: source.into(),
                },
                MigrateError::Execute(source) => {
                    DatabaseError::Migrations(Box::new(SqlError(source)))
                }
                error => DatabaseError::Migrations(Box::new(error)),
            })?;
        Ok(missing)
    }

    /// Ends the statement that another session of ours is in, as well as it can be done.
    async fn cancel(&self, session: i32) {
        if let Ok(mut connection) = self.connect().await {
            let _ = cancel(&mut connection, session).await;
        }
    }

    /// Whether the schema is the one this program knows.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        let mut connection = self.connect().await?;
        let reading = async {
            let applied = applied_migrations(&mut connection).await;
            // Nothing is pending on it.
            let _ = connection.close().await;
            applied
        };
        let applied = within(self.timeout, reading)
            .await
            .ok_or_else(|| self.silent("read the schema version"))?
            .map_err(|error| DatabaseError::Version(error.into()))?;
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

    fn silent(&self, doing: &'static str) -> DatabaseError {
        DatabaseError::Silent {
            doing,
            limit: self.timeout,
        }
    }
}

fn unreachable(place: String, source: sqlx::Error) -> DatabaseError {
    let source = source.into();
    DatabaseError::Unreachable { place, source }
}

/// Gives a step on the database its limit, and a little more: where the server itself ends the
/// wait, it says so in that time, and better.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit.saturating_add(MARGIN), work)
        .await
        .ok()
}

/// The server's process behind a connection, for [`cancel`].
async fn backend_process_id(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(r#"select pg_backend_pid() as "backend_process_id!""#)
        .fetch_one(connection)
        .await
}

/// Ends the statement that another session of the same role is in, if any.
pub async fn cancel(
    connection: &mut PgConnection,
    backend_process_id: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!("select pg_cancel_backend($1)", backend_process_id)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// A limit as a setting of the server, where the largest value is about 24 days, and 0 no limit.
fn milliseconds(limit: Duration) -> u128 {
    limit.as_millis().clamp(1, i32::MAX as u128)
}

/// Has the server give up waiting, for us and on our behalf. What a server does not know, such
/// as an old one, is left out.
async fn limit_waits(connection: &mut PgConnection, limit: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select set_config(name, value, false) as value
         from (values
             ('statement_timeout', $1),
             -- A process that is frozen in the middle of a transaction.
             ('idle_in_transaction_session_timeout', $1),
             -- A process that was killed while its statement waits.
             ('client_connection_check_interval', '2s'),
             -- A machine that vanished from the network.
             ('tcp_keepalives_idle', '30'),
             ('tcp_keepalives_interval', '10'),
             ('tcp_keepalives_count', '3'),
             ('tcp_user_timeout', '60000')
         ) as w (name, value)
         join pg_settings using (name)",
        milliseconds(limit).to_string()
    )
    .fetch_all(connection)
    .await?;
    Ok(())
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
