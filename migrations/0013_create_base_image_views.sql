-- Which image is built on which, by the chain ids of their layers.

create view swr_report.base_image as
with candidate as (
    select
        g.instance_id,
        g.chain_id,
        g.artifact_id,
        a.pushed_at,
        exists (
            select from swr.tag t where t.instance_id = g.instance_id and t.artifact_id = g.artifact_id
        ) as is_tagged
    from swr.artifact_layering g
    join (
        select distinct instance_id, base_chain_id
        from swr.artifact_layering
        where base_chain_id is not null
    ) b on b.instance_id = g.instance_id and b.base_chain_id = g.chain_id
    join swr.artifact a on a.instance_id = g.instance_id and a.artifact_id = g.artifact_id
),
chosen as (
    select
        instance_id,
        chain_id,
        (array_agg(artifact_id order by is_tagged desc, pushed_at nulls last, artifact_id))[1] as artifact_id,
        count(*) as candidates
    from candidate
    group by instance_id, chain_id
),
base as (
    select
        c.instance_id,
        c.chain_id,
        c.artifact_id,
        c.candidates,
        coalesce(r.namespace_name, n.name) as namespace,
        coalesce(r.name, a.repository_name) as repository,
        a.digest,
        array(
            select t.name
            from swr.tag t
            where t.instance_id = c.instance_id and t.artifact_id = c.artifact_id
            order by t.name
        ) as tags,
        a.pushed_at,
        g.layer_count,
        g.layer_bytes
    from chosen c
    join swr.artifact a on a.instance_id = c.instance_id and a.artifact_id = c.artifact_id
    join swr.artifact_layering g on g.instance_id = c.instance_id and g.artifact_id = c.artifact_id
    left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
    left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
)
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.digest,
    coalesce(t.tags, '{}') as tags,
    b.namespace as base_namespace,
    b.repository as base_repository,
    b.digest as base_digest,
    b.tags as base_tags,
    b.pushed_at as base_pushed_at,
    b.candidates as base_candidates,
    b.layer_count as base_layers,
    b.layer_bytes as base_layer_bytes,
    g.layer_count as layers,
    g.layer_bytes,
    a.pushed_at,
    a.pulled_at,
    g.chain_id,
    g.base_chain_id,
    g.shared_chain_id,
    g.artifact_id,
    b.artifact_id as base_artifact_id,
    a.repository_id,
    g.instance_id
from swr.artifact_layering g
join swr.artifact a on a.instance_id = g.instance_id and a.artifact_id = g.artifact_id
join swr.instance i on i.instance_id = g.instance_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
left join base b on b.instance_id = g.instance_id and b.chain_id = g.base_chain_id
left join (
    select instance_id, artifact_id, array_agg(name order by name) as tags
    from swr.tag
    group by instance_id, artifact_id
) t on t.instance_id = g.instance_id and t.artifact_id = g.artifact_id
where g.chain_id is not null;

comment on view swr_report.base_image is
    'Which artifact is the exact base of which? One row per image that exists now and has layers: its base is the artifact whose layers, all of them, are the longest beginning of the image''s own that is not the whole. The base columns are NULL where the registry holds no such artifact; swr_report.unknown_base groups those.';
comment on column swr_report.base_image.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.base_image.namespace is 'Name of the namespace.';
comment on column swr_report.base_image.repository is 'Name of the repository without the namespace.';
comment on column swr_report.base_image.digest is 'Digest of the manifest.';
comment on column swr_report.base_image.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr_report.base_image.base_namespace is 'Namespace of the base.';
comment on column swr_report.base_image.base_repository is 'Repository of the base.';
comment on column swr_report.base_image.base_digest is 'Digest of the base.';
comment on column swr_report.base_image.base_tags is 'Tags of the base; empty if untagged.';
comment on column swr_report.base_image.base_pushed_at is 'When the base was pushed.';
comment on column swr_report.base_image.base_candidates is
    'Number of artifacts with exactly the layers of the base. Shown is a tagged one before others, then the one pushed first, then the one with the lowest id.';
comment on column swr_report.base_image.base_layers is 'Number of distinct layers of the base.';
comment on column swr_report.base_image.base_layer_bytes is 'Sum of the distinct layers of the base.';
comment on column swr_report.base_image.layers is 'Number of distinct layers.';
comment on column swr_report.base_image.layer_bytes is 'Sum of the distinct layers.';
comment on column swr_report.base_image.pushed_at is 'Last push.';
comment on column swr_report.base_image.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.base_image.chain_id is 'Names the sequence of its layers.';
comment on column swr_report.base_image.base_chain_id is 'Names the sequence of the base''s layers.';
comment on column swr_report.base_image.shared_chain_id is
    'Names the longest beginning that it shares with an artifact of another digest which is not built on it; NULL if there is none.';
comment on column swr_report.base_image.artifact_id is 'Id in SWR.';
comment on column swr_report.base_image.base_artifact_id is 'Id of the base in SWR.';
comment on column swr_report.base_image.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.base_image.instance_id is 'Key of swr.instance.';

create view swr_report.unknown_base as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    u.shared_chain_id as chain_id,
    c.layers,
    c.layer_bytes,
    u.artifacts,
    u.repositories,
    coalesce(r.namespace_name, n.name) as example_namespace,
    coalesce(r.name, a.repository_name) as example_repository,
    a.digest as example_digest,
    u.last_pushed_at,
    u.instance_id
