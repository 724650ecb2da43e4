//! Checks whether an installer gets package versions.

/// Options whose value is the next word.
const WITH_VALUE: &[&str] = &[
    "-r",
    "--requirement",
    "-c",
    "--constraint",
    "-e",
    "--editable",
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--find-links",
    "-t",
    "--target",
    "--trusted-host",
    "--prefix",
    "--root",
    "--cache-dir",
    "--registry",
    "--timeout",
    "--retries",
    "--python",
    "--proxy",
    "--no-binary",
    "--only-binary",
    "--platform",
    "--progress-bar",
    "--src",
    "--log",
    "--global-option",
    "--config-settings",
    "--cert",
];

/// Whether the arguments contain a package without a version. `program` is the installer
/// with its subcommand, such as `pip install`.
pub(super) fn is_unpinned(program: &str, arguments: &str) -> bool {
    let mut words = arguments
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'']))
        // A comment of BuildKit or of the author.
        .take_while(|word| *word != "#")
        .peekable();
    let installer = program.split_whitespace().next().unwrap_or_default();
    let is_free: fn(&str) -> bool = match installer {
        "go" => |word| word.ends_with("@latest"),
        "npm" | "pnpm" | "yarn" if !is_global(program, arguments) => return false,
        "npm" | "pnpm" | "yarn" => is_free_for_npm,
        _ => is_free_for_pip,
    };
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word) {
            words.next();
        } else if words.peek() == Some(&"@") {
            // `name @ URL` is exact.
            words.next();
            words.next();
        } else if is_name(word) && is_free(word) {
            return true;
        }
    }
    false
}

/// Packages pinned in a project file are not visible here, so only global packages count.
fn is_global(program: &str, arguments: &str) -> bool {
    let is_flag = |word| matches!(word, "-g" | "--global" | "--location=global");
    program.starts_with("yarn") || arguments.split_whitespace().any(is_flag)
}

/// Not an option, path, URL or variable.
fn is_name(word: &str) -> bool {
    let begins_well = word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '@');
    begins_well && !word.contains("://") && !word.contains('$')
}

fn is_free_for_pip(word: &str) -> bool {
    let is_file = [".whl", ".gz", ".zip", ".txt", ".toml"]
        .iter()
        .any(|end| word.ends_with(end));
    let is_pinned = word.contains("==") || word.contains("~=") || word.contains('@');
    !is_file && !is_pinned && !word.contains('/')
}

fn is_free_for_npm(word: &str) -> bool {
    // The first character may belong to a scope: `@scope/name@version`.
    let version = word.get(1..).and_then(|rest| rest.rsplit_once('@'));
    let is_pinned = version.is_some_and(|(_, version)| !matches!(version, "" | "latest" | "next"));
    !is_pinned && !word.ends_with(".tgz")
}
