//! Generated answers, each value together with the expected column value.
//!
//! The expected value is built together with the JSON text, piece by piece; nothing here parses
//! JSON or times. PostgreSQL converts the expected JSON to jsonb.
//!
//! `PROPTEST_CASES` sets the number of listings; each has up to 808 documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{NaiveDate, TimeDelta};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _, ValueRef};

use super::{Answers, Mirror};
use crate::support::cases;

const NUL: &str = "replaced NUL by U+FFFD";
const INVALID: &str = "replaced invalid Unicode by U+FFFD";
const WRONG_TYPE: &str = "wrong type, stored as NULL";
const NOT_BOOLEAN: &str = "not a boolean, stored as false";
const OUT_OF_RANGE: &str = "out of range, stored as NULL";
const CUT: &str = "more decimals than are kept, cut";
const LEAP: &str = "leap second, stored as the second after it";
const TWICE: &str = "given more than once, the last one counts";
const AS_TEXT: &str = "beyond jsonb, stored as the text of its JSON";
const DROPPED: &str = "row without a key, not stored";

/// JSON as the registry writes it.
#[derive(Clone, Default, PartialEq)]
struct Source {
    bytes: Vec<u8>,
    /// The same as text, with `\xff` for a byte that is not UTF-8.
    shown: String,
    /// Whether jsonb can store it unchanged.
    is_legal: bool,
}

impl Source {
    fn new(text: impl Into<String>) -> Source {
        let shown = text.into();
        Source {
            bytes: shown.clone().into_bytes(),
            shown,
            is_legal: true,
        }
    }

    fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.shown.push_str(text);
    }

    fn append(&mut self, other: &Source) {
        self.bytes.extend_from_slice(&other.bytes);
        self.shown.push_str(&other.shown);
        self.is_legal &= other.is_legal;
    }

    /// The expected value of the column `original`, in JSON.
    fn original(&self) -> String {
        match self.is_legal {
            true => self.shown.clone(),
            false => quoted(&self.shown),
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A value, the expected stored value, and the expected recorded issue.
#[derive(Debug, Clone)]
struct Value {
    /// `None` if the field is missing.
    source: Option<Source>,
    stored: Option<String>,
    actions: BTreeSet<&'static str>,
}

impl Value {
    fn kept(source: Source, stored: impl Into<String>) -> Value {
        Value {
            source: Some(source),
            stored: Some(stored.into()),
            actions: BTreeSet::new(),
        }
    }

    fn refused(source: impl Into<String>, action: &'static str) -> Value {
        Value {
            source: Some(Source::new(source)),
            stored: None,
            actions: BTreeSet::from([action]),
        }
    }

    fn missing(is_null: bool) -> Value {
        Value {
            source: is_null.then(|| Source::new("null")),
            stored: None,
            actions: BTreeSet::new(),
        }
    }
}

/// A string in JSON, escaped no more than necessary.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\0'..='\u{1f}' => write!(quoted, "\\u{:04x}", u32::from(character)).unwrap(),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A piece of a JSON string.
#[derive(Debug, Clone)]
enum Piece {
    Plain(char),
    Escaped(char),
    Nul,
    LoneHigh(u16),
    LoneLow(u16),
    InvalidByte(u8),
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        12 => "[a-zA-Z0-9 /#:.-]".prop_map(|text| Piece::Plain(text.chars().next().unwrap())),
        4 => any::<char>().prop_map(Piece::Plain),
        4 => any::<char>().prop_map(Piece::Escaped),
        1 => prop_oneof![Just('\u{202e}'), Just('\u{7f}'), Just('\u{fffd}'), Just('\u{feff}')].prop_map(Piece::Plain),
        1 => Just(Piece::Nul),
        1 => (0xd800_u16..0xdc00).prop_map(Piece::LoneHigh),
        1 => (0xdc00_u16..0xe000).prop_map(Piece::LoneLow),
        1 => prop_oneof![Just(0xff), Just(0xc0), Just(0x80)].prop_map(Piece::InvalidByte),
    ];
    // Most texts are short and valid.
    prop_oneof![
        3 => vec("[a-z]".prop_map(|text| Piece::Plain(text.chars().next().unwrap())), 0..6),
        2 => vec(piece, 0..12),
    ]
}

/// The string of these pieces.
fn text_of(pieces: &[Piece]) -> Value {
    let mut source = Source::new("\"");
    let mut stored = String::new();
    let mut actions = BTreeSet::new();
    let mut after_high = false;
    for piece in pieces {
        let was_after_high = std::mem::take(&mut after_high);
        match piece {
            Piece::Nul | Piece::Plain('\0') | Piece::Escaped('\0') => {
                source.push("\\u0000");
                stored.push('\u{fffd}');
                actions.insert(NUL);
            }
            Piece::Plain(character) => {
                let text = quoted(&character.to_string());
                source.push(&text[1..text.len() - 1]);
                stored.push(*character);
            }
            Piece::Escaped(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    source.push(&format!("\\u{unit:04X}"));
                }
                stored.push(*character);
            }
            Piece::LoneHigh(unit) => {
                source.push(&format!("\\u{unit:04x}"));
                stored.push('\u{fffd}');
                actions.insert(INVALID);
                after_high = true;
            }
            Piece::LoneLow(unit) => {
                // The two would be a surrogate pair.
                if was_after_high {
                    source.push("-");
                    stored.push('-');
                }
                source.push(&format!("\\u{unit:04x}"));
                stored.push('\u{fffd}');
                actions.insert(INVALID);
            }
            Piece::InvalidByte(byte) => {
                source.bytes.push(*byte);
                write!(source.shown, "\\x{byte:02x}").unwrap();
                stored.push('\u{fffd}');
                actions.insert(INVALID);
            }
        }
    }
    source.push("\"");
    source.is_legal = actions.is_empty();
    Value {
        source: Some(source),
        stored: Some(stored),
        actions,
    }
}

