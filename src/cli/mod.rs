//! The command line: types for clap, settings, and one file per command.

#[cfg(feature = "embedded-db")]
pub mod db;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod exit;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::{Exit, Failure};

/// Mirrors a Huawei Cloud SWR Enterprise registry into PostgreSQL.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the emulated SWR API
    #[cfg(feature = "emulator")]
    Emulator(emulator::Args),
    /// Start, stop or reach the embedded PostgreSQL server
    #[cfg(feature = "embedded-db")]
    Db(db::Args),
}

/// Parses the command line, runs the command, and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(Failure::new(Exit::Unexpected, error))),
    };
    finish(runtime.block_on(async {
        match cli.command {
            #[cfg(feature = "emulator")]
            Command::Emulator(args) => emulator::run(args).await,
            #[cfg(feature = "embedded-db")]
            Command::Db(args) => db::run(args).await,
        }
    }))
}

#[expect(
    clippy::print_stderr,
    reason = "the one place that prints the final error"
)]
fn finish(result: Result<Exit, Failure>) -> ExitCode {
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("error: {}", failure.error);
            let mut source = failure.error.source();
            while let Some(cause) = source {
                eprintln!("  caused by: {cause}");
                source = cause.source();
            }
            if let Some(hint) = failure.hint {
                eprintln!("  hint: {hint}");
            }
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}
