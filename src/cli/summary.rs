//! The summary of a run, as text and as fields.

use super::console::print_lines;
use super::exit::Exit;
use super::job::{InstanceReport, JobReport};
use super::telemetry::{LogFormat, Telemetry};
use crate::build_history::{FailureCause, GaveUp, HistoryFailureGroup, HistoryFailures};
use crate::run::{RunCounters, RunOutcome, RunReport, with_counters};

/// Prints what a run did: lines for people, or fields for log collectors.
pub(super) fn summarise(report: &RunReport, telemetry: &Telemetry) {
    if telemetry.is_quiet && report.counters.exit() == Exit::Success {
        return;
    }
    let RunReport {
        run_id,
        outcome,
        counters,
        failures,
        elapsed,
        verification: _,
    } = report;
    if telemetry.format == LogFormat::Json {
        macro_rules! log_run {
            ($($metric:ident $(by $label:ident)?: $help:literal [$($name:ident)+])+) => {
                tracing::info!(
                    run_id,
                    outcome = outcome.as_str(),
                    elapsed_ms = elapsed.as_millis() as u64,
                    requests_total = counters.requests.total(),
                    requests = counters.requests.to_json().to_string(),
                    retries = counters.requests.retries,
                    throttled = counters.requests.throttled(),
                    $($($name = counters.$name,)+)+
                    history_failures = failures_json(failures).to_string(),
                    gave_up = failures
                        .gave_up
                        .as_ref()
                        .map(|gave_up| advice(gave_up, counters)),
                    "run {run_id} {outcome}"
                )
            };
        }
        with_counters!(log_run);
        return;
    }
    let mut lines = summary(report);
    if let (Some(instance), Some(first)) = (&telemetry.instance, lines.first_mut()) {
        *first = format!("instance {instance}: {first}");
    }
    print_lines(lines);
}

/// Prints what a job with several instances did: one line for each, and one for all.
pub(super) fn summarise_job(report: &JobReport, telemetry: &Telemetry) {
    let JobReport {
        instances, elapsed, ..
    } = report;
    let is_silent = telemetry.is_quiet && report.exit() == Exit::Success;
    if instances.len() < 2 || is_silent {
        return;
    }
    let count = |is: fn(&&InstanceReport) -> bool| instances.iter().filter(is).count();
    let skipped = count(|report| report.is_skipped());
    let succeeded = count(|report| report.result.is_ok());
    let failed = instances.len() - succeeded - skipped;
    let exit = report.exit() as u8;
    if telemetry.format == LogFormat::Json {
        tracing::info!(
            instances = instances.len(),
            instances_failed = failed,
            instances_skipped = skipped,
            exit_code = exit,
            elapsed_ms = elapsed.as_millis() as u64,
            "{succeeded} of {} instances succeeded",
            instances.len()
        );
        return;
    }
    let mut lines: Vec<String> = instances.iter().map(instance_line).collect();
    let skipped = match skipped {
        0 => String::new(),
        skipped => format!(", {skipped} skipped,"),
    };
    lines.push(format!(
        "{succeeded} of {} instances succeeded{skipped} in {:.1} s; exit code {exit}",
        instances.len(),
        elapsed.as_secs_f64()
    ));
    print_lines(lines);
}

fn instance_line(report: &InstanceReport) -> String {
    let name = match &report.target {
        Some(target) => match (&target.source, &target.swr_instance_id) {
            (Some(source), Some(_)) => format!("{source}: {target}"),
            _ => target.to_string(),
        },
        None => String::new(),
    };
    let seconds = report.elapsed.as_secs_f64();
    match &report.result {
        Ok(RunReport {
            outcome, counters, ..
        }) => format!(
            "{name}  {}, {} new, {} changed, {} removed, {seconds:.1} s",
            outcome.as_str(),
            counters.artifacts_new,
            counters.artifacts_changed,
            counters.artifacts_removed,
        ),
        Err(_) if report.is_skipped() => format!("{name}  skipped, {seconds:.1} s"),
        Err(failure) => format!("{name}  failed with {}, {seconds:.1} s", failure.exit as u8),
    }
}