fn string() -> impl Strategy<Value = Value> {
    pieces().prop_map(|pieces| text_of(&pieces))
}

/// Values that are not text, number or boolean.
fn container() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[1,\"a\"]".to_owned()),
        Just("{\"a\":null}".to_owned()),
    ]
}

fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        10 => string(),
        1 => any::<bool>().prop_map(Value::missing),
        1 => container().prop_map(|source| Value::refused(source, WRONG_TYPE)),
        1 => any::<i64>().prop_map(|number| Value::refused(number.to_string(), WRONG_TYPE)),
        1 => any::<bool>().prop_map(|value| Value::refused(value.to_string(), WRONG_TYPE)),
    ]
}

fn integer() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>(),
        0..100_000_i64,
        Just(i64::MAX),
        Just(i64::MIN),
        Just(1 << 31),
        Just((1 << 53) + 1)
    ];
    let spelling = (number, 0..7, 1..40_usize).prop_map(|(number, spelling, count)| {
        let zeros = "0".repeat(count);
        let kept = |source: String| Value::kept(Source::new(source), number.to_string());
        match spelling {
            0 => kept(format!("\"{number}\"")),
            1 => kept(format!("{number}.{zeros}")),
            2 if number != 0 => kept(format!("{number}{zeros}e-{count}")),
            3 => kept(format!("{number}E+0")),
            4 => {
                let power = count as u32 % 10;
                let source = format!("{number}e{power}");
                match number.checked_mul(10_i64.pow(power)) {
                    Some(number) => Value::kept(Source::new(source), number.to_string()),
                    None => Value::refused(source, OUT_OF_RANGE),
                }
            }
            _ => kept(number.to_string()),
        }
    });
    prop_oneof![
        12 => spelling,
        1 => any::<bool>().prop_map(Value::missing),
        1 => "-?[1-9][0-9]{19,60}".prop_map(|digits| Value::refused(digits, OUT_OF_RANGE)),
        1 => "\"-?[1-9][0-9]{19,60}\"".prop_map(|digits| Value::refused(digits, OUT_OF_RANGE)),
        1 => "-?(0|[1-9][0-9]{0,20})\\.[0-9]{0,20}[1-9]".prop_map(|number| Value::refused(number, WRONG_TYPE)),
        1 => "\"(|[a-z]+|\\+[0-9]|0[0-9]+|-0|[0-9]e[0-9]| 1)\"".prop_map(|text| Value::refused(text, WRONG_TYPE)),
        1 => container().prop_map(|source| Value::refused(source, WRONG_TYPE)),
        1 => any::<bool>().prop_map(|value| Value::refused(value.to_string(), WRONG_TYPE)),
    ]
}

/// True or false; the column has no NULL.
fn boolean() -> impl Strategy<Value = Value> {
    let other = |source: String| Value {
        stored: Some("f".to_owned()),
        ..Value::refused(source, NOT_BOOLEAN)
    };
    prop_oneof![
        4 => (any::<bool>(), any::<bool>()).prop_map(|(value, is_quoted)| {
            let source = match is_quoted {
                true => format!("\"{value}\""),
                false => value.to_string(),
            };
            Value::kept(Source::new(source), if value { "t" } else { "f" })
        }),
        2 => any::<bool>().prop_map(|is_null| Value {
            stored: Some("f".to_owned()),
            ..Value::missing(is_null)
        }),
        1 => container().prop_map(other),
        1 => any::<u8>().prop_map(move |number| other(number.to_string())),
    ]
}

