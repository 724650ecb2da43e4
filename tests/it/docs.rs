//! The documentation that is generated and therefore true: the answers in docs/sql.md,
//! docs/cookbook.md and README.md, and all of docs/schema.md; and of the command line
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
#[cfg(feature = "embedded-db")]
mod configuration;
mod page;
mod registry;
mod schema;

const UPDATE: &str = "UPDATE_DOCS=1 cargo test --test it -- docs::";

/// The pages whose questions are asked of the registry.
const PAGES: [&str; 3] = ["README.md", "docs/sql.md", "docs/cookbook.md"];

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

// Without a feature, commands are missing from it.
#[cfg(feature = "embedded-db")]
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
