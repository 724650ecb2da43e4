//! The dashboards for Grafana: every query runs with the role for reports, after macros and variables are
//! expanded as by Grafana.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Duration, Utc};
use regex::{Captures, Regex};
use serde_json::{Value, json};
use sqlx::postgres::PgColumn;
use sqlx::{
    AssertSqlSafe, Column, Connection, Executor, PgConnection, SqlSafeStr, Statement, TypeInfo,
};
use swr_emulator::{ArtifactSpec, Digest, Emulator, EmulatorSettings, RequestKind, World};
use swr_sync::database::grants::{Roles, grants};

use crate::support::cases;
use crate::support::database::TestDatabase;
use crate::support::mirror::{Mirror, start_of_time, sync_into};
use crate::support::server::{PrivateServer, SUPERUSER};

/// Grafana's ids of the units in use; `bytes` has the base 1024.
const UNITS: [&str; 6] = ["bytes", "dateTimeAsIso", "ms", "percentunit", "s", "short"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The dashboards by file name.
fn dashboards() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(root().join("dashboards/grafana")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|path: PathBuf| {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let dashboard = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{name} is not JSON: {error}"));
            (name, dashboard)
        })
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let text = value[key].as_str().unwrap_or_default();
    assert!(!text.is_empty(), "no `{key}` in {value}");
    text
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no list `{key}` in {value}"))
}

/// The data source that is chosen above the dashboard.
fn by_variable() -> Value {
    json!({"type": "grafana-postgresql-datasource", "uid": "${datasource}"})
}

/// The panels that show something.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = list(dashboard, "panels").iter();
    panels.filter(|panel| panel["type"] != "row")
}

#[test]
fn dashboards_are_what_grafana_can_load_side_by_side() {
    let dashboards = dashboards();
    assert_eq!(dashboards.len(), 3);
    let mut uids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for (file, dashboard) in &dashboards {
        assert!(uids.insert(text(dashboard, "uid")), "{file}: uid");
        assert!(titles.insert(text(dashboard, "title")), "{file}: title");
        text(dashboard, "description");
        // An id that is valid only in one Grafana database.
        assert_eq!(dashboard.get("id"), None, "{file}");
        assert_eq!(dashboard["tags"], json!(["swr-sync"]), "{file}");
        assert_eq!(dashboard["schemaVersion"], 39, "{file}");
        assert_eq!(dashboard["refresh"], "5m", "{file}");
        text(&dashboard["time"], "from");

        let variables = list(&dashboard["templating"], "list");
        assert_eq!(variables[0]["name"], "datasource", "{file}");
        assert_eq!(variables[0]["type"], "datasource", "{file}");
        assert_eq!(variables[0]["query"], "grafana-postgresql-datasource");
        assert_eq!(variables[1]["name"], "instance", "{file}");
        assert_eq!(variables[1]["datasource"], by_variable(), "{file}");

        let mut ids = BTreeSet::new();
        let mut taken = BTreeMap::new();
        for panel in list(dashboard, "panels") {
            let title = text(panel, "title");
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: {title}");
            for place in places(panel) {
                if let Some(other) = taken.insert(place, title) {
                    panic!("{file}: `{title}` covers `{other}` at {place:?}");
                }
            }
        }
    }
}

/// The cells of the grid that a panel takes.
fn places(panel: &Value) -> impl Iterator<Item = (u64, u64)> {
    let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
    assert!(w > 0 && h > 0 && x + w <= 24, "{}", panel["gridPos"]);
    (x..x + w).flat_map(move |x| (y..y + h).map(move |y| (x, y)))
}

