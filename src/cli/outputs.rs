//! The reports of `sync` to monitoring: a line for each run in a file, metrics, a
//! ping, a message for Kubernetes.
//!
//! They are sent after the runs, within a time limit. A failure is logged as a warning and
//! does not change the exit code.

mod metrics;
mod ping;
mod pushgateway;
mod summary_file;
mod termination;
mod text;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future;
use reqwest::Certificate;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::job::JobReport;
use super::telemetry::Telemetry;
use crate::stop::Stop;
use metrics::Metrics;
use ping::{Ping, Started};
use pushgateway::Pushgateway;

/// Time limit for all outputs together, after the last run.
const LIMIT: Duration = Duration::from_secs(10);
/// The same after a signal, counted from the signal: runs may use up to 4.5 s, and the program must
/// end within 5 s.
const LIMIT_AFTER_SIGNAL: Duration = Duration::from_millis(4_800);
/// The minimum time for outputs in any case: a server in the same cluster answers faster.
const LEAST: Duration = Duration::from_millis(300);

/// Where to report the result.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Reporting")]
pub(super) struct OutputArgs {
    /// Append a line with a JSON object for each instance to this file; `-` for standard output
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FILE",
        env = "SWR_SYNC_SUMMARY_FILE"
    )]
    summary_file: Option<OsString>,
    /// Write metrics of the last runs to this file, for node_exporter's textfile collector. The name
    /// must end in .prom. The file is replaced, so each job needs its own
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FILE",
        env = "SWR_SYNC_METRICS_FILE"
    )]
    metrics_file: Option<OsString>,
    /// Pushgateway to send the metrics to, as http://host:9091. User and password are read from
    /// SWR_SYNC_PUSHGATEWAY_URL or from the file in SWR_SYNC_PUSHGATEWAY_URL_FILE, never from this flag [env:
    /// SWR_SYNC_PUSHGATEWAY_URL]
    // Not clap's `env`: the variable may contain a password, the command line must not.
    #[arg(hide_short_help = true, long, value_name = "URL")]
    pushgateway_url: Option<String>,
    /// Existing file for a short message about the result; Kubernetes shows it
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FILE",
        env = "SWR_SYNC_TERMINATION_MESSAGE_FILE",
        default_value = "/dev/termination-log"
    )]
    termination_message_file: OsString,
}

/// The requested outputs. Their settings are checked as far as possible before the job.
#[derive(Debug)]
pub(super) struct Outputs {
    summary_file: Option<PathBuf>,
    metrics_file: Option<PathBuf>,
    pushgateway: Option<Pushgateway>,
    ping: Option<Ping>,
    termination_message_file: PathBuf,
    host: String,
}

impl OutputArgs {
    /// Checks the settings. `certificates` are trusted in addition to the system's.
    pub(super) fn prepare(
        &self,
        certificates: Vec<Certificate>,
        host: String,
    ) -> Result<Outputs, Failure> {
        let summary_file = file("--summary-file", self.summary_file.as_ref())?;
        let metrics_file = file("--metrics-file", self.metrics_file.as_ref())?;
        if let Some(path) = &metrics_file
            && path.extension().is_none_or(|extension| extension != "prom")
        {
            return Err(Failure::new(
                Exit::Usage,
                format!("--metrics-file {} does not end in .prom", path.display()),
            )
            .hint("node_exporter's textfile collector only reads files with this ending"));
        }
        Ok(Outputs {
            summary_file,
            metrics_file,
            pushgateway: Pushgateway::from_settings(
                self.pushgateway_url.as_ref(),
                certificates.clone(),
            )?,
            ping: Ping::from_settings(certificates)?,
            termination_message_file: PathBuf::from(&self.termination_message_file),
            host,
        })
    }
}

/// Checks that the folder of the file exists. An empty value counts as unset; `-` is not a file.
fn file(flag: &str, value: Option<&OsString>) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = value.filter(|value| !value.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let folder = match path.parent() {
        Some(folder) if folder == Path::new("") => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    };
    let problem = if path.is_dir() {
        Some("it is a folder".to_owned())
    } else if folder.is_dir() {
        None
    } else {
        Some(format!("the folder {} does not exist", folder.display()))
    };
    match problem {
        None => Ok(Some(path)),
        Some(problem) => Err(Failure::new(
            Exit::Usage,
            format!("cannot write {flag} {}: {problem}", path.display()),
        )
        .hint("use a file in an existing folder")),
    }
}

impl Outputs {
    /// Starts reporting that the job begins; does not wait.
    pub(super) fn begin(&self, report: &JobReport) -> Option<Started> {
        self.ping.as_ref().map(|ping| ping.start(report.job_id))
    }

    /// Sends the result to all outputs concurrently.
    pub(super) async fn end(
        self,
        started: Option<Started>,
        report: &JobReport,
        stop: &Stop,
        telemetry: &Telemetry,
    ) {
        let reports = &report.instances;
        #[cfg(feature = "otlp")]
        let traces = telemetry.traces.clone();
        #[cfg(not(feature = "otlp"))]
        let _ = telemetry;
        let sending = future::join5(
            with_deadline(
                stop,
                "the summary file",
                self.summary_file.map(|file| {
                    let lines = summary_file::lines(report.job_id, reports, &self.host);
                    blocking(move || summary_file::append(&file, &lines))
                }),
            ),
            with_deadline(
                stop,
                "the termination message",
                Some({
                    let message = termination::message(reports);
                    blocking(move || termination::write(&self.termination_message_file, &message))
                }),
            ),
            with_deadline(
                stop,
                "the metrics file",
                self.metrics_file.map(|file| {
                    let metrics = Metrics::of(reports);
                    blocking(move || metrics::write(&file, metrics))
                }),
            ),
            with_deadline(
                stop,
                "the Pushgateway",
                self.pushgateway
                    .as_ref()
                    .map(|pushgateway| pushgateway.push(reports)),
            ),
            with_deadline(
                stop,
                "the ping",
                self.ping
                    .as_ref()
                    .map(|ping| ping.end(started, report, text::long(reports))),
            ),
        );
        #[cfg(feature = "otlp")]
        let sending = future::join(
            sending,
            with_deadline(
                stop,
                "the collector of traces",
                traces.map(|traces| blocking(move || traces.flush(LIMIT))),
            ),
        );
        sending.await;
    }
}

/// Runs one output within the time limit, and logs its failure.
async fn with_deadline<E: Display>(
    stop: &Stop,
    what: &str,
    work: Option<impl Future<Output = Result<(), E>>>,
) {
    let Some(work) = work else {
        return;
    };
    tokio::select! {
        biased;
        result = work => if let Err(error) = result {
            tracing::warn!("cannot report the result through {what}: {error}");
        },
        () = out_of_time(stop) => tracing::warn!("cannot report the result through {what}: timed out"),
    }
}

/// Returns when the outputs must have ended.
async fn out_of_time(stop: &Stop) {
    let signalled = async {
        stop.requested().await;
        let signal_at = stop.requested_at().unwrap_or_else(Instant::now);
        let end = (signal_at + LIMIT_AFTER_SIGNAL).max(Instant::now() + LEAST);
        tokio::time::sleep_until(end).await;
    };
    tokio::select! {
        () = tokio::time::sleep(LIMIT) => {}
        () = signalled => {}
    }
}

/// Runs work on files in another thread: a file system may hang, and a pipe has no time limit.
async fn blocking(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<()> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(std::io::Error::other(error)),
    }
}
