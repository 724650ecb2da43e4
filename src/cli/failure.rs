//! Prints the failure of a command, as text or for a log collector.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};

use super::exit::Failure;
use super::source::Target;
use super::telemetry::{LogFormat, Telemetry};
use crate::visible::visible;

/// Prints lines with the labels of a failure in colour, if stderr is a terminal and NO_COLOR is unset.
fn print_coloured(lines: impl Iterator<Item = String>) {
    const LABELS: [(&str, Style); 2] = [
        ("error:", AnsiColor::Red.on_default().bold()),
        ("  hint:", AnsiColor::Cyan.on_default()),
    ];
    let mut text = String::new();
    for line in lines {
        let line = visible(&line).into_owned();
        let label = LABELS.iter().find(|(label, _)| line.starts_with(label));
        match label {
            Some((label, style)) => {
                let rest = &line[label.len()..];
                text.push_str(&format!("{style}{label}{style:#}{rest}\n"));
            }
            None => text.push_str(&format!("{line}\n")),
        }
    }
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// Prints the failure of a command, or of one of several instances.
pub(super) fn print_failure(failure: &Failure, target: Option<&Target>, telemetry: &Telemetry) {
    match (telemetry.format, target) {
        (LogFormat::Text, target) => {
            let target = target.map(|target| format!("{target}:"));
            print_coloured(target.into_iter().chain(failure.lines()));
        }
        (LogFormat::Json, _) => tracing::error!(
            exit_code = failure.exit as u8,
            hint = failure.hint.as_deref(),
            instance = target.and_then(|target| target.swr_instance_id.as_deref()),
            "{}",
            failure.message()
        ),
    }
}
