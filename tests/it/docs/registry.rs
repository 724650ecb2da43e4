//! A database that mirrors the registry of the documents.

use chrono::{DateTime, Utc};
use swr_sync::clock::Clock;
use swr_sync::stop;

use crate::support::mirror::{Mirror, verify};

#[path = "../../../xtask/docs/world.rs"]
mod world;

pub(super) async fn synced() -> Mirror {
    let mirror = Mirror::new(world::start()).await;
    mirror.sync_at(world::sync_time(0)).await;
    for round in 1..=world::ROUNDS {
        mirror
            .emulator
            .with_world(|world| world::change(world, round));
        mirror.sync_at(world::sync_time(round)).await;
    }
    verify_at(&mirror, world::verification_time()).await;
    mirror
}

/// Syncs the second instance into the same database.
pub(super) async fn sync_second(mirror: &Mirror) {
    let (second, content) = world::second();
    let now = world::second_sync_time();
    let id = second.id.clone();
    mirror.emulator.add_instance(second, content);
    let clock = Clock::from_fn(move || now);
    mirror.sync_instance(&id, clock).await;
}

pub(super) async fn verify_at(mirror: &Mirror, now: DateTime<Utc>) {
    let (clock, (_stopper, stop)) = (Clock::from_fn(move || now), stop::channel());
    let Mirror {
        emulator, database, ..
    } = mirror;
    verify(emulator, database, Some(100), "sha256:", clock, &stop)
        .await
        .unwrap();
}
