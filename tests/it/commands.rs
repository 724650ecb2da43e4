//! The commands on the real process: what they print, what they change, and how they exit.

use chrono::DateTime;
use std::io::pipe;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use swr_emulator::{ArtifactSpec, Clock, Digest, Emulator, EmulatorSettings, RequestKind, World};
use swr_sync::database::MIGRATOR;
use swr_sync::report::{FilterError, FilterValues, REPORTS, Report};

use crate::support::database::{TestDatabase, lacks_all_migrations};
use crate::support::mirror::{GATEWAY_REFUSAL, start_of_time, world_of};
use crate::support::program::{Program, emulator, emulator_and_database, emulator_settings};
use crate::support::wire::{closed_port, http};
use crate::support::{assert_contains, assert_ends_with, assert_lacks, assert_starts_with, cases};

#[cfg(target_os = "linux")]
mod embedded;
mod report;

#[tokio::test]
async fn sync_publishes_and_says_what_it_did() {
    let emulator = emulator(world_of(3)).await;
    let database = TestDatabase::create_empty().await;
    let first = Program::sync(&emulator, &database).code(0).await;
    assert_eq!(first.stdout, "");
    let first = first.says(&[
        &format!("applied {} migrations", MIGRATOR.iter().count()),
        "run 1: published in ",
        "  artifacts  3 listed on 1 page: 3 new, 0 changed, 0 removed, 0 unchanged\n",
        "  histories  3 fetched, 0 known, 0 unsupported, 0 gone, 0 failed\n",
        "  requests   7 (2 for the catalog), 0 retries, 0 throttled\n",
    ]);
    assert_lacks(&first.stderr, "error");
    assert_eq!(database.last_run().await, "published | 0");
    let counted =
        "select count(*), count(*) filter (where build_steps > 0) from swr_report.artifact";
    assert_eq!(database.snapshot(counted).await, "3 | 3");

    let before = database.published().await;
    let second = Program::sync(&emulator, &database).code(0).await;
    assert_eq!(second.stdout, "");
    second.says(&[
        "run 2: published in ",
        "  artifacts  3 listed on 1 page: 0 new, 0 changed, 0 removed, 3 unchanged\n",
        "  tags       0 new, 0 moved, 0 removed\n",
        "  histories  0 fetched, 3 known, 0 unsupported, 0 gone, 0 failed\n",
        "  requests   3 (2 for the catalog), 0 retries, 0 throttled\n",
        "  database   0 rows written, 0 values altered\n",
    ]);
    assert_eq!(database.published().await, before);
}

fn json_lines(stderr: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    stderr.lines().map(parse).collect()
}

#[tokio::test]
async fn each_line_of_a_json_log_is_an_object_and_the_last_has_the_counters() {
    let emulator = emulator(world_of(3)).await;
    let database = TestDatabase::create_empty().await;
    let finished = Program::sync(&emulator, &database)
        .args(&["--log-format", "json"])
        .code(0)
        .await;
    let lines = json_lines(&finished.stderr);
    let last = lines.last().unwrap();
    assert_eq!(last["message"], "run 1 published");
    assert_eq!(last["outcome"], "published");
    assert_eq!(last["artifacts_new"], 3);
    assert_eq!(last["histories_fetched"], 3);
    assert_eq!(last["requests_total"], 7);
    assert_eq!(last["level"], "INFO");
}

#[tokio::test]
async fn a_failure_is_an_object_of_the_json_log_too() {
    let database = TestDatabase::create().await;
    let emulator = emulator(world_of(1)).await;
    emulator.fail_next(RequestKind::Namespaces, 403, GATEWAY_REFUSAL);
    let finished = Program::sync(&emulator, &database)
        .args(&["--log-format", "json"])
        .code(4)
        .await;
    let lines = json_lines(&finished.stderr);
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "ERROR");
    assert_eq!(last["exit_code"], 4);
    let message = last["message"].as_str().unwrap();
    assert_contains(&message, "HTTP 403 SVCSTG.SWR.4030170");
    let hint = last["hint"].as_str().unwrap();
    assert_contains(&hint, "swr:repository:listNamespaces");
}

