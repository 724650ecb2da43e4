//! `report` with filters.

use super::*;
use crate::support::{assert_contains, assert_ends_with, cases};

/// Runs a report and returns its rows without the header, as CSV fields.
async fn rows(database: &TestDatabase, arguments: &[&str]) -> Vec<Vec<String>> {
    let program = Program::new(&["report"]).args(arguments);
    let finished = program
        .args(&["--format", "csv", "--limit", "0"])
        .database(database)
        .code(0)
        .await;
    assert_eq!(finished.stderr, "");
    csv_rows(&finished.stdout).split_off(1)
}

/// One column of a report's rows.
async fn column(database: &TestDatabase, arguments: &[&str], index: usize) -> Vec<String> {
    let rows = rows(database, arguments).await;
    rows.into_iter().map(|row| row[index].clone()).collect()
}

#[tokio::test]
async fn filters_narrow_a_report() {
    let database = synced_database().await;
    let repositories = async |arguments: &[&str]| {
        let all = [&["storage_by_repository"], arguments].concat();
        let mut names = column(&database, &all, 2).await;
        names.sort();
        names
    };
    assert_eq!(repositories(&[]).await, ["app/api", "o'mirror", "os"]);
    assert_eq!(
        repositories(&["--namespace", "team"]).await,
        ["app/api", "o'mirror"]
    );
    // A quote has no special meaning.
    assert_eq!(
        repositories(&["--repository", "o'mirror"]).await,
        ["o'mirror"]
    );
    let attack = "x' or 'a' = 'a";
    assert_eq!(repositories(&["--instance", "demo"]).await.len(), 3);
    // The usual notation; the name itself has a slash, too.
    for path in ["team/app/api", "app/api"] {
        assert_eq!(repositories(&["--repository", path]).await, ["app/api"]);
    }
    for (filter, complaint) in cases! {
        ["--repository", attack] => format!("there is no repository `{attack}`");
        ["--repository", "team/os"] => "there is no repository `team/os`".to_owned();
        ["--repository", "app/apj"] => "did you mean `app/api`?".to_owned();
        ["--instance", "dmeo"] => "did you mean `demo`?".to_owned();
        ["--namespace", "taem"] => "did you mean `team`?".to_owned();
        ["--digest", "d0d0d0"] => "Give at least 7 hexadecimal digits".to_owned();
        ["--digest", "0123456789"] => "no artifact has or had the digest \"0123456789\"".to_owned();
    } {
        let program = Program::new(&["report", "artifact"]).args(&filter);
        program
            .database(&database)
            .code(2)
            .await
            .says(&[&complaint]);
    }
    let sql = Program::new(&["report", "storage_by_repository", "--sql"]);
    let sql = sql.args(&["--repository", "team/app/api"]).code(0).await;
    let by_hand = Program::new(&["query", &sql.stdout, "--format", "csv"]);
    let by_hand = by_hand.database(&database).code(0).await.stdout;
    assert_contains(&by_hand, ",team,app/api,");
    let both = ["--namespace", "base", "--repository", "app/api"];
    let program = Program::new(&["report", "artifact"]).args(&both);
    program
        .database(&database)
        .code(2)
        .await
        .says(&["there is no repository `app/api`", "there are: base/os, os"]);
}

