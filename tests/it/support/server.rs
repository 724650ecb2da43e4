//! A separate PostgreSQL server for a test, which may stop it, limit its resources and configure it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::{User, geteuid};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use super::database::TestDatabase;
use super::program::Program;

/// The superuser of the clusters.
pub(crate) const SUPERUSER: &str = "postgres";

/// As a crash would.
const STOP: &str = "stop -w -t 60 -m immediate";

/// Stopped when dropped.
pub(crate) struct PrivateServer {
    folder: TempDir,
    binaries: PathBuf,
    /// PostgreSQL refuses to run as root.
    user: Option<User>,
    /// More arguments of the server.
    options: String,
}

impl PrivateServer {
    /// A running server, with these lines before those of its `pg_hba.conf`.
    pub(crate) async fn start_with(access: &str) -> PrivateServer {
        PrivateServer::start_as(access, "").await
    }

    /// A running server with more arguments: `-c name=value`.
    pub(crate) async fn start_with_options(options: &str) -> PrivateServer {
        PrivateServer::start_as("", options).await
    }

    async fn start_as(access: &str, options: &str) -> PrivateServer {
        let (access, options) = (access.to_owned(), options.to_owned());
        let starting = move || {
            let server = PrivateServer::create(options);
            server.run(
                "initdb",
                &format!("-U {SUPERUSER} -A trust -E UTF8 --locale=C --no-sync"),
            );
            let hba = server.data().join("pg_hba.conf");
            let lines = std::fs::read_to_string(&hba).unwrap();
            std::fs::write(&hba, format!("{access}\n{lines}")).unwrap();
            server.start();
            server
        };
        tokio::task::spawn_blocking(starting).await.unwrap()
    }

    pub(crate) async fn new() -> PrivateServer {
        PrivateServer::start_with("").await
    }

    fn create(options: String) -> PrivateServer {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let user = geteuid().is_root().then(|| {
            let named = |name| User::from_name(name).unwrap();
            named("postgres").or_else(|| named("nobody")).unwrap()
        });
        let server = PrivateServer {
            folder,
            binaries: binaries(),
            user,
            options,
        };
        server.folder_of_its_own("data");
        server.folder_of_its_own("socket");
        server
    }

    /// A folder that the server may write to.
    pub(crate) fn folder_of_its_own(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        self.give(&folder);
        folder
    }

    pub(crate) fn give(&self, folder: &Path) {
        if let Some(user) = &self.user {
            chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the server again.
    pub(crate) fn start(&self) {
        let socket = self.folder.path().join("socket");
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c max_connections=20 {}",
            socket.display(),
            self.options
        );
        let log = self.data().join("server.log");
        let start = self
            .command("pg_ctl")
            .args(["start", "-w", "-t", "60", "-o", &options, "-l"])
            .arg(log)
            .output();
        check("pg_ctl start", start);
    }

    /// Stops it as a crash would.
    pub(crate) fn stop_immediately(&self) {
        self.run("pg_ctl", STOP);
    }

    fn run(&self, program: &str, arguments: &str) {
        check(
            program,
            self.command(program).args(arguments.split(' ')).output(),
        );
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command
            .env_clear()
            .env("PGDATA", self.data())
            .current_dir("/");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// The URL of a database, for a user.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        let socket = self.folder.path().join("socket");
        format!(
            "postgresql://{user}@localhost/{database}?host={}",
            socket.display()
        )
    }

    /// A new database with the migrations applied.
    pub(crate) async fn migrated_database(&self, name: &str) -> TestDatabase {
        self.execute("postgres", &format!("create database {name}"))
            .await;
        let database = TestDatabase::at(self.url(SUPERUSER, name));
        Program::new(&["migrate"]).database(&database).code(0).await;
        database
    }

    /// Runs SQL in a database as the superuser.
    pub(crate) async fn execute(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await;
        for statement in sql
            .split(';')
            .filter(|statement| !statement.trim().is_empty())
        {
            sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
                .execute(&mut connection)
                .await
                .unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        connection.close().await.unwrap();
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        let url = self.url(SUPERUSER, database);
        PgConnection::connect(&url).await.unwrap()
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl").args(STOP.split(' ')).output();
    }
}

fn check(program: &str, output: std::io::Result<Output>) {
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {stderr}");
}

/// The folder with `initdb` and `pg_ctl`: the configured one, Debian's newest, or the one on the path. The
/// programs on the path are often links.
fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("SWR_SYNC_POSTGRES_BIN_DIR") {
        return folder.into();
    }
    let majors = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let newest = majors.flatten().filter_map(|entry| {
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        let folder = entry.path().join("bin");
        folder.join("pg_ctl").exists().then_some((major, folder))
    });
    if let Some((_, folder)) = newest.max() {
        return folder;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).find_map(|folder| {
        let program = folder.join("pg_ctl").canonicalize().ok()?;
        program.parent().map(Path::to_owned)
    });
    found.expect("PostgreSQL's server programs, to run a server of the test's own")
}
