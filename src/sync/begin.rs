//! The start of a run: the row of the instance, its lock, and the row of the run.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::progress::{Phase, Progress};
use super::{Ending, SyncError, SyncSettings};
use crate::artifact::InstanceDescription;
use crate::clock::CLOCK_TOLERANCE;
use crate::database::Database;
use crate::registry::Registry;
use crate::run::VerifiedRun;
use crate::stop::{Stop, StopReason};
use crate::store::{
    self, Instance, InstanceLock, LockAttempt, LockHolder, OtherClocks, Run, Session, StoreError,
};

/// Interval between attempts to take a lock that another run holds. An attempt is a cheap statement on a
/// connection that is idle in between. So waiting holds no snapshot, and ends immediately on a stop signal.
const LOCK_POLL: Duration = Duration::from_millis(500);
/// Interval between log lines that show the holder of the lock.
const LOCK_WAIT_INTERVAL: Duration = Duration::from_secs(60);
/// The first version with the artifact list of the whole instance (swr_03_0306).
pub(crate) const FIRST_VERSION: [u64; 3] = [25, 6, 0];

/// Connects, finds or creates the instance's row, takes its lock and starts the run. For a verification,
/// also returns the run to verify.
pub(super) async fn begin_run(
    registry: &Registry,
    database: &Database,
    settings: &SyncSettings,
    progress: &Progress,
    stop: &Stop,
) -> Result<(InstanceLock, Run, Option<VerifiedRun>), SyncError> {
    let settling = async {
        let mut session = Session::connect(database, &registry.activity()).await?;
        let settled = settle_instance(registry, &mut session, settings).await?;
        Ok::<_, SyncError>((session, settled))
    };
    let (session, (instance, description)) = stop.or(settling).await??;
    let (instance_id, lock_timeout) = (instance.instance_id, settings.lock_timeout);
    let mut lock = take_lock(session, instance_id, lock_timeout, progress, stop).await?;
    let beginning = async {
        let now = settings.clock.now();
        let verified = match settings.ending {
            Ending::Publish | Ending::DryRun => None,
            Ending::Compare(_) => {
                let verified = store::verified_run(&mut lock, instance_id).await?;
                Some(verified.ok_or_else(|| never_published(settings))?)
            }
        };
        let run = Run::start(&mut lock, &settings.host, now).await?;
        let clocks = store::other_clocks(&mut lock, run.instance_id).await?;
        for warning in clock_warnings(now, clocks) {
            tracing::warn!("{warning}");
        }
        if verified.is_none() {
            store::prepare_findings(&mut lock, run).await?;
        }
        if description != Description::NotRequested {
            let answer = description.answer();
            let describing = store::describe_instance(&mut lock, run, answer, now);
            Progress::add(&progress.data_issues, describing.await?);
        }
        Ok((lock, run, verified))
    };
    stop.or(beginning).await?
}

/// Warnings about clocks that differ. The run continues: the wrong clock may be that of an earlier
/// run, and then correcting this one would not help.
fn clock_warnings(now: DateTime<Utc>, clocks: OtherClocks) -> Vec<String> {
    let OtherClocks {
        database,
        previous_listing,
    } = clocks;
    let mut warnings = Vec::new();
    let ahead = now - database;
    if ahead.abs() > CLOCK_TOLERANCE {
        let side = match ahead > TimeDelta::zero() {
            true => "ahead of",
            false => "behind",
        };
        warnings.push(format!(
            "the clock of this machine is {} {side} the database's: correct the one that is wrong. This run \
             stores the times of this machine",
            in_words(ahead)
        ));
    }
    if let Some(previous_listing) = previous_listing
        && previous_listing - now > CLOCK_TOLERANCE
    {
        warnings.push(format!(
            "by the clock of this machine, the last published listing began {} in the future: this clock is \
             wrong, or the clock of the earlier run was. Until then, a tag that changes can get a time in the future",
            in_words(previous_listing - now)
        ));
    }
    warnings
}

/// The absolute value of a duration, in whole seconds.
fn in_words(time: TimeDelta) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.num_seconds().unsigned_abs()))
}

