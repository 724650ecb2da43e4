-- Views for users: flat, with names instead of ids. They show published
-- listings only. Only the history of tags and of changes shows removed rows.
--
-- A query for one repository must only cost as much as its rows, even if the tables have not been
-- analyzed, and a query for the first rows must only cost as much as these:
-- - Names come from swr.named_repository by inner joins, so that a filter on a name reaches an index.
--   It is the first table of the joins: the planner only reorders the first eight relations
--   (join_collapse_limit).
-- - Data of one row (its tags, its base) is looked up for that row. A grouped subquery would
--   be computed for all rows before a filter applies.
-- - Views with groups group by the columns that users filter by.
-- - Where all steps of an image are shown, they are looked up by `build_step_id = any
--   (m.build_step_ids)`: without statistics, the planner assumes that an instance has few rows, and would
--   read all steps of the instance for each artifact.
-- - Functions are in PL/pgSQL, which plans with the arguments and works with Citus.

create schema swr_report;

comment on schema swr_report is 'Views of the mirrored registries; each answers the question in its comment.';

-- A view calls functions with the privileges and the search path of its reader. If everyone can
-- create objects in a schema of that path, another role's operator would run with the reader's privileges.
-- A body in standard SQL is parsed only once, when the function is created.

-- Sizes come from the registry and may have any value; their sums must not fail a run or a report.
create function swr.total_bytes(total numeric)
returns bigint
language sql
immutable
parallel safe
return case
    when total > 9223372036854775807 then 9223372036854775807
    when total < -9223372036854775808 then -9223372036854775808
    else total
end::bigint;

comment on function swr.total_bytes(numeric) is 'A sum of sizes, or the nearest bigint.';

create function swr.is_index(manifest_media_type text)
returns boolean
language sql
immutable
parallel safe
return coalesce(manifest_media_type in (
    'application/vnd.oci.image.index.v1+json',
    'application/vnd.docker.distribution.manifest.list.v2+json'
), false);

comment on function swr.is_index(text) is
    'Whether a manifest of this media type lists other manifests, one for each platform, instead of layers.';

-- The names and digests that a user can choose: what exists, and what existed.

create function swr.known_digest(beginning text)
returns text
language plpgsql
stable
parallel safe
-- Roles that can query the views can also call this, without privileges on the tables.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    first_digits text := 'sha256:' || regexp_replace(lower(beginning), '^sha256:', '');
    -- The letter g follows the last hexadecimal digit.
    after_digits text := first_digits || 'g';
    candidates   text[];
begin
    if first_digits !~ '^sha256:[0-9a-f]{7,64}$' then
        raise exception '"%" is no digest', beginning
        using errcode = 'invalid_parameter_value',
            hint = 'Give at least 7 hexadecimal digits, with or without sha256:.';
    end if;
    candidates := array(
        select distinct a.digest
        from swr.instance i
        join swr.artifact a on a.instance_id = i.instance_id
        where a.digest >= first_digits and a.digest < after_digits
        order by a.digest
        limit 5
    );
    if cardinality(candidates) = 0 then
        -- An artifact that was pushed again in place may have had it. No index has these digests.
        candidates := array(
            select distinct t.digest
            from swr.tag_history t
            where t.digest >= first_digits and t.digest < after_digits
            order by t.digest
            limit 5
        );
    end if;
    if cardinality(candidates) = 0 then
        raise exception 'no artifact has or had the digest "%"', beginning
        using errcode = 'no_data_found',
            hint = 'swr_report.artifact has the whole digests.';
    end if;
    if cardinality(candidates) > 1 then
        raise exception 'the digest "%" is ambiguous', beginning
        using errcode = 'cardinality_violation',
            hint = 'Use more digits; digests that begin like this: ' || array_to_string(candidates, ', ');
    end if;
    return candidates[1];
end
$$;

comment on function swr.known_digest(text) is
    'The digest that begins with these digits, at least 7, with or without sha256:, of an artifact that exists or existed; an error if there is none, or more than one.';

create function swr.known_repositories()
returns table (instance_id integer, namespace text, repository text)
language plpgsql
stable
parallel safe
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select n.instance_id, n.name, null::text
    from swr.namespace n
    union
    select r.instance_id, r.namespace_name, r.name
    from swr.repository r
    where r.namespace_name is not null;
end
$$;

comment on function swr.known_repositories() is
    'Which namespaces and repositories exist or existed? A row without a repository is a namespace.';

create view swr.named_repository as
select
    r.instance_id,
    r.repository_id,
    coalesce(i.name, i.swr_instance_id) as instance,
    r.namespace_name as namespace,
    r.name as repository,
    r.namespace_id
from swr.repository r
-- Each repository has an instance. With an inner join, the planner might start with all rows of the
-- instance in a table without statistics; and a left join is removed if the name is not selected.
left join swr.instance i on i.instance_id = r.instance_id;

comment on view swr.named_repository is 'The names of repositories for the views of swr_report. Each artifact, tag and layer count belongs to one of its rows.';
comment on column swr.named_repository.instance_id is 'The instance.';
comment on column swr.named_repository.repository_id is 'The repository.';
comment on column swr.named_repository.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr.named_repository.namespace is 'Name of the namespace; NULL if unknown.';
comment on column swr.named_repository.repository is 'Name of the repository without the namespace; NULL if unknown.';
comment on column swr.named_repository.namespace_id is 'The namespace according to the catalog; NULL if unknown.';

create view swr.sized_artifact as
select
    a.instance_id,
    a.artifact_id,
    a.repository_id,
    coalesce(a.namespace_id, r.namespace_id) as namespace_id,
    case when x.artifact_id is null then a.size_bytes else 0 end as logical_bytes,
    swr.known_time(a.pushed_at) as pushed_at,
    swr.known_time(a.pulled_at) as pulled_at,
    a.removed_at,
    a.first_seen_run_id
from swr.artifact a
join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join (
    select o.instance_id, o.artifact_id
    from swr.artifact o
    where swr.is_index(o.manifest_media_type)
      and exists (
          select
          from swr.artifact c
          where c.instance_id = o.instance_id and c.repository_id = o.repository_id
            and not swr.is_index(c.manifest_media_type) and c.size_bytes <= o.size_bytes
            and coalesce(swr.known_time(c.pushed_at) <= swr.known_time(o.pushed_at), true)
            -- A child is listed as long as its index.
            and (c.removed_at is null or c.removed_at >= o.removed_at)
            -- A removed artifact was untagged if no tag was removed with it.
            and not exists (
                select
                from swr.tag_history h
                where h.instance_id = c.instance_id and h.repository_id = c.repository_id
                  and h.artifact_id = c.artifact_id
                  and (h.valid_to is null or h.closed_run_id = c.removed_run_id)
            )
      )
) x on x.instance_id = a.instance_id and x.artifact_id = a.artifact_id;

comment on view swr.sized_artifact is 'Every artifact that was ever listed, with the bytes to count in a sum.';
comment on column swr.sized_artifact.instance_id is 'See swr.artifact.';
comment on column swr.sized_artifact.artifact_id is 'See swr.artifact.';
comment on column swr.sized_artifact.repository_id is 'See swr.artifact.';
comment on column swr.sized_artifact.namespace_id is 'The namespace from the artifact list, otherwise from the catalog.';
comment on column swr.sized_artifact.logical_bytes is
    'Size according to the API, but 0 for an index if its repository lists an artifact that may be its child, as long as it lists the index: the API includes the children in the size of the index, does not name them, and also lists each of them. A child is untagged, not an index, not larger than the index, and not pushed later. The few kilobytes of the index itself are not counted.';
comment on column swr.sized_artifact.pushed_at is 'See swr.artifact.';
comment on column swr.sized_artifact.pulled_at is 'See swr.artifact.';
comment on column swr.sized_artifact.removed_at is 'See swr.artifact.';
comment on column swr.sized_artifact.first_seen_run_id is 'See swr.artifact.';

create view swr.existing_artifact as
select
    r.instance,
    r.namespace,
    r.repository,
    a.digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
        order by t.name
    ) as tags,
    a.type,
    a.size_bytes,
    g.exclusive_bytes,
    not swr.is_index(a.manifest_media_type) and x.indexes > 0
        -- NULL where the missing values decide.
        and (a.size_bytes <= x.largest_bytes or case when x.unknown_sizes = 0 then false end)
        and (swr.known_time(a.pushed_at) <= x.last_pushed_at or case when x.unknown_times = 0 then false end)
        as may_be_in_index,
    swr.known_time(a.pushed_at) as pushed_at,
    swr.known_time(a.pulled_at) as pulled_at,
    greatest(swr.known_time(a.pushed_at), swr.known_time(a.pulled_at)) as last_used_at,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.named_repository r
cross join lateral (
    select
        count(*) as indexes,
        max(c.size_bytes) as largest_bytes,
        count(*) filter (where c.size_bytes is null) as unknown_sizes,
        max(swr.known_time(c.pushed_at)) as last_pushed_at,
        count(*) filter (where swr.known_time(c.pushed_at) is null) as unknown_times
    from swr.artifact c
    where c.instance_id = r.instance_id and c.repository_id = r.repository_id
      and swr.is_index(c.manifest_media_type) and c.removed_at is null
) x
join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
left join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
where a.removed_at is null;

comment on view swr.existing_artifact is 'What the reports about a clean-up show of each artifact that exists now.';
comment on column swr.existing_artifact.instance is 'See swr.named_repository.';
comment on column swr.existing_artifact.namespace is 'See swr.named_repository.';
comment on column swr.existing_artifact.repository is 'See swr.named_repository.';
comment on column swr.existing_artifact.digest is 'See swr.artifact.';
comment on column swr.existing_artifact.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr.existing_artifact.type is 'See swr.artifact.';
comment on column swr.existing_artifact.size_bytes is 'See swr.artifact.';
comment on column swr.existing_artifact.exclusive_bytes is 'See swr.artifact_layering; NULL if unknown.';
comment on column swr.existing_artifact.may_be_in_index is
    'Whether the artifact may be one of the images of an index; NULL if missing sizes or push times decide. See swr_report.untagged_artifact.';
comment on column swr.existing_artifact.pushed_at is 'Last push; NULL if unknown.';
comment on column swr.existing_artifact.pulled_at is 'Last pull; NULL if never.';
comment on column swr.existing_artifact.last_used_at is 'Last push or pull, whichever was later; NULL if both are unknown.';
comment on column swr.existing_artifact.artifact_id is 'See swr.artifact.';
comment on column swr.existing_artifact.repository_id is 'See swr.artifact.';
comment on column swr.existing_artifact.instance_id is 'See swr.artifact.';

create view swr.artifact_layer as
select a.instance_id, a.artifact_id, a.repository_id, coalesce(x.counted_layer_id, h.layer_id) as layer_id
from swr.artifact a
join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
cross join lateral unnest(m.layer_ids) as h (layer_id)
left join swr.layer_alias x on x.instance_id = m.instance_id and x.layer_id = h.layer_id
-- An image may have the layer both with and without its size.
where x.layer_id is null or x.counted_layer_id <> all (m.layer_ids);

