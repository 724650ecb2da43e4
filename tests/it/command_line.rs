//! Texts that are generated from the definitions of the command line: help, manual pages, completions.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use swr_sync::cli::environment::VARIABLES;
use swr_sync::cli::reference::{self, CommandPage};
use swr_sync::exit::Exit;

fn pages() -> Vec<CommandPage> {
    reference::pages(swr_sync::cli::command())
}

fn program(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_swr-sync"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{arguments:?} {status}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// The words of a command line, up to a pipe or a redirection.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut is_in_word, mut quote) = (false, None);
    for letter in line.chars() {
        match (letter, quote) {
            ('|' | '>', None) => break,
            (' ', None) => is_in_word = false,
            ('\'' | '"', None) => {
                quote = Some(letter);
                if !is_in_word {
                    words.push(String::new());
                }
                is_in_word = true;
            }
            (letter, Some(open)) if letter == open => quote = None,
            (letter, _) => {
                if !is_in_word {
                    words.push(String::new());
                }
                is_in_word = true;
                words.last_mut().unwrap().push(letter);
            }
        }
    }
    words
}

#[test]
fn every_command_has_examples_and_they_are_command_lines_of_it() {
    for page in pages() {
        let place = page.path.join(" ");
        let mut own = 0;
        for (line, _) in reference::examples(&page.command) {
            // Only the simplest syntax of shells is supported here.
            let line = match line.split_once("$(") {
                Some((_, inner)) => inner.split(')').next().unwrap(),
                None => &line,
            };
            let words = words(line);
            let parsed = swr_sync::cli::command().try_get_matches_from(&words);
            if let Err(error) = parsed {
                panic!("`{place}` has an example that is no command line: {line}\n{error}");
            }
            own += usize::from(words[1..].starts_with(&page.path));
        }
        assert!(own > 0, "`{place}` has no example of itself");
    }
    assert_eq!(
        words("swr-sync query --format csv 'select a  | b' > \"a file\""),
        ["swr-sync", "query", "--format", "csv", "select a  | b"]
    );
}

#[test]
fn every_value_of_a_flag_has_a_name_that_others_have_too() {
    const NAMES: &str = "ADDRESS ARGUMENT DIGEST FILE FOLDER FORMAT I/N ID LEVEL MS N N|all NAME PERCENT REGION \
                         SEED SHELL SQL TIME TIMESTAMP URL ZONE fail|skip|wait[=TIME]";
    let mut unknown = BTreeSet::new();
    for page in pages() {
        for argument in page.command.get_arguments() {
            for name in argument.get_value_names().unwrap_or_default() {
                if argument.get_action().takes_values()
                    && !NAMES.split(' ').any(|known| known == name.as_str())
                {
                    unknown.insert(argument.to_string());
                }
            }
        }
    }
    assert_eq!(
        unknown,
        BTreeSet::new(),
        "take a name that other flags have, or add it to the list"
    );
}

/// The names of variables in the sources of the command line, with the files they are in.
fn variables_in_sources() -> BTreeSet<(String, String)> {
    // A name with an underscore is a variable everywhere: in a list, or in a hint.
    let names = regex::Regex::new(
        r#"\b(?:variable|folder|var|var_os)\(\s*"([A-Z]+)"|"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)""#,
    )
    .unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
    let mut folders = vec![folder];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // Reads nothing, and has a function of the same name.
            if name == "environment.rs" {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for captures in names.captures_iter(&text) {
                let variable = captures.get(1).or(captures.get(2)).unwrap().as_str();
                // Those of Cargo are read by the compiler.
                if !variable.starts_with("CARGO_") {
                    found.insert((variable.to_owned(), name.clone()));
                }
            }
        }
    }
    found
}

