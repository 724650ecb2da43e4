//! Received requests, and their counts.

use std::collections::BTreeMap;
use std::fmt;

use hyper::header::HeaderMap;
use serde::{Serialize, Serializer};

/// A request as received, not decoded.
pub(super) struct Arrived<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

impl Arrived<'_> {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// IAM's `POST /v3/auth/tokens`.
    Token,
    /// ListInstance and ShowInstance.
    Instance,
    /// ListInstanceNamespaces.
    Namespaces,
    /// ListInstanceRepositories.
    Repositories,
    /// ListInstanceAllArtifacts.
    Artifacts,
    /// ShowInstanceArtifactAddition.
    BuildHistory,
    /// No such route.
    Unknown,
    /// The metadata service's `PUT …/api/token`.
    MetadataToken,
    /// The metadata service's `GET …/securitykey`.
    SecurityKey,
    /// The pod identity agent's key.
    PodIdentity,
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestKind::Token => "token",
            RequestKind::Instance => "instance",
            RequestKind::Namespaces => "namespaces",
            RequestKind::Repositories => "repositories",
            RequestKind::Artifacts => "artifacts",
            RequestKind::BuildHistory => "build_history",
            RequestKind::Unknown => "unknown",
            RequestKind::MetadataToken => "metadata_token",
            RequestKind::SecurityKey => "security_key",
            RequestKind::PodIdentity => "pod_identity",
        })
    }
}

/// Requests since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    arrived: BTreeMap<RequestKind, u64>,
    #[serde(serialize_with = "nested")]
    answered: BTreeMap<(RequestKind, u16), u64>,
    /// AK/SK checks that failed. The gateway locks a key after more than five in a row.
    pub failed_signatures: u64,
    /// Maximum number of concurrent requests.
    pub peak_in_flight: u64,
    #[serde(skip)]
    in_flight: u64,
}

impl RequestCounts {
    /// All requests, with or without a response.
    pub fn total(&self) -> u64 {
        self.arrived.values().sum()
    }

    /// Requests of a kind, with or without a response.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.arrived.get(&kind).copied().unwrap_or(0)
    }

    /// Requests of a kind with this status.
    pub fn answered(&self, kind: RequestKind, status: u16) -> u64 {
        self.answered.get(&(kind, status)).copied().unwrap_or(0)
    }

    /// Requests of any kind with this status.
    pub fn with_status(&self, status: u16) -> u64 {
        let answered = self.answered.iter();
        answered
            .filter(|((_, known), _)| *known == status)
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn arrive(&mut self, kind: RequestKind) {
        *self.arrived.entry(kind).or_default() += 1;
        self.in_flight += 1;
        self.peak_in_flight = self.peak_in_flight.max(self.in_flight);
    }

    pub(super) fn answer(&mut self, kind: RequestKind, status: u16) {
        *self.answered.entry((kind, status)).or_default() += 1;
    }

    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Resets everything except the requests in progress.
    pub(super) fn reset(&mut self) {
        *self = RequestCounts {
            in_flight: self.in_flight,
            peak_in_flight: self.in_flight,
            ..RequestCounts::default()
        };
    }
}

/// One line per kind: `build_history 2000 (200: 1996, 404: 4)`.
impl fmt::Display for RequestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, arrived) in &self.arrived {
            let answers: Vec<String> = self
                .answered
                .iter()
                .filter(|((of, _), _)| of == kind)
                .map(|((_, status), count)| format!("{status}: {count}"))
                .collect();
            writeln!(f, "{kind} {arrived} ({})", answers.join(", "))?;
        }
        Ok(())
    }
}

/// `{"build_history": {"200": 1996, "404": 4}}`.
fn nested<S: Serializer>(
    answered: &BTreeMap<(RequestKind, u16), u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut kinds: BTreeMap<RequestKind, BTreeMap<u16, u64>> = BTreeMap::new();
    for ((kind, status), count) in answered {
        kinds.entry(*kind).or_default().insert(*status, *count);
    }
    kinds.serialize(serializer)
}
