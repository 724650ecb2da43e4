//! From JSON to nouns: the API's oddities stop here.
//!
//! Every field is optional in the official SDK models, so each is taken leniently.
//! What a type or PostgreSQL cannot hold becomes missing, or a legal value, and a
//! [`DataIssue`]; what this program has no name for goes to `extra`.

use chrono::{DateTime, Datelike, Utc};
use serde_json::{Map, Value};

use super::error::Malformed;
use crate::artifact::{Artifact, Extra, InstanceDescription, Namespace, Page, Repository, Tag};
use crate::build_history::{BuildHistory, BuildStep, Layer};
use crate::data_issue::{Action, DataIssue};

/// One page of an offset/limit listing.
#[derive(Debug)]
pub(super) struct OffsetPage<T> {
    pub(super) page: Page<T>,
    /// Number of entries in the answer, unreadable ones included.
    pub(super) entries: u64,
    /// Number of entries the API claims to have.
    pub(super) total: Option<u64>,
}

/// The way to the next page of the artifact list (api-swr2 swr_03_0306), without reading the rows.
///
/// `None` on the last page: only a missing marker ends the listing, not a short page.
pub(super) fn next_marker(body: &[u8]) -> Result<Option<i64>, Malformed> {
    #[derive(serde::Deserialize)]
    struct Marker {
        next_marker: Option<Value>,
    }
    let Marker { next_marker } = serde_json::from_slice(body).map_err(not_json)?;
    match next_marker {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => match text.trim().parse() {
            Ok(marker) => Ok(Some(marker)),
            Err(_) => Err(Malformed::new(format!(
                "next_marker is not a number: {text:?}"
            ))),
        },
        Some(Value::Number(number)) => match number.as_i64() {
            Some(marker) => Ok(Some(marker)),
            None => Err(Malformed::new(format!(
                "next_marker is out of range: {number}"
            ))),
        },
        Some(other) => Err(Malformed::new(format!(
            "next_marker is not a number: {other}"
        ))),
    }
}

/// The rows of a page of the artifact list.
pub(super) fn artifact_page(body: &[u8]) -> Result<Page<Artifact>, Malformed> {
    let mut document = object(body)?;
    Ok(page(list(&mut document, "artifacts")?, artifact))
}

pub(super) fn namespace_page(body: &[u8]) -> Result<OffsetPage<Namespace>, Malformed> {
    offset_page(body, "namespaces", namespace)
}

pub(super) fn repository_page(body: &[u8]) -> Result<OffsetPage<Repository>, Malformed> {
    offset_page(body, "repositories", repository)
}

pub(super) fn instance(body: &[u8]) -> Result<InstanceDescription, Malformed> {
    let document = object(body)?;
    let text = |name: &str| {
        document
            .get(name)
            .and_then(Value::as_str)
            .map(|text| text.replace('\0', "\u{fffd}"))
    };
    Ok(InstanceDescription {
        name: text("name"),
        version: text("version"),
        status: text("status"),
    })
}

/// A build history (api-swr2 swr_03_0305); `digest` names it in issues.
///
/// An absent, null or empty list all mean that there is no history.
pub(super) fn build_history(digest: &str, body: &[u8]) -> Result<BuildHistory, Malformed> {
    let mut document = object(body)?;
    let is_error = document.contains_key("error_code") || document.contains_key("errors");
    if is_error && !document.contains_key("build_histories") {
        return Err(Malformed::new("an error document with a success status"));
    }
    let entries = match document.shift_remove("build_histories") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(Malformed::new("build_histories is not a list")),
    };
    let mut issues = Vec::new();
    let steps = entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| build_step(format!("{digest} {}", index + 1), entry, &mut issues))
        .collect();
    let mut fields = Fields::new("manifest", digest.to_owned(), document, &mut issues);
    Ok(BuildHistory {
        steps,
        reported_total: fields.integer("total"),
        extra: fields.rest(),
        issues,
    })
}

