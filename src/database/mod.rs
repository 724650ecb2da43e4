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

/// Timeout for a connection, including the wait for a server that is starting up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Interval between attempts while the server is starting up.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);

/// Time for cancelling a migration after a request to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Timeout for one step on the database, unless [`Database::with_timeout`] sets another.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Additional time for the server to report that it ended a step at the timeout.
const MARGIN: Duration = Duration::from_secs(2);

/// The oldest PostgreSQL that supports our SQL.
const FIRST_SERVER_VERSION: i32 = 140_000;

/// Errors before the first statement.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be used. It is not quoted, because it may contain a password.
    #[error("the database URL is not valid: {0}")]
    Url(UrlProblem),
    /// No connection.
    #[error("cannot connect to the database {place}")]
    Unreachable {
        /// Host and database, without user or password.
        place: String,
        /// The error of the driver.
        source: SqlError,
    },
    /// No connection within the timeout.
    #[error("cannot connect to the database {place}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Host and database, without user or password.
        place: String,
    },
    /// The server or the database cannot store the tables.
    #[error("the database {place} cannot be used: {problem}")]
    Unusable {
        /// Host and database, without user or password.
        place: String,
        /// The reason.
        problem: Unusable,
    },
    /// No response within the timeout.
    #[error("cannot {doing}: no answer from the database within {}", humantime::format_duration(*limit))]
    Silent {
        /// The step.
        doing: &'static str,
        /// The timeout.
        limit: Duration,
    },
    /// The schema is missing, or older than the program.
    #[error("{}", lacking(*missing, *known))]
    MigrationNeeded {
        /// Migrations to apply.
        missing: usize,
        /// Migrations the program knows.
        known: usize,
    },
    /// The schema was migrated by a newer program.
    #[error(
        "the database has the migration {version}, which this program does not know: it is newer"
    )]
    NewerSchema {
        /// The unknown migration.
        version: i64,
    },
    /// The schema was created by migrations of an unreleased version.
    #[error(
        "the schema is from an unreleased version of swr-sync: its migration {version} differs"
    )]
    UnreleasedSchema {
        /// The migration with the same number but different text.
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
    /// The migrations table cannot be used, or applied migrations differ from the program's.
    #[error("cannot migrate the database")]
    Migrations(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A signal or the time limit, before all migrations were applied.
    #[error("stopped by {0} while migrating the database")]
    Stopped(StopReason),
    /// The migrations table cannot be read.
    #[error("cannot read the schema version")]
    Version(#[source] SqlError),
}

/// Why a database cannot store the tables.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Not PostgreSQL, but a fork of PostgreSQL 9.2.
    #[error("the server is openGauss or GaussDB")]
    OpenGauss,
    /// The version lacks required SQL.
    #[error("the server is too old: {0}")]
    OldServer(String),
    /// The encoding cannot store every text that a registry contains.
    #[error("its encoding is {0}, but names and commands of images need UTF8")]
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
    /// The exit code.
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

fn lacking(missing: usize, known: usize) -> String {
    match missing == known {
        true => "the database is empty: nothing was synced into it yet".to_owned(),
        false => format!("the database lacks {missing} of {known} migrations"),
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
    /// Parses a URL such as `postgresql://user:password@host/name`; libpq documents its options.
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
            // Poolers reject unknown settings, and no table has floats.
            .extra_float_digits(None)
            .disable_statement_logging();
        Ok(Database {
            options,
            place,
            timeout: DEFAULT_TIMEOUT,
        })
    }

    /// Sets the timeout for one step on the database, such as a statement.
    pub fn with_timeout(self, timeout: Duration) -> Database {
        Database { timeout, ..self }
    }

    /// The timeout for one step on the database.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Database and host, without user or password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Opens a connection for writing. The server ends statements at the timeout, and ends the session soon
    /// after this process ended, so that locks do not outlive their run.
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

    /// Applies the missing migrations and returns their number.
    pub async fn migrate(&self) -> Result<usize, DatabaseError> {
        let (_stopper, never) = stop::channel();
        self.migrate_until(&never).await
    }

    /// The same, with a check for a request to stop. Each migration is applied completely or not at all, so
    /// the next attempt continues from there.
    pub async fn migrate_until(&self, stop: &Stop) -> Result<usize, DatabaseError> {
        let beginning = async {
            let missing = match self.check().await {
                Ok(()) => return Ok(None),
                Err(DatabaseError::MigrationNeeded { missing, .. }) => missing,
                Err(error) => return Err(error),
            };
            let mut connection = self.connect_to_write().await?;
            let asking = backend_process_id(&mut connection);
            let session = with_timeout(self.timeout, asking)
                .await
                .ok_or_else(|| self.silent("migrate the database"))?
                .map_err(|error| DatabaseError::Version(error.into()))?;
            Ok(Some((missing, connection, session)))
        };
        let begun = stop.or(beginning).await.map_err(DatabaseError::Stopped)?;
        let Some((missing, connection, session)) = begun? else {
            return Ok(0);
        };
        let mut migrating = std::pin::pin!(with_timeout(self.timeout, migrate(connection)));
        let migrated = tokio::select! {
            migrated = &mut migrating => migrated,
            reason = stop.requested() => {
                // Otherwise the session would continue for a while and keep sqlx's lock.
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

    /// Tries to cancel the statement of another session of ours.
    pub async fn cancel(&self, session: i32) {
        if let Ok(mut connection) = self.connect_to_write().await {
            let _ = cancel(&mut connection, session).await;
        }
    }

    /// Checks that the schema is the one of this program.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        let (mut connection, _) = self.connect(Purpose::Read).await?;
        let reading = async {
            let applied = applied_migrations(&mut connection).await;
            // Nothing is pending on the connection.
            let _ = connection.close().await;
            applied
        };
        let applied = with_timeout(self.timeout, reading)
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

/// Applies the timeout of a step, and a little more: if the server itself ends the
/// statement, it reports that within this time, with a better message.
pub async fn with_timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit.saturating_add(MARGIN), work)
        .await
        .ok()
}

/// The server process of a connection, for [`cancel`].
async fn backend_process_id(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(r#"select pg_backend_pid() as "backend_process_id!""#)
        .fetch_one(connection)
        .await
}

/// Cancels the statement of another session of the same role, if one is running.
async fn cancel(connection: &mut PgConnection, backend_process_id: i32) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!("select pg_cancel_backend($1)", backend_process_id)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// A timeout as a server setting, whose maximum is about 24 days, and where 0 means none.
fn milliseconds(limit: Duration) -> u128 {
    limit.as_millis().clamp(1, i32::MAX as u128)
}

/// Why the server cannot be used, if there is a reason.
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
    reason = "sqlx creates the table, so query! does not know it"
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

/// Applies the missing migrations with a separate connection.
///
/// A failed migration keeps sqlx's session lock, so the connection must
/// not be used afterwards: it is passed by value and always closed.
pub async fn migrate(mut connection: PgConnection) -> Result<(), MigrateError> {
    let migrating = async {
        let migrator = migrator(&mut connection).await?;
        migrator.run(&mut connection).await
    };
    let result = migrating.await;
    // The server notices a lost connection; nothing is pending on it.
    let _ = connection.close().await;
    result
}

/// The migrations, without statements that create existing schemas: an administrator may have
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