#[test]
fn panels_name_no_data_source_of_their_own_and_say_what_they_show() {
    let by_variable = by_variable();
    for (file, dashboard) in &dashboards() {
        for panel in panels(dashboard) {
            let title = text(panel, "title");
            text(panel, "description");
            assert_eq!(panel["datasource"], by_variable, "{file}: {title}");
            for target in list(panel, "targets") {
                assert_eq!(target["datasource"], by_variable, "{file}: {title}");
                assert_eq!(target["rawQuery"], true, "{file}: {title}");
                let sql = text(target, "rawSql");
                // An instance of another user may be in the same database.
                assert!(sql.contains("in ($instance)"), "{file}: {title}");
            }
            if let Some(unit) = panel["fieldConfig"]["defaults"]["unit"].as_str() {
                assert!(UNITS.contains(&unit), "{file}: {title}: {unit}");
            }
        }
    }
}

/// Values that Grafana inserts into a query.
struct Range {
    instances: &'static str,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    interval: &'static str,
}

/// Expands macros and variables as Grafana's data source for PostgreSQL does, as far as the
/// dashboards use them:
/// <https://grafana.com/docs/grafana/latest/datasources/postgres/query-editor/#macros>.
fn expand(sql: &str, range: &Range) -> Result<String, String> {
    let name = Regex::new(r"\$([_a-zA-Z0-9]+)(?:\(([^)]*)\))?").unwrap();
    let mut expanded = String::new();
    let mut end = 0;
    for found in name.captures_iter(sql) {
        let whole = found.get(0).unwrap();
        expanded.push_str(&sql[end..whole.start()]);
        expanded.push_str(&expand_one(&found, range)?);
        end = whole.end();
    }
    expanded.push_str(&sql[end..]);
    match expanded.contains('$') {
        true => Err(format!("a `$` is left in: {expanded}")),
        false => Ok(expanded),
    }
}

fn expand_one(found: &Captures<'_>, range: &Range) -> Result<String, String> {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let name = &found[1];
    let Some(arguments) = found.get(2) else {
        return match name {
            "instance" => Ok(range.instances.to_owned()),
            "unused_for" => Ok("90 days".to_owned()),
            "__interval" => Ok(range.interval.to_owned()),
            _ => Err(format!("no variable ${name}")),
        };
    };
    let arguments = expand(arguments.as_str(), range)?;
    let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
    match (name, &arguments[..]) {
        ("__timeFilter", [column]) => Ok(format!(
            "{column} BETWEEN '{}' AND '{}'",
            time(range.from),
            time(range.to)
        )),
        ("__timeGroupAlias", [column, interval]) => {
            let seconds = seconds(interval)?;
            Ok(format!(
                "floor(extract(epoch from {column})/{seconds})*{seconds} AS \"time\""
            ))
        }
        _ => Err(format!("no macro ${name} of {} arguments", arguments.len())),
    }
}

