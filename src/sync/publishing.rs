//! Publish as a step of a run: updates the run row meanwhile, cancels publish after a stop signal, and
//! cleans up afterwards.

use std::convert::Infallible;

use futures_util::future;

use super::{GRACE, HEARTBEAT, IN_PROGRESS, STORE_GRACE, SyncError, chain};
use crate::activity::Activity;
use crate::clock::Clock;
use crate::database::Database;
use crate::run::RunCounters;
use crate::stop::{Stop, StopReason};
use crate::store::{self, InstanceLock, Run, Session, StoreError};

/// The tables are analyzed after a run that wrote at least this many rows.
const ANALYZE_ROWS: u64 = 1_000;

/// Work that can be done after publish. If it fails, the next run does it.
pub(super) async fn tidy_up(lock: &mut InstanceLock, run: Run, counters: &RunCounters) {
    if let Err(error) = store::update_findings(lock, run).await {
        tracing::warn!(
            "cannot update the findings in build commands; the next run tries again: {}",
            chain(&error)
        );
    }
    if counters.rows_written < ANALYZE_ROWS {
        return;
    }
    if let Err(error) = store::analyze(lock).await {
        tracing::debug!("{}", chain(&error));
    }
}

/// Updates the run row during a long publish. Uses a separate session, because the session of the lock is
/// in the transaction.
pub(super) async fn show_publishing(
    database: &Database,
    run: Run,
    counters: &RunCounters,
    clock: &Clock,
) -> Infallible {
    let beating = async {
        tokio::time::sleep(HEARTBEAT).await;
        let mut session = Session::connect(database, &Activity::default()).await?;
        loop {
            store::save_progress(&mut session, run, counters, IN_PROGRESS, clock.now()).await?;
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    let result: Result<Infallible, SyncError> = beating.await;
    let Err(error) = result;
    // Not a failure of the run. If the database has a problem, publish reports it.
    tracing::debug!(
        "cannot update the run row during publishing: {}",
        chain(&error)
    );
    future::pending().await
}

/// Publishes. After a stop signal and a grace period, cancels publish, so that the run row can be written.
pub(super) async fn publish_unless_stopped(
    publishing: impl Future<Output = Result<(), StoreError>>,
    database: &Database,
    session: i32,
    stop: &Stop,
) -> Result<(), SyncError> {
    tokio::pin!(publishing);
    let reason = tokio::select! {
        published = &mut publishing => return Ok(published?),
        reason = after_grace(stop) => reason,
    };
    let ending = future::join(database.cancel(session), publishing);
    match tokio::time::timeout(STORE_GRACE, ending).await {
        // Publish ended at the same moment.
        Ok((_, Ok(()))) => Ok(()),
        Ok((_, Err(StoreError::CommitUnknown(_) | StoreError::Silent { .. }))) | Err(_) => {
            Err(SyncError::StoppedPublishing(reason))
        }
        Ok((_, Err(_))) => Err(SyncError::Stopped(reason)),
    }
}

async fn after_grace(stop: &Stop) -> StopReason {
    let reason = stop.requested().await;
    tokio::time::sleep(GRACE).await;
    reason
}
