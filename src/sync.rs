//! One run over one instance: registry and store joined.
//!
//! Three stages run side by side in one task: the listing pages through the registry and
//! stages rows, the fetch stage asks for the build histories that are not stored yet, and
//! the storing stage writes those as they arrive. Two bounded channels join them, so a slow
//! stage slows the one before it. Publish follows only if the listing came to its end.

mod failures;

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{self, Either};
use futures_util::{StreamExt, TryStreamExt, stream};
use sqlx::PgConnection;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument;

use crate::artifact::{Artifact, InstanceDescription, Page};
use crate::build_history::{
    GaveUp, HistoryAnswer, HistoryOutcome, HistoryRequest, Refusal, RepositoryPath,
};
use crate::clock::Clock;
use crate::database::{Database, DatabaseError};
use crate::exit::Exit;
use crate::registry::{Registry, RegistryError, RequestMeter};
use crate::run::{RunCounters, RunOutcome, RunReport};
use crate::spans;
use crate::stop::{Signal, Stop};
use crate::store::{
    self, DoubtfulRemovals, HistoryWriter, Instance, InstanceLock, Namesake, Publishing, Run,
    RunEnd, Staged, StoreError, histories_wanted, stage_artifacts, stage_catalog,
};
use failures::Failures;

/// The span of a phase, within that of its run.
macro_rules! span {
    ($name:literal) => {
        tracing::info_span!(target: spans::TARGET, $name)
    };
}

/// Digests that may wait for their request: about ten list pages.
const WANTED_CAPACITY: usize = 1_000;
/// Answers that may wait to be stored.
const ANSWERED_CAPACITY: usize = 256;
/// Largest batch of answers stored in one transaction.
const BATCH: usize = 256;
/// How often the run row shows progress, which also keeps the lock's connection from idling.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);
/// What the wish to stop leaves to each part of a run, one after another. With half a second for
/// the lock they make less than 5 s: a request or a publish that is on its way, …
const GRACE: Duration = Duration::from_secs(2);
/// … then the answers that have arrived but are not stored, or the end of a publish that was
/// cancelled, …
const STORE_GRACE: Duration = Duration::from_secs(1);
/// … then the word in the run row.
const RECORD_GRACE: Duration = Duration::from_secs(1);
/// From so many written rows on, the planner's counts are brought up to date.
const ANALYZE_ROWS: u64 = 1_000;
/// The first version with the artifact list of the whole instance (swr_03_0306).
pub(crate) const FIRST_VERSION: [u64; 3] = [25, 6, 0];

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

/// Why a run ended without publishing.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The registry did not answer as it should.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The database did not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database could not be reached, or has another schema.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The instance is too old.
    #[error("the instance has version {version}; the artifact list exists from 25.6.0 on")]
    UnsupportedVersion {
        /// As the API gives it.
        version: String,
    },
    /// The database has the instance under another project.
    #[error(
        "instance {swr_instance_id} is in the database as one of project {stored}, not {given}"
    )]
    WrongInstance {
        /// The instance.
        swr_instance_id: String,
        /// The project in the database.
        stored: String,
        /// The project of this run.
        given: String,
    },
    /// The database has an instance of this name under another id.
    #[error(
        "instance {swr_instance_id} has the name `{name}`, as has instance {} of the same project, \
         which this database mirrors already ({})",
        namesake.swr_instance_id, LastPublished(namesake)
    )]
    SameName {
        /// The instance.
        swr_instance_id: String,
        /// Its name.
        name: String,
        /// The other one.
        namesake: Box<Namesake>,
    },
    /// A signal.
    #[error("stopped by a signal; what had arrived is stored, nothing was published")]
    Stopped(Signal),
    /// A signal, and a database that did not let go of publish.
    #[error("stopped by a signal while publishing, and the database does not say how that ended")]
    StoppedPublishing(Signal),
}

impl SyncError {
    /// The exit code it asks for.
    pub fn exit(&self) -> Exit {
        match self {
            SyncError::Registry(error) => match error.status().map(|status| status.status) {
                Some(401 | 403) => Exit::Denied,
                Some(status @ 400..=499) if !matches!(status, 408 | 425 | 429) => Exit::Usage,
                _ => Exit::SourceUnavailable,
            },
            SyncError::Store(StoreError::Locked { .. }) => Exit::Locked,
            SyncError::Store(StoreError::MassRemoval(_)) => Exit::Refused,
            SyncError::Store(_) => Exit::Database,
            SyncError::Database(error) => error.exit(),
            SyncError::UnsupportedVersion { .. } => Exit::Usage,
            SyncError::WrongInstance { .. } | SyncError::SameName { .. } => Exit::Refused,
            SyncError::Stopped(signal) | SyncError::StoppedPublishing(signal) => signal.exit(),
        }
    }