from (
    select
        g.instance_id,
        g.shared_chain_id,
        count(*) as artifacts,
        count(distinct a.repository_id) as repositories,
        max(a.pushed_at) as last_pushed_at,
        min(g.artifact_id) as artifact_id
    from swr.artifact_layering g
    join swr.artifact a on a.instance_id = g.instance_id and a.artifact_id = g.artifact_id
    where g.base_chain_id is null and g.shared_chain_id is not null
    group by g.instance_id, g.shared_chain_id
) u
join swr.instance i on i.instance_id = u.instance_id
join swr.artifact a on a.instance_id = u.instance_id and a.artifact_id = u.artifact_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
cross join lateral (
    -- The example's steps up to the one that ends the chain.
    select count(distinct s.layer_id) as layers, swr.total_bytes(sum(s.size_bytes)) as layer_bytes
    from (
        select
            s.layer_id,
            -- A layer that comes twice counts once.
            case when row_number() over (partition by s.layer_id order by e.position) = 1 then l.size_bytes end
                as size_bytes,
            e.position
        from swr.manifest m
        cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
        join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
        join swr.layer l on l.instance_id = s.instance_id and l.layer_id = s.layer_id
        where m.instance_id = u.instance_id and m.digest = a.digest
    ) s
    where s.position <= (
        select min(e.position)
        from swr.manifest m
        cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
        join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
        where m.instance_id = u.instance_id and m.digest = a.digest and s.chain_id = u.shared_chain_id
    )
) c;

comment on view swr_report.unknown_base is
    'Which bases that the registry does not hold are in use? Images without a base in the registry, grouped by the longest beginning of layers they share with images not built on them: what is shared across repositories is a common base, what is shared within one may be a common step of its builds. Images that share nothing are not shown.';
comment on column swr_report.unknown_base.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.unknown_base.chain_id is 'Names the shared sequence of layers.';
comment on column swr_report.unknown_base.layers is 'Number of distinct layers in it.';
comment on column swr_report.unknown_base.layer_bytes is 'Sum of these layers.';
comment on column swr_report.unknown_base.artifacts is 'Number of artifacts that share it and nothing longer.';
comment on column swr_report.unknown_base.repositories is 'Number of repositories with such an artifact.';
comment on column swr_report.unknown_base.example_namespace is 'Namespace of one of them, the first pushed.';
comment on column swr_report.unknown_base.example_repository is 'Its repository.';
comment on column swr_report.unknown_base.example_digest is 'Its digest; the commands of its build history tell what the base is.';
comment on column swr_report.unknown_base.last_pushed_at is 'Latest push of such an artifact.';
comment on column swr_report.unknown_base.instance_id is 'Key of swr.instance.';

create function swr_report.built_on(base_digest text, in_instance text default null)
returns table (
    instance      text,
    namespace     text,
    repository    text,
    digest        text,
    tags          text[],
    is_direct     boolean,
    pushed_at     timestamptz,
    pulled_at     timestamptz,
    artifact_id   bigint,
    repository_id bigint,
    instance_id   integer
)
language sql
stable
parallel safe
-- Whoever may ask the views may ask this, too, without a right to the tables.
security definer
set search_path = swr, swr_report, pg_temp
as $$
    with base as materialized (
        select
            m.instance_id,
            (array_agg(s.chain_id order by e.position))[1] as root_chain_id,
            (array_agg(s.chain_id order by e.position desc))[1] as chain_id
        from swr.instance i
        join swr.manifest m on m.instance_id = i.instance_id and m.digest = base_digest
        cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
        join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
        where (in_instance is null or in_instance in (i.name, i.swr_instance_id))
          and s.chain_id is not null
        group by m.instance_id
    ),
    ending as materialized (
        -- The steps that complete the base's layers: an image with one of them has all of these.
        select b.instance_id, b.root_chain_id, b.chain_id, array_agg(s.build_step_id) as build_step_ids
        from base b
        join swr.build_step s on s.instance_id = b.instance_id and s.chain_id = b.chain_id
        where s.layer_id is not null or not s.empty_layer
        group by b.instance_id, b.root_chain_id, b.chain_id
    ),
    built as materialized (
        select g.instance_id, g.artifact_id, g.chain_id, g.base_chain_id
        from ending e
        join swr.artifact_layering g on g.instance_id = e.instance_id and g.root_chain_id = e.root_chain_id
        join swr.artifact a on a.instance_id = g.instance_id and a.artifact_id = g.artifact_id
        join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
        where g.chain_id <> e.chain_id and m.build_step_ids && e.build_step_ids
    )
    select
        coalesce(i.name, i.swr_instance_id),
        coalesce(r.namespace_name, n.name),
        coalesce(r.name, a.repository_name),
        a.digest,
        array(
            select t.name
            from swr.tag t
            where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
            order by t.name
        ),
        not exists (
            select from built x where x.instance_id = b.instance_id and x.chain_id = b.base_chain_id
        ),
        a.pushed_at,
        a.pulled_at,
        a.artifact_id,
        a.repository_id,
        a.instance_id
    from built b
    join swr.artifact a on a.instance_id = b.instance_id and a.artifact_id = b.artifact_id
    join swr.instance i on i.instance_id = a.instance_id
    left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
    left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
$$;

comment on function swr_report.built_on(text, text) is
    'What must be rebuilt when this base changes? The artifacts that exist now and begin with all layers of the given digest, directly or through other bases that exist now (is_direct tells), in every instance or in the one of that name or SWR id. The base itself need not exist any more.';
