//! `sync` as a batch job, on the real process: its behaviour while another run is active, its time
//! limit, and that it stops on a signal at any point.

use std::io::pipe;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::{Connection, Executor};
use swr_emulator::{Emulator, RequestKind};
use swr_sync::stop::{self, StopReason};
use swr_sync::sync::{Phase, Progress};

use crate::support::assert_contains;
use crate::support::database::TestDatabase;
use crate::support::held_up::{is_waited_for, wait_until_alone, wait_until_unlocked};
use crate::support::mirror::{Mirror, facts, sync_into, wait_until, world_of};
use crate::support::program::{
    Program, Running, emulator, emulator_and_database, emulator_settings,
};
use crate::support::wire::closed_port;

/// An emulator, a database, and a run that holds the lock and waits for a page.
async fn run_with_lock() -> (Emulator, TestDatabase, Running) {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    emulator.hang_next(RequestKind::Artifacts);
    let run = Program::sync(&emulator, &database).start();
    wait_for_requests(&emulator, RequestKind::Artifacts, 1).await;
    (emulator, database, run)
}

async fn wait_for_requests(emulator: &Emulator, kind: RequestKind, count: u64) {
    wait_until("it asks", async || emulator.requests().of(kind) >= count).await;
}

async fn wait_for_words(run: &Running, words: &str) {
    wait_until(words, async || run.stderr_so_far().contains(words)).await;
}

/// Number of the program's sessions for which the condition is true.
async fn sessions(database: &TestDatabase, condition: &str) -> String {
    let count = format!(
        "select count(*) from pg_stat_activity
         where datname = current_database() and application_name like 'swr-sync%' and {condition}"
    );
    database.snapshot(&count).await
}

#[tokio::test]
async fn a_run_that_skips_leaves_the_instance_to_the_one_that_is_going_on() {
    let (emulator, database, first) = run_with_lock().await;
    let requests = emulator.requests().total();
    let process = first.process_id();
    let instance = &emulator.settings().instance_id;
    let sync = || Program::sync(&emulator, &database);
    for program in [
        sync().args(&["--if-locked", "skip"]),
        sync().env("SWR_SYNC_IF_LOCKED", "skip"),
    ] {
        let finished = program.code(0).await;
        assert_eq!(finished.stdout, "");
        let line = format!(
            "instance {instance} is skipped: another sync of this instance is already running: run 1 on "
        );
        let holder = format!(", process {process}, since ");
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        finished.says(&[&line, &holder]);
    }
    let json = ["--if-locked", "skip", "--log-format", "json"];
    let finished = sync().args(&json).code(0).await;
    finished.says(&["\"level\":\"INFO\"", " is skipped: "]);
    assert_eq!(emulator.requests().total(), requests);
    let runs = "select count(*) from swr.sync_run";
    assert_eq!(database.snapshot(runs).await, "1");
    first.signal(Signal::SIGTERM);
    first.finish().await.code(143);
    // Without another run, it is an ordinary run.
    sync().args(&["--if-locked", "skip"]).code(0).await;
    assert_eq!(database.last_run().await, "published | 0");
}

#[tokio::test]
async fn a_session_that_is_no_run_and_holds_the_lock_is_named() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    Program::sync(&emulator, &database).code(0).await;
    // The last run was killed, so its row still says that it is running.
    database
        .snapshot(
            "update swr.sync_run set outcome = 'running', finished_at = null, published_at = null",
        )
        .await;
    let mut holder = database.connect().await;
    let setup = "set application_name = 'by hand';
                 select pg_advisory_lock(1398231635, instance_id) from swr.instance";
    holder.execute(setup).await.unwrap();
    let who = "select format('database session %s of role `%s`, application `by hand`, from %s, connected since %s UTC',
                             pid, usename, coalesce(host(client_addr), 'a local socket'),
                             to_char(backend_start at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'))
               from pg_stat_activity
               where datname = current_database() and application_name = 'by hand'";
    let who = database.snapshot(who).await;
    let held =
        format!("the lock of this instance is held by a session that is no run of swr-sync: {who}");
    let sync = || Program::sync(&emulator, &database);
    let words = [&format!("error: {held}"), "hint: end that session"];
    sync().fails(75, &words).await;
    let waiting = sync().args(&["--if-locked", "wait=1ms"]).run().await;
    let words = format!("waiting up to 1ms for the lock of this instance: {who}");
    waiting.code(75).says(&[&words, "(waited "]);
    // The instance is not synced in the meantime.
    let skipping = sync().args(&["--if-locked", "skip"]).code(0).await;
    skipping.says(&[" WARN ", &format!(" is skipped: {held}")]);
    let doctor = Program::new(&["doctor"]).registry(&emulator);
    let found = doctor.database(&database).code(75).await;
    assert_contains(&found.stdout, &held);

    holder.close().await.unwrap();
    wait_until_unlocked(&database).await;
    sync().code(0).await;
}