    fn outcome(&self) -> RunOutcome {
        match self {
            SyncError::Stopped(_) | SyncError::StoppedPublishing(_) => RunOutcome::Stopped,
            _ => RunOutcome::Failed,
        }
    }
}

struct LastPublished<'a>(&'a Namesake);

impl fmt::Display for LastPublished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.last_published_at {
            Some(at) => write!(f, "last published {}", at.format("%Y-%m-%d %H:%M UTC")),
            None => f.write_str("never published"),
        }
    }
}

/// What a run is doing; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// 0 before the run has a row.
    run_id: AtomicI64,
    phase: AtomicU8,
    catalog_pages: AtomicU64,
    pages: AtomicU64,
    artifacts_listed: AtomicU64,
    histories_wanted: AtomicU64,
    histories_reused: AtomicU64,
    histories_fetched: AtomicU64,
    histories_unsupported: AtomicU64,
    histories_gone: AtomicU64,
    histories_failed: AtomicU64,
    histories_skipped: AtomicU64,
    data_issues: AtomicU64,
    rows_written: AtomicU64,
}

/// The phases of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connecting, taking the lock.
    Starting = 0,
    /// Reading namespaces and repositories.
    Catalog = 1,
    /// Listing artifacts, and fetching build histories beside it.
    Listing = 2,
    /// The listing is complete; build histories are still coming.
    Histories = 3,
    /// The one transaction.
    Publishing = 4,
}

/// A moment of [`Progress`].
#[derive(Debug, Clone, Copy)]
#[expect(
    missing_docs,
    reason = "each is described at its column of swr.sync_run"
)]
pub struct ProgressNow {
    pub phase: Phase,
    pub pages: u64,
    pub artifacts_listed: u64,
    /// Requests for histories that were found necessary so far.
    pub histories_wanted: u64,
    /// Of these, how many have their answer stored.
    pub histories_done: u64,
    pub histories_failed: u64,
    /// Of those wanted, how many are not asked for in this run.
    pub histories_skipped: u64,
}

impl Progress {
    /// What the run is doing now.
    pub fn now(&self) -> ProgressNow {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let failed = read(&self.histories_failed);
        ProgressNow {
            phase: match self.phase.load(Ordering::Relaxed) {
                0 => Phase::Starting,
                1 => Phase::Catalog,
                2 => Phase::Listing,
                3 => Phase::Histories,
                _ => Phase::Publishing,
            },
            pages: read(&self.pages),
            artifacts_listed: read(&self.artifacts_listed),
            histories_wanted: read(&self.histories_wanted),
            histories_done: read(&self.histories_fetched)
                + read(&self.histories_unsupported)
                + read(&self.histories_gone)
                + failed,
            histories_failed: failed,
            histories_skipped: read(&self.histories_skipped),
        }
    }

    /// The number of the run; `None` before it has a row.
    pub fn run_id(&self) -> Option<i64> {
        Some(self.run_id.load(Ordering::Relaxed)).filter(|run_id| *run_id != 0)
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        tracing::debug!(?phase, "phase");
    }

    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn note(&self, answers: &[HistoryAnswer], writes: store::HistoryWrites) {
        for answer in answers {
            let counter = match answer.outcome {
                HistoryOutcome::Stored(_) | HistoryOutcome::Empty(_) => &self.histories_fetched,
                HistoryOutcome::Unsupported(_) => &self.histories_unsupported,
                HistoryOutcome::Gone(_) => &self.histories_gone,
                HistoryOutcome::Forbidden(_) | HistoryOutcome::Failed(_) => &self.histories_failed,
            };
            Progress::add(counter, 1);
        }
        Progress::add(&self.rows_written, writes.rows);
        Progress::add(&self.data_issues, writes.data_issues);
    }