#[tokio::test]
async fn a_dry_run_publishes_nothing_and_keeps_the_histories() {
    let (emulator, database) = emulator_and_database(world_of(3)).await;
    Program::sync(&emulator, &database).code(0).await;
    emulator.with_world(|world| {
        let repository = world.repository("team", "app/api").unwrap().id;
        world.push(repository).unwrap();
        world.push(repository).unwrap();
        let oldest = world.artifacts().next().unwrap().id;
        world.delete_artifact(oldest).unwrap();
    });

    let before = database.published().await;
    let trial = Program::sync(&emulator, &database)
        .args(&["--dry-run"])
        .code(0)
        .await;
    assert_eq!(trial.stdout, "");
    trial.says(&[
        "run 2: complete, not published (dry run) in ",
        "4 listed on 1 page: 2 new, 0 changed, 1 removed, 2 unchanged",
        "2 fetched, 2 known",
    ]);
    assert_eq!(database.published().await, before);
    assert_eq!(database.last_run().await, "dry_run | 0");
    let published_at = "select published_at from swr.sync_run where run_id = 2";
    assert_eq!(database.snapshot(published_at).await, "NULL");
    let staged = "select count(*) from swr.staged_artifact";
    assert_eq!(database.snapshot(staged).await, "0");

    emulator.reset_requests();
    let run = Program::sync(&emulator, &database).code(0).await;
    run.says(&[
        "2 new, 0 changed, 1 removed, 2 unchanged",
        "0 fetched, 4 known",
    ]);
    assert_eq!(emulator.requests().of(RequestKind::BuildHistory), 0);
}

#[tokio::test]
async fn what_is_wrong_with_the_settings_shows_before_anything_starts() {
    let emulator = emulator(world_of(1)).await;
    let database_url = format!("postgresql://user@127.0.0.1:{}/x", closed_port());
    let sync = || {
        Program::new(&["sync"])
            .registry(&emulator)
            .database_url(&database_url)
    };
    let cases: [(Program, &[&str]); 17] = cases! {
        sync().without_key() => &["error: no credentials", "HUAWEICLOUD_SDK_AK and HUAWEICLOUD_SDK_SK", "SWR_AUTH_TOKEN", "SWR_IAM_USER, SWR_IAM_PASSWORD and SWR_IAM_ACCOUNT"];
        sync().without("HUAWEICLOUD_SDK_AK") => &["no access key given", "set HUAWEICLOUD_SDK_AK;"];
        sync().without("HUAWEICLOUD_SDK_SK") => &["no secret key given", "set HUAWEICLOUD_SDK_SK;"];
        // An empty value: compose files pass unset variables on as empty ones.
        sync().env("HUAWEICLOUD_SDK_SK", "") => &["no secret key given"];
        sync().iam_user(&emulator, &"x-not-to-be-shown".into()).without("SWR_IAM_ACCOUNT") => &["no account of the IAM user given", "set SWR_IAM_ACCOUNT;"];
        sync().env("SWR_ENDPOINT", "swr-api.example.com") => &["the endpoint `swr-api.example.com` is not a URL", "hint: write it as https://"];
        sync().env("SWR_ENDPOINT", "localhost:8085") => &["the endpoint must consist of scheme and host"];
        sync().secret("SWR_ENDPOINT", "https://user:p-not-to-be-shown@example.com") => &["the endpoint must consist of scheme and host, without user, password, path or query"];
        sync().without("SWR_ENDPOINT") => &["no region or endpoint given", "SWR_REGION or SWR_ENDPOINT"];
        sync().without("SWR_PROJECT_ID") => &["no project given", "set SWR_PROJECT_ID;"];
        sync().env("SWR_INSTANCE_ID", " ") => &["no instance given", "set SWR_INSTANCE_ID;"];
        sync().without("HUAWEICLOUD_SDK_SK").env("HUAWEICLOUD_SDK_SK_FILE", "/no/such/file") => &["cannot read the file /no/such/file of HUAWEICLOUD_SDK_SK_FILE"];
        sync().env("HUAWEICLOUD_SDK_SK_FILE", "/dev/null") => &["both HUAWEICLOUD_SDK_SK and HUAWEICLOUD_SDK_SK_FILE are set"];
        sync().without("HUAWEICLOUD_SDK_SK").env("HUAWEICLOUD_SDK_SK_FILE", "/dev/null") => &["the file /dev/null of HUAWEICLOUD_SDK_SK_FILE is empty"];
        sync().args(&["--no-such-flag"]) => &["'--no-such-flag'"];
        sync().args(&["--max-attempts", "0"]) => &["--max-attempts"];
        sync().env("SWR_RETRY_DELAY", "soon") => &["--retry-delay"];
    };
    for (program, words) in cases {
        program.fails(2, words).await;
    }
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn help_shows_the_variables_but_no_secret() {
    let emulator = emulator(world_of(1)).await;
    let database = TestDatabase::create_empty().await;
    for command in [
        &["sync"][..],
        &["migrate"],
        &["report"],
        &["query"],
        &["status"],
    ] {
        let program = Program::new(command)
            .registry(&emulator)
            .database(&database);
        let help = program.args(&["--help"]).code(0).await;
        assert_contains(&help.stdout, "[env: DATABASE_URL]");
    }
}

#[tokio::test]
async fn a_wrong_clock_is_told_from_a_wrong_key() {
    // Some seconds more, so that the test may take as long.
    for (seconds, found, way) in cases! {
        20 * 60 + 30, "this machine's clock is 20 minutes behind the gateway's" => "20 minutes forward";
        -20 * 60 - 5, "this machine's clock is 20 minutes ahead of the gateway's" => "20 minutes back";
    } {
        let now = swr_sync::clock::Clock::system().now();
        let settings = EmulatorSettings {
            clock: Clock::manual(now + chrono::TimeDelta::seconds(seconds)),
            ..emulator_settings()
        };
        let emulator = Emulator::start(settings, world_of(1)).await.unwrap();
        let database = TestDatabase::create().await;
        let hint = format!("hint: set this machine's clock {way}");
        let words = ["HTTP 401 APIGW.0301", "signature expired", found, &hint];
        Program::sync(&emulator, &database).fails(4, &words).await;
        assert_eq!(emulator.requests().failed_signatures, 1);
    }
}

#[tokio::test]
async fn a_wrong_password_of_an_iam_user_is_tried_once() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    let program = Program::sync(&emulator, &database)
        .iam_user(&emulator, &"wrong-password-not-to-be-shown".into());
    let words = [
        "POST http://",
        "HTTP 401",
        "The username or password is wrong.",
    ];
    program.fails(4, &words).await;
    assert_eq!(emulator.requests().total(), 1);
    assert_eq!(emulator.requests().answered(RequestKind::Token, 401), 1);
}

