-- What takes the space: sizes of artifacts, repositories and namespaces with what
-- they share, the layers, and what a clean-up would free.

create function swr.is_index(manifest_media_type text)
returns boolean
language sql
immutable
parallel safe
as $$
    select coalesce(manifest_media_type in (
        'application/vnd.oci.image.index.v1+json',
        'application/vnd.docker.distribution.manifest.list.v2+json'
    ), false)
$$;

comment on function swr.is_index(text) is
    'Whether a manifest of this media type lists other manifests, one for each platform, instead of layers.';

create view swr.sized_artifact as
select
    a.instance_id,
    a.artifact_id,
    a.repository_id,
    coalesce(a.namespace_id, r.namespace_id) as namespace_id,
    a.repository_name,
    case when swr.is_index(a.manifest_media_type) and c.smallest_bytes <= a.size_bytes then 0 else a.size_bytes end
        as logical_bytes,
    a.pushed_at,
    a.pulled_at,
    a.removed_at,
    a.first_seen_run_id
from swr.artifact a
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join (
    select instance_id, repository_id, min(size_bytes) as smallest_bytes
    from swr.artifact
    where not swr.is_index(manifest_media_type)
    group by instance_id, repository_id
) c on c.instance_id = a.instance_id and c.repository_id = a.repository_id;

comment on view swr.sized_artifact is 'Every artifact ever listed, with the bytes that a sum may count.';
comment on column swr.sized_artifact.instance_id is 'See swr.artifact.';
comment on column swr.sized_artifact.artifact_id is 'See swr.artifact.';
comment on column swr.sized_artifact.repository_id is 'See swr.artifact.';
comment on column swr.sized_artifact.namespace_id is 'The namespace, as the artifact list or else the catalog gives it.';
comment on column swr.sized_artifact.repository_name is 'See swr.artifact.';
comment on column swr.sized_artifact.logical_bytes is
    'Size as the API gives it, but 0 for an index whose repository lists artifacts that could be its children: the API adds them to its size, names none of them, and lists each on its own. The index''s own few kilobytes are lost by that.';
comment on column swr.sized_artifact.pushed_at is 'See swr.artifact.';
comment on column swr.sized_artifact.pulled_at is 'See swr.artifact.';
comment on column swr.sized_artifact.removed_at is 'See swr.artifact.';
comment on column swr.sized_artifact.first_seen_run_id is 'See swr.artifact.';

create or replace view swr_report.storage_by_repository as
with repository_artifact as (
    select
        a.instance_id,
        a.repository_id,
        min(a.repository_name) as repository_name,
        -- A repository is in one namespace.
        min(a.namespace_id) as namespace_id,
        count(*) as artifacts,
        swr.total_bytes(sum(a.logical_bytes)) as logical_bytes,
        swr.total_bytes(sum(a.logical_bytes) filter (where g.artifact_id is null)) as unknown_bytes,
        max(a.pushed_at) as last_pushed_at,
        max(a.pulled_at) as last_pulled_at
    from swr.sized_artifact a
    left join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
    where a.removed_at is null
    group by a.instance_id, a.repository_id
)
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.artifacts,
    coalesce(a.logical_bytes, 0) as logical_bytes,
    coalesce(b.layer_bytes, 0) as layer_bytes,
    coalesce(b.exclusive_bytes, 0) as exclusive_bytes,
    a.last_pushed_at,
    a.last_pulled_at,
    a.repository_id,
    a.instance_id,
    coalesce(b.layer_bytes - b.exclusive_bytes, 0) as shared_bytes,
    coalesce(a.unknown_bytes, 0) as unknown_bytes
from repository_artifact a
join swr.instance i on i.instance_id = a.instance_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
left join swr.repository_layering b on b.instance_id = a.instance_id and b.repository_id = a.repository_id;

comment on column swr_report.storage_by_repository.logical_bytes is
    'Sum of the artifacts'' sizes, as if nothing were shared. An index counts only where its children, which its size holds, are not listed.';
comment on column swr_report.storage_by_repository.shared_bytes is 'Sum of the layers that other repositories of the instance have too.';
comment on column swr_report.storage_by_repository.unknown_bytes is
    'The part of logical_bytes whose layers are not known: charts and the like, and images whose build history is not stored.';

