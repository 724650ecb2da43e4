//! Several instances in one job, with the real process: listing them, their credentials, failures of one of
//! them, and shards.

use chrono::Duration;
use serde_json::Value;
use swr_emulator::{
    Credentials, Emulator, EmulatorSettings, Instance, Quirks, RequestKind, World, WorldSettings,
};

use super::support::config_file::ConfigFile;
use super::support::database::TestDatabase;
use super::support::held_up::wait_until_unlocked;
use super::support::mirror::{start_of_time, wait_until};
use super::support::program::{Finished, Program, emulator, emulator_settings};
use super::support::{assert_contains, assert_starts_with};

/// The content of each instance in the reports, without the ids that the database has generated.
const FACTS: &str = "
    select i.swr_instance_id, i.name, r.namespace_name, r.name, a.artifact_id, a.digest, a.size_bytes, a.pushed_at,
           m.outcome, m.layer_bytes, m.build_step_ids, m.layer_ids, m.chain_ids,
           (select string_agg(t.name, ',' order by t.name) from swr.tag t
            where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id)
    from swr.artifact a
    join swr.instance i using (instance_id)
    join swr.repository r using (instance_id, repository_id)
    left join swr.manifest m using (instance_id, digest)
    where a.removed_at is null
    order by 1, 5";

const PUBLISHED: &str = "
    select i.swr_instance_id, count(*) from swr.sync_run join swr.instance i using (instance_id)
    where outcome = 'published' group by 1 order by 1";

fn first() -> String {
    EmulatorSettings::default().instance_id
}

fn instance(id: &str) -> Instance {
    Instance {
        id: id.to_owned(),
        name: format!("name-of-{id}"),
        version: "25.6.0".to_owned(),
        status: "Running".to_owned(),
    }
}

/// Some artifacts, different for each seed.
fn world(seed: u64) -> World {
    World::generate_with(&WorldSettings {
        seed,
        artifacts: 12,
        now: start_of_time(),
        quirks: Quirks::none(),
    })
}

/// A project with its first instance and these.
async fn project(ids: &[&str]) -> Emulator {
    let emulator = emulator(world(1)).await;
    for (seed, id) in (2..).zip(ids) {
        emulator.add_instance(instance(id), world(seed));
    }
    emulator
}

fn sync_all(emulator: &Emulator, database: &TestDatabase) -> Program {
    Program::sync(emulator, database).env("SWR_INSTANCE_ID", "all")
}

impl ConfigFile {
    fn program(&self, command: &str, database: &TestDatabase) -> Program {
        Program::new(&[command, "--config", &self.path()])
            .env("SWR_MAX_REQUESTS_PER_SECOND", "0")
            .env("SWR_RETRY_DELAY", "1ms")
            .database(database)
    }
}

#[tokio::test]
async fn all_instances_are_those_that_run_and_list_artifacts_in_every_run_anew() {
    let database = TestDatabase::create().await;
    let emulator = project(&["bbb"]).await;
    let add = |id: &str, version: &str, status: &str| {
        let instance = Instance {
            version: version.to_owned(),
            status: status.to_owned(),
            ..instance(id)
        };
        emulator.add_instance(instance, World::empty(start_of_time()));
    };
    add("old", "25.5.0", "Running");
    // More than fit on a page, followed by one to mirror.
    for number in 0..110 {
        add(&format!("creating-{number}"), "25.6.0", "Creating");
    }
    emulator.add_instance(instance("zzz"), world(3));

    let finished = sync_all(&emulator, &database).code(0).await;
    let expected = [
        "its version is 25.5.0, but the artifact list requires 25.6.0 or later",
        "its status is Creating",
        "3 of 3 instances succeeded",
    ];
    let finished = finished.says(&expected);
    for id in [&first(), "bbb", "zzz"] {
        let line = format!("instance {id}  published, ");
        assert_contains(&finished.stderr, &line);
    }
    let all = format!("{} | 1\nbbb | 1\nzzz | 1", first());
    assert_eq!(database.snapshot(PUBLISHED).await, all);
    // Two pages, and the description of each.
    let requests = emulator.requests();
    assert_eq!(requests.of(RequestKind::Instance), 2 + 3);
    assert_eq!(emulator.requests_of("old").total(), 0);

    // One has become ready, and one was deleted.
    emulator.with_instance("creating-7", |instance, _| {
        instance.status = "Running".into()
    });
    emulator.with_instance("bbb", |instance, _| instance.status = "Deleting".into());
    sync_all(&emulator, &database).code(0).await;
    let all = format!("{} | 2\nbbb | 1\ncreating-7 | 1\nzzz | 2", first());
    assert_eq!(database.snapshot(PUBLISHED).await, all);
}

