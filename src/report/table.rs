//! Results as a table for reading: fitted to a terminal, or as wide as its values.

use std::io::{self, Write};

use comfy_table::presets::{ASCII_FULL_CONDENSED, NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Cut, human};
use crate::database::reader::{ColumnKind, ResultColumn, RowSink};
use crate::visible::visible;

/// Maximum length of a value in a table. CSV and JSON show all of it.
const CELL_CHARS: usize = 72;
/// The same if every column has a line of its own.
const LINE_CHARS: usize = 2000;
/// Columns of text become no narrower than this to fit a terminal.
const NARROWEST_TEXT: usize = 16;
/// Digits of a digest in a table: as many as container tools show, and more than filters need.
const DIGEST_DIGITS: usize = 12;
/// Characters of a time, up to its minutes.
const MINUTE_CHARS: usize = "2026-03-01 12:30".len();

/// Where a table is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Medium {
    /// Columns of the terminal; `None` if the output is not a terminal.
    pub width: Option<usize>,
    /// Whether the terminal shows ASCII only.
    pub is_ascii: bool,
}

/// Collects the rows of a table, which it needs to fit their columns.
#[derive(Debug, Default)]
pub struct TableSink {
    columns: Vec<ResultColumn>,
    rows: Vec<Vec<Option<String>>>,
}

impl RowSink for TableSink {
    fn columns(&mut self, columns: Vec<ResultColumn>) -> io::Result<()> {
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, values: &[Option<&str>]) -> io::Result<()> {
        let cells = values.iter().zip(&self.columns);
        let cells = cells.map(|(value, column)| value.map(|value| shown(value, column)));
        self.rows.push(cells.collect());
        Ok(())
    }
}

/// What the line below a table says besides the number of rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Note<'a> {
    /// Whether the table lacks rows.
    pub cut: Option<Cut>,
    /// The time zone of the times.
    pub time_zone: Option<&'a str>,
}

impl TableSink {
    /// Prints the table, and below it the number of rows and what it left out.
    pub fn finish(
        mut self,
        mut output: impl Write,
        medium: Medium,
        note: Note<'_>,
    ) -> io::Result<()> {
        let mut notes = vec![match (note.cut, self.rows.len()) {
            (Some(cut), _) => cut.to_string(),
            (None, 1) => "1 row".to_owned(),
            (None, rows) => format!("{rows} rows"),
        }];
        if medium.width.is_some() {
            self.leave_out_empty_columns();
            notes.extend(self.leave_out_only_instance());
        }
        let has_times = self
            .columns
            .iter()
            .any(|column| column.kind == ColumnKind::Time);
        if let Some(zone) = note
            .time_zone
            .filter(|_| has_times && !self.rows.is_empty())
        {
            notes.push(format!("times in {}", visible(zone)));
        }
        self.print(&mut output, medium)?;
        writeln!(output, "({})", notes.join("; "))?;
        output.flush()
    }

    fn leave_out_empty_columns(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let has_value = |index: usize| self.rows.iter().any(|row| row[index].is_some());
        let keep: Vec<bool> = (0..self.columns.len()).map(has_value).collect();
        if keep.contains(&true) {
            self.keep(&keep);
        }
    }

    /// With one instance, its name is the same in every row.
    fn leave_out_only_instance(&mut self) -> Option<String> {
        let index = self
            .columns
            .iter()
            .position(|column| column.name == "instance")?;
        let (first, others) = self.rows.split_first()?;
        let name = first[index].clone()?;
        let is_alone = others.iter().all(|row| row[index].as_ref() == Some(&name));
        if !is_alone || self.columns.len() == 1 {
            return None;
        }
        let keep: Vec<bool> = (0..self.columns.len())
            .map(|column| column != index)
            .collect();
        self.keep(&keep);
        Some(format!("instance {name}"))
    }

    fn keep(&mut self, keep: &[bool]) {
        let mut flags = keep.iter();
        self.columns.retain(|_| *flags.next().unwrap_or(&true));
        for row in &mut self.rows {
            let mut flags = keep.iter();
            row.retain(|_| *flags.next().unwrap_or(&true));
        }
    }

