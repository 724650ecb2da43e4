//! A file with a line of JSON for each run. docs/monitoring.md describes the fields.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use super::super::job::Ending;
use super::super::summary;
use crate::run::RunCounters;
use crate::visible::visible_json;

/// Counted up when a field changes its meaning or goes; new fields may come at any time.
const FORMAT_VERSION: u32 = 1;

/// A line for each target, without the line break.
pub(super) fn lines(job_id: Uuid, endings: &[Ending<'_>], host: &str) -> Vec<String> {
    let line = |ending| visible_json(&object(job_id, ending, host).to_string()).into_owned();
    endings.iter().map(line).collect()
}

fn object(job_id: Uuid, ending: &Ending<'_>, host: &str) -> Value {
    let target = ending.target;
    let failure = ending.result.err();
    let report = ending.result.ok();
    let gave_up = report.and_then(|report| report.failures.gave_up.as_ref());
    let advice = ending
        .counters
        .zip(gave_up)
        .map(|(counters, gave_up)| summary::advice(gave_up, counters));
    json!({
        "format_version": FORMAT_VERSION,
        "job_id": job_id.to_string(),
        "run_id": ending.run_id,
        "source": target.and_then(|target| target.source.as_deref()),
        "region": target.and_then(|target| target.region.as_deref()),
        "project_id": target.map(|target| &target.project_id),
        "instance": target.and_then(|target| target.swr_instance_id.as_deref()),
        "started_at": ending.started_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "elapsed_ms": ending.elapsed.as_millis() as u64,
        "exit_code": ending.exit as u8,
        "outcome": ending.outcome(),
        "counters": ending.counters.map(RunCounters::to_json),
        "history_failures": report.map(|report| summary::failures_json(&report.failures)),
        "error": failure.map(|failure| failure.message()),
        "hint": failure.and_then(|failure| failure.hint.clone()).or(advice),
        "program_version": env!("CARGO_PKG_VERSION"),
        "host": host,
    })
}

/// Appends the lines. Each is one write, so that several processes may share the file.
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
