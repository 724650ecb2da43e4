//! What a user can do about an error of the database.

use std::error::Error;

use sqlx::postgres::PgDatabaseError;

use super::SqlError;

/// One sentence: the next step after an error of PostgreSQL or of the connection to it.
///
/// `None` if there is nothing to do but to try again.
pub fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = error;
    let error = loop {
        match cause.downcast_ref::<SqlError>() {
            Some(error) => break error,
            None => cause = cause.source()?,
        }
    };
    match &error.0 {
        sqlx::Error::Database(error) => of_code(&error.code()?),
        sqlx::Error::Io(_) => Some(
            "check that the server runs, that host and port are correct, and that no firewall or proxy \
             closes connections",
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
            "the server, or a pooler in front of it, rejected the protocol: poolers must use session pooling \
             (pgbouncer: pool_mode = session)"
        }
        "25006" => {
            "the database is read-only: use the primary instead of a standby, or check \
             default_transaction_read_only"
        }
        // The statement was prepared in another session.
        "26000" | "42P05" => {
            "a pooler switches sessions within a run: use session pooling (pgbouncer: pool_mode = session), \
             or connect to the server directly"
        }
        "28000" | "28P01" => {
            "check user and password in the database URL, and the server's pg_hba.conf"
        }
        "3D000" => "create the database, or correct its name in the database URL",
        "3F000" | "42P01" | "42703" => "the schema is not as expected: run `swr-sync migrate`",
        "42501" => "grant the missing privilege to the role, or use the role that owns the schema",
        "53100" => "the disk of the database server is full: free space there",
        "53300" => {
            "no connection is left for this role: a run uses two; raise max_connections or the role's \
             connection limit, or end other sessions"
        }
        "55P03" | "57014" => {
            "the statement was cancelled: pg_stat_activity shows what blocks it, and --database-timeout \
             allows more time"
        }
        "57P01" | "57P02" => "the server was stopped, or an administrator ended the session",
        "57P03" => "the server is starting up or shutting down: retry when it is running",
        "57P04" => "the database was dropped: create it again, or use another one",
        _ if code.starts_with("08") => "the connection was lost: check that the server still runs",
        _ if code.starts_with("53") => {
            "the server is out of memory, disk space or connections: see its log"
        }
        _ if code.starts_with("58") || code.starts_with("XX") => {
            "the server reported an internal error: see its log"
        }
        _ => return None,
    })
}

/// Whether the server will accept connections soon.
pub(super) fn is_starting_up(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| error.code() == "57P03")
}
