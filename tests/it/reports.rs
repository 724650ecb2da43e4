//! The views of `swr_report`, row by row, for small registries written by hand.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use swr_emulator::{ArtifactSpec, Digest, ManifestKind, RequestKind, World};
use swr_sync::clock::Clock;
use swr_sync::report::{self, FilterValues, REPORTS};

use crate::support::database::TestDatabase;
use crate::support::mirror::{Mirror, start_of_time};
use crate::support::{assert_contains, assert_starts_with};

mod bases;
mod cleanup;
mod findings;
mod generated;
mod history;
mod meaning;
mod model;
mod plans;
mod storage;

/// The digest that repeats these two digits; results show only the two.
fn digest(digits: &str) -> String {
    format!("sha256:{}", digits.repeat(32))
}

fn artifact(digits: &str, size_bytes: u64, tags: &[&str]) -> ArtifactSpec {
    ArtifactSpec {
        digest: Digest::parse(&digest(digits)),
        size_bytes,
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..ArtifactSpec::default()
    }
}

fn history(steps: &[Value]) -> Option<Value> {
    Some(json!({"build_histories": steps, "total": steps.len()}))
}

fn layer(command: &str, digits: &str, size_bytes: u64) -> Value {
    json!({
        "created": "2026-01-02T03:04:05Z",
        "created_by": command,
        "digest": digest(digits),
        "size": size_bytes,
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    })
}

/// Hours after the start of time.
fn at(hours: i64) -> DateTime<Utc> {
    start_of_time() + TimeDelta::hours(hours)
}

/// An operating system with one layer (b1, 1000 bytes), and images that are built on it:
///
/// ```text
/// base/os          d0           b1
/// shop/web/front   d1           b1 + b2 (200)
/// shop/api         d2, d3, c0   b1 + b3 (30), b1 + b3 + b4 (4), a chart without layers
/// shop/mirror      d0 again
/// ```
fn shop() -> World {
    let mut world = World::empty(start_of_time());
    let os = layer("ADD rootfs.tar.xz /", "b1", 1000);
    let shell = json!({
        "created": "2026-01-02T03:04:05.123456789+01:00",
        "created_by": "CMD [\"sh\"]",
        "empty_layer": true,
    });
    let copy = layer("COPY api /bin/", "b3", 30);

    let repository = world.add_repository("base", "os");
    world.add_artifact(
        repository,
        ArtifactSpec {
            pulled_at: Some(at(9)),
            history: history(&[os.clone(), shell.clone()]),
            ..artifact("d0", 1100, &["12.1", "latest"])
        },
    );
    let repository = world.add_repository("shop", "web/front");
    world.add_artifact(
        repository,
        ArtifactSpec {
            pushed_at: Some(at(1)),
            history: history(&[
                os.clone(),
                shell.clone(),
                layer("RUN make \\\n\tall", "b2", 200),
            ]),
            ..artifact("d1", 1300, &["v1"])
        },
    );
    let repository = world.add_repository("shop", "api");
    world.add_artifact(
        repository,
        ArtifactSpec {
            pushed_at: Some(at(2)),
            history: history(&[os.clone(), shell.clone(), copy.clone()]),
            ..artifact("d2", 1130, &["v1", "stable"])
        },
    );
    world.add_artifact(
        repository,
        ArtifactSpec {
            pushed_at: Some(at(3)),
            history: history(&[
                os.clone(),
                shell.clone(),
                copy,
                // Neither time nor command, as in some imported images.
                json!({"digest": digest("b4"), "size": 4}),
            ]),
            ..artifact("d3", 1134, &[])
        },
    );
    world.add_artifact(
        repository,
        ArtifactSpec {
            kind: ManifestKind::Chart,
            pushed_at: Some(at(4)),
            ..artifact("c0", 77, &["0.1.0"])
        },
    );
    let repository = world.add_repository("shop", "mirror");
    world.add_artifact(
        repository,
        ArtifactSpec {
            pushed_at: Some(at(5)),
            history: history(&[os, shell]),
            ..artifact("d0", 1100, &["12.1"])
        },
    );
    world
}

/// The result of a query, one line for each row.
async fn rows(database: &TestDatabase, sql: &str) -> Vec<String> {
    let sql = format!("set time zone 'UTC'; {sql}");
    let mut text = database.snapshot(&sql).await;
    for digits in [
        "b1", "b2", "b3", "b4", "c0", "d0", "d1", "d2", "d3", "d4", "d5", "d6",
    ] {
        text = text.replace(&digest(digits), digits);
    }
    text.lines().map(str::to_owned).collect()
}

