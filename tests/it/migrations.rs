//! Each migration is applied to a database that already holds rows.

use sqlx::{AssertSqlSafe, Connection};
use swr_sync::database::{Database, DatabaseError, MIGRATOR};

use super::support::database::TestDatabase;

/// Rows that could be there after a migration, for the next ones to meet.
fn sample_rows(version: i64) -> &'static str {
    match version {
        1 => {
            "insert into swr.instance (swr_instance_id, project_id, endpoint, first_seen_at)
                 values ('i', 'p', 'https://swr.example', '2026-01-01Z');
             insert into swr.namespace (instance_id, namespace_id, name) values (1, 1, 'team');
             insert into swr.repository (instance_id, repository_id, namespace_id, namespace_name, name)
                 values (1, -2, 1, 'team', 'app/api');
             insert into swr.artifact (instance_id, artifact_id, repository_id, size_bytes, pushed_at, first_seen_run_id, digest)
                 values (1, 3, -2, 1000, '2026-01-01Z', 1, 'sha256:aa'), (1, 4, -2, 10, '2026-01-02Z', 1, 'sha256:bb');
             insert into swr.tag (instance_id, repository_id, name, artifact_id) values (1, -2, 'latest', 4);
             insert into swr.tag_history
                 (instance_id, repository_id, name, valid_from, valid_to, artifact_id, opened_run_id, digest)
                 values (1, -2, 'latest', '2026-01-01Z', '2026-01-02Z', 3, 1, 'sha256:aa'),
                        (1, -2, 'latest', '2026-01-02Z', null, 4, 1, 'sha256:bb');"
        }
        2 => {
            "insert into swr.command values (1, '00000000-0000-0000-0000-00000000000c', 'RUN true');
             insert into swr.layer values (900, 1, '00000000-0000-0000-0000-00000000000d', 'sha256:dd');
             insert into swr.build_step (instance_id, build_step_id, command_id, layer_id, empty_layer)
                 values (1, '00000000-0000-0000-0000-00000000000e', '00000000-0000-0000-0000-00000000000c',
                         '00000000-0000-0000-0000-00000000000d', false);
             insert into swr.manifest (instance_id, digest, outcome, attempts, attempted_at, build_step_ids)
                 values (1, 'sha256:aa', 'stored', 1, '2026-01-01Z', '{00000000-0000-0000-0000-00000000000e}');
             insert into swr.manifest (instance_id, digest, outcome, attempts, attempted_at, next_attempt_at)
                 values (1, 'sha256:bb', 'failed', 1, '2026-01-01Z', '2026-01-01Z');"
        }
        3 => {
            "insert into swr.sync_run (instance_id, outcome, started_at, listing_started_at, published_at, updated_at,
                                       program_version, host, process_id)
                 values (1, 'published', '2026-01-02Z', '2026-01-02Z', '2026-01-02Z', '2026-01-02Z', '0', 'h', 1);"
        }
        _ => "",
    }
}

/// Every table and view of both schemas, with its rows.
const EVERYTHING: &str = "
    select table_schema || '.' || table_name
    from information_schema.tables
    where table_schema in ('swr', 'swr_report') and table_name <> '_sqlx_migrations'
    order by 1";

/// A table or view, with its columns.
type Table = (String, String);

async fn tables(database: &TestDatabase) -> Vec<Table> {
    let mut tables = Vec::new();
    for table in database.snapshot(EVERYTHING).await.lines() {
        let columns = format!(
            "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
             where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped
               -- Measured against now.
               and attname <> 'age'"
        );
        tables.push((table.to_owned(), database.snapshot(&columns).await));
    }
    tables
}

/// The rows of these columns.
async fn contents(database: &TestDatabase, tables: &[Table]) -> Vec<String> {
    let mut contents = Vec::new();
    for (table, columns) in tables {
        let select = format!("select {columns} from {table} order by {columns}");
        contents.push(database.snapshot(&select).await);
    }
    contents
}

#[tokio::test]
async fn each_migration_keeps_the_rows_and_columns_that_were_there() {
    let database = TestDatabase::create_empty().await;
    for migration in MIGRATOR.iter() {
        let tables = tables(&database).await;
        let before = contents(&database, &tables).await;
        let mut connection = database.connect().await;
        MIGRATOR
            .run_to(migration.version, &mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        let after = contents(&database, &tables).await;
        for ((table, before), after) in tables.iter().zip(&before).zip(&after) {
            assert_eq!(before, after, "{table:?} after {}", migration.version);
        }
        let mut connection = database.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sample_rows(migration.version)))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
    // The last one made the views, which show what was there before them.
    let rows = |view: &str| format!("select * from swr_report.{view}");
    for view in [
        "artifact",
        "tag",
        "build_history",
        "storage_by_repository",
        "tag_move",
        "history_failure",
        "freshness",
    ] {
        assert_ne!(database.snapshot(&rows(view)).await, "", "{view}");
    }
}

#[tokio::test]
async fn a_database_is_migrated_once_and_knows_it() {
    let database = TestDatabase::create_empty().await;
    let program = Database::from_url(database.url()).unwrap();
    let known = MIGRATOR.iter().count();
    let error = program.check().await.unwrap_err();
    assert!(
        matches!(error, DatabaseError::MigrationNeeded { missing, .. } if missing == known),
        "{error}"
    );
    assert_eq!(program.migrate().await.unwrap(), known);
    assert_eq!(program.migrate().await.unwrap(), 0);
    program.check().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let database = TestDatabase::create().await;
    let newer =
        "insert into swr._sqlx_migrations (version, description, success, checksum, execution_time)
                 values (9999, 'from the future', true, '', 0)";
    database.snapshot(newer).await;
    let program = Database::from_url(database.url()).unwrap();
    for result in [program.check().await, program.migrate().await.map(|_| ())] {
        let error = result.unwrap_err();
        assert!(
            matches!(error, DatabaseError::NewerSchema { version: 9999 }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_failed_migration_does_not_block_the_next_attempt() {
    let database = TestDatabase::create_empty().await;
    // In the way of the first migration.
    database.snapshot("create schema swr").await;
    database
        .snapshot("create table swr.layer (size_bytes int)")
        .await;
    let program = Database::from_url(database.url()).unwrap();
    let error = program.migrate().await.unwrap_err();
    assert!(matches!(error, DatabaseError::Migration(_)), "{error}");
    database.snapshot("drop table swr.layer").await;
    program.migrate().await.unwrap();
    program.check().await.unwrap();
}
