-- Build histories, content-addressed: immutable, shared, and stored once.
--
-- Images share most of their history with others, so a step is stored once for
-- all images whose history is the same up to and including it, and a manifest
-- keeps the list of its steps. Ids are the first 16 bytes of a SHA-256 over the
-- content: writing needs no look-up, and writing twice changes nothing.

create table swr.manifest (
    instance_id     integer not null references swr.instance,
    digest          text not null,
    outcome         text not null check (outcome in
                        ('stored', 'empty', 'unsupported', 'forbidden', 'gone', 'failed')),
    attempts        integer not null,
    attempted_at    timestamptz not null,
    next_attempt_at timestamptz,
    http_status     smallint,
    error_code      text,
    error_message   text,
    reported_total  bigint,
    build_step_ids  uuid[],
    extra           jsonb,
    primary key (instance_id, digest),
    check ((outcome = 'stored') = (build_step_ids is not null)),
    check ((outcome in ('forbidden', 'gone', 'failed')) = (next_attempt_at is not null))
);

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
comment on column swr.manifest.build_step_ids is 'The steps of the history, oldest first; each is a row of swr.build_step.';
comment on column swr.manifest.extra is 'Fields of the answer this schema has no column for.';

create table swr.build_step (
    created_at    timestamptz,
    instance_id   integer not null,
    position      integer not null,
    created_at_ns smallint,
    build_step_id uuid not null,
    command_id    uuid,
    layer_id      uuid,
    chain_id      uuid,
    empty_layer   boolean not null,
    extra         jsonb,
    primary key (instance_id, build_step_id)
);

comment on table swr.build_step is
    'One row per distinct step: images whose histories are equal up to and including a step share its row. swr_report.build_history shows the steps of each image.';
comment on column swr.build_step.created_at is 'When the step was built, in microseconds; NULL if the history does not say.';
comment on column swr.build_step.instance_id is 'The instance.';
comment on column swr.build_step.position is 'Place in the history, from 1, oldest first.';
comment on column swr.build_step.created_at_ns is 'Nanoseconds beyond the microseconds of created_at, 0 to 999.';
comment on column swr.build_step.build_step_id is 'Names the history up to and including this step.';
comment on column swr.build_step.command_id is 'The command (created_by); NULL if the history does not say.';
comment on column swr.build_step.layer_id is 'The layer the step made; NULL for a step without one.';
comment on column swr.build_step.chain_id is
    'Names the sequence of layers up to and including this step, as the ChainID of OCI does for diff ids: two images share a base exactly when they share a chain id. NULL before the first layer.';
comment on column swr.build_step.empty_layer is 'Whether the step made no layer.';
comment on column swr.build_step.extra is 'Fields of the entry this schema has no column for.';

create table swr.command (
    instance_id integer not null,
    command_id  uuid not null,
    command     text not null,
    primary key (instance_id, command_id)
);

comment on table swr.command is 'One row per distinct build command.';
comment on column swr.command.instance_id is 'The instance.';
comment on column swr.command.command_id is 'Names the text.';
comment on column swr.command.command is 'The command as the image has it (created_by). May carry secrets.';

create table swr.layer (
    size_bytes  bigint,
    instance_id integer not null,
    layer_id    uuid not null,
    digest      text not null,
    media_type  text,
    primary key (instance_id, layer_id)
);

comment on table swr.layer is 'One row per distinct layer: a compressed blob.';
comment on column swr.layer.size_bytes is 'Compressed size.';
comment on column swr.layer.instance_id is 'The instance.';
comment on column swr.layer.layer_id is 'Names the digest.';
comment on column swr.layer.digest is 'The digest of the compressed blob.';
comment on column swr.layer.media_type is 'The media type.';
