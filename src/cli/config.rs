//! `swr-sync config`: checks and shows the configuration.

use std::path::Path;

use clap::parser::ValueSource;
use secrecy::ExposeSecret;

use super::configuration::credential_keys::{Credential, Held};
use super::configuration::file::{ConfigurationFile, Setting};
use super::configuration::keys::{DATABASE_URL, DATABASE_URL_FILE, Key, Kind, Place, keys};
use super::configuration::schema::schema;
use super::configuration::{Layers, leaf};
use super::exit::{Exit, Failure};
use super::result::{Printer, write_stdout};
use super::settings::{DatabaseArgs, Instances, RegistryArgs, SourceArgs, holds_password};
use super::sync;
use super::variables::variable;
use crate::database::reader::ResultColumn;
use crate::report::Format;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check file, flags and variables, and list what would be synced; needs no network
    #[command(after_help = CHECK_AFTER_HELP)]
    Check(Box<CheckArgs>),
    /// Show every setting and where it comes from
    #[command(after_help = SHOW_AFTER_HELP)]
    Show(Box<ShowArgs>),
    /// Print the JSON Schema of the configuration file, for editors
    #[command(after_help = SCHEMA_AFTER_HELP)]
    Schema,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    settings: sync::Args,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    #[command(flatten)]
    settings: sync::Args,
}

pub(super) const AFTER_HELP: &str = "\
The keys of a configuration file are the names of the flags in snake_case: --max-in-flight is
max_in_flight. Every flag that has a variable has a key. Flags override variables, and variables override
the file. Each [[source]] is a project with some or all of its instances, and may have its own credentials:

  max_parallel_instances = 4

  [[source]]
  name = \"prod\"
  region = \"cn-north-4\"
  project_id = \"0123456789abcdef0123456789abcdef\"
  instances = \"all\"

  [source.credentials]
  access_key_env = \"PROD_ACCESS_KEY\"
  secret_key_file = \"/run/secrets/prod-secret-key\"

Examples:
  swr-sync config check --config swr-sync.toml
  swr-sync config show --config swr-sync.toml --format json
  swr-sync config schema > swr-sync.schema.json";

const CHECK_AFTER_HELP: &str = "\
Examples:
  swr-sync config check --config swr-sync.toml
  swr-sync config check --config swr-sync.toml --source prod";

const SHOW_AFTER_HELP: &str = "\
Secrets are printed as ***.

Examples:
  swr-sync config show --config swr-sync.toml
  swr-sync config show --config swr-sync.toml --format json";

const SCHEMA_AFTER_HELP: &str = "\
Examples:
  swr-sync config schema > swr-sync.schema.json";

impl Args {
    /// The arguments that select the registries.
    pub(super) fn sources_mut(&mut self) -> Option<&mut SourceArgs> {
        match &mut self.action {
            Action::Check(args) => Some(&mut args.settings.sources),
            Action::Show(args) => Some(&mut args.settings.sources),
            Action::Schema => None,
        }
    }
}

pub(super) async fn run(
    args: Args,
    command: &clap::Command,
    layers: &Layers,
) -> Result<Exit, Failure> {
    match args.action {
        Action::Check(args) => check(&args.settings, layers),
        Action::Show(args) => {
            let ShowArgs { format, settings } = *args;
            show(&settings, &Printer::with(format)?, command, layers)
        }
        Action::Schema => {
            // A schema is always serializable.
            let text = format!("{:#}\n", schema(&keys(command)));
            write_stdout(&text)
        }
    }
}

/// Prints what would be synced, or all errors in the settings.
fn check(settings: &sync::Args, layers: &Layers) -> Result<Exit, Failure> {
    let mut lines = Vec::new();
    let mut failures = Vec::new();
    match &layers.file {
        Some(file) => lines.push(format!("configuration  {}", file.path.display())),
        None => lines.push("configuration  flags and variables, no file".to_owned()),
    }
    match database(&settings.database) {
        Ok(place) => lines.push(format!("database       {place}")),
        Err(failure) => failures.push(failure),
    }
    for registry in settings.sources.registries()? {
        let name = registry.configured.name.as_deref();
        match source(registry) {
            Ok(text) => lines.push(format!(
                "source         {}{text}",
                name.map(|name| format!("{name}: ")).unwrap_or_default()
            )),
            Err(mut failure) => {
                if let Some(name) = name {
                    let text = format!("source {name}: {}", failure.error);
                    failure.error = Failure::new(failure.exit, text).error;
                }
                failures.push(failure);
            }
        }
    }
    if let Some(failure) = together(failures) {
        return Err(failure);
    }
    lines.push(String::new());
    write_stdout(&lines.join("\n"))
}