async fn check(database: &TestDatabase, sql: &str, expected: &[&str]) {
    let rows = rows(database, sql).await;
    assert_eq!(rows, expected, "{sql}");
}

/// A report's query without filters.
fn query(name: &str) -> String {
    let report = report::find(name).unwrap();
    report.query(&FilterValues::default(), 0).unwrap()
}

async fn check_report(mirror: &Mirror, name: &str, expected: &[&str]) {
    check(&mirror.database, &query(name), expected).await;
}

#[tokio::test]
async fn artifact_shows_what_is_in_the_registry() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = [
        "demo | shop | mirror | d0 | {12.1} | IMAGE | 1100 | 2026-03-01 17:00:00+00 | NULL | stored | 2",
        "demo | shop | api | c0 | {0.1.0} | CHART | 77 | 2026-03-01 16:00:00+00 | NULL | unsupported | NULL",
        "demo | shop | api | d3 | {} | IMAGE | 1134 | 2026-03-01 15:00:00+00 | NULL | stored | 4",
        "demo | shop | api | d2 | {stable,v1} | IMAGE | 1130 | 2026-03-01 14:00:00+00 | NULL | stored | 3",
        "demo | shop | web/front | d1 | {v1} | IMAGE | 1300 | 2026-03-01 13:00:00+00 | NULL | stored | 3",
        "demo | base | os | d0 | {12.1,latest} | IMAGE | 1100 | 2026-03-01 12:00:00+00 | 2026-03-01 21:00:00+00 | stored | 2",
    ];
    check_report(&mirror, "artifact", &expected).await;
    let types = "select distinct media_type, manifest_media_type, extra from swr_report.artifact order by 1";
    let expected = [
        "application/vnd.cncf.helm.config.v1+json | application/vnd.oci.image.manifest.v1+json | NULL",
        "application/vnd.docker.container.image.v1+json | application/vnd.docker.distribution.manifest.v2+json | NULL",
    ];
    check(&mirror.database, types, &expected).await;

    mirror.with_world(|world| {
        let gone = world.repository("shop", "api").unwrap().id;
        world.delete_repository(gone).unwrap();
    });
    mirror.sync().await;
    let left = "select repository, digest from swr_report.artifact order by 1";
    check(
        &mirror.database,
        left,
        &["mirror | d0", "os | d0", "web/front | d1"],
    )
    .await;
}

#[tokio::test]
async fn tag_shows_what_each_tag_points_to() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = [
        "demo | base | os | 12.1 | d0 | 1100 | 2026-03-01 12:00:00+00 | NULL",
        "demo | base | os | latest | d0 | 1100 | 2026-03-01 12:00:00+00 | NULL",
        "demo | shop | api | 0.1.0 | c0 | 77 | 2026-03-01 16:00:00+00 | NULL",
        "demo | shop | api | stable | d2 | 1130 | 2026-03-01 14:00:00+00 | NULL",
        "demo | shop | api | v1 | d2 | 1130 | 2026-03-01 14:00:00+00 | NULL",
        "demo | shop | mirror | 12.1 | d0 | 1100 | 2026-03-01 17:00:00+00 | NULL",
        "demo | shop | web/front | v1 | d1 | 1300 | 2026-03-01 13:00:00+00 | NULL",
    ];
    check_report(&mirror, "tag", &expected).await;

    let moved_at = mirror.with_world(|world| {
        let api = world.repository("shop", "api").unwrap().id;
        let [_, newer, _] = world.artifacts_of(api)[..] else {
            panic!("there are three artifacts");
        };
        let newer = newer.id;
        world.set_now(at(20));
        assert!(world.move_tag(api, "stable", newer));
        let moved_at = world.now();
        assert!(world.remove_tag(api, "0.1.0"));
        assert!(world.pull(newer, at(21)));
        moved_at
    });
    // A tag is removed when it is missing from two listings in a row.
    mirror.sync().await;
    mirror.sync().await;
    let of_api = format!(
        "select tag, digest, size_bytes, pushed_at = '{moved_at}', pulled_at, type
         from swr_report.tag where repository = 'api' order by tag"
    );
    let expected = [
        "stable | d3 | 1134 | t | 2026-03-02 09:00:00+00 | IMAGE",
        "v1 | d2 | 1130 | f | NULL | IMAGE",
    ];
    check(&mirror.database, &of_api, &expected).await;
}