comment on view swr.artifact_layer is
    'One row per artifact that exists now and distinct layer of its stored build history.';
comment on column swr.artifact_layer.instance_id is 'The instance.';
comment on column swr.artifact_layer.artifact_id is 'The artifact.';
comment on column swr.artifact_layer.repository_id is 'The repository.';
comment on column swr.artifact_layer.layer_id is 'The layer; if this history does not know its size but another one does, the layer with the size.';

create view swr_report.artifact as
select
    r.instance,
    r.namespace,
    r.repository,
    a.digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
        order by t.name
    ) as tags,
    a.type,
    a.size_bytes,
    swr.known_time(a.pushed_at) as pushed_at,
    swr.known_time(a.pulled_at) as pulled_at,
    m.outcome as build_history,
    case m.outcome when 'stored' then cardinality(m.build_step_ids) when 'empty' then 0 end as build_steps,
    a.media_type,
    a.manifest_media_type,
    a.artifact_id,
    a.repository_id,
    coalesce(a.namespace_id, r.namespace_id) as namespace_id,
    a.instance_id,
    a.extra
from swr.named_repository r
join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
left join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
where a.removed_at is null;

comment on view swr_report.artifact is 'What is in the registry? One row per artifact that exists now.';
comment on column swr_report.artifact.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.artifact.namespace is 'Name of the namespace.';
comment on column swr_report.artifact.repository is 'Name of the repository without the namespace.';
comment on column swr_report.artifact.digest is 'Digest of the manifest.';
comment on column swr_report.artifact.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr_report.artifact.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.artifact.size_bytes is 'Size according to the API.';
comment on column swr_report.artifact.pushed_at is 'Last push; NULL if unknown or before 1980, which registries write for an unknown time.';
comment on column swr_report.artifact.pulled_at is 'Last pull; NULL if never, or before 1980, which registries write for never.';
comment on column swr_report.artifact.build_history is
    'How the fetch of the build history ended; see swr.manifest.outcome. NULL if no run has requested it yet; see swr_report.history_failure.';
comment on column swr_report.artifact.build_steps is
    'Number of build steps; 0 for an empty build history; NULL if the build history is not known.';
comment on column swr_report.artifact.media_type is 'Media type of the config.';
comment on column swr_report.artifact.manifest_media_type is 'Media type of the manifest.';
comment on column swr_report.artifact.artifact_id is 'Id in SWR.';
comment on column swr_report.artifact.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.artifact.namespace_id is 'Id of the namespace in SWR, from the artifact list, otherwise from the catalog; NULL if neither has it.';
comment on column swr_report.artifact.instance_id is 'Key of swr.instance.';
comment on column swr_report.artifact.extra is 'Fields of the API without a column.';

create view swr_report.tag as
select
    r.instance,
    r.namespace,
    r.repository,
    t.name as tag,
    a.digest,
    swr.known_time(t.pushed_at) as pushed_at,
    swr.known_time(t.pulled_at) as pulled_at,
    a.size_bytes,
    a.type,
    t.tag_id,
    t.artifact_id,
    t.repository_id,
    t.instance_id
from swr.named_repository r
join swr.tag t on t.instance_id = r.instance_id and t.repository_id = r.repository_id
join swr.artifact a on a.instance_id = t.instance_id and a.artifact_id = t.artifact_id;

comment on view swr_report.tag is
    'What does each tag point to? One row per tag that exists now. A tag that the latest listing lacked for the first time, although it had the artifact, is still there.';
comment on column swr_report.tag.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.tag.namespace is 'Name of the namespace.';
comment on column swr_report.tag.repository is 'Name of the repository without the namespace.';
comment on column swr_report.tag.tag is 'Name of the tag.';
comment on column swr_report.tag.digest is 'The digest it points to.';
comment on column swr_report.tag.pushed_at is 'When the tag was pushed; NULL if unknown.';
comment on column swr_report.tag.pulled_at is 'Last pull by this tag; NULL if never.';
comment on column swr_report.tag.size_bytes is 'Size of the artifact.';
comment on column swr_report.tag.type is 'Type of the artifact.';
comment on column swr_report.tag.tag_id is 'Id in SWR.';
comment on column swr_report.tag.artifact_id is 'Id of the artifact in SWR.';
comment on column swr_report.tag.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.tag.instance_id is 'Key of swr.instance.';

create view swr_report.build_history as
select
    r.instance,
    r.namespace,
    r.repository,
    a.digest,
    -- A history contains each step once: its id identifies the history up to and including it.
    array_position(m.build_step_ids, s.build_step_id)::bigint as position,
    s.created_at,
    c.command,
    s.empty_layer,
    l.digest as layer_digest,
    l.size_bytes as layer_size_bytes,
    t.media_type as layer_media_type,
    s.chain_id,
    s.created_at_ns,
    a.artifact_id,
    a.repository_id,
    a.instance_id,
    s.extra
from swr.named_repository r
join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = any (m.build_step_ids)
left join swr.command c on c.instance_id = s.instance_id and c.command_id = s.command_id
left join swr.layer l on l.instance_id = s.instance_id and l.layer_id = s.layer_id
left join swr.media_type t on t.instance_id = s.instance_id and t.media_type_id = s.media_type_id
where a.removed_at is null;

comment on view swr_report.build_history is
    'How was each image built? One row per artifact that exists now and build step, oldest step first by position.';
comment on column swr_report.build_history.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.build_history.namespace is 'Name of the namespace.';
comment on column swr_report.build_history.repository is 'Name of the repository without the namespace.';
comment on column swr_report.build_history.digest is 'Digest of the manifest.';
comment on column swr_report.build_history.position is 'Position of the step, from 1, oldest first.';
comment on column swr_report.build_history.created_at is 'When the step was built; reproducible builds write 1970 or the year 1.';
comment on column swr_report.build_history.command is 'The build command; may contain secrets.';
comment on column swr_report.build_history.empty_layer is 'Whether the step created no layer.';
comment on column swr_report.build_history.layer_digest is 'Digest of the layer that the step created.';
comment on column swr_report.build_history.layer_size_bytes is 'Compressed size of that layer.';
comment on column swr_report.build_history.layer_media_type is 'Media type of that layer.';
comment on column swr_report.build_history.chain_id is 'Equal in two images if and only if they share all layers up to this step.';
comment on column swr_report.build_history.created_at_ns is 'Nanoseconds beyond the microseconds of created_at.';
comment on column swr_report.build_history.artifact_id is 'Id of the artifact in SWR.';
comment on column swr_report.build_history.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.build_history.instance_id is 'Key of swr.instance.';
comment on column swr_report.build_history.extra is 'Fields of the entry without a column.';

create function swr_report.stale_artifact(unused_for interval default interval '90 days')
returns table (
    instance        text,
    namespace       text,
    repository      text,
    digest          text,
    tags            text[],
    size_bytes      bigint,
    pushed_at       timestamptz,
    pulled_at       timestamptz,
    last_used_at    timestamptz,
    artifact_id     bigint,
    instance_id     integer,
    exclusive_bytes bigint,
    may_be_in_index boolean,
    repository_id   bigint
)
language plpgsql
stable
parallel safe
-- Roles that can query the views can also call this, without privileges on the tables.
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        a.instance, a.namespace, a.repository, a.digest, a.tags, a.size_bytes, a.pushed_at, a.pulled_at,
        a.last_used_at, a.artifact_id, a.instance_id, a.exclusive_bytes, a.may_be_in_index, a.repository_id
    from swr.existing_artifact a
    where a.last_used_at < now() - unused_for;
end
$$;

comment on function swr_report.stale_artifact(interval) is
    'Which artifacts are not used? Artifacts neither pushed nor pulled for the given time (by default 90 days), with their sizes; artifacts without any time are not shown. exclusive_bytes is what deleting only this artifact would free at least, NULL if its layers are unknown. An image of an index (multi-platform image) is pulled through the index: before you delete rows, see may_be_in_index, which is NULL if unknown.';

-- Used space, shared space, and space that a clean-up would free.

create view swr_report.artifact_size as
select
    r.instance,
    r.namespace,
    r.repository,
    a.digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
        order by t.name
    ) as tags,
    a.type,
    a.size_bytes as total_bytes,
    g.layer_count as layers,
    g.layer_bytes,
    g.layer_bytes - g.exclusive_bytes as shared_bytes,
    g.exclusive_bytes,
    swr.known_time(a.pushed_at) as pushed_at,
    swr.known_time(a.pulled_at) as pulled_at,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.named_repository r
join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
left join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
where a.removed_at is null;

comment on view swr_report.artifact_size is
    'How large is each artifact, and how much space would deleting it free? One row per artifact that exists now.';
comment on column swr_report.artifact_size.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.artifact_size.namespace is 'Name of the namespace.';
comment on column swr_report.artifact_size.repository is 'Name of the repository without the namespace.';
comment on column swr_report.artifact_size.digest is 'Digest of the manifest.';
comment on column swr_report.artifact_size.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr_report.artifact_size.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.artifact_size.total_bytes is
    'Size according to the API: manifest, config and layers; for an index, also its children, which are listed separately.';
comment on column swr_report.artifact_size.layers is
    'Number of distinct layers; NULL if unknown: charts, indexes, images without a stored build history.';
comment on column swr_report.artifact_size.layer_bytes is 'Sum of the distinct layers; NULL if unknown. Layers without a size in any build history count 0.';
comment on column swr_report.artifact_size.shared_bytes is 'Sum of the layers that other artifacts of the instance also have; NULL if unknown.';
comment on column swr_report.artifact_size.exclusive_bytes is
    'Sum of the layers that no other artifact of the instance has: the space that deleting only this artifact would free, without its manifest and config. 0 for a digest that is in two repositories; NULL if the layers are unknown. Deleting several artifacts may free more than the sum: use swr_report.reclaimable.';
comment on column swr_report.artifact_size.pushed_at is 'Last push.';
comment on column swr_report.artifact_size.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.artifact_size.artifact_id is 'Id in SWR.';
comment on column swr_report.artifact_size.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.artifact_size.instance_id is 'Key of swr.instance.';

create view swr_report.storage_by_repository as
with repository_artifact as (
    select
        min(r.instance) as instance,
        r.namespace,
        r.repository,
        r.instance_id,
        r.repository_id,
        count(*) as artifacts,
        swr.total_bytes(sum(a.logical_bytes)) as logical_bytes,
        swr.total_bytes(sum(a.logical_bytes) filter (where g.artifact_id is null)) as unknown_bytes,
        max(a.pushed_at) as last_pushed_at,
        max(a.pulled_at) as last_pulled_at
    from swr.named_repository r
    join swr.sized_artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
    left join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
    where a.removed_at is null
    group by r.instance_id, r.repository_id, r.namespace, r.repository
)
select
    a.instance,
    a.namespace,
    a.repository,
    a.artifacts,
    coalesce(a.logical_bytes, 0) as logical_bytes,
    coalesce(b.layer_bytes, 0) as layer_bytes,
    coalesce(b.exclusive_bytes, 0) as exclusive_bytes,
    a.last_pushed_at,
    a.last_pulled_at,
    a.repository_id,
    a.instance_id,
    coalesce(b.layer_bytes - b.exclusive_bytes, 0) as shared_bytes,
    coalesce(a.unknown_bytes, 0) as unknown_bytes,
    coalesce(b.share_bytes, 0) as share_bytes
