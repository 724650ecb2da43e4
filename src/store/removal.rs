//! What a complete listing may have missed.
//!
//! Nothing says in which order the registry lists. Where a page begins at an offset, deleting
//! something shifts the rows behind it, and the first row of the next page is never seen. So
//! before anything is marked as removed, its absence is checked against the catalog's counts.

use sqlx::{Connection, PgConnection};

use super::{Doing, Run, StoreError, publish};

/// Whether something that is published is missing from what the run has staged, without proof
/// that it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtfulRemovals {
    /// A repository or namespace is missing from the catalog.
    pub catalog: bool,
    /// An artifact is missing from the listing, and its repository has not just those artifacts
    /// that were listed.
    pub artifacts: bool,
}

/// Looks for removals that may be none.
///
/// A repository that lacks artifacts is believed if as many are listed as the catalog counts:
/// were one of its artifacts overlooked, fewer would be. Artifacts that may be younger than the
/// catalog do not count, lest they make up for it.
pub async fn doubtful_removals(
    connection: &mut PgConnection,
    run: Run,
) -> Result<DoubtfulRemovals, StoreError> {
    let mut transaction = connection
        .begin()
        .await
        .doing("begin to look for what is missing")?;
    publish::plan_for_bulk(&mut transaction).await?;
    let doubts = sqlx::query_as!(
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
               select distinct on (r.repository_id) r.repository_id, r.artifact_count, r.updated_at
               from swr.staged_repository r
               where r.instance_id = $1 and r.run_id = $2
                 and exists (select from lacking l where l.repository_id = r.repository_id)
               order by r.repository_id, r.row_number desc
           ),
           listed as (
               select c.repository_id, count(distinct s.artifact_id) as artifacts
               from catalog c
               join swr.staged_artifact s
                 on s.instance_id = $1 and s.run_id = $2 and s.repository_id = c.repository_id
               left join swr.artifact a on a.instance_id = $1 and a.artifact_id = s.artifact_id
               where a.artifact_id is not null or s.pushed_at <= c.updated_at
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
                   left join listed l on l.repository_id = c.repository_id
                   where c.artifact_count is distinct from coalesce(l.artifacts, 0)
               ) as "artifacts!""#,
        run.instance_id,
        run.run_id
    )
    .fetch_one(&mut *transaction)
    .await
    .doing("look for what is missing")?;
    transaction
        .commit()
        .await
        .doing("end looking for what is missing")?;
    Ok(doubts)
}
