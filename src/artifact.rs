//! The nouns of a listing: namespaces, repositories, artifacts and their tags.
//!
//! This module uses no HTTP, SQL or serde: the registry creates these values, the store writes them.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::data_issue::{Action, DataIssue};

/// Fields of an answer that this program does not know, with their original values.
pub type Extra = Option<Map<String, Value>>;

/// A namespace of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// The id in SWR.
    pub namespace_id: i64,
    /// The name.
    pub name: String,
    /// Number of repositories as the API gives it.
    pub repository_count: Option<i64>,
    /// Settings as the API gives them.
    pub metadata: Option<Value>,
    /// When it was created.
    pub created_at: Option<DateTime<Utc>>,
    /// When it was last changed.
    pub updated_at: Option<DateTime<Utc>>,
    /// What else the answer held.
    pub extra: Extra,
}

/// A repository of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Repository {
    /// The id in SWR.
    pub repository_id: i64,
    /// The namespace's id.
    pub namespace_id: Option<i64>,
    /// The namespace's name.
    pub namespace_name: String,
    /// The name without the namespace; may contain slashes.
    pub name: String,
    /// The description, if any.
    pub description: Option<String>,
    /// Number of tags as the API gives it.
    pub tag_count: Option<i64>,
    /// Number of artifacts as the API gives it.
    pub artifact_count: Option<i64>,
    /// Number of pulls as the API gives it.
    pub pull_count: Option<i64>,
    /// When it was created.
    pub created_at: Option<DateTime<Utc>>,
    /// When it was last changed.
    pub updated_at: Option<DateTime<Utc>>,
    /// What else the answer held.
    pub extra: Extra,
}

/// An artifact of the list: a digest in a repository.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// The id in SWR; unique in the instance.
    pub artifact_id: i64,
    /// The repository's id.
    pub repository_id: i64,
    /// The namespace's id.
    pub namespace_id: Option<i64>,
    /// The repository's name, with or without the namespace; often left out.
    pub repository_name: Option<String>,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// `IMAGE`, `CHART`, ….
    pub kind: Option<String>,
    /// Media type of the config.
    pub media_type: Option<String>,
    /// Media type of the manifest.
    pub manifest_media_type: Option<String>,
    /// Size in bytes as the API gives it.
    pub size_bytes: Option<i64>,
    /// Last push.
    pub pushed_at: Option<DateTime<Utc>>,
    /// Last pull; `None` if never.
    pub pulled_at: Option<DateTime<Utc>>,
    /// Its tags; empty if untagged.
    pub tags: Vec<Tag>,
    /// What else the answer held.
    pub extra: Extra,
}

/// A tag of an artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct Tag {
    /// The id in SWR.
    pub tag_id: Option<i64>,
    /// The name; unique in the repository.
    pub name: String,
    /// When it was pushed.
    pub pushed_at: Option<DateTime<Utc>>,
    /// Last pull by this tag; `None` if never.
    pub pulled_at: Option<DateTime<Utc>>,
    /// What else the answer held.
    pub extra: Extra,
}

/// The rows of one page, and the values that had to be altered.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows, in the order of the answer.
    pub rows: Vec<T>,
    pub issues: Vec<DataIssue>,
}

impl<T> Page<T> {
    /// The number of rows, including those of this table that could not be stored.
    pub fn rows_given(&self, table: &str) -> u64 {
        let is_dropped =
            |issue: &&DataIssue| issue.table == table && issue.action == Action::DroppedRow;
        (self.rows.len() + self.issues.iter().filter(is_dropped).count()) as u64
    }

    /// Adds the rows and issues of the next page.
    pub fn append(&mut self, next: Page<T>) {
        self.rows.extend(next.rows);
        self.issues.extend(next.issues);
    }
}

impl<T> Default for Page<T> {
    fn default() -> Page<T> {
        Page {
            rows: Vec::new(),
            issues: Vec::new(),
        }
    }
}

/// The API's description of an instance (ShowInstance, api-swr2 swr_03_0003).
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceDescription {
    /// The name.
    pub name: Option<String>,
    /// The version, in a format that is not documented.
    pub version: Option<String>,
    /// `Initial`, `Creating`, `Running` or `Unavailable`.
    pub status: Option<String>,
    /// What had to be altered.
    pub issues: Vec<DataIssue>,
}

/// An instance in the list of a project's instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedInstance {
    /// Its id in SWR.
    pub swr_instance_id: String,
    /// The name.
    pub name: Option<String>,
    /// The version, in a format that is not documented.
    pub version: Option<String>,
    /// `Initial`, `Creating`, `Running` or `Unavailable`.
    pub status: Option<String>,
}
