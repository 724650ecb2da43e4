//! What the user can do about an error of a run.

use super::credentials;
use super::exit::Failure;
use super::names::nearest;
use crate::registry::{RegistryError, RequestFailure};
use crate::stop::StopReason;
use crate::store::{LockHolder, StoreError};
use crate::sync::SyncError;

/// An error as the user reads it, with the exit code and the next step.
pub(super) fn failure(error: SyncError) -> Failure {
    let hints: Vec<String> = match clock_hint(&error).or_else(|| region_hint(&error)) {
        Some(hint) => vec![hint],
        None => [crate::database::hint(&error), hint(&error)]
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect(),
    };
    let failure = Failure::new(error.exit(), error);
    match hints[..] {
        [] => failure,
        _ => failure.hint(hints.join("; ")),
    }
}

/// A rejected signature may be due to the clock instead of the key.
fn clock_hint(error: &SyncError) -> Option<String> {
    let SyncError::Registry(error) = error else {
        return None;
    };
    let skew = error.status()?.clock_skew?;
    let (minutes, way) = match skew.num_minutes() {
        ahead @ 0.. => (ahead, "forward"),
        behind => (-behind, "back"),
    };
    Some(format!(
        "set this machine's clock {minutes} minutes {way} and enable NTP (`timedatectl set-ntp true`): \
         a signature is valid for 15 minutes before and after the gateway's time"
    ))
}

/// The name of the endpoint is not known if the region is misspelt.
fn region_hint(error: &SyncError) -> Option<String> {
    let SyncError::Registry(error) = error else {
        return None;
    };
    let RequestFailure::NoAnswer { .. } = &error.failure else {
        return None;
    };
    let (_, after) = error.request.split_once("://swr-api.")?;
    let (region, _) = after.split_once('.')?;
    unknown_region(region)
}

/// What to say about a region that is not in the list of the SDKs. New regions are not in it either, so
/// it is no error.
pub(super) fn unknown_region(region: &str) -> Option<String> {
    if REGIONS.contains(&region) {
        return None;
    }
    let nearest = nearest(region, REGIONS);
    Some(match nearest {
        Some(nearest) => format!("the region `{region}` is not known; did you mean `{nearest}`?"),
        None => format!("the region `{region}` is not known; check SWR_REGION"),
    })
}

/// The regions of the official SDKs (huaweicloud-sdk-go-v3, services/swr/v2/region).
const REGIONS: [&str; 35] = [
    "ae-ad-1",
    "af-north-1",
    "af-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "cn-east-2",
    "cn-east-3",
    "cn-east-4",
    "cn-east-5",
    "cn-north-1",
    "cn-north-11",
    "cn-north-12",
    "cn-north-2",
    "cn-north-4",
    "cn-north-9",
    "cn-south-1",
    "cn-south-2",
    "cn-south-4",
    "cn-southwest-2",
    "cn-southwest-3",
    "eu-west-0",
    "eu-west-101",
    "la-north-2",
    "la-south-2",
    "me-east-1",
    "my-kualalumpur-1",
    "na-mexico-1",
    "ru-moscow-1",
    "ru-northwest-2",
    "sa-brazil-1",
    "sa-peru-1",
    "tr-west-1",
];

/// If the process cannot start a thread or open a file.
pub(super) const LOW_LIMITS: &str =
    "the limit on open files or threads is too low: see `ulimit -a`";

