//! The history of the registry: a month of pushes, retags and deletions, day by day.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;

use super::*;
use crate::support::mirror::start_of_time;

/// `namespace | repository | tag` to digest.
type Tags = BTreeMap<String, String>;

/// Artifact id to namespace, repository, digest, size and push.
type Artifacts = BTreeMap<i64, (String, String, String, u64, DateTime<Utc>)>;

fn tags(world: &World) -> Tags {
    let mut tags = Tags::new();
    for (namespace, name, artifact) in artifacts_with_places(world) {
        for tag in &artifact.tags {
            let key = format!("{namespace} | {name} | {}", tag.name);
            tags.insert(key, artifact.digest().to_string());
        }
    }
    tags
}

fn artifacts(world: &World) -> Artifacts {
    artifacts_with_places(world)
        .map(|(namespace, name, artifact)| {
            let digest = artifact.digest().to_string();
            let row = (
                namespace,
                name,
                digest,
                artifact.manifest.size_bytes,
                artifact.pushed_at,
            );
            (artifact.id, row)
        })
        .collect()
}

fn artifacts_with_places(
    world: &World,
) -> impl Iterator<Item = (String, String, &swr_emulator::Artifact)> {
    world.artifacts().map(|artifact| {
        let repository = world
            .repositories()
            .find(|repository| repository.id == artifact.repository_id)
            .unwrap();
        let namespace = world
            .namespaces()
            .find(|namespace| namespace.id == repository.namespace_id)
            .unwrap();
        (namespace.name.clone(), repository.name.clone(), artifact)
    })
}

/// Random events of one day, one every two hours. Returns the tags after each event.
fn live_a_day(
    world: &mut World,
    morning: DateTime<Utc>,
    chance: &mut fastrand::Rng,
) -> Vec<(DateTime<Utc>, Tags)> {
    let repositories: Vec<i64> = world
        .repositories()
        .map(|repository| repository.id)
        .collect();
    let mut moments = Vec::new();
    for hour in (0..22).step_by(2) {
        world.set_now(morning + TimeDelta::hours(hour) + TimeDelta::minutes(chance.i64(0..100)));
        let repository = repositories[chance.usize(..repositories.len())];
        let held: Vec<(i64, Vec<String>)> = world
            .artifacts_of(repository)
            .iter()
            .map(|artifact| {
                let tags = artifact.tags.iter().map(|tag| tag.name.clone());
                (artifact.id, tags.collect())
            })
            .collect();
        let tag = format!("v{}", chance.u8(0..4));
        match chance.u8(0..10) {
            0..5 => {
                let spec = ArtifactSpec {
                    size_bytes: chance.u64(1..1000),
                    tags: vec![tag, "latest".to_owned()],
                    history: history(&[layer("COPY . /", &format!("{:02x}", chance.u8(..)), 10)]),
                    ..ArtifactSpec::default()
                };
                world.add_artifact(repository, spec).unwrap();
            }
            5..7 if !held.is_empty() => {
                let (artifact, _) = held[chance.usize(..held.len())];
                assert!(world.move_tag(repository, &tag, artifact));
            }
            7 => {
                world.remove_tag(repository, &tag);
            }
            _ if !held.is_empty() => {
                let (artifact, _) = held[chance.usize(..held.len())];
                world.delete_artifact(artifact).unwrap();
            }
            _ => {}
        }
        moments.push((world.now(), tags(world)));
    }
    moments
}

async fn tag_at(mirror: &Mirror, time: DateTime<Utc>) -> Tags {
    let sql = format!(
        "select concat_ws(' | ', namespace, repository, tag), digest from swr_report.tag_at('{}')",
        time.to_rfc3339()
    );
    let rows = mirror.snapshot(&sql).await;
    let rows = rows.lines().filter_map(|row| row.rsplit_once(" | "));
    rows.map(|(tag, digest)| (tag.to_owned(), digest.to_owned()))
        .collect()
}

