//! Checks that docs/swr-sync.schema.json is the schema that the program prints, and which files it accepts.

use std::process::Command;

use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use super::read;

fn printed() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_swr-sync"))
        .args(["config", "schema"])
        .env_clear()
        // The command must work without a valid configuration file.
        .env("SWR_SYNC_CONFIG", "/nowhere/swr-sync.toml")
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_schema_of_the_configuration_file_is_what_the_program_prints() {
    assert_eq!(read("docs/swr-sync.schema.json"), printed());
}

#[test]
fn the_schema_tells_files_apart() {
    let schema: Value = serde_json::from_str(&printed()).unwrap();
    let fits = |text: &str| fits(&schema, &schema, &document(text));

    assert!(fits(&read("docs/swr-sync.example.toml")));
    let good = [
        "",
        "max_in_flight = 8\nmax_requests_per_second = 0.5\nredact_commands = true\nlog_format = 'json'",
        "database_url = 'postgresql://me@host/name'",
        "[[source]]\ninstances = ['a', 'b']\n[source.credentials]\nsecret_key_env = 'A'\nuse = 'profile'",
        "[[source]]\nname = 'a'\n[[source]]\nname = 'b.c-d_e'",
    ];
    for text in good {
        assert!(fits(text), "{text}");
    }
    let bad = [
        "max_in_flihgt = 8",
        "max_in_flight = '8'",
        "max_in_flight = 8.5",
        "redact_commands = 'yes'",
        "log_format = 'yaml'",
        "project_id = 'belongs into a source'",
        "database_url = 'a'\ndatabase_url_file = 'b'",
        "[source]\nname = 'a'",
        "[[source]]\nmax_parallel_instances = 3",
        "[[source]]\nname = 'a b'",
        "[[source]]\ninstances = []",
        "[[source]]\ninstances = [1]",
        "[[source]]\n[source.credentials]\nsecret_key = 'a'\nsecret_key_env = 'A'",
        "[[source]]\n[source.credentials]\nuse = 'magic'",
        "[[source]]\n[source.credentials]\nprofile_env = 'A'",
    ];
    for text in bad {
        assert!(!fits(text), "{text}");
    }
}

/// The file as JSON, for the schema.
fn document(text: &str) -> Value {
    table(DeTable::parse(text).unwrap().get_ref())
}

fn table(table: &DeTable<'_>) -> Value {
    let members = table.iter();
    let members = members.map(|(name, value)| (name.get_ref().to_string(), json(value.get_ref())));
    members.collect::<Map<_, _>>().into()
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => serde_json::from_str(number.as_str()).unwrap(),
        DeValue::Float(number) => serde_json::from_str(number.as_str()).unwrap(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(at) => at.to_string().into(),
        DeValue::Array(values) => values.iter().map(|value| json(value.get_ref())).collect(),
        DeValue::Table(members) => table(members),
    }
}

/// Implements the keywords of JSON Schema that ours uses; any other keyword fails the test.
fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let all_fit = |schemas: &Value, every: bool| {
        let mut schemas = schemas.as_array().unwrap().iter();
        match every {
            true => schemas.all(|schema| fits(root, schema, value)),
            false => schemas.any(|schema| fits(root, schema, value)),
        }
    };
    let known = json!({});
    let properties = schema.get("properties").unwrap_or(&known);
    schema
        .as_object()
        .unwrap()
        .iter()
        .all(|(keyword, what)| match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "$defs" => true,
            "$ref" => {
                let pointer = what.as_str().unwrap().strip_prefix('#').unwrap();
                fits(root, root.pointer(pointer).unwrap(), value)
            }
            "type" => match what.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64(),
                "number" => value.is_number(),
                other => panic!("unknown type {other}"),
            },
            "enum" => what.as_array().unwrap().contains(value),
            "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
            "pattern" => value.as_str().is_none_or(|text| {
                assert_eq!(what, "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$");
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            }),
            "items" => value
                .as_array()
                .is_none_or(|items| items.iter().all(|item| fits(root, what, item))),
            "minItems" => value.as_array().is_none_or(|items| !items.is_empty()),
            "properties" => value.as_object().is_none_or(|members| {
                let mut known = members
                    .iter()
                    .filter_map(|(name, value)| Some((what.get(name)?, value)));
                known.all(|(schema, value)| fits(root, schema, value))
            }),
            "additionalProperties" => {
                assert_eq!(what, false);
                let members = value.as_object();
                members
                    .is_none_or(|members| members.keys().all(|name| properties.get(name).is_some()))
            }
            "required" => value.as_object().is_some_and(|members| {
                let mut names = what.as_array().unwrap().iter();
                names.all(|name| members.contains_key(name.as_str().unwrap()))
            }),
            "anyOf" => all_fit(what, false),
            "not" => !fits(root, what, value),
            other => panic!("the test does not know the keyword {other}"),
        })
}
