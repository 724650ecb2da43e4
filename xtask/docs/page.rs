//! A page of Markdown with parts that are generated:
//!
//! - what follows `<!-- answer -->` is what the SQL block before it gives, as `swr-sync query`
//!   prints it;
//! - what follows `<!-- comment -->` is the comment of the view or function that the section is
//!   named after, and its `swr-sync report` command.

use swr_sync::database::Database;
use swr_sync::database::reader::ReadError;
use swr_sync::report::{self, Medium, Note, TableSink};

use crate::catalog;
use crate::source::Source;

const ANSWER: &str = "<!-- answer -->";
const COMMENT: &str = "<!-- comment -->";

/// Lines of running text are no longer.
const WIDTH: usize = 100;

pub(crate) struct Page {
    file: String,
    pieces: Vec<Piece>,
}

pub(crate) enum Piece {
    /// A line as it is.
    Line(String),
    /// A heading of the second level.
    Heading(String),
    /// The answer to this query.
    Answer(String),
    /// The comment of the view or function of this name.
    Comment(String),
    /// What a marker was replaced by.
    Generated(String),
}

impl Page {
    /// Reads a page, and forgets what is generated.
    pub(crate) fn parse(file: &str, text: &str) -> Page {
        let mut pieces = Vec::new();
        let mut section = "";
        let mut sql: Option<String> = None;
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            match line {
                "```sql" => {
                    pieces.push(Piece::Line(line.to_owned()));
                    let query: Vec<&str> =
                        std::iter::from_fn(|| lines.next_if(|line| *line != "```")).collect();
                    pieces.extend(query.iter().map(|line| Piece::Line((*line).to_owned())));
                    sql = Some(query.join("\n"));
                }
                ANSWER => {
                    let sql = sql.take();
                    let sql = sql.unwrap_or_else(|| {
                        panic!("{file}: in section {section}, {ANSWER} follows no sql block")
                    });
                    pieces.push(Piece::Answer(sql));
                    if lines.next_if_eq(&"```text").is_some() {
                        lines.by_ref().find(|line| *line == "```");
                    }
                }
                COMMENT => {
                    pieces.push(Piece::Comment(section.to_owned()));
                    while lines.next_if(|line| !line.is_empty()).is_some() {}
                }
                _ => match line.strip_prefix("## ") {
                    Some(heading) => {
                        section = heading;
                        sql = None;
                        pieces.push(Piece::Heading(heading.to_owned()));
                    }
                    None => pieces.push(Piece::Line(line.to_owned())),
                },
            }
        }
        Page {
            file: file.to_owned(),
            pieces,
        }
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter()
    }

    pub(crate) fn sections(&self) -> impl Iterator<Item = &str> {
        self.pieces().filter_map(|piece| match piece {
            Piece::Heading(heading) => Some(heading.as_str()),
            _ => None,
        })
    }

    /// Puts answers and comments in their places. An answer without rows shows nothing, and fails.
    pub(crate) async fn answer(&mut self, source: &Source) {
        let Page { file, pieces } = self;
        for piece in pieces {
            let generated = match piece {
                Piece::Answer(sql) => match answer(source, sql).await {
                    Ok(answer) if answer.contains("\n(0 rows)") => {
                        panic!("{file}: a query with an empty answer\n{sql}")
                    }
                    Ok(answer) => format!("{ANSWER}\n```text\n{answer}```"),
                    Err(error) => panic!("{file}: {error}\n{sql}"),
                },
                Piece::Comment(name) => match catalog::comment(source, name).await {
                    Some(comment) => format!("{COMMENT}\n{}", wrapped(&described(name, &comment))),
                    None => panic!("{file}: there is no report {name}"),
                },
                Piece::Line(_) | Piece::Heading(_) | Piece::Generated(_) => continue,
            };
            *piece = Piece::Generated(generated);
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Line(line) | Piece::Generated(line) => text.push_str(line),
                Piece::Heading(heading) => text.push_str(&format!("## {heading}")),
                Piece::Answer(_) => text.push_str(ANSWER),
                Piece::Comment(_) => text.push_str(COMMENT),
            }
            text.push('\n');
        }
        text
    }
}

/// What `swr-sync query` prints, in UTC.
async fn answer(source: &Source, sql: &str) -> Result<String, ReadError> {
    let database = Database::from_url(source.url()).unwrap();
    let mut reader = database.connect_to_read().await.unwrap();
    sqlx::raw_sql("set time zone 'UTC'")
        .execute(reader.connection())
        .await
        .unwrap();
    let mut output = Vec::new();
    let mut table = TableSink::default();
    reader.read(sql, &mut table).await?;
    let note = Note {
        cut: None,
        time_zone: Some("UTC"),
    };
    table.finish(&mut output, Medium::default(), note)?;
    Ok(String::from_utf8(output).unwrap())
}

fn described(name: &str, comment: &str) -> String {
    let mut text = catalog::markdown(comment);
    if let Some(report) = report::find(name) {
        text.push_str(&format!(" On the command line: `swr-sync report {name}`"));
        for (number, filter) in report.filters.iter().enumerate() {
            let before = if number == 0 {
                ", narrowed down by"
            } else {
                ","
            };
            text.push_str(&format!("{before} `{filter}`"));
        }
        text.push('.');
    }
    text
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}