    fn print(&self, output: &mut impl Write, medium: Medium) -> io::Result<()> {
        let values = self.widths();
        let names: Vec<String> = self
            .columns
            .iter()
            .map(|column| cut(&visible(&column.name), CELL_CHARS))
            .collect();
        let widest = |names: &[String]| -> Vec<usize> {
            let columns = names.iter().zip(&values);
            columns
                .map(|(name, width)| longest_line(name).max(*width))
                .collect()
        };
        let lines = match medium.is_ascii {
            true => Style::AsciiLines,
            false => Style::Lines,
        };
        let widths = widest(&names);
        let Some(terminal) = medium.width else {
            return self.print_table(output, lines, &names, &widths);
        };
        if lines.total(&widths) <= terminal {
            return self.print_table(output, lines, &names, &widths);
        }
        // Names are often longer than the values below them.
        let columns = names.iter().zip(&values);
        let names: Vec<String> = columns
            .map(|(name, width)| break_name(name, *width))
            .collect();
        let mut widths = widest(&names);
        if lines.total(&widths) <= terminal {
            return self.print_table(output, lines, &names, &widths);
        }
        while Style::Spaces.total(&widths) > terminal {
            let columns = self.columns.iter().zip(&names).enumerate();
            let can_shrink = columns.filter(|(index, (column, name))| {
                matches!(column.kind, ColumnKind::Text | ColumnKind::List)
                    && widths[*index] > NARROWEST_TEXT.max(longest_line(name))
            });
            let Some((widest, _)) = can_shrink.max_by_key(|(index, _)| widths[*index]) else {
                return self.print_lines(output, medium, terminal);
            };
            widths[widest] -= 1;
        }
        self.print_table(output, Style::Spaces, &names, &widths)
    }

    fn widths(&self) -> Vec<usize> {
        let width = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row[index].as_deref());
            cells
                .map(|cell| cell.width().min(CELL_CHARS))
                .max()
                .unwrap_or(0)
        };
        (0..self.columns.len()).map(width).collect()
    }

    fn print_table(
        &self,
        output: &mut impl Write,
        style: Style,
        names: &[String],
        widths: &[usize],
    ) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(match style {
                Style::Lines => UTF8_FULL_CONDENSED,
                Style::AsciiLines => ASCII_FULL_CONDENSED,
                Style::Spaces => NOTHING,
            })
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(names);
        for row in &self.rows {
            let cells = row.iter().zip(&self.columns).zip(widths);
            let cells = cells.map(|((value, column), width)| {
                let cell = Cell::new(cut(value.as_deref().unwrap_or_default(), *width));
                match column.kind {
                    ColumnKind::Number => cell.set_alignment(CellAlignment::Right),
                    _ => cell,
                }
            });
            table.add_row(cells.collect::<Vec<_>>());
        }
        if style == Style::Spaces {
            for column in table.column_iter_mut() {
                column.set_padding((0, Style::SPACES));
            }
        }
        let text = table.to_string();
        for line in text.lines() {
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// One line for each value, because the table does not fit.
    fn print_lines(
        &self,
        output: &mut impl Write,
        medium: Medium,
        terminal: usize,
    ) -> io::Result<()> {
        let names: Vec<String> = self
            .columns
            .iter()
            .map(|column| cut(&visible(&column.name), CELL_CHARS))
            .collect();
        let name_width = names.iter().map(|name| name.width()).max().unwrap_or(0);
        let line = if medium.is_ascii { "-" } else { "─" };
        for (number, row) in self.rows.iter().enumerate() {
            let title = format!("{line}{line} {} ", number + 1);
            let rest = terminal.saturating_sub(title.width());
            writeln!(output, "{title}{}", line.repeat(rest))?;
            for (name, value) in names.iter().zip(row) {
                if let Some(value) = value {
                    let padding = name_width - name.width();
                    writeln!(output, "{name}{:padding$}  {}", "", cut(value, LINE_CHARS))?;
                }
            }
        }
        Ok(())
    }
}

/// What separates the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Lines,
    AsciiLines,
    /// For a table that does not fit with lines.
    Spaces,
}

impl Style {
    const SPACES: u16 = 2;

    /// The width of a table in terminal columns.
    fn total(self, widths: &[usize]) -> usize {
        let values: usize = widths.iter().sum();
        match self {
            // A space on both sides of each value, and a line.
            Style::Lines | Style::AsciiLines => values + 3 * widths.len() + 1,
            Style::Spaces => values + usize::from(Style::SPACES) * widths.len().saturating_sub(1),
        }
    }
}

fn longest_line(name: &str) -> usize {
    name.lines().map(UnicodeWidthStr::width).max().unwrap_or(0)
}

/// A name that is not longer stays in one line.
const SHORTEST_BROKEN: usize = 9;

