//! The state of the emulated registry: namespaces, repositories, artifacts and
//! tags, and single changes of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

use super::image::{Digest, History, Manifest, ManifestKind, REAL_IMAGES, Segment, roll};
use super::recipe::{Build, Recipe, chance};

/// The content of one emulated instance. Created by [`World::generate`], or
/// by hand from [`World::empty`].
#[derive(Debug)]
pub struct World {
    pub(super) seed: u64,
    pub(super) now: DateTime<Utc>,
    pub(super) quirks: Quirks,
    pub(super) namespaces: BTreeMap<i64, Namespace>,
    pub(super) repositories: BTreeMap<i64, Repository>,
    /// By ascending id, which is the order of the artifact list.
    pub(super) artifacts: BTreeMap<i64, Artifact>,
    /// By `namespace/name`.
    repository_ids: HashMap<String, i64>,
    pub(super) bases: Vec<BaseImage>,
    /// Rows of the artifact list that are returned word for word.
    pub(super) rows: BTreeMap<i64, Vec<u8>>,
    /// Responses for build histories that replace the derived ones, by reference.
    pub(super) answers: HashMap<String, CannedAnswer>,
    last_artifact_id: i64,
    last_tag_id: i64,
    last_repository_id: i64,
    last_namespace_id: i64,
}

/// A namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// `namespace_id` in the API.
    pub id: i64,
    /// 1 to 64 characters.
    pub name: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Whether everyone can pull from it.
    pub is_public: bool,
}

/// A repository.
#[derive(Debug)]
pub struct Repository {
    /// May be negative, as in databases that started with Harbor 1.x.
    pub id: i64,
    /// Its namespace.
    pub namespace_id: i64,
    /// Without the namespace; may contain slashes.
    pub name: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When something was last pushed.
    pub updated_at: DateTime<Utc>,
    /// Number of all pulls.
    pub pull_count: u64,
    pub(super) artifact_ids: BTreeMap<Digest, i64>,
    pub(super) source: Source,
}

/// How the artifacts of a repository are created.
#[derive(Debug)]
pub(super) enum Source {
    Base(usize),
    Application(Box<Recipe>),
    /// Builds an index over its image, and sometimes an attestation.
    MultiArch(Box<Recipe>),
    /// Helm charts; the number of those so far.
    Chart(u32),
    /// Builds of another repository that passed its checks.
    Release {
        from: i64,
    },
}

/// One row of the artifact list.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// Ascends with the time of the push, with gaps.
    pub id: i64,
    /// Its repository.
    pub repository_id: i64,
    /// The content of the digest; shared with the artifact it was promoted from.
    pub manifest: Arc<Manifest>,
    /// When it was pushed.
    pub pushed_at: DateTime<Utc>,
    /// When it was last pulled, if ever.
    pub pulled_at: Option<DateTime<Utc>>,
    /// Empty for an untagged artifact.
    pub tags: Vec<Tag>,
}

impl Artifact {
    /// The manifest's digest.
    pub fn digest(&self) -> Digest {
        self.manifest.digest
    }
}

/// A tag of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Stays the same when the tag moves.
    pub id: i64,
    /// Unique in its repository.
    pub name: String,
    /// When it was last set.
    pub pushed_at: DateTime<Utc>,
    /// When it was last pulled by this name; `None` if never.
    pub pulled_at: Option<DateTime<Utc>>,
}

/// The releases of a base image, oldest first.
#[derive(Debug)]
pub(super) struct BaseImage {
    pub(super) real: usize,
    pub(super) releases: Vec<(DateTime<Utc>, Arc<Segment>)>,
}

impl BaseImage {
    /// The release that a build at this time uses; the first one if all are newer.
    pub(super) fn release_at(&self, at: DateTime<Utc>) -> &Arc<Segment> {
        let newer = self.releases.partition_point(|(since, _)| *since <= at);
        &self.releases[newer.saturating_sub(1)].1
    }
}

/// A fixed status and body.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CannedAnswer {
    pub(super) status: u16,
    /// Sent as JSON, even if it is not.
    pub(super) body: Vec<u8>,
}

