//! The JSON Schema (2020-12) of the configuration file, for editors, derived from the definitions
//! as the command line.

use serde_json::{Map, Value, json};

use super::credential_keys::{CREDENTIAL_KEYS, CredentialKey};
use super::file::{CREDENTIALS, NAME, NAME_PATTERN, SOURCE};
use super::keys::{DATABASE_URL, DATABASE_URL_FILE, INSTANCES, Key, Kind, Place};

/// The schema of a file with these keys.
pub(crate) fn schema(keys: &[Key]) -> Value {
    let mut top = properties(keys, |place| place != Place::Source);
    top.insert(
        SOURCE.to_owned(),
        json!({
            "description": "A project of a region with some or all of its instances",
            "type": "array",
            "items": { "$ref": "#/$defs/source" },
        }),
    );
    let mut source = properties(keys, |place| place != Place::Top);
    source.insert(
        NAME.to_owned(),
        json!({
            "description": "Name of the source, for --source, logs, summaries and metrics. \
                            Required if there are several",
            "type": "string",
            "pattern": NAME_PATTERN,
        }),
    );
    source.insert(
        CREDENTIALS.to_owned(),
        json!({ "$ref": "#/$defs/credentials" }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration file of swr-sync",
        "type": "object",
        "properties": top,
        "additionalProperties": false,
        "not": { "required": [DATABASE_URL, DATABASE_URL_FILE] },
        "$defs": {
            "source": {
                "type": "object",
                "properties": source,
                "additionalProperties": false,
            },
            "credentials": credentials(),
        },
    })
}

fn properties(keys: &[Key], fits: impl Fn(Place) -> bool) -> Map<String, Value> {
    keys.iter()
        .filter(|key| fits(key.place))
        .map(|key| (key.name.clone(), property(key)))
        .collect()
}

fn property(key: &Key) -> Value {
    let mut property = Map::new();
    property.insert("description".to_owned(), key.help.clone().into());
    if key.name == INSTANCES {
        let id = json!({ "type": "string", "minLength": 1 });
        let forms = json!([id, { "type": "array", "items": id, "minItems": 1 }]);
        property.insert("anyOf".to_owned(), forms);
        return property.into();
    }
    let kind = match key.kind {
        Kind::Boolean => "boolean",
        Kind::Integer => "integer",
        Kind::Number => "number",
        Kind::Text => "string",
        Kind::Texts => "array",
    };
    property.insert("type".to_owned(), kind.into());
    if !key.possible_values.is_empty() {
        property.insert("enum".to_owned(), key.possible_values.clone().into());
    }
    if let Some(default) = &key.default {
        let value = match key.kind {
            Kind::Text | Kind::Texts => default.clone().into(),
            _ => serde_json::from_str(default).unwrap_or_else(|_| default.clone().into()),
        };
        property.insert("default".to_owned(), value);
    }
    property.into()
}

fn credentials() -> Value {
    let mut properties = Map::new();
    let mut conflicts = Vec::new();
    for key in &CREDENTIAL_KEYS {
        let CredentialKey {
            name,
            has_places,
            possible_values,
            help,
            ..
        } = key;
        let mut property = json!({ "description": help, "type": "string", "minLength": 1 });
        if !possible_values.is_empty() {
            property["enum"] = json!(possible_values);
        }
        properties.insert((*name).to_owned(), property);
        if !has_places {
            continue;
        }
        let (file, variable) = (format!("{name}_file"), format!("{name}_env"));
        let text = |what: &str| {
            json!({
                "description": format!("{help}: {what}"),
                "type": "string",
                "minLength": 1,
            })
        };
        properties.insert(file.clone(), text("file that contains it"));
        properties.insert(
            variable.clone(),
            text("environment variable that contains it"),
        );
        conflicts.push(json!({ "required": [name, file] }));
        conflicts.push(json!({ "required": [name, variable] }));
        conflicts.push(json!({ "required": [file, variable] }));
    }
    json!({
        "description": "Credentials. If absent, they come from environment variables, the profile file, pod \
                        identity or the metadata service",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "not": { "anyOf": conflicts },
    })
}
