//! The filters of reports, and their SQL.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::Report;

/// A filter of reports; on the command line, the option with this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// An instance, by its id in SWR or its name.
    Instance,
    /// A namespace.
    Namespace,
    /// A repository, by its name without the namespace.
    Repository,
    /// Digests of manifests.
    Digest,
    /// How long ago the last use was.
    OlderThan,
    /// A time.
    At,
}

impl Filter {
    /// The place of the value in the query of a function.
    fn argument(self) -> Option<&'static str> {
        match self {
            Filter::Digest => Some("{digests}"),
            Filter::OlderThan => Some("{older-than}"),
            Filter::At => Some("{at}"),
            Filter::Instance | Filter::Namespace | Filter::Repository => None,
        }
    }

    /// The default argument of a function; digests have none.
    fn default_argument(self) -> Option<&'static str> {
        match self {
            Filter::OlderThan => Some("interval '90 days'"),
            Filter::At => Some("now()"),
            Filter::Digest | Filter::Instance | Filter::Namespace | Filter::Repository => None,
        }
    }

    /// The condition on the rows of a view.
    pub(super) fn condition(self, literal: &str) -> String {
        match self {
            Filter::Instance => format!(
                "instance_id in (select instance_id from swr.instance where {literal} in (swr_instance_id, name))"
            ),
            Filter::Namespace => format!("namespace = {literal}"),
            Filter::Repository => format!("repository = {literal}"),
            Filter::Digest => format!("digest = any ({literal})"),
            Filter::OlderThan => format!("last_used_at < now() - {literal}"),
            Filter::At => format!("valid_from <= {literal}"),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Filter::Instance => "--instance",
            Filter::Namespace => "--namespace",
            Filter::Repository => "--repository",
            Filter::Digest => "--digest",
            Filter::OlderThan => "--older-than",
            Filter::At => "--at",
        })
    }
}

/// Values of filters; a filter without a value does not restrict the result.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each is described at its filter")]
pub struct FilterValues {
    pub instance: Option<String>,
    pub namespace: Option<String>,
    pub repository: Option<String>,
    pub digests: Vec<String>,
    pub older_than: Option<Duration>,
    pub at: Option<DateTime<Utc>>,
    /// Whether the database was asked what the values mean. Until then, a repository with a slash may be a
    /// path.
    pub is_resolved: bool,
}

impl FilterValues {
    fn may_be_path(&self) -> bool {
        let repository = self.repository.as_deref();
        !self.is_resolved && repository.is_some_and(|name| name.contains('/'))
    }

    /// The value of a filter as SQL.
    fn literal(&self, filter: Filter) -> Option<String> {
        match filter {
            Filter::Instance => self.instance.as_deref().map(quoted),
            Filter::Namespace => self.namespace.as_deref().map(quoted),
            Filter::Repository => self.repository.as_deref().map(quoted),
            Filter::Digest if self.digests.is_empty() => None,
            Filter::Digest => {
                let digests: Vec<String> = self.digests.iter().map(|text| quoted(text)).collect();
                Some(format!("array[{}]", digests.join(", ")))
            }
            Filter::OlderThan => self.older_than.map(interval),
            Filter::At => self.at.map(timestamp),
        }
    }
}

/// Why the filters do not fit the report.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// The report has no such filter.
    #[error("the report `{report}` does not support {filter}")]
    Unknown {
        report: &'static str,
        filter: Filter,
    },
    /// The report requires this filter.
    #[error("the report `{report}` needs {filter}")]
    Missing {
        report: &'static str,
        filter: Filter,
    },
}

const ALL: [Filter; 6] = [
    Filter::Instance,
    Filter::Namespace,
    Filter::Repository,
    Filter::Digest,
    Filter::OlderThan,
    Filter::At,
];