#[tokio::test]
async fn an_iam_user_gets_in_with_one_token_and_a_given_token_without_one() {
    let (emulator, database) = emulator_and_database(world_of(3)).await;
    let credentials = &emulator.settings().credentials;
    let sync = || Program::sync(&emulator, &database).args(&["--log", "trace"]);
    let user = sync().iam_user(&emulator, &credentials.password);
    user.code(0).await;
    assert_eq!(emulator.requests().answered(RequestKind::Token, 201), 1);
    let token = credentials.fixed_token.as_ref().unwrap();
    sync().token(token.expose_secret()).code(0).await;
    assert_eq!(emulator.requests().of(RequestKind::Token), 1);
    assert_eq!(emulator.requests().with_status(401), 0);
}

#[tokio::test]
async fn an_expired_token_is_tried_once() {
    let clock = Clock::manual(start_of_time());
    let settings = EmulatorSettings {
        clock: clock.clone(),
        ..emulator_settings()
    };
    let emulator = Emulator::start(settings, world_of(1)).await.unwrap();
    let database = TestDatabase::create().await;
    let token = issue_token(&emulator).await;
    Program::sync(&emulator, &database)
        .token(&token)
        .code(0)
        .await;

    clock.advance(emulator.settings().token_lifetime);
    emulator.reset_requests();
    let program = Program::sync(&emulator, &database).token(&token);
    let words = [
        "HTTP 401 APIGW.0301",
        "token expires",
        "hint: check the credentials",
    ];
    program.fails(4, &words).await;
    assert_eq!(emulator.requests().total(), 1);
}

