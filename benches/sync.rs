//! Measures a sync, and compares it with limits that are measured in the same run.
//!
//! `cargo bench --bench sync` (20,000 artifacts; `-- 2000` for fewer) syncs the emulator into an embedded
//! PostgreSQL. The limit for the first sync is the client alone: the same requests for build histories,
//! with the same concurrency, whose answers are discarded. Emulator, client and database share the
//! machine, so only numbers of one run are comparable.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use embedded_postgres::{EmbeddedServer, EmbeddedSettings};
use futures_util::{StreamExt, stream};
use sqlx::postgres::PgBindIterExt;
use sqlx::{Connection, PgConnection};
use swr_emulator::{Emulator, EmulatorSettings, World};
use swr_sync::build_history::RepositoryPath;
use swr_sync::clock::Clock;
use swr_sync::database::Database;
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{Credentials, ProjectSettings, Registry, TransportSettings};
use swr_sync::run::RunReport;
use swr_sync::stop;
use swr_sync::sync::{Ending, HEARTBEAT, PATIENCE, Safeguards, SyncSettings, sync};
use tokio::time::Instant;

#[tokio::main]
async fn main() {
    let artifacts = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(20_000);
    let folder = tempfile::Builder::new()
        .prefix("swr-bench")
        .tempdir_in("/tmp")
        .unwrap();
    // The server's own user must be able to enter.
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let server = EmbeddedServer::start(&EmbeddedSettings {
        data_dir: Some(folder.path().join("data")),
        binaries_dir: None,
        use_installed: true,
        fetch: None,
        search_path: std::env::var_os("PATH"),
        supervisor_executable: PathBuf::from(env!("CARGO_BIN_EXE_swr-sync")),
        start_timeout: Duration::from_secs(60),
        durable: true,
    })
    .await
    .unwrap();
    let database = Database::from_url(server.url()).unwrap();
    database.migrate().await.unwrap();
    let clock = Clock::system();
    let world = World::generate(1, artifacts, clock.now() - chrono::TimeDelta::days(2));
    let emulator = Emulator::start(EmulatorSettings::default(), world)
        .await
        .unwrap();

    let (requests, limit) = bare_client(&emulator).await;
    let limit_rate = requests as f64 / limit.as_secs_f64();
    println!("{artifacts} artifacts");
    println!(
        "bare client   {:8.2} s  {requests} histories, {limit_rate:.0} requests/s",
        limit.as_secs_f64()
    );

    let first = run(&emulator, &database).await;
    let rate = first.counters.requests.total() as f64 / first.elapsed.as_secs_f64();
    println!(
        "first sync    {:8.2} s  {} requests, {rate:.0} requests/s, {:.2} of the bare client's rate",
        first.elapsed.as_secs_f64(),
        first.counters.requests.total(),
        rate / limit_rate
    );
    let second = run(&emulator, &database).await;
    println!(
        "second sync   {:8.2} s  {} requests, {} rows written, {:.3} of the first's time",
        second.elapsed.as_secs_f64(),
        second.counters.requests.total(),
        second.counters.rows_written,
        second.elapsed.as_secs_f64() / first.elapsed.as_secs_f64()
    );

    let mut connection = database.connect_to_write().await.unwrap();
    sizes(&mut connection).await;
    staging(&mut connection).await;
    connection.close().await.unwrap();
    emulator.stop().await;
    server.close().await.unwrap();
}

fn client(emulator: &Emulator) -> ProjectSettings {
    let settings = emulator.settings();
    ProjectSettings {
        endpoint: emulator.endpoint().parse().unwrap(),
        project_id: settings.project_id.clone(),
        credentials: Credentials::Key(SigningKey {
            access_key: settings.credentials.access_key.clone(),
            secret_key: settings.credentials.secret_key.clone(),
            security_token: None,
        }),
        transport: TransportSettings {
            max_requests_per_second: None,
            ..TransportSettings::default()
        },
        redact_commands: false,
        clock: Clock::system(),
    }
}

async fn bare_client(emulator: &Emulator) -> (usize, Duration) {
    let targets: Vec<(RepositoryPath, String)> = emulator.with_world(|world| {
        let names: std::collections::HashMap<_, _> = world
            .repositories()
            .map(|repository| {
                let namespace = world
                    .namespaces()
                    .find(|namespace| namespace.id == repository.namespace_id)
                    .unwrap();
                let path = RepositoryPath {
                    namespace: namespace.name.clone(),
                    name: repository.name.clone(),
                };
                (repository.id, path)
            })
            .collect();
        world
            .artifacts()
            .map(|artifact| {
                (
                    names[&artifact.repository_id].clone(),
                    artifact.digest().to_string(),
                )
            })
            .collect()
    });
    let registry = Registry::new(client(emulator), &emulator.settings().instance_id).unwrap();
    let begin = Instant::now();
    stream::iter(&targets)
        .for_each_concurrent(registry.max_in_flight(), |(path, digest)| async {
            registry.build_history(path, digest).await.unwrap();
        })
        .await;
    (targets.len(), begin.elapsed())
}

