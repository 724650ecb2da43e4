//! One writer per instance: a session advisory lock.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, Executor};

use super::{Session, StoreError};

/// First half of the key of the advisory lock: "SWRS" in ASCII. The second half is the instance.
pub(super) const LOCK_CLASS: i32 = 0x5357_5253;

/// Timeout for unlock and disconnect. If the connection is lost, the server releases the lock.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// The lock of one instance, and the session that holds it.
///
/// Functions that must not run concurrently take this value and use its session. If the connection is
/// lost, the lock is released, and nothing more can be written.
#[derive(Debug)]
pub struct InstanceLock {
    session: Session<'static>,
    instance_id: i32,
    backend_process_id: i32,
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockHolder {
    /// A run whose row has the session's process.
    Run {
        host: String,
        /// The process id on that host.
        process_id: i32,
        run_id: i64,
        /// When it started.
        since: DateTime<Utc>,
    },
    /// A session that is in no run's row: another program, or a run that is about to write its row.
    /// PostgreSQL shows the address and start of other roles' sessions only to members of
    /// `pg_read_all_stats`.
    Session {
        /// The server process of the session.
        backend_process_id: i32,
        role: Option<String>,
        /// The name that the client has set.
        application_name: Option<String>,
        /// The client's address; `None` also for a connection through the server's Unix socket.
        client_address: Option<String>,
        /// When it connected.
        since: Option<DateTime<Utc>>,
    },
}

impl LockHolder {
    /// Whether it is a run, according to its row or, before the row is written, to the name of the client.
    pub fn is_run(&self) -> bool {
        match self {
            LockHolder::Run { .. } => true,
            LockHolder::Session {
                application_name, ..
            } => {
                let name = application_name.as_deref().unwrap_or_default();
                name.starts_with(crate::database::APPLICATION)
            }
        }
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TIME: &str = "%Y-%m-%d %H:%M:%S UTC";
        match self {
            LockHolder::Run {
                host,
                process_id,
                run_id,
                since,
            } => write!(
                f,
                "run {run_id} on {host}, process {process_id}, since {}",
                since.format(TIME)
            ),
            LockHolder::Session {
                backend_process_id,
                role,
                application_name,
                client_address,
                since,
            } => {
                write!(f, "database session {backend_process_id}")?;
                if let Some(role) = role {
                    write!(f, " of role `{role}`")?;
                }
                if let Some(name) = application_name.as_deref().filter(|name| !name.is_empty()) {
                    write!(f, ", application `{name}`")?;
                }
                match (since, client_address) {
                    (None, _) => f.write_str(
                        " (pg_read_all_stats is needed to see from which address and since when)",
                    ),
                    (Some(since), address) => {
                        let address = address.as_deref().unwrap_or("a local socket");
                        write!(
                            f,
                            ", from {address}, connected since {}",
                            since.format(TIME)
                        )
                    }
                }
            }
        }
    }
}

/// The result of an attempt to take a lock.
#[derive(Debug)]
pub enum LockAttempt {
    Taken(InstanceLock),
    /// Another session holds the lock.
    Held {
        /// The session, for the next attempt.
        session: Session<'static>,
        /// `None` if the lock was released in the meantime.
        holder: Option<LockHolder>,
    },
}

impl InstanceLock {
    /// Tries to take the lock without waiting. A waiting statement would hold its snapshot, and vacuum
    /// could not remove dead rows of the active run.
    pub async fn attempt(
        mut session: Session<'static>,
        instance_id: i32,
    ) -> Result<LockAttempt, StoreError> {
        let query = sqlx::query!(
            r#"select pg_try_advisory_lock($1, $2) as "is_ours!", pg_backend_pid() as "backend_process_id!""#,
            LOCK_CLASS,
            instance_id
        );
        let taken = session
            .fetch_one("take the lock of the instance", query)
            .await?;
        if taken.is_ours {
            return Ok(LockAttempt::Taken(InstanceLock {
                session,
                instance_id,
                backend_process_id: taken.backend_process_id,
            }));
        }
        let holder = holder(&mut session, instance_id).await?;
        Ok(LockAttempt::Held { session, holder })
    }

    pub fn instance_id(&self) -> i32 {
        self.instance_id
    }

