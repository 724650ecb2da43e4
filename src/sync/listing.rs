//! The lister: stages the catalog and the pages of the list, and determines which histories to fetch.
//!
//! It awaits statements, and the channels to the tasks that send requests; it sends none itself.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use indexmap::IndexMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::crawl::{Crawl, Holder, Unresolved, Wanted};
use super::progress::{Phase, Progress};
use super::stages::{PageSource, Pages};
use super::{IN_PROGRESS, SyncError};
use crate::artifact::{Artifact, Page, Repository};
use crate::build_history::RepositoryPath;
use crate::store::{
    self, InstanceLock, RowNumbers, StoreError, histories_wanted, stage_artifacts,
    stage_namespaces, stage_repositories,
};

/// A listing with more rows than this, and more than this many times the count of the catalog, is
/// considered endless.
const ENDLESS_ROWS: u64 = 100_000;
const ENDLESS_FACTOR: u64 = 10;
/// Maximum number of pages that are staged together with one before them.
const MOST_PAGES_JOINED: usize = 3;
/// Number of digests per query for other repositories that have them.
const ALTERNATIVES: usize = 1_000;

/// The lister, the only user of the lock's connection while the crawl runs.
pub(super) struct Listing<'a> {
    crawl: Arc<Crawl>,
    pub(super) lock: &'a mut InstanceLock,
    staged: RowNumbers,
    names: Names,
    /// The artifacts in all repositories according to the catalog; `None` if it has no counts.
    artifacts_counted: Option<u64>,
    rows_listed: u64,
    has_other_instances: bool,
    catalog_reads: u32,
    /// Whether the catalog has further pages, which shift when something is deleted.
    catalog_may_shift: bool,
    is_second_listing: bool,
    next_heartbeat: Instant,
}

/// The names of the repositories in compact form: some registries have 100,000 of them.
#[derive(Default)]
struct Names {
    namespaces: IndexMap<String, ()>,
    repositories: HashMap<i64, (u32, Box<str>)>,
}

impl Names {
    fn insert(&mut self, repository: &Repository) {
        let namespace = match self.namespaces.get_index_of(&repository.namespace_name) {
            Some(index) => index,
            None => {
                self.namespaces
                    .insert_full(repository.namespace_name.clone(), ())
                    .0
            }
        };
        let name = repository.name.as_str().into();
        // More than u32::MAX namespaces would not fit into memory.
        self.repositories
            .insert(repository.repository_id, (namespace as u32, name));
    }

    fn path(&self, repository_id: i64) -> Option<RepositoryPath> {
        let (namespace, name) = self.repositories.get(&repository_id)?;
        let (namespace, ()) = self.namespaces.get_index(*namespace as usize)?;
        Some(RepositoryPath {
            namespace: namespace.clone(),
            name: name.to_string(),
        })
    }
}