/// An artifact made by hand.
#[derive(Debug, Clone, Default)]
pub struct ArtifactSpec {
    /// Determines the type fields.
    pub kind: ManifestKind,
    /// By default derived from the artifact's id.
    pub digest: Option<Digest>,
    /// Manifest, config and layers.
    pub size_bytes: u64,
    /// The world's time by default.
    pub pushed_at: Option<DateTime<Utc>>,
    /// Never by default.
    pub pulled_at: Option<DateTime<Utc>>,
    /// By default from the artifacts of the repository.
    pub tags: Vec<String>,
    /// The fixed response for the build history. Without one, an image
    /// returns a null list, and an index or a chart 400.
    pub history: Option<Value>,
}

/// How often generated data contains the quirks of the live service and of
/// Harbor, which it is based on. Shares between 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Quirks {
    /// Rows without `repository_name`, and as many where it is null.
    pub repository_name_missing: f64,
    /// Whether untagged rows have no `tags`, null and `[]` in turn, or always null.
    pub untagged_spellings: bool,
    /// Listed artifacts whose build history is 404: deleted in between.
    pub gone: f64,
    /// Histories with an explicit `"empty_layer": false`.
    pub empty_layer_spelled: f64,
    /// Histories whose empty layers have media type and digest `""` and size 0, and
    /// as many where they are null.
    pub empty_layer_fields: f64,
    /// Histories whose `total` is not the number of entries.
    pub total_differs: f64,
    /// Histories where an entry lacks `created_by`.
    pub command_missing: f64,
    /// Repositories of Helm charts.
    pub chart_repositories: f64,
    /// Repositories whose tags point to an index, some with attestations.
    pub multi_arch_repositories: f64,
    /// Repositories of artifacts promoted from another one.
    pub release_repositories: f64,
    /// Whether one repository has a negative id.
    pub negative_repository_id: bool,
    /// Artifacts with an unexpected value in their row, and as many in their build
    /// history: types, sizes, times and text. See `hostile`.
    pub hostile: f64,
    /// As `hostile`, with text that is not Unicode: lone surrogates and invalid UTF-8.
    pub broken_text: f64,
    /// How often ids of artifacts skip 2^31 and 2^53.
    pub id_leaps: f64,
}

impl Default for Quirks {
    fn default() -> Quirks {
        Quirks {
            repository_name_missing: 0.005,
            untagged_spellings: true,
            gone: 0.002,
            empty_layer_spelled: 0.5,
            empty_layer_fields: 0.02,
            total_differs: 0.01,
            command_missing: 0.005,
            chart_repositories: 0.03,
            multi_arch_repositories: 0.08,
            release_repositories: 0.05,
            negative_repository_id: true,
            hostile: 0.0,
            broken_text: 0.0,
            id_leaps: 0.0,
        }
    }
}

impl Quirks {
    /// Only documented data.
    pub fn none() -> Quirks {
        Quirks {
            repository_name_missing: 0.0,
            untagged_spellings: false,
            gone: 0.0,
            empty_layer_spelled: 1.0,
            empty_layer_fields: 0.0,
            total_differs: 0.0,
            command_missing: 0.0,
            chart_repositories: 0.0,
            multi_arch_repositories: 0.0,
            release_repositories: 0.0,
            negative_repository_id: false,
            hostile: 0.0,
            broken_text: 0.0,
            id_leaps: 0.0,
        }
    }
}

/// The questions of [`roll`] about an artifact id or a digest.
pub(super) mod question {
    pub(crate) const REPOSITORY_NAME: u64 = 1;
    pub(crate) const UNTAGGED: u64 = 2;
    pub(crate) const GONE: u64 = 3;
    pub(crate) const EMPTY_LAYER: u64 = 4;
    pub(crate) const EMPTY_LAYER_FIELDS: u64 = 5;
    pub(crate) const TOTAL: u64 = 6;
    pub(crate) const COMMAND: u64 = 7;
    pub(crate) const COMMAND_POSITION: u64 = 8;
    pub(super) const ID_GAP: u64 = 9;
    pub(super) const ID_LEAP: u64 = 10;
    pub(crate) const HOSTILE_ROW: u64 = 11;
    pub(crate) const HOSTILE_STEP: u64 = 12;
    pub(crate) const HOSTILE_VALUE: u64 = 13;
    pub(crate) const HOSTILE_POSITION: u64 = 14;
    pub(crate) const BROKEN_ROW: u64 = 15;
    pub(crate) const BROKEN_STEP: u64 = 16;
}

