//! Entry points to the decoders for the targets in `fuzz/`. Other builds do not contain this module.

use super::error::RequestFailure;
use super::wire::{self, MAX_VALUES};
use crate::artifact::Extra;
use crate::data_issue::{Action, DataIssue};

/// Decodes a page of the artifact list; returns the numbers of rows and of dropped rows.
pub fn artifact_page(body: &[u8]) -> Result<(usize, usize), RequestFailure> {
    let page = wire::artifact_page(body, MAX_VALUES)?.page;
    for artifact in &page.rows {
        check_text(&artifact.digest);
        check_extra(&artifact.extra);
        for tag in &artifact.tags {
            check_text(&tag.name);
            check_extra(&tag.extra);
        }
    }
    check_issues(&page.issues);
    let is_dropped = |issue: &&DataIssue| {
        issue.table == "artifact" && matches!(issue.action, Action::DroppedRow)
    };
    let dropped = page.issues.iter().filter(is_dropped).count();
    Ok((page.rows.len(), dropped))
}

/// Decodes a body as each other kind of answer that is stored in tables.
pub fn catalog_page(body: &[u8]) {
    if let Ok(page) = wire::namespace_page(body, MAX_VALUES) {
        check_issues(&page.page.issues);
    }
    if let Ok(page) = wire::repository_page(body, MAX_VALUES) {
        check_issues(&page.page.issues);
    }
    let _ = wire::instance(body);
}

/// The number of steps of a build history.
pub fn build_history(body: &[u8]) -> Result<usize, RequestFailure> {
    let history = wire::build_history("sha256:0", body)?;
    for step in &history.steps {
        check_extra(&step.extra);
        if let Some(command) = &step.command {
            check_text(command);
        }
    }
    check_extra(&history.extra);
    check_issues(&history.issues);
    Ok(history.steps.len())
}

fn check_issues(issues: &[DataIssue]) {
    for issue in issues {
        check_text(&issue.row_key);
        check_text(&issue.field);
        check_json(&issue.original.to_string());
    }
}

fn check_extra(extra: &Extra) {
    if let Some(extra) = extra {
        check_json(&serde_json::Value::Object(extra.clone()).to_string());
    }
}

fn check_json(json: &str) {
    // After an escaped backslash, it is plain text.
    let is_nul = json.replace("\\\\", "").contains("\\u0000");
    assert!(!is_nul, "jsonb has no U+0000");
}

fn check_text(text: &str) {
    assert!(!text.contains('\0'), "PostgreSQL's text has no U+0000");
}
