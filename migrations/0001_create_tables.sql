-- The current content of the registry, its history, and the runs.
--
-- Every primary key of a fact table starts with instance_id, so that each table
-- can be partitioned or distributed by instance.
--
-- Tables that a run writes in bulk have no foreign keys: checking them takes two fifths of the time of
-- a row, and each run writes both sides in one transaction. Digests and tags are compared by bytes
-- (collation "C"), which takes half the time, and their indexes do not depend on the collations of the
-- operating system.

comment on schema swr is
    'A mirror of Huawei Cloud SWR Enterprise registries, written by swr-sync. Query the views of swr_report first.';

-- Registries write dates such as the year 1 for "never", with or without the offset of a time zone.
create function swr.known_time(at timestamptz)
returns timestamptz
language sql
immutable
parallel safe
return case when at >= timestamptz '1980-01-01 00:00:00+00' then at end;

comment on function swr.known_time(timestamptz) is 'The time, or NULL if it is before 1980, which means never.';

create table swr.instance (
    instance_id     integer generated always as identity primary key,
    swr_instance_id text not null unique,
    project_id      text not null,
    endpoint        text not null,
    region          text,
    name            text,
    version         text,
    first_seen_at   timestamptz not null,
    rules_version   integer
);

comment on table swr.instance is 'One row per registry instance that was ever synced into this database.';
comment on column swr.instance.instance_id is 'Short key of the instance; the first part of every key in this schema.';
comment on column swr.instance.swr_instance_id is 'The id of the instance in SWR.';
comment on column swr.instance.project_id is 'The Huawei Cloud project of the instance.';
comment on column swr.instance.endpoint is 'The API endpoint of the latest run.';
comment on column swr.instance.region is 'The region, if it is configured.';
comment on column swr.instance.name is 'The name of the instance; NULL if the credentials do not allow reading it.';
comment on column swr.instance.version is 'The version of the instance when it was first seen; NULL if the credentials do not allow reading it.';
comment on column swr.instance.first_seen_at is 'When the first run over this instance started.';
comment on column swr.instance.rules_version is
    'Version of the finding rules that were applied to all commands of the instance; NULL if some commands are not checked yet. Each run checks them at its end.';

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
comment on column swr.namespace.repository_count is 'Number of repositories according to the API (repo_count).';
comment on column swr.namespace.metadata is 'Settings from the API: public, auto_scan, prevent_vul, severity.';
comment on column swr.namespace.created_at is 'When the namespace was created.';
comment on column swr.namespace.updated_at is 'When the namespace was last changed.';
comment on column swr.namespace.removed_at is 'Start of the listing that no longer had the namespace; NULL while it exists.';
comment on column swr.namespace.extra is 'Fields of the response without a column in this schema.';

