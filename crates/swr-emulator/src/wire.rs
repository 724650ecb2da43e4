//! The JSON of the API, with fields in the order of its documentation.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::fault::{Disturbance, Fault};
use super::hostile::{self, HostileValue};
use super::image::{Created, Digest, Manifest, Step, roll};
use super::settings::{BuildTime, Dialect, EmulatorSettings, Instance, LastMarker, NextMarker};
use super::world::{Artifact, Namespace, Quirks, Repository, Tag, World, question};

/// A field that may also be missing or null.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<T> {
    Absent,
    Null,
    Value(T),
}

impl<T> Field<T> {
    fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }
}

impl<T: Serialize> Serialize for Field<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Absent | Field::Null => serializer.serialize_none(),
            Field::Value(value) => value.serialize(serializer),
        }
    }
}

/// Harbor's time format: UTC with three decimals. A missing time is Go's zero
/// time.
#[derive(Debug, Clone, Copy)]
struct Milliseconds(Option<DateTime<Utc>>);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_str("0001-01-01T00:00:00.000Z"),
            Some(at) => serializer.collect_str(&at.format("%Y-%m-%dT%H:%M:%S%.3fZ")),
        }
    }
}

/// A page of the artifact list (swr_03_0306).
pub(super) struct ArtifactPage<'a> {
    world: &'a World,
    limit: usize,
    /// The marker in the request, and the id it means.
    asked: i64,
    from: i64,
    artifacts: Vec<&'a Artifact>,
    next_marker: Option<i64>,
}

/// Ids are below this; adding it any number of times gives another marker for the same id.
const OTHER_MARKER: i64 = 1 << 57;
/// From here on, markers only lead to further ones.
const ENDLESS_MARKERS: i64 = 1 << 62;

impl<'a> ArtifactPage<'a> {
    /// The artifacts from the id of `marker` on, and the id the next page begins with.
    pub(super) fn new(world: &'a World, marker: i64, limit: usize) -> ArtifactPage<'a> {
        let from = if marker < OTHER_MARKER {
            marker
        } else {
            marker % OTHER_MARKER
        };
        let mut rest = world.artifacts.range(from..).map(|(_, artifact)| artifact);
        let artifacts = rest.by_ref().take(limit).collect();
        let mut page = ArtifactPage {
            world,
            limit,
            asked: marker,
            from,
            artifacts,
            next_marker: rest.next().map(|next| next.id),
        };
        if marker >= ENDLESS_MARKERS {
            page.go_on_for_ever();
        }
        page
    }

    fn go_on_for_ever(&mut self) {
        self.artifacts = self.before(i64::MAX, self.limit);
        self.next_marker = Some(self.asked.max(ENDLESS_MARKERS) + 1);
    }

    /// Up to `count` artifacts before an id.
    fn before(&self, id: i64, count: usize) -> Vec<&'a Artifact> {
        let before = self.world.artifacts.range(..id).rev();
        let mut artifacts: Vec<&Artifact> = before.take(count).map(|(_, known)| known).collect();
        artifacts.reverse();
        artifacts
    }

    /// Whether there are pages before this one, and this applies to the id of its first row.
    fn has_before_and(&self, holds: impl FnOnce(i64) -> bool) -> bool {
        let first = self.artifacts.first();
        !self.before(self.from, 1).is_empty() && first.is_some_and(|first| holds(first.id))
    }

    /// Applies the faults of pages.
    pub(super) fn disturb(&mut self, disturbance: Disturbance<'_>) {
        match disturbance.fault {
            Some(Fault::RepeatedMarker) => self.next_marker = Some(self.asked),
            Some(Fault::DecreasingMarker) => {
                // Between the places where pages begin.
                let rank = self.world.artifacts.range(..self.from).count();
                let earlier = self.world.artifacts.keys().nth(rank * 2 / 5 + 3);
                self.next_marker = earlier
                    .filter(|id| **id < self.from)
                    .copied()
                    .or(self.next_marker);
            }
            Some(Fault::EndlessMarkers) => self.go_on_for_ever(),
            Some(Fault::EmptyPage) if self.asked < ENDLESS_MARKERS - OTHER_MARKER => {
                self.artifacts.clear();
                self.next_marker = Some(self.asked + OTHER_MARKER);
            }
            Some(Fault::ShortPage) if self.artifacts.len() > 1 => {
                let rest = self.artifacts.split_off(self.artifacts.len() / 2);
                self.next_marker = Some(rest[0].id);
            }
            Some(Fault::DuplicateRows) => {
                let repeated = self.before(self.from, 3);
                self.artifacts.splice(0..0, repeated);
            }
            Some(Fault::MissingRows) if self.has_before_and(|first| disturbance.loses(first)) => {
                self.artifacts.remove(0);
            }
            _ => {}
        }
    }

