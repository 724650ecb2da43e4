//! `swr-sync sync`.

use super::exit::{Exit, Failure};
use super::settings::{DatabaseArgs, RegistryArgs, host};
use super::telemetry::{LogFormat, Telemetry};
use super::{credentials, progress, signals};
use crate::build_history::{FailureCause, GaveUp, HistoryFailureGroup, HistoryFailures};
use crate::clock::Clock;
use crate::database::Database;
use crate::registry::{Registry, RegistryError, RegistrySettings, RequestFailure};
use crate::run::{RunCounters, RunOutcome, RunReport};
use crate::stop::Stop;
use crate::store::StoreError;
use crate::sync::{Progress, Safeguards, SyncError, SyncSettings, sync};

/// Arguments of `sync`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do everything but publish: crawl, compare, say what would change, and undo it. Build
    /// histories are stored all the same: they never change, and need not be fetched again
    #[arg(long)]
    dry_run: bool,
    /// Share of the artifacts that may be gone from one run to the next, beyond the first 100; if
    /// more are gone, nothing is published
    #[arg(long, value_name = "PERCENT", env = "SWR_SYNC_MAX_REMOVALS_PERCENT", default_value_t = 20,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    max_removals_percent: u8,
    /// Publish however many artifacts are gone
    #[arg(long)]
    accept_removals: bool,
    /// Take up an instance whose name another instance of the project has in this database: the
    /// two are mirrored side by side, each under its id
    #[arg(long)]
    accept_new_instance: bool,
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
Credentials; the first that is set counts, and one that is half set is an error:
  SWR_AUTH_TOKEN                            a token; it is not renewed
  HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK    an access key, and for a temporary one
                                            HUAWEICLOUD_SDK_SECURITY_TOKEN
  SWR_IAM_USER, SWR_IAM_PASSWORD,           an IAM user, for whom tokens are fetched
  SWR_IAM_ACCOUNT                           and renewed
  HW_ACCESS_KEY, HW_SECRET_KEY, …           the names of the Terraform provider; also CLOUD_SDK_AK
                                            and CLOUD_SDK_SK
  ~/.huaweicloud/credentials                the SDKs' profile file, or the one that
                                            HUAWEICLOUD_SDK_CREDENTIALS_FILE names: its section
                                            [basic], or the one that SWR_PROFILE names
  HC_CONTAINER_CREDENTIALS_FULL_URI,        pod identity of CCE; its keys are renewed
  HC_CONTAINER_AUTHORIZATION_TOKEN_FILE
  (nothing)                                 the metadata service of an ECS with an agency, whose
                                            keys are renewed; SWR_METADATA_ENDPOINT moves it
HW_REGION_NAME, HW_PROJECT_ID and HW_AUTH_URL stand in for SWR_REGION, SWR_PROJECT_ID and
SWR_IAM_ENDPOINT. Each secret, and DATABASE_URL, can also stand in a file that NAME_FILE names.";

pub(super) async fn run(args: Args, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let Args {
        dry_run,
        max_removals_percent,
        accept_removals,
        accept_new_instance,
        no_migrate,
        registry,
        database,
    } = args;
    let safeguards = Safeguards {
        max_removals_percent: (!accept_removals).then_some(max_removals_percent),
        accept_new_instance,
    };
    // What is wrong with the settings shows before anything is started.
    let (client, settings) = registry.registry(Clock::system()).await?;
    let stop = signals::listen()?;
    let opening = async {
        let open = database.open().await?;
        prepare(&open.database, no_migrate).await?;
        Ok::<_, Failure>(open)
    };
    let open = tokio::select! {
        open = opening => open?,
        signal = stop.requested() => return Err(failure(SyncError::Stopped(signal))),
    };
    let region = registry.region();
    let report = run_once(
        &client,
        &settings,
        &open.database,
        region.as_deref(),
        dry_run,
        safeguards,
        telemetry,
        &stop,
    )
    .await;
    #[cfg(feature = "embedded-db")]
    if let Some(server) = open.embedded {
        server.close().await?;
    }
    Ok(report?.counters.exit())
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
#[expect(
    clippy::too_many_arguments,
    reason = "what a run needs, each of its own kind"
)]
pub(super) async fn run_once(
    registry: &Registry,
    settings: &RegistrySettings,
    database: &Database,
    region: Option<&str>,
    dry_run: bool,
    safeguards: Safeguards,
    telemetry: &Telemetry,
    stop: &Stop,
) -> Result<RunReport, Failure> {
    let settings = SyncSettings {
        swr_instance_id: settings.instance_id.clone(),
        project_id: settings.project_id.clone(),
        endpoint: settings.endpoint.to_string(),
        region: region.map(str::to_owned),
        dry_run,
        safeguards,
        host: host(),
        clock: settings.clock.clone(),
    };
    let progress = Progress::default();
    let work = sync(registry, database, &settings, &progress, stop);
    let report = progress::show(telemetry, &progress, registry, work)
        .await
        .map_err(failure)?;
    summarise(&report, telemetry);
    Ok(report)
}

