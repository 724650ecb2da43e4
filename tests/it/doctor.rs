//! `doctor` with the real process: the results of the probes, the exit codes, and the requests.

use std::collections::BTreeMap;

use chrono::Utc;
use serde_json::Value;
use sqlx::Connection;
use swr_emulator::{Clock, Emulator, EmulatorSettings, RequestKind, World};
use tokio::net::TcpListener;

use super::support::database::TestDatabase;
use super::support::mirror::{GATEWAY_REFUSAL, start_of_time, world_of};
use super::support::program::{
    Finished, Program, emulator, emulator_and_database, emulator_settings, synced,
};
use super::support::{assert_contains, cases};

/// All probes, in their order.
const PROBES: [&str; 19] = [
    "configuration.endpoint",
    "configuration.project",
    "configuration.instance",
    "configuration.credentials",
    "database.place",
    "database.connection",
    "database.server",
    "database.schema",
    "database.rights",
    "database.instance",
    "database.lock",
    "endpoint",
    "clock",
    "permission.instance",
    "instance.version",
    "instance.status",
    "permission.list_namespaces",
    "permission.list_repositories",
    "permission.list_artifacts",
];
const LAST_PROBE: &str = "permission.build_history";

fn doctor(emulator: &Emulator, database: &TestDatabase) -> Program {
    Program::new(&["doctor", "--format", "json"])
        .registry(emulator)
        .database(database)
}

/// Runs it, and checks the exit code and the codes of all probes that did not succeed, including
/// `skipped`.
async fn check(program: Program, exit: i32, expected: &[(&str, &str)]) -> Finished {
    let finished = program.code(exit).await;
    let rows: Vec<Value> = serde_json::from_str(&finished.stdout).unwrap();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["probe"].as_str().unwrap())
        .collect();
    let all: Vec<&str> = PROBES.into_iter().chain([LAST_PROBE]).collect();
    assert_eq!(names, all);
    let mut unwell = BTreeMap::new();
    for row in &rows {
        assert!(row["elapsed_ms"].is_u64(), "{row}");
        assert_ne!(row["found"], "", "{row}");
        match row["status"].as_str().unwrap() {
            "ok" => assert_eq!(row["code"], "ok", "{row}"),
            "skipped" => assert_eq!(row["code"], "skipped", "{row}"),
            "fail" | "warn" => assert!(row["hint"].is_string(), "no next step: {row}"),
            other => panic!("{other}"),
        }
        if row["status"] != "ok" {
            unwell.insert(
                row["probe"].as_str().unwrap(),
                row["code"].as_str().unwrap(),
            );
        }
    }
    let expected: BTreeMap<&str, &str> = expected.iter().copied().collect();
    assert_eq!(unwell, expected, "{}", finished.stdout);
    finished
}

/// The given results, and "skipped" for each of these probes.
fn and_skipped<'a>(probes: &[&'a str], unwell: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let skipped = probes.iter().map(|probe| (*probe, "skipped"));
    skipped.chain(unwell.iter().copied()).collect()
}

const SIGNED: [&str; 7] = [
    "permission.instance",
    "instance.version",
    "instance.status",
    "permission.list_namespaces",
    "permission.list_repositories",
    "permission.list_artifacts",
    LAST_PROBE,
];

#[tokio::test]
async fn all_is_well_with_seven_cheap_requests_and_nothing_written() {
    let (emulator, database) = synced(world_of(1)).await;
    let rows = "select (select count(*) from swr.sync_run), i.* from swr.instance i";
    let before = database.snapshot(rows).await;
    check(doctor(&emulator, &database), 0, &[])
        .await
        .says(&["20 ok, 0 warnings, 0 failed, 0 skipped: `sync` can run\n"]);
    let requests = emulator.requests();
    assert_eq!(requests.total(), 7, "{requests}");
    // Its names need a page of the catalog, in addition to the page that checks the permission.
    assert_eq!(requests.of(RequestKind::Repositories), 2);
    assert_eq!(requests.answered(RequestKind::BuildHistory, 200), 1);
    assert_eq!(requests.failed_signatures, 0);
    assert_eq!(database.snapshot(rows).await, before);
}

#[tokio::test]
async fn a_new_database_needs_a_migration_which_the_doctor_leaves_to_sync() {
    let emulator = emulator(world_of(1)).await;
    let database = TestDatabase::create_empty().await;
    database
        .execute("revoke create on schema public from public")
        .await;
    let expected = [
        ("database.schema", "migration_needed"),
        ("database.instance", "skipped"),
        ("database.lock", "skipped"),
    ];
    check(doctor(&emulator, &database), 0, &expected).await;
    let schemas = "select count(*) from pg_namespace where nspname = 'swr'";
    assert_eq!(database.snapshot(schemas).await, "0");
}

