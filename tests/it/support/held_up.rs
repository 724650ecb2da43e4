//! A run that waits for a lock on a table.

use sqlx::{AssertSqlSafe, PgConnection};

use swr_emulator::EmulatorSettings;

use super::database::TestDatabase;
use super::mirror::{Mirror, wait_until};
use super::program::{Program, Running};
use super::proxy::Proxy;

/// The run, and what blocks it.
pub(crate) struct HeldUp {
    pub(crate) run: Running,
    /// The session with the lock that it waits for.
    pub(crate) holder: PgConnection,
    /// Between the program and the emulator.
    pub(crate) gateway: Proxy,
}

impl HeldUp {
    /// Starts a run, and returns when it waits to write to this table of the schema `swr`.
    pub(crate) async fn start(mirror: &Mirror, table: &str, program: Program) -> HeldUp {
        let Mirror {
            emulator, database, ..
        } = mirror;
        describe_instance(mirror).await;
        let gateway = Proxy::before_endpoint(&emulator.endpoint()).await;
        // Only a run that has started can be blocked: its start empties the staging tables.
        gateway.fall_silent();
        let run = program.env("SWR_ENDPOINT", gateway.endpoint()).start();
        wait_until("the run has started", async || {
            let running = "select exists (select from swr.sync_run where outcome = 'running')";
            database.snapshot(running).await == "t"
        })
        .await;
        // Tests expect only the rows of their own runs.
        database
            .snapshot("delete from swr.sync_run where host = ''")
            .await;
        let holder = hold(database, table).await;
        gateway.pass();
        wait_until("the run is held up", async || {
            is_waited_for(database, table).await
        })
        .await;
        HeldUp {
            run,
            holder,
            gateway,
        }
    }
}

/// Stores the description of the instance as an earlier run would, so that a run starts without a
/// request.
async fn describe_instance(mirror: &Mirror) {
    let Mirror {
        emulator, database, ..
    } = mirror;
    let EmulatorSettings {
        project_id,
        instance_id,
        instance_name,
        instance_version,
        ..
    } = emulator.settings();
    let insert = format!(
        "insert into swr.instance (swr_instance_id, project_id, endpoint, name, version, first_seen_at)
         values ('{instance_id}', '{project_id}', '', '{instance_name}', '{instance_version}', now())
         on conflict do nothing;
         insert into swr.sync_run
             (instance_id, outcome, started_at, updated_at, described_at, program_version, host, process_id)
         select instance_id, 'failed', now(), now(), now(), '', '', 0
         from swr.instance i
         where not exists (select from swr.sync_run r where r.instance_id = i.instance_id)"
    );
    database.snapshot(&insert).await;
}

/// Locks a table against writes of other sessions until the connection is dropped.
pub(crate) async fn hold(database: &TestDatabase, table: &str) -> PgConnection {
    let mut connection = database.connect().await;
    let sql = format!("begin; lock table swr.{table} in exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

/// Whether a session waits to write to a table.
pub(crate) async fn is_waited_for(database: &TestDatabase, table: &str) -> bool {
    let waiting = format!(
        "select exists (
             select from pg_locks
             where relation = 'swr.{table}'::regclass and not granted
               and database = (select oid from pg_database where datname = current_database())
         )"
    );
    database.snapshot(&waiting).await == "t"
}

/// Waits until the server has detected the end of all runs.
pub(crate) async fn wait_until_alone(database: &TestDatabase) {
    wait_until("no session of the program is left", async || {
        let left = "select count(*) from pg_stat_activity
                    where datname = current_database() and application_name like 'swr-sync%'";
        database.snapshot(left).await == "0"
    })
    .await;
}

/// Waits until the lock of an instance is free.
pub(crate) async fn wait_until_unlocked(database: &TestDatabase) {
    wait_until("the lock is free", async || {
        let locks = "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 2
                     and database = (select oid from pg_database where datname = current_database())";
        database.snapshot(locks).await == "0"
    })
    .await;
}
