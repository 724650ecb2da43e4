//! Converts flags and environment variables to settings. Only this part reads the environment.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Certificate, Url};
use secrecy::{ExposeSecret, SecretString};

use super::configuration::credential_keys::{Credential, credential_settings};
use super::console::{is_on_terminal, print_lines};
use super::credentials::{self, Located};
use super::embedded::{EmbeddedArgs, EmbeddedServer};
use super::exit::{Exit, Failure};
use super::variables::{given, is_set_but_empty, read_secret, secret, variable};
use crate::database::{Database, DatabaseError, UrlProblem, is_ssl_mode};
use crate::secret_file::BYTE_ORDER_MARK;

/// Selects the registries: the one of flags and variables, or those of the configuration file.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SourceArgs {
    /// Only these sources of the configuration file: names, separated by commas
    #[arg(
        hide_short_help = true,
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Registry"
    )]
    source: Vec<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// The sources of the configuration file.
    #[arg(skip)]
    pub configured: Vec<RegistryArgs>,
}

impl SourceArgs {
    /// The sources; more than one only from a file.
    pub(super) fn registries(&self) -> Result<&[RegistryArgs], Failure> {
        match (&self.configured[..], &self.source[..]) {
            ([], [name, ..]) => {
                let text = format!("without a configuration file there is no source `{name}`");
                Err(Failure::new(Exit::Usage, text)
                    .hint("set --config or SWR_SYNC_CONFIG to the file"))
            }
            ([], []) => Ok(std::slice::from_ref(&self.registry)),
            (configured, _) => Ok(configured),
        }
    }
}

/// Settings of a source that have no flag.
#[derive(Debug, Clone, Default)]
pub(super) struct Configured {
    pub name: Option<String>,
    /// Empty if the credentials come from the environment.
    pub credentials: Vec<Credential>,
    /// Only these of all its instances.
    pub among: Option<Vec<String>>,
}

/// Which registry, and how to reach it.
///
/// Credentials come from the environment, or from files it names, never from flags, which any
/// user of the machine could read.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct RegistryArgs {
    /// Region of the instance, such as cn-north-4; determines the endpoint
    #[arg(long, value_name = "REGION", env = "SWR_REGION")]
    pub region: Option<String>,
    /// Endpoint of the SWR API, if it is not the default of the region
    #[arg(long, value_name = "URL", env = "SWR_ENDPOINT")]
    pub endpoint: Option<String>,
    /// Project of the instance
    #[arg(long, value_name = "ID", env = "SWR_PROJECT_ID")]
    pub project_id: Option<String>,
    /// Instances, separated by commas, or `all`: all running instances of the project
    #[arg(
        long,
        value_name = "ID",
        env = "SWR_INSTANCE_ID",
        value_delimiter = ','
    )]
    pub instance_id: Vec<String>,
    /// Endpoint of IAM, if it is not the default of the region; used with an IAM user
    #[arg(
        hide_short_help = true,
        long,
        value_name = "URL",
        env = "SWR_IAM_ENDPOINT"
    )]
    pub iam_endpoint: Option<String>,
    /// PEM file with CA certificates to trust in addition to the system's: for a private endpoint or a
    /// TLS-inspecting proxy
    #[arg(hide_short_help = true, long, value_name = "FILE", env = "SWR_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// Maximum number of requests per second; 0 for no maximum. A lower limit of the gateway is detected
    /// and respected
    #[arg(
        hide_short_help = true,
        long,
        value_name = "N",
        env = "SWR_MAX_REQUESTS_PER_SECOND",
        default_value_t = 200.0,
        value_parser = parse_rate
    )]
    pub max_requests_per_second: f64,
    /// Maximum number of concurrent requests; the actual number depends on rate and latency
    #[arg(hide_short_help = true, long, value_name = "N", env = "SWR_MAX_IN_FLIGHT", default_value_t = 256,
          value_parser = clap::builder::RangedU64ValueParser::<u16>::new().range(1..=1024))]
    pub max_in_flight: u16,
    /// Timeout for establishing a connection
    #[arg(
        hide_short_help = true,
        long,
        value_name = "TIME",
        env = "SWR_CONNECT_TIMEOUT",
        default_value = "10s",
        value_parser = parse_time
    )]
    pub connect_timeout: humantime::Duration,
    /// Timeout for one attempt of a request
    #[arg(
        hide_short_help = true,
        long,
        value_name = "TIME",
        env = "SWR_REQUEST_TIMEOUT",
        default_value = "60s",
        value_parser = parse_time
    )]
    pub request_timeout: humantime::Duration,
    /// Maximum number of attempts per request, including the first. Throttled attempts (429) do not
    /// count: a request fails when it has been throttled for 15 minutes
    #[arg(hide_short_help = true, long, value_name = "N", env = "SWR_MAX_ATTEMPTS", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_attempts: u32,
    /// Maximum wait before the second attempt; doubles with each further attempt
    #[arg(
        hide_short_help = true,
        long,
        value_name = "TIME",
        env = "SWR_RETRY_DELAY",
        default_value = "500ms",
        value_parser = parse_time
    )]
    pub retry_delay: humantime::Duration,
    /// Maximum wait between two attempts, and maximum pause of all requests after a 429 or 503
    #[arg(
        hide_short_help = true,
        long,
        value_name = "TIME",
        env = "SWR_MAX_RETRY_DELAY",
        default_value = "60s",
        value_parser = parse_time
    )]
    pub max_retry_delay: humantime::Duration,
    /// Replace secrets that the finding rules recognise in build commands with [redacted] before
    /// anything is stored. Commands that are stored already are not changed: docs/security.md
    /// describes how to fetch them again
    #[arg(hide_short_help = true, long, env = "SWR_SYNC_REDACT_COMMANDS", value_parser = clap::builder::FalseyValueParser::new())]
    pub redact_commands: bool,
    /// The settings that have no flag.
    #[arg(skip)]
    pub configured: Configured,
}

