//! The process that owns the server: starts it, waits until its clients have ended, stops it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::POLL;
use super::error::{EmbeddedError, ResultExt, SqlError};
use super::locks::{SupervisorLock, is_alive};
use super::place::{Place, ROLE, ServerUser, make_private_folder};

/// Takes 1 to 3 s on an idle machine, mostly for writing.
const INITDB_TIMEOUT: Duration = Duration::from_secs(180);

/// Long, because recovery after a crash must not be interrupted: the next start
/// would have to repeat it.
const READY_TIMEOUT: Duration = Duration::from_secs(900);

/// Timeout for one connection and statement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a fast shutdown may take before an immediate one is requested.
const FAST_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an immediate shutdown may take before the process is killed.
const IMMEDIATE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of every server. Statements and their values are not logged: they contain build
/// commands.
const SETTINGS: [&str; 9] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "shared_buffers=128MB",
    // Compiling a report's query takes longer than running it.
    "jit=off",
    "logging_collector=off",
    "log_destination=stderr",
    "log_checkpoints=off",
    "log_error_verbosity=terse",
    "log_min_error_statement=panic",
];

/// Faster, for tests; a power failure would destroy the data.
const VOLATILE_SETTINGS: [&str; 5] = [
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
];

/// Arguments from the client that starts the supervisor.
#[derive(Debug)]
pub struct Supervision {
    /// The folder of one PostgreSQL major version.
    pub folder: PathBuf,
    /// The folder with `postgres` and `initdb`.
    pub binaries_dir: PathBuf,
    /// `false` disables `fsync` and similar settings.
    pub durable: bool,
}