#[tokio::test]
async fn build_history_shows_how_each_image_was_built() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = [
        "demo | base | os | d0 | 1 | 2026-01-02 03:04:05+00 | f | 1000 | ADD rootfs.tar.xz /",
        "demo | base | os | d0 | 2 | 2026-01-02 02:04:05.123456+00 | t | NULL | CMD [\"sh\"]",
        "demo | shop | web/front | d1 | 1 | 2026-01-02 03:04:05+00 | f | 1000 | ADD rootfs.tar.xz /",
        "demo | shop | web/front | d1 | 2 | 2026-01-02 02:04:05.123456+00 | t | NULL | CMD [\"sh\"]",
        // The command has a line break.
        "demo | shop | web/front | d1 | 3 | 2026-01-02 03:04:05+00 | f | 200 | RUN make \\",
        "\tall",
        "demo | shop | api | d2 | 1 | 2026-01-02 03:04:05+00 | f | 1000 | ADD rootfs.tar.xz /",
        "demo | shop | api | d2 | 2 | 2026-01-02 02:04:05.123456+00 | t | NULL | CMD [\"sh\"]",
        "demo | shop | api | d2 | 3 | 2026-01-02 03:04:05+00 | f | 30 | COPY api /bin/",
        "demo | shop | api | d3 | 1 | 2026-01-02 03:04:05+00 | f | 1000 | ADD rootfs.tar.xz /",
        "demo | shop | api | d3 | 2 | 2026-01-02 02:04:05.123456+00 | t | NULL | CMD [\"sh\"]",
        "demo | shop | api | d3 | 3 | 2026-01-02 03:04:05+00 | f | 30 | COPY api /bin/",
        "demo | shop | api | d3 | 4 | NULL | f | 4 | NULL",
        "demo | shop | mirror | d0 | 1 | 2026-01-02 03:04:05+00 | f | 1000 | ADD rootfs.tar.xz /",
        "demo | shop | mirror | d0 | 2 | 2026-01-02 02:04:05.123456+00 | t | NULL | CMD [\"sh\"]",
    ];
    check_report(&mirror, "build_history", &expected).await;
    let rest = "select position, created_at_ns, layer_digest, layer_media_type, extra
                from swr_report.build_history where digest like 'sha256:d3%' order by position";
    let expected = [
        "1 | 0 | b1 | application/vnd.oci.image.layer.v1.tar+gzip | NULL",
        "2 | 789 | NULL | NULL | NULL",
        "3 | 0 | b3 | application/vnd.oci.image.layer.v1.tar+gzip | NULL",
        "4 | NULL | b4 | NULL | NULL",
    ];
    check(&mirror.database, rest, &expected).await;
    // Images with the same layers up to and including this one.
    let shared = "select max(layer_digest), string_agg(distinct digest, ' ' order by digest)
                  from swr_report.build_history group by chain_id order by 1";
    let expected = ["b1 | d0 d1 d2 d3", "b2 | d1", "b3 | d2 d3", "b4 | d3"];
    check(&mirror.database, shared, &expected).await;

    mirror.with_world(|world| {
        let ids: Vec<i64> = world.artifacts().map(|artifact| artifact.id).collect();
        for id in &ids[1..] {
            world.delete_artifact(*id).unwrap();
        }
    });
    mirror.sync().await;
    let left = "select distinct repository, digest from swr_report.build_history";
    check(&mirror.database, left, &["os | d0"]).await;
}