from repository_artifact a
left join swr.repository_layering b on b.instance_id = a.instance_id and b.repository_id = a.repository_id;

comment on view swr_report.storage_by_repository is
    'Which repositories use the most space, and how much of it do they share? One row per repository with artifacts.';
comment on column swr_report.storage_by_repository.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.storage_by_repository.namespace is 'Name of the namespace.';
comment on column swr_report.storage_by_repository.repository is 'Name of the repository without the namespace.';
comment on column swr_report.storage_by_repository.artifacts is 'Number of artifacts.';
comment on column swr_report.storage_by_repository.logical_bytes is
    'Sum of the artifacts'' sizes, as if nothing were shared. An index counts 0 if the repository lists an artifact that may be one of its images, which its size includes: untagged, not larger, and not pushed later.';
comment on column swr_report.storage_by_repository.layer_bytes is
    'Sum of the distinct known layers of the repository: the space it uses after sharing, at least; at most unknown_bytes more.';
comment on column swr_report.storage_by_repository.exclusive_bytes is
    'Sum of the known layers that no other repository of the instance has: the space that deleting the repository would free, at least; at most unknown_bytes more.';
comment on column swr_report.storage_by_repository.last_pushed_at is 'Latest push of an artifact that exists now.';
comment on column swr_report.storage_by_repository.last_pulled_at is
    'Latest pull of an artifact that exists now; NULL if none of them was pulled. swr_report.repository has the number of pulls, which includes removed artifacts.';
comment on column swr_report.storage_by_repository.repository_id is 'Id in SWR.';
comment on column swr_report.storage_by_repository.instance_id is 'Key of swr.instance.';
comment on column swr_report.storage_by_repository.shared_bytes is 'Sum of the layers that other repositories of the instance also have.';
comment on column swr_report.storage_by_repository.unknown_bytes is
    'The part of logical_bytes with unknown layers: charts and similar artifacts, and images without a stored build history.';
comment on column swr_report.storage_by_repository.share_bytes is
    'Fair share of the registry: each known layer, divided by the number of repositories that have it. The shares of all repositories add up to storage_by_instance.layer_bytes, apart from rounding.';

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
    a.instance_id,
    coalesce(b.share_bytes, 0) as share_bytes
from namespace_artifact a
join swr.instance i on i.instance_id = a.instance_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
left join swr.namespace_layering b on b.instance_id = a.instance_id and b.namespace_id = a.namespace_id;

comment on view swr_report.storage_by_namespace is
    'Which namespaces use the most space, and how much of it do they share? One row per namespace with artifacts.';
comment on column swr_report.storage_by_namespace.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.storage_by_namespace.namespace is 'Name of the namespace; NULL if unknown.';
comment on column swr_report.storage_by_namespace.repositories is 'Number of repositories with artifacts.';
comment on column swr_report.storage_by_namespace.artifacts is 'Number of artifacts.';
comment on column swr_report.storage_by_namespace.logical_bytes is
    'Sum of the artifacts'' sizes, as if nothing were shared. An index counts 0 if the repository lists an artifact that may be one of its images, which its size includes: untagged, not larger, and not pushed later.';
comment on column swr_report.storage_by_namespace.layer_bytes is
    'Sum of the distinct known layers of the namespace: the space it uses after sharing, at least; at most unknown_bytes more.';
comment on column swr_report.storage_by_namespace.shared_bytes is 'Sum of the layers that other namespaces of the instance also have.';
comment on column swr_report.storage_by_namespace.exclusive_bytes is
    'Sum of the known layers that no other namespace of the instance has: the space that deleting the namespace would free, at least; at most unknown_bytes more.';
comment on column swr_report.storage_by_namespace.unknown_bytes is
    'The part of logical_bytes with unknown layers: charts and similar artifacts, and images without a stored build history.';
comment on column swr_report.storage_by_namespace.last_pushed_at is 'Latest push of an artifact that exists now.';
comment on column swr_report.storage_by_namespace.last_pulled_at is
    'Latest pull of an artifact that exists now; NULL if none of them was pulled.';
comment on column swr_report.storage_by_namespace.namespace_id is 'Id in SWR; 0 if the namespace is unknown.';
comment on column swr_report.storage_by_namespace.instance_id is 'Key of swr.instance.';
comment on column swr_report.storage_by_namespace.share_bytes is
    'Fair share of the registry: each known layer, divided by the number of namespaces that have it. The shares of all namespaces add up to storage_by_instance.layer_bytes, apart from rounding.';

create view swr_report.storage_by_instance as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(a.namespaces, 0) as namespaces,
    coalesce(a.repositories, 0) as repositories,
    coalesce(a.artifacts, 0) as artifacts,
    coalesce(a.logical_bytes, 0) as logical_bytes,
    coalesce(swr.total_bytes(coalesce(b.exclusive_bytes, 0) + coalesce(c.shared_bytes, 0)), 0) as layer_bytes,
    coalesce(a.unknown_bytes, 0) as unknown_bytes,
    a.last_pushed_at,
    a.last_pulled_at,
    i.swr_instance_id,
    i.instance_id
from swr.instance i
left join (
    select
        z.instance_id,
        count(distinct coalesce(z.namespace_id, 0)) as namespaces,
        count(distinct z.repository_id) as repositories,
        count(*) as artifacts,
        swr.total_bytes(sum(z.logical_bytes)) as logical_bytes,
        swr.total_bytes(sum(z.logical_bytes) filter (where g.artifact_id is null)) as unknown_bytes,
        max(z.pushed_at) as last_pushed_at,
        max(z.pulled_at) as last_pulled_at
    from swr.sized_artifact z
    left join swr.artifact_layering g on g.instance_id = z.instance_id and g.artifact_id = z.artifact_id
    where z.removed_at is null
    group by z.instance_id
) a on a.instance_id = i.instance_id
-- Each layer is either exclusive to one repository or shared.
left join (
    select instance_id, sum(exclusive_bytes) as exclusive_bytes
    from swr.repository_layering
    group by instance_id
) b on b.instance_id = i.instance_id
left join (
    select k.instance_id, sum(l.size_bytes) as shared_bytes
    from swr.shared_layer k
    join swr.layer l on l.instance_id = k.instance_id and l.layer_id = k.layer_id
    group by k.instance_id
) c on c.instance_id = i.instance_id;

comment on view swr_report.storage_by_instance is
    'How much space does each registry use? One row per instance; each layer counts once. Sums of layer_bytes of namespaces or repositories count shared layers several times.';
comment on column swr_report.storage_by_instance.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.storage_by_instance.namespaces is 'Number of namespaces with artifacts.';
comment on column swr_report.storage_by_instance.repositories is 'Number of repositories with artifacts.';
comment on column swr_report.storage_by_instance.artifacts is 'Number of artifacts.';
comment on column swr_report.storage_by_instance.logical_bytes is
    'Sum of the artifacts'' sizes, as if nothing were shared; for indexes, see swr_report.storage_by_namespace.';
comment on column swr_report.storage_by_instance.layer_bytes is
    'Sum of the distinct known layers: the space the registry uses, at least; at most unknown_bytes more. Manifests and configs, a few kilobytes each, are not included.';
comment on column swr_report.storage_by_instance.unknown_bytes is
    'The part of logical_bytes with unknown layers: charts and similar artifacts, and images without a stored build history.';
comment on column swr_report.storage_by_instance.last_pushed_at is 'Latest push of an artifact that exists now.';
comment on column swr_report.storage_by_instance.last_pulled_at is
    'Latest pull of an artifact that exists now; NULL if none of them was pulled.';
comment on column swr_report.storage_by_instance.swr_instance_id is 'The id of the instance in SWR.';
comment on column swr_report.storage_by_instance.instance_id is 'Key of swr.instance.';

create view swr_report.storage_history as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    n.name as namespace,
    u.listing_started_at as as_of,
    s.artifacts,
    s.logical_bytes,
    s.layer_bytes,
    s.share_bytes,
    s.unknown_bytes,
    s.run_id,
    s.namespace_id,
    s.instance_id
from swr.namespace_storage s
join swr.instance i on i.instance_id = s.instance_id
left join swr.namespace n on n.instance_id = s.instance_id and n.namespace_id = s.namespace_id
left join swr.sync_run u on u.instance_id = s.instance_id and u.run_id = s.run_id;

comment on view swr_report.storage_history is
    'How much space did each namespace use in the past? One row per namespace and published run that changed its values; they are valid until its next row. A namespace without artifacts has a row with zeros from the run that found it empty.';
comment on column swr_report.storage_history.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.storage_history.namespace is 'Name of the namespace; NULL if unknown.';
comment on column swr_report.storage_history.as_of is 'When the listing of the run began.';
comment on column swr_report.storage_history.artifacts is 'Number of artifacts.';
comment on column swr_report.storage_history.logical_bytes is
    'Sum of the artifacts'' sizes, as if nothing were shared; for indexes, see swr_report.storage_by_namespace.';
comment on column swr_report.storage_history.layer_bytes is
    'Sum of the distinct known layers: the space the namespace used after sharing, at least; at most unknown_bytes more.';
comment on column swr_report.storage_history.share_bytes is
    'Fair share of the registry: each known layer, divided by the number of namespaces that had it.';
comment on column swr_report.storage_history.unknown_bytes is 'The part of logical_bytes with unknown layers.';
comment on column swr_report.storage_history.run_id is 'The run.';
comment on column swr_report.storage_history.namespace_id is 'Id in SWR; 0 if the namespace is unknown.';
comment on column swr_report.storage_history.instance_id is 'Key of swr.instance.';

create view swr_report.repository as
select
    r.instance,
    r.namespace,
    r.repository,
    k.description,
    c.artifacts,
    t.tags,
    k.pull_count,
    k.created_at,
    k.updated_at,
    c.last_pushed_at,
    c.last_pulled_at,
    r.namespace_id,
    r.repository_id,
    r.instance_id
from swr.named_repository r
join swr.repository k on k.instance_id = r.instance_id and k.repository_id = r.repository_id
cross join lateral (
    select
        count(*) as artifacts,
        max(swr.known_time(a.pushed_at)) as last_pushed_at,
        max(swr.known_time(a.pulled_at)) as last_pulled_at
    from swr.artifact a
    where a.instance_id = k.instance_id and a.repository_id = k.repository_id and a.removed_at is null
) c
cross join lateral (
    select count(*) as tags
    from swr.tag t
    where t.instance_id = k.instance_id and t.repository_id = k.repository_id
) t
where k.removed_at is null;

comment on view swr_report.repository is
    'Which repositories are there? One row per repository that exists now, including empty ones.';
