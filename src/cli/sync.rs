//! `swr-sync sync`.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::console::print_lines;
use super::exit::{Exit, Failure};
use super::failure::print_failure;
use super::job::{InstanceReport, JobReport};
use super::locked::IfLocked;
use super::outputs::OutputArgs;
use super::settings::{DatabaseArgs, RegistryArgs, SourceArgs, parse_time};
use super::shard::ShardSetting;
use super::source::{self, Instance, SourceFailure, Target};
use super::telemetry::{LogFormat, Telemetry};
use super::variables::host;
use super::{hints, jitter, progress, signals, summary};
use crate::clock::Clock;
use crate::database::{Database, DatabaseError};
use crate::registry::Registry;
use crate::run::{RunCounters, RunReport};
use crate::spans;
use crate::stop::{Stop, StopReason};
use crate::store::{LockHolder, StoreError};
use crate::sync::{Ending, Progress, Safeguards, SyncError, SyncSettings, sync};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Crawl and print what would change, but publish nothing. Build histories are stored
    /// anyway: they never change, so they need not be fetched again
    #[arg(long)]
    dry_run: bool,
    /// Maximum percentage of artifacts, and of tags of the remaining artifacts, that may be missing compared
    /// with the last run. The first 100 of each do not count; if more are missing, nothing is published
    #[arg(hide_short_help = true, long, value_name = "PERCENT", env = "SWR_SYNC_MAX_REMOVALS_PERCENT", default_value_t = 20,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    max_removals_percent: u8,
    /// Publish regardless of how many artifacts or tags are missing
    #[arg(long)]
    accept_removals: bool,
    /// Mirror an instance even if this database has another instance of the project with the same
    /// name; both are kept, each with its id
    #[arg(hide_short_help = true, long)]
    accept_new_instance: bool,
    /// Do not migrate the database; fail if it needs a migration
    #[arg(hide_short_help = true, long, env = "SWR_SYNC_NO_MIGRATE", value_parser = clap::builder::FalseyValueParser::new())]
    no_migrate: bool,
    /// Maximum number of instances crawled concurrently. Instances of one project share a rate limit
    #[arg(hide_short_help = true, long, value_name = "N", env = "SWR_SYNC_MAX_PARALLEL_INSTANCES", default_value_t = 4,
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
    #[arg(hide_short_help = true, long, value_name = "TIME", env = "SWR_SYNC_MAX_DURATION", value_parser = parse_limit)]
    max_duration: Option<Duration>,
    /// Random delay before the job starts, up to this time
    #[arg(
        hide_short_help = true,
        long,
        value_name = "TIME",
        env = "SWR_SYNC_JITTER",
        default_value = "0s",
        value_parser = parse_time
    )]
    jitter: humantime::Duration,
    /// Sync only a part of the instances: I/N with I from 1 to N, or auto/N to take I from the index
    /// of the pod in a Kubernetes Job with completionMode: Indexed
    #[arg(
        hide_short_help = true,
        long,
        value_name = "I/N",
        env = "SWR_SYNC_SHARD"
    )]
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

pub(super) const SHORT_AFTER_HELP: &str = "\
Credentials come from HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK, or from other places.

Examples:
  swr-sync sync                             with all settings from the environment
  swr-sync sync --instance-id all           every running instance of the project
  swr-sync sync --dry-run                   crawl and compare, and publish nothing

`swr-sync sync --help` explains all settings, variables and examples.";

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync sync                             with all settings from the environment
  swr-sync sync --instance-id all           every running instance of the project
  swr-sync sync --config swr-sync.toml      the sources of a configuration file
  swr-sync sync --shard 2/3                 the second third of them
  swr-sync sync --dry-run                   crawl and compare, and publish nothing
  swr-sync sync --accept-removals           publish once even if too many artifacts are missing
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
    // An unreadable CA file is reported later, as a failure of the job.
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
    report.report_failure();
    outputs.end(started, &report, &stop, telemetry).await;
    report.into_result()
}

/// Records the result in a span.
fn record_end(span: Span, exit: Exit) {
    span.record("exit_code", exit as u8);
    if exit != Exit::Success {
        span.record("otel.status_code", "ERROR");
    }
}

