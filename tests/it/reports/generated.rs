//! Sizes and bases of generated registries, compared with a simple computation.

use std::collections::{BTreeMap, BTreeSet};

use swr_emulator::{Quirks, WorldSettings};

use super::*;
use crate::support::mirror::start_of_time;

/// The data of one artifact that the reports depend on.
struct Image {
    artifact_id: i64,
    repository_id: i64,
    namespace: String,
    repository: String,
    digest: String,
    size_bytes: u64,
    is_index: bool,
    is_tagged: bool,
    pushed_at: DateTime<Utc>,
    /// The layers in their order, with sizes; `None` if the registry has no list of steps.
    chain: Option<Vec<(String, u64)>>,
}

impl Image {
    fn layers(&self) -> BTreeMap<&str, u64> {
        let chain = self.chain.iter().flatten();
        chain
            .map(|(digest, size)| (digest.as_str(), *size))
            .collect()
    }

    /// Whether the layers of the other one are the first layers of this one, without its last.
    fn is_built_on(&self, base: &Image) -> bool {
        let (Some(chain), Some(base)) = (&self.chain, &base.chain) else {
            return false;
        };
        !base.is_empty() && chain.len() > base.len() && chain.starts_with(base)
    }
}

fn images(world: &World) -> Vec<Image> {
    world
        .artifacts()
        .map(|artifact| {
            let repository = world
                .repositories()
                .find(|repository| repository.id == artifact.repository_id)
                .unwrap();
            let namespace = world
                .namespaces()
                .find(|namespace| namespace.id == repository.namespace_id)
                .unwrap();
            let layers = artifact.manifest.steps().filter_map(|step| {
                let layer = step.layer.as_ref()?;
                Some((layer.digest.to_string(), layer.size_bytes))
            });
            let has_steps = artifact.manifest.steps().next().is_some();
            Image {
                artifact_id: artifact.id,
                repository_id: repository.id,
                namespace: namespace.name.clone(),
                repository: repository.name.clone(),
                digest: artifact.digest().to_string(),
                size_bytes: artifact.manifest.size_bytes,
                is_index: artifact.manifest.kind == ManifestKind::ImageIndex,
                is_tagged: !artifact.tags.is_empty(),
                pushed_at: artifact.pushed_at,
                chain: has_steps.then(|| layers.collect()),
            }
        })
        .collect()
}

/// The keys that have each layer.
fn holders<'a, K: Ord>(
    images: &'a [Image],
    key: impl Fn(&'a Image) -> K,
) -> BTreeMap<&'a str, BTreeSet<K>> {
    let mut holders: BTreeMap<&str, BTreeSet<K>> = BTreeMap::new();
    for image in images {
        for layer in image.layers().keys() {
            holders.entry(layer).or_default().insert(key(image));
        }
    }
    holders
}

/// For each key, the bytes of its layers, and of the layers that only this key has.
fn layer_bytes<'a, K: Ord>(
    images: &'a [Image],
    key: impl Fn(&'a Image) -> K,
) -> BTreeMap<K, (u64, u64)> {
    let holders = holders(images, &key);
    let mut layers: BTreeMap<K, BTreeMap<&str, u64>> = BTreeMap::new();
    for image in images {
        layers.entry(key(image)).or_default().extend(image.layers());
    }
    layers
        .into_iter()
        .map(|(key, layers)| {
            let exclusive = layers
                .iter()
                .filter(|(layer, _)| holders[*layer].len() == 1);
            let exclusive = exclusive.map(|(_, size)| size).sum();
            (key, (layers.values().sum(), exclusive))
        })
        .collect()
}

