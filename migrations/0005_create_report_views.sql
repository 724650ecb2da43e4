-- The views people query: flat, with names instead of ids. They show published
-- listings only, and removed rows nowhere but in the history of tags.

create schema swr_report;

comment on schema swr_report is 'Views over the mirrored registries; each answers the question in its comment.';

create view swr_report.artifact as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.digest,
    coalesce(t.tags, '{}') as tags,
    a.type,
    a.size_bytes,
    a.pushed_at,
    a.pulled_at,
    m.outcome as build_history,
    coalesce(cardinality(m.build_step_ids), 0) as build_steps,
    a.media_type,
    a.manifest_media_type,
    a.artifact_id,
    a.repository_id,
    a.namespace_id,
    a.instance_id,
    a.extra
from swr.artifact a
join swr.instance i on i.instance_id = a.instance_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
left join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
left join (
    select instance_id, artifact_id, array_agg(name order by name) as tags
    from swr.tag
    group by instance_id, artifact_id
) t on t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
where a.removed_at is null;

comment on view swr_report.artifact is 'What is in the registry? One row per artifact that exists now.';
comment on column swr_report.artifact.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.artifact.namespace is 'Name of the namespace.';
comment on column swr_report.artifact.repository is 'Name of the repository without the namespace.';
comment on column swr_report.artifact.digest is 'Digest of the manifest.';
comment on column swr_report.artifact.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr_report.artifact.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.artifact.size_bytes is 'Size as the API gives it.';
comment on column swr_report.artifact.pushed_at is 'Last push.';
comment on column swr_report.artifact.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.artifact.build_history is 'How the fetch of the build history ended; see swr.manifest.outcome.';
comment on column swr_report.artifact.build_steps is 'Number of build steps.';
comment on column swr_report.artifact.media_type is 'Media type of the config.';
comment on column swr_report.artifact.manifest_media_type is 'Media type of the manifest.';
comment on column swr_report.artifact.artifact_id is 'Id in SWR.';
comment on column swr_report.artifact.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.artifact.namespace_id is 'Id of the namespace in SWR.';
comment on column swr_report.artifact.instance_id is 'Key of swr.instance.';
comment on column swr_report.artifact.extra is 'Fields of the API that have no column.';

create view swr_report.tag as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    r.namespace_name as namespace,
    coalesce(r.name, a.repository_name) as repository,
    t.name as tag,
    a.digest,
    t.pushed_at,
    t.pulled_at,
    a.size_bytes,
    a.type,
    t.tag_id,
    t.artifact_id,
    t.repository_id,
    t.instance_id
from swr.tag t
join swr.instance i on i.instance_id = t.instance_id
join swr.artifact a on a.instance_id = t.instance_id and a.artifact_id = t.artifact_id
left join swr.repository r on r.instance_id = t.instance_id and r.repository_id = t.repository_id;

comment on view swr_report.tag is 'What does each tag point to? One row per tag that exists now.';
comment on column swr_report.tag.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.tag.namespace is 'Name of the namespace.';
comment on column swr_report.tag.repository is 'Name of the repository without the namespace.';
comment on column swr_report.tag.tag is 'Name of the tag.';
comment on column swr_report.tag.digest is 'The digest it points to.';
comment on column swr_report.tag.pushed_at is 'When the tag was pushed.';
comment on column swr_report.tag.pulled_at is 'Last pull by this tag; NULL if never.';
comment on column swr_report.tag.size_bytes is 'Size of the artifact.';
comment on column swr_report.tag.type is 'Type of the artifact.';
comment on column swr_report.tag.tag_id is 'Id in SWR.';
comment on column swr_report.tag.artifact_id is 'Id of the artifact in SWR.';
comment on column swr_report.tag.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.tag.instance_id is 'Key of swr.instance.';

create view swr_report.build_history as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.digest,
    e.position,
    s.created_at,
    c.command,
    s.empty_layer,
    l.digest as layer_digest,
    l.size_bytes as layer_size_bytes,
    l.media_type as layer_media_type,
    s.chain_id,
    s.created_at_ns,
    a.artifact_id,
    a.repository_id,
    a.instance_id,
    s.extra
from swr.artifact a
join swr.instance i on i.instance_id = a.instance_id
join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
left join swr.command c on c.instance_id = s.instance_id and c.command_id = s.command_id
left join swr.layer l on l.instance_id = s.instance_id and l.layer_id = s.layer_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
where a.removed_at is null;

