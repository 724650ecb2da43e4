-- Who holds the lock of an instance, and when the registry last described it, are facts about a
-- run: an unchanged registry still writes no row of any other table.

alter table swr.sync_run
    add column backend_process_id integer,
    add column described_at timestamptz;

comment on column swr.sync_run.backend_process_id is
    'The process of the database server (pg_stat_activity.pid) that holds the lock of the instance for this run.';
comment on column swr.sync_run.described_at is
    'When this run requested name and version of the instance; NULL if it did not: once a day is enough.';
