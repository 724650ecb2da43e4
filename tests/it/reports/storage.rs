//! Sizes, shared layers, and the bytes that a cleanup would free.

use super::*;
use crate::support::mirror::start_of_time;

const SIZES: &str =
    "select namespace, repository, digest, tags, type, total_bytes, layers, layer_bytes, shared_bytes, exclusive_bytes
     from swr_report.artifact_size order by artifact_id";

#[tokio::test]
async fn artifact_size_tells_what_is_shared_and_what_deleting_would_free() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = [
        "base | os | d0 | {12.1,latest} | IMAGE | 1100 | 1 | 1000 | 1000 | 0",
        "shop | web/front | d1 | {v1} | IMAGE | 1300 | 2 | 1200 | 1000 | 200",
        // Its second layer is in d3 too.
        "shop | api | d2 | {stable,v1} | IMAGE | 1130 | 2 | 1030 | 1030 | 0",
        "shop | api | d3 | {} | IMAGE | 1134 | 3 | 1034 | 1030 | 4",
        "shop | api | c0 | {0.1.0} | CHART | 77 | NULL | NULL | NULL | NULL",
        "shop | mirror | d0 | {12.1} | IMAGE | 1100 | 1 | 1000 | 1000 | 0",
    ];
    check(&mirror.database, SIZES, &expected).await;
    let report = [
        "demo | shop | web/front | d1 | {v1} | 1300 | 2 | 1200 | 1000 | 200 | 2026-03-01 13:00:00+00",
        "demo | shop | api | d3 | {} | 1134 | 3 | 1034 | 1030 | 4 | 2026-03-01 15:00:00+00",
    ];
    let rows = rows(&mirror.database, &query("artifact_size")).await;
    assert_eq!(rows[..2], report);
    assert_eq!(rows.len(), 6);

    mirror.with_world(|world| {
        let api = world.repository("shop", "api").unwrap().id;
        let newest = world.artifacts_of(api)[1].id;
        world.delete_artifact(newest).unwrap();
    });
    mirror.sync().await;
    let expected = [
        "base | os | d0 | {12.1,latest} | IMAGE | 1100 | 1 | 1000 | 1000 | 0",
        "shop | web/front | d1 | {v1} | IMAGE | 1300 | 2 | 1200 | 1000 | 200",
        "shop | api | d2 | {stable,v1} | IMAGE | 1130 | 2 | 1030 | 1000 | 30",
        "shop | api | c0 | {0.1.0} | CHART | 77 | NULL | NULL | NULL | NULL",
        "shop | mirror | d0 | {12.1} | IMAGE | 1100 | 1 | 1000 | 1000 | 0",
    ];
    check(&mirror.database, SIZES, &expected).await;
}

#[tokio::test]
async fn storage_by_namespace_counts_shared_layers_once() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    // All of b1 to b4 are in `shop`, and b1 is also in `base`; logical is 1300 + 1130 + 1134 + 77 + 1100.
    let expected = [
        "demo | shop | 3 | 5 | 4741 | 1234 | 1000 | 234 | 734 | 77 | 2026-03-01 17:00:00+00 | NULL",
        "demo | base | 1 | 1 | 1100 | 1000 | 1000 | 0 | 500 | 0 | 2026-03-01 12:00:00+00 | 2026-03-01 21:00:00+00",
    ];
    check_report(&mirror, "storage_by_namespace", &expected).await;

    mirror.with_world(|world| {
        let os = world.repository("base", "os").unwrap().id;
        world.delete_repository(os).unwrap();
    });
    mirror.sync().await;
    let expected = [
        "demo | shop | 3 | 5 | 4741 | 1234 | 0 | 1234 | 1234 | 77 | 2026-03-01 17:00:00+00 | NULL",
    ];
    check_report(&mirror, "storage_by_namespace", &expected).await;
}

