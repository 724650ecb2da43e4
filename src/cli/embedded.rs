//! The embedded PostgreSQL server, for commands without a database URL.

use std::path::PathBuf;
use std::time::Duration;

use embedded_postgres::{DATABASE, EmbeddedError, EmbeddedSettings, folder, running_url};
pub(super) use embedded_postgres::{EmbeddedServer, free_bytes};

use super::exit::{Exit, Failure};

/// Creating a cluster takes 3 s on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Location of the embedded server, for every command that may use it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Embedded database")]
pub(super) struct EmbeddedArgs {
    /// Use the embedded PostgreSQL; `--database-url embedded` is the same. Without a database URL, `sync`
    /// uses it unasked on a terminal only
    #[arg(long, env = "SWR_SYNC_EMBEDDED", global = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    pub embedded: bool,
    /// Folder of the embedded database [default: /var/lib/swr-sync for root,
    /// $XDG_DATA_HOME/swr-sync for other users]
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FOLDER",
        env = "SWR_SYNC_DATA_DIR",
        global = true
    )]
    pub data_dir: Option<PathBuf>,
    /// Folder with the programs `postgres` and `initdb` [default: the newest version found]
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FOLDER",
        env = "SWR_SYNC_POSTGRES_BIN_DIR",
        global = true
    )]
    pub postgres_bin_dir: Option<PathBuf>,
}

impl EmbeddedArgs {
    /// The server's settings, from the arguments and the user's environment.
    pub(super) fn settings(&self) -> Result<EmbeddedSettings, Failure> {
        let EmbeddedArgs {
            embedded: _,
            data_dir,
            postgres_bin_dir,
        } = self.clone();
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

    /// Whether the settings ask for the embedded server.
    pub(super) fn is_wanted(&self) -> bool {
        self.embedded
    }

    /// Starts the server, or uses the one that is running.
    pub(super) async fn start(&self) -> Result<EmbeddedServer, Failure> {
        Ok(EmbeddedServer::start(&self.settings()?).await?)
    }

    /// The server's folder, and its URL if it is running. Does not start it.
    pub(super) async fn look(&self) -> Result<(PathBuf, Option<String>), Failure> {
        let settings = self.settings()?;
        Ok((
            folder(&settings).await?,
            running_url(&settings, DATABASE).await?,
        ))
    }
}

/// `$XDG_DATA_HOME/swr-sync`; `None` for root, because the server cannot enter root's home folder.
fn user_data_dir() -> Option<PathBuf> {
    if embedded_postgres::runs_as_root() {
        return None;
    }
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    // The XDG specification requires that relative paths are ignored.
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