#[tokio::test]
async fn an_empty_registry_has_no_history_to_ask_for() {
    let (emulator, database) = emulator_and_database(World::empty(start_of_time())).await;
    let expected = [(LAST_PROBE, "skipped")];
    let finished = check(doctor(&emulator, &database), 0, &expected).await;
    assert!(finished.stdout.contains("the registry is empty"));
}

#[tokio::test]
async fn a_table_for_people_names_the_next_step_below_each_line() {
    let (emulator, database) = synced(world_of(1)).await;
    emulator.fail_next(RequestKind::Artifacts, 403, GATEWAY_REFUSAL);
    let program = Program::new(&["doctor"])
        .registry(&emulator)
        .database(&database);
    let finished = program.code(4).await;
    let mut lines = finished.stdout.lines();
    let line = lines.find(|line| line.starts_with("fail ")).unwrap();
    assert!(line.contains("permission.list_artifacts") && line.contains("no permission"));
    let hint = lines.next().unwrap();
    assert_contains(&hint, "hint: allow swr:instance:listAllArtifacts");
    finished.says(&["`sync` would exit with 4\n"]);
}

#[tokio::test]
async fn a_wrong_key_costs_one_failed_signature_and_a_wrong_password_one_login() {
    let (emulator, database) = synced(world_of(1)).await;
    let expected = and_skipped(&SIGNED[1..], &[("permission.instance", "http_401")]);
    let program = doctor(&emulator, &database).secret("HUAWEICLOUD_SDK_SK", "another-key");
    check(program, 4, &expected).await;
    let requests = emulator.requests();
    assert_eq!((requests.total(), requests.failed_signatures), (2, 1));

    emulator.reset_requests();
    let program = doctor(&emulator, &database).iam_user(&emulator, &"another-password".into());
    check(program, 4, &expected).await;
    let requests = emulator.requests();
    assert_eq!((requests.total(), requests.of(RequestKind::Token)), (2, 1));
}

#[tokio::test]
async fn each_permission_that_is_missing_is_named() {
    let (emulator, database) = synced(world_of(1)).await;
    let cases = cases! {
        RequestKind::Namespaces, 4, "permission.list_namespaces" => "listNamespaces";
        RequestKind::Repositories, 4, "permission.list_repositories" => "listRepositories";
        // Without this permission a run publishes, and reports that histories are missing.
        RequestKind::BuildHistory, 3, "permission.build_history" => "getTagAddition";
    };
    for (kind, exit, probe, action) in cases {
        emulator.fail_next(kind, 403, GATEWAY_REFUSAL);
        let finished = check(doctor(&emulator, &database), exit, &[(probe, "http_403")]).await;
        assert_contains(&finished.stdout, action);
    }
    emulator.fail_next(RequestKind::Artifacts, 403, GATEWAY_REFUSAL);
    let expected = [
        ("permission.list_artifacts", "http_403"),
        (LAST_PROBE, "skipped"),
    ];
    check(doctor(&emulator, &database), 4, &expected).await;
    // A run requests the instance, and continues without it.
    emulator.fail_next(RequestKind::Instance, 403, GATEWAY_REFUSAL);
    let expected = and_skipped(&SIGNED[1..3], &[("permission.instance", "http_403")]);
    check(doctor(&emulator, &database), 0, &expected).await;
}

