//! `swr-sync doctor`: checks everything that a run needs, one probe after another.
//!
//! The probes run in the order in which `sync` uses what they check, so the first probe that fails
//! predicts how `sync` would end. No probe writes anything, and after a rejected signature none signs
//! another request.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use tokio::time::Instant;

use super::console::print_lines;
use super::embedded::free_bytes;
use super::exit::{Exit, Failure};
use super::hints::{failure, unknown_region};
use super::proxy;
use super::result::Printer;
use super::settings::{DatabaseArgs, Instances, RegistryArgs, SourceArgs};
use super::source::is_id;
use crate::activity::Activity;
use crate::artifact::{Artifact, InstanceDescription};
use crate::build_history::HistoryOutcome;
use crate::clock::Clock;
use crate::database::reader::ResultColumn;
use crate::database::{Database, DatabaseError, Unusable};
use crate::registry::{Registry, RegistryError, RequestFailure};
use crate::report::Format;
use crate::store::{self, InstanceState, Session, StoreError};
use crate::sync::{FIRST_VERSION, SyncError, is_older};
use crate::visible::visible;

/// Timeout of one probe; longer than the timeout of a database connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Limits for one request of a probe, if the settings allow more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A clock difference from which a warning is shown, …
const SKEW_TO_WARN_SECONDS: u64 = 60;
/// … and one beyond which signatures are rejected (devg-apisign).
const SKEW_TO_FAIL_SECONDS: u64 = 15 * 60;
/// Maximum number of catalog pages to search for the repository of one artifact.
const CATALOG_PAGES: u64 = 10;
/// Free space below which the embedded database gets a warning.
const FREE_BYTES_TO_WARN: u64 = 1 << 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    #[command(flatten)]
    pub(super) sources: SourceArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) const AFTER_HELP: &str = "\
Checks everything that a run needs with the settings of `sync`, and suggests a fix for each problem. It
writes nothing, starts no database, and sends about eight requests, each once. After a rejected
signature no more requests are signed: rejected signatures count towards locking the key.

Exits with the code that `sync` would exit with now: 0 no problem, 2 configuration, 3 build histories
would be missing, 4 authentication or permission, 5 database, 6 newer schema or wrong instance,
7 source unavailable, 75 another sync of the instance is running.

--format json prints an array of objects: probe, status (ok, warn, fail, skipped), code, elapsed_ms,
found, hint; with several instances also instance, the id or source. The names of probes, statuses
and codes are stable.

Examples:
  swr-sync doctor                       before the first run, or after one that failed
  swr-sync doctor --format json         for scripts";

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let Args {
        format,
        sources,
        database,
    } = args;
    let printer = Printer::with(format)?;
    let mut registries = sources.registries()?.to_vec();
    registries.iter_mut().for_each(be_brief);
    let mut checkup = Checkup::default();
    let mut places = Vec::new();
    for (source, registry) in registries.iter().enumerate() {
        checkup.source = source;
        // A single source needs no name in the output.
        checkup.subject = match &registries[..] {
            [_] => None,
            _ => registry.configured.name.clone(),
        };
        let names = check_configuration(&mut checkup, registry).await;
        let is_configured = checkup.is_configured();
        places.push(Place {
            registry: is_configured.then_some(registry),
            instances: names,
        });
    }
    let instances: usize = places.iter().map(|place| place.instances.len()).sum();
    let is_alone = registries.len() == 1 && instances < 2;
    checkup.subject = None;
    let mut look = check_database(&mut checkup, &database).await;
    for (source, place) in places.iter().enumerate() {
        checkup.source = source;
        for names in place.instances.iter().map(Some) {
            check_instance(&mut checkup, &mut look, place.registry, names, is_alone).await;
        }
        if place.instances.is_empty() && registries.len() == 1 {
            check_instance(&mut checkup, &mut look, place.registry, None, is_alone).await;
        }
    }
    checkup.print(&printer)?;
    Ok(checkup.exit())
}

/// A source whose settings were checked.
struct Place<'a> {
    /// `None` if they are incomplete.
    registry: Option<&'a RegistryArgs>,
    /// The instances that `sync` would mirror.
    instances: Vec<Names>,
}

