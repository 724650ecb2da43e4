//! `swr-sync db`: controls the embedded PostgreSQL server.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process;

use embedded_postgres::{EmbeddedServer, EmbeddedSettings, Supervision};

use super::embedded::EmbeddedArgs;
use super::exit::{Exit, Failure};
use super::telemetry::Telemetry;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Start, stop or connect to the embedded PostgreSQL server
    #[command(after_help = AFTER_HELP)]
    Db(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    embedded: EmbeddedArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start the server, print its URL, and keep it running until `db stop`
    #[command(after_help = "\
Examples:
  swr-sync db start
  psql \"$(swr-sync db start)\"          the server keeps running after psql exits")]
    Start,
    /// Stop the server
    #[command(after_help = "\
Examples:
  swr-sync db stop
  swr-sync db stop --force             even if other programs are connected")]
    Stop {
        /// Stop it even if it is in use
        #[arg(long)]
        force: bool,
    },
    /// Print the URL of the running server; does not start it
    ///
    /// A server that was not started with `db start` stops when the last swr-sync command that uses it
    /// ends, even if other programs are connected.
    #[command(after_help = "\
Examples:
  swr-sync db url
  export DATABASE_URL=\"$(swr-sync db url)\"      for other programs")]
    Url {
        /// Database on the server
        #[arg(long, value_name = "NAME", default_value = embedded_postgres::DATABASE)]
        database: String,
    },
    /// Run psql on the database; starts the server if necessary
    #[command(after_help = "\
Examples:
  swr-sync db psql
  swr-sync db psql -- --command '\\d+ swr_report.artifact'
  swr-sync db psql --database swr_demo      the data of the last `swr-sync demo`")]
    Psql {
        /// Database on the server
        #[arg(long, value_name = "NAME", default_value = embedded_postgres::DATABASE)]
        database: String,
        /// Arguments of psql
        #[arg(
            value_name = "ARGUMENT",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        arguments: Vec<OsString>,
    },
    /// The process that owns the server. Internal: started by the other commands.
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        binaries: PathBuf,
        #[arg(long)]
        volatile: bool,
    },
}

const AFTER_HELP: &str = "\
Without a database URL, commands start this server and stop it when they end. `db start` keeps
it running, for psql and other programs.

Examples:
  swr-sync db start
  swr-sync db psql
  export DATABASE_URL=\"$(swr-sync db url)\"      for other programs
  swr-sync db stop";

pub(super) async fn run(command: Command, _: &Telemetry) -> Result<Exit, Failure> {
    let Command::Db(Args { embedded, action }) = command;
    match action {
        Action::Start => start(&embedded.settings()?).await,
        Action::Stop { force } => stop(&embedded.settings()?, force).await,
        Action::Url { database } => url(&embedded.settings()?, &database).await,
        Action::Psql {
            database,
            arguments,
        } => psql(&embedded.settings()?, &database, arguments).await,
        Action::Supervise {
            folder,
            binaries,
            volatile,
        } => {
            embedded_postgres::supervise(Supervision {
                folder,
                binaries_dir: binaries,
                durable: !volatile,
            })
            .await?;
            Ok(Exit::Success)
        }
    }
}

async fn start(settings: &EmbeddedSettings) -> Result<Exit, Failure> {
    let server = EmbeddedServer::start(settings).await?;
    server.keep_running()?;
    print_line(server.url())
}

async fn stop(settings: &EmbeddedSettings, force: bool) -> Result<Exit, Failure> {
    if embedded_postgres::stop(settings, force).await? {
        tracing::info!("stopped the embedded server");
    } else {
        tracing::info!("the embedded server was not running");
    }
    Ok(Exit::Success)
}

async fn url(settings: &EmbeddedSettings, database: &str) -> Result<Exit, Failure> {
    match embedded_postgres::running_url(settings, database).await? {
        Some(url) => print_line(&url),
        None => Err(
            Failure::new(Exit::Database, "the embedded server is not running")
                .hint("start it with `swr-sync db start`"),
        ),
    }
}

/// Replaces this process with psql, which inherits the client's lock: signals and the exit code need
/// no forwarding, and the server runs as long as psql.
async fn psql(
    settings: &EmbeddedSettings,
    database: &str,
    arguments: Vec<OsString>,
) -> Result<Exit, Failure> {
    let server = EmbeddedServer::start(settings).await?;
    let bundled = server.binaries_dir().join("psql");
    let program = if bundled.is_file() {
        bundled
    } else {
        PathBuf::from("psql")
    };
    let url = server.url_of(database);
    let _lock = server
        .into_inheritable_lock()
        .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    let error = process::Command::new(&program)
        .arg("--dbname")
        .arg(url)
        .args(arguments)
        // It would take precedence over the socket's folder.
        .env_remove("PGHOSTADDR")
        .exec();
    Err(Failure::new(
        Exit::Database,
        format!("running {}: {error}", program.display()),
    )
    .hint("install psql; the package is often named postgresql-client"))
}

fn print_line(line: &str) -> Result<Exit, Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::new(Exit::Unexpected, error))?;
    Ok(Exit::Success)
}
