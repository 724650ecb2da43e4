//! The data of the page, read in one snapshot.

use std::io;

use chrono::{DateTime, NaiveDate, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::filter::{Filter, quoted};
use crate::database::reader::{ReadError, Reader, ResultColumn, RowSink, Snapshot};
use crate::visible::visible;

/// Maximum number of rectangles in a treemap; smaller ones would be invisible.
const TREEMAP_NAMESPACES: u64 = 300;
const TREEMAP_REPOSITORIES: u64 = 1000;

/// Number of days in the chart of growth.
const GROWTH_DAYS: u64 = 400;

/// Options of the page.
#[derive(Debug)]
pub struct Options<'a> {
    /// Only this instance: its id in SWR, or its name.
    pub instance: Option<&'a str>,
    /// Only this namespace.
    pub namespace: Option<&'a str>,
    /// Rows of each table; 0 for all.
    pub limit: u64,
    /// The time shown on the page.
    pub made_at: DateTime<Utc>,
}

pub(super) struct Data {
    pub(super) freshness: Top<Freshness>,
    pub(super) totals: Totals,
    pub(super) namespaces: Top<Storage>,
    pub(super) repositories: Top<Storage>,
    pub(super) layers: Top<Layer>,
    pub(super) growth: Top<Day>,
    pub(super) use_by_namespace: Top<Use>,
    pub(super) stale: Top<Stale>,
    pub(super) bases: Top<Base>,
    pub(super) unknown_bases: Top<UnknownBase>,
    pub(super) rules: Top<Rule>,
    pub(super) findings: Top<Finding>,
}

impl Data {
    /// Reads all data in one snapshot, of one instance or namespace if these are given, up to `limit` rows
    /// of each table; 0 for all.
    pub(super) async fn read(
        reader: &mut Reader,
        options: &Options<'_>,
    ) -> Result<Data, ReadError> {
        let limit = match options.limit {
            0 => u64::MAX >> 1,
            limit => limit,
        };
        let condition = |filter: Filter, value: Option<&str>| match value {
            Some(value) => filter.condition(&quoted(value)),
            None => "true".to_owned(),
        };
        let only = condition(Filter::Instance, options.instance);
        let here = format!(
            "{only} and {}",
            condition(Filter::Namespace, options.namespace)
        );
        // They have no namespace of their own.
        let (unknown_bases, of_commands) = match options.namespace {
            Some(_) => ("false", COMMANDS_HERE),
            None => ("true", "true"),
        };
        let layers = match options.namespace {
            Some(_) => NAMESPACE_LAYERS,
            None => ALL_LAYERS,
        };
        let mut snapshot = reader.snapshot().await?;
        let mut reader = Tables {
            snapshot: &mut snapshot,
            only,
            here,
            layers,
            unknown_bases,
            of_commands,
        };
        let totals: Top<Totals> = reader.read(TOTALS, "artifacts", 1).await?;
        let data = Data {
            freshness: reader.read(FRESHNESS, "instance", limit).await?,
            totals: totals.rows.into_iter().next().unwrap_or_default(),
            namespaces: reader
                .read(
                    NAMESPACES,
                    "exclusive_bytes desc, instance, name",
                    limit.max(TREEMAP_NAMESPACES),
                )
                .await?,
            repositories: reader
                .read(
                    REPOSITORIES,
                    "exclusive_bytes desc, instance, namespace, name",
                    limit.max(TREEMAP_REPOSITORIES),
                )
                .await?,
            layers: reader
                .read(LAYERS, "saved_bytes desc nulls last, instance, digest", limit)
                .await?,
            growth: reader.read(GROWTH, "day desc", GROWTH_DAYS).await?,
            use_by_namespace: reader
                .read(USE, "stale_bytes desc, bytes desc, instance, namespace", limit)
                .await?,
            stale: reader
                .read(
                    STALE,
                    "exclusive_bytes desc nulls last, total_bytes desc nulls last, instance, digest, repository",
                    limit,
                )
                .await?,
            bases: reader
                .read(BASES, "images desc, repositories desc, instance, digest", limit)
                .await?,
            unknown_bases: reader
                .read(
                    UNKNOWN_BASES,
                    "images desc, repositories desc, instance, example_digest",
                    limit,
                )
                .await?,
            rules: reader
                .read(RULES, &format!("{BY_SEVERITY}, commands desc, rule"), limit)
                .await?,
            findings: reader
                .read(
                    FINDINGS,
                    &format!("{BY_SEVERITY}, artifacts desc, instance, rule, command_id"),
                    limit,
                )
                .await?,
        };
        snapshot.end().await?;
        Ok(data)
    }
}

/// The first rows of a result.
#[derive(Debug)]
pub(super) struct Top<T> {
    pub(super) rows: Vec<T>,
    /// Total number of rows.
    pub(super) total: u64,
}

