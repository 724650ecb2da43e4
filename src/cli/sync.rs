//! `swr-sync sync`.

use super::exit::{Exit, Failure};
use super::settings::{DatabaseArgs, RegistryArgs, host};
use super::telemetry::{LogFormat, Telemetry};
use super::{progress, signals};
use crate::clock::Clock;
use crate::database::Database;
use crate::registry::{Registry, RegistryError, RegistrySettings, RequestFailure};
use crate::run::{RunCounters, RunOutcome, RunReport};
use crate::stop::Stop;
use crate::store::StoreError;
use crate::sync::{Progress, SyncError, SyncSettings, sync};

/// Arguments of `sync`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do everything but publish: crawl, compare, say what would change, and undo it. Build
    /// histories are stored all the same: they never change, and need not be fetched again
    #[arg(long)]
    dry_run: bool,
    /// Do not migrate the database, only check that it needs no migration
    #[arg(long, env = "SWR_SYNC_NO_MIGRATE", value_parser = clap::builder::FalseyValueParser::new())]
    no_migrate: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Secrets have no flags, so the flags do not tell of them.
pub(super) const AFTER_HELP: &str = "\
Credentials, from the environment; the first that is set counts:
  SWR_AUTH_TOKEN                            a token; it is not renewed
  HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK    an access key, and for a temporary one
                                            HUAWEICLOUD_SDK_SECURITY_TOKEN
  SWR_IAM_USER, SWR_IAM_PASSWORD,           an IAM user, for whom tokens are fetched
  SWR_IAM_ACCOUNT                           and renewed
Each secret, and DATABASE_URL, can also stand in a file that NAME_FILE names.";

pub(super) async fn run(args: Args, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let Args {
        dry_run,
        no_migrate,
        registry,
        database,
    } = args;
    // What is wrong with the settings shows before anything is started.
    let (client, settings) = registry.registry(Clock::system())?;
    let open = database.open().await?;
    prepare(&open.database, no_migrate).await?;
    let region = registry
        .region
        .as_deref()
        .filter(|region| !region.is_empty());
    let stop = signals::listen()?;
    let report = run_once(
        &client,
        &settings,
        &open.database,
        region,
        dry_run,
        telemetry,
        &stop,
    )
    .await;
    #[cfg(feature = "embedded-db")]
    if let Some(server) = open.embedded {
        server.close().await?;
    }
    let report = report?;
    Ok(if report.counters.histories_failed > 0 {
        Exit::Partial
    } else {
        Exit::Success
    })
}

/// Brings the schema up to date, or checks that it is.
pub(super) async fn prepare(database: &Database, no_migrate: bool) -> Result<(), Failure> {
    if no_migrate {
        return Ok(database.check().await?);
    }
    let applied = database.migrate().await?;
    if applied > 0 {
        tracing::info!(
            applied,
            "applied {applied} migrations to {}",
            database.place()
        );
    }
    Ok(())
}

/// One run with progress and summary.
pub(super) async fn run_once(
    registry: &Registry,
    settings: &RegistrySettings,
    database: &Database,
    region: Option<&str>,
    dry_run: bool,
    telemetry: &Telemetry,
    stop: &Stop,
) -> Result<RunReport, Failure> {
    let settings = SyncSettings {
        swr_instance_id: settings.instance_id.clone(),
        project_id: settings.project_id.clone(),
        endpoint: settings.endpoint.to_string(),
        region: region.map(str::to_owned),
        dry_run,
        host: host(),
        clock: settings.clock.clone(),
    };
    let progress = Progress::default();
    let meter = registry.meter();
    let work = sync(registry, database, &settings, &progress, stop);
    let report = progress::show(telemetry, &progress, &meter, work)
        .await
        .map_err(failure)?;
    summarise(&report, telemetry);
    Ok(report)
}

