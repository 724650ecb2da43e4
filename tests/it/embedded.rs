//! The embedded server, with real processes that are observed through `/proc`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use embedded_postgres::{EmbeddedError, EmbeddedServer, EmbeddedSettings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::{assert_contains, assert_lacks, assert_starts_with};

/// Long, because the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn many_clients_at_once_share_one_server() {
    let world = World::new();
    let mut clients: Vec<Client> = (0..6).map(|_| world.client()).collect();
    let started_at = clients[0].ask("select pg_postmaster_start_time()");
    for client in &mut clients {
        assert_eq!(client.ask("select pg_postmaster_start_time()"), started_at);
    }
    assert_eq!(world.servers().len(), 1);
    assert_eq!(world.log().matches("starting PostgreSQL").count(), 1);
}

#[test]
fn data_survive_a_restart() {
    let world = World::new();
    let mut client = world.client();
    client.tell("create table t as select 42 as x");
    client.finish();
    world.wait_until_stopped();
    assert_eq!(world.client().ask("select x from t"), "42");
}

#[test]
fn a_killed_client_harms_nobody_and_leaves_nothing() {
    let world = World::new();
    let mut killed = world.client();
    let mut other = world.client();
    killed.tell("create table t as select 42 as x");
    assert_eq!(other.ask("select x from t"), "42");
    killed.kill();
    assert_eq!(other.ask("select x from t"), "42");
    other.kill();
    world.wait_until_stopped();
    assert!(world.log().contains("database system is shut down"));
}

#[test]
fn the_server_of_a_killed_supervisor_stops_and_the_next_start_finds_the_data() {
    let world = World::new();
    let mut client = world.client();
    client.tell("create table t as select 42 as x");
    let [server] = world.servers()[..] else {
        panic!("not one server");
    };
    kill(world.supervisor().unwrap(), Signal::SIGKILL).unwrap();
    wait_until("the server has stopped", || !runs(server));

    // The old client still holds its lock, which has no effect.
    assert_eq!(world.client().ask("select x from t"), "42");
    assert!(!world.log().contains("not properly shut down"));
}

#[test]
fn the_next_start_waits_for_a_server_that_a_killed_supervisor_has_left() {
    let world = World::new();
    let mut client = world.client();
    client.tell("create table t as select 42 as x");
    let [server] = world.servers()[..] else {
        panic!("not one server");
    };
    let supervisor = world.supervisor().unwrap();
    // While it is stopped, the signal of the kernel has no effect.
    kill(server, Signal::SIGSTOP).unwrap();
    kill(supervisor, Signal::SIGKILL).unwrap();
    wait_until("the supervisor has gone", || !runs(supervisor));

    let mut next = world.client();
    wait_until("the next supervisor is at work", || {
        !world.processes("supervise").is_empty()
    });
    assert_eq!(world.servers(), [server]);
    kill(server, Signal::SIGCONT).unwrap();
    assert_eq!(next.ask("select x from t"), "42");
    assert!(!world.log().contains("not properly shut down"));
}

#[test]
fn an_interrupted_initdb_leaves_nothing_half_made() {
    let world = World::new();
    let client = world.client();
    wait_until("initdb is at work", || {
        let folders = std::fs::read_dir(world.folder()).into_iter().flatten();
        let mut unfinished = folders.flatten().map(|entry| entry.path());
        unfinished.any(|folder| folder.join("base").exists())
    });
    for supervisor in world.processes("supervise") {
        kill(supervisor, Signal::SIGKILL).unwrap();
    }
    client.kill();
    assert_eq!(world.client().ask("select 42"), "42");
}

