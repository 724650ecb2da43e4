//! Upgrades a database of every earlier schema, with rows in its tables and objects of its users: nothing is
//! lost, and the next run continues from there.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use swr_emulator::{ArtifactSpec, EmulatorSettings, Quirks, World, WorldSettings};
use swr_sync::clock::Clock;
use swr_sync::database::grants::{Roles, grants};
use swr_sync::database::{Database, MIGRATOR};
use swr_sync::stop;
use swr_sync::sync::SyncSettings;

use crate::support::cases;
use crate::support::database::TestDatabase;
use crate::support::mirror::{
    Mirror, client_settings, facts, run_as, start_of_time, sync_settings, verify,
};
use crate::support::server::{PrivateServer, SUPERUSER};

/// The database that had the current schema from the start.
const PRESENT: &str = "present";

/// The first schema with all objects in the script of `migrate --print-grants`.
const FIRST_WITH_ROLES: i64 = 3;

/// Tables that users' tables may refer to: no run deletes their rows or changes their keys.
const REFERENCED: [&str; 10] = [
    "instance",
    "namespace",
    "repository",
    "artifact",
    "manifest",
    "build_step",
    "command",
    "layer",
    "media_type",
    "sync_run",
];

/// A call of each function for users.
const QUESTIONS: [(&str, &str); 4] = cases! {
    "stale_artifact" => "swr_report.stale_artifact('1 hour')";
    "reclaimable" => "swr_report.reclaimable(array(select digest from swr.artifact))";
    "built_on" => "swr_report.built_on((select digest from swr.manifest where build_step_ids is not null
             order by cardinality(build_step_ids), digest limit 1))";
    "tag_at" => "swr_report.tag_at('2026-03-01 12:30Z')";
};

/// Tables with history that cannot be reconstructed: if an earlier schema did not have the table, the history
/// begins with the first run after the upgrade.
const RECORDS: [&str; 3] = ["artifact_change", "verification", "verification_difference"];

/// Times of the runs after the upgrade.
const AFTERWARDS: i64 = 3;

fn at(hour: i64) -> DateTime<Utc> {
    start_of_time() + TimeDelta::hours(hour)
}

/// A registry with a history, and a database with all of this history and rows in every table.
async fn mirror_with_a_past(server: &PrivateServer) -> Mirror {
    let mut world = World::generate_with(&WorldSettings {
        seed: 5,
        artifacts: 60,
        now: start_of_time(),
        quirks: Quirks {
            // Such a history is requested twice, and early versions did not store since when it fails.
            gone: 0.0,
            ..Quirks::default()
        },
    });
    let team = world.add_repository("team", "careless");
    let secret = json!({"created_by": "ENV API_PASSWORD=hunter2-s3cr3t", "empty_layer": true});
    // The same layer without its size and with it.
    let layer = format!("sha256:{}", "5".repeat(64));
    let history = json!({"total": 3, "build_histories": [
        secret, {"created_by": "COPY a /", "digest": layer}, {"created_by": "COPY b /", "digest": layer, "size": 5},
    ]});
    let careless = ArtifactSpec {
        history: Some(history),
        tags: vec!["v1".to_owned()],
        ..ArtifactSpec::default()
    };
    let careless = world.add_artifact(team, careless).unwrap();

    server
        .execute("postgres", &format!("create database {PRESENT}"))
        .await;
    let database = TestDatabase::at(server.url(SUPERUSER, PRESENT));
    let present = Database::from_url(database.url()).unwrap();
    present.migrate().await.unwrap();
    let mirror = Mirror::with(EmulatorSettings::default(), world, database).await;
    mirror.sync_at(at(0)).await;

    mirror.with_world(|world| {
        world.set_now(at(1));
        world.evolve(1);
        let digest = world.artifact(careless).unwrap().digest().to_string();
        let odd = json!({
            "id": careless, "repository_id": team, "digest": digest, "size": "large", "tags": [{"name": "v1"}],
        });
        world.override_row(careless, odd);
        let refused = world.push(team).unwrap().digest().to_string();
        world.override_build_history(&refused, 403, json!({}));
    });
    verify_at(&mirror, 1).await;
    mirror.sync_at(at(1)).await;

    // A run that was killed during the listing.
    mirror.snapshot(
            "insert into swr.sync_run (instance_id, outcome, started_at, listing_started_at, updated_at,
                                       program_version, host, process_id)
             select instance_id, 'running', '2026-03-01 14:00Z', '2026-03-01 14:00Z', '2026-03-01 14:00Z', '0', 'h', 1
             from swr.instance",
        )
        .await;
    for staged in ["namespace", "repository", "artifact", "tag", "data_issue"] {
        stage_again(&mirror.database, staged).await;
    }
    mirror
}