async fn issue_token(emulator: &Emulator) -> String {
    let credentials = &emulator.settings().credentials;
    let body = json!({"auth": {
        "identity": {
            "methods": ["password"],
            "password": {"user": {
                "name": credentials.user,
                "password": credentials.password.expose_secret(),
                "domain": {"name": credentials.account},
            }},
        },
        "scope": {"project": {"id": emulator.settings().project_id}},
    }});
    let answer = http(emulator, "POST /v3/auth/tokens", "", &body.to_string()).await;
    let mut lines = answer.lines();
    let token = lines.find_map(|line| line.strip_prefix("x-subject-token: "));
    token.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn an_instance_without_the_artifact_list_is_told_to_upgrade() {
    let settings = EmulatorSettings {
        instance_version: "25.5.9".into(),
        ..emulator_settings()
    };
    let emulator = Emulator::start(settings, world_of(1)).await.unwrap();
    let database = TestDatabase::create().await;
    let words = [
        "error: the instance has version 25.5.9; the artifact list exists from 25.6.0 on",
        "hint: upgrade the instance to 25.6.0 or later",
    ];
    Program::sync(&emulator, &database).fails(2, &words).await;
    assert_eq!(emulator.requests().total(), 1);

    // A key without permission to read the version gets the error from the list itself.
    let database = TestDatabase::create().await;
    emulator.fail_next(RequestKind::Instance, 403, GATEWAY_REFUSAL);
    let words = [
        "HTTP 404 APIGW.0101",
        "instances older than 25.6.0 do not have it",
    ];
    Program::sync(&emulator, &database).fails(2, &words).await;
    assert_eq!(emulator.requests().of(RequestKind::Artifacts), 1);
}

#[tokio::test]
async fn a_log_level_that_does_not_exist_is_answered_with_those_that_do() {
    for log in [
        "nonsense",
        "swr_sync=loud",
        "no=such=level",
        "info,nonsense",
        "info,[",
    ] {
        let by_flag = Program::new(&["report", "--log", log]);
        let by_variable = Program::new(&["report"]).env("SWR_SYNC_LOG", log);
        for program in [by_flag, by_variable] {
            let finished = program.code(2).await;
            assert_eq!(finished.stdout, "");
            let expected = format!("error: invalid value '{log}' for '--log <LEVEL>': expected ");
            assert_starts_with(&finished.stderr, &expected);
            let accepted = "off, error, warn, info, debug or trace";
            assert_contains(&finished.stderr, accepted);
        }
    }
    for log in [
        "",
        "off",
        "DEBUG",
        "swr_sync::sync=debug",
        "warn,swr_sync=trace,",
    ] {
        let by_flag = Program::new(&["report", "--log", log]);
        by_flag.code(0).await;
        let by_variable = Program::new(&["report"]).env("SWR_SYNC_LOG", log);
        by_variable.code(0).await;
    }
}

#[tokio::test]
async fn migrate_brings_an_empty_database_up_to_date() {
    let database = TestDatabase::create_empty().await;
    let migrate = |arguments: &[&str]| {
        Program::new(&["migrate"])
            .args(arguments)
            .database(&database)
    };
    migrate(&["--check"])
        .fails(5, &[&lacks_all_migrations()])
        .await;
    let schemas = "select nspname from pg_namespace where nspname like 'swr%' order by 1";
    assert_eq!(database.snapshot(schemas).await, "");
    for (arguments, words) in [
        (
            &[][..],
            &*format!("applied {} migrations\n", MIGRATOR.iter().count()),
        ),
        (&[], "the schema is up to date\n"),
        (&["--check"], "the schema is up to date\n"),
    ] {
        let finished = migrate(arguments).code(0).await;
        assert_eq!(finished.stderr, words);
        assert_eq!(finished.stdout, "");
    }
    assert_eq!(database.snapshot(schemas).await, "swr\nswr_report");
}

/// A result that must be the same in CSV and JSON: names, then texts; NULL is empty.
type Rows = Vec<Vec<String>>;

fn csv_rows(text: &str) -> Rows {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(text.as_bytes());
    let rows = reader
        .records()
        .map(|record| record.unwrap().iter().map(str::to_owned).collect());
    rows.collect()
}

fn json_rows(text: &str) -> Rows {
    let document: Vec<serde_json::Map<String, Value>> = serde_json::from_str(text).unwrap();
    let names = document.first().map(|row| row.keys().cloned().collect());
    let values = document
        .iter()
        .map(|row| row.values().map(json_text).collect());
    names.into_iter().chain(values).collect()
}

/// A time in a common format: CSV has that of PostgreSQL, JSON that of RFC 3339.
fn one_time(text: &str) -> String {
    let with_minutes = format!("{}:00", text.replacen(' ', "T", 1));
    [text, &with_minutes]
        .into_iter()
        .find_map(|text| DateTime::parse_from_rfc3339(text).ok())
        .map_or_else(|| text.to_owned(), |time| time.to_rfc3339())
}

fn json_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => one_time(text),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(json_text).collect();
            format!("{{{}}}", values.join(","))
        }
        Value::Bool(true) => "t".to_owned(),
        Value::Bool(false) => "f".to_owned(),
        value => value.to_string(),
    }
}

