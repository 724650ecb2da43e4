//! Checks that the server finds the rows of one repository by index, with and without statistics. The tests
//! check plans instead of times, because times depend on the machine.

use super::*;

/// Tables that grow with the registry. No query for one repository may read them completely.
const LARGE: [&str; 8] = [
    "artifact",
    "tag",
    "tag_history",
    "manifest",
    "build_step",
    "command",
    "layer",
    "artifact_layering",
];

const ARTIFACTS_OF_A_REPOSITORY: usize = 20;

/// Repositories with images of one base: two steps of the base, and three other steps, one of them with a
/// finding. Inserted with SQL, because a run over so many images takes minutes.
async fn registry_of(artifacts: usize) -> TestDatabase {
    let database = TestDatabase::create().await;
    let repositories = artifacts / ARTIFACTS_OF_A_REPOSITORY;
    let id = |text: &str| format!("md5({text})::uuid");
    let of_history = |kind: &str| {
        let numbers = [
            "-1",
            "0",
            "artifact_id * 3 - 2",
            "artifact_id * 3 - 1",
            "artifact_id * 3",
        ];
        let ids = numbers.map(|number| id(&format!("'{kind}' || ({number})")));
        format!("array[{}]", ids.join(", "))
    };
    let fill = format!(
        "-- The server would analyze the tables at a moment of its own.
         do $$
         declare
             name regclass;
         begin
             for name in select oid from pg_class where relnamespace = 'swr'::regnamespace and relkind = 'r' loop
                 execute format('alter table %s set (autovacuum_enabled = off)', name);
             end loop;
         end
         $$;
         insert into swr.instance (swr_instance_id, project_id, endpoint, name, first_seen_at)
             values ('i', 'p', 'https://swr.example', 'demo', '2026-01-01Z');
         insert into swr.sync_run (instance_id, outcome, started_at, listing_started_at, published_at, updated_at,
                                   program_version, host, process_id)
             values (1, 'published', '2026-01-02Z', '2026-01-02Z', '2026-01-02Z', '2026-01-02Z', '0', 'h', 1);
         insert into swr.namespace (instance_id, namespace_id, name) select 1, n, 'team' || n from generate_series(0, 9) n;
         insert into swr.repository (instance_id, repository_id, namespace_id, namespace_name, name)
             select 1, r, r % 10, 'team' || r % 10, 'app' || r from generate_series(1, {repositories}) r;
         insert into swr.artifact (instance_id, artifact_id, repository_id, namespace_id, size_bytes, pushed_at,
                                   first_seen_run_id, digest)
             select 1, a, 1 + a % {repositories}, (1 + a % {repositories}) % 10, a, '2026-01-01Z'::timestamptz + a * interval '1 s',
                    1, 'sha256:' || md5(a::text)
             from generate_series(1, {artifacts}) a;
         insert into swr.tag (instance_id, repository_id, name, artifact_id)
             select 1, repository_id, 'v' || artifact_id, artifact_id from swr.artifact where (artifact_id / {repositories}) % 10 <> 0;
         insert into swr.tag_history (instance_id, repository_id, name, valid_from, valid_to, artifact_id, opened_run_id, digest)
             select 1, repository_id, 'v' || artifact_id, '2026-01-01Z', case when artifact_id % 3 = 0 then '2026-01-02Z'::timestamptz end,
                    artifact_id, 1, digest
             from swr.artifact;
         insert into swr.finding_rule values ('secret', 1, 'high', 'A secret', 'It is read', 'x');
         insert into swr.command (instance_id, command_id, command)
             select 1, {command}, 'RUN ' || s from generate_series(1, {artifacts} * 3) s;
         insert into swr.command_finding select 1, 1, {command}, 'secret' from generate_series(36, {artifacts} * 3, 300) s;
         insert into swr.layer select s, 1, {layer}, 'sha256:' || s from generate_series(-1, {artifacts} * 3) s;
         insert into swr.build_step (instance_id, build_step_id, command_id, layer_id, chain_id, empty_layer)
             select 1, {step}, {command}, {layer}, {chain}, false from generate_series(-1, {artifacts} * 3) s;
         insert into swr.manifest (instance_id, digest, outcome, attempts, attempted_at, layer_bytes, build_step_ids,
                                   layer_ids, chain_ids)
             select 1, digest, 'stored', 1, '2026-01-01Z', 5, {steps}, {layers}, {chains} from swr.artifact;
         insert into swr.artifact_layering
             select 1, 5, artifact_id, 5, 3, {base_chain}, {last_chain}, {base_end_chain}, null from swr.artifact;",
        command = id("'c' || s"),
        layer = id("'l' || s"),
        step = id("'s' || s"),
        chain = id("'h' || s"),
        steps = of_history("s"),
        layers = of_history("l"),
        chains = of_history("h"),
        base_chain = id("'h-1'"),
        base_end_chain = id("'h0'"),
        last_chain = id("'h' || artifact_id * 3"),
    );
    database.snapshot(&fill).await;
    database
}

