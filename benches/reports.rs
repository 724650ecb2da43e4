//! What the reports cost on a large registry.
//!
//! `cargo bench --bench reports` syncs 107,500 generated artifacts (1.5 million history entries)
//! into an embedded PostgreSQL, lets the registry change three times, and times every report
//! for that instance. `-- --data DIR` keeps the database there and uses it again;
//! `--artifacts N` is for another size, and any other argument picks reports by name.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use swr_sync::clock::Clock;
use swr_sync::database::Database;
use swr_sync::database::embedded::{EmbeddedServer, EmbeddedSettings};
use swr_sync::emulator::{Emulator, EmulatorSettings, World};
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{Credentials, Registry, RegistrySettings, TransportSettings};
use swr_sync::stop;
use swr_sync::sync::{Progress, Safeguards, SyncSettings, sync};

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
                // What cargo adds.
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
    fill(&database, options.artifacts).await;
    server.close().await.unwrap();
}

async fn start_server(folder: &Path, data: &Path) -> EmbeddedServer {
    // The server's own user must be able to enter.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder, permissions).unwrap();
    EmbeddedServer::start(&EmbeddedSettings {
        data_dir: Some(data.to_owned()),
        binaries_dir: None,
        search_path: std::env::var_os("PATH"),
        supervisor_executable: PathBuf::from(env!("CARGO_BIN_EXE_swr-sync")),
        start_timeout: Duration::from_secs(60),
        durable: true,
    })
    .await
    .unwrap()
}

/// Four runs, a day apart, over a registry that changes in between.
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
    let registry = Registry::new(RegistrySettings {
        endpoint: emulator.endpoint().parse().unwrap(),
        project_id: settings.project_id.clone(),
        instance_id: settings.instance_id.clone(),
        credentials: Credentials::Key(SigningKey {
            access_key: settings.credentials.access_key.clone(),
            secret_key: settings.credentials.secret_key.clone(),
            security_token: None,
        }),
        transport: TransportSettings {
            max_requests_per_second: None,
            ..TransportSettings::default()
        },
        clock: Clock::system(),
    })
    .unwrap();
    let settings = SyncSettings {
        swr_instance_id: settings.instance_id.clone(),
        project_id: settings.project_id.clone(),
        endpoint: emulator.endpoint().to_string(),
        region: None,
        dry_run: false,
        safeguards: Safeguards::default(),
        host: "bench".to_owned(),
        clock: Clock::from_fn(move || at),
    };
    let (_stopper, stop) = stop::channel();
    sync(&registry, database, &settings, &Progress::default(), &stop)
        .await
        .unwrap()
}
