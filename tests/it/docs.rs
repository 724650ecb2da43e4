//! The documentation that is generated and therefore true: the answers in docs/sql.md,
//! docs/cookbook.md and docs/getting-started.md, and all of docs/schema.md; and of the command line
//! docs/configuration.md and docs/swr-sync.schema.json.
//!
//! These tests compare; with `UPDATE_DOCS=1` they write:
//!
//! ```sh
//! UPDATE_DOCS=1 cargo test --test it -- docs::
//! ```
//!
//! The answers come from one emulated registry, the same every time: generated from a fixed seed,
//! changed by hand and by chance at fixed times, and synced by a clock that shows fixed times.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use swr_sync::report::{self, FilterValues};

use crate::support::database::TestDatabase;

use page::{Page, Piece};

mod catalog;
mod configuration;
mod links;
mod operations;
mod page;
mod readme;
mod registry;
mod schema;

const UPDATE: &str = "UPDATE_DOCS=1 cargo test --test it -- docs::";

/// The pages whose questions are asked of the registry.
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

/// Writes the file if that is asked for; else says where it differs, if it does.
fn settle(file: &str, expected: &str) -> Option<String> {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        // Another test may be reading it.
        let unfinished = path_of(&format!("{file}.new"));
        std::fs::write(&unfinished, expected).unwrap();
        std::fs::rename(&unfinished, path_of(file)).unwrap();
        return None;
    }
    let found = std::fs::read_to_string(path_of(file)).unwrap_or_default();
    if found == expected {
        return None;
    }
    let common = found.lines().zip(expected.lines());
    let line = common
        .take_while(|(found, expected)| found == expected)
        .count();
    let show = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
    Some(format!(
        "{file}, line {}\n  is        {}\n  should be {}",
        line + 1,
        show(&found),
        show(expected)
    ))
}

fn check_settled(stale: &[String]) {
    assert!(
        stale.is_empty(),
        "the documentation is out of date; to update it: {UPDATE}\n{}",
        stale.join("\n")
    );
}

#[tokio::test]
async fn answers_in_the_documentation_are_what_the_queries_give() {
    let mirror = registry::synced().await;
    registry::sync_second(&mirror).await;
    let mut stale = Vec::new();
    for file in PAGES {
        let mut page = Page::parse(file, &read(file));
        for piece in page.pieces() {
            if let Piece::Answer(sql) = piece {
                assert!(
                    !sql.contains("swr."),
                    "{file}: the role for reports may not ask\n{sql}"
                );
            }
        }
        page.answer(&mirror.database).await;
        stale.extend(settle(file, &page.text()));
    }
    check_settled(&stale);
}

#[tokio::test]
async fn the_schema_page_is_what_the_catalog_says() {
    let database = TestDatabase::create().await;
    let page = catalog::schema_page(&database).await;
    let stale: Vec<String> = settle("docs/schema.md", &page).into_iter().collect();
    check_settled(&stale);
}

#[test]
fn the_configuration_page_is_what_the_command_line_says() {
    let page = configuration::page();
    let stale: Vec<String> = settle("docs/configuration.md", &page).into_iter().collect();
    check_settled(&stale);
}

#[tokio::test]
async fn every_report_has_a_section_in_the_documentation() {
    let database = TestDatabase::create().await;
    let page = Page::parse("docs/sql.md", &read("docs/sql.md"));
    let sections: BTreeSet<&str> = page.sections().collect();
    let reports = catalog::reports(&database).await;

    let missing: Vec<String> = reports
        .iter()
        .filter(|name| !sections.contains(name.as_str()))
        .map(|name| {
            let report = report::find(name);
            let sql = report.and_then(|report| report.query(&FilterValues::default(), 5).ok());
            let sql = sql.unwrap_or_else(|| format!("select … from swr_report.{name}(…)"));
            format!("\n## {name}\n\n<!-- comment -->\n\n```sql\n{sql};\n```\n\n<!-- answer -->\n")
        })
        .collect();
    assert!(
        missing.is_empty(),
        "docs/sql.md has no section for a report; add it like this and run {UPDATE}\n{}",
        missing.concat()
    );
    let unknown: Vec<&&str> = sections
        .iter()
        .filter(|name| !reports.contains(**name))
        .collect();
    assert!(
        unknown.is_empty(),
        "docs/sql.md has sections for what is no report: {unknown:?}"
    );

    let mut section = "";
    let mut answered = BTreeSet::new();
    for piece in page.pieces() {
        match piece {
            Piece::Heading(name) => section = name,
            Piece::Answer(sql) if sql.contains(&format!("swr_report.{section}")) => {
                answered.insert(section);
            }
            _ => {}
        }
    }
    let unanswered: Vec<_> = sections.difference(&answered).collect();
    assert!(
        unanswered.is_empty(),
        "docs/sql.md has sections without a query of their report and its answer: {unanswered:?}"
    );
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
    // What looks for them finds one.
    let sql = "comment on view swr_report.tag is 'One row per tag.'";
    database.snapshot(sql).await;
    assert_eq!(database.snapshot(without_question).await, "tag");
}

/// The metrics that `tests/it/outputs.rs` finds in a file of the program.
const METRICS: &str = include_str!("../data/outputs/swr_sync.prom");

/// Name and help of each metric, in their order.
fn metrics() -> Vec<(&'static str, &'static str)> {
    let helps = METRICS
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "));
    helps.map(|help| help.split_once(' ').unwrap()).collect()
}

#[test]
fn the_table_of_metrics_is_what_a_metrics_file_says() {
    const START: &str = "<!-- metrics -->\n";
    const END: &str = "<!-- /metrics -->\n";
    let mut table = "| Metric | Further labels | |\n|---|---|---|\n".to_owned();
    for (name, help) in metrics() {
        let sample = METRICS
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")));
        let labels = sample.unwrap().split_once("TARGET").unwrap().1;
        let labels = labels.split('}').next().unwrap().split(',').skip(1);
        let labels: Vec<String> = labels
            .map(|label| format!("`{}`", label.split('=').next().unwrap()))
            .collect();
        table.push_str(&format!("| `{name}` | {} | {help} |\n", labels.join(", ")));
    }
    let page = read("docs/monitoring.md");
    let (before, rest) = page.split_once(START).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let expected = format!("{before}{START}\n{table}\n{END}{after}");
    let stale: Vec<String> = settle("docs/monitoring.md", &expected)
        .into_iter()
        .collect();
    check_settled(&stale);
}

#[test]
fn alerts_are_about_metrics_that_there_are_and_are_described() {
    let rules = read("deploy/prometheus/alerts.yml");
    let page = read("docs/monitoring.md");
    let known: BTreeSet<&str> = metrics().into_iter().map(|(name, _)| name).collect();
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
