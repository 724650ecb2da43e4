//! Verification of what a database holds of one instance: the registry is read once more, in
//! full, and compared with the tables; of the build histories a sample is.
//!
//! Joins registry and store as [`sync`](crate::sync) does, under the same lock and with a run
//! row of its own, so that no run changes what is being compared. It writes no fact: but for
//! the run row there is what it staged, and what it found.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::activity::Activity;
use crate::build_history::{HistoryAnswer, HistoryOutcome, HistoryRequest, Refusal};
use crate::clock::Clock;
use crate::database::Database;
use crate::exit::Exit;
use crate::registry::{FetchedHistory, Registry, Reservation};
use crate::run::{RunCounters, RunOutcome};
use crate::stop::Stop;
use crate::store::{
    self, Compared, Comparison, HistoriesCompared, InstanceLock, LockAttempt, Run, RunEnd, Session,
    Staged, StoreError, Verdict, VerifiedRun, compare_histories, compare_listing,
    histories_to_verify, stage_artifacts, stage_namespaces, stage_repositories,
};
use crate::sync::stages::{BatchLimits, fetch_all, next_batch, resume_panic};
use crate::sync::{HEARTBEAT, IN_PROGRESS, PATIENCE, SyncError, record_failure};

/// Histories chosen and fetched at a time.
const BATCH: usize = 32;
/// How many of them are compared at a time.
const COMPARED: BatchLimits = BatchLimits {
    count: BATCH,
    weight: 4 << 20,
    fill: Duration::from_millis(10),
};
/// How far the clock that dates pushes may be from the one that answers, which is known.
const TOLERANCE: TimeDelta = TimeDelta::minutes(1);

/// What a verification is about.
#[derive(Debug, Clone)]
pub struct VerifySettings {
    /// The instance in SWR.
    pub swr_instance_id: String,
    /// Its project.
    pub project_id: String,
    /// How many histories to fetch again; `None` for all.
    pub histories: Option<u64>,
    /// Where a sample of histories starts: any text in the place of a digest.
    pub sample_start: String,
    /// The machine's name, for the run row.
    pub host: String,
    /// The time.
    pub clock: Clock,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// What can end a run can end a verification.
    #[error(transparent)]
    Run(#[from] SyncError),
    /// There is nothing to compare.
    #[error("the database has no published run of instance {swr_instance_id}")]
    NeverPublished {
        /// The instance.
        swr_instance_id: String,
    },
}

impl VerifyError {
    /// The exit code it asks for.
    pub fn exit(&self) -> Exit {
        match self {
            VerifyError::Run(error) => error.exit(),
            VerifyError::NeverPublished { .. } => Exit::Usage,
        }
    }
}

/// A finished verification.
#[derive(Debug, Clone, Copy)]
pub struct VerifyReport {
    /// The run that verified.
    pub run: Run,
    /// The run that was verified.
    pub verified: VerifiedRun,
    /// Rows of the listing that were compared.
    pub compared: Compared,
    /// Histories that were compared.
    pub histories: HistoriesCompared,
    /// What was found.
    pub verdict: Verdict,
    /// How long it took.
    pub elapsed: Duration,
}

/// Compares the registry with the tables; the differences are in `swr.verification_difference`.
pub async fn verify(
    registry: &Registry,
    database: &Database,
    settings: &VerifySettings,
    stop: &Stop,
) -> Result<VerifyReport, VerifyError> {
    let begin = Instant::now();
    let clock = &settings.clock;
    let activity = registry.activity();
    let beginning = begin_run(database, &activity, settings);
    let begun = stop.or(beginning).await.map_err(SyncError::from)?;
    let (mut lock, verified, run) = begun?;

    let mut verification = Verification {
        registry,
        settings,
        lock: &mut lock,
        run,
        verified,
        counters: RunCounters::default(),
        next_heartbeat: Instant::now() + HEARTBEAT,
    };
    let activity = registry.activity();
    let stuck = activity.stalled(PATIENCE, || registry.held_up_until());
    let result = tokio::select! {
        result = verification.run() => result,
        reason = stop.requested() => Err(reason.into()),
        stages = stuck => Err(SyncError::Stalled { patience: PATIENCE, stages }),
    };
    let mut counters = verification.counters;
    counters.requests = registry.meter().counts();
    let result = match result {
        Ok((compared, histories, verdict)) => {
            let exit = match verdict.corrupt {
                0 => Exit::Success,
                _ => Exit::DIFFERENT,
            };
            let end = RunEnd {
                outcome: Some(RunOutcome::DryRun),
                error: None,
                exit_code: Some(exit as u8),
            };
            let saving = store::save_progress(&mut lock, run, &counters, end, clock.now());
            saving
                .await
                .map_err(SyncError::from)
                .map(|()| VerifyReport {
                    run,
                    verified,
                    compared,
                    histories,
                    verdict,
                    elapsed: begin.elapsed(),
                })
        }
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        record_failure(&mut lock, run, &counters, error, database, clock.now()).await;
    }
    lock.release().await;
    Ok(result?)
}

/// Connects, finds what to verify, takes the lock and starts the run.
async fn begin_run(
    database: &Database,
    activity: &Activity,
    settings: &VerifySettings,
) -> Result<(InstanceLock, VerifiedRun, Run), VerifyError> {
    let connecting = Session::connect(database, activity).await;
    let mut session = connecting.map_err(SyncError::from)?;
    let never_published = || VerifyError::NeverPublished {
        swr_instance_id: settings.swr_instance_id.clone(),
    };
    let (instance_id, project_id) = store::find_instance(&mut session, &settings.swr_instance_id)
        .await
        .map_err(SyncError::from)?
        .ok_or_else(never_published)?;
    if project_id != settings.project_id {
        return Err(VerifyError::Run(SyncError::WrongInstance {
            swr_instance_id: settings.swr_instance_id.clone(),
            stored: project_id,
            given: settings.project_id.clone(),
        }));
    }
    let beginning = async {
        let mut lock = match InstanceLock::attempt(session, instance_id).await? {
            LockAttempt::Taken(lock) => lock,
            LockAttempt::Held { holder, .. } => {
                return Err(StoreError::Locked {
                    holder: holder.map(Box::new),
                    waited: None,
                });
            }
        };
        let Some(verified) = store::verified_run(&mut lock, instance_id).await? else {
            return Ok(None);
        };
        let run = Run::start(&mut lock, &settings.host, settings.clock.now()).await?;
        Ok(Some((lock, verified, run)))
    };
    beginning
        .await
        .map_err(SyncError::from)?
        .ok_or_else(never_published)
}

struct Verification<'a> {
    registry: &'a Registry,
    settings: &'a VerifySettings,
    lock: &'a mut InstanceLock,
    run: Run,
    verified: VerifiedRun,
    counters: RunCounters,
    next_heartbeat: Instant,
}

