//! Detects rows that a complete listing may have missed.
//!
//! The order of the registry's listing is not documented. If pages start at an offset, a deletion shifts
//! the rows after it, and the first row of the next page is missing. So before artifacts are marked as
//! removed, the number of missing ones is compared with the catalog's counts.

use super::{Run, Session, StoreError, publish};

/// Whether a published row is missing from the staged rows without proof that it was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtfulRemovals {
    /// A repository or namespace is missing from the catalog.
    pub catalog: bool,
    /// An artifact is missing from the listing, and the catalog's count of its repository did not change
    /// by the same number as the listing.
    pub artifacts: bool,
}

/// Looks for missing rows that may still exist.
///
/// Missing artifacts of a repository are considered deleted if the catalog's count changed since the
/// last publish by the same number as the listing: new artifacts minus missing ones. If the listing
/// missed an artifact, the count is too high by one. Changes are compared instead of totals, because the
/// catalog may count artifacts that the list does not show, such as signatures. The count must be older
/// than the listing, so the first count of the run is used, and only artifacts that were pushed
/// between the two counts are new. If a count is missing or too late, the removals are doubtful.
pub async fn doubtful_removals(
    session: &mut Session<'_>,
    run: Run,
) -> Result<DoubtfulRemovals, StoreError> {
    let mut transaction = session.begin("begin to look for what is missing").await?;
    publish::plan_for_bulk(&mut transaction).await?;
    let query = sqlx::query_as!(
        DoubtfulRemovals,
        r#"with lacking as materialized (
               select distinct a.repository_id
               from swr.artifact a
               where a.instance_id = $1 and a.removed_at is null
                 and not exists (
                     select from swr.staged_artifact s
                     where s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
                 )
           ),
           catalog as (
               select distinct on (s.repository_id)
                   s.repository_id,
                   s.artifact_count::numeric - r.artifact_count as count_change,
                   r.updated_at as previously_updated_at,
                   s.updated_at
               from swr.staged_repository s
               join lacking l on l.repository_id = s.repository_id
               left join swr.repository r on r.instance_id = $1 and r.repository_id = s.repository_id
               where s.instance_id = $1 and s.run_id = $2
               order by s.repository_id, s.row_number
           ),
           missing as (
               select a.repository_id, count(*) as artifacts
               from swr.artifact a
               join lacking l on l.repository_id = a.repository_id
               where a.instance_id = $1 and a.removed_at is null
                 and not exists (
                     select from swr.staged_artifact s
                     where s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
                       and s.repository_id = a.repository_id
                 )
               group by a.repository_id
           ),
           added as (
               select c.repository_id, count(distinct s.artifact_id) as artifacts
               from catalog c
               join swr.staged_artifact s
                 on s.instance_id = $1 and s.run_id = $2 and s.repository_id = c.repository_id
               where s.pushed_at > c.previously_updated_at and s.pushed_at <= c.updated_at
                 and not exists (
                     select from swr.artifact a
                     where a.instance_id = $1 and a.artifact_id = s.artifact_id
                       and a.repository_id = s.repository_id and a.removed_at is null
                 )
               group by c.repository_id
           )
           select
               exists (
                   select
                   from swr.repository r
                   where r.instance_id = $1 and r.removed_at is null
                     and not exists (
                         select from swr.staged_repository s
                         where s.instance_id = $1 and s.run_id = $2 and s.repository_id = r.repository_id
                     )
                     -- The catalog may never have named it; it stays as long as an artifact does.
                     and not exists (
                         select from swr.staged_artifact a
                         where a.instance_id = $1 and a.run_id = $2 and a.repository_id = r.repository_id
                     )
               ) or exists (
                   select
                   from swr.namespace n
                   where n.instance_id = $1 and n.removed_at is null
                     and not exists (
                         select from swr.staged_namespace s
                         where s.instance_id = $1 and s.run_id = $2 and s.namespace_id = n.namespace_id
                     )
               ) as "catalog!",
               exists (
                   select
                   from catalog c
                   join missing m on m.repository_id = c.repository_id
                   left join added n on n.repository_id = c.repository_id
                   where c.count_change is distinct from coalesce(n.artifacts, 0) - m.artifacts
               ) as "artifacts!""#,
        run.instance_id,
        run.run_id
    );
    let doubts = transaction.fetch_one("find missing rows", query).await?;
    transaction
        .commit("end looking for what is missing")
        .await?;
    Ok(doubts)
}
