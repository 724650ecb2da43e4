-- What the registry holds now, and what its tags pointed to before.
--
-- Every primary key starts with instance_id, so that each table can be
-- partitioned or distributed by instance.

comment on schema swr is
    'A mirror of Huawei Cloud SWR Enterprise registries, written by swr-sync. Query the views of swr_report first.';

create table swr.instance (
    instance_id     integer generated always as identity primary key,
    swr_instance_id text not null unique,
    project_id      text not null,
    endpoint        text not null,
    region          text,
    name            text,
    version         text,
    first_seen_at   timestamptz not null
);

comment on table swr.instance is 'One row per registry instance that was ever synced into this database.';
comment on column swr.instance.instance_id is 'Small surrogate for the instance; the first part of every key of this schema.';
comment on column swr.instance.swr_instance_id is 'The id of the instance in SWR.';
comment on column swr.instance.project_id is 'The Huawei Cloud project of the instance.';
comment on column swr.instance.endpoint is 'The API endpoint of the latest run.';
comment on column swr.instance.region is 'The region, if the run was given one.';
comment on column swr.instance.name is 'The name of the instance; NULL if the key may not read it.';
comment on column swr.instance.version is 'The version of the instance when it was first seen; NULL if the key may not read it.';
comment on column swr.instance.first_seen_at is 'When the first run over this instance started.';

create table swr.namespace (
    instance_id      integer not null references swr.instance,
    namespace_id     bigint not null,
    name             text not null,
    repository_count bigint,
    metadata         jsonb,
    created_at       timestamptz,
    updated_at       timestamptz,
    removed_at       timestamptz,
    extra            jsonb,
    primary key (instance_id, namespace_id)
);

comment on table swr.namespace is 'One row per namespace of the catalog (api-swr2 swr_03_0102).';
comment on column swr.namespace.instance_id is 'The instance.';
comment on column swr.namespace.namespace_id is 'The id of the namespace in SWR.';
comment on column swr.namespace.name is 'The name of the namespace.';
comment on column swr.namespace.repository_count is 'Number of repositories as the API gives it (repo_count).';
comment on column swr.namespace.metadata is 'Settings as the API gives them: public, auto_scan, prevent_vul, severity.';
comment on column swr.namespace.created_at is 'When the namespace was created.';
comment on column swr.namespace.updated_at is 'When the namespace was last changed.';
comment on column swr.namespace.removed_at is 'The run time at which the namespace was no longer in the catalog; NULL while it is.';
comment on column swr.namespace.extra is 'Fields of the answer this schema has no column for.';

create table swr.repository (
    instance_id    integer not null references swr.instance,
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
    removed_at     timestamptz,
    extra          jsonb,
    primary key (instance_id, repository_id)
);

comment on table swr.repository is 'One row per repository of the catalog (api-swr2 swr_03_0201).';
comment on column swr.repository.instance_id is 'The instance.';
comment on column swr.repository.repository_id is 'The id of the repository in SWR.';
comment on column swr.repository.namespace_id is 'The namespace of the repository.';
comment on column swr.repository.namespace_name is 'The name of the namespace, as the repository list gives it.';
comment on column swr.repository.name is 'The name without the namespace; may contain slashes.';
comment on column swr.repository.description is 'The description, if any.';
comment on column swr.repository.tag_count is 'Number of tags as the API gives it.';
comment on column swr.repository.artifact_count is 'Number of artifacts as the API gives it.';
comment on column swr.repository.pull_count is 'Number of pulls as the API gives it.';
comment on column swr.repository.created_at is 'When the repository was created.';
comment on column swr.repository.updated_at is 'When the repository was last changed.';
comment on column swr.repository.removed_at is 'The run time at which the repository was neither in the catalog nor named by an artifact; NULL while it is.';
comment on column swr.repository.extra is 'Fields of the answer this schema has no column for.';

create table swr.artifact (
    instance_id         integer not null references swr.instance,
    artifact_id         bigint not null,
    repository_id       bigint not null,
    namespace_id        bigint,
    size_bytes          bigint,
    pushed_at           timestamptz,
    pulled_at           timestamptz,
    removed_at          timestamptz,
    first_seen_run_id   bigint not null,
    removed_run_id      bigint,
    digest              text not null,
    type                text,
    media_type          text,
    manifest_media_type text,
    repository_name     text,
    extra               jsonb,
    primary key (instance_id, artifact_id)
)
-- Pull times change between runs; room on the page keeps those updates off the indexes.
with (fillfactor = 90);