create view swr_report.storage_by_namespace as
with namespace_artifact as (
    select
        a.instance_id,
        coalesce(a.namespace_id, 0) as namespace_id,
        count(distinct a.repository_id) as repositories,
        count(*) as artifacts,
        swr.total_bytes(sum(a.logical_bytes)) as logical_bytes,
        swr.total_bytes(sum(a.logical_bytes) filter (where g.artifact_id is null)) as unknown_bytes,
        max(a.pushed_at) as last_pushed_at,
        max(a.pulled_at) as last_pulled_at
    from swr.sized_artifact a
    left join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
    where a.removed_at is null
    group by a.instance_id, coalesce(a.namespace_id, 0)
)
select
    coalesce(i.name, i.swr_instance_id) as instance,
    n.name as namespace,
    a.repositories,
    a.artifacts,
    coalesce(a.logical_bytes, 0) as logical_bytes,
    coalesce(b.layer_bytes, 0) as layer_bytes,
    coalesce(b.layer_bytes - b.exclusive_bytes, 0) as shared_bytes,
    coalesce(b.exclusive_bytes, 0) as exclusive_bytes,
    coalesce(a.unknown_bytes, 0) as unknown_bytes,
    a.last_pushed_at,
    a.last_pulled_at,
    a.namespace_id,
    a.instance_id
from namespace_artifact a
join swr.instance i on i.instance_id = a.instance_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
left join swr.namespace_layering b on b.instance_id = a.instance_id and b.namespace_id = a.namespace_id;

comment on view swr_report.storage_by_namespace is
    'Which namespaces take the space, and how much of it do they share? One row per namespace with artifacts.';
comment on column swr_report.storage_by_namespace.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.storage_by_namespace.namespace is 'Name of the namespace; NULL where neither the catalog nor the artifact list tells it.';
comment on column swr_report.storage_by_namespace.repositories is 'Number of repositories with artifacts.';
comment on column swr_report.storage_by_namespace.artifacts is 'Number of artifacts.';
comment on column swr_report.storage_by_namespace.logical_bytes is
    'Sum of the artifacts'' sizes, as if nothing were shared. An index counts only where its children, which its size holds, are not listed.';
comment on column swr_report.storage_by_namespace.layer_bytes is 'Sum of the distinct layers of the namespace: what it takes after sharing.';
comment on column swr_report.storage_by_namespace.shared_bytes is 'Sum of the layers that other namespaces of the instance have too.';
comment on column swr_report.storage_by_namespace.exclusive_bytes is 'Sum of the layers no other namespace of the instance has: what deleting the namespace would free.';
comment on column swr_report.storage_by_namespace.unknown_bytes is
    'The part of logical_bytes whose layers are not known: charts and the like, and images whose build history is not stored.';
comment on column swr_report.storage_by_namespace.last_pushed_at is 'Latest push.';
comment on column swr_report.storage_by_namespace.last_pulled_at is 'Latest pull; NULL if never.';
comment on column swr_report.storage_by_namespace.namespace_id is 'Id in SWR; 0 where the namespace is not known.';
comment on column swr_report.storage_by_namespace.instance_id is 'Key of swr.instance.';

create view swr_report.artifact_size as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.digest,
    coalesce(t.tags, '{}') as tags,
    a.type,
    a.size_bytes as total_bytes,
    g.layer_count as layers,
    g.layer_bytes,
    g.layer_bytes - g.exclusive_bytes as shared_bytes,
    g.exclusive_bytes,
    a.pushed_at,
    a.pulled_at,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.artifact a
join swr.instance i on i.instance_id = a.instance_id
left join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
left join (
    select instance_id, artifact_id, array_agg(name order by name) as tags
    from swr.tag
    group by instance_id, artifact_id
) t on t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
where a.removed_at is null;

comment on view swr_report.artifact_size is
    'How big is each artifact really, and what would deleting it free? One row per artifact that exists now.';
comment on column swr_report.artifact_size.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.artifact_size.namespace is 'Name of the namespace.';
comment on column swr_report.artifact_size.repository is 'Name of the repository without the namespace.';
comment on column swr_report.artifact_size.digest is 'Digest of the manifest.';
comment on column swr_report.artifact_size.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr_report.artifact_size.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.artifact_size.total_bytes is
    'Size as the API gives it: manifest, config and layers; of an index, its own bytes and those of its children, which are listed on their own.';
comment on column swr_report.artifact_size.layers is
    'Number of distinct layers; NULL where they are not known: charts, indexes, images whose build history is not stored.';
comment on column swr_report.artifact_size.layer_bytes is 'Sum of the distinct layers; NULL where they are not known.';
comment on column swr_report.artifact_size.shared_bytes is 'Sum of the layers that other artifacts of the instance have too; NULL where they are not known.';
comment on column swr_report.artifact_size.exclusive_bytes is
    'Sum of the layers no other artifact of the instance has: what deleting this one alone would free, but for its manifest and config. 0 for a digest that is in two repositories; NULL where the layers are not known.';
comment on column swr_report.artifact_size.pushed_at is 'Last push.';
comment on column swr_report.artifact_size.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.artifact_size.artifact_id is 'Id in SWR.';
comment on column swr_report.artifact_size.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.artifact_size.instance_id is 'Key of swr.instance.';

