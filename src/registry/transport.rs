//! The one door for requests: paces, signs, sends, retries, and explains failures.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::credentials::{Credentials, IssuedToken, PasswordLogin};
use super::error::{Malformed, RegistryError, RequestFailure, StatusFailure};
use super::gate::{Entry, Gate, Pass};
use super::meter::RequestMeter;
use super::pace::{Pace, PaceNow, Permit};
use super::retry::{self, RetryPolicy};
use super::signature::{self, RequestToSign, SigningKey};
use super::temporary_key::{TemporaryKey, TemporaryKeySource};
use crate::activity::Activity;
use crate::clock::Clock;
use crate::run::RequestKind;

/// Time-outs, retries and caps.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// Limit for the connection to stand.
    pub connect_timeout: Duration,
    /// Limit for one attempt, from the start of the connection to the last byte of the answer.
    pub request_timeout: Duration,
    /// When to ask again.
    pub retry: RetryPolicy,
    /// Cap on requests on their way at a time.
    pub max_in_flight: usize,
    /// Cap on requests started per second; `None` for no cap.
    pub max_requests_per_second: Option<f64>,
    /// Authorities that are trusted beside the system's own.
    pub ca_certificates: Vec<reqwest::Certificate>,
}

impl Default for TransportSettings {
    fn default() -> TransportSettings {
        TransportSettings {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            max_in_flight: 256,
            // The gateway's documented default for an API.
            max_requests_per_second: Some(200.0),
            ca_certificates: Vec::new(),
        }
    }
}

/// An answer larger than this is not read: it bounds the memory a request can take.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A connection to one gateway. Clones share all but what they count.
#[derive(Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
    endpoint: Url,
    project_id: String,
    credentials: Arc<Credentials>,
    token: Arc<Mutex<TokenSlot>>,
    settings: TransportSettings,
    pace: Arc<Pace>,
    gate: Arc<Gate>,
    meter: Arc<RequestMeter>,
    activity: Activity,
    clock: Clock,
    clock_skew: Arc<StdMutex<Option<TimeDelta>>>,
}

impl Clone for Transport {
    fn clone(&self) -> Transport {
        Transport {
            http: self.http.clone(),
            endpoint: self.endpoint.clone(),
            project_id: self.project_id.clone(),
            credentials: Arc::clone(&self.credentials),
            token: Arc::clone(&self.token),
            settings: self.settings.clone(),
            pace: Arc::clone(&self.pace),
            gate: Arc::clone(&self.gate),
            meter: Arc::default(),
            activity: Activity::default(),
            clock: self.clock.clone(),
            clock_skew: Arc::clone(&self.clock_skew),
        }
    }
}

/// The token in use.
#[derive(Debug, Default)]
struct TokenSlot {
    current: Option<IssuedToken>,
    /// The last token was refused: one that replaces it is the only one to do so.
    was_refused: bool,
}

/// A GET below the endpoint.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) kind: RequestKind,
    /// The path on the wire, percent-encoded.
    pub(super) path: &'a str,
    /// Decoded names and values.
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Asked when the request may start: waiting for that can take long. What was sent once is
    /// brought to its end.
    pub(super) is_wanted: &'a (dyn Fn() -> bool + Sync),
}

/// What proves to the gateway who asks.
enum Proof {
    Token(SecretString),
    Key {
        key: Arc<SigningKey>,
        /// Another number for each other key.
        generation: u64,
    },
}

/// What one attempt brought.
enum Attempt {
    Answer {
        headers: HeaderMap,
        body: Vec<u8>,
    },
    Refused {
        failure: StatusFailure,
        retry_after: Option<Duration>,
    },
    Lost {
        failure: RequestFailure,
    },
    /// It was not sent: the key has been replaced while it waited for its turn.
    Outdated,
}

struct Outgoing<'a> {
    kind: RequestKind,
    method: Method,
    url: Url,
    body: Option<Vec<u8>>,
    authenticate: Option<&'a Call<'a>>,
}