/// What the probes of one instance share.
async fn check_instance(
    checkup: &mut Checkup,
    look: &mut Look,
    registry: Option<&RegistryArgs>,
    names: Option<&Names>,
    is_alone: bool,
) {
    checkup.subject = match is_alone {
        true => None,
        false => names.map(|names| names.instance_id.clone()),
    };
    check_row(checkup, look, names).await;
    let registry = match (registry, names) {
        (Some(registry), Some(names)) => Ok((registry, names)),
        (Some(_), None) => Err("there is no instance to check"),
        (None, _) => Err("the configuration is incomplete"),
    };
    check_registry(checkup, registry).await;
}

/// Each request is sent once, with a shorter timeout than in a run.
fn be_brief(registry: &mut RegistryArgs) {
    registry.max_attempts = 1;
    registry.connect_timeout = (*registry.connect_timeout).min(CONNECT_TIMEOUT).into();
    registry.request_timeout = (*registry.request_timeout).min(REQUEST_TIMEOUT).into();
}

/// How instances are selected.
struct Names {
    instance_id: String,
    project_id: String,
}

/// Finds the instances if the settings are complete.
async fn check_configuration(checkup: &mut Checkup, args: &RegistryArgs) -> Vec<Names> {
    let endpoint = async |args: &RegistryArgs| {
        let endpoint = args.endpoint()?;
        proxy::check()?;
        let region = args.region().filter(|_| args.endpoint.is_none());
        match region.as_deref().and_then(unknown_region) {
            Some(hint) => doubtful((), "unknown_region", endpoint.to_string(), hint),
            None => found((), endpoint.to_string()),
        }
    };
    let project = async |args: &RegistryArgs| configured(args.project_id()?);
    let credentials =
        async |args: &RegistryArgs| found((), args.credentials_source(&Clock::system()).await?);
    checkup
        .run("configuration.endpoint", Ok(args), endpoint)
        .await;
    let project_id = checkup
        .run("configuration.project", Ok(args), project)
        .await;
    let instances = checkup
        .run("configuration.instance", Ok(args), instances)
        .await;
    checkup
        .run("configuration.credentials", Ok(args), credentials)
        .await;
    let ids = match instances {
        Some(Instances::These(ids)) if ids.iter().all(|id| is_id(id)) => ids,
        None => Vec::new(),
        Some(_) => {
            let args = checkup.is_configured().then_some(args);
            let given = args.ok_or("the configuration is incomplete");
            let listed = checkup
                .run("permission.list_instances", given, list_instances)
                .await;
            listed.unwrap_or_default()
        }
    };
    let Some(project_id) = project_id else {
        return Vec::new();
    };
    ids.into_iter()
        .map(|instance_id| Names {
            instance_id,
            project_id: project_id.clone(),
        })
        .collect()
}

async fn instances(args: &RegistryArgs) -> Probed<Instances> {
    let instances = args.instances()?;
    let text = match &instances {
        Instances::These(ids) => ids.join(", "),
        Instances::All { among: None } => "all of the project".to_owned(),
        Instances::All { among: Some(ids) } => format!("{}, if they exist", ids.join(", ")),
    };
    found(instances, text)
}

/// The instances that `sync` would mirror. The log lists those that are left out, with the reason.
async fn list_instances(args: &RegistryArgs) -> Probed<Vec<String>> {
    let source = args.source(Clock::system()).await?;
    let chosen = source.chosen().await;
    let chosen = chosen.map_err(|error| forbidden(error, "swr:instance:list"))?;
    let unknown = chosen.iter().find_map(|found| found.hint.clone());
    let ids: Vec<String> = chosen
        .into_iter()
        .map(|found| found.swr_instance_id)
        .collect();
    if ids.is_empty() {
        let hint = "only instances with status Running and version 25.6.0 or later are mirrored";
        return doubtful(ids, "no_instance", "allowed: none to mirror", hint);
    }
    let text = format!("allowed: {} to mirror: {}", ids.len(), ids.join(", "));
    match unknown {
        Some(hint) => doubtful(ids, "unknown_instance", text, hint),
        None => found(ids, text),
    }
}

/// Results of the database probes that the probes of one instance need.
struct Look {
    session: Result<Session<'static>, &'static str>,
    schema: Option<Schema>,
}

