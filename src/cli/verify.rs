//! `swr-sync verify`.

use std::str::FromStr;

use tracing::Instrument;

use super::exit::{Exit, Failure};
use super::query;
use super::settings::{DatabaseArgs, SourceArgs, host};
use super::source::{self, SourceFailure};
use super::telemetry::Telemetry;
use super::{hints, signals};
use crate::clock::Clock;
use crate::report::Format;
use crate::store::{Compared, HistoriesCompared, Verdict};
use crate::verify::{VerifyError, VerifyReport, VerifySettings, verify};

/// Sources whose instances are asked for at a time.
const PARALLEL_SOURCES: usize = 4;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of randomly chosen build histories to fetch again and compare, or `all`
    #[arg(long, value_name = "N|all", default_value = "50")]
    histories: Sample,
    /// Output format of the differences
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Maximum number of differences to print; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    pub(super) sources: SourceArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) const AFTER_HELP: &str = "\
Reads the whole registry again and compares every row and column with the tables, without changing
them. Build histories are immutable: a sample is fetched again and compared, including the text of
each command. Uses the settings and the lock of `sync`.

Each difference has a verdict:
  changed    the registry's timestamps show that the change happened after the last sync started
  unlisted   the registry no longer lists the row; the time of its removal is unknown
  corrupt    everything else: the tables are wrong

Differences are printed on stdout and stored in swr.verification_difference, the verdict in
swr.verification; `swr-sync report verification` shows it.

Exits with 0 if nothing is corrupt and with 1 if something is; with 2 also if the instance was
never synced, and with 75 if a sync of it is running; otherwise like `sync`.

Examples:
  swr-sync verify                       every row, and 50 build histories
  swr-sync verify --histories all       also every build history: one request for each
  swr-sync verify --limit 0 --format csv > differences.csv";

/// How many histories to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample(Option<u64>);

impl FromStr for Sample {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Sample, &'static str> {
        match text {
            "all" => Ok(Sample(None)),
            // Larger than any registry, and PostgreSQL's bigint holds it.
            number => match number.parse::<u32>() {
                Ok(number) => Ok(Sample(Some(number.into()))),
                Err(_) => Err("expected a number, or `all`"),
            },
        }
    }
}

pub(super) async fn run(args: Args, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let Args {
        histories: Sample(histories),
        format,
        limit,
        sources,
        database,
    } = args;
    let clock = Clock::system();
    let stop = signals::listen()?;
    let opening = async {
        let prepared = source::prepare(sources.registries()?, &clock).await?;
        let open = database.open().await?;
        open.database.check().await?;
        Ok::<_, Failure>((prepared, open))
    };
    let opened = stop.or(opening).await.map_err(signals::stopped)?;
    let ((sources, mut failures), open) = opened?;
    let finding = source::find_instances(&sources, PARALLEL_SOURCES);
    let (instances, unlisted) = stop.or(finding).await.map_err(signals::stopped)??;
    failures.extend(unlisted);
    let is_alone = instances.len() + failures.len() == 1;
    let mut reports = Vec::new();
    for instance in instances {
        let settings = VerifySettings {
            swr_instance_id: instance.swr_instance_id.clone(),
            project_id: instance.target.project_id.clone(),
            histories,
            sample_start: format!("sha256:{:016x}", fastrand::u64(..)),
            host: host(),
            clock: clock.clone(),
        };
        let span = match is_alone {
            true => tracing::Span::none(),
            false => tracing::info_span!("verify", instance = instance.swr_instance_id),
        };
        let verifying = verify(&instance.registry, &open.database, &settings, &stop);
        match verifying.instrument(span).await {
            Ok(report) => reports.push(report),
            Err(error) => failures.push(SourceFailure {
                target: instance.target,
                failure: failure(error),
            }),
        }
    }
    let printed = match reports.is_empty() {
        true => Ok(()),
        false => {
            let printing = print(&open.database, &reports, format, limit);
            let printed = stop.or(printing).await;
            printed.unwrap_or_else(|reason| Err(signals::stopped(reason)))
        }
    };
    #[cfg(feature = "embedded-db")]
    if let Some(server) = open.embedded {
        server.close().await?;
    }
    conclude(&reports, failures, printed, telemetry)
}

