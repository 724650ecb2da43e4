//! How the last runs ended, in the text format of Prometheus (0.0.4):
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.
//!
//! A job is over before it could be scraped, so all of it are gauges that say what the last run
//! did. The libraries for Prometheus keep counters of a process that lives on, and write
//! OpenMetrics, which node_exporter does not read.

use std::fs;
use std::io;
use std::path::Path;

use super::super::job::{Ending, TargetName};
use super::super::replace_file::{Mode, replace_file};
use crate::run::RunOutcome;

/// What it is on the wire.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Of all metrics the one that outlives a run.
const LAST_SUCCESS: &str = "swr_sync_last_success_timestamp_seconds";

/// Values, each with the labels it has beside those of the target.
type Values = Vec<(Vec<(&'static str, String)>, f64)>;

/// A metric. The documentation's table is made of these.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    values: fn(&Ending<'_>) -> Values,
}

const METRICS: [Metric; 17] = [
    Metric {
        name: "swr_sync_build_info",
        help: "1, with the version of swr-sync.",
        values: |_| vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
    },
    Metric {
        name: LAST_SUCCESS,
        help: "When a run last published; kept while later runs do not.",
        values: |ending| match ending.is(RunOutcome::Published) {
            true => one(ended_at(ending)),
            false => Vec::new(),
        },
    },
    Metric {
        name: "swr_sync_last_run_timestamp_seconds",
        help: "When the last run ended.",
        values: |ending| one(ended_at(ending)),
    },
    Metric {
        name: "swr_sync_last_run_exit_code",
        help: "The exit code of the last run.",
        values: |ending| one(f64::from(ending.exit as u8)),
    },
    Metric {
        name: "swr_sync_last_run_duration_seconds",
        help: "How long the last run took.",
        values: |ending| one(ending.elapsed.as_secs_f64()),
    },
    Metric {
        name: "swr_sync_last_run_requests",
        help: "Requests of the last run, by what they asked for and the HTTP status; `error` where no answer came.",
        values: |ending| {
            let counts = ending
                .counters
                .map(|counters| &counters.requests.by_kind_and_status);
            let by_kind_and_status = counts.into_iter().flatten();
            by_kind_and_status
                .map(|((kind, status), count)| {
                    let status =
                        status.map_or_else(|| "error".to_owned(), |status| status.to_string());
                    let labels = vec![("kind", kind.as_str().to_owned()), ("status", status)];
                    (labels, *count as f64)
                })
                .collect()
        },
    },
    Metric {
        name: "swr_sync_last_run_retries",
        help: "Requests of the last run that repeated an earlier one.",
        values: |ending| counter(ending.counters.map(|counters| counters.requests.retries)),
    },
    Metric {
        name: "swr_sync_last_run_throttled_requests",
        help: "Requests of the last run that were throttled (429).",
        values: |ending| {
            counter(
                ending
                    .counters
                    .map(|counters| counters.requests.throttled()),
            )
        },
    },
    Metric {
        name: "swr_sync_last_run_catalog_pages",
        help: "Pages of namespaces and repositories in the last run.",
        values: |ending| counter(ending.counters.map(|counters| counters.catalog_pages)),
    },
    Metric {
        name: "swr_sync_last_run_pages",
        help: "Pages of the artifact list in the last run.",
        values: |ending| counter(ending.counters.map(|counters| counters.pages)),
    },
    Metric {
        name: "swr_sync_last_run_artifacts_listed",
        help: "Artifacts in the last listing.",
        values: |ending| counter(ending.counters.map(|counters| counters.artifacts_listed)),
    },
    Metric {
        name: "swr_sync_last_run_artifacts",
        help: "Artifacts by how they differ from the listing before: new, changed, removed, unchanged.",
        values: |ending| {
            let counters = ending.counters;
            by(
                "change",
                counters.map(|counters| {
                    [
                        ("new", counters.artifacts_new),
                        ("changed", counters.artifacts_changed),
                        ("removed", counters.artifacts_removed),
                        ("unchanged", counters.artifacts_unchanged),
                    ]
                }),
            )
        },
    },
    Metric {
        name: "swr_sync_last_run_tags",
        help: "Tags by how they differ from the listing before: new, moved, removed.",
        values: |ending| {
            let counters = ending.counters;
            by(
                "change",
                counters.map(|counters| {
                    [
                        ("new", counters.tags_new),
                        ("moved", counters.tags_moved),
                        ("removed", counters.tags_removed),
                    ]
                }),
            )
        },
    },
    Metric {
        name: "swr_sync_last_run_histories",
        help: "Build histories by what became of them: fetched, reused, unsupported, gone, failed, skipped.",
        values: |ending| {
            let counters = ending.counters;
            by(
                "outcome",
                counters.map(|counters| {
                    [
                        ("fetched", counters.histories_fetched),
                        ("reused", counters.histories_reused),
                        ("unsupported", counters.histories_unsupported),
                        ("gone", counters.histories_gone),
                        ("failed", counters.histories_failed),
                        ("skipped", counters.histories_skipped),
                    ]
                }),
            )
        },
    },
    Metric {
        name: "swr_sync_last_run_rows_written",
        help: "Rows of fact tables that the last run inserted or updated.",
        values: |ending| counter(ending.counters.map(|counters| counters.rows_written)),
    },
    Metric {
        name: "swr_sync_last_run_data_issues",
        help: "Values that the last run had to alter, recorded for the first time.",
        values: |ending| counter(ending.counters.map(|counters| counters.data_issues)),
    },
    Metric {
        name: "swr_sync_last_run_dry_run",
        help: "1 if the last run was told not to publish.",
        values: |ending| {
            let is_dry_run = ending.is(RunOutcome::DryRun);
            one(f64::from(u8::from(is_dry_run)))
        },
    },
];

fn one(value: f64) -> Values {
    vec![(Vec::new(), value)]
}

fn counter(count: Option<u64>) -> Values {
    count.map(|count| one(count as f64)).unwrap_or_default()
}

fn by<const N: usize>(label: &'static str, counts: Option<[(&'static str, u64); N]>) -> Values {
    let counts = counts.into_iter().flatten();
    counts
        .map(|(value, count)| (vec![(label, value.to_owned())], count as f64))
        .collect()
}

