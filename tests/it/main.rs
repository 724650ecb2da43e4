//! The one integration test binary. `support` gives a test its whole world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the program from outside: with requests, statements and times of their own"
)]

mod answers;
mod architecture;
mod deploy;
#[cfg(feature = "emulator")]
mod docs;
#[cfg(feature = "emulator")]
mod emulator;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod fault_matrix;
#[cfg(feature = "emulator")]
mod faults;
mod fidelity;
mod findings;
mod migrations;
#[cfg(feature = "emulator")]
mod registry;
mod signature;
mod support;
#[cfg(feature = "emulator")]
mod sync;
#[cfg(feature = "emulator")]
mod verify;

#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod back_pressure;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod batch;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod command_line;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod commands;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod config;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod credentials;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod dashboards;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod database_faults;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod doctor;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod exit_codes;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod growth;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod html;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod instances;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod kills;
#[cfg(all(feature = "emulator", feature = "embedded-db", feature = "otlp"))]
mod otlp;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod outputs;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod policy;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod reports;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod security;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod server_settings;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod terminal;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
mod upgrades;

#[cfg(all(feature = "embedded-db", target_os = "linux"))]
mod embedded;