#[tokio::test]
async fn of_several_instances_only_the_locked_one_is_skipped() {
    let (emulator, database, first) = run_with_lock().await;
    let unknown = "99999999-9999-9999-9999-999999999999";
    let both = format!("{},{unknown}", emulator.settings().instance_id);
    let finished = Program::sync(&emulator, &database)
        .args(&["--if-locked", "skip", "--instance-id", &both])
        .code(2)
        .await;
    finished.says(&[
        " is skipped: another sync of this instance is already running",
        "HTTP 404",
    ]);
    first.signal(Signal::SIGTERM);
    first.finish().await.code(143);
}

#[tokio::test]
async fn a_run_that_waits_begins_when_the_other_ends() {
    let (emulator, database, first) = run_with_lock().await;
    let requests = emulator.requests().total();
    let second = Program::sync(&emulator, &database)
        .args(&["--if-locked", "wait"])
        .start();
    let words = "waiting for the lock of this instance: run 1 on ";
    wait_for_words(&second, words).await;
    // It has only an idle session on the server.
    wait_until("no snapshot is left open", async || {
        let open = "(backend_xmin is not null or xact_start is not null)";
        sessions(&database, open).await == "0"
    })
    .await;
    assert_eq!(emulator.requests().total(), requests);
    first.signal(Signal::SIGTERM);
    first.finish().await.code(143);
    second
        .finish()
        .await
        .code(0)
        .says(&["run 2: published in "]);
    let order = "select bool_and(ok) from (
                     select started_at >= lag(finished_at) over (order by run_id) as ok from swr.sync_run
                 ) r";
    assert_eq!(database.snapshot(order).await, "t");
}

