//! The command line: types for clap, settings, and one file per command.

mod completions;
mod config;
mod configuration;
mod console;
mod credentials;
mod doctor;
pub mod environment;
pub mod exit;
mod failure;
mod hints;
mod http;
mod jitter;
mod job;
mod locked;
mod man;
mod migrate;
mod names;
mod outputs;
mod progress;
mod proxy;
mod query;
pub mod reference;
mod replace_file;
mod report;
mod result;
mod settings;
mod shard;
mod signals;
mod source;
mod status;
mod summary;
mod sync;
mod telemetry;
#[cfg(feature = "otlp")]
mod traces;
mod variables;
mod verify;

// Optional parts. In builds without their feature, another file replaces each of them.
#[cfg_attr(not(feature = "embedded-db"), path = "absent.rs")]
mod db;
#[cfg_attr(
    not(all(feature = "emulator", feature = "embedded-db")),
    path = "absent.rs"
)]
mod demo;
#[cfg_attr(not(feature = "embedded-db"), path = "no_embedded.rs")]
mod embedded;
#[cfg_attr(not(feature = "emulator"), path = "absent.rs")]
mod emulator;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::runtime::{self, Runtime};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use configuration::Layers;
use exit::{Exit, Failure};
use failure::print_failure;
use settings::SourceArgs;
use telemetry::{LogArgs, Telemetry};

/// Mirrors a Huawei Cloud SWR Enterprise registry (artifacts, tags, build histories) into
/// PostgreSQL, so that you can query it with SQL.
#[derive(Debug, Parser)]
#[command(version, after_help = after_help())]
struct Cli {
    /// Configuration file in TOML. Its keys are the flags' names in snake_case; flags and variables
    /// override it. The registries are its [[source]] tables; see `swr-sync config --help`
    #[arg(
        long,
        value_name = "FILE",
        env = "SWR_SYNC_CONFIG",
        global = true,
        help_heading = "Configuration file"
    )]
    config: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  swr-sync demo         try it: needs only the PostgreSQL binaries
  swr-sync doctor       check what a run needs, and what is missing
  swr-sync sync         mirror a registry
  swr-sync status       show how old the data is
  swr-sync report       list the reports; `report html` makes a page of them

A run needs SWR_REGION, SWR_PROJECT_ID, SWR_INSTANCE_ID, HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK, and
DATABASE_URL unless it uses the embedded database. `swr-sync sync --help` explains them.";

fn after_help() -> String {
    let mut help = format!("{EXAMPLES}\n\n{}:", reference::EXIT_CODES);
    for exit in Exit::ALL {
        let code = exit.code();
        // Writing to a string does not fail.
        let _ = write!(help, "\n  {code:>3}  {}", exit.meaning());
    }
    help
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Crawl one or more instances and publish what they contain
    #[command(
        after_help = sync::SHORT_AFTER_HELP,
        after_long_help = format!("{}\n\n{}", environment::secrets_help(), sync::AFTER_HELP)
    )]
    Sync(Box<sync::Args>),
    /// Check everything that a run needs, without writing anything
    #[command(after_help = doctor::AFTER_HELP)]
    Doctor(Box<doctor::Args>),
    /// Compare the stored data with the registry, row by row
    #[command(after_help = verify::AFTER_HELP)]
    Verify(Box<verify::Args>),
    /// Show the last runs, and how old the data is
    #[command(after_help = status::AFTER_HELP)]
    Status(status::Args),
    /// List the reports, or print one
    #[command(after_help = report::AFTER_HELP)]
    Report(Box<report::Args>),
    /// Run a read-only query
    #[command(after_help = query::AFTER_HELP)]
    Query(query::Args),
    /// Bring the database's schema up to date
    #[command(after_help = migrate::AFTER_HELP)]
    Migrate(migrate::Args),
    /// Check or show the configuration
    #[command(after_help = config::AFTER_HELP)]
    Config(config::Args),
    #[command(flatten)]
    Demo(demo::Command),
    #[command(flatten)]
    Emulator(emulator::Command),
    #[command(flatten)]
    Db(db::Command),
    /// Print a script that completes command lines in a shell
    #[command(after_help = completions::AFTER_HELP)]
    Completions(completions::Args),
    /// Print the manual page, or write those of all commands
    #[command(after_help = man::AFTER_HELP)]
    Man(man::Args),
}

/// The command line's definitions.
pub fn command() -> clap::Command {
    reflowed(Cli::command())
}

