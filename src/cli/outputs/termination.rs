//! The message that Kubernetes shows for a terminated container.
//!
//! The kubelet reads at most 4096 bytes of the file, and shows them in the status of the pod:
//! <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::super::job::InstanceReport;
use super::text::{cut, short, worst_first};

const MAX_BYTES: usize = 2_048;
/// Prevents one long error from hiding the others.
const MAX_LINE_BYTES: usize = 700;

/// A line for each target, the most severe first.
pub(super) fn message(reports: &[InstanceReport]) -> String {
    const REST_BYTES: usize = 40;
    let reports = worst_first(reports);
    let mut message = String::new();
    for (index, report) in reports.iter().enumerate() {
        let line = cut(&short(report), MAX_LINE_BYTES);
        if message.len() + line.len() + 1 > MAX_BYTES - REST_BYTES {
            message.push_str(&format!("and {} more\n", reports.len() - index));
            break;
        }
        message.push_str(&line);
        message.push('\n');
    }
    message
}

/// Overwrites the file. Outside Kubernetes, it does not exist or is not writable.
pub(super) fn write(file: &Path, message: &str) -> io::Result<()> {
    if file.as_os_str().is_empty() {
        return Ok(());
    }
    match OpenOptions::new().write(true).truncate(true).open(file) {
        Ok(mut file) => file.write_all(message.as_bytes()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            tracing::debug!("no termination message: {error}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