/// Limits that ids skip: the end of int4, and of exact integers in a double.
const ID_LEAPS: [i64; 2] = [i32::MAX as i64 - 4, (1 << 53) - 4];

/// Prefix of a repository's id in the names of its random sequences.
const REPOSITORY_CHANCE: u64 = 1 << 40;

impl World {
    /// A registry without content and without quirks.
    pub fn empty(now: DateTime<Utc>) -> World {
        World {
            seed: 0,
            now,
            quirks: Quirks::none(),
            namespaces: BTreeMap::new(),
            repositories: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            repository_ids: HashMap::new(),
            bases: Vec::new(),
            rows: BTreeMap::new(),
            answers: HashMap::new(),
            last_artifact_id: 1000,
            last_tag_id: 5000,
            last_repository_id: 10,
            last_namespace_id: 1,
        }
    }

    /// The world's time, used for changes. Each change advances it.
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// Sets the time of later changes.
    pub fn set_now(&mut self, now: DateTime<Utc>) {
        self.now = now;
    }

    /// All artifacts, by ascending id.
    pub fn artifacts(&self) -> impl ExactSizeIterator<Item = &Artifact> {
        self.artifacts.values()
    }

    /// The artifact with this id.
    pub fn artifact(&self, id: i64) -> Option<&Artifact> {
        self.artifacts.get(&id)
    }

    /// All repositories, by ascending id.
    pub fn repositories(&self) -> impl ExactSizeIterator<Item = &Repository> {
        self.repositories.values()
    }

    /// All namespaces, by ascending id.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// The repository of this namespace and name.
    pub fn repository(&self, namespace: &str, name: &str) -> Option<&Repository> {
        let id = self.repository_ids.get(&format!("{namespace}/{name}"))?;
        self.repositories.get(id)
    }

    /// The artifacts of a repository, by ascending id.
    pub fn artifacts_of(&self, repository_id: i64) -> Vec<&Artifact> {
        let repository = self.repositories.get(&repository_id);
        let ids = repository.map(|repository| repository.artifact_ids.values());
        let mut artifacts: Vec<&Artifact> = ids
            .into_iter()
            .flatten()
            .filter_map(|id| self.artifacts.get(id))
            .collect();
        artifacts.sort_unstable_by_key(|artifact| artifact.id);
        artifacts
    }

    /// Adds a namespace if it does not exist, and returns its id.
    pub fn add_namespace(&mut self, name: &str) -> i64 {
        let known = self.namespaces.values().find(|known| known.name == name);
        if let Some(known) = known {
            return known.id;
        }
        self.last_namespace_id += 1;
        let id = self.last_namespace_id;
        self.namespaces.insert(
            id,
            Namespace {
                id,
                name: name.to_owned(),
                created_at: self.now,
                is_public: false,
            },
        );
        id
    }

    /// Adds a repository, and its namespace if needed, and returns its id. An existing one is not changed.
    pub fn add_repository(&mut self, namespace: &str, name: &str) -> i64 {
        if let Some(known) = self.repository(namespace, name) {
            return known.id;
        }
        self.last_repository_id += 1;
        let id = self.last_repository_id;
        self.add_repository_as(id, namespace, name)
    }

    /// Adds a repository with this id.
    pub fn add_repository_as(&mut self, id: i64, namespace: &str, name: &str) -> i64 {
        self.ensure_a_base_image();
        let base = usize::try_from(id.unsigned_abs()).unwrap_or(0) % self.bases.len();
        let chance = chance(self.seed, REPOSITORY_CHANCE ^ id.unsigned_abs());
        let namespace_id = self.add_namespace(namespace);
        self.repository_ids
            .insert(format!("{namespace}/{name}"), id);
        self.repositories.insert(
            id,
            Repository {
                id,
                namespace_id,
                name: name.to_owned(),
                created_at: self.now,
                updated_at: self.now,
                pull_count: 0,
                artifact_ids: BTreeMap::new(),
                source: Source::Application(Box::new(Recipe::new(chance, base))),
            },
        );
        id
    }

