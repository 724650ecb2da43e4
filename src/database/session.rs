//! What each connection sets for itself. The defaults of a database, a role or a URL are made for
//! other programs: they can change results, end our sessions, or let others run code as our role.

use std::time::Duration;

use sqlx::PgConnection;

use super::milliseconds;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    Read,
}

/// How long the transaction of a reader may wait for whoever takes the rows. Its snapshot keeps the
/// server from cleaning up.
const SLOWEST_CONSUMER: Duration = Duration::from_secs(3600);

/// For all connections.
///
/// These are the settings of `pg_settings` with context `user` that can change a result, end a
/// session or make it wait, but these, which are left to whoever runs the server:
/// - `default_transaction_read_only`: providers switch it on when a disk is nearly full. The error
///   is a clear one, and `doctor` names it.
/// - `default_tablespace`, `temp_tablespaces`, `temp_file_limit`, `work_mem` of writers,
///   `synchronous_commit`, `default_toast_compression`, `vacuum_*`: resources.
/// - `enable_*`, `*_cost`, `plan_cache_mode` and the like: plans. Results are ordered explicitly.
/// - `lc_*`, `xml*`, `default_text_search_config`: nothing of ours uses them, only queries of users.
/// - `role`: the owner of new tables, where an administrator has chosen one.
/// - `debug_*`, `log_*`, `track_*`: what is written to the server's log.
const COMMON: &[(&str, &str)] = &[
    // Values as text, in the views and in the results of `query`. sqlx reads dates in this form.
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    // How SQL is read: backslashes in literals, NULL in literals of arrays, `= null`.
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    // Publish updates a row that the heartbeat has updated since: above read committed that is an
    // error. A deferrable transaction waits for others before its first statement.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A soft limit on the rows that an index gives.
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
    // A statement that failed must not end the session with the instance's lock.
    ("exit_on_error", "off"),
    // Notices cost traffic, down to each debugging line of the server.
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
    // A function or operator in a schema that others may write to would be run as our role. All
    // names in our SQL have a schema.
    ("search_path", "pg_catalog"),
    // A row that a policy hides would be taken for one that is missing: an error is better.
    ("row_security", "off"),
];

const OF_READERS: &[(&str, &str)] = &[
    // As for writers; views and tables can be named without schema.
    ("search_path", "pg_catalog, swr_report, swr"),
    // Here a policy is a way to show somebody a part.
    ("row_security", "on"),
    // All rows are wanted, so a plan for the first ones would be the wrong one.
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

/// Sets what a connection needs, in one round trip, and says what it is connected to.
///
/// By a statement and not on connecting: poolers refuse parameters that they do not know. What a
/// server does not know, such as an old one, or does not let everyone set, is left out.
pub(super) async fn begin(
    connection: &mut PgConnection,
    purpose: Purpose,
    limit: Duration,
) -> Result<Server, sqlx::Error> {
    let statement_limit = milliseconds(limit).to_string();
    let (own, idle_limit) = match purpose {
        // A process that is frozen in the middle of a transaction holds its locks.
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
    // The search path is still that of others: each name has its schema.
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
