//! Random worlds, random faults, random ends of runs: in the end the tables are the same as without
//! faults, and in between they are never wrong.
//!
//! `FAULT_SEEDS=1000` sets the number of seeds, `FAULT_SEED=n` the first seed. With `FAULT_SEED` alone, only
//! this seed is tried.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::{FutureExt, StreamExt, stream};
use swr_emulator::{
    Artifact, BuildTime, Dialect, Emulator, EmulatorSettings, ErrorBody, Fault, FaultPlan,
    LastMarker, NextMarker, Quirks, RequestKind, Throttle, World, WorldSettings,
};
use swr_sync::clock::Clock;
use swr_sync::exit::Exit;
use swr_sync::registry::{Credentials, ProjectSettings};
use swr_sync::run::RunReport;
use swr_sync::stop::{self, StopReason};
use swr_sync::sync::{Progress, Safeguards, SyncError, SyncSettings};

use super::faults::falsely_removed;

use super::support::database::TestDatabase;
use super::support::mirror::{
    FACT_TABLES, client_settings, facts, run_as, run_at, start_of_time, sync_settings,
    user_settings, wait_until,
};
use super::support::proxy::Proxy;

/// One seed in `MANY_IN` has a registry with `MANY` artifacts.
const MANY_IN: u32 = 40;
const MANY: usize = 3_300;
/// Seeds in every test run.
const SEEDS: u64 = 4;
/// Number of concurrent seeds.
const PARALLEL: usize = 4;
/// No run takes this long, with any faults. Some worlds have thousands of digests, and with 429s that do
/// not depend on the rate, only few requests start per second.
const PATIENCE: Duration = Duration::from_secs(900);

#[expect(clippy::print_stdout, reason = "thousands of seeds take a while")]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_the_tables_end_as_if_nothing_had() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let (first, count) = match (number("FAULT_SEED"), number("FAULT_SEEDS")) {
        (Some(first), count) => (first, count.unwrap_or(1)),
        (None, count) => (1, count.unwrap_or(SEEDS)),
    };
    let seeds = Mutex::new(first..first + count);
    let failed: Vec<u64> = stream::iter(0..PARALLEL)
        .map(async |_| {
            let place = Place::new().await;
            let mut failed = Vec::new();
            loop {
                let Some(seed) = seeds.lock().unwrap().next() else {
                    return failed;
                };
                // A panic of one seed does not end the others.
                match AssertUnwindSafe(place.check_seed(seed))
                    .catch_unwind()
                    .await
                {
                    Ok(story) => println!("seed {seed}: {story}"),
                    Err(_) => {
                        println!("seed {seed} failed");
                        failed.push(seed);
                    }
                }
            }
        })
        .buffer_unordered(PARALLEL)
        .concat()
        .await;
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed; to see one again: FAULT_SEED={} cargo test --test it -- fault_matrix",
        failed.len(),
        failed[0]
    );
}

/// How a run ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    ByItself,
    /// The future is dropped at this await.
    Crash(u32),
    /// A stop is requested at this await.
    Stop(u32),
}

/// Two databases, used by one seed after another: creating new ones takes longer than a trial.
struct Place {
    disturbed: TestDatabase,
    undisturbed: TestDatabase,
}

/// The registry, databases and random numbers of a seed.
struct Trial<'a> {
    chance: fastrand::Rng,
    emulator: Emulator,
    /// The database of the runs with faults.
    disturbed: &'a TestDatabase,
    /// A mirror of the same registry without faults.
    undisturbed: &'a TestDatabase,
    credentials: Option<Credentials>,
    /// Concurrent requests of the runs with faults.
    max_in_flight: usize,
    /// A slow connection to the database, for some seeds.
    proxy: Option<Proxy>,
    story: Story,
}

/// Statistics of the faults and ends of a seed's runs.
#[derive(Debug, Default)]
struct Story {
    published: u32,
    failed: u32,
    crashed: u32,
    stopped: u32,
    faults: u64,
}

