//! Replaces the file of a command that this build does not have.
#![allow(
    clippy::duplicate_mod,
    reason = "there may be several such commands, each each with its own type"
)]

use super::exit::{Exit, Failure};
use super::telemetry::Telemetry;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {}

pub(super) async fn run(command: Command, _: &Telemetry) -> Result<Exit, Failure> {
    match command {}
}
