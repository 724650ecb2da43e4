-- What `verify` found when it compared the tables with the registry.

create table swr.verification (
    instance_id           integer not null references swr.instance,
    run_id                bigint not null,
    verified_run_id       bigint not null,
    started_at            timestamptz not null,
    finished_at           timestamptz not null,
    outcome               text not null check (outcome in ('intact', 'corrupt')),
    artifacts_compared    bigint not null,
    tags_compared         bigint not null,
    histories_compared    bigint not null,
    histories_unavailable bigint not null,
    corrupt               bigint not null,
    changed               bigint not null,
    unlisted              bigint not null,
    differences           jsonb not null,
    primary key (instance_id, run_id)
);

comment on table swr.verification is 'One row per completed verification: what was compared, and the verdict.';
comment on column swr.verification.instance_id is 'The instance.';
comment on column swr.verification.run_id is 'The run that verified; its row in swr.sync_run has the requests and times.';
comment on column swr.verification.verified_run_id is 'The published run whose result was compared.';
comment on column swr.verification.started_at is 'When the verification started.';
comment on column swr.verification.finished_at is 'When it ended.';
comment on column swr.verification.outcome is 'corrupt if anything was found that changes of the registry do not explain, else intact.';
comment on column swr.verification.artifacts_compared is 'Artifacts that are both in the listing and in swr.artifact.';
comment on column swr.verification.tags_compared is 'Tags that are both in the listing and in swr.tag.';
comment on column swr.verification.histories_compared is 'Build histories that were fetched again and compared.';
comment on column swr.verification.histories_unavailable is 'Build histories that were asked for and did not come.';
comment on column swr.verification.corrupt is 'Differences that changes of the registry do not explain.';
comment on column swr.verification.changed is 'Differences that came about in the registry since the verified run.';
comment on column swr.verification.unlisted is 'Rows that the registry no longer lists; when they went cannot be known.';
comment on column swr.verification.differences is 'Differences by verdict, table and field: {"changed": {"artifact.pulled_at": 3}}.';

create table swr.verification_difference (
    instance_id integer not null references swr.instance,
    run_id      bigint not null,
    table_name  text not null,
    row_key     text not null,
    field       text not null,
    verdict     text not null check (verdict in ('corrupt', 'changed', 'unlisted')),
    stored      text,
    found       text,
    primary key (instance_id, run_id, table_name, row_key, field)
);

comment on table swr.verification_difference is 'One row per difference that the latest verification of an instance found.';
comment on column swr.verification_difference.instance_id is 'The instance.';
comment on column swr.verification_difference.run_id is 'The run that verified.';
comment on column swr.verification_difference.table_name is 'The table that differs, without its schema.';
comment on column swr.verification_difference.row_key is 'The row: an id, a repository id and a tag, a digest and a position.';
comment on column swr.verification_difference.field is 'The column; "row" if the row is missing, or is there without reason.';
comment on column swr.verification_difference.verdict is
    'corrupt; changed (in the registry, since the verified run); unlisted (no longer listed).';
comment on column swr.verification_difference.stored is 'The value in the table; of a command, the name of its content.';
comment on column swr.verification_difference.found is 'The value in the registry, or what the other tables say it should be.';

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
comment on column swr_report.verification.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.verification.verified_at is 'When the verification ended.';
comment on column swr_report.verification.outcome is 'intact or corrupt.';
comment on column swr_report.verification.artifacts_compared is 'Artifacts compared.';
comment on column swr_report.verification.tags_compared is 'Tags compared.';
comment on column swr_report.verification.histories_compared is 'Build histories fetched again and compared.';
comment on column swr_report.verification.corrupt is 'Differences that changes of the registry do not explain.';
comment on column swr_report.verification.changed is 'Differences that came about in the registry since.';
comment on column swr_report.verification.unlisted is 'Rows that the registry no longer lists.';
comment on column swr_report.verification.differences is 'Differences by verdict, table and field.';
comment on column swr_report.verification.histories_unavailable is 'Build histories that did not come.';
comment on column swr_report.verification.verified_run_id is 'The run whose result was compared.';
comment on column swr_report.verification.run_id is 'The run that verified.';
comment on column swr_report.verification.instance_id is 'Key of swr.instance.';
