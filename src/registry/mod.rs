//! SWR over HTTP: the catalog, the artifact list, and build histories.
//!
//! Reading order: this file, then `pages` (listings), `wire` (JSON to nouns), `transport` (sends every
//! request), and the modules that `transport` uses: `pace`, `gate`, `retry`, `http`, `credentials`,
//! `expiring`, `temporary_key`, `signature`, `error`.
//! The registry never touches the database.

pub mod signature;

mod credentials;
mod error;
mod expiring;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod http;
mod json;
mod meter;
pub(crate) mod pace;
mod pages;
mod redact;
mod retry;
mod temporary_key;
mod transport;
mod wire;

use std::sync::Arc;

use chrono::TimeDelta;
use indexmap::IndexMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use tokio::time::Instant;

pub use credentials::{Credentials, PasswordLogin};
pub use error::{
    KeyFailure, Malformed, NoKey, RegistryError, RequestFailure, SHORTEST_SECRET, StatusFailure,
    TooLarge,
};
#[cfg(test)]
pub(crate) use http::AnswerMemory;
pub use http::Reservation;
pub(crate) use http::{client_builder, reason};
pub use meter::RequestMeter;
pub use pace::PaceNow;
pub use pages::{ArtifactPages, CatalogPages};
pub use retry::RetryPolicy;
pub use temporary_key::TemporaryKeySource;
pub use transport::TransportSettings;

use crate::activity::Activity;
use crate::artifact::{Artifact, InstanceDescription, ListedInstance, Namespace, Repository};
use crate::build_history::{BuildHistory, HistoryOutcome, Refusal, RepositoryPath};
use crate::clock::Clock;
use crate::run::RequestKind;
use pages::{FIRST_MARKER, OLDEST_FIRST, OffsetListing, offset_query};
use transport::{Call, Transport};
use wire::OffsetPage;

/// Largest page both listings allow (swr_03_0306, swr_03_0102, swr_03_0201).
pub const PAGE_SIZE: u64 = 100;

/// Larger answers are not read. This limits the memory that a request can take.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// A page of a single row may be this many times larger than other pages: it cannot be split further.
const SINGLE_ROW_FACTOR: usize = 4;

/// Which project, and how to reach it.
#[derive(Debug, Clone)]
pub struct ProjectSettings {
    /// Scheme and host of the SWR API, such as `https://swr-api.cn-north-4.myhuaweicloud.com`.
    pub endpoint: Url,
    /// The project. It belongs to the region of the endpoint.
    pub project_id: String,
    pub credentials: Credentials,
    pub transport: TransportSettings,
    /// Whether secrets in build histories are masked before the histories are returned.
    pub redact_commands: bool,
    /// The time, for signatures and for the expiry of tokens.
    pub clock: Clock,
}

/// A project of a region. Its registries share the limits of one gateway and one key. So they share
/// the pace, the token, and the gate that closes when the credentials are refused.
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

    /// A client for one instance of the project. Its requests are counted separately.
    pub fn registry(&self, instance_id: &str) -> Registry {
        Registry {
            transport: self.transport.with_own_meter(),
            base: format!("{}/{}", self.base, segment(instance_id)).into(),
            redact_commands: self.redact_commands,
        }
    }

    /// All instances in any state (ListInstance, swr_03_0002).
    pub async fn instances(&self) -> Result<Vec<ListedInstance>, RegistryError> {
        // It requests only the base URL, not an instance.
        let project = Registry {
            transport: self.transport.clone(),
            base: self.base.as_str().into(),
            redact_commands: self.redact_commands,
        };
        let mut pages = CatalogPages::new(project, OffsetListing::instances(&self.base));
        let mut instances = IndexMap::new();
        while let Some(page) = pages.next().await? {
            let rows = page.rows.into_iter();
            instances.extend(rows.map(|instance| (instance.swr_instance_id.clone(), instance)));
        }
        Ok(instances.into_values().collect())
    }
}

/// A client for one registry instance. Clones are cheap, and their requests are counted together.
#[derive(Debug, Clone)]
pub struct Registry {
    transport: Transport,
    /// `/v2/{project_id}/instances/{instance_id}`, encoded.
    base: Arc<str>,
    redact_commands: bool,
}

/// A build history as it was fetched.
#[derive(Debug)]
pub struct FetchedHistory {
    /// How the fetch ended.
    pub outcome: HistoryOutcome,
    /// Memory reserved for the history; drop it after the history is stored.
    pub reservation: Reservation,
}

