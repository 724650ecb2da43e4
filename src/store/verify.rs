//! Verification: the tables compared with a staged listing and with histories fetched again.
//!
//! Nothing here changes a fact. Differences go to a table of their own, in statements that
//! compare whole tables, so that a registry of any size, with any number of differences, takes
//! no memory. Each difference has one of three verdicts:
//!
//! - `changed`: a time in the listing tells that it came about after the verified run began;
//! - `unlisted`: the registry lists the row no longer, and nothing tells since when;
//! - `corrupt`: everything else.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use super::history::{Layering, StepRow, nanos_beyond_micros, step_rows};
use super::publish::{drop_superseded_rows, plan_for_bulk};
use super::{Run, Session, StoreError, content, layering, to_micros, uncataloged};
use crate::build_history::{
    BuildHistory, HistoryAnswer, HistoryOutcome, HistoryRequest, RepositoryPath,
};
use crate::run::{Compared, HistoriesCompared, Verdict, VerifiedRun};

/// The latest published run of an instance.
pub async fn verified_run(
    session: &mut Session<'_>,
    instance_id: i32,
) -> Result<Option<VerifiedRun>, StoreError> {
    let query = sqlx::query_as!(
        VerifiedRun,
        "select run_id, started_at, histories_failed + histories_skipped as \"histories_missing!\"
         from swr.sync_run
         where instance_id = $1 and outcome = 'published'
         order by run_id desc
         limit 1",
        instance_id
    );
    session
        .fetch_optional("find the latest published run", query)
        .await
}

/// What is compared with what.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// The run that verifies, and has staged the listing.
    pub run: Run,
    /// The run that is verified.
    pub verified: VerifiedRun,
    /// What the registry dates later than this is explained by a change.
    pub since: DateTime<Utc>,
}

/// Compares the staged listing with the tables, and the tables with each other.
pub async fn compare_listing(
    session: &mut Session<'_>,
    comparison: &Comparison,
) -> Result<Compared, StoreError> {
    let comparison = Comparison {
        since: to_micros(comparison.since),
        ..*comparison
    };
    let Comparison { run, .. } = comparison;
    let mut transaction = session.begin("begin to compare").await?;
    plan_for_bulk(&mut transaction).await?;
    forget_differences(&mut transaction, run).await?;
    drop_superseded_rows(&mut transaction, run).await?;
    compare_namespaces(&mut transaction, comparison).await?;
    compare_repositories(&mut transaction, comparison).await?;
    uncataloged::compare_repositories(&mut transaction, run).await?;
    compare_artifacts(&mut transaction, comparison).await?;
    compare_artifact_runs(&mut transaction, comparison).await?;
    compare_tags(&mut transaction, comparison).await?;
    compare_tag_history(&mut transaction, comparison).await?;
    compare_open_intervals(&mut transaction, comparison).await?;
    find_missing_manifests(&mut transaction, comparison).await?;
    find_missing_content(&mut transaction, comparison).await?;
    layering::compare(&mut transaction, run).await?;
    let compared = count_compared(&mut transaction, run).await?;
    transaction.commit("commit the comparison").await?;
    Ok(compared)
}

/// Keeps the differences of the latest verification only.
async fn forget_differences(session: &mut Session<'_>, run: Run) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "delete from swr.verification_difference where instance_id = $1",
        run.instance_id
    );
    session
        .execute("forget the differences of an earlier verification", query)
        .await?;
    Ok(())
}

