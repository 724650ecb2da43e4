//! Converts JSON to nouns. No other module handles the oddities of the API.
//!
//! Every field is optional in the official SDK models, so a missing or odd field is no error. A value
//! that its type or PostgreSQL cannot store is left out or altered, and recorded as a [`DataIssue`].
//! Unknown fields are stored in `extra`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::error::{Malformed, RequestFailure, TooLarge};
use super::json::{self, Alterations, Document, Member};
use crate::artifact::{
    Artifact, Extra, InstanceDescription, ListedInstance, Namespace, Page, Repository, Tag,
};
use crate::build_history::{BuildHistory, BuildStep, Layer};
use crate::data_issue::{Action, DataIssue};

/// Digests and tag names are parts of keys, and an index entry of PostgreSQL has at most 2,704 bytes.
const LONGEST_KEY_BYTES: usize = 1_000;

/// No real image has more steps. Users who can push an image control its history, so a limit is needed.
const MAX_HISTORY_ENTRIES: usize = 10_000;
/// Maximum number of values (members of objects, elements of lists, issues) of one answer. Each takes
/// up to about 100 bytes.
pub(super) const MAX_VALUES: usize = 150_000;
/// An issue takes as much memory as a few values.
const VALUES_PER_ISSUE: usize = 3;

/// The names of answers in messages.
pub(super) const BUILD_HISTORY: &str = "the build history";
pub(super) const PAGE: &str = "the page";

/// One page of an offset/limit listing.
#[derive(Debug)]
pub(super) struct OffsetPage<T> {
    pub(super) page: Page<T>,
    /// Number of entries in the answer, unreadable ones included.
    pub(super) entries: u64,
    /// The total number of entries according to the API.
    pub(super) total: Option<u64>,
}

/// One page of the artifact list.
#[derive(Debug)]
pub(super) struct ArtifactPage {
    pub(super) page: Page<Artifact>,
    /// `None` on the last page: only a missing marker ends the listing, not a short page.
    pub(super) next_marker: Option<i64>,
}

/// Reads one page of the artifact list (api-swr2 swr_03_0306).
pub(super) fn artifact_page(
    body: &[u8],
    max_values: usize,
) -> Result<ArtifactPage, RequestFailure> {
    read(PAGE, body, max_values, |document| {
        let members = document.root_members()?;
        let rows = list(document, &members, "artifacts")?;
        Ok(ArtifactPage {
            next_marker: next_marker(document, &members)?,
            page: page(document, "artifact", rows, artifact),
        })
    })
}

/// The marker of the next page. The field is `next_marker`; the English page of swr_03_0306 also calls
/// it `nextMarker`, and the similar API swr_03_0206 has it in `page_info`.
fn next_marker(document: &Document<'_>, members: &[Member<'_>]) -> Result<Option<i64>, Malformed> {
    if let Some(marker) = given_marker(document, members)? {
        return Ok(Some(marker));
    }
    match sole(document, members, "page_info")? {
        Some(info) if info.starts_with('{') => {
            let info = document.members(info);
            given_marker(document, &info.unwrap_or_default())
        }
        _ => Ok(None),
    }
}

fn given_marker(document: &Document<'_>, members: &[Member<'_>]) -> Result<Option<i64>, Malformed> {
    for name in ["next_marker", "nextMarker"] {
        let marker = match sole(document, members, name)? {
            None | Some("null") => continue,
            Some(marker) => marker,
        };
        let number = match marker.strip_prefix('"') {
            Some(text) => text.trim_end_matches('"').trim(),
            None => marker,
        };
        if number.is_empty() {
            continue;
        }
        return match number.parse() {
            Ok(marker) => Ok(Some(marker)),
            Err(_) => Err(Malformed::new(format!("{name} is not a number of 64 bits"))),
        };
    }
    Ok(None)
}

pub(super) fn namespace_page(
    body: &[u8],
    max_values: usize,
) -> Result<OffsetPage<Namespace>, RequestFailure> {
    offset_page(body, max_values, "namespaces", "namespace", namespace)
}

pub(super) fn repository_page(
    body: &[u8],
    max_values: usize,
) -> Result<OffsetPage<Repository>, RequestFailure> {
    offset_page(body, max_values, "repositories", "repository", repository)
}

