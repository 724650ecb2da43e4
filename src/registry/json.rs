//! JSON as it came: every digit, every field, every escape.
//!
//! serde_json knows the syntax, and gives one level at a time as slices of the text. What its own
//! tree would round, forget or refuse, and what jsonb cannot hold, is decided here value by value,
//! so that an odd one concerns nobody but the field that has it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::Malformed;
use crate::data_issue::Action;

/// Values nested deeper than this are kept as text: far more than any answer needs, far less
/// than would exhaust a stack here or in PostgreSQL.
const DEEPEST_TREE: usize = 64;
/// Values longer than this are kept as text: as jsonb they can take eight times their length,
/// of which 256 MB is the limit.
const LARGEST_TREE_BYTES: usize = 16 << 20;
/// Numbers beyond these are kept as text; PostgreSQL's numeric ends at 131,072 and 16,383 digits.
const LONGEST_NUMBER: usize = 1_000;
const LARGEST_EXPONENT: u32 = 10_000;
/// A body with more faults in its UTF-8 is no text.
const MOST_INVALID: usize = 100_000;

/// The text of an answer.
pub(super) struct Document<'a> {
    text: Cow<'a, str>,
    /// Bytes that are no UTF-8, with the place in `text` where U+FFFD stands for them.
    invalid: Vec<(usize, &'a [u8])>,
}

/// A field of an object, both parts as they stand in the text.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

/// What had to be done to a value to make it legal, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Alterations(Vec<Action>);

