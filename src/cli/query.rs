//! `swr-sync query` and `swr-sync status`: read-only SQL.

use std::io::{self, BufWriter, Write};

use sqlx::PgConnection;

use super::exit::{Exit, Failure};
use super::settings::DatabaseArgs;
use crate::database::reader::{self, ReadError};
use crate::report::{self, CsvSink, FilterValues, Format, JsonSink, TableSink};

/// Arguments of `query`.
#[derive(Debug, clap::Args)]
pub(super) struct QueryArgs {
    /// One select statement; the views of swr_report and the tables of swr need no schema name
    sql: String,
    /// Form of the result
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Form of the result
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Runs to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    runs: u64,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn query(args: QueryArgs) -> Result<Exit, Failure> {
    let QueryArgs {
        sql,
        format,
        database,
    } = args;
    let open = database.open().await?;
    let mut connection = open.database.connect().await?;
    print(&mut connection, &sql, format).await?;
    Ok(Exit::Success)
}

pub(super) async fn status(args: StatusArgs) -> Result<Exit, Failure> {
    let StatusArgs {
        format,
        runs,
        database,
    } = args;
    let open = database.open().await?;
    open.database.check().await?;
    let mut connection = open.database.connect().await?;
    let runs = format!(
        "select coalesce(i.name, i.swr_instance_id) as instance, r.run_id, r.outcome, r.started_at, r.elapsed_ms,
                r.artifacts_listed, r.artifacts_new, r.artifacts_changed, r.artifacts_removed,
                r.histories_fetched, r.histories_failed, r.requests_total, r.throttled, r.error
         from swr.sync_run r
         join swr.instance i on i.instance_id = r.instance_id
         order by r.started_at desc, r.run_id desc
         limit {runs}"
    );
    let freshness = report::find("freshness")
        .and_then(|report| report.query(&FilterValues::default(), 0).ok())
        .unwrap_or_default();
    if format == Format::Table {
        print(&mut connection, &freshness, format).await?;
    }
    print(&mut connection, &runs, format).await?;
    Ok(Exit::Success)
}

/// Prints text on stdout.
pub(super) fn write_stdout(text: &str) -> Result<Exit, Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .or_else(ignore_broken_pipe)
        .map_err(output_failure)?;
    Ok(Exit::Success)
}

/// Runs a query and prints its result on stdout.
pub(super) async fn print(
    connection: &mut PgConnection,
    sql: &str,
    format: Format,
) -> Result<(), Failure> {
    let output = BufWriter::new(io::stdout());
    let result = match format {
        Format::Table => {
            let mut sink = TableSink::new(output);
            match reader::read(connection, sql, &mut sink).await {
                Ok(()) => sink.finish().map_err(ReadError::from),
                Err(error) => Err(error),
            }
        }
        Format::Csv => {
            let mut sink = CsvSink::new(output);
            match reader::read(connection, sql, &mut sink).await {
                Ok(()) => sink.finish().map_err(ReadError::from),
                Err(error) => Err(error),
            }
        }
        Format::Json => {
            let mut sink = JsonSink::new(output);
            match reader::read(connection, sql, &mut sink).await {
                Ok(()) => sink.finish().map_err(ReadError::from),
                Err(error) => Err(error),
            }
        }
    };
    match result {
        Ok(()) => Ok(()),
        // `| head` is not a failure.
        Err(ReadError::Output(error)) => ignore_broken_pipe(error).map_err(output_failure),
        Err(error @ ReadError::Query(_)) => Err(query_failure(error)),
    }
}

/// A query that is wrong is the user's; one whose connection broke is the database's.
fn query_failure(error: ReadError) -> Failure {
    let is_refused =
        matches!(&error, ReadError::Query(source) if source.as_database_error().is_some());
    if is_refused {
        Failure::new(Exit::Usage, error)
            .hint("one select statement is taken, and it may not write; the schema is described in the comments of the tables")
    } else {
        Failure::new(Exit::Database, error)
    }
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
