//! What tests share.

pub(crate) mod database;
#[cfg(feature = "emulator")]
pub(crate) mod mirror;