impl Transport {
    pub(super) fn with_same_meter(&self) -> Transport {
        Transport {
            meter: Arc::clone(&self.meter),
            activity: self.activity.clone(),
            ..self.clone()
        }
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    pub(super) fn new(
        endpoint: Url,
        project_id: String,
        credentials: Credentials,
        settings: TransportSettings,
        clock: Clock,
    ) -> Result<Transport, reqwest::Error> {
        let http = client_builder()
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.request_timeout)
            .tls_certs_merge(settings.ca_certificates.iter().cloned())
            .build()?;
        let pace = Pace::new(
            settings.max_requests_per_second,
            settings.max_in_flight,
            settings.retry.max_delay,
        );
        let gate = Gate::new(credentials.sign_requests());
        Ok(Transport {
            http,
            endpoint,
            project_id,
            credentials: Arc::new(credentials),
            token: Arc::default(),
            settings,
            pace: Arc::new(pace),
            gate: Arc::new(gate),
            meter: Arc::default(),
            activity: Activity::default(),
            clock,
            clock_skew: Arc::default(),
        })
    }

    pub(super) fn meter(&self) -> &Arc<RequestMeter> {
        &self.meter
    }

    /// By how much the other side's clock is ahead of ours, as of the latest answer's `Date`;
    /// `None` before there was one. Exact to a second, which is all the header has.
    pub(super) fn clock_skew(&self) -> Option<TimeDelta> {
        *self
            .clock_skew
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note_date(&self, headers: &HeaderMap) {
        if let Some(skew) = skew(headers, &self.clock) {
            *self
                .clock_skew
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(skew);
        }
    }

    pub(super) fn pace(&self) -> PaceNow {
        self.pace.now()
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.settings.max_in_flight
    }

    /// Sends a GET and gives the body of a 2xx answer.
    ///
    /// Sent again, up to the policy's number of attempts: 408, 425, 500, 502, 503, 504, and
    /// requests without an answer. A 429 is no attempt: it is sent again for as long as the
    /// policy's patience lasts. A 401 is sent again once, and only if a new token or temporary key
    /// can be fetched; otherwise it ends all requests, for five failed signatures in a row lock a
    /// key.
    pub(super) async fn get(&self, call: Call<'_>) -> Result<Vec<u8>, RegistryError> {
        let outgoing = Outgoing {
            kind: call.kind,
            method: Method::GET,
            url: self.url(&call),
            body: None,
            authenticate: Some(&call),
        };
        self.send(&outgoing).await.map(|(_, body)| body)
    }

    /// Asks for the endpoint's root without proof of who asks; any answer will do.
    pub(super) async fn reach(&self) -> Result<(), RegistryError> {
        let mut url = self.endpoint.clone();
        url.set_path("/");
        let outgoing = Outgoing {
            kind: RequestKind::Instance,
            method: Method::GET,
            url,
            body: None,
            authenticate: None,
        };
        match self.send(&outgoing).await {
            Err(error) if error.status().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    async fn send(&self, outgoing: &Outgoing<'_>) -> Result<(HeaderMap, Vec<u8>), RegistryError> {
        let policy = &self.settings.retry;
        let begin = Instant::now();
        let mut sent = 0;
        let mut failed_attempts = 0;
        let mut throttled_since: Option<Instant> = None;
        let mut renewed = false;
        let fail = |attempts, failure| RegistryError {
            request: format!("{} {}", outgoing.method, outgoing.url),
            attempts,
            elapsed: begin.elapsed(),
            failure,
        };
        loop {
            let proof = match outgoing.authenticate {
                Some(_) => Some(self.current_proof().await?),
                None => None,
            };
            let (failure, retry_after) = match self.attempt(outgoing, proof.as_ref(), sent).await {
                Ok(Attempt::Answer { headers, body }) => return Ok((headers, body)),
                Ok(Attempt::Outdated) => continue,
                Ok(Attempt::Refused { failure, .. }) if failure.status == 401 => {
                    sent += 1;
                    if renewed || !self.may_renew(proof).await {
                        let failure = failure.into();
                        if outgoing.authenticate.is_some() {
                            self.gate.close(&failure);
                        }
                        return Err(fail(sent, failure));
                    }
                    renewed = true;
                    continue;
                }
                Ok(Attempt::Refused {
                    failure,
                    retry_after,
                }) => (failure.into(), retry_after),
                Ok(Attempt::Lost { failure }) => (failure, None),
                Err(failure) => return Err(fail(sent, failure)),
            };
            sent += 1;
            let status = match &failure {
                RequestFailure::Status(failure) => Some(failure.status),
                _ => None,
            };
            if status.is_some_and(|status| !retry::is_retryable(status)) {
                return Err(fail(sent, failure));
            }
            if status == Some(429) && outgoing.authenticate.is_some() {
                let since = *throttled_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= policy.throttled_patience {
                    return Err(fail(sent, failure));
                }
                tracing::debug!(kind = outgoing.kind.as_str(), attempts = sent, "{failure}");
                // The pace holds it back, together with all others.
                continue;
            }
            failed_attempts += 1;
            if failed_attempts >= policy.max_attempts {
                return Err(fail(sent, failure));
            }
            let delay = policy.delay(failed_attempts, fastrand::f64(), retry_after);
            tracing::debug!(
                kind = outgoing.kind.as_str(),
                attempts = sent,
                delay_ms = delay.as_millis() as u64,
                "{failure}; asking again"
            );
            let _delay = self.activity.begin(delay);
            tokio::time::sleep(delay).await;
        }
    }

    /// Waits until a request to the gateway may start; `None` if its key has been replaced or has
    /// ended meanwhile. A key that was refused is so kept from being sent once more.
    async fn admit(
        &self,
        kind: RequestKind,
        proof: Option<&Proof>,
    ) -> Result<Option<(Permit<'_>, Pass<'_>)>, RequestFailure> {
        let generation = match proof {
            Some(Proof::Key { generation, .. }) => *generation,
            Some(Proof::Token(_)) | None => 0,
        };
        let turn = async || match kind {
            RequestKind::BuildHistory => self.pace.permit().await,
            // The list pages, and what comes before them: histories depend on them.
            _ => self.pace.permit_first().await,
        };
        loop {
            let permit = tokio::select! {
                biased;
                failure = self.gate.closed() => return Err(failure),
                permit = turn() => permit,
            };
            let now = self.clock.now();
            if let Credentials::Temporary(source) = &*self.credentials
                && !source.is_usable(generation, now)
            {
                return Ok(None);
            }
            match self.gate.enter(Instant::now(), now, generation) {
                Entry::Go(pass) => return Ok(Some((permit, pass))),
                Entry::Refused(failure) => return Err(failure),
                Entry::Wait => {
                    drop(permit);
                    self.gate.changed().await;
                }
            }
        }
    }

    /// One attempt: admitted if it goes to the gateway, sent, and reported to pace and gate.
    async fn attempt(
        &self,
        outgoing: &Outgoing<'_>,
        proof: Option<&Proof>,
        sent_before: u32,
    ) -> Result<Attempt, RequestFailure> {
        let admitted = match outgoing.authenticate {
            Some(call) => {
                let Some(admitted) = self.admit(outgoing.kind, proof).await? else {
                    return Ok(Attempt::Outdated);
                };
                if sent_before == 0 && !(call.is_wanted)() {
                    return Err(RequestFailure::Unwanted);
                }
                Some(admitted)
            }
            // IAM is another host, and asked once a day.
            None => None,
        };
        if sent_before > 0 {
            self.meter.retried();
        }
        let attempt = self.exchange(outgoing, proof).await?;
        let Some((permit, pass)) = admitted else {
            return Ok(attempt);
        };
        match &attempt {
            Attempt::Answer { .. } => {
                permit.answered(outgoing.kind);
                pass.accepted();
            }
            Attempt::Refused {
                failure,
                retry_after,
            } if matches!(failure.status, 429 | 503) => {
                permit.refused(*retry_after, retry::quoted_limit(failure));
            }
            // The service behind the gateway has seen it.
            Attempt::Refused { failure, .. }
                if (400..500).contains(&failure.status)
                    && failure.status != 401
                    && !failure.is_from_gateway() =>
            {
                pass.accepted();
            }
            // The latch falls before anything else can start.
            Attempt::Refused { failure, .. }
                if failure.status == 401 && !self.has_another(proof, failure) =>
            {
                self.gate.close(&failure.clone().into());
            }
            Attempt::Refused { .. } | Attempt::Lost { .. } | Attempt::Outdated => {}
        }
        Ok(attempt)
    }

    async fn exchange(
        &self,
        outgoing: &Outgoing<'_>,
        proof: Option<&Proof>,
    ) -> Result<Attempt, RequestFailure> {
        let mut request = reqwest::Request::new(outgoing.method.clone(), outgoing.url.clone());
        if let Some(body) = &outgoing.body {
            request.headers_mut().insert(
                "content-type",
                HeaderValue::from_static("application/json;charset=utf8"),
            );
            *request.body_mut() = Some(body.clone().into());
        }
        if let (Some(call), Some(proof)) = (outgoing.authenticate, proof) {
            self.authenticate(request.headers_mut(), &outgoing.url, call, proof)?;
        }
        let note_date = |headers: &HeaderMap| self.note_date(headers);
        let _request = self.activity.begin(self.settings.request_timeout);
        let answer = exchange(&self.http, request, MAX_ANSWER_BYTES, note_date).await;
        let RawAnswer {
            status,
            headers,
            body,
        } = match answer {
            Ok(answer) => answer,
            Err(Unanswered::Lost { reason }) => {
                self.meter.answered(outgoing.kind, None);
                let failure = RequestFailure::NoAnswer { reason };
                return Ok(Attempt::Lost { failure });
            }
            Err(Unanswered::Untrusted { reason }) => {
                self.meter.answered(outgoing.kind, None);
                return Err(RequestFailure::Untrusted { reason });
            }
            Err(Unanswered::TooLong { status }) => {
                self.meter.answered(outgoing.kind, Some(status));
                let reason = format!("the answer is longer than {MAX_ANSWER_BYTES} bytes");
                return Err(Malformed::new(reason).into());
            }
        };
        self.meter.answered(outgoing.kind, Some(status));
        if (200..300).contains(&status) {
            return Ok(Attempt::Answer { headers, body });
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let request_id = header("x-request-id").map(str::to_owned);
        let mut failure = StatusFailure::read(status, request_id, &body, &self.secrets(proof));
        // Tokens do not care what time it is here.
        if status == 401 && matches!(proof, Some(Proof::Key { .. })) {
            failure.clock_skew = self.clock_skew().filter(is_worth_telling);
        }
        Ok(Attempt::Refused {
            failure,
            retry_after: header("retry-after")
                .and_then(|value| retry::retry_after(value, self.clock.now())),
        })
    }

    /// What a request may carry and no message may repeat.
    fn secrets<'a>(&'a self, proof: Option<&'a Proof>) -> Vec<&'a str> {
        let password = match &*self.credentials {
            Credentials::Password(login) => Some(&login.password),
            Credentials::Token(_) | Credentials::Key(_) | Credentials::Temporary(_) => None,
        };
        let carried = match proof {
            None => [None, None],
            Some(Proof::Token(token)) => [Some(token), None],
            Some(Proof::Key { key, .. }) => [Some(&key.secret_key), key.security_token.as_ref()],
        };
        carried
            .into_iter()
            .chain([password])
            .flatten()
            .map(|secret| secret.expose_secret())
            .collect()
    }

    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.endpoint.clone();
        // The path is encoded already, and the URL type leaves valid escapes as they are.
        url.set_path(&format!(
            "{}{}",
            self.endpoint.path().trim_end_matches('/'),
            call.path
        ));
        let query = signature::canonical_query(call.query);
        url.set_query((!query.is_empty()).then_some(&query));
        url
    }

    /// Adds what proves who we are. `url` is what goes on the wire.
    fn authenticate(
        &self,
        headers: &mut HeaderMap,
        url: &Url,
        call: &Call<'_>,
        proof: &Proof,
    ) -> Result<(), RequestFailure> {
        let key = match proof {
            Proof::Token(token) => {
                headers.insert(
                    "x-auth-token",
                    secret_header("token", token.expose_secret())?,
                );
                return Ok(());
            }
            Proof::Key { key, .. } => key,
        };
        let host = host(url);
        headers.insert("x-project-id", header("project id", &self.project_id)?);
        let signed = signature::sign(
            &RequestToSign {
                method: "GET",
                path: url.path(),
                query: call.query,
                headers: &[("host", &host), ("x-project-id", &self.project_id)],
                body: &[],
            },
            key,
            self.clock.now(),
        );
        for (name, value) in signed.iter() {
            headers.insert(
                HeaderName::from_static(name),
                secret_header("access key or security token", value)?,
            );
        }
        Ok(())
    }

    /// Whether there is, or can be had, something else to prove who we are than what the gateway
    /// has just refused.
    fn has_another(&self, proof: Option<&Proof>, failure: &StatusFailure) -> bool {
        match (&*self.credentials, proof) {
            (Credentials::Password(_), _) => true,
            (Credentials::Temporary(source), Some(Proof::Key { generation, .. })) => {
                source.refuse(*generation, failure)
            }
            _ => false,
        }
    }

    /// What to send with the next request: a token or temporary key is fetched, or renewed before
    /// it expires.
    async fn current_proof(&self) -> Result<Proof, RegistryError> {
        match &*self.credentials {
            Credentials::Token(token) => Ok(Proof::Token(token.clone())),
            Credentials::Key(key) => Ok(Proof::Key {
                key: Arc::new(key.clone()),
                generation: 0,
            }),
            Credentials::Password(login) => self.current_token(login).await.map(Proof::Token),
            Credentials::Temporary(source) => self.current_key(source).await,
        }
    }

    async fn current_key(&self, source: &TemporaryKeySource) -> Result<Proof, RegistryError> {
        if let Some(failure) = self.gate.refusal() {
            return Err(RegistryError {
                request: "a request with a temporary key".to_owned(),
                attempts: 0,
                elapsed: Duration::ZERO,
                failure,
            });
        }
        match Box::pin(source.current(&self.clock)).await {
            Ok(TemporaryKey {
                key, generation, ..
            }) => Ok(Proof::Key { key, generation }),
            Err(error) => {
                // It was asked for in vain several times; every other request would wait again.
                self.gate.close(&error.failure);
                Err(error)
            }
        }
    }

    /// The token to send; fetched, or renewed before it expires.
    /// Whoever comes while one is being fetched waits for it, and asks for none of its own if
    /// IAM refused.
    async fn current_token(&self, login: &PasswordLogin) -> Result<SecretString, RegistryError> {
        let mut slot = self.token.lock().await;
        if let Some(failure) = self.gate.refusal() {
            return Err(RegistryError {
                request: format!("POST {}", login.url()),
                attempts: 0,
                elapsed: Duration::ZERO,
                failure,
            });
        }
        let now = self.clock.now();
        if let Some(token) = slot.current.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.value.clone());
        }
        if slot.current.is_some() {
            // Renewed because of its age, not because it was refused.
            slot.was_refused = false;
        }
        let token = Box::pin(self.login(login)).await.map_err(|mut error| {
            if let RequestFailure::Status(failure) = error.failure {
                error.failure = RequestFailure::Login(failure);
                // An account is locked for repeating a wrong password.
                self.gate.close(&error.failure);
            }
            error
        })?;
        let value = token.value.clone();
        slot.current = Some(token);
        Ok(value)
    }

    /// Whether a request whose token or key the gateway refused may be sent again: with the one
    /// that another request has fetched since, or with a new one, if this one is not new itself.
    async fn may_renew(&self, refused: Option<Proof>) -> bool {
        let refused = match (&*self.credentials, refused) {
            (Credentials::Password(_), Some(Proof::Token(token))) => token,
            // Decided when it was refused.
            (Credentials::Temporary(_), Some(_)) => return self.gate.refusal().is_none(),
            _ => return false,
        };
        let mut slot = self.token.lock().await;
        let is_current = slot
            .current
            .as_ref()
            .is_some_and(|current| current.value.expose_secret() == refused.expose_secret());
        if !is_current {
            return true;
        }
        if slot.was_refused {
            return false;
        }
        *slot = TokenSlot {
            current: None,
            was_refused: true,
        };
        true
    }

    /// Fetches a token (api-iam iam_30_0001). The catalog of services is left out of the answer.
    async fn login(&self, login: &PasswordLogin) -> Result<IssuedToken, RegistryError> {
        let outgoing = Outgoing {
            kind: RequestKind::Token,
            method: Method::POST,
            url: login.url(),
            body: Some(login.body().to_string().into_bytes()),
            authenticate: None,
        };
        let (headers, body) = self.send(&outgoing).await?;
        match headers
            .get("x-subject-token")
            .and_then(|value| value.to_str().ok())
        {
            Some(token) => {
                let (now, skew) = (self.clock.now(), self.clock_skew().unwrap_or_default());
                Ok(IssuedToken::new(token.to_owned(), &body, now, skew))
            }
            None => Err(RegistryError {
                request: format!("POST {}", outgoing.url),
                attempts: 1,
                elapsed: Duration::ZERO,
                failure: Malformed::new("the answer has no X-Subject-Token header").into(),
            }),
        }
    }
}

/// What all clients of the program have in common, whomever they talk to.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("swr-sync/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
}