impl FetchedHistory {
    fn without_steps(outcome: HistoryOutcome) -> FetchedHistory {
        FetchedHistory {
            outcome,
            reservation: Reservation::default(),
        }
    }
}

impl Registry {
    /// Shortcut for a project of which only one instance is used.
    pub fn new(settings: ProjectSettings, instance_id: &str) -> Result<Registry, reqwest::Error> {
        Ok(Project::new(settings)?.registry(instance_id))
    }

    /// Counts the requests of this client.
    pub fn meter(&self) -> Arc<RequestMeter> {
        Arc::clone(self.transport.meter())
    }

    /// How far the gateway's clock is ahead of ours, according to the `Date` of the latest answer; `None`
    /// before the first answer. The gateway accepts a signature for 15 minutes before and after its time.
    pub fn clock_skew(&self) -> Option<TimeDelta> {
        self.transport.clock_skew()
    }

    /// The current request rate, and the gateway's limit if it quoted one.
    pub fn pace(&self) -> PaceNow {
        self.transport.pace()
    }

    /// The activity of this client's requests, for a watchdog.
    pub fn activity(&self) -> Activity {
        self.transport.activity().clone()
    }

    /// Until when requests of this instance may have to wait for other instances of the project, which
    /// share its pace and token.
    pub fn held_up_until(&self) -> Option<Instant> {
        self.transport.held_up_until()
    }

    /// Maximum number of concurrent requests.
    pub fn max_in_flight(&self) -> usize {
        self.transport.max_in_flight()
    }

    /// Checks that the endpoint answers. The request is not signed, so it cannot count as a failed
    /// signature check. Afterwards the [clock skew](Registry::clock_skew) is known.
    pub async fn reach(&self) -> Result<(), RegistryError> {
        self.transport.reach().await
    }

    /// The number of namespaces that the API reports, from a request for one (swr_03_0102).
    pub async fn namespace_count(&self) -> Result<Option<u64>, RegistryError> {
        let (kind, path) = (RequestKind::Namespaces, format!("{}/namespaces", self.base));
        let query = offset_query(0, 1, OLDEST_FIRST);
        let page = self.get_page(kind, &path, &query, 1, wire::namespace_page);
        Ok(page.await?.total)
    }

    /// The number of repositories that the API reports, from a request for one (swr_03_0201).
    pub async fn repository_count(&self) -> Result<Option<u64>, RegistryError> {
        Ok(self.repository_page(0, 1).await?.total)
    }

    /// The first artifact of the list, from a request for one (swr_03_0306); `None` if there is none.
    pub async fn first_artifact(&self) -> Result<Option<Artifact>, RegistryError> {
        let path = format!("{}/artifacts", self.base);
        let query = [("marker", FIRST_MARKER.to_string()), ("limit", "1".into())];
        let kind = RequestKind::Artifacts;
        let first = self.get_page(kind, &path, &query, 1, wire::artifact_page);
        Ok(first.await?.page.rows.into_iter().next())
    }

