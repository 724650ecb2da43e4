//! `swr-sync db`.
use super::exit::{Exit, Failure};

/// Arguments of `db`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub(super) async fn run(_args: Args) -> Result<Exit, Failure> {
    Ok(Exit::Success)
}
