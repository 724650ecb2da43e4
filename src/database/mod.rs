//! PostgreSQL: connections and migrations.

pub mod grants;
pub mod reader;

mod error;
mod hint;
mod session;
mod url;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqlSafeStr};

use crate::exit::Exit;
use crate::stop::{self, Stop, StopReason};

use reader::Reader;
use session::{Purpose, Server};

pub use error::SqlError;
pub use hint::hint;
pub use url::{UrlProblem, is_ssl_mode};

/// The migrations under `migrations/`. sqlx keeps its own table in the schema `swr` too.
pub static MIGRATOR: Migrator = Migrator {
    table_name: Cow::Borrowed("swr._sqlx_migrations"),
    create_schemas: Cow::Borrowed(&[Cow::Borrowed("swr")]),
    ..sqlx::migrate!()
};

/// The application name of our sessions in `pg_stat_activity`, before the version.
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

/// The oldest PostgreSQL that supports our SQL.
const FIRST_SERVER_VERSION: i32 = 140_000;

/// What can go wrong before the first statement.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be used. It is not repeated, since it may contain a password.
    #[error("the database URL is not valid: {0}")]
    Url(UrlProblem),
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
    /// The server or the database cannot hold the tables.
    #[error("the database {place} cannot be used: {problem}")]
    Unusable {
        /// Host and database, without user or password.
        place: String,
        /// Why.
        problem: Unusable,
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
    /// The schema was made by files that no release has.
    #[error(
        "the schema is from an unreleased version of swr-sync: its migration {version} differs"
    )]
    UnreleasedSchema {
        /// The migration of the same number whose text differs.
        version: i64,
    },
    /// A migration failed.
    #[error("cannot apply migration {version}")]
    Migration {
        /// Its number.
        version: i64,
        /// The error of the database.
        source: SqlError,
    },
    /// The bookkeeping of the migrations failed, or the applied ones differ from the program's.
    #[error("cannot migrate the database")]
    Migrations(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A signal, or the time limit, before all migrations were applied.
    #[error("stopped by {0} while migrating the database")]
    Stopped(StopReason),
    /// The migrations table cannot be read.
    #[error("cannot read the schema version")]
    Version(#[source] SqlError),
}

/// Why a database cannot hold the tables.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Not PostgreSQL, but a fork of PostgreSQL 9.2.
    #[error("the server is openGauss or GaussDB")]
    OpenGauss,
    /// The version lacks SQL that is needed.
    #[error("the server is too old: {0}")]
    OldServer(String),
    /// Not every text that a registry holds can be stored.
    #[error("its encoding is {0}, and names and commands of images need UTF8")]
    Encoding(String),
}

impl Unusable {
    /// The next step.
    pub fn hint(&self) -> &'static str {
        match self {
            Unusable::OpenGauss => hint::OPEN_GAUSS,
            Unusable::OldServer(_) => "use PostgreSQL 14 or later",
            Unusable::Encoding(_) => {
                "create another database, with `create database NAME encoding 'UTF8' locale 'C' \
                 template template0`, and name it in the database URL"
            }
        }
    }
}

