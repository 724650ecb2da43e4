-- What the registry holds now, what it held before, and what runs did.
--
-- Every primary key of a fact table starts with instance_id, so that each table
-- can be partitioned or distributed by instance.
--
-- Tables that a run writes in bulk have no foreign keys: to check them costs two fifths of the time
-- that a row takes, and each run writes what they would check in one transaction. Digests and tags
-- compare by bytes (collation "C"): that is what they are made of, it takes half the time, and their
-- indexes do not depend on the collations of the operating system.

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
    first_seen_at   timestamptz not null,
    rules_version   integer
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
comment on column swr.instance.rules_version is
    'Version of the rules by which all commands of the instance are examined; NULL while that is to be done, which a run does at its end.';

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

-- From the names that people filter by to the repository.
create index repository_name on swr.repository (name);
-- The same from the namespace, and the order in which reports list repositories.
create index repository_place on swr.repository (instance_id, namespace_name, name);

comment on table swr.repository is
    'One row per repository that the catalog (api-swr2 swr_03_0201) or the artifact list names, so that each artifact has one. Where only the artifact list names it, the columns that the catalog gives are NULL.';
comment on column swr.repository.instance_id is 'The instance.';
comment on column swr.repository.repository_id is 'The id of the repository in SWR.';
comment on column swr.repository.namespace_id is 'The namespace of the repository.';
comment on column swr.repository.namespace_name is 'The name of the namespace, as the repository list gives it, else by its id; NULL if neither tells it.';
comment on column swr.repository.name is 'The name without the namespace; may contain slashes. Of a repository that only the artifact list names, the name it gives; NULL if it gives none.';
comment on column swr.repository.description is 'The description, if any.';
comment on column swr.repository.tag_count is 'Number of tags as the API gives it.';
comment on column swr.repository.artifact_count is 'Number of artifacts as the API gives it.';
comment on column swr.repository.pull_count is 'Number of pulls as the API gives it.';
comment on column swr.repository.created_at is 'When the repository was created.';
comment on column swr.repository.updated_at is 'When the repository was last changed.';
comment on column swr.repository.removed_at is 'The run time at which the repository was neither in the catalog nor named by an artifact; NULL while it is.';
comment on column swr.repository.extra is 'Fields of the answer this schema has no column for.';

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
-- Pull times change between runs; room on the page keeps those updates off the indexes.
with (fillfactor = 90);

-- From a digest to the repositories that hold it, and to its build history.
create index artifact_digest on swr.artifact (instance_id, digest);
-- The artifacts of one repository, the commonest filter of the reports.
create index artifact_repository on swr.artifact (instance_id, repository_id);
-- The newest artifacts, the commonest order of the reports.
create index artifact_pushed on swr.artifact (pushed_at desc nulls last, artifact_id) where removed_at is null;

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

create table swr.tag (
    instance_id          integer not null,
    repository_id        bigint not null,
    name                 text collate "C" not null,
    tag_id               bigint,
    artifact_id          bigint not null,
    pushed_at            timestamptz,
    pulled_at            timestamptz,
    extra                jsonb,
    -- A tag that one listing lacks, although it has the artifact, stays until the next lacks it too.
    missing_since_run_id bigint,
    primary key (instance_id, repository_id, name)
)
with (fillfactor = 90);

-- The tags of one artifact, in the order in which the reports show them.
create index tag_artifact on swr.tag (instance_id, artifact_id, name);

comment on table swr.tag is 'One row per tag that exists now. A tag name is unique in its repository.';
comment on column swr.tag.instance_id is 'The instance.';
comment on column swr.tag.repository_id is 'The repository.';
comment on column swr.tag.name is 'The name of the tag.';
comment on column swr.tag.tag_id is 'The id of the tag in SWR.';
comment on column swr.tag.artifact_id is 'The artifact the tag points to.';
comment on column swr.tag.pushed_at is 'When the tag was pushed (push_time).';
comment on column swr.tag.pulled_at is 'Last pull by this tag (pull_time); NULL if never.';
comment on column swr.tag.extra is 'Fields of the answer this schema has no column for.';
comment on column swr.tag.missing_since_run_id is
    'The run whose listing lacked the tag for the first time, although it had the artifact; the next listing that lacks the tag too removes it. NULL if the latest listing had the tag.';

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
    'One row per interval in which a tag pointed to a digest. Moves between two runs are seen once; their time is the push time where the API gives it, else the time of the run, so it is off by one sync interval at most. A tag that is removed while its artifact stays ends with the second listing that lacks it, so that time is off by two sync intervals at most.';