#[tokio::test]
async fn storage_by_repository_counts_shared_layers_once() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    // Only `api` has b3 and b4; b1 is shared:
    // logical 1130 + 1134 + 77, after sharing 1000 + 30 + 4, exclusive 30 + 4.
    let expected = [
        "demo | shop | web/front | 1 | 1300 | 1200 | 1000 | 200 | 450 | 0 | 2026-03-01 13:00:00+00 | NULL",
        "demo | shop | api | 3 | 2341 | 1034 | 1000 | 34 | 284 | 77 | 2026-03-01 16:00:00+00 | NULL",
        "demo | base | os | 1 | 1100 | 1000 | 1000 | 0 | 250 | 0 | 2026-03-01 12:00:00+00 | 2026-03-01 21:00:00+00",
        "demo | shop | mirror | 1 | 1100 | 1000 | 1000 | 0 | 250 | 0 | 2026-03-01 17:00:00+00 | NULL",
    ];
    check_report(&mirror, "storage_by_repository", &expected).await;

    mirror.with_world(|world| {
        for (namespace, name) in [("shop", "web/front"), ("shop", "mirror"), ("base", "os")] {
            let gone = world.repository(namespace, name).unwrap().id;
            world.delete_repository(gone).unwrap();
        }
        let api = world.repository("shop", "api").unwrap().id;
        let newer = world.artifacts_of(api)[1].id;
        world.delete_artifact(newer).unwrap();
    });
    mirror.sync().await;
    // d2 and the chart remain, and only they have b1 now.
    let expected = [
        "demo | shop | api | 2 | 1207 | 1030 | 0 | 1030 | 1030 | 77 | 2026-03-01 16:00:00+00 | NULL",
    ];
    check_report(&mirror, "storage_by_repository", &expected).await;
}

#[tokio::test]
async fn stale_artifact_shows_what_was_neither_pushed_nor_pulled_for_that_long() {
    let now = Clock::system().now();
    let ago = |days| now - TimeDelta::days(days);
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    for (digits, size_bytes, tags, pushed_at, pulled_at) in [
        ("d0", 10, &["never-pulled"][..], ago(91), None),
        ("d1", 20, &["pulled-lately"], ago(400), Some(ago(89))),
        ("d2", 30, &[], ago(400), Some(ago(200))),
        ("d3", 40, &["pushed-lately"], ago(89), None),
        ("d4", 50, &["deleted"], ago(400), None),
    ] {
        world.add_artifact(
            repository,
            ArtifactSpec {
                pushed_at: Some(pushed_at),
                pulled_at,
                ..artifact(digits, size_bytes, tags)
            },
        );
    }
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    mirror.with_world(|world| {
        let last = world.artifacts().last().unwrap().id;
        world.delete_artifact(last).unwrap();
    });
    mirror.sync().await;

    // The registry's times have milliseconds.
    let time = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    let stale = |unused_for: &str| {
        format!(
            "select instance, namespace, repository, digest, tags, size_bytes,
                    to_char(pushed_at, 'YYYY-MM-DD HH24:MI:SS.MS'), to_char(pulled_at, 'YYYY-MM-DD HH24:MI:SS.MS'),
                    last_used_at = greatest(pushed_at, pulled_at)
             from swr_report.stale_artifact({unused_for}) order by size_bytes"
        )
    };
    let long = format!(
        "demo | shop | api | d2 | {{}} | 30 | {} | {} | t",
        time(ago(400)),
        time(ago(200))
    );
    let never = format!(
        "demo | shop | api | d0 | {{never-pulled}} | 10 | {} | NULL | t",
        time(ago(91))
    );
    check(&mirror.database, &stale("'90 days'"), &[&never, &long]).await;
    check(&mirror.database, &stale(""), &[&never, &long]).await;
    check(&mirror.database, &stale("'100 days'"), &[&long]).await;
    check(&mirror.database, &stale("'300 days'"), &[]).await;

    // The default of the report is 90 days, largest first.
    let report = rows(&mirror.database, &query("stale_artifact")).await;
    let digests: Vec<_> = report
        .iter()
        .map(|row| row.split(" | ").nth(3).unwrap())
        .collect();
    assert_eq!(digests, ["d2", "d0"]);
}

