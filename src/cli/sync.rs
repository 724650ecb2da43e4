//! `swr-sync sync`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::exit::{Exit, Failure};
use super::job::{InstanceRun, JobReport, TargetName};
use super::locked::IfLocked;
use super::outputs::OutputArgs;
use super::settings::{DatabaseArgs, RegistryArgs, SourceArgs, host, parse_time};
use super::shard::ShardSetting;
use super::source::{self, SourceFailure, Target};
use super::telemetry::{LogFormat, Telemetry};
use super::{hints, jitter, progress, signals, summary};
use crate::clock::Clock;
use crate::database::{Database, DatabaseError};
use crate::registry::Registry;
use crate::run::{RunCounters, RunReport};
use crate::spans;
use crate::stop::{Stop, StopReason};
use crate::store::{LockHolder, StoreError};
use crate::sync::{
    Ending, HEARTBEAT, PATIENCE, Progress, Safeguards, SyncError, SyncSettings, sync,
};

/// Arguments of `sync`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Crawl, compare and print what would change, but publish nothing. Build histories are stored
    /// nevertheless: they never change, and need not be fetched again
    #[arg(long)]
    dry_run: bool,
    /// Share of the artifacts, and of the tags of those that stay, that may be missing from one run
    /// to the next, beyond the first 100 of each; if more are missing, nothing is published
    #[arg(long, value_name = "PERCENT", env = "SWR_SYNC_MAX_REMOVALS_PERCENT", default_value_t = 20,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    max_removals_percent: u8,
    /// Publish regardless of how many artifacts or tags are missing
    #[arg(long)]
    accept_removals: bool,
    /// Mirror an instance although this database has another instance of the project with the same
    /// name; both are kept, each under its id
    #[arg(long)]
    accept_new_instance: bool,
    /// Do not migrate the database; fail if it needs a migration
    #[arg(long, env = "SWR_SYNC_NO_MIGRATE", value_parser = clap::builder::FalseyValueParser::new())]
    no_migrate: bool,
    /// Maximum number of instances crawled concurrently. Those of one project share one rate limit
    #[arg(long, value_name = "N", env = "SWR_SYNC_MAX_PARALLEL_INSTANCES", default_value_t = 4,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    max_parallel_instances: usize,
    /// What to do if another sync of the instance is already running: `fail` exits with 75, `skip`
    /// leaves the instance to that run and exits with 0, `wait` waits until it ends, `wait=TIME` at most
    /// that long
    #[arg(
        long,
        value_name = "fail|skip|wait[=TIME]",
        env = "SWR_SYNC_IF_LOCKED",
        default_value = "fail"
    )]
    if_locked: IfLocked,
    /// Time limit for the whole job, after the jitter. When it is reached, the job stops as cleanly as
    /// after SIGTERM, with exit code 7: the data received so far is kept, and the next run continues
    #[arg(long, value_name = "TIME", env = "SWR_SYNC_MAX_DURATION", value_parser = parse_limit)]
    max_duration: Option<Duration>,
    /// Before doing anything, wait a random time up to this
    #[arg(
        long,
        value_name = "TIME",
        env = "SWR_SYNC_JITTER",
        default_value = "0s",
        value_parser = parse_time
    )]
    jitter: humantime::Duration,
    /// Sync only a part of the instances: I/N with I from 1 to N, or auto/N to take I from the index
    /// of the pod in a Kubernetes Job with completionMode: Indexed
    #[arg(long, value_name = "I/N", env = "SWR_SYNC_SHARD")]
    shard: Option<ShardSetting>,
    #[command(flatten)]
    pub(super) sources: SourceArgs,
    #[command(flatten)]
    pub(super) database: DatabaseArgs,
    #[command(flatten)]
    outputs: OutputArgs,
}

