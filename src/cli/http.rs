//! Sends reports about a job to servers other than the registry, and warns of plain HTTP.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Certificate, Method, StatusCode, Url};

use super::exit::{Exit, Failure};
use super::proxy;
use crate::registry::{client_builder, reason};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;
/// Doubles after each attempt.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// A client for reports. It uses the proxies of the environment.
#[derive(Debug, Clone)]
pub(super) struct Http(reqwest::Client);

/// Why a report was not accepted, without the address, which may be a secret.
#[derive(Debug)]
pub(super) struct NotTaken(String);

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Http {
    pub(super) fn new(certificates: Vec<Certificate>) -> Result<Http, Failure> {
        proxy::check()?;
        client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .tls_certs_merge(certificates)
            .build()
            .map(Http)
            .map_err(|error| Failure::new(Exit::Unexpected, error))
    }

    /// Sends a POST, with a few attempts.
    pub(super) async fn post(
        &self,
        url: &Url,
        content_type: &'static str,
        authorization: Option<&HeaderValue>,
        body: String,
    ) -> Result<(), NotTaken> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(content_type));
        if let Some(authorization) = authorization {
            headers.insert("authorization", authorization.clone());
        }
        let mut delay = FIRST_DELAY;
        for _ in 1..ATTEMPTS {
            match self.attempt(url, &headers, &body).await {
                Err((_, true)) => tokio::time::sleep(delay).await,
                ended => return ended.map_err(|(error, _)| error),
            }
            delay *= 2;
        }
        let last = self.attempt(url, &headers, &body).await;
        last.map_err(|(error, _)| error)
    }

    /// Sends a request and returns the status of the response. The body is not read:
    /// it may quote the address.
    #[expect(
        clippy::disallowed_methods,
        reason = "a report is not a request to the registry: not paced, not signed, not counted"
    )]
    pub(super) async fn exchange(&self, request: reqwest::Request) -> Result<StatusCode, NotTaken> {
        match self.0.execute(request).await {
            Ok(response) => Ok(response.status()),
            Err(error) => Err(NotTaken(format!("no response: {}", reason(error)))),
        }
    }

    /// One attempt; the error shows whether a retry may help.
    async fn attempt(
        &self,
        url: &Url,
        headers: &HeaderMap,
        body: &str,
    ) -> Result<(), (NotTaken, bool)> {
        let mut request = reqwest::Request::new(Method::POST, url.clone());
        *request.headers_mut() = headers.clone();
        *request.body_mut() = Some(body.to_owned().into());
        let status = self
            .exchange(request)
            .await
            .map_err(|error| (error, true))?;
        if status.is_success() {
            return Ok(());
        }
        let is_passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        Err((
            NotTaken(format!("the response is HTTP {}", status.as_u16())),
            is_passing,
        ))
    }
}

/// Plain HTTP is for emulators. Rejecting it would need an exception for each kind of private
/// network, such as that of a compose file.
pub(super) fn warn_of_clear_text(endpoint: &Url) {
    let host = endpoint.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    // Link-local addresses belong to services of the machine.
    let stays_here = |address| match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    };
    let is_ours = host == "localhost" || address.is_ok_and(stays_here);
    if endpoint.scheme() == "http" && !is_ours {
        tracing::warn!(
            "the endpoint {endpoint} uses plain HTTP: others in the network can read the requests, \
                         including tokens and passwords"
        );
    }
}
