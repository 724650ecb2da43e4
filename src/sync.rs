//! One run over one instance: registry and store joined.
//!
//! A task reads the list, page by page; the lister stages the pages and determines which build
//! histories are not stored yet; a task fetches those, and a task stores them as they arrive. Bounded
//! channels join them, so a slow stage slows the one before it. Publish follows only if the listing is
//! complete. A watchdog ends a stuck run.

mod begin;
mod crawl;
mod error;
mod failures;
mod listing;
mod progress;
mod publishing;
pub(crate) mod stages;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::Instrument;

use crate::clock::Clock;
use crate::database::Database;
use crate::registry::Registry;
use crate::run::{RunCounters, RunOutcome, RunReport};
use crate::spans;
use crate::stop::Stop;
use crate::store::{self, InstanceLock, Publishing, Run, RunEnd};
use begin::begin_run;
use crawl::Crawl;
use publishing::{publish_unless_stopped, show_publishing, tidy_up};

pub(crate) use begin::{FIRST_VERSION, is_older};
pub use error::SyncError;
pub use progress::{Phase, Progress, ProgressNow};

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
    /// Do everything, but undo the publish.
    pub dry_run: bool,
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
    let (mut lock, run) = begin_run(registry, database, settings, progress, stop)
        .instrument(tracing::info_span!(target: spans::TARGET, "begin"))
        .await?;
    let begin = Instant::now();
    progress.run_id.store(run.run_id, Ordering::Relaxed);
    tracing::info!(
        run_id = run.run_id,
        instance = settings.swr_instance_id,
        "run {} started",
        run.run_id
    );

    let meter = registry.meter();
    let crawl = Crawl::new(registry, settings, run, progress);
    let crawled = crawl.run(database, &mut lock, stop).await;
    let mut counters = progress.counters(&meter);
    let result = match crawled {
        Ok(listing) => {
            progress.enter(Phase::Publishing);
            let publishing = Publishing {
                listing,
                dry_run: settings.dry_run,
                exit_code: counters.exit() as u8,
                max_removals_percent: settings.safeguards.max_removals_percent,
            };
            let before = counters.clone();
            let session = lock.backend_process_id();
            let publishing = store::publish(&mut lock, run, publishing, &mut counters, clock)
                .instrument(tracing::info_span!(target: spans::TARGET, "publish"));
            tokio::select! {
                published = publish_unless_stopped(publishing, database, session, stop) => published,
                never = show_publishing(database, run, &before, clock) => match never {},
            }
        }
        Err(error) => Err(error),
    };
    match &result {
        Ok(()) => {
            // All is published; a failure here is no failure of the run, nor is a stop.
            tokio::select! {
                () = tidy_up(&mut lock, run, &counters) => {}
                _ = stop.requested() => {}
            }
        }
        Err(error) => {
            record_failure(&mut lock, run, &counters, error, database, clock.now()).await;
        }
    }
    lock.release().await;
    result.map(|()| RunReport {
        run_id: run.run_id,
        outcome: if settings.dry_run {
            RunOutcome::DryRun
        } else {
            RunOutcome::Published
        },
        counters,
        failures: crawl.failures().report(),
        elapsed: begin.elapsed(),
    })
}

/// The end of a run that is still in progress.
pub(crate) const IN_PROGRESS: RunEnd<'static> = RunEnd {
    outcome: None,
    error: None,
    exit_code: None,
};

/// Writes the failure into the run row, if the database still listens.
pub(crate) async fn record_failure(
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
            "the run row keeps no word of the failure: {}",
            chain(&error)
        ),
        Err(_) => tracing::debug!(
            "the run row keeps no word of the failure: the database does not answer"
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
