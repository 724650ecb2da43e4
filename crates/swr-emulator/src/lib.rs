//! The emulated SWR API, as close to a live registry as possible on a
//! laptop. Used by the demo, the compose file, the tests and the benchmarks.
//!
//! ```text
//! request ─▶ fault? ─▶ route (raw path) ─▶ token or signature ─▶ throttle ─▶ latency ─▶ world ─▶ JSON
//!            test's     gateway 404         gateway 401           gateway 429             service
//! ```
//!
//! Responses come from a [`World`], which is generated from a seed and real build
//! histories or built by hand, and which changes between runs. Requests are checked
//! at least as strictly as documented. The emulator shares no code with the client, so that
//! both cannot contain the same mistake. This includes the signature, which both test with the
//! same vectors.
//!
//! Reading order: `server` (sockets, order of checks), `api` (routes),
//! `wire` (JSON), `auth`, `signature`, `metadata` (temporary keys), `answer`; `load` (latency and limit),
//! `fault` (faults of requests), `line` (broken connections), `hostile` (unexpected values); `world` (state and single
//! changes), `image`, `recipe`, `generate`, `change`.

mod answer;
mod api;
mod auth;
mod change;
mod fault;
mod generate;
mod hostile;
mod image;
mod line;
mod load;
mod metadata;
mod recipe;
mod requests;
mod server;
mod settings;
mod signature;
mod wire;
mod world;

pub use change::Changes;
pub use fault::{ErrorBody, Fault, FaultPlan};
pub use generate::WorldSettings;
pub use image::{Created, Digest, Layer, Manifest, ManifestKind, Step};
pub use requests::{RequestCounts, RequestKind};
pub use server::Emulator;
pub use settings::{
    Authentication, BuildTime, CatalogTotal, Clock, Credentials, Dialect, EmulatorSettings,
    Instance, KeySpelling, LastMarker, Load, MetadataSettings, MetadataTokens, NextMarker,
    SlowTail, Stalls, Swing, Throttle,
};
pub use world::{Artifact, ArtifactSpec, Namespace, Quirks, Repository, Tag, World};
