//! All exit codes, with the real process: the cause, the code, and the hint on stderr.
//!
//! The numbers are an interface: schedules, alerts and pod failure policies depend on them.

use std::fs::File;

use nix::sys::signal::Signal;
use secrecy::ExposeSecret;
use serde_json::json;
use swr_emulator::{Emulator, RequestKind};
use swr_sync::exit::Exit;

use crate::support::database::{TestDatabase, lacks_all_migrations};
use crate::support::mirror::{GATEWAY_REFUSAL, wait_until, world_of};
use crate::support::program::{Finished, Program, emulator, emulator_and_database, synced};
use crate::support::wire::{closed_port, http};
use crate::support::{assert_contains, assert_starts_with};

/// Runs a command that must end with this code, and print an error and a hint.
async fn ends(program: Program, exit: Exit, words: &[&str]) -> Finished {
    program.fails(i32::from(exit as u8), words).await
}

impl Finished {
    /// Fails the test unless it ended with this code.
    fn exit(self, exit: Exit) -> Finished {
        self.code(i32::from(exit as u8))
    }
}

#[test]
fn every_exit_code_is_provoked_here() {
    let here = include_str!("exit_codes.rs");
    for exit in Exit::ALL {
        let name = format!("Exit::{exit:?}");
        let is_provoked = [",", ")"]
            .iter()
            .any(|end| here.contains(&format!("{name}{end}")));
        assert!(is_provoked, "nothing here ends with {name}");
    }
}

#[tokio::test]
async fn a_system_that_grants_no_files_is_nothing_to_expect() {
    let program = Program::shell("ulimit -n 4; exec \"$0\" \"$@\"", &["sync"]);
    let finished = program.run().await.exit(Exit::Unexpected);
    finished.says(&[
        "error: Too many open files",
        "hint: the limit on open files or threads is too low",
    ]);
}