create table swr.repository (
    instance_id    integer not null references swr.instance,
    repository_id  bigint not null,
    namespace_id   bigint,
    namespace_name text,
    name           text,
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

-- For filters by name.
create index repository_name on swr.repository (name);
-- For filters by namespace, and the order of repositories in reports.
create index repository_place on swr.repository (instance_id, namespace_name, name);

comment on table swr.repository is
    'One row per repository in the catalog (api-swr2 swr_03_0201) or in the artifact list, so that each artifact has one. If the repository is in the artifact list only, the columns from the catalog are NULL.';
comment on column swr.repository.instance_id is 'The instance.';
comment on column swr.repository.repository_id is 'The id of the repository in SWR.';
comment on column swr.repository.namespace_id is 'The namespace of the repository.';
comment on column swr.repository.namespace_name is 'The name of the namespace, from the repository list or found by its id; NULL if unknown.';
comment on column swr.repository.name is 'The name without the namespace; may contain slashes. If the repository is in the artifact list only, the name from there; NULL if it has none.';
comment on column swr.repository.description is 'The description, if any.';
comment on column swr.repository.tag_count is 'Number of tags according to the API.';
comment on column swr.repository.artifact_count is 'Number of artifacts according to the API.';
comment on column swr.repository.pull_count is 'Number of pulls according to the API.';
comment on column swr.repository.created_at is 'When the repository was created.';
comment on column swr.repository.updated_at is 'When the repository was last changed.';
comment on column swr.repository.removed_at is 'Start of the listing that no longer had the repository, neither in the catalog nor in an artifact; NULL while it exists.';
comment on column swr.repository.extra is 'Fields of the response without a column in this schema.';

create table swr.artifact (
    instance_id         integer not null,
    artifact_id         bigint not null,
    repository_id       bigint not null,
    namespace_id        bigint,
    size_bytes          bigint,
    pushed_at           timestamptz,
    pulled_at           timestamptz,
    removed_at          timestamptz,
    first_seen_run_id   bigint not null,
    removed_run_id      bigint,
    digest              text collate "C" not null,
    type                text,
    media_type          text,
    manifest_media_type text,
    repository_name     text,
    extra               jsonb,
    primary key (instance_id, artifact_id)
)
-- Pull times change between runs; free space on the page keeps these updates out of the indexes.
with (fillfactor = 90);

-- From a digest to its artifacts, and from a build history to its artifacts.
create index artifact_digest on swr.artifact (instance_id, digest);
-- The artifacts of one repository, the most common filter of reports.
create index artifact_repository on swr.artifact (instance_id, repository_id);
-- The newest artifacts, the most common order of reports.
create index artifact_pushed on swr.artifact (swr.known_time(pushed_at) desc nulls last, artifact_id)
    where removed_at is null;

comment on table swr.artifact is 'One row per artifact of the list (api-swr2 swr_03_0306): a digest in a repository. Rows are never deleted; see removed_at.';
comment on column swr.artifact.instance_id is 'The instance.';
comment on column swr.artifact.artifact_id is 'The id of the artifact in SWR. A digest that is deleted and pushed again gets a new id.';
comment on column swr.artifact.repository_id is 'The repository; its names are in swr.repository.';
comment on column swr.artifact.namespace_id is 'The namespace according to the artifact list.';
comment on column swr.artifact.size_bytes is 'Size according to the API: manifest, config and layers; for an index, also its children.';
comment on column swr.artifact.pushed_at is 'Last push (push_time).';
comment on column swr.artifact.pulled_at is 'Last pull (pull_time); NULL if the artifact was never pulled.';
comment on column swr.artifact.removed_at is 'Start of the listing that no longer had the artifact; NULL while it exists.';
comment on column swr.artifact.first_seen_run_id is 'The run that first published the artifact.';
comment on column swr.artifact.removed_run_id is 'The run that found the artifact removed.';
comment on column swr.artifact.digest is 'The digest of the manifest; joins to swr.manifest.';
comment on column swr.artifact.type is 'IMAGE, CHART or another type of the API.';
comment on column swr.artifact.media_type is 'Media type of the config.';
comment on column swr.artifact.manifest_media_type is 'Media type of the manifest.';
comment on column swr.artifact.repository_name is 'The repository name in the artifact list, with or without the namespace; NULL if the list has none.';
comment on column swr.artifact.extra is 'Fields of the response without a column in this schema.';

create table swr.artifact_change (
    instance_id integer not null,
    artifact_id bigint not null,
    run_id      bigint not null,
    change      text not null check (change in ('changed', 'restored')),
    previous    jsonb not null,
    primary key (instance_id, artifact_id, run_id)
);

comment on table swr.artifact_change is
    'One row per run and artifact that the run found changed, other than in its pull time, or restored after a removal.';
comment on column swr.artifact_change.instance_id is 'The instance.';
comment on column swr.artifact_change.artifact_id is 'The artifact.';
comment on column swr.artifact_change.run_id is 'The run that found it.';
comment on column swr.artifact_change.change is 'changed, or restored: listed again after a removal.';
comment on column swr.artifact_change.previous is
    'Previous values of the columns of swr.artifact that differ; for a restored artifact, including removed_at and removed_run_id.';

create table swr.tag (
    instance_id          integer not null,
    repository_id        bigint not null,
    name                 text collate "C" not null,
    tag_id               bigint,
    artifact_id          bigint not null,
    pushed_at            timestamptz,
    pulled_at            timestamptz,
    extra                jsonb,
    -- A tag that is missing from one listing, although its artifact is listed, is kept until it is also missing
    -- from the next.
    missing_since_run_id bigint,
    primary key (instance_id, repository_id, name)
)
with (fillfactor = 90);

-- The tags of one artifact, in the order of reports.
create index tag_artifact on swr.tag (instance_id, artifact_id, name);

comment on table swr.tag is 'One row per tag that exists now. A tag name is unique in its repository.';
comment on column swr.tag.instance_id is 'The instance.';
comment on column swr.tag.repository_id is 'The repository.';
comment on column swr.tag.name is 'The name of the tag.';
comment on column swr.tag.tag_id is 'The id of the tag in SWR.';
comment on column swr.tag.artifact_id is 'The artifact the tag points to.';
comment on column swr.tag.pushed_at is 'When the tag was pushed (push_time).';
comment on column swr.tag.pulled_at is 'Last pull by this tag (pull_time); NULL if never.';
comment on column swr.tag.extra is 'Fields of the response without a column in this schema.';
comment on column swr.tag.missing_since_run_id is
    'The first run whose listing lacked the tag, although it had the artifact; if the next listing also lacks the tag, it is removed. NULL if the latest listing had the tag.';

create table swr.tag_history (
    instance_id   integer not null,
    repository_id bigint not null,
    name          text collate "C" not null,
    valid_from    timestamptz not null,
    valid_to      timestamptz,
    artifact_id   bigint not null,
    opened_run_id bigint not null,
    closed_run_id bigint,
    digest        text collate "C" not null,
    primary key (instance_id, repository_id, name, valid_from),
    check (valid_to > valid_from)
);

-- A tag points to one digest at a time.
create unique index tag_history_open on swr.tag_history (instance_id, repository_id, name) where valid_to is null;

comment on table swr.tag_history is
    'One row per interval in which a tag pointed to a digest. Several moves between two runs are recorded as one. The time of a move is the push time from the API, otherwise the time of the run, so it is at most one sync interval late. If a tag is removed but its artifact remains, the interval ends with the second listing without the tag, at most two sync intervals late.';
comment on column swr.tag_history.instance_id is 'The instance.';
comment on column swr.tag_history.repository_id is 'The repository.';
comment on column swr.tag_history.name is 'The name of the tag.';
comment on column swr.tag_history.valid_from is 'Start of the interval, inclusive.';
comment on column swr.tag_history.valid_to is 'End of the interval, exclusive; NULL while it lasts.';
comment on column swr.tag_history.artifact_id is
    'The artifact the tag pointed to; the latest one if the digest was pushed again under another id.';
comment on column swr.tag_history.opened_run_id is 'The run that first found the tag at this digest.';
comment on column swr.tag_history.closed_run_id is 'The run that found the tag moved or removed.';
comment on column swr.tag_history.digest is 'The digest the tag pointed to.';

-- Build histories, content-addressed: immutable, shared, and stored once.
--
-- Images share most of their history with others. A step is stored once for all images with the same
-- history up to and including this step, and a manifest has the list of its steps. Ids are the first 16
-- bytes of a SHA-256 of the content: writing needs no lookup, and writing twice changes nothing.

create table swr.manifest (
    instance_id     integer not null,
    digest          text collate "C" not null,
    outcome         text not null check (outcome in
                        ('stored', 'empty', 'unsupported', 'forbidden', 'gone', 'failed')),
    attempts        integer not null,
    attempted_at    timestamptz not null,
    next_attempt_at timestamptz,
    http_status     smallint,
    error_code      text,
    error_message   text,
    reported_total  bigint,
    layer_bytes     bigint,
    build_step_ids  uuid[],
    layer_ids       uuid[],
    chain_ids       uuid[],
    extra           jsonb,
    waiting_since   timestamptz,
    primary key (instance_id, digest),
    check (
        num_nonnulls(layer_bytes, build_step_ids, layer_ids, chain_ids) = case outcome when 'stored' then 4 else 0 end
    ),
    check ((outcome in ('forbidden', 'gone', 'failed')) = (next_attempt_at is not null))
);

-- Nothing filters by the elements of these arrays, and counting them takes most of the time of an analyze.
alter table swr.manifest alter column build_step_ids set statistics 0;
alter table swr.manifest alter column layer_ids set statistics 0;
alter table swr.manifest alter column chain_ids set statistics 0;

-- Histories that later runs must try again; empty in a healthy registry.
create index manifest_waiting on swr.manifest (instance_id, next_attempt_at) where next_attempt_at is not null;

comment on table swr.manifest is 'One row per digest whose build history was requested: the result, and the steps.';
comment on column swr.manifest.instance_id is 'The instance.';
comment on column swr.manifest.digest is 'The digest. Its history is immutable, so it is fetched once.';
comment on column swr.manifest.outcome is
    'How the last fetch ended: stored; empty (no history); unsupported (400, not an image); forbidden (403); gone (404); failed (attempts used up). The first three are final.';
comment on column swr.manifest.attempts is 'Number of runs that requested this history.';
comment on column swr.manifest.attempted_at is 'When the latest response arrived.';
comment on column swr.manifest.next_attempt_at is 'Time from which a run requests it again; NULL if the outcome is final.';
comment on column swr.manifest.http_status is 'HTTP status of the latest response, unless it was 200.';
comment on column swr.manifest.error_code is 'Error code of the latest response.';
comment on column swr.manifest.error_message is 'Error message of the latest response.';
comment on column swr.manifest.reported_total is 'Number of entries according to the API (total); the list itself may be longer or shorter.';
comment on column swr.manifest.layer_bytes is 'Sum of the layers in layer_ids.';
comment on column swr.manifest.build_step_ids is 'The steps of the history, oldest first; each is a row of swr.build_step.';
comment on column swr.manifest.layer_ids is
    'The distinct layers of the steps, in the order of their first step; each is a row of swr.layer.';
comment on column swr.manifest.chain_ids is
    'The chain ids of the steps with a layer, oldest first: the id of the first layer, of the first two, and so on.';
comment on column swr.manifest.extra is 'Fields of the response without a column in this schema.';
comment on column swr.manifest.waiting_since is
    'Time of the first failed attempt; NULL if the outcome is final.';

create table swr.build_step (
    created_at    timestamptz,
    instance_id   integer not null,
    created_at_ns smallint,
    build_step_id uuid not null,
    command_id    uuid,
    layer_id      uuid,
    media_type_id uuid,
    chain_id      uuid,
    empty_layer   boolean not null,
    extra         jsonb,
    primary key (instance_id, build_step_id)
);

comment on table swr.build_step is
    'One row per distinct step: images with the same history up to and including a step share its row. swr_report.build_history shows the steps of each image.';
comment on column swr.build_step.created_at is 'When the step was built, in microseconds; NULL if the history has no time.';
comment on column swr.build_step.instance_id is 'The instance.';
comment on column swr.build_step.created_at_ns is 'Nanoseconds beyond the microseconds of created_at, 0 to 999.';
comment on column swr.build_step.build_step_id is 'Identifies the history up to and including this step.';
comment on column swr.build_step.command_id is 'The command (created_by); NULL if the history has none.';
comment on column swr.build_step.layer_id is 'The layer that the step created; NULL for a step without a layer.';
comment on column swr.build_step.media_type_id is 'The media type of the layer in this history; two manifests may have different media types for the same blob.';
comment on column swr.build_step.chain_id is
    'Identifies the sequence of layers up to and including this step, like the ChainID of OCI for diff ids: two images share a base if and only if they share a chain id. NULL before the first layer.';
comment on column swr.build_step.empty_layer is 'Whether the step created no layer.';
comment on column swr.build_step.extra is 'Fields of the entry without a column in this schema.';

create table swr.command (
    instance_id    integer not null,
    command_id     uuid not null,
    command        text not null,
    masked_command text,
    primary key (instance_id, command_id)
);

comment on table swr.command is 'One row per distinct build command.';
comment on column swr.command.instance_id is 'The instance.';
comment on column swr.command.command_id is 'Identifies the text.';
comment on column swr.command.command is 'The command as in the image (created_by). May contain secrets.';
comment on column swr.command.masked_command is
    'The command with each secret that the rules find replaced by [redacted]; NULL if they find none.';

-- Histories may disagree about the size of a layer; each size is stored. See swr.layer_alias.
create table swr.layer (
    size_bytes  bigint,
    instance_id integer not null,
    layer_id    uuid not null,
    digest      text not null,
    primary key (instance_id, layer_id)
);

comment on table swr.layer is
    'One row per distinct layer: a compressed blob with its size. If two histories disagree about the size, each has its own row.';
comment on column swr.layer.size_bytes is 'Compressed size.';
comment on column swr.layer.instance_id is 'The instance.';
comment on column swr.layer.layer_id is 'Identifies digest and size.';
comment on column swr.layer.digest is 'The digest of the compressed blob.';

create table swr.media_type (
    instance_id   integer not null,
    media_type_id uuid not null,
    media_type    text not null,
    primary key (instance_id, media_type_id)
);

comment on table swr.media_type is 'One row per distinct media type of layers.';
comment on column swr.media_type.instance_id is 'The instance.';
comment on column swr.media_type.media_type_id is 'Identifies the text.';
comment on column swr.media_type.media_type is 'The media type, such as application/vnd.oci.image.layer.v1.tar+gzip.';

-- Findings in build commands: secrets and risky practices.

create table swr.finding_rule (
    rule_id       text primary key,
    rules_version integer not null,
    severity      text not null check (severity in ('info', 'low', 'medium', 'high')),
    title         text not null,
    why           text not null,
    patterns      text not null
);

comment on table swr.finding_rule is
    'One row per rule that is applied to build commands. The rules are part of the program and shared by all instances.';
comment on column swr.finding_rule.rule_id is 'Identifies the rule; never reused for another one.';
comment on column swr.finding_rule.rules_version is
    'Latest version of the rule set that contains the rule; rules below the highest version are no longer used.';
comment on column swr.finding_rule.severity is
    'Severity: high (a secret), medium (a security risk), low (a bad practice), info (a build that is not reproducible).';
comment on column swr.finding_rule.title is 'Short description of the finding.';
comment on column swr.finding_rule.why is 'Why it matters.';
comment on column swr.finding_rule.patterns is
    'Regular expressions that start a finding, one per line; the program evaluates the text that follows.';

create table swr.command_finding (
    instance_id integer not null,
    occurrences integer not null check (occurrences > 0),
    command_id  uuid not null,
    rule_id     text not null references swr.finding_rule,
    primary key (instance_id, command_id, rule_id),
    foreign key (instance_id, command_id) references swr.command
);

comment on table swr.command_finding is
    'One row per command and rule with a finding. A command is checked when it is stored, and again when the rules change.';
comment on column swr.command_finding.instance_id is 'The instance.';
comment on column swr.command_finding.occurrences is 'Number of findings of the rule in the command.';
comment on column swr.command_finding.command_id is 'The command.';
comment on column swr.command_finding.rule_id is 'The rule.';

-- Shared and exclusive layers of artifacts, and their bases.
--
-- Computing this from the build histories takes seconds on a large registry, so
-- publish updates it for added and removed artifacts.

create table swr.artifact_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    artifact_id     bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    root_chain_id   uuid,
    chain_id        uuid,
    base_chain_id   uuid,
    shared_chain_id uuid,
    last_step_id    uuid,
    base_step_id    uuid,
    primary key (instance_id, artifact_id)
)
-- Adding or removing an artifact changes rows of others: their base, and their exclusive bytes.
with (fillfactor = 90);

