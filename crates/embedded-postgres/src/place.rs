//! Files and folders, and their permissions.
//!
//! ```text
//! <data folder>/postgresql-15/
//! ├── data/             the cluster, mode 0700, owned by the server's user
//! ├── socket/           mode 0700, same owner
//! ├── socket-folder     if this path is too long: the path of a folder in /tmp that is used instead
//! ├── clients.lock      shared: clients; exclusive: the supervisor, or `db stop`
//! ├── supervisor.lock   exclusive: the supervisor; its process id once the server is ready
//! ├── keep-running      created by `db start`
//! └── server.log        log of the supervisor and the server
//! ```

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::error::{EmbeddedError, ResultExt};

/// The database role, a superuser, of all connections.
pub(super) const ROLE: &str = "swr";

/// Part of the name of the socket's file; the server does not listen on the network.
pub(super) const PORT: u16 = 5432;

const FOLDER_PREFIX: &str = "postgresql-";

const UNFINISHED_PREFIX: &str = "data.new-";

/// The kernel allows 107 bytes on Linux and 103 on macOS.
const SOCKET_PATH_BYTES: usize = 100;

/// Size from which the log is rotated at the next start.
const LOG_BYTES: u64 = 4 << 20;

/// Number of log lines that an error quotes.
const LOG_LINES: usize = 20;

/// Characters that need no encoding in a query parameter, for sqlx and libpq.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.');

/// The folder with all data.
pub(super) fn data_dir(chosen: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    match chosen {
        // The supervisor has another working folder.
        Some(path) => std::path::absolute(path).at("resolving", path),
        None if geteuid().is_root() => Ok(PathBuf::from("/var/lib/swr-sync")),
        None => Err(EmbeddedError::NoDataDir),
    }
}

/// The PostgreSQL major versions with data in the folder.
pub(super) fn clusters(data_dir: &Path) -> Result<Vec<u32>, EmbeddedError> {
    let entries = match std::fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("reading", data_dir)?,
    };
    let mut majors = Vec::new();
    for entry in entries {
        let entry = entry.at("reading", data_dir)?;
        let name = entry.file_name();
        let major = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER_PREFIX));
        if let Some(major) = major.and_then(|major| major.parse().ok())
            && Place::new(data_dir, major).has_data()
        {
            majors.push(major);
        }
    }
    Ok(majors)
}

/// The folder of one PostgreSQL major version.
#[derive(Debug, Clone)]
pub(super) struct Place {
    folder: PathBuf,
}

impl Place {
    pub(super) fn new(data_dir: &Path, major: u32) -> Place {
        Place::at(data_dir.join(format!("{FOLDER_PREFIX}{major}")))
    }

