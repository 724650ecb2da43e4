//! Results as CSV and as JSON.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use super::human;
use crate::database::reader::{ColumnKind, ResultColumn, RowSink};

/// Output formats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For reading: long values are cut, digests are shortened, sizes and times have units that people read
    #[default]
    Table,
    /// For spreadsheets and programs: a header, then one line per row; NULL is empty
    Csv,
    /// For programs: an array of objects, with the values of PostgreSQL's row_to_json
    Json,
    /// For Excel and WPS: a workbook
    Xlsx,
}

/// Comma-separated values (RFC 4180).
pub struct CsvSink<W: Write> {
    writer: csv::Writer<W>,
    /// Whether each column may contain text that a spreadsheet takes for a formula, if that is escaped.
    escaped: Option<Vec<bool>>,
}

impl<W: Write> CsvSink<W> {
    /// Prints to `output` row by row.
    pub fn new(output: W) -> CsvSink<W> {
        CsvSink {
            writer: csv::Writer::from_writer(output),
            escaped: None,
        }
    }

    /// Puts a `'` before text that a spreadsheet would take for a formula:
    /// <https://owasp.org/www-community/attacks/CSV_Injection>.
    pub fn escape_formulas(self) -> CsvSink<W> {
        CsvSink {
            escaped: Some(Vec::new()),
            ..self
        }
    }

    /// Flushes the output.
    pub fn finish(mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn is_formula(value: &str) -> bool {
    value.starts_with(['=', '+', '-', '@', '\t', '\r'])
}

impl<W: Write> RowSink for CsvSink<W> {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        if let Some(escaped) = &mut self.escaped {
            let is_text = |column: &ResultColumn| column.kind != ColumnKind::Number;
            *escaped = columns.iter().map(is_text).collect();
        }
        self.writer
            .write_record(columns.iter().map(|column| &column.name))
            .map_err(io_error)
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        let cells = values.iter().enumerate().map(|(index, value)| {
            let value = value.unwrap_or_default();
            let escaped = self
                .escaped
                .as_deref()
                .and_then(|escaped| escaped.get(index));
            match escaped == Some(&true) && is_formula(value) {
                true => Cow::Owned(format!("'{value}")),
                false => Cow::Borrowed(value),
            }
        });
        for cell in cells {
            self.writer.write_field(cell.as_bytes()).map_err(io_error)?;
        }
        self.writer.write_record(None::<&[u8]>).map_err(io_error)
    }
}

/// The library's own conversion loses the kind of the error, such as a closed pipe.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        kind => io::Error::other(format!("{kind:?}")),
    }
}

/// An array of objects, one line each. Its rows are from [`Snapshot::read_as_json`].
///
/// [`Snapshot::read_as_json`]: crate::database::reader::Snapshot::read_as_json
pub struct JsonSink<W> {
    output: W,
    rows: usize,
}

impl<W: Write> JsonSink<W> {
    /// Prints to `output` row by row.
    pub fn new(output: W) -> JsonSink<W> {
        JsonSink { output, rows: 0 }
    }

    /// Prints an object.
    pub fn object(&mut self, json: &str) -> io::Result<()> {
        let before: &[u8] = if self.rows == 0 { b"[\n  " } else { b",\n  " };
        self.rows += 1;
        self.output.write_all(before)?;
        // A line break can only be between the tokens of a document that is stored as text.
        let line = json.replace(['\n', '\r'], " ");
        self.output.write_all(line.as_bytes())
    }

    /// Prints the end of the array.
    pub fn finish(mut self) -> io::Result<()> {
        let end = if self.rows == 0 { "[]\n" } else { "\n]\n" };
        self.output.write_all(end.as_bytes())?;
        self.output.flush()
    }
}

impl<W: Write> RowSink for JsonSink<W> {
    fn columns(&mut self, _: Vec<ResultColumn>) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        self.object(values.first().copied().flatten().unwrap_or("null"))
    }
}

/// What a limit cut off: `50 of 1,500 rows`, and how to get all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Number of printed rows.
    pub shown: u64,
    /// Number of all rows.
    pub total: u64,
    pub hint: &'static str,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |rows| human::count(i64::try_from(rows).unwrap_or(i64::MAX));
        let (shown, total) = (count(self.shown), count(self.total));
        write!(f, "{shown} of {total} rows; {}", self.hint)
    }
}

/// Passes the first rows on, and notices that there are more.
pub struct Limited<S> {
    /// Receives the rows.
    pub sink: S,
    limit: Option<u64>,
    rows: u64,
}

impl<S: RowSink> Limited<S> {
    /// Passes at most `limit` rows on.
    pub fn new(sink: S, limit: Option<u64>) -> Limited<S> {
        Limited {
            sink,
            limit,
            rows: 0,
        }
    }

    /// The limit, if there were more rows.
    pub fn cut_at(&self) -> Option<u64> {
        self.limit.filter(|limit| self.rows > *limit)
    }

    /// Number of rows, including those that were not passed on.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

impl<S: RowSink> RowSink for Limited<S> {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        self.sink.columns(columns)
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        self.rows += 1;
        match self.cut_at() {
            Some(_) => Ok(()),
            None => self.sink.row(values),
        }
    }
}