fn failure(error: SyncError) -> Failure {
    let hint = hint(&error);
    let failure = Failure::new(error.exit(), error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn hint(error: &SyncError) -> Option<&'static str> {
    match error {
        SyncError::Registry(error) => registry_hint(error),
        SyncError::Store(StoreError::Locked { .. }) => Some(
            "nothing is wrong: let that run end; a lock goes with the connection that holds it",
        ),
        SyncError::Store(StoreError::Statement { .. }) => Some(
            "nothing was published; what had arrived is kept, and the next run goes on from there",
        ),
        SyncError::Database(_) => {
            Some("check that the database still runs; the next run goes on from here")
        }
        SyncError::UnsupportedVersion { .. } => Some("upgrade the instance to 25.6.0 or later"),
        SyncError::WrongInstance { .. } => {
            Some("check SWR_PROJECT_ID and SWR_INSTANCE_ID, or use another database")
        }
        SyncError::Stopped(_) => None,
    }
}

fn registry_hint(error: &RegistryError) -> Option<&'static str> {
    let status = match &error.failure {
        RequestFailure::Status(status) => status,
        RequestFailure::NoAnswer { .. } => {
            return Some(
                "check the endpoint or region, the network, and HTTPS_PROXY; nothing was published",
            );
        }
        RequestFailure::BadHeader { .. } => {
            return Some("check the credentials for line breaks and spaces");
        }
        RequestFailure::Malformed(_)
        | RequestFailure::RepeatedMarker { .. }
        | RequestFailure::EndlessListing { .. }
        | RequestFailure::IncompleteCatalog { .. } => {
            return Some("nothing was published; if it happens again, show it to the maintainers");
        }
    };
    match status.status {
        401 => Some(
            "check the credentials, and the clock: signatures are valid for 15 minutes around it. \
             Do not try again and again: repeated failures lock the key or the account for a while",
        ),
        403 => Some(
            "the user needs the actions swr:instance:listAllArtifacts, swr:repository:listNamespaces, \
             swr:repository:listRepositories and swr:repository:getTagAddition, all in SWR ReadOnlyAccess",
        ),
        404 if status.is_from_gateway() => Some(
            "the gateway does not know this call: check region and endpoint; an instance older than \
             25.6.0 does not have it either",
        ),
        404 => {
            Some("check SWR_PROJECT_ID and SWR_INSTANCE_ID: both must be of the endpoint's region")
        }
        400..=499 => Some("the request was refused as it is: check the settings"),
        _ => Some(
            "the service has a problem of its own: nothing was published, the next run tries again",
        ),
    }
}

/// Says what a run did: lines for people, or fields for log collectors.
fn summarise(report: &RunReport, telemetry: &Telemetry) {
    let RunReport {
        run_id,
        outcome,
        counters,
        elapsed,
    } = report;
    if telemetry.format == LogFormat::Json {
        tracing::info!(
            run_id,
            outcome = outcome.as_str(),
            elapsed_ms = elapsed.as_millis() as u64,
            requests_total = counters.requests.total(),
            requests = counters.requests.to_json().to_string(),
            retries = counters.requests.retries,
            throttled = counters.requests.throttled(),
            pages = counters.pages,
            artifacts_listed = counters.artifacts_listed,
            artifacts_new = counters.artifacts_new,
            artifacts_changed = counters.artifacts_changed,
            artifacts_removed = counters.artifacts_removed,
            artifacts_unchanged = counters.artifacts_unchanged,
            tags_new = counters.tags_new,
            tags_moved = counters.tags_moved,
            tags_removed = counters.tags_removed,
            histories_fetched = counters.histories_fetched,
            histories_reused = counters.histories_reused,
            histories_unsupported = counters.histories_unsupported,
            histories_gone = counters.histories_gone,
            histories_failed = counters.histories_failed,
            data_issues = counters.data_issues,
            rows_written = counters.rows_written,
            "run {run_id} {outcome}"
        );
        return;
    }
    super::print_stderr(&summary(report));
}

/// The summary in words.
pub(super) fn summary(report: &RunReport) -> String {
    let RunReport {
        run_id,
        outcome,
        counters,
        elapsed,
    } = report;
    let RunCounters {
        requests,
        catalog_pages,
        pages,
        artifacts_listed,
        artifacts_new,
        artifacts_changed,
        artifacts_removed,
        artifacts_unchanged,
        tags_new,
        tags_moved,
        tags_removed,
        histories_fetched,
        histories_reused,
        histories_unsupported,
        histories_gone,
        histories_failed,
        data_issues,
        rows_written,
    } = counters;
    let verb = match outcome {
        RunOutcome::Published => "published",
        RunOutcome::DryRun => "complete, not published (dry run)",
        RunOutcome::Failed => "failed",
        RunOutcome::Stopped => "stopped",
    };
    format!(
        "run {run_id}: {verb} in {:.1} s
  artifacts  {artifacts_listed} listed on {pages} pages: {artifacts_new} new, {artifacts_changed} changed, {artifacts_removed} removed, {artifacts_unchanged} unchanged
  tags       {tags_new} new, {tags_moved} moved, {tags_removed} removed
  histories  {histories_fetched} fetched, {histories_reused} known, {histories_unsupported} unsupported, {histories_gone} gone, {histories_failed} failed
  requests   {} ({catalog_pages} for the catalog), {} retries, {} throttled
  database   {rows_written} rows written, {data_issues} values altered
",
        elapsed.as_secs_f64(),
        requests.total(),
        requests.retries,
        requests.throttled(),
    )
}
