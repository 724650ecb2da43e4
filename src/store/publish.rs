//! Publish: the one transaction that makes a complete listing visible.
//!
//! Every statement compares the staged listing with the tables and writes only the differences. If
//! nothing changed in the registry, the tables do not change.

use std::fmt;

use super::{
    InstanceLock, Run, RunEnd, Session, StoreError, layering, save_progress, to_micros, uncataloged,
};
use crate::clock::Clock;
use crate::data_issue::Action;
use crate::run::{RunCounters, RunOutcome};
use chrono::{DateTime, Utc};

/// The settings of a publish.
#[derive(Debug, Clone, Copy)]
pub struct Publishing {
    /// Start and end of the listing.
    pub listing: (DateTime<Utc>, DateTime<Utc>),
    /// Roll back at the end.
    pub dry_run: bool,
    /// The exit code for the run's row.
    pub exit_code: u8,
    /// Maximum percentage of missing artifacts, and of missing tags of the artifacts that stay; `None` for
    /// no maximum.
    pub max_removals_percent: Option<u8>,
}

/// Publish was refused because too many artifacts, or tags of artifacts that stay, are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MassRemoval {
    pub kind: RemovedKind,
    /// Number of missing ones.
    pub removed: u64,
    /// Number of published ones before this run.
    pub current: u64,
    /// The maximum percentage.
    pub max_removals_percent: u8,
    /// The repositories that would lose the most.
    pub losses: Vec<RepositoryLoss>,
}

/// Kinds of rows for which publish limits the removals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedKind {
    /// Artifacts, each with its tags.
    Artifacts,
    /// Tags of artifacts that stay.
    Tags,
}

/// The removals in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryLoss {
    /// The name with the namespace.
    pub repository: String,
    /// Number of its missing artifacts or tags.
    pub removed: u64,
    /// Number of its artifacts or tags before this run.
    pub current: u64,
}

impl fmt::Display for MassRemoval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MassRemoval {
            kind,
            removed,
            current,
            max_removals_percent,
            losses,
        } = self;
        let what = match kind {
            RemovedKind::Artifacts => "artifacts published so far",
            RemovedKind::Tags => "published tags of artifacts that it still has",
        };
        write!(
            f,
            "the listing lacks {removed} of the {current} {what}, more than the \
             {max_removals_percent} % that may go in one run; most are of "
        )?;
        for (index, loss) in losses.iter().enumerate() {
            let RepositoryLoss {
                repository,
                removed,
                current,
            } = loss;
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{repository} ({removed} of {current})")?;
        }
        Ok(())
    }
}

/// Start and end of the listing: each row was read at some time in between.
#[derive(Debug, Clone, Copy)]
struct ListingTime {
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
    /// Start of the previous published listing, or 1970: changes of tags are later than that.
    previous_started_at: DateTime<Utc>,
}

/// Publishes the staged rows of the run, and updates the run's row in the same transaction.
///
/// Adds the changes to `counters`. With `dry_run`, everything is rolled back except the update of the
/// run's row. If too much would be marked as removed, nothing is changed.
pub async fn publish(
    lock: &mut InstanceLock,
    run: Run,
    publishing: Publishing,
    counters: &mut RunCounters,
    clock: &Clock,
) -> Result<(), StoreError> {
    let Publishing {
        listing: (listing_started_at, listing_finished_at),
        dry_run,
        exit_code,
        max_removals_percent,
    } = publishing;
    let mut transaction = lock.begin("begin to publish").await?;
    super::lock::check_held(&mut transaction, run.instance_id).await?;
    plan_for_bulk(&mut transaction).await?;
    let previous_started_at = previous_listing(&mut transaction, run.instance_id).await?;
    let listing = ListingTime {
        started_at: to_micros(listing_started_at),
        finished_at: to_micros(listing_finished_at),
        previous_started_at: previous_started_at.unwrap_or(DateTime::UNIX_EPOCH),
    };
    drop_superseded_rows(&mut transaction, run).await?;
    let unreadable = unreadable(&mut transaction, run).await?;
    let differences = Differences {
        artifacts: compare_artifacts(&mut transaction, run).await?,
        tags: compare_tags(&mut transaction, run).await?,
    };
    let mut tags_missing = 0;
    if differences.tags.missing > 0 {
        tags_missing = mark_missing_tags(&mut transaction, run, unreadable).await?;
    }
    if let Some(max_removals_percent) = max_removals_percent
        && !unreadable.artifacts
        && differences.artifacts.missing + differences.tags.missing > 0
        && let Some(removal) = mass_removal(&mut transaction, run, max_removals_percent).await?
    {
        match removal.kind {
            RemovedKind::Artifacts => counters.artifacts_removed = removal.removed,
            RemovedKind::Tags => counters.tags_removed = removal.removed,
        }
        return Err(StoreError::MassRemoval(Box::new(removal)));
    }
    unreadable.warn();
    if previous_started_at.is_none() {
        warn_of_short_listing(&mut transaction, run).await?;
    }
    let now = to_micros(clock.now());
    apply(
        &mut transaction,
        run,
        listing,
        unreadable,
        differences,
        now,
        counters,
    )
    .await?;
    counters.rows_written += tags_missing;
    let outcome = if dry_run {
        RunOutcome::DryRun
    } else {
        RunOutcome::Published
    };
    let end = RunEnd {
        outcome: Some(outcome),
        error: None,
        exit_code: Some(exit_code),
    };
    if dry_run {
        // This rolls back.
        drop(transaction);
        super::stage::clear(lock, run.instance_id).await?;
        return save_progress(lock, run, counters, end, clock.now()).await;
    }
    save_progress(&mut transaction, run, counters, end, clock.now()).await?;
    let committing = transaction.commit("commit the new listing");
    committing.await.map_err(StoreError::of_commit)
}

