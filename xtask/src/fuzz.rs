//! Runs the fuzz targets with libFuzzer, as cargo-fuzz would, but with the compiler of the project.

use std::process::Command;

use crate::process::{Result, command, output, run};

const TARGETS: [&str; 2] = ["listing", "build_history"];

/// What cargo-fuzz passes to the compiler, without the address sanitizer: that needs a nightly
/// compiler, and there is no unsafe code to check.
const FLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

pub(crate) fn run_targets(seconds: Option<&str>) -> Result {
    let seconds = seconds.unwrap_or("60");
    // libFuzzer is C++.
    run(&mut command(".ci/install c++=g++"))?;
    let version = output(&mut command("rustc --version --verbose"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("rustc does not print its host")?;
    // With --target, the flags do not apply to build scripts and macros.
    let build = format!(
        "cargo build --locked --release --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --target {host}"
    );
    run(command(&build).env("RUSTFLAGS", FLAGS))?;
    for target in TARGETS {
        let corpus = format!("fuzz/corpus/{target}");
        run(&mut command(&format!(
            "mkdir -p {corpus} fuzz/artifacts/{target}"
        )))?;
        println!("{target}: {seconds} s");
        let program = format!("target/fuzz/{host}/release/{target}");
        let mut fuzz = Command::new(program);
        fuzz.args([
            &corpus,
            "fuzz/seeds",
            "-dict=fuzz/json.dict",
            "-verbosity=0",
            "-print_final_stats=1",
        ]);
        fuzz.arg(format!("-artifact_prefix=fuzz/artifacts/{target}/"));
        fuzz.arg(format!("-max_total_time={seconds}"));
        run(&mut fuzz)?;
    }
    Ok(())
}
