//! `swr-sync man`: manual pages, generated from the same definitions as `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::console::{PROGRAM, print_lines};
use super::environment::{self, CREDENTIALS_HEADING, EnvironmentVariable, VariableGroup};
use super::exit::{Exit, Failure};
use super::reference::{self, CommandPage, EXAMPLES, EXIT_CODES};
use super::result;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder to write the pages of all commands to; created if it does not exist
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync man | man -l -                            read the main page
  swr-sync man --dir ~/.local/share/man/man1         then `man swr-sync-sync` shows its page";

pub(super) fn run(args: Args, command: clap::Command) -> Result<Exit, Failure> {
    let pages = reference::pages(command);
    let Some(folder) = args.dir else {
        // The program comes before its commands.
        let main = pages.first().map(|page| manual_page(page, &pages));
        return result::write_stdout(&main.unwrap_or_default());
    };
    for page in &pages {
        let path = folder.join(format!("{}.1", name(page)));
        write(&folder, &path, &manual_page(page, &pages)).map_err(|error| {
            Failure::new(
                Exit::Unexpected,
                format!("cannot write {}: {error}", path.display()),
            )
            .hint("choose another folder with --dir")
        })?;
    }
    print_lines([format!(
        "wrote {} manual pages to {}",
        pages.len(),
        folder.display()
    )]);
    Ok(Exit::Success)
}

fn write(folder: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(path, text)
}

/// The name of the page: `swr-sync-db-start`.
fn name(page: &CommandPage) -> String {
    let mut name = PROGRAM.to_owned();
    for part in &page.path {
        name.push('-');
        name.push_str(part);
    }
    name
}

fn manual_page(page: &CommandPage, pages: &[CommandPage]) -> String {
    let command = &page.command;
    let man = Man::new(command.clone())
        .title(name(page))
        .source(concat!("swr-sync ", env!("CARGO_PKG_VERSION")))
        .manual("swr-sync manual");
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = man.render_title(&mut text);
    let _ = man.render_name_section(&mut text);
    append(&mut text, &synopsis(command));
    let _ = man.render_description_section(&mut text);
    append(&mut text, &details(command));
    append_options(&mut text, &man);
    if command.has_subcommands() {
        let _ = man.render_subcommands_section(&mut text);
    }
    append(&mut text, &environment_section(page, pages));
    append(&mut text, &files(page, pages));
    append(&mut text, &exit_status(page));
    append(&mut text, &examples(command));
    append(&mut text, &see_also(page, pages));
    as_typed(&String::from_utf8_lossy(&text))
}

/// Text to type is left unchanged, so that it can be copied from the page: formatters replace some
/// characters with typographic ones, differ in the encoding they expect, and agree on escapes only.
fn as_typed(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '`' => "\\(ga".to_owned(),
            '~' => "\\(ti".to_owned(),
            '^' => "\\(ha".to_owned(),
            letter if letter.is_ascii() => letter.to_string(),
            letter => format!("\\[u{:04X}]", u32::from(letter)),
        })
        .collect()
}

fn append(text: &mut Vec<u8>, section: &Roff) {
    let _ = section.to_writer(text);
}

/// The usage, as in `--help`. The synopsis of clap_mangen lists every flag.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let name = command.get_bin_name().unwrap_or(PROGRAM);
    match usage.strip_prefix(name) {
        Some(rest) => roff.text([bold(name), roman(rest)]),
        None => roff.text([roman(usage)]),
    };
    roff
}

/// The text below the options that belongs to no other section.
fn details(command: &Command) -> Roff {
    let mut roff = Roff::new();
    for block in reference::help_blocks(command) {
        match block.heading.as_deref() {
            // They have their own sections.
            Some(EXAMPLES | EXIT_CODES | CREDENTIALS_HEADING) => {}
            Some(heading) => {
                roff.control("PP", []);
                roff.text([roman(format!("{heading}:"))]);
                verbatim(&mut roff, &block.lines);
            }
            None => {
                roff.control("PP", []);
                roff.text([roman(block.lines.join("\n"))]);
            }
        }
    }
    roff
}

