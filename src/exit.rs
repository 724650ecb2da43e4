//! How the program ends.

/// The exit codes. The numbers are part of the program's interface: cron jobs
/// and Kubernetes pod failure policies decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Published, complete; or left to another run, where that was asked for.
    Success = 0,
    /// An unexpected failure, where trying again may help; or data that `status` finds too old, or
    /// tables that `verify` finds to differ.
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
    /// The listing is incomplete, nothing was published: the source is unavailable, or the time
    /// was up.
    SourceUnavailable = 7,
    /// Another run holds the lock, and was not to be skipped, or was waited for in vain.
    Locked = 75,
    /// Stopped by SIGINT after a clean end.
    Interrupted = 130,
    /// Stopped by SIGTERM after a clean end.
    Terminated = 143,
}

impl Exit {
    /// All of them, by their numbers.
    pub const ALL: [Exit; 11] = [
        Exit::Success,
        Exit::Unexpected,
        Exit::Usage,
        Exit::Partial,
        Exit::Denied,
        Exit::Database,
        Exit::Refused,
        Exit::SourceUnavailable,
        Exit::Locked,
        Exit::Interrupted,
        Exit::Terminated,
    ];

    /// What was compared differs, as in `diff` and `cmp`.
    pub const DIFFERENT: Exit = Exit::Unexpected;

    /// Orders the ends of several instances: the worst is the one that a person should hear of
    /// first. What trying again may mend comes before what needs somebody's hand.
    pub fn severity(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Locked => 1,
            Exit::Partial => 2,
            Exit::SourceUnavailable => 3,
            Exit::Unexpected => 4,
            Exit::Database => 5,
            Exit::Denied => 6,
            Exit::Refused => 7,
            Exit::Usage => 8,
            // Whoever stopped the job wants to know that it stopped.
            Exit::Interrupted | Exit::Terminated => 9,
        }
    }
}
