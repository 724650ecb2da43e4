//! Files that get their name only when they are complete.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Writes a temporary file in the same folder and renames it, so that readers see the old or the
/// new one.
pub(super) fn replace_file(path: &Path, contents: &[u8], mode: Mode) -> io::Result<()> {
    let mut draft = Draft::new(path, mode)?;
    draft.write_all(contents)?;
    draft.persist()
}

/// A file that has a temporary name until it is complete.
///
/// The name is random and must not exist yet: in a folder that others can write to, a predictable
/// name may be a link to one of our files.
#[derive(Debug)]
pub(super) struct Draft {
    file: NamedTempFile,
    path: PathBuf,
}

impl Draft {
    /// Creates the file, next to the one it replaces.
    pub(super) fn new(path: &Path, mode: Mode) -> io::Result<Draft> {
        let file = temporary_file(path, mode)?;
        Ok(Draft {
            file,
            path: path.to_owned(),
        })
    }

    /// Gives the file its name.
    pub(super) fn persist(self) -> io::Result<()> {
        self.file.persist(self.path)?;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn temporary_file(path: &Path, mode: Mode) -> io::Result<NamedTempFile> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut prefix = name.to_owned();
    prefix.push(".");
    let (Mode::Umask(permissions) | Mode::Exactly(permissions)) = mode;
    let file = tempfile::Builder::new()
        .prefix(&prefix)
        // Collectors and globs do not match it.
        .suffix(".tmp")
        .permissions(Permissions::from_mode(permissions))
        .tempfile_in(folder)?;
    if let Mode::Exactly(permissions) = mode {
        let permissions = Permissions::from_mode(permissions);
        file.as_file().set_permissions(permissions)?;
    }
    Ok(file)
}

/// The permissions of the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// Reduced by the umask.
    Umask(u32),
    /// Independent of the umask.
    Exactly(u32),
}