impl Verification<'_> {
    async fn run(&mut self) -> Result<(Compared, HistoriesCompared, Verdict), SyncError> {
        let (run_id, verified) = (self.run.run_id, self.verified.run_id);
        tracing::info!(run_id, "run {run_id} started: verifying run {verified}");
        self.stage().await?;
        let listed = self.counters.artifacts_listed;
        tracing::info!(
            run_id,
            "comparing {listed} listed artifacts, then histories"
        );
        let comparison = Comparison {
            run: self.run,
            verified: self.verified,
            since: self.since(),
        };
        let compared = compare_listing(self.lock, &comparison).await?;
        let histories = self.compare_histories().await?;
        let verdict = store::record_verification(
            self.lock,
            &comparison,
            compared,
            histories,
            self.settings.clock.now(),
        )
        .await?;
        Ok((compared, histories, verdict))
    }

    /// From when on, by the registry's clock, changes need not be in the tables.
    fn since(&self) -> DateTime<Utc> {
        let skew = self.registry.clock_skew().unwrap_or_default();
        self.verified.started_at + skew - TOLERANCE
    }

    /// Stages catalog and listing as a run does.
    async fn stage(&mut self) -> Result<(), SyncError> {
        let (run, clock) = (self.run, &self.settings.clock);
        let mut staged = Staged::default();
        let mut namespaces = self.registry.namespace_pages();
        while let Some(page) = namespaces.next().await? {
            self.counters.catalog_pages += 1;
            stage_namespaces(self.lock, run, &mut staged, &page).await?;
        }
        let mut repositories = self.registry.repository_pages();
        while let Some(page) = repositories.next().await? {
            self.counters.catalog_pages += 1;
            stage_repositories(self.lock, run, &mut staged, &page).await?;
        }
        let started_at = clock.now();
        store::note_listing(self.lock, run, started_at, None).await?;
        let mut pages = self.registry.artifact_pages();
        while let Some(page) = pages.next().await? {
            self.counters.pages += 1;
            self.counters.artifacts_listed += page.rows.len() as u64;
            stage_artifacts(self.lock, run, &mut staged, &page).await?;
            self.beat().await?;
        }
        let finished_at = Some(clock.now());
        store::note_listing(self.lock, run, started_at, finished_at).await?;
        Ok(())
    }

    /// Fetches histories again, a batch at a time: all in the order of their digests, or a
    /// sample that begins somewhere in that order and continues from its start after its end.
    async fn compare_histories(&mut self) -> Result<HistoriesCompared, SyncError> {
        let mut fetching = Fetching::spawn(self.registry);
        let mut counts = HistoriesCompared::default();
        let mut left = self.settings.histories.map(|count| count as i64);
        let start = match left {
            Some(_) => self.settings.sample_start.as_str(),
            None => "",
        };
        let (mut after, mut has_turned) = (start.to_owned(), false);
        loop {
            let limit = left.map_or(BATCH as i64, |left| left.min(BATCH as i64));
            let mut requests = histories_to_verify(self.lock, self.run, &after, limit).await?;
            if has_turned {
                requests.retain(|request| request.digest.as_str() <= start);
            }
            let Some(last) = requests.last() else {
                if has_turned || start.is_empty() || limit == 0 {
                    return Ok(counts);
                }
                (after, has_turned) = (String::new(), true);
                continue;
            };
            after.clone_from(&last.digest);
            left = left.map(|left| left - requests.len() as i64);
            let mut missing = requests.len();
            fetching.request(requests).await;
            while missing > 0 {
                let answers = fetching.answers().await?;
                missing -= answers.len();
                let (answers, _reservations): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
                let HistoriesCompared {
                    compared,
                    unavailable,
                } = compare_histories(self.lock, self.run, &answers).await?;
                self.counters.histories_fetched += compared as u64;
                counts.compared += compared;
                counts.unavailable += unavailable;
            }
            self.beat().await?;
        }
    }

    /// Saves in the run row, at intervals, that the verification is in progress.
    async fn beat(&mut self) -> Result<(), SyncError> {
        if Instant::now() < self.next_heartbeat {
            return Ok(());
        }
        self.next_heartbeat = Instant::now() + HEARTBEAT;
        self.counters.requests = self.registry.meter().counts();
        let (counters, now) = (&self.counters, self.settings.clock.now());
        let saving = store::save_progress(self.lock, self.run, counters, IN_PROGRESS, now);
        saving.await?;
        Ok(())
    }
}

