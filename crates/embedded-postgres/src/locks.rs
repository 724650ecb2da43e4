//! The advisory locks of clients and supervisor.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::error::{EmbeddedError, ResultExt};
use super::place::Place;

/// State of the supervisor, from `supervisor.lock`.
pub(super) enum Supervisor {
    /// There is none. The caller now holds the lock, and may pass it on.
    Absent(File),
    /// It is starting or stopping the server.
    Busy,
    /// Its server accepts connections.
    Ready {
        /// The supervisor's process.
        pid: Pid,
    },
}

impl Supervisor {
    pub(super) fn look(place: &Place) -> Result<Supervisor, EmbeddedError> {
        let path = place.supervisor_lock();
        let mut file = place.open_supervisor_lock()?;
        if try_exclusive(&file).at("locking", &path)? {
            // The content written by a killed supervisor is outdated.
            file.set_len(0).at("emptying", &path)?;
            return Ok(Supervisor::Absent(file));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).at("reading", &path)?;
        let pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok());
        // A client may just have taken the lock without emptying the
        // file yet; then the process in the file is dead.
        Ok(match pid.map(Pid::from_raw) {
            Some(pid) if is_alive(pid) => Supervisor::Ready { pid },
            _ => Supervisor::Busy,
        })
    }
}

/// `supervisor.lock`, held by the supervisor until it ends.
pub(super) struct SupervisorLock(File);

impl SupervisorLock {
    /// Takes over the lock that the client has passed as standard input.
    pub(super) fn inherit(place: &Place) -> Result<SupervisorLock, EmbeddedError> {
        use std::os::fd::AsFd;
        let path = place.supervisor_lock();
        let inherited = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .at("taking over", &path)?;
        let there = std::fs::metadata(&path).at("opening", &path)?;
        let ours = inherited.metadata().at("taking over", &path)?;
        let same_file = (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        // Locking again what this open file already holds changes nothing.
        if !same_file || !try_exclusive(&inherited).at("locking", &path)? {
            return Err(io::Error::other("only a client can start the supervisor"))
                .at("taking over", &path);
        }
        Ok(SupervisorLock(inherited))
    }

    /// Records that the server accepts connections.
    pub(super) fn publish(&mut self) -> io::Result<()> {
        self.0.rewind()?;
        // One write, so that a reader sees the whole line or nothing.
        self.0.write_all(format!("{}\n", Pid::this()).as_bytes())
    }

    /// Records that the server is stopping.
    pub(super) fn withdraw(&mut self) -> io::Result<()> {
        self.0.set_len(0)
    }
}

/// Takes the exclusive lock if no other process holds a lock; otherwise `false`.
pub(super) fn try_exclusive(file: &File) -> io::Result<bool> {
    granted(file.try_lock())
}

/// Takes a shared lock unless another process holds the exclusive one; then `false`.
pub(super) fn try_shared(file: &File) -> io::Result<bool> {
    granted(file.try_lock_shared())
}

fn granted(result: Result<(), TryLockError>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The processes, other than `except`, that have opened the file: name and id.
/// Empty if the system does not provide them.
pub(super) fn holders(file: &Path, except: &[Pid]) -> Vec<String> {
    let (Ok(file), Ok(processes)) = (file.canonicalize(), std::fs::read_dir("/proc")) else {
        return Vec::new();
    };
    let has_open = |process: &Path| {
        std::fs::read_dir(process.join("fd")).is_ok_and(|open| {
            open.flatten()
                .any(|link| std::fs::read_link(link.path()).is_ok_and(|target| target == file))
        })
    };
    let mut holders = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|pid| pid.parse().ok())
        else {
            continue;
        };
        if except.contains(&Pid::from_raw(pid)) || !has_open(&process.path()) {
            continue;
        }
        // The name only: arguments may contain secrets.
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        holders.push(format!("{} (process {pid})", name.trim_end()));
    }
    holders
}

/// Whether the process is running. Zombie processes are not.
pub(super) fn is_alive(pid: Pid) -> bool {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The state follows the command, which is in brackets and may contain any character.
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        return !state.is_some_and(|state| state.starts_with(['Z', 'X']));
    }
    !matches!(kill(pid, None), Err(nix::errno::Errno::ESRCH))
}
