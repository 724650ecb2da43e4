//! The nouns of a build history.

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::artifact::Extra;
use crate::data_issue::DataIssue;

/// The build history of a manifest, oldest step first.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildHistory {
    pub steps: Vec<BuildStep>,
    /// The number of entries according to the API. It can differ from the length of `steps`.
    pub reported_total: Option<i64>,
    /// What else the answer held.
    pub extra: Extra,
    pub issues: Vec<DataIssue>,
}

impl BuildHistory {
    /// The estimated size in memory, in bytes. Users who push an image control its size, so the estimate
    /// includes everything that can be large or numerous.
    pub fn weight_bytes(&self) -> usize {
        let BuildHistory {
            steps,
            reported_total: _,
            extra,
            issues,
        } = self;
        let steps = steps.iter().map(BuildStep::weight_bytes);
        let issues = issues.iter().map(|issue| {
            let DataIssue {
                table: _,
                row_key,
                field,
                action: _,
                original,
            } = issue;
            size_of::<DataIssue>() + text_bytes(row_key) + text_bytes(field) + value_bytes(original)
        });
        size_of::<BuildHistory>() + extra_bytes(extra) + steps.chain(issues).sum::<usize>()
    }
}

/// One entry of a build history.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildStep {
    /// Time of the build, with nanoseconds.
    pub created_at: Option<DateTime<Utc>>,
    /// The command. It may contain secrets, so it must never be logged.
    pub command: Option<String>,
    /// Whether the step created no layer.
    pub empty_layer: bool,
    /// The layer that the step created.
    pub layer: Option<Layer>,
    /// What else the entry held.
    pub extra: Extra,
}

impl BuildStep {
    fn weight_bytes(&self) -> usize {
        let BuildStep {
            created_at: _,
            command,
            empty_layer: _,
            layer,
            extra,
        } = self;
        let layer = layer.as_ref();
        let texts = [
            command.as_ref(),
            layer.map(|layer| &layer.digest),
            layer.and_then(|layer| layer.media_type.as_ref()),
        ];
        let texts = texts.into_iter().flatten().map(|text| text_bytes(text));
        size_of::<BuildStep>() + extra_bytes(extra) + texts.sum::<usize>()
    }
}

/// Overhead of the allocator for each allocation.
const ALLOCATION_BYTES: usize = 16;

fn text_bytes(text: &str) -> usize {
    ALLOCATION_BYTES + text.len()
}

fn extra_bytes(extra: &Extra) -> usize {
    extra.as_ref().map_or(0, members_bytes)
}

/// The memory of the members of an object.
fn members_bytes(members: &Map<String, Value>) -> usize {
    /// Name, hash, and place in the table of hashes.
    const MEMBER_BYTES: usize = size_of::<String>() + 2 * size_of::<usize>();
    members
        .iter()
        .map(|(name, value)| MEMBER_BYTES + text_bytes(name) + value_bytes(value))
        .sum()
}

fn value_bytes(value: &Value) -> usize {
    let content = match value {
        Value::Null | Value::Bool(_) => 0,
        // Kept as text.
        Value::Number(number) => text_bytes(number.as_str()),
        Value::String(text) => text_bytes(text),
        Value::Array(elements) => elements.iter().map(value_bytes).sum(),
        Value::Object(members) => members_bytes(members),
    };
    size_of::<Value>() + content
}

/// A compressed blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Layer {
    /// The digest of the compressed blob.
    pub digest: String,
    pub media_type: Option<String>,
    /// The compressed size in bytes.
    pub size_bytes: Option<i64>,
}

/// Namespace and name of a repository, as parameters of the request for a build history.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepositoryPath {
    /// The namespace's name.
    pub namespace: String,
    /// The repository's name without the namespace.
    pub name: String,
}

impl fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The outcome of a fetch of one history.
#[derive(Debug, Clone, PartialEq)]
pub enum HistoryOutcome {
    /// The answer had at least one step.
    Stored(BuildHistory),
    /// The answer had no steps: an attestation, or a config without history.
    Empty(BuildHistory),
    /// Artifacts of this kind have no build history (400); final.
    Unsupported(Refusal),
    /// Not allowed (403); later runs request it again.
    Forbidden(Refusal),
    /// Deleted between the list and the fetch (404 of the service, not of the gateway).
    Gone(Refusal),
    /// No answer in all attempts; later runs request it again.
    Failed(Refusal),
}

impl HistoryOutcome {
    /// Whether the answer is permanent: no run requests this digest again.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            HistoryOutcome::Stored(_) | HistoryOutcome::Empty(_) | HistoryOutcome::Unsupported(_)
        )
    }

    /// A rank for the probability that a later request has another outcome.
    pub fn retry_rank(&self) -> u8 {
        match self {
            HistoryOutcome::Failed(_) => 2,
            HistoryOutcome::Forbidden(_) => 1,
            _ => 0,
        }
    }
}

/// The error that was returned instead of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; `None` without an answer.
    pub status: Option<u16>,
    pub code: Option<String>,
    pub message: String,
}

/// The answer for one digest.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryAnswer {
    pub digest: String,
    pub outcome: HistoryOutcome,
}

/// The part of a failure by which failures are grouped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FailureCause {
    /// `forbidden` or `failed`.
    pub outcome: &'static str,
    /// The HTTP status; `None` without an answer or a request.
    pub status: Option<u16>,
    pub code: Option<String>,
}

impl FailureCause {
    /// Whether the cause may be the permissions for one repository: a policy can be limited to some
    /// repositories, and then the service refuses the others. Errors of the gateway never depend on the
    /// repository.
    pub fn may_be_of_one_repository(&self) -> bool {
        let is_from_gateway = self
            .code
            .as_deref()
            .is_some_and(|code| code.starts_with("APIGW.") || code.starts_with("APIG."));
        self.status == Some(403) && !is_from_gateway
    }
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailureCause {
            outcome,
            status,
            code,
        } = self;
        f.write_str(outcome)?;
        if let Some(status) = status {
            write!(f, ", HTTP {status}")?;
        }
        match code {
            Some(code) => write!(f, " {code}"),
            None => Ok(()),
        }
    }
}

/// The histories of a run that failed in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFailureGroup {
    pub cause: FailureCause,
    /// The message, without digests and other ids.
    pub message: String,
    pub count: u64,
    /// The repository of the first; `None` if it is not in the catalog.
    pub repository: Option<RepositoryPath>,
}

/// Why a run did not request all histories that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GaveUp {
    /// Too many in a row, in several repositories, failed in the same way.
    Everywhere(FailureCause),
    /// In these repositories, all requests failed in the same way.
    Repositories {
        /// Number of repositories.
        count: u64,
        /// The failure of the first of them.
        cause: FailureCause,
        /// Whether no history of any repository had another answer.
        is_everywhere: bool,
    },
}

/// The histories that a run could not fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFailures {
    /// Grouped by cause and message, the largest group first.
    pub groups: Vec<HistoryFailureGroup>,
    /// Why some were not requested, if so.
    pub gave_up: Option<GaveUp>,
}
