//! Writes the generated documents; `cargo xtask docs` runs it.
//!
//! The answers in docs/sql.md, docs/cookbook.md and docs/getting-started.md come from one emulated
//! registry that is the same every time. docs/schema.md is made of PostgreSQL's catalog,
//! docs/configuration.md and docs/swr-sync.schema.json of the command line, and the table in
//! docs/monitoring.md of a metrics file. With `--check`, nothing is written, and a document that is out
//! of date is an error.
//!
//! This is an example of the main package rather than part of `xtask`, so that it uses what was compiled
//! for the tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the documents contain statements that are not known at compile time"
)]

mod catalog;
mod configuration;
mod page;
mod source;
mod world;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use swr_sync::report::{self, FilterValues};

use page::{Page, Piece};
use source::Source;

/// The pages that contain queries with their answers.
const PAGES: [&str; 3] = ["docs/getting-started.md", "docs/sql.md", "docs/cookbook.md"];

#[tokio::main]
async fn main() -> ExitCode {
    let is_check = std::env::args().any(|argument| argument == "--check");
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL must name an empty database");
    let source = Source::synced(url).await;

    check_sections(&source).await;
    let mut documents = Vec::new();
    for file in PAGES {
        documents.push((file, answered(file, &source).await));
    }
    documents.push(("docs/schema.md", catalog::schema_page(&source).await));
    documents.push(("docs/configuration.md", configuration::page()));
    documents.push(("docs/swr-sync.schema.json", printed_schema()));
    documents.push(("docs/monitoring.md", metrics_page()));

    let mut exit = ExitCode::SUCCESS;
    for (file, expected) in documents {
        let found = std::fs::read_to_string(path_of(file)).unwrap_or_default();
        if found == expected {
            continue;
        }
        if is_check {
            eprintln!("error: {}", difference(file, &found, &expected));
            exit = ExitCode::FAILURE;
        } else {
            std::fs::write(path_of(file), expected).unwrap();
            eprintln!("written: {file}");
        }
    }
    if exit != ExitCode::SUCCESS {
        eprintln!("error: documents are out of date; run `cargo xtask docs`");
    }
    exit
}

fn path_of(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    match std::fs::read_to_string(path_of(file)) {
        Ok(text) => text,
        Err(error) => panic!("cannot read {file}: {error}"),
    }
}

fn difference(file: &str, found: &str, expected: &str) -> String {
    let common = found.lines().zip(expected.lines());
    let line = common
        .take_while(|(found, expected)| found == expected)
        .count();
    let show = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
    format!(
        "{file}, line {}\n  is        {}\n  should be {}",
        line + 1,
        show(found),
        show(expected)
    )
}

async fn answered(file: &str, source: &Source) -> String {
    let mut page = Page::parse(file, &read(file));
    for piece in page.pieces() {
        if let Piece::Answer(sql) = piece {
            let is_allowed = !sql.contains("swr.");
            assert!(is_allowed, "{file}: the role for reports cannot run\n{sql}");
        }
    }
    page.answer(source).await;
    page.text()
}

/// Each report has a section in docs/sql.md, with a query of the report and its answer.
async fn check_sections(source: &Source) {
    let page = Page::parse("docs/sql.md", &read("docs/sql.md"));
    let sections: BTreeSet<&str> = page.sections().collect();
    let reports = catalog::reports(source).await;

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
    let missing = missing.concat();
    assert!(
        missing.is_empty(),
        "docs/sql.md has no section for a report; add it like this and run this again\n{missing}"
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

/// What the program in the same target folder prints.
fn printed_schema() -> String {
    let own = std::env::current_exe().unwrap();
    let target = own.parent().and_then(Path::parent).unwrap();
    let mut program = Command::new(target.join("swr-sync"));
    let output = program.args(["config", "schema"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// docs/monitoring.md with a table of the metrics in a file that `tests/it/outputs.rs` compares with what
/// the program writes.
fn metrics_page() -> String {
    const METRICS: &str = include_str!("../../tests/data/outputs/swr_sync.prom");
    const START: &str = "<!-- metrics -->\n";
    const END: &str = "<!-- /metrics -->\n";
    let mut table = "| Metric | Further labels | |\n|---|---|---|\n".to_owned();
    let helps = METRICS
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "));
    for help in helps {
        let (name, help) = help.split_once(' ').unwrap();
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
    format!("{before}{START}\n{table}\n{END}{after}")
}
