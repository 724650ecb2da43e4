//! An emulated registry, a database, and runs from one into the other.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use swr_emulator::{Emulator, EmulatorSettings, World};
use swr_sync::clock::Clock;
use swr_sync::database::Database;
use swr_sync::registry::signature::SigningKey;
use swr_sync::registry::{
    Credentials, PasswordLogin, ProjectSettings, Registry, RetryPolicy, TransportSettings,
};
use swr_sync::run::{RunReport, Verification};
use swr_sync::stop::{self, Stop};
use swr_sync::sync::{
    Ending, HEARTBEAT, PATIENCE, Progress, Safeguards, Sample, SyncError, SyncSettings, sync,
};

use super::database::TestDatabase;
use super::program::Program;

/// Every test's world starts at this time.
pub(crate) fn start_of_time() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// The repository `team/app/api` with this many images.
pub(crate) fn world_of(images: usize) -> World {
    let mut world = World::empty(start_of_time());
    let repository = world.add_repository("team", "app/api");
    for _ in 0..images {
        world.push(repository).unwrap();
    }
    world
}

/// The gateway's answer, with 403, to a key without the required policy.
pub(crate) const GATEWAY_REFUSAL: &str =
    r#"{"error_code":"SVCSTG.SWR.4030170","error_msg":"no permission"}"#;

/// The default settings of a test's client: no rate limits, short delays.
pub(crate) fn client_settings(emulator: &Emulator) -> ProjectSettings {
    let EmulatorSettings {
        project_id,
        credentials,
        ..
    } = emulator.settings();
    ProjectSettings {
        endpoint: emulator.endpoint().parse().unwrap(),
        project_id: project_id.clone(),
        credentials: Credentials::Key(SigningKey {
            access_key: credentials.access_key.clone(),
            secret_key: credentials.secret_key.clone(),
            security_token: credentials.security_token.clone(),
        }),
        transport: TransportSettings {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
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
    }
}

/// The same for the IAM user with this password.
pub(crate) fn user_settings(emulator: &Emulator, password: &str) -> ProjectSettings {
    let settings = client_settings(emulator);
    let credentials = &emulator.settings().credentials;
    let login = PasswordLogin {
        iam_endpoint: settings.endpoint.clone(),
        user: credentials.user.clone(),
        password: password.into(),
        account: credentials.account.clone(),
        project_id: settings.project_id.clone(),
    };
    ProjectSettings {
        credentials: Credentials::Password(login),
        ..settings
    }
}

/// One emulated registry and one database.
pub(crate) struct Mirror {
    pub(crate) emulator: Emulator,
    pub(crate) database: TestDatabase,
    pub(crate) dry_run: bool,
    pub(crate) safeguards: Safeguards,
}

/// Tests inspect and change a mirror like its registry.
impl Deref for Mirror {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        &self.emulator
    }
}

/// The tables with facts. A run over an unchanged registry must not write to them.
pub(crate) const FACT_TABLES: [&str; 21] = [
    "instance",
    "namespace",
    "repository",
    "artifact",
    "tag",
    "tag_history",
    "manifest",
    "build_step",
    "command",
    "command_finding",
    "finding_rule",
    "layer",
    "media_type",
    "data_issue",
    "artifact_change",
    "artifact_layering",
    "repository_layering",
    "namespace_layering",
    "shared_layer",
    "layer_alias",
    "namespace_storage",
];

impl Mirror {
    /// The rows of a query; see [`TestDatabase::snapshot`].
    pub(crate) async fn snapshot(&self, sql: &str) -> String {
        self.database.snapshot(sql).await
    }

    /// A run over another instance of the emulator, whatever was removed from it and whatever its name is.
    pub(crate) async fn sync_instance(&self, id: &str, clock: Clock) {
        let client = client_settings(&self.emulator);
        let settings = SyncSettings {
            swr_instance_id: id.to_owned(),
            safeguards: Safeguards {
                max_removals_percent: None,
                accept_new_instance: true,
            },
            clock,
            ..sync_settings(&client)
        };
        let (_stopper, stop) = stop::channel();
        run_as(client, settings, &self.database, &Arc::default(), &stop)
            .await
            .unwrap();
    }

