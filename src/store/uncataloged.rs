//! Repositories that are in the artifact list but not in the catalog: the key may lack permission for
//! some namespaces. They need a row, because reports join each artifact with its repository.

use super::{Run, Session, StoreError};

/// Inserts repositories that are only in the artifact list, and clears their mark as removed. Values from
/// an earlier catalog are kept; the artifact list supplies the missing ones.
pub(super) async fn upsert_repositories(
    session: &mut Session<'_>,
    run: Run,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.repository as r (instance_id, repository_id, namespace_id, namespace_name, name)
         select $1, l.repository_id, l.namespace_id, n.name, l.name
         from (
             select a.repository_id, max(a.namespace_id) as namespace_id, max(a.repository_name) as name
             from swr.staged_artifact a
             where a.instance_id = $1 and a.run_id = $2
               and not exists (
                   select from swr.staged_repository s
                   where s.instance_id = $1 and s.run_id = $2 and s.repository_id = a.repository_id
               )
             group by a.repository_id
         ) l
         left join swr.namespace n on n.instance_id = $1 and n.namespace_id = l.namespace_id
         where not exists (
             select from swr.repository k
             where k.instance_id = $1 and k.repository_id = l.repository_id and k.removed_at is null
               and (k.namespace_id is not null or l.namespace_id is null)
               and (k.namespace_name is not null or n.name is null)
               and (k.name is not null or l.name is null)
         )
         on conflict (instance_id, repository_id) do update
         set namespace_id = coalesce(r.namespace_id, excluded.namespace_id),
             namespace_name = coalesce(r.namespace_name, excluded.namespace_name),
             name = coalesce(r.name, excluded.name),
             removed_at = null",
        run.instance_id,
        run.run_id
    );
    session
        .execute("add repositories that only the artifact list names", query)
        .await
}

/// Records a repository as corrupt if the tables have listed artifacts of it, but its row is missing or
/// marked as removed. The values of a row that is only in the artifact list are not compared: they may be
/// from an earlier catalog.
pub(super) async fn compare_repositories(
    session: &mut Session<'_>,
    run: Run,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select distinct $1::integer, $2::bigint, 'repository', a.repository_id::text, 'row', 'corrupt', null, 'present'
         from swr.artifact a
         join swr.staged_artifact l
           on l.instance_id = $1 and l.run_id = $2 and l.artifact_id = a.artifact_id and l.repository_id = a.repository_id
         where a.instance_id = $1 and a.removed_at is null
           and not exists (
               select from swr.staged_repository s
               where s.instance_id = $1 and s.run_id = $2 and s.repository_id = a.repository_id
           )
           and not exists (
               select from swr.repository r
               where r.instance_id = $1 and r.repository_id = a.repository_id and r.removed_at is null
           )",
        run.instance_id,
        run.run_id
    );
    session
        .execute(
            "compare repositories that only the artifact list names",
            query,
        )
        .await?;
    Ok(())
}
