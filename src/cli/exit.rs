//! How the program ends.

/// The exit codes. The numbers are part of the program's interface: cron jobs
/// and Kubernetes pod failure policies decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Published, complete.
    Success = 0,
    /// An unexpected failure; trying again may help.
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

/// Why a command ended without success: the exit code, the error, and what the user can do.
#[derive(Debug)]
pub struct Failure {
    /// The code the process exits with.
    pub exit: Exit,
    /// What failed, with its causes as `source`.
    pub error: Box<dyn std::error::Error + Send + Sync>,
    /// One sentence: the next step.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure {
            exit,
            error: error.into(),
            hint: None,
        }
    }

    /// Adds the next step.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}
