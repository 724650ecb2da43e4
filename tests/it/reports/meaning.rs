//! The reports match their comments if the registry leaves a value out, returns it twice or reverts it.

use swr_emulator::Instance;

use super::*;

/// A row of the artifact list without a size, times and tags.
fn bare_row(id: i64, digits: &str, repository_id: i64) -> Value {
    json!({
        "id": id, "digest": digest(digits), "repository_id": repository_id, "type": "IMAGE",
        "manifest_media_type": "application/vnd.oci.image.manifest.v1+json",
    })
}

fn with(mut row: Value, fields: Value) -> Value {
    let fields = fields.as_object().unwrap().clone();
    row.as_object_mut().unwrap().extend(fields);
    row
}

fn index(digits: &str, size_bytes: u64, pushed_at: DateTime<Utc>) -> ArtifactSpec {
    ArtifactSpec {
        kind: ManifestKind::ImageIndex,
        pushed_at: Some(pushed_at),
        ..artifact(digits, size_bytes, &["v1"])
    }
}

#[tokio::test]
async fn an_index_counts_where_no_existing_untagged_artifact_may_be_its_child() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "multi");
    world.add_artifact(repository, index("d0", 88_000_000, at(5)));
    let small = |digits, pushed_at, tags| ArtifactSpec {
        pushed_at: Some(pushed_at),
        ..artifact(digits, 1000, tags)
    };
    world.add_artifact(repository, small("d1", at(1), &["tagged"]));
    world.add_artifact(repository, small("d2", at(6), &[]));
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let logical = "select logical_bytes, unknown_bytes from swr_report.storage_by_repository";
    check(&mirror.database, logical, &["88002000 | 88002000"]).await;

    let child = mirror.emulator.with_world(|world| {
        let repository = world.repository("shop", "multi").unwrap().id;
        world
            .add_artifact(repository, small("d3", at(4), &[]))
            .unwrap()
    });
    mirror.sync().await;
    check(&mirror.database, logical, &["3000 | 3000"]).await;
    let growth = "select sum(pushed_bytes) from swr_report.growth_by_day";
    check(&mirror.database, growth, &["3000"]).await;

    mirror
        .emulator
        .with_world(|world| world.delete_artifact(child));
    mirror.sync().await;
    check(&mirror.database, logical, &["88002000 | 88002000"]).await;

    // If an index and its child are removed together, their past values stay the same.
    mirror.emulator.with_world(|world| {
        let repository = world.repository("shop", "multi").unwrap().id;
        world.add_artifact(repository, small("d4", at(4), &[]));
    });
    mirror.sync().await;
    mirror.emulator.with_world(|world| {
        let gone = world.repository("shop", "multi").unwrap().id;
        world.delete_repository(gone)
    });
    mirror.sync().await;
    let last = "select pushed_bytes, removed_bytes, logical_bytes from swr_report.growth_by_day order by day desc limit 1";
    check(&mirror.database, last, &["0 | 4000 | 0"]).await;
}

#[tokio::test]
async fn a_change_shows_the_values_of_its_run() {
    let mirror = Mirror::new(World::empty(start_of_time())).await;
    let (repository, shown) = mirror.emulator.with_world(|world| {
        let repository = world.add_repository("shop", "api");
        let shown = world.add_artifact(repository, artifact("d0", 100, &[]));
        (repository, shown.unwrap())
    });
    let row = |digits: &str, size: u64, fields: Value| {
        let row = with(bare_row(500, digits, repository), json!({"size": size}));
        with(row, fields)
    };
    let tags = json!({"tags": [{"id": 1, "name": "v1", "push_time": "2026-03-01T00:00:00.000Z"}]});
    for (hour, row) in [
        // Without a push time, only the time of the listing is known.
        (20, row("d0", 100, tags.clone())),
        (
            21,
            row("d1", 120, json!({"push_time": "2026-03-02T09:30:00.000Z"})),
        ),
        (
            22,
            row("d1", 140, json!({"push_time": "2026-03-02T09:40:00.000Z"})),
        ),
    ] {
        mirror
            .emulator
            .with_world(|world| world.override_row(shown, row));
        mirror.sync_at(at(hour)).await;
    }
    let changes = "select run_id, change, tag, digest, previous_digest, size_bytes, changed_at
                   from swr_report.change order by run_id, change";
    let expected = [
        "1 | artifact added | NULL | d0 | NULL | 100 | 2026-03-02 08:00:00+00",
        "1 | tag added | v1 | d0 | NULL | 100 | 2026-03-01 00:00:00+00",
        "2 | artifact changed | NULL | d1 | d0 | 120 | NULL",
        "2 | tag removed | v1 | NULL | d0 | 100 | 2026-03-02 09:00:00+00",
        "3 | artifact changed | NULL | d1 | NULL | 140 | NULL",
    ];
    check(&mirror.database, changes, &expected).await;
}