/// A time. The stored value is in nanoseconds since 1970, truncated to `decimals` decimals.
fn time(decimals: usize, zero_is_never: bool) -> impl Strategy<Value = Value> {
    let date = (
        prop_oneof![Just(1), Just(0), Just(9999), 1960..2040],
        1..=12_u32,
        1..=31_u32,
    );
    let clock = (
        0..24_u32,
        0..60_u32,
        prop_oneof![9 => 0..60_u32, 1 => Just(60_u32)],
    );
    let fraction = prop_oneof![
        Just(String::new()),
        "[0-9]{1,9}",
        "[0-9]{1,12}",
        "[0-9]{3}0{3,9}"
    ];
    let offset = prop_oneof![3 => Just(None), 1 => (-1439..=1439_i64).prop_map(Some)];
    let good = (date, clock, fraction, offset, 0..3).prop_map(
        move |((year, month, day), (hour, minute, second), fraction, offset, spelling)| {
            let (separator, utc) = match spelling {
                0 => ('T', "Z"),
                1 => ('t', "z"),
                _ => (' ', "Z"),
            };
            let zone = match offset {
                None => utc.to_owned(),
                Some(minutes) => {
                    let sign = if minutes < 0 { '-' } else { '+' };
                    let minutes = minutes.abs();
                    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
                }
            };
            let point = if fraction.is_empty() { "" } else { "." };
            let source = format!(
                "\"{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}{point}{fraction}{zone}\""
            );
            let Some(date) = NaiveDate::from_ymd_opt(year, month, day) else {
                return Value::refused(source, WRONG_TYPE);
            };
            let seconds = date.signed_duration_since(NaiveDate::default()).num_days() * 86_400
                + i64::from(hour * 3600 + minute * 60 + second)
                - offset.unwrap_or(0) * 60;
            let digit = |place: usize| fraction.as_bytes().get(place).map_or(0, |digit| digit - b'0');
            let kept = (0..decimals).fold(0, |kept, place| kept * 10 + i128::from(digit(place)));
            let nanoseconds =
                i128::from(seconds) * 1_000_000_000 + kept * 10_i128.pow(9 - decimals as u32);
            let mut value = Value::kept(Source::new(source), nanoseconds.to_string());
            if second == 60 {
                value.actions.insert(LEAP);
            }
            let zero = -i128::from(TimeDelta::days(719_162).num_seconds()) * 1_000_000_000;
            let is_cut = (decimals..fraction.len()).any(|place| digit(place) != 0);
            if is_cut {
                value.actions.insert(CUT);
            }
            if zero_is_never && nanoseconds == zero && !is_cut {
                value.stored = None;
            }
            value
        },
    );
    prop_oneof![
        10 => good,
        1 => Just(match zero_is_never {
            true => Value { stored: None, ..Value::kept(Source::new("\"0001-01-01T00:00:00.000Z\""), "") },
            false => Value::kept(Source::new("\"0001-01-01T00:00:00Z\""), "-62135596800000000000"),
        }),
        1 => Just(Value { stored: None, ..Value::kept(Source::new("\"\""), "") }),
        1 => any::<bool>().prop_map(Value::missing),
        1 => "\"(now|2024-01-02|2024-01-02T03:04:05|2024-13-01T00:00:00Z|20240102T030405Z|1e3)\""
            .prop_map(|text| Value::refused(text, WRONG_TYPE)),
        1 => container().prop_map(|source| Value::refused(source, WRONG_TYPE)),
        1 => any::<u32>().prop_map(|number| Value::refused(number.to_string(), WRONG_TYPE)),
    ]
}

/// Any JSON. The stored value is the expected jsonb, in JSON.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => string().prop_map(|value| Value { stored: value.stored.as_deref().map(quoted), ..value }),
        2 => "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?"
            .prop_map(|number| Value::kept(Source::new(number.clone()), number)),
        1 => "[1-9]e[+-]?[2-9][0-9]{4,20}".prop_map(|number| {
            let mut source = Source::new(number.clone());
            source.is_legal = false;
            Value { source: Some(source), stored: Some(quoted(&number)), actions: BTreeSet::from([AS_TEXT]) }
        }),
        1 => prop_oneof![Just("true"), Just("false"), Just("null")]
            .prop_map(|word| Value::kept(Source::new(word), word)),
    ];
    leaf.prop_recursive(4, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|values| {
                let mut list = Value::kept(Source::new("["), "[");
                let (source, stored) =
                    (list.source.as_mut().unwrap(), list.stored.as_mut().unwrap());
                for (place, value) in values.into_iter().enumerate() {
                    if place > 0 {
                        source.push(" ,\n");
                        stored.push(',');
                    }
                    source.append(&value.source.unwrap());
                    stored.push_str(&value.stored.unwrap());
                    list.actions.extend(value.actions);
                }
                source.push("]");
                stored.push(']');
                list
            }),
            vec((0..6_u8, pieces(), inner), 0..4).prop_map(|members| {
                let mut object = Value::kept(Source::new("{"), "");
                let source = object.source.as_mut().unwrap();
                let mut last = BTreeMap::new();
                for (place, (number, mut name, value)) in members.into_iter().enumerate() {
                    // Only this number makes names occur twice.
                    name.insert(0, Piece::Plain(char::from(b'0' + number)));
                    let name = text_of(&name);
                    if place > 0 {
                        source.push(",");
                    }
                    source.append(&name.source.unwrap());
                    source.push("\t: ");
                    source.append(&value.source.unwrap());
                    object.actions.extend(name.actions);
                    object.actions.extend(value.actions);
                    if last
                        .insert(name.stored.unwrap(), value.stored.unwrap())
                        .is_some()
                    {
                        object.actions.insert(TWICE);
                        source.is_legal = false;
                    }
                }
                source.push("}");
                let members: Vec<String> = last
                    .iter()
                    .map(|(name, value)| format!("{}:{value}", quoted(name)))
                    .collect();
                object.stored = Some(format!("{{{}}}", members.join(",")));
                object
            }),
        ]
    })
}

/// A field without a column: name and value.
fn extra() -> impl Strategy<Value = Vec<(Value, Value)>> {
    // Few names, so that some occur twice.
    let name = prop_oneof![2 => Just(Vec::new()), 1 => pieces()];
    let field = (0..6_u8, name, json()).prop_map(|(number, mut name, value)| {
        name.splice(0..0, format!("x{number}-").chars().map(Piece::Plain));
        (text_of(&name), value)
    });
    prop_oneof![2 => Just(Vec::new()), 1 => vec(field, 0..3)]
}

/// A recorded alteration: table, row, field, action, original in JSON.
type Issue = (&'static str, String, String, &'static str, String);

/// A row under construction, and its expected result.
struct Row {
    table: &'static str,
    key: String,
    source: Source,
    extra: BTreeMap<String, String>,
    issues: Vec<Issue>,
}

impl Row {
    fn new(table: &'static str, key: String) -> Row {
        Row {
            table,
            key,
            source: Source::new("{"),
            extra: BTreeMap::new(),
            issues: Vec::new(),
        }
    }

    fn field(&mut self, name: &str, value: &Value) {
        let Some(source) = &value.source else { return };
        self.member(&Source::new(quoted(name)), source);
        for action in &value.actions {
            self.issue(name, action, source.original());
        }
    }