    /// What was counted so far. What only publish can tell is 0.
    pub fn counters(&self, meter: &RequestMeter) -> RunCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RunCounters {
            requests: meter.counts(),
            catalog_pages: read(&self.catalog_pages),
            pages: read(&self.pages),
            artifacts_listed: read(&self.artifacts_listed),
            histories_fetched: read(&self.histories_fetched),
            histories_reused: read(&self.histories_reused),
            histories_unsupported: read(&self.histories_unsupported),
            histories_gone: read(&self.histories_gone),
            histories_failed: read(&self.histories_failed),
            histories_skipped: read(&self.histories_skipped),
            data_issues: read(&self.data_issues),
            rows_written: read(&self.rows_written),
            ..RunCounters::default()
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
    progress: &Progress,
    stop: &Stop,
) -> Result<RunReport, SyncError> {
    let begin = Instant::now();
    let clock = &settings.clock;
    let (mut lock, run) = tokio::select! {
        begun = begin_run(registry, database, settings, progress).instrument(span!("begin")) => begun?,
        signal = stop.requested() => return Err(SyncError::Stopped(signal)),
    };
    progress.run_id.store(run.run_id, Ordering::Relaxed);
    tracing::info!(
        run_id = run.run_id,
        instance = settings.swr_instance_id,
        "run {} started",
        run.run_id
    );

    let meter = registry.meter();
    let crawl = Crawl {
        registry,
        clock,
        run,
        progress,
        database_timeout: database.timeout(),
        in_flight: Mutex::default(),
        failures: Mutex::default(),
        halt: watch::Sender::new(false),
    };
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
            let publishing = store::publish(&mut lock, run, publishing, &mut counters, clock);
            let publishing = store::within(database.timeout(), "publish", publishing)
                .instrument(span!("publish"));
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
                () = tidy_up(&mut lock, run, &counters, database.timeout()) => {}
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

/// What can wait until the listing is visible, and is done by the next run if it is not by this.
async fn tidy_up(lock: &mut InstanceLock, run: Run, counters: &RunCounters, limit: Duration) {
    if let Err(error) = store::update_findings(lock, run, limit).await {
        tracing::warn!(
            "the findings in build commands may be those of older rules until the next run: {}",
            chain(&error)
        );
    }
    if counters.rows_written < ANALYZE_ROWS {
        return;
    }
    let analyzing = store::analyze(lock);
    if let Err(error) = store::within(limit, "analyze", analyzing).await {
        tracing::debug!("{}", chain(&error));
    }
}

/// Connects, settles the instance, takes its lock and starts the run.
async fn begin_run(
    registry: &Registry,
    database: &Database,
    settings: &SyncSettings,
    progress: &Progress,
) -> Result<(InstanceLock, Run), SyncError> {
    let limit = database.timeout();
    let mut connection = database.connect_to_write().await?;
    let (instance, description) =
        settle_instance(registry, &mut connection, settings, limit).await?;
    let beginning = async {
        let now = settings.clock.now();
        let mut lock = InstanceLock::acquire(connection, instance.instance_id).await?;
        let run = Run::start(&mut lock, &settings.host, now).await?;
        store::prepare_findings(lock.connection(), run).await?;
        if let Some(description) = &description {
            let data_issues =
                store::describe_instance(lock.connection(), run, description, now).await?;
            Progress::add(&progress.data_issues, data_issues);
        }
        Ok((lock, run))
    };
    Ok(store::within(limit, "begin a run", beginning).await?)
}

/// Gives the instance's row, and what the registry says of it where that is not stored yet. The row
/// is made when the registry has said that it has such an instance, or that this key may not ask.
async fn settle_instance(
    registry: &Registry,
    connection: &mut PgConnection,
    settings: &SyncSettings,
    limit: Duration,
) -> Result<(Instance, Option<InstanceDescription>), SyncError> {
    let SyncSettings {
        swr_instance_id,
        project_id,
        endpoint,
        region,
        safeguards,
        clock,
        ..
    } = settings;
    let finding = Instance::find(connection, swr_instance_id);
    let known = store::within(limit, "read the instance", finding).await?;
    if let Some(error) = known
        .as_ref()
        .and_then(|known| wrong_project(known, settings))
    {
        return Err(error);
    }
    let is_described = known.is_some_and(|instance| !instance.needs_description);
    let description = if is_described {
        None
    } else {
        describe_instance(registry).await?
    };
    if let Some(InstanceDescription {
        name: Some(name), ..
    }) = &description
        && !safeguards.accept_new_instance
        && let Some(namesake) = store::within(
            limit,
            "look for an instance of the same name",
            store::find_namesake(connection, swr_instance_id, project_id, name),
        )
        .await?
    {
        return Err(SyncError::SameName {
            swr_instance_id: swr_instance_id.clone(),
            name: name.clone(),
            namesake: Box::new(namesake),
        });
    }
    let creating = Instance::find_or_create(
        connection,
        swr_instance_id,
        project_id,
        endpoint,
        region.as_deref(),
        clock.now(),
    );
    let instance = store::within(limit, "write the instance", creating).await?;
    // Another run may have made it in between.
    if let Some(error) = wrong_project(&instance, settings) {
        return Err(error);
    }
    Ok((instance, description))
}

fn wrong_project(instance: &Instance, settings: &SyncSettings) -> Option<SyncError> {
    let Instance { project_id, .. } = instance;
    (*project_id != settings.project_id).then(|| SyncError::WrongInstance {
        swr_instance_id: settings.swr_instance_id.clone(),
        stored: project_id.clone(),
        given: settings.project_id.clone(),
    })
}

/// Asks for name and version. A key that may not read them is no reason to stop, nor is a gateway
/// that does not know the call; that there is no such instance is.
async fn describe_instance(registry: &Registry) -> Result<Option<InstanceDescription>, SyncError> {
    let description = match registry.instance().await {
        Ok(description) => description,
        Err(error) => {
            let may_go_on = error.status().is_some_and(|status| match status.status {
                400 | 403 => true,
                404 => status.is_from_gateway(),
                _ => false,
            });
            return if may_go_on {
                Ok(None)
            } else {
                Err(error.into())
            };
        }
    };
    match description.version {
        Some(version) if is_older(&version, FIRST_VERSION) => {
            Err(SyncError::UnsupportedVersion { version })
        }
        _ => Ok(Some(description)),
    }
}

/// Shows in the run row that a long publish goes on, over a connection of its own: the lock's is
/// in the middle of the transaction.
async fn show_publishing(
    database: &Database,
    run: Run,
    counters: &RunCounters,
    clock: &Clock,
) -> Infallible {
    let beating = async {
        tokio::time::sleep(HEARTBEAT).await;
        let mut connection = database.connect().await?;
        loop {
            store::save_progress(&mut connection, run, counters, GOES_ON, clock.now()).await?;
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    let result: Result<Infallible, SyncError> = beating.await;
    let Err(error) = result;
    // It is the publish that counts, and that tells what is wrong with the database.
    tracing::debug!(
        "the run row keeps no word of the publish: {}",
        chain(&error)
    );
    future::pending().await
}

/// The end of a run that has not ended.
pub(crate) const GOES_ON: RunEnd<'static> = RunEnd {
    outcome: None,
    error: None,
    exit_code: None,
};

/// Publishes; cancels it some time after the wish to stop, so that the run row can be written.
async fn publish_unless_stopped(
    publishing: impl Future<Output = Result<(), StoreError>>,
    database: &Database,
    session: i32,
    stop: &Stop,
) -> Result<(), SyncError> {
    tokio::pin!(publishing);
    let signal = tokio::select! {
        published = &mut publishing => return Ok(published?),
        signal = after_grace(stop) => signal,
    };
    let ending = future::join(cancel(database, session), publishing);
    match tokio::time::timeout(STORE_GRACE, ending).await {
        // It came to its end in this moment.
        Ok((_, Ok(()))) => Ok(()),
        Ok((_, Err(StoreError::CommitUnknown(_) | StoreError::Silent { .. }))) | Err(_) => {
            Err(SyncError::StoppedPublishing(signal))
        }
        Ok((_, Err(_))) => Err(SyncError::Stopped(signal)),
    }
}

/// Ends the statement that another session of ours is in, if any.
async fn cancel(database: &Database, session: i32) -> Result<(), SyncError> {
    let mut connection = database.connect().await?;
    Ok(store::cancel(&mut connection, session).await?)
}

async fn after_grace(stop: &Stop) -> Signal {
    let signal = stop.requested().await;
    tokio::time::sleep(GRACE).await;
    signal
}

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
        let _ = cancel(database, lock.backend_process_id()).await;
        lock.settle().await;
        store::save_progress(lock.connection(), run, counters, end, now).await
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

/// What the stages of one run share.
struct Crawl<'a> {
    registry: &'a Registry,
    clock: &'a Clock,
    run: Run,
    progress: &'a Progress,
    /// Limit for each step on the database.
    database_timeout: Duration,
    /// Digests between the listing and their commit: a later page must not ask for them again.
    in_flight: Mutex<HashSet<String>>,
    /// What came back instead of histories.
    failures: Mutex<Failures>,
    /// Set when the intake is to end: by a signal, or because a stage failed.
    halt: watch::Sender<bool>,
}

impl Crawl<'_> {
    /// Catalog, listing and histories. Gives the times of the listing if it is complete.
    async fn run(
        &self,
        database: &Database,
        lock: &mut InstanceLock,
        stop: &Stop,
    ) -> Result<(DateTime<Utc>, DateTime<Utc>), SyncError> {
        let mut listing = Listing {
            crawl: self,
            lock,
            staged: Staged::default(),
            has_other_instances: false,
            catalog_reads: 0,
            catalog_may_shift: false,
            is_second_listing: false,
            next_heartbeat: Instant::now() + HEARTBEAT,
        };
        let connection = tokio::select! {
            ready = async {
                listing.start().instrument(span!("catalog")).await?;
                Ok::<_, SyncError>(database.connect_to_write().await?)
            } => ready?,
            signal = stop.requested() => return Err(SyncError::Stopped(signal)),
        };
        let writer = HistoryWriter::new(connection, self.run);

        self.progress.enter(Phase::Listing);
        let (wanted_sender, wanted) = mpsc::channel(WANTED_CAPACITY);
        let (answered_sender, answered) = mpsc::channel(ANSWERED_CAPACITY);
        let stored = watch::Sender::new(false);
        let work = async {
            tokio::join!(
                self.halting(listing.list(wanted_sender, stored.subscribe())),
                self.halting(
                    self.fetch(wanted, answered_sender)
                        .instrument(span!("histories"))
                ),
                async {
                    let result = self.halting(self.store(writer, answered)).await;
                    stored.send_replace(true);
                    result
                },
            )
        };
        tokio::pin!(work);
        // The storing stage first: if it failed, the others ended because of it.
        let (listed, fetched, stored) = tokio::select! {
            results = &mut work => results,
            signal = stop.requested() => {
                self.halt.send_replace(true);
                // What is not stored by then is asked for again.
                let _ = tokio::time::timeout(GRACE + STORE_GRACE, work).await;
                return Err(SyncError::Stopped(signal));
            }
        };
        stored?;
        fetched?;
        match listed? {
            Some(times) => Ok(times),
            // Unreachable without a failure above, which has its own error.
            None => Err(SyncError::Stopped(Signal::Terminate)),
        }
    }

    /// Runs a stage; if it fails, the others come to an end.
    async fn halting<T>(
        &self,
        stage: impl Future<Output = Result<T, SyncError>>,
    ) -> Result<T, SyncError> {
        let result = stage.await;
        if result.is_err() {
            self.halt.send_replace(true);
        }
        result
    }

    /// Gives a step on the database its limit.
    async fn within<T>(
        &self,
        doing: &'static str,
        step: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        store::within(self.database_timeout, doing, step).await
    }

    async fn halted(&self) {
        // The sender lives as long as the crawl, so waiting cannot fail.
        let _ = self.halt.subscribe().wait_for(|halt| *halt).await;
    }

    /// Asks for the wanted histories, as many at a time as the registry takes, and hands the
    /// answers on within each one's own future: a slow database leaves no request unread.
    async fn fetch(
        &self,
        mut wanted: mpsc::Receiver<HistoryRequest>,
        answered: mpsc::Sender<HistoryAnswer>,
    ) -> Result<(), SyncError> {
        let answered = &answered;
        stream::poll_fn(|context| wanted.poll_recv(context))
            .map(Ok)
            .try_for_each_concurrent(self.registry.max_in_flight(), |request| async move {
                if *self.halt.borrow() {
                    return Ok(());
                }
                let outcome = tokio::select! {
                    outcome = self.fetch_one(&request) => outcome?,
                    () = async { self.halted().await; tokio::time::sleep(GRACE).await } => return Ok(()),
                };
                let Some(outcome) = outcome else {
                    Progress::add(&self.progress.histories_skipped, 1);
                    // Another repository that holds it may give it.
                    self.in_flight().remove(&request.digest);
                    return Ok(());
                };
                // A closed channel means that the storing stage failed, which is reported there.
                let digest = request.digest;
                let _ = answered.send(HistoryAnswer { digest, outcome }).await;
                Ok(())
            })
            .await
    }

    /// Gives `None` where requests like this one keep failing, so that it is not sent.
    async fn fetch_one(
        &self,
        request: &HistoryRequest,
    ) -> Result<Option<HistoryOutcome>, RegistryError> {
        let Some(repository) = &request.repository else {
            let outcome = HistoryOutcome::Failed(Refusal {
                status: None,
                code: None,
                message: "the catalog does not name the repository of this digest".to_owned(),
            });
            self.failures().note_unasked(&outcome);
            return Ok(Some(outcome));
        };
        let may_ask = || self.failures().may_ask(repository);
        // Asked twice: so many need not wait for their turn.
        if !may_ask() {
            return Ok(None);
        }
        let asking = self
            .registry
            .build_history_if(repository, &request.digest, &may_ask);
        let Some(outcome) = asking.await? else {
            return Ok(None);
        };
        if let HistoryOutcome::Forbidden(refusal) | HistoryOutcome::Failed(refusal) = &outcome {
            tracing::debug!(
                digest = request.digest,
                repository = repository.to_string(),
                status = refusal.status,
                "no build history: {}",
                refusal.message
            );
        }
        if let Some(gave_up) = self.failures().note(repository, &outcome) {
            warn_of(&gave_up, repository);
        }
        Ok(Some(outcome))
    }

    fn in_flight(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores what has arrived, in one transaction, before looking for more.
    async fn store(
        &self,
        mut writer: HistoryWriter,
        mut answered: mpsc::Receiver<HistoryAnswer>,
    ) -> Result<(), SyncError> {
        let mut batch = Vec::with_capacity(BATCH);
        while answered.recv_many(&mut batch, BATCH).await > 0 {
            let storing = writer.store(&batch, self.clock.now());
            let writes = self.within("store build histories", storing).await?;
            self.progress.note(&batch, writes);
            let mut in_flight = self.in_flight();
            for answer in batch.drain(..) {
                in_flight.remove(&answer.digest);
            }
        }
        // All is stored; a server that does not say farewell is none of our business any more.
        let _ = tokio::time::timeout(RECORD_GRACE, writer.close()).await;
        Ok(())
    }
}

/// The listing stage: the only user of the lock's connection while it runs.
struct Listing<'a, 'lock> {
    crawl: &'a Crawl<'a>,
    lock: &'lock mut InstanceLock,
    staged: Staged,
    has_other_instances: bool,
    catalog_reads: u32,
    /// Whether the catalog has further pages, which shift when something is deleted.
    catalog_may_shift: bool,
    is_second_listing: bool,
    next_heartbeat: Instant,
}

impl Listing<'_, '_> {
    /// What comes before the first page: the catalog.
    async fn start(&mut self) -> Result<(), SyncError> {
        let crawl = self.crawl;
        let looking = store::has_other_instances(self.lock.connection(), crawl.run.instance_id);
        self.has_other_instances = crawl.within("look for other instances", looking).await?;
        self.crawl.progress.enter(Phase::Catalog);
        self.read_catalog().await
    }

    async fn read_catalog(&mut self) -> Result<(), SyncError> {
        self.catalog_reads += 1;
        let catalog = self.crawl.registry.catalog().await?;
        Progress::add(&self.crawl.progress.catalog_pages, catalog.pages);
        self.catalog_may_shift |= catalog.pages > 2;
        let crawl = self.crawl;
        let staging = stage_catalog(
            self.lock.connection(),
            crawl.run,
            &mut self.staged,
            &catalog.namespaces,
            &catalog.repositories,
        );
        crawl.within("stage the catalog", staging).await?;
        Ok(())
    }

    /// Pages through the list, and waits for the histories. Gives the times of the listing, or
    /// `None` if it was cut short by a failure elsewhere.
    async fn list(
        mut self,
        wanted: mpsc::Sender<HistoryRequest>,
        mut stored: watch::Receiver<bool>,
    ) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, SyncError> {
        let crawl = self.crawl;
        tokio::select! {
            times = async {
                let times = self
                    .read_listing(wanted)
                    .instrument(span!("listing"))
                    .await?;
                crawl.progress.enter(Phase::Histories);
                // The storing stage says so when it ends; its sender outlives this stage.
                self.beating(async { let _ = stored.wait_for(|stored| *stored).await; }).await?;
                Ok(Some(times))
            } => times,
            () = crawl.halted() => Ok(None),
        }
    }

    /// Lists everything, and what of it may have been overlooked once more.
    async fn read_listing(
        &mut self,
        wanted: mpsc::Sender<HistoryRequest>,
    ) -> Result<(DateTime<Utc>, DateTime<Utc>), SyncError> {
        let crawl = self.crawl;
        let started_at = crawl.clock.now();
        self.note_listing(started_at, None).await?;
        self.read_pages(&wanted).await?;
        self.confirm_removals(&wanted).await?;
        let finished_at = crawl.clock.now();
        self.note_listing(started_at, Some(finished_at)).await?;
        Ok((started_at, finished_at))
    }

    /// Reads again where something published is missing without proof that it is gone; it counts
    /// as removed if it is missing again. An unchanged registry is not read twice.
    async fn confirm_removals(
        &mut self,
        wanted: &mpsc::Sender<HistoryRequest>,
    ) -> Result<(), SyncError> {
        let mut doubts = self.doubtful_removals().await?;
        if doubts.catalog && self.catalog_may_shift {
            tracing::debug!("the catalog lacks what it had before: reading it again");
            self.read_catalog().await?;
            doubts = self.doubtful_removals().await?;
        }
        if doubts.artifacts {
            tracing::info!(
                "the listing lacks artifacts that the catalog still counts: listing once more"
            );
            self.is_second_listing = true;
            self.read_pages(wanted).await?;
        }
        Ok(())
    }

    async fn doubtful_removals(&mut self) -> Result<DoubtfulRemovals, StoreError> {
        let crawl = self.crawl;
        let looking = store::doubtful_removals(self.lock.connection(), crawl.run);
        crawl.within("look for what is missing", looking).await
    }

    async fn read_pages(&mut self, wanted: &mpsc::Sender<HistoryRequest>) -> Result<(), SyncError> {
        let crawl = self.crawl;
        let mut pages = std::pin::pin!(crawl.registry.artifact_pages());
        let mut next = self.beating(pages.next()).await?;
        while let Some(page) = next {
            let page = page?;
            Progress::add(&crawl.progress.pages, 1);
            // The next page is on its way while this one is taken in, and may well be late: then
            // the run row goes on showing progress.
            let taking = Box::pin(self.take_in(&page, wanted));
            let following = match future::select(taking, pages.next()).await {
                Either::Left((taken, following)) => {
                    taken?;
                    Either::Left(following)
                }
                Either::Right((following, taking)) => {
                    taking.await?;
                    Either::Right(following)
                }
            };
            next = match following {
                Either::Left(following) => self.beating(following).await?,
                Either::Right(page) => page,
            };
        }
        Ok(())
    }

    async fn note_listing(
        &mut self,
        started_at: DateTime<Utc>,
        finished_at: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError> {
        let crawl = self.crawl;
        let connection = self.lock.connection();
        let noting = store::note_listing(connection, crawl.run, started_at, finished_at);
        crawl.within("note the times of the listing", noting).await
    }

    /// Stages a page, and sends the digests without a stored history to the fetch stage.
    async fn take_in(
        &mut self,
        page: &Page<Artifact>,
        wanted: &mpsc::Sender<HistoryRequest>,
    ) -> Result<(), SyncError> {
        let crawl = self.crawl;
        let staging = stage_artifacts(self.lock.connection(), crawl.run, &mut self.staged, page);
        crawl.within("stage artifacts", staging).await?;
        // In this order: a digest that is neither in flight here nor stored in the next
        // statement cannot have been both, since only this stage sends digests out.
        let candidates: Vec<(&str, i64)> = {
            let in_flight = crawl.in_flight();
            page.rows
                .iter()
                .filter(|artifact| !in_flight.contains(&artifact.digest))
                .map(|artifact| (artifact.digest.as_str(), artifact.repository_id))
                .collect()
        };
        let requests = self.needed(&candidates).await?;
        let progress = crawl.progress;
        Progress::add(&progress.histories_wanted, requests.len() as u64);
        if !self.is_second_listing {
            Progress::add(&progress.artifacts_listed, page.rows.len() as u64);
            Progress::add(
                &progress.histories_reused,
                (page.rows.len() - requests.len()) as u64,
            );
        }
        for request in requests {
            crawl.in_flight().insert(request.digest.clone());
            let sent = self.beating(wanted.send(request)).await?;
            if sent.is_err() {
                // The fetch stage failed and has its own error.
                break;
            }
        }
        Ok(())
    }

    /// The digests that need a request, after looking into other instances, with names.
    async fn needed(
        &mut self,
        candidates: &[(&str, i64)],
    ) -> Result<Vec<HistoryRequest>, SyncError> {
        let crawl = self.crawl;
        let now = crawl.clock.now();
        let mut requests = self.wanted(candidates, now).await?;
        if self.has_other_instances && !requests.is_empty() {
            let digests: Vec<&str> = requests
                .iter()
                .map(|request| request.digest.as_str())
                .collect();
            let copying = store::reuse_histories(self.lock.connection(), crawl.run, &digests, now);
            let (writes, found) = crawl.within("copy build histories", copying).await?;
            Progress::add(&crawl.progress.rows_written, writes.rows);
            Progress::add(&crawl.progress.data_issues, writes.data_issues);
            requests.retain(|request| !found.contains(&request.digest));
        }
        let is_unnamed = requests.iter().any(|request| request.repository.is_none());
        if is_unnamed && self.catalog_reads == 1 {
            // A repository made after the catalog was read.
            self.read_catalog().await?;
            let wanted: HashSet<String> =
                requests.into_iter().map(|request| request.digest).collect();
            requests = self.wanted(candidates, now).await?;
            requests.retain(|request| wanted.contains(&request.digest));
        }
        Ok(requests)
    }

    async fn wanted(
        &mut self,
        candidates: &[(&str, i64)],
        now: DateTime<Utc>,
    ) -> Result<Vec<HistoryRequest>, StoreError> {
        let crawl = self.crawl;
        let looking = histories_wanted(self.lock.connection(), crawl.run, candidates, now);
        crawl
            .within("see which build histories are wanted", looking)
            .await
    }

    /// Waits for `work`, and shows progress in the run row meanwhile.
    async fn beating<T>(&mut self, work: impl Future<Output = T>) -> Result<T, SyncError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(self.next_heartbeat) => {
                    self.next_heartbeat = Instant::now() + HEARTBEAT;
                    self.show_progress().await?;
                }
            }
        }
    }

