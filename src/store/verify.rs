//! Verification: the tables compared with a staged listing and with histories fetched again.
//!
//! Verification does not change the verified tables. Statements that compare whole tables write the
//! differences to a separate table, so the memory does not depend on the size of the registry or the
//! number of differences. Each difference has one of three verdicts:
//!
//! - `changed`: a time in the listing shows that the change happened after the verified run began, or the
//!   registry uses the id for another artifact, with another digest and push time, for example after it was
//!   restored from a backup;
//! - `unlisted`: the registry no longer lists the row, and the time of its removal is unknown;
//! - `corrupt`: all other differences.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgBindIterExt;
use sqlx::types::Json;
use uuid::Uuid;

use super::history::{Batch, Known, nanos_beyond_micros};
use super::publish::{drop_superseded_rows, plan_for_bulk};
use super::{Run, Session, StoreError, layering, to_micros, uncataloged};
use crate::build_history::{HistoryAnswer, HistoryOutcome};
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

/// The two sides of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// The verifying run. It has staged the listing.
    pub run: Run,
    /// The run that is verified.
    pub verified: VerifiedRun,
    /// Differences with a later time in the registry are changes.
    pub since: DateTime<Utc>,
}

/// Compares the staged listing with the tables, and the tables with each other.
pub async fn compare_listing(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<Compared, StoreError> {
    let run = comparison.run;
    let mut transaction = session.begin("begin to compare").await?;
    plan_for_bulk(&mut transaction).await?;
    forget_differences(&mut transaction, run).await?;
    drop_superseded_rows(&mut transaction, run).await?;
    compare_namespaces(&mut transaction, comparison).await?;
    compare_repositories(&mut transaction, comparison).await?;
    uncataloged::compare_repositories(&mut transaction, run).await?;
    compare_artifacts(&mut transaction, comparison).await?;
    compare_artifact_runs(&mut transaction, run).await?;
    compare_tags(&mut transaction, comparison).await?;
    compare_tag_history(&mut transaction, run).await?;
    compare_open_intervals(&mut transaction, run).await?;
    find_missing_manifests(&mut transaction, comparison).await?;
    find_missing_content(&mut transaction, run).await?;
    layering::compare(&mut transaction, run).await?;
    let compared = count_compared(&mut transaction, run).await?;
    transaction.commit("commit the comparison").await?;
    Ok(compared)
}

/// Deletes the differences of earlier verifications.
async fn forget_differences(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "delete from swr.verification_difference where instance_id = $1",
        run.instance_id
    );
    session
        .execute("forget the differences of an earlier verification", query)
        .await
}