impl DatabaseError {
    /// The exit code it asks for.
    pub fn exit(&self) -> Exit {
        match self {
            DatabaseError::Url(_) => Exit::Usage,
            DatabaseError::NewerSchema { .. } | DatabaseError::UnreleasedSchema { .. } => {
                Exit::Refused
            }
            DatabaseError::Stopped(reason) => reason.exit(),
            DatabaseError::Unreachable { .. }
            | DatabaseError::Timeout { .. }
            | DatabaseError::Unusable { .. }
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
        let options = url::parse(url).map_err(DatabaseError::Url)?;
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None if options.get_host().contains(':') => {
                format!("[{}]:{}", options.get_host(), options.get_port())
            }
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

    /// Sets the limit for one step on the database, such as a statement.
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

    /// Opens a connection for writing. The server ends waits after the limit, and the session soon
    /// after this process has ended, so that locks do not outlive their run.
    pub async fn connect_to_write(&self) -> Result<PgConnection, DatabaseError> {
        let (connection, server) = self.connect(Purpose::Write).await?;
        match unusable(server) {
            None => Ok(connection),
            Some(problem) => Err(DatabaseError::Unusable {
                place: self.place.clone(),
                problem,
            }),
        }
    }

    /// Opens a connection for reading.
    pub async fn connect_to_read(&self) -> Result<Reader, DatabaseError> {
        let (connection, _) = self.connect(Purpose::Read).await?;
        Ok(Reader::new(connection, self.timeout))
    }

    /// Connects, waits for a server that is starting up, and configures the session.
    async fn connect(&self, purpose: Purpose) -> Result<(PgConnection, Server), DatabaseError> {
        let mut not_yet = None;
        let connecting = async {
            let mut connection = loop {
                match self.options.connect().await {
                    Err(error) if hint::is_starting_up(&error) => not_yet = Some(error),
                    result => break result?,
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
            };
            let server = session::begin(&mut connection, purpose, self.timeout).await?;
            Ok((connection, server))
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let place = self.place.clone();
        match (connected, not_yet) {
            (Ok(Ok(connected)), _) => Ok(connected),
            (Ok(Err(source)), _) | (Err(_), Some(source)) => {
                let source = source.into();
                Err(DatabaseError::Unreachable { place, source })
            }
            (Err(_), None) => Err(DatabaseError::Timeout { place }),
        }
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
    pub async fn cancel(&self, session: i32) {
        if let Ok(mut connection) = self.connect_to_write().await {
            let _ = cancel(&mut connection, session).await;
        }
    }

    /// Whether the schema is the one this program knows.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        let (mut connection, _) = self.connect(Purpose::Read).await?;
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
        for (version, checksum) in &applied {
            let version = *version;
            match MIGRATOR.iter().find(|known| known.version == version) {
                Some(known) if known.checksum == *checksum => {}
                Some(_) => return Err(DatabaseError::UnreleasedSchema { version }),
                None => return Err(DatabaseError::NewerSchema { version }),
            }
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
async fn cancel(connection: &mut PgConnection, backend_process_id: i32) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!("select pg_cancel_backend($1)", backend_process_id)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// A limit as a setting of the server, where the largest value is about 24 days, and 0 no limit.
fn milliseconds(limit: Duration) -> u128 {
    limit.as_millis().clamp(1, i32::MAX as u128)
}

/// The reason why the server cannot be written to, if there is one.
fn unusable(server: Server) -> Option<Unusable> {
    let Server {
        version,
        version_number,
        encoding,
    } = server;
    if version.to_lowercase().contains("gauss") {
        return Some(Unusable::OpenGauss);
    }
    if version_number < FIRST_SERVER_VERSION {
        return Some(Unusable::OldServer(version));
    }
    (encoding != "UTF8").then_some(Unusable::Encoding(encoding))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the table is made by sqlx and unknown to query!"
)]
async fn applied_migrations(
    connection: &mut PgConnection,
) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("select to_regclass('swr._sqlx_migrations') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "select version, checksum from swr._sqlx_migrations where success order by version",
    )
    .fetch_all(connection)
    .await
}

/// Applies the migrations that are missing, over a connection of its own.
///
/// A failed migration leaves sqlx's session lock held, so the connection must
/// not outlive the attempt: it is taken by value and always closed.
pub async fn migrate(mut connection: PgConnection) -> Result<(), MigrateError> {
    let migrating = async {
        let migrator = migrator(&mut connection).await?;
        migrator.run(&mut connection).await
    };
    let result = migrating.await;
    // The server notices a lost connection by itself; nothing is pending on it.
    let _ = connection.close().await;
    result
}

/// The migrations, without statements that create schemas that exist: an administrator may have
/// created them for a role that cannot create schemas.
async fn migrator(connection: &mut PgConnection) -> Result<Migrator, MigrateError> {
    let schemas: Vec<String> = sqlx::query_scalar!(
        r#"select nspname::text as "schema!" from pg_namespace where nspname in ('swr', 'swr_report')"#
    )
    .fetch_all(connection)
    .await?;
    let mut migrations = MIGRATOR.migrations.to_vec();
    for schema in &schemas {
        let statement = format!("create schema {schema};");
        for migration in &mut migrations {
            if migration.sql.as_str().contains(&statement) {
                let sql = migration.sql.as_str().replace(&statement, "");
                // The checksum stays that of the file.
                migration.sql = AssertSqlSafe(sql).into_sql_str();
            }
        }
    }
    let is_missing = |schema: &Cow<'static, str>| !schemas.iter().any(|there| there == schema);
    Ok(Migrator {
        migrations: migrations.into(),
        create_schemas: MIGRATOR
            .create_schemas
            .iter()
            .filter(|schema| is_missing(schema))
            .cloned()
            .collect(),
        table_name: MIGRATOR.table_name.clone(),
        ..Migrator::DEFAULT
    })
}
