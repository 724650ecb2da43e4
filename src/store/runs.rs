//! Instances and run rows.

use chrono::{DateTime, TimeDelta, Utc};

use super::history::insert_issues;
use super::{InstanceLock, Session, StoreError, to_micros};
use crate::artifact::InstanceDescription;
use crate::data_issue::DataIssue;
use crate::run::{RunCounters, RunOutcome};

/// How long the stored name and version of an instance are considered current.
const DESCRIPTION_LIFETIME: TimeDelta = TimeDelta::days(1);

/// The row of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The surrogate key; all primary keys start with it.
    pub instance_id: i32,
    /// Whether it was never described and no run was published.
    pub is_new: bool,
    /// Whether no run has requested its description in the last day.
    pub needs_description: bool,
    pub project_id: String,
}

impl Instance {
    /// Reads the row of an instance, if it has one.
    pub async fn find(
        session: &mut Session<'_>,
        swr_instance_id: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Instance>, StoreError> {
        let query = sqlx::query_as!(
            Instance,
            r#"select
                   instance_id,
                   project_id,
                   version is null and not exists (
                       select from swr.sync_run r where r.instance_id = i.instance_id and r.outcome = 'published'
                   ) as "is_new!",
                   not exists (
                       select from swr.sync_run r where r.instance_id = i.instance_id and r.described_at > $2
                   ) as "needs_description!"
               from swr.instance i
               where swr_instance_id = $1"#,
            swr_instance_id,
            now - DESCRIPTION_LIFETIME
        );
        session.fetch_optional("read the instance", query).await
    }

    /// Reads the row of an instance, or inserts it.
    pub async fn find_or_create(
        session: &mut Session<'_>,
        swr_instance_id: &str,
        project_id: &str,
        endpoint: &str,
        region: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Instance, StoreError> {
        let query = sqlx::query!(
            "insert into swr.instance (swr_instance_id, project_id, endpoint, region, first_seen_at)
             select $1, $2, $3, $4, $5
             where not exists (select from swr.instance where swr_instance_id = $1)
             on conflict (swr_instance_id) do nothing",
            swr_instance_id,
            project_id,
            endpoint,
            region,
            now
        );
        session.execute("write the instance", query).await?;
        let query = sqlx::query!(
            "update swr.instance
             set endpoint = $2, region = coalesce($3, region)
             where swr_instance_id = $1
               and (endpoint, region) is distinct from ($2, coalesce($3, region))",
            swr_instance_id,
            endpoint,
            region
        );
        session.execute("update the instance", query).await?;
        match Instance::find(session, swr_instance_id, now).await? {
            Some(instance) => Ok(instance),
            // Rows of instances are never deleted.
            None => Err(StoreError::Statement {
                doing: "read the instance",
                source: sqlx::Error::RowNotFound.into(),
            }),
        }
    }
}

/// An instance of the same project and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namesake {
    /// Its id in SWR.
    pub swr_instance_id: String,
    /// Time of the latest publish.
    pub last_published_at: Option<DateTime<Utc>>,
}

/// Returns the newest other instance of the project with this name.
pub async fn find_namesake(
    session: &mut Session<'_>,
    swr_instance_id: &str,
    project_id: &str,
    name: &str,
) -> Result<Option<Namesake>, StoreError> {
    let query = sqlx::query_as!(
        Namesake,
        "select
             i.swr_instance_id,
             (select max(r.published_at) from swr.sync_run r where r.instance_id = i.instance_id) as last_published_at
         from swr.instance i
         where i.swr_instance_id <> $1 and i.project_id = $2 and i.name = $3
         order by i.instance_id desc
         limit 1",
        swr_instance_id,
        project_id,
        name
    );
    session
        .fetch_optional("find an instance of the same name", query)
        .await
}

/// The status of an instance as shown to users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Its name, or its id in SWR if the name is not known.
    pub instance: String,
    /// The run that published the listing; `None` if no run was published.
    pub published_run_id: Option<i64>,
    /// Time since that listing began.
    pub listing_age_seconds: Option<i64>,
    /// Artifacts of that listing.
    pub artifacts: Option<i64>,
    /// Runs that failed since then, with the error and the time of the latest.
    pub failures_since: i64,
    pub last_error: Option<String>,
    /// To the minute, in the session's time zone.
    pub last_failure_at: Option<String>,
    /// Build histories that were not given and that later runs request again.
    pub histories_waiting: i64,
    /// Digests whose build history was never requested.
    pub histories_not_requested: i64,
}

