//! The keys of the configuration file, made of the flags: what a variable can set, the file can.

use std::any::TypeId;
use std::collections::BTreeSet;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, Command};

use super::super::settings::RegistryArgs;

/// The flag that names the file.
pub const CONFIG_FLAG: &str = "config";
/// Its key says what it holds; the flag is named after the variable.
const INSTANCE_FLAG: &str = "instance-id";
/// Which instances a source has.
pub(crate) const INSTANCES: &str = "instances";
/// Which database. Its variable is none of clap's, since a password may stand in it.
pub(crate) const DATABASE_URL: &str = "database_url";
/// The file that holds its URL.
pub(crate) const DATABASE_URL_FILE: &str = "database_url_file";
/// What only one source can have.
const IDENTITY: [&str; 2] = ["project_id", INSTANCES];
/// What says of one source which it is: given beside a file of several, it fits none of them.
pub(crate) const IDENTITY_ARGUMENTS: [&str; 3] = ["region", "endpoint", "project_id"];
/// The argument that names instances.
pub(crate) const INSTANCE_ARGUMENT: &str = "instance_id";

/// A key, and the flag it stands for.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// In the file.
    pub name: String,
    /// The argument, by clap's id.
    pub argument: String,
    /// The flag, with its dashes.
    pub flag: String,
    /// The variable that wins over the file.
    pub variable: Option<String>,
    /// What is written for it.
    pub kind: Kind,
    /// Where it may stand.
    pub place: Place,
    /// The values there are, if they can be counted.
    pub possible_values: Vec<String>,
    /// What holds without it.
    pub default: Option<String>,
    /// What it is for.
    pub help: String,
    /// Whether its value is not to be shown.
    pub is_secret: bool,
    parser: ValueParser,
}

/// What is written for a key in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// A string.
    Text,
    /// Strings, or one.
    Texts,
}

/// Where a key may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the top.
    Top,
    /// In a source, and at the top for those that do not have it.
    TopOrSource,
    /// In a source.
    Source,
}

/// The key of a flag, if it has one: its name in snake_case. A flag without a variable is about
/// one execution (`--dry-run`), and the emulator's settings are not those of a mirror.
pub fn file_key(argument: &Arg) -> Option<String> {
    let flag = argument.get_long()?;
    let key = match flag {
        CONFIG_FLAG => return None,
        INSTANCE_FLAG => INSTANCES.to_owned(),
        _ => flag.replace('-', "_"),
    };
    let variable = argument.get_env().map(|name| name.to_string_lossy());
    let is_setting = variable.is_some_and(|name| name.starts_with("SWR_"));
    let is_database = matches!(key.as_str(), DATABASE_URL | DATABASE_URL_FILE);
    (is_setting || is_database).then_some(key)
}

/// All keys, in the order of the commands' help.
pub(crate) fn keys(program: &Command) -> Vec<Key> {
    let registry = RegistryArgs::augment_args(Command::new("registry"));
    let of_source: BTreeSet<String> = registry.get_arguments().filter_map(file_key).collect();
    let mut keys = Vec::new();
    collect(program, &of_source, &mut keys);
    keys
}

fn collect(command: &Command, of_source: &BTreeSet<String>, keys: &mut Vec<Key>) {
    for argument in command.get_arguments() {
        let Some(name) = file_key(argument) else {
            continue;
        };
        if !keys.iter().any(|key| key.name == name) {
            keys.push(Key::new(name, argument, of_source));
        }
    }
    for command in command.get_subcommands() {
        collect(command, of_source, keys);
    }
}

impl Key {
    fn new(name: String, argument: &Arg, of_source: &BTreeSet<String>) -> Key {
        let place = match of_source.contains(&name) {
            true if IDENTITY.contains(&name.as_str()) => Place::Source,
            true => Place::TopOrSource,
            false => Place::Top,
        };
        let help = argument.get_help().map(ToString::to_string);
        let values = argument.get_possible_values();
        let kind = kind(argument);
        let is_shown = matches!(argument.get_action(), ArgAction::Set) && kind != Kind::Boolean;
        let defaults = argument.get_default_values().first();
        Key {
            argument: argument.get_id().to_string(),
            flag: format!("--{}", argument.get_long().unwrap_or_default()),
            variable: argument
                .get_env()
                .map(|name| name.to_string_lossy().into_owned()),
            place,
            possible_values: match kind {
                Kind::Text => values
                    .iter()
                    .map(|value| value.get_name().to_owned())
                    .collect(),
                _ => Vec::new(),
            },
            default: defaults
                .filter(|_| is_shown)
                .map(|value| value.to_string_lossy().into_owned()),
            help: without_variable(&help.unwrap_or_default()).to_owned(),
            is_secret: argument.is_hide_env_values_set(),
            parser: argument.get_value_parser().clone(),
            kind,
            name,
        }
    }

    /// Whether the flag's parser takes the value; if not, why.
    pub(crate) fn check(&self, value: &str) -> Result<(), String> {
        let argument = Arg::new("value")
            .value_parser(self.parser.clone())
            .allow_hyphen_values(true);
        let alone = Command::new("value")
            .no_binary_name(true)
            .disable_help_flag(true)
            .arg(argument);
        let Err(error) = alone.try_get_matches_from(["--", value]) else {
            return Ok(());
        };
        if let Some(ContextValue::Strings(values)) = error.get(ContextKind::ValidValue)
            && !values.is_empty()
        {
            return Err(format!("it is one of {}", values.join(", ")));
        }
        let cause = std::error::Error::source(&error);
        Err(cause.map_or_else(|| "the value is not taken".to_owned(), ToString::to_string))
    }
}

/// The note is of a variable that clap does not know.
fn without_variable(help: &str) -> &str {
    help.rsplit_once(" [env: ")
        .map_or(help, |(before, _)| before)
}

fn kind(argument: &Arg) -> Kind {
    let parser = argument.get_value_parser().type_id();
    let is_any_of = |types: &[TypeId]| types.iter().any(|of| parser == *of);
    if matches!(argument.get_action(), ArgAction::Append) {
        Kind::Texts
    } else if is_any_of(&[TypeId::of::<bool>()]) {
        Kind::Boolean
    } else if is_any_of(&[TypeId::of::<f64>()]) {
        Kind::Number
    } else if is_any_of(&[
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
    ]) {
        Kind::Integer
    } else {
        Kind::Text
    }
}

/// The known name that an unknown one was most likely meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// As clap has it for its suggestions.
    const ALIKE: f64 = 0.7;
    let alike = known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known));
    let nearest = alike.max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest
        .filter(|(likeness, _)| *likeness > ALIKE)
        .map(|(_, known)| known)
}