fn build_step(row_key: String, entry: Value, issues: &mut Vec<DataIssue>) -> BuildStep {
    let entry = match entry {
        Value::Object(entry) => entry,
        other => {
            issues.push(DataIssue {
                table: "build_step",
                row_key,
                field: String::new(),
                action: Action::WrongType,
                original: other,
            });
            return BuildStep {
                created_at: None,
                command: None,
                empty_layer: false,
                layer: None,
                extra: None,
            };
        }
    };
    let mut fields = Fields::new("build_step", row_key, entry, issues);
    // The page says created_at, the live service and Harbor say created.
    let created_at = fields.time("created").or_else(|| fields.time("created_at"));
    let command = fields.text("created_by");
    // Harbor leaves the field out where it is false.
    let empty_layer = fields.boolean("empty_layer").unwrap_or(false);
    let digest = fields.text("digest").filter(|text| !text.is_empty());
    let layer = match digest {
        Some(digest) => Some(Layer {
            digest,
            media_type: fields.text("mediaType").filter(|text| !text.is_empty()),
            size_bytes: fields.integer("size"),
        }),
        None => {
            // Without a layer, "" and 0 say no more than their absence would.
            fields.forget("mediaType", |value| value.is_null() || value == "");
            fields.forget("size", |value| value.is_null() || value == 0);
            None
        }
    };
    BuildStep {
        created_at,
        command,
        empty_layer,
        layer,
        extra: fields.rest(),
    }
}

fn artifact(entry: Map<String, Value>, issues: &mut Vec<DataIssue>) -> Option<Artifact> {
    let row_key = key_of(&entry, "id");
    let mut fields = Fields::new("artifact", row_key.clone(), entry, issues);
    let keys = (
        fields.peek_integer("id"),
        fields.peek_text("digest"),
        fields.peek_integer("repository_id"),
    );
    let (Some(artifact_id), Some(_), Some(repository_id)) = keys else {
        fields.drop_row();
        return None;
    };
    fields.forget("id", |_| true);
    fields.forget("repository_id", |_| true);
    let digest = fields.text("digest").unwrap_or_default();
    let tags = match fields.object.shift_remove("tags") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(entries)) => entries
            .into_iter()
            .filter_map(|entry| tag(artifact_id, repository_id, entry, fields.issues))
            .collect(),
        Some(other) => {
            fields.issue("tags", Action::WrongType, other);
            Vec::new()
        }
    };
    Some(Artifact {
        artifact_id,
        repository_id,
        namespace_id: fields.integer("namespace_id"),
        repository_name: fields.text("repository_name"),
        digest,
        kind: fields.text("type"),
        media_type: fields.text("media_type"),
        manifest_media_type: fields.text("manifest_media_type"),
        size_bytes: fields.integer("size"),
        pushed_at: fields.time_or_never("push_time"),
        pulled_at: fields.time_or_never("pull_time"),
        tags,
        extra: fields.rest(),
    })
}

fn tag(
    artifact_id: i64,
    repository_id: i64,
    entry: Value,
    issues: &mut Vec<DataIssue>,
) -> Option<Tag> {
    let row_key = format!("artifact {artifact_id}");
    let Value::Object(entry) = entry else {
        issues.push(DataIssue {
            table: "tag",
            row_key,
            field: String::new(),
            action: Action::DroppedRow,
            original: entry,
        });
        return None;
    };
    let mut fields = Fields::new("tag", row_key, entry, issues);
    if fields.peek_text("name").is_none_or(str::is_empty) {
        fields.drop_row();
        return None;
    }
    // Both repeat the artifact that carries the tag; only a contradiction is worth keeping.
    fields.forget("artifact_id", |value| {
        value.is_null() || *value == artifact_id
    });
    fields.forget("repository_id", |value| {
        value.is_null() || *value == repository_id
    });
    Some(Tag {
        name: fields.text("name").unwrap_or_default(),
        tag_id: fields.integer("id"),
        pushed_at: fields.time_or_never("push_time"),
        pulled_at: fields.time_or_never("pull_time"),
        extra: fields.rest(),
    })
}

