//! Build histories: which to request, and how to store them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgBindIterExt;
use sqlx::types::Json;
use uuid::Uuid;

use super::copy::{CopyRow, CopyRows};
use super::findings::{Examined, examine, insert_commands};
use super::{Run, Session, StoreError, content, to_micros};
use crate::build_history::{
    BuildHistory, BuildStep, HistoryAnswer, HistoryOutcome, Layer, Refusal,
};
use crate::data_issue::DataIssue;

/// Returns which of these digests need a request. The digests must be distinct.
///
/// A digest needs a request if it was never requested. It also needs one if its last answer was not
/// final and its next attempt is due, unless this run has requested it already.
pub async fn histories_wanted(
    session: &mut Session<'_>,
    run: Run,
    digests: &[&str],
    now: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query!(
        // A subquery, so that the plan uses the index even if the table is empty or was never
        // analyzed.
        r#"select wanted.digest as "digest!"
           from unnest($2::text[]) as wanted (digest)
           where coalesce(
               (
                   select coalesce(m.next_attempt_at <= $3 and m.attempted_at < $4, false)
                   from swr.manifest m
                   where m.instance_id = $1 and m.digest = wanted.digest
               ),
               true
           )"#,
        run.instance_id,
        digests as _,
        to_micros(now),
        run.started_at
    )
    .map(|row| row.digest);
    session
        .fetch_all("find the build histories to request", query)
        .await
}

/// Whether the database holds other instances, whose build histories could be reused.
pub async fn has_other_instances(
    session: &mut Session<'_>,
    instance_id: i32,
) -> Result<bool, StoreError> {
    let query = sqlx::query!(
        r#"select exists (select from swr.instance where instance_id <> $1) as "exists!""#,
        instance_id
    )
    .map(|row| row.exists);
    session.fetch_one("find other instances", query).await
}

