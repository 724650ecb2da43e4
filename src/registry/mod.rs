//! SWR over HTTP: the catalog, the artifact list, and build histories.
//!
//! Reading order: this file, then `wire` (JSON to nouns), `transport` (the one door),
//! and what that uses: `pace`, `gate`, `retry`, `credentials`, `temporary_key`, `signature`,
//! `error`.
//! The registry never touches the database.

pub mod signature;

mod credentials;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod json;
mod meter;
pub(crate) mod pace;
mod retry;
mod temporary_key;
mod transport;
mod wire;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use chrono::TimeDelta;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;

pub use credentials::{Credentials, PasswordLogin};
pub use error::{Malformed, RegistryError, RequestFailure, StatusFailure};
pub use meter::RequestMeter;
pub use pace::PaceNow;
pub use retry::RetryPolicy;
pub use temporary_key::{KeyFailure, NoKey, TemporaryKeySource};
pub use transport::TransportSettings;
pub(crate) use transport::{client_builder, reason};

use crate::artifact::{Artifact, InstanceDescription, ListedInstance, Namespace, Page, Repository};
use crate::build_history::{BuildHistory, HistoryOutcome, Refusal, RepositoryPath};
use crate::clock::Clock;
use crate::finding;
use crate::run::RequestKind;
use transport::{Call, Transport};
use wire::OffsetPage;

/// Largest page both listings allow (swr_03_0306, swr_03_0102, swr_03_0201).
pub const PAGE_SIZE: u64 = 100;

/// The documented default, and so the start.
const FIRST_MARKER: i64 = 1;

/// A listing that gives so many pages in a row without anything new will never end.
const MAX_FRUITLESS_PAGES: u32 = 100;

/// How often a listing by offset is read again when its entries shift under it.
const CATALOG_READS: u32 = 3;

/// Which project, and how to reach it.
#[derive(Debug, Clone)]
pub struct ProjectSettings {
    /// Scheme and host of the SWR API, such as `https://swr-api.cn-north-4.myhuaweicloud.com`.
    pub endpoint: Url,
    /// The project, which is of the endpoint's region.
    pub project_id: String,
    /// Who asks.
    pub credentials: Credentials,
    /// Time-outs, retries and caps.
    pub transport: TransportSettings,
    /// Whether secrets in build histories are masked before anyone sees them.
    pub redact_commands: bool,
    /// The time, for signatures and for the expiry of tokens.
    pub clock: Clock,
}

/// A project of a region. Its registries share one gateway's limits and one key, so they share
/// one pace, one token, and one latch for credentials that are refused.
#[derive(Debug)]
pub struct Project {
    transport: Transport,
    /// `/v2/{project_id}/instances`, encoded.
    base: String,
    redact_commands: bool,
}

impl Project {
    /// Prepares a client; nothing is sent yet. Fails if the machine's TLS roots cannot be loaded.
    pub fn new(settings: ProjectSettings) -> Result<Project, reqwest::Error> {
        let ProjectSettings {
            endpoint,
            project_id,
            credentials,
            transport,
            redact_commands,
            clock,
        } = settings;
        let base = format!("/v2/{}/instances", segment(&project_id));
        let transport = Transport::new(endpoint, project_id, credentials, transport, clock)?;
        Ok(Project {
            transport,
            base,
            redact_commands,
        })
    }

    /// One of its instances.
    pub fn registry(&self, instance_id: &str) -> Registry {
        Registry {
            transport: self.transport.clone(),
            base: format!("{}/{}", self.base, segment(instance_id)),
            redact_commands: self.redact_commands,
        }
    }

    /// All instances, whatever their state (ListInstance, swr_03_0002).
    pub async fn instances(&self) -> Result<Vec<ListedInstance>, RegistryError> {
        let listing = OffsetListing {
            kind: RequestKind::Instance,
            what: "instances",
            path: self.base.clone(),
            // None is documented for it.
            order: &[],
            decode: wire::instance_page,
            id: |instance| instance.swr_instance_id.clone(),
        };
        // Asks for nothing but the given path.
        let door = Registry {
            transport: self.transport.clone(),
            base: self.base.clone(),
            redact_commands: self.redact_commands,
        };
        Ok(door.offset_listing(listing, &mut 0).await?.rows)
    }
}