fn namespace(entry: Map<String, Value>, issues: &mut Vec<DataIssue>) -> Option<Namespace> {
    let row_key = key_of(&entry, "namespace_id");
    let mut fields = Fields::new("namespace", row_key, entry, issues);
    let keys = (
        fields.peek_integer("namespace_id"),
        fields.peek_text("name"),
    );
    let (Some(namespace_id), Some(_)) = keys else {
        fields.drop_row();
        return None;
    };
    fields.forget("namespace_id", |_| true);
    Some(Namespace {
        namespace_id,
        name: fields.text("name").unwrap_or_default(),
        repository_count: fields.integer("repo_count"),
        metadata: fields.take("metadata").filter(|value| !value.is_null()),
        created_at: fields.time_or_never("created_at"),
        updated_at: fields.time_or_never("updated_at"),
        extra: fields.rest(),
    })
}

fn repository(entry: Map<String, Value>, issues: &mut Vec<DataIssue>) -> Option<Repository> {
    let row_key = key_of(&entry, "id");
    let mut fields = Fields::new("repository", row_key, entry, issues);
    let keys = (
        fields.peek_integer("id"),
        fields.peek_text("name"),
        fields.peek_text("namespace_name"),
    );
    let (Some(repository_id), Some(_), Some(_)) = keys else {
        fields.drop_row();
        return None;
    };
    fields.forget("id", |_| true);
    Some(Repository {
        repository_id,
        namespace_id: fields.integer("namespace_id"),
        namespace_name: fields.text("namespace_name").unwrap_or_default(),
        name: fields.text("name").unwrap_or_default(),
        description: fields.text("description"),
        tag_count: fields.integer("tag_count"),
        artifact_count: fields.integer("artifact_count"),
        pull_count: fields.integer("pull_count"),
        created_at: fields.time_or_never("created_at"),
        updated_at: fields.time_or_never("updated_at"),
        extra: fields.rest(),
    })
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Malformed> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(Malformed::new("the answer is not a JSON object")),
        Err(error) => Err(not_json(error)),
    }
}

fn not_json(error: serde_json::Error) -> Malformed {
    Malformed::new(format!("the answer is not JSON: {error}"))
}

/// Takes the list out of a page. It may be null, but a page without it is no page:
/// an error document with status 200 must not pass for the end of the data.
fn list(document: &mut Map<String, Value>, name: &str) -> Result<Vec<Value>, Malformed> {
    match document.shift_remove(name) {
        Some(Value::Array(rows)) => Ok(rows),
        Some(Value::Null) => Ok(Vec::new()),
        Some(_) => Err(Malformed::new(format!("{name} is not a list"))),
        None => Err(Malformed::new(format!("the answer has no {name}"))),
    }
}

type Decode<T> = fn(Map<String, Value>, &mut Vec<DataIssue>) -> Option<T>;

fn offset_page<T>(
    body: &[u8],
    name: &'static str,
    decode: Decode<T>,
) -> Result<OffsetPage<T>, Malformed> {
    let mut document = object(body)?;
    let rows = list(&mut document, name)?;
    let total = document.get("total").and_then(Value::as_u64);
    Ok(OffsetPage {
        entries: rows.len() as u64,
        page: page(rows, decode),
        total,
    })
}

fn page<T>(rows: Vec<Value>, decode: Decode<T>) -> Page<T> {
    let mut issues = Vec::new();
    let rows = rows
        .into_iter()
        .filter_map(|row| match row {
            Value::Object(entry) => decode(entry, &mut issues),
            original => {
                issues.push(DataIssue {
                    table: "page",
                    row_key: String::new(),
                    field: String::new(),
                    action: Action::DroppedRow,
                    original,
                });
                None
            }
        })
        .collect();
    Page { rows, issues }
}

fn key_of(entry: &Map<String, Value>, name: &str) -> String {
    match entry.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    }
}

/// The fields of one row; what is not taken is left for `extra`.
struct Fields<'a> {
    table: &'static str,
    row_key: String,
    object: Map<String, Value>,
    issues: &'a mut Vec<DataIssue>,
}

