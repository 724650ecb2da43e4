//! Files that get their name only when they are complete.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a temporary file in the same folder and renames it, so that readers see the old or the
/// new one.
///
/// The temporary file has a random name and must not exist yet: in a folder that others can write
/// to, a predictable name may be a link to one of our files.
pub(super) fn replace_file(path: &Path, contents: &[u8], mode: Mode) -> io::Result<()> {
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
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        // Collectors and globs do not match it.
        .suffix(".tmp")
        .permissions(Permissions::from_mode(permissions))
        .tempfile_in(folder)?;
    if let Mode::Exactly(permissions) = mode {
        let permissions = Permissions::from_mode(permissions);
        file.as_file().set_permissions(permissions)?;
    }
    file.write_all(contents)?;
    file.persist(path)?;
    Ok(())
}

/// The permissions of the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// Reduced by the umask.
    Umask(u32),
    /// Independent of the umask.
    Exactly(u32),
}
