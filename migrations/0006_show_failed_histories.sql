-- What keeps build histories from arriving, and since when.

alter table swr.manifest add column waiting_since timestamptz;

comment on column swr.manifest.waiting_since is
    'Since when the history was asked for in vain: the first attempt of those that failed; NULL if the outcome is final.';

-- The first attempt was not kept so far; the latest is the best that is known of it.
update swr.manifest set waiting_since = attempted_at where next_attempt_at is not null;

alter table swr.sync_run add column histories_skipped bigint not null default 0;

comment on column swr.sync_run.histories_skipped is
    'Histories that were wanted but not asked for, because requests like theirs kept failing; the next run asks for them.';

create view swr_report.history_failure as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    coalesce(r.namespace_name, n.name) as namespace,
    coalesce(r.name, a.repository_name) as repository,
    m.digest,
    m.outcome,
    m.http_status,
    m.error_code,
    m.error_message,
    m.waiting_since,
    m.attempts,
    m.attempted_at,
    m.next_attempt_at,
    l.artifacts,
    l.artifact_id,
    a.repository_id,
    m.instance_id
from swr.manifest m
join swr.instance i on i.instance_id = m.instance_id
join lateral (
    select count(*) as artifacts, min(x.artifact_id) as artifact_id
    from swr.artifact x
    where x.instance_id = m.instance_id and x.digest = m.digest and x.removed_at is null
) l on l.artifacts > 0
join swr.artifact a on a.instance_id = m.instance_id and a.artifact_id = l.artifact_id
left join swr.repository r on r.instance_id = a.instance_id and r.repository_id = a.repository_id
left join swr.namespace n on n.instance_id = a.instance_id and n.namespace_id = a.namespace_id
where m.next_attempt_at is not null;

comment on view swr_report.history_failure is
    'Which build histories are missing, and why? One row per digest that is in the registry and whose history was asked for in vain.';
comment on column swr_report.history_failure.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.history_failure.namespace is 'Name of the namespace.';
comment on column swr_report.history_failure.repository is 'Name of the repository without the namespace; the first, if several hold the digest.';
comment on column swr_report.history_failure.digest is 'Digest of the manifest.';
comment on column swr_report.history_failure.outcome is 'How the latest attempt ended: forbidden, gone or failed; see swr.manifest.outcome.';
comment on column swr_report.history_failure.http_status is 'Status of the latest answer; NULL if none came.';
comment on column swr_report.history_failure.error_code is 'Error code of the latest answer.';
comment on column swr_report.history_failure.error_message is 'Error message of the latest answer.';
comment on column swr_report.history_failure.waiting_since is 'When it was asked for in vain first.';
comment on column swr_report.history_failure.attempts is 'Number of runs that asked for it.';
comment on column swr_report.history_failure.attempted_at is 'When the latest answer arrived.';
comment on column swr_report.history_failure.next_attempt_at is 'From when on a run asks again.';
comment on column swr_report.history_failure.artifacts is 'Number of artifacts with this digest.';
comment on column swr_report.history_failure.artifact_id is 'Id of the first of them in SWR.';
comment on column swr_report.history_failure.repository_id is 'Id of its repository in SWR.';
comment on column swr_report.history_failure.instance_id is 'Key of swr.instance.';

-- As before, but what was deleted from the registry is not waited for any more.
create or replace view swr_report.freshness as
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
      and exists (
          select from swr.artifact a
          where a.instance_id = i.instance_id and a.digest = m.digest and a.removed_at is null
      )
) w on true;
