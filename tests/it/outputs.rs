//! Outputs of a job for monitoring: the summary file, metrics in a file and for a Pushgateway, pings, and
//! the message for Kubernetes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use swr_emulator::{Emulator, RequestKind};
use tempfile::TempDir;

use crate::support::database::TestDatabase;
use crate::support::mirror::{wait_until, world_of};
use crate::support::program::{Finished, Program, emulator};
use crate::support::proxy::Proxy;
use crate::support::receiver::Receiver;
use crate::support::{assert_contains, assert_lacks, assert_starts_with, cases};

const PING_SECRET: &str = "ping-secret-not-to-be-shown";
const PUSH_PASSWORD: &str = "push-password-not-to-be-shown";

/// A registry, a database, and a folder for files.
struct Job {
    emulator: Emulator,
    database: TestDatabase,
    folder: TempDir,
}

impl Job {
    async fn new() -> Job {
        Job {
            emulator: emulator(world_of(2)).await,
            database: TestDatabase::create().await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn sync(&self) -> Program {
        Program::sync(&self.emulator, &self.database)
    }

    fn instance(&self) -> &str {
        &self.emulator.settings().instance_id
    }

    fn project(&self) -> &str {
        &self.emulator.settings().project_id
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Files of the folder.
    fn files(&self) -> BTreeSet<String> {
        let entries = self.folder.path().read_dir().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Makes the next run fail with exit code 2.
    fn break_the_listing(&self) {
        self.emulator.fail_next(RequestKind::Artifacts, 400, "");
    }
}

/// The lines of a summary file.
fn lines(text: &str) -> Vec<Value> {
    assert!(text.ends_with('\n'), "{text}");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The only line.
fn only(mut lines: Vec<Value>) -> Value {
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

// --- the summary file

#[tokio::test]
async fn each_run_appends_a_line_whose_counters_are_those_of_its_row() {
    let job = Job::new().await;
    let sync = || {
        job.sync()
            .env("SWR_SYNC_SUMMARY_FILE", job.path("runs.jsonl"))
    };
    sync().env("HOSTNAME", "test-host").code(0).await;
    let text = job.read("runs.jsonl");
    let run = only(lines(&text));
    let fields: Vec<&String> = run.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "format_version",
            "job_id",
            "run_id",
            "source",
            "region",
            "project_id",
            "instance",
            "started_at",
            "elapsed_ms",
            "exit_code",
            "outcome",
            "counters",
            "history_failures",
            "error",
            "hint",
            "program_version",
            "host"
        ]
    );
    let page = include_str!("../../docs/monitoring.md");
    for field in fields {
        assert!(
            page.contains(&format!("\n| `{field}` |")),
            "docs/monitoring.md lacks {field}"
        );
    }
    for (field, expected) in [
        ("format_version", json!(1)),
        ("run_id", json!(1)),
        ("source", Value::Null),
        ("region", Value::Null),
        ("project_id", json!(job.project())),
        ("instance", json!(job.instance())),
        ("exit_code", json!(0)),
        ("outcome", json!("published")),
        ("history_failures", json!([])),
        ("error", Value::Null),
        ("hint", Value::Null),
        ("program_version", json!(env!("CARGO_PKG_VERSION"))),
        ("host", json!("test-host")),
    ] {
        assert_eq!(run[field], expected, "{field}");
    }
    // The row has the same values under the same names.
    let counters = run["counters"].as_object().unwrap();
    for (name, value) in counters {
        let sql = format!("select {name} from swr.sync_run where run_id = 1");
        let column = job.database.snapshot(&sql).await;
        let column: Value = serde_json::from_str(&column).unwrap();
        assert_eq!(&column, value, "{name}");
    }
    let counter_columns = "
        select column_name from information_schema.columns
        where table_schema = 'swr' and table_name = 'sync_run' and data_type in ('bigint', 'jsonb')
          and column_name not in ('run_id', 'elapsed_ms') order by 1";
    let columns = job.database.snapshot(counter_columns).await;
    let names: BTreeSet<&str> = counters.keys().map(String::as_str).collect();
    assert_eq!(names, columns.lines().collect());

    // A failed run has the counters up to its failure.
    job.break_the_listing();
    sync().code(2).await;
    let text = job.read("runs.jsonl");
    let [_, failed] = &lines(&text)[..] else {
        panic!("{text}")
    };
    assert_ne!(failed["job_id"], run["job_id"]);
    for (field, expected) in [
        ("run_id", json!(2)),
        ("exit_code", json!(2)),
        ("outcome", json!("failed")),
        ("history_failures", Value::Null),
    ] {
        assert_eq!(failed[field], expected, "{field}");
    }
    assert_eq!(
        failed["counters"]["requests"]["artifacts"],
        json!({"400": 1})
    );
    assert_eq!(failed["counters"]["catalog_pages"], json!(2));
    let error = job
        .database
        .snapshot("select error from swr.sync_run where run_id = 2")
        .await;
    assert_eq!(failed["error"], json!(error));
    assert!(failed["hint"].is_string(), "{failed}");
}

#[tokio::test]
async fn a_dash_is_standard_output_and_an_unknown_instance_has_a_line_of_its_own() {
    let job = Job::new().await;
    let ids = format!("{},no-such-instance", job.instance());
    let sync = job.sync().env("SWR_INSTANCE_ID", ids);
    let finished = sync.args(&["--summary-file", "-"]).code(2).await;
    let runs = lines(&finished.stdout);
    let ends: BTreeSet<(&str, u64)> = runs
        .iter()
        .map(|run| {
            (
                run["instance"].as_str().unwrap(),
                run["exit_code"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(ends, [(job.instance(), 0), ("no-such-instance", 2)].into());
    assert_eq!(runs[0]["job_id"], runs[1]["job_id"]);
}

#[tokio::test]
async fn a_job_that_cannot_begin_has_a_line_for_each_instance_it_was_to_run() {
    let job = Job::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let sync = || {
        let url = format!("postgresql://user@{nowhere}/x");
        let sync = job.sync().database_url(&url);
        sync.args(&["--summary-file", "-"])
    };
    let ids = "one,two";
    let finished = sync().env("SWR_INSTANCE_ID", ids).code(5).await;
    let runs = lines(&finished.stdout);
    assert_eq!(runs.len(), 2);
    for (run, instance) in runs.iter().zip(["one", "two"]) {
        assert_eq!(run["instance"], json!(instance));
        assert_eq!(run["exit_code"], json!(5));
        assert_eq!(run["counters"], Value::Null);
    }
    // The instances are unknown.
    let finished = sync().without("SWR_PROJECT_ID").code(2).await;
    let run = only(lines(&finished.stdout));
    assert_eq!(run["instance"], Value::Null);
    assert_eq!(run["error"], json!("no project given"));
}

#[tokio::test]
async fn a_run_left_to_another_one_and_one_out_of_time_are_told_as_what_they_are() {
    let job = Job::new().await;
    let receiver = Receiver::start().await;
    job.emulator.hang_next(RequestKind::Artifacts);
    job.emulator.reset_requests();
    let slow = job.sync().args(&["--summary-file", "-"]).start();
    wait_until("the page is requested", async || {
        job.emulator.requests().of(RequestKind::Artifacts) == 1
    })
    .await;
    let skipping = job
        .sync()
        .secret("SWR_SYNC_PING_URL", &ping_url(receiver.address()))
        .args(&["--summary-file", "-", "--if-locked", "skip"]);
    let skipped = skipping.code(0).await;
    let run = only(lines(&skipped.stdout));
    assert_eq!(run["outcome"], json!("skipped"));
    assert_eq!(run["exit_code"], json!(0));
    assert_eq!(run["run_id"], Value::Null);
    let pings = pings(&receiver);
    assert_eq!(pings.last().unwrap().0, "0");
    slow.signal(Signal::SIGTERM);
    slow.finish().await.code(143);

    job.emulator.hang_next(RequestKind::Artifacts);
    let limited = job
        .sync()
        .args(&["--summary-file", "-", "--max-duration", "2s"]);
    let limited = limited.code(7).await;
    let run = only(lines(&limited.stdout));
    assert_eq!(run["outcome"], json!("stopped"));
    assert_eq!(run["exit_code"], json!(7));
}

#[tokio::test]
async fn files_that_cannot_be_written_are_told_before_anything_starts() {
    let job = Job::new().await;
    let missing = job.path("missing/x.prom");
    let folder = job.folder.path().display().to_string();
    for (flag, value, words) in cases! {
        "--summary-file", missing.as_str() => "the folder ";
        "--summary-file", &folder => "it is a folder";
        "--metrics-file", &missing => "the folder ";
        "--metrics-file", &job.path("x.txt") => "does not end in .prom";
    } {
        let finished = job.sync().args(&[flag, value]).code(2).await;
        let error = finished.error();
        assert!(error.contains(words) && error.contains(value), "{error}");
    }
    assert_eq!(job.emulator.requests().total(), 0);
    assert_eq!(job.files(), BTreeSet::new());

    // An empty value: compose files pass unset variables on as empty ones.
    let names = [
        "SUMMARY_FILE",
        "METRICS_FILE",
        "PUSHGATEWAY_URL",
        "PING_URL",
        "TERMINATION_MESSAGE_FILE",
    ];
    let empty = names.iter().fold(job.sync(), |sync, name| {
        sync.env(&format!("SWR_SYNC_{name}"), "")
    });
    empty.code(0).await;
}

#[tokio::test]
async fn an_output_that_fails_is_a_warning_and_no_more() {
    let job = Job::new().await;
    let receiver = Receiver::start().await;
    receiver.answer_next(&[404, 404]);
    let metrics = job.path("x.prom");
    // There is a folder with the name of the file, so rename fails.
    let finished = job
        .sync()
        .args(&["--summary-file", "/dev/full", "--metrics-file", &metrics])
        .secret(
            "SWR_SYNC_PING_URL",
            &format!("http://{}/{PING_SECRET}", receiver.address()),
        )
        .env("SWR_SYNC_PUSHGATEWAY_URL", "http://127.0.0.1:1")
        .code(0)
        .await;
    finished.says(&[
        "run 1: published in ",
        "cannot report the result through the summary file: No space left on device",
        "cannot report the start of the job through the ping: the response is HTTP 404",
        "cannot report the result through the ping: the response is HTTP 404",
        "cannot report the result through the Pushgateway: no response: Connection refused",
    ]);
    job.read("x.prom");
}

// --- the termination message

#[tokio::test]
async fn the_termination_message_has_a_line_for_each_instance_the_failed_first() {
    let job = Job::new().await;
    let message = job.path("termination-log");
    let sync = || {
        job.sync()
            .env("SWR_SYNC_TERMINATION_MESSAGE_FILE", &message)
    };
    // The program does not create the file if Kubernetes has not.
    sync().code(0).await;
    assert_eq!(job.files(), BTreeSet::new());

    fs::write(&message, "x".repeat(4_096)).unwrap();
    sync().code(0).await;
    let instance = job.instance();
    assert_eq!(
        job.read("termination-log"),
        format!(
            "exit 0: instance {instance}: run 2 published, 2 artifacts: 0 new, 0 changed, 0 removed\n"
        )
    );

    let ids = format!("a-unknown,{instance},z-unknown");
    sync().env("SWR_INSTANCE_ID", ids).code(2).await;
    let text = job.read("termination-log");
    let ends: Vec<&str> = text.lines().map(|line| &line[..20]).collect();
    let good = format!("exit 0: instance {instance}");
    let expected = ["exit 2: instance a-u", "exit 2: instance z-u", &good[..20]];
    assert_eq!(ends, expected, "{text}");
    assert_contains(&text, "; hint: there are: 1");

    let ids: Vec<String> = (0..40).map(|number| format!("unknown-{number}")).collect();
    sync().env("SWR_INSTANCE_ID", ids.join(",")).code(2).await;
    let text = job.read("termination-log");
    assert!(text.len() <= 2_048, "{}", text.len());
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("and ") && last.ends_with(" more"),
        "{text}"
    );
}

// --- metrics

/// A metrics file without the values that depend on time or on the physical size of tables.
fn timeless(text: &str) -> String {
    let timeless = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let left_out = ["timestamp_seconds{", "duration_seconds{", "rows_written{"];
        let is_left_out = left_out.iter().any(|end| series.contains(end));
        format!("{series} {}\n", if is_left_out { "…" } else { value })
    };
    text.lines().map(timeless).collect()
}

fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find(|line| line.rsplit_once(' ').unwrap().0 == series);
    let line = line.unwrap_or_else(|| panic!("no {series} in {text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn the_metrics_file_tells_the_last_run_and_keeps_the_last_success() {
    let job = Job::new().await;
    let sync = || {
        job.sync()
            .env("SWR_SYNC_METRICS_FILE", job.path("swr_sync.prom"))
    };
    sync().code(0).await;
    assert_eq!(job.files(), ["swr_sync.prom".to_owned()].into());
    let mode = fs::metadata(job.path("swr_sync.prom"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    let first = job.read("swr_sync.prom");
    let of = format!(
        "project_id=\"{}\",swr_instance_id=\"{}\"",
        job.project(),
        job.instance()
    );
    let expected = include_str!("../data/outputs/swr_sync.prom")
        .replace("TARGET", &of)
        .replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(timeless(&first), expected);
    let success = format!("swr_sync_last_success_timestamp_seconds{{{of}}}");
    let age = chrono::Utc::now().timestamp_millis() as f64 / 1_000.0 - value(&first, &success);
    assert!((-1.0..600.0).contains(&age), "{age}");

    job.break_the_listing();
    sync().code(2).await;
    let second = job.read("swr_sync.prom");
    assert_eq!(value(&second, &success), value(&first, &success));
    assert_eq!(
        value(&second, &format!("swr_sync_last_run_exit_code{{{of}}}")),
        2.0
    );
    let last_run = format!("swr_sync_last_run_timestamp_seconds{{{of}}}");
    assert!(value(&second, &last_run) > value(&first, &last_run));
    let refused = format!("swr_sync_last_run_requests{{{of},kind=\"artifacts\",status=\"400\"}}");
    assert_eq!(value(&second, &refused), 1.0);
}

#[tokio::test]
async fn no_link_in_the_folder_of_the_metrics_file_is_followed() {
    let job = Job::new().await;
    fs::write(job.path("precious"), "precious").unwrap();
    fs::set_permissions(job.path("precious"), fs::Permissions::from_mode(0o600)).unwrap();
    // The shell executes the program in its place, so that the process id is known.
    let script = "ln -s precious \"$FOLDER/swr.prom.$$.tmp\"; umask 077; exec \"$0\" \"$@\"";
    let program = Program::shell(script, &["sync", "--metrics-file", &job.path("swr.prom")])
        .registry(&job.emulator)
        .database(&job.database)
        .env("FOLDER", job.folder.path());
    program.code(0).await;
    assert_eq!(job.read("precious"), "precious");
    let mode = |name: &str| {
        let metadata = fs::symlink_metadata(job.path(name)).unwrap();
        metadata.permissions().mode()
    };
    assert_eq!(mode("precious"), 0o100_600);
    assert_eq!(mode("swr.prom"), 0o100_644);
    // The link remains, and no temporary file of ours.
    assert_eq!(job.files().len(), 3, "{:?}", job.files());
}

#[tokio::test]
async fn the_pushgateway_gets_a_group_for_each_instance() {
    let job = Job::new().await;
    let receiver = Receiver::start().await;
    // Its characters need another encoding, and the registry does not know it.
    let ids = format!("{},odd/id", job.instance());
    let url = format!(
        "http://pusher:push%2Dpassword-not-to-be-shown@{}/base/",
        receiver.address()
    );
    let file = job.path("url");
    fs::write(&file, url).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let sync = || {
        job.sync()
            .env("SWR_SYNC_PUSHGATEWAY_URL_FILE", &file)
            .hides(PUSH_PASSWORD)
            .hides("push%2Dpassword")
    };
    sync().env("SWR_INSTANCE_ID", ids).code(2).await;
    let mut pushed = receiver.take();
    pushed.sort_by(|one, other| one.target().cmp(other.target()));
    let targets: Vec<&str> = pushed.iter().map(|push| push.target()).collect();
    let plain = format!(
        "/base/metrics/job/swr_sync/swr_instance_id/{}",
        job.instance()
    );
    let encoded = "/base/metrics/job/swr_sync/swr_instance_id@base64/b2RkL2lk";
    assert_eq!(targets, [plain.as_str(), encoded]);
    for push in &pushed {
        assert_eq!(push.method(), "POST");
        assert_eq!(
            push.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        // pusher:push-password-not-to-be-shown
        assert_eq!(
            push.header("authorization"),
            Some("Basic cHVzaGVyOnB1c2gtcGFzc3dvcmQtbm90LXRvLWJlLXNob3du")
        );
    }
    let [good, bad] = [pushed[0].text(), pushed[1].text()];
    assert_contains(&good, "swr_sync_last_success_timestamp_seconds{");
    assert_lacks(&good, "odd/id");
    // Metrics that are not sent are kept: the time of the last success.
    assert_lacks(&bad, "swr_sync_last_success_timestamp_seconds");
    assert_contains(&bad, "swr_instance_id=\"odd/id\"} 2\n");

    // A job name from the user, set by a flag, without a password.
    let url = format!("http://{}/metrics/job/nightly/", receiver.address());
    job.sync().args(&["--pushgateway-url", &url]).code(0).await;
    let [push] = &receiver.take()[..] else {
        panic!()
    };
    assert_eq!(
        push.target(),
        format!("/metrics/job/nightly/swr_instance_id/{}", job.instance())
    );
    assert_eq!(push.header("authorization"), None);
}

#[tokio::test]
async fn addresses_that_are_wrong_are_refused_without_being_repeated() {
    let job = Job::new().await;
    let with_password = format!("http://pusher:{PUSH_PASSWORD}@localhost:9091");
    let flag = job.sync().args(&["--pushgateway-url", &with_password]);
    flag.hides(PUSH_PASSWORD)
        .code(2)
        .await
        .says(&["--pushgateway-url contains a password"]);
    for (name, word) in [
        (
            "SWR_SYNC_PUSHGATEWAY_URL",
            "the address of the Pushgateway is not a URL",
        ),
        (
            "SWR_SYNC_PING_URL",
            "SWR_SYNC_PING_URL does not contain a URL",
        ),
    ] {
        let wrong = job.sync().secret(name, &format!("{PING_SECRET}:80"));
        wrong.code(2).await.says(&[word, "hint: write it as "]);
    }
    assert_eq!(job.emulator.requests().total(), 0);
}

// --- pings

fn ping_url(address: &str) -> String {
    format!("http://{address}/{PING_SECRET}?create=1")
}

/// The action and body of each ping. Checks the other parts.
fn pings(receiver: &Receiver) -> Vec<(String, String)> {
    let received = receiver.take();
    let start = format!("/{PING_SECRET}/");
    let rids: BTreeSet<&str> = received
        .iter()
        .map(|ping| ping.target().split_once("?create=1&rid=").unwrap().1)
        .collect();
    assert_eq!(rids.len(), 1, "{received:?}");
    assert_eq!(rids.first().unwrap().len(), 36);
    received
        .iter()
        .map(|ping| {
            assert_eq!(ping.method(), "POST");
            let path = ping.target().split('?').next().unwrap();
            (path.strip_prefix(&start).unwrap().to_owned(), ping.text())
        })
        .collect()
}

#[tokio::test]
async fn a_ping_tells_when_the_job_begins_and_how_it_ends() {
    let job = Job::new().await;
    let receiver = Receiver::start().await;
    let sync = || {
        job.sync()
            .secret("SWR_SYNC_PING_URL", &ping_url(receiver.address()))
            .hides(PING_SECRET)
    };
    sync().code(0).await;
    let [(start, nothing), (end, text)] = &pings(&receiver)[..] else {
        panic!()
    };
    assert_eq!(start.as_str(), "start");
    assert_eq!(nothing.as_str(), "");
    assert_eq!(end.as_str(), "0");
    assert_starts_with(
        &text,
        format!("instance {}:\nrun 1: published in ", job.instance()),
    );

    job.break_the_listing();
    let finished = sync().code(2).await;
    let [_, (end, text)] = &pings(&receiver)[..] else {
        panic!()
    };
    assert_eq!(end, "2");
    assert!(
        text.ends_with(finished.error()),
        "{text}\n{}",
        finished.stderr
    );

    // One ping for the whole job. It is retried if that may help.
    receiver.answer_next(&[200, 503, 429]);
    let ids = format!("{},unknown", job.instance());
    sync().env("SWR_INSTANCE_ID", ids).code(2).await;
    let ends = pings(&receiver);
    let actions: Vec<&str> = ends.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["start", "2", "2", "2"]);
    assert!(
        ends[3].1.starts_with("instance unknown:\nerror: "),
        "{}",
        ends[3].1
    );
    assert!(
        ends[3]
            .1
            .contains(&format!("instance {}:\nrun ", job.instance())),
        "{}",
        ends[3].1
    );
}

#[tokio::test]
async fn a_job_that_is_stopped_tells_so_within_its_five_seconds() {
    let job = Job::new().await;
    let receiver = Receiver::start().await;
    let pings_of = async |address: &str| -> (Finished, Duration) {
        job.emulator.hang_next(RequestKind::Artifacts);
        job.emulator.reset_requests();
        let run = job
            .sync()
            .secret("SWR_SYNC_PING_URL", &ping_url(address))
            .env("SWR_SYNC_METRICS_FILE", job.path("x.prom"))
            .start();
        wait_until("the page is requested", async || {
            job.emulator.requests().of(RequestKind::Artifacts) == 1
        })
        .await;
        run.signal(Signal::SIGTERM);
        let begin = Instant::now();
        (run.finish().await.code(143), begin.elapsed())
    };
    pings_of(receiver.address()).await;
    let [_, (end, text)] = &pings(&receiver)[..] else {
        panic!()
    };
    assert_eq!(end, "143");
    assert_contains(&text, "error: stopped by a signal");
    let metrics = job.read("x.prom");
    assert_contains(&metrics, "} 143\n");

    // A server that never answers does not delay the job.
    let silent = Proxy::before_endpoint(&format!("http://{}", receiver.address())).await;
    silent.fall_silent();
    let (finished, elapsed) = pings_of(silent.endpoint().trim_start_matches("http://")).await;
    finished.says(&["cannot report the result through the ping: "]);
    // The time limit, and additional time for a busy machine.
    assert!(elapsed < Duration::from_secs(9), "{elapsed:?}");
    assert!(Path::new(&job.path("x.prom")).exists());
}
