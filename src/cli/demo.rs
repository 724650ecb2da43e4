//! `swr-sync demo`: shows the whole program in one run.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use reqwest::Url;
use secrecy::ExposeSecret;
use sqlx::Connection;

use super::embedded::{EmbeddedArgs, EmbeddedServer};
use super::exit::{Exit, Failure};
use super::replace_file::{Mode, replace_file};
use super::result::{Printer, query_failure, written};
use super::settings::DEMO_DATABASE;
use super::summary::summary;
use super::telemetry::Telemetry;
use super::variables::host;
use super::{hints, signals, sync};
use crate::clock::Clock;
use crate::database::Database;
use crate::registry::signature::SigningKey;
use crate::registry::{Credentials, ProjectSettings, Registry, TransportSettings};
use crate::report::{self, FilterValues, Format, html};
use crate::sync::{Ending, HEARTBEAT, PATIENCE, Progress, Safeguards, SyncSettings};
use swr_emulator::{Emulator, EmulatorSettings, Quirks, World, WorldSettings};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Try everything: an emulated registry, three syncs with changes, and the reports
    #[command(after_help = AFTER_HELP)]
    Demo(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Artifacts in the emulated registry
    #[arg(long, value_name = "N", default_value_t = 2_000,
          value_parser = clap::value_parser!(u32).range(10..=200_000))]
    artifacts: u32,
    /// Seed of the emulated registry: the same seed generates the same registry
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Number of rows to print of each report
    #[arg(long, value_name = "N", default_value_t = 5)]
    limit: u64,
    #[command(flatten)]
    embedded: EmbeddedArgs,
}

const AFTER_HELP: &str = "\
Needs the PostgreSQL binaries, but no account and no running server. The data stays in the
database swr_demo of the embedded server until the next demo. As long as no registry was synced into the
embedded database, `status`, `report` and `query` use the demo's.

Examples:
  swr-sync demo
  swr-sync demo --artifacts 20000 --limit 20
  swr-sync db psql --database swr_demo      explore the data afterwards";

/// The demo's own database, created again by each demo and kept for the user to explore.
const DATABASE: &str = DEMO_DATABASE;
/// The file of the report page.
const PAGE: &str = "swr-sync-demo.html";

/// The reports that the demo prints.
const REPORTS: [&str; 4] = [
    "storage_by_repository",
    "stale_artifact",
    "tag_move",
    "freshness",
];

/// Questions that the README also answers.
const QUESTIONS: &[(&str, &str)] = &[
    (
        "Which layers are shared by the most images?",
        "select layer_digest, max(layer_size_bytes) as size_bytes, count(distinct artifact_id) as images
from swr_report.build_history
where layer_digest is not null
group by layer_digest
order by images desc, layer_digest",
    ),
    (
        "Which build commands are the most common?",
        "select count(*) as images, left(command, 60) as command
from swr_report.build_history
where command is not null
group by command
order by images desc, command",
    ),
];

pub(super) async fn run(command: Command, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let Command::Demo(Args {
        artifacts,
        seed,
        limit,
        embedded,
    }) = command;
    let server = embedded.start().await?;
    let database = make_database(&server).await?;
    say(&format!(
        "A private PostgreSQL server runs at\n  {}\n",
        server.url_of(DATABASE)
    ))?;

    let clock = Clock::system();
    let emulator = start_emulator(seed, artifacts as usize, &clock).await?;
    say(&format!(
        "An emulated registry of {artifacts} artifacts serves the SWR API at {}\n",
        emulator.endpoint()
    ))?;
    let settings = registry_settings(&emulator, clock)?;
    let stop = signals::listen()?;
    let sync_settings = sync_settings(&emulator, &settings);
    let sync_once = async || {
        let registry = Registry::new(settings.clone(), &sync_settings.swr_instance_id)
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
        let progress = Arc::<Progress>::default();
        let run = sync::run_once(
            &registry,
            &database,
            &sync_settings,
            &progress,
            telemetry,
            &stop,
        );
        let report = run.await.map_err(hints::failure)?;
        say(&summary(&report).join("\n"))
    };

    say("1. The first sync fetches everything.")?;
    sync_once().await?;
    say("2. Nothing changed: the second sync fetches only the list pages and writes no row.")?;
    sync_once().await?;
    let changes = emulator.with_world(|world| world.evolve(1));
    say(&format!(
        "3. A day passes: {} artifacts pushed, {} promoted, {} deleted, {} pulled, {} tags moved back.",
        changes.pushed,
        changes.promoted,
        changes.artifacts_deleted,
        changes.pulled,
        changes.tags_moved
    ))?;
    sync_once().await?;

    let exit = tokio::select! {
        printed = print_reports(&database, limit, embedded.data_dir.as_deref()) => printed?,
        reason = stop.requested() => reason.exit(),
    };
    emulator.stop().await;
    server.close().await?;
    Ok(exit)
}