/// One registry instance over HTTP. Clones share everything, the meter included.
#[derive(Debug)]
pub struct Registry {
    transport: Transport,
    /// `/v2/{project_id}/instances/{instance_id}`, encoded.
    base: String,
    redact_commands: bool,
}

/// What the catalog holds: names for the ids of the artifact list.
#[derive(Debug)]
pub struct Catalog {
    /// All namespaces.
    pub namespaces: Page<Namespace>,
    /// All repositories.
    pub repositories: Page<Repository>,
    /// Pages read for it.
    pub pages: u64,
}

impl Clone for Registry {
    fn clone(&self) -> Registry {
        Registry {
            transport: self.transport.with_same_meter(),
            base: self.base.clone(),
            redact_commands: self.redact_commands,
        }
    }
}

impl Registry {
    /// SHIM
    pub fn activity(&self) -> crate::activity::Activity {
        self.transport.activity()
    }
    /// SHIM
    pub fn pace_busy_until(&self) -> Option<tokio::time::Instant> {
        self.pace().not_before
    }
}

/// SHIM
pub struct ArtifactPages {
    registry: Registry,
    marker: Option<i64>,
    seen: HashSet<i64>,
    novelty: Novelty,
}
impl ArtifactPages {
    /// SHIM
    pub async fn next(&mut self) -> Result<Option<Page<Artifact>>, RegistryError> {
        let Some(marker) = self.marker else {
            return Ok(None);
        };
        let path = format!("{}/artifacts", self.registry.base);
        let query = [
            ("marker", marker.to_string()),
            ("limit", PAGE_SIZE.to_string()),
        ];
        let body = self
            .registry
            .get(RequestKind::Artifacts, &path, &query)
            .await?;
        let next_marker = wire::next_marker(&body)
            .map_err(|failure| self.registry.unreadable(&path, failure.into()))?;
        if let Some(marker) = next_marker
            && !self.seen.insert(marker)
        {
            return Err(self
                .registry
                .unreadable(&path, RequestFailure::RepeatedMarker { marker }));
        }
        self.marker = next_marker;
        let page = self.registry.decode_artifacts(path.clone(), body).await?;
        let fruitless = self.novelty.fruitless_pages(&page);
        if fruitless >= MAX_FRUITLESS_PAGES {
            return Err(self
                .registry
                .unreadable(&path, RequestFailure::EndlessListing { pages: fruitless }));
        }
        Ok(Some(page))
    }
}
/// SHIM
pub struct CatalogPages<T> {
    registry: Registry,
    pages: Option<Vec<Page<T>>>,
    pick: fn(Catalog) -> Page<T>,
}
impl<T> CatalogPages<T> {
    /// SHIM
    pub async fn next(&mut self) -> Result<Option<Page<T>>, RegistryError> {
        if self.pages.is_none() {
            let c = self.registry.catalog().await?;
            self.pages = Some(vec![(self.pick)(c)]);
        }
        Ok(self.pages.as_mut().and_then(Vec::pop))
    }
}
/// SHIM
#[derive(Debug)]
pub struct FetchedHistory {
    /// SHIM
    pub outcome: HistoryOutcome,
    /// SHIM
    pub reservation: Option<Reservation>,
}
/// SHIM
#[derive(Debug)]
pub struct Reservation;
impl Registry {
    /// SHIM
    pub fn artifact_pages(&self) -> ArtifactPages {
        ArtifactPages {
            registry: self.clone(),
            marker: Some(FIRST_MARKER),
            seen: HashSet::from([FIRST_MARKER]),
            novelty: Novelty::default(),
        }
    }
    /// SHIM
    pub fn namespace_pages(&self) -> CatalogPages<Namespace> {
        CatalogPages {
            registry: self.clone(),
            pages: None,
            pick: |c| c.namespaces,
        }
    }
    /// SHIM
    pub fn repository_pages(&self) -> CatalogPages<Repository> {
        CatalogPages {
            registry: self.clone(),
            pages: None,
            pick: |c| c.repositories,
        }
    }
}

impl Registry {
    /// The only registry of a project that is of interest.
    pub fn new(settings: ProjectSettings, instance_id: &str) -> Result<Registry, reqwest::Error> {
        Ok(Project::new(settings)?.registry(instance_id))
    }

    /// Counts the requests of this client.
    pub fn meter(&self) -> Arc<RequestMeter> {
        Arc::clone(self.transport.meter())
    }

