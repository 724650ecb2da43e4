//! The record of a value that could not be stored unchanged.

use serde_json::Value;

/// One altered value: its place, the action, and the original.
#[derive(Debug, Clone, PartialEq)]
pub struct DataIssue {
    /// The table of the row, without its schema.
    pub table: &'static str,
    /// The row in terms of the API, such as an artifact id, or a digest and a position.
    pub row_key: String,
    /// The field of the API.
    pub field: String,
    pub action: Action,
    /// The original value; its JSON as a string if jsonb cannot store it; null if it is secret.
    pub original: Value,
}

/// How a value was altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// PostgreSQL text cannot store U+0000; each was replaced with U+FFFD.
    ReplacedNul,
    /// Each lone surrogate and each byte that is not UTF-8 was replaced with U+FFFD.
    ReplacedInvalid,
    /// The value has another type than documented; it was stored as missing.
    WrongType,
    /// The value is not a boolean, but the column is, and is not null.
    NotBoolean,
    /// The value does not fit the column's type; it was stored as missing.
    OutOfRange,
    /// The time has more decimals than its column; it was truncated.
    CutTime,
    /// PostgreSQL has no leap seconds; the next second was stored.
    LeapSecond,
    /// The object had the field twice. The last value was stored; this is an earlier one.
    GivenTwice,
    /// The number is too long for jsonb, or the value too deep or too large; its JSON was stored as a string.
    KeptAsText,
    /// The row has no key and could not be stored; the original is the whole row.
    DroppedRow,
    /// A secret was masked, so there is no original.
    Redacted,
    /// The id named another digest before, which is the original. A registry gives an id once, unless it was
    /// restored from a backup.
    ReusedId,
}

impl Action {
    /// The value in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::ReplacedNul => "replaced NUL by U+FFFD",
            Action::ReplacedInvalid => "replaced invalid Unicode by U+FFFD",
            Action::NotBoolean => "not a boolean, stored as false",
            Action::CutTime => "more decimals than are kept, cut",
            Action::LeapSecond => "leap second, stored as the second after it",
            Action::GivenTwice => "given more than once, the last one counts",
            Action::KeptAsText => "beyond jsonb, stored as the text of its JSON",
            Action::WrongType => "wrong type, stored as NULL",
            Action::OutOfRange => "out of range, stored as NULL",
            Action::DroppedRow => "row without a key, not stored",
            Action::Redacted => "redacted",
            Action::ReusedId => {
                "the id named another digest before, as after a restore from a backup"
            }
        }
    }
}
