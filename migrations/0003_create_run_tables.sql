-- What the program did, and what it had to alter.

create table swr.sync_run (
    instance_id           integer not null references swr.instance,
    run_id                bigint generated always as identity,
    outcome               text not null check (outcome in
                              ('running', 'published', 'dry_run', 'failed', 'stopped', 'abandoned')),
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
    primary key (instance_id, run_id)
);

comment on table swr.sync_run is 'One row per run: how it ended and what it did.';
comment on column swr.sync_run.instance_id is 'The instance.';
comment on column swr.sync_run.run_id is 'The number of the run.';
comment on column swr.sync_run.outcome is
    'running; published; dry_run (complete, but not published); failed; stopped (by a signal); abandoned (died, noticed by a later run).';
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

create table swr.data_issue (
    instance_id   integer not null references swr.instance,
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
comment on column swr.data_issue.original is 'The original value as JSON; a string that jsonb cannot hold is escaped once more.';
