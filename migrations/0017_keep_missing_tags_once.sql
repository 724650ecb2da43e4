-- A tag that one listing lacks, although it has the artifact, stays until the next listing lacks it too.

-- Written for such tags only. Without a default, adding it rewrites no row.
alter table swr.tag add column missing_since_run_id bigint;

comment on column swr.tag.missing_since_run_id is
    'The run whose listing lacked the tag for the first time, although it had the artifact; the next listing that lacks the tag too removes it. NULL if the latest listing had the tag.';

comment on table swr.tag_history is
    'One row per interval in which a tag pointed to a digest. Moves between two runs are seen once; their time is the push time where the API gives it, else the time of the run, so it is off by one sync interval at most. A tag that is removed while its artifact stays ends with the second listing that lacks it, so that time is off by two sync intervals at most.';
comment on column swr.tag_history.artifact_id is
    'The artifact the tag pointed to; where the digest was pushed again under another id meanwhile, the latest.';

comment on function swr_report.tag_at(timestamptz) is
    'What did each tag point to at that time? One row per tag. A tag moved by a push is right to the moment. A tag moved without a push, or removed together with its artifact, has the time of the listing that found it, so the answer lags by one sync interval at most. A tag can move while the registry is listed and be missing from all pages, so a tag that is removed while its artifact stays is kept until the next listing lacks it too: there the answer lags by two sync intervals at most. A tag that moved twice between two listings shows the last move. Before the first listing there is only what that listing still showed, since its push; after the last one (swr_report.freshness.as_of) the answer is the state then.';
comment on view swr_report.tag is
    'What does each tag point to? One row per tag that exists now. A tag that the latest listing lacked for the first time, although it had the artifact, is still there.';
comment on view swr_report.tag_move is
    'Which tags moved, and when? One row per move or removal. The time of a move is off by one sync interval at most, that of a removal by two if the artifact stayed: then two listings in a row lacked the tag.';
comment on view swr_report.change is
    'What did each run find added, changed, moved or removed? One row per run and artifact or tag. The change happened between the previous listing and the listing of this run, a removal of a tag whose artifact stayed one listing earlier at most; what came and went in between was never seen. A changed pull time alone is no change.';
comment on column swr_report.change.changed_at is
    'When it happened, as near as is known: the time of the push, else that of the listing, which is late by one sync interval at most, for a removed tag whose artifact stayed by two; NULL for changed and restored artifacts.';