comment on column swr.tag_history.instance_id is 'The instance.';
comment on column swr.tag_history.repository_id is 'The repository.';
comment on column swr.tag_history.name is 'The name of the tag.';
comment on column swr.tag_history.valid_from is 'Start of the interval, inclusive.';
comment on column swr.tag_history.valid_to is 'End of the interval, exclusive; NULL while it lasts.';
comment on column swr.tag_history.artifact_id is
    'The artifact the tag pointed to; where the digest was pushed again under another id meanwhile, the latest.';
comment on column swr.tag_history.opened_run_id is 'The run that saw the tag there first.';
comment on column swr.tag_history.closed_run_id is 'The run that saw it elsewhere, or gone.';
comment on column swr.tag_history.digest is 'The digest the tag pointed to.';

-- Build histories, content-addressed: immutable, shared, and stored once.
--
-- Images share most of their history with others, so a step is stored once for
-- all images whose history is the same up to and including it, and a manifest
-- keeps the list of its steps. Ids are the first 16 bytes of a SHA-256 over the
-- content: writing needs no look-up, and writing twice changes nothing.

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

-- Nothing filters by what these arrays hold, and to count their elements takes most of an analyze.
alter table swr.manifest alter column build_step_ids set statistics 0;
alter table swr.manifest alter column layer_ids set statistics 0;
alter table swr.manifest alter column chain_ids set statistics 0;

-- What later runs have to try again; empty in a healthy registry.
create index manifest_waiting on swr.manifest (instance_id, next_attempt_at) where next_attempt_at is not null;

comment on table swr.manifest is 'One row per digest whose build history was asked for: what came back, and the steps.';
comment on column swr.manifest.instance_id is 'The instance.';
comment on column swr.manifest.digest is 'The digest; immutable, so its history is fetched once.';
comment on column swr.manifest.outcome is
    'How the last fetch ended: stored; empty (no history); unsupported (400, not an image); forbidden (403); gone (404); failed (attempts used up). The first three are final.';
comment on column swr.manifest.attempts is 'Number of runs that asked for this history.';
comment on column swr.manifest.attempted_at is 'When the latest answer arrived.';
comment on column swr.manifest.next_attempt_at is 'From when on a run asks again; NULL if the outcome is final.';
comment on column swr.manifest.http_status is 'Status of the latest answer, unless it was 200.';
comment on column swr.manifest.error_code is 'Error code of the latest answer.';
comment on column swr.manifest.error_message is 'Error message of the latest answer.';
comment on column swr.manifest.reported_total is 'The number of entries the API claims (total); the list itself may be longer or shorter.';
comment on column swr.manifest.layer_bytes is 'Sum of the layers in layer_ids.';
comment on column swr.manifest.build_step_ids is 'The steps of the history, oldest first; each is a row of swr.build_step.';
comment on column swr.manifest.layer_ids is
    'The layers that the steps name, each once, in the order in which they come first; each is a row of swr.layer.';
comment on column swr.manifest.chain_ids is
    'The chain ids of the steps that made a layer, oldest first: what names the first layer, the first two, and so on.';
comment on column swr.manifest.extra is 'Fields of the answer this schema has no column for.';
comment on column swr.manifest.waiting_since is
    'When the first of the failed attempts was made; NULL if the outcome is final.';

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
    'One row per distinct step: images whose histories are equal up to and including a step share its row. swr_report.build_history shows the steps of each image.';
