//! `swr-sync query` and `swr-sync status`: read-only SQL.

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use chrono::TimeDelta;

use super::exit::{Exit, Failure};
use super::settings::DatabaseArgs;
use crate::clock::CLOCK_TOLERANCE;
use crate::database::hint;
use crate::database::reader::{ReadError, Reader};
use crate::report::{CsvSink, Format, JsonSink, TableSink, quoted};
use crate::secret_file::BYTE_ORDER_MARK;
use crate::store::{ListingAge, Session, listing_ages};

pub(super) const QUERY_AFTER_HELP: &str = "\
The statement runs in a read-only transaction. `swr-sync report` lists the reports, each of which is a
view or a function in swr_report; docs/schema.md describes every column.

Examples:
  swr-sync query 'select namespace, count(*) from artifact group by 1'
  swr-sync query --format csv 'select * from tag_move' > moves.csv
  swr-sync query --format json 'select * from freshness'";

pub(super) const STATUS_AFTER_HELP: &str = "\
Examples:
  swr-sync status                               age of the data, pending build histories, last runs
  swr-sync status --max-age 26h                 health check: exits with 1 if a listing is older
  swr-sync status --runs 100 --format json      the last 100 runs with their counters";

#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    /// One select statement; the views of swr_report and the tables of swr need no schema name
    #[arg(value_name = "SQL")]
    sql: String,
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// With --format csv, prefix text cells that begin with =, +, -, @, tab or carriage return with ',
    /// so that a spreadsheet does not run them as formulas
    #[arg(long)]
    escape_formulas: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Number of runs to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    runs: u64,
    /// Only this instance: its id in SWR, or its name
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Health check: show only the age of the data, and exit with 1 if any of it is older than this or
    /// was never published
    #[arg(long, value_name = "TIME")]
    max_age: Option<humantime::Duration>,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn query(args: QueryArgs) -> Result<Exit, Failure> {
    let QueryArgs {
        sql,
        format,
        escape_formulas,
        database,
    } = args;
    let open = database.open().await?;
    let mut reader = open.database.connect_to_read().await?;
    // `query "$(cat FILE)"` passes one.
    let sql = sql.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&sql);
    let form = Form {
        format,
        escape_formulas,
    };
    print(&mut reader, sql, form).await?;
    Ok(Exit::Success)
}

pub(super) async fn status(args: StatusArgs) -> Result<Exit, Failure> {
    let StatusArgs {
        format,
        runs,
        instance,
        max_age,
        database,
    } = args;
    let open = database.open().await?;
    open.database.check().await?;
    let mut reader = open.database.connect_to_read().await?;
    let only = match &instance {
        Some(instance) => {
            let instance = quoted(instance);
            format!(
                "where instance_id in (select instance_id from swr.instance where {instance} in (swr_instance_id, name))"
            )
        }
        None => String::new(),
    };
    let freshness = format!(
        "select instance, last_published_at, as_of, age, failures_since, last_error, histories_waiting
         from swr_report.freshness
         {only}
         order by instance, instance_id"
    );
    if let Some(max_age) = max_age {
        print(&mut reader, &freshness, format).await?;
        let limit = open.database.timeout();
        return check_age(&mut reader, limit, *max_age, instance.as_deref()).await;
    }
    if let Some(instance) = &instance {
        let mut session = Session::over(reader.connection(), open.database.timeout());
        let ages = listing_ages(&mut session, Some(instance));
        let ages = ages.await.map_err(database_failure)?;
        if ages.is_empty() {
            return Err(Failure::new(Exit::Usage, unknown(instance))
                .hint("`swr-sync status` lists all instances"));
        }
    }
    let waiting = format!(
        "select instance, coalesce(build_history, 'not requested') as build_history, count(distinct digest) as digests,
                min(next_attempt_at) as next_attempt_at
         from (
             select a.instance_id, a.instance, a.build_history, a.digest, f.next_attempt_at
             from swr_report.artifact a
             left join swr_report.history_failure f on f.instance_id = a.instance_id and f.digest = a.digest
             where a.build_history is null or f.digest is not null
         ) w
         {only}
         group by instance_id, instance, build_history
         order by instance, instance_id, build_history"
    );
    let runs = format!(
        "select coalesce(i.name, i.swr_instance_id) as instance, r.run_id, r.outcome, r.started_at, r.elapsed_ms,
                r.artifacts_listed, r.artifacts_new, r.artifacts_changed, r.artifacts_removed,
                r.histories_fetched, r.histories_failed, r.histories_skipped, r.requests_total, r.throttled, r.error
         from (select * from swr.sync_run {only}) r
         join swr.instance i on i.instance_id = r.instance_id
         order by r.started_at desc, r.run_id desc
         limit {runs}"
    );
    if format == Format::Table {
        print(&mut reader, &freshness, format).await?;
        print(&mut reader, &waiting, format).await?;
    }
    print(&mut reader, &runs, format).await?;
    Ok(Exit::Success)
}

fn unknown(instance: &str) -> String {
    format!("the database has no instance {instance}")
}

