//! Worlds of any size from a seed.
//!
//! Base images are real ones, rebuilt from time to time; application
//! repositories build on them; some repositories hold charts, multi-platform
//! images or promoted builds. Artifacts get their ids in the order of their pushes.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::image::{Digest, Layer, Manifest, ManifestKind, REAL_IMAGES, Segment};
use super::recipe::{Build, Chance, chance, pick};
use super::world::{BaseImage, Quirks, Source, World};

/// Settings of a generated world.
#[derive(Debug, Clone)]
pub struct WorldSettings {
    /// Equal settings generate equal worlds, byte for byte.
    pub seed: u64,
    /// The exact number of artifacts.
    pub artifacts: usize,
    /// The newest push is shortly before this time.
    pub now: DateTime<Utc>,
    /// Frequencies of unusual data.
    pub quirks: Quirks,
}

#[rustfmt::skip]
const TEAMS: &[&str] = &[
    "payments", "search", "identity", "billing", "platform", "data", "mobile", "web",
    "logistics", "catalog", "orders", "fraud", "ml", "growth", "support", "infra", "edge",
    "media", "legal", "hr", "iot", "maps", "risk", "ads",
];

#[rustfmt::skip]
const SERVICES: &[&str] = &[
    "api", "worker", "frontend", "gateway", "scheduler", "importer", "exporter", "notifier",
    "session", "ledger", "pricing", "inventory", "webhook", "reports", "admin", "indexer",
    "thumbnailer", "mailer", "consumer", "proxy", "migrator", "feature-store", "etl", "auth",
];

#[rustfmt::skip]
const PARTS: &[&str] = &[
    "server", "cli", "cron", "sidecar", "ui", "init",
];

/// Maximum age of generated builds.
const YEARS_BACK_DAYS: i64 = 900;

/// Maximum rate per base image: one in five weeks.
const BASE_RELEASES: usize = 26;

/// A future push; ordered by time.
struct Push {
    at: DateTime<Utc>,
    repository_id: i64,
    what: Pushed,
}

enum Pushed {
    Build(Build),
    MultiArch { build: Build, is_attested: bool },
    Chart(u32),
}

impl World {
    /// A registry with this many artifacts and the default quirks. `now` is the
    /// time just after the newest push.
    pub fn generate(seed: u64, artifacts: usize, now: DateTime<Utc>) -> World {
        World::generate_with(&WorldSettings {
            seed,
            artifacts,
            now,
            quirks: Quirks::default(),
        })
    }

    /// Generates a registry.
    pub fn generate_with(settings: &WorldSettings) -> World {
        let mut world = World::empty(settings.now);
        world.seed = settings.seed;
        world.quirks = settings.quirks.clone();
        let mut chance = chance(settings.seed, 0);

        let repositories = (settings.artifacts / 25).max(4);
        let base_repositories = (repositories / 8).clamp(1, REAL_IMAGES.len());
        let base_artifacts = (settings.artifacts * 3 / 100)
            .min(base_repositories * BASE_RELEASES)
            .max(base_repositories)
            .min(settings.artifacts);
        let mut pushes = world.plan_bases(&mut chance, base_repositories, base_artifacts);

        let teams = (settings.artifacts / 500).max(4) - 1;
        let quotas = quotas(
            &mut chance,
            repositories - base_repositories.min(repositories - 1),
            settings.artifacts - base_artifacts,
        );
        world.plan_applications(&mut chance, teams, &quotas, &mut pushes);

        pushes.sort_by_key(|push| push.at);
        for Push {
            at,
            repository_id,
            what,
        } in pushes
        {
            match what {
                Pushed::Build(build) => world.insert_build(repository_id, build, at),
                Pushed::MultiArch { build, is_attested } => {
                    world.insert_multi_arch(repository_id, build, is_attested, at)
                }
                Pushed::Chart(count) => world.insert_chart(repository_id, count, at),
            };
        }
        world.settle(&mut chance);
        world
    }