#[tokio::test]
async fn a_digest_is_a_filter_or_what_a_function_takes() {
    let database = synced_database().await;
    let (base, child) = (digest_of("d0"), digest_of("d1"));
    for beginning in [&base[..], "sha256:d0d0d0d0", "D0D0D0D0D0D0"] {
        let tags = column(&database, &["tag", "--digest", beginning], 2).await;
        assert_eq!(tags, ["os", "o'mirror"], "{beginning}");
    }
    let query = |sql: &str| Program::new(&["query", sql]).database(&database);
    let built = query("select 'digest ' || digest as found from built_on('d0d0d0d0')");
    assert_contains(&built.code(0).await.stdout, "digest sha256:d1d1");
    let freed = query("select artifacts from reclaimable('{sha256:d0d0d0d0, d1d1d1d1d1}')");
    assert_contains(&freed.code(0).await.stdout, "│         3 │");
    for function in ["built_on('0123456')", "reclaimable('{0123456}')"] {
        query(&format!("select * from {function}"))
            .code(2)
            .await
            .says(&["no artifact has or had the digest \"0123456\""]);
    }
    let built = column(&database, &["built_on", "--digest", &base], 4).await;
    assert_eq!(built, [child.as_str()]);
    let elsewhere = ["built_on", "--digest", &base, "--namespace", "base"];
    assert_eq!(rows(&database, &elsewhere).await.len(), 0);
    let two = ["reclaimable", "--digest", &base, "--digest", &child];
    let freed = rows(&database, &two).await;
    // Three artifacts, and both layers of 1000 bytes.
    assert_eq!(freed, [["demo", "3", "3702", "2", "2000", "0"]]);
}

#[tokio::test]
async fn times_are_ages_and_points_in_time() {
    let database = synced_database().await;
    let tags = async |at: &[&str]| rows(&database, &[&["tag_at"], at].concat()).await.len();
    let now = tags(&[]).await;
    assert!(now > 2);
    assert_eq!(tags(&["--at", "2999-01-01"]).await, now);
    assert_eq!(tags(&["--at", "2001-01-01 12:00"]).await, 0);
    let stale = async |age: &str| {
        let arguments = ["stale_artifact", "--older-than", age];
        rows(&database, &arguments).await.len()
    };
    assert_eq!(stale("1s").await, 7);
    assert_eq!(stale("36500d").await, 0);
    let untagged = ["untagged_artifact", "--older-than", "36500d"];
    assert_eq!(rows(&database, &untagged).await.len(), 0);
    assert_eq!(rows(&database, &untagged[..1]).await.len(), 1);
}

#[tokio::test]
async fn the_query_has_the_filters_in_it() {
    let printed = Program::new(&["report", "stale_artifact", "--sql"])
        .args(&["--older-than", "30d", "--repository", "o'mirror\\"])
        .args(&["--instance", "demo", "--limit", "3"])
        .code(0)
        .await;
    let expected = r"
from swr_report.stale_artifact(interval '30 days')
where instance_id in (select instance_id from swr.instance where 'demo' in (swr_instance_id, name)) and repository = E'o''mirror\\'
order by size_bytes desc nulls last, artifact_id
limit 3;
";
    assert_ends_with(&printed.stdout, expected);
    let printed = Program::new(&[
        "report",
        "tag_at",
        "--sql",
        "--at",
        "2026-03-01T13:00:00+01:00",
    ])
    .code(0)
    .await;
    let from = "from swr_report.tag_at(timestamptz '2026-03-01T12:00:00Z')\n";
    assert_contains(&printed.stdout, from);
}

#[tokio::test]
async fn a_filter_the_report_has_not_is_answered_with_those_it_has() {
    let wrong = ["report", "layer_usage", "--namespace", "team", "--sql"];
    let finished = Program::new(&wrong).fails(2, &[]).await;
    let expected = "error: the report `layer_usage` does not support --namespace
  hint: the report `layer_usage` supports --instance, --limit
";
    assert_eq!(finished.error(), expected);
    let finished = Program::new(&["report", "built_on"]).fails(2, &[]).await;
    let expected = "error: the report `built_on` needs --digest
  hint: the report `built_on` supports --instance, --namespace, --repository, --digest, --limit
";
    assert_eq!(finished.error(), expected);
    for (option, value) in [("--at", "yesterday"), ("--older-than", "old")] {
        let wrong = ["report", "tag_at", option, value];
        Program::new(&wrong).fails(2, &[option, value]).await;
    }
}