async fn compare_namespaces(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison {
        run,
        verified,
        since,
    } = comparison;
    let query = sqlx::query!(
        "with listed as (
             select distinct on (namespace_id) *
             from swr.staged_namespace
             where instance_id = $1 and run_id = $2
             order by namespace_id, row_number desc
         ),
         -- Namespaces in which repositories came or went.
         active as (
             select s.namespace_id
             from swr.staged_repository s
             where s.instance_id = $1 and s.run_id = $2 and s.created_at > $3
             union
             select r.namespace_id
             from swr.repository r
             left join swr.sync_run v on v.instance_id = $1 and v.run_id = $4
             where r.instance_id = $1
               and (r.removed_at = v.listing_started_at
                    or r.removed_at is null
                   and not exists (
                       select from swr.staged_repository s
                       where s.instance_id = $1 and s.run_id = $2 and s.repository_id = r.repository_id
                   ))
         )
         insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'namespace', coalesce(s.namespace_id, n.namespace_id)::text, d.field,
                case when s.namespace_id is null then 'unlisted'
                     when d.is_explained then 'changed'
                     else 'corrupt' end,
                d.stored, d.found
         from listed s
         full join (select * from swr.namespace where instance_id = $1) n on n.namespace_id = s.namespace_id
         left join (select distinct namespace_id from active) x on x.namespace_id = s.namespace_id
         cross join lateral (
             values
                 ('row', case when n.namespace_id is not null then 'present' end,
                  case when s.namespace_id is not null then 'present' end, coalesce(s.created_at > $3, true)),
                 ('removed_at', n.removed_at::text, null, coalesce(s.created_at > $3, true)),
                 ('name', n.name, s.name, false),
                 ('repository_count', n.repository_count::text, s.repository_count::text,
                  s.updated_at > $3 or x.namespace_id is not null),
                 ('metadata', n.metadata::text, s.metadata::text, s.updated_at > $3),
                 ('created_at', n.created_at::text, s.created_at::text, false),
                 ('updated_at', n.updated_at::text, s.updated_at::text, s.updated_at > $3),
                 ('extra', n.extra::text, s.extra::text, true)
         ) d (field, stored, found, is_explained)
         where d.stored is distinct from d.found
           and (s.namespace_id is not null or n.removed_at is null)
           and (d.field = 'row' or (s.namespace_id is not null and n.namespace_id is not null))",
        run.instance_id,
        run.run_id,
        since,
        verified.run_id
    );
    session.execute("compare namespaces", query).await?;
    Ok(())
}

async fn compare_repositories(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison {
        run,
        verified,
        since,
    } = comparison;
    let query = sqlx::query!(
        "with listed as (
             select distinct on (repository_id) *
             from swr.staged_repository
             where instance_id = $1 and run_id = $2
             order by repository_id, row_number desc
         ),
         -- Repositories in which artifacts or tags came, went, or were pulled.
         active as (
             select repository_id
             from swr.staged_artifact
             where instance_id = $1 and run_id = $2 and greatest(pushed_at, pulled_at) > $3
             union
             select repository_id
             from swr.staged_tag
             where instance_id = $1 and run_id = $2 and greatest(pushed_at, pulled_at) > $3
             union
             select a.repository_id
             from swr.artifact a
             where a.instance_id = $1
               and (a.removed_run_id = $4
                    or a.removed_at is null
                   and not exists (
                       select from swr.staged_artifact s
                       where s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
                   ))
             union
             select k.repository_id
             from swr.tag k
             where k.instance_id = $1
               and not exists (
                   select from swr.staged_tag t
                   where t.instance_id = $1 and t.run_id = $2
                     and t.repository_id = k.repository_id and t.name = k.name
               )
         )
         insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'repository', coalesce(s.repository_id, r.repository_id)::text, d.field,
                case when s.repository_id is null then 'unlisted'
                     when d.is_explained then 'changed'
                     else 'corrupt' end,
                d.stored, d.found
         from listed s
         full join (select * from swr.repository where instance_id = $1) r on r.repository_id = s.repository_id
         left join active x on x.repository_id = s.repository_id
         cross join lateral (
             values
                 ('row', case when r.repository_id is not null then 'present' end,
                  case when s.repository_id is not null then 'present' end, coalesce(s.created_at > $3, true)),
                 ('removed_at', r.removed_at::text, null, coalesce(s.created_at > $3, true)),
                 ('namespace_id', r.namespace_id::text, s.namespace_id::text, false),
                 ('namespace_name', r.namespace_name, s.namespace_name, false),
                 ('name', r.name, s.name, false),
                 ('description', r.description, s.description, s.updated_at > $3),
                 ('tag_count', r.tag_count::text, s.tag_count::text,
                  s.updated_at > $3 or x.repository_id is not null),
                 ('artifact_count', r.artifact_count::text, s.artifact_count::text,
                  s.updated_at > $3 or x.repository_id is not null),
                 -- It only grows.
                 ('pull_count', r.pull_count::text, s.pull_count::text, s.pull_count > r.pull_count),
                 ('created_at', r.created_at::text, s.created_at::text, false),
                 ('updated_at', r.updated_at::text, s.updated_at::text, s.updated_at > $3),
                 ('extra', r.extra::text, s.extra::text, true)
         ) d (field, stored, found, is_explained)
         where d.stored is distinct from d.found
           and (s.repository_id is not null
                or r.removed_at is null
               and not exists (
                   select from swr.staged_artifact a
                   where a.instance_id = $1 and a.run_id = $2 and a.repository_id = r.repository_id
               ))
           and (d.field = 'row' or (s.repository_id is not null and r.repository_id is not null))",
        run.instance_id,
        run.run_id,
        since,
        verified.run_id
    );
    session.execute("compare repositories", query).await?;
    Ok(())
}

