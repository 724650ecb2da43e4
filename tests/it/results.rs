//! Results on a terminal, in a pipe and in a file; settings that are empty; names instead of ids.

use std::io::{Cursor, Read};

use serde_json::Value;
use swr_emulator::{EmulatorSettings, RequestKind};

use crate::support::database::TestDatabase;
use crate::support::mirror::{wait_until, world_of};
use crate::support::program::{Program, emulator, emulator_and_database, synced};
use crate::support::{assert_contains, assert_ends_with, assert_lacks, assert_starts_with, cases};

/// The program on a terminal of this size. `script` is in Debian's essential package bsdutils.
fn on_terminal(columns: u16, rows: u16, arguments: &[&str]) -> Program {
    let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "exec script --quiet --return --command \
         \"stty cols {columns} rows {rows}; exec '$0' {}\" /dev/null",
        quoted.join(" ")
    );
    Program::shell(&script, &[]).env("TERM", "xterm")
}

/// The output on a terminal of this size.
async fn shown(
    columns: u16,
    rows: u16,
    arguments: &[&str],
    change: impl FnOnce(Program) -> Program,
) -> String {
    let program = change(on_terminal(columns, rows, arguments));
    program.code(0).await.stdout.replace("\r\n", "\n")
}

#[tokio::test]
async fn a_table_fits_the_terminal_and_says_what_it_leaves_out() {
    let (_emulator, database) = synced(world_of(60)).await;
    for columns in [80, 120, 200] {
        for report in ["artifact", "storage_by_repository", "tag", "freshness"] {
            let arguments = ["report", report, "--no-pager"];
            let table = shown(columns, 30, &arguments, |program| {
                program.database(&database).env("TZ", "Asia/Shanghai")
            })
            .await;
            for line in table.lines() {
                let width = line.chars().count();
                // The line below the table is prose.
                assert!(
                    width <= columns.into() || line.starts_with('('),
                    "{columns}: {line}"
                );
            }
            assert_contains(&table, "; instance demo; times in Asia/Shanghai)\n");
            // Its only instance is in the line below the table.
            let has_instance = |line: &str| line.contains("instance") && !line.starts_with('(');
            assert!(!table.lines().any(has_instance), "{table}");
        }
    }
    let table = shown(120, 30, &["report", "tag", "--no-pager"], |program| {
        program.database(&database)
    })
    .await;
    assert_contains(&table, "(50 of 121 rows; --limit 0 prints all; ");
    let ascii = shown(200, 30, &["report", "freshness"], |program| {
        program.database(&database).env("LC_ALL", "C")
    })
    .await;
    assert!(ascii.is_ascii(), "{ascii}");
}

#[tokio::test]
async fn an_export_has_all_rows_unless_a_limit_is_given() {
    let (_emulator, database) = synced(world_of(60)).await;
    let report = async |arguments: &[&str]| {
        let program = Program::new(&["report", "artifact"]).args(arguments);
        program.database(&database).code(0).await
    };
    let csv = report(&["--format", "csv"]).await;
    assert_eq!((csv.stdout.lines().count(), &csv.stderr[..]), (61, ""));
    let json = report(&["--format", "json"]).await;
    let rows: Vec<Value> = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((rows.len(), &json.stderr[..]), (60, ""));
    assert!(rows[0]["tags"].is_array(), "{}", rows[0]);
    let pushed_at = rows[0]["pushed_at"].as_str().unwrap();
    assert_starts_with(pushed_at, "2026-03-01T12:00:");
    assert_ends_with(pushed_at, "+00:00");
    let table = report(&[]).await;
    assert_ends_with(&table.stdout, "\n(60 rows; times in UTC)\n");

    for format in ["csv", "json"] {
        let cut = report(&["--format", format, "--limit", "2"]).await;
        assert_eq!(
            cut.stderr, "2 of 60 rows; --limit 0 prints all\n",
            "{format}"
        );
    }
    let table = report(&["--limit", "2"]).await;
    assert_contains(&table.stdout, "\n(2 of 60 rows; --limit 0 prints all; ");
    let exact = report(&["--limit", "60", "--format", "csv"]).await;
    assert_eq!(exact.stderr, "");
}

