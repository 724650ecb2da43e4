//! Errors of requests, in terms an operator can act on.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use command_findings::{MASK, mask};
use serde_json::Value;

/// A request that failed after all its attempts.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{request}: {failure}{}", Effort { attempts: *attempts, elapsed: *elapsed })]
pub struct RegistryError {
    /// The request as text: `GET …/artifacts?marker=301&limit=100`.
    pub request: String,
    /// Number of attempts.
    pub attempts: u32,
    /// Duration of all attempts together.
    pub elapsed: Duration,
    /// The result of the last attempt. It is part of the message, so it is not a `source` as well.
    pub failure: RequestFailure,
}

struct Effort {
    attempts: u32,
    elapsed: Duration,
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempts {
            0 | 1 => Ok(()),
            attempts => write!(
                f,
                " (after {attempts} attempts in {:.1} s)",
                self.elapsed.as_secs_f64()
            ),
        }
    }
}

/// The ways a request can fail.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestFailure {
    /// An answer with an error status.
    #[error(transparent)]
    Status(#[from] StatusFailure),
    /// IAM did not issue a token.
    #[error("no token: {0}")]
    Login(StatusFailure),
    /// The metadata service or the pod identity agent did not issue a key.
    #[error(transparent)]
    NoKey(Box<NoKey>),
    /// No answer: refused, reset, or timed out.
    #[error("no answer: {reason}")]
    NoAnswer {
        /// The innermost cause in words, without the URL.
        reason: String,
    },
    /// The server's certificate cannot be verified.
    #[error("the server's certificate is not trusted: {reason}")]
    Untrusted {
        /// Why it cannot be verified.
        reason: String,
    },
    /// A success status with an answer that cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A success status with an answer that is larger than the program's limit.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// When the request could start, the caller no longer needed the answer.
    #[error("not requested: the answer is no longer needed")]
    Unwanted,
    /// The listing returned a marker that an earlier page had returned.
    #[error("the listing returned the marker {marker} twice: it would never end")]
    RepeatedMarker { marker: i64 },
    /// The listing returned many pages in a row without a new row.
    #[error("the listing returned {pages} pages in a row without a new row: it would never end")]
    EndlessListing {
        /// Number of pages that were empty or equal to an earlier page.
        pages: u32,
    },
    /// The catalog returned far more entries than its total.
    #[error("the catalog returned {given} {what}, far more than its total: it would never end")]
    EndlessCatalog {
        /// Namespaces, repositories or instances.
        what: &'static str,
        /// Entries received.
        given: u64,
    },
    /// The catalog returned fewer entries than its total in each reading.
    #[error("the catalog gives {given} of {total} {what} and does not settle")]
    IncompleteCatalog {
        /// Namespaces or repositories.
        what: &'static str,
        /// Distinct entries received.
        given: u64,
        /// The total in the answers.
        total: u64,
    },
    /// The credentials cannot be sent: a token with line breaks, for example.
    #[error("the {what} holds characters that a header cannot carry")]
    BadHeader {
        /// The name of the value.
        what: &'static str,
    },
}

/// An answer that cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("unreadable answer: {reason}")]
pub struct Malformed {
    reason: String,
}

impl Malformed {
    pub(super) fn new(reason: impl Into<String>) -> Malformed {
        Malformed {
            reason: reason.into(),
        }
    }
}

/// An answer that exceeds a limit on bytes, entries or values. A retry cannot help.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct TooLarge {
    reason: String,
}

impl TooLarge {
    /// Such as "the build history has more than 8388608 bytes".
    pub(super) fn more_than(what: &str, limit: usize, unit: &str) -> TooLarge {
        let reason = format!("{what} has more than {limit} {unit}");
        TooLarge { reason }
    }

    /// Such as "the build history has 12000 entries; the limit is 10000".
    pub(super) fn exactly(what: &str, size: u64, limit: usize, unit: &str) -> TooLarge {
        let reason = format!("{what} has {size} {unit}; the limit is {limit}");
        TooLarge { reason }
    }
}