async fn compare_artifacts(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison { run, since, .. } = comparison;
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'artifact', coalesce(s.artifact_id, a.artifact_id)::text, d.field,
                case when s.artifact_id is null then 'unlisted'
                     when s.pushed_at > $3 or d.is_explained then 'changed'
                     else 'corrupt' end,
                d.stored, d.found
         from (select * from swr.staged_artifact where instance_id = $1 and run_id = $2) s
         full join (select * from swr.artifact where instance_id = $1) a on a.artifact_id = s.artifact_id
         cross join lateral (
             values
                 ('row', case when a.artifact_id is not null then 'present' end,
                  case when s.artifact_id is not null then 'present' end, s.pushed_at is null),
                 ('removed_at', a.removed_at::text, null, false),
                 ('repository_id', a.repository_id::text, s.repository_id::text, false),
                 ('namespace_id', a.namespace_id::text, s.namespace_id::text, false),
                 ('size_bytes', a.size_bytes::text, s.size_bytes::text, false),
                 ('pushed_at', a.pushed_at::text, s.pushed_at::text, false),
                 -- A registry may gather pulls before it notes them.
                 ('pulled_at', a.pulled_at::text, s.pulled_at::text,
                  s.pulled_at > greatest(a.pulled_at, $3::timestamptz - interval '1 hour')),
                 ('digest', a.digest, s.digest, false),
                 ('type', a.type, s.type, false),
                 ('media_type', a.media_type, s.media_type, false),
                 ('manifest_media_type', a.manifest_media_type, s.manifest_media_type, false),
                 ('repository_name', a.repository_name, s.repository_name, false),
                 ('extra', a.extra::text, s.extra::text, true)
         ) d (field, stored, found, is_explained)
         where d.stored is distinct from d.found
           and (s.artifact_id is not null or a.removed_at is null)
           and (d.field = 'row' or (s.artifact_id is not null and a.artifact_id is not null))",
        run.instance_id,
        run.run_id,
        since
    );
    session.execute("compare artifacts", query).await?;
    Ok(())
}

/// The runs that artifacts name are there, and agree with the times.
async fn compare_artifact_runs(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison { run, .. } = comparison;
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'artifact', a.artifact_id::text, d.field, 'corrupt', d.stored, d.found
         from swr.artifact a
         left join swr.sync_run f
           on f.instance_id = $1 and f.run_id = a.first_seen_run_id and f.outcome = 'published'
         left join swr.sync_run g
           on g.instance_id = $1 and g.run_id = a.removed_run_id and g.outcome = 'published'
         cross join lateral (
             values
                 ('first_seen_run_id', a.first_seen_run_id::text, f.run_id::text),
                 ('removed_run_id', a.removed_run_id::text, g.run_id::text),
                 ('removed_at', a.removed_at::text, g.listing_started_at::text)
         ) d (field, stored, found)
         where a.instance_id = $1 and d.stored is distinct from d.found
         on conflict do nothing",
        run.instance_id,
        run.run_id
    );
    session
        .execute("compare artifacts with the runs they name", query)
        .await?;
    Ok(())
}

async fn compare_tags(session: &mut Session<'_>, comparison: Comparison) -> Result<(), StoreError> {
    let Comparison { run, since, .. } = comparison;
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'tag',
                coalesce(t.repository_id, k.repository_id) || ' ' || coalesce(t.name, k.name), d.field,
                case when t.name is null then 'unlisted'
                     when t.pushed_at > $3 or d.is_explained then 'changed'
                     else 'corrupt' end,
                d.stored, d.found
         from (select * from swr.staged_tag where instance_id = $1 and run_id = $2) t
         full join (select * from swr.tag where instance_id = $1) k
           on k.repository_id = t.repository_id and k.name = t.name
         cross join lateral (
             values
                 ('row', case when k.name is not null then 'present' end,
                  case when t.name is not null then 'present' end, t.pushed_at is null),
                 ('artifact_id', k.artifact_id::text, t.artifact_id::text, false),
                 ('tag_id', k.tag_id::text, t.tag_id::text, false),
                 ('pushed_at', k.pushed_at::text, t.pushed_at::text, false),
                 ('pulled_at', k.pulled_at::text, t.pulled_at::text,
                  t.pulled_at > greatest(k.pulled_at, $3::timestamptz - interval '1 hour')),
                 ('extra', k.extra::text, t.extra::text, true)
         ) d (field, stored, found, is_explained)
         where d.stored is distinct from d.found
           and (d.field = 'row' or (t.name is not null and k.name is not null))",
        run.instance_id,
        run.run_id,
        since
    );
    session.execute("compare tags", query).await?;
    Ok(())
}

