-- A view calls these functions, and the server read their text with the search path of the reader's
-- session. Where everyone may create in a schema of that path, another role's operator ran with the
-- reader's rights. A body in standard SQL is read once, when the function is created.

create or replace function swr.total_bytes(total numeric)
returns bigint
language sql
immutable
parallel safe
return case
    when total > 9223372036854775807 then 9223372036854775807
    when total < -9223372036854775808 then -9223372036854775808
    else total
end::bigint;

create or replace function swr.is_index(manifest_media_type text)
returns boolean
language sql
immutable
parallel safe
return coalesce(manifest_media_type in (
    'application/vnd.oci.image.index.v1+json',
    'application/vnd.docker.distribution.manifest.list.v2+json'
), false);

create or replace function swr_report.stale_artifact(unused_for interval default interval '90 days')
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
begin atomic
    select
        a.instance, a.namespace, a.repository, a.digest, a.tags, a.size_bytes, a.pushed_at, a.pulled_at,
        greatest(a.pushed_at, a.pulled_at), a.artifact_id, a.instance_id
    from swr_report.artifact a
    where greatest(a.pushed_at, a.pulled_at) < now() - unused_for;
end;

-- A size may be any number that the registry gives. The product of two must not stop the report.
create or replace view swr_report.duplicate_artifact as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    d.digest,
    d.type,
    d.repositories,
    d.size_bytes,
    swr.total_bytes(d.size_bytes::numeric * (d.repositories - 1)) as repeated_bytes,
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
