//! The nouns of a run: what it counts, and how it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::build_history::HistoryFailures;
use crate::exit::Exit;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestKind {
    /// A token from IAM.
    Token,
    /// The description of the instance.
    Instance,
    /// A page of namespaces.
    Namespaces,
    /// A page of repositories.
    Repositories,
    /// A page of the artifact list.
    Artifacts,
    /// A build history.
    BuildHistory,
}

impl RequestKind {
    /// The name in logs and in the run row.
    pub fn as_str(self) -> &'static str {
        match self {
            RequestKind::Token => "token",
            RequestKind::Instance => "instance",
            RequestKind::Namespaces => "namespaces",
            RequestKind::Repositories => "repositories",
            RequestKind::Artifacts => "artifacts",
            RequestKind::BuildHistory => "build_history",
        }
    }
}

/// The requests of a run: each attempt counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// By kind and status; the status is `None` where no answer came.
    pub by_kind_and_status: BTreeMap<(RequestKind, Option<u16>), u64>,
    /// Attempts that repeated an earlier one.
    pub retries: u64,
}

impl RequestCounts {
    /// All requests.
    pub fn total(&self) -> u64 {
        self.by_kind_and_status.values().sum()
    }

    /// The requests of one kind, whatever came back.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.by_kind_and_status
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|(_, count)| count)
            .sum()
    }

    /// Answers with status 429.
    pub fn throttled(&self) -> u64 {
        self.by_kind_and_status
            .iter()
            .filter(|((_, status), _)| *status == Some(429))
            .map(|(_, count)| count)
            .sum()
    }

    /// As JSON, by kind and then status: `{"artifacts": {"200": 12}}`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut kinds = serde_json::Map::new();
        for ((kind, status), count) in &self.by_kind_and_status {
            let status = status.map_or_else(|| "error".to_owned(), |status| status.to_string());
            let statuses = kinds
                .entry(kind.as_str())
                .or_insert_with(|| serde_json::json!({}));
            if let Some(statuses) = statuses.as_object_mut() {
                statuses.insert(status, (*count).into());
            }
        }
        kinds.into()
    }
}

/// What a run did. Rows of tables unless the name says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is described at its column of swr.sync_run"
)]
pub struct RunCounters {
    pub requests: RequestCounts,
    pub catalog_pages: u64,
    pub pages: u64,
    pub artifacts_listed: u64,
    pub artifacts_new: u64,
    pub artifacts_changed: u64,
    pub artifacts_removed: u64,
    pub artifacts_unchanged: u64,
    pub tags_new: u64,
    pub tags_moved: u64,
    pub tags_removed: u64,
    pub histories_fetched: u64,
    pub histories_reused: u64,
    pub histories_unsupported: u64,
    pub histories_gone: u64,
    pub histories_failed: u64,
    pub histories_skipped: u64,
    pub data_issues: u64,
    pub rows_written: u64,
}

impl RunCounters {
    /// The exit code of a run that came to its end.
    pub fn exit(&self) -> Exit {
        if self.histories_failed > 0 || self.histories_skipped > 0 {
            Exit::Partial
        } else {
            Exit::Success
        }
    }
}

/// How a run ended, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// The listing is visible.
    Published,
    /// Complete, but not published because it was not asked for.
    DryRun,
    /// Complete, and compared with what is published.
    Verified,
    /// Nothing was published.
    Failed,
    /// Ended by a signal, or by the time limit; nothing was published.
    Stopped,
}

impl RunOutcome {
    /// The word in the run row.
    pub fn as_str(self) -> &'static str {
        match self {
            RunOutcome::Published => "published",
            RunOutcome::DryRun => "dry_run",
            RunOutcome::Verified => "verified",
            RunOutcome::Failed => "failed",
            RunOutcome::Stopped => "stopped",
        }
    }
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A finished run.
#[derive(Debug, Clone)]
pub struct RunReport {
    /// The number of the run.
    pub run_id: i64,
    /// How it ended.
    pub outcome: RunOutcome,
    /// What it did.
    pub counters: RunCounters,
    /// Why histories are missing.
    pub failures: HistoryFailures,
    /// How long it took.
    pub elapsed: Duration,
    /// What it found; `None` unless it verified.
    pub verification: Option<Verification>,
}

/// What a verification compared and found.
#[derive(Debug, Clone, Copy)]
pub struct Verification {
    /// The instance in the database.
    pub instance_id: i32,
    /// The run that was verified.
    pub verified: VerifiedRun,
    /// Rows of the listing that were compared.
    pub compared: Compared,
    /// Histories that were compared.
    pub histories: HistoriesCompared,
    /// What was found.
    pub verdict: Verdict,
}

impl Verification {
    /// The exit code of a verification.
    pub fn exit(&self) -> Exit {
        match self.verdict.corrupt {
            0 => Exit::Success,
            _ => Exit::DIFFERENT,
        }
    }
}

/// The run whose result is verified: the latest that published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedRun {
    /// The run.
    pub run_id: i64,
    /// When it started: what happened in the registry later may not be in the tables.
    pub started_at: DateTime<Utc>,
    /// Histories it could not fetch, whose manifests may be missing.
    pub histories_missing: i64,
}

/// Rows that were on both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Artifacts.
    pub artifacts: i64,
    /// Tags.
    pub tags: i64,
}

/// What came of the histories that were fetched again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoriesCompared {
    /// Compared with what is stored.
    pub compared: i64,
    /// Requested without success.
    pub unavailable: i64,
}

/// How many differences there are of each verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Not explained by a change of the registry.
    pub corrupt: i64,
    /// Explained by one.
    pub changed: i64,
    /// Rows that the registry no longer lists.
    pub unlisted: i64,
}