    fn plan_bases(
        &mut self,
        chance: &mut Chance,
        repositories: usize,
        artifacts: usize,
    ) -> Vec<Push> {
        let mut real: Vec<usize> = (0..REAL_IMAGES.len()).collect();
        real.shuffle(chance);
        let mut pushes = Vec::new();
        for (base, real) in real.into_iter().take(repositories).enumerate() {
            self.bases.push(BaseImage {
                real,
                releases: Vec::new(),
            });
            let count = artifacts * (base + 1) / repositories - artifacts * base / repositories;
            let repository_id = self.add_repository("base", &REAL_IMAGES[real].name);
            let oldest = self.now - Duration::days(YEARS_BACK_DAYS);
            if count == 0 {
                self.release_base(base, oldest);
            }
            for at in times_between(chance, oldest, self.now, count) {
                let build = self.release_base(base, at);
                pushes.push(Push {
                    at,
                    repository_id,
                    what: Pushed::Build(build),
                });
            }
            if let Some(repository) = self.repositories.get_mut(&repository_id) {
                repository.source = Source::Base(base);
            }
        }
        pushes
    }

    /// Builds a new release of a base image. The first one is the real image,
    /// the others repeat its commands.
    fn release_base(&mut self, base: usize, at: DateTime<Utc>) -> Build {
        let image = &mut self.bases[base];
        let real = &REAL_IMAGES[image.real];
        let number = image.releases.len();
        let mut steps = real.steps.clone();
        if number > 0 {
            let last = steps
                .iter()
                .filter_map(|step| step.created)
                .map(|created| created.at)
                .max();
            for step in &mut steps {
                step.created = step.created.map(|mut created| {
                    // Reproducible builds keep their fixed time.
                    if let Some(last) = last.filter(|last| last.timestamp() > 0) {
                        created.at = at - (last - created.at);
                    }
                    created
                });
                step.layer = step.layer.as_ref().map(|layer| Layer {
                    digest: Digest::of(&[layer.digest.bytes(), &number.to_le_bytes()]),
                    size_bytes: layer.size_bytes + layer.size_bytes * (number as u64 % 7) / 100,
                    media_type: layer.media_type,
                });
            }
        }
        let is_oci = steps
            .iter()
            .filter_map(|step| step.layer.as_ref())
            .any(|layer| layer.media_type.contains("oci"));
        let segment = Segment::new(steps);
        image.releases.push((at, Arc::clone(&segment)));
        let kind = if is_oci {
            ManifestKind::OciImage
        } else {
            ManifestKind::DockerImage
        };
        Build {
            manifest: Manifest::image(kind, vec![segment]),
            tags: vec![at.format("%Y%m%d").to_string()],
            moving_tags: &["latest", "stable"],
        }
    }

    pub(super) fn push_base(
        &mut self,
        repository_id: i64,
        base: usize,
        at: DateTime<Utc>,
    ) -> Option<i64> {
        let build = self.release_base(base, at);
        self.insert_build(repository_id, build, at)
    }

    fn plan_applications(
        &mut self,
        chance: &mut Chance,
        teams: usize,
        quotas: &[usize],
        pushes: &mut Vec<Push>,
    ) {
        let Quirks {
            chart_repositories: charts,
            multi_arch_repositories: multi_arch,
            release_repositories: releases,
            ..
        } = self.quirks;
        let mut names = HashSet::new();
        for (number, quota) in quotas.iter().copied().enumerate() {
            // The first repositories ensure that no namespace is empty.
            let team = if number < teams {
                number
            } else {
                chance.random_range(0..teams)
            };
            let namespace = team_name(team);
            let name = repository_name(chance, &namespace, &mut names);
            let is_negative = self.quirks.negative_repository_id && number == 2;
            let id = if is_negative {
                self.add_repository_as(-3, &namespace, &name)
            } else {
                self.add_repository(&namespace, &name)
            };
            let (first, last) = lifetime(chance, self.now);
            let kind = chance.random::<f64>();
            if kind < charts {
                let times = times_between(chance, first, last, quota);
                pushes.extend(self.plan_charts(id, times));
            } else if kind < charts + multi_arch {
                pushes.extend(self.plan_multi_arch(chance, id, first, last, quota));
            } else if kind < charts + multi_arch + releases {
                let released = quota / 4;
                let times = times_between(chance, first, last, quota - released);
                let builds = self.plan_builds(id, times);
                let release_id = self.add_repository(&namespace, &format!("{name}-release"));
                pushes.extend(self.plan_releases(id, release_id, &builds, released));
                pushes.extend(builds);
            } else {
                let times = times_between(chance, first, last, quota);
                pushes.extend(self.plan_builds(id, times));
            }
        }
    }