/// The instances that a source selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Instances {
    /// All that are running and have an artifact list.
    All {
        /// Only these, if set.
        among: Option<Vec<String>>,
    },
    /// These, by id.
    These(Vec<String>),
}

/// No setting needs a longer time, and the clock's arithmetic would overflow.
const LONGEST_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A duration, such as `10s`.
pub(super) fn parse_time(text: &str) -> Result<humantime::Duration, String> {
    let time: humantime::Duration = text.parse().map_err(|error| format!("{error}"))?;
    if *time > LONGEST_TIME {
        return Err("expected a year at most".to_owned());
    }
    Ok(time)
}

/// Other values would count as "no maximum".
fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.0 => Ok(rate),
        Ok(_) => Err("expected 0 or more".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Location of the tables.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Database")]
pub(super) struct DatabaseArgs {
    /// Database to use: postgresql://user@host/name, or `embedded`. Passwords belong in DATABASE_URL,
    /// DATABASE_URL_FILE, PGPASSWORD or psql's password file: every user of the machine can see this flag
    /// [env: DATABASE_URL]
    // Not clap's `env`: the variable may contain a password, the command line must not.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// File with the database URL, including the password [env: DATABASE_URL_FILE]
    // As above. It is an error to set both variables, which clap would not report.
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FILE",
        conflicts_with = "database_url"
    )]
    pub database_url_file: Option<PathBuf>,
    /// Timeout for each statement on the database
    #[arg(
        hide_short_help = true,
        long,
        value_name = "TIME",
        env = "SWR_SYNC_DATABASE_TIMEOUT",
        default_value = "10m",
        value_parser = parse_time
    )]
    pub database_timeout: humantime::Duration,
    #[command(flatten)]
    pub(super) embedded: EmbeddedArgs,
}

/// The database of `swr-sync demo` on the embedded server.
pub(super) const DEMO_DATABASE: &str = "swr_demo";

/// The URL that means the embedded server.
const EMBEDDED: &str = "embedded";

/// A database that is ready for connections.
#[derive(Debug)]
pub(super) struct OpenDatabase {
    pub database: Database,
    /// Keeps the embedded server running.
    pub embedded: Option<EmbeddedServer>,
}

