//! Measures the reports on a large registry.
//!
//! `cargo bench --bench reports` syncs 107,500 generated artifacts (1.5 million history entries)
//! into an embedded PostgreSQL, lets the registry change three times, and times every report
//! for that instance. `-- --data DIR` keeps the database there and uses it again;
//! `--artifacts N` sets another size, and any other argument selects reports by name. The argument `ratios`
//! compares queries of the views with queries of the tables.
//!
//! Prints the best of several runs without parallel workers: the rows, the wall-clock time, the CPU time
//! (which other work on the machine affects less), and the blocks read, all from the cache.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

#[path = "reports/ratios.rs"]
mod ratios;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use embedded_postgres::{EmbeddedServer, EmbeddedSettings};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use swr_emulator::{Emulator, EmulatorSettings, World};
use swr_sync::clock::Clock;
use swr_sync::database::Database;
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{Credentials, ProjectSettings, Registry, TransportSettings};
use swr_sync::report::{Filter, FilterError, FilterValues, REPORTS, Report};
use swr_sync::stop;
use swr_sync::sync::{Ending, HEARTBEAT, PATIENCE, Safeguards, SyncSettings, sync};

struct Options {
    artifacts: usize,
    data: Option<PathBuf>,
    names: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            artifacts: 107_500,
            data: None,
            names: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--artifacts" => options.artifacts = arguments.next().unwrap().parse().unwrap(),
                "--data" => options.data = arguments.next().map(PathBuf::from),
                // Arguments that cargo adds.
                "--bench" => {}
                _ => options.names.push(argument),
            }
        }
        options
    }
}

#[tokio::main]
async fn main() {
    let options = Options::parse(std::env::args().skip(1));
    let folder = tempfile::Builder::new()
        .prefix("swr-bench")
        .tempdir_in("/tmp")
        .unwrap();
    let data = options.data.unwrap_or_else(|| folder.path().join("data"));
    let server = start_server(folder.path(), &data).await;
    let database = Database::from_url(server.url()).unwrap();
    database.migrate().await.unwrap();
    let mut connection = database.connect_to_write().await.unwrap();
    let published = "select count(*) from swr.sync_run where outcome = 'published'";
    if number(&mut connection, published).await == 0 {
        fill(&database, options.artifacts).await;
    }
    sizes(&mut connection).await;
    text(
        &mut connection,
        // Settings of `swr-sync report`, except for the parallel workers.
        "select set_config('work_mem', '64MB', false), set_config('max_parallel_workers_per_gather', '0', false)",
    )
    .await;
    println!(
        "| Report | Rows | ms | ms on the processor | Blocks of 8 kB |\n|---|---:|---:|---:|---:|"
    );
    for report in REPORTS {
        if options.names.is_empty() || options.names.iter().any(|name| name == report.name) {
            time(&mut connection, report).await;
        }
    }
    if options.names.is_empty() || options.names.iter().any(|name| name == "ratios") {
        ratios::print(&mut connection).await;
    }
    connection.close().await.unwrap();
    server.close().await.unwrap();
}

/// Runs of each query; the first one warms the cache.
const REPEATS: usize = 6;

/// The whole report, for the instance by its key, as in a dashboard.
async fn time(connection: &mut PgConnection, report: &Report) {
    let mut values = FilterValues::default();
    if report.filters.contains(&Filter::At) {
        values.at = Some(Clock::system().now() - chrono::TimeDelta::days(2));
    }
    if let Err(FilterError::Missing { .. }) = report.query(&values, 0) {
        values.digests = digests(connection, report.name).await;
    }
    // All rows of the largest report take seconds because of their number; the first are immediate.
    let limit = match report.name {
        "build_history" => 1000,
        _ => 0,
    };
    let query = report.query(&values, limit).unwrap();
    let query = match query.contains("\nwhere ") {
        true => query.replace("\nwhere ", "\nwhere instance_id = 1 and "),
        false => query.replace("\norder by ", "\nwhere instance_id = 1\norder by "),
    };
    let process_id = number(connection, "select pg_backend_pid()::bigint").await;
    let mut best = [f64::INFINITY; 2];
    let (mut rows, mut blocks) = (0, 0);
    for _ in 0..REPEATS {
        let before = processor_ms(process_id);
        let plan = explain(connection, &query).await;
        let elapsed_processor_ms = processor_ms(process_id) - before;
        let root = &plan["Plan"];
        rows = root["Actual Rows"].as_f64().unwrap() as u64;
        let counts = ["Shared Hit Blocks", "Shared Read Blocks"];
        blocks = counts.iter().filter_map(|name| root[name].as_u64()).sum();
        let elapsed_ms = plan["Execution Time"].as_f64().unwrap();
        best = [best[0].min(elapsed_ms), best[1].min(elapsed_processor_ms)];
    }
    let [elapsed_ms, elapsed_processor_ms] = best;
    println!(
        "| `{}` | {rows} | {elapsed_ms:.0} | {elapsed_processor_ms:.0} | {blocks} |",
        report.name
    );
}