fn seconds(interval: &str) -> Result<u64, String> {
    let (number, unit) = interval.split_at(interval.len() - 1);
    let unit = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("no interval {interval}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("no number {number}"))?;
    Ok(number * unit)
}

fn range() -> Range {
    Range {
        instances: "'1','2'",
        from: start_of_time() - Duration::days(3_650),
        to: Utc::now() + Duration::days(1),
        interval: "1d",
    }
}

#[test]
fn macros_and_variables_expand_as_in_grafana_and_unknown_ones_are_refused() {
    let range = Range {
        from: "2026-03-01T12:00:00Z".parse().unwrap(),
        to: "2026-03-02T12:00:00Z".parse().unwrap(),
        ..range()
    };
    let expanded = cases! {
        "x in ($instance)" => "x in ('1','2')";
        "interval '$unused_for'" => "interval '90 days'";
        "$__timeGroupAlias(t.at, $__interval), n" => "floor(extract(epoch from t.at)/86400)*86400 AS \"time\", n";
        "$__timeFilter(at)" => "at BETWEEN '2026-03-01T12:00:00.000Z' AND '2026-03-02T12:00:00.000Z'";
    };
    for (sql, expected) in expanded {
        assert_eq!(expand(sql, &range).as_deref(), Ok(expected));
    }
    for sql in [
        "$__timeFilters(at)",
        "$__timeFilter(at, 1)",
        "$__timeGroupAlias(at, 1 fortnight)",
        "$nothing",
        "${instance}",
    ] {
        assert!(expand(sql, &range).is_err(), "{sql}");
    }
}

/// Two instances with pushes, moved and removed tags, deletions, a run that failed, a history
/// that is refused, and a value that could not be stored.
async fn synced(server: &PrivateServer) {
    server
        .execute("postgres", "create database dashboards")
        .await;
    let database = TestDatabase::at(server.url(SUPERUSER, "dashboards"));
    let connection = server.connect("dashboards").await;
    swr_sync::database::migrate(connection).await.unwrap();

    let settings = EmulatorSettings {
        instance_id: "22222222-3333-4444-5555-666666666666".to_owned(),
        instance_name: "second".to_owned(),
        ..EmulatorSettings::default()
    };
    let world = World::generate(8, 50, start_of_time());
    let second = Emulator::start(settings, world).await.unwrap();
    sync_into(&second, &database, false).await.unwrap();

    let world = World::generate(7, 300, start_of_time());
    let mirror = Mirror::with(EmulatorSettings::default(), world, database).await;
    mirror.sync().await;
    for round in 1..=3 {
        mirror.with_world(|world| world.evolve(round));
        mirror.sync().await;
    }
    mirror.with_world(|world| {
        let repository = world.add_repository("team", "app");
        world.add_artifact(repository, image("b0", &["c0"]));
        world.add_artifact(repository, image("b1", &["c0", "c1"]));
        let refused = world.push(repository).unwrap();
        world.override_build_history(&refused.digest().to_string(), 403, json!({}));
        let copies = world.add_repository("team", "copies");
        world.promote(refused.id, copies).unwrap();
        let odd = world.push(repository).unwrap();
        let digest = odd.digest().to_string();
        world.override_row(
            odd.id,
            json!({"id": odd.id, "digest": digest, "size": "large"}),
        );
    });
    mirror.sync().await;
    mirror.fail_next(RequestKind::Artifacts, 400, "{}");
    mirror.try_sync().await.unwrap_err();

    let roles = Roles {
        migrate: "swr_migrate".to_owned(),
        sync: "swr_sync".to_owned(),
        report: "swr_report".to_owned(),
    };
    mirror.snapshot(&grants(&roles)).await;
}

/// An image of these layers.
fn image(digits: &str, layers: &[&str]) -> ArtifactSpec {
    let digest = |digits: &str| format!("sha256:{}", digits.repeat(32));
    let steps = layers.iter().map(|layer| {
        json!({"created_by": format!("ADD {layer} /"), "digest": digest(layer), "size": 100})
    });
    let steps: Vec<Value> = steps.collect();
    ArtifactSpec {
        digest: Digest::parse(&digest(digits)),
        history: Some(json!({"total": steps.len(), "build_histories": steps})),
        ..ArtifactSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_answers_the_report_role_with_the_columns_its_panel_needs() {
    let server = PrivateServer::new().await;
    synced(&server).await;
    let url = server.url("swr_report", "dashboards");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let everything = range();
    let one_instance = Range {
        instances: "'2'",
        interval: "5m",
        ..range()
    };
    let before_all = Range {
        to: everything.from + Duration::days(1),
        ..range()
    };
    for (file, dashboard) in &dashboards() {
        for variable in list(&dashboard["templating"], "list") {
            if variable["type"] != "query" {
                continue;
            }
            let sql = expand(text(variable, "query"), &everything).unwrap();
            let answer = ask(&mut connection, &sql).await;
            assert_eq!(answer.names(), ["__text", "__value"], "{file}");
            assert_eq!(answer.rows.len(), 2, "{file}");
        }
        for panel in panels(dashboard) {
            let place = format!("{file}: {}", text(panel, "title"));
            let [target] = list(panel, "targets") else {
                panic!("{place}: one query is expected");
            };
            for (range, has_rows) in [
                (&everything, true),
                (&one_instance, true),
                (&before_all, false),
            ] {
                let sql = expand(text(target, "rawSql"), range)
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
                let answer = ask(&mut connection, &sql).await;
                if has_rows {
                    assert!(!answer.rows.is_empty(), "{place}: no rows from {sql}");
                }
                check(&place, panel, target, &answer);
            }
        }
    }
}

/// The result of a query, each row as an object.
struct Answer {
    columns: Vec<(String, Kind)>,
    rows: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Time,
    Boolean,
}

impl Answer {
    fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| &name[..]).collect()
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        let column = self.columns.iter().find(|(column, _)| column == name);
        column.map(|(_, kind)| *kind)
    }
}

async fn ask(connection: &mut PgConnection, sql: &str) -> Answer {
    let mut transaction = connection.begin_with("begin read only").await.unwrap();
    let failed = |error: sqlx::Error| -> String { format!("{error}: {sql}") };
    let prepare = transaction.prepare(AssertSqlSafe(sql.to_owned()).into_sql_str());
    let statement = prepare.await.map_err(failed).unwrap();
    let columns = statement.columns().iter().map(column).collect();
    let sql = format!("select to_jsonb(q) from ({sql}) q");
    let rows = sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_all(&mut *transaction);
    let rows = rows.await.map_err(failed).unwrap();
    transaction.rollback().await.unwrap();
    Answer { columns, rows }
}

fn column(column: &PgColumn) -> (String, Kind) {
    let kind = match column.type_info().name() {
        "INT2" | "INT4" | "INT8" | "FLOAT8" | "NUMERIC" => Kind::Number,
        "TEXT" | "UUID" => Kind::Text,
        "TIMESTAMPTZ" => Kind::Time,
        "BOOL" => Kind::Boolean,
        // Grafana would show an array, or a date, in PostgreSQL's notation.
        name => panic!("the column {} is {name}", column.name()),
    };
    (column.name().to_owned(), kind)
}

/// What a panel needs to find in the result of its query.
fn check(place: &str, panel: &Value, target: &Value, answer: &Answer) {
    let names: BTreeSet<&str> = answer.names().into_iter().collect();
    assert_eq!(names.len(), answer.columns.len(), "{place}: two of a name");
    let (format, panel_type) = (text(target, "format"), text(panel, "type"));
    match (format, panel_type) {
        ("time_series", "timeseries") => check_series(place, answer),
        ("table", "stat") => {
            let [(_, kind)] = answer.columns[..] else {
                panic!("{place}: {names:?} are not one value");
            };
            assert_eq!(kind, Kind::Number, "{place}");
            assert_eq!(answer.rows.len(), 1, "{place}");
        }
        ("table", "barchart") => {
            let x = text(&panel["options"], "xField");
            for (name, kind) in &answer.columns {
                let expected = if name == x { Kind::Text } else { Kind::Number };
                assert_eq!(*kind, expected, "{place}: {name}");
            }
            assert!(names.contains(x), "{place}: no {x} in {names:?}");
        }
        ("table", "table") => {
            for setting in list(&panel["fieldConfig"], "overrides") {
                let name = text(&setting["matcher"], "options");
                let kind = answer.kind(name);
                assert!(kind.is_some(), "{place}: no {name} in {names:?}");
                for property in list(setting, "properties") {
                    assert_eq!(property["id"], "unit", "{place}: {name}");
                    assert!(UNITS.contains(&text(property, "value")), "{place}: {name}");
                    assert_eq!(kind, Some(Kind::Number), "{place}: {name}");
                }
            }
        }
        other => panic!("{place}: {other:?} is not expected"),
    }
}

/// A time, then values; or a time, the name of the series, and its value.
fn check_series(place: &str, answer: &Answer) {
    let kinds: Vec<Kind> = answer.columns.iter().map(|(_, kind)| *kind).collect();
    let names = answer.names();
    assert_eq!(names[0], "time", "{place}");
    assert!(matches!(kinds[0], Kind::Time | Kind::Number), "{place}");
    let values = match names[1] {
        "metric" => {
            assert_eq!(kinds[1], Kind::Text, "{place}");
            assert_eq!(kinds.len(), 3, "{place}: {names:?}");
            &kinds[2..]
        }
        _ => &kinds[1..],
    };
    assert!(values.iter().all(|kind| *kind == Kind::Number), "{place}");
    let times: Vec<f64> = answer
        .rows
        .iter()
        .map(|row| seconds_of(&row["time"]))
        .collect();
    assert!(times.is_sorted(), "{place}: not in the order of time");
}

fn seconds_of(time: &Value) -> f64 {
    match time {
        Value::String(time) => {
            let time: DateTime<Utc> = time.parse().unwrap();
            time.timestamp_micros() as f64 / 1e6
        }
        Value::Number(time) => time.as_f64().unwrap(),
        other => panic!("{other} is no time"),
    }
}

/// The services of the compose file, each with its lines.
fn services() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = None;
    let lines = text.lines().skip_while(|line| *line != "services:").skip(1);
    for line in lines.take_while(|line| line.is_empty() || line.starts_with(' ')) {
        let setting = line.trim_start();
        if line.len() - setting.len() == 2 && !setting.starts_with('#') {
            name = Some(setting.trim_end_matches(':').to_owned());
        } else if let Some(name) = &name {
            let lines = services.entry(name.clone()).or_default();
            lines.push(setting.trim_start_matches("- ").to_owned());
        }
    }
    services
}

