//! Prints results: to a terminal, which they are fitted to, to a pipe, or to a file.

use std::error::Error;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value};
use terminal_size::{Height, Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

use super::console::print_lines;
use super::exit::{Exit, Failure};
use super::replace_file::{Draft, Mode};
use super::signals::while_paging;
use super::variables::variable;
use crate::database::hint;
use crate::database::reader::{ColumnKind, ReadError, Reader, ResultColumn, RowSink, Snapshot};
use crate::report::{CsvSink, Cut, Format, JsonSink, Limited, Medium, Note, TableSink, XlsxSink};

/// Rows of a table on a terminal, unless another limit is given.
const TERMINAL_ROWS: u64 = 50;
/// Rows of any table: it keeps all of them in memory, to fit its columns.
const MOST_TABLE_ROWS: u64 = 100_000;

/// How a result is printed.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct ResultArgs {
    /// Output format
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Time zone of the times, such as Asia/Shanghai [default: on a terminal that of TZ or of the
    /// machine, otherwise UTC]
    #[arg(long, value_name = "ZONE", env = "SWR_SYNC_TIMEZONE")]
    pub timezone: Option<String>,
    /// Do not use a pager for a table that is longer than the terminal. The pager is that of PAGER, or
    /// less
    #[arg(long)]
    pub no_pager: bool,
}

/// What else is possible for a result that may be large.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct ExportArgs {
    /// Write the result to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// With --format csv, prefix text cells that begin with =, +, -, @, tab or carriage return with ',
    /// so that a spreadsheet does not run them as formulas
    #[arg(long)]
    pub escape_formulas: bool,
    /// With --format csv, begin with a byte order mark, by which Excel recognises UTF-8
    #[arg(long)]
    pub bom: bool,
}

/// Prints results with the same settings.
#[derive(Debug, Clone, Default)]
pub(super) struct Printer {
    format: Format,
    time_zone: Option<String>,
    uses_pager: bool,
    export: ExportArgs,
}

/// How many rows of a query to print.
pub(super) struct Limit<'a> {
    /// Maximum number of rows.
    pub rows: u64,
    /// The query for all rows, to count them.
    pub whole: &'a str,
}

impl ResultArgs {
    pub(super) fn printer(self, export: ExportArgs) -> Result<Printer, Failure> {
        let ResultArgs {
            format,
            timezone,
            no_pager,
        } = self;
        let of_csv = [
            (export.escape_formulas, "--escape-formulas"),
            (export.bom, "--bom"),
        ];
        if let Some((_, flag)) = of_csv.iter().find(|(is_given, _)| *is_given)
            && format != Format::Csv
        {
            return Err(Failure::new(
                Exit::Usage,
                format!("{flag} needs --format csv"),
            ));
        }
        if format == Format::Xlsx && export.output.is_none() && io::stdout().is_terminal() {
            let text = "a workbook cannot be printed on a terminal";
            return Err(Failure::new(Exit::Usage, text)
                .hint("write it to a file with --output, or redirect stdout"));
        }
        Ok(Printer {
            format,
            time_zone: timezone.filter(|zone| !zone.trim().is_empty()),
            uses_pager: !no_pager,
            export,
        })
    }
}