impl Place {
    async fn new() -> Place {
        Place {
            disturbed: TestDatabase::create().await,
            undisturbed: TestDatabase::create().await,
        }
    }

    async fn check_seed(&self, seed: u64) -> Story {
        empty(&self.disturbed).await;
        empty(&self.undisturbed).await;
        let mut trial = Trial::new(seed, self).await;
        let rounds = trial.chance.u32(2..=5);
        for round in 1..=rounds {
            if round > 1 && trial.chance.u32(0..4) > 0 {
                trial.emulator.with_world(|world| world.evolve(round));
            }
            let plan = FaultPlan::random(seed * 100 + u64::from(round));
            trial.disturbed_run(plan).await;
        }
        trial.settle().await;
        trial.story
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Story {
            published,
            failed,
            crashed,
            stopped,
            faults,
        } = self;
        write!(
            f,
            "{published} published, {failed} failed, {crashed} crashed, {stopped} stopped, {faults} faults"
        )
    }
}

impl<'a> Trial<'a> {
    async fn new(seed: u64, place: &'a Place) -> Trial<'a> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let quirks = Quirks {
            hostile: chance.choice([0.0, 0.03, 0.3]).unwrap(),
            broken_text: chance.choice([0.0, 0.03]).unwrap(),
            id_leaps: chance.choice([0.0, 0.02]).unwrap(),
            gone: chance.choice([0.0, 0.02]).unwrap(),
            ..Quirks::default()
        };
        let world = World::generate_with(&WorldSettings {
            seed,
            // Mostly small, up to three pages; sometimes more digests than fit into the queue of
            // wanted histories.
            artifacts: match chance.u32(0..MANY_IN) {
                0 => MANY,
                _ => 2_f64.powf(chance.f64() * 8.0) as usize,
            },
            now: start_of_time(),
            quirks,
        });
        let throttle = Throttle {
            requests_per_second: 200,
            burst: 20,
            quotes_limit: chance.bool(),
            retry_after: None,
        };
        let settings = EmulatorSettings {
            dialect: Dialect {
                build_time: chance
                    .choice([BuildTime::Created, BuildTime::CreatedAt])
                    .unwrap(),
                next_marker: chance
                    .choice([NextMarker::Number, NextMarker::Text])
                    .unwrap(),
                last_marker: chance
                    .choice([LastMarker::Absent, LastMarker::Null])
                    .unwrap(),
                ..Dialect::default()
            },
            throttle: (chance.u32(0..8) == 0).then_some(throttle),
            ..EmulatorSettings::default()
        };
        let has_password = chance.bool();
        let max_in_flight = 2_f64.powf(chance.f64() * 8.0) as usize;
        let proxy = match chance.u32(0..8) {
            0 => {
                let proxy = Proxy::before_database(place.disturbed.url()).await;
                proxy.delay(Duration::from_millis(chance.u64(1..=3)));
                Some(proxy)
            }
            _ => None,
        };
        let emulator = Emulator::start(settings, world).await.unwrap();
        if chance.u32(0..8) == 0 {
            let entries = chance.choice([9_999, 10_000, 10_001, 100_000]).unwrap();
            let body = format!(
                r#"{{"build_histories":[{{}}{}]}}"#,
                ",{}".repeat(entries - 1)
            );
            emulator.with_world(|world| {
                let digest = world.artifacts().next().map(Artifact::digest);
                if let Some(digest) = digest {
                    world.override_build_history_bytes(&digest.to_string(), 200, body);
                }
            });
        }
        let login = user_settings(&emulator, "emulator-password").credentials;
        Trial {
            chance,
            credentials: has_password.then_some(login),
            emulator,
            disturbed: &place.disturbed,
            undisturbed: &place.undisturbed,
            max_in_flight,
            proxy,
            story: Story::default(),
        }
    }

