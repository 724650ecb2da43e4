//! How the stages of a crawl are connected, and how they end.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::crawl::{ANSWERED_CAPACITY, Answered, Crawl, unless_failed};
use super::listing::Listing;
use super::progress::Phase;
use super::{GRACE, STORE_GRACE, SyncError};
use crate::database::Database;
use crate::spans;
use crate::stop::Stop;
use crate::store::InstanceLock;

impl Crawl {
    /// Reads catalog, listing and histories. Returns when the listing began and ended if it is
    /// complete and all answers are stored.
    pub(super) async fn run(
        self: &Arc<Crawl>,
        database: &Database,
        lock: &mut InstanceLock,
        stop: &Stop,
    ) -> Result<(DateTime<Utc>, DateTime<Utc>), SyncError> {
        let mut tasks = JoinSet::new();
        let (answered_sender, answered) = mpsc::channel(ANSWERED_CAPACITY);
        let listing = Listing::new(self, lock);
        let last_answers = answered_sender.downgrade();
        let crawling = self.crawl(listing, database, answered_sender, answered, &mut tasks);
        let crawled = self.unless_ended(stop, crawling).await;
        // If the run is stuck, its tasks would not end.
        if crawled.is_err() && !matches!(crawled, Err(SyncError::Stalled { .. })) {
            // Answers of requests in flight are still stored; the next run requests the others again.
            self.halt.send_replace(true);
            let ending = async {
                self.record_unresolved(&last_answers).await;
                while tasks.join_next().await.is_some() {}
            };
            let limited = async {
                if !matches!(crawled, Err(SyncError::Stopped(_))) {
                    stop.requested().await;
                }
                tokio::time::sleep(GRACE + STORE_GRACE).await;
            };
            tokio::select! {
                () = ending => {}
                () = limited => {}
            }
        }
        crawled
    }

    /// The stages from the catalog to the last stored answer. The lister runs in the caller's task
    /// because it uses the lock's connection; it awaits channels and statements, never a request.
    async fn crawl(
        self: &Arc<Crawl>,
        mut listing: Listing<'_>,
        database: &Database,
        answered_sender: mpsc::Sender<Answered>,
        answered: mpsc::Receiver<Answered>,
        tasks: &mut JoinSet<Result<(), SyncError>>,
    ) -> Result<(DateTime<Utc>, DateTime<Utc>), SyncError> {
        let catalog_span = tracing::info_span!(target: spans::TARGET, "catalog");
        listing.start().instrument(catalog_span).await?;
        self.progress.enter(Phase::Listing);
        let stored = self.spawn_writer(tasks, database.clone(), answered);

        let (wanted, fetched) = self.spawn_fetch(tasks, &answered_sender);
        let listing_span = tracing::info_span!(target: spans::TARGET, "listing");
        let reading = listing.read_listing(Some(wanted)).instrument(listing_span);
        let times = unless_failed(tasks, reading).await?;
        self.progress.enter(Phase::Histories);
        unless_failed(tasks, listing.wait("the histories of the listing", fetched)).await?;

        // Only now all repositories that have these digests are known.
        let unresolved = std::mem::take(&mut *self.unresolved());
        if !unresolved.is_empty() {
            let (wanted, fetched) = self.spawn_fetch(tasks, &answered_sender);
            unless_failed(tasks, listing.ask_others(unresolved, wanted)).await?;
            unless_failed(
                tasks,
                listing.wait("histories from other repositories", fetched),
            )
            .await?;
        }
        drop(answered_sender);
        unless_failed(tasks, listing.wait("the last answers to be stored", stored)).await?;
        Ok(times)
    }
}