fn hint(error: &SyncError) -> Option<&'static str> {
    match error {
        SyncError::Registry(error) => registry_hint(error),
        SyncError::Store(StoreError::Locked { holder, .. }) => {
            Some(match holder.as_deref().is_none_or(LockHolder::is_run) {
                true => {
                    "wait until that run ends: its lock ends with its database connection. `--if-locked skip` \
                     leaves the instance to that run, `--if-locked wait` waits"
                }
                false => {
                    "end that session (`select pg_terminate_backend(…)`) or wait until it ends: every role that \
                     can connect to the database can hold this lock"
                }
            })
        }
        SyncError::Store(StoreError::Statement { .. }) => Some(
            "nothing was published; the data received so far is kept, and the next run continues from there",
        ),
        SyncError::Store(StoreError::MassRemoval(_)) => Some(
            "check the registry: if they are gone there too, `swr-sync sync --accept-removals` \
             publishes the removal; nothing was changed, and the build histories received so far are kept",
        ),
        SyncError::Store(StoreError::Silent { .. } | StoreError::CommitUnknown(_)) => Some(
            "check whether the server still runs and what blocks it; `swr-sync status` shows which run was \
             published last, and the next run continues from there",
        ),
        SyncError::Store(StoreError::LockLost) => Some(
            "nothing was published. A pooler switches sessions within a run: use session pooling \
             (pgbouncer: pool_mode = session), or connect to the server directly",
        ),
        SyncError::Database(_) => {
            Some("check that the database still runs; the next run continues from here")
        }
        SyncError::EndlessListing { .. } => Some(
            "nothing was published; if the registry really has so many artifacts, run again: the \
             catalog then counts them. Otherwise report this message to the maintainers",
        ),
        SyncError::Stalled { .. } => Some(
            "this is a bug in swr-sync: report it with this message and its log. Nothing was \
             published; the answers that arrived are kept, and the next run continues from there",
        ),
        SyncError::UnsupportedVersion { .. } => Some("upgrade the instance to 25.6.0 or later"),
        SyncError::WrongInstance { .. } => {
            Some("check SWR_PROJECT_ID and SWR_INSTANCE_ID, or use another database")
        }
        SyncError::NeverPublished { .. } => {
            Some("run `swr-sync sync` first, or check SWR_INSTANCE_ID and DATABASE_URL")
        }
        SyncError::SameName { .. } => Some(
            "check SWR_INSTANCE_ID; if the instance was deleted and created again, \
             `swr-sync sync --accept-new-instance` mirrors both, each under its id",
        ),
        SyncError::Stopped(StopReason::TimeLimit(_)) => {
            Some("the next run continues from there; --max-duration sets the limit")
        }
        SyncError::NoThread(_) => Some(LOW_LIMITS),
        SyncError::Stopped(_) => None,
        SyncError::StoppedPublishing(_) => Some(
            "`swr-sync status` shows whether it was published; the next run continues in either case",
        ),
    }
}

fn registry_hint(error: &RegistryError) -> Option<&'static str> {
    let status = match &error.failure {
        RequestFailure::Status(status) | RequestFailure::Login(status) => status,
        RequestFailure::NoKey(no_key) => return Some(credentials::key_hint(&no_key.failure)),
        RequestFailure::NoAnswer { .. } => {
            return Some(
                "check the endpoint or region, the network, and HTTPS_PROXY; nothing was published",
            );
        }
        RequestFailure::Untrusted { .. } => {
            return Some(
                "if this is a private endpoint or a TLS-inspecting proxy, set SWR_CA_FILE to the certificate \
                 of its CA; otherwise the connection may be intercepted. Nothing was sent, nothing was published",
            );
        }
        RequestFailure::BadHeader { .. } => {
            return Some("check the credentials for line breaks and spaces");
        }
        RequestFailure::Malformed(_)
        | RequestFailure::TooLarge(_)
        | RequestFailure::Unwanted
        | RequestFailure::RepeatedMarker { .. }
        | RequestFailure::EndlessListing { .. }
        | RequestFailure::EndlessCatalog { .. }
        | RequestFailure::IncompleteCatalog { .. } => {
            return Some(
                "nothing was published; if it happens again, report it to the maintainers",
            );
        }
    };
    match status.status {
        401 => Some(
            "check the credentials, and the clock: a signature is valid for 15 minutes. \
             Do not retry repeatedly: failed attempts lock the key or the account for a while",
        ),
        403 => Some(
            "the user needs the actions swr:instance:listAllArtifacts, swr:repository:listNamespaces, \
             swr:repository:listRepositories and swr:repository:getTagAddition; SWR ReadOnlyAccess contains them",
        ),
        404 if status.is_from_gateway() => Some(
            "the gateway has no such API: check region and endpoint; instances older than 25.6.0 do not \
             have it",
        ),
        404 => Some(
            "check SWR_PROJECT_ID and SWR_INSTANCE_ID: both must belong to the region of the endpoint",
        ),
        400..=499 => Some("the request was rejected: check the settings"),
        _ => Some("the service failed: nothing was published, the next run tries again"),
    }
}