#[tokio::test]
async fn a_wait_has_an_end() {
    let (emulator, database, first) = run_with_lock().await;
    let program = Program::sync(&emulator, &database).args(&["--if-locked", "wait=1ms"]);
    let words = [
        "error: another sync of this instance is already running (waited ",
        "): run 1 on ",
        "hint: wait until that run ends",
    ];
    let finished = program.fails(75, &words).await;
    finished.says(&["waiting up to 1ms for the lock of this instance: run 1 on "]);

    let waiting = Program::sync(&emulator, &database)
        .args(&["--if-locked", "wait"])
        .start();
    wait_for_words(&waiting, "waiting for the lock of this instance").await;
    waiting.signal(Signal::SIGTERM);
    let finished = waiting.finish().await.code(143);
    finished.says(&["error: stopped by a signal"]);
    first.signal(Signal::SIGTERM);
    first.finish().await.code(143);
    let runs = "select count(*) from swr.sync_run";
    assert_eq!(database.snapshot(runs).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waited_for_a_lock_until_its_time_was_up_is_locked_out() {
    let mirror = Mirror::with(
        emulator_settings(),
        world_of(1),
        TestDatabase::create().await,
    )
    .await;
    mirror.hang_next(RequestKind::Artifacts);
    let (first_stopper, first_stop) = stop::channel();
    let first_progress = Arc::<Progress>::default();
    let first = mirror.sync_until(&first_progress, &first_stop);
    let second = async {
        wait_for_requests(&mirror.emulator, RequestKind::Artifacts, 1).await;
        let (stopper, stop) = stop::channel();
        let progress = Arc::<Progress>::default();
        let waiting = mirror.sync_waiting(&progress, &stop);
        let ending = async {
            wait_until("it waits", async || progress.phase() == Phase::Waiting).await;
            stopper.stop(StopReason::TimeLimit(Duration::from_secs(60)));
        };
        let (error, ()) = tokio::join!(waiting, ending);
        // Stop the active run in the same way: its listing is not complete.
        first_stopper.stop(StopReason::TimeLimit(Duration::from_secs(60)));
        error
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(second.unwrap_err().exit() as u8, 75);
    let first = first.unwrap_err();
    assert_eq!(first.exit() as u8, 7);
    let expected = json!({
        "outcome": "stopped", "exit_code": 7,
        "error": "stopped by the time limit of 1m; the data received so far is stored, nothing was published",
    });
    let columns = "outcome, exit_code, error";
    assert_eq!(mirror.database.last_run_with(columns).await, expected);
    mirror.sync().await;
}

#[tokio::test]
async fn a_job_ends_when_its_time_is_up_and_the_next_goes_on() {
    let (emulator, database) = emulator_and_database(world_of(3)).await;
    // Less than the time to connect.
    let program = Program::sync(&emulator, &database).args(&["--max-duration", "1ns"]);
    let words = [
        "error: stopped by the time limit of 1ns; the data received so far is stored, nothing was published",
        "hint: the next run continues from there; --max-duration sets the limit",
    ];
    program.fails(7, &words).await;
    emulator.hang_next(RequestKind::BuildHistory);
    let program = Program::sync(&emulator, &database).env("SWR_SYNC_MAX_DURATION", "2s");
    let words = [
        "error: stopped by the time limit of 2s; ",
        "hint: the next run continues from there",
    ];
    program.fails(7, &words).await;
    assert_eq!(database.published().await.trim(), "");
    let program = Program::sync(&emulator, &database).args(&["--max-duration", "1h"]);
    program.code(0).await;
    let program = Program::sync(&emulator, &database).args(&["--max-duration", "0s"]);
    let finished = program.code(2).await;
    finished.says(&["--max-duration", "expected more than zero"]);
}

#[tokio::test]
async fn the_jitter_passes_before_anything_is_opened_or_asked() {
    let emulator = emulator(world_of(1)).await;
    let nowhere = format!("postgresql://user@127.0.0.1:{}/x", closed_port());
    let sync = || Program::new(&["sync"]).registry(&emulator);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let run = sync()
            .database_url(&nowhere)
            .args(&["--jitter", "365days", "--max-duration", "1ms"])
            .start();
        wait_for_words(&run, "before the start (random, at most ").await;
        run.signal(signal);
        run.finish()
            .await
            .code(code)
            .says(&["error: stopped by a signal"]);
    }
    // Errors in the settings are reported immediately.
    let program = sync()
        .env("DATABASE_URL", "nonsense")
        .args(&["--jitter", "365days"]);
    program.fails(2, &["the database URL is not valid"]).await;
    assert_eq!(emulator.requests().total(), 0);

    let database = TestDatabase::create().await;
    Program::sync(&emulator, &database)
        .env("SWR_SYNC_JITTER", "1ms")
        .code(0)
        .await
        .says(&[
            "before the start (random, at most 1ms",
            "run 1: published in ",
        ]);
}

#[tokio::test]
async fn several_instances_and_their_discovery_end_when_they_are_told_to() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    let sync = |instances: &str| {
        Program::sync(&emulator, &database)
            .env("SWR_INSTANCE_ID", instances)
            .start()
    };
    emulator.hang_next(RequestKind::Instance);
    let discovering = sync("all");
    wait_for_requests(&emulator, RequestKind::Instance, 1).await;
    discovering.signal(Signal::SIGINT);
    let finished = discovering.finish().await.code(130);
    finished.says(&["error: stopped by a signal"]);

    emulator.reset_requests();
    emulator.hang_next(RequestKind::Instance);
    // One waits for an answer, one for its turn to send a request, and one has not started.
    let ids = ["a", "b", "c"].map(|letter| emulator.settings().instance_id.replace('1', letter));
    let running = Program::sync(&emulator, &database)
        .env("SWR_INSTANCE_ID", ids.join(","))
        .args(&["--max-parallel-instances", "2"])
        .start();
    wait_for_requests(&emulator, RequestKind::Instance, 1).await;
    running.signal(Signal::SIGTERM);
    let finished = running.finish().await.code(143);
    for instance in &ids {
        assert!(
            finished
                .stderr
                .contains(&format!("instance {instance}:\nerror: stopped by a signal")),
            "{}",
            finished.stderr
        );
    }
    assert_eq!(emulator.requests().of(RequestKind::Instance), 1);
    wait_until_alone(&database).await;
}

#[tokio::test]
async fn a_migration_that_is_stopped_leaves_no_lock() {
    let database = TestDatabase::create_empty().await;
    let mut holder = database.connect().await;
    sqlx::raw_sql("begin; create schema swr_report")
        .execute(&mut holder)
        .await
        .unwrap();
    let migrate = || Program::new(&["migrate"]).database(&database);
    let run = migrate().start();
    wait_until("the migration waits for the schema", async || {
        sessions(&database, "wait_event_type = 'Lock'").await == "1"
    })
    .await;
    // Another one waits for sqlx's lock.
    let other = migrate().start();
    wait_until("the other waits for the first", async || {
        sessions(&database, "wait_event_type = 'Lock'").await == "2"
    })
    .await;
    for run in [other, run] {
        run.signal(Signal::SIGTERM);
        let finished = run.finish().await.code(143);
        finished.says(&[
            "error: stopped by a signal while migrating the database",
            "hint: each migration is applied completely or not at all",
        ]);
    }
    // The lock that the first one waited for is still held.
    wait_until_alone(&database).await;
    drop(holder);
    migrate().code(0).await;
    Program::new(&["migrate", "--check"])
        .database(&database)
        .code(0)
        .await;
}

/// Sends a signal to a command that waits for something.
async fn stop_waiting(run: Running, what: &str, waits: impl AsyncFn() -> bool) {
    wait_until(what, waits).await;
    run.signal(Signal::SIGTERM);
    run.finish().await.code(143);
}

#[tokio::test]
async fn commands_that_read_end_when_they_are_told_to() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    Program::sync(&emulator, &database).code(0).await;
    let run = |arguments: &[&str]| {
        Program::new(arguments)
            .registry(&emulator)
            .database(&database)
            .start()
    };
    let is_active = async || sessions(&database, "state = 'active'").await == "1";
    stop_waiting(
        run(&["query", "select pg_sleep(600)"]),
        "it runs",
        is_active,
    )
    .await;
    // The server does not continue the statement of an ended process.
    wait_until_alone(&database).await;

    let mut holder = database.connect().await;
    sqlx::raw_sql("begin; lock table swr.instance in access exclusive mode")
        .execute(&mut holder)
        .await
        .unwrap();
    let is_waiting = async || is_waited_for(&database, "instance").await;
    for arguments in [&["status"][..], &["report", "artifact"], &["verify"]] {
        stop_waiting(run(arguments), "it waits", is_waiting).await;
        wait_until_alone(&database).await;
    }
    drop(holder);

    for command in ["doctor", "verify"] {
        emulator.reset_requests();
        emulator.hang_next(RequestKind::Artifacts);
        let asks = async || emulator.requests().of(RequestKind::Artifacts) > 0;
        stop_waiting(run(&[command]), "it asks", asks).await;
    }
}

