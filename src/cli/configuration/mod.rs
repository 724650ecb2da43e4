//! The configuration file, as a layer below flags and variables.
//!
//! Clap does the layering: the command line is parsed again, with the file's values as the
//! defaults. So flags override variables, variables override the file, the file overrides the built-in
//! defaults, and the same parsers check every value. With several sources, it is parsed
//! once for each, with the source's values over those at the top of the file.

pub(super) mod credential_keys;
pub(super) mod file;
pub(super) mod keys;
pub(super) mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, FromArgMatches};

use super::exit::{Exit, Failure};
use super::names::nearest;
use super::settings::{Configured, RegistryArgs};
use super::variables::variable;
use file::{ConfigurationFile, FileSource, Setting};
use keys::{
    DATABASE_URL, DATABASE_URL_FILE, IDENTITY_ARGUMENTS, INSTANCE_ARGUMENT, INSTANCES, file_key,
    keys,
};

/// Where the settings of a command come from.
#[derive(Debug)]
pub(super) struct Layers {
    /// The parsed command line, with the file's values.
    pub matches: ArgMatches,
    /// The file, if there is one.
    pub file: Option<ConfigurationFile>,
    /// The sources that the command uses.
    pub sources: Vec<LayeredSource>,
}

#[derive(Debug)]
pub(super) struct LayeredSource {
    /// Its settings.
    pub registry: RegistryArgs,
    /// Where they come from.
    pub matches: ArgMatches,
    /// Its index in the file, from 0.
    pub index: usize,
}

impl Layers {
    /// Flags and variables only.
    pub(super) fn without_file(matches: ArgMatches) -> Layers {
        Layers {
            matches,
            file: None,
            sources: Vec::new(),
        }
    }
}

/// Reads the file and merges it below the parsed command line. Fails with all errors in the file,
/// or in the arguments that do not fit it.
pub(super) fn layer(
    command: &Command,
    arguments: &[OsString],
    parsed: &ArgMatches,
    path: &Path,
) -> Result<Layers, Failure> {
    let file = file::read(path, &keys(command))?;
    let given = Given(leaf(parsed));
    let mut top: Defaults<'_> = by_key(&file.settings);
    if given.names_database() {
        top.remove(DATABASE_URL);
        top.remove(DATABASE_URL_FILE);
    }
    let parse = |defaults: &Defaults<'_>| parse(command, arguments, defaults);
    let selected = match given.has(INSTANCE_ARGUMENT) {
        true => select(&file, &given)?,
        false => Vec::new(),
    };
    let is_one_of_several = file.sources.len() > 1;
    let mut sources = Vec::new();
    for Selected {
        index,
        instances,
        among,
    } in selected
    {
        let source = &file.sources[index];
        let mut defaults = top.clone();
        if source.get("region").is_some() {
            // They may belong to another region, so only this source's own values count.
            defaults.remove("endpoint");
            defaults.remove("iam_endpoint");
        }
        defaults.extend(by_key(&source.settings));
        let matches = parse(&defaults)?;
        let mut registry = RegistryArgs::from_arg_matches(leaf(&matches)).map_err(refused)?;
        if is_one_of_several {
            registry.instance_id = instances;
        }
        registry.configured = Configured {
            name: source.name.clone(),
            credentials: source.credentials.clone(),
            among,
        };
        sources.push(LayeredSource {
            registry,
            matches,
            index,
        });
    }
    check_overlap(&file, &sources)?;
    let matches = match &sources[..] {
        [only] => only.matches.clone(),
        _ => parse(&top)?,
    };
    Ok(Layers {
        matches,
        file: Some(file),
        sources,
    })
}

/// The innermost subcommand, which has the settings.
pub(super) fn leaf(matches: &ArgMatches) -> &ArgMatches {
    matches
        .subcommand()
        .map_or(matches, |(_, matches)| leaf(matches))
}

/// Whether the command has settings that a file can hold, other than those of every command. Processes
/// that the program starts for itself get all settings as arguments, and may run as a user who must not
/// read the file.
pub(super) fn has_settings(command: &Command, parsed: &ArgMatches) -> bool {
    let mut has_any = false;
    let (mut command, mut parsed) = (command, parsed);
    while let Some((name, matches)) = parsed.subcommand() {
        let Some(below) = command.find_subcommand(name) else {
            break;
        };
        let mut arguments = below.get_arguments();
        has_any |= arguments.any(|argument| file_key(argument).is_some());
        (command, parsed) = (below, matches);
    }
    has_any && !command.is_hide_set()
}