impl DatabaseArgs {
    /// Returns the configured database; without one, starts the embedded server and logs that.
    pub(super) async fn open(&self) -> Result<OpenDatabase, Failure> {
        match self.named()? {
            Some(database) => Ok(OpenDatabase {
                database,
                embedded: None,
            }),
            None => self.open_embedded().await,
        }
    }

    /// The same for a command that only reads. Until a registry is synced into the embedded server, it reads
    /// the demo's data, if there are some.
    pub(super) async fn open_to_read(&self) -> Result<OpenDatabase, Failure> {
        let open = self.open().await?;
        let Some(server) = &open.embedded else {
            return Ok(open);
        };
        let is_empty = matches!(
            open.database.check().await,
            Err(DatabaseError::MigrationNeeded { missing, known }) if missing == known
        );
        if !is_empty {
            return Ok(open);
        }
        let demo = Database::from_url(&server.url_of(DEMO_DATABASE))?;
        let demo = demo.with_timeout(*self.database_timeout);
        if demo.check().await.is_err() {
            return Ok(open);
        }
        print_lines([format!(
            "nothing was synced yet: this is the data of `swr-sync demo` (database {DEMO_DATABASE})"
        )]);
        Ok(OpenDatabase {
            database: demo,
            ..open
        })
    }

    /// The same for a job. Without a terminal, it must be told to use the embedded server: otherwise a
    /// missing setting would fill a private database, and the real one would get old.
    pub(super) async fn open_for_job(&self) -> Result<OpenDatabase, Failure> {
        let is_asked = self.embedded.is_wanted() || is_on_terminal();
        if is_asked || self.url()?.is_some() {
            return self.open().await;
        }
        Err(Failure::new(Exit::Usage, "no database is configured").hint(
            "set DATABASE_URL, or DATABASE_URL_FILE to the path of a file that contains it; --embedded uses the \
             embedded PostgreSQL",
        ))
    }

    /// The configured database; `None` means the embedded one.
    pub(super) fn named(&self) -> Result<Option<Database>, Failure> {
        let url = self.url()?.filter(|url| url != EMBEDDED);
        if url.is_some() && self.embedded.is_wanted() {
            let text = "--embedded is set, and a database URL, too";
            return Err(Failure::new(Exit::Usage, text).hint("omit one of them"));
        }
        if url.is_some() {
            check_libpq_variables()?;
        }
        let database = url.as_deref().map(Database::from_url).transpose()?;
        Ok(database.map(|database| database.with_timeout(*self.database_timeout)))
    }

    /// The URL, or `embedded`; `None` if nothing is configured.
    fn url(&self) -> Result<Option<String>, Failure> {
        Ok(match given(&self.database_url) {
            Some(url) if holds_password(url) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "--database-url contains a password, which other users of this machine can read in the list \
                                             of processes",
                )
                .hint(
                    "set DATABASE_URL, or DATABASE_URL_FILE to the path of a file that contains it; or move the \
                                             password to PGPASSWORD or ~/.pgpass",
                ));
            }
            Some(url) => Some(url.to_owned()),
            None => self
                .url_in_file()?
                .map(|url| url.expose_secret().to_owned()),
        })
    }

    /// The URL from a file or a variable.
    fn url_in_file(&self) -> Result<Option<SecretString>, Failure> {
        match self.database_url_file.as_deref() {
            Some(path) if !path.as_os_str().is_empty() => {
                read_secret(path, "with the database URL").map(Some)
            }
            _ => {
                let url = secret("DATABASE_URL")?;
                // A Secret with an empty key, or a misspelt variable in a compose file.
                let empty = ["DATABASE_URL", "DATABASE_URL_FILE"];
                let empty = empty.into_iter().find(|name| is_set_but_empty(name));
                match (url, empty) {
                    (Some(url), _) => Ok(Some(url)),
                    (None, Some(name)) if !self.embedded.is_wanted() => {
                        let text = format!("{name} is set, but empty");
                        Err(Failure::new(Exit::Usage, text)
                            .hint("set it to a URL, or to `embedded`; or unset it"))
                    }
                    (None, _) => Ok(None),
                }
            }
        }
    }

    async fn open_embedded(&self) -> Result<OpenDatabase, Failure> {
        let server = self.embedded.start().await?;
        let text = format!(
            "using the embedded PostgreSQL; while it runs, connect to it with: psql '{}'",
            server.url()
        );
        match self.embedded.is_wanted() || self.url()?.is_some() {
            true => tracing::info!("{text}"),
            false => tracing::warn!("no database URL is set (DATABASE_URL): {text}"),
        }
        Ok(OpenDatabase {
            database: Database::from_url(server.url())?.with_timeout(*self.database_timeout),
            embedded: Some(server),
        })
    }
}

