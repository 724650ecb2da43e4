//! `swr-sync report`: lists the reports, prints one, or creates the page with all of them.

use std::io::{self, IsTerminal};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use super::console::print_lines;
use super::exit::{Exit, Failure};
use super::names::{self, unknown};
use super::replace_file::{Mode, replace_file};
use super::result::{ExportArgs, Limit, ResultArgs, not_written, query_failure, write_stdout};
use super::settings::DatabaseArgs;
use crate::clock::Clock;
use crate::report::{self, FilterError, FilterValues, Format, REPORTS, Report, html, human};
use crate::store::Session;

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync report                                   list the reports and their questions
  swr-sync report storage_by_repository --namespace payments
  swr-sync report stale_artifact --older-than 180d --format csv
  swr-sync report tag_at --at '2026-03-01 12:00' --repository api
  swr-sync report built_on --digest sha256:…        what to rebuild when that base changes
  swr-sync report html --output registry.html       one page with charts, for a browser
  swr-sync report layer_usage --sql                 print the query instead of running it";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the report, or `html` for one page with all of them; without it, list the reports
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Maximum number of rows; 0 for all [default: 50 in a table on a terminal, 5000 in each table of
    /// `html`, otherwise all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print the query instead of running it
    #[arg(long)]
    sql: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    result: ResultArgs,
    #[command(flatten)]
    export: ExportArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// The name of the page, among the names of reports.
const PAGE: &str = "html";

/// Filters of a report; a filter that the report does not support is an error.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
struct FilterArgs {
    /// Only this instance: its id in SWR, or its name
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Only this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only this repository: its name, or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Only this digest, or the digest that a report requires: at least 7 hexadecimal digits, with or
    /// without sha256:; may be repeated
    #[arg(long = "digest", value_name = "DIGEST")]
    digests: Vec<String>,
    /// Only artifacts that were not used for this long: 90d, 12h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// The time that a report requires: 2026-03-01, '2026-03-01 12:00' (both UTC), or RFC 3339
    #[arg(long, value_name = "TIMESTAMP", value_parser = parse_time)]
    at: Option<DateTime<Utc>>,
}

impl FilterArgs {
    fn into_values(self) -> FilterValues {
        let FilterArgs {
            instance,
            namespace,
            repository,
            digests,
            older_than,
            at,
        } = self;
        FilterValues {
            instance,
            namespace,
            repository,
            digests,
            older_than,
            at,
            is_resolved: false,
        }
    }
}

pub(super) fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let midnight = || {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(date.and_time(chrono::NaiveTime::MIN))
    };
    let in_utc = [
        "%Y-%m-%d %H:%M",
        "%Y-%m-%d %H:%M:%S",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%dT%H:%M:%S",
    ]
    .iter()
    .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
    .or_else(midnight);
    match (in_utc, DateTime::parse_from_rfc3339(text)) {
        (Some(time), _) => Ok(time.and_utc()),
        (None, Ok(time)) => Ok(time.to_utc()),
        (None, Err(_)) => Err(
            "expected a date, or a date and time: 2026-03-01, '2026-03-01 12:00' or 2026-03-01T12:00:00+08:00".to_owned(),
        ),
    }
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    if args.name.as_deref() == Some(PAGE) {
        return page(args).await;
    }
    let Args {
        name,
        limit,
        filters,
        sql,
        result,
        export,
        database,
    } = args;
    let Some(name) = name else { return list() };
    let report = report::find(&name).ok_or_else(|| unknown("report", &name, names()))?;
    let mut values = filters.into_values();
    let query = |values: &FilterValues, limit: u64| {
        let query = report.query(values, limit);
        query.map_err(|error| filter_failure(report, error))
    };
    let whole = query(&values, limit.unwrap_or(0))?;
    if sql {
        return write_stdout(&format!("{whole};\n"));
    }
    let printer = result.printer(export)?;
    let open = database.open_to_read().await?;
    open.database.check().await?;
    let mut reader = open.database.connect_to_read().await?;
    let mut session = Session::over(reader.connection(), open.database.timeout());
    names::resolve(&mut values, &mut session).await?;
    drop(session);
    let whole = query(&values, 0)?;
    match printer.limit(limit) {
        None => printer.print(&mut reader, &whole, None).await?,
        Some(rows) => {
            // One more, to know whether there are more.
            let some = query(&values, rows.saturating_add(1))?;
            let limit = Limit {
                rows,
                whole: &whole,
            };
            printer.print(&mut reader, &some, Some(limit)).await?;
        }
    }
    Ok(Exit::Success)
}