/// All nodes of the plan of a query.
async fn plan(database: &TestDatabase, query: &str) -> Vec<Value> {
    let text = database
        .snapshot(&format!("explain (format json) {query}"))
        .await;
    let plan: Value = serde_json::from_str(&text).unwrap();
    let mut nodes = vec![plan[0]["Plan"].clone()];
    let mut next = 0;
    while next < nodes.len() {
        if let Some(children) = nodes[next]["Plans"].as_array().cloned() {
            nodes.extend(children);
        }
        next += 1;
    }
    nodes
}

/// Parts of the plan that read a large table completely: without an index, or with an index for the whole
/// instance.
fn reads_all(node: &Value) -> bool {
    let index = node["Index Name"].as_str();
    let relation = node["Relation Name"].as_str();
    let is_large = |name: &str| {
        LARGE
            .iter()
            .any(|table| name == *table || name.starts_with(&format!("{table}_")))
    };
    match (index, relation) {
        (Some(index), _) => {
            let condition = node["Index Cond"].as_str().unwrap_or_default();
            let of_instance_alone =
                !condition.contains(" AND ") && condition.contains("instance_id =");
            // This index contains only manifests to be requested again.
            let is_short = index == "manifest_waiting";
            is_large(index) && !is_short && (condition.is_empty() || of_instance_alone)
        }
        // The index scan below a bitmap scan is checked separately.
        (None, Some(relation)) => node["Node Type"] == "Seq Scan" && LARGE.contains(&relation),
        (None, None) => false,
    }
}

/// The views with rows of one repository.
fn views_of_places() -> Vec<&'static str> {
    let by_repository = REPORTS
        .iter()
        .filter(|report| report.filters.contains(&report::Filter::Repository))
        .filter(|report| {
            report
                .sql
                .contains(&format!("from swr_report.{}", report.name))
        })
        .filter(|report| !report.sql.contains('('))
        .map(|report| report.name);
    by_repository.collect()
}

async fn check_plans(artifacts: usize) {
    let database = registry_of(artifacts).await;
    for state in ["before analyze", "after analyze"] {
        for view in views_of_places() {
            let query = format!(
                "select * from swr_report.{view} where namespace = 'team3' and repository = 'app13'"
            );
            let rows = format!("select count(*) > 0 from ({query}) q");
            // No history is missing.
            if view != "history_failure" {
                assert_eq!(database.snapshot(&rows).await, "t", "{view}");
            }
            // For all findings, its plan begins with the few findings. The join with the steps needs
            // statistics.
            if view == "artifact_finding" && state == "before analyze" {
                continue;
            }
            let nodes = plan(&database, &query).await;
            let all: Vec<&Value> = nodes.iter().filter(|node| reads_all(node)).collect();
            assert!(all.is_empty(), "{state}: {query} reads all of {all:#?}");
        }
        database.snapshot("vacuum analyze").await;
    }
    // Pages of rows in the order of an index.
    for name in ["artifact", "build_history"] {
        let report = report::find(name).unwrap();
        let query = report.query(&FilterValues::default(), 50).unwrap();
        let nodes = plan(&database, &query).await;
        let is_sort_of_all = |node: &&Value| node["Node Type"] == "Sort";
        let sorts: Vec<&Value> = nodes.iter().filter(is_sort_of_all).collect();
        assert!(sorts.is_empty(), "{query} sorts all rows: {sorts:#?}");
    }
}

#[tokio::test]
async fn a_query_of_one_repository_reaches_its_rows_by_their_keys() {
    check_plans(20_000).await;
}

#[tokio::test]
async fn a_query_of_one_repository_of_a_large_registry_reaches_its_rows_by_their_keys() {
    check_plans(60_000).await;
}
