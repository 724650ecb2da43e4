//! All reports about the content of registries, after random histories of changes, compared with a simple
//! computation from the listings. There are two instances in one database, with the same ids and images.
//!
//! `MODEL_SEEDS=100 cargo test --test it -- reports::model` tries this many histories.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use swr_emulator::Instance;

use super::*;

type Time = DateTime<Utc>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Index,
    Chart,
}

#[derive(Debug, Clone, PartialEq)]
struct Tag {
    id: i64,
    pushed_at: Option<Time>,
    pulled_at: Option<Time>,
}

/// A row of the artifact list.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    id: i64,
    repository_id: i64,
    namespace_id: i64,
    digest: String,
    size: Option<i64>,
    pushed_at: Option<Time>,
    pulled_at: Option<Time>,
    kind: Kind,
    tags: BTreeMap<String, Tag>,
}

#[derive(Debug, Clone, PartialEq)]
struct Step {
    command: String,
    /// Its digest, and whether the history has its size.
    layer: Option<(u32, bool)>,
}

/// Multiples of the number of repositories that may share a layer, so that shares have no fractions.
fn layer_size(number: u32) -> i64 {
    i64::from(number % 7 + 1) * 840
}

fn layer_digest(number: u32) -> String {
    format!("sha256:{number:064x}")
}

fn image_digest(number: usize) -> String {
    format!("sha256:f{number:063x}")
}

/// Before 1980 is never.
fn known(time: Option<Time>) -> Option<Time> {
    time.filter(|time| time.timestamp() >= 315_532_800)
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or("NULL".to_owned(), |value| value.to_string())
}

fn time(time: Option<Time>) -> String {
    shown(time.map(|time| time.format("%Y-%m-%d %H:%M:%S+00")))
}

/// The content of a registry.
#[derive(Default)]
struct Registry {
    repositories: BTreeMap<i64, (i64, String)>,
    rows: BTreeMap<i64, Row>,
    removed: Vec<Row>,
    /// Digests whose history is not available yet.
    late: BTreeSet<String>,
    last_id: i64,
}

const NAMESPACES: [&str; 3] = ["base", "payments", "search"];
/// Their ids in the emulator.
const NAMESPACE_IDS: std::ops::RangeInclusive<i64> = 2..=4;

fn namespace(id: i64) -> &'static str {
    NAMESPACES[(id - NAMESPACE_IDS.start()) as usize]
}

/// The histories of images, by digest: the same in both instances.
#[derive(Default)]
struct Images(BTreeMap<String, Vec<Step>>);

impl Images {
    fn build(&mut self, chance: &mut Rng) -> String {
        let mut steps = Vec::new();
        let number = self.0.len();
        if number > 0 && chance.u8(..) < 210 {
            let base = self.0.keys().nth(chance.usize(..number)).unwrap();
            steps.extend_from_slice(&self.0[base]);
        }
        for _ in 0..chance.usize(0..3) + usize::from(steps.is_empty()) {
            let command = format!("RUN {}", chance.u8(0..4));
            let layer = (chance.u8(..) < 150).then(|| (chance.u32(1..25), chance.u8(..) < 200));
            steps.push(Step { command, layer });
        }
        let digest = image_digest(number);
        self.0.insert(digest.clone(), steps);
        digest
    }
}

impl Registry {
    fn add(
        &mut self,
        repository_id: i64,
        digest: String,
        kind: Kind,
        now: Time,
        chance: &mut Rng,
    ) -> i64 {
        self.last_id += 1;
        let row = Row {
            id: self.last_id,
            repository_id,
            namespace_id: self.repositories[&repository_id].0,
            digest,
            size: (chance.u8(..) < 230).then(|| chance.i64(1..50) * 100),
            pushed_at: (chance.u8(..) < 230).then_some(now),
            pulled_at: None,
            kind,
            tags: BTreeMap::new(),
        };
        self.rows.insert(self.last_id, row);
        self.last_id
    }

    fn set_tag(&mut self, id: i64, name: &str, now: Time) {
        let repository_id = self.rows[&id].repository_id;
        for row in self.rows.values_mut() {
            if row.repository_id == repository_id {
                row.tags.remove(name);
            }
        }
        let tag = Tag {
            id: 1000 * repository_id + i64::from(name.as_bytes()[1]),
            pushed_at: Some(now),
            pulled_at: None,
        };
        let row = self.rows.get_mut(&id).unwrap();
        row.tags.insert(name.to_owned(), tag);
    }

    fn delete(&mut self, id: i64) {
        let row = self.rows.remove(&id).unwrap();
        self.removed.push(row);
    }

    fn has(&self, repository_id: i64, digest: &str) -> bool {
        let mut rows = self.rows.values();
        rows.any(|row| row.repository_id == repository_id && row.digest == digest)
    }

