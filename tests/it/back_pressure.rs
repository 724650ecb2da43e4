//! Runs in which one stage is slower than another: no run hangs when a queue is full.

use std::sync::Arc;
use std::time::Duration;

use swr_emulator::{
    ArtifactSpec, CatalogTotal, Dialect, Emulator, EmulatorSettings, ErrorBody, Fault, Instance,
    RequestKind, World,
};
use swr_sync::build_history::RepositoryPath;
use swr_sync::database::Database;
use swr_sync::exit::Exit;
use swr_sync::registry::{Credentials, Project, ProjectSettings, RetryPolicy, TransportSettings};
use swr_sync::run::RunReport;
use swr_sync::stop;
use swr_sync::sync::{SyncError, SyncSettings, sync};

use tokio::sync::Mutex;

use super::support::assert_contains;
use super::support::database::TestDatabase;
use super::support::held_up::HeldUp;
use super::support::mirror::{
    Mirror, client_settings, run_as, start_of_time, sync_settings, user_settings, wait_until,
};
use super::support::program::Program;
use super::support::proxy::Proxy;

/// Long, because a run that hangs never ends.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the database stalls: longer than it takes to fill every queue.
const STALL: Duration = Duration::from_secs(10);

/// Many distinct digests, so that the queue of wanted histories fills up.
const DIGESTS: u64 = 2_500;

fn world(digests: u64, repositories: u64) -> World {
    let mut world = World::empty(start_of_time());
    world.add_namespace("team");
    let ids: Vec<i64> = (0..repositories)
        .map(|number| world.add_repository("team", &format!("app/{number}")))
        .collect();
    for number in 0..digests {
        let repository_id = ids[(number % repositories) as usize];
        let added = world.add_artifact(repository_id, ArtifactSpec::default());
        assert!(added.is_some());
    }
    world
}

fn client(emulator: &Emulator, max_in_flight: usize) -> ProjectSettings {
    let client = client_settings(emulator);
    ProjectSettings {
        transport: TransportSettings {
            max_in_flight,
            retry: RetryPolicy {
                max_attempts: 8,
                base_delay: Duration::from_millis(20),
                max_delay: Duration::from_millis(200),
                ..client.transport.retry
            },
            ..client.transport
        },
        ..client
    }
}

async fn first_sync(
    client: ProjectSettings,
    database: &TestDatabase,
) -> Result<RunReport, SyncError> {
    let settings = sync_settings(&client);
    let (_stopper, stop) = stop::channel();
    let progress = Arc::default();
    let running = run_as(client, settings, database, &progress, &stop);
    match tokio::time::timeout(PATIENCE, running).await {
        Ok(result) => result,
        Err(_) => panic!("the run hangs: {progress:?}"),
    }
}