comment on column swr.build_step.created_at is 'When the step was built, in microseconds; NULL if the history does not say.';
comment on column swr.build_step.instance_id is 'The instance.';
comment on column swr.build_step.created_at_ns is 'Nanoseconds beyond the microseconds of created_at, 0 to 999.';
comment on column swr.build_step.build_step_id is 'Names the history up to and including this step.';
comment on column swr.build_step.command_id is 'The command (created_by); NULL if the history does not say.';
comment on column swr.build_step.layer_id is 'The layer the step made; NULL for a step without one.';
comment on column swr.build_step.media_type_id is 'The media type the history gives the layer; two manifests may name the same blob differently.';
comment on column swr.build_step.chain_id is
    'Names the sequence of layers up to and including this step, as the ChainID of OCI does for diff ids: two images share a base exactly when they share a chain id. NULL before the first layer.';
comment on column swr.build_step.empty_layer is 'Whether the step made no layer.';
comment on column swr.build_step.extra is 'Fields of the entry this schema has no column for.';

create table swr.command (
    instance_id    integer not null,
    command_id     uuid not null,
    command        text not null,
    masked_command text,
    primary key (instance_id, command_id)
);

comment on table swr.command is 'One row per distinct build command.';
comment on column swr.command.instance_id is 'The instance.';
comment on column swr.command.command_id is 'Names the text.';
comment on column swr.command.command is 'The command as the image has it (created_by). May carry secrets.';
comment on column swr.command.masked_command is
    'The command with [redacted] in place of each secret that the rules know; NULL if they know none in it.';

-- Histories may differ in the size they give a layer; each is kept as it came.
create table swr.layer (
    size_bytes  bigint,
    instance_id integer not null,
    layer_id    uuid not null,
    digest      text not null,
    primary key (instance_id, layer_id)
);

comment on table swr.layer is
    'One row per distinct layer: a compressed blob, with the size its histories give it. Were two histories to differ in that, there would be a row for each.';
comment on column swr.layer.size_bytes is 'Compressed size.';
comment on column swr.layer.instance_id is 'The instance.';
comment on column swr.layer.layer_id is 'Names digest and size.';
comment on column swr.layer.digest is 'The digest of the compressed blob.';

create table swr.media_type (
    instance_id   integer not null,
    media_type_id uuid not null,
    media_type    text not null,
    primary key (instance_id, media_type_id)
);

comment on table swr.media_type is 'One row per distinct media type of layers.';
comment on column swr.media_type.instance_id is 'The instance.';
comment on column swr.media_type.media_type_id is 'Names the text.';
comment on column swr.media_type.media_type is 'The media type, such as application/vnd.oci.image.layer.v1.tar+gzip.';

-- What the rules find in build commands: secrets and risky habits.

create table swr.finding_rule (
    rule_id       text primary key,
    rules_version integer not null,
    severity      text not null check (severity in ('info', 'low', 'medium', 'high')),
    title         text not null,
    why           text not null,
    patterns      text not null
);

comment on table swr.finding_rule is
    'One row per rule by which build commands are examined; the program brings them along. Shared by all instances.';
comment on column swr.finding_rule.rule_id is 'Names the rule; never used for another one.';
comment on column swr.finding_rule.rules_version is
    'Latest version of the rule set that has the rule; a rule with less than the greatest is no longer in use.';
comment on column swr.finding_rule.severity is
    'How much it matters: high (a secret), medium (others may get in), low (a habit to drop), info (builds that cannot be repeated).';
comment on column swr.finding_rule.title is 'What was found, in a few words.';
comment on column swr.finding_rule.why is 'Why it matters.';
comment on column swr.finding_rule.patterns is
    'What begins a finding, as regular expressions, one on each line; the program weighs what follows.';

create table swr.command_finding (
    instance_id integer not null,
    occurrences integer not null check (occurrences > 0),
    command_id  uuid not null,
    rule_id     text not null references swr.finding_rule,
    primary key (instance_id, command_id, rule_id),
    foreign key (instance_id, command_id) references swr.command
);

comment on table swr.command_finding is
    'One row per command and rule that found something in it. The command is examined when it is stored, and again when the rules change.';
comment on column swr.command_finding.instance_id is 'The instance.';
comment on column swr.command_finding.occurrences is 'How often the rule found something in the command.';
comment on column swr.command_finding.command_id is 'The command.';
comment on column swr.command_finding.rule_id is 'The rule.';