#[tokio::test]
async fn a_result_that_cannot_be_written_is_a_failure() {
    let database = TestDatabase::create_empty().await;
    for arguments in [
        &["query", "select 1", "--format", "table"][..],
        &["query", "select 1", "--format", "csv"],
        &["query", "select 1", "--format", "json"],
        &["report"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let program = Program::new(arguments).database(&database).stdout(full);
        let finished = program.run().await.exit(Exit::Unexpected);
        let expected = "error: cannot write the result: No space left on device";
        assert!(
            finished.error().starts_with(expected),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
}

#[tokio::test]
async fn an_unknown_instance_is_a_matter_of_settings_and_another_project_one_of_rights() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    let unknown = Program::sync(&emulator, &database)
        .env("SWR_INSTANCE_ID", "99999999-9999-9999-9999-999999999999");
    let words = [
        "HTTP 404 SVCSTG.SWR.",
        "hint: check SWR_PROJECT_ID and SWR_INSTANCE_ID",
    ];
    ends(unknown, Exit::Usage, &words).await;
    assert_eq!(emulator.requests().total(), 1);
    assert_eq!(database.snapshot("select from swr.instance").await, "");
    let foreign = Program::sync(&emulator, &database)
        .env("SWR_PROJECT_ID", "ffffffffffffffffffffffffffffffff");
    ends(foreign, Exit::Denied, &["HTTP 403 SVCSTG.SWR.4030170"]).await;
    assert_eq!(database.published().await.trim(), "");
}

#[tokio::test]
async fn a_run_with_failed_histories_is_partial_and_the_next_one_repairs_it() {
    let (emulator, database) = emulator_and_database(world_of(3)).await;
    for _ in 0..2 {
        emulator.fail_next(RequestKind::BuildHistory, 500, "");
    }
    let sync = || {
        Program::sync(&emulator, &database).args(&["--max-attempts", "2", "--max-in-flight", "1"])
    };
    let partial = sync().run().await.exit(Exit::Partial);
    partial.says(&[
        "run 1: published in ",
        "  artifacts  3 listed on 1 page: 3 new",
        "  histories  2 fetched, 0 known, 0 unsupported, 0 gone, 1 failed\n",
    ]);
    assert_eq!(database.last_run().await, "published | 3");
    let histories = "select build_history, count(*) from swr_report.artifact group by 1 order by 1";
    assert_eq!(database.snapshot(histories).await, "failed | 1\nstored | 2");

    emulator.reset_requests();
    let repaired = sync().run().await.exit(Exit::Success);
    repaired.says(&["  histories  1 fetched, 2 known, 0 unsupported, 0 gone, 0 failed\n"]);
    assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 1);
    assert_eq!(database.snapshot(histories).await, "stored | 3");
}

#[tokio::test]
async fn a_wrong_key_is_tried_once() {
    let (emulator, database) = synced(world_of(1)).await;
    let program = Program::sync(&emulator, &database)
        .secret("HUAWEICLOUD_SDK_SK", "wrong-secret-key-not-to-be-shown");
    ends(
        program,
        Exit::Denied,
        &[
            "HTTP 401 APIGW.0301",
            "verify aksk signature fail",
            "hint: check the credentials, and the clock",
        ],
    )
    .await;
    assert_eq!(emulator.requests().total(), 1);
    assert_eq!(emulator.requests().failed_signatures, 1);
    assert_eq!(database.last_run().await, "failed | 4");
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let emulator = emulator(world_of(1)).await;
    let port = closed_port();
    let url = format!("postgresql://user:pass-not-to-be-shown@127.0.0.1:{port}/mirror");
    for command in [
        &["sync"][..],
        &["status"],
        &["migrate"],
        &["migrate", "--check"],
        &["report", "artifact"],
        &["query", "select 1"],
    ] {
        let program = Program::new(command).registry(&emulator).database_url(&url);
        let words = [
            &format!("error: cannot connect to the database mirror at 127.0.0.1:{port}\n"),
            "caused by: ",
            "hint: check that the server runs",
        ];
        ends(program, Exit::Database, &words).await;
    }
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn a_role_without_rights_is_a_matter_of_the_database() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    let program = Program::sync(&emulator, &database).args(&["--no-migrate"]);
    let words = [
        "permission denied for schema swr",
        "hint: grant the missing privilege to the role",
    ];
    ends(program.stranger(&database).await, Exit::Database, &words).await;
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn without_migrating_an_empty_database_is_refused() {
    let emulator = emulator(world_of(1)).await;
    let database = TestDatabase::create_empty().await;
    let words = [
        &format!("error: {}\n", lacks_all_migrations()),
        "hint: run `swr-sync migrate` as the owner of the schema\n",
    ];
    let by_flag = Program::sync(&emulator, &database).args(&["--no-migrate"]);
    ends(by_flag, Exit::Database, &words).await;
    for yes in ["1", "true", "yes"] {
        let by_variable = Program::sync(&emulator, &database).env("SWR_SYNC_NO_MIGRATE", yes);
        ends(by_variable, Exit::Database, &words).await;
    }
    assert_eq!(emulator.requests().total(), 0);
    let schemas = "select count(*) from pg_namespace where nspname like 'swr%'";
    assert_eq!(database.snapshot(schemas).await, "0");

    for no in ["", "0", "false"] {
        let program = Program::sync(&emulator, &database).env("SWR_SYNC_NO_MIGRATE", no);
        program.code(0).await;
    }
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    database.snapshot("insert into swr._sqlx_migrations (version, description, success, checksum, execution_time)
         values (9001, 'from the future', true, '', 0)").await;
    for command in [
        &["sync"][..],
        &["sync", "--no-migrate"],
        &["migrate"],
        &["migrate", "--check"],
        &["status"],
        &["report", "artifact"],
    ] {
        let program = Program::new(command)
            .registry(&emulator)
            .database(&database);
        let words = [
            "error: the database has the migration 9001, which this program does not know",
            "hint: use the version of swr-sync that migrated the database, or a later one",
        ];
        ends(program, Exit::Refused, &words).await;
    }
    assert_eq!(emulator.requests().total(), 0);
    assert_eq!(database.snapshot("select from swr.instance").await, "");
}

#[tokio::test]
async fn a_schema_of_an_unreleased_version_is_left_alone() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    database
        .snapshot("update swr._sqlx_migrations set checksum = 'other' where version = 1")
        .await;
    for command in [
        &["sync"][..],
        &["migrate"],
        &["migrate", "--check"],
        &["status"],
    ] {
        let program = Program::new(command)
            .registry(&emulator)
            .database(&database);
        let words = [
            "error: the schema is from an unreleased version of swr-sync: its migration 1 differs",
            "hint: sync into a new database",
        ];
        ends(program, Exit::Refused, &words).await;
    }
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn an_instance_that_changed_its_project_is_refused() {
    let (emulator, database) = synced(world_of(1)).await;
    let program = Program::sync(&emulator, &database)
        .env("SWR_PROJECT_ID", "ffffffffffffffffffffffffffffffff");
    let project = &emulator.settings().project_id;
    let words = [
        &format!("as one of project {project}, not ffffffffffffffffffffffffffffffff"),
        "hint: check SWR_PROJECT_ID and SWR_INSTANCE_ID, or use another database",
    ];
    ends(program, Exit::Refused, &words).await;
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_asked_as_often_as_told() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    Program::sync(&emulator, &database).code(0).await;
    let program = Program::sync(&emulator, &database)
        .env(
            "SWR_ENDPOINT",
            format!("http://127.0.0.1:{}", closed_port()),
        )
        .args(&["--max-attempts", "3"]);
    let words = [
        "no answer: ",
        "refused",
        "(after 3 attempts in ",
        "hint: check the endpoint or region, the network, and HTTPS_PROXY; nothing was published",
    ];
    ends(program, Exit::SourceUnavailable, &words).await;
    assert_eq!(database.last_run().await, "failed | 7");
    let counted = json!({ "requests": { "namespaces": { "error": 3 } }, "retries": 2 });
    assert_eq!(database.last_run_with("requests, retries").await, counted);
}

#[tokio::test]
async fn a_second_run_says_who_holds_the_lock_and_asks_for_nothing() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    emulator.hang_next(RequestKind::Artifacts);
    let first = Program::sync(&emulator, &database).start();
    wait_until("the first run waits for its page", async || {
        emulator.requests().of(RequestKind::Artifacts) == 1
    })
    .await;

    let requests = emulator.requests().total();
    let sql = "select format('another sync of this instance is already running: run 1 on %s, process %s, since %s UTC',
                             host, process_id, to_char(started_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'))
               from swr.sync_run";
    let expected = database.snapshot(sql).await;
    let process = format!(", process {}, since ", first.process_id());
    assert_contains(&expected, &process);
    let words = [expected.as_str(), "hint: wait until that run ends"];
    ends(Program::sync(&emulator, &database), Exit::Locked, &words).await;
    assert_eq!(emulator.requests().total(), requests);
    assert_eq!(
        database.snapshot("select count(*) from swr.sync_run").await,
        "1"
    );

    first.signal(Signal::SIGTERM);
    first.finish().await.exit(Exit::Terminated);
    Program::sync(&emulator, &database).code(0).await;
}

/// Stored histories, as they arrive.
async fn wait_for_histories(database: &TestDatabase, count: usize) {
    wait_until("the histories are stored", async || {
        let stored = "select count(*) from swr.manifest where outcome = 'stored'";
        database.snapshot(stored).await == count.to_string()
    })
    .await;
}

#[tokio::test]
async fn sigterm_while_a_history_hangs_keeps_what_had_arrived() {
    let (emulator, database) = emulator_and_database(world_of(5)).await;
    emulator.hang_next(RequestKind::BuildHistory);
    let run = Program::sync(&emulator, &database).start();
    wait_for_histories(&database, 4).await;
    run.signal(Signal::SIGTERM);
    let finished = run.finish().await.exit(Exit::Terminated);
    assert_eq!(finished.stdout, "");
    let words =
        ["error: stopped by a signal; the data received so far is stored, nothing was published"];
    finished.says(&words);
    assert_eq!(database.last_run().await, "stopped | 143");
    assert_eq!(database.published().await.trim(), "");

    emulator.reset_requests();
    let next = Program::sync(&emulator, &database).code(0).await;
    next.says(&["5 listed on 1 page: 5 new", "1 fetched, 4 known"]);
    assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 1);
}

#[tokio::test]
async fn sigint_while_a_page_hangs_keeps_what_had_arrived() {
    let (emulator, database) = emulator_and_database(world_of(101)).await;
    // The first page arrives, the second never does.
    emulator.fail_next(RequestKind::Artifacts, 200, first_page(&emulator).await);
    emulator.hang_next(RequestKind::Artifacts);
    emulator.reset_requests();
    let run = Program::sync(&emulator, &database).start();
    wait_for_histories(&database, 100).await;
    wait_until("the second page is requested", async || {
        emulator.requests().of(RequestKind::Artifacts) == 2
    })
    .await;
    run.signal(Signal::SIGINT);
    let finished = run.finish().await.exit(Exit::Interrupted);
    finished.says(&["error: stopped by a signal; the data received so far is stored"]);
    assert_eq!(database.last_run().await, "stopped | 130");
    let columns = "pages, artifacts_listed, histories_fetched";
    let expected = json!({ "pages": 1, "artifacts_listed": 100, "histories_fetched": 100 });
    assert_eq!(database.last_run_with(columns).await, expected);
    assert_eq!(database.published().await.trim(), "");

    let next = Program::sync(&emulator, &database).code(0).await;
    next.says(&["101 listed on 2 pages: 101 new", "1 fetched, 100 known"]);
    assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 101);
}

/// The first page of the artifact list, as the program requests it.
async fn first_page(emulator: &Emulator) -> String {
    let settings = emulator.settings();
    let token = settings.credentials.fixed_token.as_ref().unwrap();
    let request = format!(
        "GET /v2/{}/instances/{}/artifacts?marker=1&limit=100",
        settings.project_id, settings.instance_id
    );
    let headers = format!("x-auth-token: {}\r\n", token.expose_secret());
    let answer = http(emulator, &request, &headers, "").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_starts_with(&head, "HTTP/1.1 200 ");
    body.to_owned()
}

#[tokio::test]
async fn of_several_instances_the_worst_end_counts_and_each_is_told() {
    let (emulator, database) = emulator_and_database(world_of(3)).await;
    let known = emulator.settings().instance_id.clone();
    let unknown = "99999999-9999-9999-9999-999999999999";
    let sync = |ids: String| Program::sync(&emulator, &database).env("SWR_INSTANCE_ID", ids);
    let told = [
        &format!("instance {unknown}:\nerror: "),
        "HTTP 404 SVCSTG.SWR.",
        "hint: check SWR_PROJECT_ID and SWR_INSTANCE_ID",
    ];
    let both = format!("{known},{unknown}");
    // One partial, one unavailable.
    emulator.fail_next(RequestKind::BuildHistory, 403, GATEWAY_REFUSAL);
    let finished = sync(both.clone()).run().await.exit(Exit::Usage);
    finished
        .says(&told)
        .says(&["run 1: published in ", " 1 failed"]);
    assert_eq!(database.last_run().await, "published | 3");
    // One complete, one unavailable.
    let finished = sync(both).run().await.exit(Exit::Usage);
    finished.says(&told).says(&["run 2: published in "]);
    // Of two failures, the one that needs a change by a user.
    let program = sync(format!("{unknown},{known}"));
    emulator.fail_next(RequestKind::Namespaces, 403, GATEWAY_REFUSAL);
    program.run().await.exit(Exit::Usage);
    assert_eq!(database.last_run().await, "failed | 4");
}
