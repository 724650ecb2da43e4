//! Sends every request: waits for the pace, signs, sends, retries, decodes, and describes failures.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::MAX_ANSWER_BYTES;
use super::credentials::{self, Credentials, PasswordLogin};
use super::error::{
    Malformed, RegistryError, RequestFailure, StatusFailure, TooLarge, is_retryable,
};
use super::expiring::{Expiring, InUse, Issued};
use super::gate::{Entry, Gate, Pass};
use super::http::{self, AnswerMemory, Limits, RawAnswer, Reservation, Unanswered};
use super::meter::RequestMeter;
use super::pace::{Pace, PaceNow, Permit};
use super::retry::{self, RetryPolicy};
use super::signature::{self, RequestToSign, SigningKey};
use crate::activity::{Activity, InProgress};
use crate::clock::Clock;
use crate::run::RequestKind;

/// Timeouts, retries and limits.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// Timeout for opening a connection.
    pub connect_timeout: Duration,
    /// Timeout of one attempt, from the start of the connection to the last byte of the answer.
    pub request_timeout: Duration,
    /// When to retry.
    pub retry: RetryPolicy,
    /// Maximum number of concurrent requests.
    pub max_in_flight: usize,
    /// Maximum number of requests started per second; `None` for no maximum.
    pub max_requests_per_second: Option<f64>,
    /// Trusted certificate authorities in addition to those of the system.
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

/// Larger answers are decoded on a separate thread, because decoding them takes milliseconds.
const MAX_INLINE_BYTES: usize = 100_000;
/// Time between two warnings about retries: enough to see the cause, without a flood.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// How often one request is sent with another token or key after a refusal. Reached only if all of
/// them work for other requests.
const MAX_REFUSALS: u32 = 50;

/// A connection to one gateway. Clones share everything.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    shared: Arc<Shared>,
    meter: Arc<RequestMeter>,
    activity: Activity,
    /// Not shared with other clients: it is released when this client's answers are stored, and no other
    /// client must wait for that.
    memory: Arc<AnswerMemory>,
}

/// State that the instances of a project share.
struct Shared {
    http: reqwest::Client,
    endpoint: Url,
    project_id: String,
    credentials: Credentials,
    /// The token of an IAM user.
    token: Expiring<SecretString>,
    settings: TransportSettings,
    pace: Pace,
    gate: Gate,
    clock: Clock,
    clock_skew: StdMutex<Option<TimeDelta>>,
    /// When a retry was last logged as a warning.
    retry_shown_at: StdMutex<Option<Instant>>,
    /// The activity of all clients: each may wait for a token, probe or request of another.
    activity: Activity,
}

impl Shared {
    /// Whether a retry is logged as a warning: the first one, and then at most one in each interval.
    fn is_retry_shown(&self) -> bool {
        let now = Instant::now();
        let mut shown_at = self
            .retry_shown_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_shown = shown_at.is_none_or(|at| now.duration_since(at) >= RETRY_INTERVAL);
        if is_shown {
            *shown_at = Some(now);
        }
        is_shown
    }
}

/// A GET request to the endpoint.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) kind: RequestKind,
    /// The percent-encoded path as it is sent.
    pub(super) path: &'a str,
    /// Decoded names and values.
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Called when the request may start, which can be long after it was queued. Once a request has been
    /// sent, its retries do not depend on this.
    pub(super) is_wanted: &'a (dyn Fn() -> bool + Sync),
    /// The name of the answer in messages.
    pub(super) what: &'static str,
    pub(super) max_bytes: usize,
}

/// The credentials of one request to the gateway.
struct Proof {
    secret: ProofSecret,
    /// A different number for each secret.
    generation: u64,
}

enum ProofSecret {
    Token(Arc<SecretString>),
    Key(Arc<SigningKey>),
}

/// The result of one attempt.
enum Attempt {
    Answer(RawAnswer),
    Refused {
        failure: StatusFailure,
        retry_after: Option<Duration>,
    },
    Lost {
        failure: RequestFailure,
    },
    /// It was not sent: its token or key was replaced while it waited.
    Outdated,
}

impl From<InUse<SecretString>> for Proof {
    fn from(token: InUse<SecretString>) -> Proof {
        Proof {
            secret: ProofSecret::Token(token.secret),
            generation: token.generation,
        }
    }
}