    /// Adds an artifact and returns its id, or `None` if there is no such repository.
    pub fn add_artifact(&mut self, repository_id: i64, spec: ArtifactSpec) -> Option<i64> {
        let ArtifactSpec {
            kind,
            digest,
            size_bytes,
            pushed_at,
            pulled_at,
            tags,
            history,
        } = spec;
        let is_image = !matches!(kind, ManifestKind::ImageIndex | ManifestKind::Chart);
        let history = match history {
            Some(document) => History::Document(document),
            None if is_image => History::Document(json!({"build_histories": null, "total": 0})),
            None => History::Unsupported,
        };
        let own_digest = Digest::of(&[&self.last_artifact_id.to_le_bytes()]);
        let manifest = Arc::new(Manifest {
            digest: digest.unwrap_or(own_digest),
            kind,
            size_bytes,
            history,
        });
        let pushed_at = pushed_at.unwrap_or(self.now);
        let artifact = self.insert(repository_id, manifest, pushed_at)?;
        let id = artifact.id;
        artifact.pulled_at = pulled_at;
        for tag in &tags {
            self.set_tag(repository_id, tag, id, pushed_at);
        }
        Some(id)
    }

    /// Returns this value for an artifact's row of the list.
    pub fn override_row(&mut self, artifact_id: i64, row: Value) {
        self.override_row_bytes(artifact_id, row.to_string());
    }

    /// As [`override_row`](World::override_row), with bytes that need not be JSON or text.
    pub fn override_row_bytes(&mut self, artifact_id: i64, row: impl Into<Vec<u8>>) {
        self.rows.insert(artifact_id, row.into());
    }

    /// Returns this for the build history of this reference (a digest),
    /// whether or not there is such an artifact.
    pub fn override_build_history(&mut self, reference: &str, status: u16, body: Value) {
        self.override_build_history_bytes(reference, status, body.to_string());
    }

    /// As [`override_build_history`](World::override_build_history), with bytes that need not be
    /// JSON or text.
    pub fn override_build_history_bytes(
        &mut self,
        reference: &str,
        status: u16,
        body: impl Into<Vec<u8>>,
    ) {
        let body = body.into();
        self.answers
            .insert(reference.to_owned(), CannedAnswer { status, body });
    }

    /// Builds and pushes the next image (or chart, or base image, or promotion)
    /// of a repository. The tags of the newest build move to it.
    pub fn push(&mut self, repository_id: i64) -> Option<Artifact> {
        let at = self.tick();
        let id = self.push_at(repository_id, at)?;
        self.artifacts.get(&id).cloned()
    }

    /// Points a tag to another artifact of its repository, or adds a tag.
    /// Returns whether repository and artifact exist.
    pub fn move_tag(&mut self, repository_id: i64, name: &str, artifact_id: i64) -> bool {
        let at = self.tick();
        self.set_tag(repository_id, name, artifact_id, at)
    }

    /// Removes a tag; returns whether there was one.
    pub fn remove_tag(&mut self, repository_id: i64, name: &str) -> bool {
        self.tick();
        self.take_tag(repository_id, name).is_some()
    }

    /// Deletes an artifact with its tags, and returns it.
    pub fn delete_artifact(&mut self, id: i64) -> Option<Artifact> {
        self.tick();
        let artifact = self.artifacts.remove(&id)?;
        if let Some(repository) = self.repositories.get_mut(&artifact.repository_id) {
            repository.artifact_ids.remove(&artifact.digest());
        }
        self.rows.remove(&id);
        Some(artifact)
    }

    /// Deletes a repository with its artifacts, and returns their number if it existed.
    pub fn delete_repository(&mut self, id: i64) -> Option<usize> {
        self.tick();
        let repository = self.repositories.remove(&id)?;
        let namespace = self.namespaces.get(&repository.namespace_id)?;
        self.repository_ids
            .remove(&format!("{}/{}", namespace.name, repository.name));
        for artifact_id in repository.artifact_ids.values() {
            self.artifacts.remove(artifact_id);
            self.rows.remove(artifact_id);
        }
        Some(repository.artifact_ids.len())
    }

