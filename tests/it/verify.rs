//! Verification: every kind of corruption is found, and changes of the registry are not reported as corruption.

use chrono::{TimeDelta, Utc};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor};
use swr_emulator::{ArtifactSpec, Emulator, RequestKind, World};
use swr_sync::clock::Clock;
use swr_sync::exit::Exit;
use swr_sync::run::Verification;
use swr_sync::stop::{self, Stop, StopReason};
use swr_sync::sync::SyncError;

use super::support::database::TestDatabase;
use super::support::mirror::{self, Mirror, start_of_time, wait_until};
use super::support::{assert_contains, cases};

async fn try_verify(
    emulator: &Emulator,
    database: &TestDatabase,
    histories: Option<u64>,
) -> Result<Verification, SyncError> {
    let (_stopper, stop) = stop::channel();
    verify_until(emulator, database, histories, &stop).await
}

async fn verify_until(
    emulator: &Emulator,
    database: &TestDatabase,
    histories: Option<u64>,
    stop: &Stop,
) -> Result<Verification, SyncError> {
    // Near the end, so that the sample continues at the beginning.
    let start = "sha256:f8";
    mirror::verify(emulator, database, histories, start, Clock::system(), stop).await
}

/// Verifies all histories, too.
async fn verify_all(emulator: &Emulator, database: &TestDatabase) -> Verification {
    try_verify(emulator, database, None)
        .await
        .unwrap_or_else(|error| panic!("no verdict: {error}"))
}

/// The distinct differences, as `verdict table.field`.
async fn found(database: &TestDatabase) -> String {
    database
        .snapshot(
            "select distinct verdict || ' ' || table_name || '.' || field
             from swr.verification_difference order by 1",
        )
        .await
}

/// A registry with a history: moved and removed tags, removed artifacts, pulls, an index and a chart; and a
/// database with all of this history.
async fn mirror_with_a_past() -> Mirror {
    let mirror = Mirror::new(World::generate(3, 60, start_of_time())).await;
    mirror.sync().await;
    mirror.with_world(|world| {
        world.set_now(start_of_time() + TimeDelta::hours(5));
        world.evolve(1);
    });
    mirror.sync().await;
    mirror.with_world(|world| {
        let tagged = world.artifacts().find(|artifact| !artifact.tags.is_empty());
        let tagged = tagged.unwrap().clone();
        world.remove_tag(tagged.repository_id, &tagged.tags[0].name);
    });
    // A tag is removed when it is missing from two listings in a row.
    mirror.sync().await;
    mirror.sync().await;
    mirror
}

