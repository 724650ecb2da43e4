//! Runs from an emulated registry into a real database: the invariants.

use chrono::TimeDelta;
use serde_json::{Value, json};
use std::sync::Arc;
use swr_emulator::{
    Artifact, ArtifactSpec, Emulator, EmulatorSettings, ManifestKind, RequestKind, World,
};
use swr_sync::exit::Exit;
use swr_sync::registry::RequestMeter;
use swr_sync::run::{RunOutcome, RunReport};
use swr_sync::stop::{self, StopReason};
use swr_sync::sync::{Progress, SyncError};

use super::support::database::TestDatabase;
use super::support::mirror::{Mirror, start_of_time, sync_into, wait_until};
use super::support::{assert_contains, cases};

/// 350 artifacts: four pages with all oddities of the emulator.
fn odd_world() -> World {
    World::generate(7, 350, start_of_time())
}

/// A tenth of a page, without build histories.
fn small_world(artifacts: usize) -> World {
    let mut world = World::empty(start_of_time());
    world.add_namespace("team");
    let repository = world.add_repository("team", "app/api");
    for number in 0..artifacts {
        let spec = ArtifactSpec {
            tags: vec![format!("v{number}")],
            size_bytes: 10,
            ..ArtifactSpec::default()
        };
        world.add_artifact(repository, spec).unwrap();
    }
    world
}