#[test]
fn every_variable_that_is_read_is_documented() {
    let read = variables_in_sources();
    // The search finds variables in all notations.
    for name in ["SWR_AUTH_TOKEN", "SWR_IAM_USER", "XDG_DATA_HOME", "PATH"] {
        assert!(read.iter().any(|(found, _)| found == name), "{name}");
    }
    let of_flags: BTreeSet<String> = pages()
        .iter()
        .flat_map(|page| reference::settings(&page.command))
        .filter_map(|setting| setting.variable)
        .collect();
    let is_documented = |name: &str| {
        let stem = name.strip_suffix("_FILE").unwrap_or(name);
        let mut rows = VARIABLES.iter();
        of_flags.contains(name)
            || rows.any(|row| row.name == name || (row.name == stem && row.has_file_variant))
    };
    let missing: Vec<_> = read
        .iter()
        .filter(|(name, _)| !is_documented(name))
        .collect();
    assert!(
        missing.is_empty(),
        "src/cli/environment.rs has no row for {missing:?}"
    );
}

#[test]
fn the_configuration_file_takes_what_variables_set_for_runs() {
    let keys = |path: &[&str]| -> BTreeSet<String> {
        let page = pages().into_iter().find(|page| page.path == path).unwrap();
        let settings = reference::settings(&page.command).into_iter();
        settings.filter_map(|setting| setting.file_key).collect()
    };
    let sync = keys(&["sync"]);
    for key in [
        "region",
        "max_in_flight",
        "no_migrate",
        "log_format",
        "data_dir",
        "instances",
        "database_url",
    ] {
        assert!(sync.contains(key), "{key} is not in {sync:?}");
    }
    // Flags for a single run, or the flag for the file itself.
    for key in ["dry_run", "accept_removals", "config", "instance_id"] {
        assert!(!sync.contains(key), "{key} is in {sync:?}");
    }
    let emulator = keys(&["emulator"]);
    assert!(!emulator.contains("seed"), "{emulator:?}");
}

#[test]
fn no_variable_is_documented_twice() {
    let mut names = BTreeSet::new();
    for row in VARIABLES {
        assert!(names.insert(row.name), "{} has two rows", row.name);
    }
}

#[test]
fn help_lists_every_exit_code_with_its_meaning_and_no_other() {
    let line = |exit: Exit| format!("  {:>3}  {}", exit.code(), exit.meaning());
    let lines: Vec<String> = Exit::ALL.iter().map(|exit| line(*exit)).collect();
    let help = program(&["--help"]);
    let (_, list) = help.split_once("Exit codes:\n").unwrap();
    let list: Vec<&str> = list.lines().take_while(|line| !line.is_empty()).collect();
    assert_eq!(list, lines);
}

/// The completions of bash for the last of these words.
fn bash_proposes(script: &Path, words: &[&str]) -> Vec<String> {
    const ASK: &str = r#"
        source "$1"; shift
        read -r -a registered <<< "$(complete -p swr-sync)"
        function=
        for index in "${!registered[@]}"; do
            [ "${registered[index]}" = -F ] && function=${registered[index + 1]}
        done
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
        "$function" swr-sync "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-uc", ASK, "bash"])
        .arg(script)
        .args(words)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_reports_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("swr-sync.bash");
    std::fs::write(&script, program(&["completions", "bash"])).unwrap();
    for (words, proposed) in [
        (&["swr-sync", "sy"][..], &["sync"][..]),
        (&["swr-sync", "sync", "--dry"], &["--dry-run"]),
        (&["swr-sync", "db", "sta"], &["start"]),
        (&["swr-sync", "report", "tag_"], &["tag_at", "tag_move"]),
        (&["swr-sync", "report", "html", "--form"], &["--format"]),
        (&["swr-sync", "query", "--format", "j"], &["json"]),
        (&["swr-sync", "--log-format", "j"], &["json"]),
        (&["swr-sync", "sync", "--no-such"], &[""]),
    ] {
        assert_eq!(bash_proposes(&script, words), proposed, "{words:?}");
    }
}