/// A page of a project's instances (api-swr2 swr_03_0002).
pub(super) fn instance_page(
    body: &[u8],
    max_values: usize,
) -> Result<OffsetPage<ListedInstance>, RequestFailure> {
    offset_page(body, max_values, "instances", "instance", |fields| {
        Some(ListedInstance {
            swr_instance_id: fields.text("id").filter(|id| !id.is_empty())?,
            name: fields.text("name"),
            version: fields.text("version"),
            status: fields.text("status"),
        })
    })
}

pub(super) fn instance(body: &[u8]) -> Result<InstanceDescription, RequestFailure> {
    read("the description", body, MAX_VALUES, |document| {
        let members = document.root_members()?;
        refuse_error_document(document, &members, "id")?;
        let mut issues = Vec::new();
        let mut fields = Fields::of_document(document, "instance", "", members, &mut issues);
        Ok(InstanceDescription {
            name: fields.text("name"),
            version: fields.text("version"),
            status: fields.text("status"),
            issues,
        })
    })
}

/// A build history (api-swr2 swr_03_0305); `digest` identifies it in issues.
///
/// A missing, null or empty list means that there is no history.
pub(super) fn build_history(digest: &str, body: &[u8]) -> Result<BuildHistory, RequestFailure> {
    read(BUILD_HISTORY, body, MAX_VALUES, |document| {
        let members = document.root_members()?;
        refuse_error_document(document, &members, "build_histories")?;
        let list = sole(document, &members, "build_histories")?;
        let entries = match list {
            None | Some("null") => Vec::new(),
            Some(list) => history_entries(document, list)?,
        };
        let mut issues = Vec::new();
        let steps = entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                let row_key = RowKey::Step(digest, index + 1);
                build_step(document, row_key, entry, &mut issues)
            })
            .collect();
        let mut fields = Fields::of_document(document, "manifest", digest, members, &mut issues);
        fields.take("build_histories");
        Ok(BuildHistory {
            steps,
            reported_total: fields.integer("total"),
            extra: fields.rest(),
            issues,
        })
    })
}

/// The entries of a build history; never more than the maximum are stored.
fn history_entries<'a>(
    document: &Document<'_>,
    list: &'a str,
) -> Result<Vec<&'a str>, RequestFailure> {
    let no_list = || Malformed::new("build_histories is not a list");
    let entries = document.first_elements(list, MAX_HISTORY_ENTRIES);
    let (entries, count) = entries.map_err(|_| no_list())?;
    if count > MAX_HISTORY_ENTRIES as u64 {
        let too_large = TooLarge::exactly(BUILD_HISTORY, count, MAX_HISTORY_ENTRIES, "entries");
        return Err(too_large.into());
    }
    Ok(entries)
}