    /// Number of artifacts for each digest.
    fn holders(&self) -> HashMap<String, u64> {
        let mut holders = HashMap::new();
        self.emulator.with_world(|world| {
            for artifact in world.artifacts() {
                *holders.entry(artifact.digest().to_string()).or_default() += 1;
            }
        });
        holders
    }

    /// One endpoint fails for some requests in a row, like a service that restarts.
    fn plan_outage(&mut self) {
        if self.chance.u32(0..3) > 0 {
            return;
        }
        let kinds = [
            RequestKind::Repositories,
            RequestKind::Artifacts,
            RequestKind::BuildHistory,
            RequestKind::BuildHistory,
        ];
        let kind = self.chance.choice(kinds).unwrap();
        let fault = match self.chance.u32(0..4) {
            0 => Fault::Throttled { retry_after: None },
            1 => Fault::HalfDocument,
            _ => Fault::ServerError {
                status: self.chance.choice([500, 502, 504]).unwrap(),
                body: ErrorBody::Html,
            },
        };
        for _ in 0..2_f64.powf(self.chance.f64() * 9.0) as u32 {
            self.emulator.disturb_next(kind, fault.clone());
        }
    }

    /// A run with faults that may be interrupted. Checks the invariants after it.
    async fn disturbed_run(&mut self, plan: FaultPlan) {
        let emulator = &self.emulator;
        emulator.set_throttle(None);
        undisturbed_run(emulator, self.undisturbed).await;
        emulator.set_throttle(emulator.settings().throttle);
        let shown = published(self.disturbed).await;
        let answered = finally_answered(self.disturbed).await;
        let holders = self.holders();
        let time = emulator.with_world(|world| world.now());
        emulator.reset_requests();
        emulator.set_faults(Some(plan));
        self.plan_outage();
        let ending = match self.chance.u32(0..10) {
            0..5 => Ending::ByItself,
            5..8 => Ending::Crash(self.some_awaits()),
            _ => Ending::Stop(self.some_awaits()),
        };

        let run = self.run(self.impatient_client(), Clock::system(), ending);
        let result = match tokio::time::timeout(PATIENCE, run).await {
            Ok(result) => result,
            Err(_) => panic!("a run did not end within {PATIENCE:?}"),
        };

        let emulator = &self.emulator;
        emulator.set_faults(None);
        emulator.clear_faults();
        connections_are_gone(self.disturbed).await;
        let met = emulator.met_faults();
        let what = format!("{ending:?}, {met:?}");
        assert_eq!(
            falsely_removed(&self.emulator, self.disturbed).await,
            "",
            "{what}"
        );
        // Requests are repeated after an expired token or a 429. These do not count as attempts.
        let is_no_attempt =
            |fault: &Fault| matches!(fault, Fault::ExpiredTokens | Fault::Throttled { .. });
        let repeats = met.iter().filter(|(fault, _)| is_no_attempt(fault));
        let repeats: u64 = repeats.map(|(_, count)| count).sum();
        // After a failure a digest is requested from other repositories; some may be deleted since.
        let mut holders = holders.clone();
        for (digest, count) in self.holders() {
            let before = holders.entry(digest).or_default();
            *before = count.max(*before);
        }
        for (digest, count) in emulator.history_requests() {
            assert!(!answered.contains(&digest), "{digest} again; {what}");
            let most = 3 * holders.get(&digest).copied().unwrap_or(1) + repeats;
            assert!(count <= most, "{digest} {count} times; {what}");
        }
        let last = "select outcome from swr.sync_run order by run_id desc limit 1";
        let has_published = self.disturbed.snapshot(last).await == "published";
        match &result {
            Some(Ok(_)) => assert!(has_published, "{what}"),
            Some(Err(error)) => {
                let is_expected = match error.exit() {
                    Exit::SourceUnavailable => true,
                    Exit::Terminated => matches!(ending, Ending::Stop(_)),
                    // A token that expires before its first use ends the run.
                    Exit::Denied => met.contains_key(&Fault::ExpiredTokens),
                    _ => false,
                };
                assert!(is_expected, "{error}: {what}");
            }
            // A crash may happen before the run has a row, and after its commit.
            None => {}
        }
        let shows = published(self.disturbed).await;
        let is_same_registry = emulator.with_world(|world| world.now()) == time;
        let is_whole = !met.contains_key(&Fault::MissingRows);
        if shows != shown && is_same_registry && is_whole {
            let complete = listed(self.undisturbed).await;
            let given = listed(self.disturbed).await;
            assert!(given == complete, "neither the old nor the new: {what}");
        }
        if result.as_ref().is_some_and(Result::is_err) {
            assert!(shows == shown, "a run that failed has published: {what}");
        }
        match (ending, result) {
            (Ending::Crash(_), None) => self.story.crashed += 1,
            (Ending::Stop(_), Some(Err(SyncError::Stopped(_)))) => self.story.stopped += 1,
            (_, Some(Ok(_))) => self.story.published += 1,
            _ => self.story.failed += 1,
        }
        self.story.faults += met.values().sum::<u64>();
    }