-- What artifacts share: bytes that only one of them has, and bases.
--
-- Computing this from the build histories takes seconds on a large registry, so
-- publish keeps it up to date, for the artifacts that came and went.

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
    primary key (instance_id, artifact_id)
)
-- What comes or goes changes rows of others: the base they are built on, what is theirs alone.
with (fillfactor = 90);

-- From a chain to the artifacts that it is the whole of: the base of those built on it.
create index artifact_layering_chain on swr.artifact_layering (instance_id, chain_id);

comment on table swr.artifact_layering is
    'One row per artifact that exists now and has a stored build history: its layers in numbers, and its place among the others. Reports count the layers of those with a row.';
comment on column swr.artifact_layering.instance_id is 'The instance.';
comment on column swr.artifact_layering.layer_count is 'Number of distinct layers.';
comment on column swr.artifact_layering.artifact_id is 'The artifact.';
comment on column swr.artifact_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.artifact_layering.exclusive_bytes is 'Sum of the layers no other artifact of the instance has.';
comment on column swr.artifact_layering.root_chain_id is
    'Chain id of the first layer; NULL without layers. Images with different ones have no chain in common.';
comment on column swr.artifact_layering.chain_id is 'Chain id of the last layer.';
comment on column swr.artifact_layering.base_chain_id is
    'The longest chain below the last layer that is the whole of another artifact that exists now; NULL if there is none.';
comment on column swr.artifact_layering.shared_chain_id is
    'The longest chain that is also in an artifact of another digest which is not built on this one; NULL if there is none.';

create table swr.repository_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    repository_id   bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    primary key (instance_id, repository_id)
);

comment on table swr.repository_layering is
    'One row per repository with layers: its layers in numbers.';
comment on column swr.repository_layering.instance_id is 'The instance.';
comment on column swr.repository_layering.layer_count is 'Number of distinct layers.';
comment on column swr.repository_layering.repository_id is 'The repository.';
comment on column swr.repository_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.repository_layering.exclusive_bytes is 'Sum of the layers no other repository of the instance has.';

create table swr.namespace_layering (
    instance_id     integer not null,
    layer_count     integer not null,
    namespace_id    bigint not null,
    layer_bytes     bigint not null,
    exclusive_bytes bigint not null,
    primary key (instance_id, namespace_id)
);

comment on table swr.namespace_layering is
    'One row per namespace with layers: its layers in numbers.';
comment on column swr.namespace_layering.instance_id is 'The instance.';
comment on column swr.namespace_layering.layer_count is 'Number of distinct layers.';
comment on column swr.namespace_layering.namespace_id is 'The namespace; 0 where neither the catalog nor the artifact list tells it.';
comment on column swr.namespace_layering.layer_bytes is 'Sum of its distinct layers.';
comment on column swr.namespace_layering.exclusive_bytes is 'Sum of the layers no other namespace of the instance has.';

-- What the program did, what it had to alter, and what `verify` found.

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
    -- Who holds the lock of an instance, and when the registry last described it, are facts about
    -- a run: an unchanged registry still writes no row of any other table.
    backend_process_id    integer,
    described_at          timestamptz,
    primary key (instance_id, run_id)
);

comment on table swr.sync_run is 'One row per run: how it ended and what it did.';
comment on column swr.sync_run.instance_id is 'The instance.';
comment on column swr.sync_run.run_id is 'The number of the run.';
comment on column swr.sync_run.outcome is
    'running; published; dry_run (complete, but not published); verified (complete, and compared with what is published); failed; stopped (by a signal); abandoned (died, noticed by a later run).';