#[tokio::test]
async fn a_month_is_told_as_it_was() {
    const DAYS: i64 = 30;
    let mut world = World::empty(start_of_time());
    for (namespace, name) in [("shop", "api"), ("shop", "web"), ("base", "os")] {
        world.add_repository(namespace, name);
    }
    let mirror = Mirror::new(world).await;
    let mut chance = fastrand::Rng::with_seed(7);
    let mut listings: Vec<(DateTime<Utc>, Tags, Artifacts)> = Vec::new();
    let mut moments = Vec::new();
    let (mut kept, mut kept_count) = (Tags::new(), 0);
    for day in 0..DAYS {
        let morning = start_of_time() + TimeDelta::days(day);
        let (of_day, tags, artifacts) = mirror.with_world(|world| {
            let of_day = live_a_day(world, morning, &mut chance);
            (of_day, tags(world), artifacts(world))
        });
        let evening = morning + TimeDelta::hours(23);
        mirror.sync_at(evening).await;
        moments.push(of_day);
        if let Some((_, shown, _)) = listings.last() {
            kept = kept_tags(shown, &kept, &tags, &artifacts);
        }
        kept_count += kept.len();
        let shown = tags.into_iter().chain(kept.clone()).collect();
        listings.push((evening, shown, artifacts));
    }
    assert!(kept_count > 3, "{kept_count}");

    check_tag_at(&mirror, &listings, &moments).await;
    check_changes(&mirror, &listings).await;
    check_growth(&mirror, &listings).await;
}

/// Tags that are missing from a listing for the first time although their artifact is listed. They are
/// still shown.
fn kept_tags(shown: &Tags, kept: &Tags, tags: &Tags, artifacts: &Artifacts) -> Tags {
    let stays = |digest: &String| artifacts.values().any(|artifact| artifact.2 == *digest);
    let missing = shown.iter().filter(|(name, digest)| {
        !tags.contains_key(*name) && !kept.contains_key(*name) && stays(digest)
    });
    missing
        .map(|(name, digest)| (name.clone(), digest.clone()))
        .collect()
}

/// The result is exact at each listing. In between, it is a state from between the two listings.
async fn check_tag_at(
    mirror: &Mirror,
    listings: &[(DateTime<Utc>, Tags, Artifacts)],
    moments: &[Vec<(DateTime<Utc>, Tags)>],
) {
    for (time, tags, _) in listings {
        assert_eq!(&tag_at(mirror, *time).await, tags, "{time}");
    }
    let mut between = 0;
    for (day, of_day) in moments.iter().enumerate().skip(1) {
        let before = &listings[day - 1].1;
        for (time, now) in of_day.iter().step_by(5) {
            let told = tag_at(mirror, *time).await;
            let names: BTreeSet<&String> = told.keys().chain(now.keys()).collect();
            for name in names {
                let mut possible = of_day.iter().map(|(_, tags)| tags).chain([before]);
                let is_possible = possible.any(|tags| tags.get(name) == told.get(name));
                assert!(is_possible, "{name} at {time}: {:?}", told.get(name));
                between += usize::from(told.get(name) != before.get(name));
            }
        }
    }
    // The times of pushes are exact, so the result changes within a day.
    assert!(
        between > 10,
        "{between} answers differ from the listing before"
    );
}