/// Runs a query and returns its plan with times.
async fn explain(connection: &mut PgConnection, query: &str) -> serde_json::Value {
    let explain = format!("explain (analyze, buffers, timing off, format json) {query}");
    let plans: serde_json::Value = serde_json::from_str(&text(connection, &explain).await).unwrap();
    plans[0].clone()
}

/// The CPU time of the server process.
fn processor_ms(process_id: i64) -> f64 {
    const TICK_MS: f64 = 10.0;
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap();
    // After the name, which may contain blanks: state, parent, ..., utime and stime.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|field| field.parse::<f64>().unwrap())
        .sum();
    ticks * TICK_MS
}

/// Arguments of the functions: the base of the most images, or 1,000 artifacts of all ages.
async fn digests(connection: &mut PgConnection, name: &str) -> Vec<String> {
    let sql = if name == "built_on" {
        "select max(base_digest) from swr_report.base_image
         where base_chain_id = (
             select base_chain_id from swr.artifact_layering
             where base_chain_id is not null group by 1 order by count(*) desc limit 1
         )"
    } else {
        "select string_agg(digest, ' ') from (
             select digest from swr.artifact where removed_at is null order by md5(digest) limit 1000
         ) x"
    };
    let digests = text(connection, sql).await;
    digests.split(' ').map(str::to_owned).collect()
}

/// Rows of the tables that the reports read, and the bytes of those that publish maintains for them.
async fn sizes(connection: &mut PgConnection) {
    let artifacts = "select count(*) from swr.artifact where removed_at is null";
    let entries = "select sum(cardinality(m.build_step_ids)) from swr.artifact a
                   join swr.manifest m using (instance_id, digest) where a.removed_at is null";
    let entries = number(connection, entries).await;
    println!(
        "{} artifacts, {entries} build steps",
        number(connection, artifacts).await
    );
    for table in [
        "artifact_layering",
        "repository_layering",
        "namespace_layering",
        "shared_layer",
        "namespace_storage",
    ] {
        let bytes = format!("select pg_total_relation_size('swr.{table}')");
        let rows = format!("select count(*) from swr.{table}");
        let bytes = number(connection, &bytes).await;
        println!(
            "  {table:20} {:7} rows {bytes:9} bytes  {:5.1} per build step",
            number(connection, &rows).await,
            bytes as f64 / entries as f64
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "asks about the tables from outside, which query! does not check"
)]
async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "prepares what is measured, in statements that are not known at compile time"
)]
async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs the reports' own queries, which are not known at compile time"
)]
async fn text(connection: &mut PgConnection, sql: &str) -> String {
    let row = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap();
    row.try_get_raw(0).unwrap().as_str().unwrap().to_owned()
}

async fn start_server(folder: &Path, data: &Path) -> EmbeddedServer {
    // The server's own user must be able to enter.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder, permissions).unwrap();
    EmbeddedServer::start(&EmbeddedSettings {
        data_dir: Some(data.to_owned()),
        binaries_dir: None,
        use_installed: true,
        fetch: None,
        search_path: std::env::var_os("PATH"),
        supervisor_executable: PathBuf::from(env!("CARGO_BIN_EXE_swr-sync")),
        start_timeout: Duration::from_secs(60),
        durable: true,
    })
    .await
    .unwrap()
}

/// Four runs at intervals of a day, over a registry that changes in between.
async fn fill(database: &Database, artifacts: usize) {
    const RUNS: u32 = 4;
    let now = Clock::system().now();
    let day = |run: u32| now - chrono::TimeDelta::days(i64::from(RUNS - run));
    let world = World::generate(1, artifacts, day(0));
    let emulator = Emulator::start(EmulatorSettings::default(), world)
        .await
        .unwrap();
    for run in 0..RUNS {
        if run > 0 {
            emulator.with_world(|world| {
                world.set_now(day(run) - chrono::TimeDelta::hours(6));
                world.evolve(run);
            });
        }
        let at = day(run) + chrono::TimeDelta::minutes(1);
        let report = sync_at(&emulator, database, at).await;
        println!(
            "sync {run}: {} artifacts, {} histories, {:.1} s",
            report.counters.artifacts_listed,
            report.counters.histories_fetched,
            report.elapsed.as_secs_f64()
        );
    }
    emulator.stop().await;
}

async fn sync_at(
    emulator: &Emulator,
    database: &Database,
    at: chrono::DateTime<chrono::Utc>,
) -> swr_sync::run::RunReport {
    let settings = emulator.settings();
    let project = ProjectSettings {
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
    };
    let registry = Registry::new(project, &settings.instance_id).unwrap();
    let settings = SyncSettings {
        swr_instance_id: settings.instance_id.clone(),
        project_id: settings.project_id.clone(),
        endpoint: emulator.endpoint().to_string(),
        region: None,
        ending: Ending::Publish,
        safeguards: Safeguards::default(),
        lock_timeout: Some(Duration::ZERO),
        patience: PATIENCE,
        heartbeat: HEARTBEAT,
        host: "bench".to_owned(),
        clock: Clock::from_fn(move || at),
    };
    let (_stopper, stop) = stop::channel();
    sync(&registry, database, &settings, &Arc::default(), &stop)
        .await
        .unwrap()
}
