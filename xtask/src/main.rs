//! The project's own commands. `cargo xtask` lists them.
//!
//! `ci` runs the checks of a change, stage by stage; `stages` has what each stage does. A stage that
//! mostly starts other programs is a shell script in `.ci`. `docs` runs the program in `docs/`, which
//! writes the generated documents; it is an example of the main package, so that it is built together
//! with the tests.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these commands are for terminals and build logs"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the clock of the program is not for build tools"
)]

mod ci;
mod docs;
mod fuzz;
mod process;
mod stages;
mod words;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  ci [STAGE...]     run the checks of a change; `cargo xtask ci --help` lists the stages
  docs [--check]    write the generated documents, or fail if one is out of date
  words [PLACE...]  fail if a text uses archaic words, in these places or in all that CI checks
  fuzz [SECONDS]    run each fuzz target for this long, by default for a minute
";

fn main() -> ExitCode {
    if let Err(error) = std::env::set_current_dir(process::root()) {
        eprintln!("error: {}: {error}", process::root().display());
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["ci", ref stages @ ..] => return ci::run(stages),
        ["docs"] => docs::write(),
        ["docs", "--check"] => docs::check(),
        ["words", ref places @ ..] => words::check(places),
        ["fuzz", ref seconds @ ..] => fuzz::run_targets(seconds.first().copied()),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