/// Writes the differences, and counts them in `counters`.
async fn apply(
    session: &mut Session<'_>,
    run: Run,
    listing: ListingTime,
    unreadable: UnreadableKinds,
    differences: Differences,
    now: DateTime<Utc>,
    counters: &mut RunCounters,
) -> Result<(), StoreError> {
    let Differences { artifacts, tags } = differences;
    let mut rows = 0;
    rows += insert_namespaces(session, run).await?;
    rows += update_namespaces(session, run).await?;
    rows += remove_namespaces(session, run, listing, unreadable).await?;
    let repositories_moved = repositories_move(session, run).await?;
    rows += insert_repositories(session, run).await?;
    rows += update_repositories(session, run).await?;
    rows += uncataloged::upsert_repositories(session, run).await?;
    rows += remove_repositories(session, run, listing, unreadable).await?;

    let (mut taken_out, mut changes_recorded) = (layering::ChangedImages::default(), 0);
    let (mut inserted, mut updated, mut removed) = (0, 0, 0);
    if artifacts.has_others_than_new() {
        taken_out = layering::take_out(session, run).await?;
        changes_recorded = record_artifact_changes(session, run).await?;
    }
    let mut ids_reused = 0;
    if artifacts.changed + artifacts.returning > 0 {
        ids_reused = record_reused_ids(session, run, now).await?;
    }
    if artifacts.new > 0 {
        inserted = insert_artifacts(session, run).await?;
    }
    if artifacts.changed + artifacts.pulled + artifacts.returning > 0 {
        updated = update_artifacts(session, run).await?;
    }
    if artifacts.missing > 0 {
        removed = remove_artifacts(session, run, listing, unreadable).await?;
    }
    rows += inserted + updated + removed + changes_recorded;
    let has_changes = changes_recorded > 0 || repositories_moved;
    let layers_differ = layering::take_in(session, run, taken_out, has_changes).await?;

    let (mut tags_moved, mut tags_removed, mut opened) = (0, 0, 0);
    let tags_differ = tags.changed + tags.missing > 0 || artifacts.has_others_than_new();
    if tags_differ {
        tags_moved = close_moved_tags(session, run, listing).await?;
        tags_removed = close_removed_tags(session, run, listing, unreadable).await?;
    }
    if tags_differ || tags.new > 0 {
        opened = open_tags(session, run, listing).await?;
    }
    if tags_differ {
        rows += continue_intervals(session, run).await?;
        rows += delete_tags(session, run).await?;
        rows += update_tags(session, run).await?;
    }
    if tags_differ || tags.new > 0 {
        rows += insert_tags(session, run).await?;
    }
    rows += tags_moved + tags_removed + opened;
    // What an index counts depends on tags: an artifact with one is no child of it.
    if layers_differ || artifacts.has_new_or_other() || tags_moved + tags_removed + opened > 0 {
        rows += layering::record_storage(session, run).await?;
    }

    let data_issues = ids_reused + insert_data_issues(session, run, now).await?;
    counters.artifacts_listed = count_artifacts(session, run).await?;
    super::stage::clear(session, run.instance_id).await?;
    counters.artifacts_new = inserted + artifacts.returning as u64;
    counters.artifacts_changed = (artifacts.changed + artifacts.pulled) as u64;
    counters.artifacts_removed = removed;
    counters.artifacts_unchanged =
        counters.artifacts_listed - counters.artifacts_new - counters.artifacts_changed;
    counters.tags_new = opened - tags_moved;
    counters.tags_moved = tags_moved;
    counters.tags_removed = tags_removed;
    counters.data_issues += data_issues;
    counters.rows_written += rows + data_issues;
    Ok(())
}

/// Numbers of differences between the listing and the tables, counted once. Kinds without differences
/// need no further statement, so an unchanged registry takes one comparison for each kind.
#[derive(Debug, Clone, Copy)]
struct Differences {
    artifacts: ArtifactDifferences,
    tags: TagDifferences,
}

#[derive(Debug, Clone, Copy)]
struct ArtifactDifferences {
    new: i64,
    /// Marked as removed before, and listed again.
    returning: i64,
    changed: i64,
    /// Only the time of the latest pull changed.
    pulled: i64,
    /// Not marked as removed, and not listed.
    missing: i64,
}

impl ArtifactDifferences {
    /// Whether an artifact is new, was removed, returned, or changed in more than its pull time.
    fn has_new_or_other(self) -> bool {
        self.new > 0 || self.has_others_than_new()
    }

    /// Whether an artifact was removed, returned, or changed in more than its pull time. If so, layers
    /// have to be counted again, and an unchanged tag may have another digest.
    fn has_others_than_new(self) -> bool {
        self.returning + self.changed + self.missing > 0
    }
}

#[derive(Debug, Clone, Copy)]
struct TagDifferences {
    new: i64,
    /// Different in any column, or missing from the previous listing.
    changed: i64,
    missing: i64,
}