#[tokio::test]
async fn an_instance_that_is_asked_for_among_all_must_be_there() {
    let database = TestDatabase::create().await;
    let emulator = project(&["bbb", "ccc"]).await;
    let other = project(&[]).await;
    let file = ConfigFile::new(&sources(&[
        ("one", &emulator, "'all'"),
        ("other", &other, "['elsewhere']"),
    ]));
    let sync = || file.program("sync", &database);
    let finished = sync().args(&["--instance-id", "bbb"]).code(0).await;
    // With one instance, there is no summary of all instances.
    assert!(!finished.stderr.contains("succeeded in"));
    assert_eq!(database.snapshot(PUBLISHED).await, "bbb | 1");
    let finished = sync().args(&["--instance-id", "bbb,xxx"]).code(2).await;
    finished.says(&["no source has an instance xxx that can be mirrored"]);
    assert_eq!(database.snapshot(PUBLISHED).await, "bbb | 1");
}

/// Sources with the credentials of their emulators in the file, by instances.
fn sources(sources: &[(&str, &Emulator, &str)]) -> String {
    let mut text = String::new();
    for (name, emulator, instances) in sources {
        let Credentials {
            access_key,
            secret_key,
            ..
        } = &emulator.settings().credentials;
        text.push_str(&format!(
            "[[source]]\nname = '{name}'\nendpoint = '{}'\nproject_id = '{}'\ninstances = {instances}\n\
             [source.credentials]\naccess_key = '{access_key}'\nsecret_key = '{}'\n\n",
            emulator.endpoint(),
            emulator.settings().project_id,
            secrecy::ExposeSecret::expose_secret(secret_key),
        ));
    }
    text
}

/// An emulator with a separate key, and an instance with this name.
async fn emulator_with_key(instance_id: &str, secret_key: &str, seed: u64) -> Emulator {
    let settings = EmulatorSettings {
        instance_id: instance_id.to_owned(),
        project_id: format!("project-of-{instance_id}"),
        credentials: Credentials {
            secret_key: secret_key.into(),
            ..emulator_settings().credentials
        },
        ..EmulatorSettings::default()
    };
    Emulator::start(settings, world(seed)).await.unwrap()
}

#[tokio::test]
async fn each_source_has_the_credentials_of_its_own_and_no_secret_is_shown() {
    const KEYS: [&str; 3] = [
        "secret-key-in-the-file-not-to-be-shown",
        "secret-key-in-a-file-of-its-own-not-to-be-shown",
        "secret-key-in-a-variable-not-to-be-shown",
    ];
    let database = TestDatabase::create().await;
    let here = emulator_with_key("here", KEYS[0], 1).await;
    let in_file = emulator_with_key("in-file", KEYS[1], 2).await;
    let in_variable = emulator_with_key("in-variable", KEYS[2], 3).await;
    let text = sources(&[
        ("here", &here, "'all'"),
        ("in-file", &in_file, "'all'"),
        ("in-variable", &in_variable, "['in-variable']"),
    ]);
    let file = ConfigFile::new("");
    let path = file.add("key", KEYS[1]);
    let text = text
        .replace(
            &format!("secret_key = '{}'", KEYS[1]),
            &format!("secret_key_file = '{path}'"),
        )
        .replace(
            &format!("secret_key = '{}'", KEYS[2]),
            "secret_key_env = 'KEY_OF_ONE'",
        );
    file.add("swr-sync.toml", &text);
    let program = |command: &str| {
        file.program(command, &database)
            .hides(KEYS[0])
            .hides(KEYS[1])
            .secret("KEY_OF_ONE", KEYS[2])
            // The key of another user, which no emulator accepts.
            .env("HUAWEICLOUD_SDK_AK", "AKOFSOMEBODYELSE")
            .secret("HUAWEICLOUD_SDK_SK", "secret-key-of-somebody-else")
    };
    let finished = program("sync").env("SWR_SYNC_LOG", "trace").code(0).await;
    let expected = [
        "here: instance here  published, ",
        "in-file: instance in-file  published, ",
        "in-variable: instance in-variable  published, ",
        "3 of 3 instances succeeded",
    ];
    finished.says(&expected);
    for emulator in [&here, &in_file, &in_variable] {
        assert_eq!(emulator.requests().failed_signatures, 0);
    }
    let stored = database.snapshot("select * from swr.instance").await;
    let runs = database.snapshot("select * from swr.sync_run").await;
    for key in KEYS {
        assert!(!stored.contains(key) && !runs.contains(key));
    }

    // One key is no longer valid: its instance fails, the others do not.
    in_file.set_secret_key("another");
    let finished = program("sync").code(4).await;
    let finished = finished.says(&["source in-file:\nerror: ", "2 of 3 instances succeeded"]);
    assert!(finished.stderr.contains("source in-file  failed with 4"));
    let published = "here | 2\nin-file | 1\nin-variable | 2";
    assert_eq!(database.snapshot(PUBLISHED).await, published);

    // If the secret of one source cannot be read, the others are synced too.
    std::fs::remove_file(&path).unwrap();
    let finished = program("sync").code(2).await;
    finished.says(&["cannot read the file", "2 of 3 instances succeeded"]);
    let published = "here | 3\nin-file | 1\nin-variable | 3";
    assert_eq!(database.snapshot(PUBLISHED).await, published);
}

