//! The generated documents: builds the program in `xtask/docs` and runs it with a server of its own.

use crate::process::{Result, command, run};

pub(crate) fn write() -> Result {
    generate("")
}

pub(crate) fn check() -> Result {
    generate("--check")
}

fn generate(option: &str) -> Result {
    build()?;
    let program = "target/debug/examples/generate-docs";
    run(&mut command(&format!(
        ".ci/with-postgres {program} {option}"
    )))
}

/// The generator and `target/debug/swr-sync`. Cargo builds a program with the features that the tests
/// need of its dependencies only together with an example; alone, it would compile all of them again.
pub(crate) fn build() -> Result {
    run(&mut command(
        "cargo build --locked --all-features --bin swr-sync --example generate-docs",
    ))
}