#[tokio::test]
async fn tag_move_shows_where_tags_went_and_when() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    check_report(&mirror, "tag_move", &[]).await;

    // A time between the two listings: the push time of a tag that moves then.
    let moved_at = Clock::system().now();
    mirror.with_world(|world| {
        let api = world.repository("shop", "api").unwrap().id;
        let newer = world.artifacts_of(api)[1].id;
        let before = world.now();
        world.remove_tag(api, "no such tag");
        let step_of_time = world.now() - before;
        world.set_now(moved_at - step_of_time);
        assert!(world.move_tag(api, "stable", newer));
        // And one with a push time before the first listing, as if the registry had not changed it.
        world.set_now(at(30));
        assert!(world.move_tag(api, "v1", newer));
        let os = world.repository("base", "os").unwrap().id;
        assert!(world.remove_tag(os, "latest"));
        let front = world.repository("shop", "web/front").unwrap().id;
        world.delete_repository(front).unwrap();
    });
    // If its artifact stays, a tag is removed when it is missing from two listings in a row.
    mirror.sync().await;
    mirror.sync().await;
    let moves = format!(
        "select m.instance, m.namespace, m.repository, m.tag, m.from_digest, m.to_digest, m.run_id,
                case m.moved_at
                    when '{}' then 'when it was pushed'
                    when r.listing_started_at then 'when it was seen'
                end
         from swr_report.tag_move m join swr.sync_run r using (instance_id, run_id)
         order by namespace, repository, tag, moved_at",
        moved_at.format("%Y-%m-%d %H:%M:%S%.3f+00")
    );
    let expected = [
        "demo | base | os | latest | d0 | NULL | 3 | when it was seen",
        "demo | shop | api | stable | d2 | d3 | 2 | when it was pushed",
        "demo | shop | api | v1 | d2 | d3 | 2 | when it was seen",
        "demo | shop | web/front | v1 | d1 | NULL | 2 | when it was seen",
    ];
    check(&mirror.database, &moves, &expected).await;

    // Both are back, including the removed one; the removal stays in the history.
    mirror.with_world(|world| {
        let api = world.repository("shop", "api").unwrap().id;
        let older = world.artifacts_of(api)[0].id;
        assert!(world.move_tag(api, "stable", older));
        let os = world.repository("base", "os").unwrap().id;
        let only = world.artifacts_of(os)[0].id;
        assert!(world.move_tag(os, "latest", only));
    });
    mirror.sync().await;
    let expected = [
        "demo | base | os | latest | d0 | NULL | 3 | when it was seen",
        "demo | shop | api | stable | d2 | d3 | 2 | when it was pushed",
        "demo | shop | api | stable | d3 | d2 | 4 | when it was seen",
        "demo | shop | api | v1 | d2 | d3 | 2 | when it was seen",
        "demo | shop | web/front | v1 | d1 | NULL | 2 | when it was seen",
    ];
    check(&mirror.database, &moves, &expected).await;
    let report = rows(&mirror.database, &query("tag_move")).await;
    assert_eq!(report.len(), 5);
    assert!(
        report[0].starts_with("demo | shop | api | stable | "),
        "{report:?}"
    );
    assert!(report[0].ends_with(" | d3 | d2"), "{report:?}");
}

#[tokio::test]
async fn freshness_shows_how_old_the_picture_is_and_what_failed_since() {
    let mirror = Mirror::new(shop()).await;
    let freshness = "select f.instance, f.last_published_run_id, f.last_published_at = r.published_at,
                            f.as_of = r.listing_started_at, f.age = now() - f.as_of, f.failures_since,
                            f.histories_waiting, f.last_error
                     from swr_report.freshness f
                     left join swr.sync_run r on r.instance_id = f.instance_id and r.run_id = f.last_published_run_id";
    check(&mirror.database, freshness, &[]).await;

    // The name is unknown, and nothing was published.
    let refusal = r#"{"error_code":"SVCSTG.SWR.4030170","error_msg":"no permission"}"#;
    mirror.fail_next(RequestKind::Instance, 403, refusal);
    mirror.fail_next(RequestKind::Namespaces, 403, refusal);
    mirror.try_sync().await.unwrap_err();
    let rows = rows(&mirror.database, freshness).await;
    let [row] = &rows[..] else {
        panic!("one row for the instance: {rows:?}");
    };
    let unknown =
        "11111111-2222-3333-4444-555555555555 | NULL | NULL | NULL | NULL | 1 | 0 | GET http://";
    assert_starts_with(&row, unknown);
    assert_contains(&row, "HTTP 403 SVCSTG.SWR.4030170: no permission");

    // One history does not arrive.
    let answer = json!({"error_code": "SVCSTG.SWR.5000001", "error_msg": "busy"});
    mirror.with_world(|world| world.override_build_history(&digest("d3"), 500, answer));
    mirror.sync().await;
    check(
        &mirror.database,
        freshness,
        &["demo | 2 | t | t | t | 0 | 1 | NULL"],
    )
    .await;

    for error in ["first", "second"] {
        let body = json!({"error_code": "SVCSTG.SWR.4000001", "error_msg": error}).to_string();
        mirror.fail_next(RequestKind::Artifacts, 400, body);
        mirror.try_sync().await.unwrap_err();
    }
    let rows = self::rows(&mirror.database, freshness).await;
    assert!(
        rows[0].starts_with("demo | 2 | t | t | t | 2 | 1 | GET http://"),
        "{rows:?}"
    );
    assert!(rows[0].contains("SVCSTG.SWR.4000001: second"), "{rows:?}");

    mirror.sync().await;
    check(
        &mirror.database,
        freshness,
        &["demo | 5 | t | t | t | 0 | 1 | NULL"],
    )
    .await;
    let report = self::rows(&mirror.database, &query("freshness")).await;
    assert_eq!(report.len(), 1);
}