/// A history that was fetched again, with the memory that is reserved for it.
type Fetched = (HistoryAnswer, Reservation);

/// A task that fetches histories; it is aborted when this value is dropped.
struct Fetching {
    wanted: mpsc::Sender<HistoryRequest>,
    answered: mpsc::Receiver<Fetched>,
    task: JoinHandle<Result<(), SyncError>>,
}

impl Fetching {
    fn spawn(registry: &Registry) -> Fetching {
        let (wanted, requests) = mpsc::channel(BATCH);
        let (answers, answered) = mpsc::channel(BATCH);
        let registry = registry.clone();
        let task = tokio::spawn(async move {
            let fetch = |request| fetch_one(&registry, request);
            fetch_all(registry.max_in_flight(), requests, answers, fetch).await
        });
        Fetching {
            wanted,
            answered,
            task,
        }
    }

    async fn request(&self, requests: Vec<HistoryRequest>) {
        for request in requests {
            // Closed when the task has failed; `answers` returns its error.
            let _ = self.wanted.send(request).await;
        }
    }

    /// At least one of the answers.
    async fn answers(&mut self) -> Result<Vec<Fetched>, SyncError> {
        let weigh = |(_, reservation): &Fetched| reservation.weight_bytes();
        let batch = next_batch(&mut self.answered, COMPARED, weigh).await;
        if !batch.is_empty() {
            return Ok(batch);
        }
        match (&mut self.task).await {
            Ok(Err(error)) => Err(error),
            // It succeeds only after its last request.
            Ok(Ok(())) => std::future::pending().await,
            Err(error) => resume_panic(error).await,
        }
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn fetch_one(
    registry: &Registry,
    request: HistoryRequest,
) -> Result<Option<Fetched>, SyncError> {
    let HistoryRequest { digest, repository } = request;
    let FetchedHistory {
        outcome,
        reservation,
    } = match repository {
        Some(repository) => registry.build_history(&repository, &digest).await?,
        None => FetchedHistory {
            outcome: HistoryOutcome::Failed(Refusal {
                status: None,
                code: None,
                message: "the catalog no longer names the repository of this digest".to_owned(),
            }),
            reservation: Reservation::default(),
        },
    };
    Ok(Some((HistoryAnswer { digest, outcome }, reservation)))
}
