//! The command line: types for clap, settings, and one file per command.

mod completions;
#[cfg(feature = "embedded-db")]
pub mod db;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod demo;
mod doctor;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod environment;
pub mod exit;
mod hints;
mod job;
mod man;
mod migrate;
mod outputs;
mod progress;
mod query;
pub mod reference;
mod report;
mod settings;
mod signals;
mod source;
mod summary;
mod sync;
mod telemetry;
mod verify;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use exit::{Exit, Failure};
use job::TargetName;
use telemetry::{LogArgs, LogFormat, Telemetry};

/// Mirrors a Huawei Cloud SWR Enterprise registry (artifacts, tags, build histories) into
/// PostgreSQL, so that questions about it can be asked in SQL.
#[derive(Debug, Parser)]
#[command(version, after_help = after_help())]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

/// What the program is called, in its own words.
const PROGRAM: &str = "swr-sync";

const EXAMPLES: &str = "\
Examples:
  swr-sync demo         try it: nothing is needed but PostgreSQL's programs
  swr-sync doctor       check what a run needs, and be told what is missing
  swr-sync sync         mirror a registry
  swr-sync status       see how old the data is
  swr-sync report       list the reports; `report html` makes a page of them

A run needs SWR_REGION, SWR_PROJECT_ID, SWR_INSTANCE_ID, HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK, and
DATABASE_URL unless the embedded database will do. `swr-sync sync --help` explains them.";

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
    /// Crawl one instance and publish what it holds
    #[command(after_help = format!("{}\n\n{}", environment::secrets_help(), sync::AFTER_HELP))]
    Sync(Box<sync::Args>),
    /// Check everything a run needs, without writing anything
    #[command(after_help = doctor::AFTER_HELP)]
    Doctor(Box<doctor::Args>),
    /// Compare what is stored with the registry, row by row
    #[command(after_help = verify::AFTER_HELP)]
    Verify(Box<verify::Args>),
    /// Show the last runs, and how old the data is
    #[command(after_help = query::STATUS_AFTER_HELP)]
    Status(query::StatusArgs),
    /// List the reports, or print one
    #[command(after_help = report::AFTER_HELP)]
    Report(Box<report::Args>),
    /// Run a read-only query
    #[command(after_help = query::QUERY_AFTER_HELP)]
    Query(query::QueryArgs),
    /// Bring the database's schema up to date
    #[command(after_help = migrate::AFTER_HELP)]
    Migrate(migrate::Args),
    /// Show it all: an emulated registry, three syncs with changes, the reports
    #[cfg(all(feature = "emulator", feature = "embedded-db"))]
    #[command(after_help = demo::AFTER_HELP)]
    Demo(demo::Args),
    /// Serve the emulated SWR API
    #[cfg(feature = "emulator")]
    #[command(after_help = emulator::AFTER_HELP)]
    Emulator(emulator::Args),
    /// Start, stop or reach the embedded PostgreSQL server
    #[cfg(feature = "embedded-db")]
    #[command(after_help = db::AFTER_HELP)]
    Db(db::Args),
    /// Print a script that completes command lines in a shell
    #[command(after_help = completions::AFTER_HELP)]
    Completions(completions::Args),
    /// Print the manual page, or write those of all commands
    #[command(after_help = man::AFTER_HELP)]
    Man(man::Args),
}

/// The definitions of the command line, for what is generated from them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, runs the command, and says how it ended.
pub fn main() -> ExitCode {
    let Cli { log, command } = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let telemetry = log.start(
        #[cfg(feature = "otlp")]
        runtime.as_ref().ok().map(tokio::runtime::Runtime::handle),
    );
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(Failure::new(Exit::Unexpected, error)), &telemetry),
    };
    let result = runtime.block_on(run(command, &telemetry));
    // Else a name that is being resolved would hold up the end.
    runtime.shutdown_background();
    finish(result, &telemetry)
}

async fn run(command: Command, telemetry: &Telemetry) -> Result<Exit, Failure> {
    match command {
        Command::Sync(args) => sync::run(*args, telemetry).await,
        Command::Doctor(args) => doctor::run(*args).await,
        Command::Verify(args) => verify::run(*args).await,
        Command::Status(args) => query::status(args).await,
        Command::Report(args) => report::run(*args).await,
        Command::Query(args) => query::query(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        #[cfg(all(feature = "emulator", feature = "embedded-db"))]
        Command::Demo(args) => demo::run(args, telemetry).await,
        #[cfg(feature = "emulator")]
        Command::Emulator(args) => emulator::run(args).await,
        #[cfg(feature = "embedded-db")]
        Command::Db(args) => db::run(args).await,
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// Prints for people; if stderr is gone, nobody listens.
fn print_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Says why a command, or one instance of several, did not succeed.
fn tell_failure(failure: &Failure, target: Option<&TargetName>, telemetry: &Telemetry) {
    match telemetry.format {
        LogFormat::Text => print_stderr(&failure.to_string()),
        LogFormat::Json => tracing::error!(
            exit_code = failure.exit as u8,
            hint = failure.hint.as_deref(),
            instance = target.and_then(|target| target.swr_instance_id.as_deref()),
            "{}",
            failure.message()
        ),
    }
}

fn finish(result: Result<Exit, Failure>, telemetry: &Telemetry) -> ExitCode {
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            tell_failure(&failure, None, telemetry);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}