    /// Copies an artifact into another repository: the same digest with another
    /// id, with the same tags. Returns an existing copy unchanged.
    pub fn promote(&mut self, artifact_id: i64, repository_id: i64) -> Option<Artifact> {
        let at = self.tick();
        let id = self.promote_at(artifact_id, repository_id, at)?;
        self.artifacts.get(&id).cloned()
    }

    /// Records a pull, by each of the artifact's tags; returns whether there is such an artifact.
    pub fn pull(&mut self, artifact_id: i64, at: DateTime<Utc>) -> bool {
        let Some(artifact) = self.artifacts.get_mut(&artifact_id) else {
            return false;
        };
        artifact.pulled_at = Some(at);
        for tag in &mut artifact.tags {
            tag.pulled_at = Some(at);
        }
        if let Some(repository) = self.repositories.get_mut(&artifact.repository_id) {
            repository.pull_count += 1;
        }
        true
    }

    /// Whether the quirks make the build history of this digest a 404, in all repositories.
    pub(super) fn is_gone(&self, digest: Digest) -> bool {
        digest.roll(question::GONE) < self.quirks.gone
    }

    pub(super) fn push_at(&mut self, repository_id: i64, at: DateTime<Utc>) -> Option<i64> {
        let repository = self.repositories.get_mut(&repository_id)?;
        match &mut repository.source {
            Source::Base(base) => {
                let base = *base;
                self.push_base(repository_id, base, at)
            }
            Source::Application(recipe) => {
                let build = recipe.build(self.bases[recipe.base].release_at(at), at);
                self.insert_build(repository_id, build, at)
            }
            Source::MultiArch(recipe) => {
                let build = recipe.build(self.bases[recipe.base].release_at(at), at);
                self.insert_multi_arch(repository_id, build, true, at)
            }
            Source::Chart(count) => {
                *count += 1;
                let count = *count;
                self.insert_chart(repository_id, count, at)
            }
            Source::Release { from } => {
                let from = *from;
                let newest = self.push_at(from, at)?;
                self.promote_at(newest, repository_id, at)
            }
        }
    }

    pub(super) fn insert_build(
        &mut self,
        repository_id: i64,
        build: Build,
        at: DateTime<Utc>,
    ) -> Option<i64> {
        let id = self.insert(repository_id, build.manifest, at)?.id;
        let tags = build.tags.iter().map(String::as_str);
        for tag in tags.chain(build.moving_tags.iter().copied()) {
            self.set_tag(repository_id, tag, id, at);
        }
        Some(id)
    }

    /// The untagged image, then the attestation if there is one, then the tagged index.
    pub(super) fn insert_multi_arch(
        &mut self,
        repository_id: i64,
        build: Build,
        is_attested: bool,
        at: DateTime<Utc>,
    ) -> Option<i64> {
        let image = Arc::clone(&build.manifest);
        self.insert(repository_id, Arc::clone(&image), at)?;
        if is_attested {
            // Harbor returns a null list; SWR may as well return an empty one.
            let list = if image.digest.roll(question::UNTAGGED) < 0.5 {
                Value::Null
            } else {
                json!([])
            };
            let attestation = Manifest {
                digest: Digest::of(&[b"attestation", image.digest.bytes()]),
                kind: ManifestKind::Attestation,
                size_bytes: 42_000,
                history: History::Document(json!({"build_histories": list, "total": 0})),
            };
            self.insert(repository_id, Arc::new(attestation), at)?;
        }
        let index = Manifest {
            digest: Digest::of(&[b"index", image.digest.bytes()]),
            kind: ManifestKind::ImageIndex,
            // The size of an index includes its images.
            size_bytes: image.size_bytes + 1609,
            history: History::Unsupported,
        };
        let build = Build {
            manifest: Arc::new(index),
            ..build
        };
        self.insert_build(repository_id, build, at)
    }

    pub(super) fn insert_chart(
        &mut self,
        repository_id: i64,
        count: u32,
        at: DateTime<Utc>,
    ) -> Option<i64> {
        let parts = [&repository_id.to_le_bytes()[..], &count.to_le_bytes()[..]];
        let manifest = Manifest {
            digest: Digest::of(&[b"chart", parts[0], parts[1]]),
            kind: ManifestKind::Chart,
            size_bytes: 9_000 + 37 * u64::from(count),
            history: History::Unsupported,
        };
        let build = Build {
            manifest: Arc::new(manifest),
            tags: vec![format!("{}.{}.{}", count / 40, count / 8 % 5, count % 8)],
            moving_tags: &[],
        };
        self.insert_build(repository_id, build, at)
    }