    /// Without further faults, and after all delays of retries, the tables are the same as without faults.
    async fn settle(&mut self) {
        let emulator = &self.emulator;
        emulator.set_throttle(None);
        let later = Clock::from_fn(|| Clock::system().now() + TimeDelta::days(60));
        let client = client_settings(emulator);
        // Twice, because a tag is removed when it is missing from two listings in a row.
        for _ in 0..2 {
            self.run(client.clone(), later.clone(), Ending::ByItself)
                .await
                .unwrap()
                .unwrap();
        }
        assert_eq!(falsely_removed(&self.emulator, self.disturbed).await, "");
        let given = facts(self.disturbed).await;
        empty(self.undisturbed).await;
        undisturbed_run(emulator, self.undisturbed).await;
        let expected = facts(self.undisturbed).await;
        if given != expected {
            let missing = difference(&expected, &given);
            let surplus = difference(&given, &expected);
            panic!("not the undisturbed facts\nmissing:\n{missing}\nsurplus:\n{surplus}");
        }

        let emulator = &self.emulator;
        emulator.reset_requests();
        let report = self
            .run(client, later, Ending::ByItself)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(report.counters.rows_written, 0, "an unchanged registry");
        assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 0);
    }

    async fn run(
        &self,
        client: ProjectSettings,
        clock: Clock,
        ending: Ending,
    ) -> Option<Result<RunReport, SyncError>> {
        let (stopper, stop) = stop::channel();
        let progress = Arc::<Progress>::default();
        let settings = SyncSettings {
            clock,
            ..settings(&client)
        };
        let url = match &self.proxy {
            Some(proxy) => proxy.database_url(self.disturbed.url()),
            None => self.disturbed.url().to_owned(),
        };
        let running = run_at(client, settings, &url, &progress, &stop);
        let mut run = pin!(running);
        let mut awaits = 0;
        poll_fn(|context| match (run.as_mut().poll(context), ending) {
            (Poll::Ready(result), _) => Poll::Ready(Some(result)),
            (Poll::Pending, Ending::ByItself) => Poll::Pending,
            (Poll::Pending, Ending::Crash(at)) => {
                awaits += 1;
                if awaits == at {
                    return Poll::Ready(None);
                }
                Poll::Pending
            }
            (Poll::Pending, Ending::Stop(at)) => {
                awaits += 1;
                if awaits == at {
                    stopper.stop(StopReason::Terminate);
                }
                Poll::Pending
            }
        })
        .await
    }

    /// A random number of awaits: a short run has some dozens, a long run thousands.
    fn some_awaits(&mut self) -> u32 {
        2_f64.powf(self.chance.f64() * 11.0) as u32
    }

    /// Short timeouts, so that missing answers take little time.
    fn impatient_client(&self) -> ProjectSettings {
        let mut client = client_settings(&self.emulator);
        client.transport.request_timeout = Duration::from_millis(500);
        client.transport.max_in_flight = self.max_in_flight;
        if let Some(credentials) = &self.credentials {
            client.credentials = credentials.clone();
        }
        client
    }
}