#[tokio::test]
async fn a_pager_shows_what_is_longer_than_the_terminal() {
    let database = TestDatabase::create_empty().await;
    let table = async |rows: u16, pager: &str, more: &[&str]| {
        let arguments = [&["query", "select generate_series(1, 30) as n"], more].concat();
        shown(80, rows, &arguments, |program| {
            program.database(&database).env("PAGER", pager)
        })
        .await
    };
    let marked = "sed s/^/paged:/";
    assert_starts_with(&table(20, marked, &[]).await, "paged:");
    for shown in [
        table(50, marked, &[]).await,
        table(20, marked, &["--no-pager"]).await,
        table(20, "", &[]).await,
        table(20, "no-such-pager", &[]).await,
    ] {
        assert_lacks(&shown, "paged:");
        assert_contains(&shown, "(30 rows)");
    }
}

#[tokio::test]
async fn while_a_pager_is_open_no_transaction_is() {
    let database = TestDatabase::create_empty().await;
    let folder = tempfile::tempdir().unwrap();
    let (opened, done) = (folder.path().join("opened"), folder.path().join("done"));
    let pager = format!(
        "touch {}; until [ -e {} ]; do sleep 0.1; done; cat",
        opened.display(),
        done.display()
    );
    let arguments = ["query", "select generate_series(1, 30) as n"];
    let program = on_terminal(80, 20, &arguments).database(&database);
    let paging = program.env("PAGER", &pager).start();
    wait_until("the pager is open", async || opened.exists()).await;
    let in_transaction = "select count(*) from pg_stat_activity
                          where datname = current_database() and state like 'idle in transaction%'";
    let count = database.snapshot(in_transaction).await;
    std::fs::write(&done, "").unwrap();
    let finished = paging.finish().await.code(0);
    assert_contains(&finished.stdout, "(30 rows)");
    assert_eq!(count, "0");
}

#[tokio::test]
async fn a_table_keeps_a_bounded_number_of_rows_and_says_how_many_there_are() {
    let database = TestDatabase::create_empty().await;
    let sql = "select generate_series(1, 100002) as n";
    let query = |arguments: &[&str]| {
        let program = Program::new(&["query", sql]).args(arguments);
        program.database(&database)
    };
    let table = query(&[]).code(0).await.stdout;
    assert_ends_with(
        &table,
        "\n(100,000 of 100,002 rows; --format csv has all)\n",
    );
    let csv = query(&["--format", "csv"]).code(0).await.stdout;
    assert_eq!(csv.lines().count(), 100_003);
}

#[tokio::test]
async fn times_are_in_the_zone_that_was_asked_for() {
    let database = TestDatabase::create_empty().await;
    let sql = "select timestamptz '2026-03-01 20:00+00' as at, '{1,2}'::int[] as list";
    let query = |arguments: &[&str]| {
        Program::new(&["query", sql])
            .args(arguments)
            .database(&database)
    };
    for (format, zone, at) in cases! {
        "csv", "Asia/Shanghai" => "2026-03-02 04:00:00+08";
        "csv", "UTC" => "2026-03-01 20:00:00+00";
        "json", "Asia/Shanghai" => "\"2026-03-02T04:00:00+08:00\",\"list\":[1,2]";
        "table", "Asia/Shanghai" => "│ 2026-03-02 04:00 ┆ 1, 2 │";
    } {
        let program = query(&["--format", format, "--timezone", zone]);
        assert_contains(&program.code(0).await.stdout, at);
    }
    // Only output for people uses the time zone of the machine. Output for programs does not depend on it.
    let csv = query(&["--format", "csv"]).env("TZ", "Asia/Shanghai");
    assert_contains(&csv.code(0).await.stdout, "2026-03-01 20:00:00+00");
    query(&["--timezone", "Asia/Nowhere"])
        .code(2)
        .await
        .says(&["PostgreSQL has no time zone `Asia/Nowhere`"]);
}