#[test]
fn a_server_that_was_started_stays_until_it_is_stopped() {
    let world = World::new();
    // That this returns also proves that the server does not inherit the pipes.
    let url = world.run(&["start"]).success();
    assert_eq!(world.servers().len(), 1);
    world.client().finish();
    assert_eq!(world.run(&["url"]).success(), url);
    assert_eq!(world.run(&["start"]).success(), url);

    let mut client = world.client();
    assert_eq!(client.ask("select 42"), "42");
    let refused = world.run(&["stop"]);
    assert_eq!(refused.status.code(), Some(5));
    let user = format!("is in use by psql (process {})", client.process.id());
    assert_contains(&refused.stderr, &user);
    assert_contains(&refused.stderr, "--force");
    assert_eq!(client.ask("select 42"), "42");
    client.finish();
    world.run(&["stop"]).success();
    assert!(world.servers().is_empty());
    assert!(world.processes("supervise").is_empty());

    let mut client = world.client();
    client.ask("select 42");
    world.run(&["stop", "--force"]).success();
    assert!(world.servers().is_empty());
    world.run(&["stop"]).success();
    let stopped = world.run(&["url"]);
    assert_eq!(stopped.status.code(), Some(5));
    assert_contains(&stopped.stderr, "swr-sync db start");
}