/// Corruptions of the database, and exactly the differences that must be found.
const CORRUPTIONS: [(&str, &str); 106] = cases! {
    // Artifacts, existing and removed.
    "update swr.artifact set size_bytes = size_bytes + 1 where {an artifact}" => "artifact.size_bytes";
    "update swr.artifact set size_bytes = null where {an artifact}" => "artifact.size_bytes";
    "update swr.artifact set repository_id = repository_id + 1000000 where {an artifact without a tag}" => "artifact.repository_id";
    "update swr.artifact set namespace_id = namespace_id + 1 where {an artifact}" => "artifact.namespace_id";
    "update swr.artifact set pushed_at = pushed_at - interval '1 microsecond' where {an artifact}" => "artifact.pushed_at";
    "update swr.artifact set pulled_at = coalesce(pulled_at, pushed_at) - interval '1 day' where {an artifact}" => "artifact.pulled_at";
    "update swr.artifact set pulled_at = now() where {an artifact}" => "artifact.pulled_at";
    "update swr.artifact set digest = 'sha256:' || repeat('0', 64) where {an artifact without a tag}" => "artifact.digest, manifest.row";
    "update swr.artifact set type = 'CHART' where {an artifact} and type <> 'CHART'" => "artifact.type";
    "update swr.artifact set media_type = media_type || '+' where {an artifact}" => "artifact.media_type";
    "update swr.artifact set manifest_media_type = null where {an artifact}" => "artifact.manifest_media_type";
    "update swr.artifact set repository_name = coalesce(repository_name, '') || 'x' where {an artifact}" => "artifact.repository_name";
    "update swr.artifact set first_seen_run_id = 99 where {an artifact}" => "artifact.first_seen_run_id";
    "update swr.artifact set removed_at = (select listing_started_at from swr.sync_run where run_id = 2), removed_run_id = 2 where {an artifact}" => "artifact.removed_at";
    "update swr.artifact set removed_at = now() where artifact_id = (select min(artifact_id) from swr.artifact where removed_run_id is not null)" => "artifact.removed_at";
    "update swr.artifact set removed_run_id = 99 where artifact_id = (select min(artifact_id) from swr.artifact where removed_run_id is not null)" => "artifact.removed_at, artifact.removed_run_id";
    "delete from swr.artifact where {an artifact without a tag}" => "artifact.row";
    // An artifact that was never pushed looks like a deleted one, except for its manifest.
    "insert into swr.artifact (instance_id, artifact_id, repository_id, first_seen_run_id, digest) values (1, 999999, 1, 1, 'sha256:none')" => "manifest.row";
    // Tags.
    "update swr.tag set artifact_id = (select min(artifact_id) from swr.artifact) where {a tag}" => "tag.artifact_id, tag_history.open interval";
    "update swr.tag set tag_id = tag_id + 1 where {a tag}" => "tag.tag_id";
    "update swr.tag set pushed_at = pushed_at + interval '1 second' where {a tag}" => "tag.pushed_at, tag_history.valid_from";
    "update swr.tag set pulled_at = now() where {a tag}" => "tag.pulled_at";
    "update swr.tag set pulled_at = coalesce(pulled_at, pushed_at) - interval '1 day' where {a tag}" => "tag.pulled_at";
    "delete from swr.tag where {a tag}" => "tag.row, tag_history.open interval";
    "insert into swr.tag (instance_id, repository_id, name, artifact_id) select instance_id, repository_id, 'extra', artifact_id from swr.artifact where {an artifact}" => "tag_history.open interval";
    // Their history.
    "update swr.tag_history set digest = 'sha256:none' where {an open interval}" => "tag_history.digest, tag_history.open interval";
    "update swr.tag_history set digest = 'sha256:none' where {a closed interval}" => "tag_history.digest";
    "update swr.tag_history set artifact_id = (select max(artifact_id) from swr.artifact) where {an open interval}" => "tag_history.digest, tag_history.repository_id";
    "update swr.tag_history set artifact_id = 999999 where {a closed interval}" => "tag_history.digest, tag_history.repository_id";
    "update swr.tag_history set valid_from = valid_from - interval '1 second' where {an open interval}" => "tag_history.valid_from";
    "update swr.tag_history set valid_from = '1969-01-01Z' where {a closed interval}" => "tag_history.valid_from";
    "update swr.tag_history set valid_to = valid_to + interval '1 microsecond' where {an interval of a removed tag}" => "tag_history.valid_to";
    "update swr.tag_history set valid_to = null, closed_run_id = null where {an interval of a removed tag}" => "tag_history.open interval";
    "update swr.tag_history set valid_to = now(), closed_run_id = 3 where {an open interval}" => "tag_history.open interval, tag_history.valid_to";
    "update swr.tag_history set opened_run_id = 99 where {an open interval}" => "tag_history.opened_run_id";
    "update swr.tag_history set closed_run_id = 99 where {a closed interval}" => "tag_history.closed_run_id";
    "update swr.tag_history set closed_run_id = null where {a closed interval}" => "tag_history.closed_run_id";
    "delete from swr.tag_history where {an open interval}" => "tag_history.open interval";
    // The catalog.
    "update swr.repository set name = name || 'x' where {a repository}" => "repository.name";
    "update swr.repository set namespace_name = 'x' where {a repository}" => "repository.namespace_name";
    "update swr.repository set namespace_id = namespace_id + 1 where {a repository}" => "repository.namespace_id";
    "update swr.repository set description = 'x' where {a repository}" => "repository.description";
    "update swr.repository set tag_count = tag_count + 1 where {a repository}" => "repository.tag_count";
    "update swr.repository set artifact_count = artifact_count + 1 where {a repository}" => "repository.artifact_count";
    "update swr.repository set pull_count = pull_count + 1 where {a repository}" => "repository.pull_count";
    "update swr.repository set created_at = null where {a repository}" => "repository.created_at";
    "update swr.repository set updated_at = updated_at - interval '1 day' where {a repository}" => "repository.updated_at";
    "update swr.repository set removed_at = now() where {a repository}" => "repository.removed_at";
    "delete from swr.repository where {a repository}" => "repository.row";
    "update swr.namespace set name = 'x' where {a namespace}" => "namespace.name";
    "update swr.namespace set repository_count = 0 where {a namespace}" => "namespace.repository_count";
    "update swr.namespace set metadata = '{}' where {a namespace}" => "namespace.metadata";
    "update swr.namespace set created_at = now() where {a namespace}" => "namespace.created_at";
    "update swr.namespace set updated_at = null where {a namespace}" => "namespace.updated_at";
    "update swr.namespace set removed_at = now() where {a namespace}" => "namespace.removed_at";
    "delete from swr.namespace where {a namespace}" => "namespace.row";
    // Build histories.
    "delete from swr.manifest where {a manifest}" => "manifest.row";
    "update swr.manifest set outcome = 'empty', layer_bytes = null, build_step_ids = null, layer_ids = null, chain_ids = null where {a manifest}" => "manifest.build_step_ids, manifest.outcome";
    "update swr.manifest set outcome = 'unsupported', layer_bytes = null, build_step_ids = null, layer_ids = null, chain_ids = null where {a manifest}" => "manifest.build_step_ids, manifest.outcome";
    "update swr.manifest set reported_total = reported_total + 1 where {a manifest}" => "manifest.reported_total";
    r#"update swr.manifest set extra = '{"a": 1}' where {a manifest}"# => "manifest.extra";
    "update swr.manifest set layer_bytes = layer_bytes + 1 where {a manifest}" => "manifest.layer_bytes";
    "update swr.manifest set layer_ids = layer_ids[2:] where {a manifest}" => "manifest.layer_ids";
    "update swr.manifest set chain_ids = chain_ids[2:] where {a manifest}" => "manifest.chain_ids";
    "update swr.manifest set build_step_ids = build_step_ids[1:cardinality(build_step_ids) - 1] where {a manifest}" => "manifest.build_step_ids";
    "update swr.manifest set build_step_ids = build_step_ids || build_step_ids[1] where {a manifest}" => "manifest.build_step_ids";
    "update swr.manifest set build_step_ids = build_step_ids[2:] || build_step_ids[1] where {a manifest}" => "manifest.build_step_ids";
    "delete from swr.build_step where {a step}" => "build_step.row";
    "update swr.build_step set created_at = created_at + interval '1 microsecond' where {a step}" => "build_step.created_at";
    "update swr.build_step set created_at_ns = (created_at_ns + 1) % 1000 where {a step}" => "build_step.created_at_ns";
    "update swr.build_step set command_id = null where {a step}" => "build_step.command_id";
    "update swr.build_step set layer_id = null where {a step with a layer}" => "build_step.layer_id";
    "update swr.build_step set media_type_id = null where {a step with a layer}" => "build_step.media_type_id";
    "update swr.build_step set chain_id = null where {a step with a layer}" => "build_step.chain_id";
    "update swr.build_step set empty_layer = not empty_layer where {a step}" => "build_step.empty_layer";
    r#"update swr.build_step set extra = '{"a": 1}' where {a step}"# => "build_step.extra";
    "update swr.command set command = command || ' ' where command_id = (select command_id from swr.build_step where {a step})" => "command.command";
    "delete from swr.command where command_id = (select command_id from swr.build_step where {a step})" => "command.row";
    "update swr.layer set size_bytes = size_bytes + 1 where layer_id = (select layer_id from swr.build_step where {a step with a layer})" => "layer.size_bytes";
    "update swr.layer set digest = 'sha256:none' where layer_id = (select layer_id from swr.build_step where {a step with a layer})" => "layer.digest";
    "delete from swr.layer where layer_id = (select layer_id from swr.build_step where {a step with a layer})" => "layer.row";
    "update swr.media_type set media_type = media_type || 'x'" => "media_type.media_type";
    "delete from swr.media_type" => "media_type.row";
    // Tables of shared layers.
    "delete from swr.artifact_layering where {a counted artifact}" => "artifact_layering.exclusive_bytes, artifact_layering.shared_chain_id, namespace_layering.exclusive_bytes, namespace_layering.layer_bytes, namespace_layering.layer_count, namespace_layering.share_bytes, repository_layering.exclusive_bytes, repository_layering.layer_bytes, repository_layering.layer_count, repository_layering.share_bytes";
    "update swr.artifact_layering set layer_count = layer_count + 1 where {a counted artifact}" => "artifact_layering.layer_count";
    "update swr.artifact_layering set layer_bytes = layer_bytes + 1 where {a counted artifact}" => "artifact_layering.layer_bytes";
    "update swr.artifact_layering set exclusive_bytes = exclusive_bytes + 1 where {a counted artifact}" => "artifact_layering.exclusive_bytes";
    "update swr.artifact_layering set root_chain_id = null where {a counted artifact}" => "artifact_layering.root_chain_id";
    "update swr.artifact_layering set chain_id = root_chain_id where {a counted artifact}" => "artifact_layering.chain_id";
    "update swr.artifact_layering set base_chain_id = chain_id where {a counted artifact}" => "artifact_layering.base_chain_id";
    "update swr.artifact_layering set shared_chain_id = null where {a counted artifact}" => "artifact_layering.shared_chain_id";
    "update swr.artifact_layering set last_step_id = null where {a counted artifact}" => "artifact_layering.last_step_id";
    "update swr.artifact_layering set base_step_id = last_step_id where {a counted artifact}" => "artifact_layering.base_step_id";
    "update swr.repository_layering set share_bytes = share_bytes + 1 where {a counted repository}" => "repository_layering.share_bytes";
    "update swr.namespace_layering set share_bytes = share_bytes + 1 where {a counted namespace}" => "namespace_layering.share_bytes";
    "update swr.shared_layer set repositories = repositories + 1 where {a shared layer}" => "shared_layer.repositories";
    "update swr.shared_layer set namespaces = namespaces + 1 where {a shared layer}" => "shared_layer.namespaces";
    "delete from swr.shared_layer where {a shared layer}" => "shared_layer.row";
    "update swr.repository_layering set layer_count = layer_count + 1 where {a counted repository}" => "repository_layering.layer_count";
    "update swr.repository_layering set layer_bytes = layer_bytes + 1 where {a counted repository}" => "repository_layering.layer_bytes";
    "update swr.repository_layering set exclusive_bytes = exclusive_bytes + 1 where {a counted repository}" => "repository_layering.exclusive_bytes";
    "delete from swr.repository_layering where {a counted repository}" => "repository_layering.row";
    "update swr.namespace_layering set layer_count = layer_count + 1 where {a counted namespace}" => "namespace_layering.layer_count";
    "update swr.namespace_layering set layer_bytes = layer_bytes + 1 where {a counted namespace}" => "namespace_layering.layer_bytes";
    "update swr.namespace_layering set exclusive_bytes = exclusive_bytes + 1 where {a counted namespace}" => "namespace_layering.exclusive_bytes";
    "delete from swr.namespace_layering where {a counted namespace}" => "namespace_layering.row";
};

