//! Read-only SQL: for reports, and for whatever the user types.

use sqlx::postgres::PgColumn;
use sqlx::{
    AssertSqlSafe, Column, Connection, Executor, PgConnection, Postgres, Row, SqlSafeStr,
    Statement, Transaction, TypeInfo, ValueRef,
};

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultColumn {
    /// The name.
    pub name: String,
    /// The kind of its values.
    pub kind: ColumnKind,
}

/// How a column's values are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Numbers.
    Number,
    /// `t` or `f`.
    Boolean,
    /// JSON documents.
    Json,
    /// Anything else, in PostgreSQL's own text format.
    Text,
}

/// Takes a result row by row.
pub trait RowSink {
    /// The columns; called once, before any row.
    fn columns(&mut self, columns: Vec<ResultColumn>) -> std::io::Result<()>;
    /// A row's values in PostgreSQL's text format; `None` is NULL.
    fn row(&mut self, values: &[Option<&str>]) -> std::io::Result<()>;
}

/// Why a query brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database refused it.
    #[error("the query failed: {}", database_message(.0))]
    Query(#[source] sqlx::Error),
    /// The result could not be written.
    #[error("cannot write the result")]
    Output(#[from] std::io::Error),
}

fn database_message(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

/// Rows fetched at a time: bounds the memory of a large result.
const FETCH: &str = "fetch 1000 from swr_result";

/// Runs one query in a read-only transaction and hands its rows to `sink`.
///
/// See [`Snapshot::read`].
pub async fn read(
    connection: &mut PgConnection,
    sql: &str,
    sink: &mut dyn RowSink,
) -> Result<(), ReadError> {
    let mut snapshot = Snapshot::begin(connection).await?;
    snapshot.read(sql, sink).await?;
    snapshot.end().await
}

/// A read-only transaction whose queries all see the database as it was at the first of them.
pub struct Snapshot<'c>(Transaction<'c, Postgres>);

impl Snapshot<'_> {
    /// Begins it. The views can be named without schema.
    pub async fn begin(connection: &mut PgConnection) -> Result<Snapshot<'_>, ReadError> {
        let mut transaction = connection
            .begin_with("begin isolation level repeatable read read only")
            .await
            .map_err(ReadError::Query)?;
        transaction
            // All rows are wanted, so a plan for the first ones would be the wrong one. Compiling
            // takes longer than running, and sorts and hashes are large.
            .execute(
                "set local search_path = swr_report, swr, public; set local cursor_tuple_fraction = 1;
                 set local jit = off; set local work_mem = '64MB'",
            )
            .await
            .map_err(ReadError::Query)?;
        Ok(Snapshot(transaction))
    }

    /// Runs one query and hands its rows to `sink`.
    ///
    /// The query becomes that of a cursor, so it must be one `select`, `with`, `table` or
    /// `values`, and the database itself refuses anything that writes.
    #[expect(
        clippy::disallowed_methods,
        reason = "the door for SQL that is not known at compile time"
    )]
    pub async fn read(&mut self, sql: &str, sink: &mut dyn RowSink) -> Result<(), ReadError> {
        let Snapshot(transaction) = self;
        let sql = sql.trim().trim_end_matches(';').trim_end();
        // Prepared, so that the server takes one statement and no second one after it; a result
        // without rows has its columns from here too.
        let statement = transaction
            .prepare(AssertSqlSafe(sql).into_sql_str())
            .await
            .map_err(ReadError::Query)?;
        sink.columns(statement.columns().iter().map(result_column).collect())?;
        let declare = format!("declare swr_result no scroll cursor for {sql}");
        sqlx::query(AssertSqlSafe(declare))
            .execute(&mut **transaction)
            .await
            .map_err(ReadError::Query)?;
        // Neither prepared nor with parameters: values arrive as text, whatever their types.
        loop {
            let rows = sqlx::raw_sql(FETCH)
                .fetch_all(&mut **transaction)
                .await
                .map_err(ReadError::Query)?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let values: Vec<_> = (0..row.columns().len())
                    .map(|index| row.try_get_raw(index))
                    .collect::<Result<_, _>>()
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
                    .map_err(|error| ReadError::Query(sqlx::Error::Decode(error)))?;
                sink.row(&texts)?;
            }
        }
        transaction
            .execute("close swr_result")
            .await
            .map(drop)
            .map_err(ReadError::Query)
    }

    /// Ends it.
    pub async fn end(self) -> Result<(), ReadError> {
        self.0.rollback().await.map_err(ReadError::Query)
    }
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