async fn check_database(checkup: &mut Checkup, args: &DatabaseArgs) -> Look {
    let place = checkup.run("database.place", Ok(args), place).await;
    let database = match &place {
        Some(Some(database)) => Ok(database),
        Some(None) => Err("the embedded database is not running, and doctor does not start it"),
        None => Err("there is no database to check"),
    };
    let session = checkup.run("database.connection", database, connect).await;
    let unreached = database.err().unwrap_or("there is no connection");
    let mut session = session.ok_or(unreached);
    checkup
        .run("database.server", as_mut(&mut session), server)
        .await;
    let reached = session.as_ref().map_err(|reason| *reason).and(database);
    let schema = checkup.run("database.schema", reached, schema).await;
    let rights = async |session: &mut Session<'static>| rights(session, schema).await;
    checkup
        .run("database.rights", as_mut(&mut session), rights)
        .await;
    Look { session, schema }
}

async fn check_row(checkup: &mut Checkup, look: &mut Look, names: Option<&Names>) {
    let row = match (as_mut(&mut look.session), names, look.schema) {
        (Err(reason), _, _) => Err(reason),
        (_, None, _) => Err("instance or project is not configured"),
        (_, _, None) => Err("the schema is not as expected"),
        (_, _, Some(Schema::MigrationNeeded)) => Err("the schema is not up to date yet"),
        (Ok(session), Some(names), Some(Schema::UpToDate)) => Ok((session, names)),
    };
    let state = checkup.run("database.instance", row, instance_row).await;
    let state = state.ok_or("the row of the instance was not read");
    checkup.run("database.lock", state, lock).await;
}

async fn check_registry(
    checkup: &mut Checkup,
    args: Result<(&RegistryArgs, &Names), &'static str>,
) {
    let client = checkup.run("endpoint", args, reach).await;
    let client = client.as_ref();
    let unreached = args.err().unwrap_or("the endpoint does not answer");
    checkup.run("clock", client.ok_or(unreached), clock).await;
    let signed = |checkup: &Checkup| match checkup.is_shut_out() {
        false => client.map(|client| &client.registry).ok_or(unreached),
        true => Err(
            "no more requests are signed after a rejected signature: rejected signatures count towards locking the key",
        ),
    };
    let description = checkup
        .run("permission.instance", signed(checkup), describe)
        .await;
    let description = description.ok_or("the instance is not described");
    checkup
        .run(
            "instance.version",
            description.as_ref().map_err(|reason| *reason),
            version,
        )
        .await;
    checkup
        .run(
            "instance.status",
            description.as_ref().map_err(|reason| *reason),
            status,
        )
        .await;
    checkup
        .run(
            "permission.list_namespaces",
            signed(checkup),
            list_namespaces,
        )
        .await;
    checkup
        .run(
            "permission.list_repositories",
            signed(checkup),
            list_repositories,
        )
        .await;
    let artifact = checkup
        .run("permission.list_artifacts", signed(checkup), list_artifacts)
        .await;
    let request = match (signed(checkup), &artifact) {
        (Err(reason), _) => Err(reason),
        (Ok(_), None) => Err("the artifact list did not give an artifact to ask for"),
        (Ok(_), Some(None)) => Err("the registry is empty: there is nothing to ask for"),
        (Ok(registry), Some(Some(artifact))) => Ok((registry, artifact)),
    };
    checkup
        .run("permission.build_history", request, build_history)
        .await;
}

/// The configured database; `None` for an embedded one that is not running.
async fn place(args: &DatabaseArgs) -> Probed<Option<Database>> {
    match args.named()? {
        Some(database) => {
            let place = database.place().to_owned();
            found(Some(database), place)
        }
        None => embedded_place(args).await,
    }
}

async fn embedded_place(args: &DatabaseArgs) -> Probed<Option<Database>> {
    let (folder, url) = args.embedded.look().await?;
    let database = url.as_deref().map(Database::from_url).transpose()?;
    let is_running = match &database {
        Some(_) => "running",
        None => "not running; `sync` starts it",
    };
    let place = format!("embedded in {}, {is_running}", folder.display());
    let Some(free_bytes) = free_bytes(&folder) else {
        return found(database, place);
    };
    let text = format!("{place}; {} MiB free", free_bytes >> 20);
    if free_bytes < FREE_BYTES_TO_WARN {
        let hint = "free disk space, or set DATABASE_URL to another database";
        return doubtful(database, "disk_low", text, hint);
    }
    found(database, text)
}