    /// The names of a repository, if it is on one of the first `pages` pages of the catalog.
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
        let kind = RequestKind::Repositories;
        self.get_page(kind, &path, &query, limit, wire::repository_page)
            .await
    }

    /// The instance's name, version and status (ShowInstance, swr_03_0003).
    pub async fn instance(&self) -> Result<InstanceDescription, RegistryError> {
        let call = Call {
            kind: RequestKind::Instance,
            path: &self.base,
            query: &[],
            is_wanted: &|| true,
            what: "the description",
            max_bytes: MAX_ANSWER_BYTES,
        };
        let (instance, _) = self.transport.get(call, wire::instance, None).await?;
        Ok(instance)
    }

    /// The pages of the list of all artifacts (swr_03_0306).
    pub fn artifact_pages(&self) -> ArtifactPages {
        ArtifactPages::new(self.clone())
    }

    /// The pages of the list of all namespaces (swr_03_0102), oldest first.
    pub fn namespace_pages(&self) -> CatalogPages<Namespace> {
        CatalogPages::new(self.clone(), OffsetListing::namespaces(&self.base))
    }

    /// The pages of the list of all repositories (swr_03_0201), oldest first.
    pub fn repository_pages(&self) -> CatalogPages<Repository> {
        CatalogPages::new(self.clone(), OffsetListing::repositories(&self.base))
    }

    /// Fetches the build history of a manifest (ShowInstanceArtifactAddition, swr_03_0305).
    ///
    /// Returns an error only for refused credentials, because that does not depend on the artifact.
    /// Everything else is an outcome.
    pub async fn build_history(
        &self,
        repository: &RepositoryPath,
        digest: &str,
    ) -> Result<FetchedHistory, RegistryError> {
        let fetched = self.build_history_if(repository, digest, &|| true).await?;
        Ok(fetched.unwrap_or_else(|| {
            FetchedHistory::without_steps(HistoryOutcome::Failed(Refusal {
                status: None,
                code: None,
                message: RequestFailure::Unwanted.to_string(),
            }))
        }))
    }

    /// Like [`build_history`](Registry::build_history), but calls `is_wanted` when the request may start,
    /// and returns `None` without sending it if the result is false.
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
        let call = Call {
            kind: RequestKind::BuildHistory,
            path: &path,
            query: &[],
            is_wanted,
            what: wire::BUILD_HISTORY,
            max_bytes: MAX_ANSWER_BYTES,
        };
        let (digest, redact_commands) = (digest.to_owned(), self.redact_commands);
        let decode = move |body: &[u8]| {
            let mut history = wire::build_history(&digest, body)?;
            if redact_commands {
                redact::redact(&digest, &mut history);
            }
            Ok(history)
        };
        let weigh = Some(BuildHistory::weight_bytes as fn(&BuildHistory) -> usize);
        match self.transport.get(call, decode, weigh).await {
            Ok((history, reservation)) => Ok(Some(FetchedHistory {
                outcome: with_or_without_steps(history),
                reservation,
            })),
            Err(error) if matches!(error.failure, RequestFailure::Unwanted) => Ok(None),
            // Every other request would fail in the same way, so the error ends the run.
            Err(error) if error.is_refused_login() => Err(error),
            Err(error) => Ok(Some(FetchedHistory::without_steps(refused(&error)))),
        }
    }

    /// A page of at most `limit` rows.
    async fn get_page<T: Send + 'static>(
        &self,
        kind: RequestKind,
        path: &str,
        query: &[(&str, String)],
        limit: u64,
        decode: fn(&[u8], usize) -> Result<T, RequestFailure>,
    ) -> Result<T, RegistryError> {
        let query: Vec<(&str, &str)> = query
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let factor = if limit == 1 { SINGLE_ROW_FACTOR } else { 1 };
        let call = Call {
            kind,
            path,
            query: &query,
            is_wanted: &|| true,
            what: wire::PAGE,
            max_bytes: factor * MAX_ANSWER_BYTES,
        };
        let decode = move |body: &[u8]| decode(body, factor * wire::MAX_VALUES);
        let (page, _) = self.transport.get(call, decode, None).await?;
        Ok(page)
    }
}

fn with_or_without_steps(history: BuildHistory) -> HistoryOutcome {
    if history.steps.is_empty() {
        HistoryOutcome::Empty(history)
    } else {
        HistoryOutcome::Stored(history)
    }
}

/// What a failed request means for the artifact.
///
/// A 400 or 404 of the gateway itself concerns the request, not the artifact, so a later run may try
/// again. The same holds for a 400 without an error code: the service always sends a code, so this
/// one is from a proxy.
fn refused(error: &RegistryError) -> HistoryOutcome {
    let without_status = |status| Refusal {
        status,
        code: None,
        message: error.failure.to_string(),
    };
    let Some(status) = error.status() else {
        return match error.failure {
            RequestFailure::TooLarge(_) => HistoryOutcome::Unsupported(without_status(Some(200))),
            RequestFailure::Malformed(_) => HistoryOutcome::Failed(without_status(Some(200))),
            _ => HistoryOutcome::Failed(without_status(None)),
        };
    };
    let refusal = Refusal {
        status: Some(status.status),
        code: status.code.clone(),
        message: status.message.clone(),
    };
    match status.status {
        400 if status.code.is_some() && !status.is_from_gateway() => {
            HistoryOutcome::Unsupported(refusal)
        }
        403 => HistoryOutcome::Forbidden(refusal),
        404 if !status.is_from_gateway() => HistoryOutcome::Gone(refusal),
        _ => HistoryOutcome::Failed(refusal),
    }
}

/// All characters except RFC 3986's unreserved ones.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}