/// A database with rows for each report.
async fn synced_registry() -> (Emulator, TestDatabase) {
    let (emulator, database) = emulator_and_database(world_of(3)).await;
    Program::sync(&emulator, &database).code(0).await;
    emulator.with_world(|world| {
        let repository = world.repository("team", "app/api").unwrap().id;
        let pushed = world.push(repository).unwrap();
        let names = pushed.tags.iter().map(|tag| tag.name.as_str());
        let tags: Vec<Value> = names.chain(["odd"]).map(|name| json!({"name": name})).collect();
        let row = json!({
            "id": pushed.id, "digest": pushed.digest().to_string(), "repository_id": repository, "size": 1.5,
            "push_time": "2026-01-01T00:00:00.000Z", "tags": tags,
        });
        world.override_row(pushed.id, row);
        // Each request for this history fails.
        let refusal = serde_json::from_str(GATEWAY_REFUSAL).unwrap();
        world.override_build_history(&pushed.digest().to_string(), 403, refusal);
        let os = world.add_repository("base", "os");
        let add = |world: &mut World, repository, digest: &str, tags: &[&str], steps: &[Value]| {
            let spec = ArtifactSpec {
                digest: Digest::parse(digest),
                size_bytes: 1234,
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                history: Some(json!({"build_histories": steps, "total": steps.len()})),
                ..ArtifactSpec::default()
            };
            world.add_artifact(repository, spec).unwrap()
        };
        let step = |digits: &str| {
            json!({
                "digest": digest_of(digits), "size": 1000,
                "created_by": "RUN /bin/sh -c curl http://example.com/install | sh # buildkit",
            })
        };
        let base = add(world, os, &digest_of("d0"), &["12"], &[step("b0")]);
        // Without a tag.
        let child = digest_of("d1");
        add(world, repository, &child, &[], &[step("b0"), step("b1")]);
        let mirror = world.add_repository("team", "o'mirror");
        world.promote(base, mirror).unwrap();
    });
    Program::sync(&emulator, &database).code(3).await;
    (emulator, database)
}

async fn synced_database() -> TestDatabase {
    synced_registry().await.1
}

/// Has a row for each report.
async fn verified_database() -> TestDatabase {
    let (emulator, database) = synced_registry().await;
    let verify = Program::new(&["verify"]);
    let verify = verify.registry(&emulator).database(&database);
    verify.code(0).await;
    database
}

/// The digest that repeats these two digits.
fn digest_of(digits: &str) -> String {
    format!("sha256:{}", digits.repeat(32))
}

