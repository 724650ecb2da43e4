//! A file with a line of JSON for each run. docs/monitoring.md describes the fields.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::job::InstanceReport;
use super::super::summary;
use crate::run::RunCounters;
use crate::visible::visible_json;

/// Increased when a field changes its meaning or is removed; new fields may be added at any time.
const FORMAT_VERSION: u32 = 1;

/// A line for each target, without a line break.
pub(super) fn lines(job_id: Uuid, reports: &[InstanceReport], host: &str) -> Vec<String> {
    let line = |report| visible_json(&object(job_id, report, host).to_string()).into_owned();
    reports.iter().map(line).collect()
}

fn object(job_id: Uuid, report: &InstanceReport, host: &str) -> Value {
    let target = report.target.as_ref();
    let failure = report.result.as_ref().err();
    let run = report.result.as_ref().ok();
    let gave_up = run.and_then(|run| run.failures.gave_up.as_ref());
    let advice = report
        .counters
        .as_ref()
        .zip(gave_up)
        .map(|(counters, gave_up)| summary::advice(gave_up, counters));
    json!({
        "format_version": FORMAT_VERSION,
        "job_id": job_id.to_string(),
        "run_id": report.run_id,
        "source": target.and_then(|target| target.source.as_deref()),
        "region": target.and_then(|target| target.region.as_deref()),
        "project_id": target.map(|target| &target.project_id),
        "instance": target.and_then(|target| target.swr_instance_id.as_deref()),
        "started_at": report.started_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "elapsed_ms": report.elapsed.as_millis() as u64,
        "exit_code": report.exit as u8,
        "outcome": report.outcome(),
        "counters": report.counters.as_ref().map(RunCounters::to_json),
        "history_failures": run.map(|run| summary::failures_json(&run.failures)),
        "error": failure.map(|failure| failure.message()),
        "hint": failure.and_then(|failure| failure.hint.clone()).or(advice),
        "program_version": env!("CARGO_PKG_VERSION"),
        "host": host,
    })
}

/// Appends the lines. Each is one write, so that several processes can share the file.
pub(super) fn append(file: &Path, lines: &[String]) -> io::Result<()> {
    if file == Path::new("-") {
        let mut stdout = io::stdout().lock();
        for line in lines {
            writeln!(stdout, "{line}")?;
        }
        return stdout.flush();
    }
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    for line in lines {
        file.write_all(format!("{line}\n").as_bytes())?;
    }
    Ok(())
}
