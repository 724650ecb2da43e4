//! One writer per instance: a session advisory lock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use super::{Doing, StoreError};

/// First half of the lock's key, the second is the instance: "SWRS" in ASCII.
pub(super) const LOCK_CLASS: i32 = 0x5357_5253;

/// Limit for the farewell to the database; a lost connection gives the lock back by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The lock of one instance, and the connection it lives on.
///
/// Whatever must not happen twice at a time asks for this value, and uses its connection:
/// a lost connection has lost the lock, and can write nothing more.
#[derive(Debug)]
pub struct InstanceLock {
    connection: PgConnection,
    instance_id: i32,
}

/// The run that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The machine.
    pub host: String,
    /// The process there.
    pub process_id: i32,
    /// The run.
    pub run_id: i64,
    /// When it started.
    pub since: DateTime<Utc>,
}

impl InstanceLock {
    /// Takes the lock, or says who has it.
    pub async fn acquire(
        mut connection: PgConnection,
        instance_id: i32,
    ) -> Result<InstanceLock, StoreError> {
        let is_ours = sqlx::query_scalar!(
            r#"select pg_try_advisory_lock($1, $2) as "is_ours!""#,
            LOCK_CLASS,
            instance_id
        )
        .fetch_one(&mut connection)
        .await
        .doing("take the lock of the instance")?;
        if is_ours {
            return Ok(InstanceLock {
                connection,
                instance_id,
            });
        }
        let holder = sqlx::query_as!(
            LockHolder,
            "select host, process_id, run_id, started_at as since
             from swr.sync_run
             where instance_id = $1 and outcome = 'running'
             order by run_id desc
             limit 1",
            instance_id
        )
        .fetch_optional(&mut connection)
        .await
        .doing("see who holds the lock of the instance")?;
        Err(StoreError::Locked {
            holder: holder.map(Box::new),
        })
    }

    /// The instance that is locked.
    pub fn instance_id(&self) -> i32 {
        self.instance_id
    }

    /// The connection that holds the lock.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Gives the lock back, and closes its connection.
    pub async fn release(mut self) {
        // The server frees the lock with the connection, but not before it notices its end: a run
        // that starts at once must not find it taken. A lost connection has lost the lock too.
        // A database that does not answer must not hold up the end of the program.
        let farewell = async {
            let _ = sqlx::query_scalar!(
                "select pg_advisory_unlock($1, $2)",
                LOCK_CLASS,
                self.instance_id
            )
            .fetch_one(&mut self.connection)
            .await;
            let _ = self.connection.close().await;
        };
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, farewell).await;
    }
}