/// Returns the status of each instance, or of those with this id or name.
pub async fn instance_statuses(
    session: &mut Session<'_>,
    instance: Option<&str>,
) -> Result<Vec<InstanceStatus>, StoreError> {
    let query = sqlx::query_as!(
        InstanceStatus,
        r#"select
               f.instance as "instance!",
               f.last_published_run_id as published_run_id,
               extract(epoch from f.age)::bigint as listing_age_seconds,
               p.artifacts_listed as "artifacts?",
               f.failures_since as "failures_since!",
               f.last_error,
               to_char(l.failed_at, 'YYYY-MM-DD HH24:MI') as last_failure_at,
               f.histories_waiting - coalesce(n.digests, 0) as "histories_waiting!",
               coalesce(n.digests, 0) as "histories_not_requested!"
           from swr_report.freshness f
           join swr.instance i on i.instance_id = f.instance_id
           left join swr.sync_run p on p.instance_id = f.instance_id and p.run_id = f.last_published_run_id
           left join (
               select s.instance_id, max(s.started_at) as failed_at
               from swr.sync_run s
               where s.outcome in ('failed', 'stopped', 'abandoned')
               group by s.instance_id
           ) l on l.instance_id = f.instance_id
           left join (
               select a.instance_id, count(distinct a.digest) as digests
               from swr_report.artifact a
               where a.build_history is null
               group by a.instance_id
           ) n on n.instance_id = f.instance_id
           where $1::text is null or $1 in (i.swr_instance_id, i.name)
           order by 1, f.instance_id"#,
        instance
    );
    session
        .fetch_all("read the status of the instances", query)
        .await
}

/// The age of the published listing of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingAge {
    /// Its name, or its id in SWR if the name is not known.
    pub instance: String,
    /// Time since the listing began, negative if its time is in the future; `None` if no run was
    /// published.
    pub age: Option<TimeDelta>,
}

/// Returns the age of each instance, or of those with this id or name, by the database's clock.
pub async fn listing_ages(
    session: &mut Session<'_>,
    instance: Option<&str>,
) -> Result<Vec<ListingAge>, StoreError> {
    let query = sqlx::query!(
        r#"select
               coalesce(i.name, i.swr_instance_id) as "instance!",
               extract(epoch from now() - (
                   select r.listing_started_at
                   from swr.sync_run r
                   where r.instance_id = i.instance_id and r.outcome = 'published'
                   order by r.run_id desc
                   limit 1
               ))::bigint as age_seconds
           from swr.instance i
           where $1::text is null or $1 in (i.swr_instance_id, i.name)
           order by 1, i.instance_id"#,
        instance
    );
    let rows = session
        .fetch_all("read the age of the listings", query)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| ListingAge {
            instance: row.instance,
            age: row.age_seconds.and_then(TimeDelta::try_seconds),
        })
        .collect())
}

/// Records that the description of an instance was requested, and stores the description if there is
/// one. Returns the number of recorded data issues.
pub async fn describe_instance(
    session: &mut Session<'_>,
    run: Run,
    description: Option<&InstanceDescription>,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.sync_run set described_at = $3 where instance_id = $1 and run_id = $2",
        run.instance_id,
        run.run_id,
        to_micros(now)
    );
    session.execute("describe the instance", query).await?;
    let Some(description) = description else {
        return Ok(0);
    };
    let InstanceDescription {
        name,
        version,
        status: _,
        issues,
    } = description;
    let query = sqlx::query!(
        "update swr.instance
         set name = $2, version = $3
         where instance_id = $1 and (name, version) is distinct from ($2, $3)",
        run.instance_id,
        name.as_deref(),
        version.as_deref()
    );
    session.execute("describe the instance", query).await?;
    let issues: Vec<&DataIssue> = issues.iter().collect();
    insert_issues(session, run, &issues, to_micros(now)).await
}

/// A run in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub instance_id: i32,
    pub run_id: i64,
    pub started_at: DateTime<Utc>,
}

impl Run {
    /// Starts a run: marks dead runs as abandoned, deletes their staged rows, and inserts the run's row.
    pub async fn start(
        lock: &mut InstanceLock,
        host: &str,
        now: DateTime<Utc>,
    ) -> Result<Run, StoreError> {
        let instance_id = lock.instance_id();
        let now = to_micros(now);
        // The holder of the lock is the only running run of the instance.
        let query = sqlx::query!(
            "update swr.sync_run
             set outcome = 'abandoned', updated_at = $2, error = 'the process exited without recording an outcome'
             where instance_id = $1 and outcome = 'running'",
            instance_id,
            now
        );
        lock.execute("close abandoned runs", query).await?;
        super::stage::clear(lock, instance_id).await?;
        let query = sqlx::query!(
            "insert into swr.sync_run
                 (instance_id, outcome, started_at, updated_at, program_version, host, process_id,
                  backend_process_id)
             values ($1, 'running', $2, $2, $3, $4, $5, $6)
             returning run_id",
            instance_id,
            now,
            env!("CARGO_PKG_VERSION"),
            host,
            // Process ids fit: on Linux the maximum is 2^22.
            std::process::id() as i32,
            lock.backend_process_id()
        )
        .map(|row| row.run_id);
        let run_id = lock.fetch_one("write the run", query).await?;
        Ok(Run {
            instance_id,
            run_id,
            started_at: now,
        })
    }
}