/// These four tables are computed from the others, so changes of the others also cause differences
/// here. The exact differences here are checked only for statements on these four.
const SHARING: [&str; 4] = [
    "artifact_layering.",
    "repository_layering.",
    "namespace_layering.",
    "shared_layer.",
];

fn is_of_sharing(found: &str) -> bool {
    SHARING.iter().any(|table| found.starts_with(table))
}

/// How the statements above select their row.
const CHOICES: [(&str, &str); 15] = cases! {
    "{an artifact}" => "artifact_id = (select min(artifact_id) from swr.artifact where removed_at is null)";
    "{an artifact without a tag}" => "artifact_id = (select min(a.artifact_id) from swr.artifact a where a.removed_at is null
             and not exists (select from swr.tag t where t.artifact_id = a.artifact_id)
             and not exists (select from swr.tag_history h where h.artifact_id = a.artifact_id))";
    "{a tag}" => "tag_id = (select min(tag_id) from swr.tag where pushed_at < '2026-03-01Z')";
    "{an open interval}" => "(repository_id, name) = (select repository_id, name from swr.tag where pushed_at < '2026-03-01Z' order by tag_id limit 1)
             and valid_to is null";
    "{a closed interval}" => "(repository_id, name, valid_from) = (select repository_id, name, valid_from from swr.tag_history
             where valid_to is not null order by 1, 2, 3 limit 1)";
    "{an interval of a removed tag}" => "(repository_id, name, valid_from) = (select repository_id, name, valid_from from swr.tag_history h
             where valid_to is not null
               and not exists (select from swr.tag t where t.repository_id = h.repository_id and t.name = h.name)
             order by 1, 2, 3 limit 1)";
    "{a repository}" => "repository_id = (select min(repository_id) from swr.repository where removed_at is null)";
    "{a namespace}" => "namespace_id = (select min(namespace_id) from swr.namespace where removed_at is null)";
    "{a counted artifact}" => "artifact_id = (select min(artifact_id) from swr.artifact_layering
             where root_chain_id <> chain_id and shared_chain_id is not null and exclusive_bytes > 0)";
    "{a counted repository}" => "repository_id = (select min(repository_id) from swr.repository_layering)";
    "{a shared layer}" => "layer_id = (select layer_id from swr.shared_layer order by layer_id limit 1)";
    "{a counted namespace}" => "namespace_id = (select min(namespace_id) from swr.namespace_layering)";
    "{a manifest}" => "digest = (select min(m.digest) from swr.manifest m join swr.artifact a using (digest)
             where m.outcome = 'stored' and a.removed_at is null and cardinality(m.build_step_ids) > 2)";
    "{a step}" => "build_step_id = (select build_step_ids[2] from swr.manifest where {a manifest})";
    "{a step with a layer}" => "build_step_id = (select build_step_ids[1] from swr.manifest where {a manifest})";
};