    /// By how much the gateway's clock is ahead of ours, by the `Date` of the latest answer;
    /// `None` before the first one. Signatures are valid for 15 minutes around its clock.
    pub fn clock_skew(&self) -> Option<TimeDelta> {
        self.transport.clock_skew()
    }

    /// How fast requests may start now, and what is known of the gateway's limit.
    pub fn pace(&self) -> PaceNow {
        self.transport.pace()
    }

    /// The most requests there can be under way at a time; the pace allows as many as are of use.
    pub fn max_in_flight(&self) -> usize {
        self.transport.max_in_flight()
    }

    /// Whether the endpoint answers. The request is not signed, so it cannot count against the
    /// key; afterwards the [skew of the clocks](Registry::clock_skew) is known.
    pub async fn reach(&self) -> Result<(), RegistryError> {
        self.transport.reach().await
    }

    /// How many namespaces the API claims to have, by asking for one (swr_03_0102).
    pub async fn namespace_count(&self) -> Result<Option<u64>, RegistryError> {
        let (kind, path) = (RequestKind::Namespaces, format!("{}/namespaces", self.base));
        let body = self
            .get(kind, &path, &offset_query(0, 1, OLDEST_FIRST))
            .await?;
        let page = wire::namespace_page(&body)
            .map_err(|failure| self.unreadable(&path, failure.into()))?;
        Ok(page.total)
    }

    /// How many repositories the API claims to have, by asking for one (swr_03_0201).
    pub async fn repository_count(&self) -> Result<Option<u64>, RegistryError> {
        Ok(self.repository_page(0, 1).await?.total)
    }

    /// The first artifact of the list, by asking for one (swr_03_0306); `None` if there is none.
    pub async fn first_artifact(&self) -> Result<Option<Artifact>, RegistryError> {
        let path = format!("{}/artifacts", self.base);
        let query = [("marker", FIRST_MARKER.to_string()), ("limit", "1".into())];
        let body = self.get(RequestKind::Artifacts, &path, &query).await?;
        let page =
            wire::artifact_page(&body).map_err(|failure| self.unreadable(&path, failure.into()))?;
        Ok(page.rows.into_iter().next())
    }

    /// The names of a repository, if it is among the `pages` first pages of the catalog.
    pub async fn find_repository(
        &self,
        repository_id: i64,
        pages: u64,
    ) -> Result<Option<RepositoryPath>, RegistryError> {
        for offset in (0..pages).map(|page| page * PAGE_SIZE) {
            let OffsetPage { page, entries, .. } = self.repository_page(offset, PAGE_SIZE).await?;
            let found = page
                .rows
                .into_iter()
                .find(|repository| repository.repository_id == repository_id);
            if let Some(repository) = found {
                return Ok(Some(RepositoryPath {
                    namespace: repository.namespace_name,
                    name: repository.name,
                }));
            }
            if entries < PAGE_SIZE {
                break;
            }
        }
        Ok(None)
    }

    async fn repository_page(
        &self,
        offset: u64,
        limit: u64,
    ) -> Result<OffsetPage<Repository>, RegistryError> {
        let path = format!("{}/repositories", self.base);
        let query = offset_query(offset, limit, OLDEST_FIRST);
        let body = self.get(RequestKind::Repositories, &path, &query).await?;
        wire::repository_page(&body).map_err(|failure| self.unreadable(&path, failure.into()))
    }

    /// The instance's name, version and status (ShowInstance, swr_03_0003).
    pub async fn instance(&self) -> Result<InstanceDescription, RegistryError> {
        let body = self.get(RequestKind::Instance, &self.base, &[]).await?;
        wire::instance(&body).map_err(|failure| self.unreadable(&self.base, failure.into()))
    }

    /// Reads all namespaces and repositories (swr_03_0102, swr_03_0201), oldest first.
    ///
    /// Entries that are deleted meanwhile shift the pages; a listing that ends with fewer
    /// entries than it claims is read again.
    pub async fn catalog(&self) -> Result<Catalog, RegistryError> {
        let mut pages = 0;
        let namespaces = self
            .offset_listing(
                OffsetListing {
                    kind: RequestKind::Namespaces,
                    what: "namespaces",
                    path: format!("{}/namespaces", self.base),
                    order: OLDEST_FIRST,
                    decode: wire::namespace_page,
                    id: |namespace| namespace.namespace_id,
                },
                &mut pages,
            )
            .await?;
        let repositories = self
            .offset_listing(
                OffsetListing {
                    kind: RequestKind::Repositories,
                    what: "repositories",
                    path: format!("{}/repositories", self.base),
                    order: OLDEST_FIRST,
                    decode: wire::repository_page,
                    id: |repository| repository.repository_id,
                },
                &mut pages,
            )
            .await?;
        Ok(Catalog {
            namespaces,
            repositories,
            pages,
        })
    }

