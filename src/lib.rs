//! swr-sync mirrors a Huawei Cloud SWR Enterprise registry into PostgreSQL.
//!
//! ```text
//!                  ┌────────────── catalog pages ───────────────┐
//! SWR  ──────────▶ │ list pages, one after another (marker)     │──▶ staged rows ─┐
//! gateway          └──────────────┬─────────────────────────────┘                 │ listing complete
//!    ▲                            │ digests not stored yet                        ▼
//!    └─── build history calls ◀───┘ (many at once, paced)                  publish: one transaction
//!              │                                                                  │
//!              └──▶ manifests, build steps, layers, commands (as they arrive) ────┘──▶ tables ──▶ report views
//! ```
//!
//! Modules, in the order to read them. Everything points at the nouns; the
//! registry knows no SQL, the store makes no request, and only [`sync`] joins the
//! two. What does not depend on the job is in `crates`: the rules for build
//! commands, the emulator, the embedded database.

// The library is for the program and its tests; a comment that repeats a name helps neither.
#![allow(missing_docs)]

pub mod artifact;
pub mod build_history;
pub mod data_issue;
pub mod exit;
pub mod run;

pub mod activity;
pub mod clock;
pub mod secret_file;
pub mod spans;
pub mod stop;
pub mod visible;

pub mod registry;

pub mod store;

pub mod sync;

pub mod database;

pub mod report;

pub mod cli;