    pub(super) fn at(folder: PathBuf) -> Place {
        Place { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where a supervisor creates the data.
    pub(super) fn unfinished_data(&self, supervisor: u32) -> PathBuf {
        self.folder.join(format!("{UNFINISHED_PREFIX}{supervisor}"))
    }

    /// Removes what killed supervisors left, unless another process uses it.
    pub(super) fn remove_unfinished_data(&self) {
        for entry in std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(UNFINISHED_PREFIX)
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    pub(super) fn clients_lock(&self) -> PathBuf {
        self.folder.join("clients.lock")
    }

    pub(super) fn supervisor_lock(&self) -> PathBuf {
        self.folder.join("supervisor.lock")
    }

    pub(super) fn keep_marker(&self) -> PathBuf {
        self.folder.join("keep-running")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// The folder of the running server's socket.
    pub(super) fn socket_dir(&self) -> PathBuf {
        self.kept_socket_dir()
            .unwrap_or_else(|| self.folder.join("socket"))
    }

    /// Creates the folder of the socket, whose whole path must be short. If it is too long, creates a
    /// folder in /tmp instead, with a name that others cannot predict. (Not in `/run/user/UID`, which
    /// is removed when the user logs out, while the server may keep running.)
    pub(super) fn make_socket_dir(&self, user: Option<&ServerUser>) -> Result<(), EmbeddedError> {
        let folder = self.folder.join("socket");
        let socket = folder.join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() <= SOCKET_PATH_BYTES {
            // The data folder may have been moved here from a longer path.
            self.remove_short_socket_dir();
            return make_private_folder(&folder, user);
        }
        // Reuses the folder of a killed supervisor.
        if let Some(kept) = self.kept_socket_dir()
            && make_private_folder(&kept, user).is_ok()
        {
            return Ok(());
        }
        let made = tempfile::Builder::new()
            .prefix("swr-sync-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in("/tmp")
            .at("creating a folder in", "/tmp")?
            .keep();
        hand_over(&made, user)?;
        let path = self.socket_folder_file();
        std::fs::write(&path, made.as_os_str().as_bytes()).at("writing", &path)
    }

    fn socket_folder_file(&self) -> PathBuf {
        self.folder.join("socket-folder")
    }

    fn kept_socket_dir(&self) -> Option<PathBuf> {
        let path = std::fs::read(self.socket_folder_file()).ok()?;
        Some(PathBuf::from(OsString::from_vec(path)))
    }

    /// Removes the folder in /tmp.
    pub(super) fn remove_short_socket_dir(&self) {
        if let Some(folder) = self.kept_socket_dir() {
            // Fails if the folder is still in use or belongs to another user.
            let _ = std::fs::remove_dir(folder);
            let _ = std::fs::remove_file(self.socket_folder_file());
        }
    }

    /// Port and TLS mode are set because a client would otherwise take
    /// them from its environment (`PGPORT`, `PGSSLMODE`). The folder overrides the
    /// host `localhost`; sqlx does not parse a URL without a host.
    pub(super) fn url(&self) -> String {
        self.url_of(ROLE)
    }

    pub(super) fn url_of(&self, database: &str) -> String {
        let socket_dir = self.socket_dir();
        let host = percent_encode(socket_dir.as_os_str().as_bytes(), IN_QUERY);
        format!("postgresql://{ROLE}@localhost:{PORT}/{database}?host={host}&sslmode=disable")
    }

    /// Creates the folder, and checks that it is ours and that the server can access it.
    pub(super) fn prepare(&self) -> Result<(), EmbeddedError> {
        let mode = folder_mode();
        if let Some(data_dir) = self.folder.parent() {
            make_folder(data_dir, mode)?;
        }
        make_folder(&self.folder, mode)?;
        check_owner(&self.folder, geteuid())?;
        match ServerUser::choose(self)? {
            Some(user) => user.check_reach(&self.folder),
            None => Ok(()),
        }
    }

    pub(super) fn has_data(&self) -> bool {
        self.data().join("PG_VERSION").exists()
    }

    /// Checks that the data has the major version in the folder's name.
    pub(super) fn check_version(&self) -> Result<(), EmbeddedError> {
        let path = self.data().join("PG_VERSION");
        let found = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.at("reading", path)?,
        };
        let found = found.trim();
        let name = self
            .folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let expected = name.strip_prefix(FOLDER_PREFIX).unwrap_or(&name);
        if found == expected {
            return Ok(());
        }
        Err(EmbeddedError::OtherMajor {
            folder: self.data(),
            found: found.to_owned(),
            available: expected.to_owned(),
        })
    }

    pub(super) fn open_clients_lock(&self) -> Result<File, EmbeddedError> {
        open_lock(&self.clients_lock())
    }

    pub(super) fn open_supervisor_lock(&self) -> Result<File, EmbeddedError> {
        open_lock(&self.supervisor_lock())
    }

    /// The log, open for appending, and its size.
    pub(super) fn open_log(&self) -> Result<(File, u64), EmbeddedError> {
        let path = self.log();
        let size_bytes = |path: &Path| std::fs::metadata(path).map_or(0, |log| log.len());
        if size_bytes(&path) > LOG_BYTES {
            std::fs::rename(&path, self.folder.join("server.log.old"))
                .at("setting aside", &path)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .at("opening", &path)?;
        Ok((file, size_bytes(&path)))
    }

    /// The last lines of the log from `offset` bytes on. Empty
    /// without a log, because it only explains another error.
    pub(super) fn log_tail(&self, offset: u64) -> String {
        tail(&self.log(), offset)
    }
}

/// The last lines of a log from `offset` bytes on.
pub(super) fn tail(log: &Path, offset: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset.max(end.saturating_sub(16 << 10))))?;
        let mut bytes = Vec::new();
        file.take(16 << 10).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// The user that runs the server if the supervisor is root, which PostgreSQL does not allow.
#[derive(Debug, Clone)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
    name: String,
}

impl ServerUser {
    /// `None` for an ordinary user, who runs the server directly.
    pub(super) fn choose(place: &Place) -> Result<Option<ServerUser>, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        // Existing data keeps its owner: the user
        // `postgres` may have been created since.
        if let Ok(data) = std::fs::metadata(place.data())
            && data.uid() != 0
        {
            return Ok(Some(ServerUser {
                uid: data.uid(),
                gid: data.gid(),
                name: format!("user id {}", data.uid()),
            }));
        }
        for name in ["postgres", "nobody"] {
            if let Ok(Some(user)) = User::from_name(name) {
                return Ok(Some(ServerUser {
                    uid: user.uid.as_raw(),
                    gid: user.gid.as_raw(),
                    name: name.to_owned(),
                }));
            }
        }
        Err(EmbeddedError::NoServerUser)
    }

    /// Checks by their modes that the user can enter every parent folder.
    /// `initdb` would also fail, but without the name of the folder.
    fn check_reach(&self, folder: &Path) -> Result<(), EmbeddedError> {
        for path in folder.ancestors() {
            let metadata = std::fs::metadata(path).at("reading", path)?;
            let bit = if metadata.uid() == self.uid {
                0o100
            } else if metadata.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & bit == 0 {
                return Err(EmbeddedError::Unreachable {
                    path: path.to_owned(),
                    user: self.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Creates a folder that only the server's user can enter.
pub(super) fn make_private_folder(
    path: &Path,
    user: Option<&ServerUser>,
) -> Result<(), EmbeddedError> {
    let owner = user.map_or_else(geteuid, |user| Uid::from_raw(user.uid));
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => hand_over(path, user)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).at("creating", path),
    }
    // Another user may have created a folder or a link with this name.
    check_owner(path, owner)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).at("closing", path)
}

fn hand_over(path: &Path, user: Option<&ServerUser>) -> Result<(), EmbeddedError> {
    match user {
        Some(ServerUser { uid, gid, .. }) => {
            std::os::unix::fs::chown(path, Some(*uid), Some(*gid)).at("handing over", path)
        }
        None => Ok(()),
    }
}

pub(super) fn check_owner(path: &Path, expected: Uid) -> Result<(), EmbeddedError> {
    let metadata = std::fs::symlink_metadata(path).at("reading", path)?;
    if metadata.uid() == expected.as_raw() && metadata.is_dir() {
        return Ok(());
    }
    Err(EmbeddedError::ForeignFolder {
        path: path.to_owned(),
        owner: metadata.uid(),
        expected: expected.as_raw(),
    })
}

/// Mode of folders that the server's user has to enter, who is another user than root.
pub(super) fn folder_mode() -> u32 {
    if geteuid().is_root() { 0o755 } else { 0o700 }
}

/// Creates a folder with exactly this mode, regardless of the umask; does not change an existing one.
pub(super) fn make_folder(path: &Path, mode: u32) -> Result<(), EmbeddedError> {
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(path).at("creating", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("opening up", path)
}

pub(super) fn open_lock(path: &Path) -> Result<File, EmbeddedError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .at("opening", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_deep_folder_is_in_a_folder_in_tmp_that_nobody_can_predict() {
        let place = |depth| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("d".repeat(depth));
            std::fs::create_dir(&path).unwrap();
            (Place::at(path), folder)
        };
        let (near, _folder) = place(1);
        near.make_socket_dir(None).unwrap();
        assert_eq!(near.socket_dir(), near.folder().join("socket"));

        let (deep, _folder) = place(90);
        let (other, _other_folder) = place(90);
        deep.make_socket_dir(None).unwrap();
        other.make_socket_dir(None).unwrap();
        let first = deep.socket_dir();
        assert!(first.starts_with("/tmp"), "{first:?}");
        assert_ne!(first, other.socket_dir());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&first), 0o700);
        // It is reused, unless another file has its name.
        deep.make_socket_dir(None).unwrap();
        assert_eq!(deep.socket_dir(), first);
        std::fs::remove_dir(&first).unwrap();
        std::fs::write(&first, "").unwrap();
        deep.make_socket_dir(None).unwrap();
        let second = deep.socket_dir();
        assert_ne!(second, first);
        std::fs::remove_file(&first).unwrap();
        deep.remove_short_socket_dir();
        assert!(!second.exists());
        other.remove_short_socket_dir();
    }

    #[test]
    fn sqlx_reads_the_socket_folder_back_from_the_url() {
        let place = Place::new(Path::new("/srv/a b+c&d=é%"), 17);
        let options: sqlx::postgres::PgConnectOptions = place.url().parse().unwrap();
        assert_eq!(options.get_socket(), Some(&place.socket_dir()));
        assert_eq!(options.get_port(), PORT);
        assert_eq!(options.get_username(), ROLE);
        assert_eq!(options.get_database(), Some(ROLE));
    }
}
