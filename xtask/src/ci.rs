//! Runs stages one after another and prints how long each took.

use std::process::ExitCode;
use std::time::Instant;

use crate::stages::{STAGES, Stage};

const USAGE: &str = "\
.ci/run                 every stage marked with *, in this order, until one fails
.ci/run STAGE...        these stages, in this order
";

pub(crate) fn run(names: &[&str]) -> ExitCode {
    if names.contains(&"--help") {
        print!("{USAGE}\n{}", list());
        return ExitCode::SUCCESS;
    }
    let mut stages = Vec::new();
    for name in names {
        match STAGES.iter().find(|stage| stage.name == *name) {
            Some(stage) => stages.push(stage),
            None => {
                eprint!(
                    "error: there is no stage {name}; the stages are\n{}",
                    list()
                );
                return ExitCode::from(2);
            }
        }
    }
    if names.is_empty() {
        stages.extend(STAGES.iter().filter(|stage| stage.is_default));
    }
    run_stages(&stages)
}

fn run_stages(stages: &[&Stage]) -> ExitCode {
    let started = Instant::now();
    let mut rows = String::new();
    let (mut passed, mut failed) = (0, 0);
    for stage in stages {
        println!("── {}", stage.name);
        let stage_started = Instant::now();
        let result = (stage.run)();
        let seconds = stage_started.elapsed().as_secs();
        println!("── {}: {seconds} s", stage.name);
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        rows.push_str(&format!("{:<12} {seconds:>5} s  {outcome}\n", stage.name));
        match result {
            Ok(()) => passed += 1,
            Err(error) => {
                eprintln!("error: {error}");
                failed += 1;
                break;
            }
        }
    }
    print!(
        "\n{rows}{:<12} {:>5} s\n",
        "total",
        started.elapsed().as_secs()
    );
    println!("stages: {passed} passed, {failed} failed");
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn list() -> String {
    let line = |stage: &Stage| {
        let mark = if stage.is_default { '*' } else { ' ' };
        format!("{mark} {:<12} {}\n", stage.name, stage.about)
    };
    STAGES.iter().map(line).collect()
}