async fn compare_namespaces(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<u64, StoreError> {
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
    session.execute("compare namespaces", query).await
}

async fn compare_repositories(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<u64, StoreError> {
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
             select unnest(array[a.repository_id, s.repository_id])
             from swr.artifact a
             join swr.staged_artifact s
               on s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
             where a.instance_id = $1 and s.digest <> a.digest and s.pushed_at is distinct from a.pushed_at
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
    session.execute("compare repositories", query).await
}

async fn compare_artifacts(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<u64, StoreError> {
    let Comparison { run, since, .. } = comparison;
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'artifact', coalesce(s.artifact_id, a.artifact_id)::text, d.field,
                case when s.artifact_id is null then 'unlisted'
                     when s.pushed_at > $3 or d.is_explained then 'changed'
                     when s.digest <> a.digest and s.pushed_at is distinct from a.pushed_at then 'changed'
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
    session.execute("compare artifacts", query).await
}

/// Checks that the runs that artifacts refer to exist, and that the times are consistent with them.
async fn compare_artifact_runs(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
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
        .await
}

async fn compare_tags(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<u64, StoreError> {
    let Comparison { run, since, .. } = comparison;
    let query = sqlx::query!(
        "with reused as (
             select a.artifact_id
             from swr.artifact a
             join swr.staged_artifact s
               on s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
             where a.instance_id = $1 and s.digest <> a.digest and s.pushed_at is distinct from a.pushed_at
         )
         insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, 'tag',
                coalesce(t.repository_id, k.repository_id) || ' ' || coalesce(t.name, k.name), d.field,
                case when t.name is null then 'unlisted'
                     when t.pushed_at > $3 or d.is_explained then 'changed'
                     when x.artifact_id is not null or y.artifact_id is not null then 'changed'
                     else 'corrupt' end,
                d.stored, d.found
         from (select * from swr.staged_tag where instance_id = $1 and run_id = $2) t
         full join (select * from swr.tag where instance_id = $1) k
           on k.repository_id = t.repository_id and k.name = t.name
         left join reused x on x.artifact_id = t.artifact_id
         left join reused y on y.artifact_id = k.artifact_id
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
    session.execute("compare tags", query).await
}

/// Computes each interval again, with the rules of publish, from the runs and tags that it refers to.
///
/// The start of an ended interval may be a push time that is no longer stored. Then it must be between
/// the last listing with the earlier digest and the first listing with this one.
async fn compare_tag_history(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
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
             select h.*,
                    -- The artifact may have had another digest, or been in another repository, until a later run.
                    case when h.valid_to is null or a.digest = h.digest then a.digest
                         when exists (
                             select from swr.artifact_change x
                             where x.instance_id = $1 and x.artifact_id = h.artifact_id
                               and x.previous->>'digest' = h.digest
                         ) then h.digest
                         else a.digest end as artifact_digest,
                    case when h.valid_to is null or a.repository_id = h.repository_id then a.repository_id
                         when exists (
                             select from swr.artifact_change x
                             where x.instance_id = $1 and x.artifact_id = h.artifact_id
                               and x.previous->>'repository_id' = h.repository_id::text
                         ) then h.repository_id
                         else a.repository_id end as artifact_repository_id,
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
    session.execute("compare the history of tags", query).await
}

/// Checks that each tag has one open interval with its digest, and that no other interval is open.
async fn compare_open_intervals(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
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
        .await
}

/// Checks that the build history of each artifact was requested, unless the verified run could not
/// request all.
async fn find_missing_manifests(
    session: &mut Session<'_>,
    comparison: Comparison,
) -> Result<u64, StoreError> {
    let Comparison { run, verified, .. } = comparison;
    if verified.histories_missing > 0 {
        return Ok(0);
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
    session.execute("find missing manifests", query).await
}

/// Checks that all rows that a history refers to exist.
async fn find_missing_content(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
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
    session.execute("find missing content", query).await
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

/// The next digests in order whose histories can be verified, each with a repository that holds it.
///
/// Digests are practically random, so consecutive digests are a fair sample.
pub async fn histories_to_verify(
    session: &mut Session<'_>,
    run: Run,
    after: &str,
    limit: i64,
) -> Result<Vec<(String, i64)>, StoreError> {
    let query = sqlx::query!(
        "select distinct on (digest) digest, repository_id
         from swr.artifact
         where instance_id = $1 and removed_at is null and digest > $2
         order by digest, artifact_id desc
         limit $3",
        run.instance_id,
        after,
        limit
    )
    .map(|row| (row.digest, row.repository_id));
    session.fetch_all("choose histories to verify", query).await
}

/// Compares histories with the stored rows of their digests: with the rows that storing them again
/// would write.
pub async fn compare_histories(
    session: &mut Session<'_>,
    run: Run,
    answers: &[HistoryAnswer],
) -> Result<HistoriesCompared, StoreError> {
    let (mut expected, mut unavailable) = (Batch::default(), 0);
    for answer in answers {
        match answer.outcome {
            HistoryOutcome::Stored(_)
            | HistoryOutcome::Empty(_)
            | HistoryOutcome::Unsupported(_) => expected.add(answer, &Known::default()),
            HistoryOutcome::Forbidden(_) | HistoryOutcome::Gone(_) | HistoryOutcome::Failed(_) => {
                unavailable += 1;
            }
        }
    }
    let compared = compare_manifests(session, run, &expected).await?;
    compare_content(session, run, &expected).await?;
    Ok(HistoriesCompared {
        compared,
        unavailable,
    })
}

/// Several lists of ids in one list. `first` and `last` are the inclusive positions of each list, from 1
/// as in PostgreSQL.
#[derive(Default)]
struct IdLists {
    ids: Vec<Uuid>,
    first: Vec<i32>,
    last: Vec<i32>,
}

impl IdLists {
    fn push(&mut self, ids: Option<&Vec<Uuid>>) {
        self.first.push(self.ids.len() as i32 + 1);
        self.ids.extend(ids.into_iter().flatten());
        self.last.push(self.ids.len() as i32);
    }
}

/// Compares manifests. Missing manifests are already recorded. A manifest that waits for another request
/// is no difference, and has nothing to compare.
async fn compare_manifests(
    session: &mut Session<'_>,
    run: Run,
    expected: &Batch<'_>,
) -> Result<i64, StoreError> {
    let manifests = &expected.manifests;
    let [mut steps, mut layers, mut chains] = <[IdLists; 3]>::default();
    for manifest in manifests {
        let stored = manifest.steps.as_ref();
        steps.push(stored.map(|(step_ids, _)| step_ids));
        layers.push(stored.map(|(_, layering)| &layering.layer_ids));
        chains.push(stored.map(|(_, layering)| &layering.chain_ids));
    }
    let query = sqlx::query!(
        r#"with compared as (
               select e.*, m.outcome as stored_outcome, m.reported_total as stored_total,
                      m.layer_bytes as stored_bytes, m.build_step_ids, m.layer_ids, m.chain_ids,
                      m.extra as stored_extra, m.next_attempt_at is not null as is_waiting,
                      m.next_attempt_at is null and e.outcome <> 'unsupported' as has_history,
                      m.next_attempt_at is null and e.outcome = 'stored' and m.outcome = 'stored' as has_layers
               from unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::integer[], $8::integer[],
                           $9::integer[], $10::integer[], $11::integer[], $12::integer[], $13::jsonb[])
                    as e (digest, outcome, reported_total, layer_bytes, first_step, last_step, first_layer, last_layer,
                          first_chain, last_chain, extra)
               cross join lateral (select * from swr.manifest m where m.instance_id = $1 and m.digest = e.digest limit 1) m
           ),
           different as (
               insert into swr.verification_difference
                   (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
               select $1, $2, 'manifest', d.row_key, d.field, case when c.is_waiting then 'changed' else 'corrupt' end,
                      d.stored, d.found
               from compared c
               cross join lateral (
                   values
                       (c.digest, 'outcome', c.stored_outcome, c.outcome, true),
                       (c.digest, 'reported_total', c.stored_total::text, c.reported_total::text, c.has_history),
                       (c.digest, 'extra', c.stored_extra::text, c.extra::text, c.has_history),
                       (c.digest, 'layer_bytes', c.stored_bytes::text, c.layer_bytes::text, c.has_layers),
                       (c.digest, 'layer_ids', c.layer_ids::text,
                        (($15::uuid[])[c.first_layer:c.last_layer])::text, c.has_layers),
                       (c.digest, 'chain_ids', c.chain_ids::text,
                        (($16::uuid[])[c.first_chain:c.last_chain])::text, c.has_layers)
                   union all
                   select c.digest || ' ' || position, 'build_step_ids', k.id::text, e.id::text, c.has_history
                   from unnest(c.build_step_ids) with ordinality as k (id, position)
                   full join unnest(($14::uuid[])[c.first_step:c.last_step]) with ordinality as e (id, position)
                       using (position)
               ) d (row_key, field, stored, found, is_compared)
               where d.is_compared and d.stored is distinct from d.found
           )
           select count(*) as "compared!" from compared"#,
        run.instance_id,
        run.run_id,
        manifests.iter().map(|m| m.digest).bind_iter() as _,
        manifests.iter().map(|m| m.outcome).bind_iter() as _,
        manifests.iter().map(|m| m.history.and_then(|history| history.reported_total)).bind_iter() as _,
        manifests
            .iter()
            .map(|m| m.steps.as_ref().map(|(_, layering)| layering.layer_bytes))
            .bind_iter() as _,
        &steps.first,
        &steps.last,
        &layers.first,
        &layers.last,
        &chains.first,
        &chains.last,
        manifests
            .iter()
            .map(|m| m.history.and_then(|history| history.extra.as_ref()).map(Json))
            .bind_iter() as _,
        &steps.ids,
        &layers.ids,
        &chains.ids
    )
    .map(|row| row.compared);
    session.fetch_one("compare manifests", query).await
}

/// Compares the rows of steps, commands, layers and media types by id. Missing rows are already recorded.
async fn compare_content(
    session: &mut Session<'_>,
    run: Run,
    expected: &Batch<'_>,
) -> Result<u64, StoreError> {
    let Batch {
        commands,
        media_types,
        layers,
        steps,
        ..
    } = expected;
    let query = sqlx::query!(
        "with compared (table_name, row_key, stored, found) as (
             select 'build_step', e.build_step_id::text, to_jsonb(s), to_jsonb(e)
             from unnest($3::uuid[], $4::timestamptz[], $5::smallint[], $6::uuid[], $7::uuid[], $8::uuid[], $9::uuid[],
                         $10::boolean[], $11::jsonb[])
                  as e (build_step_id, created_at, created_at_ns, command_id, layer_id, media_type_id, chain_id,
                        empty_layer, extra)
             cross join lateral (select * from swr.build_step s where s.instance_id = $1 and s.build_step_id = e.build_step_id limit 1) s
             union all
             -- A command may carry secrets.
             select 'command', e.command_id::text,
                    jsonb_build_object('command', encode(sha256(convert_to(c.command, 'UTF8')), 'hex')),
                    jsonb_build_object('command', encode(sha256(convert_to(e.command, 'UTF8')), 'hex'))
             from unnest($12::uuid[], $13::text[]) as e (command_id, command)
             cross join lateral (select * from swr.command c where c.instance_id = $1 and c.command_id = e.command_id limit 1) c
             union all
             select 'layer', e.digest, to_jsonb(l), to_jsonb(e)
             from unnest($14::uuid[], $15::text[], $16::bigint[]) as e (layer_id, digest, size_bytes)
             cross join lateral (select * from swr.layer l where l.instance_id = $1 and l.layer_id = e.layer_id limit 1) l
             union all
             select 'media_type', e.media_type_id::text, to_jsonb(t), to_jsonb(e)
             from unnest($17::uuid[], $18::text[]) as e (media_type_id, media_type)
             cross join lateral (select * from swr.media_type t where t.instance_id = $1 and t.media_type_id = e.media_type_id limit 1) t
         )
         insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, c.table_name, c.row_key, f.key, 'corrupt', s.value, f.value
         from compared c
         cross join lateral jsonb_each_text(c.found) f
         join lateral jsonb_each_text(c.stored) s on s.key = f.key
         where s.value is distinct from f.value
         -- A shared step, command or layer differs in each history that names it.
         on conflict do nothing",
        run.instance_id,
        run.run_id,
        steps.iter().map(|s| s.build_step_id).bind_iter() as _,
        steps.iter().map(|s| s.step.created_at.map(to_micros)).bind_iter() as _,
        steps.iter().map(|s| s.step.created_at.map(nanos_beyond_micros)).bind_iter() as _,
        steps.iter().map(|s| s.command_id).bind_iter() as _,
        steps.iter().map(|s| s.layer_id).bind_iter() as _,
        steps.iter().map(|s| s.media_type_id).bind_iter() as _,
        steps.iter().map(|s| s.chain_id).bind_iter() as _,
        steps.iter().map(|s| s.step.empty_layer).bind_iter() as _,
        steps.iter().map(|s| s.step.extra.as_ref().map(Json)).bind_iter() as _,
        commands.iter().map(|c| c.command_id).bind_iter() as _,
        commands.iter().map(|c| c.command).bind_iter() as _,
        layers.iter().map(|(id, _)| *id).bind_iter() as _,
        layers.iter().map(|(_, layer)| layer.digest.as_str()).bind_iter() as _,
        layers.iter().map(|(_, layer)| layer.size_bytes).bind_iter() as _,
        media_types.iter().map(|(id, _)| *id).bind_iter() as _,
        media_types.iter().map(|(_, text)| *text).bind_iter() as _,
    );
    session.execute("compare build steps", query).await
}

/// Records the result of the comparison, deletes the staged rows, and returns the verdict.
pub async fn record_verification(
    session: &mut Session<'_>,
    comparison: Comparison,
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