struct Tables<'a, 'c> {
    snapshot: &'a mut Snapshot<'c>,
    /// The condition for the selected instance, for `{only}` in a query.
    only: String,
    /// The same with the selected namespace, for `{here}`.
    here: String,
    /// The layers of the selection, for `{layers}`.
    layers: &'static str,
    /// Conditions for bases that are not in the registry, and for commands.
    unknown_bases: &'static str,
    of_commands: &'static str,
}

impl Tables<'_, '_> {
    async fn read<T: DeserializeOwned>(
        &mut self,
        sql: &str,
        order_by: &str,
        limit: u64,
    ) -> Result<Top<T>, ReadError> {
        let sql = sql
            .replace("{layers}", self.layers)
            .replace("{unknown_bases}", self.unknown_bases)
            .replace("{of_commands}", self.of_commands);
        let sql = sql
            .replace("{only}", &self.only)
            .replace("{here}", &self.here);
        let sql = format!(
            "select count(*) over () as total, row_to_json(q) as row from ({sql}) q order by {order_by} limit {limit}"
        );
        let mut sink = TopSink(Top {
            rows: Vec::new(),
            total: 0,
        });
        self.snapshot.read(&sql, &mut sink).await?;
        Ok(sink.0)
    }
}

/// Reads rows of a count and a JSON object.
struct TopSink<T>(Top<T>);

impl<T: DeserializeOwned> RowSink for TopSink<T> {
    fn columns(&mut self, _: Vec<ResultColumn>) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        if let [Some(total), Some(row)] = values {
            self.0.total = total.parse().map_err(io::Error::other)?;
            self.0.rows.push(serde_json::from_str(row)?);
        }
        Ok(())
    }
}

/// Maximum length of text; names are shorter, errors are cut.
const TEXT_CHARS: usize = 300;

/// Text from the registry, shortened and without control characters. (The template
/// escapes it for HTML.)
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String")]
pub(super) struct Text(pub(super) String);

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(match text.char_indices().nth(TEXT_CHARS) {
            Some((end, _)) => format!("{}…", visible(&text[..end])),
            None => visible(&text).into_owned(),
        })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Freshness {
    pub(super) instance: Text,
    pub(super) last_published_at: Option<DateTime<Utc>>,
    pub(super) as_of: Option<DateTime<Utc>>,
    pub(super) age_seconds: Option<i64>,
    pub(super) failures_since: i64,
    pub(super) last_error: Option<Text>,
    pub(super) histories_waiting: i64,
}

const FRESHNESS: &str = "
select instance, last_published_at, as_of, extract(epoch from age)::bigint as age_seconds, failures_since,
       last_error, histories_waiting
from swr_report.freshness
where {only}";

/// The registry in numbers.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Totals {
    pub(super) namespaces: i64,
    pub(super) repositories: i64,
    pub(super) artifacts: i64,
    pub(super) logical_bytes: i64,
    pub(super) unknown_bytes: i64,
    pub(super) layers: i64,
    pub(super) layer_bytes: i64,
    pub(super) stale_artifacts: i64,
    pub(super) stale_bytes: i64,
    pub(super) used_bytes: i64,
    pub(super) untagged_artifacts: i64,
    pub(super) untagged_exclusive_bytes: i64,
    pub(super) images: i64,
    pub(super) images_with_base: i64,
}

const TOTALS: &str = "
select *
from (
    select
        count(*) as namespaces,
        coalesce(sum(repositories), 0)::bigint as repositories,
        coalesce(sum(artifacts), 0)::bigint as artifacts,
        coalesce(swr.total_bytes(sum(logical_bytes)), 0) as logical_bytes,
        coalesce(swr.total_bytes(sum(unknown_bytes)), 0) as unknown_bytes
    from swr_report.storage_by_namespace
    where {here}
) n
cross join (
    select count(*) as layers, coalesce(swr.total_bytes(sum(size_bytes)), 0) as layer_bytes
    from ({layers}) l
) l
cross join (
    select
        count(*) filter (where greatest(pushed_at, pulled_at) < now() - interval '90 days') as stale_artifacts,
        coalesce(swr.total_bytes(sum(total_bytes) filter (where greatest(pushed_at, pulled_at) < now() - interval '90 days')), 0)
            as stale_bytes,
        coalesce(swr.total_bytes(sum(total_bytes)), 0) as used_bytes
    from swr_report.artifact_size
    where {here}
) s
cross join (
    select count(*) as untagged_artifacts, coalesce(swr.total_bytes(sum(exclusive_bytes)), 0) as untagged_exclusive_bytes
    from swr_report.untagged_artifact
    where {here}
) u
cross join (
    select count(*) as images, count(base_digest) as images_with_base
    from swr_report.base_image
    where {here}
) b";