    /// Decodes a page beside the caller, who has the page before to take in meanwhile: a full
    /// page takes milliseconds, as long as the database takes to stage one.
    async fn decode_artifacts(
        &self,
        path: String,
        body: Vec<u8>,
    ) -> Result<Page<Artifact>, RegistryError> {
        let decoding = tokio::task::spawn_blocking(move || wire::artifact_page(&body));
        let decoded = match decoding.await {
            Ok(decoded) => decoded,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels it, and then nobody asks any more.
                Err(_) => Err(Malformed::new("the program is ending")),
            },
        };
        decoded.map_err(|failure| self.unreadable(&path, failure.into()))
    }

    /// Fetches the build history of a manifest (ShowInstanceArtifactAddition, swr_03_0305).
    ///
    /// Errors are those that say nothing about the artifact: refused credentials.
    /// Everything else is an outcome.
    pub async fn build_history(
        &self,
        repository: &RepositoryPath,
        digest: &str,
    ) -> Result<FetchedHistory, RegistryError> {
        let outcome = self.build_history_if(repository, digest, &|| true).await?;
        Ok(outcome.unwrap_or_else(|| FetchedHistory {
            outcome: HistoryOutcome::Failed(Refusal {
                status: None,
                code: None,
                message: RequestFailure::Unwanted.to_string(),
            }),
            reservation: None,
        }))
    }

    /// As [`build_history`](Registry::build_history), but asks only if `is_wanted` still holds when
    /// the request may start; `None` if not.
    pub async fn build_history_if(
        &self,
        repository: &RepositoryPath,
        digest: &str,
        is_wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<FetchedHistory>, RegistryError> {
        let path = format!(
            "{}/namespaces/{}/repositories/{}/artifacts/{}/additions/build_history",
            self.base,
            segment(&repository.namespace),
            // A slash in the name must arrive as %252F: it is encoded once more than the rest.
            segment(&repository.name.replace('/', "%2F")),
            segment(digest),
        );
        let asked = self.get_if(RequestKind::BuildHistory, &path, &[], is_wanted);
        let outcome = match asked.await {
            Ok(body) => match wire::build_history(digest, &body) {
                Ok(mut history) => {
                    if self.redact_commands {
                        finding::redact(digest, &mut history);
                    }
                    with_or_without_steps(history)
                }
                Err(malformed) => HistoryOutcome::Failed(Refusal {
                    status: Some(200),
                    code: None,
                    message: malformed.to_string(),
                }),
            },
            Err(error) if matches!(error.failure, RequestFailure::Unwanted) => return Ok(None),
            // Every other request would get it too, so it ends the run.
            Err(error) if error.is_refused_login() => return Err(error),
            Err(error) => refused(&error),
        };
        Ok(Some(FetchedHistory {
            outcome,
            reservation: None,
        }))
    }

    async fn offset_listing<T, Id: Eq + Hash>(
        &self,
        listing: OffsetListing<T, Id>,
        pages: &mut u64,
    ) -> Result<Page<T>, RegistryError> {
        let OffsetListing {
            kind,
            what,
            path,
            order,
            decode,
            id,
        } = listing;
        let mut shortfall = (0, 0);
        for _ in 0..CATALOG_READS {
            let mut all = Page {
                rows: Vec::new(),
                issues: Vec::new(),
            };
            let mut ids = HashSet::new();
            let (mut offset, mut unreadable) = (0, 0);
            let mut fruitless_pages = 0;
            let total = loop {
                let query = offset_query(offset, PAGE_SIZE, order);
                let body = self.get(kind, &path, &query).await?;
                *pages += 1;
                let OffsetPage {
                    page,
                    entries,
                    total,
                } = decode(&body).map_err(|failure| self.unreadable(&path, failure.into()))?;
                unreadable += entries - page.rows.len() as u64;
                let known = ids.len();
                ids.extend(page.rows.iter().map(id));
                fruitless_pages = if ids.len() > known {
                    0
                } else {
                    fruitless_pages + 1
                };
                all.rows.extend(page.rows);
                all.issues.extend(page.issues);
                offset += PAGE_SIZE;
                if entries == 0 || total.is_some_and(|total| offset >= total) {
                    break total;
                }
                if fruitless_pages == MAX_FRUITLESS_PAGES {
                    let failure = RequestFailure::EndlessListing {
                        pages: fruitless_pages,
                    };
                    return Err(self.unreadable(&path, failure));
                }
            };
            let given = ids.len() as u64 + unreadable;
            match total {
                Some(total) if given < total => shortfall = (given, total),
                _ => return Ok(all),
            }
        }
        let (given, total) = shortfall;
        Err(self.unreadable(
            &path,
            RequestFailure::IncompleteCatalog { what, given, total },
        ))
    }

    async fn get(
        &self,
        kind: RequestKind,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Vec<u8>, RegistryError> {
        self.get_if(kind, path, query, &|| true).await
    }

    async fn get_if(
        &self,
        kind: RequestKind,
        path: &str,
        query: &[(&str, String)],
        is_wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<u8>, RegistryError> {
        let query: Vec<(&str, &str)> = query
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        self.transport
            .get(Call {
                kind,
                path,
                query: &query,
                is_wanted,
            })
            .await
    }

    fn unreadable(&self, path: &str, failure: RequestFailure) -> RegistryError {
        RegistryError {
            request: format!("GET {path}"),
            attempts: 1,
            elapsed: std::time::Duration::ZERO,
            failure,
        }
    }
}

/// A listing by offset and limit.
struct OffsetListing<T, Id> {
    kind: RequestKind,
    /// What is listed, for messages.
    what: &'static str,
    path: String,
    order: &'static [(&'static str, &'static str)],
    decode: fn(&[u8]) -> Result<OffsetPage<T>, Malformed>,
    /// What tells entries apart.
    id: fn(&T) -> Id,
}

/// Entries made during the listing come at its end, and shift nothing.
const OLDEST_FIRST: &[(&str, &str)] = &[("order_type", "asc")];

/// A page of a listing by offset.
fn offset_query(
    offset: u64,
    limit: u64,
    order: &[(&'static str, &str)],
) -> Vec<(&'static str, String)> {
    let order = order
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    [("offset", offset.to_string()), ("limit", limit.to_string())]
        .into_iter()
        .chain(order)
        .collect()
}

/// Notices when a listing brings nothing new. It remembers pages, not artifacts, so as to stay
/// small: 8 bytes for each.
#[derive(Default)]
struct Novelty {
    seen: HashSet<u64>,
    fruitless_pages: u32,
}

impl Novelty {
    /// How many pages in a row, up to this one, were empty or the same as one before.
    fn fruitless_pages(&mut self, page: &Page<Artifact>) -> u32 {
        let mut hash = DefaultHasher::new();
        for artifact in &page.rows {
            artifact.artifact_id.hash(&mut hash);
        }
        // Rows that cannot be read are none of those seen before, for all we know.
        let has_rows = !page.rows.is_empty() || !page.issues.is_empty();
        let is_new = self.seen.insert(hash.finish());
        if has_rows && (is_new || page.rows.is_empty()) {
            self.fruitless_pages = 0;
        } else {
            self.fruitless_pages += 1;
        }
        self.fruitless_pages
    }
}

fn with_or_without_steps(history: BuildHistory) -> HistoryOutcome {
    if history.steps.is_empty() {
        HistoryOutcome::Empty(history)
    } else {
        HistoryOutcome::Stored(history)
    }
}

/// What a refused addition says about the artifact.
///
/// The gateway's own 400 and 404 speak of the request, not of the artifact, so a later run
/// may ask again.
fn refused(error: &RegistryError) -> HistoryOutcome {
    let Some(status) = error.status() else {
        return HistoryOutcome::Failed(Refusal {
            status: None,
            code: None,
            message: error.failure.to_string(),
        });
    };
    let refusal = Refusal {
        status: Some(status.status),
        code: status.code.clone(),
        message: status.message.clone(),
    };
    match status.status {
        400 if !status.is_from_gateway() => HistoryOutcome::Unsupported(refusal),
        403 => HistoryOutcome::Forbidden(refusal),
        404 if !status.is_from_gateway() => HistoryOutcome::Gone(refusal),
        _ => HistoryOutcome::Failed(refusal),
    }
}

/// Everything but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}