#[test]
fn the_demo_starts_grafana_only_when_asked_and_shows_it_to_this_machine_alone() {
    let services = services();
    for (name, lines) in &services {
        let profiles = lines.iter().find(|line| line.starts_with("profiles:"));
        let expected = match name.as_str() {
            "grafana" => Some("profiles: [grafana]"),
            "loop" => Some("profiles: [loop]"),
            _ => None,
        };
        assert_eq!(profiles.map(String::as_str), expected, "{name}");
    }
    let grafana = &services["grafana"];
    let is_set = |line: &str| grafana.iter().any(|set| set == line);
    assert!(is_set("127.0.0.1:3000:3000"), "{grafana:?}");
    assert!(is_set("GF_AUTH_ANONYMOUS_ORG_ROLE: Viewer"), "{grafana:?}");
    // The default of Grafana is an administrator with a well-known password.
    let no_administrator = "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION: \"true\"";
    assert!(is_set(no_administrator), "{grafana:?}");
    assert!(is_set(
        "SWR_REPORT_DATABASE_PASSWORD: ${SWR_REPORT_DATABASE_PASSWORD:-}"
    ));
}

#[test]
fn what_grafana_is_provisioned_with_is_there() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let grafana = &services()["grafana"];
    let sources = read("dashboards/grafana/provisioning/datasources/swr-sync.yaml");
    let variable = Regex::new(r"\$__env\{(\w+)\}").unwrap();
    let variables: Vec<&str> = variable
        .captures_iter(&sources)
        .map(|found| found.extract::<1>().1[0])
        .collect();
    assert_eq!(variables.len(), 5);
    for variable in variables {
        let is_set = grafana
            .iter()
            .any(|line| line.starts_with(&format!("{variable}: ")));
        assert!(is_set, "{variable} is not in {grafana:?}");
    }
    let provider = read("dashboards/grafana/provisioning/dashboards/swr-sync.yaml");
    let path = provider
        .lines()
        .find_map(|line| line.trim().strip_prefix("path: "));
    let mounted = format!("./dashboards/grafana:{}:ro", path.unwrap());
    assert!(
        grafana.contains(&mounted),
        "{mounted} is not in {grafana:?}"
    );
    let image = grafana
        .iter()
        .find_map(|line| line.strip_prefix("image: ${GRAFANA_IMAGE:-"));
    let image = image.unwrap().trim_end_matches('}');
    assert!(read("docs/grafana.md").contains(image), "{image}");
}
