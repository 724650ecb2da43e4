//! A separate database for every test, on a real PostgreSQL server.
//!
//! The server is, in this order: the one of `TEST_DATABASE_URL`; the embedded one, if PostgreSQL's
//! programs are installed; a container. `TEST_DATABASE_BACKEND` (`url`, `local` or `container`) selects
//! one of them.
//!
//! The migrations run once, in a template; the database of a test is a copy of it. Tests coordinate
//! through locks on the server, so this works with a process for each test and with a thread for each
//! test.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, LazyLock, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Column, Connection, PgConnection, Row, ValueRef};
use swr_sync::database::{MIGRATOR, migrate};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::mirror::wait_until;

mod container;

/// Templates are built, and leftovers dropped, under this exclusive advisory
/// lock; databases are copied under the shared one.
const TEMPLATE_LOCK: &str = "hashtextextended('swr-sync test templates', 0)";

/// Timeout for each step on the server, including the wait for the lock.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// The test of an older database no longer runs.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// An older template belongs to migrations that have changed since.
const TEMPLATE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Outlives the runtimes of single tests. So it runs the server and drops databases.
static BACKGROUND: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("test-database")
        .enable_all()
        .build()
        .expect("a runtime for the test databases")
});

/// A database that is dropped together with this value.
pub(crate) struct TestDatabase {
    name: String,
    url: String,
    /// Taken by `drop`.
    server: Option<Arc<Server>>,
}

impl TestDatabase {
    /// A database with the migrations applied.
    pub(crate) async fn create() -> TestDatabase {
        create(true).await
    }

    /// An empty database.
    pub(crate) async fn create_empty() -> TestDatabase {
        create(false).await
    }

