//! Masks secrets in a build history before it is stored.

use std::ops::BitOr;

use command_findings::{MASK, mask};
use serde_json::Value;

use crate::artifact::Extra;
use crate::build_history::BuildHistory;
use crate::data_issue::{Action, DataIssue};

/// Replaces each secret in a history with [`MASK`]: in commands, in unknown fields, and in the values
/// that the history's issues quote. Adds an issue for each place, without the secret. `digest`
/// identifies the manifest.
pub(super) fn redact(digest: &str, history: &mut BuildHistory) {
    let BuildHistory {
        steps,
        reported_total: _,
        extra,
        issues,
    } = history;
    for issue in issues.iter_mut() {
        mask_value(&issue.field, &mut issue.original);
    }
    for (index, step) in steps.iter_mut().enumerate() {
        let mut note = |field: &str| {
            let row_key = format!("{digest} {}", index + 1);
            issues.push(redacted("build_step", row_key, field));
        };
        if let Some(masked) = step.command.as_deref().and_then(mask) {
            step.command = Some(masked);
            note("created_by");
        }
        mask_extra(&mut step.extra, note);
    }
    mask_extra(extra, |field| {
        issues.push(redacted("manifest", digest.to_owned(), field));
    });
}

fn redacted(table: &'static str, row_key: String, field: &str) -> DataIssue {
    DataIssue {
        table,
        row_key,
        field: field.to_owned(),
        action: Action::Redacted,
        original: Value::Null,
    }
}

fn mask_extra(extra: &mut Extra, mut note: impl FnMut(&str)) {
    for (name, value) in extra.iter_mut().flatten() {
        if mask_value(name, value) {
            note(name);
        }
    }
}

/// Masks the strings in a value, and returns whether any was masked. A field name is treated like the
/// name of a variable.
fn mask_value(name: &str, value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            let is_named = mask(&format!("{name}={text}")).is_some();
            let masked = mask(text).or_else(|| is_named.then(|| MASK.to_owned()));
            let is_secret = masked.is_some();
            if let Some(masked) = masked {
                *text = masked;
            }
            is_secret
        }
        // Not `any`, which stops at the first: all have to be masked.
        Value::Array(values) => values
            .iter_mut()
            .map(|value| mask_value(name, value))
            .fold(false, BitOr::bitor),
        Value::Object(fields) => fields
            .iter_mut()
            .map(|(name, value)| mask_value(name, value))
            .fold(false, BitOr::bitor),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