    /// One random change.
    fn change(&mut self, images: &mut Images, now: Time, chance: &mut Rng) {
        let repositories: Vec<i64> = self.repositories.keys().copied().collect();
        let repository_id = repositories[chance.usize(..repositories.len())];
        let ids: Vec<i64> = self.rows.keys().copied().collect();
        let tag = format!("v{}", chance.u8(0..4));
        let some = ids.get(chance.usize(..ids.len().max(1))).copied();
        match (chance.u8(0..27), some) {
            (0..6, _) => {
                let known = images.0.len();
                let digest = match known > 0 && chance.bool() {
                    true => image_digest(chance.usize(..known)),
                    false => images.build(chance),
                };
                if self.has(repository_id, &digest) {
                    return;
                }
                if chance.u8(..) < 30 {
                    self.late.insert(digest.clone());
                }
                let id = self.add(repository_id, digest, Kind::Image, now, chance);
                if chance.bool() {
                    self.set_tag(id, &tag, now);
                }
            }
            (6..8, _) => {
                let digest = format!("sha256:e{:063x}", self.last_id);
                let kind = if chance.u8(..) < 200 {
                    Kind::Index
                } else {
                    Kind::Chart
                };
                let id = self.add(repository_id, digest, kind, now, chance);
                if let Some(size) = &mut self.rows.get_mut(&id).unwrap().size {
                    *size += 2500;
                }
                if chance.u8(..) < 200 {
                    self.set_tag(id, &tag, now);
                }
            }
            (8..11, Some(id)) => self.delete(id),
            (11..13, Some(id)) => {
                // The digest again, under another id.
                let row = self.rows[&id].clone();
                self.delete(id);
                let again = self.add(row.repository_id, row.digest, row.kind, now, chance);
                for name in row.tags.keys() {
                    self.set_tag(again, name, now);
                }
            }
            (13..16, Some(id)) => self.set_tag(id, &tag, now),
            (16, Some(id)) => {
                // Without a push.
                self.set_tag(id, &tag, now - TimeDelta::days(3000));
            }
            (17..19, Some(id)) => {
                self.rows.get_mut(&id).unwrap().tags.pop_first();
            }
            (19, Some(id)) => {
                let never = "0001-01-01T00:00:43Z".parse().unwrap();
                let at = if chance.bool() { now } else { never };
                let row = self.rows.get_mut(&id).unwrap();
                row.pulled_at = Some(at);
                for tag in row.tags.values_mut() {
                    tag.pulled_at = Some(at);
                }
            }
            (20..22, Some(id)) => {
                let row = self.rows.get_mut(&id).unwrap();
                match chance.u8(0..4) {
                    0 => row.size = Some(chance.i64(1..50) * 100),
                    1 => row.size = None,
                    2 => row.pushed_at = Some(now),
                    _ => row.pushed_at = None,
                }
            }
            (22, _) => {
                let Some(mut row) = self.removed.pop() else {
                    return;
                };
                let is_possible = self.repositories.contains_key(&row.repository_id)
                    && !self.has(row.repository_id, &row.digest);
                if is_possible {
                    row.tags.clear();
                    row.namespace_id = self.repositories[&row.repository_id].0;
                    self.rows.insert(row.id, row);
                }
            }
            (23, _) if chance.bool() => {
                let namespace_id = chance.i64(NAMESPACE_IDS);
                self.repositories.get_mut(&repository_id).unwrap().0 = namespace_id;
                for row in self.rows.values_mut() {
                    if row.repository_id == repository_id {
                        row.namespace_id = namespace_id;
                    }
                }
            }
            (24, _) if chance.bool() => {
                let gone: Vec<i64> = self
                    .rows
                    .values()
                    .filter(|row| row.repository_id == repository_id)
                    .map(|row| row.id)
                    .collect();
                for id in gone {
                    self.delete(id);
                }
            }
            (25, _) => self.late.clear(),
            (26, Some(id)) => {
                // The id in another repository.
                let digest = self.rows[&id].digest.clone();
                if !self.has(repository_id, &digest) {
                    let namespace_id = self.repositories[&repository_id].0;
                    let row = self.rows.get_mut(&id).unwrap();
                    row.tags.clear();
                    (row.repository_id, row.namespace_id) = (repository_id, namespace_id);
                }
            }
            _ => {}
        }
    }

    fn world(&self, images: &Images, now: Time) -> World {
        let mut world = World::empty(now);
        for name in NAMESPACES {
            world.add_namespace(name);
        }
        for (id, (namespace_id, name)) in &self.repositories {
            world.add_repository_as(*id, namespace(*namespace_id), name);
        }
        for row in self.rows.values() {
            let steps = images.0.get(&row.digest);
            let spec = ArtifactSpec {
                kind: match row.kind {
                    Kind::Image => ManifestKind::default(),
                    Kind::Index => ManifestKind::ImageIndex,
                    Kind::Chart => ManifestKind::Chart,
                },
                digest: Digest::parse(&row.digest),
                history: steps.and_then(|steps| {
                    let entries: Vec<Value> = steps.iter().map(entry).collect();
                    history(&entries)
                }),
                ..ArtifactSpec::default()
            };
            let id = world.add_artifact(row.repository_id, spec).unwrap();
            world.override_row(id, row_document(row));
            if self.late.contains(&row.digest) {
                let refusal = json!({"error_code": "SVCSTG.SWR.4040010", "error_msg": "not found"});
                world.override_build_history(&row.digest, 404, refusal);
            }
        }
        world
    }
}

fn entry(step: &Step) -> Value {
    let Step { command, layer } = step;
    let mut entry = json!({"created": "2026-01-02T03:04:05Z", "created_by": command, "empty_layer": layer.is_none()});
    if let Some((number, has_size)) = layer {
        entry["digest"] = layer_digest(*number).into();
        if *has_size {
            entry["size"] = layer_size(*number).into();
        }
    }
    entry
}

fn row_document(row: &Row) -> Value {
    let text =
        |time: Option<Time>| time.map(|time| time.format("%Y-%m-%dT%H:%M:%S.000Z").to_string());
    let tags: Vec<Value> = row
        .tags
        .iter()
        .map(|(name, tag)| {
            let (pushed_at, pulled_at) = (text(tag.pushed_at), text(tag.pulled_at));
            json!({"id": tag.id, "name": name, "push_time": pushed_at, "pull_time": pulled_at})
        })
        .collect();
    let media_type = match row.kind {
        Kind::Index => "application/vnd.oci.image.index.v1+json",
        Kind::Image | Kind::Chart => "application/vnd.oci.image.manifest.v1+json",
    };
    json!({
        "id": row.id, "digest": row.digest, "repository_id": row.repository_id, "namespace_id": row.namespace_id,
        "size": row.size, "push_time": text(row.pushed_at), "pull_time": text(row.pulled_at), "tags": tags,
        "manifest_media_type": media_type, "type": if row.kind == Kind::Chart { "CHART" } else { "IMAGE" },
    })
}

/// When an artifact was found removed, and by which run.
type Removal = Option<(Time, i64)>;

/// An artifact that was ever listed.
struct Listed {
    row: Row,
    first_run: i64,
    removed: Removal,
    /// The rows before the runs that changed it, and when it had been removed.
    past: Vec<(i64, Row, Removal)>,
}

impl Listed {
    /// The row after a run.
    fn after(&self, run_id: i64) -> &Row {
        let later = self.past.iter().find(|(run, ..)| *run > run_id);
        later.map_or(&self.row, |(_, row, _)| row)
    }

    fn before(&self, run_id: i64) -> &Row {
        self.after(run_id - 1)
    }
}

struct Interval {
    repository_id: i64,
    name: String,
    from: Time,
    to: Option<Time>,
    id: i64,
    digest: String,
    opened_run: i64,
    closed_run: Option<i64>,
}

struct ShownTag {
    id: i64,
    tag: Tag,
    missing_since: Option<i64>,
}

#[derive(Debug, Clone, PartialEq)]
struct Fetched {
    outcome: &'static str,
    attempts: i64,
}

impl Fetched {
    fn is_final(&self) -> bool {
        self.outcome != "gone"
    }
}

type Storage = [i64; 5];

/// The expected content of the database for an instance.
#[derive(Default)]
struct Expected {
    instance_id: i64,
    artifacts: BTreeMap<i64, Listed>,
    repositories: BTreeMap<i64, (i64, String)>,
    tags: BTreeMap<(i64, String), ShownTag>,
    intervals: Vec<Interval>,
    fetched: BTreeMap<String, Fetched>,
    runs: BTreeMap<i64, Time>,
    /// By namespace and run.
    storage: BTreeMap<i64, Vec<(i64, Storage)>>,
}