#[tokio::test]
async fn a_reader_who_does_not_read_does_not_hold_up_the_end() {
    let database = TestDatabase::create_empty().await;
    let (_unread, writer) = pipe().unwrap();
    let large = "select repeat('x', 1000) from generate_series(1, 1000000)";
    let run = Program::new(&["query", large, "--format", "csv"])
        .database(&database)
        .stdout(writer)
        .start();
    let writes = async || sessions(&database, "state = 'idle in transaction'").await == "1";
    stop_waiting(run, "it writes", writes).await;
}

#[tokio::test]
async fn first_runs_that_start_at_the_same_moment_do_not_hurt_each_other() {
    let emulator = emulator(world_of(3)).await;
    for _ in 0..2 {
        let database = TestDatabase::create_empty().await;
        let runs: Vec<Running> = (0..3)
            .map(|_| Program::sync(&emulator, &database).start())
            .collect();
        let mut codes = Vec::new();
        for run in runs {
            let finished = run.finish().await;
            let code = finished.status.code();
            assert!(
                matches!(code, Some(0 | 75)),
                "{code:?}: {}",
                finished.stderr
            );
            codes.extend(code);
        }
        assert!(codes.contains(&0), "{codes:?}");
        let rows = "select count(*) from swr.instance";
        assert_eq!(database.snapshot(rows).await, "1");
        let undisturbed = TestDatabase::create().await;
        sync_into(&emulator, &undisturbed, false).await.unwrap();
        assert_eq!(facts(&database).await, facts(&undisturbed).await);
    }
}