/// Preformatted lines.
fn verbatim(roff: &mut Roff, lines: &[String]) {
    roff.control("PP", []);
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

/// Makes the options of each heading a subsection of OPTIONS. As separate sections, they would hide
/// the standard ones.
fn append_options(text: &mut Vec<u8>, man: &Man) {
    let mut options = Vec::new();
    let _ = man.render_options_section(&mut options);
    let options = String::from_utf8_lossy(&options);
    for line in options.lines() {
        match line.strip_prefix(".SH ") {
            Some(heading) if heading != "OPTIONS" => {
                text.extend(format!(".SS {}\n", sentence(heading)).bytes());
            }
            _ => text.extend(format!("{line}\n").bytes()),
        }
    }
}

/// A heading in sentence case: `"Embedded database"`.
fn sentence(heading: &str) -> String {
    let lower = heading.to_lowercase();
    match lower.strip_prefix('"') {
        Some(quoted) => format!("\"{}", capitalised(quoted)),
        None => capitalised(&lower),
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn environment_section(page: &CommandPage, pages: &[CommandPage]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    roff.text([roman("A flag overrides its variable.")]);
    for group in VariableGroup::ALL {
        if is_used(group, page, pages) {
            for variable in environment::variables(group) {
                entry(&mut roff, bold(variable.name), &explanation(variable));
            }
        }
    }
    for (name, flag) in flags_with_variables(page, pages) {
        entry(&mut roff, bold(name), &format!("The same as {flag}."));
    }
    roff
}

fn explanation(variable: &EnvironmentVariable) -> String {
    let EnvironmentVariable {
        name,
        meaning,
        has_file_variant,
        ..
    } = variable;
    let meaning = capitalised(meaning);
    match has_file_variant {
        true => format!("{meaning}. {name}_FILE can be the path of a file that contains it."),
        false => format!("{meaning}."),
    }
}

/// The variables of flags, with the flags; the main page has those of all commands.
fn flags_with_variables(page: &CommandPage, pages: &[CommandPage]) -> Vec<(String, String)> {
    let of = |page: &CommandPage| {
        reference::settings(&page.command)
            .into_iter()
            .filter_map(|setting| {
                let flag = setting.usage.split(' ').next()?.to_owned();
                Some((setting.variable?, flag))
            })
            .collect::<Vec<_>>()
    };
    if !page.path.is_empty() {
        return of(page);
    }
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, flag) in pages.iter().flat_map(of) {
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, flag));
        }
    }
    found
}

/// Whether a command uses the variables. The main page lists all of them, for readers who do not know
/// which command to look up.
fn is_used(group: VariableGroup, page: &CommandPage, pages: &[CommandPage]) -> bool {
    let has_flag = |page: &CommandPage| {
        let mut arguments = page.command.get_arguments();
        arguments.any(|argument| argument.get_long() == Some(group.flag()))
    };
    has_flag(page) || (page.path.is_empty() && pages.iter().any(has_flag))
}

/// Files that are used besides the database.
fn files(page: &CommandPage, pages: &[CommandPage]) -> Roff {
    const FILES: [(VariableGroup, &str, &str); 4] = [
        (
            VariableGroup::Credentials,
            "~/.huaweicloud/credentials",
            "The profile file of Huawei Cloud's SDKs: an access key in the section [basic].",
        ),
        (
            VariableGroup::Database,
            "~/.pgpass",
            "Database passwords, in the format of psql.",
        ),
        (
            VariableGroup::EmbeddedDatabase,
            "/var/lib/swr-sync",
            "The embedded database of root.",
        ),
        (
            VariableGroup::EmbeddedDatabase,
            "~/.local/share/swr-sync",
            "The embedded database of other users, unless XDG_DATA_HOME is set.",
        ),
    ];
    let mut roff = Roff::new();
    let used = FILES
        .iter()
        .filter(|(group, ..)| is_used(*group, page, pages));
    for (index, (_, path, meaning)) in used.enumerate() {
        if index == 0 {
            roff.control("SH", ["FILES"]);
        }
        entry(&mut roff, italic(*path), meaning);
    }
    roff
}

fn exit_status(page: &CommandPage) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        let text = format!("{}. {}", capitalised(exit.meaning()), exit.retry().advice());
        entry(&mut roff, bold(exit.code().to_string()), text.trim_end());
    }
    if !page.path.is_empty() {
        roff.control("PP", []);
        roff.text([roman(
            "The codes of all commands; this one uses some of them.",
        )]);
    }
    roff
}

fn examples(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let examples = reference::examples(command);
    if examples.is_empty() {
        return roff;
    }
    roff.control("SH", ["EXAMPLES"]);
    for (typed, meaning) in examples {
        entry(&mut roff, bold(typed), &meaning.unwrap_or_default());
    }
    roff
}

fn see_also(page: &CommandPage, pages: &[CommandPage]) -> Roff {
    let mut names: Vec<String> = pages
        .iter()
        .filter(|other| other.path != page.path)
        // The page above, and those directly below.
        .filter(|other| {
            let [longer, shorter] = match page.path.len() > other.path.len() {
                true => [&page.path, &other.path],
                false => [&other.path, &page.path],
            };
            longer.len() == shorter.len() + 1 && longer.starts_with(shorter)
        })
        .map(|other| format!("{}(1)", name(other)))
        .collect();
    names.sort();
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(names.join(", "))]);
    roff
}

/// A term with its description.
fn entry(roff: &mut Roff, term: Inline, meaning: &str) {
    roff.control("TP", []);
    roff.text([term]);
    roff.text([roman(meaning)]);
}
