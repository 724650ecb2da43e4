//! `swr-sync query`: read-only SQL.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use super::result::{ExportArgs, ResultArgs};
use super::settings::DatabaseArgs;
use crate::secret_file::BYTE_ORDER_MARK;

pub(super) const AFTER_HELP: &str = "\
The statement runs in a read-only transaction. `swr-sync report` lists the reports, each of which is a view or a function in swr_report; docs/schema.md describes every column.

Examples:
  swr-sync query 'select namespace, count(*) from artifact group by 1'
  swr-sync query --format csv 'select * from tag_move' > moves.csv
  swr-sync query --file question.sql --format xlsx --output answer.xlsx";

/// The longest text of a query that is read.
const LONGEST_SQL: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One select statement, or `-` to read it from stdin; the views of swr_report and the tables of
    /// swr need no schema name
    #[arg(
        value_name = "SQL",
        allow_hyphen_values = true,
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    sql: Option<String>,
    /// Read the statement from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    result: ResultArgs,
    #[command(flatten)]
    export: ExportArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let Args {
        sql,
        file,
        result,
        export,
        database,
    } = args;
    let sql = match (sql.as_deref(), file.as_deref()) {
        (Some("-"), _) => read_sql(Path::new("/dev/stdin"))?,
        (Some(sql), _) => sql.to_owned(),
        (None, Some(path)) => read_sql(path)?,
        // Clap requires one of them.
        (None, None) => String::new(),
    };
    let printer = result.printer(export)?;
    let open = database.open_to_read().await?;
    let mut reader = open.database.connect_to_read().await?;
    // `query "$(cat FILE)"` passes one.
    let sql = sql.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&sql);
    printer.print(&mut reader, sql, None).await?;
    Ok(Exit::Success)
}

fn read_sql(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_SQL + 1).read_to_string(&mut text));
    let path = path.display();
    match read {
        Err(error) => Err(Failure::new(
            Exit::Usage,
            format!("cannot read the query from {path}: {error}"),
        )),
        Ok(_) if text.len() as u64 > LONGEST_SQL => {
            let text = format!(
                "the query in {path} is longer than {} MiB",
                LONGEST_SQL >> 20
            );
            Err(Failure::new(Exit::Usage, text))
        }
        Ok(_) => Ok(text),
    }
}
