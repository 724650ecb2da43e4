//! The listing stage: pages through the registry, stages rows, and says which histories are wanted.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument;

use super::crawl::Crawl;
use super::progress::{Phase, Progress};
use super::{GOES_ON, HEARTBEAT, SyncError};
use crate::artifact::{Artifact, Namespace, Page, Repository};
use crate::build_history::HistoryRequest;
use crate::spans;
use crate::store::{
    self, DoubtfulRemovals, InstanceLock, Staged, StoreError, histories_wanted, stage_artifacts,
    stage_catalog,
};

/// The listing stage: the only user of the lock's connection while it runs.
pub(super) struct Listing<'a, 'lock> {
    pub(super) crawl: &'a Crawl<'a>,
    pub(super) lock: &'lock mut InstanceLock,
    pub(super) staged: Staged,
    pub(super) has_other_instances: bool,
    pub(super) catalog_reads: u32,
    /// Whether the catalog has further pages, which shift when something is deleted.
    pub(super) catalog_may_shift: bool,
    pub(super) is_second_listing: bool,
    pub(super) next_heartbeat: Instant,
}

impl Listing<'_, '_> {
    /// What comes before the first page: the catalog.
    pub(super) async fn start(&mut self) -> Result<(), SyncError> {
        let crawl = self.crawl;
        let looking = store::has_other_instances(self.lock.connection(), crawl.run.instance_id);
        self.has_other_instances = crawl.within("look for other instances", looking).await?;
        self.crawl.progress.enter(Phase::Catalog);
        self.read_catalog().await
    }

    async fn read_catalog(&mut self) -> Result<(), SyncError> {
        self.catalog_reads += 1;
        let crawl = self.crawl;
        let mut count = 0;
        let mut pages = crawl.registry.namespace_pages();
        while let Some(page) = pages.next().await? {
            count += 1;
            self.stage_catalog(&page, &Page::default()).await?;
        }
        let mut pages = crawl.registry.repository_pages();
        while let Some(page) = pages.next().await? {
            count += 1;
            self.stage_catalog(&Page::default(), &page).await?;
        }
        self.catalog_may_shift |= count > 2;
        Ok(())
    }

    async fn stage_catalog(
        &mut self,
        namespaces: &Page<Namespace>,
        repositories: &Page<Repository>,
    ) -> Result<(), SyncError> {
        let crawl = self.crawl;
        Progress::add(&crawl.progress.catalog_pages, 1);
        let (connection, staged) = (self.lock.connection(), &mut self.staged);
        let staging = stage_catalog(connection, crawl.run, staged, namespaces, repositories);
        crawl.within("stage the catalog", staging).await?;
        Ok(())
    }

    /// Pages through the list, and waits for the histories. Gives the times of the listing, or
    /// `None` if it was cut short by a failure elsewhere.
    pub(super) async fn list(
        mut self,
        wanted: mpsc::Sender<HistoryRequest>,
        mut stored: watch::Receiver<bool>,
    ) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, SyncError> {
        let crawl = self.crawl;
        tokio::select! {
            times = async {
                let times = self
                    .read_listing(wanted)
                    .instrument(tracing::info_span!(target: spans::TARGET, "listing"))
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
        let mut pages = crawl.registry.artifact_pages();
        while let Some(page) = self.beating(pages.next()).await?? {
            Progress::add(&crawl.progress.pages, 1);
            self.take_in(&page, wanted).await?;
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