/// Compares the listed artifacts with the published ones, and marks the differences.
async fn compare_artifacts(
    session: &mut Session<'_>,
    run: Run,
) -> Result<ArtifactDifferences, StoreError> {
    let query = sqlx::query_as!(
        ArtifactDifferences,
        r#"with compared as materialized (
               select
                   s.row_number,
                   case
                       when a.artifact_id is null then 'new'
                       when s.artifact_id is null then case when a.removed_at is null then 'missing' end
                       when a.removed_at is not null then 'returning'
                       when (a.repository_id, a.namespace_id, a.size_bytes, a.pushed_at, a.digest, a.type, a.media_type,
                             a.manifest_media_type, a.repository_name, a.extra)
                            is distinct from
                            (s.repository_id, s.namespace_id, s.size_bytes, s.pushed_at, s.digest, s.type, s.media_type,
                             s.manifest_media_type, s.repository_name, s.extra)
                       then 'changed'
                       when a.pulled_at is distinct from s.pulled_at then 'pulled'
                   end as difference
               from (select * from swr.staged_artifact where instance_id = $1 and run_id = $2) s
               full join (select * from swr.artifact where instance_id = $1) a on a.artifact_id = s.artifact_id
           ),
           marked as (
               update swr.staged_artifact s
               set difference = c.difference
               from compared c
               where s.instance_id = $1 and s.run_id = $2 and s.row_number = c.row_number
                 and c.difference in ('changed', 'pulled', 'returning')
           )
           select
               count(*) filter (where difference = 'new') as "new!",
               count(*) filter (where difference = 'returning') as "returning!",
               count(*) filter (where difference = 'changed') as "changed!",
               count(*) filter (where difference = 'pulled') as "pulled!",
               count(*) filter (where difference = 'missing') as "missing!"
           from compared"#,
        run.instance_id,
        run.run_id
    );
    session
        .fetch_one(
            "compare the listed artifacts with the published ones",
            query,
        )
        .await
}

/// Compares the listed tags with the published ones, and marks the differences.
async fn compare_tags(session: &mut Session<'_>, run: Run) -> Result<TagDifferences, StoreError> {
    let query = sqlx::query_as!(
        TagDifferences,
        r#"with compared as materialized (
               select
                   t.row_number,
                   case
                       when k.name is null then 'new'
                       when t.name is null then 'missing'
                       when (k.tag_id, k.artifact_id, k.pushed_at, k.pulled_at, k.extra, k.missing_since_run_id)
                            is distinct from
                            (t.tag_id, t.artifact_id, t.pushed_at, t.pulled_at, t.extra, null)
                       then 'changed'
                   end as difference
               from (select * from swr.staged_tag where instance_id = $1 and run_id = $2) t
               full join (select * from swr.tag where instance_id = $1) k
                 on k.repository_id = t.repository_id and k.name = t.name
           ),
           marked as (
               update swr.staged_tag t
               set has_changed = true
               from compared c
               where t.instance_id = $1 and t.run_id = $2 and t.row_number = c.row_number and c.difference = 'changed'
           )
           select
               count(*) filter (where difference = 'new') as "new!",
               count(*) filter (where difference = 'changed') as "changed!",
               count(*) filter (where difference = 'missing') as "missing!"
           from compared"#,
        run.instance_id,
        run.run_id
    );
    session
        .fetch_one("compare the listed tags with the published ones", query)
        .await
}

/// Up to this number of removals is always allowed: in a small registry, a normal cleanup is a large
/// percentage.
const FEW_REMOVALS: u64 = 100;
/// Maximum number of repositories in the error if too much is missing.
const LOSSES: i64 = 5;

/// Checks the number of missing artifacts, then of missing tags of artifacts that stay. A tag counts
/// only when it is missing for the first time: it is removed by the next run, and a run that accepts a
/// missing tag also accepts this removal.
async fn mass_removal(
    session: &mut Session<'_>,
    run: Run,
    max_removals_percent: u8,
) -> Result<Option<MassRemoval>, StoreError> {
    let artifacts = artifact_losses(session, run).await?;
    let removal = excess(RemovedKind::Artifacts, artifacts, max_removals_percent);
    if removal.is_some() {
        return Ok(removal);
    }
    let tags = tag_losses(session, run).await?;
    Ok(excess(RemovedKind::Tags, tags, max_removals_percent))
}

/// The removals of a repository, and of all repositories together.
struct Loss {
    repository: String,
    removed: i64,
    current: i64,
    all_removed: i64,
    all_current: i64,
}

fn excess(kind: RemovedKind, losses: Vec<Loss>, max_removals_percent: u8) -> Option<MassRemoval> {
    let first = losses.first()?;
    let (removed, current) = (first.all_removed as u64, first.all_current as u64);
    if removed <= FEW_REMOVALS || removed * 100 <= current * u64::from(max_removals_percent) {
        return None;
    }
    let losses = losses.into_iter().filter(|loss| loss.removed > 0);
    Some(MassRemoval {
        kind,
        removed,
        current,
        max_removals_percent,
        losses: losses
            .map(|loss| RepositoryLoss {
                repository: loss.repository,
                removed: loss.removed as u64,
                current: loss.current as u64,
            })
            .collect(),
    })
}

/// The repositories with the most missing artifacts.
async fn artifact_losses(session: &mut Session<'_>, run: Run) -> Result<Vec<Loss>, StoreError> {
    let query = sqlx::query_as!(
        Loss,
        r#"select
               concat_ws('/', coalesce(r.namespace_name, n.name), coalesce(r.name, l.repository_name)) as "repository!",
               l.removed as "removed!",
               l.current as "current!",
               (sum(l.removed) over ())::bigint as "all_removed!",
               (sum(l.current) over ())::bigint as "all_current!"
           from (
               select a.repository_id, max(a.namespace_id) as namespace_id, max(a.repository_name) as repository_name,
                      count(*) as current, count(*) filter (where s.artifact_id is null) as removed
               from swr.artifact a
               left join swr.staged_artifact s
                 on s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
               where a.instance_id = $1 and a.removed_at is null
               group by a.repository_id
           ) l
           left join swr.repository r on r.instance_id = $1 and r.repository_id = l.repository_id
           left join swr.namespace n on n.instance_id = $1 and n.namespace_id = l.namespace_id
           order by l.removed desc, l.repository_id
           limit $3"#,
        run.instance_id,
        run.run_id,
        LOSSES
    );
    session
        .fetch_all("count the artifacts that are no longer listed", query)
        .await
}

