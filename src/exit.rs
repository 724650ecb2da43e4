//! How the program ends.

/// The exit codes. The numbers are part of the program's interface: cron jobs
/// and Kubernetes pod failure policies decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Published, complete; or left to another run, with `--if-locked skip`.
    Success = 0,
    /// An unexpected failure, for which a retry may help; or data that is older than
    /// `status --max-age`, or tables in which `verify` found differences.
    Unexpected = 1,
    /// Usage or configuration; a retry does not help.
    Usage = 2,
    /// Published, but some build histories failed.
    Partial = 3,
    /// Authentication or permission.
    Denied = 4,
    /// The database is unreachable, rights are missing, or a migration is needed.
    Database = 5,
    /// A safety stop, such as a schema newer than the program.
    Refused = 6,
    /// The listing is incomplete, nothing was published: the source is unavailable, or the time limit
    /// was reached.
    SourceUnavailable = 7,
    /// Another session holds the lock of the instance, also after the wait that was allowed.
    Locked = 75,
    /// Stopped by SIGINT, after a clean shutdown.
    Interrupted = 130,
    /// Stopped by SIGTERM, after a clean shutdown.
    Terminated = 143,
}

/// Whether a retry of the job helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// There is nothing to retry.
    NotNeeded,
    /// The next run continues where this one ended.
    Helps,
    /// Somebody has to change something first.
    DoesNotHelp,
    /// It depends on what the error says.
    Depends,
    /// It is not needed and does no harm: another run is doing the work.
    Harmless,
}

impl Retry {
    /// For a table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Retry::NotNeeded => "",
            Retry::Helps => "yes",
            Retry::DoesNotHelp => "no",
            Retry::Depends => "depends",
            Retry::Harmless => "harmless",
        }
    }

    /// For running text.
    pub const fn advice(self) -> &'static str {
        match self {
            Retry::NotNeeded => "",
            Retry::Helps => "A retry helps.",
            Retry::DoesNotHelp => "A retry does not help.",
            Retry::Depends => "Whether a retry helps depends on the error.",
            Retry::Harmless => "A retry is harmless.",
        }
    }
}

impl Exit {
    /// All codes, in ascending order.
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

    /// The number that the process exits with.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// As help, manual pages and documentation print it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Success => "published, complete; of other commands: success",
            Exit::Unexpected => {
                "unexpected failure; of `status --max-age`: too old; of `verify`: the tables differ"
            }
            Exit::Usage => "usage or configuration",
            Exit::Partial => "published, but some build histories failed",
            Exit::Denied => "authentication or permission",
            Exit::Database => "database unreachable, rights missing, migration needed",
            Exit::Refused => {
                "refused for safety: mass removal, schema newer than the program, another instance"
            }
            Exit::SourceUnavailable => "source unavailable: listing incomplete, nothing published",
            Exit::Locked => "another sync of this instance is already running",
            Exit::Interrupted => "stopped by SIGINT, after a clean shutdown",
            Exit::Terminated => "stopped by SIGTERM, after a clean shutdown",
        }
    }

    /// Whether a retry helps.
    pub const fn retry(self) -> Retry {
        match self {
            Exit::Success => Retry::NotNeeded,
            Exit::Usage | Exit::Denied | Exit::Refused => Retry::DoesNotHelp,
            Exit::Database => Retry::Depends,
            Exit::Locked => Retry::Harmless,
            Exit::Unexpected
            | Exit::Partial
            | Exit::SourceUnavailable
            | Exit::Interrupted
            | Exit::Terminated => Retry::Helps,
        }
    }

    /// What was compared differs, as in `diff` and `cmp`.
    pub const DIFFERENT: Exit = Exit::Unexpected;

    /// Orders the results of several instances; the job exits with the code of the highest. Failures
    /// that a retry may fix rank below those that need a change.
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
            // The signal explains all other results.
            Exit::Interrupted | Exit::Terminated => 9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_are_listed_once_and_in_order() {
        let variants = include_str!("exit.rs")
            .split_once("pub enum Exit {")
            .and_then(|(_, rest)| rest.split_once("\n}"))
            .map(|(variants, _)| variants.matches(" = ").count());
        assert_eq!(variants, Some(Exit::ALL.len()));
        assert!(Exit::ALL.is_sorted_by(|one, other| one.code() < other.code()));
    }
}
