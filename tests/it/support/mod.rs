//! What tests share.

#[cfg(all(feature = "emulator", feature = "embedded-db"))]
pub(crate) mod browser;
pub(crate) mod database;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
pub(crate) mod held_up;
#[cfg(feature = "emulator")]
pub(crate) mod mirror;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
pub(crate) mod program;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
pub(crate) mod proxy;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
pub(crate) mod receiver;
#[cfg(all(feature = "emulator", feature = "embedded-db"))]
pub(crate) mod server;
pub(crate) mod wire;