    fn plan_builds(&mut self, repository_id: i64, times: Vec<DateTime<Utc>>) -> Vec<Push> {
        let repository = self.repositories.get_mut(&repository_id);
        let Some(Source::Application(recipe) | Source::MultiArch(recipe)) =
            repository.map(|repository| &mut repository.source)
        else {
            return Vec::new();
        };
        times
            .into_iter()
            .map(|at| Push {
                at,
                repository_id,
                what: Pushed::Build(recipe.build(self.bases[recipe.base].release_at(at), at)),
            })
            .collect()
    }

    /// Every build takes two artifacts, or three with an attestation.
    fn plan_multi_arch(
        &mut self,
        chance: &mut Chance,
        repository_id: i64,
        first: DateTime<Utc>,
        last: DateTime<Utc>,
        quota: usize,
    ) -> Vec<Push> {
        let size = if chance.random_bool(0.5) { 3 } else { 2 };
        let (whole, rest) = (quota / size, quota % size);
        let times = times_between(chance, first, last, whole + rest);
        let mut pushes = self.plan_builds(repository_id, times);
        for push in pushes.iter_mut().skip(rest) {
            if let Pushed::Build(build) = &push.what {
                push.what = Pushed::MultiArch {
                    build: build.clone(),
                    is_attested: size == 3,
                };
            }
        }
        if let Some(repository) = self.repositories.get_mut(&repository_id)
            && let Source::Application(recipe) = &repository.source
        {
            repository.source = Source::MultiArch(recipe.clone());
        }
        pushes
    }

    fn plan_charts(&mut self, repository_id: i64, times: Vec<DateTime<Utc>>) -> Vec<Push> {
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        if let Some(repository) = self.repositories.get_mut(&repository_id) {
            repository.source = Source::Chart(count);
        }
        let numbered = times.into_iter().zip(1..);
        numbered
            .map(|(at, number)| Push {
                at,
                repository_id,
                what: Pushed::Chart(number),
            })
            .collect()
    }

    /// Pushes the newest builds again, a day after each.
    fn plan_releases(
        &mut self,
        from: i64,
        repository_id: i64,
        builds: &[Push],
        count: usize,
    ) -> Vec<Push> {
        if let Some(repository) = self.repositories.get_mut(&repository_id) {
            repository.source = Source::Release { from };
        }
        let newest = &builds[builds.len().saturating_sub(count)..];
        newest
            .iter()
            .filter_map(|push| match &push.what {
                Pushed::Build(build) => Some(Push {
                    at: (push.at + Duration::days(1)).min(self.now),
                    repository_id,
                    what: Pushed::Build(Build {
                        moving_tags: &["stable"],
                        ..build.clone()
                    }),
                }),
                Pushed::MultiArch { .. } | Pushed::Chart(_) => None,
            })
            .collect()
    }