type Defaults<'a> = BTreeMap<&'a str, &'a Setting>;

fn by_key(settings: &[Setting]) -> Defaults<'_> {
    settings
        .iter()
        .map(|setting| (setting.key.as_str(), setting))
        .collect()
}

fn parse(
    command: &Command,
    arguments: &[OsString],
    defaults: &Defaults<'_>,
) -> Result<ArgMatches, Failure> {
    with_defaults(command.clone(), defaults)
        .try_get_matches_from(arguments)
        .map_err(refused)
}

fn with_defaults(command: Command, defaults: &Defaults<'_>) -> Command {
    command
        .mut_args(|argument| {
            let key = file_key(&argument);
            let setting = key.and_then(|key| defaults.get(key.as_str()));
            let argument = without_empty_variable(argument);
            match setting {
                Some(setting) => argument.default_values(&setting.values),
                None => argument,
            }
        })
        .mut_subcommands(|command| with_defaults(command, defaults))
}

/// An empty variable counts as unset: compose files and manifests pass unset variables on as empty
/// ones.
pub(super) fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(without_empty_variable)
        .mut_subcommands(without_empty_variables)
}

fn without_empty_variable(argument: Arg) -> Arg {
    let is_empty = argument.get_env().is_some_and(|name| {
        let name = name.to_string_lossy();
        variable(&name).is_none()
            && std::env::var_os(&*name)
                .is_some_and(|value| value.to_str().is_some_and(|value| value.trim().is_empty()))
    });
    match is_empty {
        true => argument.env(None::<&str>),
        false => argument,
    }
}

/// The error itself would only repeat a value that was checked before.
fn refused(error: clap::Error) -> Failure {
    let text = format!(
        "the configuration does not fit this command: {}",
        error.kind()
    );
    Failure::new(Exit::Usage, text).hint("`swr-sync config check` shows details")
}

/// The command line and the environment, without the file.
struct Given<'a>(&'a ArgMatches);

impl Given<'_> {
    fn has(&self, argument: &str) -> bool {
        self.0.try_contains_id(argument).is_ok()
    }

    /// How an argument was set: by flag, or by a variable that is not empty.
    fn by(&self, argument: &str) -> Option<ValueSource> {
        if !self.has(argument) {
            return None;
        }
        let source = self.0.value_source(argument)?;
        let mut values = self.0.get_raw(argument)?;
        let is_given = match source {
            ValueSource::CommandLine => true,
            ValueSource::EnvVariable => {
                values.any(|value| !value.to_string_lossy().trim().is_empty())
            }
            _ => false,
        };
        is_given.then_some(source)
    }

    fn texts(&self, argument: &str) -> Vec<String> {
        if self.by(argument).is_none() {
            return Vec::new();
        }
        let values = self.0.get_raw(argument).into_iter().flatten();
        values
            .map(|value| value.to_string_lossy().trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect()
    }

    fn names_database(&self) -> bool {
        let by_flag = ["database_url", "database_url_file"];
        let by_variable = ["DATABASE_URL", "DATABASE_URL_FILE"];
        by_flag.iter().any(|argument| self.by(argument).is_some())
            || by_variable.iter().any(|name| variable(name).is_some())
    }
}

/// A source that the command uses.
struct Selected {
    index: usize,
    /// Its instances, or `all`.
    instances: Vec<String>,
    /// The selected instances, if not all.
    among: Option<Vec<String>>,
}

