//! Settings of each connection. The defaults of a database, a role or a URL are made for other
//! programs: they can change results, end our sessions, or let others run code as our role.

use std::time::Duration;

use sqlx::PgConnection;

use super::milliseconds;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    Read,
}

/// How long the transaction of a reader may wait for the consumer of the rows. Its snapshot prevents
/// the server from vacuuming.
const SLOWEST_CONSUMER: Duration = Duration::from_secs(3600);

/// For all connections.
///
/// These are the settings of `pg_settings` with context `user` that can change a result, end a
/// session or make it wait, except for these, which the server's administrator decides:
/// - `default_transaction_read_only`: providers enable it when a disk is nearly full. The error is
///   clear, and `doctor` reports it.
/// - `default_tablespace`, `temp_tablespaces`, `temp_file_limit`, `work_mem` of writers,
///   `synchronous_commit`, `default_toast_compression`, `vacuum_*`: resources.
/// - `enable_*`, `*_cost`, `plan_cache_mode` and the like: plans. Results are ordered explicitly.
/// - `lc_*`, `xml*`, `default_text_search_config`: our SQL does not use them, only queries of users.
/// - `role`: the owner of new tables, if an administrator has chosen one.
/// - `debug_*`, `log_*`, `track_*`: the content of the server's log.
const COMMON: &[(&str, &str)] = &[
    // Values as text, in the views and in the results of `query`. sqlx parses dates in this format.
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    // How SQL is parsed: backslashes in literals, NULL in array literals, `= null`.
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // Publish updates a row that the heartbeat has updated in the meantime: above read committed that
    // is an error. A deferrable transaction waits for others before its first statement.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A soft limit on the rows that an index returns.
    ("gin_fuzzy_search_limit", "0"),
    // Can forbid reading views.
    ("restrict_nonsystem_relation_kind", ""),
    // Other methods lack updates or indexes.
    ("default_table_access_method", "heap"),
    // The limits are statement_timeout, and those of the program for steps of several statements.
    // A connection is idle while nothing in the registry is new.
    ("lock_timeout", "0"),
    ("transaction_timeout", "0"),
    ("idle_session_timeout", "0"),
    // A failed statement must not end the session that holds the instance's lock.
    ("exit_on_error", "off"),
    // Notices, and at some levels each debug line of the server, cause traffic.
    ("client_min_messages", "warning"),
    // The server notices a process that was killed while its statement runs, ...
    ("client_connection_check_interval", "2s"),
    // ... and a machine that vanished from the network.
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "60000"),
];

const OF_WRITERS: &[(&str, &str)] = &[
    // A function or operator in a schema that others can create in would run as our role. All names
    // in our SQL are qualified.
    ("search_path", "pg_catalog"),
    // A row hidden by a row security policy would count as missing: an error is better.
    ("row_security", "off"),
];

const OF_READERS: &[(&str, &str)] = &[
    // As for writers, but views and tables do not need to be qualified.
    ("search_path", "pg_catalog, swr_report, swr"),
    // For readers, a policy is a way to restrict what they see.
    ("row_security", "on"),
    // All rows are fetched, so a plan that is optimized for the first ones would be slower.
    ("cursor_tuple_fraction", "1"),
    // Compiling takes longer than running, and sorts and hashes are large.
    ("jit", "off"),
    ("work_mem", "64MB"),
];

/// The server behind a connection.
#[derive(Debug)]
pub(super) struct Server {
    /// As `version()` gives it.
    pub(super) version: String,
    /// 150004 is 15.4.
    pub(super) version_number: i32,
    /// Of the database.
    pub(super) encoding: String,
}

/// Configures the session in one round trip, and returns what it is connected to.
///
/// It uses a statement instead of startup parameters, because poolers refuse parameters that they do
/// not know. Settings that the server does not know, or that not everyone may set, are skipped.
pub(super) async fn begin(
    connection: &mut PgConnection,
    purpose: Purpose,
    limit: Duration,
) -> Result<Server, sqlx::Error> {
    let statement_limit = milliseconds(limit).to_string();
    let (own, idle_limit) = match purpose {
        // A process that is frozen in a transaction keeps its locks.
        Purpose::Write => (OF_WRITERS, limit),
        Purpose::Read => (OF_READERS, SLOWEST_CONSUMER),
    };
    let idle_limit = milliseconds(idle_limit).to_string();
    let limits = [
        ("statement_timeout", statement_limit.as_str()),
        ("idle_in_transaction_session_timeout", idle_limit.as_str()),
    ];
    let settings = || COMMON.iter().chain(own).chain(&limits);
    let names: Vec<&str> = settings().map(|(name, _)| *name).collect();
    let values: Vec<&str> = settings().map(|(_, value)| *value).collect();
    // The search path is not set yet, so each name is qualified.
    let server = sqlx::query!(
        r#"select
               pg_catalog.version() as "version!",
               pg_catalog.current_setting('server_version_num')::pg_catalog.int4 as "version_number!",
               pg_catalog.current_setting('server_encoding') as "encoding!",
               pg_catalog.count(pg_catalog.set_config(w.name, w.value, false)) as settings
           from (
               select pg_catalog.unnest($1::pg_catalog.text[]) as name,
                      pg_catalog.unnest($2::pg_catalog.text[]) as value
           ) w
           join pg_catalog.pg_settings s on s.name operator(pg_catalog.=) w.name
           where s.context operator(pg_catalog.=) 'user'"#,
        names as _,
        values as _
    )
    .fetch_one(connection)
    .await?;
    Ok(Server {
        version: server.version,
        version_number: server.version_number,
        encoding: server.encoding,
    })
}