    /// A value that has fields. Their expected results are recorded separately.
    fn nested(&mut self, name: &str, source: &Source) {
        self.member(&Source::new(quoted(name)), source);
    }

    /// A field that is stored unchanged in `extra`.
    fn left_over(&mut self, name: &str, value: &Value) {
        self.field(name, value);
        if let (Some(source), Some(_)) = (&value.source, &value.stored) {
            self.extra.insert(name.to_owned(), source.shown.clone());
        }
    }

    fn extra(&mut self, fields: &[(Value, Value)]) {
        let last: BTreeMap<&String, usize> = fields
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (name.stored.as_ref().unwrap(), place))
            .collect();
        for (place, (name, value)) in fields.iter().enumerate() {
            let (field, spelling) = (name.stored.clone().unwrap(), name.source.as_ref().unwrap());
            let source = value.source.as_ref().unwrap();
            self.member(spelling, source);
            for action in &name.actions {
                self.issue(&field, action, spelling.original());
            }
            if last[&field] != place {
                self.issue(&field, TWICE, source.original());
                self.source.is_legal = false;
                continue;
            }
            for action in &value.actions {
                self.issue(&field, action, source.original());
            }
            self.extra.insert(field, value.stored.clone().unwrap());
        }
    }

    fn member(&mut self, name: &Source, value: &Source) {
        if self.source.bytes.len() > 1 {
            self.source.push(",");
        }
        self.source.append(name);
        self.source.push(":");
        self.source.append(value);
    }

    fn issue(&mut self, field: &str, action: &'static str, original: String) {
        let (key, field) = (self.key.clone(), field.to_owned());
        self.issues.push((self.table, key, field, action, original));
    }

    fn stored_extra(&self) -> Option<String> {
        let members: Vec<String> = self
            .extra
            .iter()
            .map(|(name, value)| format!("{}:{value}", quoted(name)))
            .collect();
        (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
    }

    fn finish(&mut self) -> Source {
        self.source.push("}");
        self.source.clone()
    }

    fn drop(&mut self) {
        self.issues.clear();
        self.issue("", DROPPED, self.source.original());
    }
}

#[derive(Debug, Clone)]
enum Id {
    Number,
    Text,
    Decimal,
    Missing,
    WrongType,
    Beyond,
}