/// The summary as lines of text.
pub(super) fn summary(report: &RunReport) -> Vec<String> {
    let RunReport {
        run_id,
        outcome,
        counters,
        failures,
        elapsed,
        verification: _,
    } = report;
    let verb = match outcome {
        RunOutcome::Published => "published",
        RunOutcome::DryRun => "complete, not published (dry run)",
        RunOutcome::Verified => "verified",
        RunOutcome::Failed => "failed",
        RunOutcome::Stopped => "stopped",
    };
    let skipped = match counters.histories_skipped {
        0 => String::new(),
        count => format!(", {count} not requested"),
    };
    let mut lines = vec![
        format!("run {run_id}: {verb} in {:.1} s", elapsed.as_secs_f64()),
        format!(
            "  artifacts  {} listed on {} {}: {} new, {} changed, {} removed, {} unchanged",
            counters.artifacts_listed,
            counters.pages,
            if counters.pages == 1 { "page" } else { "pages" },
            counters.artifacts_new,
            counters.artifacts_changed,
            counters.artifacts_removed,
            counters.artifacts_unchanged
        ),
        format!(
            "  tags       {} new, {} moved, {} removed",
            counters.tags_new, counters.tags_moved, counters.tags_removed
        ),
        format!(
            "  histories  {} fetched, {} known, {} unsupported, {} gone, {} failed{skipped}",
            counters.histories_fetched,
            counters.histories_reused,
            counters.histories_unsupported,
            counters.histories_gone,
            counters.histories_failed
        ),
        format!(
            "  requests   {} ({} for the catalog), {} retries, {} throttled",
            counters.requests.total(),
            counters.catalog_pages,
            counters.requests.retries,
            counters.requests.throttled()
        ),
        format!(
            "  database   {} rows written, {} values altered",
            counters.rows_written, counters.data_issues
        ),
    ];
    lines.extend(failure_lines(failures, counters));
    lines
}

/// Groups of failed histories that the summary shows.
const FAILURE_GROUPS: usize = 10;

/// What failed, why, and how to fix it; empty if nothing failed.
fn failure_lines(failures: &HistoryFailures, counters: &RunCounters) -> Vec<String> {
    let HistoryFailures { groups, gave_up } = failures;
    let mut lines = Vec::new();
    for group in groups.iter().take(FAILURE_GROUPS) {
        let HistoryFailureGroup {
            cause,
            message,
            count,
            repository,
        } = group;
        let example = match repository {
            Some(repository) => format!(", for example in {repository}"),
            None => String::new(),
        };
        lines.push(format!(
            "  missing    {count} × {cause}: {message}{example}"
        ));
    }
    let rest = groups.get(FAILURE_GROUPS..).unwrap_or_default();
    if !rest.is_empty() {
        let count: u64 = rest.iter().map(|group| group.count).sum();
        let kinds = rest.len();
        lines.push(format!("  missing    {count} × others, of {kinds} kinds"));
    }
    if let Some(gave_up) = gave_up {
        lines.push(format!("  {}", advice(gave_up, counters)));
    }
    if !groups.is_empty() {
        lines.push("  `swr-sync report history_failure` lists what is missing".to_owned());
    }
    lines
}

/// The failures, most frequent first.
pub(super) fn failures_json(failures: &HistoryFailures) -> serde_json::Value {
    let groups: Vec<serde_json::Value> = failures
        .groups
        .iter()
        .take(FAILURE_GROUPS)
        .map(|group| {
            let HistoryFailureGroup {
                cause,
                message,
                count,
                repository,
            } = group;
            serde_json::json!({
                "outcome": cause.outcome,
                "http_status": cause.status,
                "error_code": cause.code,
                "error_message": message,
                "count": count,
                "repository": repository.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    groups.into()
}

/// Why not all histories were requested, and what the user can do, in one sentence.
pub(super) fn advice(gave_up: &GaveUp, counters: &RunCounters) -> String {
    const ACTION: &str = "swr:repository:getTagAddition, which is in SWR ReadOnlyAccess";
    let what = match gave_up {
        GaveUp::Everywhere(cause) => {
            format!("build histories kept failing with the same error ({cause})")
        }
        GaveUp::Repositories { count, cause, .. } => {
            let repositories = if *count == 1 {
                "1 repository".to_owned()
            } else {
                format!("{count} repositories")
            };
            let how = if cause.may_be_of_one_repository() {
                "were denied"
            } else {
                "kept failing with the same error"
            };
            format!("the build histories of {repositories} {how} ({cause})")
        }
    };
    let skipped = match counters.histories_skipped {
        0 => String::new(),
        count => format!(", so {count} more were not requested"),
    };
    let next = match gave_up {
        GaveUp::Repositories {
            cause,
            is_everywhere,
            ..
        } if cause.may_be_of_one_repository() => {
            if *is_everywhere {
                format!("all repositories denied them: grant the user {ACTION}")
            } else {
                format!(
                    "other repositories allowed them: the user's policy is limited to some repositories; extend it to all for {ACTION}"
                )
            }
        }
        GaveUp::Everywhere(cause) | GaveUp::Repositories { cause, .. } => remedy(cause).to_owned(),
    };
    format!("{what}{skipped}; {next}")
}

fn remedy(cause: &FailureCause) -> &'static str {
    match cause.status {
        None => "check the network; the next run tries again",
        Some(403) => "the gateway denies access: check its access rules; the next run tries again",
        Some(404) => {
            "the gateway does not have this API: check region and endpoint; the next run tries again"
        }
        Some(429) => {
            "the gateway throttles requests: lower --max-requests-per-second; the next run tries again"
        }
        Some(200) => {
            "the responses are not build histories: if it happens again, report it to the maintainers"
        }
        Some(_) => "the service has a problem; the next run tries again",
    }
}