    /// Adds pulls, and dates of repositories and namespaces.
    fn settle(&mut self, chance: &mut Chance) {
        for artifact in self.artifacts.values_mut() {
            let never_pulled = if artifact.tags.is_empty() { 0.6 } else { 0.12 };
            if chance.random_bool(never_pulled) {
                continue;
            }
            let last_used = if chance.random_bool(0.3) {
                (artifact.pushed_at + Duration::days(30)).min(self.now)
            } else {
                self.now
            };
            let first_used = artifact.pushed_at.max(last_used - Duration::days(45));
            let pulled_at = time_between(chance, first_used, last_used);
            artifact.pulled_at = Some(pulled_at);
            for tag in &mut artifact.tags {
                tag.pulled_at = chance.random_bool(0.7).then_some(pulled_at);
            }
        }
        for repository in self.repositories.values_mut() {
            let pushes = repository.artifact_ids.values();
            let first = pushes
                .filter_map(|id| self.artifacts.get(id))
                .map(|artifact| artifact.pushed_at)
                .min();
            let last = repository
                .artifact_ids
                .values()
                .filter_map(|id| self.artifacts.get(id))
                .map(|artifact| artifact.pushed_at)
                .max();
            repository.created_at = first.unwrap_or(self.now) - Duration::minutes(7);
            repository.updated_at = last.unwrap_or(repository.created_at);
            repository.pull_count =
                chance.random_range(0..400) * repository.artifact_ids.len() as u64;
            if let Some(namespace) = self.namespaces.get_mut(&repository.namespace_id) {
                namespace.created_at = namespace
                    .created_at
                    .min(repository.created_at - Duration::days(1));
            }
        }
    }
}

/// Distributes the artifacts over repositories: a few get many, most get few.
fn quotas(chance: &mut Chance, repositories: usize, artifacts: usize) -> Vec<usize> {
    let weights: Vec<usize> = (0..repositories)
        .map(|_| {
            let low = 1 << chance.random_range(0..7);
            chance.random_range(low..2 * low)
        })
        .collect();
    let total: usize = weights.iter().sum();
    let mut given = 0;
    let mut weight = 0;
    weights
        .iter()
        .map(|own| {
            weight += own;
            let upto = artifacts * weight / total;
            let quota = upto - given;
            given = upto;
            quota
        })
        .collect()
}

fn team_name(team: usize) -> String {
    match (TEAMS[team % TEAMS.len()], team / TEAMS.len()) {
        (name, 0) => name.to_owned(),
        (name, round) => format!("{name}-{}", round + 1),
    }
}

/// A name that is new in its namespace; one in four has a slash, some have two.
fn repository_name(chance: &mut Chance, namespace: &str, taken: &mut HashSet<String>) -> String {
    let service = *pick(chance, SERVICES);
    let name = match chance.random_range(0..100) {
        0..70 => service.to_owned(),
        70..92 => format!("{service}/{}", pick(chance, PARTS)),
        _ => format!("{}/{service}/{}", pick(chance, TEAMS), pick(chance, PARTS)),
    };
    let mut unique = name.clone();
    let mut number = 1;
    while !taken.insert(format!("{namespace}/{unique}")) {
        number += 1;
        unique = format!("{name}-{number}");
    }
    unique
}

/// First and last build of a repository; two in three are in active use.
fn lifetime(chance: &mut Chance, now: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
    let first = now - Duration::days(chance.random_range(30..YEARS_BACK_DAYS));
    let last = if chance.random_bool(0.65) {
        time_between(chance, now - Duration::days(3), now)
    } else {
        time_between(chance, first, now)
    };
    (first, last)
}

/// Ascending times, a random one in each of `count` equal parts.
fn times_between(
    chance: &mut Chance,
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    count: usize,
) -> Vec<DateTime<Utc>> {
    let parts = i32::try_from(count).unwrap_or(i32::MAX);
    let part = (last - first) / parts.max(1);
    (0..parts)
        .map(|number| {
            let start = first + part * number;
            time_between(chance, start, start + part)
        })
        .collect()
}

fn time_between(chance: &mut Chance, first: DateTime<Utc>, last: DateTime<Utc>) -> DateTime<Utc> {
    let span = (last - first).num_nanoseconds().unwrap_or(i64::MAX).max(1);
    first + Duration::nanoseconds(chance.random_range(0..span))
}
