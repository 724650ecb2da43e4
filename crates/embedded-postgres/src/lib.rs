//! A private PostgreSQL server, used if no database URL is set.
//!
//! ```text
//! client ──shared──▶ clients.lock ◀──exclusive── supervisor ──parent──▶ postgres
//!    └── connects ─────────────────────────────────────────────────────▲ socket/
//! ```
//!
//! Every client holds a shared lock on `clients.lock` while it uses
//! the server. The first one finds `supervisor.lock` free, takes it, and passes
//! it to a detached supervisor process, which starts the server and then waits
//! for the exclusive lock on `clients.lock`: it gets that when the last client
//! has ended, and stops the server. The kernel releases a lock when the process that
//! holds it ends, so nothing needs a clean-up after a crash.
//!
//! Read [`EmbeddedServer::start`] for the client's side, `supervisor` for the
//! other, `place` for the files, `binaries` for the choice of the server, `fetch` for the case that
//! none is installed.

mod binaries;
mod error;
mod fetch;
mod locks;
mod place;
mod supervisor;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tokio::process::{Child, Command};
use tokio::time::Instant;

pub use error::{EmbeddedError, SqlError};
pub use fetch::FetchSettings;
pub use supervisor::{Supervision, supervise};

use binaries::Binaries;
use error::ResultExt;
use fetch::Plan;
use locks::{Supervisor, holders};
use place::Place;

/// Interval between checks of a lock or a socket.
const POLL: Duration = Duration::from_millis(20);

/// How long [`EmbeddedServer::close`] and [`stop`] wait for the server to end.
/// Longer than the supervisor's timeout.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of consecutive checks that must find another client before a closing client
/// assumes one: a lock is also held briefly by a client that closes at the
/// same time, and by a copy in a process between `fork` and `exec`.
const LOOKS_FOR_OTHERS: u32 = 25;

/// Which server to run, and where.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// The folder with all data; each PostgreSQL major version has its own
    /// folder in it. `None` means `/var/lib/swr-sync`, and is for root only.
    pub data_dir: Option<PathBuf>,
    /// The folder with `postgres` and `initdb`. `None` searches the usual places.
    pub binaries_dir: Option<PathBuf>,
    /// Whether to use a PostgreSQL that is installed in the usual places or in `PATH`.
    pub use_installed: bool,
    /// The value of `PATH`, searched if the usual places have no server.
    pub search_path: Option<OsString>,
    /// How to fetch the programs if there are none. `None` does not fetch them.
    pub fetch: Option<FetchSettings>,
    /// The `swr-sync` program, which is started again as the supervisor.
    pub supervisor_executable: PathBuf,
    /// Timeout until the server accepts connections.
    pub start_timeout: Duration,
    /// `false` disables `fsync` and similar settings: faster, but a power failure loses
    /// data. For tests only. Applies to a server that this call starts.
    pub durable: bool,
}

/// The database that is created with the cluster.
pub const DATABASE: &str = place::ROLE;

/// A client's lock on the running server. Dropping it lets the server stop,
/// unless other clients use it or it was told to [keep running](EmbeddedServer::keep_running).
#[derive(Debug)]
pub struct EmbeddedServer {
    place: Place,
    binaries: Binaries,
    url: String,
    clients: File,
}

