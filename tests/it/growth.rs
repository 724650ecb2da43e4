//! Checks that the blocks that a run's statements read grow linearly with the registry, not with its square.
//! This is checked with and without statistics: a new table has none until the server analyzes it.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Connection, Row};
use swr_emulator::World;

use crate::support::mirror::{Mirror, start_of_time};
use crate::support::program::{Program, emulator_settings};
use crate::support::server::PrivateServer;

const SMALL: usize = 250;
/// How much larger the larger registry is.
const GROWTH: f64 = 6.0;
/// Allowed growth beyond the linear share: an index has more levels, a change affects more rows.
/// A statement with quadratic growth reads `GROWTH` times its share.
const TOLERANCE: f64 = 2.5;
/// A statement that reads fewer blocks in the larger registry is ignored.
const FEW_BLOCKS: i64 = 1_000;

/// Removes all statistics, as if no table had ever been analyzed.
const FORGET_STATISTICS: &str = "
    delete from pg_statistic;
    update pg_class set relpages = 0, reltuples = -1, relallvisible = 0
    where relnamespace = 'swr'::regnamespace";

#[tokio::test]
async fn what_a_statement_touches_grows_with_the_rows_and_not_with_their_square() {
    let server = PrivateServer::start_with_options(
        "-c shared_preload_libraries=pg_stat_statements -c autovacuum=off",
    )
    .await;
    server
        .execute("postgres", "create extension pg_stat_statements")
        .await;
    let small = touched_blocks(&server, "small", SMALL).await;
    let large = touched_blocks(&server, "large", (SMALL as f64 * GROWTH) as usize).await;
    let mut compared = 0;
    let mut excessive = Vec::new();
    for ((phase, statement), blocks) in &large {
        let Some(before) = small.get(&(*phase, statement.clone())) else {
            continue;
        };
        if *blocks < FEW_BLOCKS {
            continue;
        }
        compared += 1;
        if *blocks as f64 > *before as f64 * GROWTH * TOLERANCE {
            excessive.push(format!(
                "{phase}: {before} blocks, then {blocks}: {statement}"
            ));
        }
    }
    assert!(excessive.is_empty(), "{}", excessive.join("\n"));
    assert!(compared > 30, "only {compared} statements were compared");
}

/// The blocks that each statement reads, by phase and text, for a registry of this size.
async fn touched_blocks(
    server: &PrivateServer,
    name: &str,
    artifacts: usize,
) -> HashMap<(&'static str, String), i64> {
    let database = server.migrated_database(name).await;
    let world = World::generate(7, artifacts, start_of_time());
    let mirror = Mirror::with(emulator_settings(), world, database).await;
    let mut touched = HashMap::new();
    let phases = [
        ("first run", ""),
        ("changes, never analyzed", FORGET_STATISTICS),
        ("changes, analyzed", "vacuum analyze"),
    ];
    for (round, (phase, preparation)) in phases.into_iter().enumerate() {
        server.execute(name, preparation).await;
        if round > 0 {
            mirror.with_world(|world| world.evolve(round as u32));
        }
        server
            .execute("postgres", "select pg_stat_statements_reset()")
            .await;
        mirror.program().code(0).await;
        Program::new(&["verify"])
            .registry(&mirror.emulator)
            .database(&mirror.database)
            .code(0)
            .await;
        for (statement, blocks) in statements(server, name).await {
            *touched.entry((phase, statement)).or_default() += blocks;
        }
    }
    touched
}

/// The statements in a database, each with the number of blocks it has read.
async fn statements(server: &PrivateServer, database: &str) -> Vec<(String, i64)> {
    let mut connection = server.connect("postgres").await;
    let rows = sqlx::raw_sql(AssertSqlSafe(format!(
        "select query, sum(shared_blks_hit + shared_blks_read + temp_blks_read + temp_blks_written)::bigint as blocks
         from pg_stat_statements s
         join pg_database d on d.oid = s.dbid
         where d.datname = '{database}'
         group by query"
    )))
    .fetch_all(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let rows = rows.iter().map(|row| (row.get("query"), row.get("blocks")));
    rows.collect()
}