#[tokio::test]
async fn an_image_that_adds_only_configuration_has_its_base_and_must_be_rebuilt() {
    let step = |command: &str| json!({"created_by": command, "empty_layer": true});
    let os = [layer("ADD rootfs /", "b1", 1000), step("CMD [\"sh\"]")];
    let configured = [&os[..], &[step("ENV A=1")]].concat();
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("base", "os");
    let add = |world: &mut World, digits: &str, steps: &[Value], hours| {
        let spec = ArtifactSpec {
            pushed_at: Some(at(hours)),
            history: history(steps),
            ..artifact(digits, 1100, &[])
        };
        world.add_artifact(repository, spec).unwrap()
    };
    let base = add(&mut world, "d0", &os, 1);
    add(&mut world, "d1", &configured, 2);
    add(
        &mut world,
        "d2",
        &[&configured[..], &[step("USER 1")]].concat(),
        3,
    );
    add(
        &mut world,
        "d3",
        &[&os[..], &[layer("COPY . /", "b2", 10)]].concat(),
        4,
    );
    let on_configured = [&configured[..], &[layer("COPY . /", "b3", 10)]].concat();
    add(&mut world, "d4", &on_configured, 5);
    // The same layers, but other steps: it is unknown whether it was built from d0.
    add(&mut world, "d5", &[layer("COPY / /", "b1", 1000)], 6);
    let mirror = Mirror::new(world).await;
    mirror.sync().await;

    let bases = "select digest, base_digest, base_is_proven, base_candidates from swr_report.base_image order by digest";
    let expected = [
        "d0 | NULL | NULL | NULL",
        "d1 | d0 | t | 1",
        "d2 | d1 | t | 1",
        "d3 | d0 | t | 4",
        // Its steps continue those of d0 too, which are fewer.
        "d4 | d1 | t | 4",
        "d5 | NULL | NULL | NULL",
    ];
    check(&mirror.database, bases, &expected).await;
    let built_on = |digits: &str| {
        format!(
            "select digest, is_direct from swr_report.built_on('{}') order by digest",
            digest(digits)
        )
    };
    let expected = ["d1 | t", "d2 | f", "d3 | t", "d4 | f"];
    check(&mirror.database, &built_on("d0"), &expected).await;
    check(&mirror.database, &built_on("d1"), &["d2 | t", "d4 | t"]).await;
    // d3 has all layers of d5, and more.
    check(&mirror.database, &built_on("d5"), &["d3 | t", "d4 | t"]).await;
    // These have the step of the only layer of d2, but not the steps after it.
    check(&mirror.database, &built_on("d2"), &[]).await;

    mirror
        .emulator
        .with_world(|world| world.delete_artifact(base));
    mirror.sync().await;
    // It has the layers of d1 and other images, but it is unknown whether it was built from one of them.
    let of_d3 = "select base_is_proven from swr_report.base_image where digest like '%d3'";
    check(&mirror.database, of_d3, &["f"]).await;
    let of_d4 =
        "select base_digest, base_is_proven from swr_report.base_image where digest like '%d4'";
    check(&mirror.database, of_d4, &["d1 | t"]).await;
}

