-- What else happened to artifacts than to appear and to go, which their own rows tell.

create table swr.artifact_change (
    instance_id integer not null,
    artifact_id bigint not null,
    run_id      bigint not null,
    change      text not null check (change in ('changed', 'restored')),
    previous    jsonb not null,
    primary key (instance_id, artifact_id, run_id)
);

comment on table swr.artifact_change is
    'One row per run that found an artifact changed in more than its pull time, or back after a removal.';
comment on column swr.artifact_change.instance_id is 'The instance.';
comment on column swr.artifact_change.artifact_id is 'The artifact.';
comment on column swr.artifact_change.run_id is 'The run that found it.';
comment on column swr.artifact_change.change is 'changed, or restored: listed again after a removal.';
comment on column swr.artifact_change.previous is
    'Columns of swr.artifact that differ, with their values before; of a restored one, removed_at and removed_run_id are among them.';
