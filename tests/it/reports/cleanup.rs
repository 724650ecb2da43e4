//! Candidates for a clean-up.

use super::*;

#[tokio::test]
async fn untagged_artifact_shows_what_no_tag_names() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = ["demo | shop | api | d3 | IMAGE | 1134 | 4 | f | 2026-03-01 15:00:00+00"];
    check_report(&mirror, "untagged_artifact", &expected).await;

    mirror.with_world(|world| {
        let api = world.repository("shop", "api").unwrap().id;
        let [d2, d3, chart] = world.artifacts_of(api)[..] else {
            panic!("there are three artifacts");
        };
        let (d2, d3, chart) = (d2.id, d3.id, chart.id);
        assert!(world.pull(chart, at(30)));
        assert!(world.remove_tag(api, "0.1.0"));
        assert!(world.remove_tag(api, "v1"));
        assert!(world.move_tag(api, "stable", d3));
        assert!(world.artifact(d2).unwrap().tags.is_empty());
    });
    // A tag is removed when it is missing from two listings in a row.
    mirror.sync().await;
    mirror.sync().await;
    let expected = [
        "demo | shop | api | d2 | IMAGE | 1130 | 0 | f | 2026-03-01 14:00:00+00",
        "demo | shop | api | c0 | CHART | 77 | NULL | f | 2026-03-02 18:00:00+00",
    ];
    check_report(&mirror, "untagged_artifact", &expected).await;
}

#[tokio::test]
async fn duplicate_artifact_shows_digests_in_several_repositories() {
    let mirror = Mirror::new(shop()).await;
    mirror.sync().await;
    let expected = ["demo | d0 | IMAGE | 2 | 1100 | 1100 | {base/os,shop/mirror}"];
    check_report(&mirror, "duplicate_artifact", &expected).await;
    let times =
        "select first_pushed_at, last_pushed_at, last_pulled_at from swr_report.duplicate_artifact";
    let expected = ["2026-03-01 12:00:00+00 | 2026-03-01 17:00:00+00 | 2026-03-01 21:00:00+00"];
    check(&mirror.database, times, &expected).await;

    mirror.with_world(|world| {
        let gone = world.repository("base", "os").unwrap().id;
        world.delete_repository(gone).unwrap();
    });
    mirror.sync().await;
    check_report(&mirror, "duplicate_artifact", &[]).await;
}
