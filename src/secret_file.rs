//! Files that hold a secret: the one place that reads them.

use std::io;
use std::path::Path;

/// What some editors begin a file with; it means nothing in UTF-8.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Reads a file that others must not be able to change: they could send the program elsewhere.
///
/// That others can read it is the rule where an orchestrator mounts it (0444 by Docker, 0644 by
/// Kubernetes) into a container that has no other users, so it is a warning, and only for a file
/// of our own user, who can change that.
pub fn read(path: &Path) -> io::Result<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path)?;
        let mode = metadata.mode() & 0o777;
        if metadata.is_file() && mode & 0o002 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("every user may write it (mode {mode:04o}): chmod o-w would do"),
            ));
        }
        let is_ours = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == metadata.uid());
        if metadata.is_file() && mode & 0o004 != 0 && is_ours {
            tracing::warn!(
                "every user of this machine can read the secret in {} (mode {mode:04o}): \
                 chmod 0600 keeps it to its owner",
                path.display()
            );
        }
    }
    let text = std::fs::read_to_string(path)?;
    Ok(text
        .strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(&text)
        .to_owned())
}
