//! One run over one instance: registry and store joined.
//!
//! A task reads the list, page by page; the lister stages the pages and determines which build
//! histories are not stored yet; a task fetches those, and a task stores them as they arrive. Bounded
//! channels join them, so a slow stage slows the one before it. Publish follows only if the listing is
//! complete. A watchdog ends a stuck run.
//!
//! A run that verifies begins and lists in the same way. Then it compares what it staged with the
//! tables.

mod begin;
mod compare;
mod crawl;
mod error;
mod failures;
mod listing;
mod pipeline;
mod progress;
mod publishing;
mod stages;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::Instrument;

use crate::clock::Clock;
use crate::database::Database;
use crate::registry::Registry;
use crate::run::{RunCounters, RunOutcome, RunReport, Verification};
use crate::spans;
use crate::stop::Stop;
use crate::store::{self, InstanceLock, Publishing, Run, RunEnd};
use begin::begin_run;
use crawl::Crawl;
use publishing::{publish_unless_stopped, show_publishing, tidy_up};

pub(crate) use begin::{FIRST_VERSION, is_older};
pub use error::SyncError;
pub use progress::{Phase, Progress};

/// The default of [`SyncSettings::patience`].
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The default of [`SyncSettings::heartbeat`]. The heartbeat also keeps the connection of the lock active.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

// Time budget after a stop signal, for three steps one after another. With half a second to release the
// lock, the sum is less than 5 s.

/// For a request or a publish that is in flight.
const GRACE: Duration = Duration::from_secs(2);
/// For storing the answers that have arrived, or for cancelling publish.
const STORE_GRACE: Duration = Duration::from_secs(1);
/// For writing the outcome to the run row.
const RECORD_GRACE: Duration = Duration::from_secs(1);

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct SyncSettings {
    /// The id of the instance in SWR.
    pub swr_instance_id: String,
    pub project_id: String,
    /// The endpoint for the row of the instance.
    pub endpoint: String,
    /// The region, if known.
    pub region: Option<String>,
    /// What to do after the listing.
    pub ending: Ending,
    pub safeguards: Safeguards,
    /// How long to wait for the end of another run over the instance; `None` for no limit.
    pub lock_timeout: Option<Duration>,
    /// A run with remaining work in which nothing starts or ends for this long is stuck.
    pub patience: Duration,
    /// Interval between updates of the progress in the run row.
    pub heartbeat: Duration,
    /// The host name for the run row.
    pub host: String,
    pub clock: Clock,
}

/// What a run does after its listing is complete.
#[derive(Debug, Clone)]
pub enum Ending {
    /// Publish the listing.
    Publish,
    /// Publish the listing, and roll back.
    DryRun,
    /// Compare the listing and a sample of histories with the published rows.
    Compare(Sample),
}

/// The histories that a verification fetches again.
#[derive(Debug, Clone)]
pub struct Sample {
    /// How many; `None` for all.
    pub histories: Option<u64>,
    /// Start of the sample: the first digest after this text.
    pub start: String,
}

/// Limits for actions that are more likely mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safeguards {
    /// Maximum percentage of the current artifacts that a publish marks as removed; `None` for no maximum.
    pub max_removals_percent: Option<u8>,
    /// Accept a new instance with the name of another instance of its project.
    pub accept_new_instance: bool,
}

impl Default for Safeguards {
    fn default() -> Safeguards {
        Safeguards {
            max_removals_percent: Some(20),
            accept_new_instance: false,
        }
    }
}

