//! Code that tests share. A complete test:
//!
//! ```ignore
//! #[tokio::test(flavor = "multi_thread")]
//! async fn what_is_deleted_in_the_registry_is_removed() {
//!     // An emulated registry of three images, and an empty database.
//!     let mirror = Mirror::new(world_of(3)).await;
//!     mirror.sync().await;
//!     // Something happens in the registry.
//!     mirror.with_world(|world| {
//!         let first = world.artifacts().next().unwrap().id;
//!         world.delete_artifact(first);
//!     });
//!     let report = mirror.sync().await;
//!     assert_eq!(report.counters.artifacts_removed, 1);
//!     // All facts, as text, equal those of a first sync.
//!     assert_eq!(mirror.facts().await, mirror.undisturbed_facts().await);
//! }
//! ```
//!
//! The same with the real process, whose output is searched for secrets, is
//! `let (emulator, database) = synced(world_of(3)).await;` and
//! `Program::sync(&emulator, &database).code(0).await.says(&["1 removed"]);`.

use std::fmt::Display;

pub(crate) mod browser;
pub(crate) mod config_file;
pub(crate) mod database;
pub(crate) mod held_up;
pub(crate) mod mirror;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod server;
pub(crate) mod wire;

/// Cases of a test as a list of tuples, one on each line: `what, is, given => what is expected;`.
macro_rules! cases {
    ($($($given:expr),+ => $expected:expr;)+) => {
        [$(($($given,)+ $expected)),+]
    };
}
pub(crate) use cases;

#[track_caller]
pub(crate) fn assert_contains(text: &(impl Display + ?Sized), words: impl AsRef<str>) {
    let (text, words) = (text.to_string(), words.as_ref());
    assert!(text.contains(words), "no `{words}` in: {text}");
}

#[track_caller]
pub(crate) fn assert_lacks(text: &(impl Display + ?Sized), words: impl AsRef<str>) {
    let (text, words) = (text.to_string(), words.as_ref());
    assert!(!text.contains(words), "`{words}` in: {text}");
}

#[track_caller]
pub(crate) fn assert_starts_with(text: &(impl Display + ?Sized), words: impl AsRef<str>) {
    let (text, words) = (text.to_string(), words.as_ref());
    assert!(text.starts_with(words), "no `{words}` first in: {text}");
}

#[track_caller]
pub(crate) fn assert_ends_with(text: &(impl Display + ?Sized), words: impl AsRef<str>) {
    let (text, words) = (text.to_string(), words.as_ref());
    assert!(text.ends_with(words), "no `{words}` last in: {text}");
}