    pub(super) fn promote_at(
        &mut self,
        artifact_id: i64,
        repository_id: i64,
        at: DateTime<Utc>,
    ) -> Option<i64> {
        let artifact = self.artifacts.get(&artifact_id)?;
        let digest = artifact.digest();
        let manifest = Arc::clone(&artifact.manifest);
        let tags: Vec<String> = artifact.tags.iter().map(|tag| tag.name.clone()).collect();
        let repository = self.repositories.get(&repository_id)?;
        if let Some(known) = repository.artifact_ids.get(&digest) {
            return Some(*known);
        }
        let id = self.insert(repository_id, manifest, at)?.id;
        for tag in &tags {
            self.set_tag(repository_id, tag, id, at);
        }
        Some(id)
    }

    /// Adds an artifact without tags. A digest that is pushed again keeps its id.
    fn insert(
        &mut self,
        repository_id: i64,
        manifest: Arc<Manifest>,
        at: DateTime<Utc>,
    ) -> Option<&mut Artifact> {
        let repository = self.repositories.get_mut(&repository_id)?;
        repository.updated_at = repository.updated_at.max(at);
        let known = repository.artifact_ids.get(&manifest.digest).copied();
        let id = match known {
            Some(id) => id,
            None => {
                let last = self.last_artifact_id.unsigned_abs();
                let gap = roll(last, question::ID_GAP) * 9.0;
                let leaps = roll(last, question::ID_LEAP) < self.quirks.id_leaps;
                let leap = ID_LEAPS
                    .into_iter()
                    .find(|leap| leaps && *leap > last as i64);
                self.last_artifact_id = leap.unwrap_or(self.last_artifact_id) + 1 + gap as i64;
                self.last_artifact_id
            }
        };
        repository.artifact_ids.insert(manifest.digest, id);
        Some(self.artifacts.entry(id).or_insert(Artifact {
            id,
            repository_id,
            manifest,
            pushed_at: at,
            pulled_at: None,
            tags: Vec::new(),
        }))
    }

    pub(super) fn set_tag(
        &mut self,
        repository_id: i64,
        name: &str,
        artifact_id: i64,
        at: DateTime<Utc>,
    ) -> bool {
        let is_here = |artifact: &Artifact| artifact.repository_id == repository_id;
        if !self.artifacts.get(&artifact_id).is_some_and(is_here) {
            return false;
        }
        let id = match self.take_tag(repository_id, name) {
            Some(tag) => tag.id,
            None => {
                self.last_tag_id += 1;
                self.last_tag_id
            }
        };
        if let Some(artifact) = self.artifacts.get_mut(&artifact_id) {
            artifact.tags.push(Tag {
                id,
                name: name.to_owned(),
                pushed_at: at,
                pulled_at: None,
            });
        }
        true
    }

    fn take_tag(&mut self, repository_id: i64, name: &str) -> Option<Tag> {
        let repository = self.repositories.get(&repository_id)?;
        for id in repository.artifact_ids.values() {
            let tags = &mut self.artifacts.get_mut(id)?.tags;
            if let Some(position) = tags.iter().position(|tag| tag.name == name) {
                return Some(tags.remove(position));
            }
        }
        None
    }

    /// Two changes never have the same time, and thousands fit into minutes, so
    /// that a world created an hour ago does not get ahead of the clock.
    fn tick(&mut self) -> DateTime<Utc> {
        self.now += Duration::milliseconds(100);
        self.now
    }

    /// Worlds built by hand have no base repositories; their builds start from a real image.
    fn ensure_a_base_image(&mut self) {
        if self.bases.is_empty() {
            let real = &REAL_IMAGES[0];
            self.bases.push(BaseImage {
                real: 0,
                releases: vec![(DateTime::UNIX_EPOCH, Segment::new(real.steps.clone()))],
            });
        }
    }
}
