//! `swr-sync migrate`.

use std::io::{self, Write};

use super::console::print_lines;
use super::exit::{Exit, Failure};
use super::settings::DatabaseArgs;
use super::signals::{self, stopped};
use crate::database::grants::{Roles, grants};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Change nothing; exit with 0 if the schema is up to date, 5 if it is not, 6 if it is newer
    #[arg(long)]
    check: bool,
    /// Print SQL that creates three roles of least privilege (one to migrate, one to
    /// sync with --no-migrate, one to report) and grants them the tables; changes nothing
    #[arg(long, conflicts_with = "check")]
    print_grants: bool,
    /// Role that owns the tables, for --print-grants
    #[arg(long, value_name = "NAME", requires = "print_grants", default_value = "swr_migrate", value_parser = parse_role)]
    migrate_role: String,
    /// Role that writes rows, for --print-grants
    #[arg(long, value_name = "NAME", requires = "print_grants", default_value = "swr_sync", value_parser = parse_role)]
    sync_role: String,
    /// Role that reads the views, for --print-grants
    #[arg(long, value_name = "NAME", requires = "print_grants", default_value = "swr_report", value_parser = parse_role)]
    report_role: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) const AFTER_HELP: &str = "\
`sync` also migrates the database, unless --no-migrate is set. --print-grants prints SQL
for three roles of least privilege; docs/security.md lists their privileges.

Examples:
  swr-sync migrate                  as the owner of the schema
  swr-sync migrate --check          before a deployment: exits with 0 if there is nothing to do
  swr-sync migrate --print-grants | psql \"$DATABASE_URL\"";

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let Args {
        check,
        print_grants,
        migrate_role,
        sync_role,
        report_role,
        database,
    } = args;
    if print_grants {
        let sql = grants(&Roles {
            migrate: migrate_role,
            sync: sync_role,
            report: report_role,
        });
        io::stdout()
            .write_all(sql.as_bytes())
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
        return Ok(Exit::Success);
    }
    let stop = signals::listen()?;
    let open = stop.or(database.open()).await.map_err(stopped)??;
    if check {
        let checking = open.database.check();
        stop.or(checking).await.map_err(stopped)??;
        print_lines(["the schema is up to date"]);
        return Ok(Exit::Success);
    }
    let applied = open.database.migrate_until(&stop).await?;
    print_lines([match applied {
        0 => "the schema is up to date".to_owned(),
        1 => "applied 1 migration".to_owned(),
        applied => format!("applied {applied} migrations"),
    }]);
    Ok(Exit::Success)
}

/// PostgreSQL silently truncates longer names, so two roles could become one.
fn parse_role(name: &str) -> Result<String, &'static str> {
    const LONGEST: usize = 63;
    if name.is_empty() || name.len() > LONGEST || name.contains('\0') {
        return Err("a role's name has 1 to 63 bytes");
    }
    Ok(name.to_owned())
}
