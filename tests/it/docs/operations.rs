//! Runs the SQL for operators in docs/operations.md.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Executor};
use swr_emulator::{Instance, World};
use swr_sync::clock::Clock;

use super::{read, registry};
use crate::support::database::TestDatabase;
use crate::support::mirror::{Mirror, start_of_time};

const FILE: &str = "docs/operations.md";

/// The SQL block that begins with its name.
fn documented(name: &str) -> String {
    let page = read(FILE);
    let start = format!("```sql\n-- {name}\n");
    let block = page
        .split_once(&start)
        .and_then(|(_, rest)| rest.split_once("\n```"));
    match block {
        Some((sql, _)) => sql.to_owned(),
        None => panic!("{FILE} has no block {name}"),
    }
}

/// Replaces the placeholders that an operator has to change.
fn edited(sql: &str, from: &str, to: &str) -> String {
    assert!(sql.contains(from), "{from} is missing");
    sql.replace(from, to)
}

fn at(time: &str) -> DateTime<Utc> {
    format!("2026-10-14T{time}Z").parse().unwrap()
}

#[tokio::test]
async fn what_may_be_deleted_to_shrink_is_not_missed() {
    let mirror = registry::synced().await;
    mirror.sync_at(at("00:00:00")).await;
    mirror.sync_at(at("00:10:00")).await;
    let counts = async |sql: &str| -> u64 { mirror.database.snapshot(sql).await.parse().unwrap() };
    let sized = [
        "select count(*) from swr.tag_history",
        "select count(*) from swr.artifact",
        "select count(*) from swr.artifact_change",
        "select count(*) from swr.data_issue",
        "select count(*) from swr.verification",
        "select count(*) from swr.sync_run",
        "select count(*) from swr.manifest",
        "select count(*) from swr.build_step",
        "select count(*) from swr.command",
        "select count(*) from swr.layer",
    ];
    // None of the removed artifacts had changed before.
    let change = "
        insert into swr.artifact_change (instance_id, artifact_id, run_id, change, previous)
        select instance_id, artifact_id, 1, 'changed', '{}'
        from swr.artifact
        where removed_at is not null
        limit 1";
    mirror.database.snapshot(change).await;
    let facts = mirror.facts().await;
    let mut before = Vec::new();
    for sql in sized {
        before.push(counts(sql).await);
    }

    let shrink = documented("shrink.sql");
    let shrink = edited(
        &shrink,
        "now() - interval '1 year'",
        "timestamptz '2026-10-20'",
    );
    mirror.database.snapshot(&shrink).await;

    for (sql, before) in sized.iter().zip(before) {
        let after = counts(sql).await;
        assert!(after < before, "{sql}: {before} before, {after} after");
    }
    assert_eq!(mirror.facts().await, facts);

    let report = mirror.sync_at(at("00:20:00")).await;
    let counters = &report.counters;
    assert_eq!(counters.histories_fetched, 0);
    assert_eq!(
        counters.artifacts_unchanged, counters.artifacts_listed,
        "{counters:?}"
    );
    assert_eq!(
        (
            counters.tags_new,
            counters.tags_moved,
            counters.tags_removed
        ),
        (0, 0, 0)
    );
    assert_eq!(mirror.facts().await, facts);
    let writes = mirror.writes().await;
    mirror.sync_at(at("00:30:00")).await;
    assert_eq!(mirror.writes().await, writes);

    registry::verify_at(&mirror, at("00:40:00")).await;
    let verdict = "select outcome from swr.verification order by run_id desc limit 1";
    assert_eq!(mirror.database.snapshot(verdict).await, "intact");
}

#[tokio::test]
async fn what_artifacts_share_is_counted_again_after_the_documented_statements() {
    let mirror = registry::synced().await;
    let verify = async |time: &str| {
        registry::verify_at(&mirror, at(time)).await;
        let found = "select distinct table_name from swr.verification_difference where verdict = 'corrupt' order by 1";
        mirror.database.snapshot(found).await
    };
    let shared = "select 'a', t::text from swr.artifact_layering t
                  union all select 'r', t::text from swr.repository_layering t
                  union all select 'n', t::text from swr.namespace_layering t
                  order by 1, 2";
    let before = mirror.database.snapshot(shared).await;
    assert_eq!(verify("00:00:00").await, "");
    let corrupt = "
        update swr.artifact_layering set base_chain_id = chain_id where base_chain_id is not null;
        update swr.repository_layering set exclusive_bytes = exclusive_bytes + 1;
        update swr.namespace_layering set layer_count = layer_count - 1";
    mirror.database.snapshot(corrupt).await;
    assert_eq!(
        verify("00:10:00").await,
        "artifact_layering\nnamespace_layering\nrepository_layering"
    );

    mirror.database.snapshot(&documented("recount.sql")).await;
    let report = mirror.sync_at(at("00:20:00")).await;
    assert_eq!(report.counters.histories_fetched, 0);
    assert_eq!(verify("00:30:00").await, "");
    assert_eq!(mirror.database.snapshot(shared).await, before);
}