/// Works out each interval again, as publish did, from the runs and tags it names.
///
/// The start of an interval that is over may have been a push time nobody knows any more; then
/// it must lie between the two listings that saw the tag elsewhere and there.
async fn compare_tag_history(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison { run, .. } = comparison;
    let query = sqlx::query!(
        "with listing as (
             select run_id, listing_started_at as started_at, listing_finished_at as finished_at,
                    coalesce(lag(listing_started_at) over (order by run_id), 'epoch') as previous_started_at
             from swr.sync_run
             where instance_id = $1 and outcome = 'published'
         ),
         span as (
             select h.*,
                    lag(h.valid_to) over w as previous_valid_to,
                    lead(h.valid_from) over w as next_valid_from,
                    lead(h.opened_run_id) over w as next_opened_run_id
             from swr.tag_history h
             where h.instance_id = $1
             window w as (partition by h.repository_id, h.name order by h.valid_from)
         ),
         expected as (
             select h.*, a.digest as artifact_digest, a.repository_id as artifact_repository_id,
                    o.run_id as known_opened_run_id, c.run_id as known_closed_run_id,
                    case
                        when h.valid_to is null and k.pushed_at > o.previous_started_at
                             and k.pushed_at <= o.started_at
                            then greatest(k.pushed_at, h.previous_valid_to)
                        when h.valid_to is null and k.name is not null
                             and (k.pushed_at is null or k.pushed_at <= o.previous_started_at)
                            then greatest(o.started_at, h.previous_valid_to)
                        when h.valid_from > o.previous_started_at
                             and h.valid_from <= greatest(o.finished_at, h.previous_valid_to)
                            then h.valid_from
                        when o.run_id is not null then o.started_at
                        else h.valid_from
                    end as expected_from,
                    case
                        when h.valid_to is null then null
                        when h.next_opened_run_id = h.closed_run_id then h.next_valid_from
                        when c.run_id is not null
                            then greatest(c.started_at, h.valid_from + interval '1 microsecond')
                        else h.valid_to
                    end as expected_to
             from span h
             left join listing o on o.run_id = h.opened_run_id
             left join listing c on c.run_id = h.closed_run_id
             left join swr.artifact a on a.instance_id = $1 and a.artifact_id = h.artifact_id
             left join swr.tag k on k.instance_id = $1 and k.repository_id = h.repository_id and k.name = h.name
         )
         insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'tag_history', h.repository_id || ' ' || h.name || ' ' || h.valid_from, d.field,
                'corrupt', d.stored, d.found
         from expected h
         cross join lateral (
             values
                 ('repository_id', h.repository_id::text, h.artifact_repository_id::text),
                 ('digest', h.digest, h.artifact_digest),
                 ('opened_run_id', h.opened_run_id::text, h.known_opened_run_id::text),
                 ('closed_run_id', coalesce(h.closed_run_id::text, 'open'),
                  case when h.valid_to is null then 'open' else h.known_closed_run_id::text end),
                 ('valid_from', h.valid_from::text, h.expected_from::text),
                 ('valid_to', h.valid_to::text, h.expected_to::text)
         ) d (field, stored, found)
         where d.stored is distinct from d.found",
        run.instance_id,
        run.run_id
    );
    session
        .execute("compare the history of tags", query)
        .await?;
    Ok(())
}

/// Each tag has one open interval, with its digest, and no other interval is open.
async fn compare_open_intervals(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison { run, .. } = comparison;
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'tag_history',
                coalesce(h.repository_id, k.repository_id) || ' ' || coalesce(h.name, k.name), 'open interval',
                'corrupt', h.digest, k.digest
         from (select * from swr.tag_history where instance_id = $1 and valid_to is null) h
         full join (
             select t.repository_id, t.name, a.digest
             from swr.tag t
             join swr.artifact a on a.instance_id = $1 and a.artifact_id = t.artifact_id
             where t.instance_id = $1
         ) k on k.repository_id = h.repository_id and k.name = h.name
         where h.digest is distinct from k.digest",
        run.instance_id,
        run.run_id
    );
    session
        .execute("compare tags with their history", query)
        .await?;
    Ok(())
}

/// Each artifact's digest was asked for, unless the verified run could not ask for all.
async fn find_missing_manifests(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison { run, verified, .. } = comparison;
    if verified.histories_missing > 0 {
        return Ok(());
    }
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, found)
         select distinct $1::integer, $2::bigint, 'manifest', a.digest, 'row', 'corrupt', 'present'
         from swr.artifact a
         where a.instance_id = $1 and a.removed_at is null
           and not exists (select from swr.manifest m where m.instance_id = $1 and m.digest = a.digest)",
        run.instance_id,
        run.run_id
    );
    session
        .execute("look for manifests that are missing", query)
        .await?;
    Ok(())
}