/// Copies histories that another instance of the same database already has, with their data issues.
/// Returns the digests that no longer need a request.
pub async fn reuse_histories(
    session: &mut Session<'_>,
    run: Run,
    digests: &[&str],
    now: DateTime<Utc>,
) -> Result<(HistoryWrites, HashSet<String>), StoreError> {
    let instance_id = run.instance_id;
    let query = sqlx::query!(
        r#"select distinct on (m.digest) m.digest, m.instance_id
           from swr.instance i
           join swr.manifest m on m.instance_id = i.instance_id and m.digest = any($2)
           where i.instance_id <> $1 and m.next_attempt_at is null
           order by m.digest, m.instance_id"#,
        instance_id,
        digests as _
    );
    let sources = session
        .fetch_all("find build histories of other instances", query)
        .await?;
    if sources.is_empty() {
        return Ok((HistoryWrites::default(), HashSet::new()));
    }
    let from: Vec<i32> = sources.iter().map(|source| source.instance_id).collect();
    let digests: Vec<String> = sources.into_iter().map(|source| source.digest).collect();
    let mut transaction = session.begin("begin to copy build histories").await?;
    let mut rows = 0;
    let query = sqlx::query!(
        "insert into swr.build_step
             (created_at, instance_id, created_at_ns, build_step_id, command_id, layer_id, media_type_id, chain_id,
              empty_layer, extra)
         select distinct on (s.build_step_id)
             s.created_at, $1, s.created_at_ns, s.build_step_id, s.command_id, s.layer_id, s.media_type_id, s.chain_id,
             s.empty_layer, s.extra
         from unnest($2::integer[], $3::text[]) as f (instance_id, digest)
         join swr.manifest m on m.instance_id = f.instance_id and m.digest = f.digest
         cross join lateral unnest(m.build_step_ids) as e (build_step_id)
         join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
         where not exists (
             select from swr.build_step k where k.instance_id = $1 and k.build_step_id = s.build_step_id
         )
         on conflict do nothing",
        instance_id,
        &from,
        &digests
    );
    rows += transaction.execute("copy build steps", query).await?;
    // The commands of the other instance may have been examined under other rules.
    let query = sqlx::query!(
        "select distinct on (c.command_id) c.command_id, c.command
         from unnest($2::integer[], $3::text[]) as f (instance_id, digest)
         join swr.manifest m on m.instance_id = f.instance_id and m.digest = f.digest
         cross join lateral unnest(m.build_step_ids) as e (build_step_id)
         join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
         join swr.command c on c.instance_id = s.instance_id and c.command_id = s.command_id
         where not exists (
             select from swr.command k where k.instance_id = $1 and k.command_id = c.command_id
         )",
        instance_id,
        &from,
        &digests
    );
    let commands = transaction
        .fetch_all("read the commands to copy", query)
        .await?;
    let commands: Vec<Examined<'_>> = commands
        .iter()
        .map(|row| examine(row.command_id, &row.command))
        .collect();
    rows += insert_commands(&mut transaction, instance_id, &commands).await?;
    let query = sqlx::query!(
        "insert into swr.layer (size_bytes, instance_id, layer_id, digest)
         select distinct on (l.layer_id) l.size_bytes, $1::integer, l.layer_id, l.digest
         from unnest($2::integer[], $3::text[]) as f (instance_id, digest)
         join swr.manifest m on m.instance_id = f.instance_id and m.digest = f.digest
         cross join lateral unnest(m.build_step_ids) as e (build_step_id)
         join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
         join swr.layer l on l.instance_id = s.instance_id and l.layer_id = s.layer_id
         where not exists (
             select from swr.layer k where k.instance_id = $1 and k.layer_id = l.layer_id
         )
         on conflict do nothing",
        instance_id,
        &from,
        &digests
    );
    rows += transaction.execute("copy layers", query).await?;
    let query = sqlx::query!(
        "insert into swr.media_type (instance_id, media_type_id, media_type)
         select distinct on (t.media_type_id) $1::integer, t.media_type_id, t.media_type
         from unnest($2::integer[], $3::text[]) as f (instance_id, digest)
         join swr.manifest m on m.instance_id = f.instance_id and m.digest = f.digest
         cross join lateral unnest(m.build_step_ids) as e (build_step_id)
         join swr.build_step s on s.instance_id = m.instance_id and s.build_step_id = e.build_step_id
         join swr.media_type t on t.instance_id = s.instance_id and t.media_type_id = s.media_type_id
         where not exists (
             select from swr.media_type k where k.instance_id = $1 and k.media_type_id = t.media_type_id
         )
         on conflict do nothing",
        instance_id,
        &from,
        &digests
    );
    rows += transaction.execute("copy media types", query).await?;
    let query = sqlx::query!(
        "insert into swr.manifest
             (instance_id, digest, outcome, attempts, attempted_at, http_status, error_code, error_message,
              reported_total, layer_bytes, build_step_ids, layer_ids, chain_ids, extra)
         select $1, m.digest, m.outcome, m.attempts, m.attempted_at, m.http_status, m.error_code, m.error_message,
                m.reported_total, m.layer_bytes, m.build_step_ids, m.layer_ids, m.chain_ids, m.extra
         from unnest($2::integer[], $3::text[]) as f (instance_id, digest)
         join swr.manifest m on m.instance_id = f.instance_id and m.digest = f.digest
         on conflict (instance_id, digest) do update
         set outcome = excluded.outcome, attempts = excluded.attempts, attempted_at = excluded.attempted_at,
             next_attempt_at = null, waiting_since = null, http_status = excluded.http_status, error_code = excluded.error_code,
             error_message = excluded.error_message, reported_total = excluded.reported_total,
             layer_bytes = excluded.layer_bytes, build_step_ids = excluded.build_step_ids,
             layer_ids = excluded.layer_ids, chain_ids = excluded.chain_ids, extra = excluded.extra",
        instance_id,
        &from,
        &digests
    );
    rows += transaction.execute("copy manifests", query).await?;
    // The key of a step is the digest and the position.
    let query = sqlx::query!(
        "insert into swr.data_issue
             (instance_id, data_issue_id, run_id, recorded_at, table_name, row_key, field, action, original)
         select distinct on (d.data_issue_id)
             $1::integer, d.data_issue_id, $2::bigint, $3::timestamptz, d.table_name, d.row_key, d.field, d.action,
             d.original
         from unnest($4::integer[], $5::text[]) as f (instance_id, digest)
         join swr.data_issue d on d.instance_id = f.instance_id and split_part(d.row_key, ' ', 1) = f.digest
         where d.table_name in ('manifest', 'build_step')
           and not exists (
               select from swr.data_issue k where k.instance_id = $1 and k.data_issue_id = d.data_issue_id
           )
         on conflict do nothing",
        instance_id,
        run.run_id,
        to_micros(now),
        &from,
        &digests
    );
    let data_issues = transaction.execute("copy data issues", query).await?;
    transaction.commit("commit copied build histories").await?;
    let writes = HistoryWrites {
        rows: rows + data_issues,
        data_issues,
    };
    Ok((writes, digests.into_iter().collect()))
}

