//! `swr-sync report`: lists the reports, prints one, or creates the page with all of them.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use super::exit::{Exit, Failure};
use super::query::{Form, print, query_failure, write_stdout};
use super::replace_file::{Mode, replace_file};
use super::settings::DatabaseArgs;
use crate::clock::Clock;
use crate::report::{self, FilterError, FilterValues, Format, REPORTS, Report, html};

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
    /// Output format [default: table]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// With --format csv, prefix text cells that begin with =, +, -, @, tab or carriage return with ',
    /// so that a spreadsheet does not run them as formulas
    #[arg(long)]
    escape_formulas: bool,
    /// Maximum number of rows, of `html` in each table; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u64,
    /// Print the query instead of running it
    #[arg(long)]
    sql: bool,
    /// With `html`, write the page to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filters: FilterArgs,
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
    /// Only this repository, by its name without the namespace
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Only this digest, or the digest that a report requires; may be repeated
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
        }
    }
}

pub(super) fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let midnight = || {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(date.and_time(chrono::NaiveTime::MIN))
    };
    let in_utc = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(midnight);
    match (in_utc, DateTime::parse_from_rfc3339(text)) {
        (Some(time), _) => Ok(time.and_utc()),
        (None, Ok(time)) => Ok(time.to_utc()),
        (None, Err(_)) => Err("neither a date, nor a date and time, nor RFC 3339".to_owned()),
    }
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    if args.name.as_deref() == Some(PAGE) {
        return page(args).await;
    }
    let Args {
        name,
        format,
        escape_formulas,
        limit,
        filters,
        sql,
        output,
        database,
    } = args;
    if output.is_some() {
        return Err(
            Failure::new(Exit::Usage, "--output works with `report html` only")
                .hint("a report is printed on stdout; redirect it to a file"),
        );
    }
    let Some(name) = name else { return list() };
    let report = report::find(&name).ok_or_else(|| unknown(&name))?;
    let query = report
        .query(&filters.into_values(), limit)
        .map_err(|error| filter_failure(report, error))?;
    if sql {
        return write_stdout(&format!("{query};\n"));
    }
    let open = database.open().await?;
    open.database.check().await?;
    let mut reader = open.database.connect_to_read().await?;
    let form = Form {
        format: format.unwrap_or_default(),
        escape_formulas,
    };
    print(&mut reader, &query, form).await?;
    Ok(Exit::Success)
}

/// Creates the page with all reports.
async fn page(args: Args) -> Result<Exit, Failure> {
    let Args {
        name: _,
        format,
        escape_formulas,
        limit,
        filters,
        sql,
        output,
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
        (format.is_some(), "--format"),
        (escape_formulas, "--escape-formulas"),
        (sql, "--sql"),
        (namespace.is_some(), "--namespace"),
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
        .hint("`report html` supports --instance, --limit and --output"));
    }
    let open = database.open().await?;
    open.database.check().await?;
    let mut reader = open.database.connect_to_read().await?;
    let options = html::Options {
        instance: instance.as_deref(),
        limit,
        made_at: Clock::system().now(),
    };
    let page = html::page(&mut reader, &options)
        .await
        .map_err(query_failure)?;
    match output {
        None => write_stdout(&page),
        Some(path) => match replace_file(&path, page.as_bytes(), Mode::Umask(0o666)) {
            Ok(()) => Ok(Exit::Success),
            Err(error) => Err(Failure::new(
                Exit::Unexpected,
                format!("cannot write {}: {error}", path.display()),
            )
            .hint("the folder must exist and be writable: the page is written to a temporary file there and renamed")),
        },
    }
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

fn unknown(name: &str) -> Failure {
    Failure::new(Exit::Usage, format!("there is no report `{name}`"))
        .hint(format!("the reports are {}", names().join(", ")))
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
            ("2026-03-01T12:30:05.5+02:00", "2026-03-01T10:30:05.5Z"),
        ] {
            assert_eq!(parse_time(text), Ok(time.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday", "2026-02-30", "2026-03-01 12:30 UTC"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
