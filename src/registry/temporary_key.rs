//! Keys that expire. The metadata service of an ECS or the pod identity agent of CCE issues them; they
//! are renewed during a run.
//!
//! Both are local services: requests to them use no proxy, have no rate limit, and are not counted.
//! There is one request at a time, well before a key expires, and at least ten seconds after the
//! previous answer.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Map, Value};

use super::error::{KeyFailure, Malformed, NoKey, RegistryError, RequestFailure, StatusFailure};
use super::expiring::{Expiring, InUse, Issued, LEAST_INTERVAL, Secret};
use super::http::{self, AnswerMemory, Limits, RawAnswer, Unanswered};
use super::retry::RetryPolicy;
use super::signature::SigningKey;
use crate::clock::Clock;
use crate::secret_file;

/// Timeouts of the official SDKs for a request to each service.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
const POD_IDENTITY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than all attempts to get a key together: each attempt has up to four requests.
const PATIENCE: Duration = Duration::from_secs(60);
/// An answer with a key has a few kilobytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// After the metadata service turned out to have no tokens, none is requested for this time.
const TOKENLESS_FOR: TimeDelta = TimeDelta::hours(24);
/// The requested lifetime of a metadata token, which is used immediately.
const TOKEN_LIFETIME_SECONDS: &str = "21600";
/// The message of the metadata service in a 401 for which a token does not help.
const NO_AGENCY: &str = "Please configure Cloud Service Agency first";
/// The SDKs renew a key if less than this is left.
const RENEWED_BEFORE_END: TimeDelta = TimeDelta::minutes(40);
/// Used if the answer has no expiry.
const ASSUMED_LIFETIME: TimeDelta = TimeDelta::minutes(30);

const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: 3,
    throttled_patience: Duration::ZERO,
    base_delay: Duration::from_millis(500),
    max_delay: Duration::from_secs(5),
};

/// A source of temporary keys. Clones share the current key.
#[derive(Clone)]
pub struct TemporaryKeySource(Arc<Inner>);

struct Inner {
    issuer: Issuer,
    http: reqwest::Client,
    timeout: Duration,
    memory: AnswerMemory,
    /// When the metadata service was found to have no tokens.
    tokenless_since: StdMutex<Option<DateTime<Utc>>>,
    keys: Expiring<SigningKey>,
}

enum Issuer {
    /// Scheme and host.
    Metadata(Url),
    PodIdentity {
        url: Url,
        authorization_file: PathBuf,
    },
}

impl Secret for SigningKey {
    fn is_same(&self, other: &SigningKey) -> bool {
        self.access_key == other.access_key
    }
}

/// A failure, and the request that failed.
struct Failed {
    request: String,
    failure: KeyFailure,
}

impl TemporaryKeySource {
    /// The metadata service of ECS and CCE nodes (usermanual-ecs ecs_03_0166); `endpoint` is scheme and host.
    pub fn metadata(endpoint: Url) -> Result<TemporaryKeySource, reqwest::Error> {
        TemporaryKeySource::new(Issuer::Metadata(endpoint), METADATA_TIMEOUT)
    }

    /// The pod identity agent of CCE; the file contains the value of the `Authorization` header.
    pub fn pod_identity(
        url: Url,
        authorization_file: PathBuf,
    ) -> Result<TemporaryKeySource, reqwest::Error> {
        let issuer = Issuer::PodIdentity {
            url,
            authorization_file,
        };
        TemporaryKeySource::new(issuer, POD_IDENTITY_TIMEOUT)
    }

    fn new(issuer: Issuer, timeout: Duration) -> Result<TemporaryKeySource, reqwest::Error> {
        let http = http::client_builder()
            .connect_timeout(timeout)
            .no_proxy()
            .build()?;
        Ok(TemporaryKeySource(Arc::new(Inner {
            issuer,
            http,
            timeout,
            memory: AnswerMemory::new(),
            tokenless_since: StdMutex::default(),
            keys: Expiring::default(),
        })))
    }

    /// Fetches a key if there is none, and returns when it expires. A run that uses this source afterwards
    /// uses the same key.
    pub async fn prepare(&self, clock: &Clock) -> Result<DateTime<Utc>, RegistryError> {
        Ok(self.current(clock).await?.expires_at)
    }

    /// The key to sign with, renewed before it expires.
    pub(super) async fn current(&self, clock: &Clock) -> Result<InUse<SigningKey>, RegistryError> {
        let issue = async || self.ask(clock).await;
        self.0.keys.current(clock, PATIENCE, issue).await
    }