impl EmbeddedServer {
    /// Returns when the server accepts connections: one that is already running, or a new one.
    pub async fn start(settings: &EmbeddedSettings) -> Result<EmbeddedServer, EmbeddedError> {
        let (place, choice) = choose(settings).await?;
        place.prepare()?;
        let binaries = match choice {
            Choice::Present(binaries) => binaries,
            Choice::ToFetch { plan, data_dir } => {
                fetch::fetch(&plan, &data_dir, settings.durable).await?
            }
        };
        let deadline = Instant::now() + settings.start_timeout;
        let timed_out = || EmbeddedError::TimedOut {
            what: "starting PostgreSQL",
            folder: place.folder().to_owned(),
            waited: settings.start_timeout,
            log: place.log_tail(0),
        };

        let clients = place.open_clients_lock()?;
        while !locks::try_shared(&clients).at("locking", place.clients_lock())? {
            // The supervisor holds it while it stops the server.
            if Instant::now() > deadline {
                return Err(timed_out());
            }
            tokio::time::sleep(POLL).await;
        }

        // From here on, no supervisor can stop a server that is ready.
        let mut started: Option<StartedSupervisor> = None;
        loop {
            match Supervisor::look(&place)? {
                Supervisor::Ready { .. } => break,
                Supervisor::Busy => {}
                Supervisor::Absent(lock) => {
                    if let Some(mut started) = started.take() {
                        return Err(started.failure(&place).await);
                    }
                    started = Some(start_supervisor(settings, &place, &binaries, lock)?);
                }
            }
            if Instant::now() > deadline {
                return Err(timed_out());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(EmbeddedServer {
            url: place.url(),
            place,
            binaries,
            clients,
        })
    }

    /// The URL to connect to. It contains no secret: other users have no access to
    /// the socket's folder.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL of another database on the same server.
    pub fn url_of(&self, database: &str) -> String {
        self.place.url_of(database)
    }

    /// The folder of this PostgreSQL major: data, socket, locks and log.
    pub fn folder(&self) -> &Path {
        self.place.folder()
    }

    /// The server's programs, usually including `psql`.
    pub fn binaries_dir(&self) -> &Path {
        &self.binaries.dir
    }

    /// Lets the server run without clients, until [`stop`] or until it ends.
    pub fn keep_running(&self) -> Result<(), EmbeddedError> {
        let marker = self.place.keep_marker();
        std::fs::write(&marker, "").at("writing", marker)
    }

    /// The open lock of this client, for a program that replaces this process. The
    /// server runs until the lock is closed.
    pub fn into_inheritable_lock(self) -> std::io::Result<File> {
        fcntl(&self.clients, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(self.clients)
    }

    /// Releases the server, and returns when it has stopped, or soon if
    /// other clients use it. Useful if the end of this process ends
    /// everything, as in a container: the server is then shut down cleanly.
    pub async fn close(self) -> Result<(), EmbeddedError> {
        let EmbeddedServer { place, clients, .. } = self;
        drop(clients);
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut others_seen = 0;
        loop {
            if matches!(Supervisor::look(&place)?, Supervisor::Absent(_)) {
                return Ok(());
            }
            if place.keep_marker().exists() {
                return Ok(());
            }
            let clients = place.open_clients_lock()?;
            let unused = locks::try_exclusive(&clients).at("locking", place.clients_lock())?;
            let shared =
                !unused && locks::try_shared(&clients).at("locking", place.clients_lock())?;
            drop(clients);
            others_seen = if shared { others_seen + 1 } else { 0 };
            if others_seen >= LOOKS_FOR_OTHERS {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(stop_timed_out(&place));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whether this process runs as root. The server cannot enter root's home folder.
pub fn runs_as_root() -> bool {
    geteuid().is_root()
}

/// Free bytes for ordinary users in a folder, which may not exist yet; `None` if unknown.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|folder| folder.exists())?;
    let space = nix::sys::statvfs::statvfs(existing).ok()?;
    // On systems other than Linux, the types are smaller.
    Some(space.blocks_available() as u64 * space.fragment_size() as u64)
}

/// The folder of the server, even if it is not started yet. Creates nothing.
pub async fn folder(settings: &EmbeddedSettings) -> Result<PathBuf, EmbeddedError> {
    let (place, _) = choose(settings).await?;
    Ok(place.folder().to_owned())
}

/// The URL of a database on the running server; `None` if none is running. Starts nothing.
pub async fn running_url(
    settings: &EmbeddedSettings,
    database: &str,
) -> Result<Option<String>, EmbeddedError> {
    let (place, _) = choose(settings).await?;
    if !place.folder().exists() {
        return Ok(None);
    }
    Ok(match Supervisor::look(&place)? {
        Supervisor::Ready { .. } => Some(place.url_of(database)),
        Supervisor::Busy | Supervisor::Absent(_) => None,
    })
}

/// Stops the server and returns when it has ended; `false` if none was running.
///
/// Fails with [`EmbeddedError::InUse`] while clients use it, unless `force` is set.
pub async fn stop(settings: &EmbeddedSettings, force: bool) -> Result<bool, EmbeddedError> {
    let (place, _) = choose(settings).await?;
    if !place.folder().exists() {
        return Ok(false);
    }
    let clients = place.open_clients_lock()?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    let mut asked = false;
    loop {
        match Supervisor::look(&place)? {
            Supervisor::Absent(_) => return Ok(asked),
            // Starting or stopping: no process can be signalled.
            Supervisor::Busy => {}
            Supervisor::Ready { .. } if asked => {}
            Supervisor::Ready { pid } => {
                // Held until the server has ended, so that no client starts in between.
                let unused = locks::try_exclusive(&clients).at("locking", place.clients_lock())?;
                if !unused && !force {
                    return Err(EmbeddedError::InUse {
                        folder: place.folder().to_owned(),
                        clients: holders(&place.clients_lock(), &[Pid::this(), pid]),
                    });
                }
                kill(pid, Signal::SIGTERM)
                    .map_err(std::io::Error::from)
                    .at("stopping the supervisor of", place.folder())?;
                asked = true;
            }
        }
        if Instant::now() > deadline {
            return Err(stop_timed_out(&place));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Where the programs are.
enum Choice {
    Present(Binaries),
    ToFetch { plan: Plan, data_dir: PathBuf },
}

async fn choose(settings: &EmbeddedSettings) -> Result<(Place, Choice), EmbeddedError> {
    let data_dir = place::data_dir(settings.data_dir.as_deref())?;
    let clusters = place::clusters(&data_dir)?;
    let installed = binaries::installed(settings, &data_dir).await?;
    if !installed.is_empty() {
        let binaries = binaries::choose(installed, &clusters, &data_dir)?;
        let place = Place::new(&data_dir, binaries.major);
        place.check_version()?;
        return Ok((place, Choice::Present(binaries)));
    }
    let plan = fetch::plan(settings.fetch.as_ref()).await;
    let plan = plan.map_err(|not_fetched| EmbeddedError::NoBinaries {
        searched: match settings.use_installed {
            true => "the usual folders or PATH".to_owned(),
            false => fetch::folder(&data_dir).display().to_string(),
        },
        not_fetched,
    })?;
    // Data of another version is no reason to fetch a version that cannot read it.
    let to_fetch = Binaries {
        dir: PathBuf::new(),
        major: fetch::MAJOR,
    };
    binaries::choose(vec![to_fetch], &clusters, &data_dir)?;
    let place = Place::new(&data_dir, fetch::MAJOR);
    place.check_version()?;
    Ok((place, Choice::ToFetch { plan, data_dir }))
}

fn stop_timed_out(place: &Place) -> EmbeddedError {
    EmbeddedError::TimedOut {
        what: "stopping PostgreSQL",
        folder: place.folder().to_owned(),
        waited: STOP_TIMEOUT,
        log: place.log_tail(0),
    }
}

struct StartedSupervisor {
    process: Child,
    /// Previous size of the log, so that an error quotes this start only.
    log_offset: u64,
}

impl StartedSupervisor {
    /// Why the supervisor released its lock before the server was ready.
    async fn failure(&mut self, place: &Place) -> EmbeddedError {
        // It released the lock, so it has ended or is about to.
        let status = tokio::time::timeout(Duration::from_secs(5), self.process.wait()).await;
        EmbeddedError::Failed {
            what: "starting PostgreSQL",
            folder: place.folder().to_owned(),
            status: match status {
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no exit status".to_owned(),
            },
            log: place.log_tail(self.log_offset),
        }
    }
}

/// Starts the supervisor, which inherits `lock` as its standard input, so that the lock
/// is never free in between and no second client can start another.
fn start_supervisor(
    settings: &EmbeddedSettings,
    place: &Place,
    binaries: &Binaries,
    lock: File,
) -> Result<StartedSupervisor, EmbeddedError> {
    tracing::info!(
        // The program only shows warnings of other crates.
        target: "swr_sync::database::embedded",
        "starting PostgreSQL {} in {}",
        binaries.major,
        place.folder().display()
    );
    let marker = place.keep_marker();
    if marker.exists() {
        std::fs::remove_file(&marker).at("removing", marker)?;
    }
    let (log, log_offset) = place.open_log()?;
    let mut command = Command::new(&settings.supervisor_executable);
    command
        .args(["db", "supervise", "--folder"])
        .arg(place.folder())
        .arg("--binaries")
        .arg(&binaries.dir);
    if !settings.durable {
        command.arg("--volatile");
    }
    // It outlives this process, so it must not keep its secrets, its folder, or
    // the pipe of its output.
    let process = command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()
        .at("running", &settings.supervisor_executable)?;
    Ok(StartedSupervisor {
        process,
        log_offset,
    })
}