comment on column swr.sync_run.started_at is 'When the run started.';
comment on column swr.sync_run.listing_started_at is 'When the first list page was asked for: the state of the registry is not older than this.';
comment on column swr.sync_run.listing_finished_at is 'When the last list page had arrived.';
comment on column swr.sync_run.published_at is 'When the listing became visible; NULL if it never did.';
comment on column swr.sync_run.finished_at is 'When the run ended.';
comment on column swr.sync_run.updated_at is 'When this row was last written; a live run writes it every 15 seconds.';
comment on column swr.sync_run.elapsed_ms is 'Duration of the run.';
comment on column swr.sync_run.program_version is 'Version of swr-sync.';
comment on column swr.sync_run.host is 'The machine the run was on.';
comment on column swr.sync_run.process_id is 'Its process there.';
comment on column swr.sync_run.exit_code is 'The exit code the run asked for.';
comment on column swr.sync_run.error is 'Why the run failed.';
comment on column swr.sync_run.requests is 'Requests sent, by kind and status: {"artifacts": {"200": 12}}. The status "error" means no answer came.';
comment on column swr.sync_run.requests_total is 'Requests sent, retries included.';
comment on column swr.sync_run.retries is 'Requests sent again.';
comment on column swr.sync_run.throttled is 'Answers 429.';
comment on column swr.sync_run.catalog_pages is 'Pages of namespaces and repositories.';
comment on column swr.sync_run.pages is 'Pages of the artifact list.';
comment on column swr.sync_run.artifacts_listed is 'Distinct artifacts in the listing.';
comment on column swr.sync_run.artifacts_new is 'Artifacts never seen before, or back after a removal.';
comment on column swr.sync_run.artifacts_changed is 'Artifacts with a changed value, a pull time for example.';
comment on column swr.sync_run.artifacts_removed is 'Artifacts no longer listed.';
comment on column swr.sync_run.artifacts_unchanged is 'Artifacts equal to the last listing.';
comment on column swr.sync_run.tags_new is 'Tags that did not exist at the last listing.';
comment on column swr.sync_run.tags_moved is 'Tags that pointed to another digest.';
comment on column swr.sync_run.tags_removed is 'Tags no longer listed.';
comment on column swr.sync_run.histories_fetched is 'Build histories that arrived, empty ones included.';
comment on column swr.sync_run.histories_reused is 'Listed artifacts whose history needed no request.';
comment on column swr.sync_run.histories_unsupported is 'Digests that have no build history by nature (400).';
comment on column swr.sync_run.histories_gone is 'Digests deleted between the list and the fetch (404).';
comment on column swr.sync_run.histories_failed is 'Histories that could not be fetched; later runs try again.';
comment on column swr.sync_run.data_issues is 'Values that had to be altered, recorded for the first time.';
comment on column swr.sync_run.rows_written is 'Rows inserted or updated in the fact tables.';
comment on column swr.sync_run.histories_skipped is
    'Histories that were wanted but not asked for, because requests like theirs kept failing; the next run asks for them.';
comment on column swr.sync_run.backend_process_id is
    'The process of the database server (pg_stat_activity.pid) that holds the lock of the instance for this run.';
comment on column swr.sync_run.described_at is
    'When this run requested name and version of the instance; NULL if it did not: once a day is enough.';

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

comment on table swr.data_issue is 'One row per value that could not be stored as it came: what was done, and the original.';
comment on column swr.data_issue.instance_id is 'The instance.';
comment on column swr.data_issue.data_issue_id is 'Names the issue by its content, so that a later run does not record it again.';
comment on column swr.data_issue.run_id is 'The run that met it first.';
comment on column swr.data_issue.recorded_at is 'When that was.';
comment on column swr.data_issue.table_name is 'The table of the altered row.';
comment on column swr.data_issue.row_key is 'Its key in the API''s terms: an artifact id, a digest and a position.';
comment on column swr.data_issue.field is 'The field of the API.';
comment on column swr.data_issue.action is 'What was done to the value.';
comment on column swr.data_issue.original is
    'The value as it came; a string with the text of its JSON where jsonb cannot hold it, a byte that is no UTF-8 as \xff.';

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
comment on column swr.verification_difference.row_key is 'The row: an id, a repository id and a tag, a digest and a position.';
comment on column swr.verification_difference.field is 'The column; "row" if the row is missing, or is there without reason.';
comment on column swr.verification_difference.verdict is
    'corrupt; changed (in the registry, since the verified run); unlisted (no longer listed).';
comment on column swr.verification_difference.stored is 'The value in the table; of a command, the SHA-256 of its text.';
comment on column swr.verification_difference.found is 'The value in the registry, or what the other tables say it should be.';
