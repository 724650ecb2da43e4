//! SDK-HMAC-SHA256, Huawei Cloud's request signature (devg-apisign,
//! api-sign-algorithm-002 and -003), as a pure function of request, key and time.
//!
//! The signature covers method, path, query, a chosen set of headers and the
//! hash of the body. There is no derived key and no region or service scope.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

const ALGORITHM: &str = "SDK-HMAC-SHA256";
const DATE: &str = "x-sdk-date";
const SECURITY_TOKEN: &str = "x-security-token";
const CONTENT_SHA256: &str = "x-sdk-content-sha256";
/// Replaces the hash of the body if the body is not part of the signature.
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// All characters except RFC 3986's unreserved ones are encoded, with upper-case hex digits.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// An access key with its secret, and the security token if the pair is temporary.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// The access key id (AK). Not a secret: it is part of each request.
    pub access_key: String,
    /// The secret key (SK).
    pub secret_key: SecretString,
    /// Part of temporary credentials. It is sent and signed as `X-Security-Token`.
    pub security_token: Option<SecretString>,
}

/// The parts of a request that [`sign`] needs.
#[derive(Debug, Clone, Copy)]
pub struct RequestToSign<'a> {
    /// In capitals, such as `GET`.
    pub method: &'a str,
    /// The percent-encoded path as it is sent; `%252F` stays `%252F`.
    pub path: &'a str,
    /// Decoded names and values in any order. Send the query as [`canonical_query`] returns it.
    pub query: &'a [(&'a str, &'a str)],
    /// The headers to sign besides those that [`sign`] returns: `host` (with the
    /// port unless it is the scheme's own) and `x-project-id`. They must arrive
    /// unchanged. Names may be in any case; one with an underscore is not signed.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body's bytes, empty for a GET.
    pub body: &'a [u8],
}

/// The headers to add to a signed request. Names are in lower case.
#[derive(Clone)]
pub struct SignedHeaders {
    /// When the request was signed, as `20251201T030405Z`.
    pub date: String,
    /// `X-Security-Token`, with temporary credentials.
    pub security_token: Option<SecretString>,
    /// `X-Sdk-Content-Sha256`, if the body is not signed because of its content type.
    pub content_sha256: Option<&'static str>,
    /// The whole value of `Authorization`.
    pub authorization: String,
}

impl SignedHeaders {
    /// The names and values to add to the request.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let SignedHeaders {
            date,
            security_token,
            content_sha256,
            authorization,
        } = self;
        [
            Some((DATE, date.as_str())),
            security_token
                .as_ref()
                .map(|token| (SECURITY_TOKEN, token.expose_secret())),
            content_sha256.map(|value| (CONTENT_SHA256, value)),
            Some(("authorization", authorization.as_str())),
        ]
        .into_iter()
        .flatten()
    }
}

/// Does not show the signature: it allows everyone to repeat the request for 15 minutes.
impl fmt::Debug for SignedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedHeaders")
            .field("date", &self.date)
            .field("security_token", &self.security_token)
            .field("content_sha256", &self.content_sha256)
            .field("authorization", &"[REDACTED]")
            .finish()
    }
}

/// Signs a request with the time `at`. The gateway accepts it for 15 minutes before and after that time.
pub fn sign(request: &RequestToSign<'_>, key: &SigningKey, at: DateTime<Utc>) -> SignedHeaders {
    let date = at.format("%Y%m%dT%H%M%SZ").to_string();
    let content_sha256 = content_sha256(request.headers);
    let mut headers: Vec<(String, &str)> = request
        .headers
        .iter()
        .filter(|(name, _)| !name.contains('_'))
        .map(|(name, value)| (name.to_ascii_lowercase(), *value))
        .collect();
    headers.push((DATE.to_owned(), &date));
    if let Some(token) = &key.security_token {
        headers.push((SECURITY_TOKEN.to_owned(), token.expose_secret()));
    }
    if let Some(value) = content_sha256 {
        headers.push((CONTENT_SHA256.to_owned(), value));
    }
    headers.sort_unstable();

    let canonical = canonical_request(
        request.method,
        request.path,
        &canonical_query(request.query),
        &headers,
        &payload_hash(request.body, content_sha256),
    );
    let signed_headers: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let signature = hex(&mac(&key.secret_key, &date, &canonical)
        .finalize()
        .into_bytes());
    let authorization = format!(
        "{ALGORITHM} Access={}, SignedHeaders={}, Signature={signature}",
        key.access_key,
        signed_headers.join(";"),
    );
    SignedHeaders {
        date,
        security_token: key.security_token.clone(),
        content_sha256,
        authorization,
    }
}

/// The query as it is both signed and sent: sorted by name, then by value, byte by byte. A space is
/// `%20`.
pub fn canonical_query(pairs: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let mut pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(name, value)| (name.as_ref(), value.as_ref()))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{}={}", encode(name.as_bytes()), encode(value.as_bytes())))
        .collect();
    pairs.join("&")
}

/// The text whose hash is signed. `headers` are sorted and in lower case.
fn canonical_request(
    method: &str,
    path: &str,
    query: &str,
    headers: &[(impl AsRef<str>, &str)],
    payload_hash: &str,
) -> String {
    let mut text = format!("{method}\n{}\n{query}\n", canonical_path(path));
    for (name, value) in headers {
        text.extend([name.as_ref(), ":", value.trim(), "\n"]);
    }
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_ref()).collect();
    text.extend(["\n", &names.join(";"), "\n", payload_hash]);
    text
}

/// Decodes the path once, encodes each segment once, and adds a slash at the end that only the
/// signature has. So `%252F` stays, and `%2F` becomes a slash.
fn canonical_path(path: &str) -> String {
    let decoded: Cow<'_, [u8]> = percent_decode(path.as_bytes()).into();
    let mut canonical = String::with_capacity(path.len() + 16);
    for segment in decoded.split(|byte| *byte == b'/') {
        canonical.extend(percent_encode(segment, ENCODED));
        canonical.push('/');
    }
    if decoded.ends_with(b"/") {
        canonical.pop();
    }
    canonical
}

/// The value of `X-Sdk-Content-Sha256`: only JSON and BSON bodies are hashed.
fn content_sha256(headers: &[(&str, &str)]) -> Option<&'static str> {
    let (_, content_type) = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))?;
    let content_type = content_type.trim().to_ascii_lowercase();
    let is_hashed = ["application/json", "application/bson"]
        .iter()
        .any(|hashed| content_type.starts_with(hashed));
    (!is_hashed).then_some(UNSIGNED_PAYLOAD)
}

fn payload_hash(body: &[u8], content_sha256: Option<&str>) -> String {
    match content_sha256 {
        Some(value) if !body.is_empty() => value.to_owned(),
        _ => hex(&Sha256::digest(body)),
    }
}

fn mac(secret_key: &SecretString, date: &str, canonical_request: &str) -> Hmac<Sha256> {
    #[expect(
        clippy::expect_used,
        reason = "HMAC takes a key of any length (RFC 2104)"
    )]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret_key.expose_secret().as_bytes())
        .expect("HMAC takes a key of any length");
    let hash = hex(&Sha256::digest(canonical_request));
    mac.update(format!("{ALGORITHM}\n{date}\n{hash}").as_bytes());
    mac
}

fn encode(bytes: &[u8]) -> percent_encoding::PercentEncode<'_> {
    percent_encode(bytes, ENCODED)
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