#[tokio::test]
async fn a_history_that_was_never_requested_is_missing() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    let refusal = json!({"error_code": "SVCSTG.SWR.4030170", "error_msg": "no permission"});
    for number in 0..40 {
        let digits = format!("{number:02x}");
        world.add_artifact(repository, artifact(&digits, 10, &[]));
        world.override_build_history(&digest(&digits), 403, refusal.clone());
    }
    let mirror = Mirror::new(world).await;
    let report = mirror.sync().await;
    let skipped = report.counters.histories_skipped;
    assert!(skipped > 0, "{:?}", report.counters);
    let missing =
        "select count(*), count(*) filter (where outcome = 'not_requested' and attempts = 0),
                          count(distinct digest), sum(artifacts) from swr_report.history_failure";
    let expected = format!("40 | {skipped} | 40 | 40");
    check(&mirror.database, missing, &[&expected]).await;
    let waiting = "select histories_waiting from swr_report.freshness";
    check(&mirror.database, waiting, &["40"]).await;
    let steps = "select distinct build_steps from swr_report.artifact";
    check(&mirror.database, steps, &["NULL"]).await;
}

#[tokio::test]
async fn whether_an_artifact_may_be_in_an_index_is_null_where_a_missing_value_decides() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "multi");
    world.add_artifact(repository, index("d0", 1000, at(2)));
    let mut add = |repository, digits: &str, fields: Value| {
        let id = world
            .add_artifact(repository, artifact(digits, 1, &[]))
            .unwrap();
        world.override_row(id, with(bare_row(id, digits, repository), fields));
    };
    let early = "2026-03-01T00:00:00.000Z";
    let late = "2026-04-01T00:00:00.000Z";
    add(repository, "d1", json!({"size": 10, "push_time": early}));
    add(repository, "d2", json!({"push_time": early}));
    add(repository, "d3", json!({"push_time": late}));
    add(repository, "d4", json!({"size": 10}));
    add(repository, "d5", json!({"size": 2000}));
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let untagged =
        "select digest, may_be_in_index from swr_report.untagged_artifact order by digest";
    let expected = ["d1 | t", "d2 | NULL", "d3 | f", "d4 | NULL", "d5 | f"];
    check(&mirror.database, untagged, &expected).await;
    // Another index, of unknown size.
    mirror.emulator.with_world(|world| {
        let id = world
            .add_artifact(repository, index("d6", 1, at(1)))
            .unwrap();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let fields = json!({"manifest_media_type": media_type, "push_time": early});
        world.override_row(id, with(bare_row(id, "d6", repository), fields));
    });
    mirror.sync().await;
    let expected = [
        "d1 | t",
        "d2 | NULL",
        "d3 | f",
        "d4 | NULL",
        "d5 | NULL",
        "d6 | f",
    ];
    check(&mirror.database, untagged, &expected).await;
    let stale = "select digest, may_be_in_index, exclusive_bytes
                 from swr_report.stale_artifact(now() - '2026-03-01 06:00:00Z') order by digest";
    check(
        &mirror.database,
        stale,
        &["d1 | t | NULL", "d2 | NULL | NULL", "d6 | f | NULL"],
    )
    .await;
}

#[tokio::test]
async fn the_example_of_an_unknown_base_is_the_one_pushed_first() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    for (digits, own, hours) in [("d1", "b2", 3), ("d2", "b3", 1), ("d3", "b4", 2)] {
        let spec = ArtifactSpec {
            pushed_at: Some(at(hours)),
            history: history(&[layer("FROM elsewhere", "b1", 1000), layer("RUN a", own, 10)]),
            ..artifact(digits, 1100, &[])
        };
        world.add_artifact(repository, spec);
    }
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let example = "select artifacts, example_digest from swr_report.unknown_base";
    check(&mirror.database, example, &["3 | d2"]).await;
}