fn build_step(
    document: &Document<'_>,
    row_key: RowKey<'_>,
    entry: &str,
    issues: &mut Vec<DataIssue>,
) -> BuildStep {
    let Some(row) = Row::read(document, entry) else {
        issues.push(DataIssue {
            table: "build_step",
            row_key: row_key.to_string(),
            field: String::new(),
            action: Action::WrongType,
            original: document.original(entry),
        });
        document.count(VALUES_PER_ISSUE);
        return BuildStep {
            created_at: None,
            command: None,
            empty_layer: false,
            layer: None,
            extra: None,
        };
    };
    let mut fields = Fields::new(document, "build_step", row_key, row, issues);
    // The documentation has created_at, the live service and Harbor have created. If an answer
    // has both, created_at stays in `extra`.
    let created_at = fields
        .time("created", NANOSECONDS)
        .or_else(|| fields.time("created_at", NANOSECONDS));
    let command = fields.text("created_by");
    // Harbor omits the field if it is false.
    let empty_layer = fields.boolean("empty_layer");
    // Store both values if a step has a layer and empty_layer: in a squashed image both can be
    // correct.
    let digest = fields.text("digest").filter(|text| !text.is_empty());
    let layer = match digest {
        Some(digest) => Some(Layer {
            digest,
            media_type: fields.text("mediaType").filter(|text| !text.is_empty()),
            size_bytes: fields.integer("size"),
        }),
        None => {
            // Without a layer, "" and 0 mean the same as a missing field.
            fields.forget("mediaType", |value| matches!(value, "null" | "\"\""));
            fields.forget("size", |value| matches!(value, "null" | "0"));
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

fn artifact(fields: &mut Fields<'_>) -> Option<Artifact> {
    let artifact_id = fields.key_integer("id")?;
    let digest = fields.key_text("digest")?;
    let repository_id = fields.key_integer("repository_id")?;
    let tags = match fields.take("tags") {
        None | Some("null") => Vec::new(),
        Some(list) => match fields.document.elements(list) {
            Ok(entries) => tags(fields, artifact_id, repository_id, &entries),
            Err(_) => {
                fields.refuse("tags", Action::WrongType, list);
                Vec::new()
            }
        },
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

/// The tags of an artifact. A name is unique in its repository, so the last of two tags with the same
/// name counts. The same rule holds if two artifacts have the tag.
fn tags(
    artifact: &mut Fields<'_>,
    artifact_id: i64,
    repository_id: i64,
    entries: &[&str],
) -> Vec<Tag> {
    let document = artifact.document;
    let row_key = RowKey::TagsOf(artifact_id);
    let mut tags: IndexMap<String, (Tag, &str)> = IndexMap::new();
    for entry in entries {
        let Some(row) = Row::read(document, entry) else {
            drop_row(document, "tag", row_key, entry, artifact.issues);
            continue;
        };
        let mut fields = Fields::new(document, "tag", row_key, row, artifact.issues);
        let Some(tag) = tag(&mut fields, artifact_id, repository_id) else {
            fields.drop_row();
            continue;
        };
        if let Some((earlier, source)) = tags.insert(tag.name.clone(), (tag.clone(), entry))
            && earlier != tag
        {
            if !document.count(VALUES_PER_ISSUE) {
                continue;
            }
            artifact.issues.push(DataIssue {
                table: "tag",
                row_key: row_key.to_string(),
                field: "tags".to_owned(),
                action: Action::GivenTwice,
                original: document.original(source),
            });
        }
    }
    tags.into_values().map(|(tag, _)| tag).collect()
}

fn tag(fields: &mut Fields<'_>, artifact_id: i64, repository_id: i64) -> Option<Tag> {
    let name = fields.key_text("name")?;
    // Both fields repeat values of the artifact; they are stored only if they differ from them.
    let (artifact_id, repository_id) = (artifact_id.to_string(), repository_id.to_string());
    fields.forget("artifact_id", |value| {
        value == "null" || value == artifact_id
    });
    fields.forget("repository_id", |value| {
        value == "null" || value == repository_id
    });
    Some(Tag {
        name,
        tag_id: fields.integer("id"),
        pushed_at: fields.time_or_never("push_time"),
        pulled_at: fields.time_or_never("pull_time"),
        extra: fields.rest(),
    })
}

fn namespace(fields: &mut Fields<'_>) -> Option<Namespace> {
    let namespace_id = fields.key_integer("namespace_id")?;
    fields.peek_text("name")?;
    Some(Namespace {
        namespace_id,
        name: fields.text("name").unwrap_or_default(),
        repository_count: fields.integer("repo_count"),
        metadata: fields.value("metadata").filter(|value| !value.is_null()),
        created_at: fields.time_or_never("created_at"),
        updated_at: fields.time_or_never("updated_at"),
        extra: fields.rest(),
    })
}

fn repository(fields: &mut Fields<'_>) -> Option<Repository> {
    let repository_id = fields.key_integer("id")?;
    fields.peek_text("name")?;
    fields.peek_text("namespace_name")?;
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

/// An error document with a success status must not be read as an answer without any fields.
fn refuse_error_document(
    document: &Document<'_>,
    members: &[Member<'_>],
    expected: &str,
) -> Result<(), Malformed> {
    let has = |name| sole(document, members, name).map(|value| value.is_some());
    if !has(expected)? && (has("error_code")? || has("errors")?) {
        return Err(Malformed::new("an error document with a success status"));
    }
    Ok(())
}

/// The value of a member that must occur only once, such as the list of rows.
fn sole<'a>(
    document: &Document<'_>,
    members: &[Member<'a>],
    name: &str,
) -> Result<Option<&'a str>, Malformed> {
    let mut found = members
        .iter()
        .filter(|member| document.text(member.name, &mut Alterations::default()) == name);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Malformed::new(format!("the answer gives {name} twice"))),
        (member, _) => Ok(member.map(|member| member.value)),
    }
}

/// The list of a page. It may be null, but must not be missing: an error document with status 200
/// must not be read as the end of the listing.
fn list<'a>(
    document: &Document<'_>,
    members: &[Member<'a>],
    name: &str,
) -> Result<Vec<&'a str>, Malformed> {
    match sole(document, members, name)? {
        Some("null") => Ok(Vec::new()),
        Some(list) => {
            let elements = document.elements(list);
            elements.map_err(|_| Malformed::new(format!("{name} is not a list")))
        }
        None => Err(Malformed::new(format!("the answer has no {name}"))),
    }
}

type Decode<T> = fn(&mut Fields<'_>) -> Option<T>;

fn offset_page<T>(
    body: &[u8],
    max_values: usize,
    name: &'static str,
    table: &'static str,
    decode: Decode<T>,
) -> Result<OffsetPage<T>, RequestFailure> {
    read(PAGE, body, max_values, |document| {
        let members = document.root_members()?;
        let rows = list(document, &members, name)?;
        let total = sole(document, &members, "total")?;
        Ok(OffsetPage {
            entries: rows.len() as u64,
            page: page(document, table, rows, decode),
            total: total.and_then(|total| integer_of(document, total).ok()??.try_into().ok()),
        })
    })
}

/// Decodes an answer that may have at most `max_values` values.
fn read<T>(
    what: &str,
    body: &[u8],
    max_values: usize,
    decode: impl FnOnce(&Document<'_>) -> Result<T, RequestFailure>,
) -> Result<T, RequestFailure> {
    let document = Document::new(body, max_values)?;
    let decoded = decode(&document);
    if document.has_too_many_values() {
        return Err(TooLarge::more_than(what, max_values, "values").into());
    }
    decoded
}

fn page<T>(
    document: &Document<'_>,
    table: &'static str,
    rows: Vec<&str>,
    decode: Decode<T>,
) -> Page<T> {
    let id = match table {
        "namespace" => "namespace_id",
        _ => "id",
    };
    let mut issues = Vec::new();
    let rows = rows
        .into_iter()
        .filter_map(|source| {
            let Some(row) = Row::read(document, source) else {
                drop_row(document, table, RowKey::Text(""), source, &mut issues);
                return None;
            };
            let row_key = row.key(document, id);
            let row_key = RowKey::Text(&row_key);
            let mut fields = Fields::new(document, table, row_key, row, &mut issues);
            let decoded = decode(&mut fields);
            if decoded.is_none() {
                fields.drop_row();
            }
            decoded
        })
        .collect();
    Page { rows, issues }
}

/// Records an entry that cannot be stored.
fn drop_row(
    document: &Document<'_>,
    table: &'static str,
    row_key: RowKey<'_>,
    source: &str,
    issues: &mut Vec<DataIssue>,
) {
    if !document.count(VALUES_PER_ISSUE) {
        return;
    }
    issues.push(DataIssue {
        table,
        row_key: row_key.to_string(),
        field: String::new(),
        action: Action::DroppedRow,
        original: document.original(source),
    });
}

/// The row that an issue refers to. It is converted to text only if there is an issue.
#[derive(Debug, Clone, Copy)]
enum RowKey<'a> {
    Text(&'a str),
    /// A digest, and the position of a step in its history, from 1.
    Step(&'a str, usize),
    /// The id of an artifact.
    TagsOf(i64),
}

impl fmt::Display for RowKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowKey::Text(text) => f.write_str(text),
            RowKey::Step(digest, position) => write!(f, "{digest} {position}"),
            RowKey::TagsOf(artifact_id) => write!(f, "artifact {artifact_id}"),
        }
    }
}

/// An object of the answer with each field once.
struct Row<'a> {
    source: &'a str,
    members: Members<'a>,
    notes: Vec<(String, Action, Value)>,
}

/// The fields of an object, in their order. There are few, so a linear search is the fastest way to
/// find one.
type Members<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// In objects with more fields, which no real answer has, a hash table finds duplicates.
const FEW_FIELDS: usize = 64;

impl<'a> Row<'a> {
    /// `None` if it is not an object.
    fn read(document: &Document<'_>, source: &'a str) -> Option<Row<'a>> {
        if !source.starts_with('{') {
            return None;
        }
        let members = document.members(source).ok()?;
        Some(Row::of(document, source, members))
    }

    fn of(document: &Document<'_>, source: &'a str, given: Vec<Member<'a>>) -> Row<'a> {
        let mut members: Members<'a> = Vec::with_capacity(given.len());
        let mut notes = Vec::new();
        let mut places = (given.len() > FEW_FIELDS).then(HashMap::new);
        for member in given {
            let mut alterations = Alterations::default();
            let name = document.text(member.name, &mut alterations);
            for action in alterations.iter() {
                let original = Value::String(document.source(member.name));
                notes.push((name.clone().into_owned(), action, original));
            }
            let earlier = match &mut places {
                None => members.iter().position(|(earlier, _)| *earlier == name),
                Some(places) => places.insert(name.clone(), members.len()),
            };
            match earlier {
                None => members.push((name, member.value)),
                Some(place) => {
                    if let Some(places) = &mut places {
                        places.insert(name.clone(), place);
                    }
                    let earlier = std::mem::replace(&mut members[place].1, member.value);
                    let original = document.original(earlier);
                    notes.push((name.into_owned(), Action::GivenTwice, original));
                }
            }
        }
        Row {
            source,
            members,
            notes,
        }
    }

    /// The row's id as text; empty if it has none, so that it is unknown which row it is.
    fn key(&self, document: &Document<'_>, name: &str) -> String {
        let Some(value) = find(&self.members, name) else {
            return String::new();
        };
        match integer_of(document, value) {
            Ok(Some(id)) => id.to_string(),
            Err(Action::OutOfRange) => {
                let text = document.text(value, &mut Alterations::default());
                text.into_owned()
            }
            _ => String::new(),
        }
    }
}

fn find<'a>(members: &Members<'a>, name: &str) -> Option<&'a str> {
    let member = members.iter().find(|(member, _)| member == name);
    member.map(|(_, value)| *value)
}