/// The XML of the only sheet.
fn sheet(workbook: &[u8]) -> String {
    let mut archive = zip::ZipArchive::new(Cursor::new(workbook)).unwrap();
    let mut sheet = archive.by_name("xl/worksheets/sheet1.xml").unwrap();
    let mut text = String::new();
    sheet.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_workbook_has_numbers_times_and_text_that_is_no_formula() {
    let database = TestDatabase::create_empty().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result.xlsx");
    let sql = "select 1234 as size_bytes, 12345678901234567890 as large, true as yes, null as nothing,
                      timestamptz '2026-03-01 12:00+00' as at, '=1+1' as text, repeat('w', 40000) as long";
    let query = || Program::new(&["query", sql, "--format", "xlsx"]).database(&database);
    let written = query()
        .args(&["--output", file.to_str().unwrap()])
        .code(0)
        .await;
    assert_contains(
        &written.stderr,
        "1 value was cut to the 32,767 characters that a cell can hold",
    );
    let sheet = sheet(&std::fs::read(&file).unwrap());
    for cell in [
        "<v>1234</v>",
        "<t>12345678901234567890</t>",
        "t=\"b\"><v>1</v>",
        "<v>46082.5</v>",
        "<t>=1+1</t>",
    ] {
        assert_contains(&sheet, cell);
    }
    assert_lacks(&sheet, "<f>");
    let terminal = on_terminal(80, 30, &["query", "select 1", "--format", "xlsx"]);
    let refused = terminal.database(&database).code(2).await;
    assert_contains(
        &refused.stdout,
        "a workbook cannot be printed on a terminal",
    );
}

#[tokio::test]
async fn csv_for_excel_begins_with_a_byte_order_mark() {
    let database = TestDatabase::create_empty().await;
    let query = |arguments: &[&str]| {
        Program::new(&["query", "select '数据' as name"])
            .args(arguments)
            .database(&database)
    };
    let csv = query(&["--format", "csv", "--bom"]).code(0).await;
    assert_eq!(csv.stdout, "\u{feff}name\n数据\n");
    query(&["--bom"])
        .code(2)
        .await
        .says(&["--bom needs --format csv"]);
}

#[tokio::test]
async fn a_query_comes_from_an_argument_a_file_or_stdin() {
    let database = TestDatabase::create_empty().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("question.sql");
    std::fs::write(
        &file,
        "\u{feff}-- a comment\nselect 42 as answer -- the end",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    for program in [
        Program::new(&["query", "--format", "csv", "--file", path]),
        Program::new(&[
            "query",
            "--format",
            "csv",
            "-- a comment\nselect 42 as answer",
        ]),
        Program::shell(&format!("\"$0\" query --format json - < {path}"), &[]),
    ] {
        let finished = program.database(&database).code(0).await;
        assert_contains(&finished.stdout, "answer");
        assert_contains(&finished.stdout, "42");
    }
    let missing = Program::new(&["query", "--file", "/nowhere.sql"]).database(&database);
    missing
        .code(2)
        .await
        .says(&["cannot read the query from /nowhere.sql"]);
}

#[tokio::test]
async fn an_error_of_a_query_shows_its_place_and_the_hint_of_the_server() {
    let database = TestDatabase::create().await;
    let sql = "select namespce\nfrom artifact";
    let failed = Program::new(&["query", sql]).database(&database);
    let expected = "error: the query failed: column \"namespce\" does not exist (SQLSTATE 42703):
  LINE 1: select namespce
                 ^
  hint: Perhaps you meant to reference the column \"artifact.namespace\".
";
    assert_eq!(failed.code(2).await.error(), expected);
}

#[tokio::test]
async fn quiet_prints_nothing_on_success_and_the_error_of_a_failure() {
    let (emulator, database) = emulator_and_database(world_of(2)).await;
    let quiet = || Program::sync(&emulator, &database).args(&["--quiet"]);
    let silent = quiet().code(0).await;
    assert_eq!((&silent.stdout[..], &silent.stderr[..]), ("", ""));
    emulator.fail_next(RequestKind::Artifacts, 400, "{}");
    let failed = quiet().code(2).await;
    assert_starts_with(&failed.stderr, "error: ");
}

#[tokio::test]
async fn an_empty_setting_counts_as_unset_and_an_empty_database_url_is_an_error() {
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    let mut program = Program::sync(&emulator, &database);
    for name in [
        "SWR_SYNC_MAX_DURATION",
        "SWR_MAX_IN_FLIGHT",
        "SWR_SYNC_IF_LOCKED",
        "SWR_SYNC_LOG_FORMAT",
        "SWR_SYNC_CONFIG",
        "SWR_REGION",
        "DATABASE_URL_FILE",
    ] {
        program = program.env(name, " ");
    }
    program.code(0).await;

    let sync = || Program::new(&["sync"]).registry(&emulator);
    for (name, complaint) in cases! {
        "DATABASE_URL" => "DATABASE_URL is set, but empty";
        "DATABASE_URL_FILE" => "DATABASE_URL_FILE is set, but empty";
        "SWR_REGION" => "no database is configured";
    } {
        sync().env(name, "").code(2).await.says(&[complaint]);
    }
    emulator.reset_requests();
    sync().code(2).await.says(&[
        "no database is configured",
        "--embedded uses the embedded PostgreSQL",
    ]);
    assert_eq!(emulator.requests().total(), 0);
}

#[tokio::test]
async fn an_instance_can_be_chosen_by_its_name() {
    let settings = EmulatorSettings::default();
    let (emulator, database) = emulator_and_database(world_of(1)).await;
    let sync = |name: &str| Program::sync(&emulator, &database).args(&["--instance-id", name]);
    sync("demo").code(0).await.says(&["1 new"]);
    sync(&settings.instance_id)
        .code(0)
        .await
        .says(&["1 unchanged"]);
    sync("dmeo")
        .code(2)
        .await
        .says(&["instance dmeo not found", "did you mean `demo`?"]);
}

#[tokio::test]
async fn the_first_retry_shows_its_cause() {
    let (emulator, database) = emulator_and_database(world_of(3)).await;
    for _ in 0..3 {
        emulator.fail_next(RequestKind::Namespaces, 503, "{\"error_msg\": \"busy\"}");
    }
    let finished = Program::sync(&emulator, &database).code(0).await;
    assert_contains(
        &finished.stderr,
        "(namespaces from 127.0.0.1); trying again in",
    );
    assert_contains(&finished.stderr, "WARN HTTP 503: busy ");
    assert_contains(&finished.stderr, "attempt 2 of 8");
    assert_eq!(
        finished.stderr.matches("trying again").count(),
        1,
        "{}",
        finished.stderr
    );
}

#[tokio::test]
async fn a_region_that_is_misspelt_is_answered_with_the_nearest() {
    let emulator = emulator(world_of(1)).await;
    let doctor = Program::new(&["doctor"]).registry(&emulator);
    let doctor = doctor
        .env("SWR_ENDPOINT", "")
        .env("SWR_REGION", "cn-nroth-4");
    let finished = doctor.run().await;
    assert_contains(&finished.stdout, "did you mean `cn-north-4`?");
}

#[tokio::test]
async fn colours_are_for_a_terminal_that_wants_them() {
    let (emulator, database) = synced(world_of(1)).await;
    let doctor = |program: Program| program.registry(&emulator).database(&database);
    let coloured = shown(120, 40, &["doctor"], doctor).await;
    assert_contains(&coloured, "\u{1b}[32mok");
    let plain = shown(120, 40, &["doctor"], |program| {
        doctor(program).env("NO_COLOR", "1")
    })
    .await;
    assert_lacks(&plain, "\u{1b}");
    let piped = doctor(Program::new(&["doctor"])).code(0).await;
    assert_lacks(&piped.stdout, "\u{1b}");
}

#[tokio::test]
async fn the_short_help_of_sync_fits_two_screens() {
    let help = Program::new(&["sync", "-h"]).code(0).await.stdout;
    assert!(help.lines().count() <= 2 * 30, "{help}");
    assert_contains(&help, "`swr-sync sync --help` explains all settings");
}