#[tokio::test]
async fn ids_of_artifacts_are_looked_for_in_one_instance() {
    let mirror = Mirror::new(shop()).await;
    let second = Instance {
        id: "aaaaaaaa-2222-3333-4444-555555555555".to_owned(),
        name: "demo".to_owned(),
        version: "25.6.0".to_owned(),
        status: "Running".to_owned(),
    };
    let id = second.id.clone();
    mirror.emulator.add_instance(second, shop());
    mirror.sync().await;
    mirror.sync_instance(&id, Clock::system()).await;
    let untagged = "select instance, instance_id, digest from swr_report.untagged_artifact order by instance_id";
    check(
        &mirror.database,
        untagged,
        &["demo | 1 | d3", "demo | 2 | d3"],
    )
    .await;
    let of = |arguments: &str| {
        format!(
            "select r.instance_id, r.artifacts, r.reclaimable_bytes
             from swr_report.reclaimable(
                 artifact_ids => array(select artifact_id from swr_report.untagged_artifact where instance_id = 2){arguments}
             ) r"
        )
    };
    let by_id = of(", in_instance_id => 2");
    check(&mirror.database, &by_id, &["2 | 1 | 4"]).await;
    // Both have the same name.
    for arguments in ["", ", in_instance => 'demo'"] {
        let mut connection = mirror.database.connect().await;
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(of(arguments)))
            .execute(&mut connection)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("need in_instance_id"), "{error}");
    }
    let by_digest = format!(
        "select instance_id from swr_report.reclaimable(array['{}']) order by 1",
        digest("d3")
    );
    check(&mirror.database, &by_digest, &["1", "2"]).await;
    let built_on = format!(
        "select distinct instance_id from swr_report.built_on('{}', in_instance_id => 2)",
        digest("d0")
    );
    check(&mirror.database, &built_on, &["2"]).await;
}

#[tokio::test]
async fn a_layer_with_and_without_its_size_is_one_layer() {
    let unsized_layer = |digits: &str| {
        let mut layer = layer("ADD rootfs /", digits, 0);
        layer.as_object_mut().unwrap().remove("size");
        layer
    };
    let mut world = World::empty(start_of_time());
    let mut add = |name: &str, digits: &str, steps: &[Value]| {
        let repository = world.add_repository("shop", name);
        let spec = ArtifactSpec {
            history: history(steps),
            ..artifact(digits, 1100, &[])
        };
        world.add_artifact(repository, spec).unwrap()
    };
    add("one", "d0", &[layer("ADD rootfs /", "b1", 1000)]);
    add(
        "one",
        "d1",
        &[unsized_layer("b1"), layer("RUN a", "b2", 20)],
    );
    // Both in one image; and a layer of unknown size.
    add(
        "two",
        "d2",
        &[
            unsized_layer("b1"),
            layer("ADD rootfs /", "b1", 1000),
            unsized_layer("b3"),
        ],
    );
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let sizes = "select digest, layers, layer_bytes, exclusive_bytes from swr_report.artifact_size order by digest";
    let expected = [
        "d0 | 1 | 1000 | 0",
        "d1 | 2 | 1020 | 20",
        "d2 | 2 | 1000 | 0",
    ];
    check(&mirror.database, sizes, &expected).await;
    let usage = "select layer_digest, size_bytes, artifacts, repositories from swr_report.layer_usage order by 1";
    let expected = ["b1 | 1000 | 3 | 2", "b2 | 20 | 1 | 1", "b3 | NULL | 1 | 1"];
    check(&mirror.database, usage, &expected).await;
    let held = "select repository, layer_digest, artifacts, repositories, share_bytes from swr_report.repository_layer order by 1, 2";
    let expected = [
        "one | b1 | 2 | 2 | 500.000",
        "one | b2 | 1 | 1 | 20.000",
        "two | b1 | 1 | 2 | 500.000",
        "two | b3 | 1 | 1 | NULL",
    ];
    check(&mirror.database, held, &expected).await;
    let base = "select digest, base_digest from swr_report.base_image order by digest";
    check(&mirror.database, base, &["d0 | NULL", "d1 | d0", "d2 | d0"]).await;
    let all = "select sum(reclaimable_bytes), sum(layers) from swr_report.reclaimable(array(select digest from swr_report.artifact))";
    check(&mirror.database, all, &["1020 | 3"]).await;
    let total = "select layer_bytes from swr_report.storage_by_instance";
    check(&mirror.database, total, &["1020"]).await;

    // The size of b3 becomes known.
    mirror.emulator.with_world(|world| {
        let repository = world.repository("shop", "one").unwrap().id;
        let spec = ArtifactSpec {
            history: history(&[layer("RUN b", "b3", 7)]),
            ..artifact("d3", 10, &[])
        };
        world.add_artifact(repository, spec)
    });
    mirror.sync().await;
    let of_d2 = format!("{sizes} limit 4");
    let expected = [
        "d0 | 1 | 1000 | 0",
        "d1 | 2 | 1020 | 20",
        "d2 | 2 | 1007 | 0",
        "d3 | 1 | 7 | 0",
    ];
    check(&mirror.database, &of_d2, &expected).await;
    let verified = verify_differences(&mirror).await;
    assert_eq!(verified, "");
}