impl Report {
    /// The query with literal values, to run or to copy; a limit of 0 means none.
    pub fn query(&self, values: &FilterValues, limit: u64) -> Result<String, FilterError> {
        let report = self.name;
        let mut sql = self.sql.to_owned();
        let mut conditions = Vec::new();
        for filter in ALL {
            let literal = values.literal(filter);
            if !self.filters.contains(&filter) {
                match literal {
                    Some(_) => return Err(FilterError::Unknown { report, filter }),
                    None => continue,
                }
            }
            if let Some(argument) = filter.argument().filter(|name| sql.contains(name)) {
                let literal = literal.or(filter.default_argument().map(str::to_owned));
                let literal = literal.ok_or(FilterError::Missing { report, filter })?;
                sql = sql.replace(argument, &literal);
            } else if let Some(literal) = literal {
                conditions.push(match filter {
                    Filter::Repository if values.may_be_path() => {
                        format!("{literal} in (repository, namespace || '/' || repository)")
                    }
                    _ => filter.condition(&literal),
                });
            }
        }
        if !conditions.is_empty() {
            sql.push_str(&format!("\nwhere {}", conditions.join(" and ")));
        }
        sql.push_str(&format!("\norder by {}", self.order_by));
        if limit > 0 {
            sql.push_str(&format!("\nlimit {limit}"));
        }
        Ok(sql)
    }
}

/// Text as a literal, regardless of `standard_conforming_strings`: the only way for the user's
/// text into a query.
pub(crate) fn quoted(text: &str) -> String {
    let text = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\"))
    } else {
        format!("'{text}'")
    }
}

fn interval(duration: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    match duration.as_secs() {
        seconds if seconds % DAY == 0 => format!("interval '{} days'", seconds / DAY),
        seconds => format!("interval '{seconds} seconds'"),
    }
}

fn timestamp(at: DateTime<Utc>) -> String {
    let text = at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    format!("timestamptz '{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{REPORTS, find};

    #[test]
    fn text_is_quoted_so_that_it_cannot_end_its_literal() {
        for (text, literal) in [
            ("plain", "'plain'"),
            ("o'hara", "'o''hara'"),
            ("'; drop schema swr; --", "'''; drop schema swr; --'"),
            ("back\\slash'", "E'back\\\\slash'''"),
            ("", "''"),
        ] {
            assert_eq!(quoted(text), literal);
        }
    }

    #[test]
    fn a_filter_is_a_condition_on_a_view_and_an_argument_of_a_function() {
        let values = FilterValues {
            namespace: Some("shop".to_owned()),
            older_than: Some(Duration::from_secs(36 * 60 * 60)),
            ..FilterValues::default()
        };
        let query = |name: &str| find(name).unwrap().query(&values, 5).unwrap();
        let stale = query("stale_artifact");
        let end = "
from swr_report.stale_artifact(interval '129600 seconds')
where namespace = 'shop'
order by size_bytes desc nulls last, artifact_id
limit 5";
        assert!(stale.ends_with(end), "{stale}");
        let untagged = query("untagged_artifact");
        let condition =
            "where namespace = 'shop' and last_used_at < now() - interval '129600 seconds'";
        assert!(untagged.contains(condition), "{untagged}");
    }

    #[test]
    fn a_report_refuses_a_filter_it_does_not_have_and_names_the_one_it_needs() {
        let values = FilterValues {
            namespace: Some("shop".to_owned()),
            ..FilterValues::default()
        };
        assert_eq!(
            find("layer_usage").unwrap().query(&values, 0),
            Err(FilterError::Unknown {
                report: "layer_usage",
                filter: Filter::Namespace
            })
        );
        assert_eq!(
            find("built_on").unwrap().query(&values, 0),
            Err(FilterError::Missing {
                report: "built_on",
                filter: Filter::Digest
            })
        );
    }

    #[test]
    fn no_argument_is_left_open() {
        let values = FilterValues {
            digests: vec!["sha256:00".to_owned()],
            ..FilterValues::default()
        };
        for report in REPORTS {
            let values = match report.filters.contains(&Filter::Digest) {
                true => values.clone(),
                false => FilterValues::default(),
            };
            let sql = report.query(&values, 0).unwrap();
            assert!(!sql.contains('{'), "{sql}");
        }
    }
}
