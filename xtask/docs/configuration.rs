//! docs/configuration.md: the settings as the command line defines them.

use std::fmt::Write;

use swr_sync::cli::environment::{self, EnvironmentVariable, VariableGroup};
use swr_sync::cli::reference::{self, CONFIG_FLAG, CommandPage, Setting};
use swr_sync::exit::Exit;

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from the definitions of the command line; to update: cargo xtask docs -->

Every setting: its flag, its variable, its key in the configuration file, its default, and its
meaning. Flags override variables, and variables override the file.
[swr-sync.example.toml](swr-sync.example.toml) is an example of the file, and
[swr-sync.schema.json](swr-sync.schema.json) its schema, for editors; `swr-sync config check` reports
its errors. Secrets have no flags, because other users of the machine could see them: their variables are
[at the end](#variables-without-a-flag). `swr-sync COMMAND --help` shows the settings of one command,
`swr-sync man` prints them as a manual page.

A `TIME` is a number with a unit, or several: `500ms`, `10s`, `26h`, `90d`, `1h 30min`. A `TIMESTAMP` is
`2026-03-01`, `'2026-03-01 12:00'` (both UTC), or RFC 3339.
";

/// Arguments that stand under a heading of their own mean the same for all commands that have them.
struct Group {
    heading: String,
    commands: Vec<String>,
    settings: Vec<Setting>,
}

pub(crate) fn page() -> String {
    let pages = reference::pages(swr_sync::cli::command());
    let mut program = pages[0].command.get_arguments();
    let has_file = program.any(|argument| argument.get_long() == Some(CONFIG_FLAG));
    let mut text = INTRODUCTION.to_owned();
    for group in shared(&pages) {
        let commands = match group.commands.len() {
            every if every == pages.len() => "all commands".to_owned(),
            _ => group.commands.join(", "),
        };
        let _ = write!(text, "\n## {}\n\nOf {commands}.\n\n", group.heading);
        write_settings(&mut text, &group.settings, has_file);
    }
    for page in &pages[1..] {
        let own: Vec<Setting> = settings(page).filter(is_own).collect();
        if !own.is_empty() {
            let about = page.command.get_about().unwrap();
            let _ = write!(text, "\n## {}\n\n{about}.\n\n", title(page));
            write_settings(&mut text, &own, has_file);
        }
    }
    write_variables(&mut text);
    write_exit_codes(&mut text);
    text
}

fn title(page: &CommandPage) -> String {
    format!("`{}`", page.path.join(" "))
}

fn settings(page: &CommandPage) -> impl Iterator<Item = Setting> {
    reference::settings(&page.command).into_iter()
}

/// Whether an argument is of one command alone.
fn is_own(setting: &Setting) -> bool {
    matches!(setting.heading.as_str(), "Options" | "Filters")
}

fn shared(pages: &[CommandPage]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // The program's own come last, as in help.
    for page in pages[1..].iter().chain(&pages[..1]) {
        for setting in settings(page).filter(|setting| !is_own(setting)) {
            let name = match page.path[..] {
                [] => "the program itself".to_owned(),
                _ => title(page),
            };
            let known = groups
                .iter()
                .position(|group| group.heading == setting.heading);
            let index = known.unwrap_or_else(|| {
                groups.push(Group {
                    heading: setting.heading.clone(),
                    commands: Vec::new(),
                    settings: Vec::new(),
                });
                groups.len() - 1
            });
            let group = &mut groups[index];
            if !group.commands.contains(&name) {
                group.commands.push(name);
            }
            if !group.settings.contains(&setting) {
                group.settings.push(setting);
            }
        }
    }
    groups
}

fn write_settings(text: &mut String, settings: &[Setting], has_file: bool) {
    let mut columns = vec!["Flag", "Variable", "Key in the file", "Default", "Meaning"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    for setting in settings {
        let values: Vec<String> = setting.possible_values.iter().map(code).collect();
        let meaning = match values[..] {
            [] => prose(&setting.meaning),
            _ => format!("{}: {}", prose(&setting.meaning), values.join(", ")),
        };
        rows.push(vec![
            code(&setting.usage),
            setting.variable.as_ref().map(code).unwrap_or_default(),
            setting.file_key.as_ref().map(code).unwrap_or_default(),
            setting.default.as_deref().map(default).unwrap_or_default(),
            meaning,
        ]);
    }
    if !has_file {
        columns.remove(2);
        for row in &mut rows {
            row.remove(2);
        }
    }
    write_table(text, &columns, &rows);
}

/// A value as it is written, or words about it.
fn default(text: &str) -> String {
    match text.contains(' ') {
        true => prose(text),
        false => code(text),
    }
}

fn write_variables(text: &mut String) {
    text.push_str(
        "\n## Variables without a flag\n\nSecrets, and variables that other programs share. A secret with a file can \
         be in a file whose path is in\nthe variable with `_FILE`; only one of the two may be set.\n",
    );
    for group in VariableGroup::ALL {
        let _ = write!(text, "\n### {}\n\n", group.heading());
        if group == VariableGroup::Credentials {
            text.push_str("A token takes precedence over an access key, and an access key over an IAM user.\n\n");
        }
        let row = |variable: &EnvironmentVariable| {
            let EnvironmentVariable {
                name,
                meaning,
                is_secret,
                has_file_variant,
                ..
            } = variable;
            vec![
                code(name),
                if *is_secret { "yes" } else { "" }.to_owned(),
                match has_file_variant {
                    true => code(format!("{name}_FILE")),
                    false => String::new(),
                },
                prose(meaning),
            ]
        };
        let rows: Vec<Vec<String>> = environment::variables(group).map(row).collect();
        write_table(text, &["Variable", "Secret", "File", "Meaning"], &rows);
    }
}

fn write_exit_codes(text: &mut String) {
    text.push_str("\n## Exit codes\n\n");
    let row = |exit: Exit| {
        vec![
            exit.code().to_string(),
            prose(exit.meaning()),
            exit.retry().as_str().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = Exit::ALL.into_iter().map(row).collect();
    let columns = ["Code", "Meaning", "Does trying again help?"];
    write_table(text, &columns, &rows);
}

fn write_table(text: &mut String, columns: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(text, "| {} |", columns.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(columns.len()));
    for row in rows {
        let line = format!("| {} |", row.join(" | "));
        let _ = writeln!(
            text,
            "{}",
            line.replace("|  |", "| |").replace("|  |", "| |")
        );
    }
}

fn code(text: impl AsRef<str>) -> String {
    // A bar ends a cell even in code.
    format!("`{}`", text.as_ref().replace('|', "\\|"))
}

/// Running text in one line. What is in backticks already stays as it is.
fn prose(text: &str) -> String {
    let text = text.replace("\n\n", ". ");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('[', "\\[")
}