impl Expected {
    fn publish(
        &mut self,
        registry: &Registry,
        images: &Images,
        others: &BTreeMap<String, Fetched>,
        run_id: i64,
        now: Time,
    ) {
        let previous = self.runs.values().last().copied();
        let previous = previous.unwrap_or(DateTime::UNIX_EPOCH);
        self.fetch(registry, images, others);
        self.publish_tags(registry, run_id, now, previous);
        for row in registry.rows.values() {
            match self.artifacts.get_mut(&row.id) {
                None => {
                    let listed = Listed {
                        row: row.clone(),
                        first_run: run_id,
                        removed: None,
                        past: Vec::new(),
                    };
                    self.artifacts.insert(row.id, listed);
                }
                Some(listed) => {
                    let like = Row {
                        pulled_at: row.pulled_at,
                        tags: row.tags.clone(),
                        ..listed.row.clone()
                    };
                    let old = std::mem::replace(&mut listed.row, row.clone());
                    let removed = listed.removed.take();
                    if removed.is_some() || like != *row {
                        listed.past.push((run_id, old, removed));
                    }
                }
            }
        }
        for listed in self.artifacts.values_mut() {
            if listed.removed.is_none() && !registry.rows.contains_key(&listed.row.id) {
                listed.removed = Some((now, run_id));
            }
        }
        self.repositories = registry.repositories.clone();
        self.runs.insert(run_id, now);
        for namespace_id in NAMESPACE_IDS {
            let values = self.storage_of(images, namespace_id);
            let was_used = self
                .artifacts
                .values()
                .any(|listed| listed.row.namespace_id == namespace_id);
            let history = self.storage.entry(namespace_id).or_default();
            if was_used && history.last().is_none_or(|(_, last)| *last != values) {
                history.push((run_id, values));
            }
        }
    }

    fn fetch(&mut self, registry: &Registry, images: &Images, others: &BTreeMap<String, Fetched>) {
        let digests: BTreeMap<&str, Kind> = registry
            .rows
            .values()
            .map(|row| (row.digest.as_str(), row.kind))
            .collect();
        for (digest, kind) in digests {
            let earlier = self.fetched.get(digest);
            if earlier.is_some_and(Fetched::is_final) {
                continue;
            }
            let attempts = earlier.map_or(0, |earlier| earlier.attempts) + 1;
            let copied = others.get(digest).filter(|other| other.is_final());
            let fetched = copied.cloned().unwrap_or_else(|| Fetched {
                outcome: match kind {
                    Kind::Index | Kind::Chart => "unsupported",
                    Kind::Image if registry.late.contains(digest) => "gone",
                    Kind::Image if images.0[digest].is_empty() => "empty",
                    Kind::Image => "stored",
                },
                attempts,
            });
            self.fetched.insert(digest.to_owned(), fetched);
        }
    }

    fn publish_tags(&mut self, registry: &Registry, run_id: i64, now: Time, previous: Time) {
        let listed: BTreeMap<(i64, String), (&Row, &Tag)> = registry
            .rows
            .values()
            .flat_map(|row| {
                let tags = row.tags.iter();
                tags.map(move |(name, tag)| ((row.repository_id, name.clone()), (row, tag)))
            })
            .collect();
        for (key, shown) in &mut self.tags {
            if listed.contains_key(key) || shown.missing_since.is_some() {
                continue;
            }
            let old = &self.artifacts[&shown.id].row;
            let stays = registry.rows.get(&shown.id).is_some_and(|row| {
                row.repository_id == old.repository_id
                    && row.digest == old.digest
                    && old.repository_id == key.0
            });
            if stays {
                shown.missing_since = Some(run_id);
            }
        }
        let moved_at = |tag: &Tag| match tag.pushed_at {
            Some(pushed_at) if pushed_at > previous && pushed_at <= now => pushed_at,
            _ => now,
        };
        for interval in self
            .intervals
            .iter_mut()
            .filter(|interval| interval.to.is_none())
        {
            let key = (interval.repository_id, interval.name.clone());
            let end = match listed.get(&key) {
                Some((row, _)) if row.digest == interval.digest => {
                    interval.id = row.id;
                    continue;
                }
                Some((_, tag)) => moved_at(tag),
                None if self.tags[&key].missing_since == Some(run_id) => continue,
                None => now,
            };
            interval.to = Some(end.max(interval.from + TimeDelta::microseconds(1)));
            interval.closed_run = Some(run_id);
        }
        for (key, (row, tag)) in &listed {
            let of_tag = || {
                let same = |interval: &&Interval| {
                    interval.repository_id == key.0 && interval.name == key.1
                };
                self.intervals.iter().filter(same)
            };
            if of_tag().any(|interval| interval.to.is_none()) {
                continue;
            }
            let last = of_tag().filter_map(|interval| interval.to).max();
            let from = last.map_or(moved_at(tag), |last| last.max(moved_at(tag)));
            self.intervals.push(Interval {
                repository_id: key.0,
                name: key.1.clone(),
                from,
                to: None,
                id: row.id,
                digest: row.digest.clone(),
                opened_run: run_id,
                closed_run: None,
            });
        }
        let open: BTreeSet<(i64, String)> = self
            .intervals
            .iter()
            .filter(|interval| interval.to.is_none())
            .map(|interval| (interval.repository_id, interval.name.clone()))
            .collect();
        self.tags.retain(|key, _| open.contains(key));
        for (key, (row, tag)) in listed {
            let shown = ShownTag {
                id: row.id,
                tag: tag.clone(),
                missing_since: None,
            };
            self.tags.insert(key, shown);
        }
    }

    fn existing(&self) -> impl Iterator<Item = &Row> {
        let existing = self
            .artifacts
            .values()
            .filter(|listed| listed.removed.is_none());
        existing.map(|listed| &listed.row)
    }

    fn place(&self, repository_id: i64) -> String {
        let (namespace_id, name) = &self.repositories[&repository_id];
        format!("{} | {name}", namespace(*namespace_id))
    }

    fn tags_of(&self, id: i64) -> Vec<&str> {
        let tags = self.tags.iter().filter(|(_, shown)| shown.id == id);
        tags.map(|((_, name), _)| name.as_str()).collect()
    }