/// Runs once over one instance.
///
/// Build histories that arrived before an error stay stored: the next run requests only the missing ones.
/// The error is also written to the run row, if there is one.
pub async fn sync(
    registry: &Registry,
    database: &Database,
    settings: &SyncSettings,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<RunReport, SyncError> {
    let clock = &settings.clock;
    let (mut lock, run, verified) = begin_run(registry, database, settings, progress, stop)
        .instrument(tracing::info_span!(target: spans::TARGET, "begin"))
        .await?;
    let begin = Instant::now();
    progress.run_id.store(run.run_id, Ordering::Relaxed);
    let verifying = verified.map(|verified| format!(": verifying run {}", verified.run_id));
    tracing::info!(
        run_id = run.run_id,
        instance = settings.swr_instance_id,
        "run {} started{}",
        run.run_id,
        verifying.unwrap_or_default()
    );

    let crawl = Crawl::new(registry, settings, run, progress);
    let crawled = match (&settings.ending, verified) {
        (Ending::Compare(sample), Some(verified)) => crawl
            .compare(&mut lock, verified, sample, stop)
            .await
            .map(Crawled::Compared),
        _ => crawl
            .run(database, &mut lock, stop)
            .await
            .map(Crawled::Listed),
    };
    let mut counters = progress.counters(&registry.meter());
    let result = match crawled {
        Ok(Crawled::Listed(listing)) => {
            progress.enter(Phase::Publishing);
            let publishing = Publishing {
                listing,
                dry_run: matches!(settings.ending, Ending::DryRun),
                exit_code: counters.exit() as u8,
                max_removals_percent: settings.safeguards.max_removals_percent,
            };
            let before = counters.clone();
            let session = lock.backend_process_id();
            let publishing = store::publish(&mut lock, run, publishing, &mut counters, clock)
                .instrument(tracing::info_span!(target: spans::TARGET, "publish"));
            tokio::select! {
                published = publish_unless_stopped(publishing, database, session, stop) => published.map(|()| None),
                never = show_publishing(database, run, &before, clock) => match never {},
            }
        }
        Ok(Crawled::Compared(verification)) => {
            let end = RunEnd {
                outcome: Some(RunOutcome::Verified),
                error: None,
                exit_code: Some(verification.exit() as u8),
            };
            let saved = store::save_progress(&mut lock, run, &counters, end, clock.now()).await;
            saved.map(|()| Some(verification)).map_err(SyncError::from)
        }
        Err(error) => Err(error),
    };
    match &result {
        Ok(None) => {
            // Everything is published, so an error or a stop signal here does not fail the run.
            tokio::select! {
                () = tidy_up(&mut lock, run, &counters) => {}
                _ = stop.requested() => {}
            }
        }
        Ok(Some(_)) => {}
        Err(error) => {
            record_failure(&mut lock, run, &counters, error, database, clock.now()).await;
        }
    }
    lock.release().await;
    result.map(|verification| RunReport {
        run_id: run.run_id,
        outcome: match settings.ending {
            Ending::Publish => RunOutcome::Published,
            Ending::DryRun => RunOutcome::DryRun,
            Ending::Compare(_) => RunOutcome::Verified,
        },
        counters,
        failures: crawl.failures().report(),
        elapsed: begin.elapsed(),
        verification,
    })
}

/// The result of a complete crawl.
enum Crawled {
    /// Start and end of the listing to publish.
    Listed((DateTime<Utc>, DateTime<Utc>)),
    Compared(Verification),
}

/// The end of a run that is still in progress.
const IN_PROGRESS: RunEnd<'static> = RunEnd {
    outcome: None,
    error: None,
    exit_code: None,
};

/// Writes the failure to the run row, if the database still answers.
async fn record_failure(
    lock: &mut InstanceLock,
    run: Run,
    counters: &RunCounters,
    error: &SyncError,
    database: &Database,
    now: DateTime<Utc>,
) {
    let text = chain(error);
    let end = RunEnd {
        outcome: Some(error.outcome()),
        error: Some(&text),
        exit_code: Some(error.exit() as u8),
    };
    let saving = async {
        // If the listing was interrupted, its last statement may still be waiting. Cancel it. An
        // error is ignored: it may be possible to write the row even so.
        database.cancel(lock.backend_process_id()).await;
        lock.settle().await;
        store::save_progress(lock, run, counters, end, now).await
    };
    match tokio::time::timeout(RECORD_GRACE, saving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(
            "cannot record the failure in the run row: {}",
            chain(&error)
        ),
        Err(_) => tracing::debug!(
            "cannot record the failure in the run row: the database does not answer"
        ),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let part = source.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = source.source();
    }
    text
}