/// Zero is rejected: the job would stop before it starts.
fn parse_limit(text: &str) -> Result<Duration, String> {
    match *parse_time(text)? {
        Duration::ZERO => Err("expected more than zero".to_owned()),
        limit => Ok(limit),
    }
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync sync                             with all settings from the environment
  swr-sync sync --instance-id all           every running instance of the project
  swr-sync sync --config swr-sync.toml      the sources of a configuration file
  swr-sync sync --shard 2/3                 the second third of them
  swr-sync sync --dry-run                   crawl and compare, and publish nothing
  swr-sync sync --accept-removals           publish once although too many artifacts are gone
  swr-sync sync --log-format json           log lines and summary as JSON, for a CronJob

From cron, every hour within the first ten minutes; an instance that is still being synced is skipped:
  0 * * * *  swr-sync sync --if-locked skip --jitter 10m --max-duration 50m
Every night, after other syncs have finished:
  0 2 * * *  swr-sync sync --if-locked wait=1h --max-duration 4h

A job that is stopped (SIGTERM, SIGINT, --max-duration) keeps the data received so far and publishes
nothing; the next run fetches the rest. After a signal the job ends within 5 s. Otherwise
notifications (--pushgateway-url and the like) time out after 10 s.";

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
        if_locked,
        max_duration,
        jitter,
        shard,
        sources,
        database,
        outputs: _,
    } = args;
    let stopped = |reason: StopReason| hints::failure(reason.into());
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
    let mut stop = stop.clone();
    if !jitter.is_zero() {
        database.named()?;
        stop.or(wait_for_jitter(*jitter, telemetry))
            .await
            .map_err(stopped)?;
    }
    if let Some(limit) = max_duration {
        stop = stop.within(limit);
    }
    let preparing = source::prepare(registries, clock);
    let (sources, mut failures) = stop.or(preparing).await.map_err(stopped)??;
    let open = stop.or(database.open()).await.map_err(stopped)??;
    prepare(&open.database, no_migrate, &stop).await?;
    let settings = RunSettings {
        dry_run,
        safeguards: Safeguards {
            max_removals_percent: (!accept_removals).then_some(max_removals_percent),
            accept_new_instance,
        },
        if_locked,
        host: host(),
        clock: clock.clone(),
    };
    let finding = source::find_targets(&sources, max_parallel_instances);
    let (mut targets, unlisted) = stop.or(finding).await.map_err(stopped)??;
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
            skips_locked: false,
        })
        .collect();
    let count = targets.len() + unlisted.len();
    let running = stream::iter(targets)
        .map(|target| run_target(target, &settings, &open.database, count, telemetry, &stop))
        .buffer_unordered(max_parallel_instances);
    let mut ended = std::pin::pin!(stream::iter(unlisted).chain(running));
    while let Some(run) = ended.next().await {
        match &run.result {
            Err(failure) if run.is_skipped() => tell_skip(&run.target, failure, telemetry),
            // One alone is told at the end of the program.
            Err(failure) if count > 1 => super::tell_failure(failure, Some(&run.target), telemetry),
            _ => {}
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
    if_locked: IfLocked,
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
        if_locked,
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
        ending: match dry_run {
            true => Ending::DryRun,
            false => Ending::Publish,
        },
        safeguards: *safeguards,
        lock_timeout: if_locked.lock_timeout(),
        patience: PATIENCE,
        heartbeat: HEARTBEAT,
        host: host.clone(),
        clock: clock.clone(),
    };
    let progress = Arc::<Progress>::default();
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
        skips_locked: *if_locked == IfLocked::Skip,
    };
    span.record("run_id", run.run_id);
    span.record("outcome", run.ending().outcome());
    if let Err(failure) = &run.result {
        span.record("error", failure.message());
    }
    record_end(span, run.exit());
    run
}

/// Lets a random part of `longest` pass, and says how much.
async fn wait_for_jitter(longest: Duration, telemetry: &Telemetry) {
    let wait = jitter::draw(longest, &mut fastrand::Rng::new());
    let text = format!(
        "waiting {} before the start, by chance from up to {}",
        humantime::format_duration(wait),
        humantime::format_duration(longest)
    );
    match telemetry.is_live {
        true => super::print_lines([text]),
        false => tracing::info!(wait_ms = wait.as_millis() as u64, "{text}"),
    }
    tokio::time::sleep(wait).await;
}

/// Prints in one line that an instance is left to another run. If the lock is not held by a run,
/// nothing syncs the instance, so it is a warning.
fn tell_skip(target: &TargetName, failure: &Failure, telemetry: &Telemetry) {
    let text = format!("{target} is skipped: {}", failure.message());
    let is_run = match failure.error.downcast_ref() {
        Some(SyncError::Store(StoreError::Locked { holder, .. })) => {
            holder.as_deref().is_none_or(LockHolder::is_run)
        }
        _ => true,
    };
    if !is_run {
        tracing::warn!(instance = target.swr_instance_id.as_deref(), "{text}");
        return;
    }
    match telemetry.format {
        LogFormat::Text => super::print_lines([text]),
        LogFormat::Json => tracing::info!(instance = target.swr_instance_id.as_deref(), "{text}"),
    }
}

/// Brings the schema up to date, or checks that it is.
async fn prepare(database: &Database, no_migrate: bool, stop: &Stop) -> Result<(), Failure> {
    if no_migrate {
        let checked = stop.or(database.check()).await;
        return Ok(checked.map_err(|reason| hints::failure(reason.into()))??);
    }
    let applied = match database.migrate_until(stop).await {
        Err(DatabaseError::Stopped(reason)) => return Err(hints::failure(reason.into())),
        applied => applied?,
    };
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
    progress: &Arc<Progress>,
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