    fn steps<'a>(&self, images: &'a Images, digest: &str) -> Option<&'a [Step]> {
        let is_stored = self
            .fetched
            .get(digest)
            .is_some_and(|fetched| fetched.outcome == "stored");
        is_stored.then(|| &images.0[digest][..])
    }

    fn layered<'a>(&'a self, images: &'a Images) -> Vec<(&'a Row, &'a [Step])> {
        self.existing()
            .filter_map(|row| Some((row, self.steps(images, &row.digest)?)))
            .collect()
    }

    /// The size of a layer, if any history of the instance has it.
    fn size_of(&self, images: &Images, layer: u32) -> Option<i64> {
        let mut stored = self
            .fetched
            .keys()
            .filter_map(|digest| self.steps(images, digest));
        stored
            .any(|steps| steps.iter().any(|step| step.layer == Some((layer, true))))
            .then(|| layer_size(layer))
    }

    fn bytes(&self, images: &Images, layers: impl IntoIterator<Item = u32>) -> i64 {
        let sizes = layers
            .into_iter()
            .filter_map(|layer| self.size_of(images, layer));
        sizes.sum()
    }

    /// The bytes of an index depend on the artifacts that were listed with it.
    fn logical(&self, listed: &Listed) -> Option<i64> {
        let (index, size) = (&listed.row, listed.row.size);
        let may_be_child = |other: &&Listed| {
            let row = &other.row;
            let is_small = matches!((row.size, size), (Some(one), Some(other)) if one <= other);
            let is_early = match (known(row.pushed_at), known(index.pushed_at)) {
                (Some(one), Some(other)) => one <= other,
                _ => true,
            };
            let is_there = match (other.removed, listed.removed) {
                (None, _) => true,
                (Some((at, _)), Some((index_at, _))) => at >= index_at,
                (Some(_), None) => false,
            };
            let is_untagged = !self.intervals.iter().any(|interval| {
                interval.id == row.id
                    && interval.repository_id == row.repository_id
                    && (interval.to.is_none()
                        || interval.closed_run == other.removed.map(|(_, run)| run))
            });
            row.repository_id == index.repository_id
                && row.kind != Kind::Index
                && is_small
                && is_early
                && is_there
                && is_untagged
        };
        match index.kind == Kind::Index && self.artifacts.values().find(may_be_child).is_some() {
            true => Some(0),
            false => size,
        }
    }

    fn logical_of(&self, id: i64) -> i64 {
        self.logical(&self.artifacts[&id]).unwrap_or(0)
    }

    /// The keys that have each layer.
    fn holders<K: Ord>(
        &self,
        images: &Images,
        key: impl Fn(&Row) -> K,
    ) -> BTreeMap<u32, BTreeSet<K>> {
        let mut holders: BTreeMap<u32, BTreeSet<K>> = BTreeMap::new();
        for (row, steps) in self.layered(images) {
            for layer in distinct_layers(steps) {
                holders.entry(layer).or_default().insert(key(row));
            }
        }
        holders
    }

    /// Layer bytes, exclusive bytes, and the fair share.
    fn layer_bytes<K: Ord>(
        &self,
        images: &Images,
        key: impl Fn(&Row) -> K,
        of: &K,
    ) -> (i64, i64, i64) {
        let holders = self.holders(images, key);
        let held = holders.iter().filter(|(_, holders)| holders.contains(of));
        let mut sums = (0, 0, 0);
        for (layer, holders) in held {
            let size = self.size_of(images, *layer).unwrap_or(0);
            sums.0 += size;
            sums.1 += if holders.len() == 1 { size } else { 0 };
            sums.2 += size / holders.len() as i64;
        }
        sums
    }

    /// Artifacts, logical bytes, unknown bytes.
    fn sums(&self, images: &Images, of: impl Fn(&Row) -> bool) -> (usize, i64, i64) {
        let rows: Vec<&Row> = self.existing().filter(|row| of(row)).collect();
        let logical = rows.iter().map(|row| self.logical_of(row.id)).sum();
        let unknown = rows
            .iter()
            .filter(|row| self.steps(images, &row.digest).is_none())
            .map(|row| self.logical_of(row.id))
            .sum();
        (rows.len(), logical, unknown)
    }

    fn storage_of(&self, images: &Images, namespace_id: i64) -> Storage {
        let (artifacts, logical, unknown) =
            self.sums(images, |row| row.namespace_id == namespace_id);
        let (layers, _, share) = self.layer_bytes(images, |row| row.namespace_id, &namespace_id);
        [artifacts as i64, logical, layers, share, unknown]
    }

    fn may_be_in_index(&self, row: &Row) -> Option<bool> {
        if row.kind == Kind::Index {
            return Some(false);
        }
        let indexes: Vec<&Row> = self
            .existing()
            .filter(|other| other.kind == Kind::Index && other.repository_id == row.repository_id)
            .collect();
        if indexes.is_empty() {
            return Some(false);
        }
        let size = indexes.iter().map(|index| Some(row.size? <= index.size?));
        let time = indexes
            .iter()
            .map(|index| Some(known(row.pushed_at)? <= known(index.pushed_at)?));
        let any = |mut values: Vec<Option<bool>>| {
            values.sort_unstable_by_key(|value| match value {
                Some(true) => 0,
                None => 1,
                Some(false) => 2,
            });
            values[0]
        };
        match (any(size.collect()), any(time.collect())) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    }

    /// The longest prefix of the layers that equals all layers of another image.
    fn base_chain(&self, images: &Images, chain: &[u32]) -> Option<Vec<u32>> {
        let chains = self
            .layered(images)
            .into_iter()
            .map(|(_, steps)| chain_of(steps));
        chains
            .filter(|base| !base.is_empty() && base.len() < chain.len() && chain.starts_with(base))
            .max_by_key(Vec::len)
    }

    /// The build steps of the base of an image that adds no layer to it.
    fn base_steps<'a>(&'a self, images: &'a Images, steps: &[Step]) -> Option<&'a [Step]> {
        let layered = self.layered(images).into_iter();
        layered
            .map(|(_, base)| base)
            .filter(|base| {
                base.len() < steps.len()
                    && steps.starts_with(base)
                    && chain_of(base) == chain_of(steps)
            })
            .max_by_key(|base| base.len())
    }
}

fn distinct_layers(steps: &[Step]) -> BTreeSet<u32> {
    chain_of(steps).into_iter().collect()
}

fn chain_of(steps: &[Step]) -> Vec<u32> {
    let layers = steps.iter().filter_map(|step| step.layer);
    layers.map(|(number, _)| number).collect()
}

fn yes(value: Option<bool>) -> String {
    shown(value.map(|value| if value { "t" } else { "f" }))
}

struct Check<'a> {
    database: &'a TestDatabase,
    expected: &'a Expected,
    images: &'a Images,
    context: String,
}