comment on column swr_report.repository.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.repository.namespace is 'Name of the namespace; NULL if unknown.';
comment on column swr_report.repository.repository is 'Name of the repository without the namespace; NULL if unknown.';
comment on column swr_report.repository.description is 'The description, if any.';
comment on column swr_report.repository.artifacts is 'Number of artifacts that exist now.';
comment on column swr_report.repository.tags is 'Number of tags that exist now.';
comment on column swr_report.repository.pull_count is
    'Number of pulls according to the API, which includes pulls of removed artifacts; NULL if the catalog does not have the repository.';
comment on column swr_report.repository.created_at is 'When the repository was created.';
comment on column swr_report.repository.updated_at is 'When the repository was last changed.';
comment on column swr_report.repository.last_pushed_at is 'Latest push of an artifact that exists now.';
comment on column swr_report.repository.last_pulled_at is
    'Latest pull of an artifact that exists now; NULL if none of them was pulled.';
comment on column swr_report.repository.namespace_id is 'Id of the namespace in SWR; NULL if unknown.';
comment on column swr_report.repository.repository_id is 'Id in SWR.';
comment on column swr_report.repository.instance_id is 'Key of swr.instance.';

create view swr_report.namespace as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    n.name as namespace,
    coalesce(r.repositories, 0) as repositories,
    coalesce(r.artifacts, 0)::bigint as artifacts,
    coalesce(r.tags, 0)::bigint as tags,
    swr.total_bytes(r.pull_count) as pull_count,
    n.metadata,
    n.created_at,
    n.updated_at,
    n.namespace_id,
    n.instance_id
from swr.namespace n
join swr.instance i on i.instance_id = n.instance_id
left join (
    select
        k.instance_id,
        k.namespace_id,
        count(*) as repositories,
        sum(a.artifacts) as artifacts,
        sum(t.tags) as tags,
        sum(k.pull_count) as pull_count
    from swr.repository k
    left join (
        select instance_id, repository_id, count(*) as artifacts
        from swr.artifact
        where removed_at is null
        group by instance_id, repository_id
    ) a on a.instance_id = k.instance_id and a.repository_id = k.repository_id
    left join (
        select instance_id, repository_id, count(*) as tags
        from swr.tag
        group by instance_id, repository_id
    ) t on t.instance_id = k.instance_id and t.repository_id = k.repository_id
    where k.removed_at is null
    group by k.instance_id, k.namespace_id
) r on r.instance_id = n.instance_id and r.namespace_id = n.namespace_id
where n.removed_at is null;

comment on view swr_report.namespace is
    'Which namespaces are there? One row per namespace of the catalog that exists now, including empty ones. What its repositories hold is counted.';
comment on column swr_report.namespace.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.namespace.namespace is 'Name of the namespace.';
comment on column swr_report.namespace.repositories is 'Number of repositories that exist now, including empty ones.';
comment on column swr_report.namespace.artifacts is 'Number of artifacts that exist now.';
comment on column swr_report.namespace.tags is 'Number of tags that exist now.';
comment on column swr_report.namespace.pull_count is
    'Number of pulls of its repositories according to the API, which includes pulls of removed artifacts; NULL if unknown.';
comment on column swr_report.namespace.metadata is 'Settings from the API: public, auto_scan, prevent_vul, severity.';
comment on column swr_report.namespace.created_at is 'When the namespace was created.';
comment on column swr_report.namespace.updated_at is 'When the namespace was last changed.';
comment on column swr_report.namespace.namespace_id is 'Id in SWR.';
comment on column swr_report.namespace.instance_id is 'Key of swr.instance.';

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
    select h.instance_id, h.layer_id, sum(h.artifacts) as artifacts, count(*) as repositories
    from (
        select instance_id, repository_id, layer_id, count(*) as artifacts
        from swr.artifact_layer
        group by instance_id, repository_id, layer_id
    ) h
    group by h.instance_id, h.layer_id
) u
join swr.layer l on l.instance_id = u.instance_id and l.layer_id = u.layer_id
join swr.instance i on i.instance_id = u.instance_id;

comment on view swr_report.layer_usage is
    'Which layers are shared by how many artifacts and repositories? One row per layer of the artifacts that exist now. If two build histories give a layer different sizes, each size has its own row; a size stands for a missing one.';
comment on column swr_report.layer_usage.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.layer_usage.layer_digest is 'Digest of the compressed layer.';
comment on column swr_report.layer_usage.size_bytes is 'Compressed size; NULL if no build history has it.';
comment on column swr_report.layer_usage.artifacts is 'Number of artifacts with the layer; a digest in two repositories counts twice.';
comment on column swr_report.layer_usage.repositories is 'Number of repositories with such an artifact.';
comment on column swr_report.layer_usage.saved_bytes is 'Bytes that the registry saves by storing the layer only once.';
comment on column swr_report.layer_usage.layer_id is 'Key of swr.layer.';
comment on column swr_report.layer_usage.instance_id is 'Key of swr.instance.';

create view swr_report.repository_layer as
select
    r.instance,
    r.namespace,
    r.repository,
    l.digest as layer_digest,
    l.size_bytes,
    k.artifacts,
    k.layer_id,
    r.repository_id,
    r.instance_id,
    coalesce(s.repositories, 1) as repositories,
    coalesce(s.namespaces, 1) as namespaces,
    round(l.size_bytes::numeric / coalesce(s.repositories, 1), 3) as share_bytes,
    round(l.size_bytes::numeric / coalesce(s.namespaces, 1), 3) as namespace_share_bytes
from swr.named_repository r
cross join lateral (
    select h.layer_id, count(*) as artifacts
    from swr.artifact_layer h
    where h.instance_id = r.instance_id and h.repository_id = r.repository_id
    group by h.layer_id
) k
join swr.layer l on l.instance_id = r.instance_id and l.layer_id = k.layer_id
left join swr.shared_layer s on s.instance_id = r.instance_id and s.layer_id = k.layer_id;

comment on view swr_report.repository_layer is
    'Which layers does each repository have, and what is its share of them? One row per repository and layer of its artifacts that exist now. Use it to find the repositories that share a layer, and the share of each.';
comment on column swr_report.repository_layer.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.repository_layer.namespace is 'Name of the namespace.';
comment on column swr_report.repository_layer.repository is 'Name of the repository without the namespace.';
comment on column swr_report.repository_layer.layer_digest is 'Digest of the compressed layer.';
comment on column swr_report.repository_layer.size_bytes is 'Compressed size; NULL if no build history has it.';
comment on column swr_report.repository_layer.artifacts is 'Number of artifacts of the repository with the layer.';
comment on column swr_report.repository_layer.layer_id is 'Key of swr.layer.';
comment on column swr_report.repository_layer.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.repository_layer.instance_id is 'Key of swr.instance.';
comment on column swr_report.repository_layer.repositories is 'Number of repositories of the instance with the layer.';
comment on column swr_report.repository_layer.namespaces is 'Number of namespaces of the instance with the layer.';
comment on column swr_report.repository_layer.share_bytes is
    'Fair share of the repository: the size divided by repositories. swr_report.storage_by_repository has the sum.';
comment on column swr_report.repository_layer.namespace_share_bytes is
    'Fair share of the namespace: the size divided by namespaces; the same for each repository of the namespace with the layer, so count a layer once. swr_report.storage_by_namespace has the sum.';

create function swr_report.reclaimable(
    digests        text[] default null,
    in_instance    text default null,
    artifact_ids   bigint[] default null,
    in_instance_id integer default null
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
language plpgsql
stable
parallel safe
-- Roles that can query the views can also call this, without privileges on the tables.
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    instances integer[] := array(
        select i.instance_id
        from swr.instance i
        where (in_instance is null or in_instance in (i.name, i.swr_instance_id))
          and (in_instance_id is null or in_instance_id = i.instance_id)
    );
begin
    -- Each may be given by its first digits. There may be thousands, of which most are whole.
    digests := array(
        select coalesce(a.digest, swr.known_digest(d.digest))
        from unnest(digests) as d (digest)
        left join (
            select distinct k.digest
            from swr.instance i
            join swr.artifact k on k.instance_id = i.instance_id
            where k.digest = any (digests)
        ) a on a.digest = d.digest
    );
    -- Artifacts of another instance may have the same ids.
    if artifact_ids is not null and cardinality(instances) > 1 then
        raise exception 'artifact_ids need in_instance_id, because an id is unique in one instance only'
            using errcode = 'invalid_parameter_value',
                  hint = 'Group the ids by instance_id and call the function once for each.';
    end if;
    return query
    with wanted as (
        select a.instance_id, a.artifact_id
        from unnest(instances) as i (instance_id)
        cross join unnest(digests) as d (digest)
        join swr.artifact a on a.instance_id = i.instance_id and a.digest = d.digest
        where a.removed_at is null
        union
        select a.instance_id, a.artifact_id
        from unnest(instances) as i (instance_id)
        cross join unnest(artifact_ids) as d (artifact_id)
        join swr.artifact a on a.instance_id = i.instance_id and a.artifact_id = d.artifact_id
        where a.removed_at is null
    ),
    chosen as materialized (
        select z.instance_id, z.artifact_id, z.logical_bytes, g.artifact_id is not null as is_layered
        from wanted w
        join swr.sized_artifact z on z.instance_id = w.instance_id and z.artifact_id = w.artifact_id
        left join swr.artifact_layering g on g.instance_id = w.instance_id and g.artifact_id = w.artifact_id
    ),
    held as materialized (
        select c.instance_id, h.layer_id, count(*) as artifacts
        from chosen c
        join swr.artifact_layer h on h.instance_id = c.instance_id and h.artifact_id = c.artifact_id
        where c.is_layered
        group by c.instance_id, h.layer_id
    ),
    -- All artifacts of these instances, because any of them may also have a layer.
    had as (
        select h.instance_id, h.layer_id, count(*) as artifacts
        from swr.artifact_layer h
        where h.instance_id = any (array(select instance_id from held))
        group by h.instance_id, h.layer_id
    ),
    freed as (
        select h.instance_id, h.layer_id
        from held h
        join had k on k.instance_id = h.instance_id and k.layer_id = h.layer_id and k.artifacts = h.artifacts
    ),
    summed as (
        select f.instance_id, count(*) as layers, sum(l.size_bytes) as size_bytes
        from freed f
        join swr.layer l on l.instance_id = f.instance_id and l.layer_id = f.layer_id
        group by f.instance_id
    ),
    counted as (
        select
            instance_id,
            count(*) as artifacts,
            sum(logical_bytes) as logical_bytes,
            sum(logical_bytes) filter (where not is_layered) as unknown_bytes
        from chosen
        group by instance_id
    )
    select
        coalesce(i.name, i.swr_instance_id),
        c.artifacts,
        coalesce(swr.total_bytes(c.logical_bytes), 0),
        coalesce(s.layers, 0),
        coalesce(swr.total_bytes(s.size_bytes), 0),
        coalesce(swr.total_bytes(c.unknown_bytes), 0),
        c.instance_id
    from counted c
    join swr.instance i on i.instance_id = c.instance_id
    left join summed s on s.instance_id = c.instance_id;
end
$$;

comment on function swr_report.reclaimable(text[], text, bigint[], integer) is
    'How much space would deleting these artifacts together free? The arguments are digests, for all artifacts with them, or ids of artifacts, for the copy of a digest in one repository; in all instances, or in those with the given name or SWR id (in_instance), or in the one with the given instance_id (in_instance_id). Ids of artifacts are unique in one instance only: with several instances, they need in_instance_id. One row per instance with such artifacts: their number, the sum of their sizes, the number and bytes of the known layers that no other artifact has (reclaimable_bytes: the least that is freed), and the sizes of artifacts with unknown layers (unknown_bytes: what may be freed in addition). Manifests and configs, a few kilobytes each, are not included in reclaimable_bytes.';

-- Base images, found by the chain ids of their layers.

create view swr_report.base_image as
select
    r.instance,
    r.namespace,
    r.repository,
    a.digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
        order by t.name
    ) as tags,
    o.namespace as base_namespace,
    o.repository as base_repository,
    b.digest as base_digest,
    case when b.artifact_id is not null then
        array(
            select t.name
            from swr.tag t
            where t.instance_id = b.instance_id and t.artifact_id = b.artifact_id
            order by t.name
        )
    end as base_tags,
    b.pushed_at as base_pushed_at,
    b.candidates as base_candidates,
    b.layer_count as base_layers,
    b.layer_bytes as base_layer_bytes,
    g.layer_count as layers,
    g.layer_bytes,
    swr.known_time(a.pushed_at) as pushed_at,
    swr.known_time(a.pulled_at) as pulled_at,
    g.chain_id,
    case when g.base_step_id is null then g.base_chain_id else g.chain_id end as base_chain_id,
    g.shared_chain_id,
    g.artifact_id,
    b.artifact_id as base_artifact_id,
    a.repository_id,
    g.instance_id,
    case when b.artifact_id is not null then b.proven_steps is not null end as base_is_proven
