//! The crawl: the tasks that send requests, the task that stores histories, and how they end.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::failures::Failures;
use super::progress::Progress;
use super::stages::{BatchLimits, fetch_all, next_batch, resume_panic};
use super::{GRACE, RECORD_GRACE, SyncError, SyncSettings};
use crate::activity::Activity;
use crate::build_history::{GaveUp, HistoryAnswer, HistoryOutcome, Refusal, RepositoryPath};
use crate::clock::Clock;
use crate::database::Database;
use crate::registry::{FetchedHistory, Registry, RegistryError, Reservation};
use crate::spans;
use crate::stop::Stop;
use crate::store::{HistoryWriter, Run, Session, StoreError};

/// Digests that may wait for their request: about ten list pages.
const WANTED_CAPACITY: usize = 1_000;
/// Answers that may wait to be stored.
pub(super) const ANSWERED_CAPACITY: usize = 1_000;
/// The largest batch of answers that is stored in one transaction, and how long it is filled.
const BATCH: BatchLimits = BatchLimits {
    count: 1_000,
    weight: 4 << 20,
    fill: Duration::from_millis(100),
};
/// Digests whose request failed and which other repositories may have. Beyond this number a failure is
/// recorded without requests to them; the next run tries again. Bounds the memory: about 200 bytes each.
const MAX_UNRESOLVED: usize = 20_000;

/// What the tasks of one run share.
pub(super) struct Crawl {
    pub(super) registry: Registry,
    pub(super) clock: Clock,
    pub(super) run: Run,
    pub(super) progress: Arc<Progress>,
    /// For the watchdog, which ends the run when nothing happens for `patience`.
    pub(super) activity: Activity,
    patience: Duration,
    /// How often the lister shows progress in the run row.
    pub(super) heartbeat: Duration,
    /// Digests that are listed and not committed yet: they must not be requested again for a later page.
    pub(super) in_flight: Mutex<HashSet<String>>,
    /// Failed requests for histories.
    pub(super) failures: Mutex<Failures>,
    /// Digests to request from other repositories once the listing is complete.
    pub(super) unresolved: Mutex<Vec<Unresolved>>,
    /// Set when no more requests may start: after a signal, or because a stage failed.
    pub(super) halt: watch::Sender<bool>,
}

/// A digest whose history is wanted.
pub(super) struct Wanted {
    pub(super) digest: String,
    /// The repositories to request it from, in this order.
    pub(super) repositories: Vec<Holder>,
    /// The failure of earlier requests to other repositories.
    pub(super) failure: Option<NotGiven>,
    /// Whether no other repositories remain after these.
    pub(super) is_last_chance: bool,
}

/// A repository that holds a digest.
pub(super) struct Holder {
    pub(super) repository_id: i64,
    /// `None` if it is not in the catalog.
    pub(super) path: Option<RepositoryPath>,
}

/// An outcome that is not final, and the repository of the request.
pub(super) struct NotGiven {
    outcome: HistoryOutcome,
    repository: Option<RepositoryPath>,
}

/// A digest whose requests have all failed so far.
pub(super) struct Unresolved {
    pub(super) digest: String,
    /// The repository that it was requested from.
    pub(super) repository_id: i64,
    /// The failure; `None` if no request was sent.
    pub(super) failure: Option<NotGiven>,
}

/// An answer to be stored, with the memory that is reserved for it.
pub(super) struct Answered {
    answer: HistoryAnswer,
    reservation: Reservation,
}

impl Crawl {
    pub(super) fn new(
        registry: &Registry,
        settings: &SyncSettings,
        run: Run,
        progress: &Arc<Progress>,
    ) -> Arc<Crawl> {
        Arc::new(Crawl {
            registry: registry.clone(),
            clock: settings.clock.clone(),
            patience: settings.patience,
            heartbeat: settings.heartbeat,
            run,
            progress: Arc::clone(progress),
            activity: registry.activity(),
            in_flight: Mutex::default(),
            failures: Mutex::default(),
            unresolved: Mutex::default(),
            halt: watch::Sender::new(false),
        })
    }