/// Combines several failures into one, each with its hint.
fn together(mut failures: Vec<Failure>) -> Option<Failure> {
    let first = failures.pop()?;
    if failures.is_empty() {
        return Some(first);
    }
    failures.push(first);
    let text = format!("{} settings are missing or wrong", failures.len());
    let details = failures.iter().map(|failure| match &failure.hint {
        Some(hint) => format!("{} ({hint})", failure.message()),
        None => failure.message(),
    });
    Some(Failure::new(Exit::Usage, text).details(details))
}

/// Location of the database, without a password.
fn database(args: &DatabaseArgs) -> Result<String, Failure> {
    Ok(match args.named()? {
        Some(database) => database.place().to_owned(),
        None => "embedded".to_owned(),
    })
}

fn source(registry: &RegistryArgs) -> Result<String, Failure> {
    let endpoint = registry.endpoint()?;
    let project_id = registry.project_id()?;
    let instances = match registry.instances()? {
        Instances::All { among: None } => "all instances".to_owned(),
        Instances::All { among: Some(ids) } => format!("of all instances {}", ids.join(", ")),
        Instances::These(ids) => match &ids[..] {
            [only] => format!("instance {only}"),
            several => format!("instances {}", several.join(", ")),
        },
    };
    let credentials = registry.locate_credentials()?;
    credentials.check_secrets()?;
    Ok(format!(
        "{instances} of project {project_id} at {endpoint}, with {}",
        credentials.source()
    ))
}

/// A setting as `config show` prints it.
struct Row {
    source: Option<String>,
    key: String,
    value: Option<String>,
    origin: String,
}

fn show(
    settings: &sync::Args,
    printer: &Printer,
    command: &clap::Command,
    layers: &Layers,
) -> Result<Exit, Failure> {
    let keys = keys(command);
    let file = layers.file.as_ref();
    let mut rows = Vec::new();
    let has_sources = layers.sources.len() > 1;
    for key in &keys {
        let is_of_job = !has_sources || key.place == Place::Top;
        if is_of_job {
            let own = match &layers.sources[..] {
                [only] => file.map(|file| file.sources[only.index].settings.as_slice()),
                _ => None,
            };
            rows.extend(row(key, &layers.matches, file, own, None));
        }
    }
    rows.extend(database_rows(&settings.database, layers));
    for source in &layers.sources {
        let Some(file) = file else { break };
        let of_file = &file.sources[source.index];
        let name = has_sources.then(|| of_file.name.clone()).flatten();
        if has_sources {
            let own = keys.iter().filter(|key| key.place != Place::Top);
            rows.extend(own.filter_map(|key| {
                row(
                    key,
                    &source.matches,
                    Some(file),
                    Some(&of_file.settings),
                    name.as_deref(),
                )
            }));
        }
        rows.extend(of_file.credentials.iter().map(|credential| Row {
            source: name.clone(),
            ..credential_row(credential)
        }));
    }
    let ambient = settings.sources.registries()?.iter();
    rows.extend(
        ambient
            .filter(|registry| registry.configured.credentials.is_empty())
            .map(|registry| ambient_row(registry, has_sources)),
    );
    let mut columns = vec!["key", "value", "origin"];
    if has_sources {
        columns.insert(0, "source");
    }
    let columns: Vec<ResultColumn> = columns.into_iter().map(ResultColumn::text).collect();
    let rows = rows.into_iter().map(|row| {
        let Row {
            source,
            key,
            value,
            origin,
        } = row;
        let mut row = vec![Some(key), value, Some(origin)];
        if has_sources {
            row.insert(0, source);
        }
        row
    });
    printer.print_rows(&columns, &rows.collect::<Vec<_>>())?;
    Ok(Exit::Success)
}