-- From a chain to the artifacts with exactly these layers, and of these to those with exactly this history: the
-- base of those built on it.
create index artifact_layering_chain on swr.artifact_layering (instance_id, chain_id, last_step_id);

comment on table swr.artifact_layering is
    'One row per existing artifact with a stored build history: statistics of its layers, and its base. Reports count the layers of these artifacts only.';
comment on column swr.artifact_layering.instance_id is 'The instance.';
comment on column swr.artifact_layering.layer_count is 'Number of distinct layers.';
comment on column swr.artifact_layering.artifact_id is 'The artifact.';
comment on column swr.artifact_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.artifact_layering.exclusive_bytes is 'Sum of the layers that no other artifact of the instance has.';
comment on column swr.artifact_layering.root_chain_id is
    'Chain id of the first layer; NULL without layers. Images with different first layers share no chain.';
comment on column swr.artifact_layering.chain_id is 'Chain id of the last layer.';
comment on column swr.artifact_layering.base_chain_id is
    'The longest chain below the last layer that is exactly the chain of another existing artifact; NULL if there is none.';
comment on column swr.artifact_layering.shared_chain_id is
    'The longest chain that is also in an artifact with another digest that is not built on this one; NULL if there is none.';
comment on column swr.artifact_layering.last_step_id is
    'The last build step, which identifies the whole history; NULL without build steps.';
