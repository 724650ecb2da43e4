//! README.md and README.zh-CN.md show the same commands and exit codes, and docs/operations.md has
//! something to do for each.

use std::collections::BTreeSet;

use swr_sync::exit::Exit;

use super::read;
use crate::support::program::Program;

/// The lines of all blocks in these languages, without comments and alignment.
fn commands(page: &str) -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    let mut is_command = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) => is_command = ["sh", "toml", "sql"].contains(&language),
            None if is_command => {
                let command = match line.split_once(" #") {
                    Some((command, _)) => command,
                    None if line.starts_with('#') => "",
                    None => line,
                };
                let words: Vec<&str> = command.split_whitespace().collect();
                if !words.is_empty() {
                    commands.insert(words.join(" "));
                }
            }
            None => {}
        }
    }
    commands
}

#[test]
fn both_readmes_show_the_same_commands() {
    let english = commands(&read("README.md"));
    let chinese = commands(&read("README.zh-CN.md"));
    assert!(english.contains("cargo run --release -- demo"));
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        let only: Vec<_> = one.difference(other).cloned().collect();
        only.join("\n")
    };
    assert_eq!(only(&english, &chinese), "", "only in README.md");
    assert_eq!(only(&chinese, &english), "", "only in README.zh-CN.md");
}

#[test]
fn the_readmes_link_to_each_other() {
    assert!(read("README.md").contains("](README.zh-CN.md)"));
    assert!(read("README.zh-CN.md").contains("](README.md)"));
}

/// The numbers that the rows of a section's tables begin with.
fn codes(file: &str, heading: &str) -> Vec<u8> {
    let page = read(file);
    let section = page
        .split_once(&format!("\n## {heading}\n"))
        .and_then(|(_, rest)| rest.split("\n## ").next().map(str::to_owned));
    let section = section.unwrap_or_else(|| panic!("{file} has no section {heading}"));
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split_once(" |").map(|(cell, _)| cell));
    cells
        .flat_map(|cell| cell.split(", "))
        .filter_map(|code| code.parse().ok())
        .collect()
}

#[test]
fn exit_codes_stand_wherever_they_are_explained() {
    let all: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
    assert_eq!(codes("README.md", "Exit codes"), all);
    assert_eq!(codes("README.zh-CN.md", "退出码"), all);
    let runbook = "What to do for each exit code";
    assert_eq!(codes("docs/operations.md", runbook), all);

    let readme = read("README.md");
    for exit in Exit::ALL {
        let retry = match exit.retry().as_str() {
            "" => String::new(),
            word => format!(" {word}"),
        };
        let row = format!("| {} | {} |{retry} |\n", exit.code(), exit.meaning());
        assert!(readme.contains(&row), "README.md lacks {row}");
    }
}

#[tokio::test]
async fn the_configuration_file_of_the_readme_is_in_order() {
    let readme = read("README.md");
    let file = readme
        .split_once("```toml\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swr-sync.toml");
    std::fs::write(&path, file.unwrap().0).unwrap();
    let path = path.to_str().unwrap();
    let checked = Program::new(&["config", "check", "--config", path])
        .env("HUAWEICLOUD_SDK_AK", "EXAMPLE")
        .env("HUAWEICLOUD_SDK_SK", "example")
        .env("DATABASE_URL", "postgresql://host/name")
        .run()
        .await
        .code(0);
    assert!(
        checked.stdout.contains("test: instance "),
        "{}",
        checked.stdout
    );
}