/// An answer with an error status and a body of any format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct StatusFailure {
    /// The HTTP status.
    pub status: u16,
    /// The error code: `SVCSTG.SWR.4040010`, `APIGW.0301`, ….
    pub code: Option<String>,
    /// The message, or the beginning of the body if its format is unknown.
    pub message: String,
    /// The request id, which Huawei Cloud's support needs.
    pub request_id: Option<String>,
    /// How far the gateway's clock is ahead of this machine's, if that may be the cause: set for a 401
    /// if the difference is minutes.
    pub clock_skew: Option<TimeDelta>,
}

impl fmt::Display for StatusFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StatusFailure {
            status,
            code,
            message,
            request_id,
            clock_skew,
        } = self;
        write!(f, "HTTP {status}")?;
        if let Some(code) = code {
            write!(f, " {code}")?;
        }
        if !message.is_empty() {
            write!(f, ": {message}")?;
        }
        if let Some(request_id) = request_id {
            write!(f, " (request id {request_id})")?;
        }
        if let Some(skew) = clock_skew {
            let side = if *skew > TimeDelta::zero() {
                "behind"
            } else {
                "ahead of"
            };
            let minutes = skew.num_minutes().abs();
            write!(
                f,
                "; this machine's clock is {minutes} minutes {side} the gateway's"
            )?;
        }
        Ok(())
    }
}

impl StatusFailure {
    /// Whether the answer is from the gateway itself, not from the service behind it.
    pub fn is_from_gateway(&self) -> bool {
        self.code
            .as_deref()
            .is_some_and(|code| code.starts_with("APIGW.") || code.starts_with("APIG."))
    }

    /// Reads an error body: JSON in any of the formats the platform uses, HTML, or nothing.
    ///
    /// `request_id` is from the header; the body is used if that is missing. Quoted credentials are
    /// redacted; `secrets` are those the request was sent with.
    pub(super) fn read(
        status: u16,
        request_id: Option<String>,
        body: &[u8],
        secrets: &[&str],
    ) -> StatusFailure {
        let document = serde_json::from_slice::<Value>(body).ok();
        let found = document.as_ref().and_then(code_and_message);
        let request_id = request_id.or_else(|| {
            let id = document.as_ref()?.get("request_id")?.as_str()?;
            Some(id.to_owned())
        });
        // Redact before truncating: otherwise a part of a truncated secret would remain.
        let shown = |text: &str, limit| one_line(&redact(text, secrets), limit);
        let request_id = request_id.map(|id| shown(&id, MESSAGE_CHARS));
        let (code, message) = match found {
            Some((code, message)) => (
                code.map(|code| shown(&code, MESSAGE_CHARS)),
                shown(&message, MESSAGE_CHARS),
            ),
            None => (
                None,
                shown(&without_markup(&String::from_utf8_lossy(body)), 200),
            ),
        };
        StatusFailure {
            status,
            code,
            message,
            request_id,
            clock_skew: None,
        }
    }
}

/// No key, token or password of the service is shorter. A shorter text may be a part of ordinary words.
pub const SHORTEST_SECRET: usize = 8;
const MESSAGE_CHARS: usize = 1_000;
/// Only so much of a body is searched for secrets and shown, because a body can have megabytes.
const LONGEST_REDACTED: usize = 1 << 16;

/// Field names of code and message, in the order in which the official SDKs try them.
const NAMES: [(&str, &str); 3] = [
    ("error_code", "error_msg"),
    ("errorCode", "errorMessage"),
    ("code", "message"),
];

