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

/// What [`SyncSettings::heartbeat`] is where nothing else is set. It also keeps the lock's connection
/// from idling.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// What the wish to stop leaves to each part of a run, one after another. With half a second for
/// the lock they make less than 5 s: a request or a publish that is on its way, …
const GRACE: Duration = Duration::from_secs(2);
/// … then the answers that have arrived but are not stored, or the end of a publish that was
/// cancelled, …
const STORE_GRACE: Duration = Duration::from_secs(1);
/// … then the word in the run row.
const RECORD_GRACE: Duration = Duration::from_secs(1);

/// What a run is about.
#[derive(Debug, Clone)]
pub struct SyncSettings {
    /// The instance in SWR.
    pub swr_instance_id: String,
    /// Its project.
    pub project_id: String,
    /// The endpoint, as text for the instance's row.
    pub endpoint: String,
    /// The region, if known.
    pub region: Option<String>,
    /// What follows upon the listing.
    pub ending: Ending,
    /// What to refuse.
    pub safeguards: Safeguards,
    /// How long to wait for another run over the instance to end; `None` for as long as it takes.
    pub lock_timeout: Option<Duration>,
    /// A run with remaining work in which nothing starts or ends for this long is stuck.
    pub patience: Duration,
    /// How often the run row shows progress.
    pub heartbeat: Duration,
    /// The machine's name, for the run row.
    pub host: String,
    /// The time.
    pub clock: Clock,
}

/// How a run ends once its listing is complete.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The listing becomes visible.
    Publish,
    /// The same, but it is undone.
    DryRun,
    /// The listing and a sample of histories are compared with what is published.
    Compare(Sample),
}

/// Which histories a verification fetches again.
#[derive(Debug, Clone)]
pub struct Sample {
    /// How many; `None` for all.
    pub histories: Option<u64>,
    /// Where the sample starts: any text in the place of a digest.
    pub start: String,
}

/// What a run refuses to do, since it is more likely a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safeguards {
    /// The share of the current artifacts that a publish may mark as removed; `None` for any.
    pub max_removals_percent: Option<u8>,
    /// Take up an instance that has the name of another one of its project.
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
/// What arrived before an error is kept: the next run asks only for what is missing. The
/// error is in the run row too, if there is one.
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
            // All is published; a failure here is no failure of the run, nor is a stop.
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

/// A crawl that is complete.
enum Crawled {
    /// When the listing to publish began and ended.
    Listed((DateTime<Utc>, DateTime<Utc>)),
    Compared(Verification),
}

/// The end of a run that is still in progress.
const IN_PROGRESS: RunEnd<'static> = RunEnd {
    outcome: None,
    error: None,
    exit_code: None,
};

/// Writes the failure into the run row, if the database still listens.
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
        // A listing that was cut short leaves its statement behind, and that may wait for long. If
        // this fails, the row may still be free.
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