    /// Written by hand, because rows may not be JSON.
    pub(super) fn to_json(&self, dialect: Dialect) -> Vec<u8> {
        let mut json = br#"{"artifacts":["#.to_vec();
        for (position, artifact) in self.artifacts.iter().enumerate() {
            if position > 0 {
                json.push(b',');
            }
            match self.world.rows.get(&artifact.id) {
                Some(row) => json.extend_from_slice(row),
                None => DerivedRow::new(self.world, artifact).write(&mut json, &self.world.quirks),
            }
        }
        json.push(b']');
        let next_marker = match (self.next_marker, dialect.next_marker, dialect.last_marker) {
            (Some(next), NextMarker::Number, _) => format!(r#","next_marker":{next}"#),
            (Some(next), NextMarker::Text, _) => format!(r#","next_marker":"{next}""#),
            (None, _, LastMarker::Absent) => String::new(),
            (None, _, LastMarker::Null) => r#","next_marker":null"#.to_owned(),
        };
        json.extend_from_slice(next_marker.as_bytes());
        json.push(b'}');
        json
    }
}

#[derive(Serialize)]
struct DerivedRow<'a> {
    id: i64,
    digest: Digest,
    repository_id: i64,
    #[serde(skip_serializing_if = "Field::is_absent")]
    repository_name: Field<String>,
    namespace_id: i64,
    r#type: &'static str,
    media_type: &'static str,
    manifest_media_type: &'static str,
    pull_time: Milliseconds,
    push_time: Milliseconds,
    size: u64,
    #[serde(skip_serializing_if = "Field::is_absent")]
    tags: Field<Vec<TagRow<'a>>>,
}

#[derive(Serialize)]
struct TagRow<'a> {
    id: i64,
    repository_id: i64,
    artifact_id: i64,
    name: &'a str,
    push_time: Milliseconds,
    pull_time: Milliseconds,
}

impl<'a> DerivedRow<'a> {
    fn new(world: &'a World, artifact: &'a Artifact) -> DerivedRow<'a> {
        let Artifact {
            id,
            repository_id,
            manifest,
            pushed_at,
            pulled_at,
            tags,
        } = artifact;
        let repository = world.repositories.get(repository_id);
        let (r#type, media_type, manifest_media_type) = manifest.kind.types();
        DerivedRow {
            id: *id,
            digest: manifest.digest,
            repository_id: *repository_id,
            repository_name: repository_name(world, artifact.id, repository),
            namespace_id: repository.map_or(0, |repository| repository.namespace_id),
            r#type,
            media_type,
            manifest_media_type,
            pull_time: Milliseconds(*pulled_at),
            push_time: Milliseconds(Some(*pushed_at)),
            size: manifest.size_bytes,
            tags: tag_rows(&world.quirks, artifact, tags),
        }
    }

    fn write(&self, json: &mut Vec<u8>, quirks: &Quirks) {
        let id = self.id.unsigned_abs();
        let odd = [
            (question::HOSTILE_ROW, quirks.hostile, hostile::ROW),
            (
                question::BROKEN_ROW,
                quirks.broken_text,
                hostile::BROKEN_ROW,
            ),
        ];
        let chosen = odd
            .into_iter()
            .find(|(question, share, _)| roll(id, *question) < *share);
        match chosen {
            None => write(json, self),
            Some((_, _, values)) => {
                let value = hostile::pick(values, roll(id, question::HOSTILE_VALUE));
                hostile::write_with(json, self, value);
            }
        }
    }
}

fn write(json: &mut Vec<u8>, value: &impl Serialize) {
    // Neither memory nor these types can fail; if they did, the page would show it.
    let _ = serde_json::to_writer(json, value);
}

/// With the namespace as prefix, as in Harbor; not documented.
fn repository_name(world: &World, id: i64, repository: Option<&Repository>) -> Field<String> {
    let rate = world.quirks.repository_name_missing;
    let rolled = roll(id.unsigned_abs(), question::REPOSITORY_NAME);
    if rolled < rate {
        return Field::Absent;
    }
    let namespace = repository.and_then(|known| world.namespaces.get(&known.namespace_id));
    match (namespace, repository) {
        (Some(namespace), Some(repository)) if rolled >= 2.0 * rate => {
            Field::Value(format!("{}/{}", namespace.name, repository.name))
        }
        _ => Field::Null,
    }
}

