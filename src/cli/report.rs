//! `swr-sync report`: lists the reports, or prints one.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use super::exit::{Exit, Failure};
use super::query::{print, write_stdout};
use super::settings::DatabaseArgs;
use crate::report::{self, FilterError, FilterValues, Format, REPORTS, Report};

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync report                                   list the reports and what each answers
  swr-sync report storage_by_repository --namespace payments
  swr-sync report stale_artifact --older-than 180d --format csv
  swr-sync report tag_at --at '2026-03-01 12:00' --repository api
  swr-sync report built_on --digest sha256:…        what to rebuild when that base changes
  swr-sync report layer_usage --sql                 the query, to paste elsewhere";

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The report; without it, the reports are listed
    name: Option<String>,
    /// Form of the result
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Rows to print; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    filters: FilterArgs,
    /// Print the query instead of running it
    #[arg(long)]
    sql: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// What a report is narrowed down by; it says so if it cannot be.
#[derive(Debug, clap::Args)]
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
    /// Only this digest, or the digest a report asks for; may be repeated
    #[arg(long = "digest", value_name = "DIGEST")]
    digests: Vec<String>,
    /// Only what was not used for that long: 90d, 12h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// The time a report asks for: 2026-03-01, '2026-03-01 12:00' (both UTC), or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
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

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
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
    let Args {
        name,
        format,
        limit,
        filters,
        sql,
        database,
    } = args;
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
    print(&mut reader, &query, format).await?;
    Ok(Exit::Success)
}

fn list() -> Result<Exit, Failure> {
    let names = REPORTS.iter().map(|report| report.name.len());
    let width = names.max().unwrap_or(0);
    let lines: String = REPORTS
        .iter()
        .map(|report| format!("{:width$}  {}\n", report.name, report.question))
        .collect();
    write_stdout(&lines)
}

fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = REPORTS.iter().map(|report| report.name).collect();
    Failure::new(Exit::Usage, format!("there is no report `{name}`"))
        .hint(format!("reports are: {}", names.join(", ")))
}

fn filter_failure(report: &Report, error: FilterError) -> Failure {
    let mut options: Vec<String> = report.filters.iter().map(ToString::to_string).collect();
    options.push("--limit".to_owned());
    Failure::new(Exit::Usage, error).hint(format!(
        "the report `{}` takes {}",
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