/// An error as the user reads it, with the exit code and the next step.
pub(super) fn failure(error: SyncError) -> Failure {
    let hints: Vec<String> = match clock_hint(&error) {
        Some(hint) => vec![hint],
        None => [crate::database::hint(&error), hint(&error)]
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect(),
    };
    let failure = Failure::new(error.exit(), error);
    match hints[..] {
        [] => failure,
        _ => failure.hint(hints.join("; ")),
    }
}

/// The reason for a refused signature that has nothing to do with the key.
fn clock_hint(error: &SyncError) -> Option<String> {
    let SyncError::Registry(error) = error else {
        return None;
    };
    let skew = error.status()?.clock_skew?;
    let (minutes, way) = match skew.num_minutes() {
        ahead @ 0.. => (ahead, "forward"),
        behind => (-behind, "back"),
    };
    Some(format!(
        "put this machine's clock {minutes} minutes {way}, and let NTP keep it (`timedatectl set-ntp \
         true`): signatures are valid for 15 minutes around the gateway's time"
    ))
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
        SyncError::Store(StoreError::MassRemoval(_)) => Some(
            "look into the registry: if the artifacts are gone there too, `swr-sync sync --accept-removals` \
             publishes that; nothing was changed, and the build histories that arrived are kept",
        ),
        SyncError::Store(StoreError::Silent { .. } | StoreError::CommitUnknown(_)) => Some(
            "see whether the server still runs and what holds it up; `swr-sync status` tells which \
             run was published last, and the next run goes on from there",
        ),
        SyncError::Store(StoreError::LockLost) => Some(
            "nothing was published. A pooler in between changes sessions within a run: have it pass \
             sessions through (pgbouncer: pool_mode = session), or connect to the server itself",
        ),
        SyncError::Database(_) => {
            Some("check that the database still runs; the next run goes on from here")
        }
        SyncError::UnsupportedVersion { .. } => Some("upgrade the instance to 25.6.0 or later"),
        SyncError::WrongInstance { .. } => {
            Some("check SWR_PROJECT_ID and SWR_INSTANCE_ID, or use another database")
        }
        SyncError::SameName { .. } => Some(
            "check SWR_INSTANCE_ID; if the instance was deleted and made anew, \
             `swr-sync sync --accept-new-instance` mirrors both side by side, each under its id",
        ),
        SyncError::Stopped(_) => None,
        SyncError::StoppedPublishing(_) => {
            Some("`swr-sync status` tells; the next run goes on from either")
        }
    }
}

fn registry_hint(error: &RegistryError) -> Option<&'static str> {
    let status = match &error.failure {
        RequestFailure::Status(status) | RequestFailure::Login(status) => status,
        RequestFailure::NoKey(no_key) => return Some(credentials::key_hint(&no_key.failure)),
        RequestFailure::NoAnswer { .. } => {
            return Some(
                "check the endpoint or region, the network, and HTTPS_PROXY; nothing was published",
            );
        }
        RequestFailure::Untrusted { .. } => {
            return Some(
                "if a proxy or a private endpoint stands there, name its authority's certificate by \
                 SWR_CA_FILE; else somebody is in between. Nothing was sent, nothing was published",
            );
        }
        RequestFailure::BadHeader { .. } => {
            return Some("check the credentials for line breaks and spaces");
        }
        RequestFailure::Malformed(_)
        | RequestFailure::Unwanted
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
        failures,
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
            histories_skipped = counters.histories_skipped,
            history_failures = failures_json(failures),
            gave_up = failures
                .gave_up
                .as_ref()
                .map(|gave_up| advice(gave_up, counters)),
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
        failures,
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
        histories_skipped,
        data_issues,
        rows_written,
    } = counters;
    let verb = match outcome {
        RunOutcome::Published => "published",
        RunOutcome::DryRun => "complete, not published (dry run)",
        RunOutcome::Failed => "failed",
        RunOutcome::Stopped => "stopped",
    };
    let skipped = match histories_skipped {
        0 => String::new(),
        count => format!(", {count} not asked for"),
    };
    format!(
        "run {run_id}: {verb} in {:.1} s
  artifacts  {artifacts_listed} listed on {pages} pages: {artifacts_new} new, {artifacts_changed} changed, {artifacts_removed} removed, {artifacts_unchanged} unchanged
  tags       {tags_new} new, {tags_moved} moved, {tags_removed} removed
  histories  {histories_fetched} fetched, {histories_reused} known, {histories_unsupported} unsupported, {histories_gone} gone, {histories_failed} failed{skipped}
  requests   {} ({catalog_pages} for the catalog), {} retries, {} throttled
  database   {rows_written} rows written, {data_issues} values altered
{}",
        elapsed.as_secs_f64(),
        requests.total(),
        requests.retries,
        requests.throttled(),
        failure_table(failures, counters),
    )
}

