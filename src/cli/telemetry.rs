//! Logs on stderr, and the live view that shares the terminal with them.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;
use tokio::runtime::Handle;
use tracing::{Level, Metadata};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::{self, DefaultFields};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

#[cfg(feature = "otlp")]
use super::traces::Traces;
use crate::visible::{visible, visible_json};

/// Our own log lines, which are searched for secrets.
const OWN: &str = "swr_sync";
/// Logs an unknown parameter of the database URL with its value, which may be a password.
const DATABASE_OPTIONS: &str = "sqlx_postgres::options";

/// Whether a line may be shown, regardless of the user's filter: below
/// warnings, libraries log details for debugging, including headers, requests and statements.
fn is_fit_to_show(metadata: &Metadata<'_>) -> bool {
    let is_of = |module: &str| {
        let rest = metadata.target().strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    is_of(OWN) || (*metadata.level() <= Level::WARN && !is_of(DATABASE_OPTIONS))
}

/// Logging.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct LogArgs {
    /// Format of the log lines
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FORMAT",
        env = "SWR_SYNC_LOG_FORMAT",
        default_value = "text",
        global = true
    )]
    pub log_format: LogFormat,
    /// What to log: off, error, warn, info, debug or trace, also by module as in
    /// warn,swr_sync::sync=debug. Libraries only log warnings [default: warn on a
    /// terminal, which has a live view, otherwise info]
    #[arg(hide_short_help = true, long, value_name = "LEVEL", env = "SWR_SYNC_LOG", global = true,
          value_parser = parse_filter)]
    pub log: Option<String>,
    /// Print nothing unless something is wrong: no progress, no summary of a success, and no log lines
    /// below errors
    #[arg(long, short, env = "SWR_SYNC_QUIET", global = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    pub quiet: bool,
}

/// The formats of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// For log collectors: one JSON object per line
    Json,
}

/// How a command shows its progress.
#[derive(Debug, Clone)]
pub(super) struct Telemetry {
    /// The bars of the live view.
    pub bars: MultiProgress,
    /// Whether there is a terminal for it.
    pub is_live: bool,
    /// The format of the log lines.
    pub format: LogFormat,
    /// Whether a success prints nothing.
    pub is_quiet: bool,
    /// The instance that is shown, if there are several.
    pub instance: Option<String>,
    /// The destination of spans, if there is one.
    #[cfg(feature = "otlp")]
    pub traces: Option<Traces>,
}

impl Telemetry {
    /// A copy for one of several instances.
    pub(super) fn of_instance(&self, instance: &str) -> Telemetry {
        Telemetry {
            instance: Some(instance.to_owned()),
            ..self.clone()
        }
    }
}

impl LogArgs {
    /// Starts logging, and collecting spans if the environment configures that.
    pub(super) fn start(&self, runtime: Option<&Handle>) -> Telemetry {
        let is_live =
            io::stderr().is_terminal() && self.log_format == LogFormat::Text && !self.quiet;
        let default = match (self.quiet, is_live) {
            (true, _) => "error",
            (false, true) => "warn",
            (false, false) => "info",
        };
        let directives = self
            .log
            .as_deref()
            .filter(|log| !log.is_empty())
            .unwrap_or(default);
        let filter = EnvFilter::new(directives).and(filter_fn(is_fit_to_show));
        let bars = MultiProgress::new();
        let writer = BesideBars {
            bars: bars.clone(),
            is_live,
        };
        let lines = || {
            tracing_subscriber::fmt::layer()
                .with_target(false)
                .with_ansi(is_live)
        };
        let registry = tracing_subscriber::registry();
        #[cfg(not(feature = "otlp"))]
        let _ = runtime;
        #[cfg(feature = "otlp")]
        let (traces, problem) = runtime.map(Traces::from_environment).unwrap_or_default();
        #[cfg(feature = "otlp")]
        let registry = registry.with(traces.as_ref().map(Traces::layer));
        // Fails only if a subscriber is already installed, as in tests, which is then used.
        let _ = match self.log_format {
            LogFormat::Text => {
                let lines = lines().with_writer(writer).fmt_fields(VisibleFields);
                registry.with(lines.with_filter(filter)).try_init()
            }
            LogFormat::Json => {
                let lines = lines().with_writer(|| VisibleJson);
                let lines = lines.json().flatten_event(true);
                registry.with(lines.with_filter(filter)).try_init()
            }
        };
        #[cfg(feature = "otlp")]
        if let Some(problem) = problem {
            tracing::warn!("{problem}");
        }
        Telemetry {
            bars,
            is_live,
            format: self.log_format,
            is_quiet: self.quiet,
            instance: None,
            #[cfg(feature = "otlp")]
            traces,
        }
    }
}

/// A filter in which every directive has a level. A single word that is not a level would count
/// as the name of a module, and disable all other logs.
fn parse_filter(text: &str) -> Result<String, &'static str> {
    let is_level = |text: &str| text.parse::<LevelFilter>().is_ok();
    let names_level = |directive: &str| match directive.trim().rsplit_once('=') {
        Some((_, level)) => is_level(level),
        None => is_level(directive.trim()),
    };
    if text.split(',').all(names_level) && EnvFilter::try_new(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err("expected off, error, warn, info, debug or trace, \
         also by module as in `warn,swr_sync::sync=debug`")
}

/// Message and fields in one line, without invisible characters and characters that move the cursor.
#[derive(Debug)]
struct VisibleFields;

impl<'writer> FormatFields<'writer> for VisibleFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: format::Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(format::Writer::new(&mut text), fields)?;
        writer.write_str(&visible(&text))
    }
}

/// Writes lines of JSON to stderr, without a live progress line.
#[derive(Debug)]
struct VisibleJson;

impl Write for VisibleJson {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().write_all(visible_json(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
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
