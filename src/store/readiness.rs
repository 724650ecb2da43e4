//! Checks whether the database is ready for a run. Writes nothing.

use super::lock::{self, LockHolder};
use super::{Session, StoreError};

/// The tables that a run changes, and the privileges that it needs in addition to `select`.
const TABLES: [(&str, &[&str]); 27] = [
    ("instance", &["insert", "update"]),
    ("namespace", &["insert", "update"]),
    ("repository", &["insert", "update"]),
    ("artifact", &["insert", "update"]),
    ("tag", &["insert", "update", "delete"]),
    ("tag_history", &["insert", "update"]),
    ("manifest", &["insert", "update"]),
    ("build_step", &["insert"]),
    ("command", &["insert", "update"]),
    ("command_finding", &["insert", "update", "delete"]),
    ("finding_rule", &["insert", "update"]),
    ("layer", &["insert"]),
    ("media_type", &["insert"]),
    ("artifact_change", &["insert"]),
    ("artifact_layering", &["insert", "update", "delete"]),
    ("repository_layering", &["insert", "update", "delete"]),
    ("namespace_layering", &["insert", "update", "delete"]),
    ("shared_layer", &["insert", "update", "delete"]),
    ("layer_alias", &["insert", "update"]),
    ("namespace_storage", &["insert"]),
    ("sync_run", &["insert", "update"]),
    ("data_issue", &["insert"]),
    ("staged_namespace", &["insert", "delete"]),
    ("staged_repository", &["insert", "delete"]),
    ("staged_artifact", &["insert", "delete"]),
    ("staged_tag", &["insert", "delete"]),
    ("staged_data_issue", &["insert", "delete"]),
];

/// The server behind a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// As reported by the server.
    pub version: String,
    /// Whether it rejects writes: it is a standby, or read-only by its settings.
    pub is_read_only: bool,
}

pub async fn server_state(session: &mut Session<'_>) -> Result<ServerState, StoreError> {
    let query = sqlx::query_as!(
        ServerState,
        r#"select
               current_setting('server_version') as "version!",
               current_setting('transaction_read_only')::boolean as "is_read_only!""#
    );
    session
        .fetch_one("ask the server for its version", query)
        .await
}

/// Descriptions of the missing privileges that a run needs if the schema is up to date.
pub async fn missing_run_rights(session: &mut Session<'_>) -> Result<Vec<String>, StoreError> {
    let wanted = || {
        TABLES.iter().flat_map(|(table, privileges)| {
            std::iter::once(&"select")
                .chain(*privileges)
                .map(move |privilege| (*table, *privilege))
        })
    };
    let tables: Vec<&str> = wanted().map(|(table, _)| table).collect();
    let privileges: Vec<&str> = wanted().map(|(_, privilege)| privilege).collect();
    let query = sqlx::query!(
        r#"select 'usage on schema swr' as "right!"
           from pg_namespace n
           where n.nspname = 'swr' and not has_schema_privilege(n.oid, 'usage')
           union all
           select string_agg(w.privilege, ', ' order by w.position) || ' on swr.' || w.table_name
           from unnest($1::text[], $2::text[]) with ordinality as w (table_name, privilege, position)
           join pg_namespace n on n.nspname = 'swr'
           join pg_class c on c.relnamespace = n.oid and c.relname = w.table_name
           where not has_table_privilege(c.oid, w.privilege)
           group by w.table_name
           union all
           select 'execute on function swr.' || p.proname
           from pg_namespace n
           join pg_proc p on p.pronamespace = n.oid
           where n.nspname = 'swr' and not has_function_privilege(p.oid, 'execute')"#,
        tables as _,
        privileges as _
    ).map(|row| row.right);
    session
        .fetch_all("read the privileges of the role", query)
        .await
}

/// Descriptions of the missing privileges that a migration needs.
pub async fn missing_migration_rights(
    session: &mut Session<'_>,
) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query!(
        r#"select 'create on database ' || current_database() as "right!"
           where not has_database_privilege(current_database(), 'create')
             and exists (
                 select from unnest(array['swr', 'swr_report']) as w (schema_name)
                 where not exists (select from pg_namespace n where n.nspname = w.schema_name)
             )
           union all
           select 'create on schema ' || n.nspname
           from pg_namespace n
           where n.nspname in ('swr', 'swr_report') and not has_schema_privilege(n.oid, 'create')
           union all
           -- The migration that creates a schema comments on it.
           select 'ownership of schema ' || n.nspname
           from pg_namespace n
           where n.nspname in ('swr', 'swr_report') and not pg_has_role(n.nspowner, 'usage')
             and not exists (select from pg_description d where d.objoid = n.oid and d.classoid = 'pg_namespace'::regclass)
           union all
           select 'ownership of ' || count(*) || ' tables and views of schema ' || n.nspname
           from pg_namespace n
           join pg_class c on c.relnamespace = n.oid and c.relkind in ('r', 'p', 'v')
           where n.nspname in ('swr', 'swr_report') and not pg_has_role(c.relowner, 'usage')
           group by n.nspname"#
    ).map(|row| row.right);
    session
        .fetch_all("check the privileges to migrate", query)
        .await
}

/// Whether every role may create functions and tables in the schema `public`: the default up to
/// PostgreSQL 14.
///
/// Our sessions do not have it in their search path, but the sessions of users who read the views with
/// psql do.
pub async fn is_public_open(session: &mut Session<'_>) -> Result<bool, StoreError> {
    let query = sqlx::query!(
        r#"select exists (
               select from pg_namespace n
               cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
               where n.nspname = 'public' and a.grantee = 0 and a.privilege_type = 'CREATE'
           ) as "is_open!""#
    )
    .map(|row| row.is_open);
    session
        .fetch_one("read the privileges on the schema public", query)
        .await
}

/// The state of an instance in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceState {
    /// The project of its syncs.
    pub project_id: String,
    /// The holder of its lock.
    pub holder: Option<LockHolder>,
}

/// Reads the state of an instance without taking its lock; `None` if it was never synced.
pub async fn instance_state(
    session: &mut Session<'_>,
    swr_instance_id: &str,
) -> Result<Option<InstanceState>, StoreError> {
    let query = sqlx::query!(
        "select instance_id, project_id from swr.instance where swr_instance_id = $1",
        swr_instance_id
    );
    let row = session.fetch_optional("find the instance", query).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(InstanceState {
        project_id: row.project_id,
        holder: lock::holder(session, row.instance_id).await?,
    }))
}
