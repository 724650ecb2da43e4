//! Repeated failures; actions that a run refuses unless they are allowed: mass removals, and a new instance
//! with a known name; and the maximum age in `status`.

use serde_json::{Value, json};
use sqlx::Connection;
use std::sync::Arc;
use swr_emulator::{ArtifactSpec, Emulator, EmulatorSettings, RequestKind, World};
use swr_sync::build_history::GaveUp;
use swr_sync::exit::Exit;
use swr_sync::run::RunOutcome;
use swr_sync::stop;
use swr_sync::sync::Progress;

use crate::support::database::TestDatabase;
use crate::support::mirror::{Mirror, start_of_time, sync_into, wait_until};
use crate::support::program::{Program, emulator, emulator_and_database, emulator_settings};
use crate::support::{assert_contains, assert_lacks, assert_starts_with};

/// This many repositories `team/app-N`, with this many artifacts each.
fn world_of(repositories: usize, artifacts: usize) -> World {
    let mut world = World::empty(start_of_time());
    for number in 0..repositories {
        let repository = world.add_repository("team", &format!("app-{number}"));
        add_artifacts(&mut world, repository, artifacts);
    }
    world
}

fn add_artifacts(world: &mut World, repository: i64, artifacts: usize) {
    for _ in 0..artifacts {
        let spec = ArtifactSpec::default();
        world.add_artifact(repository, spec).unwrap();
    }
}

/// Answers all requests for build histories of these repositories with this status and body.
fn answer_additions(emulator: &Emulator, status: u16, body: &Value, of: impl Fn(&str) -> bool) {
    emulator.with_world(|world| {
        let refused: Vec<i64> = world
            .repositories()
            .filter(|repository| of(&repository.name))
            .map(|repository| repository.id)
            .collect();
        let digests: Vec<String> = world
            .artifacts()
            .filter(|artifact| refused.contains(&artifact.repository_id))
            .map(|artifact| artifact.digest().to_string())
            .collect();
        for digest in digests {
            world.override_build_history(&digest, status, body.clone());
        }
    });
}

/// Answers all requests for build histories with an empty list, as without [`answer_additions`].
fn restore_additions(emulator: &Emulator) {
    let nothing = json!({ "build_histories": null, "total": 0 });
    answer_additions(emulator, 200, &nothing, |_| true);
}

fn refusal() -> Value {
    json!({ "error_code": "SVCSTG.SWR.4030170", "error_msg": "no permission" })
}

