//! What the user can do about an error of a run.

use super::credentials;
use super::exit::Failure;
use crate::registry::{RegistryError, RequestFailure};
use crate::stop::StopReason;
use crate::store::StoreError;
use crate::sync::SyncError;

/// An error as the user reads it, with the exit code and the next step.
pub(super) fn failure(error: SyncError) -> Failure {
    let hints: Vec<String> = match clock_hint(&error) {
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

/// The reason for a refused signature that has nothing to do with the key.
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
        "put this machine's clock {minutes} minutes {way}, and let NTP keep it (`timedatectl set-ntp \
         true`): signatures are valid for 15 minutes around the gateway's time"
    ))
}

fn hint(error: &SyncError) -> Option<&'static str> {
    match error {
        SyncError::Registry(error) => registry_hint(error),
        SyncError::Store(StoreError::Locked { .. }) => Some(
            "nothing is wrong: let that run end; a lock goes with the connection that holds it. \
             --if-locked tells what to do then: skip the instance, or wait",
        ),
        SyncError::Store(StoreError::Statement { .. }) => Some(
            "nothing was published; what had arrived is kept, and the next run goes on from there",
        ),
        SyncError::Store(StoreError::MassRemoval(_)) => Some(
            "look into the registry: if the artifacts are gone there too, `swr-sync sync --accept-removals` \
             publishes that; nothing was changed, and the build histories that arrived are kept",
        ),
        SyncError::Store(StoreError::Silent { .. } | StoreError::CommitUnknown(_)) => Some(
            "see whether the server still runs and what holds it up; `swr-sync status` tells which \
             run was published last, and the next run goes on from there",
        ),
        SyncError::Store(StoreError::LockLost) => Some(
            "nothing was published. A pooler in between changes sessions within a run: have it pass \
             sessions through (pgbouncer: pool_mode = session), or connect to the server itself",
        ),
        SyncError::Database(_) => {
            Some("check that the database still runs; the next run goes on from here")
        }
        SyncError::UnsupportedVersion { .. } => Some("upgrade the instance to 25.6.0 or later"),
        SyncError::WrongInstance { .. } => {
            Some("check SWR_PROJECT_ID and SWR_INSTANCE_ID, or use another database")
        }
        SyncError::SameName { .. } => Some(
            "check SWR_INSTANCE_ID; if the instance was deleted and made anew, \
             `swr-sync sync --accept-new-instance` mirrors both side by side, each under its id",
        ),
        SyncError::Stopped(StopReason::TimeLimit(_)) => {
            Some("the next run goes on from there; --max-duration sets the limit")
        }
        SyncError::Stopped(_) => None,
        SyncError::StoppedPublishing(_) => {
            Some("`swr-sync status` tells; the next run goes on from either")
        }
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
                "if a proxy or a private endpoint stands there, name its authority's certificate by \
                 SWR_CA_FILE; else somebody is in between. Nothing was sent, nothing was published",
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
        | RequestFailure::IncompleteCatalog { .. } => {
            return Some("nothing was published; if it happens again, show it to the maintainers");
        }
    };
    match status.status {
        401 => Some(
            "check the credentials, and the clock: signatures are valid for 15 minutes around it. \
             Do not try again and again: repeated failures lock the key or the account for a while",
        ),
        403 => Some(
            "the user needs the actions swr:instance:listAllArtifacts, swr:repository:listNamespaces, \
             swr:repository:listRepositories and swr:repository:getTagAddition, all in SWR ReadOnlyAccess",
        ),
        404 if status.is_from_gateway() => Some(
            "the gateway does not know this call: check region and endpoint; an instance older than \
             25.6.0 does not have it either",
        ),
        404 => {
            Some("check SWR_PROJECT_ID and SWR_INSTANCE_ID: both must be of the endpoint's region")
        }
        400..=499 => Some("the request was refused as it is: check the settings"),
        _ => Some(
            "the service has a problem of its own: nothing was published, the next run tries again",
        ),
    }
}