/// Counts of written rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryWrites {
    /// Rows inserted or updated.
    pub rows: u64,
    /// The data issues among them.
    pub data_issues: u64,
}

/// Stores answers by digest. Uses a separate session.
///
/// An answer stays valid even if the run fails, so it is stored outside of publish. Storing it twice
/// changes nothing.
#[derive(Debug)]
pub struct HistoryWriter {
    session: Session<'static>,
    run: Run,
    known: Known,
}

/// Cache of content that is known to be in the database: images share most steps with their base.
#[derive(Debug, Default)]
pub(super) struct Known {
    ids: HashSet<Uuid>,
    /// Whether the database has no other manifests, steps and layers of the instance: it had none before
    /// the run, and only this run writes. `None` before the lookup.
    is_complete: Option<bool>,
}

impl Known {
    /// Limits the memory. After the cache was cleared, known rows are looked up again.
    const LIMIT: usize = 200_000;

    fn remember(&mut self, ids: impl Iterator<Item = Uuid>) {
        if self.ids.len() >= Known::LIMIT {
            self.ids.clear();
            self.is_complete = Some(false);
        }
        self.ids.extend(ids);
    }
}

/// Maximum attempts for a batch with rows that already exist: histories that were copied from another
/// instance at the same time can share steps with the batch.
const ATTEMPTS: u32 = 4;

/// A step with its id and the ids of its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepRow<'a> {
    pub(super) build_step_id: Uuid,
    pub(super) step: &'a BuildStep,
    pub(super) command_id: Option<Uuid>,
    pub(super) layer_id: Option<Uuid>,
    pub(super) media_type_id: Option<Uuid>,
    pub(super) chain_id: Option<Uuid>,
}

/// The rows of the steps of a history, oldest first.
fn step_rows(steps: &[BuildStep]) -> impl Iterator<Item = StepRow<'_>> {
    let (mut parent, mut chain_id) = (None, None);
    steps.iter().map(move |step| {
        let command_id = step.command.as_deref().map(content::command_id);
        let layer = step.layer.as_ref();
        let layer_id = layer.map(content::layer_id);
        let media_type = layer.and_then(|layer| layer.media_type.as_deref());
        let media_type_id = media_type.map(content::media_type_id);
        let build_step_id =
            content::build_step_id(parent, step, command_id, layer_id, media_type_id);
        chain_id = content::chain_id(chain_id, step, build_step_id);
        parent = Some(build_step_id);
        StepRow {
            build_step_id,
            step,
            command_id,
            layer_id,
            media_type_id,
            chain_id,
        }
    })
}

pub(super) struct ManifestRow<'a> {
    pub(super) digest: &'a str,
    pub(super) outcome: &'static str,
    is_final: bool,
    refusal: Option<&'a Refusal>,
    pub(super) history: Option<&'a BuildHistory>,
    /// The step ids and the layering, if the outcome is `stored`.
    pub(super) steps: Option<(Vec<Uuid>, Layering)>,
}

