//! The emulated SWR API: the nearest thing to a live registry that a laptop can
//! have. Serves the demo, the compose file, the tests and the benchmarks.
//!
//! ```text
//! request ─▶ fault? ─▶ route (raw path) ─▶ token or signature ─▶ throttle ─▶ latency ─▶ world ─▶ JSON
//!            test's     gateway 404         gateway 401           gateway 429             service
//! ```
//!
//! It answers from a [`World`], which is generated from a seed and real build
//! histories or put together by hand, and which changes between runs. It checks
//! what a client sends at least as strictly as the documentation lets expect.
//! Nothing here uses the client's reading of the API, so that the two cannot be
//! wrong together. The signature, too, is written twice, and tested with the same vectors.
//!
//! In the order to read them: `server` (sockets, order of checks), `api` (routes),
//! `wire` (JSON), `auth`, `signature`, `metadata` (temporary keys), `answer`; `load` (latency and limit),
//! `fault` (what goes wrong with requests), `line` (how connections break), `hostile` (odd values); `world` (state and single
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