-- From a digest to the repositories that hold it, and to its build history.
create index artifact_digest on swr.artifact (instance_id, digest);
-- The artifacts of one repository, the commonest filter of the reports.
create index artifact_repository on swr.artifact (instance_id, repository_id);

comment on table swr.artifact is 'One row per artifact of the list (api-swr2 swr_03_0306): a digest in a repository. Rows are never deleted; see removed_at.';
comment on column swr.artifact.instance_id is 'The instance.';
comment on column swr.artifact.artifact_id is 'The id of the artifact in SWR. A digest that is deleted and pushed again gets a new id.';
comment on column swr.artifact.repository_id is 'The repository; its names are in swr.repository.';
comment on column swr.artifact.namespace_id is 'The namespace, as the artifact list gives it.';
comment on column swr.artifact.size_bytes is 'Size as the API gives it: manifest, config and layers; of an index, its own bytes and its children''s.';
comment on column swr.artifact.pushed_at is 'Last push (push_time).';
comment on column swr.artifact.pulled_at is 'Last pull (pull_time); NULL if the artifact was never pulled.';
comment on column swr.artifact.removed_at is 'The run time at which the artifact was no longer listed; NULL while it is.';
comment on column swr.artifact.first_seen_run_id is 'The run that published the artifact first.';
comment on column swr.artifact.removed_run_id is 'The run that found the artifact removed.';
comment on column swr.artifact.digest is 'The digest of the manifest; joins to swr.manifest.';
comment on column swr.artifact.type is 'IMAGE, CHART or another type of the API.';
comment on column swr.artifact.media_type is 'Media type of the config.';
comment on column swr.artifact.manifest_media_type is 'Media type of the manifest.';
comment on column swr.artifact.repository_name is 'The repository name in the artifact list, which may or may not carry the namespace; NULL where the list left it out.';
comment on column swr.artifact.extra is 'Fields of the answer this schema has no column for.';

create table swr.tag (
    instance_id   integer not null,
    repository_id bigint not null,
    name          text not null,
    tag_id        bigint,
    artifact_id   bigint not null,
    pushed_at     timestamptz,
    pulled_at     timestamptz,
    extra         jsonb,
    primary key (instance_id, repository_id, name),
    foreign key (instance_id, artifact_id) references swr.artifact
)
with (fillfactor = 90);

-- The tags of one artifact.
create index tag_artifact on swr.tag (instance_id, artifact_id);

comment on table swr.tag is 'One row per tag that exists now. A tag name is unique in its repository.';
comment on column swr.tag.instance_id is 'The instance.';
comment on column swr.tag.repository_id is 'The repository.';
comment on column swr.tag.name is 'The name of the tag.';
comment on column swr.tag.tag_id is 'The id of the tag in SWR.';
comment on column swr.tag.artifact_id is 'The artifact the tag points to.';
comment on column swr.tag.pushed_at is 'When the tag was pushed (push_time).';
comment on column swr.tag.pulled_at is 'Last pull by this tag (pull_time); NULL if never.';
comment on column swr.tag.extra is 'Fields of the answer this schema has no column for.';

create table swr.tag_history (
    instance_id   integer not null references swr.instance,
    repository_id bigint not null,
    name          text not null,
    valid_from    timestamptz not null,
    valid_to      timestamptz,
    artifact_id   bigint not null,
    opened_run_id bigint not null,
    closed_run_id bigint,
    digest        text not null,
    primary key (instance_id, repository_id, name, valid_from),
    check (valid_to > valid_from)
);

-- A tag points to one digest at a time.
create unique index tag_history_open on swr.tag_history (instance_id, repository_id, name) where valid_to is null;

comment on table swr.tag_history is
    'One row per interval in which a tag pointed to a digest. Moves between two runs are seen once; their time is the push time where the API tells it, else the time of the run, so it is off by one sync interval at most.';
comment on column swr.tag_history.instance_id is 'The instance.';
comment on column swr.tag_history.repository_id is 'The repository.';
comment on column swr.tag_history.name is 'The name of the tag.';
comment on column swr.tag_history.valid_from is 'Start of the interval, inclusive.';
comment on column swr.tag_history.valid_to is 'End of the interval, exclusive; NULL while it lasts.';
comment on column swr.tag_history.artifact_id is 'The artifact the tag pointed to.';
comment on column swr.tag_history.opened_run_id is 'The run that saw the tag there first.';
comment on column swr.tag_history.closed_run_id is 'The run that saw it elsewhere, or gone.';
comment on column swr.tag_history.digest is 'The digest the tag pointed to.';
