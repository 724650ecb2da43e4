//! README.md and README.zh-CN.md show the same commands, the Chinese guide shows commands of the English
//! pages, and both runbooks have a row for each exit code.

use std::collections::BTreeSet;

use swr_sync::exit::Exit;

use super::read;

const CHINESE_GUIDE: &str = "docs/guide.zh-CN.md";

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
fn the_chinese_guide_shows_commands_of_the_english_pages() {
    let mut english = commands(&read("docs/getting-started.md"));
    english.extend(commands(&read("docs/operations.md")));
    let chinese = commands(&read(CHINESE_GUIDE));
    assert!(chinese.len() > 10, "{chinese:?}");
    let only: Vec<_> = chinese.difference(&english).cloned().collect();
    assert_eq!(only.join("\n"), "", "only in {CHINESE_GUIDE}");
}

/// The README is short; everything else is in docs/.
#[test]
fn the_readmes_are_short() {
    for file in ["README.md", "README.zh-CN.md"] {
        let lines = read(file).lines().count();
        assert!(lines <= 100, "{file} has {lines} lines");
    }
}

#[test]
fn the_readmes_link_to_each_other() {
    assert!(read("README.md").contains("](README.zh-CN.md)"));
    assert!(read("README.zh-CN.md").contains("](README.md)"));
}

/// The numbers at the start of the rows of a section's tables.
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
fn both_runbooks_have_a_row_for_each_exit_code() {
    let all: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
    let english = codes("docs/operations.md", "What to do for each exit code");
    assert_eq!(english, all);
    assert_eq!(codes(CHINESE_GUIDE, "退出码"), all);
}