from swr.named_repository r
join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
join swr.artifact_layering g on g.instance_id = a.instance_id and g.artifact_id = a.artifact_id
join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
-- The candidates for the base; the first one is shown.
left join lateral (
    select
        x.*,
        count(*) over (partition by x.instance_id) as candidates,
        row_number() over (
            partition by x.instance_id
            order by x.proven_steps desc nulls last, x.is_tagged desc, x.pushed_at nulls last, x.artifact_id
        ) as place
    from (
        select
            p.instance_id,
            p.artifact_id,
            p.repository_id,
            p.digest,
            swr.known_time(p.pushed_at) as pushed_at,
            q.layer_count,
            q.layer_bytes,
            -- The last step identifies the whole history.
            array_position(m.build_step_ids, q.last_step_id) as proven_steps,
            exists (
                select from swr.tag t where t.instance_id = p.instance_id and t.artifact_id = p.artifact_id
            ) as is_tagged
        from (
            select instance_id, artifact_id, layer_count, layer_bytes, last_step_id
            from swr.artifact_layering
            where instance_id = g.instance_id and chain_id = g.chain_id and last_step_id = g.base_step_id
            union all
            select instance_id, artifact_id, layer_count, layer_bytes, last_step_id
            from swr.artifact_layering
            where instance_id = g.instance_id and chain_id = g.base_chain_id and g.base_step_id is null
        ) q
        join swr.artifact p on p.instance_id = q.instance_id and p.artifact_id = q.artifact_id
    ) x
) b on b.place = 1
left join swr.named_repository o on o.instance_id = b.instance_id and o.repository_id = b.repository_id
where g.chain_id is not null;

comment on view swr_report.base_image is
    'Which artifact is the exact base of each image? One row per image that exists now and has layers. Its base is the artifact with the most layers whose layers are all the first layers of the image, but not all of them; or, of the artifacts with the very same layers, the one with the most build steps that the build history of the image continues. The base columns are NULL if the registry has no such artifact; swr_report.unknown_base groups these images.';
comment on column swr_report.base_image.instance is 'Name of the instance, or its id if the name is unknown.';
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
    'Number of artifacts with exactly the layers of the base; for an image that adds no layer to its base, with exactly its build history. The view shows the one whose build history is the longest that the image continues, if there is one, then a tagged one, then the one pushed first, then the one with the lowest id.';
comment on column swr_report.base_image.base_layers is 'Number of distinct layers of the base.';
comment on column swr_report.base_image.base_layer_bytes is 'Sum of the distinct layers of the base.';
comment on column swr_report.base_image.layers is 'Number of distinct layers.';
comment on column swr_report.base_image.layer_bytes is 'Sum of the distinct layers.';
comment on column swr_report.base_image.pushed_at is 'Last push.';
comment on column swr_report.base_image.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.base_image.chain_id is 'Identifies the sequence of its layers.';
comment on column swr_report.base_image.base_chain_id is 'Identifies the sequence of the base''s layers.';
comment on column swr_report.base_image.shared_chain_id is
    'Identifies the longest sequence of first layers that it shares with an artifact with another digest that is not built on it; NULL if there is none.';
comment on column swr_report.base_image.artifact_id is 'Id in SWR.';
comment on column swr_report.base_image.base_artifact_id is 'Id of the base in SWR.';
comment on column swr_report.base_image.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.base_image.instance_id is 'Key of swr.instance.';
comment on column swr_report.base_image.base_is_proven is
    'Whether the build history of the image begins with that of the base. If false, only the layers are equal: the base was built otherwise, or it is another image built on a base that was removed, to which it added no layer.';

create view swr_report.unknown_base as
select
    r.instance,
    u.shared_chain_id as chain_id,
    c.layers,
    c.layer_bytes,
    u.artifacts,
    u.repositories,
    r.namespace as example_namespace,
    r.repository as example_repository,
    a.digest as example_digest,
    u.last_pushed_at,
    u.instance_id