async fn connect(database: &Database) -> Probed<Session<'static>> {
    let session = Session::connect(database, &Activity::default()).await;
    found(session.map_err(unreachable_database)?, "connected")
}

/// Distinguishes the reasons, because the driver's messages are specific.
fn unreachable_database(error: DatabaseError) -> Finding {
    let code = match &error {
        DatabaseError::Timeout { .. } => "timeout",
        DatabaseError::Unusable { problem, .. } => match problem {
            Unusable::OpenGauss => "not_postgresql",
            Unusable::OldServer(_) => "old_server",
            Unusable::Encoding(_) => "encoding",
        },
        _ => "unreachable",
    };
    Finding::failed(code, error.into())
}

async fn server(session: &mut Session<'_>) -> Probed<()> {
    let state = store::server_state(session).await.map_err(statement)?;
    let text = format!("PostgreSQL {}", state.version);
    if state.is_read_only {
        let failure = Failure::new(Exit::Database, format!("{text}, which is read-only"));
        let failure = failure
            .hint("use the primary instead of a standby, or check default_transaction_read_only");
        return Err(Finding::failed("read_only", failure));
    }
    found((), text)
}

/// How the schema compares with the program's.
#[derive(Debug, Clone, Copy)]
enum Schema {
    UpToDate,
    MigrationNeeded,
}

async fn schema(database: &Database) -> Probed<Schema> {
    match database.check().await {
        Ok(()) => found(Schema::UpToDate, "up to date"),
        Err(error @ DatabaseError::MigrationNeeded { .. }) => doubtful(
            Schema::MigrationNeeded,
            "migration_needed",
            error.to_string(),
            "`swr-sync migrate` migrates it, and so does `sync` without --no-migrate",
        ),
        Err(error) => {
            let code = match &error {
                DatabaseError::NewerSchema { .. } => "newer_schema",
                DatabaseError::UnreleasedSchema { .. } => "unreleased_schema",
                _ => "unreadable",
            };
            Err(Finding::failed(code, error.into()))
        }
    }
}

/// The privileges of the role: to migrate if that is needed, otherwise to write what a run writes.
async fn rights(session: &mut Session<'_>, schema: Option<Schema>) -> Probed<()> {
    let (missing, purpose, hint) = match schema {
        Some(Schema::MigrationNeeded) => (
            store::missing_migration_rights(session).await,
            "migrate",
            "run `swr-sync migrate` as the owner of the database or of the schema",
        ),
        Some(Schema::UpToDate) | None => (
            store::missing_run_rights(session).await,
            "sync",
            "grant them to this role, as the owner of the schema",
        ),
    };
    let missing = missing.map_err(statement)?;
    if missing.is_empty() && store::is_public_open(session).await.map_err(statement)? {
        return doubtful(
            (),
            "open_public",
            format!("enough to {purpose}, but every role can create objects in schema public"),
            "`revoke create on schema public from public` if no other program needs it: a role can create \
             functions there that run with the rights of users who read the views with psql",
        );
    }
    if missing.is_empty() {
        return found((), format!("enough to {purpose}"));
    }
    let text = format!("to {purpose} the role lacks {}", missing.join("; "));
    let failure = Failure::new(Exit::Database, text).hint(hint);
    Err(Finding::failed("missing_rights", failure))
}

