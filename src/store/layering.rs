//! Shared layers of artifacts, for the reports: base images, and bytes that only one artifact has.
//!
//! `swr.artifact_layering` has a row for each artifact that is counted. Publish deletes the rows of
//! removed artifacts before it changes `swr.artifact`. After that it inserts rows for new artifacts, and
//! for artifacts whose history has arrived since. If it deleted or inserted any, it computes the sums of
//! the whole instance again and writes the differences, because the bytes that only one artifact has
//! depend on all other artifacts.
//!
//! Layers and chains, which depend on a single history, are in `swr.manifest`: no statement here
//! reads build steps.

use uuid::Uuid;

use super::{Run, Session, StoreError};

/// Artifacts whose rows were deleted or are to be inserted.
#[derive(Debug, Default)]
pub(super) struct ChangedImages {
    artifacts: i64,
    /// The first chain of each: only for images with the same first chain the base can have changed.
    root_chain_ids: Vec<Uuid>,
}

/// Deletes the rows of artifacts that are missing from this listing, or that have another repository or
/// digest in it.
pub(super) async fn take_out(
    session: &mut Session<'_>,
    run: Run,
) -> Result<ChangedImages, StoreError> {
    let query = sqlx::query!(
        r#"with leaving as (
             delete from swr.artifact_layering g
             using swr.artifact a
             where g.instance_id = $1 and a.instance_id = $1 and a.artifact_id = g.artifact_id
               and not exists (
                   select from swr.staged_artifact s
                   where s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
                     and s.repository_id = a.repository_id and s.digest = a.digest
               )
             returning g.root_chain_id
         )
         select count(*) as "artifacts!", array_agg(distinct root_chain_id) filter (where root_chain_id is not null)
             as root_chain_ids
         from leaving"#,
        run.instance_id,
        run.run_id
    );
    let moved = session
        .fetch_one("delete the shared layers of removed artifacts", query)
        .await?;
    Ok(ChangedImages {
        artifacts: moved.artifacts,
        root_chain_ids: moved.root_chain_ids.unwrap_or_default(),
    })
}

/// Inserts rows for artifacts with a stored history and no row, and updates everything that depends on
/// them and on the deleted rows. `has_changes` is true if artifacts changed in another way: one of them
/// could be in another namespace now. Returns whether anything was computed.
pub(super) async fn take_in(
    session: &mut Session<'_>,
    run: Run,
    taken_out: ChangedImages,
    has_changes: bool,
) -> Result<bool, StoreError> {
    let entering = entering(session, run).await?;
    if taken_out.artifacts + entering.artifacts == 0 && !has_changes {
        return Ok(false);
    }
    let has_aliases = write_aliases(session, run).await?;
    let root_chain_ids = [taken_out.root_chain_ids, entering.root_chain_ids].concat();
    update(session, run, &root_chain_ids, has_aliases).await?;
    Ok(true)
}

/// Finds a layer with a size for each layer without one in its history. Returns whether the instance has
/// such layers.
async fn write_aliases(session: &mut Session<'_>, run: Run) -> Result<bool, StoreError> {
    let query = sqlx::query!(
        r#"with written as (
             insert into swr.layer_alias (instance_id, layer_id, counted_layer_id)
             select distinct on (u.layer_id) $1::integer, u.layer_id, k.layer_id
             from swr.layer u
             join swr.layer k on k.instance_id = $1 and k.digest = u.digest and k.size_bytes is not null
             where u.instance_id = $1 and u.size_bytes is null
             order by u.layer_id, k.size_bytes desc
             on conflict (instance_id, layer_id) do update
             set counted_layer_id = excluded.counted_layer_id
             where layer_alias.counted_layer_id <> excluded.counted_layer_id
             returning layer_id
         )
         select exists (select from written) or exists (select from swr.layer_alias where instance_id = $1)
             as "has_aliases!""#,
        run.instance_id
    )
    .map(|row| row.has_aliases);
    session
        .fetch_one("find the sizes of layers without one", query)
        .await
}