/// Takes the lock. Waits for it up to `lock_timeout`, or without a limit. There is no queue: the first run
/// that tries after the release gets the lock.
async fn take_lock(
    mut session: Session<'static>,
    instance_id: i32,
    lock_timeout: Option<Duration>,
    progress: &Progress,
    stop: &Stop,
) -> Result<InstanceLock, SyncError> {
    let (mut begin, mut last_holder) = (None::<Instant>, None);
    let (mut pause, mut next_log) = (Duration::ZERO, Duration::ZERO);
    loop {
        let attempt = async {
            tokio::time::sleep(pause).await;
            InstanceLock::attempt(session, instance_id).await
        };
        let attempt = match (stop.or(attempt).await, begin) {
            (Ok(attempt), _) => attempt?,
            // All of its time was spent waiting for the lock, so that is the error.
            (Err(StopReason::TimeLimit(_)), Some(begin)) => {
                return Err(locked(last_holder, Some(begin.elapsed())));
            }
            (Err(reason), _) => return Err(reason.into()),
        };
        match attempt {
            LockAttempt::Taken(lock) => return Ok(lock),
            LockAttempt::Held {
                session: ours,
                holder,
            } => (session, last_holder) = (ours, holder),
        }
        let waited = begin.get_or_insert_with(Instant::now).elapsed();
        pause = match lock_timeout {
            Some(timeout) => timeout.saturating_sub(waited).min(LOCK_POLL),
            None => LOCK_POLL,
        };
        if pause.is_zero() {
            let has_waited = lock_timeout != Some(Duration::ZERO);
            return Err(locked(last_holder, has_waited.then_some(waited)));
        }
        if waited >= next_log {
            next_log += LOCK_WAIT_INTERVAL;
            progress.enter(Phase::Waiting);
            log_wait(last_holder.as_ref(), waited, lock_timeout);
        }
    }
}

fn log_wait(holder: Option<&LockHolder>, waited: Duration, lock_timeout: Option<Duration>) {
    let whom = match holder {
        Some(holder) => holder.to_string(),
        None => "it was released just now".to_owned(),
    };
    let how_long = match lock_timeout {
        Some(timeout) => format!("up to {} ", humantime::format_duration(timeout)),
        None => String::new(),
    };
    let run_id = match holder {
        Some(LockHolder::Run { run_id, .. }) => Some(run_id),
        _ => None,
    };
    tracing::warn!(
        waited_s = waited.as_secs(),
        holder_run_id = run_id,
        "waiting {how_long}for the lock of this instance: {whom}"
    );
}

fn locked(holder: Option<LockHolder>, waited: Option<Duration>) -> SyncError {
    let holder = holder.map(Box::new);
    SyncError::Store(StoreError::Locked { holder, waited })
}

/// The registry's description of an instance.
#[derive(Debug, PartialEq)]
enum Description {
    /// The stored one is recent enough, or the request failed temporarily.
    NotRequested,
    /// This key lacks the permission, or the gateway does not support the call.
    Refused,
    Given(InstanceDescription),
}

impl Description {
    fn answer(&self) -> Option<&InstanceDescription> {
        match self {
            Description::Given(description) => Some(description),
            Description::NotRequested | Description::Refused => None,
        }
    }
}

/// Returns the instance's row, and the registry's description if the stored one is old. The row is
/// created when the registry has confirmed the instance, or has refused this key a description. A
/// verification needs the row, and changes nothing.
async fn settle_instance(
    registry: &Registry,
    session: &mut Session<'_>,
    settings: &SyncSettings,
) -> Result<(Instance, Description), SyncError> {
    let SyncSettings {
        swr_instance_id,
        project_id,
        endpoint,
        region,
        safeguards,
        clock,
        ..
    } = settings;
    let known = Instance::find(session, swr_instance_id, clock.now()).await?;
    if let Some(error) = known
        .as_ref()
        .and_then(|known| wrong_project(known, settings))
    {
        return Err(error);
    }
    if matches!(settings.ending, Ending::Compare(_)) {
        let known = known.ok_or_else(|| never_published(settings))?;
        return Ok((known, Description::NotRequested));
    }
    let is_new = known.as_ref().is_none_or(|known| known.is_new);
    let description = match known.is_some_and(|known| !known.needs_description) && !is_new {
        true => Description::NotRequested,
        false => {
            let activity = registry.activity();
            activity.waits("begin", "the description of the instance");
            tokio::select! {
                described = describe_instance(registry, is_new) => described?,
                stages = activity.stalled(settings.patience, || registry.held_up_until()) => {
                    return Err(SyncError::Stalled { patience: settings.patience, stages });
                }
            }
        }
    };
    // An instance that was mirrored before is accepted under any name.
    if let Description::Given(InstanceDescription {
        name: Some(name), ..
    }) = &description
        && is_new
        && !safeguards.accept_new_instance
        && let Some(namesake) =
            store::find_namesake(session, swr_instance_id, project_id, name).await?
    {
        return Err(SyncError::SameName {
            swr_instance_id: swr_instance_id.clone(),
            name: name.clone(),
            namesake: Box::new(namesake),
        });
    }
    let instance = Instance::find_or_create(
        session,
        swr_instance_id,
        project_id,
        endpoint,
        region.as_deref(),
        clock.now(),
    )
    .await?;
    // Another run may have created it in the meantime.
    if let Some(error) = wrong_project(&instance, settings) {
        return Err(error);
    }
    Ok((instance, description))
}