fn delete_artifacts(emulator: &Emulator, repository: &str, count: usize) {
    emulator.with_world(|world| {
        let repository = world.repository("team", repository).unwrap().id;
        let ids: Vec<i64> = world
            .artifacts_of(repository)
            .iter()
            .map(|artifact| artifact.id)
            .take(count)
            .collect();
        for id in ids {
            world.delete_artifact(id).unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_every_addition_is_left_alone_and_the_next_run_asks_for_all() {
    let mirror = Mirror::new(world_of(40, 10)).await;
    let body = json!({ "error_code": "SVCSTG.SWR.5000000", "error_msg": "internal" });
    answer_additions(&mirror.emulator, 500, &body, |_| true);

    let report = mirror.sync().await;

    assert_eq!(report.outcome, RunOutcome::Published);
    assert_eq!(report.counters.exit(), Exit::Partial);
    assert_eq!(report.counters.artifacts_new, 400);
    assert!(matches!(
        report.failures.gave_up,
        Some(GaveUp::Everywhere(_))
    ));
    let failed = report.counters.histories_failed;
    // Twenty in a row, and the concurrent requests that were in flight.
    assert!((20..20 + 8).contains(&failed), "{failed}");
    assert_eq!(report.counters.histories_skipped, 400 - failed);
    let requests = mirror.requests().of(RequestKind::BuildHistory);
    assert_eq!(requests, failed * 3, "three attempts each");
    let rows = "select count(*), min(attempts), max(attempts) from swr.manifest";
    let expected = json!({ "count": failed, "min": 1, "max": 1 });
    assert_eq!(mirror.database.row(rows).await, expected);
    let columns = "outcome, exit_code, histories_failed, histories_skipped";
    let expected = json!({
        "outcome": "published", "exit_code": 3, "histories_failed": failed, "histories_skipped": 400 - failed,
    });
    assert_eq!(mirror.database.last_run_with(columns).await, expected);

    restore_additions(&mirror.emulator);
    let report = mirror.sync().await;
    assert_eq!(report.counters.exit(), Exit::Success);
    assert_eq!(report.counters.histories_fetched, 400);
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_in_the_middle_keeps_what_came_before_it() {
    let mirror = Mirror::new(world_of(40, 10)).await;
    let late = |name: &str| name.strip_prefix("app-").unwrap().parse::<u32>().unwrap() >= 20;
    let body = json!({ "error_code": "APIGW.0201", "error_msg": "backend timeout" });
    answer_additions(&mirror.emulator, 504, &body, late);
    let report = mirror.sync().await;
    assert_eq!(report.counters.histories_fetched, 200);
    let failed = report.counters.histories_failed;
    assert!((20..20 + 8).contains(&failed), "{failed}");
    assert_eq!(report.counters.histories_skipped, 200 - failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_read_some_repositories_only_gets_all_of_theirs() {
    let mirror = Mirror::new(world_of(40, 10)).await;
    let is_foreign = |name: &str| !matches!(name, "app-17" | "app-38");
    answer_additions(&mirror.emulator, 403, &refusal(), is_foreign);

    let report = mirror.sync().await;

    assert_eq!(report.counters.histories_fetched, 20);
    assert!(matches!(
        report.failures.gave_up,
        Some(GaveUp::Repositories {
            is_everywhere: false,
            ..
        })
    ));
    let failed = report.counters.histories_failed;
    assert_eq!(report.counters.histories_skipped, 380 - failed);
    // Each of the 38 is requested, but not often.
    assert!((38..38 * 5 + 8).contains(&failed), "{failed}");
    let tried = "select count(distinct a.repository_id) from swr.artifact a join swr.manifest m using (digest)";
    assert_eq!(mirror.snapshot(tried).await, "40");

    restore_additions(&mirror.emulator);
    mirror.sync().await;
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test]
async fn a_policy_that_lacks_the_action_is_told_in_one_sentence() {
    let emulator = emulator(world_of(30, 10)).await;
    answer_additions(&emulator, 403, &refusal(), |_| true);
    let database = TestDatabase::create().await;
    // Requests that are in flight when the run gives up are still answered.
    let program = Program::sync(&emulator, &database).env("SWR_MAX_IN_FLIGHT", "16");
    let finished = program.code(3).await;
    let failed = emulator.requests().of(RequestKind::BuildHistory);
    assert!(failed < 100, "{failed}");
    let skipped = 300 - failed;
    let finished = finished.says(&[
        "run 1: published in ",
        &format!("0 gone, {failed} failed, {skipped} not requested\n"),
        &format!("  missing    {failed} × forbidden, HTTP 403 SVCSTG.SWR.4030170: no permission, for example in team/app-"),
        &format!(
            "the build histories of 30 repositories were denied (forbidden, HTTP 403 SVCSTG.SWR.4030170), so \
             {skipped} more were not requested; all repositories denied them: grant the user swr:repository:getTagAddition"
        ),
        "`swr-sync report history_failure` lists what is missing\n",
    ]);
    assert_eq!(
        finished.stderr.matches("WARN").count(),
        1,
        "{}",
        finished.stderr
    );

    let report = Program::new(&["report", "history_failure", "--format", "json"]);
    let rows = report.database(&database).code(0).await.stdout;
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows.len(), (failed + skipped) as usize);
    assert_eq!(rows[0]["namespace"], "team");
    assert_eq!(rows[0]["outcome"], "forbidden");
    assert_eq!(rows[0]["http_status"], 403);
    assert_eq!(rows[0]["error_message"], "no permission");
    assert_eq!(rows[0]["attempts"], 1);

    let status = Program::new(&["status"])
        .database(&database)
        .code(0)
        .await
        .stdout;
    let waiting = format!(
        "\n  {failed} build histories will be requested again\n  {skipped} build histories not requested yet\n"
    );
    assert_contains(&status, &waiting);
}

#[tokio::test]
async fn the_json_summary_groups_what_failed() {
    let emulator = emulator(world_of(1, 3)).await;
    emulator.fail_next(RequestKind::BuildHistory, 403, refusal().to_string());
    let database = TestDatabase::create().await;
    let program = Program::sync(&emulator, &database).args(&["--log-format", "json"]);
    let finished = program.code(3).await;
    let last: Value = serde_json::from_str(finished.stderr.lines().last().unwrap()).unwrap();
    let groups = last["history_failures"].as_str().unwrap();
    let groups: Value = serde_json::from_str(groups).unwrap();
    let expected = json!([{
        "outcome": "forbidden", "http_status": 403, "error_code": "SVCSTG.SWR.4030170",
        "error_message": "no permission", "count": 1, "repository": "team/app-0",
    }]);
    assert_eq!(groups, expected);
    assert_eq!(last["histories_skipped"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_waits_since_its_first_failure_and_no_longer_when_it_came() {
    let mirror = Mirror::new(world_of(1, 1)).await;
    let since =
        "select attempts, waiting_since < attempted_at, waiting_since is null from swr.manifest";
    for attempts in 1..=2 {
        mirror.fail_next(RequestKind::BuildHistory, 403, refusal().to_string());
        mirror.sync().await;
        let is_later = if attempts == 1 { "f" } else { "t" };
        assert_eq!(
            mirror.snapshot(since).await,
            format!("{attempts} | {is_later} | f")
        );
    }
    let due = "update swr.manifest set next_attempt_at = attempted_at";
    mirror.snapshot(due).await;
    mirror.sync().await;
    assert_eq!(mirror.snapshot(since).await, "3 | NULL | t");
    let failures = "select count(*) from swr_report.history_failure";
    assert_eq!(mirror.snapshot(failures).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_from_the_registry_is_not_waited_for() {
    let mirror = Mirror::new(world_of(1, 2)).await;
    answer_additions(&mirror.emulator, 403, &refusal(), |_| true);
    mirror.sync().await;
    let waiting = "select (select count(*) from swr_report.history_failure), histories_waiting from swr_report.freshness";
    assert_eq!(mirror.snapshot(waiting).await, "2 | 2");
    delete_artifacts(&mirror.emulator, "app-0", 1);
    mirror.sync().await;
    assert_eq!(mirror.snapshot(waiting).await, "1 | 1");
}

#[tokio::test]
async fn a_listing_that_lacks_much_of_the_registry_is_not_published_unless_accepted() {
    let (emulator, database) = emulator_and_database(world_of(3, 200)).await;
    Program::sync(&emulator, &database).code(0).await;
    let published = "select count(*) from swr_report.artifact";
    // 20 % are not a mass removal, one more is.
    delete_artifacts(&emulator, "app-0", 20);
    delete_artifacts(&emulator, "app-1", 100);
    Program::sync(&emulator, &database).code(0).await;
    assert_eq!(database.snapshot(published).await, "480");
    delete_artifacts(&emulator, "app-0", 7);
    delete_artifacts(&emulator, "app-2", 100);
    emulator.with_world(|world| {
        let repository = world.repository("team", "app-2").unwrap().id;
        add_artifacts(world, repository, 1);
    });
    for arguments in [&["--dry-run"][..], &[]] {
        let refused = Program::sync(&emulator, &database)
            .args(arguments)
            .code(6)
            .await;
        refused.says(&[
            "error: the listing lacks 107 of the 480 artifacts published so far, more than the 20 % that may go in \
             one run; most are of team/app-2 (100 of 200), team/app-0 (7 of 180)\n",
            "hint: check the registry: if they are gone there too, `swr-sync sync --accept-removals`",
        ]);
        assert_eq!(database.snapshot(published).await, "480");
        let columns = "outcome, exit_code, artifacts_listed, artifacts_removed, published_at, error like '%107 of the 480%' as is_told";
        let expected = json!({
            "outcome": "failed", "exit_code": 6, "artifacts_listed": 374, "artifacts_removed": 107,
            "published_at": null, "is_told": true,
        });
        assert_eq!(database.last_run_with(columns).await, expected);
    }
    // The new one's history is kept.
    let histories = "select count(*) from swr.manifest";
    assert_eq!(database.snapshot(histories).await, "601");
    emulator.reset_requests();

    let narrower = &["--dry-run", "--max-removals-percent", "23"];
    Program::sync(&emulator, &database)
        .args(narrower)
        .code(0)
        .await;
    let accepted = Program::sync(&emulator, &database).args(&["--accept-removals"]);
    accepted
        .code(0)
        .await
        .says(&["1 new, 0 changed, 107 removed"]);
    assert_eq!(database.snapshot(published).await, "374");
    assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 0);
}

/// This many repositories `team/app-N`, with this many artifacts each; each artifact has a tag `vN`.
fn tagged_world_of(repositories: usize, artifacts: usize) -> World {
    let mut world = World::empty(start_of_time());
    for number in 0..repositories {
        let repository = world.add_repository("team", &format!("app-{number}"));
        for artifact in 0..artifacts {
            let spec = ArtifactSpec {
                tags: vec![format!("v{artifact}")],
                ..ArtifactSpec::default()
            };
            world.add_artifact(repository, spec).unwrap();
        }
    }
    world
}

fn remove_tags(emulator: &Emulator, repository: &str, numbers: std::ops::Range<usize>) {
    emulator.with_world(|world| {
        let repository = world.repository("team", repository).unwrap().id;
        for number in numbers {
            assert!(world.remove_tag(repository, &format!("v{number}")));
        }
    });
}

#[tokio::test]
async fn a_listing_that_lacks_many_tags_of_what_stays_is_not_published_unless_accepted() {
    let (emulator, database) = emulator_and_database(tagged_world_of(3, 200)).await;
    Program::sync(&emulator, &database).code(0).await;
    let tags = "select (select count(*) from swr_report.tag),
                       (select count(*) from swr.tag_history where valid_to is null),
                       (select count(*) from swr.tag where missing_since_run_id is not null)";
    // 20 % are not a mass removal, one more is. Tags removed with their artifacts do not count.
    delete_artifacts(&emulator, "app-0", 100);
    remove_tags(&emulator, "app-1", 0..100);
    Program::sync(&emulator, &database).code(0).await;
    assert_eq!(database.snapshot(tags).await, "500 | 500 | 100");
    Program::sync(&emulator, &database).code(0).await;
    assert_eq!(database.snapshot(tags).await, "400 | 400 | 0");

    remove_tags(&emulator, "app-1", 100..101);
    remove_tags(&emulator, "app-2", 0..100);
    for arguments in [&["--dry-run"][..], &[]] {
        let refused = Program::sync(&emulator, &database)
            .args(arguments)
            .code(6)
            .await;
        refused.says(&[
            "error: the listing lacks 101 of the 400 published tags of artifacts that it still has, more than the \
             20 % that may go in one run; most are of team/app-2 (100 of 200), team/app-1 (1 of 100)\n",
            "hint: check the registry: if they are gone there too, `swr-sync sync --accept-removals`",
        ]);
        assert_eq!(database.snapshot(tags).await, "400 | 400 | 0");
        let columns = "outcome, exit_code, artifacts_removed, tags_removed";
        let expected = json!({ "outcome": "failed", "exit_code": 6, "artifacts_removed": 0, "tags_removed": 101 });
        assert_eq!(database.last_run_with(columns).await, expected);
    }

    let accepted = Program::sync(&emulator, &database).args(&["--accept-removals"]);
    accepted.code(0).await;
    assert_eq!(database.snapshot(tags).await, "400 | 400 | 101");
    Program::sync(&emulator, &database)
        .code(0)
        .await
        .says(&["0 new, 0 moved, 101 removed"]);
    assert_eq!(database.snapshot(tags).await, "299 | 299 | 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_without_any_tags_is_a_mass_removal_if_it_lacks_more_than_a_hundred() {
    let mirror = Mirror::new(tagged_world_of(1, 100)).await;
    mirror.sync().await;
    remove_tags(&mirror.emulator, "app-0", 0..100);
    mirror.sync().await;
    assert_eq!(mirror.sync().await.counters.tags_removed, 100);

    let mirror = Mirror::new(tagged_world_of(1, 101)).await;
    mirror.sync().await;
    let tags = "select * from swr.tag order by name";
    let before = (mirror.facts().await, mirror.snapshot(tags).await);
    remove_tags(&mirror.emulator, "app-0", 0..101);
    let error = mirror.try_sync().await.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused, "{error}");
    let after = (mirror.facts().await, mirror.snapshot(tags).await);
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_first_listing_far_below_the_counts_of_the_catalog_is_published_with_a_warning() {
    let warning =
        "the first listing has 99 artifacts, but the repositories of the catalog count 200";
    for (artifacts, warns) in [(99, true), (100, false)] {
        let (emulator, database) = emulator_and_database(world_of(1, artifacts)).await;
        for is_first in [true, false] {
            let page = emulator.with_world(|world| {
                let repository = world.repository("team", "app-0").unwrap();
                json!({
                    "repositories": [{
                        "id": repository.id, "name": "app-0", "namespace_name": "team",
                        "namespace_id": repository.namespace_id, "artifact_count": 200,
                    }],
                    "total": 1,
                })
            });
            emulator.fail_next(RequestKind::Repositories, 200, page.to_string());
            let run = Program::sync(&emulator, &database).code(0).await;
            let is_warned = run.stderr.contains(warning);
            assert_eq!(is_warned, warns && is_first, "{}", run.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_listing_is_a_mass_removal_if_it_lacks_more_than_a_hundred() {
    let mirror = Mirror::new(world_of(1, 100)).await;
    mirror.sync().await;
    delete_artifacts(&mirror.emulator, "app-0", 100);
    assert_eq!(mirror.sync().await.counters.artifacts_removed, 100);

    let mirror = Mirror::new(world_of(1, 101)).await;
    mirror.sync().await;
    let before = (mirror.facts().await, mirror.writes().await);
    // The catalog still counts artifacts, so the listing is read once more.
    for _ in 0..2 {
        let nothing = json!({ "artifacts": null }).to_string();
        mirror.fail_next(RequestKind::Artifacts, 200, nothing);
    }
    let error = mirror.try_sync().await.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused, "{error}");
    assert_contains(&error, "lacks 101 of the 101 artifacts");
    assert_eq!((mirror.facts().await, mirror.writes().await), before);
    // The same holds if the registry is really empty.
    delete_artifacts(&mirror.emulator, "app-0", 101);
    let error = mirror.try_sync().await.unwrap_err();
    assert_contains(&error, "lacks 101 of the 101 artifacts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_publish_shows_in_its_row_that_it_goes_on() {
    let mirror = Mirror::new(world_of(1, 1)).await;
    mirror.sync().await;
    // Publish has to write an artifact, which the lock prevents.
    mirror.with_world(|world| {
        let repository = world.repositories().next().unwrap().id;
        world.push(repository).unwrap();
    });
    let mut blocker = mirror.database.connect().await;
    let mut blocking = blocker.begin().await.unwrap();
    sqlx::query("lock table swr.artifact in exclusive mode")
        .execute(&mut *blocking)
        .await
        .unwrap();
    let progress = Arc::<Progress>::default();
    let (_stopper, stop) = stop::channel();
    let watching = async {
        let row = "select outcome, updated_at > listing_finished_at + interval '10 s' from swr.sync_run where run_id = 2";
        wait_until("the row of the run was written again", async || {
            mirror.snapshot(row).await == "running | t"
        })
        .await;
        blocking.commit().await.unwrap();
    };
    let (report, ()) = tokio::join!(mirror.sync_until(&progress, &stop), watching);
    assert_eq!(report.unwrap().outcome, RunOutcome::Published);
}

/// An instance of the same name, in the same project or another one.
async fn namesake(instance_id: &str, project_id: Option<&str>) -> Emulator {
    let mut settings = EmulatorSettings {
        instance_id: instance_id.into(),
        ..emulator_settings()
    };
    if let Some(project_id) = project_id {
        settings.project_id = project_id.into();
    }
    Emulator::start(settings, world_of(1, 2)).await.unwrap()
}

#[tokio::test]
async fn an_instance_of_a_known_name_is_taken_up_only_when_told() {
    let (first, database) = emulator_and_database(world_of(1, 1)).await;
    Program::sync(&first, &database).code(0).await;

    let newer = namesake("22222222-2222-2222-2222-222222222222", None).await;
    let old = &first.settings().instance_id;
    let refused = Program::sync(&newer, &database).code(6).await;
    refused.says(&[
        &format!(
            "error: instance 22222222-2222-2222-2222-222222222222 has the name `demo`, as has instance {old} of the \
             same project, which this database mirrors already (last published "
        ),
        "hint: check SWR_INSTANCE_ID; if the instance was deleted and created again, `swr-sync sync --accept-new-instance`",
    ]);
    let instances = "select count(*) from swr.instance";
    assert_eq!(database.snapshot(instances).await, "1");
    assert_eq!(newer.requests().total(), 1);

    let accepting = Program::sync(&newer, &database).args(&["--accept-new-instance"]);
    accepting.code(0).await;
    // Both instances are synced from now on; accepting once is enough.
    newer.reset_requests();
    Program::sync(&newer, &database).code(0).await;
    assert_eq!(newer.requests().of(RequestKind::Instance), 0);
    Program::sync(&first, &database).code(0).await;
    let artifacts = "select instance_id, count(*) from swr_report.artifact group by 1 order by 1";
    assert_eq!(database.snapshot(artifacts).await, "1 | 1\n2 | 2");
}

#[tokio::test]
async fn a_renamed_instance_has_its_new_name_within_a_day() {
    let (first, database) = emulator_and_database(world_of(1, 1)).await;
    Program::sync(&first, &database).code(0).await;
    // Another instance with the same name was accepted.
    let other = namesake("22222222-2222-2222-2222-222222222222", None).await;
    let accepting = Program::sync(&other, &database).args(&["--accept-new-instance"]);
    accepting.code(0).await;
    let renamed = EmulatorSettings {
        instance_name: "renamed".into(),
        ..emulator_settings()
    };
    let renamed = Emulator::start(renamed, world_of(1, 1)).await.unwrap();
    let name = "select name from swr.instance where instance_id = 1";
    let sync = async |emulator: &Emulator, requests: u64| {
        emulator.reset_requests();
        Program::sync(emulator, &database).code(0).await;
        assert_eq!(emulator.requests().of(RequestKind::Instance), requests);
    };
    let a_day_later = async || {
        let sql = "update swr.sync_run set described_at = described_at - interval '24 hours'";
        database.snapshot(sql).await;
    };
    sync(&renamed, 0).await;
    assert_eq!(database.snapshot(name).await, "demo");
    a_day_later().await;
    sync(&renamed, 1).await;
    assert_eq!(database.snapshot(name).await, "renamed");
    sync(&renamed, 0).await;
    // The instance has the name of the other one again.
    a_day_later().await;
    sync(&first, 1).await;
    assert_eq!(database.snapshot(name).await, "demo");
    // A run succeeds without a description, and the next run requests it again.
    a_day_later().await;
    renamed.fail_next(RequestKind::Instance, 404, refusal().to_string());
    sync(&renamed, 1).await;
    sync(&renamed, 1).await;
    assert_eq!(database.snapshot(name).await, "renamed");
}

#[tokio::test]
async fn instances_of_one_name_in_different_projects_are_nothing_special() {
    let (first, database) = emulator_and_database(world_of(1, 1)).await;
    Program::sync(&first, &database).code(0).await;
    let project = Some("ffffffffffffffffffffffffffffffff");
    let other = namesake("22222222-2222-2222-2222-222222222222", project).await;
    Program::sync(&other, &database).code(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_read_the_instance_mirrors_it_all_the_same() {
    let mirror = Mirror::new(world_of(1, 1)).await;
    mirror.fail_next(RequestKind::Instance, 403, refusal().to_string());
    mirror.sync().await;
    let row = "select name, version from swr.instance";
    assert_eq!(mirror.snapshot(row).await, "NULL | NULL");
    mirror.reset_requests();
    mirror.sync().await;
    assert_eq!(mirror.requests().of(RequestKind::Instance), 0);
}

#[tokio::test]
async fn status_tells_whether_the_data_is_fresh_enough() {
    let database = TestDatabase::create().await;
    let status = |arguments: &[&str]| {
        Program::new(&["status", "--max-age", "26h"])
            .args(arguments)
            .database(&database)
    };
    let check = async |arguments: &[&str], code: i32, stderr: &str| {
        let finished = status(arguments).code(code).await;
        assert_eq!(finished.stderr, stderr);
        finished.stdout
    };
    let never = "error: older than 1day 2h: the database has no instance: nothing was synced yet\n";
    check(&[], 1, never).await;

    let first = emulator(world_of(1, 1)).await;
    Program::sync(&first, &database).code(0).await;
    let settings = EmulatorSettings {
        instance_id: "22222222-2222-2222-2222-222222222222".into(),
        instance_name: "o'ther".into(),
        ..emulator_settings()
    };
    let second = Emulator::start(settings, world_of(1, 1)).await.unwrap();
    second.fail_next(RequestKind::Artifacts, 400, "{}");
    Program::sync(&second, &database).code(2).await;

    let unpublished = "error: older than 1day 2h: o'ther was never published\n";
    check(&[], 1, unpublished).await;
    check(&["--instance", "o'ther"], 1, unpublished).await;
    let fresh = check(&["--instance", "demo", "--format", "json"], 0, "").await;
    let fresh: Vec<Value> = serde_json::from_str(&fresh).unwrap();
    assert_eq!(fresh.len(), 1);
    assert_eq!(fresh[0]["instance"], "demo");
    check(&["--instance", &first.settings().instance_id], 0, "").await;
    let missing_name = "error: there is no instance `nowhere`";
    let missing = status(&["--instance", "nowhere"]).code(2).await;
    assert_starts_with(&missing.stderr, missing_name);

    Program::sync(&second, &database).code(0).await;
    check(&[], 0, "").await;
    let age = "update swr.sync_run set listing_started_at = now() - interval '30 hours 5 minutes'
               where instance_id = 1 and outcome = 'published'";
    database.snapshot(age).await;
    let finished = status(&[]).code(1).await;
    let stale = "error: older than 1day 2h: demo is 1day 6h 5m";
    assert_starts_with(&finished.stderr, stale);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    let table = Program::new(&["status", "--instance", "o'ther"]);
    let table = table.database(&database).code(0).await.stdout;
    assert_lacks(&table, "demo");
    let typo = Program::new(&["status", "--instance", "nowhere"]);
    let stderr = typo.database(&database).code(2).await.stderr;
    assert_contains(&stderr, missing_name);

    let empty = TestDatabase::create_empty().await;
    let program = Program::new(&["status", "--max-age", "26h"]).database(&empty);
    program.code(5).await;
}

#[tokio::test]
async fn a_listing_that_is_dated_in_the_future_does_not_count_as_fresh() {
    let (emulator, database) = emulator_and_database(world_of(1, 1)).await;
    let first = Program::sync(&emulator, &database).code(0).await;
    assert_lacks(&first.stderr, "clock");
    let status = || Program::new(&["status", "--max-age", "26h"]).database(&database);
    let date = async |ahead: &str| {
        let sql = format!(
            "update swr.sync_run set listing_started_at = now() + interval '{ahead}' where run_id = 1"
        );
        database.snapshot(&sql).await;
    };
    date("1 minute").await;
    status().code(0).await;
    date("10 hours").await;
    let finished = status().code(1).await;
    finished.says(&[
        "error: older than 1day 2h: demo may be (the time of its listing is ",
        " in the future: a clock is wrong)\n",
    ]);

    let run = Program::sync(&emulator, &database).code(0).await;
    run.says(&["by the clock of this machine, the last published listing began "]);
    status().code(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_for_by_name_is_counted_with_the_rest() {
    let mirror = Mirror::new(world_of(1, 30)).await;
    for _ in 0..2 {
        let empty = json!({ "repositories": [], "total": 0 }).to_string();
        mirror.fail_next(RequestKind::Repositories, 200, empty);
    }
    let report = mirror.sync().await;
    assert_eq!(report.counters.histories_failed, 30);
    assert_eq!(mirror.requests().of(RequestKind::BuildHistory), 0);
    assert_eq!(report.failures.gave_up, None);
    assert_eq!(report.failures.groups[0].count, 30);
    assert_eq!(report.failures.groups[0].repository, None);
    let again = sync_into(&mirror.emulator, &mirror.database, false).await;
    assert_eq!(again.unwrap().counters.histories_fetched, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_history_is_asked_for_once_a_run_however_many_repositories_hold_it() {
    let mut world = world_of(1, 1);
    let first = world.artifacts().next().unwrap().clone();
    let others = world.add_repository("team", "others");
    add_artifacts(&mut world, others, 1_000);
    let last = world.add_repository("team", "last");
    world.promote(first.id, last).unwrap();
    let body = json!({ "error_code": "SVCSTG.SWR.5000000", "error_msg": "internal" });
    world.override_build_history(&first.digest().to_string(), 500, body);
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let failed = "select attempts, next_attempt_at - attempted_at from swr.manifest where outcome = 'failed'";
    assert_eq!(mirror.snapshot(failed).await, "1 | 00:00:00");
}
