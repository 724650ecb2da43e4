//! What the user can do about a database error.

use std::error::Error;

use rustls::CertificateError;
use sqlx::postgres::PgDatabaseError;

use super::SqlError;

/// One sentence: the next step after an error of PostgreSQL or of the connection to it.
///
/// `None` if the only option is to try again.
pub fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = error;
    let error = loop {
        match cause.downcast_ref::<SqlError>() {
            Some(error) => break error,
            None => cause = cause.source()?,
        }
    };
    let error = &error.0;
    if let Some(reason) = certificate_error(error) {
        return Some(of_certificate(&reason));
    }
    match error {
        sqlx::Error::Database(error) => of_code(&error.code()?),
        sqlx::Error::Protocol(message) if offers_no_mechanism(message) => Some(OPEN_GAUSS),
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

/// What to do about a server that is not PostgreSQL.
pub(super) const OPEN_GAUSS: &str = "this server is openGauss or GaussDB, which is not PostgreSQL \
    and is not supported: use PostgreSQL 14 or later (RDS for PostgreSQL is one)";

/// The SASL login of PostgreSQL lists its mechanisms. openGauss and GaussDB use the same message number
/// for a different login, so sqlx finds no mechanisms.
fn offers_no_mechanism(message: &str) -> bool {
    let mechanisms = message.strip_prefix("unsupported SASL authentication mechanisms:");
    // sqlx appends a location in its source code.
    mechanisms.is_some_and(|rest| rest.trim_start().starts_with('('))
}

/// Why the server's certificate is not accepted, if that is what failed.
fn certificate_error(error: &sqlx::Error) -> Option<CertificateError> {
    let mut cause: &(dyn Error + 'static) = error;
    loop {
        // The `source` of an I/O error skips the error that it wraps.
        let inner = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => inner,
            None => cause.source()?,
        };
        if let Some(rustls::Error::InvalidCertificate(reason)) = cause.downcast_ref() {
            return Some(reason.clone());
        }
    }
}

fn of_certificate(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::UnknownIssuer => {
            "the server's certificate is not signed by a trusted authority: set sslrootcert=FILE in the \
             database URL to the certificate of its authority, or sslmode=require, which encrypts but \
             does not verify the server"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another host: use the host name in the certificate, or \
             sslmode=verify-ca, which does not compare names"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "renew the server's certificate, and check the clock of this machine"
        }
        CertificateError::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
            "the server's certificate has X.509 version 1, like those that Citus and `openssl x509 -req` \
             without extensions create: install one of version 3, or set sslmode=disable in the \
             database URL, on a trusted network only"
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server's certificate is self-signed, and marked as one of an authority (CA:TRUE): \
                     install one that an authority signed, and set sslrootcert=FILE in the database URL to the \
                     authority's, or set sslmode=require, which encrypts but does not verify the server"
        }
        _ => {
            "install a server certificate of X.509 version 3 that an authority signed, and set \
             sslrootcert=FILE in the database URL to the authority's; sslmode=require does not verify the \
             server, sslmode=disable does not encrypt"
        }
    }
}

/// By SQLSTATE (PostgreSQL's appendix A); the class is its first two characters.
fn of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "08P01" => {
            "the server, or a pooler in front of it, rejected the protocol: poolers must use session pooling \
             (pgbouncer: pool_mode = session)"
        }
        "25P03" | "25P04" | "57P05" => {
            "the server ended the session because of its idle_in_transaction_session_timeout, \
                         transaction_timeout or idle_session_timeout: read the rows faster (write them to a file, for \
                         example), or raise the limit"
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
