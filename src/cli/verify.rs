//! `swr-sync verify`.

use std::str::FromStr;

use super::exit::{Exit, Failure};
use super::query;
use super::settings::{DatabaseArgs, RegistryArgs, host};
use super::{hints, signals};
use crate::clock::Clock;
use crate::report::Format;
use crate::store::{Compared, HistoriesCompared, Verdict};
use crate::verify::{VerifyError, VerifyReport, VerifySettings, verify};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Build histories to fetch again and compare: a number, chosen at random, or `all`
    #[arg(long, value_name = "N|all", default_value = "50")]
    histories: Sample,
    /// Form of the list of differences
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Differences to print; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) const AFTER_HELP: &str = "\
Reads the whole registry once more and compares it with the tables, row by row and column by
column, without changing them; of the build histories, which are immutable, a sample is fetched
again and compared down to the text of each command. Takes the settings and the lock of `sync`.

Each difference has a verdict:
  changed    a time in the registry says that it came about after the last sync had begun
  unlisted   the registry no longer lists the row; when it went cannot be known
  corrupt    everything else: the tables are wrong

Differences go to stdout and to swr.verification_difference, the verdict to swr.verification and
`swr-sync report verification`.

Exits with 0 if nothing is corrupt, with 1 if something is; else as `sync` does, with 2 also if
the instance was never synced, and with 75 if a run is going on.

Examples:
  swr-sync verify                       every row, and 50 build histories
  swr-sync verify --histories all       every build history, too: one request for each
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

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let Args {
        histories: Sample(histories),
        format,
        limit,
        registry,
        database,
    } = args;
    let source = registry.source(Clock::system())?;
    let swr_instance_id = registry.instance_id()?;
    let client = source.project.registry(&swr_instance_id);
    let open = database.open().await?;
    open.database.check().await?;
    let settings = VerifySettings {
        swr_instance_id,
        project_id: source.settings.project_id,
        histories,
        sample_start: format!("sha256:{:016x}", fastrand::u64(..)),
        host: host(),
        clock: source.settings.clock,
    };
    let stop = signals::listen()?;
    let report = verify(&client, &open.database, &settings, &stop).await;
    let printed = match &report {
        Ok(report) => print(&open.database, report, format, limit).await,
        Err(_) => Ok(()),
    };
    #[cfg(feature = "embedded-db")]
    if let Some(server) = open.embedded {
        server.close().await?;
    }
    let report = report.map_err(failure)?;
    printed?;
    super::print_stderr(&summary(&report));
    Ok(match report.verdict.corrupt {
        0 => Exit::Success,
        _ => Exit::DIFFERENT,
    })
}

fn failure(error: VerifyError) -> Failure {
    match error {
        VerifyError::Run(error) => hints::failure(error),
        error @ VerifyError::NeverPublished { .. } => Failure::new(error.exit(), error)
            .hint("run `swr-sync sync` first, or check SWR_INSTANCE_ID and DATABASE_URL"),
    }
}

/// The differences, the worst first.
async fn print(
    database: &crate::database::Database,
    report: &VerifyReport,
    format: Format,
    limit: u64,
) -> Result<(), Failure> {
    let Verdict {
        corrupt,
        changed,
        unlisted,
    } = report.verdict;
    if corrupt + changed + unlisted == 0 && format == Format::Table {
        return Ok(());
    }
    let limit = match limit {
        0 => String::new(),
        limit => format!("limit {limit}"),
    };
    let sql = format!(
        "select verdict, table_name, row_key, field, stored, found
         from swr.verification_difference
         where instance_id = {} and run_id = {}
         order by array_position(array['corrupt', 'unlisted', 'changed'], verdict), table_name, row_key, field
         {limit}",
        report.run.instance_id, report.run.run_id
    );
    let mut reader = database.connect_to_read().await?;
    query::print(&mut reader, &sql, format).await
}

fn summary(report: &VerifyReport) -> String {
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
    format!(
        "run {}: what run {} published is {outcome}, verified in {:.1} s
  compared     {artifacts} artifacts, {tags} tags, {compared} histories ({unavailable} unavailable)
  differences  {corrupt} corrupt, {changed} changed since the run of {}, {unlisted} no longer listed
",
        run.run_id,
        verified.run_id,
        elapsed.as_secs_f64(),
        verified.started_at.format("%Y-%m-%d %H:%M:%S UTC"),
    )
}