#[derive(Debug, Clone)]
enum Digest {
    Text(Vec<Piece>),
    Unusable(Option<&'static str>),
}

#[derive(Debug, Clone)]
struct Artifact {
    id: Id,
    digest: Digest,
    has_repository: bool,
    integers: [Value; 2],
    texts: [Value; 4],
    times: [Value; 2],
    tags: Tags,
    extra: Vec<(Value, Value)>,
    history: History,
}

/// The common part of a namespace and a repository of the catalog.
#[derive(Debug, Clone)]
struct Entry {
    id: Id,
    names: [Value; 2],
    integers: [Value; 4],
    description: Value,
    times: [Value; 2],
    metadata: Value,
    extra: Vec<(Value, Value)>,
}

#[derive(Debug, Clone)]
enum Tags {
    Missing(bool),
    WrongType(&'static str),
    List(Vec<Tag>),
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "most are the large one")]
enum Tag {
    Kept {
        name: Vec<Piece>,
        id: Value,
        times: [Value; 2],
        extra: Vec<(Value, Value)>,
    },
    Dropped(&'static str),
}

#[derive(Debug, Clone)]
struct History {
    total: Value,
    extra: Vec<(Value, Value)>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "most are the large one")]
enum Step {
    NoObject(&'static str),
    Object {
        created: Created,
        command: Value,
        empty_layer: Value,
        layer: Layer,
        extra: Vec<(Value, Value)>,
    },
}

/// Which of the two names the time has.
#[derive(Debug, Clone)]
enum Created {
    Live(Value),
    Documented(Value),
    Both(Value),
}

#[derive(Debug, Clone)]
enum Layer {
    Named {
        digest: Vec<Piece>,
        media_type: Value,
        size: Value,
    },
    None([Option<&'static str>; 3]),
}

fn tag() -> impl Strategy<Value = Tag> {
    let times = [time(6, true).boxed(), time(6, true).boxed()];
    let kept =
        (pieces(), integer(), times, extra()).prop_map(|(name, id, times, extra)| Tag::Kept {
            name,
            id,
            times,
            extra,
        });
    let dropped = prop_oneof![
        Just("null"),
        Just("7"),
        Just("\"v1\""),
        Just("{}"),
        Just("{\"name\":\"\"}"),
        Just("{\"name\":null,\"id\":1}"),
        Just("{\"name\":[\"v1\"]}"),
    ];
    prop_oneof![8 => kept, 1 => dropped.prop_map(Tag::Dropped)]
}

fn step() -> impl Strategy<Value = Step> {
    let created = prop_oneof![
        time(9, false).prop_map(Created::Live),
        time(9, false).prop_map(Created::Documented),
        time(9, false).prop_map(Created::Both),
    ];
    let nothing =
        |empty: &'static str| prop_oneof![Just(None), Just(Some("null")), Just(Some(empty))];
    let layer = prop_oneof![
        (pieces(), text(), integer()).prop_map(|(digest, media_type, size)| Layer::Named {
            digest,
            media_type,
            size
        }),
        (nothing("\"\""), nothing("\"\""), nothing("0"))
            .prop_map(|(digest, media_type, size)| Layer::None([digest, media_type, size])),
    ];
    let object = (created, text(), boolean(), layer, extra()).prop_map(
        |(created, command, empty_layer, layer, extra)| Step::Object {
            created,
            command,
            empty_layer,
            layer,
            extra,
        },
    );
    let other = prop_oneof![Just("null"), Just("1e3"), Just("[{}]"), Just("\"step\"")];
    prop_oneof![15 => object, 1 => other.prop_map(Step::NoObject)]
}

fn id() -> impl Strategy<Value = Id> {
    prop_oneof![
        12 => Just(Id::Number),
        2 => Just(Id::Text),
        2 => Just(Id::Decimal),
        1 => Just(Id::Missing),
        1 => Just(Id::WrongType),
        1 => Just(Id::Beyond),
    ]
}

impl Id {
    /// The id as written in the row, and the key of the row in issues.
    fn spell(&self, id: i64, place: usize) -> (String, Option<String>) {
        match self {
            Id::Number => (id.to_string(), Some(id.to_string())),
            Id::Text => (id.to_string(), Some(format!("\"{id}\""))),
            Id::Decimal => (id.to_string(), Some(format!("{id}.0"))),
            Id::Missing => (String::new(), None),
            Id::WrongType => (String::new(), Some("true".to_owned())),
            Id::Beyond => {
                let beyond = format!("9223372036854775{}", 808 + place % 192);
                (beyond.clone(), Some(beyond))
            }
        }
    }

    fn is_readable(&self) -> bool {
        matches!(self, Id::Number | Id::Text | Id::Decimal)
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let integers = [
        integer().boxed(),
        integer().boxed(),
        integer().boxed(),
        integer().boxed(),
    ];
    let times = [time(6, true).boxed(), time(6, true).boxed()];
    let metadata = prop_oneof![
        any::<bool>().prop_map(Value::missing).boxed(),
        json().boxed()
    ];
    (
        id(),
        [text().boxed(), text().boxed()],
        integers,
        text(),
        times,
        metadata,
        extra(),
    )
        .prop_map(
            |(id, names, integers, description, times, metadata, extra)| Entry {
                id,
                names,
                integers,
                description,
                times,
                metadata,
                extra,
            },
        )
}

fn artifact() -> impl Strategy<Value = Artifact> {
    let unusable = prop_oneof![
        Just(None),
        Just(Some("null")),
        Just(Some("\"\"")),
        Just(Some("7"))
    ];
    let digest = prop_oneof![15 => pieces().prop_map(Digest::Text), 1 => unusable.prop_map(Digest::Unusable)];
    let tags = prop_oneof![
        1 => any::<bool>().prop_map(Tags::Missing),
        1 => prop_oneof![Just("{}"), Just("\"v1\""), Just("{\"name\":\"v1\"}")].prop_map(Tags::WrongType),
        4 => vec(tag(), 0..4).prop_map(Tags::List),
    ];
    let history =
        (integer(), extra(), vec(step(), 0..6)).prop_map(|(total, extra, steps)| History {
            total,
            extra,
            steps,
        });
    let values = (
        [integer().boxed(), integer().boxed()],
        [
            text().boxed(),
            text().boxed(),
            text().boxed(),
            text().boxed(),
        ],
        [time(6, true).boxed(), time(6, true).boxed()],
    );
    (
        id(),
        digest,
        prop::bool::weighted(0.95),
        values,
        tags,
        extra(),
        history,
    )
        .prop_map(
            |(id, digest, has_repository, (integers, texts, times), tags, extra, history)| {
                Artifact {
                    id,
                    digest,
                    has_repository,
                    integers,
                    texts,
                    times,
                    tags,
                    extra,
                    history,
                }
            },
        )
}

/// The expected content of the tables after a listing: rows of columns. JSON is marked.
#[derive(Default)]
struct Expected {
    namespaces: Vec<Vec<Option<Cell>>>,
    repositories: Vec<Vec<Option<Cell>>>,
    artifacts: Vec<Vec<Option<Cell>>>,
    tags: Vec<Vec<Option<Cell>>>,
    manifests: Vec<Vec<Option<Cell>>>,
    steps: Vec<Vec<Option<Cell>>>,
    issues: Vec<Issue>,
}

#[derive(Debug, Clone)]
enum Cell {
    Text(String),
    Json(String),
}

fn cell(text: impl ToString) -> Option<Cell> {
    Some(Cell::Text(text.to_string()))
}

fn stored(value: &Value) -> Option<Cell> {
    value.stored.clone().map(Cell::Text)
}

/// Puts this text before the pieces.
fn prefixed(prefix: String, pieces: &[Piece]) -> Value {
    let mut all: Vec<Piece> = prefix.chars().map(Piece::Plain).collect();
    all.extend_from_slice(pieces);
    text_of(&all)
}

impl Expected {
    /// Writes the row of the list, and the history of its digest if that will be requested.
    fn artifact(
        &mut self,
        number: u64,
        place: usize,
        id: i64,
        document: &Artifact,
    ) -> (Source, Option<(String, Source)>) {
        let (key, id_source) = document.id.spell(id, place);
        let mut row = Row::new("artifact", key);
        if let Some(source) = id_source {
            row.nested("id", &Source::new(source));
        }
        let digest = match &document.digest {
            Digest::Text(pieces) => prefixed(format!("sha256:{number}.{place}-"), pieces),
            Digest::Unusable(source) => Value {
                source: source.map(Source::new),
                ..Value::missing(false)
            },
        };
        row.field("digest", &digest);
        if document.has_repository {
            row.nested("repository_id", &Source::new("2"));
        }
        let [namespace_id, size] = &document.integers;
        row.field("namespace_id", namespace_id);
        row.field("size", size);
        let [repository_name, kind, media_type, manifest_media_type] = &document.texts;
        row.field("repository_name", repository_name);
        row.field("type", kind);
        row.field("media_type", media_type);
        row.field("manifest_media_type", manifest_media_type);
        let [pushed_at, pulled_at] = &document.times;
        row.field("push_time", pushed_at);
        row.field("pull_time", pulled_at);
        let (mut tags, mut tag_issues) = (Vec::new(), Vec::new());
        match &document.tags {
            Tags::Missing(is_null) => row.field("tags", &Value::missing(*is_null)),
            Tags::WrongType(source) => row.field("tags", &Value::refused(*source, WRONG_TYPE)),
            Tags::List(documents) => {
                let mut list = Source::new("[");
                for (tag_place, tag) in documents.iter().enumerate() {
                    if tag_place > 0 {
                        list.push(",");
                    }
                    let name = format!("t{place}.{tag_place}-");
                    list.append(&spell_tag(name, id, tag, &mut tags, &mut tag_issues));
                }
                list.push("]");
                row.nested("tags", &list);
            }
        }
        row.extra(&document.extra);
        let source = row.finish();
        let has_digest = matches!(document.digest, Digest::Text(_));
        if !document.id.is_readable() || !has_digest || !document.has_repository {
            row.drop();
            self.issues.append(&mut row.issues);
            return (source, None);
        }
        let extra = row.stored_extra().map(Cell::Json);
        self.issues.append(&mut row.issues);
        self.issues.append(&mut tag_issues);
        self.tags.append(&mut tags);
        let digest = digest.stored.unwrap();
        self.artifacts.push(vec![
            cell(id),
            cell(2),
            stored(namespace_id),
            stored(repository_name),
            cell(&digest),
            stored(kind),
            stored(media_type),
            stored(manifest_media_type),
            stored(size),
            stored(pushed_at),
            stored(pulled_at),
            extra,
        ]);
        let history = self.history(number, place, id, &digest, &document.history);
        (source, Some((digest, history)))
    }

    /// Writes a row of the catalog's lists.
    fn entry(&mut self, table: &'static str, place: usize, document: &Entry) -> Source {
        let id = 100 + place as i64;
        let (key, id_source) = document.id.spell(id, place);
        let mut row = Row::new(table, key);
        let [name, namespace_name] = &document.names;
        let [namespace_id, tag_count, artifact_count, pull_count] = &document.integers;
        let [created_at, updated_at] = &document.times;
        let is_namespace = table == "namespace";
        if let Some(source) = id_source {
            let name = if is_namespace { "namespace_id" } else { "id" };
            row.nested(name, &Source::new(source));
        }
        row.field("name", name);
        row.field("created_at", created_at);
        row.field("updated_at", updated_at);
        if is_namespace {
            row.field("repo_count", tag_count);
            row.field("metadata", &document.metadata);
        } else {
            row.field("namespace_name", namespace_name);
            row.field("namespace_id", namespace_id);
            row.field("tag_count", tag_count);
            row.field("artifact_count", artifact_count);
            row.field("pull_count", pull_count);
            row.field("description", &document.description);
        }
        row.extra(&document.extra);
        let source = row.finish();
        let has_names = name.stored.is_some() && (is_namespace || namespace_name.stored.is_some());
        if document.id.is_readable() && has_names {
            let times = [stored(created_at), stored(updated_at)];
            let extra = [row.stored_extra().map(Cell::Json)];
            let head = [cell(id), stored(name)];
            if is_namespace {
                let metadata = document.metadata.stored.clone();
                let metadata = metadata.filter(|json| json != "null");
                let values = [stored(tag_count), metadata.map(Cell::Json)];
                self.namespaces
                    .push([&head[..], &values, &times, &extra].concat());
            } else {
                let values = [
                    namespace_name,
                    namespace_id,
                    tag_count,
                    artifact_count,
                    pull_count,
                    &document.description,
                ];
                self.repositories
                    .push([&head[..], &values.map(stored), &times, &extra].concat());
            }
        } else {
            row.drop();
        }
        self.issues.append(&mut row.issues);
        source
    }

    fn history(
        &mut self,
        number: u64,
        place: usize,
        id: i64,
        digest: &str,
        document: &History,
    ) -> Source {
        let mut row = Row::new("manifest", digest.to_owned());
        row.field("total", &document.total);
        let mut list = Source::new("[");
        for (position, step) in (1..).zip(&document.steps) {
            if position > 1 {
                list.push(",");
            }
            let layer = format!("l{number}.{place}.{position}-");
            list.append(&self.step(format!("{digest} {position}"), layer, id, position, step));
        }
        list.push("]");
        row.nested("build_histories", &list);
        row.extra(&document.extra);
        let outcome = if document.steps.is_empty() {
            "empty"
        } else {
            "stored"
        };
        let extra = row.stored_extra().map(Cell::Json);
        self.manifests.push(vec![
            cell(digest),
            cell(outcome),
            stored(&document.total),
            extra,
        ]);
        let source = row.finish();
        self.issues.append(&mut row.issues);
        source
    }

    fn step(
        &mut self,
        key: String,
        layer_name: String,
        id: i64,
        position: usize,
        step: &Step,
    ) -> Source {
        let mut row = Row::new("build_step", key);
        let head = [cell(id), cell(position)];
        let (created, command, empty_layer, layer, extra) = match step {
            Step::Object {
                created,
                command,
                empty_layer,
                layer,
                extra,
            } => (created, command, empty_layer, layer, extra),
            Step::NoObject(source) => {
                row.issue("", WRONG_TYPE, Source::new(*source).original());
                self.issues.append(&mut row.issues);
                let nothing = [None, None, cell("f"), None, None, None, None];
                self.steps.push([&head[..], &nothing].concat());
                return Source::new(*source);
            }
        };
        let created_at = match created {
            Created::Live(value) => {
                row.field("created", value);
                stored(value)
            }
            Created::Documented(value) => {
                row.field("created_at", value);
                stored(value)
            }
            Created::Both(value) => {
                let other = Value::kept(
                    Source::new("\"2020-01-01T00:00:00Z\""),
                    "1577836800000000000",
                );
                row.field("created", value);
                if value.stored.is_some() {
                    row.left_over("created_at", &other);
                    stored(value)
                } else {
                    row.field("created_at", &other);
                    stored(&other)
                }
            }
        };
        row.field("created_by", command);
        row.field("empty_layer", empty_layer);
        let layer = match layer {
            Layer::Named {
                digest,
                media_type,
                size,
            } => {
                let digest = prefixed(layer_name, digest);
                row.field("digest", &digest);
                row.field("mediaType", media_type);
                row.field("size", size);
                let media_type = media_type.stored.clone().filter(|text| !text.is_empty());
                [stored(&digest), stored(size), media_type.map(Cell::Text)]
            }
            Layer::None(sources) => {
                for (name, source) in ["digest", "mediaType", "size"].iter().zip(sources) {
                    if let Some(source) = source {
                        row.nested(name, &Source::new(*source));
                    }
                }
                [None, None, None]
            }
        };
        row.extra(extra);
        let values = [created_at, stored(command), stored(empty_layer)];
        let extra = [row.stored_extra().map(Cell::Json)];
        self.steps
            .push([&head[..], &values, &layer, &extra].concat());
        let source = row.finish();
        self.issues.append(&mut row.issues);
        source
    }
}

fn spell_tag(
    name: String,
    artifact_id: i64,
    tag: &Tag,
    tags: &mut Vec<Vec<Option<Cell>>>,
    issues: &mut Vec<Issue>,
) -> Source {
    let mut row = Row::new("tag", format!("artifact {artifact_id}"));
    let Tag::Kept {
        name: pieces,
        id,
        times: [pushed_at, pulled_at],
        extra,
    } = tag
    else {
        let Tag::Dropped(source) = tag else {
            unreachable!()
        };
        row.source = Source::new(*source);
        row.drop();
        issues.append(&mut row.issues);
        return Source::new(*source);
    };
    let name = prefixed(name, pieces);
    row.field("name", &name);
    row.field("id", id);
    row.field("push_time", pushed_at);
    row.field("pull_time", pulled_at);
    row.extra(extra);
    tags.push(vec![
        cell(artifact_id),
        stored(&name),
        stored(id),
        stored(pushed_at),
        stored(pulled_at),
        row.stored_extra().map(Cell::Json),
    ]);
    let source = row.finish();
    issues.append(&mut row.issues);
    source
}

type Rows = BTreeSet<Vec<Option<String>>>;

/// Converts JSON to PostgreSQL's format, so that rows can be compared.
async fn normalised(connection: &mut PgConnection, rows: Vec<Vec<Option<Cell>>>) -> Rows {
    let json: Vec<&String> = rows
        .iter()
        .flatten()
        .filter_map(|cell| match cell {
            Some(Cell::Json(json)) => Some(json),
            _ => None,
        })
        .collect();
    let mut json = sqlx::query_scalar::<_, String>(
        "select value::jsonb::text from unnest($1::text[]) with ordinality as v (value, place) order by place",
    )
    .bind(json)
    .fetch_all(connection)
    .await
    .unwrap()
    .into_iter();
    let mut normalise = |cell| match cell {
        Cell::Text(text) => text,
        Cell::Json(_) => json.next().unwrap(),
    };
    rows.into_iter()
        .map(|row| {
            row.into_iter()
                .map(|cell| cell.map(&mut normalise))
                .collect()
        })
        .collect()
}

/// The rows of a query as PostgreSQL prints them.
async fn stored_rows(connection: &mut PgConnection, sql: String) -> Vec<Vec<Option<String>>> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection);
    let values = |row: &PgRow| {
        let value = |place| {
            let value = row.try_get_raw(place).unwrap();
            (!value.is_null()).then(|| value.as_str().unwrap().to_owned())
        };
        (0..row.len()).map(value).collect()
    };
    rows.await.unwrap().iter().map(values).collect()
}

/// Syncs the documents as one listing, and compares the stored rows with the expected ones.
async fn check(
    mirror: &Mirror,
    first_id: i64,
    catalog: &[Entry],
    documents: &[Artifact],
) -> Result<usize, TestCaseError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut expected = Expected::default();
    let mut answers = Answers::default();
    let mut rows = Vec::new();
    for (place, document) in documents.iter().enumerate() {
        let (row, history) = expected.artifact(number, place, first_id + place as i64, document);
        rows.push(row);
        answers
            .histories
            .extend(history.map(|(digest, history)| (digest, history.bytes)));
    }
    let pages = rows.len().div_ceil(40).max(1);
    answers.artifacts = (0..pages)
        .map(|page| {
            let mut source = Source::new("{\"artifacts\":[");
            for (place, row) in rows.iter().skip(page * 40).take(40).enumerate() {
                if place > 0 {
                    source.push(",");
                }
                source.append(row);
            }
            source.push("]");
            if page + 1 < pages {
                source.push(&format!(",\"next_marker\":{}", page + 2));
            }
            source.push("}");
            source.bytes
        })
        .collect();
    // In addition to those that contain the artifacts.
    let rows_of = |known: String, rows: Vec<Source>| {
        let mut page = Source::new(known);
        for row in &rows {
            page.push(",");
            page.append(row);
        }
        page.push("]}");
        page.bytes
    };
    let namespaces = catalog.iter().enumerate();
    let namespaces = namespaces
        .map(|(place, entry)| expected.entry("namespace", place, entry))
        .collect();
    let repositories = catalog.iter().enumerate();
    let repositories = repositories
        .map(|(place, entry)| expected.entry("repository", place, entry))
        .collect();
    let total = catalog.len() + 1;
    answers.namespaces = rows_of(
        format!("{{\"total\":{total},\"namespaces\":[{{\"namespace_id\":1,\"name\":\"team\"}}"),
        namespaces,
    );
    answers.repositories = rows_of(
        format!(
            "{{\"total\":\"{total}\",\"repositories\":[{{\"id\":2,\"name\":\"api\",\"namespace_name\":\"team\"}}"
        ),
        repositories,
    );
    let count = rows.len() + answers.histories.len() + 2 * catalog.len();
    mirror.set(answers);
    let instance = format!("case-{number}");
    let report = mirror.try_sync(&instance).await;
    let report = report.map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(report.counters.histories_failed, 0);

