//! What a user can do about an error of the database.

use std::error::Error;

use sqlx::postgres::PgDatabaseError;

use super::SqlError;

/// One sentence: the next step after an error of PostgreSQL or of the connection to it.
///
/// `None` where nothing better can be said than that the next run tries again.
pub fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = error;
    let error = loop {
        match cause.downcast_ref::<SqlError>() {
            Some(error) => break error,
            None => cause = cause.source()?,
        }
    };
    match error {
        sqlx::Error::Database(error) => of_code(&error.code()?),
        sqlx::Error::Io(_) => Some(
            "check that the server runs, that host and port are right, and that nothing in between \
             cuts connections",
        ),
        sqlx::Error::Tls(_) => {
            Some("check sslmode and sslrootcert in the database URL against what the server offers")
        }
        _ => None,
    }
}

/// By SQLSTATE (PostgreSQL's appendix A); the class is its first two characters.
fn of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "08P01" => {
            "the server, or a pooler before it, refused how it was spoken to: poolers must pass sessions \
             through (pgbouncer: pool_mode = session)"
        }
        "25006" => {
            "the database takes no writes: name the primary instead of a standby, or see why \
             default_transaction_read_only is on"
        }
        // The statement was prepared on another session than the one that is to run it.
        "26000" | "42P05" => {
            "a pooler in between changes sessions within a run: have it pass sessions through \
             (pgbouncer: pool_mode = session), or connect to the server itself"
        }
        "28000" | "28P01" => {
            "check user and password in the database URL, and the server's pg_hba.conf"
        }
        "3D000" => "create the database, or correct its name in the database URL",
        "3F000" | "42P01" | "42703" => "the schema is not as expected: run `swr-sync migrate`",
        "42501" => {
            "grant the right to the role, or use the role that owns the schema: it may do everything"
        }
        "53100" => "the server's disk is full: make room there first",
        "53300" => {
            "no connection is left for this role: a run takes two; raise max_connections or the \
             role's limit, or end other sessions"
        }
        "55P03" | "57014" => {
            "the server gave up waiting: see in pg_stat_activity what holds it up, or allow more time \
             with --database-timeout"
        }
        "57P01" | "57P02" => "the server was stopped, or an administrator ended the session",
        "57P03" => "the server is starting up or shutting down: try again when it is up",
        "57P04" => "the database was dropped: create it again, or name another",
        _ if code.starts_with("08") => "the connection broke: check that the server still runs",
        _ if code.starts_with("53") => "the server lacks memory, disk or connections: see its log",
        _ if code.starts_with("58") || code.starts_with("XX") => {
            "the server has a problem of its own: see its log"
        }
        _ => return None,
    })
}

/// Whether the server will take connections soon.
pub(super) fn is_starting_up(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| error.code() == "57P03")
}
