//! What the definitions of the command line say, taken apart for manual pages and documents.

use clap::{Arg, ArgAction, Command};

pub use super::configuration::keys::{CONFIG_FLAG, file_key};

/// A command with its place: `["db", "start"]`. The program itself has an empty path.
#[derive(Debug, Clone)]
pub struct CommandPage {
    /// The names of the command and of those it is under, without the program's.
    pub path: Vec<String>,
    /// The definition, built: with global arguments, and with usage and names of its own.
    pub command: Command,
}

/// The program and all commands that help shows, each before those that are under it.
pub fn pages(program: Command) -> Vec<CommandPage> {
    // It would have a page of its own, for each command that has others under it.
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
    /// As it is written: `--region <REGION>`, `--dry-run`, or `[NAME]`.
    pub usage: String,
    /// The variable of the environment that sets it, if one does.
    pub variable: Option<String>,
    /// The key of the configuration file that sets it, if one does.
    pub file_key: Option<String>,
    /// What holds if nothing sets it, if that is a value.
    pub default: Option<String>,
    /// The values there are, if they can be counted.
    pub possible_values: Vec<String>,
    /// What it says.
    pub meaning: String,
    /// The heading it stands under in help.
    pub heading: String,
}

/// The heading of arguments that have none.
const OWN_HEADING: &str = "Options";

/// What a command can be told, in the order of its help; not the flags that every program has.
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

/// Takes a note out of the text, such as `[default: the newest found]`. Clap makes such notes, and
/// help that says more than clap knows has them written out.
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
        // Clap's own way to write an argument.
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
    /// What stands above it, without the colon: `Examples`.
    pub heading: Option<String>,
    /// Its lines, without a common indentation.
    pub lines: Vec<String>,
}

/// The heading of the block that has a command's examples.
pub const EXAMPLES: &str = "Examples";

/// The heading of the block that has the exit codes.
pub const EXIT_CODES: &str = "Exit codes";

/// Takes apart what stands below a command's options: blocks with an empty line between them. A
/// line that ends with a colon, above lines that are indented, is a heading.
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

/// The examples of a command: the line to type, and what it does, if that is said.
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