/// A namespace or a repository with its size.
#[derive(Debug, Deserialize)]
pub(super) struct Storage {
    pub(super) instance: Text,
    /// For a repository.
    pub(super) namespace: Option<Text>,
    pub(super) name: Option<Text>,
    /// For a namespace.
    pub(super) repositories: Option<i64>,
    pub(super) artifacts: i64,
    pub(super) logical_bytes: i64,
    pub(super) layer_bytes: i64,
    pub(super) shared_bytes: i64,
    pub(super) exclusive_bytes: i64,
    pub(super) last_pushed_at: Option<DateTime<Utc>>,
    pub(super) last_pulled_at: Option<DateTime<Utc>>,
}

const NAMESPACES: &str = "
select instance, namespace as name, repositories, artifacts, logical_bytes, layer_bytes, shared_bytes,
       exclusive_bytes, last_pushed_at, last_pulled_at
from swr_report.storage_by_namespace
where {here}";

const REPOSITORIES: &str = "
select instance, namespace, repository as name, artifacts, logical_bytes, layer_bytes, shared_bytes,
       exclusive_bytes, last_pushed_at, last_pulled_at
from swr_report.storage_by_repository
where {here}";

#[derive(Debug, Deserialize)]
pub(super) struct Layer {
    pub(super) instance: Text,
    pub(super) digest: Text,
    pub(super) size_bytes: Option<i64>,
    pub(super) artifacts: i64,
    pub(super) repositories: i64,
    pub(super) saved_bytes: Option<i64>,
}

const LAYERS: &str = "
select instance, layer_digest as digest, size_bytes, artifacts, repositories, saved_bytes
from ({layers}) l
where artifacts > 1";

const ALL_LAYERS: &str = "
    select instance, layer_digest, size_bytes, artifacts::bigint as artifacts, repositories, saved_bytes
    from swr_report.layer_usage
    where {only}";

/// The layers of a namespace, with what they save within it.
const NAMESPACE_LAYERS: &str = "
    select instance, layer_digest, size_bytes, sum(artifacts)::bigint as artifacts, count(*) as repositories,
           swr.total_bytes(size_bytes * (sum(artifacts) - 1)) as saved_bytes
    from swr_report.repository_layer
    where {here}
    group by instance, instance_id, layer_digest, layer_id, size_bytes";

/// A day with a push or a removal.
#[derive(Debug, Deserialize)]
pub(super) struct Day {
    pub(super) day: NaiveDate,
    pub(super) pushes: i64,
    pub(super) pushed_bytes: i64,
    pub(super) removals: i64,
    pub(super) removed_bytes: i64,
    pub(super) artifacts: i64,
    pub(super) logical_bytes: i64,
}

const GROWTH: &str = "
select
    day, pushes, pushed_bytes, removals, removed_bytes,
    (sum(pushes - removals) over (order by day))::bigint as artifacts,
    swr.total_bytes(sum(pushed_bytes::numeric - removed_bytes) over (order by day)) as logical_bytes
from (
    select
        day, sum(pushes)::bigint as pushes, swr.total_bytes(sum(pushed_bytes)) as pushed_bytes,
        sum(removals)::bigint as removals, swr.total_bytes(sum(removed_bytes)) as removed_bytes
    from swr_report.growth_by_day
    where {here} and day is not null
    group by day
) d";

/// Bytes of a namespace by the time since they were last pushed or pulled.
#[derive(Debug, Deserialize)]
pub(super) struct Use {
    pub(super) instance: Text,
    pub(super) namespace: Option<Text>,
    pub(super) artifacts: i64,
    pub(super) bytes: i64,
    pub(super) month_bytes: i64,
    pub(super) quarter_bytes: i64,
    pub(super) year_bytes: i64,
    pub(super) older_bytes: i64,
    pub(super) stale_artifacts: i64,
    pub(super) stale_bytes: i64,
}

const USE: &str = "
select
    instance, namespace, count(*) as artifacts,
    coalesce(swr.total_bytes(sum(total_bytes)), 0) as bytes,
    coalesce(swr.total_bytes(sum(total_bytes) filter (where unused_for <= interval '30 days')), 0) as month_bytes,
    coalesce(swr.total_bytes(sum(total_bytes) filter (where unused_for > interval '30 days' and unused_for <= interval '90 days')), 0)
        as quarter_bytes,
    coalesce(swr.total_bytes(sum(total_bytes) filter (where unused_for > interval '90 days' and unused_for <= interval '365 days')), 0)
        as year_bytes,
    coalesce(swr.total_bytes(sum(total_bytes) filter (where unused_for > interval '365 days')), 0) as older_bytes,
    count(*) filter (where unused_for > interval '90 days') as stale_artifacts,
    coalesce(swr.total_bytes(sum(total_bytes) filter (where unused_for > interval '90 days')), 0) as stale_bytes
