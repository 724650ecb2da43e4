//! What a complete listing may have missed.
//!
//! Nothing says in which order the registry lists. Where a page begins at an offset, deleting
//! something shifts the rows behind it, and the first row of the next page is never seen. So
//! before artifacts are marked as removed, their absence is compared with the catalog's counts.

use super::{Run, Session, StoreError, publish};

/// Whether something that is published is missing from what the run has staged, without proof
/// that it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtfulRemovals {
    /// A repository or namespace is missing from the catalog.
    pub catalog: bool,
    /// An artifact is missing from the listing, and the catalog's count of its repository did not
    /// change by as much as the listing did.
    pub artifacts: bool,
}

/// Looks for removals that may be none.
///
/// The artifacts that a repository lacks are believed to be gone if the catalog's count changed since
/// the last publish by as much as the listing: by the new artifacts less the missing ones. Were one
/// overlooked, the count would be too high by it. Changes are compared, not totals: a catalog may count
/// what the list does not show, such as signatures. The count has to be older than the listing, so the
/// first one of the run is taken, and of new artifacts only those that were pushed between the two
/// counts. A count that is absent, or late, agrees with nothing.
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
    let doubts = transaction
        .fetch_one("look for what is missing", query)
        .await?;
    transaction
        .commit("end looking for what is missing")
        .await?;
    Ok(doubts)
}
