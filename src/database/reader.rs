//! Read-only SQL, for reports and for queries of the user.

use std::time::Duration;

use sqlx::postgres::PgColumn;
use sqlx::{
    AssertSqlSafe, Column, Connection, Executor, PgConnection, Postgres, Row, SqlSafeStr,
    Statement, Transaction, TypeInfo, ValueRef,
};

use super::{SqlError, within};

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    pub name: String,
    /// Type of the values.
    pub kind: ColumnKind,
}

/// How the values of a column are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Numbers.
    Number,
    /// `t` or `f`.
    Boolean,
    /// JSON documents.
    Json,
    /// All other types, in PostgreSQL's text format.
    Text,
}

/// Receives a result row by row.
pub trait RowSink {
    /// The columns; called once, before all rows.
    fn columns(&mut self, columns: Vec<ResultColumn>) -> std::io::Result<()>;
    /// A row's values in PostgreSQL's text format; `None` is NULL.
    fn row(&mut self, values: &[Option<&str>]) -> std::io::Result<()>;
}

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database rejected it.
    #[error("the query failed: {0}")]
    Query(#[source] SqlError),
    /// No response within the timeout.
    #[error("the query failed: no answer from the database within {}", humantime::format_duration(*limit))]
    Silent {
        /// The timeout.
        limit: Duration,
    },
    /// The result could not be written.
    #[error("cannot write the result")]
    Output(#[from] std::io::Error),
}

/// Number of rows to fetch at once: limits the memory for a large result.
const FETCH: &str = "fetch 1000 from swr_result";

/// A connection for reading, with a timeout for each step of a query.
///
/// The time in which the consumer processes rows does not count; for that, the server
/// waits up to an hour.
#[derive(Debug)]
pub struct Reader {
    connection: PgConnection,
    limit: Duration,
}

impl Reader {
    pub(super) fn new(connection: PgConnection, limit: Duration) -> Reader {
        Reader { connection, limit }
    }

    /// Starts a read-only transaction, in which all queries see the database as it was at the
    /// first of them.
    pub async fn snapshot(&mut self) -> Result<Snapshot<'_>, ReadError> {
        let Reader { connection, limit } = self;
        let limit = *limit;
        let begin = connection.begin_with("begin isolation level repeatable read read only");
        let transaction = step(limit, begin).await?;
        Ok(Snapshot { transaction, limit })
    }

    /// Runs one query in its own transaction; see [`Snapshot::read`].
    pub async fn read(&mut self, sql: &str, sink: &mut dyn RowSink) -> Result<(), ReadError> {
        let mut snapshot = self.snapshot().await?;
        snapshot.read(sql, sink).await?;
        snapshot.end().await
    }

    /// The connection, for statements of the store.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Closes the connection.
    pub async fn close(self) {
        // Nothing is pending on it.
        let _ = within(self.limit, self.connection.close()).await;
    }
}

/// A read-only transaction whose queries all see the same data.
pub struct Snapshot<'c> {
    transaction: Transaction<'c, Postgres>,
    limit: Duration,
}

impl Snapshot<'_> {
    /// Runs one query and passes its rows to `sink`.
    ///
    /// The query is declared as a cursor, so it must be one `select`, `with`, `table` or
    /// `values`, and the database rejects anything that writes.
    #[expect(
        clippy::disallowed_methods,
        reason = "the only place for SQL that is not known at compile time"
    )]
    pub async fn read(&mut self, sql: &str, sink: &mut dyn RowSink) -> Result<(), ReadError> {
        let Snapshot { transaction, limit } = self;
        let limit = *limit;
        let sql = sql.trim().trim_end_matches(';').trim_end();
        // Prepared, so that the server accepts one statement only; a result
        // without rows also gets its columns from here.
        let prepare = transaction.prepare(AssertSqlSafe(sql).into_sql_str());
        let statement = step(limit, prepare).await?;
        sink.columns(statement.columns().iter().map(result_column).collect())?;
        let declare = format!("declare swr_result no scroll cursor for {sql}");
        let declare = sqlx::query(AssertSqlSafe(declare)).execute(&mut **transaction);
        step(limit, declare).await?;
        // Not prepared and without parameters: values arrive as text, regardless of their types.
        loop {
            let fetch = sqlx::raw_sql(FETCH).fetch_all(&mut **transaction);
            let rows = step(limit, fetch).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let values: Vec<_> = (0..row.columns().len())
                    .map(|index| row.try_get_raw(index))
                    .collect::<Result<_, _>>()
                    .map_err(SqlError)
                    .map_err(ReadError::Query)?;
                let texts: Vec<Option<&str>> = values
                    .iter()
                    .map(|value| {
                        if value.is_null() {
                            Ok(None)
                        } else {
                            value.as_str().map(Some)
                        }
                    })
                    .collect::<Result<_, _>>()
                    .map_err(|error| ReadError::Query(SqlError(sqlx::Error::Decode(error))))?;
                sink.row(&texts)?;
            }
        }
        step(limit, transaction.execute("close swr_result")).await?;
        Ok(())
    }

    /// Ends the transaction.
    pub async fn end(self) -> Result<(), ReadError> {
        step(self.limit, self.transaction.rollback()).await
    }
}

async fn step<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, ReadError> {
    within(limit, work)
        .await
        .ok_or(ReadError::Silent { limit })?
        .map_err(|error| ReadError::Query(error.into()))
}

fn result_column(column: &PgColumn) -> ResultColumn {
    ResultColumn {
        name: column.name().to_owned(),
        kind: match column.type_info().name() {
            "INT2" | "INT4" | "INT8" | "FLOAT4" | "FLOAT8" | "NUMERIC" | "OID" => {
                ColumnKind::Number
            }
            "BOOL" => ColumnKind::Boolean,
            "JSON" | "JSONB" => ColumnKind::Json,
            _ => ColumnKind::Text,
        },
    }
}