impl Alterations {
    pub(super) fn add(&mut self, action: Action) {
        if !self.0.contains(&action) {
            self.0.push(action);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Action> {
        self.0.iter().copied()
    }
}

impl<'a> Document<'a> {
    /// Takes a body for UTF-8, with a byte order mark or without; faults are remembered.
    pub(super) fn new(body: &'a [u8]) -> Result<Document<'a>, Malformed> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let mut invalid = Vec::new();
        if let Ok(text) = std::str::from_utf8(body) {
            let text = Cow::Borrowed(text);
            return Ok(Document { text, invalid });
        }
        let mut text = String::with_capacity(body.len());
        for chunk in body.utf8_chunks() {
            text.push_str(chunk.valid());
            if chunk.invalid().is_empty() {
                continue;
            }
            if invalid.len() == MOST_INVALID {
                return Err(Malformed::new("the answer is not UTF-8"));
            }
            invalid.push((text.len(), chunk.invalid()));
            text.push('\u{fffd}');
        }
        let text = Cow::Owned(text);
        Ok(Document { text, invalid })
    }

    /// The members of the document, which has to be an object, after a check of all its syntax.
    pub(super) fn members(&self) -> Result<Vec<Member<'_>>, Malformed> {
        let root = self.root();
        if !root.is_empty() && !root.starts_with('{') {
            return Err(Malformed::new("the answer is not a JSON object"));
        }
        // The error tells the place and what was expected there, and quotes nothing.
        members(root).map_err(|error| Malformed::new(format!("the answer is not JSON: {error}")))
    }

    /// The whole document.
    pub(super) fn root(&self) -> &str {
        self.text.trim_ascii()
    }

    /// The text of a JSON string, with U+FFFD for what PostgreSQL's text cannot hold.
    pub(super) fn text(&self, string: &str, alterations: &mut Alterations) -> String {
        let (mut text, has_lone_surrogates) = unescape(string);
        if has_lone_surrogates || !self.invalid_in(string).is_empty() {
            alterations.add(Action::ReplacedInvalid);
        }
        if text.contains('\0') {
            text = text.replace('\0', "\u{fffd}");
            alterations.add(Action::ReplacedNul);
        }
        text
    }

    /// A value as jsonb can hold it, if it stands in `row`.
    pub(super) fn value(&self, value: &str, row: &str) -> (Value, Alterations) {
        let depth = if row.len() > LARGEST_TREE_BYTES {
            0
        } else {
            DEEPEST_TREE
        };
        let mut alterations = Alterations::default();
        if let Some(tree) = self.tree(value, depth, &mut alterations) {
            return (tree, alterations);
        }
        let alterations = Alterations(vec![Action::KeptAsText]);
        (Value::String(self.source(value)), alterations)
    }

    /// A value as it came: itself, or the text of its JSON where jsonb cannot hold it.
    pub(super) fn original(&self, value: &str) -> Value {
        match self.value(value, value) {
            (original, alterations) if alterations.is_empty() => original,
            _ => Value::String(self.source(value)),
        }
    }

    /// A piece of the text as it came; a byte that is no UTF-8 shows as `\xff`.
    pub(super) fn source(&self, piece: &str) -> String {
        let mut source = String::with_capacity(piece.len());
        let (start, mut from) = (self.place(piece), 0);
        for (place, bytes) in self.invalid_in(piece) {
            source.push_str(&piece[from..place - start]);
            for byte in *bytes {
                source.push_str(&format!("\\x{byte:02x}"));
            }
            from = place - start + '\u{fffd}'.len_utf8();
        }
        source.push_str(&piece[from..]);
        source
    }

    fn invalid_in(&self, piece: &str) -> &[(usize, &'a [u8])] {
        if self.invalid.is_empty() {
            return &[];
        }
        let start = self.place(piece);
        let end = start + piece.len();
        let first = self.invalid.partition_point(|(place, _)| *place < start);
        let last = self.invalid.partition_point(|(place, _)| *place < end);
        &self.invalid[first..last]
    }

    /// Where a piece of the text begins in it.
    fn place(&self, piece: &str) -> usize {
        (piece.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    /// `None` if the value is nested deeper than `depth`.
    fn tree(&self, value: &str, depth: usize, alterations: &mut Alterations) -> Option<Value> {
        Some(match value.as_bytes().first()? {
            b'"' => Value::String(self.text(value, alterations)),
            b'{' => {
                let depth = depth.checked_sub(1)?;
                let mut object = Map::new();
                for Member { name, value } in members(value).ok()? {
                    let name = self.text(name, alterations);
                    let value = self.tree(value, depth, alterations)?;
                    if object.insert(name, value).is_some() {
                        alterations.add(Action::GivenTwice);
                    }
                }
                Value::Object(object)
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                let elements = elements(value).ok()?.into_iter();
                Value::Array(
                    elements
                        .map(|element| self.tree(element, depth, alterations))
                        .collect::<Option<_>>()?,
                )
            }
            b't' => Value::Bool(true),
            b'f' => Value::Bool(false),
            b'n' => Value::Null,
            _ if is_numeric(value) => Value::Number(serde_json::from_str(value).ok()?),
            _ => {
                alterations.add(Action::KeptAsText);
                Value::String(value.to_owned())
            }
        })
    }
}

/// The members of an object in their order; a name may come more than once.
pub(super) fn members(object: &str) -> Result<Vec<Member<'_>>, serde_json::Error> {
    serde_json::from_str(object).map(|Members(members)| members)
}

/// The elements of a list.
pub(super) fn elements(list: &str) -> Result<Vec<&str>, serde_json::Error> {
    let elements: Vec<&RawValue> = serde_json::from_str(list)?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

struct Members<'a>(Vec<Member<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    let (name, value) = (name.get(), value.get());
                    members.push(Member { name, value });
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The text of a JSON string, and whether U+FFFD stands for a lone surrogate in it.
fn unescape(string: &str) -> (String, bool) {
    if !string.contains('\\') {
        return (string.trim_matches('"').to_owned(), false);
    }
    if let Ok(text) = serde_json::from_str(string) {
        return (text, false);
    }
    // As bytes, serde_json gives a lone surrogate the three bytes that UTF-8 would have for it.
    let Ok(Wtf8(mut bytes)) = serde_json::from_str(string) else {
        return (string.to_owned(), true);
    };
    for place in 0..bytes.len().saturating_sub(2) {
        if bytes[place] == 0xed && bytes[place + 1] >= 0xa0 {
            bytes[place..place + 3].copy_from_slice("\u{fffd}".as_bytes());
        }
    }
    (String::from_utf8_lossy(&bytes).into_owned(), true)
}

struct Wtf8(Vec<u8>);

impl<'de> Deserialize<'de> for Wtf8 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wtf8, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Wtf8;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Wtf8, E> {
                Ok(Wtf8(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// Whether PostgreSQL's numeric holds the number to its last digit.
fn is_numeric(number: &str) -> bool {
    let exponent = number
        .split_once(['e', 'E'])
        .map_or("0", |(_, exponent)| exponent);
    let exponent = exponent.trim_start_matches(['+', '-']).parse();
    number.len() <= LONGEST_NUMBER
        && exponent.is_ok_and(|exponent: u32| exponent <= LARGEST_EXPONENT)
}

/// The value of an integer in any spelling JSON has for it: `1000`, `1e3`, `1000.0`.
pub(super) fn integer(number: &str) -> Result<i64, Action> {
    if let Ok(integer) = number.parse() {
        return Ok(integer);
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (sign, whole) = match whole.strip_prefix('-') {
        Some(whole) => ("-", whole),
        None => ("", whole),
    };
    let digits = format!("{whole}{fraction}");
    let leading_zeros = digits.len() - digits.trim_start_matches('0').len();
    let significant = digits.trim_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    // An exponent that does not fit is beyond any number of digits an answer can have.
    let exponent = exponent.parse().unwrap_or(match exponent.starts_with('-') {
        true => i64::MIN / 2,
        false => i64::MAX / 2,
    });
    // How many digits, from the first that is not zero, stand before the point.
    let before_point = (whole.len() as i64 - leading_zeros as i64).saturating_add(exponent);
    if before_point < significant.len() as i64 {
        return Err(Action::WrongType);
    }
    if before_point > 19 {
        return Err(Action::OutOfRange);
    }
    let zeros = "0".repeat(before_point as usize - significant.len());
    format!("{sign}{significant}{zeros}")
        .parse()
        .map_err(|_| Action::OutOfRange)
}