/// An answer, whatever its status.
pub(super) struct RawAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there is no whole answer.
pub(super) enum Unanswered {
    Lost { reason: String },
    Untrusted { reason: String },
    TooLong { status: u16 },
}

/// Sends a request, and reads the answer to its end; its headers are shown to `on_headers` as
/// they come.
#[expect(
    clippy::disallowed_methods,
    reason = "the door: every request leaves from here"
)]
pub(super) async fn exchange(
    http: &reqwest::Client,
    request: reqwest::Request,
    max_bytes: usize,
    on_headers: impl FnOnce(&HeaderMap),
) -> Result<RawAnswer, Unanswered> {
    let mut response = match http.execute(request).await {
        Ok(response) => response,
        Err(error) => {
            return Err(match untrusted(&error) {
                Some(reason) => Unanswered::Untrusted { reason },
                None => Unanswered::Lost {
                    reason: reason(error),
                },
            });
        }
    };
    on_headers(response.headers());
    let status = response.status().as_u16();
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= max_bytes => {
                body.extend_from_slice(&chunk)
            }
            Ok(Some(_)) => return Err(Unanswered::TooLong { status }),
            Ok(None) => break,
            Err(error) => {
                return Err(Unanswered::Lost {
                    reason: reason(error),
                });
            }
        }
    }
    Ok(RawAnswer {
        status,
        headers: std::mem::take(response.headers_mut()),
        body,
    })
}