/// The artifacts with a stored history that have no row in `swr.artifact_layering` yet.
async fn entering(session: &mut Session<'_>, run: Run) -> Result<ChangedImages, StoreError> {
    let query = sqlx::query!(
        r#"select count(*) as "artifacts!",
                  array_agg(distinct m.chain_ids[1]) filter (where m.chain_ids[1] is not null) as root_chain_ids
           from swr.artifact a
           join swr.manifest m on m.instance_id = $1 and m.digest = a.digest
           where a.instance_id = $1 and a.removed_at is null and m.outcome = 'stored'
             and not exists (
                 select from swr.artifact_layering g where g.instance_id = $1 and g.artifact_id = a.artifact_id
             )"#,
        run.instance_id
    );
    let moved = session
        .fetch_one("find artifacts with a new history", query)
        .await?;
    Ok(ChangedImages {
        artifacts: moved.artifacts,
        root_chain_ids: moved.root_chain_ids.unwrap_or_default(),
    })
}

/// Updates the rows of the tables that differ: the bytes of artifacts, repositories and namespaces, the
/// bytes that only one of them has, and the layers that repositories share. For images that begin with one
/// of these chains, also the base and the longest shared chain.
async fn update(
    session: &mut Session<'_>,
    run: Run,
    root_chain_ids: &[Uuid],
    has_aliases: bool,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "with listed as materialized (
             select a.artifact_id, a.repository_id, a.digest, coalesce(a.namespace_id, r.namespace_id, 0) as namespace_id,
                    m.layer_bytes, m.layer_ids, m.chain_ids,
                    m.build_step_ids[cardinality(m.build_step_ids)] as last_step_id
             from swr.artifact a
             join swr.manifest m on m.instance_id = $1 and m.digest = a.digest
             left join swr.repository r on r.instance_id = $1 and r.repository_id = a.repository_id
             where a.instance_id = $1 and a.removed_at is null and m.outcome = 'stored'
         ),
         -- Bases: how many images pass through each chain, and how many end there.
         root as materialized (
             select distinct unnest($2::uuid[]) as chain_id
         ),
         image as materialized (
             -- A digest in several repositories is one image. A number is cheaper to join by than a digest.
             select row_number() over () as image, d.digest, d.chain_ids, d.last_step_id,
                    cardinality(d.chain_ids) as length
             from (
                 select distinct on (l.digest) l.digest, l.chain_ids, l.last_step_id
                 from listed l
                 join root r on r.chain_id = l.chain_ids[1]
             ) d
         ),
         link as materialized (
             select i.image, u.position, u.chain_id, u.position = i.length as is_whole
             from image i
             cross join lateral unnest(i.chain_ids) with ordinality as u (chain_id, position)
         ),
         common as materialized (
             -- Most chains are one image's alone: these are no base, and not shared.
             select l.image, l.position, l.is_whole, n.passing, n.ending
             from link l
             join (
                 select chain_id, count(*) as passing, count(*) filter (where is_whole) as ending
                 from link
                 group by chain_id
                 having count(*) > 1
             ) n on n.chain_id = l.chain_id
         ),
         -- Of images with the very same layers, one is the base of another if its steps come first there.
         twin as materialized (
             select i.image, i.digest, i.last_step_id, i.chain_ids[i.length] as chain_id
             from common c
             join image i on i.image = c.image
             where c.is_whole and c.ending > 1
         ),
         continued as materialized (
             select s.image, s.position, s.build_step_id, x.image as base_image
             from (
                 select t.image, t.chain_id, t.last_step_id, u.position, u.build_step_id
                 from twin t
                 join swr.manifest m on m.instance_id = $1 and m.digest = t.digest
                 cross join lateral unnest(m.build_step_ids) with ordinality as u (build_step_id, position)
             ) s
             join twin x on x.chain_id = s.chain_id and x.last_step_id = s.build_step_id
             where s.build_step_id <> s.last_step_id
         ),
         based as materialized (
             select i.digest, i.chain_ids[f.base_position] as base_chain_id,
                    i.chain_ids[f.shared_position] as shared_chain_id, t.base_step_id
             from image i
             left join (
                 select image, (array_agg(build_step_id order by position desc))[1] as base_step_id
                 from continued
                 group by image
             ) t on t.image = i.image
             left join (
                 select
                     c.image,
                     max(c.position) filter (where c.ending > 0 and not c.is_whole) as base_position,
                     -- More images pass here than have the whole of this one.
                     max(c.position) filter (
                         where c.passing > coalesce(w.passing, 1)
                            or (c.is_whole and c.ending - 1 > coalesce(d.images, 0))
                     ) as shared_position
                 from common c
                 left join (select image, passing from common where is_whole) w on w.image = c.image
                 left join (
                     select base_image, count(*) as images from continued group by base_image
                 ) d on d.base_image = c.image
                 group by c.image
             ) f on f.image = i.image
         ),
         -- Bytes: who has each layer, by repository and by namespace. A layer's only artifact is the least.
         repository_layer as materialized (
             select h.repository_id, h.layer_id, count(*)::integer as artifacts, min(h.artifact_id) as artifact_id
             from (
                 select h.artifact_id, h.repository_id, coalesce(x.counted_layer_id, h.layer_id) as layer_id
                 from (select artifact_id, repository_id, layer_ids, unnest(layer_ids) as layer_id from listed) h
                 left join swr.layer_alias x on x.instance_id = $1 and x.layer_id = h.layer_id
                 -- An image may have the layer both with and without its size.
                 where x.layer_id is null or x.counted_layer_id <> all (h.layer_ids)
             ) h
             group by h.repository_id, h.layer_id
         ),
         home as (
             select repository_id, min(namespace_id) as namespace_id
             from listed
             group by repository_id
         ),
         namespace_layer as materialized (
             select h.namespace_id, k.layer_id, count(*)::integer as repositories,
                    sum(k.artifacts)::integer as artifacts, min(k.artifact_id) as artifact_id
             from repository_layer k
             join home h on h.repository_id = k.repository_id
             group by h.namespace_id, k.layer_id
         ),
         used as materialized (
             select n.layer_id, max(l.size_bytes) as size_bytes, count(*) as namespaces,
                    sum(n.repositories) as repositories, sum(n.artifacts) as artifacts,
                    min(n.artifact_id) as artifact_id
             from namespace_layer n
             join swr.layer l on l.instance_id = $1 and l.layer_id = n.layer_id
             group by n.layer_id
         ),
         repository as materialized (
             select
                 k.repository_id,
                 count(*) as layer_count,
                 coalesce(swr.total_bytes(sum(u.size_bytes)), 0) as layer_bytes,
                 coalesce(swr.total_bytes(sum(u.size_bytes) filter (where u.repositories = 1)), 0) as exclusive_bytes,
                 swr.total_bytes(
                     coalesce(sum(u.size_bytes) filter (where u.repositories = 1), 0)
                     + coalesce(round(sum(u.size_bytes::numeric / u.repositories) filter (where u.repositories > 1)), 0)
                 ) as share_bytes
             from repository_layer k
             join used u on u.layer_id = k.layer_id
             group by k.repository_id
         ),
         namespace as materialized (
             select
                 k.namespace_id,
                 count(*) as layer_count,
                 coalesce(swr.total_bytes(sum(u.size_bytes)), 0) as layer_bytes,
                 coalesce(swr.total_bytes(sum(u.size_bytes) filter (where u.namespaces = 1)), 0) as exclusive_bytes,
                 swr.total_bytes(
                     coalesce(sum(u.size_bytes) filter (where u.namespaces = 1), 0)
                     + coalesce(round(sum(u.size_bytes::numeric / u.namespaces) filter (where u.namespaces > 1)), 0)
                 ) as share_bytes
             from namespace_layer k
             join used u on u.layer_id = k.layer_id
             group by k.namespace_id
         ),
         repositories_dropped as (
             delete from swr.repository_layering r
             where r.instance_id = $1 and not exists (select from repository f where f.repository_id = r.repository_id)
         ),
         repositories_written as (
             insert into swr.repository_layering
                 (instance_id, layer_count, repository_id, layer_bytes, exclusive_bytes, share_bytes)
             select $1, f.layer_count, f.repository_id, f.layer_bytes, f.exclusive_bytes, f.share_bytes
             from repository f
             where not exists (
                 select from swr.repository_layering r
                 where r.instance_id = $1 and r.repository_id = f.repository_id and r.layer_count = f.layer_count
                   and r.layer_bytes = f.layer_bytes and r.exclusive_bytes = f.exclusive_bytes
                   and r.share_bytes = f.share_bytes
             )
             on conflict (instance_id, repository_id) do update
             set layer_count = excluded.layer_count,
                 layer_bytes = excluded.layer_bytes,
                 exclusive_bytes = excluded.exclusive_bytes,
                 share_bytes = excluded.share_bytes
         ),
         namespaces_dropped as (
             delete from swr.namespace_layering n
             where n.instance_id = $1 and not exists (select from namespace f where f.namespace_id = n.namespace_id)
         ),
         namespaces_written as (
             insert into swr.namespace_layering
                 (instance_id, layer_count, namespace_id, layer_bytes, exclusive_bytes, share_bytes)
             select $1, f.layer_count, f.namespace_id, f.layer_bytes, f.exclusive_bytes, f.share_bytes
             from namespace f
             where not exists (
                 select from swr.namespace_layering n
                 where n.instance_id = $1 and n.namespace_id = f.namespace_id and n.layer_count = f.layer_count
                   and n.layer_bytes = f.layer_bytes and n.exclusive_bytes = f.exclusive_bytes
                   and n.share_bytes = f.share_bytes
             )
             on conflict (instance_id, namespace_id) do update
             set layer_count = excluded.layer_count,
                 layer_bytes = excluded.layer_bytes,
                 exclusive_bytes = excluded.exclusive_bytes,
                 share_bytes = excluded.share_bytes
         ),
         layers_dropped as (
             delete from swr.shared_layer k
             where k.instance_id = $1
               and not exists (select from used u where u.layer_id = k.layer_id and u.repositories > 1)
         ),
         layers_written as (
             insert into swr.shared_layer (instance_id, repositories, namespaces, layer_id)
             select $1, u.repositories, u.namespaces, u.layer_id
             from used u
             where u.repositories > 1
               and not exists (
                   select from swr.shared_layer k
                   where k.instance_id = $1 and k.layer_id = u.layer_id and k.repositories = u.repositories
                     and k.namespaces = u.namespaces
               )
             on conflict (instance_id, layer_id) do update
             set repositories = excluded.repositories,
                 namespaces = excluded.namespaces
         ),
         -- What swr.manifest counts does not know the sizes in other histories.
         resized as (
             select h.artifact_id, count(*)::integer as layer_count,
                    coalesce(swr.total_bytes(sum(l.size_bytes)), 0) as layer_bytes
             from (
                 select artifact_id, layer_ids, unnest(layer_ids) as layer_id
                 from listed
                 where $3
             ) h
             left join swr.layer_alias x on x.instance_id = $1 and x.layer_id = h.layer_id
             join swr.layer l on l.instance_id = $1 and l.layer_id = coalesce(x.counted_layer_id, h.layer_id)
             where x.layer_id is null or x.counted_layer_id <> all (h.layer_ids)
             group by h.artifact_id
         ),
         alone as (
             select artifact_id, swr.total_bytes(sum(size_bytes)) as size_bytes
             from used
             where artifacts = 1
             group by artifact_id
         )
         insert into swr.artifact_layering
             (instance_id, layer_count, artifact_id, layer_bytes, exclusive_bytes, root_chain_id, chain_id,
              base_chain_id, shared_chain_id, last_step_id, base_step_id)
         select $1, coalesce(z.layer_count, cardinality(l.layer_ids)), l.artifact_id,
                coalesce(z.layer_bytes, l.layer_bytes), coalesce(s.size_bytes, 0),
                l.chain_ids[1], l.chain_ids[cardinality(l.chain_ids)],
                case when b.digest is null then g.base_chain_id else b.base_chain_id end,
                case when b.digest is null then g.shared_chain_id else b.shared_chain_id end,
                l.last_step_id,
                case when b.digest is null then g.base_step_id else b.base_step_id end
         from listed l
         left join alone s on s.artifact_id = l.artifact_id
         left join based b on b.digest = l.digest
         left join resized z on z.artifact_id = l.artifact_id
         left join swr.artifact_layering g on g.instance_id = $1 and g.artifact_id = l.artifact_id
         where g.artifact_id is null
            or g.exclusive_bytes <> coalesce(s.size_bytes, 0)
            or (g.layer_count, g.layer_bytes) <> (z.layer_count, z.layer_bytes)
            or (b.digest is not null
                and (g.base_chain_id, g.shared_chain_id, g.base_step_id)
                    is distinct from (b.base_chain_id, b.shared_chain_id, b.base_step_id))
         on conflict (instance_id, artifact_id) do update
         set layer_count = excluded.layer_count,
             layer_bytes = excluded.layer_bytes,
             exclusive_bytes = excluded.exclusive_bytes,
             base_chain_id = excluded.base_chain_id,
             shared_chain_id = excluded.shared_chain_id,
             base_step_id = excluded.base_step_id",
        run.instance_id,
        root_chain_ids,
        has_aliases
    );
    session
        .execute("compute the shared layers of artifacts", query)
        .await?;
    Ok(())
}

