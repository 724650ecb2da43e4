//! Applies each migration to a database that already has rows.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection};
use swr_emulator::World;
use swr_sync::database::{Database, DatabaseError, MIGRATOR};

use super::support::database::TestDatabase;
use super::support::mirror::{Mirror, start_of_time};

/// Rows that can exist after a migration, as input of the next ones.
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
                        (1, -2, 'latest', '2026-01-02Z', null, 4, 1, 'sha256:bb');
             insert into swr.command values (1, '00000000-0000-0000-0000-00000000000c', 'RUN true');
             insert into swr.layer values (900, 1, '00000000-0000-0000-0000-00000000000d', 'sha256:dd');
             insert into swr.build_step (instance_id, build_step_id, command_id, layer_id, empty_layer)
                 values (1, '00000000-0000-0000-0000-00000000000e', '00000000-0000-0000-0000-00000000000c',
                         '00000000-0000-0000-0000-00000000000d', false);
             insert into swr.manifest (instance_id, digest, outcome, attempts, attempted_at, layer_bytes, build_step_ids,
                                       layer_ids, chain_ids)
                 values (1, 'sha256:aa', 'stored', 1, '2026-01-01Z', 900, '{00000000-0000-0000-0000-00000000000e}',
                         '{00000000-0000-0000-0000-00000000000d}', '{00000000-0000-0000-0000-00000000000f}');
             insert into swr.manifest (instance_id, digest, outcome, attempts, attempted_at, next_attempt_at)
                 values (1, 'sha256:bb', 'failed', 1, '2026-01-01Z', '2026-01-01Z');
             insert into swr.sync_run (instance_id, outcome, started_at, listing_started_at, published_at, updated_at,
                                       program_version, host, process_id)
                 values (1, 'published', '2026-01-02Z', '2026-01-02Z', '2026-01-02Z', '2026-01-02Z', '0', 'h', 1);"
        }
        _ => "",
    }
}

/// Every table and view of both schemas, with its columns.
const TABLES: &str = "
    select c.oid::regclass, string_agg(quote_ident(a.attname), ', ' order by a.attnum)
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
      and c.relkind in ('r', 'v') and c.relname <> '_sqlx_migrations'
      -- Measured against now.
      and a.attname <> 'age'
    group by c.oid
    order by 1";

/// The interface for users, one item on each line: columns with position and type, keys, and signatures of
/// functions. A column may become `not null`, because that breaks no reader.
const SHAPE: &str = "
    select format('%s %s: %s %s', c.relkind, c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod))
           || format(', column %s', a.attnum)
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
      and c.relkind in ('r', 'v')
    union all
    select format('%s: %s', conrelid::regclass, pg_get_constraintdef(oid))
    from pg_constraint
    where connamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
      and contype in ('p', 'u')
    union all
    select format('%s returns %s', p.oid::regprocedure, pg_get_function_result(p.oid))
           || format(' given %s', pg_get_function_arguments(p.oid))
    from pg_proc p
    where p.pronamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
    order by 1";

/// The rows of these columns, with the name of the table or view before each.
async fn contents(database: &TestDatabase, tables: &str) -> String {
    let queries = tables.lines().map(|line| {
        let (table, columns) = line.split_once(" | ").unwrap();
        format!("select '{table}', q::text from (select {columns} from {table}) q")
    });
    let queries: Vec<String> = queries.collect();
    match queries.is_empty() {
        true => String::new(),
        false => {
            let all = queries.join(" union all ");
            database.snapshot(&format!("{all} order by 1, 2")).await
        }
    }
}

#[tokio::test]
async fn each_migration_keeps_the_rows_and_columns_that_were_there() {
    let database = TestDatabase::create_empty().await;
    for migration in MIGRATOR.iter() {
        let version = migration.version;
        let tables = database.snapshot(TABLES).await;
        let shape = database.snapshot(SHAPE).await;
        let before = contents(&database, &tables).await;
        let mut connection = database.connect().await;
        MIGRATOR.run_to(version, &mut connection).await.unwrap();

        let after = database.snapshot(SHAPE).await;
        let after: BTreeSet<&str> = after.lines().collect();
        let changed: Vec<&str> = shape.lines().filter(|line| !after.contains(line)).collect();
        assert!(changed.is_empty(), "{version} changes {changed:#?}");
        assert_eq!(
            contents(&database, &tables).await,
            before,
            "after {version}"
        );

        sqlx::raw_sql(AssertSqlSafe(sample_rows(version)))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
    // The last migration created the views. They show the rows from before.
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
async fn a_failed_migration_does_not_block_the_next_attempt() {
    let database = TestDatabase::create_empty().await;
    // An object that makes the first migration fail.
    database.snapshot("create schema swr").await;
    database
        .snapshot("create table swr.layer (size_bytes int)")
        .await;
    let program = Database::from_url(database.url()).unwrap();
    let error = program.migrate().await.unwrap_err();
    assert!(matches!(error, DatabaseError::Migration { .. }), "{error}");
    database.snapshot("drop table swr.layer").await;
    program.migrate().await.unwrap();
    program.check().await.unwrap();
}

/// An earlier version did not have one of the current columns, and stored its values in `extra`.
#[tokio::test]
async fn a_key_that_moves_out_of_extra_changes_no_artifact() {
    let mirror = Mirror::new(World::generate(7, 40, start_of_time())).await;
    mirror.sync().await;
    let as_it_was = "update swr.artifact
                     set extra = coalesce(extra, '{}') || jsonb_build_object('manifest_media_type', manifest_media_type),
                         manifest_media_type = null
                     where manifest_media_type is not null";
    mirror.snapshot(as_it_was).await;
    let moved = "select count(*) > 30 from swr.artifact where extra ? 'manifest_media_type'";
    assert_eq!(mirror.snapshot(moved).await, "t");
    let contributing = include_str!("../../CONTRIBUTING.md");
    let (_, after) = contributing
        .split_once("```sql\nupdate swr.artifact")
        .unwrap();
    let (migration, _) = after.split_once("```").unwrap();
    mirror
        .snapshot(&format!("update swr.artifact{migration}"))
        .await;
    mirror.sync().await;
    let changes = "select count(*) from swr.artifact_change";
    assert_eq!(mirror.snapshot(changes).await, "0");
}