/// The repositories with the most missing tags of artifacts that stay.
async fn tag_losses(session: &mut Session<'_>, run: Run) -> Result<Vec<Loss>, StoreError> {
    let query = sqlx::query_as!(
        Loss,
        r#"select
               concat_ws('/', coalesce(r.namespace_name, n.name), coalesce(r.name, l.repository_name)) as "repository!",
               l.removed as "removed!",
               l.current as "current!",
               (sum(l.removed) over ())::bigint as "all_removed!",
               (sum(l.current) over ())::bigint as "all_current!"
           from (
               select k.repository_id, max(s.namespace_id) as namespace_id, max(s.repository_name) as repository_name,
                      count(*) as current, count(*) filter (where k.missing_since_run_id = $2) as removed
               from swr.tag k
               join swr.staged_artifact s
                 on s.instance_id = $1 and s.run_id = $2 and s.artifact_id = k.artifact_id
               where k.instance_id = $1
               group by k.repository_id
           ) l
           left join swr.repository r on r.instance_id = $1 and r.repository_id = l.repository_id
           left join swr.namespace n on n.instance_id = $1 and n.namespace_id = l.namespace_id
           order by l.removed desc, l.repository_id
           limit $3"#,
        run.instance_id,
        run.run_id,
        LOSSES
    );
    session
        .fetch_all("count the tags that are no longer listed", query)
        .await
}

/// The run warns if the catalog counts this many artifacts more than are listed.
const MANY_UNLISTED: i64 = 100;

/// The first listing can be compared only with the counts of the catalog. They may include artifacts
/// that the list does not show, so a listing with far fewer artifacts is published with a warning.
async fn warn_of_short_listing(session: &mut Session<'_>, run: Run) -> Result<(), StoreError> {
    let query = sqlx::query!(
        r#"select
               (
                   select coalesce(swr.total_bytes(sum(greatest(artifact_count, 0))), 0)
                   from (
                       select distinct on (repository_id) artifact_count
                       from swr.staged_repository
                       where instance_id = $1 and run_id = $2
                       order by repository_id, row_number desc
                   ) r
               ) as "counted!",
               (select count(*) from swr.staged_artifact where instance_id = $1 and run_id = $2) as "listed!""#,
        run.instance_id,
        run.run_id
    );
    let counts = session
        .fetch_one("compare the first listing with the catalog", query)
        .await?;
    let (counted, listed) = (counts.counted, counts.listed);
    if listed < counted / 2 && counted - listed > MANY_UNLISTED {
        tracing::warn!(
            listed,
            counted,
            "the first listing has {listed} artifacts, but the repositories of the catalog count {counted}: \
             what is published may be incomplete; see whether the key may read all namespaces"
        );
    }
    Ok(())
}

/// Kinds for which the listing had a row without a readable id. This row could be any of the missing
/// ones, so nothing of these kinds is marked as removed. If a row that could not be stored has an id, only
/// the row with this id is not marked.
#[derive(Debug, Clone, Copy)]
struct UnreadableKinds {
    namespaces: bool,
    repositories: bool,
    artifacts: bool,
}

impl UnreadableKinds {
    fn warn(self) {
        let UnreadableKinds {
            namespaces,
            repositories,
            artifacts,
        } = self;
        for (what, in_doubt) in [
            ("namespaces", namespaces),
            ("repositories", repositories),
            ("artifacts and tags", artifacts),
        ] {
            if in_doubt {
                tracing::warn!(
                    "the listing has rows without a readable id, which could be any: no {what} are marked as removed; \
                     see `swr-sync report data_issue`"
                );
            }
        }
    }
}

async fn unreadable(session: &mut Session<'_>, run: Run) -> Result<UnreadableKinds, StoreError> {
    let query = sqlx::query_as!(
        UnreadableKinds,
        r#"select
               coalesce(bool_or(table_name = 'namespace'), false) as "namespaces!",
               coalesce(bool_or(table_name = 'repository'), false) as "repositories!",
               coalesce(bool_or(table_name = 'artifact'), false) as "artifacts!"
           from swr.staged_data_issue
           where instance_id = $1 and run_id = $2 and action = $3 and row_key = ''"#,
        run.instance_id,
        run.run_id,
        Action::DroppedRow.as_str()
    );
    session.fetch_one("find rows without an id", query).await
}

/// Settings of the planner for statements that compare whole tables. The staged rows were never
/// analyzed: the planner would expect one row and choose a nested loop over all pairs. The comparisons
/// are simple hash joins, which need memory and do not profit from JIT compilation.
pub(super) async fn plan_for_bulk(session: &mut Session<'_>) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "select
             set_config('enable_nestloop', 'off', true) as nestloop,
             set_config('jit', 'off', true) as jit,
             set_config('work_mem', '64MB', true) as work_mem"
    );
    session
        .fetch_one("set the planner options for publish", query)
        .await?;
    Ok(())
}

