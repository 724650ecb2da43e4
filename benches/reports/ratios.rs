//! Compares a query of a view with the shortest query of the tables for the same rows. The latter uses
//! keys: the id of the repository instead of its names, and no names in the result.

use sqlx::PgConnection;
use swr_sync::database::grants::{Roles, grants};

use super::{explain, number, text};

/// Two queries with the same rows.
struct Case {
    name: &'static str,
    by_view: String,
    by_keys: String,
}

/// A repository of a usual size that has history and findings.
struct Place {
    namespace: String,
    repository: String,
    repository_id: i64,
}

const RUNS: usize = 5;

const ROLES: [&str; 2] = ["superuser", "report role"];

/// Prints the results for the tables in their current state, and after `vacuum analyze`.
pub(super) async fn print(connection: &mut PgConnection) {
    let roles = Roles {
        migrate: "swr_migrate".to_owned(),
        sync: "swr_sync".to_owned(),
        report: "swr_report".to_owned(),
    };
    super::execute(connection, &grants(&roles)).await;
    let place = place(connection).await;
    let cases = cases(connection, &place).await;
    println!(
        "\nOne repository is {}/{}.\n\n| Query | Tables | Role | Rows | by view, ms | planned in | by keys, ms | Ratio |\n\
         |---|---|---|---:|---:|---:|---:|---:|",
        place.namespace, place.repository
    );
    for state in ["as published", "after `vacuum analyze`"] {
        for case in &cases {
            let keys = best(connection, &case.by_keys).await;
            for role in ROLES {
                if role == "report role" {
                    super::execute(connection, "set role swr_report").await;
                }
                let view = best(connection, &case.by_view).await;
                super::execute(connection, "reset role").await;
                assert_eq!(view.rows, keys.rows, "{}", case.name);
                println!(
                    "| {} | {state} | {role} | {} | {:.1} | {:.1} | {:.1} | {:.1} |",
                    case.name,
                    view.rows,
                    view.execution_ms,
                    view.planning_ms,
                    keys.execution_ms,
                    view.execution_ms / keys.execution_ms
                );
            }
        }
        super::execute(connection, "vacuum analyze").await;
    }
}

/// The fastest of several runs.
struct Best {
    rows: u64,
    planning_ms: f64,
    execution_ms: f64,
}

async fn best(connection: &mut PgConnection, query: &str) -> Best {
    let mut best = Best {
        rows: 0,
        planning_ms: f64::INFINITY,
        execution_ms: f64::INFINITY,
    };
    for _ in 0..RUNS {
        let plan = explain(connection, query).await;
        best.rows = plan["Plan"]["Actual Rows"].as_f64().unwrap() as u64;
        best.planning_ms = best
            .planning_ms
            .min(plan["Planning Time"].as_f64().unwrap());
        best.execution_ms = best
            .execution_ms
            .min(plan["Execution Time"].as_f64().unwrap());
    }
    best
}

async fn place(connection: &mut PgConnection) -> Place {
    let most_artifacts = "select repository_id from swr.artifact where removed_at is null
                          group by 1 order by count(*) desc, 1 limit 1";
    let repository_id = number(connection, most_artifacts).await;
    let name = |column: &str| {
        format!("select {column} from swr.repository where repository_id = {repository_id}")
    };
    Place {
        namespace: text(connection, &name("namespace_name")).await,
        repository: text(connection, &name("name")).await,
        repository_id,
    }
}

/// The tags of an artifact, looked up one by one, or grouped for all.
const TAGS: &str = "array(select t.name from swr.tag t
    where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id order by t.name)";
const GROUPED_TAGS: &str = "left join (
    select instance_id, artifact_id, array_agg(name order by name) as tags from swr.tag group by 1, 2
) g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id";

const MANIFEST: &str =
    "left join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest";
const LAYERING: &str = "left join swr.artifact_layering k on k.instance_id = a.instance_id and k.artifact_id = a.artifact_id";
/// The layers of the artifacts that are counted.
const HELD_LAYERS: &str = "swr.artifact a
    join swr.artifact_layering k on k.instance_id = 1 and k.artifact_id = a.artifact_id
    join swr.manifest m on m.instance_id = 1 and m.digest = a.digest
    cross join lateral unnest(m.layer_ids) h (layer_id)";
const STEPS: &str = "join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
    cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
    join swr.build_step s on s.instance_id = a.instance_id and s.build_step_id = e.build_step_id";
const CONTENT: &str = "left join swr.command c on c.instance_id = s.instance_id and c.command_id = s.command_id
    left join swr.layer l on l.instance_id = s.instance_id and l.layer_id = s.layer_id
    left join swr.media_type y on y.instance_id = s.instance_id and y.media_type_id = s.media_type_id";