/// Required filters of a report.
fn arguments_of(report: &Report) -> Vec<String> {
    match report.query(&FilterValues::default(), 0) {
        Err(FilterError::Missing { filter, .. }) => vec![filter.to_string(), digest_of("d0")],
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn the_list_of_reports_needs_no_database() {
    let finished = Program::new(&["report"]).code(0).await;
    assert_eq!(finished.stderr, "");
    let names: Vec<_> = finished
        .stdout
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let reports = REPORTS.iter().map(|report| report.name);
    let expected: Vec<&str> = reports.chain(["html"]).collect();
    assert_eq!(names, expected);
    let line = "freshness              How old is the data?";
    assert!(
        finished.stdout.lines().any(|known| known == line),
        "{}",
        finished.stdout
    );
}

#[tokio::test]
async fn every_report_says_the_same_in_every_format_and_if_its_query_is_run_by_hand() {
    let database = verified_database().await;
    let print = async |arguments: &[&str]| {
        let finished = Program::new(arguments).database(&database).code(0).await;
        let is_cut = finished.stderr.ends_with("rows; --limit 0 prints all\n");
        assert!(is_cut || finished.stderr.is_empty(), "{}", finished.stderr);
        finished.stdout
    };
    for report in REPORTS {
        let needed = arguments_of(report);
        let needed = needed.iter().map(String::as_str);
        let arguments: Vec<&str> = ["report", report.name].into_iter().chain(needed).collect();
        let with = |more: &[&'static str]| [&arguments[..], more].concat();
        let in_format = async |format| print(&with(&["--limit", "0", "--format", format])).await;
        let mut csv = csv_rows(&in_format("csv").await);
        let mut json = json_rows(&in_format("json").await);
        let table = in_format("table").await;
        assert!(csv.len() > 1, "{} is empty", report.name);
        for name in &csv[0] {
            assert!(table.contains(name), "no {name} in {table}");
        }
        let rows = csv.len() - 1;
        let noun = if rows == 1 { "row" } else { "rows" };
        assert_contains(&table, format!("\n({rows} {noun}"));
        for row in &mut csv {
            for value in row {
                *value = one_time(value);
            }
        }
        // It grows between two commands.
        let age = csv[0].iter().position(|name| name == "age");
        let without_age = |rows: &mut Rows| {
            for row in rows {
                age.map(|age| row.remove(age));
            }
        };
        without_age(&mut csv);
        without_age(&mut json);
        assert_eq!(json, csv, "{}", report.name);

        let sql = Program::new(&with(&["--limit", "2", "--sql"]))
            .code(0)
            .await;
        assert_eq!(sql.stderr, "");
        let mut by_hand = csv_rows(&print(&["query", &sql.stdout, "--format", "csv"]).await);
        without_age(&mut by_hand);
        let mut two_rows = csv_rows(&print(&with(&["--limit", "2", "--format", "csv"])).await);
        without_age(&mut two_rows);
        assert!((2..=3).contains(&by_hand.len()), "{by_hand:?}");
        assert_eq!(by_hand, two_rows, "{}", report.name);
    }
}

#[tokio::test]
async fn an_unknown_report_is_answered_with_the_known_ones() {
    let finished = Program::new(&["report", "unknown"]).fails(2, &[]).await;
    let expected = "error: there is no report `unknown`\n  hint: did you mean `unknown_base`?\n";
    assert_eq!(finished.error(), expected);
}

#[tokio::test]
async fn status_shows_freshness_and_the_last_runs() {
    let database = synced_database().await;
    let status = |arguments: &[&str]| {
        Program::new(&["status"])
            .args(arguments)
            .database(&database)
    };
    let table = status(&[]).code(0).await.stdout;
    assert_starts_with(
        &table,
        "demo: the data is less than a minute old (run 2); 7 artifacts\n",
    );
    assert_contains(&table, "\n  1 build history will be requested again\n");
    assert_ends_with(&table, "(2 rows; times in UTC)\n");

    let csv = csv_rows(
        &status(&["--format", "csv", "--runs", "1"])
            .code(0)
            .await
            .stdout,
    );
    assert_eq!(csv.len(), 2);
    assert_eq!(csv[0][..4], ["instance", "run_id", "outcome", "started_at"]);
    assert_eq!(csv[1][..3], ["demo", "2", "published"]);

    let empty = TestDatabase::create_empty().await;
    let program = Program::new(&["status"]).database(&empty);
    program.fails(5, &[&lacks_all_migrations()]).await;
}

#[tokio::test]
async fn a_query_that_writes_is_refused_and_changes_nothing() {
    let database = TestDatabase::create_empty().await;
    database.snapshot("create table public.t (x int); insert into public.t values (1);
         create sequence public.s; select nextval('public.s');
         create function public.writes() returns int language sql as 'insert into public.t values (2) returning x'").await;
    let state = "select (select string_agg(x::text, ',') from public.t), (select last_value from public.s),
                        (select count(*) from pg_class where relnamespace = 'public'::regnamespace)";
    let before = database.snapshot(state).await;
    assert_eq!(before, "1 | 1 | 2");
    for sql in [
        "insert into t values (2)",
        "insert into t values (2) returning x",
        "update t set x = 2",
        "delete from t",
        "truncate t",
        "drop table t",
        "create table u (x int)",
        "select 1; drop table public.t",
        "select 1; commit; drop table public.t",
        "commit; drop table public.t",
        "with gone as (delete from t returning x) select x from gone",
        "with new as (insert into t values (2) returning x) select x from new",
        "select x into u from t",
        "select x from t for update",
        "select writes()",
        "select nextval('public.s')",
        "select set_config('transaction_read_only', 'off', true), writes()",
        "copy t to '/tmp/t'",
        "do $$ begin insert into t values (2); end $$",
        "set transaction read write",
        "",
        "select",
        "select no_such_column from t",
    ] {
        let finished = Program::new(&["query", sql])
            .database(&database)
            .run()
            .await;
        // `select` alone is a query without columns.
        let code = if sql == "select" { 0 } else { 2 };
        let finished = finished.code(code);
        if code == 2 {
            assert_starts_with(finished.error(), "error: the query failed: ");
            assert_eq!(finished.stdout, "", "{sql}");
        }
        assert_eq!(database.snapshot(state).await, before, "{sql}");
    }
}

#[tokio::test]
async fn an_error_of_the_database_has_a_sqlstate_and_neither_a_line_of_its_source_nor_values() {
    let database = TestDatabase::create().await;
    for (sql, expected) in [
        (
            "select no_such_column from swr.instance",
            "error: the query failed: column \"no_such_column\" does not exist (SQLSTATE 42703):
  LINE 1: select no_such_column from swr.instance
                 ^
",
        ),
        // One that quotes a value.
        (
            "select '{\"a\":\"value-not-to-be-shown\" x}'::json",
            "error: the query failed: invalid input syntax for type json (SQLSTATE 22P02)",
        ),
    ] {
        let program = Program::new(&["query", sql]).database(&database);
        let finished = program.hides("value-not-to-be-shown").code(2).await;
        let error = finished.error();
        assert_starts_with(&error, expected);
        assert_lacks(&error, "at line");
    }
}

#[tokio::test]
async fn a_query_of_a_view_that_is_missing_is_told_where_they_are_listed() {
    for (database, sql) in [
        (TestDatabase::create().await, "select * from artefact"),
        (TestDatabase::create_empty().await, "select * from artifact"),
    ] {
        let finished = Program::new(&["query", sql])
            .database(&database)
            .run()
            .await;
        finished.code(2).says(&[
            "does not exist",
            "hint: `swr-sync report` lists the views; a new database has none before `swr-sync migrate`",
        ]);
    }
}

async fn print(database: &TestDatabase, sql: &str, format: &str) -> String {
    let finished = Program::new(&["query", sql, "--format", format])
        .database(database)
        .code(0)
        .await;
    assert_eq!(finished.stderr, "");
    finished.stdout
}

#[tokio::test]
async fn each_format_shows_each_kind_of_value() {
    let database = TestDatabase::create_empty().await;
    let sql = r#"select 7 as number, null::int as nothing, true as yes, 'a,"b"' as quoted,
                        '{"a": [1, null], "size": 123456789012345678901234567890}'::jsonb as document,
                        array['x', 'y z'] as list, E'tab\there\nline\x1b[31mred' as hostile,
                        1234567890123456789012.50 as exact, 'NaN'::float8 as nan, 1e20::float8 as float,
                        'sha256:' || repeat('0f', 32) as digest, repeat('w', 80) as long
                 union all
                 select -1, 2, false, '', '"text"', '{}', 'é', 0.1, '-Infinity', 0.25, 'sha256:short', 'w';"#;
    let digest = format!("sha256:{}", "0f".repeat(32));
    let long = "w".repeat(80);

    let expected = format!(
        r#"[
  {{"number":7,"nothing":null,"yes":true,"quoted":"a,\"b\"","document":{{"a": [1, null], "size": 123456789012345678901234567890}},"list":["x","y z"],"hostile":"tab\there\nline\u001b[31mred","exact":1234567890123456789012.50,"nan":"NaN","float":1e+20,"digest":"{digest}","long":"{long}"}},
  {{"number":-1,"nothing":2,"yes":false,"quoted":"","document":"text","list":[],"hostile":"é","exact":0.1,"nan":"-Infinity","float":0.25,"digest":"sha256:short","long":"w"}}
]
"#
    );
    let json = print(&database, sql, "json").await;
    assert_eq!(json, expected);
    let parsed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed[0]["document"]["a"], json!([1, null]));

    let csv = csv_rows(&print(&database, sql, "csv").await);
    let header = [
        "number", "nothing", "yes", "quoted", "document", "list", "hostile", "exact", "nan",
        "float", "digest", "long",
    ];
    assert_eq!(csv[0], header);
    let first = [
        "7",
        "",
        "t",
        "a,\"b\"",
        r#"{"a": [1, null], "size": 123456789012345678901234567890}"#,
        "{x,\"y z\"}",
        "tab\there\nline\x1b[31mred",
        "1234567890123456789012.50",
        "NaN",
        "1e+20",
        &digest,
        &long,
    ];
    assert_eq!(csv[1], first);
    let second = [
        "-1",
        "2",
        "f",
        "",
        "\"text\"",
        "{}",
        "é",
        "0.1",
        "-Infinity",
        "0.25",
        "sha256:short",
        "w",
    ];
    assert_eq!(csv[2], second);

    let table = print(&database, sql, "table").await;
    let row = table
        .lines()
        .find(|line| line.contains("tab here"))
        .unwrap();
    let cells: Vec<_> = row
        .trim_matches(['│', ' '])
        .split(['┆', '│'])
        .map(str::trim)
        .collect();
    let shortened = format!("{}…", "w".repeat(71));
    let expected = [
        "7",
        "",
        "t",
        "a,\"b\"",
        r#"{"a": [1, null], "size": 123456789012345678901234567890}"#,
        "{x,\"y z\"}",
        "tab here line\\u{1b}[31mred",
        "1234567890123456789012.50",
        "NaN",
        "1e+20",
        "0f0f0f0f0f0f",
        &shortened,
    ];
    assert_eq!(cells, expected, "{table}");
    assert_ends_with(&table, "\n(2 rows)\n");
    assert!(!table.contains('\x1b'), "{table}");
}

#[tokio::test]
async fn a_cell_that_a_spreadsheet_would_run_is_escaped_on_request_and_a_number_never() {
    let database = TestDatabase::create().await;
    let sql = "select v as text, -1 as number, null as nothing
               from unnest(array['=cmd|x!A0', '+1', '-x', '@SUM(A1)', E'\\tx', E'\\rx', 'a=b', '']) as v";
    let print = async |arguments: &[&str]| {
        let program = Program::new(&["query", sql]).args(arguments);
        program.database(&database).run().await
    };
    let column = |text: &str| {
        let rows = csv_rows(text).split_off(1);
        assert!(rows.iter().all(|row| row[1..] == ["-1", ""]), "{text}");
        rows.into_iter()
            .map(|row| row[0].clone())
            .collect::<Vec<_>>()
    };
    let raw = print(&["--format", "csv"]).await.code(0);
    assert_eq!(
        column(&raw.stdout),
        ["=cmd|x!A0", "+1", "-x", "@SUM(A1)", "\tx", "\rx", "a=b", ""]
    );
    let escaped = print(&["--format", "csv", "--escape-formulas"])
        .await
        .code(0);
    assert_eq!(
        column(&escaped.stdout),
        [
            "'=cmd|x!A0",
            "'+1",
            "'-x",
            "'@SUM(A1)",
            "'\tx",
            "'\rx",
            "a=b",
            ""
        ]
    );
    for form in [
        &["--escape-formulas"][..],
        &["--escape-formulas", "--format", "json"],
    ] {
        let refused = print(form).await.code(2);
        refused.says(&["--escape-formulas needs --format csv"]);
    }
    let report = ["report", "tag", "--format", "csv", "--escape-formulas"];
    Program::new(&report).database(&database).code(0).await;
}

#[tokio::test]
async fn a_json_document_stays_on_its_line() {
    let database = TestDatabase::create_empty().await;
    let sql = r#"select E'{"a":\n\r "x\\ny"}'::json as document"#;
    let expected = "[\n  {\"document\":{\"a\":   \"x\\ny\"}}\n]\n";
    assert_eq!(print(&database, sql, "json").await, expected);
}

#[tokio::test]
async fn a_query_without_rows_still_names_its_columns() {
    let database = TestDatabase::create_empty().await;
    let sql = "select 1 as number, 'x' as text where false";
    assert_eq!(print(&database, sql, "csv").await, "number,text\n");
    assert_eq!(print(&database, sql, "json").await, "[]\n");
    let table = print(&database, sql, "table").await;
    assert!(
        table.contains("number") && table.contains("text"),
        "{table}"
    );
    assert_ends_with(&table, "\n(0 rows)\n");
}

#[tokio::test]
async fn a_large_result_is_complete() {
    let database = TestDatabase::create_empty().await;
    let sql = "select x from generate_series(1, 2500) as x";
    let csv = csv_rows(&print(&database, sql, "csv").await);
    assert_eq!(csv.len(), 2501);
    assert_eq!(csv[2500], ["2500"]);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let database = TestDatabase::create_empty().await;
    let large = "select repeat('x', 100) as x from generate_series(1, 5000)";
    for arguments in [
        &["query", large, "--format", "table"][..],
        &["query", large, "--format", "csv"],
        &["query", large, "--format", "json"],
        &["query", "select 1", "--format", "table"],
        &["query", "select 1", "--format", "csv"],
        &["query", "select 1", "--format", "json"],
        &["report"],
        &["report", "artifact", "--sql"],
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let program = Program::new(arguments).database(&database).stdout(writer);
        let finished = program.code(0).await;
        assert_eq!(finished.stderr, "", "{arguments:?}");
    }
}