    /// A database on a separate server of the test. It is removed with its server.
    pub(crate) fn at(url: String) -> TestDatabase {
        TestDatabase {
            name: String::new(),
            url,
            server: None,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        match PgConnection::connect(&self.url).await {
            Ok(connection) => connection,
            Err(error) => panic!("connecting to the test database {}: {error}", self.name),
        }
    }

    /// Runs statements without a result.
    pub(crate) async fn execute(&self, sql: &str) {
        self.snapshot(sql).await;
    }

    /// How the last run ended: its outcome and exit code.
    pub(crate) async fn last_run(&self) -> String {
        self.snapshot("select outcome, exit_code from swr.sync_run order by run_id desc limit 1")
            .await
    }

    /// These columns of the last run's row, by name.
    pub(crate) async fn last_run_with(&self, columns: &str) -> Value {
        self.row(&format!(
            "select {columns} from swr.sync_run order by run_id desc limit 1"
        ))
        .await
    }

    /// The only row of a query as an object, so that an assertion names the columns.
    pub(crate) async fn row(&self, sql: &str) -> Value {
        let object = self
            .snapshot(&format!("select to_jsonb(row) from ({sql}) row"))
            .await;
        serde_json::from_str(&object).unwrap_or_else(|error| panic!("{sql}: {error}: {object}"))
    }

    /// Everything that publishing writes.
    pub(crate) async fn published(&self) -> String {
        let mut rows = String::new();
        for table in [
            "namespace",
            "repository",
            "artifact",
            "tag",
            "tag_history",
            "data_issue",
        ] {
            let sql = format!("select '{table}', t.* from swr.{table} t order by t");
            rows.push_str(&self.snapshot(&sql).await);
            rows.push('\n');
        }
        rows
    }

    /// The rows of a query, one per line, in PostgreSQL's own text format:
    /// `value | value | NULL`.
    pub(crate) async fn snapshot(&self, sql: &str) -> String {
        let mut connection = self.connect().await;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let _ = connection.close().await;
        let lines = rows.iter().map(|row| {
            let values = row.columns().iter().map(|column| {
                let value = row.try_get_raw(column.ordinal()).unwrap();
                match value.is_null() {
                    true => "NULL".to_owned(),
                    false => value.as_str().unwrap().to_owned(),
                }
            });
            values.collect::<Vec<_>>().join(" | ")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn lacks_all_migrations() -> String {
    "the database is empty: nothing was synced into it yet".to_owned()
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        let Some(server) = self.server.take() else {
            return;
        };
        let (done, is_done) = mpsc::channel();
        BACKGROUND.spawn(async move {
            if let Err(error) = drop_database(&server, &name).await {
                warn(&format!("dropping {name}: {error}"));
            }
            release(server).await;
            drop(done);
        });
        let waits = LIFE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end(is_done);
        for is_done in waits {
            let _: Result<(), _> = is_done.recv_timeout(STEP_TIMEOUT);
        }
    }
}

/// The databases of this process that are in use, and those that are being dropped.
///
/// Only the last one waits until all are dropped, so that none remains when the process ends. Others must
/// not wait: to drop a database, the server needs a reaction of every session, and a session that is
/// sending rows reacts only when the rows are read, possibly by another future of the waiting task.
struct Life {
    in_use: usize,
    /// Each is closed, without a message, when the database is dropped.
    dropping: Vec<mpsc::Receiver<()>>,
}

static LIFE: std::sync::Mutex<Life> = std::sync::Mutex::new(Life {
    in_use: 0,
    dropping: Vec::new(),
});

impl Life {
    /// The channels to wait for when a database is no longer used.
    fn end(&mut self, is_done: mpsc::Receiver<()>) -> Vec<mpsc::Receiver<()>> {
        let goes_on =
            |dropping: &mpsc::Receiver<()>| dropping.try_recv() == Err(TryRecvError::Empty);
        self.dropping.retain(goes_on);
        self.dropping.push(is_done);
        self.in_use -= 1;
        match self.in_use {
            0 => std::mem::take(&mut self.dropping),
            _ => Vec::new(),
        }
    }
}

/// The future is created and run on the background runtime, because that of sqlx's migrator is not `Send`.
async fn create(migrated: bool) -> TestDatabase {
    let create = move || BACKGROUND.block_on(try_create(migrated));
    match BACKGROUND.spawn_blocking(create).await {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => panic!("{error}"),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn try_create(migrated: bool) -> Result<TestDatabase, String> {
    let server = server().await?;
    let name = format!("swr_test_{}_{:016x}", unix_seconds(), random());
    let failed = |cause: &str| format!("creating the test database {name}: {cause}");
    match timeout(STEP_TIMEOUT, create_database(&server, &name, migrated)).await {
        Ok(created) => created.map_err(|error| failed(&chain(&error)))?,
        Err(_) => return Err(failed(&format!("no end after {STEP_TIMEOUT:?}"))),
    }
    LIFE.lock().unwrap_or_else(PoisonError::into_inner).in_use += 1;
    Ok(TestDatabase {
        url: server.url_of(&name),
        name,
        server: Some(server),
    })
}

async fn create_database(server: &Server, name: &str, migrated: bool) -> Result<(), sqlx::Error> {
    let mut admin = PgConnection::connect(&server.admin_url).await?;
    if !migrated {
        execute(
            &mut admin,
            format!("create database {name} template template0"),
        )
        .await?;
        return admin.close().await;
    }
    let hash = migrations_hash();
    execute(
        &mut admin,
        format!("select pg_advisory_lock_shared({TEMPLATE_LOCK})"),
    )
    .await?;
    let template = match find_template(&mut admin, &hash).await? {
        Some(template) => template,
        None => {
            execute(
                &mut admin,
                format!("select pg_advisory_unlock_shared({TEMPLATE_LOCK})"),
            )
            .await?;
            execute(
                &mut admin,
                format!("select pg_advisory_lock({TEMPLATE_LOCK})"),
            )
            .await?;
            match find_template(&mut admin, &hash).await? {
                Some(template) => template,
                None => build_template(&mut admin, server, &hash).await?,
            }
        }
    };
    execute(
        &mut admin,
        format!("create database {name} template {template}"),
    )
    .await?;
    // Closing the session releases the lock.
    admin.close().await
}

async fn find_template(
    admin: &mut PgConnection,
    hash: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select datname::text from pg_database where starts_with(datname, $1)")
        .bind(format!("swr_template_{hash}_"))
        .fetch_optional(admin)
        .await
}

/// Builds the template under another name, so that an interrupted attempt is
/// never mistaken for it.
async fn build_template(
    admin: &mut PgConnection,
    server: &Server,
    hash: &str,
) -> Result<String, sqlx::Error> {
    let unfinished = format!("swr_unfinished_{hash}");
    let template = format!("swr_template_{hash}_{}", unix_seconds());
    execute(
        admin,
        format!("drop database if exists {unfinished} with (force)"),
    )
    .await?;
    execute(
        admin,
        // The same order of texts on every server.
        format!("create database {unfinished} template template0 lc_collate 'C' lc_ctype 'C'"),
    )
    .await?;
    let mut connection = PgConnection::connect(&server.url_of(&unfinished)).await?;
    // The default since PostgreSQL 15; `doctor` warns about the earlier one.
    execute(
        &mut connection,
        "revoke create on schema public from public".to_owned(),
    )
    .await?;
    migrate(connection).await?;
    execute(
        admin,
        format!("alter database {unfinished} rename to {template}"),
    )
    .await?;
    Ok(template)
}

fn migrations_hash() -> String {
    let mut hash = Sha256::new();
    for migration in MIGRATOR.iter() {
        hash.update(migration.version.to_be_bytes());
        hash.update(&migration.checksum);
    }
    let hash = hash.finalize();
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn drop_database(server: &Server, name: &str) -> Result<(), String> {
    let drop = async {
        let mut admin = PgConnection::connect(&server.admin_url).await?;
        execute(
            &mut admin,
            format!("drop database if exists {name} with (force)"),
        )
        .await?;
        admin.close().await
    };
    match timeout(STEP_TIMEOUT / 2, drop).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Drops databases of killed tests. Skipped while a template is being built, and for databases with
/// connections.
async fn drop_leftovers(admin_url: &str) -> Result<(), sqlx::Error> {
    let mut admin = PgConnection::connect(admin_url).await?;
    let lock = format!("select pg_try_advisory_lock({TEMPLATE_LOCK})");
    let locked: bool = sqlx::query_scalar(AssertSqlSafe(lock))
        .fetch_one(&mut admin)
        .await?;
    if locked {
        let unused: Vec<String> = sqlx::query_scalar(
            "select datname::text from pg_database
             where datname ~ '^swr_(test|template)_'
               and not exists (select from pg_stat_activity a where a.datid = pg_database.oid)",
        )
        .fetch_all(&mut admin)
        .await?;
        for name in unused.iter().filter(|name| is_leftover(name)) {
            execute(&mut admin, format!("drop database if exists {name}")).await?;
        }
    }
    admin.close().await
}

/// Reads the age from `swr_test_<seconds>_<random>` or `swr_template_<hash>_<seconds>`.
fn is_leftover(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let (created_at, age) = match parts[..] {
        ["swr", "test", seconds, _] => (seconds, LEFTOVER_AGE),
        ["swr", "template", _, seconds] => (seconds, TEMPLATE_AGE),
        _ => return false,
    };
    created_at
        .parse::<u64>()
        .is_ok_and(|created_at| unix_seconds() > created_at + age.as_secs())
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}

/// The server that this process uses.
struct Server {
    admin_url: String,
    hold: Hold,
}

/// What keeps the server running.
enum Hold {
    /// The server is not ours.
    Nothing,
    /// A lock that the kernel releases when this process ends.
    Embedded {
        _server: embedded_postgres::EmbeddedServer,
    },
    /// Removed after the last test: nothing removes it later.
    Container(Box<container::PostgresContainer>),
}

impl Server {
    fn url_of(&self, database: &str) -> String {
        let mut url = reqwest::Url::parse(&self.admin_url).expect("connecting has parsed it");
        url.set_path(database);
        url.into()
    }
}

enum Shared {
    Untried,
    /// The error, stored so that not every test waits for the same timeouts.
    Unavailable(String),
    /// For the life of the process.
    Permanent(Arc<Server>),
    /// Exists while a test uses it. A weak reference, because values in a static are never dropped.
    UntilUnused(Weak<Server>),
}

static SERVER: Mutex<Shared> = Mutex::const_new(Shared::Untried);

async fn server() -> Result<Arc<Server>, String> {
    let mut shared = SERVER.lock().await;
    match &*shared {
        Shared::Unavailable(error) => return Err(error.clone()),
        Shared::Permanent(server) => return Ok(Arc::clone(server)),
        Shared::UntilUnused(server) => {
            if let Some(server) = server.upgrade() {
                return Ok(server);
            }
        }
        Shared::Untried => {}
    }
    match find_server().await {
        Err(error) => {
            *shared = Shared::Unavailable(error.clone());
            Err(error)
        }
        Ok(server) => {
            let server = Arc::new(server);
            *shared = match server.hold {
                Hold::Container(_) => Shared::UntilUnused(Arc::downgrade(&server)),
                _ => Shared::Permanent(Arc::clone(&server)),
            };
            Ok(server)
        }
    }
}

/// Releases the server, and removes its container if this was the last use.
async fn release(server: Arc<Server>) {
    let _nobody_takes_it_meanwhile = SERVER.lock().await;
    if let Some(Server {
        hold: Hold::Container(container),
        ..
    }) = Arc::into_inner(server)
    {
        container.remove().await;
    }
}

async fn find_server() -> Result<Server, String> {
    let setting = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let url = setting("TEST_DATABASE_URL");
    let server = match (setting("TEST_DATABASE_BACKEND").as_deref(), url) {
        (Some("url") | None, Some(url)) => at_url(url),
        (Some("url"), None) => Err("TEST_DATABASE_BACKEND is url, and no TEST_DATABASE_URL".into()),
        (Some("local"), _) => local().await,
        (Some("container"), _) => in_container().await,
        (Some(other), _) => Err(format!(
            "TEST_DATABASE_BACKEND is `{other}`; it can be url, local or container"
        )),
        (None, None) => match local().await {
            Ok(server) => Ok(server),
            Err(local) => in_container().await.map_err(|container| {
                format!(
                    "tests need PostgreSQL: set TEST_DATABASE_URL to a server on which databases \
                     may be created, or install PostgreSQL's server programs ({local}), or run a \
                     container engine ({container})"
                )
            }),
        },
    }?;
    let swept = timeout(STEP_TIMEOUT, drop_leftovers(&server.admin_url)).await;
    match swept {
        Ok(Ok(())) => Ok(server),
        Ok(Err(error)) => Err(format!(
            "the test server does not answer: {}",
            chain(&error)
        )),
        Err(_) => Err(format!(
            "the test server does not answer within {STEP_TIMEOUT:?}"
        )),
    }
}

fn at_url(url: String) -> Result<Server, String> {
    if reqwest::Url::parse(&url).is_err() {
        return Err("TEST_DATABASE_URL is not a URL".to_owned());
    }
    Ok(Server {
        admin_url: url,
        hold: Hold::Nothing,
    })
}

/// The embedded server, shared by every test process of this user.
async fn local() -> Result<Server, String> {
    use embedded_postgres::{EmbeddedError, EmbeddedServer, EmbeddedSettings};

    let binaries_dir = std::env::var_os("SWR_SYNC_POSTGRES_BIN_DIR");
    let mut folder = format!(
        "swr-sync-test-{}-{}",
        nix::unistd::geteuid(),
        env!("CARGO_PKG_VERSION")
    );
    // A different PostgreSQL must not use the same data.
    if let Some(dir) = &binaries_dir {
        let hash = Sha256::digest(dir.as_encoded_bytes());
        folder.push_str(&format!("-{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2]));
    }
    let settings = EmbeddedSettings {
        data_dir: Some(std::env::temp_dir().join(folder)),
        binaries_dir: binaries_dir.map(Into::into),
        use_installed: true,
        fetch: None,
        search_path: std::env::var_os("PATH"),
        supervisor_executable: env!("CARGO_BIN_EXE_swr-sync").into(),
        start_timeout: Duration::from_secs(120),
        durable: false,
    };
    let server = EmbeddedServer::start(&settings)
        .await
        .map_err(|error| match error {
            EmbeddedError::NoBinaries { searched, .. } => format!("there are none in {searched}"),
            error => chain(&error),
        })?;
    Ok(Server {
        admin_url: server.url().to_owned(),
        hold: Hold::Embedded { _server: server },
    })
}

async fn in_container() -> Result<Server, String> {
    let container = container::PostgresContainer::start().await?;
    Ok(Server {
        admin_url: container.url().to_owned(),
        hold: Hold::Container(Box::new(container)),
    })
}

/// A failed cleanup does not fail a test: a later run repeats it.
#[expect(clippy::print_stderr, reason = "libtest shows it with the test")]
fn warn(message: &str) {
    eprintln!("{message}");
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}

/// A number that differs between processes and calls, for names.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[tokio::test]
async fn a_test_gets_a_database_of_its_own_with_the_migrations_applied() {
    let database = TestDatabase::create().await;
    let other = TestDatabase::create().await;
    assert_ne!(database.url(), other.url());
    let migrations = "select bool_and(success) from swr._sqlx_migrations";
    assert_eq!(database.snapshot(migrations).await, "t");
    let values = "select 1, null, 'a b' union all select 2, 'x', ''";
    assert_eq!(database.snapshot(values).await, "1 | NULL | a b\n2 | x | ");
}

#[tokio::test]
async fn an_empty_database_has_no_schema_of_ours() {
    let database = TestDatabase::create_empty().await;
    let schemas = "select count(*) from pg_namespace where nspname like 'swr%'";
    assert_eq!(database.snapshot(schemas).await, "0");
}

#[tokio::test]
async fn a_database_is_dropped_with_its_test_even_if_somebody_is_connected() {
    let database = TestDatabase::create_empty().await;
    let _connected = database.connect().await;
    let name = database.name.clone();
    drop(database);
    let other = TestDatabase::create_empty().await;
    let left = format!("select count(*) from pg_database where datname = '{name}'");
    wait_until("the database is dropped", async || {
        other.snapshot(&left).await == "0"
    })
    .await;
}

#[test]
fn only_old_databases_of_tests_are_leftovers() {
    let now = unix_seconds();
    assert!(is_leftover("swr_test_1700000000_0123456789abcdef"));
    assert!(!is_leftover(&format!("swr_test_{now}_0123456789abcdef")));
    assert!(is_leftover("swr_template_0123456789abcdef_1700000000"));
    assert!(!is_leftover(&format!(
        "swr_template_0123456789abcdef_{now}"
    )));
    assert!(!is_leftover("swr_test_mine"));
    assert!(!is_leftover("postgres"));
}
