//! The spans of a run, for traces. They are cheap where nobody collects them.

/// The target of these spans. It is none of our modules, so that log lines, which name the spans
/// they are written in, do not name these.
pub const TARGET: &str = "spans";