/// Analyzes the tables after many rows were written, if the role may do so: it must own the tables or,
/// from PostgreSQL 17 on, have the privilege `maintain`. Without this check the server would print a
/// warning for each table. Autovacuum analyzes them later in any case.
pub async fn analyze(lock: &mut InstanceLock) -> Result<(), StoreError> {
    let query = sqlx::query!(
        r#"select case
               when current_setting('server_version_num')::integer >= 170000
                   then has_table_privilege('swr.artifact', 'maintain')
               else pg_has_role(relowner, 'usage')
           end as "is_allowed!"
           from pg_class
           where oid = 'swr.artifact'::regclass"#
    )
    .map(|row| row.is_allowed);
    let is_allowed = lock
        .fetch_one("check the privilege to analyze the tables", query)
        .await?;
    if !is_allowed {
        return Ok(());
    }
    // A sample of 9,000 rows of each table is enough until autovacuum takes a larger one.
    let query = sqlx::query!("select set_config('default_statistics_target', '30', false)");
    lock.fetch_one("set the sample size for analyze", query)
        .await?;
    let query = sqlx::query!(
        "analyze swr.instance, swr.namespace, swr.repository, swr.artifact, swr.tag, swr.tag_history, swr.manifest,
                 swr.build_step, swr.command, swr.command_finding, swr.layer, swr.media_type, swr.artifact_layering,
                 swr.repository_layering, swr.namespace_layering, swr.shared_layer, swr.layer_alias,
                 swr.namespace_storage"
    );
    lock.execute("analyze the tables", query).await?;
    Ok(())
}

/// Start of the latest published listing of an instance.
pub(super) async fn previous_listing(
    session: &mut Session<'_>,
    instance_id: i32,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let query = sqlx::query!(
        "select listing_started_at
         from swr.sync_run
         where instance_id = $1 and outcome = 'published'
         order by run_id desc
         limit 1",
        instance_id
    )
    .map(|row| row.listing_started_at);
    let previous = session
        .fetch_optional("read the time of the last listing", query)
        .await?;
    Ok(previous.flatten())
}

/// If an artifact was listed twice, its last row counts, and the earlier rows are deleted with their
/// tags. If a tag was listed for two artifacts, it moved in the meantime, and the last row counts.
pub(super) async fn drop_superseded_rows(
    session: &mut Session<'_>,
    run: Run,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "delete from swr.staged_artifact s
         using (
             select artifact_id, max(row_number) as last_row_number
             from swr.staged_artifact
             where instance_id = $1 and run_id = $2
             group by artifact_id
             having count(*) > 1
         ) l
         where s.instance_id = $1 and s.run_id = $2
           and s.artifact_id = l.artifact_id and s.row_number < l.last_row_number",
        run.instance_id,
        run.run_id
    );
    let superseded = session.execute("drop superseded artifacts", query).await?;
    if superseded > 0 {
        let query = sqlx::query!(
            "delete from swr.staged_tag t
             where t.instance_id = $1 and t.run_id = $2
               and not exists (
                   select from swr.staged_artifact a
                   where a.instance_id = $1 and a.run_id = $2 and a.row_number = t.artifact_row_number
               )",
            run.instance_id,
            run.run_id
        );
        session
            .execute("drop tags of superseded artifacts", query)
            .await?;
    }
    let query = sqlx::query!(
        "delete from swr.staged_tag t
         using (
             select repository_id, name, max(row_number) as last_row_number
             from swr.staged_tag
             where instance_id = $1 and run_id = $2
             group by repository_id, name
             having count(*) > 1
         ) l
         where t.instance_id = $1 and t.run_id = $2
           and t.repository_id = l.repository_id and t.name = l.name and t.row_number < l.last_row_number",
        run.instance_id,
        run.run_id
    );
    session.execute("drop superseded tags", query).await?;
    Ok(())
}

async fn insert_namespaces(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.namespace
             (instance_id, namespace_id, name, repository_count, metadata, created_at, updated_at, extra)
         select distinct on (s.namespace_id)
             s.instance_id, s.namespace_id, s.name, s.repository_count, s.metadata, s.created_at, s.updated_at, s.extra
         from swr.staged_namespace s
         where s.instance_id = $1 and s.run_id = $2
           and not exists (
               select from swr.namespace n where n.instance_id = $1 and n.namespace_id = s.namespace_id
           )
         order by s.namespace_id, s.row_number desc",
        run.instance_id,
        run.run_id
    );
    session.execute("add namespaces", query).await
}

async fn update_namespaces(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.namespace n
         set name = s.name,
             repository_count = s.repository_count,
             metadata = s.metadata,
             created_at = s.created_at,
             updated_at = s.updated_at,
             extra = s.extra,
             removed_at = null
         from (
             select distinct on (namespace_id) *
             from swr.staged_namespace
             where instance_id = $1 and run_id = $2
             order by namespace_id, row_number desc
         ) s
         where n.instance_id = $1 and n.namespace_id = s.namespace_id
           and (n.name, n.repository_count, n.metadata, n.created_at, n.updated_at, n.extra, n.removed_at)
               is distinct from
               (s.name, s.repository_count, s.metadata, s.created_at, s.updated_at, s.extra, null)",
        run.instance_id,
        run.run_id
    );
    session.execute("update namespaces", query).await
}

async fn remove_namespaces(
    session: &mut Session<'_>,
    run: Run,
    listing: ListingTime,
    unreadable: UnreadableKinds,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.namespace n
         set removed_at = $3
         where n.instance_id = $1 and n.removed_at is null
           and not exists (
               select from swr.staged_namespace s
               where s.instance_id = $1 and s.run_id = $2 and s.namespace_id = n.namespace_id
           )
           and not exists (
               select from swr.staged_data_issue i
               where i.instance_id = $1 and i.run_id = $2 and i.table_name = 'namespace' and i.action = $5
                 and i.row_key = n.namespace_id::text
           )
           and not $4",
        run.instance_id,
        run.run_id,
        listing.started_at,
        unreadable.namespaces,
        Action::DroppedRow.as_str()
    );
    session.execute("mark removed namespaces", query).await
}

