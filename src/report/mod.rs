//! Reports: questions about the registry, and the views that answer them.

mod render;

pub use render::{CsvSink, Format, JsonSink, TableSink};

/// A question and the query that answers it.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// The name on the command line; also the view's.
    pub name: &'static str,
    /// What it answers.
    pub question: &'static str,
    /// The columns worth reading in a terminal, the view, and the order of rows.
    pub sql: &'static str,
}

/// All reports, in the order of the list.
pub const REPORTS: &[Report] = &[
    Report {
        name: "artifact",
        question: "What is in the registry?",
        sql: "select instance, namespace, repository, digest, tags, type, size_bytes, pushed_at, pulled_at, build_history, build_steps
from swr_report.artifact
order by pushed_at desc nulls last, artifact_id",
    },
    Report {
        name: "tag",
        question: "What does each tag point to?",
        sql: "select instance, namespace, repository, tag, digest, size_bytes, pushed_at, pulled_at
from swr_report.tag
order by instance, namespace, repository, tag",
    },
    Report {
        name: "build_history",
        question: "How was each image built?",
        sql: "select instance, namespace, repository, digest, position, created_at, empty_layer, layer_size_bytes, command
from swr_report.build_history
order by instance, namespace, repository, digest, artifact_id, position",
    },
    Report {
        name: "storage_by_repository",
        question: "Which repositories take the space, and how much of it do they share?",
        sql: "select instance, namespace, repository, artifacts, logical_bytes, layer_bytes, exclusive_bytes, last_pushed_at, last_pulled_at
from swr_report.storage_by_repository
order by exclusive_bytes desc, instance, namespace, repository",
    },
    Report {
        name: "stale_artifact",
        question: "What was neither pushed nor pulled for 90 days?",
        sql: "select instance, namespace, repository, digest, tags, size_bytes, pushed_at, pulled_at
from swr_report.stale_artifact('90 days')
order by size_bytes desc nulls last, artifact_id",
    },
    Report {
        name: "tag_move",
        question: "Which tags moved or went away, and when?",
        sql: "select instance, namespace, repository, tag, moved_at, from_digest, to_digest
from swr_report.tag_move
order by moved_at desc, instance, namespace, repository, tag",
    },
    Report {
        name: "history_failure",
        question: "Which build histories are missing, and why?",
        sql: "select instance, namespace, repository, digest, outcome, http_status, error_code, error_message, waiting_since, attempts, next_attempt_at
from swr_report.history_failure
order by waiting_since, instance, namespace, repository, digest",
    },
    Report {
        name: "freshness",
        question: "How old is what I see?",
        sql: "select instance, last_published_at, as_of, age, failures_since, last_error, histories_waiting
from swr_report.freshness
order by instance",
    },
];

/// The report of that name.
pub fn find(name: &str) -> Option<&'static Report> {
    REPORTS.iter().find(|report| report.name == name)
}