#[tokio::test]
async fn one_failing_instance_of_three_does_not_stop_the_others() {
    let database = TestDatabase::create().await;
    let emulator = project(&["bbb"]).await;
    let ids = format!("{},bbb,not-there", first());
    let sync = || Program::sync(&emulator, &database).env("SWR_INSTANCE_ID", &ids);
    let finished = sync().run().await;
    let code = finished.status.code().unwrap();
    assert!(![0, 75].contains(&code), "{}", finished.stderr);
    let finished = finished.says(&[
        "instance not-there:\nerror: ",
        "2 of 3 instances succeeded",
        &format!("exit code {code}"),
    ]);
    assert!(
        finished
            .stderr
            .contains(&format!("instance not-there  failed with {code}, "))
    );
    let published = format!("{} | 1\nbbb | 1", first());
    assert_eq!(database.snapshot(PUBLISHED).await, published);

    // Each log line has the name of its instance.
    let json = sync().env("SWR_SYNC_LOG_FORMAT", "json").code(code).await;
    let lines: Vec<Value> = json
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let failed = lines.iter().find(|line| line["level"] == "ERROR").unwrap();
    assert_eq!(failed["instance"], "not-there");
    let total = lines.last().unwrap();
    assert_eq!(total["instances"], 3);
    assert_eq!(total["instances_failed"], 1);
    assert_eq!(total["exit_code"], code);
    let published = lines
        .iter()
        .find(|line| line["outcome"] == "published")
        .unwrap();
    assert!(published["span"]["instance"].is_string(), "{published}");
}

#[tokio::test]
async fn a_project_that_does_not_list_its_instances_fails_alone() {
    let database = TestDatabase::create().await;
    let silent = project(&[]).await;
    let other = emulator_with_key("other", "key-of-the-other-not-to-be-shown", 2).await;
    silent.fail_next(RequestKind::Instance, 403, "{}");
    let file = ConfigFile::new(&sources(&[
        ("silent", &silent, "'all'"),
        ("other", &other, "'all'"),
    ]));
    let finished = file.program("sync", &database).code(4).await;
    finished.says(&["source silent:\nerror: ", "1 of 2 instances succeeded"]);
    assert_eq!(database.snapshot(PUBLISHED).await, "other | 1");
}

