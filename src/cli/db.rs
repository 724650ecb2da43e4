//! `swr-sync db`: the embedded PostgreSQL server, and how other commands find it.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::exit::{Exit, Failure};
use crate::database::embedded::{
    self, EmbeddedError, EmbeddedServer, EmbeddedSettings, Supervision,
};

/// A new cluster takes 3 s on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Where the embedded server lives; for every command that may use it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Embedded database")]
pub struct EmbeddedArgs {
    /// Folder of the embedded database [default: /var/lib/swr-sync for root,
    /// else $XDG_DATA_HOME/swr-sync]
    #[arg(long, value_name = "FOLDER", env = "SWR_SYNC_DATA_DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Folder with the programs `postgres` and `initdb` [default: the newest found]
    #[arg(
        long,
        value_name = "FOLDER",
        env = "SWR_SYNC_POSTGRES_BIN_DIR",
        global = true
    )]
    pub postgres_bin_dir: Option<PathBuf>,
}

/// Arguments of `db`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    embedded: EmbeddedArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start the server, print its URL, and leave it running until `db stop`
    #[command(after_help = "\
Examples:
  swr-sync db start
  psql \"$(swr-sync db start)\"          the server stays when psql has gone")]
    Start,
    /// Stop the server
    #[command(after_help = "\
Examples:
  swr-sync db stop
  swr-sync db stop --force             although other programs are connected")]
    Stop {
        /// Stop it even if it is in use
        #[arg(long)]
        force: bool,
    },
    /// Print the URL of the running server; start nothing
    ///
    /// A server that was not started with `db start` stops with the last
    /// command that uses it, whoever else is connected.
    #[command(after_help = "\
Examples:
  swr-sync db url
  export DATABASE_URL=\"$(swr-sync db url)\"      for other programs")]
    Url,
    /// Run psql on the database, starting the server if need be
    #[command(after_help = "\
Examples:
  swr-sync db psql
  swr-sync db psql -- --command '\\d+ swr_report.artifact'
  swr-sync db psql --database swr_demo      the data of the last `swr-sync demo`")]
    Psql {
        /// Database on the server
        #[arg(long, value_name = "NAME", default_value = embedded::DATABASE)]
        database: String,
        /// Arguments of psql
        #[arg(
            value_name = "ARGUMENT",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        arguments: Vec<OsString>,
    },
    /// The process that owns the server; started by the others.
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

pub(super) const AFTER_HELP: &str = "\
Where no database is named, commands start this server and stop it when they end. `db start` keeps
it running, for psql and other programs.

Examples:
  swr-sync db start
  swr-sync db psql
  export DATABASE_URL=\"$(swr-sync db url)\"      for other programs
  swr-sync db stop";

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let Args { embedded, action } = args;
    match action {
        Action::Start => start(&embedded_settings(&embedded)?).await,
        Action::Stop { force } => stop(&embedded_settings(&embedded)?, force).await,
        Action::Url => url(&embedded_settings(&embedded)?).await,
        Action::Psql {
            database,
            arguments,
        } => psql(&embedded_settings(&embedded)?, &database, arguments).await,
        Action::Supervise {
            folder,
            binaries,
            volatile,
        } => {
            embedded::supervise(Supervision {
                folder,
                binaries_dir: binaries,
                durable: !volatile,
            })
            .await?;
            Ok(Exit::Success)
        }
    }
}

/// The embedded server's settings, from the arguments and the user's environment.
pub fn embedded_settings(args: &EmbeddedArgs) -> Result<EmbeddedSettings, Failure> {
    let EmbeddedArgs {
        data_dir,
        postgres_bin_dir,
    } = args.clone();
    Ok(EmbeddedSettings {
        data_dir: data_dir.or_else(user_data_dir),
        binaries_dir: postgres_bin_dir,
        search_path: std::env::var_os("PATH"),
        supervisor_executable: std::env::current_exe()
            .map_err(|error| Failure::new(Exit::Unexpected, error))?,
        start_timeout: START_TIMEOUT,
        durable: true,
    })
}

/// `$XDG_DATA_HOME/swr-sync`, and `None` for root, whose home the server may not enter.
fn user_data_dir() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    // The XDG specification has relative paths ignored.
    let data_home = folder("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(folder("HOME")?.join(".local/share")))?;
    Some(data_home.join("swr-sync"))
}

impl From<EmbeddedError> for Failure {
    fn from(error: EmbeddedError) -> Failure {
        let hint = error.hint();
        let log = error
            .log()
            .lines()
            .map(|line| format!("server.log: {line}"));
        let details: Vec<String> = log.collect();
        let failure = Failure::new(Exit::Database, error).details(details);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

async fn start(settings: &EmbeddedSettings) -> Result<Exit, Failure> {
    let server = EmbeddedServer::start(settings).await?;
    server.keep_running()?;
    print_line(server.url())
}

async fn stop(settings: &EmbeddedSettings, force: bool) -> Result<Exit, Failure> {
    if embedded::stop(settings, force).await? {
        tracing::info!("stopped the embedded server");
    } else {
        tracing::info!("the embedded server was not running");
    }
    Ok(Exit::Success)
}

async fn url(settings: &EmbeddedSettings) -> Result<Exit, Failure> {
    match embedded::running_url(settings).await? {
        Some(url) => print_line(&url),
        None => Err(
            Failure::new(Exit::Database, "the embedded server is not running")
                .hint("start it with `swr-sync db start`"),
        ),
    }
}

/// Becomes psql, which then holds the client's lock: there is no second process
/// to pass signals and the exit code, and the server stays as long as psql does.
async fn psql(
    settings: &EmbeddedSettings,
    database: &str,
    arguments: Vec<OsString>,
) -> Result<Exit, Failure> {
    let server = EmbeddedServer::start(settings).await?;
    let beside = server.binaries_dir().join("psql");
    let program = if beside.is_file() {
        beside
    } else {
        PathBuf::from("psql")
    };
    let url = server.url_of(database);
    let lock = server.into_lock();
    fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))
        .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    let error = Command::new(&program)
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
    .hint("install psql, which packages often call postgresql-client"))
}

fn print_line(line: &str) -> Result<Exit, Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::new(Exit::Unexpected, error))?;
    Ok(Exit::Success)
}
