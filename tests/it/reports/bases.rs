//! The base of each image.

use super::*;
use crate::support::cases;

const BASES: &str =
    "select namespace, repository, digest, base_namespace, base_repository, base_digest, base_tags,
                            base_candidates, base_layers, base_layer_bytes, layers, layer_bytes
                     from swr_report.base_image order by artifact_id";

const UNKNOWN: &str =
    "select layers, layer_bytes, artifacts, repositories, example_namespace, example_repository,
                              example_digest
                       from swr_report.unknown_base order by example_digest";

async fn check_built_on(mirror: &Mirror, arguments: &str, expected: &[&str]) {
    let sql = format!(
        "select namespace, repository, digest, tags, is_direct from swr_report.built_on({arguments}) order by artifact_id"
    );
    check(&mirror.database, &sql, expected).await;
}

#[tokio::test]
async fn base_image_is_the_artifact_with_the_longest_beginning() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    // The os is in two repositories. The report shows the one that was pushed first.
    let expected = [
        "base | os | d0 | NULL | NULL | NULL | NULL | NULL | NULL | NULL | 1 | 1000",
        "shop | web/front | d1 | base | os | d0 | {12.1,latest} | 2 | 1 | 1000 | 2 | 1200",
        "shop | api | d2 | base | os | d0 | {12.1,latest} | 2 | 1 | 1000 | 2 | 1030",
        "shop | api | d3 | shop | api | d2 | {stable,v1} | 1 | 2 | 1030 | 3 | 1034",
        "shop | mirror | d0 | NULL | NULL | NULL | NULL | NULL | NULL | NULL | 1 | 1000",
    ];
    check(&mirror.database, BASES, &expected).await;
    let report = rows(&mirror.database, &query("base_image")).await;
    let row = "demo | shop | api | d3 | {} | shop | api | {stable,v1} | d2 | 2 | 3";
    assert!(report.iter().any(|known| known == row), "{report:?}");
    // The os itself shares nothing with images that are not built on it.
    check(&mirror.database, UNKNOWN, &[]).await;

    // A tagged one has precedence over the older one.
    mirror.with_world(|world| {
        let os = world.repository("base", "os").unwrap().id;
        assert!(world.remove_tag(os, "latest"));
        assert!(world.remove_tag(os, "12.1"));
    });
    // A tag is removed when it is missing from two listings in a row.
    mirror.sync().await;
    mirror.sync().await;
    let of_front = format!("select * from ({BASES}) x where digest like '%d1'");
    let expected =
        ["shop | web/front | d1 | shop | mirror | d0 | {12.1} | 2 | 1 | 1000 | 2 | 1200"];
    check(&mirror.database, &of_front, &expected).await;
}

#[tokio::test]
async fn a_base_that_goes_or_comes_changes_what_is_built_on_it() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let of_d3 = "select base_digest from swr_report.base_image where digest like '%d3'";
    check(&mirror.database, of_d3, &["d2"]).await;
    mirror.with_world(|world| {
        let api = world.repository("shop", "api").unwrap().id;
        let older = world.artifacts_of(api)[0].id;
        world.delete_artifact(older).unwrap();
    });
    mirror.sync().await;
    check(&mirror.database, of_d3, &["d0"]).await;

    mirror.with_world(|world| {
        let gone: Vec<i64> = world
            .artifacts()
            .filter(|artifact| artifact.digest().to_string() == digest("d0"))
            .map(|artifact| artifact.id)
            .collect();
        for id in gone {
            world.delete_artifact(id).unwrap();
        }
    });
    mirror.sync().await;
    check(&mirror.database, of_d3, &["NULL"]).await;

    // A different image with another command, but the same layers.
    mirror.with_world(|world| {
        let repository = world.add_repository("base", "slim");
        world.add_artifact(
            repository,
            ArtifactSpec {
                history: history(&[
                    layer("COPY / /", "b1", 1000),
                    layer("COPY api /bin/", "b3", 30),
                ]),
                ..artifact("d4", 1200, &[])
            },
        );
    });
    mirror.sync().await;
    check(&mirror.database, of_d3, &["d4"]).await;
}

#[tokio::test]
async fn images_without_a_base_in_the_registry_are_grouped_by_what_they_share() {
    let mut world = shop();
    let others = world.add_repository("shop", "other");
    for (digits, steps) in cases! {
        // Another base, of two images in one repository.
        "d4" => vec![layer("FROM elsewhere", "a1", 500), layer("RUN a", "a2", 50)];
        "d5" => vec![layer("FROM elsewhere", "a1", 500), layer("RUN b", "a3", 5)];
        // A layer that no other image has.
        "d6" => vec![layer("FROM scratch", "a4", 7)];
    } {
        world.add_artifact(
            others,
            ArtifactSpec {
                history: history(&steps),
                ..artifact(digits, 600, &[])
            },
        );
    }
    for namespace in ["base", "shop"] {
        let os = if namespace == "base" { "os" } else { "mirror" };
        let gone = world.repository(namespace, os).unwrap().id;
        world.delete_repository(gone).unwrap();
    }
    let mirror = Mirror::new(world).await;
    mirror.sync().await;
    // d3 is built on d2, so their common layers are not the base of d2.
    let expected = [
        "1 | 1000 | 2 | 2 | shop | web/front | d1",
        "1 | 500 | 2 | 1 | shop | other | d4",
    ];
    check(&mirror.database, UNKNOWN, &expected).await;
    check_report(
        &mirror,
        "unknown_base",
        &[
            "demo | 1 | 1000 | 2 | 2 | shop | web/front | d1 | 2026-03-01 14:00:00+00",
            "demo | 1 | 500 | 2 | 1 | shop | other | d4 | 2026-03-01 12:00:00+00",
        ],
    )
    .await;
}

#[tokio::test]
async fn built_on_lists_all_that_must_be_rebuilt() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let of = |digits: &str| format!("'{}'", digest(digits));
    let expected = [
        "shop | web/front | d1 | {v1} | t",
        "shop | api | d2 | {stable,v1} | t",
        // Through d2.
        "shop | api | d3 | {} | f",
    ];
    check_built_on(&mirror, &of("d0"), &expected).await;
    check_built_on(&mirror, &format!("{}, 'demo'", of("d0")), &expected).await;
    check_built_on(&mirror, &format!("{}, 'other'", of("d0")), &[]).await;
    check_built_on(&mirror, &of("d2"), &["shop | api | d3 | {} | t"]).await;
    check_built_on(&mirror, &of("d3"), &[]).await;
    check_built_on(&mirror, &of("c0"), &[]).await;

    // A base that was removed from the registry is still the base of these images.
    mirror.with_world(|world| {
        for (namespace, name) in [("base", "os"), ("shop", "mirror")] {
            let gone = world.repository(namespace, name).unwrap().id;
            world.delete_repository(gone).unwrap();
        }
    });
    mirror.sync().await;
    let expected = [
        "shop | web/front | d1 | {v1} | t",
        "shop | api | d2 | {stable,v1} | t",
        "shop | api | d3 | {} | f",
    ];
    check_built_on(&mirror, &of("d0"), &expected).await;
}