async fn expect_all_histories(client: ProjectSettings, emulator: &Emulator, what: &str) {
    let database = TestDatabase::create().await;
    let report = first_sync(client, &database).await;
    let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(report.counters.histories_fetched, DIGESTS, "{what}");
    let stored = "select count(*) from swr.manifest where outcome = 'empty'";
    assert_eq!(
        database.snapshot(stored).await,
        DIGESTS.to_string(),
        "{what}"
    );
    let most = emulator.history_requests().into_values().max();
    assert!(most >= Some(1), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_ends_with_any_number_of_requests_at_a_time() {
    for max_in_flight in [1, 2, 4, 16, 64, 99, 256] {
        let emulator = Emulator::start(EmulatorSettings::default(), world(DIGESTS, 1));
        let emulator = emulator.await.unwrap();
        let client = client(&emulator, max_in_flight);
        expect_all_histories(client, &emulator, &format!("{max_in_flight} at a time")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_survives_an_outage_of_the_histories() {
    for status in [429, 500, 502, 504] {
        let emulator = Emulator::start(EmulatorSettings::default(), world(DIGESTS, 40));
        let emulator = emulator.await.unwrap();
        let fault = match status {
            429 => Fault::Throttled { retry_after: None },
            status => Fault::ServerError {
                status,
                body: ErrorBody::Json,
            },
        };
        // Each of the first requests fails several times, while the listing continues.
        let requests = if status == 429 { 100 } else { 3 * 256 };
        for _ in 0..requests {
            emulator.disturb_next(RequestKind::BuildHistory, fault.clone());
        }
        let client = client(&emulator, 256);
        expect_all_histories(client, &emulator, &format!("an outage with {status}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_survives_a_database_that_stalls() {
    let emulator = Emulator::start(EmulatorSettings::default(), world(DIGESTS, 1));
    let emulator = emulator.await.unwrap();
    let database = TestDatabase::create().await;
    let proxy = Proxy::before_database(database.url()).await;
    let run = Program::sync(&emulator, &database)
        .database_url(&proxy.database_url(database.url()))
        .env("SWR_MAX_IN_FLIGHT", "64")
        .start();
    wait_until("histories are stored", async || {
        let stored = "select count(*) > 100 from swr.manifest";
        database.snapshot(stored).await == "t"
    })
    .await;
    proxy.fall_silent();
    tokio::time::sleep(STALL).await;
    proxy.pass();
    run.finish().await.code(0);
    let stored = "select count(*) from swr.manifest where outcome = 'empty'";
    assert_eq!(database.snapshot(stored).await, DIGESTS.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_with_a_wrong_total_is_read_to_its_end() {
    for catalog_total in [
        CatalogTotal::Zero,
        CatalogTotal::Absent,
        CatalogTotal::TooSmall,
        CatalogTotal::TooLarge,
    ] {
        let settings = EmulatorSettings {
            dialect: Dialect {
                catalog_total,
                ..Dialect::default()
            },
            ..EmulatorSettings::default()
        };
        let emulator = Emulator::start(settings, world(DIGESTS, 350))
            .await
            .unwrap();
        let database = TestDatabase::create().await;
        let client = client(&emulator, 256);
        let result = first_sync(client, &database).await;
        if catalog_total == CatalogTotal::TooLarge {
            assert_eq!(result.unwrap_err().exit(), Exit::SourceUnavailable);
            continue;
        }
        let report = result.unwrap_or_else(|error| panic!("{catalog_total:?}: {error}"));
        assert_eq!(report.counters.histories_fetched, DIGESTS);
        let names = "select count(*), count(*) filter (where name is not null) from swr.repository";
        assert_eq!(database.snapshot(names).await, "350 | 350");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_run_is_ended_by_its_watchdog() {
    let emulator = Emulator::start(EmulatorSettings::default(), world(10, 1));
    let emulator = emulator.await.unwrap();
    let database = TestDatabase::create().await;
    let mut client = client(&emulator, 1);
    // Maximum wait for requests in flight of another instance.
    client.transport.request_timeout = Duration::from_secs(2);
    // Then the instance is described, and the next run begins with the catalog.
    first_sync(client.clone(), &database).await.unwrap();
    let settings = SyncSettings {
        patience: Duration::from_secs(1),
        // Several times within the patience, as in production: writing the row does not count as progress.
        heartbeat: Duration::from_millis(200),
        ..sync_settings(&client)
    };
    let project = Project::new(client).unwrap();
    // A future that is not polled holds the only permit of the project.
    emulator.hang_next(RequestKind::BuildHistory);
    let repository = RepositoryPath {
        namespace: "team".to_owned(),
        name: "app/0".to_owned(),
    };
    let other = project.registry(&settings.swr_instance_id);
    let digest = format!("sha256:{:064x}", 0);
    let asking = Box::pin(other.build_history(&repository, &digest));
    let asking = Mutex::new(asking);
    wait_until("the permit is taken", async || {
        let _ = futures_util::poll!(&mut *asking.lock().await);
        emulator.requests().of(RequestKind::BuildHistory) == 11
    })
    .await;

    let registry = project.registry(&settings.swr_instance_id);
    let target = Database::from_url(database.url()).unwrap();
    let (_stopper, stop) = stop::channel();
    let progress = Arc::default();
    let running = sync(&registry, &target, &settings, &progress, &stop);
    let error = tokio::time::timeout(PATIENCE, running)
        .await
        .expect("the watchdog ends the run")
        .unwrap_err();
    assert_eq!(error.exit(), Exit::Unexpected);
    let text = error.to_string();
    assert_contains(&text, "lister: waiting for a page of the registry");
    drop(asking);
}

/// Three instances of one project. One of them requests something that the others wait for, and this takes
/// longer than their patience.
async fn expect_none_to_be_stuck(
    slow: RequestKind,
    credentials: impl FnOnce(&Emulator) -> Credentials,
) {
    const LATE: Duration = Duration::from_secs(3);
    let emulator = Emulator::start(EmulatorSettings::default(), world(10, 1));
    let emulator = emulator.await.unwrap();
    let ids = [&*emulator.settings().instance_id, "bbb", "ccc"];
    for id in &ids[1..] {
        let instance = Instance {
            id: (*id).to_owned(),
            name: format!("name-of-{id}"),
            version: "25.6.0".to_owned(),
            status: "Running".to_owned(),
        };
        emulator.add_instance(instance, world(10, 1));
    }
    let database = TestDatabase::create().await;
    let client = ProjectSettings {
        credentials: credentials(&emulator),
        ..client(&emulator, 8)
    };
    let project = Project::new(client.clone()).unwrap();
    emulator.disturb_next(slow, Fault::Late(LATE));
    let runs = ids.map(async |id| {
        let settings = SyncSettings {
            swr_instance_id: id.to_owned(),
            patience: Duration::from_secs(1),
            ..sync_settings(&client)
        };
        let (registry, target) = (project.registry(id), Database::from_url(database.url()));
        let (_stopper, stop) = stop::channel();
        sync(
            &registry,
            &target.unwrap(),
            &settings,
            &Arc::default(),
            &stop,
        )
        .await
    });
    for result in futures_util::future::join_all(runs).await {
        result.unwrap_or_else(|error| panic!("{slow:?}: {error}"));
    }
    assert_eq!(emulator.queued_faults(), 0, "nothing was late");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_waits_for_the_token_or_probe_of_another_is_not_stuck() {
    let user = |emulator: &Emulator| user_settings(emulator, "emulator-password").credentials;
    expect_none_to_be_stuck(RequestKind::Token, user).await;
    let key = |emulator: &Emulator| client_settings(emulator).credentials;
    expect_none_to_be_stuck(RequestKind::Instance, key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_that_wait_for_a_slow_database_take_a_bounded_memory() {
    // 10,000 steps in 30 KB, which take 1.7 MB until they are stored: 1.2 GB for all of them.
    const IMAGES: u64 = 700;
    let mirror = Mirror::new(world(IMAGES, 1)).await;
    let body = format!(
        r#"{{"build_histories":[{}]}}"#,
        vec!["{}"; 10_000].join(",")
    );
    for _ in 0..IMAGES {
        let answer = Fault::Answer {
            status: 200,
            body: body.clone(),
        };
        mirror.disturb_next(RequestKind::BuildHistory, answer);
    }
    let program = mirror.program();
    let held_up = HeldUp::start(&mirror, "manifest", program).await;
    let requested = || mirror.requests().of(RequestKind::BuildHistory);
    wait_until(
        "as many histories are requested as may be in flight",
        async || requested() >= 256,
    )
    .await;
    // More may follow while memory is free.
    let mut before = 0;
    while requested() > before {
        before = requested();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let peak = held_up.run.peak_memory_kib();
    assert!(peak < 160 << 10, "{peak} KiB");
}