/// The client library uses its default if it cannot parse one of these. For a misspelt sslmode, that
/// default does not verify the server.
fn check_libpq_variables() -> Result<(), Failure> {
    let is_valid = |name: &str, value: &str| match name {
        "PGPORT" => value.parse::<u16>().is_ok(),
        _ => is_ssl_mode(value),
    };
    for name in ["PGSSLMODE", "PGPORT"] {
        if variable(name).is_some_and(|value| !is_valid(name, &value)) {
            let text = format!("the value of {name} is not valid");
            return Err(Failure::new(Exit::Usage, text).hint("correct it, or unset it"));
        }
    }
    Ok(())
}

/// Whether a database URL contains a password; true if it cannot be parsed and may contain one.
pub(super) fn holds_password(url: &str) -> bool {
    let Ok(url) = url.parse::<Url>() else {
        return url.contains('@');
    };
    let is_password = |name: &str| matches!(name, "password" | "sslpassword");
    url.password().is_some() || url.query_pairs().any(|(name, _)| is_password(&name))
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Failure {
        if let Some(hint) = crate::database::hint(&error) {
            return Failure::new(error.exit(), error).hint(hint);
        }
        let hint = match &error {
            DatabaseError::Url(UrlProblem::SeveralHosts) => {
                "use the host name of the primary, or a name that always resolves to it"
            }
            DatabaseError::Url(_) => "write it as postgresql://user:password@host:5432/name",
            DatabaseError::Unusable { problem, .. } => problem.hint(),
            DatabaseError::Unreachable { .. }
            | DatabaseError::Timeout { .. }
            | DatabaseError::Silent { .. } => {
                "check that the server runs, that host and port are correct, and that it accepts this user"
            }
            DatabaseError::MigrationNeeded { missing, known } if missing == known => {
                "run `swr-sync sync` first, or `swr-sync migrate` as the owner of the database"
            }
            DatabaseError::MigrationNeeded { .. } => {
                "run `swr-sync migrate` as the owner of the schema"
            }
            DatabaseError::NewerSchema { .. } => {
                "use the version of swr-sync that migrated the database, or a later one"
            }
            DatabaseError::UnreleasedSchema { .. } => {
                "sync into a new database (of the embedded server, another --data-dir); nothing migrates this schema"
            }
            DatabaseError::Stopped(_) => {
                "each migration is applied completely or not at all; the next attempt continues from there"
            }
            DatabaseError::Migration { .. } | DatabaseError::Migrations(_) => {
                "the role must be allowed to create schemas in the database; `swr-sync migrate` tries again"
            }
            DatabaseError::Version(_) => "the role must be allowed to read the schema swr",
        };
        Failure::new(error.exit(), error).hint(hint)
    }
}

impl RegistryArgs {
    /// The configured endpoint, or that of the region.
    pub(super) fn endpoint(&self) -> Result<Url, Failure> {
        let text = match (given(&self.endpoint), self.region().as_deref()) {
            (Some(endpoint), _) => endpoint.to_owned(),
            // The only exception in the official SDKs' list of regions.
            (None, Some("eu-west-101")) => {
                "https://swr-api.eu-west-101.myhuaweicloud.eu".to_owned()
            }
            (None, Some(region)) => format!("https://swr-api.{region}.myhuaweicloud.com"),
            (None, None) => {
                return Err(missing("region or endpoint", "SWR_REGION or SWR_ENDPOINT"));
            }
        };
        parse_endpoint(&text)
    }