/// Joins the lines of each paragraph, so that help is wrapped to the terminal. Indented lines stay.
fn reflowed(mut command: clap::Command) -> clap::Command {
    let joined = |text: &clap::builder::StyledStr| {
        let text = text.to_string();
        let mut joined = String::new();
        let mut was_prose = false;
        for line in text.lines() {
            let is_prose = !line.is_empty() && !line.starts_with(' ');
            joined.push_str(match (joined.is_empty(), was_prose && is_prose) {
                (true, _) => "",
                (false, true) => " ",
                (false, false) => "\n",
            });
            joined.push_str(line);
            was_prose = is_prose;
        }
        joined
    };
    if let Some(text) = command.get_after_help().map(joined) {
        command = command.after_help(text);
    }
    if let Some(text) = command.get_after_long_help().map(joined) {
        command = command.after_long_help(text);
    }
    command.mut_subcommands(reflowed)
}

impl Command {
    /// The arguments that select the registries.
    fn sources_mut(&mut self) -> Option<&mut SourceArgs> {
        match self {
            Command::Sync(args) => Some(&mut args.sources),
            Command::Doctor(args) => Some(&mut args.sources),
            Command::Verify(args) => Some(&mut args.sources),
            Command::Config(args) => args.sources_mut(),
            _ => None,
        }
    }
}

/// Parses the command line, runs the command, and returns its exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let matches = configuration::without_empty_variables(command()).get_matches_from(&arguments);
    let parsed = Cli::from_arg_matches(&matches).unwrap_or_else(|error| exit_with(error));
    let without_file = parsed.log.clone();
    let (Cli { log, command, .. }, layers) = match layered(parsed, matches, &arguments) {
        Ok(layered) => layered,
        Err(failure) => return finish(Err(failure), &without_file.start(None)),
    };
    let mut runtime = match &command {
        // One thread: with two, waking each other and locks in the allocator took a fifth of the time, and
        // no run was faster. Other commands may block on a slow reader of their output.
        Command::Sync(_) => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build();
    let telemetry = log.start(runtime.as_ref().ok().map(Runtime::handle));
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(Exit::Unexpected, error).hint(hints::LOW_LIMITS);
            return finish(Err(failure), &telemetry);
        }
    };
    let result = runtime.block_on(run(command, &layers, &telemetry));
    // Otherwise a pending name resolution would delay the exit.
    runtime.shutdown_background();
    finish(result, &telemetry)
}

fn exit_with(error: clap::Error) -> ! {
    error.format(&mut command()).exit()
}

/// Merges the configuration file below the parsed command line, if this command uses one.
fn layered(
    parsed: Cli,
    matches: clap::ArgMatches,
    arguments: &[OsString],
) -> Result<(Cli, Layers), Failure> {
    let command = command();
    let path = parsed
        .config
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty());
    let Some(path) = path.filter(|_| configuration::has_settings(&command, &matches)) else {
        return Ok((parsed, Layers::without_file(matches)));
    };
    let layers = configuration::layer(&command, arguments, &matches, path)?;
    let mut layered =
        Cli::from_arg_matches(&layers.matches).unwrap_or_else(|error| exit_with(error));
    if let Some(sources) = layered.command.sources_mut() {
        let registries = layers.sources.iter();
        sources.configured = registries.map(|source| source.registry.clone()).collect();
    }
    Ok((layered, layers))
}

async fn run(command: Command, layers: &Layers, telemetry: &Telemetry) -> Result<Exit, Failure> {
    match command {
        Command::Sync(args) => sync::run(*args, telemetry).await,
        Command::Doctor(args) => signals::reading(doctor::run(*args)).await,
        Command::Verify(args) => verify::run(*args, telemetry).await,
        Command::Status(args) => signals::reading(status::run(args)).await,
        Command::Report(args) => signals::reading(report::run(*args)).await,
        Command::Query(args) => signals::reading(query::run(args)).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Config(args) => config::run(args, &self::command(), layers).await,
        Command::Demo(command) => demo::run(command, telemetry).await,
        Command::Emulator(command) => emulator::run(command, telemetry).await,
        Command::Db(command) => db::run(command, telemetry).await,
        Command::Completions(args) => completions::run(args, self::command()),
        Command::Man(args) => man::run(args, self::command()),
    }
}

fn finish(result: Result<Exit, Failure>, telemetry: &Telemetry) -> ExitCode {
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            print_failure(&failure, None, telemetry);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}
