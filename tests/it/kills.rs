//! The real process, killed at any instant: what reports show is the old registry or the new one,
//! and the next run ends as if nothing had happened.
//!
//! A few kills by default. By hand, `KILLS=500` sets how many, `KILL_ARTIFACTS=2000` the size of
//! the registry, and `KILL_SEED=7` chooses other instants; a failure names its seed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::PgConnection;
use swr_sync::emulator::{RequestKind, World};

use crate::support::database::TestDatabase;
use crate::support::mirror::{Mirror, start_of_time, wait_until};
use crate::support::program::{Program, emulator_settings};

/// Requests on their way at a time.
const MAX_IN_FLIGHT: u64 = 16;

/// The most histories that were asked for and are not stored when a run is killed: on their way,
/// waiting for room among the answers, among the answers (256), or in the batch being stored (256).
const MOST_LOST: u64 = 2 * MAX_IN_FLIGHT + 256 + 256;

/// What publish writes to, and the crawl does not.
const PUBLISHED_TABLES: [&str; 5] = ["namespace", "repository", "artifact", "tag_history", "tag"];

/// When a run is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after its start.
    After(Duration),
    /// As soon as so many requests have arrived, of any kind.
    Requests(u64),
    /// While publish waits for a lock on this table.
    Waiting(&'static str),
    /// So long after publish got the lock it had waited for.
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

/// A registry, a database that mirrors it through many killed runs, and what it must show.
struct Trial {
    mirror: Mirror,
    /// What reports showed before, and what they must show in the end.
    old: String,
    new: String,
    digests: BTreeSet<String>,
    undisturbed: Duration,
    /// What a run asks for that needs no history.
    list_requests: u64,
    /// How often histories may have been asked for so far.
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

    /// Lets the registry change.
    async fn change(&mut self, round: u32) {
        self.mirror.emulator.with_world(|world| world.evolve(round));
        self.old = std::mem::take(&mut self.new);
        self.observe().await;
    }

    /// Sees what an undisturbed run gives, how long it takes, and what it asks for.
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
        Program::sync(emulator, &database).run().await.code(0);
        self.undisturbed = begin.elapsed();
        let requests = emulator.requests();
        // The instance is asked about in the first run only.
        self.list_requests =
            requests.of(RequestKind::Artifacts) + requests.of(RequestKind::Repositories);
        self.new = self.mirror.undisturbed_facts().await;
        emulator.reset_requests();
        self.most_histories = 0;
        self.kills = 0;
    }

    /// Digests whose history a run may still ask for.
    async fn missing(&self) -> u64 {
        let digests: Vec<_> = self
            .digests
            .iter()
            .map(|digest| format!("'{digest}'"))
            .collect();
        let stored = format!(
            "select count(*) from swr.manifest where digest in ({})",
            digests.join(", ")
        );
        let stored = self.mirror.database.snapshot(&stored).await;
        self.digests.len() as u64 - stored.parse::<u64>().unwrap()
    }

    async fn run_killed(&mut self, moment: Moment) {
        let Mirror {
            emulator, database, ..
        } = &self.mirror;
        self.most_histories += self.missing().await;
        let before = emulator.requests().total();
        let holder = match moment {
            Moment::Waiting(table) | Moment::Released(table, _) => {
                Some((table, hold(database, table).await))
            }
            _ => None,
        };
        let run = Program::sync(emulator, database).start();
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
            wait_until("publish waits for the lock", async || {
                is_waited_for(database, table).await
            })
            .await;
            if let Moment::Released(_, time) = moment {
                drop(holder);
                tokio::time::sleep(time).await;
                run.signal(Signal::SIGKILL);
            } else {
                run.signal(Signal::SIGKILL);
                // The server may notice the end of its client only now.
                drop(holder);
            }
        } else {
            run.signal(Signal::SIGKILL);
        }
        let finished = run.finish().await;
        let code = finished.status.code();
        assert!(matches!(code, None | Some(0)), "{}", finished.stderr);
        self.kills += 1;
        wait_until("the killed run's connections are gone", async || {
            let left = "select count(*) from pg_stat_activity
                        where datname = current_database() and application_name like 'swr-sync%'";
            database.snapshot(left).await == "0"
        })
        .await;
        let facts = self.mirror.facts().await;
        assert!(
            facts == self.old || facts == self.new,
            "neither the old registry nor the new one:\n{facts}"
        );
        if facts == self.new {
            // There is no way back.
            self.old.clone_from(&self.new);
        }
    }

    async fn run_to_the_end(&mut self) {
        let Mirror {
            emulator, database, ..
        } = &self.mirror;
        self.most_histories += self.missing().await;
        Program::sync(emulator, database).run().await.code(0);
        assert!(self.mirror.facts().await == self.new, "another registry");
        let left = "select (select count(*) from swr.sync_run where outcome = 'running'),
                           (select count(*) from swr.staged_artifact),
                           (select count(*) from swr.staged_tag),
                           (select count(*) from swr.staged_repository)";
        assert_eq!(database.snapshot(left).await, "0 | 0 | 0 | 0");
        let asked = emulator.requests().of(RequestKind::BuildHistory);
        // What a killed run has stored is never asked for again …
        assert!(
            asked <= self.most_histories,
            "{asked} of {}",
            self.most_histories
        );
        // … and it has stored all but the last few answers.
        let most = self.digests.len() as u64 + self.kills * MOST_LOST;
        assert!(asked <= most, "{asked} of {most}");
    }
}

/// Locks a table against writers until the connection is dropped.
async fn hold(database: &TestDatabase, table: &str) -> PgConnection {
    let mut connection = database.connect().await;
    let sql = format!("begin; lock table swr.{table} in exclusive mode");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

async fn is_waited_for(database: &TestDatabase, table: &str) -> bool {
    let waiting = format!(
        "select exists (
             select from pg_locks l join pg_database d on d.oid = l.database
             where d.datname = current_database() and l.relation = 'swr.{table}'::regclass and not l.granted
         )"
    );
    database.snapshot(&waiting).await == "t"
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_a_run_the_next_ends_as_if_nothing_had_happened() {
    let (kills, seed) = (setting("KILLS", 12), setting("KILL_SEED", 1));
    let artifacts = setting("KILL_ARTIFACTS", 250) as usize;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut moments = Vec::new();
    let mut trial = None;
    let mut round = 0;
    for kill in 0..kills {
        let current = match &mut trial {
            None => {
                let world = World::generate(random.u64(..), artifacts, start_of_time());
                trial.insert(Trial::new(world).await)
            }
            Some(trial) => trial,
        };
        let requests = current.list_requests + current.missing().await;
        let moment = Moment::choose(&mut random, current.undisturbed, requests);
        moments.push(moment);
        let replay = format!("KILL_SEED={seed}, kill {kill} of round {round}: {moments:?}");
        on_failure(&replay, current.run_killed(moment)).await;
        // Now and then a run is left alone; then the registry changes, or another one begins.
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

/// Says how to replay what fails.
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