impl Printer {
    /// Prints what is not from a query in this format; and tables without a pager.
    pub(super) fn with(format: Format) -> Result<Printer, Failure> {
        let args = ResultArgs {
            format,
            timezone: None,
            no_pager: true,
        };
        args.printer(ExportArgs::default())
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// The number of rows to print; `None` for all, as for a given 0. Only a table on a terminal has a
    /// default limit, because every other result may be an export.
    pub(super) fn limit(&self, given: Option<u64>) -> Option<u64> {
        match given {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => {
                (self.format == Format::Table && self.is_for_terminal()).then_some(TERMINAL_ROWS)
            }
        }
    }

    pub(super) fn is_for_terminal(&self) -> bool {
        self.export.output.is_none() && io::stdout().is_terminal()
    }

    /// Sets the time zone of the session, and returns it.
    pub(super) async fn set_time_zone(&self, reader: &mut Reader) -> Result<String, Failure> {
        if let Some(zone) = &self.time_zone {
            return match reader.set_time_zone(zone).await {
                Ok(()) => Ok(zone.clone()),
                Err(error) if is_refused(&error) => Err(Failure::new(
                    Exit::Usage,
                    format!("PostgreSQL has no time zone `{zone}`"),
                )
                .hint("use a name such as Asia/Shanghai: `select name from pg_timezone_names` lists them")),
                Err(error) => Err(query_failure(error)),
            };
        }
        if self.is_for_terminal()
            && let Some(zone) = local_time_zone()
        {
            match reader.set_time_zone(&zone).await {
                Ok(()) => return Ok(zone),
                Err(error) if is_refused(&error) => {
                    tracing::debug!("PostgreSQL has no time zone {zone}, so times are in UTC");
                }
                Err(error) => return Err(query_failure(error)),
            }
        }
        Ok("UTC".to_owned())
    }

    /// Runs a query and prints its result. If it has more rows than the limit, that is said.
    pub(super) async fn print(
        &self,
        reader: &mut Reader,
        sql: &str,
        limit: Option<Limit<'_>>,
    ) -> Result<(), Failure> {
        let zone = self.set_time_zone(reader).await?;
        let printing = self.run(reader, sql, &zone, limit);
        match printing.await {
            Ok(()) => Ok(()),
            Err(ReadError::Output(error)) => self.written(Err(error)),
            Err(error) => {
                let details = marked(sql, &error);
                Err(query_failure(error).details(details))
            }
        }
    }

    async fn run(
        &self,
        reader: &mut Reader,
        sql: &str,
        zone: &str,
        limit: Option<Limit<'_>>,
    ) -> Result<(), ReadError> {
        let mut target = self.open()?;
        let query = Query {
            snapshot: reader.snapshot().await?,
            sql,
            limit,
        };
        let cut = match self.format {
            Format::Table => {
                let (table, cut) = query
                    .read(TableSink::default(), Some(MOST_TABLE_ROWS))
                    .await?;
                let note = Note {
                    cut,
                    time_zone: Some(zone),
                };
                self.print_table(table, note, &mut target)?;
                None
            }
            Format::Csv => {
                let (sink, cut) = query.read(self.csv(&mut target)?, None).await?;
                sink.finish()?;
                cut
            }
            Format::Json => {
                let (sink, cut) = query.read_as_json(JsonSink::new(&mut target)).await?;
                sink.finish()?;
                cut
            }
            Format::Xlsx => {
                let (sink, cut) = query.read(XlsxSink::new()?, None).await?;
                warn_of_cut_values(sink.finish(&mut target)?);
                cut
            }
        };
        target.finish()?;
        print_lines(cut.iter().map(ToString::to_string));
        Ok(())
    }

    /// Prints rows that are not from a query.
    pub(super) fn print_rows(
        &self,
        columns: &[ResultColumn],
        rows: &[Vec<Option<String>>],
    ) -> Result<(), Failure> {
        self.written(self.try_print_rows(columns, rows))
    }

    fn try_print_rows(
        &self,
        columns: &[ResultColumn],
        rows: &[Vec<Option<String>>],
    ) -> io::Result<()> {
        let mut target = self.open()?;
        let pass = |sink: &mut dyn RowSink| {
            sink.columns(columns.to_vec())?;
            rows.iter().try_for_each(|row| {
                let values: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
                sink.row(&values)
            })
        };
        match self.format {
            Format::Table => {
                let mut sink = TableSink::default();
                pass(&mut sink)?;
                self.print_table(sink, Note::default(), &mut target)?;
            }
            Format::Csv => {
                let mut sink = self.csv(&mut target)?;
                pass(&mut sink)?;
                sink.finish()?;
            }
            Format::Json => {
                let mut sink = JsonSink::new(&mut target);
                for row in rows {
                    let values = columns.iter().zip(row);
                    let object: Map<String, Value> = values.map(json_value).collect();
                    sink.object(&Value::Object(object).to_string())?;
                }
                sink.finish()?;
            }
            Format::Xlsx => {
                let mut sink = XlsxSink::new()?;
                pass(&mut sink)?;
                warn_of_cut_values(sink.finish(&mut target)?);
            }
        }
        target.finish()
    }

    fn csv<W: Write>(&self, mut output: W) -> io::Result<CsvSink<W>> {
        if self.export.bom {
            output.write_all("\u{feff}".as_bytes())?;
        }
        let sink = CsvSink::new(output);
        Ok(match self.export.escape_formulas {
            true => sink.escape_formulas(),
            false => sink,
        })
    }

    fn print_table(&self, table: TableSink, note: Note<'_>, target: &mut Target) -> io::Result<()> {
        if !self.is_for_terminal() {
            return table.finish(target, Medium::default(), note);
        }
        let size = terminal_size_of(io::stdout());
        let medium = Medium {
            width: Some(size.map_or(80, |(Width(width), _)| usize::from(width))),
            is_ascii: has_ascii_locale(),
        };
        let mut text = Vec::new();
        table.finish(&mut text, medium, note)?;
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        let is_long = size.is_some_and(|(_, Height(height))| lines >= usize::from(height));
        if self.uses_pager && is_long && while_paging(|| page(&text))? {
            return Ok(());
        }
        target.write_all(&text)
    }

    fn open(&self) -> io::Result<Target> {
        Ok(match &self.export.output {
            None => Target::Stdout(BufWriter::new(io::stdout())),
            Some(path) => Target::File(BufWriter::new(Draft::new(path, Mode::Umask(0o666))?)),
        })
    }

    /// Describes a failure to write; a reader that closes the pipe is none.
    fn written(&self, result: io::Result<()>) -> Result<(), Failure> {
        match &self.export.output {
            Some(path) => result.map_err(|error| not_written(path, &error)),
            None => written(result),
        }
    }
}

/// A query to run once. The transaction ends before the result is printed, because a pager or a slow reader
/// may take as long as it likes.
struct Query<'a, 'c> {
    snapshot: Snapshot<'c>,
    sql: &'a str,
    limit: Option<Limit<'a>>,
}

impl Query<'_, '_> {
    /// Passes the rows on, and returns how many of them the limits cut off.
    async fn read<S: RowSink>(
        mut self,
        sink: S,
        most: Option<u64>,
    ) -> Result<(S, Option<Cut>), ReadError> {
        let mut sink = self.limited(sink, most);
        self.snapshot.read(self.sql, &mut sink).await?;
        self.end(sink).await
    }