/// The bytes that a sum may count: of an index, only if no possible child of it is listed.
fn logical_bytes(image: &Image, images: &[Image]) -> u64 {
    let could_be_child = |other: &Image| {
        other.repository_id == image.repository_id
            && !other.is_index
            && !other.is_tagged
            && other.size_bytes <= image.size_bytes
            && other.pushed_at <= image.pushed_at
    };
    match image.is_index && images.iter().any(could_be_child) {
        true => 0,
        false => image.size_bytes,
    }
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

async fn check_lines(database: &TestDatabase, sql: &str, expected: Vec<String>) {
    let rows = database.snapshot(sql).await;
    let rows = sorted(rows.lines().map(str::to_owned).collect());
    let expected = sorted(expected);
    let difference: Vec<_> = rows
        .iter()
        .filter(|row| !expected.contains(row))
        .map(|row| format!("not expected: {row}"))
        .chain(
            expected
                .iter()
                .filter(|row| !rows.contains(row))
                .map(|row| format!("missing:      {row}")),
        )
        .take(10)
        .collect();
    assert!(difference.is_empty(), "{sql}\n{}", difference.join("\n"));
    assert_eq!(rows.len(), expected.len(), "{sql}");
}

async fn check_sizes(database: &TestDatabase, images: &[Image]) {
    let of_artifacts = layer_bytes(images, |image| image.artifact_id);
    let expected = images.iter().map(|image| {
        let Image {
            artifact_id,
            size_bytes,
            ..
        } = image;
        match image.chain {
            None => format!("{artifact_id} | {size_bytes} | NULL | NULL | NULL | NULL"),
            Some(_) => {
                let (layer_bytes, exclusive) = of_artifacts[artifact_id];
                let (layers, shared) = (image.layers().len(), layer_bytes - exclusive);
                format!("{artifact_id} | {size_bytes} | {layers} | {layer_bytes} | {shared} | {exclusive}")
            }
        }
    });
    let sql = "select artifact_id, total_bytes, layers, layer_bytes, shared_bytes, exclusive_bytes
               from swr_report.artifact_size";
    check_lines(database, sql, expected.collect()).await;

    let place = |image: &Image| format!("{} | {}", image.namespace, image.repository);
    let namespace = |image: &Image| image.namespace.clone();
    let by_place = storage(images, place);
    let sql = "select namespace, repository, artifacts, logical_bytes, layer_bytes, exclusive_bytes, unknown_bytes
               from swr_report.storage_by_repository";
    check_lines(database, sql, by_place).await;
    let by_namespace = storage(images, namespace);
    let sql =
        "select namespace, artifacts, logical_bytes, layer_bytes, exclusive_bytes, unknown_bytes
               from swr_report.storage_by_namespace";
    check_lines(database, sql, by_namespace).await;

    let sizes: BTreeMap<&str, u64> = images.iter().flat_map(Image::layers).collect();
    let repositories = holders(images, |image| image.repository_id);
    let artifacts = holders(images, |image| image.artifact_id);
    let expected = sizes.iter().map(|(layer, size)| {
        let (artifacts, repositories) = (artifacts[layer].len(), repositories[layer].len());
        format!("{layer} | {size} | {artifacts} | {repositories}")
    });
    let sql =
        "select layer_digest, size_bytes, artifacts, repositories from swr_report.layer_usage";
    check_lines(database, sql, expected.collect()).await;
}

fn storage<'a>(images: &'a [Image], key: impl Fn(&'a Image) -> String) -> Vec<String> {
    let layers = layer_bytes(images, &key);
    let mut sums: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for image in images {
        let (artifacts, logical, unknown) = sums.entry(key(image)).or_default();
        let bytes = logical_bytes(image, images);
        *artifacts += 1;
        *logical += bytes;
        *unknown += if image.chain.is_none() { bytes } else { 0 };
    }
    sums.iter()
        .map(|(key, (artifacts, logical, unknown))| {
            let (layers, exclusive) = layers[key];
            format!("{key} | {artifacts} | {logical} | {layers} | {exclusive} | {unknown}")
        })
        .collect()
}

async fn check_reclaimable(database: &TestDatabase, images: &[Image], chance: &mut fastrand::Rng) {
    for size in [1, 5, images.len() / 4, images.len()] {
        let digests: BTreeSet<&str> = (0..size)
            .map(|_| images[chance.usize(..images.len())].digest.as_str())
            .collect();
        let (set, rest): (Vec<&Image>, Vec<&Image>) = images
            .iter()
            .partition(|image| digests.contains(image.digest.as_str()));
        let kept: BTreeSet<&str> = rest
            .iter()
            .flat_map(|image| image.layers().into_keys())
            .collect();
        let freed: BTreeMap<&str, u64> = set
            .iter()
            .flat_map(|image| image.layers())
            .filter(|(layer, _)| !kept.contains(layer))
            .collect();
        let list: Vec<String> = digests.iter().map(|digest| format!("'{digest}'")).collect();
        let sql = format!(
            "select artifacts, layers, reclaimable_bytes from swr_report.reclaimable(array[{}])",
            list.join(", ")
        );
        let (count, bytes) = (freed.len(), freed.values().sum::<u64>());
        check_lines(
            database,
            &sql,
            vec![format!("{} | {count} | {bytes}", set.len())],
        )
        .await;
    }
}

async fn check_bases(database: &TestDatabase, images: &[Image]) {
    let layered: Vec<&Image> = images
        .iter()
        .filter(|image| image.chain.as_ref().is_some_and(|chain| !chain.is_empty()))
        .collect();
    let mut expected = Vec::new();
    let mut groups: BTreeMap<&[(String, u64)], Vec<i64>> = BTreeMap::new();
    for image in &layered {
        let longest = layered
            .iter()
            .filter(|base| image.is_built_on(base))
            .filter_map(|base| base.chain.as_ref())
            .max_by_key(|chain| chain.len());
        let line = match longest {
            Some(chain) => {
                let candidates = || {
                    layered
                        .iter()
                        .filter(|base| base.chain.as_ref() == Some(chain))
                };
                let base = candidates()
                    .min_by_key(|base| (!base.is_tagged, base.pushed_at, base.artifact_id))
                    .unwrap();
                format!(
                    "{} | {} | {}",
                    image.artifact_id,
                    base.artifact_id,
                    candidates().count()
                )
            }
            None => format!("{} | NULL | NULL", image.artifact_id),
        };
        expected.push(line);
        if longest.is_some() {
            continue;
        }
        let chain = image.chain.as_ref().unwrap();
        let shared = layered
            .iter()
            .filter(|other| other.digest != image.digest && !other.is_built_on(image))
            .map(|other| {
                let other = other.chain.as_ref().unwrap();
                chain
                    .iter()
                    .zip(other)
                    .take_while(|(one, other)| one == other)
                    .count()
            })
            .max()
            .unwrap_or(0);
        if shared > 0 {
            let group = groups.entry(&chain[..shared]).or_default();
            group.push(image.repository_id);
        }
    }
    let sql = "select artifact_id, base_artifact_id, base_candidates from swr_report.base_image";
    check_lines(database, sql, expected).await;

    let expected = groups.into_iter().map(|(chain, members)| {
        let layers: BTreeMap<&String, u64> =
            chain.iter().map(|(layer, size)| (layer, *size)).collect();
        let bytes: u64 = layers.values().sum();
        let repositories: BTreeSet<&i64> = members.iter().collect();
        format!(
            "{} | {bytes} | {} | {}",
            layers.len(),
            members.len(),
            repositories.len()
        )
    });
    let sql = "select layers, layer_bytes, artifacts, repositories from swr_report.unknown_base";
    check_lines(database, sql, expected.collect()).await;

    let digests: BTreeSet<&str> = layered.iter().map(|image| image.digest.as_str()).collect();
    for digest in digests.into_iter().step_by(17) {
        let base = layered.iter().find(|image| image.digest == digest).unwrap();
        let built = layered.iter().filter(|image| image.is_built_on(base));
        let expected = built.map(|image| image.artifact_id.to_string()).collect();
        let sql = format!("select artifact_id from swr_report.built_on('{digest}')");
        check_lines(database, &sql, expected).await;
    }
}

#[tokio::test]
async fn sizes_and_bases_are_those_of_a_plain_computation() {
    for seed in 1..=3 {
        let world = World::generate_with(&WorldSettings {
            seed,
            artifacts: 260,
            now: start_of_time(),
            // The layers of an artifact without history would be unknown.
            quirks: Quirks {
                gone: 0.0,
                ..Quirks::default()
            },
        });
        let mut mirror = Mirror::new(world).await;
        // A removed repository may have more artifacts than a run is allowed to remove.
        mirror.safeguards.max_removals_percent = None;
        let mut chance = fastrand::Rng::with_seed(seed);
        for round in 0..4 {
            if round > 0 {
                mirror.with_world(|world| {
                    // Bases are removed, too.
                    let bases: Vec<i64> = world
                        .artifacts()
                        .filter(|artifact| artifact.id % 11 == i64::from(round))
                        .map(|artifact| artifact.id)
                        .collect();
                    for id in bases {
                        world.delete_artifact(id);
                    }
                    world.evolve(round);
                });
            }
            mirror.sync().await;
            let images = mirror.with_world(|world| images(world));
            check_sizes(&mirror.database, &images).await;
            check_reclaimable(&mirror.database, &images, &mut chance).await;
            check_bases(&mirror.database, &images).await;
        }
    }
}