fn tag_rows<'a>(quirks: &Quirks, artifact: &Artifact, tags: &'a [Tag]) -> Field<Vec<TagRow<'a>>> {
    if tags.is_empty() {
        if !quirks.untagged_spellings {
            return Field::Null;
        }
        return match roll(artifact.id.unsigned_abs(), question::UNTAGGED) {
            ..0.33 => Field::Absent,
            0.33..0.66 => Field::Value(Vec::new()),
            _ => Field::Null,
        };
    }
    let rows = tags.iter().map(|tag| TagRow {
        id: tag.id,
        repository_id: artifact.repository_id,
        artifact_id: artifact.id,
        name: &tag.name,
        push_time: Milliseconds(Some(tag.pushed_at)),
        pull_time: Milliseconds(tag.pulled_at),
    });
    Field::Value(rows.collect())
}

/// A build history (swr_03_0305).
pub(super) struct BuildHistoryPage<'a> {
    manifest: &'a Manifest,
    dialect: Dialect,
    total: usize,
    is_empty_layer_spelled: bool,
    empty_layer_fields: Field<()>,
    /// The position of the entry without a command.
    without_command: Option<usize>,
    /// The position of the entry with an unexpected value.
    hostile: Option<(usize, &'static HostileValue)>,
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Created>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Created>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_layer: Option<bool>,
    #[serde(rename = "mediaType", skip_serializing_if = "Field::is_absent")]
    media_type: Field<&'static str>,
    #[serde(skip_serializing_if = "Field::is_absent")]
    size: Field<u64>,
    #[serde(skip_serializing_if = "Field::is_absent")]
    digest: Field<LayerDigest>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LayerDigest {
    Of(Digest),
    Blank(&'static str),
}

impl<'a> BuildHistoryPage<'a> {
    /// The history with the quirks of this digest.
    pub(super) fn new(manifest: &'a Manifest, quirks: &Quirks, dialect: Dialect) -> Self {
        let digest = manifest.digest;
        let entries = manifest.steps().count();
        let total_differs = digest.roll(question::TOTAL) < quirks.total_differs;
        let lacks_command = digest.roll(question::COMMAND) < quirks.command_missing;
        let position = digest.roll(question::COMMAND_POSITION) * entries as f64;
        let blank = quirks.empty_layer_fields;
        let rolled = digest.roll(question::EMPTY_LAYER_FIELDS);
        let odd = [
            (question::HOSTILE_STEP, quirks.hostile, hostile::STEP),
            (
                question::BROKEN_STEP,
                quirks.broken_text,
                hostile::BROKEN_STEP,
            ),
        ];
        let chosen = odd
            .into_iter()
            .find(|(question, share, _)| digest.roll(*question) < *share);
        let hostile_position = digest.roll(question::HOSTILE_POSITION) * entries as f64;
        BuildHistoryPage {
            manifest,
            dialect,
            total: entries + usize::from(total_differs),
            is_empty_layer_spelled: digest.roll(question::EMPTY_LAYER) < quirks.empty_layer_spelled,
            empty_layer_fields: if rolled < blank {
                Field::Value(())
            } else if rolled < 2.0 * blank {
                Field::Null
            } else {
                Field::Absent
            },
            without_command: lacks_command.then_some(position as usize),
            hostile: chosen.map(|(_, _, values)| {
                let value = hostile::pick(values, digest.roll(question::HOSTILE_VALUE));
                (hostile_position as usize, value)
            }),
        }
    }

    /// Written by hand, because entries may not be JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut json = br#"{"build_histories":["#.to_vec();
        for (position, step) in self.manifest.steps().enumerate() {
            if position > 0 {
                json.push(b',');
            }
            let entry = self.entry(position, step);
            match self.hostile {
                Some((at, value)) if at == position => {
                    hostile::write_with(&mut json, &entry, value)
                }
                _ => write(&mut json, &entry),
            }
        }
        json.extend_from_slice(format!(r#"],"total":{}}}"#, self.total).as_bytes());
        json
    }

    fn entry<'s>(&self, position: usize, step: &'s Step) -> Entry<'s> {
        let (created, created_at) = match self.dialect.build_time {
            BuildTime::Created => (step.created, None),
            BuildTime::CreatedAt => (None, step.created),
        };
        let command = step.command.as_deref();
        let (media_type, size, digest) = match (&step.layer, self.empty_layer_fields) {
            (Some(layer), _) => (
                Field::Value(layer.media_type),
                Field::Value(layer.size_bytes),
                Field::Value(LayerDigest::Of(layer.digest)),
            ),
            (None, Field::Absent) => (Field::Absent, Field::Absent, Field::Absent),
            (None, Field::Null) => (Field::Null, Field::Null, Field::Null),
            (None, Field::Value(())) => (
                Field::Value(""),
                Field::Value(0),
                Field::Value(LayerDigest::Blank("")),
            ),
        };
        let is_empty = step.layer.is_none();
        Entry {
            created,
            created_at,
            created_by: command.filter(|_| self.without_command != Some(position)),
            empty_layer: (is_empty || self.is_empty_layer_spelled).then_some(is_empty),
            media_type,
            size,
            digest,
        }
    }
}

/// A page of namespaces (swr_03_0102).
#[derive(Serialize)]
pub(super) struct NamespacePage<'a> {
    pub(super) namespaces: Vec<NamespaceRow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct NamespaceRow<'a> {
    name: &'a str,
    namespace_id: i64,
    metadata: NamespaceMetadata,
    created_at: Milliseconds,
    updated_at: Milliseconds,
    repo_count: usize,
    cve_allowlist: CveAllowlist,
}