/// Runs the server until the last client has ended, or until SIGTERM or SIGINT.
///
/// Standard input must be the locked `supervisor.lock`. Must be awaited on the
/// main thread: the kernel ties the server's life to the thread that starts it.
pub async fn supervise(supervision: Supervision) -> Result<(), EmbeddedError> {
    let place = Place::at(supervision.folder.clone());
    let folder = place.folder();
    let mut lock = SupervisorLock::inherit(&place)?;
    // Leaves the client's terminal, so that it does not receive Ctrl-C. This
    // only fails for a process group leader, which has already left it.
    let _ = setsid();
    let mut terminate = signal(SignalKind::terminate()).at("supervising", folder)?;
    let mut interrupt = signal(SignalKind::interrupt()).at("supervising", folder)?;

    let mut server = tokio::select! {
        server = bring_up(&place, &supervision) => server?,
        // What was started so far ends with this process.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    lock.publish().at("writing", place.supervisor_lock())?;

    let ended = tokio::select! {
        status = server.wait() => Some(status.at("waiting for", folder)?),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        // The lock is held until this process ends, so a new client waits.
        locked = last_client_gone(&place) => { locked.at("locking", place.clients_lock())?; None }
    };
    lock.withdraw().at("emptying", place.supervisor_lock())?;
    if let Some(status) = ended {
        return Err(EmbeddedError::Failed {
            what: "running PostgreSQL",
            folder: folder.to_owned(),
            status: status.to_string(),
            log: String::new(),
        });
    }
    stop_server(&mut server, &place).await?;
    place.remove_short_socket_dir();
    Ok(())
}

async fn bring_up(place: &Place, supervision: &Supervision) -> Result<Child, EmbeddedError> {
    let user = ServerUser::choose(place)?;
    stop_leftover(place).await?;
    place.make_socket_dir(user.as_ref())?;
    if !place.has_data() {
        create_cluster(place, supervision, user.as_ref()).await?;
    }
    place.check_version()?;

    let mut server = start_server(place, supervision, user.as_ref())?;
    wait_until_ready(&mut server, place).await?;
    Ok(server)
}

/// Stops the server of a supervisor that was killed. On Linux, the kernel has
/// already signalled it, and it may still be shutting down.
async fn stop_leftover(place: &Place) -> Result<(), EmbeddedError> {
    let Some(pid) = leftover(place).await else {
        return Ok(());
    };
    let stages = [
        (Signal::SIGINT, FAST_SHUTDOWN_TIMEOUT),
        (Signal::SIGQUIT, IMMEDIATE_SHUTDOWN_TIMEOUT),
    ];
    for (signal, patience) in stages {
        match kill(pid, signal) {
            Err(Errno::ESRCH) => return Ok(()),
            result => result
                .map_err(io::Error::from)
                .at("stopping the server in", place.folder())?,
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !is_alive(pid) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Err(EmbeddedError::TimedOut {
        what: "stopping the server of a killed supervisor",
        folder: place.folder().to_owned(),
        waited: FAST_SHUTDOWN_TIMEOUT + IMMEDIATE_SHUTDOWN_TIMEOUT,
        log: String::new(),
    })
}

/// The server that is running on our data, if there is one.
async fn leftover(place: &Place) -> Option<Pid> {
    let pid_file = std::fs::read_to_string(place.data().join("postmaster.pid")).ok()?;
    let pid: i32 = pid_file.lines().next()?.trim().parse().ok()?;
    // After a crash of the machine, the id may belong to another process.
    let is_ours = pid > 1 && command_line(pid).await.contains(place.data().to_str()?);
    (is_ours && is_alive(Pid::from_raw(pid))).then(|| Pid::from_raw(pid))
}

async fn command_line(pid: i32) -> String {
    if let Ok(command) = std::fs::read(format!("/proc/{pid}/cmdline")) {
        return String::from_utf8_lossy(&command).into_owned();
    }
    let ps = Command::new("ps")
        .args(["-o", "command=", "-p", &pid.to_string()])
        .output();
    match tokio::time::timeout(Duration::from_secs(5), ps).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => String::new(),
    }
}

/// Runs `initdb` in a temporary folder, which is renamed at the end: a killed
/// `initdb` leaves nothing that looks like data. The name contains the process id,
/// because an interrupted `initdb` may still be cleaning up its folder.
async fn create_cluster(
    place: &Place,
    supervision: &Supervision,
    user: Option<&ServerUser>,
) -> Result<(), EmbeddedError> {
    place.remove_unfinished_data();
    let aside = place.unfinished_data(std::process::id());
    make_private_folder(&aside, user)?;
    let mut command = server_command(&supervision.binaries_dir.join("initdb"), user);
    command
        .arg("--pgdata")
        .arg(&aside)
        .args(["--username", ROLE, "--auth", "trust"])
        .args(["--encoding", "UTF8", "--locale", "C"])
        .kill_on_drop(true);
    if !supervision.durable {
        command.arg("--no-sync");
    }
    let failed = |status: String| EmbeddedError::Failed {
        what: "initdb",
        folder: place.folder().to_owned(),
        status,
        log: String::new(),
    };
    let mut initdb = command.spawn().at("running initdb in", place.folder())?;
    match tokio::time::timeout(INITDB_TIMEOUT, initdb.wait()).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => return Err(failed(status.to_string())),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("still running after {INITDB_TIMEOUT:?}"))),
    }
    // The permissions of the socket's folder decide who may connect; the server does not listen on the
    // network.
    let access = aside.join("pg_hba.conf");
    std::fs::write(&access, "local all all trust\n").at("writing", &access)?;
    std::fs::rename(&aside, place.data()).at("renaming", &aside)?;
    if supervision.durable {
        let folder = std::fs::File::open(place.folder()).at("opening", place.folder())?;
        folder.sync_all().at("syncing", place.folder())?;
    }
    Ok(())
}

fn start_server(
    place: &Place,
    supervision: &Supervision,
    user: Option<&ServerUser>,
) -> Result<Child, EmbeddedError> {
    let mut command = server_command(&supervision.binaries_dir.join("postgres"), user);
    command.arg("-D").arg(place.data());
    command.arg("-k").arg(place.socket_dir());
    command.args(["-p", &super::place::PORT.to_string()]);
    let volatile: &[&str] = match supervision.durable {
        true => &[],
        false => &VOLATILE_SETTINGS,
    };
    for setting in SETTINGS.iter().chain(volatile) {
        command.args(["-c", setting]);
    }
    command.spawn().at("running postgres in", place.folder())
}

/// A program of the server, run as its user, without our environment,
/// logging to our log, and signalled by the kernel to stop when this process dies.
fn server_command(program: &Path, user: Option<&ServerUser>) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    end_with_parent(&mut command, Signal::SIGINT);
    command
}