from (
    select instance, instance_id, namespace, total_bytes, now() - greatest(pushed_at, pulled_at) as unused_for
    from swr_report.artifact_size
    where {here}
) a
group by instance, instance_id, namespace";

#[derive(Debug, Deserialize)]
pub(super) struct Stale {
    pub(super) instance: Text,
    pub(super) namespace: Option<Text>,
    pub(super) repository: Option<Text>,
    pub(super) digest: Text,
    pub(super) tags: Vec<Text>,
    pub(super) total_bytes: Option<i64>,
    pub(super) exclusive_bytes: Option<i64>,
    pub(super) pushed_at: Option<DateTime<Utc>>,
    pub(super) pulled_at: Option<DateTime<Utc>>,
}

const STALE: &str = "
select instance, namespace, repository, digest, tags, total_bytes, exclusive_bytes, pushed_at, pulled_at
from swr_report.artifact_size
where {here} and greatest(pushed_at, pulled_at) < now() - interval '90 days'";

/// An artifact that is a base of others.
#[derive(Debug, Deserialize)]
pub(super) struct Base {
    pub(super) instance: Text,
    pub(super) namespace: Option<Text>,
    pub(super) repository: Option<Text>,
    pub(super) digest: Text,
    pub(super) tags: Vec<Text>,
    pub(super) layer_bytes: Option<i64>,
    pub(super) pushed_at: Option<DateTime<Utc>>,
    pub(super) images: i64,
    pub(super) repositories: i64,
}

const BASES: &str = "
select instance, min(base_namespace) as namespace, min(base_repository) as repository, min(base_digest) as digest,
       min(base_tags) as tags, min(base_layer_bytes)::bigint as layer_bytes, min(base_pushed_at) as pushed_at,
       count(*) as images, count(distinct repository_id) as repositories
from swr_report.base_image
where {here} and base_artifact_id is not null
group by instance, instance_id, base_artifact_id";

/// Layers that images of several repositories begin with, without an artifact in the registry.
#[derive(Debug, Deserialize)]
pub(super) struct UnknownBase {
    pub(super) instance: Text,
    pub(super) layers: i64,
    pub(super) layer_bytes: Option<i64>,
    pub(super) images: i64,
    pub(super) repositories: i64,
    pub(super) example_namespace: Option<Text>,
    pub(super) example_repository: Option<Text>,
    pub(super) example_digest: Text,
}

const UNKNOWN_BASES: &str = "
select instance, layers, layer_bytes, artifacts as images, repositories, example_namespace, example_repository,
       example_digest
from swr_report.unknown_base
where {only} and repositories > 1 and {unknown_bases}";

/// The most severe first.
const BY_SEVERITY: &str = "array_position(array['high', 'medium', 'low', 'info'], severity)";

/// The commands with a finding in the selected namespace.
const COMMANDS_HERE: &str = "(instance_id, command_id) in (select instance_id, command_id from swr_report.artifact_finding where {here})";

/// A rule with findings.
#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    pub(super) severity: Text,
    pub(super) title: Text,
    pub(super) why: Text,
    pub(super) commands: i64,
    pub(super) occurrences: i64,
}

const RULES: &str = "
select rule, severity, title, why, count(*) as commands, sum(occurrences)::bigint as occurrences
from swr_report.build_command_finding
where {only} and {of_commands}
group by rule, severity, title, why";

/// A command with a finding; secrets in it are masked.
#[derive(Debug, Deserialize)]
pub(super) struct Finding {
    pub(super) instance: Text,
    pub(super) severity: Text,
    pub(super) title: Text,
    pub(super) command: Option<Text>,
    pub(super) artifacts: i64,
    pub(super) repositories: i64,
    pub(super) origin_namespace: Option<Text>,
    pub(super) origin_repository: Option<Text>,
    pub(super) origin_digest: Text,
    pub(super) origin_tags: Vec<Text>,
    pub(super) origin_position: i64,
}

const FINDINGS: &str = "
select instance, severity, rule, title, command, artifacts, repositories, origin_namespace, origin_repository,
       origin_digest, origin_tags, origin_position, command_id
from swr_report.build_command_finding
where {only} and {of_commands}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_hides_or_turns_round_is_spelt_out() {
        for (text, shown) in [
            ("team/api", "team/api"),
            ("größe 数", "größe 数"),
            ("a\u{202e}gpj.exe", "a\\u{202e}gpj.exe"),
            (
                "a\u{2066}b\u{2069}\u{200f}",
                "a\\u{2066}b\\u{2069}\\u{200f}",
            ),
            ("bell\u{7}\n", "bell\\u{7}\\u{a}"),
        ] {
            assert_eq!(Text::from(text.to_owned()).0, shown);
        }
        let long = Text::from("é".repeat(1000));
        assert_eq!(long.0.chars().count(), TEXT_CHARS + 1);
    }
}