fn with_choices(statement: &str) -> String {
    let mut statement = statement.to_owned();
    for _ in 0..2 {
        for (name, condition) in CHOICES {
            statement = statement.replace(name, condition);
        }
    }
    statement
}

/// The corrupted tables; they are restored from a copy.
const TABLES: [&str; 14] = [
    "namespace",
    "repository",
    "artifact",
    "tag",
    "tag_history",
    "manifest",
    "build_step",
    "command",
    "layer",
    "media_type",
    "artifact_layering",
    "repository_layering",
    "namespace_layering",
    "shared_layer",
];

fn for_each_table(statement: &str) -> AssertSqlSafe<String> {
    let statements = TABLES.map(|table| statement.replace("{table}", table));
    // Without foreign keys: they prevent some corruptions that a broken disk can cause.
    AssertSqlSafe(format!(
        "set session_replication_role = replica; {}",
        statements.join("; ")
    ))
}

#[tokio::test]
async fn a_repository_that_only_the_artifact_list_names_must_have_a_row() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    let id = world
        .add_artifact(repository, ArtifactSpec::default())
        .unwrap();
    let digest = world.artifact(id).unwrap().digest().to_string();
    let listed =
        json!({"id": id, "digest": digest, "repository_id": 999, "repository_name": "hidden"});
    world.override_row(id, listed);
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(found(&mirror.database).await, "");
    let removed = "update swr.repository set removed_at = now() where repository_id = 999";
    mirror.snapshot(removed).await;
    verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(found(&mirror.database).await, "corrupt repository.row");
}