impl<'a> Listing<'a> {
    pub(super) fn new(crawl: &Arc<Crawl>, lock: &'a mut InstanceLock) -> Listing<'a> {
        Listing {
            crawl: Arc::clone(crawl),
            lock,
            staged: RowNumbers::default(),
            names: Names::default(),
            artifacts_counted: None,
            rows_listed: 0,
            has_other_instances: false,
            catalog_reads: 0,
            catalog_may_shift: false,
            is_second_listing: false,
            next_heartbeat: Instant::now() + crawl.heartbeat,
        }
    }

    /// Reads the catalog, before the first page of the list.
    pub(super) async fn start(&mut self) -> Result<(), SyncError> {
        self.has_other_instances =
            store::has_other_instances(self.lock, self.crawl.run.instance_id).await?;
        self.crawl.progress.enter(Phase::Catalog);
        self.read_catalog().await
    }

    /// Stages the catalog page by page. A second reading may follow; its rows replace the earlier ones.
    async fn read_catalog(&mut self) -> Result<(), SyncError> {
        let crawl = Arc::clone(&self.crawl);
        self.catalog_reads += 1;
        let (mut pages, mut counted) = (0, Some(0));
        let mut namespaces = Pages::spawn(crawl.registry.namespace_pages());
        while let Some(page) = self.next_page(&mut namespaces).await? {
            pages += 1;
            stage_namespaces(self.lock, crawl.run, &mut self.staged, &page).await?;
            Progress::add(&crawl.progress.catalog_pages, 1);
        }
        let mut repositories = Pages::spawn(crawl.registry.repository_pages());
        while let Some(page) = self.next_page(&mut repositories).await? {
            pages += 1;
            for repository in &page.rows {
                self.names.insert(repository);
                let count = repository
                    .artifact_count
                    .and_then(|count| u64::try_from(count).ok());
                counted = counted
                    .zip(count)
                    .and_then(|(sum, count)| u64::checked_add(sum, count));
            }
            stage_repositories(self.lock, crawl.run, &mut self.staged, &page).await?;
            Progress::add(&crawl.progress.catalog_pages, 1);
        }
        self.artifacts_counted = counted;
        let expected = counted.unwrap_or(0);
        (crawl.progress.artifacts_expected).store(expected, Ordering::Relaxed);
        self.catalog_may_shift |= pages > 2;
        Ok(())
    }

    /// Lists everything, and once more if something may be missing. Returns when the listing began and
    /// ended. Without a channel for the wanted histories, it lists once.
    pub(super) async fn read_listing(
        &mut self,
        wanted: Option<mpsc::Sender<Wanted>>,
    ) -> Result<(DateTime<Utc>, DateTime<Utc>), SyncError> {
        let (clock, run) = (self.crawl.clock.clone(), self.crawl.run);
        let started_at = clock.now();
        store::note_listing(self.lock, run, started_at, None).await?;
        self.read_pages(wanted.as_ref()).await?;
        if let Some(wanted) = &wanted {
            self.confirm_removals(wanted).await?;
        }
        let finished_at = clock.now();
        store::note_listing(self.lock, run, started_at, Some(finished_at)).await?;
        Ok((started_at, finished_at))
    }

    /// Reads again where something published is missing without proof that it is gone; it counts
    /// as removed if it is missing again. An unchanged registry is not read twice.
    async fn confirm_removals(&mut self, wanted: &mpsc::Sender<Wanted>) -> Result<(), SyncError> {
        let run = self.crawl.run;
        let mut doubts = store::doubtful_removals(self.lock, run).await?;
        if doubts.catalog && self.catalog_may_shift {
            tracing::debug!("entries are missing from the catalog: reading it again");
            self.read_catalog().await?;
            doubts = store::doubtful_removals(self.lock, run).await?;
        }
        if doubts.artifacts {
            tracing::info!(
                "artifacts are missing from the listing, and the catalog's counts do not explain it: listing again"
            );
            self.is_second_listing = true;
            self.rows_listed = 0;
            self.read_pages(Some(wanted)).await?;
            // The next run compares its counts with those of this one, so they must not include
            // artifacts that were deleted during this listing.
            self.read_catalog().await?;
        }
        Ok(())
    }

    async fn read_pages(&mut self, wanted: Option<&mpsc::Sender<Wanted>>) -> Result<(), SyncError> {
        let mut pages = Pages::spawn(self.crawl.registry.artifact_pages());
        while let Some(first) = self.next_page(&mut pages).await? {
            let arrived = iter::from_fn(|| pages.arrived()).take(MOST_PAGES_JOINED);
            let mut joined = Page::default();
            for page in iter::once(first).chain(arrived) {
                Progress::add(&self.crawl.progress.pages, 1);
                self.rows_listed += page.rows_given("artifact");
                if let Some(counted) = self.artifacts_counted
                    && self.rows_listed > ENDLESS_ROWS.max(counted.saturating_mul(ENDLESS_FACTOR))
                {
                    return Err(SyncError::EndlessListing {
                        listed: self.rows_listed,
                        counted,
                    });
                }
                joined.append(page);
            }
            self.take_in(&joined, wanted).await?;
        }
        Ok(())
    }

    async fn next_page<S: PageSource<Error: Into<SyncError>>>(
        &mut self,
        pages: &mut Pages<S>,
    ) -> Result<Option<S::Page>, SyncError> {
        self.crawl
            .activity
            .waits("lister", "a page of the registry");
        self.beating(pages.next()).await?.map_err(Into::into)
    }

    /// Stages a page, and sends the digests without a stored history to the fetch task.
    async fn take_in(
        &mut self,
        page: &Page<Artifact>,
        wanted: Option<&mpsc::Sender<Wanted>>,
    ) -> Result<(), SyncError> {
        let crawl = Arc::clone(&self.crawl);
        crawl.activity.waits("lister", "the database");
        stage_artifacts(self.lock, crawl.run, &mut self.staged, page).await?;
        let progress = &crawl.progress;
        if !self.is_second_listing {
            Progress::add(&progress.artifacts_listed, page.rows.len() as u64);
        }
        let Some(wanted) = wanted else {
            return Ok(());
        };
        // In this order: a digest that is neither in flight here nor stored in the next
        // statement cannot have been both, since only this stage sends digests out.
        let mut holders: HashMap<&str, i64> = HashMap::new();
        {
            let in_flight = crawl.in_flight();
            for artifact in &page.rows {
                if !in_flight.contains(&artifact.digest) {
                    holders
                        .entry(&artifact.digest)
                        .or_insert(artifact.repository_id);
                }
            }
        }
        let digests = self.needed(holders.keys().copied().collect()).await?;
        let is_unnamed = |digest: &String| self.names.path(holders[digest.as_str()]).is_none();
        if self.catalog_reads == 1 && digests.iter().any(is_unnamed) {
            // The repository was created after the catalog was read.
            self.read_catalog().await?;
        }
        Progress::add(&progress.histories_wanted, digests.len() as u64);
        if !self.is_second_listing {
            let reused = page.rows.len() - digests.len();
            Progress::add(&progress.histories_reused, reused as u64);
        }
        crawl
            .activity
            .waits("lister", "room in the queue of wanted histories");
        for digest in digests {
            let repository_id = holders[digest.as_str()];
            crawl.in_flight().insert(digest.clone());
            let request = Wanted {
                digest,
                repositories: vec![self.holder(repository_id)],
                failure: None,
                is_last_chance: false,
            };
            self.send(wanted, request).await?;
        }
        Ok(())
    }

    /// Requests the digests that could not be fetched from one repository from others that list them.
    pub(super) async fn ask_others(
        &mut self,
        mut unresolved: Vec<Unresolved>,
        wanted: mpsc::Sender<Wanted>,
    ) -> Result<(), SyncError> {
        while !unresolved.is_empty() {
            let part = unresolved.split_off(unresolved.len().saturating_sub(ALTERNATIVES));
            let digests: Vec<&str> = part.iter().map(|one| one.digest.as_str()).collect();
            let mut holders =
                store::repositories_listing(self.lock, self.crawl.run, &digests).await?;
            for Unresolved {
                digest,
                repository_id,
                failure,
            } in part
            {
                let mut others = holders.remove(&digest).unwrap_or_default();
                others.retain(|other| *other != repository_id);
                let request = Wanted {
                    digest,
                    repositories: others.into_iter().map(|other| self.holder(other)).collect(),
                    failure,
                    is_last_chance: true,
                };
                self.send(&wanted, request).await?;
            }
        }
        Ok(())
    }

    pub(super) fn holder(&self, repository_id: i64) -> Holder {
        Holder {
            repository_id,
            path: self.names.path(repository_id),
        }
    }

    /// Waits for room in the queue. A closed queue means that the fetch task has failed.
    async fn send(
        &mut self,
        wanted: &mpsc::Sender<Wanted>,
        request: Wanted,
    ) -> Result<(), SyncError> {
        if let Err(full) = wanted.try_send(request) {
            let _ = self.beating(wanted.send(full.into_inner())).await?;
        }
        Ok(())
    }

    /// The digests that need a request, after histories were copied from other instances.
    async fn needed(&mut self, candidates: Vec<&str>) -> Result<Vec<String>, StoreError> {
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.crawl.clock.now();
        let mut digests = histories_wanted(self.lock, self.crawl.run, &candidates, now).await?;
        if self.has_other_instances && !digests.is_empty() {
            let wanted: Vec<&str> = digests.iter().map(String::as_str).collect();
            let (writes, found) =
                store::reuse_histories(self.lock, self.crawl.run, &wanted, now).await?;
            Progress::add(&self.crawl.progress.rows_written, writes.rows);
            Progress::add(&self.crawl.progress.data_issues, writes.data_issues);
            digests.retain(|digest| !found.contains(digest));
        }
        Ok(digests)
    }

    /// Waits until a task has ended. If it fails, its error ends the run and this wait.
    pub(super) async fn wait(
        &mut self,
        what: &'static str,
        ended: oneshot::Receiver<()>,
    ) -> Result<(), SyncError> {
        self.crawl.activity.waits("lister", what);
        self.beating(async {
            if ended.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await
    }

    /// Waits for `work`, and saves progress in the run row in the meantime. The work is not polled while
    /// the row is written, so it must not hold anything that others wait for: a channel, not a request.
    pub(super) async fn beating<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, SyncError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(self.next_heartbeat) => {
                    self.next_heartbeat = Instant::now() + self.crawl.heartbeat;
                    let Crawl { progress, registry, clock, run, .. } = &*self.crawl;
                    let (counters, now) = (progress.counters(&registry.meter()), clock.now());
                    store::save_progress(self.lock, *run, &counters, IN_PROGRESS, now).await?;
                }
            }
        }
    }
}