comment on column swr.artifact_layering.base_step_id is
    'Last build step of the base, if the image adds build steps to it but no layer: the longest history of another existing artifact with the same layers that this history continues; NULL if there is none.';

create table swr.repository_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    repository_id   bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    share_bytes     bigint not null,
    primary key (instance_id, repository_id)
);

comment on table swr.repository_layering is
    'One row per repository with layers: statistics of its layers.';
comment on column swr.repository_layering.instance_id is 'The instance.';
comment on column swr.repository_layering.layer_count is 'Number of distinct layers.';
comment on column swr.repository_layering.repository_id is 'The repository.';
comment on column swr.repository_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.repository_layering.exclusive_bytes is 'Sum of the layers that no other repository of the instance has.';
comment on column swr.repository_layering.share_bytes is
    'Sum of the layers, each divided by the number of repositories that have it.';

create table swr.namespace_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    namespace_id    bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    share_bytes     bigint not null,
    primary key (instance_id, namespace_id)
);

comment on table swr.namespace_layering is
    'One row per namespace with layers: statistics of its layers.';
comment on column swr.namespace_layering.instance_id is 'The instance.';
comment on column swr.namespace_layering.layer_count is 'Number of distinct layers.';
comment on column swr.namespace_layering.namespace_id is 'The namespace; 0 if unknown.';
comment on column swr.namespace_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.namespace_layering.exclusive_bytes is 'Sum of the layers that no other namespace of the instance has.';
comment on column swr.namespace_layering.share_bytes is
    'Sum of the layers, each divided by the number of namespaces that have it.';