/// Whatever a history names is there.
async fn find_missing_content(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<(), StoreError> {
    let Comparison { run, .. } = comparison;
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, found)
         select $1, $2, w.table_name, w.id::text, 'row', 'corrupt', 'present'
         from (
             select 'build_step' as table_name, e.build_step_id as id
             from swr.manifest m
             cross join lateral unnest(m.build_step_ids) as e (build_step_id)
             where m.instance_id = $1
               and not exists (
                   select from swr.build_step s where s.instance_id = $1 and s.build_step_id = e.build_step_id
               )
             union
             select 'command', s.command_id
             from swr.build_step s
             where s.instance_id = $1 and s.command_id is not null
               and not exists (
                   select from swr.command c where c.instance_id = $1 and c.command_id = s.command_id
               )
             union
             select 'layer', s.layer_id
             from swr.build_step s
             where s.instance_id = $1 and s.layer_id is not null
               and not exists (
                   select from swr.layer l where l.instance_id = $1 and l.layer_id = s.layer_id
               )
             union
             select 'media_type', s.media_type_id
             from swr.build_step s
             where s.instance_id = $1 and s.media_type_id is not null
               and not exists (
                   select from swr.media_type t where t.instance_id = $1 and t.media_type_id = s.media_type_id
               )
         ) w",
        run.instance_id,
        run.run_id
    );
    session
        .execute("look for content that is missing", query)
        .await?;
    Ok(())
}

async fn count_compared(session: &mut Session<'_>, run: Run) -> Result<Compared, StoreError> {
    let query = sqlx::query_as!(
        Compared,
        r#"select
               (
                   select count(*)
                   from swr.staged_artifact s
                   join swr.artifact a on a.instance_id = $1 and a.artifact_id = s.artifact_id
                   where s.instance_id = $1 and s.run_id = $2
               ) as "artifacts!",
               (
                   select count(*)
                   from swr.staged_tag t
                   join swr.tag k on k.instance_id = $1 and k.repository_id = t.repository_id and k.name = t.name
                   where t.instance_id = $1 and t.run_id = $2
               ) as "tags!""#,
        run.instance_id,
        run.run_id
    );
    session.fetch_one("count what was compared", query).await
}

/// The next digests in order whose histories can be verified, with the names to ask by.
///
/// Digests are as good as random, so that those that follow upon any one are a fair sample.
pub async fn histories_to_verify(
    session: &mut Session<'_>,
    run: Run,
    after: &str,
    limit: i64,
) -> Result<Vec<HistoryRequest>, StoreError> {
    let query = sqlx::query!(
        r#"select distinct on (a.digest) a.digest as "digest!", r.namespace_name as "namespace?", r.name as "name?"
           from (
               select distinct on (digest) digest, repository_id
               from swr.artifact
               where instance_id = $1 and removed_at is null and digest > $3
               order by digest, artifact_id desc
               limit $4
           ) a
           left join swr.staged_repository r
             on r.instance_id = $1 and r.run_id = $2 and r.repository_id = a.repository_id
           order by a.digest, r.row_number desc nulls last"#,
        run.instance_id,
        run.run_id,
        after,
        limit
    );
    let rows = session
        .fetch_all("choose histories to verify", query)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| HistoryRequest {
            digest: row.digest,
            repository: row
                .namespace
                .zip(row.name)
                .map(|(namespace, name)| RepositoryPath { namespace, name }),
        })
        .collect())
}