impl From<InUse<SigningKey>> for Proof {
    fn from(key: InUse<SigningKey>) -> Proof {
        Proof {
            secret: ProofSecret::Key(key.secret),
            generation: key.generation,
        }
    }
}

struct Outgoing<'a> {
    kind: RequestKind,
    method: Method,
    url: Url,
    body: Option<Vec<u8>>,
    authenticate: Option<&'a Call<'a>>,
    what: &'static str,
    max_bytes: usize,
}

impl Transport {
    pub(super) fn new(
        endpoint: Url,
        project_id: String,
        credentials: Credentials,
        settings: TransportSettings,
        clock: Clock,
    ) -> Result<Transport, reqwest::Error> {
        let http = http::client_builder()
            .connect_timeout(settings.connect_timeout)
            .tls_certs_merge(settings.ca_certificates.iter().cloned())
            .build()?;
        let pace = Pace::new(
            settings.max_requests_per_second,
            settings.max_in_flight,
            settings.retry.max_delay,
        );
        // A token that the user supplied cannot be replaced, and its refusal locks nothing.
        let probes = !matches!(credentials, Credentials::Token(_));
        Ok(Transport {
            shared: Arc::new(Shared {
                http,
                endpoint,
                project_id,
                credentials,
                token: Expiring::default(),
                settings,
                pace,
                gate: Gate::new(probes),
                clock,
                clock_skew: StdMutex::default(),
                retry_shown_at: StdMutex::default(),
                activity: Activity::default(),
            }),
            meter: Arc::default(),
            activity: Activity::default(),
            memory: Arc::new(AnswerMemory::new()),
        })
    }

    /// The same connection with a separate request counter.
    pub(super) fn with_own_meter(&self) -> Transport {
        Transport {
            shared: Arc::clone(&self.shared),
            meter: Arc::default(),
            activity: Activity::default(),
            memory: Arc::new(AnswerMemory::new()),
        }
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Until when requests of this client may have to wait for shared state: a pause of the pace, or a
    /// request of another client.
    pub(super) fn held_up_until(&self) -> Option<Instant> {
        let Shared { pace, activity, .. } = &*self.shared;
        pace.now().not_before.max(activity.quiet_since())
    }

    /// Registers a request or a planned delay with the watchdogs.
    fn begin(&self, limit: Duration) -> [InProgress; 2] {
        [&self.activity, &self.shared.activity].map(|activity| activity.begin(limit))
    }

    pub(super) fn meter(&self) -> &Arc<RequestMeter> {
        &self.meter
    }

    /// How far the server's clock is ahead of ours, according to the `Date` of the latest answer; `None`
    /// before the first answer. Precise to a second, like the header.
    pub(super) fn clock_skew(&self) -> Option<TimeDelta> {
        let skew = self.shared.clock_skew.lock();
        *skew.unwrap_or_else(PoisonError::into_inner)
    }

    fn note_date(&self, headers: &HeaderMap) {
        if let Some(skew) = http::skew(headers, &self.shared.clock) {
            let noted = self.shared.clock_skew.lock();
            *noted.unwrap_or_else(PoisonError::into_inner) = Some(skew);
        }
    }

    pub(super) fn pace(&self) -> PaceNow {
        self.shared.pace.now()
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.shared.settings.max_in_flight
    }

    /// Sends a GET and returns the body of a 2xx answer, decoded by `decode`. If there is a function
    /// `weigh`, it returns the size of the decoded value, and this many bytes are reserved.
    ///
    /// A request is retried, up to the policy's number of attempts, after 408, 425, 500, 502, 503,
    /// 504, no answer, and malformed 2xx answers. A 429 does not count as an attempt: the request is
    /// retried for as long as the policy allows. A 401 for a token or temporary key that has worked
    /// before does not count either: the token or key is replaced. Any other 401 ends all requests,
    /// because five failed signatures in a row lock a key.
    pub(super) async fn get<T: Send + 'static>(
        &self,
        call: Call<'_>,
        decode: impl Fn(&[u8]) -> Result<T, RequestFailure> + Clone + Send + 'static,
        weigh: Option<fn(&T) -> usize>,
    ) -> Result<(T, Reservation), RegistryError> {
        let outgoing = Outgoing {
            kind: call.kind,
            method: Method::GET,
            url: self.url(&call),
            body: None,
            authenticate: Some(&call),
            what: call.what,
            max_bytes: call.max_bytes,
        };
        // Boxed because the future is large, and would otherwise be part of each caller's future.
        Box::pin(self.send(&outgoing, move |answer| decode(&answer.body), weigh)).await
    }

