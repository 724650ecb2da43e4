//! The results of the last runs, in the text format of Prometheus (0.0.4):
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.
//!
//! A job ends before it could be scraped, so all metrics are gauges about the last run.
//! The Prometheus libraries keep counters of a long-running process, and write
//! OpenMetrics, which node_exporter cannot read.

use std::fs;
use std::io;
use std::path::Path;

use super::super::job::InstanceReport;
use super::super::replace_file::{Mode, replace_file};
use super::super::source::Target;
use crate::run::{COUNTER_METRICS, CounterMetric, RequestCounts, RunCounters, RunOutcome};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The only metric that is kept after a failed run.
const LAST_SUCCESS: &str = "swr_sync_last_success_timestamp_seconds";

/// Values, each with its labels in addition to those of the target.
type Values = Vec<(Vec<(&'static str, String)>, f64)>;

type ReadValues = fn(&InstanceReport) -> Values;

/// Name, help and values of the metrics other than counters of a run. The last comes after the counters.
const METRICS: [(&str, &str, ReadValues); 9] = [
    (
        "swr_sync_build_info",
        "1, with the version of swr-sync.",
        |_| vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
    ),
    (
        LAST_SUCCESS,
        "When a run last published; kept while later runs do not.",
        |report| {
            let is_published = report.is(RunOutcome::Published);
            one(is_published.then(|| ended_at(report)))
        },
    ),
    (
        "swr_sync_last_run_timestamp_seconds",
        "When the last run ended.",
        |report| one(Some(ended_at(report))),
    ),
    (
        "swr_sync_last_run_exit_code",
        "The exit code of the last run.",
        |report| one(Some(f64::from(report.exit as u8))),
    ),
    (
        "swr_sync_last_run_duration_seconds",
        "How long the last run took.",
        |report| one(Some(report.elapsed.as_secs_f64())),
    ),
    (
        "swr_sync_last_run_requests",
        "Requests of the last run by kind and HTTP status; `error` if there was no response.",
        |report| {
            let requests = requests(report);
            requests.map(by_kind_and_status).unwrap_or_default()
        },
    ),
    (
        "swr_sync_last_run_retries",
        "Retries in the last run.",
        |report| one(requests(report).map(|requests| requests.retries as f64)),
    ),
    (
        "swr_sync_last_run_throttled_requests",
        "Requests of the last run that were throttled (429).",
        |report| one(requests(report).map(|requests| requests.throttled() as f64)),
    ),
    (
        "swr_sync_last_run_dry_run",
        "1 if the last run was a dry run.",
        |report| one(Some(f64::from(u8::from(report.is(RunOutcome::DryRun))))),
    ),
];

/// A metric with its samples, one per line.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    lines: Vec<String>,
}

/// All metrics, in the order of the table in the documentation.
fn metrics(reports: &[InstanceReport]) -> Vec<Metric> {
    let metric = |name, help, values: &dyn Fn(&InstanceReport) -> Values| Metric {
        name,
        help,
        lines: reports
            .iter()
            .flat_map(|report| samples(name, report.target.as_ref(), values(report)))
            .collect(),
    };
    let [first @ .., last] = METRICS.map(|(name, help, values)| metric(name, help, &values));
    let counters = COUNTER_METRICS.iter().map(|counters| {
        metric(counters.name, counters.help, &|report| {
            let values = |of| counter_values(counters, of);
            report.counters.as_ref().map(values).unwrap_or_default()
        })
    });
    first.into_iter().chain(counters).chain([last]).collect()
}

fn requests(report: &InstanceReport) -> Option<&RequestCounts> {
    report.counters.as_ref().map(|counters| &counters.requests)
}

fn one(value: Option<f64>) -> Values {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn by_kind_and_status(requests: &RequestCounts) -> Values {
    let counts = requests.by_kind_and_status.iter();
    let values = counts.map(|((kind, status), count)| {
        let status = status.map_or_else(|| "error".to_owned(), |status| status.to_string());
        let labels = vec![("kind", kind.as_str().to_owned()), ("status", status)];
        (labels, *count as f64)
    });
    values.collect()
}

fn counter_values(metric: &CounterMetric, counters: &RunCounters) -> Values {
    let values = metric.counters.iter().map(|(name, read)| {
        let last_word = name.rsplit('_').next().unwrap_or_default();
        let labels = match metric.label {
            "" => Vec::new(),
            label => vec![(label, last_word.to_owned())],
        };
        (labels, read(counters) as f64)
    });
    values.collect()
}

fn samples(name: &str, target: Option<&Target>, values: Values) -> Vec<String> {
    let target = target.map(target_labels);
    let line = |(labels, value): (Vec<(&str, String)>, f64)| {
        let labels = labels.iter().map(|(name, value)| label(name, value));
        let labels: Vec<String> = target.iter().cloned().chain(labels).collect();
        match &labels[..] {
            [] => format!("{name} {value}"),
            labels => format!("{name}{{{}}} {value}", labels.join(",")),
        }
    };
    values.into_iter().map(line).collect()
}

/// Seconds since 1970, to the millisecond.
fn ended_at(report: &InstanceReport) -> f64 {
    let elapsed_ms = report.elapsed.as_millis() as i64;
    (report.started_at.timestamp_millis() + elapsed_ms) as f64 / 1_000.0
}

/// The metrics of one job.
#[derive(Debug)]
pub(super) struct Metrics {
    metrics: Vec<Metric>,
    /// `None` if the settings could not be read, so that there may be other targets.
    targets: Vec<Option<Target>>,
}

impl Metrics {
    pub(super) fn of(reports: &[InstanceReport]) -> Metrics {
        Metrics {
            metrics: metrics(reports),
            targets: reports.iter().map(|report| report.target.clone()).collect(),
        }
    }

    /// The text format.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for Metric { name, help, lines } in &self.metrics {
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

    /// Takes over times of the last success from the previous file, if this job has no newer
    /// one. Only those of this job's targets, and of those it could not determine: others are no
    /// longer mirrored, and would cause alerts permanently.
    fn keep_last_success(&mut self, before: &str) {
        let Metrics { metrics, targets } = self;
        let is_about_us = |line: &str| {
            targets.iter().any(|target| match target {
                None => true,
                Some(target) if target.swr_instance_id.is_some() => {
                    labels_of(line) == target_labels(target)
                }
                // The project did not return its instances.
                Some(target) => {
                    labels_of(line).starts_with(&label("project_id", &target.project_id))
                }
            })
        };
        let Some(ours) = metrics
            .iter_mut()
            .find(|metric| metric.name == LAST_SUCCESS)
        else {
            return;
        };
        for line in before.lines() {
            let is_kept = name_of(line) == LAST_SUCCESS
                && is_about_us(line)
                && !ours
                    .lines
                    .iter()
                    .any(|ours| series_of(ours) == series_of(line));
            if is_kept {
                ours.lines.push(line.to_owned());
            }
        }
    }
}

fn target_labels(target: &Target) -> String {
    let mut labels = label("project_id", &target.project_id);
    let further = [
        ("swr_instance_id", &target.swr_instance_id),
        ("source", &target.source),
    ];
    for (name, value) in further {
        if let Some(value) = value {
            labels.push(',');
            labels.push_str(&label(name, value));
        }
    }
    labels
}

fn label(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// Identifies the sample of a line: everything but its value.
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

/// Replaces the file atomically, readable for the collector.
pub(super) fn write(file: &Path, mut metrics: Metrics) -> io::Result<()> {
    match fs::read_to_string(file) {
        Ok(before) => metrics.keep_last_success(&before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // The file is replaced anyway.
        Err(error) => tracing::warn!("cannot read the previous metrics file: {error}"),
    }
    replace_file(file, metrics.text().as_bytes(), Mode::Exactly(0o644))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::exit::{Exit, Failure};

    fn target(project_id: &str, instance: Option<&str>) -> Target {
        Target {
            source: None,
            region: None,
            endpoint: "https://swr.example".to_owned(),
            project_id: project_id.to_owned(),
            swr_instance_id: instance.map(str::to_owned),
        }
    }

    fn failed(target: Option<Target>) -> InstanceReport {
        let failure = Failure::new(Exit::Database, "no");
        InstanceReport {
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
        let target = target("a\"b\\c\nd", Some("i"));
        let text = Metrics::of(&[failed(Some(target))]).text();
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
        let kept = |target: Option<Target>| {
            let mut metrics = Metrics::of(&[failed(target)]);
            metrics.keep_last_success(before);
            let text = metrics.text();
            let lines = text.lines().filter(|line| name_of(line) == LAST_SUCCESS);
            let values = lines.filter_map(|line| line.rsplit_once(' '));
            values.map(|(_, value)| value).collect::<Vec<_>>().concat()
        };
        assert_eq!(kept(Some(target("p", Some("a")))), "1");
        assert_eq!(kept(Some(target("p", Some("d")))), "");
        // A project that did not return its instances, and settings that could not be read.
        assert_eq!(kept(Some(target("p", None))), "12");
        assert_eq!(kept(None), "123");
    }
}