#[tokio::test]
async fn layer_usage_tells_who_shares_a_layer() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = [
        "demo | b1 | 1000 | 5 | 4 | 4000",
        "demo | b3 | 30 | 2 | 1 | 30",
        "demo | b2 | 200 | 1 | 1 | 0",
        "demo | b4 | 4 | 1 | 1 | 0",
    ];
    check_report(&mirror, "layer_usage", &expected).await;

    mirror.with_world(|world| {
        let front = world.repository("shop", "web/front").unwrap().id;
        world.delete_repository(front).unwrap();
    });
    mirror.sync().await;
    let expected = [
        "demo | b1 | 1000 | 4 | 3 | 3000",
        "demo | b3 | 30 | 2 | 1 | 30",
        "demo | b4 | 4 | 1 | 1 | 0",
    ];
    check_report(&mirror, "layer_usage", &expected).await;
}

#[tokio::test]
async fn repository_layer_tells_which_layers_each_repository_holds() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = [
        "demo | base | os | b1 | 1000 | 1 | 4 | 250.000",
        "demo | shop | api | b1 | 1000 | 2 | 4 | 250.000",
        "demo | shop | api | b3 | 30 | 2 | 1 | 30.000",
        "demo | shop | api | b4 | 4 | 1 | 1 | 4.000",
        "demo | shop | mirror | b1 | 1000 | 1 | 4 | 250.000",
        "demo | shop | web/front | b1 | 1000 | 1 | 4 | 250.000",
        "demo | shop | web/front | b2 | 200 | 1 | 1 | 200.000",
    ];
    check_report(&mirror, "repository_layer", &expected).await;
}

#[tokio::test]
async fn reclaimable_is_what_only_the_set_has() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let check = async |arguments: &str, expected: &[&str]| {
        let sql = format!(
            "select instance, artifacts, logical_bytes, layers, reclaimable_bytes, unknown_bytes
             from swr_report.reclaimable({arguments})"
        );
        check(&mirror.database, &sql, expected).await;
    };
    let digests = |all: &[&str]| {
        let all: Vec<String> = all
            .iter()
            .map(|digits| format!("'{}'", digest(digits)))
            .collect();
        format!("array[{}]", all.join(", "))
    };
    check(&digests(&["d2"]), &["demo | 1 | 1130 | 0 | 0 | 0"]).await;
    check(&digests(&["d3"]), &["demo | 1 | 1134 | 1 | 4 | 0"]).await;
    // Together they free layers that neither frees alone.
    check(&digests(&["d2", "d3"]), &["demo | 2 | 2264 | 2 | 34 | 0"]).await;
    // A digest selects its artifacts in all repositories.
    check(&digests(&["d0"]), &["demo | 2 | 2200 | 0 | 0 | 0"]).await;
    check(&digests(&["c0", "c0"]), &["demo | 1 | 77 | 0 | 0 | 77"]).await;
    let all = digests(&["d0", "d1", "d2", "d3", "c0"]);
    check(&all, &["demo | 6 | 5841 | 4 | 1234 | 77"]).await;
    check(
        &format!("{all}, 'demo'"),
        &["demo | 6 | 5841 | 4 | 1234 | 77"],
    )
    .await;
    check(&format!("{all}, 'other'"), &[]).await;

    // An id selects the copy in one repository.
    let ids: Vec<i64> = mirror.with_world(|world| {
        let api = world.repository("shop", "api").unwrap().id;
        let mirror = world.repository("shop", "mirror").unwrap().id;
        let artifacts = [world.artifacts_of(api), world.artifacts_of(mirror)].concat();
        artifacts.iter().map(|artifact| artifact.id).collect()
    });
    let [api_d2, api_d3, _, mirror_d0] = ids[..] else {
        panic!("four artifacts: {ids:?}");
    };
    let by_id = |ids: &str| format!("artifact_ids => array[{ids}]");
    check(
        &by_id(&mirror_d0.to_string()),
        &["demo | 1 | 1100 | 0 | 0 | 0"],
    )
    .await;
    let both = by_id(&format!("{api_d2}, {api_d3}"));
    check(&both, &["demo | 2 | 2264 | 2 | 34 | 0"]).await;
    // Both in one call; an artifact that is selected twice counts once.
    let mixed = format!("{}, null, array[{api_d2}, {api_d3}]", digests(&["d3"]));
    check(&mixed, &["demo | 2 | 2264 | 2 | 34 | 0"]).await;
}

