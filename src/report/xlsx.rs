//! Results as a workbook for Excel and WPS.

use std::io::{self, Write};

use rust_xlsxwriter::{ExcelDateTime, Format, Workbook, Worksheet, XlsxError};

use crate::database::reader::{ColumnKind, ResultColumn, RowSink};

/// What a sheet and a cell can hold: <https://support.microsoft.com/office/1672b34d-7043-467e-8e27-269d656771c3>.
const MOST_ROWS: u32 = 1_048_576;
const MOST_CELL_CHARS: usize = 32_767;
/// Larger numbers would be rounded, because a cell holds a 64-bit float.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// One sheet with a header. Numbers, times and booleans are such for the spreadsheet; text is never a
/// formula.
pub struct XlsxSink {
    workbook: Workbook,
    columns: Vec<ResultColumn>,
    time: Format,
    next_row: u32,
    cut_values: u64,
}

impl XlsxSink {
    /// Collects the rows in a temporary file.
    pub fn new() -> io::Result<XlsxSink> {
        let mut workbook = Workbook::new();
        workbook
            .add_worksheet_with_constant_memory()
            .map_err(io_error)?;
        Ok(XlsxSink {
            workbook,
            columns: Vec::new(),
            time: Format::new().set_num_format("yyyy-mm-dd hh:mm:ss"),
            next_row: 1,
            cut_values: 0,
        })
    }

    /// Writes the workbook; returns the number of values that are longer than a cell can hold and were cut.
    pub fn finish(mut self, output: &mut impl Write) -> io::Result<u64> {
        // A workbook is written with seeks, which a pipe does not have.
        let mut file = tempfile::tempfile()?;
        self.workbook.save_to_writer(&mut file).map_err(io_error)?;
        io::Seek::rewind(&mut file)?;
        io::copy(&mut file, output)?;
        output.flush()?;
        Ok(self.cut_values)
    }
}

impl RowSink for XlsxSink {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        let header = Format::new().set_bold();
        let sheet = self.workbook.worksheet_from_index(0).map_err(io_error)?;
        sheet.set_freeze_panes(1, 0).map_err(io_error)?;
        for (column, index) in columns.iter().zip(0..) {
            let width = if column.kind == ColumnKind::Time {
                19
            } else {
                16
            };
            sheet.set_column_width(index, width).map_err(io_error)?;
            let name = column.name.as_str();
            sheet
                .write_string_with_format(0, index, name, &header)
                .map_err(io_error)?;
        }
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        if self.next_row >= MOST_ROWS {
            return Err(io::Error::other(format!(
                "a sheet holds {} rows: use --format csv, or --limit",
                MOST_ROWS - 1
            )));
        }
        let row = self.next_row;
        self.next_row += 1;
        let sheet = self.workbook.worksheet_from_index(0).map_err(io_error)?;
        for ((value, column), index) in values.iter().zip(&self.columns).zip(0..) {
            let Some(value) = value else { continue };
            self.cut_values += u64::from(value.chars().nth(MOST_CELL_CHARS).is_some());
            write_cell(sheet, row, index, value, column.kind, &self.time).map_err(io_error)?;
        }
        Ok(())
    }
}

fn write_cell(
    sheet: &mut Worksheet,
    row: u32,
    column: u16,
    value: &str,
    kind: ColumnKind,
    time: &Format,
) -> Result<(), XlsxError> {
    match kind {
        ColumnKind::Number => {
            let number = value
                .parse()
                .ok()
                .filter(|number: &f64| number.abs() < MOST_EXACT);
            if let Some(number) = number {
                return sheet.write_number(row, column, number).map(drop);
            }
        }
        ColumnKind::Boolean => return sheet.write_boolean(row, column, value == "t").map(drop),
        ColumnKind::Time => {
            // Without the offset: a cell has no time zone.
            let seconds = value.get(..19).map(|text| text.replace(' ', "T"));
            let seconds = seconds.and_then(|text| ExcelDateTime::parse_from_str(&text).ok());
            if let Some(seconds) = seconds {
                let written = sheet.write_datetime_with_format(row, column, &seconds, time);
                return written.map(drop);
            }
        }
        ColumnKind::Json | ColumnKind::List | ColumnKind::Text => {}
    }
    let text: String = value.chars().take(MOST_CELL_CHARS).collect();
    sheet.write_string(row, column, text).map(drop)
}

fn io_error(error: XlsxError) -> io::Error {
    io::Error::other(error)
}