    pub(super) fn keys(&self) -> &Expiring<SigningKey> {
        &self.0.keys
    }

    async fn ask(&self, clock: &Clock) -> Result<Issued<SigningKey>, RegistryError> {
        let begin = tokio::time::Instant::now();
        // Outside of the cloud there is no metadata service: one attempt is enough to find out.
        let may_be_absent = matches!(self.0.issuer, Issuer::Metadata(_)) && self.0.keys.is_first();
        let mut attempts = 0;
        loop {
            let asked = match &self.0.issuer {
                Issuer::Metadata(endpoint) => self.ask_metadata(endpoint, clock).await,
                Issuer::PodIdentity {
                    url,
                    authorization_file,
                } => self.ask_pod_identity(url, authorization_file, clock).await,
            };
            let Failed { request, failure } = match asked {
                Ok(issued) => return Ok(issued),
                Err(failed) => failed,
            };
            attempts += 1;
            let is_absent = may_be_absent && matches!(failure, KeyFailure::NoAnswer { .. });
            if is_absent || !failure.is_transient() || attempts >= RETRY.max_attempts {
                return Err(RegistryError {
                    request,
                    attempts,
                    elapsed: begin.elapsed(),
                    failure: RequestFailure::NoKey(Box::new(NoKey {
                        issuer: self.0.issuer.to_string(),
                        failure,
                    })),
                });
            }
            tracing::debug!(attempts, "{request}: {failure}; retrying");
            tokio::time::sleep(RETRY.delay(attempts, fastrand::f64(), None)).await;
        }
    }

    /// Requests a token, unless the service is known to have none, and then the key. After a 401
    /// requests both again, like the SDKs: the service may have started to require tokens.
    async fn ask_metadata(
        &self,
        endpoint: &Url,
        clock: &Clock,
    ) -> Result<Issued<SigningKey>, Failed> {
        let tokenless_since = *self.tokenless_since();
        let is_tokenless = tokenless_since.is_some_and(|since| clock.now() - since < TOKENLESS_FOR);
        let token = match is_tokenless {
            true => None,
            false => self.metadata_token(endpoint, clock).await?,
        };
        let mut url = endpoint.clone();
        url.set_path("/openstack/latest/securitykey");
        let ask = async |token: Option<String>| {
            let mut request = reqwest::Request::new(Method::GET, url.clone());
            if let Some(token) = &token {
                let name = HeaderName::from_static("x-metadata-token");
                let value = sensitive(token, &url)?;
                request.headers_mut().insert(name, value);
            }
            self.exchange(request, token.as_deref(), clock).await
        };
        let mut answered = ask(token).await?;
        let lacks_agency = |answered: &Answered| answered.text().contains(NO_AGENCY);
        if answered.status() == 401
            && !lacks_agency(&answered)
            && let Some(token) = self.metadata_token(endpoint, clock).await?
        {
            answered = ask(Some(token)).await?;
        }
        if answered.status() == 401 && lacks_agency(&answered) {
            let failure = KeyFailure::NoAgency(answered.status_failure());
            return Err(answered.failed(failure));
        }
        answered.issued(clock)
    }

    /// `None` if the service has no tokens.
    async fn metadata_token(
        &self,
        endpoint: &Url,
        clock: &Clock,
    ) -> Result<Option<String>, Failed> {
        let mut url = endpoint.clone();
        url.set_path("/meta-data/latest/api/token");
        let mut request = reqwest::Request::new(Method::PUT, url);
        // With an empty body the client sends `Content-Length: 0`, which some servers require.
        *request.body_mut() = Some(Vec::new().into());
        request.headers_mut().insert(
            HeaderName::from_static("x-metadata-token-ttl-seconds"),
            HeaderValue::from_static(TOKEN_LIFETIME_SECONDS),
        );
        let answered = self.exchange(request, None, clock).await?;
        match answered.status() {
            200 => {
                *self.tokenless_since() = None;
                Ok(Some(answered.text().trim().to_owned()))
            }
            404 | 405 | 503 => {
                *self.tokenless_since() = Some(clock.now());
                Ok(None)
            }
            _ => {
                let failure = KeyFailure::Status(answered.status_failure());
                Err(answered.failed(failure))
            }
        }
    }

