//! Checks that every flag, variable and configuration key in deploy/ is in the program's help.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

/// Flags of other programs in these files: kubectl, systemctl, journalctl, useradd and others.
const FLAGS_OF_OTHERS: [&str; 14] = [
    "--follow",
    "--for",
    "--from",
    "--from-file",
    "--home-dir",
    "--identifier",
    "--ignore-not-found",
    "--now",
    "--output",
    "--shell",
    "--system",
    "--tag",
    "--timeout",
    "--unit",
];

#[test]
fn flags_and_variables_in_deploy_are_known_to_the_program() {
    let known = Known::from_help();
    let mut unknown = BTreeSet::new();
    for (path, text) in files() {
        let mut miss = |name: &str| unknown.insert(format!("{}: {name}", path.display()));
        for name in names(&text, r"--[a-z][a-z-]*") {
            if !known.flags.contains(name) && !FLAGS_OF_OTHERS.contains(&name) {
                miss(name);
            }
        }
        for name in names(
            &text,
            r"\b(?:SWR|HUAWEICLOUD_SDK|DATABASE)_[A-Z][A-Z_]*[A-Z]\b",
        ) {
            if !known.has_variable(name) {
                miss(name);
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "the program's help does not know: {unknown:#?}"
    );
}

#[test]
fn keys_of_the_configuration_file_are_flags() {
    let known = Known::from_help();
    let text = std::fs::read_to_string(deploy().join("kubernetes/base/swr-sync.toml")).unwrap();
    // Also keys that are commented out.
    let keys = Regex::new(r"(?m)^(?:# )?([a-z_]+) = ").unwrap();
    let unknown: Vec<_> = keys
        .captures_iter(&text)
        .map(|capture| capture[1].to_owned())
        // The header of a `[[source]]` table.
        .filter(|key| key != "name")
        .filter(|key| {
            !known
                .flags
                .contains(format!("--{}", key.replace('_', "-")).as_str())
        })
        .collect();
    assert!(
        unknown.is_empty(),
        "the program's help does not know: {unknown:?}"
    );
}

/// Flags and variables in the help of the commands that deploy/ uses.
struct Known {
    help: String,
    flags: BTreeSet<String>,
}

impl Known {
    fn from_help() -> Known {
        let commands = [
            &["--help"][..],
            &["sync", "--help"],
            &["migrate", "--help"],
            &["doctor", "--help"],
            &["status", "--help"],
        ];
        let help: String = commands.into_iter().map(help).collect();
        let flags = names(&help, r"--[a-z][a-z-]*").map(str::to_owned).collect();
        Known { help, flags }
    }

    /// Help lists a secret without its variant `…_FILE`.
    fn has_variable(&self, name: &str) -> bool {
        let mut names = names(&self.help, r"\b[A-Z][A-Z_]*[A-Z]\b");
        let secret = name.strip_suffix("_FILE");
        names.any(|known| known == name || Some(known) == secret)
    }
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_swr-sync"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// All matches of a pattern.
fn names<'a>(text: &'a str, pattern: &str) -> impl Iterator<Item = &'a str> {
    let pattern = Regex::new(pattern).unwrap();
    let names: Vec<_> = pattern.find_iter(text).map(|name| name.as_str()).collect();
    names.into_iter()
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// Every file of deploy/, with its text.
fn files() -> Vec<(PathBuf, String)> {
    let mut folders = vec![deploy()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(deploy()).unwrap().to_owned();
                files.push((path, text));
            }
        }
    }
    assert!(files.len() > 10, "{files:?}");
    files
}