    /// Requests the endpoint's root without credentials; any answer is a success.
    pub(super) async fn reach(&self) -> Result<(), RegistryError> {
        let mut url = self.shared.endpoint.clone();
        url.set_path("/");
        let outgoing = Outgoing {
            kind: RequestKind::Instance,
            method: Method::GET,
            url,
            body: None,
            authenticate: None,
            what: "the answer",
            max_bytes: MAX_ANSWER_BYTES,
        };
        match self.send(&outgoing, |_| Ok(()), None).await {
            Err(error) if error.status().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    async fn send<T: Send + 'static>(
        &self,
        outgoing: &Outgoing<'_>,
        decode: impl Fn(&RawAnswer) -> Result<T, RequestFailure> + Clone + Send + 'static,
        weigh: Option<fn(&T) -> usize>,
    ) -> Result<(T, Reservation), RegistryError> {
        let policy = &self.shared.settings.retry;
        let begin = Instant::now();
        let mut sent = 0;
        let mut failed_attempts = 0;
        let mut refusals = 0;
        let mut throttled_since: Option<Instant> = None;
        let fail = |attempts, failure| RegistryError {
            request: format!("{} {}", outgoing.method, outgoing.url),
            attempts,
            elapsed: begin.elapsed(),
            failure,
        };
        loop {
            let proof = match outgoing.authenticate {
                Some(_) => {
                    if let Some(failure) = self.shared.gate.refusal() {
                        return Err(fail(sent, failure));
                    }
                    Some(self.current_proof().await?)
                }
                None => None,
            };
            let (failure, retry_after) = match self.attempt(outgoing, proof.as_ref(), sent).await {
                Ok(Attempt::Answer(answer)) => {
                    match self.decoded(answer, decode.clone(), weigh).await {
                        Ok(decoded) => return Ok(decoded),
                        // Retried like a 502: the cause may be a proxy.
                        Err(failure @ RequestFailure::Malformed(_)) => (failure, None),
                        Err(failure) => return Err(fail(sent + 1, failure)),
                    }
                }
                Ok(Attempt::Outdated) => continue,
                Ok(Attempt::Refused { failure, .. }) if failure.status == 401 => {
                    sent += 1;
                    refusals += 1;
                    let is_final = outgoing.authenticate.is_none()
                        || self.shared.gate.refusal().is_some()
                        || refusals == MAX_REFUSALS;
                    if is_final {
                        return Err(fail(sent, failure.into()));
                    }
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
            if status.is_some_and(|status| !is_retryable(status)) {
                return Err(fail(sent, failure));
            }
            if status == Some(429) && outgoing.authenticate.is_some() {
                let since = *throttled_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= policy.throttled_patience {
                    return Err(fail(sent, failure));
                }
                tracing::debug!(kind = outgoing.kind.as_str(), attempts = sent, "{failure}");
                // The pace delays it together with all other requests.
                continue;
            }
            failed_attempts += 1;
            if failed_attempts >= policy.max_attempts {
                return Err(fail(sent, failure));
            }
            let delay = policy.delay(failed_attempts, fastrand::f64(), retry_after);
            let host = outgoing.url.host_str().unwrap_or_default();
            let text = format!(
                "{failure} ({} from {host}); trying again in {:.1} s, attempt {} of {}",
                outgoing.kind.as_str(),
                delay.as_secs_f64(),
                failed_attempts + 1,
                policy.max_attempts
            );
            match self.shared.is_retry_shown() {
                true => tracing::warn!("{text}"),
                false => tracing::debug!("{text}"),
            }
            let _delay = self.begin(delay);
            tokio::time::sleep(delay).await;
        }
    }

    /// Decodes an answer, and reserves memory for the result.
    async fn decoded<T: Send + 'static>(
        &self,
        mut answer: RawAnswer,
        decode: impl Fn(&RawAnswer) -> Result<T, RequestFailure> + Send + 'static,
        weigh: Option<fn(&T) -> usize>,
    ) -> Result<(T, Reservation), RequestFailure> {
        let Some(weigh) = weigh else {
            return Ok((decoded(answer, decode).await?, Reservation::default()));
        };
        let _decoding = self.memory.decoding().await;
        let large_body = answer.take_large();
        let decoded = decoded(answer, decode).await?;
        let reservation = self.memory.reserve(weigh(&decoded), large_body).await;
        Ok((decoded, reservation))
    }

    /// Waits until a request to the gateway may start; `None` if its token or key was replaced or
    /// has expired in the meantime, so that a refused one is not sent again.
    async fn admit(
        &self,
        kind: RequestKind,
        proof: Option<&Proof>,
    ) -> Result<Option<(Permit<'_>, Pass<'_>)>, RequestFailure> {
        let Shared { pace, gate, .. } = &*self.shared;
        let generation = proof.map_or(0, |proof| proof.generation);
        let turn = async || match kind {
            RequestKind::BuildHistory => pace.permit().await,
            // List pages, and the requests before them: histories depend on them.
            _ => pace.permit_first().await,
        };
        loop {
            let permit = tokio::select! {
                biased;
                failure = gate.closed() => return Err(failure),
                permit = turn() => permit,
            };
            let now = self.shared.clock.now();
            let is_usable = match &self.shared.credentials {
                Credentials::Token(_) | Credentials::Key(_) => true,
                Credentials::Password(_) => self.shared.token.is_usable(generation, now),
                Credentials::Temporary(source) => source.keys().is_usable(generation, now),
            };
            if !is_usable {
                return Ok(None);
            }
            match gate.enter(Instant::now(), now, generation) {
                Entry::Go(pass) => return Ok(Some((permit, pass))),
                Entry::Refused(failure) => return Err(failure),
                Entry::Wait => {
                    drop(permit);
                    // Until the probe ends, which has the timeout of a request.
                    gate.changed().await;
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
            // IAM is a different host, with about one request per day.
            None => None,
        };
        if sent_before > 0 {
            self.meter.retried();
        }
        let attempt = self.exchange(outgoing, proof).await;
        let Some((permit, pass)) = admitted else {
            return attempt;
        };
        match &attempt {
            // An answer that is too large was not read completely, but it is from the service.
            Ok(Attempt::Answer(_)) | Err(RequestFailure::TooLarge(_)) => {
                permit.answered();
                self.accept(pass, proof);
            }
            Ok(Attempt::Refused {
                failure,
                retry_after,
            }) if matches!(failure.status, 429 | 503) => {
                permit.refused(*retry_after, retry::quoted_limit(failure));
            }
            // The answer is from the service behind the gateway.
            Ok(Attempt::Refused { failure, .. })
                if failure.status != 401 && !failure.is_from_gateway() =>
            {
                permit.answered();
                // A 5xx does not prove that the credentials were checked.
                if (400..500).contains(&failure.status) {
                    self.accept(pass, proof);
                }
            }
            // The gate closes before another request can start.
            Ok(Attempt::Refused { failure, .. })
                if failure.status == 401 && !self.may_replace(proof, failure) =>
            {
                self.shared.gate.close(&failure.clone().into());
            }
            _ => {}
        }
        attempt
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
        let Shared { http, settings, .. } = &*self.shared;
        let _request = self.begin(settings.request_timeout);
        let limits = Limits {
            timeout: settings.request_timeout,
            max_bytes: outgoing.max_bytes,
            memory: &self.memory,
        };
        let note_date = |headers: &HeaderMap| self.note_date(headers);
        let answer = match http::exchange(http, request, limits, note_date).await {
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
            Err(Unanswered::TooLarge { status, size }) => {
                self.meter.answered(outgoing.kind, Some(status));
                let (what, limit) = (outgoing.what, outgoing.max_bytes);
                return Err(match size {
                    Some(size) => TooLarge::exactly(what, size, limit, "bytes").into(),
                    None => TooLarge::more_than(what, limit, "bytes").into(),
                });
            }
        };
        self.meter.answered(outgoing.kind, Some(answer.status));
        if (200..300).contains(&answer.status) {
            return Ok(Attempt::Answer(answer));
        }
        Ok(self.refused(&answer, proof))
    }

    /// Reads an answer that is not a success.
    fn refused(&self, answer: &RawAnswer, proof: Option<&Proof>) -> Attempt {
        let header = |name: &str| {
            let value = answer.headers.get(name);
            value.and_then(|value| value.to_str().ok())
        };
        let request_id = header("x-request-id").map(str::to_owned);
        let secrets = self.secrets(proof);
        let mut failure = StatusFailure::read(answer.status, request_id, &answer.body, &secrets);
        let is_signed = proof.is_some_and(|proof| matches!(proof.secret, ProofSecret::Key(_)));
        // Tokens do not depend on our clock.
        if answer.status == 401 && is_signed {
            failure.clock_skew = self.clock_skew().filter(is_significant);
        }
        Attempt::Refused {
            failure,
            retry_after: header("retry-after")
                .and_then(|value| retry::retry_after(value, self.shared.clock.now())),
        }
    }

    /// Secrets that a request can contain and that must not be in a message.
    fn secrets<'a>(&'a self, proof: Option<&'a Proof>) -> Vec<&'a str> {
        let password = match &self.shared.credentials {
            Credentials::Password(login) => Some(&login.password),
            Credentials::Token(_) | Credentials::Key(_) | Credentials::Temporary(_) => None,
        };
        let carried = match proof.map(|proof| &proof.secret) {
            None => [None, None],
            Some(ProofSecret::Token(token)) => [Some(&**token), None],
            Some(ProofSecret::Key(key)) => [Some(&key.secret_key), key.security_token.as_ref()],
        };
        carried
            .into_iter()
            .chain([password])
            .flatten()
            .map(|secret| secret.expose_secret())
            .collect()
    }

    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.shared.endpoint.clone();
        // The path is encoded already, and the URL type leaves valid escapes as they are.
        url.set_path(&format!(
            "{}{}",
            self.shared.endpoint.path().trim_end_matches('/'),
            call.path
        ));
        let query = signature::canonical_query(call.query);
        url.set_query((!query.is_empty()).then_some(&query));
        url
    }

    /// Adds the headers for authentication. `url` is the URL as it is sent.
    fn authenticate(
        &self,
        headers: &mut HeaderMap,
        url: &Url,
        call: &Call<'_>,
        proof: &Proof,
    ) -> Result<(), RequestFailure> {
        let key = match &proof.secret {
            ProofSecret::Token(token) => {
                headers.insert(
                    "x-auth-token",
                    secret_header("token", token.expose_secret())?,
                );
                return Ok(());
            }
            ProofSecret::Key(key) => key,
        };
        let host = host(url);
        headers.insert(
            "x-project-id",
            header("project id", &self.shared.project_id)?,
        );
        let signed = signature::sign(
            &RequestToSign {
                method: "GET",
                path: url.path(),
                query: call.query,
                headers: &[("host", &host), ("x-project-id", &self.shared.project_id)],
                body: &[],
            },
            key,
            self.shared.clock.now(),
        );
        for (name, value) in signed.iter() {
            headers.insert(
                HeaderName::from_static(name),
                secret_header("access key or security token", value)?,
            );
        }
        Ok(())
    }

    /// Records that the gateway accepted the credentials of a request.
    fn accept(&self, pass: Pass<'_>, proof: Option<&Proof>) {
        pass.accepted();
        let generation = proof.map_or(0, |proof| proof.generation);
        match &self.shared.credentials {
            Credentials::Token(_) | Credentials::Key(_) => {}
            Credentials::Password(_) => self.shared.token.accept(generation),
            Credentials::Temporary(source) => source.keys().accept(generation),
        }
    }

    /// Whether a request that the gateway refused may be repeated with another token or key.
    fn may_replace(&self, proof: Option<&Proof>, failure: &StatusFailure) -> bool {
        let generation = proof.map_or(0, |proof| proof.generation);
        match &self.shared.credentials {
            Credentials::Token(_) | Credentials::Key(_) => false,
            Credentials::Password(_) => self.shared.token.refuse(generation, failure),
            Credentials::Temporary(source) => source.keys().refuse(generation, failure),
        }
    }

    /// The credentials for the next request. A token or temporary key is fetched if there is none, and
    /// renewed before it expires.
    async fn current_proof(&self) -> Result<Proof, RegistryError> {
        let current = match &self.shared.credentials {
            Credentials::Token(token) => {
                return Ok(Proof {
                    secret: ProofSecret::Token(Arc::new(token.clone())),
                    generation: 0,
                });
            }
            Credentials::Key(key) => {
                return Ok(Proof {
                    secret: ProofSecret::Key(Arc::new(key.clone())),
                    generation: 0,
                });
            }
            Credentials::Password(login) => self.current_token(login).await.map(Proof::from),
            Credentials::Temporary(source) => {
                let current = Box::pin(source.current(&self.shared.clock)).await;
                current.map(Proof::from)
            }
        };
        if let Err(error) = &current
            && error.is_refused_login()
        {
            // All attempts have failed: fail the waiting requests too, instead of repeating the attempts for each.
            self.shared.gate.close(&error.failure);
        }
        current
    }

    async fn current_token(
        &self,
        login: &PasswordLogin,
    ) -> Result<InUse<SecretString>, RegistryError> {
        let Shared {
            token,
            settings,
            clock,
            ..
        } = &*self.shared;
        let attempt = settings.request_timeout + settings.retry.max_delay;
        let patience = attempt * settings.retry.max_attempts;
        let issue = async || {
            // The credentials were refused while this caller was waiting.
            if let Some(failure) = self.shared.gate.refusal() {
                return Err(RegistryError {
                    request: format!("POST {}", login.url()),
                    attempts: 0,
                    elapsed: Duration::ZERO,
                    failure,
                });
            }
            Box::pin(self.login(login)).await.map_err(|mut error| {
                if let RequestFailure::Status(failure) = error.failure {
                    let is_refusal = !is_retryable(failure.status);
                    error.failure = RequestFailure::Login(failure);
                    if is_refusal {
                        // Repeated wrong passwords lock an account.
                        self.shared.gate.close(&error.failure);
                    }
                }
                error
            })
        };
        token.current(clock, patience, issue).await
    }

    /// Fetches a token (api-iam iam_30_0001). The catalog of services is left out of the answer.
    async fn login(&self, login: &PasswordLogin) -> Result<Issued<SecretString>, RegistryError> {
        let outgoing = Outgoing {
            kind: RequestKind::Token,
            method: Method::POST,
            url: login.url(),
            body: Some(login.body().to_string().into_bytes()),
            authenticate: None,
            what: "the answer",
            max_bytes: MAX_ANSWER_BYTES,
        };
        let read_token = |answer: &RawAnswer| {
            let token = answer.headers.get("x-subject-token");
            let token = token.and_then(|token| token.to_str().ok());
            let token =
                token.ok_or_else(|| Malformed::new("the answer has no X-Subject-Token header"))?;
            Ok((SecretString::from(token), answer.body.clone()))
        };
        let ((token, body), _) = self.send(&outgoing, read_token, None).await?;
        let (now, skew) = (
            self.shared.clock.now(),
            self.clock_skew().unwrap_or_default(),
        );
        Ok(credentials::issued_token(token, &body, now, skew))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("endpoint", &self.endpoint.as_str())
            .field("credentials", &self.credentials)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Decodes an answer, on a separate thread if it is large.
async fn decoded<T: Send + 'static>(
    answer: RawAnswer,
    decode: impl Fn(&RawAnswer) -> Result<T, RequestFailure> + Send + 'static,
) -> Result<T, RequestFailure> {
    let is_small = answer.body.len() < MAX_INLINE_BYTES;
    let decode = move || decode(&answer);
    if is_small {
        return decode();
    }
    match tokio::task::spawn_blocking(decode).await {
        Ok(decoded) => decoded,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // It is cancelled only when the runtime shuts down; then nothing waits for the answer.
            Err(_) => Err(RequestFailure::Unwanted),
        },
    }
}

/// Signatures are valid for 15 minutes before and after the gateway's time. A smaller difference is
/// mentioned too, from five minutes on.
fn is_significant(skew: &TimeDelta) -> bool {
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

/// A header that HTTP libraries do not log.
fn secret_header(what: &'static str, value: &str) -> Result<HeaderValue, RequestFailure> {
    let mut value = header(what, value)?;
    value.set_sensitive(true);
    Ok(value)
}
