-- How the registry changed: its tags at any time, what each run found, growth by day.

create function swr_report.tag_at(at timestamptz)
returns table (
    instance      text,
    namespace     text,
    repository    text,
    tag           text,
    digest        text,
    size_bytes    bigint,
    valid_from    timestamptz,
    valid_to      timestamptz,
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
    select
        coalesce(i.name, i.swr_instance_id),
        coalesce(r.namespace_name, n.name),
        coalesce(r.name, a.repository_name),
        h.name,
        h.digest,
        a.size_bytes,
        h.valid_from,
        h.valid_to,
        h.artifact_id,
        h.repository_id,
        h.instance_id
    from swr.tag_history h
    join swr.instance i on i.instance_id = h.instance_id
    left join swr.artifact a on a.instance_id = h.instance_id and a.artifact_id = h.artifact_id
    left join swr.repository r on r.instance_id = h.instance_id and r.repository_id = h.repository_id
    left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
    where h.valid_from <= at and (h.valid_to > at or h.valid_to is null)
$$;

comment on function swr_report.tag_at(timestamptz) is
    'What did each tag point to at that time? One row per tag. A tag moved by a push is right to the moment; for a removal, and a tag moved without a push, the time is that of the listing that saw it, so the answer lags by one sync interval at most; a tag that moved twice between two listings shows the last move. Before the first listing there is only what that listing still showed, since its push; after the last one (swr_report.freshness.as_of) the answer is the state then.';

create view swr_report.change as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    c.run_id,
    u.listing_started_at as seen_at,
    c.change,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    c.tag,
    c.digest,
    c.previous_digest,
    a.size_bytes,
    c.changed_at,
    c.previous,
    c.artifact_id,
    a.repository_id,
    c.instance_id
from (
    select instance_id, first_seen_run_id as run_id, 'artifact added' as change, null::text as tag, digest,
           null::text as previous_digest, pushed_at as changed_at, null::jsonb as previous, artifact_id
    from swr.artifact
    union all
    select instance_id, removed_run_id, 'artifact removed', null, digest, null, removed_at, null, artifact_id
    from swr.artifact
    where removed_run_id is not null
    union all
    -- A removal that was taken back left the artifact's row and is told by its return.
    select c.instance_id, (c.previous->>'removed_run_id')::bigint, 'artifact removed', null, a.digest, null,
           (c.previous->>'removed_at')::timestamptz, null, c.artifact_id
    from swr.artifact_change c
    join swr.artifact a on a.instance_id = c.instance_id and a.artifact_id = c.artifact_id
    where c.change = 'restored'
    union all
    select c.instance_id, c.run_id, 'artifact ' || c.change, null, a.digest, c.previous->>'digest', null, c.previous,
           c.artifact_id
    from swr.artifact_change c
    join swr.artifact a on a.instance_id = c.instance_id and a.artifact_id = c.artifact_id
    union all
    select
        coalesce(o.instance_id, d.instance_id),
        coalesce(o.opened_run_id, d.closed_run_id),
        case when d.name is null then 'tag added' when o.name is null then 'tag removed' else 'tag moved' end,
        coalesce(o.name, d.name),
        o.digest,
        d.digest,
        coalesce(o.valid_from, d.valid_to),
        null,
        coalesce(o.artifact_id, d.artifact_id)
    from swr.tag_history o
    full join (select * from swr.tag_history where closed_run_id is not null) d
      on d.instance_id = o.instance_id and d.repository_id = o.repository_id and d.name = o.name
     and d.closed_run_id = o.opened_run_id
) c
join swr.instance i on i.instance_id = c.instance_id
left join swr.sync_run u on u.instance_id = c.instance_id and u.run_id = c.run_id
left join swr.artifact a on a.instance_id = c.instance_id and a.artifact_id = c.artifact_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id;

comment on view swr_report.change is
    'What did each run find added, changed, moved or removed? One row per run and artifact or tag. Happened it has between the listing of this run and that of the one before; what came and went in between was never seen. A changed pull time alone is no change.';
comment on column swr_report.change.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.change.run_id is 'The run that found it.';
comment on column swr_report.change.seen_at is 'When the listing of that run began.';
comment on column swr_report.change.change is
    'artifact added, artifact changed, artifact removed, artifact restored (listed again under the same id), tag added, tag moved or tag removed.';
comment on column swr_report.change.namespace is 'Name of the namespace.';
comment on column swr_report.change.repository is 'Name of the repository without the namespace.';
comment on column swr_report.change.tag is 'The tag; NULL if it is about an artifact.';
comment on column swr_report.change.digest is 'The digest of the artifact, or the one the tag points to since; NULL for a removed tag.';
comment on column swr_report.change.previous_digest is 'The digest the tag pointed to before.';
comment on column swr_report.change.size_bytes is 'Size of the artifact, or of the one the tag points to since.';
comment on column swr_report.change.changed_at is
    'When it happened, as near as is known: the time of the push, else that of the listing, which is late by one sync interval at most; NULL for changed and restored artifacts.';
comment on column swr_report.change.previous is 'What a changed or restored artifact was like before: the columns of swr.artifact that differ.';
comment on column swr_report.change.artifact_id is 'Id of the artifact in SWR; of a removed tag, of the one it pointed to.';
comment on column swr_report.change.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.change.instance_id is 'Key of swr.instance.';

create view swr_report.growth_by_day as
with event as (
    select
        a.instance_id,
        coalesce(a.namespace_id, 0) as namespace_id,
        (coalesce(a.pushed_at, u.listing_started_at) at time zone 'UTC')::date as day,
        1 as pushes,
        coalesce(a.logical_bytes, 0) as pushed_bytes,
        0 as removals,
        0 as removed_bytes
    from swr.sized_artifact a
    left join swr.sync_run u on u.instance_id = a.instance_id and u.run_id = a.first_seen_run_id
    union all
    select instance_id, coalesce(namespace_id, 0), (removed_at at time zone 'UTC')::date, 0, 0, 1,
           coalesce(logical_bytes, 0)
    from swr.sized_artifact
    where removed_at is not null
),
counted as (
    select
        instance_id,
        namespace_id,
        day,
        sum(pushes) as pushes,
        swr.total_bytes(sum(pushed_bytes)) as pushed_bytes,
        sum(removals) as removals,
        swr.total_bytes(sum(removed_bytes)) as removed_bytes
    from event
    group by instance_id, namespace_id, day
)
select
    coalesce(i.name, i.swr_instance_id) as instance,
    n.name as namespace,
    c.day,
    c.pushes,
    c.pushed_bytes,
    c.removals,
    c.removed_bytes,
    (sum(c.pushes - c.removals) over so_far)::bigint as artifacts,
    swr.total_bytes(sum(c.pushed_bytes::numeric - c.removed_bytes) over so_far) as logical_bytes,
    c.namespace_id,
    c.instance_id
from counted c
join swr.instance i on i.instance_id = c.instance_id
left join swr.namespace n on n.instance_id = c.instance_id and n.namespace_id = c.namespace_id
window so_far as (partition by c.instance_id, c.namespace_id order by c.day);

comment on view swr_report.growth_by_day is
    'How does the registry grow? One row per namespace and day (UTC) with a push or a removal. Pushes count on the day of the push, removals on the day of the listing that no longer showed the artifact, which is late by one sync interval at most. What was removed before the first listing, or pushed and removed between two listings, was never seen.';
comment on column swr_report.growth_by_day.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.growth_by_day.namespace is 'Name of the namespace; NULL where neither the catalog nor the artifact list tells it.';
comment on column swr_report.growth_by_day.day is 'The day, in UTC.';
comment on column swr_report.growth_by_day.pushes is 'Artifacts pushed; one pushed again counts on the day of its last push.';
comment on column swr_report.growth_by_day.pushed_bytes is 'Sum of their sizes, as if nothing were shared; of indexes see swr_report.storage_by_namespace.';
comment on column swr_report.growth_by_day.removals is 'Artifacts removed.';
comment on column swr_report.growth_by_day.removed_bytes is 'Sum of their sizes.';
comment on column swr_report.growth_by_day.artifacts is 'Number of artifacts at the end of the day, of those ever seen.';
comment on column swr_report.growth_by_day.logical_bytes is 'Sum of their sizes at the end of the day.';
comment on column swr_report.growth_by_day.namespace_id is 'Id in SWR; 0 where the namespace is not known.';
comment on column swr_report.growth_by_day.instance_id is 'Key of swr.instance.';
