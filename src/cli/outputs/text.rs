//! The result of a job as text.

use std::cmp::Reverse;

use super::super::job::InstanceReport;
use super::super::summary;
use crate::visible::visible;

/// Ping services keep about this much of a body.
const LONG_BYTES: usize = 10_000;

/// The end of the log, for each target, the most severe first.
pub(super) fn long(reports: &[InstanceReport]) -> String {
    let mut text = String::new();
    for report in worst_first(reports) {
        let mut lines: Vec<String> = report
            .target
            .as_ref()
            .map(|target| format!("{target}:"))
            .into_iter()
            .collect();
        lines.extend(match &report.result {
            Ok(run) => summary::summary(run),
            Err(failure) => failure.lines(),
        });
        for line in lines {
            text.push_str(&visible(&line));
            text.push('\n');
        }
    }
    cut(&text, LONG_BYTES)
}

/// The result for one target, in one line.
pub(super) fn short(report: &InstanceReport) -> String {
    let exit = report.exit as u8;
    let target = match &report.target {
        Some(target) => format!("{target}: "),
        None => String::new(),
    };
    let text = match &report.result {
        Ok(run) => {
            let counters = &run.counters;
            let missing = match counters.histories_failed + counters.histories_skipped {
                0 => String::new(),
                missing => format!(", {missing} histories missing"),
            };
            let advice = match &run.failures.gave_up {
                Some(gave_up) => format!("; hint: {}", summary::advice(gave_up, counters)),
                None => String::new(),
            };
            format!(
                "run {} {}, {} artifacts: {} new, {} changed, {} removed{missing}{advice}",
                run.run_id,
                run.outcome,
                counters.artifacts_listed,
                counters.artifacts_new,
                counters.artifacts_changed,
                counters.artifacts_removed,
            )
        }
        Err(failure) => {
            let hint = failure.hint.as_deref();
            let hint = hint.map_or_else(String::new, |hint| format!("; hint: {hint}"));
            format!("{}{hint}", failure.message())
        }
    };
    visible(&format!("exit {exit}: {target}{text}")).into_owned()
}

/// Failures first, the most severe at the beginning; equal ones ordered by name, because the order of
/// their ends is random.
pub(super) fn worst_first(reports: &[InstanceReport]) -> Vec<&InstanceReport> {
    let mut reports: Vec<&InstanceReport> = reports.iter().collect();
    reports.sort_by_cached_key(|report| {
        let name = report.target.as_ref().map(ToString::to_string);
        (Reverse(report.exit.severity()), name)
    });
    reports
}

/// Truncates a text and marks where it was cut.
pub(super) fn cut(text: &str, max_bytes: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max_bytes.saturating_sub(MARK.len()));
    format!("{}{MARK}", &text[..end])
}
