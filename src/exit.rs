//! The exit codes.

macro_rules! define_exits {
    ($($name:ident = $code:literal, $retry:ident, $severity:literal, $meaning:literal;)+) => {
        /// The exit codes. The numbers are part of the program's interface: cron jobs
        /// and Kubernetes pod failure policies depend on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "`meaning` describes each")]
        pub enum Exit {
            $($name = $code,)+
        }

        impl Exit {
            /// All codes, in ascending order.
            pub const ALL: [Exit; [$($code),+].len()] = [$(Exit::$name),+];

            /// The text in help, manual pages and documentation.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Exit::$name => $meaning,)+
                }
            }

            /// Whether a retry helps.
            pub const fn retry(self) -> Retry {
                match self {
                    $(Exit::$name => Retry::$retry,)+
                }
            }

            /// Order of severity; with several instances, the job exits with the most severe code.
            pub fn severity(self) -> u8 {
                match self {
                    $(Exit::$name => $severity,)+
                }
            }
        }
    };
}

// Code, whether a retry helps, severity, meaning. Failures that a retry may fix are less severe than those
// that need a change; a signal is the most severe, because it explains all other results.
define_exits! {
    Success = 0, NotNeeded, 0, "published, complete; of other commands: success";
    Unexpected = 1, Helps, 4, "unexpected failure; of `status --max-age`: too old; of `verify`: the tables differ";
    Usage = 2, DoesNotHelp, 8, "usage or configuration";
    Partial = 3, Helps, 2, "published, but some build histories failed";
    Denied = 4, DoesNotHelp, 6, "authentication or permission";
    Database = 5, Depends, 5, "database unreachable, rights missing, migration needed";
    Refused = 6, DoesNotHelp, 7, "refused for safety: mass removal, schema newer than the program, another instance";
    SourceUnavailable = 7, Helps, 3, "source unavailable: listing incomplete, nothing published";
    Locked = 75, Harmless, 1, "another sync of this instance is already running";
    Interrupted = 130, Helps, 9, "stopped by SIGINT, after a clean shutdown";
    Terminated = 143, Helps, 9, "stopped by SIGTERM, after a clean shutdown";
}

impl Exit {
    /// The compared data differs, as in `diff` and `cmp`.
    pub const DIFFERENT: Exit = Exit::Unexpected;

    /// The number of the exit code.
    pub const fn code(self) -> u8 {
        self as u8
    }
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
    /// It depends on the error.
    Depends,
    /// It is not needed but harmless: another run does the work.
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
