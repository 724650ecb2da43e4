//! The real process, killed or stopped at any time: reports show the old registry or the new one, and the
//! result of the next run is as without the kill.
//!
//! By default there are a few kills. `KILLS=500` sets their number, `KILL_ARTIFACTS=2000` the size of the
//! registry, and `KILL_SEED=7` selects other times; a failure shows its seed. `--nocapture` shows
//! measurements.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use swr_emulator::{RequestKind, World};
use swr_sync::database::MIGRATOR;

use crate::support::database::TestDatabase;
use crate::support::held_up::{HeldUp, hold, is_waited_for, wait_until_alone};
use crate::support::mirror::{Mirror, start_of_time, wait_until, world_of};
use crate::support::program::{Program, Running, emulator_settings};
use crate::support::proxy::Proxy;

/// Maximum number of concurrent requests.
const MAX_IN_FLIGHT: u64 = 256;
/// One registry in `MANY_IN` has more digests than fit into the queue of wanted histories.
const MANY_IN: u8 = 20;
const MANY: usize = 3_300;

/// The most histories that were requested and are not stored when a run is killed: in flight,
/// waiting for room among the answers, among the answers (256), or in the batch being stored (1,000).
const MOST_LOST: u64 = 2 * MAX_IN_FLIGHT + 256 + 1_000;

/// Tables that publish writes to and the crawl does not.
const PUBLISHED_TABLES: [&str; 5] = ["namespace", "repository", "artifact", "tag_history", "tag"];
/// The one of them that publish writes to even if nothing has changed.
const ALWAYS_WRITTEN: &str = "repository";

