//! Failures of the database: the exit code, the message, and that nothing is lost. After each failure, the
//! result of the next run is as without it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use sqlx::{AssertSqlSafe, PgConnection};
use swr_emulator::{Emulator, RequestKind, World};

use crate::support::database::TestDatabase;
use crate::support::held_up::{HeldUp, is_waited_for, wait_until_alone};
use crate::support::mirror::{Mirror, start_of_time, wait_until, world_of};
use crate::support::program::{Finished, Program, emulator_settings};
use crate::support::proxy::Proxy;
use crate::support::server::{PrivateServer, SUPERUSER};

/// A table that each phase of a run writes to: a lock on it blocks the run in this phase.
const PHASES: [(&str, &str); 4] = [
    ("catalog", "staged_namespace"),
    ("listing", "staged_artifact"),
    ("histories", "manifest"),
    ("publish", "tag"),
];

async fn mirror(database: TestDatabase) -> Mirror {
    Mirror::with(emulator_settings(), world_of(30), database).await
}

/// A successful run, after which the tables do not show the earlier failure.
async fn check_convergence(mirror: &Mirror) {
    mirror.program().code(0).await;
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
    let left = "select (select count(*) from swr.sync_run where outcome = 'running'),
                       (select count(*) from swr.staged_artifact)";
    assert_eq!(mirror.snapshot(left).await, "0 | 0");
}