/// Stages the rows of a table for the killed run.
async fn stage_again(database: &TestDatabase, table: &str) {
    let shared = database
        .snapshot(&format!(
            "select string_agg(quote_ident(s.attname), ', ')
             from pg_attribute s
             join pg_attribute t on t.attname = s.attname and t.attrelid = 'swr.{table}'::regclass
             where s.attrelid = 'swr.staged_{table}'::regclass and s.attnum > 0 and s.attname <> 'run_id'"
        ))
        .await;
    let (numbers, numbered) = match table {
        "data_issue" => ("", ""),
        "tag" => (
            ", artifact_row_number, row_number",
            ", 1, row_number() over ()",
        ),
        _ => (", row_number", ", row_number() over ()"),
    };
    database
        .snapshot(&format!(
            "insert into swr.staged_{table} (run_id, {shared}{numbers})
             select (select max(run_id) from swr.sync_run), {shared}{numbered} from swr.{table}"
        ))
        .await;
}

async fn verify_at(mirror: &Mirror, hour: i64) {
    let (clock, (_stopper, stop)) = (Clock::from_fn(move || at(hour)), stop::channel());
    let Mirror {
        emulator, database, ..
    } = mirror;
    verify(emulator, database, Some(3), "sha256:", clock, &stop)
        .await
        .unwrap();
}

/// The runs after the upgrade.
fn change(world: &mut World) {
    world.set_now(at(AFTERWARDS));
    world.evolve(2);
}

/// A table or view.
struct Relation {
    name: String,
    is_table: bool,
    columns: String,
}

/// The tables and views of a schema.
struct Schema {
    /// Tables and views in the order of their creation, so that none refers to a later one.
    relations: Vec<Relation>,
    /// The [`QUESTIONS`] whose function exists.
    questions: Vec<(&'static str, &'static str)>,
}

impl Schema {
    async fn of(database: &TestDatabase) -> Schema {
        Schema {
            relations: relations(database).await,
            questions: questions(database).await,
        }
    }

    fn tables(&self) -> impl Iterator<Item = &Relation> {
        self.relations.iter().filter(|relation| relation.is_table)
    }

    fn has(&self, name: &str) -> bool {
        self.relations.iter().any(|relation| relation.name == name)
    }
}

async fn relations(database: &TestDatabase) -> Vec<Relation> {
    let rows = database
        .snapshot(
            "select c.oid::regclass, c.relkind = 'r',
                    string_agg(quote_ident(a.attname), ', ' order by a.attnum) filter (where a.attname <> 'age')
             from pg_class c
             join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
             where c.relnamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
               and c.relkind in ('r', 'v') and c.relname <> '_sqlx_migrations'
             group by c.oid
             order by c.oid",
        )
        .await;
    let relation = |row: &str| {
        let parts: Vec<&str> = row.split(" | ").collect();
        Relation {
            name: parts[0].to_owned(),
            is_table: parts[1] == "t",
            columns: parts[2].to_owned(),
        }
    };
    rows.lines().map(relation).collect()
}

