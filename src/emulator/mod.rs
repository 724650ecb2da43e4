//! The emulated SWR API.