-- Few layers are shared, so that this table stays small. To count the repositories of a layer from the build
-- histories takes a pass over all artifacts.
create table swr.shared_layer (
    instance_id  integer not null,
    repositories integer not null check (repositories > 1),
    namespaces   integer not null,
    layer_id     uuid not null,
    primary key (instance_id, layer_id)
);

comment on table swr.shared_layer is 'One row per layer that several repositories have.';
comment on column swr.shared_layer.instance_id is 'The instance.';
comment on column swr.shared_layer.repositories is 'Number of repositories with the layer.';
comment on column swr.shared_layer.namespaces is 'Number of namespaces with the layer.';
comment on column swr.shared_layer.layer_id is 'The layer.';

create table swr.layer_alias (
    instance_id      integer not null,
    layer_id         uuid not null,
    counted_layer_id uuid not null,
    primary key (instance_id, layer_id)
);

comment on table swr.layer_alias is
    'One row per layer without a size whose size another history has: reports count the layer with the size instead. Empty if the registry gives each layer a size.';
comment on column swr.layer_alias.instance_id is 'The instance.';
comment on column swr.layer_alias.layer_id is 'The layer without a size.';
comment on column swr.layer_alias.counted_layer_id is 'The layer with the same digest and the largest size.';

-- What namespaces used in the past cannot be computed later, because build histories have no times of removal.
create table swr.namespace_storage (
    instance_id   integer not null,
    namespace_id  bigint not null,
    run_id        bigint not null,
    artifacts     bigint not null,
    logical_bytes bigint not null,
    layer_bytes   bigint not null,
    share_bytes   bigint not null,
    unknown_bytes bigint not null,
    primary key (instance_id, namespace_id, run_id)
);