#[test]
fn the_folders_are_closed_and_the_supervisor_keeps_no_secret() {
    let world = World::new();
    let mut client = world.client();
    client.ask("select 42");
    for folder in ["data", "socket"] {
        let mode = world.folder().join(folder).metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
    let [server] = world.servers()[..] else {
        panic!("not one server");
    };
    // Root runs it as another user, because PostgreSQL refuses to run as root.
    let user = Path::new("/proc").join(server.to_string());
    let user = user.metadata().unwrap().uid();
    assert_ne!(user, 0);
    assert_eq!(world.folder().join("data").metadata().unwrap().uid(), user);
    for process in [world.supervisor().unwrap(), server] {
        let environment = std::fs::read_to_string(format!("/proc/{process}/environ")).unwrap();
        assert_lacks(&environment, "PATH=");
    }
    assert_eq!(client.ask("show listen_addresses"), "");
    let rules = "select string_agg(concat_ws(' ', type, address, auth_method), '; ') from pg_hba_file_rules";
    assert_eq!(client.ask(rules), "local trust");
    assert_eq!(client.ask("show fsync"), "on");
}

#[test]
fn an_ordinary_user_has_a_server_of_his_own() {
    // Otherwise every other test covers it.
    if !geteuid().is_root() {
        return;
    }
    let nobody = User::from_name("nobody").unwrap().expect("a user nobody");
    let world = World::of(Some(nobody.clone()));
    let mut client = world.client();
    client.tell("create table t as select 42 as x");
    client.finish();
    world.wait_until_stopped();
    let mut client = world.client();
    assert_eq!(client.ask("select x from t"), "42");

    let data = world.folder().join("data/PG_VERSION");
    for path in [world.folder(), world.folder().join("server.log"), data] {
        assert_eq!(
            path.metadata().unwrap().uid(),
            nobody.uid.as_raw(),
            "{path:?}"
        );
    }
    let server = Path::new("/proc").join(world.servers()[0].to_string());
    assert_eq!(server.metadata().unwrap().uid(), nobody.uid.as_raw());
}

#[test]
fn root_is_told_which_folder_the_server_cannot_enter() {
    if !geteuid().is_root() {
        return;
    }
    let world = World::new();
    let closed = world.data_dir().join("closed");
    std::fs::create_dir_all(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let inside = closed.join("data");
    let refused = world.run(&["--data-dir", inside.to_str().unwrap(), "start"]);
    assert_eq!(refused.status.code(), Some(5));
    let expected = format!("this user has no access to {}", closed.display());
    assert_contains(&refused.stderr, &expected);
}

#[test]
fn data_of_another_major_are_refused() {
    let world = World::new();
    let data = world.data_dir().join("postgresql-99/data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("PG_VERSION"), "99\n").unwrap();
    let refused = world.run(&["start"]);
    assert_eq!(refused.status.code(), Some(5));
    let expected = format!(
        "error: the data in {} needs PostgreSQL 99, but only ",
        world.data_dir().display()
    );
    assert_starts_with(&refused.stderr, &expected);
    assert_contains(&refused.stderr, "pg_dump");
}

#[test]
fn without_binaries_one_sentence_names_the_ways_out() {
    let world = World::new();
    let folder = world.data_dir().to_str().unwrap().to_owned();
    let refused = world.run(&["--postgres-bin-dir", &folder, "start"]);
    assert_eq!(refused.status.code(), Some(5));
    assert_eq!(
        refused.stderr,
        format!(
            "error: no PostgreSQL server programs (14 or newer) in {folder}: install them \
             (`apt install postgresql`, `brew install postgresql`), run one in a container \
             (`docker compose up`), or name a running server with `--database-url`\n"
        )
    );
}

#[test]
fn a_server_that_does_not_start_is_explained_by_its_log() {
    let world = World::new();
    world.client().finish();
    world.wait_until_stopped();
    let settings = world.folder().join("data/postgresql.conf");
    std::fs::write(settings, "no_such_setting = 1\n").unwrap();
    let refused = world.run(&["start"]);
    assert_eq!(refused.status.code(), Some(5));
    let log = "unrecognized configuration parameter \"no_such_setting\"";
    assert_contains(&refused.stderr, log);
    assert!(world.processes("supervise").is_empty());
}

#[tokio::test]
async fn closing_returns_when_the_last_client_s_server_has_stopped() {
    let world = World::new();
    let first = EmbeddedServer::start(&world.settings()).await.unwrap();
    let second = EmbeddedServer::start(&world.settings()).await.unwrap();
    let connection = PgConnection::connect(first.url()).await.unwrap();
    connection.close().await.unwrap();
    first.close().await.unwrap();
    assert_eq!(world.servers().len(), 1);
    second.close().await.unwrap();
    assert!(world.servers().is_empty());
}

#[tokio::test]
async fn a_lock_that_is_held_for_an_instant_is_no_other_client() {
    let world = World::new();
    let server = EmbeddedServer::start(&world.settings()).await.unwrap();
    let lock = std::fs::File::open(server.folder().join("clients.lock")).unwrap();
    lock.lock_shared().unwrap();
    // `close` is polled first, so its first check finds the lock.
    let (closed, ()) = tokio::join!(biased; server.close(), async { drop(lock) });
    closed.unwrap();
    assert!(world.servers().is_empty());
}

#[tokio::test]
async fn a_socket_path_may_be_too_long_for_the_kernel() {
    let world = World::new();
    let mut settings = world.settings();
    settings.data_dir = Some(world.data_dir().join("d".repeat(100)));
    for _ in 0..2 {
        let server = EmbeddedServer::start(&settings).await.unwrap();
        let connection = PgConnection::connect(server.url()).await.unwrap();
        connection.close().await.unwrap();
        let note = server.folder().join("socket-folder");
        let socket_folder = PathBuf::from(std::fs::read_to_string(&note).unwrap());
        assert!(socket_folder.starts_with("/tmp"), "{socket_folder:?}");
        server.close().await.unwrap();
        assert!(!socket_folder.exists() && !note.exists());
    }
}

#[tokio::test]
async fn waiting_for_the_start_has_an_end() {
    let world = World::new();
    let mut settings = world.settings();
    settings.start_timeout = Duration::ZERO;
    let error = EmbeddedServer::start(&settings).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::TimedOut { .. }), "{error}");
}

/// A separate data folder. Its processes are ended when it is dropped.
struct World {
    user: Option<User>,
    executable: PathBuf,
    temporary: TempDir,
}

impl World {
    fn new() -> World {
        World::of(None)
    }

    fn of(user: Option<User>) -> World {
        let temporary = tempfile::tempdir().unwrap();
        // As root, the server runs as another user, who must be able to enter the folder.
        std::fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let data_dir = temporary.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        let mut executable = PathBuf::from(env!("CARGO_BIN_EXE_swr-sync"));
        if let Some(user) = &user {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            std::os::unix::fs::chown(&data_dir, Some(uid), Some(gid)).unwrap();
            // Other users may have no access to the build folder.
            let reachable = temporary.path().join("swr-sync");
            std::fs::copy(&executable, &reachable).unwrap();
            executable = reachable;
        }
        World {
            user,
            executable,
            temporary,
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    /// The folder of the PostgreSQL major that was used.
    fn folder(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.data_dir()).unwrap();
        let mut folders = entries.map(|entry| entry.unwrap().path());
        folders
            .next()
            .unwrap_or_else(|| self.data_dir().join("none"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("server.log")).unwrap()
    }

    fn settings(&self) -> EmbeddedSettings {
        EmbeddedSettings {
            data_dir: Some(self.data_dir()),
            binaries_dir: std::env::var_os("SWR_SYNC_POSTGRES_BIN_DIR").map(Into::into),
            use_installed: true,
            fetch: None,
            search_path: std::env::var_os("PATH"),
            supervisor_executable: self.executable.clone(),
            start_timeout: PATIENCE,
            durable: false,
        }
    }

    fn db(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .arg("db")
            .env("SWR_SYNC_DATA_DIR", self.data_dir())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let mut process = self.db().args(arguments).spawn().unwrap();
        let stdout = read_all(process.stdout.take().unwrap());
        let stderr = read_all(process.stderr.take().unwrap());
        wait_until("the command has ended", || {
            process.try_wait().unwrap().is_some()
        });
        Finished {
            status: process.wait().unwrap(),
            stdout: stdout
                .recv_timeout(PATIENCE)
                .expect("the end of its output"),
            stderr: stderr
                .recv_timeout(PATIENCE)
                .expect("the end of its errors"),
        }
    }

    fn client(&self) -> Client {
        let mut process = self
            .db()
            .args(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (sender, answers) = channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Client {
            stdin: process.stdin.take(),
            process,
            answers,
        }
    }

    /// The supervisor's process id, from its lock file when its server is ready.
    fn supervisor(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.folder().join("supervisor.lock")).ok()?;
        text.trim().parse().ok().map(Pid::from_raw)
    }

    /// The servers (not their workers) that run on our data.
    fn servers(&self) -> Vec<Pid> {
        self.processes("-D")
    }

    /// The processes with this argument, directly before or after one of our folders.
    fn processes(&self, argument: &str) -> Vec<Pid> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            let ours = command.contains(self.data_dir().to_str().unwrap());
            if ours && command.split('\0').any(|part| part == argument) {
                found.push(Pid::from_raw(pid));
            }
        }
        found.retain(|pid| runs(*pid));
        found
    }

    fn wait_until_stopped(&self) {
        wait_until("everything has stopped", || {
            self.servers().is_empty() && self.processes("supervise").is_empty()
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.db().args(["stop", "--force"]).output();
    }
}

struct Finished {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Finished {
    fn success(self) -> String {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self.stdout
    }
}

/// `swr-sync db psql`, fed through a pipe. Killed when dropped.
struct Client {
    process: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Client {
    /// Sends a statement that answers with one line.
    fn ask(&mut self, sql: &str) -> String {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{sql};").unwrap();
        self.answers
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no answer to {sql}"))
    }

    /// Sends a statement without an answer, and returns when it is done.
    fn tell(&mut self, sql: &str) {
        assert_eq!(self.ask(&format!("{sql}; select 'done'")), "done");
    }

    fn finish(mut self) {
        self.stdin = None;
        wait_until("psql has ended", || {
            self.process.try_wait().unwrap().is_some()
        });
        assert!(self.process.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let _ = sender.send(text);
    });
    receiver
}

/// A zombie is not running: it waits until its parent reads its exit status.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Polls the condition; fails the test if it is not true in time.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
