//! The comparison of a verification: compares the listing, and build histories that are fetched again,
//! with the tables. It does not change the compared tables.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::TimeDelta;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::crawl::{Crawl, Holder, of_unnamed_repository, unless_failed};
use super::listing::Listing;
use super::progress::{Phase, Progress};
use super::stages::{BatchLimits, fetch_all, next_batch};
use super::{Sample, SyncError};
use crate::build_history::HistoryAnswer;
use crate::registry::{FetchedHistory, Registry, Reservation};
use crate::run::{HistoriesCompared, Verification, VerifiedRun};
use crate::stop::Stop;
use crate::store::{self, Comparison, InstanceLock};

/// Histories chosen and fetched at a time.
const BATCH: usize = 32;
/// Histories compared at a time.
const COMPARED: BatchLimits = BatchLimits {
    count: BATCH,
    weight: 4 << 20,
    fill: std::time::Duration::from_millis(10),
};
/// Maximum difference between the clock for push times and the clock for the `Date` of answers. The skew
/// of the latter is known.
const TOLERANCE: TimeDelta = TimeDelta::minutes(1);

impl Crawl {
    /// Reads catalog and listing, and compares them and a sample of histories with the tables. The
    /// differences are in `swr.verification_difference`.
    pub(super) async fn compare(
        self: &Arc<Crawl>,
        lock: &mut InstanceLock,
        verified: VerifiedRun,
        sample: &Sample,
        stop: &Stop,
    ) -> Result<Verification, SyncError> {
        let run = self.run;
        let mut listing = Listing::new(self, lock);
        let comparing = async {
            listing.start().await?;
            self.progress.enter(Phase::Listing);
            listing.read_listing(None).await?;
            let listed = self.progress.artifacts_listed.load(Ordering::Relaxed);
            tracing::info!(
                run_id = run.run_id,
                "comparing {listed} listed artifacts, then histories"
            );
            // Changes after this time, by the registry's clock, may be missing from the tables.
            let skew = self.registry.clock_skew().unwrap_or_default();
            let comparison = Comparison {
                run,
                verified,
                since: verified.started_at + skew - TOLERANCE,
            };
            let compared = store::compare_listing(listing.lock, comparison).await?;
            let histories = self.compare_histories(&mut listing, sample).await?;
            let now = self.clock.now();
            let verdict =
                store::record_verification(listing.lock, comparison, compared, histories, now);
            Ok(Verification {
                instance_id: run.instance_id,
                verified,
                compared,
                histories,
                verdict: verdict.await?,
            })
        };
        self.unless_ended(stop, comparing).await
    }

    /// Fetches histories again, a batch at a time: all in the order of their digests, or a sample that
    /// starts somewhere in this order and continues at the beginning after the last digest.
    async fn compare_histories(
        &self,
        listing: &mut Listing<'_>,
        sample: &Sample,
    ) -> Result<HistoriesCompared, SyncError> {
        let (wanted, requests) = mpsc::channel(BATCH);
        let (answers, mut answered) = mpsc::channel(BATCH);
        let registry = self.registry.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let fetch = |(digest, holder)| fetch_again(&registry, digest, holder);
            fetch_all(registry.max_in_flight(), requests, answers, fetch).await
        });
        let mut counts = HistoriesCompared::default();
        let mut left = sample.histories.map(|count| count as i64);
        let start = match left {
            Some(_) => sample.start.as_str(),
            None => "",
        };
        let (mut after, mut has_turned) = (start.to_owned(), false);
        loop {
            let limit = left.map_or(BATCH as i64, |left| left.min(BATCH as i64));
            let mut requests =
                store::histories_to_verify(listing.lock, self.run, &after, limit).await?;
            if has_turned {
                requests.retain(|(digest, _)| digest.as_str() <= start);
            }
            let Some((last, _)) = requests.last() else {
                if has_turned || start.is_empty() || limit == 0 {
                    return Ok(counts);
                }
                (after, has_turned) = (String::new(), true);
                continue;
            };
            after.clone_from(last);
            left = left.map(|left| left - requests.len() as i64);
            let mut missing = requests.len();
            self.activity.waits("lister", "histories to compare");
            for (digest, repository_id) in requests {
                // Closed when the task has failed, which has its own error.
                let _ = wanted.send((digest, listing.holder(repository_id))).await;
            }
            while missing > 0 {
                let weigh = |(_, reservation): &Fetched| reservation.weight_bytes();
                let answering = listing.beating(next_batch(&mut answered, COMPARED, weigh));
                let batch = unless_failed(&mut tasks, answering).await?;
                missing -= batch.len();
                let (answers, _reservations): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
                let HistoriesCompared {
                    compared,
                    unavailable,
                } = store::compare_histories(listing.lock, self.run, &answers).await?;
                Progress::add(&self.progress.histories_fetched, compared as u64);
                counts.compared += compared;
                counts.unavailable += unavailable;
            }
        }
    }
}

/// A history that was fetched again, with the memory that is reserved for it.
type Fetched = (HistoryAnswer, Reservation);

async fn fetch_again(
    registry: &Registry,
    digest: String,
    holder: Holder,
) -> Result<Option<Fetched>, SyncError> {
    let FetchedHistory {
        outcome,
        reservation,
    } = match holder.path {
        Some(repository) => registry.build_history(&repository, &digest).await?,
        None => of_unnamed_repository(),
    };
    Ok(Some((HistoryAnswer { digest, outcome }, reservation)))
}
