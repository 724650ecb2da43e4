//! The record of a value that could not be kept as it came.

use serde_json::Value;

/// One altered value: where, what was done, and the original.
#[derive(Debug, Clone, PartialEq)]
pub struct DataIssue {
    /// The table of the row, without its schema.
    pub table: &'static str,
    /// The row in the API's terms: an artifact id, a digest and a position.
    pub row_key: String,
    /// The field of the API.
    pub field: String,
    /// What was done.
    pub action: Action,
    /// The value as it came; null where it is secret.
    pub original: Value,
}

/// What was done to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// PostgreSQL text cannot hold U+0000; each became U+FFFD.
    ReplacedNul,
    /// The value has another type than documented; it was stored as missing.
    WrongType,
    /// The value does not fit the column's type; it was stored as missing.
    OutOfRange,
    /// A row without a key cannot be stored; all of it is in the original.
    DroppedRow,
    /// The same layer came with another value before; the first one stays.
    KeptFirst,
    /// A secret was taken out, which is why there is no original.
    Redacted,
}

impl Action {
    /// The words stored in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::ReplacedNul => "replaced NUL by U+FFFD",
            Action::WrongType => "wrong type, stored as NULL",
            Action::OutOfRange => "out of range, stored as NULL",
            Action::DroppedRow => "row without a key, not stored",
            Action::KeptFirst => "differs from the value stored first, which stays",
            Action::Redacted => "redacted",
        }
    }
}
