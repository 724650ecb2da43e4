//! Stores the findings of the rules in build commands.
//!
//! A command is examined before it is stored. Commands that were stored under other rules are examined
//! again after publish: `swr.instance.rules_version` shows whether there are any.

use std::collections::BTreeMap;

use command_findings::{RULES, RULES_VERSION, find, masked};
use sqlx::postgres::PgBindIterExt;
use uuid::Uuid;

use super::{InstanceLock, Run, Session, StoreError};

/// Maximum number of commands that are examined again in one transaction.
const BATCH_COMMANDS: i64 = 1_000;
/// A transaction takes no more commands after this number of bytes.
const BATCH_BYTES: i64 = 4 << 20;

/// A command and its findings.
#[derive(Debug)]
pub(super) struct Examined<'a> {
    pub(super) command_id: Uuid,
    pub(super) command: &'a str,
    /// The command without its secrets, if it has any.
    masked: Option<String>,
    /// Number of findings by rule.
    occurrences: BTreeMap<&'static str, i32>,
}

pub(super) fn examine(command_id: Uuid, command: &str) -> Examined<'_> {
    let findings = find(command);
    let mut occurrences = BTreeMap::new();
    for finding in &findings {
        *occurrences.entry(finding.rule.id).or_default() += 1;
    }
    Examined {
        command_id,
        command,
        masked: masked(command, &findings),
        occurrences,
    }
}

