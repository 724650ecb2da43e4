//! Sends reports about a job to servers other than the registry.

use std::fmt;
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
