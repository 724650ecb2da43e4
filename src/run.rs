//! Types of a run: its counters and outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::build_history::HistoryFailures;
use crate::exit::Exit;

/// The kind of a request.
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
    /// By kind and status; the status is `None` if there was no response.
    pub by_kind_and_status: BTreeMap<(RequestKind, Option<u16>), u64>,
    /// Attempts after the first of a request.
    pub retries: u64,
}

impl RequestCounts {
    /// All requests.
    pub fn total(&self) -> u64 {
        self.count(|_, _| true)
    }

    /// All requests of one kind.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.count(|of, _| of == kind)
    }

    /// Answers with status 429.
    pub fn throttled(&self) -> u64 {
        self.count(|_, status| status == Some(429))
    }

    fn count(&self, is_counted: impl Fn(RequestKind, Option<u16>) -> bool) -> u64 {
        let counts = self.by_kind_and_status.iter();
        let counted = counts.filter(|((kind, status), _)| is_counted(*kind, *status));
        counted.map(|(_, count)| count).sum()
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

/// Passes the list of counters to a macro. A counter is a field of [`RunCounters`], and has the same
/// name as column of swr.sync_run, in the summary file and in the log. The counters of one entry
/// are one metric; those of an entry with `by` differ in a label.
///
/// `store::save_progress` repeats the column names, so that the statement is checked at compile time.
macro_rules! with_counters {
    ($callback:ident) => {
        $callback! {
            catalog_pages: "Pages of namespaces and repositories in the last run."
                [catalog_pages]
            pages: "Pages of the artifact list in the last run."
                [pages]
            artifacts_listed: "Artifacts in the last listing."
                [artifacts_listed]
            artifacts by change: "Artifacts by difference from the previous listing: new, changed, removed, unchanged."
                [artifacts_new artifacts_changed artifacts_removed artifacts_unchanged]
            tags by change: "Tags by difference from the previous listing: new, moved, removed."
                [tags_new tags_moved tags_removed]
            histories by outcome: "Build histories by outcome: fetched, reused, unsupported, gone, failed, skipped."
                [histories_fetched histories_reused histories_unsupported histories_gone histories_failed histories_skipped]
            rows_written: "Rows of fact tables that the last run inserted or updated."
                [rows_written]
            data_issues: "Values that the last run had to alter, recorded for the first time."
                [data_issues]
        }
    };
}
pub(crate) use with_counters;

macro_rules! define_counters {
    ($($metric:ident $(by $label:ident)?: $help:literal [$($name:ident)+])+) => {
        /// What a run did. Counts rows of tables unless the name says otherwise.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[expect(
            missing_docs,
            reason = "each is described at its column of swr.sync_run"
        )]
        pub struct RunCounters {
            pub requests: RequestCounts,
            $($(pub $name: u64,)+)+
        }

        /// All counters other than requests.
        pub(crate) const COUNTER_METRICS: &[CounterMetric] = &[$(
            CounterMetric {
                name: concat!("swr_sync_last_run_", stringify!($metric)),
                label: concat!("" $(, stringify!($label))?),
                help: $help,
                counters: &[$((stringify!($name), |counters| counters.$name)),+],
            }
        ),+];
    };
}
with_counters!(define_counters);

/// Counters as a metric.
pub(crate) struct CounterMetric {
    pub name: &'static str,
    /// The label; its value is the last word of the counter's name. Empty if there is none.
    pub label: &'static str,
    pub help: &'static str,
    /// The name of each counter, and how to read it.
    pub counters: &'static [(&'static str, ReadCounter)],
}

type ReadCounter = fn(&RunCounters) -> u64;

impl RunCounters {
    /// The exit code of a completed run.
    pub fn exit(&self) -> Exit {
        if self.histories_failed > 0 || self.histories_skipped > 0 {
            Exit::Partial
        } else {
            Exit::Success
        }
    }

    /// Build histories with a stored response of any kind.
    pub fn histories_done(&self) -> u64 {
        self.histories_fetched
            + self.histories_unsupported
            + self.histories_gone
            + self.histories_failed
    }

    /// As JSON, with the column names of swr.sync_run.
    pub fn to_json(&self) -> serde_json::Value {
        let requests = [
            ("requests", self.requests.to_json()),
            ("requests_total", self.requests.total().into()),
            ("retries", self.requests.retries.into()),
            ("throttled", self.requests.throttled().into()),
        ];
        let counters = COUNTER_METRICS.iter().flat_map(|metric| metric.counters);
        let counters = counters.map(|(name, read)| (*name, read(self).into()));
        requests.into_iter().chain(counters).collect()
    }
}

/// How a run ended, as stored in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// The listing was published.
    Published,
    /// Complete, but not published: a dry run.
    DryRun,
    /// Complete, and compared with the published data.
    Verified,
    /// Nothing was published.
    Failed,
    /// Stopped by a signal or the time limit; nothing was published.
    Stopped,
}

impl RunOutcome {
    /// The value in the run row.
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
    pub run_id: i64,
    /// How it ended.
    pub outcome: RunOutcome,
    pub counters: RunCounters,
    /// Why histories are missing.
    pub failures: HistoryFailures,
    /// How long it took.
    pub elapsed: Duration,
    /// The result of the verification; `None` for other runs.
    pub verification: Option<Verification>,
}

/// The result of a verification.
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

/// The verified run: the latest that published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedRun {
    pub run_id: i64,
    /// Start of that run: later changes in the registry may be missing in the tables.
    pub started_at: DateTime<Utc>,
    /// Histories it could not fetch, whose manifests may be missing.
    pub histories_missing: i64,
}

/// Rows that exist on both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Artifacts.
    pub artifacts: i64,
    /// Tags.
    pub tags: i64,
}

/// Results of the histories that were fetched again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoriesCompared {
    /// Compared with what is stored.
    pub compared: i64,
    /// Requests that failed.
    pub unavailable: i64,
}

/// Number of differences by verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Not explained by a change in the registry.
    pub corrupt: i64,
    /// Explained by a change in the registry.
    pub changed: i64,
    /// Rows that the registry no longer lists.
    pub unlisted: i64,
}
