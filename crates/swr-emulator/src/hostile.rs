//! Unexpected values, as data: a field and its JSON.
//!
//! Written as bytes, because some are not JSON, and some are not text.

use serde::Serialize;
use serde_json::Value;

use super::image::Digest;

/// A field and its value.
pub(super) type HostileValue = (&'static str, Raw);

/// Raw JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw {
    /// These bytes.
    Bytes(&'static [u8]),
    /// A string of a million characters that do not repeat too soon.
    Megabyte,
}

const fn raw(bytes: &'static str) -> Raw {
    Raw::Bytes(bytes.as_bytes())
}

/// In a row of the artifact list.
#[rustfmt::skip]
pub(super) const ROW: &[HostileValue] = &[
    // Sizes.
    ("size", raw("-1")),
    ("size", raw("0")),
    ("size", raw("9223372036854775807")),
    ("size", raw("9223372036854775808")),
    ("size", raw("-9223372036854775809")),
    ("size", raw("1e30")),
    ("size", raw("123456789012345678901234567890123456789012345678901234567890")),
    ("size", raw("12.5")),
    ("size", raw("1.0")),
    // Types.
    ("size", raw("\"12\"")),
    ("size", raw("\"many\"")),
    ("size", raw("true")),
    ("size", raw("[1]")),
    ("type", raw("7")),
    ("type", raw("null")),
    ("type", raw("{\"is\":\"IMAGE\"}")),
    ("media_type", raw("[]")),
    ("manifest_media_type", raw("false")),
    ("namespace_id", raw("\"7\"")),
    ("namespace_id", raw("9007199254740993")),
    ("repository_name", raw("12")),
    ("tags", raw("{}")),
    ("tags", raw("\"latest\"")),
    ("tags", raw("[null]")),
    ("tags", raw("[\"latest\", 1, {}]")),
    ("tags", raw("[{\"name\":\"\"},{\"name\":null},{\"name\":7}]")),
    ("tags", raw("[{\"name\":\"odd-time\",\"id\":-1,\"push_time\":12,\"pull_time\":\"never\"}]")),
    ("tags", raw("[{\"name\":\"wrong-owner\",\"id\":9007199254740993,\"artifact_id\":1,\"repository_id\":1}]")),
    ("tags", raw("[{\"name\":\"twice\",\"id\":1},{\"name\":\"twice\",\"id\":2}]")),
    // Times.
    ("push_time", raw("\"\"")),
    ("push_time", raw("\"yesterday\"")),
    ("push_time", raw("1764558245")),
    ("push_time", raw("null")),
    ("push_time", raw("\"2025-12-01 03:04:05\"")),
    ("push_time", raw("\"2025-12-01T03:04:05\"")),
    ("push_time", raw("\"2025-12-01t03:04:05z\"")),
    ("push_time", raw("\"2025-12-01T03:04:05.123456789+11:00\"")),
    ("push_time", raw("\"2025-12-31T23:59:60Z\"")),
    ("push_time", raw("\"9999-12-31T23:59:59.999999999Z\"")),
    ("push_time", raw("\"10000-01-01T00:00:00Z\"")),
    ("push_time", raw("\"+300000-01-01T00:00:00Z\"")),
    ("pull_time", raw("\"0000-00-00T00:00:00Z\"")),
    ("pull_time", raw("\"0001-01-01T00:00:00Z\"")),
    ("pull_time", raw("\"1970-01-01T00:00:00Z\"")),
    ("pull_time", raw("\"-0001-01-01T00:00:00Z\"")),
    // Text.
    ("type", raw("\"IMAGE\\u0000\"")),
    ("media_type", raw("\"\\u0000\"")),
    ("media_type", raw("\"a\\ttab, a \\\"quote\\\", a \\\\ and a new\\nline\"")),
    ("media_type", raw("\"\u{202e}gpj.exe\u{feff}\u{1f4a9}\\ud83d\\udca9\"")),
    ("repository_name", raw("\"'; drop table swr.artifact; --\"")),
    ("media_type", Raw::Megabyte),
    ("tags", raw("[{\"name\":\"nul\\u0000nul\",\"id\":3}]")),
    // Fields without a column.
    ("x_unknown", raw("\"value\"")),
    ("x_unknown", raw("{\"deep\":[1,2.5,{\"a\\u0000b\":\"c\\u0000d\"}],\"big\":1e300}")),
    ("x_unknown", raw("123456789012345678901234567890")),
    ("x\\u0000unknown", raw("1")),
    ("", raw("\"a field without a name\"")),
];

/// In a row of the artifact list: text that is not Unicode.
#[rustfmt::skip]
pub(super) const BROKEN_ROW: &[HostileValue] = &[
    ("media_type", raw("\"\\ud800\"")),
    ("type", raw("\"\\udfff\\ud800 reversed\"")),
    ("tags", raw("[{\"name\":\"half-\\ud83d\",\"id\":4}]")),
    ("x_unknown", raw("{\"\\ud800\":\"\\udc00\"}")),
    ("media_type", Raw::Bytes(b"\"\xff\xfe\"")),
    ("repository_name", Raw::Bytes(b"\"caf\xe9\"")),
    ("tags", Raw::Bytes(b"[{\"name\":\"\xc3\x28\",\"id\":5}]")),
    ("x_unknown", Raw::Bytes(b"\"\xed\xa0\x80\"")),
];

/// In an entry of a build history.
#[rustfmt::skip]
pub(super) const STEP: &[HostileValue] = &[
    // Times (7.3 of the API facts): 0 to 9 decimals, offsets, and invalid times.
    ("created", raw("\"2025-12-01T03:04:05Z\"")),
    ("created", raw("\"2025-12-01T03:04:05.1Z\"")),
    ("created", raw("\"2025-12-01T03:04:05.123456Z\"")),
    ("created", raw("\"2025-12-01T03:04:05.1234567Z\"")),
    ("created", raw("\"2025-12-01T03:04:05.12345678Z\"")),
    ("created", raw("\"2025-12-01T03:04:05.123456789Z\"")),
    ("created", raw("\"2025-12-01T03:04:05.1234567891234Z\"")),
    ("created", raw("\"2025-12-01T03:04:05.999999999+02:00\"")),
    ("created", raw("\"2025-12-01T03:04:05+11:00\"")),
    ("created", raw("\"2025-12-01T03:04:05-00:00\"")),
    ("created", raw("\"1970-01-01T00:00:00Z\"")),
    ("created", raw("\"0001-01-01T00:00:00Z\"")),
    ("created", raw("\"9999-12-31T23:59:59.999999999Z\"")),
    ("created", raw("\"2025-12-31T23:59:60Z\"")),
    ("created", raw("\"\"")),
    ("created", raw("null")),
    ("created", raw("1764558245")),
    ("created", raw("\"Mon Dec  1 03:04:05 2025\"")),
    ("created", raw("\"2025-13-45T99:99:99Z\"")),
    ("created", raw("{\"seconds\":1}")),
    // Commands.
    ("created_by", Raw::Megabyte),
    ("created_by", raw("\"\"")),
    ("created_by", raw("null")),
    ("created_by", raw("[\"sh\",\"-c\",\"true\"]")),
    ("created_by", raw("7")),
    ("created_by", raw("\"RUN printf '\\u0000' > /nul # buildkit\"")),
    ("created_by", raw("\"\\u0000\"")),
    ("created_by", raw("\"RUN <<EOF\\nline one\\n\\tline two \\r\\nEOF \"")),
    ("created_by", raw("\"RUN echo \u{202e}\u{1f4a9}\\ud83d\\udca9 && printf '\\\\x00'\"")),
    ("created_by", raw("\"'); drop table swr.command; --\"")),
    // Layers.
    ("size", raw("-1")),
    ("size", raw("9223372036854775808")),
    ("size", raw("1e18")),
    ("size", raw("0.5")),
    ("size", raw("\"77\"")),
    ("size", raw("null")),
    ("digest", raw("\"\"")),
    ("digest", raw("7")),
    ("digest", raw("\"sha512:00\\u0000\"")),
    ("mediaType", raw("null")),
    ("mediaType", raw("[\"a\"]")),
    ("mediaType", raw("\"application/\\u0000\"")),
    ("empty_layer", raw("null")),
    ("empty_layer", raw("\"false\"")),
    ("empty_layer", raw("0")),
    // Fields without a column.
    ("author", raw("\"somebody <somebody@example.com>\"")),
    ("comment", raw("\"buildkit.dockerfile.v0\\u0000\"")),
    ("x_unknown", raw("{\"deep\":[[[[[[[[1e300]]]]]]]],\"a\\u0000b\":null}")),
];

/// In an entry of a build history: text that is not Unicode.
#[rustfmt::skip]
pub(super) const BROKEN_STEP: &[HostileValue] = &[
    ("created_by", raw("\"RUN echo \\ud800\"")),
    ("created_by", raw("\"\\udc00\\ud800\"")),
    ("created_by", Raw::Bytes(b"\"RUN echo \xff\xfe\"")),
    ("created_by", Raw::Bytes(b"\"RUN echo caf\xe9 \xc3\x28\"")),
    ("mediaType", raw("\"\\ud800\"")),
    ("comment", Raw::Bytes(b"\"\xed\xa0\x80\"")),
    ("x_\\ud800", raw("1")),
];

/// Selects an element by a number in [0, 1).
pub(super) fn pick(values: &'static [HostileValue], rolled: f64) -> &'static HostileValue {
    &values[(rolled * values.len() as f64) as usize]
}

/// Writes an object with one field's value replaced, or added.
pub(super) fn write_with(json: &mut Vec<u8>, object: &impl Serialize, hostile: &HostileValue) {
    let (name, value) = hostile;
    json.push(b'{');
    if let Ok(Value::Object(mut fields)) = serde_json::to_value(object) {
        // Values are unusual but not contradictory: a layer has the same size in all
        // histories.
        if fields.contains_key("digest") && fields.contains_key("mediaType") {
            match (*name, value) {
                ("size", Raw::Bytes(size)) => {
                    fields.insert("digest".into(), Digest::of(&[size]).to_string().into());
                }
                ("digest", _) => {
                    fields.insert("size".into(), 1.into());
                }
                _ => {}
            }
        }
        for (field, value) in fields.iter().filter(|(field, _)| field != name) {
            json.extend_from_slice(format!("{}:{value},", Value::from(field.as_str())).as_bytes());
        }
    }
    // The name is written unescaped, so that it can contain escapes.
    json.extend_from_slice(format!("\"{name}\":").as_bytes());
    match value {
        Raw::Bytes(bytes) => json.extend_from_slice(bytes),
        Raw::Megabyte => {
            json.push(b'"');
            for number in 0..100_000 {
                json.extend_from_slice(format!("{number:010}").as_bytes());
            }
            json.push(b'"');
        }
    }
    json.push(b'}');
}