async fn published_artifacts(database: &TestDatabase) -> String {
    database.snapshot("select count(*) from swr.artifact").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_in_any_phase_ends_the_run_and_nothing_is_lost() {
    let server = PrivateServer::new().await;
    for (phase, table) in PHASES {
        let mirror = mirror(server.migrated_database(phase).await).await;
        let program = mirror.program();
        let held_up = HeldUp::start(&mirror, table, program).await;
        server.stop_immediately();
        let words = [
            "error: cannot ",
            "caused by: ",
            "hint: ",
            "the next run continues from",
        ];
        held_up.run.finish().await.code(5).error_says(&words);
        let next = mirror.program();
        next.run().await.code(5).error_says(&[
            "cannot connect to the database",
            "check that the server runs",
        ]);
        server.start();
        assert_eq!(published_artifacts(&mirror.database).await, "0", "{phase}");
        check_convergence(&mirror).await;
        let outcomes = "select outcome, finished_at is null from swr.sync_run order by run_id";
        assert_eq!(
            mirror.snapshot(outcomes).await,
            "abandoned | t\npublished | f",
            "{phase}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_listing_does_not_publish_what_is_left_of_it() {
    let server = PrivateServer::new().await;
    let mirror = Mirror::with(
        emulator_settings(),
        World::generate(3, 450, start_of_time()),
        server.migrated_database("mirror").await,
    )
    .await;
    mirror.program().code(0).await;
    let published = mirror.facts().await;
    mirror.with_world(|world| world.evolve(1));
    mirror.reset_requests();

    let program = mirror.program();
    let held_up = HeldUp::start(&mirror, "staged_artifact", program).await;
    // While the first page is being staged, the next ones are requested. One gets stuck.
    mirror.hang_next(RequestKind::Artifacts);
    drop(held_up.holder);
    wait_until("all pages but the one that hangs are staged", async || {
        let requests = mirror.requests();
        let answered = requests.answered(RequestKind::Artifacts, 200);
        let staged = mirror.snapshot("select count(*) from swr.staged_artifact");
        requests.of(RequestKind::Artifacts) == answered + 1
            && staged.await == (100 * answered).to_string()
    })
    .await;
    server.stop_immediately();
    server.start();
    let staged = "select count(*) from swr.staged_artifact";
    assert_eq!(mirror.snapshot(staged).await, "0");
    // The client retries, and gets the rest.
    held_up.gateway.cut();
    held_up
        .run
        .finish()
        .await
        .code(5)
        .error_says(&["error: cannot ", "hint: "]);
    assert_eq!(mirror.facts().await, published);
    check_convergence(&mirror).await;
}

async fn take_lock(
    session: swr_sync::store::Session<'static>,
    instance_id: i32,
) -> swr_sync::store::InstanceLock {
    use swr_sync::store::{InstanceLock, LockAttempt};

    match InstanceLock::attempt(session, instance_id).await.unwrap() {
        LockAttempt::Taken(lock) => lock,
        LockAttempt::Held { holder, .. } => panic!("the lock is held by {holder:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_not_published_by_a_session_without_the_lock() {
    use swr_sync::activity::Activity;
    use swr_sync::clock::Clock;
    use swr_sync::database::Database;
    use swr_sync::run::RunCounters;
    use swr_sync::store::{Instance, InstanceLock, Publishing, Run, Session, StoreError, publish};

    let database = TestDatabase::create().await;
    let now = start_of_time();
    let database = Database::from_url(database.url()).unwrap();
    let connect = async || {
        Session::connect(&database, &Activity::default())
            .await
            .unwrap()
    };
    let mut session = connect().await;
    let instance =
        Instance::find_or_create(&mut session, "instance", "project", "endpoint", None, now)
            .await
            .unwrap();
    let mut lock = take_lock(session, instance.instance_id).await;
    let run = Run::start(&mut lock, "host", now).await.unwrap();
    let publish = async |lock: &mut InstanceLock| {
        let mut counters = RunCounters::default();
        let publishing = Publishing {
            listing: (now, now),
            dry_run: false,
            exit_code: 0,
            max_removals_percent: None,
        };
        publish(lock, run, publishing, &mut counters, &Clock::system()).await
    };
    // As if a pooler had switched to another session.
    sqlx::raw_sql("select pg_advisory_unlock_all()")
        .execute(lock.connection())
        .await
        .unwrap();
    let error = publish(&mut lock).await.unwrap_err();
    assert!(matches!(error, StoreError::LockLost), "{error}");
    let mut lock = take_lock(connect().await, instance.instance_id).await;
    publish(&mut lock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_a_transaction_was_cut_short_at_its_begin_stays() {
    use sqlx::Connection;
    use swr_sync::activity::Activity;
    use swr_sync::database::Database;
    use swr_sync::store::Session;

    let database = TestDatabase::create().await;
    let proxy = Proxy::before_database(database.url()).await;
    let url = proxy.database_url(database.url());
    let url = Database::from_url(&url).unwrap();
    let session = Session::connect(&url, &Activity::default()).await.unwrap();
    let mut lock = take_lock(session, 1).await;
    proxy.fall_silent();
    tokio::select! {
        biased;
        begun = lock.connection().begin() => panic!("it was not cut short: {}", begun.is_ok()),
        () = std::future::ready(()) => {}
    }
    proxy.pass();
    lock.settle().await;
    sqlx::raw_sql("create table public.written ()")
        .execute(lock.connection())
        .await
        .unwrap();
    lock.release().await;
    let written = "select to_regclass('public.written') is not null";
    assert_eq!(database.snapshot(written).await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent_ends_the_run_within_the_limit() {
    let silent = async |(_, table): (&str, &str)| {
        let mirror = mirror(TestDatabase::create().await).await;
        let proxy = Proxy::before_database(mirror.database.url()).await;
        let program = mirror
            .program()
            .database_url(&proxy.database_url(mirror.database.url()))
            .env("SWR_SYNC_DATABASE_TIMEOUT", "5s");
        let held_up = HeldUp::start(&mirror, table, program).await;
        proxy.fall_silent();
        let words = [
            "no answer from the database within 5s",
            "hint: ",
            "`swr-sync status` shows",
        ];
        held_up.run.finish().await.code(5).error_says(&words);
        drop(held_up.holder);
        proxy.cut();
        mirror
    };
    let [a, b, c, d] = PHASES;
    let ended = tokio::join!(silent(a), silent(b), silent(c), silent(d));
    // Dropping a database waits for all sessions of the server, including those that wait for data that
    // a proxy withholds. So no database is dropped before the connections of all proxies are cut.
    for ((phase, _), mirror) in PHASES.into_iter().zip(<[_; 4]>::from(ended)) {
        wait_until_alone(&mirror.database).await;
        // Its commit was never sent.
        assert_eq!(published_artifacts(&mirror.database).await, "0", "{phase}");
        check_convergence(&mirror).await;
    }
}

/// Locks a table against reads of other sessions until the connection is dropped.
async fn hide(database: &TestDatabase, table: &str) -> PgConnection {
    let mut connection = database.connect().await;
    let sql = format!("begin; lock table swr.{table} in access exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent_ends_a_reader_within_the_limit() {
    let silent = async |arguments: &[&str], attempt: &str| {
        let database = TestDatabase::create().await;
        let proxy = Proxy::before_database(database.url()).await;
        let holder = hide(&database, "instance").await;
        let reader = Program::new(arguments)
            .database_url(&proxy.database_url(database.url()))
            .env("SWR_SYNC_DATABASE_TIMEOUT", "3s")
            .start();
        wait_until("the reader waits", async || {
            is_waited_for(&database, "instance").await
        })
        .await;
        proxy.fall_silent();
        let words = [
            &format!("error: {attempt}: no answer from the database within 3s\n"),
            "hint: check whether the server still runs and what blocks it; --database-timeout allows more time\n",
        ];
        reader.finish().await.code(5).error_says(&words);
        drop(holder);
        proxy.cut();
        database
    };
    let _databases = tokio::join!(
        silent(&["status"], "cannot read the status of the instances"),
        silent(
            &["status", "--max-age", "1d", "--format", "csv"],
            "the query failed"
        ),
        silent(&["report", "freshness"], "the query failed"),
        silent(&["query", "select * from instance"], "the query failed"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_ended_by_the_server() {
    let slow = async |sql: &str| {
        let database = TestDatabase::create().await;
        let query = Program::new(&["query", sql, "--database-timeout", "1s"])
            .database(&database)
            .run();
        let words = [
            "error: the query failed: canceling statement due to statement timeout (SQLSTATE 57014)\n",
            "hint: the statement was cancelled: pg_stat_activity shows what blocks it",
            "--database-timeout",
        ];
        query.await.code(5).error_says(&words);
    };
    tokio::join!(
        slow("select pg_sleep(600)"),
        // The first rows arrive soon.
        slow("select n, pg_sleep(case when n > 2000 then 600 end) from generate_series(1, 3000) n"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_too_long_is_ended_by_the_server() {
    let stuck = async |(phase, table): (&str, &str)| {
        let mirror = mirror(TestDatabase::create().await).await;
        let program = mirror.program().env("SWR_SYNC_DATABASE_TIMEOUT", "5s");
        let held_up = HeldUp::start(&mirror, table, program).await;
        let words = [
            "caused by: canceling statement due to statement timeout (SQLSTATE 57014)\n",
            "hint: the statement was cancelled: pg_stat_activity shows what blocks it",
            "--database-timeout",
        ];
        held_up.run.finish().await.code(5).error_says(&words);
        assert_eq!(mirror.database.last_run().await, "failed | 5", "{phase}");
        assert_eq!(published_artifacts(&mirror.database).await, "0", "{phase}");
        drop(held_up.holder);
        check_convergence(&mirror).await;
    };
    // Here the waiting statement is the first of its step. In later phases the timeout of the whole
    // step may end before that of the server.
    let [catalog, listing, ..] = PHASES;
    tokio::join!(stuck(catalog), stuck(listing));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_only_takes_longer() {
    let mirror = mirror(TestDatabase::create().await).await;
    let proxy = Proxy::before_database(mirror.database.url()).await;
    proxy.delay(Duration::from_millis(5));
    mirror
        .program()
        .database_url(&proxy.database_url(mirror.database.url()))
        .code(0)
        .await;
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_starting_up_is_waited_for() {
    let mirror = mirror(TestDatabase::create().await).await;
    let proxy = Proxy::before_database(mirror.database.url()).await;
    for _ in 0..3 {
        proxy.refuse_next("57P03", "the database system is starting up");
    }
    mirror
        .program()
        .database_url(&proxy.database_url(mirror.database.url()))
        .code(0)
        .await;
    assert_eq!(proxy.refusals_left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_commit_without_an_answer_happened_is_not_claimed() {
    let server = PrivateServer::new().await;
    let mirror = mirror(server.migrated_database("mirror").await).await;
    let program = mirror.program();
    let held_up = HeldUp::start(&mirror, "tag", program).await;
    // From now on, a commit is completed and then waits for a standby that does not exist.
    server
        .execute(
            "postgres",
            "alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()",
        )
        .await;
    drop(held_up.holder);
    wait_until("the commit waits for the standby", async || {
        let waiting = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')";
        mirror.snapshot(waiting).await == "t"
    })
    .await;
    server.stop_immediately();
    let words = [
        "error: cannot tell whether the new listing was published",
        "`swr-sync status` shows",
    ];
    held_up.run.finish().await.code(5).error_says(&words);
    let settings = "alter system reset synchronous_standby_names; select pg_reload_conf()";
    server.start();
    server.execute("postgres", settings).await;
    assert_eq!(mirror.database.last_run().await, "published | 0");
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
    check_convergence(&mirror).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_is_told_from_others() {
    let mirror = mirror(TestDatabase::create().await).await;
    let set = |value: &str| {
        format!(
            "do $$ begin execute format('alter database %I {value}', current_database()); end $$"
        )
    };
    mirror
        .snapshot(&set("set default_transaction_read_only = on"))
        .await;
    let run = mirror.program().run().await;
    let words = [
        "cannot execute INSERT in a read-only transaction",
        "hint: the database is read-only: use the primary instead of a standby",
    ];
    run.code(5).error_says(&words);
    // The instance is requested before its row is inserted.
    assert_eq!(mirror.requests().total(), 1);
    mirror
        .snapshot(&format!(
            "set transaction read write; {}",
            set("reset default_transaction_read_only")
        ))
        .await;
    check_convergence(&mirror).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_dropped_under_a_run_is_named() {
    let server = PrivateServer::new().await;
    let mirror = mirror(server.migrated_database("mirror").await).await;
    let program = mirror.program();
    let held_up = HeldUp::start(&mirror, "tag", program).await;
    // In this order: if the holder of the lock ended first, the run would be sending its next
    // statement when its own session ends, and might not read the error.
    let end_run = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = 'mirror' and wait_event_type = 'Lock'";
    server.execute("postgres", end_run).await;
    server
        .execute("postgres", "drop database mirror with (force)")
        .await;
    let words = [
        "error: cannot add tags",
        "terminating connection due to administrator command",
        "hint: the server was stopped, or an administrator ended the session",
    ];
    held_up.run.finish().await.code(5).error_says(&words);
    let run = mirror.program().run().await;
    let words = [
        "cannot connect to the database mirror at",
        "database \"mirror\" does not exist",
        "hint: create the database, or correct its name",
    ];
    run.code(5).error_says(&words);
    server.execute("postgres", "create database mirror").await;
    check_convergence(&mirror).await;
}

/// Roles belong to the whole server, so these tests use a separate server.
async fn sync_as(server: &PrivateServer, role: &str, emulator: &Emulator) -> Finished {
    Program::new(&["sync", "--no-migrate"])
        .registry(emulator)
        .database_url(&server.url(role, "mirror"))
        .run()
        .await
}

/// A role with exactly the privileges that a run needs.
const SYNC_ROLE: &str = "create role sync_role login;
    grant usage on schema swr to sync_role;
    grant select, insert, update, delete on all tables in schema swr to sync_role;
    grant usage on all sequences in schema swr to sync_role";

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_a_right_is_told_which() {
    let server = PrivateServer::new().await;
    let mirror = mirror(server.migrated_database("mirror").await).await;
    server.execute("mirror", SYNC_ROLE).await;
    server
        .execute("mirror", "revoke insert on swr.tag from sync_role")
        .await;
    let run = sync_as(&server, "sync_role", &mirror.emulator).await;
    let words = [
        "error: cannot add tags",
        "permission denied for table tag",
        "hint: grant the missing privilege to the role",
        "nothing was published",
    ];
    run.code(5).error_says(&words);
    assert_eq!(mirror.database.last_run().await, "failed | 5");
    assert_eq!(published_artifacts(&mirror.database).await, "0");
    server
        .execute("mirror", "grant insert on swr.tag to sync_role")
        .await;
    let run = sync_as(&server, "sync_role", &mirror.emulator).await;
    run.code(0).says(&["0 fetched, 30 known"]);
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_connections_left_is_told_how_many_a_run_takes() {
    let server = PrivateServer::new().await;
    let mirror = mirror(server.migrated_database("mirror").await).await;
    server.execute("mirror", SYNC_ROLE).await;
    for limit in [0, 1] {
        let sql = format!("alter role sync_role connection limit {limit}");
        server.execute("mirror", &sql).await;
        let run = sync_as(&server, "sync_role", &mirror.emulator).await;
        let words = [
            "cannot connect to the database mirror at",
            "too many connections for role \"sync_role\"",
            "hint: no connection is left for this role: a run uses two",
        ];
        run.code(5).error_says(&words);
    }
    // The run that had a connection for its lock could record its failure.
    assert_eq!(mirror.database.last_run().await, "failed | 5");
    server
        .execute("mirror", "alter role sync_role connection limit 2")
        .await;
    let run = sync_as(&server, "sync_role", &mirror.emulator).await;
    run.code(0);
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_from_a_missing_server() {
    let server = PrivateServer::start_with("local all careful scram-sha-256").await;
    let sql = "create role careful login password 'right'";
    server.execute("postgres", sql).await;
    let mirror = mirror(TestDatabase::at(server.url(SUPERUSER, "postgres"))).await;
    let url = server
        .url("careful", "postgres")
        .replace("careful@", "careful:wrong-password-not-to-be-shown@");
    let words = [
        "cannot connect to the database postgres at",
        "password authentication failed",
        "hint: check user and password in the database URL",
    ];
    mirror.program().database_url(&url).fails(5, &words).await;
}

/// A file system of a few megabytes. Unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn mount(folder: &Path) -> Option<SmallDisk<'_>> {
        if !geteuid().is_root() {
            return None;
        }
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"])
            .arg(folder)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(SmallDisk(folder))
    }

    /// Fills it with a file, except for this many bytes.
    fn fill_but(&self, room_bytes: u64) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        while file.write_all(&[1; 1 << 14]).is_ok() {}
        let size_bytes = file.metadata().unwrap().len();
        file.set_len(size_bytes - room_bytes).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0)
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "libtest shows it with the test")]
async fn a_full_disk_ends_the_run_and_room_lets_the_next_one_go_on() {
    let server = PrivateServer::new().await;
    let folder = server.folder_of_its_own("small");
    let Some(disk) = SmallDisk::mount(&folder) else {
        eprintln!("skipped: only root can mount the small disk that this test fills");
        return;
    };
    server.give(&folder);
    let sql = format!("create tablespace small location '{}'", folder.display());
    server.execute("postgres", &sql).await;
    server
        .execute("postgres", "create database mirror tablespace small")
        .await;
    let database = TestDatabase::at(server.url(SUPERUSER, "mirror"));
    Program::new(&["migrate"]).database(&database).code(0).await;
    // Until then, files have holes where blocks are to be written.
    server.execute("postgres", "checkpoint").await;
    disk.fill_but(1_000_000);
    let world = World::generate(5, 600, start_of_time());
    let mirror = Mirror::with(emulator_settings(), world, database).await;
    let run = mirror.program().run().await;
    let words = [
        "No space left on device",
        "hint: the disk of the database server is full: free space there",
    ];
    run.code(5).error_says(&words);
    assert_eq!(published_artifacts(&mirror.database).await, "0");
    let stored = mirror.snapshot("select count(*) from swr.manifest");
    assert_ne!(stored.await, "0");
    disk.make_room();
    check_convergence(&mirror).await;
}