async fn instance_row(
    (session, names): (&mut Session<'_>, &Names),
) -> Probed<Option<InstanceState>> {
    let state = store::instance_state(session, &names.instance_id).await;
    match state.map_err(statement)? {
        Some(state) if state.project_id != names.project_id => {
            let error = SyncError::WrongInstance {
                swr_instance_id: names.instance_id.clone(),
                stored: state.project_id,
                given: names.project_id.clone(),
            };
            Err(Finding::failed("wrong_instance", failure(error)))
        }
        Some(state) => found(Some(state), "known"),
        None => found(None, "new to this database"),
    }
}

async fn lock(state: Option<InstanceState>) -> Probed<()> {
    match state {
        Some(InstanceState {
            holder: Some(holder),
            ..
        }) => {
            let error = StoreError::Locked {
                holder: Some(Box::new(holder)),
                waited: None,
            };
            Err(Finding::failed("lock_held", failure(error.into())))
        }
        _ => found((), "free"),
    }
}

/// A client whose endpoint was reached.
struct Client {
    registry: Registry,
    /// Whether each request is signed and therefore depends on the clock.
    signs: bool,
}

/// Checks name resolution, connection and TLS with one unsigned request.
async fn reach((args, names): (&RegistryArgs, &Names)) -> Probed<Client> {
    let source = args.source(Clock::system()).await?;
    let registry = source.project.registry(&names.instance_id);
    registry.reach().await.map_err(refused)?;
    let client = Client {
        registry,
        signs: source.settings.credentials.sign_requests(),
    };
    found(client, "answers")
}

async fn clock(client: &Client) -> Probed<()> {
    const HINT: &str =
        "set this machine's clock: signatures are valid for 15 minutes around the gateway's";
    let Some(skew) = client.registry.clock_skew() else {
        return doubtful(
            (),
            "no_date",
            "the response has no Date header",
            "compare the clock manually",
        );
    };
    let seconds = skew.num_seconds().unsigned_abs();
    let text = match skew.num_seconds() {
        0 => "same time as the gateway".to_owned(),
        ..0 => format!("{seconds} s ahead of the gateway"),
        1.. => format!("{seconds} s behind the gateway"),
    };
    if seconds > SKEW_TO_FAIL_SECONDS && client.signs {
        let failure = Failure::new(Exit::Denied, text).hint(HINT);
        return Err(Finding::failed("clock_skew", failure));
    }
    if seconds >= SKEW_TO_WARN_SECONDS {
        return doubtful((), "clock_skew", text, HINT);
    }
    found((), text)
}

/// A run also requests the description, and continues without it.
async fn describe(registry: &Registry) -> Probed<InstanceDescription> {
    match registry.instance().await {
        Ok(description) => {
            let name = description.name.clone();
            found(
                description,
                name.unwrap_or_else(|| "without a name".to_owned()),
            )
        }
        Err(error) if error.status().is_some_and(|status| status.status == 403) => Err(Finding {
            status: Status::Warn,
            ..refused(error)
                .hint("allow swr:instance:get; without it, a run cannot read the version")
        }),
        Err(error) => Err(refused(error)),
    }
}

async fn version(description: &InstanceDescription) -> Probed<()> {
    let Some(version) = description.version.clone() else {
        let hint = "the artifact list requires version 25.6.0 or later";
        return doubtful((), "no_version", "unknown", hint);
    };
    if is_older(&version, FIRST_VERSION) {
        let failure = failure(SyncError::UnsupportedVersion { version });
        return Err(Finding::failed("old_instance", failure));
    }
    found((), version)
}

async fn status(description: &InstanceDescription) -> Probed<()> {
    match description.status.as_deref() {
        Some("Running") => found((), "Running"),
        Some(other) => {
            let hint = "check the instance in the console; a run tries it anyway";
            doubtful((), "not_running", other, hint)
        }
        None => found((), "unknown"),
    }
}

async fn list_namespaces(registry: &Registry) -> Probed<()> {
    let count = registry.namespace_count().await;
    let count = count.map_err(|error| forbidden(error, "swr:repository:listNamespaces"))?;
    found((), counted(count, "namespaces"))
}

async fn list_repositories(registry: &Registry) -> Probed<()> {
    let count = registry.repository_count().await;
    let count = count.map_err(|error| forbidden(error, "swr:repository:listRepositories"))?;
    found((), counted(count, "repositories"))
}

fn counted(count: Option<u64>, what: &str) -> String {
    match count {
        Some(count) => format!("allowed: {count} {what}"),
        None => "allowed".to_owned(),
    }
}

async fn list_artifacts(registry: &Registry) -> Probed<Option<Artifact>> {
    let first = registry.first_artifact().await;
    let first = first.map_err(|error| forbidden(error, "swr:instance:listAllArtifacts"))?;
    let text = match &first {
        Some(artifact) => format!("allowed: the first is artifact {}", artifact.artifact_id),
        None => "allowed: the registry is empty".to_owned(),
    };
    found(first, text)
}

/// Without permission for histories, a run still publishes, so its exit code is `Partial`.
async fn build_history((registry, artifact): (&Registry, &Artifact)) -> Probed<()> {
    let repository = registry
        .find_repository(artifact.repository_id, CATALOG_PAGES)
        .await;
    let Some(repository) = repository.map_err(refused)? else {
        let text = format!(
            "the first catalog pages do not contain repository {}",
            artifact.repository_id
        );
        let hint = "no build history was requested; `sync` reads the whole catalog";
        return doubtful((), "no_repository", text, hint);
    };
    let outcome = registry.build_history(&repository, &artifact.digest).await;
    let refusal = match outcome.map_err(refused)?.outcome {
        HistoryOutcome::Stored(history) => {
            let text = format!(
                "allowed: {} steps of artifact {}",
                history.steps.len(),
                artifact.artifact_id
            );
            return found((), text);
        }
        HistoryOutcome::Empty(_) | HistoryOutcome::Unsupported(_) | HistoryOutcome::Gone(_) => {
            let text = format!("allowed: artifact {} has none", artifact.artifact_id);
            return found((), text);
        }
        HistoryOutcome::Forbidden(refusal) | HistoryOutcome::Failed(refusal) => refusal,
    };
    let (code, text) = match refusal.status {
        Some(200) => ("malformed".to_owned(), refusal.message),
        Some(status) => (
            format!("http_{status}"),
            format!("HTTP {status}: {}", refusal.message),
        ),
        None => ("no_answer".to_owned(), refusal.message),
    };
    let hint = match refusal.status {
        Some(403) => "allow swr:repository:getTagAddition, which is in SWR ReadOnlyAccess",
        _ => "try again; `sync` publishes without the histories that fail, and retries them later",
    };
    Err(Finding::failed(
        code,
        Failure::new(Exit::Partial, text).hint(hint),
    ))
}

/// The hint names the permission that the probe needs.
fn forbidden(error: RegistryError, action: &str) -> Finding {
    let is_forbidden = error.status().is_some_and(|status| status.status == 403);
    let finding = refused(error);
    match is_forbidden {
        true => finding.hint(format!("allow {action}, which is in SWR ReadOnlyAccess")),
        false => finding,
    }
}

fn refused(error: RegistryError) -> Finding {
    let code = match &error.failure {
        RequestFailure::Status(status) | RequestFailure::Login(status) => {
            format!("http_{}", status.status)
        }
        RequestFailure::NoKey(_) => "no_key".to_owned(),
        RequestFailure::NoAnswer { reason } => no_answer(reason).to_owned(),
        RequestFailure::Untrusted { .. } => "tls".to_owned(),
        RequestFailure::BadHeader { .. } => "bad_header".to_owned(),
        RequestFailure::TooLarge(_) => "too_large".to_owned(),
        RequestFailure::Malformed(_)
        | RequestFailure::Unwanted
        | RequestFailure::RepeatedMarker { .. }
        | RequestFailure::EndlessListing { .. }
        | RequestFailure::EndlessCatalog { .. }
        | RequestFailure::IncompleteCatalog { .. } => "malformed".to_owned(),
    };
    // The name of the probe already says what was requested.
    let text = error.failure.to_string();
    Finding {
        text,
        ..Finding::failed(code, failure(error.into()))
    }
}

/// How far a request got, derived from the messages of the libraries.
fn no_answer(reason: &str) -> &'static str {
    let has = |word: &str| reason.contains(word);
    if has("timed out") {
        "timeout"
    } else if has("lookup") || has("dns") {
        "dns"
    } else if has("certificate") || has("tls") || has("handshake") {
        "tls"
    } else {
        "unreachable"
    }
}