from (
    select
        g.instance_id,
        g.shared_chain_id,
        count(*) as artifacts,
        count(distinct a.repository_id) as repositories,
        max(swr.known_time(a.pushed_at)) as last_pushed_at,
        (array_agg(g.artifact_id order by swr.known_time(a.pushed_at) nulls last, g.artifact_id))[1] as artifact_id
    from swr.artifact_layering g
    join swr.artifact a on a.instance_id = g.instance_id and a.artifact_id = g.artifact_id
    where g.base_chain_id is null and g.base_step_id is null and g.shared_chain_id is not null
    group by g.instance_id, g.shared_chain_id
) u
join swr.artifact a on a.instance_id = u.instance_id and a.artifact_id = u.artifact_id
join swr.named_repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
cross join lateral (
    -- The steps of the example up to the end of the chain.
    select count(distinct s.layer_id) as layers, coalesce(swr.total_bytes(sum(s.size_bytes)), 0) as layer_bytes
    from (
        select
            s.layer_id,
            -- A layer that occurs twice counts once.
            case when row_number() over (partition by s.layer_id order by e.position) = 1 then l.size_bytes end
                as size_bytes,
            e.position
        from swr.manifest m
        cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
        join swr.build_step b on b.instance_id = m.instance_id and b.build_step_id = e.build_step_id
        left join swr.layer_alias x on x.instance_id = b.instance_id and x.layer_id = b.layer_id
        cross join lateral (select coalesce(x.counted_layer_id, b.layer_id) as layer_id) s
        join swr.layer l on l.instance_id = b.instance_id and l.layer_id = s.layer_id
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
    'Which base images in use are not in the registry? Images without a base in the registry, grouped by the longest sequence of first layers that they share with images not built on them. Layers shared across repositories are a common base; layers shared within one repository may be a common step of its builds. Images that share no layers are not shown.';
comment on column swr_report.unknown_base.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.unknown_base.chain_id is 'Identifies the shared sequence of layers.';
comment on column swr_report.unknown_base.layers is 'Number of distinct layers in it.';
comment on column swr_report.unknown_base.layer_bytes is
    'Sum of these layers. Layers without a size in any build history count 0.';
comment on column swr_report.unknown_base.artifacts is 'Number of artifacts that share this sequence and no longer one.';
comment on column swr_report.unknown_base.repositories is 'Number of repositories with such an artifact.';
comment on column swr_report.unknown_base.example_namespace is
    'Namespace of one of them: the one pushed first, or of several the one with the lowest id.';
comment on column swr_report.unknown_base.example_repository is 'Its repository.';
comment on column swr_report.unknown_base.example_digest is 'Its digest; the commands in its build history show what the base is.';
comment on column swr_report.unknown_base.last_pushed_at is 'Latest push of such an artifact.';
comment on column swr_report.unknown_base.instance_id is 'Key of swr.instance.';

create function swr_report.built_on(
    base_digest    text,
    in_instance    text default null,
    in_instance_id integer default null
)
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
language plpgsql
stable
parallel safe
-- Roles that can query the views can also call this, without privileges on the tables.
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- It may be given by its first digits.
    base_digest := swr.known_digest(base_digest);
    return query
    with base as materialized (
        select
            m.instance_id,
            m.chain_ids[1] as root_chain_id,
            m.chain_ids[cardinality(m.chain_ids)] as chain_id,
            m.build_step_ids[cardinality(m.build_step_ids)] as last_step_id,
            l.build_step_id as layer_step_id
        from swr.instance i
        join swr.manifest m on m.instance_id = i.instance_id and m.digest = base_digest
        -- The step with the last layer.
        cross join lateral (
            select (array_agg(s.build_step_id order by e.position desc))[1] as build_step_id
            from unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
            join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
            where s.layer_id is not null or not s.empty_layer
        ) l
        where (in_instance is null or in_instance in (i.name, i.swr_instance_id))
          and (in_instance_id is null or in_instance_id = i.instance_id)
    ),
    built as materialized (
        select g.instance_id, g.artifact_id, g.chain_id, g.base_chain_id, g.last_step_id, m.build_step_ids,
               g.chain_id <> e.chain_id as adds_layers
        from base e
        join swr.artifact_layering g on g.instance_id = e.instance_id and g.root_chain_id = e.root_chain_id
        join swr.artifact a on a.instance_id = g.instance_id and a.artifact_id = g.artifact_id
        join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
        where e.chain_id = any (m.chain_ids)
          and case
              -- The same build of the layers: the history has to continue all of that of the base.
              when e.layer_step_id = any (m.build_step_ids)
              then e.last_step_id = any (m.build_step_ids) and g.last_step_id <> e.last_step_id
              else g.chain_id <> e.chain_id
          end
    ),
    -- Images with all build steps of another one of these, and more.
    continued as materialized (
        select distinct b.instance_id, b.artifact_id
        from built b
        cross join lateral unnest(b.build_step_ids) as s (build_step_id)
        join (select distinct instance_id, last_step_id from built) x
          on x.instance_id = b.instance_id and x.last_step_id = s.build_step_id
        where s.build_step_id <> b.last_step_id
    )
    select
        r.instance,
        r.namespace,
        r.repository,
        a.digest,
        array(
            select t.name
            from swr.tag t
            where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
            order by t.name
        ),
        not exists (
            select from built x
            where x.instance_id = b.instance_id and x.chain_id = b.base_chain_id and x.adds_layers
        ) and not exists (
            select from continued x where x.instance_id = b.instance_id and x.artifact_id = b.artifact_id
        ),
        swr.known_time(a.pushed_at),
        swr.known_time(a.pulled_at),
        a.artifact_id,
        a.repository_id,
        a.instance_id
    from built b
    join swr.artifact a on a.instance_id = b.instance_id and a.artifact_id = b.artifact_id
    join swr.named_repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id;
end
$$;

comment on function swr_report.built_on(text, text, integer) is
    'Which images must be rebuilt when this base changes? The artifacts that exist now and whose build history continues that of the given digest, even without another layer; and those that begin with all its layers, built by other steps, and have more; directly or through other existing bases (see is_direct); in all instances, or in those with the given name or SWR id, or in the one with the given instance_id. The base itself may have been removed. The API does not list the images of an index (multi-platform image): for an index, ask for each of its images, see untagged_artifact.may_be_in_index.';

-- Candidates for a clean-up: untagged and duplicate artifacts.

create view swr_report.untagged_artifact as
select
    a.instance,
    a.namespace,
    a.repository,
    a.digest,
    a.type,
    a.size_bytes,
    a.exclusive_bytes,
    a.may_be_in_index,
    a.pushed_at,
    a.pulled_at,
    a.last_used_at,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.existing_artifact a
where not exists (
    select from swr.tag t where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
);

comment on view swr_report.untagged_artifact is
    'Which artifacts are untagged? Clean-up candidates, one row per untagged artifact that exists now. The images of an index are also untagged; see may_be_in_index.';
comment on column swr_report.untagged_artifact.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.untagged_artifact.namespace is 'Name of the namespace.';
comment on column swr_report.untagged_artifact.repository is 'Name of the repository without the namespace.';
comment on column swr_report.untagged_artifact.digest is 'Digest of the manifest.';
comment on column swr_report.untagged_artifact.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.untagged_artifact.size_bytes is 'Size according to the API.';
comment on column swr_report.untagged_artifact.exclusive_bytes is
    'Sum of the layers that no other artifact of the instance has; NULL if unknown. Deleting several artifacts may free more than the sum: use swr_report.reclaimable.';
comment on column swr_report.untagged_artifact.may_be_in_index is
    'Whether the artifact may be one of the images of an index (multi-platform image): its repository has an index of at least its size, and one that was pushed at the same time or later. The API does not list the images of an index. False means that it is in no index; NULL that it may be in one, depending on a size or push time that is not known. Only delete where it is false.';
comment on column swr_report.untagged_artifact.pushed_at is 'Last push.';
comment on column swr_report.untagged_artifact.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.untagged_artifact.last_used_at is 'Last push or pull, whichever was later.';
comment on column swr_report.untagged_artifact.artifact_id is 'Id in SWR.';
comment on column swr_report.untagged_artifact.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.untagged_artifact.instance_id is 'Key of swr.instance.';

create view swr_report.duplicate_artifact as
select
    d.instance,
    d.digest,
    d.type,
    d.repositories,
    d.size_bytes,
    -- A size may have any value. The product must not fail the report.
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
        min(r.instance) as instance,
        min(a.type) as type,
        count(distinct a.repository_id) as repositories,
        max(a.size_bytes) as size_bytes,
        array_agg(
            distinct concat_ws('/', r.namespace, r.repository) order by concat_ws('/', r.namespace, r.repository)
        ) as places,
        min(swr.known_time(a.pushed_at)) as first_pushed_at,
        max(swr.known_time(a.pushed_at)) as last_pushed_at,
        max(swr.known_time(a.pulled_at)) as last_pulled_at
    from (
        select instance_id, digest
        from swr.artifact
        where removed_at is null
        group by instance_id, digest
        having count(distinct repository_id) > 1
    ) c
    join swr.artifact a on a.instance_id = c.instance_id and a.digest = c.digest and a.removed_at is null
    join swr.named_repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
    group by c.instance_id, c.digest
) d;

comment on view swr_report.duplicate_artifact is
    'Which digests are in several repositories? One row per digest and instance. The registry stores their layers once, so deleting all but one frees no space.';
comment on column swr_report.duplicate_artifact.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.duplicate_artifact.digest is 'Digest of the manifest.';
comment on column swr_report.duplicate_artifact.type is 'IMAGE, CHART, and so on.';
comment on column swr_report.duplicate_artifact.repositories is 'Number of repositories with the digest.';
comment on column swr_report.duplicate_artifact.size_bytes is 'Size according to the API.';
comment on column swr_report.duplicate_artifact.repeated_bytes is 'Bytes that a sum of sizes counts more than once.';
comment on column swr_report.duplicate_artifact.places is 'The repositories, each as namespace/repository, in alphabetical order.';
comment on column swr_report.duplicate_artifact.first_pushed_at is 'First push into any of them.';
comment on column swr_report.duplicate_artifact.last_pushed_at is 'Last push into any of them.';
comment on column swr_report.duplicate_artifact.last_pulled_at is 'Last pull from any of them; NULL if none of the present artifacts was pulled.';
comment on column swr_report.duplicate_artifact.instance_id is 'Key of swr.instance.';

-- Changes of the registry: tags at any time, changes found by each run, growth by day.

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
language plpgsql
stable
parallel safe
-- Roles that can query the views can also call this, without privileges on the tables.
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        r.instance, r.namespace, r.repository, h.name, h.digest, a.size_bytes, h.valid_from, h.valid_to,
        h.artifact_id, h.repository_id, h.instance_id
    from swr.named_repository r
    join swr.tag_history h on h.instance_id = r.instance_id and h.repository_id = r.repository_id
    join swr.artifact a on a.instance_id = h.instance_id and a.artifact_id = h.artifact_id
    where h.valid_from <= at and (h.valid_to > at or h.valid_to is null);
end
$$;

comment on function swr_report.tag_at(timestamptz) is
    'What did each tag point to at that time? One row per tag. If a push moved the tag, the time is exact. If a tag was moved without a push, or removed together with its artifact, its time is that of the listing that found it, at most one sync interval late. A tag that moves while the registry is listed can be missing from all pages, so a tag that is removed while its artifact remains is kept until the next listing also lacks it: its time is at most two sync intervals late. If a tag moved twice between two listings, only the last move is known. size_bytes is the size of the artifact now, or when it was last listed; artifact_id is that of the latest artifact with the digest if it was pushed again under another id. For times before the first listing, the result only has tags of that listing, from their push on; for times after the last one (swr_report.freshness.as_of), it is the state of the last one.';

create view swr_report.tag_move as
select
    r.instance,
    r.namespace,
    r.repository,
    h.name as tag,
    h.valid_to as moved_at,
    h.digest as from_digest,
    n.digest as to_digest,
    h.closed_run_id as run_id,
    h.repository_id,
    h.instance_id
from swr.named_repository r
join swr.tag_history h on h.instance_id = r.instance_id and h.repository_id = r.repository_id
-- A tag that moved has another interval that begins where this one ends.
left join swr.tag_history n
  on n.instance_id = h.instance_id and n.repository_id = h.repository_id and n.name = h.name
 and n.valid_from = h.valid_to
where h.valid_to is not null;

comment on view swr_report.tag_move is
    'Which tags moved, and when? One row per move or removal. If a tag was removed and came back, that is a removal only, wherever it came back to: a listing in between without the tag makes the difference. The time of a move is at most one sync interval late. The time of a removal is at most two sync intervals late if the artifact remained, because two listings in a row must lack the tag.';
comment on column swr_report.tag_move.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.tag_move.namespace is 'Name of the namespace.';
comment on column swr_report.tag_move.repository is 'Name of the repository without the namespace.';
comment on column swr_report.tag_move.tag is 'Name of the tag.';
comment on column swr_report.tag_move.moved_at is 'When the tag left the digest.';
comment on column swr_report.tag_move.from_digest is 'The digest it pointed to before.';
comment on column swr_report.tag_move.to_digest is 'The digest it pointed to afterwards; NULL if the tag was removed.';
comment on column swr_report.tag_move.run_id is 'The run that found it.';
comment on column swr_report.tag_move.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.tag_move.instance_id is 'Key of swr.instance.';

create view swr_report.change as
select
    c.instance,
    c.run_id,
    u.listing_started_at as seen_at,
    c.change,
    c.namespace,
    c.repository,
    c.tag,
    c.digest,
    c.previous_digest,
    c.size_bytes,
    case when c.change = 'artifact added' then coalesce(c.changed_at, u.listing_started_at) else c.changed_at end
        as changed_at,
    c.previous,
    c.artifact_id,
    c.repository_id,
    c.instance_id
from (
    -- What later runs changed is in swr.artifact_change: "later" has, of each column, the value before the first
    -- change after the run. jsonb_object_agg keeps the last value of a key.
    select r.instance_id, r.repository_id, r.instance, r.namespace, r.repository, a.first_seen_run_id as run_id,
           'artifact added' as change, null::text as tag, coalesce(p.later->>'digest', a.digest) as digest,
           null::text as previous_digest,
           case when p.later ? 'size_bytes' then (p.later->>'size_bytes')::bigint else a.size_bytes end as size_bytes,
           swr.known_time(case when p.later ? 'pushed_at' then (p.later->>'pushed_at')::timestamptz else a.pushed_at end)
               as changed_at,
           null::jsonb as previous, a.artifact_id
    from swr.named_repository r
    join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
    cross join lateral (
        select jsonb_object_agg(e.key, e.value order by x.run_id desc) as later
        from swr.artifact_change x
        cross join lateral jsonb_each(x.previous) e
        where x.instance_id = a.instance_id and x.artifact_id = a.artifact_id and x.run_id > a.first_seen_run_id
    ) p
    union all
    select r.instance_id, r.repository_id, r.instance, r.namespace, r.repository, a.removed_run_id, 'artifact removed',
           null, a.digest, null, a.size_bytes, a.removed_at, null, a.artifact_id
    from swr.named_repository r
    join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
    where a.removed_run_id is not null
    union all
    -- A removal that was reversed is no longer in the artifact's row; the restored change shows it.
    select r.instance_id, r.repository_id, r.instance, r.namespace, r.repository,
           (c.previous->>'removed_run_id')::bigint, 'artifact removed', null, coalesce(p.later->>'digest', a.digest), null,
           case when p.later ? 'size_bytes' then (p.later->>'size_bytes')::bigint else a.size_bytes end,
           (c.previous->>'removed_at')::timestamptz, null, c.artifact_id
    from swr.named_repository r
    join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
    join swr.artifact_change c on c.instance_id = a.instance_id and c.artifact_id = a.artifact_id
    cross join lateral (
        select jsonb_object_agg(e.key, e.value order by x.run_id desc) as later
        from swr.artifact_change x
        cross join lateral jsonb_each(x.previous) e
        where x.instance_id = c.instance_id and x.artifact_id = c.artifact_id and x.run_id >= c.run_id
    ) p
    where c.change = 'restored'
    union all
    select r.instance_id, r.repository_id, r.instance, r.namespace, r.repository, c.run_id, 'artifact ' || c.change, null,
           coalesce(p.later->>'digest', a.digest), c.previous->>'digest',
           case when p.later ? 'size_bytes' then (p.later->>'size_bytes')::bigint else a.size_bytes end, null,
           c.previous, c.artifact_id
    from swr.named_repository r
    join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
    join swr.artifact_change c on c.instance_id = a.instance_id and c.artifact_id = a.artifact_id
    cross join lateral (
        select jsonb_object_agg(e.key, e.value order by x.run_id desc) as later
        from swr.artifact_change x
        cross join lateral jsonb_each(x.previous) e
        where x.instance_id = c.instance_id and x.artifact_id = c.artifact_id and x.run_id > c.run_id
    ) p
    union all
    select r.instance_id, r.repository_id, r.instance, r.namespace, r.repository, o.opened_run_id,
           case when d.name is null then 'tag added' else 'tag moved' end, o.name, o.digest, d.digest,
           case when p.later ? 'size_bytes' then (p.later->>'size_bytes')::bigint else a.size_bytes end, o.valid_from,
           null, o.artifact_id
    from swr.named_repository r
    join swr.tag_history o on o.instance_id = r.instance_id and o.repository_id = r.repository_id
    join swr.artifact a on a.instance_id = o.instance_id and a.artifact_id = o.artifact_id
    left join swr.tag_history d
      on d.instance_id = o.instance_id and d.repository_id = o.repository_id and d.name = o.name
     and d.closed_run_id = o.opened_run_id
    cross join lateral (
        select jsonb_object_agg(e.key, e.value order by x.run_id desc) as later
        from swr.artifact_change x
        cross join lateral jsonb_each(x.previous) e
        where x.instance_id = o.instance_id and x.artifact_id = o.artifact_id and x.run_id > o.opened_run_id
    ) p
    union all
    -- The same run may have changed the artifact that the tag left.
    select r.instance_id, r.repository_id, r.instance, r.namespace, r.repository, d.closed_run_id, 'tag removed', d.name,
           null, d.digest,
           case when p.later ? 'size_bytes' then (p.later->>'size_bytes')::bigint else a.size_bytes end, d.valid_to, null,
           d.artifact_id
    from swr.named_repository r
    join swr.tag_history d on d.instance_id = r.instance_id and d.repository_id = r.repository_id
    join swr.artifact a on a.instance_id = d.instance_id and a.artifact_id = d.artifact_id
    cross join lateral (
        select jsonb_object_agg(e.key, e.value order by x.run_id desc) as later
        from swr.artifact_change x
        cross join lateral jsonb_each(x.previous) e
        where x.instance_id = d.instance_id and x.artifact_id = d.artifact_id and x.run_id >= d.closed_run_id
    ) p
    where d.closed_run_id is not null
      and not exists (
          select
          from swr.tag_history o
          where o.instance_id = d.instance_id and o.repository_id = d.repository_id and o.name = d.name
            and o.opened_run_id = d.closed_run_id
      )
) c
left join swr.sync_run u on u.instance_id = c.instance_id and u.run_id = c.run_id;

comment on view swr_report.change is
    'Which artifacts and tags did each run find added, changed, moved or removed? One row per run and artifact or tag. The change happened between the previous listing and the listing of this run; the removal of a tag whose artifact remained may have happened one listing earlier. Anything that appeared and disappeared in between is not recorded. A new pull time alone does not count as a change. Values are those of that run; namespace and repository of an artifact are its latest ones.';
comment on column swr_report.change.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.change.run_id is 'The run that found it.';
comment on column swr_report.change.seen_at is 'When the listing of that run began.';
comment on column swr_report.change.change is
    'artifact added, artifact changed, artifact removed, artifact restored (listed again under the same id), tag added, tag moved or tag removed.';
comment on column swr_report.change.namespace is 'Name of the namespace.';
comment on column swr_report.change.repository is 'Name of the repository without the namespace.';
comment on column swr_report.change.tag is 'The tag; NULL for a change of an artifact.';
comment on column swr_report.change.digest is 'The digest of the artifact, or the new digest of the tag; NULL for a removed tag.';
comment on column swr_report.change.previous_digest is
    'The previous digest of the tag, or of the artifact if it changed.';
comment on column swr_report.change.size_bytes is
    'Size of the artifact, or of the artifact that the tag points to from then on; for a removed tag, of the one it pointed to.';
comment on column swr_report.change.changed_at is
    'When it happened, as precisely as known: the time of the push as that run found it, otherwise the time of the listing, which is at most one sync interval late, or two for a removed tag whose artifact remained; NULL for changed and restored artifacts.';
comment on column swr_report.change.previous is 'Previous values of a changed or restored artifact: the columns of swr.artifact that differ.';
comment on column swr_report.change.artifact_id is
    'Id of the artifact in SWR; for a removed tag, of the artifact it pointed to. If the digest of a tag was pushed again under another id, the latest id.';
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
    'How does the registry grow? One row per namespace and day (UTC) with a push or a removal. Pushes count on the day of the push, or of the first listing if the push time is unknown; removals on the day of the listing without the artifact, which is at most one sync interval late. Artifacts that were removed before the first listing, or pushed and removed between two listings, are not recorded. Sizes are logical: swr_report.storage_history has the real ones. Past days change: an artifact that is pushed again moves to the day of its last push, and what an index counts depends on the artifacts listed with it.';
comment on column swr_report.growth_by_day.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.growth_by_day.namespace is 'Name of the namespace; NULL if unknown.';
comment on column swr_report.growth_by_day.day is 'The day, in UTC.';
comment on column swr_report.growth_by_day.pushes is 'Artifacts pushed; an artifact that was pushed again counts on the day of its last push.';
comment on column swr_report.growth_by_day.pushed_bytes is 'Sum of their sizes, as if nothing were shared; for indexes, see swr_report.storage_by_namespace.';
comment on column swr_report.growth_by_day.removals is 'Artifacts removed.';
comment on column swr_report.growth_by_day.removed_bytes is 'Sum of their sizes.';
comment on column swr_report.growth_by_day.artifacts is
    'Number of artifacts at the end of the day, of those that a run has listed.';
comment on column swr_report.growth_by_day.logical_bytes is 'Sum of their sizes at the end of the day.';
comment on column swr_report.growth_by_day.namespace_id is 'Id in SWR; 0 if the namespace is unknown.';
comment on column swr_report.growth_by_day.instance_id is 'Key of swr.instance.';

-- Findings in the build commands of the artifacts that exist now.

create view swr_report.build_command_finding as
with carried as (
    select
        a.instance_id,
        s.command_id,
        a.artifact_id,
        a.repository_id,
        cardinality(m.build_step_ids) as build_steps,
        swr.known_time(a.pushed_at) as pushed_at,
        min(e.position) as position
    from swr.artifact a
    join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
    cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
    join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
    join (
        select distinct instance_id, command_id from swr.command_finding
    ) f on f.instance_id = s.instance_id and f.command_id = s.command_id
    where a.removed_at is null
    group by a.instance_id, s.command_id, a.artifact_id, cardinality(m.build_step_ids)
),
used as (
    select
        instance_id,
        command_id,
        count(*) as artifacts,
        count(distinct repository_id) as repositories,
        (array_agg(artifact_id order by build_steps, pushed_at nulls last, artifact_id))[1] as artifact_id,
        (array_agg(position order by build_steps, pushed_at nulls last, artifact_id))[1] as position
    from carried
    group by instance_id, command_id
)
select
    r.instance,
    k.severity,
    f.rule_id as rule,
    k.title,
    k.why,
    coalesce(c.masked_command, c.command) as command,
    f.occurrences,
    u.artifacts,
    u.repositories,
    r.namespace as origin_namespace,
    r.repository as origin_repository,
    a.digest as origin_digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = u.instance_id and t.artifact_id = u.artifact_id
        order by t.name
    ) as origin_tags,
    u.position as origin_position,
    f.command_id,
    u.artifact_id as origin_artifact_id,
    u.instance_id