#[tokio::test]
async fn what_the_catalog_does_not_name_has_the_names_of_the_artifact_list() {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("shop", "api");
    let spec = ArtifactSpec {
        history: history(&[layer("ADD . /", "b1", 1000)]),
        ..artifact("d0", 1100, &["v1"])
    };
    let id = world.add_artifact(repository, spec).unwrap();
    let namespace_id = world.add_namespace("shop");
    world.override_row(
        id,
        json!({
            "id": id,
            "digest": digest("d0"),
            "repository_id": 999,
            "repository_name": "hidden",
            "namespace_id": namespace_id,
            "size": 1100,
            "tags": [{"id": 1, "name": "v1"}],
        }),
    );
    let mirror = Mirror::new(world).await;
    // The same digest in a repository of the catalog: the request for the history names this one.
    mirror.with_world(|world| {
        let spec = ArtifactSpec {
            history: history(&[layer("ADD . /", "b1", 1000)]),
            ..artifact("d0", 1100, &[])
        };
        let named = world.add_repository("base", "api");
        world.add_artifact(named, spec).unwrap();
    });
    mirror.sync().await;
    mirror.with_world(|world| world.delete_artifact(id));
    for view in [
        "artifact",
        "tag",
        "build_history",
        "storage_by_repository",
        "artifact_size",
        "base_image",
    ] {
        let names = format!(
            "select namespace, repository from swr_report.{view} where repository_id = 999"
        );
        check(&mirror.database, &names, &["shop | hidden"]).await;
    }
    mirror.sync().await;
    let names = "select namespace, repository, tag from swr_report.tag_move";
    check(&mirror.database, names, &["shop | hidden | v1"]).await;
}

#[tokio::test]
async fn there_is_a_report_for_each_view_and_function() {
    let database = TestDatabase::create().await;
    let views =
        "select relname::text as name from pg_class where relnamespace = 'swr_report'::regnamespace
                 union select proname from pg_proc where pronamespace = 'swr_report'::regnamespace
                 order by name";
    let mut names: Vec<&str> = REPORTS.iter().map(|report| report.name).collect();
    names.sort_unstable();
    check(&database, views, &names).await;
}

#[tokio::test]
async fn everything_in_our_schemas_has_a_comment() {
    let database = TestDatabase::create().await;
    let without_comment = "
        with ours as (
            select oid, relname, relnamespace::regnamespace::text as schema
            from pg_class
            where relnamespace in ('swr'::regnamespace, 'swr_report'::regnamespace)
              and relkind in ('r', 'p', 'v', 'm', 'f') and relname <> '_sqlx_migrations'
        )
        select 'schema ' || nspname from pg_namespace
        where nspname in ('swr', 'swr_report') and coalesce(obj_description(oid, 'pg_namespace'), '') = ''
        union all
        select 'table or view ' || schema || '.' || relname from ours
        where coalesce(obj_description(oid, 'pg_class'), '') = ''
        union all
        select 'column ' || schema || '.' || relname || '.' || attname
        from ours join pg_attribute on attrelid = ours.oid and attnum > 0 and not attisdropped
        where coalesce(col_description(ours.oid, attnum), '') = ''
        union all
        select 'function ' || oid::regprocedure from pg_proc
        where pronamespace in ('swr'::regnamespace, 'swr_report'::regnamespace)
          and coalesce(obj_description(oid, 'pg_proc'), '') = ''";
    check(&database, without_comment, &[]).await;
    // The search finds at least one.
    let sql = "comment on column swr.artifact.digest is null";
    database.snapshot(sql).await;
    check(&database, without_comment, &["column swr.artifact.digest"]).await;
}