/// Prints how each instance ended, and gives the exit code of the worst.
fn conclude(
    reports: &[VerifyReport],
    failures: Vec<SourceFailure>,
    printed: Result<(), Failure>,
    telemetry: &Telemetry,
) -> Result<Exit, Failure> {
    let is_alone = reports.len() + failures.len() == 1;
    let mut exits = Vec::new();
    for SourceFailure { target, failure } in failures {
        // One alone is told at the end of the program.
        if is_alone {
            return Err(failure);
        }
        exits.push(failure.exit);
        super::tell_failure(&failure, Some(&target), telemetry);
    }
    printed?;
    for report in reports {
        super::print_lines(summary(report));
        exits.push(match report.verdict.corrupt {
            0 => Exit::Success,
            _ => Exit::DIFFERENT,
        });
    }
    let worst = exits.into_iter().max_by_key(|exit| exit.severity());
    Ok(worst.unwrap_or(Exit::Success))
}

fn failure(error: VerifyError) -> Failure {
    match error {
        VerifyError::Run(error) => hints::failure(error),
        error @ VerifyError::NeverPublished { .. } => Failure::new(error.exit(), error)
            .hint("run `swr-sync sync` first, or check SWR_INSTANCE_ID and DATABASE_URL"),
    }
}

/// The differences, the worst first; of several instances, in one list.
async fn print(
    database: &crate::database::Database,
    reports: &[VerifyReport],
    format: Format,
    limit: u64,
) -> Result<(), Failure> {
    let is_same = |report: &VerifyReport| {
        let Verdict {
            corrupt,
            changed,
            unlisted,
        } = report.verdict;
        corrupt + changed + unlisted == 0
    };
    if reports.iter().all(is_same) && format == Format::Table {
        return Ok(());
    }
    let limit = match limit {
        0 => String::new(),
        limit => format!("limit {limit}"),
    };
    let instance = match reports.len() {
        1 => "",
        _ => "i.swr_instance_id as instance,",
    };
    let runs: Vec<String> = reports
        .iter()
        .map(|VerifyReport { run, .. }| format!("({}, {})", run.instance_id, run.run_id))
        .collect();
    let sql = format!(
        "select {instance} verdict, table_name, row_key, field, stored, found
         from swr.verification_difference
         join swr.instance i using (instance_id)
         where (instance_id, run_id) in ({})
         order by array_position(array['corrupt', 'unlisted', 'changed'], verdict), instance_id, table_name, row_key,
             field
         {limit}",
        runs.join(", ")
    );
    let mut reader = database.connect_to_read().await?;
    query::print(&mut reader, &sql, format).await
}

fn summary(report: &VerifyReport) -> [String; 3] {
    let VerifyReport {
        run,
        verified,
        compared: Compared { artifacts, tags },
        histories: HistoriesCompared {
            compared,
            unavailable,
        },
        verdict: Verdict {
            corrupt,
            changed,
            unlisted,
        },
        elapsed,
    } = report;
    let outcome = match corrupt {
        0 => "intact",
        _ => "corrupt",
    };
    [
        format!(
            "run {}: what run {} published is {outcome}, verified in {:.1} s",
            run.run_id,
            verified.run_id,
            elapsed.as_secs_f64()
        ),
        format!(
            "  compared     {artifacts} artifacts, {tags} tags, {compared} histories ({unavailable} unavailable)"
        ),
        format!(
            "  differences  {corrupt} corrupt, {changed} changed since the run of {}, {unlisted} no longer listed",
            verified.started_at.format("%Y-%m-%d %H:%M:%S UTC")
        ),
    ]
}