    pub(crate) async fn new(world: World) -> Mirror {
        Mirror::with(
            EmulatorSettings::default(),
            world,
            TestDatabase::create().await,
        )
        .await
    }

    pub(crate) async fn with(
        settings: EmulatorSettings,
        world: World,
        database: TestDatabase,
    ) -> Mirror {
        let emulator = Emulator::start(settings, world).await.unwrap();
        Mirror {
            emulator,
            database,
            dry_run: false,
            safeguards: Safeguards::default(),
        }
    }

    /// One run by the real process.
    pub(crate) fn program(&self) -> Program {
        Program::sync(&self.emulator, &self.database)
    }

    /// One run that is expected to publish.
    pub(crate) async fn sync(&self) -> RunReport {
        self.try_sync()
            .await
            .unwrap_or_else(|error| panic!("the run failed: {error}"))
    }

    /// One run at this time.
    pub(crate) async fn sync_at(&self, now: DateTime<Utc>) -> RunReport {
        let client = client_settings(&self.emulator);
        let settings = SyncSettings {
            ending: ending(self.dry_run),
            safeguards: self.safeguards,
            clock: Clock::from_fn(move || now),
            ..sync_settings(&client)
        };
        let (_stopper, stop) = stop::channel();
        run_as(client, settings, &self.database, &Arc::default(), &stop)
            .await
            .unwrap_or_else(|error| panic!("the run failed: {error}"))
    }

    pub(crate) async fn try_sync(&self) -> Result<RunReport, SyncError> {
        let (_stopper, stop) = stop::channel();
        self.sync_until(&Arc::default(), &stop).await
    }

    pub(crate) async fn sync_until(
        &self,
        progress: &Arc<Progress>,
        stop: &Stop,
    ) -> Result<RunReport, SyncError> {
        let Mirror {
            emulator,
            database,
            dry_run,
            safeguards,
        } = self;
        run(emulator, database, *dry_run, *safeguards, progress, stop).await
    }

    /// A run that waits for the lock of its instance without a limit.
    pub(crate) async fn sync_waiting(
        &self,
        progress: &Arc<Progress>,
        stop: &Stop,
    ) -> Result<RunReport, SyncError> {
        let client = client_settings(&self.emulator);
        let settings = SyncSettings {
            lock_timeout: None,
            ..sync_settings(&client)
        };
        run_as(client, settings, &self.database, progress, stop).await
    }

    /// The stored content of the registry as text, in an order that does not depend on earlier runs. Does not
    /// include when and by which run a row was written.
    pub(crate) async fn facts(&self) -> String {
        facts(&self.database).await
    }

    /// The facts of a database after a first sync of the same registry. Every other sequence of runs must
    /// have the same result.
    pub(crate) async fn undisturbed_facts(&self) -> String {
        let database = TestDatabase::create().await;
        sync_into(&self.emulator, &database, false).await.unwrap();
        facts(&database).await
    }

    /// Inserts, updates and deletes of each fact table since the database was made.
    pub(crate) async fn writes(&self) -> String {
        // A server process reports its counts before it disappears from the list.
        let alone = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
        wait_until("the run's connections are gone", async || {
            self.database.snapshot(alone).await == "0"
        })
        .await;
        let names = FACT_TABLES.map(|name| format!("'{name}'")).join(", ");
        self.database
            .snapshot(&format!(
                "select relname, n_tup_ins, n_tup_upd, n_tup_del
                 from pg_stat_user_tables
                 where schemaname = 'swr' and relname in ({names})
                 order by relname"
            ))
            .await
    }
}

fn ending(dry_run: bool) -> Ending {
    match dry_run {
        true => Ending::DryRun,
        false => Ending::Publish,
    }
}

