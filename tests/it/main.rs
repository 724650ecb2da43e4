//! The only integration test binary. `support` provides the environment of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the program from outside: with requests, statements and times of their own"
)]

mod answers;
mod architecture;
mod back_pressure;
mod batch;
mod command_line;
mod commands;
mod config;
mod credentials;
mod dashboards;
mod database_faults;
mod deploy;
mod docs;
mod doctor;
#[cfg(target_os = "linux")]
mod embedded;
mod emulator;
mod exit_codes;
mod fault_matrix;
mod faults;
mod fidelity;
mod growth;
mod html;
mod instances;
mod kills;
mod migrations;
#[cfg(feature = "otlp")]
mod otlp;
mod outputs;
mod policy;
mod registry;
mod reports;
mod results;
mod security;
mod server_settings;
mod signature;
mod support;
mod sync;
mod terminal;
mod upgrades;
mod verify;