async fn print_reports(
    database: &Database,
    limit: u64,
    data_dir: Option<&Path>,
) -> Result<Exit, Failure> {
    let printer = Printer::with(Format::Table)?;
    let mut reader = database.connect_to_read().await?;
    for name in REPORTS {
        if let Some(report) = report::find(name) {
            say(&format!("{}   (swr-sync report {name})", report.question))?;
            let sql = report
                .query(&FilterValues::default(), limit)
                .map_err(|error| Failure::new(Exit::Unexpected, error))?;
            printer.print(&mut reader, &sql, None).await?;
        }
    }
    for (question, sql) in QUESTIONS {
        say(&format!("{question}\n\n{sql}\nlimit {limit};"))?;
        let sql = format!("{sql}\nlimit {limit}");
        printer.print(&mut reader, &sql, None).await?;
    }
    let page = html::Options {
        instance: None,
        namespace: None,
        limit: html::MOST_ROWS,
        made_at: Clock::system().now(),
    };
    let page = html::page(&mut reader, &page)
        .await
        .map_err(query_failure)?;
    reader.close().await;
    let folder = match data_dir {
        Some(folder) => format!(" --data-dir {}", folder.display()),
        None => String::new(),
    };
    // The working folder may be read-only.
    let written = std::env::current_dir()
        .map(|here| here.join(PAGE))
        .and_then(|path| replace_file(&path, page.as_bytes(), Mode::Umask(0o666)).map(|()| path));
    say(&match written {
        Ok(path) => format!("The report page, for a browser:\n  {}", path.display()),
        Err(_) => format!(
            "The report page, for a browser:\n  swr-sync report html{folder} --output /tmp/{PAGE}"
        ),
    })?;
    say(&format!(
        "The data stays in the database {DATABASE}, which these commands use until a registry is synced:\n  \
         swr-sync status{folder}\n  \
         swr-sync report stale_artifact{folder}\n\n\
         Explore it with SQL:\n  \
         swr-sync db psql --database {DATABASE}{folder}"
    ))?;
    Ok(Exit::Success)
}

async fn start_emulator(seed: u64, artifacts: usize, clock: &Clock) -> Result<Emulator, Failure> {
    // Two days back, so that the changes of the next days are not in the future.
    let world = World::generate_with(&WorldSettings {
        seed,
        artifacts,
        now: clock.now() - TimeDelta::days(2),
        // Each run would request missing histories again, including the run that shows the cost of an
        // unchanged registry.
        quirks: Quirks {
            gone: 0.0,
            ..Quirks::default()
        },
    });
    Emulator::start(EmulatorSettings::default(), world)
        .await
        .map_err(|error| Failure::new(Exit::Unexpected, error))
}

fn sync_settings(emulator: &Emulator, settings: &ProjectSettings) -> SyncSettings {
    let emulated = emulator.settings();
    SyncSettings {
        swr_instance_id: emulated.instance_id.clone(),
        project_id: emulated.project_id.clone(),
        endpoint: settings.endpoint.to_string(),
        region: Some(emulated.region.clone()),
        ending: Ending::Publish,
        safeguards: Safeguards::default(),
        lock_timeout: Some(Duration::ZERO),
        patience: PATIENCE,
        heartbeat: HEARTBEAT,
        host: host(),
        clock: settings.clock.clone(),
    }
}

/// A client for the emulator without rate limits.
fn registry_settings(emulator: &Emulator, clock: Clock) -> Result<ProjectSettings, Failure> {
    let settings = emulator.settings();
    let endpoint: Url = emulator
        .endpoint()
        .parse()
        .map_err(|error| Failure::new(Exit::Unexpected, format!("{error}")))?;
    Ok(ProjectSettings {
        endpoint,
        project_id: settings.project_id.clone(),
        credentials: Credentials::Key(SigningKey {
            access_key: settings.credentials.access_key.clone(),
            secret_key: settings.credentials.secret_key.expose_secret().into(),
            security_token: None,
        }),
        transport: TransportSettings {
            max_requests_per_second: None,
            ..TransportSettings::default()
        },
        redact_commands: false,
        clock,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a database is created outside of any schema"
)]
async fn make_database(server: &EmbeddedServer) -> Result<Database, Failure> {
    let fail = |error| Failure::new(Exit::Database, error);
    let mut connection = Database::from_url(server.url())?.connect_to_write().await?;
    for statement in [
        "drop database if exists swr_demo with (force)",
        "create database swr_demo",
    ] {
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .map_err(fail)?;
    }
    connection.close().await.map_err(fail)?;
    let database = Database::from_url(&server.url_of(DATABASE))?;
    database.migrate().await?;
    Ok(database)
}

fn say(text: &str) -> Result<(), Failure> {
    written(writeln!(io::stdout(), "\n{text}"))
}