/// Groups of failed histories that the summary shows.
const FAILURE_GROUPS: usize = 10;

/// What failed why, and what to do about it; empty if nothing did.
fn failure_table(failures: &HistoryFailures, counters: &RunCounters) -> String {
    let HistoryFailures { groups, gave_up } = failures;
    let mut text = String::new();
    for group in groups.iter().take(FAILURE_GROUPS) {
        let HistoryFailureGroup {
            cause,
            message,
            count,
            repository,
        } = group;
        let example = match repository {
            Some(repository) => format!("; {repository} for example"),
            None => String::new(),
        };
        text.push_str(&format!(
            "  missing    {count} × {cause}: {message}{example}\n"
        ));
    }
    let rest = groups.get(FAILURE_GROUPS..).unwrap_or_default();
    if !rest.is_empty() {
        let count: u64 = rest.iter().map(|group| group.count).sum();
        let kinds = rest.len();
        text.push_str(&format!(
            "  missing    {count} × others, of {kinds} kinds\n"
        ));
    }
    if let Some(gave_up) = gave_up {
        text.push_str(&format!("  {}\n", advice(gave_up, counters)));
    }
    if !groups.is_empty() {
        text.push_str("  `swr-sync report history_failure` lists what is missing\n");
    }
    text
}

fn failures_json(failures: &HistoryFailures) -> String {
    let groups: Vec<serde_json::Value> = failures
        .groups
        .iter()
        .take(FAILURE_GROUPS)
        .map(|group| {
            let HistoryFailureGroup {
                cause,
                message,
                count,
                repository,
            } = group;
            serde_json::json!({
                "outcome": cause.outcome,
                "http_status": cause.status,
                "error_code": cause.code,
                "error_message": message,
                "count": count,
                "repository": repository.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    serde_json::Value::from(groups).to_string()
}

/// Why not all histories were asked for, and what the user can do, in a sentence.
fn advice(gave_up: &GaveUp, counters: &RunCounters) -> String {
    const ACTION: &str = "swr:repository:getTagAddition, which is in SWR ReadOnlyAccess";
    let what = match gave_up {
        GaveUp::Everywhere(cause) => format!("build histories kept failing alike ({cause})"),
        GaveUp::Repositories { count, cause, .. } => {
            let repositories = if *count == 1 {
                "1 repository".to_owned()
            } else {
                format!("{count} repositories")
            };
            let how = if cause.may_be_of_one_repository() {
                "were refused"
            } else {
                "kept failing alike"
            };
            format!("the build histories of {repositories} {how} ({cause})")
        }
    };
    let skipped = match counters.histories_skipped {
        0 => String::new(),
        count => format!(", so {count} more were not asked for"),
    };
    let next = match gave_up {
        GaveUp::Repositories {
            cause,
            is_everywhere,
            ..
        } if cause.may_be_of_one_repository() => {
            if *is_everywhere {
                format!("no repository gave any: grant the user {ACTION}")
            } else {
                format!(
                    "other repositories gave theirs: the user's policy is narrowed to some, widen {ACTION}, to all"
                )
            }
        }
        GaveUp::Everywhere(cause) | GaveUp::Repositories { cause, .. } => remedy(cause).to_owned(),
    };
    format!("{what}{skipped}; {next}")
}

fn remedy(cause: &FailureCause) -> &'static str {
    match cause.status {
        None => "check the network; the next run asks again",
        Some(403) => {
            "the gateway keeps the user out: check its access rules; the next run asks again"
        }
        Some(404) => {
            "the gateway does not know the call: check region and endpoint; the next run asks again"
        }
        Some(429) => {
            "the gateway throttles: lower --max-requests-per-second; the next run asks again"
        }
        Some(200) => {
            "the service gives something else: if it happens again, show it to the maintainers"
        }
        Some(_) => "the service has a problem of its own; the next run asks again",
    }
}
