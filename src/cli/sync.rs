//! `swr-sync sync`.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::exit::{Exit, Failure};
use super::job::{InstanceRun, JobReport, TargetName};
use super::outputs::OutputArgs;
use super::settings::{DatabaseArgs, RegistryArgs, SourceArgs, host};
use super::shard::ShardSetting;
use super::source::{self, SourceFailure, Target};
use super::telemetry::Telemetry;
use super::{hints, progress, signals, summary};
use crate::clock::Clock;
use crate::database::Database;
use crate::registry::Registry;
use crate::run::{RunCounters, RunReport};
use crate::spans;
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
    #[command(flatten)]
    outputs: OutputArgs,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync sync                             with all settings from the environment
  swr-sync sync --dry-run                   crawl and compare, and publish nothing
  swr-sync sync --accept-removals           publish once what the brake on mass removal refused
  swr-sync sync --log-format json           each log line and the summary as JSON, for a CronJob";

pub(super) async fn run(args: Args, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let clock = Clock::system();
    // A CA file that cannot be read is told as a failure of the job.
    let registries = args.sources.registries().unwrap_or_default();
    let certificates = registries.iter().map(RegistryArgs::ca_certificates);
    let certificates = certificates.flat_map(Result::unwrap_or_default).collect();
    let outputs = args.outputs.prepare(certificates, host())?;
    let stop = signals::listen()?;
    let begin = Instant::now();
    let mut report = JobReport::begin(clock.now());
    let started = outputs.begin(&report);
    let span = tracing::info_span!(
        target: spans::TARGET, "job", job_id = %report.job_id, exit_code = Empty, otel.status_code = Empty,
    );
    report.failure = run_instances(args, &clock, telemetry, &stop, &mut report)
        .instrument(span.clone())
        .await
        .err();
    report.elapsed = begin.elapsed();
    record_end(span, report.exit());
    summary::summarise_job(&report, telemetry);
    outputs.end(started, &report, &stop, telemetry).await;
    report.into_result()
}

/// Writes into the span of something that has ended how it did.
fn record_end(span: Span, exit: Exit) {
    span.record("exit_code", exit as u8);
    if exit != Exit::Success {
        span.record("otel.status_code", "ERROR");
    }
}

/// Runs every instance; fails if none could be begun.
async fn run_instances(
    args: Args,
    clock: &Clock,
    telemetry: &Telemetry,
    stop: &Stop,
    report: &mut JobReport,
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
        outputs: _,
    } = args;
    // What is wrong with the settings shows before anything is started.
    let registries = sources.registries()?;
    report.targets = registries.iter().flat_map(TargetName::planned).collect();
    let shard = shard.map(ShardSetting::resolve).transpose()?;
    if let Some(shard) = shard {
        let is_ours = |target: &TargetName| {
            let id = target.swr_instance_id.as_ref();
            id.is_none_or(|id| shard.has(id))
        };
        report.targets.retain(is_ours);
    }
    let (sources, mut failures) = source::prepare(registries, clock).await?;
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
            run_id: None,
            counters: RunCounters::default(),
            result: Err(failure),
        })
        .collect();
    let count = targets.len() + unlisted.len();
    let running = stream::iter(targets)
        .map(|target| run_target(target, &settings, &open.database, count, telemetry, stop))
        .buffer_unordered(max_parallel_instances);
    let mut ended = std::pin::pin!(stream::iter(unlisted).chain(running));
    while let Some(run) = ended.next().await {
        // One alone is told at the end of the program.
        if let Err(failure) = &run.result
            && count > 1
        {
            super::tell_failure_of(&run.target, failure, telemetry);
        }
        report.runs.push(run);
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
    let progress = Progress::default();
    let span = tracing::info_span!(
        target: spans::TARGET,
        "run",
        instance = target.swr_instance_id,
        project_id = name.project_id,
        run_id = Empty,
        outcome = Empty,
        exit_code = Empty,
        error = Empty,
        otel.status_code = Empty,
    );
    let registry = &target.registry;
    let running = async {
        if targets > 1 {
            let span = tracing::info_span!("sync", instance = target.swr_instance_id);
            let telemetry = telemetry.of_instance(&target.swr_instance_id);
            let running = run_once(registry, database, &settings, &progress, &telemetry, stop);
            running.instrument(span).await
        } else {
            run_once(registry, database, &settings, &progress, telemetry, stop).await
        }
    };
    let result = running.instrument(span.clone()).await;
    let run = InstanceRun {
        target: name,
        started_at,
        elapsed: begin.elapsed(),
        run_id: progress.run_id(),
        counters: match &result {
            Ok(report) => report.counters.clone(),
            Err(_) => progress.counters(&target.registry.meter()),
        },
        result,
    };
    span.record("run_id", run.run_id);
    span.record("outcome", run.ending().outcome());
    if let Err(failure) = &run.result {
        span.record("error", failure.message());
    }
    record_end(span, run.exit());
    run
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
    progress: &Progress,
    telemetry: &Telemetry,
    stop: &Stop,
) -> Result<RunReport, Failure> {
    let work = sync(registry, database, settings, progress, stop);
    let report = progress::show(telemetry, progress, registry, work)
        .await
        .map_err(hints::failure)?;
    summary::summarise(&report, telemetry);
    Ok(report)
}