/// Whether a repository is new or has moved to another namespace. If so, the sums by namespace change.
async fn repositories_move(session: &mut Session<'_>, run: Run) -> Result<bool, StoreError> {
    let query = sqlx::query!(
        r#"select exists (
               select
               from (
                   select distinct on (repository_id) repository_id, namespace_id
                   from swr.staged_repository
                   where instance_id = $1 and run_id = $2
                   order by repository_id, row_number desc
               ) s
               left join swr.repository r on r.instance_id = $1 and r.repository_id = s.repository_id
               where r.namespace_id is distinct from s.namespace_id
           ) as "exists!""#,
        run.instance_id,
        run.run_id
    ).map(|row| row.exists);
    session.fetch_one("find moved repositories", query).await
}

async fn insert_repositories(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.repository
             (instance_id, repository_id, namespace_id, namespace_name, name, description, tag_count,
              artifact_count, pull_count, created_at, updated_at, extra)
         select distinct on (s.repository_id)
             s.instance_id, s.repository_id, s.namespace_id, s.namespace_name, s.name, s.description, s.tag_count,
             s.artifact_count, s.pull_count, s.created_at, s.updated_at, s.extra
         from swr.staged_repository s
         where s.instance_id = $1 and s.run_id = $2
           and not exists (
               select from swr.repository r where r.instance_id = $1 and r.repository_id = s.repository_id
           )
         order by s.repository_id, s.row_number desc",
        run.instance_id,
        run.run_id
    );
    session.execute("add repositories", query).await
}

async fn update_repositories(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.repository r
         set namespace_id = s.namespace_id,
             namespace_name = s.namespace_name,
             name = s.name,
             description = s.description,
             tag_count = s.tag_count,
             artifact_count = s.artifact_count,
             pull_count = s.pull_count,
             created_at = s.created_at,
             updated_at = s.updated_at,
             extra = s.extra,
             removed_at = null
         from (
             select distinct on (repository_id) *
             from swr.staged_repository
             where instance_id = $1 and run_id = $2
             order by repository_id, row_number desc
         ) s
         where r.instance_id = $1 and r.repository_id = s.repository_id
           and (r.namespace_id, r.namespace_name, r.name, r.description, r.tag_count, r.artifact_count,
                r.pull_count, r.created_at, r.updated_at, r.extra, r.removed_at)
               is distinct from
               (s.namespace_id, s.namespace_name, s.name, s.description, s.tag_count, s.artifact_count,
                s.pull_count, s.created_at, s.updated_at, s.extra, null)",
        run.instance_id,
        run.run_id
    );
    session.execute("update repositories", query).await
}

/// Marks repositories as removed that neither the catalog nor an artifact contains.
async fn remove_repositories(
    session: &mut Session<'_>,
    run: Run,
    listing: ListingTime,
    unreadable: UnreadableKinds,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.repository r
         set removed_at = $3
         where r.instance_id = $1 and r.removed_at is null
           and not exists (
               select from swr.staged_repository s
               where s.instance_id = $1 and s.run_id = $2 and s.repository_id = r.repository_id
           )
           and not exists (
               select from swr.staged_artifact a
               where a.instance_id = $1 and a.run_id = $2 and a.repository_id = r.repository_id
           )
           and not exists (
               select from swr.staged_data_issue i
               where i.instance_id = $1 and i.run_id = $2 and i.table_name = 'repository' and i.action = $5
                 and i.row_key = r.repository_id::text
           )
           and not $4",
        run.instance_id,
        run.run_id,
        listing.started_at,
        unreadable.repositories,
        Action::DroppedRow.as_str()
    );
    session.execute("mark removed repositories", query).await
}

/// Records the values that an update or a return is about to overwrite. Changes of the pull time alone
/// are not recorded, because they are too frequent.
async fn record_artifact_changes(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.artifact_change (instance_id, artifact_id, run_id, change, previous)
         select $1, a.artifact_id, $2, case when a.removed_at is null then 'changed' else 'restored' end,
                (
                    select jsonb_object_agg(o.key, o.value)
                    from jsonb_each(to_jsonb(a) - 'pulled_at') o
                    join jsonb_each(to_jsonb(s) || '{\"removed_at\": null, \"removed_run_id\": null}') n on n.key = o.key
                    where o.value <> n.value
                )
         from swr.staged_artifact s
         join swr.artifact a on a.instance_id = $1 and a.artifact_id = s.artifact_id
         where s.instance_id = $1 and s.run_id = $2 and s.difference in ('changed', 'returning')",
        run.instance_id,
        run.run_id
    );
    session.execute("record changes of artifacts", query).await
}

/// Records each artifact id that had another digest before. The reason is unknown, and the run continues.
async fn record_reused_ids(
    session: &mut Session<'_>,
    run: Run,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.data_issue
             (instance_id, data_issue_id, run_id, recorded_at, table_name, row_key, field, action, original)
         select $1, md5(concat_ws(' ', 'reused id', a.artifact_id, a.digest, s.digest))::uuid, $2, $3, 'artifact',
                a.artifact_id::text, 'digest', $4, to_jsonb(a.digest)
         from swr.staged_artifact s
         join swr.artifact a on a.instance_id = $1 and a.artifact_id = s.artifact_id
         where s.instance_id = $1 and s.run_id = $2 and s.difference in ('changed', 'returning')
           and a.digest <> s.digest
         on conflict do nothing",
        run.instance_id,
        run.run_id,
        now,
        Action::ReusedId.as_str()
    );
    session
        .execute("record ids that named another digest", query)
        .await
}