/// Runs every instance; fails if none could be started.
async fn run_instances(
    args: Args,
    clock: &Clock,
    telemetry: &Telemetry,
    stop: &Stop,
    report: &mut JobReport,
) -> Result<(), Failure> {
    // Errors in the settings are reported before anything is started.
    let registries = args.sources.registries()?;
    report.targets = registries.iter().flat_map(Target::planned).collect();
    let shard = args.shard.map(ShardSetting::resolve).transpose()?;
    if let Some(shard) = shard {
        report.targets.retain(|target| {
            let id = target.swr_instance_id.as_ref();
            id.is_none_or(|id| shard.has(id))
        });
    }
    if !args.jitter.is_zero() {
        args.database.named()?;
        let waiting = wait_for_jitter(*args.jitter, telemetry);
        stop.or(waiting).await.map_err(stopped)?;
    }
    let mut stop = stop.clone();
    if let Some(limit) = args.max_duration {
        stop = stop.with_time_limit(limit);
    }
    let preparing = source::prepare(registries, clock);
    let (sources, mut failures) = stop.or(preparing).await.map_err(stopped)??;
    let open = stop
        .or(args.database.open_for_job())
        .await
        .map_err(stopped)??;
    prepare(&open.database, args.no_migrate, &stop).await?;
    let finding = source::find_instances(&sources, args.max_parallel_instances);
    let (mut instances, unlisted) = stop.or(finding).await.map_err(stopped)??;
    failures.extend(unlisted);
    if let Some(shard) = shard {
        let all = instances.len();
        instances.retain(|instance| shard.has(&instance.swr_instance_id));
        tracing::info!("shard {shard} has {} of {all} instances", instances.len());
    }
    let job = Job {
        dry_run: args.dry_run,
        safeguards: Safeguards {
            max_removals_percent: (!args.accept_removals).then_some(args.max_removals_percent),
            accept_new_instance: args.accept_new_instance,
        },
        if_locked: args.if_locked,
        clock,
        database: &open.database,
        telemetry,
        stop: &stop,
        has_several: instances.len() + failures.len() > 1,
    };
    let failed = stream::iter(failures).map(|failure| not_listed(failure, clock.now()));
    let running = stream::iter(instances)
        .map(|instance| job.run(instance))
        .buffer_unordered(args.max_parallel_instances);
    let mut ended = std::pin::pin!(failed.chain(running));
    while let Some(instance) = ended.next().await {
        job.tell(&instance);
        report.instances.push(instance);
    }
    if let Some(server) = open.embedded {
        server.close().await?;
    }
    Ok(())
}

fn stopped(reason: StopReason) -> Failure {
    hints::failure(reason.into())
}

/// The report of a source whose instances could not be listed.
fn not_listed(failure: SourceFailure, now: DateTime<Utc>) -> InstanceReport {
    let SourceFailure { target, failure } = failure;
    InstanceReport {
        target: Some(target),
        started_at: now,
        elapsed: Duration::ZERO,
        run_id: None,
        exit: failure.exit,
        counters: Some(RunCounters::default()),
        result: Err(failure),
    }
}

/// What the runs of a job share.
struct Job<'a> {
    dry_run: bool,
    safeguards: Safeguards,
    if_locked: IfLocked,
    clock: &'a Clock,
    database: &'a Database,
    telemetry: &'a Telemetry,
    stop: &'a Stop,
    /// Whether there are several instances, so that each line must name its instance.
    has_several: bool,
}

