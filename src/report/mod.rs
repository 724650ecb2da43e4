//! Reports: questions about the registry, and the views that answer them.

mod filter;
pub mod html;
pub(crate) mod human;
mod render;
mod table;
mod xlsx;

pub(crate) use filter::quoted;
pub use filter::{Filter, FilterError, FilterValues};
pub use render::{CsvSink, Cut, Format, JsonSink, Limited};
pub use table::{Medium, Note, TableSink};
pub use xlsx::XlsxSink;

/// A question and the query that answers it.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// The name on the command line, and of the view or function.
    pub name: &'static str,
    pub question: &'static str,
    /// The columns to show, and the view or function. Arguments of a function
    /// are filters: `{digests}`, `{older-than}`, `{at}`.
    pub sql: &'static str,
    /// The order of rows.
    pub order_by: &'static str,
    /// The filters it supports.
    pub filters: &'static [Filter],
}

const PLACE: &[Filter] = &[Filter::Instance, Filter::Namespace, Filter::Repository];
const ARTIFACT: &[Filter] = &[
    Filter::Instance,
    Filter::Namespace,
    Filter::Repository,
    Filter::Digest,
];
const UNUSED: &[Filter] = &[
    Filter::Instance,
    Filter::Namespace,
    Filter::Repository,
    Filter::OlderThan,
];

