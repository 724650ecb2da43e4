//! Checks and reads all files that determine where requests and secrets are sent.

use std::io;
use std::path::Path;

/// Some editors write it at the start of a file; in UTF-8 it has no meaning.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Reads a file with a secret. Other users must not be able to change it: they could make the program
/// connect elsewhere.
///
/// A file that other users can read is normal if an orchestrator mounts it (Docker with 0444, Kubernetes
/// with 0644): the container has no other users. So this is only a warning, and only if our user owns
/// the file and can change its mode.
pub fn read(path: &Path) -> io::Result<String> {
    let mode = checked_mode(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(path)?.uid();
        let is_ours = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == owner);
        if let Some(mode) = mode.filter(|mode| mode & 0o004 != 0 && is_ours) {
            tracing::warn!(
                "every user of this machine can read the secret in {} (mode {mode:04o}): \
                 `chmod 0600` restricts it to its owner",
                path.display()
            );
        }
    }
    #[cfg(not(unix))]
    let _ = mode;
    let text = std::fs::read_to_string(path)?;
    Ok(text
        .strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(&text)
        .to_owned())
}

/// The permissions of a file; fails if every user can write to it. `None` if it is not a regular
/// file, such as a pipe.
pub fn checked_mode(path: &Path) -> io::Result<Option<u32>> {
    let metadata = std::fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mode = metadata.mode() & 0o777;
        if metadata.is_file() && mode & 0o002 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("every user can write to it (mode {mode:04o}): run `chmod o-w` on it"),
            ));
        }
        Ok(metadata.is_file().then_some(mode))
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Ok(None)
    }
}
