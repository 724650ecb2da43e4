//! Starting programs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The error is a sentence for the person who started the command.
pub(crate) type Result<T = ()> = std::result::Result<T, String>;

/// The folder of the workspace, in which every program is started.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// A command from words without spaces.
pub(crate) fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null());
    // Cargo describes this package to the program that it runs. Another Cargo would pass that on to
    // build scripts, and compile what depends on them again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Fails unless the program succeeds.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command.status().map_err(|error| unable(command, &error))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{} ended with {status}", shown(command))),
    }
}

/// What the program prints on stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| unable(command, &error))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", shown(command), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the program, prints each line of its stdout, and returns whether `is_wanted` held for one of them.
pub(crate) fn run_looking_for(
    command: &mut Command,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| unable(command, &error))?;
    let mut is_found = false;
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
    {
        let line = line.map_err(|error| unable(command, &error))?;
        is_found |= is_wanted(&line);
        println!("{line}");
    }
    let status = child.wait().map_err(|error| unable(command, &error))?;
    match status.success() {
        true => Ok(is_found),
        false => Err(format!("{} ended with {status}", shown(command))),
    }
}

pub(crate) fn read(file: impl AsRef<Path>) -> Result<String> {
    let file = file.as_ref();
    std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// A folder that is removed at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Scratch> {
        let folder = output(&mut command("mktemp --directory /tmp/swr-sync-ci.XXXXXX"))?;
        Ok(Scratch(PathBuf::from(folder.trim())))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unable(command: &Command, error: &std::io::Error) -> String {
    format!("cannot run {}: {error}", shown(command))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
