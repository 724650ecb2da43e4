//! A database session. Each statement has a timeout, is registered with the watchdog, and is named in
//! its error.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::{Map, Query};
use sqlx::{Connection as _, PgConnection, Transaction};

use super::StoreError;
use super::copy::CopyRows;
use crate::activity::{Activity, InProgress};
use crate::database::{self, Database, DatabaseError};

/// A session, or a transaction in it. `doing` completes "cannot …" in the error of a statement.
#[derive(Debug)]
pub struct Session<'c> {
    connection: Connection<'c>,
    /// The timeout of each statement.
    limit: Duration,
    activity: Activity,
}

#[derive(Debug)]
enum Connection<'c> {
    Owned(PgConnection),
    Borrowed(&'c mut PgConnection),
    /// Rolled back when it is dropped.
    Transaction(Transaction<'c, Postgres>),
}

impl Session<'static> {
    /// Connects for writing. The statements are registered with the watchdog of `activity`.
    pub async fn connect(
        database: &Database,
        activity: &Activity,
    ) -> Result<Session<'static>, DatabaseError> {
        Ok(Session {
            connection: Connection::Owned(database.connect_to_write().await?),
            limit: database.timeout(),
            activity: activity.clone(),
        })
    }

    /// Closes the connection. Errors are ignored, because the server detects a lost connection.
    pub async fn close(self) {
        if let Connection::Owned(connection) = self.connection {
            let _ = connection.close().await;
        }
    }
}

impl<'c> Session<'c> {
    /// A session that uses the connection of a reader.
    pub fn over(connection: &'c mut PgConnection, limit: Duration) -> Session<'c> {
        Session {
            connection: Connection::Borrowed(connection),
            limit,
            activity: Activity::default(),
        }
    }

    /// The connection, for statements that `query!` cannot check.
    pub fn connection(&mut self) -> &mut PgConnection {
        match &mut self.connection {
            Connection::Owned(connection) => connection,
            Connection::Borrowed(connection) => connection,
            Connection::Transaction(transaction) => transaction,
        }
    }

    /// Executes a statement, and returns the number of written rows.
    pub(super) async fn execute(
        &mut self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        let step = self.step(doing);
        let done = step.with_timeout(query.execute(self.connection())).await?;
        Ok(done.rows_affected())
    }

    /// Like [`execute`](Session::execute), for a statement that does not count as progress of a run.
    pub(super) async fn execute_heartbeat(
        &mut self,
        doing: &'static str,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<(), StoreError> {
        let step = Step {
            _in_progress: self.activity.begin_heartbeat(self.limit),
            limit: self.limit,
            doing,
        };
        step.with_timeout(query.execute(self.connection())).await?;
        Ok(())
    }

    pub(super) async fn fetch_one<T: Send + Unpin>(
        &mut self,
        doing: &'static str,
        query: Map<'_, Postgres, impl FnMut(PgRow) -> Result<T, sqlx::Error> + Send, PgArguments>,
    ) -> Result<T, StoreError> {
        let step = self.step(doing);
        step.with_timeout(query.fetch_one(self.connection())).await
    }

    pub(super) async fn fetch_optional<T: Send + Unpin>(
        &mut self,
        doing: &'static str,
        query: Map<'_, Postgres, impl FnMut(PgRow) -> Result<T, sqlx::Error> + Send, PgArguments>,
    ) -> Result<Option<T>, StoreError> {
        let step = self.step(doing);
        step.with_timeout(query.fetch_optional(self.connection()))
            .await
    }

    pub(super) async fn fetch_all<T: Send + Unpin>(
        &mut self,
        doing: &'static str,
        query: Map<'_, Postgres, impl FnMut(PgRow) -> Result<T, sqlx::Error> + Send, PgArguments>,
    ) -> Result<Vec<T>, StoreError> {
        let step = self.step(doing);
        step.with_timeout(query.fetch_all(self.connection())).await
    }

    /// Writes rows with a `copy` statement, and returns their number.
    pub(super) async fn copy(
        &mut self,
        doing: &'static str,
        rows: CopyRows,
        statement: &str,
    ) -> Result<u64, StoreError> {
        let step = self.step(doing);
        step.with_timeout(rows.write(self.connection(), statement))
            .await
    }

    /// Begins a transaction. If it is dropped before its commit, it is rolled back.
    pub(super) async fn begin(&mut self, doing: &'static str) -> Result<Session<'_>, StoreError> {
        let (limit, activity) = (self.limit, self.activity.clone());
        let step = self.step(doing);
        let transaction = step.with_timeout(self.connection().begin()).await?;
        Ok(Session {
            connection: Connection::Transaction(transaction),
            limit,
            activity,
        })
    }

    /// Commits the transaction that [`begin`](Session::begin) returned.
    pub(super) async fn commit(self, doing: &'static str) -> Result<(), StoreError> {
        let step = self.step(doing);
        match self.connection {
            Connection::Transaction(transaction) => step.with_timeout(transaction.commit()).await,
            // Outside of a transaction each statement is committed.
            Connection::Owned(_) | Connection::Borrowed(_) => Ok(()),
        }
    }

    fn step(&self, doing: &'static str) -> Step {
        Step {
            _in_progress: self.activity.begin(self.limit),
            limit: self.limit,
            doing,
        }
    }
}

/// One exchange with the server.
struct Step {
    _in_progress: InProgress,
    limit: Duration,
    doing: &'static str,
}

impl Step {
    async fn with_timeout<T>(
        self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let Step { limit, doing, .. } = self;
        match database::with_timeout(limit, work).await {
            Some(answer) => answer.map_err(|error| StoreError::Statement {
                doing,
                source: error.into(),
            }),
            None => Err(StoreError::Silent { doing, limit }),
        }
    }
}
