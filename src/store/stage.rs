//! Stores the rows of a listing in progress.
//!
//! Staging only inserts. If there are several rows for one key, publish uses the last.

use std::collections::HashMap;

use sqlx::postgres::PgBindIterExt;
use sqlx::types::Json;

use super::{Run, Session, StoreError, content, to_micros};
use crate::artifact::{Artifact, Namespace, Page, Repository, Tag};
use crate::data_issue::DataIssue;

/// Numbers the staged rows of a run in the order of their arrival.
#[derive(Debug, Default)]
pub struct RowNumbers {
    artifacts: i64,
    tags: i64,
    catalog: i64,
}

/// Stages a page of namespaces. If the catalog is read again, the later rows replace the earlier ones.
pub async fn stage_namespaces(
    session: &mut Session<'_>,
    run: Run,
    staged: &mut RowNumbers,
    page: &Page<Namespace>,
) -> Result<(), StoreError> {
    let namespaces = &page.rows;
    let first = staged.catalog;
    staged.catalog += namespaces.len() as i64;
    let query = sqlx::query!(
        "insert into swr.staged_namespace
             (instance_id, run_id, row_number, namespace_id, name, repository_count, metadata,
              created_at, updated_at, extra)
         select $1, $2, n.*
         from unnest($3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::jsonb[],
                     $8::timestamptz[], $9::timestamptz[], $10::jsonb[]) as n",
        run.instance_id,
        run.run_id,
        (first..).take(namespaces.len()).bind_iter() as _,
        namespaces.iter().map(|n| n.namespace_id).bind_iter() as _,
        namespaces.iter().map(|n| n.name.as_str()).bind_iter() as _,
        namespaces.iter().map(|n| n.repository_count).bind_iter() as _,
        namespaces
            .iter()
            .map(|n| n.metadata.as_ref().map(Json))
            .bind_iter() as _,
        namespaces
            .iter()
            .map(|n| n.created_at.map(to_micros))
            .bind_iter() as _,
        namespaces
            .iter()
            .map(|n| n.updated_at.map(to_micros))
            .bind_iter() as _,
        namespaces
            .iter()
            .map(|n| n.extra.as_ref().map(Json))
            .bind_iter() as _,
    );
    session.execute("stage namespaces", query).await?;
    stage_issues(session, run, &page.issues).await
}

/// Stages a page of repositories. If the catalog is read again, the later rows replace the earlier ones.
pub async fn stage_repositories(
    session: &mut Session<'_>,
    run: Run,
    staged: &mut RowNumbers,
    page: &Page<Repository>,
) -> Result<(), StoreError> {
    let repositories = &page.rows;
    let first = staged.catalog;
    staged.catalog += repositories.len() as i64;
    let query = sqlx::query!(
        "insert into swr.staged_repository
             (instance_id, run_id, row_number, repository_id, namespace_id, namespace_name, name, description,
              tag_count, artifact_count, pull_count, created_at, updated_at, extra)
         select $1, $2, r.*
         from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[],
                     $9::bigint[], $10::bigint[], $11::bigint[],
                     $12::timestamptz[], $13::timestamptz[], $14::jsonb[]) as r",
        run.instance_id,
        run.run_id,
        (first..).take(repositories.len()).bind_iter() as _,
        repositories.iter().map(|r| r.repository_id).bind_iter() as _,
        repositories.iter().map(|r| r.namespace_id).bind_iter() as _,
        repositories.iter().map(|r| r.namespace_name.as_str()).bind_iter() as _,
        repositories.iter().map(|r| r.name.as_str()).bind_iter() as _,
        repositories.iter().map(|r| r.description.as_deref()).bind_iter() as _,
        repositories.iter().map(|r| r.tag_count).bind_iter() as _,
        repositories.iter().map(|r| r.artifact_count).bind_iter() as _,
        repositories.iter().map(|r| r.pull_count).bind_iter() as _,
        repositories.iter().map(|r| r.created_at.map(to_micros)).bind_iter() as _,
        repositories.iter().map(|r| r.updated_at.map(to_micros)).bind_iter() as _,
        repositories.iter().map(|r| r.extra.as_ref().map(Json)).bind_iter() as _,
    );
    session.execute("stage repositories", query).await?;
    stage_issues(session, run, &page.issues).await
}

/// The distinct ids of the repositories that have these digests in the listing of this run.
pub async fn repositories_listing(
    session: &mut Session<'_>,
    run: Run,
    digests: &[&str],
) -> Result<HashMap<String, Vec<i64>>, StoreError> {
    let query = sqlx::query!(
        "select digest, array_agg(distinct repository_id) as \"repository_ids!\"
         from swr.staged_artifact
         where instance_id = $1 and run_id = $2 and digest = any($3)
         group by digest",
        run.instance_id,
        run.run_id,
        digests as _
    );
    let rows = session
        .fetch_all("find the repositories of a digest", query)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.digest, row.repository_ids))
        .collect())
}