/// A single run may remove half of a small registry.
fn settings(client: &ProjectSettings) -> SyncSettings {
    SyncSettings {
        safeguards: Safeguards {
            max_removals_percent: None,
            ..Safeguards::default()
        },
        ..sync_settings(client)
    }
}

async fn undisturbed_run(emulator: &Emulator, database: &TestDatabase) {
    let client = client_settings(emulator);
    let settings = settings(&client);
    let (_stopper, stop) = stop::channel();
    let progress = Arc::<Progress>::default();
    let run = run_as(client, settings, database, &progress, &stop);
    run.await.unwrap();
}

/// Resets a database to its state after the migrations.
async fn empty(database: &TestDatabase) {
    connections_are_gone(database).await;
    let tables = FACT_TABLES.map(|table| format!("swr.{table}")).join(", ");
    let sql = format!(
        "truncate {tables}, swr.sync_run, swr.staged_namespace, swr.staged_repository, swr.staged_artifact,
                  swr.staged_tag, swr.staged_data_issue restart identity cascade"
    );
    database.snapshot(&sql).await;
}

async fn connections_are_gone(database: &TestDatabase) {
    let others = "select count(*) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()
                    and backend_type = 'client backend'";
    wait_until("the run's connections are gone", async || {
        database.snapshot(others).await == "0"
    })
    .await;
}

/// Everything that publish writes, unchanged.
async fn published(database: &TestDatabase) -> String {
    let whole = "select 1, n::text from swr.namespace n
                 union all select 2, r::text from swr.repository r
                 union all select 3, a::text from swr.artifact a
                 union all select 4, t::text from swr.tag t
                 union all select 5, h::text from swr.tag_history h
                 order by 1, 2";
    database.snapshot(whole).await
}

/// The registry's content as of the last listing. Does not include tags that are missing from this listing
/// for the first time: a mirror with more runs has removed them before.
async fn listed(database: &TestDatabase) -> String {
    let current = "select 1, (namespace_id, name, repository_count, metadata, created_at, updated_at, extra)::text
                   from swr.namespace where removed_at is null
                   union all
                   select 2, (repository_id, namespace_id, namespace_name, name, description, tag_count,
                              artifact_count, pull_count, created_at, updated_at, extra)::text
                   from swr.repository where removed_at is null
                   union all
                   select 3, (artifact_id, repository_id, namespace_id, digest, size_bytes, pushed_at, pulled_at,
                              type, media_type, manifest_media_type, repository_name, extra)::text
                   from swr.artifact where removed_at is null
                   union all
                   select 4, (repository_id, name, tag_id, artifact_id, pushed_at, pulled_at, extra)::text
                   from swr.tag where missing_since_run_id is null
                   union all
                   select 5, (h.repository_id, h.name, h.digest)::text
                   from swr.tag_history h
                   join swr.tag k using (instance_id, repository_id, name)
                   where h.valid_to is null and k.missing_since_run_id is null
                   order by 1, 2";
    database.snapshot(current).await
}

/// The digests whose history must never be requested again.
async fn finally_answered(database: &TestDatabase) -> HashSet<String> {
    let answered = "select digest from swr.manifest where next_attempt_at is null";
    let answered = database.snapshot(answered).await;
    answered.lines().map(str::to_owned).collect()
}

/// The first lines that are only in one of two texts.
fn difference(of: &str, to: &str) -> String {
    let known: HashSet<&str> = to.lines().collect();
    let lines = of.lines().filter(|line| !known.contains(line));
    let short = lines.map(|line| line.chars().take(300).collect::<String>());
    short.take(5).collect::<Vec<_>>().join("\n")
}