#[test]
fn each_shell_gets_a_script_of_its_own_with_all_commands() {
    for (shell, mark) in [
        ("bash", "complete "),
        ("zsh", "#compdef swr-sync"),
        ("fish", "complete -c swr-sync"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = program(&["completions", shell]);
        assert!(script.contains(mark), "{shell}");
        for page in pages() {
            let name = page.path.last().map_or("swr-sync", String::as_str);
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
}

/// The required sections of a manual page, in this order.
const SECTIONS: [&str; 7] = [
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "OPTIONS",
    "ENVIRONMENT",
    "\"EXIT STATUS\"",
    "EXAMPLES",
];

#[test]
fn there_is_a_manual_page_for_each_command_with_the_sections_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("man/man1");
    program(&["man", "--dir", made.to_str().unwrap()]);
    let mut found = BTreeSet::new();
    for entry in made.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let page = std::fs::read_to_string(&path).unwrap();
        check_page(&name, &page);
        found.insert(name);
    }
    let expected: BTreeSet<String> = pages()
        .iter()
        .map(|page| {
            let mut parts = vec!["swr-sync"];
            parts.extend(page.path.iter().map(String::as_str));
            format!("{}.1", parts.join("-"))
        })
        .collect();
    assert_eq!(found, expected);

    let main = program(&["man"]);
    assert_eq!(
        main,
        std::fs::read_to_string(made.join("swr-sync.1")).unwrap()
    );
    // The page for readers who do not know which command uses a variable.
    for row in VARIABLES {
        assert!(
            main.contains(&format!("\\fB{}\\fR", row.name)),
            "{}",
            row.name
        );
    }
    for exit in Exit::ALL {
        assert!(
            main.contains(&format!("\n\\fB{}\\fR\n", exit.code())),
            "{exit:?}"
        );
    }
}

fn check_page(name: &str, page: &str) {
    let sections: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix(".SH "))
        .collect();
    let required: Vec<&str> = sections
        .iter()
        .filter(|section| SECTIONS.contains(section))
        .copied()
        .collect();
    assert_eq!(required, SECTIONS, "{name}");
    assert_eq!(sections.last(), Some(&"\"SEE ALSO\""), "{name}");
    assert!(
        page.is_ascii(),
        "{name}: formatters differ in what else they take"
    );

    // The requests in use; all of them are supported by every formatter.
    let known = "TH SH SS PP TP IP RS RE nf fi br ie el";
    let mut depth = 0;
    for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
        let request = line[1..].split(' ').next().unwrap();
        assert!(
            known.split(' ').any(|known| known == request),
            "{name}: {line}"
        );
        match request {
            "RS" => depth += 1,
            "RE" => depth -= 1,
            _ => {}
        }
        assert!(depth >= 0, "{name}: an indentation ends that never began");
    }
    assert_eq!(depth, 0, "{name}: an indentation never ends");
    check_formatter(name, page);
}

/// The warnings of groff, if it is installed. The checks above do not need it.
fn check_formatter(name: &str, page: &str) {
    let formatter = Command::new("groff")
        .args(["-man", "-ww", "-Tutf8"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut formatter) = formatter else {
        let advice = "groff is not installed: apt-get install groff-base";
        assert!(std::env::var_os("CI").is_none(), "{advice}");
        // Directly to stderr, because the harness captures `eprintln`.
        let _ = writeln!(
            std::io::stderr(),
            "{name} was not formatted, because {advice}"
        );
        return;
    };
    let mut input = formatter.stdin.take().unwrap();
    input.write_all(page.as_bytes()).unwrap();
    drop(input);
    let output = formatter.wait_with_output().unwrap();
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && warnings.is_empty(),
        "{name}: {warnings}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("swr-sync manual"), "{name}: {text}");
    // The commands in the text work when they are copied.
    let marks = ['\u{2018}', '\u{2019}', '\u{2dc}', '\u{2c6}', '\u{2212}'];
    assert!(!text.contains(marks), "{name}: {text}");
}