async fn insert_artifacts(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.artifact
             (instance_id, artifact_id, repository_id, namespace_id, size_bytes, pushed_at, pulled_at,
              first_seen_run_id, digest, type, media_type, manifest_media_type, repository_name, extra)
         select s.instance_id, s.artifact_id, s.repository_id, s.namespace_id, s.size_bytes, s.pushed_at, s.pulled_at,
                $2, s.digest, s.type, s.media_type, s.manifest_media_type, s.repository_name, s.extra
         from swr.staged_artifact s
         where s.instance_id = $1 and s.run_id = $2
           and not exists (
               select from swr.artifact a where a.instance_id = $1 and a.artifact_id = s.artifact_id
           )",
        run.instance_id,
        run.run_id
    );
    session.execute("add artifacts", query).await
}

async fn update_artifacts(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.artifact a
         set repository_id = s.repository_id,
             namespace_id = s.namespace_id,
             size_bytes = s.size_bytes,
             pushed_at = s.pushed_at,
             pulled_at = s.pulled_at,
             digest = s.digest,
             type = s.type,
             media_type = s.media_type,
             manifest_media_type = s.manifest_media_type,
             repository_name = s.repository_name,
             extra = s.extra,
             removed_at = null,
             removed_run_id = null
         from swr.staged_artifact s
         where s.instance_id = $1 and s.run_id = $2 and s.difference is not null
           and a.instance_id = $1 and a.artifact_id = s.artifact_id",
        run.instance_id,
        run.run_id
    );
    session.execute("update artifacts", query).await
}

async fn remove_artifacts(
    session: &mut Session<'_>,
    run: Run,
    listing: ListingTime,
    unreadable: UnreadableKinds,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.artifact a
         set removed_at = $3, removed_run_id = $2
         where a.instance_id = $1 and a.removed_at is null
           and not exists (
               select from swr.staged_artifact s
               where s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
           )
           and not exists (
               select from swr.staged_data_issue i
               where i.instance_id = $1 and i.run_id = $2 and i.table_name = 'artifact' and i.action = $5
                 and i.row_key = a.artifact_id::text
           )
           and not $4",
        run.instance_id,
        run.run_id,
        listing.started_at,
        unreadable.artifacts,
        Action::DroppedRow.as_str()
    );
    session.execute("mark removed artifacts", query).await
}

/// Marks tags that are missing from a listing for the first time although their artifact is listed,
/// unchanged and in the same repository. A tag that moves while the pages are read can be missing from
/// all pages. So such a tag stays with its artifact until the next listing is without it too.
///
/// If it is uncertain whether an artifact was removed, its tags are not marked either. Neither are the tags
/// of an artifact if its list of tags, or a name in this list, is not readable.
async fn mark_missing_tags(
    session: &mut Session<'_>,
    run: Run,
    unreadable: UnreadableKinds,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.tag k
         set missing_since_run_id = $2
         from swr.artifact a
         join swr.staged_artifact s
           on s.instance_id = $1 and s.run_id = $2 and s.artifact_id = a.artifact_id
          and s.repository_id = a.repository_id and s.digest = a.digest
         where k.instance_id = $1 and k.missing_since_run_id is null
           and a.instance_id = $1 and a.artifact_id = k.artifact_id and a.repository_id = k.repository_id
           and not exists (
               select from swr.staged_tag t
               where t.instance_id = $1 and t.run_id = $2 and t.repository_id = k.repository_id and t.name = k.name
           )
           and not $3
           and not exists (
               select from swr.staged_data_issue i
               where i.instance_id = $1 and i.run_id = $2 and i.table_name = 'artifact'
                 and i.row_key = k.artifact_id::text and (i.action = $4 or i.field = 'tags')
           )
           and not exists (
               select from swr.staged_data_issue i
               where i.instance_id = $1 and i.run_id = $2 and i.table_name = 'tag'
                 and i.row_key = 'artifact ' || k.artifact_id and i.action = $4
           )",
        run.instance_id,
        run.run_id,
        unreadable.artifacts,
        Action::DroppedRow.as_str()
    );
    session.execute("mark missing tags", query).await
}

/// Ends the intervals of tags that now point to another digest.
async fn close_moved_tags(
    session: &mut Session<'_>,
    run: Run,
    listing: ListingTime,
) -> Result<u64, StoreError> {
    let ListingTime {
        started_at,
        finished_at,
        previous_started_at,
    } = listing;
    let query = sqlx::query!(
        "update swr.tag_history h
         set closed_run_id = $2,
             valid_to = greatest(
                 case when t.pushed_at > $5 and t.pushed_at <= $4 then t.pushed_at else $3 end,
                 h.valid_from + interval '1 microsecond'
             )
         from swr.staged_tag t
         join swr.staged_artifact a
           on a.instance_id = $1 and a.run_id = $2 and a.row_number = t.artifact_row_number
         where t.instance_id = $1 and t.run_id = $2
           and h.instance_id = $1 and h.repository_id = t.repository_id and h.name = t.name
           and h.valid_to is null and h.digest <> a.digest",
        run.instance_id,
        run.run_id,
        started_at,
        finished_at,
        previous_started_at
    );
    session
        .execute("close the intervals of moved tags", query)
        .await
}

