//! How the program ends.

/// The exit codes. The numbers are part of the program's interface: cron jobs
/// and Kubernetes pod failure policies decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Published, complete.
    Success = 0,
    /// An unexpected failure, where trying again may help; or data that `status` finds too old.
    Unexpected = 1,
    /// Usage or configuration; trying again does not help.
    Usage = 2,
    /// Published, but some build histories failed.
    Partial = 3,
    /// Authentication or permission.
    Denied = 4,
    /// The database is unreachable, rights are missing, or a migration is needed.
    Database = 5,
    /// A safety stop, such as a schema newer than the program.
    Refused = 6,
    /// The source is unavailable: the listing is incomplete, nothing was published.
    SourceUnavailable = 7,
    /// Another run holds the lock.
    Locked = 75,
    /// Stopped by SIGINT after a clean end.
    Interrupted = 130,
    /// Stopped by SIGTERM after a clean end.
    Terminated = 143,
}