impl Check<'_> {
    async fn rows(&self, sql: &str, expected: Vec<String>) {
        let found = self
            .database
            .snapshot(&format!("set time zone 'UTC'; {sql}"))
            .await;
        let mut found: Vec<&str> = found.lines().collect();
        let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        found.sort_unstable();
        expected.sort_unstable();
        if found == expected {
            return;
        }
        let wrong = found.iter().filter(|row| !expected.contains(row)).take(8);
        let missing = expected.iter().filter(|row| !found.contains(row)).take(8);
        panic!(
            "{}\n{sql}\nfound {}, expected {}\nnot expected: {:#?}\nmissing: {:#?}",
            self.context,
            found.len(),
            expected.len(),
            wrong.collect::<Vec<_>>(),
            missing.collect::<Vec<_>>()
        );
    }

    /// The rows of a view for the instance.
    async fn view(&self, columns: &str, view: &str, expected: Vec<String>) {
        let instance_id = self.expected.instance_id;
        let sql =
            format!("select {columns} from swr_report.{view} where instance_id = {instance_id}");
        self.rows(&sql, expected).await;
    }

    async fn content(&self) {
        let Check {
            expected: e,
            images,
            ..
        } = self;
        let rows = e.existing().map(|row| {
            let fetched = &e.fetched[&row.digest];
            let steps = match fetched.outcome {
                "stored" => Some(images.0[&row.digest].len()),
                "empty" => Some(0),
                _ => None,
            };
            format!(
                "{} | {} | {} | {{{}}} | {} | {} | {} | {} | {} | {}",
                row.id,
                e.place(row.repository_id),
                row.digest,
                e.tags_of(row.id).join(","),
                shown(row.size),
                time(known(row.pushed_at)),
                time(known(row.pulled_at)),
                fetched.outcome,
                shown(steps),
                row.namespace_id
            )
        });
        self.view(
            "artifact_id, namespace, repository, digest, tags, size_bytes, pushed_at, pulled_at, build_history, build_steps, namespace_id",
            "artifact",
            rows.collect(),
        )
        .await;
        let rows = e.tags.iter().map(|((repository_id, name), shown)| {
            let (place, tag) = (e.place(*repository_id), &shown.tag);
            let digest = &e.artifacts[&shown.id].row.digest;
            format!(
                "{place} | {name} | {digest} | {} | {} | {} | {}",
                time(known(tag.pushed_at)),
                time(known(tag.pulled_at)),
                tag.id,
                shown.id
            )
        });
        self.view(
            "namespace, repository, tag, digest, pushed_at, pulled_at, tag_id, artifact_id",
            "tag",
            rows.collect(),
        )
        .await;
        let rows = e.layered(images).into_iter().flat_map(|(row, steps)| {
            (1..).zip(steps).map(|(position, step)| {
                let layer = step.layer.map(|(number, _)| layer_digest(number));
                let size = step
                    .layer
                    .and_then(|(number, has_size)| has_size.then(|| layer_size(number)));
                let (layer, size) = (shown(layer), shown(size));
                format!(
                    "{} | {position} | {} | {layer} | {size}",
                    row.id, step.command
                )
            })
        });
        self.view(
            "artifact_id, position, command, layer_digest, layer_size_bytes",
            "build_history",
            rows.collect(),
        )
        .await;
        let rows = e.repositories.keys().map(|id| {
            let artifacts = e.existing().filter(|row| row.repository_id == *id);
            let tags = e
                .tags
                .keys()
                .filter(|(repository_id, _)| repository_id == id)
                .count();
            format!("{} | {} | {tags} | 0", e.place(*id), artifacts.count())
        });
        self.view(
            "namespace, repository, artifacts, tags, pull_count",
            "repository",
            rows.collect(),
        )
        .await;
        let rows = NAMESPACE_IDS.zip(NAMESPACES).map(|(namespace_id, name)| {
            let in_it = |id: &i64| e.repositories[id].0 == namespace_id;
            let artifacts = e.existing().filter(|row| in_it(&row.repository_id)).count();
            let tags = e.tags.keys().filter(|(id, _)| in_it(id)).count();
            let repositories = e.repositories.keys().filter(|id| in_it(id)).count();
            format!("{name} | {repositories} | {artifacts} | {tags}")
        });
        self.view(
            "namespace, repositories, artifacts, tags",
            "namespace",
            rows.collect(),
        )
        .await;
        let mut missing: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for row in e
            .existing()
            .filter(|row| !e.fetched[&row.digest].is_final())
        {
            missing.entry(&row.digest).or_default().push(row.id);
        }
        let rows = missing.iter().map(|(digest, ids)| {
            format!(
                "{digest} | gone | {} | {} | {}",
                e.fetched[*digest].attempts,
                ids.len(),
                ids[0]
            )
        });
        self.view(
            "digest, outcome, attempts, artifacts, artifact_id",
            "history_failure",
            rows.collect(),
        )
        .await;
        let (run_id, now) = e.runs.iter().next_back().unwrap();
        let row = format!("{run_id} | {} | 0 | {}", time(Some(*now)), missing.len());
        self.view(
            "last_published_run_id, as_of, failures_since, histories_waiting",
            "freshness",
            vec![row],
        )
        .await;
    }

    async fn sizes(&self) {
        let Check {
            expected: e,
            images,
            ..
        } = self;
        let of_artifacts = e.holders(images, |row| row.id);
        let rows = e.existing().map(|row| {
            let sizes = e.steps(images, &row.digest).map(|steps| {
                let (bytes, exclusive, _) = e.layer_bytes(images, |row| row.id, &row.id);
                let layers = distinct_layers(steps).len();
                format!("{layers} | {bytes} | {} | {exclusive}", bytes - exclusive)
            });
            let sizes = sizes.unwrap_or("NULL | NULL | NULL | NULL".to_owned());
            format!("{} | {} | {sizes}", row.id, shown(row.size))
        });
        self.view(
            "artifact_id, total_bytes, layers, layer_bytes, shared_bytes, exclusive_bytes",
            "artifact_size",
            rows.collect(),
        )
        .await;

        let last = |times: Vec<Option<Time>>| time(times.into_iter().filter_map(known).max());
        let columns = "artifacts, logical_bytes, layer_bytes, exclusive_bytes, shared_bytes, share_bytes, unknown_bytes, last_pushed_at, last_pulled_at";
        let storage = |of: &dyn Fn(&Row) -> bool, (layers, exclusive, share): (i64, i64, i64)| {
            let (artifacts, logical, unknown) = e.sums(images, of);
            let pushed = last(
                e.existing()
                    .filter(|row| of(row))
                    .map(|row| row.pushed_at)
                    .collect(),
            );
            let pulled = last(
                e.existing()
                    .filter(|row| of(row))
                    .map(|row| row.pulled_at)
                    .collect(),
            );
            format!(
                "{artifacts} | {logical} | {layers} | {exclusive} | {} | {share} | {unknown} | {pushed} | {pulled}",
                layers - exclusive
            )
        };
        let used: BTreeSet<i64> = e.existing().map(|row| row.repository_id).collect();
        let rows = used.iter().map(|id| {
            let layers = e.layer_bytes(images, |row| row.repository_id, id);
            format!(
                "{} | {}",
                e.place(*id),
                storage(&|row| row.repository_id == *id, layers)
            )
        });
        self.view(
            &format!("namespace, repository, {columns}"),
            "storage_by_repository",
            rows.collect(),
        )
        .await;
        let namespaces: BTreeSet<i64> = e.existing().map(|row| row.namespace_id).collect();
        let rows = namespaces.iter().map(|id| {
            let layers = e.layer_bytes(images, |row| row.namespace_id, id);
            let name = namespace(*id);
            format!(
                "{name} | {}",
                storage(&|row| row.namespace_id == *id, layers)
            )
        });
        self.view(
            &format!("namespace, {columns}"),
            "storage_by_namespace",
            rows.collect(),
        )
        .await;
        let (artifacts, logical, unknown) = e.sums(images, |_| true);
        let bytes = e.bytes(images, of_artifacts.keys().copied());
        let row = format!(
            "{} | {} | {artifacts} | {logical} | {bytes} | {unknown}",
            namespaces.len(),
            used.len()
        );
        self.view(
            "namespaces, repositories, artifacts, logical_bytes, layer_bytes, unknown_bytes",
            "storage_by_instance",
            vec![row],
        )
        .await;
        let rows = e.storage.iter().flat_map(|(namespace_id, rows)| {
            rows.iter().map(move |(run_id, [artifacts, logical, layers, share, unknown])| {
                let as_of = time(Some(e.runs[run_id]));
                format!("{namespace_id} | {as_of} | {artifacts} | {logical} | {layers} | {share} | {unknown}")
            })
        });
        self.view("namespace_id, as_of, artifacts, logical_bytes, layer_bytes, share_bytes, unknown_bytes", "storage_history", rows.collect())
            .await;

        let of_repositories = e.holders(images, |row| row.repository_id);
        let of_namespaces = e.holders(images, |row| row.namespace_id);
        let rows = of_artifacts.iter().map(|(layer, artifacts)| {
            let size = e.size_of(images, *layer);
            let saved = size.map(|size| size * (artifacts.len() as i64 - 1));
            let repositories = of_repositories[layer].len();
            format!(
                "{} | {} | {} | {repositories} | {}",
                layer_digest(*layer),
                shown(size),
                artifacts.len(),
                shown(saved)
            )
        });
        self.view(
            "layer_digest, size_bytes, artifacts, repositories, saved_bytes",
            "layer_usage",
            rows.collect(),
        )
        .await;
        let rows = of_repositories.iter().flat_map(|(layer, repositories)| {
            let (artifacts, of_namespaces) = (&of_artifacts[layer], &of_namespaces[layer]);
            repositories.iter().map(move |id| {
                let own = artifacts
                    .iter()
                    .filter(|artifact| e.artifacts[artifact].row.repository_id == *id);
                let size = e.size_of(images, *layer);
                let share = size.map(|size| size / repositories.len() as i64);
                let of_namespace = size.map(|size| size / of_namespaces.len() as i64);
                format!(
                    "{id} | {} | {} | {} | {} | {} | {} | {}",
                    layer_digest(*layer),
                    shown(size),
                    own.count(),
                    repositories.len(),
                    of_namespaces.len(),
                    shown(share),
                    shown(of_namespace)
                )
            })
        });
        self.view(
            "repository_id, layer_digest, size_bytes, artifacts, repositories, namespaces, share_bytes::bigint, namespace_share_bytes::bigint",
            "repository_layer",
            rows.collect(),
        )
        .await;
    }

    async fn clean_up(&self, chance: &mut Rng) {
        let Check {
            expected: e,
            images,
            ..
        } = self;
        let facts = |row: &Row| {
            let exclusive = e
                .steps(images, &row.digest)
                .map(|_| e.layer_bytes(images, |row| row.id, &row.id).1);
            let last_used = known(row.pushed_at).max(known(row.pulled_at));
            format!(
                "{} | {} | {} | {}",
                row.id,
                shown(exclusive),
                yes(e.may_be_in_index(row)),
                time(last_used)
            )
        };
        let untagged = e.existing().filter(|row| e.tags_of(row.id).is_empty());
        let rows = untagged.map(facts).collect();
        let columns = "artifact_id, exclusive_bytes, may_be_in_index, last_used_at";
        self.view(columns, "untagged_artifact", rows).await;
        let times: Vec<Time> = e.runs.values().copied().collect();
        let cut = times[chance.usize(..times.len())];
        let is_stale = |row: &&Row| {
            known(row.pushed_at)
                .max(known(row.pulled_at))
                .is_some_and(|used| used < cut)
        };
        let rows = e.existing().filter(is_stale).map(facts).collect();
        let view = format!("stale_artifact(now() - timestamptz '{}')", cut.to_rfc3339());
        self.view(columns, &view, rows).await;

        let mut copies: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in e.existing() {
            copies.entry(&row.digest).or_default().push(row);
        }
        copies.retain(|_, rows| rows.len() > 1);
        let rows = copies.iter().map(|(digest, rows)| {
            let size = rows.iter().filter_map(|row| row.size).max();
            let repeated = size.map(|size| size * (rows.len() as i64 - 1));
            let mut places: Vec<String> = rows
                .iter()
                .map(|row| e.place(row.repository_id).replace(" | ", "/"))
                .collect();
            places.sort_unstable();
            format!(
                "{digest} | {} | {} | {} | {{{}}}",
                rows.len(),
                shown(size),
                shown(repeated),
                places.join(",")
            )
        });
        self.view(
            "digest, repositories, size_bytes, repeated_bytes, places",
            "duplicate_artifact",
            rows.collect(),
        )
        .await;

        let all: Vec<&Row> = e.existing().collect();
        let chosen: BTreeSet<i64> = all
            .iter()
            .filter(|_| chance.u8(..) < 100)
            .map(|row| row.id)
            .collect();
        if chosen.is_empty() {
            return;
        }
        let ids: Vec<String> = chosen.iter().map(i64::to_string).collect();
        let freed = e.holders(images, |row| row.id);
        let freed: Vec<u32> = freed
            .into_iter()
            .filter(|(_, holders)| holders.is_subset(&chosen))
            .map(|(layer, _)| layer)
            .collect();
        let (artifacts, logical, unknown) = e.sums(images, |row| chosen.contains(&row.id));
        let (layers, bytes) = (freed.len(), e.bytes(images, freed));
        let view = format!(
            "reclaimable(artifact_ids => array[{}], in_instance_id => {})",
            ids.join(", "),
            e.instance_id
        );
        let row = format!("{artifacts} | {logical} | {layers} | {bytes} | {unknown}");
        self.view(
            "artifacts, logical_bytes, layers, reclaimable_bytes, unknown_bytes",
            &view,
            vec![row],
        )
        .await;
    }

    async fn bases(&self) {
        let Check {
            expected: e,
            images,
            ..
        } = self;
        let mut layered = e.layered(images);
        layered.retain(|(_, steps)| !chain_of(steps).is_empty());
        let (mut rows, mut groups) = (Vec::new(), BTreeMap::<Vec<u32>, Vec<&Row>>::new());
        for (row, steps) in &layered {
            let chain = chain_of(steps);
            let own_base = e.base_steps(images, steps);
            let base_chain = e.base_chain(images, &chain);
            let mut candidates: Vec<&(&Row, &[Step])> = layered
                .iter()
                .filter(|(_, base)| match (&own_base, &base_chain) {
                    (Some(own_base), _) => base == own_base,
                    (None, Some(base_chain)) => chain_of(base) == *base_chain,
                    (None, None) => false,
                })
                .collect();
            let proven = |base: &[Step]| steps.starts_with(base).then_some(base.len());
            candidates.sort_by_key(|(base, steps)| {
                let pushed_at = known(base.pushed_at);
                let is_tagged = !e.tags_of(base.id).is_empty();
                (
                    Reverse(proven(steps)),
                    !is_tagged,
                    pushed_at.is_none(),
                    pushed_at,
                    base.id,
                )
            });
            let base = candidates.first();
            let base_layers = base.map(|(_, steps)| distinct_layers(steps));
            let bytes = base_layers
                .as_ref()
                .map(|layers| e.bytes(images, layers.iter().copied()));
            rows.push(format!(
                "{} | {} | {} | {} | {} | {}",
                row.id,
                shown(base.map(|(base, _)| base.id)),
                shown(base.map(|_| candidates.len())),
                yes(base.map(|(_, steps)| proven(steps).is_some())),
                shown(base_layers.as_ref().map(BTreeSet::len)),
                shown(bytes)
            ));
            if base.is_some() {
                continue;
            }
            let shared = layered
                .iter()
                .filter(|(other, _)| other.digest != row.digest)
                .map(|(_, other)| {
                    let other_chain = chain_of(other);
                    let common = chain
                        .iter()
                        .zip(&other_chain)
                        .take_while(|(one, other)| one == other);
                    let common = common.count();
                    let is_continued = other.starts_with(steps) && other.len() > steps.len();
                    let is_built_on_it = other_chain.len() > common || is_continued;
                    if common == chain.len() && is_built_on_it {
                        0
                    } else {
                        common
                    }
                })
                .max();
            if let Some(shared) = shared.filter(|shared| *shared > 0) {
                groups
                    .entry(chain[..shared].to_vec())
                    .or_default()
                    .push(*row);
            }
        }
        self.view("artifact_id, base_artifact_id, base_candidates, base_is_proven, base_layers, base_layer_bytes", "base_image", rows)
            .await;
        let rows = groups.iter().map(|(chain, members)| {
            let layers: BTreeSet<u32> = chain.iter().copied().collect();
            let repositories: BTreeSet<i64> = members.iter().map(|row| row.repository_id).collect();
            let pushed_at =
                |row: &&&Row| (known(row.pushed_at).is_none(), known(row.pushed_at), row.id);
            let example = members.iter().min_by_key(pushed_at).unwrap();
            let last = members.iter().filter_map(|row| known(row.pushed_at)).max();
            format!(
                "{} | {} | {} | {} | {} | {}",
                layers.len(),
                e.bytes(images, layers.iter().copied()),
                members.len(),
                repositories.len(),
                example.digest,
                time(last)
            )
        });
        self.view(
            "layers, layer_bytes, artifacts, repositories, example_digest, last_pushed_at",
            "unknown_base",
            rows.collect(),
        )
        .await;

        for digest in e.fetched.keys() {
            let Some(base) = e
                .steps(images, digest)
                .filter(|base| !chain_of(base).is_empty())
            else {
                continue;
            };
            let with_layers = base.iter().rposition(|step| step.layer.is_some()).unwrap() + 1;
            let built: Vec<_> = layered
                .iter()
                .filter(|(_, steps)| chain_of(steps).starts_with(&chain_of(base)))
                .filter(|(_, steps)| match steps.starts_with(&base[..with_layers]) {
                    true => steps.starts_with(base) && steps.len() > base.len(),
                    false => chain_of(steps).len() > chain_of(base).len(),
                })
                .collect();
            let rows = built.iter().map(|(row, steps)| {
                let own_base = e.base_chain(images, &chain_of(steps));
                let is_between = |other: &[Step]| {
                    let adds_layers = chain_of(other) != chain_of(base);
                    (adds_layers && Some(chain_of(other)) == own_base)
                        || (steps.starts_with(other) && steps.len() > other.len())
                };
                let is_direct = !built.iter().any(|(_, other)| is_between(other));
                format!("{} | {}", row.id, yes(Some(is_direct)))
            });
            let view = format!("built_on('{digest}')");
            self.view("artifact_id, is_direct", &view, rows.collect())
                .await;
        }
    }

    async fn past(&self, chance: &mut Rng) {
        let Check { expected: e, .. } = self;
        let moment = |time: Option<Time>| {
            shown(time.map(|time| {
                let text = time.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
                format!("{}+00", text.trim_end_matches('0').trim_end_matches('.'))
            }))
        };
        let times: Vec<Time> = e.runs.values().copied().collect();
        for _ in 0..3 {
            let at = times[chance.usize(..times.len())] - TimeDelta::hours(chance.i64(0..100));
            let rows = e
                .intervals
                .iter()
                .filter(|interval| interval.from <= at && interval.to.is_none_or(|to| to > at))
                .map(|interval| {
                    let Interval {
                        repository_id,
                        name,
                        from,
                        to,
                        id,
                        digest,
                        ..
                    } = interval;
                    let size = e.artifacts[id].row.size;
                    format!(
                        "{repository_id} | {name} | {digest} | {id} | {} | {} | {}",
                        shown(size),
                        moment(Some(*from)),
                        moment(*to)
                    )
                });
            let view = format!("tag_at('{}')", at.to_rfc3339());
            self.view(
                "repository_id, tag, digest, artifact_id, size_bytes, valid_from, valid_to",
                &view,
                rows.collect(),
            )
            .await;
        }
        let same = |one: &Interval, other: &Interval| {
            one.repository_id == other.repository_id && one.name == other.name
        };
        let rows = e
            .intervals
            .iter()
            .filter(|interval| interval.to.is_some())
            .map(|interval| {
                let next = e
                    .intervals
                    .iter()
                    .find(|next| same(interval, next) && Some(next.from) == interval.to);
                let Interval {
                    repository_id,
                    name,
                    to,
                    digest,
                    closed_run,
                    ..
                } = interval;
                format!(
                    "{repository_id} | {name} | {} | {digest} | {} | {}",
                    moment(*to),
                    shown(next.map(|next| &next.digest)),
                    shown(*closed_run)
                )
            });
        self.view(
            "repository_id, tag, moved_at, from_digest, to_digest, run_id",
            "tag_move",
            rows.collect(),
        )
        .await;

        let mut changes = Vec::new();
        let mut add = |run_id: i64,
                       change: &str,
                       tag: &str,
                       digest: &str,
                       previous: &str,
                       size: Option<i64>,
                       at: Option<Time>,
                       id: i64| {
            changes.push(format!(
                "{run_id} | {change} | {tag} | {digest} | {previous} | {} | {} | {id}",
                shown(size),
                moment(at)
            ));
        };
        for (id, listed) in &e.artifacts {
            let first = listed.after(listed.first_run);
            let at = known(first.pushed_at).unwrap_or(e.runs[&listed.first_run]);
            add(
                listed.first_run,
                "artifact added",
                "NULL",
                &first.digest,
                "NULL",
                first.size,
                Some(at),
                *id,
            );
            if let Some((at, run_id)) = listed.removed {
                add(
                    run_id,
                    "artifact removed",
                    "NULL",
                    &listed.row.digest,
                    "NULL",
                    listed.row.size,
                    Some(at),
                    *id,
                );
            }
            for (run_id, before, removed) in &listed.past {
                let now = listed.after(*run_id);
                let change = if removed.is_some() {
                    "artifact restored"
                } else {
                    "artifact changed"
                };
                let previous = if before.digest == now.digest {
                    "NULL"
                } else {
                    &before.digest
                };
                add(
                    *run_id,
                    change,
                    "NULL",
                    &now.digest,
                    previous,
                    now.size,
                    None,
                    *id,
                );
                if let Some((at, removed_run)) = removed {
                    add(
                        *removed_run,
                        "artifact removed",
                        "NULL",
                        &before.digest,
                        "NULL",
                        before.size,
                        Some(*at),
                        *id,
                    );
                }
            }
        }
        for interval in &e.intervals {
            let listed = &e.artifacts[&interval.id];
            let before = e.intervals.iter().find(|before| {
                same(interval, before) && before.closed_run == Some(interval.opened_run)
            });
            let change = if before.is_some() {
                "tag moved"
            } else {
                "tag added"
            };
            let previous = before.map_or("NULL", |before| &before.digest);
            let size = listed.after(interval.opened_run).size;
            add(
                interval.opened_run,
                change,
                &interval.name,
                &interval.digest,
                previous,
                size,
                Some(interval.from),
                interval.id,
            );
            let Some(closed_run) = interval.closed_run else {
                continue;
            };
            let has_moved = e
                .intervals
                .iter()
                .any(|next| same(interval, next) && next.opened_run == closed_run);
            if !has_moved {
                let size = listed.before(closed_run).size;
                add(
                    closed_run,
                    "tag removed",
                    &interval.name,
                    "NULL",
                    &interval.digest,
                    size,
                    interval.to,
                    interval.id,
                );
            }
        }
        self.view(
            "run_id, change, tag, digest, previous_digest, size_bytes, changed_at, artifact_id",
            "change",
            changes,
        )
        .await;

        let mut days: BTreeMap<(i64, chrono::NaiveDate), [i64; 4]> = BTreeMap::new();
        for listed in e.artifacts.values() {
            let bytes = e.logical(listed).unwrap_or(0);
            let pushed_at = known(listed.row.pushed_at).unwrap_or(e.runs[&listed.first_run]);
            let day = days
                .entry((listed.row.namespace_id, pushed_at.date_naive()))
                .or_default();
            day[0] += 1;
            day[1] += bytes;
            if let Some((at, _)) = listed.removed {
                let day = days
                    .entry((listed.row.namespace_id, at.date_naive()))
                    .or_default();
                day[2] += 1;
                day[3] += bytes;
            }
        }
        let mut so_far: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let rows = days.iter().map(|((namespace_id, day), [pushes, pushed, removals, removed])| {
            let (artifacts, bytes) = so_far.entry(*namespace_id).or_default();
            *artifacts += pushes - removals;
            *bytes += pushed - removed;
            format!("{namespace_id} | {day} | {pushes} | {pushed} | {removals} | {removed} | {artifacts} | {bytes}")
        });
        let rows = rows.collect();
        self.view("namespace_id, day, pushes, pushed_bytes, removals, removed_bytes, artifacts, logical_bytes", "growth_by_day", rows)
            .await;
    }
}

