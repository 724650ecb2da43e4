//! The stages of a run that ask the registry, and the storing stage: what they share, and how
//! they end together.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument;

use super::failures::Failures;
use super::listing::Listing;
use super::progress::{Phase, Progress};
use super::{GRACE, HEARTBEAT, RECORD_GRACE, STORE_GRACE, SyncError};
use crate::build_history::{
    GaveUp, HistoryAnswer, HistoryOutcome, HistoryRequest, Refusal, RepositoryPath,
};
use crate::clock::Clock;
use crate::database::Database;
use crate::registry::{FetchedHistory, Registry, RegistryError, Reservation};
use crate::spans;
use crate::stop::{Stop, StopReason};
use crate::store::{self, HistoryWriter, InstanceLock, Run, Staged, StoreError};

/// Digests that may wait for their request: about ten list pages.
const WANTED_CAPACITY: usize = 1_000;
/// Answers that may wait to be stored.
const ANSWERED_CAPACITY: usize = 256;
/// Largest batch of answers stored in one transaction.
const BATCH: usize = 256;

/// What the stages of one run share.
pub(super) struct Crawl<'a> {
    pub(super) registry: &'a Registry,
    pub(super) clock: &'a Clock,
    pub(super) run: Run,
    pub(super) progress: &'a Progress,
    /// Limit for each step on the database.
    pub(super) database_timeout: Duration,
    /// Digests between the listing and their commit: a later page must not ask for them again.
    pub(super) in_flight: Mutex<HashSet<String>>,
    /// What came back instead of histories.
    pub(super) failures: Mutex<Failures>,
    /// Set when the intake is to end: by a signal, or because a stage failed.
    pub(super) halt: watch::Sender<bool>,
}

impl Crawl<'_> {
    /// Catalog, listing and histories. Gives the times of the listing if it is complete.
    pub(super) async fn run(
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
        let beginning = async {
            listing
                .start()
                .instrument(tracing::info_span!(target: spans::TARGET, "catalog"))
                .await?;
            Ok::<_, SyncError>(database.connect_to_write().await?)
        };
        let connection = stop.or(beginning).await??;
        let writer = HistoryWriter::new(connection, self.run);

        self.progress.enter(Phase::Listing);
        let (wanted_sender, wanted) = mpsc::channel(WANTED_CAPACITY);
        let (answered_sender, answered) = mpsc::channel(ANSWERED_CAPACITY);
        let stored = watch::Sender::new(false);
        let histories = self
            .fetch(wanted, answered_sender)
            .instrument(tracing::info_span!(target: spans::TARGET, "histories"));
        let work = async {
            tokio::join!(
                self.halting(listing.list(wanted_sender, stored.subscribe())),
                self.halting(histories),
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
            reason = stop.requested() => {
                self.halt.send_replace(true);
                // What is not stored by then is asked for again.
                let _ = tokio::time::timeout(GRACE + STORE_GRACE, work).await;
                return Err(reason.into());
            }
        };
        stored?;
        fetched?;
        match listed? {
            Some(times) => Ok(times),
            // Unreachable without a failure above, which has its own error.
            None => Err(SyncError::Stopped(StopReason::Terminate)),
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
    pub(super) async fn within<T>(
        &self,
        doing: &'static str,
        step: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        store::within(self.database_timeout, doing, step).await
    }

    pub(super) async fn halted(&self) {
        // The sender lives as long as the crawl, so waiting cannot fail.
        let _ = self.halt.subscribe().wait_for(|halt| *halt).await;
    }

    /// Asks for the wanted histories, as many at a time as the registry takes, and hands the
    /// answers on within each one's own future: a slow database leaves no request unread.
    async fn fetch(
        &self,
        mut wanted: mpsc::Receiver<HistoryRequest>,
        answered: mpsc::Sender<(HistoryAnswer, Option<Reservation>)>,
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
                let Some(FetchedHistory { outcome, reservation }) = outcome else {
                    Progress::add(&self.progress.histories_skipped, 1);
                    // Another repository that holds it may give it.
                    self.in_flight().remove(&request.digest);
                    return Ok(());
                };
                // A closed channel means that the storing stage failed, which is reported there.
                let digest = request.digest;
                let answer = HistoryAnswer { digest, outcome };
                let _ = answered.send((answer, reservation)).await;
                Ok(())
            })
            .await
    }

    /// Gives `None` where requests like this one keep failing, so that it is not sent.
    async fn fetch_one(
        &self,
        request: &HistoryRequest,
    ) -> Result<Option<FetchedHistory>, RegistryError> {
        let Some(repository) = &request.repository else {
            let outcome = HistoryOutcome::Failed(Refusal {
                status: None,
                code: None,
                message: "the catalog does not name the repository of this digest".to_owned(),
            });
            self.failures().note_unasked(&outcome);
            let reservation = None;
            return Ok(Some(FetchedHistory {
                outcome,
                reservation,
            }));
        };
        let may_ask = || self.failures().may_ask(repository);
        // Asked twice: so many need not wait for their turn.
        if !may_ask() {
            return Ok(None);
        }
        let asking = self
            .registry
            .build_history_if(repository, &request.digest, &may_ask);
        let Some(fetched) = asking.await? else {
            return Ok(None);
        };
        let outcome = &fetched.outcome;
        if let HistoryOutcome::Forbidden(refusal) | HistoryOutcome::Failed(refusal) = outcome {
            tracing::debug!(
                digest = request.digest,
                repository = repository.to_string(),
                status = refusal.status,
                "no build history: {}",
                refusal.message
            );
        }
        if let Some(gave_up) = self.failures().note(repository, outcome) {
            warn_of(&gave_up, repository);
        }
        Ok(Some(fetched))
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores what has arrived, in one transaction, before looking for more.
    async fn store(
        &self,
        mut writer: HistoryWriter,
        mut answered: mpsc::Receiver<(HistoryAnswer, Option<Reservation>)>,
    ) -> Result<(), SyncError> {
        let mut batch = Vec::with_capacity(BATCH);
        while answered.recv_many(&mut batch, BATCH).await > 0 {
            let (answers, _reservations): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            let storing = writer.store(&answers, self.clock.now());
            let writes = self.within("store build histories", storing).await?;
            self.progress.note(&answers, writes);
            let mut in_flight = self.in_flight();
            for answer in answers {
                in_flight.remove(&answer.digest);
            }
        }
        // All is stored; a server that does not say farewell is none of our business any more.
        let _ = tokio::time::timeout(RECORD_GRACE, writer.close()).await;
        Ok(())
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