impl<'a> Fields<'a> {
    fn new(
        table: &'static str,
        row_key: String,
        object: Map<String, Value>,
        issues: &'a mut Vec<DataIssue>,
    ) -> Fields<'a> {
        Fields {
            table,
            row_key,
            object,
            issues,
        }
    }

    /// Removes a field and gives its value, with each NUL replaced and recorded.
    fn take(&mut self, name: &str) -> Option<Value> {
        let mut value = self.object.shift_remove(name)?;
        let original = holds_nul(&value).then(|| value.clone());
        if let Some(original) = original {
            replace_nul(&mut value);
            self.issue(name, Action::ReplacedNul, original);
        }
        Some(value)
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => {
                self.issue(name, Action::WrongType, other);
                None
            }
        }
    }

    fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Null => None,
            Value::Bool(value) => Some(value),
            other => {
                self.issue(name, Action::WrongType, other);
                None
            }
        }
    }

    fn integer(&mut self, name: &str) -> Option<i64> {
        let value = self.take(name)?;
        match integer_of(&value) {
            Ok(value) => value,
            Err(action) => {
                self.issue(name, action, value);
                None
            }
        }
    }

    /// A time in RFC 3339, as far as PostgreSQL's timestamptz reaches back and forth.
    fn time(&mut self, name: &str) -> Option<DateTime<Utc>> {
        let text = self.text(name).filter(|text| !text.is_empty())?;
        match DateTime::parse_from_rfc3339(&text) {
            Ok(time) if (-4000..=200_000).contains(&time.year()) => Some(time.to_utc()),
            Ok(_) => {
                self.issue(name, Action::OutOfRange, Value::String(text));
                None
            }
            Err(_) => {
                self.issue(name, Action::WrongType, Value::String(text));
                None
            }
        }
    }

    /// As [`time`](Self::time), but the year 1 means "never", as in Harbor.
    fn time_or_never(&mut self, name: &str) -> Option<DateTime<Utc>> {
        self.time(name).filter(|time| time.year() > 1)
    }

    fn peek_integer(&self, name: &str) -> Option<i64> {
        self.object
            .get(name)
            .and_then(|value| integer_of(value).ok().flatten())
    }

    fn peek_text(&self, name: &str) -> Option<&str> {
        self.object.get(name).and_then(Value::as_str)
    }

    /// Removes a field whose value says nothing more than is known.
    fn forget(&mut self, name: &str, is_known: impl Fn(&Value) -> bool) {
        if self.object.get(name).is_some_and(is_known) {
            self.object.shift_remove(name);
        }
    }

    fn issue(&mut self, field: &str, action: Action, original: Value) {
        self.issues.push(DataIssue {
            table: self.table,
            row_key: self.row_key.clone(),
            field: field.to_owned(),
            action,
            original,
        });
    }

    /// Records that the row has no key and cannot be stored.
    fn drop_row(&mut self) {
        let original = Value::Object(std::mem::take(&mut self.object));
        self.issue("", Action::DroppedRow, original);
    }

    /// What was not taken.
    fn rest(&mut self) -> Extra {
        let names: Vec<String> = self.object.keys().cloned().collect();
        let mut extra = Map::new();
        for name in names {
            if let Some(value) = self.take(&name) {
                extra.insert(name.replace('\0', "\u{fffd}"), value);
            }
        }
        (!extra.is_empty()).then_some(extra)
    }
}

fn integer_of(value: &Value) -> Result<Option<i64>, Action> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Ok(Some(value)),
            (None, Some(float)) if float.fract() != 0.0 => Err(Action::WrongType),
            _ => Err(Action::OutOfRange),
        },
        Value::String(text) => text.parse().map(Some).map_err(|_| Action::WrongType),
        _ => Err(Action::WrongType),
    }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn replace_nul(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(values) => values.iter_mut().for_each(replace_nul),
        Value::Object(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(name, mut value)| {
                    replace_nul(&mut value);
                    (name.replace('\0', "\u{fffd}"), value)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