/// Times of clocks other than that of this machine.
#[derive(Debug, Clone, Copy)]
pub struct OtherClocks {
    /// The current time of the database's clock.
    pub database: DateTime<Utc>,
    /// Start of the latest published listing, by the clock of the machine that ran it.
    pub previous_listing: Option<DateTime<Utc>>,
}

/// Reads the times that a run can compare with its clock.
pub async fn other_clocks(
    session: &mut Session<'_>,
    instance_id: i32,
) -> Result<OtherClocks, StoreError> {
    let query = sqlx::query!(r#"select now() as "now!""#).map(|row| row.now);
    let database = session
        .fetch_one("read the database's clock", query)
        .await?;
    let previous_listing = super::publish::previous_listing(session, instance_id).await?;
    Ok(OtherClocks {
        database,
        previous_listing,
    })
}

/// Stores start and end of the listing.
pub async fn note_listing(
    session: &mut Session<'_>,
    run: Run,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "update swr.sync_run
         set listing_started_at = $3, listing_finished_at = $4
         where instance_id = $1 and run_id = $2",
        run.instance_id,
        run.run_id,
        to_micros(started_at),
        finished_at.map(to_micros)
    );
    session
        .execute("store the times of the listing", query)
        .await?;
    Ok(())
}

/// How a run ended.
#[derive(Debug)]
pub struct RunEnd<'a> {
    /// The outcome; `None` while the run is in progress.
    pub outcome: Option<RunOutcome>,
    /// Why it failed.
    pub error: Option<&'a str>,
    /// The exit code for the run's row.
    pub exit_code: Option<u8>,
}

/// Writes the counters of a run, and its outcome if it has ended.
pub async fn save_progress(
    session: &mut Session<'_>,
    run: Run,
    counters: &RunCounters,
    end: RunEnd<'_>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let RunEnd {
        outcome,
        error,
        exit_code,
    } = end;
    let now = to_micros(now);
    let finished_at = outcome.map(|_| now);
    let published_at = (outcome == Some(RunOutcome::Published)).then_some(now);
    let query = sqlx::query!(
        "update swr.sync_run r
         set outcome = coalesce($3, r.outcome),
             error = $4,
             exit_code = $5,
             updated_at = $6,
             finished_at = $7,
             published_at = $8,
             elapsed_ms = $9,
             requests = c.requests,
             requests_total = c.requests_total,
             retries = c.retries,
             throttled = c.throttled,
             catalog_pages = c.catalog_pages,
             pages = c.pages,
             artifacts_listed = c.artifacts_listed,
             artifacts_new = c.artifacts_new,
             artifacts_changed = c.artifacts_changed,
             artifacts_removed = c.artifacts_removed,
             artifacts_unchanged = c.artifacts_unchanged,
             tags_new = c.tags_new,
             tags_moved = c.tags_moved,
             tags_removed = c.tags_removed,
             histories_fetched = c.histories_fetched,
             histories_reused = c.histories_reused,
             histories_unsupported = c.histories_unsupported,
             histories_gone = c.histories_gone,
             histories_failed = c.histories_failed,
             histories_skipped = c.histories_skipped,
             data_issues = c.data_issues,
             rows_written = c.rows_written
         from jsonb_populate_record(null::swr.sync_run, $10) c
         -- A run ends once: what is published stays published.
         where r.instance_id = $1 and r.run_id = $2 and r.outcome = 'running'",
        run.instance_id,
        run.run_id,
        outcome.map(RunOutcome::as_str),
        error,
        exit_code.map(i16::from),
        now,
        finished_at,
        published_at,
        (now - run.started_at).num_milliseconds(),
        counters.to_json()
    );
    session
        .execute_heartbeat("write the run's counters", query)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_written() {
        let counters = RunCounters::default().to_json();
        for name in counters.as_object().unwrap().keys() {
            let assignment = format!("{name} = c.{name}");
            assert!(include_str!("runs.rs").contains(&assignment), "{name}");
        }
    }
}