/// Booleans are strings here.
#[derive(Serialize)]
struct NamespaceMetadata {
    public: &'static str,
    auto_scan: &'static str,
    prevent_vul: &'static str,
    severity: &'static str,
}

#[derive(Serialize)]
struct CveAllowlist {
    items: [(); 0],
}

impl<'a> NamespaceRow<'a> {
    pub(super) fn new(namespace: &'a Namespace, repo_count: usize) -> NamespaceRow<'a> {
        let created_at = Milliseconds(Some(namespace.created_at));
        NamespaceRow {
            name: &namespace.name,
            namespace_id: namespace.id,
            metadata: NamespaceMetadata {
                public: if namespace.is_public { "true" } else { "false" },
                auto_scan: "false",
                prevent_vul: "false",
                severity: "low",
            },
            created_at,
            updated_at: created_at,
            repo_count,
            cve_allowlist: CveAllowlist { items: [] },
        }
    }
}

/// A page of repositories (swr_03_0201).
#[derive(Serialize)]
pub(super) struct RepositoryPage<'a> {
    pub(super) repositories: Vec<RepositoryRow<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct RepositoryRow<'a> {
    id: i64,
    name: &'a str,
    namespace_name: &'a str,
    namespace_id: i64,
    tag_count: usize,
    pull_count: u64,
    artifact_count: usize,
    description: &'static str,
    created_at: Milliseconds,
    updated_at: Milliseconds,
}

impl<'a> RepositoryRow<'a> {
    pub(super) fn new(world: &'a World, repository: &'a Repository) -> RepositoryRow<'a> {
        let namespace = world.namespaces.get(&repository.namespace_id);
        let artifacts = repository.artifact_ids.values();
        RepositoryRow {
            id: repository.id,
            name: &repository.name,
            namespace_name: namespace.map_or("", |namespace| &namespace.name),
            namespace_id: repository.namespace_id,
            tag_count: artifacts
                .filter_map(|id| world.artifacts.get(id))
                .map(|artifact| artifact.tags.len())
                .sum(),
            pull_count: repository.pull_count,
            artifact_count: repository.artifact_ids.len(),
            description: "",
            created_at: Milliseconds(Some(repository.created_at)),
            updated_at: Milliseconds(Some(repository.updated_at)),
        }
    }
}

/// A page of instances (swr_03_0002).
#[derive(Serialize)]
pub(super) struct InstancePage<'a> {
    pub(super) instances: Vec<InstanceRow<'a>>,
    pub(super) total: usize,
}

/// An instance (swr_03_0003).
#[derive(Serialize)]
pub(super) struct InstanceRow<'a> {
    id: &'a str,
    name: &'a str,
    description: &'static str,
    spec: &'static str,
    version: &'a str,
    status: &'a str,
    charge_mode: &'static str,
    access_address: String,
    created_at: Milliseconds,
    updated_at: Milliseconds,
    expires_at: Cow<'static, str>,
    project_id: &'a str,
    enterprise_project_id: &'static str,
    vpc_name: &'static str,
    vpc_cidr: &'static str,
    subnet_name: &'static str,
    subnet_cidr: &'static str,
    user_def_obs: bool,
}

impl<'a> InstanceRow<'a> {
    pub(super) fn new(
        settings: &'a EmulatorSettings,
        (instance, world): &'a (Instance, World),
    ) -> InstanceRow<'a> {
        let oldest = world.namespaces.values().map(|known| known.created_at);
        let created_at = Milliseconds(Some(oldest.min().unwrap_or(world.now)));
        InstanceRow {
            id: &instance.id,
            name: &instance.name,
            description: "",
            spec: "swr.ee.professional",
            version: &instance.version,
            status: &instance.status,
            charge_mode: "postPaid",
            access_address: format!(
                "{}-swr.{}.myhuaweicloud.com",
                instance.name, settings.region
            ),
            created_at,
            updated_at: created_at,
            expires_at: Cow::Borrowed(""),
            project_id: &settings.project_id,
            enterprise_project_id: "0",
            vpc_name: "vpc-default",
            vpc_cidr: "192.168.0.0/16",
            subnet_name: "subnet-default",
            subnet_cidr: "192.168.0.0/24",
            user_def_obs: false,
        }
    }
}