/// Copies the rows of all existing tables, with the existing columns.
async fn fill(database: &TestDatabase, schema: &Schema, from: &TestDatabase) {
    let mut source = from.connect().await;
    let mut target = database.connect().await;
    for Relation { name, columns, .. } in schema.tables() {
        let copy = format!("copy {name} ({columns})");
        let mut into = target
            .copy_in_raw(&format!("{copy} from stdin"))
            .await
            .unwrap();
        let out = format!("{copy} to stdout");
        let mut rows = source.copy_out_raw(&out).await.unwrap();
        while let Some(bytes) = rows.try_next().await.unwrap() {
            into.send(bytes).await.unwrap();
        }
        let copied = into.finish().await.unwrap();
        assert_ne!(copied, 0, "no row for {name}");
    }
    // Sequences continue as if the ids had been generated here.
    for (table, column) in [("instance", "instance_id"), ("sync_run", "run_id")] {
        let next = format!(
            "select setval(pg_get_serial_sequence('swr.{table}', '{column}'), (select max({column}) from swr.{table}))"
        );
        if schema.has(&format!("swr.{table}")) {
            execute(&mut target, &next).await;
        }
    }
    source.close().await.unwrap();
    target.close().await.unwrap();
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Objects of the users: a view of each table, view and function, a table that refers to each table that may
/// be referred to, grants, an index, and comments.
async fn add_things_of_users(database: &TestDatabase, schema: &Schema) {
    let mut connection = database.connect().await;
    let has_views = schema.relations.iter().any(|relation| !relation.is_table);
    let schemas = if has_views { "swr, swr_report" } else { "swr" };
    let mut sql = format!(
        "create schema team authorization analyst;
         grant usage on schema {schemas} to analyst, auditor;
         grant select, references on all tables in schema {schemas} to analyst;
         grant select (instance_id, digest) on swr.artifact to auditor;
         create index artifacts_by_push on swr.artifact (pushed_at) where removed_at is null;
         comment on index swr.artifacts_by_push is 'for the dashboard';
         set role analyst;",
    );
    for Relation { name, columns, .. } in &schema.relations {
        sql.push_str(&format!(
            "create view team.\"{name}\" as select {columns} from {name};
             comment on view team.\"{name}\" is 'ours: {name}';"
        ));
    }
    for (_, call) in &schema.questions {
        let view = view_of(call);
        sql.push_str(&format!(
            "create view team.\"{view}\" as select * from {call};"
        ));
    }
    for table in REFERENCED {
        if !schema.has(&format!("swr.{table}")) {
            continue;
        }
        let key = key(database, table).await;
        sql.push_str(&format!(
            "create table team.{table}_note as select {key}, 'seen' as note from swr.{table};
             alter table team.{table}_note add foreign key ({key}) references swr.{table};"
        ));
    }
    execute(&mut connection, &sql).await;
    connection.close().await.unwrap();
}

fn view_of(call: &str) -> &str {
    call.split('(').next().unwrap()
}

/// The calls of the existing functions.
async fn questions(database: &TestDatabase) -> Vec<(&'static str, &'static str)> {
    let functions = "select proname from pg_proc where pronamespace = (
                         select oid from pg_namespace where nspname = 'swr_report'
                     ) order by 1";
    let functions = database.snapshot(functions).await;
    let call_of = |name: &str| {
        let question = QUESTIONS
            .into_iter()
            .find(|(function, _)| *function == name);
        question.unwrap_or_else(|| panic!("no call of swr_report.{name} among the questions"))
    };
    functions.lines().map(call_of).collect()
}

/// The columns of a table's primary key.
async fn key(database: &TestDatabase, table: &str) -> String {
    database
        .snapshot(&format!(
            "select string_agg(quote_ident(a.attname), ', ' order by array_position(k.conkey, a.attnum))
             from pg_constraint k
             join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any(k.conkey)
             where k.conrelid = 'swr.{table}'::regclass and k.contype = 'p'"
        ))
        .await
}

