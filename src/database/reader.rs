//! Read-only SQL, for reports and for queries of the user.

use std::time::Duration;

use sqlx::postgres::PgColumn;
use sqlx::{
    AssertSqlSafe, Column, Connection, Executor, PgConnection, Postgres, Row, SqlSafeStr,
    Statement, Transaction, TypeInfo, ValueRef,
};

use super::{SqlError, with_timeout};

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    pub name: String,
    /// Type of the values.
    pub kind: ColumnKind,
}

impl ResultColumn {
    /// A column of text.
    pub fn text(name: &str) -> ResultColumn {
        ResultColumn {
            name: name.to_owned(),
            kind: ColumnKind::Text,
        }
    }

    /// A column of numbers.
    pub fn number(name: &str) -> ResultColumn {
        ResultColumn {
            name: name.to_owned(),
            kind: ColumnKind::Number,
        }
    }
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
    /// Arrays.
    List,
    /// Points in time, in the session's time zone.
    Time,
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

    /// Sets the time zone that times are shown in; an unknown one is an error.
    pub async fn set_time_zone(&mut self, zone: &str) -> Result<(), ReadError> {
        let set = sqlx::query_scalar!("select set_config('timezone', $1, false)", zone);
        step(self.limit, set.fetch_one(&mut self.connection)).await?;
        Ok(())
    }

    /// The connection, for statements of the store.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Closes the connection.
    pub async fn close(self) {
        // Nothing is pending on it.
        let _ = with_timeout(self.limit, self.connection.close()).await;
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
    pub async fn read(&mut self, sql: &str, sink: &mut dyn RowSink) -> Result<(), ReadError> {
        self.run(sql, Shape::Columns, sink).await
    }

    /// The same, but each row is one value: an object, as PostgreSQL's `row_to_json` writes it.
    pub async fn read_as_json(
        &mut self,
        sql: &str,
        sink: &mut dyn RowSink,
    ) -> Result<(), ReadError> {
        self.run(sql, Shape::Json, sink).await
    }

    /// Number of rows of a query.
    pub async fn count(&mut self, sql: &str) -> Result<u64, ReadError> {
        /// The last value, which is the only one.
        struct Count(u64);
        impl RowSink for Count {
            fn columns(&mut self, _: Vec<ResultColumn>) -> std::io::Result<()> {
                Ok(())
            }
            fn row(&mut self, values: &[Option<&str>]) -> std::io::Result<()> {
                let count = values.first().copied().flatten();
                self.0 = count.and_then(|count| count.parse().ok()).unwrap_or(0);
                Ok(())
            }
        }
        let mut count = Count(0);
        let sql = format!("select count(*) from ({}\n) as result", one_statement(sql));
        self.run(&sql, Shape::Columns, &mut count).await?;
        Ok(count.0)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the only place for SQL that is not known at compile time"
    )]
    async fn run(
        &mut self,
        sql: &str,
        shape: Shape,
        sink: &mut dyn RowSink,
    ) -> Result<(), ReadError> {
        let Snapshot { transaction, limit } = self;
        let limit = *limit;
        let sql = one_statement(sql);
        // Prepared, so that the server accepts one statement only; a result
        // without rows also gets its columns from here.
        let prepare = transaction.prepare(AssertSqlSafe(sql).into_sql_str());
        let statement = step(limit, prepare).await?;
        sink.columns(statement.columns().iter().map(result_column).collect())?;
        let query = match shape {
            Shape::Columns => sql.to_owned(),
            // A comment may end the query.
            Shape::Json => format!("select row_to_json(result) from ({sql}\n) as result"),
        };
        let declare = format!("declare swr_result no scroll cursor for {query}");
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

/// How the rows of a result are passed on.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// One value for each column.
    Columns,
    /// One JSON object for each row.
    Json,
}

fn one_statement(sql: &str) -> &str {
    sql.trim().trim_end_matches(';').trim_end()
}

async fn step<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, ReadError> {
    with_timeout(limit, work)
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
            "TIMESTAMPTZ" => ColumnKind::Time,
            name if name.ends_with("[]") => ColumnKind::List,
            _ => ColumnKind::Text,
        },
    }
}
