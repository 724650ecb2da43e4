//! The definitions of the command line in parts, for manual pages and documents.

use clap::{Arg, ArgAction, Command};

pub use super::configuration::keys::{CONFIG_FLAG, file_key};

/// A command with its path: `["db", "start"]`. The path of the program itself is empty.
#[derive(Debug, Clone)]
pub struct CommandPage {
    /// The names of the command and its parents, without the program's.
    pub path: Vec<String>,
    /// The definition after clap's build step, with global arguments and usage.
    pub command: Command,
}

/// The program and all visible commands, each before its subcommands.
pub fn pages(program: Command) -> Vec<CommandPage> {
    // Otherwise each command with subcommands would get a page for `help`.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    collect(program, &[], &mut pages);
    pages
}

fn collect(command: Command, path: &[String], pages: &mut Vec<CommandPage>) {
    let under: Vec<Command> = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned()
        .collect();
    pages.push(CommandPage {
        path: path.to_vec(),
        command,
    });
    for command in under {
        let mut path = path.to_vec();
        path.push(command.get_name().to_owned());
        collect(command, &path, pages);
    }
}

/// A flag or an argument of a command, and the other ways to set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As help prints it: `--region <REGION>`, `--dry-run`, or `[NAME]`.
    pub usage: String,
    /// The environment variable, if it has one.
    pub variable: Option<String>,
    /// The key in the configuration file, if it has one.
    pub file_key: Option<String>,
    pub default: Option<String>,
    /// The allowed values, if there is a fixed list.
    pub possible_values: Vec<String>,
    /// Help text.
    pub meaning: String,
    /// Its heading in help.
    pub heading: String,
}

/// The heading of arguments without one.
const OWN_HEADING: &str = "Options";

/// The arguments of a command, in the order of its help, without the flags of every program.
pub fn settings(command: &Command) -> Vec<Setting> {
    command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !is_question(argument))
        .map(setting)
        .collect()
}

fn is_question(argument: &Arg) -> bool {
    matches!(
        argument.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

/// Removes a note from the text, such as `[default: the newest found]`. Clap generates such notes; a few
/// are written by hand where clap does not know the value.
fn take_note(text: &mut String, name: &str) -> Option<String> {
    let start = text.find(&format!("[{name}: "))?;
    let length = text[start..].find(']')? + 1;
    let note = text[start..][name.len() + 3..length - 1].to_owned();
    text.replace_range(start..start + length, "");
    *text = text.trim().replace("  ", " ");
    Some(note)
}

fn setting(argument: &Arg) -> Setting {
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let takes_value = argument.get_action().takes_values();
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let mut meaning = help.map(ToString::to_string).unwrap_or_default();
    let noted_default = take_note(&mut meaning, "default");
    let noted_variable = take_note(&mut meaning, "env");
    let default = (takes_value && !defaults.is_empty()).then(|| defaults.join(","));
    Setting {
        // Clap's own notation of an argument.
        usage: argument.to_string(),
        variable: argument
            .get_env()
            .map(|name| name.to_string_lossy().into_owned())
            .or(noted_variable),
        file_key: file_key(argument),
        default: default.or(noted_default),
        possible_values: match takes_value {
            true => argument
                .get_possible_values()
                .iter()
                .filter(|value| !value.is_hide_set())
                .map(|value| value.get_name().to_owned())
                .collect(),
            false => Vec::new(),
        },
        meaning,
        heading: argument
            .get_help_heading()
            .unwrap_or(OWN_HEADING)
            .to_owned(),
    }
}

/// A part of the text below a command's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelpBlock {
    /// The heading, without the colon: `Examples`.
    pub heading: Option<String>,
    /// The lines, without common indentation.
    pub lines: Vec<String>,
}

/// The heading of the examples.
pub const EXAMPLES: &str = "Examples";

/// The heading of the exit codes.
pub const EXIT_CODES: &str = "Exit codes";

/// Splits the text below a command's options into blocks at empty lines. A
/// line that ends with a colon, followed by indented lines, is a heading.
pub fn help_blocks(command: &Command) -> Vec<HelpBlock> {
    let text = command
        .get_after_long_help()
        .or_else(|| command.get_after_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    blocks.map(help_block).collect()
}

fn help_block(text: &str) -> HelpBlock {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let heading = match lines[..] {
        [first, second, ..] if second.starts_with("  ") => first.strip_suffix(':'),
        _ => None,
    };
    let indented = usize::from(heading.is_some());
    HelpBlock {
        heading: heading.map(str::to_owned),
        lines: lines[indented..]
            .iter()
            .map(|line| match heading {
                Some(_) => line.strip_prefix("  ").unwrap_or(line),
                None => line,
            })
            .map(str::to_owned)
            .collect(),
    }
}

/// The examples of a command: the command line, and its description, if there is one.
pub fn examples(command: &Command) -> Vec<(String, Option<String>)> {
    help_blocks(command)
        .into_iter()
        .filter(|block| block.heading.as_deref() == Some(EXAMPLES))
        .flat_map(|block| block.lines)
        .map(|line| match line.split_once("  ") {
            Some((typed, meaning)) => (typed.to_owned(), Some(meaning.trim().to_owned())),
            None => (line, None),
        })
        .collect()
}