/// A multi-platform image: an index of d1 and d2, which are untagged; and in a separate repository an index
/// (d4) whose children are not listed.
fn platforms() -> World {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "multi");
    for (digits, own) in [("d1", "b2"), ("d2", "b3")] {
        world.add_artifact(
            repository,
            ArtifactSpec {
                history: history(&[
                    layer("ADD rootfs /", "b1", 1000),
                    layer("COPY . /", own, 10),
                ]),
                ..artifact(digits, 1100, &[])
            },
        );
    }
    let index = |digits, size_bytes, pushed_at| ArtifactSpec {
        kind: ManifestKind::ImageIndex,
        pushed_at: Some(pushed_at),
        ..artifact(digits, size_bytes, &["v1"])
    };
    world.add_artifact(repository, index("d3", 2205, at(1)));
    // Not in the index, because it is newer.
    world.add_artifact(
        repository,
        ArtifactSpec {
            pushed_at: Some(at(2)),
            history: history(&[
                layer("ADD rootfs /", "b1", 1000),
                layer("COPY . /", "b4", 20),
            ]),
            ..artifact("d0", 1110, &[])
        },
    );
    let repository = world.add_repository("shop", "hidden");
    world.add_artifact(repository, index("d4", 900, at(3)));
    world
}

#[tokio::test]
async fn an_index_counts_only_where_its_children_are_not_listed() {
    let mirror = Mirror::new(platforms()).await;
    mirror.sync().await;
    let repositories =
        "select repository, artifacts, logical_bytes, layer_bytes, exclusive_bytes, unknown_bytes
                        from swr_report.storage_by_repository order by repository";
    let expected = [
        "hidden | 1 | 900 | 0 | 0 | 900",
        "multi | 4 | 3310 | 1040 | 1040 | 0",
    ];
    check(&mirror.database, repositories, &expected).await;
    let namespaces = "select namespace, artifacts, logical_bytes, layer_bytes, unknown_bytes
                      from swr_report.storage_by_namespace";
    check(
        &mirror.database,
        namespaces,
        &["shop | 5 | 4210 | 1040 | 900"],
    )
    .await;
    // The size itself is the one of the API.
    let expected = [
        "shop | multi | d1 | {} | IMAGE | 1100 | 2 | 1010 | 1000 | 10",
        "shop | multi | d2 | {} | IMAGE | 1100 | 2 | 1010 | 1000 | 10",
        "shop | multi | d3 | {v1} | IMAGE | 2205 | NULL | NULL | NULL | NULL",
        "shop | multi | d0 | {} | IMAGE | 1110 | 2 | 1020 | 1000 | 20",
        "shop | hidden | d4 | {v1} | IMAGE | 900 | NULL | NULL | NULL | NULL",
    ];
    check(&mirror.database, SIZES, &expected).await;
    let growth = "select sum(pushed_bytes), max(logical_bytes) from swr_report.growth_by_day";
    check(&mirror.database, growth, &["4210 | 4210"]).await;
}

#[tokio::test]
async fn what_may_be_in_an_index_is_marked_among_the_untagged() {
    let mirror = Mirror::new(platforms()).await;
    mirror.sync().await;
    let untagged =
        "select digest, may_be_in_index from swr_report.untagged_artifact order by digest";
    check(&mirror.database, untagged, &["d0 | f", "d1 | t", "d2 | t"]).await;
}

#[tokio::test]
async fn a_layer_that_an_image_has_twice_counts_once() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    let spec = ArtifactSpec {
        history: history(&[
            layer("WORKDIR /a", "b1", 32),
            layer("COPY . /a", "b2", 100),
            layer("WORKDIR /b", "b1", 32),
        ]),
        ..artifact("d0", 200, &[])
    };
    world.add_artifact(repository, spec);
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let sizes = "select layers, layer_bytes, exclusive_bytes from swr_report.artifact_size";
    check(&mirror.database, sizes, &["2 | 132 | 132"]).await;
    let usage = "select layer_digest, artifacts from swr_report.layer_usage order by layer_digest";
    check(&mirror.database, usage, &["b1 | 1", "b2 | 1"]).await;
    let freed = format!(
        "select layers, reclaimable_bytes from swr_report.reclaimable(array['{}'])",
        digest("d0")
    );
    check(&mirror.database, &freed, &["2 | 132"]).await;
}

