//! Which module may know of which, read from the paths in the sources.

use std::fmt;
use std::path::Path;

/// A source file below `src`, and the paths it names: those of its `use` items and those in its
/// code, without comments and literals.
struct Source {
    name: String,
    paths: Vec<Vec<String>>,
}

impl Source {
    fn new(name: &str, text: &str) -> Source {
        Source {
            name: name.to_owned(),
            paths: paths(&tokens(text)),
        }
    }

    /// Whether it is this file, or in this module's folder.
    fn is_of(&self, module: &str) -> bool {
        self.name == format!("{module}.rs") || self.name.starts_with(&format!("{module}/"))
    }

    /// The paths into a crate or a module at the top of ours, from its name on.
    fn paths_into(&self, root: &str) -> impl Iterator<Item = &[String]> {
        self.paths.iter().filter_map(move |path| {
            let relative = path.iter().take_while(|part| is_relative(part)).count();
            let path = &path[relative..];
            path.first()
                .is_some_and(|first| first == root)
                .then_some(path)
        })
    }

    fn mentions(&self, root: &str) -> bool {
        self.paths_into(root).next().is_some()
    }
}

fn is_relative(part: &str) -> bool {
    matches!(part, "crate" | "self" | "super" | "swr_sync")
}

/// A file that knows what it should not.
#[derive(PartialEq, Eq)]
struct Breach {
    file: String,
    path: String,
}

impl fmt::Debug for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{} names {}", self.file, self.path)
    }
}

fn breach(source: &Source, path: &[String]) -> Breach {
    Breach {
        file: source.name.clone(),
        path: path.join("::"),
    }
}

/// The paths from these modules into those crates and modules.
fn ways(sources: &[Source], from: &[&str], into: &[&str]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources {
        if !from.iter().any(|module| source.is_of(module)) {
            continue;
        }
        for root in into {
            let found = source.paths_into(root);
            breaches.extend(found.map(|path| breach(source, path)));
        }
    }
    breaches
}

/// The paths into `root` that go elsewhere than to these of its items.
fn ways_beyond(sources: &[Source], from: &[&str], root: &str, items: &[&str]) -> Vec<Breach> {
    let mut breaches = ways(sources, from, &[root]);
    let allowed = |breach: &Breach| {
        items.iter().any(|item| {
            let path = format!("{root}::{item}");
            breach.path == path || breach.path.starts_with(&format!("{path}::"))
        })
    };
    breaches.retain(|breach| !allowed(breach));
    breaches
}

/// The files that know both, except those of these modules.
fn joints(sources: &[Source], one: &str, other: &str, except: &[&str]) -> Vec<String> {
    let joints = sources.iter().filter(|source| {
        let is_excepted = except.iter().any(|module| source.is_of(module));
        !is_excepted && source.mentions(one) && source.mentions(other)
    });
    joints.map(|source| source.name.clone()).collect()
}

/// Where variables of the environment are read, except in these modules.
fn environment_reads(sources: &[Source], except: &[&str]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources {
        if except.iter().any(|module| source.is_of(module)) {
            continue;
        }
        for path in &source.paths {
            let is_read = path.windows(2).any(|pair| {
                let [module, item] = [pair[0].as_str(), pair[1].as_str()];
                module == "env" && matches!(item, "var" | "var_os" | "vars" | "vars_os" | "*")
            });
            if is_read {
                breaches.push(breach(source, path));
            }
        }
    }
    breaches
}

/// All sources of the program.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                let text = std::fs::read_to_string(&path).unwrap();
                sources.push(Source::new(name, &text));
            }
        }
    }
    sources
}

const NOUNS: [&str; 5] = ["artifact", "build_history", "data_issue", "run", "exit"];

#[test]
fn the_nouns_know_neither_http_nor_sql_nor_serde() {
    let sources = sources();
    let libraries = ["reqwest", "hyper", "sqlx", "serde", "tokio", "clap"];
    assert_eq!(ways(&sources, &NOUNS, &libraries), []);
    let modules = [
        "registry", "store", "sync", "database", "report", "cli", "emulator",
    ];
    assert_eq!(ways(&sources, &NOUNS, &modules), []);
    // What they have no name for is kept as it came.
    let kept = ways_beyond(&sources, &NOUNS, "serde_json", &["Value", "Map", "json"]);
    assert_eq!(kept, []);
}

#[test]
fn the_registry_never_touches_the_database() {
    let modules = [
        "sqlx", "store", "database", "sync", "report", "cli", "emulator",
    ];
    assert_eq!(ways(&sources(), &["registry"], &modules), []);
}