/// Compares histories with what is stored under their digests: the steps by their names, and
/// the content under those names, too.
pub async fn compare_histories(
    session: &mut Session<'_>,
    run: Run,
    answers: &[HistoryAnswer],
) -> Result<HistoriesCompared, StoreError> {
    let digests: Vec<&str> = answers
        .iter()
        .map(|answer| answer.digest.as_str())
        .collect();
    let manifests = stored_manifests(session, run, &digests).await?;
    let steps = stored_steps(session, run, &digests).await?;
    let mut counts = HistoriesCompared::default();
    let mut found = Differences(Vec::new());
    for HistoryAnswer { digest, outcome } in answers {
        let (word, history) = match outcome {
            HistoryOutcome::Stored(history) => ("stored", Some(history)),
            HistoryOutcome::Empty(history) => ("empty", Some(history)),
            HistoryOutcome::Unsupported(_) => ("unsupported", None),
            HistoryOutcome::Forbidden(_) | HistoryOutcome::Gone(_) | HistoryOutcome::Failed(_) => {
                counts.unavailable += 1;
                continue;
            }
        };
        // One that is missing was found before.
        let Some(manifest) = manifests.get(digest) else {
            continue;
        };
        counts.compared += 1;
        if manifest.outcome != word {
            found.add(Difference {
                // A run will ask again.
                is_explained: manifest.is_waiting,
                ..Difference::new(
                    "manifest",
                    digest,
                    "outcome",
                    Some(manifest.outcome.clone()),
                    Some(word.to_owned()),
                )
            });
        }
        if manifest.is_waiting {
            continue;
        }
        let steps = steps.get(digest).map_or(&[][..], Vec::as_slice);
        if let Some(history) = history {
            let expected: Vec<StepRow<'_>> = step_rows(&history.steps).collect();
            compare_manifest(&mut found, digest, manifest, history);
            if word == "stored" && manifest.outcome == word {
                compare_layering(&mut found, digest, manifest, Layering::of(&expected));
            }
            compare_steps(&mut found, digest, steps, &expected);
        }
    }
    record_differences(session, run, &found.0).await?;
    Ok(counts)
}

fn compare_manifest(
    found: &mut Differences,
    digest: &str,
    stored: &StoredManifest,
    history: &BuildHistory,
) {
    found.compare(
        "manifest",
        digest,
        "reported_total",
        stored.reported_total,
        history.reported_total,
    );
    found.compare(
        "manifest",
        digest,
        "extra",
        stored.extra.clone(),
        history.extra.clone().map(Value::from),
    );
}

fn compare_layering(
    found: &mut Differences,
    digest: &str,
    stored: &StoredManifest,
    expected: Layering,
) {
    let text = |ids: &[Uuid]| {
        let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        format!("{{{}}}", ids.join(","))
    };
    found.compare(
        "manifest",
        digest,
        "layer_bytes",
        stored.layer_bytes,
        Some(expected.layer_bytes),
    );
    for (field, stored, expected) in [
        ("layer_ids", &stored.layer_ids, expected.layer_ids),
        ("chain_ids", &stored.chain_ids, expected.chain_ids),
    ] {
        let stored = stored.as_deref().map(text);
        found.compare("manifest", digest, field, stored, Some(text(&expected)));
    }
}

fn compare_steps(
    found: &mut Differences,
    digest: &str,
    stored: &[StoredStep],
    expected: &[StepRow<'_>],
) {
    for index in 0..expected.len().max(stored.len()) {
        let (expected, stored) = (expected.get(index), stored.get(index));
        let ids = (
            stored.map(|step| step.build_step_id),
            expected.map(|step| step.build_step_id),
        );
        if ids.0 != ids.1 {
            let row_key = format!("{digest} {}", index + 1);
            found.compare("manifest", &row_key, "build_step_ids", ids.0, ids.1);
        } else if let Some((expected, stored)) = expected.zip(stored) {
            compare_step(found, stored, expected);
        }
    }
}

/// What is stored under the name of a step. Where a row is missing altogether, that was found
/// before.
fn compare_step(found: &mut Differences, stored: &StoredStep, expected: &StepRow<'_>) {
    let Some(empty_layer) = stored.empty_layer else {
        return;
    };
    let step = expected.step;
    let id = expected.build_step_id.to_string();
    let at = |time: DateTime<Utc>| time.to_rfc3339();
    let mut compare = |field, stored: Option<String>, expected: Option<String>| {
        found.compare("build_step", &id, field, stored, expected);
    };
    let text = |id: Option<Uuid>| id.map(|id| id.to_string());
    compare(
        "created_at",
        stored.created_at.map(at),
        step.created_at.map(to_micros).map(at),
    );
    compare(
        "created_at_ns",
        stored.created_at_ns.map(|nanos| nanos.to_string()),
        step.created_at
            .map(|time| nanos_beyond_micros(time).to_string()),
    );
    compare(
        "command_id",
        text(stored.command_id),
        text(expected.command_id),
    );
    compare("layer_id", text(stored.layer_id), text(expected.layer_id));
    compare(
        "media_type_id",
        text(stored.media_type_id),
        text(expected.media_type_id),
    );
    compare("chain_id", text(stored.chain_id), text(expected.chain_id));
    compare(
        "empty_layer",
        Some(empty_layer.to_string()),
        Some(step.empty_layer.to_string()),
    );
    compare(
        "extra",
        stored.extra.as_ref().map(Value::to_string),
        step.extra
            .clone()
            .map(|extra| Value::from(extra).to_string()),
    );
    // A command may carry secrets, so it is shown by the name of its content.
    if let (Some(id), Some(command)) = (expected.command_id, &stored.command)
        && stored.command_id == expected.command_id
    {
        found.compare(
            "command",
            &id.to_string(),
            "command",
            Some(content::command_id(command)),
            Some(id),
        );
    }
    let Some(layer) = &step.layer else { return };
    if let Some(digest) = &stored.layer_digest
        && stored.layer_id == expected.layer_id
    {
        found.compare(
            "layer",
            &layer.digest,
            "digest",
            Some(digest.clone()),
            Some(layer.digest.clone()),
        );
        found.compare(
            "layer",
            &layer.digest,
            "size_bytes",
            stored.size_bytes,
            layer.size_bytes,
        );
    }
    if let Some(media_type) = &stored.media_type
        && stored.media_type_id == expected.media_type_id
    {
        let id = expected
            .media_type_id
            .map(|id| id.to_string())
            .unwrap_or_default();
        found.compare(
            "media_type",
            &id,
            "media_type",
            Some(media_type.clone()),
            layer.media_type.clone(),
        );
    }
}

/// A value that is not what it should be.
struct Difference {
    table: &'static str,
    row_key: String,
    field: &'static str,
    stored: Option<String>,
    found: Option<String>,
    is_explained: bool,
}

impl Difference {
    fn new(
        table: &'static str,
        row_key: &str,
        field: &'static str,
        stored: Option<String>,
        found: Option<String>,
    ) -> Difference {
        Difference {
            table,
            row_key: row_key.to_owned(),
            field,
            stored,
            found,
            is_explained: false,
        }
    }
}

struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, difference: Difference) {
        self.0.push(difference);
    }

    fn compare<T: PartialEq + ToString>(
        &mut self,
        table: &'static str,
        row_key: &str,
        field: &'static str,
        stored: Option<T>,
        found: Option<T>,
    ) {
        if stored != found {
            let text = |value: Option<T>| value.map(|value| value.to_string());
            self.add(Difference::new(
                table,
                row_key,
                field,
                text(stored),
                text(found),
            ));
        }
    }
}