fn statement(error: StoreError) -> Finding {
    Finding::failed("statement", failure(error.into()))
}

/// The result of a probe: what it found, with a value for later probes, or why it failed.
type Probed<T> = Result<(Finding, T), Finding>;

fn found<T>(value: T, text: impl Into<String>) -> Probed<T> {
    Ok((Finding::new(Status::Ok, "ok", text), value))
}

fn configured(value: String) -> Probed<String> {
    let text = value.clone();
    found(value, text)
}

/// A result that the user should check.
fn doubtful<T>(
    value: T,
    code: &str,
    text: impl Into<String>,
    hint: impl Into<String>,
) -> Probed<T> {
    Ok((Finding::new(Status::Warn, code, text).hint(hint), value))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    Warn,
    Fail,
    Skipped,
}

impl Status {
    fn style(self) -> Style {
        match self {
            Status::Ok => AnsiColor::Green.on_default(),
            Status::Warn => AnsiColor::Yellow.on_default(),
            Status::Fail => AnsiColor::Red.on_default().bold(),
            Status::Skipped => Style::new().dimmed(),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
            Status::Skipped => "skipped",
        }
    }
}

#[derive(Debug)]
struct Finding {
    status: Status,
    /// For programs; stays the same when texts change.
    code: String,
    text: String,
    hint: Option<String>,
    /// How `sync` would end; used only if the probe failed.
    exit: Exit,
}

