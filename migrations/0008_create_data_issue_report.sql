-- What was altered on its way into the tables, with names instead of ids.

create view swr_report.data_issue as
select
    coalesce(i.name, i.swr_instance_id) as instance,
    d.table_name as "table",
    d.row_key,
    d.field,
    d.action,
    d.original,
    d.recorded_at as first_seen_at,
    d.run_id as first_seen_run_id,
    d.data_issue_id,
    d.instance_id
from swr.data_issue d
join swr.instance i on i.instance_id = d.instance_id;

comment on view swr_report.data_issue is
    'What could not be stored as it came? One row per altered value, or row left out, with the original; it stays when the registry mends the value.';
comment on column swr_report.data_issue.instance is 'Name of the instance, or its id where the name is not known.';
comment on column swr_report.data_issue."table" is 'The table of schema swr whose row is concerned.';
comment on column swr_report.data_issue.row_key is
    'The row in the API''s terms: an id; the artifact of a tag; a digest, with the position of a build step. Empty for a row without a readable id.';
comment on column swr_report.data_issue.field is 'The field of the API; empty where the whole row is concerned.';
comment on column swr_report.data_issue.action is 'What was done to the value.';
comment on column swr_report.data_issue.original is
    'The value as it came; a string with the text of its JSON where jsonb cannot hold it, a byte that is no UTF-8 as \xff. May carry secrets if it was a build command.';
comment on column swr_report.data_issue.first_seen_at is 'When a run met it first.';
comment on column swr_report.data_issue.first_seen_run_id is 'That run.';
comment on column swr_report.data_issue.data_issue_id is 'Names the issue by its content.';
comment on column swr_report.data_issue.instance_id is 'Key of swr.instance.';

comment on column swr.data_issue.original is
    'The value as it came; a string with the text of its JSON where jsonb cannot hold it, a byte that is no UTF-8 as \xff.';
