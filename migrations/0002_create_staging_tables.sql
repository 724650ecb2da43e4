-- Rows of a listing in progress. Unlogged: a crash empties the tables, and an unfinished listing is not
-- needed. Publish deletes the rows; if it does not happen, the next run does.

create unlogged table swr.staged_namespace (
    instance_id      integer not null,
    run_id           bigint not null,
    row_number       bigint not null,
    namespace_id     bigint not null,
    name             text not null,
    repository_count bigint,
    metadata         jsonb,
    created_at       timestamptz,
    updated_at       timestamptz,
    extra            jsonb,
    primary key (instance_id, run_id, row_number)
);

comment on table swr.staged_namespace is 'Namespaces read by a run in progress; the last row of each namespace counts.';
comment on column swr.staged_namespace.instance_id is 'The instance.';
comment on column swr.staged_namespace.run_id is 'The run.';
comment on column swr.staged_namespace.row_number is 'Order of arrival.';
comment on column swr.staged_namespace.namespace_id is 'See swr.namespace.';
comment on column swr.staged_namespace.name is 'See swr.namespace.';
comment on column swr.staged_namespace.repository_count is 'See swr.namespace.';
comment on column swr.staged_namespace.metadata is 'See swr.namespace.';
comment on column swr.staged_namespace.created_at is 'See swr.namespace.';
comment on column swr.staged_namespace.updated_at is 'See swr.namespace.';
comment on column swr.staged_namespace.extra is 'See swr.namespace.';

create unlogged table swr.staged_repository (
    instance_id    integer not null,
    run_id         bigint not null,
    row_number     bigint not null,
    repository_id  bigint not null,
    namespace_id   bigint,
    namespace_name text not null,
    name           text not null,
    description    text,
    tag_count      bigint,
    artifact_count bigint,
    pull_count     bigint,
    created_at     timestamptz,
    updated_at     timestamptz,
    extra          jsonb,
    primary key (instance_id, run_id, row_number)
);

-- Requests for build histories use the names in this table.
create index staged_repository_id on swr.staged_repository (instance_id, run_id, repository_id, row_number);

comment on table swr.staged_repository is 'Repositories read by a run in progress; the last row of each repository counts.';
comment on column swr.staged_repository.instance_id is 'The instance.';
comment on column swr.staged_repository.run_id is 'The run.';
comment on column swr.staged_repository.row_number is 'Order of arrival.';
comment on column swr.staged_repository.repository_id is 'See swr.repository.';
comment on column swr.staged_repository.namespace_id is 'See swr.repository.';
comment on column swr.staged_repository.namespace_name is 'See swr.repository.';
comment on column swr.staged_repository.name is 'See swr.repository.';
comment on column swr.staged_repository.description is 'See swr.repository.';
comment on column swr.staged_repository.tag_count is 'See swr.repository.';
comment on column swr.staged_repository.artifact_count is 'See swr.repository.';
comment on column swr.staged_repository.pull_count is 'See swr.repository.';
comment on column swr.staged_repository.created_at is 'See swr.repository.';
comment on column swr.staged_repository.updated_at is 'See swr.repository.';
comment on column swr.staged_repository.extra is 'See swr.repository.';

create unlogged table swr.staged_artifact (
    instance_id         integer not null,
    run_id              bigint not null,
    row_number          bigint not null,
    artifact_id         bigint not null,
    repository_id       bigint not null,
    namespace_id        bigint,
    size_bytes          bigint,
    pushed_at           timestamptz,
    pulled_at           timestamptz,
    digest              text collate "C" not null,
    type                text,
    media_type          text,
    manifest_media_type text,
    repository_name     text,
    extra               jsonb,
    difference          text check (difference in ('changed', 'pulled', 'returning')),
    primary key (instance_id, run_id, row_number)
);