from used u
join swr.command_finding f on f.instance_id = u.instance_id and f.command_id = u.command_id
join swr.finding_rule k on k.rule_id = f.rule_id
join swr.command c on c.instance_id = u.instance_id and c.command_id = u.command_id
join swr.artifact a on a.instance_id = u.instance_id and a.artifact_id = u.artifact_id
join swr.named_repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id;

comment on view swr_report.build_command_finding is
    'Which build commands contain secrets or security risks, and where do they come from? One row per rule and command of an artifact that exists now. Secrets are masked; swr_report.build_history has the original command, by instance_id, artifact_id and position of the origin. swr_report.artifact_finding lists the artifacts. Secrets that a run with --redact-commands did not store are in swr_report.data_issue instead.';
comment on column swr_report.build_command_finding.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.build_command_finding.severity is
    'Severity: high (a secret), medium (a security risk), low (a bad practice), info (a build that is not reproducible).';
comment on column swr_report.build_command_finding.rule is 'The rule; see swr.finding_rule.';
comment on column swr_report.build_command_finding.title is 'Short description of the finding.';
comment on column swr_report.build_command_finding.why is 'Why it matters.';
comment on column swr_report.build_command_finding.command is 'The build command, with each secret replaced by [redacted].';
comment on column swr_report.build_command_finding.occurrences is 'Number of findings of the rule in the command.';
comment on column swr_report.build_command_finding.artifacts is 'Number of artifacts with the command.';
comment on column swr_report.build_command_finding.repositories is 'Number of repositories with such an artifact.';
comment on column swr_report.build_command_finding.origin_namespace is
    'Namespace of the origin: the artifact with the command that has the fewest build steps, or the first pushed of several; often the base image of the others.';
comment on column swr_report.build_command_finding.origin_repository is 'Its repository.';
comment on column swr_report.build_command_finding.origin_digest is 'Its digest.';
comment on column swr_report.build_command_finding.origin_tags is 'Its tags, in alphabetical order; empty if untagged.';
comment on column swr_report.build_command_finding.origin_position is
    'Position of the command in its build history, from 1, oldest first; the first one if there are several.';
comment on column swr_report.build_command_finding.command_id is 'Identifies the command.';
comment on column swr_report.build_command_finding.origin_artifact_id is 'Id of the origin in SWR.';
comment on column swr_report.build_command_finding.instance_id is 'Key of swr.instance.';

create view swr_report.artifact_finding as
select
    r.instance,
    r.namespace,
    r.repository,
    a.digest,
    array(
        select t.name
        from swr.tag t
        where t.instance_id = a.instance_id and t.artifact_id = a.artifact_id
        order by t.name
    ) as tags,
    k.severity,
    f.rule_id as rule,
    k.title,
    e.position,
    coalesce(c.masked_command, c.command) as command,
    f.occurrences,
    swr.known_time(a.pushed_at) as pushed_at,
    swr.known_time(a.pulled_at) as pulled_at,
    f.command_id,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.named_repository r
