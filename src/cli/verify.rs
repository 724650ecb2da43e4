//! `swr-sync verify`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tracing::{Instrument, Span};

use super::console::print_lines;
use super::exit::{Exit, Failure};
use super::failure::print_failure;
use super::result::{ExportArgs, Limit, Printer, ResultArgs};
use super::settings::{DatabaseArgs, SourceArgs};
use super::signals;
use super::source::{self, Instance, SourceFailure};
use super::telemetry::Telemetry;
use crate::clock::Clock;
use crate::database::Database;
use crate::report::Format;
use crate::run::{Compared, HistoriesCompared, RunReport, Verdict, Verification};
use crate::stop::Stop;
use crate::sync::{Ending, Sample, SyncSettings, sync};

/// Maximum number of sources listed concurrently, and of instances verified concurrently.
const PARALLEL: usize = 4;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of randomly chosen build histories to fetch again and compare, or `all`
    #[arg(long, value_name = "N|all", default_value = "50")]
    histories: Histories,
    /// Maximum number of differences to print; 0 for all [default: 50 in a table on a terminal, otherwise
    /// all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    result: ResultArgs,
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
struct Histories(Option<u64>);

impl FromStr for Histories {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Histories, &'static str> {
        match text {
            "all" => Ok(Histories(None)),
            // Larger than any registry, and PostgreSQL's bigint holds it.
            number => match number.parse::<u32>() {
                Ok(number) => Ok(Histories(Some(number.into()))),
                Err(_) => Err("expected a number, or `all`"),
            },
        }
    }
}

/// A completed verification: the id of its run, how long it took, and what it found.
type Finished = (i64, Duration, Verification);

pub(super) async fn run(args: Args, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let Args {
        histories: Histories(histories),
        limit,
        result,
        sources,
        database,
    } = args;
    let printer = result.printer(ExportArgs::default())?;
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
    let finding = source::find_instances(&sources, PARALLEL);
    let (instances, unlisted) = stop.or(finding).await.map_err(signals::stopped)??;
    failures.extend(unlisted);
    let is_alone = instances.len() + failures.len() == 1;
    let verify =
        |instance| verify_instance(instance, histories, &open.database, &clock, is_alone, &stop);
    let verifying = stream::iter(instances).map(verify).buffered(PARALLEL);
    let mut reports = Vec::new();
    for ended in verifying.collect::<Vec<_>>().await {
        match ended {
            Ok(RunReport {
                run_id,
                elapsed,
                verification,
                ..
            }) => {
                reports.extend(verification.map(|found| (run_id, elapsed, found)));
            }
            Err(failure) => failures.push(failure),
        }
    }
    let printed = match reports.is_empty() {
        true => Ok(()),
        false => {
            let printing = print(&open.database, &reports, &printer, limit);
            let printed = stop.or(printing).await;
            printed.unwrap_or_else(|reason| Err(signals::stopped(reason)))
        }
    };
    if let Some(server) = open.embedded {
        server.close().await?;
    }
    conclude(&reports, failures, printed, telemetry)
}

/// Prints the result of each instance, and returns the most severe exit code.
fn conclude(
    reports: &[Finished],
    failures: Vec<SourceFailure>,
    printed: Result<(), Failure>,
    telemetry: &Telemetry,
) -> Result<Exit, Failure> {
    let is_alone = reports.len() + failures.len() == 1;
    let mut exits = Vec::new();
    for SourceFailure { target, failure } in failures {
        // With a single instance, the failure is printed at the end of the program.
        if is_alone {
            return Err(failure);
        }
        exits.push(failure.exit);
        print_failure(&failure, Some(&target), telemetry);
    }
    printed?;
    for report in reports {
        print_lines(summary(report));
        exits.push(report.2.exit());
    }
    let worst = exits.into_iter().max_by_key(|exit| exit.severity());
    Ok(worst.unwrap_or(Exit::Success))
}

async fn verify_instance(
    instance: Instance,
    histories: Option<u64>,
    database: &Database,
    clock: &Clock,
    is_alone: bool,
    stop: &Stop,
) -> Result<RunReport, SourceFailure> {
    let settings = SyncSettings {
        ending: Ending::Compare(Sample {
            histories,
            start: format!("sha256:{:016x}", fastrand::u64(..)),
        }),
        ..instance.sync_settings(clock)
    };
    let span = match is_alone {
        true => Span::none(),
        false => tracing::info_span!("verify", instance = instance.swr_instance_id),
    };
    let progress = Arc::default();
    let verifying = sync(&instance.registry, database, &settings, &progress, stop);
    let report = verifying.instrument(span).await;
    report.map_err(|error| SourceFailure {
        failure: instance.failure(error),
        target: instance.target,
    })
}

/// The differences, the worst first; those of several instances in one list.
async fn print(
    database: &Database,
    reports: &[Finished],
    printer: &Printer,
    limit: Option<u64>,
) -> Result<(), Failure> {
    let is_same = |(_, _, found): &Finished| found.verdict == Verdict::default();
    if reports.iter().all(is_same) && printer.format() == Format::Table {
        return Ok(());
    }
    let instance = match reports.len() {
        1 => "",
        _ => "i.swr_instance_id as instance,",
    };
    let runs: Vec<String> = reports
        .iter()
        .map(|(run_id, _, found)| format!("({}, {run_id})", found.instance_id))
        .collect();
    let sql = format!(
        "select {instance} verdict, table_name, row_key, field, stored, found
         from swr.verification_difference
         join swr.instance i using (instance_id)
         where (instance_id, run_id) in ({})
         order by array_position(array['corrupt', 'unlisted', 'changed'], verdict), instance_id, table_name, row_key,
             field",
        runs.join(", ")
    );
    let mut reader = database.connect_to_read().await?;
    match printer.limit(limit) {
        None => printer.print(&mut reader, &sql, None).await,
        Some(rows) => {
            let some = format!("{sql}\nlimit {}", rows.saturating_add(1));
            let limit = Limit { rows, whole: &sql };
            printer.print(&mut reader, &some, Some(limit)).await
        }
    }
}

fn summary((run_id, elapsed, found): &Finished) -> [String; 3] {
    let Verification {
        instance_id: _,
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
    } = found;
    let outcome = match corrupt {
        0 => "intact",
        _ => "corrupt",
    };
    [
        format!(
            "run {run_id}: data of run {} is {outcome}, verified in {:.1} s",
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