comment on table swr.namespace_storage is
    'One row per namespace and published run after which a value differs from the previous row; the values are valid until the next row.';
comment on column swr.namespace_storage.instance_id is 'The instance.';
comment on column swr.namespace_storage.namespace_id is 'The namespace; 0 if unknown.';
comment on column swr.namespace_storage.run_id is 'The run that published the change.';
comment on column swr.namespace_storage.artifacts is 'Number of artifacts.';
comment on column swr.namespace_storage.logical_bytes is 'Sum of the artifacts'' sizes, as if nothing were shared.';
comment on column swr.namespace_storage.layer_bytes is 'Sum of the distinct layers.';
comment on column swr.namespace_storage.share_bytes is
    'Sum of the layers, each divided by the number of namespaces that have it.';
comment on column swr.namespace_storage.unknown_bytes is 'The part of logical_bytes with unknown layers.';

-- Runs of the program, values it had to alter, and results of `verify`.

create table swr.sync_run (
    instance_id           integer not null references swr.instance,
    run_id                bigint generated always as identity,
    outcome               text not null check (outcome in
                              ('running', 'published', 'dry_run', 'verified', 'failed', 'stopped', 'abandoned')),
    started_at            timestamptz not null,
    listing_started_at    timestamptz,
    listing_finished_at   timestamptz,
    published_at          timestamptz,
    finished_at           timestamptz,
    updated_at            timestamptz not null,
    elapsed_ms            bigint,
    program_version       text not null,
    host                  text not null,
    process_id            integer not null,
    exit_code             smallint,
    error                 text,
    requests              jsonb not null default '{}',
    requests_total        bigint not null default 0,
    retries               bigint not null default 0,
    throttled             bigint not null default 0,
    catalog_pages         bigint not null default 0,
    pages                 bigint not null default 0,
    artifacts_listed      bigint not null default 0,
    artifacts_new         bigint not null default 0,
    artifacts_changed     bigint not null default 0,
    artifacts_removed     bigint not null default 0,
    artifacts_unchanged   bigint not null default 0,
    tags_new              bigint not null default 0,
    tags_moved            bigint not null default 0,
    tags_removed          bigint not null default 0,
    histories_fetched     bigint not null default 0,
    histories_reused      bigint not null default 0,
    histories_unsupported bigint not null default 0,
    histories_gone        bigint not null default 0,
    histories_failed      bigint not null default 0,
    data_issues           bigint not null default 0,
    rows_written          bigint not null default 0,
    histories_skipped     bigint not null default 0,
    -- The holder of an instance's lock and the time of its description are stored with the run, so that a
    -- run over an unchanged registry writes no row of another table.
    backend_process_id    integer,
    described_at          timestamptz,
    primary key (instance_id, run_id)
);

