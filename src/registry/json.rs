//! Lossless JSON: keeps every digit, field and escape.
//!
//! serde_json parses one level at a time into slices of the text. Values that its own tree would
//! round, drop or reject, and values that jsonb cannot store, are handled here one by one, so that an
//! odd value affects only its own field.
//!
//! Small text can become a large structure: an element of `[[],[],…]` takes three bytes there and a
//! hundred in memory. So each document has a maximum number of values, and everything that keeps a
//! value counts it.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::Malformed;
use crate::data_issue::Action;

/// Values nested deeper than this are stored as text. No real answer is nested this deeply, and this
/// depth does not overflow the stack here or in PostgreSQL.
const DEEPEST_TREE: usize = 64;
/// Values longer than this are stored as text: as a tree, here and in jsonb, a value can take many
/// times as much memory.
const LARGEST_TREE_BYTES: usize = 256 << 10;
/// Longer numbers are stored as text. PostgreSQL's numeric has at most 131,072 digits before and
/// 16,383 digits after the decimal point.
const LONGEST_NUMBER: usize = 1_000;
const LARGEST_EXPONENT: u32 = 10_000;
/// A body with more invalid UTF-8 sequences is rejected.
const MOST_INVALID: usize = 100_000;

/// The text of an answer.
pub(super) struct Document<'a> {
    text: Cow<'a, str>,
    /// Bytes that are not UTF-8, each with the position of the U+FFFD in `text` that replaces them.
    invalid: Vec<(usize, &'a [u8])>,
    /// How many more values may be kept; `None` once there were too many.
    values_left: Cell<Option<usize>>,
}

/// A field of an object: name and value as slices of the JSON text.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

