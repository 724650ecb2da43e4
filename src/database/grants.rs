//! SQL for the three roles: one migrates, one syncs, one reads.

/// Names of the roles.
#[derive(Debug, Clone)]
pub struct Roles {
    /// Owns schemas and tables.
    pub migrate: String,
    /// Writes rows; cannot create, alter or drop anything.
    pub sync: String,
    /// Reads the views.
    pub report: String,
}

/// The script that an administrator runs after the first migration. It can be run again.
///
/// Views, and the functions that read tables, run with the privileges of their owner, so readers
/// need no privileges on the tables.
/// Objects of later migrations get their grants from the owner's default privileges.
pub fn grants(roles: &Roles) -> String {
    let Roles {
        migrate,
        sync,
        report,
    } = roles;
    // A dollar-quoted body cannot contain quoted names, so it reads the names from settings.
    let settings: String = [("migrate", migrate), ("sync", sync), ("report", report)]
        .map(|(name, role)| format!("set local swr_sync.{name}_role = {};\n", literal(role)))
        .concat();
    let [migrate, sync, report] = [migrate, sync, report].map(|role| identifier(role));
    format!(
        r#"-- The roles of swr-sync: one owns and migrates the tables, one writes them, one reads the views.
--
-- Run this in the database, after `swr-sync migrate`, as a superuser, or as the owner of the schemas with
-- the right to create roles. Running it again changes nothing. The roles have no passwords yet: set them
-- with \password in psql, or configure another authentication method on the server.
begin;
{settings}
do $$
declare
    migrate_role text := current_setting('swr_sync.migrate_role');
    sync_role text := current_setting('swr_sync.sync_role');
    report_role text := current_setting('swr_sync.report_role');
    statement text;
begin
    for statement in
        select format('create role %I login', r.name)
        from unnest(array[migrate_role, sync_role, report_role]) r (name)
        where not exists (select from pg_roles where rolname = r.name)
    loop
        execute statement;
    end loop;

    -- Only a superuser can change an owner to a role without being a member of it.
    if not pg_has_role(current_user, migrate_role, 'member') then
        execute format('grant %I to %I', migrate_role, current_user);
    end if;

    for statement in
        select format('grant connect, create on database %I to %I', current_database(), migrate_role)
        union all
        select format('grant connect on database %I to %I, %I', current_database(), sync_role, report_role)
        union all
        select format('alter %s %s owner to %I', case c.relkind when 'v' then 'view' else 'table' end,
                      c.oid::regclass, migrate_role)
        from pg_class c
        where c.relnamespace in ('swr'::regnamespace, 'swr_report'::regnamespace) and c.relkind in ('r', 'p', 'v')
        union all
        select format('alter routine %s owner to %I', p.oid::regprocedure, migrate_role)
        from pg_proc p
        where p.pronamespace in ('swr'::regnamespace, 'swr_report'::regnamespace)
        union all
        select format('alter schema %I owner to %I', n.name, migrate_role)
        from unnest(array['swr', 'swr_report']) n (name)
    loop
        execute statement;
    end loop;

    -- For analyze. Before PostgreSQL 17, only the owner and autovacuum can run it.
    if current_setting('server_version_num')::integer >= 170000 then
        execute format('grant maintain on all tables in schema swr to %I', sync_role);
        execute format('alter default privileges for role %I in schema swr grant maintain on tables to %I',
                       migrate_role, sync_role);
    end if;
end
$$;

-- The sync role writes rows, but cannot create, alter or drop anything.
grant usage on schema swr to {sync};
grant select, insert, update, delete on all tables in schema swr to {sync};
revoke insert, update, delete on swr._sqlx_migrations from {sync};
alter default privileges for role {migrate} in schema swr grant select, insert, update, delete on tables to {sync};
-- Everyone may execute functions, unless the server's defaults are stricter.
grant execute on all functions in schema swr to {sync}, {report};
alter default privileges for role {migrate} in schema swr grant execute on functions to {sync}, {report};

-- The report role reads the views, which have their owner's rights to the tables, and the tables of `status`.
grant usage on schema swr, swr_report to {report};
grant select on all tables in schema swr_report to {report};
grant select on swr.instance, swr.sync_run, swr.data_issue, swr._sqlx_migrations to {report};
alter default privileges for role {migrate} in schema swr_report grant select on tables to {report};
grant execute on all functions in schema swr_report to {report};
alter default privileges for role {migrate} in schema swr_report grant execute on functions to {report};

commit;
"#
    )
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