/// Makes the kernel send the signal to the process when the thread that starts it ends.
#[cfg(target_os = "linux")]
pub(super) fn end_with_parent(command: &mut Command, signal: Signal) {
    let parent = Pid::this();
    let set = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The parent may have died before the kernel was told.
        if nix::unistd::getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "between fork and exec: two system calls, no allocation, no lock. After the \
                     change of user, which would clear the setting"
    )]
    unsafe {
        command.pre_exec(set);
    }
}

/// On other systems, the next start stops a remaining server.
#[cfg(not(target_os = "linux"))]
pub(super) fn end_with_parent(_: &mut Command, _: Signal) {}

/// Waits until the server accepts connections to our database, which it creates.
async fn wait_until_ready(server: &mut Child, place: &Place) -> Result<(), EmbeddedError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        match connect(place, ROLE).await {
            Ok(()) => return Ok(()),
            Err(error) if sqlstate(&error) == "3D000" => create_database(place).await?,
            Err(sqlx::Error::Io(_)) => {}
            Err(error) if sqlstate(&error) == "57P03" => {}
            Err(error) => return Err(unreachable(place, error)),
        }
        if let Some(status) = server.try_wait().at("waiting for", place.folder())? {
            return Err(EmbeddedError::Failed {
                what: "starting postgres",
                folder: place.folder().to_owned(),
                status: status.to_string(),
                log: String::new(),
            });
        }
        if Instant::now() > deadline {
            return Err(EmbeddedError::TimedOut {
                what: "starting postgres",
                folder: place.folder().to_owned(),
                waited: READY_TIMEOUT,
                log: String::new(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn connect(place: &Place, database: &str) -> Result<(), sqlx::Error> {
    execute(place, database, "").await
}

async fn create_database(place: &Place) -> Result<(), EmbeddedError> {
    execute(place, "postgres", "create database swr")
        .await
        .map_err(|error| unreachable(place, error))
}

fn unreachable(place: &Place, error: sqlx::Error) -> EmbeddedError {
    EmbeddedError::Connect {
        folder: place.folder().to_owned(),
        source: SqlError(error),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this creates the database, so there is none to check against"
)]
async fn execute(place: &Place, database: &str, sql: &'static str) -> Result<(), sqlx::Error> {
    let options: PgConnectOptions = place.url_of(database).parse()?;
    let execute = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        sqlx::raw_sql(sql).execute(&mut connection).await?;
        connection.close().await
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, execute).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
    }
}

fn sqlstate(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.map_or_else(String::new, |code| code.into_owned())
}

/// Returns with the exclusive lock on `clients.lock` when no other process holds a lock,
/// which is never while the server must keep running.
async fn last_client_gone(place: &Place) -> io::Result<std::fs::File> {
    let clients = place.open_clients_lock().map_err(io::Error::other)?;
    let marker = place.keep_marker();
    let (sender, receiver) = oneshot::channel();
    // A separate thread, which ends with the process: it may wait for days.
    std::thread::Builder::new()
        .name("last-client".to_owned())
        .spawn(move || {
            let locked = clients.lock();
            // Checked with the lock held: a client writes the file while it holds its own.
            if locked.is_ok() && marker.exists() {
                return;
            }
            let _ = sender.send(locked.map(|()| clients));
        })?;
    match receiver.await {
        Ok(locked) => locked,
        // Kept running: only a signal ends it.
        Err(_) => std::future::pending().await,
    }
}

async fn stop_server(server: &mut Child, place: &Place) -> Result<(), EmbeddedError> {
    let stages = [
        (Signal::SIGINT, FAST_SHUTDOWN_TIMEOUT),
        (Signal::SIGQUIT, IMMEDIATE_SHUTDOWN_TIMEOUT),
        (Signal::SIGKILL, IMMEDIATE_SHUTDOWN_TIMEOUT),
    ];
    for (signal, patience) in stages {
        // Without an id, it has ended and was waited for.
        let Some(pid) = server.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return Ok(());
        };
        kill(Pid::from_raw(pid), signal)
            .map_err(io::Error::from)
            .at("stopping the server in", place.folder())?;
        if let Ok(status) = tokio::time::timeout(patience, server.wait()).await {
            status.at("waiting for the server in", place.folder())?;
            return Ok(());
        }
    }
    Err(EmbeddedError::TimedOut {
        what: "stopping postgres",
        folder: place.folder().to_owned(),
        waited: FAST_SHUTDOWN_TIMEOUT + 2 * IMMEDIATE_SHUTDOWN_TIMEOUT,
        log: String::new(),
    })
}