    /// Does the work of the run until a stop signal, or until the run is stuck.
    pub(super) async fn unless_ended<T>(
        &self,
        stop: &Stop,
        work: impl Future<Output = Result<T, SyncError>>,
    ) -> Result<T, SyncError> {
        let patience = self.patience;
        tokio::select! {
            done = work => done,
            reason = stop.requested() => Err(reason.into()),
            stages = self.activity.stalled(patience, || self.registry.held_up_until()) => {
                Err(SyncError::Stalled { patience, stages })
            }
        }
    }

    /// Records the failures of digests that are no longer requested from other repositories.
    pub(super) async fn record_unresolved(&self, answered: &mpsc::WeakSender<Answered>) {
        let unresolved = std::mem::take(&mut *self.unresolved());
        for Unresolved {
            digest, failure, ..
        } in unresolved
        {
            let answer = self.give_up(digest, failure);
            // Dropped or closed when the tasks have ended; then the next run tries again.
            if let (Some(answer), Some(answered)) = (answer, answered.upgrade()) {
                let _ = answered.send(answer).await;
            }
        }
    }

    /// Runs a stage as a task; the receiver gets a message when it has succeeded.
    pub(super) fn spawn(
        &self,
        tasks: &mut JoinSet<Result<(), SyncError>>,
        stage: impl Future<Output = Result<(), SyncError>> + Send + 'static,
    ) -> oneshot::Receiver<()> {
        let (sender, ended) = oneshot::channel();
        let span = tracing::Span::current();
        tasks.spawn(
            async move {
                stage.await?;
                // The receiver is dropped if the run has failed elsewhere.
                let _ = sender.send(());
                Ok(())
            }
            .instrument(span),
        );
        ended
    }