comment on view swr_report.build_history is
    'How was each image built? One row per artifact that exists now and build step, oldest step first by position.';
comment on column swr_report.build_history.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.build_history.namespace is 'Name of the namespace.';
comment on column swr_report.build_history.repository is 'Name of the repository without the namespace.';
comment on column swr_report.build_history.digest is 'Digest of the manifest.';
comment on column swr_report.build_history.position is 'Place of the step, from 1, oldest first.';
comment on column swr_report.build_history.created_at is 'When the step was built; reproducible builds write 1970 or the year 1.';
comment on column swr_report.build_history.command is 'The build command; may carry secrets.';
comment on column swr_report.build_history.empty_layer is 'Whether the step made no layer.';
comment on column swr_report.build_history.layer_digest is 'Digest of the layer the step made.';
comment on column swr_report.build_history.layer_size_bytes is 'Compressed size of that layer.';
comment on column swr_report.build_history.layer_media_type is 'Media type of that layer.';
comment on column swr_report.build_history.chain_id is 'Equal in two images exactly when they share all layers up to this step.';
comment on column swr_report.build_history.created_at_ns is 'Nanoseconds beyond the microseconds of created_at.';
comment on column swr_report.build_history.artifact_id is 'Id of the artifact in SWR.';
comment on column swr_report.build_history.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.build_history.instance_id is 'Key of swr.instance.';
comment on column swr_report.build_history.extra is 'Fields of the entry that have no column.';

create view swr_report.storage_by_repository as
with repository_layer as (
    select distinct a.instance_id, a.repository_id, s.layer_id
    from swr.artifact a
    join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
    cross join lateral unnest(m.build_step_ids) as e (build_step_id)
    join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
    where a.removed_at is null and s.layer_id is not null
),
layer_use as (
    select instance_id, layer_id, count(*) as repositories
    from repository_layer
    group by instance_id, layer_id
),
repository_bytes as (
    select
        x.instance_id,
        x.repository_id,
        sum(l.size_bytes)::bigint as layer_bytes,
        coalesce(sum(l.size_bytes) filter (where u.repositories = 1), 0)::bigint as exclusive_bytes
    from repository_layer x
    join layer_use u on u.instance_id = x.instance_id and u.layer_id = x.layer_id
    join swr.layer l on l.instance_id = x.instance_id and l.layer_id = x.layer_id
    group by x.instance_id, x.repository_id
),
repository_artifact as (
    select
        instance_id,
        repository_id,
        min(repository_name) as repository_name,
        count(*) as artifacts,
        sum(size_bytes)::bigint as logical_bytes,
        max(pushed_at) as last_pushed_at,
        max(pulled_at) as last_pulled_at
    from swr.artifact
    where removed_at is null
    group by instance_id, repository_id
)
select
    coalesce(i.name, i.swr_instance_id) as instance,
    r.namespace_name as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.artifacts,
    coalesce(a.logical_bytes, 0) as logical_bytes,
    coalesce(b.layer_bytes, 0) as layer_bytes,
    coalesce(b.exclusive_bytes, 0) as exclusive_bytes,
    a.last_pushed_at,
    a.last_pulled_at,
    a.repository_id,
    a.instance_id
from repository_artifact a
join swr.instance i on i.instance_id = a.instance_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join repository_bytes b on b.instance_id = a.instance_id and b.repository_id = a.repository_id;

comment on view swr_report.storage_by_repository is
    'Which repositories take the space, and how much of it do they share? One row per repository with artifacts.';
comment on column swr_report.storage_by_repository.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.storage_by_repository.namespace is 'Name of the namespace.';
comment on column swr_report.storage_by_repository.repository is 'Name of the repository without the namespace.';
comment on column swr_report.storage_by_repository.artifacts is 'Number of artifacts.';
comment on column swr_report.storage_by_repository.logical_bytes is 'Sum of the artifacts'' sizes, as if nothing were shared.';
comment on column swr_report.storage_by_repository.layer_bytes is 'Sum of the distinct layers of the repository: what it takes after sharing.';
comment on column swr_report.storage_by_repository.exclusive_bytes is 'Sum of the layers no other repository of the instance has: what deleting the repository would free.';
comment on column swr_report.storage_by_repository.last_pushed_at is 'Latest push.';
comment on column swr_report.storage_by_repository.last_pulled_at is 'Latest pull; NULL if never.';
comment on column swr_report.storage_by_repository.repository_id is 'Id in SWR.';
comment on column swr_report.storage_by_repository.instance_id is 'Key of swr.instance.';