#[tokio::test]
async fn corruption_of_each_kind_is_found_and_nothing_else() {
    let mirror = mirror_with_a_past().await;
    let mut connection = mirror.database.connect().await;
    let copy = for_each_table("create table public.{table} as table swr.{table}");
    connection.execute(copy).await.unwrap();
    let mut failures = Vec::new();
    for (statement, expected) in CORRUPTIONS {
        let sql = AssertSqlSafe(with_choices(statement));
        let changed = connection.execute(sql).await;
        let changed = changed.unwrap_or_else(|error| panic!("{statement}: {error}"));
        if changed.rows_affected() == 0 {
            failures.push(format!("{statement}\n  changes nothing"));
        }
        let report = verify_all(&mirror.emulator, &mirror.database).await;
        let found = found(&mirror.database).await;
        let expected: Vec<&str> = expected.split(", ").collect();
        let expects_sharing = expected.iter().any(|found| is_of_sharing(found));
        let found: Vec<&str> = found
            .lines()
            .filter_map(|line| line.strip_prefix("corrupt "))
            .filter(|found| expects_sharing || !is_of_sharing(found))
            .collect();
        if found != expected || report.verdict.corrupt == 0 {
            failures.push(format!(
                "{statement}\n  found {found:?} instead of {expected:?}"
            ));
        }
        let restore = for_each_table(
            "delete from swr.{table}; insert into swr.{table} select * from public.{table}",
        );
        connection.execute(restore).await.unwrap();
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let report = verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(report.verdict, Default::default(), "the copies are whole");
    connection.close().await.unwrap();
}

/// Changes of the registry after the last run, and the expected result of a verification.
#[tokio::test]
async fn what_changed_in_the_registry_is_no_corruption() {
    let mirror = mirror_with_a_past().await;
    mirror.with_world(|world| {
        world.set_now(Utc::now() + TimeDelta::hours(2));
        for round in 2..5 {
            world.evolve(round);
        }
        // One at a time, so that no other change explains the difference.
        let tagged: Vec<_> = world
            .artifacts()
            .filter(|artifact| !artifact.tags.is_empty())
            .cloned()
            .collect();
        let (first, last) = (&tagged[0], &tagged[tagged.len() - 1]);
        world.remove_tag(first.repository_id, &first.tags[0].name);
        world.delete_artifact(last.id);
        world.pull(tagged[1].id, Utc::now());
        world.add_namespace("new-and-empty");
        let repository = world.add_repository("team-1", "new");
        world.push(repository).unwrap();
    });
    let report = verify_all(&mirror.emulator, &mirror.database).await;
    let differences = found(&mirror.database).await;
    assert_eq!(report.verdict.corrupt, 0, "{differences}");
    assert_eq!(
        mirror
            .snapshot(
                "select outcome, corrupt, changed > 0, unlisted > 0 from swr_report.verification"
            )
            .await,
        "intact | 0 | t | t"
    );
    for kind in [
        "changed artifact.row",
        "changed artifact.pulled_at",
        "changed namespace.row",
        "changed repository.artifact_count",
        "changed repository.row",
        "changed tag.artifact_id",
        "changed tag.row",
        "unlisted artifact.row",
        "unlisted repository.row",
        "unlisted tag.row",
    ] {
        assert!(
            differences.lines().any(|line| line == kind),
            "no {kind}: {differences}"
        );
    }

    // The next run publishes all of it, except the removed tag, which takes two runs.
    mirror.sync().await;
    mirror.sync().await;
    let report = verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(found(&mirror.database).await, "");
    assert_eq!(report.histories.unavailable, 0);
}

/// A single change of the registry.
type Change = (&'static str, fn(&mut World));

const CHANGES: [Change; 9] = [
    ("a push", |world| {
        let repository = first_tagged(world).repository_id;
        world.push(repository).unwrap();
    }),
    ("a pull", |world| {
        let (artifact, now) = (first_tagged(world), world.now());
        assert!(world.pull(artifact.id, now));
    }),
    ("a promotion", |world| {
        let artifact = first_tagged(world);
        let mut others = world.repositories();
        let other = others.find(|repository| repository.id != artifact.repository_id);
        let other = other.unwrap().id;
        drop(others);
        world.promote(artifact.id, other).unwrap();
    }),
    ("a tag that moves", |world| {
        let artifact = first_tagged(world);
        let others = world.artifacts_of(artifact.repository_id);
        let other = others.iter().find(|other| other.id != artifact.id);
        let other = other.unwrap().id;
        assert!(world.move_tag(artifact.repository_id, &artifact.tags[0].name, other));
    }),
    ("a tag that is removed", |world| {
        let artifact = first_tagged(world);
        assert!(world.remove_tag(artifact.repository_id, &artifact.tags[0].name));
    }),
    ("an artifact that is deleted", |world| {
        let artifact = first_tagged(world);
        world.delete_artifact(artifact.id).unwrap();
    }),
    ("a repository that is deleted", |world| {
        let artifact = first_tagged(world);
        world.delete_repository(artifact.repository_id).unwrap();
    }),
    ("a repository that is made", |world| {
        let namespace = world.namespaces().next().unwrap().name.clone();
        world.add_repository(&namespace, "made");
    }),
    ("a namespace that is made", |world| {
        world.add_namespace("made");
    }),
];

fn first_tagged(world: &World) -> swr_emulator::Artifact {
    let mut artifacts = world.artifacts();
    let tagged = artifacts.find(|artifact| {
        !artifact.tags.is_empty() && world.artifacts_of(artifact.repository_id).len() > 1
    });
    tagged.unwrap().clone()
}

#[tokio::test]
async fn no_single_change_of_the_registry_is_taken_for_corruption() {
    let mirror = mirror_with_a_past().await;
    for (name, change) in CHANGES {
        mirror.with_world(|world| {
            world.set_now(Utc::now());
            change(world);
        });
        let report = verify_all(&mirror.emulator, &mirror.database).await;
        let differences = found(&mirror.database).await;
        assert_eq!(report.verdict.corrupt, 0, "{name}: {differences}");
        assert_ne!(differences, "", "{name} is not seen");
        mirror.sync().await;
    }
}

#[tokio::test]
async fn a_verification_writes_no_fact_and_leaves_the_view_of_runs_alone() {
    let mirror = mirror_with_a_past().await;
    let freshness = "select last_published_run_id, failures_since from swr_report.freshness";
    let before = (mirror.writes().await, mirror.snapshot(freshness).await);
    let report = verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(
        report.verdict,
        Default::default(),
        "{}",
        found(&mirror.database).await
    );
    assert_eq!(
        (mirror.writes().await, mirror.snapshot(freshness).await),
        before
    );
    let columns = "run_id, outcome, exit_code, artifacts_listed > 0 as lists, histories_fetched > 0 as fetches";
    let expected = json!({ "run_id": 5, "outcome": "verified", "exit_code": 0, "lists": true, "fetches": true });
    assert_eq!(mirror.database.last_run_with(columns).await, expected);
    let staged = "select count(*) from swr.staged_artifact";
    assert_eq!(mirror.snapshot(staged).await, "0");
    // A run after it has nothing to write.
    let next = mirror.sync().await;
    assert_eq!(next.counters.rows_written, 0);
}

#[tokio::test]
async fn a_sample_asks_for_as_many_histories_as_it_was_told() {
    let mirror = mirror_with_a_past().await;
    let digests = "select count(distinct digest) from swr.artifact where removed_at is null";
    let digests: u64 = mirror.snapshot(digests).await.parse().unwrap();
    // More than remain after the start of the sample, and more than exist.
    for (asked, expected) in [
        (Some(0), 0),
        (Some(7), 7),
        (Some(40), 40),
        (Some(9_999), digests),
        (None, digests),
    ] {
        mirror.reset_requests();
        let report = try_verify(&mirror.emulator, &mirror.database, asked)
            .await
            .unwrap();
        let requests = mirror.requests();
        assert_eq!(
            requests.of(RequestKind::BuildHistory),
            expected,
            "{asked:?}"
        );
        assert_eq!(report.histories.compared as u64, expected, "{asked:?}");
    }
}

#[tokio::test]
async fn a_history_that_does_not_come_is_counted_and_nothing_more() {
    let mirror = mirror_with_a_past().await;
    for status in [403, 404] {
        mirror.fail_next(RequestKind::BuildHistory, status, "{}");
    }
    let report = verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(report.histories.unavailable, 2);
    assert_eq!(report.verdict, Default::default());
}

#[tokio::test]
async fn a_history_that_waits_for_another_attempt_is_no_corruption() {
    let mirror = Mirror::new(World::generate(3, 20, start_of_time())).await;
    for _ in 0..2 {
        mirror.fail_next(RequestKind::BuildHistory, 403, "{}");
    }
    mirror.sync().await;
    let report = verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(found(&mirror.database).await, "changed manifest.outcome");
    assert_eq!((report.verdict.corrupt, report.verdict.changed), (0, 2));
}

#[tokio::test]
async fn a_failed_verification_gives_no_verdict() {
    let mirror = Mirror::new(World::generate(3, 20, start_of_time())).await;
    let end = async || {
        let result = try_verify(&mirror.emulator, &mirror.database, None).await;
        result.map(|report| report.verdict).unwrap_err().exit()
    };
    assert_eq!(end().await, Exit::Usage, "nothing was published");
    mirror.sync().await;
    mirror.fail_next(RequestKind::Artifacts, 403, "{}");
    assert_eq!(end().await, Exit::Denied);

    let mut holder = mirror.database.connect().await;
    let lock = "select pg_advisory_lock(1398231635, 1)";
    holder.execute(lock).await.unwrap();
    assert_eq!(end().await, Exit::Locked);
    holder.close().await.unwrap();

    let verdicts = "select count(*) from swr.verification";
    assert_eq!(mirror.snapshot(verdicts).await, "0");
    let runs = "select outcome from swr.sync_run order by run_id";
    assert_eq!(mirror.snapshot(runs).await, "published\nfailed");
}

#[tokio::test]
async fn a_signal_ends_a_verification_which_says_so() {
    let mirror = Mirror::new(World::generate(3, 20, start_of_time())).await;
    mirror.sync().await;
    mirror.reset_requests();
    mirror.hang_next(RequestKind::BuildHistory);
    let (stopper, stop) = stop::channel();
    let verification = verify_until(&mirror.emulator, &mirror.database, None, &stop);
    let stopping = async {
        wait_until("a history is requested", async || {
            mirror.requests().of(RequestKind::BuildHistory) > 0
        })
        .await;
        stopper.stop(StopReason::Terminate);
    };
    let (result, ()) = tokio::join!(verification, stopping);
    assert_eq!(
        result.map(|report| report.verdict).unwrap_err().exit(),
        Exit::Terminated
    );
    assert_eq!(mirror.database.last_run().await, "stopped | 143");
    // The lock is free again.
    verify_all(&mirror.emulator, &mirror.database).await;
}

mod command {
    use super::*;
    use crate::support::program::{Program, emulator_and_database};

    #[tokio::test]
    async fn the_exit_code_tells_and_the_differences_are_listed() {
        let mut world = World::empty(start_of_time());
        let repository = world.add_repository("team", "app/api");
        let pushed = world.push(repository).unwrap();
        let (emulator, database) = emulator_and_database(world).await;
        let verify = |arguments: &[&str]| {
            Program::new(&["verify"])
                .args(arguments)
                .registry(&emulator)
                .database(&database)
        };
        verify(&[])
            .code(2)
            .await
            .says(&["no published run", "run `swr-sync sync` first"]);
        Program::sync(&emulator, &database).code(0).await;
        let finished = verify(&[]).code(0).await;
        assert_eq!(finished.stdout, "");
        finished.says(&[
            "run 2: data of run 1 is intact, verified in ",
            "  compared     1 artifacts, ",
            " 1 histories (0 unavailable)\n",
            "  differences  0 corrupt, 0 changed since the run of ",
        ]);

        emulator.with_world(|world| world.pull(pushed.id, Utc::now() + TimeDelta::hours(1)));
        let finished = verify(&[]).code(0).await;
        assert_contains(&finished.stdout, "changed");

        let mut connection = database.connect().await;
        let corruption =
            "update swr.artifact set size_bytes = 1; update swr.command set command = 'RUN secret'";
        connection.execute(corruption).await.unwrap();
        connection.close().await.unwrap();
        let finished = verify(&["--format", "csv", "--limit", "1"]).code(1).await;
        let size = pushed.manifest.size_bytes;
        let expected = format!(
            "verdict,table_name,row_key,field,stored,found\ncorrupt,artifact,{},size_bytes,1,{size}\n",
            pushed.id
        );
        assert_eq!(finished.stdout, expected);
        let finished = verify(&["--format", "json", "--limit", "0"]).code(1).await;
        assert_contains(&finished.stdout, "\"command\"");
        assert!(
            !finished.stdout.contains("RUN "),
            "a command is in the list"
        );

        let report =
            Program::new(&["report", "verification", "--format", "csv"]).database(&database);
        let report = report.code(0).await;
        let outcomes: Vec<&str> = report
            .stdout
            .lines()
            .skip(1)
            .filter_map(|line| line.split(',').nth(2))
            .collect();
        assert_eq!(outcomes, ["corrupt", "corrupt", "intact", "intact"]);
    }

    #[tokio::test]
    async fn only_a_number_or_all_is_a_sample() {
        let program = Program::new(&["verify", "--histories", "some"]);
        program.code(2).await.says(&["expected a number, or `all`"]);
    }
}

/// As after a restore from a backup: ids are used again for other artifacts.
#[tokio::test]
async fn ids_that_name_other_artifacts_are_recorded_and_no_corruption() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    let shown = world
        .add_artifact(repository, ArtifactSpec::default())
        .unwrap();
    let mirror = Mirror::new(world).await;
    let show = |digit: &str, size: u64, pushed_at: &str| {
        let row = json!({
            "id": 500, "digest": format!("sha256:{}", digit.repeat(64)), "repository_id": repository, "size": size,
            "push_time": pushed_at,
            "tags": [{"id": 1, "name": "v1", "push_time": pushed_at}],
        });
        mirror
            .emulator
            .with_world(|world| world.override_row(shown, row));
    };
    show("a", 100, "2026-03-01T10:00:00.000Z");
    mirror.sync().await;
    assert_eq!(
        verify_all(&mirror.emulator, &mirror.database)
            .await
            .verdict
            .corrupt,
        0
    );

    show("b", 120, "2026-03-01T09:00:00.000Z");
    let verification = verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(
        verification.verdict.corrupt,
        0,
        "{}",
        found(&mirror.database).await
    );
    let changed = "changed artifact.digest\nchanged artifact.pushed_at\nchanged artifact.size_bytes\nchanged tag.pushed_at";
    assert_eq!(found(&mirror.database).await, changed);

    mirror.sync().await;
    let issues = "select row_key, field, action, original from swr_report.data_issue";
    let expected = format!(
        "500 | digest | the id named another digest before, as after a restore from a backup | \"sha256:{}\"",
        "a".repeat(64)
    );
    assert_eq!(mirror.database.snapshot(issues).await, expected);
    verify_all(&mirror.emulator, &mirror.database).await;
    assert_eq!(found(&mirror.database).await, "");

    // Without another push time, the digest in the table is wrong.
    mirror
        .database
        .snapshot(&format!(
            "update swr.artifact set digest = 'sha256:{}'",
            "c".repeat(64)
        ))
        .await;
    let verification = verify_all(&mirror.emulator, &mirror.database).await;
    assert!(verification.verdict.corrupt > 0);
}