/// Breaks a name at its underscores into lines of at most `width`, or of one word.
fn break_name(name: &str, width: usize) -> String {
    if name.width() <= SHORTEST_BROKEN {
        return name.to_owned();
    }
    let mut lines = vec![String::new()];
    let words: Vec<&str> = name.split_inclusive('_').collect();
    let width = words
        .iter()
        .map(|word| word.width())
        .max()
        .unwrap_or(0)
        .max(width);
    for word in words {
        match lines.last_mut() {
            Some(line) if line.width() + word.width() <= width => line.push_str(word),
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// The text of a value: one line, in the units that people read.
fn shown(value: &str, column: &ResultColumn) -> String {
    match column.kind {
        ColumnKind::Number if is_size(&column.name) => match value.parse() {
            Ok(size_bytes) => human::bytes(size_bytes),
            Err(_) => value.to_owned(),
        },
        ColumnKind::Time if value.as_bytes().get(MINUTE_CHARS) == Some(&b':') => {
            value[..MINUTE_CHARS].to_owned()
        }
        // An element with a space or a comma is in quotes, and stays so.
        ColumnKind::List if !value.contains('"') => {
            let elements = value.trim_start_matches('{').trim_end_matches('}');
            cut(&visible_line(&elements.replace(',', ", ")), LINE_CHARS)
        }
        _ => match digest_digits(value) {
            Some(digits) => digits[..DIGEST_DIGITS].to_owned(),
            None => cut(&visible_line(value), LINE_CHARS),
        },
    }
}

/// One line: commands contain many tabs and line breaks, whose escapes would take the space of the text.
fn visible_line(value: &str) -> String {
    visible(
        &value
            .chars()
            .take(LINE_CHARS + 1)
            .collect::<String>()
            .replace(['\t', '\n'], " "),
    )
    .into_owned()
}

fn is_size(name: &str) -> bool {
    name == "bytes" || name.ends_with("_bytes")
}

/// The hexadecimal digits of a digest.
fn digest_digits(value: &str) -> Option<&str> {
    let digits = value.strip_prefix("sha256:")?;
    let is_digest = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then_some(digits)
}

/// The text, cut to a width in terminal columns.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut kept_width = 0;
    for character in text.chars() {
        kept_width += character.width().unwrap_or(0);
        if kept_width >= width {
            break;
        }
        kept.push(character);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: ColumnKind) -> ResultColumn {
        ResultColumn {
            name: name.to_owned(),
            kind,
        }
    }

    fn table(width: Option<usize>) -> String {
        let mut sink = TableSink::default();
        sink.columns(vec![
            column("instance", ColumnKind::Text),
            column("repository", ColumnKind::Text),
            column("digest", ColumnKind::Text),
            column("exclusive_bytes", ColumnKind::Number),
            column("unknown_bytes", ColumnKind::Number),
            column("last_pushed_at", ColumnKind::Time),
        ])
        .unwrap();
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for repository in ["payments/api", "数据/训练"] {
            sink.row(&[
                Some("demo"),
                Some(repository),
                Some(&digest),
                Some("30068297346"),
                None,
                Some("2026-11-20 14:34:02.28+08"),
            ])
            .unwrap();
        }
        let mut text = Vec::new();
        let medium = Medium {
            width,
            is_ascii: false,
        };
        let note = Note {
            cut: Some(Cut {
                shown: 2,
                total: 1500,
                hint: "--limit 0 prints all",
            }),
            time_zone: Some("Asia/Shanghai"),
        };
        sink.finish(&mut text, medium, note).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_table_fits_the_terminal_and_says_what_it_left_out() {
        assert_eq!(
            table(Some(80)),
            "\
┌──────────────┬──────────────┬─────────────────┬──────────────────┐
│ repository   ┆ digest       ┆ exclusive_bytes ┆ last_pushed_at   │
╞══════════════╪══════════════╪═════════════════╪══════════════════╡
│ payments/api ┆ 0123456789ab ┆        28.0 GiB ┆ 2026-11-20 14:34 │
│ 数据/训练    ┆ 0123456789ab ┆        28.0 GiB ┆ 2026-11-20 14:34 │
└──────────────┴──────────────┴─────────────────┴──────────────────┘
(2 of 1,500 rows; --limit 0 prints all; instance demo; times in Asia/Shanghai)
"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_broken_names_and_then_no_lines() {
        assert_eq!(
            table(Some(63)).lines().next(),
            Some("┌──────────────┬──────────────┬────────────┬──────────────────┐")
        );
        assert_eq!(
            table(Some(60)).lines().take(4).collect::<Vec<_>>(),
            [
                "repository    digest        exclusive_  last_pushed_at",
                "                            bytes",
                "payments/api  0123456789ab    28.0 GiB  2026-11-20 14:34",
                "数据/训练     0123456789ab    28.0 GiB  2026-11-20 14:34",
            ]
        );
    }

    #[test]
    fn a_table_that_does_not_fit_has_a_line_for_each_value() {
        assert_eq!(
            table(Some(50)).lines().take(5).collect::<Vec<_>>(),
            [
                "── 1 ─────────────────────────────────────────────",
                "repository       payments/api",
                "digest           0123456789ab",
                "exclusive_bytes  28.0 GiB",
                "last_pushed_at   2026-11-20 14:34",
            ]
        );
    }

    #[test]
    fn without_a_terminal_no_column_is_left_out() {
        let text = table(None);
        assert!(text.contains("│ instance ┆"), "{text}");
        assert!(text.contains("┆ unknown_bytes ┆"), "{text}");
    }

    #[test]
    fn a_value_is_cut_to_its_width_in_columns() {
        for (text, width, shown) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abcde…"),
            ("数据训练", 8, "数据训练"),
            ("数据训练", 7, "数据训…"),
            ("数据训练", 6, "数据…"),
        ] {
            assert_eq!(cut(text, width), shown, "{text}");
        }
    }
}