    async fn ask_pod_identity(
        &self,
        url: &Url,
        authorization_file: &Path,
        clock: &Clock,
    ) -> Result<Issued<SigningKey>, Failed> {
        // Read the file each time: the cluster replaces the token before it expires.
        let authorization = secret_file::read(authorization_file).map_err(|error| Failed {
            request: format!("POST {url}"),
            failure: KeyFailure::Authorization {
                path: authorization_file.to_owned(),
                reason: error.to_string(),
            },
        })?;
        let authorization = authorization.trim();
        let mut request = reqwest::Request::new(Method::POST, url.clone());
        *request.body_mut() = Some("{}".into());
        let headers = request.headers_mut();
        headers.insert(
            "content-type",
            HeaderValue::from_static("application/json;charset=utf8"),
        );
        headers.insert("authorization", sensitive(authorization, url)?);
        let answered = self.exchange(request, Some(authorization), clock).await?;
        answered.issued(clock)
    }

    async fn exchange(
        &self,
        request: reqwest::Request,
        secret: Option<&str>,
        clock: &Clock,
    ) -> Result<Answered, Failed> {
        let named = format!("{} {}", request.method(), request.url());
        let mut skew = TimeDelta::zero();
        let limits = Limits {
            timeout: self.0.timeout,
            max_bytes: MAX_ANSWER_BYTES,
            memory: &self.0.memory,
        };
        let exchanged = http::exchange(&self.0.http, request, limits, |headers| {
            skew = http::skew(headers, clock).unwrap_or_default();
        });
        let exchanged = exchanged.await;
        match exchanged {
            Ok(answer) => Ok(Answered {
                request: named,
                answer,
                secret: secret.map(str::to_owned),
                skew,
            }),
            Err(Unanswered::Lost { reason } | Unanswered::Untrusted { reason }) => Err(Failed {
                request: named,
                failure: KeyFailure::NoAnswer { reason },
            }),
            Err(Unanswered::TooLarge { .. }) => Err(Failed {
                request: named,
                failure: Malformed::new(format!(
                    "the answer is longer than {MAX_ANSWER_BYTES} bytes"
                ))
                .into(),
            }),
        }
    }

    fn tokenless_since(&self) -> std::sync::MutexGuard<'_, Option<DateTime<Utc>>> {
        let since = self.0.tokenless_since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renewal is due when less than 40 minutes are left, like in the SDKs, but not in the first half of the
/// lifetime: otherwise a key with a lifetime of half an hour would be renewed for each request.
fn renew_at(now: DateTime<Utc>, expires_at: DateTime<Utc>) -> DateTime<Utc> {
    let margin = ((expires_at - now) / 2).min(RENEWED_BEFORE_END);
    (expires_at - margin).max(now + LEAST_INTERVAL)
}

/// An answer, and the data for a message about it.
struct Answered {
    request: String,
    answer: RawAnswer,
    /// The secret that the request was sent with.
    secret: Option<String>,
    /// How far the service's clock is ahead of ours.
    skew: TimeDelta,
}

impl Answered {
    fn status(&self) -> u16 {
        self.answer.status
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.answer.body).into_owned()
    }

    fn status_failure(&self) -> Box<StatusFailure> {
        let secrets: Vec<&str> = self.secret.as_deref().into_iter().collect();
        let answer = &self.answer;
        Box::new(StatusFailure::read(
            answer.status,
            None,
            &answer.body,
            &secrets,
        ))
    }

    fn failed(self, failure: KeyFailure) -> Failed {
        Failed {
            request: self.request,
            failure,
        }
    }

    fn issued(self, clock: &Clock) -> Result<Issued<SigningKey>, Failed> {
        if !(200..300).contains(&self.status()) {
            let failure = KeyFailure::Status(self.status_failure());
            return Err(self.failed(failure));
        }
        let (key, ends) = match read_key(&self.answer.body) {
            Ok(read) => read,
            Err(malformed) => return Err(self.failed(malformed.into())),
        };
        let now = clock.now();
        let expires_at = ends.map_or(now + ASSUMED_LIFETIME, |ends| ends - self.skew);
        if expires_at <= now {
            let expired_at = expires_at + self.skew;
            return Err(self.failed(KeyFailure::Expired { expired_at }));
        }
        Ok(Issued {
            secret: key,
            expires_at,
            renew_at: renew_at(now, expires_at),
        })
    }
}