struct StoredManifest {
    outcome: String,
    is_waiting: bool,
    reported_total: Option<i64>,
    layer_bytes: Option<i64>,
    layer_ids: Option<Vec<Uuid>>,
    chain_ids: Option<Vec<Uuid>>,
    extra: Option<Value>,
}

async fn stored_manifests(
    session: &mut Session<'_>,
    run: Run,
    digests: &[&str],
) -> Result<HashMap<String, StoredManifest>, StoreError> {
    let query = sqlx::query!(
        r#"select digest, outcome, next_attempt_at is not null as "is_waiting!", reported_total, layer_bytes,
                  layer_ids, chain_ids, extra
           from swr.manifest
           where instance_id = $1 and digest = any($2)"#,
        run.instance_id,
        digests as _
    );
    let rows = session.fetch_all("read manifests to verify", query).await?;
    let manifests = rows.into_iter().map(|row| {
        let manifest = StoredManifest {
            outcome: row.outcome,
            is_waiting: row.is_waiting,
            reported_total: row.reported_total,
            layer_bytes: row.layer_bytes,
            layer_ids: row.layer_ids,
            chain_ids: row.chain_ids,
            extra: row.extra,
        };
        (row.digest, manifest)
    });
    Ok(manifests.collect())
}

struct StoredStep {
    build_step_id: Uuid,
    created_at: Option<DateTime<Utc>>,
    created_at_ns: Option<i16>,
    command_id: Option<Uuid>,
    layer_id: Option<Uuid>,
    media_type_id: Option<Uuid>,
    chain_id: Option<Uuid>,
    /// `None` if the step has no row.
    empty_layer: Option<bool>,
    extra: Option<Value>,
    command: Option<String>,
    layer_digest: Option<String>,
    size_bytes: Option<i64>,
    media_type: Option<String>,
}