#[tokio::test]
async fn shards_lead_to_the_same_tables_whatever_their_number() {
    let ids = ["bbb", "ccc", "ddd", "eee", "fff"];
    let emulator = project(&ids).await;
    let sharded = TestDatabase::create().await;
    for (round, count) in (1..).zip([2, 3, 1]) {
        for id in ids.into_iter().chain([first().as_str()]) {
            emulator.with_instance(id, |_, world| {
                let now = start_of_time() + Duration::days(round.into());
                world.set_now(now);
                world.evolve(round);
            });
        }
        emulator.reset_requests();
        for number in 1..=count {
            let program = sync_all(&emulator, &sharded);
            // By its number, or by that of the pod.
            let program = match number % 2 {
                0 => program.args(&["--shard", &format!("{number}/{count}")]),
                _ => program
                    .args(&["--shard", &format!("auto/{count}")])
                    .env("JOB_COMPLETION_INDEX", (number - 1).to_string()),
            };
            program.code(0).await;
        }
        // Each instance is in exactly one shard.
        for id in ids.into_iter().chain([first().as_str()]) {
            assert_eq!(
                emulator.requests_of(id).of(RequestKind::Artifacts),
                1,
                "{id}"
            );
        }
        let whole = TestDatabase::create().await;
        sync_all(&emulator, &whole).code(0).await;
        let facts = whole.snapshot(FACTS).await;
        assert_eq!(facts, sharded.snapshot(FACTS).await, "with {count} shards");
        assert!(facts.lines().count() > 60);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_shard_is_told_before_anything_is_asked() {
    let database = TestDatabase::create().await;
    let emulator = project(&[]).await;
    let sync = |shard: &str| sync_all(&emulator, &database).args(&["--shard", shard]);
    let unset = sync("auto/3").code(2).await;
    unset.says(&[
        "--shard auto/3 needs JOB_COMPLETION_INDEX",
        "completionMode: Indexed",
    ]);
    let beyond = sync("auto/3").env("JOB_COMPLETION_INDEX", "3");
    let expected = ["JOB_COMPLETION_INDEX is 3", "indexes 0 to 2"];
    beyond.code(2).await.says(&expected);
    let zero = sync("0/3").code(2).await;
    zero.says(&["shards are numbered from 1: the first is 1/3"]);
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn two_jobs_that_meet_do_each_what_the_other_does_not() {
    let database = TestDatabase::create().await;
    let emulator = project(&["bbb"]).await;
    // The first job is blocked in one of the instances, the one with the first request.
    emulator.hang_next(RequestKind::Artifacts);
    let stuck = sync_all(&emulator, &database).start();
    wait_until("one instance is published", async || {
        database.snapshot(PUBLISHED).await.lines().count() == 1
    })
    .await;
    let published = database.snapshot(PUBLISHED).await;
    let done = published.split(" | ").next().unwrap().to_owned();

    let finished = sync_all(&emulator, &database).code(75).await;
    finished.says(&["1 of 2 instances succeeded", "failed with 75"]);
    assert_eq!(database.snapshot(PUBLISHED).await, format!("{done} | 2"));
    let skipping = sync_all(&emulator, &database).args(&["--if-locked", "skip"]);
    let finished = skipping.code(0).await;
    finished.says(&["1 of 2 instances succeeded, 1 skipped"]);
    assert_eq!(database.snapshot(PUBLISHED).await, format!("{done} | 3"));
    stuck.signal(nix::sys::signal::Signal::SIGKILL);
    stuck.finish().await;

    wait_until_unlocked(&database).await;
    sync_all(&emulator, &database).code(0).await;
    let whole = TestDatabase::create().await;
    sync_all(&emulator, &whole).code(0).await;
    assert_eq!(database.snapshot(FACTS).await, whole.snapshot(FACTS).await);
}

#[tokio::test]
async fn the_instances_of_a_project_share_one_cap() {
    let database = TestDatabase::create().await;
    let emulator = project(&["bbb", "ccc", "ddd"]).await;
    // Long enough for all of them to run concurrently, without a limit.
    emulator.set_latency(std::time::Duration::from_millis(20));
    let uncapped = TestDatabase::create().await;
    sync_all(&emulator, &uncapped).code(0).await;
    assert!(emulator.requests().peak_in_flight > 3);
    emulator.reset_requests();
    let capped = sync_all(&emulator, &database).env("SWR_MAX_IN_FLIGHT", "3");
    capped.code(0).await.says(&["4 of 4 instances"]);
    assert!(emulator.requests().peak_in_flight <= 3);
}

#[tokio::test]
async fn doctor_looks_at_every_instance() {
    let database = TestDatabase::create().await;
    let emulator = project(&["bbb"]).await;
    let other = emulator_with_key("other", "key-of-the-other-not-to-be-shown", 2).await;
    let file = ConfigFile::new(&sources(&[
        ("one", &emulator, "'all'"),
        ("other", &other, "['other']"),
    ]));
    file.program("sync", &database).code(0).await;
    let doctor = async |code: i32| -> Vec<Value> {
        let program = file.program("doctor", &database);
        let finished = program.args(&["--format", "json"]).code(code).await;
        serde_json::from_str(&finished.stdout).unwrap()
    };
    let of = |rows: &[Value], probe: &str, status: &str| -> Vec<String> {
        let rows = rows
            .iter()
            .filter(|row| row["probe"] == probe && row["status"] == status);
        rows.map(|row| row["instance"].as_str().unwrap_or("-").to_owned())
            .collect()
    };
    let rows = doctor(0).await;
    assert_eq!(of(&rows, "configuration.endpoint", "ok"), ["one", "other"]);
    // An id that is no UUID may be a name.
    let listed = of(&rows, "permission.list_instances", "ok");
    assert_eq!(listed, ["one", "other"]);
    assert_eq!(of(&rows, "database.schema", "ok"), ["-"]);
    let all = [&first(), "bbb", "other"];
    for probe in [
        "database.lock",
        "instance.version",
        "permission.build_history",
    ] {
        assert_eq!(of(&rows, probe, "ok"), all, "{probe}");
    }

    // A refused key is not used again, and does not affect the other source.
    emulator.set_secret_key("another");
    let rows = doctor(4).await;
    assert_eq!(of(&rows, "permission.list_instances", "fail"), ["one"]);
    assert_eq!(of(&rows, "permission.list_artifacts", "ok"), ["other"]);
    assert_eq!(emulator.requests().failed_signatures, 1);
    let table = file.program("doctor", &database).code(4).await;
    assert_contains(&table.stdout, "\nother:\nok");
}

#[tokio::test]
async fn doctor_says_so_if_it_does_not_know_the_instances() {
    let database = TestDatabase::create().await;
    let emulator = project(&[]).await;
    emulator.set_secret_key("another");
    let program = Program::new(&["doctor"])
        .registry(&emulator)
        .database(&database)
        .env("SWR_INSTANCE_ID", "all");
    let finished = program.code(4).await;
    let line = |probe: &str| {
        let mut lines = finished.stdout.lines();
        lines.find(|line| line.split_whitespace().nth(1) == Some(probe))
    };
    let refused = line("permission.list_instances").unwrap();
    assert_starts_with(&refused, "fail");
    for (probe, reason) in [
        ("clock", "there is no instance to check"),
        (
            "permission.list_artifacts",
            "no more requests are signed after a rejected signature",
        ),
    ] {
        let skipped = line(probe).unwrap();
        assert_starts_with(&skipped, "skipped");
        assert_contains(&skipped, reason);
    }
    assert_eq!(emulator.requests().failed_signatures, 1);
}

#[tokio::test]
async fn verify_compares_every_instance() {
    let database = TestDatabase::create().await;
    let emulator = project(&["bbb"]).await;
    let sync = || sync_all(&emulator, &database);
    sync().code(0).await;
    let verify = async |code: i32| -> Finished {
        let program = Program::new(&["verify", "--format", "csv"])
            .registry(&emulator)
            .database(&database)
            .env("SWR_INSTANCE_ID", "all");
        program.code(code).await
    };
    let intact = verify(0).await;
    assert_eq!(intact.stderr.matches(" is intact, verified in").count(), 2);

    let spoil = "update swr.artifact set size_bytes = size_bytes + 1
        where (instance_id, artifact_id) in (
            select instance_id, min(artifact_id) from swr.artifact join swr.instance i using (instance_id)
            where i.swr_instance_id = 'bbb' group by 1)";
    database.snapshot(spoil).await;
    let corrupt = verify(1).await.says(&[" is intact", " is corrupt"]);
    let lines: Vec<&str> = corrupt.stdout.lines().collect();
    assert!(lines[0].starts_with("instance,verdict,"), "{lines:?}");
    assert!(lines[1].starts_with("bbb,corrupt,artifact,"), "{lines:?}");
}

#[tokio::test]
async fn other_commands_take_the_database_from_the_file() {
    let database = TestDatabase::create().await;
    let emulator = project(&[]).await;
    Program::sync(&emulator, &database).code(0).await;
    let file = ConfigFile::new("");
    let url = file.add("url", database.url());
    file.add("swr-sync.toml", &format!("database_url_file = '{url}'\n"));
    let path = file.path();
    let commands: [&[&str]; 4] = [
        &["status"],
        &["report", "artifact"],
        &["query", "select 1 as one"],
        &["migrate", "--check"],
    ];
    for command in commands {
        let program = Program::new(command).env("SWR_SYNC_CONFIG", &path);
        program.code(0).await;
    }
}
