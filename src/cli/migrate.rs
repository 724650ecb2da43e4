//! `swr-sync migrate`.

use super::exit::{Exit, Failure};
use super::settings::DatabaseArgs;

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Change nothing; exit with 0 if the schema is up to date, 5 if it is not, 6 if it is newer
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let Args { check, database } = args;
    let open = database.open().await?;
    if check {
        open.database.check().await?;
        super::print_stderr("the schema is up to date\n");
        return Ok(Exit::Success);
    }
    let applied = open.database.migrate().await?;
    super::print_stderr(&match applied {
        0 => "the schema is up to date\n".to_owned(),
        1 => "applied 1 migration\n".to_owned(),
        applied => format!("applied {applied} migrations\n"),
    });
    Ok(Exit::Success)
}