/// One run from a registry into a database.
pub(crate) async fn sync_into(
    emulator: &Emulator,
    database: &TestDatabase,
    dry_run: bool,
) -> Result<RunReport, SyncError> {
    let (_stopper, stop) = stop::channel();
    let safeguards = Safeguards::default();
    run(
        emulator,
        database,
        dry_run,
        safeguards,
        &Arc::default(),
        &stop,
    )
    .await
}

async fn run(
    emulator: &Emulator,
    database: &TestDatabase,
    dry_run: bool,
    safeguards: Safeguards,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<RunReport, SyncError> {
    let client = client_settings(emulator);
    let settings = SyncSettings {
        swr_instance_id: emulator.settings().instance_id.clone(),
        ending: ending(dry_run),
        safeguards,
        ..sync_settings(&client)
    };
    run_as(client, settings, database, progress, stop).await
}

/// The default settings of a test's run.
pub(crate) fn sync_settings(client: &ProjectSettings) -> SyncSettings {
    SyncSettings {
        swr_instance_id: EmulatorSettings::default().instance_id,
        project_id: client.project_id.clone(),
        endpoint: client.endpoint.to_string(),
        region: None,
        ending: Ending::Publish,
        safeguards: Safeguards::default(),
        lock_timeout: Some(Duration::ZERO),
        patience: PATIENCE,
        heartbeat: HEARTBEAT,
        host: "test-host".to_owned(),
        clock: Clock::system(),
    }
}

/// One run with the given client and settings.
pub(crate) async fn run_as(
    client: ProjectSettings,
    settings: SyncSettings,
    database: &TestDatabase,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<RunReport, SyncError> {
    run_at(client, settings, database.url(), progress, stop).await
}

/// The same, with a database URL.
pub(crate) async fn run_at(
    client: ProjectSettings,
    settings: SyncSettings,
    database_url: &str,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<RunReport, SyncError> {
    let registry = Registry::new(client, &settings.swr_instance_id).unwrap();
    let database = Database::from_url(database_url).unwrap();
    sync(&registry, &database, &settings, progress, stop).await
}

/// Compares a registry with a database; a sample of histories starts at `start`.
pub(crate) async fn verify(
    emulator: &Emulator,
    database: &TestDatabase,
    histories: Option<u64>,
    start: &str,
    clock: Clock,
    stop: &Stop,
) -> Result<Verification, SyncError> {
    let client = client_settings(emulator);
    let settings = SyncSettings {
        swr_instance_id: emulator.settings().instance_id.clone(),
        ending: Ending::Compare(Sample {
            histories,
            start: start.to_owned(),
        }),
        clock,
        ..sync_settings(&client)
    };
    let report = run_as(client, settings, database, &Arc::default(), stop).await?;
    Ok(report.verification.unwrap())
}

/// Polls a condition that another task or process makes true.
pub(crate) async fn wait_until(what: &str, condition: impl AsyncFn() -> bool) {
    let patience = Duration::from_secs(60);
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(patience, waiting).await.is_err() {
        panic!("timed out after {patience:?} waiting until {what}");
    }
}

/// The stored content of a registry; see [`Mirror::facts`].
pub(crate) async fn facts(database: &TestDatabase) -> String {
    const QUERIES: [(&str, &str); 6] = [
        (
            "namespace",
            "select namespace_id, name, repository_count, metadata, created_at, updated_at, extra
             from swr.namespace where removed_at is null order by 1",
        ),
        (
            "repository",
            "select repository_id, namespace_id, namespace_name, name, description, tag_count, artifact_count,
                    pull_count, created_at, updated_at, extra
             from swr.repository where removed_at is null order by 1",
        ),
        ("artifact", "select * from swr_report.artifact order by artifact_id"),
        ("tag", "select * from swr_report.tag order by repository_id, tag"),
        (
            "open interval",
            "select repository_id, name, digest from swr.tag_history where valid_to is null order by 1, 2",
        ),
        ("build history", "select * from swr_report.build_history order by artifact_id, position"),
    ];
    let mut text = String::new();
    for (name, query) in QUERIES {
        let rows = database.snapshot(query).await;
        text.push_str(&format!("-- {name}\n{rows}\n"));
    }
    text
}