/// Stores the current use of each namespace if it differs from the last stored one.
pub(super) async fn record_storage(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "with used as materialized (
             -- Removed artifacts name the namespaces that are empty now.
             select
                 coalesce(z.namespace_id, 0) as namespace_id,
                 count(*) filter (where z.removed_at is null) as artifacts,
                 coalesce(swr.total_bytes(sum(z.logical_bytes) filter (where z.removed_at is null)), 0) as logical_bytes,
                 coalesce(
                     swr.total_bytes(
                         sum(z.logical_bytes) filter (where z.removed_at is null and g.artifact_id is null)
                     ),
                     0
                 ) as unknown_bytes
             from swr.sized_artifact z
             left join swr.artifact_layering g on g.instance_id = $1 and g.artifact_id = z.artifact_id
             where z.instance_id = $1
             group by coalesce(z.namespace_id, 0)
         )
         insert into swr.namespace_storage
             (instance_id, namespace_id, run_id, artifacts, logical_bytes, layer_bytes, share_bytes, unknown_bytes)
         select $1, u.namespace_id, $2, u.artifacts, u.logical_bytes, coalesce(n.layer_bytes, 0),
                coalesce(n.share_bytes, 0), u.unknown_bytes
         from used u
         left join swr.namespace_layering n on n.instance_id = $1 and n.namespace_id = u.namespace_id
         left join lateral (
             select k.artifacts, k.logical_bytes, k.layer_bytes, k.share_bytes, k.unknown_bytes
             from swr.namespace_storage k
             where k.instance_id = $1 and k.namespace_id = u.namespace_id
             order by k.run_id desc
             limit 1
         ) k on true
         where (k.artifacts, k.logical_bytes, k.layer_bytes, k.share_bytes, k.unknown_bytes)
               is distinct from
               (u.artifacts, u.logical_bytes, coalesce(n.layer_bytes, 0), coalesce(n.share_bytes, 0), u.unknown_bytes)",
        run.instance_id,
        run.run_id
    );
    session
        .execute("keep what each namespace uses", query)
        .await
}