const STEP: &str = "a.digest, e.position, s.*, c.command, l.digest, l.size_bytes, y.media_type";
/// Artifacts that may count twice in sums of sizes: an index in a repository with a smaller artifact.
const SMALLEST: &str = "left join (
    select instance_id, repository_id, min(size_bytes) as smallest_bytes
    from swr.artifact where not swr.is_index(manifest_media_type) group by 1, 2
) z on z.instance_id = a.instance_id and z.repository_id = a.repository_id";
const LOGICAL_BYTES: &str = "case when swr.is_index(a.manifest_media_type) and z.smallest_bytes <= a.size_bytes then 0 else a.size_bytes end";

async fn cases(connection: &mut PgConnection, place: &Place) -> Vec<Case> {
    let Place {
        namespace,
        repository,
        repository_id,
    } = place;
    let of_repository = format!("where namespace = '{namespace}' and repository = '{repository}'");
    let by_id = format!("a.instance_id = 1 and a.repository_id = {repository_id}");
    let exists = "a.instance_id = 1 and a.removed_at is null";
    let base = |artifacts: &str, tags: &str, grouped: &str| {
        format!(
            "select a.*, {tags}, k.*, o.candidates, b.digest, b.pushed_at, q.layer_count, q.layer_bytes,
                 case when b.artifact_id is not null then array(
                     select t.name from swr.tag t
                     where t.instance_id = b.instance_id and t.artifact_id = b.artifact_id order by t.name
                 ) end
             from {artifacts} a
             join swr.artifact_layering k using (instance_id, artifact_id)
             {grouped}
             left join (
                 select x.instance_id, x.chain_id, count(*) as candidates, (array_agg(x.artifact_id order by exists (
                     select from swr.tag t where t.instance_id = x.instance_id and t.artifact_id = x.artifact_id
                 ) desc, p.pushed_at nulls last, x.artifact_id))[1] as artifact_id
                 from swr.artifact_layering x
                 join swr.artifact p using (instance_id, artifact_id)
                 where (x.instance_id, x.chain_id) in (
                     select w.instance_id, w.base_chain_id
                     from {artifacts} a
                     join swr.artifact_layering w using (instance_id, artifact_id)
                 )
                 group by x.instance_id, x.chain_id
             ) o on o.instance_id = a.instance_id and o.chain_id = k.base_chain_id
             left join swr.artifact b on b.instance_id = o.instance_id and b.artifact_id = o.artifact_id
             left join swr.artifact_layering q on q.instance_id = b.instance_id and q.artifact_id = b.artifact_id
             where k.chain_id is not null"
        )
    };
    let artifacts_of_repository = format!("(select * from swr.artifact a where {by_id})");
    let sums = |condition: &str| {
        format!(
            "select x.*, y.* from (
                 select a.instance_id, a.repository_id, count(*), swr.total_bytes(sum({LOGICAL_BYTES})) as logical,
                        swr.total_bytes(sum({LOGICAL_BYTES}) filter (where k.artifact_id is null)) as unknown,
                        max(a.pushed_at), max(a.pulled_at)
                 from swr.artifact a {LAYERING} {SMALLEST}
                 where {condition} and a.removed_at is null
                 group by 1, 2
             ) x left join swr.repository_layering y using (instance_id, repository_id)"
        )
    };
    let digests = "select quote_literal(array_agg(digest)::text) from (
                       select digest from swr.artifact where removed_at is null order by md5(digest) limit 1000
                   ) x";
    let digests = text(connection, digests).await;
    let fair_share = |held: &str| {
        format!(
            "with held as ({held}), shared as (
                 select instance_id, layer_id, count(*) as namespaces from held group by 1, 2
             )
             select namespace, sum(size_bytes / namespaces)
             from held join shared using (instance_id, layer_id) group by 1"
        )
    };
    let finding = format!(
        "{STEPS}
         join swr.command_finding f on f.instance_id = s.instance_id and f.command_id = s.command_id
         join swr.finding_rule u using (rule_id)
         join swr.command c on c.instance_id = f.instance_id and c.command_id = f.command_id"
    );
    let case = |name, by_view: String, by_keys: String| Case {
        name,
        by_view,
        by_keys,
    };
    let all = |view: &str| format!("select * from swr_report.{view} where instance_id = 1");
    let one = |view: &str| format!("select * from swr_report.{view} {of_repository}");
    let page = |name: &str| {
        let report = swr_sync::report::find(name).unwrap();
        report
            .query(&swr_sync::report::FilterValues::default(), 50)
            .unwrap()
    };
    vec![
        case(
            "artifact, one repository",
            one("artifact"),
            format!("select a.*, {TAGS}, m.outcome from swr.artifact a {MANIFEST} where {by_id} and a.removed_at is null"),
        ),
        case(
            "artifact, first 50",
            page("artifact"),
            format!(
                "select a.*, {TAGS}, m.outcome from (
                     select * from swr.artifact a where {exists} order by pushed_at desc nulls last, artifact_id limit 50
                 ) a {MANIFEST}"
            ),
        ),
        case(
            "artifact, all",
            all("artifact"),
            format!("select a.*, g.tags, m.outcome from swr.artifact a {MANIFEST} {GROUPED_TAGS} where {exists}"),
        ),
        case(
            "tag, one repository",
            one("tag"),
            format!("select a.*, x.digest from swr.tag a join swr.artifact x using (instance_id, artifact_id) where {by_id}"),
        ),
        case(
            "tag, all",
            all("tag"),
            "select a.*, x.digest from swr.tag a join swr.artifact x using (instance_id, artifact_id) where a.instance_id = 1"
                .to_owned(),
        ),
        case(
            "build_history, one repository",
            one("build_history"),
            format!("select {STEP} from swr.artifact a {STEPS} {CONTENT} where {by_id} and a.removed_at is null"),
        ),
        case(
            "build_history, first 50",
            page("build_history"),
            format!(
                "select {STEP} from (select * from swr.artifact a where {exists} order by artifact_id limit 50) a
                 {STEPS} {CONTENT} order by a.artifact_id, e.position limit 50"
            ),
        ),
        case(
            "build_history, all",
            all("build_history"),
            format!("select {STEP} from swr.artifact a {STEPS} {CONTENT} where {exists}"),
        ),
        case(
            "artifact_size, one repository",
            one("artifact_size"),
            format!("select a.*, {TAGS}, k.* from swr.artifact a {LAYERING} where {by_id} and a.removed_at is null"),
        ),
        case(
            "artifact_size, first 50",
            page("artifact_size"),
            format!(
                "select a.*, {TAGS} from (
                     select a.*, k.exclusive_bytes from swr.artifact a {LAYERING} where {exists}
                     order by k.exclusive_bytes desc nulls last, a.artifact_id limit 50
                 ) a"
            ),
        ),
        case(
            "artifact_size, all",
            all("artifact_size"),
            format!("select a.*, g.tags, k.* from swr.artifact a {LAYERING} {GROUPED_TAGS} where {exists}"),
        ),
        case(
            "base_image, one repository",
            one("base_image"),
            base(&artifacts_of_repository, TAGS, ""),
        ),
        case(
            "base_image, all",
            all("base_image"),
            base("swr.artifact", "g.tags", GROUPED_TAGS),
        ),
        case(
            "storage_by_repository, one repository",
            one("storage_by_repository"),
            sums(&by_id),
        ),
        case(
            "storage_by_repository, all",
            all("storage_by_repository"),
            sums("a.instance_id = 1"),
        ),
        case(
            "repository_layer, one repository",
            one("repository_layer"),
            format!(
                "select l.*, x.artifacts from (
                     select h.layer_id, count(*) as artifacts from {HELD_LAYERS} where {by_id} group by h.layer_id
                 ) x join swr.layer l on l.instance_id = 1 and l.layer_id = x.layer_id"
            ),
        ),
        case(
            "artifact_finding, one repository",
            one("artifact_finding"),
            format!(
                "select a.*, {TAGS}, f.*, u.title, c.command from swr.artifact a {finding}
                 where {by_id} and a.removed_at is null"
            ),
        ),
        case(
            "reclaimable, 1,000 digests",
            format!("select * from swr_report.reclaimable({digests})"),
            format!(
                "with chosen as materialized (
                     select a.instance_id, a.artifact_id, a.digest, a.size_bytes, k.artifact_id is not null as is_layered
                     from unnest({digests}::text[]) d (digest)
                     join swr.artifact a on a.instance_id = 1 and a.digest = d.digest {LAYERING}
                     where a.removed_at is null
                 ),
                 held as (
                     select h.layer_id, count(*) as artifacts
                     from {HELD_LAYERS} where a.artifact_id in (select artifact_id from chosen) group by h.layer_id
                 ),
                 had as (select h.layer_id, count(*) as artifacts from {HELD_LAYERS} group by h.layer_id)
                 select count(*), sum(l.size_bytes), (select sum(size_bytes) from chosen)
                 from held
                 join had using (layer_id, artifacts)
                 join swr.layer l on l.instance_id = 1 and l.layer_id = held.layer_id"
            ),
        ),
        case(
            "fair share of each namespace",
            fair_share("select distinct instance_id, namespace, layer_id, size_bytes from swr_report.repository_layer"),
            fair_share(&format!(
                "select instance_id, namespace, layer_id, size_bytes from (
                     select distinct a.instance_id, a.namespace_id as namespace, h.layer_id from {HELD_LAYERS}
                 ) x join swr.layer l using (instance_id, layer_id)"
            )),
        ),
    ]
}