join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
join swr.manifest m on m.instance_id = a.instance_id and m.digest = a.digest
cross join lateral unnest(m.build_step_ids) with ordinality as e (build_step_id, position)
join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
join swr.command_finding f on f.instance_id = s.instance_id and f.command_id = s.command_id
join swr.finding_rule k on k.rule_id = f.rule_id
join swr.command c on c.instance_id = f.instance_id and c.command_id = f.command_id
where a.removed_at is null;

comment on view swr_report.artifact_finding is
    'Which artifacts are affected by the findings in build commands? One row per artifact that exists now, build step and rule with a finding in its command. Secrets are masked; swr_report.build_history has the original command, by instance_id, artifact_id and position.';
comment on column swr_report.artifact_finding.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.artifact_finding.namespace is 'Name of the namespace.';
comment on column swr_report.artifact_finding.repository is 'Name of the repository without the namespace.';
comment on column swr_report.artifact_finding.digest is 'Digest of the manifest.';
comment on column swr_report.artifact_finding.tags is 'Tags, in alphabetical order; empty if untagged.';
comment on column swr_report.artifact_finding.severity is
    'Severity: high (a secret), medium (a security risk), low (a bad practice), info (a build that is not reproducible).';
comment on column swr_report.artifact_finding.rule is 'The rule; see swr.finding_rule.';
comment on column swr_report.artifact_finding.title is 'Short description of the finding.';
comment on column swr_report.artifact_finding.position is 'Position of the build step, from 1, oldest first.';
comment on column swr_report.artifact_finding.command is 'The build command, with each secret replaced by [redacted].';
comment on column swr_report.artifact_finding.occurrences is 'Number of findings of the rule in the command.';
comment on column swr_report.artifact_finding.pushed_at is 'Last push.';
comment on column swr_report.artifact_finding.pulled_at is 'Last pull; NULL if never.';
comment on column swr_report.artifact_finding.command_id is 'Identifies the command; see swr_report.build_command_finding.';
comment on column swr_report.artifact_finding.artifact_id is 'Id in SWR.';
comment on column swr_report.artifact_finding.repository_id is 'Id of the repository in SWR.';
comment on column swr_report.artifact_finding.instance_id is 'Key of swr.instance.';

-- Age of the data, missing data, and altered values.

create view swr_report.freshness as
with published as (
    select distinct on (instance_id) instance_id, run_id, published_at, listing_started_at
    from swr.sync_run
    where outcome = 'published'
    order by instance_id, run_id desc
),
failed as (
    select s.instance_id, count(*) as failures, (array_agg(s.error order by s.run_id desc))[1] as error
    from swr.sync_run s
    left join published p on p.instance_id = s.instance_id
    where s.outcome in ('failed', 'stopped', 'abandoned') and s.run_id > coalesce(p.run_id, 0)
    group by s.instance_id
),
waiting as (
    select m.instance_id, count(*) as waiting
    from swr.manifest m
    where m.next_attempt_at is not null
      and exists (
          select from swr.artifact a
          where a.instance_id = m.instance_id and a.digest = m.digest and a.removed_at is null
      )
    group by m.instance_id
),
-- Runs skip histories if similar requests keep failing.
skipped as (
    select a.instance_id, count(distinct a.digest) as skipped
    from swr.artifact a
    where a.removed_at is null
      and not exists (
          select from swr.manifest m where m.instance_id = a.instance_id and m.digest = a.digest
      )
    group by a.instance_id
)
select
    coalesce(i.name, i.swr_instance_id) as instance,
    p.published_at as last_published_at,
    p.run_id as last_published_run_id,
    p.listing_started_at as as_of,
    now() - p.listing_started_at as age,
    coalesce(f.failures, 0) as failures_since,
    f.error as last_error,
    coalesce(w.waiting, 0) + coalesce(k.skipped, 0) as histories_waiting,
    i.instance_id
from swr.instance i
left join published p on p.instance_id = i.instance_id
left join failed f on f.instance_id = i.instance_id
left join waiting w on w.instance_id = i.instance_id
left join skipped k on k.instance_id = i.instance_id;

comment on view swr_report.freshness is 'How old is the data? One row per instance.';
comment on column swr_report.freshness.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.freshness.last_published_at is 'When the last complete listing was published; NULL if none was.';
comment on column swr_report.freshness.last_published_run_id is 'The run that published it.';
comment on column swr_report.freshness.as_of is 'When that listing began: earlier changes are included, later ones may be missing.';
comment on column swr_report.freshness.age is 'Time since as_of.';
comment on column swr_report.freshness.failures_since is 'Number of failed runs since then.';
comment on column swr_report.freshness.last_error is 'Error of the latest of them.';
comment on column swr_report.freshness.histories_waiting is
    'Number of build histories that are missing and that later runs will request, for the first time or again; see swr_report.history_failure.';
comment on column swr_report.freshness.instance_id is 'Key of swr.instance.';

create view swr_report.history_failure as
select
    r.instance,
    r.namespace,
    r.repository,
    m.digest,
    m.outcome,
    m.http_status,
    m.error_code,
    m.error_message,
    m.waiting_since,
    m.attempts,
    m.attempted_at,
    m.next_attempt_at,
    a.artifacts,
    a.artifact_id,
    a.repository_id,
    m.instance_id
from swr.manifest m
join lateral (
    select
        x.artifact_id,
        x.repository_id,
        count(*) over (partition by x.instance_id) as artifacts,
        row_number() over (partition by x.instance_id order by x.artifact_id) as place
    from swr.artifact x
    where x.instance_id = m.instance_id and x.digest = m.digest and x.removed_at is null
) a on a.place = 1
join swr.named_repository r on r.instance_id = m.instance_id and r.repository_id = a.repository_id
where m.next_attempt_at is not null
union all
select
    r.instance,
    r.namespace,
    r.repository,
    a.digest,
    'not_requested',
    null,
    null,
    null,
    null,
    0,
    null,
    null,
    c.artifacts,
    a.artifact_id,
    a.repository_id,
    a.instance_id
from swr.named_repository r
join swr.artifact a on a.instance_id = r.instance_id and a.repository_id = r.repository_id
cross join lateral (
    select count(*) as artifacts, min(x.artifact_id) as artifact_id
    from swr.artifact x
    where x.instance_id = a.instance_id and x.digest = a.digest and x.removed_at is null
) c
where a.removed_at is null and a.artifact_id = c.artifact_id
  and not exists (
      select from swr.manifest m where m.instance_id = a.instance_id and m.digest = a.digest
  );

comment on view swr_report.history_failure is
    'Which build histories are missing, and why? One row per digest that is in the registry and whose history could not be fetched, or was not requested because similar requests kept failing.';
comment on column swr_report.history_failure.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.history_failure.namespace is 'Name of the namespace.';
comment on column swr_report.history_failure.repository is 'Name of the repository without the namespace; the first one if several have the digest.';
comment on column swr_report.history_failure.digest is 'Digest of the manifest.';
comment on column swr_report.history_failure.outcome is
    'How the latest attempt ended: forbidden, gone or failed; see swr.manifest.outcome. not_requested if no run has requested it.';
comment on column swr_report.history_failure.http_status is 'HTTP status of the latest response; NULL without a response.';
comment on column swr_report.history_failure.error_code is 'Error code of the latest response.';
comment on column swr_report.history_failure.error_message is 'Error message of the latest response.';
comment on column swr_report.history_failure.waiting_since is 'When the first attempt failed; NULL without an attempt.';
comment on column swr_report.history_failure.attempts is 'Number of runs that requested it.';
comment on column swr_report.history_failure.attempted_at is 'When the latest response arrived.';
comment on column swr_report.history_failure.next_attempt_at is
    'Time from which a run requests it again; NULL without an attempt: the next run requests it.';
comment on column swr_report.history_failure.artifacts is 'Number of artifacts with this digest.';
comment on column swr_report.history_failure.artifact_id is 'Id of the first of them in SWR.';
comment on column swr_report.history_failure.repository_id is 'Id of its repository in SWR.';
comment on column swr_report.history_failure.instance_id is 'Key of swr.instance.';

create view swr_report.data_issue as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    d.table_name as "table",
    d.row_key,
    d.field,
    d.action,
    d.original,
    d.recorded_at as first_seen_at,
    d.run_id as first_seen_run_id,
    d.data_issue_id,
    d.instance_id
from swr.data_issue d
join swr.instance i on i.instance_id = d.instance_id;

comment on view swr_report.data_issue is
    'Which values could not be stored unchanged? One row per altered value or omitted row, with the original. The row remains if the registry corrects the value later.';
comment on column swr_report.data_issue.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.data_issue."table" is 'The table of the row, in schema swr.';
comment on column swr_report.data_issue.row_key is
    'The key of the row in terms of the API: an id; the artifact of a tag; a digest, with the position of a build step. Empty for a row without a readable id.';
comment on column swr_report.data_issue.field is 'The field of the API; empty for a whole row.';
comment on column swr_report.data_issue.action is 'How the value was altered.';
comment on column swr_report.data_issue.original is
    'The original value; if jsonb cannot store it, a string with its JSON text, in which bytes that are not UTF-8 are written like \xff. May contain secrets if it is a build command.';
comment on column swr_report.data_issue.first_seen_at is 'When it was first recorded.';
comment on column swr_report.data_issue.first_seen_run_id is 'The run that recorded it.';
comment on column swr_report.data_issue.data_issue_id is 'Hash of the issue.';
comment on column swr_report.data_issue.instance_id is 'Key of swr.instance.';

create view swr_report.verification as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    v.finished_at as verified_at,
    v.outcome,
    v.artifacts_compared,
    v.tags_compared,
    v.histories_compared,
    v.corrupt,
    v.changed,
    v.unlisted,
    v.differences,
    v.histories_unavailable,
    v.verified_run_id,
    v.run_id,
    v.instance_id
from swr.verification v
join swr.instance i on i.instance_id = v.instance_id;

comment on view swr_report.verification is 'Does the mirror agree with the registry? One row per completed verification.';
comment on column swr_report.verification.instance is 'Name of the instance, or its id if the name is unknown.';
comment on column swr_report.verification.verified_at is 'When the verification ended.';
comment on column swr_report.verification.outcome is 'intact or corrupt.';
comment on column swr_report.verification.artifacts_compared is 'Artifacts compared.';
comment on column swr_report.verification.tags_compared is 'Tags compared.';
comment on column swr_report.verification.histories_compared is 'Build histories fetched again and compared.';
comment on column swr_report.verification.corrupt is 'Differences that changes in the registry do not explain.';
comment on column swr_report.verification.changed is 'Differences due to changes in the registry since then.';
comment on column swr_report.verification.unlisted is 'Rows that the registry no longer lists.';
comment on column swr_report.verification.differences is 'Differences by verdict, table and field.';
comment on column swr_report.verification.histories_unavailable is 'Build histories that could not be fetched.';
comment on column swr_report.verification.verified_run_id is 'The run whose result was compared.';
comment on column swr_report.verification.run_id is 'The run that verified.';
comment on column swr_report.verification.instance_id is 'Key of swr.instance.';