/// All reports, in the order of the list.
pub const REPORTS: &[Report] = &[
    Report {
        name: "artifact",
        question: "What is in the registry?",
        sql: "select instance, namespace, repository, digest, tags, type, size_bytes, pushed_at, pulled_at, build_history, build_steps
from swr_report.artifact",
        order_by: "pushed_at desc nulls last, artifact_id",
        filters: ARTIFACT,
    },
    Report {
        name: "tag",
        question: "What does each tag point to?",
        sql: "select instance, namespace, repository, tag, digest, size_bytes, pushed_at, pulled_at
from swr_report.tag",
        // The order of an index, up to the repository.
        order_by: "instance_id, namespace, repository, tag",
        filters: ARTIFACT,
    },
    Report {
        name: "tag_at",
        question: "What did each tag point to at a given time (--at; now if none is given)?",
        sql: "select instance, namespace, repository, tag, digest, size_bytes, valid_from, valid_to
from swr_report.tag_at({at})",
        order_by: "instance, namespace, repository, tag",
        filters: &[
            Filter::Instance,
            Filter::Namespace,
            Filter::Repository,
            Filter::Digest,
            Filter::At,
        ],
    },
    Report {
        name: "build_history",
        question: "How was each image built?",
        sql: "select instance, namespace, repository, digest, position, created_at, empty_layer, layer_size_bytes, command
from swr_report.build_history",
        // The order of a key, so that the first rows are found immediately.
        order_by: "instance_id, artifact_id, position",
        filters: ARTIFACT,
    },
    Report {
        name: "namespace",
        question: "Which namespaces are there?",
        sql: "select instance, namespace, repositories, artifacts, tags, pull_count, created_at
from swr_report.namespace",
        order_by: "instance, namespace, instance_id, namespace_id",
        filters: &[Filter::Instance, Filter::Namespace],
    },
    Report {
        name: "repository",
        question: "Which repositories are there?",
        sql: "select instance, namespace, repository, artifacts, tags, pull_count, last_pushed_at, last_pulled_at, description
from swr_report.repository",
        order_by: "instance_id, namespace, repository, repository_id",
        filters: PLACE,
    },
    Report {
        name: "storage_by_instance",
        question: "How much space does each registry use?",
        sql: "select instance, namespaces, repositories, artifacts, logical_bytes, layer_bytes, unknown_bytes, last_pushed_at, last_pulled_at
from swr_report.storage_by_instance",
        order_by: "layer_bytes desc nulls last, instance, instance_id",
        filters: &[Filter::Instance],
    },
    Report {
        name: "storage_by_namespace",
        question: "Which namespaces use the most space, and how much of it do they share?",
        sql: "select instance, namespace, repositories, artifacts, logical_bytes, layer_bytes, shared_bytes, exclusive_bytes, share_bytes, unknown_bytes, last_pushed_at, last_pulled_at
from swr_report.storage_by_namespace",
        order_by: "exclusive_bytes desc nulls last, instance, namespace, instance_id",
        filters: &[Filter::Instance, Filter::Namespace],
    },
    Report {
        name: "storage_by_repository",
        question: "Which repositories use the most space, and how much of it do they share?",
        sql: "select instance, namespace, repository, artifacts, logical_bytes, layer_bytes, shared_bytes, exclusive_bytes, share_bytes, unknown_bytes, last_pushed_at, last_pulled_at
from swr_report.storage_by_repository",
        order_by: "exclusive_bytes desc nulls last, instance, namespace, repository, instance_id",
        filters: PLACE,
    },
    Report {
        name: "storage_history",
        question: "How much space did each namespace use in the past?",
        sql: "select instance, namespace, as_of, artifacts, logical_bytes, layer_bytes, share_bytes, unknown_bytes
from swr_report.storage_history",
        order_by: "run_id desc, instance, namespace, namespace_id",
        filters: &[Filter::Instance, Filter::Namespace],
    },
    Report {
        name: "artifact_size",
        question: "How large is each artifact, and how much space would deleting it free?",
        sql: "select instance, namespace, repository, digest, tags, total_bytes, layers, layer_bytes, shared_bytes, exclusive_bytes, pushed_at
from swr_report.artifact_size",
        order_by: "exclusive_bytes desc nulls last, artifact_id",
        filters: ARTIFACT,
    },
    Report {
        name: "layer_usage",
        question: "Which layers are shared by how many artifacts and repositories?",
        sql: "select instance, layer_digest, size_bytes, artifacts, repositories, saved_bytes
from swr_report.layer_usage",
        order_by: "saved_bytes desc nulls last, instance, layer_digest",
        filters: &[Filter::Instance],
    },
    Report {
        name: "repository_layer",
        question: "Which layers does each repository have, and what is its share of them?",
        sql: "select instance, namespace, repository, layer_digest, size_bytes, artifacts, repositories, share_bytes
from swr_report.repository_layer",
        order_by: "instance_id, namespace, repository, size_bytes desc nulls last, layer_digest",
        filters: PLACE,
    },
    Report {
        name: "reclaimable",
        question: "How much space would deleting these digests together free (one --digest for each)?",
        sql: "select instance, artifacts, logical_bytes, layers, reclaimable_bytes, unknown_bytes
from swr_report.reclaimable({digests})",
        order_by: "instance",
        filters: &[Filter::Instance, Filter::Digest],
    },
    Report {
        name: "stale_artifact",
        question: "Which artifacts were neither pushed nor pulled for 90 days?",
        sql: "select instance, namespace, repository, digest, tags, size_bytes, exclusive_bytes, may_be_in_index, pushed_at, pulled_at
from swr_report.stale_artifact({older-than})",
        order_by: "size_bytes desc nulls last, artifact_id",
        filters: UNUSED,
    },
    Report {
        name: "untagged_artifact",
        question: "Which artifacts are untagged?",
        sql: "select instance, namespace, repository, digest, type, size_bytes, exclusive_bytes, may_be_in_index, last_used_at
from swr_report.untagged_artifact",
        order_by: "exclusive_bytes desc nulls last, artifact_id",
        filters: UNUSED,
    },
    Report {
        name: "duplicate_artifact",
        question: "Which digests are in several repositories?",
        sql: "select instance, digest, type, repositories, size_bytes, repeated_bytes, places
from swr_report.duplicate_artifact",
        order_by: "repeated_bytes desc nulls last, instance, digest",
        filters: &[Filter::Instance, Filter::Digest],
    },
    Report {
        name: "base_image",
        question: "Which artifact is the exact base of each image?",
        sql: "select instance, namespace, repository, digest, tags, base_namespace, base_repository, base_tags, base_digest, base_layers, layers
from swr_report.base_image",
        order_by: "instance_id, namespace, repository, artifact_id",
        filters: ARTIFACT,
    },
    Report {
        name: "unknown_base",
        question: "Which base images in use are not in the registry?",
        sql: "select instance, layers, layer_bytes, artifacts, repositories, example_namespace, example_repository, example_digest, last_pushed_at
from swr_report.unknown_base",
        order_by: "repositories desc, artifacts desc, instance, chain_id",
        filters: &[Filter::Instance],
    },
    Report {
        name: "built_on",
        question: "Which images must be rebuilt when a base changes (--digest)?",
        sql: "select base_digest, instance, namespace, repository, digest, tags, is_direct, pushed_at, pulled_at
from unnest({digests}) as base (base_digest) cross join lateral swr_report.built_on(base_digest)",
        order_by: "base_digest, instance, namespace, repository, artifact_id",
        filters: ARTIFACT,
    },
    Report {
        name: "build_command_finding",
        question: "Which build commands contain secrets or security risks, and where do they come from?",
        sql: "select instance, severity, rule, title, artifacts, repositories, origin_namespace, origin_repository, origin_tags, origin_position, command
from swr_report.build_command_finding",
        order_by: "array_position(array['high', 'medium', 'low', 'info'], severity), artifacts desc, instance, rule, command_id",
        filters: &[Filter::Instance],
    },
    Report {
        name: "artifact_finding",
        question: "Which artifacts are affected by the findings in build commands?",
        sql: "select instance, namespace, repository, digest, tags, severity, rule, position, command
from swr_report.artifact_finding",
        order_by: "array_position(array['high', 'medium', 'low', 'info'], severity), instance, namespace, repository, artifact_id, position, rule",
        filters: ARTIFACT,
    },
    Report {
        name: "tag_move",
        question: "Which tags moved or were removed, and when?",
        sql: "select instance, namespace, repository, tag, moved_at, from_digest, to_digest
from swr_report.tag_move",
        order_by: "moved_at desc, instance, namespace, repository, tag",
        filters: PLACE,
    },
    Report {
        name: "change",
        question: "Which artifacts and tags did each run find added, changed, moved or removed?",
        sql: "select instance, run_id, change, namespace, repository, tag, digest, previous_digest, size_bytes, changed_at
from swr_report.change",
        order_by: "run_id desc, instance_id, artifact_id, change, tag",
        filters: ARTIFACT,
    },
    Report {
        name: "growth_by_day",
        question: "How does the registry grow?",
        sql: "select instance, namespace, day, pushes, pushed_bytes, removals, removed_bytes, artifacts, logical_bytes
from swr_report.growth_by_day",
        order_by: "day desc, instance, namespace",
        filters: &[Filter::Instance, Filter::Namespace],
    },
    Report {
        name: "history_failure",
        question: "Which build histories are missing, and why?",
        sql: "select instance, namespace, repository, digest, outcome, http_status, error_code, error_message, waiting_since, attempts, next_attempt_at
from swr_report.history_failure",
        order_by: "waiting_since, instance, namespace, repository, digest",
        filters: ARTIFACT,
    },
    Report {
        name: "freshness",
        question: "How old is the data?",
        sql: "select instance, last_published_at, as_of, age, failures_since, last_error, histories_waiting
from swr_report.freshness",
        order_by: "instance",
        filters: &[Filter::Instance],
    },
    Report {
        name: "data_issue",
        question: "Which values could not be stored unchanged?",
        sql: "select instance, \"table\", row_key, field, action, original, first_seen_at, first_seen_run_id
from swr_report.data_issue",
        order_by: "first_seen_at desc, instance, \"table\", row_key, field, action",
        filters: &[Filter::Instance],
    },
    Report {
        name: "verification",
        question: "Does the mirror agree with the registry?",
        sql: "select instance, verified_at, outcome, artifacts_compared, tags_compared, histories_compared, corrupt, changed, unlisted, differences
from swr_report.verification",
        order_by: "verified_at desc, instance",
        filters: &[Filter::Instance],
    },
];

pub fn find(name: &str) -> Option<&'static Report> {
    REPORTS.iter().find(|report| report.name == name)
}