/// Creates the page with all reports.
async fn page(args: Args) -> Result<Exit, Failure> {
    let Args {
        name: _,
        limit,
        filters,
        sql,
        result,
        export,
        database,
    } = args;
    let FilterArgs {
        instance,
        namespace,
        repository,
        digests,
        older_than,
        at,
    } = filters;
    let refused = [
        (result.format != Format::Table, "--format"),
        (result.timezone.is_some(), "--timezone"),
        (export.escape_formulas, "--escape-formulas"),
        (export.bom, "--bom"),
        (sql, "--sql"),
        (repository.is_some(), "--repository"),
        (!digests.is_empty(), "--digest"),
        (older_than.is_some(), "--older-than"),
        (at.is_some(), "--at"),
    ];
    if let Some((_, option)) = refused.into_iter().find(|(is_given, _)| *is_given) {
        return Err(Failure::new(
            Exit::Usage,
            format!("`report html` does not support {option}"),
        )
        .hint("`report html` supports --instance, --namespace, --limit and --output"));
    }
    let output = export.output;
    if output.is_none() && io::stdout().is_terminal() {
        let text = "the page cannot be printed on a terminal";
        return Err(
            Failure::new(Exit::Usage, text).hint("write it to a file: --output registry.html")
        );
    }
    let open = database.open_to_read().await?;
    open.database.check().await?;
    let mut reader = open.database.connect_to_read().await?;
    let mut values = FilterValues {
        instance,
        namespace,
        ..FilterValues::default()
    };
    let mut session = Session::over(reader.connection(), open.database.timeout());
    names::resolve(&mut values, &mut session).await?;
    drop(session);
    let options = html::Options {
        instance: values.instance.as_deref(),
        namespace: values.namespace.as_deref(),
        limit: limit.unwrap_or(html::MOST_ROWS),
        made_at: Clock::system().now(),
    };
    let page = html::page(&mut reader, &options)
        .await
        .map_err(query_failure)?;
    let Some(path) = output else {
        return write_stdout(&page);
    };
    replace_file(&path, page.as_bytes(), Mode::Umask(0o666))
        .map_err(|error| not_written(&path, &error))?;
    let size = human::bytes(i64::try_from(page.len()).unwrap_or(i64::MAX));
    print_lines([format!("wrote {} ({size})", path.display())]);
    Ok(Exit::Success)
}

/// The names that `report` accepts.
pub(super) fn names() -> Vec<&'static str> {
    let reports = REPORTS.iter().map(|report| report.name);
    reports.chain([PAGE]).collect()
}

fn list() -> Result<Exit, Failure> {
    let names = REPORTS.iter().map(|report| report.name.len());
    let width = names.max().unwrap_or(0);
    let reports = REPORTS.iter().map(|report| (report.name, report.question));
    let page = (PAGE, "All reports on one page, for a browser (--output).");
    let lines: String = reports
        .chain([page])
        .map(|(name, question)| format!("{name:width$}  {question}\n"))
        .collect();
    write_stdout(&lines)
}

fn filter_failure(report: &Report, error: FilterError) -> Failure {
    let mut options: Vec<String> = report.filters.iter().map(ToString::to_string).collect();
    options.push("--limit".to_owned());
    Failure::new(Exit::Usage, error).hint(format!(
        "the report `{}` supports {}",
        report.name,
        options.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_date_and_time_or_rfc_3339() {
        for (text, time) in [
            ("2026-03-01", "2026-03-01T00:00:00Z"),
            ("2026-03-01 12:30", "2026-03-01T12:30:00Z"),
            ("2026-03-01 12:30:05", "2026-03-01T12:30:05Z"),
            ("2026-03-01T12:30", "2026-03-01T12:30:00Z"),
            ("2026-03-01T12:30:05.5+02:00", "2026-03-01T10:30:05.5Z"),
        ] {
            assert_eq!(parse_time(text), Ok(time.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday", "2026-02-30", "2026-03-01 12:30 UTC"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
