//! SDK-HMAC-SHA256 as the gateway checks it (devg-apisign, api-sign-algorithm-002 and -003).
//!
//! Shares no code with the client, so that both cannot contain the same mistake. Both are
//! tested with the same published vectors.

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::requests::Arrived;

const ALGORITHM: &str = "SDK-HMAC-SHA256";

/// Everything but RFC 3986's unreserved characters is encoded, with upper-case digits.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A parsed `Authorization` header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authorization<'a> {
    /// Identifies the key, whose secret must be looked up.
    pub(super) access_key: &'a str,
    /// Lower-case names joined by `;`.
    signed_headers: &'a str,
    /// Lower-case hex.
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// The parts of `SDK-HMAC-SHA256 Access=…, SignedHeaders=…, Signature=…`.
    pub(super) fn parse(value: &'a str) -> Option<Authorization<'a>> {
        let mut parts = value.strip_prefix(ALGORITHM)?.split(',').map(str::trim);
        let authorization = Authorization {
            access_key: parts.next()?.strip_prefix("Access=")?,
            signed_headers: parts.next()?.strip_prefix("SignedHeaders=")?,
            signature: parts.next()?.strip_prefix("Signature=")?,
        };
        parts.next().is_none().then_some(authorization)
    }

    /// Whether the signature is correct for this request and secret. Does not
    /// check the age of the date. `X-Sdk-Date` must be among the signed headers.
    pub(super) fn matches(&self, request: &Arrived<'_>, secret_key: &SecretString) -> bool {
        let is_dated = self
            .signed_headers
            .split(';')
            .any(|name| name == "x-sdk-date");
        let signature = self.expected_signature(request, secret_key);
        is_dated && signature.as_deref() == Some(self.signature)
    }

    /// `None` if a signed header is missing.
    fn expected_signature(
        &self,
        request: &Arrived<'_>,
        secret_key: &SecretString,
    ) -> Option<String> {
        let mut canonical = format!(
            "{}\n{}\n{}\n",
            request.method,
            canonical_path(request.path),
            canonical_query(request.query)
        );
        for name in self.signed_headers.split(';') {
            canonical.extend([name, ":", request.header(name)?.trim(), "\n"]);
        }
        let payload = match request.header("x-sdk-content-sha256") {
            Some(named) if !request.body.is_empty() => named.to_owned(),
            _ => sha256(request.body),
        };
        canonical.extend(["\n", self.signed_headers, "\n", &payload]);

        let date = request.header("x-sdk-date")?;
        let secret_key = secret_key.expose_secret().as_bytes();
        // HMAC takes a key of any length (RFC 2104).
        let mut mac = Hmac::<Sha256>::new_from_slice(secret_key).ok()?;
        mac.update(format!("{ALGORITHM}\n{date}\n{}", sha256(canonical.as_bytes())).as_bytes());
        Some(hex(&mac.finalize().into_bytes()))
    }
}

/// The path decoded once, each segment encoded once, and a slash at the end.
fn canonical_path(path: &str) -> String {
    let decoded: Vec<u8> = percent_decode(path.as_bytes()).collect();
    let segments = decoded.split(|byte| *byte == b'/').map(encode);
    let path = segments.collect::<Vec<_>>().join("/");
    if path.ends_with('/') {
        path
    } else {
        path + "/"
    }
}

/// Sorted by name, then value.
fn canonical_query(query: &str) -> String {
    let mut pairs = parse_query(query);
    pairs.sort_unstable();
    let encoded = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name.as_bytes()), encode(value.as_bytes())));
    encoded.collect::<Vec<_>>().join("&")
}

/// The decoded names and values of a query, in their order.
pub(super) fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    percent_decode(text.as_bytes())
        .decode_utf8_lossy()
        .into_owned()
}

fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, ENCODED).to_string()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderMap, HeaderName, HeaderValue};
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_published_vector_verifies_and_a_changed_one_does_not() {
        let text = include_str!("../../../tests/data/signing-vectors.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 30);
        for vector in vectors {
            let name = &vector["name"];
            let (request, expected) = (&vector["request"], &vector["expected"]);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let headers: HeaderMap = expected["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| {
                    let value = HeaderValue::from_str(&text(value)).unwrap();
                    (name.parse::<HeaderName>().unwrap(), value)
                })
                .collect();
            let authorization = text(&expected["authorization"]);
            let authorization = Authorization::parse(&authorization).unwrap();
            let body = text(&request["body"]);
            let matches = |path: &str, secret_key: &str| {
                let arrived = Arrived {
                    method: &text(&request["method"]),
                    path,
                    query: &text(&expected["canonical_query"]),
                    headers: &headers,
                    body: body.as_bytes(),
                };
                authorization.matches(&arrived, &secret_key.into())
            };
            let (path, secret_key) = (text(&request["path"]), text(&vector["credentials"]["sk"]));
            assert!(matches(&path, &secret_key), "{name}");
            assert!(!matches(&path, "another secret"), "{name}");
            assert!(!matches(&format!("{path}x"), &secret_key), "{name}");
        }
    }
}
