//! Logs on stderr, and the live view that shares the terminal with them.

use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How the program speaks.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct LogArgs {
    /// Form of the log lines
    #[arg(
        long,
        value_name = "FORM",
        env = "SWR_SYNC_LOG_FORMAT",
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug or trace, or a filter as tracing-subscriber reads it
    /// [default: warn on a terminal, where there is a live view, else info]
    #[arg(long, value_name = "LEVEL", env = "SWR_SYNC_LOG", global = true)]
    pub log: Option<String>,
}

/// The forms of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// For log collectors: one JSON object a line
    Json,
}

/// Where a command shows what it does.
#[derive(Debug, Clone)]
pub(super) struct Telemetry {
    /// The live view's bars.
    pub bars: MultiProgress,
    /// Whether there is a terminal to show them on.
    pub is_live: bool,
    /// The form of the log lines.
    pub format: LogFormat,
}

impl LogArgs {
    /// Starts logging.
    pub(super) fn start(&self) -> Telemetry {
        let is_live = io::stderr().is_terminal() && self.log_format == LogFormat::Text;
        let default = if is_live { "warn" } else { "info" };
        let directives = self
            .log
            .as_deref()
            .filter(|log| !log.is_empty())
            .unwrap_or(default);
        // The libraries' own words are for debugging them, and may quote headers and statements.
        let filter = EnvFilter::try_new(format!(
            "{directives},sqlx=warn,hyper_util=warn,reqwest=warn,rustls=warn"
        ))
        .unwrap_or_else(|_| EnvFilter::new(default));
        let bars = MultiProgress::new();
        let writer = BesideBars {
            bars: bars.clone(),
            is_live,
        };
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            .with_target(false)
            .with_ansi(is_live);
        // Fails only if a subscriber is installed already, as in tests; then that one stays.
        let _ = match self.log_format {
            LogFormat::Text => subscriber.try_init(),
            LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
        };
        Telemetry {
            bars,
            is_live,
            format: self.log_format,
        }
    }
}

/// Writes to stderr so that log lines and bars do not overwrite each other.
#[derive(Debug, Clone)]
struct BesideBars {
    bars: MultiProgress,
    is_live: bool,
}

impl<'a> MakeWriter<'a> for BesideBars {
    type Writer = BesideBars;

    fn make_writer(&'a self) -> BesideBars {
        self.clone()
    }
}

impl Write for BesideBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.is_live {
            self.bars.suspend(|| io::stderr().write_all(line))?;
        } else {
            io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