create view swr_report.layer_usage as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    l.digest as layer_digest,
    l.size_bytes,
    u.artifacts,
    u.repositories,
    swr.total_bytes(l.size_bytes::numeric * (u.artifacts - 1)) as saved_bytes,
    u.layer_id,
    u.instance_id
from (
    select instance_id, layer_id, sum(artifact_count) as artifacts, count(*) as repositories
    from swr.repository_layer
    group by instance_id, layer_id
) u
join swr.instance i on i.instance_id = u.instance_id
join swr.layer l on l.instance_id = u.instance_id and l.layer_id = u.layer_id;

comment on view swr_report.layer_usage is
    'Which layers are shared by how many artifacts and repositories? One row per layer of the artifacts that exist now.';
comment on column swr_report.layer_usage.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.layer_usage.layer_digest is 'Digest of the compressed layer.';
comment on column swr_report.layer_usage.size_bytes is 'Compressed size.';
comment on column swr_report.layer_usage.artifacts is 'Number of artifacts with the layer; one digest in two repositories counts twice.';
comment on column swr_report.layer_usage.repositories is 'Number of repositories with such an artifact.';
comment on column swr_report.layer_usage.saved_bytes is 'What the registry saves by storing the layer once for all of them.';
comment on column swr_report.layer_usage.layer_id is 'Key of swr.layer.';
comment on column swr_report.layer_usage.instance_id is 'Key of swr.instance.';

create function swr_report.reclaimable(
    digests      text[] default null,
    in_instance  text default null,
    artifact_ids bigint[] default null
)
returns table (
    instance          text,
    artifacts         bigint,
    logical_bytes     bigint,
    layers            bigint,
    reclaimable_bytes bigint,
    unknown_bytes     bigint,
    instance_id       integer
)
language sql
stable
parallel safe
-- Whoever may ask the views may ask this, too, without a right to the tables.
security definer
set search_path = swr, swr_report, pg_temp
as $$
    with wanted as (
        select a.instance_id, a.artifact_id, a.digest
        from unnest(digests) as d (digest)
        join swr.artifact a on a.digest = d.digest
        where a.removed_at is null
        union
        select a.instance_id, a.artifact_id, a.digest
        from unnest(artifact_ids) as d (artifact_id)
        join swr.artifact a on a.artifact_id = d.artifact_id
        where a.removed_at is null
    ),
    chosen as materialized (
        select w.instance_id, w.artifact_id, w.digest, g.artifact_id is not null as is_layered
        from wanted w
        join swr.instance i on i.instance_id = w.instance_id
        left join swr.artifact_layering g on g.instance_id = w.instance_id and g.artifact_id = w.artifact_id
        where in_instance is null or in_instance in (i.name, i.swr_instance_id)
    ),
    held as (
        select layered.instance_id, s.layer_id, count(distinct layered.artifact_id) as artifacts
        from chosen layered
        join swr.manifest m on m.instance_id = layered.instance_id and m.digest = layered.digest
        cross join lateral unnest(m.build_step_ids) as e (build_step_id)
        join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
        where layered.is_layered and s.layer_id is not null
        group by layered.instance_id, s.layer_id
    ),
    freed as (
        select h.instance_id, count(*) as layers, sum(l.size_bytes) as size_bytes
        from held h
        join swr.layer l on l.instance_id = h.instance_id and l.layer_id = h.layer_id
        where h.artifacts = (
            select sum(k.artifact_count)
            from swr.repository_layer k
            where k.instance_id = h.instance_id and k.layer_id = h.layer_id
        )
        group by h.instance_id
    ),
    counted as (
        select
            c.instance_id,
            count(*) as artifacts,
            sum(z.logical_bytes) as logical_bytes,
            sum(z.logical_bytes) filter (where not c.is_layered) as unknown_bytes
        from chosen c
        join swr.sized_artifact z on z.instance_id = c.instance_id and z.artifact_id = c.artifact_id
        group by c.instance_id
    )
    select
        coalesce(i.name, i.swr_instance_id),
        c.artifacts,
        coalesce(swr.total_bytes(c.logical_bytes), 0),
        coalesce(f.layers, 0),
        coalesce(swr.total_bytes(f.size_bytes), 0),
        coalesce(swr.total_bytes(c.unknown_bytes), 0),
        c.instance_id
    from counted c
    join swr.instance i on i.instance_id = c.instance_id
    left join freed f on f.instance_id = c.instance_id
$$;

comment on function swr_report.reclaimable(text[], text, bigint[]) is
    'What would deleting these artifacts together free? Takes digests, which stand for all artifacts with them, or ids of artifacts, for one repository''s copy of a digest; of every instance, or of the one of that name or SWR id. One row per instance with such artifacts: their number, the sum of their sizes, the number and bytes of the layers that no other artifact has (reclaimable_bytes), and the sizes of those whose layers are not known (unknown_bytes). Manifests and configs, some kilobytes each, are not in reclaimable_bytes.';