impl Finding {
    fn new(status: Status, code: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding {
            status,
            code: code.into(),
            text: text.into(),
            hint: None,
            exit: Exit::Success,
        }
    }

    fn failed(code: impl Into<String>, failure: Failure) -> Finding {
        Finding {
            exit: failure.exit,
            hint: failure.hint.clone(),
            ..Finding::new(Status::Fail, code, failure.message())
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(hint.into());
        self
    }
}

/// A missing or wrong setting, or another error that `sync` would report before it starts.
impl From<Failure> for Finding {
    fn from(failure: Failure) -> Finding {
        let code = match failure.exit {
            Exit::Usage => "configuration",
            _ => "unavailable",
        };
        Finding::failed(code, failure)
    }
}

impl From<DatabaseError> for Finding {
    fn from(error: DatabaseError) -> Finding {
        Failure::from(error).into()
    }
}

/// A probe that ran or was skipped.
#[derive(Debug)]
struct Entry {
    /// The source or instance; `None` for the database, or if there is only one.
    subject: Option<String>,
    source: usize,
    probe: &'static str,
    elapsed: Duration,
    finding: Finding,
}

/// The probes so far.
#[derive(Debug, Default)]
struct Checkup {
    entries: Vec<Entry>,
    /// The source or instance of the next probes.
    subject: Option<String>,
    /// The index of the source whose key signs the requests.
    source: usize,
}

impl Checkup {
    /// Runs a probe with what it needs, or skips it with the given reason.
    async fn run<D, T>(
        &mut self,
        probe: &'static str,
        given: Result<D, &'static str>,
        work: impl AsyncFnOnce(D) -> Probed<T>,
    ) -> Option<T> {
        let begin = Instant::now();
        let result = match given {
            Ok(given) => tokio::time::timeout(PROBE_TIMEOUT, work(given))
                .await
                .unwrap_or_else(|_| Err(timed_out(probe))),
            Err(reason) => Err(Finding::new(Status::Skipped, "skipped", reason)),
        };
        let (finding, value) = match result {
            Ok((finding, value)) => (finding, Some(value)),
            Err(finding) => (finding, None),
        };
        self.entries.push(Entry {
            subject: self.subject.clone(),
            source: self.source,
            probe,
            elapsed: begin.elapsed(),
            finding,
        });
        value
    }

    /// Whether the gateway rejects the key of this source, in any of its instances.
    fn is_shut_out(&self) -> bool {
        let entries = self.entries.iter();
        let mut own = entries.filter(|entry| entry.source == self.source);
        own.any(|Entry { probe, finding, .. }| {
            let is_refusal = matches!(finding.code.as_str(), "http_401" | "bad_header" | "no_key");
            is_refusal || (*probe == "clock" && finding.status == Status::Fail)
        })
    }

    fn of(&self, subject: Option<&str>) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.iter();
        entries.filter(move |entry| entry.subject.as_deref() == subject)
    }

    /// Whether the settings of the source are complete.
    fn is_configured(&self) -> bool {
        let entries = self.entries.iter();
        let mut own = entries.filter(|entry| entry.source == self.source);
        !own.any(|Entry { probe, finding, .. }| {
            probe.starts_with("configuration.") && finding.status == Status::Fail
        })
    }