comment on table swr.staged_artifact is 'Artifacts listed by a run in progress; the last row of each artifact counts.';
comment on column swr.staged_artifact.instance_id is 'The instance.';
comment on column swr.staged_artifact.run_id is 'The run.';
comment on column swr.staged_artifact.row_number is 'Order of arrival.';
comment on column swr.staged_artifact.artifact_id is 'See swr.artifact.';
comment on column swr.staged_artifact.repository_id is 'See swr.artifact.';
comment on column swr.staged_artifact.namespace_id is 'See swr.artifact.';
comment on column swr.staged_artifact.size_bytes is 'See swr.artifact.';
comment on column swr.staged_artifact.pushed_at is 'See swr.artifact.';
comment on column swr.staged_artifact.pulled_at is 'See swr.artifact.';
comment on column swr.staged_artifact.digest is 'See swr.artifact.';
comment on column swr.staged_artifact.type is 'See swr.artifact.';
comment on column swr.staged_artifact.media_type is 'See swr.artifact.';
comment on column swr.staged_artifact.manifest_media_type is 'See swr.artifact.';
comment on column swr.staged_artifact.repository_name is 'See swr.artifact.';
comment on column swr.staged_artifact.extra is 'See swr.artifact.';
comment on column swr.staged_artifact.difference is
    'The difference that publish found: pulled (only pulled_at differs), changed, or returning (removed before); NULL if equal or new.';

create unlogged table swr.staged_tag (
    instance_id         integer not null,
    run_id              bigint not null,
    artifact_row_number bigint not null,
    row_number          bigint not null,
    repository_id       bigint not null,
    artifact_id         bigint not null,
    name                text collate "C" not null,
    tag_id              bigint,
    pushed_at           timestamptz,
    pulled_at           timestamptz,
    extra               jsonb,
    has_changed         boolean not null default false,
    primary key (instance_id, run_id, row_number)
);

comment on table swr.staged_tag is 'Tags listed by a run in progress; the last row of each tag counts.';
comment on column swr.staged_tag.instance_id is 'The instance.';
comment on column swr.staged_tag.run_id is 'The run.';
comment on column swr.staged_tag.artifact_row_number is 'The row of swr.staged_artifact with the tag.';
comment on column swr.staged_tag.row_number is 'Order of arrival.';
comment on column swr.staged_tag.repository_id is 'See swr.tag.';
comment on column swr.staged_tag.artifact_id is 'See swr.tag.';
comment on column swr.staged_tag.name is 'See swr.tag.';
comment on column swr.staged_tag.tag_id is 'See swr.tag.';
comment on column swr.staged_tag.pushed_at is 'See swr.tag.';
comment on column swr.staged_tag.pulled_at is 'See swr.tag.';
comment on column swr.staged_tag.extra is 'See swr.tag.';
comment on column swr.staged_tag.has_changed is
    'Whether publish found the tag in swr.tag with another value in any column; also true if the previous listing lacked the tag.';

create unlogged table swr.staged_data_issue (
    instance_id   integer not null,
    run_id        bigint not null,
    data_issue_id uuid not null,
    table_name    text not null,
    row_key       text not null,
    field         text not null,
    action        text not null,
    original      jsonb,
    primary key (instance_id, run_id, data_issue_id)
);

comment on table swr.staged_data_issue is 'Altered values in the listing of a run in progress.';
comment on column swr.staged_data_issue.instance_id is 'The instance.';
comment on column swr.staged_data_issue.run_id is 'The run.';
comment on column swr.staged_data_issue.data_issue_id is 'See swr.data_issue.';
comment on column swr.staged_data_issue.table_name is 'See swr.data_issue.';
comment on column swr.staged_data_issue.row_key is 'See swr.data_issue.';
comment on column swr.staged_data_issue.field is 'See swr.data_issue.';
comment on column swr.staged_data_issue.action is 'See swr.data_issue.';
comment on column swr.staged_data_issue.original is 'See swr.data_issue.';
