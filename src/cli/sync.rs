//! `swr-sync sync`.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::Instrument;

use super::exit::{Exit, Failure};
use super::job::{InstanceRun, JobReport, TargetName};
use super::settings::{DatabaseArgs, SourceArgs, host};
use super::shard::ShardSetting;
use super::source::{self, SourceFailure, Target};
use super::telemetry::Telemetry;
use super::{hints, progress, signals, summary};
use crate::clock::Clock;
use crate::database::Database;
use crate::registry::Registry;
use crate::run::RunReport;
use crate::stop::Stop;
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
    /// Instances that are crawled at a time. Those of one project share one pace
    #[arg(long, value_name = "N", env = "SWR_SYNC_MAX_PARALLEL_INSTANCES", default_value_t = 4,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    max_parallel_instances: usize,
    /// Only a part of the instances: I/N with I from 1 to N, or auto/N for the number of the pod in
    /// a Kubernetes Job with completionMode: Indexed
    #[arg(long, value_name = "I/N", env = "SWR_SYNC_SHARD")]
    shard: Option<ShardSetting>,
    #[command(flatten)]
    pub(super) sources: SourceArgs,
    #[command(flatten)]
    pub(super) database: DatabaseArgs,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync sync                             with all settings from the environment
  swr-sync sync --instance-id all           every running instance of the project
  swr-sync sync --config swr-sync.toml      the sources of a configuration file
  swr-sync sync --shard 2/3                 the second third of them
  swr-sync sync --dry-run                   crawl and compare, and publish nothing
  swr-sync sync --accept-removals           publish once what the brake on mass removal refused
  swr-sync sync --log-format json           each log line and the summary as JSON, for a CronJob";

pub(super) async fn run(args: Args, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let clock = Clock::system();
    let (started_at, begin) = (clock.now(), Instant::now());
    let mut runs = Vec::new();
    let failure = run_instances(args, &clock, telemetry, &mut runs)
        .await
        .err();
    let report = JobReport {
        started_at,
        elapsed: begin.elapsed(),
        runs,
        failure,
    };
    summary::summarise_job(&report, telemetry);
    report.into_result()
}

/// Runs every instance; fails if none could be begun.
async fn run_instances(
    args: Args,
    clock: &Clock,
    telemetry: &Telemetry,
    runs: &mut Vec<InstanceRun>,
) -> Result<(), Failure> {
    let Args {
        dry_run,
        max_removals_percent,
        accept_removals,
        accept_new_instance,
        no_migrate,
        max_parallel_instances,
        shard,
        sources,
        database,
    } = args;
    // What is wrong with the settings shows before anything is started.
    let shard = shard.map(ShardSetting::resolve).transpose()?;
    let (sources, mut failures) = source::prepare(sources.registries()?, clock).await?;
    let stop = signals::listen()?;
    let opening = async {
        let open = database.open().await?;
        prepare(&open.database, no_migrate).await?;
        Ok::<_, Failure>(open)
    };
    let open = tokio::select! {
        open = opening => open?,
        signal = stop.requested() => return Err(hints::failure(SyncError::Stopped(signal))),
    };
    let settings = RunSettings {
        dry_run,
        safeguards: Safeguards {
            max_removals_percent: (!accept_removals).then_some(max_removals_percent),
            accept_new_instance,
        },
        host: host(),
        clock: clock.clone(),
    };
    let found = tokio::select! {
        found = source::find_targets(&sources, max_parallel_instances) => found?,
        signal = stop.requested() => return Err(hints::failure(SyncError::Stopped(signal))),
    };
    let (mut targets, unlisted) = found;
    failures.extend(unlisted);
    if let Some(shard) = shard {
        let all = targets.len();
        targets.retain(|target| shard.has(&target.swr_instance_id));
        tracing::info!("shard {shard} has {} of {all} instances", targets.len());
    }
    let unlisted: Vec<InstanceRun> = failures
        .into_iter()
        .map(|SourceFailure { target, failure }| InstanceRun {
            target,
            started_at: clock.now(),
            elapsed: Duration::ZERO,
            result: Err(failure),
        })
        .collect();
    let count = targets.len() + unlisted.len();
    let running = stream::iter(targets)
        .map(|target| run_target(target, &settings, &open.database, count, telemetry, &stop))
        .buffer_unordered(max_parallel_instances);
    let mut ended = std::pin::pin!(stream::iter(unlisted).chain(running));
    while let Some(run) = ended.next().await {
        // One alone is told at the end of the program.
        if let Err(failure) = &run.result
            && count > 1
        {
            super::tell_failure_of(&run.target, failure, telemetry);
        }
        runs.push(run);
    }
    #[cfg(feature = "embedded-db")]
    if let Some(server) = open.embedded {
        server.close().await?;
    }
    Ok(())
}

/// What holds for all runs of a job.
#[derive(Debug)]
struct RunSettings {
    dry_run: bool,
    safeguards: Safeguards,
    host: String,
    clock: Clock,
}

async fn run_target(
    target: Target<'_>,
    settings: &RunSettings,
    database: &Database,
    targets: usize,
    telemetry: &Telemetry,
    stop: &Stop,
) -> InstanceRun {
    let RunSettings {
        dry_run,
        safeguards,
        host,
        clock,
    } = settings;
    let (started_at, begin) = (clock.now(), Instant::now());
    let name = TargetName::new(target.source, Some(&target.swr_instance_id));
    let settings = SyncSettings {
        swr_instance_id: target.swr_instance_id.clone(),
        project_id: name.project_id.clone(),
        endpoint: name.endpoint.clone(),
        region: name.region.clone(),
        dry_run: *dry_run,
        safeguards: *safeguards,
        host: host.clone(),
        clock: clock.clone(),
    };
    let registry = &target.registry;
    let result = if targets > 1 {
        let span = tracing::info_span!("sync", instance = target.swr_instance_id);
        let telemetry = telemetry.of_instance(&target.swr_instance_id);
        let running = run_once(registry, database, &settings, &telemetry, stop);
        running.instrument(span).await
    } else {
        run_once(registry, database, &settings, telemetry, stop).await
    };
    InstanceRun {
        target: name,
        started_at,
        elapsed: begin.elapsed(),
        result,
    }
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
    database: &Database,
    settings: &SyncSettings,
    telemetry: &Telemetry,
    stop: &Stop,
) -> Result<RunReport, Failure> {
    let progress = Progress::default();
    let work = sync(registry, database, settings, &progress, stop);
    let report = progress::show(telemetry, &progress, registry, work)
        .await
        .map_err(hints::failure)?;
    summary::summarise(&report, telemetry);
    Ok(report)
}