/// Each run stored exactly the difference between two listings.
async fn check_changes(mirror: &Mirror, listings: &[(DateTime<Utc>, Tags, Artifacts)]) {
    let (mut changes, mut moves) = (Vec::new(), Vec::new());
    let (mut old_tags, mut old_artifacts) = (&Tags::new(), &Artifacts::new());
    for (run_id, (_, tags, artifacts)) in (1..).zip(listings) {
        for (id, (namespace, name, digest, ..)) in artifacts {
            if !old_artifacts.contains_key(id) {
                changes.push(format!(
                    "{run_id} | artifact added | {namespace} | {name} | NULL | {digest} | NULL"
                ));
            }
        }
        for (id, (namespace, name, digest, ..)) in old_artifacts {
            if !artifacts.contains_key(id) {
                changes.push(format!(
                    "{run_id} | artifact removed | {namespace} | {name} | NULL | {digest} | NULL"
                ));
            }
        }
        let names: BTreeSet<&String> = tags.keys().chain(old_tags.keys()).collect();
        for name in names {
            let (what, from, to) = match (old_tags.get(name), tags.get(name)) {
                (None, Some(to)) => ("added", "NULL", to.as_str()),
                (Some(from), None) => ("removed", from.as_str(), "NULL"),
                (Some(from), Some(to)) if from != to => ("moved", from.as_str(), to.as_str()),
                _ => continue,
            };
            changes.push(format!("{run_id} | tag {what} | {name} | {to} | {from}"));
            if what != "added" {
                moves.push(format!("{run_id} | {name} | {from} | {to}"));
            }
        }
        (old_tags, old_artifacts) = (tags, artifacts);
    }
    assert!(changes.len() > 300, "{}", changes.len());
    let sql = "select run_id, change, namespace, repository, tag, digest, previous_digest from swr_report.change";
    check_sorted(mirror, sql, changes).await;
    let sql = "select run_id, namespace, repository, tag, from_digest, to_digest from swr_report.tag_move";
    check_sorted(mirror, sql, moves).await;
}

/// Pushes on their day, removals on the day of the first listing without the artifact.
async fn check_growth(mirror: &Mirror, listings: &[(DateTime<Utc>, Tags, Artifacts)]) {
    let mut days: BTreeMap<(String, NaiveDate), (i64, i64, i64, i64)> = BTreeMap::new();
    let mut seen = Artifacts::new();
    for (time, _, artifacts) in listings {
        for (id, row) in artifacts {
            let (namespace, _, _, size, pushed_at) = row;
            if seen.insert(*id, row.clone()).is_none() {
                let day = days
                    .entry((namespace.clone(), pushed_at.date_naive()))
                    .or_default();
                day.0 += 1;
                day.1 += *size as i64;
            }
        }
        seen.retain(|id, (namespace, _, _, size, _)| {
            if artifacts.contains_key(id) {
                return true;
            }
            let day = days
                .entry((namespace.clone(), time.date_naive()))
                .or_default();
            day.2 += 1;
            day.3 += *size as i64;
            false
        });
    }
    let mut sums: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let expected = days
        .into_iter()
        .map(|((namespace, day), (pushes, pushed_bytes, removals, removed_bytes))| {
            let (artifacts, bytes) = sums.entry(namespace.clone()).or_default();
            *artifacts += pushes - removals;
            *bytes += pushed_bytes - removed_bytes;
            format!(
                "{namespace} | {day} | {pushes} | {pushed_bytes} | {removals} | {removed_bytes} | {artifacts} | {bytes}"
            )
        })
        .collect();
    let sql = "select namespace, day, pushes, pushed_bytes, removals, removed_bytes, artifacts, logical_bytes
               from swr_report.growth_by_day";
    check_sorted(mirror, sql, expected).await;
    let now = "select sum(artifacts), sum(logical_bytes) from swr_report.storage_by_namespace";
    let sums = sums
        .values()
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    check(
        &mirror.database,
        now,
        &[&format!("{} | {}", sums.0, sums.1)],
    )
    .await;
}

async fn check_sorted(mirror: &Mirror, sql: &str, mut expected: Vec<String>) {
    let rows = mirror.snapshot(sql).await;
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_unstable();
    expected.sort_unstable();
    assert_eq!(rows, expected, "{sql}");
}

