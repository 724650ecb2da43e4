-- Candidates for a clean-up: what no tag names, and what is there more than once.

create view swr_report.untagged_artifact as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    a.digest,
    a.type,
    a.size_bytes,
    g.exclusive_bytes,
    coalesce(a.size_bytes <= x.largest_bytes and a.pushed_at <= x.last_pushed_at, false) as may_be_in_index,
    a.pushed_at,
    a.pulled_at,
    greatest(a.pushed_at, a.pulled_at) as last_used_at,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.artifact a
join swr.instance i on i.instance_id = a.instance_id
left join swr.tag t on t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
left join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
left join (
    select instance_id, repository_id, max(size_bytes) as largest_bytes, max(pushed_at) as last_pushed_at
    from swr.artifact
    where swr.is_index(manifest_media_type) and removed_at is null
    group by instance_id, repository_id
) x on x.instance_id = a.instance_id and x.repository_id = a.repository_id and not swr.is_index(a.manifest_media_type)
where a.removed_at is null and t.artifact_id is null;

comment on view swr_report.untagged_artifact is
    'What does no tag name? Clean-up candidates, one row per untagged artifact that exists now; but the images of an index are untagged too, see may_be_in_index.';
comment on column swr_report.untagged_artifact.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.untagged_artifact.namespace is 'Name of the namespace.';
comment on column swr_report.untagged_artifact.repository is 'Name of the repository without the namespace.';
comment on column swr_report.untagged_artifact.digest is 'Digest of the manifest.';
comment on column swr_report.untagged_artifact.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.untagged_artifact.size_bytes is 'Size as the API gives it.';
comment on column swr_report.untagged_artifact.exclusive_bytes is
    'Sum of the layers no other artifact of the instance has; NULL where the layers are not known. What several free together is more: ask swr_report.reclaimable.';
comment on column swr_report.untagged_artifact.may_be_in_index is
    'Whether the artifact may be one of the images of an index (multi-platform image): its repository holds an index as large or larger, and one pushed at the same time or later. The API does not tell which images an index has. False means it is in none.';
comment on column swr_report.untagged_artifact.pushed_at is 'Last push.';
comment on column swr_report.untagged_artifact.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.untagged_artifact.last_used_at is 'Last push or pull, whichever was later.';
comment on column swr_report.untagged_artifact.artifact_id is 'Id in SWR.';
comment on column swr_report.untagged_artifact.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.untagged_artifact.instance_id is 'Key of swr.instance.';

create view swr_report.duplicate_artifact as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    d.digest,
    d.type,
    d.repositories,
    d.size_bytes,
    d.size_bytes * (d.repositories - 1) as repeated_bytes,
    d.places,
    d.first_pushed_at,
    d.last_pushed_at,
    d.last_pulled_at,
    d.instance_id
from (
    select
        c.instance_id,
        c.digest,
        min(a.type) as type,
        count(*) as repositories,
        max(a.size_bytes) as size_bytes,
        array_agg(p.place order by p.place) as places,
        min(a.pushed_at) as first_pushed_at,
        max(a.pushed_at) as last_pushed_at,
        max(a.pulled_at) as last_pulled_at
    from (
        select instance_id, digest
        from swr.artifact
        where removed_at is null
        group by instance_id, digest
        having count(distinct repository_id) > 1
    ) c
    join swr.artifact a on a.instance_id = c.instance_id and a.digest = c.digest and a.removed_at is null
    left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
    left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
    cross join lateral (
        select concat_ws('/', coalesce(r.namespace_name, n.name), coalesce(r.name, a.repository_name)) as place
    ) p
    group by c.instance_id, c.digest
) d
join swr.instance i on i.instance_id = d.instance_id;

comment on view swr_report.duplicate_artifact is
    'Which digests are in several repositories? One row per digest and instance. The registry stores their layers once, so that deleting all but one frees nothing but tags and order.';
comment on column swr_report.duplicate_artifact.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.duplicate_artifact.digest is 'Digest of the manifest.';
comment on column swr_report.duplicate_artifact.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.duplicate_artifact.repositories is 'Number of repositories that hold it.';
comment on column swr_report.duplicate_artifact.size_bytes is 'Size as the API gives it.';
comment on column swr_report.duplicate_artifact.repeated_bytes is 'What sums of sizes count more than once.';
comment on column swr_report.duplicate_artifact.places is 'The repositories, each as namespace/repository, in alphabetical order.';
comment on column swr_report.duplicate_artifact.first_pushed_at is 'First push into any of them.';
comment on column swr_report.duplicate_artifact.last_pushed_at is 'Last push into any of them.';
comment on column swr_report.duplicate_artifact.last_pulled_at is 'Last pull from any of them; NULL if never.';
comment on column swr_report.duplicate_artifact.instance_id is 'Key of swr.instance.';