#[test]
fn the_store_never_makes_a_request() {
    let modules = [
        "reqwest", "hyper", "registry", "sync", "report", "cli", "emulator",
    ];
    assert_eq!(ways(&sources(), &["store"], &modules), []);
}

#[test]
fn only_the_runs_and_the_command_line_join_registry_and_store() {
    let sources = sources();
    assert_eq!(
        joints(&sources, "registry", "store", &["sync", "cli"]),
        [""; 0]
    );
    // What looks for joints finds those that are meant to be.
    let mut found: Vec<String> = joints(&sources, "registry", "store", &["cli"])
        .iter()
        .map(|name| name.split(['/', '.']).take(1).collect())
        .collect();
    found.sort();
    found.dedup();
    assert_eq!(found, ["sync"]);
}

#[test]
fn only_the_command_line_reads_the_environment() {
    let sources = sources();
    assert_eq!(environment_reads(&sources, &["cli"]), []);
    assert!(!environment_reads(&sources, &[]).is_empty());
}

#[test]
fn only_two_files_print_on_stderr_and_both_escape_hidden_characters() {
    let mut printing = Vec::new();
    for source in sources() {
        let is_stderr = |path: &Vec<String>| path.ends_with(&["io".into(), "stderr".into()]);
        if source.paths.iter().any(is_stderr) {
            assert!(source.mentions("visible"), "{}", source.name);
            printing.push(source.name);
        }
    }
    printing.sort();
    assert_eq!(printing, ["cli/mod.rs", "cli/telemetry.rs"]);
}

#[test]
fn the_emulator_shares_nothing_with_the_client_but_the_signature() {
    let sources = sources();
    assert_eq!(
        ways_beyond(&sources, &["emulator"], "registry", &["signature"]),
        []
    );
    assert!(!ways(&sources, &["emulator"], &["registry"]).is_empty());
    let modules = [
        "reqwest", "sqlx", "store", "sync", "database", "report", "cli",
    ];
    assert_eq!(ways(&sources, &["emulator"], &modules), []);
}

#[test]
fn every_spelling_of_a_way_is_found() {
    for text in [
        "use sqlx;",
        "use sqlx::PgConnection;",
        "pub(crate) use ::sqlx::{self, types::Json};",
        "use {std::fmt, sqlx as sql};",
        "use std::fmt; fn f(c: &mut sqlx::PgConnection) {}",
        "fn f() { ::sqlx::query(\"select 1\"); }",
        "#[derive(Debug, sqlx::FromRow)] struct Row;",
        "const A: char = '\"'; type B<'a> = sqlx::Error;",
        "const A: &str = r#\"a \" b\"#; use sqlx::Error;",
    ] {
        let sources = [Source::new("registry/mod.rs", text)];
        assert_ne!(ways(&sources, &["registry"], &["sqlx"]), [], "{text}");
    }
    for text in [
        "use crate::store::Run;",
        "use crate::{artifact::Page, store::{Run, publish}};",
        "use super::super::store;",
        "fn f() -> crate::store::Run {}",
    ] {
        let sources = [Source::new("registry.rs", text)];
        assert_ne!(ways(&sources, &["registry"], &["store"]), [], "{text}");
    }
}

#[test]
fn what_is_no_way_is_not_taken_for_one() {
    for text in [
        "// use sqlx::Error;",
        "/* use sqlx::Error; /* */ use sqlx::Error; */",
        "//! The store uses sqlx::query.",
        "const A: &str = \"use sqlx::Error;\";",
        "const A: &str = r#\"use \" sqlx::Error;\"#;",
        "use std::sync::Arc; fn f() { counter.store(1); Counter::store(&counter, 1); }",
        "use crate::artifact::sqlx;",
        "fn f(sqlx: u8) -> impl Sized + use<> { sqlx }",
    ] {
        let sources = [Source::new("registry/mod.rs", text)];
        assert_eq!(
            ways(&sources, &["registry"], &["sqlx", "store", "database"]),
            [],
            "{text}"
        );
    }
    // Another module, and one whose name begins alike.
    let others = ["store/mod.rs", "registry_mirror.rs"].map(|name| Source::new(name, "use sqlx;"));
    assert_eq!(ways(&others, &["registry"], &["sqlx"]), []);
}