    /// The same, with each row as a JSON object.
    async fn read_as_json<S: RowSink>(mut self, sink: S) -> Result<(S, Option<Cut>), ReadError> {
        let mut sink = self.limited(sink, None);
        self.snapshot.read_as_json(self.sql, &mut sink).await?;
        self.end(sink).await
    }

    fn limited<S: RowSink>(&self, sink: S, most: Option<u64>) -> Limited<S> {
        let given = self.limit.as_ref().map(|limit| limit.rows);
        Limited::new(sink, given.into_iter().chain(most).min())
    }

    async fn end<S: RowSink>(mut self, sink: Limited<S>) -> Result<(S, Option<Cut>), ReadError> {
        let cut = match (sink.cut_at(), &self.limit) {
            (None, _) => None,
            (Some(shown), Some(limit)) if limit.rows == shown => Some(Cut {
                shown,
                total: self.snapshot.count(limit.whole).await?,
                hint: "--limit 0 prints all",
            }),
            (Some(shown), limit) => Some(Cut {
                shown,
                total: match limit {
                    Some(limit) => self.snapshot.count(limit.whole).await?,
                    None => sink.rows(),
                },
                hint: "--format csv has all",
            }),
        };
        self.snapshot.end().await?;
        Ok((sink.sink, cut))
    }
}

/// Where a result goes.
enum Target {
    Stdout(BufWriter<io::Stdout>),
    File(BufWriter<Draft>),
}

impl Target {
    /// The file gets its name only now.
    fn finish(self) -> io::Result<()> {
        match self {
            Target::Stdout(mut stdout) => stdout.flush(),
            Target::File(file) => file.into_inner()?.persist(),
        }
    }
}

impl Write for Target {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stdout(stdout) => stdout.write(buffer),
            Target::File(file) => file.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::Stdout(stdout) => stdout.flush(),
            Target::File(file) => file.flush(),
        }
    }
}