create function swr_report.stale_artifact(unused_for interval default interval '90 days')
returns table (
    instance     text,
    namespace    text,
    repository   text,
    digest       text,
    tags         text[],
    size_bytes   bigint,
    pushed_at    timestamptz,
    pulled_at    timestamptz,
    last_used_at timestamptz,
    artifact_id  bigint,
    instance_id  integer
)
language sql
stable
as $$
    select
        a.instance, a.namespace, a.repository, a.digest, a.tags, a.size_bytes, a.pushed_at, a.pulled_at,
        greatest(a.pushed_at, a.pulled_at), a.artifact_id, a.instance_id
    from swr_report.artifact a
    where greatest(a.pushed_at, a.pulled_at) < now() - unused_for
$$;

comment on function swr_report.stale_artifact(interval) is
    'What does nobody use? Artifacts neither pushed nor pulled for the given time (90 days if none is given), with their sizes.';

create view swr_report.tag_move as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    r.namespace_name as namespace,
    r.name as repository,
    h.name as tag,
    h.valid_to as moved_at,
    h.digest as from_digest,
    h.next_digest as to_digest,
    h.closed_run_id as run_id,
    h.repository_id,
    h.instance_id
from (
    select
        x.*,
        case when lead(x.valid_from) over w = x.valid_to then lead(x.digest) over w end as next_digest
    from swr.tag_history x
    window w as (partition by x.instance_id, x.repository_id, x.name order by x.valid_from)
) h
join swr.instance i on i.instance_id = h.instance_id
left join swr.repository r on r.instance_id = h.instance_id and r.repository_id = h.repository_id
where h.valid_to is not null;

comment on view swr_report.tag_move is
    'Which tags moved, and when? One row per move or removal; the time is off by one sync interval at most.';
comment on column swr_report.tag_move.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.tag_move.namespace is 'Name of the namespace.';
comment on column swr_report.tag_move.repository is 'Name of the repository without the namespace.';
comment on column swr_report.tag_move.tag is 'Name of the tag.';
comment on column swr_report.tag_move.moved_at is 'When the tag left the digest.';
comment on column swr_report.tag_move.from_digest is 'The digest it pointed to before.';
comment on column swr_report.tag_move.to_digest is 'The digest it points to since; NULL if the tag was removed.';
comment on column swr_report.tag_move.run_id is 'The run that saw it.';
comment on column swr_report.tag_move.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.tag_move.instance_id is 'Key of swr.instance.';

create view swr_report.freshness as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    p.published_at as last_published_at,
    p.run_id as last_published_run_id,
    p.listing_started_at as as_of,
    now() - p.listing_started_at as age,
    coalesce(f.failures, 0) as failures_since,
    f.error as last_error,
    w.waiting as histories_waiting,
    i.instance_id
from swr.instance i
left join lateral (
    select run_id, published_at, listing_started_at
    from swr.sync_run
    where instance_id = i.instance_id and outcome = 'published'
    order by run_id desc
    limit 1
) p on true
left join lateral (
    select count(*) as failures, (array_agg(s.error order by s.run_id desc))[1] as error
    from swr.sync_run s
    where s.instance_id = i.instance_id
      and s.run_id > coalesce(p.run_id, 0)
      and s.outcome in ('failed', 'stopped', 'abandoned')
) f on true
left join lateral (
    select count(*) as waiting
    from swr.manifest m
    where m.instance_id = i.instance_id and m.next_attempt_at is not null
) w on true;

comment on view swr_report.freshness is 'How old is what I see? One row per instance.';
comment on column swr_report.freshness.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.freshness.last_published_at is 'When the last complete listing became visible; NULL if none did.';
comment on column swr_report.freshness.last_published_run_id is 'The run that published it.';
comment on column swr_report.freshness.as_of is 'When that listing began: changes before it are in, changes after it may be missing.';
comment on column swr_report.freshness.age is 'Time since then.';
comment on column swr_report.freshness.failures_since is 'Runs that failed since.';
comment on column swr_report.freshness.last_error is 'Why the latest of them failed.';
comment on column swr_report.freshness.histories_waiting is 'Build histories that later runs will ask for again.';
comment on column swr_report.freshness.instance_id is 'Key of swr.instance.';