/// The fields of one row; `extra` gets those that are not taken.
struct Fields<'a> {
    document: &'a Document<'a>,
    table: &'static str,
    row_key: RowKey<'a>,
    source: &'a str,
    members: Members<'a>,
    issues: &'a mut Vec<DataIssue>,
    /// Number of issues before this row.
    earlier_issues: usize,
}

/// Stored decimals of a time: timestamptz has six, and build steps have a column for three more.
const NANOSECONDS: usize = 9;
const MICROSECONDS: usize = 6;

/// 0001-01-01T00:00:00Z: Go's zero value of a time.
const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

impl<'a> Fields<'a> {
    fn new(
        document: &'a Document<'a>,
        table: &'static str,
        row_key: RowKey<'a>,
        row: Row<'a>,
        issues: &'a mut Vec<DataIssue>,
    ) -> Fields<'a> {
        let earlier_issues = issues.len();
        let mut fields = Fields {
            document,
            table,
            row_key,
            source: row.source,
            members: row.members,
            issues,
            earlier_issues,
        };
        for (field, action, original) in row.notes {
            fields.issue(&field, action, original);
        }
        fields
    }

    /// The fields of the document itself.
    fn of_document(
        document: &'a Document<'a>,
        table: &'static str,
        row_key: &'a str,
        members: Vec<Member<'a>>,
        issues: &'a mut Vec<DataIssue>,
    ) -> Fields<'a> {
        let row = Row::of(document, document.root(), members);
        Fields::new(document, table, RowKey::Text(row_key), row, issues)
    }

    /// Removes a field and returns its value as JSON text.
    fn take(&mut self, name: &str) -> Option<&'a str> {
        let place = self.members.iter().position(|(member, _)| member == name)?;
        Some(self.members.remove(place).1)
    }

    /// Removes a field and returns its value; `None` if it is null.
    fn take_value(&mut self, name: &str) -> Option<&'a str> {
        self.take(name).filter(|value| *value != "null")
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let source = self.take_value(name)?;
        if !source.starts_with('"') {
            self.refuse(name, Action::WrongType, source);
            return None;
        }
        let mut alterations = Alterations::default();
        let text = self.document.text(source, &mut alterations);
        self.note(name, &alterations, source);
        Some(text.into_owned())
    }

    /// False if it is missing, because the column is not null.
    fn boolean(&mut self, name: &str) -> bool {
        match self.take_value(name) {
            None | Some("false" | "\"false\"") => false,
            Some("true" | "\"true\"") => true,
            Some(other) => {
                self.refuse(name, Action::NotBoolean, other);
                false
            }
        }
    }

    fn integer(&mut self, name: &str) -> Option<i64> {
        let source = self.take(name)?;
        match integer_of(self.document, source) {
            Ok(value) => value,
            Err(action) => {
                self.refuse(name, action, source);
                None
            }
        }
    }

    fn value(&mut self, name: &str) -> Option<Value> {
        let source = self.take(name)?;
        let (value, alterations) = self.document.value(source);
        self.note(name, &alterations, source);
        Some(value)
    }

    /// A time in RFC 3339 with up to `decimals` decimals. An empty string is a missing time.
    fn time(&mut self, name: &str, decimals: usize) -> Option<DateTime<Utc>> {
        let source = self.take_value(name)?;
        if source == "\"\"" {
            return None;
        }
        let text = match source.starts_with('"') {
            true => self.document.text(source, &mut Alterations::default()),
            false => Cow::default(),
        };
        let Ok(time) = DateTime::parse_from_rfc3339(&text) else {
            self.refuse(name, Action::WrongType, source);
            return None;
        };
        let mut time = time.to_utc();
        if has_decimals_beyond(&text, decimals) {
            self.refuse(name, Action::CutTime, source);
        }
        if time.nanosecond() >= 1_000_000_000 {
            self.refuse(name, Action::LeapSecond, source);
            // 60.5 becomes 0.5 of the next minute.
            time = time
                .with_nanosecond(time.nanosecond() - 1_000_000_000)?
                .checked_add_signed(TimeDelta::seconds(1))?;
        }
        Some(time)
    }

    /// Like [`time`](Self::time), but the zero time means "never", as in Harbor.
    fn time_or_never(&mut self, name: &str) -> Option<DateTime<Utc>> {
        self.time(name, MICROSECONDS).filter(|time| {
            (time.timestamp(), time.timestamp_subsec_nanos()) != (ZERO_TIME_SECONDS, 0)
        })
    }

    /// An id that is required to store the row.
    fn key_integer(&mut self, name: &str) -> Option<i64> {
        integer_of(self.document, find(&self.members, name)?).ok()??;
        self.integer(name)
    }

    /// A text that is required to store the row.
    fn key_text(&mut self, name: &str) -> Option<String> {
        let text = self.peek_text(name)?;
        if text.is_empty() || text.len() > LONGEST_KEY_BYTES {
            return None;
        }
        self.text(name)
    }

    fn peek_text(&self, name: &str) -> Option<Cow<'a, str>> {
        let source = find(&self.members, name)?;
        source
            .starts_with('"')
            .then(|| self.document.text(source, &mut Alterations::default()))
    }

    /// Removes a field whose value is redundant.
    fn forget(&mut self, name: &str, is_known: impl Fn(&str) -> bool) {
        if find(&self.members, name).is_some_and(is_known) {
            self.take(name);
        }
    }

    /// Records a value that could not be stored unchanged.
    fn refuse(&mut self, field: &str, action: Action, source: &str) {
        let original = self.document.original(source);
        self.issue(field, action, original);
    }

    fn note(&mut self, field: &str, alterations: &Alterations, source: &str) {
        for action in alterations.iter() {
            let original = Value::String(self.document.source(source));
            self.issue(field, action, original);
        }
    }

    fn issue(&mut self, field: &str, action: Action, original: Value) {
        if !self.document.count(VALUES_PER_ISSUE) {
            return;
        }
        self.issues.push(DataIssue {
            table: self.table,
            row_key: self.row_key.to_string(),
            field: field.to_owned(),
            action,
            original,
        });
    }

    /// Records that the row has no key and cannot be stored. This issue replaces other issues of the row.
    fn drop_row(&mut self) {
        self.issues.truncate(self.earlier_issues);
        self.refuse("", Action::DroppedRow, self.source);
    }

    /// The fields that were not taken.
    fn rest(&mut self) -> Extra {
        let mut extra = Map::new();
        for (name, source) in std::mem::take(&mut self.members) {
            let (value, alterations) = self.document.value(source);
            self.note(&name, &alterations, source);
            extra.insert(name.into_owned(), value);
        }
        (!extra.is_empty()).then_some(extra)
    }
}

fn integer_of(document: &Document<'_>, value: &str) -> Result<Option<i64>, Action> {
    match value.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'-' | b'0'..=b'9') => json::integer(value).map(Some),
        // A number in quotes, if it has the canonical spelling.
        Some(b'"') => {
            let text = document.text(value, &mut Alterations::default());
            let digits = text.strip_prefix('-').unwrap_or(&text);
            let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !is_plain || (digits.starts_with('0') && text != "0") {
                return Err(Action::WrongType);
            }
            text.parse().map(Some).map_err(|_| Action::OutOfRange)
        }
        _ => Err(Action::WrongType),
    }
}

/// Whether a time in RFC 3339 has digits other than 0 after this many decimals.
fn has_decimals_beyond(time: &str, decimals: usize) -> bool {
    time.split_once('.').is_some_and(|(_, fraction)| {
        fraction
            .bytes()
            .take_while(u8::is_ascii_digit)
            .skip(decimals)
            .any(|digit| digit != b'0')
    })
}