    /// The project: from our variable, the SDKs' or Terraform's, or from the profile that has the
    /// key.
    pub(super) fn project_id(&self) -> Result<String, Failure> {
        let named = given(&self.project_id)
            .map(str::to_owned)
            .or_else(|| variable("HUAWEICLOUD_SDK_PROJECT_ID"))
            .or_else(|| variable("HW_PROJECT_ID"));
        match named {
            Some(project_id) => Ok(project_id),
            None => self
                .locate_credentials()?
                .project_id
                .ok_or_else(|| missing("project", "SWR_PROJECT_ID")),
        }
    }

    /// The instances.
    pub(super) fn instances(&self) -> Result<Instances, Failure> {
        let mut ids: Vec<String> = self
            .instance_id
            .iter()
            .map(|id| id.trim().to_owned())
            .filter(|id| !id.is_empty())
            .collect();
        ids.sort();
        ids.dedup();
        match &ids[..] {
            [] => Err(missing("instance", "SWR_INSTANCE_ID")),
            [only] if only == "all" => Ok(Instances::All {
                among: self.configured.among.clone(),
            }),
            several if several.iter().any(|id| id == "all") => Err(Failure::new(
                Exit::Usage,
                "SWR_INSTANCE_ID contains both ids and `all`",
            )
            .hint("set either the ids or `all`")),
            _ => Ok(Instances::These(ids)),
        }
    }

    /// The region, from our variable or Terraform's.
    pub(super) fn region(&self) -> Option<String> {
        let own = given(&self.region).map(str::to_owned);
        own.or_else(|| variable("HW_REGION_NAME"))
    }

    /// Finds the credentials: those of the source in the file, otherwise those of the
    /// environment.
    pub(super) fn locate_credentials(&self) -> Result<Located, Failure> {
        let own = credential_settings(&self.configured.credentials)?;
        credentials::locate(&own, &variable)
    }

    /// The authorities to trust in addition to the system's.
    pub(super) fn ca_certificates(&self) -> Result<Vec<Certificate>, Failure> {
        let Some(path) = self
            .ca_file
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
        else {
            return Ok(Vec::new());
        };
        let failed = |what: &str| {
            Failure::new(
                Exit::Usage,
                format!("cannot use the CA file {}: {what}", path.display()),
            )
            .hint("SWR_CA_FILE must be the path of a PEM file: -----BEGIN CERTIFICATE-----")
        };
        let pem = std::fs::read(path).map_err(|error| failed(&error.to_string()))?;
        let pem = pem.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&pem);
        match Certificate::from_pem_bundle(pem) {
            Ok(certificates) if certificates.is_empty() => {
                Err(failed("it contains no certificate"))
            }
            Ok(certificates) => Ok(certificates),
            Err(_) => Err(failed("it is not PEM")),
        }
    }

    pub(super) fn iam_endpoint(&self) -> Result<Url, Failure> {
        let own = given(&self.iam_endpoint).map(str::to_owned);
        // Terraform's endpoint has a path, which the client replaces.
        let endpoint = own.or_else(|| variable("HW_AUTH_URL"));
        match (endpoint, self.region()) {
            (Some(endpoint), _) => parse_endpoint(&endpoint),
            (None, Some(region)) => {
                parse_endpoint(&format!("https://iam.{region}.myhuaweicloud.com"))
            }
            (None, None) => Err(missing(
                "region or IAM endpoint",
                "SWR_REGION or SWR_IAM_ENDPOINT",
            )),
        }
    }
}

fn parse_endpoint(text: &str) -> Result<Url, Failure> {
    let url: Url = text.parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("the endpoint `{text}` is not a URL: {error}"),
        )
        .hint("write it as https://swr-api.cn-north-4.myhuaweicloud.com")
    })?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if is_plain {
        return Ok(url);
    }
    Err(Failure::new(
        Exit::Usage,
        "the endpoint must consist of scheme and host, without user, password, path or query",
    )
    .hint("write it as https://swr-api.cn-north-4.myhuaweicloud.com"))
}

fn missing(what: &str, names: &str) -> Failure {
    Failure::new(Exit::Usage, format!("no {what} given")).hint(format!(
        "set {names}; `swr-sync sync --help` lists all settings"
    ))
}
