//! The commands with the embedded PostgreSQL server, without a database URL.

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
