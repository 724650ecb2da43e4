//! The nouns of a build history.

use chrono::{DateTime, Utc};

use crate::artifact::Extra;
use crate::data_issue::DataIssue;

/// The build history of a manifest, oldest step first.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildHistory {
    /// The steps.
    pub steps: Vec<BuildStep>,
    /// The number of entries the API claims; need not be the length of `steps`.
    pub reported_total: Option<i64>,
    /// What else the answer held.
    pub extra: Extra,
    /// What had to be altered.
    pub issues: Vec<DataIssue>,
}

/// One entry of a build history.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildStep {
    /// When it was built, to the nanosecond.
    pub created_at: Option<DateTime<Utc>>,
    /// The command; may carry secrets, so it must never be logged.
    pub command: Option<String>,
    /// Whether the step made no layer.
    pub empty_layer: bool,
    /// The layer the step made.
    pub layer: Option<Layer>,
    /// What else the entry held.
    pub extra: Extra,
}

/// A compressed blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Layer {
    /// The digest of the compressed blob.
    pub digest: String,
    /// The media type.
    pub media_type: Option<String>,
    /// The compressed size in bytes.
    pub size_bytes: Option<i64>,
}

/// A digest whose history is wanted, and the names by which it can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRequest {
    /// The digest.
    pub digest: String,
    /// A repository that holds it; `None` if the catalog does not name it.
    pub repository: Option<RepositoryPath>,
}

/// Where a repository is, as the addition call wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPath {
    /// The namespace's name.
    pub namespace: String,
    /// The repository's name without the namespace.
    pub name: String,
}

/// How the fetch of one history ended.
#[derive(Debug, Clone, PartialEq)]
pub enum HistoryOutcome {
    /// It arrived, with at least one step.
    Stored(BuildHistory),
    /// It arrived without a step: an attestation, or a config without history.
    Empty(BuildHistory),
    /// The artifact is of a kind that has none (400); final.
    Unsupported(Refusal),
    /// Not allowed (403); later runs ask again.
    Forbidden(Refusal),
    /// Deleted between the list and the fetch (404 of the service, not of the gateway).
    Gone(Refusal),
    /// No answer within the attempts; later runs ask again.
    Failed(Refusal),
}

/// What came back instead of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; `None` if no answer came.
    pub status: Option<u16>,
    /// The error code.
    pub code: Option<String>,
    /// The error message.
    pub message: String,
}

/// The answer for one digest.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryAnswer {
    /// The digest.
    pub digest: String,
    /// How the fetch ended.
    pub outcome: HistoryOutcome,
}
