//! One writer per instance: a session advisory lock.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, Executor};

use super::{Session, StoreError};

/// First half of the lock's key, the second is the instance: "SWRS" in ASCII.
pub(super) const LOCK_CLASS: i32 = 0x5357_5253;

/// Limit for giving the lock back; a lost connection gives it back by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// The lock of one instance, and the session that holds it.
///
/// Whatever must not happen twice at a time asks for this value, and uses its session: a lost
/// connection has lost the lock, and can write nothing more.
#[derive(Debug)]
pub struct InstanceLock {
    session: Session<'static>,
    instance_id: i32,
    backend_process_id: i32,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockHolder {
    /// A run: its row names the session.
    Run {
        /// The machine.
        host: String,
        /// The process there.
        process_id: i32,
        /// The run.
        run_id: i64,
        /// When it started.
        since: DateTime<Utc>,
    },
    /// A session that no run's row names: another program, or a run that is about to write its
    /// row. PostgreSQL shows address and start of other roles' sessions to members of
    /// `pg_read_all_stats` only.
    Session {
        /// The server's process.
        backend_process_id: i32,
        /// The role.
        role: Option<String>,
        /// What the client calls itself.
        application_name: Option<String>,
        /// Where it connected from; `None` through the server's socket too.
        client_address: Option<String>,
        /// When it connected.
        since: Option<DateTime<Utc>>,
    },
}

impl LockHolder {
    /// Whether it is a run, by its row or, before that is written, by what the client calls itself.
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

/// What came of trying to take a lock.
#[derive(Debug)]
pub enum LockAttempt {
    /// It is ours.
    Taken(InstanceLock),
    /// Somebody else has it.
    Held {
        /// The session, to try again.
        session: Session<'static>,
        /// Who it is; `None` if the lock was released meanwhile.
        holder: Option<LockHolder>,
    },
}

impl InstanceLock {
    /// Tries to take the lock. It does not wait: a statement that did would keep its snapshot,
    /// and with it the server from cleaning up behind the run that is going on.
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

    /// The instance that is locked.
    pub fn instance_id(&self) -> i32 {
        self.instance_id
    }

    /// The server's process behind the session, to cancel its statement.
    pub fn backend_process_id(&self) -> i32 {
        self.backend_process_id
    }

    /// Takes in the answer to a statement that was cut short: if that is an error, the next
    /// statement would get it. If it was the begin of a transaction, sqlx does not know that the
    /// server is in one, and what is written next would go with it.
    pub async fn settle(&mut self) {
        let connection = self.session.connection();
        // A connection that is lost shows in the next statement too.
        let _ = connection.ping().await;
        // Mostly there is no transaction, and the server's warning of that is nobody's business.
        let _ = connection.execute("set client_min_messages = error").await;
        let _ = connection.execute("rollback").await;
    }

    /// Gives the lock back, and closes its connection.
    pub async fn release(mut self) {
        // The server frees the lock with the connection, but not before it notices its end: a run
        // that starts at once must not find it taken. A lost connection has lost the lock too.
        // A database that does not answer must not hold up the end of the program.
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

/// Who holds the lock of an instance; `None` if nobody does.
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
        .fetch_optional("see who holds the lock of the instance", query)
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

/// Fails unless this very session holds the lock of the instance.
///
/// A connection that was lost says so by itself. A pooler in transaction mode hides it, though: it
/// hands out another session, and behind it another run may go on, or a restart of the server may
/// have emptied the staging tables.
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
        .fetch_one("see whether the lock is still held", query)
        .await?;
    if is_held {
        Ok(())
    } else {
        Err(StoreError::LockLost)
    }
}
