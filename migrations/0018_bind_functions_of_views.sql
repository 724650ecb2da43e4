-- A view calls these functions, and the server read their text with the search path of whoever reads
-- the view: with an operator of somebody else's in a schema that everyone may create in, that ran as
-- the reader. A body in standard SQL is read once, when the function is created.

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
