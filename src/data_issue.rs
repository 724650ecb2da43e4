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
    /// The value as it came; where jsonb cannot hold it, the text of its JSON; null where it is
    /// secret.
    pub original: Value,
}

/// What was done to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// PostgreSQL text cannot hold U+0000; each became U+FFFD.
    ReplacedNul,
    /// Lone surrogates and bytes that are no UTF-8 are no characters; each became U+FFFD.
    ReplacedInvalid,
    /// The value has another type than documented; it was stored as missing.
    WrongType,
    /// Not a boolean, in a column that has to be one.
    NotBoolean,
    /// The value does not fit the column's type; it was stored as missing.
    OutOfRange,
    /// The time has more decimals than its column keeps; what is beyond them was cut off.
    CutTime,
    /// PostgreSQL has no leap seconds; it became the second after it.
    LeapSecond,
    /// The object gave the field before, with this value; the last one counts.
    GivenTwice,
    /// A number too long, or a value too deep or too large, for jsonb; a string holds its JSON.
    KeptAsText,
    /// A row without a key cannot be stored; all of it is in the original.
    DroppedRow,
    /// A secret was taken out, which is why there is no original.
    Redacted,
    /// The id named another digest before, which is the original. A registry gives an id once, unless it was
    /// restored from a backup.
    ReusedId,
}

impl Action {
    /// The words stored in the database.
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