#[tokio::test]
async fn change_tells_what_a_changed_or_returned_artifact_was_like() {
    let mirror = Mirror::new(World::empty(start_of_time())).await;
    // The registry returns this row for one artifact. Only the row changes.
    let (row, shown) = mirror.with_world(|world| {
        let repository = world.add_repository("shop", "api");
        let shown = world.add_artifact(repository, artifact("d0", 100, &[])).unwrap();
        let namespace_id = world.add_namespace("shop");
        let row = move |id: i64, size: u64, pushed_at: &str| {
            json!({
                "id": id, "digest": digest("d0"), "repository_id": repository, "repository_name": "shop/api",
                "namespace_id": namespace_id, "size": size, "push_time": pushed_at, "type": "IMAGE",
                "pull_time": "2026-03-02T00:00:00.000Z", "tags": null,
            })
        };
        (row, shown)
    });
    let show = |row: Value| mirror.with_world(|world| world.override_row(shown, row));
    show(row(500, 100, "2026-03-01T00:00:00.000Z"));
    mirror.sync_at(at(20)).await;
    show(row(500, 120, "2026-03-02T00:00:00.000Z"));
    mirror.sync_at(at(21)).await;
    // Another artifact replaces it, then the first one returns.
    show(row(501, 120, "2026-03-02T00:00:00.000Z"));
    mirror.sync_at(at(22)).await;
    show(row(500, 120, "2026-03-02T00:00:00.000Z"));
    mirror.sync_at(at(23)).await;
    // A pull is not a change.
    let mut pulled = row(500, 120, "2026-03-02T00:00:00.000Z");
    pulled["pull_time"] = "2026-03-03T00:00:00.000Z".into();
    show(pulled);
    mirror.sync_at(at(24)).await;

    let changes =
        "select run_id, seen_at, change, artifact_id, digest, size_bytes, changed_at, previous
                   from swr_report.change order by run_id, artifact_id, change";
    let expected = [
        "1 | 2026-03-02 08:00:00+00 | artifact added | 500 | d0 | 100 | 2026-03-01 00:00:00+00 | NULL",
        r#"2 | 2026-03-02 09:00:00+00 | artifact changed | 500 | d0 | 120 | NULL | {"pushed_at": "2026-03-01T00:00:00+00:00", "size_bytes": 100}"#,
        "3 | 2026-03-02 10:00:00+00 | artifact removed | 500 | d0 | 120 | 2026-03-02 10:00:00+00 | NULL",
        "3 | 2026-03-02 10:00:00+00 | artifact added | 501 | d0 | 120 | 2026-03-02 00:00:00+00 | NULL",
        r#"4 | 2026-03-02 11:00:00+00 | artifact restored | 500 | d0 | 120 | NULL | {"removed_at": "2026-03-02T10:00:00+00:00", "removed_run_id": 3}"#,
        "4 | 2026-03-02 11:00:00+00 | artifact removed | 501 | d0 | 120 | 2026-03-02 11:00:00+00 | NULL",
    ];
    check(&mirror.database, changes, &expected).await;
}

#[tokio::test]
async fn tag_at_gives_the_present_artifact_of_a_digest_that_was_pushed_again() {
    let mirror = Mirror::new(World::empty(start_of_time())).await;
    let (repository, shown) = mirror.with_world(|world| {
        let repository = world.add_repository("shop", "api");
        let shown = world.add_artifact(repository, artifact("d0", 100, &[]));
        (repository, shown.unwrap())
    });
    for (id, hour) in [(500, 20), (501, 21)] {
        let row = json!({
            "id": id, "digest": digest("d0"), "repository_id": repository, "size": 100,
            "tags": [{"id": 1, "name": "latest", "push_time": "2026-03-01T00:00:00.000Z"}],
        });
        mirror.with_world(|world| world.override_row(shown, row));
        mirror.sync_at(at(hour)).await;
    }
    let sql = format!(
        "select tag, artifact_id, digest, size_bytes, valid_from, valid_to from swr_report.tag_at('{}')",
        at(22).to_rfc3339()
    );
    let expected = ["latest | 501 | d0 | 100 | 2026-03-01 00:00:00+00 | NULL"];
    check(&mirror.database, &sql, &expected).await;
}