comment on table swr.sync_run is 'One row per run: how it ended and what it did.';
comment on column swr.sync_run.instance_id is 'The instance.';
comment on column swr.sync_run.run_id is 'The number of the run.';
comment on column swr.sync_run.outcome is
    'running; published; dry_run (complete, but not published); verified (complete, and compared with the published data); failed; stopped (by a signal or the time limit); abandoned (the process died; a later run noticed it).';
comment on column swr.sync_run.started_at is 'When the run started.';
comment on column swr.sync_run.listing_started_at is 'When the first page of the listing was requested: the data is not older than this.';
comment on column swr.sync_run.listing_finished_at is 'When the last page of the listing had arrived.';
comment on column swr.sync_run.published_at is 'When the listing was published; NULL if it was not.';
comment on column swr.sync_run.finished_at is 'When the run ended.';
comment on column swr.sync_run.updated_at is 'When this row was last updated; a running sync updates it every 15 seconds.';
comment on column swr.sync_run.elapsed_ms is 'Duration of the run.';
comment on column swr.sync_run.program_version is 'Version of swr-sync.';
comment on column swr.sync_run.host is 'Host name of the machine.';
comment on column swr.sync_run.process_id is 'Process id on that machine.';
comment on column swr.sync_run.exit_code is 'Exit code of the run.';
comment on column swr.sync_run.error is 'Why the run failed.';
comment on column swr.sync_run.requests is 'Requests sent, by kind and status: {"artifacts": {"200": 12}}. The status "error" means that there was no response.';
comment on column swr.sync_run.requests_total is 'Requests sent, including retries.';
comment on column swr.sync_run.retries is 'Retries of requests.';
comment on column swr.sync_run.throttled is 'Responses with status 429.';
comment on column swr.sync_run.catalog_pages is 'Pages of namespaces and repositories.';
comment on column swr.sync_run.pages is 'Pages of the artifact list.';
comment on column swr.sync_run.artifacts_listed is 'Distinct artifacts in the listing.';
comment on column swr.sync_run.artifacts_new is 'Artifacts that are new, or restored after a removal.';
comment on column swr.sync_run.artifacts_changed is 'Artifacts with a changed value, including the pull time.';
comment on column swr.sync_run.artifacts_removed is 'Artifacts that are no longer listed.';
comment on column swr.sync_run.artifacts_unchanged is 'Artifacts that are equal to the previous listing.';
comment on column swr.sync_run.tags_new is 'Tags that the previous listing did not have.';
comment on column swr.sync_run.tags_moved is 'Tags that point to another digest than before.';
comment on column swr.sync_run.tags_removed is 'Tags that are no longer listed.';
comment on column swr.sync_run.histories_fetched is 'Build histories that were fetched, including empty ones.';
comment on column swr.sync_run.histories_reused is 'Listed artifacts whose history was already stored.';
comment on column swr.sync_run.histories_unsupported is 'Digests of types without a build history (400).';
comment on column swr.sync_run.histories_gone is 'Digests deleted between the list and the fetch (404).';
comment on column swr.sync_run.histories_failed is 'Histories that could not be fetched; later runs try again.';
comment on column swr.sync_run.data_issues is 'Altered values that were not recorded before.';
comment on column swr.sync_run.rows_written is 'Rows inserted or updated in the fact tables.';
comment on column swr.sync_run.histories_skipped is
    'Histories that were not requested because similar requests kept failing; the next run requests them.';
