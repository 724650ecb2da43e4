//! The keys of the configuration file, derived from the flags: every flag with a variable has a key.

use std::any::TypeId;
use std::collections::BTreeSet;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, Command};

use super::super::settings::RegistryArgs;

/// The flag that names the file.
pub const CONFIG_FLAG: &str = "config";
/// Named after its variable in the file, not after the flag.
const INSTANCE_FLAG: &str = "instance-id";
/// The key for the instances of a source.
pub(crate) const INSTANCES: &str = "instances";
/// The key for the database. Clap does not read its variable, because it may contain a password.
pub(crate) const DATABASE_URL: &str = "database_url";
/// The key for a file that contains the database URL.
pub(crate) const DATABASE_URL_FILE: &str = "database_url_file";
/// Keys that only a source can have.
const IDENTITY: [&str; 2] = ["project_id", INSTANCES];
/// Arguments that identify one source. They are rejected with a file of several sources.
pub(crate) const IDENTITY_ARGUMENTS: [&str; 3] = ["region", "endpoint", "project_id"];
pub(crate) const INSTANCE_ARGUMENT: &str = "instance_id";

/// A key and the flag it corresponds to.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// Name in the file.
    pub name: String,
    /// Clap's id of the argument.
    pub argument: String,
    /// The flag, with its dashes.
    pub flag: String,
    /// The variable that overrides the file.
    pub variable: Option<String>,
    /// Type of the value.
    pub kind: Kind,
    /// Where the key is allowed.
    pub place: Place,
    /// The allowed values, if there is a fixed list.
    pub possible_values: Vec<String>,
    pub default: Option<String>,
    /// Help text.
    pub help: String,
    /// Whether its value must not be shown.
    pub is_secret: bool,
    parser: ValueParser,
}

/// Type of a value in TOML.
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
    /// A list of strings, or a string.
    Texts,
}

/// Where a key is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the top.
    Top,
    /// In a source, and at the top as the default of all sources.
    TopOrSource,
    /// In a source only.
    Source,
}

/// The key of a flag, if it has one: its name in snake_case. A flag without a variable applies to
/// one execution (`--dry-run`), and the emulator's settings do not belong in the file.
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

    /// Checks whether the flag's parser accepts the value.
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
            return Err(format!("it must be one of {}", values.join(", ")));
        }
        let cause = std::error::Error::source(&error);
        Err(cause.map_or_else(|| "the value is not valid".to_owned(), ToString::to_string))
    }
}

/// The note names a variable that clap does not read.
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
