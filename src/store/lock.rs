//! One writer per instance: a session advisory lock.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, Executor, PgConnection};

use super::{Doing, StoreError};

/// First half of the lock's key, the second is the instance: "SWRS" in ASCII.
pub(super) const LOCK_CLASS: i32 = 0x5357_5253;

/// Limit for the farewell to the database; a lost connection gives the lock back by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// The lock of one instance, and the connection it lives on.
///
/// Whatever must not happen twice at a time asks for this value, and uses its connection:
/// a lost connection has lost the lock, and can write nothing more.
#[derive(Debug)]
pub struct InstanceLock {
    connection: PgConnection,
    instance_id: i32,
    backend_process_id: i32,
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

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LockHolder {
            host,
            process_id,
            run_id,
            since,
        } = self;
        write!(
            f,
            "run {run_id} on {host}, process {process_id}, since {}",
            since.format("%Y-%m-%d %H:%M:%S UTC")
        )
    }
}

/// What came of trying to take a lock.
#[derive(Debug)]
pub enum LockAttempt {
    /// It is ours.
    Taken(InstanceLock),
    /// Another run has it.
    Held {
        /// The connection, to try again.
        connection: PgConnection,
        /// Who it is; `None` if it ended in this moment.
        holder: Option<LockHolder>,
    },
}

impl InstanceLock {
    /// Takes the lock, or says who has it.
    pub async fn acquire(
        connection: PgConnection,
        instance_id: i32,
    ) -> Result<InstanceLock, StoreError> {
        match InstanceLock::attempt(connection, instance_id).await? {
            LockAttempt::Taken(lock) => Ok(lock),
            LockAttempt::Held { holder, .. } => Err(StoreError::Locked {
                holder: holder.map(Box::new),
                waited: None,
            }),
        }
    }

    /// Tries to take the lock. It does not wait: a statement that did would keep its snapshot,
    /// and with it the server from cleaning up behind the run that is going on.
    pub async fn attempt(
        mut connection: PgConnection,
        instance_id: i32,
    ) -> Result<LockAttempt, StoreError> {
        let taken = sqlx::query!(
            r#"select pg_try_advisory_lock($1, $2) as "is_ours!", pg_backend_pid() as "backend_process_id!""#,
            LOCK_CLASS,
            instance_id
        )
        .fetch_one(&mut connection)
        .await
        .doing("take the lock of the instance")?;
        if taken.is_ours {
            return Ok(LockAttempt::Taken(InstanceLock {
                connection,
                instance_id,
                backend_process_id: taken.backend_process_id,
            }));
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
        Ok(LockAttempt::Held { connection, holder })
    }

    /// The instance that is locked.
    pub fn instance_id(&self) -> i32 {
        self.instance_id
    }

    /// The connection that holds the lock.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The server's process behind the connection, for [`cancel`].
    pub fn backend_process_id(&self) -> i32 {
        self.backend_process_id
    }

    /// Takes in the answer to a statement that was cut short: if that is an error, the next
    /// statement would get it. If it was the begin of a transaction, sqlx does not know that the
    /// server is in one, and what is written next would go with it.
    pub async fn settle(&mut self) {
        // A connection that is lost shows in the next statement too.
        let _ = self.connection.ping().await;
        // Mostly there is no transaction, and the server's warning of that is nobody's business.
        let _ = self
            .connection
            .execute("set client_min_messages = error")
            .await;
        let _ = self.connection.execute("rollback").await;
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

/// Fails unless this very session holds the lock of the instance.
///
/// A connection that was lost says so by itself. A pooler in transaction mode hides it, though: it
/// hands out another session, and behind it another run may go on, or a restart of the server may
/// have emptied the staging tables.
pub(super) async fn check_held(
    connection: &mut PgConnection,
    instance_id: i32,
) -> Result<(), StoreError> {
    let is_held = sqlx::query_scalar!(
        r#"select exists (
               select from pg_locks
               where locktype = 'advisory' and pid = pg_backend_pid() and granted
                 and classid::bigint = $1 and objid::bigint = $2 and objsubid = 2
           ) as "is_held!""#,
        i64::from(LOCK_CLASS),
        i64::from(instance_id)
    )
    .fetch_one(connection)
    .await
    .doing("see whether the lock is still held")?;
    if is_held {
        Ok(())
    } else {
        Err(StoreError::LockLost)
    }
}

/// Ends the statement that another session of the same role is in, if any.
pub async fn cancel(
    connection: &mut PgConnection,
    backend_process_id: i32,
) -> Result<(), StoreError> {
    crate::database::cancel(connection, backend_process_id)
        .await
        .doing("cancel a statement")
}