/// A row of `swr.command_finding`.
fn rows<'a>(
    commands: &'a [Examined<'_>],
) -> impl Iterator<Item = (Uuid, &'static str, i32)> + Clone + 'a {
    commands.iter().flat_map(|examined| {
        let Examined {
            command_id,
            occurrences,
            ..
        } = examined;
        occurrences
            .iter()
            .map(|(rule_id, count)| (*command_id, *rule_id, *count))
    })
}

/// Stores commands that are not in the database yet, with their findings.
pub(super) async fn insert_commands(
    session: &mut Session<'_>,
    instance_id: i32,
    commands: &[Examined<'_>],
) -> Result<u64, StoreError> {
    if commands.is_empty() {
        return Ok(0);
    }
    let query = sqlx::query!(
        "insert into swr.command (instance_id, command_id, command, masked_command)
         select $1, c.command_id, c.command, c.masked_command
         from unnest($2::uuid[], $3::text[], $4::text[]) as c (command_id, command, masked_command)
         on conflict do nothing",
        instance_id,
        commands.iter().map(|c| c.command_id).bind_iter() as _,
        commands.iter().map(|c| c.command).bind_iter() as _,
        commands.iter().map(|c| c.masked.as_deref()).bind_iter() as _,
    );
    let inserted = session.execute("store commands", query).await?;
    Ok(inserted + upsert_findings(session, instance_id, commands).await?)
}

async fn upsert_findings(
    session: &mut Session<'_>,
    instance_id: i32,
    commands: &[Examined<'_>],
) -> Result<u64, StoreError> {
    if rows(commands).next().is_none() {
        return Ok(0);
    }
    let query = sqlx::query!(
        "insert into swr.command_finding (instance_id, occurrences, command_id, rule_id)
         select $1, f.occurrences, f.command_id, f.rule_id
         from unnest($2::uuid[], $3::text[], $4::integer[]) as f (command_id, rule_id, occurrences)
         where not exists (
             select from swr.command_finding k
             where k.instance_id = $1 and k.command_id = f.command_id and k.rule_id = f.rule_id
               and k.occurrences = f.occurrences
         )
         on conflict (instance_id, command_id, rule_id) do update
         set occurrences = excluded.occurrences",
        instance_id,
        rows(commands)
            .map(|(command_id, _, _)| command_id)
            .bind_iter() as _,
        rows(commands).map(|(_, rule_id, _)| rule_id).bind_iter() as _,
        rows(commands).map(|(_, _, count)| count).bind_iter() as _,
    );
    session
        .execute("store what was found in commands", query)
        .await
}

/// Prepares a run to store commands: stores the rules, and records whether commands were examined under
/// other rules.
pub async fn prepare_findings(session: &mut Session<'_>, run: Run) -> Result<(), StoreError> {
    upsert_rules(session).await?;
    let query = sqlx::query!(
        r#"select i.rules_version,
                  exists (select from swr.command c where c.instance_id = i.instance_id) as "has_commands!"
           from swr.instance i
           where i.instance_id = $1"#,
        run.instance_id
    );
    let state = session
        .fetch_one("read the version of the rules of the commands", query)
        .await?;
    let rules_version = match state.rules_version {
        Some(RULES_VERSION) => Some(RULES_VERSION),
        _ if !state.has_commands => Some(RULES_VERSION),
        _ => None,
    };
    if rules_version != state.rules_version {
        set_rules_version(session, run, rules_version).await?;
    }
    Ok(())
}

/// Inserts and updates the rules that are new or changed. Rules of a newer program are not changed.
async fn upsert_rules(session: &mut Session<'_>) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "insert into swr.finding_rule (rule_id, rules_version, severity, title, why, patterns)
         select r.rule_id, $1, r.severity, r.title, r.why, r.patterns
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
              as r (rule_id, severity, title, why, patterns)
         where not exists (
             select from swr.finding_rule k
             where k.rule_id = r.rule_id
               and (k.rules_version > $1
                    or (k.rules_version, k.severity, k.title, k.why, k.patterns)
                       = ($1, r.severity, r.title, r.why, r.patterns))
         )
         -- Runs over several instances may do this at once.
         order by r.rule_id
         on conflict (rule_id) do update
         set rules_version = excluded.rules_version,
             severity = excluded.severity,
             title = excluded.title,
             why = excluded.why,
             patterns = excluded.patterns",
        RULES_VERSION,
        RULES.iter().map(|rule| rule.id).bind_iter() as _,
        RULES.iter().map(|rule| rule.severity.as_str()).bind_iter() as _,
        RULES.iter().map(|rule| rule.title).bind_iter() as _,
        RULES.iter().map(|rule| rule.why).bind_iter() as _,
        RULES
            .iter()
            .map(|rule| rule.patterns().join("\n"))
            .bind_iter() as _,
    );
    session
        .execute("write the rules for build commands", query)
        .await?;
    Ok(())
}

async fn set_rules_version(
    session: &mut Session<'_>,
    run: Run,
    rules_version: Option<i32>,
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "update swr.instance set rules_version = $2 where instance_id = $1",
        run.instance_id,
        rules_version
    );
    session
        .execute("store the version of the rules of the commands", query)
        .await?;
    Ok(())
}

/// Examines all commands of the instance again if that is necessary, batch by batch. After an
/// interruption, the next run starts from the beginning and writes the remaining differences.
pub async fn update_findings(lock: &mut InstanceLock, run: Run) -> Result<(), StoreError> {
    if is_examined(lock, run).await? {
        return Ok(());
    }
    let mut after = Uuid::nil();
    while let Some(last) = examine_batch(lock, run, after).await? {
        after = last;
    }
    set_rules_version(lock, run, Some(RULES_VERSION)).await
}

async fn is_examined(session: &mut Session<'_>, run: Run) -> Result<bool, StoreError> {
    let query = sqlx::query!(
        r#"select rules_version is not null as "is_examined!" from swr.instance where instance_id = $1"#,
        run.instance_id
    ).map(|row| row.is_examined);
    session
        .fetch_one("check whether the commands are examined", query)
        .await
}

/// Examines the next commands after an id, and writes the differences. Returns the last id.
async fn examine_batch(
    session: &mut Session<'_>,
    run: Run,
    after: Uuid,
) -> Result<Option<Uuid>, StoreError> {
    let instance_id = run.instance_id;
    let query = sqlx::query!(
        "select command_id, command
         from (
             select
                 command_id,
                 command,
                 sum(octet_length(command)) over (order by command_id) - octet_length(command) as bytes_before
             from (
                 select command_id, command
                 from swr.command
                 where instance_id = $1 and command_id > $2
                 order by command_id
                 limit $3
             ) c
         ) c
         where bytes_before <= $4
         order by command_id",
        instance_id,
        after,
        BATCH_COMMANDS,
        BATCH_BYTES
    );
    let stored = session.fetch_all("read commands", query).await?;
    let Some(last) = stored.last() else {
        return Ok(None);
    };
    let commands: Vec<Examined<'_>> = stored
        .iter()
        .map(|row| examine(row.command_id, &row.command))
        .collect();
    let mut transaction = session
        .begin("begin to store what was found in commands")
        .await?;
    update_masked(&mut transaction, instance_id, &commands).await?;
    delete_outdated(&mut transaction, instance_id, &commands).await?;
    upsert_findings(&mut transaction, instance_id, &commands).await?;
    transaction
        .commit("commit what was found in commands")
        .await?;
    Ok(Some(last.command_id))
}

async fn update_masked(
    session: &mut Session<'_>,
    instance_id: i32,
    commands: &[Examined<'_>],
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "update swr.command k
         set masked_command = c.masked_command
         from unnest($2::uuid[], $3::text[]) as c (command_id, masked_command)
         where k.instance_id = $1 and k.command_id = c.command_id
           and k.masked_command is distinct from c.masked_command",
        instance_id,
        commands.iter().map(|c| c.command_id).bind_iter() as _,
        commands.iter().map(|c| c.masked.as_deref()).bind_iter() as _,
    );
    session.execute("mask commands", query).await?;
    Ok(())
}

async fn delete_outdated(
    session: &mut Session<'_>,
    instance_id: i32,
    commands: &[Examined<'_>],
) -> Result<(), StoreError> {
    let query = sqlx::query!(
        "delete from swr.command_finding k
         where k.instance_id = $1 and k.command_id = any ($2)
           and not exists (
               select from unnest($3::uuid[], $4::text[]) as f (command_id, rule_id)
               where f.command_id = k.command_id and f.rule_id = k.rule_id
           )",
        instance_id,
        commands.iter().map(|c| c.command_id).bind_iter() as _,
        rows(commands)
            .map(|(command_id, _, _)| command_id)
            .bind_iter() as _,
        rows(commands).map(|(_, rule_id, _)| rule_id).bind_iter() as _,
    );
    session
        .execute("delete what is no longer found in commands", query)
        .await?;
    Ok(())
}