fn code_and_message(document: &Value) -> Option<(Option<String>, String)> {
    match document {
        Value::Object(fields) => {
            for (code, message) in NAMES {
                let code = fields.get(code).and_then(scalar);
                let text = fields
                    .get(message)
                    .or_else(|| fields.get("errorMsg"))
                    .and_then(scalar);
                if code.is_some() || text.is_some() {
                    return Some((code, text.unwrap_or_default()));
                }
            }
            ["error", "errors"]
                .iter()
                .find_map(|name| code_and_message(fields.get(*name)?))
        }
        Value::Array(entries) => entries.first().and_then(code_and_message),
        _ => None,
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Masks credentials: a gateway may quote the request with its Authorization header, and a proxy may
/// quote the proxy credentials.
fn redact(message: &str, secrets: &[&str]) -> String {
    const MARKS: [&str; 5] = [
        "Signature=",
        "x-security-token:",
        "x-auth-token:",
        "x-subject-token:",
        "proxy-authorization:",
    ];
    let mut text = message.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = match secret.len() < SHORTEST_SECRET {
            true => replace_word(&text, secret, MASK),
            false => text.replace(secret, MASK),
        };
    }
    text.truncate(text.floor_char_boundary(LONGEST_REDACTED));
    for mark in MARKS {
        let mut from = 0;
        while let Some(found) = find_ignoring_case(&text[from..], mark) {
            let after = &text[from + found + mark.len()..];
            let value = after.trim_start_matches([' ', '"', '\'']);
            let value = value.strip_prefix("Basic ").unwrap_or(value);
            let start = text.len() - value.len();
            let end = text[start..]
                .find(['|', ' ', ',', '"', '\'', '\n', '\r'])
                .map_or(text.len(), |length| start + length);
            text.replace_range(start..end, MASK);
            from = start + MASK.len();
        }
    }
    mask(&text).unwrap_or(text)
}

/// Replaces whole words only: a part of a word that equals a very short secret reveals nothing.
fn replace_word(text: &str, word: &str, by: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let is_letter = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
        let is_part = is_letter(before.chars().next_back()) || is_letter(after.chars().next());
        replaced.push_str(before);
        replaced.push_str(if is_part { word } else { by });
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

fn find_ignoring_case(text: &str, mark: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(&mark.to_ascii_lowercase())
}

fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for (count, character) in text.trim().chars().enumerate() {
        if count == limit {
            line.push('…');
            break;
        }
        line.push(if character.is_control() {
            ' '
        } else {
            character
        });
    }
    line
}

/// The text of an HTML page without the tags.
fn without_markup(text: &str) -> String {
    let mut words = String::new();
    let mut in_tag = false;
    for character in text.chars() {
        match character {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                words.push(' ');
            }
            _ if !in_tag => words.push(character),
            _ => {}
        }
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl RegistryError {
    /// The answer, if it had an error status.
    pub fn status(&self) -> Option<&StatusFailure> {
        match &self.failure {
            RequestFailure::Status(status) | RequestFailure::Login(status) => Some(status),
            _ => None,
        }
    }

    /// Whether the credentials were refused. Every other request would fail in the same way.
    pub fn is_refused_login(&self) -> bool {
        match &self.failure {
            RequestFailure::Login(_) | RequestFailure::NoKey(_) => true,
            RequestFailure::Status(status) => status.status == 401,
            _ => false,
        }
    }

    /// Whether the answer exceeded a limit.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self.failure, RequestFailure::TooLarge(_))
    }

    /// Whether there is no temporary key, and a retry cannot help.
    pub fn is_key_denied(&self) -> bool {
        match &self.failure {
            RequestFailure::NoKey(no_key) => !no_key.failure.is_transient(),
            _ => false,
        }
    }
}

/// The issuer did not return a temporary key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no temporary key from {issuer}: {failure}")]
pub struct NoKey {
    /// The issuer with its address.
    pub issuer: String,
    /// The cause. It is part of the message, so it is not a `source` as well.
    pub failure: KeyFailure,
}

/// Why there is no temporary key.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyFailure {
    /// The machine has no agency, so it has no permissions.
    #[error("no agency is attached to this ECS ({0})")]
    NoAgency(Box<StatusFailure>),
    /// An answer with an error status.
    #[error(transparent)]
    Status(Box<StatusFailure>),
    /// Refused, reset, or timed out.
    #[error("no answer: {reason}")]
    NoAnswer {
        /// The innermost cause in words, without the URL.
        reason: String,
    },
    /// A success status without a key.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The key had expired when it was received.
    #[error("the key it gave has expired at {expired_at}")]
    Expired {
        /// The expiry according to the issuer's clock.
        expired_at: DateTime<Utc>,
    },
    /// The pod's token cannot be read.
    #[error("cannot read the file {} of the pod's token: {reason}", path.display())]
    Authorization {
        /// The file with the token.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
}

impl KeyFailure {
    /// Whether a later run with the same settings may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            KeyFailure::NoAnswer { .. } => true,
            KeyFailure::Status(failure) => is_retryable(failure.status),
            _ => false,
        }
    }
}