    async fn show_progress(&mut self) -> Result<(), StoreError> {
        let crawl = self.crawl;
        let counters = crawl.progress.counters(&crawl.registry.meter());
        let now = crawl.clock.now();
        let saving =
            store::save_progress(self.lock.connection(), crawl.run, &counters, GOES_ON, now);
        crawl.within("write the run's counters", saving).await
    }
}

/// Once, instead of a line for each: the summary has the rest.
fn warn_of(gave_up: &GaveUp, repository: &RepositoryPath) {
    match gave_up {
        GaveUp::Everywhere(cause) => tracing::warn!(
            "build histories keep failing ({cause}): no more are asked for in this run"
        ),
        GaveUp::Repositories { cause, .. } => tracing::warn!(
            repository = repository.to_string(),
            "build histories of {repository} keep failing ({cause}): no more of it are asked for in \
             this run, nor of other repositories that fail alike"
        ),
    }
}

/// Compares component by component. Its exact format is not documented, so a leading letter and
/// whatever follows the third number are ignored; an unreadable version is not older.
pub(crate) fn is_older(version: &str, than: [u64; 3]) -> bool {
    let numbers: Vec<u64> = version
        .trim_start_matches(|character: char| !character.is_ascii_digit())
        .split(|character: char| !character.is_ascii_digit())
        .map_while(|part| part.parse().ok())
        .take(3)
        .collect();
    !numbers.is_empty() && numbers.as_slice() < &than[..numbers.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for old in ["25.5.9", "v25.5.0", "24.12.0-b7", "9.9.9", "25.5"] {
            assert!(is_older(old, FIRST_VERSION), "{old}");
        }
        for new in [
            "25.6.0",
            "v25.6.0",
            "25.10.1",
            "25.6.0.3",
            "26.0.0-rc1",
            "25.6",
            "unknown",
            "",
        ] {
            assert!(!is_older(new, FIRST_VERSION), "{new}");
        }
    }
}