/// The kinds of changes that were needed to make a value storable.
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
    /// Reads a body as UTF-8, with or without a byte order mark, and remembers what is invalid.
    pub(super) fn new(body: &'a [u8], max_values: usize) -> Result<Document<'a>, Malformed> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let mut invalid = Vec::new();
        let values_left = Cell::new(Some(max_values));
        if let Ok(text) = std::str::from_utf8(body) {
            return Ok(Document {
                text: Cow::Borrowed(text),
                invalid,
                values_left,
            });
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
        Ok(Document {
            text: Cow::Owned(text),
            invalid,
            values_left,
        })
    }

    /// Checks the syntax of the whole document, which must be an object, and returns its members.
    pub(super) fn root_members(&self) -> Result<Vec<Member<'_>>, Malformed> {
        let root = self.root();
        if !root.is_empty() && !root.starts_with('{') {
            return Err(Malformed::new("the answer is not a JSON object"));
        }
        // The error contains the position and the expected token, but no text of the answer.
        self.members(root)
            .map_err(|error| Malformed::new(format!("the answer is not JSON: {error}")))
    }

    /// The members of an object in their order. A name may occur more than once.
    pub(super) fn members<'t>(
        &self,
        object: &'t str,
    ) -> Result<Vec<Member<'t>>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(object);
        let members = Members(self).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(members)
    }

    /// The elements of a list.
    pub(super) fn elements<'t>(&self, list: &'t str) -> Result<Vec<&'t str>, serde_json::Error> {
        let (elements, _) = self.first_elements(list, usize::MAX)?;
        Ok(elements)
    }

    /// At most the first `limit` elements of a list, and the number of all elements.
    pub(super) fn first_elements<'t>(
        &self,
        list: &'t str,
        limit: usize,
    ) -> Result<(Vec<&'t str>, u64), serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(list);
        let document = self;
        let elements = Elements { document, limit }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(elements)
    }

    /// Counts stored values; returns `false` once there are too many.
    pub(super) fn count(&self, values: usize) -> bool {
        let left = self.values_left.get();
        let left = left.and_then(|left| left.checked_sub(values));
        self.values_left.set(left);
        left.is_some()
    }

    /// Whether the document had more values than allowed. If so, the values read from it are incomplete.
    pub(super) fn has_too_many_values(&self) -> bool {
        self.values_left.get().is_none()
    }

    /// The whole document.
    pub(super) fn root(&self) -> &str {
        self.text.trim_ascii()
    }

    /// The text of a JSON string. U+FFFD replaces characters that PostgreSQL's text cannot store.
    pub(super) fn text<'t>(&self, string: &'t str, alterations: &mut Alterations) -> Cow<'t, str> {
        let (mut text, has_lone_surrogates) = unescape(string);
        if has_lone_surrogates || !self.invalid_in(string).is_empty() {
            alterations.add(Action::ReplacedInvalid);
        }
        // JSON can contain NUL only as an escape.
        if matches!(text, Cow::Owned(_)) && text.contains('\0') {
            text = text.replace('\0', "\u{fffd}").into();
            alterations.add(Action::ReplacedNul);
        }
        text
    }

    /// Converts a value to one that jsonb can store.
    pub(super) fn value(&self, value: &str) -> (Value, Alterations) {
        let depth = if value.len() > LARGEST_TREE_BYTES {
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

    /// The original value, or its JSON as a string if jsonb cannot store it.
    pub(super) fn original(&self, value: &str) -> Value {
        match self.value(value) {
            (original, alterations) if alterations.is_empty() => original,
            _ => Value::String(self.source(value)),
        }
    }

    /// A slice of the text with the original bytes; a byte that is not UTF-8 is shown as `\xff`.
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

    /// The offset of a slice of the text.
    fn place(&self, piece: &str) -> usize {
        (piece.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    /// `None` if the value is nested deeper than `depth`.
    fn tree(&self, value: &str, depth: usize, alterations: &mut Alterations) -> Option<Value> {
        Some(match value.as_bytes().first()? {
            b'"' => Value::String(self.text(value, alterations).into_owned()),
            b'{' => {
                let depth = depth.checked_sub(1)?;
                let mut object = Map::new();
                for Member { name, value } in self.members(value).ok()? {
                    let name = self.text(name, alterations).into_owned();
                    let value = self.tree(value, depth, alterations)?;
                    if object.insert(name, value).is_some() {
                        alterations.add(Action::GivenTwice);
                    }
                }
                Value::Object(object)
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                let elements = self.elements(value).ok()?.into_iter();
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

const TOO_MANY_VALUES: &str = "too many values";

struct Members<'d, 'a>(&'d Document<'a>);

impl<'de> DeserializeSeed<'de> for Members<'_, '_> {
    type Value = Vec<Member<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_, '_> {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if !self.0.count(1) {
                return Err(A::Error::custom(TOO_MANY_VALUES));
            }
            let (name, value) = (name.get(), value.get());
            members.push(Member { name, value });
        }
        Ok(members)
    }
}

struct Elements<'d, 'a> {
    document: &'d Document<'a>,
    limit: usize,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_> {
    type Value = (Vec<&'de str>, u64);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = (Vec<&'de str>, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < self.limit
            && let Some(element) = list.next_element::<&RawValue>()?
        {
            if !self.document.count(1) {
                return Err(A::Error::custom(TOO_MANY_VALUES));
            }
            elements.push(element.get());
        }
        let mut count = elements.len() as u64;
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok((elements, count))
    }
}

/// The text of a JSON string, and whether U+FFFD replaced a lone surrogate.
fn unescape(string: &str) -> (Cow<'_, str>, bool) {
    if !string.contains('\\') {
        return (string.trim_matches('"').into(), false);
    }
    if let Ok(text) = serde_json::from_str::<String>(string) {
        return (text.into(), false);
    }
    // If read as bytes, serde_json encodes a lone surrogate in three bytes, like WTF-8.
    let Ok(Wtf8(mut bytes)) = serde_json::from_str(string) else {
        return (string.into(), true);
    };
    for place in 0..bytes.len().saturating_sub(2) {
        if bytes[place] == 0xed && bytes[place + 1] >= 0xa0 {
            bytes[place..place + 3].copy_from_slice("\u{fffd}".as_bytes());
        }
    }
    (String::from_utf8_lossy(&bytes).into_owned().into(), true)
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

/// Whether PostgreSQL's numeric can store the number exactly.
fn is_numeric(number: &str) -> bool {
    let exponent = number
        .split_once(['e', 'E'])
        .map_or("0", |(_, exponent)| exponent);
    let exponent = exponent.trim_start_matches(['+', '-']).parse();
    number.len() <= LONGEST_NUMBER
        && exponent.is_ok_and(|exponent: u32| exponent <= LARGEST_EXPONENT)
}

/// The value of an integer in any JSON notation: `1000`, `1e3`, `1000.0`.
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
    // An exponent that does not fit is larger than the number of digits in any answer.
    let exponent = exponent.parse().unwrap_or(match exponent.starts_with('-') {
        true => i64::MIN / 2,
        false => i64::MAX / 2,
    });
    // Number of digits before the point, from the first one that is not zero.
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