comment on column swr.sync_run.backend_process_id is
    'The process of the database server (pg_stat_activity.pid) that holds the lock of the instance for this run.';
comment on column swr.sync_run.described_at is
    'When this run requested name and version of the instance; NULL if it did not. They are requested once a day.';

create table swr.data_issue (
    instance_id   integer not null,
    data_issue_id uuid not null,
    run_id        bigint not null,
    recorded_at   timestamptz not null,
    table_name    text not null,
    row_key       text not null,
    field         text not null,
    action        text not null,
    original      jsonb,
    primary key (instance_id, data_issue_id)
);

comment on table swr.data_issue is 'One row per value that could not be stored unchanged: the alteration, and the original.';
comment on column swr.data_issue.instance_id is 'The instance.';
comment on column swr.data_issue.data_issue_id is 'Hash of the issue, so that a later run does not record it again.';
comment on column swr.data_issue.run_id is 'The run that recorded it.';
comment on column swr.data_issue.recorded_at is 'When it was recorded.';
comment on column swr.data_issue.table_name is 'The table of the altered row.';
comment on column swr.data_issue.row_key is 'The key of the row in terms of the API: an artifact id, or a digest and a position.';
comment on column swr.data_issue.field is 'The field of the API.';
comment on column swr.data_issue.action is 'How the value was altered.';
comment on column swr.data_issue.original is
    'The original value; if jsonb cannot store it, a string with its JSON text, in which bytes that are not UTF-8 are written like \xff.';

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

comment on table swr.verification is 'One row per completed verification: what was compared, and the result.';
comment on column swr.verification.instance_id is 'The instance.';
comment on column swr.verification.run_id is 'The run that verified; its row in swr.sync_run has the requests and times.';
comment on column swr.verification.verified_run_id is 'The published run whose result was compared.';
comment on column swr.verification.started_at is 'When the verification started.';
comment on column swr.verification.finished_at is 'When it ended.';
comment on column swr.verification.outcome is 'corrupt if there is a difference that changes in the registry do not explain, otherwise intact.';
comment on column swr.verification.artifacts_compared is 'Artifacts that are both in the listing and in swr.artifact.';
comment on column swr.verification.tags_compared is 'Tags that are both in the listing and in swr.tag.';
comment on column swr.verification.histories_compared is 'Build histories that were fetched again and compared.';
comment on column swr.verification.histories_unavailable is 'Build histories that were requested but could not be fetched.';
comment on column swr.verification.corrupt is 'Differences that changes in the registry do not explain.';
comment on column swr.verification.changed is 'Differences due to changes in the registry since the verified run.';
comment on column swr.verification.unlisted is 'Rows that the registry no longer lists; the time of the removal is unknown.';
comment on column swr.verification.differences is 'Differences by verdict, table and field: {"changed": {"artifact.pulled_at": 3}}.';

create table swr.verification_difference (
    instance_id integer not null,
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
comment on column swr.verification_difference.row_key is 'The key of the row: an id, a repository id and a tag, or a digest and a position.';
comment on column swr.verification_difference.field is 'The column; "row" if the row is missing or should not exist.';
comment on column swr.verification_difference.verdict is
    'corrupt; changed (in the registry since the verified run); unlisted (no longer listed).';
comment on column swr.verification_difference.stored is 'The value in the table; for a command, the SHA-256 of its text.';
comment on column swr.verification_difference.found is 'The value in the registry, or the value expected from other tables.';