#[tokio::test]
async fn a_history_that_comes_late_is_counted_by_the_next_run() {
    let busy = json!({"error_code": "SVCSTG.SWR.5000001", "error_msg": "busy"});
    let mirror = Mirror::new(shop()).await;
    mirror.with_world(|world| world.override_build_history(&digest("d3"), 500, busy));
    mirror.sync().await;
    let sizes = "select digest, layers, exclusive_bytes from swr_report.artifact_size
                 where repository = 'api' and type = 'IMAGE' order by digest";
    check(
        &mirror.database,
        sizes,
        &["d2 | 2 | 30", "d3 | NULL | NULL"],
    )
    .await;

    let steps = history(&[
        layer("ADD rootfs.tar.xz /", "b1", 1000),
        layer("COPY api /bin/", "b3", 30),
        layer("COPY . /", "b4", 4),
    ]);
    mirror.with_world(|world| world.override_build_history(&digest("d3"), 200, steps.unwrap()));
    mirror.sync().await;
    check(&mirror.database, sizes, &["d2 | 2 | 0", "d3 | 3 | 4"]).await;
}

#[tokio::test]
async fn an_unchanged_registry_leaves_what_was_computed_alone() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let versions = "select 'a', xmin::text, artifact_id from swr.artifact_layering
                    union all select 'r', xmin::text, repository_id from swr.repository_layering
                    union all select 'n', xmin::text, namespace_id from swr.namespace_layering
                    order by 1, 3, 2";
    let before = mirror.snapshot(versions).await;
    assert!(before.lines().count() > 10, "{before}");
    mirror.sync().await;
    assert_eq!(mirror.snapshot(versions).await, before);
}

/// A registry may return any size, and sums of sizes may exceed a bigint.
#[tokio::test(flavor = "multi_thread")]
async fn sizes_beyond_all_measure_stop_neither_a_run_nor_a_report() {
    let mut world = World::empty(start_of_time());
    let repositories = ["app", "job", "web"].map(|name| world.add_repository("team", name));
    let layer = |digits: &str, size: i64| json!({"digest": digest(digits), "size": size});
    let histories = [
        vec![layer("b0", i64::MAX)],
        vec![layer("b0", i64::MAX), layer("b1", i64::MAX)],
        vec![layer("b0", i64::MAX), layer("b2", i64::MIN)],
        vec![layer("b3", i64::MIN), layer("b4", i64::MIN)],
    ];
    let mut digests = Vec::new();
    for (number, (history, size)) in histories
        .iter()
        .zip([i64::MAX, i64::MAX, i64::MIN, i64::MIN])
        .enumerate()
    {
        let spec = ArtifactSpec {
            digest: Digest::parse(&digest(&format!("a{number}"))),
            history: Some(json!({"build_histories": history, "total": history.len()})),
            ..ArtifactSpec::default()
        };
        digests.push(digest(&format!("a{number}")));
        // Each is in three repositories, so that its size is multiplied too.
        for repository in repositories {
            let artifact = world.add_artifact(repository, spec.clone()).unwrap();
            let row = json!({
                "id": artifact, "digest": digests[number], "repository_id": repository, "size": size,
                "push_time": "2026-01-01T00:00:00.000Z",
            });
            world.override_row(artifact, row);
        }
    }
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    mirror.with_world(|world| {
        let oldest = world.artifacts().next().unwrap().id;
        world.delete_artifact(oldest).unwrap();
    });
    mirror.sync().await;
    for report in REPORTS {
        let mut values = FilterValues::default();
        if report.query(&values, 0).is_err() {
            values.digests = digests.clone();
            if report.query(&values, 0).is_err() {
                values.digests.truncate(1);
            }
        }
        let query = report.query(&values, 0).unwrap();
        mirror.snapshot(&query).await;
    }
}
