//! The one integration test binary. `support` gives a test its whole world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod emulator;
mod migrations;
#[cfg(feature = "emulator")]
mod registry;
mod signature;
mod support;
#[cfg(feature = "emulator")]
mod sync;

#[cfg(all(feature = "embedded-db", target_os = "linux"))]
mod embedded;