    /// The server process of the session, to cancel its statement.
    pub fn backend_process_id(&self) -> i32 {
        self.backend_process_id
    }

    /// Cleans up after a statement whose future was dropped. If its answer is an error, the next
    /// statement would return it. If it was the begin of a transaction, sqlx does not know about the
    /// transaction, and the next writes would be part of it.
    pub async fn settle(&mut self) {
        let connection = self.session.connection();
        // If the connection is lost, the next statement fails too.
        let _ = connection.ping().await;
        // Usually there is no transaction. Suppress the server's warning about that.
        let _ = connection.execute("set client_min_messages = error").await;
        let _ = connection.execute("rollback").await;
    }

    /// Releases the lock, and closes its connection.
    pub async fn release(mut self) {
        // Without an explicit unlock, the server releases the lock only when it detects the end of
        // the connection, and a run that starts immediately could find it taken. Errors are ignored
        // because a lost connection releases the lock. The timeout is for a database that does not
        // answer: it must not delay the exit of the program.
        let releasing = async {
            let query = sqlx::query!(
                "select pg_advisory_unlock($1, $2)",
                LOCK_CLASS,
                self.instance_id
            )
            .map(|row| row.pg_advisory_unlock);
            let _ = self.session.fetch_one("release the lock", query).await;
            self.session.close().await;
        };
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, releasing).await;
    }
}

impl Deref for InstanceLock {
    type Target = Session<'static>;

    fn deref(&self) -> &Session<'static> {
        &self.session
    }
}

impl DerefMut for InstanceLock {
    fn deref_mut(&mut self) -> &mut Session<'static> {
        &mut self.session
    }
}

/// The holder of the lock of an instance; `None` if it is free.
pub(super) async fn holder(
    session: &mut Session<'_>,
    instance_id: i32,
) -> Result<Option<LockHolder>, StoreError> {
    let query = sqlx::query!(
        r#"select
               l.pid as "backend_process_id!",
               a.usename::text as role,
               a.application_name,
               host(a.client_addr) as client_address,
               a.backend_start as connected_since,
               r.host as "host?", r.process_id as "process_id?", r.run_id as "run_id?", r.started_at as "since?"
           from pg_locks l
           left join pg_stat_activity a on a.pid = l.pid
           left join lateral (
               select host, process_id, run_id, started_at
               from swr.sync_run
               where instance_id = $2 and outcome = 'running' and backend_process_id = l.pid
               order by run_id desc
               limit 1
           ) r on true
           where l.locktype = 'advisory' and l.granted and l.objsubid = 2
             and l.database = (select oid from pg_database where datname = current_database())
             and l.classid::bigint = $1 and l.objid::bigint = $2
           order by l.pid
           limit 1"#,
        i64::from(LOCK_CLASS),
        instance_id
    );
    let row = session
        .fetch_optional("read the holder of the lock of the instance", query)
        .await?;
    Ok(row.map(
        |row| match (row.host, row.process_id, row.run_id, row.since) {
            (Some(host), Some(process_id), Some(run_id), Some(since)) => LockHolder::Run {
                host,
                process_id,
                run_id,
                since,
            },
            _ => LockHolder::Session {
                backend_process_id: row.backend_process_id,
                role: row.role,
                application_name: row.application_name,
                client_address: row.client_address,
                since: row.connected_since,
            },
        },
    ))
}

/// Fails unless this session holds the lock of the instance.
///
/// A statement over a lost connection fails anyway. But a pooler in transaction mode hides the loss: it
/// switches to another session. Then another run may be active, or a restart of the server may have
/// emptied the staging tables.
pub(super) async fn check_held(
    session: &mut Session<'_>,
    instance_id: i32,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        r#"select exists (
               select from pg_locks
               where locktype = 'advisory' and pid = pg_backend_pid() and granted
                 and classid::bigint = $1 and objid::bigint = $2 and objsubid = 2
           ) as "is_held!""#,
        i64::from(LOCK_CLASS),
        i64::from(instance_id)
    )
    .map(|row| row.is_held);
    let is_held = session
        .fetch_one("check that the lock is still held", query)
        .await?;
    if is_held {
        Ok(())
    } else {
        Err(StoreError::LockLost)
    }
}