const ROUNDS: i64 = 6;

async fn check_history(seed: u64) {
    let mut chance = Rng::with_seed(seed);
    let mirror = Mirror::new(World::empty(start_of_time())).await;
    let second = Instance {
        id: "aaaaaaaa-2222-3333-4444-555555555555".to_owned(),
        name: "demo".to_owned(),
        version: "25.6.0".to_owned(),
        status: "Running".to_owned(),
    };
    let ids = [
        mirror.emulator.settings().instance_id.clone(),
        second.id.clone(),
    ];
    mirror
        .emulator
        .add_instance(second, World::empty(start_of_time()));
    let mut images = Images::default();
    let mut registries: [Registry; 2] = Default::default();
    let mut expected: [Expected; 2] = Default::default();
    for (registry, expected) in registries.iter_mut().zip(&mut expected) {
        for id in 1..=5 {
            let namespace_id = NAMESPACE_IDS.start() + id % 3;
            registry
                .repositories
                .insert(id, (namespace_id, format!("app{id}")));
        }
        expected.repositories = registry.repositories.clone();
    }
    (expected[0].instance_id, expected[1].instance_id) = (1, 2);
    let mut run_id = 0;
    for round in 1..=ROUNDS {
        for number in 0..2 {
            // More than a week apart, so that each missing history is due.
            let now =
                start_of_time() + TimeDelta::days(9 * round) + TimeDelta::hours(number as i64);
            for _ in 0..12 {
                let at = now - TimeDelta::hours(chance.i64(1..150));
                registries[number].change(&mut images, at, &mut chance);
            }
            let world = registries[number].world(&images, now);
            mirror
                .emulator
                .with_instance(&ids[number], |_, old| *old = world);
            let clock = Clock::from_fn(move || now);
            mirror.sync_instance(&ids[number], clock).await;
            run_id += 1;
            let others = expected[1 - number].fetched.clone();
            expected[number].publish(&registries[number], &images, &others, run_id, now);
        }
        for expected in &expected {
            let check = Check {
                database: &mirror.database,
                expected,
                images: &images,
                context: format!(
                    "seed {seed}, round {round}, instance {}",
                    expected.instance_id
                ),
            };
            check.content().await;
            check.sizes().await;
            check.clean_up(&mut chance).await;
            check.bases().await;
            check.past(&mut chance).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_reports_are_those_of_a_plain_computation() {
    let seeds = std::env::var("MODEL_SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    for seed in 1..=seeds {
        check_history(seed).await;
    }
}