/// The privileges on our tables, columns, views, functions and schemas, one on each line.
const RIGHTS: &str = "
    select format('%s %s %s', o.name, r.grantee::regrole, r.privilege_type)
    from (
        select c.oid::regclass::text as name, coalesce(c.relacl, acldefault('r', c.relowner)) as acl
        from pg_class c
        where c.relnamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
          and c.relkind in ('r', 'v')
        union all
        select format('%s.%s', a.attrelid::regclass, a.attname), a.attacl
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid
        where c.relnamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
        union all
        select p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner))
        from pg_proc p
        where p.pronamespace in (select oid from pg_namespace where nspname in ('swr', 'swr_report'))
        union all
        select nspname, nspacl from pg_namespace where nspname in ('swr', 'swr_report')
    ) o
    cross join lateral aclexplode(o.acl) r
    order by 1";

/// The comments on users' objects, and their references to our objects.
const THINGS: &str = "
    select format('%s %s', c.oid::regclass, obj_description(c.oid, 'pg_class'))
    from pg_class c
    where c.relnamespace = 'team'::regnamespace or c.relname = 'artifacts_by_push'
    union all
    select format('%s %s %s', conrelid::regclass, pg_get_constraintdef(oid), convalidated)
    from pg_constraint
    where connamespace = 'team'::regnamespace
    union all
    select pg_get_indexdef(to_regclass('swr.artifacts_by_push'))
    order by 1";

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// The rows of these queries, one on each line after the name of its query.
async fn contents(database: &TestDatabase, queries: &[(String, String)]) -> String {
    let parts = queries
        .iter()
        .map(|(name, query)| format!("select '{name}' as name, q::text as row from ({query}) q"));
    let parts: Vec<String> = parts.collect();
    database
        .snapshot(&format!("{} order by 1, 2", parts.join(" union all ")))
        .await
}

/// Data that an upgrade must not change: the existing columns, and the results of the users' views.
async fn must_stay(database: &TestDatabase, schema: &Schema) -> String {
    let mut queries = Vec::new();
    let mut views = Vec::new();
    for Relation { name, columns, .. } in &schema.relations {
        queries.push((name.clone(), format!("select {columns} from {name}")));
        views.push(name.as_str());
    }
    views.extend(schema.questions.iter().map(|(_, call)| view_of(call)));
    for view in views {
        let name = format!("team.\"{view}\"");
        queries.push((name.clone(), format!("select * from {name}")));
    }
    let rows = contents(database, &queries).await;
    format!("{rows}\n{}", database.snapshot(THINGS).await)
}

/// All tables after the first run at the present schema. `known` is the schema before the upgrade.
async fn end(database: &TestDatabase, known: &Schema) -> String {
    let present = Schema::of(database).await;
    let mut queries = Vec::new();
    for Relation { name, columns, .. } in present.tables() {
        // Also contains the duration of a run.
        if name == "swr.sync_run" {
            continue;
        }
        let table = name.trim_start_matches("swr.");
        let of_this_run = match RECORDS.contains(&table) && !known.has(name) {
            true => "where run_id = (select max(run_id) from swr.sync_run)",
            false => "",
        };
        let query = format!("select {columns} from {name} {of_this_run}");
        queries.push((name.clone(), query));
    }
    contents(database, &queries).await
}

fn compare(what: &str, expected: &str, found: &str) {
    let missing = &lines(expected) - &lines(found);
    let unexpected = &lines(found) - &lines(expected);
    let some = |lines: BTreeSet<&str>| lines.into_iter().take(9).collect::<Vec<_>>().join("\n");
    assert!(
        expected == found,
        "{what}\nmissing:\n{}\nunexpected:\n{}",
        some(missing),
        some(unexpected)
    );
}

fn roles() -> Roles {
    Roles {
        migrate: "swr_migrate".to_owned(),
        sync: "swr_sync".to_owned(),
        report: "swr_report".to_owned(),
    }
}

