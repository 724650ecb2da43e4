//! The one integration test binary. `support` gives a test its whole world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the program from outside: with requests, statements and times of their own"
)]

mod architecture;
#[cfg(feature = "emulator")]
mod emulator;
mod migrations;
#[cfg(feature = "emulator")]
mod registry;
mod signature;
mod support;
#[cfg(feature = "emulator")]
mod sync;

#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod commands;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod policy;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod reports;

#[cfg(all(feature = "embedded-db", target_os = "linux"))]
mod embedded;
