//! The nouns of a build history.

use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

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

impl BuildHistory {
    /// The memory that it takes, in bytes, as nearly as its content says. The content of an
    /// image decides on it, so nothing is left out that can be large or many.
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

/// What the allocator needs for each allocation of its own.
const ALLOCATION_BYTES: usize = 16;

fn text_bytes(text: &str) -> usize {
    ALLOCATION_BYTES + text.len()
}

fn extra_bytes(extra: &Extra) -> usize {
    extra.as_ref().map_or(0, members_bytes)
}

/// What an object takes beyond its own size.
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
    /// The media type.
    pub media_type: Option<String>,
    /// The compressed size in bytes.
    pub size_bytes: Option<i64>,
}

/// Where a repository is, as the addition call wants it.
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

impl HistoryOutcome {
    /// Whether the answer is permanent: no run requests this digest again.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            HistoryOutcome::Stored(_) | HistoryOutcome::Empty(_) | HistoryOutcome::Unsupported(_)
        )
    }

    /// How likely a later request is to have another outcome, as a rank.
    pub fn retry_rank(&self) -> u8 {
        match self {
            HistoryOutcome::Failed(_) => 2,
            HistoryOutcome::Forbidden(_) => 1,
            _ => 0,
        }
    }
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

/// What came back instead of a history, as far as others may have failed alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FailureCause {
    /// The outcome in words: `forbidden` or `failed`.
    pub outcome: &'static str,
    /// The HTTP status; `None` if no answer came, or nothing was asked.
    pub status: Option<u16>,
    /// The error code.
    pub code: Option<String>,
}

impl FailureCause {
    /// Whether a repository's own rights may be behind it: a policy can be narrowed to some
    /// repositories, and then the service refuses the others. The gateway knows no repositories.
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

/// The histories of a run that failed alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFailureGroup {
    /// What came back.
    pub cause: FailureCause,
    /// The message, without digests and other ids.
    pub message: String,
    /// How many there are.
    pub count: u64,
    /// The repository of the first; `None` if the catalog does not name it.
    pub repository: Option<RepositoryPath>,
}

/// Why a run did not ask for all the histories it wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GaveUp {
    /// So many in a row failed alike, in several repositories, that asking on was pointless.
    Everywhere(FailureCause),
    /// These repositories had nothing but equal failures.
    Repositories {
        /// How many.
        count: u64,
        /// The failure, of the first of them.
        cause: FailureCause,
        /// Whether no history of any repository had another answer.
        is_everywhere: bool,
    },
}

/// What a run tells of the histories it could not get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFailures {
    /// Grouped by what came back, the largest group first.
    pub groups: Vec<HistoryFailureGroup>,
    /// Why some were not requested, if so.
    pub gave_up: Option<GaveUp>,
}