/// The steps of each digest, in order.
async fn stored_steps(
    session: &mut Session<'_>,
    run: Run,
    digests: &[&str],
) -> Result<HashMap<String, Vec<StoredStep>>, StoreError> {
    let query = sqlx::query!(
        r#"select
               m.digest, e.build_step_id as "build_step_id!",
               s.created_at as "created_at?", s.created_at_ns as "created_at_ns?", s.command_id as "command_id?",
               s.layer_id as "layer_id?", s.media_type_id as "media_type_id?", s.chain_id as "chain_id?",
               s.empty_layer as "empty_layer?", s.extra as "extra?", c.command as "command?",
               l.digest as "layer_digest?", l.size_bytes as "size_bytes?", t.media_type as "media_type?"
           from swr.manifest m
           cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
           left join swr.build_step s on s.instance_id = $1 and s.build_step_id = e.build_step_id
           left join swr.command c on c.instance_id = $1 and c.command_id = s.command_id
           left join swr.layer l on l.instance_id = $1 and l.layer_id = s.layer_id
           left join swr.media_type t on t.instance_id = $1 and t.media_type_id = s.media_type_id
           where m.instance_id = $1 and m.digest = any($2)
           order by m.digest, e.position"#,
        run.instance_id,
        digests as _
    );
    let rows = session
        .fetch_all("read build steps to verify", query)
        .await?;
    let mut steps: HashMap<String, Vec<StoredStep>> = HashMap::new();
    for row in rows {
        steps.entry(row.digest).or_default().push(StoredStep {
            build_step_id: row.build_step_id,
            created_at: row.created_at,
            created_at_ns: row.created_at_ns,
            command_id: row.command_id,
            layer_id: row.layer_id,
            media_type_id: row.media_type_id,
            chain_id: row.chain_id,
            empty_layer: row.empty_layer,
            extra: row.extra,
            command: row.command,
            layer_digest: row.layer_digest,
            size_bytes: row.size_bytes,
            media_type: row.media_type,
        });
    }
    Ok(steps)
}

/// Documents are compared by the database, which writes numbers in a form of its own.
async fn record_differences(
    session: &mut Session<'_>,
    run: Run,
    differences: &[Difference],
) -> Result<(), StoreError> {
    if differences.is_empty() {
        return Ok(());
    }
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, d.table_name, d.row_key, d.field,
                case when d.is_explained then 'changed' else 'corrupt' end, d.stored, d.found
         from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[])
              as d (table_name, row_key, field, stored, found, is_explained)
         where case when d.field = 'extra' then d.stored::jsonb is distinct from d.found::jsonb else true end
         -- A shared step, command or layer differs in each history that names it.
         on conflict do nothing",
        run.instance_id,
        run.run_id,
        differences.iter().map(|d| d.table).bind_iter() as _,
        differences.iter().map(|d| d.row_key.as_str()).bind_iter() as _,
        differences.iter().map(|d| d.field).bind_iter() as _,
        differences.iter().map(|d| d.stored.as_deref()).bind_iter() as _,
        differences.iter().map(|d| d.found.as_deref()).bind_iter() as _,
        differences.iter().map(|d| d.is_explained).bind_iter() as _
    );
    session.execute("record differences", query).await?;
    Ok(())
}

/// Records what was compared and found, drops what was staged, and gives the verdict.
pub async fn record_verification(
    session: &mut Session<'_>,
    comparison: &Comparison,
    compared: Compared,
    histories: HistoriesCompared,
    now: DateTime<Utc>,
) -> Result<Verdict, StoreError> {
    let Comparison { run, verified, .. } = comparison;
    let query = sqlx::query_as!(
        Verdict,
        r#"with kind as (
               select verdict, table_name || '.' || field as name, count(*) as differences
               from swr.verification_difference
               where instance_id = $1 and run_id = $2
               group by verdict, table_name, field
           ),
           total as (
               select
                   coalesce(sum(differences) filter (where verdict = 'corrupt'), 0)::bigint as corrupt,
                   coalesce(sum(differences) filter (where verdict = 'changed'), 0)::bigint as changed,
                   coalesce(sum(differences) filter (where verdict = 'unlisted'), 0)::bigint as unlisted
               from kind
           ),
           document as (
               select coalesce(jsonb_object_agg(k.verdict, k.kinds), '{}') as differences
               from (select verdict, jsonb_object_agg(name, differences) as kinds from kind group by verdict) k
           )
           insert into swr.verification
               (instance_id, run_id, verified_run_id, started_at, finished_at, outcome, artifacts_compared,
                tags_compared, histories_compared, histories_unavailable, corrupt, changed, unlisted, differences)
           select $1, $2, $3, $4, $5, case when t.corrupt > 0 then 'corrupt' else 'intact' end, $6, $7, $8, $9,
                  t.corrupt, t.changed, t.unlisted, d.differences
           from total t
           cross join document d
           returning corrupt, changed, unlisted"#,
        run.instance_id,
        run.run_id,
        verified.run_id,
        run.started_at,
        to_micros(now),
        compared.artifacts,
        compared.tags,
        histories.compared,
        histories.unavailable
    );
    let verdict = session.fetch_one("record the verification", query).await?;
    super::stage::clear(session, run.instance_id).await?;
    Ok(verdict)
}
