//! Files that appear under their name only when they are complete.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes a file next to its place and renames it, so that readers see the old or the new one.
///
/// The temporary file has a random name and must not exist yet: in a folder that others can write
/// to, a name that can be guessed may be a link to a file of ours.
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
        // Collectors and globs look for other endings.
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

/// Who may read the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// These, as far as the umask allows.
    Umask(u32),
    /// These, whatever the umask is.
    Exactly(u32),
}
