//! A database that mirrors the registry of the documents.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Column, Connection, PgConnection, Row, ValueRef};
use swr_emulator::{Emulator, EmulatorSettings};
use swr_sync::clock::Clock;
use swr_sync::database::Database;
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{Credentials, ProjectSettings, Registry, RetryPolicy, TransportSettings};
use swr_sync::stop;
use swr_sync::sync::{Ending, HEARTBEAT, PATIENCE, Safeguards, Sample, SyncSettings, sync};

use crate::world;

pub(crate) struct Source {
    url: String,
}

impl Source {
    /// Fills the database of this URL, which must be empty. Each run has a clock that shows a fixed
    /// time, so that the answers are always the same.
    pub(crate) async fn synced(url: String) -> Source {
        let database = Database::from_url(&url).unwrap();
        database.migrate().await.unwrap();
        let emulator = Emulator::start(EmulatorSettings::default(), world::start())
            .await
            .unwrap();
        let first = emulator.settings().instance_id.clone();
        let run = async |instance: &str, ending, at| {
            run(&emulator, &database, instance, ending, at).await;
        };
        run(&first, Ending::Publish, world::sync_time(0)).await;
        for round in 1..=world::ROUNDS {
            emulator.with_world(|world| world::change(world, round));
            run(&first, Ending::Publish, world::sync_time(round)).await;
        }
        let sample = Sample {
            histories: Some(100),
            start: "sha256:".to_owned(),
        };
        let (second, content) = world::second();
        let second_id = second.id.clone();
        emulator.add_instance(second, content);
        run(&second_id, Ending::Publish, world::second_sync_time()).await;
        run(&first, Ending::Compare(sample), world::verification_time()).await;
        Source { url }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The rows of a query, one per line: `value | value | NULL`.
    pub(crate) async fn snapshot(&self, sql: &str) -> String {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let lines = rows.iter().map(|row| {
            let values = row.columns().iter().map(|column| {
                let value = row.try_get_raw(column.ordinal()).unwrap();
                match value.is_null() {
                    true => "NULL".to_owned(),
                    false => value.as_str().unwrap().to_owned(),
                }
            });
            values.collect::<Vec<_>>().join(" | ")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

async fn run(
    emulator: &Emulator,
    database: &Database,
    instance: &str,
    ending: Ending,
    now: DateTime<Utc>,
) {
    let emulated = emulator.settings();
    let clock = Clock::from_fn(move || now);
    let project = ProjectSettings {
        endpoint: emulator.endpoint().parse().unwrap(),
        project_id: emulated.project_id.clone(),
        credentials: Credentials::Key(SigningKey {
            access_key: emulated.credentials.access_key.clone(),
            secret_key: emulated.credentials.secret_key.clone(),
            security_token: emulated.credentials.security_token.clone(),
        }),
        transport: TransportSettings {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            // A history that the registry refuses is refused at once.
            retry: RetryPolicy {
                max_attempts: 3,
                throttled_patience: Duration::from_secs(60),
                base_delay: Duration::from_millis(1),
                max_delay: Duration::from_millis(5),
            },
            max_in_flight: 8,
            max_requests_per_second: None,
            ca_certificates: Vec::new(),
        },
        redact_commands: false,
        clock: Clock::system(),
    };
    let settings = SyncSettings {
        swr_instance_id: instance.to_owned(),
        project_id: project.project_id.clone(),
        endpoint: project.endpoint.to_string(),
        region: None,
        ending,
        safeguards: Safeguards::default(),
        lock_timeout: Some(Duration::ZERO),
        patience: PATIENCE,
        heartbeat: HEARTBEAT,
        host: "test-host".to_owned(),
        clock,
    };
    let registry = Registry::new(project, &settings.swr_instance_id).unwrap();
    let (_stopper, stop) = stop::channel();
    sync(&registry, database, &settings, &Arc::default(), &stop)
        .await
        .unwrap_or_else(|error| panic!("the run failed: {error}"));
}
