//! How a run begins: the instance's row, its lock, and the run's row.

use std::time::Duration;

use sqlx::PgConnection;

use super::progress::Progress;
use super::{SyncError, SyncSettings};
use crate::artifact::InstanceDescription;
use crate::database::Database;
use crate::registry::Registry;
use crate::store::{self, Instance, InstanceLock, Run};

/// The first version with the artifact list of the whole instance (swr_03_0306).
pub(crate) const FIRST_VERSION: [u64; 3] = [25, 6, 0];

/// Connects, settles the instance, takes its lock and starts the run.
pub(super) async fn begin_run(
    registry: &Registry,
    database: &Database,
    settings: &SyncSettings,
    progress: &Progress,
) -> Result<(InstanceLock, Run), SyncError> {
    let limit = database.timeout();
    let mut connection = database.connect_to_write().await?;
    let (instance, description) =
        settle_instance(registry, &mut connection, settings, limit).await?;
    let beginning = async {
        let now = settings.clock.now();
        let mut lock = InstanceLock::acquire(connection, instance.instance_id).await?;
        let run = Run::start(&mut lock, &settings.host, now).await?;
        store::prepare_findings(lock.connection(), run).await?;
        if let Some(description) = &description {
            let data_issues =
                store::describe_instance(lock.connection(), run, description, now).await?;
            Progress::add(&progress.data_issues, data_issues);
        }
        Ok((lock, run))
    };
    Ok(store::within(limit, "begin a run", beginning).await?)
}

/// Gives the instance's row, and what the registry says of it where that is not stored yet. The row
/// is made when the registry has said that it has such an instance, or that this key may not ask.
async fn settle_instance(
    registry: &Registry,
    connection: &mut PgConnection,
    settings: &SyncSettings,
    limit: Duration,
) -> Result<(Instance, Option<InstanceDescription>), SyncError> {
    let SyncSettings {
        swr_instance_id,
        project_id,
        endpoint,
        region,
        safeguards,
        clock,
        ..
    } = settings;
    let finding = Instance::find(connection, swr_instance_id);
    let known = store::within(limit, "read the instance", finding).await?;
    if let Some(error) = known
        .as_ref()
        .and_then(|known| wrong_project(known, settings))
    {
        return Err(error);
    }
    let is_described = known.is_some_and(|instance| !instance.needs_description);
    let description = if is_described {
        None
    } else {
        describe_instance(registry).await?
    };
    if let Some(InstanceDescription {
        name: Some(name), ..
    }) = &description
        && !safeguards.accept_new_instance
        && let Some(namesake) = store::within(
            limit,
            "look for an instance of the same name",
            store::find_namesake(connection, swr_instance_id, project_id, name),
        )
        .await?
    {
        return Err(SyncError::SameName {
            swr_instance_id: swr_instance_id.clone(),
            name: name.clone(),
            namesake: Box::new(namesake),
        });
    }
    let creating = Instance::find_or_create(
        connection,
        swr_instance_id,
        project_id,
        endpoint,
        region.as_deref(),
        clock.now(),
    );
    let instance = store::within(limit, "write the instance", creating).await?;
    // Another run may have made it in between.
    if let Some(error) = wrong_project(&instance, settings) {
        return Err(error);
    }
    Ok((instance, description))
}

fn wrong_project(instance: &Instance, settings: &SyncSettings) -> Option<SyncError> {
    let Instance { project_id, .. } = instance;
    (*project_id != settings.project_id).then(|| SyncError::WrongInstance {
        swr_instance_id: settings.swr_instance_id.clone(),
        stored: project_id.clone(),
        given: settings.project_id.clone(),
    })
}

/// Asks for name and version. A key that may not read them is no reason to stop, nor is a gateway
/// that does not know the call; that there is no such instance is.
async fn describe_instance(registry: &Registry) -> Result<Option<InstanceDescription>, SyncError> {
    let description = match registry.instance().await {
        Ok(description) => description,
        Err(error) => {
            let may_go_on = error.status().is_some_and(|status| match status.status {
                400 | 403 => true,
                404 => status.is_from_gateway(),
                _ => false,
            });
            return if may_go_on {
                Ok(None)
            } else {
                Err(error.into())
            };
        }
    };
    match description.version {
        Some(version) if is_older(&version, FIRST_VERSION) => {
            Err(SyncError::UnsupportedVersion { version })
        }
        _ => Ok(Some(description)),
    }
}

/// Compares component by component. Its exact format is not documented, so a leading letter and
/// whatever follows the third number are ignored; an unreadable version is not older.
pub(crate) fn is_older(version: &str, than: [u64; 3]) -> bool {
    let numbers: Vec<u64> = version
        .trim_start_matches(|character: char| !character.is_ascii_digit())
        .split(|character: char| !character.is_ascii_digit())
        .map_while(|part| part.parse().ok())
        .take(3)
        .collect();
    !numbers.is_empty() && numbers.as_slice() < &than[..numbers.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for old in ["25.5.9", "v25.5.0", "24.12.0-b7", "9.9.9", "25.5"] {
            assert!(is_older(old, FIRST_VERSION), "{old}");
        }
        for new in [
            "25.6.0",
            "v25.6.0",
            "25.10.1",
            "25.6.0.3",
            "26.0.0-rc1",
            "25.6",
            "unknown",
            "",
        ] {
            assert!(!is_older(new, FIRST_VERSION), "{new}");
        }
    }
}
