-- What artifacts share: layers counted by repository, and bases.
--
-- Computing this from the build histories takes seconds on a large registry, so
-- publish keeps it up to date, for the artifacts that came and went.

-- Sizes are what the registry says; sums of what it might say must stop no run and no report.
create function swr.total_bytes(total numeric) returns bigint
language sql immutable parallel safe
as $$
    select case
        when total > 9223372036854775807 then 9223372036854775807
        when total < -9223372036854775808 then -9223372036854775808
        else total
    end::bigint
$$;

comment on function swr.total_bytes(numeric) is 'A sum of sizes, or the nearest that bigint holds.';

create table swr.artifact_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    artifact_id     bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    root_chain_id   uuid,
    chain_id        uuid,
    base_chain_id   uuid,
    shared_chain_id uuid,
    primary key (instance_id, artifact_id)
)
-- What comes or goes changes rows of others: the base they are built on, what is theirs alone.
with (fillfactor = 90);

comment on table swr.artifact_layering is
    'One row per artifact that exists now and has a stored build history: its layers in numbers, and its place among the others. An artifact with a row is counted in swr.repository_layer.';
comment on column swr.artifact_layering.instance_id is 'The instance.';
comment on column swr.artifact_layering.layer_count is 'Number of distinct layers.';
comment on column swr.artifact_layering.artifact_id is 'The artifact.';
comment on column swr.artifact_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.artifact_layering.exclusive_bytes is 'Sum of the layers no other artifact of the instance has.';
comment on column swr.artifact_layering.root_chain_id is
    'Chain id of the first layer; NULL without layers. Images with different ones have no chain in common.';
comment on column swr.artifact_layering.chain_id is 'Chain id of the last layer.';
comment on column swr.artifact_layering.base_chain_id is
    'The longest chain below the last layer that is the whole of another artifact that exists now; NULL if there is none.';
comment on column swr.artifact_layering.shared_chain_id is
    'The longest chain that is also in an artifact of another digest which is not built on this one; NULL if there is none.';

create table swr.repository_layer (
    instance_id     integer not null,
    artifact_count  integer not null check (artifact_count > 0),
    repository_id   bigint not null,
    artifact_id_xor bigint not null,
    layer_id        uuid not null,
    primary key (instance_id, layer_id, repository_id)
)
with (fillfactor = 90);

comment on table swr.repository_layer is
    'One row per repository and layer: how many artifacts that exist now have it.';
comment on column swr.repository_layer.instance_id is 'The instance.';
comment on column swr.repository_layer.artifact_count is 'Number of artifacts of the repository with the layer.';
comment on column swr.repository_layer.repository_id is 'The repository.';
comment on column swr.repository_layer.artifact_id_xor is
    'Exclusive or of the ids of these artifacts; of a single artifact, its id.';
comment on column swr.repository_layer.layer_id is 'The layer.';

create table swr.repository_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    repository_id   bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    primary key (instance_id, repository_id)
);

comment on table swr.repository_layering is
    'One row per repository with layers: its layers in numbers, from swr.repository_layer.';
comment on column swr.repository_layering.instance_id is 'The instance.';
comment on column swr.repository_layering.layer_count is 'Number of distinct layers.';
comment on column swr.repository_layering.repository_id is 'The repository.';
comment on column swr.repository_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.repository_layering.exclusive_bytes is 'Sum of the layers no other repository of the instance has.';

-- swr_report.storage_by_repository reads this from now on; the other tables are filled by
-- the next publish, which finds no artifact counted.
insert into swr.repository_layering (instance_id, layer_count, repository_id, layer_bytes, exclusive_bytes)
with held as (
    select distinct a.instance_id, a.repository_id, s.layer_id
    from swr.artifact a
    join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
    cross join lateral unnest(m.build_step_ids) as e (build_step_id)
    join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
    where a.removed_at is null and s.layer_id is not null
),
used as (
    select instance_id, layer_id, count(*) as repositories
    from held
    group by instance_id, layer_id
)
select
    h.instance_id,
    count(*),
    h.repository_id,
    coalesce(swr.total_bytes(sum(l.size_bytes)), 0),
    coalesce(swr.total_bytes(sum(l.size_bytes) filter (where u.repositories = 1)), 0)
from held h
join used u on u.instance_id = h.instance_id and u.layer_id = h.layer_id
join swr.layer l on l.instance_id = h.instance_id and l.layer_id = h.layer_id
group by h.instance_id, h.repository_id;

create table swr.namespace_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    namespace_id    bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    primary key (instance_id, namespace_id)
);

comment on table swr.namespace_layering is
    'One row per namespace with layers: its layers in numbers, from swr.repository_layer.';
comment on column swr.namespace_layering.instance_id is 'The instance.';
comment on column swr.namespace_layering.layer_count is 'Number of distinct layers.';
comment on column swr.namespace_layering.namespace_id is 'The namespace; 0 where neither the catalog nor the artifact list tells it.';
comment on column swr.namespace_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.namespace_layering.exclusive_bytes is 'Sum of the layers no other namespace of the instance has.';