async fn verify_differences(mirror: &Mirror) -> String {
    let (_stopper, stop) = swr_sync::stop::channel();
    let Mirror {
        emulator, database, ..
    } = mirror;
    crate::support::mirror::verify(emulator, database, None, "", Clock::system(), &stop)
        .await
        .unwrap();
    let found = "select table_name, row_key, field, verdict, stored, found from swr.verification_difference";
    database.snapshot(found).await
}

#[tokio::test]
async fn times_before_1980_are_never() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    let id = world
        .add_artifact(repository, artifact("d0", 100, &[]))
        .unwrap();
    let row = with(
        bare_row(id, "d0", repository),
        json!({
            "size": 100, "push_time": "2026-03-01T00:00:00.000Z", "pull_time": "0001-01-01T00:00:43.000Z",
            "tags": [{"id": 1, "name": "v1", "push_time": "1970-01-01T00:00:01.000Z", "pull_time": "0001-01-01T00:00:43.000Z"}],
        }),
    );
    world.override_row(id, row);
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    for (view, columns) in [
        ("artifact", "pulled_at"),
        ("tag", "pushed_at, pulled_at"),
        ("artifact_size", "pulled_at"),
        ("storage_by_repository", "last_pulled_at"),
        ("storage_by_namespace", "last_pulled_at"),
        ("storage_by_instance", "last_pulled_at"),
        ("repository", "last_pulled_at"),
    ] {
        let sql = format!("select num_nonnulls({columns}) from swr_report.{view}");
        check(&mirror.database, &sql, &["0"]).await;
    }
    // The table has the values of the registry.
    let stored = "select pulled_at from swr.artifact";
    check(&mirror.database, stored, &["0001-01-01 00:00:43+00"]).await;
}

#[tokio::test]
async fn repositories_and_namespaces_are_shown_also_when_they_are_empty() {
    let mut world = shop();
    world.add_repository("shop", "empty");
    world.add_namespace("void");
    let os = world.repository("base", "os").unwrap().id;
    let image = world.artifacts_of(os)[0].id;
    assert!(world.pull(image, at(30)));
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let repositories = "select namespace, repository, artifacts, tags, pull_count from swr_report.repository order by 1, 2";
    let expected = [
        "base | os | 1 | 2 | 1",
        "shop | api | 3 | 3 | 0",
        "shop | empty | 0 | 0 | 0",
        "shop | mirror | 1 | 1 | 0",
        "shop | web/front | 1 | 1 | 0",
    ];
    check(&mirror.database, repositories, &expected).await;
    let namespaces = "select namespace, repositories, artifacts, tags, pull_count from swr_report.namespace order by 1";
    let expected = [
        "base | 1 | 1 | 2 | 1",
        "shop | 4 | 5 | 5 | 0",
        "void | 0 | 0 | 0 | NULL",
    ];
    check(&mirror.database, namespaces, &expected).await;

    mirror
        .emulator
        .with_world(|world| world.delete_artifact(image));
    mirror.sync().await;
    let of_os = format!("select * from ({repositories}) x where repository = 'os'");
    check(&mirror.database, &of_os, &["base | os | 0 | 0 | 1"]).await;
}