async fn with_clock(minutes: i64) -> (Emulator, TestDatabase) {
    let settings = EmulatorSettings {
        clock: Clock::manual(Utc::now() + chrono::TimeDelta::minutes(minutes)),
        ..emulator_settings()
    };
    let emulator = Emulator::start(settings, world_of(1)).await.unwrap();
    (emulator, TestDatabase::create().await)
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_noticed_before_anything_is_signed() {
    for minutes in [20, -20] {
        let (emulator, database) = with_clock(minutes).await;
        let expected = and_skipped(&SIGNED, &[("clock", "clock_skew")]);
        check(doctor(&emulator, &database), 4, &expected).await;
        let requests = emulator.requests();
        assert_eq!((requests.total(), requests.failed_signatures), (1, 0));
    }
}

#[tokio::test]
async fn a_clock_that_does_no_harm_yet_is_worth_a_warning() {
    let (emulator, database) = with_clock(5).await;
    check(doctor(&emulator, &database), 0, &[("clock", "clock_skew")]).await;
    // A token is not signed.
    let (emulator, database) = with_clock(20).await;
    let program = doctor(&emulator, &database).token("token-not-to-be-shown");
    check(program, 0, &[("clock", "clock_skew")]).await;
}

#[tokio::test]
async fn an_instance_that_is_too_old_does_not_know_the_list() {
    let settings = EmulatorSettings {
        instance_version: "25.5.3".into(),
        ..emulator_settings()
    };
    let emulator = Emulator::start(settings, world_of(1)).await.unwrap();
    let database = TestDatabase::create().await;
    let expected = [
        ("instance.version", "old_instance"),
        ("permission.list_artifacts", "http_404"),
        (LAST_PROBE, "skipped"),
    ];
    check(doctor(&emulator, &database), 2, &expected).await;
    Program::sync(&emulator, &database).code(2).await;
}

#[tokio::test]
async fn an_instance_that_does_not_run_is_worth_a_warning() {
    let (emulator, database) = synced(world_of(1)).await;
    let body = r#"{"name":"demo","version":"25.6.0","status":"Unavailable"}"#;
    emulator.fail_next(RequestKind::Instance, 200, body);
    let expected = [("instance.status", "not_running")];
    check(doctor(&emulator, &database), 0, &expected).await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_leaves_nothing_to_sign() {
    let (emulator, database) = synced(world_of(1)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let program = || doctor(&emulator, &database).env("SWR_ENDPOINT", format!("http://{address}"));
    let skipped: Vec<&str> = ["clock"].into_iter().chain(SIGNED).collect();

    // It accepts the connection, and never answers.
    let silent = program().env("SWR_REQUEST_TIMEOUT", "200ms");
    check(
        silent,
        7,
        &and_skipped(&skipped, &[("endpoint", "timeout")]),
    )
    .await;
    drop(listener);
    check(
        program(),
        7,
        &and_skipped(&skipped, &[("endpoint", "unreachable")]),
    )
    .await;

    let unknown = program().env("SWR_ENDPOINT", "http://nowhere.invalid");
    check(unknown, 7, &and_skipped(&skipped, &[("endpoint", "dns")])).await;
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn a_call_that_hangs_does_not_keep_the_others_from_being_made() {
    let (emulator, database) = synced(world_of(1)).await;
    emulator.hang_next(RequestKind::Namespaces);
    let program = doctor(&emulator, &database).env("SWR_REQUEST_TIMEOUT", "2s");
    check(program, 7, &[("permission.list_namespaces", "timeout")]).await;
    assert_eq!(emulator.requests().of(RequestKind::Namespaces), 1);
}

const DATABASE: [&str; 6] = [
    "database.connection",
    "database.server",
    "database.schema",
    "database.rights",
    "database.instance",
    "database.lock",
];

#[tokio::test]
async fn without_a_database_the_registry_is_checked_all_the_same() {
    let (emulator, _database) = synced(world_of(1)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let program = || Program::new(&["doctor", "--format", "json"]).registry(&emulator);
    let closed =
        program().database_url(&format!("postgresql://me:seldom-seen@127.0.0.1:{port}/swr"));
    let expected = and_skipped(&DATABASE[1..], &[("database.connection", "unreachable")]);
    check(closed, 5, &expected).await;
    let wrong = program().database_url("mysql://me:seldom-seen@127.0.0.1/swr");
    let expected = and_skipped(&DATABASE, &[("database.place", "configuration")]);
    check(wrong, 2, &expected).await;
}

#[tokio::test]
async fn an_embedded_database_is_looked_at_but_not_made() {
    let (emulator, _database) = synced(world_of(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(&["doctor", "--format", "json"])
        .registry(&emulator)
        .env("SWR_SYNC_DATA_DIR", folder.path());
    check(program, 0, &and_skipped(&DATABASE, &[])).await;
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_wrong_with_the_database_ends_a_run_in_the_same_way() {
    let newer = "insert into swr._sqlx_migrations
        select 9999, description, installed_on, success, checksum, execution_time
        from swr._sqlx_migrations limit 1";
    let read_only = "do $$ begin
        execute format('alter database %I set default_transaction_read_only = on', current_database());
        end $$";
    let skipped = ["database.instance", "database.lock"];
    for (sql, exit, found, skipped, words) in cases! {
        newer, 6, ("database.schema", "newer_schema"), &skipped[..] => "";
        "update swr.instance set project_id = 'another'", 6, ("database.instance", "wrong_instance"), &skipped[1..] => "";
        read_only, 5, ("database.server", "read_only"), &[] => "";
        // Only a warning.
        "grant create on schema public to public", 0, ("database.rights", "open_public"), &[] => "revoke create on schema public from public";
    } {
        let (emulator, database) = synced(world_of(1)).await;
        database.execute(sql).await;
        let expected = and_skipped(skipped, &[found]);
        let finished = check(doctor(&emulator, &database), exit, &expected).await;
        assert_contains(&finished.stdout, words);
        Program::sync(&emulator, &database).code(exit).await;
    }
}

#[tokio::test]
async fn rights_that_are_missing_are_listed() {
    let (emulator, database) = synced(world_of(1)).await;
    let program = || Program::new(&["doctor", "--format", "json"]).registry(&emulator);
    let skipped = ["database.instance", "database.lock"];
    let expected = and_skipped(
        &skipped,
        &[
            ("database.schema", "unreadable"),
            ("database.rights", "missing_rights"),
        ],
    );
    let finished = check(program().stranger(&database).await, 5, &expected).await;
    assert!(finished.stdout.contains("usage on schema swr"));

    // All required privileges except one.
    let grants = "grant usage on schema swr to swr_stranger;
        grant select, insert, update, delete on all tables in schema swr to swr_stranger;
        revoke insert on swr.command from swr_stranger";
    database.execute(grants).await;
    let expected = [("database.rights", "missing_rights")];
    let finished = check(program().stranger(&database).await, 5, &expected).await;
    let words = "to sync the role lacks insert on swr.command\"";
    assert_contains(&finished.stdout, words);

    database
        .execute("grant insert on swr.command to swr_stranger")
        .await;
    check(program().stranger(&database).await, 0, &[]).await;

    // Only `verify` writes the others.
    let revoke = "revoke all on all tables in schema swr from swr_stranger;
        grant select on swr._sqlx_migrations to swr_stranger";
    database.execute(revoke).await;
    let expected = [
        ("database.rights", "missing_rights"),
        ("database.instance", "statement"),
    ];
    let expected = and_skipped(&["database.lock"], &expected);
    let finished = check(program().stranger(&database).await, 5, &expected).await;
    let written = "select relname from pg_class
        where relnamespace = 'swr'::regnamespace and relkind in ('r', 'p')
          and relname not in ('_sqlx_migrations', 'verification', 'verification_difference')";
    for table in database.snapshot(written).await.lines() {
        let table = format!("swr.{table}");
        assert!(
            finished.stdout.contains(&table),
            "{table}: {}",
            finished.stdout
        );
    }
}

#[tokio::test]
async fn a_role_that_may_not_migrate_is_told_before_it_tries() {
    let emulator = emulator(world_of(1)).await;
    let database = TestDatabase::create_empty().await;
    let program = || Program::new(&["doctor", "--format", "json"]).registry(&emulator);
    let skipped = ["database.instance", "database.lock"];
    let unwell = [
        ("database.schema", "migration_needed"),
        ("database.rights", "missing_rights"),
    ];
    let expected = and_skipped(&skipped, &unwell);
    let finished = check(program().stranger(&database).await, 5, &expected).await;
    assert!(finished.stdout.contains("create on database"));
    let sync = Program::new(&["sync"]).registry(&emulator);
    sync.stranger(&database).await.code(5).await;
}

#[tokio::test]
async fn a_lock_that_is_held_is_seen_without_taking_it() {
    let (emulator, database) = synced(world_of(1)).await;
    let mut holder = database.connect().await;
    sqlx::raw_sql(
        "insert into swr.sync_run (instance_id, outcome, started_at, updated_at, program_version, host, process_id,
                                   backend_process_id)
         values (1, 'running', '2026-03-01Z', '2026-03-01Z', '0', 'elsewhere', 7, pg_backend_pid());
         select pg_advisory_lock(1398231635, 1)",
    )
    .execute(&mut holder)
    .await
    .unwrap();
    let expected = [("database.lock", "lock_held")];
    let finished = check(doctor(&emulator, &database), 75, &expected).await;
    let words = "run 2 on elsewhere, process 7, since 2026-03-01 00:00:00 UTC";
    assert_contains(&finished.stdout, words);
    Program::sync(&emulator, &database).code(75).await;
    holder.close().await.unwrap();
}

#[tokio::test]
async fn all_settings_that_are_missing_are_listed_at_once() {
    let database = TestDatabase::create().await;
    let program = Program::new(&["doctor", "--format", "json"]).database(&database);
    let unwell = PROBES[..4].iter().map(|probe| (*probe, "configuration"));
    let skipped: Vec<&str> = ["database.instance", "database.lock", "endpoint", "clock"]
        .into_iter()
        .chain(SIGNED)
        .collect();
    let expected = and_skipped(&skipped, &unwell.collect::<Vec<_>>());
    check(program, 2, &expected).await;
}

#[tokio::test]
async fn credentials_are_named_by_where_they_were_found() {
    let (emulator, database) = synced(world_of(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let key = "secret-key-not-to-be-shown";
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let program = doctor(&emulator, &database)
        .without("HUAWEICLOUD_SDK_SK")
        .env("HUAWEICLOUD_SDK_SK_FILE", &file);
    let finished = check(program, 0, &[]).await;
    let words = "an access key in HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK_FILE";
    assert_contains(&finished.stdout, words);
    let access_key = &emulator.settings().credentials.access_key;
    assert!(!finished.stdout.contains(access_key.as_str()));
}
