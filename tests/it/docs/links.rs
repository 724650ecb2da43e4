//! Links from one Markdown file to another, and to their headings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// All Markdown files of the project, by their paths in it.
fn markdown_files() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_str().unwrap();
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.') && !["target", "node_modules"].contains(&name) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).unwrap();
                files.insert(path.strip_prefix(root).unwrap().to_owned(), text);
            }
        }
    }
    files
}

/// The text without blocks of code and comments.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors that GitHub generates for headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).lines() {
        let Some((marks, heading)) = line.split_once(' ') else {
            continue;
        };
        if marks.is_empty() || marks.chars().any(|character| character != '#') {
            continue;
        }
        let kept = heading
            .trim()
            .chars()
            .filter_map(|character| match character {
                ' ' => Some('-'),
                '-' | '_' => Some(character),
                _ => character.is_alphanumeric().then_some(character),
            });
        let anchor = kept.collect::<String>().to_lowercase();
        let mut unique = anchor.clone();
        let mut number = 0;
        while !anchors.insert(unique) {
            number += 1;
            unique = format!("{anchor}-{number}");
        }
    }
    anchors
}

/// The targets of the links in a text, without inline code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let prose = prose(text);
    let outside: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("`");
    for part in outside.split("](").skip(1) {
        if let Some((target, _)) = part.split_once(')') {
            links.push(target.to_owned());
        }
    }
    links
}

/// A path with `..` resolved.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(plain.pop(), "{} leaves the project", path.display()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// The error if a link has no target.
fn broken(files: &BTreeMap<PathBuf, String>, file: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => file.to_owned(),
        path => plain(&file.parent().unwrap().join(path)),
    };
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join(&target).exists() {
        return Some(format!("{}: {link} does not exist", file.display()));
    }
    let text = files.get(&target);
    let is_known = anchor.is_empty() || text.is_some_and(|text| anchors(text).contains(anchor));
    (!is_known).then(|| format!("{}: {link} is no heading", file.display()))
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let files = markdown_files();
    let links: Vec<(&PathBuf, String)> = files
        .iter()
        .flat_map(|(file, text)| links(text).into_iter().map(move |link| (file, link)))
        .collect();
    assert!(links.len() > 50, "only {} links were seen", links.len());
    let broken: Vec<String> = links
        .iter()
        .filter_map(|(file, link)| broken(&files, file, link))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_broken_link_is_seen() {
    let text = "# One `two`-three\n\n## One `two`-three\n[a](#one-two-three-1) [b](#one) [c](../x.md)\n`[d](e)`\n```\n[f](g)\n```\n";
    // A file that exists, with other words.
    let page = Path::new("docs/sql.md");
    let files = BTreeMap::from([(page.to_owned(), text.to_owned())]);
    let found = links(text);
    assert_eq!(found, ["#one-two-three-1", "#one", "../x.md"]);
    let broken = found
        .iter()
        .map(|link| broken(&files, page, link).is_some());
    assert_eq!(broken.collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(
        anchors(text),
        BTreeSet::from(["one-two-three".to_owned(), "one-two-three-1".to_owned()])
    );
}
