//! Checks the documents: links have a target, commands and SQL work, and pages are consistent.
//! `cargo xtask docs` writes their generated parts, and CI checks that these are up to date.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use swr_sync::database::Database;

use crate::support::database::TestDatabase;

mod links;
mod operations;
mod readme;
mod registry;
mod schema;

/// The pages that contain queries with their answers.
const PAGES: [&str; 3] = ["docs/getting-started.md", "docs/sql.md", "docs/cookbook.md"];

fn path_of(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    match std::fs::read_to_string(path_of(file)) {
        Ok(text) => text,
        Err(error) => panic!("cannot read {file}: {error}"),
    }
}

/// The SQL blocks of a page that are followed by an answer.
fn queries(page: &str) -> Vec<&str> {
    let blocks = page.split("```sql\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split_once("\n```\n"));
    blocks
        .filter(|(_, rest)| rest.trim_start().starts_with("<!-- answer -->"))
        .map(|(sql, _)| sql)
        .collect()
}

#[tokio::test]
async fn every_documented_query_has_an_answer() {
    let mirror = registry::synced().await;
    registry::sync_second(&mirror).await;
    let database = Database::from_url(mirror.database.url()).unwrap();
    let mut count = 0;
    for file in PAGES {
        for sql in queries(&read(file)) {
            let mut reader = database.connect_to_read().await.unwrap();
            let rows = reader.snapshot().await.unwrap().count(sql).await;
            assert!(
                rows.as_ref().is_ok_and(|rows| *rows > 0),
                "{file}: {rows:?}\n{sql}"
            );
            count += 1;
        }
    }
    assert!(count > 30, "only {count} queries were seen");
}

#[tokio::test]
async fn the_comment_of_every_report_begins_with_its_question() {
    let database = TestDatabase::create().await;
    let without_question = "
        select relname from pg_class
        where relnamespace = 'swr_report'::regnamespace and relkind in ('v', 'm')
          and coalesce(obj_description(oid, 'pg_class') !~ '^[A-Z][^.?]*[?]', true)
        union all
        select proname from pg_proc
        where pronamespace = 'swr_report'::regnamespace
          and coalesce(obj_description(oid, 'pg_proc') !~ '^[A-Z][^.?]*[?]', true)";
    assert_eq!(database.snapshot(without_question).await, "");
    // The search finds at least one.
    let sql = "comment on view swr_report.tag is 'One row per tag.'";
    database.snapshot(sql).await;
    assert_eq!(database.snapshot(without_question).await, "tag");
}

/// The metrics that `tests/it/outputs.rs` finds in a file of the program.
const METRICS: &str = include_str!("../data/outputs/swr_sync.prom");

/// The name of each metric.
fn metrics() -> BTreeSet<&'static str> {
    let helps = METRICS
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "));
    helps.map(|help| help.split_once(' ').unwrap().0).collect()
}

#[test]
fn alerts_are_about_metrics_that_there_are_and_are_described() {
    let rules = read("deploy/prometheus/alerts.yml");
    let page = read("docs/monitoring.md");
    let known = metrics();
    let names = regex::Regex::new("swr_sync_[a-z_]+").unwrap();
    let expressions: Vec<&str> = rules
        .lines()
        .filter(|line| line.contains(" expr: "))
        .collect();
    assert!(expressions.len() > 5, "{expressions:?}");
    for line in expressions {
        let used: Vec<&str> = names.find_iter(line).map(|name| name.as_str()).collect();
        assert!(
            !used.is_empty() && used.iter().all(|name| known.contains(name)),
            "{line}"
        );
    }
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in names {
        assert!(
            page.contains(&format!("\n| `{name}` |")),
            "docs/monitoring.md lacks {name}"
        );
    }
}