/// Ends the intervals of removed tags: their artifact was removed, or two listings in a row were without
/// them.
async fn close_removed_tags(
    session: &mut Session<'_>,
    run: Run,
    listing: ListingTime,
    unreadable: UnreadableKinds,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.tag_history h
         set closed_run_id = $2, valid_to = greatest($3, h.valid_from + interval '1 microsecond')
         where h.instance_id = $1 and h.valid_to is null
           and not exists (
               select from swr.staged_tag t
               where t.instance_id = $1 and t.run_id = $2 and t.repository_id = h.repository_id and t.name = h.name
           )
           and not exists (
               select from swr.tag k
               where k.instance_id = $1 and k.repository_id = h.repository_id and k.name = h.name
                 and k.missing_since_run_id = $2
           )
           and not $4
           and not exists (
               select from swr.staged_data_issue i
               where i.instance_id = $1 and i.run_id = $2 and i.table_name = 'artifact'
                 and i.row_key = h.artifact_id::text and (i.action = $5 or i.field = 'tags')
           )
           and not exists (
               select from swr.staged_data_issue i
               where i.instance_id = $1 and i.run_id = $2 and i.table_name = 'tag'
                 and i.row_key = 'artifact ' || h.artifact_id and i.action = $5
           )",
        run.instance_id,
        run.run_id,
        listing.started_at,
        unreadable.artifacts,
        Action::DroppedRow.as_str()
    );
    session
        .execute("close the intervals of removed tags", query)
        .await
}

/// Begins an interval for each tag without an open one. It starts at the push time if that is between
/// the previous listing and this one, otherwise at the time of the listing.
async fn open_tags(
    session: &mut Session<'_>,
    run: Run,
    listing: ListingTime,
) -> Result<u64, StoreError> {
    let ListingTime {
        started_at,
        finished_at,
        previous_started_at,
    } = listing;
    let query = sqlx::query!(
        "insert into swr.tag_history
             (instance_id, repository_id, name, valid_from, artifact_id, opened_run_id, digest)
         select t.instance_id, t.repository_id, t.name,
                greatest(
                    case when t.pushed_at > $5 and t.pushed_at <= $4 then t.pushed_at else $3 end,
                    (
                        select max(h.valid_to)
                        from swr.tag_history h
                        where h.instance_id = $1 and h.repository_id = t.repository_id and h.name = t.name
                    )
                ),
                t.artifact_id, $2, a.digest
         from swr.staged_tag t
         join swr.staged_artifact a
           on a.instance_id = $1 and a.run_id = $2 and a.row_number = t.artifact_row_number
         left join swr.tag_history o
           on o.instance_id = $1 and o.repository_id = t.repository_id and o.name = t.name and o.valid_to is null
         where t.instance_id = $1 and t.run_id = $2 and o.name is null",
        run.instance_id,
        run.run_id,
        started_at,
        finished_at,
        previous_started_at
    );
    session
        .execute("open the intervals of new and moved tags", query)
        .await
}

/// If a digest is deleted and pushed again, it has a new artifact id. The interval continues with this id.
async fn continue_intervals(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.tag_history h
         set artifact_id = t.artifact_id
         from swr.staged_tag t
         where t.instance_id = $1 and t.run_id = $2
           and h.instance_id = $1 and h.repository_id = t.repository_id and h.name = t.name
           and h.valid_to is null and h.artifact_id <> t.artifact_id",
        run.instance_id,
        run.run_id
    );
    session
        .execute(
            "continue the intervals of artifacts that were pushed again",
            query,
        )
        .await
}

/// Deletes tags without an open interval.
async fn delete_tags(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "delete from swr.tag k
         where k.instance_id = $1
           and not exists (
               select from swr.tag_history h
               where h.instance_id = $1 and h.repository_id = k.repository_id and h.name = k.name
                 and h.valid_to is null
           )",
        run.instance_id
    );
    session.execute("drop removed tags", query).await
}

async fn update_tags(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "update swr.tag k
         set tag_id = t.tag_id,
             artifact_id = t.artifact_id,
             pushed_at = t.pushed_at,
             pulled_at = t.pulled_at,
             extra = t.extra,
             missing_since_run_id = null
         from swr.staged_tag t
         where t.instance_id = $1 and t.run_id = $2 and t.has_changed
           and k.instance_id = $1 and k.repository_id = t.repository_id and k.name = t.name",
        run.instance_id,
        run.run_id
    );
    session.execute("update tags", query).await
}

async fn insert_tags(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.tag
             (instance_id, repository_id, name, tag_id, artifact_id, pushed_at, pulled_at, extra)
         select t.instance_id, t.repository_id, t.name, t.tag_id, t.artifact_id, t.pushed_at, t.pulled_at, t.extra
         from swr.staged_tag t
         where t.instance_id = $1 and t.run_id = $2
           and not exists (
               select from swr.tag k
               where k.instance_id = $1 and k.repository_id = t.repository_id and k.name = t.name
           )",
        run.instance_id,
        run.run_id
    );
    session.execute("add tags", query).await
}

async fn insert_data_issues(
    session: &mut Session<'_>,
    run: Run,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        "insert into swr.data_issue
             (instance_id, data_issue_id, run_id, recorded_at, table_name, row_key, field, action, original)
         select s.instance_id, s.data_issue_id, s.run_id, $3, s.table_name, s.row_key, s.field, s.action, s.original
         from swr.staged_data_issue s
         where s.instance_id = $1 and s.run_id = $2
           and not exists (
               select from swr.data_issue k where k.instance_id = $1 and k.data_issue_id = s.data_issue_id
           )",
        run.instance_id,
        run.run_id,
        now
    );
    session.execute("record data issues", query).await
}

async fn count_artifacts(session: &mut Session<'_>, run: Run) -> Result<u64, StoreError> {
    let query = sqlx::query!(
        r#"select count(*) as "count!" from swr.staged_artifact where instance_id = $1 and run_id = $2"#,
        run.instance_id,
        run.run_id
    ).map(|row| row.count);
    let count = session
        .fetch_one("count the listed artifacts", query)
        .await?;
    Ok(count as u64)
}