/// Whether a pager showed the text. A pager that does not exist shows nothing.
fn page(text: &[u8]) -> io::Result<bool> {
    let mut command = match std::env::var("PAGER") {
        // Other programs take an empty PAGER for none, too.
        Ok(pager) if pager.trim().is_empty() => return Ok(false),
        Ok(pager) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &pager]);
            shell
        }
        Err(_) => Command::new("less"),
    };
    if std::env::var_os("LESS").is_none() {
        // Ends if the text fits, keeps colours, and leaves the text on the screen.
        command.env("LESS", "FRX");
    }
    let mut pager = match command.stdin(Stdio::piped()).spawn() {
        Ok(pager) => pager,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if let Some(mut stdin) = pager.stdin.take() {
        // The reader may leave the pager early.
        let _ = stdin.write_all(text);
    }
    // A shell's status for a command that is not found or cannot be run.
    Ok(!matches!(pager.wait()?.code(), Some(126 | 127)))
}

/// The name of the local time zone, as PostgreSQL accepts it.
fn local_time_zone() -> Option<String> {
    let zone = match variable("TZ") {
        Some(zone) => zone.trim_start_matches(':').to_owned(),
        None => iana_time_zone::get_timezone().ok()?,
    };
    Some(match zone.as_str() {
        "Etc/UTC" => "UTC".to_owned(),
        _ => zone,
    })
}

/// Whether the locale names an encoding other than UTF-8. Containers often have no locale, and
/// terminals that show UTF-8.
fn has_ascii_locale() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(variable);
    locale.is_some_and(|locale| {
        let locale = locale.to_lowercase();
        !locale.contains("utf-8") && !locale.contains("utf8")
    })
}

fn json_value((column, value): (&ResultColumn, &Option<String>)) -> (String, Value) {
    let value = match (value, column.kind) {
        (None, _) => Value::Null,
        (Some(text), ColumnKind::Number) => {
            serde_json::from_str(text).unwrap_or_else(|_| text.clone().into())
        }
        (Some(text), _) => text.clone().into(),
    };
    (column.name.clone(), value)
}

fn warn_of_cut_values(values: u64) {
    let values = match values {
        0 => return,
        1 => "1 value was".to_owned(),
        values => format!("{values} values were"),
    };
    print_lines([format!(
        "{values} cut to the 32,767 characters that a cell can hold; --format csv has all of them"
    )]);
}

/// Prints text on stdout.
pub(super) fn write_stdout(text: &str) -> Result<Exit, Failure> {
    written(io::stdout().write_all(text.as_bytes()))?;
    Ok(Exit::Success)
}

/// Handles the end of the output; `| head` is not a failure.
pub(super) fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Unexpected,
            format!("cannot write the result: {error}"),
        )),
        _ => Ok(()),
    }
}

/// A file that could not be written.
pub(super) fn not_written(path: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::new(
        Exit::Unexpected,
        format!("cannot write {}: {error}", path.display()),
    )
    .hint("the folder must exist and be writable: a temporary file is written there and renamed")
}

/// The line of the query in which the server found the error, with a mark below it, as psql shows it.
fn marked(sql: &str, error: &ReadError) -> Vec<String> {
    let ReadError::Query(source) = error else {
        return Vec::new();
    };
    let Some(position) = source.position() else {
        return Vec::new();
    };
    // As the reader sends it.
    let before: String = sql
        .trim()
        .chars()
        .take(position.saturating_sub(1))
        .collect();
    let number = before.matches('\n').count();
    let Some(line) = sql.trim().lines().nth(number) else {
        return Vec::new();
    };
    let column = before.rsplit('\n').next().unwrap_or_default().width();
    let label = format!("LINE {}: ", number + 1);
    let line = line.replace('\t', " ");
    vec![
        format!("{label}{line}"),
        format!("{:width$}^", "", width = label.len() + column),
    ]
}

/// An invalid query is a usage error; a failure of the database is a database error.
pub(super) fn query_failure(error: ReadError) -> Failure {
    if is_refused(&error) {
        let of_server = match &error {
            ReadError::Query(source) => source.hint().map(str::to_owned),
            _ => None,
        };
        let hint = match is_unknown_relation(&error) {
            true => {
                "`swr-sync report` lists the views; a new database has none before `swr-sync migrate`"
            }
            false => {
                "the query must be one select statement that does not write; docs/schema.md describes the columns"
            }
        };
        let hint = of_server.unwrap_or_else(|| hint.to_owned());
        return Failure::new(Exit::Usage, error).hint(hint);
    }
    database_failure(error)
}

pub(super) fn database_failure(error: impl Error + Send + Sync + 'static) -> Failure {
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