const MASK: &str = "***";

/// A setting of the command; `None` if only other commands have it, or if it has its own row.
fn row(
    key: &Key,
    matches: &clap::ArgMatches,
    file: Option<&ConfigurationFile>,
    own: Option<&[Setting]>,
    source: Option<&str>,
) -> Option<Row> {
    if matches!(key.name.as_str(), DATABASE_URL | DATABASE_URL_FILE) {
        return None;
    }
    let matches = leaf(matches);
    matches.try_contains_id(&key.argument).ok()?;
    let value = match key.kind {
        // A variable may use another spelling of the value.
        Kind::Boolean => matches.get_flag(&key.argument).to_string(),
        _ => {
            let values = matches.get_raw(&key.argument).into_iter().flatten();
            let values = values.map(|value| value.to_string_lossy().into_owned());
            values.collect::<Vec<_>>().join(",")
        }
    };
    let in_file = || {
        let path = &file?.path;
        let own = own.unwrap_or_default().iter();
        let mut settings = own.chain(&file?.settings);
        let setting = settings.find(|setting| setting.key == key.name)?;
        Some(at(path, setting.line))
    };
    let origin = match matches.value_source(&key.argument) {
        Some(ValueSource::CommandLine) => key.flag.clone(),
        Some(ValueSource::EnvVariable) => key.variable.clone().unwrap_or_default(),
        _ => in_file().unwrap_or_else(|| "default".to_owned()),
    };
    let is_secret = key.is_secret || (value.contains("://") && holds_password(&value));
    Some(Row {
        source: source.map(str::to_owned),
        key: key.name.clone(),
        value: match value.is_empty() {
            true => None,
            false if is_secret => Some(MASK.to_owned()),
            false => Some(value),
        },
        origin,
    })
}

fn at(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

/// The URL may contain a password, so its host and database are shown instead.
fn database_rows(args: &DatabaseArgs, layers: &Layers) -> Vec<Row> {
    let matches = leaf(&layers.matches);
    let is_flag = |argument: &str| matches.value_source(argument) == Some(ValueSource::CommandLine);
    let in_file = |key: &str| {
        let file = layers.file.as_ref()?;
        let setting = file.settings.iter().find(|setting| setting.key == key)?;
        Some(at(&file.path, setting.line))
    };
    let variable_name = ["DATABASE_URL", "DATABASE_URL_FILE"]
        .into_iter()
        .find(|name| variable(name).is_some());
    let origin = if is_flag("database_url") {
        "--database-url".to_owned()
    } else if is_flag("database_url_file") {
        "--database-url-file".to_owned()
    } else if let Some(name) = variable_name {
        name.to_owned()
    } else {
        let of_file = in_file(DATABASE_URL).or_else(|| in_file(DATABASE_URL_FILE));
        of_file.unwrap_or_else(|| "default".to_owned())
    };
    let value = match database(args) {
        Ok(place) => place,
        Err(failure) => format!("unusable: {}", failure.message()),
    };
    vec![Row {
        source: None,
        key: "database".to_owned(),
        value: Some(value),
        origin,
    }]
}

/// Credentials that are not in the file.
fn ambient_row(registry: &RegistryArgs, has_sources: bool) -> Row {
    let name = registry.configured.name.clone();
    Row {
        source: name.filter(|_| has_sources),
        key: "credentials".to_owned(),
        value: Some(match registry.locate_credentials() {
            Ok(located) => located.source().to_owned(),
            Err(failure) => format!("unusable: {}", failure.message()),
        }),
        origin: "environment".to_owned(),
    }
}

fn credential_row(credential: &Credential) -> Row {
    let value = match &credential.held {
        Held::Here(_) if credential.key.is_secret => MASK.to_owned(),
        // Stored as a secret, but not confidential.
        Held::Here(value) => value.expose_secret().to_owned(),
        Held::InFile(path) => path.display().to_string(),
        Held::InVariable(name) => name.clone(),
    };
    Row {
        source: None,
        key: format!("credentials.{}", credential.written()),
        value: Some(value),
        origin: credential.place.clone(),
    }
}