    let issues = std::mem::take(&mut expected.issues).into_iter();
    let issues = issues
        .map(|(table, key, field, action, original)| {
            vec![
                cell(table),
                cell(key),
                cell(field),
                cell(action),
                Some(Cell::Json(original)),
            ]
        })
        .collect();
    let mut connection = mirror.database.connect().await;
    let nanoseconds = |column| format!("(extract(epoch from {column}) * 1000000000)::numeric(40)");
    let of_instance =
        format!("join swr.instance i using (instance_id) where i.swr_instance_id = '{instance}'");
    for (what, rows, query) in cases! {
        "namespaces", expected.namespaces => format!("select namespace_id, n.name, repository_count, metadata, {}, {}, extra
                 from swr.namespace n {of_instance} and namespace_id <> 1", nanoseconds("created_at"), nanoseconds("updated_at"));
        "repositories", expected.repositories => format!("select repository_id, r.name, namespace_name, namespace_id, tag_count, artifact_count, pull_count,
                        description, {}, {}, extra
                 from swr.repository r {of_instance} and repository_id <> 2", nanoseconds("created_at"), nanoseconds("updated_at"));
        "artifacts", expected.artifacts => format!("select artifact_id, repository_id, namespace_id, repository_name, digest, type, media_type,
                        manifest_media_type, size_bytes, {}, {}, extra
                 from swr.artifact {of_instance}", nanoseconds("pushed_at"), nanoseconds("pulled_at"));
        "tags", expected.tags => format!("select artifact_id, t.name, tag_id, {}, {}, extra from swr.tag t {of_instance}", nanoseconds("pushed_at"), nanoseconds("pulled_at"));
        "manifests", expected.manifests => format!("select digest, outcome, reported_total, extra from swr.manifest {of_instance}");
        "build steps", expected.steps => format!("select artifact_id, position, {} + created_at_ns, command, empty_layer, layer_digest,
                        layer_size_bytes, layer_media_type, extra
                 from swr_report.build_history {of_instance}", nanoseconds("created_at"));
        "data issues", issues => format!("select table_name, row_key, field, action, original from swr.data_issue {of_instance}");
    } {
        let expected = normalised(&mut connection, rows).await;
        let found = stored_rows(&mut connection, query).await;
        let count = found.len();
        let found: Rows = found.into_iter().collect();
        prop_assert_eq!(found.len(), count, "{} repeat", what);
        let missing: Vec<_> = expected.difference(&found).collect();
        let unexpected: Vec<_> = found.difference(&expected).collect();
        prop_assert!(
            missing.is_empty() && unexpected.is_empty(),
            "{what}: missing {missing:#?}, unexpected {unexpected:#?}"
        );
    }
    Ok(count)
}

#[test]
#[expect(clippy::print_stdout, reason = "a run by hand is for this number")]
fn what_the_registry_gives_is_stored_or_recorded() {
    let is_by_hand = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config {
        // Each step is a separate run.
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    };
    let config = match is_by_hand {
        true => config,
        false => Config { cases: 8, ..config },
    };
    let largest = if is_by_hand { 400 } else { 60 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mirror = runtime.block_on(Mirror::new(Answers::default()));
    let documents = AtomicU64::new(0);
    let first_id = prop_oneof![
        Just(1),
        Just(-50),
        Just(1 << 31),
        Just((1 << 53) + 1),
        Just(i64::MAX - 1_000)
    ];
    let listings = (first_id, vec(entry(), 0..5), vec(artifact(), 0..=largest));
    let outcome = TestRunner::new(config).run(&listings, |(first_id, catalog, listing)| {
        let count = runtime.block_on(check(&mirror, first_id, &catalog, &listing))?;
        documents.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    });
    println!("{} documents", documents.load(Ordering::Relaxed));
    // The connections of the mirror must be closed inside the runtime.
    runtime.block_on(async move { drop(mirror) });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, (first_id, catalog, listing))) => {
            panic!(
                "{reason}\nthe smallest listing that fails, from id {first_id} on: {catalog:?} {listing:?}"
            )
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}
