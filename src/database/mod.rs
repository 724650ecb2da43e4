//! PostgreSQL: connections, migrations, and the embedded server.

#[cfg(feature = "embedded-db")]
pub mod embedded;

use std::borrow::Cow;

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

/// The migrations under `migrations/`. sqlx keeps its own table in the schema `swr` too.
pub static MIGRATOR: Migrator = Migrator {
    table_name: Cow::Borrowed("swr._sqlx_migrations"),
    create_schemas: Cow::Borrowed(&[Cow::Borrowed("swr")]),
    ..sqlx::migrate!()
};

/// Applies the migrations that are missing, over a connection of its own.
///
/// A failed migration leaves sqlx's session lock held, so the connection must
/// not outlive the attempt: it is taken by value and always closed.
pub async fn migrate(mut connection: PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    let result = MIGRATOR.run(&mut connection).await;
    // The server notices a lost connection by itself; nothing is pending on it.
    let _ = connection.close().await;
    result
}
