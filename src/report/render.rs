//! Results as a table, as CSV, or as JSON.

use std::io::{self, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde_json::Value;

use crate::database::reader::{ColumnKind, ResultColumn, RowSink};

/// How a result is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For reading; long values are cut, digests shortened
    #[default]
    Table,
    /// For spreadsheets: a header, then a line per row; NULL is empty
    Csv,
    /// For programs: an array of objects
    Json,
}

/// Longest value a table shows; CSV and JSON show all.
const CELL_CHARS: usize = 72;

/// Characters of a digest in a table: enough to tell them apart, as container tools show them.
const DIGEST_CHARS: usize = "sha256:".len() + 12;

/// A table for reading. It needs all rows before it can print the first.
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

    /// Prints the table.
    pub fn finish(mut self) -> io::Result<()> {
        writeln!(self.output, "{}", self.table)?;
        let noun = if self.rows == 1 { "row" } else { "rows" };
        writeln!(self.output, "({} {noun})", self.rows)
    }
}

impl<W: Write> RowSink for TableSink<W> {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        self.table
            .set_header(columns.iter().map(|column| column.name.as_str()));
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

fn shortened(value: &str) -> String {
    let limit = if is_digest(value) {
        DIGEST_CHARS
    } else {
        CELL_CHARS
    };
    let mut text = String::new();
    for (count, character) in value.chars().enumerate() {
        if count == limit {
            if !is_digest(value) {
                text.push('…');
            }
            break;
        }
        // Text of others' making must not move the cursor or colour the terminal.
        text.push(if character.is_control() {
            ' '
        } else {
            character
        });
    }
    text
}

fn is_digest(value: &str) -> bool {
    value
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Comma-separated values (RFC 4180).
pub struct CsvSink<W: Write>(csv::Writer<W>);

impl<W: Write> CsvSink<W> {
    /// Prints to `output` as rows come.
    pub fn new(output: W) -> CsvSink<W> {
        CsvSink(csv::Writer::from_writer(output))
    }

    /// Prints what is left.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> RowSink for CsvSink<W> {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        Ok(self
            .0
            .write_record(columns.iter().map(|column| &column.name))?)
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        Ok(self
            .0
            .write_record(values.iter().map(|value| value.unwrap_or_default()))?)
    }
}

/// An array of objects, one line each.
pub struct JsonSink<W> {
    output: W,
    columns: Vec<ResultColumn>,
    rows: usize,
}

impl<W: Write> JsonSink<W> {
    /// Prints to `output` as rows come.
    pub fn new(output: W) -> JsonSink<W> {
        JsonSink {
            output,
            columns: Vec::new(),
            rows: 0,
        }
    }

    /// Prints the end of the array.
    pub fn finish(mut self) -> io::Result<()> {
        if self.rows == 0 {
            return writeln!(self.output, "[]");
        }
        writeln!(self.output, "\n]")
    }
}

impl<W: Write> RowSink for JsonSink<W> {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        let object: serde_json::Map<String, Value> = self
            .columns
            .iter()
            .zip(values)
            .map(|(column, value)| (column.name.clone(), json_value(column.kind, *value)))
            .collect();
        self.output
            .write_all(if self.rows == 0 { b"[\n  " } else { b",\n  " })?;
        self.rows += 1;
        Ok(serde_json::to_writer(&mut self.output, &object)?)
    }
}

fn json_value(kind: ColumnKind, value: Option<&str>) -> Value {
    let Some(text) = value else {
        return Value::Null;
    };
    let parsed = match kind {
        ColumnKind::Boolean => Some(Value::Bool(text == "t")),
        // NaN and Infinity, and numbers beyond 64 bits, stay text.
        ColumnKind::Number | ColumnKind::Json => serde_json::from_str(text).ok(),
        ColumnKind::Text => None,
    };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}