impl ManifestRow<'_> {
    /// Adds the row of a digest that was not requested before.
    fn add_to(&self, row: &mut CopyRow, run: Run, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
        let ManifestRow {
            digest,
            outcome,
            is_final,
            refusal,
            history,
            steps,
        } = self;
        let waiting_since = Some(now).filter(|_| !is_final);
        let status = refusal.and_then(|refusal| refusal.status);
        let step_ids = steps.as_ref().map(|(step_ids, _)| step_ids);
        let layering = steps.as_ref().map(|(_, layering)| layering);
        row.value(run.instance_id)?;
        row.value(*digest)?;
        row.value(*outcome)?;
        row.value(1)?;
        row.value(now)?;
        row.value(waiting_since)?;
        row.value(waiting_since)?;
        row.value(status.map(|status| status as i16))?;
        row.value(refusal.and_then(|refusal| refusal.code.as_deref()))?;
        row.value(refusal.map(|refusal| refusal.message.as_str()))?;
        row.value(history.and_then(|history| history.reported_total))?;
        row.value(layering.map(|layering| layering.layer_bytes))?;
        row.value(step_ids)?;
        row.value(layering.map(|layering| &layering.layer_ids))?;
        row.value(layering.map(|layering| &layering.chain_ids))?;
        row.value(history.and_then(|history| history.extra.as_ref()).map(Json))
    }

    /// The row of a digest after attempts that were not final, as JSON.
    fn after(&self, earlier: &EarlierAttempts, now: DateTime<Utc>) -> Value {
        let layering = self.steps.as_ref().map(|(_, layering)| layering);
        json!({
            "digest": self.digest,
            "outcome": self.outcome,
            "attempts": earlier.attempts + 1,
            "attempted_at": now,
            "next_attempt_at": Some(now + earlier.delay()).filter(|_| !self.is_final),
            "waiting_since": earlier.waiting_since.filter(|_| !self.is_final),
            "http_status": self.refusal.and_then(|refusal| refusal.status),
            "error_code": self.refusal.and_then(|refusal| refusal.code.as_deref()),
            "error_message": self.refusal.map(|refusal| refusal.message.as_str()),
            "reported_total": self.history.and_then(|history| history.reported_total),
            "layer_bytes": layering.map(|layering| layering.layer_bytes),
            "build_step_ids": self.steps.as_ref().map(|(step_ids, _)| texts(step_ids)),
            "layer_ids": layering.map(|layering| texts(&layering.layer_ids)),
            "chain_ids": layering.map(|layering| texts(&layering.chain_ids)),
            "extra": self.history.and_then(|history| history.extra.as_ref()),
        })
    }
}

fn texts(ids: &[Uuid]) -> Vec<String> {
    ids.iter().map(Uuid::to_string).collect()
}

/// Earlier attempts to fetch a history that were not final.
struct EarlierAttempts {
    attempts: i32,
    waiting_since: Option<DateTime<Utc>>,
}

impl EarlierAttempts {
    /// A history is requested again in the next run, then after an hour, after four hours, and so on up to
    /// a week.
    fn delay(&self) -> TimeDelta {
        let exponent = u32::try_from(self.attempts - 1).unwrap_or(0).min(6);
        TimeDelta::hours(4_i64.pow(exponent)).min(TimeDelta::days(7))
    }
}

/// Values computed from a single history, so that publish need not read its steps.
#[derive(Debug, Default)]
pub(super) struct Layering {
    /// The sum of the layer sizes, limited to the range of the type.
    pub(super) layer_bytes: i64,
    /// The distinct layers, in the order of their first occurrence.
    pub(super) layer_ids: Vec<Uuid>,
    /// The chain id of each step that created a layer.
    pub(super) chain_ids: Vec<Uuid>,
}