async fn run(emulator: &Emulator, database: &Database) -> RunReport {
    let client = client(emulator);
    let settings = SyncSettings {
        swr_instance_id: emulator.settings().instance_id.clone(),
        project_id: client.project_id.clone(),
        endpoint: client.endpoint.to_string(),
        region: None,
        ending: Ending::Publish,
        safeguards: Safeguards::default(),
        lock_timeout: Some(Duration::ZERO),
        patience: PATIENCE,
        heartbeat: HEARTBEAT,
        host: "bench".to_owned(),
        clock: Clock::system(),
    };
    let (_stopper, stop) = stop::channel();
    let registry = Registry::new(client, &settings.swr_instance_id).unwrap();
    sync(&registry, database, &settings, &Arc::default(), &stop)
        .await
        .unwrap()
}

/// Bytes of tables and indexes per history entry: the store's tables, and all of them.
#[expect(
    clippy::disallowed_methods,
    reason = "asks the catalog, which query! does not check"
)]
async fn sizes(connection: &mut PgConnection) {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "select relname::text, pg_total_relation_size(oid), reltuples::bigint
         from pg_class
         where relnamespace = 'swr'::regnamespace and relkind = 'r' and relpersistence = 'p'
         order by 2 desc",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let (entries, text_bytes): (i64, i64) = sqlx::query_as(
        "select count(*), sum(8 + coalesce(length(command), 0) + coalesce(length(layer_digest), 0)
                              + coalesce(length(layer_media_type), 0) + 8 + length(digest) + 4)::bigint
         from swr_report.build_history",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    let total: i64 = rows.iter().map(|(_, bytes, _)| bytes).sum();
    let history: i64 = rows
        .iter()
        .filter(|(name, ..)| {
            matches!(
                name.as_str(),
                "manifest" | "build_step" | "command" | "layer" | "media_type"
            )
        })
        .map(|(_, bytes, _)| bytes)
        .sum();
    println!(
        "{entries} history entries; as plain text columns {} bytes each, without indexes",
        text_bytes / entries
    );
    for (name, bytes, tuples) in rows {
        println!(
            "  {name:12} {bytes:10} bytes  {:6.1} per entry  {tuples} rows",
            bytes as f64 / entries as f64
        );
    }
    println!(
        "build history tables: {:.1} bytes per entry",
        history as f64 / entries as f64
    );
    println!(
        "all tables:           {:.1} bytes per entry",
        total as f64 / entries as f64
    );
}

/// Staging a page of 100 artifacts: `unnest` or `copy`.
#[expect(
    clippy::disallowed_methods,
    reason = "the table is the measurement's own, in no migration"
)]
async fn staging(connection: &mut PgConnection) {
    const PAGES: usize = 500;
    const ROWS: usize = 100;
    let create = "create unlogged table staged (id bigint primary key, repository_id bigint, size_bytes bigint, digest text, type text, media_type text)";
    let digest = format!("sha256:{}", "a".repeat(64));
    let media_type = "application/vnd.docker.container.image.v1+json";
    for way in ["unnest", "copy"] {
        sqlx::raw_sql("drop table if exists staged")
            .execute(&mut *connection)
            .await
            .unwrap();
        sqlx::raw_sql(create)
            .execute(&mut *connection)
            .await
            .unwrap();
        let begin = Instant::now();
        for page in 0..PAGES {
            let ids = (page * ROWS) as i64..((page + 1) * ROWS) as i64;
            if way == "unnest" {
                sqlx::query("insert into staged select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[])")
                    .bind(ids.clone().bind_iter())
                    .bind(ids.clone().bind_iter())
                    .bind(ids.clone().bind_iter())
                    .bind(ids.clone().map(|_| digest.as_str()).bind_iter())
                    .bind(ids.clone().map(|_| "IMAGE").bind_iter())
                    .bind(ids.map(|_| media_type).bind_iter())
                    .execute(&mut *connection)
                    .await
                    .unwrap();
            } else {
                let text: String = ids
                    .map(|id| format!("{id}\t{id}\t{id}\t{digest}\tIMAGE\t{media_type}\n"))
                    .collect();
                let mut copy = connection
                    .copy_in_raw("copy staged from stdin")
                    .await
                    .unwrap();
                copy.send(text.into_bytes()).await.unwrap();
                copy.finish().await.unwrap();
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "staging by {way:6} {:.2} ms a page of {ROWS}, {:.0} rows/s",
            seconds * 1e3 / PAGES as f64,
            (PAGES * ROWS) as f64 / seconds
        );
    }
}
