//! The request signature, compared with vectors from the official Python SDK.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use swr_sync::registry::signature::{RequestToSign, SigningKey, canonical_query, sign};

#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    request: Request,
    credentials: Credentials,
    x_sdk_date: String,
    expected: Expected,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    host: String,
    path: String,
    query: Vec<(String, String)>,
    headers: BTreeMap<String, String>,
    body: Option<String>,
}

#[derive(Deserialize)]
struct Credentials {
    ak: String,
    sk: String,
    security_token: Option<String>,
    project_id: Option<String>,
}

#[derive(Deserialize)]
struct Expected {
    canonical_query: String,
    authorization: String,
    headers: BTreeMap<String, String>,
}

impl Vector {
    fn key(&self) -> SigningKey {
        SigningKey {
            access_key: self.credentials.ak.clone(),
            secret_key: self.credentials.sk.clone().into(),
            security_token: self.credentials.security_token.clone().map(Into::into),
        }
    }

    fn at(&self) -> DateTime<Utc> {
        NaiveDateTime::parse_from_str(&self.x_sdk_date, "%Y%m%dT%H%M%SZ")
            .unwrap()
            .and_utc()
    }

    fn body(&self) -> &[u8] {
        self.request.body.as_deref().unwrap_or_default().as_bytes()
    }
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("../data/signing-vectors.json");
    let Vectors { vectors } = serde_json::from_str(text).unwrap();
    assert_eq!(vectors.len(), 30);
    vectors
}

#[test]
fn every_published_vector_gives_the_same_authorization_header() {
    for vector in vectors() {
        let request = &vector.request;
        let query: Vec<(&str, &str)> = request
            .query
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let mut headers: Vec<(&str, &str)> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        headers.push(("Host", &request.host));
        headers.extend(
            vector
                .credentials
                .project_id
                .as_deref()
                .map(|id| ("X-Project-Id", id)),
        );

        let signed = sign(
            &RequestToSign {
                method: &request.method,
                path: &request.path,
                query: &query,
                headers: &headers,
                body: vector.body(),
            },
            &vector.key(),
            vector.at(),
        );

        let name = &vector.name;
        assert_eq!(
            signed.authorization, vector.expected.authorization,
            "{name}"
        );
        assert_eq!(
            canonical_query(&query),
            vector.expected.canonical_query,
            "{name}"
        );
        let expected = lower_case(&vector.expected.headers);
        for (header, value) in signed.iter() {
            assert_eq!(
                expected.get(header).map(String::as_str),
                Some(value),
                "{name}"
            );
        }
    }
}

#[test]
fn debug_output_masks_secret_token_and_signature() {
    let key = SigningKey {
        access_key: "AKEXAMPLE".to_owned(),
        secret_key: "the-secret".into(),
        security_token: Some("the-token".into()),
    };
    let request = RequestToSign {
        method: "GET",
        path: "/",
        query: &[],
        headers: &[("host", "localhost")],
        body: b"",
    };
    let signed = sign(&request, &key, DateTime::UNIX_EPOCH);
    let (_, signature) = signed.authorization.rsplit_once('=').unwrap();

    let shown = format!("{key:?} {signed:?}");

    assert!(shown.contains("AKEXAMPLE"));
    for hidden in ["the-secret", "the-token", signature] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
}

fn lower_case(headers: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect()
}