impl Layering {
    /// The layering of the steps of one history, oldest first.
    fn of(steps: &[StepRow<'_>]) -> Layering {
        let mut seen = HashSet::new();
        let mut layering = Layering::default();
        let mut total = 0_i128;
        for row in steps {
            if let Some((layer_id, layer)) = row.layer_id.zip(row.step.layer.as_ref())
                && seen.insert(layer_id)
            {
                layering.layer_ids.push(layer_id);
                total += i128::from(layer.size_bytes.unwrap_or(0));
            }
            if row.layer_id.is_some() || !row.step.empty_layer {
                layering.chain_ids.extend(row.chain_id);
            }
        }
        layering.layer_bytes = total.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        layering
    }
}

/// The distinct rows of a batch.
#[derive(Default)]
pub(super) struct Batch<'a> {
    offered: HashSet<Uuid>,
    pub(super) commands: Vec<Examined<'a>>,
    pub(super) media_types: Vec<(Uuid, &'a str)>,
    pub(super) layers: Vec<(Uuid, &'a Layer)>,
    pub(super) steps: Vec<StepRow<'a>>,
    pub(super) manifests: Vec<ManifestRow<'a>>,
    issues: Vec<&'a DataIssue>,
}

impl HistoryWriter {
    /// Stores for `run` over `connection`.
    pub fn new(session: Session<'static>, run: Run) -> HistoryWriter {
        HistoryWriter {
            session,
            run,
            known: Known::default(),
        }
    }

    /// Stores a batch in one transaction.
    pub async fn store(
        &mut self,
        answers: &[HistoryAnswer],
        now: DateTime<Utc>,
    ) -> Result<HistoryWrites, StoreError> {
        let now = to_micros(now);
        let mut batch = Batch::default();
        for answer in answers {
            batch.add(answer, &self.known);
        }
        let mut attempt = 1;
        let writes = loop {
            match self.write(&batch, now).await {
                Err(error) if error.is_duplicate() && attempt < ATTEMPTS => {
                    attempt += 1;
                    self.known.is_complete = Some(false);
                }
                result => break result?,
            }
        };
        self.known.remember(batch.offered.into_iter());
        // Free the memory of a large history before the end of the run.
        self.session.connection().shrink_buffers();
        Ok(writes)
    }

    async fn write(
        &mut self,
        batch: &Batch<'_>,
        now: DateTime<Utc>,
    ) -> Result<HistoryWrites, StoreError> {
        let run = self.run;
        let mut transaction = self.session.begin("begin to store build histories").await?;
        let session = &mut transaction;
        let is_complete = match self.known.is_complete {
            Some(is_complete) => is_complete,
            None => is_without_content(session, run).await?,
        };
        self.known.is_complete = Some(is_complete);
        let (stored, earlier) = match is_complete {
            true => (HashSet::new(), HashMap::new()),
            false => (
                stored_content(session, run, batch).await?,
                earlier_attempts(session, run, &batch.manifests).await?,
            ),
        };
        let mut rows = 0;
        rows += insert_commands(session, run.instance_id, &batch.commands).await?;
        rows += insert_layers(session, run, &batch.layers, &stored).await?;
        rows += insert_media_types(session, run, &batch.media_types).await?;
        rows += insert_steps(session, run, &batch.steps, &stored).await?;
        rows += write_manifests(session, run, &batch.manifests, &earlier, now).await?;
        let data_issues = insert_issues(session, run, &batch.issues, now).await?;
        transaction.commit("commit build histories").await?;
        Ok(HistoryWrites {
            rows: rows + data_issues,
            data_issues,
        })
    }

    /// Closes the connection.
    pub async fn close(self) {
        // Everything is committed, so errors are ignored; the server detects a lost connection.
        self.session.close().await;
    }
}

impl<'a> Batch<'a> {
    pub(super) fn add(&mut self, answer: &'a HistoryAnswer, known: &Known) {
        let HistoryAnswer { digest, outcome } = answer;
        let (word, is_final) = match outcome {
            HistoryOutcome::Stored(_) => ("stored", true),
            HistoryOutcome::Empty(_) => ("empty", true),
            HistoryOutcome::Unsupported(_) => ("unsupported", true),
            HistoryOutcome::Forbidden(_) => ("forbidden", false),
            HistoryOutcome::Gone(_) => ("gone", false),
            HistoryOutcome::Failed(_) => ("failed", false),
        };
        let (history, refusal) = match outcome {
            HistoryOutcome::Stored(history) | HistoryOutcome::Empty(history) => {
                (Some(history), None)
            }
            HistoryOutcome::Unsupported(refusal)
            | HistoryOutcome::Forbidden(refusal)
            | HistoryOutcome::Gone(refusal)
            | HistoryOutcome::Failed(refusal) => (None, Some(refusal)),
        };
        let steps = history.map(|history| {
            self.issues.extend(&history.issues);
            self.add_steps(&history.steps, known)
        });
        self.manifests.push(ManifestRow {
            digest,
            outcome: word,
            is_final,
            refusal,
            history,
            steps: steps.filter(|_| word == "stored"),
        });
    }

    /// Returns the ids of the steps and their layering.
    fn add_steps(&mut self, steps: &'a [BuildStep], known: &Known) -> (Vec<Uuid>, Layering) {
        let rows: Vec<StepRow<'_>> = step_rows(steps).collect();
        let layering = Layering::of(&rows);
        let step_ids = rows.iter().map(|row| row.build_step_id).collect();
        for row in rows {
            let layer = row.step.layer.as_ref();
            if !self.is_news(known, row.build_step_id) {
                continue;
            }
            if let Some((layer_id, layer)) = row.layer_id.zip(layer)
                && self.is_news(known, layer_id)
            {
                self.layers.push((layer_id, layer));
            }
            if let Some((command_id, command)) = row.command_id.zip(row.step.command.as_deref())
                && self.is_news(known, command_id)
            {
                self.commands.push(examine(command_id, command));
            }
            let media_type = layer.and_then(|layer| layer.media_type.as_deref());
            if let Some((media_type_id, media_type)) = row.media_type_id.zip(media_type)
                && self.is_news(known, media_type_id)
            {
                self.media_types.push((media_type_id, media_type));
            }
            self.steps.push(row);
        }
        (step_ids, layering)
    }

    /// Whether this content is neither known to be stored nor already in this batch.
    fn is_news(&mut self, known: &Known, id: Uuid) -> bool {
        !known.ids.contains(&id) && self.offered.insert(id)
    }
}

/// Whether the instance has no manifests, steps and layers.
async fn is_without_content(session: &mut Session<'_>, run: Run) -> Result<bool, StoreError> {
    let query = sqlx::query!(
        r#"select not exists (select from swr.manifest where instance_id = $1)
              and not exists (select from swr.build_step where instance_id = $1)
              and not exists (select from swr.layer where instance_id = $1) as "is_empty!""#,
        run.instance_id
    )
    .map(|row| row.is_empty);
    session
        .fetch_one("check whether build steps are stored", query)
        .await
}

/// The steps and layers of a batch that the database has.
async fn stored_content(
    session: &mut Session<'_>,
    run: Run,
    batch: &Batch<'_>,
) -> Result<HashSet<Uuid>, StoreError> {
    if batch.steps.is_empty() {
        return Ok(HashSet::new());
    }
    let query = sqlx::query!(
        // Subqueries, so that the plan uses the index for any number of rows that the planner expects.
        r#"select o.build_step_id as "id!"
           from unnest($2::uuid[]) as o (build_step_id)
           where (select true from swr.build_step s where s.instance_id = $1 and s.build_step_id = o.build_step_id)
           union all
           select o.layer_id
           from unnest($3::uuid[]) as o (layer_id)
           where (select true from swr.layer l where l.instance_id = $1 and l.layer_id = o.layer_id)"#,
        run.instance_id,
        batch.steps.iter().map(|row| row.build_step_id).bind_iter() as _,
        batch.layers.iter().map(|(id, _)| *id).bind_iter() as _,
    )
    .map(|row| row.id);
    let stored = session.fetch_all("find stored build steps", query).await?;
    Ok(stored.into_iter().collect())
}

async fn insert_layers(
    session: &mut Session<'_>,
    run: Run,
    layers: &[(Uuid, &Layer)],
    stored: &HashSet<Uuid>,
) -> Result<u64, StoreError> {
    let new: Vec<&(Uuid, &Layer)> = layers
        .iter()
        .filter(|(id, _)| !stored.contains(id))
        .collect();
    if new.is_empty() {
        return Ok(0);
    }
    let query = sqlx::query!(
        "insert into swr.layer (size_bytes, instance_id, layer_id, digest)
         select l.size_bytes, $1, l.layer_id, l.digest
         from unnest($2::bigint[], $3::uuid[], $4::text[]) as l (size_bytes, layer_id, digest)",
        run.instance_id,
        new.iter().map(|(_, layer)| layer.size_bytes).bind_iter() as _,
        new.iter().map(|(id, _)| *id).bind_iter() as _,
        new.iter()
            .map(|(_, layer)| layer.digest.as_str())
            .bind_iter() as _,
    );
    session.execute("store layers", query).await
}

async fn insert_media_types(
    session: &mut Session<'_>,
    run: Run,
    media_types: &[(Uuid, &str)],
) -> Result<u64, StoreError> {
    if media_types.is_empty() {
        return Ok(0);
    }
    let query = sqlx::query!(
        "insert into swr.media_type (instance_id, media_type_id, media_type)
         select $1, t.media_type_id, t.media_type
         from unnest($2::uuid[], $3::text[]) as t (media_type_id, media_type)
         on conflict do nothing",
        run.instance_id,
        media_types.iter().map(|(id, _)| *id).bind_iter() as _,
        media_types.iter().map(|(_, text)| *text).bind_iter() as _,
    );
    session.execute("store media types", query).await
}

async fn insert_steps(
    session: &mut Session<'_>,
    run: Run,
    steps: &[StepRow<'_>],
    stored: &HashSet<Uuid>,
) -> Result<u64, StoreError> {
    let new = steps
        .iter()
        .filter(|row| !stored.contains(&row.build_step_id));
    let new: Vec<&StepRow<'_>> = new.collect();
    if new.is_empty() {
        return Ok(0);
    }
    let created_at = || new.iter().map(|row| row.step.created_at);
    let query = sqlx::query!(
        "insert into swr.build_step
             (created_at, instance_id, created_at_ns, build_step_id, command_id, layer_id, media_type_id, chain_id,
              empty_layer, extra)
         select s.created_at, $1, s.created_at_ns, s.build_step_id, s.command_id, s.layer_id, s.media_type_id, s.chain_id,
                s.empty_layer, s.extra
         from unnest($2::timestamptz[], $3::smallint[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[], $8::uuid[],
                     $9::boolean[], $10::jsonb[])
              as s (created_at, created_at_ns, build_step_id, command_id, layer_id, media_type_id, chain_id,
                    empty_layer, extra)",
        run.instance_id,
        created_at().map(|time| time.map(to_micros)).bind_iter() as _,
        created_at().map(|time| time.map(nanos_beyond_micros)).bind_iter() as _,
        new.iter().map(|row| row.build_step_id).bind_iter() as _,
        new.iter().map(|row| row.command_id).bind_iter() as _,
        new.iter().map(|row| row.layer_id).bind_iter() as _,
        new.iter().map(|row| row.media_type_id).bind_iter() as _,
        new.iter().map(|row| row.chain_id).bind_iter() as _,
        new.iter().map(|row| row.step.empty_layer).bind_iter() as _,
        new.iter().map(|row| row.step.extra.as_ref().map(Json)).bind_iter() as _,
    );
    session.execute("store build steps", query).await
}

/// The stored manifests of a batch, with their attempts; `None` for manifests that are final.
async fn earlier_attempts(
    session: &mut Session<'_>,
    run: Run,
    manifests: &[ManifestRow<'_>],
) -> Result<HashMap<String, Option<EarlierAttempts>>, StoreError> {
    let query = sqlx::query!(
        r#"select digest, attempts, waiting_since, next_attempt_at is null as "is_final!"
           from swr.manifest
           where instance_id = $1 and digest = any($2)"#,
        run.instance_id,
        manifests.iter().map(|m| m.digest).bind_iter() as _,
    )
    .map(|row| {
        let earlier = EarlierAttempts {
            attempts: row.attempts,
            waiting_since: row.waiting_since,
        };
        (row.digest, Some(earlier).filter(|_| !row.is_final))
    });
    let doing = "read earlier attempts to fetch build histories";
    Ok(session.fetch_all(doing, query).await?.into_iter().collect())
}

/// Writes the outcome of each fetch. A manifest that is already final is not changed.
async fn write_manifests(
    session: &mut Session<'_>,
    run: Run,
    manifests: &[ManifestRow<'_>],
    earlier: &HashMap<String, Option<EarlierAttempts>>,
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let (mut new, mut retried) = (CopyRows::new(16), Vec::new());
    for manifest in manifests {
        match earlier.get(manifest.digest) {
            None => new.row(|row| manifest.add_to(row, run, now)),
            Some(Some(earlier)) => retried.push(manifest.after(earlier, now)),
            Some(None) => {}
        }
    }
    let copied = session
        .copy(
            "store manifests",
            new,
            "copy swr.manifest
                 (instance_id, digest, outcome, attempts, attempted_at, next_attempt_at, waiting_since, http_status,
                  error_code, error_message, reported_total, layer_bytes, build_step_ids, layer_ids, chain_ids, extra)
             from stdin (format binary)",
        )
        .await?;
    if retried.is_empty() {
        return Ok(copied);
    }
    // Updated, not deleted and inserted: users may have tables with references to a manifest.
    let query = sqlx::query!(
        "update swr.manifest m
         set outcome = p.outcome,
             attempts = p.attempts,
             attempted_at = p.attempted_at,
             next_attempt_at = p.next_attempt_at,
             waiting_since = p.waiting_since,
             http_status = p.http_status,
             error_code = p.error_code,
             error_message = p.error_message,
             reported_total = p.reported_total,
             layer_bytes = p.layer_bytes,
             build_step_ids = p.build_step_ids,
             layer_ids = p.layer_ids,
             chain_ids = p.chain_ids,
             extra = p.extra
         from unnest($2::jsonb[]) as r (manifest)
         cross join lateral jsonb_populate_record(null::swr.manifest, r.manifest) p
         -- The second condition leads to the index, also while the table has no statistics.
         where m.instance_id = $1 and m.digest = p.digest and m.digest = any($3)",
        run.instance_id,
        &retried,
        manifests.iter().map(|m| m.digest).bind_iter() as _
    );
    Ok(copied + session.execute("update manifests", query).await?)
}

pub(super) async fn insert_issues(
    session: &mut Session<'_>,
    run: Run,
    issues: &[&DataIssue],
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    if issues.is_empty() {
        return Ok(0);
    }
    let query = sqlx::query!(
        "insert into swr.data_issue
             (instance_id, data_issue_id, run_id, recorded_at, table_name, row_key, field, action, original)
         select $1, i.data_issue_id, $2, $3, i.table_name, i.row_key, i.field, i.action, i.original
         from unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::jsonb[])
              as i (data_issue_id, table_name, row_key, field, action, original)
         on conflict do nothing",
        run.instance_id,
        run.run_id,
        now,
        issues.iter().map(|i| content::data_issue_id(i)).bind_iter() as _,
        issues.iter().map(|i| i.table).bind_iter() as _,
        issues.iter().map(|i| i.row_key.as_str()).bind_iter() as _,
        issues.iter().map(|i| i.field.as_str()).bind_iter() as _,
        issues.iter().map(|i| i.action.as_str()).bind_iter() as _,
        issues.iter().map(|i| Json(&i.original)).bind_iter() as _,
    );
    session.execute("store data issues", query).await
}

/// PostgreSQL truncates times to microseconds. This returns the nanoseconds that it would lose.
pub(super) fn nanos_beyond_micros(time: DateTime<Utc>) -> i16 {
    (time.timestamp_subsec_nanos() % 1_000) as i16
}