fn never_published(settings: &SyncSettings) -> SyncError {
    SyncError::NeverPublished {
        swr_instance_id: settings.swr_instance_id.clone(),
    }
}

fn wrong_project(instance: &Instance, settings: &SyncSettings) -> Option<SyncError> {
    let Instance { project_id, .. } = instance;
    (*project_id != settings.project_id).then(|| SyncError::WrongInstance {
        swr_instance_id: settings.swr_instance_id.clone(),
        stored: project_id.clone(),
        given: settings.project_id.clone(),
    })
}

/// Requests name and version. The run continues if the key may not read them, or if the gateway does
/// not support the call. For a new instance, every other failure ends the run. For a known one, only
/// a refused key does; the listing reports other failures.
async fn describe_instance(registry: &Registry, is_new: bool) -> Result<Description, SyncError> {
    let description = match registry.instance().await {
        Ok(description) => description,
        Err(error) => {
            let status = error.status();
            let is_refused = status.is_some_and(|status| match status.status {
                400 | 403 => true,
                404 => status.is_from_gateway(),
                _ => false,
            });
            let is_key_refused = status.is_some_and(|status| status.status == 401);
            return match (
                is_refused,
                is_new || is_key_refused || error.is_key_denied(),
            ) {
                (true, _) => Ok(Description::Refused),
                (false, true) => Err(error.into()),
                (false, false) => {
                    tracing::debug!("cannot update name and version of the instance: {error}");
                    Ok(Description::NotRequested)
                }
            };
        }
    };
    match description.version {
        Some(version) if is_older(&version, FIRST_VERSION) => {
            Err(SyncError::UnsupportedVersion { version })
        }
        _ => Ok(Description::Given(description)),
    }
}

/// Compares component by component. Its exact format is not documented, so a leading letter and
/// whatever follows the third number are ignored; an unreadable version is not older.
pub(crate) fn is_older(version: &str, than: [u64; 3]) -> bool {
    let numbers: Vec<u64> = version
        .trim_start_matches(|character: char| !character.is_ascii_digit())
        .split(|character: char| !character.is_ascii_digit())
        .map_while(|part| part.parse().ok())
        .take(3)
        .collect();
    !numbers.is_empty() && numbers.as_slice() < &than[..numbers.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_by_more_than_five_minutes_are_warned_of() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let warnings = |database: i64, previous_listing: Option<i64>| {
            let clocks = OtherClocks {
                database: now + TimeDelta::seconds(database),
                previous_listing: previous_listing.map(|seconds| now + TimeDelta::seconds(seconds)),
            };
            clock_warnings(now, clocks)
                .into_iter()
                .map(|warning| warning.split_once(':').unwrap().0.to_owned())
                .collect::<Vec<_>>()
        };
        let nothing: [&str; 0] = [];
        assert_eq!(warnings(0, None), nothing);
        assert_eq!(warnings(300, Some(300)), nothing);
        assert_eq!(warnings(-300, Some(-1_000_000)), nothing);
        assert_eq!(
            warnings(301, None),
            ["the clock of this machine is 5m 1s behind the database's"]
        );
        assert_eq!(
            warnings(-3_600, Some(301)),
            [
                "the clock of this machine is 1h ahead of the database's",
                "by the clock of this machine, the last published listing began 5m 1s in the future",
            ]
        );
    }

    #[test]
    fn versions_compare_by_number() {
        for old in ["25.5.9", "v25.5.0", "24.12.0-b7", "9.9.9", "25.5"] {
            assert!(is_older(old, FIRST_VERSION), "{old}");
        }
        for new in [
            "25.6.0",
            "v25.6.0",
            "25.10.1",
            "25.6.0.3",
            "26.0.0-rc1",
            "25.6",
            "unknown",
            "",
        ] {
            assert!(!is_older(new, FIRST_VERSION), "{new}");
        }
    }
}
