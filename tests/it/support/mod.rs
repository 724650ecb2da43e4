//! What tests share.

pub(crate) mod browser;
pub(crate) mod database;
pub(crate) mod held_up;
pub(crate) mod mirror;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod server;
pub(crate) mod wire;