/// Seconds since 1970, to the millisecond.
fn ended_at(ending: &Ending<'_>) -> f64 {
    let elapsed_ms = ending.elapsed.as_millis() as i64;
    (ending.started_at.timestamp_millis() + elapsed_ms) as f64 / 1_000.0
}

/// What there is to say about one job.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    /// Lines of samples, for each of [`METRICS`].
    samples: Vec<Vec<String>>,
    targets: Vec<Labels>,
    /// Whether the settings could be read, so that these are all targets.
    is_complete: bool,
}

/// A target, as labels.
#[derive(Debug, Clone)]
struct Labels {
    /// The first of them.
    project_id: String,
    is_instance: bool,
    all: String,
}

impl Labels {
    fn of(target: &TargetName) -> Labels {
        let TargetName {
            source,
            project_id,
            swr_instance_id,
            ..
        } = target;
        let mut all = label("project_id", project_id);
        for (name, value) in [("swr_instance_id", swr_instance_id), ("source", source)] {
            if let Some(value) = value {
                all.push(',');
                all.push_str(&label(name, value));
            }
        }
        Labels {
            project_id: label("project_id", project_id),
            is_instance: swr_instance_id.is_some(),
            all,
        }
    }
}

impl Metrics {
    pub(super) fn of(endings: &[Ending<'_>]) -> Metrics {
        let samples = METRICS.iter().map(|metric| {
            let mut lines = Vec::new();
            for ending in endings {
                let target = ending.target.map(|target| Labels::of(target).all);
                for (labels, value) in (metric.values)(ending) {
                    let labels = labels.iter().map(|(name, value)| label(name, value));
                    let labels: Vec<String> = target.iter().cloned().chain(labels).collect();
                    lines.push(sample(metric.name, &labels.join(","), value));
                }
            }
            lines
        });
        Metrics {
            samples: samples.collect(),
            targets: endings
                .iter()
                .filter_map(|ending| ending.target.map(Labels::of))
                .collect(),
            is_complete: endings.iter().all(|ending| ending.target.is_some()),
        }
    }

    /// The text format.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (Metric { name, help, .. }, lines) in METRICS.iter().zip(&self.samples) {
            if lines.is_empty() {
                continue;
            }
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    /// Takes the times of the last success from the file before this one, where there is no newer
    /// one: of the targets of this job, and of those it could not find out about. Others are no
    /// longer mirrored, and would alert permanently.
    fn keep_last_success(&mut self, before: &str) {
        let Some(index) = METRICS
            .iter()
            .position(|metric| metric.name == LAST_SUCCESS)
        else {
            return;
        };
        for line in before.lines() {
            let is_kept = name_of(line) == LAST_SUCCESS
                && self.is_about_us(line)
                && !self.samples[index]
                    .iter()
                    .any(|ours| series_of(ours) == series_of(line));
            if is_kept {
                self.samples[index].push(line.to_owned());
            }
        }
    }

    fn is_about_us(&self, line: &str) -> bool {
        !self.is_complete
            || self.targets.iter().any(|target| match target.is_instance {
                true => labels_of(line) == target.all,
                // The project did not say which instances it has.
                false => labels_of(line).starts_with(&target.project_id),
            })
    }
}

fn sample(name: &str, labels: &str, value: f64) -> String {
    if labels.is_empty() {
        format!("{name} {value}")
    } else {
        format!("{name}{{{labels}}} {value}")
    }
}

fn label(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// What a line is a sample of: all but its value.
fn series_of(line: &str) -> &str {
    line.rsplit_once(' ').map_or(line, |(series, _)| series)
}

fn name_of(line: &str) -> &str {
    series_of(line).split('{').next().unwrap_or_default()
}

fn labels_of(line: &str) -> &str {
    let series = series_of(line);
    series
        .split_once('{')
        .and_then(|(_, labels)| labels.strip_suffix('}'))
        .unwrap_or_default()
}

/// Puts the file in place at once, readable for whoever collects it.
pub(super) fn write(file: &Path, mut metrics: Metrics) -> io::Result<()> {
    match fs::read_to_string(file) {
        Ok(before) => metrics.keep_last_success(&before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // It is to be replaced, whatever it is.
        Err(error) => tracing::warn!("the metrics file before this one cannot be read: {error}"),
    }
    replace_file(file, metrics.text().as_bytes(), Mode::Exactly(0o644))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::exit::{Exit, Failure};

    fn target(project_id: &str, instance: Option<&str>) -> TargetName {
        TargetName {
            source: None,
            region: None,
            endpoint: "https://swr.example".to_owned(),
            project_id: project_id.to_owned(),
            swr_instance_id: instance.map(str::to_owned),
        }
    }

    fn failed<'a>(target: Option<&'a TargetName>, failure: &'a Failure) -> Ending<'a> {
        Ending {
            target,
            started_at: "2026-03-01T12:00:00Z".parse().unwrap(),
            elapsed: Duration::from_millis(1_250),
            run_id: None,
            exit: failure.exit,
            counters: None,
            result: Err(failure),
        }
    }

    #[test]
    fn labels_are_escaped() {
        let failure = Failure::new(Exit::Database, "no");
        let target = target("a\"b\\c\nd", Some("i"));
        let text = Metrics::of(&[failed(Some(&target), &failure)]).text();
        let expected =
            r#"swr_sync_last_run_exit_code{project_id="a\"b\\c\nd",swr_instance_id="i"} 5"#;
        assert!(text.lines().any(|line| line == expected), "{text}");
    }

    #[test]
    fn a_last_success_is_kept_for_whom_the_job_was_about_and_no_longer() {
        let before = r#"# TYPE swr_sync_last_success_timestamp_seconds gauge
swr_sync_last_success_timestamp_seconds{project_id="p",swr_instance_id="a"} 1
swr_sync_last_success_timestamp_seconds{project_id="p",swr_instance_id="b"} 2
swr_sync_last_success_timestamp_seconds{project_id="pq",swr_instance_id="c"} 3
swr_sync_last_run_exit_code{project_id="p",swr_instance_id="a"} 0
"#;
        let failure = Failure::new(Exit::SourceUnavailable, "no");
        let kept = |target: Option<&TargetName>| {
            let mut metrics = Metrics::of(&[failed(target, &failure)]);
            metrics.keep_last_success(before);
            let text = metrics.text();
            let lines = text.lines().filter(|line| name_of(line) == LAST_SUCCESS);
            let values = lines.filter_map(|line| line.rsplit_once(' '));
            values.map(|(_, value)| value).collect::<Vec<_>>().concat()
        };
        assert_eq!(kept(Some(&target("p", Some("a")))), "1");
        assert_eq!(kept(Some(&target("p", Some("d")))), "");
        // A project that did not give its instances, and settings that could not be read.
        assert_eq!(kept(Some(&target("p", None))), "12");
        assert_eq!(kept(None), "123");
    }
}