/// Selects the sources and instances that a command uses.
fn select(file: &ConfigurationFile, given: &Given<'_>) -> Result<Vec<Selected>, Failure> {
    let path = file.path.display();
    let names: Vec<&str> = file.sources.iter().filter_map(name_of).collect();
    let asked = given.texts("source");
    if let Some(unknown) = asked.iter().find(|name| !names.contains(&name.as_str())) {
        let nearest = nearest(unknown, names.iter().copied());
        let hint = match nearest {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None if names.is_empty() => "no source of the file has a name".to_owned(),
            None => format!("the sources are {}", names.join(", ")),
        };
        let text = format!("{path} has no source `{unknown}`");
        return Err(Failure::new(Exit::Usage, text).hint(hint));
    }
    if file.sources.len() > 1 {
        for argument in IDENTITY_ARGUMENTS {
            if let Some(by) = given.by(argument) {
                return Err(ambiguous(argument, by, &path.to_string(), &names));
            }
        }
    }
    let is_asked = |source: &FileSource| {
        asked.is_empty() || name_of(source).is_some_and(|name| asked.iter().any(|a| a == name))
    };
    let sources = file.sources.iter().enumerate();
    let selected: Vec<Selected> = sources
        .filter(|(_, source)| is_asked(source))
        .map(|(index, source)| Selected {
            index,
            instances: source
                .get(INSTANCES)
                .map(|setting| setting.values.clone())
                .unwrap_or_default(),
            among: None,
        })
        .collect();
    if selected.is_empty() && !names_registry(given) {
        let text = format!("{path} has no [[source]], and flags and variables select no registry");
        return Err(Failure::new(Exit::Usage, text)
            .hint("add one, as in docs/swr-sync.example.toml, or set SWR_REGION, SWR_PROJECT_ID and SWR_INSTANCE_ID"));
    }
    let ids = given.texts(INSTANCE_ARGUMENT);
    // Flags and variables configure a single source, as without a file.
    if file.sources.len() < 2 || ids.is_empty() || ids.iter().any(|id| id == "all") {
        return Ok(selected);
    }
    restrict(selected, &ids, &path.to_string())
}

fn names_registry(given: &Given<'_>) -> bool {
    let arguments = IDENTITY_ARGUMENTS.iter().chain([&INSTANCE_ARGUMENT]);
    let mut given_arguments = arguments.filter(|argument| given.by(argument).is_some());
    given_arguments.next().is_some()
}

/// Keeps the sources that have one of the instances, or may have it.
fn restrict(selected: Vec<Selected>, ids: &[String], path: &str) -> Result<Vec<Selected>, Failure> {
    let mut unfound: BTreeSet<&String> = ids.iter().collect();
    let mut restricted = Vec::new();
    let mut asks_a_project = false;
    for mut source in selected {
        if source.instances.iter().any(|id| id == "all") {
            asks_a_project = true;
            source.among = Some(ids.to_vec());
            restricted.push(source);
            continue;
        }
        source.instances.retain(|id| ids.contains(id));
        for id in &source.instances {
            unfound.remove(id);
        }
        if !source.instances.is_empty() {
            restricted.push(source);
        }
    }
    match unfound.first() {
        Some(id) if !asks_a_project => {
            let text = format!("no source of {path} has the instance {id}");
            Err(Failure::new(Exit::Usage, text)
                .hint("--instance-id selects from the instances of the file; `swr-sync config check` lists them"))
        }
        // Instances that were found in a source need not be searched for.
        None => {
            restricted.retain(|source| source.among.is_none());
            Ok(restricted)
        }
        Some(_) => Ok(restricted),
    }
}

fn name_of(source: &FileSource) -> Option<&str> {
    source.name.as_deref()
}

fn ambiguous(argument: &str, by: ValueSource, path: &str, names: &[&str]) -> Failure {
    let key = argument;
    let setting = match by {
        ValueSource::CommandLine => format!("--{}", argument.replace('_', "-")),
        _ => format!("SWR_{}", argument.to_uppercase()),
    };
    let text = format!(
        "{setting} applies to one registry, but {path} has {} sources ({})",
        names.len(),
        names.join(", ")
    );
    Failure::new(Exit::Usage, text).hint(format!(
        "omit {setting}: each [[source]] has its own `{key}`"
    ))
}

/// Two sources may use the same project, but not the same instance.
fn check_overlap(file: &ConfigurationFile, sources: &[LayeredSource]) -> Result<(), Failure> {
    for (position, one) in sources.iter().enumerate() {
        for other in &sources[..position] {
            let project = |source: &LayeredSource| {
                let endpoint = source.registry.endpoint().ok()?;
                Some((endpoint, source.registry.project_id.clone()?))
            };
            let has_all = |source: &LayeredSource| {
                let mut ids = source.registry.instance_id.iter();
                ids.any(|id| id == "all")
            };
            let is_same = project(one).is_some() && project(one) == project(other);
            if is_same && (has_all(one) || has_all(other)) {
                let lines = [other, one].map(|source| file.sources[source.index].line);
                let text = format!(
                    "{}:{}: the source of line {} has the same project, and one of the two has all instances",
                    file.path.display(),
                    lines[1],
                    lines[0]
                );
                return Err(Failure::new(Exit::Usage, text).hint(
                    "an instance belongs to one source: list the ids in both, or remove one source",
                ));
            }
        }
    }
    Ok(())
}