#[test]
fn ways_beyond_joints_and_reads_are_found() {
    let signature = Source::new("emulator/auth.rs", "use crate::registry::signature::Key;");
    let wire = Source::new(
        "emulator/wire.rs",
        "use crate::registry::{signature::Key, wire};",
    );
    let found = ways_beyond(
        &[signature, wire],
        &["emulator"],
        "registry",
        &["signature"],
    );
    assert_eq!(
        format!("{found:?}"),
        "[src/emulator/wire.rs names registry::wire]"
    );

    let text = "use crate::registry::Registry; fn f(run: crate::store::Run) {}";
    let both = [
        Source::new("report.rs", text),
        Source::new("cli/sync.rs", text),
    ];
    assert_eq!(joints(&both, "registry", "store", &["cli"]), ["report.rs"]);

    for text in [
        "fn f() { std::env::var(\"A\"); }",
        "use std::env; fn f() { env::vars_os(); }",
        "use std::env::{current_exe, var_os};",
        "use std::env::*;",
    ] {
        let sources = [
            Source::new("store.rs", text),
            Source::new("cli/mod.rs", text),
        ];
        assert_eq!(environment_reads(&sources, &["cli"]).len(), 1, "{text}");
    }
    let harmless = "const A: &str = env!(\"A\"); fn f() { std::env::split_paths(path); }";
    assert_eq!(
        environment_reads(&[Source::new("store.rs", harmless)], &[]),
        []
    );
}

/// Words and marks; of marks, `::` is one.
fn tokens(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let mut tokens = Vec::new();
    let mut index = 0;
    while index < characters.len() {
        let start = index;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < characters.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => (depth, index) = (depth + 1, index + 2),
                        ('*', '/') => (depth, index) = (depth - 1, index + 2),
                        _ => index += 1,
                    }
                    if depth == 0 || index >= characters.len() {
                        break;
                    }
                }
            }
            '"' => index = after_string(&characters, index),
            // A character, unless it is a lifetime.
            '\'' if at(index + 1) == '\\' || at(index + 2) == '\'' => {
                index += if at(index + 1) == '\\' { 3 } else { 2 };
                while index < characters.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            ':' if at(index + 1) == ':' => {
                tokens.push("::".to_owned());
                index += 2;
            }
            character if is_word(character) => {
                while is_word(at(index)) {
                    index += 1;
                }
                let word: String = characters[start..index].iter().collect();
                let hashes = (index..).take_while(|next| at(*next) == '#').count();
                let is_raw = matches!(word.as_str(), "r" | "br" | "cr");
                if is_raw && at(index + hashes) == '"' {
                    index = after_raw_string(&characters, index + hashes, hashes);
                } else {
                    tokens.push(word);
                }
            }
            character => {
                if !character.is_whitespace() {
                    tokens.push(character.to_string());
                }
                index += 1;
            }
        }
    }
    tokens
}

/// What follows the string that begins with the quote at `index`.
fn after_string(characters: &[char], mut index: usize) -> usize {
    index += 1;
    while index < characters.len() && characters[index] != '"' {
        index += if characters[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

fn after_raw_string(characters: &[char], mut index: usize, hashes: usize) -> usize {
    index += 1;
    while index < characters.len() {
        let end = &characters[index + 1..characters.len().min(index + 1 + hashes)];
        if characters[index] == '"' && end.len() == hashes && end.iter().all(|mark| *mark == '#') {
            return index + 1 + hashes;
        }
        index += 1;
    }
    index
}

fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut index = 0;
    let at = |index: usize| tokens.get(index).map_or("", String::as_str);
    while index < tokens.len() {
        // `use<'a>` is a bound, not an item.
        if at(index) == "use" && at(index + 1) != "<" {
            index = use_tree(tokens, index + 1, &[], &mut paths);
        } else if at(index + 1) == "::" && is_name(at(index)) {
            let mut path = vec![at(index).to_owned()];
            while at(index + 1) == "::" && is_name(at(index + 2)) {
                path.push(at(index + 2).to_owned());
                index += 2;
            }
            paths.push(path);
            index += 1;
        } else {
            index += 1;
        }
    }
    paths
}

/// Reads a tree of a `use` item from `index` on, and gives the index after it.
fn use_tree(
    tokens: &[String],
    mut index: usize,
    parents: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let at = |index: usize| tokens.get(index).map_or("", String::as_str);
    let mut path = parents.to_vec();
    loop {
        match at(index) {
            "::" => index += 1,
            "{" => {
                index += 1;
                while !matches!(at(index), "}" | "") {
                    let end = use_tree(tokens, index, &path, paths);
                    // Over the comma, or else over what is no part of a tree.
                    index = end + usize::from(at(end) == "," || end == index);
                }
                return index + 1;
            }
            "as" => index += 2,
            "self" if !path.is_empty() => index += 1,
            word if is_name(word) || word == "*" => {
                path.push(word.to_owned());
                index += 1;
            }
            _ => break,
        }
    }
    paths.push(path);
    index
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}