/// By how much the other side's clock is ahead of ours, by the `Date` of an answer that is
/// arriving.
pub(super) fn skew(headers: &HeaderMap, clock: &Clock) -> Option<TimeDelta> {
    let date = headers.get("date")?.to_str().ok()?;
    let date = DateTime::parse_from_rfc2822(date).ok()?;
    Some(date.to_utc() - clock.now())
}

/// Signatures are valid for 15 minutes around the gateway's time; a few are worth a word.
fn is_worth_telling(skew: &TimeDelta) -> bool {
    skew.abs() > TimeDelta::minutes(5)
}

/// The Host header as the HTTP library sends it: with the port unless it is the scheme's own.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn header(what: &'static str, value: &str) -> Result<HeaderValue, RequestFailure> {
    HeaderValue::from_str(value).map_err(|_| RequestFailure::BadHeader { what })
}

/// A header that HTTP libraries keep out of their logs.
fn secret_header(what: &'static str, value: &str) -> Result<HeaderValue, RequestFailure> {
    let mut value = header(what, value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why the other side is not who it should be, if that is what failed; asking again cannot help.
fn untrusted(error: &reqwest::Error) -> Option<String> {
    let mut cause: &dyn std::error::Error = error;
    loop {
        // An I/O error keeps what it wraps from `source`.
        if let Some(inner) = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            cause = inner;
        } else {
            cause = cause.source()?;
        }
        if let Some(rustls::Error::InvalidCertificate(reason)) = cause.downcast_ref() {
            return Some(reason.to_string());
        }
    }
}

/// The innermost cause in words: what lies around it repeats the URL.
pub(crate) fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() {
            "the connection timed out"
        } else {
            "the request timed out"
        }
        .to_owned();
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