/// Stages one page of the artifact list in one round trip.
pub async fn stage_artifacts(
    session: &mut Session<'_>,
    run: Run,
    staged: &mut RowNumbers,
    page: &Page<Artifact>,
) -> Result<(), StoreError> {
    let artifacts = &page.rows;
    let first = staged.artifacts;
    staged.artifacts += artifacts.len() as i64;
    // Each tag with its artifact, and the number of the artifact's row.
    let tags: Vec<(i64, &Artifact, &Tag)> = (first..)
        .zip(artifacts)
        .flat_map(|(row, artifact)| artifact.tags.iter().map(move |tag| (row, artifact, tag)))
        .collect();
    let first_tag = staged.tags;
    staged.tags += tags.len() as i64;
    let query = sqlx::query!(
        "with artifacts as (
             insert into swr.staged_artifact
                 (instance_id, run_id, row_number, artifact_id, repository_id, namespace_id, size_bytes,
                  pushed_at, pulled_at, digest, type, media_type, manifest_media_type, repository_name, extra)
             select $1, $2, a.*
             from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                         $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[], $12::text[],
                         $13::text[], $14::text[], $15::jsonb[]) as a
         )
         insert into swr.staged_tag
             (instance_id, run_id, artifact_row_number, row_number, repository_id, artifact_id, name, tag_id,
              pushed_at, pulled_at, extra)
         select $1, $2, t.*
         from unnest($16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::text[], $21::bigint[],
                     $22::timestamptz[], $23::timestamptz[], $24::jsonb[]) as t",
        run.instance_id,
        run.run_id,
        (first..).take(artifacts.len()).bind_iter() as _,
        artifacts.iter().map(|a| a.artifact_id).bind_iter() as _,
        artifacts.iter().map(|a| a.repository_id).bind_iter() as _,
        artifacts.iter().map(|a| a.namespace_id).bind_iter() as _,
        artifacts.iter().map(|a| a.size_bytes).bind_iter() as _,
        artifacts.iter().map(|a| a.pushed_at.map(to_micros)).bind_iter() as _,
        artifacts.iter().map(|a| a.pulled_at.map(to_micros)).bind_iter() as _,
        artifacts.iter().map(|a| a.digest.as_str()).bind_iter() as _,
        artifacts.iter().map(|a| a.kind.as_deref()).bind_iter() as _,
        artifacts.iter().map(|a| a.media_type.as_deref()).bind_iter() as _,
        artifacts.iter().map(|a| a.manifest_media_type.as_deref()).bind_iter() as _,
        artifacts.iter().map(|a| a.repository_name.as_deref()).bind_iter() as _,
        artifacts.iter().map(|a| a.extra.as_ref().map(Json)).bind_iter() as _,
        tags.iter().map(|(row, _, _)| *row).bind_iter() as _,
        (first_tag..).take(tags.len()).bind_iter() as _,
        tags.iter().map(|(_, artifact, _)| artifact.repository_id).bind_iter() as _,
        tags.iter().map(|(_, artifact, _)| artifact.artifact_id).bind_iter() as _,
        tags.iter().map(|(_, _, tag)| tag.name.as_str()).bind_iter() as _,
        tags.iter().map(|(_, _, tag)| tag.tag_id).bind_iter() as _,
        tags.iter().map(|(_, _, tag)| tag.pushed_at.map(to_micros)).bind_iter() as _,
        tags.iter().map(|(_, _, tag)| tag.pulled_at.map(to_micros)).bind_iter() as _,
        tags.iter().map(|(_, _, tag)| tag.extra.as_ref().map(Json)).bind_iter() as _,
    );
    session.execute("stage artifacts", query).await?;
    stage_issues(session, run, &page.issues).await
}

async fn stage_issues(
    session: &mut Session<'_>,
    run: Run,
    issues: &[DataIssue],
) -> Result<(), StoreError> {
    if issues.is_empty() {
        return Ok(());
    }
    let query = sqlx::query!(
        "insert into swr.staged_data_issue
             (instance_id, run_id, data_issue_id, table_name, row_key, field, action, original)
         select $1, $2, i.*
         from unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[]) as i
         on conflict (instance_id, run_id, data_issue_id) do nothing",
        run.instance_id,
        run.run_id,
        issues.iter().map(content::data_issue_id).bind_iter() as _,
        issues.iter().map(|i| i.table).bind_iter() as _,
        issues.iter().map(|i| i.row_key.as_str()).bind_iter() as _,
        issues.iter().map(|i| i.field.as_str()).bind_iter() as _,
        issues.iter().map(|i| i.action.as_str()).bind_iter() as _,
        issues.iter().map(|i| Json(&i.original)).bind_iter() as _,
    );
    session.execute("stage data issues", query).await?;
    Ok(())
}

/// Deletes the staged rows of all runs of the instance.
pub(super) async fn clear(session: &mut Session<'_>, instance_id: i32) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "with namespaces as (delete from swr.staged_namespace where instance_id = $1),
              repositories as (delete from swr.staged_repository where instance_id = $1),
              artifacts as (delete from swr.staged_artifact where instance_id = $1),
              tags as (delete from swr.staged_tag where instance_id = $1)
         delete from swr.staged_data_issue where instance_id = $1",
        instance_id
    );
    session.execute("empty the staging tables", query).await?;
    Ok(())
}