/// Reads a key with any of the field names that the SDKs accept. Error messages do not quote the key.
fn read_key(body: &[u8]) -> Result<(SigningKey, Option<DateTime<Utc>>), Malformed> {
    let document: Value =
        serde_json::from_slice(body).map_err(|_| Malformed::new("it is not JSON"))?;
    let fields = ["credential", "credentials"]
        .iter()
        .find_map(|name| document.get(*name)?.as_object())
        .ok_or_else(|| Malformed::new("it has no `credential`"))?;
    let required = |names: [&str; 3]| {
        text(fields, &names)
            .ok_or_else(|| Malformed::new(format!("its credential has no `{}`", names[0])))
    };
    let key = SigningKey {
        access_key: required(["access", "accessKeyId", "access_key_id"])?.to_owned(),
        secret_key: required(["secret", "secretAccessKey", "secret_access_key"])?.into(),
        security_token: Some(
            required(["securitytoken", "securityToken", "security_token"])?.into(),
        ),
    };
    let ends = text(fields, &["expires_at", "expiration"])
        .and_then(|ends| DateTime::parse_from_rfc3339(ends).ok());
    Ok((key, ends.map(|ends| ends.to_utc())))
}

fn text<'a>(fields: &'a Map<String, Value>, names: &[&str]) -> Option<&'a str> {
    let mut found = names.iter().filter_map(|name| fields.get(*name)?.as_str());
    found.find(|text| !text.is_empty())
}

fn sensitive(secret: &str, url: &Url) -> Result<HeaderValue, Failed> {
    let mut value = HeaderValue::from_str(secret).map_err(|_| Failed {
        request: url.to_string(),
        failure: Malformed::new("the token to send holds characters that a header cannot carry")
            .into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Issuer::Metadata(endpoint) => {
                write!(
                    f,
                    "the metadata service at {}",
                    endpoint.origin().ascii_serialization()
                )
            }
            Issuer::PodIdentity { url, .. } => write!(f, "pod identity at {url}"),
        }
    }
}

/// Such as "the metadata service at http://169.254.169.254".
impl fmt::Display for TemporaryKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.issuer.fmt(f)
    }
}

impl fmt::Debug for TemporaryKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TemporaryKeySource({self})")
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_key_is_read_in_every_spelling() {
        for (envelope, access, secret, token, ends) in [
            (
                "credential",
                "access",
                "secret",
                "securitytoken",
                "expires_at",
            ),
            (
                "credentials",
                "accessKeyId",
                "secretAccessKey",
                "securityToken",
                "expiration",
            ),
            (
                "credentials",
                "access_key_id",
                "secret_access_key",
                "security_token",
                "expiration",
            ),
            (
                "credential",
                "access",
                "secretAccessKey",
                "security_token",
                "expires_at",
            ),
        ] {
            let body = format!(
                r#"{{"{envelope}":{{"{access}":"AK","{secret}":"sk","{token}":"st","{ends}":"2026-01-08T03:50:07.574000Z"}},"subject":{{}}}}"#
            );
            let (key, ends) = read_key(body.as_bytes()).unwrap();
            assert_eq!(key.access_key, "AK");
            assert_eq!(key.secret_key.expose_secret(), "sk");
            assert_eq!(key.security_token.unwrap().expose_secret(), "st");
            assert_eq!(ends.unwrap().to_rfc3339(), "2026-01-08T03:50:07.574+00:00");
        }
    }

    #[test]
    fn an_answer_without_a_key_is_told_of_without_quoting_it() {
        for (body, reason) in [
            ("never-shown", "it is not JSON"),
            (r#"{"a":"never-shown"}"#, "it has no `credential`"),
            (r#"{"credential":"never-shown"}"#, "it has no `credential`"),
            (
                r#"{"credential":{"access":"never-shown"}}"#,
                "its credential has no `secret`",
            ),
            (
                r#"{"credential":{"access":"a","secret":"never-shown"}}"#,
                "its credential has no `securitytoken`",
            ),
            (
                r#"{"credential":{"access":"","secret":"never-shown","securitytoken":"b"}}"#,
                "its credential has no `access`",
            ),
        ] {
            let error = read_key(body.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("unreadable answer: {reason}"));
        }
    }

    #[test]
    fn a_key_is_renewed_ahead_of_its_end_and_never_at_once() {
        let now = "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let after = |lifetime| renew_at(now, now + lifetime) - now;
        assert_eq!(
            after(TimeDelta::hours(24)),
            TimeDelta::minutes(24 * 60 - 40)
        );
        assert_eq!(after(TimeDelta::minutes(81)), TimeDelta::minutes(41));
        assert_eq!(after(TimeDelta::minutes(30)), TimeDelta::minutes(15));
        assert_eq!(after(TimeDelta::seconds(30)), TimeDelta::seconds(15));
        assert_eq!(after(TimeDelta::seconds(4)), LEAST_INTERVAL);
    }
}