#[tokio::test]
async fn the_registry_as_a_whole_counts_each_layer_once_and_shares_add_up() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected =
        ["demo | 2 | 4 | 6 | 5841 | 1234 | 77 | 2026-03-01 17:00:00+00 | 2026-03-01 21:00:00+00"];
    check_report(&mirror, "storage_by_instance", &expected).await;
    let by_repository =
        "select repository, share_bytes from swr_report.storage_by_repository order by 1";
    // b1 of 1000 bytes is in four repositories.
    let expected = ["api | 284", "mirror | 250", "os | 250", "web/front | 450"];
    check(&mirror.database, by_repository, &expected).await;
    let by_namespace =
        "select namespace, share_bytes from swr_report.storage_by_namespace order by 1";
    check(
        &mirror.database,
        by_namespace,
        &["base | 500", "shop | 734"],
    )
    .await;
    let shares = "select repository, namespaces, repositories, share_bytes, namespace_share_bytes
                  from swr_report.repository_layer where layer_digest = 'sha256:' || repeat('b1', 32) order by 1";
    let expected = [
        "api | 2 | 4 | 250.000 | 500.000",
        "mirror | 2 | 4 | 250.000 | 500.000",
        "os | 2 | 4 | 250.000 | 500.000",
        "web/front | 2 | 4 | 250.000 | 500.000",
    ];
    check(&mirror.database, shares, &expected).await;
}

#[tokio::test]
async fn the_history_of_storage_has_a_row_where_a_namespace_changed() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync_at(at(40)).await;
    mirror.sync_at(at(41)).await;
    mirror.emulator.with_world(|world| {
        let os = world.repository("base", "os").unwrap().id;
        world.delete_repository(os)
    });
    mirror.sync_at(at(42)).await;
    mirror.sync_at(at(43)).await;
    let history =
        "select as_of, namespace, artifacts, logical_bytes, layer_bytes, share_bytes, unknown_bytes
                   from swr_report.storage_history order by 1, 2";
    let expected = [
        "2026-03-03 04:00:00+00 | base | 1 | 1100 | 1000 | 500 | 0",
        "2026-03-03 04:00:00+00 | shop | 5 | 4741 | 1234 | 734 | 77",
        "2026-03-03 06:00:00+00 | base | 0 | 0 | 0 | 0 | 0",
        "2026-03-03 06:00:00+00 | shop | 5 | 4741 | 1234 | 1234 | 77",
    ];
    check(&mirror.database, history, &expected).await;
}

#[tokio::test]
async fn the_namespace_of_an_artifact_is_taken_from_the_catalog_where_the_list_leaves_it_out() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    let id = world
        .add_artifact(repository, artifact("d0", 100, &[]))
        .unwrap();
    world.override_row(id, bare_row(id, "d0", repository));
    let namespace_id = world.add_namespace("shop");
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    let row = "select namespace, namespace_id from swr_report.artifact";
    check(&mirror.database, row, &[&format!("shop | {namespace_id}")]).await;
}

#[tokio::test]
async fn every_view_and_function_has_the_key_of_the_instance() {
    let database = TestDatabase::create().await;
    let without = "select relname::text as name from pg_class c
                   where relnamespace = 'swr_report'::regnamespace
                     and not exists (
                         select from pg_attribute where attrelid = c.oid and attname = 'instance_id'
                     )
                   union all
                   select proname from pg_proc p
                   where pronamespace = 'swr_report'::regnamespace
                     and pg_get_function_result(p.oid) !~ 'instance_id integer'";
    check(&database, without, &[]).await;
}
