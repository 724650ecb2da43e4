//! SWR over HTTP.

pub mod signature;
