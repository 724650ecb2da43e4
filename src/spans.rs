//! The spans of a run, for traces. They cost little if no collector is configured.

/// The target of these spans. It is not the path of a module, so that these spans are filtered out of
/// log lines, which show the spans they belong to.
pub const TARGET: &str = "spans";
