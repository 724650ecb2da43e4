//! `swr-sync status`: how old the data is, what is missing, and the last runs.

use std::io::{self, Write};
use std::time::Duration;

use chrono::TimeDelta;

use super::exit::{Exit, Failure};
use super::names::find_instance;
use super::result::{ExportArgs, ResultArgs, database_failure, write_stdout, written};
use super::settings::DatabaseArgs;
use crate::clock::CLOCK_TOLERANCE;
use crate::report::{Format, human, quoted};
use crate::store::{self, InstanceStatus, ListingAge, Session};
use crate::visible::visible;

pub(super) const AFTER_HELP: &str = "\
Examples:
  swr-sync status                               age of the data, missing build histories, last runs
  swr-sync status --max-age 26h                 health check: exits with 1 if a listing is older
  swr-sync status --runs 100 --format json      the last 100 runs with their counters";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of runs to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    runs: u64,
    /// Only this instance: its id in SWR, or its name
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Health check: show only the age of the data, and exit with 1 if any of it is older than this or
    /// was never published
    #[arg(long, value_name = "TIME")]
    max_age: Option<humantime::Duration>,
    #[command(flatten)]
    result: ResultArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let Args {
        runs,
        instance,
        max_age,
        result,
        database,
    } = args;
    let printer = result.printer(ExportArgs::default())?;
    let open = database.open_to_read().await?;
    open.database.check().await?;
    let limit = open.database.timeout();
    let mut reader = open.database.connect_to_read().await?;
    let zone = printer.set_time_zone(&mut reader).await?;
    let mut session = Session::over(reader.connection(), limit);
    if let Some(instance) = &instance {
        let names = store::instance_names(&mut session).await;
        find_instance(instance, &names.map_err(database_failure)?)?;
    }
    let only = match &instance {
        Some(instance) => {
            let instance = quoted(instance);
            format!(
                "where instance_id in (select instance_id from swr.instance where {instance} in (swr_instance_id, name))"
            )
        }
        None => String::new(),
    };
    let is_for_people = printer.format() == Format::Table;
    if is_for_people {
        let statuses = store::instance_statuses(&mut session, instance.as_deref()).await;
        let statuses = statuses.map_err(database_failure)?;
        let text: String = statuses
            .iter()
            .map(|status| sentences(status, &zone))
            .collect();
        written(io::stdout().write_all(text.as_bytes()))?;
    }
    drop(session);
    if let Some(max_age) = max_age {
        if !is_for_people {
            let freshness = format!(
                "select instance, last_published_at, as_of, age, failures_since, last_error, histories_waiting
                 from swr_report.freshness
                 {only}
                 order by instance, instance_id"
            );
            printer.print(&mut reader, &freshness, None).await?;
        }
        let mut session = Session::over(reader.connection(), limit);
        return check_age(&mut session, *max_age, instance.as_deref()).await;
    }
    let columns = match is_for_people {
        // What fits a terminal; the sentences have the latest error in full.
        true => {
            "r.run_id, r.outcome, r.started_at, round(r.elapsed_ms / 1000.0, 1) as elapsed_s,
             r.artifacts_new as new, r.artifacts_changed as changed, r.artifacts_removed as removed,
             r.requests_total as requests"
        }
        false => {
            "r.run_id, r.outcome, r.started_at, r.elapsed_ms,
             r.artifacts_listed, r.artifacts_new, r.artifacts_changed, r.artifacts_removed,
             r.histories_fetched, r.histories_failed, r.histories_skipped, r.requests_total, r.throttled, r.error"
        }
    };
    let runs = format!(
        "select coalesce(i.name, i.swr_instance_id) as instance, {columns}
         from (select * from swr.sync_run {only}) r
         join swr.instance i on i.instance_id = r.instance_id
         order by r.started_at desc, r.run_id desc
         limit {runs}"
    );
    if is_for_people {
        write_stdout("\n")?;
    }
    printer.print(&mut reader, &runs, None).await?;
    Ok(Exit::Success)
}

/// What is to be known about an instance, the cause of a failure first.
fn sentences(status: &InstanceStatus, zone: &str) -> String {
    let InstanceStatus {
        instance,
        published_run_id,
        listing_age_seconds,
        artifacts,
        failures_since,
        last_error,
        last_failure_at,
        histories_waiting,
        histories_not_requested,
    } = status;
    let count = |count: i64, one: &str, several: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{} {several}", human::count(count)),
    };
    let mut text = visible(instance).into_owned();
    match (published_run_id, listing_age_seconds) {
        (Some(run_id), Some(age)) => text.push_str(&format!(
            ": the data is {} old (run {run_id}); {}\n",
            human::duration(*age),
            count(artifacts.unwrap_or(0), "artifact", "artifacts")
        )),
        _ => text.push_str(": nothing was published yet\n"),
    }
    if *failures_since > 0 {
        let at = last_failure_at.as_deref().unwrap_or("an unknown time");
        let error = last_error.as_deref().unwrap_or("no error was recorded");
        text.push_str(&format!(
            "  {} since, the last at {at} ({zone}): {}\n",
            count(*failures_since, "run failed", "runs failed"),
            visible(error)
        ));
    }
    for (histories, what) in [
        (*histories_waiting, "will be requested again"),
        (*histories_not_requested, "not requested yet"),
    ] {
        if histories > 0 {
            let histories = count(histories, "build history", "build histories");
            text.push_str(&format!("  {histories} {what}\n"));
        }
    }
    text
}

/// One line with the instances that are older than allowed.
async fn check_age(
    session: &mut Session<'_>,
    max_age: Duration,
    instance: Option<&str>,
) -> Result<Exit, Failure> {
    let ages = store::listing_ages(session, instance).await;
    let ages = ages.map_err(database_failure)?;
    let in_words = |age: TimeDelta| {
        humantime::format_duration(Duration::from_secs(age.num_seconds().unsigned_abs()))
    };
    let oldest = TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
    let stale: Vec<String> = ages
        .iter()
        .filter_map(|ListingAge { instance, age }| match *age {
            Some(age) if age < -CLOCK_TOLERANCE => Some(format!(
                "{instance} may be (the time of its listing is {} in the future: a clock is wrong)",
                in_words(age)
            )),
            Some(age) if age <= oldest => None,
            Some(age) => Some(format!("{instance} is {} old", in_words(age))),
            None => Some(format!("{instance} was never published")),
        })
        .collect();
    let complaint = match &ages[..] {
        [] => "the database has no instance: nothing was synced yet".to_owned(),
        _ if stale.is_empty() => return Ok(Exit::Success),
        _ => stale.join(", "),
    };
    let max_age = humantime::format_duration(max_age);
    Err(Failure::new(
        Exit::Unexpected,
        format!("older than {max_age}: {complaint}"),
    ))
}