fn distinct_digests(emulator: &Emulator) -> u64 {
    emulator.with_world(|world| {
        let digests: std::collections::HashSet<_> = world
            .artifacts()
            .map(|artifact| artifact.digest())
            .collect();
        digests.len() as u64
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_run_publishes_all_that_is_listed_and_asks_once_per_digest() {
    let mirror = Mirror::new(odd_world()).await;
    let report = mirror.sync().await;

    assert_eq!(report.outcome, RunOutcome::Published);
    assert_eq!(report.counters.artifacts_new, 350);
    assert_eq!(
        mirror
            .snapshot("select count(*) from swr_report.artifact")
            .await,
        "350"
    );
    let requests = mirror.requests();
    assert_eq!(requests.of(RequestKind::Artifacts), 4);
    assert_eq!(
        requests.of(RequestKind::BuildHistory),
        distinct_digests(&mirror.emulator)
    );
    assert_eq!(requests.total(), report.counters.requests.total());
    assert_eq!(requests.of(RequestKind::Unknown), 0);
    let unexplained = "select count(*) from swr.artifact a
                       where not exists (select from swr.manifest m where m.digest = a.digest)";
    assert_eq!(mirror.snapshot(unexplained).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_registry_costs_its_list_pages_and_writes_no_fact() {
    let mirror = Mirror::new(odd_world()).await;
    // Twice: the second run requests the missing histories of the first again.
    mirror.sync().await;
    mirror.sync().await;
    let before = (mirror.facts().await, mirror.writes().await);
    mirror.reset_requests();

    let report = mirror.sync().await;

    let requests = mirror.requests();
    assert_eq!(requests.of(RequestKind::Artifacts), 4);
    assert_eq!(
        requests.of(RequestKind::Namespaces) + requests.of(RequestKind::Repositories),
        2
    );
    assert_eq!(requests.total(), 6, "{requests:?}");
    assert_eq!(report.counters.artifacts_unchanged, 350);
    assert_eq!(report.counters.rows_written, 0);
    assert_eq!((mirror.facts().await, mirror.writes().await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_only_the_artifact_list_names_has_a_row_while_it_does() {
    let mut world = small_world(1);
    let named = world.repositories().next().unwrap().id;
    let hidden = world.add_artifact(named, ArtifactSpec::default()).unwrap();
    let namespace_id = world.namespaces().next().unwrap().id;
    let namespace_name = world.namespaces().next().unwrap().name.clone();
    let digest = world.artifact(hidden).unwrap().digest().to_string();
    let listed = |name: serde_json::Value| {
        json!({
            "id": hidden, "digest": digest, "repository_id": 999, "namespace_id": namespace_id,
            "repository_name": name,
        })
    };
    world.override_row(hidden, listed(json!(null)));
    let mirror = Mirror::new(world).await;
    let row = "select namespace_id, namespace_name, name, removed_at is not null,
                      coalesce(description, tag_count::text, artifact_count::text, pull_count::text,
                               created_at::text, updated_at::text, extra::text)
               from swr.repository where repository_id = 999";
    let check_row = async |name: &str, is_removed: &str| {
        assert_eq!(
            mirror.snapshot(row).await,
            format!("{namespace_id} | {namespace_name} | {name} | {is_removed} | NULL")
        );
    };
    mirror.sync().await;
    check_row("NULL", "f").await;

    mirror.with_world(|world| world.override_row(hidden, listed(json!("hidden"))));
    mirror.sync().await;
    check_row("hidden", "f").await;

    // Nor is the catalog read again because it lacks the repository.
    let before = mirror.writes().await;
    mirror.reset_requests();
    let report = mirror.sync().await;
    assert_eq!(report.counters.rows_written, 0);
    assert_eq!(mirror.writes().await, before);
    let requests = mirror.requests();
    assert_eq!(
        requests.of(RequestKind::Namespaces) + requests.of(RequestKind::Repositories),
        2
    );

    // While the artifact is not listed, the repository does not exist.
    mirror.with_world(|world| world.delete_artifact(hidden));
    mirror.sync().await;
    check_row("hidden", "t").await;
    mirror.with_world(|world| {
        let again = world.add_artifact(named, ArtifactSpec::default()).unwrap();
        let digest = world.artifact(again).unwrap().digest().to_string();
        world.override_row(
            again,
            json!({"id": again, "digest": digest, "repository_id": 999}),
        );
    });
    mirror.sync().await;
    check_row("hidden", "f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_history_of_changes_leads_to_the_tables_of_an_undisturbed_run() {
    let mirror = Mirror::new(odd_world()).await;
    mirror.sync().await;
    for round in 1..=3 {
        mirror.with_world(|world| world.evolve(round));
        mirror.sync().await;
    }
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_breaks_off_changes_nothing_that_reports_show() {
    let mirror = Mirror::new(odd_world()).await;
    mirror.sync().await;
    let published = (mirror.facts().await, mirror.writes().await);
    mirror.with_world(|world| world.evolve(1));
    // The first page arrives, the second never does.
    let first_page = json!({ "artifacts": [], "next_marker": 2 }).to_string();
    mirror.fail_next(RequestKind::Artifacts, 200, first_page);
    for _ in 0..3 {
        mirror.fail_next(RequestKind::Artifacts, 502, "<html>Bad Gateway</html>");
    }

    let error = mirror.try_sync().await.unwrap_err();

    assert_eq!(error.exit(), Exit::SourceUnavailable, "{error}");
    assert_contains(&error, "HTTP 502: Bad Gateway");
    assert_contains(&error, "(after 3 attempts in");
    assert_eq!((mirror.facts().await, mirror.writes().await), published);
    let columns = "outcome, exit_code, published_at, error like '%HTTP 502%' as is_told";
    let expected =
        json!({ "outcome": "failed", "exit_code": 7, "published_at": null, "is_told": true });
    assert_eq!(mirror.database.last_run_with(columns).await, expected);

    mirror.sync().await;
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

/// Answers that must not be read as the end of the listing.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_none_ends_the_run_and_not_the_listing() {
    let mirror = Mirror::new(small_world(3)).await;
    mirror.sync().await;
    let published = mirror.facts().await;
    let next = |marker: Value| json!({ "artifacts": [], "next_marker": marker });
    let document = json!({ "error_code": "SVCSTG.SWR.5000000", "error_msg": "internal" });
    for (pages, expected) in cases! {
        [next(json!(5)), next(json!(9)), next(json!(5))] => "the marker 5 twice";
        [0; 3].map(|_| document.clone()) => "the answer has no artifacts";
        [0; 3].map(|_| next(json!("next"))) => "next_marker is not a number";
    } {
        for page in pages {
            mirror.fail_next(RequestKind::Artifacts, 200, page.to_string());
        }
        let error = mirror.try_sync().await.unwrap_err();
        assert_contains(&error, expected);
        assert_eq!(error.exit(), Exit::SourceUnavailable);
        assert_eq!(mirror.facts().await, published, "{expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_in_another_repository_or_instance_is_not_asked_for_again() {
    let mirror = Mirror::new(odd_world()).await;
    mirror.sync().await;
    // The second run requests the missing histories of the first again.
    mirror.sync().await;
    mirror.with_world(|world| {
        let id = world.artifacts().next().unwrap().id;
        let target = world.add_repository("team", "promoted");
        world.promote(id, target).unwrap();
    });
    mirror.reset_requests();
    let report = mirror.sync().await;
    assert_eq!(report.counters.artifacts_new, 1);
    assert_eq!(mirror.requests().of(RequestKind::BuildHistory), 0);

    // The same content under another instance, in the same database.
    let settings = EmulatorSettings {
        instance_id: "another-instance".into(),
        instance_name: "another".into(),
        ..EmulatorSettings::default()
    };
    let other = Emulator::start(settings, odd_world()).await.unwrap();
    let report = sync_into(&other, &mirror.database, false).await.unwrap();
    assert_eq!(report.counters.artifacts_new, 350);
    let gone = mirror
        .snapshot("select count(*) from swr.manifest where instance_id = 1 and outcome = 'gone'")
        .await;
    assert_eq!(
        other.requests().of(RequestKind::BuildHistory).to_string(),
        gone,
        "only what has no final answer"
    );
    let copied = "select count(*) from (
                      select digest, position, created_at, created_at_ns, command, layer_digest, layer_size_bytes,
                             layer_media_type, chain_id, empty_layer
                      from swr_report.build_history where instance_id = 2
                      except
                      select digest, position, created_at, created_at_ns, command, layer_digest, layer_size_bytes,
                             layer_media_type, chain_id, empty_layer
                      from swr_report.build_history where instance_id = 1
                  ) x";
    assert_eq!(mirror.snapshot(copied).await, "0");
    let steps = |instance: i32| {
        format!(
            "select count(*) from swr_report.build_history where instance_id = {instance} and repository <> 'promoted'"
        )
    };
    assert_eq!(
        mirror.snapshot(&steps(1)).await,
        mirror.snapshot(&steps(2)).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_keeps_what_arrived_and_the_next_asks_for_the_rest() {
    let mirror = Mirror::new(odd_world()).await;
    let digests = distinct_digests(&mirror.emulator);
    // They are recorded when all repositories that have them are known, or when the run ends.
    let elsewhere = TestDatabase::create().await;
    let undisturbed = sync_into(&mirror.emulator, &elsewhere, false)
        .await
        .unwrap();
    let not_given = undisturbed.counters.histories_gone;
    mirror.hang_next(RequestKind::BuildHistory);
    let (stopper, stop) = stop::channel();
    let progress = Arc::<Progress>::default();
    let no_requests = RequestMeter::default();
    let stopping = async {
        // All except the one that hangs.
        wait_until("all other histories are stored", async || {
            progress.counters(&no_requests).histories_done() == digests - 1 - not_given
        })
        .await;
        stopper.stop(StopReason::Terminate);
    };
    let (result, ()) = tokio::join!(mirror.sync_until(&progress, &stop), stopping);

    let error = result.unwrap_err();
    assert!(
        matches!(error, SyncError::Stopped(StopReason::Terminate)),
        "{error}"
    );
    let counts = "select (select count(*) from swr.artifact), (select count(*) from swr.manifest),
                         (select outcome from swr.sync_run)";
    assert_eq!(
        mirror.snapshot(counts).await,
        format!("0 | {} | stopped", digests - 1)
    );

    mirror.reset_requests();
    mirror.sync().await;
    assert_eq!(
        mirror.requests().of(RequestKind::BuildHistory),
        1 + not_given
    );
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_over_different_instances_do_not_wait_for_each_other() {
    let mirror = Mirror::new(small_world(3)).await;
    let settings = EmulatorSettings {
        instance_id: "another-instance".into(),
        instance_name: "another".into(),
        ..EmulatorSettings::default()
    };
    let other = Emulator::start(settings, small_world(3)).await.unwrap();
    mirror.hang_next(RequestKind::Artifacts);
    let (stopper, stop) = stop::channel();
    let second = async {
        wait_until("the first run lists", async || {
            mirror.requests().of(RequestKind::Artifacts) == 1
        })
        .await;
        let report = sync_into(&other, &mirror.database, false).await;
        stopper.stop(StopReason::Interrupt);
        report
    };
    let progress = Arc::<Progress>::default();
    let (_, report) = tokio::join!(mirror.sync_until(&progress, &stop), second);
    assert_eq!(report.unwrap().counters.artifacts_new, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_effect_of_a_run_is_exactly_the_changes_of_the_registry() {
    let mirror = Mirror::new(small_world(4)).await;
    mirror.sync().await;
    let ids: Vec<i64> =
        mirror.with_world(|world| world.artifacts().map(|artifact| artifact.id).collect());
    mirror.with_world(|world| {
        let repository = world.repositories().next().unwrap().id;
        let later = start_of_time() + TimeDelta::hours(1);
        world.set_now(later);
        world.delete_artifact(ids[0]).unwrap();
        assert!(world.pull(ids[1], later));
        assert!(world.move_tag(repository, "v2", ids[3]));
        world
            .add_artifact(
                repository,
                ArtifactSpec {
                    tags: vec!["v4".into()],
                    ..ArtifactSpec::default()
                },
            )
            .unwrap();
    });
    let report = mirror.sync().await;

    let counters = &report.counters;
    assert_eq!(counters.artifacts_new, 1);
    assert_eq!(counters.artifacts_changed, 1);
    assert_eq!(counters.artifacts_removed, 1);
    assert_eq!(counters.artifacts_unchanged, 2);
    assert_eq!(counters.tags_new, 1);
    assert_eq!(counters.tags_moved, 1);
    assert_eq!(counters.tags_removed, 1);
    let artifacts = mirror.snapshot(
            "select rank() over (order by artifact_id), pulled_at, first_seen_run_id, removed_run_id, removed_at is not null
             from swr.artifact order by artifact_id",
        )
        .await;
    assert_eq!(
        artifacts,
        "1 | NULL | 1 | 2 | t\n\
         2 | 2026-03-01 13:00:00+00 | 1 | NULL | f\n\
         3 | NULL | 1 | NULL | f\n\
         4 | NULL | 1 | NULL | f\n\
         5 | NULL | 2 | NULL | f"
    );
    // v0 was removed with its artifact, v2 moved to the fourth. Its new interval begins at the end of the old one.
    let intervals = mirror.snapshot(
            "select h.name, a.rank, opened_run_id, closed_run_id, valid_to is null,
                    valid_from = lag(valid_to) over (partition by h.name order by valid_from)
             from swr.tag_history h
             join (select artifact_id, rank() over (order by artifact_id) from swr.artifact) a using (artifact_id)
             order by h.name, valid_from",
        )
        .await;
    assert_eq!(
        intervals,
        "v0 | 1 | 1 | 2 | f | NULL\n\
         v1 | 2 | 1 | NULL | t | NULL\n\
         v2 | 3 | 1 | 2 | f | NULL\n\
         v2 | 4 | 2 | NULL | t | t\n\
         v3 | 4 | 1 | NULL | t | NULL\n\
         v4 | 5 | 2 | NULL | t | NULL"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_artifact_that_is_listed_again_comes_back() {
    let mirror = Mirror::new(small_world(3)).await;
    mirror.sync().await;
    let before = mirror.facts().await;
    // Nothing is left, nor when the listing is read once more because the catalog still counts
    // artifacts; then the world is as it was.
    for _ in 0..2 {
        let nothing = json!({ "artifacts": null }).to_string();
        mirror.fail_next(RequestKind::Artifacts, 200, nothing);
    }
    let report = mirror.sync().await;
    assert_eq!(report.counters.artifacts_removed, 3);
    assert_eq!(report.counters.tags_removed, 3);
    assert_eq!(
        mirror
            .snapshot("select count(*) from swr_report.artifact")
            .await,
        "0"
    );
    let report = mirror.sync().await;
    assert_eq!(report.counters.artifacts_new, 3);
    assert_eq!(report.counters.tags_new, 3);
    assert_eq!(mirror.facts().await, before);
}

/// Tags in the reports, and their intervals, each with the number of its artifact.
const TAGS_AND_INTERVALS: &str = "
    with artifact as (
        select artifact_id, rank() over (order by artifact_id) as number from swr.artifact
    )
    select 'tag', t.tag, a.number, null, null
    from swr_report.tag t
    join artifact a using (artifact_id)
    union all
    select 'interval', h.name, a.number, h.valid_from, h.valid_to
    from swr.tag_history h
    join artifact a using (artifact_id)
    order by 1 desc, 2, 4";

fn counted_tags(report: &RunReport) -> (u64, u64, u64) {
    let counters = &report.counters;
    (
        counters.tags_new,
        counters.tags_moved,
        counters.tags_removed,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_removed_when_two_listings_in_a_row_lack_it_or_with_its_artifact() {
    let mirror = Mirror::new(small_world(3)).await;
    let at = |hour| start_of_time() + TimeDelta::hours(hour);
    mirror.sync_at(at(1)).await;
    mirror.with_world(|world| {
        let repository = world.repositories().next().unwrap().id;
        let first = world.artifacts().next().unwrap().id;
        assert!(world.remove_tag(repository, "v1"));
        world.delete_artifact(first).unwrap();
    });

    let report = mirror.sync_at(at(2)).await;
    assert_eq!(counted_tags(&report), (0, 0, 1));
    let shown = "tag | v1 | 2 | NULL | NULL\n\
                 tag | v2 | 3 | NULL | NULL\n\
                 interval | v0 | 1 | 2026-03-01 12:00:00+00 | 2026-03-01 14:00:00+00\n\
                 interval | v1 | 2 | 2026-03-01 12:00:00+00 | NULL\n\
                 interval | v2 | 3 | 2026-03-01 12:00:00+00 | NULL";
    assert_eq!(mirror.snapshot(TAGS_AND_INTERVALS).await, shown);

    let report = mirror.sync_at(at(3)).await;
    assert_eq!(counted_tags(&report), (0, 0, 1));
    let shown = "tag | v2 | 3 | NULL | NULL\n\
                 interval | v0 | 1 | 2026-03-01 12:00:00+00 | 2026-03-01 14:00:00+00\n\
                 interval | v1 | 2 | 2026-03-01 12:00:00+00 | 2026-03-01 15:00:00+00\n\
                 interval | v2 | 3 | 2026-03-01 12:00:00+00 | NULL";
    assert_eq!(mirror.snapshot(TAGS_AND_INTERVALS).await, shown);
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_no_page_shows_while_it_moves_is_recorded_as_one_move() {
    for (push_time, moved_at) in [
        // Moved by a push after the start of the listing that lacks it, or without a push.
        ("2026-03-01T14:00:07.000Z", "2026-03-01 14:00:07+00"),
        ("2026-01-01T00:00:00.000Z", "2026-03-01 15:00:00+00"),
    ] {
        let mirror = Mirror::new(small_world(2)).await;
        let ids: Vec<i64> =
            mirror.with_world(|world| world.artifacts().map(|artifact| artifact.id).collect());
        let show = |rows: [&[(&str, &str)]; 2]| {
            mirror.with_world(|world| {
                let repository = world.repositories().next().unwrap().id;
                for (id, tags) in ids.iter().zip(rows) {
                    let tags: Vec<_> = tags
                        .iter()
                        .map(|(name, push_time)| json!({"id": 1, "name": name, "push_time": push_time}))
                        .collect();
                    let digest = world.artifact(*id).unwrap().digest().to_string();
                    let row = json!({"id": id, "digest": digest, "repository_id": repository, "tags": tags});
                    world.override_row(*id, row);
                }
            });
        };
        let at = |hour| start_of_time() + TimeDelta::hours(hour);
        show([&[], &[("latest", "2026-01-01T00:00:00.000Z")]]);
        mirror.sync_at(at(1)).await;
        // The first row's page was read before the move, the second row's page after it.
        show([&[], &[]]);
        let report = mirror.sync_at(at(2)).await;
        assert_eq!(counted_tags(&report), (0, 0, 0));
        show([&[("latest", push_time)], &[]]);
        let report = mirror.sync_at(at(3)).await;
        assert_eq!(counted_tags(&report), (0, 1, 0));
        let shown = format!(
            "tag | latest | 1 | NULL | NULL\n\
             interval | latest | 2 | 2026-01-01 00:00:00+00 | {moved_at}\n\
             interval | latest | 1 | {moved_at} | NULL"
        );
        assert_eq!(mirror.snapshot(TAGS_AND_INTERVALS).await, shown);
        let moves = "select moved_at, to_digest is not null from swr_report.tag_move";
        assert_eq!(mirror.snapshot(moves).await, format!("{moved_at} | t"));
        // After the move, the next listing that lacks the tag counts as the first one.
        show([&[], &[]]);
        let report = mirror.sync_at(at(4)).await;
        assert_eq!(counted_tags(&report), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_only_one_listing_lacks_stays_as_it_was() {
    let mirror = Mirror::new(small_world(2)).await;
    mirror.sync().await;
    let intervals = "table swr.tag_history";
    let before = (mirror.facts().await, mirror.snapshot(intervals).await);
    let page = mirror.with_world(|world| {
        let rows: Vec<_> = world
            .artifacts()
            .map(|artifact| {
                json!({
                    "id": artifact.id, "digest": artifact.digest().to_string(),
                    "repository_id": artifact.repository_id, "tags": null,
                })
            })
            .collect();
        json!({ "artifacts": rows }).to_string()
    });
    mirror.fail_next(RequestKind::Artifacts, 200, page.clone());
    let report = mirror.sync().await;
    assert_eq!(counted_tags(&report), (0, 0, 0));
    mirror.sync().await;
    let writes = mirror.writes().await;
    mirror.sync().await;
    assert_eq!(mirror.writes().await, writes, "an unchanged registry");
    mirror.fail_next(RequestKind::Artifacts, 200, page);
    let report = mirror.sync().await;
    assert_eq!(counted_tags(&report), (0, 0, 0), "not two in a row");
    mirror.sync().await;
    assert_eq!(
        (mirror.facts().await, mirror.snapshot(intervals).await),
        before
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_artifact_or_tag_listed_twice_the_last_counts() {
    let mirror = Mirror::new(small_world(0)).await;
    let repository = mirror.with_world(|world| world.repositories().next().unwrap().id);
    let row = |id: i64, size: i64, tags: &[&str]| {
        let tags: Vec<_> = tags
            .iter()
            .map(|name| json!({ "id": 1, "name": name, "artifact_id": id }))
            .collect();
        json!({ "id": id, "digest": format!("sha256:{id:064}"), "repository_id": repository, "size": size, "tags": tags })
    };
    let pages = [
        json!({ "artifacts": [row(1, 10, &["a", "b"]), row(2, 20, &["c"])], "next_marker": 3 }),
        json!({ "artifacts": [row(1, 11, &["a"]), row(3, 30, &["c"])] }),
    ];
    for page in pages {
        mirror.fail_next(RequestKind::Artifacts, 200, page.to_string());
    }
    let report = mirror.sync().await;
    assert_eq!(report.counters.artifacts_listed, 3);
    let artifacts = mirror
        .snapshot("select artifact_id, size_bytes, tags from swr_report.artifact order by 1")
        .await;
    assert_eq!(artifacts, "1 | 11 | {a}\n2 | 20 | {}\n3 | 30 | {c}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_made_during_the_run_has_the_catalog_read_once_more() {
    let mirror = Mirror::new(small_world(3)).await;
    let empty = json!({ "repositories": [], "total": 0 }).to_string();
    mirror.fail_next(RequestKind::Repositories, 200, empty);
    let report = mirror.sync().await;
    let requests = mirror.requests();
    assert_eq!(requests.of(RequestKind::Repositories), 2);
    assert_eq!(requests.of(RequestKind::BuildHistory), 3);
    assert_eq!(report.counters.histories_failed, 0);
    let names = "select distinct namespace, repository from swr_report.artifact";
    assert_eq!(mirror.snapshot(names).await, "team | app/api");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_history_is_published_without_and_repaired_by_the_next_run() {
    let mirror = Mirror::new(small_world(5)).await;
    // The first request, for any digest.
    mirror.set_latency(std::time::Duration::from_millis(1));
    let refusal =
        json!({ "error_code": "SVCSTG.SWR.4030170", "error_msg": "no permission" }).to_string();
    mirror.fail_next(RequestKind::BuildHistory, 403, refusal);
    let report = mirror.sync().await;
    assert_eq!(report.counters.histories_failed, 1);
    let row = "select attempts, http_status, error_code, error_message, next_attempt_at is null as is_final
               from swr.manifest where outcome = 'forbidden'";
    let expected = json!({
        "attempts": 1, "http_status": 403, "error_code": "SVCSTG.SWR.4030170", "error_message": "no permission",
        "is_final": false,
    });
    assert_eq!(mirror.database.row(row).await, expected);
    assert_eq!(mirror.database.last_run().await, "published | 3");

    mirror.reset_requests();
    let report = mirror.sync().await;
    assert_eq!(
        report.counters.histories_fetched + report.counters.histories_unsupported,
        1
    );
    assert_eq!(report.counters.histories_failed, 0);
    assert_eq!(mirror.requests().of(RequestKind::BuildHistory), 1);
    let undisturbed = mirror.undisturbed_facts().await;
    assert_eq!(mirror.facts().await, undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_404_and_400_are_not_taken_for_the_artifacts_fate() {
    let mirror = Mirror::new(small_world(2)).await;
    let route = json!({ "error_code": "APIGW.0101", "error_msg": "The API does not exist", "request_id": "r" });
    let request =
        json!({ "error_code": "APIGW.0201", "error_msg": "Bad request", "request_id": "r" });
    mirror.fail_next(RequestKind::BuildHistory, 404, route.to_string());
    mirror.fail_next(RequestKind::BuildHistory, 400, request.to_string());
    let report = mirror.sync().await;
    assert_eq!(report.counters.histories_failed, 2);
    let outcomes = "select outcome, error_code from swr.manifest order by 2";
    assert_eq!(
        mirror.snapshot(outcomes).await,
        "failed | APIGW.0101\nfailed | APIGW.0201"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_gone_is_requested_again_by_the_next_run() {
    let mirror = Mirror::new(small_world(1)).await;
    let gone = json!({ "error_code": "SVCSTG.SWR.4040010", "error_msg": "not found" });
    mirror.fail_next(RequestKind::BuildHistory, 404, gone.to_string());
    let report = mirror.sync().await;
    assert_eq!(report.counters.histories_gone, 1);
    assert_eq!(report.counters.histories_failed, 0);
    mirror.reset_requests();
    let report = mirror.sync().await;
    assert_eq!(mirror.requests().of(RequestKind::BuildHistory), 1);
    assert_eq!(report.counters.histories_fetched, 1);
}

/// Status and outcome of a failed request for a history, and the number of its attempts.
const REFUSALS: [(u16, &str, u64); 3] =
    [(404, "gone", 1), (403, "forbidden", 1), (500, "failed", 3)];

/// One digest in three repositories.
async fn mirror_of_a_shared_digest() -> Mirror {
    let mut world = World::empty(start_of_time());
    world.add_namespace("team");
    let mut digest = None;
    for name in ["one", "two", "three"] {
        let repository = world.add_repository("team", name);
        let spec = ArtifactSpec {
            digest,
            ..ArtifactSpec::default()
        };
        let artifact_id = world.add_artifact(repository, spec).unwrap();
        digest = world.artifact(artifact_id).map(Artifact::digest);
    }
    Mirror::new(world).await
}

fn refuse_histories(mirror: &Mirror, times: u64, status: u16) {
    let body = json!({ "error_code": "SVCSTG.SWR.1", "error_msg": "no" }).to_string();
    for _ in 0..times {
        let body = body.clone();
        mirror.fail_next(RequestKind::BuildHistory, status, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_one_repository_refuses_is_requested_from_the_others_in_the_same_run() {
    for (status, outcome, attempts) in REFUSALS {
        let mirror = mirror_of_a_shared_digest().await;
        refuse_histories(&mirror, 2 * attempts, status);
        let report = mirror.sync().await;
        let requests = mirror.requests().of(RequestKind::BuildHistory);
        assert_eq!(requests, 2 * attempts + 1, "{outcome}");
        assert_eq!(report.counters.histories_fetched, 1, "{outcome}");
        assert_eq!(report.counters.exit(), Exit::Success, "{outcome}");
        assert_eq!(report.failures.groups, [], "{outcome}");
        let recorded = "select outcome, attempts from swr.manifest";
        assert_eq!(mirror.snapshot(recorded).await, "empty | 1");

        // All of them refuse it: this is recorded once.
        let mirror = mirror_of_a_shared_digest().await;
        refuse_histories(&mirror, 3 * attempts, status);
        let counters = mirror.sync().await.counters;
        let requests = mirror.requests().of(RequestKind::BuildHistory);
        assert_eq!(requests, 3 * attempts, "{outcome}");
        let failed = counters.histories_failed + counters.histories_gone;
        assert_eq!(failed, 1, "{outcome}");
        let recorded = "select outcome, attempts, http_status from swr.manifest";
        let expected = format!("{outcome} | 1 | {status}");
        assert_eq!(mirror.snapshot(recorded).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_the_database_refuses_is_recorded_and_does_not_block_the_others() {
    let mut world = World::empty(start_of_time());
    world.add_namespace("team");
    let repository = world.add_repository("team", "app");
    for number in 0..300 {
        let command = if number == 123 { "poison" } else { "RUN make" };
        let history = json!({ "build_histories": [
            { "created_by": format!("{command} {number}"), "digest": format!("sha256:{number:064}"), "size": 1 }
        ] });
        let spec = ArtifactSpec {
            history: Some(history),
            ..ArtifactSpec::default()
        };
        world.add_artifact(repository, spec).unwrap();
    }
    let mirror = Mirror::new(world).await;
    mirror
        .snapshot(
            "alter table swr.command add constraint no_poison check (command not like 'poison%')",
        )
        .await;
    let report = mirror.sync().await;
    assert_eq!(report.counters.exit(), Exit::Partial);
    assert_eq!(report.counters.histories_fetched, 299);
    assert_eq!(report.counters.histories_failed, 1);
    let refused = "select error_code, error_message from swr.manifest where outcome = 'failed'";
    assert_eq!(
        mirror.snapshot(refused).await,
        "23514 | the database refuses to store this build history (23514)"
    );
    let stored = "select count(*) from swr.manifest where outcome = 'stored'";
    assert_eq!(mirror.snapshot(stored).await, "299");
    mirror
        .snapshot("alter table swr.command drop constraint no_poison")
        .await;
    mirror.sync().await;
    assert_eq!(mirror.snapshot(stored).await, "300");
}

/// Rows that cannot be read count, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_without_an_end_is_cut_off_at_a_multiple_of_what_the_catalog_counts() {
    const PAGE: u64 = 1_000;
    let ids: [fn(u64) -> Value; 2] = [|id| json!(id), |_| json!(null)];
    for id in ids {
        let mirror = Mirror::new(small_world(1)).await;
        for page in 0..=100 {
            let rows: Vec<_> = (page * PAGE..(page + 1) * PAGE)
            .map(|number| {
                json!({ "id": id(1_000_000 + number), "repository_id": 1, "digest": "sha256:00" })
            })
            .collect();
            let body = json!({ "artifacts": rows, "next_marker": page + 2 }).to_string();
            mirror.fail_next(RequestKind::Artifacts, 200, body);
        }
        let error = mirror.try_sync().await.unwrap_err();
        assert_eq!(error.exit(), Exit::SourceUnavailable);
        let SyncError::EndlessListing { listed, counted } = error else {
            panic!("{error}")
        };
        assert_eq!((listed, counted), (101 * PAGE, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_failing_is_tried_at_growing_distance() {
    let mirror = Mirror::new(small_world(1)).await;
    let mut distances = Vec::new();
    for _ in 0..7 {
        mirror.fail_next(RequestKind::BuildHistory, 403, "{}");
        mirror.sync().await;
        distances.push(
            mirror
                .snapshot("select attempts, next_attempt_at - attempted_at from swr.manifest")
                .await,
        );
        mirror
            .snapshot("update swr.manifest set next_attempt_at = attempted_at")
            .await;
    }
    assert_eq!(
        distances,
        [
            "1 | 00:00:00",
            "2 | 01:00:00",
            "3 | 04:00:00",
            "4 | 16:00:00",
            "5 | 2 days 16:00:00",
            "6 | 7 days",
            "7 | 7 days"
        ]
    );
}

/// The example of the artifact list's page (swr_03_0306), with the two fields it leaves out.
fn documented_artifact(repository_id: i64) -> serde_json::Value {
    json!({
        "id": 3804,
        "pull_time": "0001-01-01T00:00:00.000Z",
        "push_time": "2021-02-03T10:22:11.840Z",
        "repository_id": repository_id,
        "repository_name": "team/app/api",
        "digest": "sha256:3ee2a6bffb6dfec67be23fd0f6c0e8a48620277582e01800b4ad3c03ad0d9489",
        "manifest_media_type": "application/vnd.docker.distribution.manifest.v2+json",
        "media_type": "application/vnd.docker.container.image.v1+json",
        "namespace_id": 87,
        "size": 8049952,
        "type": "IMAGE",
        "tags": [{
            "id": 9, "repository_id": repository_id, "artifact_id": 3804, "name": "latest",
            "push_time": "2021-02-03T10:22:12.000Z", "pull_time": "2021-02-04T00:00:00.000Z"
        }]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_both_documented_pages_arrives() {
    let mirror = Mirror::new(small_world(0)).await;
    let repository = mirror.with_world(|world| world.repositories().next().unwrap().id);
    let page = json!({ "next_marker": null, "artifacts": [documented_artifact(repository)] });
    mirror.fail_next(RequestKind::Artifacts, 200, page.to_string());
    // The example of the addition's page (swr_03_0305), with the time it leaves out.
    let addition = json!({
        "total": 2,
        "build_histories": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": 699243,
            "digest": "sha256:a5b4cfae24aaa36d4b7f3c9ee3b096c91dbc0a9290b383f5146225f8a5ee0b83",
            "created_at": "2021-02-03T10:22:11.123456789+02:00",
            "created_by": "/bin/sh -c #(nop) ADD file:aa56bc8f2fea9c0c81ca085bfa273ad1a3b0d46f51b8c9c61b483340c902024f in / ",
            "empty_layer": false
        }]
    });
    mirror.fail_next(RequestKind::BuildHistory, 200, addition.to_string());
    mirror.sync().await;

    let artifact = "select artifact_id, repository_id = 0, repository_name, namespace_id, digest, type, media_type,
                           manifest_media_type, size_bytes, pushed_at, pulled_at, extra
                    from swr.artifact";
    assert_eq!(
        mirror.snapshot(artifact).await,
        "3804 | f | team/app/api | 87 | sha256:3ee2a6bffb6dfec67be23fd0f6c0e8a48620277582e01800b4ad3c03ad0d9489 | IMAGE | \
         application/vnd.docker.container.image.v1+json | application/vnd.docker.distribution.manifest.v2+json | \
         8049952 | 2021-02-03 10:22:11.84+00 | NULL | NULL"
    );
    let tag = "select tag_id, name, artifact_id, pushed_at, pulled_at, extra from swr.tag";
    assert_eq!(
        mirror.snapshot(tag).await,
        "9 | latest | 3804 | 2021-02-03 10:22:12+00 | 2021-02-04 00:00:00+00 | NULL"
    );
    let history = "select position, created_at, created_at_ns, '[' || command || ']', empty_layer, layer_digest,
                          layer_size_bytes, layer_media_type, extra
                   from swr_report.build_history";
    assert_eq!(
        mirror.snapshot(history).await,
        "1 | 2021-02-03 08:22:11.123456+00 | 789 | \
         [/bin/sh -c #(nop) ADD file:aa56bc8f2fea9c0c81ca085bfa273ad1a3b0d46f51b8c9c61b483340c902024f in / ] | f | \
         sha256:a5b4cfae24aaa36d4b7f3c9ee3b096c91dbc0a9290b383f5146225f8a5ee0b83 | 699243 | \
         application/vnd.docker.image.rootfs.diff.tar.gzip | NULL"
    );
    assert_eq!(
        mirror
            .snapshot("select reported_total from swr.manifest")
            .await,
        "2"
    );
    assert_eq!(
        mirror.snapshot("select count(*) from swr.data_issue").await,
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_altered_kept_and_recorded_once() {
    let mirror = Mirror::new(small_world(0)).await;
    let repository = mirror.with_world(|world| world.repositories().next().unwrap().id);
    let mut artifact = documented_artifact(repository);
    artifact["size"] = json!("many");
    artifact["push_time"] = json!("yesterday");
    artifact["labels"] = json!({ "a": 1 });
    artifact["tags"][0]["name"] = json!("la\u{0}test");
    artifact["tags"][0]["immutable"] = json!(true);
    let unkeyed = json!({ "digest": "sha256:0", "note": "no id" });
    let page = json!({ "artifacts": [artifact, unkeyed] }).to_string();
    let layer = |size: i64| json!({ "digest": "sha256:aa", "size": size, "mediaType": "m", "created_by": "a\u{0}b" });
    let addition = json!({ "build_histories": [layer(1), layer(2)] }).to_string();
    for _ in 0..2 {
        mirror.fail_next(RequestKind::Artifacts, 200, page.clone());
    }
    mirror.fail_next(RequestKind::BuildHistory, 200, addition);
    let report = mirror.sync().await;

    assert_eq!(report.counters.data_issues, 6);
    let row = "select a.size_bytes, a.pushed_at, a.extra, t.name, t.extra from swr.artifact a join swr.tag t using (artifact_id)";
    assert_eq!(
        mirror.snapshot(row).await,
        "NULL | NULL | {\"labels\": {\"a\": 1}} | la\u{fffd}test | {\"immutable\": true}"
    );
    let steps =
        "select position, command, layer_size_bytes from swr_report.build_history order by 1";
    assert_eq!(
        mirror.snapshot(steps).await,
        "1 | a\u{fffd}b | 1\n2 | a\u{fffd}b | 2"
    );
    let digest = "sha256:3ee2a6bffb6dfec67be23fd0f6c0e8a48620277582e01800b4ad3c03ad0d9489";
    let issues =
        "select table_name, row_key, field, action, original from swr.data_issue order by 1, 2, 3";
    assert_eq!(
        mirror.snapshot(issues).await,
        format!(
            "artifact |  |  | row without a key, not stored | {{\"note\": \"no id\", \"digest\": \"sha256:0\"}}\n\
             artifact | 3804 | push_time | wrong type, stored as NULL | \"yesterday\"\n\
             artifact | 3804 | size | wrong type, stored as NULL | \"many\"\n\
             build_step | {digest} 1 | created_by | replaced NUL by U+FFFD | \"\\\"a\\\\u0000b\\\"\"\n\
             build_step | {digest} 2 | created_by | replaced NUL by U+FFFD | \"\\\"a\\\\u0000b\\\"\"\n\
             tag | artifact 3804 | name | replaced NUL by U+FFFD | \"\\\"la\\\\u0000test\\\"\""
        )
    );
    let writes = mirror.writes().await;
    let report = mirror.sync().await;
    assert_eq!(report.counters.data_issues, 0);
    assert_eq!(mirror.writes().await, writes);
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_without_a_history_are_asked_for_once_and_never_again() {
    let mut world = World::empty(start_of_time());
    world.add_namespace("team");
    let repository = world.add_repository("team", "mixed");
    for kind in [
        ManifestKind::default(),
        ManifestKind::ImageIndex,
        ManifestKind::Chart,
    ] {
        world
            .add_artifact(
                repository,
                ArtifactSpec {
                    kind,
                    ..ArtifactSpec::default()
                },
            )
            .unwrap();
    }
    let mirror = Mirror::new(world).await;
    let report = mirror.sync().await;
    assert_eq!(report.counters.histories_fetched, 1);
    assert_eq!(report.counters.histories_unsupported, 2);
    let outcomes = "select outcome, count(*) from swr.manifest group by 1 order by 1";
    assert_eq!(
        mirror.snapshot(outcomes).await,
        "empty | 1\nunsupported | 2"
    );
    mirror.reset_requests();
    mirror.sync().await;
    assert_eq!(mirror.requests().of(RequestKind::BuildHistory), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instance_is_described_once() {
    let mirror = Mirror::new(small_world(1)).await;
    mirror.sync().await;
    mirror.sync().await;
    assert_eq!(mirror.requests().of(RequestKind::Instance), 1);
    let row = "select name, version from swr.instance";
    assert_eq!(mirror.snapshot(row).await, "demo | 25.6.0");
}