/// One line with the instances that are older than allowed.
async fn check_age(
    reader: &mut Reader,
    limit: Duration,
    max_age: Duration,
    instance: Option<&str>,
) -> Result<Exit, Failure> {
    let mut session = Session::over(reader.connection(), limit);
    let ages = listing_ages(&mut session, instance);
    let ages = ages.await.map_err(database_failure)?;
    let in_words = |age: TimeDelta| {
        humantime::format_duration(Duration::from_secs(age.num_seconds().unsigned_abs()))
    };
    let oldest = TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
    let stale: Vec<String> = ages
        .iter()
        .filter_map(|ListingAge { instance, age }| match *age {
            Some(age) if age < -CLOCK_TOLERANCE => Some(format!(
                "{instance} may be (the time of its listing is {} in the future: a clock is wrong)",
                in_words(age)
            )),
            Some(age) if age <= oldest => None,
            Some(age) => Some(format!("{instance} is {} old", in_words(age))),
            None => Some(format!("{instance} was never published")),
        })
        .collect();
    let complaint = match (&ages[..], instance) {
        ([], Some(instance)) => unknown(instance),
        ([], None) => "the database has no instance: nothing was synced yet".to_owned(),
        _ if stale.is_empty() => return Ok(Exit::Success),
        _ => stale.join(", "),
    };
    let max_age = humantime::format_duration(max_age);
    Err(Failure::new(
        Exit::Unexpected,
        format!("older than {max_age}: {complaint}"),
    ))
}

/// Prints text on stdout.
pub(super) fn write_stdout(text: &str) -> Result<Exit, Failure> {
    written(io::stdout().write_all(text.as_bytes()))?;
    Ok(Exit::Success)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub format: Format,
    /// Whether CSV cells are escaped so that spreadsheets do not run them as formulas.
    pub escape_formulas: bool,
}

impl From<Format> for Form {
    fn from(format: Format) -> Form {
        Form {
            format,
            escape_formulas: false,
        }
    }
}

/// Runs a query and prints its result on stdout.
pub(super) async fn print(
    reader: &mut Reader,
    sql: &str,
    form: impl Into<Form>,
) -> Result<(), Failure> {
    let Form {
        format,
        escape_formulas,
    } = form.into();
    if escape_formulas && format != Format::Csv {
        return Err(Failure::new(
            Exit::Usage,
            "--escape-formulas needs --format csv",
        ));
    }
    let output = BufWriter::new(io::stdout());
    let printing = async {
        match format {
            Format::Table => {
                let mut sink = TableSink::new(output);
                reader.read(sql, &mut sink).await?;
                sink.finish()?;
            }
            Format::Csv => {
                let mut sink = CsvSink::new(output);
                if escape_formulas {
                    sink = sink.escape_formulas();
                }
                reader.read(sql, &mut sink).await?;
                sink.finish()?;
            }
            Format::Json => {
                let mut sink = JsonSink::new(output);
                reader.read(sql, &mut sink).await?;
                sink.finish()?;
            }
        }
        Ok(())
    };
    match printing.await {
        Ok(()) => Ok(()),
        Err(ReadError::Output(error)) => written(Err(error)),
        Err(error @ (ReadError::Query(_) | ReadError::Silent { .. })) => Err(query_failure(error)),
    }
}

/// An invalid query is a usage error; a failure of the database is a database error.
pub(super) fn query_failure(error: ReadError) -> Failure {
    if is_refused(&error) {
        let hint = match is_unknown_relation(&error) {
            true => {
                "`swr-sync report` lists the views; a new database has none before `swr-sync migrate`"
            }
            false => {
                "the query must be one select statement that does not write; docs/schema.md describes the columns"
            }
        };
        return Failure::new(Exit::Usage, error).hint(hint);
    }
    database_failure(error)
}

fn database_failure(error: impl Error + Send + Sync + 'static) -> Failure {
    let hint = hint(&error).unwrap_or(
        "check whether the server still runs and what blocks it; --database-timeout allows more time",
    );
    Failure::new(Exit::Database, error).hint(hint)
}

/// Whether the server rejected the query itself.
fn is_refused(error: &ReadError) -> bool {
    /// SQLSTATEs with these prefixes are about the server: connections, transactions that it ended,
    /// conflicts of a standby with its primary, resources, locks, actions and settings of its
    /// operator, system errors, and bugs.
    const OF_THE_SERVER: [&str; 8] = ["08", "25P", "40", "53", "55P", "57", "58", "XX"];
    let ReadError::Query(source) = error else {
        return false;
    };
    let code = source.code();
    code.is_some_and(|code| !OF_THE_SERVER.iter().any(|class| code.starts_with(class)))
}

/// Whether a table, view or schema is missing.
fn is_unknown_relation(error: &ReadError) -> bool {
    let ReadError::Query(source) = error else {
        return false;
    };
    matches!(source.code().as_deref(), Some("42P01" | "3F000"))
}

/// Handles the end of the output; `| head` is not a failure.
pub(super) fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.or_else(ignore_broken_pipe).map_err(output_failure)
}

fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(error)
    }
}

fn output_failure(error: io::Error) -> Failure {
    Failure::new(
        Exit::Unexpected,
        format!("cannot write the result: {error}"),
    )
}