    /// Starts the write task on a separate thread with a separate runtime: computing the ids of a batch and
    /// encoding its rows takes as much CPU time as fetching them, and both can run in parallel.
    pub(super) fn spawn_writer(
        self: &Arc<Crawl>,
        tasks: &mut JoinSet<Result<(), SyncError>>,
        database: Database,
        answered: mpsc::Receiver<Answered>,
    ) -> oneshot::Receiver<()> {
        let (crawl, span) = (Arc::clone(self), tracing::Span::current());
        let (running, aborted) = oneshot::channel::<()>();
        let storing = async move {
            let session = Session::connect(&database, &crawl.activity).await?;
            let writer = HistoryWriter::new(session, crawl.run);
            crawl.store(writer, answered).await
        };
        let thread = move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let storing = storing.instrument(span);
            io::Result::Ok(runtime.block_on(async {
                tokio::select! {
                    stored = storing => stored,
                    _ = aborted => Ok(()),
                }
            }))
        };
        self.spawn(tasks, async move {
            // Dropped if this task is aborted, which also ends the work of the thread.
            let _running = running;
            match tokio::task::spawn_blocking(thread).await {
                Ok(stored) => stored.map_err(SyncError::NoThread)?,
                Err(error) => resume_panic(error).await,
            }
        })
    }

    pub(super) fn spawn_fetch(
        self: &Arc<Crawl>,
        tasks: &mut JoinSet<Result<(), SyncError>>,
        answered: &mpsc::Sender<Answered>,
    ) -> (mpsc::Sender<Wanted>, oneshot::Receiver<()>) {
        let (wanted_sender, wanted) = mpsc::channel(WANTED_CAPACITY);
        let (crawl, answered) = (Arc::clone(self), answered.clone());
        let fetching = async move {
            let fetch = |wanted| crawl.fetch_unless_halted(wanted);
            fetch_all(crawl.registry.max_in_flight(), wanted, answered, fetch).await
        };
        let span = tracing::info_span!(target: spans::TARGET, "histories");
        (wanted_sender, self.spawn(tasks, fetching.instrument(span)))
    }

    pub(super) async fn halted(&self) {
        // The sender lives as long as the crawl, so waiting cannot fail.
        let _ = self.halt.subscribe().wait_for(|halt| *halt).await;
    }

    /// Requests one history, unless the run is ending; a request in flight may take [`GRACE`] longer.
    async fn fetch_unless_halted(&self, wanted: Wanted) -> Result<Option<Answered>, SyncError> {
        if *self.halt.borrow() {
            return Ok(None);
        }
        self.activity.waits("fetcher", "answers of the registry");
        let ending = async {
            self.halted().await;
            tokio::time::sleep(GRACE).await;
        };
        let answered = tokio::select! {
            answered = self.fetch(wanted) => answered?,
            () = ending => None,
        };
        self.activity
            .waits("fetcher", "wanted digests, or the write task");
        Ok(answered)
    }

    /// Requests a history from the repositories, one after another, until an answer is final.
    /// Returns the answer to store, if there is one.
    async fn fetch(&self, wanted: Wanted) -> Result<Option<Answered>, RegistryError> {
        let Wanted {
            digest,
            repositories,
            mut failure,
            is_last_chance,
        } = wanted;
        let mut repository_id = 0;
        for holder in repositories {
            repository_id = holder.repository_id;
            let Some(FetchedHistory {
                outcome,
                reservation,
            }) = self.ask(&digest, &holder).await?
            else {
                continue;
            };
            if outcome.is_final() {
                return Ok(Some(Answered {
                    answer: HistoryAnswer { digest, outcome },
                    reservation,
                }));
            }
            let is_worse = failure
                .as_ref()
                .is_some_and(|earlier| earlier.outcome.retry_rank() >= outcome.retry_rank());
            if !is_worse {
                failure = Some(NotGiven {
                    outcome,
                    repository: holder.path,
                });
            }
        }
        if !is_last_chance && !*self.halt.borrow() {
            let mut unresolved = self.unresolved();
            if unresolved.len() < MAX_UNRESOLVED {
                unresolved.push(Unresolved {
                    digest,
                    repository_id,
                    failure,
                });
                return Ok(None);
            }
        }
        Ok(self.give_up(digest, failure))
    }

    /// Requests a history from one repository. Returns `None` if the request was not sent because
    /// similar ones keep failing.
    async fn ask(
        &self,
        digest: &str,
        holder: &Holder,
    ) -> Result<Option<FetchedHistory>, RegistryError> {
        let Some(repository) = &holder.path else {
            return Ok(Some(of_unnamed_repository()));
        };
        let may_ask = || self.failures().may_ask(repository);
        // Checked before queueing, so that thousands do not wait needlessly, and before sending.
        if !may_ask() {
            return Ok(None);
        }
        let asking = self.registry.build_history_if(repository, digest, &may_ask);
        let Some(fetched) = asking.await? else {
            return Ok(None);
        };
        let outcome = &fetched.outcome;
        if let HistoryOutcome::Forbidden(refusal) | HistoryOutcome::Failed(refusal) = outcome {
            tracing::debug!(
                digest,
                repository = repository.to_string(),
                status = refusal.status,
                "no build history: {}",
                refusal.message
            );
        }
        if let Some(gave_up) = self.failures().note(repository, outcome) {
            warn_gave_up(&gave_up, repository);
        }
        Ok(Some(fetched))
    }

    /// Returns the failure to store after requests to all repositories failed, or `None` if no
    /// request was sent.
    fn give_up(&self, digest: String, failure: Option<NotGiven>) -> Option<Answered> {
        let Some(NotGiven {
            outcome,
            repository,
        }) = failure
        else {
            Progress::add(&self.progress.histories_skipped, 1);
            // The history may be fetched from a repository on a later page. If no more histories are
            // requested, keep the digest, so that it is not counted again.
            if !self.failures().has_stopped() {
                self.in_flight().remove(&digest);
            }
            return None;
        };
        self.failures().count(&outcome, repository.as_ref());
        Some(Answered {
            answer: HistoryAnswer { digest, outcome },
            reservation: Reservation::default(),
        })
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unresolved(&self) -> MutexGuard<'_, Vec<Unresolved>> {
        self.unresolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores answers as they arrive, each batch in one transaction, until the channel is closed.
    async fn store(
        self: Arc<Crawl>,
        mut writer: HistoryWriter,
        mut answered: mpsc::Receiver<Answered>,
    ) -> Result<(), SyncError> {
        loop {
            self.activity.waits("writer", "answers to store");
            let weigh = |answered: &Answered| answered.reservation.weight_bytes();
            let batch = next_batch(&mut answered, BATCH, weigh).await;
            if batch.is_empty() {
                break;
            }
            self.activity.waits("writer", "the database");
            // The reservations end with the batch.
            let (answers, _reservations): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|answered| (answered.answer, answered.reservation))
                .unzip();
            self.store_batch(&mut writer, &answers).await?;
            let mut in_flight = self.in_flight();
            for answer in &answers {
                in_flight.remove(&answer.digest);
            }
        }
        // Everything is committed; ignore errors on disconnect.
        let _ = tokio::time::timeout(RECORD_GRACE, writer.close()).await;
        Ok(())
    }

    /// Stores a batch. If the database refuses its content, stores it in halves, down to the refused
    /// answer, of which only the refusal is stored.
    async fn store_batch(
        &self,
        writer: &mut HistoryWriter,
        answers: &[HistoryAnswer],
    ) -> Result<(), StoreError> {
        let mut parts = vec![answers];
        while let Some(part) = parts.pop() {
            match (writer.store(part, self.clock.now()).await, part) {
                (Ok(writes), _) => self.progress.note(part, writes),
                (Err(error), [answer]) if error.is_about_content() => {
                    let refused = HistoryAnswer {
                        digest: answer.digest.clone(),
                        outcome: HistoryOutcome::Failed(error.refusal_of_content()),
                    };
                    self.failures().count(&refused.outcome, None);
                    let refused = std::slice::from_ref(&refused);
                    let writes = writer.store(refused, self.clock.now()).await?;
                    self.progress.note(refused, writes);
                }
                (Err(error), _) if error.is_about_content() => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The outcome for a digest if its repository is not in the catalog.
pub(super) fn of_unnamed_repository() -> FetchedHistory {
    FetchedHistory {
        outcome: HistoryOutcome::Failed(Refusal {
            status: None,
            code: None,
            message: "the catalog does not name the repository of this digest".to_owned(),
        }),
        reservation: Reservation::default(),
    }
}

/// Does the lister's work, unless a task fails: then returns the task's error, which is the cause of
/// any error of the lister.
pub(super) async fn unless_failed<T>(
    tasks: &mut JoinSet<Result<(), SyncError>>,
    work: impl Future<Output = Result<T, SyncError>>,
) -> Result<T, SyncError> {
    let failed = async {
        loop {
            match tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return resume_panic(error).await,
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        biased;
        error = failed => Err(error),
        done = work => done,
    }
}

/// Logs this once, not for each history; the summary has the numbers.
fn warn_gave_up(gave_up: &GaveUp, repository: &RepositoryPath) {
    match gave_up {
        GaveUp::Everywhere(cause) => tracing::warn!(
            "build histories keep failing ({cause}): no more are requested in this run"
        ),
        GaveUp::Repositories { cause, .. } => tracing::warn!(
            repository = repository.to_string(),
            "build histories of {repository} keep failing ({cause}): no more of them are requested in \
             this run, nor of other repositories that fail alike"
        ),
    }
}
