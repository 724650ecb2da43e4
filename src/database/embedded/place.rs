//! What lies where, and who may enter.
//!
//! ```text
//! <data folder>/postgresql-15/
//! ├── data/             the cluster, mode 0700, owned by who runs the server
//! ├── socket/           mode 0700, owned by the same; a short folder in /tmp if the path is long
//! ├── clients.lock      shared: clients; exclusive: the supervisor, or `db stop`
//! ├── supervisor.lock   exclusive: the supervisor; its process id once the server is ready
//! ├── keep-running      `db start` was here
//! └── server.log        what the supervisor and the server say
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use sha2::{Digest, Sha256};

use super::error::{EmbeddedError, ResultExt};

/// The database role, and superuser, that everything connects as.
pub(super) const ROLE: &str = "swr";

/// The port names the socket's file; nothing listens on the network.
pub(super) const PORT: u16 = 5432;

const FOLDER_PREFIX: &str = "postgresql-";

const UNFINISHED_PREFIX: &str = "data.new-";

/// The kernel takes 107 bytes on Linux and 103 on macOS.
const SOCKET_PATH_BYTES: usize = 100;

/// A log that has grown beyond this is set aside at the next start.
const LOG_BYTES: u64 = 4 << 20;

/// How many lines of the log an error quotes.
const LOG_LINES: usize = 20;

/// What may stand in a query parameter as it is, for sqlx and libpq alike.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.');

/// The folder that holds everything.
pub(super) fn data_dir(chosen: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    match chosen {
        // The supervisor's working folder is another.
        Some(path) => std::path::absolute(path).at("resolving", path),
        None if geteuid().is_root() => Ok(PathBuf::from("/var/lib/swr-sync")),
        None => Err(EmbeddedError::NoDataDir),
    }
}

/// The PostgreSQL majors that have data below the folder.
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

/// The folder of one PostgreSQL major.
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

    /// Where a supervisor makes the data.
    pub(super) fn unfinished_data(&self, supervisor: u32) -> PathBuf {
        self.folder.join(format!("{UNFINISHED_PREFIX}{supervisor}"))
    }

    /// Removes what killed supervisors have left, as far as nobody else is at it.
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

    /// The folder of the socket, whose whole path must be short.
    pub(super) fn socket_dir(&self) -> PathBuf {
        let folder = self.folder.join("socket");
        let socket = folder.join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() <= SOCKET_PATH_BYTES {
            return folder;
        }
        let hash = Sha256::digest(self.folder.as_os_str().as_bytes());
        let short: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
        PathBuf::from(format!("/tmp/swr-sync-{short}"))
    }

    /// Leaves nothing in /tmp. What is still in it, or not ours, stays.
    pub(super) fn remove_short_socket_dir(&self) {
        let folder = self.socket_dir();
        if !folder.starts_with(&self.folder) {
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// The port and the TLS mode are named because a client would otherwise take
    /// them from its environment (`PGPORT`, `PGSSLMODE`). The host `localhost`
    /// is overridden by the folder; sqlx does not parse a URL without one.
    pub(super) fn url(&self) -> String {
        self.url_of(ROLE)
    }

    pub(super) fn url_of(&self, database: &str) -> String {
        let socket_dir = self.socket_dir();
        let host = percent_encode(socket_dir.as_os_str().as_bytes(), IN_QUERY);
        format!("postgresql://{ROLE}@localhost:{PORT}/{database}?host={host}&sslmode=disable")
    }

    /// Makes the folder, and checks that it is ours and that the server can get to it.
    pub(super) fn prepare(&self) -> Result<(), EmbeddedError> {
        // As root the server runs as somebody else, who has to pass through.
        let mode = if geteuid().is_root() { 0o755 } else { 0o700 };
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

    /// Checks that the data are of the major that the folder is named for.
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

    /// The last lines of the log that begin at or after `offset` bytes. Empty
    /// when there is none, since it only serves to explain another error.
    pub(super) fn log_tail(&self, offset: u64) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.log())?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(offset.max(end.saturating_sub(16 << 10))))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Who runs the server when the supervisor is root, which PostgreSQL refuses.
#[derive(Debug, Clone)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
    name: String,
}

impl ServerUser {
    /// `None` for an ordinary user, who runs the server himself.
    pub(super) fn choose(place: &Place) -> Result<Option<ServerUser>, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        // Data that exist go on belonging to whoever made them: the user
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

    /// Checks that the user can pass through every folder above, by their modes.
    /// `initdb` would fail too, but without saying which folder it is.
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

/// Makes a folder that only the server's user may enter.
pub(super) fn make_private_folder(
    path: &Path,
    user: Option<&ServerUser>,
) -> Result<(), EmbeddedError> {
    let owner = user.map_or_else(geteuid, |user| Uid::from_raw(user.uid));
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(ServerUser { uid, gid, .. }) = user {
                std::os::unix::fs::chown(path, Some(*uid), Some(*gid)).at("handing over", path)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).at("creating", path),
    }
    // In /tmp somebody else may have made a folder, or a link, of this name.
    check_owner(path, owner)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).at("closing", path)
}

fn check_owner(path: &Path, expected: Uid) -> Result<(), EmbeddedError> {
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

/// Makes a folder with exactly this mode, whatever the umask; leaves an existing one alone.
fn make_folder(path: &Path, mode: u32) -> Result<(), EmbeddedError> {
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(path).at("creating", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("opening up", path)
}

fn open_lock(path: &Path) -> Result<File, EmbeddedError> {
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
    fn the_socket_of_a_deep_folder_lies_in_a_short_one() {
        let near = Place::new(Path::new("/var/lib/swr-sync"), 17);
        assert_eq!(
            near.socket_dir(),
            Path::new("/var/lib/swr-sync/postgresql-17/socket")
        );
        let deep = Path::new("/home").join("d".repeat(90));
        let socket_dir = Place::new(&deep, 17).socket_dir();
        assert!(socket_dir.starts_with("/tmp"), "{socket_dir:?}");
        assert_ne!(socket_dir, Place::new(&deep, 18).socket_dir());
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