/// Whether a retry may help.
pub(super) fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &str) {
        let failure = StatusFailure::read(400, Some("r-1".to_owned()), body.as_bytes(), &[]);
        assert_eq!(failure.to_string(), expected);
    }

    #[test]
    fn every_error_shape_gives_code_message_and_request_id() {
        check(
            r#"{"error_code":"SVCSTG.SWR.4000013","error_msg":"bad digest","encoded_authorization_message":"x"}"#,
            "HTTP 400 SVCSTG.SWR.4000013: bad digest (request id r-1)",
        );
        check(
            r#"{"errors":[{"errorCode":"A","errorMessage":"old","detail":"d"}],"error_code":"B","error_msg":"new"}"#,
            "HTTP 400 B: new (request id r-1)",
        );
        check(
            r#"[{"errorCode":"A","errorMessage":"bare","detail":"d"}]"#,
            "HTTP 400 A: bare (request id r-1)",
        );
        check(
            r#"{"error":{"code":401,"message":"wrong password","title":"Unauthorized"}}"#,
            "HTTP 400 401: wrong password (request id r-1)",
        );
        check(
            r#"{"errors":[{"code":"NOT_FOUND","message":"no such artifact"}]}"#,
            "HTTP 400 NOT_FOUND: no such artifact (request id r-1)",
        );
        check(
            "<html><head><title>502</title></head><body>Bad\nGateway</body></html>",
            "HTTP 400: 502 Bad Gateway (request id r-1)",
        );
        check("", "HTTP 400 (request id r-1)");
    }

    #[test]
    fn the_request_id_of_the_body_counts_where_the_header_is_missing() {
        let body = br#"{"error_msg":"throttled","error_code":"APIGW.0308","request_id":"r-2"}"#;
        let failure = StatusFailure::read(429, None, body, &[]);
        assert_eq!(
            failure.to_string(),
            "HTTP 429 APIGW.0308: throttled (request id r-2)"
        );
        assert!(failure.is_from_gateway());
    }

    #[test]
    fn a_quoted_signature_or_token_is_redacted() {
        let body = br#"{"error_code":"APIGW.0301","error_msg":"verify failed, GET|/v2/|X-Security-Token:st0ken|Signature=abc123|end"}"#;
        let text = StatusFailure::read(401, None, body, &[]).to_string();
        assert!(
            !text.contains("st0ken") && !text.contains("abc123"),
            "{text}"
        );
        assert!(text.contains("end"), "{text}");
        // Not even if the body is not JSON.
        let body = br#"{"error_msg":"\ud800 verify failed, Signature=abc123|end"}"#;
        let text = StatusFailure::read(401, None, body, &[]).to_string();
        assert!(!text.contains("abc123") && text.contains("end"), "{text}");
    }

    #[test]
    fn a_very_short_secret_is_not_searched_for_inside_words() {
        let secrets = ["x"];
        assert_eq!(redact("it does not exist", &secrets), "it does not exist");
        assert_eq!(
            redact("key x is unknown: 'x'", &secrets),
            "key [redacted] is unknown: '[redacted]'"
        );
    }

    #[test]
    fn a_secret_that_was_sent_is_redacted_wherever_it_is_quoted() {
        let secret = "s3cr3t-of-this-request";
        let padding = "x".repeat(MESSAGE_CHARS - 5);
        for body in [
            format!(r#"{{"error_code":"A","error_msg":"you sent {secret}, twice {secret}"}}"#),
            format!(r#"{{"error_code":"{secret}","error_msg":"m","request_id":"{secret}"}}"#),
            format!(r#"{{"error_msg":"{padding}{secret}"}}"#),
            format!("<html><body>{secret}</body></html>"),
            format!("{}{secret}", &padding[..195]),
        ] {
            let text = StatusFailure::read(400, None, body.as_bytes(), &[secret]).to_string();
            assert!(!text.contains("s3cr3t") && !text.contains("s3c"), "{text}");
        }
    }
}