/// One run into this database, as this role.
async fn sync_as(role: &str, server: &PrivateServer, name: &str, mirror: &Mirror) {
    let client = client_settings(&mirror.emulator);
    let settings = SyncSettings {
        clock: Clock::from_fn(|| at(AFTERWARDS)),
        ..sync_settings(&client)
    };
    let (_stopper, stop) = stop::channel();
    run_as(
        client,
        settings,
        &TestDatabase::at(server.url(role, name)),
        &Arc::default(),
        &stop,
    )
    .await
    .unwrap_or_else(|error| panic!("{name}: the run failed: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_each_schema_so_far_comes_up_to_now_with_all_that_is_in_it() {
    let server = PrivateServer::new().await;
    let mirror = mirror_with_a_past(&server).await;
    server
        .execute(
            "postgres",
            "create role analyst login; create role auditor login",
        )
        .await;

    let mut upgraded = Vec::new();
    // They include the current schema: it is the first with objects for all grants.
    for version in MIGRATOR.iter().map(|migration| migration.version) {
        let name = format!("schema_{version}");
        let known = upgrade(&server, &mirror, version, &name).await;
        upgraded.push((version, name, known));
    }

    mirror.with_world(change);
    sync_as(SUPERUSER, &server, PRESENT, &mirror).await;
    let present = mirror.facts().await;
    compare(
        "the run without an upgrade",
        &mirror.undisturbed_facts().await,
        &present,
    );
    for (version, name, known) in upgraded {
        let role = if version < FIRST_WITH_ROLES {
            SUPERUSER
        } else {
            "swr_sync"
        };
        sync_as(role, &server, &name, &mirror).await;
        let database = TestDatabase::at(server.url(SUPERUSER, &name));
        let what = format!("the first run after an upgrade from {version}");
        compare(&what, &present, &facts(&database).await);
        let expected = end(&mirror.database, &known).await;
        compare(&what, &expected, &end(&database, &known).await);
        sync_as(role, &server, &name, &mirror).await;
        let last = "select outcome, rows_written, histories_fetched
                    from swr.sync_run order by run_id desc limit 1";
        let what = format!("the second run after an upgrade from {version}");
        assert_eq!(database.snapshot(last).await, "published | 0 | 0", "{what}");
    }
}

/// Creates a database at an earlier version, upgrades it, and checks that nothing is missing.
/// Returns the earlier schema.
async fn upgrade(server: &PrivateServer, mirror: &Mirror, version: i64, name: &str) -> Schema {
    server
        .execute("postgres", &format!("create database {name}"))
        .await;
    let database = TestDatabase::at(server.url(SUPERUSER, name));
    let mut connection = database.connect().await;
    MIGRATOR.run_to(version, &mut connection).await.unwrap();
    connection.close().await.unwrap();
    let schema = Schema::of(&database).await;
    fill(&database, &schema, &mirror.database).await;
    let has_roles = version >= FIRST_WITH_ROLES;
    if has_roles {
        database.snapshot(&grants(&roles())).await;
    }
    add_things_of_users(&database, &schema).await;
    let before = must_stay(&database, &schema).await;
    let rights = database.snapshot(RIGHTS).await;

    let role = if has_roles { "swr_migrate" } else { SUPERUSER };
    let program = Database::from_url(&server.url(role, name)).unwrap();
    program.migrate().await.unwrap();

    let what = format!("an upgrade from {version}");
    compare(&what, &before, &must_stay(&database, &schema).await);
    let after = database.snapshot(RIGHTS).await;
    let lost = &lines(&rights) - &lines(&after);
    assert!(lost.is_empty(), "rights that {what} takes away: {lost:#?}");
    if has_roles {
        let reader = TestDatabase::at(server.url("swr_report", name));
        let reports = reports(&database).await;
        let looked_at = reports
            .iter()
            .map(|report| format!("exists (select from {report})"));
        let looked_at: Vec<String> = looked_at.collect();
        reader
            .snapshot(&format!("select {}", looked_at.join(", ")))
            .await;
    }
    schema
}

/// Everything that the report role must be able to do.
async fn reports(database: &TestDatabase) -> Vec<String> {
    let Schema {
        relations,
        questions,
    } = Schema::of(database).await;
    let views = relations.into_iter().map(|relation| relation.name);
    let views = views.filter(|name| name.starts_with("swr_report."));
    let questions = questions.into_iter();
    let calls = questions.filter(|(_, call)| !call.contains("from swr."));
    views
        .chain(calls.map(|(_, call)| call.to_owned()))
        .collect()
}