const RETIRED: &str = "11111111-2222-3333-4444-000000000002";

/// The tables whose rows belong to an instance.
async fn tables(database: &TestDatabase) -> Vec<String> {
    let sql = "
        select c.table_name from information_schema.columns c
        join information_schema.tables t using (table_schema, table_name)
        where c.table_schema = 'swr' and c.column_name = 'instance_id' and t.table_type = 'BASE TABLE'
        order by 1";
    let names = database.snapshot(sql).await;
    names.lines().map(str::to_owned).collect()
}

/// Number and checksum of the rows of an instance, for each table.
async fn rows_of(database: &TestDatabase, instance_id: &str) -> String {
    let mut text = String::new();
    for table in tables(database).await {
        let sql = format!(
            "select count(*), md5(string_agg(t::text, ' ' order by t::text)) from swr.{table} t
             where instance_id = {instance_id}"
        );
        text.push_str(&format!("{table} {}\n", database.snapshot(&sql).await));
    }
    text
}

#[tokio::test]
async fn an_instance_can_be_retired_and_the_others_are_untouched() {
    let world = || World::generate(1, 150, start_of_time());
    let mirror = Mirror::new(world()).await;
    // The same images, so that histories are shared.
    let retired = Instance {
        id: RETIRED.to_owned(),
        name: "retired".to_owned(),
        version: "25.6.0".to_owned(),
        status: "Running".to_owned(),
    };
    mirror.emulator.add_instance(retired, world());
    mirror.sync_instance(RETIRED, Clock::system()).await;
    mirror.sync().await;
    let key = async |id: &str| {
        let sql = format!("select instance_id from swr.instance where swr_instance_id = '{id}'");
        mirror.database.snapshot(&sql).await
    };
    let retired = key(RETIRED).await;
    let other = key(&mirror.emulator.settings().instance_id).await;
    let kept = rows_of(&mirror.database, &other).await;

    let retire = documented("retire.sql");
    let unnamed: BTreeSet<String> = tables(&mirror.database)
        .await
        .into_iter()
        .filter(|table| !retire.contains(&format!("delete from swr.{table} where")))
        .collect();
    assert!(unnamed.is_empty(), "retire.sql leaves out {unnamed:?}");
    mirror.database.snapshot(&retire).await;

    assert_eq!(key(RETIRED).await, "");
    let left = rows_of(&mirror.database, &retired).await;
    assert!(
        left.lines().all(|line| line.ends_with(" 0 | NULL")),
        "{left}"
    );
    assert_eq!(rows_of(&mirror.database, &other).await, kept);

    let writes = mirror.writes().await;
    mirror.sync().await;
    assert_eq!(mirror.writes().await, writes);
    mirror.sync_instance(RETIRED, Clock::system()).await;
}

#[tokio::test]
async fn what_removes_the_schemas_leaves_nothing() {
    let database = TestDatabase::create().await;
    let schemas = "select string_agg(nspname, ' ') from pg_namespace where nspname like 'swr%'";
    assert_ne!(database.snapshot(schemas).await, "NULL");
    database.snapshot(&documented("remove.sql")).await;
    assert_eq!(database.snapshot(schemas).await, "NULL");
}

#[tokio::test]
async fn no_run_begins_while_rows_are_deleted() {
    let mirror = Mirror::new(World::generate(1, 10, start_of_time())).await;
    mirror.sync().await;
    let shrink = documented("shrink.sql");
    let retire = documented("retire.sql");
    let locks = |sql: &str| -> Vec<String> {
        let lines = sql.lines().filter(|line| line.contains("advisory"));
        lines
            .map(|line| line.replace("retired", "swr.instance"))
            .collect()
    };
    assert_eq!(locks(&shrink), locks(&retire));
    assert_eq!(locks(&shrink), locks(&documented("recount.sql")));

    let mut connection = mirror.database.connect().await;
    for sql in ["begin", &locks(&shrink)[0]] {
        connection
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap();
    }
    let refused = mirror.try_sync().await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("the lock of this instance is held by a session that is no run"),
        "{refused}"
    );
    connection.execute("rollback").await.unwrap();
    mirror.sync().await;
}
