//! Results as a table, as CSV, or as JSON.

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use crate::database::reader::{ColumnKind, ResultColumn, RowSink};
use crate::visible::visible;

/// Output formats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For reading; long values are cut, digests are shortened
    #[default]
    Table,
    /// For spreadsheets: a header, then one line per row; NULL is empty
    Csv,
    /// For programs: an array of objects
    Json,
}

/// Maximum length of a value in a table; CSV and JSON show all of it.
const CELL_CHARS: usize = 72;

/// Characters of a digest in a table: enough to distinguish digests, as in container tools.
const DIGEST_CHARS: usize = "sha256:".len() + 12;

/// A table for reading. It needs all rows before it prints the first.
pub struct TableSink<W> {
    output: W,
    columns: Vec<ResultColumn>,
    table: Table,
    rows: usize,
}

impl<W: Write> TableSink<W> {
    /// Prints to `output` when finished.
    pub fn new(output: W) -> TableSink<W> {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled);
        TableSink {
            output,
            columns: Vec::new(),
            table,
            rows: 0,
        }
    }

    pub fn finish(mut self) -> io::Result<()> {
        writeln!(self.output, "{}", self.table)?;
        let noun = if self.rows == 1 { "row" } else { "rows" };
        writeln!(self.output, "({} {noun})", self.rows)?;
        self.output.flush()
    }
}

impl<W: Write> RowSink for TableSink<W> {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        self.table
            .set_header(columns.iter().map(|column| visible(&column.name)));
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        self.rows += 1;
        let cells = values.iter().zip(&self.columns).map(|(value, column)| {
            let text = value.map(shortened).unwrap_or_default();
            match column.kind {
                ColumnKind::Number => Cell::new(text).set_alignment(CellAlignment::Right),
                ColumnKind::Boolean | ColumnKind::Json | ColumnKind::Text => Cell::new(text),
            }
        });
        self.table.add_row(cells.collect::<Vec<_>>());
        Ok(())
    }
}

/// The text of a cell: one line, without invisible characters and characters that move the cursor.
fn shortened(value: &str) -> String {
    if is_digest(value) {
        return value[..DIGEST_CHARS].to_owned();
    }
    let mut text = String::new();
    let mut length = 0;
    for character in value.chars() {
        // Commands contain many of these; escape sequences would push the rest out of the cell.
        let character = match character {
            '\t' | '\n' => ' ',
            other => other,
        };
        let mut buffer = [0; 4];
        let shown = visible(character.encode_utf8(&mut buffer));
        length += shown.chars().count();
        if length > CELL_CHARS {
            text.push('…');
            break;
        }
        text.push_str(&shown);
    }
    text
}

fn is_digest(value: &str) -> bool {
    value
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
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

/// An array of objects, one line each.
pub struct JsonSink<W> {
    output: W,
    columns: Vec<ResultColumn>,
    rows: usize,
}

impl<W: Write> JsonSink<W> {
    /// Prints to `output` row by row.
    pub fn new(output: W) -> JsonSink<W> {
        JsonSink {
            output,
            columns: Vec::new(),
            rows: 0,
        }
    }

    /// Prints the end of the array.
    pub fn finish(mut self) -> io::Result<()> {
        let end = if self.rows == 0 { "[]\n" } else { "\n]\n" };
        self.output.write_all(end.as_bytes())?;
        self.output.flush()
    }
}

impl<W: Write> RowSink for JsonSink<W> {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        let JsonSink {
            output,
            columns,
            rows,
        } = self;
        output.write_all(if *rows == 0 { b"[\n  {" } else { b",\n  {" })?;
        *rows += 1;
        for (index, (column, value)) in columns.iter().zip(values).enumerate() {
            if index > 0 {
                output.write_all(b",")?;
            }
            serde_json::to_writer(&mut *output, &column.name)?;
            output.write_all(b":")?;
            write_json(output, column.kind, *value)?;
        }
        output.write_all(b"}")
    }
}

/// Numbers and documents are copied as JSON: parsing them would round numbers that are longer
/// than a Rust number.
fn write_json(output: &mut impl Write, kind: ColumnKind, value: Option<&str>) -> io::Result<()> {
    let Some(text) = value else {
        return output.write_all(b"null");
    };
    // NaN and Infinity have no JSON form.
    let is_finite = text.ends_with(|last: char| last.is_ascii_digit());
    match kind {
        ColumnKind::Boolean => output.write_all(if text == "t" { b"true" } else { b"false" }),
        ColumnKind::Number if is_finite => output.write_all(text.as_bytes()),
        // A line break can only be between its tokens.
        ColumnKind::Json => output.write_all(text.replace(['\n', '\r'], " ").as_bytes()),
        ColumnKind::Number | ColumnKind::Text => Ok(serde_json::to_writer(output, text)?),
    }
}