impl Job<'_> {
    async fn run(&self, instance: Instance) -> InstanceReport {
        let (started_at, begin) = (self.clock.now(), Instant::now());
        let progress = Arc::<Progress>::default();
        let span = tracing::info_span!(
            target: spans::TARGET,
            "run",
            instance = instance.swr_instance_id,
            project_id = instance.target.project_id,
            run_id = Empty,
            outcome = Empty,
            exit_code = Empty,
            error = Empty,
            otel.status_code = Empty,
        );
        let running = self.sync(&instance, &progress);
        let result = running.instrument(span.clone()).await;
        let report = InstanceReport {
            target: Some(instance.target),
            started_at,
            elapsed: begin.elapsed(),
            run_id: progress.run_id(),
            exit: match &result {
                Ok(report) => report.counters.exit(),
                Err(failure)
                    if failure.exit == Exit::Locked && self.if_locked == IfLocked::Skip =>
                {
                    Exit::Success
                }
                Err(failure) => failure.exit,
            },
            counters: Some(match &result {
                Ok(report) => report.counters.clone(),
                Err(_) => progress.counters(&instance.registry.meter()),
            }),
            result,
        };
        span.record("run_id", report.run_id);
        span.record("outcome", report.outcome());
        if let Err(failure) = &report.result {
            span.record("error", failure.message());
        }
        record_end(span, report.exit);
        report
    }

    async fn sync(
        &self,
        instance: &Instance,
        progress: &Arc<Progress>,
    ) -> Result<RunReport, Failure> {
        let Instance {
            swr_instance_id,
            registry,
            ..
        } = instance;
        let settings = SyncSettings {
            ending: match self.dry_run {
                true => Ending::DryRun,
                false => Ending::Publish,
            },
            safeguards: self.safeguards,
            lock_timeout: self.if_locked.lock_timeout(),
            ..instance.sync_settings(self.clock)
        };
        let (database, stop) = (self.database, self.stop);
        if !self.has_several {
            let run = run_once(
                registry,
                database,
                &settings,
                progress,
                self.telemetry,
                stop,
            );
            let report = run.await.map_err(|error| instance.failure(error))?;
            summary::summarise(&report, self.telemetry);
            return Ok(report);
        }
        let name = instance.name.as_deref().unwrap_or(swr_instance_id);
        let telemetry = self.telemetry.of_instance(name);
        let run = async {
            let run = run_once(registry, database, &settings, progress, &telemetry, stop);
            let report = run.await.map_err(|error| instance.failure(error))?;
            summary::summarise(&report, &telemetry);
            Ok(report)
        };
        run.instrument(tracing::info_span!("sync", instance = swr_instance_id))
            .await
    }

    /// Prints the result of a run that has no summary.
    fn tell(&self, report: &InstanceReport) {
        match (&report.result, &report.target) {
            (Err(failure), Some(target)) if report.is_skipped() => {
                print_skip(target, failure, self.telemetry);
            }
            // With a single instance, the failure is printed at the end of the program.
            (Err(failure), target) if self.has_several => {
                print_failure(failure, target.as_ref(), self.telemetry);
            }
            _ => {}
        }
    }
}

/// Waits a random time up to `longest`, and logs it.
async fn wait_for_jitter(longest: Duration, telemetry: &Telemetry) {
    let wait = jitter::draw(longest, &mut fastrand::Rng::new());
    let text = format!(
        "waiting {} before the start (random, at most {})",
        humantime::format_duration(wait),
        humantime::format_duration(longest)
    );
    match telemetry.is_live {
        true => print_lines([text]),
        false => tracing::info!(wait_ms = wait.as_millis() as u64, "{text}"),
    }
    tokio::time::sleep(wait).await;
}

/// Prints in one line that an instance is skipped because of its lock. If the lock is not held by a run,
/// nothing syncs the instance, so it is a warning.
fn print_skip(target: &Target, failure: &Failure, telemetry: &Telemetry) {
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
        LogFormat::Text if telemetry.is_quiet => {}
        LogFormat::Text => print_lines([text]),
        LogFormat::Json => tracing::info!(instance = target.swr_instance_id.as_deref(), "{text}"),
    }
}

/// Migrates the schema, or checks that it is up to date.
async fn prepare(database: &Database, no_migrate: bool, stop: &Stop) -> Result<(), Failure> {
    if no_migrate {
        let checked = stop.or(database.check()).await.map_err(stopped)?;
        return checked.map_err(|error| match error {
            DatabaseError::MigrationNeeded { .. } => Failure::new(error.exit(), error)
                .hint("run `swr-sync migrate` as the owner of the schema"),
            error => error.into(),
        });
    }
    let applied = match database.migrate_until(stop).await {
        Err(DatabaseError::Stopped(reason)) => return Err(stopped(reason)),
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

/// One run with progress.
pub(super) async fn run_once(
    registry: &Registry,
    database: &Database,
    settings: &SyncSettings,
    progress: &Arc<Progress>,
    telemetry: &Telemetry,
    stop: &Stop,
) -> Result<RunReport, SyncError> {
    let work = sync(registry, database, settings, progress, stop);
    progress::show(telemetry, progress, registry, work).await
}