/// When a run is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// This long after its start.
    After(Duration),
    /// After this number of requests of any kind.
    Requests(u64),
    /// While publish waits for a lock on this table.
    Waiting(&'static str),
    /// This long after publish has got the lock that it waited for.
    Released(&'static str, Duration),
}

impl Moment {
    fn choose(random: &mut fastrand::Rng, undisturbed: Duration, requests: u64) -> Moment {
        let table = *random.choice(PUBLISHED_TABLES).as_ref().unwrap();
        match random.u8(0..8) {
            0..4 => Moment::After(undisturbed.mul_f64(1.1 * random.f64())),
            4..6 => Moment::Requests(random.u64(1..=requests)),
            6 => Moment::Waiting(table),
            _ => Moment::Released(table, Duration::from_micros(random.u64(0..30_000))),
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A registry, a database that mirrors it with many killed runs, and its expected content.
struct Trial {
    mirror: Mirror,
    /// The content of the reports before, and the expected content in the end.
    old: String,
    new: String,
    digests: BTreeSet<String>,
    undisturbed: Duration,
    /// Requests of one run other than those for histories.
    list_requests: u64,
    /// Upper bound of the requests for histories so far.
    most_histories: u64,
    kills: u64,
}

impl Trial {
    async fn new(world: World) -> Trial {
        let database = TestDatabase::create().await;
        let mirror = Mirror::with(emulator_settings(), world, database).await;
        let old = mirror.facts().await;
        let mut trial = Trial {
            mirror,
            old,
            new: String::new(),
            digests: BTreeSet::new(),
            undisturbed: Duration::ZERO,
            list_requests: 0,
            most_histories: 0,
            kills: 0,
        };
        trial.observe().await;
        trial
    }

    /// Changes the registry.
    async fn change(&mut self, round: u32) {
        self.mirror.with_world(|world| world.evolve(round));
        self.old = std::mem::take(&mut self.new);
        self.observe().await;
    }

    /// Measures an undisturbed run: its result, duration and requests.
    async fn observe(&mut self) {
        let emulator = &self.mirror.emulator;
        self.digests = emulator.with_world(|world| {
            let artifacts = world.artifacts();
            artifacts
                .map(|artifact| artifact.digest().to_string())
                .collect()
        });
        emulator.reset_requests();
        let database = TestDatabase::create().await;
        let begin = Instant::now();
        Program::sync(emulator, &database).code(0).await;
        self.undisturbed = begin.elapsed();
        let requests = emulator.requests();
        // Only the first run requests the description of the instance.
        self.list_requests =
            requests.of(RequestKind::Artifacts) + requests.of(RequestKind::Repositories);
        self.new = self.mirror.undisturbed_facts().await;
        emulator.reset_requests();
        self.most_histories = 0;
        self.kills = 0;
    }

    /// Minimum number of requests for histories of a run: one for each digest without an answer.
    async fn never_answered(&self) -> u64 {
        let answered = "select digest from swr.manifest";
        let answered = self.mirror.snapshot(answered).await;
        let answered: HashSet<&str> = answered.lines().collect();
        let digests = self.digests.iter();
        digests
            .filter(|digest| !answered.contains(digest.as_str()))
            .count() as u64
    }

    /// Maximum number of requests for histories of a run: a digest without a final answer is requested
    /// from each repository that has it.
    async fn missing(&self) -> u64 {
        let Mirror {
            emulator, database, ..
        } = &self.mirror;
        let stored = "select digest from swr.manifest where next_attempt_at is null";
        let stored = database.snapshot(stored).await;
        let stored: HashSet<&str> = stored.lines().collect();
        emulator.with_world(|world| {
            let artifacts = world.artifacts();
            artifacts
                .filter(|artifact| !stored.contains(artifact.digest().to_string().as_str()))
                .count() as u64
        })
    }

    async fn run_killed(&mut self, moment: Moment, max_in_flight: u64) {
        let Mirror {
            emulator, database, ..
        } = &self.mirror;
        self.most_histories += self.missing().await;
        let before = emulator.requests().total();
        let has_changes = self.mirror.facts().await != self.new;
        let holder = match moment {
            Moment::Waiting(table) | Moment::Released(table, _) => {
                let table = if has_changes { table } else { ALWAYS_WRITTEN };
                Some((table, hold(database, table).await))
            }
            _ => None,
        };
        let mut run = Program::sync(emulator, database)
            .env("SWR_MAX_IN_FLIGHT", max_in_flight.to_string())
            .env("SWR_SYNC_MAX_REMOVALS_PERCENT", "100")
            .start();
        match moment {
            Moment::After(time) => tokio::time::sleep(time).await,
            Moment::Requests(count) => {
                wait_until("the requests have arrived", async || {
                    emulator.requests().total() >= before + count
                })
                .await;
            }
            Moment::Waiting(_) | Moment::Released(..) => {}
        }
        if let Some((table, holder)) = holder {
            // The changes may not affect this table. In this case the run ends normally.
            let run = RefCell::new(&mut run);
            wait_until("publish waits for the lock, or has ended", async || {
                is_waited_for(database, table).await || run.borrow_mut().has_ended()
            })
            .await;
            let run = run.into_inner();
            if let Moment::Released(_, time) = moment {
                drop(holder);
                tokio::time::sleep(time).await;
                run.signal(Signal::SIGKILL);
            } else {
                run.signal(Signal::SIGKILL);
                // The server may not have detected the end of its client until now.
                drop(holder);
            }
        } else {
            run.signal(Signal::SIGKILL);
        }
        let finished = run.finish().await;
        let code = finished.status.code();
        assert!(matches!(code, None | Some(0)), "{}", finished.stderr);
        self.kills += 1;
        wait_until_alone(database).await;
        let facts = self.mirror.facts().await;
        assert!(
            facts == self.old || facts == self.new,
            "neither the old registry ({}) nor the new one ({}): {}",
            lines_of(&self.old),
            lines_of(&self.new),
            lines_of(&facts)
        );
        if facts == self.new {
            // The content never returns to the old one.
            self.old.clone_from(&self.new);
        }
    }

    async fn run_to_the_end(&mut self) {
        let Mirror {
            emulator, database, ..
        } = &self.mirror;
        self.most_histories += self.missing().await;
        let run = Program::sync(emulator, database).env("SWR_SYNC_MAX_REMOVALS_PERCENT", "100");
        run.code(0).await;
        assert!(self.mirror.facts().await == self.new, "another registry");
        let left = "select (select count(*) from swr.sync_run where outcome = 'running'),
                           (select count(*) from swr.staged_artifact),
                           (select count(*) from swr.staged_tag),
                           (select count(*) from swr.staged_repository)";
        assert_eq!(database.snapshot(left).await, "0 | 0 | 0 | 0");
        let asked = emulator.requests().of(RequestKind::BuildHistory);
        // What a killed run has stored is never requested again …
        assert!(
            asked <= self.most_histories,
            "{asked} of {}",
            self.most_histories
        );
        // … and it has stored all but the last few answers.
        let most = self.digests.len() as u64 + self.kills * MOST_LOST;
        assert!(asked <= most, "{asked} of {most}");
        note(&format!(
            "{} killed runs, then a whole one: {asked} histories requested, of {} digests",
            self.kills,
            self.digests.len()
        ));
    }
}

fn lines_of(facts: &str) -> String {
    let sections = facts.split("-- ").filter(|section| !section.is_empty());
    let counts = sections.map(|section| {
        let (name, rows) = section.split_once('\n').unwrap_or((section, ""));
        format!("{name} {}", rows.trim().lines().count())
    });
    counts.collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_a_run_the_next_ends_as_if_nothing_had_happened() {
    let (kills, seed) = (setting("KILLS", 10), setting("KILL_SEED", 1));
    let artifacts = setting("KILL_ARTIFACTS", 250) as usize;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut moments = Vec::new();
    let mut trial = None;
    let mut round = 0;
    for kill in 0..kills {
        let current = match &mut trial {
            None => {
                let artifacts = match random.u8(0..MANY_IN) {
                    0 => MANY,
                    _ => artifacts,
                };
                let world = World::generate(random.u64(..), artifacts, start_of_time());
                trial.insert(Trial::new(world).await)
            }
            Some(trial) => trial,
        };
        let requests = current.list_requests + current.never_answered().await;
        let moment = Moment::choose(&mut random, current.undisturbed, requests);
        let max_in_flight = 2_f64.powf(random.f64() * 8.0) as u64;
        moments.push((moment, max_in_flight));
        let replay = format!("KILL_SEED={seed}, kill {kill} of round {round}: {moments:?}");
        on_failure(&replay, current.run_killed(moment, max_in_flight)).await;
        // Some runs are not killed. After such a run the registry changes, or another registry is used.
        if random.u8(0..4) == 0 || kill + 1 == kills {
            on_failure(&replay, current.run_to_the_end()).await;
            moments.clear();
            round += 1;
            if random.u8(0..3) == 0 {
                trial = None;
            } else {
                current.change(round).await;
            }
        }
    }
}

/// Prints how to repeat a failed test.
async fn on_failure(replay: &str, work: impl Future<Output = ()>) {
    struct Say<'a>(&'a str);
    impl Drop for Say<'_> {
        #[expect(clippy::print_stderr, reason = "libtest shows it with the test")]
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("replay with {}", self.0);
            }
        }
    }
    let _say = Say(replay);
    work.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_gives_its_lock_back_even_while_its_statement_waits() {
    let mirror = small_mirror().await;
    let program = mirror.program();
    let held_up = HeldUp::start(&mirror, "tag", program).await;
    held_up.run.signal(Signal::SIGKILL);
    held_up.run.finish().await;
    // Another session still holds the lock that its statement waits for.
    wait_until_alone(&mirror.database).await;
    drop(held_up.holder);
    check_next_run(&mirror).await;
}

/// The schema of a migrated database.
const SCHEMA: &str = "select table_schema, table_name, column_name, data_type, is_nullable
    from information_schema.columns where table_schema like 'swr%'
    union all
    select schemaname, tablename, indexname, indexdef, null from pg_indexes where schemaname like 'swr%'
    order by 1, 2, 3, 4";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_migration_is_taken_up_by_the_next() {
    let migrate = |database: &TestDatabase| Program::new(&["migrate"]).database(database);
    let seed = setting("KILL_SEED", 1);
    let mut random = fastrand::Rng::with_seed(seed);
    let whole = TestDatabase::create_empty().await;
    let begin = Instant::now();
    migrate(&whole).code(0).await;
    let undisturbed = begin.elapsed();
    let expected = whole.snapshot(SCHEMA).await;
    for _ in 0..setting("KILLS", 10).div_ceil(6) {
        let database = TestDatabase::create_empty().await;
        for _ in 0..3 {
            let run = migrate(&database).start();
            tokio::time::sleep(undisturbed.mul_f64(random.f64())).await;
            run.signal(Signal::SIGKILL);
            let code = run.finish().await.status.code();
            assert!(matches!(code, None | Some(0)), "{code:?}");
        }
        migrate(&database).code(0).await;
        assert_eq!(
            database.snapshot(SCHEMA).await,
            expected,
            "KILL_SEED={seed}"
        );
        let migrations = "select count(*), bool_and(success) from swr._sqlx_migrations";
        let all = format!("{} | t", MIGRATOR.iter().count());
        assert_eq!(database.snapshot(migrations).await, all);
    }
}

/// A first sync migrates an empty database, and is blocked in the middle of its last migration.
async fn sync_held_up_in_a_migration(mirror: &Mirror) -> (Running, sqlx::PgConnection) {
    let Mirror {
        emulator, database, ..
    } = mirror;
    let mut holder = database.connect().await;
    sqlx::raw_sql("begin; create schema swr_report")
        .execute(&mut holder)
        .await
        .unwrap();
    let run = Program::sync(emulator, database).start();
    wait_until("the migration waits for the schema", async || {
        let waiting = "select exists (select from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock')";
        database.snapshot(waiting).await == "t"
    })
    .await;
    (run, holder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_that_ends_in_a_migration_is_taken_up_by_the_next() {
    for (signal, code) in [
        (Signal::SIGKILL, None),
        (Signal::SIGTERM, Some(143)),
        (Signal::SIGINT, Some(130)),
    ] {
        let mirror = Mirror {
            database: TestDatabase::create_empty().await,
            ..small_mirror().await
        };
        let (run, holder) = sync_held_up_in_a_migration(&mirror).await;
        run.signal(signal);
        assert_eq!(run.finish().await.status.code(), code);
        drop(holder);
        check_next_run(&mirror).await;
    }
}

async fn small_mirror() -> Mirror {
    let database = TestDatabase::create().await;
    Mirror::with(emulator_settings(), world_of(10), database).await
}

async fn check_next_run(mirror: &Mirror) {
    wait_until_alone(&mirror.database).await;
    mirror.program().code(0).await;
    assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
}

/// The state of a run when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It waits for an answer to its first connection.
    Connecting,
    /// A request of this kind hangs.
    Asking(RequestKind),
    /// A statement waits for a lock on this table.
    Writing(&'static str),
    /// A statement waits for a lock on this table, and the proxy to the database withholds all data.
    Silent(&'static str),
}

/// A run in this phase, with the locks and proxies that block it.
struct Kept {
    run: Running,
    proxy: Proxy,
    held_up: Option<(sqlx::PgConnection, Proxy)>,
}

impl Kept {
    async fn in_phase(phase: Phase, mirror: &Mirror) -> Kept {
        let Mirror {
            emulator, database, ..
        } = mirror;
        let proxy = Proxy::before_database(database.url()).await;
        let program =
            Program::sync(emulator, database).database_url(&proxy.database_url(database.url()));
        let (run, held_up) = match phase {
            Phase::Connecting => {
                proxy.fall_silent();
                let run = program.start();
                wait_until("it connects", async || proxy.connections() > 0).await;
                (run, None)
            }
            Phase::Asking(kind) => {
                emulator.hang_next(kind);
                let run = program.start();
                wait_until("it asks", async || emulator.requests().of(kind) > 0).await;
                (run, None)
            }
            Phase::Writing(table) | Phase::Silent(table) => {
                let HeldUp {
                    run,
                    holder,
                    gateway,
                } = HeldUp::start(mirror, table, program).await;
                if matches!(phase, Phase::Silent(_)) {
                    proxy.fall_silent();
                }
                (run, Some((holder, gateway)))
            }
        };
        Kept {
            run,
            proxy,
            held_up,
        }
    }
}

/// Stops a run, and checks the state that it leaves.
async fn check_stop(phase: Phase, signal: Signal, code: i32) {
    let mirror = small_mirror().await;
    let kept = Kept::in_phase(phase, &mirror).await;
    kept.run.signal(signal);
    let begin = Instant::now();
    let finished = kept.run.finish().await;
    note(&format!(
        "{signal} in {phase:?}: ended after {:.1?}",
        begin.elapsed()
    ));
    finished.code(code).says(&["error: stopped by a signal"]);
    drop((kept.held_up, kept.proxy));
    wait_until_alone(&mirror.database).await;
    let published = "select count(*) from swr.artifact";
    assert_eq!(mirror.snapshot(published).await, "0", "{phase:?}");
    let expected = match phase {
        Phase::Connecting => String::new(),
        Phase::Silent(_) => "running | NULL".to_owned(),
        Phase::Asking(_) | Phase::Writing(_) => format!("stopped | {code}"),
    };
    let row = "select outcome, exit_code from swr.sync_run";
    assert_eq!(mirror.snapshot(row).await, expected, "{phase:?}");
    check_next_run(&mirror).await;
}

/// For manual measurements; no test depends on it.
#[expect(clippy::print_stderr, reason = "libtest shows it with --nocapture")]
fn note(measured: &str) {
    eprintln!("{measured}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_asked_to_stop_ends_cleanly_in_every_phase() {
    let stop = |phase, signal| {
        let code = if signal == Signal::SIGTERM { 143 } else { 130 };
        check_stop(phase, signal, code)
    };
    // A few concurrently, because they mostly wait.
    tokio::join!(
        stop(Phase::Connecting, Signal::SIGTERM),
        stop(Phase::Asking(RequestKind::Namespaces), Signal::SIGINT),
        stop(Phase::Asking(RequestKind::Artifacts), Signal::SIGTERM),
        stop(Phase::Asking(RequestKind::BuildHistory), Signal::SIGINT),
    );
    tokio::join!(
        stop(Phase::Writing("staged_artifact"), Signal::SIGINT),
        stop(Phase::Writing("manifest"), Signal::SIGTERM),
        stop(Phase::Writing("tag"), Signal::SIGTERM),
        stop(Phase::Writing("artifact"), Signal::SIGINT),
    );
    tokio::join!(
        stop(Phase::Silent("staged_artifact"), Signal::SIGTERM),
        stop(Phase::Silent("manifest"), Signal::SIGINT),
        stop(Phase::Silent("tag"), Signal::SIGTERM),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_run_at_once() {
    let mirror = small_mirror().await;
    // A clean end takes some time here.
    let kept = Kept::in_phase(Phase::Silent("tag"), &mirror).await;
    kept.run.signal(Signal::SIGTERM);
    wait_until("the first signal has arrived", async || {
        kept.run.stderr_so_far().contains("stopping: ")
    })
    .await;
    kept.run.signal(Signal::SIGINT);
    // A clean end would have the exit code of the first signal.
    let finished = kept.run.finish().await.code(130);
    assert_eq!(finished.error(), "");
    drop((kept.held_up, kept.proxy));
    check_next_run(&mirror).await;
}