/// Computes the shared layers again from the build histories of the counted artifacts, and records each
/// difference as corrupt. An artifact without a row is no difference: its history may have arrived after
/// the latest publish, and the next publish inserts the row.
pub(super) async fn compare(session: &mut Session<'_>, run: Run) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "with counted as materialized (
             select g.artifact_id, a.repository_id, a.digest, m.layer_ids, m.chain_ids, m.build_step_ids,
                    m.build_step_ids[cardinality(m.build_step_ids)] as last_step_id,
                    coalesce(a.namespace_id, r.namespace_id, 0) as namespace_id
             from swr.artifact_layering g
             join swr.artifact a on a.instance_id = $1 and a.artifact_id = g.artifact_id
             join swr.manifest m on m.instance_id = $1 and m.digest = a.digest
             left join swr.repository r on r.instance_id = $1 and r.repository_id = a.repository_id
             where g.instance_id = $1 and a.removed_at is null and m.outcome = 'stored'
         ),
         link as materialized (
             select c.artifact_id, u.position, u.chain_id
             from counted c
             cross join lateral unnest(c.chain_ids) with ordinality as u (chain_id, position)
         ),
         held as materialized (
             select distinct c.artifact_id, c.repository_id, l.layer_id, l.size_bytes
             from counted c
             cross join lateral unnest(c.layer_ids) as u (layer_id)
             left join swr.layer_alias x on x.instance_id = $1 and x.layer_id = u.layer_id
             join swr.layer l on l.instance_id = $1 and l.layer_id = coalesce(x.counted_layer_id, u.layer_id)
         ),
         repository_layer as materialized (
             select repository_id, layer_id, count(*) as artifact_count, max(size_bytes) as size_bytes
             from held
             group by repository_id, layer_id
         ),
         home as (
             select repository_id, min(namespace_id) as namespace_id
             from counted
             group by repository_id
         ),
         namespace_layer as materialized (
             select distinct h.namespace_id, k.layer_id, k.size_bytes
             from repository_layer k
             join home h on h.repository_id = k.repository_id
         ),
         layer as (
             select k.layer_id, sum(k.artifact_count) as artifacts, count(*) as repositories,
                    count(distinct h.namespace_id) as namespaces
             from repository_layer k
             join home h on h.repository_id = k.repository_id
             group by k.layer_id
         ),
         image as materialized (
             -- A digest in several repositories is one image.
             select c.digest, c.chain_ids[cardinality(c.chain_ids)] as chain_id, c.build_step_ids, c.last_step_id,
                    min(c.artifact_id) as artifact_id
             from counted c
             where cardinality(c.chain_ids) > 0
             group by c.digest, c.chain_ids, c.build_step_ids, c.last_step_id
         ),
         continued as materialized (
             select i.artifact_id, x.artifact_id as base_artifact_id, x.last_step_id as base_step_id, u.position
             from image i
             cross join lateral unnest(i.build_step_ids) with ordinality as u (build_step_id, position)
             join image x on x.chain_id = i.chain_id and x.last_step_id = u.build_step_id
             where u.build_step_id <> i.last_step_id
         ),
         step as materialized (
             select i.artifact_id, l.position, l.chain_id, l.chain_id = i.chain_id as is_whole
             from image i
             join link l on l.artifact_id = i.artifact_id
         ),
         node as (
             select chain_id, count(*) as passing, count(*) filter (where is_whole) as ending
             from step
             group by chain_id
         ),
         found as (
             select
                 s.artifact_id,
                 (array_agg(s.chain_id order by s.position desc)
                     filter (where n.ending > 0 and not s.is_whole))[1] as base_chain_id,
                 (array_agg(s.chain_id order by s.position desc)
                     filter (
                         where n.passing > w.passing or (s.is_whole and n.ending - 1 > coalesce(d.images, 0))
                     ))[1] as shared_chain_id
             from step s
             left join (
                 select base_artifact_id, count(*) as images from continued group by base_artifact_id
             ) d on d.base_artifact_id = s.artifact_id
             join node n on n.chain_id = s.chain_id
             join image i on i.artifact_id = s.artifact_id
             join node w on w.chain_id = i.chain_id
             group by s.artifact_id
         ),
         summed as (
             select
                 h.artifact_id,
                 count(*) as layer_count,
                 swr.total_bytes(sum(h.size_bytes)) as layer_bytes,
                 swr.total_bytes(sum(h.size_bytes) filter (where l.artifacts = 1)) as exclusive_bytes
             from held h
             join layer l on l.layer_id = h.layer_id
             group by h.artifact_id
         ),
         artifact as (
             select c.artifact_id, coalesce(s.layer_count, 0) as layer_count,
                    coalesce(s.layer_bytes, 0) as layer_bytes, coalesce(s.exclusive_bytes, 0) as exclusive_bytes,
                    c.chain_ids[1] as root_chain_id, c.chain_ids[cardinality(c.chain_ids)] as chain_id,
                    f.base_chain_id, f.shared_chain_id, c.last_step_id, t.base_step_id
             from counted c
             left join summed s on s.artifact_id = c.artifact_id
             left join image i on i.digest = c.digest
             left join found f on f.artifact_id = i.artifact_id
             left join (
                 select artifact_id, (array_agg(base_step_id order by position desc))[1] as base_step_id
                 from continued
                 group by artifact_id
             ) t on t.artifact_id = i.artifact_id
         ),
         repository as (
             select
                 k.repository_id,
                 count(*) as layer_count,
                 coalesce(swr.total_bytes(sum(k.size_bytes)), 0) as layer_bytes,
                 coalesce(swr.total_bytes(sum(k.size_bytes) filter (where l.repositories = 1)), 0) as exclusive_bytes,
                 coalesce(swr.total_bytes(round(sum(k.size_bytes::numeric / l.repositories))), 0) as share_bytes
             from repository_layer k
             join layer l on l.layer_id = k.layer_id
             group by k.repository_id
         ),
         namespace as (
             select
                 k.namespace_id,
                 count(*) as layer_count,
                 coalesce(swr.total_bytes(sum(k.size_bytes)), 0) as layer_bytes,
                 coalesce(swr.total_bytes(sum(k.size_bytes) filter (where u.namespaces = 1)), 0) as exclusive_bytes,
                 coalesce(swr.total_bytes(round(sum(k.size_bytes::numeric / u.namespaces))), 0) as share_bytes
             from namespace_layer k
             join layer u on u.layer_id = k.layer_id
             group by k.namespace_id
         ),
         compared as (
             select 'artifact_layering' as table_name, g.artifact_id::text as row_key, d.field, d.stored, d.found
             from swr.artifact_layering g
             left join artifact e on e.artifact_id = g.artifact_id
             cross join lateral (
                 values
                     ('row', 'present', case when e.artifact_id is not null then 'present' end),
                     ('layer_count', g.layer_count::text, e.layer_count::text),
                     ('layer_bytes', g.layer_bytes::text, e.layer_bytes::text),
                     ('exclusive_bytes', g.exclusive_bytes::text, e.exclusive_bytes::text),
                     ('root_chain_id', g.root_chain_id::text, e.root_chain_id::text),
                     ('chain_id', g.chain_id::text, e.chain_id::text),
                     ('base_chain_id', g.base_chain_id::text, e.base_chain_id::text),
                     ('shared_chain_id', g.shared_chain_id::text, e.shared_chain_id::text),
                     ('last_step_id', g.last_step_id::text, e.last_step_id::text),
                     ('base_step_id', g.base_step_id::text, e.base_step_id::text)
             ) d (field, stored, found)
             where g.instance_id = $1 and (d.field = 'row' or e.artifact_id is not null)
             union all
             select 'repository_layering', coalesce(k.repository_id, e.repository_id)::text, d.field, d.stored, d.found
             from (select * from swr.repository_layering where instance_id = $1) k
             full join repository e on e.repository_id = k.repository_id
             cross join lateral (
                 values
                     ('row', case when k.repository_id is not null then 'present' end,
                      case when e.repository_id is not null then 'present' end),
                     ('layer_count', k.layer_count::text, e.layer_count::text),
                     ('layer_bytes', k.layer_bytes::text, e.layer_bytes::text),
                     ('exclusive_bytes', k.exclusive_bytes::text, e.exclusive_bytes::text),
                     ('share_bytes', k.share_bytes::text, e.share_bytes::text)
             ) d (field, stored, found)
             where d.field = 'row' or (k.repository_id is not null and e.repository_id is not null)
             union all
             select 'namespace_layering', coalesce(k.namespace_id, e.namespace_id)::text, d.field, d.stored, d.found
             from (select * from swr.namespace_layering where instance_id = $1) k
             full join namespace e on e.namespace_id = k.namespace_id
             cross join lateral (
                 values
                     ('row', case when k.namespace_id is not null then 'present' end,
                      case when e.namespace_id is not null then 'present' end),
                     ('layer_count', k.layer_count::text, e.layer_count::text),
                     ('layer_bytes', k.layer_bytes::text, e.layer_bytes::text),
                     ('exclusive_bytes', k.exclusive_bytes::text, e.exclusive_bytes::text),
                     ('share_bytes', k.share_bytes::text, e.share_bytes::text)
             ) d (field, stored, found)
             where d.field = 'row' or (k.namespace_id is not null and e.namespace_id is not null)
             union all
             select 'shared_layer', coalesce(k.layer_id, e.layer_id)::text, d.field, d.stored, d.found
             from (select * from swr.shared_layer where instance_id = $1) k
             full join (select * from layer where repositories > 1) e on e.layer_id = k.layer_id
             cross join lateral (
                 values
                     ('row', case when k.layer_id is not null then 'present' end,
                      case when e.layer_id is not null then 'present' end),
                     ('repositories', k.repositories::text, e.repositories::text),
                     ('namespaces', k.namespaces::text, e.namespaces::text)
             ) d (field, stored, found)
             where d.field = 'row' or (k.layer_id is not null and e.layer_id is not null)
         )
         insert into swr.verification_difference
             (instance_id, run_id, table_name, row_key, field, verdict, stored, found)
         select $1, $2, c.table_name, c.row_key, c.field, 'corrupt', c.stored, c.found
         from compared c
         where c.stored is distinct from c.found",
        run.instance_id,
        run.run_id
    );
    session
        .execute("compare what artifacts share", query)
        .await?;
    Ok(())
}