    /// How `sync` would end: at the first failure, and with several instances at the worst of these.
    fn exit(&self) -> Exit {
        let subjects: BTreeSet<Option<&str>> = self
            .entries
            .iter()
            .map(|entry| entry.subject.as_deref())
            .collect();
        let first_failure = |subject: Option<&str>| {
            let mut findings = self.of(subject).map(|entry| &entry.finding);
            let failed = findings.find(|finding| finding.status == Status::Fail)?;
            Some(failed.exit)
        };
        let exits = subjects.into_iter().filter_map(first_failure);
        exits
            .max_by_key(|exit| exit.severity())
            .unwrap_or(Exit::Success)
    }

    fn print(&self, printer: &Printer) -> Result<(), Failure> {
        match printer.format() {
            Format::Table => super::result::written(self.print_lines(anstream::stdout()))?,
            _ => self.print_rows(printer)?,
        }
        print_lines([self.summary()]);
        Ok(())
    }

    /// One line for each probe, followed by its hint.
    fn print_lines(&self, mut output: impl Write) -> io::Result<()> {
        let mut last = None;
        for entry in &self.entries {
            let Entry {
                subject,
                source: _,
                probe,
                elapsed,
                finding,
            } = entry;
            if let Some(subject) = subject.as_ref().filter(|subject| last != Some(*subject)) {
                writeln!(output, "{}:", visible(subject))?;
            }
            last = subject.as_ref();
            let status = finding.status;
            let style = status.style();
            let text = visible(&finding.text);
            // Only what waits for an answer takes a time that is worth reading.
            let elapsed = match elapsed.as_millis() {
                0 => String::new(),
                elapsed_ms => format!("{elapsed_ms} ms"),
            };
            let name = status.as_str();
            writeln!(
                output,
                "{style}{name:8}{style:#}{probe:30}{elapsed:>9}  {text}"
            )?;
            if let Some(hint) = &finding.hint {
                writeln!(output, "{:8}hint: {}", "", visible(hint))?;
            }
        }
        output.flush()
    }

    fn print_rows(&self, printer: &Printer) -> Result<(), Failure> {
        let mut columns = vec![
            ResultColumn::text("probe"),
            ResultColumn::text("status"),
            ResultColumn::text("code"),
            ResultColumn::number("elapsed_ms"),
            ResultColumn::text("found"),
            ResultColumn::text("hint"),
        ];
        let has_subjects = self.entries.iter().any(|entry| entry.subject.is_some());
        if has_subjects {
            columns.push(ResultColumn::text("instance"));
        }
        let rows = self.entries.iter().map(|entry| {
            let Entry {
                subject,
                source: _,
                probe,
                elapsed,
                finding,
            } = entry;
            let mut row = vec![
                Some((*probe).to_owned()),
                Some(finding.status.as_str().to_owned()),
                Some(finding.code.clone()),
                Some(elapsed.as_millis().to_string()),
                Some(finding.text.clone()),
                finding.hint.clone(),
            ];
            if has_subjects {
                row.push(subject.clone());
            }
            row
        });
        printer.print_rows(&columns, &rows.collect::<Vec<_>>())
    }

    fn summary(&self) -> String {
        let count = |status| {
            let entries = self.entries.iter();
            entries
                .filter(|entry| entry.finding.status == status)
                .count()
        };
        let (ok, warn) = (count(Status::Ok), count(Status::Warn));
        let (fail, skipped) = (count(Status::Fail), count(Status::Skipped));
        let end = match self.exit() {
            Exit::Success => "`sync` can run".to_owned(),
            exit => format!("`sync` would exit with {}", exit as u8),
        };
        let warnings = if warn == 1 { "warning" } else { "warnings" };
        format!("{ok} ok, {warn} {warnings}, {fail} failed, {skipped} skipped: {end}")
    }
}

fn timed_out(probe: &str) -> Finding {
    let (exit, hint) = match probe.starts_with("database") {
        true => (Exit::Database, "check the server's load and locks"),
        false => (Exit::SourceUnavailable, "try again; the registry is slow"),
    };
    let text = format!("no answer within {} s", PROBE_TIMEOUT.as_secs());
    Finding::failed("timeout", Failure::new(exit, text).hint(hint))
}

fn as_mut<'a, T>(value: &'a mut Result<T, &'static str>) -> Result<&'a mut T, &'static str> {
    value.as_mut().map_err(|reason| *reason)
}
